//! What octets travel over: any connected stream, plain or inside TLS.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

/// A connected stream whose reads and writes can be bounded in time: a [`TcpStream`], a Unix socket, or
/// your own (a proxy's stream, say).
pub trait Transport: Read + Write + Send {
    /// Bounds each later read and write to about this time. One that takes longer must fail with
    /// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::TimedOut`].
    ///
    /// # Errors
    /// Those of the operating system. A session cannot keep its deadlines then, and ends.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Makes each later read and write return at once, or wait again. Returns whether it can: with one that can, what
    /// has arrived on a session that was idle is read before anything is written, so that a server that has said
    /// 421 meanwhile is not mistaken for one that answers. By default it cannot.
    ///
    /// # Errors
    /// Those of the operating system; the session ends.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        let _ = nonblocking;
        Ok(false)
    }

    /// The address of our end, from which the EHLO name is made where the host has no domain name.
    fn local_ip(&self) -> Option<IpAddr> {
        None
    }
}

impl Transport for TcpStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        TcpStream::set_nonblocking(self, nonblocking).map(|()| true)
    }

    fn local_ip(&self) -> Option<IpAddr> {
        self.local_addr().ok().map(|address| address.ip())
    }
}

#[cfg(unix)]
impl Transport for std::os::unix::net::UnixStream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(timeout))?;
        self.set_write_timeout(Some(timeout))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        Self::set_nonblocking(self, nonblocking).map(|()| true)
    }
}

/// A socket that counts the octets which it was given.
pub(crate) struct Counted {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) octets: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transport.read(buffer)
    }
}

impl Write for Counted {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let n = self.transport.write(octets)?;
        self.octets += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }
}

/// The stream of a session, before and after the handshake.
pub(crate) struct Stream {
    pub(crate) socket: Counted,
    #[cfg(feature = "rustls")]
    pub(crate) tls: Option<Box<rustls::ClientConnection>>,
}

/// Does one operation on whatever the octets travel over.
macro_rules! over {
    ($self:ident, $stream:ident => $operation:expr) => {{
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut $self.tls {
            let mut $stream = rustls::Stream::new(&mut **tls, &mut $self.socket);
            return $operation;
        }
        let $stream = &mut $self.socket;
        $operation
    }};
}

impl Stream {
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        Self {
            socket: Counted {
                transport,
                octets: 0,
            },
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        over!(self, stream => stream.read(buffer))
    }

    pub(crate) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        over!(self, stream => stream.write(octets))
    }

    /// Whether TLS holds nothing back: what was written is with the operating system.
    pub(crate) fn is_flushed(&self) -> bool {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            return !tls.wants_write();
        }
        true
    }

    /// Pushes out what TLS holds back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        over!(self, stream => stream.flush())
    }

    /// Says goodbye in TLS, as far as that is possible without waiting.
    pub(crate) fn close(&mut self) {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut self.socket);
        }
    }
}
