//! The tag of a bulk message comes back with its report, with any result.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_core::Stream;
use smtp_adapter::Server;
use smtp_proto::{Chunking, Envelope, Limits, Outcome, Report, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::servers::fast::{Act, Options, Peer};

const BODY: &[u8] = b"Subject: x\r\n\r\n";

/// It can be neither copied nor cloned.
struct Row(usize);

/// The reports with their rows, and the rows that were left at the end of the session.
type Deliver = fn(&Server) -> (Vec<(Row, Report)>, Vec<usize>);

/// The third message has too many recipients for our limits.
fn envelope(row: usize) -> Envelope {
    let to = |n| format!("r{row}-{n}@example.net");
    Envelope::new("", (0..if row == 2 { 3 } else { 1 }).map(to)).unwrap()
}

fn by_blocking(server: &Server) -> (Vec<(Row, Report)>, Vec<usize>) {
    let mut session = smtp_blocking::Session::connect(server).unwrap();
    let messages =
        (0..7).map(|row| smtp_blocking::Message::from_bytes(envelope(row), BODY).tag(Row(row)));
    let mut bulk = session.send_all(messages).and_quit();
    let reports = bulk.tagged().collect();
    let rest = bulk.into_messages().map(|message| message.tag.0).collect();
    (reports, rest)
}

fn by_tokio(server: &Server) -> (Vec<(Row, Report)>, Vec<usize>) {
    runtime().block_on(async {
        let mut session = smtp_tokio::Session::connect(server).await.unwrap();
        let messages =
            (0..7).map(|row| smtp_tokio::Message::from_bytes(envelope(row), BODY).tag(Row(row)));
        let mut bulk = session.send_all(smtp_tokio::iter(messages)).and_quit();
        let mut reports = Vec::new();
        while let Some(tagged) = bulk.next_tagged().await {
            reports.push(tagged);
        }
        (reports, rest_of(bulk.into_messages()).await)
    })
}

fn by_stream(server: &Server) -> (Vec<(Row, Report)>, Vec<usize>) {
    runtime().block_on(async {
        let mut session = smtp_tokio::Session::connect(server).await.unwrap();
        let messages =
            (0..7).map(|row| smtp_tokio::Message::from_bytes(envelope(row), BODY).tag(Row(row)));
        let mut bulk = session.send_all(smtp_tokio::iter(messages)).and_quit();
        let mut reports = Vec::new();
        {
            let mut tagged = std::pin::pin!(bulk.tagged());
            while let Some(one) = poll_fn(|cx| tagged.as_mut().poll_next(cx)).await {
                reports.push(one);
            }
        }
        (reports, rest_of(bulk.into_messages()).await)
    })
}

async fn rest_of<F>(
    mut messages: std::pin::Pin<Box<impl Stream<Item = smtp_tokio::Message<F, Row>>>>,
) -> Vec<usize> {
    let mut rest = Vec::new();
    while let Some(message) = poll_fn(|cx| messages.as_mut().poll_next(cx)).await {
        rest.push(message.tag.0);
    }
    rest
}

/// The second message is refused, the third has too many recipients for any session, and the server is lost with the end of the fifth.
fn check(deliver: Deliver) {
    for (overlap, chunking) in [
        (false, Chunking::Never),
        (true, Chunking::Never),
        (true, Chunking::Eager),
    ] {
        let fifth = AtomicBool::new(false);
        let peer = Peer::start(Options {
            chunking: true,
            act: Arc::new(move |moment| match moment.command {
                command if command.contains("<r1-0@") => Act::Reply("550 5.1.1 no\r\n"),
                command if command.contains("<r4-0@") => {
                    fifth.store(true, Ordering::Relaxed);
                    Act::Accept
                }
                "." if fifth.load(Ordering::Relaxed) => Act::Cut,
                _ => Act::Accept,
            }),
            ..Options::default()
        })
        .unwrap();
        let mut limits = Limits::default();
        limits.recipients = 2;
        let server = Server::new(peer.server())
            .tls(TlsPolicy::Never)
            .limits(limits)
            .overlap(overlap)
            .chunking(chunking);
        let (reports, rest) = deliver(&server);
        for (index, (row, report)) in reports.iter().enumerate() {
            assert_eq!(row.0, index);
            assert_eq!(report.mailboxes(), envelope(row.0).forward_paths());
        }
        // Each row occurs once: with a report, or left.
        let rows = reports.iter().map(|(row, _)| row.0).chain(rest);
        assert_eq!(rows.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        let outcomes = reports.iter().map(|(_, report)| report.outcome());
        let expected = [
            None,
            Some(Outcome::Permanent),
            Some(Outcome::Permanent),
            None,
            Some(Outcome::InDoubt),
        ];
        assert_eq!(outcomes.take(5).collect::<Vec<_>>(), expected);
        // The server's own records.
        let arrived = peer.messages().into_iter().flat_map(|one| one.envelope);
        let arrived: Vec<_> = arrived.collect();
        assert!(arrived.iter().all(|to| !to.contains("r1-0")), "{arrived:?}");
        for row in [0, 3] {
            let to = format!("r{row}-0@example.net");
            assert!(arrived.iter().any(|other| other.contains(&to)), "{to}");
        }
    }
}

#[test]
fn blocking() {
    check(by_blocking);
}

#[test]
fn tokio() {
    check(by_tokio);
}

#[test]
fn tokio_as_a_stream() {
    check(by_stream);
}
