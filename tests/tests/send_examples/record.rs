//! What `--record` writes is played again through the engine, and is what the server has heard and said.

use std::path::PathBuf;

use smtp_tests::play::replay::replay;
use smtp_tests::receiver::{Options, Receiver, Step};
use smtp_tests::watchdog;

use super::run::{Run, finish, message_file, run, send_data};
use super::server::{receiver, server};
use super::{Adapter, MESSAGE, ONE};

for_both!(
    a_success_is_played_again,
    refused_recipients_are_played_again,
    a_login_inside_tls_is_played_again,
    a_lost_connection_is_played_again,
    a_timeout_is_played_again,
    a_bulk_is_played_again,
    lmtp_is_played_again,
    bodies_are_written_where_that_is_wanted,
    a_record_that_cannot_be_written_is_named,
);

/// A file for a record, which is removed in the end.
struct Record(PathBuf);

impl Record {
    fn new(name: &str) -> Self {
        Self(message_file(&format!("record-of-{name}"), b""))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// What was written, which is played again. Nothing of the message is in it, and no password.
    #[track_caller]
    fn played(&self) -> String {
        let record = std::fs::read_to_string(&self.0).unwrap();
        if let Err(failure) = replay(self.path(), &record) {
            panic!("{failure}\n{record}");
        }
        for secret in ["Hello", "Subject", "s3cret", "alice-the-user"] {
            assert!(!record.contains(secret), "{secret}: {record}");
        }
        record
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The commands that a record has, as the books of the receiver have them.
fn commands(record: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in record.lines() {
        if let Some(line) = line.strip_prefix("C: ") {
            all.push(line.trim_end_matches(" ****").to_owned());
        } else if let Some(chunk) = line
            .strip_prefix("bdat ")
            .filter(|chunk| chunk.ends_with(" end"))
        {
            // One chunk of a message whose size is known.
            let message: usize = chunk.split(' ').next().unwrap().parse().unwrap();
            let messages: Vec<_> = record
                .lines()
                .filter(|line| line.starts_with("message "))
                .collect();
            let size = messages[message - 1].split("exact-size=").nth(1).unwrap();
            all.push(format!("BDAT {} LAST", size.split(' ').next().unwrap()));
        }
    }
    // Responses are no commands.
    all.retain(|line| line != "****");
    all
}

/// The record has the commands that the receiver has heard.
#[track_caller]
fn is_what_was_heard(record: &str, receiver: &Receiver) {
    // QUIT is not waited for.
    assert!(receiver.wait_until(watchdog::LIMIT, |counts| counts.ended == counts.sessions));
    let heard: Vec<_> = receiver
        .commands()
        .into_iter()
        .map(|command| command.line)
        .collect();
    assert_eq!(commands(record), heard, "{record}");
}

/// The words of the report in the record, for this recipient of the first message.
#[track_caller]
fn result(record: &str, recipient: usize) -> &str {
    let start = format!("expect 1 {recipient} says ");
    let line = record.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{start}: {record}"))
}

fn a_success_is_played_again(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let file = Record::new("success");
    run(
        adapter,
        "success",
        Some(address),
        &ONE,
        &["--record", file.path()],
    )
    .is(0, "success", None);
    let record = file.played();
    is_what_was_heard(&record, &receiver);
    assert!(result(&record, 1).starts_with("ok 250 "), "{record}");
    assert!(
        record.contains("\ntls\n") || record.contains("\ntls problem="),
        "{record}"
    );
}

fn refused_recipients_are_played_again(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    receiver
        .on(Step::Rcpt)
        .with("<no@")
        .reply("550 5.1.1 unknown");
    receiver
        .on(Step::Rcpt)
        .with("<later@")
        .reply("450 4.2.0 greylisted");
    let file = Record::new("refused");
    let to = ["no@example.net", "bob@example.net", "later@example.net"];
    let flags = ["--tls", "none", "--record", file.path()];
    assert_eq!(run(adapter, "refused", Some(address), &to, &flags).code, 75);
    let record = file.played();
    is_what_was_heard(&record, &receiver);
    assert!(result(&record, 1).contains("550 5.1.1 unknown"), "{record}");
    assert!(result(&record, 2).starts_with("ok 250 "), "{record}");
    assert!(
        result(&record, 3).contains("450 4.2.0 greylisted"),
        "{record}"
    );
}

fn a_login_inside_tls_is_played_again(adapter: Adapter) {
    let (receiver, address) = receiver(Options {
        auth: Some(("alice-the-user".into(), "s3cret".into())),
        ..Options::default()
    });
    let pem = message_file("record-pem", receiver.certificate_pem().as_bytes());
    for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        let file = Record::new("login");
        let flags = [
            "--record",
            file.path(),
            "--ca-file",
            pem.to_str().unwrap(),
            "--auth-user",
            "alice-the-user",
            "--auth-password",
            "s3cret",
            "--auth-mechanism",
            mechanism,
        ];
        run(adapter, "login", Some(address.clone()), &ONE, &flags).is(0, "success", None);
        let record = file.played();
        assert!(record.contains("\ntls verified"), "{record}");
        assert!(
            record.contains(&format!("\nC: AUTH {mechanism}")),
            "{record}"
        );
        // Nothing that the server says helps to guess the password.
        assert_eq!(
            record.contains("\nchallenge\n"),
            mechanism.starts_with("SCRAM"),
            "{record}"
        );
        assert!(
            !record.contains("S: 334 ") || mechanism == "LOGIN",
            "{record}"
        );
    }
    let _ = std::fs::remove_file(pem);
}

fn a_lost_connection_is_played_again(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    receiver.on(Step::EndOfData).cut_unanswered();
    let file = Record::new("lost");
    let flags = [
        "--tls",
        "none",
        "--chunking",
        "never",
        "--record",
        file.path(),
    ];
    let run = run(adapter, "lost", Some(address), &ONE, &flags);
    run.maybe_delivered(true);
    let record = file.played();
    assert!(record.contains("\neof\n"), "{record}");
    assert!(result(&record, 1).contains("in doubt"), "{record}");
}

fn a_timeout_is_played_again(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.say("220 hi\r\n");
        peer.hear("EHLO");
        peer.say("250 hi\r\n");
        peer.hear("MAIL");
        peer.hear_the_end();
    });
    let file = Record::new("timeout");
    let flags = [
        "--tls",
        "none",
        "--timeout-reply",
        "0.2",
        "--record",
        file.path(),
    ];
    assert_eq!(
        run(adapter, "timeout", Some(address), &ONE, &flags).code,
        75
    );
    let record = file.played();
    assert!(record.contains("\ntimeout\n"), "{record}");
    assert!(
        result(&record, 1).contains("timed out after 0.2 s"),
        "{record}"
    );
}

fn a_bulk_is_played_again(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    receiver
        .on(Step::Mail)
        .after(2)
        .times(1)
        .reply("451 4.3.0 not this one");
    let file = Record::new("bulk");
    let data: Vec<_> = (0..6)
        .map(|n| message_file(&format!("bulk{n}"), MESSAGE))
        .collect();
    let flags = ["--overlap", "--record", file.path()];
    let run: Run = finish(&mut send_data(adapter, &data, &address, &ONE, &flags), b"");
    run.is_summary(6, 5);
    let record = file.played();
    is_what_was_heard(&record, &receiver);
    let results = record
        .lines()
        .filter(|line| line.contains(" 1 says ok 250 "));
    assert_eq!(results.count(), 5, "{record}");
    assert!(record.contains("expect 3 1 says error"), "{record}");
    data.iter()
        .for_each(|path| drop(std::fs::remove_file(path)));
}

fn lmtp_is_played_again(adapter: Adapter) {
    let (receiver, address) = receiver(Options {
        lmtp: true,
        ..Options::default()
    });
    receiver
        .on(Step::Rcpt)
        .with("<no@")
        .reply("550 5.1.1 unknown");
    let file = Record::new("lmtp");
    let flags = ["--lmtp", "--tls", "none", "--record", file.path()];
    let to = ["bob@example.net", "no@example.net", "carol@example.net"];
    assert_eq!(run(adapter, "lmtp", Some(address), &to, &flags).code, 69);
    let record = file.played();
    is_what_was_heard(&record, &receiver);
    assert!(record.contains("\nC: LHLO "), "{record}");
    assert!(result(&record, 1).starts_with("ok 250 "), "{record}");
    assert!(result(&record, 2).contains("550 5.1.1 unknown"), "{record}");
}

fn bodies_are_written_where_that_is_wanted(adapter: Adapter) {
    let (_receiver, address) = receiver(Options::default());
    let file = Record::new("bodies");
    let flags = ["--tls", "none", "--record-bodies", "--record", file.path()];
    run(adapter, "bodies", Some(address), &ONE, &flags).is(0, "success", None);
    let record = std::fs::read_to_string(file.path()).unwrap();
    replay("bodies", &record).unwrap();
    for line in ["| Subject: test", "| Hello.", "| .", "| ..dots"] {
        assert!(record.lines().any(|one| one == line), "{line}: {record}");
    }
}

fn a_record_that_cannot_be_written_is_named(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let flags = ["--tls", "none", "--record", "/nowhere/at/all"];
    let run = run(adapter, "nowhere", Some(address), &ONE, &flags);
    run.says("/nowhere/at/all: ");
    assert_eq!(receiver.counts().sessions, 0);
}
