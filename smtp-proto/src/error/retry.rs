//! Who caused an error, and when to send the message again.

use crate::auth::MechanismError;
use crate::reply::{Reply, ReplyClass};

use super::{Cause, Error, Outcome, Stage};

/// When to send a failed message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Retry {
    /// At once, in a new session. This session has ended, and the message was not begun.
    Now,
    /// After a while, as a queue does.
    Later,
    /// Not at all, because it will fail again. Return it to its sender.
    Never,
    /// After a person has looked at it. It may have been delivered, or the login or the certificate is refused.
    AskPerson,
}

impl Error {
    /// Whether the same may succeed later.
    pub fn is_transient(&self) -> bool {
        self.outcome == Outcome::Transient
    }

    /// Whether the same will fail again.
    pub fn is_permanent(&self) -> bool {
        self.outcome == Outcome::Permanent
    }

    /// Whether the server may have delivered the message all the same.
    pub fn is_in_doubt(&self) -> bool {
        self.outcome == Outcome::InDoubt
    }

    /// Whether the time for a reply, a handshake or a block of the body ran out.
    pub fn is_timeout(&self) -> bool {
        matches!(self.cause, Cause::TimedOut(_))
    }

    /// Whether it is about the session, and not about the message: a refused login, a 554 greeting, an expired
    /// certificate, a lost connection. A queue must not return the message because of it, even if it is
    /// [permanent](Outcome::Permanent).
    ///
    /// ```
    /// # use smtp_proto::{Cause, Error, Outcome, Reply, Stage, reply::ReplyCode};
    /// let refused = |stage, code| {
    ///     let reply = Reply::new(ReplyCode::new(code).unwrap(), b"no");
    ///     Error::new(stage, Outcome::Permanent, Cause::Rejected(reply))
    /// };
    /// assert!(refused(Stage::Auth, 535).concerns_session());
    /// assert!(!refused(Stage::Rcpt, 550).concerns_session());
    /// ```
    pub fn concerns_session(&self) -> bool {
        use Stage::{Auth, Connect, Ehlo, Greeting, Local, Quit, StartTls};
        if self.outcome == Outcome::NotAttempted && self.cause != Cause::AllOrNothing {
            return true;
        }
        match self.stage {
            Connect | Greeting | Ehlo | StartTls | Auth | Quit => true,
            Local => matches!(self.cause, Cause::Settings(_) | Cause::CredentialsInClear),
            _ => match &self.cause {
                Cause::Rejected(reply) => {
                    reply.code().get() == 421 || wants_login(reply) || self.is_chunking_unknown()
                }
                Cause::TimedOut(_) | Cause::Disconnected | Cause::Transport(_) => true,
                Cause::Protocol(_) | Cause::TlsUnverified => true,
                _ => false,
            },
        }
    }

    /// When to send the message again.
    ///
    /// ```
    /// # use smtp_proto::{Cause, Error, Outcome, Stage, error::Retry};
    /// let lost = |outcome| Error::new(Stage::EndOfMessage, outcome, Cause::Disconnected);
    /// assert_eq!(lost(Outcome::NotAttempted).retry(), Retry::Now);
    /// assert_eq!(lost(Outcome::InDoubt).retry(), Retry::AskPerson);
    /// ```
    pub fn retry(&self) -> Retry {
        use Stage::{Auth, Connect, Ehlo, Greeting, StartTls};
        let is_opening = matches!(self.stage, Connect | Greeting | Ehlo | StartTls | Auth);
        let reply_class = self.reply().map(Reply::class);
        match (&self.cause, self.outcome) {
            // The engine cannot decide whether to leave the other recipient out.
            (_, Outcome::InDoubt) | (Cause::AllOrNothing, _) => Retry::AskPerson,
            (_, Outcome::Transient) => Retry::Later,
            // The same holds for a message that was not attempted because of it.
            _ if is_opening && reply_class.is_some_and(|class| class != ReplyClass::Permanent) => {
                Retry::Later
            }
            // The function may give a token later.
            (Cause::Mechanism(MechanismError::Token(_)), _) => Retry::Later,
            // A server that takes no mail today may take it tomorrow, or another server of the domain may.
            (Cause::Rejected(_) | Cause::HelloRejected { .. }, _)
                if is_opening && self.stage != Auth =>
            {
                Retry::Later
            }
            (Cause::Rejected(reply), _) if self.stage == Auth || wants_login(reply) => {
                Retry::AskPerson
            }
            (
                Cause::TlsUnavailable(_)
                | Cause::TlsUntrusted(_)
                | Cause::TlsMisconfigured(_)
                | Cause::TokenRejected { .. }
                | Cause::AuthUnavailable
                | Cause::NoCommonMechanism(_)
                | Cause::CredentialsInClear
                | Cause::CredentialsUnverified(_)
                | Cause::Mechanism(_)
                | Cause::Settings(_),
                _,
            ) => Retry::AskPerson,
            // A failure that the message did not cause must not return it to its sender.
            (_, Outcome::Permanent) if self.concerns_session() => Retry::AskPerson,
            (_, Outcome::Permanent) => Retry::Never,
            (_, Outcome::NotAttempted) if is_opening => Retry::Later,
            (_, Outcome::NotAttempted) => Retry::Now,
        }
    }
}

/// Whether the server takes mail only after a login or after STARTTLS (RFC 4954 section 6, RFC 3207 section 4).
fn wants_login(reply: &Reply) -> bool {
    matches!(reply.code().get(), 530 | 538)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Extension;
    use crate::error::Misuse;
    use crate::reply::ReplyCode;

    #[test]
    fn whose_fault_it_is_and_when_to_send_again() {
        use Outcome::{InDoubt, NotAttempted, Permanent, Transient};
        let rejected = |code| Cause::Rejected(Reply::new(ReplyCode::new(code).unwrap(), b"no"));
        let lost = || Cause::Disconnected;
        for (stage, outcome, cause, session, retry) in [
            (
                Stage::Local,
                Permanent,
                Cause::Local("no".into()),
                false,
                Retry::Never,
            ),
            (
                Stage::Local,
                NotAttempted,
                Cause::Settings("no".into()),
                true,
                Retry::AskPerson,
            ),
            (
                Stage::Connect,
                Permanent,
                Cause::TlsMisconfigured("no".into()),
                true,
                Retry::AskPerson,
            ),
            (
                Stage::StartTls,
                NotAttempted,
                Cause::TlsUnavailable(Some(Reply::new(ReplyCode::new(454).unwrap(), b"no"))),
                true,
                Retry::Later,
            ),
            (
                Stage::Mail,
                Permanent,
                rejected(530),
                true,
                Retry::AskPerson,
            ),
            (
                Stage::Mail,
                Permanent,
                Cause::TlsUnverified,
                true,
                Retry::AskPerson,
            ),
            (
                Stage::Connect,
                Transient,
                Cause::Transport("no".into()),
                true,
                Retry::Later,
            ),
            (
                Stage::Connect,
                NotAttempted,
                Cause::Transport("no".into()),
                true,
                Retry::Later,
            ),
            (
                Stage::Greeting,
                Permanent,
                rejected(554),
                true,
                Retry::Later,
            ),
            (
                Stage::Greeting,
                NotAttempted,
                rejected(421),
                true,
                Retry::Later,
            ),
            (
                Stage::StartTls,
                Permanent,
                Cause::TlsUntrusted("old".into()),
                true,
                Retry::AskPerson,
            ),
            (
                Stage::Auth,
                Permanent,
                rejected(535),
                true,
                Retry::AskPerson,
            ),
            (
                Stage::Auth,
                NotAttempted,
                rejected(535),
                true,
                Retry::AskPerson,
            ),
            (Stage::Auth, Transient, rejected(454), true, Retry::Later),
            (
                Stage::Auth,
                Permanent,
                Cause::CredentialsInClear,
                true,
                Retry::AskPerson,
            ),
            (
                Stage::Auth,
                Transient,
                MechanismError::Token("no".into()).into(),
                true,
                Retry::Later,
            ),
            (Stage::Mail, Permanent, rejected(550), false, Retry::Never),
            (Stage::Mail, NotAttempted, rejected(421), true, Retry::Now),
            (Stage::Mail, NotAttempted, lost(), true, Retry::Now),
            (
                Stage::Mail,
                Permanent,
                Cause::Unsupported(Extension::SmtpUtf8),
                false,
                Retry::Never,
            ),
            (Stage::Rcpt, Permanent, rejected(550), false, Retry::Never),
            (Stage::Rcpt, Transient, rejected(450), false, Retry::Later),
            (
                Stage::Rcpt,
                NotAttempted,
                Cause::AllOrNothing,
                false,
                Retry::AskPerson,
            ),
            (Stage::Body, Transient, lost(), true, Retry::Later),
            (
                Stage::EndOfMessage,
                Permanent,
                rejected(554),
                false,
                Retry::Never,
            ),
            (Stage::EndOfMessage, InDoubt, lost(), true, Retry::AskPerson),
            (
                Stage::Quit,
                NotAttempted,
                Misuse::Closed.into(),
                true,
                Retry::Now,
            ),
        ] {
            let error = Error::new(stage, outcome, cause);
            let found = (error.concerns_session(), error.retry());
            assert_eq!(found, (session, retry), "{error}");
        }
    }
}
