//! Opens a session: over TCP, a Unix socket, or a stream that is already connected.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smtp_adapter::{
    Failures, Peer, Server, Terms, ToServer, interleave, others, tell_unopened, unreachable,
};
use smtp_proto::{Channel, TlsFacts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::Error;
use crate::pump::Pump;
use crate::race::race;
use crate::session::Session;

impl Session {
    /// Opens a session. It resolves the server's name and connects to its first address that answers, or to the Unix
    /// socket. Then come greeting, EHLO, STARTTLS and AUTH.
    ///
    /// The addresses are raced (RFC 8305), alternating between IPv6 and IPv4. A new attempt begins every 250 ms, or
    /// at once after a failure. All end within [`Server::connect_timeout`]. If the one that answers sends no
    /// greeting, or a refusal, the next one is tried too (RFC 5321 section 5.1). A third one is not tried.
    ///
    /// ```no_run
    /// use smtp_tokio::{Credentials, Server, Session};
    /// use tokio::fs::File;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::new("smtp.example.org:587")
    ///     .credentials(Credentials::password("alice", "s3cret"));
    /// let mut session = Session::connect(&server).await?;
    /// let recipients = ["bob@example.net", "carol@example.net"];
    /// let mut transaction = session.transaction("alice@example.org", recipients).await?;
    /// for failure in transaction.failures() {
    ///     eprintln!("{failure}");
    /// }
    /// tokio::io::copy(&mut File::open("message.eml").await?, &mut transaction).await?;
    /// let report = transaction.finish().await?;
    /// session.quit().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The server may also be given by its name or address ([`ToServer`]). Keep a [`Server`] for several sessions,
    /// because each `Server` builds its TLS settings once.
    ///
    /// # Errors
    /// The session could not be opened. [`Stage`](crate::Stage) says how far it came.
    pub async fn connect(server: impl ToServer) -> Result<Self, Error> {
        Self::connect_on(terms(&server.to_server()))
            .await
            .inspect_err(tell_unopened)
    }

    /// The same for a pool, where many callers share the session.
    pub(crate) async fn connect_shared(server: &Server) -> Result<Self, Error> {
        Self::connect_on(terms(server).shared())
            .await
            .inspect_err(tell_unopened)
    }

    async fn connect_on(terms: Terms<'_>) -> Result<Self, Error> {
        prepare(terms).await;
        #[cfg(unix)]
        if let Some(path) = terms.unix() {
            let connect = tokio::net::UnixStream::connect(path);
            let connected = tokio::time::timeout(terms.connect_timeout(), connect).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            return open(
                terms,
                Channel::Local,
                connected.map_err(|error| Terms::no_socket(path, error))?,
            )
            .await;
        }
        let error = match connect_and_open(terms).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        match terms.in_clear(&error) {
            Some(terms) => connect_and_open(terms).await,
            None => Err(error),
        }
    }

    /// The same over a stream that is already connected: a Unix socket, a proxy, a socket with its own options.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_over<S>(server: &Server, stream: S) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let terms = terms(server);
        prepare(terms).await;
        let channel = channel(&stream);
        open(terms, channel, stream)
            .await
            .inspect_err(tell_unopened)
    }

    /// The same over a stream that is already encrypted, by a proxy or the application's own TLS library. The facts
    /// say what is known of the server. Credentials and REQUIRETLS depend on them.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_over_tls<S>(
        server: &Server,
        stream: S,
        facts: TlsFacts,
    ) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        open(terms(server), Channel::Tls(facts), stream)
            .await
            .inspect_err(tell_unopened)
    }
}

fn terms(server: &Server) -> Terms<'_> {
    Terms::new(server, cfg!(feature = "rustls"))
}

/// Reads the trust store on another thread, if it was not read before.
async fn prepare(terms: Terms<'_>) {
    #[cfg(feature = "rustls")]
    if let Some(preparation) = terms.preparation() {
        // If it fails, the handshake reports it.
        let _ = tokio::task::spawn_blocking(preparation).await;
    }
    #[cfg(not(feature = "rustls"))]
    let _ = terms;
}

async fn open<S>(terms: Terms<'_>, channel: Channel, stream: S) -> Result<Session, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let session = terms.session(channel, None, || peer(&stream))?;
    Session::open(Pump::new(session, Box::new(stream))).await
}

/// The other end of this stream.
fn peer(stream: &dyn std::any::Any) -> Peer {
    #[cfg(unix)]
    if let Some(stream) = stream.downcast_ref::<tokio::net::UnixStream>() {
        let address = stream.peer_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        return path.map_or(Peer::Unknown, |path| Peer::Unix(path.into()));
    }
    let stream = stream.downcast_ref::<TcpStream>();
    let address = stream.and_then(|stream| stream.peer_addr().ok());
    address.map_or(Peer::Unknown, Peer::Address)
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

async fn connect_and_open(terms: Terms<'_>) -> Result<Session, Error> {
    let (host, port) = terms.host_and_port()?;
    let addresses = tokio::net::lookup_host((&*host, port)).await;
    let addresses = addresses.map_err(|error| Error::unresolved(&host, error))?;
    let addresses = interleave(addresses.filter(|&address| terms.suits(address)));
    open_any(terms, &host, &addresses).await
}

/// Opens a session at the address that answers first, or at the next one.
async fn open_any(
    terms: Terms<'_>,
    host: &str,
    addresses: &[SocketAddr],
) -> Result<Session, Error> {
    let deadline = Instant::now() + terms.connect_timeout();
    let connected = connect_to_any(terms, terms.connect_timeout(), addresses).await;
    let (address, stream) = connected.map_err(|failures| unreachable(host, failures))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let error = match open_tcp(terms, stream).await {
        Err(error) if terms.leads_to_next_address(&error) => error,
        result => return result,
    };
    let rest = others(addresses, address);
    if rest.is_empty() {
        return Err(error);
    }
    let next = match connect_to_any(terms, left, &rest).await {
        Ok((_, stream)) => open_tcp(terms, stream).await,
        Err(failures) => Err(unreachable(host, failures)),
    };
    next.map_err(|next| next.after(address, &error))
}

async fn open_tcp(terms: Terms<'_>, stream: TcpStream) -> Result<Session, Error> {
    let local = stream.local_addr().ok().map(|address| address.ip());
    let session = terms.session(Channel::Network, local, || peer(&stream))?;
    Session::open(Pump::new(session, Box::new(stream))).await
}

async fn connect_to_any(
    terms: Terms<'_>,
    time: Duration,
    addresses: &[SocketAddr],
) -> Result<(SocketAddr, TcpStream), Failures> {
    race(addresses, time, |address| async move {
        connect_to(terms, address)
            .await
            .map(|stream| (address, stream))
    })
    .await
}

async fn connect_to(terms: Terms<'_>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(local) = terms.local_for(address) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    // Each write is already as large as possible. Nagle's algorithm would only hold the last part of a message until
    // the server's delayed acknowledgement.
    socket.set_nodelay(true)?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    use smtp_proto::{Stage, TlsPolicy};
    use smtp_tests::servers::dead;
    use smtp_tests::servers::fast::greeter;
    use tokio::net::TcpListener;
    use tokio::time;

    /// As [`connect_to_any`], with a watchdog.
    async fn connect(
        connect_timeout: Duration,
        addresses: &[SocketAddr],
    ) -> Result<TcpStream, Failures> {
        let server = Server::new("mx.example.net").connect_timeout(connect_timeout);
        let attempt = connect_to_any(terms(&server), connect_timeout, addresses);
        time::timeout(Duration::from_secs(120), attempt)
            .await
            .expect("it hangs")
            .map(|(_, stream)| stream)
    }

    /// As [`open_any`], with a watchdog.
    async fn open_at(addresses: &[SocketAddr]) -> Result<Session, Error> {
        let server = Server::new("mx.example.net").tls(TlsPolicy::Never);
        let attempt = open_any(terms(&server), "mx.example.net", addresses);
        time::timeout(Duration::from_secs(120), attempt)
            .await
            .expect("it hangs")
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_dead_address_does_not_delay_the_next_one() {
        let dead = dead::Jammed::start().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [dead.address(), dead.address(), alive.local_addr().unwrap()];
        let start = Instant::now();
        let stream = connect(Duration::from_secs(60), &addresses).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(60));
        assert_eq!(stream.peer_addr().unwrap(), addresses[2]);
        assert!(stream.nodelay().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn each_dead_address_is_named_at_the_deadline() {
        let dead = dead::Jammed::start().unwrap();
        let (_socket, closed) = dead::closed().unwrap();
        let start = Instant::now();
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
        let (_socket, closed) = dead::closed().unwrap();
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

    const HELLO: &str = "250 hi\r\n";

    #[tokio::test]
    async fn a_greeting_that_refuses_leads_to_the_next_address() {
        let good = greeter("220 hi\r\n", HELLO).unwrap();
        for greeting in [
            "421 4.3.2 full\r\n",
            "554 5.7.1 not you\r\n",
            "450 no\r\n",
            "",
        ] {
            let (bad, other) = (
                greeter(greeting, "").unwrap(),
                greeter(greeting, "").unwrap(),
            );
            open_at(&[bad, good, other]).await.unwrap().quit().await;
            // Two are tried, and no third one.
            for addresses in [&[bad][..], &[bad, bad], &[bad, other, good]] {
                let error = open_at(addresses).await.unwrap_err();
                assert_eq!(error.stage(), Stage::Greeting, "{error}");
            }
        }
    }

    #[tokio::test]
    async fn an_error_names_both_addresses_that_were_tried() {
        let first = greeter("421 4.3.2 full\r\n", "").unwrap();
        let second = greeter("554 5.7.1 not you\r\n", "").unwrap();
        let error = open_at(&[first, second]).await.unwrap_err();
        assert_eq!(error.error().reply().unwrap().code().get(), 554);
        let line = error.to_string();
        assert!(line.contains("554 5.7.1 not you"), "{line}");
        let before = format!("{first} before: greeting: server said 421 4.3.2 full");
        assert!(line.contains(&before), "{line}");

        let (_socket, closed) = dead::closed().unwrap();
        let line = open_at(&[first, closed]).await.unwrap_err().to_string();
        assert!(line.contains("refused") && line.contains(&before), "{line}");
    }

    #[tokio::test]
    async fn a_server_that_has_greeted_us_is_the_one() {
        let good = greeter("220 hi\r\n", HELLO).unwrap();
        for hello in ["421 4.3.2 full\r\n", "554 5.7.1 not you\r\n", ""] {
            let other = greeter("220 hi\r\n", hello).unwrap();
            let error = open_at(&[other, good]).await.unwrap_err();
            assert_eq!(error.stage(), Stage::Ehlo, "{error}");
        }
    }
}
