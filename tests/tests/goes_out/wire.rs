//! A server in memory that accepts everything, and keeps what it gets. It reads the wire by itself: a line ends at
//! CRLF, and a body at a dot between two of them.

use std::collections::VecDeque;
use std::mem;

use smtp_proto::auth::Nonce;
use smtp_proto::error::Outcome;
use smtp_proto::{BodyPart, Config, Connection, Envelope, Event, Instant, Request};

const NOW: Instant = Instant::from_origin(std::time::Duration::ZERO);

/// Every extension that the engine uses. `extra` is one more line.
fn offer(extra: &str) -> String {
    // A line of the server ends at its CRLF, so the string must not contain one.
    let extra: String = extra.chars().filter(|c| !"\r\n".contains(*c)).collect();
    format!(
        "250-mx.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE\r\n250-DSN\r\n\
         250-DELIVERBY\r\n250-FUTURERELEASE 999999999 9999-12-31T00:00:00Z\r\n250-MT-PRIORITY\r\n250-REQUIRETLS\r\n\
         250-RRVS\r\n250-ETRN\r\n250-X\r\n250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n\
         250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n250-{extra}\r\n\
         250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256 OAUTHBEARER XOAUTH2 EXTERNAL ANONYMOUS {extra}\r\n"
    )
}

/// An action of the application in one session.
pub(crate) enum Job {
    Message(Envelope),
    Request(Request),
    /// A message whose body fails for this reason.
    Failing(String),
    /// Aborts for this reason.
    Abort(String),
}

/// The octets on the wire.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The lines outside bodies, without their CRLF.
    pub(crate) lines: Vec<Vec<u8>>,
    /// From the 354 to the dot, with the CRLF before it and without the one after it.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// The unfinished rest.
    pub(crate) rest: Vec<u8>,
}

/// One session. After AUTH, the server sends as many challenges as it has.
pub(crate) struct Session {
    pub(crate) config: Config,
    pub(crate) jobs: Vec<Job>,
    pub(crate) challenges: Vec<String>,
    pub(crate) extra: String,
    pub(crate) body: &'static [u8],
}

impl Session {
    pub(crate) fn run(&self) -> Heard {
        let nonce = Nonce::from_octets([7; 18]);
        let mut engine = Connection::with_nonce(self.config.clone(), NOW, nonce);
        let mut fails = None;
        let mut aborts = None;
        for job in &self.jobs {
            match job {
                Job::Message(envelope) => drop(engine.submit(envelope.clone()).unwrap()),
                Job::Request(request) => drop(engine.request(request.clone()).unwrap()),
                Job::Failing(words) => {
                    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
                    engine.submit(envelope).unwrap();
                    fails = Some(words.clone());
                }
                Job::Abort(words) => aborts = Some(words.clone()),
            }
        }
        if aborts.is_none() {
            engine.quit().unwrap();
        }
        let mut server = Server {
            heard: Heard::default(),
            offer: offer(&self.extra),
            challenges: self.challenges.clone().into(),
            in_data: false,
            in_auth: false,
        };
        let mut body = self.body;
        engine.handle_input(NOW, b"220 mx.example.net\r\n");
        loop {
            let mut wire = Vec::new();
            let part = match engine.wants_body() {
                true => BodyPart::Last(body),
                false => BodyPart::Next(body),
            };
            if let Some(transmit) = engine.poll_transmit(NOW, part) {
                let octets = transmit.parts().concat();
                let used = transmit.advance(octets.len());
                body = &body[used..];
                wire = octets;
            }
            let replies = server.hear(&wire);
            engine.handle_input(NOW, &replies);
            let mut is_quiet = wire.is_empty();
            if engine.wants_body() && body.is_empty() {
                engine.finish_body().unwrap();
                is_quiet = false;
            }
            while let Some(event) = engine.poll_event() {
                is_quiet = false;
                match event {
                    Event::BodyWanted(_) if fails.is_some() => {
                        let words = fails.take().unwrap();
                        engine.fail_body(Outcome::Permanent, &words).unwrap();
                    }
                    Event::Finished(..) => body = self.body,
                    Event::Closed(_) => return server.heard,
                    _ => {}
                }
            }
            if is_quiet {
                match aborts.take() {
                    Some(words) => engine.abort(&words).unwrap(),
                    None => engine.handle_eof(NOW),
                }
            }
        }
    }
}

struct Server {
    heard: Heard,
    offer: String,
    challenges: VecDeque<String>,
    in_data: bool,
    in_auth: bool,
}

impl Server {
    /// Takes octets off the wire, and returns the server's replies.
    fn hear(&mut self, octets: &[u8]) -> Vec<u8> {
        let mut replies = Vec::new();
        self.heard.rest.extend_from_slice(octets);
        loop {
            let rest = mem::take(&mut self.heard.rest);
            if self.in_data {
                // The dot may be the first line.
                let end = match rest.starts_with(b".\r\n") {
                    true => Some(0),
                    false => memchr::memmem::find(&rest, b"\r\n.\r\n").map(|at| at + 2),
                };
                let Some(end) = end else {
                    self.heard.rest = rest;
                    return replies;
                };
                self.heard.bodies.push(rest[..end].to_vec());
                self.heard.rest = rest[end + ".\r\n".len()..].to_vec();
                self.in_data = false;
                replies.extend_from_slice(b"250 taken\r\n");
                continue;
            }
            let Some(end) = memchr::memmem::find(&rest, b"\r\n") else {
                self.heard.rest = rest;
                return replies;
            };
            let line = rest[..end].to_vec();
            self.heard.rest = rest[end + 2..].to_vec();
            replies.extend_from_slice(self.answer(&line).as_bytes());
            self.heard.lines.push(line);
        }
    }

    fn answer(&mut self, line: &[u8]) -> String {
        let verb = line.split(|&octet| octet == b' ').next().unwrap();
        if self.in_auth || verb == b"AUTH" {
            let challenge = self.challenges.pop_front();
            self.in_auth = challenge.is_some();
            return match challenge {
                Some(challenge) => format!("334 {challenge}\r\n"),
                None => "235 welcome\r\n".into(),
            };
        }
        match verb {
            b"EHLO" | b"LHLO" => self.offer.clone(),
            b"DATA" => {
                self.in_data = true;
                "354 go on\r\n".into()
            }
            b"XCLIENT" => "220 again\r\n".into(),
            b"QUIT" => "221 bye\r\n".into(),
            _ => "250 fine\r\n".into(),
        }
    }
}
