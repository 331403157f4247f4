//! Parameters of extensions.

use std::time::Duration;

use smtp_tests::receiver::{Limits, Options};

use super::run::run;
use super::server::{receiver, server};
use super::{Adapter, MESSAGE, ONE};

for_both!(
    reports_are_asked_for,
    smtputf8,
    raw_parameters,
    all_or_nothing,
);

fn reports_are_asked_for(adapter: Adapter) {
    let to = ["bob@example.net", "carol@example.net"];
    let flags = [
        "--dsn-ret",
        "hdrs",
        "--dsn-envid",
        "QQ 3+4",
        "--dsn-notify",
        "success,failure",
        "--transcript",
    ];
    let with = |dsn| {
        let (receiver, address) = receiver(Options {
            dsn,
            ..Options::default()
        });
        let run = run(adapter, "dsn", Some(address), &to, &flags);
        run.is(0, "success", None);
        (
            run,
            receiver
                .wait_for_messages(1, Duration::from_secs(5))
                .remove(0),
        )
    };
    let (run, stored) = with(true);
    let parameters = format!("SIZE={} RET=HDRS ENVID=QQ+203+2B4", MESSAGE.len());
    run.line(&format!("> MAIL FROM:<alice@example.org> {parameters}"));
    run.line("> RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE");
    run.line("> RCPT TO:<carol@example.net> NOTIFY=SUCCESS,FAILURE");
    assert_eq!(stored.mail_parameters, parameters);
    assert_eq!(stored.rcpt_parameters, ["NOTIFY=SUCCESS,FAILURE"; 2]);
    // A parameter that is not offered is left out, and the message is still sent.
    let (run, stored) = with(false);
    run.line("> RCPT TO:<bob@example.net>");
    assert_eq!(stored.mail_parameters, format!("SIZE={}", MESSAGE.len()));
    assert_eq!(stored.rcpt_parameters, ["", ""]);
    for (flags, mail, rcpt) in [
        (["--dsn-ret", "full"], " RET=FULL", ""),
        (["--dsn-notify", "NEVER"], "", "NOTIFY=NEVER"),
    ] {
        let (receiver, address) = receiver(Options::default());
        self::run(adapter, "dsn", Some(address), &ONE, &flags).is(0, "success", None);
        let stored = &receiver.messages()[0];
        assert_eq!(
            stored.mail_parameters,
            format!("SIZE={}{mail}", MESSAGE.len())
        );
        assert_eq!(stored.rcpt_parameters, [rcpt]);
    }
}

fn smtputf8(adapter: Adapter) {
    let with = |smtputf8, to: &str, flags: &[&str]| {
        let (receiver, address) = receiver(Options {
            smtputf8,
            ..Options::default()
        });
        let run = run(adapter, "utf8", Some(address), &[to], flags);
        (run, receiver.messages())
    };
    let (run, stored) = with(true, ONE[0], &["--smtputf8"]);
    run.is(0, "success", None);
    assert!(
        stored[0].mail_parameters.ends_with(" SMTPUTF8"),
        "{stored:?}"
    );
    let (run, stored) = with(true, "h\u{e4}ns@example.net", &[]);
    run.is(0, "success", None);
    assert!(
        stored[0].mail_parameters.ends_with(" SMTPUTF8"),
        "{stored:?}"
    );
    for (to, flags) in [
        (ONE[0], &["--smtputf8"][..]),
        ("h\u{e4}ns@example.net", &[]),
    ] {
        with(false, to, flags).0.is(77, "refused", Some("mail"));
    }
}

fn raw_parameters(adapter: Adapter) {
    // For an unknown extension.
    let flags = [
        "--tls",
        "none",
        "--transcript",
        "--param",
        "X-ONE",
        "--param",
        "X-TWO=a;b",
    ];
    let flags = [&flags[..], &["--rcpt-param", "X-TWO=c"]].concat();
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING", "X-ONE", "X-TWO"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        peer.hear(".\r\n");
        peer.say("250 ok\r\n");
        peer.hear_the_end();
    });
    let run = run(adapter, "raw", Some(address), &ONE, &flags);
    run.is(0, "success", None);
    run.line("> MAIL FROM:<alice@example.org> X-ONE X-TWO=a;b");
    run.line("> RCPT TO:<bob@example.net> X-TWO=c");
    // A parameter that is asked for by name is not left out silently.
    for flags in [
        ["--param", "X-ONE"],
        ["--rcpt-param", "X-ONE=1"],
        ["--param", "MT-PRIORITY=3"],
    ] {
        let run = self::run(adapter, "raw", None, &ONE, &flags);
        run.is(77, "refused", Some("mail"));
    }
    for flags in [["--param", "ret=full"], ["--rcpt-param", "NOTIFY=NEVER"]] {
        for (dsn, code) in [(true, 0), (false, 77)] {
            let (_receiver, address) = receiver(Options {
                dsn,
                ..Options::default()
            });
            assert_eq!(
                self::run(adapter, "raw", Some(address), &ONE, &flags).code,
                code,
                "{flags:?}"
            );
        }
    }
    // One recipient's filter refuses after the data.
    let (receiver, address) = receiver(Options {
        prdr: true,
        ..Options::default()
    });
    let to = ["bob@example.net", "filtered@example.net"];
    let run = self::run(adapter, "prdr", Some(address), &to, &["--param", "PRDR"]);
    run.is(69, "partial", Some("eom"));
    assert_eq!(run.json["recipients"][1]["code"], 550);
    assert_eq!(receiver.messages()[0].forward_paths, ["bob@example.net"]);
}

fn all_or_nothing(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let with = |to: &[&str]| {
        run(
            adapter,
            "all",
            Some(address.clone()),
            to,
            &["--all-or-nothing"],
        )
    };
    let refused = with(&["bob@example.net", "refused@example.net"]);
    refused.is(69, "permanent", Some("rcpt"));
    let outcomes = [0, 1].map(|index| refused.json["recipients"][index]["outcome"].clone());
    assert_eq!(outcomes, ["refused", "permanent"]);
    assert!(
        refused.json["error"]
            .as_str()
            .unwrap()
            .contains("no such user here"),
        "{}",
        refused.json
    );
    with(&["greylisted@example.net", "bob@example.net"]).is(75, "temporary", Some("rcpt"));
    assert!(receiver.messages().is_empty());
    let both = ["bob@example.net", "carol@example.net"];
    with(&both).is(0, "success", None);
    assert_eq!(receiver.messages().len(), 1);
    // Then they cannot be split either.
    let limits = Some(Limits {
        rcpt_max: 1,
        mail_max: 10,
    });
    let (receiver, address) = self::receiver(Options {
        limits,
        ..Options::default()
    });
    run(adapter, "all", Some(address), &both, &["--all-or-nothing"]).is(
        77,
        "refused",
        Some("mail"),
    );
    assert!(receiver.messages().is_empty());
}
