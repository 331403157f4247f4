//! A receiving SMTP (or LMTP) server for tests, over loopback sockets or in memory.
//!
//! It implements RFC 5321 with STARTTLS, AUTH and the usual extensions, and keeps every accepted message in memory.
//! It never relays. It accepts any recipient, except local parts that begin with `refused` (550), `greylisted` (450)
//! or `full` (452). If each recipient gets a reply after the data, `filtered` is refused there (550).
//!
//! ```
//! use smtp_blocking::{Envelope, Session};
//! use smtp_tests::receiver::{Receiver, Step};
//!
//! let receiver = Receiver::new();
//! receiver.on(Step::Rcpt).with("carol@").reply("550 5.1.1 carol has left");
//!
//! let mut session = Session::connect(&receiver.server())?;
//! let envelope = Envelope::new("alice@example.org", ["bob@example.net", "carol@example.net"])?;
//! let report = session.send_last(envelope, &b"Subject: hello\r\n\r\nHello.\r\n"[..])?;
//!
//! assert_eq!(report.failures().count(), 1);
//! let taken = receiver.messages().remove(0);
//! assert_eq!(taken.forward_paths, ["bob@example.net"]);
//! assert_eq!(taken.content(), b"Subject: hello\r\n\r\nHello.\r\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The stub
//!
//! [`Receiver::stub`] is the same server without a socket. [`Receiver::stream`] opens a connection to it, for
//! `Session::connect_over` of either adapter.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use smtp_tests::receiver::Receiver;
//! use smtp_tokio::{Envelope, Session};
//!
//! let stub = Receiver::stub();
//! let mut session = Session::connect_over(&stub.server(), stub.stream()).await?;
//! let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
//! session.send(envelope, &b"Subject: hello\r\n\r\nHello.\r\n"[..]).await?;
//! assert_eq!(stub.messages()[0].forward_paths, ["bob@example.net"]);
//! # Ok(())
//! # }
//! ```

mod books;
mod certificate;
mod data;
mod incoming;
mod listener;
mod login;
mod memory;
mod options;
mod rules;
mod session;
mod syntax;
#[cfg(test)]
mod tests;
mod transaction;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use smtp_adapter::Server;
use smtp_proto::{Credentials, TlsPolicy};
use tempfile::TempDir;

pub use books::{Counts, HeardCommand, StoredMessage};
pub use certificate::make_client_certificate;
pub use memory::Stream;
pub use options::{Limits, Options};
pub use rules::{Rule, Step};

use books::State;
use certificate::make_certificate;
use listener::Listener;
use rules::StoredRule;

/// A running server. Dropping it closes all connections, ends all its threads, and removes its files.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    certificate: String,
    listener: Option<Listener>,
    /// The folder for messages and a Unix socket. It is dropped last.
    folder: Option<TempDir>,
}

/// The state that a server's threads share.
#[derive(Debug)]
struct Shared {
    options: Options,
    tls: Arc<ServerConfig>,
    /// The SHA-256 hash of the certificate, which is signed with SHA-256 too.
    certificate_hash: [u8; 32],
    /// Where messages are stored, if not in memory.
    folder: Option<PathBuf>,
    numbers: AtomicU64,
    rules: Mutex<Vec<StoredRule>>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

/// Starting a server, and its address for a client.
impl Receiver {
    /// Starts a server with the default options on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// The certificate or the socket cannot be made.
    #[must_use]
    pub fn new() -> Self {
        Self::start(Options::default()).expect("a server on the loopback interface")
    }

    /// Starts a server on a free port of 127.0.0.1, or on a Unix socket.
    ///
    /// # Errors
    /// The certificate, the folder or the socket cannot be made.
    pub fn start(options: Options) -> io::Result<Self> {
        let mut receiver = Self::prepare(options)?;
        receiver.listener = Some(Listener::start(&receiver.shared, receiver.socket_path())?);
        Ok(receiver)
    }

    /// A server without a socket and without STARTTLS. [`stream`](Self::stream) connects to it.
    ///
    /// # Panics
    /// The certificate cannot be made.
    #[must_use]
    pub fn stub() -> Self {
        let options = Options {
            starttls: false,
            ..Options::default()
        };
        Self::stub_with(options).expect("a server in memory")
    }

    /// A server without a socket, with these options.
    ///
    /// # Errors
    /// The certificate or the folder cannot be made.
    pub fn stub_with(options: Options) -> io::Result<Self> {
        Self::prepare(Options {
            unix: false,
            ..options
        })
    }

    fn prepare(options: Options) -> io::Result<Self> {
        let (certificate, tls) = make_certificate(&options).map_err(io::Error::other)?;
        let folder = match options.unix || options.files {
            true => Some(tempfile::Builder::new().prefix("receiver-").tempdir()?),
            false => None,
        };
        let messages = folder.as_ref().filter(|_| options.files);
        let shared = Shared {
            tls,
            certificate_hash: Sha256::digest(certificate.der()).into(),
            folder: messages.map(|folder| folder.path().to_owned()),
            numbers: AtomicU64::new(0),
            rules: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            options,
        };
        Ok(Self {
            shared: Arc::new(shared),
            certificate: certificate.pem(),
            listener: None,
            folder,
        })
    }

    /// How to reach it, for either adapter: its address, its certificate as trusted, and its user and password.
    ///
    /// # Panics
    /// Never: the certificate is valid.
    #[must_use]
    pub fn server(&self) -> Server {
        let options = &self.shared.options;
        let server = match (self.socket_path(), &self.listener) {
            (Some(path), _) => Server::unix(path),
            (None, Some(_)) => Server::new(self.local_addr().to_string()),
            (None, None) => Server::new(&options.hostname),
        };
        let trusted = server.trust_pem(self.certificate.as_bytes());
        let mut server = trusted.expect("its certificate is one");
        if options.lmtp {
            server = server.lmtp();
        }
        if options.implicit_tls {
            server = server.tls(TlsPolicy::Implicit);
        }
        let Some((user, password)) = &options.auth else {
            return server;
        };
        let credentials = match options.auth_by_token {
            true => Credentials::token(user, password),
            false => Credentials::password(user, password),
        };
        server.credentials(match options.auth_in_clear {
            true => credentials.permit_in_clear(),
            false => credentials,
        })
    }

    /// Opens a connection in memory. When it returns, the server has sent its greeting.
    ///
    /// # Panics
    /// A thread cannot be started.
    #[must_use]
    pub fn stream(&self) -> Stream {
        let (stream, server) = memory::connection();
        listener::serve(&self.shared, Box::new(server)).expect("a thread for the session");
        stream.settle();
        stream
    }

    /// The address to connect to.
    ///
    /// # Panics
    /// It listens on a Unix socket, or has no socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let address = self.listener.as_ref().and_then(Listener::address);
        address.expect("it listens on a TCP port")
    }

    /// Its Unix socket, if it has one.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref().filter(|_| self.shared.options.unix);
        folder.map(|folder| folder.path().join("socket"))
    }

    /// The folder of its message files, if it has one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.shared.folder.as_deref()
    }

    /// The self-signed certificate, for a client's CA file. It names the host name, `localhost` and 127.0.0.1.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }
}

/// Instructions while it runs.
impl Receiver {
    /// Adds a rule for this step, in this session and later ones.
    ///
    /// ```
    /// use std::time::Duration;
    /// use smtp_tests::receiver::{Receiver, Step};
    ///
    /// let receiver = Receiver::new();
    /// receiver.on(Step::Mail).with("mallory@").reply("550 5.7.1 not from you");
    /// receiver.on(Step::EndOfData).with("lottery").reply("554 5.7.1 this is spam");
    /// receiver.on(Step::Rcpt).delay(Duration::from_millis(50));
    /// receiver.on(Step::EndOfData).after(2).once().cut_unanswered();
    /// receiver.on(Step::Body).cut_after_octets(1_000);
    /// receiver.on(Step::Hello).reply("250-mx.example.net\n250 SIZE 1000");
    /// ```
    pub fn on(&self, step: Step) -> Rule<'_> {
        Rule::new(&self.shared, step)
    }

    /// Forgets all rules.
    pub fn forget_rules(&self) {
        let rules = self.shared.rules.lock();
        rules.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Changes the valid password or token.
    pub fn set_password(&self, password: &str) {
        self.shared
            .note(|state| state.password = Some(password.to_owned()));
    }

    /// Closes every open connection, as a server does with idle ones.
    pub fn cut_connections(&self) {
        self.shared.cut_all();
    }
}

/// Its records.
impl Receiver {
    /// The messages accepted so far, in order. Each is listed before its 250 is sent.
    #[must_use]
    pub fn messages(&self) -> Vec<StoredMessage> {
        self.shared.lock().messages.clone()
    }

    /// The commands so far, in order.
    #[must_use]
    pub fn commands(&self) -> Vec<HeardCommand> {
        self.shared.lock().commands.clone()
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts()
    }

    /// Waits until at least `n` messages were accepted, or the time is over. Returns the messages.
    #[must_use]
    pub fn wait_for_messages(&self, n: usize, timeout: Duration) -> Vec<StoredMessage> {
        self.shared.wait(timeout, |state| state.messages.len() >= n);
        self.messages()
    }

    /// Waits until this holds, or the time is over. Returns whether it holds.
    ///
    /// Before the books are compared with reports, wait until all sessions have ended:
    ///
    /// ```
    /// use std::time::Duration;
    /// # let receiver = smtp_tests::receiver::Receiver::new();
    /// assert!(receiver.wait_until(Duration::from_secs(5), |counts| counts.ended == counts.sessions));
    /// ```
    #[must_use]
    pub fn wait_until(&self, timeout: Duration, mut holds: impl FnMut(&Counts) -> bool) -> bool {
        self.shared.wait(timeout, |state| holds(&state.counts()))
    }

    /// Waits up to five seconds for the message with this index, and returns its content.
    ///
    /// # Panics
    /// It did not arrive.
    #[must_use]
    pub fn stored(&self, index: usize) -> Vec<u8> {
        let messages = self.wait_for_messages(index + 1, Duration::from_secs(5));
        let message = messages
            .get(index)
            .expect("it has come within five seconds");
        message.content()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.note(|state| state.stopping = true);
        self.shared.cut_all();
        if let Some(listener) = &mut self.listener {
            listener.stop();
        }
    }
}
