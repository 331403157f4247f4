//! How to reach a server, and what to agree on with it before mail is sent.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smtp_proto::{
    BodyPolicy, Cause, ClientName, Config, Credentials, Limits, Protocol, Stage, Timeouts, TlsPolicy, Trace,
};
use socket2::{Domain, Socket, Type};

use crate::error::Error;
use crate::pump::Pump;
use crate::session::Session;
use crate::stream::Transport;

pub(crate) type Observer = Arc<dyn Fn(&Trace) + Send + Sync>;

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
#[derive(Clone)]
pub struct Connector {
    server: String,
    local_ip: Option<IpAddr>,
    connect_timeout: Duration,
    retry_in_clear: bool,
    server_name: Option<String>,
    #[cfg(feature = "rustls")]
    anchors: Vec<rustls::pki_types::CertificateDer<'static>>,
    observer: Option<Observer>,
    client_name: Option<ClientName>,
    /// The rest of the engine's configuration, under a name that is replaced when it is known.
    config: Config,
}

impl Connector {
    /// For this server: a host name or an IP address, with `:port` or without (`mx.example.net`,
    /// `192.0.2.1:2525`, `[2001:db8::1]:25`). It is resolved by `connect`.
    pub fn new(server: &str) -> Self {
        let placeholder = ClientName::from(IpAddr::from([127, 0, 0, 1]));
        Self {
            server: server.into(),
            local_ip: None,
            connect_timeout: Duration::from_secs(30),
            retry_in_clear: false,
            server_name: None,
            #[cfg(feature = "rustls")]
            anchors: Vec::new(),
            observer: None,
            client_name: None,
            config: Config::new(placeholder),
        }
    }

    /// Connects from this local address.
    #[must_use]
    pub fn bind(mut self, local: IpAddr) -> Self {
        self.local_ip = Some(local);
        self
    }

    /// The name for EHLO. By default it is the host's name where that is a domain name with a dot in it,
    /// and else the address literal of the local end, which servers that insist on a full name accept.
    #[must_use]
    pub fn client_name(mut self, name: ClientName) -> Self {
        self.client_name = Some(name);
        self
    }

    /// When to encrypt.
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.config.tls = policy;
        self
    }

    /// The name that the server's certificate must be valid for, whatever the policy. Without it a
    /// session is encrypted but nobody's identity is checked: an active attacker can read it.
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Trusts these certificates, in PEM, beside the system's. Given without a server name, the
    /// certificate's chain is checked and its name is not.
    ///
    /// # Errors
    /// Text without a certificate, or that is no PEM.
    #[cfg(feature = "rustls")]
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        let anchors = crate::tls::parse_pem(pem).map_err(|error| Error::local(Cause::Local(error.into())))?;
        self.anchors.extend(anchors);
        Ok(self)
    }

    /// When an opportunistic handshake has failed, connects once more and stays in the clear, as mail
    /// transfer agents do. Never with credentials, and never where the certificate was refused.
    #[must_use]
    pub fn retry_in_clear(mut self, yes: bool) -> Self {
        self.retry_in_clear = yes;
        self
    }

    /// Logs in.
    #[must_use]
    pub fn credentials(mut self, credentials: impl Into<Option<Credentials>>) -> Self {
        self.config.credentials = credentials.into();
        self
    }

    /// Speaks LMTP (RFC 2033) instead of SMTP.
    #[must_use]
    pub fn lmtp(mut self) -> Self {
        self.config.protocol = Protocol::Lmtp;
        self
    }

    /// Sends one command at a time even where PIPELINING is offered, if `false`.
    #[must_use]
    pub fn pipelining(mut self, yes: bool) -> Self {
        self.config.pipelining = yes;
        self
    }

    /// What may stand in a body.
    #[must_use]
    pub fn body_policy(mut self, policy: BodyPolicy) -> Self {
        self.config.body = policy;
        self
    }

    /// How long to wait for the TCP connection, all addresses of the server together; 30 seconds by
    /// default. Name resolution is the system's and keeps its own time.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait for each reply.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// How much a server may make us keep.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Calls `observer` for each line of the conversation, without credentials and bodies.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Trace) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self.config.trace = true;
        self
    }

    /// Resolves the server's name, connects to the first of its addresses that answers, and opens the
    /// session: greeting, EHLO, STARTTLS, AUTH.
    ///
    /// # Errors
    /// [`Stage`] says how far it came.
    pub fn connect(&self) -> Result<Session, Error> {
        let (host, port) = self.host_and_port()?;
        let result = self.connect_tcp(host, port).and_then(|stream| self.open(stream, host));
        match result {
            Err(error) if self.retries_in_clear(&error) => {
                let mut in_clear = self.clone();
                in_clear.config.tls = TlsPolicy::Never;
                let stream = self.connect_tcp(host, port)?;
                in_clear.open(stream, host)
            }
            result => result,
        }
    }

    /// The same over a stream that is connected already: a Unix socket, a proxy, a socket with options
    /// of its own.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_over(&self, stream: impl Transport + 'static) -> Result<Session, Error> {
        let host = split_server(&self.server).map_or("", |(host, _)| host);
        self.open(stream, host)
    }

    fn host_and_port(&self) -> Result<(&str, u16), Error> {
        let local = |message: String| Error::local(Cause::Local(message.into()));
        let (host, port) = split_server(&self.server).map_err(local)?;
        let lmtp = self.config.protocol == Protocol::Lmtp;
        let port = port.unwrap_or(match self.config.tls {
            _ if lmtp => 24,
            TlsPolicy::Implicit => 465,
            _ => 25,
        });
        if lmtp && port == 25 {
            return Err(local("LMTP must not be spoken on port 25 (RFC 2033 section 5)".into()));
        }
        Ok((host, port))
    }

    fn connect_tcp(&self, host: &str, port: u16) -> Result<TcpStream, Error> {
        let deadline = Instant::now() + self.connect_timeout;
        let addresses = (host, port).to_socket_addrs().map_err(|error| {
            Error::connect(format!("the address of {host} cannot be found: {error}"), Some(error))
        })?;
        let mut failures = Vec::new();
        let mut last = None;
        for address in addresses {
            if self.local_ip.is_some_and(|local| local.is_ipv4() != address.is_ipv4()) {
                continue;
            }
            match self.connect_to(address, deadline.saturating_duration_since(Instant::now())) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    failures.push(format!("{address}: {error}"));
                    last = Some(error);
                }
            }
        }
        let why = match failures.is_empty() {
            true => "it has no address of the local address's family".into(),
            false => failures.join("; "),
        };
        Err(Error::connect(format!("no connection to {host}: {why}"), last))
    }

    fn connect_to(&self, address: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if let Some(local) = self.local_ip {
            socket.bind(&SocketAddr::new(local, 0).into())?;
        }
        socket.connect_timeout(&address.into(), timeout)?;
        // Each write is as large as it can be already; Nagle's algorithm would only hold the last part
        // of a message back until the server's delayed acknowledgement.
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    }

    fn retries_in_clear(&self, error: &Error) -> bool {
        self.retry_in_clear
            && self.config.tls == TlsPolicy::Opportunistic
            && self.config.credentials.is_none()
            && error.stage() == Stage::StartTls
            && matches!(error.cause(), Cause::TlsFailed(_) | Cause::Disconnected | Cause::TimedOut(_))
    }

    fn open(&self, stream: impl Transport + 'static, host: &str) -> Result<Session, Error> {
        let stream: Box<dyn Transport> = Box::new(stream);
        let mut config = self.config.clone();
        config.client_name = match &self.client_name {
            Some(name) => name.clone(),
            None => default_client_name(stream.local_ip()),
        };
        #[cfg(feature = "rustls")]
        let tls_settings = match config.tls {
            TlsPolicy::Never => None,
            _ => {
                let settings = crate::tls::settings(self.server_name.as_deref(), host, &self.anchors);
                Some(settings.map_err(|error| Error::local(Cause::Local(error.into())))?)
            }
        };
        #[cfg(not(feature = "rustls"))]
        {
            let _ = host;
            if config.tls == TlsPolicy::Opportunistic {
                config.tls = TlsPolicy::Never;
            }
            if config.tls != TlsPolicy::Never {
                return Err(Error::local(Cause::Local(
                    "TLS is required, and this is built without it".into(),
                )));
            }
        }
        let pump = Pump::new(
            config,
            stream,
            self.observer.clone(),
            #[cfg(feature = "rustls")]
            tls_settings,
        );
        Session::open(pump)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("server", &self.server)
            .field("local_ip", &self.local_ip)
            .field("server_name", &self.server_name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
fn split_server(server: &str) -> Result<(&str, Option<u16>), String> {
    let invalid = || format!("\"{server}\" is no server; write HOST, HOST:PORT or [IPV6]:PORT");
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(invalid)?),
            };
            (host, port)
        }
        None if server.matches(':').count() > 1 => (server, None),
        None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(invalid());
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0)) | Some(Err(_)) => Err(invalid()),
        Some(Ok(port)) => Ok((host, Some(port))),
        None => Ok((host, None)),
    }
}

/// The host's name, where it is a name that a server could look up; else the address literal.
fn default_client_name(local: Option<IpAddr>) -> ClientName {
    let host = gethostname::gethostname();
    let name = host.to_str().filter(|name| name.contains('.')).map(ClientName::parse);
    match name {
        Some(Ok(name)) => name,
        _ => local.unwrap_or(IpAddr::from([127, 0, 0, 1])).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (server, expected) in [
            ("mx.example.net", Some(("mx.example.net", None))),
            ("mx.example.net:587", Some(("mx.example.net", Some(587)))),
            ("192.0.2.1:25", Some(("192.0.2.1", Some(25)))),
            ("[2001:db8::1]:25", Some(("2001:db8::1", Some(25)))),
            ("[2001:db8::1]", Some(("2001:db8::1", None))),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("", None),
            (":25", None),
            ("a:", None),
            ("a:0", None),
            ("a:65536", None),
            ("a:x", None),
            ("[::1", None),
            ("[::1]25", None),
            ("a b", None),
        ] {
            assert_eq!(split_server(server).ok(), expected, "{server}");
        }
    }

    #[test]
    fn default_ports() {
        let port = |connector: Connector| connector.host_and_port().map(|(_, port)| port).ok();
        assert_eq!(port(Connector::new("a")), Some(25));
        assert_eq!(port(Connector::new("a").tls(TlsPolicy::Implicit)), Some(465));
        assert_eq!(port(Connector::new("a").lmtp()), Some(24));
        assert_eq!(port(Connector::new("a:25").lmtp()), None);
    }
}
