//! How to reach a server over TCP.

use std::io;
use std::net::SocketAddr;

use smtp_blocking::shared::Terms;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::Error;
use crate::pump::Pump;
use crate::session::Session;

/// A server and the terms of the sessions with it; [`connect`](Self::connect) opens one.
///
/// The defaults: port 25 (465 for implicit TLS, 24 for LMTP), the system's choice of local address, the
/// host's name in EHLO, opportunistic TLS without a check of the certificate, no credentials, PIPELINING
/// where it is offered, 30 seconds to connect and the timeouts of RFC 5321 from there on.
///
/// ```no_run
/// use smtp_tokio::{Connector, Credentials, TlsPolicy};
/// use tokio::fs::File;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut session = Connector::new("smtp.example.org:587")
///     .tls(TlsPolicy::Required)
///     .server_name("smtp.example.org")
///     .credentials(Credentials::password("alice", "s3cret"))
///     .connect()
///     .await?;
/// let recipients = ["bob@example.net", "carol@example.net"];
/// let mut transaction = session.transaction("alice@example.org", recipients).await?;
/// for (index, error) in transaction.failures() {
///     eprintln!("{}: {error}", recipients[index]);
/// }
/// tokio::io::copy(&mut File::open("message.eml").await?, &mut transaction).await?;
/// let report = transaction.finish().await?;
/// session.quit().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Connector {
    terms: Terms,
}

impl Connector {
    smtp_blocking::connector_methods!();

    /// Resolves the server's name, connects to the first of its addresses that answers, or to the Unix socket,
    /// and opens the session: greeting, EHLO, STARTTLS, AUTH. Dropped on the way, it closes the connection.
    ///
    /// # Errors
    /// [`Stage`](crate::Stage) says how far it came.
    pub async fn connect(&self) -> Result<Session, Error> {
        #[cfg(unix)]
        if let Some(path) = &self.terms.unix {
            let connect = tokio::net::UnixStream::connect(path);
            let connected = tokio::time::timeout(self.terms.connect_timeout, connect).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            return self.connect_over(connected.map_err(|error| Terms::no_socket(path, error))?).await;
        }
        let error = match connect_and_open(&self.terms).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        match self.terms.in_clear(&error) {
            Some(terms) => connect_and_open(&terms).await,
            None => Err(error),
        }
    }

    /// The same over a stream that is connected already: a Unix socket, a proxy, a socket with options
    /// of its own.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_over<S>(&self, stream: S) -> Result<Session, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let session = self.terms.session(None)?;
        Session::open(Pump::new(session, Box::new(stream), self.terms.observer.clone())).await
    }
}

async fn connect_and_open(terms: &Terms) -> Result<Session, Error> {
    let stream = connect_tcp(terms).await?;
    let local = stream.local_addr().ok().map(|address| address.ip());
    Session::open(Pump::new(terms.session(local)?, Box::new(stream), terms.observer.clone())).await
}

async fn connect_tcp(terms: &Terms) -> Result<TcpStream, Error> {
    let (host, port) = terms.host_and_port()?;
    let deadline = Instant::now() + terms.connect_timeout;
    let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
    let lookup = tokio::time::timeout_at(deadline, tokio::net::lookup_host((host, port))).await;
    let addresses =
        lookup.unwrap_or_else(|_| Err(timed_out())).map_err(|error| Error::unresolved(host, error))?;
    let mut failures = Vec::new();
    for address in addresses.filter(|&address| terms.suits(address)) {
        let connected = tokio::time::timeout_at(deadline, connect_to(terms, address)).await;
        match connected.unwrap_or_else(|_| Err(timed_out())) {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push((address, error)),
        }
    }
    Err(terms.unreachable(host, failures))
}

async fn connect_to(terms: &Terms, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = terms.local_ip {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    // Each write is as large as it can be already; Nagle's algorithm would only hold the last part of a
    // message back until the server's delayed acknowledgement.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}
