//! Message data on its way to its storage.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::{mem, path::PathBuf};

use bytes::Bytes;

use super::Shared;
use super::session::Fault;

/// An unfinished message: in memory, or in a file that is deleted unless it is kept.
pub(super) enum Spool {
    Memory(Vec<u8>),
    File { file: File, path: PathBuf },
}

impl Spool {
    fn create(shared: &Shared, number: u64) -> io::Result<Self> {
        let Some(folder) = &shared.folder else {
            return Ok(Self::Memory(Vec::new()));
        };
        let path = folder.join(format!("{number:04}.eml"));
        let file = File::create_new(&path)?;
        Ok(Self::File { file, path })
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(content) => content.write_all(text),
            Self::File { file, .. } => file.write_all(text),
        }
    }

    /// The content so far.
    pub(super) fn content(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Memory(content) => Cow::Borrowed(content),
            Self::File { path, .. } => Cow::Owned(fs::read(path).unwrap_or_default()),
        }
    }

    /// The content, and its file if it has one.
    pub(super) fn keep(mut self) -> (Bytes, Option<PathBuf>) {
        match &mut self {
            Self::Memory(content) => (mem::take(content).into(), None),
            Self::File { path, .. } => (Bytes::new(), Some(mem::take(path))),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Self::File { path, .. } = self
            && !path.as_os_str().is_empty()
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// A place in the message data.
#[derive(Clone, Copy, Default)]
pub(super) enum Place {
    #[default]
    LineStart,
    AfterFirstDot,
    AfterFirstDotCr,
    AfterCr,
    Elsewhere,
}

pub(super) const BARE: &str = "550 5.6.0 Bare CR or LF in the message";

/// Message data on its way to its storage.
pub(super) struct Incoming {
    pub(super) spool: Spool,
    /// Its number among all begun messages, from 1.
    pub(super) number: u64,
    /// The connection is closed after this many octets.
    pub(super) cut: Option<u64>,
    pub(super) octets: u64,
    /// The reply, if it is refused.
    pub(super) refusal: Option<&'static str>,
    /// In chunks: only CRLF ends a line, and no other CR or LF is allowed.
    pub(super) is_text: bool,
    /// In chunks: the last octet was a CR.
    pub(super) after_cr: bool,
}

impl Incoming {
    pub(super) fn new(shared: &Shared) -> Result<Self, Fault> {
        let number = shared.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let spool = Spool::create(shared, number);
        Ok(Self {
            spool: spool.map_err(|_| "451 4.3.0 Cannot store a message")?,
            number,
            cut: None,
            octets: 0,
            refusal: None,
            is_text: true,
            after_cr: false,
        })
    }

    pub(super) fn write(&mut self, text: &[u8], max_size: u64) {
        self.octets += text.len() as u64;
        if max_size != 0 && self.octets > max_size {
            self.refusal = Some("552 5.3.4 Message too big");
        } else if self.refusal.is_none() && self.spool.write_all(text).is_err() {
            self.refusal = Some("451 4.3.0 Cannot store the message");
        }
    }

    /// Takes octets of a chunk. The first refusal stays.
    pub(super) fn take_chunk(&mut self, octets: &[u8], max_size: u64) {
        if self.refusal.is_some() {
            return;
        }
        self.write(octets, max_size);
        for &octet in octets {
            if self.is_text && self.after_cr != (octet == b'\n') {
                self.refusal = Some(BARE);
            }
            self.after_cr = octet == b'\r';
        }
    }

    /// Closes the connection if the test wants it.
    pub(super) fn may_go_on(&self) -> Result<(), Fault> {
        match self.cut {
            Some(octets) if self.octets >= octets => Err(Fault::Cut),
            _ => Ok(()),
        }
    }

    /// The last chunk has come.
    pub(super) fn end_chunks(&mut self) {
        if self.is_text && self.after_cr {
            self.refusal = self.refusal.or(Some(BARE));
        }
    }
}

/// Removes stuffed dots and finds the end of the message data. Only CRLF.CRLF is the end (RFC 5321 §4.1.1.4).
#[derive(Default)]
pub(super) struct Unstuffer {
    pub(super) place: Place,
    /// Whether a bare CR or LF was seen, which never ends a line. After it, the text is not exact.
    pub(super) bare: bool,
}

impl Unstuffer {
    /// Appends the text in `input` to `text`. Returns how much input was used, and whether the end was reached.
    pub(super) fn feed(&mut self, input: &[u8], text: &mut Vec<u8>) -> (usize, bool) {
        for (index, &byte) in input.iter().enumerate() {
            self.place = match (self.place, byte) {
                (Place::AfterFirstDotCr, b'\n') => return (index + 1, true),
                (Place::AfterCr, b'\n') => {
                    text.extend_from_slice(b"\r\n");
                    Place::LineStart
                }
                (Place::AfterCr | Place::AfterFirstDotCr, _) | (_, b'\n') => {
                    self.bare = true;
                    match byte {
                        b'\r' => Place::AfterCr,
                        _ => Place::Elsewhere,
                    }
                }
                (Place::LineStart, b'.') => Place::AfterFirstDot,
                (Place::AfterFirstDot, b'\r') => Place::AfterFirstDotCr,
                (_, b'\r') => Place::AfterCr,
                _ => {
                    text.push(byte);
                    Place::Elsewhere
                }
            };
        }
        (input.len(), false)
    }
}
