//! The channel binding `tls-server-end-point` (RFC 5929 section 4) of a certificate.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// The DER tag of `[0]`, explicit.
const FIRST: u8 = 0xa0;

/// The hash of the certificate, by the hash function of its signature. SHA-256 replaces MD5 and SHA-1. `None` if the
/// signature does not name a hash function, as with Ed25519.
pub(crate) fn hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let (signed, _) = element(certificate, SEQUENCE)?;
    let (_, behind) = element(signed, SEQUENCE)?;
    let (algorithm, _) = element(behind, SEQUENCE)?;
    let (name, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    match name {
        // 1.2.840.113549.1.1: PKCS #1 with a hash function, and PSS. The parameters of PSS name it, and the default
        // is SHA-1.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, kind] => match kind {
            4 | 5 | 11 => digest::<Sha256>(certificate),
            12 => digest::<Sha384>(certificate),
            13 => digest::<Sha512>(certificate),
            14 => digest::<Sha224>(certificate),
            10 => match element(parameters, SEQUENCE).and_then(|(all, _)| element(all, FIRST)) {
                Some((named, _)) => {
                    let (algorithm, _) = element(named, SEQUENCE)?;
                    let (name, _) = element(algorithm, OBJECT_IDENTIFIER)?;
                    match name {
                        // 2.16.840.1.101.3.4.2
                        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 1] => {
                            digest::<Sha256>(certificate)
                        }
                        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 2] => {
                            digest::<Sha384>(certificate)
                        }
                        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 3] => {
                            digest::<Sha512>(certificate)
                        }
                        _ => None,
                    }
                }
                None => digest::<Sha256>(certificate),
            },
            _ => None,
        },
        // 1.2.840.10045.4: ECDSA with SHA-1, and with SHA-2.
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 1] => digest::<Sha256>(certificate),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, kind] => match kind {
            1 => digest::<Sha224>(certificate),
            2 => digest::<Sha256>(certificate),
            3 => digest::<Sha384>(certificate),
            4 => digest::<Sha512>(certificate),
            _ => None,
        },
        _ => None,
    }
}

fn digest<D: Digest>(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(D::digest(certificate).to_vec())
}

/// The contents of the first DER element, which must have this tag, and what follows the element.
fn element(der: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                octets
                    .iter()
                    .fold(0, |length, &octet| length << 8 | usize::from(octet)),
                rest,
            )
        }
        _ => return None,
    };
    rest.split_at_checked(length).filter(|_| found == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a certificate that are read.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let algorithm = wrapped(SEQUENCE, algorithm);
        // Long enough that its length takes two octets.
        wrapped(
            SEQUENCE,
            &[wrapped(SEQUENCE, &[0; 300]), algorithm, vec![3, 1, 0]].concat(),
        )
    }

    fn wrapped(kind: u8, contents: &[u8]) -> Vec<u8> {
        let length = match u8::try_from(contents.len()) {
            Ok(short @ 0..=0x7f) => vec![short],
            _ => [
                &[0x82][..],
                &u16::try_from(contents.len()).unwrap().to_be_bytes(),
            ]
            .concat(),
        };
        [&[kind][..], &length, contents].concat()
    }

    #[test]
    fn the_hash_function_is_that_of_the_signature() {
        let rsa = |kind| {
            wrapped(
                OBJECT_IDENTIFIER,
                &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, kind],
            )
        };
        let ecdsa = |kind| {
            wrapped(
                OBJECT_IDENTIFIER,
                &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 3, kind],
            )
        };
        let pss = |hash| {
            let name = wrapped(
                OBJECT_IDENTIFIER,
                &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash],
            );
            [
                rsa(10),
                wrapped(SEQUENCE, &wrapped(FIRST, &wrapped(SEQUENCE, &name))),
            ]
            .concat()
        };
        for (algorithm, octets) in [
            (rsa(4), Some(32)),
            (rsa(5), Some(32)),
            (rsa(11), Some(32)),
            (rsa(12), Some(48)),
            (rsa(13), Some(64)),
            (rsa(14), Some(28)),
            (rsa(1), None),
            (pss(1), Some(32)),
            (pss(2), Some(48)),
            (pss(3), Some(64)),
            (pss(9), None),
            ([rsa(10), wrapped(SEQUENCE, &[])].concat(), Some(32)),
            (ecdsa(1), Some(28)),
            (ecdsa(2), Some(32)),
            (ecdsa(3), Some(48)),
            (ecdsa(4), Some(64)),
            (
                wrapped(OBJECT_IDENTIFIER, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 1]),
                Some(32),
            ),
            (wrapped(OBJECT_IDENTIFIER, &[0x2b, 0x65, 0x70]), None),
        ] {
            let certificate = certificate(&algorithm);
            assert_eq!(
                hash(&certificate).map(|hash| hash.len()),
                octets,
                "{algorithm:x?}"
            );
            for end in 0..certificate.len() - 3 {
                assert_eq!(hash(&certificate[..end]), None);
            }
        }
    }
}
