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
}

/// The stream of a session, before and after the handshake.
pub(crate) struct Stream {
    pub(crate) socket: Box<dyn Transport>,
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
    pub(crate) fn new(socket: Box<dyn Transport>) -> Self {
        Self {
            socket,
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
