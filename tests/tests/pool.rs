//! The pools of both adapters, judged by the books of the server: each message is taken once, unless its report says
//! otherwise, and there are never more connections than there may be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_core::Stream;
use smtp_adapter::{Error, Server};
use smtp_proto::error::Retry;
use smtp_proto::{Chunking, Credentials, Envelope, Report, Timeouts};
use smtp_tests::receiver::{Counts, Options, Receiver, Step};
use smtp_tests::watchdog;

/// How long the server may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

fn envelope(number: usize) -> Envelope {
    let recipient = format!("n{number}@example.net");
    Envelope::new("alice@example.org", [recipient.as_str()]).unwrap()
}

fn message(number: usize) -> String {
    format!("Subject: {number}\r\n\r\nThis is number {number}.\r\n")
}

/// Which adapter, and its pool.
enum Pool {
    Blocking(smtp_blocking::Pool),
    Tokio(smtp_tokio::Pool, Arc<tokio::runtime::Runtime>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adapter {
    Blocking,
    Tokio,
}

const BOTH: [Adapter; 2] = [Adapter::Blocking, Adapter::Tokio];

impl Pool {
    fn new(adapter: Adapter, server: Server, sessions: usize) -> Self {
        match adapter {
            Adapter::Blocking => {
                let pool = smtp_blocking::Pool::new(server).max_sessions(sessions);
                Self::Blocking(pool.max_idle(sessions))
            }
            Adapter::Tokio => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build();
                let pool = smtp_tokio::Pool::new(server).max_sessions(sessions);
                Self::Tokio(pool.max_idle(sessions), Arc::new(runtime.unwrap()))
            }
        }
    }

    /// Sends messages with these numbers, all at the same time.
    fn send(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<Result<Report, Error>> {
        match self {
            Self::Blocking(pool) => {
                let send = |number| {
                    let pool = pool.clone();
                    std::thread::spawn(move || pool.send(envelope(number), message(number)))
                };
                let threads: Vec<_> = numbers.into_iter().map(send).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            }
            Self::Tokio(pool, runtime) => {
                let send = |number| {
                    let pool = pool.clone();
                    runtime.spawn(async move { pool.send(envelope(number), message(number)).await })
                };
                let tasks: Vec<_> = numbers.into_iter().map(send).collect();
                runtime.block_on(async {
                    let mut results = vec![];
                    for task in tasks {
                        results.push(task.await.unwrap());
                    }
                    results
                })
            }
        }
    }

    fn close(&self) {
        match self {
            Self::Blocking(pool) => pool.close(),
            Self::Tokio(pool, _) => pool.close(),
        }
    }

    fn count(&self) -> (usize, usize) {
        match self {
            Self::Blocking(pool) => pool.count(),
            Self::Tokio(pool, _) => pool.count(),
        }
    }
}

/// How often the server has taken each message.
fn taken(receiver: &Receiver) -> BTreeMap<usize, usize> {
    let mut taken = BTreeMap::new();
    for stored in receiver.messages() {
        let [path] = &stored.forward_paths[..] else {
            panic!("{stored:?}");
        };
        let number = path
            .strip_prefix('n')
            .and_then(|rest| rest.strip_suffix("@example.net"))
            .and_then(|number| number.parse().ok())
            .unwrap();
        assert_eq!(stored.content(), message(number).as_bytes());
        *taken.entry(number).or_default() += 1;
    }
    taken
}

/// Each of these numbers was taken once, and nothing else.
#[track_caller]
fn each_once(receiver: &Receiver, numbers: impl IntoIterator<Item = usize>) {
    let expected: BTreeMap<_, _> = numbers.into_iter().map(|number| (number, 1)).collect();
    assert_eq!(taken(receiver), expected);
}

#[track_caller]
fn all_succeed(results: &[Result<Report, Error>]) {
    for result in results {
        assert!(result.as_ref().is_ok_and(Report::is_success), "{result:?}");
    }
}

/// Runs it for both adapters, with a watchdog.
fn for_both(test: fn(Adapter)) {
    for adapter in BOTH {
        watchdog::in_time(move || test(adapter));
    }
}

fn receiver(options: Options) -> Receiver {
    Receiver::start(options).unwrap()
}

#[test]
fn five_hundred_callers_share_eight_sessions() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), 8);
        all_succeed(&pool.send(0..500));
        each_once(&receiver, 0..500);
        let counts = receiver.counts();
        assert!(counts.peak <= 8, "{counts:?}");
        // At most 100 messages in each.
        assert!(counts.sessions <= 8 + 5, "{counts:?}");
        let (open, idle) = pool.count();
        assert!(open == idle && idle <= 8, "{open} {idle}");
        pool.close();
        let has_heard_quit = |counts: &Counts| counts.open == 0 && counts.quits == counts.sessions;
        assert!(
            receiver.wait_until(PATIENCE, has_heard_quit),
            "{:?}",
            receiver.counts()
        );
        let late = pool.send([500]).remove(0).unwrap_err();
        assert!(late.to_string().contains("the pool is closed"), "{late}");
    });
}

#[test]
fn idle_sessions_that_the_server_has_cut_are_replaced() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), 4);
        // So that each of the four is in use at one time.
        receiver
            .on(Step::EndOfData)
            .times(4)
            .delay(Duration::from_millis(100));
        all_succeed(&pool.send(0..8));
        let before = receiver.counts();
        receiver.cut_connections();
        all_succeed(&pool.send(8..28));
        each_once(&receiver, 0..28);
        let counts = receiver.counts();
        assert!(counts.peak <= 4, "{counts:?}");
        assert!(counts.sessions - before.sessions <= 4, "{counts:?}");
    });
}

#[test]
fn a_session_that_ends_under_a_message_is_followed_by_one_new_one() {
    for_both(|adapter| {
        for step in [Step::Mail, Step::Rcpt, Step::Data, Step::Body] {
            for is_cut in [true, false] {
                if step == Step::Body && !is_cut {
                    continue;
                }
                let receiver = Receiver::new();
                let pool = Pool::new(adapter, receiver.server().chunking(Chunking::Never), 1);
                all_succeed(&pool.send([0]));
                let rule = receiver.on(step).once();
                match (step, is_cut) {
                    (Step::Body, _) => rule.cut_after_octets(10),
                    (_, true) => rule.cut_before(),
                    (_, false) => rule.reply("421 4.3.2 going down"),
                }
                let results = pool.send([1]);
                // A body that the transport has taken to its end may have been delivered.
                match &results[0] {
                    Err(error) if step == Step::Body && error.is_in_doubt() => {
                        each_once(&receiver, [0]);
                    }
                    _ => {
                        all_succeed(&results);
                        each_once(&receiver, 0..2);
                        assert_eq!(receiver.counts().sessions, 2, "{step:?}");
                    }
                }

                // In a new session it is not tried again.
                receiver.cut_connections();
                receiver.on(Step::Mail).reply("421 4.3.2 going down");
                let before = receiver.counts().sessions;
                let error = pool.send([2]).remove(0).unwrap_err();
                assert_eq!(error.retry(), Retry::Later, "{error}");
                assert_eq!(receiver.counts().sessions - before, 1, "{step:?}");
            }
        }
    });
}

#[test]
fn what_may_have_been_delivered_is_not_sent_again() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), 1);
        all_succeed(&pool.send([0]));
        receiver.on(Step::EndOfData).once().cut_unanswered();
        let error = pool.send([1]).remove(0).unwrap_err();
        assert!(error.is_in_doubt(), "{error}");
        each_once(&receiver, 0..2);
        assert_eq!(receiver.counts().sessions, 1);
    });
}

#[test]
fn what_the_server_refuses_is_not_sent_again() {
    for_both(|adapter| {
        for (step, reply) in [
            (Step::Mail, "550 5.7.1 no"),
            (Step::Rcpt, "450 4.2.1 later"),
            (Step::Data, "554 5.5.1 no"),
            (Step::EndOfData, "421 4.3.0 not this one"),
            (Step::EndOfData, "554 5.6.0 no"),
        ] {
            let receiver = Receiver::new();
            let server = receiver.server().chunking(Chunking::Never);
            let pool = Pool::new(adapter, server, 1);
            all_succeed(&pool.send([0]));
            receiver.on(step).once().reply(reply);
            let error = pool.send([1]).remove(0).unwrap_err();
            assert!(error.error().reply().is_some(), "{error}");
            each_once(&receiver, [0]);
            let mails = receiver.commands();
            let mails = mails.iter().filter(|heard| heard.line.starts_with("MAIL"));
            assert_eq!(mails.count(), 2, "{step:?} {reply}");
            all_succeed(&pool.send([2]));
        }
    });
}

#[test]
fn a_server_takes_three_messages_in_a_session() {
    for_both(|adapter| {
        let options = Options {
            max_messages: Some(3),
            ..Options::default()
        };
        let receiver = receiver(options);
        let pool = Pool::new(adapter, receiver.server(), 2);
        all_succeed(&pool.send(0..20));
        each_once(&receiver, 0..20);
        assert!(receiver.counts().peak <= 2);

        // Where the pool knows, the server need not say so.
        let receiver = Receiver::new();
        let pool = match Pool::new(adapter, receiver.server(), 2) {
            Pool::Blocking(pool) => Pool::Blocking(pool.max_messages(3)),
            Pool::Tokio(pool, runtime) => Pool::Tokio(pool.max_messages(3), runtime),
        };
        all_succeed(&pool.send(0..20));
        each_once(&receiver, 0..20);
        let mut of_session = BTreeMap::<_, usize>::new();
        for stored in receiver.messages() {
            *of_session.entry(stored.session).or_default() += 1;
        }
        assert!(
            of_session.values().all(|&count| count <= 3),
            "{of_session:?}"
        );
        assert!(receiver.counts().peak <= 2);
    });
}

#[test]
fn a_server_that_falls_silent_holds_one_caller_up_and_no_other() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        receiver.on(Step::Mail).after(2).once().silence();
        let timeouts = Timeouts::default().replies(Duration::from_millis(300));
        let pool = Pool::new(adapter, receiver.server().timeouts(timeouts), 3);
        let results = pool.send(0..30);
        let failures: Vec<_> = results
            .iter()
            .filter_map(|one| one.as_ref().err())
            .collect();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].is_timeout(), "{}", failures[0]);
        assert_eq!(taken(&receiver).len(), 29);
        assert!(receiver.counts().peak <= 3);
    });
}

#[test]
fn a_token_that_expires_is_fetched_again() {
    for_both(|adapter| {
        let options = Options {
            auth: Some(("alice".into(), "token-1".into())),
            auth_by_token: true,
            auth_in_clear: true,
            ..Options::default()
        };
        let receiver = receiver(options);
        let fetched = Arc::new(AtomicU32::new(0));
        let (counter, epoch) = (fetched.clone(), Arc::new(AtomicU32::new(1)));
        let current = epoch.clone();
        let credentials = Credentials::token_from("alice", move || {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(format!("token-{}", current.load(Ordering::SeqCst)))
        });
        let server = receiver.server().credentials(credentials.permit_in_clear());
        let pool = Pool::new(adapter, server, 3);
        all_succeed(&pool.send(0..10));
        epoch.store(2, Ordering::SeqCst);
        receiver.set_password("token-2");
        receiver.cut_connections();
        all_succeed(&pool.send(10..20));
        each_once(&receiver, 0..20);
        let counts = receiver.counts();
        assert_eq!(counts.sessions, fetched.load(Ordering::SeqCst) as usize);
        assert_eq!(counts.logins, counts.logged_in);
    });
}

#[test]
fn five_hundred_callers_with_a_wrong_password_try_it_once() {
    for_both(|adapter| {
        let options = Options {
            auth: Some(("alice".into(), "right".into())),
            auth_in_clear: true,
            ..Options::default()
        };
        let receiver = receiver(options);
        let wrong = Credentials::password("alice", "wrong").permit_in_clear();
        let pool = Pool::new(adapter, receiver.server().credentials(wrong), 8);
        for result in pool.send(0..500) {
            let error = result.unwrap_err();
            assert_eq!(error.stage(), smtp_proto::Stage::Auth, "{error}");
            assert_eq!(
                error.outcome(),
                smtp_proto::Outcome::NotAttempted,
                "{error}"
            );
        }
        let counts = receiver.counts();
        assert_eq!((counts.logins, counts.messages), (1, 0), "{counts:?}");
    });
}

#[test]
fn a_pool_that_is_dropped_in_the_middle_finishes_what_was_begun() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        receiver.on(Step::EndOfData).delay(Duration::from_millis(5));
        let results = {
            let pool = Pool::new(adapter, receiver.server(), 2);
            match pool {
                Pool::Blocking(pool) => {
                    let send = |number| {
                        let pool = pool.clone();
                        std::thread::spawn(move || pool.send(envelope(number), message(number)))
                    };
                    let threads: Vec<_> = (0..20).map(send).collect();
                    drop(pool);
                    threads
                        .into_iter()
                        .map(|one| one.join().unwrap())
                        .collect::<Vec<_>>()
                }
                Pool::Tokio(pool, runtime) => {
                    let send = |number| {
                        let pool = pool.clone();
                        runtime.spawn(
                            async move { pool.send(envelope(number), message(number)).await },
                        )
                    };
                    let tasks: Vec<_> = (0..20).map(send).collect();
                    drop(pool);
                    runtime.block_on(async {
                        let mut results = vec![];
                        for task in tasks {
                            results.push(task.await.unwrap());
                        }
                        results
                    })
                }
            }
        };
        all_succeed(&results);
        each_once(&receiver, 0..20);
        assert!(receiver.wait_until(PATIENCE, |counts| counts.open == 0));
        assert!(receiver.counts().peak <= 2);
    });
}

/// Each future of a send is dropped at its n-th await, for each n. Whatever the server took then, the others are not
/// touched, and no connection is left.
#[test]
fn dropped_futures_touch_no_other() {
    watchdog::within_limit(|| {
        let receiver = Receiver::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let pool = smtp_tokio::Pool::new(receiver.server())
                .max_sessions(2)
                .max_idle(2);
            for number in 0..60 {
                let polls = number / 2;
                let mut dropped = Box::pin(pool.send(envelope(number), message(number)));
                let mut left = polls;
                let ended = std::future::poll_fn(|cx| {
                    if left == 0 {
                        return std::task::Poll::Ready(None);
                    }
                    left -= 1;
                    dropped.as_mut().poll(cx).map(Some)
                });
                if let Some(result) = ended.await {
                    all_succeed(&[result]);
                }
                drop(dropped);
                let after = 1_000 + number;
                let result = pool.send(envelope(after), message(after)).await;
                all_succeed(&[result]);
                let (open, idle) = pool.count();
                assert!(open == idle && open <= 2, "{open} {idle}");
            }
        });
        let taken = taken(&receiver);
        assert!(taken.values().all(|&times| times == 1), "{taken:?}");
        assert!((1_000..1_060).all(|number| taken.contains_key(&number)));
        assert!(receiver.counts().peak <= 2);
    })
    .expect("it hangs");
}

/// A delivery of many messages: the reports by number, and how many were given back.
impl Pool {
    fn send_all(&self, numbers: Vec<usize>) -> (Vec<(usize, Report)>, usize) {
        match self {
            Self::Blocking(pool) => {
                let messages = numbers.into_iter().map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_blocking::Message::from_bytes(envelope(number), text).tag(number)
                });
                let mut bulk = pool.send_all(messages);
                let reports = bulk.by_ref().collect();
                (reports, bulk.into_messages().count())
            }
            Self::Tokio(pool, runtime) => runtime.block_on(async {
                let messages = numbers.into_iter().map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_tokio::Message::from_bytes(envelope(number), text).tag(number)
                });
                let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                let mut reports = vec![];
                while let Some(report) = bulk.next().await {
                    reports.push(report);
                }
                (reports, count(bulk.into_messages().await).await)
            }),
        }
    }
}

async fn count(messages: impl Stream) -> usize {
    let (mut messages, mut count) = (std::pin::pin!(messages), 0);
    while std::future::poll_fn(|cx| messages.as_mut().poll_next(cx))
        .await
        .is_some()
    {
        count += 1;
    }
    count
}

/// Each message has one report, or was given back; and each report says what the server has done.
#[track_caller]
fn is_true(receiver: &Receiver, count: usize, (reports, left): &(Vec<(usize, Report)>, usize)) {
    let taken = taken(receiver);
    assert!(taken.values().all(|&times| times == 1), "{taken:?}");
    let mut numbers: Vec<_> = reports.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), reports.len());
    assert_eq!(reports.len() + left, count);
    assert!(
        taken
            .keys()
            .all(|number| numbers.binary_search(number).is_ok())
    );
    for (number, report) in reports {
        assert_eq!(
            report.mailboxes()[0].as_str(),
            format!("n{number}@example.net")
        );
        let in_doubt = report.failures().any(|failure| failure.error.is_in_doubt());
        assert!(
            in_doubt || report.is_success() == taken.contains_key(number),
            "{number}: {report:?}"
        );
    }
}

#[test]
fn a_thousand_messages_go_over_four_sessions() {
    for_both(|adapter| {
        for overlap in [false, true] {
            let receiver = Receiver::new();
            let pool = Pool::new(adapter, receiver.server().overlap(overlap), 4);
            let sent = pool.send_all((0..1_000).collect());
            is_true(&receiver, 1_000, &sent);
            assert!(sent.0.iter().all(|(_, report)| report.is_success()));
            let counts = receiver.counts();
            assert!(counts.peak <= 4 && counts.sessions <= 14, "{counts:?}");
            let (open, idle) = pool.count();
            assert_eq!(open, idle);
        }
    });
}

#[test]
fn a_delivery_outlives_its_sessions() {
    for_both(|adapter| {
        for overlap in [false, true] {
            for (step, times) in [
                (Step::Mail, 5),
                (Step::Rcpt, 5),
                (Step::Data, 5),
                (Step::Body, 5),
                (Step::EndOfData, 5),
            ] {
                let receiver = Receiver::new();
                let server = receiver.server().overlap(overlap);
                let pool = Pool::new(adapter, server.chunking(Chunking::Never), 3);
                for time in 0..times {
                    let rule = || receiver.on(step).after(10 + 20 * time).once();
                    match step {
                        Step::EndOfData => rule().cut_after(),
                        Step::Body => rule().cut_after_octets(20),
                        _ if time % 2 == 0 => rule().cut_before(),
                        _ => rule().reply("421 4.3.2 going down"),
                    }
                }
                let sent = pool.send_all((0..200).collect());
                is_true(&receiver, 200, &sent);
                let failures = sent.0.iter().flat_map(|(_, report)| report.failures());
                let failures: Vec<_> = failures.map(|failure| failure.to_string()).collect();
                // A body that was written to its end may have come, and the first message of a session is sent once.
                assert!(failures.len() <= times, "{step:?} {failures:?}");
                assert!(receiver.counts().peak <= 3);
            }
        }
    });
}

#[test]
fn a_delivery_keeps_to_what_a_server_takes_in_a_session() {
    for_both(|adapter| {
        let limits = smtp_tests::receiver::Limits {
            rcpt_max: 100,
            mail_max: 3,
        };
        for options in [
            Options {
                max_messages: Some(3),
                ..Options::default()
            },
            Options {
                limits: Some(limits),
                ..Options::default()
            },
        ] {
            let receiver = receiver(options);
            let pool = Pool::new(adapter, receiver.server().overlap(true), 2);
            let sent = pool.send_all((0..50).collect());
            is_true(&receiver, 50, &sent);
            assert!(sent.0.iter().all(|(_, report)| report.is_success()));
        }
    });
}

#[test]
fn a_server_that_cannot_be_reached_takes_none_of_the_messages() {
    for_both(|adapter| {
        let (_socket, closed) = smtp_tests::servers::dead::closed().unwrap();
        let pool = Pool::new(adapter, Server::new(closed.to_string()), 3);
        let (reports, left) = pool.send_all((0..100).collect());
        assert_eq!(reports.len() + left, 100);
        assert!((1..=3).contains(&reports.len()), "{reports:?}");
        for (_, report) in &reports {
            let failure = report.failures().next().unwrap();
            assert_eq!(failure.error.outcome, smtp_proto::Outcome::NotAttempted);
            assert!(failure.to_string().contains("refused"), "{failure}");
        }
    });
}

#[test]
fn a_server_that_takes_fewer_connections_is_sent_all_the_same() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        receiver
            .on(Step::Greeting)
            .after(2)
            .reply("421 4.7.0 too many connections");
        receiver.on(Step::Mail).delay(Duration::from_millis(1));
        let pool = Pool::new(adapter, receiver.server(), 6);
        let sent = pool.send_all((0..100).collect());
        is_true(&receiver, 100, &sent);
        assert!(sent.0.iter().all(|(_, report)| report.is_success()));
    });
}

#[test]
fn a_silent_session_does_not_hold_a_delivery_up() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        receiver.on(Step::EndOfData).after(5).once().silence();
        let timeouts = Timeouts::default().replies(Duration::from_millis(300));
        let pool = Pool::new(adapter, receiver.server().timeouts(timeouts), 3);
        let sent = pool.send_all((0..100).collect());
        is_true(&receiver, 100, &sent);
        let failures = sent.0.iter().filter(|(_, report)| !report.is_success());
        assert!(failures.count() <= 1);
    });
}

/// As an application sends a bounce, or a message about the delivery.
#[test]
fn the_pool_can_be_used_in_the_loop_over_the_reports() {
    for_both(|adapter| {
        for sessions in [1, 2] {
            let receiver = Receiver::new();
            match Pool::new(adapter, receiver.server(), sessions) {
                Pool::Blocking(pool) => {
                    let messages = (0..300).map(|number| {
                        let text = bytes::Bytes::from(message(number));
                        smtp_blocking::Message::from_bytes(envelope(number), text).tag(number)
                    });
                    for (number, report) in pool.send_all(messages) {
                        assert!(report.is_success());
                        let other = 1_000 + number;
                        all_succeed(&[pool.send(envelope(other), message(other))]);
                    }
                }
                Pool::Tokio(pool, runtime) => runtime.block_on(async {
                    let messages = (0..300).map(|number| {
                        let text = bytes::Bytes::from(message(number));
                        smtp_tokio::Message::from_bytes(envelope(number), text).tag(number)
                    });
                    let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                    while let Some((number, report)) = bulk.next().await {
                        assert!(report.is_success());
                        let other = 1_000 + number;
                        all_succeed(&[pool.send(envelope(other), message(other)).await]);
                    }
                }),
            }
            each_once(&receiver, (0..300).chain(1_000..1_300));
            assert!(receiver.counts().peak <= sessions);
        }
    });
}

/// A source that has nothing at the moment keeps no session, and holds no report up.
#[test]
fn a_slow_source_keeps_nothing() {
    for_both(|adapter| {
        for overlap in [false, true] {
            let receiver = Receiver::new();
            let (sender, source) = std::sync::mpsc::channel::<usize>();
            match Pool::new(adapter, receiver.server().overlap(overlap), 1) {
                Pool::Blocking(pool) => {
                    let messages = source.into_iter().map(|number| {
                        let text = bytes::Bytes::from(message(number));
                        smtp_blocking::Message::from_bytes(envelope(number), text).tag(number)
                    });
                    let mut bulk = pool.send_all(messages);
                    for number in 0..3 {
                        sender.send(number).unwrap();
                        assert_eq!(bulk.next().unwrap().0, number);
                        let other = 1_000 + number;
                        all_succeed(&[pool.send(envelope(other), message(other))]);
                    }
                    drop(sender);
                    assert!(bulk.next().is_none());
                }
                Pool::Tokio(pool, runtime) => runtime.block_on(async {
                    let (sender, source) = tokio::sync::mpsc::unbounded_channel::<usize>();
                    let messages = Channel(source, |number| {
                        let text = bytes::Bytes::from(message(number));
                        smtp_tokio::Message::from_bytes(envelope(number), text).tag(number)
                    });
                    let mut bulk = pool.send_all(messages);
                    for number in 0..3 {
                        sender.send(number).unwrap();
                        assert_eq!(bulk.next().await.unwrap().0, number);
                        let other = 1_000 + number;
                        all_succeed(&[pool.send(envelope(other), message(other)).await]);
                    }
                    drop(sender);
                    assert!(bulk.next().await.is_none());
                }),
            }
            each_once(&receiver, (0..3).chain(1_000..1_003));
        }
    });
}

struct Channel<M>(tokio::sync::mpsc::UnboundedReceiver<usize>, M);

impl<M: Unpin, O> Stream for Channel<M>
where
    M: FnMut(usize) -> O,
{
    type Item = O;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<O>> {
        let number = std::task::ready!(self.0.poll_recv(cx));
        std::task::Poll::Ready(number.map(|number| (self.1)(number)))
    }
}

/// What waits for a session, or comes later, is not begun any more, and is given back.
#[test]
fn a_delivery_that_is_given_up_begins_nothing() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        match Pool::new(adapter, receiver.server(), 1) {
            Pool::Blocking(pool) => {
                let session = pool.session().unwrap();
                let (asks, asked) = std::sync::mpsc::channel();
                let messages = (0..3).inspect(move |_| asks.send(()).unwrap());
                let messages = messages.map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_blocking::Message::from_bytes(envelope(number), text)
                });
                let bulk = pool.send_all(messages);
                asked.recv().unwrap();
                assert_eq!(bulk.into_messages().count(), 3);
                drop(session);
                let (sender, source) = std::sync::mpsc::channel::<usize>();
                let bulk = pool.send_all(source.into_iter().map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_blocking::Message::from_bytes(envelope(number), text)
                }));
                drop(bulk);
                sender.send(4).unwrap();
                // When the source has ended, so has the delivery.
                while sender.send(5).is_ok() {
                    std::thread::yield_now();
                }
            }
            Pool::Tokio(pool, runtime) => runtime.block_on(async {
                let session = pool.session().await.unwrap();
                let messages = (0..3).map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_tokio::Message::from_bytes(envelope(number), text)
                });
                let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                tokio::select! {
                    biased;
                    _ = bulk.next() => panic!("there is no session"),
                    () = tokio::task::yield_now() => {}
                }
                assert_eq!(count(bulk.into_messages().await).await, 3);
                drop(session);
            }),
        }
        assert_eq!(receiver.messages().len(), 0);
        assert_eq!(receiver.counts().peak, 1);
    });
}

#[test]
fn a_pool_that_is_closed_ends_its_deliveries() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), 1);
        let (reports, left) = match &pool {
            Pool::Blocking(pool) => {
                let messages = (0..500).map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_blocking::Message::from_bytes(envelope(number), text).tag(number)
                });
                let mut bulk = pool.send_all(messages);
                let mut reports = vec![bulk.next().unwrap()];
                pool.close();
                reports.extend(bulk.by_ref());
                (reports, bulk.into_messages().count())
            }
            Pool::Tokio(pool, runtime) => runtime.block_on(async {
                let messages = (0..500).map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_tokio::Message::from_bytes(envelope(number), text).tag(number)
                });
                let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                let mut reports = vec![bulk.next().await.unwrap()];
                pool.close();
                while let Some(report) = bulk.next().await {
                    reports.push(report);
                }
                (reports, count(bulk.into_messages().await).await)
            }),
        };
        is_true(&receiver, 500, &(reports, left));
        assert!(left > 0);
        assert!(receiver.wait_until(PATIENCE, |counts| counts.open == 0));
    });
}

/// The content of one message cannot be read: that costs the others nothing.
#[test]
fn a_message_that_cannot_be_read_costs_no_other() {
    for_both(|adapter| {
        for overlap in [false, true] {
            let receiver = Receiver::new();
            let server = receiver.server().overlap(overlap).chunking(Chunking::Never);
            let failed: Vec<(usize, String)> = match Pool::new(adapter, server, 1) {
                Pool::Blocking(pool) => {
                    let messages = (0..20).map(|number| {
                        let open = move || match number % 5 {
                            2 => Err(std::io::Error::other("the disk is gone")),
                            _ => Ok(std::io::Cursor::new(message(number))),
                        };
                        smtp_blocking::Message::new(envelope(number), open).tag(number)
                    });
                    let failures = |(number, report): (usize, Report)| {
                        let failure = report.failures().next()?.to_string();
                        Some((number, failure))
                    };
                    pool.send_all(messages).filter_map(failures).collect()
                }
                Pool::Tokio(pool, runtime) => runtime.block_on(async {
                    let messages = (0..20).map(|number| {
                        let open = move || async move {
                            match number % 5 {
                                2 => Err(std::io::Error::other("the disk is gone")),
                                _ => Ok(std::io::Cursor::new(message(number))),
                            }
                        };
                        smtp_tokio::Message::new(envelope(number), open).tag(number)
                    });
                    let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                    let mut failed = vec![];
                    while let Some((number, report)) = bulk.next().await {
                        let failures = report.failures().map(|one| (number, one.to_string()));
                        failed.extend(failures);
                    }
                    failed
                }),
            };
            let mut numbers: Vec<_> = failed.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, [2, 7, 12, 17], "{failed:?}");
            assert_eq!(taken(&receiver).len(), 16);
        }
    });
}

/// A server that answers an overlapping envelope with 503 takes all messages, and none overlaps any more.
#[test]
fn a_server_that_takes_no_overlap_is_sent_all_the_same() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        receiver
            .on(Step::Mail)
            .after(1)
            .once()
            .reply("503 5.5.1 nested MAIL command");
        let server = receiver.server().overlap(true).chunking(Chunking::Never);
        let sent = Pool::new(adapter, server, 1).send_all((0..20).collect());
        is_true(&receiver, 20, &sent);
        assert!(
            sent.0.iter().all(|(_, report)| report.is_success()),
            "{sent:?}"
        );
    });
}

/// What panics in a delivery goes on in the caller, and nobody hangs.
#[test]
fn a_panic_ends_a_delivery() {
    for_both(|adapter| {
        for in_token in [false, true] {
            let options = Options {
                auth: Some(("alice".into(), "token".into())),
                auth_by_token: true,
                auth_in_clear: true,
                ..Options::default()
            };
            let receiver = receiver(options);
            let credentials = Credentials::token_from("alice", move || {
                assert!(!in_token, "no token");
                Ok::<_, String>("token".to_owned())
            });
            let server = receiver.server().credentials(credentials.permit_in_clear());
            let ended = std::thread::spawn(move || {
                let open = move |number| {
                    assert!(in_token || number != 5, "no content");
                    std::io::Cursor::new(message(number))
                };
                match Pool::new(adapter, server, 2) {
                    Pool::Blocking(pool) => {
                        let messages = (0..20).map(move |number| {
                            let open = move || Ok(open(number));
                            smtp_blocking::Message::new(envelope(number), open)
                        });
                        pool.send_all(messages).count()
                    }
                    Pool::Tokio(pool, runtime) => runtime.block_on(async {
                        let messages = (0..20).map(move |number| {
                            let open = move || std::future::ready(Ok(open(number)));
                            smtp_tokio::Message::new(envelope(number), open)
                        });
                        count(pool.send_all(smtp_tokio::iter(messages))).await
                    }),
                }
            })
            .join();
            assert!(ended.is_err(), "{adapter:?} {in_token}");
        }
    });
}

#[test]
fn there_are_no_more_workers_than_messages() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), usize::MAX);
        let sent = pool.send_all((0..3).collect());
        is_true(&receiver, 3, &sent);
        assert!(receiver.counts().sessions <= 3);
    });
}

#[test]
fn a_bound_that_is_lowered_holds_at_once() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        receiver
            .on(Step::EndOfData)
            .times(4)
            .delay(Duration::from_millis(100));
        let pool = Pool::new(adapter, receiver.server(), 4);
        all_succeed(&pool.send(0..8));
        let pool = match pool {
            Pool::Blocking(pool) => Pool::Blocking(pool.max_sessions(1)),
            Pool::Tokio(pool, runtime) => {
                let _in_it = runtime.enter();
                Pool::Tokio(pool.max_sessions(1), runtime.clone())
            }
        };
        assert!(receiver.wait_until(PATIENCE, |counts| counts.open <= 1));
        all_succeed(&pool.send(8..20));
        assert!(pool.count().0 <= 1);
        each_once(&receiver, 0..20);
    });
}

/// As a static pool does in tests, where each test has its own runtime.
#[test]
fn a_pool_outlives_a_runtime() {
    let receiver = Receiver::new();
    let pool = smtp_tokio::Pool::new(receiver.server());
    for number in 0..3 {
        let pool = pool.clone();
        let sent = watchdog::within_limit(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(pool.send(envelope(number), message(number)))
        });
        all_succeed(&[sent.expect("it hangs")]);
    }
    each_once(&receiver, 0..3);
}

/// Callers that lose patience do not try a password that may be wrong again and again: the server has it already.
#[test]
fn impatient_callers_try_a_login_once() {
    watchdog::within_limit(|| {
        let options = Options {
            auth: Some(("alice".into(), "right".into())),
            auth_in_clear: true,
            ..Options::default()
        };
        let receiver = receiver(options);
        receiver.on(Step::Login).silence();
        let wrong = Credentials::password("alice", "wrong").permit_in_clear();
        let pool = smtp_tokio::Pool::new(receiver.server().credentials(wrong));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let first = tokio::spawn({
                let pool = pool.clone();
                async move { pool.session().await.map(drop) }
            });
            let has_password = || {
                let commands = receiver.commands();
                commands.iter().any(|heard| heard.line.starts_with("AUTH"))
            };
            while !has_password() {
                tokio::task::yield_now().await;
            }
            first.abort();
            let _ = first.await;
            let mut next = std::pin::pin!(pool.session());
            std::future::poll_fn(|cx| {
                assert!(next.as_mut().poll(cx).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            // It has a place, and opens nothing in it.
            assert_eq!(pool.count(), (1, 0));
            assert!(receiver.wait_until(PATIENCE, |counts| counts.open == 0));
        });
        assert_eq!(receiver.counts().sessions, 1);
    })
    .expect("it hangs");
}

#[test]
fn a_delivery_leaves_room_for_others() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        match Pool::new(adapter, receiver.server(), 1) {
            Pool::Blocking(pool) => {
                let endless = (0..).map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_blocking::Message::from_bytes(envelope(number), text)
                });
                let mut bulk = pool.send_all(endless);
                assert!(bulk.next().unwrap().1.is_success());
                let other = std::thread::spawn({
                    let pool = pool.clone();
                    move || pool.send(envelope(1_000_000), message(1_000_000))
                });
                while !other.is_finished() {
                    assert!(bulk.next().unwrap().1.is_success());
                }
                all_succeed(&[other.join().unwrap()]);
                let next = bulk.into_messages().next().unwrap();
                assert!(next.envelope.forward_paths()[0].as_str().starts_with('n'));
            }
            Pool::Tokio(pool, runtime) => runtime.block_on(async {
                let endless = (0..).map(|number| {
                    let text = bytes::Bytes::from(message(number));
                    smtp_tokio::Message::from_bytes(envelope(number), text)
                });
                let mut bulk = pool.send_all(smtp_tokio::iter(endless));
                assert!(bulk.next().await.unwrap().1.is_success());
                let other = pool.send(envelope(1_000_000), message(1_000_000));
                let mut other = std::pin::pin!(other);
                let result = loop {
                    tokio::select! {
                        result = &mut other => break result,
                        sent = bulk.next() => assert!(sent.unwrap().1.is_success()),
                    }
                };
                all_succeed(&[result]);
                drop(bulk);
                let result = pool.send(envelope(1_000_001), message(1_000_001)).await;
                all_succeed(&[result]);
            }),
        }
        let taken = taken(&receiver);
        assert!(taken.values().all(|&times| times == 1));
        assert!(receiver.counts().peak <= 1);
    });
}
