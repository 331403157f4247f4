//! What the engine tells its caller.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::error::{Cause, Error, Outcome};
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
    /// Its number. Messages and requests are counted together, from 1, in the order in which they were given.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl RequestId {
    /// Its number. Messages and requests are counted together, from 1, in the order in which they were given.
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
    /// Do the TLS handshake now, then call
    /// [`handle_tls_established`](crate::Connection::handle_tls_established) or
    /// [`handle_tls_failed`](crate::Connection::handle_tls_failed). No octet received before may be
    /// given to the handshake.
    StartTls,
    /// Greeting, EHLO, TLS and AUTH are done.
    Ready,
    /// At least one recipient was accepted, or nobody was asked yet under
    /// [`Chunking::Eager`](crate::Chunking::Eager): the body may be sent. What was refused so far is in
    /// [`refused`](crate::Connection::refused). It comes again, for the body from its beginning, where the
    /// recipients of a [reopenable](crate::Envelope::reopenable) message are split; one that was not polled by
    /// then is dropped, because its body has ended.
    ///
    /// No body is wanted before this event was polled, so that what is said for one message never ends the next.
    BodyWanted(MessageId),
    /// The reply to a request, whatever its class, or why there is none: exactly one for each that was
    /// made, always.
    Answered(RequestId, Result<Reply, Error>),
    /// The server does not take an envelope behind the end of the data, although it offers PIPELINING:
    /// it answered 503, or nothing within [`Timeouts::overlap`](crate::Timeouts::overlap). The session
    /// ends, the messages that were not begun are reported as not attempted, and the next session with
    /// this server should do without [`Config::overlap`](crate::Config::overlap).
    OverlapBroken,
    /// The end of a message: exactly one for each that was submitted, always.
    Finished(MessageId, Report),
    /// The end of the connection: exactly one, and the last event. `Ok` after
    /// [`quit`](crate::Connection::quit).
    Closed(Result<(), Error>),
    /// A line of the conversation, where [`Config::trace`](crate::Config::trace) asks for it.
    Trace(Trace),
}

/// One step of the conversation, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trace {
    /// A command, without its line end, credentials redacted.
    Sent(Arc<str>),
    /// A whole body, of this many octets of the caller's, and the dot.
    SentBody {
        /// Octets taken from the caller.
        octets: u64,
    },
    /// A whole chunk, and the BDAT before it.
    SentChunk {
        /// Its octets on the wire.
        octets: u64,
        /// It ends the body.
        last: bool,
    },
    /// A whole reply.
    Received(Reply),
    /// The TLS handshake is done.
    TlsEstablished,
    /// So many steps before this one were dropped, because nobody polled for them
    /// ([`Limits::traces`](crate::Limits::traces)).
    Missed(u64),
}

/// What became of one message, for each recipient in the order of the envelope: the reply by which the
/// server took the responsibility for it, or the error that kept it from that. For SMTP the reply is
/// that to the end of the data, and the same for all; for LMTP, and under PRDR, each recipient has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// One result for each recipient.
    pub recipients: Vec<Result<Reply, Error>>,
}

impl Report {
    /// The report of a message that a session which ended with this error was not even asked to send.
    pub fn not_attempted(recipients: usize, error: &Error) -> Self {
        Self {
            recipients: core::iter::repeat_n(Err(error.not_attempted()), recipients).collect(),
        }
    }

    /// Whether every recipient was accepted and the message with it.
    pub fn is_success(&self) -> bool {
        self.recipients.iter().all(Result::is_ok)
    }

    /// The recipients that did not get the message, by their position in the envelope.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.recipients
            .iter()
            .enumerate()
            .filter_map(|(index, result)| result.as_ref().err().map(|error| (index, error)))
    }

    /// Whether the server may have delivered the message although no reply says so.
    pub fn maybe_delivered(&self) -> bool {
        self.failures()
            .any(|(_, error)| error.outcome == Outcome::InDoubt)
    }

    /// What the failures come to in one word, which says no more than holds for all of them. `None` where
    /// every recipient succeeded.
    ///
    /// It is *in doubt* if one failure is. It is *permanent* or *not attempted* only if all are. Any other
    /// mixture is *temporary*. [`Cause::AllOrNothing`] follows from another recipient's refusal, so it does
    /// not count beside another failure.
    ///
    /// ```
    /// use smtp_proto::{Cause, Error, Outcome, Reply, Report, Stage, reply::ReplyCode};
    ///
    /// let refused = |code, outcome| {
    ///     let reply = Reply::new(ReplyCode::new(code).unwrap(), b"no");
    ///     Err(Error::new(Stage::Rcpt, outcome, Cause::Rejected(reply)))
    /// };
    /// let (unknown, busy) = (refused(550, Outcome::Permanent), refused(450, Outcome::Transient));
    ///
    /// let report = Report { recipients: vec![unknown.clone(), unknown.clone()] };
    /// assert_eq!(report.outcome(), Some(Outcome::Permanent));
    /// // The second recipient may still get it, so a queue keeps the message.
    /// let report = Report { recipients: vec![unknown, busy] };
    /// assert_eq!(report.outcome(), Some(Outcome::Transient));
    /// ```
    pub fn outcome(&self) -> Option<Outcome> {
        let own = || {
            self.failures()
                .map(|(_, error)| error)
                .filter(|error| error.cause != Cause::AllOrNothing)
        };
        match own().next() {
            None => self.failures().next().map(|(_, error)| error.outcome),
            Some(_) if self.maybe_delivered() => Some(Outcome::InDoubt),
            Some(first) if own().all(|error| error.outcome == first.outcome) => Some(first.outcome),
            Some(_) => Some(Outcome::Transient),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::error::Stage;
    use crate::reply::ReplyCode;

    fn error(outcome: Outcome) -> Result<Reply, Error> {
        Err(Error::new(Stage::Rcpt, outcome, Cause::Disconnected))
    }

    #[test]
    fn an_outcome_says_no_more_than_holds_for_all() {
        use Outcome::{InDoubt, NotAttempted, Permanent, Transient};
        let all = [Transient, Permanent, InDoubt, NotAttempted];
        let of = |recipients| Report { recipients }.outcome();
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
        assert_eq!(Report { recipients: vec![] }.outcome(), None);
        assert_eq!(
            Report {
                recipients: vec![taken.clone(), taken.clone()]
            }
            .outcome(),
            None
        );
        let mixed = Report {
            recipients: vec![taken, error(Outcome::Permanent)],
        };
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
            let report = Report {
                recipients: vec![follows.clone(), error(outcome), follows.clone()],
            };
            assert_eq!(report.outcome(), Some(outcome));
        }
        let alone = Report {
            recipients: vec![follows.clone(), follows],
        };
        assert_eq!(alone.outcome(), Some(Outcome::NotAttempted));
    }
}
