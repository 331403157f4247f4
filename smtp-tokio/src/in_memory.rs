//! A reader for a message in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

/// A reader of the octets of a [`Buf`] in memory, such as [`Bytes`](bytes::Bytes) or a chain of slices.
#[derive(Clone, Debug)]
pub struct InMemory<B>(Box<B>);

impl<B> InMemory<B> {
    /// A reader of these octets.
    pub fn new(octets: B) -> Self {
        // The box can be moved, so `B` need not be `Unpin`.
        Self(Box::new(octets))
    }
}

impl<B: Buf> AsyncBufRead for InMemory<B> {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Poll::Ready(Ok(self.get_mut().0.chunk()))
    }

    fn consume(self: Pin<&mut Self>, octets: usize) {
        self.get_mut().0.advance(octets);
    }
}

impl<B: Buf> AsyncRead for InMemory<B> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let octets = &mut self.get_mut().0;
        let fits = octets.chunk().len().min(out.remaining());
        out.put_slice(&octets.chunk()[..fits]);
        octets.advance(fits);
        Poll::Ready(Ok(()))
    }
}
