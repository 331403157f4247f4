//! The server's certificate, and one for a client.

use std::io;
use std::sync::Arc;

use rcgen::{Certificate, CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::options::Options;

pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A self-signed certificate and its private key, both in PEM.
///
/// # Errors
/// The system does not give random numbers.
pub fn make_client_certificate() -> io::Result<(String, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = CertificateParams::new([]).and_then(|client| client.self_signed(&key));
    Ok((
        certificate.map_err(io::Error::other)?.pem(),
        key.serialize_pem(),
    ))
}

pub(super) fn make_certificate(
    options: &Options,
) -> Result<(Certificate, Arc<ServerConfig>), AnyError> {
    let versions = if options.tls12 {
        &[&rustls::version::TLS12][..]
    } else {
        rustls::ALL_VERSIONS
    };
    let key = KeyPair::generate()?;
    let names = [&options.hostname, "localhost", "127.0.0.1"].map(str::to_owned);
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    // Named here, so that the process needs no default provider.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = match &options.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
            verifier.allow_unauthenticated().build()?
        }
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key.into())?;
    Ok((certificate, Arc::new(config)))
}
