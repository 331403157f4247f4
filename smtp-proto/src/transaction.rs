//! One message: MAIL, RCPT for each recipient, DATA or BDAT, the body, its end, and what became of each
//! recipient. It is one mail transaction, or several one after another where the server takes fewer
//! recipients at a time.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::body::BodyEncoder;
use crate::capability::{Capabilities, Extension};
use crate::chunk::{Body, Sent};
use crate::command::{Command, MailParameters};
use crate::config::{Chunking, Protocol};
use crate::envelope::{BodyType, Envelope};
use crate::error::{Cause, Error, Outcome, ProtocolError, Stage};
use crate::event::{MessageId, Report};
use crate::parameter::Need;
use crate::pipeline::{Context, Expect};
use crate::reply::{Reply, ReplyClass, ReplyRef};
use crate::time::Instant;

/// A guess at the octets of a RCPT command around its address, for the limit in flight.
const RCPT_OVERHEAD: usize = "RCPT TO:<>\r\n".len();

/// The same for MAIL with its parameters, and the RSET before it.
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
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing was sent.
    Queued,
    /// RSET is out, because the transaction before failed.
    Reset,
    /// MAIL is out, and RCPTs follow.
    Envelope,
    /// DATA is out.
    Data,
    /// The body is on its way.
    Body,
    /// No more chunks are sent, because one was refused or nobody is left to send to; replies are owed.
    Stopped,
    /// The end of the body is out.
    End,
    /// The dot is out that ends a body which was never sent: no recipient was accepted, and DATA was
    /// answered 354 all the same.
    LoneDot,
}

/// Replies for each recipient after the data, as Exim gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prdr {
    /// Not asked for, or not offered.
    No,
    /// Asked for in MAIL.
    Asked,
    /// 353 was said, and they are coming.
    Coming,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) id: MessageId,
    envelope: Envelope,
    step: Step,
    /// What is decided about each recipient. Undecided, it is one that was accepted, as far as RCPT has
    /// been answered.
    results: Vec<Option<Result<Reply, Error>>>,
    /// The recipients of this transaction: these positions of `order`, which is that of the envelope where
    /// there is none.
    part: core::ops::Range<usize>,
    order: Option<Vec<u32>>,
    /// Recipients of this transaction that are left to the next one.
    deferred: Vec<u32>,
    /// RCPTs sent, answered, and answered with 2yz.
    sent: usize,
    answered: usize,
    accepted: usize,
    /// MAIL went out behind the end of the data of the message before, and has not been answered.
    overlaps: bool,
    /// The body goes out by BDAT.
    chunks: bool,
    prdr: Prdr,
    /// What went wrong for every recipient that has no error of its own.
    failure: Option<Error>,
}

impl Transaction {
    pub(crate) fn new(id: MessageId, envelope: Envelope) -> Self {
        let mut results = Vec::new();
        results.resize_with(envelope.forward_paths().len(), || None);
        Self {
            id,
            part: 0..results.len(),
            envelope,
            step: Step::Queued,
            results,
            order: None,
            deferred: Vec::new(),
            sent: 0,
            answered: 0,
            accepted: 0,
            overlaps: false,
            chunks: false,
            prdr: Prdr::No,
            failure: None,
        }
    }

    /// The recipients that have an error of their own by now.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.results
            .iter()
            .enumerate()
            .filter_map(|(index, result)| match result {
                Some(Err(error)) => Some((index, error)),
                _ => None,
            })
    }

    /// Whether the server may still hold a transaction that came to nothing, so that the next one must
    /// begin with RSET: one server takes new recipients under the old sender otherwise.
    pub(crate) fn needs_reset(&self) -> bool {
        self.step != Step::Queued && (self.failure.is_some() || self.accepted == 0)
    }

    /// Whether its end of data is out.
    pub(crate) fn has_ended(&self) -> bool {
        self.step == Step::End
    }

    /// Whether its end of data is out, and no other transaction with the rest of its recipients can follow.
    pub(crate) fn has_ended_for_all(&self, learns_limits: bool) -> bool {
        let may_defer = learns_limits && self.may_split() && self.answered < self.part.len();
        self.has_ended() && self.part.end == self.places() && self.deferred.is_empty() && !may_defer
    }

    fn may_split(&self) -> bool {
        self.envelope.is_reopenable() && !self.envelope.is_all_or_nothing()
    }

    /// Whether it can come to nothing good any more.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.failure.is_some() || (self.answered == self.part.len() && self.accepted == 0)
    }

    /// Why that is so.
    pub(crate) fn why_hopeless(&self) -> Option<Error> {
        self.failure
            .clone()
            .or_else(|| self.refused().next().map(|(_, error)| error.clone()))
    }

    /// The recipient at this place of the order.
    fn recipient(&self, place: usize) -> usize {
        self.order
            .as_ref()
            .and_then(|order| order.get(place))
            .map_or(place, |&index| index as usize)
    }

    /// How many places the order has.
    fn places(&self) -> usize {
        self.order.as_ref().map_or(self.results.len(), Vec::len)
    }

    /// The recipients of this transaction that are accepted, as far as is known, and undecided.
    fn undecided(&self) -> impl Iterator<Item = u32> {
        let recipients = self.part.clone().map(|place| self.recipient(place) as u32);
        recipients.filter(|index| {
            self.results[*index as usize].is_none() && !self.deferred.contains(index)
        })
    }

    /// Sends what can be sent now, of the first message.
    pub(crate) fn proceed(&mut self, reset_first: bool, cx: &mut Context<'_>) -> Flow {
        if self.step == Step::Queued {
            if !cx.pipeline.is_settled() {
                return Flow::Wait;
            }
            if let Err(error) = self.prepare(cx) {
                self.failure = Some(error);
                return Flow::Finished;
            }
            if reset_first {
                self.step = Step::Reset;
                cx.pipeline.push(Command::Rset, Expect::Rset, Some(self.id));
                return Flow::Wait;
            }
            self.say_mail(Expect::Mail, cx);
        }
        self.proceed_envelope(cx)
    }

    /// Sends what can be sent now, of a message behind others whose ends of data are out.
    pub(crate) fn proceed_overlapping(&mut self, cx: &mut Context<'_>) -> Flow {
        if self.step == Step::Queued {
            // One that this server cannot be given is reported in its turn.
            let parameters = self
                .envelope
                .mail_parameters()
                .iter()
                .map(|p| p.text().len() + 1);
            let octets = MAIL_OVERHEAD
                + self.envelope.reverse_path().as_str().len()
                + parameters.sum::<usize>();
            if !cx.pipelines() || !cx.pipeline.has_room(true, octets) || self.prepare(cx).is_err() {
                return Flow::Wait;
            }
            // What became of the chunks before is not known, and one that was refused leaves its transaction in
            // a state that only RSET clears (RFC 3030 section 2).
            if self.chunks {
                cx.pipeline
                    .push(Command::Rset, Expect::OverlappedRset, Some(self.id));
            }
            self.overlaps = true;
            self.say_mail(Expect::OverlappedMail, cx);
        }
        match self.proceed_envelope(cx) {
            // It cannot finish here: its replies come behind those to the first.
            Flow::Finished => Flow::Wait,
            flow => flow,
        }
    }

    fn say_mail(&mut self, what: Expect, cx: &mut Context<'_>) {
        self.step = Step::Envelope;
        cx.spent.transactions += 1;
        let asks = self
            .envelope
            .mail_parameters()
            .iter()
            .any(|p| p.is_per_recipient_replies());
        let prdr =
            asks && cx.capabilities.has(Extension::Prdr) && cx.config.protocol == Protocol::Smtp;
        self.prdr = if prdr { Prdr::Asked } else { Prdr::No };
        let parameters = self.mail_parameters(cx.capabilities);
        let command = Command::Mail(self.envelope.reverse_path(), parameters);
        cx.pipeline.push(command, what, Some(self.id));
    }

    fn proceed_envelope(&mut self, cx: &mut Context<'_>) -> Flow {
        match self.step {
            Step::Envelope => {}
            Step::Stopped if !cx.pipeline.owes(self.id) => return Flow::Finished,
            _ => return Flow::Wait,
        }
        let pipelines = cx.pipelines();
        while self.failure.is_none() && self.sent < self.part.len() {
            let index = self.recipient(self.part.start + self.sent);
            let path = &self.envelope.forward_paths()[index];
            let mut octets = RCPT_OVERHEAD + path.as_str().len();
            let mut parameters = None;
            if self.envelope.has_parameters() {
                let lengths = self
                    .envelope
                    .recipient_parameters(index)
                    .map(|p| p.text().len() + 1);
                octets += lengths.sum::<usize>();
                parameters = Some((&self.envelope, index, &*cx.capabilities));
            }
            if !cx.pipeline.has_room(pipelines, octets) {
                return Flow::Wait;
            }
            let command = Command::Rcpt(path, parameters);
            cx.pipeline
                .push(command, Expect::Rcpt(index as u32), Some(self.id));
            self.sent += 1;
        }
        let all_answered = cx.pipeline.is_settled();
        if all_answered
            && self.failure.is_none()
            && self.envelope.is_all_or_nothing()
            && self.accepted < self.part.len()
        {
            let cause = Cause::AllOrNothing;
            self.failure = Some(Error::new(Stage::Rcpt, Outcome::NotAttempted, cause));
        }
        if self.is_hopeless() {
            // Nobody left to send to. What is still owed for the envelope is waited for.
            return if all_answered {
                Flow::Finished
            } else {
                Flow::Wait
            };
        }
        if self.chunks {
            // Under LMTP the last chunk has a reply for each recipient that was accepted by then.
            let waits_for_all = !pipelines
                || self.envelope.is_all_or_nothing()
                || cx.config.protocol == Protocol::Lmtp;
            if self.is_eager(cx) || (self.accepted > 0 && (all_answered || !waits_for_all)) {
                self.step = Step::Body;
                return Flow::BodyWanted;
            }
            return Flow::Wait;
        }
        let pipelines = pipelines && !self.envelope.is_all_or_nothing();
        if cx.pipeline.has_room(pipelines, "DATA\r\n".len()) {
            self.step = Step::Data;
            cx.pipeline.push(Command::Data, Expect::Data, Some(self.id));
        }
        Flow::Wait
    }

    /// Whether chunks follow the envelope at once.
    fn is_eager(&self, cx: &Context<'_>) -> bool {
        self.chunks
            && cx.config.chunking == Chunking::Eager
            && cx.config.protocol == Protocol::Smtp
            && cx.pipelines()
            && !self.envelope.is_all_or_nothing()
    }

    /// Finds out which recipients this transaction is for and how the body is to travel, or why this server
    /// cannot be given this message.
    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.keep_to_domains(cx)?;
        self.part.end = self.part_end(cx)?;
        self.chunks = self
            .check(cx)
            .map_err(|cause| Error::permanent(Stage::Mail, cause))?;
        Ok(())
    }

    /// Leaves out the recipients in more domains than a session may have (RFC 9422 section 4.3): another session
    /// may have them.
    fn keep_to_domains(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Some(limit) = cx.capabilities.recipient_domains_max() else {
            return Ok(());
        };
        let places = self.part.start..self.places();
        let mut kept = Vec::new();
        for index in places.clone().map(|place| self.recipient(place)) {
            let domain = self.envelope.forward_paths()[index]
                .domain()
                .unwrap_or_default();
            if cx.spent.spend_domain(domain, limit) {
                kept.push(index as u32);
            }
        }
        if kept.len() == places.len() {
            return Ok(());
        }
        let cause = Cause::LimitExceeded {
            name: "RCPTDOMAINMAX",
            limit,
            value: limit + 1,
        };
        let error = Error::new(Stage::Mail, Outcome::NotAttempted, cause);
        if kept.is_empty() || self.envelope.is_all_or_nothing() {
            return Err(error);
        }
        for place in places {
            let index = self.recipient(place) as u32;
            if !kept.contains(&index) {
                self.decide(index, Err(error.clone()));
            }
        }
        self.part = 0..kept.len();
        self.order = Some(kept);
        Ok(())
    }

    /// How many recipients this transaction can have (RFC 9422 section 4.2): the place behind the last of them.
    fn part_end(&self, cx: &Context<'_>) -> Result<usize, Error> {
        let (start, places) = (self.part.start, self.places());
        let exceeded = |name, limit, value| Cause::LimitExceeded { name, limit, value };
        if let Some(limit) = cx.capabilities.mails_max()
            && cx.spent.transactions >= limit
        {
            let cause = exceeded("MAILMAX", limit, cx.spent.transactions + 1);
            return Err(Error::new(Stage::Mail, Outcome::NotAttempted, cause));
        }
        let may_split = self.may_split();
        let stated = cx.capabilities.recipients_max();
        let learnt = cx.spent.learnt.map(u64::from).filter(|_| may_split);
        let recipients = (places - start) as u64;
        match stated.into_iter().chain(learnt).min() {
            Some(limit) if recipients > limit && !may_split => Err(Error::permanent(
                Stage::Mail,
                exceeded("RCPTMAX", limit, recipients),
            )),
            Some(limit) if recipients > limit => Ok(start + limit as usize),
            _ => Ok(places),
        }
    }

    /// Whether the body goes out by BDAT, or why this server cannot be given this message. Nothing is said
    /// that the current EHLO reply does not offer.
    fn check(&mut self, cx: &Context<'_>) -> Result<bool, Cause> {
        let offered = |extension| cx.capabilities.has(extension);
        if let (Some(size), Some(limit)) =
            (self.envelope.declared_size(), cx.capabilities.size_limit())
            && size > limit
        {
            return Err(Cause::TooLarge { size, limit });
        }
        let chunks = match cx.config.chunking {
            Chunking::Never => false,
            Chunking::Always if !offered(Extension::Chunking) => {
                return Err(Cause::Unsupported(Extension::Chunking));
            }
            _ => offered(Extension::Chunking),
        };
        let needed = match self.envelope.body_type() {
            BodyType::EightBit => Some(Extension::EightBitMime),
            BodyType::Binary => Some(Extension::BinaryMime),
            _ => None,
        };
        if let Some(extension) = needed.filter(|&extension| !offered(extension)) {
            return Err(Cause::Unsupported(extension));
        }
        if self.envelope.body_type() == BodyType::Binary && !chunks {
            return Err(match cx.config.chunking {
                Chunking::Never => {
                    Cause::Local("a BINARYMIME body needs BDAT, which is set to never".into())
                }
                _ => Cause::Unsupported(Extension::Chunking),
            });
        }
        if !offered(Extension::SmtpUtf8)
            && (self.envelope.needs_smtputf8() || !self.envelope.use_ascii_domains())
        {
            return Err(Cause::Unsupported(Extension::SmtpUtf8));
        }
        self.check_parameters(cx)?;
        Ok(chunks)
    }

    /// The caller's own parameters.
    fn check_parameters(&self, cx: &Context<'_>) -> Result<(), Cause> {
        if !self.envelope.has_parameters() {
            return Ok(());
        }
        let offered: &Capabilities = cx.capabilities;
        let unsupported = |extension: Result<Extension, &str>| match extension {
            Ok(extension) => Cause::Unsupported(extension),
            Err(keyword) => Cause::UnsupportedKeyword(keyword.into()),
        };
        for parameter in self.envelope.mail_parameters() {
            if parameter.is_require_tls() && !cx.verified {
                return Err(Cause::TlsUnverified);
            }
            if parameter.need() == Need::Required && !parameter.offered_in(offered) {
                return Err(unsupported(parameter.extension()));
            }
            if let Some(excluded) = parameter.excluded_by(offered) {
                return Err(Cause::Excluded(Arc::from(excluded)));
            }
        }
        for place in self.part.clone() {
            for parameter in self.envelope.recipient_parameters(self.recipient(place)) {
                if parameter.need() == Need::Required && !parameter.offered_in(offered) {
                    return Err(unsupported(parameter.extension()));
                }
            }
        }
        Ok(())
    }

    fn mail_parameters<'a>(&'a self, capabilities: &'a Capabilities) -> MailParameters<'a> {
        let offered = |extension| capabilities.has(extension);
        let body = match self.envelope.body_type() {
            BodyType::Binary => Some("BINARYMIME"),
            BodyType::SevenBit => None,
            _ => Some("8BITMIME").filter(|_| offered(Extension::EightBitMime)),
        };
        let mut paths = self
            .envelope
            .forward_paths()
            .iter()
            .chain([self.envelope.reverse_path()]);
        let utf8 = offered(Extension::SmtpUtf8)
            && (self.envelope.needs_smtputf8() || !paths.all(|path| path.is_ascii()));
        MailParameters {
            size: self
                .envelope
                .declared_size()
                .filter(|_| offered(Extension::Size)),
            body,
            utf8,
            others: Some((&self.envelope, capabilities)),
        }
    }

    /// The body as it is to be sent on this connection.
    pub(crate) fn body(&self, cx: &Context<'_>) -> Body {
        let allow_eight_bit = match self.envelope.body_type() {
            BodyType::SevenBit => false,
            BodyType::EightBitAnyway | BodyType::Binary => true,
            BodyType::Undeclared | BodyType::EightBit => {
                cx.capabilities.has(Extension::EightBitMime)
            }
        };
        if !self.chunks {
            let encoder = BodyEncoder::new(cx.config.body, allow_eight_bit);
            return Body::new(encoder, self.envelope.exact_size_octets());
        }
        let encoder = match self.envelope.body_type() {
            BodyType::Binary => BodyEncoder::binary(),
            _ => BodyEncoder::chunked(cx.config.body, allow_eight_bit),
        };
        Body::chunked(
            encoder,
            cx.config.chunk_size,
            self.envelope.exact_size_octets(),
        )
    }

    /// A reply to one of this transaction's commands, never a 421. An error means that the connection
    /// cannot be used any more.
    pub(crate) fn on_reply(
        &mut self,
        what: Expect,
        reply: ReplyRef<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Flow, Error> {
        use ReplyClass::{Intermediate, Permanent, Success, Transient};
        match (what, reply.class()) {
            (Expect::Data, Success)
            | (Expect::Rset | Expect::OverlappedRset, Intermediate)
            | (
                Expect::Mail | Expect::OverlappedMail | Expect::Rcpt(_) | Expect::Chunk,
                Intermediate,
            )
            | (Expect::EndOfDataFor(_) | Expect::EndOfAll, Intermediate) => {
                self.wrong_class(what, reply)
            }

            (Expect::EndOfData, Intermediate)
                if self.prdr == Prdr::Asked && !self.is_hopeless() =>
            {
                self.prdr = Prdr::Coming;
                let replies: Vec<_> = self.undecided().map(Expect::EndOfDataFor).collect();
                cx.pipeline
                    .expect_first(replies.into_iter().chain([Expect::EndOfAll]), self.id);
                Ok(Flow::Wait)
            }
            (Expect::EndOfData, Intermediate) => self.wrong_class(what, reply),

            (Expect::Rset, Success) => {
                self.step = Step::Queued;
                Ok(Flow::Wait)
            }
            (Expect::OverlappedRset, Success) => Ok(Flow::Wait),
            // A server that cannot even reset is not given another message.
            (Expect::Rset | Expect::OverlappedRset, _) => Err(self.rejected(what, reply)),
            (Expect::OverlappedMail, Permanent) if reply.code().get() == 503 => {
                Err(self.rejected(what, reply))
            }
            (Expect::Mail | Expect::OverlappedMail, Success) => {
                self.overlaps = false;
                Ok(Flow::Wait)
            }
            (Expect::Mail | Expect::OverlappedMail, _) => {
                self.overlaps = false;
                self.failure = Some(self.rejected(what, reply));
                Ok(Flow::Wait)
            }
            (Expect::Rcpt(_), Success) => {
                self.answered += 1;
                self.accepted += 1;
                Ok(Flow::Wait)
            }
            (Expect::Rcpt(index), _) => {
                self.answered += 1;
                if self.may_defer(reply, cx) {
                    let accepted = self.accepted as u32;
                    cx.spent.learnt = Some(
                        cx.spent
                            .learnt
                            .map_or(accepted, |learnt| learnt.min(accepted)),
                    );
                    self.deferred.push(index);
                } else if self.failure.is_none() {
                    // Without a sender, "503 need MAIL first" says nothing about the recipient.
                    let error = self.rejected(what, reply);
                    self.decide(index, Err(error));
                }
                Ok(Flow::Wait)
            }
            (Expect::Data, Intermediate) if self.failure.is_none() && self.accepted > 0 => {
                self.step = Step::Body;
                Ok(Flow::BodyWanted)
            }
            // RFC 2033 section 4.2 lets an LMTP server answer a body for nobody with no reply at all: what
            // would come next is anyone's guess.
            (Expect::Data, Intermediate) if cx.config.protocol == Protocol::Lmtp => {
                self.wrong_class(what, reply)
            }
            (Expect::Data, Intermediate) => {
                // The server wants a body for nobody. An empty one ends this, and whatever it answers,
                // nothing is delivered (RFC 2920 section 3.1).
                self.step = Step::LoneDot;
                cx.pipeline
                    .push(Command::LoneDot, Expect::EndOfData, Some(self.id));
                Ok(Flow::Wait)
            }
            (Expect::Data, _) => {
                if self.failure.is_none() && self.accepted > 0 {
                    self.failure = Some(self.rejected(what, reply));
                }
                Ok(Flow::Finished)
            }
            (Expect::Chunk, Success) => Ok(Flow::Wait),
            (Expect::Chunk, Transient | Permanent) => {
                // Behind a refused envelope, or a refused chunk, a refusal says nothing new.
                if !self.is_hopeless() {
                    self.failure = Some(self.rejected(what, reply));
                }
                Ok(Flow::Wait)
            }
            (Expect::EndOfData, _) if self.step == Step::LoneDot || self.is_hopeless() => {
                Ok(Flow::Finished)
            }
            (Expect::EndOfData, Success) => {
                let reply = reply.to_reply();
                for place in self.part.clone() {
                    let index = self.recipient(place);
                    if self.results[index].is_none() && !self.deferred.contains(&(index as u32)) {
                        self.results[index] = Some(Ok(reply.clone()));
                    }
                }
                Ok(Flow::Finished)
            }
            (Expect::EndOfData, Transient | Permanent) => {
                self.failure = Some(self.rejected(what, reply));
                Ok(Flow::Finished)
            }
            (Expect::EndOfAll, class) => {
                // Nobody has a message that was refused as a whole, whatever was said of some before.
                if class != Success {
                    self.forget_acceptance();
                    self.failure = Some(self.rejected(what, reply));
                }
                Ok(Flow::Finished)
            }
            (Expect::EndOfDataFor(_), _) if self.failure.is_some() && self.prdr == Prdr::No => {
                // A chunk was refused, or the sender. Whether an LMTP server answers the last chunk once then,
                // or once for each recipient, is anyone's guess.
                match self.failure.clone().filter(|_| cx.pipeline.owes(self.id)) {
                    Some(failure) => Err(failure),
                    None => Ok(Flow::Finished),
                }
            }
            (Expect::EndOfDataFor(index), class) => {
                let result = match class {
                    Success => Ok(reply.to_reply()),
                    _ => Err(self.rejected(what, reply)),
                };
                if self.failure.is_none() {
                    self.decide(index, result);
                }
                Ok(
                    match self.prdr == Prdr::No && self.undecided().next().is_none() {
                        true => Flow::Finished,
                        false => Flow::Wait,
                    },
                )
            }
            // The opening expects the rest.
            _ => self.wrong_class(what, reply),
        }
    }

    /// Whether this refusal says that the server takes no more recipients in this transaction, so that this one
    /// is left to the next (RFC 5321 section 4.5.3.1.10). Somebody must have been accepted, or the next
    /// transaction would fare no better.
    fn may_defer(&self, reply: ReplyRef<'_>, cx: &Context<'_>) -> bool {
        let too_many = match reply.enhanced() {
            Some(code) => (code.subject, code.detail) == (5, 3),
            None => reply.code().get() == 452,
        };
        too_many
            && cx.config.learn_limits
            && self.accepted > 0
            && self.failure.is_none()
            && self.may_split()
    }

    /// A chunk is out, which was begun when so many round trips were done.
    pub(crate) fn chunk_sent(&mut self, sent: Sent, trip: u64, now: Instant, cx: &mut Context<'_>) {
        match sent.last {
            true => self.expect_end(0, cx),
            false => cx.pipeline.expect(Expect::Chunk, Some(self.id), 0),
        }
        cx.pipeline.offer_chunk(trip, now);
    }

    /// No more chunks go out.
    pub(crate) fn stop(&mut self) {
        self.step = Step::Stopped;
    }

    /// The body is complete: its end goes out, and the replies that decide are expected. Returns the last
    /// chunk, where there is one that is still to go out.
    pub(crate) fn end_body(
        &mut self,
        body: &mut Body,
        cx: &mut Context<'_>,
    ) -> Result<Option<Sent>, Error> {
        let mut end = None;
        let octets = cx.pipeline.write(|out| {
            let before = out.len();
            end = body.finish(out)?;
            Ok(out.len() - before)
        });
        let octets =
            octets.map_err(|error: crate::BodyError| Error::permanent(Stage::Body, error))?;
        if end.is_some() {
            self.expect_end(octets, cx);
        }
        Ok(end.filter(|_| self.chunks))
    }

    fn expect_end(&mut self, octets: usize, cx: &mut Context<'_>) {
        self.step = Step::End;
        match cx.config.protocol {
            Protocol::Smtp => cx.pipeline.expect(Expect::EndOfData, Some(self.id), octets),
            // RFC 2033 section 4.2: one reply for each RCPT that was accepted, in their order.
            Protocol::Lmtp => {
                for index in self.undecided() {
                    cx.pipeline
                        .expect(Expect::EndOfDataFor(index), Some(self.id), 0);
                }
            }
        }
    }

    /// This transaction is over: takes up the recipients that are left for another one, if there are any.
    pub(crate) fn next_part(&mut self) -> bool {
        if self.failure.is_some() || (self.part.end == self.places() && self.deferred.is_empty()) {
            return false;
        }
        let next = self.part.end..self.places();
        if self.deferred.is_empty() {
            self.part = next;
        } else {
            let mut left = core::mem::take(&mut self.deferred);
            left.extend(next.map(|place| self.recipient(place) as u32));
            self.part = 0..left.len();
            self.order = Some(left);
        }
        (self.step, self.overlaps, self.prdr) = (Step::Queued, false, Prdr::No);
        (self.sent, self.answered, self.accepted) = (0, 0, 0);
        true
    }

    /// What was said for some recipients does not hold.
    fn forget_acceptance(&mut self) {
        for place in self.part.clone() {
            let index = self.recipient(place);
            self.results[index].take_if(|result| result.is_ok());
        }
    }

    /// The connection has ended: every recipient without a result gets this error, with the outcome
    /// that this transaction's own step gives it. `begun` and `end_offered` say whether its first command
    /// and its end of data may have reached the server.
    pub(crate) fn abort(&mut self, error: &Error, begun: bool, end_offered: bool, is_first: bool) {
        let mut error = error.clone();
        let unasked = error.not_attempted();
        // A 421 in place of the reply that is owed next does say that the server did not take the message.
        // Another refusal, of the RSET or the MAIL before it, does not keep it from going on to its end.
        let answered =
            is_first && matches!(&error.cause, Cause::Rejected(reply) if reply.code().get() == 421);
        match self.step {
            _ if !begun || matches!(self.step, Step::Queued | Step::Reset) => {
                error = unasked.clone()
            }
            // RFC 1047: between the end of the data and its reply, nobody knows.
            Step::End if end_offered && !answered => error.outcome = Outcome::InDoubt,
            _ if self.overlaps => error = unasked.clone(),
            _ => {}
        }
        if self.failure.is_none() {
            if self.prdr == Prdr::Coming {
                self.forget_acceptance();
            }
            // Those whose transaction has not come yet were not asked for, whatever became of this one.
            let mut later = core::mem::take(&mut self.deferred);
            later.extend((self.part.end..self.places()).map(|place| self.recipient(place) as u32));
            later
                .into_iter()
                .for_each(|index| self.decide(index, Err(unasked.clone())));
            self.failure = Some(error);
        }
    }

    /// What became of each recipient; the ones undecided share the failure.
    pub(crate) fn into_report(self) -> Report {
        let failure = self.failure;
        let results =
            self.results
                .into_iter()
                .enumerate()
                .map(|(index, result)| match (result, &failure) {
                    (Some(result), _) => result,
                    // What was answered for another recipient is not told to this one as its own.
                    (None, Some(error)) if error.recipient.is_some_and(|about| about != index) => {
                        Err(Error {
                            recipient: None,
                            command: None,
                            ..error.clone()
                        })
                    }
                    (None, Some(error)) => Err(error.clone()),
                    (None, None) => Err(Error::transient(Stage::Rcpt, Cause::Disconnected)),
                });
        Report {
            recipients: results.collect(),
        }
    }

    fn decide(&mut self, index: u32, result: Result<Reply, Error>) {
        if let Some(slot) = self.results.get_mut(index as usize) {
            *slot = Some(result);
        }
    }

    fn rejected(&self, what: Expect, reply: ReplyRef<'_>) -> Error {
        self.about(what, Error::rejected(what.stage(), reply.to_reply()))
    }

    fn wrong_class(&self, what: Expect, reply: ReplyRef<'_>) -> Result<Flow, Error> {
        let error = ProtocolError::WrongClass(reply.to_reply());
        Err(self.about(what, Error::transient(what.stage(), error)))
    }

    /// The error with the command, and the recipient, that it is about.
    pub(crate) fn about(&self, what: Expect, mut error: Error) -> Error {
        let path = |index: u32| self.envelope.forward_paths().get(index as usize);
        let command = match what {
            Expect::Rset | Expect::OverlappedRset => Some(Command::Rset),
            Expect::Mail | Expect::OverlappedMail => Some(Command::Mail(
                self.envelope.reverse_path(),
                MailParameters::default(),
            )),
            Expect::Rcpt(index) => path(index).map(|path| Command::Rcpt(path, None)),
            Expect::Data => Some(Command::Data),
            Expect::EndOfDataFor(index) => path(index).map(|path| Command::Rcpt(path, None)),
            _ => None,
        };
        if let Expect::Rcpt(index) | Expect::EndOfDataFor(index) = what {
            error.recipient = Some(index as usize);
        }
        error.command = command.map(|command| command.redacted().into());
        error
    }
}
