//! TLS by rustls: whom to trust, and what a handshake has come to. No I/O but for the trust store.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, ProtocolVersion,
    RootCertStore, SignatureScheme,
};
use smtp_proto::{Cause, TlsFacts};

use crate::certificate;

/// How a session is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// As in `TLSv1.3`.
    pub version: String,
    /// As in `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// The name for which the server was verified: its certificate is trusted, valid now and for this name, and
    /// it has the key.
    pub verified_name: Option<String>,
    /// Else why it was not verified.
    pub unverified: Option<Arc<str>>,
}

/// What the handshake needs to know.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// For rustls; sent as SNI where it is a domain name.
    pub name: ServerName<'static>,
    /// Knows after the handshake what was found of the server.
    pub verifier: Arc<Verifier>,
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
        write!(
            f,
            "Identity({} certificates, key redacted)",
            self.chain.len()
        )
    }
}

impl Identity {
    /// Reads the certificate with those that lead to its authority, and its private key.
    pub(crate) fn parse_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|error| format!("the private key cannot be read: {error}"))?;
        Ok(Self {
            chain: parse_pem(chain)?,
            key,
        })
    }
}

/// Whom to trust: the system's store, and the certificates that the caller gave. The store is read when the first
/// certificate is to be checked, once for all sessions that share this.
#[derive(Debug, Default)]
pub struct TrustStore {
    given: Vec<CertificateDer<'static>>,
    chains: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
}

impl TrustStore {
    /// The same with more certificates.
    pub(crate) fn with(&self, more: Vec<CertificateDer<'static>>) -> Self {
        Self {
            given: [&self.given[..], &more].concat(),
            chains: OnceLock::new(),
        }
    }

    fn chains(&self, provider: &Arc<CryptoProvider>) -> Result<&WebPkiServerVerifier, String> {
        let chains = self.chains.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // A certificate of the store that cannot be read is left out. The others count.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            // A server's own certificate vouches for itself alone.
            for anchor in self
                .given
                .iter()
                .filter(|given| certificate::is_authority(given))
            {
                roots
                    .add(anchor.clone())
                    .map_err(|error| format!("a trust anchor is not usable: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the system has no trust store; give trust anchors".into());
            }
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            verifier.build().map_err(|error| error.to_string())
        });
        chains.as_deref().map_err(Clone::clone)
    }
}

/// The settings for one session. `must_verify` says whether a server that is not verified ends the handshake.
pub(crate) fn settings(
    server_name: Option<&str>,
    host: &str,
    must_verify: bool,
    trust: &Arc<TrustStore>,
    identity: Option<&Identity>,
) -> Result<TlsSettings, String> {
    let provider = Arc::new(ring::default_provider());
    let wanted = server_name.unwrap_or(host);
    let name = ServerName::try_from(wanted)
        .map(|name| name.to_owned())
        .map_err(|_| format!("\"{wanted}\" is not a name that a certificate can be for"));
    if let Err(problem) = &name
        && (must_verify || server_name.is_some())
    {
        return Err(format!(
            "{problem}; give the name of the server (server_name)"
        ));
    }
    let verifier = Arc::new(Verifier {
        trust: Arc::clone(trust),
        name: name.clone(),
        must_verify,
        provider: Arc::clone(&provider),
        findings: Mutex::default(),
    });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| format!("the client's certificate and key are not usable: {error}"))?,
    };
    let name = match name {
        Ok(name) => name,
        Err(_) => {
            // rustls wants a name; nothing is sent of it.
            config.enable_sni = false;
            ServerName::try_from("unnamed.invalid").map_err(|error| error.to_string())?
        }
    };
    Ok(TlsSettings {
        config: Arc::new(config),
        name,
        verifier,
    })
}

/// Checks the server, always. Whether a server that does not pass ends the handshake is the policy's business, and
/// what was found is the engine's to know.
///
/// One of these is for one session: a resumed session would not be checked, and is not found verified.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<TrustStore>,
    /// The name that the certificate must show, or why it cannot be used.
    name: Result<ServerName<'static>, String>,
    must_verify: bool,
    provider: Arc<CryptoProvider>,
    findings: Mutex<Findings>,
}

/// What was found of the server.
#[derive(Clone, Debug, Default)]
struct Findings {
    /// Of its certificate: nothing as long as none was shown, else why it is not trusted.
    certificate: Option<Result<(), Arc<str>>>,
    /// The handshake was signed with the key of that certificate.
    is_signed: bool,
}

impl Verifier {
    fn findings(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), (rustls::Error, String)> {
        let untrusted =
            |why: String| (CertificateError::ApplicationVerificationFailure.into(), why);
        let name = self.name.as_ref().map_err(|why| untrusted(why.clone()))?;
        let checked = match self.trust.given.iter().any(|given| given == certificate) {
            true => check_given(certificate, name, now),
            false => self
                .trust
                .chains(&self.provider)
                .map_err(untrusted)?
                .verify_server_cert(certificate, intermediates, name, ocsp, now)
                .map(drop),
        };
        checked.map_err(|error| {
            let why = certificate::problem(&error, certificate, name);
            (error, why)
        })
    }

    fn signature(
        &self,
        verified: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.findings().is_signed = verified.is_ok();
        match self.must_verify {
            true => verified,
            // Some old servers have certificates that cannot be parsed.
            false => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    /// Why the server is not verified, if it is not.
    fn problem(&self) -> Option<Arc<str>> {
        match self.findings().clone() {
            Findings {
                certificate: Some(Err(why)),
                ..
            } => Some(why),
            Findings {
                is_signed: false,
                certificate: Some(Ok(())),
            } => Some("it did not show that it has the key of its certificate".into()),
            Findings {
                certificate: None, ..
            } => Some("it was not asked for its certificate".into()),
            Findings {
                is_signed: true,
                certificate: Some(Ok(())),
            } => None,
        }
    }

    /// What a failed handshake means for the session.
    pub fn cause(&self, error: &rustls::Error) -> Cause {
        match error {
            rustls::Error::InvalidCertificate(problem) => {
                let why = self.problem().unwrap_or_else(|| problem.to_string().into());
                let advice = "trust its certificate (trust_pem), give the name that it is for (server_name), or \
                              accept any server (verify(false), and for a password \
                              Credentials::permit_unverified)";
                Cause::TlsUntrusted(format!("{why}; {advice}").into())
            }
            rustls::Error::NoCertificatesPresented => {
                Cause::TlsUntrusted("it has no certificate".into())
            }
            error => Cause::TlsFailed(error.to_string().into()),
        }
    }
}

/// A certificate that the caller gave is trusted as the server's own, although it may be that of an authority, as
/// `openssl req -x509` makes it. Its name and its dates still count.
fn check_given(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    certificate::check_dates(certificate, now)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (result, found) = match self.check(certificate, intermediates, ocsp, now) {
            Ok(()) => (Ok(()), Ok(())),
            Err((error, why)) => (Err(error), Err(why.into())),
        };
        self.findings().certificate = Some(found);
        match result {
            Err(error) if self.must_verify => Err(error),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.signature(rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            algorithms,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.signature(rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            algorithms,
        ))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// How the session is encrypted after the handshake, and what the engine may know of it.
pub fn established(tls: &ClientConnection, verifier: &Verifier) -> (TlsInfo, TlsFacts) {
    let version = match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
        other => format!("{other:?}"),
    };
    let suite = tls
        .negotiated_cipher_suite()
        .map(|suite| format!("{:?}", suite.suite()));
    let mut facts = TlsFacts::default();
    facts.problem = verifier.problem();
    facts.verified = facts.problem.is_none();
    let name = verifier.name.as_ref().ok().filter(|_| facts.verified);
    let info = TlsInfo {
        version,
        cipher_suite: suite.unwrap_or_default(),
        verified_name: name.map(|name| name.to_str().into_owned()),
        unverified: facts.problem.clone(),
    };
    // Without the signature, somebody in between could show the server's certificate as his own.
    if verifier.findings().is_signed {
        bind(tls, &mut facts);
    }
    (info, facts)
}

/// The channel bindings.
fn bind(tls: &ClientConnection, facts: &mut TlsFacts) {
    // RFC 9266 section 2: unique under TLS 1.3, and without the extended master secret not under 1.2.
    if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        facts.exporter = tls
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
            .ok();
    }
    #[cfg(feature = "scram")]
    if facts.exporter.is_none()
        && let Some([certificate, ..]) = tls.peer_certificates()
    {
        facts.server_end_point = crate::end_point::hash(certificate).map(Into::into);
    }
}
