//! An idle session keeps no buffer, in the engine and in the blocking adapter. The engine's heap returns to its size
//! after opening, whatever the session has done. That of the adapter stays small. The allocator counts.

use std::alloc::System;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use smtp_blocking::{Server, Session, Transport};
use smtp_proto::{
    Chunking, ClientName, Config, Connection, Credentials, Envelope, Instant, Request, TlsPolicy,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NOW: Instant = Instant::from_origin(Duration::ZERO);
/// Longer than an adapter's buffer.
static BODY: [u8; 100_000] = [b'x'; 100_000];
/// The heap of an adapter's session without buffers: the settings, the server's offer, the queue of reports.
const OPEN: usize = 1_024;

fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// A server that reads the wire by itself. It allocates all its memory at the beginning.
struct Peer {
    offer: &'static str,
    line: Vec<u8>,
    said: VecDeque<u8>,
    in_data: bool,
    chunk: usize,
    refuses: bool,
}

impl Peer {
    fn new(offer: &'static str) -> Self {
        let mut said = VecDeque::with_capacity(1 << 14);
        said.extend(b"220 mx\r\n");
        Self {
            offer,
            line: Vec::with_capacity(1 << 18),
            said,
            in_data: false,
            chunk: 0,
            refuses: false,
        }
    }

    fn hear(&mut self, octets: &[u8]) {
        for &octet in octets {
            if self.chunk > 0 {
                self.chunk -= 1;
                if self.chunk == 0 {
                    self.said.extend(b"250 taken\r\n");
                }
                continue;
            }
            self.line.push(octet);
            if octet == b'\n' {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = mem::take(&mut self.line);
        let reply = match &*line {
            b".\r\n" if mem::take(&mut self.in_data) => "250 taken\r\n",
            _ if self.in_data => "",
            [b'E', b'H', ..] => self.offer,
            [b'D', b'A', ..] => {
                self.in_data = true;
                "354 go on\r\n"
            }
            [b'B', b'D', b'A', b'T', b' ', size @ ..] => {
                let digits = size.iter().take_while(|octet| octet.is_ascii_digit());
                self.chunk = digits.fold(0, |sum, digit| 10 * sum + usize::from(digit - b'0'));
                ""
            }
            [b'A', b'U', ..] => "235 welcome\r\n",
            [b'R', b'C', ..] if self.refuses => "550 nobody\r\n",
            [b'V', b'R', ..] => "252-many words\r\n252-and more of them\r\n252 and the last\r\n",
            _ => "250 fine\r\n",
        };
        self.said.extend(reply.as_bytes());
        self.line = line;
        self.line.clear();
    }
}

/// Runs until nothing more happens.
fn run(engine: &mut Connection, peer: &mut Peer) {
    let mut body = &BODY[..];
    loop {
        let said: Vec<u8> = peer.said.drain(..).collect();
        // Half a line at a time, so that the decoder must keep something.
        for piece in said.chunks(5) {
            engine.handle_input(NOW, piece);
        }
        let mut is_quiet = said.is_empty();
        while let Some(transmit) = engine.poll_transmit(NOW, body) {
            let octets = transmit.parts().concat();
            body = &body[transmit.advance(octets.len())..];
            peer.hear(&octets);
            is_quiet = false;
        }
        if engine.wants_body() && body.is_empty() {
            engine.finish_body().unwrap();
            is_quiet = false;
        }
        while engine.poll_event().is_some() {
            is_quiet = false;
        }
        if is_quiet {
            return;
        }
    }
}

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net", "c@example.net"]).unwrap()
}

fn of_the_engine(offer: &'static str, chunking: Chunking) {
    let mut config = Config::new(ClientName::parse("c.example").unwrap());
    (config.tls, config.chunking, config.trace) = (TlsPolicy::Never, chunking, true);
    if offer.contains("AUTH") {
        config.credentials = Some(Credentials::password("alice", "s3cret").permit_in_clear());
    }
    let config = Arc::new(config);
    let mut peer = Peer::new(offer);
    let before = live();
    let mut engine = Connection::new(config.clone(), NOW);
    let heap = |engine: &Connection, what: &str| {
        assert!(engine.is_idle(), "{offer}: {what}");
        // Only the server's offer is kept: its text with its counters, and 48 octets for the trace.
        let text = offer.len() + 24 + 48;
        let octets = live() - before;
        assert!(
            octets <= text,
            "{offer}: {what}: {octets} octets, and {text} at most"
        );
        octets
    };
    run(&mut engine, &mut peer);
    let open = heap(&engine, "open");
    for round in 0..3 {
        engine.submit(envelope()).unwrap();
        run(&mut engine, &mut peer);
        assert_eq!(heap(&engine, "a message"), open, "{offer}, {round}");
        peer.refuses = true;
        engine.submit(envelope()).unwrap();
        engine.submit(envelope()).unwrap();
        run(&mut engine, &mut peer);
        peer.refuses = false;
        assert_eq!(
            heap(&engine, "two refused messages"),
            open,
            "{offer}, {round}"
        );
        for _ in 0..3 {
            engine.request(Request::verify("bob").unwrap()).unwrap();
        }
        run(&mut engine, &mut peer);
        assert_eq!(heap(&engine, "requests"), open, "{offer}, {round}");
    }
    engine.quit().unwrap();
    run(&mut engine, &mut peer);
    engine.handle_eof(NOW);
    run(&mut engine, &mut peer);
    assert!(
        engine.is_closed() && live() - before <= open,
        "{offer}: closed"
    );
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.said.read(buffer)
    }
}

impl Write for Peer {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.hear(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Peer {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

fn of_the_adapter(offer: &'static str, chunking: Chunking) {
    let credentials = Credentials::password("alice", "s3cret").permit_in_clear();
    let server = Server::new("mx").client_name(ClientName::parse("c.example").unwrap());
    let server = server.tls(TlsPolicy::Never).chunking(chunking);
    let server = server.credentials(offer.contains("AUTH").then_some(credentials));
    // Allocations that a process makes once.
    drop(Session::connect_over(&server, Peer::new(offer)).unwrap());
    let peer = Peer::new(offer);
    let before = live();
    let mut session = Session::connect_over(&server, peer).unwrap();
    let check = |what: &str| {
        let octets = live() - before;
        assert!(
            octets <= OPEN,
            "{offer}: {what}: {octets} octets, and {OPEN} at most"
        );
    };
    check("open");
    for _ in 0..3 {
        assert!(session.send(envelope(), &BODY[..]).unwrap().is_success());
        check("a message");
        session.request(Request::verify("bob").unwrap()).unwrap();
        check("a request");
        let messages = (0..3).map(|_| smtp_blocking::Message::new(envelope(), || Ok(&BODY[..])));
        let reports = session.send_all(messages);
        assert_eq!(reports.filter(|report| report.is_success()).count(), 3);
        check("a bulk delivery");
    }
}

/// It runs without the test harness, which has a thread that allocates too.
fn main() {
    for (offer, chunking) in [
        ("500 HELO\r\n", Chunking::Never),
        ("250 mx\r\n", Chunking::Never),
        ("250-mx\r\n250 PIPELINING\r\n", Chunking::Never),
        ("250-mx\r\n250 AUTH PLAIN\r\n", Chunking::Never),
        (
            "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            Chunking::Auto,
        ),
    ] {
        of_the_engine(offer, chunking);
        of_the_adapter(offer, chunking);
    }
    println!("an idle session keeps no buffer");
}
