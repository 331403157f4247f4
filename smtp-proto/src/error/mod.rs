//! What went wrong: where (a [`Stage`], a command, a recipient), why (a [`Cause`]), and what it means for the message
//! (an [`Outcome`]).

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use crate::auth::{MechanismError, TokenError};
use crate::body::BodyError;
use crate::capability::Extension;
use crate::envelope::EnvelopeError;
use crate::reply::{Reply, ReplyClass};
use crate::time::Seconds;

mod protocol;
mod retry;

pub use protocol::ProtocolError;
pub use retry::Retry;

/// Where in a session something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum Stage {
    /// Before anything was sent: the caller's own input.
    Local,
    /// Name resolution, the TCP connection, and the TLS handshake of implicit TLS.
    Connect,
    /// The server's greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Ehlo,
    /// STARTTLS and its handshake.
    StartTls,
    /// AUTH and its challenges.
    Auth,
    /// MAIL, and the RSET after a failed transaction.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, up to its 354.
    Data,
    /// The octets of the body.
    Body,
    /// The end of the data and its reply.
    #[cfg_attr(feature = "serde", serde(rename = "eom"))]
    EndOfMessage,
    /// A command outside a transaction ([`Request`](crate::Request)).
    Request,
    /// QUIT, or an idle session.
    Quit,
}

impl Stage {
    /// The stage as one lower-case word, for logs and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::EndOfMessage => "eom",
            Self::Request => "request",
            Self::Quit => "quit",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an error means for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Outcome {
    /// Not delivered; the same may succeed later.
    Transient,
    /// Not delivered; the same will fail again.
    Permanent,
    /// The end of the data went out and its reply did not come. Nobody here knows whether the message was delivered
    /// (RFC 1047). Sending it again may deliver it twice.
    InDoubt,
    /// The server was not asked. It is safe to send again, here or elsewhere.
    NotAttempted,
}

impl Outcome {
    const fn as_advice(self) -> &'static str {
        match self {
            Self::Transient => "temporary, try again later",
            Self::Permanent => "permanent, do not send again unchanged",
            Self::InDoubt => "in doubt, the message may have been delivered",
            Self::NotAttempted => "not attempted, safe to send again",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_advice())
    }
}

/// One failure, of a recipient, a message or a connection.
///
/// `Display` is one line for the person who reads the log:
///
/// ```
/// # use smtp_proto::{Cause, Error, Outcome, Reply, Stage, reply::ReplyCode};
/// let reply = Reply::new(ReplyCode::new(550).unwrap(), b"5.1.1 no such user");
/// let error = Error::new(Stage::Rcpt, Outcome::Permanent, Cause::Rejected(reply))
///     .with_command("RCPT TO:<bob@example.net>");
/// assert_eq!(
///     error.to_string(),
///     "rcpt: RCPT TO:<bob@example.net>: server said 550 5.1.1 no such user \
///      (permanent, do not send again unchanged)"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Error {
    /// Where.
    pub stage: Stage,
    /// What it means for the message.
    pub outcome: Outcome,
    /// Why.
    pub cause: Cause,
    /// The command that was answered or waited for, without its line end, and without secrets.
    pub command: Option<Arc<str>>,
    /// The recipient that it is about, by its position in the envelope, from 0.
    pub recipient: Option<usize>,
    pub(crate) moment: Moment,
}

/// When a connection ended or a deadline passed, if the stage alone does not tell enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Any,
    /// The server speaks first, but has sent nothing at all on a network connection without TLS.
    Silence,
    /// In the middle of the TLS handshake.
    Handshake,
}

impl Error {
    /// An error without a command or a recipient.
    pub fn new(stage: Stage, outcome: Outcome, cause: Cause) -> Self {
        Self {
            stage,
            outcome,
            cause,
            command: None,
            recipient: None,
            moment: Moment::Any,
        }
    }

    /// The same, at this moment.
    pub(crate) fn at(mut self, moment: Moment) -> Self {
        self.moment = moment;
        self
    }

    /// The same, about this command.
    #[must_use]
    pub fn with_command(mut self, command: &str) -> Self {
        self.command = Some(command.into());
        self
    }

    /// A failure of the transport or the protocol. The message is not its cause, so it may pass later.
    pub(crate) fn transient(stage: Stage, cause: impl Into<Cause>) -> Self {
        Self::new(stage, Outcome::Transient, cause.into())
    }

    /// Something that the client itself refuses, now and the next time.
    pub(crate) fn permanent(stage: Stage, cause: impl Into<Cause>) -> Self {
        Self::new(stage, Outcome::Permanent, cause.into())
    }

    /// A refusal by the server, whose first digit decides.
    pub(crate) fn rejected(stage: Stage, reply: Reply) -> Self {
        let outcome = match reply.class() {
            // rule: parameters.refused-555
            ReplyClass::Permanent => Outcome::Permanent,
            _ => Outcome::Transient,
        };
        Self::new(stage, outcome, Cause::Rejected(reply))
    }

    /// The same for something that the server was not asked to do.
    pub(crate) fn not_attempted(&self) -> Self {
        let (outcome, command, recipient) = (Outcome::NotAttempted, None, None);
        Self {
            outcome,
            command,
            recipient,
            ..self.clone()
        }
    }

    /// The same if nobody knows what the server did in spite of it.
    pub(crate) fn in_doubt(&self) -> Self {
        Self {
            outcome: Outcome::InDoubt,
            ..self.clone()
        }
    }

    /// The reply that decided, if there is one.
    pub fn reply(&self) -> Option<&Reply> {
        self.cause.reply()
    }

    /// The end of the line, which says when to [retry](Self::retry).
    fn advice(&self) -> &'static str {
        match (self.outcome, self.retry()) {
            (Outcome::Permanent, Retry::Later) => "not the message's fault, try again later",
            (Outcome::Permanent, Retry::AskPerson) if self.stage == Stage::Local => {
                "mend it before you send again"
            }
            (Outcome::Permanent, Retry::AskPerson) => {
                "not the message's fault, mend it before you send again"
            }
            _ if self.cause == Cause::AllOrNothing => {
                "not attempted, leave out the refused recipients and send it again"
            }
            (Outcome::NotAttempted, Retry::Later) => "not attempted, try again later",
            (Outcome::NotAttempted, Retry::AskPerson) => {
                "not attempted, mend it before you send again"
            }
            (outcome, _) => outcome.as_advice(),
        }
    }

    /// Whether the server seems not to know BDAT, although it offers CHUNKING.
    fn is_chunking_unknown(&self) -> bool {
        let is_bdat = self
            .command
            .as_deref()
            .is_some_and(|command| command.starts_with("BDAT "));
        let code = self.reply().map(|reply| reply.code().get());
        is_bdat && matches!(code, Some(500 | 502 | 504))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.stage)?;
        if let Some(command) = &self.command {
            write!(f, "{command}: ")?;
        }
        write!(f, "{}", self.cause)?;
        if self.is_chunking_unknown() {
            f.write_str("; it offers CHUNKING and may not know it: set Chunking::Never")?;
        }
        f.write_str(match self.moment {
            Moment::Any => "",
            Moment::Silence => {
                " without a word from the server; it may want TLS from the first octet \
                 (TlsPolicy::Implicit, usually on port 465)"
            }
            Moment::Handshake => " in the TLS handshake; the server's log may say why",
        })?;
        write!(f, " ({})", self.advice())
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The server has refused.
    #[error("server said {0}")]
    Rejected(Reply),
    /// The server did not know EHLO, and then refused HELO as well.
    #[error("server said {ehlo} to EHLO and {helo} to HELO")]
    HelloRejected {
        /// The reply to EHLO, 500 or 502.
        ehlo: Reply,
        /// The reply to HELO.
        helo: Reply,
    },
    /// The time for a reply, a handshake or a block of the body ran out.
    #[error("timed out after {} s", Seconds(*.0))]
    TimedOut(Duration),
    /// The connection ended, and the server did not give a reason.
    #[error("the connection was lost")]
    Disconnected,
    /// The connection could not be made or used. The text is the operating system's.
    #[error("{0}")]
    Transport(Arc<str>),
    /// The server broke the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The message needs an extension that the server does not offer.
    #[error("the server does not offer {0}, which this message needs")]
    Unsupported(Extension),
    /// The message needs a parameter of an extension that the server does not offer. The engine does not know this
    /// extension by name.
    #[error("the server does not offer {0}, which this message needs")]
    UnsupportedKeyword(Arc<str>),
    /// REQUIRETLS (RFC 8689) needs TLS with a server whose certificate and name were checked. This session does not
    /// have that.
    #[error(
        "REQUIRETLS needs TLS with a verified server, and this server is not verified (TlsInfo says why)"
    )]
    TlsUnverified,
    /// The server's EHLO reply excludes the value of a parameter, such as a hold that is too long.
    #[error("{0}")]
    Excluded(Arc<str>),
    /// More than the server's stated limit (RFC 9422), in one transaction or in one session.
    #[error("the server takes {limit} at most ({name} of LIMITS), and this would make {value}")]
    LimitExceeded {
        /// `RCPTMAX`, `RCPTDOMAINMAX` or `MAILMAX`.
        name: &'static str,
        /// What the server takes.
        limit: u64,
        /// What the message would need.
        value: u64,
    },
    /// The message is larger than the server's stated limit (RFC 1870).
    #[error("the message has {size} octets, and the server takes {limit} at most")]
    TooLarge {
        /// Declared size, in octets.
        size: u64,
        /// The server's limit, in octets.
        limit: u64,
    },
    /// The policy requires TLS, but the server does not offer STARTTLS or has refused it.
    #[error("TLS is required, and the server {}", RefusedTls(.0))]
    TlsUnavailable(Option<Reply>),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    TlsFailed(Arc<str>),
    /// The TLS handshake failed, and will fail again with the same settings: the port does not speak TLS, or the
    /// server wants another client certificate.
    #[error("the TLS handshake failed: {0}")]
    TlsMisconfigured(Arc<str>),
    /// The server must be verified, but is not.
    #[error("the server is not verified: {0}")]
    TlsUntrusted(Arc<str>),
    /// Credentials were given, but the server does not offer AUTH.
    #[error("credentials were given, but the server does not offer AUTH")]
    AuthUnavailable,
    /// The server offers no mechanism that the caller allows.
    #[error("the server offers none of the allowed AUTH mechanisms, only: {0}")]
    NoCommonMechanism(Arc<str>),
    /// The credentials would cross the network in the clear, and the caller did not permit that.
    #[error(
        "the connection is not encrypted, so the credentials were not sent; use TLS, or permit it \
         (Credentials::permit_in_clear)"
    )]
    CredentialsInClear,
    /// The credentials would go to a server that is not verified, for this reason. The caller did not permit that.
    #[error(
        "the server is not verified, so the credentials were not sent: {0}; trust its certificate, give the name \
         that it is for, or permit it (Credentials::permit_unverified)"
    )]
    CredentialsUnverified(Arc<str>),
    /// The server has refused an OAuth 2.0 token, and has given a reason (RFC 7628 section 3.2.2).
    #[error("server said {reply}, about the token: {error}")]
    TokenRejected {
        /// The reply that decided.
        reply: Reply,
        /// The reason, which came before the reply.
        error: Box<TokenError>,
    },
    /// The SASL mechanism could not go on.
    #[error("{0}")]
    Mechanism(#[from] MechanismError),
    /// The body cannot be sent as it is.
    #[error("{0}")]
    Body(#[from] BodyError),
    /// Every recipient must be accepted, but another one was refused.
    #[error("another recipient was refused, and all were to be accepted or none")]
    AllOrNothing,
    /// The caller's side gave up, could not read the message, or cannot do what was asked. The text is its own.
    #[error("{0}")]
    Local(Arc<str>),
    /// The settings for the server cannot be used. The text says what to change.
    #[error("{0}")]
    Settings(Arc<str>),
    /// The envelope is invalid.
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    /// The caller has called the engine at the wrong time.
    #[error("{0}")]
    Misuse(#[from] Misuse),
}

impl Cause {
    pub(crate) fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Rejected(reply)
            | Self::TokenRejected { reply, .. }
            | Self::HelloRejected { helo: reply, .. } => Some(reply),
            Self::TlsUnavailable(reply) => reply.as_ref(),
            Self::Protocol(error) => error.reply(),
            _ => None,
        }
    }

    /// Whether the client refused to go on, and not the server or the network.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Rejected(_)
                | Self::TokenRejected { .. }
                | Self::HelloRejected { .. }
                | Self::TimedOut(_)
                | Self::Disconnected
                | Self::Transport(_)
                | Self::Protocol(_)
                | Self::TlsFailed(_)
                | Self::TlsMisconfigured(_)
        )
    }
}

struct RefusedTls<'a>(&'a Option<Reply>);

impl fmt::Display for RefusedTls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reply) => write!(f, "said {reply}"),
            None => f.write_str("does not offer STARTTLS"),
        }
    }
}

/// A call that does not fit the state of the engine. It is the caller's mistake, never the server's, and it changes
/// nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The connection is closed or closing.
    #[error("the session has ended")]
    Closed,
    /// The engine does not want a body now.
    #[error("a message body is not wanted now")]
    NoBodyWanted,
    /// The engine does not want a TLS handshake now.
    #[error("a TLS handshake is not wanted now")]
    NoHandshakeWanted,
    /// A message has more recipients than the limit allows.
    #[error("the message has more than {limit} recipients; split it")]
    TooManyRecipients {
        /// [`Limits::recipients`](crate::Limits::recipients).
        limit: usize,
    },
    /// The limit of messages and results that wait is reached.
    #[error("{limit} messages and results wait already; poll for events")]
    QueueFull {
        /// [`Limits::messages`](crate::Limits::messages).
        limit: usize,
    },
}
