//! One mail transaction: MAIL, RCPT for each recipient, DATA, the body, its end, and what became of each
//! recipient.

use alloc::vec::Vec;

use crate::body::BodyEncoder;
use crate::capability::Extension;
use crate::command::{Command, MailParameters, end_of_data};
use crate::config::Protocol;
use crate::envelope::{BodyType, Envelope};
use crate::error::{Cause, Error, Outcome, ProtocolError, Stage};
use crate::event::{MessageId, Report};
use crate::pipeline::{Context, Expect};
use crate::reply::{Reply, ReplyClass, ReplyRef};

/// A guess at the octets of a RCPT command around its address, for the limit in flight.
const RCPT_OVERHEAD: usize = "RCPT TO:<>\r\n".len();

/// The same for MAIL with its parameters.
const MAIL_OVERHEAD: usize = "MAIL FROM:<> SIZE=18446744073709551615 BODY=8BITMIME SMTPUTF8\r\n".len();

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing for the caller yet.
    Wait,
    /// DATA was answered 354, and a recipient is accepted.
    BodyWanted,
    /// The report is complete.
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
    /// The end of the body is out.
    End,
    /// The dot is out that ends a body which was never sent: no recipient was accepted, and DATA was
    /// answered 354 all the same.
    LoneDot,
}

#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) id: MessageId,
    envelope: Envelope,
    step: Step,
    /// What is decided about each recipient. Undecided, it is one that was accepted, as far as RCPT has
    /// been answered.
    results: Vec<Option<Result<Reply, Error>>>,
    /// RCPTs sent, answered, and answered with 2yz.
    sent: usize,
    answered: usize,
    accepted: usize,
    /// MAIL went out behind the end of the data of the message before, and has not been answered.
    overlaps: bool,
    /// What went wrong for every recipient that has no error of its own.
    failure: Option<Error>,
}

impl Transaction {
    pub(crate) fn new(id: MessageId, envelope: Envelope) -> Self {
        let mut results = Vec::new();
        results.resize_with(envelope.forward_paths().len(), || None);
        Self {
            id,
            envelope,
            step: Step::Queued,
            results,
            sent: 0,
            answered: 0,
            accepted: 0,
            overlaps: false,
            failure: None,
        }
    }

    /// The recipients that have an error of their own by now.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.results.iter().enumerate().filter_map(|(index, result)| match result {
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

    /// Sends what can be sent now, of the first message.
    pub(crate) fn proceed(&mut self, reset_first: bool, cx: &mut Context<'_>) -> Flow {
        if self.step == Step::Queued {
            if !cx.pipeline.is_settled() {
                return Flow::Wait;
            }
            let parameters = match self.mail_parameters(cx) {
                Ok(parameters) => parameters,
                Err(cause) => {
                    self.failure = Some(Error::permanent(Stage::Mail, cause));
                    return Flow::Finished;
                }
            };
            if reset_first {
                self.step = Step::Reset;
                cx.pipeline.push(Command::Rset, Expect::Rset, Some(self.id));
                return Flow::Wait;
            }
            self.say_mail(parameters, Expect::Mail, cx);
        }
        self.proceed_envelope(cx)
    }

    /// Sends what can be sent now, of the second message, when the end of the data of the first is out.
    pub(crate) fn proceed_overlapping(&mut self, cx: &mut Context<'_>) {
        if self.step == Step::Queued {
            // One that this server cannot be given is reported in its turn.
            let Ok(parameters) = self.mail_parameters(cx) else {
                return;
            };
            let octets = MAIL_OVERHEAD + self.envelope.reverse_path().as_str().len();
            if !cx.pipelines() || !cx.pipeline.has_room(true, octets) {
                return;
            }
            self.overlaps = true;
            self.say_mail(parameters, Expect::OverlappedMail, cx);
        }
        // It cannot finish here: its replies come behind those to the first.
        self.proceed_envelope(cx);
    }

    fn say_mail(&mut self, parameters: MailParameters, what: Expect, cx: &mut Context<'_>) {
        self.step = Step::Envelope;
        let command = Command::Mail(self.envelope.reverse_path(), parameters);
        cx.pipeline.push(command, what, Some(self.id));
    }

    fn proceed_envelope(&mut self, cx: &mut Context<'_>) -> Flow {
        if self.step != Step::Envelope {
            return Flow::Wait;
        }
        let pipelines = cx.pipelines();
        let paths = self.envelope.forward_paths();
        while self.failure.is_none()
            && let Some(path) = paths.get(self.sent)
        {
            if !cx.pipeline.has_room(pipelines, RCPT_OVERHEAD + path.as_str().len()) {
                return Flow::Wait;
            }
            let what = Expect::Rcpt(self.sent as u32);
            cx.pipeline.push(Command::Rcpt(path), what, Some(self.id));
            self.sent += 1;
        }
        let all_answered = cx.pipeline.is_settled();
        if all_answered
            && self.failure.is_none()
            && self.envelope.is_all_or_nothing()
            && self.accepted < paths.len()
        {
            let cause = Cause::AllOrNothing;
            self.failure = Some(Error::new(Stage::Rcpt, Outcome::NotAttempted, cause));
        }
        if self.failure.is_some() || (self.answered == paths.len() && self.accepted == 0) {
            // Nobody left to send to. What is still owed for the envelope is waited for.
            return if all_answered { Flow::Finished } else { Flow::Wait };
        }
        let pipelines = pipelines && !self.envelope.is_all_or_nothing();
        if cx.pipeline.has_room(pipelines, "DATA\r\n".len()) {
            self.step = Step::Data;
            cx.pipeline.push(Command::Data, Expect::Data, Some(self.id));
        }
        Flow::Wait
    }

    /// The parameters of MAIL, or why this server cannot be given this message.
    fn mail_parameters(&self, cx: &Context<'_>) -> Result<MailParameters, Cause> {
        let offered = |extension| cx.capabilities.has(extension);
        let size = self.envelope.declared_size();
        if let (Some(size), Some(limit)) = (size, cx.capabilities.size_limit())
            && size > limit
        {
            return Err(Cause::TooLarge { size, limit });
        }
        let body = self.envelope.body_type();
        if body == BodyType::EightBit && !offered(Extension::EightBitMime) {
            return Err(Cause::Unsupported(Extension::EightBitMime));
        }
        let mut paths = self.envelope.forward_paths().iter().chain([self.envelope.reverse_path()]);
        let utf8 = !paths.all(|path| path.is_ascii());
        if utf8 && !offered(Extension::SmtpUtf8) {
            return Err(Cause::Unsupported(Extension::SmtpUtf8));
        }
        Ok(MailParameters {
            size: size.filter(|_| offered(Extension::Size)),
            eight_bit: body != BodyType::SevenBit && offered(Extension::EightBitMime),
            utf8,
        })
    }

    /// How the body is to be encoded on this connection.
    pub(crate) fn encoder(&self, cx: &Context<'_>) -> BodyEncoder {
        let allow_eight_bit = match self.envelope.body_type() {
            BodyType::SevenBit => false,
            BodyType::EightBitAnyway => true,
            BodyType::Undeclared | BodyType::EightBit => cx.capabilities.has(Extension::EightBitMime),
        };
        BodyEncoder::new(cx.config.body, allow_eight_bit)
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
            | (Expect::Rset | Expect::Mail | Expect::OverlappedMail | Expect::Rcpt(_), Intermediate) => {
                self.wrong_class(what, reply)
            }
            (Expect::EndOfData | Expect::EndOfDataFor(_), Intermediate) => self.wrong_class(what, reply),

            (Expect::Rset, Success) => {
                self.step = Step::Queued;
                Ok(Flow::Wait)
            }
            // A server that cannot even reset is not given another message.
            (Expect::Rset, _) => Err(self.rejected(what, reply)),
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
                // Without a sender, "503 need MAIL first" says nothing about the recipient.
                if self.failure.is_none() {
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
                cx.pipeline.push(Command::LoneDot, Expect::EndOfData, Some(self.id));
                Ok(Flow::Wait)
            }
            (Expect::Data, _) => {
                if self.failure.is_none() && self.accepted > 0 {
                    self.failure = Some(self.rejected(what, reply));
                }
                Ok(Flow::Finished)
            }
            (Expect::EndOfData, _) if self.step == Step::LoneDot => Ok(Flow::Finished),
            (Expect::EndOfData, Success) => {
                let reply = reply.to_reply();
                for result in self.results.iter_mut().filter(|result| result.is_none()) {
                    *result = Some(Ok(reply.clone()));
                }
                Ok(Flow::Finished)
            }
            (Expect::EndOfData, Transient | Permanent) => {
                self.failure = Some(self.rejected(what, reply));
                Ok(Flow::Finished)
            }
            (Expect::EndOfDataFor(index), class) => {
                let result = match class {
                    Success => Ok(reply.to_reply()),
                    _ => Err(self.rejected(what, reply)),
                };
                self.decide(index, result);
                Ok(match self.results.iter().all(Option::is_some) {
                    true => Flow::Finished,
                    false => Flow::Wait,
                })
            }
            // The opening expects the rest.
            _ => self.wrong_class(what, reply),
        }
    }

    /// The body is complete: its end goes out, and the replies that decide are expected.
    pub(crate) fn end_body(&mut self, encoder: &BodyEncoder, cx: &mut Context<'_>) -> Result<(), Error> {
        let end = cx.pipeline.write(|out| end_of_data(encoder, out));
        let octets = end.map_err(|error| Error::permanent(Stage::Body, error))?;
        self.step = Step::End;
        match cx.config.protocol {
            Protocol::Smtp => cx.pipeline.expect(Expect::EndOfData, Some(self.id), octets),
            // RFC 2033 section 4.2: one reply for each RCPT that was accepted, in their order.
            Protocol::Lmtp => {
                for (index, _) in self.results.iter().enumerate().filter(|(_, result)| result.is_none()) {
                    let what = Expect::EndOfDataFor(index as u32);
                    cx.pipeline.expect(what, Some(self.id), 0);
                }
            }
        }
        Ok(())
    }

    /// The connection has ended: every recipient without a result gets this error, with the outcome
    /// that this transaction's own step gives it. `begun` and `end_offered` say whether its first command
    /// and its end of data may have reached the server.
    pub(crate) fn abort(&mut self, error: &Error, begun: bool, end_offered: bool) {
        let mut error = error.clone();
        let answered = matches!(error.cause, Cause::Rejected(_));
        match self.step {
            _ if !begun || self.overlaps || matches!(self.step, Step::Queued | Step::Reset) => {
                error.outcome = Outcome::NotAttempted;
                (error.command, error.recipient) = (None, None);
            }
            // RFC 1047: between the end of the data and its reply, nobody knows. A 421 in its place does
            // say that the server did not take the message.
            Step::End if end_offered && !answered => error.outcome = Outcome::InDoubt,
            _ => {}
        }
        if self.failure.is_none() {
            self.failure = Some(error);
        }
    }

    /// What became of each recipient; the ones undecided share the failure.
    pub(crate) fn into_report(self) -> Report {
        let failure = self.failure;
        let results = self.results.into_iter().enumerate().map(|(index, result)| match (result, &failure) {
            (Some(result), _) => result,
            // What was answered for another recipient is not told to this one as its own.
            (None, Some(error)) if error.recipient.is_some_and(|about| about != index) => {
                Err(Error { recipient: None, command: None, ..error.clone() })
            }
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(Error::transient(Stage::Rcpt, Cause::Disconnected)),
        });
        Report { recipients: results.collect() }
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
            Expect::Rset => Some(Command::Rset),
            Expect::Mail | Expect::OverlappedMail => {
                Some(Command::Mail(self.envelope.reverse_path(), MailParameters::default()))
            }
            Expect::Rcpt(index) => path(index).map(Command::Rcpt),
            Expect::Data => Some(Command::Data),
            Expect::EndOfDataFor(index) => path(index).map(Command::Rcpt),
            _ => None,
        };
        if let Expect::Rcpt(index) | Expect::EndOfDataFor(index) = what {
            error.recipient = Some(index as usize);
        }
        error.command = command.map(|command| command.redacted().into());
        error
    }
}
