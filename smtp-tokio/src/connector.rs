//! How to reach a server over TCP.

use std::io;
use std::net::SocketAddr;

use smtp_adapter::{Failures, Terms, interleave, unreachable};
use smtp_proto::Channel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

use crate::Error;
use crate::pump::Pump;
use crate::race::race;
use crate::session::Session;

/// A server and the terms of the sessions with it; [`connect`](Self::connect) opens one.
///
/// The defaults: port 25 (465 for implicit TLS, 24 for LMTP), the system's choice of local address, the
/// host's name in EHLO, opportunistic TLS (required with credentials), no credentials, PIPELINING
/// where it is offered, 30 seconds to connect and the timeouts of RFC 5321 from there on.
///
/// ```no_run
/// use smtp_tokio::{Connector, Credentials};
/// use tokio::fs::File;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut session = Connector::new("smtp.example.org:587")
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
    smtp_adapter::connector_methods!();

    /// Resolves the server's name, connects to the first of its addresses that answers, or to the Unix socket,
    /// and opens the session: greeting, EHLO, STARTTLS, AUTH. Dropped on the way, it closes the connection.
    ///
    /// The addresses race (RFC 8305): IPv6 and IPv4 in turn, each attempt 250 ms after the one before it, or at
    /// once when one has failed. The first connection is used, and the others are closed. The race ends at
    /// [`connect_timeout`](Self::connect_timeout).
    ///
    /// # Errors
    /// [`Stage`](crate::Stage) says how far it came.
    pub async fn connect(&self) -> Result<Session, Error> {
        #[cfg(unix)]
        if let Some(path) = &self.terms.unix {
            let connect = tokio::net::UnixStream::connect(path);
            let connected = tokio::time::timeout(self.terms.connect_timeout, connect).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            return self
                .connect_over(connected.map_err(|error| Terms::no_socket(path, error))?)
                .await;
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
        let session = self.terms.session(channel(&stream), None)?;
        Session::open(Pump::new(
            session,
            Box::new(stream),
            self.terms.observer.clone(),
        ))
        .await
    }
}

/// Whether this stream leaves the host.
fn channel(stream: &dyn std::any::Any) -> Channel {
    #[cfg(unix)]
    if stream.is::<tokio::net::UnixStream>() {
        return Channel::Local;
    }
    let _ = stream;
    Channel::Network
}

async fn connect_and_open(terms: &Terms) -> Result<Session, Error> {
    let stream = connect_tcp(terms).await?;
    let local = stream.local_addr().ok().map(|address| address.ip());
    Session::open(Pump::new(
        terms.session(Channel::Network, local)?,
        Box::new(stream),
        terms.observer.clone(),
    ))
    .await
}

async fn connect_tcp(terms: &Terms) -> Result<TcpStream, Error> {
    let (host, port) = terms.host_and_port()?;
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| Error::unresolved(host, error))?;
    let addresses = interleave(addresses.filter(|&address| terms.suits(address)));
    connect_to_any(terms, &addresses)
        .await
        .map_err(|failures| unreachable(host, failures))
}

async fn connect_to_any(terms: &Terms, addresses: &[SocketAddr]) -> Result<TcpStream, Failures> {
    race(addresses, terms.connect_timeout, |address| {
        connect_to(terms, address)
    })
    .await
}

async fn connect_to(terms: &Terms, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(local) = terms.local_ip {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    // Each write is as large as it can be already; Nagle's algorithm would only hold the last part of a
    // message back until the server's delayed acknowledgement.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use smtp_tests::jammed;
    use tokio::net::TcpListener;
    use tokio::time;

    /// As [`connect_to_any`], with a watchdog.
    async fn connect(
        connect_timeout: Duration,
        addresses: &[SocketAddr],
    ) -> Result<TcpStream, Failures> {
        let terms = Terms {
            connect_timeout,
            ..Terms::new("mx.example.net")
        };
        time::timeout(Duration::from_secs(120), connect_to_any(&terms, addresses))
            .await
            .expect("it hangs")
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_dead_address_does_not_delay_the_next_one() {
        let dead = jammed::Jammed::start().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [dead.address(), dead.address(), alive.local_addr().unwrap()];
        let start = time::Instant::now();
        let stream = connect(Duration::from_secs(60), &addresses).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_eq!(stream.peer_addr().unwrap(), addresses[2]);
        assert!(stream.nodelay().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn each_dead_address_is_named_at_the_deadline() {
        let dead = jammed::Jammed::start().unwrap();
        let (_socket, closed) = jammed::closed().unwrap();
        let start = time::Instant::now();
        let addresses = [closed, dead.address()];
        let failures = connect(Duration::from_millis(300), &addresses)
            .await
            .unwrap_err();
        assert!(start.elapsed() >= Duration::from_millis(300));
        let (error, dead) = (
            unreachable("mx.example.net", failures).to_string(),
            dead.address(),
        );
        assert!(
            error.contains(&format!("{closed}: ")) && error.contains("refused"),
            "{error}"
        );
        assert!(error.contains(&format!("{dead}: timed out")), "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_is_followed_by_the_next_address() {
        let (_socket, closed) = jammed::closed().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = alive.local_addr().unwrap();
        let stream = connect(Duration::from_secs(60), &[closed, alive])
            .await
            .unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);

        let failures = connect(Duration::from_secs(60), &[closed])
            .await
            .unwrap_err();
        assert_eq!(
            failures[0].1.as_ref().map(io::Error::kind),
            Some(io::ErrorKind::ConnectionRefused)
        );
    }
}
