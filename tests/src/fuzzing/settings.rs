//! The settings of a session, and the secret in them.

use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::body::LineEndings;
use smtp_proto::reply::ReplyLimits;
use smtp_proto::*;

use super::contains;

/// The secret, which only a server inside TLS may read.
pub(super) const SECRET: &str = "s3cr3t-marker";

/// Settings from two octets of flags, and whether the secret may be sent in the clear.
pub(super) fn configuration(kind: u8, limits: u8) -> (Config, bool) {
    let mut config = Config::new(ClientName::parse("client.example.org").unwrap());
    config.tls = [
        TlsPolicy::Opportunistic,
        TlsPolicy::Never,
        TlsPolicy::Required,
        TlsPolicy::Implicit,
    ][usize::from(kind & 3)];
    config.protocol = if kind & 4 == 0 {
        Protocol::Smtp
    } else {
        Protocol::Lmtp
    };
    config.pipelining = kind & 8 == 0;
    let long = SECRET.repeat(40);
    config.credentials = match kind >> 4 & 7 {
        0 | 4 => None,
        1 => Some(Credentials::password("user", SECRET)),
        2 => Some(Credentials::password("user", SECRET).permit_in_clear()),
        3 => Some(Credentials::token("user", SECRET)),
        // Too long for an initial response.
        5 => Some(
            Credentials::password("user", &long)
                .mechanisms(&["plain", "login"])
                .permit_in_clear(),
        ),
        6 => Some(Credentials::password("us\0er", SECRET)),
        _ => Some(Credentials::custom(|| Box::new(Distrustful))),
    };
    // As little work for SCRAM as allowed.
    config.limits.scram_iterations = 4_096;
    config.trace = kind & 128 == 0;
    config.limits.in_flight = [4_096, 0, 64, 100][usize::from(limits & 3)];
    config.limits.messages = if limits & 4 == 0 { 64 } else { 1 };
    if limits & 8 != 0 {
        config.limits.reply = ReplyLimits {
            line: 40,
            lines: 3,
            octets: 60,
        };
        config.limits.challenges = 1;
    }
    if limits & 16 != 0 {
        config.body.line_endings = LineEndings::Refuse;
    }
    config.body.allow_nul = limits & 32 != 0;
    config.overlap = limits & 64 != 0;
    (config, matches!(kind >> 4 & 7, 2 | 5))
}

/// Settings from one more octet of flags.
pub(super) fn configure_chunks(config: &mut Config, flags: u8) {
    config.chunking = [
        Chunking::Auto,
        Chunking::Never,
        Chunking::Always,
        Chunking::Eager,
    ][usize::from(flags & 3)];
    config.chunk_size = [65_536, 1, 3, 10][usize::from(flags >> 2 & 3)];
    config.limits.chunks = if flags & 16 == 0 { 16 } else { 1 };
    config.learn_limits = flags & 32 != 0;
}

/// A mechanism that answers every challenge with the secret, and never believes the server.
struct Distrustful;

impl Mechanism for Distrustful {
    fn name(&self) -> &str {
        "XOAUTH2"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Ok(Secret::new(SECRET.into()))
    }

    fn verify(&mut self, _data: &[u8]) -> Result<(), MechanismError> {
        Err(MechanismError::Other("no proof".into()))
    }
}

/// Whether the text contains the secret, as it is or in base64.
pub(super) fn reveals_secret(text: &[u8]) -> bool {
    reveals(text, SECRET)
}

/// The same of any secret.
pub(super) fn reveals(text: &[u8], secret: &str) -> bool {
    let base64 = |octet: &u8| octet.is_ascii_alphanumeric() || b"+/".contains(octet);
    contains(text, secret.as_bytes())
        || text
            .split(|octet| !base64(octet))
            .filter(|word| word.len() > secret.len())
            .any(|word| contains(&base64_decode(word), secret.as_bytes()))
}

fn base64_decode(word: &[u8]) -> Vec<u8> {
    let (mut octets, mut bits, mut value) = (vec![], 0, 0u32);
    for letter in word {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        value = value << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            octets.push((value >> bits) as u8);
        }
    }
    octets
}
