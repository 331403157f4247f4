//! The whole of a session: its state, what the application says, what the transport reports, and what is known.
//!
//! The methods of [`Conversation`] are in a file for each subject: see the [list](super).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

use crate::auth::Nonce;
use crate::config::Config;
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Misuse, Outcome, ProtocolError, Stage};
use crate::event::{Event, MessageId, RequestId, Trace};
use crate::request::Request;
use crate::time::Instant;
use crate::tls::TlsFacts;

use super::message::{Message, Sending};
use super::opening::{Opening, Progress};
use super::peer::Peer;
use super::pipeline::Deadline;

pub(crate) struct Conversation {
    pub(crate) peer: Peer,
    pub(super) opening: Opening,
    pub(super) phase: Phase,
    /// Submitted and not finished, in order; the first may be under way.
    pub(super) jobs: VecDeque<Job>,
    pub(super) next_id: u64,
    pub(super) quit: Quit,
    /// [`Event::Ready`] was said.
    pub(super) was_ready: bool,
    /// The latest time that the caller has told.
    pub(super) now: Instant,
}

pub(super) enum Phase {
    Opening,
    /// A handshake is due; or under way, until then, once [`Event::StartTls`] was queued.
    Handshake(Option<Deadline>),
    Ready,
    /// Nothing more is said, because of this error; but replies that are owed are listened to, until then.
    Draining(Box<Error>, Deadline),
    /// QUIT goes out, and then the connection closes, with this error if there is one.
    Leaving(Option<Box<Error>>),
    Closed,
}

/// QUIT, which goes out when nothing is owed any more.
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
            peer: Peer::new(config),
            opening: Opening::new(nonce),
            phase: Phase::Opening,
            jobs: VecDeque::new(),
            next_id: 0,
            quit: Quit::No,
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

    /// Whether the next octets of the body that are offered decide the size of a chunk.
    pub(crate) fn sizes_next_chunk(&self) -> bool {
        self.sending()
            .is_some_and(|sending| sending.body.is_sizing())
    }

    fn wanted_body(&mut self) -> Result<&mut Sending, Misuse> {
        let listens = self.is_listening();
        let sending = self
            .sending_mut()
            .filter(|sending| listens && !sending.complete);
        sending.ok_or(Misuse::NoBodyWanted)
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
    pub(super) fn is_listening(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Draining(..) | Phase::Leaving(_) | Phase::Closed
        )
    }

    /// Whether replies are read. Octets that arrive before a handshake are none.
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

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.at(now);
        if let Some(deadline) = self.next_deadline()
            && now >= deadline.at
        {
            self.lose(Cause::TimedOut(deadline.after));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Deadline> {
        match &self.phase {
            Phase::Draining(_, deadline) => Some(*deadline),
            Phase::Handshake(Some(deadline)) => Some(*deadline),
            _ => self.peer.pipeline.deadline(),
        }
    }

    pub(crate) fn handle_tls_established(
        &mut self,
        now: Instant,
        facts: TlsFacts,
    ) -> Result<(), Misuse> {
        if !matches!(self.phase, Phase::Handshake(Some(_))) {
            return Err(Misuse::NoHandshakeWanted);
        }
        self.phase = Phase::Opening;
        self.peer.trace(|| Trace::TlsEstablished);
        self.opening.tls_established(now, facts, &mut self.peer);
        Ok(())
    }

    pub(crate) fn handle_tls_failed(&mut self, cause: Cause) -> Result<(), Misuse> {
        match self.phase {
            Phase::Handshake(Some(_)) => {
                // rule: opening.tls-failed
                self.lose(cause);
                Ok(())
            }
            _ => Err(Misuse::NoHandshakeWanted),
        }
    }

    pub(super) fn begin_handshake(&mut self, now: Instant) {
        // What was said and not yet taken comes first.
        let announced = self.peer.pipeline.is_taken();
        if announced {
            self.peer.events.push(Event::StartTls);
        }
        let timeout = self.peer.config.timeouts.handshake;
        self.phase = Phase::Handshake(announced.then(|| Deadline::new(now, timeout)));
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

    pub(super) fn message(&self, id: MessageId) -> Option<&Message> {
        self.jobs.iter().find_map(|job| match job {
            Job::Message(message) if message.id == id => Some(message),
            _ => None,
        })
    }

    /// The message with this number, for what is known of it by now.
    pub(crate) fn unfinished(&self, id: MessageId) -> Option<&Message> {
        self.message(id)
    }

    pub(super) fn position(&self, id: MessageId) -> Option<usize> {
        self.jobs
            .iter()
            .position(|job| matches!(job, Job::Message(message) if message.id == id))
    }

    pub(super) fn position_of_body(&self) -> Option<usize> {
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

    pub(super) fn sending_mut(&mut self) -> Option<&mut Sending> {
        self.jobs.iter_mut().find_map(|job| match job {
            Job::Message(message) => message.sending_mut(),
            Job::Request(_) => None,
        })
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
