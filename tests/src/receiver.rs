//! A small receiving SMTP (or LMTP) server on the loopback interface, for the
//! example program and the tests.
//!
//! It speaks RFC 5321 over real sockets, with STARTTLS, AUTH and the usual
//! extensions, and stores every message it accepts as one file. It never
//! relays, and accepts any recipient but those whose local part begins with
//! `refused` (550), `greylisted` (450) or `full` (452). Where each recipient is
//! answered for after the data, `filtered` is refused there (550).

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::{env, mem, ops::Range, path::PathBuf, process, time::Duration};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{Certificate, CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use socket2::{SockAddr, Socket, Type};

use crate::scram;

/// Longest command line, CRLF included: the 512 octets of RFC 5321 §4.5.3.1.4
/// and ample room for the parameters that extensions add.
const LINE_LIMIT: usize = 2048;
/// Longest address: what 512 octets leave after `MAIL FROM:<>` and CRLF.
/// §4.5.3.1.3 asks for 254 octets at least.
const ADDRESS_LIMIT: usize = 498;
/// Longest reply line, CRLF included (RFC 5321 §4.5.3.1.5).
const REPLY_LIMIT: usize = 512;
/// What an atom may hold beside letters and digits (RFC 5322 §3.2.3).
const ATOM_MARKS: &str = "!#$%&'*+-/=?^_`{|}~";
/// RCPT commands in a transaction, where nothing else is said; RFC 5321
/// §4.5.3.1.8 demands 100 at least.
const RECIPIENT_LIMIT: usize = 1000;
/// RFC 3461 §4.4 and §4.2, in octets as they are sent.
const ENVID_LIMIT: usize = 100;
const ORCPT_LIMIT: usize = 500;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// RFC 5321 §4.5.3.2.7 demands five minutes at least.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The size of a connection's input buffer, more than `LINE_LIMIT`.
const INPUT_SIZE: usize = 16 * 1024;

/// How a [`Receiver`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name in the greeting and in the certificate.
    pub hostname: String,
    /// Where messages are stored; created if missing.
    pub directory: PathBuf,
    /// Speak LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// Offer STARTTLS on connections not yet in TLS.
    pub starttls: bool,
    /// Expect a TLS handshake at the start of every connection.
    pub implicit_tls: bool,
    /// Listen on this Unix socket, which is made, instead of a TCP port.
    pub unix: Option<PathBuf>,
    /// Announce PIPELINING; pipelined commands work either way.
    pub pipelining: bool,
    /// Offer CHUNKING and BINARYMIME (RFC 3030).
    pub chunking: bool,
    /// Offer DSN (RFC 3461). The parameters are checked and stored; nothing is
    /// ever reported.
    pub dsn: bool,
    /// Offer SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// Offer REQUIRETLS inside TLS (RFC 8689).
    pub require_tls: bool,
    /// Offer PRDR (draft-hall-prdr), though not in LMTP, which has its own.
    pub prdr: bool,
    /// State these limits by LIMITS (RFC 9422), and keep them.
    pub limits: Option<Limits>,
    /// Largest message accepted, in octets; zero for no limit (RFC 1870 §4).
    pub max_size: u64,
    /// User name and password; when set, MAIL requires authentication.
    pub auth: Option<(String, String)>,
    /// Offer AUTH outside TLS too.
    pub auth_in_clear: bool,
    /// Ask for a client certificate that this one has signed, in PEM, and let
    /// whoever shows one log in by EXTERNAL as the user.
    pub client_ca: Option<String>,
    /// Speak TLS 1.2 and no other.
    pub tls12: bool,
}

impl Default for Options {
    fn default() -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let mut unique = (0..).map(|_| {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            env::temp_dir().join(format!("receiver-{}-{count}", process::id()))
        });
        Self {
            hostname: "receiver.localhost".to_owned(),
            // Process ids come round again: step over folders of older runs.
            directory: unique.find(|path| !path.exists()).unwrap_or_default(),
            lmtp: false,
            starttls: true,
            implicit_tls: false,
            unix: None,
            pipelining: true,
            chunking: true,
            dsn: true,
            smtputf8: true,
            require_tls: false,
            prdr: false,
            limits: None,
            max_size: 64 * 1024 * 1024,
            auth: None,
            auth_in_clear: false,
            client_ca: None,
            tls12: false,
        }
    }
}

/// What one client may ask for (RFC 9422 §4). Refused commands count too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// RCPT commands in a transaction.
    pub rcpt_max: usize,
    /// MAIL commands in a session.
    pub mail_max: usize,
}

/// A message that was accepted, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The address of MAIL FROM without brackets; empty for the null path.
    pub reverse_path: String,
    /// The parameters of MAIL, as they came.
    pub mail_parameters: String,
    /// The addresses of the accepted RCPT TO without brackets, in order.
    pub forward_paths: Vec<String>,
    /// The parameters of each of these RCPT TO, as they came.
    pub rcpt_parameters: Vec<String>,
    /// The file with the message exactly as received, dots unstuffed.
    pub path: PathBuf,
    /// The size of the file.
    pub octets: u64,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The BODY parameter of MAIL in upper case, if there was one.
    pub body_parameter: Option<String>,
    /// The name the client gave in HELO, EHLO or LHLO.
    pub client_name: String,
}

/// A running server. Dropping it closes all connections and ends all its
/// threads; the stored files stay.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    address: SockAddr,
    certificate: String,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts a server on a free port of 127.0.0.1, or on the Unix socket.
    ///
    /// # Errors
    ///
    /// When the directory, the certificate or the socket cannot be made.
    pub fn start(options: Options) -> io::Result<Self> {
        fs::create_dir_all(&options.directory)?;
        let (certificate, tls) = make_certificate(&options).map_err(io::Error::other)?;
        let address = match &options.unix {
            Some(path) => SockAddr::unix(path)?,
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
        };
        let listener = Socket::new(address.domain(), Type::STREAM, None)?;
        listener.bind(&address)?;
        listener.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            options,
            tls,
            certificate_hash: Sha256::digest(certificate.der()).into(),
            files: AtomicU64::new(0),
            state: Mutex::default(),
            arrived: Condvar::new(),
        });
        let inner = Arc::clone(&shared);
        let acceptor = thread::Builder::new().spawn(move || accept(&listener, &inner))?;
        Ok(Self {
            shared,
            address,
            certificate: certificate.pem(),
            acceptor: Some(acceptor),
        })
    }

    /// The address to connect to.
    ///
    /// # Panics
    ///
    /// When it listens on a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address.as_socket().expect("it listens on a TCP port")
    }

    /// The self-signed certificate, usable as a client's CA file. It names the
    /// host name, `localhost` and 127.0.0.1.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The messages accepted so far; each is listed before its 250 is sent.
    #[must_use]
    pub fn messages(&self) -> Vec<StoredMessage> {
        self.shared.lock().messages.clone()
    }

    /// Waits until at least `n` messages were accepted or the time is over,
    /// and returns those there are.
    #[must_use]
    pub fn wait_for_messages(&self, n: usize, timeout: Duration) -> Vec<StoredMessage> {
        let arrived = &self.shared.arrived;
        let few = |state: &mut State| state.messages.len() < n;
        let waited = arrived.wait_timeout_while(self.shared.lock(), timeout, few);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.messages.clone()
    }

    /// Waits up to five seconds for the message at this place, and returns its
    /// content as it was stored.
    ///
    /// # Panics
    /// It has not come.
    #[must_use]
    pub fn stored(&self, index: usize) -> Vec<u8> {
        let messages = self.wait_for_messages(index + 1, Duration::from_secs(5));
        fs::read(&messages[index].path).expect("a stored message can be read")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        let connections = mem::take(&mut state.connections);
        drop(state);
        for (socket, _) in connections.values() {
            // Wakes the connection's thread from any read or write.
            let _ = socket.shutdown(Shutdown::Both);
        }
        for (_, thread) in connections.into_values() {
            let _ = thread.join();
        }
        // A connection wakes the acceptor. Should that fail, joining it could
        // hang, so then it is left to end by itself.
        let woken = Socket::new(self.address.domain(), Type::STREAM, None)
            .and_then(|socket| socket.connect_timeout(&self.address, Duration::from_secs(1)));
        if let (Ok(()), Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
        if let Some(path) = &self.shared.options.unix {
            let _ = fs::remove_file(path);
        }
    }
}

#[derive(Debug)]
struct Shared {
    options: Options,
    tls: Arc<ServerConfig>,
    /// By SHA-256, with which it is signed too.
    certificate_hash: [u8; 32],
    files: AtomicU64,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    messages: Vec<StoredMessage>,
    connections: HashMap<u64, (Socket, JoinHandle<()>)>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// A certificate, which has signed itself, and its private key, both in PEM.
///
/// # Errors
/// Those of the system's random numbers.
pub fn make_client_certificate() -> io::Result<(String, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = CertificateParams::new([]).and_then(|client| client.self_signed(&key));
    Ok((
        certificate.map_err(io::Error::other)?.pem(),
        key.serialize_pem(),
    ))
}

fn make_certificate(options: &Options) -> Result<(Certificate, Arc<ServerConfig>), AnyError> {
    let versions = if options.tls12 {
        &[&rustls::version::TLS12][..]
    } else {
        rustls::ALL_VERSIONS
    };
    let key = KeyPair::generate()?;
    let names = [&options.hostname, "localhost", "127.0.0.1"].map(str::to_owned);
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    // Named here, so that no process-wide default provider is needed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = match &options.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
            verifier.allow_unauthenticated().build()?
        }
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key.into())?;
    Ok((certificate, Arc::new(config)))
}

fn accept(listener: &Socket, shared: &Arc<Shared>) {
    for id in 0.. {
        let accepted = listener.accept();
        let mut state = shared.lock();
        if state.stopping {
            return;
        }
        let connection = accepted.and_then(|(socket, _)| {
            let handle = socket.try_clone()?;
            let shared = Arc::clone(shared);
            let thread = thread::Builder::new().spawn(move || {
                Session::new(socket, &shared).run();
                // The lock makes this come after the insertion below.
                shared.lock().connections.remove(&id);
            })?;
            Ok((handle, thread))
        });
        if let Ok(connection) = connection {
            state.connections.insert(id, connection);
        } else {
            drop(state);
            thread::sleep(Duration::from_millis(10)); // out of descriptors, say
        }
    }
}

/// Why a command did not end with its normal reply.
enum Fault {
    /// It is refused with this reply.
    Refused(String),
    /// The session is over.
    Over,
}

impl From<&str> for Fault {
    fn from(reply: &str) -> Self {
        Self::Refused(reply.to_owned())
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Over
    }
}

fn refuse_if(condition: bool, reply: &str) -> Result<(), Fault> {
    if condition { Err(reply.into()) } else { Ok(()) }
}

/// What the client has told so far.
#[derive(Default)]
struct Dialogue {
    client_name: Option<String>,
    /// Whether EHLO or LHLO was used, so that extensions may be.
    extended: bool,
    authenticated: bool,
    /// MAIL commands so far.
    mails: usize,
    /// The open mail transaction.
    transaction: Option<Transaction>,
}

/// From MAIL to the end of the data.
struct Transaction {
    message: StoredMessage,
    smtputf8: bool,
    prdr: bool,
    /// RCPT commands so far.
    rcpts: usize,
    /// What has come by BDAT.
    chunks: Option<Incoming>,
}

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    options: &'a Options,
    socket: Socket,
    tls: Option<ServerConnection>,
    input: Vec<u8>,
    /// The part of `input` that was received and not yet used.
    held: Range<usize>,
    output: Vec<u8>,
    dialogue: Dialogue,
}

impl<'a> Session<'a> {
    fn new(socket: Socket, shared: &'a Shared) -> Self {
        Self {
            shared,
            options: &shared.options,
            socket,
            tls: None,
            input: vec![0; INPUT_SIZE],
            held: 0..0,
            output: Vec::new(),
            dialogue: Dialogue::default(),
        }
    }

    fn run(&mut self) {
        if self.open().is_ok() {
            loop {
                match self.command() {
                    Ok(()) => {}
                    Err(Fault::Refused(reply)) => self.reply(&reply),
                    Err(Fault::Over) => break,
                }
            }
        }
        self.close();
    }

    fn open(&mut self) -> io::Result<()> {
        // A Unix socket knows no such thing.
        let _ = self.socket.set_tcp_nodelay(true);
        self.socket.set_read_timeout(Some(IDLE_TIMEOUT))?;
        self.socket.set_write_timeout(Some(IDLE_TIMEOUT))?;
        if self.options.implicit_tls {
            self.shake_hands()?;
        }
        self.reply(&format!("220 {} ESMTP ready", self.options.hostname));
        Ok(())
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let config = Arc::clone(&self.shared.tls);
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        self.tls = Some(tls);
        Ok(())
    }

    fn close(&mut self) {
        let _ = self.flush();
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() && tls.write_tls(&mut self.socket).is_ok_and(|n| n > 0) {}
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        // Closing with input unread would reset the connection, and the client
        // might never see the last reply: give it a moment to close first.
        let _ = self.socket.set_read_timeout(Some(Duration::from_secs(1)));
        for _ in 0..16 {
            if !matches!(self.socket.read(&mut self.input), Ok(1..)) {
                break;
            }
        }
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn reply(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn quit(&mut self, line: &str) -> Result<(), Fault> {
        self.reply(line);
        Err(Fault::Over)
    }

    fn flush(&mut self) -> io::Result<()> {
        let output = mem::take(&mut self.output);
        let Some(tls) = &mut self.tls else {
            return self.socket.write_all(&output);
        };
        let mut stream = rustls::Stream::new(tls, &mut self.socket);
        stream.write_all(&output)?;
        stream.flush()
    }

    /// Receives more input. The replies gathered so far are sent before, so
    /// that a batch of commands gets one batch of replies (RFC 2920 §3.2).
    fn fill(&mut self) -> Result<(), Fault> {
        self.flush()?;
        self.input.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        let space = &mut self.input[self.held.end..];
        let received = match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.socket).read(space),
            None => self.socket.read(space),
        };
        match received.map_err(|error| error.kind()) {
            Ok(0) => return Err(Fault::Over),
            Ok(count) => self.held.end += count,
            Err(ErrorKind::Interrupted) => {}
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return self.quit("421 4.4.2 Idle for too long, closing");
            }
            Err(_) => return Err(Fault::Over),
        }
        Ok(())
    }

    /// The next line, which only CRLF ends (RFC 5321 §2.3.8).
    fn line(&mut self) -> Result<String, Fault> {
        let mut too_long = false;
        loop {
            let held = &self.input[self.held.clone()];
            if let Some(length) = held.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&held[..length]);
                // White space at the end is tolerated (RFC 5321 §4.1.1).
                let line = line.trim_end_matches([' ', '\t']).to_owned();
                self.held.start += length + 2;
                too_long |= length + 2 > LINE_LIMIT;
                refuse_if(too_long, "500 5.5.2 Line too long")?;
                let wrong = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
                refuse_if(line.contains(wrong), "500 5.5.2 Not readable as UTF-8")?;
                return Ok(line);
            }
            if held.len() >= LINE_LIMIT {
                too_long = true;
                // Dropped, but for a CR whose LF may be yet to come.
                self.held.start = self.held.end - usize::from(held.ends_with(b"\r"));
            }
            self.fill()?;
        }
    }

    fn command(&mut self) -> Result<(), Fault> {
        let line = self.line()?;
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        let lone = matches!(verb.as_str(), "DATA" | "RSET" | "QUIT" | "STARTTLS");
        refuse_if(lone && !argument.is_empty(), "501 5.5.4 No parameters here")?;
        match (verb.as_str(), self.options.lmtp) {
            ("EHLO", false) | ("LHLO", true) => self.hello(argument, true)?,
            ("HELO", false) => self.hello(argument, false)?,
            ("MAIL", _) => self.mail(argument)?,
            ("RCPT", _) => self.rcpt(argument)?,
            ("DATA", _) => self.data()?,
            ("BDAT", _) if self.options.chunking => self.bdat(argument)?,
            ("STARTTLS", _) => self.starttls()?,
            ("AUTH", _) => self.auth(argument)?,
            ("RSET", _) => {
                self.dialogue.transaction = None;
                self.reply("250 2.0.0 Ok");
            }
            ("NOOP", _) => self.reply("250 2.0.0 Ok"),
            ("VRFY", _) if argument.is_empty() => return Err("501 5.5.4 Whom?".into()),
            ("VRFY", _) => self.reply("252 2.0.0 Cannot verify, but will accept"),
            ("QUIT", _) => self.quit("221 2.0.0 Bye")?,
            _ => return Err("500 5.5.1 Command not recognized".into()),
        }
        Ok(())
    }

    fn hello(&mut self, name: &str, extended: bool) -> Result<(), Fault> {
        // No reply to HELO or EHLO has an enhanced code (RFC 2034 §4).
        refuse_if(!is_domain(name), "501 Domain or address literal expected")?;
        // Any transaction ends, as after RSET (RFC 5321 §4.1.4).
        self.dialogue.transaction = None;
        self.dialogue.client_name = Some(name.to_owned());
        self.dialogue.extended = extended;
        let options = self.options;
        let limits = options.limits.map(|limits| {
            format!(
                "LIMITS RCPTMAX={} MAILMAX={}",
                limits.rcpt_max, limits.mail_max
            )
        });
        let starttls = options.starttls && self.tls.is_none();
        let auth = options.auth.is_some() && self.auth_is_safe();
        let extensions = [
            (options.pipelining, "PIPELINING"),
            (true, "8BITMIME"),
            (true, &format!("SIZE {}", options.max_size)),
            (true, "ENHANCEDSTATUSCODES"),
            (starttls, "STARTTLS"),
            (auth && self.tls.is_none(), "AUTH PLAIN LOGIN SCRAM-SHA-256"),
            (
                auth && self.tls.is_some() && !self.knows_client(),
                "AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS",
            ),
            (auth && self.knows_client(), "AUTH EXTERNAL"),
            (options.chunking, "CHUNKING"),
            (options.chunking, "BINARYMIME"),
            (options.dsn, "DSN"),
            (self.requires_tls(), "REQUIRETLS"),
            (self.gives_prdr(), "PRDR"),
            (limits.is_some(), limits.as_deref().unwrap_or_default()),
            (options.smtputf8, "SMTPUTF8"),
        ];
        let offered = extensions
            .iter()
            .filter(|(offered, _)| extended && *offered);
        let mut lines = offered.map(|&(_, extension)| extension);
        let mut line = options.hostname.as_str();
        for next in lines.by_ref() {
            self.reply(&format!("250-{line}"));
            line = next;
        }
        self.reply(&format!("250 {line}"));
        Ok(())
    }

    /// Whether the client has shown a certificate.
    fn knows_client(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.peer_certificates().is_some())
    }

    /// Whether REQUIRETLS is offered: only where the session is in TLS
    /// (RFC 8689 §2).
    fn requires_tls(&self) -> bool {
        self.options.require_tls && self.tls.is_some()
    }

    fn gives_prdr(&self) -> bool {
        self.options.prdr && !self.options.lmtp
    }

    fn auth_is_safe(&self) -> bool {
        self.tls.is_some() || self.options.auth_in_clear
    }

    fn too_big(&self, size: u64) -> bool {
        self.options.max_size != 0 && size > self.options.max_size
    }

    fn mail(&mut self, argument: &str) -> Result<(), Fault> {
        let name = self.dialogue.client_name.clone();
        let client_name = name.ok_or("503 5.5.1 Say hello first")?;
        let locked = self.options.auth.is_some() && !self.dialogue.authenticated;
        refuse_if(locked, "530 5.7.0 Authentication required")?;
        let nested = self.dialogue.transaction.is_some();
        refuse_if(nested, "503 5.5.1 Nested MAIL command")?;
        self.dialogue.mails += 1;
        let many = self
            .options
            .limits
            .is_some_and(|limits| self.dialogue.mails > limits.mail_max);
        refuse_if(many, "452 4.5.3 Too many messages in one session")?;
        let (path, text) = split_path(argument, "FROM:")?;
        let valid = path.is_empty() || is_mailbox(path);
        refuse_if(!valid, "501 5.1.7 Bad sender address")?;
        // Parameters belong to extensions (RFC 5321 §4.1.1.11).
        let early = !self.dialogue.extended && !text.is_empty();
        refuse_if(early, "555 5.5.4 No parameters after HELO")?;
        let (mut body_parameter, mut smtputf8, mut prdr) = (None, false, false);
        let options = self.options;
        for (name, value) in parameters(text)? {
            match (name.as_str(), value) {
                ("SIZE", Some(size)) => {
                    let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
                    refuse_if(!digits, "501 5.5.4 Bad SIZE")?;
                    // A number that does not even fit is surely too big.
                    let fits = size.parse().is_ok_and(|size| !self.too_big(size));
                    refuse_if(!fits, "552 5.3.4 Message too big")?;
                }
                ("BODY", Some(body)) => {
                    let body = body.to_ascii_uppercase();
                    let known = matches!(body.as_str(), "7BIT" | "8BITMIME")
                        || (body == "BINARYMIME" && options.chunking);
                    refuse_if(!known, "501 5.5.4 Bad BODY")?;
                    body_parameter = Some(body);
                }
                ("SMTPUTF8", None) if options.smtputf8 => smtputf8 = true,
                ("RET", Some(ret)) if options.dsn => {
                    let known = ["FULL", "HDRS"]
                        .iter()
                        .any(|known| ret.eq_ignore_ascii_case(known));
                    refuse_if(!known, "501 5.5.4 Bad RET")?;
                }
                ("ENVID", Some(id)) if options.dsn => {
                    refuse_if(
                        !is_xtext(id) || id.len() > ENVID_LIMIT,
                        "501 5.5.4 Bad ENVID",
                    )?;
                }
                ("REQUIRETLS", None) if self.requires_tls() => {}
                ("PRDR", None) if self.gives_prdr() => prdr = true,
                // Part of the AUTH extension, to be ignored (RFC 4954 §5).
                ("AUTH", Some(_)) if options.auth.is_some() => {}
                _ => return Err("555 5.5.4 Parameter not recognized".into()),
            }
        }
        // The codes are those of RFC 6531 §3.5.
        let plain = path.is_ascii() || smtputf8;
        refuse_if(!plain, "553 5.6.7 Address needs SMTPUTF8")?;
        let message = StoredMessage {
            reverse_path: path.to_owned(),
            mail_parameters: text.to_owned(),
            forward_paths: Vec::new(),
            rcpt_parameters: Vec::new(),
            path: PathBuf::new(),
            octets: 0,
            tls: self.tls.is_some(),
            body_parameter,
            client_name,
        };
        self.dialogue.transaction = Some(Transaction {
            message,
            smtputf8,
            prdr,
            rcpts: 0,
            chunks: None,
        });
        self.reply("250 2.1.0 Ok");
        Ok(())
    }

    fn rcpt(&mut self, argument: &str) -> Result<(), Fault> {
        let transaction = self
            .dialogue
            .transaction
            .as_mut()
            .ok_or("503 5.5.1 MAIL first")?;
        refuse_if(transaction.chunks.is_some(), "503 5.5.1 The data has begun")?;
        transaction.rcpts += 1;
        let most = self
            .options
            .limits
            .map_or(RECIPIENT_LIMIT, |limits| limits.rcpt_max);
        refuse_if(transaction.rcpts > most, "452 4.5.3 Too many recipients")?;
        let (path, text) = split_path(argument, "TO:")?;
        // Postmaster alone needs no domain (RFC 5321 §4.1.1.3).
        let valid = is_mailbox(path) || path.eq_ignore_ascii_case("postmaster");
        refuse_if(!valid, "501 5.1.3 Bad recipient address")?;
        for (name, value) in parameters(text)? {
            match (name.as_str(), value) {
                ("NOTIFY", Some(when)) if self.options.dsn => {
                    refuse_if(!is_notify(when), "501 5.5.4 Bad NOTIFY")?;
                }
                ("ORCPT", Some(original)) if self.options.dsn => {
                    let (kind, address) = original.split_once(';').unwrap_or_default();
                    let right =
                        !kind.is_empty() && is_xtext(address) && original.len() <= ORCPT_LIMIT;
                    refuse_if(!right, "501 5.5.4 Bad ORCPT")?;
                }
                _ => return Err("555 5.5.4 Parameter not recognized".into()),
            }
        }
        let plain = path.is_ascii() || transaction.smtputf8;
        refuse_if(!plain, "553 5.6.7 Address needs SMTPUTF8")?;
        for (prefix, code, text) in [
            ("refused", "550 5.1.1", "no such user here"),
            ("greylisted", "450 4.2.0", "greylisted, try again later"),
            ("full", "452 4.2.2", "mailbox full"),
        ] {
            refuse_if(path.starts_with(prefix), &about(path, code, text))?;
        }
        transaction.message.forward_paths.push(path.to_owned());
        transaction.message.rcpt_parameters.push(text.to_owned());
        self.reply("250 2.1.5 Ok");
        Ok(())
    }

    /// The transaction, if data may come now.
    fn transaction(&mut self) -> Result<&mut Transaction, Fault> {
        let transaction = self
            .dialogue
            .transaction
            .as_mut()
            .ok_or("503 5.5.1 MAIL first")?;
        let nobody = transaction.message.forward_paths.is_empty();
        // In LMTP the code must be 503 (RFC 2033 §4.2).
        refuse_if(nobody && self.options.lmtp, "503 5.5.1 no valid recipients")?;
        refuse_if(nobody, "554 5.5.1 no valid recipients")?;
        Ok(transaction)
    }

    fn data(&mut self) -> Result<(), Fault> {
        let transaction = self.transaction()?;
        let binary = transaction.message.body_parameter.as_deref() == Some("BINARYMIME");
        // RFC 3030 §2 and §3.
        refuse_if(
            binary || transaction.chunks.is_some(),
            "503 5.5.1 Only BDAT can follow",
        )?;
        let mut incoming = Incoming::new(self.shared)?;
        self.reply("354 End data with <CR><LF>.<CR><LF>");
        self.receive(&mut incoming)?;
        // Whatever the outcome, the transaction is over (RFC 5321 §4.1.1.4).
        if let Some(transaction) = self.dialogue.transaction.take() {
            self.store(transaction, incoming);
        }
        Ok(())
    }

    /// Receives the message data to its very end.
    fn receive(&mut self, incoming: &mut Incoming) -> Result<(), Fault> {
        let mut unstuffer = Unstuffer::default();
        let mut text = Vec::new();
        loop {
            let (used, ended) = unstuffer.feed(&self.input[self.held.clone()], &mut text);
            self.held.start += used;
            incoming.write(&text, self.options.max_size);
            if unstuffer.bare {
                incoming.refusal = Some(BARE);
            }
            text.clear();
            if ended {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn bdat(&mut self, argument: &str) -> Result<(), Fault> {
        let (size, last) = match argument.split_once(' ') {
            Some((size, last)) if last.eq_ignore_ascii_case("LAST") => (size, true),
            _ => (argument, false),
        };
        let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
        let size = size.parse().ok().filter(|_| digits);
        let mut left: u64 = size.ok_or("501 5.5.4 Syntax: BDAT size [LAST]")?;
        // The chunk is read whatever becomes of it, or it would pass for
        // commands (RFC 3030 §2).
        let mut incoming = self.chunks();
        while left > 0 {
            if self.held.is_empty() {
                self.fill()?;
            }
            let held = self.held.len();
            let used = usize::try_from(left).map_or(held, |left| left.min(held));
            let octets = &self.input[self.held.start..self.held.start + used];
            if let Ok(incoming) = &mut incoming {
                incoming.take_chunk(octets, self.options.max_size);
            }
            self.held.start += used;
            left -= used as u64;
        }
        let mut incoming = incoming?;
        if last {
            incoming.end_chunks();
        }
        let Some(mut transaction) = self.dialogue.transaction.take() else {
            return Ok(());
        };
        if let (true, None) = (last, incoming.refusal) {
            self.store(transaction, incoming);
            return Ok(());
        }
        let reply = incoming.refusal.map_or(
            format!("250 2.0.0 {} octets received", incoming.octets),
            Into::into,
        );
        let lmtp = self.options.lmtp && last;
        let replies = if lmtp {
            transaction.message.forward_paths.len()
        } else {
            1
        };
        (0..replies).for_each(|_| self.reply(&reply));
        // After a refusal nothing but RSET leads on (RFC 3030 §2).
        incoming.refusal = incoming.refusal.map(|_| "503 5.5.1 RSET first");
        transaction.chunks = Some(incoming);
        self.dialogue.transaction = Some(transaction);
        Ok(())
    }

    /// Where the next chunk goes.
    fn chunks(&mut self) -> Result<Incoming, Fault> {
        let shared = self.shared;
        let transaction = self.transaction()?;
        let is_text = transaction.message.body_parameter.as_deref() != Some("BINARYMIME");
        match transaction.chunks.take() {
            Some(chunks) => Ok(chunks),
            None => Ok(Incoming {
                is_text,
                ..Incoming::new(shared)?
            }),
        }
    }

    /// Stores the message, and answers for it.
    fn store(&mut self, transaction: Transaction, incoming: Incoming) {
        let Transaction {
            mut message, prdr, ..
        } = transaction;
        let recipients = message.forward_paths.clone();
        if let Some(refusal) = incoming.refusal {
            drop(incoming); // the file is gone before the client knows
            // LMTP answers for every accepted recipient (RFC 2033 §4.2).
            let replies = if self.options.lmtp {
                recipients.len()
            } else {
                1
            };
            (0..replies).for_each(|_| self.reply(refusal));
            return;
        }
        let each = prdr || self.options.lmtp;
        let filtered = |path: &String| each && path.starts_with("filtered");
        let mut kept = recipients.iter().map(|path| !filtered(path));
        message
            .rcpt_parameters
            .retain(|_| kept.next().unwrap_or_default());
        message.forward_paths.retain(|path| !filtered(path));
        let delivered = !message.forward_paths.is_empty();
        let mut all = "550 5.7.1 nobody takes this message".to_owned();
        if delivered {
            (message.octets, message.path) = (incoming.octets, incoming.spool.keep());
            let name = message.path.file_name().unwrap_or_default().display();
            all = format!("250 2.0.0 Ok: stored as {name}");
            self.shared.lock().messages.push(message);
            self.shared.arrived.notify_all();
        } else {
            drop(incoming);
        }
        if prdr {
            self.reply("353 each recipient is answered for, and then the message");
        }
        for path in recipients.iter().filter(|_| each) {
            match filtered(path) {
                true => self.reply(&about(path, "550 5.7.1", "does not take this message")),
                false => self.reply(&all),
            }
        }
        if !self.options.lmtp {
            self.reply(&all);
        }
    }

    fn starttls(&mut self) -> Result<(), Fault> {
        refuse_if(self.tls.is_some(), "503 5.5.1 Already in TLS")?;
        refuse_if(!self.options.starttls, "502 5.5.1 STARTTLS not offered")?;
        refuse_if(!self.dialogue.extended, "503 5.5.1 EHLO first")?;
        // Input that came along may be an attacker's, and must not pass for a part
        // of the TLS session (CVE-2011-0411). Later plaintext fails the handshake.
        if !self.held.is_empty() {
            return self.quit("501 5.5.1 Data after STARTTLS");
        }
        self.reply("220 2.0.0 Ready to start TLS");
        self.flush()?;
        self.shake_hands()?;
        // Nothing learnt in the clear counts any more (RFC 3207 §4.2).
        self.dialogue = Dialogue::default();
        Ok(())
    }

    fn auth(&mut self, argument: &str) -> Result<(), Fault> {
        let account = self.options.auth.as_ref();
        let (user, password) = account.ok_or("502 5.5.1 AUTH not offered")?;
        let user_password = (user.as_bytes(), password.as_bytes());
        refuse_if(!self.dialogue.extended, "503 5.5.1 EHLO first")?;
        // Neither twice nor within a transaction (RFC 4954 §4).
        let late = self.dialogue.authenticated || self.dialogue.transaction.is_some();
        refuse_if(late, "503 5.5.1 AUTH not allowed now")?;
        refuse_if(!self.auth_is_safe(), "538 5.7.11 AUTH needs TLS")?;
        let (mechanism, initial) = match argument.split_once(' ') {
            Some((mechanism, initial)) => (mechanism, Some(initial)),
            None => (argument, None),
        };
        let right = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let response = self.auth_response(initial, "")?;
                // Authorization identity, user, password (RFC 4616 §2).
                let parts: Vec<&[u8]> = response.split(|&byte| byte == 0).collect();
                let &[identity, name, secret] = parts.as_slice() else {
                    return Err("501 5.5.2 Malformed response".into());
                };
                (identity.is_empty() || identity == name) && (name, secret) == user_password
            }
            "LOGIN" => {
                let name = self.auth_response(initial, "VXNlcm5hbWU6")?; // Username:
                let secret = self.auth_response(None, "UGFzc3dvcmQ6")?; // Password:
                (name.as_slice(), secret.as_slice()) == user_password
            }
            "EXTERNAL" if self.knows_client() => {
                let identity = self.auth_response(initial, "")?;
                identity.is_empty() || identity == user_password.0
            }
            name @ ("SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS") => {
                let first = self.auth_response(initial, "")?;
                let (plus, binding) = (name.ends_with("-PLUS"), self.binding());
                let exchange =
                    scram::Exchange::begin(&first, user_password, plus, binding.as_ref());
                let exchange = exchange.ok_or("535 5.7.8 Authentication credentials invalid")?;
                let last = self.auth_response(None, &encode_base64(&exchange.challenge))?;
                match exchange.finish(&last) {
                    Some(proof) => self.auth_response(None, &encode_base64(&proof))?.is_empty(),
                    None => false,
                }
            }
            _ => return Err("504 5.5.4 Mechanism not offered".into()),
        };
        refuse_if(!right, "535 5.7.8 Authentication credentials invalid")?;
        self.dialogue.authenticated = true;
        self.reply("235 2.7.0 Authentication successful");
        Ok(())
    }

    /// What the TLS connection is known by, inside TLS.
    fn binding(&self) -> Option<scram::Binding> {
        let tls = self.tls.as_ref()?;
        if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Some((
                "tls-server-end-point",
                self.shared.certificate_hash.to_vec(),
            ));
        }
        let exported = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        Some(("tls-exporter", exported.ok()?.to_vec()))
    }

    /// The initial response, or the response to `challenge` if there is none.
    fn auth_response(&mut self, initial: Option<&str>, challenge: &str) -> Result<Vec<u8>, Fault> {
        let response = match initial {
            Some("=") => String::new(), // empty, as RFC 4954 §4 spells it
            Some(initial) => initial.to_owned(),
            None => {
                self.reply(&format!("334 {challenge}"));
                self.line()?
            }
        };
        refuse_if(response == "*", "501 5.7.0 Authentication cancelled")?;
        decode_base64(&response).ok_or("501 5.5.2 Not base64".into())
    }
}

/// A message file in the making, deleted unless it is kept.
struct Spool {
    file: File,
    path: PathBuf,
}

impl Spool {
    fn create(shared: &Shared) -> io::Result<Self> {
        loop {
            let number = shared.files.fetch_add(1, Ordering::Relaxed) + 1;
            let path = shared.options.directory.join(format!("{number:04}.eml"));
            match File::create_new(&path) {
                // Left by an earlier server, and never overwritten.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                file => return Ok(Self { file: file?, path }),
            }
        }
    }

    fn keep(mut self) -> PathBuf {
        mem::take(&mut self.path)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A place in the message data.
#[derive(Clone, Copy, Default)]
enum Place {
    #[default]
    LineStart,
    AfterFirstDot,
    AfterFirstDotCr,
    AfterCr,
    Elsewhere,
}

const BARE: &str = "550 5.6.0 Bare CR or LF in the message";

/// Message data on its way into a file.
struct Incoming {
    spool: Spool,
    octets: u64,
    /// The reply, if it is refused.
    refusal: Option<&'static str>,
    /// In chunks: only CRLF ends a line, and no other CR or LF is allowed.
    is_text: bool,
    /// In chunks: the last octet was a CR.
    after_cr: bool,
}

impl Incoming {
    fn new(shared: &Shared) -> Result<Self, Fault> {
        let spool = Spool::create(shared).map_err(|_| "451 4.3.0 Cannot store a message")?;
        Ok(Self {
            spool,
            octets: 0,
            refusal: None,
            is_text: true,
            after_cr: false,
        })
    }

    fn write(&mut self, text: &[u8], max_size: u64) {
        self.octets += text.len() as u64;
        if max_size != 0 && self.octets > max_size {
            self.refusal = Some("552 5.3.4 Message too big");
        } else if self.refusal.is_none() && self.spool.file.write_all(text).is_err() {
            self.refusal = Some("451 4.3.0 Cannot store the message");
        }
    }

    /// Takes octets of a chunk. The first refusal stays.
    fn take_chunk(&mut self, octets: &[u8], max_size: u64) {
        if self.refusal.is_some() {
            return;
        }
        self.write(octets, max_size);
        for &octet in octets {
            if self.is_text && self.after_cr != (octet == b'\n') {
                self.refusal = Some(BARE);
            }
            self.after_cr = octet == b'\r';
        }
    }

    /// No chunk follows.
    fn end_chunks(&mut self) {
        if self.is_text && self.after_cr {
            self.refusal = self.refusal.or(Some(BARE));
        }
    }
}

/// Removes the stuffed dots and finds the end of the message data, which
/// nothing but CRLF.CRLF is (RFC 5321 §4.1.1.4).
#[derive(Default)]
struct Unstuffer {
    place: Place,
    /// Whether a bare CR or LF was seen, which never ends a line. The text is
    /// not exact from there on.
    bare: bool,
}

impl Unstuffer {
    /// Appends the text in `input` to `text`; returns how much input was used,
    /// and whether the end was reached.
    fn feed(&mut self, input: &[u8], text: &mut Vec<u8>) -> (usize, bool) {
        for (index, &byte) in input.iter().enumerate() {
            self.place = match (self.place, byte) {
                (Place::AfterFirstDotCr, b'\n') => return (index + 1, true),
                (Place::AfterCr, b'\n') => {
                    text.extend_from_slice(b"\r\n");
                    Place::LineStart
                }
                (Place::AfterCr | Place::AfterFirstDotCr, _) | (_, b'\n') => {
                    self.bare = true;
                    match byte {
                        b'\r' => Place::AfterCr,
                        _ => Place::Elsewhere,
                    }
                }
                (Place::LineStart, b'.') => Place::AfterFirstDot,
                (Place::AfterFirstDot, b'\r') => Place::AfterFirstDotCr,
                (_, b'\r') => Place::AfterCr,
                _ => {
                    text.push(byte);
                    Place::Elsewhere
                }
            };
        }
        (input.len(), false)
    }
}

/// The parameters of MAIL and RCPT, their names in upper case; none may come
/// twice.
fn parameters(text: &str) -> Result<Vec<(String, Option<&str>)>, Fault> {
    let mut names = HashSet::new();
    let parameter = |parameter| {
        let (name, value) = match str::split_once(parameter, '=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        };
        let name = name.to_ascii_uppercase();
        refuse_if(
            !names.insert(name.clone()),
            "501 5.5.4 A parameter came twice",
        )?;
        Ok((name, value))
    };
    text.split_ascii_whitespace().map(parameter).collect()
}

/// RFC 3461 §4; empty is none.
fn is_xtext(text: &str) -> bool {
    let mut parts = text.split('+');
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
    let is_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let hex = |part: &str| part.len() >= 2 && part.bytes().take(2).all(is_hex);
    !text.is_empty()
        && parts.next().is_some_and(plain)
        && parts.all(|part| hex(part) && plain(part))
}

/// RFC 3461 §4.1: NEVER alone, or each of the others once at most.
fn is_notify(when: &str) -> bool {
    let mut left = vec!["SUCCESS", "FAILURE", "DELAY"];
    let take = |word: &str| {
        let found = left
            .iter()
            .position(|known| known.eq_ignore_ascii_case(word));
        found.map(|at| left.remove(at)).is_some()
    };
    when.eq_ignore_ascii_case("NEVER") || when.split(',').all(take)
}

/// Splits `FROM:<address> parameters` into address and parameters. No space may
/// stand beside the colon (RFC 5321 §3.3).
fn split_path<'l>(argument: &'l str, keyword: &str) -> Result<(&'l str, &'l str), Fault> {
    let split = || {
        let (head, rest) = argument.split_at_checked(keyword.len())?;
        let rest = rest.strip_prefix('<')?;
        let (mut quoted, mut escaped) = (false, false);
        let close = rest.bytes().position(|byte| {
            quoted ^= byte == b'"' && !escaped;
            escaped = byte == b'\\' && quoted && !escaped;
            byte == b'>' && !quoted
        })?;
        let (mut path, tail) = (&rest[..close], &rest[close + 1..]);
        // A source route must be accepted and should be ignored (§4.1.1.3).
        if path.starts_with('@') {
            path = path.split_once(':')?.1;
        }
        let right = head.eq_ignore_ascii_case(keyword) && !tail.starts_with(|c| c != ' ');
        right.then_some((path, tail.trim_start()))
    };
    let syntax = || Fault::Refused(format!("501 5.5.2 Syntax: {keyword}<address>"));
    split().ok_or_else(syntax)
}

/// `Mailbox` of RFC 5321 §4.1.2, with the non-ASCII characters of RFC 6531.
fn is_mailbox(path: &str) -> bool {
    let Some((local, domain)) = path.rsplit_once('@') else {
        return false;
    };
    let odd = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !ATOM_MARKS.contains(c);
    let is_atom = |atom: &str| !atom.is_empty() && !atom.contains(odd);
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    let local_is_right = quoted || local.split('.').all(is_atom);
    path.len() <= ADDRESS_LIMIT && local_is_right && is_domain(domain)
}

/// A reply about this address. It quotes the address where the line has room.
fn about(path: &str, code: &str, text: &str) -> String {
    let line = format!("{code} <{path}> {text}");
    match line.len() + 2 <= REPLY_LIMIT {
        true => line,
        false => format!("{code} {text}"),
    }
}

/// `Domain` or `address-literal` of RFC 5321 §4.1.2.
fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')) {
        return match literal.strip_prefix("IPv6:") {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => literal.parse::<Ipv4Addr>().is_ok(),
        };
    }
    let odd = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '-';
    let is_label = |l: &str| !(l.is_empty() || l.starts_with('-') || l.ends_with('-'));
    domain.split('.').all(is_label) && !domain.replace('.', "").contains(odd)
}

fn encode_base64(text: &str) -> String {
    STANDARD.encode(text)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    struct Client<S>(BufReader<S>);

    impl<S: Read + Write> Client<S> {
        fn send(&mut self, text: &str) {
            self.0.get_mut().write_all(text.as_bytes()).unwrap();
        }

        fn expect(&mut self, start: &str) -> String {
            let (mut reply, mut line) = (String::new(), 0);
            while self.0.read_line(&mut reply).unwrap() > 0 && &reply[line + 3..=line + 3] == "-" {
                line = reply.len();
            }
            assert!(reply.starts_with(start), "{reply:?}, not {start:?}");
            reply
        }

        fn expect_end(&mut self) {
            assert!(self.0.fill_buf().unwrap().is_empty());
        }

        /// Sends the script's lines marked `> `, and expects replies that begin
        /// like the others.
        fn talk(&mut self, script: &str) {
            for line in script.lines().map(str::trim_start) {
                match line.strip_prefix("> ") {
                    Some(command) => self.send(&format!("{command}\r\n")),
                    None => drop(self.expect(line)),
                }
            }
        }
    }

    fn start(change: impl FnOnce(&mut Options)) -> (Receiver, Client<TcpStream>) {
        let mut options = Options::default();
        change(&mut options);
        let receiver = Receiver::start(options).unwrap();
        let client = connect(&receiver);
        (receiver, client)
    }

    fn connect(receiver: &Receiver) -> Client<TcpStream> {
        let socket = TcpStream::connect(receiver.local_addr()).unwrap();
        socket.set_nodelay(true).unwrap();
        let patience = Duration::from_secs(20);
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut client = Client(BufReader::new(socket));
        client.expect("220 receiver.localhost ESMTP ready\r\n");
        client
    }

    type Tls = StreamOwned<ClientConnection, TcpStream>;

    fn start_tls(receiver: &Receiver, mut client: Client<TcpStream>) -> Client<Tls> {
        client.talk("> STARTTLS\n220 2.0.0");
        let pem = receiver.certificate_pem().as_bytes();
        let certificate = CertificateDer::from_pem_slice(pem).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "receiver.localhost".try_into().unwrap();
        let tls = ClientConnection::new(config.into(), name).unwrap();
        Client(BufReader::new(Tls::new(tls, client.0.into_inner())))
    }

    /// Ends the server and removes its files; returns how many there were.
    fn files_left(receiver: Receiver) -> usize {
        let directory = receiver.shared.options.directory.clone();
        drop(receiver);
        let count = fs::read_dir(&directory).unwrap().count();
        fs::remove_dir_all(directory).unwrap();
        count
    }

    const TO_DATA: &str = "> MAIL FROM:<a@client.example>\n250 2.1.0\n\
        > RCPT TO:<b@receiver.localhost>\n250 2.1.5\n> DATA\n354";

    #[test]
    fn pipelined_transaction_and_split_dots() {
        let (receiver, mut client) = start(|_| ());
        client.send("ehlo client.example\r\n");
        let offer = "250-receiver.localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n\
            250-SIZE 67108864\r\n250-ENHANCEDSTATUSCODES\r\n250-STARTTLS\r\n250-CHUNKING\r\n\
            250-BINARYMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n";
        assert_eq!(client.expect("250-"), offer);
        client.send(
            "mail from:<\"a>b\"@client.example> size=40 body=8bitmime\r\n\
             RCPT TO:<b@receiver.localhost>\r\nRCPT TO:<Postmaster> notify=NEVER\r\nDATA\r\n",
        );
        client.talk("250 2.1.0\n250 2.1.5\n250 2.1.5\n354");
        for part in ["Subject: x\r", "\n\r\n.", ".dot\r\n..\r\n.", ".", "\r\n.\r"] {
            client.send(part);
            thread::sleep(Duration::from_millis(20));
        }
        client.send("\nRSET\r\nQUIT\r\n");
        client.talk("250 2.0.0 Ok: stored as 0001.eml\n250 2.0.0\n221 2.0.0");
        client.expect_end();
        let message = receiver
            .wait_for_messages(1, Duration::from_secs(5))
            .remove(0);
        let expected = StoredMessage {
            reverse_path: "\"a>b\"@client.example".to_owned(),
            mail_parameters: "size=40 body=8bitmime".to_owned(),
            forward_paths: vec!["b@receiver.localhost".to_owned(), "Postmaster".to_owned()],
            rcpt_parameters: vec![String::new(), "notify=NEVER".to_owned()],
            path: receiver.shared.options.directory.join("0001.eml"),
            octets: 26,
            tls: false,
            body_parameter: Some("8BITMIME".to_owned()),
            client_name: "client.example".to_owned(),
        };
        assert_eq!(message, expected);
        let stored = fs::read(&message.path).unwrap();
        assert_eq!(stored, b"Subject: x\r\n\r\n.dot\r\n.\r\n.\r\n");
        assert_eq!(files_left(receiver), 1);
    }

    #[test]
    fn refusals_and_sequence() {
        let (receiver, mut client) = start(|_| ());
        client.talk(
            "> MAIL FROM:<>\n503 5.5.1
            > EHLO [127.0.0.1]\n250-
            > RCPT TO:<b@x>\n503 5.5.1
            > MAIL FROM: <a@x>\n501 5.5.2
            > MAIL FROM:<a b@x>\n501 5.1.7
            > MAIL FROM:<é@x>\n553 5.6.7
            > MAIL FROM:<> FUTURE=1\n555 5.5.4
            > MAIL FROM:<> SIZE=99999999999999999999\n552 5.3.4
            > MAIL FROM:<é@x> SMTPUTF8\n250 2.1.0
            > RCPT TO:<refused.b@x>\n550 5.1.1 <refused.b@x> no such user here
            > RCPT TO:<greylisted@x>\n450 4.2.0 <greylisted@x> greylisted, try again later
            > RCPT TO:<full@x>\n452 4.2.2 <full@x> mailbox full
            > DATA\n554 5.5.1 no valid recipients
            > VRFY b\n252 2.0.0
            > LHLO x\n500 5.5.1
            > HELO x\n250 receiver.localhost
            > DATA\n503 5.5.1",
        );
        client.send(&"x".repeat(40_000));
        client.talk("> \n500 5.5.2 Line too long\n> NOOP\n250 2.0.0");
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn long_addresses() {
        let (receiver, mut client) = start(|_| ());
        let of = |start: &str, octets: usize| {
            format!("{start}{}@x", "a".repeat(octets - start.len() - 2))
        };
        let (longest, longer) = (of("", ADDRESS_LIMIT), of("", ADDRESS_LIMIT + 1));
        client.talk(&format!(
            "> EHLO x\n250-\n> MAIL FROM:<{longer}>\n501 5.1.7"
        ));
        client.talk(&format!(
            "> MAIL FROM:<{longest}>\n250 2.1.0\n> RCPT TO:<{longest}>\n250 2.1.5"
        ));
        // A reply quotes what a line of 512 octets has room for.
        let fits = of(
            "refused",
            REPLY_LIMIT - "550 5.1.1 <> no such user here\r\n".len(),
        );
        let refused = of("refused", fits.len() + 1);
        client.talk(&format!(
            "> RCPT TO:<{fits}>\n550 5.1.1 <{fits}> no such user here"
        ));
        client.talk(&format!(
            "> RCPT TO:<{refused}>\n550 5.1.1 no such user here"
        ));
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn starttls_forgets_and_encrypts() {
        let (receiver, mut client) = start(|_| ());
        client.talk("> EHLO x\n250-");
        let mut client = start_tls(&receiver, client);
        client.talk("> MAIL FROM:<>\n503 5.5.1\n> EHLO x");
        assert!(!client.expect("250-").contains("STARTTLS"));
        client.talk(TO_DATA);
        client.talk("> .\n250 2.0.0\n> QUIT\n221 2.0.0");
        client.expect_end();
        assert!(receiver.messages()[0].tls);
        assert_eq!(files_left(receiver), 1);
    }

    #[test]
    fn injection_after_starttls_ends_the_session() {
        let (receiver, mut client) = start(|_| ());
        client.talk("> EHLO x\n250-");
        client.send("STARTTLS\r\nMAIL FROM:<a@x>\r\n");
        client.expect("501 5.5.1 ");
        client.expect_end();
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn lmtp_answers_for_each_recipient() {
        let (receiver, mut client) = start(|options| options.lmtp = true);
        client.talk("> EHLO x\n500 5.5.1\n> LHLO x\n250-");
        client.talk("> MAIL FROM:<>\n250 2.1.0\n> RCPT TO:<a@x>\n250 2.1.5");
        client.talk("> RCPT TO:<refused@x>\n550 5.1.1\n> RCPT TO:<b@x>\n250 2.1.5");
        client.talk("> DATA\n354\n> text\n> .\n250 2.0.0 Ok: stored as 0001.eml");
        client.talk("250 2.0.0 Ok: stored as 0001.eml\n> VRFY x\n252 2.0.0");
        assert_eq!(files_left(receiver), 1);
    }

    #[test]
    fn auth_only_in_tls() {
        let account = Some(("user".to_owned(), "pass".to_owned()));
        let (receiver, mut client) = start(|options| options.auth = account);
        client.send("EHLO x\r\n");
        assert!(!client.expect("250-").contains("AUTH"));
        client.talk("> AUTH PLAIN\n538 5.7.11");
        let mut client = start_tls(&receiver, client);
        client.send("EHLO x\r\n");
        assert!(
            client
                .expect("250-")
                .contains("250-AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS\r\n")
        );
        client.talk(
            "> MAIL FROM:<>\n530 5.7.0
            > AUTH PLAIN AHVzZXIAd3Jvbmc=\n535 5.7.8
            > AUTH PLAIN AHVzZXIAcGFzc\n501 5.5.2
            > AUTH PLAIN\n334\n> *\n501 5.7.0
            > AUTH LOGIN\n334 VXNlcm5hbWU6\n> dXNlcg==\n334 UGFzc3dvcmQ6\n> cGFzcw==\n235 2.7.0
            > AUTH PLAIN AHVzZXIAcGFzcw==\n503 5.5.1
            > MAIL FROM:<>\n250 2.1.0",
        );
        let mut again = connect(&receiver);
        again.talk("> EHLO x\n250-");
        let mut again = start_tls(&receiver, again);
        again.talk("> EHLO x\n250-\n> AUTH PLAIN\n334\n> AHVzZXIAcGFzcw==\n235 2.7.0");
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn oversize_is_refused_after_the_dot() {
        let (receiver, mut client) = start(|options| options.max_size = 10);
        client.talk("> EHLO x\n250-\n> MAIL FROM:<> SIZE=11\n552 5.3.4");
        client.talk(TO_DATA);
        client.talk("> 123456789\n> .\n552 5.3.4");
        client.talk(TO_DATA);
        client.talk("> 12345678\n> .\n250 2.0.0");
        assert_eq!(receiver.messages()[0].octets, 10);
        assert_eq!(files_left(receiver), 1);
    }

    #[test]
    fn bare_line_ends_are_refused() {
        let (receiver, mut client) = start(|_| ());
        client.talk("> EHLO x\n250-");
        for text in ["a\nb", "a\n.\r\nb", "a\r\n.\nb", "a\r.\r\nb", "a\r\n.\rb"] {
            client.talk(TO_DATA);
            client.send(text);
            client.talk("> \n> .\n550 5.6.0");
        }
        client.talk(TO_DATA);
        client.send("half a mess"); // and then nothing more: no file is left
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn chunks_are_put_together() {
        let (receiver, mut client) = start(|_| ());
        client.talk("> EHLO x\n250-\n> MAIL FROM:<> BODY=BINARYMIME\n250\n> RCPT TO:<b@x>\n250");
        client.talk("> DATA\n503 5.5.1");
        client.send("BDAT 6\r\nab\r\n.\rBDAT 4\r\n\ncd\0bdat 0 last\r\n");
        client.talk("250 2.0.0\n250 2.0.0\n250 2.0.0 Ok: stored as 0001.eml\n> MAIL FROM:<>\n250");
        let message = &receiver.messages()[0];
        assert_eq!(message.octets, 10);
        assert_eq!(fs::read(&message.path).unwrap(), b"ab\r\n.\r\ncd\0");
        assert_eq!(files_left(receiver), 1);
    }

    #[test]
    fn a_refused_chunk_is_read() {
        let (receiver, mut client) = start(|options| options.max_size = 10);
        client.talk("> EHLO x\n250-\n> BDAT\n501\n> BDAT -1\n501\n> BDAT 1 FIRST\n501");
        client.send("BDAT 6 LAST\r\nQUIT\r\n");
        client.talk("503 5.5.1 MAIL first\n> MAIL FROM:<>\n250\n> RCPT TO:<refused@x>\n550");
        client.send("BDAT 6\r\nQUIT\r\n");
        client.talk("554 5.5.1 no valid\n> RCPT TO:<b@x>\n250");
        // Too big, the rest behind it, and nothing but RSET then.
        client.send("BDAT 6\r\n1234\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n");
        client.talk("250 2.0.0 6 octets\n552 5.3.4\n503 5.5.1 RSET\n> MAIL FROM:<>\n503");
        client.talk("> RCPT TO:<c@x>\n503\n> DATA\n503\n> RSET\n250");
        for text in ["a\nb", "a\rb", "a\r"] {
            client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<b@x>\n250");
            client.send(&format!("BDAT {} LAST\r\n{text}", text.len()));
            client.talk("550 5.6.0\n> RSET\n250");
        }
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn lmtp_answers_the_last_chunk_for_each_recipient() {
        let (receiver, mut client) = start(|options| options.lmtp = true);
        client.talk(
            "> LHLO x\n250-\n> MAIL FROM:<> RET=HDRS\n250\n> RCPT TO:<a@x> NOTIFY=DELAY\n250",
        );
        client.talk("> RCPT TO:<filtered@x>\n250\n> RCPT TO:<b@x>\n250");
        client.send("BDAT 3\r\nabcBDAT 2 LAST\r\n\r\n");
        client.talk("250 2.0.0 3\n250 2.0.0 Ok\n550 5.7.1 <filtered@x>\n250 2.0.0 Ok\n> NOOP\n250");
        let message = &receiver.messages()[0];
        assert_eq!(message.forward_paths, ["a@x", "b@x"]);
        assert_eq!(
            (
                &message.mail_parameters[..],
                &message.rcpt_parameters[0][..]
            ),
            ("RET=HDRS", "NOTIFY=DELAY")
        );
        assert_eq!(
            (message.rcpt_parameters.len(), files_left(receiver)),
            (2, 1)
        );
    }

    #[test]
    fn prdr_answers_for_each_recipient_and_for_all() {
        let (receiver, mut client) = start(|options| options.prdr = true);
        client.talk("> EHLO x\n250-\n> MAIL FROM:<> PRDR\n250\n> RCPT TO:<a@x>\n250");
        client.talk("> RCPT TO:<filtered@x>\n250\n> DATA\n354\n> .\n353 ");
        client.talk("250 2.0.0 Ok: stored\n550 5.7.1 <filtered@x>\n250 2.0.0 Ok: stored");
        client.talk(
            "> MAIL FROM:<> PRDR\n250\n> RCPT TO:<filtered@x>\n250\n> BDAT 0 LAST\n353 \n550\n550",
        );
        client
            .talk("> MAIL FROM:<>\n250\n> RCPT TO:<filtered@x>\n250\n> BDAT 0 LAST\n250 2.0.0 Ok");
        assert_eq!(receiver.messages().len(), 2);
        assert_eq!(files_left(receiver), 2);
    }

    #[test]
    fn parameters_are_strict() {
        let (receiver, mut client) = start(|_| ());
        client.talk("> EHLO x\n250-");
        for (parameters, reply) in [
            ("RET=FULL ENVID=a+20b SIZE=1", "250"),
            ("RET=SOME", "501"),
            ("RET", "555"),
            ("RET=FULL ret=HDRS", "501"),
            ("ENVID=a=b", "501"),
            ("ENVID=+2", "501"),
            ("REQUIRETLS", "555"),
            ("PRDR", "555"),
            ("SMTPUTF8=1", "555"),
        ] {
            client.talk(&format!(
                "> RSET\n250\n> MAIL FROM:<> {parameters}\n{reply}"
            ));
        }
        client.talk("> RSET\n250\n> MAIL FROM:<>\n250");
        for (parameters, reply) in [
            ("NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2Bb@x", "250"),
            ("NOTIFY=NEVER,DELAY", "501"),
            ("NOTIFY=DELAY,DELAY", "501"),
            ("NOTIFY=", "501"),
            ("ORCPT=a@x", "501"),
            ("RRVS=x", "555"),
        ] {
            client.talk(&format!("> RCPT TO:<b@x> {parameters}\n{reply}"));
        }
        assert_eq!(files_left(receiver), 0);
        let (plain, mut client) = start(|options| {
            (options.dsn, options.chunking, options.smtputf8) = (false, false, false);
        });
        client.send("EHLO x\r\n");
        let offer = client.expect("250-");
        assert!(
            offer.ends_with("250 STARTTLS\r\n") && !offer.contains("CHUNKING"),
            "{offer}"
        );
        client.talk("> MAIL FROM:<> RET=FULL\n555\n> MAIL FROM:<> SMTPUTF8\n555");
        client.talk("> MAIL FROM:<> BODY=BINARYMIME\n501\n> BDAT 0 LAST\n500");
        assert_eq!(files_left(plain), 0);
    }

    #[test]
    fn limits_are_stated_and_kept() {
        let limits = Limits {
            rcpt_max: 2,
            mail_max: 1,
        };
        let (receiver, mut client) = start(|options| options.limits = Some(limits));
        client.send("EHLO x\r\n");
        assert!(
            client
                .expect("250-")
                .contains("250-LIMITS RCPTMAX=2 MAILMAX=1\r\n")
        );
        client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<a@x>\n250\n> RCPT TO:<refused@x>\n550");
        client.talk("> RCPT TO:<b@x>\n452 4.5.3\n> RSET\n250\n> MAIL FROM:<>\n452 4.5.3");
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn requiretls_is_offered_inside_tls() {
        let (receiver, mut client) = start(|options| options.require_tls = true);
        client.send("EHLO x\r\n");
        assert!(!client.expect("250-").contains("REQUIRETLS"));
        client.talk("> MAIL FROM:<> REQUIRETLS\n555");
        let mut client = start_tls(&receiver, client);
        client.send("EHLO x\r\n");
        assert!(client.expect("250-").contains("250-REQUIRETLS\r\n"));
        client.talk("> MAIL FROM:<> REQUIRETLS\n250");
        assert_eq!(files_left(receiver), 0);
    }

    #[test]
    fn a_unix_socket_comes_and_goes() {
        let mut options = Options::default();
        let path = options.directory.with_extension("sock");
        options.unix = Some(path.clone());
        let receiver = Receiver::start(options).unwrap();
        let mut client = Client(BufReader::new(UnixStream::connect(&path).unwrap()));
        client.talk("220 receiver.localhost\n> EHLO x\n250-");
        client.talk(TO_DATA);
        client.talk("> .\n250 2.0.0\n> QUIT\n221");
        client.expect_end();
        assert_eq!(files_left(receiver), 1);
        assert!(!path.exists());
    }
}
