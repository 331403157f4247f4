//! The terms of a session, for the connectors of both adapters: what to reach, what to agree on, and whom
//! to trust. Nothing here does I/O, but for reading the system's trust store.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::{
    Cause, Channel, ClientName, Config, Protocol, Stage, TlsPolicy, auth::Nonce, event::Trace,
};

use crate::error::Error;
use crate::names::{default_client_name, split_server};

/// Is called for each line of the conversation.
pub type Observer = Arc<dyn Fn(&Trace) + Send + Sync>;

/// What a `Connector` holds.
#[derive(Clone)]
pub struct Terms {
    /// As the caller wrote it.
    pub server: String,
    /// The Unix socket to connect to, instead.
    pub unix: Option<std::path::PathBuf>,
    /// The address to bind.
    pub local_ip: Option<IpAddr>,
    /// For the TCP connection.
    pub connect_timeout: Duration,
    /// Whether to try again without TLS.
    pub retry_in_clear: bool,
    /// The name to check.
    pub server_name: Option<String>,
    /// When to encrypt, where the caller has said so.
    pub tls: Option<TlsPolicy>,
    /// A server that is not verified may be accepted, whatever the policy.
    pub accept_any: bool,
    /// Whom to trust.
    #[cfg(feature = "rustls")]
    pub trust: Arc<crate::tls::TrustStore>,
    /// The client's own certificate.
    #[cfg(feature = "rustls")]
    pub identity: Option<Arc<crate::tls::Identity>>,
    /// For tests, instead of a random one.
    pub fixed_nonce: Option<[u8; 18]>,
    /// For the conversation.
    pub observer: Option<Observer>,
    /// For EHLO.
    pub client_name: Option<ClientName>,
    /// The rest of the engine's configuration, under a name that is replaced when it is known.
    pub config: Config,
}

/// What one session needs, once its stream is connected.
#[derive(Debug)]
pub struct SessionTerms {
    /// The engine's configuration.
    pub config: Config,
    /// For SCRAM.
    pub nonce: Option<Nonce>,
    /// For the handshake, unless there is to be none.
    #[cfg(feature = "rustls")]
    pub tls: Option<crate::tls::TlsSettings>,
}

impl Terms {
    /// The defaults, for this server.
    pub fn new(server: &str) -> Self {
        let placeholder = ClientName::from(IpAddr::from([127, 0, 0, 1]));
        Self {
            server: server.into(),
            unix: None,
            local_ip: None,
            connect_timeout: Duration::from_secs(30),
            retry_in_clear: false,
            server_name: None,
            tls: None,
            accept_any: false,
            #[cfg(feature = "rustls")]
            trust: Arc::default(),
            #[cfg(feature = "rustls")]
            identity: None,
            fixed_nonce: None,
            observer: None,
            client_name: None,
            config: Config::new(placeholder),
        }
    }

    /// Adds trust anchors.
    #[cfg(feature = "rustls")]
    pub fn trust_pem(&mut self, pem: &[u8]) -> Result<(), Error> {
        let more =
            crate::tls::parse_pem(pem).map_err(|error| Error::local(Cause::Local(error.into())))?;
        self.trust = Arc::new(self.trust.with(more));
        Ok(())
    }

    /// Sets the client's own certificate.
    #[cfg(feature = "rustls")]
    pub fn identify_pem(&mut self, chain: &[u8], key: &[u8]) -> Result<(), Error> {
        let identity = crate::tls::Identity::parse_pem(chain, key);
        self.identity = Some(Arc::new(
            identity.map_err(|error| Error::local(Cause::Local(error.into())))?,
        ));
        Ok(())
    }

    /// The host to connect to; empty where the server's name is none.
    pub fn host(&self) -> &str {
        split_server(&self.server).map_or("", |(host, _)| host)
    }

    /// The host and the port to connect to.
    pub fn host_and_port(&self) -> Result<(&str, u16), Error> {
        let local = |message: String| Error::local(Cause::Local(message.into()));
        let (host, port) = split_server(&self.server).map_err(local)?;
        let lmtp = self.config.protocol == Protocol::Lmtp;
        let port = port.unwrap_or(match self.policy() {
            _ if lmtp => 24,
            TlsPolicy::Implicit => 465,
            _ => 25,
        });
        if lmtp && port == 25 {
            return Err(local(
                "LMTP must not be spoken on port 25 (RFC 2033 section 5)".into(),
            ));
        }
        Ok((host, port))
    }

    /// When to encrypt, over a network: as the caller has said, or as suits what is to be sent.
    pub fn policy(&self) -> TlsPolicy {
        self.policy_over(&Channel::Network)
    }

    fn policy_over(&self, channel: &Channel) -> TlsPolicy {
        let port = split_server(&self.server).ok().and_then(|(_, port)| port);
        match (self.tls, &self.config.credentials) {
            (Some(policy), _) => policy,
            (None, _) if port == Some(465) => TlsPolicy::Implicit,
            (None, Some(credentials))
                if *channel == Channel::Network && !credentials.permits_clear() =>
            {
                TlsPolicy::Required
            }
            (None, _) => TlsPolicy::Opportunistic,
        }
    }

    /// Whether a server that is not verified ends the handshake.
    #[cfg(feature = "rustls")]
    fn must_verify(&self, policy: TlsPolicy) -> bool {
        // Where it is the credentials that make the policy, they also say whom they would go to.
        let chosen = self.tls.is_some() || self.server_name.is_some();
        let permitted = self
            .config
            .credentials
            .as_ref()
            .is_some_and(|credentials| credentials.permits_unverified());
        let strict = policy != TlsPolicy::Opportunistic || self.server_name.is_some();
        !self.accept_any && strict && (chosen || !permitted)
    }

    /// Whether this address can be reached from the local address that was chosen.
    pub fn suits(&self, address: SocketAddr) -> bool {
        self.local_ip
            .is_none_or(|local| local.is_ipv4() == address.is_ipv4())
    }

    /// What to say when the Unix socket could not be connected to.
    pub fn no_socket(path: &std::path::Path, error: std::io::Error) -> Error {
        Error::connect(
            format!("no connection to {}: {error}", path.display()),
            Some(error),
        )
    }

    /// The terms under which to try once more, where the first try failed with this error.
    pub fn in_clear(&self, error: &Error) -> Option<Self> {
        let retry = self.retry_in_clear
            && self.policy() == TlsPolicy::Opportunistic
            && self.config.credentials.is_none()
            && error.stage() == Stage::StartTls
            && matches!(
                error.cause(),
                Cause::TlsFailed(_) | Cause::Disconnected | Cause::TimedOut(_)
            );
        retry.then(|| {
            let mut terms = self.clone();
            terms.tls = Some(TlsPolicy::Never);
            terms
        })
    }

    #[cfg(not(feature = "scram"))]
    fn nonce(&self) -> Result<Option<Nonce>, Error> {
        Ok(None)
    }

    /// A new one for each session, where it may be needed.
    #[cfg(feature = "scram")]
    fn nonce(&self) -> Result<Option<Nonce>, Error> {
        if self.config.credentials.is_none() {
            return Ok(None);
        }
        let octets = match self.fixed_nonce {
            Some(octets) => octets,
            None => {
                let mut octets = [0; 18];
                getrandom::fill(&mut octets).map_err(|error| {
                    let cause = format!("no random numbers for AUTH: {error}");
                    Error::local(Cause::Local(cause.into()))
                })?;
                octets
            }
        };
        Ok(Some(Nonce::from_octets(octets)))
    }

    /// What the session needs, on a stream of this kind whose local end is `local`.
    pub fn session(&self, channel: Channel, local: Option<IpAddr>) -> Result<SessionTerms, Error> {
        let mut config = self.config.clone();
        config.tls = self.policy_over(&channel);
        config.channel = channel;
        config.client_name = match &self.client_name {
            Some(name) => name.clone(),
            None => default_client_name(&gethostname::gethostname().to_string_lossy(), local),
        };
        let nonce = self.nonce()?;
        #[cfg(feature = "rustls")]
        let tls = match config.tls {
            TlsPolicy::Never => None,
            policy => {
                let settings = crate::tls::settings(
                    self.server_name.as_deref(),
                    self.host(),
                    self.must_verify(policy),
                    &self.trust,
                    self.identity.as_deref(),
                );
                Some(settings.map_err(|error| Error::local(Cause::Local(error.into())))?)
            }
        };
        #[cfg(not(feature = "rustls"))]
        match config.tls {
            // Not by choice, so that the credentials may not go where they might after a choice.
            TlsPolicy::Opportunistic
                if config.channel == Channel::Network
                    && config
                        .credentials
                        .as_ref()
                        .is_some_and(|credentials| !credentials.permits_clear()) =>
            {
                return Err(Error::local(Cause::CredentialsInClear));
            }
            TlsPolicy::Opportunistic => config.tls = TlsPolicy::Never,
            TlsPolicy::Never => {}
            _ => {
                return Err(Error::local(Cause::Local(
                    "TLS is required, and this is built without it".into(),
                )));
            }
        }
        Ok(SessionTerms {
            config,
            nonce,
            #[cfg(feature = "rustls")]
            tls,
        })
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("server", &self.server)
            .field("local_ip", &self.local_ip)
            .field("server_name", &self.server_name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The builder methods of a `Connector { terms: Terms }`, which are the same in both adapters.
#[doc(hidden)]
#[macro_export]
macro_rules! connector_methods {
    () => {
        /// For this server: a host name or an IP address, with `:port` or without (`mx.example.net`,
        /// `192.0.2.1:2525`, `[2001:db8::1]:25`). It is resolved by `connect`.
        pub fn new(server: &str) -> Self {
            Self {
                terms: $crate::Terms::new(server),
            }
        }

        /// For the server behind this Unix socket, usually with [`lmtp`](Self::lmtp).
        #[cfg(unix)]
        pub fn unix(path: impl Into<::std::path::PathBuf>) -> Self {
            let mut connector = Self::new("");
            connector.terms.unix = Some(path.into());
            connector
        }

        /// Connects from this local address.
        #[must_use]
        pub fn bind(mut self, local: ::std::net::IpAddr) -> Self {
            self.terms.local_ip = Some(local);
            self
        }

        /// The name for EHLO. By default it is the host's name, where that has a dot and each label consists of
        /// letters, digits and inner hyphens. Servers refuse other names, such as `shop_1.shop_internal`. For a
        /// host with such a name it is the address literal of the local end.
        #[must_use]
        pub fn client_name(mut self, name: $crate::smtp_proto::ClientName) -> Self {
            self.terms.client_name = Some(name);
            self
        }

        /// When to encrypt. Where this is not said, it is from the first octet on port 465; where the server offers
        /// it for credentials with [`permit_in_clear`](crate::Credentials::permit_in_clear) and on a Unix socket;
        /// always, for other credentials; and else where the server offers it.
        ///
        /// [`Required`](crate::TlsPolicy::Required) and [`Implicit`](crate::TlsPolicy::Implicit) verify the
        /// server: its certificate must be trusted, and for the name that was connected to or
        /// [`server_name`](Self::server_name). Where none of the three was chosen, credentials with
        /// [`permit_unverified`](crate::Credentials::permit_unverified) do without.
        #[must_use]
        pub fn tls(mut self, policy: $crate::smtp_proto::TlsPolicy) -> Self {
            self.terms.tls = Some(policy);
            self
        }

        /// Accepts any server, if `false`, whatever the policy: the session is encrypted, and somebody in between
        /// may read it. Credentials are not sent to such a server, unless
        /// [`permit_unverified`](crate::Credentials::permit_unverified) permits that as well.
        #[must_use]
        pub fn verify(mut self, yes: bool) -> Self {
            self.terms.accept_any = !yes;
            self
        }

        /// The name that the server's certificate must be for, whatever the policy, instead of the one that is
        /// connected to. Under [`Opportunistic`](crate::TlsPolicy::Opportunistic) and without it, a server that is
        /// not verified ends nothing, as between mail servers.
        #[must_use]
        pub fn server_name(mut self, name: &str) -> Self {
            self.terms.server_name = Some(name.into());
            self
        }

        /// Trusts these certificates, in PEM, beside the system's: as authorities, and as a server's own. A server
        /// that shows one of them needs no authority, but its name and its dates count.
        ///
        /// # Errors
        /// Text without a certificate, or that is no PEM.
        #[cfg(feature = "rustls")]
        pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, $crate::Error> {
            self.terms.trust_pem(pem)?;
            Ok(self)
        }

        /// Shows the server this certificate, in PEM with those that lead to its authority, where it asks for
        /// one. With [`Credentials::external`](crate::Credentials::external) it is also how to log in.
        ///
        /// # Errors
        /// Text without a certificate or a private key, or that is no PEM. Whether the two belong together is
        /// found out when connecting.
        #[cfg(feature = "rustls")]
        pub fn client_certificate_pem(
            mut self,
            chain: &[u8],
            key: &[u8],
        ) -> Result<Self, $crate::Error> {
            self.terms.identify_pem(chain, key)?;
            Ok(self)
        }

        /// When an opportunistic handshake has failed, connects once more and stays in the clear, as mail
        /// transfer agents do. Never with credentials, and never where the certificate was refused.
        #[must_use]
        pub fn retry_in_clear(mut self, yes: bool) -> Self {
            self.terms.retry_in_clear = yes;
            self
        }

        /// Logs in.
        #[must_use]
        pub fn credentials(
            mut self,
            credentials: impl Into<Option<$crate::smtp_proto::Credentials>>,
        ) -> Self {
            self.terms.config.credentials = credentials.into();
            self
        }

        /// The nonce of SCRAM instead of a random one. For tests alone: where it is known, or used again,
        /// SCRAM is not safe.
        #[doc(hidden)]
        #[must_use]
        pub fn fixed_nonce(mut self, octets: Option<[u8; 18]>) -> Self {
            self.terms.fixed_nonce = octets;
            self
        }

        /// Speaks LMTP (RFC 2033) instead of SMTP.
        #[must_use]
        pub fn lmtp(mut self) -> Self {
            self.terms.config.protocol = $crate::smtp_proto::Protocol::Lmtp;
            self
        }

        /// Sends one command at a time even where PIPELINING is offered, if `false`.
        #[must_use]
        pub fn pipelining(mut self, yes: bool) -> Self {
            self.terms.config.pipelining = yes;
            self
        }

        /// Sends the next envelope in one batch with the end of the data before it: one round trip for
        /// each message of a bulk delivery instead of two. Only for a server that is known to take it;
        /// what happens with one that does not is told at
        /// [`Config::overlap`](crate::smtp_proto::Config::overlap).
        #[must_use]
        pub fn overlap(mut self, yes: bool) -> Self {
            self.terms.config.overlap = yes;
            self
        }

        /// When a body goes out by BDAT (RFC 3030) instead of DATA; where it is offered, by default.
        #[must_use]
        pub fn chunking(mut self, chunking: $crate::smtp_proto::Chunking) -> Self {
            self.terms.config.chunking = chunking;
            self
        }

        /// The most octets of one chunk, where the size of a message is not known in advance; 65,536 by
        /// default. So many are gathered before they are sent.
        #[must_use]
        pub fn chunk_size(mut self, octets: usize) -> Self {
            self.terms.config.chunk_size = octets;
            self
        }

        /// In a bulk delivery, takes a refusal of further recipients of a message (452, or 4.5.3 and the like)
        /// for the number of recipients that the server takes in one transaction, and sends the message to the
        /// rest in the next one. False by default.
        #[must_use]
        pub fn learn_limits(mut self, yes: bool) -> Self {
            self.terms.config.learn_limits = yes;
            self
        }

        /// What may stand in a body.
        #[must_use]
        pub fn body_policy(mut self, policy: $crate::smtp_proto::body::BodyPolicy) -> Self {
            self.terms.config.body = policy;
            self
        }

        /// How long to wait for the TCP connection, all addresses of the server together; 30 seconds by
        /// default. The clock starts when the name is resolved: name resolution is the system's and keeps its
        /// own time.
        #[must_use]
        pub fn connect_timeout(mut self, timeout: ::core::time::Duration) -> Self {
            self.terms.connect_timeout = timeout.min($crate::FOREVER);
            self
        }

        /// How long to wait for each reply.
        #[must_use]
        pub fn timeouts(mut self, timeouts: $crate::smtp_proto::Timeouts) -> Self {
            self.terms.config.timeouts = timeouts;
            self
        }

        /// How much a server may make us keep.
        #[must_use]
        pub fn limits(mut self, limits: $crate::smtp_proto::Limits) -> Self {
            self.terms.config.limits = limits;
            self
        }

        /// Calls `observer` for each line of the conversation, without credentials and bodies.
        #[must_use]
        pub fn observe(
            mut self,
            observer: impl Fn(&$crate::smtp_proto::event::Trace) + Send + Sync + 'static,
        ) -> Self {
            self.terms.observer = Some(::std::sync::Arc::new(observer));
            self.terms.config.trace = true;
            self
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_ports() {
        let port = |terms: &Terms| terms.host_and_port().map(|(_, port)| port).ok();
        let mut terms = Terms::new("a");
        assert_eq!(port(&terms), Some(25));
        terms.tls = Some(TlsPolicy::Implicit);
        assert_eq!(port(&terms), Some(465));
        terms.config.protocol = Protocol::Lmtp;
        assert_eq!(port(&terms), Some(24));
        terms.server = "a:25".into();
        assert_eq!(port(&terms), None);
    }
}
