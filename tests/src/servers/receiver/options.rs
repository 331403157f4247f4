//! How a server behaves, as it is started.

use std::time::Duration;

/// How a [`Receiver`](super::Receiver) behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name in the greeting and in the certificate.
    pub hostname: String,
    /// Store each message as a file, in a temporary folder that goes with the server. Else they are kept in memory.
    pub files: bool,
    /// Speak LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// Offer STARTTLS on connections not yet in TLS.
    pub starttls: bool,
    /// Expect a TLS handshake at the start of every connection.
    pub implicit_tls: bool,
    /// Listen on a Unix socket, in a temporary folder that goes with the server, instead of a TCP port.
    pub unix: bool,
    /// Announce PIPELINING; pipelined commands work either way.
    pub pipelining: bool,
    /// Offer CHUNKING and BINARYMIME (RFC 3030).
    pub chunking: bool,
    /// Offer DSN (RFC 3461). The parameters are checked and stored; nothing is
    /// ever reported.
    pub dsn: bool,
    /// Offer SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Offer REQUIRETLS inside TLS (RFC 8689).
    pub require_tls: bool,
    /// Offer PRDR (draft-hall-prdr), though not in LMTP, which has its own.
    pub prdr: bool,
    /// State these limits by LIMITS (RFC 9422), and keep them.
    pub limits: Option<Limits>,
    /// Largest message accepted, in octets; zero for no limit (RFC 1870 §4).
    pub max_size: u64,
    /// Messages that a session may bring; the next MAIL is answered 421, and the connection closed.
    pub max_messages: Option<usize>,
    /// How long a session may say nothing before it is told 421, and closed. RFC 5321 §4.5.3.2.7 demands five minutes
    /// at least.
    pub idle_timeout: Duration,
    /// User name and password; when set, MAIL requires authentication.
    pub auth: Option<(String, String)>,
    /// The password is a token: offer XOAUTH2 and OAUTHBEARER, and nothing else.
    pub auth_by_token: bool,
    /// Offer AUTH outside TLS too.
    pub auth_in_clear: bool,
    /// Ask for a client certificate that this one has signed, in PEM, and let
    /// whoever shows one log in by EXTERNAL as the user.
    pub client_ca: Option<String>,
    /// Speak TLS 1.2 and no other.
    pub tls12: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hostname: "receiver.localhost".to_owned(),
            files: false,
            lmtp: false,
            starttls: true,
            implicit_tls: false,
            unix: false,
            pipelining: true,
            chunking: true,
            dsn: true,
            smtputf8: true,
            require_tls: false,
            prdr: false,
            limits: None,
            max_size: 64 * 1024 * 1024,
            max_messages: None,
            idle_timeout: Duration::from_secs(300),
            auth: None,
            auth_by_token: false,
            auth_in_clear: false,
            client_ca: None,
            tls12: false,
        }
    }
}

/// What one client may ask for (RFC 9422 §4). Refused commands count too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// RCPT commands in a transaction.
    pub rcpt_max: usize,
    /// MAIL commands in a session.
    pub mail_max: usize,
}
