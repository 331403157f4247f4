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
    const EMPTY: Self = Self { octets: [0; LONGEST_HEADER], from: 0, to: 0 };

    fn new(octets: &[u8]) -> Self {
        let mut insertion = Self::EMPTY;
        insertion.append(octets);
        insertion
    }

    fn header(octets: u64, last: bool) -> Self {
        let mut header = Self::EMPTY;
        let _ = write!(header, "BDAT {octets}{}\r\n", if last { " LAST" } else { "" });
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

/// The body of a message that is being sent.
pub(crate) struct Body {
    encoder: BodyEncoder,
    /// None under DATA.
    chunks: Option<Chunks>,
    /// Octets of the caller's that have gone out.
    pub(crate) octets: u64,
}

impl Body {
    /// A body that goes out behind DATA.
    pub(crate) fn new(encoder: BodyEncoder) -> Self {
        Self { encoder, chunks: None, octets: 0 }
    }

    /// A body in chunks of `size` octets, or in a single one where the octets of all of it are known.
    pub(crate) fn chunked(encoder: BodyEncoder, size: usize, exact: Option<u64>) -> Self {
        let chunks = Chunks { size: size.max(1), rest: exact, open: None, ended: false };
        Self { encoder, chunks: Some(chunks), octets: 0 }
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.chunks.is_some()
    }

    /// The most octets of the next chunk, where its size is still open.
    pub(crate) fn chunk_size(&self) -> Option<usize> {
        self.chunks.as_ref().filter(|chunks| chunks.rest.is_none()).map(|chunks| chunks.size)
    }

    /// Whether a chunk is needed before more octets can go out.
    pub(crate) fn is_between_chunks(&self) -> bool {
        self.chunks
            .as_ref()
            .is_some_and(|chunks| !chunks.ended && chunks.open.as_ref().is_none_or(|chunk| chunk.untouched))
    }

    /// The octets that a chunk which was begun still lacks. One that was offered was begun: the transport may
    /// have taken it already.
    pub(crate) fn left(&self) -> Option<u64> {
        Some(self.chunks.as_ref()?.open.as_ref()?.left)
    }

    /// Says that `rest` is all that is left, so that it can be the last chunk; or what follows the chunk that
    /// is on offer can, because that one is promised as it is.
    pub(crate) fn announce_rest(&mut self, rest: &[u8]) -> Result<(), BodyError> {
        let Some(chunks) = self.chunks.as_mut().filter(|chunks| chunks.rest.is_none()) else {
            return Ok(());
        };
        let (octets, end) = self.encoder.measure(rest);
        let octets = octets + end?.finish()?.len() as u64;
        chunks.rest = Some(octets.saturating_sub(chunks.open.as_ref().map_or(0, |open| open.left)));
        Ok(())
    }

    /// What goes out next for the front of `body`: octets of ours, and behind them the number of octets of
    /// `body`.
    pub(crate) fn next(&mut self, body: &[u8]) -> Result<(Insertion, usize), BodyError> {
        let Some(chunks) = &mut self.chunks else {
            let (insertion, run) = self.encoder.next(body)?;
            return Ok((Insertion::new(insertion), run));
        };
        if chunks.ended && !body.is_empty() {
            return Err(BodyError::WrongSize);
        }
        if body.is_empty() {
            // The rest of a header needs no octets behind it.
            let header = chunks.open.as_ref().filter(|chunk| !chunk.untouched).map(|chunk| chunk.header);
            return Ok((header.unwrap_or(Insertion::EMPTY), 0));
        }
        let open = match &mut chunks.open {
            Some(open) => open,
            none => {
                let (octets, last) = match chunks.rest {
                    Some(octets) => (octets, true),
                    None => {
                        let (octets, end) = self.encoder.measure(&body[..body.len().min(chunks.size)]);
                        if octets == 0 {
                            end?;
                        }
                        (octets, false)
                    }
                };
                let header = Insertion::header(octets, last);
                none.insert(Chunk { header, untouched: true, octets, left: octets, last })
            }
        };
        let (insertion, run) = self.encoder.next(body)?;
        let room = open.left.checked_sub(insertion.len() as u64).ok_or(BodyError::WrongSize)?;
        let mut run = run.min(usize::try_from(room).unwrap_or(usize::MAX));
        if open.last && run as u64 == room {
            // There is more than was said, and the server must not take what was said for the whole. Where that
            // would end in a line, its last octet does not go out, however the body is cut.
            if self.encoder.lacks_end(&body[..run]) {
                run = run.checked_sub(1).filter(|&run| run > 0).ok_or(BodyError::WrongSize)?;
            } else if run < body.len() {
                return Err(BodyError::WrongSize);
            }
        }
        Ok(match (open.header.is_empty(), insertion.is_empty()) {
            (true, _) => (Insertion::new(insertion), run),
            (false, true) => (open.header, run),
            (false, false) => (open.header, 0),
        })
    }

    /// Records that `sent` octets went out of what `next` returned, and returns how many of the caller's they
    /// used up, and the chunk that they completed.
    pub(crate) fn record(&mut self, insertion: &[u8], run: &[u8], sent: usize) -> (usize, Option<Sent>) {
        let sent = sent.min(insertion.len() + run.len());
        let Some(chunks) = &mut self.chunks else {
            let used = self.encoder.record(insertion, run, sent);
            self.octets += used as u64;
            return (used, None);
        };
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
        let used = self.encoder.record(insertion, run, sent);
        self.octets += used as u64;
        open.left = open.left.saturating_sub(sent as u64);
        (used, self.complete())
    }

    /// The chunk that has just been completed, if one has.
    fn complete(&mut self) -> Option<Sent> {
        let chunks = self.chunks.as_mut()?;
        let open = chunks.open.take_if(|chunk| chunk.header.is_empty() && chunk.left == 0)?;
        chunks.ended = open.last;
        Some(Sent { octets: open.octets, last: open.last })
    }

    /// Writes what ends the body: the dot, or the last chunk with what the caller's octets lack, of which it
    /// returns the size. None where the last chunk has gone out already.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<Option<Sent>, BodyError> {
        let end = self.encoder.finish()?;
        let lacking = end.len() as u64;
        let Some(chunks) = &mut self.chunks else {
            out.extend_from_slice(end);
            return Ok(Some(Sent { octets: 0, last: true }));
        };
        if chunks.ended {
            return Ok(None);
        }
        // A chunk that was on offer and not taken is none.
        let open = chunks.open.take().filter(|chunk| !chunk.untouched);
        let octets = match (&open, chunks.rest) {
            (Some(open), _) if open.last && open.left == lacking => {
                out.extend_from_slice(&open.header);
                open.octets
            }
            (Some(_), _) => return Err(BodyError::WrongSize),
            (None, Some(rest)) if rest != lacking => return Err(BodyError::WrongSize),
            (None, _) => {
                out.extend_from_slice(&Insertion::header(lacking, true));
                lacking
            }
        };
        out.extend_from_slice(end);
        Ok(Some(Sent { octets, last: true }))
    }
}
