//! Who watches a session: the application's observer, and what it is told.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smtp_proto::{Config, MessageId, Report, event::Trace};

#[cfg(feature = "tracing")]
use crate::span::{self, SessionSpan};

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
    observer: Option<Observer>,
    #[cfg(feature = "tracing")]
    span: SessionSpan,
}

impl Watch {
    /// The watch over a session, where somebody observes it.
    #[cfg(not(feature = "tracing"))]
    pub(crate) fn begin(
        session: u64,
        _: &Config,
        _is_shared: bool,
        observer: Option<&Observer>,
        peer: impl FnOnce() -> Peer,
    ) -> Option<Box<Self>> {
        let observer = observer?.clone();
        Some(Box::new(Self {
            session,
            peer: peer(),
            observer: Some(observer),
        }))
    }

    /// The watch over a session, for whoever observes it and whoever collects its span.
    #[cfg(feature = "tracing")]
    pub(crate) fn begin(
        session: u64,
        config: &Config,
        is_shared: bool,
        observer: Option<&Observer>,
        peer: impl FnOnce() -> Peer,
    ) -> Option<Box<Self>> {
        let span = SessionSpan::new(session, config, is_shared);
        let peer = match observer.is_some() || span.is_collected() {
            true => peer(),
            false => Peer::Unknown,
        };
        span.set_peer(&peer);
        Some(Box::new(Self {
            session,
            peer,
            observer: observer.cloned(),
            span,
        }))
    }

    /// Whether the steps of the conversation are of interest.
    pub(crate) fn wants_steps(&self) -> bool {
        #[cfg(feature = "tracing")]
        if self.span.wants_steps() {
            return true;
        }
        self.observer.is_some()
    }

    /// A step of the conversation was taken.
    pub(crate) fn step(&self, trace: &Trace) {
        let tell = || {
            if let Some(observer) = &self.observer {
                observer(&Observation {
                    session: self.session,
                    peer: &self.peer,
                    trace,
                });
            }
        };
        #[cfg(not(feature = "tracing"))]
        tell();
        #[cfg(feature = "tracing")]
        self.span.within(|| {
            tell();
            span::step(trace);
        });
    }

    /// Mail can be sent, inside TLS or not.
    pub(crate) fn ready(&self, is_encrypted: bool) {
        #[cfg(feature = "tracing")]
        self.span.ready(is_encrypted);
        let _ = is_encrypted;
    }

    /// The TLS handshake is done.
    #[cfg(feature = "rustls")]
    pub(crate) fn encrypted(&self, info: &crate::tls::TlsInfo) {
        #[cfg(feature = "tracing")]
        self.span.encrypted(info);
        let _ = info;
    }

    /// What became of a message. One that could not be submitted has no number.
    pub(crate) fn finished(&self, id: Option<MessageId>, report: &Report) {
        #[cfg(feature = "tracing")]
        self.span.finished(id, report);
        let _ = (id, report);
    }

    /// The session has ended.
    pub(crate) fn closed(
        &self,
        result: &Result<(), smtp_proto::Error>,
        io: Option<&std::io::Error>,
    ) {
        #[cfg(feature = "tracing")]
        self.span.closed(result, io);
        let _ = (result, io);
    }
}

/// Tells that no session came about, where none was there to tell it. For `inspect_err`.
pub fn tell_unopened(error: &crate::Error) {
    #[cfg(feature = "tracing")]
    if !error.has_session() {
        span::unopened(error);
    }
    let _ = error;
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
