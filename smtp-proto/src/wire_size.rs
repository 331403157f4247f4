//! The size of a message in memory on the wire.

/// Octets that are examined together: few enough that their count of bare line ends fits into one octet.
const BLOCK: usize = 192;

/// The size of a message on the wire, in octets, with each line end as CRLF, and one at its end. The dots that DATA
/// doubles do not count (RFC 1870 section 5). SIZE declares this size, and [`Envelope::exact_size`] promises it.
///
/// It reads each octet once, several at a time.
///
/// ```
/// use smtp_proto::body::wire_size;
///
/// assert_eq!(wire_size(b"Subject: x\n\n.\n"), b"Subject: x\r\n\r\n.\r\n".len() as u64);
/// assert_eq!(wire_size(b"no end"), 8);
/// assert_eq!(wire_size(b""), 0);
/// ```
///
/// A [binary](crate::envelope::BodyType::Binary) body is sent unchanged, so its size is its length.
///
/// [`Envelope::exact_size`]: crate::Envelope::exact_size
pub fn wire_size(message: &[u8]) -> u64 {
    let (Some(first), Some(last)) = (message.first(), message.last()) else {
        return 0;
    };
    let end = match last {
        b'\n' => 0,
        b'\r' => 1,
        _ => 2,
    };
    message.len() as u64 + u64::from(*first == b'\n') + bare_ends(message) + end
}

/// Counts CRs that are not followed by LF, and LFs that do not follow a CR. It has no branches, and its blocks have a
/// fixed length, so that the compiler can vectorize it.
fn bare_ends(message: &[u8]) -> u64 {
    let (these, last_of_these) = message[..message.len() - 1].as_chunks::<BLOCK>();
    let (next, last_of_next) = message[1..].as_chunks::<BLOCK>();
    let is_bare = |(this, next): (&u8, &u8)| u8::from((*this == b'\r') != (*next == b'\n'));
    let in_block = |(these, next): (&[u8; BLOCK], &[u8; BLOCK])| {
        let bare: u8 = these.iter().zip(next).map(is_bare).sum();
        u64::from(bare)
    };
    let in_blocks: u64 = these.iter().zip(next).map(in_block).sum();
    let after: u8 = last_of_these.iter().zip(last_of_next).map(is_bare).sum();
    in_blocks + u64::from(after)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::body::{BodyEncoder, BodyPolicy};

    /// What is sent under BDAT, where no dot is added.
    fn sent(body: &[u8]) -> u64 {
        let mut encoder = BodyEncoder::chunked(BodyPolicy::default(), true);
        let (mut rest, mut octets) = (body, 0);
        while !rest.is_empty() {
            let (inserted, run) = encoder.next(rest).unwrap();
            octets += inserted.len() + run;
            rest = &rest[encoder.advance(rest, inserted.len() + run)..];
        }
        (octets + encoder.finish().unwrap().len()) as u64
    }

    #[test]
    fn it_is_what_goes_out() {
        const OCTETS: [u8; 4] = *b"\r\n.a";
        // Miri is slow.
        const LONGEST: u32 = if cfg!(miri) { 3 } else { 7 };
        let mut count = 0;
        for length in 0..=LONGEST {
            for number in 0..OCTETS.len().pow(length) {
                let at = |place| OCTETS[number / OCTETS.len().pow(place) % OCTETS.len()];
                let body: Vec<u8> = (0..length).map(at).collect();
                assert_eq!(wire_size(&body), sent(&body), "{}", body.escape_ascii());
                count += 1;
            }
        }
        assert_eq!(count, (OCTETS.len().pow(LONGEST + 1) - 1) / 3);
    }

    #[test]
    fn blocks_have_no_seams() {
        for ends in ["\r\n", "\n", "\r", "\n\r", "\r\r\n"] {
            for before in (0..=2 * BLOCK + 2).step_by(if cfg!(miri) { BLOCK / 2 + 1 } else { 1 }) {
                let body = ["x".repeat(before).as_str(), ends, "y"].concat();
                assert_eq!(
                    wire_size(body.as_bytes()),
                    sent(body.as_bytes()),
                    "{body:?}"
                );
            }
        }
        for body in ["\n".repeat(3 * BLOCK), "\r".repeat(3 * BLOCK + 1)] {
            assert_eq!(wire_size(body.as_bytes()), 2 * body.len() as u64);
        }
    }
}
