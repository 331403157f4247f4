//! HMAC (RFC 2104) and SCRAM's `Hi()` (RFC 5802 section 2.2), as the RFCs write them down.

use std::cell::RefCell;
use std::collections::BTreeMap;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Digest {
    Md5,
    Sha1,
    Sha256,
}

impl Digest {
    pub(super) fn of(self, octets: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => Md5::digest(octets).to_vec(),
            Self::Sha1 => Sha1::digest(octets).to_vec(),
            Self::Sha256 => Sha256::digest(octets).to_vec(),
        }
    }
}

pub(super) fn hmac(digest: Digest, key: &[u8], message: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut padded = match key.len() {
        ..=BLOCK => key.to_vec(),
        _ => digest.of(key),
    };
    padded.resize(BLOCK, 0);
    let with = |pad: u8| padded.iter().map(|octet| octet ^ pad).collect::<Vec<_>>();
    let inner = digest.of(&[with(0x36), message.to_vec()].concat());
    digest.of(&[with(0x5c), inner].concat())
}

pub(super) fn xor(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter()
        .zip(other)
        .map(|(one, other)| one ^ other)
        .collect()
}

/// `Hi()`. The last ones are kept, because a fuzzer asks for the same again and again.
pub(super) fn salted(digest: Digest, password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
    type Key = (Digest, String, Vec<u8>, u32);
    thread_local! {
        static KEPT: RefCell<BTreeMap<Key, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
    }
    let key = (digest, password.to_owned(), salt.to_vec(), iterations);
    if let Some(salted) = KEPT.with_borrow(|kept| kept.get(&key).cloned()) {
        return salted;
    }
    let first = [salt, &1_u32.to_be_bytes()].concat();
    let mut last = hmac(digest, password.as_bytes(), &first);
    let mut salted = last.clone();
    for _ in 1..iterations {
        last = hmac(digest, password.as_bytes(), &last);
        salted = xor(&salted, &last);
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.len() > 100 {
            kept.clear();
        }
        kept.insert(key, salted.clone());
    });
    salted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2202, RFC 4231 and RFC 5802 section 5.
    #[test]
    fn as_the_rfcs_have_it() {
        let hex = |octets: Vec<u8>| {
            octets
                .iter()
                .map(|o| format!("{o:02x}"))
                .collect::<String>()
        };
        assert_eq!(
            hex(hmac(Digest::Md5, b"Jefe", b"what do ya want for nothing?")),
            "750c783e6ab0b503eaa86e310a5db738"
        );
        assert_eq!(
            hex(hmac(
                Digest::Sha1,
                &[0xaa; 80],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            )),
            "aa4ae5e15272d00e95705637ce8a3b55ed402112"
        );
        assert_eq!(
            hex(salted(
                Digest::Sha1,
                "pencil",
                b"A%\xc2G\xe4:\xb1\xe9<m\xffv",
                4_096
            )),
            "1d96ee3a529b5a5f9e47c01f229a2cb8a6e15f7d"
        );
    }
}
