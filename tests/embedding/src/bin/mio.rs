//! 200 sessions in one thread, over mio and rustls: STARTTLS, backpressure and deadlines.
//!
//! ```console
//! $ cargo run -p smtp-embedding --bin mio
//! 200 of 200 messages are sent
//! the server has taken 200, in as many as 200 sessions at a time
//! ```
//!
//! `SMTP_HOST=mx.example.net` in the environment names another server.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use smtp_proto::{
    BodyPart, Cause, ClientName, Config, Connection, Envelope, Event, Instant, TlsFacts, TlsPolicy,
};
use smtp_tests::receiver::Receiver;

const SESSIONS: usize = 200;
const MESSAGE: &[u8] = b"From: alice@example.org\r\nSubject: hello\r\n\r\nHello.\r\n";

/// The state that all sessions share.
struct Shared {
    address: SocketAddr,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    start: std::time::Instant,
}

impl Shared {
    fn now(&self) -> Instant {
        Instant::from_origin(self.start.elapsed())
    }
}

struct Session<'a> {
    shared: &'a Shared,
    engine: Connection,
    socket: TcpStream,
    tls: Option<ClientConnection>,
    in_handshake: bool,
    /// The rest of the message.
    body: &'static [u8],
    /// Gathered octets that neither TLS nor the socket has taken. Inside TLS it stays empty.
    out: Vec<u8>,
    /// Octets of the engine that the socket has not taken.
    unwritten: usize,
    is_sent: bool,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, number: usize) -> Result<Self, Box<dyn Error>> {
        let mut config = Config::new(ClientName::parse("client.example.org")?);
        config.tls = TlsPolicy::Required;
        let mut engine = Connection::new(config, shared.now());
        let reader = format!("reader.{number}@example.net");
        engine.submit(Envelope::new("alice@example.org", [reader])?.size_of(MESSAGE))?;
        engine.quit()?; // once the message is reported
        Ok(Self {
            shared,
            engine,
            socket: TcpStream::connect(shared.address)?,
            tls: None,
            in_handshake: false,
            body: MESSAGE,
            out: Vec::new(),
            unwritten: 0,
            is_sent: false,
        })
    }

    /// Does everything that is possible without waiting. Returns whether the session is over.
    fn turn(&mut self) -> bool {
        loop {
            let result = self.read().and_then(|heard| {
                self.take_events();
                Ok(heard | self.write()?)
            });
            match result {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    let cause = Cause::Transport(error.to_string().into());
                    self.engine.handle_lost(self.shared.now(), cause);
                    break;
                }
            }
        }
        self.take_events();
        self.engine.is_closed()
    }

    /// Returns whether any octets have come.
    fn read(&mut self) -> io::Result<bool> {
        if self.engine.is_closed() {
            return Ok(false);
        }
        let now = self.shared.now();
        let mut buffer = [0; 4096];
        let result = match &mut self.tls {
            Some(tls) => tls.read_tls(&mut self.socket),
            None => self.socket.read(&mut buffer),
        };
        match result {
            Ok(0) => self.engine.handle_eof(now),
            Ok(n) if self.tls.is_none() => self.engine.handle_input(now, &buffer[..n]),
            Ok(_) => self.decrypt(now),
            Err(error) if is_later(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn decrypt(&mut self, now: Instant) {
        let Some(tls) = &mut self.tls else { return };
        if let Err(error) = tls.process_new_packets() {
            // Sends the alert with the reason, if possible.
            let _ = tls.write_tls(&mut self.socket);
            let failed = self
                .engine
                .handle_tls_failed(Cause::TlsFailed(error.to_string().into()));
            if failed.is_err() {
                self.engine
                    .handle_lost(now, Cause::Transport(error.to_string().into()));
            }
            return;
        }
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = tls.reader().read(&mut buffer) {
            self.engine.handle_input(now, &buffer[..n]);
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::StartTls => {
                    let (config, name) = (self.shared.tls.clone(), self.shared.name.clone());
                    match ClientConnection::new(config, name) {
                        Ok(tls) => (self.tls, self.in_handshake) = (Some(tls), true),
                        Err(error) => {
                            let cause = Cause::TlsFailed(error.to_string().into());
                            let _ = self.engine.handle_tls_failed(cause);
                        }
                    }
                }
                Event::Finished(_, report) => {
                    self.is_sent = report.is_success();
                    for failure in report.failures() {
                        println!("{failure}");
                    }
                }
                _ => {}
            }
        }
    }

    /// Returns whether any octets have gone out.
    fn write(&mut self) -> io::Result<bool> {
        let now = self.shared.now();
        if self.unwritten == 0 && !self.in_handshake {
            self.unwritten = self.gather(now)?;
        }
        let mut moved = false;
        loop {
            let result = match &mut self.tls {
                Some(tls) if tls.wants_write() => tls.write_tls(&mut self.socket),
                None if !self.out.is_empty() => {
                    let written = self.socket.write(&self.out);
                    written.inspect(|&n| drop(self.out.drain(..n)))
                }
                _ => break,
            };
            match result {
                Ok(_) => moved = true,
                Err(error) if is_later(&error) => return Ok(moved),
                Err(error) => return Err(error),
            }
        }
        // The socket has all of them, and TLS holds nothing back.
        self.engine.handle_written(now, self.unwritten);
        self.unwritten = 0;
        if self.in_handshake && self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking()) {
            self.in_handshake = false;
            let mut facts = TlsFacts::default();
            facts.verified = true;
            let _ = self.engine.handle_tls_established_with(now, facts);
            moved = true;
        }
        Ok(moved)
    }

    /// Gathers the engine's octets, as many as one write takes.
    fn gather(&mut self, now: Instant) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let part = BodyPart::Last(self.body);
        let (gathered, used) = self.engine.poll_transmit_into(now, part, &mut buffer);
        self.body = &self.body[used..];
        if self.engine.wants_body() && self.body.is_empty() {
            let _ = self.engine.finish_body();
        }
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(&buffer[..gathered])?,
            None => self.out.extend_from_slice(&buffer[..gathered]),
        }
        Ok(gathered)
    }
}

/// Whether the socket would block, or is not connected yet.
fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::NotConnected | ErrorKind::Interrupted
    )
}

fn send(shared: &Shared) -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let mut session = Session::new(shared, number)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut session.socket, Token(number), both)?;
        sessions.push(Some(session));
    }
    let mut ready = Events::with_capacity(SESSIONS);
    let mut sent = 0;
    while sessions.iter().any(Option::is_some) {
        let next = sessions
            .iter()
            .flatten()
            .filter_map(|session| session.engine.poll_timeout())
            .min();
        poll.poll(&mut ready, next.map(|at| at - shared.now()))?;
        let now = shared.now();
        let late = sessions.iter().enumerate().filter_map(|(number, session)| {
            let at = session.as_ref()?.engine.poll_timeout()?;
            (at <= now).then_some(number)
        });
        let mut turns: Vec<_> = late
            .chain(ready.iter().map(|event| event.token().0))
            .collect();
        turns.dedup();
        for number in turns {
            let Some(session) = &mut sessions[number] else {
                continue;
            };
            // A late session is over only if no input has come meanwhile.
            let mut is_over = session.turn();
            session.engine.handle_timeout(now);
            is_over |= session.turn();
            if is_over {
                sent += usize::from(session.is_sent);
                sessions[number] = None;
            }
        }
    }
    println!("{sent} of {SESSIONS} messages are sent");
    match sent {
        SESSIONS => Ok(()),
        _ => Err("some messages are not sent".into()),
    }
}

/// By default, a server inside this program takes the mail.
fn run() -> Result<(), Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    let (receiver, host, port) = match std::env::var("SMTP_HOST") {
        Ok(host) => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            (None, host, 25)
        }
        Err(_) => {
            let receiver = Receiver::new();
            let pem = receiver.certificate_pem().as_bytes();
            roots.add(CertificateDer::from_pem_slice(pem)?)?;
            let port = receiver.local_addr().port();
            (Some(receiver), "127.0.0.1".to_owned(), port)
        }
    };
    let address = (&*host, port)
        .to_socket_addrs()?
        .next()
        .ok_or("the host has no address")?;
    let config = ClientConfig::builder().with_root_certificates(roots);
    send(&Shared {
        address,
        name: ServerName::try_from(host)?,
        tls: Arc::new(config.with_no_client_auth()),
        start: std::time::Instant::now(),
    })?;
    if let Some(counts) = receiver.map(|receiver| receiver.counts()) {
        let (messages, peak) = (counts.messages, counts.peak);
        println!("the server has taken {messages}, in as many as {peak} sessions at a time");
    }
    Ok(())
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
