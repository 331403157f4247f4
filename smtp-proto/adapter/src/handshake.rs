//! A failed TLS handshake in words, for the person who reads an error line. The words of rustls are for programmers.

use std::fmt::Debug;
use std::io;

use rustls::{AlertDescription, Error, InconsistentKeys, InvalidMessage, PeerIncompatible};
use smtp_proto::Cause;

/// Facts that decide the words about a handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handshake {
    /// It begins with the first octet, without STARTTLS.
    pub(crate) is_implicit: bool,
    /// The client has a certificate to show.
    pub(crate) has_certificate: bool,
}

impl Handshake {
    /// Why the handshake failed, for reasons other than the server's certificate.
    pub(crate) fn cause(self, error: &Error) -> Cause {
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) if self.is_implicit => {
                Cause::TlsMisconfigured(
                    "the server speaks clear text on this port; use TlsPolicy::Required for STARTTLS \
                     (usually port 587), or the port for TLS from the first octet (usually 465)"
                        .into(),
                )
            }
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Cause::TlsFailed(
                "the server went on in clear text after STARTTLS; its log may say why".into(),
            ),
            Error::AlertReceived(alert) => self.refused(*alert),
            error => Cause::TlsFailed(words(error).into()),
        }
    }

    /// The server has sent an alert.
    fn refused(self, alert: AlertDescription) -> Cause {
        use AlertDescription as A;
        let name = alert_name(alert);
        match alert {
            A::CertificateRequired | A::NoCertificate if !self.has_certificate => {
                Cause::TlsMisconfigured(
                    format!("the server wants a client certificate (alert {name}); give one (client_certificate_pem)")
                        .into(),
                )
            }
            A::CertificateRequired
            | A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied => Cause::TlsMisconfigured(
                match self.has_certificate {
                    true => format!(
                        "the server refused the client certificate (alert {name}); give one that it accepts \
                         (client_certificate_pem)"
                    ),
                    false => format!(
                        "the server may want a client certificate (alert {name}); give one (client_certificate_pem)"
                    ),
                }
                .into(),
            ),
            A::UnrecognisedName => Cause::TlsMisconfigured(
                format!(
                    "the server does not know the name that was asked for (alert {name}); give another one \
                     (server_name)"
                )
                .into(),
            ),
            // Under TLS 1.2, OpenSSL sends these too if it wants a client certificate.
            A::HandshakeFailure | A::InsufficientSecurity if !self.has_certificate => {
                Cause::TlsFailed(
                    format!(
                        "{}, or it wants a client certificate (alert {name}); its log may say why",
                        NOTHING_IN_COMMON
                    )
                    .into(),
                )
            }
            A::HandshakeFailure | A::InsufficientSecurity => Cause::TlsFailed(
                format!("{NOTHING_IN_COMMON} (alert {name}); its log may say why").into(),
            ),
            A::ProtocolVersion => Cause::TlsFailed(
                format!("{NO_VERSION} (alert {name}); it must allow TLS 1.2 or 1.3").into(),
            ),
            _ => Cause::TlsFailed(words(&Error::AlertReceived(alert)).into()),
        }
    }

    /// The server has closed the connection before its first reply inside TLS.
    pub(crate) fn cut_off(self) -> Cause {
        Cause::TlsFailed(
            match self.has_certificate {
                true => {
                    "the server closed the connection before its first reply; it may have refused the client \
                     certificate, and its log may say why"
                }
                false => {
                    "the server closed the connection before its first reply; it may want a client certificate \
                     (client_certificate_pem)"
                }
            }
            .into(),
        )
    }
}

const NOTHING_IN_COMMON: &str =
    "the server finds no cipher suite, key exchange or signature algorithm in common with us";
const NO_VERSION: &str = "the server has no TLS version in common with us";

/// Whether a write has failed because the server has closed the connection.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset
    )
}

/// The error of rustls that came through a stream.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The error of rustls in words, at any time in the session.
pub(crate) fn words(error: &Error) -> String {
    use PeerIncompatible as P;
    match error {
        Error::AlertReceived(alert) => format!(
            "the server ended it with the alert {}; its log may say why",
            alert_name(*alert)
        ),
        Error::PeerIncompatible(
            P::ServerDoesNotSupportTls12Or13
            | P::ServerTlsVersionIsDisabledByOurConfig
            | P::SupportedVersionsExtensionRequired
            | P::Tls12NotOffered
            | P::Tls12NotOfferedOrEnabled,
        ) => format!("{NO_VERSION}; it must allow TLS 1.2 or 1.3"),
        Error::PeerIncompatible(why) => {
            format!(
                "the server's TLS does not suit us ({}); it may need an update",
                plain(why)
            )
        }
        Error::PeerMisbehaved(why) => {
            format!(
                "the server breaks the rules of TLS ({}); it may need an update",
                plain(why)
            )
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server sent something that is not TLS (clear text, it seems)".into()
        }
        Error::InvalidMessage(why) => {
            format!("the server sent invalid TLS ({})", plain(why))
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the server sent an unexpected message of TLS".into()
        }
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the private key does not belong to the certificate".into()
        }
        Error::DecryptError => "the server's data cannot be decrypted".into(),
        Error::InvalidCertificate(problem) => crate::certificate::described(problem),
        Error::General(why) => why.clone(),
        Error::Other(why) => plain_text(&why.to_string()),
        error => plain(error),
    }
}

/// The name of a variant as words, without its fields: `NoKxGroupsInCommon` becomes "no kx groups in common".
pub(crate) fn plain(variant: &impl Debug) -> String {
    plain_text(&format!("{variant:?}"))
}

/// The same for text that may be the name of a variant. Other text stays unchanged.
pub(crate) fn plain_text(text: &str) -> String {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric());
    let name = match end {
        Some(end) if !text[end..].starts_with("(") && !text[end..].starts_with(" {") => {
            return text.into();
        }
        Some(end) => &text[..end],
        None => text,
    };
    let name = name.strip_suffix("Context").unwrap_or(name);
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// The names of RFC 8446 section 6 and RFC 5246 section 7.2.
fn alert_name(alert: AlertDescription) -> String {
    let name = match alert {
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::UnrecognisedName => "unrecognized_name",
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity",
        AlertDescription::EncryptedClientHelloRequired => "ech_required",
        AlertDescription::Unknown(number) => return number.to_string(),
        alert => return plain(&alert).replace(' ', "_"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variants_become_words() {
        let missing = InvalidMessage::MissingData("Certificate");
        assert_eq!(plain(&missing), "missing data");
        assert_eq!(
            plain(&PeerIncompatible::NoKxGroupsInCommon),
            "no kx groups in common"
        );
        assert_eq!(plain_text("CaUsedAsEndEntity"), "ca used as end entity");
        for text in ["it was not me", "a (b)", "plain"] {
            assert_eq!(plain_text(text), text);
        }
        assert_eq!(
            plain_text("InvalidPurposeContext { required: ServerAuth }"),
            "invalid purpose"
        );
    }

    #[test]
    fn alerts_have_the_names_of_the_rfcs() {
        for (number, name) in [
            (40, "handshake_failure"),
            (48, "unknown_ca"),
            (70, "protocol_version"),
            (116, "certificate_required"),
            (112, "unrecognized_name"),
            (20, "bad_record_mac"),
            (200, "200"),
        ] {
            assert_eq!(alert_name(AlertDescription::from(number)), name);
        }
    }
}
