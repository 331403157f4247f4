//! A [`Server`] from a URL, which fits on one line of an application's configuration.
//!
//! No error shows any part of the URL but the name of a parameter. [`Problem`] cannot hold other text. So a password
//! that was not encoded cannot get out.

use std::fmt;
use std::str::FromStr;

use fluent_uri::component::{Host, IAuthority};
use fluent_uri::pct_enc::{EStr, Encoder};
use fluent_uri::{Iri, ParseError, ParseErrorKind};
use smtp_proto::{Cause, TlsPolicy};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::server::Server;

mod parameters;

use parameters::Settings;

impl Server {
    /// Reads a URL such as `smtps://alice:s3cret@smtp.example.org`.
    ///
    /// It begins with `smtp://`, `smtps://`, `lmtp://`, `lmtps://`, `smtp+unix:/` or `lmtp+unix:/`. To log in, write
    /// `USER:PASSWORD@` before the host, with `%40` for `@` and so on. Parameters follow a `?`. The manual of
    /// `smtp-blocking` lists them under *A server from a URL*.
    ///
    /// With a user on a network, TLS is required and the server verified, unless the URL permits less by name.
    ///
    /// ```
    /// use smtp_adapter::Server;
    ///
    /// let submission = Server::from_url("smtps://alice:s3cret@smtp.example.org")?;
    /// let starttls = Server::from_url("smtp://alice%40example.org:s3cret@smtp.example.org?ehlo=shop.example.org")?;
    /// // A mail exchanger, and a local mail store.
    /// let exchanger: Server = "smtp://mx.example.net?tls=opportunistic".parse()?;
    /// # #[cfg(unix)]
    /// let store = Server::from_url("lmtp+unix:/run/dovecot/lmtp?tls=never")?;
    ///
    /// let error = Server::from_url("smtps://alice:s3cr/et@smtp.example.org").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "local: server URL: octet 15 and what follows cannot be read; in a user or a password, write @ as %40, / as %2F, \
    ///      ? as %3F, # as %23, a space as %20 and the like (mend it before you send again)"
    /// );
    /// # Ok::<(), smtp_adapter::Error>(())
    /// ```
    ///
    /// # Errors
    /// The text is not such a URL. The error names the mistake and its place. It shows no part of the URL but the
    /// name of an unknown parameter.
    pub fn from_url(url: impl AsRef<str>) -> Result<Self, Error> {
        read(url.as_ref()).map_err(|problem| local(format!("server URL: {problem}")))
    }

    /// Reads the URL from this environment variable, as [`from_url`](Self::from_url) does. A good name is `SMTP_URL`.
    ///
    /// ```no_run
    /// let server = smtp_adapter::Server::from_env("SMTP_URL")?;
    /// # Ok::<(), smtp_adapter::Error>(())
    /// ```
    ///
    /// # Errors
    /// The variable is not set, is empty, or does not hold such a URL. The error names the variable, and does not
    /// show its value.
    pub fn from_env(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        #[expect(
            clippy::disallowed_methods,
            reason = "to read the environment is what this function is for"
        )]
        let value = std::env::var(name);
        from_variable(name, value)
    }
}

/// Reads the value of an environment variable.
fn from_variable(name: &str, value: Result<String, std::env::VarError>) -> Result<Server, Error> {
    const EXAMPLE: &str = "set it to a URL such as smtps://USER:PASSWORD@smtp.example.org";
    // A caller may pass the URL itself as the name of a variable.
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(local(
            "invalid name of an environment variable: write letters, digits and _, as SMTP_URL; a URL itself is read by \
             Server::from_url"
                .into(),
        ));
    }
    // It may hold a password.
    match value.map(Zeroizing::new) {
        Ok(url) if url.is_empty() => Err(local(format!(
            "the environment variable {name} is empty; {EXAMPLE}"
        ))),
        Ok(url) => read(&url).map_err(|problem| local(format!("server URL in {name}: {problem}"))),
        Err(std::env::VarError::NotPresent) => Err(local(format!(
            "the environment variable {name} is not set; {EXAMPLE}"
        ))),
        Err(std::env::VarError::NotUnicode(_)) => Err(local(format!(
            "the environment variable {name} is not UTF-8; {EXAMPLE}"
        ))),
    }
}

fn local(message: String) -> Error {
    Error::local(Cause::Settings(message.into()))
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

impl TryFrom<&str> for Server {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self, Error> {
        Self::from_url(url)
    }
}

/// The mistake in a URL. It holds no part of the URL but the name of a parameter.
#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Plain(&'static str),
    /// At this octet, counted from 1.
    At(usize, &'static str),
    /// In this parameter, counted from 1.
    Parameter(usize, &'static str),
    /// The parameter has an unknown name.
    Unknown(String, &'static str),
    /// In the value of this parameter.
    Value(&'static str, &'static str),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(what) => f.write_str(what),
            Self::At(octet, what) => write!(f, "octet {octet} {what}"),
            Self::Parameter(number, what) => write!(f, "parameter {number} {what}"),
            Self::Unknown(name, what) => write!(f, "the parameter {name} is not known; {what}"),
            Self::Value(name, what) => write!(f, "{name}: {what}"),
        }
    }
}

impl From<&'static str> for Problem {
    fn from(what: &'static str) -> Self {
        Self::Plain(what)
    }
}

impl From<ParseError> for Problem {
    fn from(error: ParseError) -> Self {
        let what = match error.kind() {
            ParseErrorKind::InvalidPctEncodedOctet => {
                "is a % without two hexadecimal digits after it; write % itself as %25"
            }
            ParseErrorKind::InvalidIpv6Addr => {
                "does not begin an IPv6 address such as [2001:db8::1]"
            }
            ParseErrorKind::UnexpectedChar => UNREADABLE,
        };
        Self::At(error.index() + 1, what)
    }
}

const UNREADABLE: &str = "and what follows cannot be read; in a user or a password, write @ as %40, / as %2F, ? as %3F, # as \
     %23, a space as %20 and the like";

/// The protocol and the transport of a scheme.
#[derive(Clone, Copy)]
struct Scheme {
    is_lmtp: bool,
    is_unix: bool,
    is_implicit: bool,
}

impl Scheme {
    fn parse(scheme: &str) -> Result<Self, Problem> {
        let scheme = scheme.to_ascii_lowercase();
        let (is_lmtp, rest) = match (scheme.strip_prefix("smtp"), scheme.strip_prefix("lmtp")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(UNKNOWN_SCHEME.into()),
        };
        let (is_unix, is_implicit) = match rest {
            "" => (false, false),
            "s" => (false, true),
            "+unix" => (true, false),
            _ => return Err(UNKNOWN_SCHEME.into()),
        };
        Ok(Self {
            is_lmtp,
            is_unix,
            is_implicit,
        })
    }
}

const UNKNOWN_SCHEME: &str =
    "it must begin with smtp://, smtps://, lmtp://, lmtps://, smtp+unix:/ or lmtp+unix:/";

fn read(url: &str) -> Result<Server, Problem> {
    if !url.contains(':') {
        return Err(UNKNOWN_SCHEME.into());
    }
    // The parser takes the beginning of an incomplete login for a host and a port, and would report an error there.
    let never = |c: char| c.is_control() || " \"<>\\^`{|}".contains(c);
    if let Some(index) = url.find(never) {
        return Err(Problem::At(index + 1, UNREADABLE));
    }
    let url = Iri::parse(url)?;
    let scheme = Scheme::parse(url.scheme().as_str())?;
    if url.has_fragment() {
        return Err("it has a fragment; in a password, write # as %23".into());
    }
    let authority = url.authority();
    let login = match authority.and_then(|authority| authority.userinfo()) {
        Some(login) => Login::parse(login)?,
        None => Login::default(),
    };
    let mut settings = Settings::default();
    if let Some(query) = url.query() {
        settings.read(query)?;
    }
    let credentials = settings.credentials(&login)?;
    let server = match scheme.is_unix {
        true => unix_server(authority, url.path())?,
        false => {
            let (host, port) = host_and_port(authority)?;
            if !matches!(url.path().as_str(), "" | "/") {
                return Err(
                    "it has a path; write the name for EHLO as ?ehlo=NAME, and / in a password as %2F"
                        .into(),
                );
            }
            if scheme.is_lmtp && port == Some(25) {
                return Err("LMTP must not be used on port 25 (RFC 2033 section 5)".into());
            }
            // RFC 6409 section 3.1: a client that logs in submits mail.
            let submits = credentials.is_some() && !scheme.is_lmtp && !scheme.is_implicit;
            let submits = submits && settings.tls != Some(TlsPolicy::Implicit);
            match port.or(submits.then_some(587)) {
                Some(port) => Server::named(format!("{host}:{port}")),
                None => Server::named(host),
            }
        }
    };
    settings.apply(scheme, server.credentials(credentials))
}

/// The decoded text of a part. It may be a secret.
fn decoded<E: Encoder>(part: &EStr<E>) -> Result<Zeroizing<String>, Problem> {
    let text = part.decode().to_string().map_err(|octets| {
        drop(Zeroizing::new(octets));
        "the octets written as % and digits are not UTF-8"
    })?;
    let text = Zeroizing::new(text.into_owned());
    match text.contains(char::is_control) {
        true => Err("it has a control character, such as CR, LF or NUL".into()),
        false => Ok(text),
    }
}

/// The login in a URL.
#[derive(Default)]
struct Login {
    user: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
}

impl Login {
    fn parse<E: Encoder>(login: &EStr<E>) -> Result<Self, Problem> {
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        // curl writes the mechanism like this.
        if user.as_str().to_ascii_lowercase().contains(";auth=") {
            return Err("the mechanism follows the user; write it as ?auth=MECHANISM".into());
        }
        if user.is_empty() {
            return Err(match password.is_some_and(|password| !password.is_empty()) {
                true => "it has a password without a user; write USER:PASSWORD@ before the host",
                false => "it has an empty user; write USER:PASSWORD@ before the host, or leave out the @",
            }
            .into());
        }
        Ok(Self {
            user: Some(decoded(user)?),
            password: match password {
                Some(password) if !password.is_empty() => Some(decoded(password)?),
                _ => None,
            },
        })
    }
}

fn host_and_port(authority: Option<IAuthority<'_>>) -> Result<(String, Option<u16>), Problem> {
    let authority =
        authority.ok_or("it has no host; write // before the host, as in smtp://HOST")?;
    let host = match authority.host_parsed() {
        Host::Ipv4 { .. } | Host::Ipv6 { .. } => authority.host().into(),
        Host::IpvFuture { .. } => {
            return Err("the text in brackets is not an IPv6 address".into());
        }
        Host::RegName(name) => {
            let name = decoded(name)?;
            if name.is_empty() {
                return Err("it has no host".into());
            }
            if name.contains(|c: char| c.is_whitespace() || "/@:?#[]\\%".contains(c)) {
                return Err("its host has a character that is not allowed there".into());
            }
            String::clone(&name)
        }
    };
    let port = match authority.port() {
        Some(port) if !port.is_empty() => match port.as_str().parse::<u16>() {
            Ok(0) | Err(_) => return Err("its port is not a number from 1 to 65535".into()),
            Ok(port) => Some(port),
        },
        _ => None,
    };
    Ok((host, port))
}

#[cfg(unix)]
fn unix_server<E: Encoder>(
    authority: Option<IAuthority<'_>>,
    path: &EStr<E>,
) -> Result<Server, Problem> {
    if authority.is_some_and(|authority| !authority.host().is_empty() || authority.has_port()) {
        return Err("a Unix socket does not have a host or a port; write lmtp+unix:/PATH".into());
    }
    let path = decoded(path)?;
    match path.starts_with('/') {
        true => Ok(Server::unix(&*path)),
        false => Err("the path of a Unix socket begins with /, as in lmtp+unix:/PATH".into()),
    }
}

#[cfg(not(unix))]
fn unix_server<E: Encoder>(_: Option<IAuthority<'_>>, _: &EStr<E>) -> Result<Server, Problem> {
    Err("this system does not have Unix sockets".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Terms;

    /// The server's name, and what `Debug` shows of the rest.
    fn server(url: &str) -> Server {
        url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn host_and_port(server: &Server) -> (String, u16) {
        let (host, port) = Terms::new(server, true).host_and_port().unwrap();
        (host.into_owned(), port)
    }

    fn problem(url: &str) -> Problem {
        match read(url) {
            Ok(server) => panic!("{url}: {server:?}"),
            Err(problem) => problem,
        }
    }

    #[test]
    fn schemes_and_ports() {
        use TlsPolicy::{Implicit, Never, Opportunistic, Required};
        for (url, host, port, tls) in [
            ("smtp://mx.example.net", "mx.example.net", 25, None),
            ("SMTP://mx.example.net/", "mx.example.net", 25, None),
            ("smtp://mx.example.net:2525", "mx.example.net", 2525, None),
            ("smtp://mx.example.net:", "mx.example.net", 25, None),
            ("smtp://192.0.2.1:26", "192.0.2.1", 26, None),
            ("smtp://[2001:db8::1]", "2001:db8::1", 25, None),
            ("smtp://[2001:db8::1]:26/", "2001:db8::1", 26, None),
            ("smtp://a:b@h.example", "h.example", 587, None),
            ("smtp://a:b@h.example:25", "h.example", 25, None),
            ("smtp://a:b@[::1]", "::1", 587, None),
            ("smtps://h.example", "h.example", 465, Some(Implicit)),
            ("smtps://a:b@h.example", "h.example", 465, Some(Implicit)),
            ("smtps://h.example:4465", "h.example", 4465, Some(Implicit)),
            (
                "smtps://h.example?tls=implicit",
                "h.example",
                465,
                Some(Implicit),
            ),
            (
                "smtp://a:b@h.example?tls=implicit",
                "h.example",
                465,
                Some(Implicit),
            ),
            (
                "smtp://a:b@h.example?tls=required",
                "h.example",
                587,
                Some(Required),
            ),
            (
                "smtp://a:b@h.example:587?tls=required",
                "h.example",
                587,
                Some(Required),
            ),
            (
                "smtp://h.example?tls=opportunistic",
                "h.example",
                25,
                Some(Opportunistic),
            ),
            ("smtp://h.example?tls=never&", "h.example", 25, Some(Never)),
            ("lmtp://h.example", "h.example", 24, None),
            ("lmtp://a:b@h.example", "h.example", 24, None),
            ("lmtps://h.example", "h.example", 24, Some(Implicit)),
            ("lmtps://h.example:2424", "h.example", 2424, Some(Implicit)),
        ] {
            let server = server(url);
            assert_eq!(host_and_port(&server), (host.to_owned(), port), "{url}");
            assert_eq!(server.tls, tls, "{url}");
            let is_lmtp = server.config.protocol == smtp_proto::Protocol::Lmtp;
            assert_eq!(is_lmtp, url.starts_with("lmtp"), "{url}");
            let logs_in = server.config.credentials.is_some();
            assert_eq!(logs_in, url.contains('@'), "{url}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn unix_sockets() {
        use std::path::Path;
        for (url, path, logs_in) in [
            ("lmtp+unix:/run/dovecot/lmtp", "/run/dovecot/lmtp", false),
            ("smtp+unix:/run/a%20b", "/run/a b", false),
            ("lmtp+unix:///run/lmtp?tls=never", "/run/lmtp", false),
            ("lmtp+unix://a:b@/run/lmtp", "/run/lmtp", true),
        ] {
            let server = server(url);
            assert_eq!(server.unix.as_deref(), Some(Path::new(path)), "{url}");
            assert_eq!(server.config.credentials.is_some(), logs_in, "{url}");
            let is_lmtp = server.config.protocol == smtp_proto::Protocol::Lmtp;
            assert_eq!(is_lmtp, url.starts_with("lmtp"), "{url}");
        }
    }

    #[test]
    fn each_parameter_sets_something() {
        let server = server(
            "smtp://a:b@h.example?tls=required&server-name=mail.example.net&verify=no&ehlo=c.example&auth=plain,LOGIN\
             &permit-in-clear=yes&permit-unverified=true&retry-in-clear=yes&timeout=30&connect-timeout=5\
             &local-address=2001:db8::2",
        );
        assert_eq!(server.tls, Some(TlsPolicy::Required));
        assert_eq!(server.server_name.as_deref(), Some("mail.example.net"));
        assert!(server.accept_any && server.retry_in_clear);
        assert_eq!(server.client_name.unwrap().as_str(), "c.example");
        let credentials = server.config.credentials.unwrap();
        assert!(credentials.permits_clear() && credentials.permits_unverified());
        let seconds = std::time::Duration::from_secs;
        assert_eq!(server.config.timeouts.mail, seconds(30));
        assert_eq!(server.connect_timeout, seconds(5));
        assert_eq!(server.local_v6, Some("2001:db8::2".parse().unwrap()));

        let plain = Server::from_url("smtp://a:b@h.example?verify=yes&permit-in-clear=no").unwrap();
        assert!(!plain.accept_any);
        let credentials = plain.config.credentials.unwrap();
        assert!(!credentials.permits_clear() && !credentials.permits_unverified());
    }

    /// The credentials equal those given in code: the engine sends the same octets.
    #[test]
    fn user_and_password_are_decoded() {
        use smtp_proto::{Channel, Connection, Credentials, Instant, TlsFacts};
        let auth = |server: &Server| {
            let mut facts = TlsFacts::default();
            facts.verified = true;
            let terms = Terms::new(server, true);
            let peer = || crate::Peer::Unknown;
            let terms = terms.session(Channel::Tls(facts), None, peer).unwrap();
            let now = Instant::default();
            let mut engine = Connection::new(terms.config, now);
            let mut out = Vec::new();
            for line in [
                "220 hi\r\n",
                "250-hi\r\n250 AUTH PLAIN XOAUTH2 EXTERNAL\r\n",
            ] {
                engine.handle_input(now, line.as_bytes());
                while engine.poll_event().is_some() {}
                out.clear();
                engine.poll_transmit_onto(now, &[][..], &mut out);
                engine.handle_written(now, out.len());
            }
            String::from_utf8(out).unwrap()
        };
        let of = |credentials| auth(&Server::new("h.example").credentials(credentials));
        for (url, credentials) in [
            ("smtp://a:b@h.example", Credentials::password("a", "b")),
            (
                "smtp://alice%40example.org:p%40s%3as%2Fw%3Fo%23r%25d+=@h.example",
                Credentials::password("alice@example.org", "p@s:s/w?o#r%d+="),
            ),
            ("smtp://a:b:c@h.example", Credentials::password("a", "b:c")),
            (
                "smtp://j%C3%BCrgen:gr\u{fc}n@h.example",
                Credentials::password("j\u{fc}rgen", "gr\u{fc}n"),
            ),
            (
                "smtp://a:t0ken@h.example?auth=XOAUTH2",
                Credentials::token("a", "t0ken"),
            ),
            ("smtp://h.example?auth=external", Credentials::external()),
            (
                "smtp://a@h.example?auth=EXTERNAL",
                Credentials::external().authorization_id("a"),
            ),
        ] {
            let found = auth(&server(url));
            assert!(found.starts_with("AUTH "), "{url}: {found}");
            assert_eq!(found, of(credentials), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (url, words) in [
            ("", "it must begin with smtp://"),
            ("mx.example.net", "it must begin with smtp://"),
            ("mx.example.net:25", "it must begin with smtp://"),
            ("http://h.example", "it must begin with smtp://"),
            ("smtp+tls://h.example", "it must begin with smtp://"),
            ("smtp:h.example", "it has no host; write //"),
            ("smtp://", "it has no host"),
            ("smtp://:25", "it has no host"),
            ("smtp://a:b@", "it has no host"),
            ("smtp://[v1.a]", "not an IPv6 address"),
            ("smtp://[1:2]", "octet 9 does not begin an IPv6 address"),
            (
                "smtp://h.example:0",
                "its port is not a number from 1 to 65535",
            ),
            (
                "smtp://h.example:65536",
                "its port is not a number from 1 to 65535",
            ),
            (
                "smtp://h.example:x",
                "octet 18 and what follows cannot be read",
            ),
            ("smtp://a b", "octet 9 and what follows cannot be read"),
            (
                "smtp://h%20.example",
                "a character that is not allowed there",
            ),
            (
                "smtp://h%2e%2Fexample",
                "a character that is not allowed there",
            ),
            (
                "smtp://h.example/c.example",
                "write the name for EHLO as ?ehlo=NAME",
            ),
            ("smtp://h.example#x", "write # as %23"),
            ("smtp://a@h.example", "it has a user without a password"),
            ("smtp://a:@h.example", "it has a user without a password"),
            ("smtp://:b@h.example", "it has a password without a user"),
            ("smtp://@h.example", "it has an empty user"),
            ("smtp://:@h.example", "it has an empty user"),
            (
                "smtp://a:b%@h.example",
                "octet 11 is a % without two hexadecimal digits",
            ),
            (
                "smtp://a:b%4@h.example",
                "octet 11 is a % without two hexadecimal digits",
            ),
            (
                "smtp://a:b%zz@h.example",
                "octet 11 is a % without two hexadecimal digits",
            ),
            (
                "smtp://a:b@c@h.example",
                "octet 13 and what follows cannot be read",
            ),
            ("smtp://a:b%FF@h.example", "not UTF-8"),
            ("smtp://a%FF:b@h.example", "not UTF-8"),
            ("smtp://h%FF.example", "not UTF-8"),
            ("smtp://h.example?ehlo=%FF", "not UTF-8"),
            (
                "smtp://a:b\r\n@h.example",
                "octet 11 and what follows cannot be read",
            ),
            (
                "smtp://a;AUTH=PLAIN:b@h.example",
                "write it as ?auth=MECHANISM",
            ),
            (
                "smtp://h.example?x=1",
                "the parameter x is not known; known are tls,",
            ),
            (
                "smtp://h.example?tls=never&TLS_mode=1",
                "the parameter TLS_mode is not known; known are tls,",
            ),
            (
                "smtp://h.example?tls=never&a.b=1",
                "parameter 2 is not known; its name is not shown",
            ),
            (
                "smtp://h.example?abcdefghijklmnopqrstuvwxy=1",
                "parameter 1 is not known; its name is not shown",
            ),
            ("smtp://h.example?=1", "parameter 1 is not known"),
            ("smtp://alice:25?x=s3cret@h.example", "write ? as %3F"),
            ("smtp://h.example?tls", "parameter 1 has no value"),
            ("smtp://h.example?tls=", "tls: write required"),
            ("smtp://h.example?tls=on", "tls: write required"),
            (
                "smtp://h.example?tls=never&tls=never",
                "tls: it is given twice",
            ),
            (
                "smtp://h.example/?pool=true",
                "a pool is set up where it is made",
            ),
            ("smtp://h.example/?requireTLS=true", "write tls=required"),
            (
                "smtps://h.example?tls=required",
                "tls: the scheme means TLS",
            ),
            (
                "smtp://h.example?server-name=",
                "server-name: write a host name",
            ),
            ("smtp://h.example?verify=maybe", "verify: write yes or no"),
            ("smtp://h.example?ehlo=a%20b", "ehlo: write a domain"),
            ("smtp://h.example?timeout=0", "timeout: write whole seconds"),
            (
                "smtp://h.example?timeout=+1",
                "timeout: write whole seconds",
            ),
            (
                "smtp://h.example?connect-timeout=1.5",
                "connect-timeout: write whole seconds",
            ),
            (
                "smtp://h.example?local-address=h",
                "local-address: write an IP address",
            ),
            ("smtp://a:b@h.example?auth=NTLM", "auth: write"),
            (
                "smtp://a:b@h.example?auth=PLAIN,XOAUTH2",
                "auth: write mechanisms for a password, or",
            ),
            (
                "smtp://a:b@h.example?auth=EXTERNAL",
                "auth: EXTERNAL does not take a password",
            ),
            ("smtp://h.example?auth=PLAIN", "auth: the user is missing"),
            (
                "smtp://h.example?permit-in-clear=yes",
                "permit-in-clear: the user is missing",
            ),
            ("lmtp://h.example:25", "LMTP must not be used on port 25"),
            ("smtp://a:b@%00", "a control character"),
            #[cfg(unix)]
            ("lmtp+unix:run/lmtp", "begins with /"),
            #[cfg(unix)]
            ("lmtp+unix:", "begins with /"),
            #[cfg(unix)]
            (
                "lmtp+unix://h.example/run/lmtp",
                "a Unix socket does not have a host",
            ),
            #[cfg(unix)]
            ("lmtp+unix:/run%00", "a control character"),
        ] {
            let said = problem(url).to_string();
            assert!(said.contains(words), "{url}: {said}");
        }
        // No part may hold a control character.
        for octets in ["%0D", "%0A", "%0d%0a", "%00", "%7F", "%C2%85"] {
            for url in [
                format!("smtp://a{octets}:b@h.example"),
                format!("smtp://a:b{octets}@h.example"),
                format!("smtp://a:b@h{octets}.example"),
                format!("smtp://h.example?{octets}=x"),
                format!("smtp://h.example?ehlo=h{octets}"),
                format!("smtp://h.example?server-name=h{octets}"),
                format!("smtp+unix:/run/{octets}"),
            ] {
                let said = problem(&url).to_string();
                let is_said = said.contains("a control character");
                assert!(
                    is_said || said.contains("not have Unix sockets"),
                    "{url}: {said}"
                );
            }
        }
    }

    #[test]
    fn variables() {
        use std::env::VarError;
        let url = String::from("smtps://alice:s3cret@smtp.example.org");
        let server = from_variable("SMTP_URL", Ok(url)).unwrap();
        assert_eq!(host_and_port(&server), ("smtp.example.org".into(), 465));
        for (value, words) in [
            (
                Err(VarError::NotPresent),
                "the environment variable SMTP_URL is not set; set it to a URL",
            ),
            (
                Err(VarError::NotUnicode("s3cret".into())),
                "the environment variable SMTP_URL is not UTF-8",
            ),
            (
                Ok(String::new()),
                "the environment variable SMTP_URL is empty",
            ),
            (
                Ok("smtp://alice:s3c/ret@h".into()),
                "server URL in SMTP_URL: octet 14 and what follows cannot be read",
            ),
        ] {
            let said = from_variable("SMTP_URL", value).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
            assert!(!said.contains("s3c"), "{said}");
        }
        for name in ["", "A=B", "smtps://alice:s3cret@smtp.example.org", "A\0"] {
            let said = Server::from_env(name).unwrap_err().to_string();
            assert!(said.contains("invalid name of an env"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
        let unset = Server::from_env("SMTP_URL_THAT_IS_NOT_SET").unwrap_err();
        assert!(
            unset
                .to_string()
                .contains("SMTP_URL_THAT_IS_NOT_SET is not set"),
            "{unset}"
        );
        assert!(unset.is_permanent());
    }

    const SECRET: &str = "Zq7xVk9wJt2yGh5K";

    /// Whether the text contains three successive characters of the secret.
    fn shows_secret(text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        let secret = SECRET.to_ascii_lowercase();
        (0..secret.len() - 2).any(|at| text.contains(&secret[at..at + 3]))
    }

    /// Nothing that can be done with this URL shows the secret. Returns whether the URL is valid.
    fn keeps_secret(url: &str) -> bool {
        let shown = match Server::try_from(url) {
            Ok(server) => {
                let error = Terms::new(&server, true).host_and_port().err();
                let text = format!(
                    "{server:?} {}",
                    error.map(|e| e.to_string()).unwrap_or_default()
                );
                assert!(!shows_secret(&text), "{url}: {text}");
                return true;
            }
            Err(error) => {
                let text = format!("{error} {error:?}");
                text + &format!("{:?}", std::io::Error::from(error))
            }
        };
        assert!(!shows_secret(&shown), "{url}: {shown}");
        // Taking the URL for a server's name does not show it either. Some are valid names.
        if !url.len().is_multiple_of(8) {
            return false;
        }
        let server = Server::new(url);
        let error = Terms::new(&server, true).host_and_port().err();
        let shown = format!("{server:?} {error:?}");
        let is_name = !url.contains(['/', '@']);
        assert!(is_name || !shows_secret(&shown), "{url}: {shown}");
        false
    }

    /// A password that was not encoded ends the login, the host or the port too early.
    #[test]
    fn no_error_shows_a_password_that_is_not_encoded() {
        for password in [
            "25?x=1&y=2",
            "25?s3cret",
            "25?tls=s3cret",
            "25/s3cret",
            "25#s3cret",
            "s3cret?x=1",
            "s3cret@x",
            "s3cret/x",
            "s3cret#x",
            "s3cret%",
            "s3cret%zz",
            "s3cret\\x",
            "s3 cret",
            "s3cret]",
            "[s3cret",
            "s3cret%FF",
            "s3cret%00",
            "s3cret\r\nQUIT",
            "\"s3cret\"",
        ] {
            for url in [
                format!("smtp://alice:{password}@smtp.example.org"),
                format!("smtps://alice:{password}@smtp.example.org:465/?tls=implicit"),
                format!("lmtp://alice:{password}@smtp.example.org?verify=no"),
                format!("lmtp+unix://alice:{password}@/run/lmtp"),
            ] {
                let error = Server::from_url(&url).unwrap_err();
                for shown in [error.to_string(), format!("{error:?}")] {
                    assert!(!shown.contains(password), "{url}: {shown}");
                    for part in ["s3cret", "s3 cret", "25?", "x=1"] {
                        assert!(!shown.contains(part), "{url}: {shown}");
                    }
                }
            }
        }
    }

    /// An error about another part does not show the password of a valid login.
    #[test]
    fn no_error_about_something_else_shows_the_password() {
        for rest in [
            "",
            ":0",
            ":99999",
            "/c.example",
            "#x",
            "?x=1",
            "?tls=on",
            "?tls",
            "?tls=never&tls=never",
            "?auth=EXTERNAL",
            "?auth=NTLM",
            "?ehlo=a%20b",
            "?timeout=never",
        ] {
            for host in ["h.example", "h%20.example", "[::g]", ""] {
                let url = format!("smtp://alice:{SECRET}@{host}{rest}");
                let Err(error) = Server::from_url(&url) else {
                    assert_eq!((host, rest), ("h.example", ""));
                    continue;
                };
                let shown = format!("{error} {error:?}");
                assert!(!shows_secret(&shown), "{url}: {shown}");
                assert!(!shown.contains("alice"), "{url}: {shown}");
            }
        }
    }

    /// Each change at one place, and many at two, of URLs with a secret.
    #[test]
    fn no_error_shows_the_password() {
        let urls = [
            format!("smtp://alice:{SECRET}@smtp.example.org:587?tls=required"),
            format!("smtps://alice%40example.org:{SECRET}%21@[2001:db8::1]:465/?ehlo=c.example"),
            format!("lmtp+unix://alice:{SECRET}@/run/lmtp?auth=PLAIN"),
            format!("smtp://alice:p%40{SECRET}@h.example?auth=XOAUTH2,OAUTHBEARER&timeout=30"),
        ];
        const PUT: &[&str] = &[
            "", "%", "/", "?", "#", "@", ":", "[", "]", "&", "=", " ", "\r\n", "\0", "\u{e9}", "0",
            "%0D%0A", "%00", "%ff", "//", "://", ";AUTH=", "+",
        ];
        let change = |url: &str, at: usize, cut: usize, put: &str| {
            let end = (at + cut).min(url.len());
            format!("{}{put}{}", &url[..at], &url[end..])
        };
        let (mut good, mut bad) = (0, 0);
        let mut count = |url: &str| match keeps_secret(url) {
            true => good += 1,
            false => bad += 1,
        };
        let mut dice = 1_u64;
        let mut roll = |sides: usize| {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as usize % sides
        };
        for url in &urls {
            assert!(keeps_secret(url), "{url}");
            for at in 0..=url.len() {
                count(&url[..at]);
                for put in PUT {
                    for cut in 0..2 {
                        let once = change(url, at, cut, put);
                        count(&once);
                        let second = roll(once.len() + 1);
                        if once.is_char_boundary(second) {
                            let cut = roll(2);
                            if once.is_char_boundary((second + cut).min(once.len())) {
                                count(&change(&once, second, cut, PUT[roll(PUT.len())]));
                            }
                        }
                    }
                }
            }
        }
        // Both kinds are frequent, so both are tested.
        assert!(good > 500 && bad > 5_000, "{good} {bad}");
    }
}
