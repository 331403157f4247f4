//! The half of a session between its engine and its stream: octets gathered, events taken, reports kept. No I/O and
//! no clock.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use smtp_proto::{
    Chunking, Connection, Envelope, Event, Extension, Instant, MessageId, Outcome, Reply, Report,
    Request, Stage, error::Misuse, event::RequestId,
};

use crate::error::{Error, copy_io};
use crate::observe::Watch;
use crate::terms::SessionTerms;

mod gather;
mod told;

/// Messages that a bulk delivery submits at a time, if neither envelopes nor bodies wait for a reply.
const EAGER_WINDOW: usize = 16;

/// How long to read from a server that takes nothing any more: its last reply often says why it has gone.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// As good as never. A clock cannot wait for longer timeouts.
pub const FOREVER: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// The half of a pump that both adapters share.
pub struct Driver {
    /// Told everything in `told.rs` and `gather.rs`, so that a record misses nothing.
    engine: Connection,
    /// Gathered, but not written yet.
    pub out: Vec<u8>,
    /// `out` may hold credentials: until the session is ready, and after a request until the session is idle again.
    /// XCLIENT leads to another login.
    may_hold_secret: bool,
    /// Mail can be sent.
    pub ready: bool,
    /// A TLS handshake is due.
    pub handshake_due: bool,
    /// The server has shown that it does not take overlapping envelopes.
    pub overlap_broken: bool,
    /// The operating system's error when the connection was lost.
    pub io: Option<io::Error>,
    /// How long the stream may accept no octets.
    pub block_timeout: Duration,
    /// How long QUIT may take to go out.
    pub quit_timeout: Duration,
    /// Messages that a bulk delivery submits at a time: the current one, and the one whose envelope may follow in the
    /// same batch. It is more if bodies follow too. It bounds the memory for any number of messages.
    pub window: usize,
    /// The envelope of the next message may go out with the end of the message before.
    pub overlaps: bool,
    /// How many messages were submitted, and how many of them are not finished.
    pub submitted: u64,
    unfinished: usize,
    /// For whom the server takes us.
    client: Client,
    /// Between two messages of a bulk delivery, so that each does not make buffers of its own.
    keeps_buffers: bool,
    /// The last message whose body was wanted, and how many bodies were wanted so far.
    pub body: Option<(MessageId, u64)>,
    /// Octets of a body that become a chunk once there are enough, and how many of them the engine has taken.
    chunk: Vec<u8>,
    chunk_at: usize,
    /// The octets of `chunk` must go out, even if they are few.
    chunk_due: bool,
    /// An error line about the handshake depends on it.
    #[cfg(feature = "rustls")]
    handshake: Option<crate::handshake::Handshake>,
    /// The settings for the handshake, until it begins.
    #[cfg(feature = "rustls")]
    pub tls_settings: Option<crate::tls::TlsSettings>,
    /// How the session is encrypted, if it is.
    #[cfg(feature = "rustls")]
    pub tls_info: Option<crate::tls::TlsInfo>,
    /// The number of the session in this process.
    pub number: u64,
    /// Boxed, because few sessions are watched.
    watch: Option<Box<Watch>>,
    finished: VecDeque<(MessageId, Report)>,
    /// The request whose answer the caller waits for. Other answers are dropped.
    asked: Option<RequestId>,
    /// Boxed, because it exists only for a moment.
    answer: Option<Box<Result<Reply, smtp_proto::Error>>>,
    /// Boxed, because it exists only for a moment.
    closed: Option<Box<Result<(), smtp_proto::Error>>>,
}

impl Driver {
    /// A session on a stream that is connected now. Its clock starts now.
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

    /// The engine, to be asked. What changes it has a method here.
    pub fn engine(&self) -> &Connection {
        &self.engine
    }

    /// Whether the session has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether the session has ended properly, or QUIT was sent: its stream should be closed properly too.
    pub fn ends_well(&self) -> bool {
        self.closed.as_ref().is_some_and(|result| result.is_ok()) || self.engine.has_quit()
    }

    /// Why the session has ended.
    pub fn end(&self) -> smtp_proto::Error {
        match self.closed.as_deref() {
            Some(Err(error)) => error.clone(),
            _ => smtp_proto::Error::new(Stage::Quit, Outcome::NotAttempted, Misuse::Closed.into()),
        }
    }

    /// Why it has ended, with what is known of the session.
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

    /// Whether this session has sent as many messages as it may, or as the server takes.
    pub fn is_used_up(&self, most: u64) -> bool {
        self.submitted >= most || self.engine.is_used_up()
    }

    /// Whether a message is under way that nobody holds, because its transaction was leaked. Drops reports that
    /// nobody has taken.
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

    /// The TLS handshake is done. The pump tells the engine.
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

    /// Whether a message has ended, or wants its body.
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

    /// The caller does not wait for an answer any more.
    pub fn forget_answer(&mut self) {
        (self.asked, self.answer) = (None, None);
    }

    /// Why this message does not want more of its body, for the writer of the body. The report stays available.
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

    /// The result for the caller: an error if the message reached nobody.
    pub fn judge(&mut self, report: Option<Report>) -> Result<Report, Error> {
        match report {
            Some(report) if report.recipients.iter().any(Result::is_ok) => Ok(report),
            Some(report) => Err(self.explain(Error::from_report(report))),
            None => Err(self.ended()),
        }
    }

    /// Whether an idle session keeps its buffers, as between two messages of a bulk delivery.
    pub fn keep_buffers(&mut self, yes: bool) {
        self.keeps_buffers = yes;
        self.take_events();
        self.release();
    }

    fn is_between_messages(&self) -> bool {
        self.keeps_buffers && self.unfinished == 0 && self.engine.is_idle()
    }

    /// Frees the buffers of a session that is idle or has ended.
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

    /// Takes the engine's events. The pump does a handshake.
    pub fn take_events(&mut self) {
        // An idle engine without events frees its buffers.
        while !self.is_between_messages()
            && let Some(event) = self.engine.poll_event()
        {
            let is_chunked = self.engine.chunk_size().is_some();
            self.note(|record| record.event(&event, is_chunked));
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
                    // Drops the rest of a body that was refused.
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
                    // QUIT is still worth sending. Half a message is not.
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
        self.end_record();
        self.forget_output();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Peer, Server, Terms};
    use smtp_proto::{Channel, Request, TlsPolicy};
    use std::sync::{Arc, Mutex};

    /// The server sends this line, and all output is written.
    fn hear(driver: &mut Driver, line: &str) {
        let now = Instant::default();
        driver.hear(now, line.as_bytes());
        driver.take_events();
        driver.gather(now, &[]);
        driver.handle_written(now, driver.out.len());
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

        driver.request(Instant::default(), Request::noop()).unwrap();
        driver.forget_answer();
        hear(&mut driver, "");
        hear(&mut driver, "250 nobody waits\r\n");
        assert!(!driver.has_answer());

        // It is not taken for the answer to the next request either.
        driver.request(Instant::default(), Request::noop()).unwrap();
        hear(&mut driver, "");
        driver.request(Instant::default(), Request::noop()).unwrap();
        hear(&mut driver, "250 nobody waits\r\n");
        assert!(!driver.has_answer());
        hear(&mut driver, "250 somebody waits\r\n");
        assert!(driver.has_answer());
        let answer = driver.take_answer().unwrap();
        assert!(answer.to_string().contains("somebody"), "{answer}");
    }

    /// The session is dropped before its last command is gathered. The record has the command, and what comes of it.
    #[test]
    fn a_record_ends_with_what_waits_in_the_engine() {
        let record = Arc::new(Mutex::new(Vec::new()));
        let server = Server::new("mx.example.net").tls(TlsPolicy::Never);
        let server = server.record({
            let record = Arc::clone(&record);
            move |_| Ok(Shared(Arc::clone(&record)))
        });
        let terms = Terms::new(&server, false).session(Channel::Network, None, || Peer::Unknown);
        let mut driver = Driver::new(terms.unwrap());
        hear(&mut driver, "220 hi\r\n");
        driver.hear(Instant::default(), b"550 go away\r\n");
        drop(driver);
        let record = String::from_utf8(record.lock().unwrap().clone()).unwrap();
        let end = record.split_once("S: 550 go away\n").unwrap().1;
        assert!(
            end.starts_with("C: QUIT\nexpect closed says error ehlo: "),
            "{record}"
        );
    }

    /// A writer that its owner can read.
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(octets)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
