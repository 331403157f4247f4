//! A server for measurements and for staged failures: it takes mail as fast as it comes, holds its replies
//! back by a set time, and does at any point what a test tells it to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the peer is like.
#[derive(Clone)]
pub struct Options {
    /// How long each batch of replies is held back: the round trip time.
    pub delay: Duration,
    /// Whether PIPELINING is offered.
    pub pipelining: bool,
    /// What becomes of commands that come in one piece with the end of the data.
    pub behind_data: BehindData,
    /// Whether messages are kept for [`Peer::messages`].
    pub keep: bool,
    /// Decides at each point.
    pub act: Arc<dyn Fn(&Moment<'_>) -> Act + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            pipelining: true,
            behind_data: BehindData::Taken,
            keep: true,
            act: Arc::new(|_| Act::Accept),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("delay", &self.delay).finish_non_exhaustive()
    }
}

/// The three ways of real servers with commands behind the end of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BehindData {
    /// They are carried out.
    Taken,
    /// Each is answered 503.
    Refused,
    /// They are lost.
    Lost,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The connection, from 0 in the order of their coming.
    pub connection: u64,
    /// The message on this connection, from 0.
    pub message: u64,
    /// The command, or `.` for the end of the data.
    pub command: &'a str,
}

/// What the peer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The usual reply.
    Accept,
    /// This reply, its line end included, instead.
    Reply(&'static str),
    /// Closes without a reply.
    Cut,
    /// Closes with this reply.
    ReplyAndCut(&'static str),
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The lines MAIL and RCPT.
    pub envelope: Vec<String>,
    /// Without the dots that the client added.
    pub body: Vec<u8>,
}

/// A running peer; it ends when dropped.
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

impl Peer {
    /// Starts a peer on a loopback port, in a thread of its own.
    ///
    /// # Errors
    /// There is no port, or no thread.
    pub fn start(options: Options) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            options,
            connections: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            messages: Mutex::default(),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, as connectors want it.
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
        self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        tokio::spawn(async move {
            // A client that goes away is a client's right.
            let _ = Connection { shared, number, message: 0, envelope: Vec::new() }.serve(stream).await;
        });
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: u64,
    message: u64,
    envelope: Vec<String>,
}

impl Connection {
    async fn serve(mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut out = Vec::new();
        let mut open = self.answer("greeting", "220 peer\r\n", &mut out);
        let mut input = Vec::new();
        // Octets of the body that came before the ones in `input`.
        let mut body: Option<Vec<u8>> = None;
        loop {
            if !out.is_empty() {
                let delay = self.shared.options.delay;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                stream.write_all(&out).await?;
                out.clear();
            }
            if !open || stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
            // What came meanwhile belongs to the same batch.
            while matches!(stream.try_read_buf(&mut input), Ok(1..)) {}
            open = self.take(&mut input, &mut body, &mut out);
        }
    }

    /// Carries out what `input` holds. Returns whether the connection stays open.
    fn take(&mut self, input: &mut Vec<u8>, body: &mut Option<Vec<u8>>, out: &mut Vec<u8>) -> bool {
        let mut behind_data = false;
        loop {
            if let Some(octets) = body {
                octets.append(input);
                let Some(end) = end_of_data(octets) else {
                    return true;
                };
                *input = octets.split_off(end);
                octets.truncate(end - 3);
                let octets = std::mem::take(octets);
                *body = None;
                if !self.end_of_data(octets, out) {
                    return false;
                }
                behind_data = true;
            }
            if behind_data && self.shared.options.behind_data == BehindData::Lost {
                input.clear();
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                return true;
            };
            let line: Vec<u8> = input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if behind_data && self.shared.options.behind_data == BehindData::Refused {
                out.extend_from_slice(b"503 bad sequence of commands\r\n");
                continue;
            }
            match line.split([' ', ':']).next().unwrap_or_default() {
                "EHLO" if self.shared.options.pipelining => {
                    out.extend_from_slice(b"250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n");
                }
                "EHLO" => out.extend_from_slice(b"250-peer\r\n250-8BITMIME\r\n250 SIZE\r\n"),
                "RCPT" if self.envelope.is_empty() => out.extend_from_slice(b"503 5.5.1 MAIL first\r\n"),
                "MAIL" | "RCPT" => {
                    let before = out.len();
                    if !self.answer(&line, "250 2.1.0 Ok\r\n", out) {
                        return false;
                    }
                    if out[before..].starts_with(b"2") {
                        self.envelope.push(line);
                    }
                }
                "DATA" if self.envelope.len() < 2 => {
                    self.message += 1;
                    out.extend_from_slice(b"554 5.5.1 no valid recipients\r\n");
                }
                "DATA" => {
                    let before = out.len();
                    if !self.answer(&line, "354 go on\r\n", out) {
                        return false;
                    }
                    *body = out[before..].starts_with(b"3").then(Vec::new);
                }
                "RSET" => {
                    self.envelope.clear();
                    out.extend_from_slice(b"250 2.0.0 Ok\r\n");
                }
                "QUIT" => {
                    out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                    return false;
                }
                _ => out.extend_from_slice(b"500 5.5.1 what?\r\n"),
            }
        }
    }

    fn end_of_data(&mut self, octets: Vec<u8>, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let open = self.answer(".", "250 2.0.0 Ok: queued\r\n", out);
        let envelope = std::mem::take(&mut self.envelope);
        self.message += 1;
        // One whose reply is cut off was taken all the same: that is what in doubt means.
        if out.len() == before || out[before..].starts_with(b"2") {
            self.shared.arrived.fetch_add(1, Ordering::Relaxed);
            if self.shared.options.keep {
                let body = unstuffed(&octets);
                let mut messages = self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner);
                messages.push(Arrived { envelope, body });
            }
        }
        open
    }

    fn answer(&self, command: &str, usual: &str, out: &mut Vec<u8>) -> bool {
        let moment = Moment { connection: self.number, message: self.message, command };
        let (reply, open) = match (self.shared.options.act)(&moment) {
            Act::Accept => (usual, true),
            Act::Reply(reply) => (reply, true),
            Act::Cut => ("", false),
            Act::ReplyAndCut(reply) => (reply, false),
        };
        out.extend_from_slice(reply.as_bytes());
        open
    }
}

/// Where the data ends, behind its dot and CRLF.
fn end_of_data(octets: &[u8]) -> Option<usize> {
    if octets.starts_with(b".\r\n") {
        return Some(3);
    }
    memchr::memmem::find(octets, b"\r\n.\r\n").map(|at| at + 5)
}

fn unstuffed(octets: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|&b| b == b'\n') {
        body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    body
}
