//! The terms of one session: the address to connect to, the settings, and whether to encrypt. Nothing here does I/O.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smtp_proto::{
    Cause, Channel, Config, Outcome, Protocol, Stage, TlsFacts, TlsPolicy, auth::Nonce,
};

use crate::error::Error;
use crate::names::{default_client_name, split_server, to_ascii};
use crate::observe::{Peer, Watch, Watchers, next_number};
use crate::server::Server;

/// Steps of the conversation that may wait to be recorded.
const RECORDED_STEPS: usize = 16 * 1024;

/// The view of a [`Server`] for an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    server: &'a Server,
    /// This adapter is built with TLS. Another one in the same program may not be.
    has_tls: bool,
    /// This is the second attempt, without TLS.
    in_clear: bool,
    /// Many callers share the session, one after the other.
    is_shared: bool,
}

/// Everything that one session needs, once its stream is connected.
#[derive(Debug)]
pub struct SessionTerms {
    /// The engine's configuration.
    pub config: Config,
    /// For SCRAM.
    pub nonce: Option<Nonce>,
    /// The number of the session in this process.
    pub number: u64,
    /// The observers of the session, if any.
    pub watch: Option<Box<Watch>>,
    /// The settings for the handshake, unless TLS is not used.
    #[cfg(feature = "rustls")]
    pub tls: Option<crate::tls::TlsSettings>,
}

impl<'a> Terms<'a> {
    /// The terms of sessions with this server, for an adapter that is built with TLS or without.
    pub fn new(server: &'a Server, has_tls: bool) -> Self {
        Self {
            server,
            has_tls,
            in_clear: false,
            is_shared: false,
        }
    }

    /// The same for a session that many callers share, one after the other. It does not belong to the span of one of
    /// them.
    #[must_use]
    pub fn shared(self) -> Self {
        Self {
            is_shared: true,
            ..self
        }
    }

    /// The Unix socket to connect to.
    #[cfg(unix)]
    pub fn unix(&self) -> Option<&'a std::path::Path> {
        self.server.unix.as_deref()
    }

    /// How long connecting may take, all addresses together.
    pub fn connect_timeout(&self) -> Duration {
        self.server.connect_timeout
    }

    /// The host and the port to connect to.
    pub fn host_and_port(&self) -> Result<(Cow<'a, str>, u16), Error> {
        let (host, port) = split_server(&self.server.name).map_err(local)?;
        let lmtp = self.server.config.protocol == Protocol::Lmtp;
        let port = port.unwrap_or(match self.policy(&Channel::Network) {
            _ if lmtp => 24,
            TlsPolicy::Implicit => 465,
            _ => 25,
        });
        if lmtp && port == 25 {
            return Err(local(
                "LMTP must not be used on port 25 (RFC 2033 section 5)".into(),
            ));
        }
        let host = to_ascii(host).map_err(|why| local(format!("invalid server: {why}")))?;
        Ok((host, port))
    }

    /// The host to connect to. Empty if the server's name is not valid.
    #[cfg(feature = "rustls")]
    fn host(&self) -> &'a str {
        split_server(&self.server.name).map_or("", |(host, _)| host)
    }

    /// Whether the chosen local addresses can reach this address.
    pub fn suits(&self, address: SocketAddr) -> bool {
        let is_any = self.server.local_v4.is_none() && self.server.local_v6.is_none();
        is_any || self.local_for(address).is_some()
    }

    /// The local address from which to connect to this one.
    pub fn local_for(&self, address: SocketAddr) -> Option<IpAddr> {
        match address {
            SocketAddr::V4(_) => self.server.local_v4.map(IpAddr::V4),
            SocketAddr::V6(_) => self.server.local_v6.map(IpAddr::V6),
        }
    }

    /// When to encrypt: the caller's policy, or the default for the other settings.
    fn policy(&self, channel: &Channel) -> TlsPolicy {
        let server = self.server;
        let port = split_server(&server.name).ok().and_then(|(_, port)| port);
        match (server.tls, &server.config.credentials) {
            _ if self.in_clear => TlsPolicy::Never,
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
        let server = self.server;
        // If the policy follows from the credentials, they also decide who gets them.
        let chosen = server.tls.is_some() || server.server_name.is_some();
        let permitted = server
            .config
            .credentials
            .as_ref()
            .is_some_and(|credentials| credentials.permits_unverified());
        let strict = policy != TlsPolicy::Opportunistic || server.server_name.is_some();
        !server.accept_any && strict && (chosen || !permitted)
    }

    /// Checks that the application's own TLS settings are not combined with ours.
    #[cfg(feature = "rustls")]
    fn check_own_tls(&self) -> Result<(), Error> {
        let setter = match self.server.tls_shared.set_beside_own() {
            Some(setter) => setter,
            None if self.server.tls_shared.is_own() && self.server.accept_any => "verify(false)",
            None => return Ok(()),
        };
        Err(local(format!(
            "{setter} does not go with rustls_config; change the settings that are given there"
        )))
    }

    /// Whether sessions will be encrypted. If so, building the TLS settings in advance pays off.
    #[cfg(feature = "rustls")]
    pub fn may_encrypt(&self) -> bool {
        self.has_tls && self.policy(&Channel::Network) != TlsPolicy::Never
    }

    /// Reads what the TLS settings need from the disk, once for all sessions. Do not call it on an async thread.
    #[cfg(feature = "rustls")]
    pub fn preparation(&self) -> Option<impl FnOnce() + Send + use<>> {
        let tls = self.server.tls_shared.clone();
        (self.may_encrypt() && !tls.is_prepared()).then_some(move || tls.prepare())
    }

    /// The error if the Unix socket could not be connected to.
    pub fn no_socket(path: &std::path::Path, error: std::io::Error) -> Error {
        Error::connect(
            format!("no connection to {}: {error}", path.display()),
            Some(error),
        )
    }

    /// Whether a session logs in.
    pub fn logs_in(&self) -> bool {
        self.server.config.credentials.is_some()
    }

    /// Whether a stream that is already encrypted suits the policy. Only these facts are known of its server.
    fn check_facts(&self, facts: &TlsFacts) -> Result<(), Error> {
        let policy = self.policy(&Channel::Network);
        let demanded = self.server.tls.is_some() && policy != TlsPolicy::Opportunistic
            || self.server.server_name.is_some();
        if facts.verified || !demanded || policy == TlsPolicy::Never || self.server.accept_any {
            return Ok(());
        }
        let why = facts.problem.as_deref();
        let why = why.unwrap_or("the facts about the encrypted stream do not say that it is");
        let cause = Cause::TlsUntrusted(why.into());
        Err(Error::new(smtp_proto::Error::new(
            Stage::Connect,
            Outcome::Permanent,
            cause,
        )))
    }

    /// The terms for another attempt without TLS, if this error permits it.
    pub fn in_clear(&self, error: &Error) -> Option<Self> {
        let retry = self.server.retry_in_clear
            && self.policy(&Channel::Network) == TlsPolicy::Opportunistic
            && self.server.config.credentials.is_none()
            && error.stage() == Stage::StartTls
            && matches!(
                error.cause(),
                Cause::TlsFailed(_)
                    | Cause::TlsMisconfigured(_)
                    | Cause::Transport(_)
                    | Cause::Disconnected
                    | Cause::TimedOut(_)
            );
        retry.then_some(Self {
            in_clear: true,
            ..*self
        })
    }

    /// Whether to try another address of the host after this error: the server did not greet us, or not with success
    /// (RFC 5321 section 5.1). A failure of implicit TLS counts too, because it comes before the greeting. A refused
    /// certificate does not count.
    pub fn leads_to_next_address(&self, error: &Error) -> bool {
        // `Connect` is also the stage of implicit TLS.
        matches!(error.stage(), Stage::Greeting | Stage::Connect)
            && matches!(
                error.cause(),
                Cause::Rejected(_)
                    | Cause::Disconnected
                    | Cause::Transport(_)
                    | Cause::TimedOut(_)
                    | Cause::TlsFailed(_)
            )
    }

    /// The terms of a session on a stream of this kind, between these two ends. The peer is only used by observers.
    pub fn session(
        &self,
        channel: Channel,
        local_end: Option<IpAddr>,
        peer: impl FnOnce() -> Peer,
    ) -> Result<SessionTerms, Error> {
        let mut config = self.server.config.clone();
        config.tls = self.encryption(&channel)?;
        config.channel = channel;
        config.client_name = match &self.server.client_name {
            Some(name) => name.clone(),
            None => default_client_name(&gethostname::gethostname().to_string_lossy(), local_end),
        };
        let number = next_number();
        let nonce = self.nonce()?;
        let watchers = Watchers {
            observer: self.server.observer.as_ref(),
            recorder: self.server.recorder.as_ref(),
            records_bodies: self.server.records_bodies,
            has_nonce: nonce.is_some(),
        };
        let watch = Watch::begin(number, &config, self.is_shared, watchers, peer)
            .map_err(|error| local(format!("the record of the session: {error}")))?;
        config.trace = watch.as_deref().is_some_and(Watch::wants_steps);
        if watchers.recorder.is_some() {
            // A record misses nothing: one read or one write gives fewer steps than this. One reply lets go as many
            // commands as may be in flight.
            let steps = RECORDED_STEPS.saturating_add(config.limits.in_flight / "RSET\r\n".len());
            config.limits.traces = config.limits.traces.max(steps);
        }
        Ok(SessionTerms {
            nonce,
            number,
            watch,
            #[cfg(feature = "rustls")]
            tls: match config.tls {
                TlsPolicy::Never => None,
                policy => {
                    self.check_own_tls()?;
                    let settings = self.server.tls_shared.settings(
                        self.server.server_name.as_deref(),
                        self.host(),
                        self.must_verify(policy),
                        policy == TlsPolicy::Implicit,
                    );
                    Some(settings.map_err(local)?)
                }
            },
            config,
        })
    }

    /// The policy, or an error if this adapter cannot keep it.
    fn encryption(&self, channel: &Channel) -> Result<TlsPolicy, Error> {
        // The stream is already encrypted.
        if let Channel::Tls(facts) = channel {
            return self.check_facts(facts).map(|()| TlsPolicy::Never);
        }
        let policy = self.policy(channel);
        if self.has_tls || policy == TlsPolicy::Never {
            return Ok(policy);
        }
        if policy != TlsPolicy::Opportunistic {
            return Err(local(
                "TLS is required, and this is built without it (feature rustls)".into(),
            ));
        }
        // The clear text is not the caller's choice, so fewer mechanisms may run.
        let credentials = self.server.config.credentials.as_ref();
        let withheld = credentials.is_some_and(|credentials| !credentials.permits_clear());
        match withheld && *channel == Channel::Network {
            true => Err(Error::local(Cause::CredentialsInClear)),
            false => Ok(TlsPolicy::Never),
        }
    }

    #[cfg(not(feature = "scram"))]
    fn nonce(&self) -> Result<Option<Nonce>, Error> {
        Ok(None)
    }

    /// A new nonce for each session that may need one.
    #[cfg(feature = "scram")]
    fn nonce(&self) -> Result<Option<Nonce>, Error> {
        if self.server.config.credentials.is_none() {
            return Ok(None);
        }
        let octets = match self.server.fixed_nonce {
            Some(octets) => octets,
            None => {
                let mut octets = [0; 18];
                getrandom::fill(&mut octets)
                    .map_err(|error| local(format!("no random numbers for AUTH: {error}")))?;
                octets
            }
        };
        Ok(Some(Nonce::from_octets(octets)))
    }
}

fn local(message: String) -> Error {
    Error::local(Cause::Settings(message.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_ports() {
        let port = |server: &Server| {
            let port = Terms::new(server, true).host_and_port();
            port.map(|(_, port)| port).ok()
        };
        let server = Server::new("a");
        assert_eq!(port(&server), Some(25));
        let server = server.tls(TlsPolicy::Implicit);
        assert_eq!(port(&server), Some(465));
        let server = server.lmtp();
        assert_eq!(port(&server), Some(24));
        assert_eq!(port(&Server::new("a:25").lmtp()), None);
    }

    #[test]
    fn local_addresses_choose_families() {
        let (v4, v6) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([0; 16]));
        let local = |server: &Server, remote: IpAddr| {
            let (terms, remote) = (Terms::new(server, true), SocketAddr::new(remote, 25));
            terms.suits(remote).then(|| terms.local_for(remote))
        };
        let any = Server::new("a");
        assert_eq!((local(&any, v4), local(&any, v6)), (Some(None), Some(None)));
        let one = any.bind(v4);
        assert_eq!((local(&one, v4), local(&one, v6)), (Some(Some(v4)), None));
        let both = one.bind(v6);
        assert_eq!(
            (local(&both, v4), local(&both, v6)),
            (Some(Some(v4)), Some(Some(v6)))
        );
    }
}
