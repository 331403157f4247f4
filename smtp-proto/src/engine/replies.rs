//! Replies: which command each one answers, and where it goes.

use crate::error::{Cause, Error, ProtocolError, Stage};
use crate::event::{Event, MessageId, Trace};
use crate::reply::{Reply, ReplyClass, ReplyError, ReplyRef};
use crate::time::Instant;

use super::awaited::{Awaited, MessageReply};
use super::conversation::{AskedStep, Conversation, Job, Phase};
use super::message::Flow;
use super::opening::Progress;
use super::pipeline::{Began, Owed};
use super::usage::Usage;

impl Conversation {
    /// The input is not a reply, or exceeds a limit.
    pub(crate) fn on_malformed(&mut self, mut error: ReplyError) {
        if let ReplyError::NotAReply(line) = &mut error
            && let Some(redacted) = self.opening.redact(line, ReplyClass::Permanent, &self.peer)
        {
            *line = redacted.into();
        }
        self.lose(ProtocolError::from(error).into());
    }

    pub(crate) fn on_reply(&mut self, now: Instant, reply: ReplyRef<'_>) {
        let heard = reply;
        let is_refusal = matches!(reply.class(), ReplyClass::Transient | ReplyClass::Permanent);
        let redacted = self.opening.redact(reply.text(), reply.class(), &self.peer);
        let reply = match &redacted {
            Some(text) => reply.with_text(text),
            None => reply,
        };
        self.at(now)
            .peer
            .trace(|| Trace::Received(reply.to_reply()));
        let began = self.peer.pipeline.end_reply();
        let began = began.unwrap_or_else(|| self.began_now());
        match reply.code().get() {
            // RFC 5321 section 3.8: 421 may answer any command, or come unasked, and the server closes.
            // rule: opening.greeting-421
            // rule: transaction.421-to-rcpt
            // rule: chunking.421
            // rule: requests.421
            421 => return self.lose(Cause::Rejected(reply.to_reply())),
            // A 221 only answers QUIT, whose reply is not waited for.
            221 => return self.on_goodbye(reply.to_reply()),
            _ => {}
        }
        let refuses_body = is_refusal && began == Began::InBody;
        // An early refusal is the answer if all of the chunk, or the end of the data, has gone out meanwhile.
        let is_answer = refuses_body && self.peer.pipeline.front_is_given();
        // rule: opening.reply-before-command
        if began != Began::InTime && !is_answer {
            return self.on_surplus(reply, refuses_body);
        }
        let of_rcpt = matches!(reply.code().get(), 251 | 252);
        let shifted = of_rcpt && self.peer.pipeline.is_overlapping();
        let Some(owed) = self.peer.pipeline.take_owed(is_refusal) else {
            return;
        };
        // rule: transaction.wrong-class
        if !owed.what.can_be(reply, shifted) {
            self.peer.pipeline.put_back(owed);
            return self.on_wrong_class(owed.what, reply);
        }
        match owed.what {
            Awaited::Request => self.on_answer(reply),
            // Only a mechanism reads the text of a reply.
            Awaited::Opening(what) => match self.opening.on_reply(
                what,
                match (reply.class(), reply.code().get()) {
                    (ReplyClass::Intermediate, _) | (_, 235) => heard,
                    _ => reply,
                },
                &mut self.peer,
            ) {
                Ok(Progress::Wait) => {}
                Ok(Progress::StartTls) => self.begin_handshake(),
                Ok(Progress::Ready) => {
                    self.phase = Phase::Ready;
                    if !core::mem::replace(&mut self.was_ready, true) {
                        self.peer.events.push(Event::Ready);
                    }
                }
                Err(error) => {
                    let error = self.opening.about(what, error, &self.peer.config);
                    self.fail(error);
                }
            },
            Awaited::Message(id, what) => self.on_message_reply(id, what, owed, reply),
        }
        self.peer.pipeline.arm();
        self.proceed();
        self.end_of_drain();
    }

    /// A part of a reply has come, and the rest has not.
    pub(crate) fn begin_reply(&mut self) {
        let began = self.began_now();
        self.peer.pipeline.begin_reply(began);
    }

    /// When a reply began, if its first octets have come only now.
    fn began_now(&self) -> Began {
        match () {
            () if self.peer.pipeline.front_is_given() => Began::InTime,
            () if self.is_in_body() => Began::InBody,
            () => Began::Early,
        }
    }

    /// Whether the server may refuse a body whose end, or the end of its chunk, was not given. It has answered DATA,
    /// or the header of the chunk was given.
    fn is_in_body(&self) -> bool {
        let pipeline = &self.peer.pipeline;
        match pipeline.front() {
            Some(front) if !front.is_of_body() => false,
            Some(front) => match self.octets_of_chunk(front) {
                Some(octets) => pipeline.front_is_given_but(octets),
                None => true,
            },
            None => self.sending().is_some_and(|sending| {
                !sending.body.is_chunked()
                    || (sending.body.gone_of_chunk())
                        .is_some_and(|gone| pipeline.is_given_but(gone))
            }),
        }
    }

    fn octets_of_chunk(&self, what: Awaited) -> Option<u64> {
        match what {
            Awaited::Message(id, what) => self.message(id)?.octets_of_chunk(what),
            Awaited::Opening(_) | Awaited::Request => None,
        }
    }

    /// A 221 that nobody asked for: the server closes. It does not count as an answer. The reply to the end of a body
    /// may still come.
    fn on_goodbye(&mut self, reply: Reply) {
        if matches!(self.phase, Phase::Draining(..)) {
            return;
        }
        // rule: replies.221-unasked
        let pipeline = &self.peer.pipeline;
        let ends_data = pipeline.front().is_some_and(Awaited::is_end_of_data);
        match pipeline.awaits_decision() {
            // Where commands overlap, it shows that the queue of replies has shifted.
            true if pipeline.is_overlapping() && !ends_data => {
                let what = pipeline.front().unwrap_or(Awaited::Request);
                let error = ProtocolError::WrongClass(reply);
                let error = self.about(what, Error::transient(what.stage(), error));
                self.close(error);
            }
            true => {
                let error = self.about_front(Error::rejected(self.stage(), reply));
                self.drain(error);
            }
            false => self.lose(Cause::Rejected(reply)),
        }
    }

    /// A reply to nothing that may have reached the server.
    fn on_surplus(&mut self, reply: ReplyRef<'_>, refuses_body: bool) {
        self.lose(match refuses_body {
            // Besides 421 and 221, only a refusal in the middle of a body may come unasked.
            // rule: transaction.early-refusal
            // rule: chunking.early-reply
            true => Cause::Rejected(reply.to_reply()),
            // rule: transaction.reply-surplus
            false => ProtocolError::Unexpected(reply.to_reply()).into(),
        });
    }

    fn on_wrong_class(&mut self, what: Awaited, reply: ReplyRef<'_>) {
        let error = ProtocolError::WrongClass(reply.to_reply());
        let error = self.about(what, Error::transient(what.stage(), error));
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
        // Once the server has accepted RSET or a new MAIL, it has forgotten the failed transaction.
        if begins && reply.class() == ReplyClass::Success {
            self.peer.may_hold_transaction = false;
        }
        match message.on_reply(what, owed, reply, &mut self.peer) {
            Ok(Flow::Wait) => self.stop_hopeless(index),
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
            // A server that cannot even reset gets no other command.
            if reply.class() != ReplyClass::Success {
                return self.fail(Error::rejected(Stage::Request, reply.to_reply()));
            }
            asked.step = AskedStep::Queued;
            self.peer.may_hold_transaction = false;
            return;
        }
        // rule: requests.xclient-refused
        let restarts = asked.request.restarts_session() && reply.class() == ReplyClass::Success;
        // rule: requests.answered
        // rule: requests.refusal-is-an-answer
        self.answer(Ok(reply.to_reply()));
        // rule: requests.xclient
        if restarts && self.is_listening() {
            // Postfix forgets all but the connection, and sends a new greeting.
            self.peer.usage = Usage::default();
            self.phase = Phase::Opening;
            self.opening.restart(&mut self.peer);
        }
    }

    /// If the session ended at an overlapping envelope, tells the caller.
    pub(super) fn note_broken_overlap(&mut self, what: Awaited) {
        if what.overlaps() && !core::mem::replace(&mut self.peer.overlap_is_broken, true) {
            self.peer.events.push(Event::OverlapBroken);
        }
    }
}
