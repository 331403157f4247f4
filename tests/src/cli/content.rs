//! The content of a message, which its envelope declares.

use std::io::{self, Read};

use smtp_proto::{Envelope, envelope::BodyType};

/// What reading a file has found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Content {
    /// Octets as read, and as sent, with CRLF line ends (RFC 1870).
    pub(super) octets: u64,
    size: u64,
    is_eight_bit: bool,
    pub(super) has_nul: bool,
}

impl Content {
    pub(super) fn examine(mut file: impl Read) -> io::Result<Self> {
        let mut content = Self::default();
        let mut buffer = vec![0; 64 * 1024];
        let mut last = b'\n';
        loop {
            let octets = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => &buffer[..n],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            content.octets += octets.len() as u64;
            content.is_eight_bit |= !octets.is_ascii();
            content.has_nul |= octets.contains(&0);
            for &octet in octets {
                let completed =
                    (last == b'\r') != (octet == b'\n') && (last == b'\r' || octet == b'\n');
                content.size += 1 + u64::from(completed);
                last = octet;
            }
        }
        if content.octets > 0 && last != b'\n' {
            content.size += if last == b'\r' { 1 } else { 2 };
        }
        Ok(content)
    }

    pub(super) fn declare(&self, envelope: Envelope) -> Envelope {
        let body = if self.is_eight_bit {
            BodyType::EightBit
        } else {
            BodyType::SevenBit
        };
        envelope.exact_size(self.size).body(body).reopenable(true)
    }
}

#[cfg(test)]
mod tests {
    use smtp_proto::body::{BodyEncoder, BodyPolicy};

    use super::*;

    /// How many octets of this body go out in chunks.
    fn sent(mut body: &[u8]) -> u64 {
        let mut encoder = BodyEncoder::chunked(BodyPolicy::default(), true);
        let mut octets = 0;
        while !body.is_empty() {
            let (inserted, run) = encoder.next(body).unwrap();
            octets += inserted.len() + run;
            body = &body[encoder.advance(body, inserted.len() + run)..];
        }
        (octets + encoder.finish().unwrap().len()) as u64
    }

    /// A reader that gives at most this many octets at a time.
    struct Cut<'a>(&'a [u8], usize);

    impl Read for Cut<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(self.1);
            self.0.read(&mut buffer[..n])
        }
    }

    /// The size is a promise: it goes into `BDAT n LAST`.
    #[test]
    fn a_look_at_a_file_counts_what_the_engine_sends() {
        let octets = [b'\r', b'\n', b'.', b'x'];
        // Every file of up to five of these pieces.
        let mut files = vec![vec![]];
        let mut from = 0;
        for _ in 0..5 {
            let until = files.len();
            for n in from..until {
                files.extend(octets.map(|octet| [&files[n][..], &[octet]].concat()));
            }
            from = until;
        }
        for file in &files {
            for cut in 1..=file.len().max(1) {
                let content = Content::examine(Cut(file, cut)).unwrap();
                assert_eq!(
                    content.size,
                    sent(file),
                    "{:?} by {cut}",
                    file.escape_ascii()
                );
            }
        }
        assert_eq!(files.len(), 1 + 4 + 16 + 64 + 256 + 1024);
        assert!(Content::examine(&b"\xe9"[..]).unwrap().is_eight_bit);
    }
}
