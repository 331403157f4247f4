//! The body of the message that is being sent: by DATA as one stream up to its dot, by BDAT (RFC 3030) in
//! chunks whose size is said before their octets. The octets stay the caller's in both; a chunk that was
//! begun must be completed, or the connection is of no more use.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::body::{BodyEncoder, BodyError};

/// `BDAT 18446744073709551615 LAST` and its line end.
const LONGEST_HEADER: usize = 32;

/// Octets that go out before a run of the caller's: the rest of a chunk's header, or what the encoder puts
/// between two octets.
#[derive(Clone, Copy)]
pub(crate) struct Insertion {
    octets: [u8; LONGEST_HEADER],
    from: u8,
    to: u8,
}

impl Insertion {
    const EMPTY: Self = Self {
        octets: [0; LONGEST_HEADER],
        from: 0,
        to: 0,
    };

    fn new(octets: &[u8]) -> Self {
        let mut insertion = Self::EMPTY;
        insertion.append(octets);
        insertion
    }

    fn header(octets: u64, last: bool) -> Self {
        let mut header = Self::EMPTY;
        let _ = write!(
            header,
            "BDAT {octets}{}\r\n",
            if last { " LAST" } else { "" }
        );
        header
    }

    fn append(&mut self, octets: &[u8]) {
        let to = usize::from(self.to);
        if let Some(room) = self.octets.get_mut(to..to + octets.len()) {
            room.copy_from_slice(octets);
            self.to += octets.len() as u8;
        }
    }
}

impl fmt::Write for Insertion {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text.as_bytes());
        Ok(())
    }
}

impl core::ops::Deref for Insertion {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[usize::from(self.from)..usize::from(self.to)]
    }
}

/// A chunk that is on offer or on its way.
struct Chunk {
    /// What has not gone out of its header.
    header: Insertion,
    /// Nothing of it has gone out.
    untouched: bool,
    octets: u64,
    /// Octets that it still lacks.
    left: u64,
    last: bool,
}

struct Chunks {
    /// The most octets of the caller's in one chunk.
    size: usize,
    /// The octets of all that is left of the body, where they are known: they are the last chunk.
    rest: Option<u64>,
    /// The caller has said which octets are the rest, and they fit.
    announced: bool,
    open: Option<Chunk>,
    /// The last chunk has gone out.
    ended: bool,
}

/// A chunk has gone out completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) octets: u64,
    pub(crate) last: bool,
}

/// What goes out next.
pub(crate) struct Next {
    /// Octets of ours.
    pub(crate) insertion: Insertion,
    /// How many of the caller's follow them.
    pub(crate) run: usize,
    /// The caller's next octet, which is taken and kept back until the body ends.
    pub(crate) held: Option<u8>,
}

impl Next {
    fn new(insertion: Insertion, run: usize) -> Self {
        Self {
            insertion,
            run,
            held: None,
        }
    }
}

/// The body of a message that is being sent.
pub(crate) struct Body {
    encoder: BodyEncoder,
    /// None under DATA.
    chunks: Option<Chunks>,
    /// The octets that were promised, as SIZE counts them.
    exact: Option<u64>,
    /// The octet that would complete the promised size. It goes out with the end of the body: until then nobody
    /// knows whether more follows, and the server must not take the front of a body for the whole.
    held: Option<u8>,
    /// Octets of the caller's that were taken.
    pub(crate) octets: u64,
}

impl Body {
    /// A body that goes out after DATA.
    pub(crate) fn new(encoder: BodyEncoder, exact: Option<u64>) -> Self {
        Self {
            encoder,
            chunks: None,
            exact,
            held: None,
            octets: 0,
        }
    }

    /// A body in chunks of `size` octets, or in a single one where the octets of all of it are known.
    pub(crate) fn chunked(encoder: BodyEncoder, size: usize, exact: Option<u64>) -> Self {
        let chunks = Chunks {
            size: size.max(1),
            // rule: chunking.exact-size
            rest: exact,
            announced: false,
            open: None,
            ended: false,
        };
        Self {
            chunks: Some(chunks),
            ..Self::new(encoder, exact)
        }
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.chunks.is_some()
    }

    /// The most octets of the next chunk, where its size is still open.
    pub(crate) fn chunk_size(&self) -> Option<usize> {
        self.chunks
            .as_ref()
            .filter(|chunks| chunks.rest.is_none())
            .map(|chunks| chunks.size)
    }

    /// Whether a chunk is needed before more octets can go out.
    pub(crate) fn is_between_chunks(&self) -> bool {
        self.chunks.as_ref().is_some_and(|chunks| {
            !chunks.ended && chunks.open.as_ref().is_none_or(|chunk| chunk.untouched)
        })
    }

    /// The octets that a chunk which was begun still lacks. One that was offered was begun: the transport may
    /// have taken it already.
    pub(crate) fn left(&self) -> Option<u64> {
        Some(self.chunks.as_ref()?.open.as_ref()?.left)
    }

    /// Says that `rest` is all that is left, so that it can be the last chunk; or what follows the chunk that
    /// is on offer can, because that one is promised as it is.
    pub(crate) fn announce_rest(&mut self, rest: &[u8]) -> Result<(), BodyError> {
        let Some(chunks) = self
            .chunks
            .as_mut()
            .filter(|chunks| !chunks.announced && !chunks.ended)
        else {
            return Ok(());
        };
        if self.held.is_some() {
            return if rest.is_empty() {
                Ok(())
            } else {
                Err(BodyError::WrongSize)
            };
        }
        let (octets, end) = self.encoder.measure(rest);
        let octets = octets + end?.finish()?.len() as u64;
        match self.exact {
            Some(exact) if exact != self.encoder.size() + octets => {
                return Err(BodyError::WrongSize);
            }
            Some(_) => chunks.announced = true,
            None if chunks.rest.is_some() => {}
            None => {
                let open = chunks.open.as_ref().map_or(0, |open| open.left);
                // rule: chunking.streamed
                chunks.rest = Some(octets.saturating_sub(open));
            }
        }
        Ok(())
    }

    /// What goes out next for the front of `body`. Nothing does only where `body` is empty, or where one octet is
    /// kept back.
    pub(crate) fn next(&mut self, body: &[u8]) -> Result<Next, BodyError> {
        let Some(chunks) = &mut self.chunks else {
            let (insertion, mut run) = self.encoder.next(body)?;
            if let Some(exact) = self.exact
                && !body.is_empty()
            {
                let gone = self.encoder.size() + self.encoder.counted(insertion);
                let room = exact
                    .checked_sub(gone)
                    .filter(|&room| room > 0)
                    .ok_or(BodyError::WrongSize)?;
                run = run.min(usize::try_from(room).unwrap_or(usize::MAX));
            }
            return Ok(Next::new(Insertion::new(insertion), run));
        };
        if (chunks.ended || self.held.is_some()) && !body.is_empty() {
            return Err(BodyError::WrongSize);
        }
        if body.is_empty() {
            // The rest of a header needs no octets after it.
            let header = chunks
                .open
                .as_ref()
                .filter(|chunk| !chunk.untouched)
                .map(|chunk| chunk.header);
            return Ok(Next::new(header.unwrap_or(Insertion::EMPTY), 0));
        }
        let open = match &mut chunks.open {
            Some(open) => open,
            none => {
                let (octets, last) = match chunks.rest {
                    Some(octets) => (octets, true),
                    None => {
                        let (octets, end) =
                            self.encoder.measure(&body[..body.len().min(chunks.size)]);
                        if octets == 0 {
                            end?;
                        }
                        (octets, false)
                    }
                };
                let header = Insertion::header(octets, last);
                none.insert(Chunk {
                    header,
                    untouched: true,
                    octets,
                    left: octets,
                    last,
                })
            }
        };
        let (insertion, run) = self.encoder.next(body)?;
        let room = open
            .left
            .checked_sub(insertion.len() as u64)
            .filter(|&room| room > 0);
        let room = room.ok_or(BodyError::WrongSize)?;
        let mut next = Next::new(
            Insertion::new(insertion),
            run.min(usize::try_from(room).unwrap_or(usize::MAX)),
        );
        if !open.header.is_empty() {
            if !insertion.is_empty() {
                return Ok(Next::new(open.header, 0));
            }
            next.insertion = open.header;
        }
        if open.last && next.run as u64 == room {
            let end = body[next.run - 1];
            if self.exact.is_some() && !chunks.announced {
                next.run -= 1;
                next.held = Some(end);
            } else if !self.encoder.may_end_with(end) {
                // These are not the octets that were announced: those left room for a line end.
                return Err(BodyError::WrongSize);
            }
        }
        Ok(next)
    }

    /// Records that `sent` octets went out of what `next` returned, and returns how many of the caller's they
    /// used up, and the chunk that they completed.
    pub(crate) fn record(
        &mut self,
        insertion: &[u8],
        run: &[u8],
        held: Option<u8>,
        sent: usize,
    ) -> (usize, Option<Sent>) {
        let all = insertion.len() + run.len();
        let sent = sent.min(all);
        let mut completed = None;
        let mut used = match &mut self.chunks {
            None => self.encoder.record(insertion, run, sent),
            Some(chunks) => {
                let Some(open) = &mut chunks.open else {
                    return (0, None);
                };
                open.untouched &= sent == 0;
                let (insertion, sent) = match open.header.is_empty() {
                    true => (insertion, sent),
                    false => {
                        let header = sent.min(open.header.len());
                        open.header.from += header as u8;
                        (&[][..], sent - header)
                    }
                };
                open.left = open.left.saturating_sub(sent as u64);
                completed = chunks.complete();
                self.encoder.record(insertion, run, sent)
            }
        };
        if sent == all && held.is_some() {
            self.held = held;
            used += 1;
        }
        self.octets += used as u64;
        (used, completed)
    }

    /// Writes what ends the body: the dot, or the last chunk with what the caller's octets lack, of which it
    /// returns the size. None where the last chunk has gone out already.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<Option<Sent>, BodyError> {
        let held = self.held.take();
        self.encoder.record(&[], held.as_slice(), 1);
        let end = self.encoder.finish()?;
        let size = self.encoder.size() + self.encoder.counted_end(end);
        // rule: chunking.wrong-size
        if self.exact.is_some_and(|exact| exact != size) {
            return Err(BodyError::WrongSize);
        }
        let Some(chunks) = &mut self.chunks else {
            out.extend_from_slice(end);
            return Ok(Some(Sent {
                octets: 0,
                last: true,
            }));
        };
        if chunks.ended {
            return Ok(None);
        }
        // rule: chunking.final-line-end
        let lacking = (held.as_slice().len() + end.len()) as u64;
        // A chunk that was on offer and not taken is none.
        chunks.open.take_if(|chunk| chunk.untouched);
        let octets = match (&chunks.open, chunks.rest) {
            (Some(open), _) if open.last && open.left == lacking => {
                out.extend_from_slice(&open.header);
                open.octets
            }
            // It stays open: whatever is said now would complete it.
            (Some(_), _) => return Err(BodyError::WrongSize),
            (None, Some(rest)) if rest != lacking => return Err(BodyError::WrongSize),
            (None, _) => {
                // rule: chunking.empty
                out.extend_from_slice(&Insertion::header(lacking, true));
                lacking
            }
        };
        out.extend_from_slice(held.as_slice());
        out.extend_from_slice(end);
        chunks.open = None;
        Ok(Some(Sent { octets, last: true }))
    }
}

impl Chunks {
    /// The chunk that has just been completed, if one has.
    fn complete(&mut self) -> Option<Sent> {
        let open = self
            .open
            .take_if(|chunk| chunk.header.is_empty() && chunk.left == 0)?;
        self.ended = open.last;
        Some(Sent {
            octets: open.octets,
            last: open.last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::BodyPolicy;
    use alloc::vec;

    /// The body as a server that reads lines has it: each line end as CRLF, and one at the end.
    fn normalised(body: &[u8]) -> Vec<u8> {
        let (mut lines, mut line, mut at) = (Vec::new(), Vec::new(), 0);
        while at < body.len() {
            match &body[at..] {
                [b'\r', b'\n', ..] => at += 1,
                [b'\r' | b'\n', ..] => {}
                [octet, ..] => {
                    line.push(*octet);
                    at += 1;
                    continue;
                }
                [] => break,
            }
            at += 1;
            lines.append(&mut line);
            lines.extend(b"\r\n");
        }
        if !line.is_empty() {
            lines.append(&mut line);
            lines.extend(b"\r\n");
        }
        lines
    }

    /// Offers `body` in pieces of `cut` octets, of which `take` go out at a time.
    fn send(mut sending: Body, body: &[u8], cut: usize, take: usize) -> Result<Vec<u8>, BodyError> {
        let mut wire = Vec::new();
        for piece in body.chunks(cut) {
            let mut piece = piece;
            while !piece.is_empty() {
                let next = sending.next(piece)?;
                let run = &piece[..next.run];
                let offer = [&next.insertion[..], run].concat();
                let n = offer.len().min(take);
                wire.extend_from_slice(&offer[..n]);
                piece = &piece[sending.record(&next.insertion, run, next.held, n).0..];
            }
        }
        sending.finish(&mut wire)?;
        Ok(wire)
    }

    /// Each body of up to five of the octets that matter, each promise and each cut: the data ends where the
    /// promise was kept, and nowhere else.
    #[test]
    fn only_a_promise_that_is_kept_ends_the_data() {
        let mut bodies = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..5 {
            let until = bodies.len();
            for n in from..until {
                bodies.extend(b"\r\n.x".map(|octet| [&bodies[n][..], &[octet]].concat()));
            }
            from = until;
        }
        let policy = BodyPolicy::default();
        for body in &bodies {
            let whole = normalised(body);
            for exact in 0..=whole.len() as u64 + 2 {
                for cut in 1..=body.len().max(1) {
                    for take in [1, usize::MAX] {
                        let what = (body.escape_ascii(), exact, cut, take);
                        let kept = exact == whole.len() as u64;
                        let data = Body::new(BodyEncoder::new(policy, true), Some(exact));
                        let data = send(data, body, cut, take);
                        assert_eq!(data.is_ok(), kept, "{what:?}");
                        let chunk =
                            Body::chunked(BodyEncoder::chunked(policy, true), 3, Some(exact));
                        let expected =
                            [alloc::format!("BDAT {exact} LAST\r\n").as_bytes(), &whole].concat();
                        let chunk = send(chunk, body, cut, take);
                        assert_eq!(
                            chunk,
                            if kept {
                                Ok(expected)
                            } else {
                                Err(BodyError::WrongSize)
                            },
                            "{what:?}"
                        );
                    }
                }
            }
        }
    }

    /// What is announced as the rest goes out at once, and what does not fit is found before.
    #[test]
    fn an_announced_rest_is_not_kept_back() {
        for (exact, fits) in [(11, false), (12, true), (13, false)] {
            let encoder = BodyEncoder::chunked(BodyPolicy::default(), true);
            let mut body = Body::chunked(encoder, 3, Some(exact));
            let rest = b"Subject: x\r\n";
            assert_eq!(body.announce_rest(rest).is_ok(), fits);
            if fits {
                let next = body.next(rest).unwrap();
                assert_eq!(
                    (&next.insertion[..], next.run, next.held),
                    (&b"BDAT 12 LAST\r\n"[..], 12, None)
                );
            }
        }
    }

    /// Other octets than the announced ones never complete a text without its last line end.
    #[test]
    fn what_was_not_announced_does_not_end_the_data() {
        for exact in [None, Some(3)] {
            let encoder = BodyEncoder::chunked(BodyPolicy::default(), true);
            let mut body = Body::chunked(encoder, 9, exact);
            assert_eq!(body.announce_rest(b"x"), Ok(()));
            assert_eq!(body.next(b"xyz").err(), Some(BodyError::WrongSize));

            // Fewer: the chunk stays open, and nothing else may be said.
            let next = body.next(b"xy").unwrap();
            let all = next.insertion.len() + next.run;
            body.record(&next.insertion, b"xy", next.held, all);
            assert_eq!(body.finish(&mut Vec::new()), Err(BodyError::WrongSize));
            assert_eq!(body.left(), Some(1));
        }
    }
}
