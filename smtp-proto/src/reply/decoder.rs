//! From octets to replies (RFC 5321 section 4.2), resumable at every octet and bounded.

use alloc::sync::Arc;
use alloc::vec::Vec;

use memchr::memchr;

use crate::text::Printable;

use super::{ReplyCode, ReplyRef};

/// How much of a reply the decoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyLimits {
    /// Octets per line, with its line end; 4,096 by default. RFC 5321 section 4.5.3.1.5 allows servers 512, but
    /// several send more.
    pub line: usize,
    /// Lines per reply; 256 by default.
    pub lines: usize,
    /// Octets of text per reply; 16,384 by default.
    pub octets: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self {
            line: 4_096,
            lines: 256,
            octets: 16_384,
        }
    }
}

/// Why the input is not a reply. The connection cannot be trusted any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line with its line end has more octets than allowed.
    #[error("a reply line is longer than {limit} octets")]
    LineTooLong {
        /// [`ReplyLimits::line`].
        limit: usize,
    },
    /// A reply has more lines than allowed.
    #[error("a reply has more than {limit} lines")]
    TooManyLines {
        /// [`ReplyLimits::lines`].
        limit: usize,
    },
    /// A reply has more text than allowed.
    #[error("a reply has more than {limit} octets of text")]
    TooLong {
        /// [`ReplyLimits::octets`].
        limit: usize,
    },
    /// A CR that is not followed by LF.
    #[error("a reply line holds a bare CR")]
    BareCr,
    /// The line does not start with a code from 200 to 599, followed by a space, a hyphen or the line end.
    #[error("not an SMTP reply: \"{}\"", Printable(.0))]
    NotAReply(
        /// The start of the line, 80 octets at most.
        Arc<[u8]>,
    ),
    /// The lines of one reply have different first digits.
    #[error("one reply holds the codes {first} and {then}")]
    CodesDisagree {
        /// The code of the line before.
        first: ReplyCode,
        /// The code that contradicts it.
        then: ReplyCode,
    },
}

/// Cuts a stream of bytes into replies.
///
/// ```
/// use smtp_proto::reply::{Decoder, ReplyLimits};
///
/// let mut decoder = Decoder::new(ReplyLimits::default());
/// let mut input: &[u8] = b"250-mx.example.net\r\n25";
/// assert_eq!(decoder.decode(&mut input), Ok(None));
/// let mut input: &[u8] = b"0 SIZE 1000\r\n220 next";
/// let reply = decoder.decode(&mut input).unwrap().unwrap().to_reply();
/// assert_eq!((reply.code().get(), reply.text()), (250, &b"mx.example.net\nSIZE 1000"[..]));
/// assert_eq!(input, b"220 next");
/// ```
#[derive(Debug)]
pub struct Decoder {
    limits: ReplyLimits,
    /// A line whose end has not come yet.
    partial: Vec<u8>,
    /// The text of a multi-line reply so far. Each line ends in LF.
    text: Vec<u8>,
    /// How many lines `text` holds, and the code of the last one.
    lines: usize,
    code: Option<ReplyCode>,
    /// The last call returned a reply in `text`.
    spent: bool,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new(limits: ReplyLimits) -> Self {
        Self {
            limits,
            partial: Vec::new(),
            text: Vec::new(),
            lines: 0,
            code: None,
            spent: false,
        }
    }

    /// Whether the input so far ends after a whole reply.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty() && (self.spent || self.lines == 0)
    }

    /// Frees the buffers of replies that were read.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            (self.partial, self.text) = (Vec::new(), Vec::new());
            self.spent = false;
        }
    }

    /// Takes octets off the front of `input` up to the end of one reply, and returns it. If the reply goes on, takes
    /// all of them and returns `None`.
    ///
    /// # Errors
    /// The input is not a reply, or exceeds a limit. The stream cannot be decoded any further.
    pub fn decode<'d, 'i: 'd>(
        &'d mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<ReplyRef<'d>>, ReplyError> {
        if self.spent {
            self.spent = false;
            self.text.clear();
            self.partial.clear();
        }
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            if self.partial.len() + line.len() > self.limits.line {
                return Err(self.line_too_long());
            }
            // The common case, a one-line reply in one piece, borrows from the input.
            if self.partial.is_empty() && self.lines == 0 && self.limits.lines > 0 {
                let (code, text, last) = parse_line(line)?;
                if last {
                    return self
                        .check_octets(text.len())
                        .map(|()| Some(ReplyRef { code, text }));
                }
                self.add_line(code, text)?;
                self.text.push(b'\n');
                continue;
            }
            let mut partial = core::mem::take(&mut self.partial);
            let parsed = if partial.is_empty() {
                parse_line(line)
            } else {
                partial.extend_from_slice(line);
                parse_line(&partial)
            };
            let (code, text, last) = parsed?;
            self.add_line(code, text)?;
            partial.clear();
            self.partial = partial;
            if last {
                self.lines = 0;
                self.code = None;
                self.spent = true;
                let text = &self.text;
                return Ok(Some(ReplyRef { code, text }));
            }
            self.text.push(b'\n');
        }
        // rule: ends.endless-reply
        if self.partial.len() + input.len() > self.limits.line {
            return Err(self.line_too_long());
        }
        self.partial.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    fn add_line(&mut self, code: ReplyCode, text: &[u8]) -> Result<(), ReplyError> {
        // rule: replies.codes-disagree
        if let Some(first) = self.code
            && first.class() != code.class()
        {
            return Err(ReplyError::CodesDisagree { first, then: code });
        }
        // rule: ends.longest-reply
        if self.lines == self.limits.lines {
            let limit = self.limits.lines;
            return Err(ReplyError::TooManyLines { limit });
        }
        self.check_octets(self.text.len() + text.len())?;
        self.lines += 1;
        // rule: replies.codes-differ
        self.code = Some(code);
        self.text.extend_from_slice(text);
        Ok(())
    }

    fn check_octets(&self, octets: usize) -> Result<(), ReplyError> {
        let limit = self.limits.octets;
        match octets > limit {
            true => Err(ReplyError::TooLong { limit }),
            false => Ok(()),
        }
    }

    fn line_too_long(&self) -> ReplyError {
        ReplyError::LineTooLong {
            limit: self.limits.line,
        }
    }
}

/// Parses one line with its LF: its code, its text, and whether the reply ends with it.
fn parse_line(line: &[u8]) -> Result<(ReplyCode, &[u8], bool), ReplyError> {
    // A bare LF ends a line too. RFC 5321 section 2.3.8 forbids it, but servers send it, and refusing it gains
    // nothing. A bare CR may be meant to hide something.
    // rule: opening.greeting-bare-lf
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // rule: replies.bare-cr
    if memchr(b'\r', line).is_some() {
        return Err(ReplyError::BareCr);
    }
    let not_a_reply = || ReplyError::NotAReply(line[..line.len().min(80)].into());
    // rule: opening.greeting-garbage
    let code = ReplyCode::parse(line).ok_or_else(not_a_reply)?;
    match line[3..] {
        // rule: replies.code-only
        [] => Ok((code, &[], true)),
        [b' ', ref text @ ..] => Ok((code, text, true)),
        // rule: opening.greeting-in-lines
        [b'-', ref text @ ..] => Ok((code, text, false)),
        _ => Err(not_a_reply()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Reply;
    use alloc::string::ToString;
    use alloc::vec;

    fn all(chunks: &[&[u8]]) -> Result<Vec<Reply>, ReplyError> {
        let mut decoder = Decoder::new(ReplyLimits::default());
        let mut replies = vec![];
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(reply) = decoder.decode(&mut input)? {
                replies.push(reply.to_reply());
            }
            assert!(input.is_empty());
        }
        Ok(replies)
    }

    #[test]
    fn every_cut_gives_the_same_replies() {
        let stream =
            b"220 a\r\n250-b\r\n250-\r\n250 c d\n354\r\n334 \r\n250-x\r\n251 y\r\n221 bye\r\n";
        let whole = all(&[stream]).unwrap();
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[1].text(), b"b\n\nc d");
        assert_eq!(whole[4].code().get(), 251);
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(all(&[a, b]).unwrap(), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(all(&bytes).unwrap(), whole);
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bad in [
            &b"25 x\r\n"[..],
            b"2500 x\r\n",
            b"150 x\r\n",
            b"650 x\r\n",
            b"250_x\r\n",
            b"\r\n",
            b"HTTP/1.1 400\r\n",
        ] {
            assert!(
                matches!(all(&[bad]), Err(ReplyError::NotAReply(_))),
                "{bad:?}"
            );
        }
        assert_eq!(all(&[b"250 a\rb\r\n"]), Err(ReplyError::BareCr));
        assert!(matches!(
            all(&[b"250-a\r\n550 b\r\n"]),
            Err(ReplyError::CodesDisagree { .. })
        ));
    }

    #[test]
    fn limits_hold_at_their_number() {
        let limits = ReplyLimits {
            line: 10,
            lines: 2,
            octets: 6,
        };
        let run = |bytes: &[u8]| {
            let mut decoder = Decoder::new(limits);
            decoder.decode(&mut &bytes[..]).map(|reply| reply.is_some())
        };
        assert_eq!(run(b"250 abcd\r\n"), Ok(true));
        assert_eq!(
            run(b"250 abcde\r\n"),
            Err(ReplyError::LineTooLong { limit: 10 })
        );
        assert_eq!(
            run(b"250 abcdefg"),
            Err(ReplyError::LineTooLong { limit: 10 })
        );
        assert_eq!(run(b"250-a\r\n250 b\r\n"), Ok(true));
        assert_eq!(
            run(b"250-a\r\n250-b\r\n250 c\r\n"),
            Err(ReplyError::TooManyLines { limit: 2 })
        );
        assert_eq!(
            run(b"250-abc\r\n250 def\r\n"),
            Err(ReplyError::TooLong { limit: 6 })
        );
    }

    #[test]
    fn enhanced_codes_are_believed_when_the_class_agrees() {
        let enhanced = |line: &[u8]| all(&[line]).unwrap()[0].enhanced().map(|e| e.to_string());
        assert_eq!(enhanced(b"550 5.1.1 gone\r\n").as_deref(), Some("5.1.1"));
        assert_eq!(
            enhanced(b"550 5.0.0 <a> 5.1.1 gone\r\n").as_deref(),
            Some("5.0.0")
        );
        assert_eq!(enhanced(b"550 2.1.1 gone\r\n"), None);
        assert_eq!(enhanced(b"550 5.1.1234 gone\r\n"), None);
        assert_eq!(enhanced(b"550 5.1\r\n"), None);
        assert_eq!(enhanced(b"250 2.0.0\r\n").as_deref(), Some("2.0.0"));
    }

    #[test]
    fn a_reply_is_shown_in_one_printable_line() {
        let reply = &all(&[b"550-5.1.1 no \x1b[2Jsuch\r\n550 5.1.1 user \xe9\r\n"]).unwrap()[0];
        assert_eq!(reply.to_string(), "550 5.1.1 no \\x1b[2Jsuch user \\xe9");
    }
}
