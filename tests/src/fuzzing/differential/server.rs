//! The server: it reads when it is told that the client waits, and answers all that is whole.

use smtp_proto::Chunking;

use super::super::model::lexer::{Lexer, Token, tag};
use super::Scene;

/// Each command takes the next choice; those after the last are 0:
///
/// | | |
/// |---|---|
/// | 10, 11 | 450, 550 |
/// | 12 | 452 with the meaning of too many recipients |
/// | 13, 14 | 421, nothing at all; and the end |
/// | 15 | what is no reply |
/// | 16 | 503 |
/// | 17 | yes, in two lines |
/// | 18 | 354 where it is wrong, and 250 where it would be right |
/// | 19 | half a reply, and the end |
/// | else | yes |
///
/// Where envelopes overlap, some things depend on the moment. A refused RSET ends the session, and by then more or less of
/// the next message has gone out. So the server ends the connection there. 503 to MAIL ends the session if MAIL went out
/// before the replies to the message before it. So it is 550 there.
///
/// It never sends a reply too many. No client can tell such a one from the next reply that is due.
pub(super) struct Server {
    lmtp: bool,
    offers: u8,
    choices: Vec<u8>,
    next: usize,
    lexer: Lexer,
    wire: Vec<u8>,
    read: usize,
    replies: usize,
    /// Said, and not taken by the client yet.
    out: Vec<u8>,
    accepted: usize,
    prdr: bool,
    /// The transaction lives.
    open: bool,
    failed: bool,
    overlap: bool,
    window: usize,
    /// Eager chunks follow an envelope before it is answered, or after.
    rushes: bool,
    is_shifted: bool,
    closed: bool,
    /// The client waits for octets, and not for its turn.
    waited_for: bool,
    /// The connection has ended.
    ended: bool,
    broken_at: Option<usize>,
}

impl Server {
    pub(super) fn new(scene: &Scene) -> Self {
        Self {
            lmtp: scene.config.protocol == smtp_proto::Protocol::Lmtp,
            offers: scene.offers,
            choices: scene.choices.clone(),
            next: 0,
            lexer: Lexer::new(),
            wire: vec![],
            read: 0,
            replies: 0,
            out: b"220 mx.example.net\r\n".to_vec(),
            accepted: 0,
            prdr: false,
            open: false,
            failed: false,
            overlap: scene.config.overlap,
            window: scene.config.limits.chunks,
            rushes: scene.config.overlap && scene.config.chunking == Chunking::Eager,
            is_shifted: false,
            closed: false,
            waited_for: false,
            ended: false,
            broken_at: None,
        }
    }

    pub(super) fn write(&mut self, octets: &[u8]) {
        self.wire.extend_from_slice(octets);
    }

    /// The client has nothing more to say before it hears something. Whether it hears something now; else the
    /// connection ends.
    pub(super) fn settle(&mut self) -> bool {
        while !self.closed && self.read < self.wire.len() {
            let token = self.lexer.feed(self.wire[self.read]);
            self.read += 1;
            for token in [token, self.lexer.empty_chunk()].into_iter().flatten() {
                if !self.closed {
                    self.on_token(token);
                }
            }
        }
        !self.out.is_empty()
    }

    /// The next octets for the client, at most so many.
    pub(super) fn take(&mut self, most: usize) -> Vec<u8> {
        let n = most.min(self.out.len());
        self.out.drain(..n).collect()
    }

    pub(super) fn has_more(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn client_waits(&mut self) {
        self.waited_for = true;
    }

    /// Does as [`settle`](Self::settle) where the client waits, and ends the connection if it would wait for ever.
    pub(super) fn settle_if_waited_for(&mut self) {
        if std::mem::take(&mut self.waited_for) && self.out.is_empty() {
            self.ended = !self.settle();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn heard(&self) -> &[u8] {
        &self.wire[..self.read]
    }

    pub(super) fn broken_at(&self) -> Option<usize> {
        self.broken_at
    }

    pub(super) fn is_shifted(&self) -> bool {
        self.is_shifted
    }

    fn choice(&mut self) -> u8 {
        self.next += 1;
        self.choices.get(self.next - 1).copied().unwrap_or(0)
    }

    fn breaks(&mut self) {
        self.broken_at.get_or_insert(self.read);
    }

    fn close(&mut self) {
        self.closed = true;
        self.breaks();
    }

    fn say(&mut self, code: u16, more: &str) {
        let n = self.replies;
        self.replies += 1;
        let text = format!("{code}{more} r{n}\r\n");
        self.out.extend_from_slice(text.as_bytes());
    }

    /// Says yes with this code, or what is chosen instead. Whether it said yes.
    fn answer(&mut self, yes: u16) -> bool {
        let fine = self.choose(yes);
        self.is_shifted |= self.rushes && !fine;
        fine
    }

    fn choose(&mut self, yes: u16) -> bool {
        match self.choice() {
            10 => self.say(450, " 4.2.0"),
            11 => self.say(550, " 5.1.1"),
            12 => self.say(452, " 4.5.3"),
            13 => {
                self.say(421, "");
                self.close();
            }
            14 => self.close(),
            15 => {
                self.out.extend_from_slice(b"no reply\r\n");
                self.breaks();
            }
            16 => self.say(503, ""),
            17 => {
                self.out
                    .extend_from_slice(format!("{yes}-first\r\n").as_bytes());
                self.say(yes, "");
                return true;
            }
            18 => {
                self.say(if yes == 354 { 250 } else { 354 }, "");
                self.breaks();
            }
            19 => {
                self.out.extend_from_slice(b"250-");
                self.close();
            }
            _ => {
                self.say(yes, "");
                return true;
            }
        }
        false
    }

    fn on_token(&mut self, token: Token) {
        match token {
            Token::Line(line) => self.on_line(&line),
            Token::ChunkBegins { .. } => {}
            Token::ChunkEnds { last: false } => {
                let refused = !self.open || self.failed || self.accepted == 0;
                let fine = match refused {
                    true => {
                        self.say(503, "");
                        false
                    }
                    false => self.answer(250),
                };
                if !fine {
                    self.failed = true;
                    self.is_shifted |= self.window > 1;
                }
            }
            Token::ChunkEnds { last: true } => {
                if !self.open || self.failed || self.accepted == 0 {
                    self.say(503, "");
                    // Kept until RSET, as RFC 3030 has it.
                    self.failed = true;
                    return;
                }
                self.end_of_data();
            }
            Token::DataEnds => self.end_of_data(),
        }
    }

    fn end_of_data(&mut self) {
        self.lexer.body.clear();
        self.open = false;
        if self.accepted == 0 {
            self.say(554, "");
            return;
        }
        let prdr = self.prdr && !self.lmtp;
        if prdr {
            self.say(353, "");
        }
        if self.lmtp || prdr {
            for _ in 0..self.accepted {
                self.answer(250);
                if self.closed {
                    return;
                }
            }
        }
        if !self.lmtp {
            self.answer(250);
        }
    }

    fn on_line(&mut self, line: &[u8]) {
        let verb = line
            .split(|octet| *octet == b' ')
            .next()
            .unwrap_or_default();
        match verb {
            b"EHLO" | b"LHLO" => self.hello(),
            b"RSET" => {
                (self.open, self.failed) = (false, false);
                self.lexer.body.clear();
                if !self.answer(250) && self.overlap {
                    self.close();
                }
            }
            b"MAIL" => {
                assert!(tag(line).is_some(), "{}", line.escape_ascii());
                self.prdr = line.ends_with(b" PRDR");
                (self.accepted, self.failed) = (0, false);
                self.lexer.body.clear();
                if self.overlap
                    && let Some(choice @ 16) = self.choices.get_mut(self.next)
                {
                    *choice = 11;
                }
                self.open = match self.open {
                    true => {
                        self.say(503, "");
                        true
                    }
                    false => self.answer(250),
                };
            }
            b"RCPT" if !self.open => self.say(503, ""),
            b"RCPT" => self.accepted += usize::from(self.answer(250)),
            b"DATA" if !self.open => self.say(503, ""),
            b"DATA" if self.accepted == 0 => self.say(554, ""),
            b"DATA" => match self.answer(354) {
                true => self.lexer.begin_data(),
                false => self.open = false,
            },
            b"QUIT" => {
                self.say(221, "");
                self.closed = true;
            }
            _ => panic!("{}", line.escape_ascii()),
        }
    }

    fn hello(&mut self) {
        let mut keywords = vec!["mx.example.net"];
        for (bit, keyword) in [
            (1, "PIPELINING"),
            (2, "CHUNKING"),
            (4, "8BITMIME"),
            (8, "PRDR"),
            (16, "LIMITS RCPTMAX=2"),
            (32, "SIZE 100000"),
            (64, "ENHANCEDSTATUSCODES"),
        ] {
            if self.offers & bit != 0 {
                keywords.push(keyword);
            }
        }
        let last = keywords.len() - 1;
        for (at, keyword) in keywords.into_iter().enumerate() {
            let hyphen = if at == last { ' ' } else { '-' };
            self.out
                .extend_from_slice(format!("250{hyphen}{keyword}\r\n").as_bytes());
        }
    }
}
