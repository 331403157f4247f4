//! Errors and their causes. They are written, but not read.

use alloc::string::ToString;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::error::{Cause, Error};

/// `stage`, `outcome`, `retry`, `concerns_session`, `recipient`, `command`, `cause`, and the whole line as `text`.
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Error", 8)?;
        fields.serialize_field("stage", &self.stage)?;
        fields.serialize_field("outcome", &self.outcome)?;
        fields.serialize_field("retry", &self.retry())?;
        fields.serialize_field("concerns_session", &self.concerns_session())?;
        fields.serialize_field("recipient", &self.recipient)?;
        fields.serialize_field("command", &self.command.as_deref())?;
        fields.serialize_field("cause", &self.cause)?;
        fields.serialize_field("text", &self.to_string())?;
        fields.end()
    }
}

/// `kind`, one word, and `text`. Then the fields of this kind: the `reply` that decided, a limit, an extension.
impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Some formats need the number of fields in advance.
        let own = match self {
            Self::LimitExceeded { .. } => 3,
            Self::TooLarge { .. } => 2,
            Self::HelloRejected { .. } | Self::TimedOut(_) => 1,
            Self::Unsupported(_) | Self::UnsupportedKeyword(_) => 1,
            _ => 0,
        };
        let count = 2 + usize::from(self.reply().is_some()) + own;
        let mut entries = serializer.serialize_map(Some(count))?;
        entries.serialize_entry("kind", kind(self))?;
        entries.serialize_entry("text", &self.to_string())?;
        if let Some(reply) = self.reply() {
            entries.serialize_entry("reply", reply)?;
        }
        match self {
            Self::HelloRejected { ehlo, .. } => entries.serialize_entry("ehlo", ehlo)?,
            Self::TimedOut(time) => entries.serialize_entry("seconds", &time.as_secs_f64())?,
            Self::Unsupported(extension) => entries.serialize_entry("extension", extension)?,
            Self::UnsupportedKeyword(keyword) => {
                entries.serialize_entry("extension", &**keyword)?;
            }
            Self::LimitExceeded { name, limit, value } => {
                entries.serialize_entry("name", name)?;
                entries.serialize_entry("limit", limit)?;
                entries.serialize_entry("value", value)?;
            }
            Self::TooLarge { size, limit } => {
                entries.serialize_entry("size", size)?;
                entries.serialize_entry("limit", limit)?;
            }
            _ => {}
        }
        entries.end()
    }
}

/// The name of the variant, as one word for programs.
const fn kind(cause: &Cause) -> &'static str {
    match cause {
        Cause::Rejected(_) => "rejected",
        Cause::HelloRejected { .. } => "hello_rejected",
        Cause::TimedOut(_) => "timed_out",
        Cause::Disconnected => "disconnected",
        Cause::Transport(_) => "transport",
        Cause::Protocol(_) => "protocol",
        Cause::Unsupported(_) => "unsupported",
        Cause::UnsupportedKeyword(_) => "unsupported_keyword",
        Cause::TlsUnverified => "tls_unverified",
        Cause::Excluded(_) => "excluded",
        Cause::LimitExceeded { .. } => "limit_exceeded",
        Cause::TooLarge { .. } => "too_large",
        Cause::TlsUnavailable(_) => "tls_unavailable",
        Cause::TlsFailed(_) => "tls_failed",
        Cause::TlsMisconfigured(_) => "tls_misconfigured",
        Cause::TlsUntrusted(_) => "tls_untrusted",
        Cause::AuthUnavailable => "auth_unavailable",
        Cause::NoCommonMechanism(_) => "no_common_mechanism",
        Cause::CredentialsInClear => "credentials_in_clear",
        Cause::CredentialsUnverified(_) => "credentials_unverified",
        Cause::TokenRejected { .. } => "token_rejected",
        Cause::Mechanism(_) => "mechanism",
        Cause::Body(_) => "body",
        Cause::AllOrNothing => "all_or_nothing",
        Cause::Local(_) => "local",
        Cause::Settings(_) => "settings",
        Cause::Envelope(_) => "envelope",
        Cause::Misuse(_) => "misuse",
    }
}
