//! What the transport is, and what it has found out about its TLS.

use alloc::sync::Arc;

/// What a TLS handshake has established, for
/// [`handle_tls_established_with`](crate::Connection::handle_tls_established_with). Without any facts
/// nothing is assumed but that the transport is encrypted.
///
/// ```
/// use smtp_proto::TlsFacts;
///
/// let mut facts = TlsFacts::default();
/// facts.verified = true;
/// ```
///
/// Credentials go to a verified server or nowhere, unless they permit it by name; see
/// [`Credentials::permit_unverified`](crate::Credentials::permit_unverified).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The handshake was signed with the key of the server's certificate, the chain of the certificate leads to
    /// a trust anchor, it is valid now, and it is for the name that was connected to.
    pub verified: bool,
    /// Why it is not verified, in words for an error line.
    pub problem: Option<Arc<str>>,
    /// The channel binding `tls-exporter` (RFC 9266): 32 octets of keying material exported under the
    /// label `EXPORTER-Channel-Binding` with an empty context. For TLS 1.3, or for 1.2 with the
    /// extended master secret. It is preferred. Neither binding may be given where the handshake's signature was
    /// not checked: somebody in between could have it.
    pub exporter: Option<[u8; 32]>,
    /// The channel binding `tls-server-end-point` (RFC 5929 section 4): the hash of the server's
    /// certificate.
    pub server_end_point: Option<Arc<[u8]>>,
}

/// What carries the octets from the first one on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Channel {
    /// A network, on which anybody may read along.
    #[default]
    Network,
    /// A socket that does not leave this host, as a Unix socket: it counts as verified.
    Local,
    /// TLS that somebody else has set up, as a tunnel does: what is known of it.
    Tls(TlsFacts),
}
