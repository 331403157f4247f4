//! The server's part of SCRAM-SHA-256 (RFC 5802, RFC 7677), with channel binding, for one account.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const ITERATIONS: u32 = 4_096;

/// What identifies the TLS connection: a kind (RFC 5929, RFC 9266) and its data.
pub(crate) type Binding = (&'static str, Vec<u8>);

/// One exchange, after the client's first message.
pub(crate) struct Exchange {
    /// The server's challenge.
    pub(crate) challenge: String,
    /// The expected data of `c=`.
    header: Vec<u8>,
    nonce: String,
    /// The client's first message without its header, the challenge, and the commas after them.
    messages: String,
    salted: [u8; 32],
}

impl Exchange {
    /// Takes the client's first message. `None` if it is not acceptable. `plus`: the mechanism has a channel binding.
    /// `binding`: the binding, if the connection has one.
    pub(crate) fn begin(
        first: &[u8],
        account: (&[u8], &[u8]),
        acts_as: &str,
        plus: bool,
        binding: Option<&Binding>,
    ) -> Option<Self> {
        let first = str::from_utf8(first).ok()?;
        let mut fields = first.splitn(3, ',');
        let (flag, identity, bare) = (fields.next()?, fields.next()?, fields.next()?);
        let data = match (flag, binding) {
            ("n", _) | ("y", None) if !plus => &[][..],
            // The client sends "y" although we support it: somebody has hidden our offer.
            (flag, Some((kind, data))) if plus && flag.strip_prefix("p=") == Some(*kind) => data,
            _ => return None,
        };
        let (user, theirs) = bare.strip_prefix("n=")?.split_once(",r=")?;
        if user.as_bytes() != account.0 || identity != acts_as {
            return None;
        }
        let nonce = format!("{theirs}by-the-receiver");
        let salt = b"as good as any";
        let challenge = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt));
        let mut last = sign(account.1, &[salt, &[0, 0, 0, 1]]);
        let mut salted = last;
        for _ in 1..ITERATIONS {
            last = sign(account.1, &[&last]);
            salted
                .iter_mut()
                .zip(last)
                .for_each(|(octet, other)| *octet ^= other);
        }
        let header = [format!("{flag},{identity},").as_bytes(), data].concat();
        let messages = format!("{bare},{challenge},");
        Some(Self {
            challenge,
            header,
            nonce,
            messages,
            salted,
        })
    }

    /// Takes the client's proof. Returns ours if theirs is right.
    pub(crate) fn finish(&self, last: &[u8]) -> Option<String> {
        let last = str::from_utf8(last).ok()?;
        let (without_proof, proof) = last.split_once(",p=")?;
        if without_proof != format!("c={},r={}", STANDARD.encode(&self.header), self.nonce) {
            return None;
        }
        let messages = [self.messages.as_bytes(), without_proof.as_bytes()];
        let client_key = sign(&self.salted, &[b"Client Key"]);
        let mut expected = sign(&Sha256::digest(client_key), &messages);
        expected
            .iter_mut()
            .zip(client_key)
            .for_each(|(octet, other)| *octet ^= other);
        let signature = sign(&sign(&self.salted, &[b"Server Key"]), &messages);
        (proof == STANDARD.encode(expected)).then(|| format!("v={}", STANDARD.encode(signature)))
    }
}

fn sign(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_pass_does_not() {
        let binding = Some(("tls-exporter", vec![7]));
        let begin = |first: &str, plus| {
            Exchange::begin(
                first.as_bytes(),
                (b"user", b"pencil"),
                "",
                plus,
                binding.as_ref(),
            )
            .is_some()
        };
        assert!(begin("n,,n=user,r=x", false) && begin("p=tls-exporter,,n=user,r=x", true));
        for (first, plus) in [
            ("y,,n=user,r=x", false),
            ("p=tls-exporter,,n=user,r=x", false),
            ("n,,n=user,r=x", true),
            ("p=tls-unique,,n=user,r=x", true),
            ("n,,n=other,r=x", false),
        ] {
            assert!(!begin(first, plus), "{first} {plus}");
        }
        let exchange =
            Exchange::begin(b"n,,n=user,r=x", (b"user", b"pencil"), "", false, None).unwrap();
        assert_eq!(exchange.finish(b"c=biws,r=xby-the-receiver,p=AAAA"), None);
        assert_eq!(exchange.finish(b"c=eSws,r=xby-the-receiver,p=AAAA"), None);
    }
}
