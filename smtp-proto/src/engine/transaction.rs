//! A mail transaction: what each reply to it leads to, and how it ends.
//!
//! ```text
//! Envelope ──DATA──▶ Data ──354──▶ Body ──dot──▶ Ended          354 for nobody: Data ──▶ LoneDot
//!     └──────────chunks─────────▶ Body ──last─▶ Ended          no more chunks: Body ──▶ Stopped
//! ```
//!
//! A failure ends with its transaction. It counts only for the recipients that this transaction has named. The others
//! are named in the next one, or they are *not attempted*.

use crate::command::{Command, MailParameters};
use crate::error::{Cause, Error, Outcome, ProtocolError, Stage};
use crate::event::Report;
use crate::reply::{ReplyClass, ReplyRef};

use super::awaited::{Awaited, MessageReply};
use super::message::{Flow, Message, Step};
use super::peer::Peer;
use super::pipeline::Owed;
use super::plan::{self, Travel};

/// After this many refusals of the whole message in a row, its other recipients are not tried.
const REFUSALS: u8 = 2;

impl Message {
    /// A reply to one of this message's commands, of a class that can answer. It is never a 421 or a 221. An error
    /// means that the connection is lost.
    pub(crate) fn on_reply(
        &mut self,
        what: MessageReply,
        owed: Owed,
        reply: ReplyRef<'_>,
        peer: &mut Peer,
    ) -> Result<Flow, Error> {
        use MessageReply as M;
        use ReplyClass::{Intermediate, Success};
        let is_rset = matches!(what, M::Rset { .. });
        match reply.class() {
            Success if is_rset => Ok(Flow::Wait),
            // A server that cannot even reset gets no other message.
            // rule: transaction.rset-refused
            // rule: chunking.502
            _ if is_rset => {
                let error = self.rejected(what, reply, peer);
                Err(self.not_begun(error))
            }
            Success | Intermediate => self.on_acceptance(what, owed, reply, peer),
            _ => {
                let error = self.rejected(what, reply, peer);
                self.on_refusal(what, owed, reply, error, peer)
            }
        }
    }

    /// 2yz or 3yz.
    fn on_acceptance(
        &mut self,
        what: MessageReply,
        owed: Owed,
        reply: ReplyRef<'_>,
        peer: &mut Peer,
    ) -> Result<Flow, Error> {
        use MessageReply as M;
        use ReplyClass::{Intermediate, Success};
        let hopeless = self.is_hopeless();
        let Some(transaction) = &mut self.transaction else {
            return Ok(Flow::Wait);
        };
        match (what, reply.class()) {
            // rule: transaction.251-252
            (M::Rcpt(index), _) => {
                self.recipients.accept(index);
                Ok(Flow::Wait)
            }
            (M::Data, Intermediate) if !hopeless => Ok(self.want_body(peer)),
            // RFC 2033 section 4.2 lets an LMTP server send no reply at all to a body for nobody. The next reply
            // would be ambiguous.
            // rule: lmtp.data-for-nobody
            (M::Data, Intermediate) if peer.is_lmtp() => Err(self.wrong_class(what, reply)),
            (M::Data, Intermediate) => {
                // The server wants a body for nobody. An empty body ends the transaction. Nothing is delivered,
                // whatever the server answers (RFC 2920 section 3.1).
                // rule: transaction.mail-refused-354
                // rule: transaction.all-refused-354
                transaction.step = Step::LoneDot;
                peer.push(Command::LoneDot, Awaited::Message(self.id, M::EndOfData));
                Ok(Flow::Wait)
            }
            // rule: prdr.replies-per-recipient
            (M::EndOfData, Intermediate) if transaction.plan.prdr && !hopeless => {
                transaction.replies_for_each = true;
                let first = self.recipients.next_accepted(0);
                let first = first.map_or(M::EndOfAll, M::EndOfDataFor);
                peer.pipeline
                    .await_next(Awaited::Message(self.id, first), owed);
                Ok(Flow::Wait)
            }
            // rule: prdr.unasked
            (M::EndOfData, Intermediate) => Err(self.wrong_class(what, reply)),
            (M::EndOfData, _) if hopeless || matches!(transaction.step, Step::LoneDot) => {
                // The server has refused MAIL, and says that it has the whole body all the same. It may hold an older
                // transaction. After a refused chunk, what it has is not the message.
                if let (Some(failure), Step::Ended { .. }) =
                    (&transaction.failure, &transaction.step)
                    && failure.stage == Stage::Mail
                {
                    let (in_doubt, mut from) = (failure.in_doubt(), 0);
                    while let Some(index) = self.recipients.next_accepted(from) {
                        self.recipients.decide(index, Err(in_doubt.clone()));
                        from = index;
                    }
                }
                Ok(Flow::Ended)
            }
            // rule: prdr.one-reply-for-all
            // rule: ends.final-reply-decides
            (M::EndOfData | M::EndOfAll, Success) => {
                let reply = self.kept.keep(reply, &peer.config.limits);
                self.recipients.succeed(&reply);
                Ok(Flow::Ended)
            }
            (M::EndOfDataFor(index), _) => {
                if transaction.failure.is_none() {
                    let promised = transaction.replies_for_each;
                    let reply = self.kept.keep(reply, &peer.config.limits);
                    match promised {
                        true => self.recipients.promise(index, reply),
                        false => self.recipients.decide(index, Ok(reply)),
                    }
                }
                self.after_one(index, owed, peer)
            }
            // MAIL, RSET, a chunk.
            _ => Ok(Flow::Wait),
        }
    }

    /// 4yz or 5yz, and the error for it.
    fn on_refusal(
        &mut self,
        what: MessageReply,
        owed: Owed,
        reply: ReplyRef<'_>,
        error: Error,
        peer: &mut Peer,
    ) -> Result<Flow, Error> {
        use MessageReply as M;
        let hopeless = self.is_hopeless();
        let Some(transaction) = &mut self.transaction else {
            return Ok(Flow::Wait);
        };
        // What the server says of a message that was not begun is not about it.
        let has_begun = transaction.unbegun.is_none();
        let error = transaction.unbegun.clone().unwrap_or(error);
        match what {
            // rule: transaction.overlap-broken
            M::Mail { overlapping: true } if reply.code().get() == 503 => {
                Err(self.not_begun(error))
            }
            // A reply tells more than the fact that the caller could not give the body.
            M::Mail { .. } => {
                transaction.failure = Some(error);
                Ok(Flow::Wait)
            }
            // Without a sender, "503 need MAIL first" is not about the recipient.
            // rule: transaction.mail-refused
            M::Rcpt(_)
                if (transaction.failure.as_ref())
                    .is_some_and(|failure| failure.stage == Stage::Mail) =>
            {
                self.recipients.pass();
                Ok(Flow::Wait)
            }
            M::Rcpt(index) => {
                match has_begun && self.may_defer(reply, peer) {
                    true => {
                        // rule: limits.learnt
                        peer.usage.learn(self.recipients.accepted());
                        self.recipients.defer(index, error);
                    }
                    // rule: transaction.some-refused
                    false => self.recipients.refuse(index, error),
                }
                Ok(Flow::Wait)
            }
            M::Data => {
                if !hopeless {
                    transaction.failure = Some(error);
                }
                Ok(Flow::Ended)
            }
            // rule: chunking.refused-in-the-middle
            M::Chunk(_) => {
                // After a refused envelope or chunk, another refusal adds nothing.
                if !hopeless {
                    transaction.failure = Some(error);
                }
                Ok(Flow::Wait)
            }
            M::EndOfData if hopeless || matches!(transaction.step, Step::LoneDot) => {
                Ok(Flow::Ended)
            }
            // If the message is refused as a whole, nobody gets it, even with an earlier 2yz.
            // rule: transaction.refused-after-the-body
            // rule: prdr.final-refusal
            M::EndOfData | M::EndOfAll => {
                transaction.failure = Some(error);
                Ok(Flow::Ended)
            }
            M::EndOfDataFor(index) => {
                if transaction.failure.is_none() {
                    // rule: lmtp.refused-after-the-data
                    self.recipients.decide(index, Err(error));
                }
                self.after_one(index, owed, peer)
            }
            M::Rset { .. } => Ok(Flow::Wait),
        }
    }

    /// One of several replies to the end of the data has come. Awaits the next one, if there is one.
    fn after_one(&mut self, index: u32, owed: Owed, peer: &mut Peer) -> Result<Flow, Error> {
        let Some(transaction) = &self.transaction else {
            return Ok(Flow::Wait);
        };
        let prdr = transaction.replies_for_each;
        let next = self.recipients.next_accepted(index + 1);
        let next = next.map(MessageReply::EndOfDataFor);
        match (
            next.or(prdr.then_some(MessageReply::EndOfAll)),
            &transaction.failure,
        ) {
            (None, _) => Ok(Flow::Ended),
            // A chunk or the sender was refused. LMTP servers then answer the last chunk once, or once for each
            // recipient: the client cannot know. Under PRDR, 353 would have been of the wrong class.
            // rule: lmtp.bdat-chunk-refused
            (Some(_), Some(failure)) => Err(failure.clone()),
            (Some(next), None) => {
                peer.pipeline
                    .await_next(Awaited::Message(self.id, next), owed);
                Ok(Flow::Wait)
            }
        }
    }

    /// Whether the server takes no more recipients in this transaction (RFC 5321 section 4.5.3.1.10). This one is
    /// then left to the next transaction. At least one must have been accepted, or the next transaction would fail
    /// too.
    fn may_defer(&self, reply: ReplyRef<'_>, peer: &Peer) -> bool {
        let too_many = match reply.enhanced() {
            // rule: limits.452-of-another-meaning
            Some(code) => (code.subject, code.detail) == (5, 3),
            None => reply.code().get() == 452,
        };
        let may_split = plan::may_split(&self.envelope);
        // rule: limits.not-learnt
        too_many && peer.config.learn_limits && self.recipients.accepted() > 0 && may_split
    }

    /// The server has refused RSET, or commands that overlap. So this message was not attempted, although MAIL may have
    /// followed.
    fn not_begun(&mut self, error: Error) -> Error {
        if let Some(transaction) = &mut self.transaction {
            transaction.unbegun = Some(error.not_attempted());
        }
        error
    }

    // The end of a transaction.

    /// Ends the current transaction. Another one follows for the recipients that are left, unless the message [is
    /// over](Self::is_over).
    pub(crate) fn conclude(&mut self, peer: &mut Peer) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        // LMTP refuses the last chunk by a reply for each recipient.
        let refused_for_each =
            transaction.plan.travel == Travel::Chunks && self.recipients.none_taken();
        // rule: transaction.data-refused
        // rule: chunking.last-refused
        peer.may_hold_transaction |=
            transaction.failure.is_some() || self.recipients.accepted() == 0 || refused_for_each;
        match transaction.failure {
            Some(failure) => {
                self.refusals += 1;
                // MAIL was refused, or the error is about the body. Then it holds for all recipients.
                let of_message = matches!(failure.cause, Cause::Body(_) | Cause::Local(_));
                self.recipients.fail(|index| about(&failure, index));
                // rule: limits.failure-in-a-part
                if self.refusals >= REFUSALS || failure.stage == Stage::Mail || of_message {
                    self.ended_by = Some(failure);
                }
            }
            None => self.refusals = 0,
        }
    }

    /// The connection has ended with this error, which decides the current transaction. `why` is the reason that
    /// nothing else was begun. `answered` is the command that the server's last reply answered, if it was about this
    /// message.
    pub(crate) fn abort(
        &mut self,
        error: &Error,
        why: &Error,
        answered: Option<MessageReply>,
        peer: &Peer,
    ) {
        let unasked = why.not_attempted();
        // rule: ends.lost-before-mail
        self.ended_by.get_or_insert_with(|| unasked.clone());
        // A reply to another message is not the reason for this one's failure.
        let is_own = match peer.pipeline.front() {
            Some(what) => what.message() == Some(self.id),
            None => self.sending().is_some(),
        };
        let error = &match is_own {
            true => error.clone(),
            false => Error {
                command: None,
                recipient: None,
                ..error.clone()
            },
        };
        // rule: limits.lost-in-a-part
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let pipeline = &peer.pipeline;
        let in_doubt = || error.in_doubt();
        let failure = match (&transaction.failure, &transaction.step) {
            (Some(failure), _) => failure.clone(),
            // rule: transaction.421-between-messages
            _ if !pipeline.has_begun(self.id) => unasked,
            // RFC 1047: between the end of the data and its reply, nobody knows the result. A 421 instead of the
            // reply means that the server did not take the message. Under LMTP it means that for this recipient only.
            // rule: chunking.eager-lost
            (None, Step::Ended { .. }) if pipeline.end_is_given(self.id) => match answered {
                // rule: ends.lost-after-the-dot
                // rule: ends.timeout-at-the-dot
                // rule: ends.garbage-at-the-dot
                // rule: prdr.lost-in-the-block
                None => in_doubt(),
                Some(MessageReply::EndOfDataFor(index)) if !transaction.replies_for_each => {
                    // rule: lmtp.lost-between-replies
                    self.recipients.decide(index, Err(error.clone()));
                    in_doubt()
                }
                Some(_) if pipeline.has_unanswered_start(self.id) => unasked,
                // rule: transaction.421-to-the-dot
                Some(_) => error.clone(),
            },
            _ if pipeline.has_unanswered_start(self.id) => unasked,
            // rule: ends.lost-in-the-envelope
            // rule: ends.lost-before-the-dot
            // rule: chunking.lost
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
        let results = self.recipients.into_results(unnamed);
        Report::of(self.envelope.into_mailboxes(), results)
    }

    // Errors.

    fn rejected(&mut self, what: MessageReply, reply: ReplyRef<'_>, peer: &Peer) -> Error {
        let reply = self.kept.keep(reply, &peer.config.limits);
        self.about(
            what,
            Error::rejected(Awaited::Message(self.id, what).stage(), reply),
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
            M::Chunk(octets) => Some(Command::Bdat {
                octets: octets.into(),
                last: false,
            }),
            M::EndOfData | M::EndOfAll => {
                (self.octets_of_chunk(what)).map(|octets| Command::Bdat { octets, last: true })
            }
        };
        if let M::Rcpt(index) | M::EndOfDataFor(index) = what {
            error.recipient = Some(index as usize);
        }
        error.command = command.map(|command| command.redacted().into());
        error
    }
}

/// A transaction's failure, as this recipient sees it: without a reply that answered another recipient.
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
