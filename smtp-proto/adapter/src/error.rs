//! One error for everything that can go wrong in a session.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::again::{Again, not_asked, was_cut_off};
use smtp_proto::envelope::{AddressError, EnvelopeError};
use smtp_proto::error::Retry;
use smtp_proto::parameter::ParameterError;
use smtp_proto::request::RequestError;
use smtp_proto::{Cause, Outcome, Report, Stage};

/// Why a session could not be opened, or a message reached nobody. It holds the engine's error, the operating
/// system's error if there was one, and the report if a message was under way.
///
/// `Display` is one line:
///
/// ```
/// use smtp_adapter::{Error, smtp_proto::Envelope};
///
/// let invalid = Envelope::new("a@b@c", ["d@example.net"]).unwrap_err();
/// assert_eq!(
///     Error::from(invalid).to_string(),
///     "local: sender: invalid address \"a@b@c\": '@' may not stand in the local part; a space or \
///      special character needs double quotes (permanent, do not send again unchanged)"
/// );
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    error: smtp_proto::Error,
    io: Option<io::Error>,
    report: Option<Report>,
    round_trips: u64,
    /// A session existed, and has reported it to `tracing`.
    #[cfg(feature = "tracing")]
    has_session: bool,
    #[cfg(feature = "rustls")]
    tls: Option<crate::tls::TlsInfo>,
    /// More about the error, such as the failure at the address before.
    remark: Option<String>,
}

impl Error {
    #[doc(hidden)]
    pub fn new(error: smtp_proto::Error) -> Self {
        Self(Box::new(Inner {
            error,
            io: None,
            report: None,
            round_trips: 0,
            #[cfg(feature = "tracing")]
            has_session: false,
            #[cfg(feature = "rustls")]
            tls: None,
            remark: None,
        }))
    }

    /// An error on our side, before the server was asked.
    #[doc(hidden)]
    pub fn local(cause: Cause) -> Self {
        Self::new(smtp_proto::Error::new(
            Stage::Local,
            Outcome::Permanent,
            cause,
        ))
    }

    /// The name of the host cannot be resolved.
    #[doc(hidden)]
    pub fn unresolved(host: &str, io: io::Error) -> Self {
        Self::connect(
            format!("the address of {host} cannot be found: {io}"),
            Some(io),
        )
    }

    /// The host cannot be connected to.
    pub(crate) fn connect(message: String, io: Option<io::Error>) -> Self {
        let cause = Cause::Transport(message.into());
        let error = smtp_proto::Error::new(Stage::Connect, Outcome::Transient, cause);
        let mut error = Self::new(error);
        error.0.io = io;
        error
    }

    /// A message that did not reach every recipient. The first failure with the outcome of the report speaks for all.
    /// The end of the line tells how many recipients have it.
    #[doc(hidden)]
    pub fn from_report(report: Report) -> Self {
        let unexplained =
            smtp_proto::Error::new(Stage::Local, Outcome::Permanent, Cause::Disconnected);
        let outcome = report.outcome().unwrap_or(unexplained.outcome);
        // The failure whose advice helps first speaks for all. A failure that follows from another recipient's
        // refusal only speaks alone.
        let rank = |error: &&smtp_proto::Error| {
            let advice = match error.retry() {
                Retry::AskPerson => 0,
                Retry::Later => 1,
                Retry::Now => 2,
                Retry::Never => 3,
            };
            let follows = error.cause == Cause::AllOrNothing;
            (follows, error.outcome != outcome, advice)
        };
        let first = report
            .failures()
            .map(|failure| failure.error)
            .min_by_key(rank)
            .cloned();
        let mut error = Self::new(first.unwrap_or(unexplained));
        error.0.error.outcome = outcome;
        let all = report.recipients.len();
        let have_it = report.recipients.iter().filter(|one| one.is_ok()).count();
        if have_it > 0 {
            let remark =
                format!("{have_it} of {all} recipients have it, so send it to the others alone");
            error.0.remark = Some(remark);
        }
        error.0.report = Some(report);
        error
    }

    /// The same for a message without a session: it can be sent again, whatever the server has replied to the
    /// session.
    #[doc(hidden)]
    pub fn not_attempted(mut self) -> Self {
        self.0.error.outcome = Outcome::NotAttempted;
        self
    }

    /// The same after another address of the host was tried, and failed with `first`.
    #[doc(hidden)]
    pub fn after(mut self, address: SocketAddr, first: &Self) -> Self {
        self.0.remark = Some(format!("{address} before: {first}"));
        self
    }

    /// The same for another caller, who must wait: the pool opens no session until this time has passed.
    pub(crate) fn paused(mut self, time: Duration) -> Self {
        let seconds = time.as_secs();
        self.0.remark = Some(format!(
            "the pool opens no session for {seconds} s after this"
        ));
        self
    }

    /// A copy for another caller, without the report.
    pub(crate) fn copy(&self) -> Self {
        let inner = &self.0;
        Self(Box::new(Inner {
            error: inner.error.clone(),
            io: inner.io.as_ref().map(copy_io),
            report: None,
            round_trips: inner.round_trips,
            #[cfg(feature = "rustls")]
            tls: inner.tls.clone(),
            remark: inner.remark.clone(),
            #[cfg(feature = "tracing")]
            has_session: inner.has_session,
        }))
    }

    /// Whether the session had ended, or ended with a 421, before the transport was given the end of the message. If
    /// so, the message may be sent in another session.
    #[doc(hidden)]
    pub fn was_cut_off(&self) -> bool {
        match &self.0.report {
            Some(report) => Again::after(report) != Again::No,
            None => not_asked(&self.0.error) || was_cut_off(&self.0.error),
        }
    }

    /// What a message comes to that was cut off, where no other session can be opened, and why. What the server has
    /// said to it is not hidden by that.
    #[doc(hidden)]
    pub fn without_another_session(mut self, why: Self) -> Self {
        if self.outcome() == Outcome::NotAttempted {
            return why;
        }
        self.0.remark = Some(format!("it cannot be sent in another session: {why}"));
        self
    }

    /// The same, with what is known of the session in which it happened.
    #[doc(hidden)]
    pub fn in_session(
        mut self,
        round_trips: u64,
        io: Option<io::Error>,
        #[cfg(feature = "rustls")] tls: Option<crate::tls::TlsInfo>,
    ) -> Self {
        self.0.round_trips = round_trips;
        self.0.io = io;
        #[cfg(feature = "tracing")]
        {
            self.0.has_session = true;
        }
        #[cfg(feature = "rustls")]
        {
            self.0.tls = tls;
        }
        self
    }

    /// Whether a session existed, and has reported it to `tracing`.
    #[cfg(feature = "tracing")]
    pub(crate) fn has_session(&self) -> bool {
        self.0.has_session
    }

    /// The stage, the cause, the reply and the outcome.
    pub fn error(&self) -> &smtp_proto::Error {
        &self.0.error
    }

    /// Where it happened.
    pub fn stage(&self) -> Stage {
        self.0.error.stage
    }

    /// Why it happened.
    pub fn cause(&self) -> &Cause {
        &self.0.error.cause
    }

    /// What it means for the message. It claims no more than holds for all recipients ([`Report::outcome`]). If a
    /// connector has failed, it is about the next attempt to connect.
    pub fn outcome(&self) -> Outcome {
        self.0.error.outcome
    }

    /// Whether the same may succeed later.
    pub fn is_transient(&self) -> bool {
        self.0.error.is_transient()
    }

    /// Whether the same will fail again.
    pub fn is_permanent(&self) -> bool {
        self.0.error.is_permanent()
    }

    /// Whether the server may have delivered the message nevertheless.
    pub fn is_in_doubt(&self) -> bool {
        self.0.error.is_in_doubt()
    }

    /// Whether time ran out: for the connection, a handshake, a reply or a block of the body.
    pub fn is_timeout(&self) -> bool {
        let io = self.0.io.as_ref().map(io::Error::kind);
        self.0.error.is_timeout() || io == Some(io::ErrorKind::TimedOut)
    }

    /// Whether it is about the session, and not about the message
    /// ([`concerns_session`](smtp_proto::Error::concerns_session)). A queue must not return the message because of
    /// it.
    pub fn concerns_session(&self) -> bool {
        self.0.report.is_none() && self.0.error.concerns_session()
            || self.0.report.as_ref().is_some_and(|report| {
                report
                    .failures()
                    .all(|failure| failure.error.concerns_session())
            })
    }

    /// When to send the message again ([`retry`](smtp_proto::Error::retry)). If the recipients have different
    /// results, it is what helps one of them. The report has the advice for each.
    pub fn retry(&self) -> Retry {
        self.0.error.retry()
    }

    /// The result of each recipient, if a transaction had begun.
    pub fn report(&self) -> Option<&Report> {
        self.0.report.as_ref()
    }

    /// How many round trips the session had cost.
    pub fn round_trips(&self) -> u64 {
        self.0.round_trips
    }

    /// How the session was encrypted. `None` if it was not.
    #[cfg(feature = "rustls")]
    pub fn tls_info(&self) -> Option<&crate::tls::TlsInfo> {
        self.0.tls.as_ref()
    }

    /// The operating system's error, if there was one.
    pub fn io_error(&self) -> Option<&io::Error> {
        self.0.io.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.error)?;
        match (&self.0.io, &self.0.error.cause) {
            // The cause contains it already.
            (None, _) | (_, Cause::Transport(_)) => {}
            (Some(io), _) => write!(f, ": {io}")?,
        }
        match &self.0.remark {
            Some(remark) => write!(f, "; {remark}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.io.as_ref().map(|io| io as _)
    }
}

impl From<EnvelopeError> for Error {
    fn from(error: EnvelopeError) -> Self {
        Self::local(error.into())
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        Self::local(Cause::Local(error.to_string().into()))
    }
}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        Self::local(Cause::Local(error.to_string().into()))
    }
}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        Self::local(Cause::Local(error.to_string().into()))
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.is_timeout() {
            true => io::ErrorKind::TimedOut,
            false => error.io_error().map_or(io::ErrorKind::Other, Self::kind),
        };
        Self::new(kind, error)
    }
}

/// A copy of the operating system's error, with its text.
pub(crate) fn copy_io(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Whether another try may help for a message that could not be opened, or read to its end.
pub(crate) fn outcome_of(error: &io::Error) -> Outcome {
    use io::ErrorKind::{
        InvalidData, InvalidInput, NotFound, NotSeekable, PermissionDenied, Unsupported,
    };
    match error.kind() {
        NotFound | PermissionDenied | InvalidData | InvalidInput | NotSeekable | Unsupported => {
            Outcome::Permanent
        }
        _ => Outcome::Transient,
    }
}
