//! The types that can be sent as a message.

use std::io::Cursor;
use std::ops::DerefMut;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, BufReader};

use crate::in_memory::InMemory;

/// A message for [`Session::send`](crate::Session::send): octets in memory, or a reader.
///
/// | message | how to give it |
/// |---|---|
/// | octets or text | `&message` of any such type: `&[u8]`, `&str`, `&Vec<u8>`, `&Bytes` |
/// | owned octets or text | `Vec<u8>`, `String`, [`Bytes`], `Arc<[u8]>` |
/// | a file, a pipe, a socket | in a [`BufReader`] |
/// | any other [`AsyncBufRead`] | `&mut reader`, or a `Box` of it; pinned if it is not `Unpin` |
///
/// The size of a message in memory is declared to the server ([`Envelope::size_of`]), unless the envelope declares
/// one. The server may then refuse the message before it is sent. With CHUNKING, the message goes out as one chunk. A
/// reader is sent in constant memory.
///
/// ```no_run
/// use smtp_tokio::{Envelope, Server, Session};
/// use tokio::{fs::File, io::BufReader};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
/// let mut session = Session::connect(&Server::new("mx.example.net")).await?;
/// session.send(envelope.clone(), "Subject: hello\r\n\r\nHello, Bob.\r\n").await?;
/// session.send(envelope.clone(), vec![b'x'; 10]).await?;
/// session.send(envelope.clone(), BufReader::new(File::open("message.eml").await?)).await?;
/// let mut input = BufReader::new(tokio::io::stdin());
/// session.send(envelope, &mut input).await?;
/// # Ok(())
/// # }
/// ```
///
/// [`Envelope::size_of`]: crate::Envelope::size_of
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent as a message",
    note = "give octets or text as `&message`, a file as `BufReader::new(file)`, any other `AsyncBufRead` as `&mut reader`"
)]
pub trait Content {
    /// The reader of the message.
    type Reader: AsyncBufRead;

    /// All octets, if they are in memory.
    fn in_memory(&self) -> Option<&[u8]>;

    /// A reader from the beginning of the message.
    fn into_reader(self) -> Self::Reader;
}

impl<'a, T: AsRef<[u8]> + ?Sized> Content for &'a T {
    type Reader = &'a [u8];

    fn in_memory(&self) -> Option<&[u8]> {
        Some((**self).as_ref())
    }

    fn into_reader(self) -> &'a [u8] {
        self.as_ref()
    }
}

impl Content for Vec<u8> {
    type Reader = Cursor<Self>;

    fn in_memory(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn into_reader(self) -> Cursor<Self> {
        Cursor::new(self)
    }
}

impl Content for String {
    type Reader = Cursor<Self>;

    fn in_memory(&self) -> Option<&[u8]> {
        Some(self.as_bytes())
    }

    fn into_reader(self) -> Cursor<Self> {
        Cursor::new(self)
    }
}

impl Content for Bytes {
    type Reader = Cursor<Self>;

    fn in_memory(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn into_reader(self) -> Cursor<Self> {
        Cursor::new(self)
    }
}

impl Content for Arc<[u8]> {
    type Reader = Cursor<Self>;

    fn in_memory(&self) -> Option<&[u8]> {
        Some(self)
    }

    fn into_reader(self) -> Cursor<Self> {
        Cursor::new(self)
    }
}

/// From its position to its end.
impl<T: AsRef<[u8]> + Unpin> Content for Cursor<T> {
    type Reader = Self;

    fn in_memory(&self) -> Option<&[u8]> {
        let octets = self.get_ref().as_ref();
        let position = usize::try_from(self.position()).unwrap_or(usize::MAX);
        Some(octets.get(position..).unwrap_or_default())
    }

    fn into_reader(self) -> Self {
        self
    }
}

impl<R: AsyncBufRead + Unpin + ?Sized> Content for &mut R {
    type Reader = Self;

    fn in_memory(&self) -> Option<&[u8]> {
        None
    }

    fn into_reader(self) -> Self {
        self
    }
}

impl<R: AsyncBufRead + Unpin + ?Sized> Content for Box<R> {
    type Reader = Self;

    fn in_memory(&self) -> Option<&[u8]> {
        None
    }

    fn into_reader(self) -> Self {
        self
    }
}

impl<P: DerefMut<Target: AsyncBufRead>> Content for Pin<P> {
    type Reader = Self;

    fn in_memory(&self) -> Option<&[u8]> {
        None
    }

    fn into_reader(self) -> Self {
        self
    }
}

impl<R: AsyncRead> Content for BufReader<R> {
    type Reader = Self;

    fn in_memory(&self) -> Option<&[u8]> {
        None
    }

    fn into_reader(self) -> Self {
        self
    }
}

/// The octets of a [`Buf`]. Their size is known if they are in one piece.
pub(crate) struct OfBuf<B>(pub(crate) B);

impl<B: Buf> Content for OfBuf<B> {
    type Reader = InMemory<B>;

    fn in_memory(&self) -> Option<&[u8]> {
        in_one_piece(&self.0)
    }

    fn into_reader(self) -> Self::Reader {
        InMemory::new(self.0)
    }
}

/// All octets, if they are in one piece.
pub(crate) fn in_one_piece(octets: &impl Buf) -> Option<&[u8]> {
    Some(octets.chunk()).filter(|chunk| chunk.len() == octets.remaining())
}
