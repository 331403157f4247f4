//! The pools of both adapters, judged by the books of the server: each message is taken once, unless its report says
//! otherwise, and there are never more connections than there may be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

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
        watchdog::within_limit(move || test(adapter)).expect("it hangs");
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
