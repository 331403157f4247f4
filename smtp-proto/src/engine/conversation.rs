//! The whole of a session: where each reply goes, the queue of jobs, RSET, QUIT and the end of the connection.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::chunk::{Insertion, Next};
use crate::command::Command;
use crate::config::{Config, TlsPolicy};
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Misuse, Outcome, ProtocolError, Stage};
use crate::event::{Event, MessageId, RequestId, Trace};
use crate::reply::{Reply, ReplyClass, ReplyRef};
use crate::request::Request;
use crate::time::Instant;
use crate::tls::TlsFacts;

use super::opening::{Opening, Progress};
use super::peer::Peer;
use super::pipeline::{Awaited, Deadline, MessageReply, Owed};
use super::transaction::{Flow, Message, Sending};
use super::usage::Usage;

pub(crate) struct Conversation {
    pub(crate) peer: Peer,
    opening: Opening,
    phase: Phase,
    /// Submitted and not finished, in order; the first may be under way.
    jobs: VecDeque<Job>,
    next_id: u64,
    quit: Quit,
    /// For the handshake.
    deadline: Option<Deadline>,
    /// [`Event::Ready`] was said.
    was_ready: bool,
    /// The latest time that the caller has told.
    now: Instant,
}

enum Phase {
    Opening,
    /// A handshake is due, or under way once [`Event::StartTls`] was queued.
    Handshake {
        announced: bool,
    },
    Ready,
    /// Nothing more is said, because of this error; but replies that are owed are listened to, until then.
    Draining(Box<Error>, Deadline),
    /// QUIT goes out, and then the connection closes, with this error if there is one.
    Leaving(Option<Box<Error>>),
    Closed,
}

/// QUIT, which goes out when nothing is owed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quit {
    No,
    Wanted,
    Said,
    /// It has left the engine.
    Taken,
}

/// What was submitted.
#[expect(
    clippy::large_enum_variant,
    reason = "messages are the rule, and a box costs each an allocation"
)]
enum Job {
    Message(Message),
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
    Reset,
    Said,
}

/// What is on offer.
pub(crate) enum Offer {
    Engine,
    Body {
        insertion: Insertion,
        run: usize,
        held: Option<u8>,
    },
}

/// What has become of octets that were taken from an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They wait in a buffer of the caller's.
    Gathered,
    /// Their write was begun.
    Given,
    Written,
}

impl Conversation {
    pub(crate) fn new(config: Arc<Config>, now: Instant) -> Self {
        let mut conversation = Self {
            peer: Peer::new(config),
            opening: Opening::default(),
            phase: Phase::Opening,
            jobs: VecDeque::new(),
            next_id: 0,
            quit: Quit::No,
            deadline: None,
            was_ready: false,
            now,
        };
        if conversation.opening.start(now, &mut conversation.peer) == Progress::StartTls {
            conversation.begin_handshake(now);
        }
        conversation
    }

    /// The caller has told the time.
    pub(crate) fn at(&mut self, now: Instant) -> &mut Self {
        self.now = self.now.max(now);
        self
    }

    // The application speaks.

    pub(crate) fn submit(&mut self, envelope: Envelope) -> Result<MessageId, Misuse> {
        let limit = self.peer.config.limits.recipients;
        if envelope.forward_paths().len() > limit {
            return Err(Misuse::TooManyRecipients { limit });
        }
        let id = MessageId(self.next_id()?);
        self.enqueue(Job::Message(Message::new(id, envelope)));
        Ok(id)
    }

    pub(crate) fn request(&mut self, request: Request) -> Result<RequestId, Misuse> {
        let id = RequestId(self.next_id()?);
        self.enqueue(Job::Request(Asked {
            id,
            request,
            step: AskedStep::Queued,
        }));
        Ok(id)
    }

    /// The number of the next message or request, if there may be one.
    fn next_id(&mut self) -> Result<u64, Misuse> {
        if self.quit != Quit::No || !self.is_listening() {
            return Err(Misuse::Closed);
        }
        let limit = self.peer.config.limits.messages;
        if self.jobs.len() + self.peer.events.results() >= limit {
            return Err(Misuse::QueueFull { limit });
        }
        self.next_id += 1;
        Ok(self.next_id)
    }

    fn enqueue(&mut self, job: Job) {
        // Few are submitted at a time.
        self.jobs.reserve_exact(1);
        self.jobs.push_back(job);
        self.proceed();
    }

    pub(crate) fn finish_body(&mut self) -> Result<(), Misuse> {
        self.wanted_body()?.complete = true;
        self.peer.pipeline.offer_nothing();
        self.proceed();
        Ok(())
    }

    fn wanted_body(&mut self) -> Result<&mut Sending, Misuse> {
        let listens = self.is_listening();
        let sending = self
            .sending_mut()
            .filter(|sending| listens && !sending.complete);
        sending.ok_or(Misuse::NoBodyWanted)
    }

    pub(crate) fn announce_rest(&mut self, rest: &[u8]) -> Result<(), Misuse> {
        if let Err(error) = self.wanted_body()?.body.announce_rest(rest) {
            self.give_up(Error::permanent(Stage::Body, error));
        }
        Ok(())
    }

    pub(crate) fn fail_body(&mut self, outcome: Outcome, reason: &str) -> Result<(), Misuse> {
        self.wanted_body()?;
        self.give_up(Error::new(
            Stage::Body,
            outcome,
            Cause::Local(reason.into()),
        ));
        Ok(())
    }

    pub(crate) fn quit(&mut self) -> Result<(), Misuse> {
        if self.quit != Quit::No || !self.is_listening() {
            return Err(Misuse::Closed);
        }
        self.quit = Quit::Wanted;
        self.proceed();
        Ok(())
    }

    pub(crate) fn abort(&mut self, reason: &str) -> Result<(), Misuse> {
        if self.is_closed() {
            return Err(Misuse::Closed);
        }
        self.lose(Cause::Local(reason.into()));
        Ok(())
    }

    // The transport reports.

    /// Whether what arrives matters, and something may still be said.
    fn is_listening(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Draining(..) | Phase::Leaving(_) | Phase::Closed
        )
    }

    /// Whether replies are read. Octets that arrive before a handshake are none.
    pub(crate) fn hears(&mut self, any: bool) -> bool {
        match self.phase {
            Phase::Leaving(_) | Phase::Closed => false,
            Phase::Handshake { .. } if any => {
                // rule: opening.starttls-injection
                self.lose(ProtocolError::OctetsBehindStartTls.into());
                false
            }
            _ => true,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.at(now);
        if let Some(deadline) = self.next_deadline()
            && now >= deadline.at
        {
            self.lose(Cause::TimedOut(deadline.after));
        }
    }

    pub(crate) fn handle_tls_established(
        &mut self,
        now: Instant,
        facts: TlsFacts,
    ) -> Result<(), Misuse> {
        if !matches!(self.phase, Phase::Handshake { announced: true }) {
            return Err(Misuse::NoHandshakeWanted);
        }
        self.phase = Phase::Opening;
        self.deadline = None;
        self.peer.trace(|| Trace::TlsEstablished);
        self.opening.tls_established(now, facts, &mut self.peer);
        Ok(())
    }

    pub(crate) fn handle_tls_failed(&mut self, cause: Cause) -> Result<(), Misuse> {
        match self.phase {
            Phase::Handshake { announced: true } => {
                self.lose(cause);
                Ok(())
            }
            _ => Err(Misuse::NoHandshakeWanted),
        }
    }

    fn begin_handshake(&mut self, now: Instant) {
        // What was said and not yet taken comes first.
        let announced = self.peer.pipeline.is_taken();
        if announced {
            self.peer.events.push(Event::StartTls);
            self.deadline = Some(Deadline::new(now, self.peer.config.timeouts.handshake));
        }
        self.phase = Phase::Handshake { announced };
    }

    // Replies.

    pub(crate) fn on_reply(&mut self, now: Instant, reply: ReplyRef<'_>) {
        self.at(now)
            .peer
            .trace(|| Trace::Received(reply.to_reply()));
        match reply.code().get() {
            // RFC 5321 section 3.8: 421 may answer any command, or come unasked, and the server closes.
            421 => return self.lose(Cause::Rejected(reply.to_reply())),
            // It answers QUIT alone, whose reply is not waited for.
            221 => return self.on_goodbye(reply.to_reply()),
            _ => {}
        }
        if !self.peer.pipeline.front_is_given() {
            return self.on_surplus(reply);
        }
        let overlapping = self.peer.pipeline.is_overlapping();
        let Some(owed) = self.peer.pipeline.take_owed(now) else {
            return;
        };
        if !owed.what.can_be(reply, overlapping) {
            self.peer.pipeline.put_back(owed);
            return self.on_wrong_class(owed.what, reply);
        }
        match owed.what {
            Awaited::Request => self.on_answer(reply),
            Awaited::Opening(what) => match self.opening.on_reply(what, reply, &mut self.peer) {
                Ok(Progress::Wait) => {}
                Ok(Progress::StartTls) => self.begin_handshake(now),
                Ok(Progress::Ready) => {
                    self.phase = Phase::Ready;
                    if !core::mem::replace(&mut self.was_ready, true) {
                        self.peer.events.push(Event::Ready);
                    }
                }
                Err(error) => self.fail(error),
            },
            Awaited::Message(id, what) => self.on_message_reply(id, what, owed, reply),
        }
        self.proceed();
        self.end_of_drain();
    }

    /// A 221 that nobody asked for: the server closes. It answers nothing; where the end of a body is owed an
    /// answer, that may still come.
    fn on_goodbye(&mut self, reply: Reply) {
        // rule: replies.goodbye
        if matches!(self.phase, Phase::Draining(..)) {
            return;
        }
        let pipeline = &self.peer.pipeline;
        let ends_data = pipeline.front().is_some_and(Awaited::is_end_of_data);
        match pipeline.awaits_decision() {
            // Where commands overlap, it shows a queue that has shifted.
            true if pipeline.is_overlapping() && !ends_data => {
                let what = pipeline.front().unwrap_or(Awaited::Request);
                self.on_wrong_class(what, reply.borrow());
            }
            true => {
                let error = self.about_front(Error::rejected(self.stage(), reply));
                self.drain(error);
            }
            false => self.lose(Cause::Rejected(reply)),
        }
    }

    /// A reply that answers nothing that may have reached the server.
    fn on_surplus(&mut self, reply: ReplyRef<'_>) {
        // The one thing that may come unasked besides is a refusal in the middle of a body: the answer to the
        // end of the data before its time.
        let refused = matches!(reply.class(), ReplyClass::Transient | ReplyClass::Permanent);
        let in_body = match self.peer.pipeline.front() {
            Some(what) => what.is_end_of_data(),
            None => self.sending().is_some(),
        };
        self.lose(match in_body && refused {
            true => Cause::Rejected(reply.to_reply()),
            false => ProtocolError::Unexpected(reply.to_reply()).into(),
        });
    }

    fn on_wrong_class(&mut self, what: Awaited, reply: ReplyRef<'_>) {
        let error = match what {
            Awaited::Message(id, message_reply) => match self.message(id) {
                Some(message) => message.wrong_class(message_reply, reply),
                None => return,
            },
            _ => Error::transient(what.stage(), ProtocolError::WrongClass(reply.to_reply())),
        };
        self.note_broken_overlap(what);
        self.close(error);
    }

    fn on_message_reply(
        &mut self,
        id: MessageId,
        what: MessageReply,
        owed: Owed,
        reply: ReplyRef<'_>,
    ) {
        let Some(index) = self.position(id) else {
            return;
        };
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        let begins = matches!(what, MessageReply::Rset { .. } | MessageReply::Mail { .. });
        // Once the server has taken RSET, or a new MAIL, the failed transaction is gone.
        if begins && reply.class() == ReplyClass::Success {
            self.peer.may_hold_transaction = false;
        }
        match message.on_reply(what, owed, reply, &mut self.peer) {
            Ok(Flow::Wait) => {
                self.peer.pipeline.arm(self.now);
                self.stop_hopeless(index);
            }
            Ok(Flow::BodyWanted) => self.want_body(id),
            Ok(Flow::Ended) => message.conclude(&mut self.peer),
            Err(error) => {
                if matches!(error.cause, Cause::Protocol(_)) {
                    self.peer.pipeline.put_back(owed);
                }
                self.note_broken_overlap(owed.what);
                self.fail(error);
            }
        }
    }

    /// The reply to a request, or to the RSET before it.
    fn on_answer(&mut self, reply: ReplyRef<'_>) {
        let Some(Job::Request(asked)) = self.jobs.front_mut() else {
            return;
        };
        if asked.step == AskedStep::Reset {
            // A server that cannot even reset is not asked anything else.
            if reply.class() != ReplyClass::Success {
                return self.fail(Error::rejected(Stage::Request, reply.to_reply()));
            }
            asked.step = AskedStep::Queued;
            self.peer.may_hold_transaction = false;
            return;
        }
        let restarts = asked.request.restarts_session() && reply.class() == ReplyClass::Success;
        self.answer(Ok(reply.to_reply()));
        if restarts && self.is_listening() {
            // Postfix forgets all but the connection, and greets as if it were new.
            self.peer.usage = Usage::default();
            self.phase = Phase::Opening;
            self.opening.restart(&mut self.peer);
        }
    }

    fn answer(&mut self, answer: Result<Reply, Error>) {
        if let Some(Job::Request(asked)) = self.jobs.pop_front() {
            let answer = answer.map_err(|error| match &error.command {
                Some(_) => error,
                None => error.with_command(asked.request.line()),
            });
            self.peer.events.push(Event::Answered(asked.id, answer));
        }
    }

    /// If it was an overlapping envelope that the session ended at, the caller should know.
    fn note_broken_overlap(&mut self, what: Awaited) {
        if what.overlaps() {
            self.peer.events.push(Event::OverlapBroken);
        }
    }

    // Saying what can be said.

    /// Says what can be said now. Every change of the state ends here.
    fn proceed(&mut self) {
        self.end_body();
        loop {
            match self.jobs.front_mut() {
                // Whatever else: what is over is reported, in its turn.
                Some(Job::Message(message)) if message.is_over() => self.finish_first(),
                _ if !matches!(self.phase, Phase::Ready) => return,
                Some(Job::Message(message)) if message.is_under_way() => {
                    let id = message.id;
                    match message.proceed(&mut self.peer) {
                        Flow::Ended => message.conclude(&mut self.peer),
                        Flow::BodyWanted => return self.want_body(id),
                        Flow::Wait => return self.overlap(),
                    }
                }
                Some(Job::Message(_)) => {
                    if !self.begin_first() {
                        return;
                    }
                }
                Some(Job::Request(_)) => {
                    if !self.ask() {
                        return;
                    }
                }
                None if self.quit == Quit::Wanted => self.leave(Ok(())),
                None => return,
            }
        }
    }

    /// Begins the first message, or says RSET before it. Whether there is more to say.
    fn begin_first(&mut self) -> bool {
        let Some(Job::Message(message)) = self.jobs.front_mut() else {
            return false;
        };
        if !self.peer.pipeline.is_settled() {
            return false;
        }
        match message.plan(&self.peer) {
            Ok(_) if self.peer.may_hold_transaction => {
                // rule: transaction.rset
                let awaited =
                    Awaited::Message(message.id, MessageReply::Rset { overlapping: false });
                self.peer.push(Command::Rset, awaited);
                false
            }
            Ok(plan) => {
                message.begin(plan, &mut self.peer);
                true
            }
            Err(error) => {
                message.withhold(error);
                true
            }
        }
    }

    /// Nothing follows the end of the data before its reply, but for the next envelope where the caller knows that
    /// the server takes it.
    fn overlap(&mut self) {
        // rule: overlap.not-in-lmtp
        // A server that gives one reply too few after the data would have the next message's taken for it.
        if !self.peer.config.overlap || self.peer.is_lmtp() || self.sending().is_some() {
            return;
        }
        let learns = self.peer.config.learn_limits;
        let next = self.jobs.iter_mut().position(|job| match job {
            Job::Message(message) => !message.has_ended_for_all(learns),
            Job::Request(_) => true,
        });
        let Some(next) = next.filter(|&next| next > 0) else {
            return;
        };
        if let Some(Job::Message(message)) = self.jobs.get_mut(next) {
            if !message.is_under_way() && !message.begin_overlapping(&mut self.peer) {
                return;
            }
            // One that ends here is reported in its turn: its replies come after those to the first.
            if message.proceed(&mut self.peer) == Flow::BodyWanted {
                let id = message.id;
                self.want_body(id);
            }
        }
    }

    /// Takes the request at the front a step further. Whether it is done with.
    fn ask(&mut self) -> bool {
        let Some(Job::Request(asked)) = self.jobs.front_mut() else {
            return false;
        };
        if asked.step != AskedStep::Queued || !self.peer.pipeline.is_settled() {
            return false;
        }
        let unsupported = asked.request.unsupported(&self.peer.capabilities);
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
        let (command, step) = match self.peer.may_hold_transaction {
            true => (Command::Rset, AskedStep::Reset),
            false => (Command::Request(asked.request.line()), AskedStep::Said),
        };
        self.peer.push(command, Awaited::Request);
        asked.step = step;
        false
    }

    // The body.

    fn message(&self, id: MessageId) -> Option<&Message> {
        self.jobs.iter().find_map(|job| match job {
            Job::Message(message) if message.id == id => Some(message),
            _ => None,
        })
    }

    /// The message with this number, for what is known of it by now.
    pub(crate) fn unfinished(&self, id: MessageId) -> Option<&Message> {
        self.message(id)
    }

    fn position(&self, id: MessageId) -> Option<usize> {
        self.jobs
            .iter()
            .position(|job| matches!(job, Job::Message(message) if message.id == id))
    }

    fn position_of_body(&self) -> Option<usize> {
        self.jobs
            .iter()
            .position(|job| matches!(job, Job::Message(message) if message.sending().is_some()))
    }

    /// The body that is being sent.
    pub(crate) fn sending(&self) -> Option<&Sending> {
        self.jobs.iter().find_map(|job| match job {
            Job::Message(message) => message.sending(),
            Job::Request(_) => None,
        })
    }

    fn sending_mut(&mut self) -> Option<&mut Sending> {
        self.jobs.iter_mut().find_map(|job| match job {
            Job::Message(message) => message.sending_mut(),
            Job::Request(_) => None,
        })
    }

    fn want_body(&mut self, id: MessageId) {
        self.peer.events.push(Event::BodyWanted(id));
    }

    /// Sends no more chunks of a message that can come to nothing. One that was begun is completed, because the
    /// server reads it whatever it thinks of it, unless that would take too long.
    fn stop_hopeless(&mut self, index: usize) {
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        let Some(sending) = message.sending() else {
            return;
        };
        if !message.is_hopeless() {
            return;
        }
        match sending.body.left() {
            None => message.stop(),
            Some(left) if left > self.peer.config.chunk_size as u64 => {
                let why = message.why_hopeless();
                self.drain(
                    why.unwrap_or_else(|| Error::transient(Stage::Body, Cause::Disconnected)),
                );
            }
            Some(_) => {}
        }
    }

    /// The rest of the body cannot be given, or must not be sent. Where no chunk is open and DATA was not answered,
    /// it costs RSET, and the session goes on. Else the server waits for octets that do not come.
    fn give_up(&mut self, error: Error) {
        // rule: ends.give-up
        let Some(index) = self.position_of_body() else {
            return;
        };
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        // A chunk that was offered counts as open: what was offered is not withdrawn.
        let is_between = message.sending().is_some_and(|sending| {
            sending.body.is_between_chunks() && sending.body.left().is_none()
        });
        message.give_up(error.clone());
        self.peer.pipeline.offer_nothing();
        match is_between {
            true => self.proceed(),
            false => self.drain(error),
        }
    }

    /// Ends the body of which the caller has no more, if its end may go out now.
    fn end_body(&mut self) {
        if !self.is_listening() {
            return;
        }
        let Some(index) = self.position_of_body() else {
            return;
        };
        let may_go_on = self.may_go_on();
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        let Some(sending) = message
            .sending()
            .filter(|sending| sending.complete && may_go_on)
        else {
            return;
        };
        let octets = sending.body.octets;
        let is_chunked = sending.body.is_chunked();
        if sending.body.is_between_chunks() && message.is_hopeless() {
            return message.stop();
        }
        match message.end_body(&mut self.peer) {
            Ok(Some(sent)) => {
                self.peer.trace(|| Trace::SentChunk {
                    octets: sent.octets,
                    last: sent.last,
                });
            }
            Ok(None) if is_chunked => {}
            Ok(None) => self.peer.trace(|| Trace::SentBody { octets }),
            Err(error) => self.give_up(error),
        }
    }

    /// Whether more of the body may go out now. Chunks one after another are pipelining (RFC 3030 section 2).
    fn may_go_on(&self) -> bool {
        if !self
            .sending()
            .is_some_and(|sending| sending.body.is_between_chunks())
        {
            return true;
        }
        match self.peer.pipelines() {
            true => self.peer.pipeline.chunks() < self.peer.config.limits.chunks.max(1),
            false => self.peer.pipeline.is_settled(),
        }
    }

    // What leaves.

    /// What to write next, given the front of what is left of the body.
    pub(crate) fn offer(&mut self, now: Instant, body: &[u8]) -> Option<Offer> {
        self.at(now);
        if matches!(self.phase, Phase::Draining(..) | Phase::Closed) {
            return None;
        }
        let timeouts = self.peer.config.timeouts;
        if !self.peer.pipeline.is_taken() {
            let timeout = match self.phase {
                Phase::Leaving(_) => timeouts.quit,
                _ => timeouts.block,
            };
            self.peer.pipeline.offer(now, timeout);
            return Some(Offer::Engine);
        }
        let wanted = self.wants_body() && self.may_go_on();
        let Some(sending) = self.sending_mut().filter(|_| wanted) else {
            self.peer.pipeline.offer_nothing();
            return None;
        };
        match sending.body.next(body) {
            // The caller has nothing to offer, so nothing is waited for.
            Ok(Next {
                insertion,
                run: 0,
                held: None,
            }) if insertion.is_empty() => {
                self.peer.pipeline.offer_nothing();
                None
            }
            Ok(Next {
                insertion,
                run,
                held,
            }) => {
                self.peer.pipeline.offer(now, timeouts.block);
                Some(Offer::Body {
                    insertion,
                    run,
                    held,
                })
            }
            Err(error) => {
                self.give_up(Error::permanent(Stage::Body, error));
                // There may be something else to say then, and nothing of this body.
                self.offer(now, &[])
            }
        }
    }

    /// The first `n` octets of the offer were taken. Returns how many octets of the body that has used up.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        offer: &Offer,
        body: &[u8],
        n: usize,
        fate: Fate,
    ) -> usize {
        self.at(now);
        match offer {
            Offer::Engine => {
                self.peer.pipeline.take(n);
                self.settle(now, fate, n > 0);
                self.on_engine_output_taken(now);
                0
            }
            Offer::Body {
                insertion,
                run,
                held,
            } => {
                let run = &body[..*run];
                let n = n.min(insertion.len() + run.len());
                let Some(index) = self.position_of_body() else {
                    return 0;
                };
                self.peer.pipeline.take_body(n);
                let trips = self.peer.pipeline.round_trips();
                let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
                    return 0;
                };
                let Some(sending) = message.sending_mut() else {
                    return 0;
                };
                if n > 0 && sending.body.is_between_chunks() {
                    sending.began_at = trips;
                }
                let (used, completed) = sending.body.record(insertion, run, *held, n);
                let began_at = sending.began_at;
                if let Some(sent) = completed {
                    self.peer.trace(|| Trace::SentChunk {
                        octets: sent.octets,
                        last: sent.last,
                    });
                    message.chunk_sent(sent, began_at, &mut self.peer);
                }
                self.settle(now, fate, n > 0 || used > 0);
                if completed.is_some() {
                    self.stop_hopeless(index);
                    self.proceed();
                }
                used
            }
        }
    }

    fn settle(&mut self, now: Instant, fate: Fate, any: bool) {
        match fate {
            Fate::Written if any => self.peer.pipeline.write_all(now),
            Fate::Given => self.peer.pipeline.give_all(),
            Fate::Gathered if any => self.peer.pipeline.offer_nothing(),
            Fate::Written | Fate::Gathered => {}
        }
    }

    fn on_engine_output_taken(&mut self, now: Instant) {
        if !self.peer.pipeline.is_taken() {
            return;
        }
        if self.quit == Quit::Said {
            self.quit = Quit::Taken;
        }
        match &mut self.phase {
            Phase::Handshake { announced: false } => self.begin_handshake(now),
            Phase::Leaving(error) => {
                let result = leaving(error.take());
                self.end(result);
            }
            _ => {}
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Deadline> {
        match &self.phase {
            Phase::Draining(_, deadline) => Some(*deadline),
            _ => self.deadline.or(self.peer.pipeline.deadline()),
        }
    }

    // The end.

    /// Where the connection stands now, for an error that no reply explains.
    fn stage(&self) -> Stage {
        if let Some(what) = self.peer.pipeline.front() {
            return what.stage();
        }
        match self.phase {
            Phase::Handshake { .. } if self.peer.config.tls == TlsPolicy::Implicit => {
                Stage::Connect
            }
            Phase::Handshake { .. } => Stage::StartTls,
            _ if self.sending().is_some() => Stage::Body,
            _ if self.jobs.is_empty() => Stage::Quit,
            _ => match self.jobs.front() {
                Some(Job::Request(_)) => Stage::Request,
                _ => Stage::Mail,
            },
        }
    }

    /// The error, about the command whose reply is owed next.
    fn about_front(&self, error: Error) -> Error {
        match self.peer.pipeline.front() {
            Some(Awaited::Message(id, what)) => match self.message(id) {
                Some(message) => message.about(what, error),
                None => error,
            },
            _ => error,
        }
    }

    /// The connection is of no more use, for this cause, where it stands now.
    pub(crate) fn lose(&mut self, cause: Cause) {
        let stage = self.stage();
        let error = match cause {
            Cause::Rejected(reply) => Error::rejected(stage, reply),
            Cause::TlsUntrusted(_) => Error::permanent(stage, cause),
            cause => Error::transient(stage, cause),
        };
        let error = self.about_front(error);
        if let (Some(what), Cause::TimedOut(_)) = (self.peer.pipeline.front(), &error.cause) {
            self.note_broken_overlap(what);
        }
        self.close(error);
    }

    /// The session cannot go on. Where replies are owed that decide, they are listened to; where the server still
    /// listens, it is told so.
    fn fail(&mut self, error: Error) {
        match (&self.phase, &error.cause) {
            (Phase::Draining(..), _) => {}
            (_, Cause::Protocol(_)) => self.close(error),
            _ if self.peer.pipeline.awaits_decision() => self.drain(error),
            _ => self.leave(Err(error)),
        }
    }

    /// Stops to speak, and not to listen: what was taken goes out, no chunk is completed, and the replies that are
    /// owed are waited for, all of them as long as for one end of data.
    fn drain(&mut self, error: Error) {
        // rule: ends.drain
        self.peer.pipeline.drop_output();
        if !self.peer.pipeline.awaits_reply() || !matches!(self.phase, Phase::Ready) {
            return self.close(error);
        }
        let deadline = Deadline::new(self.now, self.peer.config.timeouts.end_of_message);
        self.phase = Phase::Draining(Box::new(error), deadline);
    }

    /// Closes when nothing is owed any more that would decide.
    fn end_of_drain(&mut self) {
        if let Phase::Draining(error, _) = &self.phase
            && !self.peer.pipeline.awaits_reply()
        {
            // It was about one message, which has failed by it. The others were not gone on with.
            let error = (**error).clone();
            self.abort_jobs(&error.not_attempted(), &error, None);
            self.end(Err(error));
        }
    }

    /// Says QUIT, and closes when it is out. This is the only place that says it, and nothing is owed then.
    fn leave(&mut self, result: Result<(), Error>) {
        // rule: ends.quit
        if let Err(error) = &result {
            // QUIT would complete a chunk that was begun, or follow what is not to be said any more.
            let in_chunk = self
                .sending()
                .is_some_and(|sending| sending.body.left().is_some());
            if in_chunk || !self.peer.pipeline.is_taken() {
                return self.close(error.clone());
            }
            self.abort_jobs(error, error, None);
        }
        self.peer.pipeline.shut();
        self.deadline = None;
        self.quit = Quit::Said;
        self.peer.say(Command::Quit);
        self.phase = Phase::Leaving(result.err().map(Box::new));
    }

    /// Closes at once: reports what is still to be reported, and nothing after it.
    fn close(&mut self, error: Error) {
        let result = match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return,
            // The result was settled before QUIT was said.
            Phase::Leaving(error) => leaving(error),
            Phase::Draining(why, _) => {
                let answered = self.answered_by(&error);
                self.abort_jobs(&error, &why, answered);
                Err(*why)
            }
            _ => {
                let answered = self.answered_by(&error);
                self.abort_jobs(&error, &error, answered);
                Err(error)
            }
        };
        self.end(result);
    }

    /// Which reply a 421 stands in place of.
    fn answered_by(&self, error: &Error) -> Option<(MessageId, MessageReply)> {
        match (&error.cause, self.peer.pipeline.front()) {
            (Cause::Rejected(reply), Some(Awaited::Message(id, what)))
                if reply.code().get() == 421 =>
            {
                Some((id, what))
            }
            _ => None,
        }
    }

    fn end(&mut self, result: Result<(), Error>) {
        self.phase = Phase::Closed;
        self.deadline = None;
        self.peer.pipeline.shut();
        // A handshake that has not begun must not begin now.
        self.peer.events.withdraw_handshake();
        self.peer.events.push(Event::Closed(result));
    }

    fn abort_jobs(
        &mut self,
        error: &Error,
        why: &Error,
        answered: Option<(MessageId, MessageReply)>,
    ) {
        while let Some(job) = self.jobs.front_mut() {
            match job {
                Job::Message(message) => {
                    let answered = answered
                        .filter(|(id, _)| *id == message.id)
                        .map(|(_, what)| what);
                    message.abort(error, why, answered, &self.peer);
                    self.finish_first();
                }
                Job::Request(asked) => {
                    let said = asked.step == AskedStep::Said;
                    self.answer(Err(if said {
                        error.clone()
                    } else {
                        why.not_attempted()
                    }));
                }
            }
        }
    }

    fn finish_first(&mut self) {
        if let Some(Job::Message(message)) = self.jobs.pop_front() {
            let id = message.id;
            self.peer
                .events
                .push(Event::Finished(id, message.into_report()));
        }
    }

    // What is known.

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let event = self.peer.events.pop();
        if event.is_none() && self.is_idle() {
            // An idle session keeps no buffer.
            self.jobs = VecDeque::new();
            self.peer.pipeline.release();
            self.peer.events.release();
        }
        event
    }

    pub(crate) fn wants_body(&self) -> bool {
        self.is_listening() && self.sending().is_some_and(|sending| !sending.complete)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Ready) && self.jobs.is_empty() && self.quit == Quit::No
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub(crate) fn has_quit(&self) -> bool {
        self.quit == Quit::Taken
    }

    pub(crate) fn phase(&self) -> &'static str {
        match &self.phase {
            Phase::Opening => "opening",
            Phase::Handshake { .. } => "handshake",
            Phase::Ready => "ready",
            Phase::Draining(..) => "draining",
            Phase::Leaving(_) => "leaving",
            Phase::Closed => "closed",
        }
    }

    pub(crate) fn jobs(&self) -> usize {
        self.jobs.len()
    }
}

/// How a connection closes that was left with this error, or with none.
fn leaving(error: Option<Box<Error>>) -> Result<(), Error> {
    error.map_or(Ok(()), |error| Err(*error))
}
