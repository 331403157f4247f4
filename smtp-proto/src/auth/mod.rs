//! SASL mechanisms (RFC 4422, RFC 4954) as pure functions, and the choice among them. The engine does base64, initial
//! responses, the line limit and cancelling.

mod choice;
mod external;
mod mechanism;
mod nonce;
mod password;
mod redact;
#[cfg(feature = "scram")]
mod saslprep;
#[cfg(feature = "scram")]
mod scram;
mod token;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;

use zeroize::Zeroizing;

use crate::text::Printable;

pub(crate) use choice::{Surroundings, Trust};
pub use mechanism::{Mechanism, MechanismError, Secret};
pub use nonce::Nonce;
pub(crate) use redact::Redaction;
pub use token::TokenError;

/// How to log in, and over which connections. Secrets are wiped when the last clone is dropped, and `Debug` never
/// shows them.
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
    authorization_id: Option<Arc<str>>,
    allowed: Option<Arc<[String]>>,
    in_clear: bool,
    unverified: bool,
}

/// What credentials are, without what they hold.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    /// `password`, `token`, `external`, `anonymous` or `custom`.
    pub kind: &'static str,
    /// The mechanisms that are allowed, where not all are.
    pub mechanisms: Option<&'a [String]>,
    /// They act as another identity.
    pub has_authorization_id: bool,
}

#[derive(Clone)]
enum Source {
    Password(Arc<Login>),
    Token(Arc<Login>),
    /// A token that is fetched for each session.
    TokenFrom(Arc<str>, Arc<Fetch>),
    /// The token for this session could not be fetched.
    NoToken(Arc<str>),
    External,
    Anonymous(Arc<str>),
    Custom(Arc<dyn Fn() -> Box<dyn Mechanism> + Send + Sync>),
}

type Fetch = dyn Fn() -> Result<String, String> + Send + Sync;

struct Login {
    user: Zeroizing<String>,
    secret: Zeroizing<String>,
}

impl Login {
    fn new(user: impl AsRef<str>, secret: impl AsRef<str>) -> Arc<Self> {
        Arc::new(Self {
            user: Zeroizing::new(user.as_ref().into()),
            secret: Zeroizing::new(secret.as_ref().into()),
        })
    }
}

impl Credentials {
    /// A user name and a password. The mechanism is the first of these that the server offers and the connection
    /// permits: SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN, LOGIN. SCRAM needs
    /// the feature `scram` and [`Connection::with_nonce`](crate::Connection::with_nonce).
    ///
    /// If the server then rejects a mechanism that it offers (504, 534), the engine tries the next one. A plain
    /// refusal (535) ends the session. Outside TLS, a mechanism that shows the password never follows one that does
    /// not.
    ///
    /// The password goes to a verified server or nowhere, unless [`permit_unverified`](Self::permit_unverified) or
    /// [`permit_in_clear`](Self::permit_in_clear) permits more.
    ///
    /// The password is copied. Your own copy stays yours to wipe. `Zeroizing<String>` wipes itself.
    pub fn password(user: impl AsRef<str>, password: impl AsRef<str>) -> Self {
        Self::from_source(Source::Password(Login::new(user, password)))
    }

    /// A user name and an OAuth 2.0 access token: OAUTHBEARER (RFC 7628) or XOAUTH2.
    pub fn token(user: impl AsRef<str>, token: impl AsRef<str>) -> Self {
        Self::from_source(Source::Token(Login::new(user, token)))
    }

    /// Like [`token`](Self::token), with a function that gives the token. It is called once for each session, after
    /// the connection is established. So a token that has expired is renewed. If the function fails, the session ends
    /// with [`MechanismError::Token`] at stage `auth`.
    ///
    /// The function should not block an asynchronous program for long. Let it read a token that another task renews.
    ///
    /// ```
    /// use std::sync::{Arc, RwLock};
    /// use smtp_proto::Credentials;
    ///
    /// let current = Arc::new(RwLock::new(String::from("ya29.token")));
    /// let credentials = Credentials::token_from("alice@example.org", move || {
    ///     current.read().map(|token| token.clone())
    ///         .map_err(|_| "the task that renews the token has panicked")
    /// });
    /// ```
    pub fn token_from<E: fmt::Display>(
        user: &str,
        token: impl Fn() -> Result<String, E> + Send + Sync + 'static,
    ) -> Self {
        let fetch = move || token().map_err(|error| error.to_string());
        Self::from_source(Source::TokenFrom(user.into(), Arc::new(fetch)))
    }

    /// EXTERNAL (RFC 4422 appendix A): the server knows the client by other means. Examples are a client certificate,
    /// and the user at the other end of a Unix socket.
    ///
    /// ```
    /// let credentials = smtp_proto::Credentials::external().authorization_id("alice");
    /// ```
    pub fn external() -> Self {
        Self::from_source(Source::External)
    }

    /// ANONYMOUS (RFC 4505). The trace tells the server who is there: a mail address or a word. It may be empty.
    ///
    /// ```
    /// let credentials = smtp_proto::Credentials::anonymous("alice@example.org");
    /// ```
    pub fn anonymous(trace: impl AsRef<str>) -> Self {
        Self::from_source(Source::Anonymous(trace.as_ref().into()))
    }

    /// A mechanism of your own. `mechanism` makes a new run of it for each attempt.
    ///
    /// ```
    /// use smtp_proto::{Credentials, auth::{Mechanism, MechanismError, Secret}};
    ///
    /// /// SECURID (RFC 2808): user name and passcode of a token card.
    /// struct SecurId;
    ///
    /// impl Mechanism for SecurId {
    ///     fn name(&self) -> &str {
    ///         "SECURID"
    ///     }
    ///     fn exposes_secret(&self) -> bool {
    ///         true
    ///     }
    ///     fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
    ///         Ok(Some(Secret::new(b"\0magnus\0123456\0".to_vec())))
    ///     }
    ///     fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
    ///         Err(MechanismError::UnexpectedChallenge)
    ///     }
    /// }
    ///
    /// let credentials = Credentials::custom(|| Box::new(SecurId));
    /// ```
    pub fn custom(mechanism: impl Fn() -> Box<dyn Mechanism> + Send + Sync + 'static) -> Self {
        Self::from_source(Source::Custom(Arc::new(mechanism)))
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            authorization_id: None,
            allowed: None,
            in_clear: false,
            unverified: false,
        }
    }

    /// Acts as this identity. The server must permit that to the user who logs in. Mechanisms that cannot carry an
    /// identity (CRAM-MD5, LOGIN, XOAUTH2) are not used then. ANONYMOUS and your own mechanisms ignore it. Without an
    /// identity, OAUTHBEARER carries the user name in this place.
    ///
    /// ```
    /// let credentials = smtp_proto::Credentials::password("admin", "s3cret").authorization_id("alice");
    /// ```
    #[must_use]
    pub fn authorization_id(mut self, identity: impl AsRef<str>) -> Self {
        let identity = identity.as_ref();
        self.authorization_id = Some(identity.into()).filter(|_| !identity.is_empty());
        self
    }

    /// Allows only these mechanisms, in any case and order. Others are never used, whatever the server offers.
    #[must_use]
    pub fn mechanisms<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.allowed = Some(names.iter().map(|name| name.as_ref().into()).collect());
        self
    }

    /// Permits sending the secret over a connection that is not encrypted, where anybody may listen. For TLS with an
    /// unverified server, call [`permit_unverified`](Self::permit_unverified) instead.
    #[must_use]
    pub fn permit_in_clear(mut self) -> Self {
        self.in_clear = true;
        self
    }

    /// Permits sending the secret over TLS to a server that is not verified: its certificate is not trusted, has
    /// expired, or is for another name. An attacker between you and the server can be that server.
    ///
    /// ```
    /// // A test server with a certificate that it made itself.
    /// let credentials = smtp_proto::Credentials::password("alice", "s3cret").permit_unverified();
    /// ```
    #[must_use]
    pub fn permit_unverified(mut self) -> Self {
        self.unverified = true;
        self
    }

    /// These credentials with a token for one session, if a function gives it.
    pub(crate) fn fetched(&self) -> Option<Self> {
        let Source::TokenFrom(user, fetch) = &self.source else {
            return None;
        };
        let source = match fetch() {
            Ok(token) => Source::Token(Arc::new(Login {
                user: Zeroizing::new((**user).into()),
                secret: Zeroizing::new(token),
            })),
            Err(words) => Source::NoToken(Printable(words.as_bytes()).to_string().into()),
        };
        Some(Self {
            source,
            ..self.clone()
        })
    }

    /// Why the token is missing, if it could not be fetched.
    pub(crate) fn missing(&self) -> Option<MechanismError> {
        match &self.source {
            Source::NoToken(words) => Some(MechanismError::Token(words.clone())),
            _ => None,
        }
    }

    /// Whether the mechanism is the caller's own. The engine knows nothing about it.
    pub(crate) fn is_custom(&self) -> bool {
        matches!(self.source, Source::Custom(_))
    }

    /// Whether [`permit_unverified`](Self::permit_unverified) was called.
    pub fn permits_unverified(&self) -> bool {
        self.unverified
    }

    /// Whether [`permit_in_clear`](Self::permit_in_clear) was called.
    pub fn permits_clear(&self) -> bool {
        self.in_clear
    }

    /// What they are, without what they hold. For the record of a session.
    #[doc(hidden)]
    pub fn outline(&self) -> Outline<'_> {
        Outline {
            kind: self.kind(),
            mechanisms: self.allowed.as_deref(),
            has_authorization_id: self.authorization_id.is_some(),
        }
    }

    fn kind(&self) -> &'static str {
        match self.source {
            Source::Password(_) => "password",
            Source::Token(_) | Source::TokenFrom(..) | Source::NoToken(_) => "token",
            Source::External => "external",
            Source::Anonymous(_) => "anonymous",
            Source::Custom(_) => "custom",
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, redacted)", self.kind())
    }
}

fn secret(parts: &[&[u8]]) -> Secret {
    // `concat` allocates once, so growing leaves no copy of a secret in memory.
    Zeroizing::new(parts.concat())
}

/// A `saslname` (RFC 5801 section 4). Commas separate the fields of a list, so the name must not hold one.
fn sasl_name(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}
