//! What the harnesses of real servers have in common, and what each of these servers is put to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use smtp_adapter::{Observation, TlsInfo};
use smtp_proto::{
    Capabilities, Cause, Chunking, Credentials, Envelope, Extension, Mailbox, Outcome, Recipient,
    Reply, Report, Request, Stage, TlsPolicy,
    event::{Failure, Trace},
    parameter::{MailParameter, Notify, RcptParameter, Ret},
};
use tokio::runtime::Runtime;

use crate::delivery::{Delivery, runtime};

pub(crate) type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The name in each server's certificate, which also holds for `localhost` and 127.0.0.1.
pub const NAME: &str = "mail.example.test";

/// A domain beyond ASCII for which Postfix and Exim take mail.
pub(crate) const UTF8_DOMAIN: &str = "\u{3b4}\u{3bf}\u{3ba}\u{3b9}\u{3bc}\u{3ae}.example.test";

/// Whom the messages come from.
const SENDER: &str = "sender@example.org";

/// Waits for the greeting on port `$2`, goes over to TLS (after STARTTLS where `$3` names a protocol), and
/// leaves with a 221. It checks our certificates too. openssl is there: Debian's postfix and dovecot-core depend
/// on it, and the harness of Exim installs it.
const GREETING: &str = r#"
echo QUIT | timeout 10 openssl s_client -quiet -connect "127.0.0.1:$2" ${3:+-starttls "$3"} \
  -CAfile "$1/ca.pem" -verify_return_error -verify_hostname mail.example.test | grep '^221 '"#;

/// What there is to know about a kind of server.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// A script that is given the server's folder, runs beside the server, and is to end it when its standard
    /// input closes, which it does however the test process ends: after `kill -9` too, or with a server in a
    /// static, which is never dropped. Then it removes the folder.
    pub(crate) stop: &'static str,
    /// As all paths here, in the server's folder.
    pub(crate) logs: &'static [&'static str],
    /// What stands before the Message-ID in the line of the log that says that a message was taken.
    pub(crate) taken: &'static str,
    /// All mail is stored in this folder, and appears there when it is complete.
    pub(crate) mail: &'static str,
    /// The headers that the server puts on top, one of each name at most and in this order.
    pub(crate) headers: &'static [&'static str],
    /// The one among them that has the recipients. Without it, the folder has a Maildir for each recipient,
    /// whose name is the address.
    pub(crate) recipients: Option<&'static str>,
    /// What is said to `greylisted@example.test`.
    pub(crate) greylisted: (u16, &'static str),
    /// An LMTP server's Unix socket, which takes what the first port takes.
    pub(crate) lmtp_socket: Option<&'static str>,
}

/// A running server with mail for every user of `example.test`, which answers `refused@example.test`
/// 550 5.1.1 and `greylisted@example.test` with a 4yz. Dropping it stops it and removes all its files.
#[derive(Debug)]
pub struct Server {
    kind: &'static Kind,
    dir: PathBuf,
    pub(crate) ports: Vec<u16>,
    guard: Child,
    /// The recipients of each file of mail, so that the others need not be read again and again.
    seen: Mutex<HashMap<PathBuf, Vec<String>>>,
}

impl Server {
    /// Finds a folder and `N` ports for the server, which `launch` is to configure and to start. An error says
    /// what went wrong, with the end of the log.
    pub(crate) fn start<const N: usize>(
        kind: &'static Kind,
        launch: impl Fn(&Self) -> Result<()>,
    ) -> Result<Self, String> {
        let start = || {
            let server = Self::new::<N>(kind).map_err(|error| error.to_string())?;
            match launch(&server) {
                Ok(()) => Ok(server),
                Err(error) => Err(server.with_log(&error.to_string())),
            }
        };
        match start() {
            // Between our finding a port free and the server's taking it, another process may have had it.
            Err(error) if error.contains("Address already in use") => start(),
            result => result,
        }
    }

    fn new<const N: usize>(kind: &'static Kind) -> Result<Self> {
        // Not in TMPDIR: the servers' users must get in, and the name of a Unix socket has at most 107 octets.
        let dir = PathBuf::from(sh("mktemp -d \"/tmp/$1-XXXXXX\"", &[kind.name])?.trim());
        let guard = Command::new("sh")
            .args(["-c", kind.stop, &format!("guard-{}", kind.name)])
            .arg(&dir)
            .stdin(Stdio::piped())
            .process_group(0) // out of reach of the terminal's ^C
            .spawn()?;
        // All are held until all are known, so that no two are the same.
        let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let ports = held
            .into_iter()
            .map(|listener| Ok(listener?.local_addr()?.port()));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            kind,
            dir,
            ports,
            guard,
            seen: Mutex::default(),
        })
    }

    /// Writes files into the folder and into folders below it: these, `ca.pem`, and `server_pem` with the
    /// server's key and certificate. In their text, `@DIR@` stands for the folder, and `@PORT0@` for the first
    /// port.
    pub(crate) fn write(&self, server_pem: &str, files: &[(&str, &str)]) -> Result<()> {
        for (name, text) in files {
            let mut text = text.replace("@DIR@", self.dir()?);
            for (index, port) in self.ports.iter().enumerate() {
                text = text.replace(&format!("@PORT{index}@"), &port.to_string());
            }
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            fs::write(path, text)?;
        }
        let (ca, server) = certificates(NAME)?;
        fs::write(self.ca_pem_path(), ca)?;
        fs::write(self.path(server_pem), server)?;
        Ok(())
    }

    /// Waits for the greeting on this port and checks TLS there, as long as `alive` finds nothing wrong.
    pub(crate) fn greets(
        &self,
        port: u16,
        starttls: bool,
        alive: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let starttls = match (starttls, self.kind.lmtp_socket) {
            (false, _) => "",
            (true, None) => "smtp",
            (true, Some(_)) => "lmtp",
        };
        while let Err(error) = sh(GREETING, &[self.dir()?, &port.to_string(), starttls]) {
            alive()?;
            if Instant::now() > deadline {
                return Err(format!("no greeting on port {port}: {error}").into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn dir(&self) -> Result<&str> {
        self.dir
            .to_str()
            .ok_or_else(|| "the folder's name is not UTF-8".into())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// PIPELINING and STARTTLS are offered on this port, and nothing is demanded.
    pub fn smtp_port(&self) -> u16 {
        self.ports[0]
    }

    /// An LMTP server's Unix socket, which takes what the first port takes.
    pub(crate) fn lmtp_socket(&self) -> PathBuf {
        self.path(self.kind.lmtp_socket.unwrap_or_default())
    }

    /// The PEM file of the authority that signed the server's certificate.
    pub fn ca_pem_path(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The whole log.
    pub fn log(&self) -> String {
        let files = self
            .kind
            .logs
            .iter()
            .map(|name| fs::read(self.path(name)).unwrap_or_default());
        String::from_utf8_lossy(&files.collect::<Vec<_>>().concat()).into_owned()
    }

    fn with_log(&self, error: &str) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("{error}; the log ends:\n{}", tail.join("\n"))
    }

    /// The files of all mail.
    fn mail(&self) -> Vec<PathBuf> {
        let mail = entries(&self.path(self.kind.mail));
        match self.kind.recipients {
            Some(_) => mail.collect(),
            None => mail.flat_map(|user| entries(&user.join("new"))).collect(),
        }
    }

    /// Waits for `count` deliveries to addresses that are `wanted`, and returns all there are by then, in the
    /// order in which the server took them from one session. An error says how many there were at the end of
    /// `timeout`, with the end of the log.
    pub fn wait_for_mail(
        &self,
        wanted: impl Fn(&str) -> bool,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<Stored>, String> {
        let deadline = Instant::now() + timeout;
        let of = |recipients: &[String]| recipients.iter().filter(|to| wanted(to)).count();
        loop {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for path in self.mail() {
                if let Entry::Vacant(unseen) = seen.entry(path) {
                    let stored = Stored::parse(self.kind, unseen.key(), &read(unseen.key())?);
                    unseen.insert(stored.recipients);
                }
            }
            let found = seen
                .values()
                .map(|recipients| of(recipients))
                .sum::<usize>();
            if found >= count {
                let paths = seen
                    .iter()
                    .filter(|(_, recipients)| of(recipients) > 0)
                    .map(|(path, _)| path);
                let mail = paths.map(|path| Ok(Stored::parse(self.kind, path, &read(path)?)));
                let mut mail = mail.collect::<Result<Vec<_>, String>>()?;
                mail.sort_by(|a, b| arrival(&a.id).cmp(&arrival(&b.id)));
                return Ok(mail);
            }
            drop(seen);
            if Instant::now() > deadline {
                return Err(self.with_log(&format!("{found} of {count} deliveries")));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits for `count` messages to this address, of which there are no more.
    #[track_caller]
    pub fn mail_to(&self, address: &str, count: usize) -> Vec<Stored> {
        let stored = self.wait_for_mail(|to| to == address, count, Duration::from_secs(60));
        let stored = stored.unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(stored.len(), count, "messages to {address}");
        stored
    }
}

/// What is in a folder, which appears with the first message.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// The transactions of a session with Dovecot have one name, with `:T2`, `:T3` and so on after the first.
fn arrival(id: &str) -> (&str, u32) {
    id.split_once(":T").map_or((id, 1), |(session, n)| {
        (session, n.parse().unwrap_or_default())
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path:?}: {error}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("stopping the server in {}: {error}", self.dir.display());
        }
    }
}

/// Runs a script and returns its output, or what both its outputs said when it fails.
pub(crate) fn sh(script: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    let output = command.stdin(Stdio::null()).output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {stdout}{stderr} of {script}", output.status).into())
}

/// Installs the package `$1`. `--no-remove` because postfix and exim4 conflict as packages: better an error
/// than a lost mail server. Without a policy-rc.d the package of Dovecot may start its service.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
set -- install -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$1"
apt-get "$@" || { apt-get update && apt-get "$@"; }"#;

/// Installs these packages, but those whose program is there.
pub(crate) fn install(programs: &[(&str, &str)]) -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    for (program, package) in programs {
        if !fs::exists(program)? {
            println!("installing {package} with apt-get");
            sh(INSTALL, &[package])?;
        }
    }
    Ok(())
}

/// The CA's certificate, and the server's key with its certificate, in PEM.
fn certificates(name: &str) -> Result<(String, String)> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();

    let mut server = CertificateParams::new([name, "localhost", "127.0.0.1"].map(String::from))?;
    server.distinguished_name.push(DnType::CommonName, name);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key))?;
    Ok((ca_pem, server_key.serialize_pem() + &server.pem()))
}

/// A message as it was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its name in the server's queue. Within one session these sort by time of arrival.
    pub id: String,
    /// The addresses for which it was stored here.
    pub recipients: Vec<String>,
    /// The lines that the server put on top, unfolded.
    pub trace: String,
    /// What was sent, recovered: without the lines that the server put on top, and with CRLF for LF, because
    /// servers with a Unix spool store LF for CRLF.
    ///
    /// Postfix and Exim put an empty line before a message that does not begin with a header. It stays, because
    /// the same file comes of a message that began with it.
    pub body: Vec<u8>,
}

impl Stored {
    pub(crate) fn parse(kind: &Kind, path: &Path, stored: &[u8]) -> Self {
        let (trace, sent) = split_trace(kind, stored);
        let trace = unfolded(trace);
        // `Received: ... id 4XYZ for ...` or `... id 1abc-0001-2d; ...`.
        let id = trace
            .rsplit_once(" id ")
            .and_then(|(_, rest)| rest.split([' ', ';']).next());
        let mut body = Vec::with_capacity(sent.len() + sent.len() / 32);
        for line in sent.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    body.extend_from_slice(line);
                    body.extend_from_slice(b"\r\n");
                }
                None => body.extend_from_slice(line),
            }
        }
        let (id, recipients) = (
            id.unwrap_or_default().into(),
            recipients(kind, path, &trace),
        );
        Self {
            id,
            recipients,
            trace,
            body,
        }
    }
}

fn unfolded(headers: &[u8]) -> String {
    String::from_utf8_lossy(headers)
        .replace("\n ", " ")
        .replace("\n\t", " ")
}

fn recipients(kind: &Kind, path: &Path, trace: &str) -> Vec<String> {
    let list = match kind.recipients {
        Some(header) => trace.lines().find_map(|line| line.strip_prefix(header)),
        None => path
            .parent()
            .and_then(|new| new.parent()?.file_name()?.to_str()),
    };
    list.unwrap_or_default()
        .split(',')
        .map(|address| address.trim().to_ascii_lowercase())
        .collect()
}

/// Splits what the server put on top from the rest: the next Received line, if there is one, came with the
/// message.
fn split_trace<'a>(kind: &Kind, stored: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let mut names = kind.headers.iter();
    let mut length = 0;
    for line in stored.split_inclusive(|&byte| byte == b'\n') {
        let folded = length > 0 && (line.starts_with(b" ") || line.starts_with(b"\t"));
        if !folded && !names.any(|name| line.starts_with(name.as_bytes())) {
            break;
        }
        length += line.len();
    }
    stored.split_at(length)
}

/// In the domain for which all servers here take mail.
pub fn address(user: &str) -> String {
    format!("{user}@example.test")
}

fn envelope(users: &[&str]) -> Envelope {
    Envelope::new(SENDER, users.iter().map(|user| address(user))).unwrap()
}

/// Waits for what `user` gets, and compares.
#[track_caller]
pub fn arrives(server: &Server, user: &str, messages: &[&[u8]]) {
    let stored = server.mail_to(&address(user), messages.len());
    for (stored, message) in stored.iter().zip(messages) {
        same(user, &stored.body, message);
    }
}

#[track_caller]
fn same(of: &str, arrived: &[u8], sent: &[u8]) {
    let differ = arrived.iter().zip(sent).position(|(a, b)| a != b);
    let around = |bytes: &[u8]| {
        let start = differ.unwrap_or(0).saturating_sub(20);
        bytes
            .iter()
            .skip(start)
            .take(60)
            .copied()
            .collect::<Vec<_>>()
            .escape_ascii()
            .to_string()
    };
    assert!(
        arrived == sent,
        "{of}: {} octets arrived of {}, they differ from {differ:?}: {} and {}",
        arrived.len(),
        sent.len(),
        around(arrived),
        around(sent)
    );
}

/// Dots, lines up to 20,000 octets, and octets that are not UTF-8, without a line end at the end.
pub fn awkward() -> Vec<u8> {
    let mut body =
        b".\r\n..\r\n.. \r\n.a\r\na.\r\n\r\n.\r\n\xc3\xa9t\xc3\xa9 \xff\x80\r\n".to_vec();
    for length in [997, 998, 999, 2_000, 20_000] {
        body.extend_from_slice(&vec![b'x'; length]);
        body.extend_from_slice(b"\r\n.");
        body.extend_from_slice(&vec![b'.'; length]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b".no line end");
    body
}

/// How to reach this server in this manner.
fn terms(server: &Server, manner: &Manner, socket: bool) -> smtp_adapter::Server {
    let port = manner.port.unwrap_or(server.smtp_port());
    let terms = match socket {
        true => smtp_adapter::Server::unix(server.lmtp_socket()),
        false => smtp_adapter::Server::new(format!("127.0.0.1:{port}")),
    };
    let terms = match server.kind.lmtp_socket {
        Some(_) => terms.lmtp(),
        None => terms,
    };
    terms
        .server_name(NAME)
        .trust_pem(&fs::read(server.ca_pem_path()).unwrap())
        .unwrap()
        .tls(manner.tls)
        .credentials(manner.credentials.clone())
        .chunking(manner.chunking)
        .chunk_size(manner.chunk_size)
        .overlap(manner.overlap)
}

/// How a session is held.
#[derive(Clone, Debug)]
pub struct Manner {
    /// [`Server::smtp_port`] where there is none.
    pub port: Option<u16>,
    /// Required by default.
    pub tls: TlsPolicy,
    /// None by default.
    pub credentials: Option<Credentials>,
    /// Automatic by default.
    pub chunking: Chunking,
    /// As the engine has it by default.
    pub chunk_size: usize,
    /// False by default.
    pub overlap: bool,
}

impl Default for Manner {
    fn default() -> Self {
        let (port, tls, credentials) = (None, TlsPolicy::Required, None);
        Self {
            port,
            tls,
            credentials,
            chunking: Chunking::Auto,
            chunk_size: 64 * 1024,
            overlap: false,
        }
    }
}

impl Manner {
    /// The defaults, on this port.
    pub fn on(port: u16) -> Self {
        Self {
            port: Some(port),
            ..Self::default()
        }
    }
}

/// The adapters, over TCP and over an LMTP server's Unix socket.
#[derive(Clone, Copy, Debug)]
pub enum Adapter {
    /// smtp-blocking.
    Blocking,
    /// smtp-tokio, on a runtime of one thread.
    Tokio,
    /// smtp-blocking over the Unix socket.
    BlockingUnix,
    /// smtp-tokio over the Unix socket.
    TokioUnix,
}

impl Adapter {
    /// Those that there are for this server.
    pub fn all(server: &Server) -> &'static [Self] {
        match server.kind.lmtp_socket {
            None => &[Self::Blocking, Self::Tokio],
            Some(_) => &[
                Self::Blocking,
                Self::Tokio,
                Self::BlockingUnix,
                Self::TokioUnix,
            ],
        }
    }

    /// For the users and messages of a test.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Tokio => "tokio",
            Self::BlockingUnix => "blocking-unix",
            Self::TokioUnix => "tokio-unix",
        }
    }

    /// Opens a session, with the server's name checked where it is encrypted.
    pub fn connect(self, server: &Server, manner: &Manner) -> Result<Session, smtp_adapter::Error> {
        let trace = Arc::<Mutex<Vec<Trace>>>::default();
        let observed = trace.clone();
        let observer = move |step: &Observation<'_>| {
            observed.lock().unwrap().push(step.trace().clone());
        };
        let socket = matches!(self, Self::BlockingUnix | Self::TokioUnix);
        let terms = terms(server, manner, socket).observe(observer);
        let held = match self {
            Self::Blocking | Self::BlockingUnix => {
                Held::Blocking(smtp_blocking::Session::connect(&terms)?)
            }
            Self::Tokio | Self::TokioUnix => {
                let runtime = runtime();
                let session = runtime.block_on(smtp_tokio::Session::connect(&terms))?;
                Held::Tokio(runtime, session)
            }
        };
        Ok(Session { held, trace })
    }

    /// Opens a session as a matter of course.
    #[track_caller]
    pub fn open(self, server: &Server, manner: &Manner) -> Session {
        self.connect(server, manner)
            .unwrap_or_else(|error| panic!("{self:?}, {manner:?}: {error}"))
    }
}

#[derive(Debug)]
enum Held {
    Blocking(smtp_blocking::Session),
    Tokio(Runtime, smtp_tokio::Session),
}

/// One call to the session of either adapter.
macro_rules! held {
    ($held:expr, $session:ident => $call:expr) => {
        match $held {
            Held::Blocking($session) => $call,
            Held::Tokio(runtime, $session) => runtime.block_on($call),
        }
    };
}

/// A session of either adapter, each call of which returns when it is done.
#[derive(Debug)]
pub struct Session {
    held: Held,
    trace: Arc<Mutex<Vec<Trace>>>,
}

impl Session {
    /// One message.
    pub fn send(
        &mut self,
        envelope: Envelope,
        message: &[u8],
    ) -> Result<Report, smtp_adapter::Error> {
        held!(&mut self.held, session => session.send(envelope, message))
    }

    /// The last message.
    pub fn send_last(
        &mut self,
        envelope: Envelope,
        message: &[u8],
    ) -> Result<Report, smtp_adapter::Error> {
        held!(&mut self.held, session => session.send_last(envelope, message))
    }

    /// All messages, and the end of the session.
    pub fn send_all(self, messages: &[(Envelope, Vec<u8>)]) -> Delivery {
        match self.held {
            Held::Blocking(session) => Delivery::by_blocking(session, messages),
            Held::Tokio(runtime, session) => {
                runtime.block_on(Delivery::by_tokio(session, messages))
            }
        }
    }

    /// A command outside a transaction.
    pub fn request(&mut self, request: Request) -> Result<Reply, smtp_adapter::Error> {
        held!(&mut self.held, session => session.request(request))
    }

    /// The end.
    pub fn quit(self) {
        held!(self.held, session => session.quit());
    }

    /// Since the beginning.
    pub fn round_trips(&self) -> u64 {
        match &self.held {
            Held::Blocking(session) => session.round_trips(),
            Held::Tokio(_, session) => session.round_trips(),
        }
    }

    fn tls_info(&self) -> Option<&TlsInfo> {
        match &self.held {
            Held::Blocking(session) => session.tls_info(),
            Held::Tokio(_, session) => session.tls_info(),
        }
    }

    /// What was observed since the last call.
    pub fn trace(&self) -> Vec<Trace> {
        std::mem::take(&mut self.trace.lock().unwrap())
    }
}

/// The commands of a conversation.
pub fn commands(trace: &[Trace]) -> Vec<&str> {
    let commands = trace.iter().filter_map(|step| match step {
        Trace::Sent(line) => Some(&**line),
        _ => None,
    });
    commands.collect()
}

/// A port behind which the server is this far away: what it says arrives so much later.
pub fn far_away(server: &Server, latency: Duration) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (near, far) = (listener.local_addr().unwrap().port(), server.smtp_port());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, far)) else {
                return;
            };
            let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone())
            else {
                return;
            };
            thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                to_server.shutdown(Shutdown::Write)
            });
            let (travels, arrives) = mpsc::channel::<(Instant, Vec<u8>)>();
            thread::spawn(move || {
                let mut octets = [0; 16 * 1024];
                while let Ok(n @ 1..) = (&server).read(&mut octets) {
                    let _ = travels.send((Instant::now() + latency, octets[..n].to_vec()));
                }
            });
            thread::spawn(move || {
                let _ = client.set_nodelay(true);
                for (when, octets) in arrives {
                    sleep(when.saturating_duration_since(Instant::now()));
                    let _ = (&client).write_all(&octets);
                }
                client.shutdown(Shutdown::Both)
            });
        }
    });
    near
}

/// One message through each adapter, by STARTTLS with the certificate's issuer and name checked.
pub fn a_single_message(server: &Server) {
    for adapter in Adapter::all(server) {
        let user = format!("single-{}", adapter.name());
        let message = format!("From: <sender@example.org>\r\nSubject: {user}\r\n\r\nHello.\r\n");
        let mut session = adapter.open(server, &Manner::default());
        assert_eq!(
            session.tls_info().unwrap().verified_name.as_deref(),
            Some(NAME)
        );
        let report = session
            .send_last(envelope(&[&user]), message.as_bytes())
            .unwrap();
        assert!(report.is_success(), "{report:?}");
        // Greeting, EHLO, STARTTLS, EHLO; the envelope; the message, with QUIT behind it.
        assert_eq!(session.round_trips(), 6);
        arrives(server, &user, &[message.as_bytes()]);
    }
    let wrong = terms(server, &Manner::default(), false).server_name("other.example.test");
    let error = smtp_blocking::Session::connect(&wrong).unwrap_err();
    assert!(
        matches!(
            (error.stage(), error.cause()),
            (Stage::StartTls, Cause::TlsUntrusted(_))
        ),
        "{error}"
    );
}

/// Each way in which a body can travel, with a name for its users. Those whose size is declared say so.
fn ways() -> [(&'static str, Manner, bool); 9] {
    let way = |chunking, overlap| Manner {
        chunking,
        overlap,
        ..Manner::default()
    };
    let kib = Manner {
        chunk_size: 1024,
        ..way(Chunking::Always, false)
    };
    [
        ("data", way(Chunking::Never, false), false),
        ("data-overlapping", way(Chunking::Never, true), false),
        ("streamed", way(Chunking::Auto, false), false),
        ("streamed-overlapping", way(Chunking::Auto, true), false),
        ("kib", kib, false),
        ("exact", way(Chunking::Auto, false), true),
        ("eager", way(Chunking::Eager, false), false),
        ("eager-overlapping", way(Chunking::Eager, true), false),
        ("eager-exact", way(Chunking::Eager, true), true),
    ]
}

/// Over one session, by each adapter and in each way: [`awkward`], 5 MiB, a message for one of three
/// recipients, one that nobody takes, and one behind them.
pub fn every_way_of_a_body(server: &Server) {
    let line = |n: usize| {
        format!(
            "{}line {n} of five mebibytes\r\n",
            if n.is_multiple_of(7) { "." } else { "" }
        )
    };
    let mut large = String::from("Subject: large\r\n\r\n");
    (0..)
        .map(line)
        .take_while(|line| {
            large.push_str(line);
            large.len() < 5 << 20
        })
        .for_each(drop);
    let bodies = [
        [b"Subject: awkward\r\n\r\n", &awkward()[..]].concat(),
        large.into_bytes(),
        b"Subject: partial\r\n\r\nFor one of three.\r\n".to_vec(),
        b"Subject: nobody\r\n\r\nFor nobody.\r\n".to_vec(),
        b"Subject: last\r\n\r\nAll is well.\r\n".to_vec(),
    ];
    for (adapter, (way, manner, exact)) in Adapter::all(server)
        .iter()
        .flat_map(|adapter| ways().map(|way| (adapter, way)))
    {
        let user = format!("{way}-{}", adapter.name());
        let to: [&[&str]; 5] = [
            &[&user],
            &[&user],
            &["refused", &user, "greylisted"],
            &["refused", "greylisted"],
            &[&user],
        ];
        let whole = bodies.clone().map(|body| {
            if body.ends_with(b"\n") {
                body
            } else {
                [&body[..], b"\r\n"].concat()
            }
        });
        let messages: Vec<_> = (0..bodies.len())
            .map(|n| match exact {
                true => (
                    envelope(to[n]).exact_size(whole[n].len() as u64),
                    bodies[n].clone(),
                ),
                false => (envelope(to[n]), bodies[n].clone()),
            })
            .collect();
        let session = adapter.open(server, &manner);
        let trace = session.trace.clone();
        let delivery = session.send_all(&messages);
        assert!(!delivery.overlap_broken, "{user}");
        let (later, why) = server.kind.greylisted;
        let refused = |index| {
            (
                index,
                Stage::Rcpt,
                Outcome::Permanent,
                550,
                "5.1.1".to_string(),
            )
        };
        let greylisted = |index| {
            (
                index,
                Stage::Rcpt,
                Outcome::Transient,
                later,
                why.to_string(),
            )
        };
        let expected = [
            vec![],
            vec![],
            vec![refused(0), greylisted(2)],
            vec![refused(0), greylisted(1)],
            vec![],
        ];
        assert_eq!(
            delivery.reports.iter().map(failures).collect::<Vec<_>>(),
            expected,
            "{user}"
        );
        let mut arrived: Vec<_> = whole.iter().map(Vec::as_slice).collect();
        let nobody = arrived.remove(3);
        arrives(server, &user, &arrived);

        // An eager chunk goes out for nobody too. Under LMTP none is eager.
        if manner.chunking == Chunking::Eager && server.kind.lmtp_socket.is_none() {
            arrived.insert(3, nobody);
        }
        let trace = trace.lock().unwrap();
        let mut chunks = trace.iter().filter_map(|step| match step {
            Trace::SentChunk { octets, last } => Some((*octets as usize, *last)),
            _ => None,
        });
        if manner.chunking == Chunking::Never {
            let bodies = trace
                .iter()
                .filter(|step| matches!(step, Trace::SentBody { .. }))
                .count();
            assert_eq!((bodies, chunks.next()), (arrived.len(), None), "{user}");
            continue;
        }
        for body in arrived {
            let most = if exact { body.len() } else { manner.chunk_size };
            let mut left = body.len();
            while left > 0 {
                let (octets, last) = chunks.next().unwrap();
                // One more, where a CR at the end of a chunk has waited for what is behind it.
                assert!(
                    (most..=most + 1).contains(&octets) || octets == left,
                    "{user}: {octets} of {left}"
                );
                assert_eq!(last, octets == left, "{user}: {octets} of {left}");
                left -= octets;
            }
        }
        assert_eq!(chunks.next(), None, "{user}");
    }
}

/// A recipient whose address is not ASCII (RFC 6531), by each adapter: in the local part, and in the domain as
/// well. The server says so in its Received line (RFC 6531 section 3.7.3).
pub fn an_address_in_utf8(server: &Server) {
    for adapter in Adapter::all(server) {
        let user = format!(
            "\u{3b4}\u{3bf}\u{3ba}\u{3b9}\u{3bc}\u{3ae}-{}",
            adapter.name()
        );
        let message = "Subject: \u{e9}t\u{e9}\r\n\r\nHello.\r\n".as_bytes();
        for to in [address(&user), format!("{user}@{UTF8_DOMAIN}")] {
            let mut session = adapter.open(server, &Manner::default());
            let report = session
                .send_last(Envelope::new(SENDER, [&to]).unwrap(), message)
                .unwrap();
            assert!(report.is_success(), "{report:?}");
            let stored = server.mail_to(&to, 1);
            same(&to, &stored[0].body, message);
            assert!(
                stored[0].trace.to_ascii_uppercase().contains(" WITH UTF8"),
                "{}",
                stored[0].trace
            );
        }
    }
}

/// What needs SMTPUTF8 is not given to a server that does not offer it, on this port: nothing is said before
/// the next message.
pub fn no_utf8(server: &Server, manner: &Manner) {
    for adapter in Adapter::all(server) {
        let user = format!("no-utf8-{}", adapter.name());
        let mut session = adapter.open(server, manner);
        session.trace();
        let from = |from: &str| Envelope::new(from, [address(&user)]).unwrap();
        for envelope in [
            envelope(&["\u{3b4}"]),
            from("\u{3b4}@example.org"),
            from(SENDER).smtputf8(true),
        ] {
            let error = session.send(envelope, b"Subject: no\r\n\r\n").unwrap_err();
            assert_eq!(error.cause(), &Cause::Unsupported(Extension::SmtpUtf8));
            assert_eq!(
                (error.stage(), error.outcome()),
                (Stage::Mail, Outcome::Permanent)
            );
        }
        assert_eq!(session.trace(), []);
        let message = b"Subject: ascii\r\n\r\nHello.\r\n";
        let _ = session.send_last(from(SENDER), message).unwrap();
        arrives(server, &user, &[message]);
    }
}

/// One recipient of three refused once the message was read, by each adapter.
pub fn refused_after_the_data(
    server: &Server,
    parameter: Option<MailParameter>,
    refused: &str,
    code: u16,
    enhanced: &str,
) {
    for adapter in Adapter::all(server) {
        let users = ["first", "last"].map(|which| format!("{which}-{}", adapter.name()));
        let message = b"Subject: after the data\r\n\r\nFor two of three.\r\n";
        let mut session = adapter.open(server, &Manner::default());
        let (mut all, mut nobody) = (
            envelope(&[&users[0], refused, &users[1]]),
            envelope(&[refused, refused]),
        );
        if let Some(parameter) = &parameter {
            (all, nobody) = (
                all.parameter(parameter.clone()),
                nobody.parameter(parameter.clone()),
            );
        }
        let failure = |index| {
            (
                index,
                Stage::EndOfMessage,
                Outcome::Permanent,
                code,
                enhanced.to_string(),
            )
        };
        let report = session.send(all, message).unwrap();
        assert_eq!(failures(&report), [failure(1)]);
        let error = session.send(nobody, message).unwrap_err();
        assert_eq!(failures(error.report().unwrap()), [failure(0), failure(1)]);
        // The session goes on.
        let _ = session.send_last(envelope(&[&users[1]]), message).unwrap();
        arrives(server, &users[0], &[message]);
        arrives(server, &users[1], &[message, message]);
    }
}

/// Sends one message, and waits for the report of its delivery (RFC 3464), which its sender gets: a user of
/// this server who gets nothing else.
#[track_caller]
pub fn delivery_report(server: &Server, adapter: Adapter, envelope: Envelope) -> String {
    let sender = envelope.reverse_path().clone();
    let mut session = adapter.open(server, &Manner::default());
    let _ = session
        .send_last(envelope, b"Subject: to be reported\r\n\r\nHello.\r\n")
        .unwrap();
    String::from_utf8_lossy(&server.mail_to(sender.as_str(), 1)[0].body).into_owned()
}

/// What is asked for of delivery reports (RFC 3461), by each adapter: `bounced@example.test` is found to be
/// undeliverable once the message was taken.
pub fn delivery_reports(server: &Server) {
    // Postfix puts a space behind the type of an address, and Exim repeats xtext as it is.
    let has = |report: &str, field: &str, values: &[&str]| {
        let found = report
            .lines()
            .filter_map(|line| line.split_once(": "))
            .any(|(name, value)| {
                name.eq_ignore_ascii_case(field) && values.contains(&&*value.replacen("; ", ";", 1))
            });
        assert!(found, "no {field}: {values:?} in {report}");
    };
    for &adapter in Adapter::all(server) {
        let name = adapter.name();
        // One that says nothing of reports gets those of failures.
        let from = |which: &str| address(&format!("{which}-{name}"));
        let bounced = |sender: &str| Envelope::new(sender, [address("bounced")]).unwrap();
        let report = delivery_report(server, adapter, bounced(&from("bounce")));
        has(&report, "Final-Recipient", &["rfc822;bounced@example.test"]);
        has(&report, "Action", &["failed"]);
        assert!(
            !report.to_lowercase().contains("\noriginal-envelope-id:"),
            "{report}"
        );

        let user = format!("reported-{name}");
        let original = Mailbox::parse("first+last=x@example.org").unwrap();
        let recipient = Recipient::new(address(&user))
            .unwrap()
            .parameter(RcptParameter::notify(Notify::SUCCESS | Notify::FAILURE))
            .parameter(RcptParameter::original_recipient(&original).unwrap());
        let envelope = Envelope::new(from("success"), [recipient])
            .unwrap()
            .parameter(MailParameter::ret(Ret::Headers))
            .parameter(MailParameter::envelope_id("run 7+x=y").unwrap());
        let report = delivery_report(server, adapter, envelope);
        has(
            &report,
            "Original-Envelope-Id",
            &["run 7+x=y", "run+207+2Bx+3Dy"],
        );
        has(
            &report,
            "Final-Recipient",
            &[&format!("rfc822;{}", address(&user))],
        );
        let original = [
            "rfc822;first+last=x@example.org",
            "rfc822;first+2Blast+3Dx@example.org",
        ];
        has(&report, "Original-Recipient", &original);
        has(&report, "Action", &["delivered"]);
        has(&report, "Subject", &["to be reported"]);
        assert!(!report.contains("Hello."), "{report}");
        arrives(
            server,
            &user,
            &[b"Subject: to be reported\r\n\r\nHello.\r\n"],
        );

        for (ret, which) in [(Ret::Full, "full"), (Ret::Headers, "headers")] {
            let envelope = bounced(&from(which))
                .parameter(MailParameter::ret(ret))
                .parameter(MailParameter::envelope_id(which).unwrap());
            let report = delivery_report(server, adapter, envelope);
            has(&report, "Action", &["failed"]);
            has(&report, "Original-Envelope-Id", &[which]);
            has(&report, "Subject", &["to be reported"]);
            assert_eq!(
                report.contains("\r\nHello.\r\n"),
                ret == Ret::Full,
                "{report}"
            );
        }

        // No report of the first one, and that of the second behind it is the only one.
        let silent =
            bounced(&from("never")).parameter(MailParameter::envelope_id("first").unwrap());
        let silent = silent.recipient_parameter(RcptParameter::notify(Notify::NEVER));
        let mut session = adapter.open(server, &Manner::default());
        let _ = session
            .send_last(silent, b"Subject: never\r\n\r\n")
            .unwrap();
        let second =
            bounced(&from("never")).parameter(MailParameter::envelope_id("second").unwrap());
        let report = delivery_report(server, adapter, second);
        has(&report, "Original-Envelope-Id", &["second"]);
    }
}

/// DSN where it is not offered: left out if it can be, and else nothing is said.
pub fn no_delivery_reports(server: &Server, manner: &Manner) {
    for adapter in Adapter::all(server) {
        let user = format!("no-dsn-{}", adapter.name());
        let mut session = adapter.open(server, manner);
        session.trace();
        let ret = MailParameter::ret(Ret::Headers);
        let notify = RcptParameter::notify(Notify::SUCCESS);
        for required in [
            envelope(&[&user]).parameter(ret.clone().required()),
            envelope(&[&user]).recipient_parameter(notify.clone().required()),
        ] {
            let error = session.send(required, b"Subject: no\r\n\r\n").unwrap_err();
            assert_eq!(error.cause(), &Cause::Unsupported(Extension::Dsn));
        }
        assert_eq!(session.trace(), []);
        let message = b"Subject: without DSN\r\n\r\nHello.\r\n";
        let if_offered = envelope(&[&user])
            .parameter(ret.clone())
            .recipient_parameter(notify.clone());
        let _ = session.send_last(if_offered, message).unwrap();
        let trace = session.trace();
        let said = commands(&trace);
        assert!(
            said[0].starts_with("MAIL ") && said[1].starts_with("RCPT "),
            "{said:?}"
        );
        assert!(
            !said
                .iter()
                .any(|line| line.contains("RET=") || line.contains("NOTIFY=")),
            "{said:?}"
        );
        arrives(server, &user, &[message]);
    }
}

/// What the server offers, line by line.
pub fn offers(capabilities: &Capabilities) -> Vec<String> {
    let lines = capabilities.reply().unwrap().lines().skip(1);
    lines
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// The failed recipients, each with what was said.
pub fn failures(report: &Report) -> Vec<(usize, Stage, Outcome, u16, String)> {
    let failure = |failure: Failure<'_>| {
        let (index, error) = (failure.index, failure.error);
        let reply = error.reply().unwrap();
        (
            index,
            error.stage,
            error.outcome,
            reply.code().get(),
            reply.enhanced().unwrap().to_string(),
        )
    };
    report.failures().map(failure).collect()
}

/// To five recipients, with 10 KiB of lines that no other message has.
fn numbered(bulk: &str, n: usize) -> (Envelope, Vec<u8>) {
    let mut body = format!("Subject: number {n}\r\nMessage-ID: <{n}@{bulk}.example.org>\r\n\r\n");
    for line in 0.. {
        if body.len() >= 10 * 1024 {
            break;
        }
        body += &format!(
            ".line {line} of message {n} of {bulk} begins with a dot, and \u{e9} is not ASCII\r\n"
        );
    }
    let to = (0..5).map(|r| address(&format!("r{r}.m{n}.{bulk}")));
    (Envelope::new(SENDER, to).unwrap(), body.into_bytes())
}

/// `count` messages of 10 KiB to five recipients each over one session, in two round trips each, or one where
/// they overlap or are eager, or next to none where they do both (from [`far_away`]: a server that answers at once
/// has answered before there is more to say); and each arrives once for each of its
/// recipients, octet for octet, in order.
pub fn bulk(server: &Server, adapter: Adapter, manner: &Manner, count: usize) {
    let eager = manner.chunking == Chunking::Eager && server.kind.lmtp_socket.is_none();
    let overlapping = if manner.overlap { "-overlapping" } else { "" };
    let name = format!("{}-{:?}{overlapping}", adapter.name(), manner.chunking).to_lowercase();
    let messages: Vec<_> = (0..count).map(|n| numbered(&name, n)).collect();
    let start = Instant::now();
    let bulk = adapter.open(server, manner).send_all(&messages);
    let sent = start.elapsed();
    let failures: Vec<_> = bulk
        .reports
        .iter()
        .enumerate()
        .filter(|(_, report)| !report.is_success())
        .collect();
    assert!(
        failures.is_empty(),
        "{} failed, first {:?}",
        failures.len(),
        failures[0]
    );
    assert_eq!(bulk.reports.len(), count);
    assert!(!bulk.overlap_broken);
    let expected = match (eager, manner.overlap) {
        (false, false) => 2 * count..=2 * count,
        (false, true) => count + 1..=count + 1,
        (true, false) => count..=count,
        (true, true) => 1..=count / 8,
    };
    assert!(
        expected.contains(&(bulk.round_trips as usize)),
        "{} round trips",
        bulk.round_trips
    );

    let suffix = format!(".{name}@example.test");
    let stored = server.wait_for_mail(
        |to| to.ends_with(&suffix),
        5 * count,
        Duration::from_secs(120),
    );
    let stored = stored.unwrap_or_else(|error| panic!("{name}: {error}"));
    println!(
        "{name}: {count} messages, {:.3} round trips each, {sent:.1?} to send, {:.1?} until all were stored",
        bulk.round_trips as f64 / count as f64,
        start.elapsed()
    );
    // Nothing was taken twice, or in another order: each message is named in the log as it is taken. Another
    // process may be writing the log, and have some lines still to write.
    let taken = || -> Vec<usize> {
        let id = |line: &str| {
            let (_, id) = line.split_once(server.kind.taken)?;
            id.split_once(&format!("@{name}.example.org"))?
                .0
                .parse()
                .ok()
        };
        server.log().lines().filter_map(id).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while taken().last().is_none_or(|&last| last + 1 < count) && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
    }
    let mut taken = taken();
    taken.dedup(); // Dovecot names it for each recipient.
    assert!(
        taken.into_iter().eq(0..count),
        "not each once and in order in the log"
    );
    // Sorted by their names in the queue, messages are in order too.
    let mut groups = stored.chunk_by(|a, b| a.id == b.id);
    for (n, (envelope, body)) in messages.iter().enumerate() {
        let group = groups.next().unwrap_or_default();
        let mut recipients: Vec<_> = group.iter().flat_map(|stored| &stored.recipients).collect();
        recipients.sort();
        let expected = envelope.forward_paths().iter().map(Mailbox::as_str);
        assert!(
            recipients.iter().copied().eq(expected),
            "message {n} of {name}: {recipients:?}"
        );
        for stored in group {
            same(&format!("message {n} of {name}"), &stored.body, body);
        }
    }
    assert!(groups.next().is_none());
}

/// The tests that each server of SMTP is put to, by both adapters. It is given the static that starts it.
#[macro_export]
macro_rules! tests_of_every_smtp_server {
    ($server:ident) => {
        mod as_every_smtp_server {
            use std::time::Duration;

            use smtp_proto::{Chunking, TlsPolicy};
            use $crate::real::{self, Adapter, Manner};

            use super::$server as SERVER;

            #[test]
            fn a_single_message() {
                real::a_single_message(&SERVER);
            }

            #[test]
            fn every_way_of_a_body() {
                real::every_way_of_a_body(&SERVER);
            }

            #[test]
            fn an_address_in_utf8() {
                real::an_address_in_utf8(&SERVER);
            }

            #[test]
            fn delivery_reports() {
                real::delivery_reports(&SERVER);
            }

            #[test]
            fn a_thousand_messages_blocking() {
                real::bulk(
                    &SERVER,
                    Adapter::Blocking,
                    &Manner {
                        tls: TlsPolicy::Never,
                        ..Manner::default()
                    },
                    1000,
                );
            }

            #[test]
            fn a_thousand_messages_tokio_overlapping() {
                real::bulk(
                    &SERVER,
                    Adapter::Tokio,
                    &Manner {
                        tls: TlsPolicy::Never,
                        overlap: true,
                        ..Manner::default()
                    },
                    1000,
                );
            }

            #[test]
            fn two_hundred_messages_by_data_blocking_overlapping() {
                real::bulk(
                    &SERVER,
                    Adapter::Blocking,
                    &Manner {
                        chunking: Chunking::Never,
                        overlap: true,
                        ..Manner::default()
                    },
                    200,
                );
            }

            #[test]
            fn two_hundred_messages_by_data_tokio() {
                real::bulk(
                    &SERVER,
                    Adapter::Tokio,
                    &Manner {
                        chunking: Chunking::Never,
                        ..Manner::default()
                    },
                    200,
                );
            }

            #[test]
            fn two_hundred_messages_blocking_eager() {
                real::bulk(
                    &SERVER,
                    Adapter::Blocking,
                    &Manner {
                        chunking: Chunking::Eager,
                        ..Manner::default()
                    },
                    200,
                );
            }

            #[test]
            fn two_hundred_messages_blocking_eager_and_overlapping() {
                let far = Some(real::far_away(&SERVER, Duration::from_millis(50)));
                let manner = Manner {
                    port: far,
                    chunking: Chunking::Eager,
                    overlap: true,
                    ..Manner::default()
                };
                real::bulk(&SERVER, Adapter::Blocking, &manner, 200);
            }

            #[test]
            fn two_hundred_messages_tokio_eager_and_overlapping() {
                let far = Some(real::far_away(&SERVER, Duration::from_millis(50)));
                let manner = Manner {
                    port: far,
                    chunking: Chunking::Eager,
                    overlap: true,
                    ..Manner::default()
                };
                real::bulk(&SERVER, Adapter::Tokio, &manner, 200);
            }
        }
    };
}
