//! TLS by rustls: whom to trust, and what a handshake has come to. No I/O but for the trust store.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use smtp_proto::{Cause, TlsFacts};

/// How a session is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// As in `TLSv1.3`.
    pub version: String,
    /// As in `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// The server name that the certificate was found valid for; none where no name was given, and so
    /// none was checked.
    pub verified_name: Option<String>,
}

/// What the handshake needs to know.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// For rustls; sent as SNI where it is a domain name.
    pub name: ServerName<'static>,
    /// The name that is checked, if one is.
    pub verified_name: Option<String>,
}

/// Reads the certificates of a PEM file.
pub(crate) fn parse_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(list) if list.is_empty() => Err("the PEM text holds no certificate".into()),
        Ok(list) => Ok(list),
        Err(error) => Err(format!("the PEM text cannot be read: {error}")),
    }
}

/// Who the client is, where it says so by a certificate.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} certificates, key redacted)", self.chain.len())
    }
}

impl Identity {
    /// Reads the certificate with those that lead to its authority, and its private key.
    pub(crate) fn parse_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|error| format!("the private key cannot be read: {error}"))?;
        Ok(Self { chain: parse_pem(chain)?, key })
    }
}

/// The settings for a server: its name is checked where one is given; the chain alone where only trust
/// anchors are; and neither where neither is, which still keeps passive listeners out.
pub(crate) fn settings(
    server_name: Option<&str>,
    host: &str,
    anchors: &[CertificateDer<'static>],
    identity: Option<&Identity>,
) -> Result<TlsSettings, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verify = server_name.is_some() || !anchors.is_empty();
    let chain = match verify {
        true => Some(chain_verifier(anchors, provider.clone())?),
        false => None,
    };
    let builder = match (server_name, chain) {
        (Some(_), Some(chain)) => builder.with_webpki_verifier(chain),
        (_, chain) => {
            let verifier = Arc::new(Unnamed { chain, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| format!("the client's certificate and key are not usable: {error}"))?,
    };
    let name = match server_name {
        Some(name) => {
            ServerName::try_from(name).map_err(|_| format!("\"{name}\" is no server name"))?.to_owned()
        }
        None => match ServerName::try_from(host) {
            Ok(name) => name.to_owned(),
            Err(_) => {
                // rustls wants a name; nothing is sent of it and nothing compared with it.
                config.enable_sni = false;
                ServerName::try_from("unnamed.invalid").map_err(|error| error.to_string())?
            }
        },
    };
    Ok(TlsSettings { config: Arc::new(config), name, verified_name: server_name.map(Into::into) })
}

/// The system's trust store and the anchors given. A certificate of the store that cannot be read is no
/// obstacle: the others still count, and it is the handshake that finds out whether they suffice.
fn chain_verifier(
    anchors: &[CertificateDer<'static>],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for anchor in anchors {
        roots.add(anchor.clone()).map_err(|error| format!("a trust anchor is not usable: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the system has no trust store; give trust anchors".into());
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

/// Checks the chain or nothing, but no name.
#[derive(Debug)]
struct Unnamed {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unnamed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is compared last, when the chain has been found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    // Where the certificate may be anybody's, it may also be one that cannot be parsed, as those of some
    // old servers: that its key signed the handshake would prove nothing.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.chain {
            Some(chain) => chain.verify_tls12_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.chain {
            Some(chain) => chain.verify_tls13_signature(message, certificate, signature),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a TLS error means for the session.
pub fn cause(error: &rustls::Error) -> Cause {
    match error {
        rustls::Error::InvalidCertificate(problem) => Cause::TlsUntrusted(match problem {
            CertificateError::UnknownIssuer => "none of the trust anchors has signed it".into(),
            CertificateError::NotValidForName => "it is for another name".into(),
            problem => problem.to_string().into(),
        }),
        rustls::Error::NoCertificatesPresented => Cause::TlsUntrusted("the server has none".into()),
        error => Cause::TlsFailed(error.to_string().into()),
    }
}

/// How the session is encrypted, after the handshake.
pub fn info(tls: &ClientConnection, verified_name: Option<String>) -> TlsInfo {
    let version = match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
        other => format!("{other:?}"),
    };
    let suite = tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    TlsInfo { version, cipher_suite: suite.unwrap_or_default(), verified_name }
}

/// What the engine may know of the handshake. `verified` says that a server name was given, and so the
/// certificate and its name were checked.
pub fn facts(tls: &ClientConnection, verified: bool) -> TlsFacts {
    let mut facts = TlsFacts::default();
    facts.verified = verified;
    // RFC 9266 section 2: unique under TLS 1.3, and without the extended master secret not under 1.2.
    if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        facts.exporter = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok();
    }
    #[cfg(feature = "scram")]
    if facts.exporter.is_none()
        && let Some([certificate, ..]) = tls.peer_certificates()
    {
        facts.server_end_point = crate::end_point::hash(certificate).map(Into::into);
    }
    facts
}
