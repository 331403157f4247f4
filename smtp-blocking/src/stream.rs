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

/// What stands in the place of a transport that was closed.
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

/// A socket that counts the octets which it was given, and fails where it takes none.
pub(crate) struct Counted {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) octets: u64,
    /// In a handshake a write that fails is passed over: why the server has gone is often there to be read, an alert
    /// that it has sent in the middle of our flight.
    #[cfg(feature = "rustls")]
    pub(crate) in_handshake: bool,
}

#[cfg(feature = "rustls")]
impl Counted {
    /// Writes the last words of TLS, as far as that is possible without waiting.
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

    /// Reads at most once from the socket, so that the deadlines hold while the server sends one octet at a time.
    /// `None` where octets have come, and under TLS they are not a whole record yet.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            if let Some(n) = take_plaintext(tls, buffer)? {
                return Ok(Some(n));
            }
            tls.read_tls(&mut self.socket)?;
            if let Err(error) = tls.process_new_packets() {
                // The alert that says why.
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

    /// Whether TLS holds nothing back: what was written is with the operating system.
    pub(crate) fn is_flushed(&self) -> bool {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.tls {
            return !tls.wants_write();
        }
        true
    }

    /// Pushes out some of what TLS holds back, by one write.
    pub(crate) fn push(&mut self) -> io::Result<()> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Flushes the transport, where it holds something back itself.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }

    /// Closes the connection, without a goodbye.
    pub(crate) fn hang_up(&mut self) {
        self.socket.transport = Box::new(Gone);
        #[cfg(feature = "rustls")]
        {
            self.tls = None;
        }
    }

    /// Says goodbye in TLS, as far as that is possible without waiting.
    pub(crate) fn close(&mut self) {
        #[cfg(feature = "rustls")]
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.socket.say(tls);
        }
    }
}

/// What TLS has decrypted by now. `None` if nothing is there yet.
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
