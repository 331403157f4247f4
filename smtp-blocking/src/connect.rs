//! Opens a session: over TCP, a Unix socket, or a stream that is already connected.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::{fd::OwnedFd, unix::net::UnixStream};
#[cfg(unix)]
use std::path::Path;
use std::time::{Duration, Instant};

use smtp_adapter::{
    Error, Failures, Peer, Server, Terms, ToServer, interleave, others, share, tell_unopened,
    unreachable,
};
use smtp_proto::{Channel, TlsFacts};
#[cfg(unix)]
use socket2::SockAddr;
use socket2::{Domain, Socket, Type};

use crate::pump::Pump;
use crate::session::Session;
use crate::stream::Transport;

impl Session {
    /// Opens a session. It resolves the server's name and connects to its first address that answers, or to the Unix
    /// socket. Then come greeting, EHLO, STARTTLS and AUTH.
    ///
    /// The addresses are tried one after the other, alternating between IPv6 and IPv4. Each gets an equal share of
    /// the time that [`Server::connect_timeout`] leaves, and at least two seconds of it. If the first one that
    /// answers sends no greeting, or a refusal, the next one is tried too (RFC 5321 section 5.1). A third one is not
    /// tried.
    ///
    /// ```no_run
    /// use smtp_blocking::{Credentials, Server, Session};
    ///
    /// let server = Server::new("smtp.example.org:587")
    ///     .credentials(Credentials::password("alice", "s3cret"));
    /// let mut session = Session::connect(&server)?;
    /// let recipients = ["bob@example.net", "carol@example.net"];
    /// let mut transaction = session.transaction("alice@example.org", recipients)?;
    /// for failure in transaction.failures() {
    ///     eprintln!("{failure}");
    /// }
    /// std::io::copy(&mut std::fs::File::open("message.eml")?, &mut transaction)?;
    /// let report = transaction.finish()?;
    /// session.quit();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The server may also be given by its name or address ([`ToServer`]). Keep a [`Server`] for several sessions,
    /// because each `Server` builds its TLS settings once.
    ///
    /// # Errors
    /// The session could not be opened. [`Stage`](crate::Stage) says how far it came.
    pub fn connect(server: impl ToServer) -> Result<Self, Error> {
        Self::connect_on(terms(&server.to_server())).inspect_err(tell_unopened)
    }

    /// The same for a pool, where many callers share the session.
    pub(crate) fn connect_shared(server: &Server) -> Result<Self, Error> {
        Self::connect_on(terms(server).shared()).inspect_err(tell_unopened)
    }

    fn connect_on(terms: Terms<'_>) -> Result<Self, Error> {
        #[cfg(unix)]
        if let Some(path) = terms.unix() {
            let connected = connect_to_unix(path, terms.connect_timeout());
            return open(
                terms,
                Channel::Local,
                connected.map_err(|error| Terms::no_socket(path, error))?,
            );
        }
        connect_and_open(terms).or_else(|error| match terms.in_clear(&error) {
            Some(terms) => connect_and_open(terms),
            None => Err(error),
        })
    }

    /// The same over a stream that is already connected: a Unix socket, a proxy, a socket with its own options.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_over(server: &Server, stream: impl Transport + 'static) -> Result<Self, Error> {
        let channel = channel(&stream);
        open(terms(server), channel, stream).inspect_err(tell_unopened)
    }

    /// The same over a stream that is already encrypted, by a proxy or the application's own TLS library. The facts
    /// say what is known of the server. Credentials and REQUIRETLS depend on them.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_over_tls(
        server: &Server,
        stream: impl Transport + 'static,
        facts: TlsFacts,
    ) -> Result<Self, Error> {
        open(terms(server), Channel::Tls(facts), stream).inspect_err(tell_unopened)
    }
}

fn terms(server: &Server) -> Terms<'_> {
    Terms::new(server, cfg!(feature = "rustls"))
}

fn open(
    terms: Terms<'_>,
    channel: Channel,
    stream: impl Transport + 'static,
) -> Result<Session, Error> {
    let session = terms.session(channel, stream.local_ip(), || peer(&stream))?;
    Session::open(Pump::new(session, Box::new(stream)))
}

/// The other end of this stream.
fn peer(stream: &dyn std::any::Any) -> Peer {
    #[cfg(unix)]
    if let Some(stream) = stream.downcast_ref::<UnixStream>() {
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
    if stream.is::<UnixStream>() {
        return Channel::Local;
    }
    let _ = stream;
    Channel::Network
}

fn connect_and_open(terms: Terms<'_>) -> Result<Session, Error> {
    let (host, port) = terms.host_and_port()?;
    let addresses = (&*host, port)
        .to_socket_addrs()
        .map_err(|error| Error::unresolved(&host, error))?;
    let addresses = interleave(addresses.filter(|&address| terms.suits(address)));
    open_any(terms, &host, &addresses)
}

/// Opens a session at the first address that answers, or at the next one.
fn open_any(terms: Terms<'_>, host: &str, addresses: &[SocketAddr]) -> Result<Session, Error> {
    let deadline = Instant::now() + terms.connect_timeout();
    let connect = |time, addresses: &[_]| {
        connect_to_any(terms, time, addresses).map_err(|failures| unreachable(host, failures))
    };
    let (address, stream) = connect(terms.connect_timeout(), addresses)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let error = match open(terms, Channel::Network, stream) {
        Err(error) if terms.leads_to_next_address(&error) => error,
        result => return result,
    };
    let rest = others(addresses, address);
    if rest.is_empty() {
        return Err(error);
    }
    connect(left, &rest)
        .and_then(|(_, stream)| open(terms, Channel::Network, stream))
        .map_err(|next| next.after(address, &error))
}

fn connect_to_any(
    terms: Terms<'_>,
    time: Duration,
    addresses: &[SocketAddr],
) -> Result<(SocketAddr, TcpStream), Failures> {
    let deadline = Instant::now() + time;
    let mut failures = Failures::new();
    for (index, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = share(left, addresses.len() - index);
        match time
            .map(|time| connect_to(terms, address, time))
            .transpose()
        {
            Ok(Some(stream)) => return Ok((address, stream)),
            Ok(None) => failures.push((address, None)),
            Err(error) => failures.push((address, Some(error))),
        }
    }
    Err(failures)
}

fn connect_to(terms: Terms<'_>, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(local) = terms.local_for(address) {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    socket.connect_timeout(&address.into(), timeout)?;
    // Each write is already as large as possible. Nagle's algorithm would only hold the last part of a message until
    // the server's delayed acknowledgement.
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// On Linux, the write timeout bounds how long connecting to a busy Unix socket waits. Other systems refuse it at
/// once.
#[cfg(unix)]
fn connect_to_unix(path: &Path, time: Duration) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean no timeout.
        socket.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.connect(&address) {
            Ok(()) => return Ok(OwnedFd::from(socket).into()),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                io::ErrorKind::Interrupted if !left.is_zero() => {}
                _ => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::ConnectionRefused;
    use std::net::TcpListener;

    use smtp_proto::{Stage, TlsPolicy};
    use smtp_tests::servers::dead;
    use smtp_tests::servers::fast::greeter;
    use smtp_tests::watchdog::within_limit;

    /// As [`connect_to_any`], with a watchdog.
    fn connect(connect_timeout: Duration, addresses: &[SocketAddr]) -> Result<TcpStream, Failures> {
        let server = Server::new("mx.example.net").connect_timeout(connect_timeout);
        let addresses = addresses.to_vec();
        within_limit(move || {
            connect_to_any(terms(&server), connect_timeout, &addresses).map(|(_, stream)| stream)
        })
        .expect("it hangs")
    }

    /// As [`open_any`], with a watchdog.
    fn open_at(addresses: &[SocketAddr]) -> Result<Session, Error> {
        let server = Server::new("mx.example.net").tls(TlsPolicy::Never);
        let addresses = addresses.to_vec();
        within_limit(move || open_any(terms(&server), "mx.example.net", &addresses))
            .expect("it hangs")
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_dead_address_leaves_time_for_the_next_one() {
        let (dead, alive) = (
            dead::Jammed::start().unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let alive = alive.local_addr().unwrap();
        // So many that the dead one gets two seconds, and the others share 58.
        let mut addresses = [alive; 30];
        addresses[0] = dead.address();
        let stream = connect(Duration::from_secs(60), &addresses).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
        assert!(stream.nodelay().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn each_dead_address_is_named_at_the_deadline() {
        let dead = dead::Jammed::start().unwrap();
        let (_socket, closed) = dead::closed().unwrap();
        let addresses = [closed, dead.address(), dead.address()];
        let start = Instant::now();
        let failures = connect(Duration::from_secs(1), &addresses).unwrap_err();
        // The system waits whole milliseconds, and the deadline may be less than one away.
        assert!(start.elapsed() >= Duration::from_millis(999));
        let error = unreachable("mx.example.net", failures).to_string();
        let dead = dead.address();
        assert!(
            error.contains(&format!("{closed}: ")) && error.contains("refused"),
            "{error}"
        );
        assert!(
            error.contains(&format!("{dead}: timed out; {dead}: not tried")),
            "{error}"
        );
    }

    #[test]
    fn a_closed_port_is_followed_by_the_next_address() {
        let (_socket, closed) = dead::closed().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = alive.local_addr().unwrap();
        let stream = connect(Duration::from_secs(60), &[closed, alive]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);

        let failures = connect(Duration::from_secs(60), &[closed]).unwrap_err();
        assert_eq!(
            failures[0].1.as_ref().map(io::Error::kind),
            Some(ConnectionRefused)
        );
    }

    const HELLO: &str = "250 hi\r\n";

    #[test]
    fn a_greeting_that_refuses_leads_to_the_next_address() {
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
            open_at(&[bad, good, other]).unwrap().quit();
            // Two are tried, and no third one.
            for addresses in [&[bad][..], &[bad, bad], &[bad, other, good]] {
                let error = open_at(addresses).unwrap_err();
                assert_eq!(error.stage(), Stage::Greeting, "{error}");
            }
        }
    }

    #[test]
    fn an_error_names_both_addresses_that_were_tried() {
        let first = greeter("421 4.3.2 full\r\n", "").unwrap();
        let second = greeter("554 5.7.1 not you\r\n", "").unwrap();
        let error = open_at(&[first, second]).unwrap_err();
        assert_eq!(error.error().reply().unwrap().code().get(), 554);
        let line = error.to_string();
        assert!(line.contains("554 5.7.1 not you"), "{line}");
        let before = format!("{first} before: greeting: server said 421 4.3.2 full");
        assert!(line.contains(&before), "{line}");

        let (_socket, closed) = dead::closed().unwrap();
        let line = open_at(&[first, closed]).unwrap_err().to_string();
        assert!(line.contains("refused") && line.contains(&before), "{line}");
    }

    #[test]
    fn a_server_that_has_greeted_us_is_the_one() {
        let good = greeter("220 hi\r\n", HELLO).unwrap();
        for hello in ["421 4.3.2 full\r\n", "554 5.7.1 not you\r\n", ""] {
            let other = greeter("220 hi\r\n", hello).unwrap();
            let error = open_at(&[other, good]).unwrap_err();
            assert_eq!(error.stage(), Stage::Ehlo, "{error}");
        }
    }
}
