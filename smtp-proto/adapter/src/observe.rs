//! Who watches a session: the application's observer, and what it is told.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smtp_proto::event::Trace;

/// Is called for each step of the conversation.
pub(crate) type Observer = Arc<dyn Fn(&Observation<'_>) + Send + Sync>;

/// One step of a conversation, and the session in which it was taken, for [`Server::observe`](crate::Server::observe).
///
/// ```
/// use smtp_adapter::{Server, smtp_proto::event::Trace};
///
/// let server = Server::new("mx.example.net").observe(|step| {
///     let (session, peer) = (step.session(), step.peer());
///     match step.trace() {
///         Trace::Sent(command) => println!("{session} {peer} > {command}"),
///         Trace::Received(reply) => println!("{session} {peer} < {reply}"),
///         _ => {}
///     }
/// });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    session: u64,
    peer: &'a Peer,
    trace: &'a Trace,
}

impl<'a> Observation<'a> {
    /// The number of the session. Each session of this process has its own, from 1.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Where the other end is.
    pub fn peer(&self) -> &'a Peer {
        self.peer
    }

    /// The step, without credentials and bodies.
    pub fn trace(&self) -> &'a Trace {
        self.trace
    }
}

/// Where the other end of a session is. `Display` is the address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// Here on the network.
    Address(SocketAddr),
    /// At this Unix socket.
    Unix(PathBuf),
    /// At the other end of a stream that the application has connected, and that has no address.
    Unknown,
}

impl Peer {
    /// The address, where it is one of the network.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            _ => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// What a session needs, to be watched. Without anybody who watches there is nothing.
pub struct Watch {
    session: u64,
    peer: Peer,
    observer: Observer,
}

impl Watch {
    /// The watch over a session, where somebody observes it.
    pub(crate) fn begin(
        session: u64,
        observer: Option<&Observer>,
        peer: impl FnOnce() -> Peer,
    ) -> Option<Box<Self>> {
        let observer = observer?.clone();
        Some(Box::new(Self {
            session,
            peer: peer(),
            observer,
        }))
    }

    /// A step of the conversation was taken.
    pub(crate) fn step(&self, trace: &Trace) {
        (self.observer)(&Observation {
            session: self.session,
            peer: &self.peer,
            trace,
        });
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("session", &self.session)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// A number for the next session.
pub(crate) fn next_number() -> u64 {
    static NUMBERS: AtomicUsize = AtomicUsize::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed) as u64
}
