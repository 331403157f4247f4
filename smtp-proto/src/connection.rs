//! The engine: where each call goes, and when time is up.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::fmt;

use crate::body::BodyEncoder;
use crate::capability::Capabilities;
use crate::command::Command;
use crate::config::{Config, TlsPolicy};
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Misuse, ProtocolError, Stage};
use crate::event::{Event, MessageId, Trace};
use crate::opening::{Opening, Progress};
use crate::pipeline::{Context, Deadline, Expect, Pipeline};
use crate::reply::{Decoder, ReplyClass, ReplyRef};
use crate::time::Instant;
use crate::transaction::{Flow, Transaction};

/// One session with one server, as a state machine without I/O.
///
/// Its methods are of three kinds.
///
/// - **The application speaks**: [`submit`](Self::submit), [`finish_body`](Self::finish_body),
///   [`quit`](Self::quit), [`abort`](Self::abort). A call that does not fit is a [`Misuse`] and changes
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
    messages: VecDeque<Transaction>,
    next_id: u64,
    /// While a body is wanted.
    encoder: Option<BodyEncoder>,
    body_octets: u64,
    /// For what is no reply: the handshake, a block of the body, getting QUIT out.
    deadline: Option<Deadline>,
    /// The last transaction failed, and the next one begins with RSET.
    reset_due: bool,
    /// [`Connection::quit`] was called; and QUIT is out, behind the last end of data.
    quitting: bool,
    quit_said: bool,
}

enum Phase {
    Opening,
    /// A handshake is due, or under way once [`Event::StartTls`] has been queued.
    Handshake {
        announced: bool,
    },
    Ready,
    /// QUIT goes out, and then the connection closes with this result.
    Leaving(Result<(), Error>),
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
            messages: VecDeque::new(),
            next_id: 0,
            encoder: None,
            body_octets: 0,
            deadline: None,
            reset_due: false,
            quitting: false,
            quit_said: false,
            config,
        };
        let (opening, mut cx) = state.opening();
        if opening.start(now, &mut cx) == Progress::StartTls {
            state.begin_handshake(now);
        }
        Self { decoder: Decoder::new(state.config.limits.reply), state }
    }

    /// Queues a message. Its body is asked for by [`Event::BodyWanted`], and its end is reported by
    /// [`Event::Finished`], exactly once.
    ///
    /// # Errors
    /// [`Misuse::Closed`] after [`quit`](Self::quit) or the end of the connection, [`Misuse::QueueFull`]
    /// when [`Limits::messages`](crate::Limits::messages) wait already.
    pub fn submit(&mut self, envelope: Envelope) -> Result<MessageId, Misuse> {
        let state = &mut self.state;
        if state.quitting || matches!(state.phase, Phase::Leaving(_) | Phase::Closed) {
            return Err(Misuse::Closed);
        }
        let limit = state.config.limits.messages;
        if state.messages.len() >= limit {
            return Err(Misuse::QueueFull { limit });
        }
        let id = MessageId(state.next_id);
        state.next_id += 1;
        // Few are submitted at a time, and the room for them stays when the session is idle.
        state.messages.reserve_exact(1);
        state.messages.push_back(Transaction::new(id, envelope));
        state.plan();
        Ok(id)
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

    /// The handshake that [`Event::StartTls`] asked for is done.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_established(&mut self, now: Instant) -> Result<(), Misuse> {
        let state = &mut self.state;
        if !matches!(state.phase, Phase::Handshake { announced: true }) {
            return Err(Misuse::NoHandshakeWanted);
        }
        state.phase = Phase::Opening;
        state.deadline = None;
        state.trace(|| Trace::TlsEstablished);
        let (opening, mut cx) = state.opening();
        opening.tls_established(now, &mut cx);
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
    pub fn poll_transmit<'a>(&'a mut self, now: Instant, body: &'a [u8]) -> Option<Transmit<'a>> {
        self.state.poll_transmit(now, body)
    }

    /// What has happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.state.pipeline.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing happens before. It may
    /// change with every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.state.next_deadline().map(|deadline| deadline.at)
    }

    /// Whether a body is being sent: more of it may be offered, or
    /// [`finish_body`](Self::finish_body) called.
    pub fn wants_body(&self) -> bool {
        self.state.encoder.is_some()
    }

    /// What the server's current EHLO or LHLO offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.state.capabilities
    }

    /// The recipients of an unfinished message that the server has refused by now.
    pub fn refused(&self, message: MessageId) -> impl Iterator<Item = (usize, &Error)> {
        self.state
            .messages
            .iter()
            .filter(move |transaction| transaction.id == message)
            .flat_map(Transaction::refused)
    }

    /// Whether the session is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.state.opening.is_encrypted()
    }

    /// Whether a message could be begun at once.
    pub fn is_idle(&self) -> bool {
        matches!(self.state.phase, Phase::Ready) && self.state.messages.is_empty() && !self.state.quitting
    }

    /// Whether the connection has ended, and nothing more will be transmitted.
    pub fn is_closed(&self) -> bool {
        matches!(self.state.phase, Phase::Closed)
    }

    /// How often so far something was sent and then a reply waited for, the greeting included and the
    /// handshakes of TCP and TLS not.
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
            .field("messages", &self.state.messages.len())
            .field("capabilities", &self.state.capabilities)
            .finish_non_exhaustive()
    }
}

impl State {
    fn opening(&mut self) -> (&mut Opening, Context<'_>) {
        let cx = Context {
            config: &self.config,
            pipeline: &mut self.pipeline,
            capabilities: &mut self.capabilities,
        };
        (&mut self.opening, cx)
    }

    fn transaction(&mut self, index: usize) -> Option<(&mut Transaction, Context<'_>)> {
        let cx = Context {
            config: &self.config,
            pipeline: &mut self.pipeline,
            capabilities: &mut self.capabilities,
        };
        self.messages.get_mut(index).map(|transaction| (transaction, cx))
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
            let in_body = self.encoder.is_some() && self.pipeline.is_settled();
            return self.lose(match (in_body || self.pipeline.end_unoffered()) && refused {
                true => Cause::Rejected(reply.to_reply()),
                false => ProtocolError::Unexpected(reply.to_reply()).into(),
            });
        }
        let Some(expected) = self.pipeline.take_expected(now) else {
            return;
        };
        match expected.message {
            None => {
                let (opening, mut cx) = self.opening();
                match opening.on_reply(expected.what, reply, &mut cx) {
                    Ok(Progress::Wait) => {}
                    Ok(Progress::StartTls) => self.begin_handshake(now),
                    Ok(Progress::Ready) => {
                        self.phase = Phase::Ready;
                        self.pipeline.events.push_back(Event::Ready);
                    }
                    Err(error) => self.fail(error),
                }
            }
            Some(id) => {
                let index = self.messages.iter().position(|transaction| transaction.id == id);
                let Some((transaction, mut cx)) = self.transaction(index.unwrap_or(usize::MAX)) else {
                    return;
                };
                // Once the server has taken RSET, or a new MAIL, the failed transaction is gone.
                let renewed = expected.what.begins_message() && reply.class() == ReplyClass::Success;
                match transaction.on_reply(expected.what, reply, &mut cx) {
                    Ok(Flow::Wait) => self.reset_due &= !renewed,
                    Ok(Flow::BodyWanted) => {
                        self.encoder = Some(transaction.encoder(&cx));
                        self.body_octets = 0;
                        self.pipeline.events.push_back(Event::BodyWanted(id));
                    }
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
        while matches!(self.phase, Phase::Ready) {
            let (reset_due, quitting) = (self.reset_due, self.quitting);
            match self.transaction(0) {
                Some((transaction, mut cx)) => match transaction.proceed(reset_due, &mut cx) {
                    Flow::Finished => self.finish_first(),
                    Flow::Wait | Flow::BodyWanted => return self.plan_overlap(),
                },
                None if quitting => self.leave(Ok(())),
                None => return,
            }
        }
    }

    /// Behind the end of the data nothing is said, but for QUIT, and the next envelope where the caller
    /// knows that the server takes it.
    fn plan_overlap(&mut self) {
        if !self.messages.front().is_some_and(Transaction::has_ended) {
            return;
        }
        if self.config.overlap
            && let Some((transaction, mut cx)) = self.transaction(1)
        {
            transaction.proceed_overlapping(&mut cx);
        } else if self.quitting && !self.quit_said && self.messages.len() == 1 && self.opening().1.pipelines()
        {
            self.pipeline.say(Command::Quit);
            self.quit_said = true;
        }
    }

    /// If it was an overlapping envelope that the session ended at, the caller should know.
    fn note_broken_overlap(&mut self, what: Expect) {
        if what == Expect::OverlappedMail {
            self.pipeline.events.push_back(Event::OverlapBroken);
        }
    }

    fn finish_first(&mut self) {
        self.encoder = None;
        self.deadline = None;
        if let Some(transaction) = self.messages.pop_front() {
            self.reset_due |= transaction.needs_reset();
            let id = transaction.id;
            let finished = Event::Finished(id, transaction.into_report());
            self.pipeline.events.push_back(finished);
        }
    }

    fn finish_body(&mut self) -> Result<(), Misuse> {
        let encoder = self.encoder.take().ok_or(Misuse::NoBodyWanted)?;
        self.deadline = None;
        let octets = self.body_octets;
        let Some((transaction, mut cx)) = self.transaction(0) else {
            return Err(Misuse::NoBodyWanted);
        };
        match transaction.end_body(&encoder, &mut cx) {
            Ok(()) => {
                self.trace(|| Trace::SentBody { octets });
                self.plan();
            }
            Err(error) => self.close(error),
        }
        Ok(())
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
            return Some(Transmit { state: self, now, source });
        }
        let next = self.encoder.as_ref()?.next(body);
        let (insertion, run) = match next {
            Ok((insertion, run)) => (insertion, &body[..run]),
            Err(error) => {
                self.close(Error::permanent(Stage::Body, error));
                return None;
            }
        };
        if run.is_empty() {
            // The caller has nothing to offer, so nothing is waited for.
            self.deadline = None;
            return None;
        }
        let block = self.config.timeouts.block;
        self.deadline.get_or_insert_with(|| Deadline::new(now, block));
        let source = Source::Body { insertion, run };
        Some(Transmit { state: self, now, source })
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
            _ if self.encoder.is_some() => Stage::Body,
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
            && let Some(transaction) = self.messages.iter().find(|transaction| transaction.id == id)
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
            self.abort_messages(error);
        }
        self.pipeline.forget_expected();
        self.deadline = None;
        if !core::mem::replace(&mut self.quit_said, true) {
            self.pipeline.say(Command::Quit);
        }
        match self.pipeline.pending().is_empty() {
            true => self.end(result),
            false => self.phase = Phase::Leaving(result),
        }
    }

    /// Closes at once: reports what is still to be reported, and nothing after it.
    fn close(&mut self, error: Error) {
        let result = match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return,
            // The result was settled before QUIT was said.
            Phase::Leaving(result) => result,
            _ => {
                self.abort_messages(&error);
                Err(error)
            }
        };
        self.end(result);
    }

    fn end(&mut self, result: Result<(), Error>) {
        self.phase = Phase::Closed;
        self.encoder = None;
        self.deadline = None;
        self.pipeline.shut();
        // A handshake that has not begun must not begin now.
        self.pipeline.events.retain(|event| *event != Event::StartTls);
        self.pipeline.events.push_back(Event::Closed(result));
    }

    fn abort_messages(&mut self, error: &Error) {
        let (end_offered, unbegun) = (!self.pipeline.end_unoffered(), self.pipeline.unbegun());
        while let Some(transaction) = self.messages.front_mut() {
            let begun = unbegun != Some(transaction.id);
            transaction.abort(error, begun, end_offered);
            self.finish_first();
        }
    }

    fn on_engine_octets_sent(&mut self, n: usize, now: Instant) {
        self.pipeline.sent(n);
        if !self.pipeline.pending().is_empty() {
            return;
        }
        self.deadline = None;
        match &mut self.phase {
            Phase::Handshake { announced: false } => self.begin_handshake(now),
            Phase::Leaving(result) => {
                let result = core::mem::replace(result, Ok(()));
                self.end(result);
            }
            _ => {}
        }
    }

    fn on_body_sent(&mut self, n: usize, now: Instant, insertion: &[u8], run: &[u8]) -> usize {
        let Some(encoder) = &mut self.encoder else {
            return 0;
        };
        let used = encoder.record(insertion, run, n);
        self.body_octets += used as u64;
        if n > 0 {
            self.pipeline.sent_body();
            let block = Deadline::new(now, self.config.timeouts.block);
            self.deadline = (n < insertion.len() + run.len()).then_some(block);
        }
        used
    }
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
    Body { insertion: &'static [u8], run: &'a [u8] },
}

impl Transmit<'_> {
    /// The octets, in order: first the engine's, then a run of the caller's body. Either may be empty,
    /// but not both.
    pub fn parts(&self) -> [&[u8]; 2] {
        match self.source {
            Source::Engine => [self.state.pipeline.pending(), &[]],
            Source::Body { insertion, run } => [insertion, run],
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
            Source::Body { insertion, run } => self.state.on_body_sent(n, self.now, insertion, run),
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
