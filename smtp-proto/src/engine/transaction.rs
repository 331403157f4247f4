//! A message, over as many mail transactions (RFC 5321 section 3.3) as it takes.
//!
//! ```text
//! Envelope ──DATA──▶ Data ──354──▶ Body ──dot──▶ Ended          354 for nobody: Data ──▶ LoneDot
//!     └──────────chunks─────────▶ Body ──last─▶ Ended          no more chunks: Body ──▶ Stopped
//! ```
//!
//! A failure ends with its transaction. It holds for the recipients whom that transaction has named, and for nobody
//! else: the others are named in the next one, or not at all, and then they were *not attempted*.

use crate::chunk::{Body, Sent};
use crate::command::{Command, MailParameters};
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Outcome, ProtocolError, Stage};
use crate::event::{MessageId, Report};
use crate::reply::{ReplyClass, ReplyRef};

use super::peer::Peer;
use super::pipeline::{Awaited, MessageReply, Owed};
use super::plan::{self, Plan, ProceedOn, Travel};
use super::recipients::Recipients;

/// A guess at the octets of a RCPT command around its address, for the limit in flight.
const RCPT_OVERHEAD: usize = "RCPT TO:<>\r\n".len();

/// The same for MAIL with its parameters, and the RSET before it.
const MAIL_OVERHEAD: usize =
    "RSET\r\nMAIL FROM:<> SIZE=18446744073709551615 BODY=BINARYMIME SMTPUTF8\r\n".len();

/// A message that was refused as a whole so often in a row is not tried with its other recipients.
const REFUSALS: u8 = 2;

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing for the caller yet.
    Wait,
    /// The body may be sent.
    BodyWanted,
    /// The transaction is over.
    Ended,
}

/// The body that is being sent.
pub(crate) struct Sending {
    pub(crate) body: Body,
    /// The caller has no more of it. Its last chunk may still have to wait for its turn.
    pub(crate) complete: bool,
    /// The round trips that were done when the last chunk was begun.
    pub(crate) began_at: u64,
}

enum Step {
    /// MAIL was said, and RCPTs follow.
    Envelope,
    /// DATA was said.
    Data,
    /// The body is on its way.
    Body(Sending),
    /// No more chunks are sent, because one was refused, nobody is left to send to, or the body cannot be given;
    /// replies are owed.
    Stopped,
    /// The end of the body was said. The caller may still be to say that it has no more of it.
    Ended(Option<Sending>),
    /// The dot was said that ends a body which was never sent: no recipient was accepted, and DATA was answered
    /// 354 all the same.
    LoneDot,
}

struct Transaction {
    plan: Plan,
    step: Step,
    /// PRDR: the 353 has come.
    replies_for_each: bool,
    /// Why it has come to nothing.
    failure: Option<Error>,
    /// MAIL overlapped, and the server does not take that: then it was not attempted, unless the server takes the
    /// rest all the same.
    unbegun: Option<Error>,
}

pub(crate) struct Message {
    pub(crate) id: MessageId,
    envelope: Envelope,
    recipients: Recipients,
    /// None before the first transaction, and between two.
    transaction: Option<Transaction>,
    /// How often in a row it was refused as a whole.
    refusals: u8,
    /// Why nobody else is named.
    ended_by: Option<Error>,
}

impl Message {
    pub(crate) fn new(id: MessageId, envelope: Envelope) -> Self {
        let recipients = Recipients::new(envelope.forward_paths().len());
        Self {
            id,
            envelope,
            recipients,
            transaction: None,
            refusals: 0,
            ended_by: None,
        }
    }

    /// The recipients that have an error of their own by now.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.recipients.refused()
    }

    /// Whether one of its transactions is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether nothing more comes of it.
    pub(crate) fn is_over(&self) -> bool {
        self.transaction.is_none() && (self.recipients.left() == 0 || self.ended_by.is_some())
    }

    /// Whether the end of its data was said, and no other transaction with the rest of its recipients can follow.
    pub(crate) fn has_ended_for_all(&self, learns_limits: bool) -> bool {
        let may_defer = learns_limits && plan::may_split(&self.envelope);
        self.has_ended() && !self.recipients.may_have_another(may_defer)
    }

    fn has_ended(&self) -> bool {
        matches!(
            &self.transaction,
            Some(Transaction {
                step: Step::Ended(_),
                ..
            })
        )
    }

    pub(crate) fn sending(&self) -> Option<&Sending> {
        match &self.transaction {
            Some(Transaction {
                step: Step::Body(sending) | Step::Ended(Some(sending)),
                ..
            }) => Some(sending),
            _ => None,
        }
    }

    pub(crate) fn sending_mut(&mut self) -> Option<&mut Sending> {
        match &mut self.transaction {
            Some(Transaction {
                step: Step::Body(sending) | Step::Ended(Some(sending)),
                ..
            }) => Some(sending),
            _ => None,
        }
    }

    /// Whether its current transaction can come to nothing good any more.
    pub(crate) fn is_hopeless(&self) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        transaction.failure.is_some()
            || (self.recipients.all_answered() && self.recipients.accepted() == 0)
    }

    /// Why that is so.
    pub(crate) fn why_hopeless(&self) -> Option<Error> {
        let failure = self
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.failure.clone());
        failure.or_else(|| {
            self.recipients
                .refused()
                .next()
                .map(|(_, error)| error.clone())
        })
    }

    // Saying what can be said.

    /// What this server is given of it, or why it is not.
    pub(crate) fn plan(&mut self, peer: &Peer) -> Result<Plan, Error> {
        let first = self.recipients.left() == self.recipients.len();
        Plan::new(&mut self.envelope, self.recipients.left(), first, peer)
    }

    /// It is not given to this server, or no further: the first transaction that would name them does not come.
    pub(crate) fn withhold(&mut self, error: Error) {
        match self.recipients.left() == self.recipients.len() {
            true => {
                self.recipients.begin(usize::MAX);
                while self.recipients.peek().is_some() {
                    self.recipients.exclude(error.clone());
                }
            }
            // Some were asked before, and this is not about these alone.
            false => self.ended_by = Some(error),
        }
    }

    /// Says MAIL, with nothing of another message before it.
    pub(crate) fn begin(&mut self, plan: Plan, peer: &mut Peer) {
        self.say_mail(plan, false, peer);
    }

    /// Says MAIL in one batch with the ends of other messages' data, if there is room for it.
    pub(crate) fn begin_overlapping(&mut self, peer: &mut Peer) -> bool {
        let parameters = self
            .envelope
            .mail_parameters()
            .iter()
            .map(|p| p.text().len() + 1);
        let octets =
            MAIL_OVERHEAD + self.envelope.reverse_path().as_str().len() + parameters.sum::<usize>();
        if !peer.pipelines() || !peer.pipeline.may_send(true, octets) {
            return false;
        }
        // One that this server cannot be given is reported in its turn.
        let Ok(plan) = self.plan(peer) else {
            return false;
        };
        // What became of the chunks before is not known, and one that was refused leaves its transaction in a
        // state that only RSET clears (RFC 3030 section 2).
        if plan.travel == Travel::Chunks {
            let reply = MessageReply::Rset { overlapping: true };
            peer.push(Command::Rset, Awaited::Message(self.id, reply));
        }
        self.say_mail(plan, true, peer);
        true
    }

    fn say_mail(&mut self, plan: Plan, overlapping: bool, peer: &mut Peer) {
        self.recipients.begin(plan.room);
        let step = Step::Envelope;
        let transaction = Transaction {
            plan,
            step,
            replies_for_each: false,
            failure: None,
            unbegun: None,
        };
        self.transaction = Some(transaction);
        peer.usage.transactions += 1;
        let envelope = &self.envelope;
        let awaited = Awaited::Message(self.id, MessageReply::Mail { overlapping });
        peer.push_as_offered(awaited, |capabilities| {
            Command::Mail(
                envelope.reverse_path(),
                Plan::mail_parameters(envelope, capabilities),
            )
        });
    }

    /// Says what can be said now of the current transaction.
    pub(crate) fn proceed(&mut self, peer: &mut Peer) -> Flow {
        let Some(transaction) = &self.transaction else {
            return Flow::Wait;
        };
        match transaction.step {
            Step::Envelope => {}
            Step::Stopped if !peer.pipeline.owes(self.id) => return Flow::Ended,
            _ => return Flow::Wait,
        }
        if transaction.failure.is_none() && !self.say_recipients(peer) {
            return Flow::Wait;
        }
        let Some(transaction) = &mut self.transaction else {
            return Flow::Wait;
        };
        let plan = transaction.plan;
        let settled = peer.pipeline.is_settled();
        let accepted = self.recipients.accepted();
        if settled
            && transaction.failure.is_none()
            && plan.proceed_on == ProceedOn::AllAccepted
            && accepted < self.recipients.asked()
        {
            transaction.failure = Some(Error::new(
                Stage::Rcpt,
                Outcome::NotAttempted,
                Cause::AllOrNothing,
            ));
        }
        if self.is_hopeless() {
            // Nobody is left to send to. What is still owed for the envelope is waited for.
            return if settled { Flow::Ended } else { Flow::Wait };
        }
        match plan.travel {
            Travel::Chunks => {
                let go = match plan.proceed_on {
                    ProceedOn::Nothing => true,
                    ProceedOn::OneAccepted => accepted > 0,
                    ProceedOn::AllAnswered | ProceedOn::AllAccepted => settled && accepted > 0,
                };
                if go { self.want_body(peer) } else { Flow::Wait }
            }
            Travel::Data => {
                let pipelining = peer.pipelines() && plan.proceed_on != ProceedOn::AllAccepted;
                if peer.pipeline.may_send(pipelining, "DATA\r\n".len()) {
                    peer.push(Command::Data, Awaited::Message(self.id, MessageReply::Data));
                    self.step(Step::Data);
                }
                Flow::Wait
            }
        }
    }

    /// Names the recipients, as far as there is room. Whether all of this transaction's are named.
    fn say_recipients(&mut self, peer: &mut Peer) -> bool {
        let pipelines = peer.pipelines();
        let domains = peer.capabilities.recipient_domains_max();
        while let Some(index) = self.recipients.peek() {
            let path = &self.envelope.forward_paths()[index as usize];
            let domain = path.domain().unwrap_or_default();
            if let Some(limit) = domains
                && !peer.usage.has_room(domain, limit)
            {
                self.recipients.exclude(plan::one_domain_more(limit));
                continue;
            }
            let mut octets = RCPT_OVERHEAD + path.as_str().len();
            let has_parameters = self.envelope.has_parameters();
            if has_parameters {
                let lengths = self
                    .envelope
                    .recipient_parameters(index as usize)
                    .map(|p| p.text().len() + 1);
                octets += lengths.sum::<usize>();
            }
            if !peer.pipeline.may_send(pipelines, octets) {
                return false;
            }
            if let Some(limit) = domains {
                peer.usage.name(domain, limit);
            }
            let envelope = &self.envelope;
            let awaited = Awaited::Message(self.id, MessageReply::Rcpt(index));
            peer.push_as_offered(awaited, |capabilities| {
                let parameters = has_parameters.then_some((envelope, index as usize, capabilities));
                Command::Rcpt(path, parameters)
            });
            self.recipients.ask();
        }
        true
    }

    fn step(&mut self, step: Step) {
        if let Some(transaction) = &mut self.transaction {
            transaction.step = step;
        }
    }

    fn want_body(&mut self, peer: &Peer) -> Flow {
        if let Some(transaction) = &mut self.transaction {
            let body = transaction.plan.body(&self.envelope, peer);
            transaction.step = Step::Body(Sending {
                body,
                complete: false,
                began_at: 0,
            });
        }
        Flow::BodyWanted
    }

    // The body.

    /// A chunk was taken to its end, which was begun when so many round trips were done.
    pub(crate) fn chunk_sent(&mut self, sent: Sent, trip: u64, peer: &mut Peer) {
        match sent.last {
            true => self.expect_end(trip, peer),
            false => peer
                .pipeline
                .await_reply(Awaited::Message(self.id, MessageReply::Chunk), trip),
        }
    }

    /// No more chunks are sent.
    pub(crate) fn stop(&mut self) {
        self.step(Step::Stopped);
    }

    /// The caller cannot give the rest of the body, or it must not be sent. What has ended is not touched.
    pub(crate) fn give_up(&mut self, error: Error) {
        if let Some(transaction) = &mut self.transaction
            && matches!(transaction.step, Step::Body(_))
        {
            transaction.failure.get_or_insert(error);
            transaction.step = Step::Stopped;
        }
    }

    /// The body is complete: its end is said, and the replies that decide are awaited. Returns the last chunk,
    /// where there is one that is still to go out.
    pub(crate) fn end_body(&mut self, peer: &mut Peer) -> Result<Option<Sent>, Error> {
        if self.has_ended() {
            self.step(Step::Ended(None));
            return Ok(None);
        }
        let Some(Transaction {
            step: Step::Body(sending),
            plan,
            ..
        }) = &mut self.transaction
        else {
            return Ok(None);
        };
        let chunked = plan.travel == Travel::Chunks;
        let end = sending.body.finish(peer.pipeline.output());
        let end = end.map_err(|error| Error::permanent(Stage::Body, error))?;
        if end.is_some() {
            let trip = peer.pipeline.round_trips();
            self.expect_end(trip, peer);
            self.step(Step::Ended(None));
        }
        Ok(end.filter(|_| chunked))
    }

    fn expect_end(&mut self, trip: u64, peer: &mut Peer) {
        if let Some(transaction) = &mut self.transaction
            && let Step::Body(sending) =
                core::mem::replace(&mut transaction.step, Step::Ended(None))
        {
            transaction.step = Step::Ended(Some(sending));
        }
        let reply = match peer.is_lmtp() {
            false => MessageReply::EndOfData,
            // RFC 2033 section 4.2: one reply for each RCPT that was accepted, in their order.
            true => match self.recipients.next_accepted(0) {
                Some(first) => MessageReply::EndOfDataFor(first),
                None => return,
            },
        };
        peer.pipeline
            .await_reply(Awaited::Message(self.id, reply), trip);
    }

    // Replies.

    /// A reply to one of this message's commands, never a 421 or a 221, of a class that can answer. An error means
    /// that the connection cannot be used any more.
    pub(crate) fn on_reply(
        &mut self,
        what: MessageReply,
        owed: Owed,
        reply: ReplyRef<'_>,
        peer: &mut Peer,
    ) -> Result<Flow, Error> {
        use MessageReply as M;
        use ReplyClass::{Intermediate, Success};
        let class = reply.class();
        if let (M::Rset { overlapping }, _) = (what, class) {
            // A server that cannot even reset is not given another message.
            return match class {
                Success => Ok(Flow::Wait),
                _ if overlapping => Err(self.overlap_refused(what, reply)),
                _ => Err(self.rejected(what, reply)),
            };
        }
        let hopeless = self.is_hopeless();
        let rejected = self.rejected(what, reply);
        let Some(transaction) = &mut self.transaction else {
            return Ok(Flow::Wait);
        };
        match (what, class) {
            (M::Mail { .. }, Success) => Ok(Flow::Wait),
            (M::Mail { overlapping: true }, _) if reply.code().get() == 503 => {
                Err(self.overlap_refused(what, reply))
            }
            (M::Mail { .. }, _) => {
                transaction.failure.get_or_insert(rejected);
                Ok(Flow::Wait)
            }
            (M::Rcpt(index), Success) => {
                self.recipients.accept(index);
                Ok(Flow::Wait)
            }
            // Without a sender, "503 need MAIL first" says nothing about the recipient.
            (M::Rcpt(_), _) if transaction.failure.is_some() => {
                self.recipients.pass();
                Ok(Flow::Wait)
            }
            (M::Rcpt(index), _) if transaction.unbegun.is_some() => {
                let error = transaction.unbegun.clone().unwrap_or(rejected);
                self.recipients.refuse(index, error);
                Ok(Flow::Wait)
            }
            (M::Rcpt(index), _) => {
                match self.may_defer(reply, peer) {
                    true => {
                        peer.usage.learn(self.recipients.accepted());
                        self.recipients.defer(index, rejected);
                    }
                    false => self.recipients.refuse(index, rejected),
                }
                Ok(Flow::Wait)
            }
            (M::Data, Intermediate) if !hopeless => Ok(self.want_body(peer)),
            // RFC 2033 section 4.2 lets an LMTP server answer a body for nobody with no reply at all: what would
            // come next is anyone's guess.
            (M::Data, Intermediate) if peer.is_lmtp() => Err(self.wrong_class(what, reply)),
            (M::Data, Intermediate) => {
                // rule: transaction.lone-dot
                // The server wants a body for nobody. An empty one ends this, and whatever it answers, nothing is
                // delivered (RFC 2920 section 3.1).
                transaction.step = Step::LoneDot;
                peer.push(Command::LoneDot, Awaited::Message(self.id, M::EndOfData));
                Ok(Flow::Wait)
            }
            (M::Data, _) => {
                if !hopeless {
                    transaction.failure = Some(rejected);
                }
                Ok(Flow::Ended)
            }
            (M::Chunk, Success) => Ok(Flow::Wait),
            (M::Chunk, _) => {
                // After a refused envelope, or a refused chunk, a refusal says nothing new.
                if !hopeless {
                    transaction.failure = Some(rejected);
                }
                Ok(Flow::Wait)
            }
            (M::EndOfData, Intermediate) if transaction.plan.prdr && !hopeless => {
                transaction.replies_for_each = true;
                let first = self
                    .recipients
                    .next_accepted(0)
                    .map_or(M::EndOfAll, M::EndOfDataFor);
                peer.pipeline
                    .await_next(Awaited::Message(self.id, first), owed);
                Ok(Flow::Wait)
            }
            (M::EndOfData, Intermediate) => Err(self.wrong_class(what, reply)),
            (M::EndOfData, _) if hopeless || matches!(transaction.step, Step::LoneDot) => {
                Ok(Flow::Ended)
            }
            (M::EndOfData | M::EndOfAll, Success) => {
                self.recipients.succeed(&reply.to_reply());
                Ok(Flow::Ended)
            }
            // Nobody has a message that was refused as a whole, whatever was said of some before.
            (M::EndOfData | M::EndOfAll, _) => {
                transaction.failure = Some(transaction.unbegun.clone().unwrap_or(rejected));
                Ok(Flow::Ended)
            }
            (M::EndOfDataFor(index), _) => {
                let failure = transaction.failure.clone();
                let prdr = transaction.replies_for_each;
                match (class, &failure) {
                    (_, Some(_)) => {}
                    (Success, None) if prdr => self.recipients.promise(index, reply.to_reply()),
                    (Success, None) => self.recipients.decide(index, Ok(reply.to_reply())),
                    (_, None) => self.recipients.decide(index, Err(rejected)),
                }
                let next = self
                    .recipients
                    .next_accepted(index + 1)
                    .map(M::EndOfDataFor);
                match (next.or(prdr.then_some(M::EndOfAll)), failure) {
                    (None, _) => Ok(Flow::Ended),
                    // A chunk was refused, or the sender. Whether an LMTP server answers the last chunk once then,
                    // or once for each recipient, is anyone's guess.
                    (Some(_), Some(failure)) if !prdr => Err(failure),
                    (Some(next), _) => {
                        peer.pipeline
                            .await_next(Awaited::Message(self.id, next), owed);
                        Ok(Flow::Wait)
                    }
                }
            }
            (M::Rset { .. }, _) => Ok(Flow::Wait),
        }
    }

    /// Whether this refusal says that the server takes no more recipients in this transaction, so that this one
    /// is left to the next (RFC 5321 section 4.5.3.1.10). Somebody must have been accepted, or the next
    /// transaction would fare no better.
    fn may_defer(&self, reply: ReplyRef<'_>, peer: &Peer) -> bool {
        // rule: limits.learnt
        let too_many = match reply.enhanced() {
            Some(code) => (code.subject, code.detail) == (5, 3),
            None => reply.code().get() == 452,
        };
        let may_split = plan::may_split(&self.envelope);
        too_many && peer.config.learn_limits && self.recipients.accepted() > 0 && may_split
    }

    /// The server does not take what overlaps: this message was not begun.
    fn overlap_refused(&mut self, what: MessageReply, reply: ReplyRef<'_>) -> Error {
        let error = self.rejected(what, reply);
        if let Some(transaction) = &mut self.transaction {
            transaction.unbegun = Some(error.not_attempted());
        }
        error
    }

    // The end of a transaction.

    /// The current transaction is over. Another one follows for the recipients that are left, unless the message
    /// [is over](Self::is_over).
    pub(crate) fn conclude(&mut self, peer: &mut Peer) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        // rule: transaction.rset-after-failure
        peer.may_hold_transaction |=
            transaction.failure.is_some() || self.recipients.accepted() == 0;
        match transaction.failure {
            Some(failure) => {
                self.refusals += 1;
                // The sender is refused, or what is said of the body holds for all of it.
                let of_message = matches!(failure.cause, Cause::Body(_) | Cause::Local(_));
                self.recipients.fail(|index| about(&failure, index));
                if self.refusals >= REFUSALS || failure.stage == Stage::Mail || of_message {
                    self.ended_by = Some(failure);
                }
            }
            None => self.refusals = 0,
        }
        self.recipients.close();
    }

    /// The connection has ended with this error: what became of the current transaction. Nothing more was begun
    /// because of `why`. `answered` is what the last words of the server were in answer to, where they were about
    /// this message.
    pub(crate) fn abort(
        &mut self,
        error: &Error,
        why: &Error,
        answered: Option<MessageReply>,
        peer: &Peer,
    ) {
        let unasked = why.not_attempted();
        self.ended_by.get_or_insert_with(|| unasked.clone());
        // What was answered for another message is not told to this one as its own.
        let is_front = peer
            .pipeline
            .front()
            .is_some_and(|what| what.message() == Some(self.id));
        let error = &match is_front {
            true => error.clone(),
            false => Error {
                command: None,
                recipient: None,
                ..error.clone()
            },
        };
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let pipeline = &peer.pipeline;
        let in_doubt = || Error {
            outcome: Outcome::InDoubt,
            ..error.clone()
        };
        let failure = match (&transaction.failure, &transaction.step) {
            (Some(failure), _) => failure.clone(),
            _ if !pipeline.has_begun(self.id) => unasked,
            // rule: ends.in-doubt
            // RFC 1047: between the end of the data and its reply, nobody knows. A 421 in place of the reply says
            // that the server did not take the message; under LMTP, that it did not for this recipient.
            (None, Step::Ended(_)) if pipeline.end_is_given(self.id) => match answered {
                None => in_doubt(),
                Some(MessageReply::EndOfDataFor(index)) if !transaction.replies_for_each => {
                    self.recipients.decide(index, Err(error.clone()));
                    in_doubt()
                }
                Some(_) if pipeline.has_unanswered_overlap(self.id) => unasked,
                Some(_) => error.clone(),
            },
            _ if pipeline.has_unanswered_overlap(self.id) => unasked,
            _ => transaction.unbegun.clone().unwrap_or_else(|| error.clone()),
        };
        self.recipients.fail(|index| about(&failure, index));
        self.transaction = None;
    }

    /// What became of each recipient.
    pub(crate) fn into_report(self) -> Report {
        let ended_by = self.ended_by;
        let unnamed = || match &ended_by {
            Some(error) => error.not_attempted(),
            None => Error::new(Stage::Rcpt, Outcome::NotAttempted, Cause::Disconnected),
        };
        Report {
            recipients: self.recipients.into_results(unnamed),
        }
    }

    // Errors.

    fn rejected(&self, what: MessageReply, reply: ReplyRef<'_>) -> Error {
        self.about(
            what,
            Error::rejected(Awaited::Message(self.id, what).stage(), reply.to_reply()),
        )
    }

    pub(crate) fn wrong_class(&self, what: MessageReply, reply: ReplyRef<'_>) -> Error {
        let error = ProtocolError::WrongClass(reply.to_reply());
        self.about(
            what,
            Error::transient(Awaited::Message(self.id, what).stage(), error),
        )
    }

    /// The error with the command, and the recipient, that it is about.
    pub(crate) fn about(&self, what: MessageReply, mut error: Error) -> Error {
        use MessageReply as M;
        let path = |index: u32| self.envelope.forward_paths().get(index as usize);
        let command = match what {
            M::Rset { .. } => Some(Command::Rset),
            M::Mail { .. } => Some(Command::Mail(
                self.envelope.reverse_path(),
                MailParameters::default(),
            )),
            M::Rcpt(index) | M::EndOfDataFor(index) => {
                path(index).map(|path| Command::Rcpt(path, None))
            }
            M::Data => Some(Command::Data),
            M::Chunk | M::EndOfData | M::EndOfAll => None,
        };
        if let M::Rcpt(index) | M::EndOfDataFor(index) = what {
            error.recipient = Some(index as usize);
        }
        error.command = command.map(|command| command.redacted().into());
        error
    }
}

/// A transaction's failure, as it is told to this recipient: what was answered for another one is not told as its
/// own.
fn about(failure: &Error, index: usize) -> Error {
    match failure.recipient {
        Some(other) if other != index => Error {
            recipient: None,
            command: None,
            ..failure.clone()
        },
        _ => failure.clone(),
    }
}
