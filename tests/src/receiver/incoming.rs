//! Message data on its way into a file.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::Ordering;
use std::{mem, path::PathBuf};

use super::Shared;
use super::session::Fault;

/// A message file in the making, deleted unless it is kept.
pub(super) struct Spool {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Spool {
    pub(super) fn create(shared: &Shared) -> io::Result<Self> {
        loop {
            let number = shared.files.fetch_add(1, Ordering::Relaxed) + 1;
            let path = shared.options.directory.join(format!("{number:04}.eml"));
            match File::create_new(&path) {
                // Left by an earlier server, and never overwritten.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                file => return Ok(Self { file: file?, path }),
            }
        }
    }

    pub(super) fn keep(mut self) -> PathBuf {
        mem::take(&mut self.path)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
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

/// Message data on its way into a file.
pub(super) struct Incoming {
    pub(super) spool: Spool,
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
        let spool = Spool::create(shared).map_err(|_| "451 4.3.0 Cannot store a message")?;
        Ok(Self {
            spool,
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
        } else if self.refusal.is_none() && self.spool.file.write_all(text).is_err() {
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

    /// No chunk follows.
    pub(super) fn end_chunks(&mut self) {
        if self.is_text && self.after_cr {
            self.refusal = self.refusal.or(Some(BARE));
        }
    }
}

/// Removes the stuffed dots and finds the end of the message data, which
/// nothing but CRLF.CRLF is (RFC 5321 §4.1.1.4).
#[derive(Default)]
pub(super) struct Unstuffer {
    pub(super) place: Place,
    /// Whether a bare CR or LF was seen, which never ends a line. The text is
    /// not exact from there on.
    pub(super) bare: bool,
}

impl Unstuffer {
    /// Appends the text in `input` to `text`; returns how much input was used,
    /// and whether the end was reached.
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
