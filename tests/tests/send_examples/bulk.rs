//! Many messages: a line for each, and a summary.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use smtp_tests::receiver::Options;

use super::run::{fifo, finish, message_file, run, says_lines, send, send_data};
use super::server::{Peer, Script, receiver, server, servers};
use super::{Adapter, MESSAGE, ONE};

for_both!(
    bulk_prints_a_line_for_each_message_and_a_summary,
    a_summary_says_no_more_than_holds_for_all,
    the_wait_for_replies_is_bounded_in_overlap_too,
    one_bad_message_does_not_stop_the_others,
    a_message_that_the_server_refuses_is_one_line,
    what_is_wrong_for_all_has_a_line_for_each,
    partly_delivered_is_counted_apart,
    doubt_and_what_comes_after_it_are_counted,
    a_message_that_ends_the_session_does_not_stop_the_others,
);

fn bulk_prints_a_line_for_each_message_and_a_summary(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let (one, two) = (
        message_file("one", b"Subject: 1\r\n\r\n"),
        message_file("two", b"Subject: 2\r\n\r\n"),
    );
    let mut command = send(adapter);
    command.args([
        "--server",
        &address,
        "--tls",
        "none",
        "--from",
        "a@b",
        "--to",
        "bob@b",
        "--to",
        "refused@b",
    ]);
    command
        .args(["--json", "--overlap", "--repeat", "3", "--data"])
        .arg(&one)
        .arg("--data")
        .arg(&two);
    let run = finish(&mut command, b"");
    assert_eq!(run.code, 69);
    let lines = run.lines();
    let (summary, messages) = lines.split_last().unwrap();
    assert_eq!(messages.len(), 6);
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(
            (&message["message"], &message["outcome"]),
            (&(index + 1).into(), &"partial".into())
        );
        assert_eq!(message["recipients"][1]["code"], 550);
    }
    assert_eq!(
        (&summary["messages"], &summary["outcome"]),
        (&6.into(), &"partial".into()),
        "{summary}"
    );
    // Greeting, EHLO, the first envelope, and one for each message.
    assert_eq!(
        (&summary["round_trips"], &summary["overlap_broken"]),
        (&9.into(), &false.into()),
        "{summary}"
    );
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
    let stored = receiver.wait_for_messages(6, Duration::from_secs(5));
    let subjects: Vec<_> = stored.iter().map(|stored| stored.content()[9]).collect();
    assert_eq!(subjects, *b"121212");
    let _ = (std::fs::remove_file(one), std::fs::remove_file(two));
}

fn a_summary_says_no_more_than_holds_for_all(adapter: Adapter) {
    // Permanent and temporary.
    for to in [["refused@b", "greylisted@b"], ["greylisted@b", "refused@b"]] {
        let run = run(adapter, "mixed", None, &to, &["--tls", "none"]);
        run.is(75, "temporary", Some("rcpt"))
            .says("said 450 ")
            .says("(temporary, try again later)");
    }
    // Permanent and not attempted: another session may send to the second domain.
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING", "LIMITS RCPTDOMAINMAX=1"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n550 5.1.1 no\r\n554 nobody\r\n");
        peer.hear_the_end();
    });
    let run = run(
        adapter,
        "domains",
        Some(address),
        &["bob@one.example", "carol@two.example"],
        &[],
    );
    run.is(75, "temporary", Some("mail"))
        .says("(not attempted, safe to send again)");
    assert_eq!(run.recipients("outcome"), ["permanent", "temporary"]);
    assert_eq!(run.recipients("code"), [550.into(), Value::Null]);
    // Permanent and in doubt.
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n");
        peer.hear(".\r\n");
    });
    let run = self::run(
        adapter,
        "doubt",
        Some(address),
        &["bob@example.net", "carol@example.net"],
        &[],
    );
    run.is(75, "temporary", Some("eom"))
        .maybe_delivered(true)
        .says("(in doubt, ");
    assert_eq!(run.recipients("outcome"), ["permanent", "temporary"]);
}

fn one_bad_message_does_not_stop_the_others(adapter: Adapter) {
    let start = || {
        receiver(Options {
            max_size: 1_000,
            ..Options::default()
        })
    };
    let good = [1, 2, 3].map(|n| format!("Subject: {n}\r\n\r\n").into_bytes());
    let files = [0, 1, 2].map(|n| message_file(&format!("good-{n}"), &good[n]));
    let nul = message_file("nul", b"Subject: \0\r\n\r\n");
    let big = message_file("big", &b"Subject: long\r\n".repeat(100));
    let data = [
        Path::new("/does/not/exist"),
        &files[0],
        &nul,
        &big,
        &files[1],
        &std::env::temp_dir(),
        &files[2],
        Path::new("/does/not/exist"),
    ];
    let (receiver, address) = start();
    let run = finish(&mut send_data(adapter, &data, &address, &ONE, &[]), b"");
    run.counts(&[("delivered", 3), ("refused", 5)]);
    assert_eq!((run.code, &run.json["outcome"]), (69, &"partial".into()));
    let lines = run.lines();
    let of = |key: &str| -> Vec<_> { lines[..8].iter().map(|line| line[key].clone()).collect() };
    let (bad, good_one) = ("refused", "success");
    assert_eq!(
        of("outcome"),
        [bad, good_one, bad, bad, good_one, bad, good_one, bad]
    );
    assert_eq!(
        [0, 2, 3, 5, 7].map(|n| of("stage")[n].clone()),
        ["local", "local", "mail", "local", "local"]
    );
    // The server's own records.
    let stored = receiver.wait_for_messages(3, Duration::from_secs(5));
    assert_eq!(stored.len(), 3);
    for (stored, good) in stored.iter().zip(&good) {
        assert_eq!(stored.content(), *good);
    }
    assert!(run.stderr.contains("send: message 1: "), "{}", run.stderr);
    // The same in words.
    let (_receiver, address) = start();
    says_lines(
        send_data(adapter, &data, &address, &ONE, &[]),
        69,
        &[
            "message 1: refused: local: /does/not/exist: ",
            "message 2: delivered: 250 2.0.0 Ok",
            "message 3: refused: local: ",
            "message 4: refused: mail: ",
            "message 5: delivered: 250 2.0.0 Ok",
            "message 6: refused: local: ",
            "message 7: delivered: 250 2.0.0 Ok",
            "message 8: refused: local: /does/not/exist: ",
            "3 of 8 delivered, 5 refused, ",
        ],
    );
    for file in files.iter().chain([&nul, &big]) {
        let _ = std::fs::remove_file(file);
    }
}

fn a_message_that_the_server_refuses_is_one_line(adapter: Adapter) {
    let serve = || {
        server(|mut peer| {
            peer.take_message();
            for reply in ["250 ok", "554 5.6.0 not this one", "451 4.3.0 later"] {
                peer.say(&format!("{reply}\r\n"));
                if !reply.starts_with("250") {
                    peer.hear("RSET");
                    peer.say("250 ok\r\n");
                }
                peer.hear("DATA");
                peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
                peer.hear(".\r\n");
            }
            peer.say("250 ok\r\n");
            peer.hear_the_end();
        })
    };
    let file = message_file("refused", MESSAGE);
    let command = || send_data(adapter, &[&file], &serve(), &ONE, &["--repeat", "4"]);
    let run = finish(&mut command(), b"");
    run.counts(&[("delivered", 2), ("refused", 1), ("deferred", 1)]);
    assert_eq!((run.code, &run.json["outcome"]), (75, &"partial".into()));
    let outcomes: Vec<_> = run.lines()[..4]
        .iter()
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["success", "permanent", "temporary", "success"]);
    says_lines(
        command(),
        75,
        &[
            "message 1: delivered: 250 ok",
            "message 2: refused: eom: server said 554 5.6.0 not this one",
            "message 3: deferred: eom: server said 451 4.3.0 later",
            "message 4: delivered: 250 ok",
            "2 of 4 delivered, 1 refused, 1 deferred, ",
        ],
    );
    let _ = std::fs::remove_file(file);
}

fn what_is_wrong_for_all_has_a_line_for_each(adapter: Adapter) {
    let file = message_file("all", MESSAGE);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let nobody = nobody.unwrap().to_string();
    let bad = Path::new("/does/not/exist");
    for (to, server, flags, outcomes, code) in [
        (&["bob@"][..], "127.0.0.1:1", &[][..], ["refused"; 4], 65),
        (&ONE, "127.0.0.1:1", &["--param", "a b"], ["refused"; 4], 65),
        (&ONE, "127.0.0.1:1", &["--ca-file", "/"], ["refused"; 4], 65),
        (
            &ONE,
            &nobody,
            &[],
            ["temporary", "refused", "temporary", "refused"],
            75,
        ),
    ] {
        let flags = [flags, &["--repeat", "2"]].concat();
        let run = finish(
            &mut send_data(adapter, &[&file, bad], server, to, &flags),
            b"",
        );
        let lines = run.lines();
        assert_eq!(lines.len(), 5, "{}", run.stdout);
        assert!(
            lines[..4]
                .iter()
                .map(|line| &line["outcome"])
                .eq(outcomes.iter()),
            "{}",
            run.stdout
        );
        assert_eq!(run.code, code);
        let refused = outcomes.iter().filter(|outcome| **outcome == "refused");
        let refused = refused.count() as u64;
        run.counts(&[("refused", refused), ("deferred", 4 - refused)]);
    }
    let _ = std::fs::remove_file(file);
}

fn partly_delivered_is_counted_apart(adapter: Adapter) {
    let file = message_file("partly", MESSAGE);
    let to = ["bob@example.net", "refused@example.net", "refused@b"];
    let (_receiver, address) = receiver(Options::default());
    let command = || send_data(adapter, &[&file, &file], &address, &to, &[]);
    let run = finish(&mut command(), b"");
    run.counts(&[("partly_delivered", 2)]);
    assert_eq!((run.code, &run.json["outcome"]), (69, &"partial".into()));
    let line = "partly delivered: bob@example.net: 250 2.0.0 Ok: stored as";
    says_lines(
        command(),
        69,
        &[
            &format!("message 1: {line} 0003; refused@example.net: rcpt: "),
            &format!("message 2: {line} 0004; refused@example.net: rcpt: "),
            "0 of 2 delivered, 2 partly delivered, ",
        ],
    );
    let _ = std::fs::remove_file(file);
}

fn doubt_and_what_comes_after_it_are_counted(adapter: Adapter) {
    let serve = || {
        server(|mut peer| {
            peer.take_message();
            peer.say("250 ok\r\n");
            peer.hear("DATA");
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
            peer.hear(".\r\n");
        })
    };
    let file = message_file("doubt", MESSAGE);
    let command = || send_data(adapter, &[&file], &serve(), &ONE, &["--repeat", "4"]);
    let run = finish(&mut command(), b"");
    run.counts(&[("delivered", 1), ("in_doubt", 1), ("not_attempted", 2)]);
    assert_eq!((run.code, &run.json["outcome"]), (75, &"partial".into()));
    let lines = run.lines();
    assert_eq!(
        [0, 1, 2, 3].map(|n| &lines[n]["maybe_delivered"]),
        [false, true, false, false]
    );
    says_lines(
        command(),
        75,
        &[
            "message 1: delivered: 250 ok",
            "message 2: in doubt: eom: ",
            "message 3: not attempted: ",
            "message 4: not attempted: ",
            "1 of 4 delivered, 1 in doubt, 2 not attempted, ",
        ],
    );
    let _ = std::fs::remove_file(file);
}

/// By DATA, a body that was begun can only be ended or cut off. Here it must be cut off.
fn a_message_that_ends_the_session_does_not_stop_the_others(adapter: Adapter) {
    let take = |last: bool| -> Script {
        Box::new(move |mut peer: Peer| {
            peer.take_message();
            peer.say("250 ok\r\n");
            if !last {
                peer.hear("DATA");
                peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
            }
            peer.hear_the_end();
        })
    };
    let address = servers(vec![take(false), take(false), take(true)]);
    // Their octets are only seen while they are sent. The server does not take 8-bit messages.
    let bad = ["one", "two"].map(|name| fifo(name, "Subject: \u{e4}\r\n\r\n".as_bytes()));
    let good = message_file("good", MESSAGE);
    let data = [&good, &bad[0], &good, &bad[1], &good];
    let run = finish(&mut send_data(adapter, &data, &address, &ONE, &[]), b"");
    run.counts(&[("delivered", 3), ("refused", 2)]);
    let outcomes: Vec<_> = run.lines()[..5]
        .iter()
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(
        outcomes,
        ["success", "refused", "success", "refused", "success"],
        "{}",
        run.stdout
    );
    assert_eq!(run.code, 69);
    for file in bad.iter().chain([&good]) {
        let _ = std::fs::remove_file(file);
    }
}

/// One server answers the end of the data, but has lost the overlapping commands. The other answers nothing.
fn the_wait_for_replies_is_bounded_in_overlap_too(adapter: Adapter) {
    let file = message_file("overlap", MESSAGE);
    for (answers, counts) in [
        (true, [("delivered", 1), ("not_attempted", 2)]),
        (false, [("in_doubt", 1), ("not_attempted", 2)]),
    ] {
        let address = server(move |mut peer| {
            peer.take_message();
            // The next envelope has come with the end of this message.
            peer.hear("DATA");
            peer.say(if answers { "250 ok\r\n" } else { "" });
            peer.hear_the_end();
        });
        let flags = ["--overlap", "--repeat", "3", "--timeout-reply", "1.2"];
        let run = finish(
            &mut send_data(adapter, &[&file], &address, &ONE, &flags),
            b"",
        );
        // By default, the wait is 20 seconds for overlapping commands, and 10 minutes for the end of the data.
        assert!(
            run.stderr.contains("timed out after 1.2 s"),
            "{}",
            run.stderr
        );
        assert_eq!(run.code, 75, "{}", run.json);
        run.counts(&counts);
        assert_eq!(run.json["overlap_broken"], answers, "{}", run.json);
    }
    let _ = std::fs::remove_file(file);
}
