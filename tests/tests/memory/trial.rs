//! One session in memory, with its server, its caller and its transport. Its heap is read after every call.

use std::alloc::System;
use std::mem;
use std::sync::Arc;

use smtp_proto::{Config, Connection, Envelope, Event, Instant, Limits, Request, auth::Nonce};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

pub(crate) const NOW: Instant = Instant::from_origin(std::time::Duration::ZERO);
const BODY: &[u8] = b"Subject: memory\r\n\r\n.\r\n";

/// The formula's part for domains. A session only uses it if the server states a limit of domains.
const DOMAINS: usize = 2 * 256 * (255 + 96);

fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

// The server.

/// A command that the server has received.
#[derive(Clone, Copy)]
pub(crate) enum Heard<'a> {
    Connected,
    Line(&'a [u8]),
    EndOfData,
    Chunk,
}

/// The kind of the next octets.
#[derive(Clone, Copy)]
enum Listening {
    Commands,
    Data,
    Chunk(usize),
}

/// The engine, and the server's replies, which arrive at once.
pub(crate) struct Line {
    pub(crate) engine: Connection,
    base: usize,
    pub(crate) peak: usize,
    /// The longest reply that the limits allow.
    pub(crate) longest: Vec<u8>,
    number: usize,
    last_code: u16,
    /// This many octets arrive at a time.
    pub(crate) cut: usize,
}

impl Line {
    pub(crate) fn sample(&mut self) {
        self.peak = self.peak.max(live() - self.base);
    }

    pub(crate) fn say(&mut self, reply: &[u8]) {
        self.last_code = std::str::from_utf8(&reply[..3]).unwrap().parse().unwrap();
        for piece in reply.chunks(self.cut) {
            self.engine.handle_input(NOW, piece);
            self.sample();
        }
    }

    /// The longest reply that the limits allow, each time a different one.
    pub(crate) fn say_longest(&mut self, code: u16) {
        let mut reply = mem::take(&mut self.longest);
        let digits = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8);
        if reply[..3] != digits {
            for line in reply.split_inclusive_mut(|&octet| octet == b'\n') {
                line[..3].copy_from_slice(&digits);
            }
        }
        self.number += 1;
        let mut rest = self.number;
        for digit in reply[4..12].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        self.say(&reply);
        self.longest = reply;
    }
}

/// A reply with as much text as the limits allow, in lines of at most this many octets.
pub(crate) fn longest(limits: &Limits, width: usize) -> Vec<u8> {
    let width = width.min(limits.reply.line - "250 \r\n".len());
    let (mut reply, mut left, mut lines) = (Vec::new(), limits.reply.octets, 0);
    while left > 0 && lines < limits.reply.lines {
        let text = left.min(width);
        lines += 1;
        let is_last = left <= width + 1 || lines == limits.reply.lines;
        reply.extend_from_slice(if is_last { b"250 " } else { b"250-" });
        reply.resize(reply.len() + text, b'x');
        reply.extend_from_slice(b"\r\n");
        left = left.saturating_sub(text + 1);
        if is_last {
            break;
        }
    }
    reply
}

/// A server that accepts everything, with this offer.
pub(crate) fn oblige(heard: Heard<'_>, ehlo: &[u8], line: &mut Line) {
    match heard {
        Heard::Connected => line.say(b"220 mx\r\n"),
        Heard::Line(said) if said.starts_with(b"EHLO") || said.starts_with(b"LHLO") => {
            line.say(ehlo);
        }
        Heard::Line(b"DATA") => line.say(b"354 go on\r\n"),
        Heard::Line(said) if said.starts_with(b"BDAT") => {}
        Heard::Line(b"QUIT") => {}
        Heard::Line(_) | Heard::EndOfData | Heard::Chunk => line.say(b"250 ok\r\n"),
    }
}

pub(crate) const PIPELINING: &[u8] = b"250-mx\r\n250 PIPELINING\r\n";
pub(crate) const CHUNKING: &[u8] = b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n";

// The caller.

/// One session, its caller and its transport.
pub(crate) struct Trial {
    name: String,
    config: Arc<Config>,
    pub(crate) line: Line,
    wire: Vec<u8>,
    listening: Listening,
    greeted: bool,
    pub(crate) body: &'static [u8],
    pub(crate) rest: &'static [u8],
    pub(crate) polls: bool,
    /// The server states RCPTDOMAINMAX.
    pub(crate) domains: bool,
    /// This many octets are taken at a time.
    pub(crate) take: usize,
    /// The number of waiting messages and unpolled results, and the heap of the envelopes.
    messages: usize,
    recipients: usize,
    own: usize,
}

/// A case, its peak and its bound.
pub(crate) struct Row(pub(crate) String, pub(crate) usize, pub(crate) usize);

impl Trial {
    pub(crate) fn new(name: &str, config: Config) -> Self {
        let config = Arc::new(config);
        let longest = longest(&config.limits, usize::MAX);
        let name = name.to_owned();
        let wire = Vec::with_capacity(1 << 20);
        let base = live();
        let nonce = Nonce::from_octets([7; 18]);
        let engine = Connection::with_nonce(config.clone(), NOW, nonce);
        let line = Line {
            engine,
            base,
            peak: 0,
            longest,
            number: 0,
            last_code: 0,
            cut: usize::MAX,
        };
        Self {
            name,
            config,
            line,
            wire,
            listening: Listening::Commands,
            greeted: false,
            body: BODY,
            rest: BODY,
            polls: false,
            domains: false,
            take: usize::MAX,
            messages: 0,
            recipients: 0,
            own: 0,
        }
    }

    pub(crate) fn submit(&mut self, make: impl FnOnce() -> Envelope) -> bool {
        let before = live();
        let envelope = make();
        let (own, recipients) = (live() - before, envelope.forward_paths().len());
        let result = self.line.engine.submit(envelope);
        self.line.sample();
        self.count(result.is_ok(), recipients, own)
    }

    pub(crate) fn request(&mut self, make: impl FnOnce() -> Request) -> bool {
        let before = live();
        let request = make();
        let own = live() - before;
        let result = self.line.engine.request(request);
        self.line.sample();
        self.count(result.is_ok(), 0, own)
    }

    fn count(&mut self, taken: bool, recipients: usize, own: usize) -> bool {
        if taken {
            self.messages += 1;
            self.recipients += recipients;
            self.own += own;
        }
        taken
    }

    /// Runs until nothing more happens.
    pub(crate) fn run(&mut self, server: &mut dyn FnMut(Heard<'_>, &mut Line)) -> &mut Self {
        if !mem::replace(&mut self.greeted, true) {
            server(Heard::Connected, &mut self.line);
        }
        loop {
            let mut is_quiet = true;
            while self.wire.len() < 1 << 18
                && let Some(transmit) = self.line.engine.poll_transmit(NOW, self.rest)
            {
                let mut left = self.take;
                for part in transmit.parts() {
                    let part = &part[..part.len().min(left)];
                    self.wire.extend_from_slice(part);
                    left -= part.len();
                }
                self.rest = &self.rest[transmit.advance(self.take)..];
                self.line.sample();
                is_quiet = false;
            }
            is_quiet &= !self.hear(server);
            if self.line.engine.wants_body() && self.rest.is_empty() {
                self.line.engine.finish_body().unwrap();
                self.line.sample();
                self.rest = self.body;
                is_quiet = false;
            }
            // A caller that polls as seldom as possible must still poll when a body is waited for.
            while (self.polls || (is_quiet && !self.line.engine.is_idle()))
                && !self.line.engine.is_closed()
                && let Some(event) = self.line.engine.poll_event()
            {
                self.line.sample();
                if event == Event::StartTls {
                    self.line.engine.handle_tls_established(NOW).unwrap();
                }
                is_quiet = false;
            }
            if is_quiet {
                assert!(
                    self.wire.capacity() == 1 << 20,
                    "this buffer is not counted"
                );
                return self;
            }
        }
    }

    /// Gives the server what was written. Returns whether there was anything.
    fn hear(&mut self, server: &mut dyn FnMut(Heard<'_>, &mut Line)) -> bool {
        let mut wire = mem::take(&mut self.wire);
        let mut at = 0;
        loop {
            if let Listening::Chunk(octets) = self.listening {
                if wire.len() - at < octets {
                    break;
                }
                at += octets;
                self.listening = Listening::Commands;
                server(Heard::Chunk, &mut self.line);
                continue;
            }
            let Some(end) = memchr::memmem::find(&wire[at..], b"\r\n") else {
                break;
            };
            let said = &wire[at..at + end];
            at += end + 2;
            match self.listening {
                Listening::Data if said == b"." => {
                    self.listening = Listening::Commands;
                    server(Heard::EndOfData, &mut self.line);
                }
                Listening::Data | Listening::Chunk(_) => {}
                Listening::Commands => {
                    server(Heard::Line(said), &mut self.line);
                    if said == b"DATA" && self.line.last_code == 354 {
                        self.listening = Listening::Data;
                    }
                    if let Some(size) = said.strip_prefix(b"BDAT ") {
                        let size = std::str::from_utf8(size).unwrap();
                        let octets = size.trim_end_matches(" LAST").parse().unwrap();
                        self.listening = Listening::Chunk(octets);
                    }
                }
            }
        }
        wire.drain(..at);
        self.wire = wire;
        at > 0
    }

    pub(crate) fn row(&self) -> Row {
        let mut bound = self.config.max_heap(self.messages, self.recipients) + self.own;
        if !self.domains {
            bound -= DOMAINS;
        }
        Row(self.name.clone(), self.line.peak, bound)
    }

    /// What the session holds now.
    pub(crate) fn heap(&self) -> usize {
        live() - self.line.base
    }
}
