//! The observer of a session, and what it is told.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smtp_proto::{Config, MessageId, Report, event::Trace};

use crate::record::{Record, Recorder};
#[cfg(feature = "tracing")]
use crate::span::{self, SessionSpan};

/// A function that is called for each step of the conversation.
pub(crate) type Observer = Arc<dyn Fn(&Observation<'_>) + Send + Sync>;

/// One step of a conversation, and its session, for [`Server::observe`](crate::Server::observe).
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

    /// The other end of the session.
    pub fn peer(&self) -> &'a Peer {
        self.peer
    }

    /// The step, without credentials and bodies.
    pub fn trace(&self) -> &'a Trace {
        self.trace
    }
}

/// The other end of a session. `Display` is its address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A host on the network.
    Address(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// The other end of a stream from the application, whose address is unknown.
    Unknown,
}

impl Peer {
    /// The network address, if it has one.
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

/// The observers of a session. Without any, it does not exist.
pub struct Watch {
    session: u64,
    peer: Peer,
    observer: Option<Observer>,
    record: Option<Box<Record>>,
    #[cfg(feature = "tracing")]
    span: SessionSpan,
}

/// Who is to watch.
#[derive(Clone, Copy)]
pub(crate) struct Watchers<'a> {
    pub(crate) observer: Option<&'a Observer>,
    pub(crate) recorder: Option<&'a Recorder>,
    pub(crate) records_bodies: bool,
    /// There is a nonce for SCRAM.
    pub(crate) has_nonce: bool,
}

impl Watch {
    /// Begins to watch a session, if it has an observer or a record.
    ///
    /// # Errors
    /// The record cannot be opened.
    #[cfg(not(feature = "tracing"))]
    pub(crate) fn begin(
        session: u64,
        config: &Config,
        _is_shared: bool,
        watchers: Watchers<'_>,
        peer: impl FnOnce() -> Peer,
    ) -> io::Result<Option<Box<Self>>> {
        if watchers.observer.is_none() && watchers.recorder.is_none() {
            return Ok(None);
        }
        let peer = peer();
        Ok(Some(Box::new(Self {
            session,
            record: watchers.record(session, config, &peer)?,
            peer,
            observer: watchers.observer.cloned(),
        })))
    }

    /// Begins to watch a session, for its observer, its record, and the subscriber of its span.
    ///
    /// # Errors
    /// The record cannot be opened.
    #[cfg(feature = "tracing")]
    pub(crate) fn begin(
        session: u64,
        config: &Config,
        is_shared: bool,
        watchers: Watchers<'_>,
        peer: impl FnOnce() -> Peer,
    ) -> io::Result<Option<Box<Self>>> {
        let span = SessionSpan::new(session, config, is_shared);
        let is_watched = watchers.observer.is_some() || watchers.recorder.is_some();
        let peer = match is_watched || span.is_collected() {
            true => peer(),
            false => Peer::Unknown,
        };
        span.set_peer(&peer);
        Ok(Some(Box::new(Self {
            session,
            record: watchers.record(session, config, &peer)?,
            peer,
            observer: watchers.observer.cloned(),
            span,
        })))
    }

    /// The record of the session, where there is one.
    pub(crate) fn record(&mut self) -> Option<&mut Record> {
        self.record.as_deref_mut()
    }

    /// Whether anybody wants the steps of the conversation.
    pub(crate) fn wants_steps(&self) -> bool {
        #[cfg(feature = "tracing")]
        if self.span.wants_steps() {
            return true;
        }
        self.observer.is_some() || self.record.is_some()
    }

    /// Reports a step of the conversation.
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

    /// Mail can be sent, with or without TLS.
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

    /// Reports the result of a message. A message that could not be submitted has no number.
    pub(crate) fn finished(&self, id: Option<MessageId>, report: &Report) {
        #[cfg(feature = "tracing")]
        self.span.finished(id, report);
        let _ = (id, report);
    }

    /// The session has ended.
    pub(crate) fn closed(&self, result: &Result<(), smtp_proto::Error>, io: Option<&io::Error>) {
        #[cfg(feature = "tracing")]
        self.span.closed(result, io);
        let _ = (result, io);
    }
}

impl Watchers<'_> {
    fn record(self, session: u64, config: &Config, peer: &Peer) -> io::Result<Option<Box<Record>>> {
        let begin = |recorder: &Recorder| {
            recorder.begin(session, peer, config, self.has_nonce, self.records_bodies)
        };
        self.recorder.map(begin).transpose()
    }
}

/// Reports an error for which no session could report. For `inspect_err`.
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

/// The number for the next session.
pub(crate) fn next_number() -> u64 {
    static NUMBERS: AtomicUsize = AtomicUsize::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed) as u64
}
