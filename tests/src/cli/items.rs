//! The messages, each with its envelope.

use std::cell::Cell;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;

use smtp_proto::{Cause, Envelope, Error, Outcome, Report, Stage};

use super::bcc::WithoutBcc;
use super::content::Content;
use super::options::Options;
use super::progress::Progress;
use super::refusal::{bad_file, refused};
use super::source::{FileId, Once, RegularFile, Seen, Source, Stream, file_id};
use super::verdict::Ending;
use crate::play::bulk::not_attempted;

/// The message that is sent if none is named.
const SAMPLE: &str = "\
From: Alice <alice@example.org>\r
To: Bob <bob@example.net>\r
Subject: It works\r
Date: Mon, 23 Nov 2026 12:00:00 +0000\r
Message-ID: <sample@example.org>\r
MIME-Version: 1.0\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: 8bit\r
\r
Grüße, Bob.\r
.\r
The line above is one dot. In a chunk it means nothing; behind DATA the engine would double it.\r
";

impl Options {
    /// Opens and reads each `--data`, and makes the envelopes that declare the contents. A message that cannot be
    /// sent is an error. If an address or a parameter is bad, all are errors.
    pub fn prepare(&self) -> Vec<Result<Item, Error>> {
        let envelope = self.envelope();
        let once: Vec<_> = self.data.iter().filter_map(|path| once_id(path)).collect();
        self.data
            .iter()
            .map(|path| self.prepare_one(path, envelope.clone()?, &once))
            .collect()
    }

    /// `once` are the files of `--data` that can only be read once.
    fn prepare_one(&self, path: &Path, envelope: Envelope, once: &[FileId]) -> Result<Item, Error> {
        let bad = |error| bad_file(path, &error);
        let item = |envelope, source, shown| Item {
            envelope,
            source,
            shown,
            strips_bcc: self.strip_bcc,
            is_bad: Cell::new(false),
        };
        if path == Path::new("(sample)") {
            let content = Content::examine(SAMPLE.as_bytes()).map_err(bad)?;
            return Ok(item(
                content.declare(envelope),
                Source::Sample(SAMPLE.as_bytes()),
                None,
            ));
        }
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            "standard input".into()
        } else {
            path.display().to_string()
        };
        let mut file = if is_stdin {
            // `io::Stdin` takes a stream that is not open for reading for an empty one. A file does not.
            File::from(io::stdin().as_fd().try_clone_to_owned().map_err(bad)?)
        } else {
            // Opening a FIFO waits for its writer. The writer may wait until another FIFO is read.
            let metadata = std::fs::metadata(path).map_err(bad)?;
            self.admit(&name, &metadata, metadata.is_file(), once)?;
            if !metadata.is_file() {
                return Ok(item(
                    envelope,
                    Source::Once(Once::new(name, Stream::At(path.into()))),
                    None,
                ));
            }
            File::open(path).map_err(bad)?
        };
        // Checks the open file, so that the result holds for the octets that are sent.
        let metadata = file.metadata().map_err(bad)?;
        let may_reopen = metadata.is_file() && !is_stdin;
        self.admit(&name, &metadata, may_reopen, once)?;
        if !may_reopen {
            return Ok(item(
                envelope,
                Source::Once(Once::new(name, Stream::Open(file))),
                None,
            ));
        }
        let content = match self.strip_bcc {
            true => Content::examine(WithoutBcc::new(BufReader::new(&mut file))),
            false => Content::examine(&mut file),
        };
        let content = content.map_err(|error| {
            let cause = Cause::Local(format!("{name} cannot be read: {error}").into());
            Error::new(Stage::Local, Outcome::Transient, cause)
        })?;
        if content.has_nul {
            return Err(refused(Cause::Local(
                format!("{name} holds a NUL octet, which mail cannot").into(),
            )));
        }
        let source = Source::File(RegularFile {
            path: path.into(),
            seen: Seen::of(&metadata),
        });
        Ok(item(
            content.declare(envelope),
            source,
            Some(content.octets).filter(|_| !self.quiet && !self.json),
        ))
    }

    /// Refuses a directory, and a file that can only be read once but is wanted more often.
    fn admit(
        &self,
        name: &str,
        metadata: &Metadata,
        may_reopen: bool,
        once: &[FileId],
    ) -> Result<(), Error> {
        let problem = if metadata.is_dir() {
            "is a directory"
        } else if may_reopen {
            return Ok(());
        } else if self.repeat > 1 {
            "can be read only once, and --repeat would read it again"
        } else if once.iter().filter(|id| **id == file_id(metadata)).count() > 1 {
            "can be read only once, and --data names it twice"
        } else {
            return Ok(());
        };
        Err(refused(Cause::Local(format!("{name} {problem}").into())))
    }
}

/// The identity of a file that can only be read once.
fn once_id(path: &Path) -> Option<FileId> {
    if path == Path::new("-") {
        let stdin = io::stdin().as_fd().try_clone_to_owned().ok()?;
        return File::from(stdin).metadata().ok().as_ref().map(file_id);
    }
    let metadata = std::fs::metadata(path).ok()?;
    (!metadata.is_file()).then(|| file_id(&metadata))
}

/// A message to send.
#[derive(Debug)]
pub struct Item {
    /// Declares what the message holds.
    pub envelope: Envelope,
    /// Its source.
    pub source: Source,
    /// Its octets, if a progress bar is to be shown.
    shown: Option<u64>,
    /// Whether it is sent without its Bcc fields. `envelope` declares it like that.
    pub strips_bcc: bool,
    /// It could not be opened, and another try would not help.
    is_bad: Cell<bool>,
}

impl Item {
    /// Shows the progress of sending it.
    pub fn progress(&self) -> Progress {
        Progress::new(self.shown)
    }

    /// Opens it for blocking reads.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self) -> io::Result<Message> {
        let source = self.opened(self.source.open())?;
        Ok(Message {
            source: match self.strips_bcc {
                true => Box::new(WithoutBcc::new(source)),
                false => source,
            },
            progress: self.progress(),
        })
    }

    /// If it could not be opened, notes for [`ending`](Self::ending) whether the file is the reason.
    ///
    /// # Errors
    /// The error that was given.
    pub fn opened<T>(&self, result: io::Result<T>) -> io::Result<T> {
        // Other errors may pass, such as too many open files.
        let is_bad = |error: &io::Error| {
            use io::ErrorKind::{InvalidData, NotFound, NotSeekable, PermissionDenied};
            matches!(
                error.kind(),
                NotFound | PermissionDenied | NotSeekable | InvalidData
            )
        };
        self.is_bad.set(result.as_ref().is_err_and(is_bad));
        result
    }

    /// Whether it can only be read once, and was opened.
    pub(super) fn is_spent(&self) -> bool {
        matches!(&self.source, Source::Once(once) if once.is_taken())
    }

    /// The ending of a message that was not submitted, because the session had ended with this error.
    pub fn not_attempted(&self, end: Option<Error>) -> Ending {
        self.ending(not_attempted(&self.envelope, end))
    }

    /// The ending of the message. The engine knows that it could not be read, but not why.
    pub fn ending(&self, mut report: Report) -> Ending {
        let errors = report
            .recipients
            .iter_mut()
            .filter_map(|result| result.as_mut().err());
        let unread = errors.filter(|error| {
            matches!(error.cause, Cause::Local(_)) && error.outcome != Outcome::InDoubt
        });
        let unread: Vec<_> = unread.collect();
        if !unread.is_empty() && self.is_bad.take() {
            unread
                .into_iter()
                .for_each(|error| error.outcome = Outcome::Permanent);
        }
        Ending(Ok(report))
    }
}

/// A message that is being sent.
pub struct Message {
    source: Box<dyn BufRead>,
    progress: Progress,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?})", self.progress)
    }
}

impl Read for Message {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Message {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, octets: usize) {
        self.source.consume(octets);
        self.progress.advance(octets);
    }
}
