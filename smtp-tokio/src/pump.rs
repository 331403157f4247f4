//! The pump between the engine and an asynchronous stream. It consists of `poll_…` functions over one state. So a
//! future that is dropped between two polls loses nothing. Octets are gathered once they are in the buffer, written
//! once the stream has them, and received once the engine has them.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use smtp_adapter::{Driver, FOREVER, LAST_WORDS, SessionTerms};
use smtp_proto::{Envelope, MessageId, Request, error::Misuse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::stream::{AsyncStream, Stream};
use crate::turn::Turn;

#[cfg(feature = "rustls")]
mod handshake;
#[cfg(feature = "rustls")]
use handshake::Handshake;

/// After such a pause without a read, waiting input is read before anything is written. Within one delivery, pauses
/// are shorter.
const PAUSE: Duration = Duration::from_millis(5);

/// Octets that are read at a time, onto the stack. So an idle session keeps no buffer.
const READ: usize = 2048;

pub(crate) struct Pump {
    pub(crate) driver: Driver,
    /// `None` during the handshake, and after the end of the session.
    stream: Option<Stream>,
    #[cfg(feature = "rustls")]
    handshake: Option<Box<Handshake>>,
    /// How much of the gathered octets the stream has accepted, and how much of that is not known to be written.
    accepted: usize,
    unsettled: usize,
    /// Octets were accepted since the stream was last flushed.
    unflushed: bool,
    origin: Instant,
    sleep: Pin<Box<Sleep>>,
    /// The deadline for the stream to take some of the gathered octets.
    write_by: Option<Instant>,
    /// A write has failed. Until this time, the server's last reply is waited for.
    read_until: Option<Instant>,
    /// The session ends properly, so the closing alert of TLS is sent.
    ends_well: bool,
    /// When the stream was last read, or checked for input.
    heard: Instant,
    /// The stream has accepted octets since then.
    wrote: bool,
    /// The reactor's turn, before the stream is checked for input.
    turn: Option<Turn>,
}

impl Pump {
    pub(crate) fn new(terms: SessionTerms, stream: Box<dyn AsyncStream>) -> Self {
        let origin = Instant::now();
        Self {
            driver: Driver::new(terms),
            stream: Some(Stream::new(stream)),
            #[cfg(feature = "rustls")]
            handshake: None,
            accepted: 0,
            unsettled: 0,
            unflushed: false,
            origin,
            sleep: Box::pin(tokio::time::sleep_until(origin)),
            write_by: None,
            read_until: None,
            ends_well: false,
            heard: origin,
            wrote: false,
            turn: None,
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
        self.stream = None;
    }

    /// Gathers the engine's octets, and as much of `body` as is wanted and fits. Returns how many octets of `body`
    /// were used.
    pub(crate) fn transmit(&mut self, body: &[u8]) -> usize {
        match self.read_until {
            None => self.driver.gather(self.now(), body),
            Some(_) => 0,
        }
    }

    /// Whether all gathered octets are written, and no part of the body waits for a full chunk.
    pub(crate) fn is_flushed(&self) -> bool {
        let out = self.driver.out.is_empty() && !self.unflushed && self.driver.has_no_chunk();
        self.driver.is_closed() || out
    }

    /// Ends the body, if one is wanted. Ready when its end is gathered.
    pub(crate) fn poll_end_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.poll_look(cx));
            // After a failed write, nothing more is sent.
            let ended = self.read_until.is_none() && self.driver.end_body(self.now());
            if ended || self.driver.is_closed() {
                return Poll::Ready(());
            }
            ready!(self.poll_progress(cx));
        }
    }

    /// Reads what came before the end of a body goes out. It does not answer that end.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wrote && self.driver.engine().wants_body() {
            self.turn.get_or_insert_with(Turn::begin);
        }
        self.poll_pause(cx).map(drop)
    }

    /// After a pause, reads what has come meanwhile. It does not answer what goes out now. The reactor gets one turn
    /// first, because it would not see the input otherwise. Ready with whether it has read.
    pub(crate) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.turn.is_none() && self.has_paused() {
            self.turn = Some(Turn::begin());
        }
        let Some(turn) = &mut self.turn else {
            return Poll::Ready(false);
        };
        ready!(turn.poll(cx, PAUSE));
        self.turn = None;
        self.read_what_is_there(cx);
        Poll::Ready(true)
    }

    /// Runs until `done`, or until the connection has ended.
    pub(crate) async fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        std::future::poll_fn(|cx| self.poll_until(cx, &mut done)).await;
    }

    pub(crate) fn poll_until(
        &mut self,
        cx: &mut Context<'_>,
        done: &mut impl FnMut(&mut Self) -> bool,
    ) -> Poll<()> {
        loop {
            self.transmit(&[]);
            self.take_events();
            if self.driver.is_closed() {
                return self.poll_close(cx);
            }
            if done(self) {
                return Poll::Ready(());
            }
            ready!(self.poll_progress(cx));
        }
    }

    /// Writes, reads and checks the clock, as far as possible now. Ready when something has changed.
    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.driver.handshake_due) {
            self.begin_handshake();
        }
        let shaken = self.poll_handshake(cx).is_ready();
        let begins = self.accepted == 0 && !self.driver.out.is_empty();
        let looked = match begins {
            true => self.poll_pause(cx),
            false => Poll::Ready(false),
        };
        let wrote = looked.is_ready()
            && self.stream.is_some()
            && (!self.driver.out.is_empty() || self.unflushed)
            && self.poll_write(cx).is_ready();
        let read = !self.driver.is_closed() && self.poll_read(cx).is_ready();
        let timed_out = !self.driver.is_closed() && self.poll_deadline(cx).is_ready();
        self.take_events();
        let looked = looked == Poll::Ready(true);
        match shaken || looked || wrote || read || timed_out || self.driver.is_closed() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Writes the gathered octets. Ready when they are out, or can never go out.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(());
        };
        if self.read_until.is_some() {
            return if self.driver.is_closed() {
                Poll::Ready(())
            } else {
                Poll::Pending
            };
        }
        while self.accepted < self.driver.out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.driver.out[self.accepted..]) {
                Poll::Ready(Ok(n @ 1..)) => {
                    self.accepted += n;
                    self.unsettled += n;
                    self.wrote = true;
                    self.write_by = None;
                    self.unflushed = true;
                    settle(stream, &mut self.driver, &mut self.unsettled, self.origin);
                }
                Poll::Ready(result) => {
                    let zero = io::ErrorKind::WriteZero.into();
                    settle(stream, &mut self.driver, &mut self.unsettled, self.origin);
                    self.on_write_error(result.err().unwrap_or(zero));
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    settle(stream, &mut self.driver, &mut self.unsettled, self.origin);
                    // The engine has no deadline before the octets are out, so check it here.
                    self.write_by
                        .get_or_insert_with(|| Instant::now() + self.driver.block_timeout);
                    return Poll::Pending;
                }
            }
        }
        self.driver.written();
        self.accepted = 0;
        if self.unflushed {
            let flushed = Pin::new(&mut *stream).poll_flush(cx);
            settle(stream, &mut self.driver, &mut self.unsettled, self.origin);
            match flushed {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    self.write_by = None;
                }
                Poll::Ready(Err(error)) => self.on_write_error(error),
                Poll::Pending => {
                    self.write_by
                        .get_or_insert_with(|| Instant::now() + self.driver.block_timeout);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    /// A leaked transaction leaves its body open, and the next message would go into that body. So the session ends.
    pub(crate) fn end_leaked(&mut self) {
        if self.driver.has_leaked() {
            self.abort("a transaction was leaked before it was finished");
        }
    }

    /// Begins each call on a session.
    pub(crate) async fn start(&mut self) {
        self.end_leaked();
        // It may be a 421.
        std::future::poll_fn(|cx| self.poll_pause(cx)).await;
    }

    /// Whether the stream must be checked for input.
    fn has_paused(&self) -> bool {
        self.heard.elapsed() >= PAUSE && !self.driver.is_closed()
    }

    /// Reads without waiting.
    fn read_what_is_there(&mut self, cx: &mut Context<'_>) {
        while !self.driver.is_closed() && self.poll_read_now(cx).is_ready() {
            self.take_events();
        }
        self.heard = Instant::now();
        self.wrote = false;
    }

    /// Nothing more can be sent. But the server's last reply, such as a 421, often says why it has gone.
    fn on_write_error(&mut self, error: io::Error) {
        self.driver.io.get_or_insert(error);
        self.read_until = Some(Instant::now() + LAST_WORDS);
        self.write_by = None;
        self.driver.forget_output();
        self.accepted = 0;
    }

    /// Reads what is there, also if the task's budget is used up.
    fn poll_read_now(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let read = std::future::poll_fn(|cx| self.poll_read(cx));
        std::pin::pin!(tokio::task::unconstrained(read)).poll(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Pending;
        };
        let mut input = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut input);
        let result = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
        let received = buffer.filled();
        self.heard = Instant::now();
        self.wrote = false;
        let now = smtp_proto::Instant::from_origin(self.heard - self.origin);
        match result {
            Ok(()) if !received.is_empty() => self.driver.hear(now, received),
            Ok(()) => self.driver.lose(now, io::ErrorKind::UnexpectedEof.into()),
            Err(error) => self.driver.lose(now, error),
        }
        Poll::Ready(())
    }

    /// The deadline of the engine, or of writing its octets.
    fn deadline(&self) -> Option<Instant> {
        let engine = self
            .driver
            .engine()
            .poll_timeout()
            .map(|at| self.origin + at.since_origin().min(FOREVER));
        [engine, self.write_by, self.read_until]
            .into_iter()
            .flatten()
            .min()
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(deadline) = self.deadline() else {
                return Poll::Pending;
            };
            if Instant::now() >= deadline {
                if Some(deadline) == self.write_by {
                    self.driver.io.get_or_insert(io::ErrorKind::TimedOut.into());
                }
                if Some(deadline) == self.write_by || Some(deadline) == self.read_until {
                    let now = self.now();
                    self.driver.lose(now, io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(());
                }
                // The deadline has passed if the reactor has had its turn since, and one more read finds nothing.
                if self.heard < deadline {
                    self.turn.get_or_insert_with(Turn::begin);
                    ready!(self.poll_pause(cx));
                } else if self.poll_read_now(cx).is_ready() {
                    self.take_events();
                } else {
                    self.driver.handle_timeout(self.now());
                }
                return Poll::Ready(());
            }
            // A timer that fires early is cheaper than a new one for each reply.
            let armed = self.sleep.deadline();
            if armed > deadline || self.sleep.is_elapsed() || armed <= self.origin {
                self.sleep.as_mut().reset(deadline);
            }
            ready!(self.sleep.as_mut().poll(cx));
        }
    }

    /// Sends the closing alert, if it is due, and closes. The reply to QUIT is not waited for.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ends_well |= self.driver.ends_well();
        if self.stream.is_none() || !self.ends_well {
            self.stream = None;
            return Poll::Ready(());
        }
        let by = *self
            .write_by
            .get_or_insert_with(|| Instant::now() + self.driver.quit_timeout);
        self.sleep.as_mut().reset(by);
        let expired = self.sleep.as_mut().poll(cx).is_ready();
        let written = self.poll_write(cx);
        if !expired {
            ready!(written);
            if let Some(stream) = &mut self.stream {
                let _ = ready!(Pin::new(stream).poll_shutdown(cx));
            }
        }
        self.stream = None;
        Poll::Ready(())
    }

    /// Sends QUIT, as far as it can be written at once, and closes.
    pub(crate) fn leave_at_once(&mut self) {
        if !self.quit() {
            return;
        }
        self.transmit(&[]);
        self.take_events();
        // It does not wait, so the task's budget must not stop it.
        let goodbye = tokio::task::unconstrained(std::future::poll_fn(|cx| {
            let written = self.poll_write(cx).is_ready();
            if let (true, Some(stream)) = (written, &mut self.stream) {
                let _ = Pin::new(stream).poll_shutdown(cx);
            }
            Poll::Ready(())
        }));
        let _ = std::pin::pin!(goodbye).poll(&mut Context::from_waker(Waker::noop()));
        self.stream = None;
    }

    fn take_events(&mut self) {
        let was_closed = self.driver.is_closed();
        self.driver.take_events();
        if self.driver.is_closed() && !was_closed {
            #[cfg(feature = "rustls")]
            {
                self.handshake = None;
            }
            self.write_by = None;
            self.accepted = self.accepted.min(self.driver.out.len());
        }
    }

    /// Opens the session: greeting, EHLO, TLS, AUTH.
    pub(crate) async fn open(&mut self) {
        self.run_until(|pump| pump.driver.ready).await;
    }

    #[cfg(not(feature = "rustls"))]
    fn begin_handshake(&mut self) {
        let cause = smtp_proto::Cause::Settings("built without TLS".into());
        let now = self.now();
        self.driver.handle_tls_failed(now, cause);
    }

    #[cfg(not(feature = "rustls"))]
    fn poll_handshake(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Tells the engine about the octets that the stream has accepted. If TLS holds some back, all count as given as soon
/// as one octet has left.
fn settle(stream: &mut Stream, driver: &mut Driver, unsettled: &mut usize, origin: Instant) {
    let now = || smtp_proto::Instant::from_origin(origin.elapsed());
    if stream.is_flushed() {
        driver.handle_written(now(), std::mem::take(unsettled));
        stream.begin_count();
    } else if stream.has_moved() {
        driver.handle_given(now(), *unsettled);
    }
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump")
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}
