//! The server: it reads the octets that arrived, decides, answers, and records everything.

use smtp_proto::Instant;

use super::books::{About, Books, Demand, Kind, ReplyIndex, Said, Transaction};
use super::dice::Dice;
use super::lexer::{Lexer, Token, tag};

/// The behaviour of one server.
#[derive(Clone, Debug)]
pub(crate) struct Traits {
    pub(crate) lmtp: bool,
    pub(crate) pipelining: bool,
    pub(crate) chunking: bool,
    pub(crate) prdr: bool,
    /// RCPTMAX, as stated under LIMITS (RFC 9422).
    pub(crate) stated: Option<usize>,
    /// The same limit, unstated: more are answered 452.
    pub(crate) unstated: Option<usize>,
    /// How often it refuses and breaks off: 0 for never.
    pub(crate) trouble: usize,
    /// After a refused DATA it keeps the transaction until RSET.
    pub(crate) keeps: bool,
    /// It loses the commands that come with the end of the data.
    pub(crate) swallows: bool,
    /// It sends surplus replies.
    pub(crate) surplus: bool,
    pub(crate) eight_bit: bool,
    /// SIZE is offered, with this limit (zero for none).
    pub(crate) size: Option<u64>,
    pub(crate) dsn: bool,
    pub(crate) utf8: bool,
    pub(crate) binary: bool,
    /// STARTTLS is offered. In the clear, what else is offered is the opposite of what is offered inside TLS.
    pub(crate) starttls: bool,
}

/// What a reply to EHLO offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offers {
    pub(crate) pipelining: bool,
    pub(crate) chunking: bool,
    pub(crate) prdr: bool,
    pub(crate) eight_bit: bool,
    pub(crate) dsn: bool,
    pub(crate) utf8: bool,
    pub(crate) binary: bool,
    pub(crate) size: Option<u64>,
    pub(crate) stated: Option<usize>,
}

impl Traits {
    /// In the clear, where STARTTLS is offered there; else, or inside TLS.
    pub(crate) fn offers(&self, encrypted: bool) -> Offers {
        let lies = self.starttls && !encrypted;
        Offers {
            pipelining: self.pipelining != lies,
            chunking: self.chunking != lies,
            prdr: self.prdr != lies && !self.lmtp,
            eight_bit: self.eight_bit != lies,
            dsn: self.dsn != lies,
            utf8: self.utf8 != lies,
            binary: self.binary != lies,
            size: match (lies, self.size) {
                (false, size) => size,
                (true, None) => Some(1),
                (true, Some(_)) => None,
            },
            stated: match (lies, self.stated) {
                (false, stated) => stated,
                (true, None) => Some(1),
                (true, Some(_)) => None,
            },
        }
    }
}

/// The transaction in the server's own view.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) number: usize,
    pub(super) accepted: Vec<(usize, usize)>,
    pub(super) prdr: bool,
    /// A chunk was refused, so only RSET helps (RFC 3030 section 2).
    failed: bool,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) traits: Traits,
    pub(crate) books: Books,
    /// All octets that it has sent.
    pub(crate) sent: Vec<u8>,
    /// How many of the client's octets it has read.
    pub(crate) read: usize,
    pub(crate) closed: bool,
    /// It does nothing before this time.
    pub(crate) busy_until: Instant,
    pub(super) dice: Dice,
    pub(super) lexer: Lexer,
    pub(super) open: Option<Open>,
    /// It refuses after this many octets of the body, before the end.
    early: Option<usize>,
    /// It has answered the end of the data before the end came.
    answered_early: bool,
    /// A reply now answers something that has not arrived completely.
    early_now: bool,
    token_start: usize,
    /// Commands that begin before this offset are lost.
    swallow_until: usize,
    lost_commands: bool,
    /// 220 was said to STARTTLS.
    pub(crate) encrypted: bool,
    /// EHLO was said since the connection, or TLS, began.
    greeted: bool,
}

impl Server {
    pub(crate) fn new(traits: Traits, dice: Dice, now: Instant) -> Self {
        let mut server = Self {
            traits,
            books: Books::default(),
            sent: Vec::new(),
            read: 0,
            closed: false,
            busy_until: now,
            dice,
            lexer: Lexer::new(),
            open: None,
            early: None,
            answered_early: false,
            early_now: false,
            token_start: 0,
            swallow_until: 0,
            lost_commands: false,
            encrypted: false,
            greeted: false,
        };
        match server.trouble(4) {
            true => server.leave(421),
            false => _ = server.say(220, About::Opening),
        }
        server
    }

    pub(super) fn trouble(&mut self, per_mille: usize) -> bool {
        let per_mille = per_mille * self.traits.trouble;
        self.dice.chance(per_mille)
    }

    /// Reads what has arrived until there is something to answer. `given` is what the client gave to the network, and
    /// `arrived` is how much of it is here.
    pub(crate) fn act(&mut self, given: &[u8], arrived: usize, now: Instant) {
        let before = self.sent.len();
        while self.read < arrived && self.sent.len() == before && !self.closed {
            let token = self.lexer.feed(given[self.read]);
            self.read += 1;
            for token in [token, self.lexer.empty_chunk()].into_iter().flatten() {
                self.note(&token, self.read);
                let lost = self.token_start < self.swallow_until;
                if !matches!(token, Token::ChunkBegins { .. }) {
                    self.token_start = self.read;
                }
                match lost {
                    true => self.lost_commands = true,
                    false => self.on_token(token, given.len()),
                }
            }
            if self
                .early
                .is_some_and(|at| self.lexer.is_in_data() && self.lexer.body.len() >= at)
            {
                self.refuse_early();
            }
        }
        if self.sent.len() == before {
            return;
        }
        self.busy_until = now + self.dice.pause(2);
        let idle = self.read == arrived && !self.lexer.is_in_data() && !self.lexer.is_in_chunk();
        if self.traits.surplus && idle && !self.closed && self.dice.chance(60) {
            let code = self.dice.pick(&[250, 250, 252, 550, 450]);
            self.say(code, About::Surplus { read: self.read });
        }
    }

    /// Reads on for the records only: octets that were given but never arrived.
    pub(crate) fn finish(&mut self, given: &[u8]) {
        for (at, &octet) in given.iter().enumerate().skip(self.read) {
            let token = self.lexer.feed(octet);
            for token in [token, self.lexer.empty_chunk()].into_iter().flatten() {
                if matches!(&token, Token::Line(line) if line.starts_with(b"MAIL ")) {
                    self.lexer.body.clear();
                }
                self.note(&token, at + 1);
            }
        }
        self.books.mail_begun = self.lexer.has_begun_mail();
        if self.lexer.has_begun_end()
            && let Some(transaction) = self.books.transactions.last_mut()
        {
            transaction.end_begun = true;
        }
    }

    /// Records the client's octets, independent of their effect.
    fn note(&mut self, token: &Token, end: usize) {
        let books = &mut self.books;
        if !matches!(token, Token::ChunkBegins { .. }) {
            let kind = match token {
                Token::ChunkEnds { last: true } | Token::DataEnds => Kind::End,
                Token::ChunkEnds { last: false } => Kind::Chunk,
                Token::Line(line) => Kind::of(line),
                Token::ChunkBegins { .. } => Kind::Chunk,
            };
            let transaction = books.transactions.last();
            let prdr = transaction.is_some_and(|last| last.prdr);
            let replies = match kind {
                Kind::End if self.traits.lmtp => {
                    transaction.map_or(1, |last| last.due_by_lmtp(&books.said))
                }
                Kind::End if prdr => usize::MAX,
                _ => 1,
            };
            books.demands.push(Demand { kind, end, replies });
        }
        let last = books.transactions.last_mut();
        match token {
            Token::Line(line) if line.starts_with(b"MAIL ") => {
                let Some((message, _)) = tag(line) else {
                    return books.fault(format!("no message in {}", line.escape_ascii()));
                };
                let offers = self.traits.offers(self.encrypted);
                let prdr = offers.prdr && line.split(|b| *b == b' ').any(|word| word == b"PRDR");
                if !self.greeted {
                    books
                        .faults
                        .push(format!("before EHLO: {}", line.escape_ascii()));
                }
                books.transactions.push(Transaction {
                    message,
                    prdr,
                    mail: line.clone(),
                    encrypted: self.encrypted,
                    ..Transaction::default()
                });
            }
            Token::Line(line) if line.starts_with(b"RCPT ") => match (tag(line), last) {
                (Some((message, recipient)), Some(last)) if message == last.message => {
                    last.named.push((recipient, None));
                    last.rcpt.push(line.clone());
                }
                _ => books.fault(format!("not of this message: {}", line.escape_ascii())),
            },
            Token::ChunkBegins { last: is_last, .. } => last.into_iter().for_each(|t| {
                t.by_chunks = true;
                t.end_begun |= is_last;
            }),
            Token::ChunkEnds { last: true } | Token::DataEnds => {
                last.into_iter()
                    .for_each(|t| (t.end_begun, t.ended) = (true, true));
            }
            Token::Line(line) if line == b"DATA" => {
                last.into_iter().for_each(|t| t.by_data = true);
            }
            _ => {}
        }
        let has_eight_bit = self.lexer.body.iter().any(|octet| *octet > 127);
        if has_eight_bit && !matches!(token, Token::Line(_)) {
            let last = books.transactions.last_mut();
            last.into_iter().for_each(|t| t.has_eight_bit = true);
        }
    }

    pub(super) fn say(&mut self, code: u16, about: About) -> ReplyIndex {
        let enhanced = match (code, self.dice.below(3)) {
            (452, 0 | 1) => "4.5.3 ".to_owned(),
            (_, 0) if !(300..400).contains(&code) => format!("{}.1.5 ", code / 100),
            _ => String::new(),
        };
        let index = self.books.said.len();
        let mut text = format!("{enhanced}r{index} {}", WORDS[index % WORDS.len()]);
        if about == About::Hello && code == 250 {
            text = format!("mx.example.net r{index}{}", self.capabilities());
        } else if self.dice.chance(150) {
            text += &format!("\n{enhanced}r{index} and more");
        }
        self.say_text(code, text, about)
    }

    fn say_text(&mut self, code: u16, text: String, about: About) -> ReplyIndex {
        let count = text.split('\n').count();
        for (line, part) in text.split('\n').enumerate() {
            let hyphen = if line + 1 < count { '-' } else { ' ' };
            self.sent
                .extend_from_slice(format!("{code}{hyphen}{part}\r\n").as_bytes());
        }
        let (end, after_loss) = (self.sent.len(), self.lost_commands);
        let answers = match about {
            About::Surplus { .. } => None,
            _ if self.early_now => Some(self.books.demands.len()),
            _ => self.books.demands.len().checked_sub(1),
        };
        self.books.said.push(Said {
            code,
            text,
            about,
            end,
            after_loss,
            answers,
        });
        self.books.said.len() - 1
    }

    fn capabilities(&self) -> String {
        let offers = self.traits.offers(self.encrypted);
        let mut text = String::from("\nENHANCEDSTATUSCODES");
        for (offered, line) in [
            (offers.pipelining, "PIPELINING"),
            (offers.chunking, "CHUNKING"),
            (offers.prdr, "PRDR"),
            (offers.eight_bit, "8BITMIME"),
            (offers.dsn, "DSN"),
            (offers.utf8, "SMTPUTF8"),
            (offers.binary, "BINARYMIME"),
            (self.traits.starttls && !self.encrypted, "STARTTLS"),
        ] {
            if offered {
                text += "\n";
                text += line;
            }
        }
        if let Some(most) = offers.size {
            text += &format!("\nSIZE {most}");
        }
        if let Some(most) = offers.stated {
            text += &format!("\nLIMITS RCPTMAX={most}");
        }
        text
    }

    pub(super) fn leave(&mut self, code: u16) {
        self.say(code, About::Leaving);
        self.closed = true;
    }

    /// Sometimes breaks off instead of an answer.
    fn breaks_off(&mut self) -> bool {
        match () {
            () if self.trouble(4) => self.leave(421),
            () if self.trouble(2) => self.leave(221),
            () if self.trouble(2) => self.closed = true,
            () => return false,
        }
        true
    }

    pub(super) fn refusal(&mut self, per_mille: usize) -> Option<u16> {
        self.trouble(per_mille)
            .then(|| self.dice.pick(&[450, 451, 550, 554, 554, 503, 500]))
    }

    fn on_token(&mut self, token: Token, given: usize) {
        let number = self.books.transactions.len().wrapping_sub(1);
        match token {
            Token::Line(line) => self.on_line(&line, number),
            Token::ChunkBegins { last, .. } => {
                self.answered_early = false;
                let usable = self.open.as_ref().is_some_and(|open| !open.failed);
                if usable && !self.traits.lmtp && self.trouble(8) {
                    let code = self.dice.pick(&[451, 554, 552]);
                    self.early_now = true;
                    self.say(
                        code,
                        if last {
                            About::End(number)
                        } else {
                            About::Chunk(number)
                        },
                    );
                    (self.early_now, self.answered_early) = (false, true);
                    self.fail();
                }
            }
            Token::ChunkEnds { last } => {
                if !std::mem::take(&mut self.answered_early) {
                    self.on_chunk(last, number);
                }
                if last {
                    self.end_of_body(given);
                }
            }
            Token::DataEnds => {
                if !std::mem::take(&mut self.answered_early) {
                    self.on_end();
                }
                self.open = None;
                self.end_of_body(given);
            }
        }
    }

    fn end_of_body(&mut self, given: usize) {
        self.early = None;
        self.lexer.body.clear();
        if self.traits.swallows {
            self.swallow_until = given;
        }
    }

    fn fail(&mut self) {
        if let Some(open) = &mut self.open {
            open.failed = true;
        }
    }

    fn on_line(&mut self, line: &[u8], number: usize) {
        let verb = line.split(|&b| b == b' ').next().unwrap_or_default();
        match verb {
            b"QUIT" => {
                self.say(221, About::Quit);
                self.closed = true;
            }
            _ if self.breaks_off() => {}
            b"EHLO" | b"LHLO" => {
                let code = if self.trouble(2) { 554 } else { 250 };
                self.greeted = true;
                self.say(code, About::Hello);
            }
            b"STARTTLS" => {
                let refused = self.trouble(10);
                (self.encrypted, self.greeted) = (!refused, refused);
                self.say(if refused { 454 } else { 220 }, About::StartTls);
            }
            b"RSET" => {
                let code = self.refusal(8).unwrap_or(250);
                self.open = None;
                self.lexer.body.clear();
                self.say(code, About::Rset);
            }
            b"MAIL" => {
                if self.open.is_some() && !self.lost_commands {
                    self.books.fault("MAIL in an open transaction".into());
                }
                let nested = self.open.is_some() || self.lost_commands;
                let code = if nested { Some(503) } else { self.refusal(12) };
                if code.is_none() {
                    let prdr = self.books.transactions.last().is_some_and(|t| t.prdr);
                    self.lexer.body.clear();
                    self.open = Some(Open {
                        number,
                        accepted: Vec::new(),
                        prdr,
                        failed: false,
                    });
                }
                self.say(code.unwrap_or(250), About::Mail(number));
            }
            b"RCPT" => self.on_rcpt(line, number),
            b"DATA" => self.on_data(number),
            _ => {
                let code = if self.trouble(30) {
                    502
                } else {
                    self.dice.pick(&[250, 252])
                };
                let request = line
                    .iter()
                    .rposition(|&b| b == b'q')
                    .and_then(|at| std::str::from_utf8(&line[at + 1..]).ok()?.parse().ok());
                self.say(code, request.map_or(About::Unknown, About::Request));
            }
        }
    }

    fn on_rcpt(&mut self, line: &[u8], number: usize) {
        let Some((message, recipient)) = tag(line) else {
            return;
        };
        let refusal = self.refusal(60);
        let most = self
            .traits
            .offers(self.encrypted)
            .stated
            .or(self.traits.unstated)
            .unwrap_or(usize::MAX);
        let code = match &mut self.open {
            None => 503,
            Some(open) if open.failed => 503,
            Some(open) if open.accepted.len() >= most => 452,
            Some(open) => match refusal {
                Some(code) => code,
                None => {
                    open.accepted.push((message, recipient));
                    [250, 250, 250, 250, 251, 252][self.dice.below(6)]
                }
            },
        };
        let index = self.say(
            code,
            About::Rcpt {
                transaction: number,
                message,
                recipient,
            },
        );
        if let Some(last) = self.books.transactions.last_mut()
            && let Some(named) = last
                .named
                .iter_mut()
                .rev()
                .find(|(named, _)| *named == recipient)
        {
            named.1 = Some(index);
        }
    }

    fn on_data(&mut self, number: usize) {
        let refusal = self.refusal(15);
        let (lmtp, odd) = (self.traits.lmtp, self.trouble(3));
        let code = match &self.open {
            None => 503,
            Some(open) if open.accepted.is_empty() => match lmtp || self.dice.chance(700) {
                true => 554,
                false => 354,
            },
            Some(_) => refusal.unwrap_or(if odd { 250 } else { 354 }),
        };
        self.say(code, About::Data(number));
        if code == 354 {
            self.lexer.begin_data();
            self.early = self.trouble(20).then(|| self.dice.below(200));
        } else if !self.traits.keeps {
            self.open = None;
        }
    }

    /// Refuses in the middle of the body: an early answer to the end.
    fn refuse_early(&mut self) {
        self.early = None;
        if self.trouble(30) {
            return self.leave(421);
        }
        let number = self.open.as_ref().map_or(0, |open| open.number);
        let code = self.dice.pick(&[451, 552, 554]);
        self.early_now = true;
        self.say(code, About::End(number));
        (self.early_now, self.answered_early) = (false, true);
        self.open = None;
        self.closed = self.dice.chance(500);
    }

    fn on_chunk(&mut self, last: bool, number: usize) {
        let usable = self
            .open
            .as_ref()
            .is_some_and(|open| !open.failed && !open.accepted.is_empty());
        if !usable {
            self.fail();
            self.say(
                503,
                if last {
                    About::End(number)
                } else {
                    About::Chunk(number)
                },
            );
            return;
        }
        if last {
            // Some servers keep a transaction that was refused at its end, until RSET.
            let kept = self.on_end();
            if kept && self.traits.keeps {
                return self.fail();
            }
            self.open = None;
            return;
        }
        if self.breaks_off() {
            return;
        }
        let refusal = self.refusal(20);
        if refusal.is_some() {
            self.fail();
        }
        self.say(refusal.unwrap_or(250), About::Chunk(number));
    }
}

const WORDS: [&str; 6] = [
    "ok",
    "fine",
    "so be it",
    "who knows",
    "that is that",
    "queued as 4711",
];
