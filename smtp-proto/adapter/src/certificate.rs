//! A certificate in words, for the person who reads an error line.

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use smtp_proto::reply::Printable;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::handshake::{plain, plain_text, words};

/// The most names in an error line, and the most characters of one name.
const NAMES: usize = 5;
const NAME: usize = 100;

/// Why a server is not verified, and what to do about it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) what: String,
    pub(crate) advice: &'static str,
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, advice: &'static str) -> Self {
        Self {
            what: what.into(),
            advice,
        }
    }
}

const REPLACE: &str = "the server needs another certificate";
const RENEW: &str = "the server must renew it";
const TRUST: &str = "trust it (trust_pem)";
const TRUST_ISSUER: &str = "trust that issuer (trust_pem)";
const SEND: &str = "have the server send it, trust it (trust_pem)";
pub(crate) const NAME_IT: &str = "give the name that it is for (server_name)";

/// Why this certificate does not verify the server. `intermediates` came with it.
pub(crate) fn problem(
    error: &rustls::Error,
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    name: &ServerName<'_>,
) -> Problem {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Problem::new("its certificate cannot be read", REPLACE);
    };
    let names = names(&parsed);
    let rustls::Error::InvalidCertificate(problem) = error else {
        let why = words(error);
        return Problem::new(
            format!("its certificate for {names} is not usable: {why}"),
            REPLACE,
        );
    };
    let intermediates: Vec<_> = intermediates
        .iter()
        .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1))
        .collect();
    match problem {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Problem::new(
                format!("its certificate is for {names}, not for {}", name.to_str()),
                NAME_IT,
            )
        }
        // webpki reports this if a server uses the certificate of an authority.
        CertificateError::UnknownIssuer | CertificateError::Other(_)
            if parsed.issuer() == parsed.subject() =>
        {
            Problem::new(
                format!(
                    "its certificate for {names} has signed itself and is not among the trusted ones"
                ),
                TRUST,
            )
        }
        CertificateError::UnknownIssuer => {
            let (issuer, depth) = last_issuer(&parsed, &intermediates);
            match depth {
                0 => Problem::new(
                    format!(
                        "its certificate for {names} is signed by {issuer}, which is not trusted, and whose own \
                         certificate the server did not send"
                    ),
                    SEND,
                ),
                _ => Problem::new(
                    format!(
                        "the chain of its certificate for {names} leads to {issuer}, which is not trusted"
                    ),
                    TRUST_ISSUER,
                ),
            }
        }
        CertificateError::Expired => {
            let end = parsed.validity().not_after.timestamp();
            Problem::new(
                format!("its certificate for {names} expired {}", on(end)),
                RENEW,
            )
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            let end = seconds(*not_after);
            // The dates of the intermediate certificates count as well.
            let which = intermediates
                .iter()
                .filter(|_| parsed.validity().not_after.timestamp() != end)
                .find(|between| between.validity().not_after.timestamp() == end);
            Problem::new(
                match which {
                    None => format!("its certificate for {names} expired {}", on(end)),
                    Some(between) => format!(
                        "the certificate of {}, which it sent with its own, expired {}",
                        printable(between.subject().to_string().as_bytes()),
                        on(end)
                    ),
                },
                RENEW,
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let start = match problem {
                CertificateError::NotValidYetContext { not_before, .. } => seconds(*not_before),
                _ => parsed.validity().not_before.timestamp(),
            };
            Problem::new(
                format!(
                    "its certificate for {names} is valid only from {}",
                    date(start)
                ),
                "look at the clock of this host",
            )
        }
        problem => Problem::new(
            format!(
                "its certificate for {names} is not usable: {}",
                reason(problem)
            ),
            REPLACE,
        ),
    }
}

/// The same without the certificate.
pub(crate) fn described(problem: &CertificateError) -> String {
    match problem {
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            // `DnsName("mx.example.net")`, `IpAddress(192.0.2.1)`
            let inner = |name: &String| {
                let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
                printable(inner.unwrap_or(name).trim_matches('"').as_bytes())
            };
            let names = list(presented.iter().map(inner).collect());
            format!(
                "its certificate is for {names}, not for {}",
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => "its certificate is for another name".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired {}", on(seconds(*not_after)))
        }
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!(
                "its certificate is valid only from {}",
                date(seconds(*not_before))
            )
        }
        CertificateError::UnknownIssuer => {
            "the issuer of its certificate is not trusted, or the server did not send an intermediate \
             certificate"
                .into()
        }
        problem => format!("its certificate is not usable: {}", reason(problem)),
    }
}

/// Other problems of a certificate, in words.
fn reason(problem: &CertificateError) -> String {
    match problem {
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not one for a server".into()
        }
        CertificateError::Other(other) => match plain_text(&other.to_string()).as_str() {
            "ca used as end entity" => "it is that of an authority, not of a server".into(),
            why => why.into(),
        },
        problem => plain(problem),
    }
}

/// The last issuer of the chain that the server has sent, and how many certificates lead to it.
fn last_issuer(
    certificate: &X509Certificate<'_>,
    between: &[X509Certificate<'_>],
) -> (String, usize) {
    let (mut last, mut depth) = (certificate, 0);
    while depth < between.len()
        && last.issuer() != last.subject()
        && let Some(next) = between.iter().find(|next| next.subject() == last.issuer())
    {
        (last, depth) = (next, depth + 1);
    }
    (printable(last.issuer().to_string().as_bytes()), depth)
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The day in UTC, such as `2021-12-31`.
fn date(timestamp: i64) -> String {
    match x509_parser::time::ASN1Time::from_timestamp(timestamp) {
        Ok(time) => time.to_datetime().date().to_string(),
        Err(_) => "a day beyond the calendar".into(),
    }
}

fn on(timestamp: i64) -> String {
    format!("on {}", date(timestamp))
}

/// Whether it can be parsed.
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
    let now = seconds(now);
    let validity = parsed.validity();
    match now {
        now if now < validity.not_before.timestamp() => Err(CertificateError::NotValidYet.into()),
        now if now > validity.not_after.timestamp() => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}

/// The names in the certificate.
fn names(certificate: &X509Certificate<'_>) -> String {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let all = extension
        .map(|extension| &extension.value.general_names[..])
        .unwrap_or_default();
    list(all.iter().filter_map(name).collect())
}

fn list(names: Vec<String>) -> String {
    match names.len() {
        0 => "no name".into(),
        n if n > NAMES => format!("{} and {} more", names[..NAMES].join(", "), n - NAMES),
        _ => names.join(", "),
    }
}

/// Text of a stranger, made printable and short.
fn printable(text: &[u8]) -> String {
    let text = Printable(text).to_string();
    match text.char_indices().nth(NAME) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Whether it may sign other certificates.
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
