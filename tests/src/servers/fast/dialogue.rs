//! One session of the server, without its socket.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::{fmt, io, thread};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Act, Arrived, BehindData, Moment, Options, READ, Shared};

/// The server's side of one connection: octets in, replies out.
pub struct Dialogue {
    shared: Arc<Shared>,
    connection: u64,
    message: u64,
    envelope: Vec<String>,
    /// Accepted MAIL and RCPTs.
    accepted: usize,
    /// An unfinished command line.
    line: Vec<u8>,
    body: Option<Body>,
    /// The chunk that is arriving, and the body of the chunks before, if it is kept.
    chunk: Option<Chunk>,
    chunks: Vec<u8>,
}

/// A chunk that is arriving.
struct Chunk {
    left: usize,
    last: bool,
}

impl Dialogue {
    /// The first connection of a server.
    pub fn new(options: Options) -> Self {
        Self::with(Shared::new(options))
    }

    pub(super) fn with(shared: Arc<Shared>) -> Self {
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

    pub(super) async fn serve(mut self, mut stream: TcpStream) -> io::Result<()> {
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
            // Octets that are already here belong to the same batch.
            while input.len() < READ && matches!(stream.try_read_buf(&mut input), Ok(1..)) {}
            open = self.take(&input, &mut out);
            input.clear();
        }
    }

    /// The same in its own thread, without a runtime: the cheapest server.
    pub(super) fn serve_blocking(mut self, mut stream: std::net::TcpStream) -> io::Result<()> {
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

    /// Sends the greeting. Returns whether the connection stays open.
    pub fn greet(&mut self, out: &mut Vec<u8>) -> bool {
        self.answer("greeting", "220 peer\r\n", out)
    }

    /// Takes a batch of the client's octets. Returns whether the connection stays open.
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
        // A message whose reply is cut off was accepted nevertheless: that is what *in doubt* means.
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

/// A body that is arriving. Each octet is examined once, for every cut.
struct Body {
    /// The last octets so far, in which the end of the data may have begun.
    tail: [u8; SEAM],
    /// The octets so far, if they are kept.
    kept: Option<Vec<u8>>,
}

/// The end of the data.
const END: &[u8] = b"\r\n.\r\n";

/// The most octets of it on one side of a cut.
const SEAM: usize = END.len() - 1;

impl Body {
    fn new(keep: bool) -> Self {
        // A dot at the very beginning is at the start of a line.
        Self {
            tail: *b"  \r\n",
            kept: keep.then(Vec::new),
        }
    }

    /// Takes octets. Returns how many belong to the data, if its end is among them.
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
