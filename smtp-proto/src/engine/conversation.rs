//! A whole session: its state, what the application says, what the transport reports, and what can be asked of it.
//!
//! The methods of [`Conversation`] are in a file for each subject: see the [list](super).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::auth::Nonce;
use crate::capability::Capabilities;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Misuse, Moment, Outcome, ProtocolError, Stage};
use crate::event::{Event, MessageId, RequestId, Trace};
use crate::request::Request;
use crate::time::Instant;
use crate::tls::TlsFacts;

use super::awaited::{Awaited, OpeningReply};
use super::message::{Message, Sending};
use super::opening::{Opening, Progress};
use super::peer::Peer;
use super::pipeline::Deadline;

pub(crate) struct Conversation {
    pub(crate) peer: Peer,
    pub(super) opening: Opening,
    pub(super) phase: Phase,
    /// Submitted and not finished, in order. The first may be under way.
    pub(super) jobs: VecDeque<Job>,
    pub(super) next_id: u64,
    pub(super) quit: Quit,
    /// [`Event::Ready`] was queued.
    pub(super) was_ready: bool,
}

pub(super) enum Phase {
    Opening,
    /// [`Event::StartTls`] was queued, and the handshake has this long.
    Handshake(Deadline),
    Ready,
    /// The session stops sending because of this error, and reads the replies that it is owed until the deadline.
    /// Without a deadline, it is computed when the caller next gives the time.
    Draining(Box<Error>, Option<Deadline>),
    /// QUIT goes out. Then the connection closes, with this error if there is one.
    Leaving(Option<Box<Error>>),
    Closed,
}

/// QUIT, which goes out when all replies have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quit {
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
pub(super) enum Job {
    Message(Message),
    Request(Asked),
}

/// A request, and how far it has come.
pub(super) struct Asked {
    pub(super) id: RequestId,
    pub(super) request: Request,
    pub(super) step: AskedStep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedStep {
    Queued,
    Reset,
    Said,
}

impl Conversation {
    pub(crate) fn new(config: Arc<Config>, now: Instant, nonce: Option<Nonce>) -> Self {
        let mut conversation = Self {
            peer: Peer::new(config, now),
            opening: Opening::new(nonce),
            phase: Phase::Opening,
            jobs: VecDeque::new(),
            next_id: 0,
            quit: Quit::No,
            was_ready: false,
        };
        if conversation.opening.start(&mut conversation.peer) == Progress::StartTls {
            conversation.begin_handshake();
        }
        conversation
    }

    /// The caller gives the time.
    pub(crate) fn at(&mut self, now: Instant) -> &mut Self {
        self.peer.pipeline.set_now(now);
        if let Phase::Draining(_, deadline @ None) = &mut self.phase {
            let timeout = self.peer.config.timeouts.end_of_message;
            *deadline = Some(Deadline::new(self.peer.pipeline.now(), timeout));
        }
        self
    }

    pub(super) fn now(&self) -> Instant {
        self.peer.pipeline.now()
    }

    // The application speaks.

    pub(crate) fn submit(&mut self, envelope: Envelope) -> Result<MessageId, (Misuse, Envelope)> {
        let limit = self.peer.config.limits.recipients;
        if envelope.forward_paths().len() > limit {
            return Err((Misuse::TooManyRecipients { limit }, envelope));
        }
        let id = match self.next_id() {
            Ok(id) => MessageId(id),
            Err(misuse) => return Err((misuse, envelope)),
        };
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

    /// The number of the next message or request, if the limits allow one.
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
        // Applications submit few messages at a time, and each is large.
        match self.jobs.len() {
            ..4 => self.jobs.reserve_exact(1),
            _ => self.jobs.reserve(1),
        }
        self.jobs.push_back(job);
        self.proceed();
    }

    pub(crate) fn finish_body(&mut self) -> Result<(), Misuse> {
        self.wanted_body()?.complete = true;
        self.peer.pipeline.offer_nothing();
        self.proceed();
        self.await_time();
        Ok(())
    }

    /// Forgets the deadline if the caller's own call made the session drain: the last known time may be old.
    fn await_time(&mut self) {
        if let Phase::Draining(_, deadline) = &mut self.phase {
            *deadline = None;
        }
    }

    /// Whether the next octets of the body decide the size of a chunk.
    pub(crate) fn sizes_next_chunk(&self) -> bool {
        self.sending()
            .is_some_and(|sending| sending.body.is_sizing())
    }

    fn wanted_body(&mut self) -> Result<&mut Sending, Misuse> {
        match self.wants_body() {
            true => self.sending_mut().ok_or(Misuse::NoBodyWanted),
            false => Err(Misuse::NoBodyWanted),
        }
    }

    pub(crate) fn fail_body(&mut self, outcome: Outcome, reason: &str) -> Result<(), Misuse> {
        self.wanted_body()?;
        self.give_up(Error::new(
            Stage::Body,
            outcome,
            Cause::Local(reason.into()),
        ));
        self.await_time();
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

    /// Whether input matters, and the session may still send.
    pub(super) fn is_listening(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Draining(..) | Phase::Leaving(_) | Phase::Closed
        )
    }

    /// Whether replies are read. Octets before a handshake are not replies.
    pub(crate) fn hears(&mut self, any: bool) -> bool {
        match self.phase {
            Phase::Leaving(_) | Phase::Closed => false,
            Phase::Handshake(_) if any => {
                // rule: opening.starttls-injection
                self.lose(ProtocolError::OctetsBehindStartTls.into());
                false
            }
            _ => true,
        }
    }

    /// `in_reply`: a part of a reply has come.
    pub(crate) fn handle_timeout(&mut self, now: Instant, in_reply: bool) {
        self.at(now);
        if let Some(deadline) = self.next_deadline()
            && self.now() >= deadline.at
        {
            let greeting = Awaited::Opening(OpeningReply::Greeting);
            let cause = Cause::TimedOut(deadline.after);
            match self.peer.pipeline.front() == Some(greeting) && !in_reply {
                true if self.peer.is_clear_network() => {
                    self.close(Error::transient(Stage::Greeting, cause).at(Moment::Silence));
                }
                _ => self.lose(cause),
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Deadline> {
        match &self.phase {
            Phase::Draining(_, deadline) => *deadline,
            Phase::Handshake(deadline) => Some(*deadline),
            _ => self.peer.pipeline.deadline(),
        }
    }

    pub(crate) fn handle_tls_established(
        &mut self,
        now: Instant,
        facts: TlsFacts,
    ) -> Result<(), Misuse> {
        if !matches!(self.phase, Phase::Handshake(_)) {
            return Err(Misuse::NoHandshakeWanted);
        }
        self.at(now).phase = Phase::Opening;
        self.peer.trace(|| Trace::TlsEstablished);
        self.opening.tls_established(facts, &mut self.peer);
        Ok(())
    }

    pub(crate) fn handle_tls_failed(&mut self, cause: Cause) -> Result<(), Misuse> {
        match self.phase {
            Phase::Handshake(_) => {
                // rule: opening.tls-failed
                self.lose(cause);
                Ok(())
            }
            _ if self.is_handshake_unconfirmed() => {
                self.lose(cause);
                Ok(())
            }
            _ => Err(Misuse::NoHandshakeWanted),
        }
    }

    pub(super) fn begin_handshake(&mut self) {
        // What was learnt in the clear does not count inside TLS (RFC 3207 section 4.2).
        // rule: opening.capabilities-forgotten-after-tls
        // rule: parameters.forgotten-after-tls
        self.peer.capabilities = Capabilities::default();
        // Nothing waits to go out: STARTTLS was given before its reply, and nothing follows it.
        self.peer.events.push(Event::StartTls);
        let deadline = Deadline::new(self.now(), self.peer.config.timeouts.handshake);
        self.phase = Phase::Handshake(deadline);
    }

    // What is known.

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        let event = self.peer.events.pop();
        if let Some(Event::BodyWanted(id)) = event
            && let Some(index) = self.position(id)
            && let Some(Job::Message(message)) = self.jobs.get_mut(index)
            && let Some(sending) = message.sending_mut()
        {
            sending.announced = true;
        }
        if event.is_none() && (self.is_idle() || self.is_closed()) {
            // Such a session keeps no buffer.
            self.jobs = VecDeque::new();
            self.peer.pipeline.release();
            self.peer.events.release();
        }
        event
    }

    pub(super) fn message(&self, id: MessageId) -> Option<&Message> {
        match self.jobs.get(self.position(id)?) {
            Some(Job::Message(message)) => Some(message),
            _ => None,
        }
    }

    /// The message with this number, to report its state so far.
    pub(crate) fn unfinished(&self, id: MessageId) -> Option<&Message> {
        self.message(id)
    }

    /// Where this message is, if it is here. Jobs are numbered consecutively, and leave in this order.
    pub(super) fn position(&self, id: MessageId) -> Option<usize> {
        let first = match self.jobs.front()? {
            Job::Message(message) => message.id.get(),
            Job::Request(asked) => asked.id.get(),
        };
        usize::try_from(id.get().checked_sub(first)?).ok()
    }

    /// The messages whose envelope was begun, with their positions.
    fn begun(&self) -> impl Iterator<Item = (usize, &Message)> {
        let messages = self.jobs.iter().map_while(|job| match job {
            Job::Message(message) if message.is_under_way() || message.is_over() => Some(message),
            _ => None,
        });
        messages.enumerate()
    }

    pub(super) fn position_of_body(&self) -> Option<usize> {
        self.begun()
            .find(|(_, message)| message.sending().is_some())
            .map(|(index, _)| index)
    }

    /// The body that is being sent, if any.
    pub(crate) fn sending(&self) -> Option<&Sending> {
        self.begun().find_map(|(_, message)| message.sending())
    }

    pub(super) fn sending_mut(&mut self) -> Option<&mut Sending> {
        let index = self.position_of_body()?;
        match self.jobs.get_mut(index) {
            Some(Job::Message(message)) => message.sending_mut(),
            _ => None,
        }
    }

    /// The body that the caller was asked for by an event.
    fn wanted(&self) -> Option<&Sending> {
        self.sending()
            .filter(|sending| self.is_listening() && sending.announced && !sending.complete)
    }

    pub(crate) fn wants_body(&self) -> bool {
        self.wanted().is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Ready) && self.jobs.is_empty() && self.quit == Quit::No
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.peer.mails_exceeded().is_some()
    }

    pub(crate) fn has_quit(&self) -> bool {
        self.quit == Quit::Taken
    }

    pub(crate) fn phase(&self) -> &'static str {
        match &self.phase {
            Phase::Opening => "opening",
            Phase::Handshake(_) => "handshake",
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
