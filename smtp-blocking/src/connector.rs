//! How to reach a server over TCP.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::error::Error;
use crate::pump::Pump;
use crate::session::Session;
use crate::stream::Transport;
use crate::terms::Terms;

/// A server and the terms of the sessions with it; [`connect`](Self::connect) opens one.
///
/// The defaults: port 25 (465 for implicit TLS, 24 for LMTP), the system's choice of local address, the
/// host's name in EHLO, opportunistic TLS without a check of the certificate, no credentials, PIPELINING
/// where it is offered, 30 seconds to connect and the timeouts of RFC 5321 from there on.
///
/// ```no_run
/// use smtp_blocking::{Connector, Credentials, TlsPolicy};
///
/// let mut session = Connector::new("smtp.example.org:587")
///     .tls(TlsPolicy::Required)
///     .server_name("smtp.example.org")
///     .credentials(Credentials::password("alice", "s3cret"))
///     .connect()?;
/// let recipients = ["bob@example.net", "carol@example.net"];
/// let mut transaction = session.transaction("alice@example.org", recipients)?;
/// for (index, error) in transaction.failures() {
///     eprintln!("{}: {error}", recipients[index]);
/// }
/// std::io::copy(&mut std::fs::File::open("message.eml")?, &mut transaction)?;
/// let report = transaction.finish()?;
/// session.quit();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    terms: Terms,
}

impl Connector {
    crate::connector_methods!();

    /// Resolves the server's name, connects to the first of its addresses that answers, or to the Unix socket,
    /// and opens the session: greeting, EHLO, STARTTLS, AUTH.
    ///
    /// # Errors
    /// [`Stage`](crate::Stage) says how far it came.
    pub fn connect(&self) -> Result<Session, Error> {
        #[cfg(unix)]
        if let Some(path) = &self.terms.unix {
            let connected = std::os::unix::net::UnixStream::connect(path);
            return open(&self.terms, connected.map_err(|error| Terms::no_socket(path, error))?);
        }
        let connect = |terms: &Terms| connect_tcp(terms).and_then(|stream| open(terms, stream));
        connect(&self.terms).or_else(|error| match self.terms.in_clear(&error) {
            Some(terms) => connect(&terms),
            None => Err(error),
        })
    }

    /// The same over a stream that is connected already: a Unix socket, a proxy, a socket with options
    /// of its own.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_over(&self, stream: impl Transport + 'static) -> Result<Session, Error> {
        open(&self.terms, stream)
    }
}

fn open(terms: &Terms, stream: impl Transport + 'static) -> Result<Session, Error> {
    let session = terms.session(stream.local_ip())?;
    Session::open(Pump::new(session, Box::new(stream), terms.observer.clone()))
}

fn connect_tcp(terms: &Terms) -> Result<TcpStream, Error> {
    let (host, port) = terms.host_and_port()?;
    let deadline = Instant::now() + terms.connect_timeout;
    let addresses = (host, port).to_socket_addrs().map_err(|error| Error::unresolved(host, error))?;
    let mut failures = Vec::new();
    for address in addresses.filter(|&address| terms.suits(address)) {
        match connect_to(terms, address, deadline.saturating_duration_since(Instant::now())) {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push((address, error)),
        }
    }
    Err(terms.unreachable(host, failures))
}

fn connect_to(terms: &Terms, address: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
    if timeout.is_zero() {
        return Err(std::io::ErrorKind::TimedOut.into());
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(local) = terms.local_ip {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    socket.connect_timeout(&address.into(), timeout)?;
    // Each write is as large as it can be already; Nagle's algorithm would only hold the last part of a
    // message back until the server's delayed acknowledgement.
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
