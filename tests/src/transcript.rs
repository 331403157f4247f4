//! Transcripts: whole conversations with a server, as text, and what must come of them.
//!
//! A transcript shows one rule of the protocol. The same file is played against the engine in virtual
//! time ([`player`](crate::player)) and against the blocking adapter over a socket
//! ([`blocking_player`](crate::blocking_player)). It has a comment that says what forced the rule, a
//! head, a conversation, and expectations:
//!
//! ```text
//! # One of two recipients is refused: the other one gets the message (RFC 5321 section 3.3).
//! rule transaction.some-refused
//! config tls=never
//! message from=<a@example.org> to=<b@example.net>,<c@example.net>
//! | Subject: x
//!
//! S: 220 mx.example.net ESMTP
//! C: EHLO client.example
//! S: 250-mx.example.net
//! S: 250 PIPELINING
//! C: MAIL FROM:<a@example.org>
//! ...
//!
//! expect ready
//! expect 1 1 ok 250 2.0.0
//! expect 1 2 permanent rcpt 550 5.1.1
//! expect closed ok
//! ```
//!
//! # The head
//!
//! - `rule NAME` is what the file shows; the list of all rules is in `tests/transcripts.rs`.
//! - `engine-only: REASON` keeps the file from the adapters. The tests count and name such files.
//! - `config KEY=VALUE KEY ...` changes the defaults of the engine (the client's name is
//!   `client.example`): `tls=never|opportunistic|required|implicit`, `server-name`, `pipelining=off`,
//!   `overlap`, `lmtp`, `name`; `user` with `password` or `token`, `external` or `anonymous=TRACE`,
//!   `authzid`, `auth=MECHANISM,...` and `in-clear`; `nonce`, 24 letters of base64, without which the
//!   engine tries no SCRAM (the adapters draw one of their own then); `exporter`, 32 octets, `end-point`
//!   and `verified`, which are the [`TlsFacts`] of the engine's handshake (the adapters have real ones);
//!   `timeout.KIND=200ms`, where KIND is a field of [`Timeouts`], or `reply` for all replies;
//!   `limit.reply.line|lines|octets`, `limit.in-flight|messages|challenges|scram-iterations`;
//!   `body.refuse-bare`, `body.allow-nul`, `body.refuse-long-lines`.
//! - `message from=<A> to=<B>,<C> [body=7bit|8bit|8bit-anyway] [size=N] [all-or-nothing]` is a message,
//!   and the lines behind it that begin with `|` are its body. A line `hold` among them keeps the rest of
//!   the body back until the server has said something.
//!
//! # The conversation
//!
//! - `S: TEXT` is a line of the server's. Lines that follow each other arrive at once.
//! - `C: TEXT` is a line of the client's. Lines that follow each other are one batch: all of them, and
//!   not one octet more, must be on offer before the next step. So a batch that is too long, too short or
//!   too early fails.
//! - `split` parts what the server says in two; the client must have nothing to say to the first part.
//! - `pause 300ms` lets time pass. `eof` is the end of what the server says.
//! - `tls` is a handshake that succeeds, `tls-failed` and `tls-untrusted` are handshakes that do not.
//! - `submit` and `quit` are said by the application. Without any of them it submits all messages at
//!   once, and then quits.
//! - `jam` stops the transport: the client has more to say than the batch before, and none of it is taken.
//!
//! Text is taken as it stands, with these escapes: `\\`, `\r`, `\n`, `\0`, `\xNN`, `\s` for a space that
//! an editor might remove, `\{N*TEXT}` for N times TEXT, and a `\` at the end of a line, which leaves out
//! the CRLF. Blank lines and lines that begin with `#` mean nothing.
//!
//! # The expectations
//!
//! `expect ready` where the opening succeeds; `expect overlap-broken` where the engine says so; `expect MESSAGE RECIPIENT RESULT` for each, from 1, `*` for
//! all recipients; `expect closed RESULT`, or `expect open`. A result is `ok` (with the code and the
//! enhanced code of the reply, where there is one), or an outcome, a stage and a cause, as [`describe`]
//! writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::{
    BodyError, BodyType, Cause, ClientName, Config, Credentials, Envelope, Error, LineEndings,
    MechanismError, Nonce, Outcome, Protocol, ProtocolError, Reply, ReplyError, Report, Timeouts, TlsFacts,
    TlsPolicy,
};

/// One conversation, and what must come of it.
#[derive(Debug)]
pub struct Transcript {
    /// The file, below the corpus folder.
    pub name: String,
    /// The rules that it shows.
    pub rules: Vec<String>,
    /// Why no adapter can play it, if none can.
    pub engine_only: Option<String>,
    /// How the client is set up.
    pub config: Config,
    /// The name that the server's certificate must be valid for.
    pub server_name: Option<String>,
    /// What the engine is told of its handshake.
    pub tls_facts: TlsFacts,
    /// What the application sends.
    pub messages: Vec<Message>,
    /// What happens, in order. No two neighbours are both the client's or both the server's words.
    pub steps: Vec<Step>,
    expected: Expected,
}

/// One message of a transcript.
#[derive(Debug)]
pub struct Message {
    /// Sender, recipients and what is declared.
    pub envelope: Envelope,
    /// The body as the application has it.
    pub body: Vec<u8>,
    /// Where the application keeps the rest of the body back until the server speaks.
    pub holds: Vec<usize>,
}

/// One step of a conversation.
#[derive(Debug)]
pub struct Step {
    /// Its line in the file, the first one where it has several.
    pub line: usize,
    /// What happens.
    pub action: Action,
}

/// What happens in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client says exactly this.
    Client(Vec<u8>),
    /// The server says this.
    Server(Vec<u8>),
    /// Time passes between two parts of what the server says.
    Split,
    /// This much time passes.
    Pause(Duration),
    /// The server closes.
    Eof,
    /// A handshake succeeds.
    Tls,
    /// A handshake fails.
    TlsFailed,
    /// The certificate is refused.
    TlsUntrusted,
    /// The application submits its next message.
    Submit,
    /// The application quits.
    Quit,
    /// The transport takes nothing more.
    Jam,
}

#[derive(Debug, Default)]
struct Expected {
    ready: bool,
    overlap_broken: bool,
    /// For each message, for each recipient: a line number and a result.
    messages: Vec<Vec<Option<(usize, String)>>>,
    /// None where it stays open.
    closed: Option<(usize, String)>,
    /// The line of `expect closed` or `expect open`.
    end: Option<usize>,
}

/// What has come of a conversation.
#[derive(Debug, Default)]
pub struct Observed {
    /// Whether the opening succeeded.
    pub ready: bool,
    /// Whether the server was found not to take overlapping envelopes.
    pub overlap_broken: bool,
    /// The report of each message, where there was one.
    pub reports: Vec<Option<Report>>,
    /// How the connection ended, where it has.
    pub closed: Option<Result<(), Error>>,
}

/// What is wrong, and where.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The file and the line.
    pub place: String,
    /// The difference.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for Failure {}

/// The folder of all transcripts.
pub fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// All transcripts, sorted by name.
///
/// # Errors
/// A file that cannot be read, that is no transcript, or whose name does not end in `.txt`.
pub fn read_corpus() -> Result<Vec<Transcript>, Failure> {
    let mut files = BTreeSet::new();
    let mut folders = vec![corpus_folder()];
    let failure = |path: &Path, message: String| Failure { place: path.display().to_string(), message };
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| failure(&folder, error.to_string()))?;
        for entry in entries {
            let path = entry.map_err(|error| failure(&folder, error.to_string()))?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(files.insert(path)),
            }
        }
    }
    let read = |path: &PathBuf| {
        if path.extension().is_none_or(|extension| extension != "txt") {
            return Err(failure(path, "a transcript's name ends in .txt".into()));
        }
        let text = fs::read_to_string(path).map_err(|error| failure(path, error.to_string()))?;
        let name = path.strip_prefix(corpus_folder()).unwrap_or(path);
        Transcript::parse(&name.display().to_string(), &text)
    };
    files.iter().map(read).collect()
}

impl Transcript {
    /// Reads a transcript.
    ///
    /// # Errors
    /// Text that is none.
    pub fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let mut parser = Parser::default();
        let mut number = 0;
        for line in text.lines() {
            number += 1;
            parser.line(number, line).map_err(|message| at(name, number, message))?;
        }
        parser.finish(name).map_err(|message| at(name, number, message))
    }

    /// Whether a body is to end the session in its middle, because it cannot be sent.
    pub fn ends_in_body(&self) -> bool {
        self.expected.closed.as_ref().is_some_and(|(_, result)| result.contains(" body body "))
    }

    /// A failure in this line.
    pub fn failure(&self, line: usize, message: String) -> Failure {
        at(&self.name, line, message)
    }

    /// Whether the application speaks where the conversation says so, instead of at once.
    pub fn is_cued(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Submit | Action::Quit))
    }

    /// The responses of SASL, which nobody may find in a trace or an error: the argument of AUTH, and
    /// what answers a 334.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        let mut challenged = false;
        for step in &self.steps {
            match &step.action {
                Action::Server(text) => challenged = text.starts_with(b"334"),
                Action::Client(text) => {
                    let text = String::from_utf8_lossy(text);
                    let line = text.lines().next().unwrap_or_default();
                    let response = match line.strip_prefix("AUTH ") {
                        Some(auth) => auth.split_once(' ').map(|(_, response)| response),
                        None => challenged.then_some(line),
                    };
                    secrets.extend(response.filter(|r| r.len() > 1).map(str::to_owned));
                    challenged = false;
                }
                _ => {}
            }
        }
        secrets
    }

    /// Compares what has come of the conversation with what was to come.
    ///
    /// # Errors
    /// Every difference.
    pub fn check(&self, observed: &Observed) -> Result<(), Failure> {
        let mut first = None;
        let mut message = String::new();
        let mut compare = |line: usize, what: &str, expected: &str, actual: &str| {
            if expected != actual {
                first.get_or_insert(line);
                let _ = write!(message, "\n  {what}: expected `{expected}`, and it is `{actual}`");
            }
        };
        let end = self.expected.end.unwrap_or_default();
        let readiness = |ready| if ready { "ready" } else { "not ready" };
        compare(end, "the opening", readiness(self.expected.ready), readiness(observed.ready));
        let brokenness = |broken| if broken { "broken" } else { "not broken" };
        let (expected, actual) = (self.expected.overlap_broken, observed.overlap_broken);
        compare(end, "overlap", brokenness(expected), brokenness(actual));
        for (index, recipients) in self.expected.messages.iter().enumerate() {
            let report = observed.reports.get(index).and_then(Option::as_ref);
            let results = report.map_or(&[][..], |report| &report.recipients);
            for (position, expected) in recipients.iter().enumerate() {
                let Some((line, expected)) = expected else { continue };
                let actual = results.get(position).map_or("nothing".into(), describe);
                let what = format!("message {}, recipient {}", index + 1, position + 1);
                compare(*line, &what, expected, &actual);
            }
            let misplaced = results.iter().enumerate().find(|(position, result)| {
                matches!(result, Err(Error { recipient: Some(about), .. }) if about != position)
            });
            if let Some((position, _)) = misplaced {
                compare(end, "a result", "about its own recipient", &format!("{}", position + 1));
            }
        }
        let expected = self.expected.closed.as_ref().map_or("open", |(_, expected)| expected);
        let actual = match &observed.closed {
            None => "open".into(),
            Some(Ok(())) => "ok".into(),
            Some(Err(error)) => describe_error(error),
        };
        compare(end, "the connection", expected, &actual);
        match first {
            None => Ok(()),
            Some(line) => Err(self.failure(line, message)),
        }
    }
}

fn at(name: &str, line: usize, message: String) -> Failure {
    Failure { place: format!("tests/corpus/{name}:{line}"), message }
}

/// What two pieces of the conversation differ in, line by line.
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let list = |octets: &[u8]| {
        let lines = octets.split_inclusive(|&octet| octet == b'\n');
        lines.map(|line| format!("\n    {}", line.escape_ascii())).collect::<String>()
    };
    let common = expected.iter().zip(actual).take_while(|(a, b)| a == b).count();
    format!(
        "the client does not say what it must (the first {common} octets agree)\n  expected:{}\n  actual:{}",
        list(expected),
        list(actual)
    )
}

/// A result in the words of an expectation.
pub fn describe(result: &Result<Reply, Error>) -> String {
    match result {
        Ok(reply) => format!("ok {}", describe_reply(reply)),
        Err(error) => describe_error(error),
    }
}

fn describe_reply(reply: &Reply) -> String {
    match reply.enhanced() {
        Some(enhanced) => format!("{} {enhanced}", reply.code()),
        None => reply.code().to_string(),
    }
}

fn describe_error(error: &Error) -> String {
    let outcome = match error.outcome {
        Outcome::Transient => "transient",
        Outcome::Permanent => "permanent",
        Outcome::InDoubt => "in-doubt",
        Outcome::NotAttempted => "not-attempted",
    };
    format!("{outcome} {} {}", error.stage, describe_cause(&error.cause))
}

fn describe_cause(cause: &Cause) -> String {
    match cause {
        Cause::Rejected(reply) => describe_reply(reply),
        Cause::HelloRejected { ehlo, helo } => format!("hello {} {}", ehlo.code(), helo.code()),
        Cause::TimedOut(_) => "timeout".into(),
        Cause::Disconnected => "disconnected".into(),
        Cause::Protocol(error) => format!("protocol {}", describe_protocol_error(error)),
        Cause::Unsupported(extension) => format!("unsupported {extension}"),
        Cause::TooLarge { size, limit } => format!("too-large {size} {limit}"),
        Cause::TlsUnavailable(None) => "tls-unavailable".into(),
        Cause::TlsUnavailable(Some(reply)) => format!("tls-unavailable {}", describe_reply(reply)),
        Cause::TlsFailed(_) => "tls-failed".into(),
        Cause::TlsUntrusted(_) => "tls-untrusted".into(),
        Cause::AuthUnavailable => "auth-unavailable".into(),
        Cause::NoCommonMechanism(offered) => format!("no-common-mechanism {offered}").trim_end().to_owned(),
        Cause::CredentialsInClear => "credentials-in-clear".into(),
        Cause::TokenRejected { reply, error } => {
            format!("token-rejected {} ({error})", describe_reply(reply))
        }
        Cause::Mechanism(error) => describe_mechanism_error(error),
        Cause::Body(BodyError::BareCr) => "body bare-cr".into(),
        Cause::Body(BodyError::BareLf) => "body bare-lf".into(),
        Cause::Body(BodyError::Nul) => "body nul".into(),
        Cause::Body(BodyError::LineTooLong) => "body line-too-long".into(),
        Cause::Body(BodyError::EightBit) => "body eight-bit".into(),
        Cause::AllOrNothing => "all-or-nothing".into(),
        other => format!("({other})"),
    }
}

fn describe_mechanism_error(error: &MechanismError) -> String {
    match error {
        MechanismError::Undecodable => "mechanism undecodable".into(),
        MechanismError::UnexpectedChallenge => "mechanism unexpected-challenge".into(),
        MechanismError::Nul => "mechanism nul".into(),
        MechanismError::Control => "mechanism control".into(),
        MechanismError::Prohibited => "mechanism prohibited".into(),
        MechanismError::Malformed(_) => "mechanism malformed".into(),
        MechanismError::Nonce => "mechanism nonce".into(),
        MechanismError::Iterations { asked, .. } => format!("mechanism iterations {asked}"),
        MechanismError::Server(error) => format!("mechanism server {error}"),
        MechanismError::Unproven => "mechanism unproven".into(),
        MechanismError::WrongProof => "mechanism wrong-proof".into(),
        other => format!("({other})"),
    }
}

fn describe_protocol_error(error: &ProtocolError) -> String {
    match error {
        ProtocolError::Malformed(ReplyError::LineTooLong { .. }) => "line-too-long".into(),
        ProtocolError::Malformed(ReplyError::TooManyLines { .. }) => "too-many-lines".into(),
        ProtocolError::Malformed(ReplyError::TooLong { .. }) => "too-long".into(),
        ProtocolError::Malformed(ReplyError::BareCr) => "bare-cr".into(),
        ProtocolError::Malformed(ReplyError::NotAReply(_)) => "not-a-reply".into(),
        ProtocolError::Malformed(ReplyError::CodesDisagree { .. }) => "codes-disagree".into(),
        ProtocolError::Unexpected(reply) => format!("unexpected {}", reply.code()),
        ProtocolError::WrongClass(reply) => format!("wrong-class {}", reply.code()),
        ProtocolError::OctetsBehindStartTls => "octets-behind-starttls".into(),
        other => format!("({other})"),
    }
}

/// Reads line by line; everything is put together at the end, because settings come in any order.
#[derive(Default)]
struct Parser {
    commented: bool,
    rules: Vec<String>,
    engine_only: Option<String>,
    settings: BTreeMap<String, String>,
    messages: Vec<Message>,
    steps: Vec<Step>,
    expected: Expected,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            _ if word.starts_with('#') => self.commented = true,
            "S:" => self.say(number, Action::Server(text_line(rest)?)),
            "C:" => self.say(number, Action::Client(text_line(rest)?)),
            "expect" => self.expect(number, rest)?,
            "rule" | "engine-only:" | "config" | "message" | "|" | "hold" if !self.steps.is_empty() => {
                return Err(format!("`{word}` belongs in the head"));
            }
            "rule" => self.rules.push(rest.to_owned()),
            "engine-only:" => self.engine_only = Some(rest.to_owned()),
            "config" => {
                for setting in rest.split_whitespace() {
                    let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
                    let value = as_string(text(value)?)?;
                    if self.settings.insert(key.to_owned(), value).is_some() {
                        return Err(format!("`{key}` is set twice"));
                    }
                }
            }
            "message" => self.messages.push(parse_message(rest)?),
            "|" => {
                let message = self.messages.last_mut().ok_or("a body without a message")?;
                message.body.extend(text_line(rest)?);
            }
            "hold" => {
                let message = self.messages.last_mut().ok_or("a hold without a message")?;
                message.holds.push(message.body.len());
            }
            _ => self.say(number, parse_action(word, rest)?),
        }
        Ok(())
    }

    fn say(&mut self, line: usize, action: Action) {
        match (self.steps.last_mut().map(|step| &mut step.action), action) {
            (Some(Action::Client(all)), Action::Client(more)) => all.extend(more),
            (Some(Action::Server(all)), Action::Server(more)) => all.extend(more),
            (_, action) => self.steps.push(Step { line, action }),
        }
    }

    fn expect(&mut self, line: usize, rest: &str) -> Result<(), String> {
        match rest.split_once(' ').unwrap_or((rest, "")) {
            ("ready", "") => self.expected.ready = true,
            ("overlap-broken", "") => self.expected.overlap_broken = true,
            ("open", "") => self.expected.end = Some(line),
            ("closed", result) => {
                self.expected.end = Some(line);
                self.expected.closed = Some((line, result.to_owned()));
            }
            (message, rest) => {
                let messages = &mut self.expected.messages;
                messages.resize_with(self.messages.len(), Vec::new);
                let index = message.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let index = index.filter(|&n| n < messages.len()).ok_or("there is no such message")?;
                let count = self.messages[index].envelope.forward_paths().len();
                let recipients = &mut messages[index];
                recipients.resize(count, None);
                let (recipient, result) = rest.split_once(' ').ok_or("a result is missing")?;
                let result = Some((line, result.to_owned()));
                match recipient.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) {
                    Some(position) if position < count => recipients[position] = result,
                    None if recipient == "*" => recipients.fill(result),
                    _ => return Err("there is no such recipient".into()),
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, name: &str) -> Result<Transcript, String> {
        if !self.commented {
            return Err("a comment must say what this shows, and what forced it".into());
        }
        if self.rules.is_empty() {
            return Err("no `rule` is named".into());
        }
        if self.expected.end.is_none() {
            return Err("neither `expect closed` nor `expect open` is there".into());
        }
        self.expected.messages.resize_with(self.messages.len(), Vec::new);
        for (expected, message) in self.expected.messages.iter().zip(&self.messages) {
            if expected.len() != message.envelope.forward_paths().len() || expected.contains(&None) {
                return Err("every recipient needs an expectation".into());
            }
        }
        let server_name = self.settings.remove("server-name");
        let mut tls_facts = TlsFacts::default();
        tls_facts.verified = self.settings.remove("verified").is_some();
        if let Some(octets) = self.settings.remove("exporter") {
            let octets = octets.into_bytes().try_into();
            tls_facts.exporter = Some(octets.map_err(|_| "`exporter` has 32 octets")?);
        }
        tls_facts.server_end_point = self.settings.remove("end-point").map(|hash| hash.into_bytes().into());
        Ok(Transcript {
            name: name.to_owned(),
            rules: self.rules,
            engine_only: self.engine_only,
            config: config(self.settings)?,
            server_name,
            tls_facts,
            messages: self.messages,
            steps: self.steps,
            expected: self.expected,
        })
    }
}

fn parse_action(word: &str, rest: &str) -> Result<Action, String> {
    Ok(match (word, rest) {
        ("pause", duration) => Action::Pause(parse_duration(duration)?),
        ("split", "") => Action::Split,
        ("eof", "") => Action::Eof,
        ("tls", "") => Action::Tls,
        ("tls-failed", "") => Action::TlsFailed,
        ("tls-untrusted", "") => Action::TlsUntrusted,
        ("submit", "") => Action::Submit,
        ("quit", "") => Action::Quit,
        ("jam", "") => Action::Jam,
        _ => return Err(format!("`{word} {rest}` means nothing")),
    })
}

fn parse_message(attributes: &str) -> Result<Message, String> {
    let (mut from, mut to) = (None, Vec::new());
    let (mut body, mut size, mut all_or_nothing) = (BodyType::Undeclared, None, false);
    for attribute in attributes.split_whitespace() {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match (key, value) {
            ("from", address) => from = Some(as_string(text(address)?)?),
            ("to", addresses) => {
                for address in addresses.split(',') {
                    to.push(as_string(text(address)?)?);
                }
            }
            ("body", "7bit") => body = BodyType::SevenBit,
            ("body", "8bit") => body = BodyType::EightBit,
            ("body", "8bit-anyway") => body = BodyType::EightBitAnyway,
            ("size", octets) => size = Some(parse_number(octets)?),
            ("all-or-nothing", "") => all_or_nothing = true,
            _ => return Err(format!("a message has no `{attribute}`")),
        }
    }
    let from = from.ok_or("a message needs `from`")?;
    let envelope = Envelope::new(&from, &to).map_err(|error| error.to_string())?;
    let mut envelope = envelope.body(body).all_or_nothing(all_or_nothing);
    if let Some(size) = size {
        envelope = envelope.size(size);
    }
    Ok(Message { envelope, body: Vec::new(), holds: Vec::new() })
}

fn config(mut settings: BTreeMap<String, String>) -> Result<Config, String> {
    let mut take = |key: &str| settings.remove(key);
    let name = take("name").unwrap_or_else(|| "client.example".into());
    let mut config = Config::new(ClientName::parse(&name).map_err(|error| error.to_string())?);
    config.credentials = match (take("user"), take("password"), take("token")) {
        (Some(user), Some(password), None) => Some(Credentials::password(&user, &password)),
        (Some(user), None, Some(token)) => Some(Credentials::token(&user, &token)),
        (None, None, None) => match (take("external"), take("anonymous")) {
            (Some(_), None) => Some(Credentials::external()),
            (None, Some(trace)) => Some(Credentials::anonymous(&trace)),
            _ => None,
        },
        _ => return Err("credentials are a user and a password, or a user and a token".into()),
    };
    if let Some(identity) = take("authzid") {
        config.credentials = config.credentials.map(|credentials| credentials.authorization_id(&identity));
    }
    if let Some(nonce) = take("nonce") {
        let octets = STANDARD.decode(nonce).ok().and_then(|octets| octets.try_into().ok());
        config.nonce = Some(Nonce::from_octets(octets.ok_or("`nonce` is 18 octets in base64")?));
    }
    if let Some(names) = take("auth") {
        let names: Vec<&str> = names.split(',').collect();
        config.credentials = config.credentials.map(|credentials| credentials.mechanisms(&names));
    }
    if take("in-clear").is_some() {
        config.credentials = config.credentials.map(Credentials::permit_in_clear);
    }
    if let Some(reply) = take("timeout.reply") {
        config.timeouts = Timeouts::default().replies(parse_duration(&reply)?);
    }
    for (key, value) in settings {
        match (key.as_str(), value.as_str()) {
            ("tls", "never") => config.tls = TlsPolicy::Never,
            ("tls", "opportunistic") => config.tls = TlsPolicy::Opportunistic,
            ("tls", "required") => config.tls = TlsPolicy::Required,
            ("tls", "implicit") => config.tls = TlsPolicy::Implicit,
            ("lmtp", "") => config.protocol = Protocol::Lmtp,
            ("pipelining", "off") => config.pipelining = false,
            ("overlap", "") => config.overlap = true,
            ("body.refuse-bare", "") => config.body.line_endings = LineEndings::Refuse,
            ("body.allow-nul", "") => config.body.allow_nul = true,
            ("body.refuse-long-lines", "") => config.body.refuse_long_lines = true,
            ("limit.reply.line", n) => config.limits.reply.line = parse_number(n)?,
            ("limit.reply.lines", n) => config.limits.reply.lines = parse_number(n)?,
            ("limit.reply.octets", n) => config.limits.reply.octets = parse_number(n)?,
            ("limit.in-flight", n) => config.limits.in_flight = parse_number(n)?,
            ("limit.messages", n) => config.limits.messages = parse_number(n)?,
            ("limit.challenges", n) => config.limits.challenges = parse_number(n)?,
            ("limit.scram-iterations", n) => config.limits.scram_iterations = parse_number(n)?,
            (key, value) => {
                let kind = key.strip_prefix("timeout.").and_then(|kind| timeout(&mut config.timeouts, kind));
                *kind.ok_or_else(|| format!("there is no setting `{key}={value}`"))? = parse_duration(value)?;
            }
        }
    }
    Ok(config)
}

fn timeout<'t>(timeouts: &'t mut Timeouts, kind: &str) -> Option<&'t mut Duration> {
    Some(match kind {
        "greeting" => &mut timeouts.greeting,
        "ehlo" => &mut timeouts.ehlo,
        "starttls" => &mut timeouts.starttls,
        "handshake" => &mut timeouts.handshake,
        "auth" => &mut timeouts.auth,
        "mail" => &mut timeouts.mail,
        "rcpt" => &mut timeouts.rcpt,
        "data" => &mut timeouts.data,
        "block" => &mut timeouts.block,
        "eom" => &mut timeouts.end_of_message,
        "overlap" => &mut timeouts.overlap,
        "quit" => &mut timeouts.quit,
        _ => return None,
    })
}

fn parse_number<N: std::str::FromStr>(digits: &str) -> Result<N, String> {
    digits.parse().map_err(|_| format!("`{digits}` is no number"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").map(parse_number::<u64>);
    milliseconds.ok_or_else(|| format!("`{text}` is no duration, as 200ms is"))?.map(Duration::from_millis)
}

fn as_string(octets: Vec<u8>) -> Result<String, String> {
    String::from_utf8(octets).map_err(|_| "this must be UTF-8".into())
}

/// A line with its CRLF, unless a `\` at its end leaves that out.
fn text_line(line: &str) -> Result<Vec<u8>, String> {
    // An even number of backslashes is so many escaped ones.
    let backslashes = line.bytes().rev().take_while(|&b| b == b'\\').count();
    if backslashes % 2 == 1 {
        return text(&line[..line.len() - 1]);
    }
    let mut octets = text(line)?;
    octets.extend(b"\r\n");
    Ok(octets)
}

/// Resolves the escapes.
fn text(source: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = source;
    while let Some((plain, escape)) = rest.split_once('\\') {
        octets.extend(plain.as_bytes());
        let kind = escape.chars().next().ok_or("a lone backslash")?;
        rest = &escape[kind.len_utf8()..];
        match kind {
            '\\' => octets.push(b'\\'),
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            's' => octets.push(b' '),
            '0' => octets.push(0),
            'x' => {
                let (digits, tail) = rest.split_at_checked(2).ok_or("\\x needs two digits")?;
                octets.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                rest = tail;
            }
            '{' => {
                let (inner, tail) = rest.split_once('}').ok_or("\\{ needs a }")?;
                let (count, unit) = inner.split_once('*').ok_or("\\{N*TEXT} needs a *")?;
                octets.extend(text(unit)?.repeat(parse_number(count)?));
                rest = tail;
            }
            other => return Err(format!("there is no escape \\{other}")),
        }
    }
    octets.extend(rest.as_bytes());
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let line = |source| text_line(source).unwrap();
        assert_eq!(line("a"), b"a\r\n");
        assert_eq!(line("a\\"), b"a");
        assert_eq!(line("a\\\\"), b"a\\\r\n");
        assert_eq!(line("\\r\\n\\0\\xfF\\s\\"), b"\r\n\0\xff ");
        assert_eq!(line("x\\{3*ab\\r}y"), b"xab\rab\rab\ry\r\n");
        for bad in ["\\q", "\\x1", "\\{3*a", "\\{a}"] {
            assert!(text(bad).is_err(), "{bad}");
        }
    }

    const WHOLE: &str = "# x\nrule a.b\nconfig user=u password=p tls=never\n\
        message from=<a@b> to=<c@d>,<e@f>\n| x\n\nS: 250-x\nS: 250 y\nsplit\nS: 334 x\n\
        C: AUTH PLAIN abc\nC: QUIT\nexpect 1 * ok 250\nexpect closed ok\n";

    #[test]
    fn lines_that_follow_each_other_are_one_step() {
        let transcript = Transcript::parse("x", WHOLE).unwrap();
        let actions: Vec<_> = transcript.steps.iter().map(|step| step.action.clone()).collect();
        let expected = [
            Action::Server(b"250-x\r\n250 y\r\n".to_vec()),
            Action::Split,
            Action::Server(b"334 x\r\n".to_vec()),
            Action::Client(b"AUTH PLAIN abc\r\nQUIT\r\n".to_vec()),
        ];
        assert_eq!(actions, expected);
        assert_eq!(transcript.secrets(), ["abc"]);
        assert_eq!(transcript.messages[0].body, b"x\r\n");
    }

    #[test]
    fn what_is_no_transcript_is_refused() {
        for (good, bad) in [
            ("# x\n", ""),
            ("rule a.b\n", ""),
            ("tls=never", "tls=sometimes"),
            ("tls=never", "timeout.lunch=1ms"),
            ("password=p", ""),
            ("to=<c@d>,<e@f>", "to=<c@d>,<>"),
            ("split\n", "splits\n"),
            ("C: QUIT\n", "config lmtp\n"),
            ("1 *", "1 1"),
            ("1 *", "2 *"),
            ("1 *", "1 3"),
            ("expect closed ok\n", ""),
        ] {
            let text = WHOLE.replacen(good, bad, 1);
            assert!(Transcript::parse("x", &text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_difference_is_seen() {
        let transcript = Transcript::parse("x", WHOLE).unwrap();
        let reply = |code| Reply::new(smtp_proto::ReplyCode::new(code).unwrap(), b"x");
        let report = |codes: [u16; 2]| Some(Report { recipients: codes.map(|code| Ok(reply(code))).into() });
        let mut observed =
            Observed { reports: vec![report([250, 250])], closed: Some(Ok(())), ..Observed::default() };
        assert!(transcript.check(&observed).is_ok());
        observed.ready = true;
        observed.reports = vec![report([250, 251])];
        observed.closed = None;
        let failure = transcript.check(&observed).unwrap_err();
        assert_eq!(failure.message.lines().count(), 4, "{failure}");
        observed.reports.clear();
        assert!(transcript.check(&observed).is_err());
    }
}
