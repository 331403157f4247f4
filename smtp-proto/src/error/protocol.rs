//! What a server says against the protocol.

use crate::reply::{Reply, ReplyError};

/// How the server broke the protocol. The connection is closed, because its later replies could not be attributed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The input is not a reply, or is more than a limit allows.
    #[error("protocol error: {0}")]
    Malformed(#[from] ReplyError),
    /// A reply that answers nothing.
    #[error("protocol error: unexpected reply {0}")]
    Unexpected(Reply),
    /// A reply whose first digit cannot answer the command, such as 250 to DATA or 354 to RCPT.
    #[error("protocol error: {0} does not answer this command")]
    WrongClass(Reply),
    /// The server sends challenge after challenge in one AUTH exchange.
    #[error("protocol error: more than {limit} challenges in one AUTH exchange")]
    TooManyChallenges {
        /// [`Limits::challenges`](crate::Limits::challenges).
        limit: u32,
    },
    /// Octets arrived after the 220 to STARTTLS and before the handshake. They may be an injection (RFC 3207 section
    /// 4.2).
    #[error("protocol error: unencrypted octets after the reply to STARTTLS")]
    OctetsBehindStartTls,
}

impl ProtocolError {
    pub(super) fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Unexpected(reply) | Self::WrongClass(reply) => Some(reply),
            _ => None,
        }
    }
}
