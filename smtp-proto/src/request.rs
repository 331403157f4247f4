//! Commands outside a mail transaction, each ready as the line that is sent. They cannot hold a CR, LF, NUL or other
//! control character.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt::{self, Write};
use core::net::IpAddr;

use crate::capability::{Capabilities, Extension};
use crate::text::Printable;
use crate::text::push_xtext;

/// The longest command line, in octets without its CRLF (RFC 5321 section 4.5.3.1.4).
const MAX_LINE: usize = 510;

/// A command outside a mail transaction. The reply comes back unchanged.
///
/// ```
/// use smtp_proto::Request;
///
/// assert_eq!(Request::verify("bob")?.to_string(), "VRFY bob");
/// assert_eq!(Request::raw("XCHECK now")?.to_string(), "XCHECK now");
/// assert_eq!(
///     Request::raw("RSET").unwrap_err().to_string(),
///     "RSET must not be written by hand; use the engine, which resets by itself"
/// );
/// # Ok::<(), smtp_proto::request::RequestError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    line: Arc<str>,
    /// What the server must offer.
    extension: Option<Extension>,
}

impl Request {
    /// NOOP: does nothing (RFC 5321 section 4.1.1.9).
    pub fn noop() -> Self {
        Self {
            line: "NOOP".into(),
            extension: None,
        }
    }

    /// HELP, about everything or about one topic (RFC 5321 section 4.1.1.8).
    ///
    /// # Errors
    /// The topic is empty, too long, or not printable ASCII.
    pub fn help(topic: Option<&str>) -> Result<Self, RequestError> {
        match topic {
            None => Ok(Self {
                line: "HELP".into(),
                extension: None,
            }),
            Some(topic) => Self::with_argument("HELP", topic, None, Alphabet::Ascii),
        }
    }

    /// VRFY: asks whether this is a user or a mailbox (RFC 5321 section 4.1.1.6). Text beyond ASCII needs SMTPUTF8
    /// (RFC 6531 section 3.7.4.2).
    ///
    /// # Errors
    /// The text is empty, too long, or holds control characters.
    pub fn verify(text: &str) -> Result<Self, RequestError> {
        Self::with_argument("VRFY", text, None, Alphabet::Utf8)
    }

    /// EXPN: asks who is on this mailing list (RFC 5321 section 4.1.1.7). Text beyond ASCII needs SMTPUTF8 (RFC 6531
    /// section 3.7.4.2).
    ///
    /// # Errors
    /// The text is empty, too long, or holds control characters.
    pub fn expand(text: &str) -> Result<Self, RequestError> {
        Self::with_argument("EXPN", text, None, Alphabet::Utf8)
    }

    /// ETRN: asks the server to process its queue for this host (RFC 1985). With `@` before the name it is for all
    /// hosts of this domain, and with `#` for a queue of this name. The server must offer ETRN.
    ///
    /// # Errors
    /// The name is empty, too long, or not printable ASCII without spaces.
    pub fn etrn(node: &str) -> Result<Self, RequestError> {
        match node.contains(' ') {
            true => Err(RequestError::Character {
                text: printable(node),
            }),
            false => Self::with_argument("ETRN", node, Some(Extension::Etrn), Alphabet::Ascii),
        }
    }

    /// XCLIENT: names the client that this proxy speaks for (Postfix's XCLIENT_README). The server must offer XCLIENT
    /// with each of the attributes. The session begins again after it, with EHLO.
    ///
    /// ```
    /// use smtp_proto::{Request, request::XClient};
    ///
    /// let client = "2001:db8::1".parse().unwrap();
    /// let request = Request::xclient([XClient::Addr(Some(client)), XClient::Name(None)])?;
    /// assert_eq!(request.to_string(), "XCLIENT ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE]");
    /// # Ok::<(), smtp_proto::request::RequestError>(())
    /// ```
    ///
    /// # Errors
    /// The attributes are missing, empty, or too long for one line.
    pub fn xclient(attributes: impl IntoIterator<Item = XClient>) -> Result<Self, RequestError> {
        Self::with_attributes(Extension::XClient, attributes)
    }

    /// XFORWARD: says where the next message came from, for the server's log (Postfix's XFORWARD_README). The server
    /// must offer XFORWARD with each of the attributes. What does not fit on one line can go in several requests.
    ///
    /// ```
    /// use smtp_proto::{Request, request::XForward};
    ///
    /// let request = Request::xforward([XForward::Helo(Some("a b".into())), XForward::Port(Some(25))])?;
    /// assert_eq!(request.to_string(), "XFORWARD HELO=a+20b PORT=25");
    /// # Ok::<(), smtp_proto::request::RequestError>(())
    /// ```
    ///
    /// # Errors
    /// The attributes are missing, empty, or too long for one line.
    pub fn xforward(attributes: impl IntoIterator<Item = XForward>) -> Result<Self, RequestError> {
        Self::with_attributes(Extension::XForward, attributes)
    }

    /// Any other command, verbatim.
    ///
    /// # Errors
    /// The line does not begin with a verb, is too long, or is not printable ASCII. After `VRFY` and `EXPN`,
    /// characters beyond ASCII are allowed. Some verbs would change the session without the engine's knowledge, or
    /// have their own call. The error then says what to use instead.
    pub fn raw(line: &str) -> Result<Self, RequestError> {
        let end = line.find(' ').unwrap_or(line.len());
        let (verb, argument) = (&line[..end], line.get(end + 1..).unwrap_or_default());
        if let Some((verb, instead)) = reserved(verb) {
            return Err(RequestError::Reserved { verb, instead });
        }
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        let alphabet = if is("VRFY") || is("EXPN") {
            Alphabet::Utf8
        } else {
            Alphabet::Ascii
        };
        // A word that we do not parse might still be a command to the server: " MAIL", or "MAIL" before a tab.
        if verb.is_empty() || !verb.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(RequestError::Verb {
                line: printable(line),
            });
        }
        check(argument, alphabet)?;
        Self::finish(line.into(), None)
    }

    fn with_argument(
        verb: &str,
        argument: &str,
        extension: Option<Extension>,
        alphabet: Alphabet,
    ) -> Result<Self, RequestError> {
        if argument.trim().is_empty() {
            return Err(RequestError::Empty);
        }
        check(argument, alphabet)?;
        // RFC 6531 section 3.7.4.2: the parameter allows the argument, and the reply, to be UTF-8.
        let utf8 = if argument.is_ascii() { "" } else { " SMTPUTF8" };
        Self::finish(alloc::format!("{verb} {argument}{utf8}"), extension)
    }

    fn with_attributes<A: Attribute>(
        extension: Extension,
        attributes: impl IntoIterator<Item = A>,
    ) -> Result<Self, RequestError> {
        let mut line = String::from(extension.keyword());
        for attribute in attributes {
            let before = line.len();
            attribute.write(&mut line);
            if line.ends_with('=') {
                return Err(RequestError::EmptyAttribute {
                    name: line[before..].trim_matches([' ', '=']).into(),
                });
            }
        }
        match line.len() == extension.keyword().len() {
            true => Err(RequestError::Empty),
            false => Self::finish(line, Some(extension)),
        }
    }

    fn finish(line: String, extension: Option<Extension>) -> Result<Self, RequestError> {
        match line.len() > MAX_LINE {
            true => Err(RequestError::TooLong),
            false => Ok(Self {
                line: line.into(),
                extension,
            }),
        }
    }

    /// The line without its CRLF.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }

    /// What the server does not offer but should: the extension, or one attribute of XCLIENT or XFORWARD as the
    /// second value.
    pub(crate) fn unsupported(
        &self,
        capabilities: &Capabilities,
    ) -> Option<(Extension, Option<&str>)> {
        // rule: requests.utf8
        if self.needs_utf8() && !capabilities.has(Extension::SmtpUtf8) {
            return Some((Extension::SmtpUtf8, None));
        }
        let extension = self.extension?;
        // rule: requests.xclient-not-offered
        if !capabilities.has(extension) {
            return Some((extension, None));
        }
        // rule: requests.etrn
        if extension == Extension::Etrn {
            return None;
        }
        let mut names = self
            .line
            .split(' ')
            .skip(1)
            .filter_map(|word| Some(word.split_once('=')?.0));
        // rule: requests.xforward-not-offered
        let missing = names.find(|name| {
            let mut listed = capabilities.parameters(extension.keyword());
            !listed.any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
        })?;
        Some((extension, Some(missing)))
    }

    /// What the server must offer, if anything.
    ///
    /// ```
    /// use smtp_proto::{Extension, Request};
    ///
    /// assert_eq!(Request::etrn("example.org")?.extension(), Some(Extension::Etrn));
    /// assert_eq!(Request::noop().extension(), None);
    /// # Ok::<(), smtp_proto::request::RequestError>(())
    /// ```
    pub fn extension(&self) -> Option<Extension> {
        self.extension
    }

    /// Whether it can be said only where SMTPUTF8 is offered.
    pub(crate) fn needs_utf8(&self) -> bool {
        !self.line.is_ascii()
    }

    /// Whether the session begins again after it: the server greets with 220, and EHLO follows.
    pub(crate) fn restarts_session(&self) -> bool {
        // rule: requests.xforward
        self.extension == Some(Extension::XClient)
    }
}

impl fmt::Display for Request {
    /// The line as it is sent, without its CRLF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// What XCLIENT tells about the client that a proxy speaks for. `None` is sent as `[UNAVAILABLE]`: the proxy does not
/// know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum XClient {
    /// The host name in the DNS. `None` if it does not have one.
    Name(Option<String>),
    /// The DNS could not be asked for the host name: `NAME=[TEMPUNAVAIL]`.
    NameUnknownForNow,
    /// The address.
    Addr(Option<IpAddr>),
    /// The TCP port.
    Port(Option<u16>),
    /// The protocol of the client.
    Proto(ClientProtocol),
    /// The client's name in HELO or EHLO.
    Helo(Option<String>),
    /// The name with which the client authenticated.
    Login(Option<String>),
    /// The address that the client connected to.
    DestAddr(Option<IpAddr>),
    /// The TCP port that the client connected to.
    DestPort(Option<u16>),
}

/// What XFORWARD tells about the origin of a message. `None` is sent as `[UNAVAILABLE]`: the filter does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum XForward {
    /// The host name.
    Name(Option<String>),
    /// The address.
    Addr(Option<IpAddr>),
    /// The TCP port.
    Port(Option<u16>),
    /// The name of the protocol.
    Proto(Option<String>),
    /// The client's name in HELO or EHLO.
    Helo(Option<String>),
    /// The name of the message on the host that received it, such as its queue identifier.
    Ident(Option<String>),
    /// Whether the message came from the host itself.
    Source(Option<MessageSource>),
}

/// The protocol of a client, for XCLIENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientProtocol {
    /// SMTP after HELO.
    Smtp,
    /// SMTP after EHLO.
    Esmtp,
}

/// Where a message came from, for XFORWARD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageSource {
    /// From the host that forwards it.
    Local,
    /// From elsewhere.
    Remote,
}

/// One attribute, written as ` NAME=value`.
trait Attribute {
    fn write(&self, line: &mut String);
}

impl Attribute for XClient {
    fn write(&self, line: &mut String) {
        match self {
            Self::Name(name) => push(line, "NAME", name.as_deref()),
            Self::NameUnknownForNow => push(line, "NAME", Some("[TEMPUNAVAIL]")),
            Self::Addr(address) => push_address(line, "ADDR", *address),
            Self::Port(port) => push_port(line, "PORT", *port),
            Self::Proto(ClientProtocol::Smtp) => push(line, "PROTO", Some("SMTP")),
            Self::Proto(ClientProtocol::Esmtp) => push(line, "PROTO", Some("ESMTP")),
            Self::Helo(name) => push(line, "HELO", name.as_deref()),
            Self::Login(name) => push(line, "LOGIN", name.as_deref()),
            Self::DestAddr(address) => push_address(line, "DESTADDR", *address),
            Self::DestPort(port) => push_port(line, "DESTPORT", *port),
        }
    }
}

impl Attribute for XForward {
    fn write(&self, line: &mut String) {
        match self {
            Self::Name(name) => push(line, "NAME", name.as_deref()),
            Self::Addr(address) => push_address(line, "ADDR", *address),
            Self::Port(port) => push_port(line, "PORT", *port),
            Self::Proto(name) => push(line, "PROTO", name.as_deref()),
            Self::Helo(name) => push(line, "HELO", name.as_deref()),
            Self::Ident(name) => push(line, "IDENT", name.as_deref()),
            Self::Source(source) => {
                let source = source.map(|source| match source {
                    MessageSource::Local => "LOCAL",
                    MessageSource::Remote => "REMOTE",
                });
                push(line, "SOURCE", source);
            }
        }
    }
}

fn push(line: &mut String, name: &str, value: Option<&str>) {
    // Formatting into a string cannot fail.
    let _ = write!(line, " {name}=");
    push_xtext(line, value.unwrap_or("[UNAVAILABLE]"));
}

fn push_address(line: &mut String, name: &str, address: Option<IpAddr>) {
    let text = address.map(|address| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => alloc::format!("IPV6:{v6}"),
    });
    push(line, name, text.as_deref());
}

fn push_port(line: &mut String, name: &str, port: Option<u16>) {
    push(line, name, port.map(|port| port.to_string()).as_deref());
}

/// Why a request cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The argument is empty.
    #[error("the request needs an argument")]
    Empty,
    /// An attribute of XCLIENT or XFORWARD has an empty value.
    #[error("the attribute {name} has an empty value; use None for an unknown value")]
    EmptyAttribute {
        /// The attribute.
        name: Box<str>,
    },
    /// A control character, or one beyond ASCII outside of VRFY and EXPN.
    #[error("\"{text}\" holds a character that the command cannot carry")]
    Character {
        /// The text, made printable.
        text: Box<str>,
    },
    /// The line does not begin with letters, digits and hyphens.
    #[error("\"{line}\" does not begin with a verb")]
    Verb {
        /// The line, made printable.
        line: Box<str>,
    },
    /// The line has more than 510 octets.
    #[error("the command is longer than 510 octets")]
    TooLong,
    /// The verb changes the session, so only the engine may send it. Or it has its own call.
    #[error("{verb} must not be written by hand; use {instead}")]
    Reserved {
        /// The verb.
        verb: &'static str,
        /// What to use instead.
        instead: &'static str,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    Ascii,
    Utf8,
}

fn check(text: &str, alphabet: Alphabet) -> Result<(), RequestError> {
    let fine = |c: char| !c.is_control() && (c.is_ascii() || alphabet == Alphabet::Utf8);
    match text.chars().all(fine) {
        true => Ok(()),
        false => Err(RequestError::Character {
            text: printable(text),
        }),
    }
}

fn printable(text: &str) -> Box<str> {
    Printable(text.as_bytes()).to_string().into()
}

/// The verbs that only the engine sends, and what to use instead of each.
fn reserved(verb: &str) -> Option<(&'static str, &'static str)> {
    const SUBMIT: &str = "Connection::submit, which sends messages";
    const OPENING: &str = "the engine, which opens the session by itself";
    const NOTHING: &str = "another client, because the engine does not support it";
    const VERBS: [(&str, &str); 20] = [
        ("EHLO", OPENING),
        ("HELO", OPENING),
        ("LHLO", OPENING),
        ("STARTTLS", "Config::tls"),
        ("AUTH", "Config::credentials"),
        ("MAIL", SUBMIT),
        ("RCPT", SUBMIT),
        ("DATA", SUBMIT),
        ("BDAT", SUBMIT),
        ("BURL", NOTHING),
        ("SEND", SUBMIT),
        ("SOML", SUBMIT),
        ("SAML", SUBMIT),
        ("RSET", "the engine, which resets by itself"),
        ("QUIT", "Connection::quit"),
        ("XCLIENT", "Request::xclient"),
        ("XFORWARD", "Request::xforward"),
        ("ETRN", "Request::etrn"),
        ("TURN", NOTHING),
        ("ATRN", NOTHING),
    ];
    VERBS
        .iter()
        .find(|(reserved, _)| reserved.eq_ignore_ascii_case(verb))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{Reply, ReplyCode};
    use alloc::format;
    use alloc::vec::Vec;

    fn offering(lines: &str) -> Capabilities {
        Capabilities::parse(Reply::new(
            ReplyCode::new(250).unwrap(),
            format!("mx\n{lines}").as_bytes(),
        ))
    }

    #[test]
    fn lines() {
        for (request, line) in [
            (Ok(Request::noop()), "NOOP"),
            (Request::help(None), "HELP"),
            (Request::help(Some("MAIL")), "HELP MAIL"),
            (
                Request::verify("Joe Public <joe@example.org>"),
                "VRFY Joe Public <joe@example.org>",
            ),
            (Request::verify("h\u{e4}ns"), "VRFY h\u{e4}ns SMTPUTF8"),
            (Request::expand("staff"), "EXPN staff"),
            (Request::etrn("@example.org"), "ETRN @example.org"),
            (
                Request::raw("VRFY h\u{e4}ns SMTPUTF8"),
                "VRFY h\u{e4}ns SMTPUTF8",
            ),
            (Request::raw("x-do it  twice "), "x-do it  twice "),
        ] {
            assert_eq!(request.unwrap().line(), line);
        }
    }

    #[test]
    fn verbs_of_the_engine_are_refused_in_any_case() {
        for verb in [
            "EHLO", "helo", "Lhlo", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT", "STARTTLS",
            "AUTH", "XCLIENT", "BURL", "TURN", "ATRN", "SEND", "SOML", "SAML", "ETRN", "xforward",
        ] {
            for line in [
                verb.into(),
                format!("{verb} "),
                format!("{verb} FROM:<a@b>"),
            ] {
                let error = Request::raw(&line).unwrap_err();
                assert!(
                    matches!(error, RequestError::Reserved { .. }),
                    "{line}: {error}"
                );
            }
            for line in [
                format!(" {verb}"),
                format!("{verb}\t"),
                format!("{verb}\0"),
                format!("{verb}:x"),
            ] {
                assert!(
                    matches!(Request::raw(&line), Err(RequestError::Verb { .. })),
                    "{line:?}"
                );
            }
        }
    }

    #[test]
    fn no_line_holds_what_would_end_it() {
        for bad in [
            "a\r\nQUIT",
            "a\n",
            "a\rb",
            "a\0b",
            "a\tb",
            "\u{7f}",
            "\u{85}",
        ] {
            for request in [
                Request::help(Some(bad)),
                Request::verify(bad),
                Request::expand(bad),
                Request::etrn(bad),
                Request::raw(bad),
                Request::raw(&format!("X {bad}")),
            ] {
                assert!(request.is_err(), "{request:?}");
            }
            let request = Request::xforward([XForward::Ident(Some(bad.into()))]).unwrap();
            assert!(
                request.line().bytes().all(|b| matches!(b, b' '..=b'~')),
                "{request}"
            );
        }
        for empty in ["", " "] {
            assert_eq!(Request::verify(empty), Err(RequestError::Empty));
            assert_eq!(Request::help(Some(empty)), Err(RequestError::Empty));
        }
        assert!(matches!(
            Request::etrn("a b"),
            Err(RequestError::Character { .. })
        ));
        assert!(matches!(
            Request::help(Some("\u{e4}")),
            Err(RequestError::Character { .. })
        ));
        assert!(matches!(
            Request::raw("X \u{e4}"),
            Err(RequestError::Character { .. })
        ));
        let error = Request::raw("VRFY a\r\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"a\\x0d\\x0a\" holds a character that the command cannot carry"
        );
    }

    #[test]
    fn a_line_has_512_octets_with_its_end() {
        let text = "a".repeat(512 - "\r\n".len() - "VRFY ".len());
        assert_eq!(Request::verify(&text).unwrap().line().len(), 510);
        assert_eq!(
            Request::verify(&format!("{text}a")),
            Err(RequestError::TooLong)
        );
        assert_eq!(
            Request::raw(&format!("VRFY {text}a")),
            Err(RequestError::TooLong)
        );
        assert_eq!(
            Request::xclient([XClient::Login(Some("+".repeat(200)))]),
            Err(RequestError::TooLong)
        );
    }

    #[test]
    fn attributes() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let all = Request::xclient([
            XClient::Name(Some("a.example".into())),
            XClient::Addr(Some(v4)),
            XClient::Port(Some(25)),
            XClient::Proto(ClientProtocol::Esmtp),
            XClient::Helo(Some("h\u{e4}".into())),
            XClient::Login(Some("joe+x=y".into())),
            XClient::DestAddr(Some("::1".parse().unwrap())),
            XClient::DestPort(None),
        ]);
        assert_eq!(
            all.unwrap().line(),
            "XCLIENT NAME=a.example ADDR=192.0.2.1 PORT=25 PROTO=ESMTP HELO=h+C3+A4 LOGIN=joe+2Bx+3Dy \
             DESTADDR=IPV6:::1 DESTPORT=[UNAVAILABLE]"
        );
        let unknown = Request::xclient([
            XClient::NameUnknownForNow,
            XClient::Proto(ClientProtocol::Smtp),
        ]);
        assert_eq!(
            unknown.unwrap().line(),
            "XCLIENT NAME=[TEMPUNAVAIL] PROTO=SMTP"
        );
        let all = Request::xforward([
            XForward::Name(None),
            XForward::Addr(Some(v4)),
            XForward::Proto(Some("ESMTP".into())),
            XForward::Ident(Some("1A".into())),
            XForward::Source(Some(MessageSource::Local)),
            XForward::Source(Some(MessageSource::Remote)),
            XForward::Source(None),
        ]);
        assert_eq!(
            all.unwrap().line(),
            "XFORWARD NAME=[UNAVAILABLE] ADDR=192.0.2.1 PROTO=ESMTP IDENT=1A SOURCE=LOCAL SOURCE=REMOTE \
             SOURCE=[UNAVAILABLE]"
        );
        assert_eq!(Request::xclient([]), Err(RequestError::Empty));
        let empty = Request::xclient([XClient::Port(Some(1)), XClient::Login(Some(String::new()))]);
        assert_eq!(
            empty,
            Err(RequestError::EmptyAttribute {
                name: "LOGIN".into()
            })
        );
    }

    #[test]
    fn what_is_not_offered_is_named() {
        let nothing = offering("");
        let unsupported = |request: &Request, c: &Capabilities| {
            request
                .unsupported(c)
                .map(|(extension, name)| (extension, name.map(String::from)))
        };
        let free = [
            Request::noop(),
            Request::verify("a").unwrap(),
            Request::raw("XYZZY").unwrap(),
        ];
        let none: Vec<_> = free
            .iter()
            .filter_map(|request| unsupported(request, &nothing))
            .collect();
        assert_eq!(none, []);

        let etrn = Request::etrn("a").unwrap();
        assert_eq!(unsupported(&etrn, &nothing), Some((Extension::Etrn, None)));
        assert_eq!(unsupported(&etrn, &offering("ETRN")), None);

        let utf8 = Request::expand("h\u{e4}ns").unwrap();
        assert!(utf8.needs_utf8() && !etrn.needs_utf8());
        assert_eq!(
            unsupported(&utf8, &nothing),
            Some((Extension::SmtpUtf8, None))
        );
        assert_eq!(unsupported(&utf8, &offering("SMTPUTF8")), None);

        let proxy = Request::xclient([XClient::Name(None), XClient::Login(None)]).unwrap();
        assert!(proxy.restarts_session() && !etrn.restarts_session());
        assert_eq!(
            unsupported(&proxy, &nothing),
            Some((Extension::XClient, None))
        );
        assert_eq!(
            unsupported(&proxy, &offering("XCLIENT NAME ADDR")),
            Some((Extension::XClient, Some("LOGIN".into())))
        );
        assert_eq!(unsupported(&proxy, &offering("XCLIENT name login")), None);
    }
}
