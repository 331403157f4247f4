//! The body of the message that is being sent. By DATA it is one stream up to its dot. By BDAT (RFC 3030) it is a
//! series of chunks, each announced with its size. The engine copies the octets in neither case. A chunk that was
//! begun must be completed, or the connection is lost.

use alloc::vec::Vec;
use core::fmt;

use crate::body::{BodyEncoder, BodyError, BodyPart};
use crate::command::Command;

/// The most octets of the caller's in one chunk that is not the last. On the wire they become twice as many at most.
const MAX_CHUNK: usize = u32::MAX as usize / 2;

/// `BDAT 18446744073709551615 LAST` and its line end.
const LONGEST_HEADER: usize = 32;

/// Octets that go out before a run of the caller's: the rest of a chunk's header, or an insertion of the encoder.
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
        Command::Bdat { octets, last }.write_to(&mut header);
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
    /// What is left to send of its header.
    header: Insertion,
    /// None of it has gone out yet.
    untouched: bool,
    octets: u64,
    /// Octets that are still missing.
    left: u64,
    last: bool,
}

struct Chunks {
    /// The most octets of the caller's in one chunk.
    size: usize,
    /// The size of the whole body, if it was promised. The body is then one chunk.
    whole: Option<u64>,
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
    /// The caller's next octet, taken but held back until the body ends.
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
    /// `None` under DATA.
    chunks: Option<Chunks>,
    /// The promised size, as SIZE counts it.
    exact: Option<u64>,
    /// The octet that would complete the last chunk. It goes out only when the caller has declared the end of the
    /// body. Otherwise the server could take the front of a body for the whole.
    held: Option<u8>,
    /// Octets taken from the caller.
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

    /// A body in chunks of `size` octets, or in one chunk if the size of all of it is known.
    pub(crate) fn chunked(encoder: BodyEncoder, size: usize, exact: Option<u64>) -> Self {
        let chunks = Chunks {
            size: size.clamp(1, MAX_CHUNK),
            // rule: chunking.exact-size
            whole: exact,
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

    /// The most octets of the next chunk, while its size is undecided.
    pub(crate) fn chunk_size(&self) -> Option<usize> {
        self.chunks
            .as_ref()
            .filter(|chunks| chunks.whole.is_none())
            .map(|chunks| chunks.size)
    }

    /// Whether the next octets that are offered decide the size of a chunk.
    pub(crate) fn is_sizing(&self) -> bool {
        self.chunks
            .as_ref()
            .is_some_and(|chunks| !chunks.ended && chunks.open.is_none())
    }

    /// Whether a chunk is needed before more octets can go out.
    pub(crate) fn is_between_chunks(&self) -> bool {
        self.chunks.as_ref().is_some_and(|chunks| {
            !chunks.ended && chunks.open.as_ref().is_none_or(|chunk| chunk.untouched)
        })
    }

    /// The BDAT of the chunk that was begun.
    pub(crate) fn open_chunk(&self) -> Option<Command<'static>> {
        let open = self.chunks.as_ref()?.open.as_ref()?;
        Some(Command::Bdat {
            octets: open.octets,
            last: open.last,
        })
    }

    /// How many octets of the chunk that was begun are out, after its whole header.
    pub(crate) fn gone_of_chunk(&self) -> Option<u64> {
        let open = self.chunks.as_ref()?.open.as_ref()?;
        (open.header.is_empty()).then_some(open.octets - open.left)
    }

    /// How many octets the begun chunk still needs. A chunk that was offered counts as begun: the transport may have
    /// taken it.
    pub(crate) fn left(&self) -> Option<u64> {
        Some(self.chunks.as_ref()?.open.as_ref()?.left)
    }

    /// What goes out next for the front of this part. It is empty only if the part is empty, or if one octet is held
    /// back.
    pub(crate) fn next(&mut self, part: BodyPart<'_>) -> Result<Next, BodyError> {
        let (body, is_last) = (part.bytes(), part.is_last());
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
            // The rest of a header does not need octets after it.
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
                let (octets, last) = match chunks.whole {
                    _ if is_last => {
                        let (octets, end) = self.encoder.measure(body);
                        let octets = octets + end?.finish()?.len() as u64;
                        // rule: chunking.streamed
                        match chunks.whole {
                            Some(whole) if whole != octets => return Err(BodyError::WrongSize),
                            _ => (octets, true),
                        }
                    }
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
            if !is_last {
                next.run -= 1;
                next.held = Some(end);
            } else if body.len() > next.run || !self.encoder.may_end_with(end) {
                // The size was computed from other octets.
                return Err(BodyError::WrongSize);
            }
        }
        Ok(next)
    }

    /// Records that `sent` octets of the result of `next` went out. Returns how many of the caller's they used up,
    /// and the chunk that they completed.
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

    /// Writes the end of the body: the dot, or the last chunk with the octets that are still missing. Returns that
    /// chunk, or `None` if it has gone out before.
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
        // A chunk that was offered and not taken does not count.
        chunks.open.take_if(|chunk| chunk.untouched);
        let octets = match (&chunks.open, chunks.whole) {
            (Some(open), _) if open.last && open.left == lacking => {
                out.extend_from_slice(&open.header);
                open.octets
            }
            // The chunk stays open. Any command now would complete it.
            (Some(_), _) => return Err(BodyError::WrongSize),
            (None, Some(whole)) if whole != lacking => return Err(BodyError::WrongSize),
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

    /// The body as a server sees it that reads lines: each line end as CRLF, and one at the end.
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
    fn send(
        mut sending: Body,
        body: &[u8],
        cut: usize,
        take: usize,
        says_last: bool,
    ) -> Result<Vec<u8>, BodyError> {
        let mut wire = Vec::new();
        let mut pieces = body.chunks(cut).peekable();
        while let Some(mut piece) = pieces.next() {
            while !piece.is_empty() {
                let next = sending.next(match says_last && pieces.peek().is_none() {
                    true => BodyPart::Last(piece),
                    false => BodyPart::Next(piece),
                })?;
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

    /// Each body of up to five of the octets that matter.
    fn bodies() -> Vec<Vec<u8>> {
        let mut bodies = vec![Vec::new()];
        let mut from = 0;
        // Miri is slow.
        for _ in 0..if cfg!(miri) { 2 } else { 5 } {
            let until = bodies.len();
            for n in from..until {
                bodies.extend(b"\r\n.x".map(|octet| [&bodies[n][..], &[octet]].concat()));
            }
            from = until;
        }
        bodies
    }

    fn chunked(size: usize, exact: Option<u64>) -> Body {
        Body::chunked(
            BodyEncoder::chunked(BodyPolicy::default(), true),
            size,
            exact,
        )
    }

    /// For each body, each promise and each cut, the data ends only if the promise was kept.
    #[test]
    fn only_a_promise_that_is_kept_ends_the_data() {
        let policy = BodyPolicy::default();
        for body in &bodies() {
            let whole = normalised(body);
            for exact in 0..=whole.len() as u64 + 2 {
                let kept = exact == whole.len() as u64;
                let expected = match kept {
                    true => {
                        Ok([alloc::format!("BDAT {exact} LAST\r\n").as_bytes(), &whole].concat())
                    }
                    false => Err(BodyError::WrongSize),
                };
                for cut in 1..=body.len().max(1) {
                    for (take, says_last) in [
                        (1, false),
                        (1, true),
                        (usize::MAX, false),
                        (usize::MAX, true),
                    ] {
                        let what = (body.escape_ascii(), exact, cut, take, says_last);
                        let data = Body::new(BodyEncoder::new(policy, true), Some(exact));
                        let data = send(data, body, cut, take, says_last);
                        assert_eq!(data.is_ok(), kept, "{what:?}");
                        let chunk = send(chunked(3, Some(exact)), body, cut, take, says_last);
                        assert_eq!(chunk, expected, "{what:?}");
                    }
                }
            }
        }
    }

    /// For each body, chunk size and cut, without a promise: the chunks are the whole body, and end once.
    #[test]
    fn chunks_are_the_body() {
        for body in &bodies() {
            let whole = normalised(body);
            for cut in 1..=body.len().max(1) {
                for (size, take) in [(1, 1), (2, usize::MAX), (3, 1), (9, usize::MAX)] {
                    for says_last in [false, true] {
                        let what = (body.escape_ascii(), cut, size, take, says_last);
                        let wire = send(chunked(size, None), body, cut, take, says_last);
                        let (mut wire, mut data) = (&wire.unwrap()[..], Vec::new());
                        loop {
                            let end = wire.iter().position(|&octet| octet == b'\n').unwrap();
                            let header = core::str::from_utf8(&wire[..end]).unwrap();
                            let mut words = header.trim_end().split(' ').skip(1);
                            let octets: usize = words.next().unwrap().parse().unwrap();
                            data.extend(&wire[end + 1..][..octets]);
                            wire = &wire[end + 1 + octets..];
                            if words.next() == Some("LAST") {
                                break;
                            }
                        }
                        assert_eq!((wire, data), (&b""[..], whole.clone()), "{what:?}");
                    }
                }
            }
        }
    }

    /// The declared rest goes out at once, and a body that does not fit is refused before.
    #[test]
    fn the_rest_is_not_kept_back() {
        for (exact, fits) in [(11, false), (12, true), (13, false)] {
            let mut body = chunked(3, Some(exact));
            let next = body.next(BodyPart::Last(b"Subject: x\r\n"));
            assert_eq!(next.is_ok(), fits);
            if let Ok(next) = next {
                assert_eq!(
                    (&next.insertion[..], next.run, next.held),
                    (&b"BDAT 12 LAST\r\n"[..], 12, None)
                );
            }
        }
    }

    /// A caller declares its last octets and then offers others: these never complete the chunk.
    #[test]
    fn other_octets_than_the_last_do_not_end_the_data() {
        for exact in [None, Some(3)] {
            for more in [BodyPart::Last(b"xyz"), BodyPart::Next(b"xyz")] {
                let mut body = chunked(9, exact);
                assert!(body.next(BodyPart::Last(b"x")).is_ok());
                let next = body.next(more);
                let kept_back = next.map(|next| (next.run, next.held));
                assert!(
                    matches!(kept_back, Err(BodyError::WrongSize) | Ok((2, Some(b'z')))),
                    "{kept_back:?}"
                );
            }

            // Fewer octets: the chunk stays open, and nothing else may be sent.
            let mut body = chunked(9, exact);
            assert!(body.next(BodyPart::Last(b"x")).is_ok());
            let next = body.next(BodyPart::Last(b"xy")).unwrap();
            let all = next.insertion.len() + next.run;
            body.record(&next.insertion, b"xy", next.held, all);
            assert_eq!(body.finish(&mut Vec::new()), Err(BodyError::WrongSize));
            assert_eq!(body.left(), Some(1));
        }
    }
}
