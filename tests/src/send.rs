//! The `send` examples' interface: flags in, a conversation, a JSON object and an exit code out. The
//! adapters' examples differ only in how they send.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser, ValueEnum};
use serde_json::{Value, json};
use smtp_adapter::{Server, TlsInfo};
use smtp_proto::{
    Cause, ClientName, Credentials, Envelope, Error, Mailbox, Outcome, Reply, Report, Stage,
    Timeouts, TlsPolicy,
    envelope::BodyType,
    event::Trace,
    parameter::{ByMode, MailParameter, Notify, ParameterError, RcptParameter, Ret, RrvsAction},
    reply::Printable,
};

use crate::delivery::not_attempted;
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
The line above is one dot. In a chunk it means nothing; behind DATA the engine would double it.\r
";

/// Forwards one message to a mail server.
///
/// Without --server and --unix, a small receiving server is started on a loopback port and the message is stored
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
    /// Connects to the server behind this Unix socket instead.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["server", "local_address"])]
    pub unix: Option<PathBuf>,
    /// The reverse-path; '<>' is the null reverse-path.
    #[arg(long, value_name = "ADDR", required = true)]
    pub from: Option<String>,
    /// A forward-path; may be given several times.
    #[arg(long, value_name = "ADDR", required = true)]
    pub to: Vec<String>,
    /// The message; - is standard input. Several are sent one after another in one session. A pipe is read
    /// as it is sent, and only once.
    #[arg(long, value_name = "FILE|-", required = true)]
    pub data: Vec<PathBuf>,
    /// Sends all of it this often.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Sends each next envelope in one batch with the end of the message before; only for servers that
    /// are known to take it.
    #[arg(long)]
    pub overlap: bool,
    /// When to send the message by BDAT, in chunks, instead of DATA.
    #[arg(long, value_enum, default_value = "auto")]
    pub chunking: Chunking,
    /// Sends nothing unless every recipient is accepted.
    #[arg(long)]
    pub all_or_nothing: bool,
    /// How much of the message a report of failure returns. The three --dsn flags are said where DSN is
    /// offered.
    #[arg(long, value_enum)]
    pub dsn_ret: Option<DsnRet>,
    /// The sender's own name of the message, which reports repeat.
    #[arg(long, value_name = "ID")]
    pub dsn_envid: Option<String>,
    /// Of what is reported for each recipient: never, or a list of success, failure and delay.
    #[arg(long, value_name = "LIST")]
    pub dsn_notify: Option<String>,
    /// Sends only over TLS with a verified server, here and on every later hop (REQUIRETLS).
    #[arg(long)]
    pub require_tls: bool,
    /// Says that the header needs SMTPUTF8, though the addresses may not.
    #[arg(long)]
    pub smtputf8: bool,
    /// Adds a parameter to MAIL, without which the message is not sent; may be given several times.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub param: Vec<String>,
    /// The same for the RCPT of each recipient.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub rcpt_param: Vec<String>,
    /// The name for EHLO [default: the host's, or the address literal].
    #[arg(long, value_name = "NAME", value_parser = |name: &str| ClientName::parse(name))]
    pub helo: Option<ClientName>,
    /// Connects from this address.
    #[arg(long, value_name = "IP")]
    pub local_address: Option<IpAddr>,
    /// Speaks LMTP.
    #[arg(long)]
    pub lmtp: bool,
    /// When to encrypt [default: implicit on port 465; required with a password, unless it may go in the clear
    /// or over a Unix socket; else opportunistic]. Required and implicit verify the server.
    #[arg(long, value_enum)]
    pub tls: Option<Tls>,
    /// Checks that the server's certificate is for this name, instead of the one that is connected to.
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// Accepts any server, and sends it the password too: somebody in between can have it.
    #[arg(long)]
    pub tls_no_verify: bool,
    /// Trusts these certificates as well as the system's.
    #[arg(long, value_name = "PEM")]
    pub ca_file: Option<PathBuf>,
    /// Shows the server this certificate, and those that lead to its authority, where it asks for one.
    #[arg(long, value_name = "PEM", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// The private key of --client-cert.
    #[arg(long, value_name = "PEM", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Connects once more and stays in the clear, where an opportunistic handshake has failed. Never with a password.
    #[arg(long)]
    pub retry_in_clear: bool,
    /// Logs in as this user; for ANONYMOUS, the trace.
    #[arg(long, value_name = "U")]
    pub auth_user: Option<String>,
    /// The password, or the token of OAUTHBEARER and XOAUTH2. Everybody on this host can see it; without it and the
    /// next flag, it is the environment's SMTP_PASSWORD.
    #[arg(long, value_name = "P", requires = "auth_user")]
    pub auth_password: Option<String>,
    /// Reads the password from the first line of this file.
    #[arg(
        long,
        value_name = "FILE",
        requires = "auth_user",
        conflicts_with = "auth_password"
    )]
    pub auth_password_file: Option<PathBuf>,
    /// Uses this mechanism and no other.
    #[arg(long, value_enum, value_name = "M", ignore_case = true)]
    pub auth_mechanism: Option<AuthMechanism>,
    /// Acts as this identity.
    #[arg(long, value_name = "ID")]
    pub auth_authzid: Option<String>,
    /// Permits sending the password over a connection that is not encrypted.
    #[arg(long)]
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

/// `--chunking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Chunking {
    /// Where the server offers CHUNKING.
    Auto,
    /// Never.
    Never,
    /// By BDAT or not at all.
    Always,
    /// Where it is offered, without waiting for an accepted recipient; only for trusted servers.
    Eager,
}

/// `--dsn-ret`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DsnRet {
    /// All of it.
    Full,
    /// Its header.
    Hdrs,
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
    /// OAUTHBEARER.
    #[value(name = "OAUTHBEARER")]
    OAuthBearer,
    /// EXTERNAL; without user and password.
    #[value(name = "EXTERNAL")]
    External,
    /// ANONYMOUS; without a password.
    #[value(name = "ANONYMOUS")]
    Anonymous,
    /// SCRAM-SHA-1.
    #[value(name = "SCRAM-SHA-1")]
    ScramSha1,
    /// SCRAM-SHA-1-PLUS, which is bound to the TLS connection.
    #[value(name = "SCRAM-SHA-1-PLUS")]
    ScramSha1Plus,
    /// SCRAM-SHA-256.
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// SCRAM-SHA-256-PLUS, which is bound to the TLS connection.
    #[value(name = "SCRAM-SHA-256-PLUS")]
    ScramSha256Plus,
}

/// The object for a command line that cannot be used: no message was attempted.
fn bad_usage(error: &str) -> Value {
    json!({
        "outcome": "refused",
        "stage": "local",
        "error": error.trim_start_matches("error: "),
        "maybe_delivered": false,
        "recipients": [],
        "round_trips": 0,
        "tls": null,
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_string())?;
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
        // Without any, and with --json alone.
        if args[1..].iter().all(|arg| arg == "--json") {
            let sample = "--from alice@example.org --to bob@example.net --data (sample)";
            let transcript = (args.len() <= 1).then_some("--transcript");
            args.extend(sample.split(' ').chain(transcript).map(Into::into));
        }
        let wants_json = args.iter().any(|arg| arg == "--json");
        Self::try_parse_from(args)
            .and_then(Self::with_whole_login)
            .map_err(|error| {
                let _ = error.print();
                if !error.use_stderr() {
                    return ExitCode::SUCCESS;
                }
                if wants_json {
                    let text = error.to_string();
                    let line = text.lines().next().unwrap_or_default();
                    say(format_args!("{}", bad_usage(line)));
                }
                ExitCode::from(64)
            })
    }

    /// Refuses a user without a password, and settings of a login that is none; EXTERNAL and ANONYMOUS
    /// need neither.
    fn with_whole_login(mut self) -> Result<Self, clap::Error> {
        if let Some(path) = &self.auth_password_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let message = format!("--auth-password-file {}: {error}", path.display());
                Self::command().error(clap::error::ErrorKind::Io, message)
            })?;
            self.auth_password = text.lines().next().map(str::to_owned);
        } else if self.auth_user.is_some() && self.auth_password.is_none() {
            self.auth_password = std::env::var("SMTP_PASSWORD").ok();
        }
        let asked = self.auth_user.is_some()
            || self.auth_mechanism.is_some()
            || self.auth_authzid.is_some();
        match asked && self.credentials().is_none() {
            true => {
                let message =
                    "--auth-user and --auth-password are needed, but for EXTERNAL and ANONYMOUS";
                Err(Self::command().error(clap::error::ErrorKind::MissingRequiredArgument, message))
            }
            false => Ok(self),
        }
    }

    /// The engine's TLS policy, where one was chosen.
    pub fn tls_policy(&self) -> Option<TlsPolicy> {
        self.tls.map(|tls| match tls {
            Tls::None => TlsPolicy::Never,
            Tls::Opportunistic => TlsPolicy::Opportunistic,
            Tls::Required => TlsPolicy::Required,
            Tls::Implicit => TlsPolicy::Implicit,
        })
    }

    /// Whether there is no session without TLS.
    fn demands_tls(&self) -> bool {
        match self.tls {
            Some(tls) => matches!(tls, Tls::Required | Tls::Implicit),
            None => {
                let implicit = self
                    .server
                    .as_ref()
                    .is_some_and(|server| server.ends_with(":465"));
                implicit
                    || (self.credentials().is_some() && !self.auth_in_clear && self.unix.is_none())
            }
        }
    }

    /// The engine's way to send bodies.
    pub fn chunking(&self) -> smtp_proto::Chunking {
        match self.chunking {
            Chunking::Auto => smtp_proto::Chunking::Auto,
            Chunking::Never => smtp_proto::Chunking::Never,
            Chunking::Always => smtp_proto::Chunking::Always,
            Chunking::Eager => smtp_proto::Chunking::Eager,
        }
    }

    /// The engine's timeouts.
    pub fn timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        if let Some(reply) = self.timeout_reply {
            timeouts = timeouts.replies(reply);
            timeouts.overlap = timeouts.overlap.min(reply);
        }
        if let Some(block) = self.timeout_data {
            timeouts.block = block;
        }
        timeouts
    }

    /// How to log in, if at all.
    pub fn credentials(&self) -> Option<Credentials> {
        let user = self.auth_user.as_deref();
        let login = user.zip(self.auth_password.as_deref());
        let mut credentials = match self.auth_mechanism {
            Some(AuthMechanism::External) => Credentials::external(),
            Some(AuthMechanism::Anonymous) => Credentials::anonymous(user.unwrap_or_default()),
            Some(AuthMechanism::XOauth2 | AuthMechanism::OAuthBearer) => {
                login.map(|(user, token)| Credentials::token(user, token))?
            }
            _ => login.map(|(user, password)| Credentials::password(user, password))?,
        };
        if let Some(identity) = &self.auth_authzid {
            credentials = credentials.authorization_id(identity);
        }
        if let Some(name) = self
            .auth_mechanism
            .and_then(|mechanism| mechanism.to_possible_value())
        {
            credentials = credentials.mechanisms(&[name.get_name()]);
        }
        if self.auth_in_clear {
            credentials = credentials.permit_in_clear();
        }
        if self.tls_no_verify {
            credentials = credentials.permit_unverified();
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
        std::fs::read(path)
            .map(Some)
            .map_err(|error| bad_file(path, &error))
    }

    /// The certificate and the key of `--client-cert` and `--client-key`.
    fn client_pem(&self) -> Result<Option<[Vec<u8>; 2]>, Error> {
        let (Some(chain), Some(key)) = (&self.client_cert, &self.client_key) else {
            return Ok(None);
        };
        let read = |path: &Path| std::fs::read(path).map_err(|error| bad_file(path, &error));
        Ok(Some([read(chain)?, read(key)?]))
    }

    /// Whether there are several messages to send.
    pub fn is_bulk(&self) -> bool {
        self.data.len() > 1 || self.repeat > 1
    }

    /// Opens each `--data` and looks at it, and makes the envelopes that declare what they hold.
    ///
    /// # Errors
    /// A bad address, a bad parameter, or a bad file.
    pub fn prepare(&self) -> Result<Vec<Item>, Error> {
        let envelope = self.envelope()?;
        let mut once = Vec::new();
        self.data
            .iter()
            .map(|path| self.prepare_one(path, envelope.clone(), &mut once))
            .collect()
    }

    /// What all messages have in common.
    fn envelope(&self) -> Result<Envelope, Error> {
        let from = self.from.as_deref().unwrap_or_default();
        let envelope = Envelope::new(from, &self.to).map_err(|error| refused(error.into()))?;
        let mut envelope = envelope
            .smtputf8(self.smtputf8)
            .all_or_nothing(self.all_or_nothing);
        if let Some(ret) = self.dsn_ret {
            envelope = envelope.parameter(MailParameter::ret(match ret {
                DsnRet::Full => Ret::Full,
                DsnRet::Hdrs => Ret::Headers,
            }));
        }
        if let Some(id) = &self.dsn_envid {
            let id = MailParameter::envelope_id(id)
                .map_err(|error| bad_flag("--dsn-envid", id, &error))?;
            envelope = envelope.parameter(id);
        }
        if let Some(list) = &self.dsn_notify {
            let when = notify(list).map_err(|error| bad_flag("--dsn-notify", list, &error))?;
            envelope = envelope.recipient_parameter(RcptParameter::notify(when));
        }
        if self.require_tls {
            envelope = envelope.parameter(MailParameter::require_tls());
        }
        for text in &self.param {
            let parameter =
                mail_parameter(text).map_err(|error| bad_flag("--param", text, &error))?;
            envelope = envelope.parameter(parameter.required());
        }
        for text in &self.rcpt_param {
            let parameter =
                rcpt_parameter(text).map_err(|error| bad_flag("--rcpt-param", text, &error))?;
            envelope = envelope.recipient_parameter(parameter.required());
        }
        Ok(envelope)
    }

    fn prepare_one(
        &self,
        path: &Path,
        envelope: Envelope,
        once: &mut Vec<FileId>,
    ) -> Result<Item, Error> {
        let bad = |error| bad_file(path, &error);
        let item = |envelope, source, octets| Item {
            envelope,
            source,
            octets,
            is_bad: Cell::new(false),
        };
        if path == Path::new("(sample)") {
            let content = Content::examine(SAMPLE.as_bytes()).map_err(bad)?;
            return Ok(item(
                content.declare(envelope),
                Source::Sample(SAMPLE.as_bytes()),
                None,
            ));
        }
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            "standard input".into()
        } else {
            path.display().to_string()
        };
        let mut file = if is_stdin {
            // Unlike `io::Stdin`, it does not take a stream that is not open for reading for an empty one.
            File::from(io::stdin().as_fd().try_clone_to_owned().map_err(bad)?)
        } else {
            // To open a FIFO is to wait for its writer, who may be waiting for another one to be read.
            let metadata = std::fs::metadata(path).map_err(bad)?;
            self.admit(&name, &metadata, metadata.is_file(), once)?;
            if !metadata.is_file() {
                once.push(file_id(&metadata));
                return Ok(item(
                    envelope,
                    Source::Once(Once::new(name, Stream::At(path.into()))),
                    None,
                ));
            }
            File::open(path).map_err(bad)?
        };
        // The handle is looked at, so that what is found holds for what is sent.
        let metadata = file.metadata().map_err(bad)?;
        let may_reopen = metadata.is_file() && !is_stdin;
        self.admit(&name, &metadata, may_reopen, once)?;
        if !may_reopen {
            once.push(file_id(&metadata));
            return Ok(item(
                envelope,
                Source::Once(Once::new(name, Stream::Open(file))),
                None,
            ));
        }
        let content = Content::examine(&mut file).map_err(|error| {
            let cause = Cause::Local(format!("{name} cannot be read: {error}").into());
            Error::new(Stage::Local, Outcome::Transient, cause)
        })?;
        if content.has_nul {
            return Err(refused(Cause::Local(
                format!("{name} holds a NUL octet, which mail cannot").into(),
            )));
        }
        let source = Source::File(RegularFile {
            path: path.into(),
            seen: Seen::of(&metadata),
        });
        Ok(item(
            content.declare(envelope),
            source,
            Some(content.octets).filter(|_| !self.quiet),
        ))
    }

    /// Refuses a directory, and what can be read only once where it is wanted more often.
    fn admit(
        &self,
        name: &str,
        metadata: &Metadata,
        may_reopen: bool,
        once: &[FileId],
    ) -> Result<(), Error> {
        let problem = if metadata.is_dir() {
            "is a directory"
        } else if may_reopen {
            return Ok(());
        } else if self.repeat > 1 {
            "can be read only once, and --repeat would read it again"
        } else if once.contains(&file_id(metadata)) {
            "can be read only once, and --data names it twice"
        } else {
            return Ok(());
        };
        Err(refused(Cause::Local(format!("{name} {problem}").into())))
    }

    /// The server to send to: the one that is named, or the example's own receiving server, which is
    /// started.
    ///
    /// # Errors
    /// The server cannot be started.
    pub fn start_server(&self) -> Result<Target, Error> {
        if self.server.is_some() || self.unix.is_some() {
            return Ok(Target {
                address: self.server.clone().unwrap_or_default(),
                receiver: None,
            });
        }
        let options = receiver::Options {
            lmtp: self.lmtp,
            implicit_tls: self.tls == Some(Tls::Implicit),
            auth: self.auth_user.clone().zip(self.auth_password.clone()),
            auth_in_clear: self.auth_in_clear,
            require_tls: self.require_tls,
            ..receiver::Options::default()
        };
        let local = |error| {
            refused(Cause::Local(
                format!("the receiving server: {error}").into(),
            ))
        };
        let receiver = receiver::Receiver::start(options).map_err(local)?;
        let address = receiver.local_addr().to_string();
        if !self.quiet {
            say(format_args!("a receiving server listens on {address}"));
        }
        Ok(Target {
            address,
            receiver: Some(receiver),
        })
    }

    /// Shows one line of the conversation.
    pub fn show(&self, trace: &Trace) {
        match trace {
            Trace::Sent(command) => say(format_args!("> {command}")),
            Trace::SentBody { octets } => {
                say(format_args!("> ({octets} octets of message, and the dot)"))
            }
            Trace::SentChunk { octets, last } => {
                say(format_args!(
                    "> BDAT {octets}{}",
                    if *last { " LAST" } else { "" }
                ));
                say(format_args!("> ({octets} octets of message)"));
            }
            Trace::Received(reply) => {
                let mut lines = reply.lines().peekable();
                while let Some(line) = lines.next() {
                    let hyphen = if lines.peek().is_some() { "-" } else { " " };
                    say(format_args!(
                        "< {}{hyphen}{}",
                        reply.code(),
                        Printable(line)
                    ));
                }
            }
            Trace::TlsEstablished => say(format_args!("= encrypted from here on")),
            _ => {}
        }
    }
}

/// A value that a flag cannot have, in words.
type BadValue = Box<dyn std::error::Error>;

/// `NAME` or `NAME=VALUE`, for MAIL.
fn mail_parameter(text: &str) -> Result<MailParameter, BadValue> {
    let (name, value) = split_parameter(text);
    Ok(match (&*name.to_ascii_uppercase(), value) {
        ("RET", Some(value)) if value.eq_ignore_ascii_case("full") => MailParameter::ret(Ret::Full),
        ("RET", Some(value)) if value.eq_ignore_ascii_case("hdrs") => {
            MailParameter::ret(Ret::Headers)
        }
        ("RET", _) => return Err("RET is FULL or HDRS".into()),
        ("ENVID", value) => MailParameter::envelope_id(value.unwrap_or_default())?,
        ("BY", value) => {
            let (seconds, mode) = value.and_then(|by| by.split_once(';')).unwrap_or_default();
            let (mode, trace) = match &*mode.to_ascii_uppercase() {
                "R" => (ByMode::Return, false),
                "RT" => (ByMode::Return, true),
                "N" => (ByMode::Notify, false),
                "NT" => (ByMode::Notify, true),
                _ => {
                    return Err(
                        "BY is SECONDS;R or SECONDS;N, and a T behind it asks for a trace".into(),
                    );
                }
            };
            MailParameter::deliver_by(number("BY", seconds)?, mode, trace)?
        }
        ("MT-PRIORITY", value) => {
            MailParameter::priority(number(name, value.unwrap_or_default())?)?
        }
        ("HOLDFOR", value) => MailParameter::hold_for(number(name, value.unwrap_or_default())?)?,
        ("HOLDUNTIL", value) => MailParameter::hold_until(value.unwrap_or_default())?,
        ("REQUIRETLS", None) => MailParameter::require_tls(),
        ("PRDR", None) => MailParameter::per_recipient_replies(),
        ("AUTH", Some(identity)) => MailParameter::auth(Some(&Mailbox::parse(identity)?)),
        _ => MailParameter::raw(name, value).map_err(without_calls)?,
    })
}

/// The same for RCPT.
fn rcpt_parameter(text: &str) -> Result<RcptParameter, BadValue> {
    let (name, value) = split_parameter(text);
    Ok(match (&*name.to_ascii_uppercase(), value) {
        ("NOTIFY", value) => RcptParameter::notify(notify(value.unwrap_or_default())?),
        ("ORCPT", value) => {
            let (kind, address) = value
                .and_then(|original| original.split_once(';'))
                .unwrap_or_default();
            RcptParameter::original_recipient_of(kind, address)?
        }
        ("RRVS", value) => {
            let value = value.unwrap_or_default();
            match value.split_once(';') {
                None => RcptParameter::valid_since(value, None)?,
                Some((date, "C" | "c")) => {
                    RcptParameter::valid_since(date, Some(RrvsAction::Continue))?
                }
                Some((date, "R" | "r")) => {
                    RcptParameter::valid_since(date, Some(RrvsAction::Reject))?
                }
                Some(_) => return Err("RRVS is a date-time, and ;C or ;R behind it".into()),
            }
        }
        _ => RcptParameter::raw(name, value).map_err(without_calls)?,
    })
}

fn split_parameter(text: &str) -> (&str, Option<&str>) {
    text.split_once('=')
        .map_or((text, None), |(name, value)| (name, Some(value)))
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, BadValue> {
    text.parse()
        .map_err(|_| format!("{name} needs a number, not \"{text}\"").into())
}

/// What the engine's own calls are good for, this program does by itself or by other flags.
fn without_calls(error: ParameterError) -> BadValue {
    match error {
        ParameterError::HasOwnCall { name, .. } => {
            format!("{name} cannot be given this way").into()
        }
        error => error.into(),
    }
}

fn notify(list: &str) -> Result<Notify, BadValue> {
    if list.eq_ignore_ascii_case("never") {
        return Ok(Notify::NEVER);
    }
    list.split(',').try_fold(Notify::NEVER, |all, word| {
        match &*word.to_ascii_lowercase() {
            "success" => Ok(all | Notify::SUCCESS),
            "failure" => Ok(all | Notify::FAILURE),
            "delay" => Ok(all | Notify::DELAY),
            _ => Err("it is never, or a list of success, failure and delay".into()),
        }
    })
}

/// Where the messages go.
#[derive(Debug)]
pub struct Target {
    /// As `--server` has it; empty where `--unix` says it.
    pub address: String,
    receiver: Option<receiver::Receiver>,
}

impl Target {
    /// The certificate of our own receiving server.
    pub fn own_pem(&self) -> Option<&str> {
        self.receiver
            .as_ref()
            .map(receiver::Receiver::certificate_pem)
    }

    /// Says what our own receiving server has taken.
    pub fn say_where(&self, options: &Options) {
        let messages = self
            .receiver
            .iter()
            .filter(|_| !options.quiet)
            .flat_map(receiver::Receiver::messages);
        for stored in messages {
            let (octets, to) = (stored.octets, stored.forward_paths.join(", "));
            say(format_args!("taken: {octets} octets for {to}"));
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
                let completed =
                    (last == b'\r') != (octet == b'\n') && (last == b'\r' || octet == b'\n');
                content.size += 1 + u64::from(completed);
                last = octet;
            }
        }
        if content.octets > 0 && last != b'\n' {
            content.size += if last == b'\r' { 1 } else { 2 };
        }
        Ok(content)
    }

    fn declare(&self, envelope: Envelope) -> Envelope {
        let body = if self.is_eight_bit {
            BodyType::EightBit
        } else {
            BodyType::SevenBit
        };
        envelope.exact_size(self.size).body(body).reopenable(true)
    }
}

/// A message to send.
#[derive(Debug)]
pub struct Item {
    /// Declares what the message holds.
    pub envelope: Envelope,
    /// Where it lies.
    pub source: Source,
    octets: Option<u64>,
    /// It could not be opened, and trying again would not help.
    is_bad: Cell<bool>,
}

impl Item {
    /// Counts what is sent of it.
    pub fn progress(&self) -> Progress {
        let shown = self
            .octets
            .filter(|&octets| octets >= Progress::LONG && io::stderr().is_terminal());
        Progress {
            sent: 0,
            shown: shown.map(|octets| (octets, Instant::now())),
        }
    }

    /// Opens it for blocking reads.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self) -> io::Result<Message> {
        Ok(Message {
            source: self.opened(self.source.open())?,
            progress: self.progress(),
        })
    }

    /// Notes for [`ending`](Self::ending) whose fault it is where it could not be opened.
    ///
    /// # Errors
    /// Those that it is given.
    pub fn opened<T>(&self, result: io::Result<T>) -> io::Result<T> {
        // What is not among these may pass, as when too many files are open.
        let is_bad = |error: &io::Error| {
            use io::ErrorKind::{InvalidData, NotFound, NotSeekable, PermissionDenied};
            matches!(
                error.kind(),
                NotFound | PermissionDenied | NotSeekable | InvalidData
            )
        };
        self.is_bad.set(result.as_ref().is_err_and(is_bad));
        result
    }

    /// How a message ended that was not submitted, because the session had ended so.
    pub fn not_attempted(&self, end: Option<Error>) -> Ending {
        self.ending(not_attempted(&self.envelope, end))
    }

    /// How the message ended. The engine knows that it could not be read, and not why.
    pub fn ending(&self, mut report: Report) -> Ending {
        let errors = report
            .recipients
            .iter_mut()
            .filter_map(|result| result.as_mut().err());
        let unread = errors.filter(|error| {
            matches!(error.cause, Cause::Local(_)) && error.outcome != Outcome::InDoubt
        });
        let unread: Vec<_> = unread.collect();
        if !unread.is_empty() && self.is_bad.take() {
            unread
                .into_iter()
                .for_each(|error| error.outcome = Outcome::Permanent);
        }
        Ending(Ok(report))
    }
}

/// Where a message lies.
#[derive(Debug)]
pub enum Source {
    /// Inside the program.
    Sample(&'static [u8]),
    /// In a file.
    File(RegularFile),
    /// In what is no regular file, or on standard input.
    Once(Once),
}

impl Source {
    fn open(&self) -> io::Result<Box<dyn BufRead>> {
        let file = match self {
            Source::Sample(octets) => return Ok(Box::new(*octets)),
            Source::File(file) => {
                let opened = File::open(file.path())?;
                file.check(&opened.metadata()?)?;
                opened
            }
            Source::Once(once) => match once.take()? {
                Stream::Open(file) => file,
                Stream::At(path) => File::open(path)?,
            },
        };
        Ok(Box::new(BufReader::with_capacity(READ_SIZE, file)))
    }
}

/// Octets of a file that are read at a time.
pub const READ_SIZE: usize = 64 * 1024;

/// A device, and a file of it.
type FileId = (u64, u64);

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// What is known of a regular file without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    id: FileId,
    octets: u64,
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        Self {
            id: file_id(metadata),
            octets: metadata.len(),
        }
    }
}

/// A file that was looked at, and is opened anew each time that it is sent.
#[derive(Debug)]
pub struct RegularFile {
    path: PathBuf,
    seen: Seen,
}

impl RegularFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what was opened there, if it is still the file whose size the envelope declares.
    ///
    /// # Errors
    /// It is another one, or it has grown or shrunk.
    pub fn check(&self, opened: &Metadata) -> io::Result<()> {
        match Seen::of(opened) == self.seen {
            true => Ok(()),
            false => {
                let message = format!("{} has changed since it was looked at", self.path.display());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

/// A pipe or the like, which cannot be read again.
#[derive(Debug)]
pub struct Once {
    name: String,
    stream: RefCell<Option<Stream>>,
}

/// Where it is.
#[derive(Debug)]
pub enum Stream {
    /// It is open: standard input.
    Open(File),
    /// To be opened when it is wanted.
    At(PathBuf),
}

impl Once {
    fn new(name: String, stream: Stream) -> Self {
        Self {
            name,
            stream: RefCell::new(Some(stream)),
        }
    }

    /// The stream.
    ///
    /// # Errors
    /// It was taken already.
    pub fn take(&self) -> io::Result<Stream> {
        let message = || format!("{} can be read only once", self.name);
        self.stream
            .take()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotSeekable, message()))
    }
}

/// Shows on a terminal how much of a long message has been sent.
#[derive(Debug)]
pub struct Progress {
    sent: u64,
    /// The octets that there will be, and when their number was last shown.
    shown: Option<(u64, Instant)>,
}

impl Progress {
    /// A message shorter than this shows none, in octets.
    const LONG: u64 = 1024 * 1024;

    /// So many more octets are sent.
    pub fn advance(&mut self, octets: usize) {
        self.sent += octets as u64;
        if let Some((all, shown)) = &mut self.shown
            && (shown.elapsed() > Duration::from_millis(100) || self.sent >= *all)
        {
            *shown = Instant::now();
            let end = if self.sent >= *all { "\n" } else { "" };
            let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
            let _ = write!(
                io::stderr(),
                "\r{:.1} of {:.1} MiB{end}",
                mib(self.sent),
                mib(*all)
            );
        }
    }
}

/// A message that is being sent.
pub struct Message {
    source: Box<dyn BufRead>,
    progress: Progress,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?})", self.progress)
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
        self.progress.advance(octets);
    }
}

/// What is known of the session, at its end.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    /// How it was encrypted, if it was.
    pub tls: Option<TlsInfo>,
    /// Its round trips.
    pub round_trips: u64,
    /// Overlap was chosen, and the server does not take it.
    pub overlap_broken: bool,
}

impl SessionFacts {
    /// Of a session that did not come about.
    pub fn failed(error: &smtp_adapter::Error) -> Self {
        Self {
            tls: error.tls_info().cloned(),
            round_trips: error.round_trips(),
            overlap_broken: false,
        }
    }
}

/// How a message ended: its report, or the error that left none, with the whole line about it where more
/// is known than its `Display` says.
#[derive(Clone, Debug)]
pub struct Ending(pub Result<Report, (Error, Option<String>)>);

impl From<&smtp_adapter::Error> for Ending {
    fn from(error: &smtp_adapter::Error) -> Self {
        Self(Err((error.error().clone(), Some(error.to_string()))))
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        Self(Err((error, None)))
    }
}

impl Ending {
    /// One for each recipient.
    fn verdicts(&self, options: &Options) -> Vec<Verdict> {
        match &self.0 {
            Ok(report) => {
                let verdict = |result: &Result<Reply, Error>| match result {
                    Ok(reply) => Verdict::success(reply),
                    Err(error) => Verdict::failure(error, options),
                };
                report.recipients.iter().map(verdict).collect()
            }
            Err((error, line)) => {
                let mut verdict = Verdict::failure(error, options);
                verdict.line = line.clone().unwrap_or(verdict.line);
                vec![verdict; options.to.len()]
            }
        }
    }
}

/// Prints what became of the messages, as the options ask for it.
#[derive(Debug)]
pub struct Printer<'a> {
    options: &'a Options,
    start: Instant,
    messages: u64,
    delivered: u64,
    /// Of each kind of failure, the first.
    failures: Vec<Verdict>,
    partial: bool,
    /// The object of a message sent alone, which is to be the last line.
    last_line: Option<Value>,
}

impl<'a> Printer<'a> {
    /// A printer, before the session begins.
    pub fn new(options: &'a Options) -> Self {
        Self {
            options,
            start: Instant::now(),
            messages: 0,
            delivered: 0,
            failures: Vec::new(),
            partial: false,
            last_line: None,
        }
    }

    /// One message has ended. In a bulk delivery it is printed at once.
    pub fn message(&mut self, ending: &Ending, facts: &SessionFacts) {
        self.messages += 1;
        let (options, bulk) = (self.options, self.options.is_bulk());
        let verdicts = ending.verdicts(options);
        let failures: Vec<_> = verdicts.iter().filter(|verdict| verdict.failed()).collect();
        let is_partial = failures.len() < verdicts.len();
        let decisive = Verdict::decisive(failures.iter().copied());
        let overall = overall(decisive, is_partial);
        self.delivered += u64::from(decisive.is_none());
        self.partial |= is_partial;
        for &verdict in &failures {
            if !self
                .failures
                .iter()
                .any(|known| known.kind() == verdict.kind())
            {
                self.failures.push(verdict.clone());
            }
        }
        let error = decisive.map(|decisive| match overall {
            "partial" => {
                format!(
                    "{} of {} recipients failed: {}",
                    failures.len(),
                    verdicts.len(),
                    decisive.line
                )
            }
            _ => decisive.line.clone(),
        });
        if !options.json && !options.quiet {
            for (address, verdict) in options.to.iter().zip(&verdicts) {
                let number = if bulk {
                    format!("message {}, ", self.messages)
                } else {
                    String::new()
                };
                say(format_args!(
                    "{number}{}: {}",
                    Printable(address.as_bytes()),
                    verdict.line
                ));
            }
        }
        if let Some(error) = &error
            && (options.json || options.quiet)
        {
            let _ = writeln!(io::stderr(), "send: {error}");
        }
        if options.json {
            let mut object = json!({
                "outcome": overall,
                "stage": decisive.and_then(|verdict| verdict.stage).map(Stage::as_str),
                "maybe_delivered": verdicts.iter().any(|verdict| verdict.maybe_delivered),
                "recipients": recipients(options, &verdicts),
                "tls": tls(facts),
                "round_trips": facts.round_trips,
                "error": error,
            });
            if let (true, Some(members)) = (bulk, object.as_object_mut()) {
                members.insert("message".into(), self.messages.into());
                say(format_args!("{object}"));
            } else {
                self.last_line = Some(object);
            }
        }
    }

    /// The session is over: what a bulk delivery came to, and the exit code.
    pub fn conclude(self, facts: &SessionFacts) -> ExitCode {
        let decisive = Verdict::decisive(&self.failures);
        let outcome = overall(decisive, self.partial);
        let seconds = self.start.elapsed().as_secs_f64();
        if self.options.is_bulk() {
            if self.options.json {
                let summary = json!({
                    "messages": self.messages,
                    "delivered": self.delivered,
                    "outcome": outcome,
                    "overlap_broken": facts.overlap_broken,
                    "tls": tls(facts),
                    "round_trips": facts.round_trips,
                    "seconds": seconds,
                });
                say(format_args!("{summary}"));
            } else if !self.options.quiet {
                let (messages, delivered) = (self.messages, self.delivered);
                let trips = facts.round_trips;
                say(format_args!(
                    "{delivered} of {messages} delivered, {trips} round trips, {seconds:.3} s"
                ));
            }
        }
        if let Some(object) = &self.last_line {
            say(format_args!("{object}"));
        }
        ExitCode::from(decisive.map_or(0, |verdict| verdict.exit_code(self.partial)))
    }
}

fn recipients(options: &Options, verdicts: &[Verdict]) -> Vec<Value> {
    let recipient = |(address, verdict): (&String, &Verdict)| {
        json!({
            "address": address,
            "outcome": verdict.outcome,
            "stage": verdict.stage.map(Stage::as_str),
            "code": verdict.reply.as_ref().map(|reply| reply.code().get()),
            "enhanced": verdict.reply.as_ref().and_then(Reply::enhanced).map(|code| code.to_string()),
            "text": verdict.reply.as_ref().map(text_of),
        })
    };
    options.to.iter().zip(verdicts).map(recipient).collect()
}

fn tls(facts: &SessionFacts) -> Value {
    match &facts.tls {
        None => Value::Null,
        Some(tls) => json!({
            "version": tls.version,
            "cipher": tls.cipher_suite,
            "verified": tls.verified_name.is_some(),
            "name": tls.verified_name,
        }),
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
        let tls_demanded = options.demands_tls();
        let outcome = match (&error.cause, error.outcome) {
            (Cause::AllOrNothing, _) => "refused",
            // What kept it from being attempted was about something else.
            (_, Outcome::NotAttempted) => "temporary",
            (Cause::Protocol(_), _) => "protocol",
            (_, Outcome::InDoubt) => "temporary",
            (Cause::TlsFailed(_) | Cause::TlsMisconfigured(_), _) if tls_demanded => "refused",
            // The message could not be read to its end.
            (Cause::Local(_), Outcome::Transient) => "temporary",
            (cause, _) if cause.is_refusal() => "refused",
            (_, Outcome::Permanent) => "permanent",
            _ => "temporary",
        };
        // The server answered something else, if anything, and not this message.
        let is_unanswered = match error.outcome {
            Outcome::NotAttempted => true,
            Outcome::InDoubt => matches!(error.cause, Cause::Rejected(_)),
            _ => false,
        };
        Self {
            outcome,
            stage: Some(error.stage),
            reply: error.reply().filter(|_| !is_unanswered).cloned(),
            maybe_delivered: error.is_in_doubt(),
            bad_input: error.stage == Stage::Local
                || matches!(error.cause, Cause::Body(_) | Cause::Local(_)),
            line: error.to_string(),
        }
    }

    fn failed(&self) -> bool {
        self.outcome != "success"
    }

    /// What it is as far as the exit code goes, in the order in which failures speak for others: first what is
    /// in doubt, then what could still change, and bad input last.
    fn kind(&self) -> (bool, usize, bool) {
        let order = ["protocol", "temporary", "permanent", "refused"];
        let rank = order
            .iter()
            .position(|outcome| *outcome == self.outcome)
            .unwrap_or(order.len());
        (!self.maybe_delivered, rank, self.bad_input)
    }

    /// The failure that speaks for all.
    fn decisive<'a>(failures: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        failures.into_iter().min_by_key(|failure| failure.kind())
    }

    /// The exit code of sysexits.h, where this failure speaks for all, and whether somebody got a message.
    fn exit_code(&self, is_partial: bool) -> u8 {
        match self.outcome {
            "temporary" => 75,
            "protocol" if is_partial => 75,
            "protocol" => 76,
            "permanent" => 69,
            _ if is_partial => 69,
            _ if self.bad_input => 65,
            _ => 77,
        }
    }
}

/// One word for all, where this failure speaks for those that failed.
fn overall(decisive: Option<&Verdict>, is_partial: bool) -> &'static str {
    match decisive {
        None => "success",
        Some(_) if is_partial => "partial",
        Some(failure) => failure.outcome,
    }
}

fn text_of(reply: &Reply) -> String {
    let lines: Vec<String> = reply
        .lines()
        .map(|line| Printable(line).to_string())
        .collect();
    lines.join("\n")
}

fn refused(cause: Cause) -> Error {
    Error::new(Stage::Local, Outcome::Permanent, cause)
}

fn bad_flag(flag: &str, value: &str, error: &dyn fmt::Display) -> Error {
    refused(Cause::Local(
        format!("{flag} {}: {error}", Printable(value.as_bytes())).into(),
    ))
}

fn bad_file(path: &Path, error: &io::Error) -> Error {
    refused(Cause::Local(format!("{}: {error}", path.display()).into()))
}

/// The path of a `send` example, which is built here: tests of one package do not build another's
/// examples, and the two share a name.
pub fn example(package: &'static str) -> PathBuf {
    static BUILT: Mutex<Vec<(&str, PathBuf)>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, path)) = built.iter().find(|(name, _)| *name == package) {
        return path.clone();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [
        "build",
        "--quiet",
        "--package",
        package,
        "--example",
        "send",
        "--message-format=json",
    ];
    let mut cargo = Command::new(cargo);
    // What cargo tells a test of its package would make build scripts run anew, and with them the build
    // of everything above, now and in the next run of cargo.
    for (name, _) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if of_package
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    let output = cargo.args(arguments).output().expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executable =
        executable.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    let executable = executable.next_back().expect("cargo names what it built");
    // The other example's build replaces it; this copy stays.
    let path = executable.with_file_name(format!("send-of-{package}-{}", std::process::id()));
    std::fs::copy(&executable, &path).expect("the example can be copied");
    built.push((package, path.clone()));
    path
}

/// The server at this address, as the options describe the session with it. `own_pem` is the certificate of the
/// receiving server, where it is ours.
///
/// # Errors
/// A file of certificates that cannot be used.
pub fn server_for(
    options: &Arc<Options>,
    address: &str,
    own_pem: Option<&str>,
) -> Result<Server, Error> {
    let server = match &options.unix {
        Some(path) => Server::unix(path),
        None => Server::new(address),
    };
    let mut server = server
        .verify(!options.tls_no_verify)
        .timeouts(options.timeouts())
        .credentials(options.credentials())
        .pipelining(!options.no_pipelining)
        .chunking(options.chunking())
        .overlap(options.overlap)
        .retry_in_clear(options.retry_in_clear);
    if let Some(policy) = options.tls_policy() {
        server = server.tls(policy);
    }
    if let Some(name) = &options.helo {
        server = server.client_name(name.clone());
    }
    if let Some(address) = options.local_address {
        server = server.bind(address);
    }
    if let Some(timeout) = options.timeout_connect {
        server = server.connect_timeout(timeout);
    }
    if options.lmtp {
        server = server.lmtp();
    }
    // We know our own server: its name is localhost and its certificate was made a moment ago.
    if let Some(name) = options.tls_name.as_deref().or(own_pem.map(|_| "localhost")) {
        server = server.server_name(name);
    }
    let own_pem = own_pem.map(|pem| pem.as_bytes().to_vec());
    for pem in own_pem.into_iter().chain(options.ca_pem()?) {
        server = server
            .trust_pem(&pem)
            .map_err(|error| error.error().clone())?;
    }
    if let Some([chain, key]) = options.client_pem()? {
        server = server
            .client_certificate_pem(&chain, &key)
            .map_err(|error| error.error().clone())?;
    }
    if options.transcript {
        let options = options.clone();
        server = server.observe(move |trace| options.show(trace));
    }
    Ok(server)
}

/// Prints a line. That nobody reads any more (SIGPIPE) is no reason to stop sending mail.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use smtp_proto::body::{BodyEncoder, BodyPolicy};

    use super::*;

    /// Octets of this body in chunks.
    fn sent(mut body: &[u8]) -> u64 {
        let mut encoder = BodyEncoder::chunked(BodyPolicy::default(), true);
        let mut octets = 0;
        while !body.is_empty() {
            let (inserted, run) = encoder.next(body).unwrap();
            octets += inserted.len() + run;
            body = &body[encoder.advance(body, inserted.len() + run)..];
        }
        (octets + encoder.finish().unwrap().len()) as u64
    }

    /// Reads give at most so many octets.
    struct Cut<'a>(&'a [u8], usize);

    impl Read for Cut<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(self.1);
            self.0.read(&mut buffer[..n])
        }
    }

    /// The size is a promise: it goes into `BDAT n LAST`.
    #[test]
    fn a_look_at_a_file_counts_what_the_engine_sends() {
        let octets = [b'\r', b'\n', b'.', b'x'];
        // Every file of up to five of these.
        let mut files = vec![vec![]];
        let mut from = 0;
        for _ in 0..5 {
            let until = files.len();
            for n in from..until {
                files.extend(octets.map(|octet| [&files[n][..], &[octet]].concat()));
            }
            from = until;
        }
        for file in &files {
            for cut in 1..=file.len().max(1) {
                let content = Content::examine(Cut(file, cut)).unwrap();
                assert_eq!(
                    content.size,
                    sent(file),
                    "{:?} by {cut}",
                    file.escape_ascii()
                );
            }
        }
        assert_eq!(files.len(), 1 + 4 + 16 + 64 + 256 + 1024);
        assert!(Content::examine(&b"\xe9"[..]).unwrap().is_eight_bit);
    }

    #[test]
    fn parameters_are_written_as_given() {
        for (text, sent) in [
            ("ret=hdrs", "RET=HDRS"),
            ("ENVID=a b", "ENVID=a+20b"),
            ("BY=120;R", "BY=120;R"),
            ("BY=-5;nt", "BY=-5;NT"),
            ("MT-PRIORITY=-3", "MT-PRIORITY=-3"),
            ("HOLDFOR=60", "HOLDFOR=60"),
            (
                "HOLDUNTIL=2027-01-02T03:04:05Z",
                "HOLDUNTIL=2027-01-02T03:04:05Z",
            ),
            ("REQUIRETLS", "REQUIRETLS"),
            ("PRDR", "PRDR"),
            ("AUTH=<>", "AUTH=<>"),
            ("AUTH=e+s@b", "AUTH=e+2Bs@b"),
            ("CONPERM", "CONPERM"),
            ("X-A=b;c", "X-A=b;c"),
        ] {
            assert_eq!(mail_parameter(text).unwrap().to_string(), sent);
        }
        for (text, sent) in [
            ("NOTIFY=delay,SUCCESS", "NOTIFY=SUCCESS,DELAY"),
            ("NOTIFY=never", "NOTIFY=NEVER"),
            ("ORCPT=rfc822;a+b@c", "ORCPT=rfc822;a+2Bb@c"),
            ("RRVS=2027-01-02T03:04:05Z;C", "RRVS=2027-01-02T03:04:05Z;C"),
            ("X-TAG", "X-TAG"),
        ] {
            assert_eq!(rcpt_parameter(text).unwrap().to_string(), sent);
        }
        for text in [
            "",
            "=x",
            "-a",
            "a b",
            "a=",
            "a=b=c",
            "a=b c",
            "a=\n",
            "SIZE=1",
            "BODY=7BIT",
            "SMTPUTF8",
            "RET",
            "RET=x",
            "BY=1",
            "BY=x;R",
            "BY=0;R",
            "BY=1;RR",
            "MT-PRIORITY=10",
            "MT-PRIORITY",
            "HOLDFOR=-1",
            "HOLDUNTIL=x",
            "AUTH=a b",
            "AUTH",
            "PRDR=1",
            "REQUIRETLS=1",
            "ENVID",
            "NOTIFY=NEVER",
        ] {
            assert!(mail_parameter(text).is_err(), "{text}");
        }
        for text in [
            "",
            "NOTIFY",
            "NOTIFY=never,delay",
            "NOTIFY=delay,",
            "ORCPT=a@b",
            "RRVS=x",
            "RRVS=x;y",
            "RET=FULL",
        ] {
            assert!(rcpt_parameter(text).is_err(), "{text}");
        }
    }
}
