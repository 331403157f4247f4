//! The octets of a body on the wire: line endings, and under DATA dot-stuffing (RFC 5321 section 4.5.2).
//!
//! The encoder only inserts. The caller's octets go out verbatim, in runs between two insertions. An insertion is a
//! dot, a CR, an LF, or an LF and a dot. `chunk.rs` frames the octets for BDAT.

use memchr::{memchr2, memchr3, memrchr};

pub use crate::body_part::BodyPart;
pub use crate::wire_size::wire_size;

/// The most octets of the caller's that one offer covers. It bounds what is scanned again if a transport takes less
/// than it was offered.
const MAX_RUN: usize = 64 * 1024;

/// Octets that are examined together.
const BLOCK: usize = 128;

/// Longest line, in octets without its CRLF (RFC 5321 section 4.5.3.1.6).
pub const MAX_TEXT_LINE: usize = 998;

/// What happens to a bare CR or a bare LF in a body. Neither is ever sent as it is. Servers disagree on whether it
/// ends a line, and attackers use that to smuggle a second message into a first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LineEndings {
    /// Each becomes CRLF, so that a message in Unix lines can be sent as it lies on disk.
    #[default]
    Normalise,
    /// The first one ends the transaction, and nothing is delivered.
    Refuse,
}

/// What may stand in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BodyPolicy {
    /// Bare CRs and LFs. They become CRLF by default.
    pub line_endings: LineEndings,
    /// Sends NUL octets. False by default: the first one ends the transaction. RFC 5321 section 4.5.2 and RFC 6152
    /// exclude them, and servers treat them differently.
    pub allow_nul: bool,
    /// Ends the transaction at a line of more than 998 octets. False by default: most servers take such lines, and
    /// folding them would break signatures.
    pub refuse_long_lines: bool,
}

/// Why a body cannot be sent as it is. The server drops what it has received, because the end of the data does not
/// follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// A CR without LF, under [`LineEndings::Refuse`].
    #[error("the body holds a CR without LF; only CRLF ends a line")]
    BareCr,
    /// An LF without CR, under [`LineEndings::Refuse`].
    #[error("the body holds an LF without CR; only CRLF ends a line")]
    BareLf,
    /// An octet 0.
    #[error("the body holds a NUL octet")]
    Nul,
    /// A line over 998 octets, where they are refused.
    #[error("the body has a line of more than 998 octets")]
    LineTooLong,
    /// The body has more or fewer octets than [`Envelope::exact_size`](crate::Envelope::exact_size) promised, or
    /// its octets changed between two offers.
    #[error(
        "the body does not have the exact size that was declared; declare the size with CRLF line ends"
    )]
    WrongSize,
    /// An octet above 127 that was not declared, or that the server does not take.
    #[error(
        "the body holds octets above 127, which were not declared or which the server does not take; encode it, or declare 8BITMIME"
    )]
    EightBit,
}

/// What comes before the next octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// CRLF, or nothing at all.
    LineStart,
    /// CR, whose LF has not come yet.
    Cr,
    /// An inserted dot at the start of a line. The caller's own dot comes next. If the caller breaks its promise and
    /// offers other octets, another dot follows. So the data does not end too early even then.
    Dot,
    /// Anything else.
    Text,
}

/// How a body is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    /// By DATA, up to a dot.
    Data,
    /// Lines of text in chunks, where dots have no meaning (RFC 3030 section 2).
    Text,
    /// BINARYMIME: octets as they are (RFC 3030 section 3).
    Binary,
}

/// The state between two octets of a body. [`next`](BodyEncoder::next) says what goes out before them
/// and how many of them follow verbatim; [`advance`](BodyEncoder::advance) records what went out.
///
/// ```
/// use smtp_proto::body::{BodyEncoder, BodyPolicy};
///
/// let mut encoder = BodyEncoder::new(BodyPolicy::default(), true);
/// let (mut body, mut wire) = (&b"one\n.two"[..], Vec::new());
/// while !body.is_empty() {
///     let (inserted, run) = encoder.next(body).unwrap();
///     wire.extend_from_slice(inserted);
///     wire.extend_from_slice(&body[..run]);
///     let used = encoder.advance(body, inserted.len() + run);
///     body = &body[used..];
/// }
/// wire.extend_from_slice(encoder.finish().unwrap());
/// assert_eq!(wire, b"one\r\n..two\r\n.\r\n");
/// ```
#[derive(Clone, Debug)]
pub struct BodyEncoder {
    policy: BodyPolicy,
    allow_eight_bit: bool,
    transfer: Transfer,
    last: Last,
    /// Octets of the current line so far. Counted only if long lines are refused.
    column: usize,
    /// Octets that have gone out, as SIZE counts them (RFC 1870 section 3): line ends as CRLF, without the doubling
    /// of dots.
    size: u64,
}

impl BodyEncoder {
    /// An encoder at the beginning of a body that is sent by DATA.
    pub fn new(policy: BodyPolicy, allow_eight_bit: bool) -> Self {
        let transfer = Transfer::Data;
        Self {
            policy,
            allow_eight_bit,
            transfer,
            last: Last::LineStart,
            column: 0,
            size: 0,
        }
    }

    /// The same for a body that is sent by BDAT (RFC 3030). Dots are not doubled and do not end it. A missing line
    /// end at its end is still added.
    pub fn chunked(policy: BodyPolicy, allow_eight_bit: bool) -> Self {
        Self {
            transfer: Transfer::Text,
            ..Self::new(policy, allow_eight_bit)
        }
    }

    /// The same under BINARYMIME: every octet goes out as it is.
    pub fn binary() -> Self {
        let policy = BodyPolicy {
            allow_nul: true,
            ..BodyPolicy::default()
        };
        Self {
            transfer: Transfer::Binary,
            ..Self::new(policy, true)
        }
    }

    /// Whether this octet can be the last one on the wire.
    pub(crate) fn may_end_with(&self, octet: u8) -> bool {
        self.transfer == Transfer::Binary || octet == b'\n'
    }

    fn stuffs_dots(&self) -> bool {
        // rule: chunking.dots
        self.transfer == Transfer::Data
    }

    /// What to send for the front of `body`: octets of the encoder's own, then the number of octets of `body` that
    /// follow them verbatim. Both are empty only if `body` is.
    ///
    /// # Errors
    /// The first octet of `body` must not be sent. Octets before it are offered first, so that an error does not
    /// depend on how the body is cut.
    pub fn next(&self, body: &[u8]) -> Result<(&'static [u8], usize), BodyError> {
        let Some(&first) = body.first() else {
            return Ok((&[], 0));
        };
        let body = &body[..body.len().min(MAX_RUN)];
        // rule: chunking.binary
        if self.transfer == Transfer::Binary {
            return Ok((&[], body.len()));
        }
        let insertion = self.insertion(first)?;
        let run = self.line_run(body);
        let run = match self.allow_eight_bit || body[..run].is_ascii() {
            true => run,
            false => body.iter().position(|b| !b.is_ascii()).unwrap_or(run),
        };
        match run {
            // rule: body.nul
            0 if first == 0 && !self.policy.allow_nul => Err(BodyError::Nul),
            // rule: chunking.body-refused
            0 if !first.is_ascii() && !self.allow_eight_bit => Err(BodyError::EightBit),
            0 => Err(BodyError::LineTooLong),
            run => Ok((insertion, run)),
        }
    }

    /// What must be inserted before this octet.
    fn insertion(&self, next: u8) -> Result<&'static [u8], BodyError> {
        let insertion: &[u8] = match (self.last, next) {
            // rule: chunking.line-ends
            (Last::Cr, b'\n') => return Ok(b""),
            // rule: body.no-smuggling
            (Last::Cr, b'.') if self.stuffs_dots() => b"\n.",
            (Last::Cr, _) => b"\n",
            (Last::Dot, b'.') => return Ok(b""),
            (Last::Dot, b'\n') => b".\r",
            (_, b'\n') => b"\r",
            // rule: body.dots
            (Last::LineStart, b'.') if self.stuffs_dots() => return Ok(b"."),
            (Last::Dot, _) => return Ok(b"."),
            _ => return Ok(b""),
        };
        match (self.policy.line_endings, self.last) {
            // rule: body.line-ends-normalised
            (LineEndings::Normalise, _) => Ok(insertion),
            // rule: body.bare-refused
            (LineEndings::Refuse, Last::Cr) => Err(BodyError::BareCr),
            (LineEndings::Refuse, _) => Err(BodyError::BareLf),
        }
    }

    /// How many octets of `body` are allowed and need no insertion between them. The insertion before the first one
    /// is done.
    fn line_run(&self, body: &[u8]) -> usize {
        let find = |from: usize| {
            let rest = &body[from..];
            let found = match self.policy.allow_nul {
                true => memchr2(b'\r', b'\n', rest),
                false => memchr3(b'\r', b'\n', 0, rest),
            };
            found.map(|at| from + at)
        };
        // Where the current line began: a negative offset is what `column` carries over, so the length
        // of the line up to `at` is `at - line + carried`. A CR before this call has ended its line.
        let (mut line, mut carried) = (0, self.column);
        if self.last == Last::Cr {
            carried = 0;
        }
        // The LF of a CRLF cut in two, or of a bare LF whose CR was inserted, ends its line.
        let mut at = 0;
        let stuffs = self.stuffs_dots();
        if body[0] == b'\n' {
            (line, carried, at) = (1, 0, 1);
            if stuffs && body.get(1) == Some(&b'.') {
                return 1;
            }
        }
        let mut by_blocks = !self.policy.refuse_long_lines;
        let is_plain = if stuffs {
            Self::is_plain::<true>
        } else {
            Self::is_plain::<false>
        };
        loop {
            let found = find(at);
            let end = found.unwrap_or(body.len());
            // rule: body.long-lines
            if self.policy.refuse_long_lines && end - line + carried > MAX_TEXT_LINE {
                return (line + MAX_TEXT_LINE).saturating_sub(carried);
            }
            let Some(found) = found else {
                return body.len();
            };
            match body[found] {
                b'\r' => match (body.get(found + 1), body.get(found + 2)) {
                    (Some(b'\n'), Some(b'.')) if stuffs => return found + 2,
                    (Some(b'\n'), _) => at = found + 2,
                    // A bare CR. Its LF is inserted after it.
                    _ => return found + 1,
                },
                // A bare LF, or a NUL.
                _ => return found,
            }
            (line, carried) = (at, 0);
            // A line that needs no insertion is seldom the last one. From here, skip by blocks to the first octet
            // that needs one.
            if core::mem::take(&mut by_blocks) {
                // The LF that ended the line comes first, so that the octet after it is checked as its neighbour.
                at -= 1;
                while body[at..]
                    .first_chunk()
                    .is_some_and(|block| is_plain(self, block))
                {
                    at += BLOCK;
                }
                // That LF, or one whose CR ended a block.
                if body.get(at) == Some(&b'\n') {
                    at += 1;
                    if stuffs && body.get(at) == Some(&b'.') {
                        return at;
                    }
                }
            }
        }
    }

    /// Whether the octets of this block are allowed and need no insertion. Each CR must be followed by LF. Each LF
    /// must follow a CR, and no dot that must be doubled may follow it. The octet after the block counts as a
    /// neighbour only. The code has no branches, so that the compiler can vectorize it.
    #[inline(never)]
    fn is_plain<const STUFFS: bool>(&self, octets: &[u8; BLOCK + 1]) -> bool {
        let (mut trouble, mut least) = (false, u8::MAX);
        for (&this, &next) in octets[..BLOCK].iter().zip(&octets[1..]) {
            trouble |=
                ((this == b'\r') != (next == b'\n')) | (STUFFS & (this == b'\n') & (next == b'.'));
            least = least.min(this);
        }
        !trouble && (least > 0 || self.policy.allow_nul)
    }

    /// Records that `sent` octets of the result of [`next`](Self::next) went out. Returns how many octets of `body`
    /// they used up. A larger number than was offered counts as all of it.
    pub fn advance(&mut self, body: &[u8], sent: usize) -> usize {
        match self.next(body) {
            Ok((insertion, run)) => self.record(insertion, &body[..run], sent),
            Err(_) => 0,
        }
    }

    /// The same, for a caller that kept the result of `next`.
    pub(crate) fn record(&mut self, insertion: &[u8], run: &[u8], sent: usize) -> usize {
        let inserted = sent.min(insertion.len());
        self.size += self.counted(&insertion[..inserted]);
        if let Some(&last) = insertion[..inserted].last() {
            // A second dot after an inserted one is the last. Otherwise dots would be inserted forever.
            let behind_dot = if self.last == Last::Dot {
                Last::Text
            } else {
                Last::Dot
            };
            self.last = after(last, behind_dot);
            if insertion[..inserted].contains(&b'\n') {
                self.column = 0;
            }
        }
        let run = &run[..run.len().min(sent - inserted)];
        let Some(&last) = run.last() else {
            return 0;
        };
        self.size += run.len() as u64;
        if self.policy.refuse_long_lines {
            self.column = match memrchr(b'\n', run) {
                Some(end) => run.len() - end - 1,
                None => self.column + run.len(),
            };
            // The CR of a line end does not belong to its line.
            self.column -= usize::from(last == b'\r');
        }
        self.last = after(last, Last::Text);
        run.len()
    }

    /// How many octets all of `body` becomes on the wire, insertions included, and how it would end. Counting stops
    /// at the first octet that must not be sent, and the error reports it.
    pub(crate) fn measure(&self, mut body: &[u8]) -> (u64, Result<Self, BodyError>) {
        let (mut encoder, mut octets) = (self.clone(), 0);
        while !body.is_empty() {
            match encoder.next(body) {
                Ok((insertion, run)) => {
                    let sent = insertion.len() + run;
                    octets += sent as u64;
                    body = &body[encoder.record(insertion, &body[..run], sent)..];
                }
                Err(error) => return (octets, Err(error)),
            }
        }
        (octets, Ok(encoder))
    }

    /// The octets that have gone out, as SIZE counts them (RFC 1870 section 3).
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// How many octets of this insertion SIZE counts: all but a doubling dot.
    pub(crate) fn counted(&self, insertion: &[u8]) -> u64 {
        let doubles = self.last != Last::Dot && insertion.last() == Some(&b'.');
        insertion.len() as u64 - u64::from(doubles)
    }

    /// How many octets of the result of [`finish`](Self::finish) SIZE counts: all but the final dot and its CRLF.
    pub(crate) fn counted_end(&self, end: &[u8]) -> u64 {
        let dot = if self.stuffs_dots() {
            b".\r\n".len()
        } else {
            0
        };
        (end.len() - dot) as u64
    }

    /// What ends the data: the final CRLF if the body lacks one, and the dot. In chunks the dot is left out, and
    /// under BINARYMIME the CRLF too.
    ///
    /// # Errors
    /// The body ends in a bare CR, and the policy refuses it.
    pub fn finish(&self) -> Result<&'static [u8], BodyError> {
        match (self.last, self.policy.line_endings) {
            _ if self.transfer == Transfer::Binary => Ok(b""),
            (Last::Cr, LineEndings::Refuse) => Err(BodyError::BareCr),
            (last, _) if !self.stuffs_dots() => Ok(match last {
                Last::LineStart => b"",
                Last::Cr => b"\n",
                Last::Text | Last::Dot => b"\r\n",
            }),
            // rule: body.empty
            (Last::LineStart, _) => Ok(b".\r\n"),
            (Last::Cr, LineEndings::Normalise) => Ok(b"\n.\r\n"),
            // rule: body.final-line-end
            (Last::Text, _) => Ok(b"\r\n.\r\n"),
            (Last::Dot, _) => Ok(b".\r\n.\r\n"),
        }
    }
}

/// The state after this octet. A CR precedes every LF that goes out, the caller's or an inserted one.
fn after(octet: u8, otherwise: Last) -> Last {
    match octet {
        b'\n' => Last::LineStart,
        b'\r' => Last::Cr,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Encodes `body` offered in pieces of `offer` octets, of which the transport takes `take` at a time.
    fn encode(
        policy: BodyPolicy,
        body: &[u8],
        offer: usize,
        take: usize,
    ) -> Result<Vec<u8>, BodyError> {
        let mut encoder = BodyEncoder::new(policy, false);
        let mut wire = Vec::new();
        let mut at = 0;
        while at < body.len() {
            let piece = &body[at..body.len().min(at.saturating_add(offer))];
            let (inserted, run) = encoder.next(piece)?;
            let all = [inserted, &piece[..run]].concat();
            let sent = all.len().min(take);
            wire.extend_from_slice(&all[..sent]);
            at += encoder.advance(piece, sent);
        }
        wire.extend_from_slice(encoder.finish()?);
        Ok(wire)
    }

    fn everywhere(policy: BodyPolicy, body: &[u8]) -> Result<Vec<u8>, BodyError> {
        let whole = encode(policy, body, usize::MAX, usize::MAX);
        for offer in [1, 2, 3, 7, usize::MAX] {
            for take in [1, 2, 3, usize::MAX] {
                // Miri is slow.
                if cfg!(miri) && body.len() > 100 && (offer < 7 || take < 7) {
                    continue;
                }
                assert_eq!(
                    encode(policy, body, offer, take),
                    whole,
                    "{offer} {take} {body:?}"
                );
            }
        }
        whole
    }

    #[test]
    fn bodies_on_the_wire() {
        for (body, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n..\r\n", b"..\r\n...\r\n.\r\n"),
            (b"a.b\r\n.c", b"a.b\r\n..c\r\n.\r\n"),
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r.\rb\r", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"\n\r\r\n\n", b"\r\n\r\n\r\n\r\n.\r\n"),
            (b"a\n.\r\nMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
            (b"a\r\n.\n\r\n", b"a\r\n..\r\n\r\n.\r\n"),
        ] {
            let encoded = everywhere(BodyPolicy::default(), body).unwrap();
            assert_eq!(encoded, wire, "{:?}", body.escape_ascii());
        }
    }

    /// Every pair of octets that matters, at every place near the border of two blocks, after a plain line.
    #[test]
    fn blocks_miss_nothing() {
        let strict = BodyPolicy {
            line_endings: LineEndings::Refuse,
            ..BodyPolicy::default()
        };
        for filler in [&b"xxxxxxx"[..], b"xxxxx\r\n"] {
            let plain: Vec<u8> = filler.iter().copied().cycle().take(4 * BLOCK).collect();
            // Miri is slow.
            let step = if cfg!(miri) { 2 * BLOCK } else { 1 };
            for at in (BLOCK - 4..2 * BLOCK + 12).step_by(step) {
                for pair in [
                    b"\r\n", b"\n.", b"\r.", b"x\n", b"\rx", b"x\0", b"\n\r", b"\r\r", b".\n",
                ] {
                    let mut body = [b"x\r\n", &plain[..]].concat();
                    body[at..at + 2].copy_from_slice(pair);
                    for policy in [BodyPolicy::default(), strict] {
                        // A piece that is shorter than a block is never skipped by blocks.
                        let expected = encode(policy, &body, BLOCK / 2, usize::MAX);
                        assert_eq!(
                            encode(policy, &body, usize::MAX, usize::MAX),
                            expected,
                            "{at} {pair:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_need_no_dots_doubled() {
        let encode = |mut encoder: BodyEncoder, mut body: &[u8]| {
            let (octets, measured) = encoder.measure(body);
            let end = measured.unwrap().finish().unwrap();
            let mut wire = Vec::new();
            while !body.is_empty() {
                let (inserted, run) = encoder.next(body).unwrap();
                wire.extend_from_slice(inserted);
                wire.extend_from_slice(&body[..run]);
                body = &body[encoder.advance(body, inserted.len() + run)..];
            }
            assert_eq!(
                (wire.len() as u64, encoder.finish().unwrap()),
                (octets, end)
            );
            wire.extend_from_slice(end);
            wire
        };
        let text = BodyEncoder::chunked(BodyPolicy::default(), false);
        let long = [&b"x\r\n"[..], &b".\r\n".repeat(BLOCK)].concat();
        for (body, wire) in [
            (&b""[..], &b""[..]),
            (b".\r\n..\r\n", b".\r\n..\r\n"),
            (b"a\n.\nb", b"a\r\n.\r\nb\r\n"),
            (b"\r.", b"\r\n.\r\n"),
            (b"a\r", b"a\r\n"),
            (&long, &long),
        ] {
            assert_eq!(
                encode(text.clone(), body),
                wire,
                "{:?}",
                body.escape_ascii()
            );
        }
        let octets = b"\n.\r\0\xff.\n";
        assert_eq!(encode(BodyEncoder::binary(), octets), octets);
    }

    #[test]
    fn policies_refuse() {
        let strict = BodyPolicy {
            line_endings: LineEndings::Refuse,
            ..BodyPolicy::default()
        };
        assert_eq!(
            everywhere(strict, b"a\r\n.b\r\n").unwrap(),
            b"a\r\n..b\r\n.\r\n"
        );
        assert_eq!(everywhere(strict, b"a\nb"), Err(BodyError::BareLf));
        assert_eq!(everywhere(strict, b"a\rb"), Err(BodyError::BareCr));
        assert_eq!(everywhere(strict, b"a\r"), Err(BodyError::BareCr));
        assert_eq!(everywhere(strict, b"\n"), Err(BodyError::BareLf));
        assert_eq!(everywhere(strict, b"a\r\r\n"), Err(BodyError::BareCr));
        let lax = BodyPolicy::default();
        assert_eq!(everywhere(lax, b"a\0b"), Err(BodyError::Nul));
        assert_eq!(everywhere(lax, b"a\r\n\xe9b"), Err(BodyError::EightBit));
        let nul = BodyPolicy {
            allow_nul: true,
            ..lax
        };
        assert_eq!(everywhere(nul, b"a\0b").unwrap(), b"a\0b\r\n.\r\n");
    }

    #[test]
    fn long_lines_are_counted_across_cuts() {
        let policy = BodyPolicy {
            refuse_long_lines: true,
            ..BodyPolicy::default()
        };
        for end in ["\r\n", "\n", "\r", "\r\nx\r\n", ""] {
            for (octets, fits) in [(998, true), (999, false)] {
                for lead in ["", "y\r\n", "y\n", "y\r"] {
                    let body =
                        [lead.as_bytes(), &alloc::vec![b'x'; octets], end.as_bytes()].concat();
                    assert_eq!(
                        everywhere(policy, &body).is_ok(),
                        fits,
                        "{octets} {lead:?} {end:?}"
                    );
                }
            }
        }
    }
}
