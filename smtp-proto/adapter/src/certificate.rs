//! What a certificate says, in words for the person who reads an error line.

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use smtp_proto::reply::Printable;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The most names that an error line has room for, and the most characters of one of them.
const NAMES: usize = 5;
const NAME: usize = 100;

/// Why the server is not verified by this certificate.
pub(crate) fn problem(
    error: &rustls::Error,
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return format!("its certificate cannot be read: {error}");
    };
    let names = names(&parsed);
    let issuer = printable(parsed.issuer().to_string().as_bytes());
    let validity = parsed.validity();
    let date = |time: x509_parser::time::ASN1Time| time.to_datetime().date();
    match error {
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is for {names}, not for {}", name.to_str())
            }
            // webpki says so of an authority's own certificate in place of a server's.
            CertificateError::UnknownIssuer | CertificateError::Other(_)
                if parsed.issuer() == parsed.subject() =>
            {
                format!(
                    "its certificate has signed itself and is not among the trusted ones; it is for {names}"
                )
            }
            CertificateError::UnknownIssuer => {
                format!(
                    "its certificate is for {names} and signed by {issuer}, which is not trusted"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!(
                    "its certificate for {names} expired on {}",
                    date(validity.not_after)
                )
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!(
                    "its certificate for {names} is not valid before {}",
                    date(validity.not_before)
                )
            }
            CertificateError::Other(_) => {
                format!("its certificate for {names} is not one for a server")
            }
            problem => format!("its certificate for {names} is not usable: {problem}"),
        },
        error => format!("its certificate for {names} is not usable: {error}"),
    }
}

/// Whether it can be read at all.
pub(crate) fn is_certificate(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok()
}

/// Checks the dates alone.
pub(crate) fn check_dates(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    match now {
        now if now < validity.not_before.timestamp() => Err(CertificateError::NotValidYet.into()),
        now if now > validity.not_after.timestamp() => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

/// The names that the certificate is for.
fn names(certificate: &X509Certificate<'_>) -> String {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let all = extension
        .map(|extension| &extension.value.general_names[..])
        .unwrap_or_default();
    let names: Vec<String> = all.iter().filter_map(name).collect();
    match names.len() {
        0 => "no name".into(),
        n if n > NAMES => format!("{} and {} more", names[..NAMES].join(", "), n - NAMES),
        _ => names.join(", "),
    }
}

/// Words of a stranger's, not too many.
fn printable(text: &[u8]) -> String {
    let text = Printable(text).to_string();
    match text.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Whether others may be signed with it.
pub(crate) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(printable(name.as_bytes())),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => Some(std::net::IpAddr::from(<[u8; 4]>::try_from(*octets).ok()?).to_string()),
            16 => Some(std::net::IpAddr::from(<[u8; 16]>::try_from(*octets).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}
