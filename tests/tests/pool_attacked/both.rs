//! The pools of both adapters as one, and what the server's books say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use smtp_adapter::{Error, Server};
use smtp_proto::{Envelope, Report};
use tokio::runtime::Runtime;

pub(crate) use smtp_tests::receiver::{Limits, Options, Receiver, Step};
pub(crate) use smtp_tests::watchdog::in_time;

/// How long the server may take to notice.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapter {
    Blocking,
    Tokio,
}

/// Runs it for both adapters, each with a watchdog.
pub(crate) fn for_both(test: fn(Adapter)) {
    for adapter in [Adapter::Blocking, Adapter::Tokio] {
        in_time(move || test(adapter));
    }
}

pub(crate) fn receiver(options: Options) -> Receiver {
    Receiver::start(options).unwrap()
}

/// One that says this in reply to EHLO, beside what it can do.
pub(crate) fn receiver_that_offers(keyword: &str) -> Receiver {
    let receiver = Receiver::new();
    let reply = format!("250-mx.example.net\n250-PIPELINING\n250 {keyword}");
    receiver.on(Step::Hello).reply(&reply);
    receiver
}

/// To one recipient, who has this number.
pub(crate) fn envelope(number: usize) -> Envelope {
    to(&[format!("n{number}@example.net")])
}

pub(crate) fn to(recipients: &[impl AsRef<str>]) -> Envelope {
    let recipients = recipients.iter().map(AsRef::as_ref);
    Envelope::new("alice@example.org", recipients).unwrap()
}

pub(crate) fn message(number: usize) -> String {
    format!("Subject: {number}\r\n\r\nThis is number {number}.\r\n")
}

/// How often the server has taken a message for each recipient.
pub(crate) fn taken(receiver: &Receiver) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for stored in receiver.messages() {
        for path in stored.forward_paths {
            *taken.entry(path).or_default() += 1;
        }
    }
    taken
}

/// How many commands with this verb the server has heard.
pub(crate) fn heard(receiver: &Receiver, verb: &str) -> usize {
    let commands = receiver.commands();
    let of_verb = commands.iter().filter(|heard| heard.line.starts_with(verb));
    of_verb.count()
}

/// Whether each report says what the server has done, and the server has done nothing twice. In doubt, both may be.
#[track_caller]
pub(crate) fn are_true<'a>(receiver: &Receiver, reports: impl IntoIterator<Item = &'a Report>) {
    let taken = taken(receiver);
    assert!(taken.values().all(|&times| times == 1), "{taken:?}");
    let mut told = BTreeMap::new();
    for report in reports {
        for (mailbox, result) in report {
            let path = mailbox.to_string();
            let is_taken = taken.contains_key(&path);
            let is_in_doubt = result.as_ref().is_err_and(smtp_proto::Error::is_in_doubt);
            assert!(
                is_in_doubt || result.is_ok() == is_taken,
                "{path} is {}taken, and the report says {result:?}",
                if is_taken { "" } else { "not " }
            );
            assert!(told.insert(path, ()).is_none(), "{mailbox} is told twice");
        }
    }
    // Nobody learns of what those have sent who have lost patience.
    let untold = taken
        .keys()
        .filter(|path| !told.contains_key(*path) && !path.starts_with("gone"));
    let untold: Vec<_> = untold.collect();
    assert!(untold.is_empty(), "taken, and without a report: {untold:?}");
}

/// A pool of either adapter.
#[derive(Clone)]
pub(crate) enum Pool {
    Blocking(smtp_blocking::Pool),
    Tokio(smtp_tokio::Pool, Arc<Runtime>),
}

/// What a delivery has come to: its reports with their tags, and the tags that were given back.
pub(crate) struct Sent {
    pub(crate) reports: Vec<(usize, Report)>,
    pub(crate) left: Vec<usize>,
}

impl Sent {
    pub(crate) fn reports(&self) -> impl Iterator<Item = &Report> {
        self.reports.iter().map(|(_, report)| report)
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

impl Pool {
    pub(crate) fn new(adapter: Adapter, server: Server, sessions: usize) -> Self {
        match adapter {
            Adapter::Blocking => {
                let pool = smtp_blocking::Pool::new(server).max_sessions(sessions);
                Self::Blocking(pool.max_idle(sessions))
            }
            Adapter::Tokio => {
                let pool = smtp_tokio::Pool::new(server).max_sessions(sessions);
                Self::Tokio(pool.max_idle(sessions), Arc::new(runtime()))
            }
        }
    }

    pub(crate) fn send(&self, envelope: Envelope, message: &str) -> Result<Report, Error> {
        match self {
            Self::Blocking(pool) => pool.send(envelope, message),
            Self::Tokio(pool, runtime) => runtime.block_on(pool.send(envelope, message)),
        }
    }

    /// Sends messages with these numbers, all at the same time.
    pub(crate) fn send_each(
        &self,
        numbers: impl IntoIterator<Item = usize>,
    ) -> Vec<Result<Report, Error>> {
        let send = |number| {
            let pool = self.clone();
            std::thread::spawn(move || pool.send(envelope(number), &message(number)))
        };
        let threads: Vec<_> = numbers.into_iter().map(send).collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    }

    /// Sends them in one delivery. The tag of each is its index.
    pub(crate) fn send_all(&self, messages: Vec<(Envelope, String)>) -> Sent {
        let messages = messages.into_iter().enumerate();
        match self {
            Self::Blocking(pool) => {
                let messages = messages.map(|(tag, (envelope, text))| {
                    smtp_blocking::Message::from_bytes(envelope, Bytes::from(text)).tag(tag)
                });
                let mut bulk = pool.send_all(messages);
                let reports = bulk.by_ref().collect();
                let left = bulk.into_messages().map(|message| message.tag).collect();
                Sent { reports, left }
            }
            Self::Tokio(pool, runtime) => runtime.block_on(async {
                let messages = messages.map(|(tag, (envelope, text))| {
                    smtp_tokio::Message::from_bytes(envelope, Bytes::from(text)).tag(tag)
                });
                let mut bulk = pool.send_all(smtp_tokio::iter(messages));
                let mut reports = vec![];
                while let Some(report) = bulk.next().await {
                    reports.push(report);
                }
                let left = all(bulk.into_messages().await).await;
                let left = left.into_iter().map(|message| message.tag).collect();
                Sent { reports, left }
            }),
        }
    }

    /// Messages to one recipient each, with these numbers.
    pub(crate) fn send_numbers(&self, numbers: impl IntoIterator<Item = usize>) -> Sent {
        let messages = numbers.into_iter();
        self.send_all(messages.map(|n| (envelope(n), message(n))).collect())
    }

    /// At most so many sessions, idle ones, and messages of one.
    pub(crate) fn bound(&self, sessions: usize, idle: usize, messages: u64) {
        match self.clone() {
            Self::Blocking(pool) => drop(
                pool.max_sessions(sessions)
                    .max_idle(idle)
                    .max_messages(messages),
            ),
            Self::Tokio(pool, runtime) => {
                let _in_it = runtime.enter();
                let pool = pool.max_sessions(sessions).max_idle(idle);
                drop(pool.max_messages(messages));
            }
        }
    }

    pub(crate) fn count(&self) -> (usize, usize) {
        match self {
            Self::Blocking(pool) => pool.count(),
            Self::Tokio(pool, _) => pool.count(),
        }
    }
}

/// All items of a stream.
pub(crate) async fn all<S: Stream>(stream: S) -> Vec<S::Item> {
    let (mut stream, mut items) = (std::pin::pin!(stream), vec![]);
    while let Some(item) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
        items.push(item);
    }
    items
}
