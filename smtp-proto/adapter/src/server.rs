//! How to reach a server, and the settings of its sessions: plain data, the same for both adapters.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::{
    Chunking, ClientName, Config, Credentials, Limits, Protocol, Timeouts, TlsPolicy,
    body::BodyPolicy,
};

#[cfg(feature = "rustls")]
use crate::Error;
use crate::driver::FOREVER;
use crate::names::split_server;
use crate::observe::{Observation, Observer};
use crate::record::Recorder;
use crate::to_server::ToServer;

/// How to reach a server, and the settings of its sessions. `Session::connect` opens one.
///
/// The defaults are port 25 (465 for implicit TLS, 24 for LMTP) and the host's name in EHLO. TLS is opportunistic, or
/// required with credentials. PIPELINING is used if it is offered. Connecting may take 30 seconds, and then the
/// timeouts of RFC 5321 apply.
///
/// Keep it, and open each session with it. Its TLS settings are built once, so that later sessions can resume.
///
/// ```
/// use smtp_adapter::Server;
/// use smtp_adapter::smtp_proto::{Credentials, TlsPolicy};
///
/// // Submission: the password goes to smtp.example.org, inside TLS, or nowhere.
/// let submission = Server::new("smtp.example.org:465")
///     .credentials(Credentials::password("alice", "s3cret"));
///
/// // A mail exchanger: encrypted if possible, else delivered in the clear.
/// let exchanger = Server::new("mx.example.net").retry_in_clear(true);
///
/// // A local mail store.
/// # #[cfg(unix)]
/// let store = Server::unix("/run/dovecot/lmtp").lmtp().tls(TlsPolicy::Never);
/// ```
#[derive(Clone)]
pub struct Server {
    /// As the caller wrote it.
    pub(crate) name: String,
    /// The Unix socket to connect to, instead of `name`.
    #[cfg(unix)]
    pub(crate) unix: Option<PathBuf>,
    pub(crate) local_v4: Option<Ipv4Addr>,
    pub(crate) local_v6: Option<Ipv6Addr>,
    pub(crate) connect_timeout: Duration,
    pub(crate) retry_in_clear: bool,
    /// The name that its certificate must have.
    pub(crate) server_name: Option<String>,
    /// When to encrypt. `None` if the caller has not decided.
    pub(crate) tls: Option<TlsPolicy>,
    /// Accepts a server that is not verified, under every policy.
    pub(crate) accept_any: bool,
    #[cfg(feature = "rustls")]
    pub(crate) tls_shared: Arc<crate::tls::SharedTls>,
    /// Replaces the random nonce in tests.
    pub(crate) fixed_nonce: Option<[u8; 18]>,
    pub(crate) observer: Option<Observer>,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) records_bodies: bool,
    /// The name in EHLO.
    pub(crate) client_name: Option<ClientName>,
    /// The rest of the engine's configuration. The name in it is replaced later.
    pub(crate) config: Config,
}

impl Server {
    /// A server by its address: a host name or an IP address, with or without `:port` (`mx.example.net`,
    /// `192.0.2.1:2525`, `[2001:db8::1]:25`), a [`SocketAddr`](std::net::SocketAddr), or a host and a port. A host
    /// name is resolved when a session is opened.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use smtp_adapter::Server;
    ///
    /// let by_name = Server::new("mx.example.net");
    /// let by_host_and_port = Server::new(("smtp.example.org", 587));
    /// let by_address = Server::new(SocketAddr::from(([192, 0, 2, 1], 2525)));
    /// ```
    pub fn new(server: impl ToServer) -> Self {
        server.to_server().into_owned()
    }

    /// A server at this Unix socket, usually with [`lmtp`](Self::lmtp).
    #[cfg(unix)]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        let mut server = Self::named(String::new());
        server.unix = Some(path.into());
        server
    }

    /// A server with this text as its address.
    pub(crate) fn named(name: String) -> Self {
        let placeholder = ClientName::from(IpAddr::from([127, 0, 0, 1]));
        Self {
            name,
            #[cfg(unix)]
            unix: None,
            local_v4: None,
            local_v6: None,
            connect_timeout: Duration::from_secs(30),
            retry_in_clear: false,
            server_name: None,
            tls: None,
            accept_any: false,
            #[cfg(feature = "rustls")]
            tls_shared: Arc::default(),
            fixed_nonce: None,
            observer: None,
            recorder: None,
            records_bodies: false,
            client_name: None,
            config: Config::new(placeholder),
        }
    }

    /// Logs in with these credentials. TLS is then required by default, and the server verified ([`tls`](Self::tls)).
    #[must_use]
    pub fn credentials(mut self, credentials: impl Into<Option<Credentials>>) -> Self {
        self.config.credentials = credentials.into();
        self
    }

    /// When to encrypt. The default depends on the other settings:
    ///
    /// | if | the default is |
    /// |---|---|
    /// | the port is 465 | [`Implicit`](smtp_proto::TlsPolicy::Implicit) |
    /// | it has credentials on a network | [`Required`](smtp_proto::TlsPolicy::Required), or `Opportunistic` with [`permit_in_clear`](smtp_proto::Credentials::permit_in_clear) |
    /// | else | [`Opportunistic`](smtp_proto::TlsPolicy::Opportunistic) |
    ///
    /// [`Required`](smtp_proto::TlsPolicy::Required) and [`Implicit`](smtp_proto::TlsPolicy::Implicit) verify the
    /// server. Its certificate must be trusted, and be for the name that was connected to or
    /// [`server_name`](Self::server_name). If you have called neither `tls` nor
    /// `server_name`, credentials with [`permit_unverified`](smtp_proto::Credentials::permit_unverified) accept any
    /// certificate.
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = Some(policy);
        self
    }

    /// `false` accepts any server, under every policy. The session is encrypted, but somebody in between may read it.
    /// Credentials are not sent to such a server, unless
    /// [`permit_unverified`](smtp_proto::Credentials::permit_unverified) permits that as well.
    #[must_use]
    pub fn verify(mut self, yes: bool) -> Self {
        self.accept_any = !yes;
        self
    }

    /// The name that the server's certificate must have, under every policy, instead of the name that is connected
    /// to. Without it, [`Opportunistic`](smtp_proto::TlsPolicy::Opportunistic) accepts a server that is not verified,
    /// as mail servers do.
    #[must_use]
    pub fn server_name(mut self, name: impl AsRef<str>) -> Self {
        self.server_name = Some(name.as_ref().into());
        #[cfg(feature = "rustls")]
        self.renew_tls(|_| {});
        self
    }

    /// Trusts these certificates, in PEM, in addition to the system's. Each may be an authority, or a server's own. A
    /// server with such a certificate needs no authority, but its name and its dates still count.
    ///
    /// # Errors
    /// The text does not contain a certificate, or is not PEM.
    #[cfg(feature = "rustls")]
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        let more = local("trust_pem", crate::tls::parse_pem(pem))?;
        self.renew_tls(|tls| tls.trust(more));
        Ok(self)
    }

    /// The client certificate, in PEM, followed by those that lead to its authority. It is shown if the server asks
    /// for one. With [`Credentials::external`] it also logs in.
    ///
    /// # Errors
    /// The text does not contain a certificate or a private key, or is not PEM. Whether the two belong together is
    /// checked when a session is opened.
    #[cfg(feature = "rustls")]
    pub fn client_certificate_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let identity = crate::tls::Identity::parse_pem(chain, key);
        let identity = local("client_certificate_pem", identity)?;
        self.renew_tls(|tls| tls.identify(identity));
        Ok(self)
    }

    /// How long to wait for a connection, over all addresses of the server together; 30 seconds by default. The clock
    /// starts after the name is resolved, because the system has its own timeout for that.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.min(FOREVER);
        self
    }

    /// How long to wait for each reply.
    #[must_use]
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// Uses LMTP (RFC 2033) instead of SMTP.
    #[must_use]
    pub fn lmtp(mut self) -> Self {
        self.config.protocol = Protocol::Lmtp;
        self
    }

    /// The name for EHLO. By default it is the host's name, if it has a dot, and labels of letters, digits and inner
    /// hyphens. Servers refuse other names, such as `shop_1.shop_internal`. Otherwise the default is the address
    /// literal of the local end.
    #[must_use]
    pub fn client_name(mut self, name: ClientName) -> Self {
        self.client_name = Some(name);
        self
    }

    /// Connects from this local address, and only to addresses of its family. Call it again for the other family.
    #[must_use]
    pub fn bind(mut self, local: IpAddr) -> Self {
        match local {
            IpAddr::V4(local) => self.local_v4 = Some(local),
            IpAddr::V6(local) => self.local_v6 = Some(local),
        }
        self
    }

    /// After an opportunistic handshake has failed, connects again without TLS, as mail servers do. It never does
    /// with credentials, or if the certificate was refused.
    #[must_use]
    pub fn retry_in_clear(mut self, yes: bool) -> Self {
        self.retry_in_clear = yes;
        self
    }

    /// Uses these settings of rustls, with the application's own verifier, provider and client certificates.
    ///
    /// The verifier in it decides, under every policy: a server that it refuses ends the session. So it cannot be
    /// combined with [`verify(false)`](Self::verify), [`trust_pem`](Self::trust_pem) or
    /// [`client_certificate_pem`](Self::client_certificate_pem). Opening a session is then an error.
    ///
    /// The server counts as verified, because the application verifies it. SCRAM-PLUS does not bind to a TLS 1.2
    /// connection then.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn rustls_config(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.renew_tls(|tls| tls.replace(config));
        self
    }

    /// Sends the next envelope in one batch with the end of the data before it. A message of a bulk delivery then
    /// costs one round trip instead of two. Use it only for a server that is known to take it.
    /// [`Config::overlap`](smtp_proto::Config::overlap) tells what other servers do.
    #[must_use]
    pub fn overlap(mut self, yes: bool) -> Self {
        self.config.overlap = yes;
        self
    }

    /// When a body goes out by BDAT (RFC 3030) instead of DATA. By default, if it is offered.
    #[must_use]
    pub fn chunking(mut self, chunking: Chunking) -> Self {
        self.config.chunking = chunking;
        self
    }

    /// The most octets of one chunk, if the size of a message is not known in advance; 65,536 by default. The adapter
    /// gathers that many before it sends a chunk.
    #[must_use]
    pub fn chunk_size(mut self, octets: usize) -> Self {
        self.config.chunk_size = octets;
        self
    }

    /// Learns in a bulk delivery how many recipients one transaction takes, if the server refuses further ones (452,
    /// or 4.5.3 and the like). The next transaction then has the rest. False by default.
    #[must_use]
    pub fn learn_limits(mut self, yes: bool) -> Self {
        self.config.learn_limits = yes;
        self
    }

    /// `false` sends one command at a time, even if PIPELINING is offered.
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

    /// How much memory a server may use up.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Calls `observer` for each step of the conversation, without credentials and bodies. An [`Observation`] has the
    /// step, the number of the session, and the other end.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Observation<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Records each session as text, so that it can be replayed through the engine, without the server. `open` gets the
    /// number of the session, and opens the record. A second call replaces the first one.
    ///
    /// A record has the settings, the envelopes, each command and each reply, the times in microseconds, and the result of
    /// each message. Attach it to a bug report.
    ///
    /// A record has no password, token or user name. Each octet of a body becomes `x`, except line ends, a dot at the start
    /// of a line, and NUL. Octets above 127 become `\xe9`. But a record has the addresses, and all replies. Look at it before
    /// you publish it.
    ///
    /// Recording costs time and memory: also for one more chunk. If `open` fails, the session fails. If a write fails, the record ends there, and
    /// the session goes on.
    ///
    /// ```no_run
    /// use std::fs::File;
    /// use smtp_adapter::Server;
    ///
    /// let server = Server::new("mx.example.net").record(|session| File::create(format!("session-{session}.txt")));
    /// ```
    #[must_use]
    pub fn record<W: io::Write + Send + 'static>(
        mut self,
        open: impl Fn(u64) -> io::Result<W> + Send + Sync + 'static,
    ) -> Self {
        self.recorder = Some(Recorder::new(open));
        self
    }

    /// Records the octets of bodies, if `true`, where sessions are [recorded](Self::record).
    #[must_use]
    pub fn record_bodies(mut self, yes: bool) -> Self {
        self.records_bodies = yes;
        self
    }

    /// A fixed nonce for SCRAM instead of a random one, for tests only. SCRAM is not safe if the nonce is known, or
    /// used twice.
    #[doc(hidden)]
    #[must_use]
    pub fn fixed_nonce(mut self, octets: Option<[u8; 18]>) -> Self {
        self.fixed_nonce = octets;
        self
    }
}

#[cfg(feature = "rustls")]
impl Server {
    /// Changes the TLS settings. The settings built from the earlier ones are not used any more.
    fn renew_tls(&mut self, change: impl FnOnce(&mut crate::tls::SharedTls)) {
        let mut tls = self.tls_shared.renewed();
        change(&mut tls);
        self.tls_shared = Arc::new(tls);
    }
}

#[cfg(feature = "rustls")]
fn local<T>(setter: &str, result: Result<T, String>) -> Result<T, Error> {
    result.map_err(|error| {
        Error::local(smtp_proto::Cause::Settings(
            format!("{setter}: {error}").into(),
        ))
    })
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Text that is not a server's name may be a URL with a password.
        let name = split_server(&self.name).map(|_| &*self.name);
        f.debug_struct("Server")
            .field("name", &name.unwrap_or_default())
            .field("server_name", &self.server_name)
            .field("tls", &self.tls)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
