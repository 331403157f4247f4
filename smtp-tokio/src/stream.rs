//! The stream of a session: any asynchronous stream, plain or inside TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that a session can use.
pub(crate) trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for T {}

/// A stream that counts the octets it was given, and fails if it takes none.
pub(crate) struct Counted {
    stream: Box<dyn AsyncStream>,
    octets: u64,
    /// During a handshake, a failed write is ignored. The server may have sent an alert before it closed, which
    /// explains more.
    #[cfg(feature = "rustls")]
    in_handshake: bool,
}

/// The stream of a session, before and after the handshake.
pub(crate) enum Stream {
    Plain(Counted),
    #[cfg(feature = "rustls")]
    Encrypted {
        tls: Box<tokio_rustls::client::TlsStream<Counted>>,
        /// The count of the stream below when TLS last held nothing back.
        before: u64,
    },
}

impl Stream {
    pub(crate) fn new(stream: Box<dyn AsyncStream>) -> Self {
        Self::Plain(Counted {
            stream,
            octets: 0,
            #[cfg(feature = "rustls")]
            in_handshake: false,
        })
    }

    #[cfg(feature = "rustls")]
    pub(crate) fn encrypted(mut tls: tokio_rustls::client::TlsStream<Counted>) -> Self {
        let below = tls.get_mut().0;
        below.in_handshake = false;
        let before = below.octets;
        Self::Encrypted {
            tls: Box::new(tls),
            before,
        }
    }

    /// The stream below, for a handshake.
    #[cfg(feature = "rustls")]
    pub(crate) fn into_plain(self) -> Counted {
        let mut stream = match self {
            Self::Plain(stream) => stream,
            Self::Encrypted { tls, .. } => tls.into_inner().0,
        };
        stream.in_handshake = true;
        stream
    }

    /// Whether TLS holds nothing back, so that the operating system has all octets.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            #[cfg(feature = "rustls")]
            Self::Encrypted { tls, .. } => !tls.get_ref().1.wants_write(),
        }
    }

    /// Whether any octet has left since TLS last held nothing back.
    pub(crate) fn has_moved(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            #[cfg(feature = "rustls")]
            Self::Encrypted { tls, before } => tls.get_ref().0.octets > *before,
        }
    }

    /// Records that TLS holds nothing back now.
    pub(crate) fn begin_count(&mut self) {
        #[cfg(feature = "rustls")]
        if let Self::Encrypted { tls, before } = self {
            *before = tls.get_ref().0.octets;
        }
    }

    fn below(&mut self) -> Pin<&mut dyn AsyncStream> {
        match self {
            Self::Plain(stream) => Pin::new(stream),
            #[cfg(feature = "rustls")]
            Self::Encrypted { tls, .. } => Pin::new(&mut **tls),
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let counted = self.get_mut();
        let result = Pin::new(&mut counted.stream).poll_write(cx, octets);
        match result {
            Poll::Ready(Ok(0)) if !octets.is_empty() => {
                Poll::Ready(Err(io::ErrorKind::WriteZero.into()))
            }
            Poll::Ready(Ok(n)) => {
                counted.octets += n as u64;
                result
            }
            #[cfg(feature = "rustls")]
            Poll::Ready(Err(error)) if counted.in_handshake && smtp_adapter::is_gone(&error) => {
                Poll::Ready(Ok(octets.len()))
            }
            _ => result,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().below().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().below().poll_write(cx, octets)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().below().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().below().poll_shutdown(cx)
    }
}
