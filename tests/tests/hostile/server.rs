//! The server: polite up to the point where a case takes over, and with books of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::ring::default_provider;
use rustls::{ServerConfig, ServerConnection};
use smtp_tests::servers::tls::Identity;
use socket2::SockRef;

use crate::case::At;

/// How long the server waits for a client that does nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// A flood ends after so many octets, so that a client which reads all of it fails its case.
const FLOOD: usize = 64 << 20;

/// What the server says in answer to EHLO, unless a case says otherwise.
pub(crate) const OFFER: &str =
    "250-mx.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n";

/// What the server knows.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Each octet of the socket, as it came: in clear, or inside TLS.
    pub(crate) wire: Vec<u8>,
    /// What was said inside TLS, decrypted.
    pub(crate) inside: Vec<u8>,
    /// The commands in their order.
    pub(crate) commands: Vec<String>,
    /// Messages that were read to their dot, each with whether the server then took it.
    pub(crate) messages: Vec<bool>,
    /// When it said something last before it was hostile: no deadline that it is about can have begun before.
    pub(crate) spoke: Option<Instant>,
    /// When it began to be hostile. A case that never came to it shows nothing.
    pub(crate) acted: Option<Instant>,
    /// Octets of a flood that the client's side took.
    pub(crate) flood: usize,
    /// The client has come to an end.
    pub(crate) is_over: bool,
}

pub(crate) type SharedBooks = Arc<Mutex<Books>>;

/// A socket that writes down what it reads.
struct Tap {
    socket: TcpStream,
    books: SharedBooks,
}

impl Read for Tap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.socket.read(buffer)?;
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.wire.extend(&buffer[..n]);
        Ok(n)
    }
}

impl Write for Tap {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One conversation, from the server's side.
pub(crate) struct Talk {
    /// `None` after a reset.
    tap: Option<Tap>,
    tls: Option<Box<ServerConnection>>,
    books: SharedBooks,
    identity: Identity,
    /// What is offered now.
    pub(crate) offer: String,
    /// Read, and not yet looked at.
    unread: Vec<u8>,
    is_greeted: bool,
    in_data: bool,
    /// The command that was reached last.
    pub(crate) line: String,
}

impl Talk {
    pub(crate) fn new(
        socket: TcpStream,
        books: SharedBooks,
        identity: Identity,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let tap = Tap {
            socket,
            books: Arc::clone(&books),
        };
        Ok(Self {
            tap: Some(tap),
            tls: None,
            books,
            identity,
            offer: OFFER.into(),
            unread: Vec::new(),
            is_greeted: false,
            in_data: false,
            line: String::new(),
        })
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tap(&mut self) -> io::Result<&mut Tap> {
        self.tap
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The hostile part begins.
    pub(crate) fn act(&mut self) {
        self.books().acted.get_or_insert_with(Instant::now);
    }

    // What the server reads.

    /// Reads what there is. An end of file is an error.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let tap = self
            .tap
            .as_mut()
            .ok_or(io::Error::from(io::ErrorKind::NotConnected))?;
        let n = match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, tap).read(&mut buffer)?,
            None => tap.read(&mut buffer)?,
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend(&buffer[..n]);
        if self.tls.is_some() {
            self.books().inside.extend(&buffer[..n]);
        }
        Ok(())
    }

    /// Reads this many octets at least, and throws away what was read.
    pub(crate) fn swallow(&mut self, octets: usize) -> io::Result<()> {
        let mut swallowed = 0;
        while swallowed < octets {
            self.receive()?;
            swallowed += std::mem::take(&mut self.unread).len();
        }
        Ok(())
    }

    fn read_to(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut from = 0;
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread[from..], end) {
                return Ok(self.unread.drain(..from + at + end.len()).collect());
            }
            from = self.unread.len().saturating_sub(end.len() - 1);
            self.receive()?;
        }
    }

    /// Reads a command.
    pub(crate) fn command(&mut self) -> io::Result<()> {
        let line = self.read_to(b"\r\n")?;
        self.line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let line = self.line.clone();
        self.books().commands.push(line);
        Ok(())
    }

    /// Nothing came with the command that was read last.
    pub(crate) fn must_be_alone(&mut self) -> io::Result<()> {
        match self.unread.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other("two commands at a time")),
        }
    }

    /// Reads the body to its dot.
    fn body(&mut self) -> io::Result<()> {
        self.in_data = false;
        self.read_to(b"\r\n.\r\n")?;
        self.books().messages.push(false);
        Ok(())
    }

    /// Reads on until the client has gone.
    pub(crate) fn drain(&mut self) {
        while self.receive().is_ok() {
            self.unread.clear();
        }
    }

    // What the server writes.

    pub(crate) fn say(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        let octets = self.sealed(octets.as_ref())?;
        self.say_raw(&octets)
    }

    /// The same outside TLS.
    pub(crate) fn say_raw(&mut self, octets: &[u8]) -> io::Result<()> {
        {
            let mut books = self.books();
            if books.acted.is_none() {
                books.spoke = Some(Instant::now());
            }
        }
        self.tap()?.write_all(octets)
    }

    /// The octets as they go out: inside TLS as a record, or more.
    pub(crate) fn sealed(&mut self, octets: &[u8]) -> io::Result<Vec<u8>> {
        let Some(tls) = &mut self.tls else {
            return Ok(octets.to_vec());
        };
        tls.writer().write_all(octets)?;
        let mut sealed = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    /// This once, and then that again and again, until the client has gone.
    pub(crate) fn flood(&mut self, first: &str, again: &str) -> io::Result<()> {
        self.act();
        self.say(first)?;
        let again = again.repeat((16 << 10) / again.len());
        while self.books().flood < FLOOD {
            self.say(&again)?;
            self.books().flood += again.len();
        }
        Ok(())
    }

    /// One octet after the other, without end: these, and then the last of them again and again.
    pub(crate) fn drip(&mut self, octets: &[u8]) -> io::Result<()> {
        self.act();
        let last = octets[octets.len() - 1];
        for &octet in octets.iter().chain(std::iter::repeat(&last)) {
            self.say([octet])?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// These octets of TLS, one after the other, and slower than any deadline.
    pub(crate) fn drip_raw(&mut self, octets: &[u8]) -> io::Result<()> {
        self.act();
        for octet in octets {
            self.say_raw(std::slice::from_ref(octet))?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    // How the server goes, or does not.

    /// Says nothing any more, and waits until the client has gone.
    pub(crate) fn fall_silent(&mut self) -> io::Result<()> {
        self.act();
        self.drain();
        Ok(())
    }

    /// Reads nothing any more, and says nothing, until the client has given up.
    pub(crate) fn stop_reading(&mut self) -> io::Result<()> {
        self.act();
        while !self.books().is_over {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The connection is reset.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        self.act();
        SockRef::from(&self.tap()?.socket).set_linger(Some(Duration::ZERO))?;
        self.tap = None;
        Ok(())
    }

    /// Ends its own direction, without a word of TLS, and reads on.
    pub(crate) fn half_close(&mut self) -> io::Result<()> {
        self.act();
        self.tap()?.socket.shutdown(Shutdown::Write)?;
        self.drain();
        Ok(())
    }

    /// Ends its direction, and reads until the client has gone: a reset must not overtake what was said.
    pub(crate) fn part(&mut self) {
        if let Some(tap) = &self.tap {
            let _ = tap.socket.shutdown(Shutdown::Write);
        }
        self.drain();
    }

    // TLS.

    /// The server's end of TLS.
    fn acceptor(&self) -> io::Result<ServerConnection> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(self.identity.resolver());
        ServerConnection::new(Arc::new(config)).map_err(io::Error::other)
    }

    /// Shakes hands.
    pub(crate) fn encrypt(&mut self) -> io::Result<()> {
        let mut tls = self.acceptor()?;
        while tls.is_handshaking() || tls.wants_write() {
            tls.complete_io(self.tap()?)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Reads what the client begins the handshake with, and returns the server's part, which is not sent.
    pub(crate) fn server_hello(&mut self) -> io::Result<Vec<u8>> {
        let mut tls = self.acceptor()?;
        while !tls.wants_write() {
            tls.read_tls(self.tap()?)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        let mut hello = Vec::new();
        tls.write_tls(&mut hello)?;
        Ok(hello)
    }

    // The polite part.

    /// Plays along until this is reached: a command that was read and is not answered, or the like.
    pub(crate) fn reach(&mut self, at: At) -> io::Result<()> {
        if at == At::Greeting {
            return Ok(());
        }
        if !std::mem::replace(&mut self.is_greeted, true) {
            self.say("220 mx.example.net ESMTP\r\n")?;
        }
        loop {
            if self.in_data {
                if at == At::Body {
                    return self.swallow(1 << 20);
                }
                self.body()?;
                if at == At::Dot {
                    return Ok(());
                }
                self.take()?;
            }
            self.command()?;
            if at.is_begun_by(&self.line) {
                return Ok(());
            }
            self.answer()?;
        }
    }

    /// Plays along to the end.
    pub(crate) fn oblige(&mut self) -> io::Result<()> {
        self.reach(At::Quit)?;
        self.say("221 2.0.0 bye\r\n")
    }

    /// Refuses the command that was read last, those that are like it, and what follows from it.
    pub(crate) fn refuse(&mut self, reply: &str) -> io::Result<()> {
        self.say(reply)?;
        let refused: String = self.line.chars().take(4).collect();
        loop {
            self.command()?;
            match self.line.split(' ').next().unwrap_or_default() {
                "QUIT" => return self.say("221 2.0.0 bye\r\n"),
                "RSET" => self.say("250 2.0.0 ok\r\n")?,
                verb if refused == verb => self.say(reply)?,
                _ => self.say("503 5.5.1 not now\r\n")?,
            }
        }
    }

    /// Takes the message whose dot was read.
    pub(crate) fn take(&mut self) -> io::Result<()> {
        self.taken();
        self.say("250 2.0.0 queued\r\n")
    }

    /// Takes it, and leaves it to the case to say so.
    pub(crate) fn taken(&mut self) {
        if let Some(taken) = self.books().messages.last_mut() {
            *taken = true;
        }
    }

    /// The body follows: the case itself has said so.
    pub(crate) fn expect_body(&mut self) {
        self.in_data = true;
    }

    /// Answers the command that was read last.
    pub(crate) fn answer(&mut self) -> io::Result<()> {
        let verb = self.line.split(' ').next().unwrap_or_default();
        let reply = match verb {
            "EHLO" => self.offer.clone(),
            "STARTTLS" => {
                self.say("220 2.0.0 go ahead\r\n")?;
                return self.encrypt();
            }
            "AUTH" => "235 2.7.0 welcome\r\n".into(),
            "DATA" => {
                self.in_data = true;
                "354 go ahead\r\n".into()
            }
            _ => "250 2.0.0 ok\r\n".into(),
        };
        self.say(reply)
    }
}
