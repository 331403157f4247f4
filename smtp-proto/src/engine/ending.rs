//! The end of the connection: how it drains, QUIT, how it closes, and the fate of the messages that are left.

use alloc::boxed::Box;

use crate::command::Command;
use crate::config::TlsPolicy;
use crate::error::{Cause, Error, Moment, Stage};
use crate::event::{Event, MessageId};
use crate::tls::Channel;

use super::awaited::{Awaited, MessageReply, OpeningReply};
use super::conversation::{AskedStep, Conversation, Job, Phase, Quit};
use super::pipeline::Deadline;

impl Conversation {
    /// Where the connection stands now, for an error without a reply.
    pub(super) fn stage(&self) -> Stage {
        if let Some(what) = self.peer.pipeline.front() {
            return what.stage();
        }
        match self.phase {
            // rule: opening.tls-lost
            Phase::Handshake(_) => self.handshake_stage(),
            _ if self.sending().is_some() => Stage::Body,
            // Any other job under way has sent a command, and its reply is owed.
            _ => Stage::Quit,
        }
    }

    fn handshake_stage(&self) -> Stage {
        match self.peer.config.tls {
            TlsPolicy::Implicit => Stage::Connect,
            _ => Stage::StartTls,
        }
    }

    /// Whether the server has not replied since our handshake. Under TLS 1.3, the handshake is over for the client
    /// before the server checks the client's certificate (RFC 8446 section 4.6.2). So the server may still refuse it.
    pub(super) fn is_handshake_unconfirmed(&self) -> bool {
        let config = &self.peer.config;
        let first = match config.tls {
            TlsPolicy::Implicit => OpeningReply::Greeting,
            _ => OpeningReply::Ehlo,
        };
        self.peer.tls.is_some()
            && !matches!(config.channel, Channel::Tls(_))
            && !self.was_ready
            && self.peer.pipeline.front() == Some(Awaited::Opening(first))
    }

    /// The error, about the command whose reply comes next, or the chunk that is on its way.
    pub(super) fn about_front(&self, error: Error) -> Error {
        match self.peer.pipeline.front() {
            Some(what) => self.about(what, error),
            None => match self.sending().and_then(|sending| sending.body.open_chunk()) {
                Some(chunk) => error.with_command(&chunk.redacted()),
                None => error,
            },
        }
    }

    /// The error, about the command that `what` answers.
    pub(super) fn about(&self, what: Awaited, error: Error) -> Error {
        match what {
            Awaited::Message(id, what) => match self.message(id) {
                Some(message) => message.about(what, error),
                None => error,
            },
            Awaited::Opening(what) => self.opening.about(what, error, &self.peer.config),
            Awaited::Request => error,
        }
    }

    /// The connection is lost, for this cause, where it stands now.
    pub(crate) fn lose(&mut self, cause: Cause) {
        use Cause::{Disconnected, TimedOut, TlsFailed, TlsMisconfigured, TlsUntrusted, Transport};
        let unconfirmed = self.is_handshake_unconfirmed();
        let (stage, cause) = match cause {
            // rule: opening.tls-lost-after-handshake
            Disconnected if unconfirmed => (
                self.handshake_stage(),
                TlsFailed("the server closed the connection before its first reply".into()),
            ),
            cause @ (TlsFailed(_) | TlsMisconfigured(_) | TlsUntrusted(_) | Transport(_))
                if unconfirmed =>
            {
                (self.handshake_stage(), cause)
            }
            cause => (self.stage(), cause),
        };
        let error = match cause {
            Cause::Rejected(reply) => Error::rejected(stage, reply),
            // rule: opening.tls-untrusted
            TlsUntrusted(_) | TlsMisconfigured(_) => Error::permanent(stage, cause),
            cause @ (Disconnected | TimedOut(_)) if matches!(self.phase, Phase::Handshake(_)) => {
                Error::transient(stage, cause).at(Moment::Handshake)
            }
            cause => Error::transient(stage, cause),
        };
        let error = self.about_front(error);
        if let (Some(what), Phase::Ready) = (self.peer.pipeline.front(), &self.phase)
            && matches!(error.cause, TimedOut(_))
            && self.peer.pipeline.is_late()
        {
            self.note_broken_overlap(what);
        }
        self.close(error);
    }

    /// The session cannot go on. It first reads the replies that decide about a message, and sends QUIT if the server
    /// still listens.
    pub(super) fn fail(&mut self, error: Error) {
        match (&self.phase, &error.cause) {
            // After a broken protocol, any reply may mean anything.
            (_, Cause::Protocol(_)) => self.close(error),
            (Phase::Draining(..), _) => {}
            _ if self.peer.pipeline.awaits_decision() => self.drain(error),
            // The replies to commands decide nothing, and QUIT must not go out before them.
            _ if self.peer.pipeline.awaits_reply() => self.close(error),
            _ => self.leave(Err(error)),
        }
    }

    /// Stops sending, and still reads. What was not taken does not go out, no chunk is completed, and the replies that
    /// are owed have the timeout of one end of data.
    pub(super) fn drain(&mut self, error: Error) {
        if !self.peer.pipeline.awaits_reply() || !matches!(self.phase, Phase::Ready) {
            return self.close(error);
        }
        let deadline = Deadline::new(self.now(), self.peer.config.timeouts.end_of_message);
        self.phase = Phase::Draining(Box::new(error), Some(deadline));
    }

    /// Closes once no reply is owed that would decide.
    pub(super) fn end_of_drain(&mut self) {
        if let Phase::Draining(error, _) = &self.phase
            && !self.peer.pipeline.awaits_reply()
        {
            // The error was about one message, which has failed by it. The other messages were not attempted.
            let error = (**error).clone();
            self.abort_jobs(&error.not_attempted(), &error, None);
            self.end(Err(error));
        }
    }

    /// Sends QUIT, and closes when it is out. Only this place sends it, and no reply is owed then.
    pub(super) fn leave(&mut self, result: Result<(), Error>) {
        if let Err(error) = &result {
            // QUIT would complete a chunk that was begun, or follow output that must not go out.
            // rule: chunking.eager-overlap
            let in_chunk = self
                .sending()
                .is_some_and(|sending| sending.body.left().is_some());
            if in_chunk || !self.peer.pipeline.is_taken() {
                return self.close(error.clone());
            }
            self.abort_jobs(error, error, None);
        }
        self.peer.pipeline.shut();
        self.quit = Quit::Said;
        self.peer.say(Command::Quit);
        self.phase = Phase::Leaving(result.err().map(Box::new));
    }

    /// Closes at once, and reports every result that is left.
    pub(super) fn close(&mut self, error: Error) {
        let result = match core::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return,
            // The result was decided before QUIT.
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

    /// Which reply a 421 replaces.
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

    pub(super) fn end(&mut self, result: Result<(), Error>) {
        self.phase = Phase::Closed;
        self.opening.close();
        self.peer.pipeline.shut();
        // A handshake that has not begun must not begin any more.
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
                    // rule: requests.lost
                    let said = asked.step == AskedStep::Said && self.peer.pipeline.front_is_given();
                    self.answer(Err(if said {
                        error.clone()
                    } else {
                        why.not_attempted()
                    }));
                }
            }
        }
    }
}

/// The result of a connection that has left, with or without this error.
pub(super) fn leaving(error: Option<Box<Error>>) -> Result<(), Error> {
    error.map_or(Ok(()), |error| Err(*error))
}
