//! TLS by rustls: the settings that the sessions with a server share, and the result of a handshake.

use std::sync::{Arc, Mutex, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, HandshakeKind, OtherError, ProtocolVersion,
};
use smtp_proto::{Cause, TlsFacts};

use crate::certificate;
use crate::handshake::{Handshake, words};
use crate::names::{split_server, to_ascii};
use crate::verifier::{ACCEPT_ANY, Findings, NO_KEY, TrustStore, Untrusted, Verifier};

/// How a session is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version, such as `TLSv1.3`.
    pub version: String,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// The name for which the server was verified. Its certificate is trusted, valid now and for this name, and the
    /// server has its key.
    pub verified_name: Option<String>,
    /// Why the server was not verified, if it was not.
    pub unverified: Option<Arc<str>>,
    /// Whether the session resumes an earlier one with this server, which was verified.
    pub is_resumed: bool,
    /// The server's certificate, and those that lead to its authority.
    pub peer_certificates: Arc<[CertificateDer<'static>]>,
}

/// The settings of one handshake.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// The name for rustls. A domain name is also sent as SNI.
    pub name: ServerName<'static>,
    judge: Judge,
    is_implicit: bool,
}

/// Who checks the server.
#[derive(Clone, Debug)]
enum Judge {
    Ours(Arc<Verifier>),
    /// The application's own settings.
    Application,
}

/// Why PEM text cannot be read.
fn unreadable(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its END line is missing",
        pem::Error::IllegalSectionStart { .. } => "its BEGIN line is not complete",
        pem::Error::Base64Decode(_) => "it is not base64",
        pem::Error::NoItemsFound => "it is missing or encrypted",
        _ => "it is too large",
    }
}

/// Reads the certificates of a PEM file. The error names a damaged one by its number.
pub(crate) fn parse_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem).enumerate();
    let certificates = certificates.map(|(index, certificate)| {
        let number = index + 1;
        let certificate = certificate.map_err(|error| {
            let why = unreadable(&error);
            format!("certificate {number} of the PEM text cannot be read: {why}")
        })?;
        match certificate::is_certificate(&certificate) {
            true => Ok(certificate),
            false => Err(format!("certificate {number} of the PEM text is damaged")),
        }
    });
    match certificates.collect::<Result<Vec<_>, _>>() {
        Ok(list) if list.is_empty() => Err("the PEM text holds no certificate".into()),
        result => result,
    }
}

/// The client's certificate and its key.
pub(crate) struct Identity {
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

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl Identity {
    /// Reads the certificate, those that lead to its authority, and its private key.
    pub(crate) fn parse_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(key);
        let key =
            key.map_err(|error| format!("the private key cannot be read: {}", unreadable(&error)))?;
        Ok(Self {
            chain: parse_pem(chain)?,
            key,
        })
    }
}

/// The TLS settings that the sessions with one server share. They are built once, when the first session needs them.
#[derive(Default)]
pub struct SharedTls {
    trust: Arc<TrustStore>,
    identity: Option<Identity>,
    /// The application's own settings, which replace ours.
    own: Option<Arc<ClientConfig>>,
    /// For sessions that end if the server is not verified. They may resume, because every earlier one was verified.
    strict: OnceLock<Made>,
}

/// Settings, and the verifier in them.
type Made = (Arc<ClientConfig>, Arc<Verifier>);

impl SharedTls {
    /// The same, without the settings that were built.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            trust: Arc::clone(&self.trust),
            identity: self.identity.clone(),
            own: self.own.clone(),
            strict: OnceLock::new(),
        }
    }

    pub(crate) fn trust(&mut self, more: Vec<CertificateDer<'static>>) {
        self.trust = Arc::new(TrustStore {
            given: [&self.trust.given[..], &more].concat(),
            chains: OnceLock::new(),
        });
    }

    pub(crate) fn identify(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    pub(crate) fn replace(&mut self, own: Arc<ClientConfig>) {
        self.own = Some(own);
    }

    /// Whether the application has given its own settings.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The name of a setting that cannot be combined with the application's own settings.
    pub(crate) fn set_beside_own(&self) -> Option<&'static str> {
        self.own.as_ref()?;
        match &self.identity {
            Some(_) => Some("client_certificate_pem"),
            None => (!self.trust.given.is_empty()).then_some("trust_pem"),
        }
    }

    /// Whether everything is read from the disk.
    pub(crate) fn is_prepared(&self) -> bool {
        self.own.is_some() || self.trust.chains.get().is_some()
    }

    /// Reads the system's trust store.
    pub(crate) fn prepare(&self) {
        if let Ok(provider) = provider() {
            let _ = self.trust.chains(&provider);
        }
    }

    /// The settings for one session. `must_verify`: a server that is not verified ends the handshake. `is_implicit`:
    /// the handshake begins with the first octet.
    pub(crate) fn settings(
        &self,
        server_name: Option<&str>,
        host: &str,
        must_verify: bool,
        is_implicit: bool,
    ) -> Result<TlsSettings, String> {
        let name = name_of(server_name.unwrap_or(host));
        match (&name, server_name) {
            (Err(problem), Some(_)) => return Err(format!("server_name: {problem}")),
            (Err(problem), None) if must_verify || self.own.is_some() => {
                return Err(format!(
                    "{problem}; or give the name of the server (server_name)"
                ));
            }
            _ => {}
        }
        if let (Some(own), Ok(name)) = (&self.own, &name) {
            return Ok(TlsSettings {
                config: Arc::clone(own),
                name: name.clone(),
                judge: Judge::Application,
                is_implicit,
            });
        }
        let (config, verifier) = match must_verify {
            // An error is not kept, because the process may install its cryptography later.
            true => match self.strict.get() {
                Some(made) => made.clone(),
                None => {
                    let made = self.make(name.clone(), None)?;
                    self.strict.get_or_init(|| made).clone()
                }
            },
            // A resumed session would skip its own check, so it must not resume.
            false => self.make(name.clone(), Some(Mutex::default()))?,
        };
        // rustls needs a name, but does not send this one.
        let name = name.or_else(|_| ServerName::try_from("unnamed.invalid"));
        Ok(TlsSettings {
            config,
            name: name.map_err(|error| error.to_string())?,
            judge: Judge::Ours(verifier),
            is_implicit,
        })
    }

    fn make(
        &self,
        name: Result<ServerName<'static>, String>,
        findings: Option<Mutex<Findings>>,
    ) -> Result<Made, String> {
        let provider = provider()?;
        let (has_name, resumes) = (name.is_ok(), findings.is_none());
        let verifier = Arc::new(Verifier {
            trust: Arc::clone(&self.trust),
            name,
            provider: Arc::clone(&provider),
            findings,
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| words(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>);
        let mut config = match self.identity.clone() {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    format!("client_certificate_pem: not usable: {}", words(&error))
                })?
            }
        };
        config.enable_sni = has_name;
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok((Arc::new(config), verifier))
    }
}

impl std::fmt::Debug for SharedTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedTls")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The cryptography that the process has installed, or ring's.
fn provider() -> Result<Arc<CryptoProvider>, String> {
    if let Some(provider) = CryptoProvider::get_default() {
        return Ok(Arc::clone(provider));
    }
    #[cfg(feature = "ring")]
    return Ok(Arc::new(rustls::crypto::ring::default_provider()));
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    return Ok(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    return Err(
        "TLS has no cryptography: build with the feature ring or aws-lc-rs, or install a \
                default provider of rustls"
            .into(),
    );
}

/// The name in the form that a certificate can have.
fn name_of(name: &str) -> Result<ServerName<'static>, String> {
    let ascii = to_ascii(name)?;
    ServerName::try_from(&*ascii)
        .map(|name| name.to_owned())
        .map_err(|_| match split_server(&ascii) {
            Ok((host, _)) if ServerName::try_from(host).is_ok() => {
                format!("\"{name}\" is not the name of a server; write {host} alone")
            }
            _ => format!("\"{name}\" is not the name of a server; write HOST or an IP address"),
        })
}

impl TlsSettings {
    /// The cause of a failed handshake, for the session.
    pub fn cause(&self, error: &rustls::Error) -> Cause {
        let untrusted = |why: &str| {
            let advice = match &self.judge {
                Judge::Ours(_) => ACCEPT_ANY,
                Judge::Application => {
                    "change the settings given to rustls_config, or the server's certificate"
                }
            };
            Cause::TlsUntrusted(format!("{why}; {advice}").into())
        };
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))
                if inner.is::<Untrusted>() =>
            {
                Cause::TlsUntrusted(format!("{inner}, or {ACCEPT_ANY}").into())
            }
            rustls::Error::InvalidCertificate(CertificateError::BadSignature) => untrusted(NO_KEY),
            rustls::Error::InvalidCertificate(problem) => {
                untrusted(&certificate::described(problem))
            }
            rustls::Error::NoCertificatesPresented => untrusted("it has no certificate"),
            // If neither rustls nor the server has said it, it comes from the application's verifier.
            rustls::Error::General(_) | rustls::Error::Other(_) if self.is_judged_outside() => {
                untrusted(&words(error))
            }
            error => self.handshake().cause(error),
        }
    }

    fn is_judged_outside(&self) -> bool {
        matches!(self.judge, Judge::Application)
    }

    /// The facts that decide the words about the handshake.
    pub(crate) fn handshake(&self) -> Handshake {
        Handshake {
            is_implicit: self.is_implicit,
            has_certificate: self.config.client_auth_cert_resolver.has_certs(),
        }
    }

    /// How the session is encrypted, and the facts for the engine.
    pub fn established(&self, tls: &ClientConnection) -> (TlsInfo, TlsFacts) {
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
            other => format!("{other:?}"),
        };
        let suite = tls
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()));
        let mut facts = TlsFacts::default();
        // Without the signature, an attacker could show the server's certificate as his own.
        let (is_signed, may_bind_end_point) = match &self.judge {
            Judge::Ours(verifier) => {
                facts.problem = verifier.problem();
                let is_signed = verifier
                    .findings()
                    .is_none_or(|findings| findings.is_signed);
                (is_signed, is_signed)
            }
            Judge::Application => (true, false),
        };
        facts.verified = facts.problem.is_none();
        if is_signed {
            bind(tls, may_bind_end_point, &mut facts);
        }
        let info = TlsInfo {
            version,
            cipher_suite: suite.unwrap_or_default(),
            verified_name: facts.verified.then(|| self.name.to_str().into_owned()),
            unverified: facts.problem.clone(),
            is_resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            peer_certificates: tls.peer_certificates().unwrap_or_default().into(),
        };
        (info, facts)
    }
}

/// The channel bindings.
fn bind(
    tls: &ClientConnection,
    #[cfg_attr(not(feature = "scram"), expect(unused_variables))] may_bind_end_point: bool,
    facts: &mut TlsFacts,
) {
    // RFC 9266 section 2: it is unique under TLS 1.3, and under TLS 1.2 only with the extended master secret.
    if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        facts.exporter = tls
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
            .ok();
    }
    #[cfg(feature = "scram")]
    if facts.exporter.is_none()
        && may_bind_end_point
        && let Some([certificate, ..]) = tls.peer_certificates()
    {
        facts.server_end_point = crate::end_point::hash(certificate).map(Into::into);
    }
}
