//! What a SASL mechanism is to the engine, and why one cannot go on.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::TokenError;

/// Octets that are wiped from memory when dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// One run of a SASL mechanism. Implement it to bring your own; give it to
/// [`Credentials::custom`](super::Credentials::custom).
pub trait Mechanism: Send {
    /// The name as the server's AUTH line has it, in upper case: 1 to 20 letters, digits, `-` and `_` (RFC 4422
    /// section 3.1). A mechanism with another name is not used.
    fn name(&self) -> &str;

    /// Whether somebody who reads the conversation can use it to log in. Such a mechanism runs only over TLS
    /// with a verified server, unless the caller permits otherwise. One that does not expose its secret also runs
    /// in the clear where [`TlsPolicy::Never`](crate::TlsPolicy::Never) was chosen.
    fn exposes_secret(&self) -> bool;

    /// The first response, or `None` if the server speaks first.
    ///
    /// # Errors
    /// The credentials cannot be expressed in this mechanism. The engine then tries the next one that is allowed and
    /// offered.
    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(None)
    }

    /// The response to a challenge, both without base64.
    ///
    /// # Errors
    /// The challenge is not acceptable; the exchange is cancelled.
    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError>;

    /// Whether the responses depend on the challenges. If not, a challenge need not be base64, and
    /// [`respond`](Self::respond) gets an empty one. True by default.
    fn reads_challenges(&self) -> bool {
        true
    }

    /// Called when the server has accepted the login: may the client believe it? A mechanism that authenticates the
    /// server returns an error until the server has given its proof. `data` is the text of the 235, decoded from
    /// base64, or empty if it is not base64. SMTP has no place for data with a success, but some servers put it
    /// there.
    ///
    /// # Errors
    /// The server has not given the proof that the mechanism demands.
    fn verify(&mut self, data: &[u8]) -> Result<(), MechanismError> {
        let _ = data;
        Ok(())
    }

    /// Called when the server has refused the login: what it reported in a challenge before, if anything.
    fn token_error(&mut self) -> Option<TokenError> {
        None
    }
}

/// Why a mechanism cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MechanismError {
    /// The challenge is not base64, or has several lines.
    #[error("the server's challenge is not base64")]
    Undecodable,
    /// More challenges than the mechanism defines.
    #[error("the server sent an unexpected challenge")]
    UnexpectedChallenge,
    /// A NUL octet in the credentials. The mechanism cannot carry it.
    #[error("the user name or password holds a NUL octet")]
    Nul,
    /// A control character in credentials that cannot hold one.
    #[error("the user name, the token or the trace holds a control character")]
    Control,
    /// A user name or password with a character that SASLprep (RFC 4013) prohibits.
    #[error("the user name or password holds a character that SASLprep prohibits (RFC 4013)")]
    Prohibited,
    /// The server's message does not have the form that the mechanism demands.
    #[error("the server's message is malformed: {0}")]
    Malformed(&'static str),
    /// The server's nonce does not begin with ours: it answers somebody else, or it is old.
    #[error("the server's nonce does not extend ours")]
    Nonce,
    /// The server asks for too few iterations to protect the password, or for more than the client accepts.
    #[error("the server asks for {asked} iterations, and from {least} to {most} are acceptable")]
    Iterations {
        /// What the server asks for.
        asked: u64,
        /// RFC 7677 section 4.
        least: u32,
        /// [`Limits::scram_iterations`](crate::Limits::scram_iterations).
        most: u32,
    },
    /// The server reports an error in the mechanism's own way. The text is the server's, made printable.
    #[error("the server reports an error: {0}")]
    Server(Arc<str>),
    /// The server accepts the login without a proof that it knows the password.
    #[error("the server accepts without a proof that it knows the password")]
    Unproven,
    /// The server's proof is wrong: it does not know the password.
    #[error("the server's proof that it knows the password is wrong")]
    WrongProof,
    /// The function that gives the token has failed ([`Credentials::token_from`](super::Credentials::token_from)).
    /// The text is its error, made printable.
    #[error("the token could not be fetched: {0}")]
    Token(Arc<str>),
    /// Anything else, in the mechanism's own words.
    #[error("{0}")]
    Other(Cow<'static, str>),
}
