//! Bulk delivery in both adapters: round trips, order, and the right report for each message if one fails in the
//! middle.

use std::future::poll_fn;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use futures_core::Stream;
use smtp_proto::{Cause, Chunking, Envelope, Outcome, Report, Stage, Timeouts, TlsPolicy};
use smtp_tests::play::bulk::{Delivery, runtime};
use smtp_tests::servers::fast::{Act, BehindData, Moment, Options, Peer};
use smtp_tests::watchdog::within_limit;

type Deliver = fn(&str, bool, &[(Envelope, Vec<u8>)]) -> Delivery;

fn timeouts() -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.overlap = Duration::from_millis(300);
    timeouts
}

fn by_blocking(server: &str, overlap: bool, messages: &[(Envelope, Vec<u8>)]) -> Delivery {
    let server = smtp_blocking::Server::new(server).tls(TlsPolicy::Never);
    let session =
        smtp_blocking::Session::connect(server.overlap(overlap).timeouts(timeouts())).unwrap();
    Delivery::by_blocking(session, messages)
}

fn by_tokio(server: &str, overlap: bool, messages: &[(Envelope, Vec<u8>)]) -> Delivery {
    let server = smtp_tokio::Server::new(server).tls(TlsPolicy::Never);
    let server = server.overlap(overlap).timeouts(timeouts());
    runtime().block_on(async {
        Delivery::by_tokio(
            smtp_tokio::Session::connect(&server).await.unwrap(),
            messages,
        )
        .await
    })
}

/// Each test, with each adapter, without overlap and with it.
macro_rules! for_all {
    ($($test:ident),* $(,)?) => {
        mod blocking {
            $(#[test] fn $test() { super::$test(super::by_blocking, false); })*
        }
        mod blocking_overlapping {
            $(#[test] fn $test() { super::$test(super::by_blocking, true); })*
        }
        mod tokio {
            $(#[test] fn $test() { super::$test(super::by_tokio, false); })*
        }
        mod tokio_overlapping {
            $(#[test] fn $test() { super::$test(super::by_tokio, true); })*
        }
    };
}

for_all!(
    a_thousand_messages,
    trouble_in_the_middle,
    a_421_between_two_messages,
    a_cut_behind_the_end_of_the_data,
    a_cut_in_the_envelope,
    a_server_without_pipelining,
);

/// `count` messages of about `size` octets to five recipients each.
fn messages(count: usize, size: usize) -> Vec<(Envelope, Vec<u8>)> {
    let message = |n: usize| {
        let to = (0..5).map(|r| format!("r{r}.m{n}@example.net"));
        let mut body = format!("Subject: message {n}\r\n\r\n").into_bytes();
        while body.len() < size {
            body.extend_from_slice(
                b".a line of the body that begins with a dot and is not very long\r\n",
            );
        }
        (Envelope::new("sender@example.org", to).unwrap(), body)
    };
    (0..count).map(message).collect()
}

fn peer(act: impl Fn(&Moment<'_>) -> Act + Send + Sync + 'static) -> Peer {
    Peer::start(Options {
        act: Arc::new(act),
        ..Options::default()
    })
    .unwrap()
}

/// These messages arrived, each once, whole and in order.
#[track_caller]
fn arrived<'a>(peer: &Peer, expected: impl IntoIterator<Item = &'a (Envelope, Vec<u8>)>) {
    let arrived = peer.messages();
    let expected: Vec<_> = expected.into_iter().collect();
    assert_eq!(arrived.len(), expected.len());
    for (n, (arrived, (_, body))) in arrived.iter().zip(expected).enumerate() {
        assert!(
            arrived.body == *body,
            "message {n}: {}",
            arrived.body.escape_ascii()
        );
    }
}

#[track_caller]
fn all_are(reports: &[Report], outcome: Outcome) {
    for (n, report) in reports.iter().enumerate() {
        assert_eq!(report.recipients.len(), 5);
        for result in &report.recipients {
            assert_eq!(
                result.as_ref().err().map(|error| error.outcome),
                Some(outcome),
                "{n}: {result:?}"
            );
        }
    }
}

fn a_thousand_messages(deliver: Deliver, overlap: bool) {
    let messages = messages(1_000, 10 * 1024);
    let peer = peer(|_| Act::Accept);
    let delivery = deliver(&peer.server(), overlap, &messages);
    assert!(delivery.reports.iter().all(Report::is_success));
    assert_eq!(delivery.reports.len(), 1_000);
    arrived(&peer, &messages);
    // Two each. With overlap, one each and one more for the first envelope.
    assert_eq!(delivery.round_trips, if overlap { 1_001 } else { 2_000 });
    assert!(!delivery.overlap_broken);
}

fn trouble_in_the_middle(deliver: Deliver, overlap: bool) {
    let messages = messages(100, 100);
    let peer = peer(|moment| match (moment.message, moment.command) {
        (20, ".") => Act::Reply("552 5.3.4 too large\r\n"),
        (40, "RCPT TO:<r3.m40@example.net>") => Act::Reply("550 5.1.1 no such user\r\n"),
        (60, command) if command.starts_with("RCPT") => Act::Reply("450 4.2.0 later\r\n"),
        (80, command) if command.starts_with("MAIL") => Act::Reply("451 4.3.0 not now\r\n"),
        _ => Act::Accept,
    });
    let delivery = deliver(&peer.server(), overlap, &messages);
    for (n, report) in delivery.reports.iter().enumerate() {
        let failures: Vec<_> = report
            .failures()
            .map(|failure| {
                assert_eq!(
                    failure.mailbox,
                    &messages[n].0.forward_paths()[failure.index]
                );
                (failure.index, failure.error.stage, failure.error.outcome)
            })
            .collect();
        let all = |stage, outcome| {
            (0..5)
                .map(|index| (index, stage, outcome))
                .collect::<Vec<_>>()
        };
        let expected = match n {
            20 => all(Stage::EndOfMessage, Outcome::Permanent),
            40 => vec![(3, Stage::Rcpt, Outcome::Permanent)],
            60 => all(Stage::Rcpt, Outcome::Transient),
            80 => all(Stage::Mail, Outcome::Transient),
            _ => vec![],
        };
        assert_eq!(failures, expected, "message {n}");
    }
    let refused = [20, 60, 80];
    arrived(
        &peer,
        messages
            .iter()
            .enumerate()
            .filter(|(n, _)| !refused.contains(n))
            .map(|(_, m)| m),
    );
}

fn a_421_between_two_messages(deliver: Deliver, overlap: bool) {
    let messages = messages(100, 100);
    let peer = peer(|moment| match (moment.message, moment.command) {
        (49, ".") => Act::ReplyAndCut("250 2.0.0 Ok\r\n421 4.3.2 going down\r\n"),
        _ => Act::Accept,
    });
    let delivery = deliver(&peer.server(), overlap, &messages);
    assert!(delivery.reports[..50].iter().all(Report::is_success));
    // The next envelope may have left before the 421 is read.
    let next = &delivery.reports[50];
    assert!(next.failures().all(|failure| matches!(
        failure.error.cause,
        Cause::Rejected(_) | Cause::Disconnected
    )));
    assert!(!next.maybe_delivered());
    all_are(&delivery.reports[51..], Outcome::NotAttempted);
    arrived(&peer, &messages[..50]);
}

fn a_cut_behind_the_end_of_the_data(deliver: Deliver, overlap: bool) {
    let messages = messages(1_000, 100);
    let peer = peer(|moment| match (moment.message, moment.command) {
        (499, ".") => Act::Cut,
        _ => Act::Accept,
    });
    let delivery = deliver(&peer.server(), overlap, &messages);
    assert_eq!(delivery.reports.len(), 1_000);
    assert!(delivery.reports[..499].iter().all(Report::is_success));
    all_are(&delivery.reports[499..500], Outcome::InDoubt);
    all_are(&delivery.reports[500..], Outcome::NotAttempted);
    arrived(&peer, &messages[..500]);
    assert_eq!(peer.connections(), 1);
}

fn a_cut_in_the_envelope(deliver: Deliver, overlap: bool) {
    let messages = messages(20, 100);
    let peer = peer(|moment| match (moment.message, moment.command) {
        (9, "RCPT TO:<r2.m9@example.net>") => Act::Cut,
        _ => Act::Accept,
    });
    let delivery = deliver(&peer.server(), overlap, &messages);
    // With overlap, the cut also loses the reply to the message before.
    let certain = if overlap { 8 } else { 9 };
    assert!(delivery.reports[..certain].iter().all(Report::is_success));
    assert!(
        delivery.reports[9]
            .failures()
            .all(|failure| failure.error.outcome != Outcome::InDoubt)
    );
    assert_eq!(delivery.reports[9].failures().count(), 5);
    all_are(&delivery.reports[10..], Outcome::NotAttempted);
    arrived(&peer, &messages[..9]);
}

fn a_server_without_pipelining(deliver: Deliver, overlap: bool) {
    let messages = messages(20, 100);
    let peer = Peer::start(Options {
        pipelining: false,
        ..Options::default()
    })
    .unwrap();
    let delivery = deliver(&peer.server(), overlap, &messages);
    assert!(delivery.reports.iter().all(Report::is_success));
    // MAIL, five RCPT, DATA, the body: overlap was asked for, but the server does not offer PIPELINING.
    assert_eq!(delivery.round_trips, 20 * 8);
    arrived(&peer, &messages);
}

#[test]
fn a_server_that_does_not_take_overlap_is_found_out() {
    within_limit(overlap_that_is_not_taken).expect("the deadline works");
}

fn overlap_that_is_not_taken() {
    let messages = messages(10, 100);
    for deliver in [by_blocking as Deliver, by_tokio] {
        for behind_data in [BehindData::Refused, BehindData::Lost] {
            let peer = Peer::start(Options {
                behind_data,
                ..Options::default()
            })
            .unwrap();
            let start = Instant::now();
            let delivery = deliver(&peer.server(), true, &messages);
            assert!(delivery.overlap_broken);
            assert!(
                delivery.reports[0].is_success(),
                "{:?}",
                delivery.reports[0]
            );
            all_are(&delivery.reports[1..], Outcome::NotAttempted);
            arrived(&peer, &messages[..1]);
            assert!(start.elapsed() < Duration::from_secs(3));
            // Without overlap the same server takes everything.
            let delivery = deliver(&peer.server(), false, &messages[1..]);
            assert!(delivery.reports.iter().all(Report::is_success) && !delivery.overlap_broken);
            arrived(&peer, &messages);
        }
    }
}

#[test]
fn a_session_of_one_message_costs_four_round_trips() {
    let delay = Duration::from_millis(50);
    let peer = Peer::start(Options {
        delay,
        ..Options::default()
    })
    .unwrap();
    let (envelope, body) = &messages(1, 1_000)[0];
    let start = Instant::now();
    let mut session = smtp_blocking::Session::connect(
        smtp_blocking::Server::new(peer.server()).tls(TlsPolicy::Never),
    )
    .unwrap();
    let _ = session.send_last(envelope.clone(), &body[..]).unwrap();
    assert_eq!(session.round_trips(), 4);
    // Four delays and not five, because the reply to QUIT is not waited for.
    assert!(start.elapsed() < delay * 5, "{:?}", start.elapsed());
}

#[test]
fn sources_are_opened_when_they_are_wanted_and_one_that_cannot_be_ends_the_session() {
    use std::cell::Cell;
    let peer = peer(|moment| match moment.command {
        command if command.contains("refused") => Act::Reply("550 5.1.1 no\r\n"),
        _ => Act::Accept,
    });
    let opened = Cell::new(0);
    let to = ["a", "refused", "b", "missing", "c"].map(|user| format!("{user}@example.net"));
    let mut session = smtp_blocking::Session::connect(
        smtp_blocking::Server::new(peer.server()).tls(TlsPolicy::Never),
    )
    .unwrap();
    let items = to.iter().map(|to| {
        let envelope = Envelope::new("", [to]).unwrap();
        let opened = &opened;
        smtp_blocking::Message::new(envelope, move || {
            opened.set(opened.get() + 1);
            match to.starts_with("missing") {
                true => Err(std::io::ErrorKind::NotFound.into()),
                false => Ok(&b"Subject: x\r\n\r\n"[..]),
            }
        })
    });
    let mut bulk = session.send_all(items);
    let reports: Vec<Report> = bulk.by_ref().collect();
    assert_eq!(bulk.into_messages().count(), 1);
    assert_eq!(
        opened.get(),
        3,
        "neither the refused nor the last one was opened"
    );
    let outcome = |n: usize| {
        reports[n].recipients[0]
            .as_ref()
            .err()
            .map(|error| error.outcome)
    };
    let expected = [
        None,
        Some(Outcome::Permanent),
        None,
        Some(Outcome::Permanent),
    ];
    assert_eq!([0, 1, 2, 3].map(outcome), expected);
    assert_eq!(reports.len(), 4);
    assert_eq!(peer.arrived(), 2);
}

/// A message to one recipient, for the blocking adapter.
fn message(n: usize) -> smtp_blocking::Message<impl FnMut() -> std::io::Result<&'static [u8]>> {
    let envelope = Envelope::new("", [format!("r{n}@example.net")]).unwrap();
    smtp_blocking::Message::new(envelope, || Ok(&b"Subject: x\r\n\r\n"[..]))
}

#[test]
fn a_message_does_not_wait_for_the_next_one() {
    within_limit(|| {
        let peer = peer(|_| Act::Accept);
        let server = smtp_blocking::Server::new(peer.server()).tls(TlsPolicy::Never);
        let mut session = smtp_blocking::Session::connect(&server).unwrap();
        let (sender, messages) = mpsc::channel();
        let mut bulk = session.send_all(messages).and_quit();
        for n in 0..3 {
            sender.send(message(n)).unwrap();
            assert!(bulk.next().unwrap().is_success());
            assert_eq!(peer.arrived(), n as u64 + 1);
        }
        drop(sender);
        assert!(bulk.next().is_none());
    })
    .expect("it waits for the next message");
}

/// With overlap, the next message is asked for after everything before it is sent. With eager chunks, that is the
/// whole message.
#[test]
fn the_next_message_is_asked_for_when_everything_is_written() {
    for (chunking, last_word) in [(Chunking::Auto, "RCPT"), (Chunking::Eager, ".")] {
        within_limit(move || {
            let (sender, heard) = mpsc::channel();
            let peer = Peer::start(Options {
                chunking: true,
                act: Arc::new(move |moment| {
                    if moment.command.starts_with(last_word) {
                        let _ = sender.send(());
                    }
                    Act::Accept
                }),
                ..Options::default()
            })
            .unwrap();
            let server = smtp_blocking::Server::new(peer.server()).tls(TlsPolicy::Never);
            let server = server.overlap(true).chunking(chunking);
            let mut session = smtp_blocking::Session::connect(&server).unwrap();
            let messages = (0..3).map(move |n| {
                if n > 0 {
                    heard.recv().unwrap();
                }
                message(n)
            });
            let reports: Vec<_> = session.send_all(messages).and_quit().collect();
            assert_eq!(reports.len(), 3);
            assert!(reports.iter().all(Report::is_success));
        })
        .expect("it waits for the next message");
    }
}

/// A server that closes at the end of its fourth message.
fn lost_after_three() -> Peer {
    peer(|moment| match (moment.message, moment.command) {
        (3, ".") => Act::Cut,
        _ => Act::Accept,
    })
}

#[test]
fn a_lost_session_leaves_the_rest_to_the_caller_blocking() {
    for (overlap, submitted) in [(false, 4), (true, 5)] {
        let peer = lost_after_three();
        let server = smtp_blocking::Server::new(peer.server()).tls(TlsPolicy::Never);
        let mut session = smtp_blocking::Session::connect(server.overlap(overlap)).unwrap();
        assert_eq!(session.end(), None);
        let mut bulk = session.send_all((0..).map(message));
        let reports: Vec<_> = bulk.by_ref().collect();
        let first = bulk.into_messages().next().unwrap();
        let rest = (session.end(), first.envelope);
        has_left_the_rest(&reports, submitted, rest);
        // It does not take other messages either.
        let mut bulk = session.send_all((0..).map(message));
        assert!(bulk.next().is_none());
        assert_eq!(
            bulk.into_messages().next().unwrap().envelope,
            message(0).envelope
        );
    }
}

#[test]
fn a_lost_session_leaves_the_rest_to_the_caller_tokio() {
    for overlap in [false, true] {
        let peer = lost_after_three();
        let server = smtp_tokio::Server::new(peer.server()).tls(TlsPolicy::Never);
        let server = server.overlap(overlap);
        runtime().block_on(async {
            let message = |n: usize| {
                let envelope = message(n).envelope;
                smtp_tokio::Message::from_bytes(envelope, &b"Subject: x\r\n\r\n"[..])
            };
            let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
            let mut bulk = session.send_all(smtp_tokio::iter((0..).map(message)));
            let mut reports = Vec::new();
            while let Some(report) = bulk.next().await {
                reports.push(report);
            }
            let mut rest = bulk.into_messages();
            let first = poll_fn(|cx| rest.as_mut().poll_next(cx)).await.unwrap();
            let rest = (session.end(), first.envelope);
            has_left_the_rest(&reports, 5, rest);
        });
    }
}

/// Three messages were delivered, one is in doubt, and the submitted rest is not attempted. The next message was not
/// touched.
#[track_caller]
fn has_left_the_rest(
    reports: &[Report],
    submitted: usize,
    (end, first): (Option<smtp_proto::Error>, Envelope),
) {
    let outcome = |report: &Report| report.outcome();
    let mut expected = vec![None; 3];
    expected.push(Some(Outcome::InDoubt));
    expected.resize(submitted, Some(Outcome::NotAttempted));
    assert_eq!(reports.iter().map(outcome).collect::<Vec<_>>(), expected);
    assert_eq!(end.unwrap().cause, Cause::Disconnected);
    let expected = message(submitted).envelope;
    assert_eq!(first.forward_paths(), expected.forward_paths());
}
