//! The `send` examples' interface: flags in, a conversation, a JSON object and an exit code out. The
//! adapters' examples differ only in how they send.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use smtp_proto::{
    BodyType, Cause, ClientName, Credentials, Envelope, Error, Outcome, Printable, Reply, Report, Stage,
    Timeouts, TlsPolicy, Trace,
};

use crate::receiver;

/// What is forwarded when nothing is named.
const SAMPLE: &str = "\
From: Alice <alice@example.org>\r
To: Bob <bob@example.net>\r
Subject: It works\r
Date: Mon, 23 Nov 2026 12:00:00 +0000\r
Message-ID: <sample@example.org>\r
MIME-Version: 1.0\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: 8bit\r
\r
Grüße, Bob.\r
.\r
The line above is one dot, which would have ended the message if the engine had not doubled it.\r
";

/// Forwards one message to a mail server.
///
/// Without --server, a small receiving server is started on a loopback port and the message is stored
/// there; without any argument, a sample message is forwarded that way and the conversation shown.
///
/// Exit codes: 0 success, 64 usage, 65 bad input, 69 permanent failure, 75 temporary failure (or some
/// recipients refused for now), 76 the server broke the protocol, 77 refused by policy.
#[derive(Clone, Debug, Parser)]
#[command(name = "send", max_term_width = 100)]
pub struct Options {
    /// The server; port 25 if none is given, 465 with implicit TLS, 24 with --lmtp.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Option<String>,
    /// The reverse-path; '<>' is the null reverse-path.
    #[arg(long, value_name = "ADDR", required = true)]
    pub from: Option<String>,
    /// A forward-path; may be given several times.
    #[arg(long, value_name = "ADDR", required = true)]
    pub to: Vec<String>,
    /// The message; - is standard input.
    #[arg(long, value_name = "FILE|-", required = true)]
    pub data: Option<PathBuf>,
    /// The name for EHLO [default: the host's, or the address literal].
    #[arg(long, value_name = "NAME", value_parser = |name: &str| ClientName::parse(name))]
    pub helo: Option<ClientName>,
    /// Connects from this address.
    #[arg(long, value_name = "IP")]
    pub local_address: Option<IpAddr>,
    /// Speaks LMTP.
    #[arg(long)]
    pub lmtp: bool,
    /// When to encrypt.
    #[arg(long, value_enum, default_value = "opportunistic")]
    pub tls: Tls,
    /// Checks that the server's certificate is valid for this name.
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// Trusts these certificates as well as the system's.
    #[arg(long, value_name = "PEM")]
    pub ca_file: Option<PathBuf>,
    /// Logs in as this user.
    #[arg(long, value_name = "U", requires = "auth_password")]
    pub auth_user: Option<String>,
    /// The password, or the token of XOAUTH2.
    #[arg(long, value_name = "P", requires = "auth_user")]
    pub auth_password: Option<String>,
    /// Uses this mechanism and no other.
    #[arg(long, value_enum, value_name = "M", ignore_case = true, requires = "auth_user")]
    pub auth_mechanism: Option<AuthMechanism>,
    /// Permits sending the password over a connection that is not encrypted.
    #[arg(long, requires = "auth_user")]
    pub auth_in_clear: bool,
    /// How long to wait for the connection.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout_connect: Option<Duration>,
    /// How long to wait for each reply.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout_reply: Option<Duration>,
    /// How long to wait for the server to take each block of the message.
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout_data: Option<Duration>,
    /// Sends one command at a time.
    #[arg(long)]
    pub no_pipelining: bool,
    /// Ends the output with one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Shows the conversation.
    #[arg(long)]
    pub transcript: bool,
    /// Says nothing but errors.
    #[arg(long)]
    pub quiet: bool,
}

/// `--tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tls {
    /// Never.
    None,
    /// Where the server offers STARTTLS.
    Opportunistic,
    /// By STARTTLS or not at all.
    Required,
    /// From the first octet.
    Implicit,
}

/// `--auth-mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMechanism {
    /// PLAIN.
    #[value(name = "PLAIN")]
    Plain,
    /// LOGIN.
    #[value(name = "LOGIN")]
    Login,
    /// CRAM-MD5.
    #[value(name = "CRAM-MD5")]
    CramMd5,
    /// XOAUTH2.
    #[value(name = "XOAUTH2")]
    XOauth2,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than 0".into()),
    }
}

impl Options {
    /// The options of the command line; without any, those of the sample.
    ///
    /// # Errors
    /// The exit code, when usage or help was printed.
    pub fn parse_args() -> Result<Self, ExitCode> {
        let mut args: Vec<std::ffi::OsString> = std::env::args_os().collect();
        if args.len() <= 1 {
            let sample = "send --from alice@example.org --to bob@example.net --data (sample) --transcript";
            args = sample.split(' ').map(Into::into).collect();
        }
        Self::try_parse_from(args).map_err(|error| {
            let _ = error.print();
            match error.use_stderr() {
                true => ExitCode::from(64),
                false => ExitCode::SUCCESS,
            }
        })
    }

    /// The engine's TLS policy.
    pub fn tls_policy(&self) -> TlsPolicy {
        match self.tls {
            Tls::None => TlsPolicy::Never,
            Tls::Opportunistic => TlsPolicy::Opportunistic,
            Tls::Required => TlsPolicy::Required,
            Tls::Implicit => TlsPolicy::Implicit,
        }
    }

    /// The engine's timeouts.
    pub fn timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        if let Some(reply) = self.timeout_reply {
            timeouts = timeouts.replies(reply);
        }
        if let Some(block) = self.timeout_data {
            timeouts.block = block;
        }
        timeouts
    }

    /// How to log in, if at all.
    pub fn credentials(&self) -> Option<Credentials> {
        let (user, secret) = (self.auth_user.as_ref()?, self.auth_password.as_ref()?);
        let mut credentials = match self.auth_mechanism {
            Some(AuthMechanism::XOauth2) => Credentials::token(user, secret),
            _ => Credentials::password(user, secret),
        };
        if let Some(name) = self.auth_mechanism.and_then(|mechanism| mechanism.to_possible_value()) {
            credentials = credentials.mechanisms(&[name.get_name()]);
        }
        if self.auth_in_clear {
            credentials = credentials.permit_in_clear();
        }
        Some(credentials)
    }

    /// The certificates of `--ca-file`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        std::fs::read(path).map(Some).map_err(|error| bad_file(path, &error))
    }

    /// Looks at the message, and makes the envelope that declares what it holds.
    ///
    /// # Errors
    /// A bad address, or a bad file.
    pub fn prepare(&self) -> Result<(Envelope, Message), Error> {
        let from = self.from.as_deref().unwrap_or_default();
        let envelope = Envelope::new(from, &self.to).map_err(|error| refused(error.into()))?;
        let path = self.data.as_deref().unwrap_or(Path::new("-"));
        if path == Path::new("-") {
            return Ok((envelope, Message::new(Box::new(BufReader::new(io::stdin())), None)));
        }
        let open = || -> io::Result<Box<dyn BufRead>> {
            Ok(match path == Path::new("(sample)") {
                true => Box::new(SAMPLE.as_bytes()),
                false => Box::new(BufReader::with_capacity(64 * 1024, File::open(path)?)),
            })
        };
        let content = open().and_then(Content::examine).map_err(|error| bad_file(path, &error))?;
        if content.has_nul {
            let message = format!("{} holds a NUL octet, which mail cannot", path.display());
            return Err(refused(Cause::Local(message.into())));
        }
        let body = if content.is_eight_bit { BodyType::EightBit } else { BodyType::SevenBit };
        let source = open().map_err(|error| bad_file(path, &error))?;
        let message = Message::new(source, Some(content.octets).filter(|_| !self.quiet));
        Ok((envelope.size(content.size).body(body), message))
    }

    /// Starts the receiving server of the example, where no other is named.
    ///
    /// # Errors
    /// The server cannot be started.
    pub fn start_receiver(&self) -> Result<Option<receiver::Receiver>, Error> {
        if self.server.is_some() {
            return Ok(None);
        }
        let options = receiver::Options {
            lmtp: self.lmtp,
            implicit_tls: self.tls == Tls::Implicit,
            auth: self.auth_user.clone().zip(self.auth_password.clone()),
            auth_in_clear: self.auth_in_clear,
            ..receiver::Options::default()
        };
        let start = receiver::Receiver::start(options);
        let local = |error| refused(Cause::Local(format!("the receiving server: {error}").into()));
        start.map(Some).map_err(local)
    }

    /// Shows one line of the conversation.
    pub fn show(&self, trace: &Trace) {
        match trace {
            Trace::Sent(command) => say(format_args!("> {command}")),
            Trace::SentBody { octets } => say(format_args!("> ({octets} octets of message, and the dot)")),
            Trace::Received(reply) => {
                let mut lines = reply.lines().peekable();
                while let Some(line) = lines.next() {
                    let hyphen = if lines.peek().is_some() { "-" } else { " " };
                    say(format_args!("< {}{hyphen}{}", reply.code(), Printable(line)));
                }
            }
            Trace::TlsEstablished => say(format_args!("= encrypted from here on")),
            _ => {}
        }
    }
}

/// What a look at a file has found.
#[derive(Clone, Copy, Debug, Default)]
struct Content {
    /// Octets as they lie in the file, and as they are sent, with CRLF line ends (RFC 1870).
    octets: u64,
    size: u64,
    is_eight_bit: bool,
    has_nul: bool,
}

impl Content {
    fn examine(mut file: impl Read) -> io::Result<Self> {
        let mut content = Self::default();
        let mut buffer = vec![0; 64 * 1024];
        let mut last = b'\n';
        loop {
            let octets = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => &buffer[..n],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            content.octets += octets.len() as u64;
            content.is_eight_bit |= !octets.is_ascii();
            content.has_nul |= octets.contains(&0);
            for &octet in octets {
                let completed = (last == b'\r') != (octet == b'\n') && (last == b'\r' || octet == b'\n');
                content.size += 1 + u64::from(completed);
                last = octet;
            }
        }
        if content.octets > 0 && last != b'\n' {
            content.size += if last == b'\r' { 1 } else { 2 };
        }
        Ok(content)
    }
}

/// The message to send, which shows its progress on a terminal.
pub struct Message {
    source: Box<dyn BufRead>,
    sent: u64,
    /// The octets that there will be, and when their number was last shown.
    progress: Option<(u64, Instant)>,
}

impl Message {
    /// A message shorter than this shows no progress, in octets.
    const LONG: u64 = 1024 * 1024;

    fn new(source: Box<dyn BufRead>, octets: Option<u64>) -> Self {
        let shown = octets.filter(|&octets| octets >= Self::LONG && io::stderr().is_terminal());
        Self { source, sent: 0, progress: shown.map(|octets| (octets, Instant::now())) }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} octets sent)", self.sent)
    }
}

impl Read for Message {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Message {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, octets: usize) {
        self.source.consume(octets);
        self.sent += octets as u64;
        if let Some((all, shown)) = &mut self.progress
            && (shown.elapsed() > Duration::from_millis(100) || self.sent >= *all)
        {
            *shown = Instant::now();
            let end = if self.sent >= *all { "\n" } else { "" };
            let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
            let _ = write!(io::stderr(), "\r{:.1} of {:.1} MiB{end}", mib(self.sent), mib(*all));
        }
    }
}

/// How the session was encrypted.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// As in `TLSv1.3`.
    pub version: String,
    /// As in `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The name that was checked.
    pub verified_name: Option<String>,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The report, or the error that left none.
    pub result: Result<Report, Error>,
    /// The whole line about an error, where more is known than its `Display` says.
    pub line: Option<String>,
    /// How the session was encrypted, if it was.
    pub tls: Option<TlsFacts>,
    /// Round trips of the session.
    pub round_trips: u64,
}

impl Ending {
    /// An end before there was a session.
    pub fn local(error: Error) -> Self {
        Self { result: Err(error), line: None, tls: None, round_trips: 0 }
    }

    /// Prints what the options ask for, and returns the exit code.
    pub fn conclude(&self, options: &Options) -> ExitCode {
        let verdicts = self.verdicts(options);
        let overall = Verdict::overall(&verdicts);
        let failures: Vec<_> = verdicts.iter().filter(|verdict| verdict.failed()).collect();
        let error = failures.first().map(|first| {
            let line = self.line.clone().unwrap_or_else(|| first.line.clone());
            match overall {
                "partial" => format!("{} of {} recipients failed: {line}", failures.len(), verdicts.len()),
                _ => line,
            }
        });
        if !options.json && !options.quiet {
            for (address, verdict) in options.to.iter().zip(&verdicts) {
                say(format_args!("{}: {}", Printable(address.as_bytes()), verdict.line));
            }
        }
        if let Some(error) = &error
            && (options.json || options.quiet)
        {
            let _ = writeln!(io::stderr(), "send: {error}");
        }
        if options.json {
            say(format_args!("{}", self.json(options, &verdicts, overall, error)));
        }
        ExitCode::from(exit_code(overall, &failures))
    }

    fn json(&self, options: &Options, verdicts: &[Verdict], overall: &str, error: Option<String>) -> Value {
        let recipients = options.to.iter().zip(verdicts).map(|(address, verdict)| {
            json!({
                "address": address,
                "outcome": verdict.outcome,
                "stage": verdict.stage.map(Stage::as_str),
                "code": verdict.reply.as_ref().map(|reply| reply.code().get()),
                "enhanced": verdict.reply.as_ref().and_then(Reply::enhanced).map(|code| code.to_string()),
                "text": verdict.reply.as_ref().map(text_of),
            })
        });
        let tls = self.tls.as_ref().map(|tls| {
            json!({
                "version": tls.version,
                "cipher": tls.cipher,
                "verified": tls.verified_name.is_some(),
                "name": tls.verified_name,
            })
        });
        json!({
            "outcome": overall,
            "stage": verdicts.iter().find_map(|verdict| verdict.stage).map(Stage::as_str),
            "maybe_delivered": verdicts.iter().any(|verdict| verdict.maybe_delivered),
            "recipients": recipients.collect::<Vec<_>>(),
            "tls": tls,
            "round_trips": self.round_trips,
            "error": error,
        })
    }

    /// One for each recipient.
    fn verdicts(&self, options: &Options) -> Vec<Verdict> {
        match &self.result {
            Ok(report) => {
                let verdict = |result: &Result<Reply, Error>| match result {
                    Ok(reply) => Verdict::success(reply),
                    Err(error) => Verdict::failure(error, options),
                };
                report.recipients.iter().map(verdict).collect()
            }
            Err(error) => {
                let mut verdict = Verdict::failure(error, options);
                verdict.line = self.line.clone().unwrap_or(verdict.line);
                vec![verdict; options.to.len()]
            }
        }
    }
}

/// What became of one recipient, in the words of the JSON object.
#[derive(Clone, Debug)]
struct Verdict {
    outcome: &'static str,
    stage: Option<Stage>,
    reply: Option<Reply>,
    maybe_delivered: bool,
    /// It was the message or the command line that could not be sent, not a policy that forbade it.
    bad_input: bool,
    line: String,
}

impl Verdict {
    fn success(reply: &Reply) -> Self {
        Self {
            outcome: "success",
            stage: None,
            reply: Some(reply.clone()),
            maybe_delivered: false,
            bad_input: false,
            line: reply.to_string(),
        }
    }

    fn failure(error: &Error, options: &Options) -> Self {
        let tls_demanded = matches!(options.tls, Tls::Required | Tls::Implicit);
        let outcome = match (&error.cause, error.outcome) {
            (Cause::Protocol(_), _) => "protocol",
            (Cause::TlsFailed(_), _) if tls_demanded => "refused",
            (cause, _) if cause.is_refusal() => "refused",
            (_, Outcome::Permanent) => "permanent",
            // Never attempted because of a refusal that stands.
            (Cause::Rejected(reply), _) if reply.class() == smtp_proto::ReplyClass::Permanent => "permanent",
            _ => "temporary",
        };
        Self {
            outcome,
            stage: Some(error.stage),
            reply: error.reply().cloned(),
            maybe_delivered: error.maybe_delivered(),
            bad_input: error.stage == Stage::Local || matches!(error.cause, Cause::Body(_)),
            line: error.to_string(),
        }
    }

    fn failed(&self) -> bool {
        self.outcome != "success"
    }

    /// One word for all: where none got the message, what could still change comes first.
    fn overall(verdicts: &[Verdict]) -> &'static str {
        let any = |outcome| verdicts.iter().any(|verdict| verdict.outcome == outcome);
        let all = ["protocol", "temporary", "permanent", "refused"];
        match verdicts.iter().any(Verdict::failed) {
            false => "success",
            true if any("success") => "partial",
            true => all.into_iter().find(|outcome| any(outcome)).unwrap_or("temporary"),
        }
    }
}

/// The exit codes of sysexits.h.
fn exit_code(overall: &str, failures: &[&Verdict]) -> u8 {
    match overall {
        "success" => 0,
        "permanent" => 69,
        "temporary" => 75,
        "protocol" => 76,
        "partial" => match failures.iter().any(|verdict| matches!(verdict.outcome, "temporary" | "protocol"))
        {
            true => 75,
            false => 69,
        },
        _ if failures.iter().all(|verdict| verdict.bad_input) => 65,
        _ => 77,
    }
}

fn text_of(reply: &Reply) -> String {
    let lines: Vec<String> = reply.lines().map(|line| Printable(line).to_string()).collect();
    lines.join("\n")
}

fn refused(cause: Cause) -> Error {
    Error::new(Stage::Local, Outcome::Permanent, cause)
}

fn bad_file(path: &Path, error: &io::Error) -> Error {
    refused(Cause::Local(format!("{}: {error}", path.display()).into()))
}

/// Prints a line. That nobody reads any more (SIGPIPE) is no reason to stop sending mail.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_a_file_counts_what_is_sent() {
        for (file, size) in [
            (&b""[..], 0),
            (b"a\r\nb\r\n", 6),
            (b"a\nb\n", 6),
            (b"a\rb\r", 6),
            (b"a", 3),
            (b"\r\n\n\r\r\n", 8),
        ] {
            let content = Content::examine(file).unwrap();
            assert_eq!(content.size, size, "{:?}", file.escape_ascii());
        }
        assert!(Content::examine(&b"\xe9"[..]).unwrap().is_eight_bit);
    }
}
