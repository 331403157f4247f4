//! The first commands that a new user tries.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;
use smtp_tests::receiver::{Options, Receiver};

use super::run::{finish, output, run, send};
use super::server::receiver;
use super::{Adapter, MESSAGE, ONE};

for_both!(
    without_arguments_it_shows_a_conversation,
    success_is_delivered_byte_for_byte,
    each_recipient_has_its_own_result,
    only_permanent_refusals_give_69,
    json_alone_forwards_the_sample,
    lmtp,
    nobody_listens,
    unix_sockets,
);

fn without_arguments_it_shows_a_conversation(adapter: Adapter) {
    let output = output(&mut send(adapter), b"");
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    for line in [
        "< 220 ",
        "> STARTTLS",
        "> MAIL FROM:<alice@example.org>",
        "> BDAT ",
        "> QUIT",
        "taken: 362 octets for bob@example.net",
    ] {
        assert!(
            stdout.lines().any(|l| l.starts_with(line)),
            "{line}: {stdout}"
        );
    }
}

fn success_is_delivered_byte_for_byte(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let run = run(
        adapter,
        "success",
        Some(address),
        &["bob@example.net", "carol@example.net"],
        &[],
    );
    run.is(0, "success", None).maybe_delivered(false);
    assert_eq!(run.json["tls"]["verified"], false);
    // Greeting, EHLO, STARTTLS, EHLO, envelope, body.
    assert_eq!(run.json["round_trips"], 6);
    assert_eq!(run.json["recipients"][1]["address"], "carol@example.net");
    assert_eq!(run.json["recipients"][1]["code"], 250);
    let stored = receiver.wait_for_messages(1, Duration::from_secs(5));
    assert_eq!(stored[0].content(), MESSAGE);
    assert_eq!(
        stored[0].forward_paths,
        ["bob@example.net", "carol@example.net"]
    );
}

fn each_recipient_has_its_own_result(adapter: Adapter) {
    let to = [
        "bob@example.net",
        "refused@example.net",
        "greylisted@example.net",
    ];
    let run = run(adapter, "partial", None, &to, &["--tls", "none"]);
    run.is(75, "partial", Some("rcpt"));
    let recipient = |index: usize, key: &str| run.json["recipients"][index][key].clone();
    assert_eq!(recipient(0, "outcome"), "success");
    assert_eq!(
        [
            recipient(1, "outcome"),
            recipient(1, "stage"),
            recipient(1, "enhanced")
        ],
        ["permanent", "rcpt", "5.1.1"]
    );
    assert_eq!(
        (recipient(1, "code"), recipient(2, "code")),
        (550.into(), 450.into())
    );
    assert_eq!(recipient(2, "outcome"), "temporary");
    // The exit code matches the words.
    run.says("2 of 3 recipients failed")
        .says("said 450 ")
        .says("(temporary, try again later)");
}

fn only_permanent_refusals_give_69(adapter: Adapter) {
    run(
        adapter,
        "perm",
        None,
        &["bob@example.net", "refused@example.net"],
        &[],
    )
    .is(69, "partial", Some("rcpt"));
    run(adapter, "all", None, &["refused@example.net"], &[]).is(69, "permanent", Some("rcpt"));
    run(adapter, "grey", None, &["greylisted@example.net"], &[]).is(75, "temporary", Some("rcpt"));
}

fn json_alone_forwards_the_sample(adapter: Adapter) {
    let run = finish(send(adapter).arg("--json"), b"");
    run.is(0, "success", None);
    assert!(!run.stdout.contains("MAIL FROM"), "{}", run.stdout);
}

fn lmtp(adapter: Adapter) {
    let to = [
        "bob@example.net",
        "refused@example.net",
        "carol@example.net",
    ];
    run(adapter, "lmtp", None, &to, &["--lmtp"]).is(69, "partial", Some("rcpt"));
    run(
        adapter,
        "lmtp25",
        Some("127.0.0.1:25".into()),
        &to,
        &["--lmtp"],
    )
    .is(65, "refused", Some("local"));
}

fn nobody_listens(adapter: Adapter) {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    run(adapter, "nobody", Some(address), &ONE, &[]).is(75, "temporary", Some("connect"));
}

fn unix_sockets(adapter: Adapter) {
    let listen = |lmtp| {
        let receiver = Receiver::start(Options {
            lmtp,
            unix: true,
            ..Options::default()
        });
        let receiver = receiver.unwrap();
        let path = receiver.socket_path().unwrap();
        (receiver, path)
    };
    let to = [
        "bob@example.net",
        "filtered@example.net",
        "refused@example.net",
        "carol@example.net",
    ];
    let (receiver, path) = listen(true);
    let socket = path.to_str().unwrap();
    for chunking in ["auto", "never"] {
        let flags = ["--unix", socket, "--lmtp", "--chunking", chunking];
        let run = run(adapter, "unix", None, &to, &flags);
        run.is(69, "partial", Some("eom"));
        let of = |key: &str| [0, 1, 2, 3].map(|index| run.json["recipients"][index][key].clone());
        assert_eq!(
            of("outcome"),
            ["success", "permanent", "permanent", "success"]
        );
        assert_eq!(
            of("stage"),
            [Value::Null, "eom".into(), "rcpt".into(), Value::Null]
        );
        let stored = receiver.messages().pop().unwrap();
        assert_eq!(
            stored.forward_paths,
            ["bob@example.net", "carol@example.net"]
        );
        assert_eq!(stored.content(), MESSAGE);
    }
    assert_eq!(receiver.messages().len(), 2);
    drop(receiver);
    // Nobody listens any more.
    run(adapter, "unix", None, &ONE, &["--unix", socket, "--lmtp"]).is(
        75,
        "temporary",
        Some("connect"),
    );
    // Only `--lmtp` makes it LMTP.
    let (receiver, path) = listen(false);
    let socket = path.to_str().unwrap();
    let run = run(
        adapter,
        "unix",
        None,
        &ONE,
        &["--unix", socket, "--repeat", "2"],
    );
    run.is_summary(2, 2);
    assert_eq!(receiver.messages().len(), 2);
    let arguments = [
        "--from", "a@b", "--to", "c@d", "--data", "x", "--server", "b", "--unix", socket,
    ];
    assert_eq!(
        output(send(adapter).args(arguments), b"").status.code(),
        Some(64)
    );
}
