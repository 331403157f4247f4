//! The mechanisms that need only a user name and a password: PLAIN, LOGIN and CRAM-MD5.

use alloc::sync::Arc;

use hmac::digest::{Digest, FixedOutputReset, Output};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use zeroize::Zeroize;

use super::{Login as Account, Mechanism, MechanismError, Secret, secret};

/// PLAIN (RFC 4616).
pub(super) struct Plain {
    pub(super) login: Arc<Account>,
    pub(super) identity: Option<Arc<str>>,
}

impl Mechanism for Plain {
    fn name(&self) -> &str {
        "PLAIN"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        let identity = self.identity.as_deref().unwrap_or_default().as_bytes();
        let (user, password) = (self.login.user.as_bytes(), self.login.secret.as_bytes());
        if [identity, user, password]
            .iter()
            .any(|field| field.contains(&0))
        {
            // rule: auth.nul-in-password
            return Err(MechanismError::Nul);
        }
        // rule: auth.plain
        Ok(Some(secret(&[identity, b"\0", user, b"\0", password])))
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Err(MechanismError::UnexpectedChallenge)
    }
}

/// LOGIN, which no RFC defines: the user name for the first prompt and the password for the second. The prompts are
/// not read. Servers write them differently, some with a NUL, some without base64.
pub(super) struct Login {
    login: Arc<Account>,
    step: u8,
}

impl Login {
    pub(super) fn new(login: Arc<Account>) -> Self {
        Self { login, step: 0 }
    }
}

impl Mechanism for Login {
    fn name(&self) -> &str {
        "LOGIN"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn reads_challenges(&self) -> bool {
        false
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        self.step += 1;
        match self.step {
            // rule: auth.login
            1 => Ok(secret(&[self.login.user.as_bytes()])),
            2 => Ok(secret(&[self.login.secret.as_bytes()])),
            _ => Err(MechanismError::UnexpectedChallenge),
        }
    }
}

/// CRAM-MD5 (RFC 2195): the password is never sent.
pub(super) struct CramMd5(pub(super) Arc<Account>);

impl Mechanism for CramMd5 {
    fn name(&self) -> &str {
        "CRAM-MD5"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        if challenge.is_empty() {
            // Without a challenge, an eavesdropper could replay the answer.
            return Err(MechanismError::Other(
                "the server's CRAM-MD5 challenge is empty".into(),
            ));
        }
        let mut mac = keyed_by_any::<Hmac<Md5>, Md5>(self.0.secret.as_bytes())?;
        mac.update(challenge);
        let mut digest = [0; 32];
        for (pair, byte) in digest.chunks_exact_mut(2).zip(mac.finalize().into_bytes()) {
            pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
            pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
        }
        // rule: auth.cram-md5
        Ok(secret(&[self.0.user.as_bytes(), b" ", &digest]))
    }
}

/// HMAC with this key, which a block holds.
pub(super) fn keyed<M: KeyInit>(key: &[u8]) -> Result<M, MechanismError> {
    M::new_from_slice(key).map_err(|_| MechanismError::Other("HMAC does not take this key".into()))
}

/// HMAC with a key of any length. If it is longer than a block, its hash is the key (RFC 2104 section 2). The hash is
/// made in place. If the hash moved, its old place would keep the end of the key.
pub(super) fn keyed_by_any<M: KeyInit, D: Digest + FixedOutputReset>(
    key: &[u8],
) -> Result<M, MechanismError> {
    /// The block of the hashes here.
    const BLOCK: usize = 64;
    if key.len() <= BLOCK {
        return keyed(key);
    }
    let mut hash = D::new();
    Digest::update(&mut hash, key);
    let mut short = Output::<D>::default();
    Digest::finalize_into_reset(&mut hash, &mut short);
    let made = keyed(&short);
    short.zeroize();
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cram_md5_gives_the_response_of_rfc_2195() {
        let mut mechanism = CramMd5(Account::new("tim", "tanstaaftanstaaf"));
        let response = mechanism
            .respond(b"<1896.697170952@postoffice.reston.mci.net>")
            .unwrap();
        assert_eq!(&response[..], b"tim b913a602c7eda7a495b4e6e7334d3890");
    }

    /// RFC 4616 section 4, with and without an identity to act as.
    #[test]
    fn plain_gives_the_responses_of_rfc_4616() {
        let response = |user, password, identity: Option<&str>| {
            let identity = identity.map(Into::into);
            Plain {
                login: Account::new(user, password),
                identity,
            }
            .initial_response()
        };
        let plain = response("tim", "tanstaaftanstaaf", None).unwrap().unwrap();
        assert_eq!(&plain[..], b"\0tim\0tanstaaftanstaaf");
        let plain = response("Kurt", "xipj3plmq", Some("Ursel"))
            .unwrap()
            .unwrap();
        assert_eq!(&plain[..], b"Ursel\0Kurt\0xipj3plmq");
        assert_eq!(response("t\0", "", None), Err(MechanismError::Nul));
        assert_eq!(response("t", "", Some("\0")), Err(MechanismError::Nul));
    }
}
