//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), also bound to the TLS connection (-PLUS).
//!
//! Neither end sends the password. Each proves that it knows the password, or for the server, what was derived from
//! it.
//!
//! The messages of the server are not trusted. Attributes must come in order and once, and the nonce must begin with
//! ours. The number of iterations is checked before the first one is computed, because the server chooses it.

use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::{Digest, FixedOutputReset};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::password::{keyed, keyed_by_any};
use super::saslprep::prepare;
use super::{Login, Mechanism, MechanismError, Secret, Surroundings, sasl_name, secret};
use crate::text::Printable;
use crate::tls::TlsFacts;

/// RFC 7677 section 4, and RFC 5802 section 5.1 for SHA-1.
const LEAST_ITERATIONS: u32 = 4_096;

/// The longest nonce, ours and the server's, in octets. Servers add some 20 to 40.
const MAX_NONCE: usize = 512;

/// Two hashes, each with and without a binding to the TLS connection.
const VARIANTS: usize = 4;

/// The variants that can be used here, strongest first, each with a nonce of its own.
pub(super) fn variants(
    login: &Arc<Login>,
    identity: Option<&str>,
    around: &Surroundings<'_>,
    allowed: impl Fn(&str) -> bool,
) -> Vec<Scram> {
    let mut variants = Vec::new();
    // rule: auth.scram-without-nonce
    let Some(nonce) = around.nonce else {
        return variants;
    };
    let binding = around.tls.and_then(Binding::new);
    for (hash, plus) in [
        (Hash::Sha256, true),
        (Hash::Sha1, true),
        // rule: auth.scram-sha-256
        (Hash::Sha256, false),
        // rule: auth.scram-sha-1
        (Hash::Sha1, false),
    ] {
        let name = hash.name(plus);
        if !allowed(name) || !around.offered.offers_mechanism(name) {
            continue;
        }
        let flag = match &binding {
            // rule: auth.scram-plus
            Some(binding) if plus => Flag::Used(binding.clone()),
            None if plus => continue,
            // Also sent if the server has offered -PLUS and then rejected it. If an attacker in between rejected it,
            // this flag tells the server.
            // rule: auth.scram-plus-turned-down
            // rule: auth.scram-plus-not-offered
            Some(_) if allowed(hash.name(true)) => Flag::Unoffered,
            // rule: auth.scram-plus-not-allowed
            _ => Flag::Unsupported,
        };
        // rule: auth.scram-nonce-used-once
        let nonce = nonce.text(around.logins as usize * VARIANTS + variants.len());
        variants.push(Scram::new(
            hash,
            flag,
            login.clone(),
            identity,
            nonce,
            around.iterations,
        ));
    }
    variants
}

#[derive(Clone, Copy)]
enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn name(self, plus: bool) -> &'static str {
        match (self, plus) {
            (Self::Sha1, false) => "SCRAM-SHA-1",
            (Self::Sha1, true) => "SCRAM-SHA-1-PLUS",
            (Self::Sha256, false) => "SCRAM-SHA-256",
            (Self::Sha256, true) => "SCRAM-SHA-256-PLUS",
        }
    }
}

/// What identifies the TLS connection.
#[derive(Clone)]
struct Binding {
    kind: &'static str,
    data: Vec<u8>,
}

impl Binding {
    fn new(facts: &TlsFacts) -> Option<Self> {
        match (&facts.exporter, &facts.server_end_point) {
            (Some(data), _) => Some(Self {
                kind: "tls-exporter",
                data: data.to_vec(),
            }),
            (None, Some(data)) => Some(Self {
                kind: "tls-server-end-point",
                data: data.to_vec(),
            }),
            (None, None) => None,
        }
    }
}

/// The `gs2-cbind-flag` (RFC 5802 section 7).
enum Flag {
    Used(Binding),
    /// We support it, and believe that the server does not.
    Unoffered,
    /// We do not support it.
    Unsupported,
}

pub(super) struct Scram {
    hash: Hash,
    flag: Flag,
    login: Arc<Login>,
    /// The `a=` of the header, or empty.
    identity: String,
    nonce: String,
    most_iterations: u32,
    state: State,
}

enum State {
    Start,
    /// The client's first message was sent. This is its bare part.
    First {
        bare: String,
        password: Zeroizing<String>,
    },
    /// The client's proof was sent.
    Final {
        server_key: Secret,
        auth_message: Vec<u8>,
    },
    /// The server has proved that it knows us.
    Proven,
    Over,
}

impl Scram {
    fn new(
        hash: Hash,
        flag: Flag,
        login: Arc<Login>,
        identity: Option<&str>,
        nonce: String,
        most_iterations: u32,
    ) -> Self {
        let identity = identity.map_or(String::new(), |identity| {
            alloc::format!("a={}", sasl_name(identity))
        });
        Self {
            hash,
            flag,
            login,
            identity,
            nonce,
            most_iterations,
            state: State::Start,
        }
    }

    /// Whether it is bound to the TLS connection (-PLUS).
    pub(super) fn is_bound(&self) -> bool {
        matches!(self.flag, Flag::Used(_))
    }

    /// The `gs2-header`, then the data of the channel binding, as `c=` carries them.
    fn header(&self) -> (String, &[u8]) {
        let (flag, data) = match &self.flag {
            Flag::Used(binding) => (alloc::format!("p={}", binding.kind), &binding.data[..]),
            Flag::Unoffered => ("y".to_owned(), &[][..]),
            Flag::Unsupported => ("n".to_owned(), &[][..]),
        };
        (alloc::format!("{flag},{},", self.identity), data)
    }

    /// The answer to the server's first message.
    fn prove(
        &mut self,
        bare: &str,
        password: &str,
        challenge: &[u8],
    ) -> Result<Secret, MechanismError> {
        let attributes = attributes(challenge)?;
        let [('r', nonce), ('s', salt), ('i', iterations), ..] = attributes[..] else {
            return Err(MechanismError::Malformed(
                "nonce, salt and iteration count are due",
            ));
        };
        // rule: auth.scram-nonce
        let is_longer = nonce
            .strip_prefix(self.nonce.as_str())
            .is_some_and(|theirs| !theirs.is_empty());
        if !is_longer
            || nonce.len() > MAX_NONCE
            || !nonce.bytes().all(|octet| octet.is_ascii_graphic())
        {
            return Err(MechanismError::Nonce);
        }
        let salt = STANDARD
            .decode(salt)
            .map_err(|_| MechanismError::Malformed("the salt is not base64"))?;
        let iterations = count(iterations, self.most_iterations)?;

        let (header, binding) = self.header();
        let header = STANDARD.encode([header.as_bytes(), binding].concat());
        let without_proof = alloc::format!("c={header},r={nonce}");
        let parts = [
            bare.as_bytes(),
            b",",
            challenge,
            b",",
            without_proof.as_bytes(),
        ];
        let auth_message = parts.concat();
        let derive = match self.hash {
            Hash::Sha1 => derive::<Hmac<Sha1>, Sha1>,
            Hash::Sha256 => derive::<Hmac<Sha256>, Sha256>,
        };
        let (proof, server_key) = derive(password.as_bytes(), &salt, iterations, &auth_message)?;
        self.state = State::Final {
            server_key,
            auth_message,
        };
        let proof = Zeroizing::new(STANDARD.encode(&proof[..]));
        Ok(secret(&[
            without_proof.as_bytes(),
            b",p=",
            proof.as_bytes(),
        ]))
    }

    /// Checks the server's last message.
    fn check(&self, key: &[u8], auth_message: &[u8], message: &[u8]) -> Result<(), MechanismError> {
        let [('v', signature), ..] = attributes(message)?[..] else {
            return Err(MechanismError::Malformed("the server's proof is due"));
        };
        let signature = STANDARD
            .decode(signature)
            .map_err(|_| MechanismError::Malformed("the proof is not base64"))?;
        let is_right = match self.hash {
            Hash::Sha1 => verify::<Hmac<Sha1>>,
            Hash::Sha256 => verify::<Hmac<Sha256>>,
        };
        match is_right(key, auth_message, &signature)? {
            true => Ok(()),
            // rule: auth.scram-wrong-proof
            false => Err(MechanismError::WrongProof),
        }
    }
}

impl Mechanism for Scram {
    fn name(&self) -> &str {
        self.hash.name(self.is_bound())
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        if self.identity.contains('\0') {
            return Err(MechanismError::Nul);
        }
        // rule: auth.scram-names
        let (user, password) = (prepare(&self.login.user)?, prepare(&self.login.secret)?);
        let bare = alloc::format!("n={},r={}", sasl_name(&user), self.nonce);
        let first = secret(&[self.header().0.as_bytes(), bare.as_bytes()]);
        self.state = State::First { bare, password };
        Ok(Some(first))
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        match mem::replace(&mut self.state, State::Over) {
            State::First { bare, password } => self.prove(&bare, &password, challenge),
            State::Final {
                server_key,
                auth_message,
            } => {
                self.check(&server_key, &auth_message, challenge)?;
                self.state = State::Proven;
                Ok(Secret::default())
            }
            State::Start | State::Proven | State::Over => Err(MechanismError::UnexpectedChallenge),
        }
    }

    fn verify(&mut self, data: &[u8]) -> Result<(), MechanismError> {
        match &self.state {
            State::Proven => Ok(()),
            // rule: auth.scram-proof-with-235
            // Any text may look like base64. Only a text that begins with `v=` is a proof.
            State::Final {
                server_key,
                auth_message,
            } if data.starts_with(b"v=") => self.check(server_key, auth_message, data),
            // rule: auth.scram-unproven
            _ => Err(MechanismError::Unproven),
        }
    }
}

/// The attributes of a server's message, in order (RFC 5802 section 5.1). Unknown ones are ignored, except `m`: it
/// marks an extension that must be understood.
fn attributes(message: &[u8]) -> Result<Vec<(char, &str)>, MechanismError> {
    let message =
        str::from_utf8(message).map_err(|_| MechanismError::Malformed("it is not UTF-8"))?;
    // rule: auth.scram-server-error
    if let Some(error) = message.strip_prefix("e=") {
        return Err(MechanismError::Server(
            Printable(error.as_bytes()).to_string().into(),
        ));
    }
    let mut attributes = Vec::<(char, &str)>::new();
    for attribute in message.split(',') {
        let (name, value) = match attribute.split_at_checked(2) {
            Some((name, value)) if name.ends_with('=') && !value.is_empty() => (name, value),
            _ => {
                return Err(MechanismError::Malformed(
                    "an attribute is not a letter, an equals sign and a value",
                ));
            }
        };
        match name.chars().next() {
            Some('m') => return Err(MechanismError::Malformed("it demands an unknown extension")),
            Some(name) if name.is_ascii_alphabetic() => {
                // rule: auth.scram-malformed
                if attributes.iter().any(|&(before, _)| before == name) {
                    return Err(MechanismError::Malformed("an attribute comes twice"));
                }
                attributes.push((name, value));
            }
            _ => {
                return Err(MechanismError::Malformed(
                    "an attribute is not a letter, an equals sign and a value",
                ));
            }
        }
    }
    Ok(attributes)
}

/// The number of iterations, if it is within bounds.
fn count(digits: &str, most: u32) -> Result<u32, MechanismError> {
    if digits.starts_with('0') || !digits.bytes().all(|octet| octet.is_ascii_digit()) {
        return Err(MechanismError::Malformed(
            "the iteration count is not a number",
        ));
    }
    let asked = digits.parse::<u64>().unwrap_or(u64::MAX);
    match u32::try_from(asked) {
        // rule: auth.scram-iterations
        Ok(count) if (LEAST_ITERATIONS..=most).contains(&count) => Ok(count),
        _ => Err(MechanismError::Iterations {
            asked,
            least: LEAST_ITERATIONS,
            most,
        }),
    }
}

fn sign<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Result<Secret, MechanismError> {
    Ok(Secret::new(
        keyed::<M>(key)?
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
    ))
}

/// In constant time.
fn verify<M: Mac + KeyInit>(
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<bool, MechanismError> {
    Ok(keyed::<M>(key)?
        .chain_update(message)
        .verify_slice(signature)
        .is_ok())
}

/// The client's proof and the server's key (RFC 5802 section 3).
fn derive<M: Mac + KeyInit + Clone, D: Digest + FixedOutputReset>(
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    auth_message: &[u8],
) -> Result<(Secret, Secret), MechanismError> {
    let salted = salted_password(keyed_by_any::<M, D>(password)?, salt, iterations);
    let mut proof = sign::<M>(&salted, b"Client Key")?;
    let stored_key = Secret::new(D::digest(&proof[..]).to_vec());
    xor(&mut proof, &sign::<M>(&stored_key, auth_message)?);
    Ok((proof, sign::<M>(&salted, b"Server Key")?))
}

/// `Hi()`, which is PBKDF2 with one block of output. The key is prepared once, for all iterations.
fn salted_password<M: Mac + Clone>(keyed: M, salt: &[u8], iterations: u32) -> Secret {
    let mut last = keyed
        .clone()
        .chain_update(salt)
        .chain_update(1_u32.to_be_bytes())
        .finalize()
        .into_bytes();
    let mut salted = Secret::new(last.to_vec());
    for _ in 1..iterations {
        last = keyed.clone().chain_update(&last).finalize().into_bytes();
        xor(&mut salted, &last);
    }
    salted
}

fn xor(octets: &mut [u8], other: &[u8]) {
    for (octet, other) in octets.iter_mut().zip(other) {
        *octet ^= other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 1_000_000;

    /// RFC 5802 section 5.
    const SHA_1: [&str; 5] = [
        "fyko+d2lbbFgONRv9qkxdawL",
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ];
    /// RFC 7677 section 3.
    const SHA_256: [&str; 5] = [
        "rOprNGfwEbeRWgbNEkqO",
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ];

    fn scram(hash: Hash, nonce: &str) -> Scram {
        Scram::new(
            hash,
            Flag::Unsupported,
            Login::new("user", "pencil"),
            None,
            nonce.into(),
            MOST,
        )
    }

    /// Up to the client's proof.
    fn proven(hash: Hash, [nonce, first, challenge, response, _]: [&str; 5]) -> Scram {
        let mut scram = scram(hash, nonce);
        assert_eq!(
            scram.initial_response().unwrap().unwrap()[..],
            *first.as_bytes()
        );
        assert_eq!(scram.verify(b""), Err(MechanismError::Unproven));
        assert_eq!(
            scram.respond(challenge.as_bytes()).unwrap()[..],
            *response.as_bytes()
        );
        assert_eq!(scram.verify(b""), Err(MechanismError::Unproven));
        scram
    }

    #[test]
    fn the_conversations_of_rfc_5802_and_rfc_7677() {
        for (hash, vector) in [(Hash::Sha1, SHA_1), (Hash::Sha256, SHA_256)] {
            let last = vector[4].as_bytes();
            let mut scram = proven(hash, vector);
            assert_eq!(scram.respond(last).unwrap()[..], *b"");
            assert_eq!(scram.verify(b""), Ok(()));
            assert_eq!(
                scram.respond(last),
                Err(MechanismError::UnexpectedChallenge)
            );
            assert_eq!(scram.verify(b""), Err(MechanismError::Unproven));
            // With the 235.
            assert_eq!(proven(hash, vector).verify(last), Ok(()));
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let last = |message: &str| {
            proven(Hash::Sha1, SHA_1)
                .respond(message.as_bytes())
                .unwrap_err()
        };
        assert_eq!(
            last("v=smF9pqV8S7suAoZWja4dJRkFsKQ="),
            MechanismError::WrongProof
        );
        // The right one, and a part of it.
        assert_eq!(
            last("v=rmF9pqV8S7suAoZWja4dJRkF"),
            MechanismError::WrongProof
        );
        assert_eq!(
            last("e=other-error"),
            MechanismError::Server("other-error".into())
        );
        assert_eq!(
            last("e=\u{1b}[2J,x"),
            MechanismError::Server("\\x1b[2J,x".into())
        );
        for malformed in [
            "",
            "v=",
            "v=!",
            "x=y",
            "m=x,v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            "v",
            "r=x,v=y",
        ] {
            assert!(
                matches!(last(malformed), MechanismError::Malformed(_)),
                "{malformed}"
            );
        }
        let mut scram = proven(Hash::Sha1, SHA_1);
        assert_eq!(
            scram.verify(b"v=smF9pqV8S7suAoZWja4dJRkFsKQ="),
            Err(MechanismError::WrongProof)
        );
        assert_eq!(scram.verify(b"\x76"), Err(MechanismError::Unproven));
        // After a wrong proof, a right one does not count.
        assert!(scram.respond(b"v=smF9pqV8S7suAoZWja4dJRkFsKQ=").is_err());
        assert_eq!(
            scram.verify(SHA_1[4].as_bytes()),
            Err(MechanismError::Unproven)
        );
    }

    #[test]
    fn the_servers_first_message_is_believed_in_nothing() {
        let respond = |message: &str| {
            let mut scram = scram(Hash::Sha256, "abc");
            scram.initial_response().unwrap();
            scram.respond(message.as_bytes()).map(drop)
        };
        assert_eq!(respond("r=abcd,s=eA==,i=4096"), Ok(()));
        assert_eq!(respond("r=abcd,s=eA==,i=4096,x=whatever"), Ok(()));
        assert_eq!(
            respond("e=unknown-user"),
            Err(MechanismError::Server("unknown-user".into()))
        );
        let long = alloc::format!("r=abc{},s=eA==,i=4096", "d".repeat(510));
        for nonce in [
            "r=abc,s=eA==,i=4096",
            "r=ab,s=eA==,i=4096",
            "r=xabcd,s=eA==,i=4096",
            &long,
        ] {
            assert_eq!(respond(nonce), Err(MechanismError::Nonce), "{nonce}");
        }
        assert_eq!(
            respond("r=abc\u{fc},s=eA==,i=4096"),
            Err(MechanismError::Nonce)
        );
        for asked in [1, 4_095, 1_000_001, 1 << 31, 1 << 32, u64::MAX] {
            let error = Err(MechanismError::Iterations {
                asked,
                least: 4_096,
                most: MOST,
            });
            assert_eq!(respond(&alloc::format!("r=abcd,s=eA==,i={asked}")), error);
        }
        assert!(matches!(
            respond("r=abcd,s=eA==,i=99999999999999999999999999"),
            Err(MechanismError::Iterations { .. })
        ));
        for malformed in [
            "",
            "r=abcd",
            "r=abcd,s=eA==",
            "s=eA==,r=abcd,i=4096",
            "r=abcd,s=eA==,i=",
            "r=abcd,s=eA==,i=0",
            "r=abcd,s=eA==,i=04096",
            "r=abcd,s=eA==,i=+4096",
            "r=abcd,s=,i=4096",
            "r=abcd,s=e,i=4096",
            "m=x,r=abcd,s=eA==,i=4096",
            "r=abcd,s=eA==,i=4096,m=x",
            "r=abcd,s=eA==,i=4096,",
            "r=abcd,s=eA==,i=4096,i=5000",
            "r=abcd,s=eA==,i=4096,x=1,x=2",
            "r=abcd,s=eA==,i=4096,1=2",
            "r=abcd,s=eA==,i=4096,\u{fc}=2",
            "r=abcd,s=eA==,i=4096,xx=2",
        ] {
            assert!(
                matches!(respond(malformed), Err(MechanismError::Malformed(_))),
                "{malformed}"
            );
        }
        let mut scram = scram(Hash::Sha256, "abc");
        scram.initial_response().unwrap();
        assert!(matches!(
            scram.respond(b"r=abc\xff"),
            Err(MechanismError::Malformed(_))
        ));
    }

    #[test]
    fn names_are_escaped_and_prepared() {
        let first = |user: &str, identity: Option<&str>, flag| {
            let login = Login::new(user, "pencil");
            let mut scram = Scram::new(Hash::Sha256, flag, login, identity, "abc".into(), MOST);
            scram
                .initial_response()
                .map(|first| String::from_utf8(first.unwrap().to_vec()).unwrap())
        };
        assert_eq!(
            first("a,b=c", None, Flag::Unoffered).as_deref(),
            Ok("y,,n=a=2Cb=3Dc,r=abc")
        );
        assert_eq!(
            first("I\u{ad}X", Some("d,="), Flag::Unsupported).as_deref(),
            Ok("n,a=d=2C=3D,n=IX,r=abc")
        );
        let binding = Binding {
            kind: "tls-exporter",
            data: Vec::new(),
        };
        assert_eq!(
            first("u", None, Flag::Used(binding)).as_deref(),
            Ok("p=tls-exporter,,n=u,r=abc")
        );
        assert_eq!(
            first("u", Some("\0"), Flag::Unsupported),
            Err(MechanismError::Nul)
        );
        assert_eq!(
            first("u\0", None, Flag::Unsupported),
            Err(MechanismError::Prohibited)
        );
    }
}
