//! The source of a message, and whether it has changed.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The source of a message.
#[derive(Debug)]
pub enum Source {
    /// Inside the program.
    Sample(&'static [u8]),
    /// In a file.
    File(RegularFile),
    /// In a file that is not regular, or on standard input.
    Once(Once),
}

impl Source {
    pub(super) fn open(&self) -> io::Result<Box<dyn BufRead>> {
        let file = match self {
            Self::Sample(octets) => return Ok(Box::new(*octets)),
            Self::File(file) => {
                let opened = File::open(file.path())?;
                file.check(&opened.metadata()?)?;
                opened
            }
            Self::Once(once) => match once.take()? {
                Stream::Open(file) => file,
                Stream::At(path) => File::open(path)?,
            },
        };
        Ok(Box::new(BufReader::with_capacity(READ_SIZE, file)))
    }
}

/// Octets of a file that are read at a time.
pub const READ_SIZE: usize = 64 * 1024;

/// A device, and a file of it.
pub(super) type FileId = (u64, u64);

pub(super) fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The facts of a regular file that are known without reading it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    id: FileId,
    octets: u64,
}

impl Seen {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            id: file_id(metadata),
            octets: metadata.len(),
        }
    }
}

/// A file that was read once, and is opened again each time it is sent.
#[derive(Debug)]
pub struct RegularFile {
    pub(super) path: PathBuf,
    pub(super) seen: Seen,
}

impl RegularFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the opened file is still the one whose size the envelope declares.
    ///
    /// # Errors
    /// It is another file, or its size has changed.
    pub fn check(&self, opened: &Metadata) -> io::Result<()> {
        match Seen::of(opened) == self.seen {
            true => Ok(()),
            false => {
                let message = format!("{} has changed since it was read", self.path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

/// A pipe or similar, which can only be read once.
#[derive(Debug)]
pub struct Once {
    name: String,
    stream: RefCell<Option<Stream>>,
}

/// The stream, or its path.
#[derive(Debug)]
pub enum Stream {
    /// It is open, such as standard input.
    Open(File),
    /// It is opened when it is needed.
    At(PathBuf),
}

impl Once {
    pub(super) fn new(name: String, stream: Stream) -> Self {
        Self {
            name,
            stream: RefCell::new(Some(stream)),
        }
    }

    /// Whether it was opened.
    pub(super) fn is_taken(&self) -> bool {
        self.stream.borrow().is_none()
    }

    /// The stream.
    ///
    /// # Errors
    /// It was taken already.
    pub fn take(&self) -> io::Result<Stream> {
        let message = || format!("{} can be read only once", self.name);
        self.stream
            .take()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotSeekable, message()))
    }
}
