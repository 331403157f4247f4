//! A pool as lettre's transport, for callers that do not read reports.

use lettre::address::Envelope;
use lettre::{AsyncTransport, Transport};
use smtp_tests::receiver::{Options, Receiver};

const TEXT: &[u8] = b"Subject: test\r\n\r\nHello.\r\n";

/// The results of both adapters.
fn send(
    receiver: &Receiver,
    to: &[&str],
) -> [Result<smtp_blocking::Report, smtp_blocking::Error>; 2] {
    let to = to.iter().map(|to| to.parse().unwrap()).collect();
    let envelope = Envelope::new(Some("alice@example.org".parse().unwrap()), to).unwrap();
    let blocking = smtp_blocking::Pool::new(receiver.server()).for_lettre();
    let tokio = smtp_tokio::Pool::new(receiver.server()).for_lettre();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    [
        blocking.send_raw(&envelope, TEXT),
        runtime.unwrap().block_on(tokio.send_raw(&envelope, TEXT)),
    ]
}

/// The recipients of each message, for both adapters.
fn taken(receiver: &Receiver) -> Vec<Vec<String>> {
    let messages = receiver.messages();
    messages
        .iter()
        .map(|one| one.forward_paths.clone())
        .collect()
}

fn lmtp() -> Receiver {
    let options = Options {
        lmtp: true,
        ..Options::default()
    };
    Receiver::start(options).unwrap()
}

/// LMTP answers for each recipient after the data. The others then have the message.
#[test]
fn a_recipient_who_is_refused_after_the_data_is_an_error() {
    let receiver = lmtp();
    let results = send(
        &receiver,
        &[
            "bob@example.net",
            "filtered@example.net",
            "carol@example.net",
        ],
    );
    for result in results {
        let error = result.unwrap_err();
        assert!(error.is_permanent());
        let line = error.to_string();
        assert!(line.contains("550"), "{line}");
        let remark = "; 2 of 3 recipients have it, so send it to the others alone";
        assert!(line.ends_with(remark), "{line}");
        let report = error.report().unwrap();
        let failures: Vec<_> = report.failures().map(|failure| failure.index).collect();
        assert_eq!(failures, [1]);
    }
    let others = ["bob@example.net", "carol@example.net"].map(String::from);
    assert_eq!(taken(&receiver), [others.to_vec(), others.to_vec()]);
}

#[test]
fn nobody_has_it_where_all_are_refused_after_the_data() {
    let receiver = lmtp();
    for result in send(&receiver, &["filtered@example.net"]) {
        let error = result.unwrap_err();
        assert!(error.is_permanent());
        assert!(!error.to_string().contains("have it"), "{error}");
    }
    assert!(taken(&receiver).concat().is_empty());
}

#[test]
fn all_or_nothing() {
    for receiver in [lmtp(), Receiver::new()] {
        for result in send(&receiver, &["bob@example.net", "refused@example.net"]) {
            assert!(!result.unwrap_err().to_string().contains("have it"));
        }
        assert!(taken(&receiver).concat().is_empty());
        for result in send(&receiver, &["bob@example.net", "carol@example.net"]) {
            assert!(result.unwrap().is_success());
        }
        assert_eq!(taken(&receiver).len(), 2);
    }
}
