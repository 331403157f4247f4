//! SASL mechanisms (RFC 4422, RFC 4954) as pure functions, and the choice among them. The engine carries
//! base64, initial responses, the line limit and cancelling.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use zeroize::Zeroizing;

use crate::capability::Capabilities;

/// Octets that are wiped from memory when dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// One run of a SASL mechanism. Implement it to bring your own; give it to
/// [`Credentials::custom`].
pub trait Mechanism: Send {
    /// The name as the server's AUTH line has it, in upper case.
    fn name(&self) -> &str;

    /// Whether somebody who reads the conversation can use it to log in. Such a mechanism runs only
    /// inside TLS, unless the caller permits otherwise.
    fn exposes_secret(&self) -> bool;

    /// The first response, where the client speaks first; none where the server does.
    ///
    /// # Errors
    /// The credentials cannot be expressed in this mechanism.
    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(None)
    }

    /// The response to a challenge, both without base64.
    ///
    /// # Errors
    /// The challenge is not acceptable; the exchange is cancelled.
    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError>;

    /// Asked when the server has accepted: whether it may be believed. A mechanism that authenticates
    /// the server as well answers with an error until the proof has come.
    ///
    /// # Errors
    /// The server has not proved what it had to.
    fn verify(&mut self) -> Result<(), MechanismError> {
        Ok(())
    }
}

/// Why a mechanism cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MechanismError {
    /// The challenge is no base64, or not of one line.
    #[error("the server's challenge is not base64")]
    Undecodable,
    /// More challenges than the mechanism has, or than the limit allows.
    #[error("the server sent a challenge where none belongs")]
    UnexpectedChallenge,
    /// A user name or password with a NUL octet in it, which the mechanism cannot carry.
    #[error("the user name or password holds a NUL octet")]
    Nul,
    /// Anything else, in the mechanism's own words.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

/// How to log in, and what that may cost. Secrets are wiped when the last clone is dropped, and never
/// shown by `Debug`.
///
/// ```
/// use smtp_proto::Credentials;
///
/// let credentials = Credentials::password("alice", "s3cret").mechanisms(&["CRAM-MD5", "PLAIN"]);
/// assert!(!format!("{credentials:?}").contains("s3cret"));
/// ```
#[derive(Clone)]
pub struct Credentials {
    source: Source,
    allowed: Option<Arc<[String]>>,
    in_clear: bool,
}

#[derive(Clone)]
enum Source {
    Password(Arc<Login>),
    Token(Arc<Login>),
    Custom(Arc<dyn Fn() -> Box<dyn Mechanism> + Send + Sync>),
}

struct Login {
    user: Zeroizing<String>,
    secret: Zeroizing<String>,
}

impl Login {
    fn new(user: &str, secret: &str) -> Arc<Self> {
        Arc::new(Self { user: Zeroizing::new(user.into()), secret: Zeroizing::new(secret.into()) })
    }
}

impl Credentials {
    /// A user name and a password: CRAM-MD5, PLAIN or LOGIN, the first of these that the server offers
    /// and that may be used on the connection.
    pub fn password(user: &str, password: &str) -> Self {
        Self::from_source(Source::Password(Login::new(user, password)))
    }

    /// A user name and an OAuth 2.0 access token: XOAUTH2.
    pub fn token(user: &str, token: &str) -> Self {
        Self::from_source(Source::Token(Login::new(user, token)))
    }

    /// A mechanism of the caller's own; `mechanism` makes a new run of it for each attempt.
    ///
    /// ```
    /// use smtp_proto::{Credentials, Mechanism, MechanismError, Secret};
    ///
    /// /// EXTERNAL (RFC 4422 appendix A): the TLS client certificate says who we are.
    /// struct External;
    ///
    /// impl Mechanism for External {
    ///     fn name(&self) -> &str {
    ///         "EXTERNAL"
    ///     }
    ///     fn exposes_secret(&self) -> bool {
    ///         false
    ///     }
    ///     fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
    ///         Ok(Some(Secret::default()))
    ///     }
    ///     fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
    ///         Err(MechanismError::UnexpectedChallenge)
    ///     }
    /// }
    ///
    /// let credentials = Credentials::custom(|| Box::new(External));
    /// ```
    pub fn custom(mechanism: impl Fn() -> Box<dyn Mechanism> + Send + Sync + 'static) -> Self {
        Self::from_source(Source::Custom(Arc::new(mechanism)))
    }

    fn from_source(source: Source) -> Self {
        Self { source, allowed: None, in_clear: false }
    }

    /// Allows only these mechanisms, in any case and order. None weaker is ever used, whatever the
    /// server offers.
    #[must_use]
    pub fn mechanisms<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.allowed = Some(names.iter().map(|name| name.as_ref().into()).collect());
        self
    }

    /// Permits sending the secret over a connection that is not encrypted, to whoever listens.
    #[must_use]
    pub fn permit_in_clear(mut self) -> Self {
        self.in_clear = true;
        self
    }

    pub(crate) fn permits_clear(&self) -> bool {
        self.in_clear
    }

    /// The mechanisms to try, strongest first: those that the caller allows, the server offers, and the
    /// connection permits.
    pub(crate) fn candidates(&self, offered: &Capabilities, encrypted: bool) -> Choice {
        let mut choice = Choice::default();
        let all: Vec<Box<dyn Mechanism>> = match &self.source {
            Source::Password(login) => Vec::from([
                Box::new(CramMd5(login.clone())) as Box<dyn Mechanism>,
                Box::new(Plain(login.clone())),
                Box::new(LoginMechanism { login: login.clone(), step: 0 }),
            ]),
            Source::Token(login) => Vec::from([Box::new(XOauth2(login.clone())) as Box<dyn Mechanism>]),
            Source::Custom(make) => Vec::from([make()]),
        };
        for mechanism in all {
            let name = mechanism.name();
            let allowed = |list: &Arc<[String]>| list.iter().any(|n| n.eq_ignore_ascii_case(name));
            if !offered.offers_mechanism(name) || !self.allowed.as_ref().is_none_or(allowed) {
                continue;
            }
            if mechanism.exposes_secret() && !encrypted && !self.in_clear {
                choice.withheld = true;
                continue;
            }
            choice.mechanisms.push(mechanism);
        }
        // The engine takes them from the end.
        choice.mechanisms.reverse();
        choice
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Password(_) => "password",
            Source::Token(_) => "token",
            Source::Custom(_) => "custom",
        };
        write!(f, "Credentials({kind}, redacted)")
    }
}

/// What [`Credentials::candidates`] found.
#[derive(Default)]
pub(crate) struct Choice {
    /// The mechanisms to try, the strongest last.
    pub(crate) mechanisms: Vec<Box<dyn Mechanism>>,
    /// One more was left out only because the connection is not encrypted.
    pub(crate) withheld: bool,
}

fn secret(parts: &[&[u8]]) -> Secret {
    // `concat` allocates once: no copy of a secret is left behind by growing.
    Zeroizing::new(parts.concat())
}

/// PLAIN (RFC 4616).
struct Plain(Arc<Login>);

impl Mechanism for Plain {
    fn name(&self) -> &str {
        "PLAIN"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        let (user, password) = (self.0.user.as_bytes(), self.0.secret.as_bytes());
        if user.contains(&0) || password.contains(&0) {
            return Err(MechanismError::Nul);
        }
        Ok(Some(secret(&[b"\0", user, b"\0", password])))
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Err(MechanismError::UnexpectedChallenge)
    }
}

/// LOGIN, which no RFC defines: the user name for the first prompt and the password for the second,
/// whatever the prompts say; servers write them differently, some with a NUL.
struct LoginMechanism {
    login: Arc<Login>,
    step: u8,
}

impl Mechanism for LoginMechanism {
    fn name(&self) -> &str {
        "LOGIN"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        self.step += 1;
        match self.step {
            1 => Ok(secret(&[self.login.user.as_bytes()])),
            2 => Ok(secret(&[self.login.secret.as_bytes()])),
            _ => Err(MechanismError::UnexpectedChallenge),
        }
    }
}

/// CRAM-MD5 (RFC 2195): the password is never sent.
struct CramMd5(Arc<Login>);

impl Mechanism for CramMd5 {
    fn name(&self) -> &str {
        "CRAM-MD5"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        if challenge.is_empty() {
            // Without a challenge the answer could be replayed by whoever reads it.
            return Err(MechanismError::Other("the server's CRAM-MD5 challenge is empty".into()));
        }
        let mut mac = Hmac::<Md5>::new_from_slice(self.0.secret.as_bytes())
            .map_err(|_| MechanismError::Other("HMAC takes no such key".into()))?;
        mac.update(challenge);
        let mut digest = [0; 32];
        for (pair, byte) in digest.chunks_exact_mut(2).zip(mac.finalize().into_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        Ok(secret(&[self.0.user.as_bytes(), b" ", &digest]))
    }
}

/// XOAUTH2, as Google and Microsoft document it.
struct XOauth2(Arc<Login>);

impl Mechanism for XOauth2 {
    fn name(&self) -> &str {
        "XOAUTH2"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        let (user, token) = (self.0.user.as_bytes(), self.0.secret.as_bytes());
        Ok(Some(secret(&[b"user=", user, b"\x01auth=Bearer ", token, b"\x01\x01"])))
    }

    /// The only challenge is the server's error, and the only answer an empty one; then it says 535.
    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Ok(Secret::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cram_md5_gives_the_response_of_rfc_2195() {
        let mut mechanism = CramMd5(Login::new("tim", "tanstaaftanstaaf"));
        let response = mechanism.respond(b"<1896.697170952@postoffice.reston.mci.net>").unwrap();
        assert_eq!(&response[..], b"tim b913a602c7eda7a495b4e6e7334d3890");
    }

    #[test]
    fn plain_gives_the_response_of_rfc_4616() {
        let response = Plain(Login::new("tim", "tanstaaftanstaaf")).initial_response();
        assert_eq!(&response.unwrap().unwrap()[..], b"\0tim\0tanstaaftanstaaf");
        assert_eq!(Plain(Login::new("t\0", "")).initial_response(), Err(MechanismError::Nul));
    }
}
