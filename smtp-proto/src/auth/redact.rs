//! Removes what a server echoes of a login. Some servers repeat a line that they do not know, and an error or a trace
//! would show it.

use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Credentials, Secret, Source, TokenError};
use crate::enhanced::EnhancedCode;

/// This many octets of the secret in a row reveal it. A shorter secret is searched for as a whole.
const TELLING: usize = 8;

/// A shorter secret is not searched for, because any text may hold it.
const LEAST: usize = 4;

/// What must not be shown.
pub(crate) struct Redaction<'a>(Vec<&'a [u8]>);

impl<'a> Redaction<'a> {
    /// Covers the secret of these credentials, and these responses of the caller's own mechanism. `None` if both are
    /// missing.
    pub(crate) fn new(credentials: &'a Credentials, responses: &'a [Secret]) -> Option<Self> {
        let secret = match &credentials.source {
            Source::Password(login) | Source::Token(login) => Some(login.secret.as_bytes()),
            _ => None,
        };
        let responses = responses.iter().map(|response| &response[..]);
        let secrets: Vec<_> = secret.into_iter().chain(responses).collect();
        (!secrets.is_empty()).then_some(Self(secrets))
    }

    /// The text without the secret, or `None` if the text does not hold it. A server may have folded it: between two of
    /// its octets, a line may end, and the next one begin with its enhanced status code.
    pub(crate) fn apply(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut lower = Zeroizing::new(Vec::with_capacity(text.len()));
        // Where each line stands in the text, and where in `lower`.
        let mut lines = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive(|&octet| octet == b'\n') {
            let code = match at {
                0 => 0,
                _ => enhanced_len(line),
            };
            let shown = line.strip_suffix(b"\n").unwrap_or(line);
            let shown = shown.get(code..).unwrap_or_default();
            lines.push((at + code, lower.len()));
            lower.extend(shown.iter().map(u8::to_ascii_lowercase));
            at += line.len();
        }
        let mut is_hidden = Vec::new();
        // One after the other, because a token may be long.
        for secret in &self.0 {
            hide(secret, &lower, &mut is_hidden);
            for before in 0..3 {
                hide(in_base64(secret, before).as_bytes(), &lower, &mut is_hidden);
            }
        }
        if is_hidden.is_empty() {
            return None;
        }
        let (mut out, mut shown) = (Vec::with_capacity(text.len()), 0);
        for (index, &(place, start)) in lines.iter().enumerate() {
            let end = lines.get(index + 1).map_or(lower.len(), |next| next.1);
            let mut at = place;
            for run in is_hidden[start..end].chunk_by(|one, next| one == next) {
                if run[0] {
                    out.extend_from_slice(&text[shown..at]);
                    out.extend_from_slice(&b"****"[..run.len().min(4)]);
                    shown = at + run.len();
                }
                at += run.len();
            }
        }
        out.extend_from_slice(&text[shown..]);
        Some(out)
    }

    /// The same for a challenge. What is base64 stays base64, so that a mechanism would read it in the same way.
    pub(crate) fn apply_to_challenge(&self, text: &[u8]) -> Option<Vec<u8>> {
        let redacted = self.apply(text)?;
        let Ok(plain) = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new) else {
            return Some(redacted);
        };
        let plain = self.apply(&plain).unwrap_or_else(|| b"****".to_vec());
        let encoded = STANDARD.encode(plain).into_bytes();
        match self.apply(&encoded) {
            None => Some(encoded),
            Some(_) => Some(STANDARD.encode(b"****").into_bytes()),
        }
    }

    /// The same for what a server has reported about a token.
    pub(crate) fn apply_to(&self, error: &mut TokenError) {
        let parts = [
            Some(&mut error.status),
            error.scope.as_mut(),
            error.schemes.as_mut(),
            error.openid_configuration.as_mut(),
        ];
        for text in parts.into_iter().flatten() {
            if let Some(redacted) = self.apply(text.as_bytes()) {
                *text = String::from_utf8_lossy(&redacted).into_owned();
            }
        }
    }
}

/// Marks what this text holds of this secret. Both are in lower case then.
fn hide(secret: &[u8], lower: &[u8], is_hidden: &mut Vec<bool>) {
    let secret = Zeroizing::new(secret.to_ascii_lowercase());
    let mut mark = |at: usize, octets: usize| {
        is_hidden.resize(lower.len(), false);
        is_hidden[at..at + octets].fill(true);
    };
    match secret.len() {
        ..LEAST => {}
        octets @ LEAST..TELLING => {
            let places = (0..lower.len()).filter(|&at| lower[at..].starts_with(&secret));
            places.for_each(|at| mark(at, octets));
        }
        octets => {
            // Growing would leave copies in memory.
            let mut rows = Zeroizing::new(Vec::with_capacity(octets));
            let all = secret.windows(TELLING);
            rows.extend(all.filter_map(|row| <[u8; TELLING]>::try_from(row).ok()));
            rows.sort_unstable();
            for (at, row) in lower.windows(TELLING).enumerate() {
                if <[u8; TELLING]>::try_from(row).is_ok_and(|row| rows.binary_search(&row).is_ok())
                {
                    mark(at, TELLING);
                }
            }
        }
    }
}

/// The length of the enhanced status code at the start of a line, with its space.
fn enhanced_len(line: &[u8]) -> usize {
    let rest = EnhancedCode::split(line).map(|(_, rest)| rest.len().saturating_sub(1));
    rest.map_or(0, |rest| line.len() - rest)
}

/// The base64 characters that depend on the secret alone, if `before` octets (modulo 3) stand before it.
fn in_base64(secret: &[u8], before: usize) -> Zeroizing<String> {
    let mut octets = Zeroizing::new(Vec::with_capacity(before + secret.len()));
    octets.resize(before, 0);
    octets.extend_from_slice(secret);
    let encoded = Zeroizing::new(STANDARD.encode(&octets));
    let (from, to) = ((8 * before).div_ceil(6), 8 * octets.len() / 6);
    Zeroizing::new(encoded.get(from..to).unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    fn redacted(secret: &str, text: &str) -> String {
        let credentials = Credentials::password("alice", secret);
        let redaction = Redaction::new(&credentials, &[]);
        let redacted = redaction.and_then(|redaction| redaction.apply(text.as_bytes()));
        redacted.map_or(text.into(), |text| String::from_utf8(text).unwrap())
    }

    /// The response of each mechanism that shows the password, in each surrounding that a server gives it.
    #[test]
    fn an_echo_is_found_wherever_it_stands() {
        let secrets = [
            ("correct-horse", "alice"),
            ("0123456789abcdef", "bo"),
            ("~~~~~~~~~~", ""),
        ];
        // Miri is slow.
        let (most, step) = if cfg!(miri) {
            (1, 400)
        } else {
            (secrets.len(), 1)
        };
        for (secret, user) in secrets.into_iter().take(most) {
            let responses = [
                format!("\0{user}\0{secret}"),
                format!("{user}x\0{user}\0{secret}"),
                secret.into(),
                format!("user={user}\x01auth=Bearer {secret}\x01\x01"),
            ];
            for response in responses.into_iter().take(most + 1) {
                let echo = STANDARD.encode(&response);
                for text in [
                    echo.clone(),
                    format!("data={echo}"),
                    format!("/{echo}/ is not known"),
                    format!("YWxpY2U={echo}=3D"),
                    format!("\"AUTH PLAIN {echo}\"").to_uppercase(),
                    response.clone(),
                ] {
                    let shown = redacted(secret, &text).to_lowercase();
                    assert!(shown.contains("****"), "{shown}");
                    let echoes = [&echo, secret].map(str::to_lowercase);
                    for echo in echoes {
                        for at in (0..echo.len().saturating_sub(TELLING)).step_by(step) {
                            let row = &echo[at..at + TELLING];
                            let is_of_secret = redacted(secret, row).contains("****");
                            assert!(!is_of_secret || !shown.contains(row), "{row} in {shown}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn honest_words_stay() {
        for (secret, text) in [
            (
                "correct-horse",
                "5.7.8 authentication of alice failed: see https://example.net/help",
            ),
            ("00fj)A", "5.7.8 no mail for bob"),
            ("p", "5.7.8 please supply a password"),
        ] {
            assert_eq!(redacted(secret, text), text);
        }
    }

    #[test]
    fn rows_are_joined() {
        assert_eq!(redacted("correct-horse", "not correct-horse!"), "not ****!");
        assert_eq!(redacted("abcd", "abcd or ABCDE"), "**** or ****E");
        assert_eq!(
            redacted("correct-horse", "correct-h, rect-horse"),
            "****, ****"
        );
    }

    /// Some servers fold what they echo.
    #[test]
    fn a_line_end_hides_no_echo() {
        for (secret, text, expected) in [
            ("correct-horse", "not correct\n-horse!", "not ****\n****!"),
            ("correct-horse", "correct\n5.7.8 -horse", "****\n5.7.8 ****"),
            (
                "correct-horse",
                "5.7.8 corre\n5.7.8 ct-horse",
                "5.7.8 ****\n5.7.8 ****",
            ),
            ("abcd", "a\nb\n\ncd, abc", "*\n*\n\n**, abc"),
            (
                "correct-horse",
                "correct\n\n5.7.8\n-horse",
                "****\n\n5.7.8\n****",
            ),
            (
                "correct-horse",
                "Y29ycmVj\ndC1ob3JzZQ==\n",
                "****\n****Q==\n",
            ),
        ] {
            assert_eq!(redacted(secret, text), expected);
        }
    }
}
