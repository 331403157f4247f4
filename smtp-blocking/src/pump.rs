//! The pump between the engine and a blocking stream. It gathers the engine's octets into one write, and gives it the
//! octets that arrive. The engine's deadlines become the stream's timeouts.

use std::io;
use std::time::{Duration, Instant};

use smtp_adapter::{Driver, LAST_WORDS, SessionTerms};
use smtp_proto::{Envelope, MessageId, Request, error::Misuse};

use crate::stream::{Stream, Transport};

#[cfg(feature = "rustls")]
mod handshake;

/// The longest that one system call may block. While all deadlines are later, the stream's timeout stays at this
/// value, which saves two system calls for each reply.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// After such a time without a read, waiting input is read before more is written. While commands are answered, it is
/// shorter. A long body takes longer, and may be refused on the way.
const PAUSE: Duration = Duration::from_millis(5);

/// Octets that are read at a time, onto the stack. So an idle session keeps no buffer.
const READ: usize = 2048;

pub(crate) struct Pump {
    pub(crate) driver: Driver,
    stream: Stream,
    origin: Instant,
    /// The stream's timeout.
    armed: Option<Duration>,
    /// When the stream was last read, or checked for input.
    heard: Instant,
    /// How many octets the socket had been given by then.
    given: u64,
}

impl Pump {
    pub(crate) fn new(terms: SessionTerms, stream: Box<dyn Transport>) -> Self {
        Self {
            driver: Driver::new(terms),
            stream: Stream::new(stream),
            origin: Instant::now(),
            armed: None,
            heard: Instant::now(),
            given: 0,
        }
    }

    fn now(&self) -> smtp_proto::Instant {
        smtp_proto::Instant::from_origin(self.origin.elapsed())
    }

    /// Submits a message, or gives the envelope back for its report.
    pub(crate) fn submit(&mut self, envelope: Envelope) -> Result<MessageId, (Misuse, Envelope)> {
        let now = self.now();
        self.driver.submit(now, envelope)
    }

    /// Sends a request. From now on, the caller waits for its answer only.
    pub(crate) fn request(&mut self, request: Request) -> Result<(), Misuse> {
        let now = self.now();
        self.driver.request(now, request)
    }

    /// The caller cannot give the rest of the body, for this reason.
    pub(crate) fn fail_body(&mut self, error: &io::Error) {
        let now = self.now();
        self.driver.fail_body(now, error);
    }

    /// Asks for QUIT. Returns whether that is possible.
    pub(crate) fn quit(&mut self) -> bool {
        let now = self.now();
        self.driver.quit(now)
    }

    /// Ends the session at once. Octets that were gathered but not written are dropped.
    pub(crate) fn abort(&mut self, reason: &str) {
        let now = self.now();
        self.driver.abort(now, reason);
        self.take_events();
        self.flush();
        self.stream.hang_up();
    }

    /// Runs until `done`, or until the connection has ended.
    pub(crate) fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        loop {
            self.transmit(&[]);
            self.take_events();
            if self.driver.is_closed() || done(self) {
                // QUIT is sent, but its reply is not waited for. If a body follows it, both go out together.
                if !self.driver.engine().wants_body() {
                    self.flush();
                }
                return;
            }
            self.receive();
        }
    }

    /// Gathers the engine's octets, and as much of `body` as is wanted. It writes when the buffer is full. Returns
    /// how many octets of `body` were used: all of them, as long as it is wanted.
    pub(crate) fn transmit(&mut self, body: &[u8]) -> usize {
        let mut used = 0;
        loop {
            used += self.driver.gather(self.now(), &body[used..]);
            if self.driver.is_full() {
                self.flush();
            } else if used == body.len() || !self.driver.engine().wants_body() {
                return used;
            } else {
                // The limit of unanswered chunks is reached.
                self.receive();
            }
        }
    }

    /// Sends the octets of the body so far.
    pub(crate) fn flush_body(&mut self) {
        self.driver.flush_chunk();
        loop {
            self.transmit(&[]);
            if self.driver.has_no_chunk() {
                return self.flush();
            }
            self.receive();
        }
    }

    /// Ends the body, if one is wanted.
    pub(crate) fn end_body(&mut self) {
        loop {
            let mut now = Instant::now();
            // What came before the end went out does not answer it.
            if self.driver.engine().wants_body()
                && (self.stream.socket.octets > self.given || self.has_paused(now))
            {
                self.read_what_is_there();
                now = Instant::now();
            }
            let now = smtp_proto::Instant::from_origin(now - self.origin);
            if self.driver.end_body(now) {
                return;
            }
            match self.driver.is_full() {
                true => self.flush(),
                false => self.receive(),
            }
        }
    }

    /// Writes the gathered octets. After a pause it reads first: what came before they go out does not answer them.
    pub(crate) fn flush(&mut self) {
        if self.driver.out.is_empty() && !self.driver.is_closed() {
            return;
        }
        let now = Instant::now();
        if !self.driver.out.is_empty() {
            self.look_at(now);
        }
        let ends_well = self.driver.ends_well();
        if !self.driver.out.is_empty() {
            self.write_out(now);
            self.driver.written();
        }
        if self.driver.is_closed() && ends_well {
            self.stream.close();
        }
    }

    /// Writes them, from `now` on.
    fn write_out(&mut self, now: Instant) {
        // How much the stream has accepted, and how much of that the engine knows to be written.
        let (mut accepted, mut settled) = (0, 0);
        // The socket's count when TLS last held nothing back, and the time when the socket last took an octet.
        let (mut before, mut progress) = (self.stream.socket.octets, now);
        while accepted < self.driver.out.len() || !self.stream.is_flushed() {
            let is_closed = self.driver.is_closed();
            if !is_closed && !self.arm() {
                break;
            }
            let moved = self.stream.socket.octets;
            let result = match self.stream.is_flushed() {
                true => self.stream.write(&self.driver.out[accepted..]),
                false => self.stream.push().map(|()| 0),
            };
            accepted += result.as_ref().copied().unwrap_or(0);
            settled += self.settle(accepted - settled, before);
            if self.stream.is_flushed() {
                before = self.stream.socket.octets;
            }
            if is_closed {
                // A session that has its results can only have QUIT left, which is not worth a long wait.
                if self.ends_goodbye(result.err(), progress) {
                    break;
                }
                continue;
            }
            if self.stream.socket.octets > moved {
                progress = Instant::now();
            }
            if let Err(error) = result {
                if self.on_write_error(error) {
                    break;
                }
                // The engine has no deadline before the octets are out, so check it here.
                if progress.elapsed() >= self.driver.block_timeout {
                    self.lose(io::ErrorKind::TimedOut.into());
                    return self.take_events();
                }
            }
        }
        // Some transports hold octets until they are flushed.
        while accepted > 0
            && let Err(error) = self.stream.flush()
        {
            if self.driver.is_closed() {
                if self.ends_goodbye(Some(error), progress) {
                    break;
                }
                continue;
            }
            if self.on_write_error(error) {
                break;
            }
            if progress.elapsed() >= self.driver.block_timeout {
                self.lose(io::ErrorKind::TimedOut.into());
                return self.take_events();
            }
        }
    }

    /// Whether QUIT goes out no further, after this error if there was one. The stream took something last at
    /// `progress`.
    fn ends_goodbye(&self, error: Option<io::Error>, progress: Instant) -> bool {
        let is_lost = error.is_some_and(|error| !is_passing(error.kind()));
        is_lost || progress.elapsed() >= self.driver.quit_timeout
    }

    /// Tells the engine about this many octets that the stream has accepted. Returns how many of them are written. If
    /// TLS holds some back, all count as given as soon as one octet has left.
    fn settle(&mut self, octets: usize, before: u64) -> usize {
        let now = self.now();
        if self.stream.is_flushed() {
            self.driver.handle_written(now, octets);
            return octets;
        }
        if self.stream.socket.octets > before {
            self.driver.handle_given(now, octets);
        }
        0
    }

    fn lose(&mut self, error: io::Error) {
        let now = self.now();
        self.driver.lose(now, error);
    }

    /// Returns whether the connection is lost.
    fn on_write_error(&mut self, error: io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::Interrupted => return false,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                self.handle_timeout();
            }
            _ => {
                let mut error = error;
                // The server's last reply, such as a 421, often says why it has gone.
                if self.stream.socket.transport.set_timeout(LAST_WORDS).is_ok() {
                    let start = Instant::now();
                    let mut input = [0; READ];
                    while start.elapsed() < LAST_WORDS && !self.driver.engine().is_closed() {
                        let now = self.now();
                        match self.stream.read(&mut input) {
                            Ok(Some(n @ 1..)) => self.driver.hear(now, &input[..n]),
                            // An incomplete TLS record.
                            Ok(None) => {}
                            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                            // A TLS alert.
                            Err(why) if why.kind() == io::ErrorKind::InvalidData => {
                                error = why;
                                break;
                            }
                            _ => break,
                        }
                    }
                }
                self.armed = None;
                self.lose(error);
            }
        }
        self.take_events();
        self.driver.is_closed()
    }

    /// A deadline has passed if the engine says so, and one more read finds nothing.
    fn handle_timeout(&mut self) {
        let now = self.now();
        if self
            .driver
            .engine()
            .poll_timeout()
            .is_none_or(|deadline| deadline > now)
        {
            return;
        }
        self.read_what_is_there();
        let now = self.now();
        self.driver.handle_timeout(now);
        self.take_events();
    }

    /// A leaked transaction leaves its body open, and the next message would go into that body. So the session ends.
    pub(crate) fn end_leaked(&mut self) {
        if self.driver.has_leaked() {
            self.abort("a transaction was leaked before it was finished");
        }
    }

    /// Begins each call on a session.
    pub(crate) fn start(&mut self) {
        self.end_leaked();
        self.look();
    }

    /// Reads what has arrived on a session after a pause. It may be a 421, which does not answer the next command.
    pub(crate) fn look(&mut self) {
        self.look_at(Instant::now());
    }

    fn look_at(&mut self, now: Instant) {
        if self.has_paused(now) && !self.driver.is_closed() {
            self.read_what_is_there();
        }
    }

    fn has_paused(&self, now: Instant) -> bool {
        now - self.heard >= PAUSE
    }

    /// Reads without waiting, if the transport can.
    fn read_what_is_there(&mut self) {
        match self.stream.socket.transport.set_nonblocking(true) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.lose(error),
        }
        // A handshake waits until the transport does.
        while !self.driver.is_closed() && !self.driver.handshake_due && self.read() {
            self.driver.take_events();
        }
        if let Err(error) = self.stream.socket.transport.set_nonblocking(false) {
            self.lose(error);
        }
        self.take_events();
    }

    /// Waits for octets from the server, or for a deadline.
    fn receive(&mut self) {
        self.flush();
        if self.driver.is_closed() || !self.arm() {
            return;
        }
        self.read();
        self.take_events();
        // The deadline also holds while the server sends octets, even one at a time.
        self.handle_timeout();
    }

    /// Reads once, and gives the octets to the engine. Returns whether there may be more.
    fn read(&mut self) -> bool {
        let mut input = [0; READ];
        let result = self.stream.read(&mut input);
        self.heard = Instant::now();
        self.given = self.stream.socket.octets;
        let now = smtp_proto::Instant::from_origin(self.heard - self.origin);
        match result {
            Ok(Some(0)) => self.driver.lose(now, io::ErrorKind::UnexpectedEof.into()),
            Ok(Some(n)) => {
                self.driver.hear(now, &input[..n]);
                return true;
            }
            Ok(None) => return true,
            // A signal says nothing about what has arrived.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if is_passing(error.kind()) => {}
            Err(error) => self.driver.lose(now, error),
        }
        false
    }

    /// Sets the stream's timeout from the engine's deadline. Returns whether time is left.
    fn arm(&mut self) -> bool {
        let now = self.now();
        let left = self
            .driver
            .engine()
            .poll_timeout()
            .map_or(LONGEST_WAIT, |deadline| deadline - now);
        if left.is_zero() {
            self.handle_timeout();
            // The deadline has not passed: octets were waiting.
            return !self.driver.is_closed()
                && self
                    .driver
                    .engine()
                    .poll_timeout()
                    .is_none_or(|at| at > now);
        }
        let left = left.min(self.driver.block_timeout);
        let wanted = left.clamp(Duration::from_millis(1), LONGEST_WAIT);
        if self
            .armed
            .is_some_and(|armed| armed <= left && armed >= wanted / 2)
        {
            return true;
        }
        match self.stream.socket.transport.set_timeout(wanted) {
            Ok(()) => self.armed = Some(wanted),
            Err(error) => {
                self.lose(error);
                self.take_events();
                return false;
            }
        }
        true
    }

    fn take_events(&mut self) {
        self.driver.take_events();
        while std::mem::take(&mut self.driver.handshake_due) {
            self.handshake();
            self.driver.take_events();
        }
        if self.driver.is_closed() {
            // The last octets are not worth a wait.
            let _ = self
                .stream
                .socket
                .transport
                .set_timeout(self.driver.quit_timeout);
        }
    }

    #[cfg(not(feature = "rustls"))]
    fn handshake(&mut self) {
        let cause = smtp_proto::Cause::Settings("built without TLS".into());
        let now = self.now();
        self.driver.handle_tls_failed(now, cause);
    }
}

/// Whether a call that failed so may succeed when it is made again.
fn is_passing(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(kind, Interrupted | WouldBlock | TimedOut)
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}
