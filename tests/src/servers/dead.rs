//! Dead addresses on loopback: hosts that are off, ports that are closed.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// A listener whose backlog is full. Linux drops further SYNs, so a connection is neither made nor refused, as with a
/// host that is off. Other systems may refuse it.
#[derive(Debug)]
pub struct Jammed {
    address: SocketAddr,
    _listener: Socket,
    _backlog: Vec<TcpStream>,
}

impl Jammed {
    /// Fills the backlog of a new listener on 127.0.0.1.
    ///
    /// # Errors
    /// A socket cannot be made, or the backlog does not fill.
    pub fn start() -> io::Result<Self> {
        let (listener, address) = closed()?;
        listener.listen(0)?;
        let mut backlog = Vec::new();
        // The kernel accepts a connection over loopback at once, or not at all.
        while backlog.len() < 1_000 {
            match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                Ok(stream) => backlog.push(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Ok(Self {
                        address,
                        _listener: listener,
                        _backlog: backlog,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the backlog does not fill"))
    }

    /// The address at which nobody answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A Unix socket whose backlog is full. On Linux, connecting waits for an accept that never comes.
#[cfg(unix)]
#[derive(Debug)]
pub struct JammedUnix {
    path: std::path::PathBuf,
    _listener: Socket,
    _backlog: Vec<Socket>,
}

#[cfg(unix)]
impl JammedUnix {
    /// Fills the backlog of a new listener, with this name in its path.
    ///
    /// # Errors
    /// A socket cannot be made, or the backlog does not fill.
    pub fn start(name: &str) -> io::Result<Self> {
        let file = format!("smtp-tests-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let address = socket2::SockAddr::unix(&path)?;
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listener.bind(&address)?;
        listener.listen(0)?;
        let mut jammed = Self {
            path,
            _listener: listener,
            _backlog: Vec::new(),
        };
        while jammed._backlog.len() < 1_000 {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&address) {
                Ok(()) => jammed._backlog.push(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(jammed),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("the backlog does not fill"))
    }

    /// The path of the socket.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

#[cfg(unix)]
impl Drop for JammedUnix {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// An address on 127.0.0.1 that refuses connections, and the socket that reserves it without listening.
///
/// # Errors
/// A socket cannot be made.
pub fn closed() -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, address))
}
