//! The types of messages of each adapter, and the size that is declared for each.

use std::io::Cursor;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use smtp_adapter::{Observation, Server};
use smtp_proto::event::Trace;
use smtp_proto::{Cause, Chunking, Envelope, Outcome, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::receiver::{Options, Receiver};

/// Unix lines, with dots and without a line end at the end.
const LINES: &str = "Subject: x\n\n.dot\n..\nno end";
const WIRE: &[u8] = b"Subject: x\r\n\r\n.dot\r\n..\r\nno end\r\n";

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

fn receiver(chunking: bool) -> (Receiver, Server) {
    let receiver = Receiver::start(Options {
        chunking,
        ..Options::default()
    })
    .unwrap();
    let server = Server::new(receiver.local_addr().to_string()).tls(TlsPolicy::Never);
    (receiver, server)
}

/// The stored messages, each with the SIZE of its MAIL.
fn stored(receiver: &Receiver) -> Vec<(Vec<u8>, Option<String>)> {
    let stored = receiver.messages().into_iter().enumerate();
    let size = |parameters: &str| {
        let mut parameters = parameters.split(' ');
        parameters
            .find_map(|one| one.strip_prefix("SIZE="))
            .map(str::to_owned)
    };
    let what = |(index, message): (usize, smtp_tests::receiver::StoredMessage)| {
        (receiver.stored(index), size(&message.mail_parameters))
    };
    stored.map(what).collect()
}

#[track_caller]
fn all_have(receiver: &Receiver, count: usize, size: Option<usize>) {
    let stored = stored(receiver);
    assert_eq!(stored.len(), count);
    for (index, (octets, declared)) in stored.into_iter().enumerate() {
        assert_eq!(octets, WIRE, "{index}");
        assert_eq!(declared, size.map(|size| size.to_string()), "{index}");
    }
}

#[test]
fn a_message_in_memory_declares_its_size() {
    for chunking in [false, true] {
        let (receiver, server) = receiver(chunking);
        let mut session = smtp_blocking::Session::connect(&server).unwrap();
        let (text, bytes) = (LINES.to_owned(), Bytes::from(LINES));
        let shared: Arc<[u8]> = LINES.as_bytes().into();
        let mut from = Cursor::new(["skipped", LINES].concat());
        from.set_position(7);
        let mut sent = 0;
        let mut check = |result: Result<smtp_proto::Report, smtp_adapter::Error>| {
            assert!(result.unwrap().is_success());
            sent += 1;
        };
        check(session.send(envelope(), LINES));
        check(session.send(envelope(), LINES.as_bytes()));
        check(session.send(envelope(), &text));
        check(session.send(envelope(), text));
        check(session.send(envelope(), LINES.as_bytes().to_vec()));
        check(session.send(envelope(), &bytes));
        check(session.send(envelope(), bytes.clone()));
        check(session.send(envelope(), &shared));
        check(session.send(envelope(), shared));
        check(session.send(envelope(), from));
        check(session.send_bytes(envelope(), bytes.clone()));
        check(session.send_last(envelope(), LINES));
        all_have(&receiver, sent, Some(WIRE.len()));
    }
}

#[test]
fn a_message_in_memory_declares_its_size_in_tokio_too() {
    for chunking in [false, true] {
        let (receiver, server) = receiver(chunking);
        let (text, bytes) = (LINES.to_owned(), Bytes::from(LINES));
        let shared: Arc<[u8]> = LINES.as_bytes().into();
        let mut from = Cursor::new(["skipped", LINES].concat());
        from.set_position(7);
        let sent = runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
            let mut sent = 0;
            let mut check = |result: Result<smtp_proto::Report, smtp_adapter::Error>| {
                assert!(result.unwrap().is_success());
                sent += 1;
            };
            check(session.send(envelope(), LINES).await);
            check(session.send(envelope(), LINES.as_bytes()).await);
            check(session.send(envelope(), &text).await);
            check(session.send(envelope(), text).await);
            check(session.send(envelope(), LINES.as_bytes().to_vec()).await);
            check(session.send(envelope(), &bytes).await);
            check(session.send(envelope(), bytes.clone()).await);
            check(session.send(envelope(), &shared).await);
            check(session.send(envelope(), shared).await);
            check(session.send(envelope(), from).await);
            check(session.send_bytes(envelope(), bytes.clone()).await);
            check(session.send_last(envelope(), LINES).await);
            sent
        });
        all_have(&receiver, sent, Some(WIRE.len()));
    }
}

#[test]
fn a_reader_declares_none() {
    let (receiver, server) = receiver(false);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let pieces = || Bytes::from(&LINES[..9]).chain(Bytes::from(&LINES[9..]));
    let borrowed: &mut dyn std::io::BufRead = &mut LINES.as_bytes();
    let boxed: Box<dyn std::io::BufRead> = Box::new(LINES.as_bytes());
    assert!(session.send(envelope(), borrowed).unwrap().is_success());
    assert!(session.send(envelope(), boxed).unwrap().is_success());
    let buffered = std::io::BufReader::new(LINES.as_bytes());
    assert!(session.send(envelope(), buffered).unwrap().is_success());
    assert!(
        session
            .send_bytes(envelope(), pieces())
            .unwrap()
            .is_success()
    );
    let sent = runtime().block_on(async {
        let mut session = smtp_tokio::Session::connect(&server).await?;
        let borrowed: &mut (dyn tokio::io::AsyncBufRead + Unpin) = &mut LINES.as_bytes();
        let pinned = Box::pin(LINES.as_bytes());
        let boxed: Box<dyn tokio::io::AsyncBufRead + Unpin> = Box::new(LINES.as_bytes());
        let buffered = tokio::io::BufReader::new(LINES.as_bytes());
        let mut reports = vec![session.send(envelope(), borrowed).await?];
        reports.push(session.send(envelope(), pinned).await?);
        reports.push(session.send(envelope(), boxed).await?);
        reports.push(session.send(envelope(), buffered).await?);
        reports.push(session.send_bytes(envelope(), pieces()).await?);
        Ok::<_, smtp_adapter::Error>(reports.len())
    });
    all_have(&receiver, 4 + sent.unwrap(), None);
}

#[test]
fn a_size_that_is_declared_stays() {
    let (receiver, server) = receiver(false);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    assert!(
        session
            .send(envelope().size(7), LINES)
            .unwrap()
            .is_success()
    );
    let wrong = session.send(envelope().exact_size(7), LINES).unwrap_err();
    assert!(matches!(wrong.cause(), Cause::Body(_)), "{wrong}");
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let messages = [
        smtp_blocking::Message::from_bytes(envelope().size(7), LINES.as_bytes()),
        smtp_blocking::Message::from_bytes(envelope().size(7), LINES.as_bytes()),
    ];
    assert!(session.send_all(messages).all(|report| report.is_success()));
    all_have(&receiver, 3, Some(7));
}

#[test]
fn a_bulk_message_in_memory_declares_its_size() {
    let (receiver, server) = receiver(true);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let message = || smtp_blocking::Message::from_bytes(envelope(), LINES.as_bytes());
    assert!(
        session
            .send_all([message(), message()])
            .all(|report| report.is_success())
    );
    runtime().block_on(async {
        let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
        let message = || smtp_tokio::Message::from_bytes(envelope(), LINES.as_bytes());
        let mut reports = session.send_all(smtp_tokio::iter([message(), message()]));
        while let Some(report) = reports.next().await {
            assert!(report.is_success());
        }
    });
    all_have(&receiver, 4, Some(WIRE.len()));
}

/// Without a size, it would go out in chunks of 64 KiB.
#[test]
fn a_message_in_memory_is_one_chunk() {
    let (receiver, server) = receiver(true);
    let chunks = Arc::new(Mutex::new(Vec::new()));
    let server = server.chunking(Chunking::Always).observe({
        let chunks = Arc::clone(&chunks);
        move |step: &Observation<'_>| {
            if let Trace::SentChunk { octets, last } = step.trace() {
                chunks.lock().unwrap().push((*octets, *last));
            }
        }
    });
    let body = "A line of the body.\n".repeat(20_000);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let _ = session.send_last(envelope(), &body).unwrap();
    runtime().block_on(async {
        let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
        let _ = session.send_last(envelope(), &body).await.unwrap();
    });
    let size = (body.len() + 20_000) as u64;
    assert_eq!(*chunks.lock().unwrap(), [(size, true), (size, true)]);
    let octets: Vec<_> = receiver
        .messages()
        .iter()
        .map(|stored| stored.octets)
        .collect();
    assert_eq!(octets, [size, size]);
}

#[test]
fn a_message_that_is_too_large_is_not_sent() {
    let receiver = Receiver::start(Options {
        max_size: WIRE.len() as u64 - 1,
        ..Options::default()
    })
    .unwrap();
    let server = Server::new(receiver.local_addr().to_string()).tls(TlsPolicy::Never);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let error = session.send(envelope(), LINES).unwrap_err();
    assert!(matches!(error.cause(), Cause::TooLarge { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Permanent);
    assert!(session.is_usable());
}
