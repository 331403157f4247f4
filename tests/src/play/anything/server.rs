//! A server that does anything, and writes down what it hears.

use std::collections::VecDeque;
use std::io;
use std::task::Waker;

use crate::play::engine::random::Random;

/// What a reply may say. Much of it looks like a line of a record.
const TEXTS: [&[u8]; 24] = [
    b"ok",
    b"2.0.0 fine",
    b"5.1.1 no such user",
    b"4.2.0 later",
    b"",
    b" ",
    b"a\\b\\",
    b"\\{13*x}",
    b"# no comment",
    b"| no body",
    b"expect closed says ok",
    b"C: QUIT",
    b"ungiven 3",
    b"\xe9\xff\xc3\xa9",
    b"a tab\there",
    b"secret user, password secret",
    b"a \0 NUL",
    b"\x1b[31m red",
    b"}{ } \\} \\x",
    b"****",
    b"at its end two  ",
    b"VXNlcm5hbWU6",
    b"c2VjcmV0 c2VjcmV0c2VjcmV0",
    b"\xe2\x80\xa8 a line separator",
];

/// Lines that are not replies.
const GARBAGE: [&[u8]; 12] = [
    b"\r\n",
    b"hello\r\n",
    b"25\r\n",
    b"999 no\r\n",
    b"1234 hi\r\n",
    b"250_x\r\n",
    b"250 a\rb\r\n",
    b"250-a\r\n550 b\r\n",
    b"\\{3*x}\r\n",
    b"\xff\xfe\n",
    b"250-endless\r\n",
    b"2",
];

const EXTENSIONS: [&str; 24] = [
    "PIPELINING",
    "PIPELINING",
    "PIPELINING",
    "8BITMIME",
    "SIZE",
    "SIZE 3000",
    "CHUNKING",
    "CHUNKING",
    "BINARYMIME",
    "DSN",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "PRDR",
    "XCLIENT NAME ADDR LOGIN",
    "XFORWARD NAME ADDR SOURCE",
    "LIMITS RCPTMAX=2",
    "LIMITS MAILMAX=2",
    "ETRN",
    "DELIVERBY",
    "MT-PRIORITY",
    "X-A",
    "X-ODD \\{3*x} | #",
    "VRFY",
    "FUTURERELEASE 100000 2030-01-01T00:00:00Z",
];

enum Mode {
    Lines,
    Response,
    Data,
    Chunk(u64),
    Tls,
}

pub(super) struct Server {
    random: Random,
    /// One reply of so many is odd.
    calm: usize,
    pub(super) heard: Vec<u8>,
    line: Vec<u8>,
    mode: Mode,
    accepted: usize,
    last: bool,
    say: VecDeque<u8>,
    is_gone: bool,
    is_lmtp: bool,
    /// After so many octets, the transport fails.
    fails_after: usize,
    spoken: usize,
    pub(super) waker: Option<Waker>,
    has_tls: bool,
    mechanisms: &'static str,
}

impl Server {
    pub(super) fn new(seed: u64, is_lmtp: bool, mechanisms: &'static str) -> Self {
        let mut random = Random::new(seed);
        let calm = random.pick(&[4, 10, 30, 100, 1_000]);
        let fails_after = match random.one_in(4) {
            true => random.below(3_000),
            false => usize::MAX,
        };
        let has_tls = random.one_in(6);
        let mut server = Self {
            random,
            calm,
            heard: Vec::new(),
            line: Vec::new(),
            mode: Mode::Lines,
            accepted: 0,
            last: false,
            say: VecDeque::new(),
            is_gone: false,
            is_lmtp,
            fails_after,
            spoken: 0,
            waker: None,
            has_tls,
            mechanisms,
        };
        server.reply(220, b"");
        server
    }

    /// The client sends these octets. How many of them are taken.
    pub(super) fn put(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.is_gone && self.say.is_empty() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.random.one_in(20) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = match self.random.below(4) {
            0 => 1,
            1 => self.random.up_to(40),
            _ => octets.len(),
        };
        let count = octets.len().min(most);
        self.spoken += count;
        if self.spoken > self.fails_after {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        for &octet in &octets[..count] {
            self.hear(octet);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(count)
    }

    /// What the server has said. `None` if that is nothing new.
    pub(super) fn take(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        if self.random.one_in(30) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.say.is_empty() {
            return Ok(self.is_gone.then_some(0));
        }
        let most = match self.random.below(4) {
            0 => 1,
            1 => self.random.up_to(10),
            _ => usize::MAX,
        };
        let count = self.say.len().min(most).min(out.len());
        for (to, octet) in out.iter_mut().zip(self.say.drain(..count)) {
            *to = octet;
        }
        self.spoken += count;
        if self.spoken > self.fails_after {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(Some(count))
    }

    fn hear(&mut self, octet: u8) {
        if matches!(self.mode, Mode::Tls) {
            if !self.is_gone {
                self.say.extend(b"this is not TLS\r\n");
                self.is_gone = self.random.one_in(2);
            }
            return;
        }
        if self.is_gone {
            return;
        }
        self.heard.push(octet);
        if let Mode::Chunk(left) = &mut self.mode {
            *left -= 1;
            if *left == 0 {
                self.mode = Mode::Lines;
                self.end_chunk();
            }
            return;
        }
        self.line.push(octet);
        if octet != b'\n' {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        match self.mode {
            Mode::Data if line != "." => {}
            Mode::Data => {
                self.mode = Mode::Lines;
                self.taken();
            }
            Mode::Response => self.answer(&line),
            _ => self.command(&line),
        }
    }

    fn command(&mut self, line: &str) {
        let upper = line.to_ascii_uppercase();
        let verb = upper.split(' ').next().unwrap_or_default();
        match verb {
            "EHLO" | "LHLO" => self.offer(),
            "MAIL" | "RSET" => {
                self.accepted = 0;
                self.reply(250, line.as_bytes());
            }
            "RCPT" => {
                let code = self.random.pick(&[250, 250, 250, 250, 251, 550, 450, 452]);
                let code = self.reply(code, line.as_bytes());
                self.accepted += usize::from(code / 100 == 2);
            }
            "DATA" => {
                let code = match self.accepted {
                    0 => 503,
                    _ => 354,
                };
                if self.reply(code, line.as_bytes()) == 354 {
                    self.mode = Mode::Data;
                }
            }
            "BDAT" => {
                let octets = upper.split(' ').nth(1).and_then(|n| n.parse().ok());
                self.last = upper.ends_with(" LAST");
                match octets {
                    None | Some(0) => self.end_chunk(),
                    Some(octets) => self.mode = Mode::Chunk(octets),
                }
            }
            "AUTH" => match (line.split(' ').nth(1), line.split(' ').count()) {
                (Some("PLAIN"), 3) => self.answer(line),
                _ => self.challenge(line),
            },
            "STARTTLS" => {
                // The first digit is conclusive.
                if self.reply(220, b"") / 100 == 2 {
                    self.mode = Mode::Tls;
                    self.is_gone = self.random.one_in(4);
                }
            }
            "XCLIENT" => drop(self.reply(220, line.as_bytes())),
            "QUIT" => {
                self.reply(221, b"");
                self.is_gone = true;
            }
            _ => {
                let code = self.random.pick(&[250, 252, 502, 214]);
                self.reply(code, line.as_bytes());
            }
        }
    }

    fn offer(&mut self) {
        let mut lines = vec!["hello".to_owned()];
        for name in EXTENSIONS {
            if self.random.one_in(3) {
                lines.push(name.to_owned());
            }
        }
        if self.has_tls {
            lines.push("STARTTLS".to_owned());
        }
        if !self.mechanisms.is_empty() {
            lines.push(format!("AUTH {}", self.mechanisms));
        }
        if self.random.one_in(self.calm) {
            self.reply(250, b"EHLO");
            return;
        }
        let count = lines.len();
        for (index, line) in lines.iter().enumerate() {
            let hyphen = if index + 1 == count { ' ' } else { '-' };
            self.say.extend(format!("250{hyphen}{line}\r\n").bytes());
        }
    }

    fn challenge(&mut self, line: &str) {
        let text = self.random.pick(&[
            "VXNlcm5hbWU6",
            "UGFzc3dvcmQ6",
            "",
            "eyJzdGF0dXMiOiI0MDEifQ==",
            "abcd=",
            "ab==",
            "AA==",
        ]);
        if self.random.one_in(self.calm) {
            // What it repeats may be base64.
            let from = if self.random.one_in(2) {
                0
            } else {
                line.rfind(' ').map_or(0, |at| at + 1)
            };
            if self.reply(334, &line.as_bytes()[from..]) == 334 {
                self.mode = Mode::Response;
            }
            return;
        }
        self.say.extend(format!("334 {text}\r\n").bytes());
        self.mode = Mode::Response;
    }

    fn answer(&mut self, line: &str) {
        self.mode = Mode::Lines;
        // After a response it has more questions, and a few even after the only response that there is.
        let most = if line.starts_with("AUTH") { 20 } else { 3 };
        if self.random.one_in(most) {
            return self.challenge(line);
        }
        let code = self.random.pick(&[235, 235, 235, 535]);
        self.reply(code, line.as_bytes());
    }

    fn end_chunk(&mut self) {
        match self.last {
            true => self.taken(),
            false => drop(self.reply(250, b"BDAT")),
        }
    }

    /// The end of a message.
    fn taken(&mut self) {
        let replies = if self.is_lmtp { self.accepted } else { 1 };
        for _ in 0..replies {
            let code = self.random.pick(&[250, 250, 250, 550, 452]);
            self.reply(code, b"a message");
        }
    }

    /// Mostly this reply. It may repeat what the client has said.
    fn reply(&mut self, code: u16, to: &[u8]) -> u16 {
        if self.is_gone {
            return 0;
        }
        let mut code = code;
        if self.random.one_in(self.calm) {
            match self.random.below(8) {
                0 => {
                    self.is_gone = true;
                    return 0;
                }
                1 => return 0,
                2 => {
                    let garbage = self.random.pick(&GARBAGE);
                    self.say.extend(garbage);
                    return 0;
                }
                3 => {
                    self.say.extend(to);
                    self.say.extend(b"\r\n");
                    return 0;
                }
                4 => {
                    self.say.extend(b"250 unasked\r\n");
                }
                5 => {
                    code = 421;
                    self.is_gone = self.random.one_in(2);
                }
                _ => {
                    code = self.random.pick(&[
                        250, 354, 421, 450, 500, 502, 503, 550, 220, 235, 334, 353, 221,
                    ])
                }
            }
        }
        let lines = match self.random.one_in(4) {
            true => self.random.up_to(4),
            false => 1,
        };
        for line in 1..=lines {
            let hyphen = if line == lines { b' ' } else { b'-' };
            self.say.extend(code.to_string().bytes());
            if !(line == lines && self.random.one_in(20)) {
                self.say.push_back(hyphen);
                let text: &[u8] = match self.random.below(12) {
                    0 => to,
                    1 => &[b'x'; 300],
                    _ => self.random.pick(&TEXTS),
                };
                self.say.extend(text);
            }
            let end: &[u8] = if self.random.one_in(10) {
                b"\n"
            } else {
                b"\r\n"
            };
            self.say.extend(end);
        }
        code
    }
}
