//! The pump between the engine and a blocking stream: what the engine offers is gathered into one write,
//! what arrives is handed to it, and its deadlines become the stream's timeouts.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use smtp_proto::{Connection, Event, MessageId, Report};

use crate::error::Error;
use crate::stream::{Stream, Transport};
use crate::terms::{Observer, SessionTerms};

/// Octets that are gathered before they are written, so that an envelope, or the end of a body with its
/// dot, is one packet and one system call where it can be.
const GATHER: usize = 32 * 1024;

/// The longest that one system call may block. It is also what a stream's timeout stays at while all
/// deadlines are farther away, which saves two system calls for each reply.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

pub(crate) struct Pump {
    pub(crate) engine: Connection,
    stream: Stream,
    /// Gathered, and counted as sent by the engine.
    out: Vec<u8>,
    input: Vec<u8>,
    origin: Instant,
    /// The stream's timeout.
    armed: Option<Duration>,
    block_timeout: Duration,
    quit_timeout: Duration,
    observer: Option<Observer>,
    pub(crate) ready: bool,
    /// Messages that a bulk delivery submits at a time: the one under way, and the one whose envelope may
    /// follow it in the same batch. It bounds the memory, whatever the number of messages.
    pub(crate) window: usize,
    finished: VecDeque<(MessageId, Report)>,
    /// The server has shown that it does not take overlapping envelopes.
    pub(crate) overlap_broken: bool,
    closed: Option<Result<(), smtp_proto::Error>>,
    io: Option<io::Error>,
    #[cfg(feature = "rustls")]
    tls_settings: Option<crate::tls::TlsSettings>,
    #[cfg(feature = "rustls")]
    pub(crate) tls_info: Option<crate::tls::TlsInfo>,
}

impl Pump {
    pub(crate) fn new(session: SessionTerms, stream: Box<dyn Transport>, observer: Option<Observer>) -> Self {
        let config = session.config;
        let (block_timeout, quit_timeout) = (config.timeouts.block, config.timeouts.quit);
        let window = config.limits.messages.min(2);
        Self {
            engine: Connection::new(config, smtp_proto::Instant::default()),
            stream: Stream::new(stream),
            out: Vec::new(),
            input: vec![0; 4096],
            origin: Instant::now(),
            armed: None,
            block_timeout,
            quit_timeout,
            observer,
            ready: false,
            window,
            finished: VecDeque::new(),
            overlap_broken: false,
            closed: None,
            io: None,
            #[cfg(feature = "rustls")]
            tls_settings: session.tls,
            #[cfg(feature = "rustls")]
            tls_info: None,
        }
    }

    fn now(&self) -> smtp_proto::Instant {
        smtp_proto::Instant::from_origin(self.origin.elapsed())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Why the connection ended.
    pub(crate) fn end(&self) -> Option<&smtp_proto::Error> {
        self.closed.as_ref()?.as_ref().err()
    }

    /// The error, with what is known of this session.
    pub(crate) fn explain(&mut self, error: Error) -> Error {
        error.in_session(
            self.engine.round_trips(),
            self.io.take(),
            #[cfg(feature = "rustls")]
            self.tls_info.clone(),
        )
    }

    /// The report of this message, if it is the next one.
    pub(crate) fn take_report(&mut self, message: MessageId) -> Option<Report> {
        let (id, _) = self.finished.front()?;
        if *id != message {
            return None;
        }
        self.finished.pop_front().map(|(_, report)| report)
    }

    /// Ends the session at once; what was gathered and not written is not sent any more.
    pub(crate) fn abort(&mut self, reason: &str) {
        let _ = self.engine.abort(reason);
        self.take_events();
        self.flush();
    }

    /// Runs until `done`, or until the connection has ended.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            self.transmit(&[]);
            self.take_events();
            if self.is_closed() || done(self) {
                // QUIT is not waited for, but it is sent.
                self.flush();
                return;
            }
            self.receive();
        }
    }

    /// Gathers what the engine offers and as much of `body` as is wanted, and writes when there is no more
    /// room. Returns how many octets of `body` were used: all of them while it is wanted.
    pub(crate) fn transmit(&mut self, body: &[u8]) -> usize {
        let mut rest = body;
        loop {
            let now = self.now();
            let Some(transmit) = self.engine.poll_transmit(now, rest) else {
                return body.len() - rest.len();
            };
            let before = self.out.len();
            for part in transmit.parts() {
                let room = GATHER - self.out.len();
                self.out.extend_from_slice(&part[..part.len().min(room)]);
            }
            rest = &rest[transmit.advance(self.out.len() - before)..];
            if self.out.len() == GATHER {
                self.flush();
            }
        }
    }

    /// Writes what was gathered.
    pub(crate) fn flush(&mut self) {
        let mut written = 0;
        let mut progress = Instant::now();
        while written < self.out.len() {
            if !self.is_closed() && !self.arm() {
                break;
            }
            match self.stream.write(&self.out[written..]) {
                Ok(n @ 1..) => {
                    written += n;
                    progress = Instant::now();
                }
                // Only QUIT can be left of a session that has its results already.
                _ if self.is_closed() => break,
                result => {
                    let zero = io::ErrorKind::WriteZero.into();
                    if self.on_write_error(result.err().unwrap_or(zero)) {
                        break;
                    }
                    // The engine has counted these octets as sent, and waits for nothing until the
                    // body ends: that they do go out is for us to see.
                    if progress.elapsed() >= self.block_timeout {
                        self.io.get_or_insert(io::ErrorKind::TimedOut.into());
                        self.engine.handle_eof(self.now());
                        self.take_events();
                    }
                }
            }
        }
        if !self.ready {
            // Credentials may have passed through here.
            zeroize::Zeroize::zeroize(&mut self.out);
        }
        self.out.clear();
        if written > 0
            && let Err(error) = self.stream.flush()
            && !self.is_closed()
        {
            self.on_write_error(error);
        }
        if self.is_closed() {
            self.stream.close();
        }
    }

    /// Returns whether the connection is lost.
    fn on_write_error(&mut self, error: io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => return false,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let now = self.now();
                self.engine.handle_timeout(now);
            }
            _ => {
                // Why the server has gone is often there to be read: a 421, say.
                if self.stream.socket.set_timeout(Duration::from_millis(500)).is_ok() {
                    while let Ok(n @ 1..) = self.stream.read(&mut self.input) {
                        let now = self.now();
                        self.engine.handle_input(now, &self.input[..n]);
                        if self.engine.is_closed() {
                            break;
                        }
                    }
                }
                self.io.get_or_insert(error);
                let now = self.now();
                self.engine.handle_eof(now);
            }
        }
        self.take_events();
        self.is_closed()
    }

    /// Waits for octets from the server, or for a deadline.
    fn receive(&mut self) {
        self.flush();
        if self.is_closed() || !self.arm() {
            return;
        }
        let result = self.stream.read(&mut self.input);
        let now = self.now();
        match result {
            Ok(0) => self.engine.handle_eof(now),
            Ok(n) => self.engine.handle_input(now, &self.input[..n]),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                // rustls: the server closed without saying so in TLS, as many do.
                io::ErrorKind::UnexpectedEof => self.engine.handle_eof(now),
                _ => {
                    self.io.get_or_insert(error);
                    self.engine.handle_eof(now);
                }
            },
        }
        // A server that drips octets is no reason to forget the deadline.
        self.engine.handle_timeout(now);
        self.take_events();
    }

    /// Gives the stream the engine's deadline. Returns whether there is time left.
    fn arm(&mut self) -> bool {
        let now = self.now();
        let left = self.engine.poll_timeout().map_or(LONGEST_WAIT, |deadline| deadline - now);
        if left.is_zero() {
            self.engine.handle_timeout(now);
            self.take_events();
            return false;
        }
        let left = left.min(self.block_timeout);
        let wanted = left.clamp(Duration::from_millis(1), LONGEST_WAIT);
        if self.armed.is_some_and(|armed| armed <= left && armed >= wanted / 2) {
            return true;
        }
        match self.stream.socket.set_timeout(wanted) {
            Ok(()) => self.armed = Some(wanted),
            Err(error) => {
                self.io.get_or_insert(error);
                self.engine.handle_eof(now);
                self.take_events();
                return false;
            }
        }
        true
    }

    fn take_events(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::StartTls => self.handshake(),
                Event::Ready => self.ready = true,
                Event::Finished(id, report) => self.finished.push_back((id, report)),
                Event::OverlapBroken => self.overlap_broken = true,
                Event::Closed(result) => {
                    self.closed = Some(result);
                    // A goodbye is worth sending yet; half a message is not. And it is not worth a wait.
                    if !self.out.ends_with(b"QUIT\r\n") {
                        self.out.clear();
                    }
                    let _ = self.stream.socket.set_timeout(self.quit_timeout);
                }
                Event::Trace(trace) => {
                    if let Some(observer) = &self.observer {
                        observer(&trace);
                    }
                }
                _ => {}
            }
        }
    }

    #[cfg(not(feature = "rustls"))]
    fn handshake(&mut self) {
        let cause = smtp_proto::Cause::Local("built without TLS".into());
        let _ = self.engine.handle_tls_failed(cause);
    }

    #[cfg(feature = "rustls")]
    fn handshake(&mut self) {
        use crate::handshake::{self, HandshakeError};
        use crate::tls;
        use smtp_proto::Cause;

        let fail = |engine: &mut Connection, cause| {
            let _ = engine.handle_tls_failed(cause);
        };
        let Some(settings) = self.tls_settings.take() else {
            return fail(&mut self.engine, Cause::Local("there are no TLS settings".into()));
        };
        let mut tls = match rustls::ClientConnection::new(settings.config, settings.name) {
            Ok(tls) => tls,
            Err(error) => return fail(&mut self.engine, tls::cause(&error)),
        };
        loop {
            if !self.arm() {
                return;
            }
            match handshake::step(&mut tls, self.stream.socket.as_mut()) {
                Ok(true) => break,
                Ok(false) => {}
                Err(HandshakeError::Tls(error)) => return fail(&mut self.engine, tls::cause(&error)),
                Err(HandshakeError::Io(error)) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                    _ => {
                        self.io.get_or_insert(error);
                        return self.engine.handle_eof(self.now());
                    }
                },
            }
            let now = self.now();
            self.engine.handle_timeout(now);
            if self.engine.is_closed() {
                return;
            }
        }
        self.tls_info = Some(tls::info(&tls, settings.verified_name));
        self.stream.tls = Some(Box::new(tls));
        let now = self.now();
        let _ = self.engine.handle_tls_established(now);
    }
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("engine", &self.engine).finish_non_exhaustive()
    }
}
