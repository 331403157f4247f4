//! A small receiving SMTP (or LMTP) server on the loopback interface, for the
//! example program and the tests.
//!
//! It speaks RFC 5321 over real sockets, with STARTTLS, AUTH and the usual
//! extensions, and stores every message it accepts as one file. It never
//! relays, and accepts any recipient but those whose local part begins with
//! `refused` (550), `greylisted` (450) or `full` (452). Where each recipient is
//! answered for after the data, `filtered` is refused there (550).

mod certificate;
mod data;
mod incoming;
mod login;
mod options;
mod session;
mod syntax;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::{mem, time::Duration};

use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use socket2::{SockAddr, Socket, Type};

pub use certificate::make_client_certificate;
pub use options::{Limits, Options};

use certificate::make_certificate;
use session::Session;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

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
