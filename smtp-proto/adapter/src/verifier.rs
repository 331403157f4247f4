//! Whom to trust, and the check of a server's certificate. The only I/O is reading the system's trust store.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};

use crate::certificate::{self, NAME_IT, Problem};
use crate::handshake::words;

/// Whom to trust: the system's store, and the certificates that the caller gave.
#[derive(Debug, Default)]
pub(crate) struct TrustStore {
    pub(crate) given: Vec<CertificateDer<'static>>,
    /// Built when they are first needed.
    pub(crate) chains: OnceLock<Arc<WebPkiServerVerifier>>,
}

/// The system's trust store, which is read once in the life of the process. Unreadable parts are left out.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

impl TrustStore {
    pub(crate) fn chains(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<&WebPkiServerVerifier, String> {
        if let Some(chains) = self.chains.get() {
            return Ok(chains);
        }
        let mut roots = system_roots().clone();
        // A server's own certificate only vouches for itself.
        for (index, anchor) in self.given.iter().enumerate() {
            if certificate::is_authority(anchor) {
                roots.add(anchor.clone()).map_err(|error| {
                    let number = index + 1;
                    let why = words(&error);
                    format!("certificate {number} of those to trust is not usable: {why}")
                })?;
            }
        }
        if roots.is_empty() {
            return Err("this host has no trust store".into());
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.build().map_err(|error| error.to_string())?;
        Ok(self.chains.get_or_init(|| verifier))
    }
}

/// Checks every server. The policy decides whether a failed check ends the handshake. The engine gets the result.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) trust: Arc<TrustStore>,
    /// The name that the certificate must show, or why it cannot be used.
    pub(crate) name: Result<ServerName<'static>, String>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// The findings of one session, if a server that is not verified may go on. With `None`, each failure ends the
    /// handshake. Many sessions can then share it, because a server that passes is verified.
    pub(crate) findings: Option<Mutex<Findings>>,
}

/// What was found out about the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// About its certificate: `None` before one was shown, and an error if it is not trusted.
    pub(crate) certificate: Option<Result<(), Arc<str>>>,
    /// Whether the key of that certificate signed the handshake.
    pub(crate) is_signed: bool,
}

/// Why the server is not verified. It passes through rustls.
#[derive(Debug)]
pub(crate) struct Untrusted(pub(crate) String);

impl std::fmt::Display for Untrusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Untrusted {}

impl Verifier {
    pub(crate) fn findings(&self) -> Option<MutexGuard<'_, Findings>> {
        let findings = self.findings.as_ref()?;
        Some(findings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why the certificate does not verify the server, if it does not.
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Problem> {
        let name = self.name.as_ref();
        let name = name.map_err(|why| Problem::new(why, NAME_IT))?;
        let checked = match self.trust.given.iter().any(|given| given == certificate) {
            true => check_given(certificate, name, now),
            false => self
                .trust
                .chains(&self.provider)
                .map_err(|why| Problem::new(why, GIVE_ANCHORS))?
                .verify_server_cert(certificate, intermediates, name, ocsp, now)
                .map(drop),
        };
        checked.map_err(|error| certificate::problem(&error, certificate, intermediates, name))
    }

    fn signature(
        &self,
        verified: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.findings() {
            None => verified,
            Some(mut findings) => {
                findings.is_signed = verified.is_ok();
                // Some old servers have certificates that cannot be parsed.
                Ok(HandshakeSignatureValid::assertion())
            }
        }
    }

    /// Why the server is not verified, if it is not.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        match self.findings()?.clone() {
            Findings {
                certificate: Some(Err(why)),
                ..
            } => Some(why),
            Findings {
                is_signed: false,
                certificate: Some(Ok(())),
            } => Some(NO_KEY.into()),
            Findings {
                certificate: None, ..
            } => Some("it was not asked for its certificate".into()),
            Findings {
                is_signed: true,
                certificate: Some(Ok(())),
            } => None,
        }
    }
}

/// Why a server with the certificate of another one is not verified.
pub(crate) const NO_KEY: &str = "it did not show that it has the key of its certificate";

pub(crate) const GIVE_ANCHORS: &str = "give certificates to trust (trust_pem)";

/// Another way to deal with a server that is not verified.
pub(crate) const ACCEPT_ANY: &str =
    "accept any server (verify(false), and for a password Credentials::permit_unverified)";

/// A certificate that the caller gave is trusted as the server's own, even if it is an authority's, as `openssl req
/// -x509` makes it. Its name and its dates still count.
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
        let found = self.check(certificate, intermediates, ocsp, now);
        match self.findings() {
            None => found.map_err(|Problem { what, advice }| {
                let why = OtherError(Arc::new(Untrusted(format!("{what}; {advice}"))));
                rustls::Error::InvalidCertificate(CertificateError::Other(why))
            })?,
            Some(mut findings) => {
                findings.certificate = Some(found.map_err(|problem| problem.what.into()));
            }
        }
        Ok(ServerCertVerified::assertion())
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
