//! What the transport has found out about its TLS.

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The chain of the server's certificate was checked, and its name was too.
    pub verified: bool,
    /// The channel binding `tls-exporter` (RFC 9266): 32 octets of keying material exported under the
    /// label `EXPORTER-Channel-Binding` with an empty context. For TLS 1.3, or for 1.2 with the
    /// extended master secret. It is preferred.
    pub exporter: Option<[u8; 32]>,
    /// The channel binding `tls-server-end-point` (RFC 5929 section 4): the hash of the server's
    /// certificate.
    pub server_end_point: Option<Arc<[u8]>>,
}
