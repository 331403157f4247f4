//! The parameters of a URL, after its `?`: their names, and what they set.

use std::net::IpAddr;
use std::time::Duration;

use fluent_uri::pct_enc::{EStr, Encoder};
use smtp_proto::{ClientName, Credentials, Timeouts, TlsPolicy};
use zeroize::Zeroizing;

use super::{Login, Problem, Scheme, decoded};
use crate::server::Server;

/// The settings that the parameters make.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) tls: Option<TlsPolicy>,
    server_name: Option<Zeroizing<String>>,
    verify: Option<bool>,
    client_name: Option<ClientName>,
    mechanisms: Option<Vec<&'static Mechanism>>,
    permit_in_clear: Option<bool>,
    permit_unverified: Option<bool>,
    retry_in_clear: Option<bool>,
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    local_address: Option<IpAddr>,
}

impl Settings {
    pub(super) fn read<E: Encoder>(&mut self, query: &EStr<E>) -> Result<(), Problem> {
        // The text before it may be a login, so it must not be shown.
        if query.as_str().contains('@') {
            return Err(
                "it has an @ after the ?; in a password, write ? as %3F, and elsewhere @ as %40"
                    .into(),
            );
        }
        for (index, pair) in query.split('&').enumerate() {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').ok_or(Problem::Parameter(
                index + 1,
                "has no value; write NAME=VALUE",
            ))?;
            self.set(index + 1, &decoded(name)?, decoded(value)?)?;
        }
        Ok(())
    }

    fn set(&mut self, number: usize, name: &str, value: Zeroizing<String>) -> Result<(), Problem> {
        match name {
            "tls" => once(&mut self.tls, "tls", tls_policy(&value)),
            "server-name" => once(
                &mut self.server_name,
                "server-name",
                match value.is_empty()
                    || value.contains(|c: char| c.is_whitespace() || "/@".contains(c))
                {
                    true => Err("write a host name or an IP address"),
                    false => Ok(value),
                },
            ),
            "verify" => once(&mut self.verify, "verify", yes_or_no(&value)),
            "ehlo" => once(
                &mut self.client_name,
                "ehlo",
                ClientName::parse(&value)
                    .map_err(|_| "write a domain, or an address in brackets, such as [192.0.2.1]"),
            ),
            "auth" => once(&mut self.mechanisms, "auth", mechanisms(&value)),
            "permit-in-clear" => once(
                &mut self.permit_in_clear,
                "permit-in-clear",
                yes_or_no(&value),
            ),
            "permit-unverified" => once(
                &mut self.permit_unverified,
                "permit-unverified",
                yes_or_no(&value),
            ),
            "retry-in-clear" => once(
                &mut self.retry_in_clear,
                "retry-in-clear",
                yes_or_no(&value),
            ),
            "timeout" => once(&mut self.timeout, "timeout", seconds(&value)),
            "connect-timeout" => once(
                &mut self.connect_timeout,
                "connect-timeout",
                seconds(&value),
            ),
            "local-address" => once(
                &mut self.local_address,
                "local-address",
                value.parse().map_err(|_| "write an IP address"),
            ),
            _ => Err(unknown(number, name)),
        }
    }

    /// How to log in, if at all.
    pub(super) fn credentials(&self, login: &Login) -> Result<Option<Credentials>, Problem> {
        let mechanisms = self.mechanisms.as_deref().unwrap_or_default();
        let kind = mechanisms
            .first()
            .map_or(Kind::Password, |first| first.kind);
        if mechanisms.iter().any(|mechanism| mechanism.kind != kind) {
            return Err(Problem::Value(
                "auth",
                "write mechanisms for a password, or mechanisms for a token, or EXTERNAL alone",
            ));
        }
        let credentials = match (kind, &login.user, &login.password) {
            (Kind::External, _, Some(_)) => {
                return Err(Problem::Value(
                    "auth",
                    "EXTERNAL does not take a password; write USER@ or nothing",
                ));
            }
            (Kind::External, user, None) => {
                let external = Credentials::external();
                match user {
                    Some(user) => external.authorization_id(&**user),
                    None => external,
                }
            }
            (Kind::Password, Some(user), Some(password)) => {
                Credentials::password(&**user, &**password)
            }
            (Kind::Token, Some(user), Some(token)) => Credentials::token(&**user, &**token),
            (_, Some(_), None) => {
                return Err(
                    "it has a user without a password; write USER:PASSWORD@ before the host".into(),
                );
            }
            (_, None, _) => {
                let needs = [
                    ("auth", self.mechanisms.is_some()),
                    ("permit-in-clear", self.permit_in_clear.is_some()),
                    ("permit-unverified", self.permit_unverified.is_some()),
                ];
                return match needs.iter().find(|(_, given)| *given) {
                    Some((name, _)) => Err(Problem::Value(
                        name,
                        "the user is missing; write USER:PASSWORD@ before the host",
                    )),
                    None => Ok(None),
                };
            }
        };
        let credentials = match self.mechanisms {
            Some(_) => {
                let names: Vec<_> = mechanisms.iter().map(|mechanism| mechanism.name).collect();
                credentials.mechanisms(&names)
            }
            None => credentials,
        };
        let credentials = match self.permit_in_clear {
            Some(true) => credentials.permit_in_clear(),
            _ => credentials,
        };
        Ok(Some(match self.permit_unverified {
            Some(true) => credentials.permit_unverified(),
            _ => credentials,
        }))
    }

    pub(super) fn apply(self, scheme: Scheme, mut server: Server) -> Result<Server, Problem> {
        if scheme.is_lmtp {
            server = server.lmtp();
        }
        match (scheme.is_implicit, self.tls) {
            (true, None | Some(TlsPolicy::Implicit)) => server = server.tls(TlsPolicy::Implicit),
            (true, Some(_)) => {
                return Err(Problem::Value(
                    "tls",
                    "the scheme means TLS from the first octet; write smtp:// or lmtp:// for STARTTLS or none",
                ));
            }
            (false, Some(policy)) => server = server.tls(policy),
            (false, None) => {}
        }
        if let Some(name) = self.server_name {
            server = server.server_name(&**name);
        }
        if let Some(yes) = self.verify {
            server = server.verify(yes);
        }
        if let Some(name) = self.client_name {
            server = server.client_name(name);
        }
        if let Some(yes) = self.retry_in_clear {
            server = server.retry_in_clear(yes);
        }
        if let Some(timeout) = self.timeout {
            server = server.timeouts(Timeouts::default().replies(timeout));
        }
        if let Some(timeout) = self.connect_timeout {
            server = server.connect_timeout(timeout);
        }
        if let Some(address) = self.local_address {
            server = server.bind(address);
        }
        Ok(server)
    }
}

/// Sets a value that was not set before.
fn once<T>(
    place: &mut Option<T>,
    name: &'static str,
    value: Result<T, &'static str>,
) -> Result<(), Problem> {
    let value = value.map_err(|what| Problem::Value(name, what))?;
    match place.replace(value) {
        Some(_) => Err(Problem::Value(name, "it is given twice")),
        None => Ok(()),
    }
}

fn tls_policy(value: &str) -> Result<TlsPolicy, &'static str> {
    match value {
        "required" => Ok(TlsPolicy::Required),
        "opportunistic" => Ok(TlsPolicy::Opportunistic),
        "never" => Ok(TlsPolicy::Never),
        "implicit" => Ok(TlsPolicy::Implicit),
        _ => Err("write required, opportunistic, never or implicit"),
    }
}

fn yes_or_no(value: &str) -> Result<bool, &'static str> {
    match value {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err("write yes or no"),
    }
}

fn seconds(value: &str) -> Result<Duration, &'static str> {
    let is_number = value.bytes().all(|octet| octet.is_ascii_digit());
    match value.parse::<u32>() {
        Ok(seconds @ 1..) if is_number => Ok(Duration::from_secs(seconds.into())),
        _ => Err("write whole seconds, at least 1"),
    }
}

/// The kind of credentials that a mechanism needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Token,
    External,
}

struct Mechanism {
    name: &'static str,
    kind: Kind,
}

const fn mechanism(name: &'static str, kind: Kind) -> Mechanism {
    Mechanism { name, kind }
}

const MECHANISMS: &[Mechanism] = &[
    #[cfg(feature = "scram")]
    mechanism("SCRAM-SHA-256-PLUS", Kind::Password),
    #[cfg(feature = "scram")]
    mechanism("SCRAM-SHA-1-PLUS", Kind::Password),
    #[cfg(feature = "scram")]
    mechanism("SCRAM-SHA-256", Kind::Password),
    #[cfg(feature = "scram")]
    mechanism("SCRAM-SHA-1", Kind::Password),
    mechanism("CRAM-MD5", Kind::Password),
    mechanism("PLAIN", Kind::Password),
    mechanism("LOGIN", Kind::Password),
    mechanism("OAUTHBEARER", Kind::Token),
    mechanism("XOAUTH2", Kind::Token),
    mechanism("EXTERNAL", Kind::External),
];

#[cfg(feature = "scram")]
const KNOWN_MECHANISMS: &str = "write SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS, SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN, LOGIN, \
     OAUTHBEARER, XOAUTH2 or EXTERNAL, with commas between them";
#[cfg(not(feature = "scram"))]
const KNOWN_MECHANISMS: &str = "write CRAM-MD5, PLAIN, LOGIN, OAUTHBEARER, XOAUTH2 or EXTERNAL, with commas between them; SCRAM \
     needs the feature scram";

fn mechanisms(value: &str) -> Result<Vec<&'static Mechanism>, &'static str> {
    let known = |name: &str| {
        MECHANISMS
            .iter()
            .find(|mechanism| mechanism.name.eq_ignore_ascii_case(name))
            .ok_or(KNOWN_MECHANISMS)
    };
    value.split(',').map(known).collect()
}

/// The advice for an unknown parameter. Some are known from other libraries.
fn unknown(number: usize, name: &str) -> Problem {
    let what = match name {
        "secure" => "write smtps:// for TLS from the first octet",
        "requireTLS" | "starttls" => "write tls=required",
        "ignoreTLS" => "write tls=never",
        "rejectUnauthorized" => "write verify=no",
        "name" => "write ehlo=NAME",
        "authMethod" => "write auth=MECHANISM",
        "connectionTimeout" => "write connect-timeout=SECONDS",
        "pool" | "maxConnections" | "maxMessages" => "a pool is set up where it is made",
        _ => KNOWN,
    };
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    match name.bytes().all(is_plain) && (1..=24).contains(&name.len()) {
        true => Problem::Unknown(name.into(), what),
        false => Problem::Parameter(number, KNOWN_ALONE),
    }
}

const KNOWN: &str = "known are tls, server-name, verify, ehlo, auth, permit-in-clear, permit-unverified, retry-in-clear, \
     timeout, connect-timeout and local-address";

const KNOWN_ALONE: &str =
    "is not known; its name is not shown, because it may be a part of a password";
