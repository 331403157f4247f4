//! Bodies in chunks (RFC 3030): what a server reads by its own counting, against the body.

use smtp_proto::body::{BodyError, BodyPolicy, LineEndings};
use smtp_proto::envelope::BodyType;
use smtp_proto::*;

use super::body::{expand, normalise, stuff};
use super::{Input, MOST_OFFERS};
use crate::watchdog::Turns;

/// A body, and how it is sent: two octets of flags, the size of a chunk, the sizes of offers and of what the transport
/// takes of them (one octet each), the body in run-length code.
///
/// | flag | |
/// |---|---|
/// | 1, 2, 4 | the policy: bare line ends refused, NUL allowed, long lines refused |
/// | 8 | 8BITMIME is offered and declared |
/// | 16 | so is BINARYMIME |
/// | 32, 64 | the size is declared; and it is one octet too large |
/// | 128 | PIPELINING is offered |
/// | 256 | the caller says which part of the body is the last |
/// | 512 | the declared size is one octet too small |
pub fn chunks(data: &[u8]) {
    let mut input = Input(data);
    let [low, high, size, offer, take] = [(); 5].map(|()| input.byte());
    let flags = u16::from_le_bytes([low, high]);
    let body = expand(input.0);
    let letter = Letter::new(flags, size, &body);
    // A long body in short pieces takes too long, and finds no more.
    let least = body.len() / 32;
    let pieces = |octet: u8| match octet {
        0 => usize::MAX,
        octet => least.max(octet.into()),
    };
    for (offer, take) in [(0, 0), (1, 0), (0, 1), (offer, take)] {
        letter.send(pieces(offer), pieces(take));
    }
}

/// A message, and what must become of it.
struct Letter<'b> {
    flags: u16,
    /// The most octets of the caller's in a chunk.
    size: usize,
    body: &'b [u8],
    /// What the server is to store, and why it must not get the end of it.
    stored: Vec<u8>,
    exact: Option<u64>,
    wrong: Option<BodyError>,
}

impl<'b> Letter<'b> {
    fn new(flags: u16, size: u8, body: &'b [u8]) -> Self {
        let is = |flag: u16| flags & flag != 0;
        let binary = is(16);
        let stored = match binary {
            true => body.to_vec(),
            false => normalise(body),
        };
        // Lines end alike under DATA and in chunks, so what may not stand in a body is the same.
        let wrong = match binary {
            true => None,
            false => stuff(policy(flags), is(8), body).1,
        };
        let length = stored.len() as u64;
        let exact = is(32).then(|| match (is(64), is(512)) {
            (true, _) => length + 1,
            (_, true) => length.saturating_sub(1),
            _ => length,
        });
        let wrong = match exact {
            Some(exact) if exact != length => Some(wrong.unwrap_or(BodyError::WrongSize)),
            _ => wrong,
        };
        Self {
            flags,
            size: match size {
                0 => 65_536,
                size => usize::from(size).max(body.len() / 512),
            },
            body,
            stored,
            exact,
            wrong,
        }
    }

    fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn config(&self) -> Config {
        let mut config = Config::new(ClientName::parse("client.example.org").expect("a name"));
        config.tls = TlsPolicy::Never;
        config.chunk_size = self.size;
        config.body = policy(self.flags);
        config
    }

    fn envelope(&self) -> Envelope {
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).expect("valid");
        let envelope = envelope.body(match () {
            () if self.is(16) => BodyType::Binary,
            () if self.is(8) => BodyType::EightBit,
            () => BodyType::Undeclared,
        });
        match self.exact {
            Some(exact) => envelope.exact_size(exact),
            None => envelope,
        }
    }

    /// Sends it, offered and taken in pieces of these sizes.
    fn send(&self, offer: usize, take: usize) {
        let now = Instant::default();
        let mut connection = Connection::new(self.config(), now);
        connection.submit(self.envelope()).expect("a new session");
        let mut server = Server::default();
        connection.handle_input(now, b"220 mx\r\n");
        let (mut used, mut report) = (0, None);
        for _ in 0..MOST_OFFERS {
            let mut turns = Turns::default();
            while let Some(event) = connection.poll_event() {
                turns.take().expect("events without end");
                if let Event::Finished(_, finished) = event {
                    report = Some(finished);
                }
            }
            if report.is_some() || connection.is_closed() {
                break;
            }
            let wants = connection.wants_body();
            let end = used + offer.min(self.body.len() - used);
            let part = match &self.body[used..end] {
                _ if !wants => BodyPart::Next(b""),
                octets if self.is(256) && end == self.body.len() => BodyPart::Last(octets),
                octets => BodyPart::Next(octets),
            };
            let Some(transmit) = connection.poll_transmit(now, part) else {
                let replies = server.replies(self);
                match replies.is_empty() {
                    false => connection.handle_input(now, &replies),
                    true if connection.wants_body() && used == self.body.len() => {
                        connection.finish_body().expect("it is wanted");
                    }
                    // The body has ended by a look at what may not be sent.
                    true => assert!(!connection.wants_body(), "nothing happens: {connection:?}"),
                }
                continue;
            };
            let octets = transmit.parts().concat();
            let taken = take.min(octets.len());
            server.wire.extend_from_slice(&octets[..taken]);
            used += transmit.advance(taken);
        }
        let report = report.unwrap_or_else(|| panic!("not sent: {connection:?}"));
        server.read();
        self.judge(&server, &report);
    }

    fn judge(&self, server: &Server, report: &Report) {
        let context = || server.wire.escape_ascii().to_string();
        let result = &report.recipients[0];
        if let Some(wrong) = self.wrong {
            assert!(!server.has_last, "taken, and {wrong}: {}", context());
            let Err(error) = result else {
                panic!("{wrong} is reported as {result:?}");
            };
            let fine = match &error.cause {
                // A size that is wrong may be seen first.
                Cause::Body(BodyError::WrongSize) => self.exact.is_some(),
                Cause::Body(seen) => *seen == wrong,
                _ => false,
            };
            assert!(fine, "{wrong} is reported as {error}");
            assert_eq!(error.outcome, Outcome::Permanent);
            return;
        }
        assert!(result.is_ok(), "{result:?}: {}", context());
        assert!(server.has_last, "no last chunk: {}", context());
        assert!(server.left == 0, "not whole: {}", context());
        assert!(
            server.body == self.stored,
            "{} is not {}",
            server.body.escape_ascii(),
            self.stored.escape_ascii()
        );
        if let Some(exact) = self.exact {
            assert_eq!(server.sizes, [exact], "{}", context());
        }
        if self.exact.is_none() {
            // A line end may be made of each octet, and one octet more may be owed from before.
            let most = match self.is(16) {
                true => self.size,
                false => 2 * self.size + 2,
            };
            let sizes = &server.sizes[..server.sizes.len() - 1];
            assert!(
                sizes.iter().all(|&size| (1..=most as u64).contains(&size)),
                "chunks of {sizes:?}"
            );
        }
    }
}

fn policy(flags: u16) -> BodyPolicy {
    let mut policy = BodyPolicy::default();
    if flags & 1 != 0 {
        policy.line_endings = LineEndings::Refuse;
    }
    policy.allow_nul = flags & 2 != 0;
    policy.refuse_long_lines = flags & 4 != 0;
    policy
}

/// Counts octets, and answers what is whole.
#[derive(Default)]
struct Server {
    wire: Vec<u8>,
    at: usize,
    /// Of the chunk that has begun.
    left: u64,
    is_last: bool,
    has_last: bool,
    body: Vec<u8>,
    sizes: Vec<u64>,
    /// What is whole and has no reply yet.
    owed: Vec<&'static str>,
}

impl Server {
    fn read(&mut self) {
        loop {
            if self.left > 0 {
                let n = (self.wire.len() - self.at).min(self.left as usize);
                self.body
                    .extend_from_slice(&self.wire[self.at..self.at + n]);
                self.at += n;
                self.left -= n as u64;
                if self.left > 0 {
                    return;
                }
                self.end_chunk();
            }
            let rest = &self.wire[self.at..];
            let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else {
                return;
            };
            let line = String::from_utf8(rest[..end].to_vec()).expect("ASCII");
            self.at += end + 2;
            assert!(
                !self.has_last || line == "QUIT",
                "{line} after the last chunk"
            );
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["BDAT", octets, ref rest @ ..] => {
                    self.is_last = match rest {
                        [] => false,
                        ["LAST"] => true,
                        _ => panic!("{line}"),
                    };
                    self.left = octets.parse().expect("a number");
                    assert_eq!(self.left.to_string(), octets);
                    self.sizes.push(self.left);
                    if self.left == 0 {
                        assert!(self.is_last, "an empty chunk in the middle");
                        self.end_chunk();
                    }
                }
                ["EHLO", _] => self.owed.push("EHLO"),
                ["MAIL" | "RCPT", ..] | ["QUIT"] => self.owed.push("250 ok\r\n"),
                _ => panic!("{line}"),
            }
        }
    }

    fn end_chunk(&mut self) {
        self.has_last |= self.is_last;
        self.owed.push("250 ok\r\n");
    }

    fn replies(&mut self, letter: &Letter<'_>) -> Vec<u8> {
        self.read();
        let mut replies = String::new();
        for owed in std::mem::take(&mut self.owed) {
            if owed != "EHLO" {
                replies += owed;
                continue;
            }
            replies += "250-mx\r\n";
            for (keyword, offered) in [
                ("PIPELINING", letter.is(128)),
                ("8BITMIME", letter.is(8)),
                ("BINARYMIME", letter.is(16)),
            ] {
                if offered {
                    replies += &format!("250-{keyword}\r\n");
                }
            }
            replies += "250 CHUNKING\r\n";
        }
        replies.into_bytes()
    }
}
