//! How to reach a server, and on which terms: plain data, the same for both adapters.

use std::fmt;
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
use crate::to_server::ToServer;

/// How to reach a server, and the terms of the sessions with it. `Session::connect` opens one.
///
/// The defaults: port 25 (465 for implicit TLS, 24 for LMTP), the system's choice of local address, the
/// host's name in EHLO, opportunistic TLS (required with credentials), no credentials, PIPELINING
/// where it is offered, 30 seconds to connect and the timeouts of RFC 5321 from there on.
///
/// Keep it, and open each session with it: the settings of TLS are made once, and sessions resume.
///
/// ```
/// use smtp_adapter::Server;
/// use smtp_adapter::smtp_proto::{Credentials, TlsPolicy};
///
/// // Submission: the password goes to smtp.example.org, inside TLS, or nowhere.
/// let submission = Server::new("smtp.example.org:465").credentials(Credentials::password("alice", "s3cret"));
///
/// // A mail exchanger: encrypted where it can be, and delivered where it cannot.
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
    /// The Unix socket to connect to, instead.
    #[cfg(unix)]
    pub(crate) unix: Option<PathBuf>,
    pub(crate) local_v4: Option<Ipv4Addr>,
    pub(crate) local_v6: Option<Ipv6Addr>,
    pub(crate) connect_timeout: Duration,
    pub(crate) retry_in_clear: bool,
    /// The name to check.
    pub(crate) server_name: Option<String>,
    /// When to encrypt, where the caller has said so.
    pub(crate) tls: Option<TlsPolicy>,
    /// A server that is not verified may be accepted, whatever the policy.
    pub(crate) accept_any: bool,
    #[cfg(feature = "rustls")]
    pub(crate) tls_shared: Arc<crate::tls::SharedTls>,
    /// For tests, instead of a random one.
    pub(crate) fixed_nonce: Option<[u8; 18]>,
    pub(crate) observer: Option<Observer>,
    /// For EHLO.
    pub(crate) client_name: Option<ClientName>,
    /// The rest of the engine's configuration, under a name that is replaced when it is known.
    pub(crate) config: Config,
}

impl Server {
    /// For this server: a host name or an IP address, with `:port` or without (`mx.example.net`,
    /// `192.0.2.1:2525`, `[2001:db8::1]:25`); a [`SocketAddr`](std::net::SocketAddr); or a host and a port. A host name
    /// is resolved when a session is opened.
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

    /// For the server that is written so.
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
            client_name: None,
            config: Config::new(placeholder),
        }
    }

    /// For the server behind this Unix socket, usually with [`lmtp`](Self::lmtp).
    #[cfg(unix)]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        let mut server = Self::named(String::new());
        server.unix = Some(path.into());
        server
    }

    /// Connects from this local address. Call it once more for the other family: without, only the addresses of
    /// this family are connected to.
    #[must_use]
    pub fn bind(mut self, local: IpAddr) -> Self {
        match local {
            IpAddr::V4(local) => self.local_v4 = Some(local),
            IpAddr::V6(local) => self.local_v6 = Some(local),
        }
        self
    }

    /// The name for EHLO. By default it is the host's name, where that has a dot and each label consists of
    /// letters, digits and inner hyphens. Servers refuse other names, such as `shop_1.shop_internal`. For a
    /// host with such a name it is the address literal of the local end.
    #[must_use]
    pub fn client_name(mut self, name: ClientName) -> Self {
        self.client_name = Some(name);
        self
    }

    /// When to encrypt. Where this is not said, it is from the first octet on port 465; where the server offers
    /// it for credentials with [`permit_in_clear`](smtp_proto::Credentials::permit_in_clear) and on a Unix socket;
    /// always, for other credentials; and else where the server offers it.
    ///
    /// [`Required`](smtp_proto::TlsPolicy::Required) and [`Implicit`](smtp_proto::TlsPolicy::Implicit) verify the
    /// server: its certificate must be trusted, and for the name that was connected to or
    /// [`server_name`](Self::server_name). Where none of the three was chosen, credentials with
    /// [`permit_unverified`](smtp_proto::Credentials::permit_unverified) do without.
    #[must_use]
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = Some(policy);
        self
    }

    /// Accepts any server, if `false`, whatever the policy: the session is encrypted, and somebody in between
    /// may read it. Credentials are not sent to such a server, unless
    /// [`permit_unverified`](smtp_proto::Credentials::permit_unverified) permits that as well.
    #[must_use]
    pub fn verify(mut self, yes: bool) -> Self {
        self.accept_any = !yes;
        self
    }

    /// The name that the server's certificate must be for, whatever the policy, instead of the one that is
    /// connected to. Under [`Opportunistic`](smtp_proto::TlsPolicy::Opportunistic) and without it, a server that is
    /// not verified ends nothing, as between mail servers.
    #[must_use]
    pub fn server_name(mut self, name: impl AsRef<str>) -> Self {
        self.server_name = Some(name.as_ref().into());
        #[cfg(feature = "rustls")]
        self.renew_tls(|_| {});
        self
    }

    /// Trusts these certificates, in PEM, beside the system's: as authorities, and as a server's own. A server
    /// that shows one of them needs no authority, but its name and its dates count.
    ///
    /// # Errors
    /// Text without a certificate, or that is not PEM.
    #[cfg(feature = "rustls")]
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        let more = local("trust_pem", crate::tls::parse_pem(pem))?;
        self.renew_tls(|tls| tls.trust(more));
        Ok(self)
    }

    /// Shows the server this certificate, in PEM with those that lead to its authority, where it asks for
    /// one. With [`Credentials::external`] it is also how to log in.
    ///
    /// # Errors
    /// Text without a certificate or a private key, or that is not PEM. Whether the two belong together is
    /// found out when connecting.
    #[cfg(feature = "rustls")]
    pub fn client_certificate_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let identity = crate::tls::Identity::parse_pem(chain, key);
        let identity = local("client_certificate_pem", identity)?;
        self.renew_tls(|tls| tls.identify(identity));
        Ok(self)
    }

    /// Uses these settings of rustls, with the application's own verifier, provider and client certificates.
    ///
    /// Its verifier decides, under every policy: a server that it refuses ends the session. So a server that has
    /// these settings takes no [`verify(false)`](Self::verify), [`trust_pem`](Self::trust_pem) or
    /// [`client_certificate_pem`](Self::client_certificate_pem): a session ends with an error that says so.
    ///
    /// The server counts as verified, because it is the application that verifies it. A SCRAM-PLUS mechanism is not
    /// bound to a TLS 1.2 connection then.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn rustls_config(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.renew_tls(|tls| tls.replace(config));
        self
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

    /// The nonce of SCRAM instead of a random one. For tests alone: where it is known, or used again,
    /// SCRAM is not safe.
    #[doc(hidden)]
    #[must_use]
    pub fn fixed_nonce(mut self, octets: Option<[u8; 18]>) -> Self {
        self.fixed_nonce = octets;
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

    /// Sends the next envelope in one batch with the end of the data before it: one round trip for
    /// each message of a bulk delivery instead of two. Only for a server that is known to take it;
    /// what happens with one that does not is told at
    /// [`Config::overlap`](smtp_proto::Config::overlap).
    #[must_use]
    pub fn overlap(mut self, yes: bool) -> Self {
        self.config.overlap = yes;
        self
    }

    /// When a body goes out by BDAT (RFC 3030) instead of DATA; where it is offered, by default.
    #[must_use]
    pub fn chunking(mut self, chunking: Chunking) -> Self {
        self.config.chunking = chunking;
        self
    }

    /// The most octets of one chunk, where the size of a message is not known in advance; 65,536 by
    /// default. So many are gathered before they are sent.
    #[must_use]
    pub fn chunk_size(mut self, octets: usize) -> Self {
        self.config.chunk_size = octets;
        self
    }

    /// In a bulk delivery, takes a refusal of further recipients of a message (452, or 4.5.3 and the like)
    /// for the number of recipients that the server takes in one transaction, and sends the message to the
    /// rest in the next one. False by default.
    #[must_use]
    pub fn learn_limits(mut self, yes: bool) -> Self {
        self.config.learn_limits = yes;
        self
    }

    /// What may stand in a body.
    #[must_use]
    pub fn body_policy(mut self, policy: BodyPolicy) -> Self {
        self.config.body = policy;
        self
    }

    /// How long to wait for the TCP connection, all addresses of the server together, or for that to a Unix socket;
    /// 30 seconds by default. The clock starts when the name is resolved: name resolution is the system's and
    /// keeps its own time.
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

    /// How much a server may make us keep.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Calls `observer` for each step of the conversation, without credentials and bodies. An [`Observation`] has the
    /// step, the number of the session, and where the other end is.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Observation<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }
}

#[cfg(feature = "rustls")]
impl Server {
    /// Changes the settings of TLS. What was made of the earlier ones is not used any more.
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
        // What is not a server's name may be a URL, with a password in it.
        let name = split_server(&self.name).map(|_| &*self.name);
        f.debug_struct("Server")
            .field("name", &name.unwrap_or_default())
            .field("server_name", &self.server_name)
            .field("tls", &self.tls)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
