//! What carries the octets, and what its TLS handshake has established.

use alloc::sync::Arc;

/// The result of a TLS handshake, for
/// [`handle_tls_established_with`](crate::Connection::handle_tls_established_with). The default only says that the
/// transport is encrypted.
///
/// ```
/// use smtp_proto::TlsFacts;
///
/// let mut facts = TlsFacts::default();
/// facts.verified = true;
/// ```
///
/// Credentials go to a verified server or nowhere, unless
/// [`Credentials::permit_unverified`](crate::Credentials::permit_unverified) permits it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The server's certificate was checked. Its key signed the handshake, its chain leads to a trust anchor, it is
    /// valid now, and it names the host that was connected to.
    pub verified: bool,
    /// Why the server is not verified, as words for an error line.
    pub problem: Option<Arc<str>>,
    /// The channel binding `tls-exporter` (RFC 9266): 32 octets of keying material exported under the label
    /// `EXPORTER-Channel-Binding` with an empty context. It needs TLS 1.3, or 1.2 with the extended master secret. It
    /// is preferred over [`server_end_point`](Self::server_end_point).
    ///
    /// Give neither binding if the signature of the handshake was not checked: an attacker in between could have it.
    pub exporter: Option<[u8; 32]>,
    /// The channel binding `tls-server-end-point` (RFC 5929 section 4): the hash of the server's
    /// certificate.
    pub server_end_point: Option<Arc<[u8]>>,
}

/// What carries the octets of a session at its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Channel {
    /// A network, where anybody may listen.
    #[default]
    Network,
    /// A socket that does not leave this host, such as a Unix socket. It counts as verified.
    Local,
    /// TLS that another program or library has set up, such as a tunnel, with what is known of it.
    Tls(TlsFacts),
}
