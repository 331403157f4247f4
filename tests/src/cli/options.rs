//! The options of the command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use smtp_proto::ClientName;

/// Forwards one message to a mail server.
///
/// Without --server and --unix, a small receiving server is started on a loopback port, and stores the message.
/// Without any argument, a sample message is sent to it, and the conversation is shown.
///
/// Exit codes: 0 success, 64 usage, 65 bad input, 69 permanent failure, 75 temporary failure (or some
/// recipients refused for now, or a server that takes no mail now), 76 the server broke the protocol, 77 refused by policy.
#[derive(Clone, Debug, Parser)]
#[command(name = "send", max_term_width = 100)]
pub struct Options {
    /// The server; port 25 if none is given, 465 with implicit TLS, 24 with --lmtp.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub server: Option<String>,
    /// Connects to the server at this Unix socket instead.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["server", "local_address"])]
    pub unix: Option<PathBuf>,
    /// The reverse-path; '<>' is the null reverse-path.
    #[arg(long, value_name = "ADDR", required = true)]
    pub from: Option<String>,
    /// A forward-path; may be given several times.
    #[arg(long, value_name = "ADDR", required = true)]
    pub to: Vec<String>,
    /// The message; - is standard input. Several messages are sent in a row over one session, and each is reported on
    /// a line. A bad one does not stop the others. A pipe is read while it is sent, and only once.
    #[arg(long, value_name = "FILE|-", required = true)]
    pub data: Vec<PathBuf>,
    /// Removes the fields Bcc and Resent-Bcc from the header. Their recipients are not read: name them by --to.
    #[arg(long)]
    pub strip_bcc: bool,
    /// How often to send all messages.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Sends each next envelope in one batch with the end of the message before. Only for servers that are known to
    /// take it.
    #[arg(long)]
    pub overlap: bool,
    /// When to send the message by BDAT, in chunks, instead of DATA.
    #[arg(long, value_enum, default_value = "auto")]
    pub chunking: Chunking,
    /// Sends nothing unless every recipient is accepted.
    #[arg(long)]
    pub all_or_nothing: bool,
    /// How much of the message a report of failure returns. The three --dsn flags are sent if DSN is offered.
    #[arg(long, value_enum)]
    pub dsn_ret: Option<DsnRet>,
    /// The sender's own name of the message, which reports repeat.
    #[arg(long, value_name = "ID")]
    pub dsn_envid: Option<String>,
    /// Which events are reported for each recipient: never, or a list of success, failure and delay.
    #[arg(long, value_name = "LIST")]
    pub dsn_notify: Option<String>,
    /// Sends only over TLS with a verified server, here and on every later hop (REQUIRETLS).
    #[arg(long)]
    pub require_tls: bool,
    /// Declares that the header needs SMTPUTF8, even if the addresses do not.
    #[arg(long)]
    pub smtputf8: bool,
    /// Adds a parameter to MAIL. A server that does not offer it does not get the message. May be given several
    /// times.
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
    /// Uses LMTP.
    #[arg(long)]
    pub lmtp: bool,
    /// When to encrypt. Required and implicit verify the server. [default: implicit on port 465; required with a
    /// password on a network, unless it may go in the clear; else opportunistic].
    #[arg(long, value_enum)]
    pub tls: Option<Tls>,
    /// Checks that the server's certificate is for this name, instead of the name that is connected to.
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// Accepts any server, and sends it the password too: an attacker in between can get it.
    #[arg(long)]
    pub tls_no_verify: bool,
    /// Trusts these certificates in addition to the system's.
    #[arg(long, value_name = "PEM")]
    pub ca_file: Option<PathBuf>,
    /// The client certificate, and those that lead to its authority. It is shown if the server asks for one.
    #[arg(long, value_name = "PEM", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// The private key of --client-cert.
    #[arg(long, value_name = "PEM", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Connects again without TLS after an opportunistic handshake has failed. Never with a password.
    #[arg(long)]
    pub retry_in_clear: bool,
    /// Logs in as this user. For ANONYMOUS, it is the trace.
    #[arg(long, value_name = "U")]
    pub auth_user: Option<String>,
    /// The password, or the token of OAUTHBEARER and XOAUTH2. Everybody on this host can see it. Without this and the
    /// next option, SMTP_PASSWORD of the environment is used.
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
    /// Uses only this mechanism.
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
    /// Writes the session into this file, so that it can be played again: a report of a bug. A second session goes into
    /// FILE.2. Passwords stand nowhere in it, and of the message its shape.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Writes the message into the record as it is.
    #[arg(long, requires = "record")]
    pub record_bodies: bool,
    /// Prints only errors.
    #[arg(long)]
    pub quiet: bool,
}

/// `--tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tls {
    /// Never.
    None,
    /// If the server offers STARTTLS.
    Opportunistic,
    /// By STARTTLS or not at all.
    Required,
    /// From the first octet.
    Implicit,
}

/// `--chunking`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Chunking {
    /// If the server offers CHUNKING.
    Auto,
    /// Never.
    Never,
    /// By BDAT or not at all.
    Always,
    /// If it is offered, without waiting for an accepted recipient. Only for trusted servers.
    Eager,
}

/// `--dsn-ret`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DsnRet {
    /// All of it.
    Full,
    /// Only its header.
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
    /// Whether there are several messages to send.
    pub fn is_bulk(&self) -> bool {
        self.data.len() > 1 || self.repeat > 1
    }
}
