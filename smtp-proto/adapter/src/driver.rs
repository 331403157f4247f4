//! What a session is between its engine and its stream, whatever the stream is: octets gathered, events
//! taken, reports kept. No I/O and no clock.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::BufMut;
use smtp_proto::{
    BodyPart, Chunking, Connection, Envelope, Event, Extension, Instant, MessageId, Outcome, Reply,
    Report, Request, Stage, error::Misuse, event::RequestId,
};

use crate::error::{Error, copy_io, outcome_of};
use crate::observe::Watch;
use crate::terms::SessionTerms;

/// Octets that are gathered before they are written, so that an envelope, or the end of a body with its
/// dot, is one packet and one system call where it can be.
const GATHER: usize = 32 * 1024;

/// Messages that a bulk delivery submits at a time where neither their envelopes nor their bodies wait for a
/// reply.
const EAGER_WINDOW: usize = 16;

/// How long to listen to a server that takes nothing any more: why it has gone is often there to be read.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// As good as never, for timeouts that a clock could not be asked to wait for.
pub const FOREVER: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// The half of a pump that both adapters share.
pub struct Driver {
    /// The engine.
    pub engine: Connection,
    /// Gathered, and not written.
    pub out: Vec<u8>,
    /// It may be credentials: until the session is ready, and after a request until the session is idle again. XCLIENT
    /// leads to another login.
    may_hold_secret: bool,
    /// Mail can be sent.
    pub ready: bool,
    /// A TLS handshake is due.
    pub handshake_due: bool,
    /// The server has shown that it does not take overlapping envelopes.
    pub overlap_broken: bool,
    /// What the operating system said when the connection was lost.
    pub io: Option<io::Error>,
    /// How long the stream may take nothing.
    pub block_timeout: Duration,
    /// How long QUIT may take to go out.
    pub quit_timeout: Duration,
    /// Messages that a bulk delivery submits at a time: the one under way, and the one whose envelope may
    /// follow it in the same batch, or more where bodies do so too. It bounds the memory, whatever the number
    /// of messages.
    pub window: usize,
    /// The envelope of the next message may go out with the end of one.
    pub overlaps: bool,
    /// Messages that were submitted, and those of them that are not finished.
    pub submitted: u64,
    unfinished: usize,
    /// For whom the server takes us.
    client: Client,
    /// Between two messages of a bulk delivery, so that each does not make buffers of its own.
    keeps_buffers: bool,
    /// The message whose body was wanted last, and how many bodies were wanted by then.
    pub body: Option<(MessageId, u64)>,
    /// Octets of a body that become a chunk when there are enough of them, and how many of them the engine
    /// has taken.
    chunk: Vec<u8>,
    chunk_at: usize,
    /// They are to go out although there are not enough of them.
    chunk_due: bool,
    /// What an error line about the handshake says depends on it.
    #[cfg(feature = "rustls")]
    handshake: Option<crate::handshake::Handshake>,
    /// For the handshake, until it begins.
    #[cfg(feature = "rustls")]
    pub tls_settings: Option<crate::tls::TlsSettings>,
    /// How the session is encrypted, if it is.
    #[cfg(feature = "rustls")]
    pub tls_info: Option<crate::tls::TlsInfo>,
    /// Of the session, in this process.
    pub number: u64,
    /// Boxed, because most sessions have none.
    watch: Option<Box<Watch>>,
    finished: VecDeque<(MessageId, Report)>,
    /// The request whose answer is waited for. The others' answers are of no interest to anybody.
    asked: Option<RequestId>,
    /// Boxed, because it is there for a moment and the session for long.
    answer: Option<Box<Result<Reply, smtp_proto::Error>>>,
    /// Boxed, because it is there for a moment and the session for long.
    closed: Option<Box<Result<(), smtp_proto::Error>>>,
}

impl Driver {
    /// A session on a stream that is connected now, which is the origin of its clock.
    pub fn new(terms: SessionTerms) -> Self {
        let config = terms.config;
        Self {
            out: Vec::new(),
            may_hold_secret: true,
            ready: false,
            handshake_due: false,
            overlap_broken: false,
            io: None,
            block_timeout: config.timeouts.block.min(FOREVER),
            quit_timeout: config.timeouts.quit.min(FOREVER),
            window: config.limits.messages.max(1).min(
                match config.overlap && config.chunking == Chunking::Eager {
                    true => EAGER_WINDOW,
                    false => 2,
                },
            ),
            overlaps: config.overlap,
            submitted: 0,
            unfinished: 0,
            client: Client::Own,
            keeps_buffers: false,
            body: None,
            chunk: Vec::new(),
            chunk_at: 0,
            chunk_due: false,
            #[cfg(feature = "rustls")]
            handshake: terms.tls.as_ref().map(crate::tls::TlsSettings::handshake),
            #[cfg(feature = "rustls")]
            tls_settings: terms.tls,
            #[cfg(feature = "rustls")]
            tls_info: None,
            number: terms.number,
            watch: terms.watch,
            finished: VecDeque::new(),
            asked: None,
            answer: None,
            closed: None,
            engine: Connection::with_nonce(config, Instant::default(), terms.nonce),
        }
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether the session has ended in good order, or is about to be told so: it is worth closing well.
    pub fn ends_well(&self) -> bool {
        self.closed.as_ref().is_some_and(|result| result.is_ok()) || self.engine.has_quit()
    }

    /// Why it has ended.
    pub fn end(&self) -> smtp_proto::Error {
        match self.closed.as_deref() {
            Some(Err(error)) => error.clone(),
            _ => smtp_proto::Error::new(Stage::Quit, Outcome::NotAttempted, Misuse::Closed.into()),
        }
    }

    /// The same, with what is known of the session.
    pub fn ended(&mut self) -> Error {
        let end = self.end();
        self.explain(Error::new(end))
    }

    /// The error, with what is known of the session.
    pub fn explain(&mut self, error: Error) -> Error {
        error.in_session(
            self.engine.round_trips(),
            self.io.take(),
            #[cfg(feature = "rustls")]
            self.tls_info.clone(),
        )
    }

    /// Submits a message, or gives the envelope back for its report.
    pub fn submit(&mut self, envelope: Envelope) -> Result<MessageId, (Misuse, Envelope)> {
        let id = self.engine.try_submit(envelope)?;
        self.submitted += 1;
        self.unfinished += 1;
        if self.client == Client::OtherForNextMessage {
            self.client = Client::Own;
        }
        Ok(id)
    }

    /// Whether the session is good for further messages, of somebody who knows nothing of the ones before: nothing is
    /// under way, nothing is owed, and the server does not take us for another client.
    pub fn is_free(&self) -> bool {
        !self.is_closed()
            && self.client == Client::Own
            && self.unfinished == 0
            && self.out.is_empty()
            && self.engine.is_idle()
            && !self.engine.has_quit()
    }

    /// Whether this session has had as many messages as one may have, or as the server takes.
    pub fn is_used_up(&self, most: u64) -> bool {
        self.submitted >= most || self.engine.is_used_up()
    }

    /// Whether a message is under way although nobody holds it: its transaction was leaked. Reports that nobody has
    /// taken are forgotten.
    pub fn has_leaked(&mut self) -> bool {
        self.finished.clear();
        self.keep_buffers(false);
        self.unfinished > 0
    }

    /// The report of a message that could not be submitted.
    pub fn unsubmitted(&self, misuse: Misuse, envelope: Envelope) -> Report {
        let mut report = Report::not_attempted(envelope, &self.end());
        if misuse != Misuse::Closed {
            // No other session would take it.
            let error = smtp_proto::Error::new(Stage::Local, Outcome::Permanent, misuse.into());
            report.recipients.fill(Err(error));
        }
        if let Some(watch) = &self.watch {
            watch.finished(None, &report);
        }
        report
    }

    /// The TLS handshake is done. The engine is told by the pump.
    #[cfg(feature = "rustls")]
    pub fn encrypted(&mut self, info: crate::tls::TlsInfo) {
        if let Some(watch) = &self.watch {
            watch.encrypted(&info);
        }
        self.tls_info = Some(info);
    }

    fn is_encrypted(&self) -> bool {
        #[cfg(feature = "rustls")]
        return self.tls_info.is_some();
        #[cfg(not(feature = "rustls"))]
        false
    }

    /// The stream has failed, or has ended, which is an [`io::ErrorKind::UnexpectedEof`].
    pub fn lose(&mut self, now: Instant, error: io::Error) {
        #[cfg(feature = "rustls")]
        let Some(error) = self.lose_tls(now, error) else {
            return;
        };
        // rustls: the server closed without saying so in TLS, as many do.
        if error.kind() != io::ErrorKind::UnexpectedEof {
            self.io.get_or_insert(error);
        }
        self.engine.handle_eof(now);
    }

    /// The same as far as it is about TLS. Else the error is returned.
    #[cfg(feature = "rustls")]
    fn lose_tls(&mut self, now: Instant, error: io::Error) -> Option<io::Error> {
        use crate::handshake::{tls_error, words};
        let tls = tls_error(&error);
        // The server may refuse the client's certificate after the handshake is over for us.
        if let Some(handshake) = self.handshake
            && self.tls_info.is_some()
        {
            let cause = match tls {
                Some(tls) => handshake.cause(tls),
                None => handshake.cut_off(),
            };
            if self.engine.handle_tls_failed(cause).is_ok() {
                match error.kind() {
                    // What a write has found after it explains less.
                    _ if tls.is_some() => self.io = None,
                    io::ErrorKind::UnexpectedEof => {}
                    _ => {
                        self.io.get_or_insert(error);
                    }
                }
                return None;
            }
        }
        let words = match tls {
            Some(tls) => words(tls),
            None => return Some(error),
        };
        self.io = None;
        let cause =
            smtp_proto::Cause::Transport(format!("the TLS connection failed: {words}").into());
        self.engine.handle_lost(now, cause);
        None
    }

    /// Whether a message has ended, or the body of one is wanted.
    pub fn wants_caller(&self) -> bool {
        self.has_report() || self.engine.wants_body()
    }

    /// Whether a message has ended.
    pub fn has_report(&self) -> bool {
        !self.finished.is_empty()
    }

    /// The report of this message, if it is the next one.
    pub fn take_report(&mut self, message: MessageId) -> Option<Report> {
        let (id, _) = self.finished.front()?;
        if *id != message {
            return None;
        }
        self.finished.pop_front().map(|(_, report)| report)
    }

    /// Makes a request. From here on its answer alone is waited for.
    pub fn request(&mut self, request: Request) -> Result<(), Misuse> {
        let client = Client::after(&request, self.client);
        let id = self.engine.request(request)?;
        self.client = client;
        self.may_hold_secret = true;
        (self.asked, self.answer) = (Some(id), None);
        Ok(())
    }

    /// Whether the request has been answered.
    pub fn has_answer(&self) -> bool {
        self.answer.is_some()
    }

    /// The answer to the request.
    pub fn take_answer(&mut self) -> Result<Reply, Error> {
        self.asked = None;
        match self.answer.take() {
            Some(answer) => answer.map_err(|error| self.explain(Error::new(error))),
            None => Err(self.ended()),
        }
    }

    /// Nobody waits for an answer any more.
    pub fn forget_answer(&mut self) {
        (self.asked, self.answer) = (None, None);
    }

    /// Why no more of the body of this message is wanted, for whoever writes it. The report stays to be taken.
    pub fn body_refused(&self, message: MessageId) -> io::Error {
        let error = match self.finished.front() {
            Some((id, report)) if *id == message => Error::from_report(report.clone()),
            _ => Error::new(self.end()),
        };
        let error = error.in_session(
            self.engine.round_trips(),
            self.io.as_ref().map(copy_io),
            #[cfg(feature = "rustls")]
            self.tls_info.clone(),
        );
        io::Error::new(io::ErrorKind::BrokenPipe, error)
    }

    /// A report to its reader: an error where the message reached nobody.
    pub fn judge(&mut self, report: Option<Report>) -> Result<Report, Error> {
        match report {
            Some(report) if report.recipients.iter().any(Result::is_ok) => Ok(report),
            Some(report) => Err(self.explain(Error::from_report(report))),
            None => Err(self.ended()),
        }
    }

    /// Gathers what the engine offers, and as much of `body` as is wanted and as there is room for. Where it
    /// travels in chunks of unknown number, enough for a whole one are gathered first, so that their sizes do
    /// not depend on how the body is cut. Returns how many octets of `body` were used.
    pub fn gather(&mut self, now: Instant, body: &[u8]) -> usize {
        let Some(size) = self
            .engine
            .chunk_size()
            .filter(|_| !body.is_empty() || !self.chunk.is_empty())
        else {
            return self.take(now, body);
        };
        let mut used = 0;
        loop {
            if self.chunk_at == 0 {
                let more = size.saturating_sub(self.chunk.len()).min(body.len() - used);
                self.chunk.extend_from_slice(&body[used..used + more]);
                used += more;
                // A full one waits for what follows it: if nothing does, it is the last.
                if used == body.len() && !self.chunk_due {
                    self.take(now, &[]);
                    return used;
                }
            }
            if !self.send_chunk(now, false) {
                return used;
            }
            self.chunk_due = false;
        }
    }

    /// Gathers the rest of the chunk, which may be the last of the body. Whether that is all of it.
    fn send_chunk(&mut self, now: Instant, is_last: bool) -> bool {
        let chunk = std::mem::take(&mut self.chunk);
        let rest = &chunk[self.chunk_at..];
        let part = match is_last {
            true => BodyPart::Last(rest),
            false => BodyPart::Next(rest),
        };
        self.chunk_at += self.take(now, part);
        self.chunk = chunk;
        let sent = self.chunk_at == self.chunk.len();
        if sent {
            self.chunk.clear();
            self.chunk_at = 0;
        }
        sent
    }

    /// Sends what waits for a chunk to be full, with the next octets that are gathered.
    pub fn flush_chunk(&mut self) {
        self.chunk_due = !self.chunk.is_empty();
    }

    /// Whether nothing waits for a chunk to be full.
    pub fn has_no_chunk(&self) -> bool {
        self.chunk.is_empty() || !self.engine.wants_body()
    }

    /// Ends the body, as far as that is possible now. Whether it has ended: else something must be written, or
    /// a reply waited for.
    pub fn end_body(&mut self, now: Instant) -> bool {
        if !self.has_no_chunk() && !self.send_chunk(now, true) && self.engine.wants_body() {
            return false;
        }
        let _ = self.engine.finish_body();
        true
    }

    fn take<'a>(&mut self, now: Instant, body: impl Into<BodyPart<'a>>) -> usize {
        let room = GATHER.saturating_sub(self.out.len());
        if self.may_hold_secret
            && let Some(transmit) = self.engine.poll_transmit(now, &[][..])
        {
            // A buffer that grows is copied, and the old copy keeps the secret. So it is made large enough first.
            let octets = transmit.parts()[0].len();
            self.out.reserve(octets.min(room));
        }
        self.engine
            .poll_transmit_onto(now, body, &mut (&mut self.out).limit(room))
    }

    /// The caller cannot give the rest of the body, for this reason.
    pub fn fail_body(&mut self, error: &io::Error) {
        self.forget_chunk();
        let _ = self.engine.fail_body(
            outcome_of(error),
            &format!("the message cannot be read: {error}"),
        );
    }

    fn forget_chunk(&mut self) {
        self.chunk.clear();
        (self.chunk_at, self.chunk_due) = (0, false);
    }

    /// Whether something must be written before more can be gathered.
    pub fn is_full(&self) -> bool {
        self.out.len() >= GATHER
    }

    /// All that was gathered has been written.
    pub fn written(&mut self) {
        self.forget_output();
    }

    /// What was gathered is not kept, and wiped where it may be credentials.
    pub fn forget_output(&mut self) {
        if self.may_hold_secret {
            zeroize::Zeroize::zeroize(&mut self.out);
        }
        self.out.clear();
    }

    /// Whether buffers are kept while the session is idle for a moment, as between two messages of a bulk delivery.
    pub fn keep_buffers(&mut self, yes: bool) {
        self.keeps_buffers = yes;
        self.take_events();
        self.release();
    }

    fn is_between_messages(&self) -> bool {
        self.keeps_buffers && self.unfinished == 0 && self.engine.is_idle()
    }

    /// A session that is idle, or has ended, keeps no buffer.
    fn release(&mut self) {
        if self.keeps_buffers {
            return;
        }
        if self.out.is_empty() && (self.engine.is_idle() || self.engine.is_closed()) {
            self.may_hold_secret = false;
            self.forget_chunk();
            (self.out, self.chunk) = (Vec::new(), Vec::new());
        }
    }

    /// Takes the engine's events. A handshake is for the pump to do.
    pub fn take_events(&mut self) {
        // An engine that is idle, and has no more events, releases its buffers.
        while !self.is_between_messages()
            && let Some(event) = self.engine.poll_event()
        {
            match event {
                Event::StartTls => self.handshake_due = true,
                Event::Ready => {
                    (self.ready, self.may_hold_secret) = (true, false);
                    if let Some(watch) = &self.watch {
                        watch.ready(self.is_encrypted());
                    }
                    self.release();
                }
                Event::Finished(id, report) => {
                    self.unfinished -= 1;
                    if let Some(watch) = &self.watch {
                        watch.finished(Some(id), &report);
                    }
                    self.finished.push_back((id, report));
                    self.release();
                }
                Event::BodyWanted(id) => {
                    let number = self.body.map_or(0, |(_, number)| number);
                    self.body = Some((id, number + 1));
                    // What is left of one that was refused.
                    self.forget_chunk();
                }
                Event::Answered(id, answer) => {
                    if self.asked == Some(id) {
                        self.answer = Some(Box::new(answer));
                    }
                    self.release();
                }
                Event::OverlapBroken => self.overlap_broken = true,
                Event::Closed(result) => {
                    if let Some(watch) = &self.watch {
                        watch.closed(&result, self.io.as_ref());
                    }
                    self.closed = Some(Box::new(result));
                    self.handshake_due = false;
                    // A goodbye is worth sending yet; half a message is not.
                    if !self.engine.has_quit() {
                        self.forget_output();
                    }
                    self.release();
                }
                Event::Trace(trace) => {
                    if let Some(watch) = &self.watch {
                        watch.step(&trace);
                    }
                }
                _ => {}
            }
        }
    }
}

/// For whom the server takes us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Own,
    /// XFORWARD tells where the next message comes from.
    OtherForNextMessage,
    /// XCLIENT holds for all that follows.
    Other,
}

impl Client {
    fn after(request: &Request, before: Self) -> Self {
        match (request.extension(), before) {
            (_, Self::Other) | (Some(Extension::XClient), _) => Self::Other,
            (Some(Extension::XForward), _) => Self::OtherForNextMessage,
            _ => before,
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.forget_output();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Peer, Server, Terms};
    use smtp_proto::{Channel, TlsPolicy};

    /// The server says this, and all that there is to say is written.
    fn hear(driver: &mut Driver, line: &str) {
        let now = Instant::default();
        driver.engine.handle_input(now, line.as_bytes());
        driver.take_events();
        driver.gather(now, &[]);
        driver.engine.handle_written(now, driver.out.len());
        driver.written();
    }

    #[test]
    fn answers_that_nobody_waits_for_are_dropped() {
        let server = Server::new("mx.example.net").tls(TlsPolicy::Never);
        let terms = Terms::new(&server, false).session(Channel::Network, None, || Peer::Unknown);
        let mut driver = Driver::new(terms.unwrap());
        hear(&mut driver, "220 hi\r\n");
        hear(&mut driver, "250 hi\r\n");
        assert!(driver.ready);

        driver.request(Request::noop()).unwrap();
        driver.forget_answer();
        hear(&mut driver, "");
        hear(&mut driver, "250 nobody waits\r\n");
        assert!(!driver.has_answer());

        // Nor is it taken for that of the next one.
        driver.request(Request::noop()).unwrap();
        hear(&mut driver, "");
        driver.request(Request::noop()).unwrap();
        hear(&mut driver, "250 nobody waits\r\n");
        assert!(!driver.has_answer());
        hear(&mut driver, "250 somebody waits\r\n");
        assert!(driver.has_answer());
        let answer = driver.take_answer().unwrap();
        assert!(answer.to_string().contains("somebody"), "{answer}");
    }
}
