//! What callers can do to a pool, and to each other.

use std::future::Future;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use smtp_adapter::Server;
use smtp_proto::event::Trace;
use smtp_proto::reply::ReplyClass;
use smtp_proto::request::{XClient, XForward};
use smtp_proto::{Credentials, Request, TlsPolicy};

use crate::both::*;

/// A message in memory can be sent as often as it takes.
#[test]
fn more_recipients_than_a_transaction_takes_are_sent_in_several() {
    for_both(|adapter| {
        let limits = Limits {
            rcpt_max: 3,
            mail_max: 100,
        };
        for learn_limits in [false, true] {
            let receiver = receiver(Options {
                limits: (!learn_limits).then_some(limits),
                ..Options::default()
            });
            if learn_limits {
                receiver
                    .on(Step::Rcpt)
                    .with("n3@")
                    .once()
                    .reply("452 4.5.3 too many recipients");
            }
            let server = receiver.server().learn_limits(learn_limits);
            let pool = Pool::new(adapter, server, 1);
            // In a session that is new, and in one that is not.
            for first in [0, 8] {
                let recipients: Vec<_> = (first..first + 8)
                    .map(|n| format!("n{n}@example.net"))
                    .collect();
                let report = pool.send(to(&recipients), &message(0)).unwrap();
                assert!(report.is_success(), "{report:?}");
            }
            assert_eq!(taken(&receiver).len(), 16);
            assert!(taken(&receiver).values().all(|&times| times == 1));
            assert!(
                receiver
                    .messages()
                    .iter()
                    .all(|one| one.content() == message(0).as_bytes())
            );
            assert_eq!(receiver.counts().sessions, 1);
            // All or nothing is one transaction, or none.
            if !learn_limits {
                let recipients: Vec<_> = (20..28).map(|n| format!("n{n}@example.net")).collect();
                let error = pool
                    .send(to(&recipients).all_or_nothing(true), &message(0))
                    .unwrap_err();
                assert!(error.to_string().contains("RCPTMAX"), "{error}");
                assert_eq!(taken(&receiver).len(), 16);
            }
        }
    });
}

/// Some executors look around where they are woken, and some poll there and then.
#[test]
fn a_waker_may_use_the_pool() {
    in_time(|| {
        struct Looks(smtp_tokio::Pool, AtomicUsize);

        impl Wake for Looks {
            fn wake(self: Arc<Self>) {
                let _ = self.0.count();
                self.1.fetch_add(1, Ordering::SeqCst);
            }
        }

        let receiver = Receiver::new();
        let runtime = runtime();
        let _in_it = runtime.enter();
        let pool = smtp_tokio::Pool::new(receiver.server()).max_sessions(1);
        let session = runtime.block_on(pool.session()).unwrap();
        let bell = Arc::new(Looks(pool.clone(), AtomicUsize::new(0)));
        let waker = Waker::from(bell.clone());
        let mut waits = pin!(pool.session());
        assert!(
            waits
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        // The session goes back, and wakes who waits for it.
        drop(session);
        assert_eq!(bell.1.load(Ordering::SeqCst), 1);
        assert!(runtime.block_on(waits).is_ok());
        // A higher bound, and the end of the pool, wake as well.
        let session = runtime.block_on(pool.session()).unwrap();
        let mut waits = pin!(pool.session());
        assert!(
            waits
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        let _ = pool.clone().max_sessions(2);
        pool.close();
        assert!(bell.1.load(Ordering::SeqCst) >= 3);
        assert!(runtime.block_on(waits).is_err());
        drop(session);
    });
}

/// The same for the reports of a delivery.
#[test]
fn a_waker_may_ask_for_reports() {
    in_time(|| {
        type Reports = Arc<Mutex<Vec<usize>>>;
        type Next = Box<dyn FnMut(&Waker) -> Poll<Option<usize>> + Send>;
        struct Polls(Reports, Mutex<Next>);

        impl Wake for Polls {
            fn wake(self: Arc<Self>) {
                let waker = Waker::from(self.clone());
                let Ok(mut poll) = self.1.try_lock() else {
                    // It is being polled, and must be so once more.
                    std::thread::spawn(move || waker.wake());
                    return;
                };
                while let Poll::Ready(Some(number)) = poll(&waker) {
                    self.0.lock().unwrap().push(number);
                }
            }
        }

        let receiver = Receiver::new();
        let runtime = Arc::new(runtime());
        let pool = smtp_tokio::Pool::new(receiver.server()).max_sessions(2);
        let messages = (0..50).map(|n| {
            let text = bytes::Bytes::from(message(n));
            smtp_tokio::Message::from_bytes(envelope(n), text).tag(n)
        });
        let mut bulk = pool.send_all(smtp_tokio::iter(messages));
        let reports = Reports::default();
        let handle = runtime.handle().clone();
        let poll = move |waker: &Waker| {
            let _in_it = handle.enter();
            let next = pin!(bulk.next());
            next.poll(&mut Context::from_waker(waker))
                .map(|one| one.map(|(tag, _)| tag))
        };
        let polls = Arc::new(Polls(reports.clone(), Mutex::new(Box::new(poll))));
        polls.clone().wake();
        while reports.lock().unwrap().len() < 50 {
            std::thread::yield_now();
        }
        assert_eq!(taken(&receiver).len(), 50);
    });
}

/// The server takes such a session for that of another client.
#[test]
fn a_session_that_speaks_for_another_client_is_not_kept() {
    for_both(|adapter| {
        let name = || Some("elsewhere.example".to_owned());
        let requests = [
            Request::xclient([XClient::Name(name())]).unwrap(),
            Request::xforward([XForward::Name(name())]).unwrap(),
        ];
        for (index, request) in requests.into_iter().enumerate() {
            let (address, heard) = proxied();
            let server = Server::new(address).tls(TlsPolicy::Never);
            let pool = Pool::new(adapter, server, 1);
            match &pool {
                Pool::Blocking(pool) => {
                    let mut session = pool.session().unwrap();
                    assert!(session.request(request).unwrap().class() == ReplyClass::Success);
                    assert!(
                        session.request(Request::noop()).unwrap().class() == ReplyClass::Success
                    );
                }
                Pool::Tokio(pool, runtime) => runtime.block_on(async {
                    let mut session = pool.session().await.unwrap();
                    assert!(session.request(request).await.unwrap().class() == ReplyClass::Success);
                    assert!(
                        session.request(Request::noop()).await.unwrap().class()
                            == ReplyClass::Success
                    );
                }),
            }
            let report = pool.send(envelope(1), &message(1)).unwrap();
            assert!(report.is_success());
            let verbs: Vec<_> = heard.try_iter().collect();
            let of = |verb| verbs.iter().filter(move |(_, line)| line.starts_with(verb));
            let (told, mails): (Vec<_>, Vec<_>) = (of("X").collect(), of("MAIL").collect());
            assert_eq!((told.len(), mails.len()), (1, 1), "{verbs:?}");
            assert_ne!(
                told[0].0, mails[0].0,
                "{index}: sent in the name of another client"
            );
        }
    });
}

/// A server behind a proxy, which believes what it is told of the client. It tells what it hears, with the number of the
/// connection.
fn proxied() -> (String, mpsc::Receiver<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tells, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, tells) = (stream.unwrap(), tells.clone());
            std::thread::spawn(move || -> io::Result<()> {
                let lines = BufReader::new(stream.try_clone()?).lines();
                let mut is_in_data = false;
                stream.write_all(b"220 mx.example.net\r\n")?;
                for line in lines {
                    let line = line?;
                    let reply = match line.split(' ').next().unwrap() {
                        "." => "250 taken\r\n",
                        _ if is_in_data => continue,
                        "EHLO" => "250-mx.example.net\r\n250-XFORWARD NAME\r\n250 XCLIENT NAME\r\n",
                        "XCLIENT" => "220 mx.example.net\r\n",
                        "DATA" => "354 go on\r\n",
                        _ => "250 yes\r\n",
                    };
                    is_in_data = line == "DATA";
                    let _ = tells.send((number, line));
                    stream.write_all(reply.as_bytes())?;
                }
                Ok(())
            });
        }
    });
    (address, heard)
}

/// A caller that panics with a session in its hands takes its place with it, and nothing else.
#[test]
fn a_caller_that_panics_keeps_no_place() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), 1);
        for number in 0..3 {
            let inner = pool.clone();
            let ended = std::thread::spawn(move || match inner {
                Pool::Blocking(pool) => {
                    let mut session = pool.session().unwrap();
                    let _transaction = session.begin(envelope(number)).unwrap();
                    panic!("in the middle");
                }
                Pool::Tokio(pool, runtime) => runtime.block_on(async {
                    let mut session = pool.session().await.unwrap();
                    let _transaction = session.begin(envelope(number)).await.unwrap();
                    panic!("in the middle");
                }),
            });
            assert!(ended.join().is_err());
            assert_eq!(pool.count(), (0, 0));
            let _report = pool.send(envelope(100 + number), &message(0)).unwrap();
        }
        assert_eq!(taken(&receiver).len(), 3);
        assert_eq!(receiver.counts().peak, 1);
    });
}

/// An observer may send, in another session, and may panic.
#[test]
fn an_observer_may_send_and_may_panic() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let shared = Arc::new(std::sync::OnceLock::<Pool>::new());
        let server = receiver.server().observe({
            let shared = shared.clone();
            move |step| {
                let Trace::Sent(command) = step.trace() else {
                    return;
                };
                let command = command.to_string();
                if command.contains("<n1@") {
                    panic!("an observer");
                }
                // A task has no thread to wait on.
                if command.contains("<n2@")
                    && let Some(Pool::Blocking(pool)) = shared.get()
                {
                    let _report = pool.send(envelope(1_002), message(2)).unwrap();
                }
            }
        });
        let pool = Pool::new(adapter, server, 2);
        assert!(shared.set(pool.clone()).is_ok());
        let _report = pool.send(envelope(0), &message(0)).unwrap();
        let inner = pool.clone();
        let ended = std::thread::spawn(move || inner.send(envelope(1), &message(1)));
        assert!(ended.join().is_err());
        assert_eq!(pool.count(), (0, 0));
        let _report = pool.send(envelope(2), &message(2)).unwrap();
        let (open, idle) = pool.count();
        assert_eq!(open, idle);
        let taken = taken(&receiver);
        assert!(!taken.contains_key("n1@example.net"));
        let sent_by_observer = usize::from(adapter == Adapter::Blocking);
        assert_eq!(taken.len(), 2 + sent_by_observer, "{taken:?}");
    });
}

/// The server was asked in the first session, so the report must not say that it was not.
#[test]
fn a_message_that_was_begun_is_not_called_unattempted() {
    for_both(|adapter| {
        let receiver = Receiver::new();
        let pool = Pool::new(adapter, receiver.server(), 1);
        let _report = pool.send(envelope(0), &message(0)).unwrap();
        receiver.on(Step::Mail).reply("421 4.3.2 going down");
        receiver.on(Step::Greeting).reply("421 4.3.2 is down");
        let error = pool.send(envelope(1), &message(1)).unwrap_err();
        assert_eq!(heard(&receiver, "MAIL"), 2);
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("going down"), "{error}");
    });
}

/// Two runtimes at one time, one of which ends in the middle of its messages.
#[test]
fn a_runtime_that_ends_in_the_middle_costs_the_other_nothing() {
    in_time(|| {
        for round in 0..5 {
            let receiver = Receiver::new();
            let pool = smtp_tokio::Pool::new(receiver.server()).max_sessions(2);
            let (one, other) = (runtime(), runtime());
            let send = |number: usize| {
                let pool = pool.clone();
                async move { pool.send(envelope(number), message(number)).await }
            };
            let ended: Vec<_> = (0..40).map(|number| one.spawn(send(number))).collect();
            let tasks: Vec<_> = (100..140).map(|number| other.spawn(send(number))).collect();
            while receiver.messages().len() < round * 10 {
                std::thread::yield_now();
            }
            one.shutdown_background();
            other.block_on(async {
                for task in tasks {
                    let result = task.await.unwrap();
                    assert!(result.is_ok_and(|report| report.is_success()));
                }
                drop(ended);
                assert!(send(1_000).await.is_ok());
            });
            let taken = taken(&receiver);
            assert!(taken.values().all(|&times| times == 1), "{taken:?}");
            assert!((100..140).all(|n| taken.contains_key(&format!("n{n}@example.net"))));
            assert!(receiver.counts().peak <= 2);
        }
    });
}

/// The session was given to somebody who does not want it any more.
#[test]
fn a_waiter_that_leaves_leaves_no_idle_session() {
    in_time(|| {
        let receiver = Receiver::new();
        let runtime = runtime();
        let _in_it = runtime.enter();
        let pool = smtp_tokio::Pool::new(receiver.server())
            .max_sessions(1)
            .max_idle(0);
        let session = runtime.block_on(pool.session()).unwrap();
        let mut waits = Box::pin(pool.session());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        drop(session);
        drop(waits);
        assert_eq!(pool.count(), (0, 0));
        assert!(receiver.wait_until(PATIENCE, |counts| counts.open == 0));
    });
}

/// A session is of no use in another runtime. One makes room for one, and the others stay.
#[test]
fn a_runtime_leaves_the_sessions_of_another_alone() {
    in_time(|| {
        let receiver = Receiver::new();
        let pool = smtp_tokio::Pool::new(receiver.server()).max_sessions(3);
        let (one, other) = (runtime(), runtime());
        one.block_on(async {
            let held = (
                pool.session().await,
                pool.session().await,
                pool.session().await,
            );
            assert!(held.0.is_ok() && held.1.is_ok() && held.2.is_ok());
        });
        assert_eq!(pool.count(), (3, 3));
        let sent = other.block_on(pool.send(envelope(0), message(0)));
        assert!(sent.is_ok());
        assert_eq!(pool.count(), (3, 3));
        assert_eq!(receiver.counts().sessions, 4);
        assert_eq!(receiver.counts().peak, 3);
    });
}

/// Three have a place, and two of them wait for the login of the third, when the bound is lowered.
#[test]
fn a_bound_that_is_lowered_holds_for_those_who_wait_for_a_login() {
    for_both(|adapter| {
        let receiver = receiver(Options {
            auth: Some(("alice".into(), "right".into())),
            auth_in_clear: true,
            ..Options::default()
        });
        receiver.on(Step::Login).delay(Duration::from_millis(200));
        let right = Credentials::password("alice", "right").permit_in_clear();
        let pool = Pool::new(adapter, receiver.server().credentials(right), 3);
        let callers = std::thread::spawn({
            let pool = pool.clone();
            move || pool.send_each(0..3)
        });
        while pool.count().0 < 3 {
            std::thread::yield_now();
        }
        // One opens, and the others wait for it.
        pool.bound(1, 1, 100);
        let results = callers.join().unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(receiver.counts().peak, 1);
    });
}

/// So many waiters that looking each of them up would take minutes, and that leave in any order.
#[test]
fn many_thousands_may_wait() {
    in_time(|| {
        let receiver = Receiver::new();
        let runtime = runtime();
        let _in_it = runtime.enter();
        let pool = smtp_tokio::Pool::new(receiver.server()).max_sessions(1);
        let session = runtime.block_on(pool.session()).unwrap();
        let mut waiters: Vec<_> = (0..30_000)
            .map(|_| Some(Box::pin(pool.session())))
            .collect();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            for waiter in waiters.iter_mut().flatten() {
                assert!(waiter.as_mut().poll(&mut cx).is_pending());
            }
        }
        let last = waiters.pop().flatten().unwrap();
        let count = waiters.len();
        for step in 0..count {
            waiters[step * 7_919 % count] = None;
        }
        drop(session);
        assert!(runtime.block_on(last).is_ok());
    });
}
