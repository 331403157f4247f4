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
//!   `overlap`, `lmtp`, `name`; `chunking=never|always|eager` (where it is offered, without the key),
//!   `chunk-size=N`, `learn-limits`; `user` with `password`, `token`, `token-from` (a
//!   function that gives this token) or `no-token` (one that fails), `external` or `anonymous=TRACE`,
//!   `authzid`, `auth=MECHANISM,...`, `in-clear` and `to-unverified`; `nonce`, 24 letters of base64, without which the
//!   engine tries no SCRAM (the adapters draw one of their own then); `exporter`, 32 octets, `end-point`
//!   and `verified`, which are the [`TlsFacts`] of the engine's handshake (the adapters have real ones);
//!   `timeout.KIND=200ms`, where KIND is a field of [`Timeouts`], or `reply` for all replies;
//!   `limit.reply.line|lines|octets`, `limit.in-flight|messages|challenges|chunks|scram-iterations`;
//!   `body.refuse-bare`, `body.allow-nul`, `body.refuse-long-lines`.
//! - `message from=<A> to=<B>,<C> ATTRIBUTE ...` is a message, and the lines behind it that begin with `|`
//!   are its body. A line `hold` among them keeps the rest of the body back until the server has said
//!   something; where the body goes out in chunks, one ends there. Attributes are
//!   `body=7bit|8bit|8bit-anyway|binary`, `size=N`, `exact-size=N`, `exact` (the size of the body that
//!   follows), `all-or-nothing`, `smtputf8`, `reopenable`, and parameters of MAIL: `ret=full|hdrs`,
//!   `envid=TEXT`, `by=SECONDS;R|N|RT|NT`, `mt-priority=N`, `holdfor=SECONDS`, `holduntil=DATE`, `requiretls`,
//!   `prdr`, `auth=<A>`, and `param=NAME` or `param=NAME=VALUE` for any other, with `@KEYWORD` behind it
//!   where another EHLO keyword offers it. The name of a parameter with a `!` behind it says that it is
//!   required, and a `?` that it is said if it is offered; with neither, it is as the engine has it.
//! - Parameters of one recipient stand behind its address, each after a `;`; those of all recipients are the
//!   attribute `each=PARAMETER;PARAMETER`: `notify=never`, `notify=success+failure+delay`,
//!   `orcpt=<A>`, `orcpt=TYPE:ADDRESS`, `rrvs=DATE`, `rrvs=DATE/C`, `rrvs=DATE/R`, and `param` as above.
//! - `request WHAT` is a command outside a transaction, which takes its turn among the messages: `noop`,
//!   `help [TOPIC]`, `vrfy TEXT`, `expn TEXT`, `etrn NODE`, `raw LINE`, `xclient NAME=VALUE ...` and
//!   `xforward NAME=VALUE ...`, where the names are those of the attributes in lower case, and no value says
//!   that it is not known.
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
//! - `submit` and `quit` are said by the application, `submit` for the next message or request. Without any
//!   of them it submits all at once, and then quits.
//! - `jam` stops the transport: the client has more to say than the batch before, and none of it is taken.
//!
//! Text is taken as it stands, with these escapes: `\\`, `\r`, `\n`, `\0`, `\xNN`, `\s` for a space that
//! an editor might remove, `\{N*TEXT}` for N times TEXT, and a `\` at the end of a line, which leaves out
//! the CRLF. Blank lines and lines that begin with `#` mean nothing.
//!
//! # The expectations
//!
//! `expect ready` where the opening succeeds; `expect overlap-broken` where the engine says so; `expect
//! MESSAGE RECIPIENT RESULT` for each, from 1, `*` for all recipients; `expect request NUMBER RESULT` for
//! each, from 1; `expect closed RESULT`, or `expect open`. A result is `ok` (with the code and the enhanced
//! code of the reply, where there is one), or an outcome, a stage and a cause, as [`describe`] writes them.
//! That of a request is `answer` with the code and the enhanced code, whatever the code, where there is a
//! reply.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::{
    Cause, Chunking, ClientName, Config, Credentials, Envelope, Error, Mailbox, Outcome, Protocol,
    Recipient, Reply, Report, Request, Timeouts, TlsFacts, TlsPolicy,
    auth::MechanismError,
    body::{BodyError, LineEndings},
    envelope::BodyType,
    error::ProtocolError,
    parameter::{ByMode, MailParameter, Notify, RcptParameter, Ret, RrvsAction},
    reply::ReplyError,
    request::{ClientProtocol, MessageSource, XClient, XForward},
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
    /// For SCRAM.
    pub nonce: Option<[u8; 18]>,
    /// The name that the server's certificate must be valid for.
    pub server_name: Option<String>,
    /// What the engine is told of its handshake.
    pub tls_facts: TlsFacts,
    /// What the application sends.
    pub messages: Vec<Message>,
    /// What it asks outside transactions.
    pub requests: Vec<Request>,
    /// Both, in their order.
    pub jobs: Vec<Job>,
    /// What happens, in order. No two neighbours are both the client's or both the server's words.
    pub steps: Vec<Step>,
    expected: Expected,
}

/// What the application submits: a message or a request, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A message.
    Message(usize),
    /// A request.
    Request(usize),
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
    /// The envelope declares the size that the body has.
    exact: bool,
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
    /// The same for each request.
    requests: Vec<Option<(usize, String)>>,
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
    /// The answer to each request, where there was one.
    pub answers: Vec<Option<Result<Reply, Error>>>,
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
    let failure = |path: &Path, message: String| Failure {
        place: path.display().to_string(),
        message,
    };
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| failure(&folder, error.to_string()))?;
        for entry in entries {
            let path = entry
                .map_err(|error| failure(&folder, error.to_string()))?
                .path();
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
            parser
                .line(number, line)
                .map_err(|message| at(name, number, message))?;
        }
        parser
            .finish(name)
            .map_err(|message| at(name, number, message))
    }

    /// Whether a body is to end the session in its middle, because it cannot be sent.
    pub fn ends_in_body(&self) -> bool {
        self.expected
            .closed
            .as_ref()
            .is_some_and(|(_, result)| result.contains(" body body "))
    }

    /// A failure in this line.
    pub fn failure(&self, line: usize, message: String) -> Failure {
        at(&self.name, line, message)
    }

    /// Whether the application speaks where the conversation says so, instead of at once.
    pub fn is_cued(&self) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step.action, Action::Submit | Action::Quit))
    }

    /// Whether it shows what becomes of a message that cannot be opened again, where one that can would be
    /// split.
    pub fn must_not_split(&self) -> bool {
        let states_limits = |step: &Step| match &step.action {
            Action::Server(octets) => octets.windows(8).any(|word| word == b"RCPTMAX="),
            _ => false,
        };
        let may_split = self.config.learn_limits || self.steps.iter().any(states_limits);
        may_split
            && !self
                .messages
                .iter()
                .all(|message| message.envelope.is_reopenable())
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
                let _ = write!(
                    message,
                    "\n  {what}: expected `{expected}`, and it is `{actual}`"
                );
            }
        };
        let end = self.expected.end.unwrap_or_default();
        let readiness = |ready| if ready { "ready" } else { "not ready" };
        compare(
            end,
            "the opening",
            readiness(self.expected.ready),
            readiness(observed.ready),
        );
        let brokenness = |broken| if broken { "broken" } else { "not broken" };
        let (expected, actual) = (self.expected.overlap_broken, observed.overlap_broken);
        compare(end, "overlap", brokenness(expected), brokenness(actual));
        for (index, recipients) in self.expected.messages.iter().enumerate() {
            let report = observed.reports.get(index).and_then(Option::as_ref);
            let results = report.map_or(&[][..], |report| &report.recipients);
            for (position, expected) in recipients.iter().enumerate() {
                let Some((line, expected)) = expected else {
                    continue;
                };
                let actual = results.get(position).map_or("nothing".into(), describe);
                let what = format!("message {}, recipient {}", index + 1, position + 1);
                compare(*line, &what, expected, &actual);
            }
            let misplaced = results.iter().enumerate().find(|(position, result)| {
                matches!(result, Err(Error { recipient: Some(about), .. }) if about != position)
            });
            if let Some((position, _)) = misplaced {
                compare(
                    end,
                    "a result",
                    "about its own recipient",
                    &format!("{}", position + 1),
                );
            }
        }
        for (index, expected) in self.expected.requests.iter().enumerate() {
            let Some((line, expected)) = expected else {
                continue;
            };
            let actual = match observed.answers.get(index).and_then(Option::as_ref) {
                None => "nothing".into(),
                Some(Ok(reply)) => format!("answer {}", describe_reply(reply)),
                Some(Err(error)) => describe_error(error),
            };
            compare(*line, &format!("request {}", index + 1), expected, &actual);
        }
        let expected = self
            .expected
            .closed
            .as_ref()
            .map_or("open", |(_, expected)| expected);
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
    Failure {
        place: format!("tests/corpus/{name}:{line}"),
        message,
    }
}

/// What two pieces of the conversation differ in, line by line.
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let list = |octets: &[u8]| {
        let lines = octets.split_inclusive(|&octet| octet == b'\n');
        lines
            .map(|line| format!("\n    {}", line.escape_ascii()))
            .collect::<String>()
    };
    let common = expected
        .iter()
        .zip(actual)
        .take_while(|(a, b)| a == b)
        .count();
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
        Cause::Local(_) => "local".into(),
        Cause::UnsupportedKeyword(keyword) => format!("unsupported {keyword}"),
        Cause::TlsUnverified => "tls-unverified".into(),
        Cause::CredentialsUnverified(_) => "credentials-unverified".into(),
        Cause::Excluded(_) => "excluded".into(),
        Cause::LimitExceeded { name, limit, value } => format!("limit {name} {limit} {value}"),
        Cause::TooLarge { size, limit } => format!("too-large {size} {limit}"),
        Cause::TlsUnavailable(None) => "tls-unavailable".into(),
        Cause::TlsUnavailable(Some(reply)) => format!("tls-unavailable {}", describe_reply(reply)),
        Cause::TlsFailed(_) => "tls-failed".into(),
        Cause::TlsMisconfigured(_) => "tls-misconfigured".into(),
        Cause::TlsUntrusted(_) => "tls-untrusted".into(),
        Cause::AuthUnavailable => "auth-unavailable".into(),
        Cause::NoCommonMechanism(offered) => format!("no-common-mechanism {offered}")
            .trim_end()
            .to_owned(),
        Cause::CredentialsInClear => "credentials-in-clear".into(),
        Cause::TokenRejected { reply, error } => {
            format!("token-rejected {} ({error})", describe_reply(reply))
        }
        Cause::Mechanism(error) => describe_mechanism_error(error),
        Cause::Body(BodyError::BareCr) => "body bare-cr".into(),
        Cause::Body(BodyError::BareLf) => "body bare-lf".into(),
        Cause::Body(BodyError::Nul) => "body nul".into(),
        Cause::Body(BodyError::LineTooLong) => "body line-too-long".into(),
        Cause::Body(BodyError::WrongSize) => "body wrong-size".into(),
        Cause::Body(BodyError::EightBit) => "body eight-bit".into(),
        Cause::AllOrNothing => "all-or-nothing".into(),
        other => format!("({other})"),
    }
}

fn describe_mechanism_error(error: &MechanismError) -> String {
    match error {
        MechanismError::Undecodable => "mechanism undecodable".into(),
        MechanismError::UnexpectedChallenge => "mechanism unexpected-challenge".into(),
        MechanismError::Token(words) => format!("mechanism token {words}"),
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
        ProtocolError::TooManyChallenges { limit } => format!("too-many-challenges {limit}"),
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
    requests: Vec<Request>,
    jobs: Vec<Job>,
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
            "rule" | "engine-only:" | "config" | "message" | "request" | "|" | "hold"
                if !self.steps.is_empty() =>
            {
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
            "message" => {
                self.jobs.push(Job::Message(self.messages.len()));
                self.messages.push(parse_message(rest)?);
            }
            "request" => {
                self.jobs.push(Job::Request(self.requests.len()));
                self.requests.push(parse_request(rest)?);
            }
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
            ("request", rest) => {
                let (number, result) = rest.split_once(' ').ok_or("a result is missing")?;
                self.expected.requests.resize(self.requests.len(), None);
                let index = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let slot = index.and_then(|n| self.expected.requests.get_mut(n));
                *slot.ok_or("there is no such request")? = Some((line, result.to_owned()));
            }
            (message, rest) => {
                let messages = &mut self.expected.messages;
                messages.resize_with(self.messages.len(), Vec::new);
                let index = message.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let index = index
                    .filter(|&n| n < messages.len())
                    .ok_or("there is no such message")?;
                let count = self.messages[index].envelope.forward_paths().len();
                let recipients = &mut messages[index];
                recipients.resize(count, None);
                let (recipient, result) = rest.split_once(' ').ok_or("a result is missing")?;
                let result = Some((line, result.to_owned()));
                match recipient
                    .parse::<usize>()
                    .ok()
                    .and_then(|n| n.checked_sub(1))
                {
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
        self.expected
            .messages
            .resize_with(self.messages.len(), Vec::new);
        for (expected, message) in self.expected.messages.iter().zip(&self.messages) {
            if expected.len() != message.envelope.forward_paths().len() || expected.contains(&None)
            {
                return Err("every recipient needs an expectation".into());
            }
        }
        if self.expected.requests.len() != self.requests.len()
            || self.expected.requests.contains(&None)
        {
            return Err("every request needs an expectation".into());
        }
        for message in &mut self.messages {
            if message.exact {
                let size = message.body.len() as u64;
                message.envelope = message.envelope.clone().exact_size(size);
            }
        }
        let server_name = self.settings.remove("server-name");
        let mut tls_facts = TlsFacts::default();
        tls_facts.verified = self.settings.remove("verified").is_some();
        if let Some(octets) = self.settings.remove("exporter") {
            let octets = octets.into_bytes().try_into();
            tls_facts.exporter = Some(octets.map_err(|_| "`exporter` has 32 octets")?);
        }
        tls_facts.server_end_point = self
            .settings
            .remove("end-point")
            .map(|hash| hash.into_bytes().into());
        let nonce = match self.settings.remove("nonce") {
            None => None,
            Some(nonce) => {
                let octets = STANDARD
                    .decode(nonce)
                    .ok()
                    .and_then(|octets| octets.try_into().ok());
                Some(octets.ok_or("`nonce` is 18 octets in base64")?)
            }
        };
        Ok(Transcript {
            name: name.to_owned(),
            rules: self.rules,
            engine_only: self.engine_only,
            config: config(self.settings)?,
            nonce,
            server_name,
            tls_facts,
            messages: self.messages,
            requests: self.requests,
            jobs: self.jobs,
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
    let (mut from, mut to, mut exact) = (None, Vec::new(), false);
    let mut declared: Vec<Box<dyn FnOnce(Envelope) -> Envelope>> = Vec::new();
    for attribute in attributes.split_whitespace() {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let body = |body| Box::new(move |envelope: Envelope| envelope.body(body));
        match (key, value) {
            ("from", address) => from = Some(as_string(text(address)?)?),
            ("to", recipients) => {
                for recipient in recipients.split(',') {
                    to.push(parse_recipient(recipient)?);
                }
            }
            ("each", parameters) => {
                for parameter in parameters.split(';') {
                    let parameter = parse_rcpt_parameter(parameter)?;
                    declared.push(Box::new(|envelope| envelope.recipient_parameter(parameter)));
                }
            }
            ("body", "7bit") => declared.push(body(BodyType::SevenBit)),
            ("body", "8bit") => declared.push(body(BodyType::EightBit)),
            ("body", "8bit-anyway") => declared.push(body(BodyType::EightBitAnyway)),
            ("body", "binary") => declared.push(body(BodyType::Binary)),
            ("size", octets) => {
                let octets = parse_number(octets)?;
                declared.push(Box::new(move |envelope| envelope.size(octets)));
            }
            ("exact-size", octets) => {
                let octets = parse_number(octets)?;
                declared.push(Box::new(move |envelope| envelope.exact_size(octets)));
            }
            ("exact", "") => exact = true,
            ("all-or-nothing", "") => {
                declared.push(Box::new(|envelope| envelope.all_or_nothing(true)))
            }
            ("smtputf8", "") => declared.push(Box::new(|envelope| envelope.smtputf8(true))),
            ("reopenable", "") => declared.push(Box::new(|envelope| envelope.reopenable(true))),
            _ => {
                let parameter = parse_mail_parameter(attribute)?;
                declared.push(Box::new(|envelope| envelope.parameter(parameter)));
            }
        }
    }
    let from = from.ok_or("a message needs `from`")?;
    let envelope = Envelope::new(&from, &to).map_err(|error| error.to_string())?;
    let envelope = declared
        .into_iter()
        .fold(envelope, |envelope, declare| declare(envelope));
    Ok(Message {
        envelope,
        body: Vec::new(),
        holds: Vec::new(),
        exact,
    })
}

fn parse_recipient(source: &str) -> Result<Recipient, String> {
    let mut parts = source.split(';');
    let address = as_string(text(parts.next().unwrap_or_default())?)?;
    let recipient = Recipient::new(&address).map_err(|error| error.to_string())?;
    parts.try_fold(recipient, |recipient, part| {
        Ok(recipient.parameter(parse_rcpt_parameter(part)?))
    })
}

/// The name, whether the parameter is required or said if offered, and the value.
fn parse_parameter(source: &str) -> Result<(&str, Option<char>, String), String> {
    let (name, value) = source.split_once('=').unwrap_or((source, ""));
    let need = name
        .chars()
        .next_back()
        .filter(|need| ['!', '?'].contains(need));
    Ok((
        name.trim_end_matches(['!', '?']),
        need,
        as_string(text(value)?)?,
    ))
}

/// `NAME`, or `NAME=VALUE`, each with the EHLO keyword behind it that offers it, if that is another one.
fn parse_raw(source: &str) -> (&str, Option<&str>, Option<&str>) {
    let (source, keyword) = match source.rsplit_once('@') {
        Some((source, keyword)) => (source, Some(keyword)),
        None => (source, None),
    };
    match source.split_once('=') {
        Some((name, value)) => (name, Some(value), keyword),
        None => (source, None, keyword),
    }
}

fn parse_mail_parameter(source: &str) -> Result<MailParameter, String> {
    let (name, need, value) = parse_parameter(source)?;
    let mailbox = || Mailbox::parse(&value).map_err(|error| error.to_string());
    let parameter = match (name, value.as_str()) {
        ("ret", "full") => Ok(MailParameter::ret(Ret::Full)),
        ("ret", "hdrs") => Ok(MailParameter::ret(Ret::Headers)),
        ("envid", id) => MailParameter::envelope_id(id),
        ("by", by) => {
            let (seconds, mode) = by.split_once(';').ok_or("`by` is SECONDS;MODE")?;
            let (mode, trace) = match mode {
                "R" => (ByMode::Return, false),
                "RT" => (ByMode::Return, true),
                "N" => (ByMode::Notify, false),
                "NT" => (ByMode::Notify, true),
                _ => return Err(format!("`{mode}` is no mode of `by`")),
            };
            MailParameter::deliver_by(parse_number(seconds)?, mode, trace)
        }
        ("mt-priority", n) => MailParameter::priority(parse_number(n)?),
        ("holdfor", seconds) => MailParameter::hold_for(parse_number(seconds)?),
        ("holduntil", date) => MailParameter::hold_until(date),
        ("requiretls", "") => Ok(MailParameter::require_tls()),
        ("prdr", "") => Ok(MailParameter::per_recipient_replies()),
        ("auth", _) => Ok(MailParameter::auth(Some(&mailbox()?))),
        ("param", raw) => {
            let (name, value, keyword) = parse_raw(raw);
            let parameter = MailParameter::raw(name, value);
            parameter.map(|parameter| {
                keyword
                    .into_iter()
                    .fold(parameter, MailParameter::offered_by)
            })
        }
        _ => return Err(format!("a message has no `{source}`")),
    };
    let parameter = parameter.map_err(|error| error.to_string())?;
    Ok(match need {
        Some('!') => parameter.required(),
        Some(_) => parameter.if_offered(),
        None => parameter,
    })
}

fn parse_rcpt_parameter(source: &str) -> Result<RcptParameter, String> {
    let (name, need, value) = parse_parameter(source)?;
    let parameter = match (name, value.as_str()) {
        ("notify", conditions) => {
            let condition = |name| match name {
                "never" => Ok(Notify::NEVER),
                "success" => Ok(Notify::SUCCESS),
                "failure" => Ok(Notify::FAILURE),
                "delay" => Ok(Notify::DELAY),
                _ => Err(format!("nothing is notified of `{name}`")),
            };
            let mut all = Notify::NEVER;
            for name in conditions.split('+') {
                all = all | condition(name)?;
            }
            Ok(RcptParameter::notify(all))
        }
        ("orcpt", address) if address.starts_with('<') => {
            let mailbox = Mailbox::parse(address).map_err(|error| error.to_string())?;
            RcptParameter::original_recipient(&mailbox)
        }
        ("orcpt", address) => {
            let (kind, address) = address
                .split_once(':')
                .ok_or("`orcpt` is <ADDRESS> or TYPE:ADDRESS")?;
            RcptParameter::original_recipient_of(kind, address)
        }
        ("rrvs", since) => match since.split_once('/') {
            None => RcptParameter::valid_since(since, None),
            Some((since, "C")) => RcptParameter::valid_since(since, Some(RrvsAction::Continue)),
            Some((since, "R")) => RcptParameter::valid_since(since, Some(RrvsAction::Reject)),
            Some(_) => return Err("what `rrvs` has behind the date is C or R".into()),
        },
        ("param", raw) => {
            let (name, value, keyword) = parse_raw(raw);
            let parameter = RcptParameter::raw(name, value);
            parameter.map(|parameter| {
                keyword
                    .into_iter()
                    .fold(parameter, RcptParameter::offered_by)
            })
        }
        _ => return Err(format!("a recipient has no `{source}`")),
    };
    let parameter = parameter.map_err(|error| error.to_string())?;
    Ok(match need {
        Some('!') => parameter.required(),
        Some(_) => parameter.if_offered(),
        None => parameter,
    })
}

fn parse_request(source: &str) -> Result<Request, String> {
    let source = as_string(text(source)?)?;
    let (verb, argument) = source.split_once(' ').unwrap_or((&source, ""));
    let attributes = || {
        argument
            .split_whitespace()
            .map(|word| word.split_once('=').unwrap_or((word, "")))
    };
    let request = match verb {
        "noop" if argument.is_empty() => Ok(Request::noop()),
        "help" => Request::help(Some(argument).filter(|topic| !topic.is_empty())),
        "vrfy" => Request::verify(argument),
        "expn" => Request::expand(argument),
        "etrn" => Request::etrn(argument),
        "raw" => Request::raw(argument),
        "xclient" => Request::xclient(
            attributes()
                .map(parse_xclient)
                .collect::<Result<Vec<_>, _>>()?,
        ),
        "xforward" => Request::xforward(
            attributes()
                .map(parse_xforward)
                .collect::<Result<Vec<_>, _>>()?,
        ),
        _ => return Err(format!("there is no request `{source}`")),
    };
    request.map_err(|error| error.to_string())
}

/// A value that is known, if one stands there.
fn known<T: std::str::FromStr>(value: &str) -> Result<Option<T>, String> {
    let known = Some(value).filter(|value| !value.is_empty());
    known
        .map(|value| {
            value
                .parse()
                .map_err(|_| format!("`{value}` is no such value"))
        })
        .transpose()
}

fn parse_xclient((name, value): (&str, &str)) -> Result<XClient, String> {
    Ok(match (name, value) {
        ("name", "tempunavail") => XClient::NameUnknownForNow,
        ("name", name) => XClient::Name(known(name)?),
        ("addr", address) => XClient::Addr(known(address)?),
        ("port", port) => XClient::Port(known(port)?),
        ("proto", "smtp") => XClient::Proto(ClientProtocol::Smtp),
        ("proto", "esmtp") => XClient::Proto(ClientProtocol::Esmtp),
        ("helo", name) => XClient::Helo(known(name)?),
        ("login", name) => XClient::Login(known(name)?),
        ("destaddr", address) => XClient::DestAddr(known(address)?),
        ("destport", port) => XClient::DestPort(known(port)?),
        _ => return Err(format!("XCLIENT has no `{name}`")),
    })
}

fn parse_xforward((name, value): (&str, &str)) -> Result<XForward, String> {
    Ok(match (name, value) {
        ("name", name) => XForward::Name(known(name)?),
        ("addr", address) => XForward::Addr(known(address)?),
        ("port", port) => XForward::Port(known(port)?),
        ("proto", name) => XForward::Proto(known(name)?),
        ("helo", name) => XForward::Helo(known(name)?),
        ("ident", name) => XForward::Ident(known(name)?),
        ("source", "local") => XForward::Source(Some(MessageSource::Local)),
        ("source", "remote") => XForward::Source(Some(MessageSource::Remote)),
        ("source", "") => XForward::Source(None),
        _ => return Err(format!("XFORWARD has no `{name}`")),
    })
}

fn config(mut settings: BTreeMap<String, String>) -> Result<Config, String> {
    let mut take = |key: &str| settings.remove(key);
    let name = take("name").unwrap_or_else(|| "client.example".into());
    let mut config = Config::new(ClientName::parse(&name).map_err(|error| error.to_string())?);
    let token_from = match (take("token-from"), take("no-token")) {
        (None, None) => None,
        (Some(token), None) => Some(Ok(token)),
        (_, Some(words)) => Some(Err(words)),
    };
    config.credentials = match (take("user"), take("password"), take("token")) {
        (Some(user), None, None) if token_from.is_some() => {
            token_from.map(|token| Credentials::token_from(&user, move || token.clone()))
        }
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
        config.credentials = config
            .credentials
            .map(|credentials| credentials.authorization_id(&identity));
    }
    if let Some(names) = take("auth") {
        let names: Vec<&str> = names.split(',').collect();
        config.credentials = config
            .credentials
            .map(|credentials| credentials.mechanisms(&names));
    }
    if take("in-clear").is_some() {
        config.credentials = config.credentials.map(Credentials::permit_in_clear);
    }
    if take("to-unverified").is_some() {
        config.credentials = config.credentials.map(Credentials::permit_unverified);
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
            ("chunking", "never") => config.chunking = Chunking::Never,
            ("chunking", "always") => config.chunking = Chunking::Always,
            ("chunking", "eager") => config.chunking = Chunking::Eager,
            ("chunk-size", n) => config.chunk_size = parse_number(n)?,
            ("learn-limits", "") => config.learn_limits = true,
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
            ("limit.chunks", n) => config.limits.chunks = parse_number(n)?,
            (key, value) => {
                let kind = key
                    .strip_prefix("timeout.")
                    .and_then(|kind| timeout(&mut config.timeouts, kind));
                *kind.ok_or_else(|| format!("there is no setting `{key}={value}`"))? =
                    parse_duration(value)?;
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
        "request" => &mut timeouts.request,
        "quit" => &mut timeouts.quit,
        _ => return None,
    })
}

fn parse_number<N: std::str::FromStr>(digits: &str) -> Result<N, String> {
    digits
        .parse()
        .map_err(|_| format!("`{digits}` is no number"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").map(parse_number::<u64>);
    milliseconds
        .ok_or_else(|| format!("`{text}` is no duration, as 200ms is"))?
        .map(Duration::from_millis)
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
        let actions: Vec<_> = transcript
            .steps
            .iter()
            .map(|step| step.action.clone())
            .collect();
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
        let reply = |code| Reply::new(smtp_proto::reply::ReplyCode::new(code).unwrap(), b"x");
        let report = |codes: [u16; 2]| {
            let mailbox = Mailbox::parse("c@d").unwrap();
            Some(Report::new(
                codes.map(|code| (mailbox.clone(), Ok(reply(code)))),
            ))
        };
        let mut observed = Observed {
            reports: vec![report([250, 250])],
            closed: Some(Ok(())),
            ..Observed::default()
        };
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
