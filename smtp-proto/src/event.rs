//! What the engine tells its caller.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::iter::Zip;
use core::slice;

use crate::envelope::Envelope;
use crate::error::{Cause, Error, Outcome};
use crate::mailbox::Mailbox;
use crate::reply::Reply;

/// A message of this connection.
///
/// ```
/// # use smtp_proto::*;
/// # let config = Config::new(ClientName::parse("client.example.org")?);
/// # let mut engine = Connection::new(config, Instant::default());
/// let first = engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
/// let second = engine.submit(Envelope::new("alice@example.org", ["carol@example.net"])?)?;
/// assert_eq!((first.get(), second.get()), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub(crate) u64);

/// A request of this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

impl MessageId {
    /// Its number. Messages and requests are counted together, from 1, in the order of submission.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl RequestId {
    /// Its number. Messages and requests are counted together, from 1, in the order of submission.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something that the caller should know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Do the TLS handshake now, then call [`handle_tls_established`](crate::Connection::handle_tls_established) or
    /// [`handle_tls_failed`](crate::Connection::handle_tls_failed). Do not pass octets that were received before to
    /// the handshake.
    StartTls,
    /// Greeting, EHLO, TLS and AUTH are done.
    Ready,
    /// The body may be sent. At least one recipient was accepted, or under
    /// [`Chunking::Eager`](crate::Chunking::Eager) nobody was asked yet. [`refused`](crate::Connection::refused)
    /// lists the recipients that were refused so far.
    ///
    /// If the recipients of a [reopenable](crate::Envelope::reopenable) message are split, it comes once for each
    /// part, for the body from its beginning. An event for a body that has ended is dropped.
    ///
    /// The engine takes no body before this event was polled. So a call for one message never ends the next one.
    BodyWanted(MessageId),
    /// The reply to a request, whatever its class, or the reason that it did not come. Each request gets exactly one.
    Answered(RequestId, Result<Reply, Error>),
    /// The server does not take an envelope after the end of the data, although it offers PIPELINING. It answered
    /// 503, or nothing within [`Timeouts::overlap`](crate::Timeouts::overlap). The session ends, and messages that
    /// were not begun are reported as not attempted. Do not set [`Config::overlap`](crate::Config::overlap) for this
    /// server.
    OverlapBroken,
    /// The end of a message. Each submitted message gets exactly one.
    Finished(MessageId, Report),
    /// The end of the connection. It comes exactly once, as the last event. `Ok` after
    /// [`quit`](crate::Connection::quit).
    Closed(Result<(), Error>),
    /// A line of the conversation, if [`Config::trace`](crate::Config::trace) is set.
    Trace(Trace),
}

/// One step of the conversation, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trace {
    /// A command, without its line end, and without secrets.
    Sent(Arc<str>),
    /// A whole body with its dot.
    SentBody {
        /// Octets taken from the caller.
        octets: u64,
    },
    /// A whole chunk with its BDAT.
    SentChunk {
        /// Its octets on the wire.
        octets: u64,
        /// Whether it ends the body.
        last: bool,
    },
    /// A whole reply.
    Received(Reply),
    /// The TLS handshake is done.
    TlsEstablished,
    /// This many steps before were dropped, because nobody polled them ([`Limits::traces`](crate::Limits::traces)).
    Missed(u64),
}

/// The result of one message, for each recipient in the order of the envelope. It is the reply by which the server
/// took responsibility, or the error that prevented it. Under SMTP, all share the reply to the end of the data. Under
/// LMTP and PRDR, each recipient has its own.
///
/// It holds the mailboxes as well, so you need not keep the envelope:
///
/// ```
/// # use smtp_proto::{Cause, Error, Outcome, Reply, Report, Stage, reply::ReplyCode};
/// # let reply = |code, text: &str| Reply::new(ReplyCode::new(code).unwrap(), text.as_bytes());
/// # let refused = Error::new(Stage::Rcpt, Outcome::Permanent, Cause::Rejected(reply(550, "unknown")));
/// # let report = Report::new([
/// #     ("bob@example.net".parse()?, Ok(reply(250, "queued"))),
/// #     ("carol@example.net".parse()?, Err(refused)),
/// # ]);
/// for (mailbox, result) in &report {
///     match result {
///         Ok(reply) => println!("{mailbox} has it: {reply}"),
///         Err(error) => println!("{mailbox} did not get it: {error}"),
///     }
/// }
/// let failure = report.failures().next().unwrap();
/// assert_eq!((failure.index, failure.mailbox.as_str()), (1, "carol@example.net"));
/// # Ok::<(), smtp_proto::envelope::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// One result for each recipient, in the order of the envelope.
    pub recipients: Vec<Result<Reply, Error>>,
    /// The envelope's own list, moved here without a copy.
    mailboxes: Vec<Mailbox>,
}

impl Report {
    /// A report of your own, for a test: the recipients in the order of the envelope.
    pub fn new(results: impl IntoIterator<Item = (Mailbox, Result<Reply, Error>)>) -> Self {
        let (mailboxes, recipients) = results.into_iter().unzip();
        Self {
            recipients,
            mailboxes,
        }
    }

    /// Both have the order and the length of the envelope's list.
    pub(crate) fn of(mailboxes: Vec<Mailbox>, recipients: Vec<Result<Reply, Error>>) -> Self {
        Self {
            recipients,
            mailboxes,
        }
    }

    /// The report of a message that a session did not attempt, because it ended with this error.
    pub fn not_attempted(envelope: Envelope, error: &Error) -> Self {
        let mailboxes = envelope.into_mailboxes();
        let recipients = core::iter::repeat_n(Err(error.not_attempted()), mailboxes.len());
        Self::of(mailboxes, recipients.collect())
    }

    /// The recipients as the envelope has them, in its order. A domain that went out as A-labels is here as it was
    /// given.
    pub fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// Each recipient with its result, in the order of the envelope. `for (mailbox, result) in &report` is the same.
    pub fn iter(&self) -> Results<'_> {
        Results(self.mailboxes.iter().zip(&self.recipients))
    }

    /// Whether every recipient was accepted, and the message too.
    pub fn is_success(&self) -> bool {
        self.recipients.iter().all(Result::is_ok)
    }

    /// The recipients that did not get the message, and why.
    pub fn failures(&self) -> impl Iterator<Item = Failure<'_>> {
        self.iter()
            .enumerate()
            .filter_map(|(index, (mailbox, result))| {
                result.as_ref().err().map(|error| Failure {
                    index,
                    mailbox,
                    error,
                })
            })
    }

    fn errors(&self) -> impl Iterator<Item = &Error> {
        self.recipients
            .iter()
            .filter_map(|result| result.as_ref().err())
    }

    /// Whether the server may have delivered the message although a reply is missing.
    pub fn maybe_delivered(&self) -> bool {
        self.errors().any(|error| error.outcome == Outcome::InDoubt)
    }

    /// One word for all failures, which claims no more than holds for each of them. `None` if every recipient
    /// succeeded.
    ///
    /// It is *in doubt* if one failure is. It is *permanent* or *not attempted* only if all are. Any other mixture is
    /// *temporary*. [`Cause::AllOrNothing`] follows from another recipient's refusal, so it only counts alone.
    ///
    /// ```
    /// use smtp_proto::{Cause, Error, Mailbox, Outcome, Reply, Report, Stage, reply::ReplyCode};
    ///
    /// let refused = |mailbox: &Mailbox, code, outcome| {
    ///     let reply = Reply::new(ReplyCode::new(code).unwrap(), b"no");
    ///     (mailbox.clone(), Err(Error::new(Stage::Rcpt, outcome, Cause::Rejected(reply))))
    /// };
    /// let (bob, carol) = ("bob@example.net".parse()?, "carol@example.net".parse()?);
    /// let unknown = |mailbox| refused(mailbox, 550, Outcome::Permanent);
    ///
    /// let report = Report::new([unknown(&bob), unknown(&carol)]);
    /// assert_eq!(report.outcome(), Some(Outcome::Permanent));
    /// // The second recipient may still get it, so a queue keeps the message.
    /// let report = Report::new([unknown(&bob), refused(&carol, 450, Outcome::Transient)]);
    /// assert_eq!(report.outcome(), Some(Outcome::Transient));
    /// # Ok::<(), smtp_proto::envelope::AddressError>(())
    /// ```
    pub fn outcome(&self) -> Option<Outcome> {
        let own = || {
            self.errors()
                .filter(|error| error.cause != Cause::AllOrNothing)
        };
        match own().next() {
            None => self.errors().next().map(|error| error.outcome),
            Some(_) if self.maybe_delivered() => Some(Outcome::InDoubt),
            Some(first) if own().all(|error| error.outcome == first.outcome) => Some(first.outcome),
            Some(_) => Some(Outcome::Transient),
        }
    }
}

impl<'a> IntoIterator for &'a Report {
    type Item = (&'a Mailbox, &'a Result<Reply, Error>);
    type IntoIter = Results<'a>;

    fn into_iter(self) -> Results<'a> {
        self.iter()
    }
}

/// The recipients of a [`Report`], each with its result.
#[derive(Clone, Debug)]
pub struct Results<'a>(Zip<slice::Iter<'a, Mailbox>, slice::Iter<'a, Result<Reply, Error>>>);

impl<'a> Iterator for Results<'a> {
    type Item = (&'a Mailbox, &'a Result<Reply, Error>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Results<'_> {}

/// A recipient that did not get the message, and why. `Display` is one line that begins with the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure<'a> {
    /// Its position in the envelope, from 0.
    pub index: usize,
    /// Its address, as the envelope has it.
    pub mailbox: &'a Mailbox,
    /// Why.
    pub error: &'a Error,
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.mailbox, self.error)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;
    use crate::error::Stage;
    use crate::reply::ReplyCode;

    fn error(outcome: Outcome) -> Result<Reply, Error> {
        Err(Error::new(Stage::Rcpt, outcome, Cause::Disconnected))
    }

    fn report(results: Vec<Result<Reply, Error>>) -> Report {
        let mailbox = |n| Mailbox::parse(&alloc::format!("u{n}@d")).unwrap();
        let results = results.into_iter().enumerate();
        Report::new(results.map(|(n, result)| (mailbox(n), result)))
    }

    #[test]
    fn a_report_names_its_recipients() {
        let taken = Ok(Reply::new(ReplyCode::new(250).unwrap(), b"ok"));
        let report = report(vec![taken, error(Outcome::Permanent)]);
        let named: Vec<_> = report
            .iter()
            .map(|(mailbox, result)| (mailbox.as_str(), result.is_ok()))
            .collect();
        assert_eq!(named, [("u0@d", true), ("u1@d", false)]);
        let lines: Vec<_> = report
            .failures()
            .map(|failure| failure.to_string())
            .collect();
        let line = "u1@d: rcpt: the connection was lost (not the message's fault, mend it before you send again)";
        assert_eq!(lines, [line]);
    }

    #[test]
    fn a_message_that_was_not_attempted_has_its_recipients() {
        let envelope = Envelope::new("a@b", ["c@d", "e@f"]).unwrap();
        let lost = Error::new(Stage::Quit, Outcome::Transient, Cause::Disconnected);
        let report = Report::not_attempted(envelope, &lost);
        let named: Vec<_> = report
            .failures()
            .map(|failure| failure.mailbox.as_str())
            .collect();
        assert_eq!(named, ["c@d", "e@f"]);
        assert_eq!(report.outcome(), Some(Outcome::NotAttempted));
    }

    #[test]
    fn an_outcome_says_no_more_than_holds_for_all() {
        use Outcome::{InDoubt, NotAttempted, Permanent, Transient};
        let all = [Transient, Permanent, InDoubt, NotAttempted];
        let of = |results| report(results).outcome();
        for one in all {
            for other in all {
                let both = match (one, other) {
                    _ if one == other => one,
                    (InDoubt, _) | (_, InDoubt) => InDoubt,
                    _ => Transient,
                };
                assert_eq!(
                    of(vec![error(one), error(other)]),
                    Some(both),
                    "{one:?} {other:?}"
                );
                assert_eq!(
                    of(vec![error(one), error(other), error(one)]),
                    Some(both),
                    "{one:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn successes_have_no_outcome() {
        let taken = Ok(Reply::new(ReplyCode::new(250).unwrap(), b"ok"));
        assert_eq!(report(vec![]).outcome(), None);
        assert_eq!(report(vec![taken.clone(), taken.clone()]).outcome(), None);
        let mixed = report(vec![taken, error(Outcome::Permanent)]);
        assert_eq!(mixed.outcome(), Some(Outcome::Permanent));
    }

    #[test]
    fn what_follows_from_a_refusal_does_not_count_beside_it() {
        let follows = Err(Error::new(
            Stage::Rcpt,
            Outcome::NotAttempted,
            Cause::AllOrNothing,
        ));
        for outcome in [Outcome::Permanent, Outcome::Transient, Outcome::InDoubt] {
            let report = report(vec![follows.clone(), error(outcome), follows.clone()]);
            assert_eq!(report.outcome(), Some(outcome));
        }
        let alone = report(vec![follows.clone(), follows]);
        assert_eq!(alone.outcome(), Some(Outcome::NotAttempted));
    }
}
