//! The settings of a server.

use std::time::Duration;

/// The settings of a [`Receiver`](super::Receiver).
#[derive(Clone, Debug)]
pub struct Options {
    /// The name in the greeting and in the certificate.
    pub hostname: String,
    /// Store each message as a file, in a temporary folder that is deleted with the server. Otherwise, keep them in
    /// memory.
    pub files: bool,
    /// Use LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// Offer STARTTLS on connections not yet in TLS.
    pub starttls: bool,
    /// Expect a TLS handshake at the start of every connection.
    pub implicit_tls: bool,
    /// Listen on a Unix socket, in a temporary folder that is deleted with the server, instead of a TCP port.
    pub unix: bool,
    /// Announce PIPELINING; pipelined commands work either way.
    pub pipelining: bool,
    /// Offer CHUNKING and BINARYMIME (RFC 3030).
    pub chunking: bool,
    /// Offer DSN (RFC 3461). The parameters are checked and stored, but reports are not sent.
    pub dsn: bool,
    /// Offer SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Offer REQUIRETLS inside TLS (RFC 8689).
    pub require_tls: bool,
    /// Offer PRDR (draft-hall-prdr). LMTP ignores it, because it has such replies anyway.
    pub prdr: bool,
    /// State these limits by LIMITS (RFC 9422), and enforce them.
    pub limits: Option<Limits>,
    /// The largest message accepted, in octets. Zero means that the size is not limited (RFC 1870 §4).
    pub max_size: u64,
    /// The most messages of a session. The next MAIL gets 421, and the connection closes.
    pub max_messages: Option<usize>,
    /// How long a session may send nothing. It then gets 421, and the connection closes. RFC 5321 §4.5.3.2.7 demands
    /// at least five minutes.
    pub idle_timeout: Duration,
    /// User name and password. If set, MAIL needs a login.
    pub auth: Option<(String, String)>,
    /// The password is a token: offer only XOAUTH2 and OAUTHBEARER.
    pub auth_by_token: bool,
    /// Offer AUTH outside TLS too.
    pub auth_in_clear: bool,
    /// Ask for a client certificate that this one, in PEM, has signed. A client that shows one may log in by EXTERNAL
    /// as the user.
    pub client_ca: Option<String>,
    /// Use only TLS 1.2.
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
