//! The engine: where each call goes, and when time is up.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt;

use crate::capability::Capabilities;
use crate::chunk::{Body, Insertion, Sent};
use crate::command::Command;
use crate::config::{Config, TlsPolicy};
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Misuse, ProtocolError, Stage};
use crate::event::{Event, MessageId, RequestId, Trace};
use crate::opening::{Opening, Progress};
use crate::pipeline::{Context, Deadline, Expect, Pipeline};
use crate::reply::{Decoder, Reply, ReplyClass, ReplyRef};
use crate::request::Request;
use crate::spent::Spent;
use crate::time::Instant;
use crate::tls::TlsFacts;
use crate::transaction::{Flow, Transaction};

/// One session with one server, as a state machine without I/O.
///
/// Its methods are of three kinds.
///
/// - **The application speaks**: [`submit`](Self::submit), [`announce_rest`](Self::announce_rest),
///   [`finish_body`](Self::finish_body), [`request`](Self::request), [`quit`](Self::quit),
///   [`abort`](Self::abort). A call that does not fit is a [`Misuse`] and changes
///   nothing.
/// - **The transport reports**: the `handle_…` methods. They do not fail; bad news becomes an event.
/// - **The engine answers**: the `poll_…` methods, which may be called at any time, in any order and
///   again. After any call of the first two kinds, poll for what to transmit, for events, and for the
///   next timeout.
///
/// The pump that drives it, over any transport:
///
/// ```
/// # use std::io::{self, Read, Write};
/// # use smtp_proto::*;
/// fn run(engine: &mut Connection, mut socket: impl Read + Write, message: &[u8], now: Instant) -> io::Result<()> {
///     let mut rest = message;
///     loop {
///         while let Some(transmit) = engine.poll_transmit(now, rest) {
///             let [ours, theirs] = transmit.parts();
///             let n = socket.write(if ours.is_empty() { theirs } else { ours })?;
///             rest = &rest[transmit.advance(n)..];
///         }
///         while let Some(event) = engine.poll_event() {
///             match event {
///                 Event::Finished(_, report) => println!("{report:?}"),
///                 Event::Closed(_) => return Ok(()),
///                 _ => {}
///             }
///         }
///         if engine.wants_body() && rest.is_empty() {
///             engine.finish_body().unwrap();
///             continue;
///         }
///         let mut buffer = [0; 1024];
///         match socket.read(&mut buffer)? {
///             0 => engine.handle_eof(now),
///             n => engine.handle_input(now, &buffer[..n]),
///         }
///     }
/// }
/// ```
pub struct Connection {
    decoder: Decoder,
    state: State,
}

struct State {
    config: Arc<Config>,
    phase: Phase,
    pipeline: Pipeline,
    capabilities: Capabilities,
    opening: Opening,
    /// Submitted and not finished, in order; the first may be under way.
    jobs: VecDeque<Job>,
    next_id: u64,
    /// While a body is wanted: of this message.
    body: Option<(MessageId, Body)>,
    /// The caller has no more of it. Its last chunk may still have to wait for its turn.
    body_ends: bool,
    /// The round trips that were done when the last chunk was begun.
    chunk_trip: u64,
    spent: Spent,
    /// For what is no reply: the handshake, a block of the body, getting QUIT out.
    deadline: Option<Deadline>,
    /// The last transaction failed, and the next one begins with RSET.
    reset_due: bool,
    /// [`Event::Ready`] was said.
    was_ready: bool,
    /// [`Connection::quit`] was called; and QUIT is out, behind the last end of data.
    quitting: bool,
    quit_said: bool,
    /// The transport has taken all of it.
    quit_sent: bool,
}

/// What was submitted.
#[expect(
    clippy::large_enum_variant,
    reason = "messages are the rule, and a box costs each an allocation"
)]
enum Job {
    Message(Transaction),
    Request(Asked),
}

/// A request, and how far it has come.
struct Asked {
    id: RequestId,
    request: Request,
    step: AskedStep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AskedStep {
    Queued,
    /// RSET is out, because the transaction before failed.
    Reset,
    Said,
}

enum Phase {
    Opening,
    /// A handshake is due, or under way once [`Event::StartTls`] has been queued.
    Handshake {
        announced: bool,
    },
    Ready,
    /// QUIT goes out, and then the connection closes, with this error if there is one.
    Leaving(Option<Box<Error>>),
    Closed,
}

impl Connection {
    /// A session on a transport that is connected now.
    pub fn new(config: impl Into<Arc<Config>>, now: Instant) -> Self {
        let config: Arc<Config> = config.into();
        let mut state = State {
            phase: Phase::Opening,
            pipeline: Pipeline::new(config.clone()),
            capabilities: Capabilities::default(),
            opening: Opening::default(),
            jobs: VecDeque::new(),
            next_id: 0,
            body: None,
            body_ends: false,
            chunk_trip: 0,
            spent: Spent::default(),
            deadline: None,
            reset_due: false,
            was_ready: false,
            quitting: false,
            quit_said: false,
            quit_sent: false,
            config,
        };
        let (opening, mut cx) = state.opening();
        if opening.start(now, &mut cx) == Progress::StartTls {
            state.begin_handshake(now);
        }
        Self {
            decoder: Decoder::new(state.config.limits.reply),
            state,
        }
    }

    /// Queues a message. Its body is asked for by [`Event::BodyWanted`], and its end is reported by
    /// [`Event::Finished`], exactly once.
    ///
    /// # Errors
    /// [`Misuse::Closed`] after [`quit`](Self::quit) or the end of the connection, [`Misuse::QueueFull`]
    /// when [`Limits::messages`](crate::Limits::messages) wait already, requests among them.
    pub fn submit(&mut self, envelope: Envelope) -> Result<MessageId, Misuse> {
        let id = MessageId(self.state.next_id()?);
        self.state
            .enqueue(Job::Message(Transaction::new(id, envelope)));
        Ok(id)
    }

    /// Queues a command outside a transaction: VRFY, NOOP, XCLIENT, one of the caller's own. Requests and
    /// messages take their turns in the order in which they were given. The reply is reported by
    /// [`Event::Answered`], exactly once.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// ```
    /// use smtp_proto::*;
    ///
    /// let now = Instant::default();
    /// let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), now);
    /// let id = engine.request(Request::verify("bob")?)?;
    /// for (server_says, client_says) in [
    ///     (&b"220 mx.example.net\r\n"[..], &b"EHLO client.example.org\r\n"[..]),
    ///     (b"250 mx.example.net\r\n", b"VRFY bob\r\n"),
    ///     (b"252 cannot say\r\n", b""),
    /// ] {
    ///     engine.handle_input(now, server_says);
    ///     if let Some(transmit) = engine.poll_transmit(now, b"") {
    ///         assert_eq!(transmit.parts().concat(), client_says);
    ///         transmit.advance(client_says.len());
    ///     }
    /// }
    /// assert_eq!(engine.poll_event(), Some(Event::Ready));
    /// let Some(Event::Answered(answered, Ok(reply))) = engine.poll_event() else { unreachable!() };
    /// assert_eq!((answered, reply.code().get()), (id, 252));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request(&mut self, request: Request) -> Result<RequestId, Misuse> {
        let id = RequestId(self.state.next_id()?);
        self.state.enqueue(Job::Request(Asked {
            id,
            request,
            step: AskedStep::Queued,
        }));
        Ok(id)
    }

    /// The most octets of the body that one chunk takes, while a body goes out by BDAT and its size is not
    /// known: a caller that gathers so many before it offers them, or all that is left, sends few chunks.
    /// None where any offer is as good as another.
    pub fn chunk_size(&self) -> Option<usize> {
        self.state
            .body
            .as_ref()
            .filter(|_| !self.state.body_ends)
            .and_then(|(_, body)| body.chunk_size())
    }

    /// Says that `rest` is all that is left of the body which is wanted now, so that it can be the last
    /// chunk. Offer it to [`poll_transmit`](Self::poll_transmit) then, and call
    /// [`finish_body`](Self::finish_body). Without BDAT it changes nothing.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # let now = Instant::default();
    /// # let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), now);
    /// # engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
    /// # let mut drain = |engine: &mut Connection| while let Some(t) = engine.poll_transmit(now, b"") { t.advance(usize::MAX); };
    /// # engine.handle_input(now, b"220 mx.example.net\r\n");
    /// # drain(&mut engine);
    /// # engine.handle_input(now, b"250-mx.example.net\r\n250-PIPELINING\r\n250 CHUNKING\r\n");
    /// # drain(&mut engine);
    /// # engine.handle_input(now, b"250 ok\r\n250 ok\r\n");
    /// // CHUNKING is offered, and a recipient is accepted: the body is wanted.
    /// assert!(engine.wants_body());
    /// let mut body = &b"Subject: hello\r\n\r\n.\r\n"[..];
    /// engine.announce_rest(body)?;
    /// let mut sent = Vec::new();
    /// while let Some(transmit) = engine.poll_transmit(now, body) {
    ///     let octets = transmit.parts().concat();
    ///     body = &body[transmit.advance(octets.len())..];
    ///     sent.extend_from_slice(&octets);
    /// }
    /// engine.finish_body()?;
    /// assert_eq!(sent, b"BDAT 21 LAST\r\nSubject: hello\r\n\r\n.\r\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Misuse::NoBodyWanted`].
    pub fn announce_rest(&mut self, rest: &[u8]) -> Result<(), Misuse> {
        let wanted = self.state.body.as_mut().filter(|_| !self.state.body_ends);
        let (_, body) = wanted.ok_or(Misuse::NoBodyWanted)?;
        if let Err(error) = body.announce_rest(rest) {
            self.state.close(Error::permanent(Stage::Body, error));
        }
        Ok(())
    }

    /// Says that the body which is wanted now has no more octets than were offered and advanced.
    ///
    /// # Errors
    /// [`Misuse::NoBodyWanted`].
    pub fn finish_body(&mut self) -> Result<(), Misuse> {
        self.state.finish_body()
    }

    /// Ends the session with QUIT once every submitted message is finished. The reply to QUIT is not
    /// waited for: it decides nothing (and Postfix does not wait either). Called before the body of the
    /// last message ends, QUIT goes out in one batch with the end of that body, where PIPELINING is
    /// offered.
    ///
    /// # Errors
    /// [`Misuse::Closed`] when that was done before, or the connection has ended.
    pub fn quit(&mut self) -> Result<(), Misuse> {
        if self.state.quitting || matches!(self.state.phase, Phase::Leaving(_) | Phase::Closed) {
            return Err(Misuse::Closed);
        }
        self.state.quitting = true;
        self.state.plan();
        Ok(())
    }

    /// Ends the session at once, for the caller's own reason, which becomes the cause of what is still
    /// to be reported. A body that is under way is not ended, so that the server drops it.
    ///
    /// # Errors
    /// [`Misuse::Closed`] when the connection has ended.
    pub fn abort(&mut self, reason: &str) -> Result<(), Misuse> {
        if matches!(self.state.phase, Phase::Closed) {
            return Err(Misuse::Closed);
        }
        self.state.lose(Cause::Local(reason.into()));
        Ok(())
    }

    /// Takes octets that were received. How they are cut does not matter.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) {
        let mut input = bytes;
        loop {
            match self.state.phase {
                Phase::Leaving(_) | Phase::Closed => return,
                Phase::Handshake { .. } if !input.is_empty() => {
                    return self.state.lose(ProtocolError::OctetsBehindStartTls.into());
                }
                _ => {}
            }
            match self.decoder.decode(&mut input) {
                Ok(Some(reply)) => self.state.on_reply(now, reply),
                Ok(None) => return,
                Err(error) => return self.state.lose(ProtocolError::from(error).into()),
            }
        }
    }

    /// The server has closed the connection, or the transport has failed. After a failed write, read
    /// what there still is first: a 421 is often waiting.
    pub fn handle_eof(&mut self, _now: Instant) {
        self.state.lose(Cause::Disconnected);
    }

    /// Looks whether a deadline has passed. Too early is no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(deadline) = self.state.next_deadline()
            && now >= deadline.at
        {
            self.state.lose(Cause::TimedOut(deadline.after));
        }
    }

    /// The handshake that [`Event::StartTls`] asked for is done, and nothing is known of it.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_established(&mut self, now: Instant) -> Result<(), Misuse> {
        self.handle_tls_established_with(now, TlsFacts::default())
    }

    /// The handshake that [`Event::StartTls`] asked for is done, and this is what it has established:
    /// whom we speak with, and what the TLS connection is known by at both ends.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_established_with(
        &mut self,
        now: Instant,
        facts: TlsFacts,
    ) -> Result<(), Misuse> {
        let state = &mut self.state;
        if !matches!(state.phase, Phase::Handshake { announced: true }) {
            return Err(Misuse::NoHandshakeWanted);
        }
        state.phase = Phase::Opening;
        state.deadline = None;
        state.trace(|| Trace::TlsEstablished);
        let (opening, mut cx) = state.opening();
        opening.tls_established(now, facts, &mut cx);
        Ok(())
    }

    /// The handshake that [`Event::StartTls`] asked for has failed; `cause` says why, and is usually
    /// [`Cause::TlsFailed`] or [`Cause::TlsUntrusted`]. The connection ends, whatever the policy.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_failed(&mut self, cause: Cause) -> Result<(), Misuse> {
        match self.state.phase {
            Phase::Handshake { announced: true } => {
                self.state.lose(cause);
                Ok(())
            }
            _ => Err(Misuse::NoHandshakeWanted),
        }
    }

    /// What to write next, if anything. `body` is the front of what is left of the body that is wanted;
    /// it may be empty, and it is not looked at while no body is wanted. Until they are advanced, octets
    /// that were offered stay a prefix of every later offer, as long as the caller's stay the same.
    ///
    /// Where completions are reported late, as by io_uring: the octets of a chunk must be advanced before the
    /// reply to it is handed in, because only then it is known to be one. The engine's own may come later.
    pub fn poll_transmit<'a>(&'a mut self, now: Instant, body: &'a [u8]) -> Option<Transmit<'a>> {
        self.state.poll_transmit(now, body)
    }

    /// What has happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.state.pipeline.events.pop_front();
        if event.is_none() && self.is_idle() {
            // An idle session keeps no buffer.
            self.state.jobs = VecDeque::new();
            self.state.pipeline.release();
        }
        event
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing happens before. It may
    /// change with every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.state.next_deadline().map(|deadline| deadline.at)
    }

    /// Whether a body is being sent: more of it may be offered, or
    /// [`finish_body`](Self::finish_body) called.
    pub fn wants_body(&self) -> bool {
        self.state.body.is_some() && !self.state.body_ends
    }

    /// What the server's current EHLO or LHLO offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.state.capabilities
    }

    /// The recipients of an unfinished message that the server has refused by now.
    pub fn refused(&self, message: MessageId) -> impl Iterator<Item = (usize, &Error)> {
        let transactions = self.state.jobs.iter().filter_map(move |job| match job {
            Job::Message(transaction) if transaction.id == message => Some(transaction),
            _ => None,
        });
        transactions.flat_map(Transaction::refused)
    }

    /// Whether the session is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.state.opening.is_encrypted()
    }

    /// Whether the session is encrypted, and the server's certificate was checked with its name
    /// ([`TlsFacts::verified`]).
    pub fn is_tls_verified(&self) -> bool {
        self.state.opening.is_verified()
    }

    /// Whether a message could be begun at once.
    pub fn is_idle(&self) -> bool {
        matches!(self.state.phase, Phase::Ready)
            && self.state.jobs.is_empty()
            && !self.state.quitting
    }

    /// Whether the transport has taken the QUIT of this session, which is worth sending even if the connection
    /// has ended since.
    pub fn has_quit(&self) -> bool {
        self.state.quit_sent
    }

    /// Whether the connection has ended, and nothing more will be transmitted.
    pub fn is_closed(&self) -> bool {
        matches!(self.state.phase, Phase::Closed)
    }

    /// How many replies so far had to be waited for one after the other, each to something that was said only
    /// when the one before had come; the greeting included, and the handshakes of TCP and TLS not.
    pub fn round_trips(&self) -> u64 {
        self.state.pipeline.round_trips()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match &self.state.phase {
            Phase::Opening => "opening",
            Phase::Handshake { .. } => "handshake",
            Phase::Ready => "ready",
            Phase::Leaving(_) => "leaving",
            Phase::Closed => "closed",
        };
        f.debug_struct("Connection")
            .field("phase", &phase)
            .field("jobs", &self.state.jobs.len())
            .field("capabilities", &self.state.capabilities)
            .finish_non_exhaustive()
    }
}

impl State {
    /// The number of the next message or request, if there may be one.
    fn next_id(&mut self) -> Result<u64, Misuse> {
        if self.quitting || matches!(self.phase, Phase::Leaving(_) | Phase::Closed) {
            return Err(Misuse::Closed);
        }
        let limit = self.config.limits.messages;
        if self.jobs.len() >= limit {
            return Err(Misuse::QueueFull { limit });
        }
        self.next_id += 1;
        Ok(self.next_id)
    }

    fn enqueue(&mut self, job: Job) {
        // Few are submitted at a time.
        self.jobs.reserve_exact(1);
        self.jobs.push_back(job);
        self.plan();
    }

    fn opening(&mut self) -> (&mut Opening, Context<'_>) {
        let cx = Context {
            config: &self.config,
            pipeline: &mut self.pipeline,
            capabilities: &mut self.capabilities,
            spent: &mut self.spent,
            verified: self.opening.is_verified(),
        };
        (&mut self.opening, cx)
    }

    fn transaction(&mut self, index: usize) -> Option<(&mut Transaction, Context<'_>)> {
        let cx = Context {
            verified: self.opening.is_verified(),
            config: &self.config,
            pipeline: &mut self.pipeline,
            capabilities: &mut self.capabilities,
            spent: &mut self.spent,
        };
        match self.jobs.get_mut(index)? {
            Job::Message(transaction) => Some((transaction, cx)),
            Job::Request(_) => None,
        }
    }

    /// Where this message waits.
    fn position(&self, id: MessageId) -> Option<usize> {
        self.jobs
            .iter()
            .position(|job| matches!(job, Job::Message(transaction) if transaction.id == id))
    }

    fn trace(&mut self, trace: impl FnOnce() -> Trace) {
        if self.pipeline.traces() {
            self.pipeline.events.push_back(Event::Trace(trace()));
        }
    }

    fn begin_handshake(&mut self, now: Instant) {
        // What was sent and not yet reported as sent comes first.
        let announced = self.pipeline.pending().is_empty();
        if announced {
            self.pipeline.events.push_back(Event::StartTls);
            self.deadline = Some(Deadline::new(now, self.config.timeouts.handshake));
        }
        self.phase = Phase::Handshake { announced };
    }

    fn on_reply(&mut self, now: Instant, reply: ReplyRef<'_>) {
        self.trace(|| Trace::Received(reply.to_reply()));
        // RFC 5321 section 3.8: 421 may answer any command, or come unasked, and the server closes.
        if reply.code().get() == 421 {
            return self.lose(Cause::Rejected(reply.to_reply()));
        }
        if !self.pipeline.front_offered() {
            // The one thing that may come unasked besides is a refusal in the middle of a body: the
            // answer to the end of the data before its time.
            let refused = matches!(reply.class(), ReplyClass::Transient | ReplyClass::Permanent);
            let in_body = match self.pipeline.front() {
                Some(expected) => expected.what.is_end_of_data(),
                None => self.body.is_some(),
            };
            return self.lose(match in_body && refused {
                true => Cause::Rejected(reply.to_reply()),
                false => ProtocolError::Unexpected(reply.to_reply()).into(),
            });
        }
        let Some(expected) = self.pipeline.take_expected(now) else {
            return;
        };
        match (expected.what, expected.message) {
            (Expect::Request, _) => self.on_answer(reply),
            (_, None) => {
                let (opening, mut cx) = self.opening();
                match opening.on_reply(expected.what, reply, &mut cx) {
                    Ok(Progress::Wait) => {}
                    Ok(Progress::StartTls) => self.begin_handshake(now),
                    Ok(Progress::Ready) => {
                        self.phase = Phase::Ready;
                        if !core::mem::replace(&mut self.was_ready, true) {
                            self.pipeline.events.push_back(Event::Ready);
                        }
                    }
                    Err(error) => self.fail(error),
                }
            }
            (_, Some(id)) => {
                let index = self.position(id).unwrap_or(usize::MAX);
                let Some((transaction, mut cx)) = self.transaction(index) else {
                    return;
                };
                // Once the server has taken RSET, or a new MAIL, the failed transaction is gone.
                let renewed =
                    expected.what.begins_message() && reply.class() == ReplyClass::Success;
                match transaction.on_reply(expected.what, reply, &mut cx) {
                    Ok(Flow::Wait) => {
                        self.pipeline.arm_next(now);
                        self.reset_due &= !renewed;
                        self.stop_hopeless(index);
                    }
                    Ok(Flow::BodyWanted) => self.want_body(index),
                    Ok(Flow::Finished) => self.finish_first(),
                    Err(error) => {
                        self.note_broken_overlap(expected.what);
                        self.fail(error);
                    }
                }
            }
        }
        self.plan();
    }

    /// Says what can be said now. Every change of the state ends here.
    fn plan(&mut self) {
        self.end_body();
        while matches!(self.phase, Phase::Ready) {
            let (reset_due, quitting) = (self.reset_due, self.quitting);
            if let Some((transaction, mut cx)) = self.transaction(0) {
                match transaction.proceed(reset_due, &mut cx) {
                    Flow::Finished => self.finish_first(),
                    Flow::BodyWanted => return self.want_body(0),
                    Flow::Wait => return self.plan_behind(),
                }
            } else if !self.jobs.is_empty() {
                if !self.ask() {
                    return;
                }
            } else if quitting {
                self.leave(Ok(()));
            } else {
                return;
            }
        }
    }

    /// Behind the end of the data nothing is said, but for QUIT, and the next envelope where the caller
    /// knows that the server takes it.
    fn plan_behind(&mut self) {
        let learns = self.config.learn_limits;
        let ended = |job: &&Job| matches!(job, Job::Message(transaction) if transaction.has_ended_for_all(learns));
        let ended = self.jobs.iter().take_while(ended).count();
        if ended == 0 || self.body.is_some() {
            return;
        }
        if ended == self.jobs.len() {
            if self.quitting && !self.quit_said && self.opening().1.pipelines() {
                self.pipeline.say(Command::Quit);
                self.quit_said = true;
            }
        } else if self.config.overlap
            && let Some((transaction, mut cx)) = self.transaction(ended)
            && transaction.proceed_overlapping(&mut cx) == Flow::BodyWanted
        {
            self.want_body(ended);
        }
    }

    /// Takes the request at the front a step further. Whether it is done with.
    fn ask(&mut self) -> bool {
        let Some(Job::Request(asked)) = self.jobs.front_mut() else {
            return false;
        };
        if asked.step != AskedStep::Queued || !self.pipeline.is_settled() {
            return false;
        }
        let unsupported = asked.request.unsupported(&self.capabilities);
        let unsupported = unsupported.map(|(extension, attribute)| match attribute {
            None => Cause::Unsupported(extension),
            Some(attribute) => {
                Cause::UnsupportedKeyword(alloc::format!("{extension} {attribute}").into())
            }
        });
        if let Some(cause) = unsupported {
            self.answer(Err(Error::permanent(Stage::Request, cause)));
            return true;
        }
        let (command, step) = match self.reset_due {
            true => (Command::Rset, AskedStep::Reset),
            false => (Command::Request(asked.request.line()), AskedStep::Said),
        };
        self.pipeline.push(command, Expect::Request, None);
        asked.step = step;
        false
    }

    /// The reply to a request, or to the RSET before it.
    fn on_answer(&mut self, reply: ReplyRef<'_>) {
        let Some(Job::Request(asked)) = self.jobs.front_mut() else {
            return;
        };
        let class = reply.class();
        if class == ReplyClass::Intermediate {
            // A dialogue that the engine knows nothing of.
            return self.fail(Error::transient(
                Stage::Request,
                Cause::Protocol(ProtocolError::WrongClass(reply.to_reply())),
            ));
        }
        if asked.step == AskedStep::Reset {
            // A server that cannot even reset is not asked anything else.
            if class != ReplyClass::Success {
                return self.fail(Error::rejected(Stage::Request, reply.to_reply()));
            }
            asked.step = AskedStep::Queued;
            self.reset_due = false;
            return;
        }
        let restarts = asked.request.restarts_session() && class == ReplyClass::Success;
        self.answer(Ok(reply.to_reply()));
        if restarts {
            // Postfix forgets all but the connection, and greets as if it were new.
            self.spent = Spent::default();
            self.phase = Phase::Opening;
            let (opening, mut cx) = self.opening();
            opening.restart(&mut cx);
        }
    }

    fn answer(&mut self, answer: Result<Reply, Error>) {
        if let Some(Job::Request(asked)) = self.jobs.pop_front() {
            let answer = answer.map_err(|error| match &error.command {
                Some(_) => error,
                None => error.with_command(asked.request.line()),
            });
            self.pipeline
                .events
                .push_back(Event::Answered(asked.id, answer));
        }
    }

    /// The body of this message may be sent.
    fn want_body(&mut self, index: usize) {
        if let Some((transaction, cx)) = self.transaction(index) {
            let (id, body) = (transaction.id, transaction.body(&cx));
            self.body = Some((id, body));
            self.body_ends = false;
            self.pipeline.events.push_back(Event::BodyWanted(id));
        }
    }

    /// Sends no more chunks of a message that can come to nothing. One that was begun is completed, because the
    /// server reads it whatever it thinks of it, unless that would take too long.
    fn stop_hopeless(&mut self, index: usize) {
        let Some(Job::Message(transaction)) = self.jobs.get_mut(index) else {
            return;
        };
        let about_this = |(id, _): &&(MessageId, Body)| *id == transaction.id;
        if !transaction.is_hopeless() || transaction.has_ended() {
            return;
        }
        let Some((_, body)) = self.body.as_ref().filter(about_this) else {
            return;
        };
        match body.left() {
            None => {
                transaction.stop();
                self.body = None;
            }
            Some(left) if left > self.config.chunk_size as u64 => {
                let why = transaction.why_hopeless();
                self.close(
                    why.unwrap_or_else(|| Error::transient(Stage::Body, Cause::Disconnected)),
                );
            }
            Some(_) => {}
        }
    }

    /// If it was an overlapping envelope that the session ended at, the caller should know.
    fn note_broken_overlap(&mut self, what: Expect) {
        if what == Expect::OverlappedMail {
            self.pipeline.events.push_back(Event::OverlapBroken);
        }
    }

    /// The first message, or a part of it, is done with.
    fn finish_first(&mut self) {
        let Some(Job::Message(transaction)) = self.jobs.front_mut() else {
            return;
        };
        if self.body.take_if(|(id, _)| *id == transaction.id).is_some() {
            self.deadline = None;
        }
        self.reset_due |= transaction.needs_reset();
        if transaction.next_part() {
            return;
        }
        if let Some(Job::Message(transaction)) = self.jobs.pop_front() {
            let id = transaction.id;
            let finished = Event::Finished(id, transaction.into_report());
            self.pipeline.events.push_back(finished);
        }
    }

    fn finish_body(&mut self) -> Result<(), Misuse> {
        if self.body.is_none() || self.body_ends {
            return Err(Misuse::NoBodyWanted);
        }
        self.body_ends = true;
        self.deadline = None;
        self.plan();
        Ok(())
    }

    /// Ends the body of which the caller has no more, if its end may go out now.
    fn end_body(&mut self) {
        if !self.body_ends || !self.may_go_on() {
            return;
        }
        let Some((id, mut body)) = self.body.take() else {
            return;
        };
        let octets = body.octets;
        let index = self.position(id).unwrap_or(usize::MAX);
        let Some((transaction, mut cx)) = self.transaction(index) else {
            return;
        };
        if body.is_between_chunks() && transaction.is_hopeless() {
            return transaction.stop();
        }
        match transaction.end_body(&mut body, &mut cx) {
            Ok(Some(Sent { octets, last })) => self.trace(|| Trace::SentChunk { octets, last }),
            Ok(None) if body.is_chunked() => {}
            Ok(None) => self.trace(|| Trace::SentBody { octets }),
            Err(error) => self.close(error),
        }
    }

    /// Whether more of the body may go out now. Chunks behind each other are pipelining (RFC 3030 section 2).
    fn may_go_on(&mut self) -> bool {
        if !self
            .body
            .as_ref()
            .is_some_and(|(_, body)| body.is_between_chunks())
        {
            return true;
        }
        match self.opening().1.pipelines() {
            true => self.pipeline.chunks() < self.config.limits.chunks.max(1),
            false => self.pipeline.is_settled(),
        }
    }

    fn poll_transmit<'a>(&'a mut self, now: Instant, body: &'a [u8]) -> Option<Transmit<'a>> {
        if !self.pipeline.pending().is_empty() {
            self.pipeline.offer(now);
            // Where no reply is waited for, the transport must still take what it is offered.
            if self.next_deadline().is_none() {
                let after = match self.phase {
                    Phase::Leaving(_) => self.config.timeouts.quit,
                    _ => self.config.timeouts.block,
                };
                self.deadline = Some(Deadline::new(now, after));
            }
            let source = Source::Engine;
            return Some(Transmit {
                state: self,
                now,
                source,
            });
        }
        if self.body_ends || !self.may_go_on() {
            self.deadline = None;
            return None;
        }
        let (_, octets) = self.body.as_mut()?;
        let (insertion, run, held) = match octets.next(body) {
            Ok(next) => (next.insertion, &body[..next.run], next.held),
            Err(error) => {
                self.close(Error::permanent(Stage::Body, error));
                return None;
            }
        };
        if insertion.is_empty() && run.is_empty() && held.is_none() {
            // The caller has nothing to offer, so nothing is waited for.
            self.deadline = None;
            return None;
        }
        let block = self.config.timeouts.block;
        self.deadline
            .get_or_insert_with(|| Deadline::new(now, block));
        let source = Source::Body {
            insertion,
            run,
            held,
        };
        Some(Transmit {
            state: self,
            now,
            source,
        })
    }

    fn next_deadline(&self) -> Option<Deadline> {
        self.pipeline.deadline().or(self.deadline)
    }

    /// Where the connection stands now, for an error that no reply explains.
    fn stage(&self) -> Stage {
        if let Some(expected) = self.pipeline.front() {
            return expected.what.stage();
        }
        match self.phase {
            Phase::Handshake { .. } if self.config.tls == TlsPolicy::Implicit => Stage::Connect,
            Phase::Handshake { .. } => Stage::StartTls,
            _ if self.body.is_some() => Stage::Body,
            _ => Stage::Quit,
        }
    }

    /// The connection is of no more use, for this cause, where it stands now.
    fn lose(&mut self, cause: Cause) {
        let stage = self.stage();
        let mut error = match cause {
            Cause::Rejected(reply) => Error::rejected(stage, reply),
            Cause::TlsUntrusted(_) => Error::permanent(stage, cause),
            cause => Error::transient(stage, cause),
        };
        if let Some(expected) = self.pipeline.front()
            && let Some(id) = expected.message
            && let Some(Job::Message(transaction)) =
                self.position(id).map(|index| &self.jobs[index])
        {
            error = transaction.about(expected.what, error);
            if matches!(error.cause, Cause::TimedOut(_)) {
                self.note_broken_overlap(expected.what);
            }
        }
        self.close(error);
    }

    /// The session cannot go on. Where the server still listens, it is told so.
    fn fail(&mut self, error: Error) {
        match error.cause {
            Cause::Protocol(_) => self.close(error),
            _ => self.leave(Err(error)),
        }
    }

    /// Says QUIT, and closes when it is out.
    fn leave(&mut self, result: Result<(), Error>) {
        if let Err(error) = &result {
            // QUIT would complete a chunk that was begun, or go behind what is not to be said any more: the end
            // of a message that is reported as a failure, or the next envelope.
            let in_chunk = self
                .body
                .as_ref()
                .is_some_and(|(_, body)| body.left().is_some());
            if in_chunk || self.pipeline.has_unoffered() {
                return self.close(error.clone());
            }
            self.abort_jobs(error);
        }
        self.pipeline.forget_expected();
        self.deadline = None;
        if !core::mem::replace(&mut self.quit_said, true) {
            self.pipeline.say(Command::Quit);
        }
        match self.pipeline.pending().is_empty() {
            true => self.end(result),
            false => self.phase = Phase::Leaving(result.err().map(Box::new)),
        }
    }

    /// Closes at once: reports what is still to be reported, and nothing after it.
    fn close(&mut self, error: Error) {
        let result = match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return,
            // The result was settled before QUIT was said.
            Phase::Leaving(error) => leaving(error),
            _ => {
                self.abort_jobs(&error);
                Err(error)
            }
        };
        self.end(result);
    }

    fn end(&mut self, result: Result<(), Error>) {
        self.phase = Phase::Closed;
        self.body = None;
        self.deadline = None;
        self.pipeline.shut();
        // A handshake that has not begun must not begin now.
        self.pipeline
            .events
            .retain(|event| *event != Event::StartTls);
        self.pipeline.events.push_back(Event::Closed(result));
    }

    fn abort_jobs(&mut self, error: &Error) {
        let unbegun = self.pipeline.unbegun();
        let mut is_first = true;
        while let Some(job) = self.jobs.front_mut() {
            match job {
                Job::Message(transaction) => {
                    let begun = unbegun.is_none_or(|unbegun| transaction.id < unbegun);
                    let end_offered = !self.pipeline.end_unoffered(transaction.id);
                    transaction.abort(error, begun, end_offered, is_first);
                    self.finish_first();
                }
                Job::Request(asked) => {
                    let said = asked.step == AskedStep::Said;
                    self.answer(Err(if said {
                        error.clone()
                    } else {
                        error.not_attempted()
                    }));
                }
            }
            is_first = false;
        }
    }

    fn on_engine_octets_sent(&mut self, n: usize, now: Instant) {
        self.pipeline.sent(n);
        if !self.pipeline.pending().is_empty() {
            return;
        }
        self.deadline = None;
        self.quit_sent |= self.quit_said;
        match &mut self.phase {
            Phase::Handshake { announced: false } => self.begin_handshake(now),
            Phase::Leaving(error) => {
                let result = leaving(error.take());
                self.end(result);
            }
            _ => {}
        }
    }

    fn on_body_sent(
        &mut self,
        n: usize,
        now: Instant,
        insertion: &[u8],
        run: &[u8],
        held: Option<u8>,
    ) -> usize {
        let Some((id, body)) = &mut self.body else {
            return 0;
        };
        let id = *id;
        if n > 0 && body.is_between_chunks() {
            self.chunk_trip = self.pipeline.round_trips();
        }
        let (used, completed) = body.record(insertion, run, held, n);
        if n > 0 || used > 0 {
            let block = Deadline::new(now, self.config.timeouts.block);
            self.deadline = (n < insertion.len() + run.len()).then_some(block);
        }
        if let Some(sent) = completed {
            self.trace(|| Trace::SentChunk {
                octets: sent.octets,
                last: sent.last,
            });
            let trip = self.chunk_trip;
            let index = self.position(id).unwrap_or(usize::MAX);
            if let Some((transaction, mut cx)) = self.transaction(index) {
                transaction.chunk_sent(sent, trip, now, &mut cx);
                self.stop_hopeless(index);
                self.plan();
            }
        }
        used
    }
}

/// How a connection closes that was left with this error, or with none.
fn leaving(error: Option<Box<Error>>) -> Result<(), Error> {
    error.map_or(Ok(()), |error| Err(*error))
}

/// What to write next. Dropping it writes nothing and changes nothing.
#[must_use = "nothing counts as sent before `advance`"]
pub struct Transmit<'a> {
    state: &'a mut State,
    now: Instant,
    source: Source<'a>,
}

enum Source<'a> {
    Engine,
    Body {
        insertion: Insertion,
        run: &'a [u8],
        held: Option<u8>,
    },
}

impl Transmit<'_> {
    /// The octets, in order: first the engine's, then a run of the caller's body. Either may be empty. Both are
    /// only where there is nothing to write and [`advance`](Self::advance) uses up one octet all the same: the
    /// last one of a body of [exact size](crate::Envelope::exact_size), which is kept back until
    /// [`finish_body`](Connection::finish_body) says that no more follows.
    pub fn parts(&self) -> [&[u8]; 2] {
        match &self.source {
            Source::Engine => [self.state.pipeline.pending(), &[]],
            Source::Body { insertion, run, .. } => [insertion, run],
        }
    }

    /// Says that the first `n` octets of the parts have gone out, and returns how many octets of `body`
    /// that used up. More than there are counts as all.
    pub fn advance(self, n: usize) -> usize {
        match self.source {
            Source::Engine => {
                self.state.on_engine_octets_sent(n, self.now);
                0
            }
            Source::Body {
                insertion,
                run,
                held,
            } => self.state.on_body_sent(n, self.now, &insertion, run, held),
        }
    }
}

impl fmt::Debug for Transmit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The octets may be credentials.
        let [ours, theirs] = self.parts();
        write!(f, "Transmit({} + {} octets)", ours.len(), theirs.len())
    }
}
