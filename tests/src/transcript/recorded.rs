//! Records: the additional words of a record, compared with a [transcript](super).
//!
//! [`Server::record`](smtp_adapter::Server::record) writes records, and `tests/tests/replay.rs` replays them. A record has
//! the line `recorded` in its head, and needs no rule. Its lines are in the order of events. A `message` is at the place
//! where it was submitted, its body where it was sent, and an `expect` where the engine reported the result.
//!
//! A record has no secrets. The user is `user`, the password is another one, and `****` in a client's line is any SASL
//! response. These are the additional words:
//!
//! | words | meaning |
//! |---|---|
//! | `pause 187us` | time passes, in microseconds |
//! | `timeout` | the transport reports that a deadline has passed; a transport may be late, so a `pause` alone reports nothing |
//! | `ungiven 27` | at the next step, the last 27 octets of the client have not gone out |
//! | `of 1` | the lines with `\|` that follow are the body of message 1 |
//! | `expect body 1` | the engine wants the body of message 1 |
//! | `hold 1 4096` | the application gives 4096 octets, and no more before the next step |
//! | `border 1 100` | a chunk ends after 100 octets of the body, although it is not full |
//! | `body-ends 1` | the application ends the body |
//! | `data 1 0..4096` | the client sends these octets by DATA; with `end`, the end of the data too |
//! | `bdat 1 0..4096` | the same in one chunk whose size is known |
//! | `chunk 1 65536` | the client sends a chunk of that size; with `last`, the last one |
//! | `tls verified exporter end-point` | a handshake succeeds, with these facts; `problem=WORDS` says why it is not verified |
//! | `tls-failed WORDS`, `tls-untrusted`, `tls-misconfigured`, `tls-settings` | a handshake fails |
//! | `lost WORDS` | the transport fails |
//! | `abort WORDS` | the application ends the session |
//! | `fail-body transient WORDS`, `fail-body permanent WORDS` | the application cannot give the rest of a body |
//! | `challenge` | a 334 whose base64 is left out, because it helps to guess the password; with `begun`, its first octet stands before |
//! | `config channel=local`, `config channel=tls` | the stream; the facts of TLS follow, each after `channel.` |
//! | `config custom` | a mechanism of the application |
//! | `wire!=KEYWORD:NAME=VALUE` | a parameter as it is sent; `?` instead of `!` if it is sent only if offered |
//! | `request xclient-as LINE`, `request xforward-as LINE` | the attributes as they are sent |
//! | `expect ... says WORDS` | the result in words for people |
//! | `expect ... nothing` | no result |

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::envelope::BodyType;
use smtp_proto::parameter::{MailParameter, Parameter, RcptParameter};
use smtp_proto::{Cause, Credentials, Outcome, TlsFacts};

use super::parse::{as_string, parse_number, text};
use super::{Action, Message, Step};
use crate::cli::{mail_parameter, rcpt_parameter};

/// What happens in a session, beyond what a transcript can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// A handshake succeeds, and this is known of the server.
    Tls(TlsFacts),
    /// A handshake fails, or the server refuses us after it.
    NoTls(Cause),
    /// So many of the octets that the client has said have not gone out by the next step.
    Ungiven(usize),
    /// The transport says that a deadline has passed.
    Timeout,
    /// The connection is lost.
    Lost(Cause),
    /// The application ends the session.
    Abort(String),
    /// The application cannot give the rest of a body.
    FailBody(Outcome, String),
    /// The server sends a challenge that was not written down, of which the first octet has come before, or not.
    Challenge(bool),
}

/// What the engine tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Mail can be sent.
    Ready,
    /// The server does not take overlapping envelopes.
    OverlapBroken,
    /// The body of this message is wanted.
    Body(usize),
    /// This message is finished.
    Message(usize),
    /// This request is answered.
    Request(usize),
    /// The connection has ended.
    Closed,
}

/// How the application gives a body, each time that it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Where it keeps the rest back until something happens.
    pub holds: Vec<usize>,
    /// Where chunks end that are not full.
    pub borders: Vec<usize>,
    /// Whether it says that there is no more.
    pub ends: bool,
    /// What is encoded for chunks, and in none of them yet.
    pub(super) chunks: Encoder,
}

/// `tls`, and the other words that a transcript does not have.
pub(super) fn parse_recorded(word: &str, rest: &str) -> Result<Recorded, String> {
    let words = || as_string(text(rest)?);
    let cause = || words().map(Arc::<str>::from);
    Ok(match word {
        "tls" => Recorded::Tls(parse_facts(rest.split_whitespace())?),
        "tls-failed" => Recorded::NoTls(Cause::TlsFailed(cause()?)),
        "tls-untrusted" => Recorded::NoTls(Cause::TlsUntrusted(cause()?)),
        "tls-misconfigured" => Recorded::NoTls(Cause::TlsMisconfigured(cause()?)),
        "tls-settings" => Recorded::NoTls(Cause::Settings(cause()?)),
        "lost" => Recorded::Lost(Cause::Transport(cause()?)),
        "abort" => Recorded::Abort(words()?),
        "fail-body" => {
            let (outcome, reason) = rest.split_once(' ').ok_or("a reason is missing")?;
            let outcome = match outcome {
                "permanent" => Outcome::Permanent,
                "transient" => Outcome::Transient,
                _ => return Err(format!("a body does not fail `{outcome}`")),
            };
            Recorded::FailBody(outcome, as_string(text(reason)?)?)
        }
        "ungiven" => Recorded::Ungiven(parse_number(rest)?),
        "timeout" if rest.is_empty() => Recorded::Timeout,
        "challenge" if rest.is_empty() => Recorded::Challenge(false),
        "challenge" if rest == "begun" => Recorded::Challenge(true),
        _ => return Err(format!("`{word} {rest}` means nothing")),
    })
}

/// What is known of an encrypted channel. The octets of a binding are anybody's.
pub(super) fn parse_facts<'a>(
    words: impl IntoIterator<Item = &'a str>,
) -> Result<TlsFacts, String> {
    let mut facts = TlsFacts::default();
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("verified", "") => facts.verified = true,
            ("problem", words) => facts.problem = Some(as_string(text(words)?)?.into()),
            ("exporter", "") => facts.exporter = Some([0; 32]),
            ("end-point", "") => facts.server_end_point = Some([0; 32].into()),
            _ => return Err(format!("nothing is known by `{word}`")),
        }
    }
    Ok(facts)
}

/// A message number, and what follows it.
pub(super) fn parse_message_number(
    rest: &str,
    messages: &[Message],
) -> Result<(usize, String), String> {
    let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let index = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    let index = index.filter(|&index| index < messages.len());
    let index = index.ok_or_else(|| format!("there is no message `{number}`"))?;
    Ok((index, rest.to_owned()))
}

/// What the client says of a body: `data`, `bdat` or `chunk`.
pub(super) fn parse_said(word: &str, rest: &str, message: &mut Message) -> Result<Vec<u8>, String> {
    if word == "chunk" {
        let (octets, is_last) = match rest.strip_suffix(" last") {
            Some(octets) => (octets, true),
            None => (rest, false),
        };
        let octets: usize = parse_number(octets)?;
        let is_binary = message.envelope.body_type() == BodyType::Binary;
        let run = message.runs.last_mut().ok_or("no body is wanted")?;
        run.chunks.encode(&message.body, true, is_binary);
        if is_last {
            run.chunks.finish(true, is_binary);
        }
        if octets > run.chunks.wire.len() {
            return Err("the body has no such chunk".into());
        }
        let chunk: Vec<u8> = run.chunks.wire.drain(..octets).collect();
        let last = if is_last { " LAST" } else { "" };
        return Ok([format!("BDAT {octets}{last}\r\n").as_bytes(), &chunk].concat());
    }
    let (range, ends) = match rest.strip_suffix(" end") {
        Some(range) => (range, true),
        None => (rest, false),
    };
    let Range { start, end } = parse_range(range)?;
    if end > message.body.len() {
        return Err("the body has no such octets".into());
    }
    let is_chunked = word == "bdat";
    let mut before = message.wire(start, is_chunked, false).len();
    let mut said = message.wire(end, is_chunked, ends);
    if !is_chunked {
        return Ok(said.split_off(before));
    }
    let octets = message.envelope.exact_size_octets();
    let octets = octets.ok_or("one chunk needs a message of exact size")?;
    // Before the end is known, the last octet is kept back: a body that is too long must not be delivered.
    let kept_back = usize::try_from(octets)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    before = before.min(kept_back);
    if !ends {
        said.truncate(kept_back);
    }
    let mut said = said.split_off(before);
    if start == 0 {
        said.splice(..0, format!("BDAT {octets} LAST\r\n").into_bytes());
    }
    Ok(said)
}

fn parse_range(range: &str) -> Result<Range<usize>, String> {
    let (start, end) = range.split_once("..").ok_or("a range is A..B")?;
    let (start, end) = (parse_number(start)?, parse_number(end)?);
    match start <= end {
        true => Ok(start..end),
        false => Err(format!("`{range}` is no range")),
    }
}

impl Message {
    /// The first octets of the body on the wire.
    fn wire(&self, octets: usize, is_chunked: bool, ends: bool) -> Vec<u8> {
        let is_binary = self.envelope.body_type() == BodyType::Binary;
        let mut encoder = Encoder::default();
        encoder.encode(&self.body[..octets], is_chunked, is_binary);
        if ends {
            encoder.finish(is_chunked, is_binary);
        }
        encoder.wire
    }
}

/// A body on the wire. It is written without a look at the engine, so that the two are judges of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoder {
    wire: Vec<u8>,
    /// So many octets of the body are encoded, and this was the last one.
    done: usize,
    last: u8,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            wire: Vec::new(),
            done: 0,
            last: b'\n',
        }
    }
}

impl Encoder {
    fn encode(&mut self, body: &[u8], is_chunked: bool, is_binary: bool) {
        for &octet in &body[self.done..] {
            if !is_binary {
                if self.last == b'\r' && octet != b'\n' {
                    self.wire.push(b'\n');
                    self.last = b'\n';
                }
                if octet == b'\n' && self.last != b'\r' {
                    self.wire.push(b'\r');
                }
                if octet == b'.' && self.last == b'\n' && !is_chunked {
                    self.wire.push(b'.');
                }
            }
            self.wire.push(octet);
            self.last = octet;
        }
        self.done = body.len();
    }

    fn finish(&mut self, is_chunked: bool, is_binary: bool) {
        match self.last {
            b'\n' => {}
            _ if is_binary => {}
            b'\r' => self.wire.push(b'\n'),
            _ => self.wire.extend(b"\r\n"),
        }
        if !is_chunked {
            self.wire.extend(b".\r\n");
        }
    }
}

/// Whether the client has said this, where a record has no secrets.
pub fn is_said(expected: &[u8], said: &[u8]) -> bool {
    let (mut expected, mut said) = (lines(expected), lines(said));
    loop {
        match (expected.next(), said.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if one == other => {}
            (Some(one), Some(other)) => {
                let known = one.strip_suffix(b"****\r\n");
                let response = known.and_then(|known| other.strip_prefix(known));
                let is_response = response.is_some_and(|response| {
                    let response = response.trim_ascii_end();
                    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
                    response.iter().all(is_base64)
                });
                if !is_response {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets.split_inclusive(|&octet| octet == b'\n')
}

/// Settings that lead to the same commands. A first response that did not fit the line of AUTH is a long one here.
/// The engine looks for a secret in what the server says. It does not look for one that is so short, or so odd.
pub(super) fn log_in(
    settings: &mut BTreeMap<String, String>,
    steps: &[Step],
    was_ready: bool,
    closed: &str,
) {
    let is_late = |name: &&str| has_line(steps, &format!("AUTH {name}\r\n"));
    let mut set = |keys: &[&str], value: String| {
        for key in keys {
            settings
                .entry((*key).into())
                .and_modify(|old| old.clone_from(&value));
        }
    };
    set(
        &["password", "token"],
        match ["PLAIN", "XOAUTH2", "OAUTHBEARER"].iter().any(is_late) {
            true => "~^~".repeat(200),
            false => SECRET.into(),
        },
    );
    if is_late(&"ANONYMOUS") {
        // It has 255 characters at most.
        set(&["anonymous"], "\u{e9}".repeat(255));
    }
    if is_late(&"EXTERNAL") {
        set(&["authzid"], "x".repeat(400));
    }
    let words = closed.strip_prefix("says error auth: the token could not be fetched: ");
    if let Some((words, _)) = words.and_then(|words| words.rsplit_once(" (")) {
        settings.remove("token");
        settings.insert("no-token".into(), words.into());
    }
    if is_unread_scram(steps, was_ready) {
        settings.retain(|key, _| !["user", "password"].contains(&&**key));
        settings.insert("custom".into(), String::new());
    }
}

/// Whether the client logs in by SCRAM, and nobody here has the server's part of it: that of SHA-1, that for a long name,
/// that with its proof in the 235, and one that the client refuses. A mechanism that does not read it says the same.
fn is_unread_scram(steps: &[Step], was_ready: bool) -> bool {
    let said = steps.iter().filter_map(|step| match &step.action {
        Action::Client(octets) => Some(octets),
        _ => None,
    });
    let said: Vec<&[u8]> = said.flat_map(|octets| lines(octets)).collect();
    let count = |line: &[u8]| said.iter().filter(|said| **said == line).count();
    let mut logins = said.iter().filter(|line| line.starts_with(b"AUTH "));
    let Some(&first) = logins.next() else {
        return false;
    };
    let is_unread = first.starts_with(b"AUTH SCRAM-SHA-1")
        || !first.ends_with(b"****\r\n")
        || count(b"*\r\n") > 0
        || (was_ready && count(b"****\r\n") == count(first));
    first.starts_with(b"AUTH SCRAM-") && is_unread && logins.all(|other| *other == first)
}

/// The secret of each account.
pub const SECRET: &str = "x";

fn has_line(steps: &[Step], line: &str) -> bool {
    steps.iter().any(|step| match &step.action {
        Action::Client(octets) => lines(octets).any(|said| said == line.as_bytes()),
        _ => false,
    })
}

/// A mechanism of the application's own, of which its name is known, and what it has said. Whether the session was ready,
/// and how it has ended, tells the rest.
pub(super) fn custom(steps: &[Step], was_ready: bool, closed: &str) -> Credentials {
    let said = steps.iter().filter_map(|step| match &step.action {
        Action::Client(octets) => Some(octets),
        _ => None,
    });
    let said: Vec<String> = said
        .flat_map(|octets| lines(octets))
        .map(|line| String::from_utf8_lossy(line).trim_end().to_owned())
        .collect();
    let mut name = said.iter().find_map(|line| line.strip_prefix("AUTH "));
    // What was offered, and not begun.
    let is_withheld = name.is_none() && closed.contains("the credentials were not sent");
    let offered = steps.iter().find_map(|step| match &step.action {
        Action::Server(octets) => lines(octets)
            .find_map(|line| line.get(4..)?.strip_prefix(b"AUTH "))
            .map(|names| String::from_utf8_lossy(names).trim_end().to_owned()),
        _ => None,
    });
    if is_withheld {
        name = offered.as_deref();
    }
    let (name, has_initial) = match name.unwrap_or_default().split_once(' ') {
        Some((name, _)) => (name, true),
        None => (name.unwrap_or_default(), false),
    };
    // The error's own words follow the command.
    let words = closed.strip_prefix("says error auth: AUTH ");
    let words = words.and_then(|rest| rest.split_once(": ")?.1.rsplit_once(" ("));
    let (words, _) = words.unwrap_or_default();
    let mechanism = Custom {
        name: name.to_owned(),
        has_initial,
        is_withheld,
        gives_up_after: said.iter().position(|line| line == "*").map(|end| {
            // After XCLIENT, there may be more logins than one. The earlier ones did not give up.
            let logins = said[..end].split(|line| line.starts_with("AUTH "));
            let responses = logins.map(|login| login.iter().filter(|line| *line == "****").count());
            responses.max().unwrap_or(0)
        }),
        reads_challenges: words == MechanismError::Undecodable.to_string(),
        is_content: was_ready || words.is_empty(),
        words: words.to_owned(),
    };
    let is_bound = mechanism.name.ends_with("-PLUS");
    let credentials = Credentials::custom(move || Box::new(mechanism.clone()));
    match is_bound {
        true => credentials.permit_unverified().permit_in_clear(),
        false => credentials,
    }
}

#[derive(Clone)]
struct Custom {
    name: String,
    has_initial: bool,
    is_withheld: bool,
    /// It gives so many responses to challenges, and then none.
    gives_up_after: Option<usize>,
    reads_challenges: bool,
    /// It believes a server that accepts the login.
    is_content: bool,
    words: String,
}

impl Custom {
    fn error(&self) -> MechanismError {
        MechanismError::Other(self.words.clone().into())
    }
}

impl Mechanism for Custom {
    fn name(&self) -> &str {
        &self.name
    }

    fn exposes_secret(&self) -> bool {
        self.is_withheld
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(self.has_initial.then(|| Secret::new(SECRET.into())))
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        if let Some(left) = &mut self.gives_up_after {
            let Some(less) = left.checked_sub(1) else {
                return Err(self.error());
            };
            *left = less;
        }
        Ok(Secret::new(SECRET.into()))
    }

    fn verify(&mut self, _data: &[u8]) -> Result<(), MechanismError> {
        match self.is_content {
            true => Ok(()),
            false => Err(self.error()),
        }
    }

    fn reads_challenges(&self) -> bool {
        self.reads_challenges
    }
}

/// `wire!=KEYWORD:NAME=VALUE`, of MAIL.
pub(super) fn parse_mail_wire(source: &str) -> Result<Option<MailParameter>, String> {
    parse_wire(source, mail_parameter, MailParameter::offered_by)
}

/// The same of RCPT.
pub(super) fn parse_rcpt_wire(source: &str) -> Result<Option<RcptParameter>, String> {
    parse_wire(source, rcpt_parameter, RcptParameter::offered_by)
}

fn parse_wire<K>(
    source: &str,
    make: impl Fn(&str) -> Result<Parameter<K>, Box<dyn std::error::Error>>,
    offered_by: impl Fn(Parameter<K>, &str) -> Parameter<K>,
) -> Result<Option<Parameter<K>>, String>
where
    Parameter<K>: Sized,
{
    let Some(rest) = source.strip_prefix("wire") else {
        return Ok(None);
    };
    let (is_required, rest) = match (rest.strip_prefix("!="), rest.strip_prefix("?=")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(format!("`{source}` is no parameter")),
    };
    let (keyword, wire) = rest.split_once(':').ok_or("a keyword is missing")?;
    let wire = as_string(text(wire)?)?;
    // These three are written in xtext, and made of what that stands for.
    let plain = match wire.split_once('=') {
        Some((name @ ("ENVID" | "AUTH"), value)) => format!("{name}={}", from_xtext(value)?),
        Some(("ORCPT", value)) => {
            let (kind, address) = value.split_once(';').ok_or("ORCPT is TYPE;ADDRESS")?;
            format!("ORCPT={kind};{}", from_xtext(address)?)
        }
        _ => wire.clone(),
    };
    let made = make(&plain).map_err(|error| error.to_string())?;
    let made = match keyword {
        "" => made,
        keyword => offered_by(made, keyword),
    };
    if made.to_string() != wire {
        return Err(format!("`{wire}` became `{made}`"));
    }
    Ok(Some(match is_required {
        true => made.required(),
        false => made.if_offered(),
    }))
}

pub(super) fn from_xtext(xtext: &str) -> Result<String, String> {
    let mut octets = Vec::new();
    let mut rest = xtext.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => {
                let digits = [rest.next(), rest.next()];
                let digits: Option<Vec<u8>> = digits.into_iter().collect();
                let digits = digits.and_then(|digits| String::from_utf8(digits).ok());
                let octet = digits.and_then(|digits| u8::from_str_radix(&digits, 16).ok());
                octet.ok_or_else(|| format!("`{xtext}` is no xtext"))?
            }
            octet => octet,
        });
    }
    as_string(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_any_response_and_nothing_else() {
        assert!(is_said(b"AUTH PLAIN ****\r\n", b"AUTH PLAIN AGFi\r\n"));
        assert!(is_said(b"****\r\n****\r\n", b"AGFi\r\n\r\n"));
        assert!(!is_said(b"AUTH PLAIN ****\r\n", b"AUTH LOGIN AGFi\r\n"));
        assert!(!is_said(b"AUTH PLAIN ****\r\n", b"AUTH PLAIN a b\r\n"));
        assert!(!is_said(b"****\r\n", b"AGFi\r\nQUIT\r\n"));
        assert!(!is_said(b"QUIT\r\n", b"RSET\r\n"));
    }

    #[test]
    fn parameters_are_read_as_they_are_sent() {
        for wire in [
            "ENVID=a+2Bb",
            "RET=HDRS",
            "AUTH=e+2Bs@b",
            "BY=120;R",
            "X-A=b",
        ] {
            let parameter = parse_mail_wire(&format!("wire!=:{wire}")).unwrap().unwrap();
            assert_eq!(parameter.to_string(), wire);
        }
        for wire in ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;a+2Bb@c"] {
            let parameter = parse_rcpt_wire(&format!("wire?=:{wire}")).unwrap().unwrap();
            assert_eq!(parameter.to_string(), wire);
        }
        let other = parse_mail_wire("wire!=X-B:X-A=b").unwrap().unwrap();
        assert_eq!(other.keyword(), Some("X-B"));
    }
}
