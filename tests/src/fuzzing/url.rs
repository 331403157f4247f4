//! Servers from URLs: what a session does with them, against a slow reader of the same text.
//!
//! A session is opened over a stream in memory. So it is seen on the wire who logs in with what password, and under
//! which name the client greets.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_blocking::{Server, Session, Transport};
use smtp_proto::TlsFacts;

use super::settings::SECRET;
use super::{Input, assert_printable, contains};

/// A URL. The first octet says what of:
///
/// | | |
/// |---|---|
/// | below 64 | the rest is the URL |
/// | below 128 | so it is, with the secret in the place of each octet 1 |
/// | else | it is written from its parts: user, password, host and name for EHLO, each with its length before it; two octets of port; one of scheme and parameters |
pub fn url(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() {
        128.. => written(&mut input),
        kind => {
            let secret = if kind < 64 { "\x01" } else { SECRET };
            let url = String::from_utf8_lossy(input.0).replace('\x01', secret);
            read(&url);
        }
    }
}

/// What is read is what stands there, and an error shows nothing of it.
fn read(url: &str) {
    let server = match Server::from_url(url) {
        Ok(server) => server,
        Err(error) => return assert_kept(url, &error.to_string(), &format!("{error:?}")),
    };
    let parts = Parts::of(url).unwrap_or_else(|| panic!("{url:?} is read"));
    check(&server, &parts, url);
}

/// What is written by the rules of RFC 3986 is read, and means what was written.
fn written(input: &mut Input<'_>) {
    let field = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let [user, password, host, name] = [(); 4].map(|()| field(input.string()));
    let port = u16::from_le_bytes([input.byte(), input.byte()]);
    let flags = input.byte();
    let scheme = ["smtp", "smtps", "lmtp", "lmtps"][usize::from(flags & 3)];
    let all = flags & 4 != 0;
    let encoded = |text: &str| encode(text, all);
    let login = match user.is_empty() {
        true => String::new(),
        false => format!("{}:{}@", encoded(&user), encoded(&password)),
    };
    let at = if port == 0 {
        String::new()
    } else {
        format!(":{port}")
    };
    let mut url = format!("{scheme}://{login}{}{at}", encoded(&host));
    let mut parameters = vec![];
    if !name.is_empty() {
        parameters.push(format!("ehlo={}", encoded(&name)));
    }
    if flags & 8 != 0 {
        parameters.push(format!("timeout={}", 1 + flags / 16));
    }
    if !parameters.is_empty() {
        url += &format!("?{}", parameters.join("&"));
    }

    let fine = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    let is_host =
        fine(&host) && !host.contains(|c: char| c.is_whitespace() || "/@:?#[]\\%".contains(c));
    let is_login = user.is_empty() || (fine(&user) && fine(&password));
    let no_mechanism = !encoded(&user).to_ascii_lowercase().contains(";auth=");
    let is_name = name.is_empty() || smtp_proto::ClientName::parse(&name).is_ok();
    let no_lmtp_on_25 = port != 25 || !scheme.starts_with("lmtp");
    let valid = is_host && is_login && is_name && no_lmtp_on_25 && no_mechanism;
    match Server::from_url(&url) {
        Ok(server) => {
            assert!(valid, "{url:?} is read");
            let parts = Parts {
                scheme: scheme.into(),
                login: (!user.is_empty()).then_some((user, Some(password))),
                host,
                port: (port != 0).then_some(port),
                ehlo: (!name.is_empty()).then_some(name),
                timeout: (flags & 8 != 0).then_some(u32::from(1 + flags / 16)),
                auth: None,
                tls: None,
            };
            check(&server, &parts, &url);
        }
        Err(error) => {
            assert!(!valid, "{url:?}: {error}");
            assert_printable(&error.to_string());
        }
    }
}

/// Octets as `%` and digits, but for letters and digits where not all are to be.
fn encode(text: &str, all: bool) -> String {
    let plain = |octet: u8| !all && octet.is_ascii_alphanumeric();
    text.bytes()
        .map(|octet| match plain(octet) {
            true => char::from(octet).to_string(),
            false => format!("%{octet:02X}"),
        })
        .collect()
}

/// The parts of a URL, decoded.
#[derive(Debug)]
struct Parts {
    scheme: String,
    login: Option<(String, Option<String>)>,
    host: String,
    port: Option<u16>,
    ehlo: Option<String>,
    timeout: Option<u32>,
    auth: Option<String>,
    tls: Option<String>,
}

impl Parts {
    /// Takes the text apart at the first or last of each separator, as RFC 3986 appendix B does.
    fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once(':')?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, query),
            None => (rest, ""),
        };
        let is_unix = scheme.to_ascii_lowercase().ends_with("+unix");
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(at) => rest.split_at(at),
                None => (rest, ""),
            },
            None => ("", rest),
        };
        let (login, host) = match authority.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, authority),
        };
        let login = match login {
            None => None,
            Some(login) => Some(match login.split_once(':') {
                Some((user, "")) => (decode(user)?, None),
                Some((user, password)) => (decode(user)?, Some(decode(password)?)),
                None => (decode(login)?, None),
            }),
        };
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (host, ""),
        };
        let mut parts = Self {
            scheme: scheme.to_ascii_lowercase(),
            login,
            host: if is_unix {
                decode(path)?
            } else {
                decode(host)?
            },
            port: match port {
                "" => None,
                port => Some(port.parse().ok()?),
            },
            ehlo: None,
            timeout: None,
            auth: None,
            tls: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let value = decode(value)?;
            match &*decode(name)? {
                "ehlo" => parts.ehlo = Some(value),
                "timeout" => parts.timeout = Some(value.parse().ok()?),
                "auth" => parts.auth = Some(value),
                "tls" => parts.tls = Some(value),
                _ => {}
            }
        }
        Some(parts)
    }
}

fn decode(text: &str) -> Option<String> {
    let mut octets = vec![];
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        octets.extend_from_slice(&rest.as_bytes()[..at]);
        octets.push(u8::from_str_radix(rest.get(at + 1..at + 3)?, 16).ok()?);
        rest = &rest[at + 3..];
    }
    octets.extend_from_slice(rest.as_bytes());
    String::from_utf8(octets).ok()
}

/// Opens a session with the server, and reads what the client says.
fn check(server: &Server, parts: &Parts, url: &str) {
    let shown = format!("{server:?}");
    if contains(url.as_bytes(), SECRET.as_bytes()) && parts.holds_secret() {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let is_unix = parts.scheme.ends_with("+unix");
    let is_lmtp = parts.scheme.starts_with("lmtp");
    let credentials = parts.login.is_some() || parts.auth.is_some();
    if !is_unix {
        let implicit = parts.scheme.ends_with('s') || parts.tls.as_deref() == Some("implicit");
        let submits = credentials && !is_lmtp && !implicit;
        let port = parts.port.or(submits.then_some(587));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let name = format!("name: {:?}", format!("{}{port}", parts.host));
        assert!(shown.contains(&name), "no {name} in {shown}");
    }

    // Each mechanism that has a response to be seen in it at once.
    let mechanisms = ["PLAIN", "OAUTHBEARER", "EXTERNAL"];
    let heard = Arc::new(Mutex::new(Heard::default()));
    let stream = Stream {
        heard: heard.clone(),
        offered: mechanisms.join(" "),
        unread: b"220 mx\r\n".to_vec(),
    };
    let mut facts = TlsFacts::default();
    facts.verified = true;
    let result = Session::connect_over_tls(server, stream, facts);
    let heard = heard.lock().expect("no panic").clone();
    if let Err(error) = &result {
        let shown = format!("{error} {error:?}");
        assert!(!parts.holds_secret() || !shown.contains(SECRET), "{shown}");
    }
    drop(result);
    let mut lines = heard.wire.split("\r\n");
    let hello = lines.next().unwrap_or_default();
    let (verb, name) = hello.split_once(' ').expect("a greeting");
    assert_eq!(verb, if is_lmtp { "LHLO" } else { "EHLO" }, "{url:?}");
    if let Some(expected) = &parts.ehlo {
        assert_eq!(name, expected, "{url:?}");
    }
    if let Some(seconds) = parts.timeout {
        let most = Duration::from_secs(seconds.into());
        // The stream is asked for no more than a minute.
        assert!(heard.timeout <= most.min(Duration::from_secs(60)) + Duration::from_millis(1));
    }
    let auth = lines.next().unwrap_or_default();
    let expected = parts.response();
    // One that does not fit the line comes after a challenge, which is not given here.
    let is_long = |(name, response): &(String, Vec<u8>)| {
        name.len() + response.len().div_ceil(3) * 4 + "AUTH  \r\n".len() > 512
    };
    if let Some((name, _)) = expected.as_ref().filter(|expected| is_long(expected)) {
        return assert_eq!(auth, format!("AUTH {name}"), "{url:?}");
    }
    let sent = auth.strip_prefix("AUTH ").and_then(|auth| {
        let (mechanism, response) = auth.split_once(' ')?;
        let response = if response == "=" { "" } else { response };
        Some((mechanism.to_owned(), STANDARD.decode(response).ok()?))
    });
    assert_eq!(sent, expected, "{url:?}");
}

impl Parts {
    fn holds_secret(&self) -> bool {
        let in_login = self.login.as_ref().is_some_and(|(_, password)| {
            password
                .as_ref()
                .is_some_and(|password| password.contains(SECRET))
        });
        let elsewhere = [
            Some(&self.host),
            self.ehlo.as_ref(),
            self.login.as_ref().map(|(user, _)| user),
        ];
        in_login && !elsewhere.iter().flatten().any(|part| part.contains(SECRET))
    }

    /// The mechanism, and its initial response.
    fn response(&self) -> Option<(String, Vec<u8>)> {
        let list = self
            .auth
            .as_deref()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let allows = |name: &str| list.split(',').any(|allowed| allowed == name);
        match &self.login {
            Some((user, Some(password))) if self.auth.is_none() || allows("PLAIN") => {
                Some(("PLAIN".into(), format!("\0{user}\0{password}").into_bytes()))
            }
            Some((user, Some(token))) if allows("OAUTHBEARER") => {
                let user = user.replace('=', "=3D").replace(',', "=2C");
                let response = format!("n,a={user},\x01auth=Bearer {token}\x01\x01");
                Some(("OAUTHBEARER".into(), response.into_bytes()))
            }
            login if allows("EXTERNAL") => {
                let user = login.as_ref().map_or("", |(user, _)| user);
                Some(("EXTERNAL".into(), user.as_bytes().to_vec()))
            }
            _ => None,
        }
    }
}

/// An error shows no secret, whatever is wrong; but for the name of a parameter, which may be shown.
fn assert_kept(url: &str, error: &str, debug: &str) {
    assert_printable(error);
    let behind = url.split_once('?').map_or("", |(_, query)| query);
    let is_of_name = |part: &str| behind.contains(part) && !behind.contains('@');
    for shown in [error, debug] {
        assert!(
            is_of_name(SECRET) || !shown.contains(SECRET),
            "{url:?}: {shown}"
        );
    }
    // No part of it either, as long as it is no word of ours.
    let pieces = SECRET.as_bytes().windows(7).map(String::from_utf8_lossy);
    for piece in pieces {
        assert!(
            is_of_name(&piece) || !error.contains(&*piece),
            "{url:?}: {error}"
        );
    }
}

#[derive(Clone, Default)]
struct Heard {
    wire: String,
    timeout: Duration,
}

/// A server that accepts every login, in memory.
struct Stream {
    heard: Arc<Mutex<Heard>>,
    offered: String,
    unread: Vec<u8>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.unread.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.unread[..n]);
        self.unread.drain(..n);
        Ok(n)
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(octets);
        let mut heard = self.heard.lock().expect("no panic");
        heard.wire += &text;
        self.unread.extend_from_slice(
            match &text {
                hello if hello.starts_with("EHLO ") || hello.starts_with("LHLO ") => {
                    format!("250-mx\r\n250 AUTH {}\r\n", self.offered).into_bytes()
                }
                auth if auth.starts_with("AUTH ") => b"235 welcome\r\n".to_vec(),
                _ => b"250 ok\r\n".to_vec(),
            }
            .as_slice(),
        );
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Stream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.heard.lock().expect("no panic").timeout = timeout;
        Ok(())
    }
}
