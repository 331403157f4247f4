//! A message, over all its mail transactions (RFC 5321 section 3.3): its state, and what is sent of it.

use crate::chunk::{Body, Sent};
use crate::command::Command;
use crate::envelope::Envelope;
use crate::error::{Cause, Error, Outcome, Stage};
use crate::event::{Failure, MessageId};

use super::awaited::{Awaited, MessageReply};
use super::kept::Kept;
use super::peer::Peer;
use super::plan::{self, Plan, ProceedOn, Travel};
use super::recipients::Recipients;

/// An estimate of the octets of RCPT around its address, for the limit in flight.
const RCPT_OVERHEAD: usize = "RCPT TO:<>\r\n".len();

/// The same for MAIL with its parameters, and for the RSET before it.
const MAIL_OVERHEAD: usize =
    "RSET\r\nMAIL FROM:<> SIZE=18446744073709551615 BODY=BINARYMIME SMTPUTF8\r\n".len();

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
    /// The caller was told that it is wanted. Calls before that are not about this body.
    pub(crate) announced: bool,
    /// The caller has declared its end. The last chunk may still wait for its turn.
    pub(crate) complete: bool,
    /// The number of round trips when the last chunk was begun.
    pub(crate) began_at: u64,
}

pub(super) enum Step {
    /// MAIL was sent, and RCPTs follow.
    Envelope,
    /// DATA was sent.
    Data,
    /// The body is on its way.
    Body(Sending),
    /// No more chunks are sent, and replies are owed. A chunk was refused, nobody is left to send to, or the caller
    /// cannot give the body.
    Stopped,
    /// The end of the body was sent, in a chunk of this many octets. The caller may still have to declare the end.
    Ended {
        sending: Option<Sending>,
        chunk: Option<u64>,
    },
    /// A lone dot was sent, which ends an empty body. All recipients were refused, but DATA was answered 354.
    LoneDot,
}

pub(super) struct Transaction {
    pub(super) plan: Plan,
    pub(super) step: Step,
    /// PRDR: the 353 has come.
    pub(super) replies_for_each: bool,
    /// Why it has failed.
    pub(super) failure: Option<Error>,
    /// MAIL overlapped and was refused, or the RSET before it was. So the message was not attempted. But the server may
    /// still accept the rest.
    pub(super) unbegun: Option<Error>,
}

pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(super) envelope: Envelope,
    pub(super) recipients: Recipients,
    /// `None` before the first transaction, and between two.
    pub(super) transaction: Option<Transaction>,
    /// How often in a row the server has refused it as a whole.
    pub(super) refusals: u8,
    pub(super) kept: Kept,
    /// It cannot overlap, because this server may not get it.
    is_withheld: bool,
    /// Why no more recipients are named.
    pub(super) ended_by: Option<Error>,
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
            kept: Kept::default(),
            is_withheld: false,
            ended_by: None,
        }
    }

    /// The recipients that have their own error so far.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Failure<'_>> {
        let mailboxes = self.envelope.mailboxes();
        self.recipients
            .refused()
            .map(move |(index, error)| Failure {
                index,
                mailbox: &mailboxes[index],
                error,
            })
    }

    /// Whether one of its transactions is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.transaction.is_some()
    }

    /// Whether all its recipients are decided.
    pub(crate) fn is_over(&self) -> bool {
        self.transaction.is_none() && (self.recipients.left() == 0 || self.ended_by.is_some())
    }

    /// Whether the end of its data was sent, and no transaction for other recipients can follow.
    pub(crate) fn has_ended_for_all(&self, learns_limits: bool) -> bool {
        let may_defer = learns_limits && plan::may_split(&self.envelope);
        self.has_ended() && !self.recipients.may_have_another(may_defer)
    }

    fn has_ended(&self) -> bool {
        matches!(
            &self.transaction,
            Some(Transaction {
                step: Step::Ended { .. },
                ..
            })
        )
    }

    pub(crate) fn sending(&self) -> Option<&Sending> {
        match &self.transaction {
            Some(Transaction {
                step:
                    Step::Body(sending)
                    | Step::Ended {
                        sending: Some(sending),
                        ..
                    },
                ..
            }) => Some(sending),
            _ => None,
        }
    }

    pub(crate) fn sending_mut(&mut self) -> Option<&mut Sending> {
        match &mut self.transaction {
            Some(Transaction {
                step:
                    Step::Body(sending)
                    | Step::Ended {
                        sending: Some(sending),
                        ..
                    },
                ..
            }) => Some(sending),
            _ => None,
        }
    }

    /// Whether its current transaction can no longer succeed.
    pub(crate) fn is_hopeless(&self) -> bool {
        let Some(transaction) = &self.transaction else {
            return false;
        };
        transaction.failure.is_some()
            // rule: transaction.all-refused
            || self.recipients.none_accepted()
    }

    /// Why its transaction is hopeless.
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

    // What is sent of the envelope.

    /// What this server gets of it, or why it gets nothing.
    pub(crate) fn plan(&mut self, peer: &Peer) -> Result<Plan, Error> {
        Plan::new(&mut self.envelope, &self.recipients, peer)
    }

    /// This server does not get it, or not the rest of it. The transaction that would name the next recipients does
    /// not come.
    pub(crate) fn withhold(&mut self, error: Error) {
        match self.recipients.left() == self.recipients.len() {
            true => {
                self.recipients.begin(usize::MAX);
                while self.recipients.peek().is_some() {
                    self.recipients.exclude(error.clone());
                }
            }
            // Earlier transactions had other recipients, and this error is not about them.
            false => self.ended_by = Some(error),
        }
    }

    /// Sends MAIL, with nothing of another message before it.
    pub(crate) fn begin(&mut self, plan: Plan, peer: &mut Peer) {
        self.say_mail(plan, false, peer);
    }

    /// Sends MAIL in one batch with the end of other messages' data, if there is room for it.
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
        // A message that this server cannot get is reported in its turn, and is not planned again.
        if self.is_withheld {
            return false;
        }
        let Ok(plan) = self.plan(peer) else {
            self.is_withheld = true;
            return false;
        };
        // The replies to the chunks before are not known. A refused chunk leaves its transaction in a state that only
        // RSET clears (RFC 3030 section 2).
        // rule: chunking.overlap
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

    /// Sends what the current transaction allows now.
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
            // rule: transaction.all-or-nothing
            transaction.failure = Some(Error::new(
                Stage::Rcpt,
                Outcome::NotAttempted,
                Cause::AllOrNothing,
            ));
        }
        // rule: chunking.all-refused
        if self.is_hopeless() {
            // Nobody is left to send to. First, the replies to the envelope must come.
            return if settled { Flow::Ended } else { Flow::Wait };
        }
        match plan.travel {
            Travel::Chunks => {
                let go = match plan.proceed_on {
                    ProceedOn::Nothing => true,
                    // rule: chunking.first-accepted-is-enough
                    ProceedOn::OneAccepted => accepted > 0,
                    // If all had been refused, the transaction would have ended above.
                    // rule: chunking.all-or-nothing
                    ProceedOn::AllAnswered | ProceedOn::AllAccepted => settled,
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

    /// Names as many recipients as there is room for. Returns whether all of this transaction are named.
    fn say_recipients(&mut self, peer: &mut Peer) -> bool {
        let pipelines = peer.pipelines();
        let domains = self
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.plan.domains);
        while let Some(index) = self.recipients.peek() {
            let path = &self.envelope.forward_paths()[index as usize];
            // rule: limits.rcptdomainmax
            if let Some(limit) = domains
                && !peer
                    .usage
                    .has_room(path.domain().unwrap_or_default(), limit)
            {
                self.recipients.exclude(plan::one_domain_more(limit));
                continue;
            }
            let mut octets = RCPT_OVERHEAD + path.as_str().len();
            let has_parameters = self.envelope.has_parameters();
            // rule: parameters.in-flight-limit
            if has_parameters {
                let lengths = self
                    .envelope
                    .recipient_parameters(index as usize)
                    .map(|p| p.text().len() + 1);
                octets += lengths.sum::<usize>();
            }
            // rule: transaction.pipelined
            if !peer.pipeline.may_send(pipelines, octets) {
                return false;
            }
            if let Some(limit) = domains {
                peer.usage.name(path.domain().unwrap_or_default(), limit);
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

    pub(super) fn want_body(&mut self, peer: &Peer) -> Flow {
        if let Some(transaction) = &mut self.transaction {
            let body = transaction.plan.body(&self.envelope, peer);
            transaction.step = Step::Body(Sending {
                body,
                announced: false,
                complete: false,
                began_at: 0,
            });
        }
        Flow::BodyWanted
    }

    // What is sent of the body.

    /// The size of the chunk that `what` answers. `None` if it answers DATA's body.
    pub(crate) fn octets_of_chunk(&self, what: MessageReply) -> Option<u64> {
        match (what, &self.transaction) {
            (MessageReply::Chunk(octets), _) => Some(octets.into()),
            (
                _,
                Some(Transaction {
                    step: Step::Ended { chunk, .. },
                    ..
                }),
            ) => *chunk,
            _ => None,
        }
    }

    /// A chunk has been taken to its end. `trip` is the number of round trips when it was begun.
    pub(crate) fn chunk_sent(&mut self, sent: Sent, trip: u64, peer: &mut Peer) {
        match sent.last {
            true => self.expect_end(Some(sent.octets), trip, peer),
            false => {
                // A chunk never exceeds 32 bits.
                let octets = u32::try_from(sent.octets).unwrap_or(u32::MAX);
                let reply = MessageReply::Chunk(octets);
                peer.pipeline
                    .await_reply(Awaited::Message(self.id, reply), trip);
            }
        }
    }

    /// Sends no more chunks.
    pub(crate) fn stop(&mut self) {
        self.step(Step::Stopped);
    }

    /// The caller cannot give the rest of the body, or it must not be sent. A body that has ended stays as it is.
    pub(crate) fn give_up(&mut self, error: Error) {
        if let Some(transaction) = &mut self.transaction
            && matches!(transaction.step, Step::Body(_))
        {
            transaction.failure.get_or_insert(error);
            transaction.step = Step::Stopped;
        }
    }

    /// The body is complete: sends its end, and awaits the replies that decide. Returns the last chunk, if it goes
    /// out only now.
    pub(crate) fn end_body(&mut self, peer: &mut Peer) -> Result<Option<Sent>, Error> {
        let mut chunk = None;
        if let Some(Transaction {
            step: Step::Body(sending),
            plan,
            ..
        }) = &mut self.transaction
        {
            let chunked = plan.travel == Travel::Chunks;
            let end = sending.body.finish(peer.pipeline.output());
            let end = end.map_err(|error| Error::permanent(Stage::Body, error))?;
            chunk = end.filter(|_| chunked);
            let trip = peer.pipeline.round_trips();
            self.expect_end(chunk.map(|sent| sent.octets), trip, peer);
        }
        if let Some(Transaction {
            step: Step::Ended { sending, .. },
            ..
        }) = &mut self.transaction
        {
            *sending = None;
        }
        Ok(chunk)
    }

    /// The end of the body was sent, in this chunk.
    fn expect_end(&mut self, chunk: Option<u64>, trip: u64, peer: &mut Peer) {
        if let Some(transaction) = &mut self.transaction {
            let sending = match core::mem::replace(&mut transaction.step, Step::Stopped) {
                Step::Body(sending) => Some(sending),
                _ => None,
            };
            transaction.step = Step::Ended { sending, chunk };
        }
        let reply = match peer.is_lmtp() {
            false => MessageReply::EndOfData,
            // RFC 2033 section 4.2: one reply for each RCPT that was accepted, in their order.
            // rule: lmtp.replies-per-recipient
            true => match self.recipients.next_accepted(0) {
                Some(first) => MessageReply::EndOfDataFor(first),
                None => return,
            },
        };
        peer.pipeline
            .await_reply(Awaited::Message(self.id, reply), trip);
    }
}
