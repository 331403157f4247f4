//! A server for measurements and for staged failures. It takes mail as fast as it comes, can delay its replies, and
//! fails wherever a test tells it to.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io, thread};

pub use dialogue::Dialogue;
pub use process::{PeerProcess, Serving};
use tokio::net::TcpListener;

mod dialogue;
mod process;

/// Octets that the server reads at a time.
const READ: usize = 64 * 1024;

/// Connections that may wait for an accept, because thousands may come at a time.
const BACKLOG: u32 = 4096;

/// The settings of the server.
#[derive(Clone)]
pub struct Options {
    /// The delay of each batch of replies: the round trip time.
    pub delay: Duration,
    /// Whether PIPELINING is offered.
    pub pipelining: bool,
    /// Whether CHUNKING is offered.
    pub chunking: bool,
    /// What happens to commands that arrive in one piece with the end of the data.
    pub behind_data: BehindData,
    /// Whether messages are kept for [`Peer::messages`].
    pub keep: bool,
    /// Decides what to do at each point.
    pub act: Arc<dyn Fn(&Moment<'_>) -> Act + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            pipelining: true,
            chunking: false,
            behind_data: BehindData::Taken,
            keep: true,
            act: Arc::new(|_| Act::Accept),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("delay", &self.delay)
            .finish_non_exhaustive()
    }
}

/// How real servers treat commands after the end of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BehindData {
    /// They are executed.
    Taken,
    /// Each is answered 503.
    Refused,
    /// They are lost.
    Lost,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The connection, from 0 in the order of arrival.
    pub connection: u64,
    /// The message on this connection, from 0.
    pub message: u64,
    /// The command, or `.` for the end of the data.
    pub command: &'a str,
}

/// The server's action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The usual reply.
    Accept,
    /// This reply instead, with its line end.
    Reply(&'static str),
    /// Closes without a reply.
    Cut,
    /// Closes with this reply.
    ReplyAndCut(&'static str),
}

/// Starts a server on a port of 127.0.0.1 that only knows a greeting and an answer to EHLO. An empty one closes the
/// connection. It runs until the process ends.
///
/// # Errors
/// A socket cannot be made.
pub fn greeter(greeting: &'static str, hello: &'static str) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let serve = move |mut stream: std::net::TcpStream| -> io::Result<()> {
        stream.write_all(greeting.as_bytes())?;
        let mut lines = io::BufReader::new(stream.try_clone()?).lines();
        if greeting.is_empty() || lines.next().transpose()?.is_none() || hello.is_empty() {
            return Ok(());
        }
        stream.write_all(hello.as_bytes())?;
        lines.next().transpose().map(drop)
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that has gone is not a failure.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    Ok(address)
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The lines MAIL and RCPT.
    pub envelope: Vec<String>,
    /// Without the dots that the client added.
    pub body: Vec<u8>,
}

/// A running server. Dropping it ends it.
pub struct Peer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    options: Options,
    connections: AtomicU64,
    arrived: AtomicU64,
    messages: Mutex<Vec<Arrived>>,
}

impl Shared {
    fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            options,
            connections: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            messages: Mutex::default(),
        })
    }
}

impl Peer {
    /// Starts a server on a loopback port, in its own thread.
    ///
    /// # Errors
    /// A port or a thread is missing.
    pub fn start(options: Options) -> io::Result<Self> {
        let shared = Shared::new(options);
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let state = shared.clone();
        let thread = thread::Builder::new().name("peer".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else {
                    return;
                };
                tokio::select! {
                    () = accept(listener, state) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Its address, in the form for `connect`.
    pub fn server(&self) -> String {
        self.address.to_string()
    }

    /// How many messages have arrived.
    pub fn arrived(&self) -> u64 {
        self.shared.arrived.load(Ordering::Relaxed)
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The messages that have arrived, in order.
    pub fn messages(&self) -> Vec<Arrived> {
        self.shared
            .messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.address)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let dialogue = Dialogue::with(shared.clone());
        // A client may go away.
        tokio::spawn(async move { dialogue.serve(stream).await.ok() });
    }
}
