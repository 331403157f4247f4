//! Where a message lies, and whether it is still what it was.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a message lies.
#[derive(Debug)]
pub enum Source {
    /// Inside the program.
    Sample(&'static [u8]),
    /// In a file.
    File(RegularFile),
    /// In what is no regular file, or on standard input.
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

/// What is known of a regular file without reading it.
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

/// A file that was looked at, and is opened anew each time that it is sent.
#[derive(Debug)]
pub struct RegularFile {
    pub(super) path: PathBuf,
    pub(super) seen: Seen,
}

impl RegularFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what was opened there, if it is still the file whose size the envelope declares.
    ///
    /// # Errors
    /// It is another one, or it has grown or shrunk.
    pub fn check(&self, opened: &Metadata) -> io::Result<()> {
        match Seen::of(opened) == self.seen {
            true => Ok(()),
            false => {
                let message = format!("{} has changed since it was looked at", self.path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

/// A pipe or the like, which cannot be read again.
#[derive(Debug)]
pub struct Once {
    name: String,
    stream: RefCell<Option<Stream>>,
}

/// Where it is.
#[derive(Debug)]
pub enum Stream {
    /// It is open: standard input.
    Open(File),
    /// To be opened when it is wanted.
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
