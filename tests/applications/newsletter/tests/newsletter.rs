//! The newsletter's tests. Mail does not leave the machine, nothing sleeps, and no file stays.

use std::process::Command;

use smtp_newsletter::{Confirmation, Issue, confirm, send_issue};
use smtp_tests::receiver::{Options, Receiver, Step};
use smtp_tokio::Session;

/// A unit test without a socket.
#[tokio::test]
async fn a_subscriber_is_asked_to_confirm() {
    let stub = Receiver::stub();
    let session = Session::connect_over(&stub.server(), stub.stream()).await;
    let sent = confirm(&mut session.unwrap(), "bob@example.net", "abc123").await;

    assert_eq!(sent, Confirmation::Sent);
    let mail = stub.messages().remove(0);
    assert_eq!(mail.reverse_path, "newsletter@example.org");
    assert_eq!(mail.forward_paths, ["bob@example.net"]);
    let content = String::from_utf8(mail.content()).unwrap();
    assert!(content.ends_with("/confirm/abc123\r\n"), "{content}");
}

#[tokio::test]
async fn a_mistyped_address_is_told_from_a_busy_server() {
    let stub = Receiver::stub();
    let server = stub.server();
    stub.on(Step::Rcpt)
        .with("bbo@")
        .reply("550 5.1.1 no such user");
    stub.on(Step::EndOfData)
        .with("abc123")
        .reply("451 4.3.0 try again later");

    let session = Session::connect_over(&server, stub.stream()).await;
    let mut session = session.unwrap();
    for (subscriber, token, becomes) in [
        ("bbo@example.net", "1", Confirmation::NoSuchMailbox),
        ("bob@example.net", "abc123", Confirmation::Later),
        ("not an address", "2", Confirmation::NoSuchMailbox),
        ("bob@example.net", "3", Confirmation::Sent),
    ] {
        assert_eq!(confirm(&mut session, subscriber, token).await, becomes);
    }
    assert_eq!(stub.counts().messages, 1);
}

/// The same unit test for the blocking adapter.
#[test]
fn a_stub_does_for_the_blocking_adapter() {
    let stub = Receiver::stub();
    let mut session = smtp_blocking::Session::connect_over(&stub.server(), stub.stream()).unwrap();
    let envelope = smtp_blocking::Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let report = session.send(envelope, &b"hello\r\n"[..]).unwrap();
    assert!(report.is_success());
    assert_eq!(stub.messages()[0].content(), b"hello\r\n");
}

/// The whole way, with TLS and a login.
#[test]
fn an_issue_goes_to_all() {
    let options = Options {
        auth: Some(("newsletter".to_owned(), "s3cret".to_owned())),
        ..Options::default()
    };
    let receiver = Receiver::start(options).unwrap();
    let issue = send_issue(
        &receiver.server(),
        &["bob@example.net", "carol@example.net"],
        "News!",
    );

    assert_eq!(
        issue.unwrap().sent,
        ["bob@example.net", "carol@example.net"]
    );
    let mails = receiver.messages();
    assert!(mails.iter().all(|mail| mail.tls && mail.session == 1));
    assert_eq!(receiver.counts().logged_in, 1);
}

#[test]
fn who_has_left_is_struck_off() {
    let receiver = Receiver::new();
    receiver
        .on(Step::Rcpt)
        .with("carol@")
        .reply("550 5.1.1 carol has left");
    receiver
        .on(Step::Rcpt)
        .with("dave@")
        .reply("452 4.2.2 mailbox full");
    let subscribers = ["bob@example.net", "carol@example.net", "dave@example.net"];
    let issue = send_issue(&receiver.server(), &subscribers, "News!").unwrap();

    let expected = Issue {
        sent: vec!["bob@example.net".to_owned()],
        gone: vec!["carol@example.net".to_owned()],
        later: vec!["dave@example.net".to_owned()],
        in_doubt: Vec::new(),
    };
    assert_eq!(issue, expected);
}

/// The server accepts the second message, and then loses the connection before its reply.
#[test]
fn nobody_gets_an_issue_twice() {
    let receiver = Receiver::new();
    receiver
        .on(Step::EndOfData)
        .after(1)
        .once()
        .cut_unanswered();
    let subscribers = ["bob@example.net", "carol@example.net", "dave@example.net"];
    let issue = send_issue(&receiver.server(), &subscribers, "News!").unwrap();

    assert_eq!(issue.sent, ["bob@example.net", "dave@example.net"]);
    assert_eq!(issue.in_doubt, ["carol@example.net"]);
    let mails = receiver.messages();
    let to = mails.iter().flat_map(|mail| mail.forward_paths.clone());
    assert!(to.eq(subscribers));
    assert_eq!(mails[2].session, 2);
}

/// A server that stores files, on a Unix socket. Both are removed with it.
#[test]
fn files_go_with_the_server() {
    let options = Options {
        files: true,
        unix: true,
        ..Options::default()
    };
    let receiver = Receiver::start(options).unwrap();
    send_issue(&receiver.server(), &["bob@example.net"], "News!").unwrap();
    let path = receiver.messages()[0].path.clone().unwrap();
    assert!(path.exists());
    drop(receiver);
    assert!(!path.exists());
}

/// Runs all other tests with an empty temporary folder, and checks that it stays empty.
#[test]
fn nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let tests = Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "nothing_is_left_behind"])
        .env("TMPDIR", folder.path())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&tests.stdout);
    assert!(tests.status.success(), "{output}");
    assert!(output.contains("7 passed"), "{output}");
    let left: Vec<_> = folder.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
