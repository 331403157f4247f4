//! A message without its Bcc fields. Their recipients are in the envelope only (RFC 5322 section 3.6.3).

use std::io::{self, BufRead, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use memchr::memchr2;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

const NAMES: [&[u8]; 2] = [b"bcc", b"resent-bcc"];

/// The most octets of a line (RFC 5322 section 2.1.1), and so of a name with the space after it.
const LINE: usize = 998;

/// Reads a message without its Bcc and Resent-Bcc fields. The body goes through unchanged. Only one read of the
/// header is kept.
#[derive(Debug)]
pub struct WithoutBcc<R> {
    source: R,
    header: Header,
    /// What stays of the header, and how many octets of it were taken.
    kept: Vec<u8>,
    taken: usize,
}

impl<R> WithoutBcc<R> {
    /// Reads the message from `source`.
    pub fn new(source: R) -> Self {
        Self {
            source,
            header: Header::default(),
            kept: Vec::new(),
            taken: 0,
        }
    }

    /// Whether the kept part of the header is taken, and more may follow.
    fn wants_header(&mut self) -> bool {
        if self.has_kept() {
            return false;
        }
        self.kept.clear();
        self.taken = 0;
        self.header.at != At::Body
    }

    fn has_kept(&self) -> bool {
        self.taken < self.kept.len()
    }
}

impl<R: BufRead> BufRead for WithoutBcc<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.wants_header() {
            let octets = self.source.fill_buf()?;
            let n = self.header.take(octets, &mut self.kept);
            self.source.consume(n);
        }
        match self.has_kept() {
            true => Ok(&self.kept[self.taken..]),
            false => self.source.fill_buf(),
        }
    }

    fn consume(&mut self, octets: usize) {
        match self.has_kept() {
            true => self.taken += octets,
            false => self.source.consume(octets),
        }
    }
}

impl<R: BufRead> Read for WithoutBcc<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for WithoutBcc<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.wants_header() {
            let octets = ready!(Pin::new(&mut this.source).poll_fill_buf(cx))?;
            let n = this.header.take(octets, &mut this.kept);
            Pin::new(&mut this.source).consume(n);
        }
        match this.has_kept() {
            true => Poll::Ready(Ok(&this.kept[this.taken..])),
            false => Pin::new(&mut this.source).poll_fill_buf(cx),
        }
    }

    fn consume(self: Pin<&mut Self>, octets: usize) {
        let this = self.get_mut();
        match this.has_kept() {
            true => this.taken += octets,
            false => Pin::new(&mut this.source).consume(octets),
        }
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for WithoutBcc<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let octets = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = octets.len().min(to.remaining());
        to.put_slice(&octets[..n]);
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    /// In what may be the name of a removed field.
    Name,
    Line,
    Body,
}

/// The place in the header. CR, LF and CRLF all end a line, because each is sent as CRLF.
#[derive(Debug, Default)]
struct Header {
    at: At,
    /// The field is removed, with the lines that continue it.
    goes: bool,
    /// The octet before was CR, so an LF belongs to it.
    after_cr: bool,
    /// The octets that may be such a name.
    name: Vec<u8>,
}

impl Header {
    /// Takes octets up to the end of the header, and returns how many. No octets mean the end of the message.
    fn take(&mut self, octets: &[u8], kept: &mut Vec<u8>) -> usize {
        if octets.is_empty() {
            // It was not a name, because no colon followed.
            kept.append(&mut self.name);
            self.at = At::Body;
        }
        let mut taken = 0;
        while taken < octets.len() && self.at != At::Body {
            let rest = &octets[taken..];
            let n = match self.at {
                At::Line => memchr2(b'\r', b'\n', rest).unwrap_or(rest.len()).max(1),
                _ => 1,
            };
            self.step(&rest[..n], kept);
            taken += n;
        }
        taken
    }

    /// Takes one octet, or several of a line.
    fn step(&mut self, octets: &[u8], kept: &mut Vec<u8>) {
        let octet = octets[0];
        let completes = std::mem::take(&mut self.after_cr) && octet == b'\n';
        match (self.at, octet) {
            (At::LineStart, b'\n') if completes => self.keep(octets, kept),
            // An empty line ends the header.
            (At::LineStart, b'\r' | b'\n') => {
                kept.push(octet);
                self.at = At::Body;
            }
            // The line continues the field.
            (At::LineStart, b' ' | b'\t') => {
                self.keep(octets, kept);
                self.at = At::Line;
            }
            (At::LineStart | At::Name, _) => self.name(octet, kept),
            (At::Line | At::Body, b'\r' | b'\n') => {
                self.keep(octets, kept);
                self.after_cr = octet == b'\r';
                self.at = At::LineStart;
            }
            (At::Line | At::Body, _) => self.keep(octets, kept),
        }
    }

    /// Takes one octet of a line that may begin with a name.
    fn name(&mut self, octet: u8, kept: &mut Vec<u8>) {
        (self.at, self.goes) = (At::Name, false);
        // Space before the colon is obsolete syntax, but must be read (RFC 5322 section 4.5).
        let name = self.name.trim_ascii_end();
        let is_whole = NAMES.iter().any(|known| known.eq_ignore_ascii_case(name));
        let is_space = matches!(octet, b' ' | b'\t');
        if is_whole && (octet == b':' || (is_space && self.name.len() == LINE)) {
            self.name.clear();
            (self.at, self.goes) = (At::Line, true);
            return;
        }
        let begins = |known: &&[u8]| {
            let begin = known.get(..=self.name.len());
            begin.is_some_and(|begin| {
                let (last, name) = begin.split_last().unwrap_or((&0, &[]));
                name.eq_ignore_ascii_case(&self.name) && last.eq_ignore_ascii_case(&octet)
            })
        };
        if (is_whole && is_space) || NAMES.iter().any(begins) {
            self.name.push(octet);
            return;
        }
        kept.append(&mut self.name);
        self.at = At::Line;
        self.step(&[octet], kept);
    }

    fn keep(&self, octets: &[u8], kept: &mut Vec<u8>) {
        if !self.goes {
            kept.extend_from_slice(octets);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// The same for a whole message, line by line.
    fn expected(message: &[u8]) -> Vec<u8> {
        let (mut rest, mut kept, mut goes) = (message, Vec::new(), false);
        while !rest.is_empty() {
            let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..end];
            if line.is_empty() {
                break;
            }
            let end = match &rest[end..] {
                [b'\r', b'\n', ..] => end + 2,
                [] => end,
                _ => end + 1,
            };
            if !matches!(line[0], b' ' | b'\t') {
                let name = line
                    .split(|&octet| octet == b':')
                    .next()
                    .unwrap_or_default();
                let name = name.trim_ascii_end().to_ascii_lowercase();
                goes = line.contains(&b':') && (name == b"bcc" || name == b"resent-bcc");
            }
            if !goes {
                kept.extend_from_slice(&rest[..end]);
            }
            rest = &rest[end..];
        }
        [&kept, rest].concat()
    }

    fn filtered(message: &[u8], cut: usize) -> Vec<u8> {
        let mut kept = Vec::new();
        let source = BufReader::with_capacity(cut, message);
        WithoutBcc::new(source).read_to_end(&mut kept).unwrap();
        kept
    }

    #[test]
    fn bcc_goes_and_all_else_stays() {
        for (message, kept) in [
            (
                "To: a\r\nBcc: b\r\nCc: c\r\n\r\nBcc: d\r\n",
                "To: a\r\nCc: c\r\n\r\nBcc: d\r\n",
            ),
            (
                "BCC:b,\r\n c,\r\n\td\r\nTo: a\r\n e\r\n\r\n",
                "To: a\r\n e\r\n\r\n",
            ),
            ("To: a\nbcc: b\n c\nbCC: d\n\nx\n", "To: a\n\nx\n"),
            (
                "To: a\rBcc: b\r c\rCc: c\r\rBcc: d\r",
                "To: a\rCc: c\r\rBcc: d\r",
            ),
            ("Resent-Bcc: b\r\nresent-BCC : c\r\n\r\n", "\r\n"),
            ("\r\nBcc: b\r\n", "\r\nBcc: b\r\n"),
            ("\nBcc: b\n", "\nBcc: b\n"),
            ("Bcc: b", ""),
            ("Bcc:", ""),
            ("Bcc", "Bcc"),
            ("To: a\r\nBcc: b\r\n \r\n\r\n", "To: a\r\n\r\n"),
            (
                "Bccs: b\r\nX-Bcc: c\r\nBc: d\r\nBcc\r\n\r\n",
                "Bccs: b\r\nX-Bcc: c\r\nBc: d\r\nBcc\r\n\r\n",
            ),
            ("To: a\r\n Bcc: b\r\n\r\n", "To: a\r\n Bcc: b\r\n\r\n"),
            ("", ""),
        ] {
            assert_eq!(expected(message.as_bytes()), kept.as_bytes(), "{message:?}");
            for cut in 1..=message.len() + 1 {
                let filtered = filtered(message.as_bytes(), cut);
                assert_eq!(filtered, kept.as_bytes(), "{message:?} by {cut}");
            }
        }
    }

    /// Every message of up to five of these pieces, with every cut, for both kinds of reading.
    #[test]
    fn it_is_the_same_however_the_message_is_cut() {
        let parts = ["Bcc", "resent-", ":", " ", "\r", "\n", "x"];
        let mut messages = vec![String::new()];
        let mut from = 0;
        for _ in 0..5 {
            let until = messages.len();
            for n in from..until {
                messages.extend(parts.map(|part| messages[n].clone() + part));
            }
            from = until;
        }
        assert_eq!(messages.len(), 1 + 7 + 49 + 343 + 2401 + 16807);
        let runtime = crate::play::bulk::runtime();
        for message in &messages {
            let expected = expected(message.as_bytes());
            for cut in [1, 2, 5, 64] {
                let filtered = filtered(message.as_bytes(), cut);
                assert_eq!(filtered, expected, "{message:?} by {cut}");
            }
            let mut kept = Vec::new();
            let source = tokio::io::BufReader::with_capacity(3, message.as_bytes());
            let mut filter = WithoutBcc::new(source);
            runtime.block_on(filter.read_to_end(&mut kept)).unwrap();
            assert_eq!(kept, expected, "{message:?}");
        }
    }

    /// A name with more space after it than a line may have is removed too.
    #[test]
    fn a_name_that_never_ends_goes() {
        let message = format!("Bcc{}: b\r\nTo: a\r\n\r\n", " ".repeat(3_000));
        for cut in [1, 1_000, 4_000] {
            assert_eq!(filtered(message.as_bytes(), cut), b"To: a\r\n\r\n");
        }
    }

    /// However long its header and its body are.
    #[test]
    fn a_long_message_is_not_kept() {
        const READ: usize = 64 * 1024;
        let header = b"Bcc: b\r\n c\r\nSubject: long\r\n".repeat(100_000);
        let body = b"Bcc: b\r\n".repeat(100_000);
        let message = [&header[..], b"\r\n", &body].concat();
        let mut filter = WithoutBcc::new(BufReader::with_capacity(READ, &message[..]));
        let mut octets = 0;
        loop {
            let n = filter.fill_buf().unwrap().len();
            if n == 0 {
                break;
            }
            filter.consume(n);
            octets += n;
            let kept = filter.kept.capacity() + filter.header.name.capacity();
            assert!(kept <= 2 * (READ + LINE), "{kept}");
        }
        assert_eq!(
            octets,
            b"Subject: long\r\n".len() * 100_000 + 2 + body.len()
        );
    }
}
