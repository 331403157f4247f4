//! Transcripts: whole conversations with a server, as text, and their expected results.
//!
//! A transcript shows one rule of the protocol. The same file is played against the engine in virtual
//! time ([`play::engine`](crate::play::engine)), and against both adapters over a socket
//! ([`play::blocking`](crate::play::blocking), [`play::tokio`](crate::play::tokio)). It has a comment that says what forced the rule, a
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
//! - `rule NAME` names the rule that the file shows. `tests/transcripts.rs` lists all rules.
//! - `engine-only: REASON` excludes the adapters. The tests count and name such files.
//! - `config KEY=VALUE KEY ...` changes the defaults of the engine (the client's name is
//!   `client.example`): `tls=never|opportunistic|required|implicit`, `server-name`, `pipelining=off`,
//!   `overlap`, `lmtp`, `name`; `chunking=never|always|eager` (where it is offered, without the key),
//!   `chunk-size=N`, `learn-limits`; `user` with `password`, `token`, `token-from` (a
//!   function that gives this token) or `no-token` (one that fails), `external` or `anonymous=TRACE`,
//!   `authzid`, `auth=MECHANISM,...`, `in-clear` and `to-unverified`; `nonce`, 24 letters of base64, without which the
//!   engine tries no SCRAM (the adapters draw one of their own then); `exporter`, 32 octets, `end-point`
//!   and `verified`, which are the [`TlsFacts`] of the engine's handshake (the adapters have real ones);
//!   `timeout.KIND=200ms`, where KIND is a field of [`Timeouts`](smtp_proto::Timeouts), or `reply` for all replies;
//!   `limit.reply.line|lines|octets`, `limit.in-flight|messages|challenges|chunks|scram-iterations`;
//!   `body.refuse-bare`, `body.allow-nul`, `body.refuse-long-lines`.
//! - `message from=<A> to=<B>,<C> ATTRIBUTE ...` is a message. The following lines that begin with `|` are its body.
//!   A line `hold` among them keeps the rest of the body back until the server's next reply. If the body goes out in
//!   chunks, a chunk ends there. Attributes are `body=7bit|8bit|8bit-anyway|binary`, `size=N`, `exact-size=N`,
//!   `exact` (the size of the body that follows), `all-or-nothing`, `smtputf8`, `reopenable`, and parameters of MAIL.
//!   These are `ret=full|hdrs`, `envid=TEXT`, `by=SECONDS;R|N|RT|NT`, `mt-priority=N`, `holdfor=SECONDS`,
//!   `holduntil=DATE`, `requiretls`, `prdr`, `auth=<A>`, and `param=NAME` or `param=NAME=VALUE` for any other.
//!   `@KEYWORD` after it names another EHLO keyword that offers it. A `!` after the name of a parameter makes it
//!   required, and a `?` makes it sent if offered. Without them, the engine's default holds.
//! - Parameters of one recipient follow its address, each after a `;`. Those of all recipients are the attribute
//!   `each=PARAMETER;PARAMETER`: `notify=never`, `notify=success+failure+delay`, `orcpt=<A>`, `orcpt=TYPE:ADDRESS`,
//!   `rrvs=DATE`, `rrvs=DATE/C`, `rrvs=DATE/R`, and `param` as above.
//! - `request WHAT` is a command outside a transaction, in its order among the messages: `noop`, `help [TOPIC]`,
//!   `vrfy TEXT`, `expn TEXT`, `etrn NODE`, `raw LINE`, `xclient NAME=VALUE ...` and `xforward NAME=VALUE ...`. Their
//!   names are those of the attributes in lower case. An empty value means unknown.
//!
//! # The conversation
//!
//! - `S: TEXT` is a line from the server. Successive lines arrive at once.
//! - `C: TEXT` is a line from the client. Successive lines are one batch: exactly these octets must be on offer
//!   before the next step. So a batch that is too long, too short or too early fails.
//! - `split` cuts the server's octets in two. The client must not send anything after the first part.
//! - `pause 300ms` lets time pass. `eof` is the end of the server's octets.
//! - `tls` is a handshake that succeeds. `tls-failed` and `tls-untrusted` are handshakes that fail.
//! - `submit` and `quit` are calls of the application. `submit` is for the next message or request. Without them, the
//!   application submits all at once, and then quits.
//! - `jam` stops the transport. The client has more to send after the last batch, but the transport takes nothing.
//!
//! Text is literal, with these escapes: `\\`, `\r`, `\n`, `\0`, `\xNN`, `\s` for a space that an editor might remove,
//! and `\{N*TEXT}` for N times TEXT. A `\` at the end of a line leaves out the CRLF. Blank lines and lines that begin
//! with `#` are ignored.
//!
//! # The expectations
//!
//! `expect ready` if the opening succeeds. `expect overlap-broken` if the engine reports it. `expect MESSAGE
//! RECIPIENT RESULT` for each, from 1, with `*` for all recipients. `expect request NUMBER RESULT` for each, from 1.
//! `expect closed RESULT`, or `expect open`.
//!
//! A result is `ok`, with the code and the enhanced code of a reply. Otherwise it is an outcome, a stage and a cause,
//! as [`describe`] writes them. The result of a request is `answer`, with the code and the enhanced code of any
//! reply.
//!
//! A session that was written down has some more words, which [`recorded`] describes.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use describe::{describe, difference};
use describe::{describe_error, describe_reply, in_words_of};
use parse::Parser;
pub use recorded::{Happening, Recorded, Run, is_said};
use smtp_proto::reply::Printable;
use smtp_proto::{Config, Envelope, Error, Reply, Report, Request, TlsFacts};

mod describe;
mod parameters;
mod parse;
pub mod recorded;
mod settings;
#[cfg(test)]
mod tests;

/// One conversation, and its expected results.
#[derive(Debug)]
pub struct Transcript {
    /// The file, below the corpus folder.
    pub name: String,
    /// The rules that it shows.
    pub rules: Vec<String>,
    /// It is a session that was written down, and not a rule.
    pub recorded: bool,
    /// Why adapters cannot play it, if they cannot.
    pub engine_only: Option<String>,
    /// The client's configuration.
    pub config: Config,
    /// The nonce for SCRAM.
    pub nonce: Option<[u8; 18]>,
    /// The name that the server's certificate must be valid for.
    pub server_name: Option<String>,
    /// The facts of the engine's handshake.
    pub tls_facts: TlsFacts,
    /// What the application sends.
    pub messages: Vec<Message>,
    /// Its requests outside transactions.
    pub requests: Vec<Request>,
    /// Both, in their order.
    pub jobs: Vec<Job>,
    /// The steps, in order. Two neighbours are never both the client's or both the server's octets.
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
    /// Sender, recipients and declarations.
    pub envelope: Envelope,
    /// The body as the application has it.
    pub body: Vec<u8>,
    /// The places where the application keeps the rest of the body back until the server's next reply.
    pub holds: Vec<usize>,
    /// How a recorded application gave it, each time that it was wanted.
    pub runs: Vec<Run>,
    /// The envelope declares the size that the body has.
    exact: bool,
}

/// One step of a conversation.
#[derive(Debug)]
pub struct Step {
    /// Its line in the file, or the first one of several.
    pub line: usize,
    /// What happens.
    pub action: Action,
}

/// What happens in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The client sends exactly these octets.
    Client(Vec<u8>),
    /// The server sends these octets.
    Server(Vec<u8>),
    /// Time passes between two parts of the server's octets.
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
    /// Something that stands only in a record.
    Recorded(Recorded),
}

#[derive(Debug, Default)]
struct Expected {
    ready: bool,
    overlap_broken: bool,
    /// For each message, for each recipient: a line number and a result.
    messages: Vec<Vec<Option<(usize, String)>>>,
    /// The same for each request.
    requests: Vec<Option<(usize, String)>>,
    /// `None` if it stays open.
    closed: Option<(usize, String)>,
    /// The line of `expect closed` or `expect open`.
    end: Option<usize>,
    /// What the engine tells, each after how many steps that are not the client's.
    happenings: Vec<(usize, Happening)>,
}

/// The observed results of a conversation.
#[derive(Debug, Default)]
pub struct Observed {
    /// Whether the opening succeeded.
    pub ready: bool,
    /// Whether the server was found not to take overlapping envelopes.
    pub overlap_broken: bool,
    /// The report of each message, if it has one.
    pub reports: Vec<Option<Report>>,
    /// The answer to each request, if it has one.
    pub answers: Vec<Option<Result<Reply, Error>>>,
    /// How the connection ended. `None` if it has not.
    pub closed: Option<Result<(), Error>>,
    /// All of it in its order, each after how many steps that were not the client's.
    pub happenings: Vec<(usize, Happening)>,
}

/// A difference, and its place.
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
    // `smtp-judges` shares this file, from a folder below.
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let corpus =
        folders.find_map(|folder| Some(folder.join("corpus")).filter(|path| path.is_dir()));
    corpus.unwrap_or_else(|| PathBuf::from("tests/corpus"))
}

/// All transcripts, sorted by name.
///
/// # Errors
/// A file cannot be read, is not a transcript, or its name does not end in `.txt`.
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
    /// The text is not a transcript.
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

    /// Whether a body must end the session in its middle, because it cannot be sent.
    pub fn ends_in_body(&self) -> bool {
        self.expected
            .closed
            .as_ref()
            .is_some_and(|(_, result)| result.contains(" body body "))
    }

    /// Whether this recipient is refused on our side, by what is expected, and the server is not asked.
    pub(crate) fn is_refused_here(&self, message: usize, recipient: usize) -> bool {
        let expected = self.expected.messages.get(message);
        let expected = expected.and_then(|recipients| recipients.get(recipient)?.as_ref());
        expected.is_some_and(|(_, result)| {
            let cause = result.split(' ').nth(2).unwrap_or_default();
            ["unsupported", "limit", "excluded", "too-large"].contains(&cause)
        })
    }

    /// A failure in this line.
    pub fn failure(&self, line: usize, message: String) -> Failure {
        match self.recorded {
            true => Failure {
                place: format!("{}:{line}", self.name),
                message,
            },
            false => at(&self.name, line, message),
        }
    }

    /// Whether the application acts when the conversation says so, instead of at once.
    pub fn is_cued(&self) -> bool {
        self.recorded
            || self
                .steps
                .iter()
                .any(|step| matches!(step.action, Action::Submit | Action::Quit))
    }

    /// Whether it shows a message that cannot be opened again, and would otherwise be split.
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

    /// The SASL responses: the argument of AUTH, and answers to a 334. They must not appear in a trace or an error.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        if self.recorded {
            return secrets;
        }
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

    /// Compares the observed results with the expected ones.
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
                let result = results.get(position);
                let actual = result.map_or("nothing".into(), |result| {
                    in_words_of(expected, || describe(result), result)
                });
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
                Some(answer) => in_words_of(
                    expected,
                    || match answer {
                        Ok(reply) => format!("answer {}", describe_reply(reply)),
                        Err(error) => describe_error(error),
                    },
                    answer,
                ),
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
            Some(Ok(())) if self.recorded => "says ok".into(),
            Some(Err(error)) if self.recorded => {
                format!("says error {}", Printable(error.to_string().as_bytes()))
            }
            Some(Ok(())) => "ok".into(),
            Some(Err(error)) => describe_error(error),
        };
        compare(end, "the connection", expected, &actual);
        if self.recorded {
            let list = |happenings: &[(usize, Happening)]| {
                let words = happenings
                    .iter()
                    .map(|(step, what)| format!("{step} {what:?}"));
                words.collect::<Vec<_>>().join(", ")
            };
            let (expected, actual) = (&self.expected.happenings, &observed.happenings);
            compare(end, "the events", &list(expected), &list(actual));
        }
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
