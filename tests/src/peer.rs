//! A server for measurements and for staged failures: it takes mail as fast as it comes, holds its replies
//! back by a set time, and does at any point what a test tells it to.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::process::{self, Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Octets that the peer reads at a time.
const READ: usize = 64 * 1024;

/// Connections that may wait to be accepted, where thousands come at a time.
const BACKLOG: u32 = 4096;

/// What the peer is like.
#[derive(Clone)]
pub struct Options {
    /// How long each batch of replies is held back: the round trip time.
    pub delay: Duration,
    /// Whether PIPELINING is offered.
    pub pipelining: bool,
    /// Whether CHUNKING is offered.
    pub chunking: bool,
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

/// Starts a server on a port of 127.0.0.1 that has a greeting and an answer to EHLO, and knows no other command. An
/// empty one closes the connection. It runs until the process ends.
///
/// # Errors
/// No socket.
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
            // A client that is gone is no failure.
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
    /// Starts a peer on a loopback port, in a thread of its own.
    ///
    /// # Errors
    /// There is no port, or no thread.
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
        // A client that goes away is a client's right.
        tokio::spawn(async move { dialogue.serve(stream).await.ok() });
    }
}

/// The peer's side of one connection without the connection: octets in, replies out.
pub struct Dialogue {
    shared: Arc<Shared>,
    connection: u64,
    message: u64,
    envelope: Vec<String>,
    /// MAIL and RCPTs that were accepted.
    accepted: usize,
    /// The front of a command line whose end has not come yet.
    line: Vec<u8>,
    body: Option<Body>,
    /// The chunk that is arriving, and what came of the body in chunks before, where it is to be kept.
    chunk: Option<Chunk>,
    chunks: Vec<u8>,
}

/// A chunk that is arriving.
struct Chunk {
    left: usize,
    last: bool,
}

impl Dialogue {
    /// A connection of a peer that has no other one.
    pub fn new(options: Options) -> Self {
        Self::with(Shared::new(options))
    }

    fn with(shared: Arc<Shared>) -> Self {
        let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
        let (envelope, line) = (Vec::new(), Vec::new());
        let (body, chunk, chunks) = (None, None, Vec::new());
        Self {
            shared,
            connection,
            message: 0,
            envelope,
            accepted: 0,
            line,
            body,
            chunk,
            chunks,
        }
    }

    async fn serve(mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut input, mut out) = (Vec::with_capacity(READ), Vec::new());
        let mut open = self.greet(&mut out);
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
            while input.len() < READ && matches!(stream.try_read_buf(&mut input), Ok(1..)) {}
            open = self.take(&input, &mut out);
            input.clear();
        }
    }

    /// The same in a thread of its own, without a runtime: the least that a server can cost.
    fn serve_blocking(mut self, mut stream: std::net::TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut input, mut out) = (vec![0; READ], Vec::new());
        let mut open = self.greet(&mut out);
        loop {
            if !out.is_empty() {
                thread::sleep(self.shared.options.delay);
                stream.write_all(&out)?;
                out.clear();
            }
            if !open {
                return Ok(());
            }
            match stream.read(&mut input)? {
                0 => return Ok(()),
                n => open = self.take(&input[..n], &mut out),
            }
        }
    }

    /// Says hello. Returns whether the connection stays open.
    pub fn greet(&mut self, out: &mut Vec<u8>) -> bool {
        self.answer("greeting", "220 peer\r\n", out)
    }

    /// Takes a batch of what a client says. Returns whether the connection stays open.
    pub fn take(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> bool {
        let mut behind_data = false;
        loop {
            if let Some(mut body) = self.body.take() {
                let Some(used) = body.take(input) else {
                    self.body = Some(body);
                    return true;
                };
                input = &input[used..];
                if !self.end_of_data(body.kept.as_deref().map(unstuffed), out) {
                    return false;
                }
                behind_data = true;
            }
            if let Some(chunk) = &mut self.chunk {
                let (taken, rest) = input.split_at(chunk.left.min(input.len()));
                input = rest;
                chunk.left -= taken.len();
                if self.shared.options.keep {
                    self.chunks.extend_from_slice(taken);
                }
                if chunk.left > 0 {
                    return true;
                }
                let (last, refused) = (chunk.last, self.accepted < 2);
                self.chunk = None;
                if refused {
                    out.extend_from_slice(b"503 5.5.1 no valid recipients\r\n");
                } else if !last {
                    out.extend_from_slice(b"250 2.0.0 Ok\r\n");
                } else {
                    let body = std::mem::take(&mut self.chunks);
                    if !self.end_of_data(self.shared.options.keep.then_some(body), out) {
                        return false;
                    }
                    behind_data = true;
                }
            }
            if behind_data && self.shared.options.behind_data == BehindData::Lost {
                return true;
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                self.line.extend_from_slice(input);
                return true;
            };
            let (line, rest) = input.split_at(end + 1);
            input = rest;
            let open = if self.line.is_empty() {
                self.command(line, behind_data, out)
            } else {
                let line = [&std::mem::take(&mut self.line), line].concat();
                self.command(&line, behind_data, out)
            };
            if !open {
                return false;
            }
        }
    }

    fn command(&mut self, line: &[u8], behind_data: bool, out: &mut Vec<u8>) -> bool {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        if behind_data && self.shared.options.behind_data == BehindData::Refused {
            out.extend_from_slice(b"503 bad sequence of commands\r\n");
            return true;
        }
        match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => {
                let options = &self.shared.options;
                let pipelining = if options.pipelining {
                    "250-PIPELINING\r\n"
                } else {
                    ""
                };
                let chunking = if options.chunking {
                    "250-CHUNKING\r\n"
                } else {
                    ""
                };
                let reply =
                    format!("250-peer\r\n{pipelining}{chunking}250-8BITMIME\r\n250 SIZE\r\n");
                out.extend_from_slice(reply.as_bytes());
            }
            "BDAT" if self.shared.options.chunking => {
                let mut words = line.split(' ').skip(1);
                let left = words
                    .next()
                    .and_then(|octets| octets.parse().ok())
                    .unwrap_or_default();
                self.chunk = Some(Chunk {
                    left,
                    last: words.next() == Some("LAST"),
                });
            }
            "RCPT" if self.accepted == 0 => out.extend_from_slice(b"503 5.5.1 MAIL first\r\n"),
            "MAIL" | "RCPT" => {
                let before = out.len();
                if !self.answer(line, "250 2.1.0 Ok\r\n", out) {
                    return false;
                }
                if out[before..].starts_with(b"2") {
                    self.accepted += 1;
                    if self.shared.options.keep {
                        self.envelope.push(line.to_owned());
                    }
                }
            }
            "DATA" if self.accepted < 2 => {
                self.message += 1;
                out.extend_from_slice(b"554 5.5.1 no valid recipients\r\n");
            }
            "DATA" => {
                let before = out.len();
                if !self.answer(line, "354 go on\r\n", out) {
                    return false;
                }
                self.body = out[before..]
                    .starts_with(b"3")
                    .then(|| Body::new(self.shared.options.keep));
            }
            "RSET" => {
                self.accepted = 0;
                self.envelope.clear();
                self.chunks.clear();
                out.extend_from_slice(b"250 2.0.0 Ok\r\n");
            }
            "QUIT" => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                return false;
            }
            _ => out.extend_from_slice(b"500 5.5.1 what?\r\n"),
        }
        true
    }

    fn end_of_data(&mut self, body: Option<Vec<u8>>, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let open = self.answer(".", "250 2.0.0 Ok: queued\r\n", out);
        let envelope = std::mem::take(&mut self.envelope);
        self.accepted = 0;
        self.message += 1;
        // One whose reply is cut off was taken all the same: that is what in doubt means.
        if out.len() == before || out[before..].starts_with(b"2") {
            self.shared.arrived.fetch_add(1, Ordering::Relaxed);
            if let Some(body) = body {
                let mut messages = self
                    .shared
                    .messages
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                messages.push(Arrived { envelope, body });
            }
        }
        open
    }

    fn answer(&self, command: &str, usual: &str, out: &mut Vec<u8>) -> bool {
        let moment = Moment {
            connection: self.connection,
            message: self.message,
            command,
        };
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

impl fmt::Debug for Dialogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialogue")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// A body that is arriving. Each of its octets is looked at once, however it is cut.
struct Body {
    /// The last octets so far: the end of the data may have begun in them.
    tail: [u8; SEAM],
    /// What has come, where it is to be kept.
    kept: Option<Vec<u8>>,
}

/// What ends the data.
const END: &[u8] = b"\r\n.\r\n";

/// The most octets of it that can lie on one side of a cut.
const SEAM: usize = END.len() - 1;

impl Body {
    fn new(keep: bool) -> Self {
        // A dot at the very beginning stands at the start of a line.
        Self {
            tail: *b"  \r\n",
            kept: keep.then(Vec::new),
        }
    }

    /// Takes octets. Returns how many there were up to the end of the data, if that is among them.
    fn take(&mut self, input: &[u8]) -> Option<usize> {
        let mut seam = [0; 2 * SEAM];
        let front = input.len().min(SEAM);
        seam[..SEAM].copy_from_slice(&self.tail);
        seam[SEAM..SEAM + front].copy_from_slice(&input[..front]);
        let end = match memchr::memmem::find(&seam, END) {
            Some(at) => Some(at + END.len() - SEAM),
            None => memchr::memmem::find(input, END).map(|at| at + END.len()),
        };
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&input[..end.unwrap_or(input.len())]);
            if end.is_some() {
                // The CRLF before the dot belongs to the message.
                kept.truncate(kept.len() - b".\r\n".len());
            }
        }
        let last = if input.len() < SEAM {
            &seam[front..SEAM + front]
        } else {
            &input[input.len() - SEAM..]
        };
        self.tail.copy_from_slice(last);
        end
    }
}

fn unstuffed(octets: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|&b| b == b'\n') {
        body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    body
}

/// A peer in a process of its own, so that time, memory and system calls measured here are the
/// client's alone, and file descriptors are not shared with it.
#[derive(Debug)]
pub struct PeerProcess {
    server: String,
    child: Child,
}

/// Names the kind of peer to the process that is to be one.
const KIND: &str = "SMTP_TESTS_PEER";

/// Stands before the address in what that process prints.
const ANNOUNCEMENT: &str = "the peer listens on ";

impl PeerProcess {
    /// Runs this program once more, with these arguments, by which it must come to
    /// [`serve_if_asked`](Self::serve_if_asked). The peer accepts everything and keeps nothing.
    ///
    /// # Errors
    /// There is no process, or it is no peer.
    pub fn start(arguments: &[&str], delay: Duration, serving: Serving) -> io::Result<Self> {
        let mut child = process::Command::new(std::env::current_exe()?)
            .args(arguments)
            .env(KIND, format!("{serving:?} {}", delay.as_micros()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output =
            io::BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let server =
            output.find_map(|line| Some(line.ok()?.split_once(ANNOUNCEMENT)?.1.to_owned()));
        // Whatever else it has to say is not to stop it.
        thread::spawn(move || output.count());
        match server {
            Some(server) => Ok(Self { server, child }),
            None => Err(io::Error::other("the peer's process said no address")),
        }
    }

    /// Serves until the process that started this one is gone, if it did so to have a peer. To be called
    /// first thing.
    pub fn serve_if_asked() {
        let Ok(kind) = std::env::var(KIND) else {
            return;
        };
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            process::exit(0);
        });
        serve(&kind).expect("a peer can be run");
        process::exit(0);
    }

    /// Where it listens, as connectors want it.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a [`PeerProcess`] serves its connections with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// A thread for each, and blocking reads and writes: the fastest for a few.
    Threads,
    /// Tasks of a runtime, for many.
    Tasks,
}

fn serve(kind: &str) -> io::Result<()> {
    let (serving, delay) = kind.split_once(' ').ok_or(io::ErrorKind::InvalidInput)?;
    let delay = Duration::from_micros(delay.parse().map_err(io::Error::other)?);
    let shared = Shared::new(Options {
        delay,
        chunking: true,
        keep: false,
        ..Options::default()
    });
    let announce = |address: SocketAddr| println!("{ANNOUNCEMENT}{address}");
    if serving == format!("{:?}", Serving::Threads) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        announce(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept()?;
            let dialogue = Dialogue::with(shared.clone());
            thread::spawn(move || dialogue.serve_blocking(stream));
        }
    }
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            let listener = socket.listen(BACKLOG)?;
            announce(listener.local_addr()?);
            accept(listener, shared).await;
            Ok(())
        })
}
