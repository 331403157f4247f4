//! What a server or a caller can do to a delivery over several sessions.

use std::io::{self, Cursor};
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, mpsc};

use smtp_proto::{Chunking, Outcome, Report};

use crate::both::*;

/// A session whose domains are used up takes messages for these domains still. So it is kept, and must not be chosen
/// again for the message that it could not take.
#[test]
fn a_session_that_has_no_room_for_a_domain_is_followed_by_a_new_one() {
    for_both(|adapter| {
        for sessions in [1, 3] {
            let receiver = receiver_that_offers("LIMITS RCPTDOMAINMAX=1");
            let pool = Pool::new(adapter, receiver.server(), sessions);
            let messages =
                (0..12).map(|n| (to(&[format!("n{n}@{}.example.net", n % 3)]), message(n)));
            let sent = pool.send_all(messages.collect());
            assert_eq!((sent.reports.len(), sent.left.len()), (12, 0));
            assert!(sent.reports().all(|report| report.is_success()));
            are_true(&receiver, sent.reports());
            assert!(receiver.counts().peak <= sessions);
            // So does a single message.
            for n in 20..26 {
                let one = to(&[format!("n{n}@{}.example.net", n % 3)]);
                assert!(
                    pool.send(one, &message(n))
                        .is_ok_and(|report| report.is_success())
                );
            }
        }
    });
}

/// What no session can take is refused, once and for all.
#[test]
fn a_message_with_too_many_recipients_has_a_report() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let mut limits = smtp_proto::Limits::default();
        limits.recipients = 2;
        let pool = Pool::new(adapter, receiver.server().limits(limits), 1);
        let too_many = ["a@example.net", "b@example.net", "c@example.net"];
        let mut messages: Vec<_> = (0..9).map(|n| (envelope(n), message(n))).collect();
        messages[4].0 = to(&too_many);
        let sent = pool.send_all(messages);
        assert_eq!((sent.reports.len(), sent.left.len()), (9, 0));
        are_true(&receiver, sent.reports());
        for (tag, report) in &sent.reports {
            assert_eq!(report.is_success(), *tag != 4);
            if *tag == 4 {
                assert_eq!(report.outcome(), Some(Outcome::Permanent), "{report:?}");
            }
        }
        // It is no fault of the session.
        assert_eq!(receiver.counts().sessions, 1);
    });
}

/// The source has more messages than are asked for in advance when the last worker is gone. All that was sent has its
/// report before the panic goes on.
#[test]
fn a_panic_with_many_messages_left_ends_the_delivery() {
    for_both(|adapter| {
        for sessions in [1, 3] {
            let receiver = Receiver::new();
            let pool = Pool::new(adapter, receiver.server(), sessions);
            let reports = Mutex::new(vec![]);
            let tell = |(tag, report): (usize, Report)| {
                assert_eq!(
                    report.mailboxes()[0].to_string(),
                    format!("n{tag}@example.net")
                );
                reports.lock().unwrap().push(report);
            };
            let open = |number: usize| {
                assert!(number % 10 != 5, "no content");
                Cursor::new(message(number))
            };
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| match &pool {
                Pool::Blocking(pool) => {
                    let messages = (0..500).map(move |n| {
                        smtp_blocking::Message::new(envelope(n), move || Ok(open(n))).tag(n)
                    });
                    pool.send_all(messages).for_each(tell);
                }
                Pool::Tokio(pool, runtime) => runtime.block_on(async {
                    let messages = (0..500).map(move |n| {
                        let open = move || std::future::ready(Ok(open(n)));
                        smtp_tokio::Message::new(envelope(n), open).tag(n)
                    });
                    let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                    while let Some(finished) = bulk.next().await {
                        tell(finished);
                    }
                }),
            }));
            assert!(ended.is_err(), "{adapter:?}");
            are_true(&receiver, reports.lock().unwrap().iter());
            // No place has leaked.
            let (open, idle) = pool.count();
            assert!(open == idle && open <= sessions, "{open} {idle}");
            assert!(pool.send(envelope(999), &message(999)).is_ok());
        }
    });
}

/// Its tasks are gone, and the caller lives on in another runtime. No message is lost without a word.
#[test]
fn a_runtime_that_ends_under_a_delivery_loses_no_message() {
    in_time(|| {
        for after in [0, 5, 40] {
            let receiver = Receiver::new();
            receiver.on(Step::EndOfData).after(after).silence();
            let (one, other) = (runtime(), runtime());
            let pool = smtp_tokio::Pool::new(receiver.server()).max_sessions(3);
            let messages = (0..100).map(|n| {
                let text = bytes::Bytes::from(message(n));
                smtp_tokio::Message::from_bytes(envelope(n), text).tag(n)
            });
            let mut bulk = pool.send_all(smtp_tokio::iter(messages));
            let mut reports = vec![];
            one.block_on(async {
                // It begins here.
                let mut wanted = after + 1;
                while wanted > 0 {
                    tokio::select! {
                        Some(report) = bulk.next() => reports.push(report),
                        () = tokio::task::yield_now() => {}
                    }
                    wanted = (after + 1).saturating_sub(heard(&receiver, "BDAT"));
                }
            });
            one.shutdown_background();
            let left = other.block_on(async {
                while let Some(report) = bulk.next().await {
                    reports.push(report);
                }
                all(bulk.into_messages().await).await
            });
            assert_eq!(reports.len() + left.len(), 100);
            are_true(&receiver, reports.iter().map(|(_, report)| report));
            let in_doubt = |report: &Report| report.outcome() == Some(Outcome::InDoubt);
            let in_doubt = reports.iter().filter(|(_, report)| in_doubt(report));
            assert!((1..=3).contains(&in_doubt.count()), "{reports:?}");
        }
    });
}

/// The caller waits for the end of the reports, and only then feeds the source again.
#[test]
fn a_source_that_waits_for_the_caller_holds_no_end_up() {
    for_both(|adapter| {
        let (_socket, closed) = smtp_tests::servers::dead::closed().unwrap();
        let server = smtp_adapter::Server::new(closed.to_string());
        match Pool::new(adapter, server, 2) {
            Pool::Blocking(pool) => {
                let (sender, source) = mpsc::channel();
                let messages = source.into_iter().map(|n| {
                    let text = bytes::Bytes::from(message(n));
                    smtp_blocking::Message::from_bytes(envelope(n), text).tag(n)
                });
                let mut bulk = pool.send_all(messages);
                sender.send(0).unwrap();
                let (tag, report) = bulk.next().unwrap();
                assert_eq!((tag, report.outcome()), (0, Some(Outcome::NotAttempted)));
                assert!(bulk.next().is_none());
                sender.send(1).unwrap();
                drop(sender);
                let left: Vec<_> = bulk.into_messages().map(|message| message.tag).collect();
                assert_eq!(left, [1]);
            }
            Pool::Tokio(pool, runtime) => runtime.block_on(async {
                let (sender, source) = tokio::sync::mpsc::unbounded_channel();
                let messages = Channel(source);
                let mut bulk = pool.send_all(messages);
                sender.send(0).unwrap();
                let (tag, report) = bulk.next().await.unwrap();
                assert_eq!((tag, report.outcome()), (0, Some(Outcome::NotAttempted)));
                assert!(bulk.next().await.is_none());
                sender.send(1).unwrap();
                drop(sender);
                let left = all(bulk.into_messages().await).await;
                let left: Vec<_> = left.iter().map(|message| message.tag).collect();
                assert_eq!(left, [1]);
            }),
        }
    });
}

struct Channel(tokio::sync::mpsc::UnboundedReceiver<usize>);

type Open = Box<dyn FnMut() -> std::future::Ready<io::Result<Cursor<String>>> + Send>;

impl futures_core::Stream for Channel {
    type Item = smtp_tokio::Message<Open, usize>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let number = std::task::ready!(self.0.poll_recv(cx));
        std::task::Poll::Ready(number.map(|number| {
            let open: Open = Box::new(move || std::future::ready(Ok(Cursor::new(message(number)))));
            smtp_tokio::Message::new(envelope(number), open).tag(number)
        }))
    }
}

/// What is given back was not sent, whenever the caller takes it back, and nothing that was sent is given back.
#[test]
fn what_is_given_back_was_not_sent() {
    for_both(|adapter| {
        for after in [0, 1, 7, 40] {
            for max_messages in [None, Some(3)] {
                let receiver = receiver(Options {
                    max_messages,
                    ..Options::default()
                });
                let server = receiver.server().overlap(true).chunking(Chunking::Never);
                let pool = Pool::new(adapter, server, 3);
                let (reports, left): (Vec<_>, Vec<_>) = match &pool {
                    Pool::Blocking(pool) => {
                        let messages = (0..200).map(|n| {
                            let text = bytes::Bytes::from(message(n));
                            smtp_blocking::Message::from_bytes(envelope(n), text).tag(n)
                        });
                        let mut bulk = pool.send_all(messages);
                        let reports = bulk.by_ref().take(after).collect();
                        (reports, bulk.into_messages().map(|one| one.tag).collect())
                    }
                    Pool::Tokio(pool, runtime) => runtime.block_on(async {
                        let messages = (0..200).map(|n| {
                            let text = bytes::Bytes::from(message(n));
                            smtp_tokio::Message::from_bytes(envelope(n), text).tag(n)
                        });
                        let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                        let mut reports = vec![];
                        for _ in 0..after {
                            reports.push(bulk.next().await.unwrap());
                        }
                        let left = all(bulk.into_messages().await).await;
                        (reports, left.iter().map(|one| one.tag).collect())
                    }),
                };
                let taken = taken(&receiver);
                let is_taken = |n: &usize| taken.contains_key(&format!("n{n}@example.net"));
                assert!(!left.iter().any(is_taken), "{left:?} {taken:?}");
                assert!(reports.iter().all(|(n, _)| is_taken(n)));
                // Each of the rest was sent, and its report is lost.
                assert_eq!(taken.len() + left.len(), 200, "{adapter:?} {after}");
                assert!(taken.values().all(|&times| times == 1));
            }
        }
    });
}
