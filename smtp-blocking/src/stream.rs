//! The stream of a session: any connected stream, plain or inside TLS.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

/// A connected stream with timeouts for reads and writes: a [`TcpStream`], a Unix socket, or your own, such as a
/// proxy's stream.
pub trait Transport: Read + Write + Send {
    /// Bounds each later read and write to about this time. A call that takes longer must fail with
    /// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::TimedOut`].
    ///
    /// # Errors
    /// An error of the operating system. The session then ends, because it cannot keep its deadlines.
    fn set_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Makes each later read and write return at once, or wait again. Returns whether the transport supports it;
    /// false by default. If it does, waiting input of an idle session is read before anything is written, and input in
    /// the middle of a body before its end is. So an earlier 421 is not taken for the answer to the next command, and an
    /// earlier 250 not for the answer to the body.
    ///
    /// # Errors
    /// An error of the operating system. The session then ends.
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        let _ = nonblocking;
        Ok(false)
    }

    /// The address of our end. If the host has no domain name, it becomes the name in EHLO.
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
        Self::set_nonblocking(self, nonblocking).map(|()| true)
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

/// Replaces a transport that was closed.
struct Gone;

impl Read for Gone {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }
}

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Gone {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// A socket that counts the octets it was given, and fails if it takes none.
pub(crate) struct Counted {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) octets: u64,
    /// During a handshake, a failed write is ignored. The server may have sent an alert before it closed, which
    /// explains more.
    #[cfg(feature = "rustls")]
    pub(crate) in_handshake: bool,
}

#[cfg(feature = "rustls")]
impl Counted {
    /// Writes the last records of TLS, as far as possible without waiting.
    pub(crate) fn say(&mut self, tls: &mut rustls::ClientConnection) {
        let _ = tls.write_tls(self).and_then(|_| self.flush());
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transport.read(buffer)
    }
}

impl Write for Counted {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self.transport.write(octets) {
            Ok(0) if !octets.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                self.octets += n as u64;
                Ok(n)
            }
            #[cfg(feature = "rustls")]
            Err(error) if self.in_handshake && smtp_adapter::is_gone(&error) => Ok(octets.len()),
            Err(error) => Err(error),
        }
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

impl Stream {
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        Self {
            socket: Counted {
                transport,
                octets: 0,
                #[cfg(feature = "rustls")]
                in_handshake: false,
            },
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    /// Reads at most once from the socket, so that deadlines hold even if the server sends one octet at a time.
    /// `None` if the octets do not complete a TLS record yet.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            if let Some(n) = take_plaintext(tls, buffer)? {
                return Ok(Some(n));
            }
            tls.read_tls(&mut self.socket)?;
            if let Err(error) = tls.process_new_packets() {
                // The alert tells the server why.
                self.socket.say(tls);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            return take_plaintext(tls, buffer);
        }
        self.socket.read(buffer).map(Some)
    }

    /// Writes at most once to the socket. TLS takes the octets and holds them back, for [`push`](Self::push).
    pub(crate) fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            return tls.writer().write(octets);
        }
        self.socket.write(octets)
    }

    /// Whether TLS holds nothing back, so that the operating system has all octets.
    pub(crate) fn is_flushed(&self) -> bool {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            return !tls.wants_write();
        }
        true
    }

    /// Writes once some of the octets that TLS holds back.
    pub(crate) fn push(&mut self) -> io::Result<()> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Flushes a transport that holds octets back itself.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }

    /// Closes the connection, without the closing alert of TLS.
    pub(crate) fn hang_up(&mut self) {
        self.socket.transport = Box::new(Gone);
        #[cfg(feature = "rustls")]
        {
            self.tls = None;
        }
    }

    /// Sends the closing alert of TLS, as far as possible without waiting.
    pub(crate) fn close(&mut self) {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.socket.say(tls);
        }
    }
}

/// The octets that TLS has decrypted. `None` if it needs more from the server first.
#[cfg(feature = "rustls")]
fn take_plaintext(
    tls: &mut rustls::ClientConnection,
    buffer: &mut [u8],
) -> io::Result<Option<usize>> {
    match tls.reader().read(buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
