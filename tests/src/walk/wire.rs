//! The client's octets in the server's view, and the rules for commands.

use smtp_proto::{Chunking, Protocol, TlsPolicy};

use super::books::{Books, Kind, Owed, Transaction};
use super::scene::{LOGIN, Login, PASSWORD, PLAIN, Scene, Writing};
use super::{Failure, fail};
use crate::fuzzing::model::lexer::{Lexer, Token, tag};

/// The wanted body, and what the application has declared about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Feed {
    pub(crate) message: usize,
    /// How many octets of it were taken.
    pub(crate) used: usize,
    /// The application has declared its end.
    pub(crate) complete: bool,
}

/// Reads the given octets, one by one.
pub(crate) struct Wire {
    lexer: Lexer,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self {
            lexer: Lexer::new(),
        }
    }

    pub(crate) fn begin_data(&mut self) {
        self.lexer.begin_data();
    }

    /// The wire's part in the key of a state: the position of the reader, and its unfinished input.
    pub(crate) fn state(&self) -> String {
        format!("{:?}", self.lexer)
    }

    pub(crate) fn read(
        &mut self,
        octets: &[u8],
        scene: &Scene,
        books: &mut Books,
        feed: Option<&Feed>,
    ) -> Result<(), Failure> {
        let mut reader = Reader {
            lexer: &mut self.lexer,
            scene,
            books,
            feed,
        };
        octets.iter().try_for_each(|octet| reader.octet(*octet))
    }
}

struct Reader<'a> {
    lexer: &'a mut Lexer,
    scene: &'a Scene,
    books: &'a mut Books,
    feed: Option<&'a Feed>,
}

impl Reader<'_> {
    fn octet(&mut self, octet: u8) -> Result<(), Failure> {
        self.books.given += 1;
        if self.books.quit {
            return fail("a command after QUIT", octet.escape_ascii().to_string());
        }
        if self.books.handshake.is_some() {
            return fail(
                "in the clear before a handshake",
                octet.escape_ascii().to_string(),
            );
        }
        let in_data = self.lexer.is_in_data();
        let token = self.lexer.feed(octet);
        if in_data && !self.has_somebody() {
            let is_dot = matches!(token, Some(Token::DataEnds)) && self.lexer.body.is_empty();
            if !is_dot && !self.lexer.has_begun_end() {
                return fail("a body for nobody", "no recipient was accepted");
            }
        }
        if let Some(token) = token {
            self.token(token)?;
            if let Some(token) = self.lexer.empty_chunk() {
                self.token(token)?;
            }
        }
        Ok(())
    }

    /// Whether MAIL and a recipient were accepted.
    fn has_somebody(&self) -> bool {
        let last = self.books.transactions.len().wrapping_sub(1);
        let mail = self
            .books
            .transactions
            .last()
            .and_then(|transaction| transaction.mail);
        mail.is_some_and(|reply| self.books.code(reply) < 300)
            && self.books.accepted(last).next().is_some()
    }

    fn token(&mut self, token: Token) -> Result<(), Failure> {
        match token {
            Token::Line(line) => self.line(&line),
            Token::ChunkBegins { last, .. } => self.chunk_begins(last),
            Token::ChunkEnds { last } => {
                if !last {
                    return self.owe(Kind::Chunk, 0);
                }
                self.compare()?;
                self.end()
            }
            Token::DataEnds => {
                match self.has_somebody() {
                    true => self.compare()?,
                    false => {
                        if let Some(transaction) = self.books.current() {
                            transaction.lone_dot = true;
                        }
                        self.owe_end(Kind::End);
                        return Ok(());
                    }
                }
                self.end()
            }
        }
    }

    /// The body must be what the application has given, with all lines ended by CRLF.
    fn compare(&mut self) -> Result<(), Failure> {
        let Some(feed) = self.feed else {
            return fail("a body that nobody gave", "no body was wanted");
        };
        if !feed.complete {
            return fail(
                "the end of a body that goes on",
                "the application has not ended it",
            );
        }
        let mut told = self.scene.body[..feed.used].to_vec();
        if told.ends_with(b"\r") {
            told.push(b'\n');
        } else if !told.is_empty() && !told.ends_with(b"\n") {
            told.extend_from_slice(b"\r\n");
        }
        match self.lexer.body == told {
            true => Ok(()),
            false => fail("body changed", self.lexer.body.escape_ascii().to_string()),
        }
    }

    /// The end of the data has arrived.
    fn end(&mut self) -> Result<(), Failure> {
        self.lexer.body.clear();
        let number = self.books.transactions.len() - 1;
        if let Some(transaction) = self.books.current() {
            transaction.ended = true;
        }
        match self.scene.config.protocol {
            Protocol::Smtp => self.owe_end(Kind::End),
            Protocol::Lmtp => {
                let accepted: Vec<_> = self.books.accepted(number).collect();
                for recipient in accepted {
                    self.owe_end(Kind::EndFor(recipient));
                }
            }
        }
        Ok(())
    }

    fn owe_end(&mut self, kind: Kind) {
        self.push(kind, 0, false);
    }

    /// A command line has arrived, and its reply is owed.
    fn owe(&mut self, kind: Kind, octets: usize) -> Result<(), Failure> {
        let overlaps = self.may_follow(kind, octets)?;
        self.push(kind, octets, overlaps);
        Ok(())
    }

    fn push(&mut self, kind: Kind, octets: usize, overlaps: bool) {
        let is_of_message = !matches!(
            kind,
            Kind::Greeting
                | Kind::Hello
                | Kind::Helo
                | Kind::StartTls
                | Kind::Auth
                | Kind::AuthCancel
                | Kind::Request(_)
                | Kind::Rset
        );
        let transaction = is_of_message.then(|| self.books.transactions.len() - 1);
        let (end, written) = (self.books.given, None);
        self.books.owed.push_back(Owed {
            kind,
            transaction,
            end,
            octets,
            written,
            overlaps,
        });
    }

    /// Whether this may be sent while replies are owed (RFC 2920). Returns whether it overlaps the end of data.
    fn may_follow(&self, kind: Kind, octets: usize) -> Result<bool, Failure> {
        let (books, config) = (&*self.books, &self.scene.config);
        let Some(last) = books.owed.back() else {
            return Ok(false);
        };
        let what = format!("{kind:?} follows {:?}", last.kind);
        if !(books.offers("PIPELINING") && config.pipelining) {
            return fail("pipelining that is not offered", what);
        }
        let overlaps = config.overlap
            && config.protocol == Protocol::Smtp
            && matches!(kind, Kind::Mail | Kind::Rset)
            && (last.kind.is_end() || (last.kind == Kind::Rset && last.overlaps));
        if !overlaps && !matches!(last.kind, Kind::Mail | Kind::Rcpt(_) | Kind::Chunk) {
            return fail("a command after the end of a batch", what);
        }
        let in_flight: usize = books.owed.iter().map(|owed| owed.octets).sum();
        if kind != Kind::Chunk && in_flight + octets > config.limits.in_flight {
            return fail(
                "more octets in flight than the limit",
                format!("{in_flight} and {octets}"),
            );
        }
        let chunks = books
            .owed
            .iter()
            .filter(|owed| owed.kind == Kind::Chunk)
            .count();
        if kind == Kind::Chunk && chunks >= config.limits.chunks {
            return fail("more chunks in flight than the limit", what);
        }
        Ok(overlaps)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(line).into_owned();
        let octets = line.len() + 2;
        if self.books.in_auth {
            self.books.in_auth = false;
            if text == "*" {
                return self.owe(Kind::AuthCancel, octets);
            }
            self.may_log_in(&text)?;
            self.books.auth_lines += 1;
            return self.owe(Kind::Auth, octets);
        }
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        if verb != "AUTH"
            && [PASSWORD, PLAIN, LOGIN]
                .iter()
                .any(|secret| text.contains(secret))
        {
            return fail("a password where none is asked for", text);
        }
        if !matches!(verb, "EHLO" | "LHLO" | "HELO" | "STARTTLS" | "QUIT") {
            self.may_be_said_here(&text)?;
        }
        match verb {
            "EHLO" | "LHLO" => {
                let is_lmtp = self.scene.config.protocol == Protocol::Lmtp;
                if is_lmtp != (verb == "LHLO") || self.books.has_hello {
                    return fail("EHLO out of place", text);
                }
                self.owe(Kind::Hello, octets)
            }
            "HELO" if self.books.ehlo_unknown => self.owe(Kind::Helo, octets),
            "STARTTLS" => {
                let wanted = matches!(
                    self.scene.config.tls,
                    TlsPolicy::Opportunistic | TlsPolicy::Required
                );
                if self.books.tls.is_some() || !wanted || !self.books.offers("STARTTLS") {
                    return fail("STARTTLS that is not offered", text);
                }
                self.owe(Kind::StartTls, octets)
            }
            "AUTH" => self.auth(rest, octets),
            "RSET" => self.owe(Kind::Rset, octets),
            "MAIL" => self.mail(&text, octets),
            "RCPT" => self.rcpt(&text, octets),
            "DATA" => {
                let is_next = self.books.transactions.last().is_some_and(|last| {
                    last.data.is_none() && !last.ended && !last.named.is_empty()
                });
                match is_next {
                    true => self.owe(Kind::Data, octets),
                    false => fail("DATA out of place", text),
                }
            }
            "NOOP" => {
                if self.books.holds || self.books.requests.len() >= self.scene.requests {
                    return fail("a request out of place", text);
                }
                let number = self.books.requests.len();
                self.books.requests.push((number, None));
                self.owe(Kind::Request(number), octets)
            }
            "QUIT" => {
                self.may_quit()?;
                self.books.quit = true;
                Ok(())
            }
            _ => fail("octets that are no command", text),
        }
    }

    fn may_quit(&self) -> Result<(), Failure> {
        match self.books.owed.is_empty() {
            true => Ok(()),
            false => fail(
                "QUIT while a reply is owed",
                format!("{:?}", self.books.owed),
            ),
        }
    }

    /// Commands other than EHLO, STARTTLS and QUIT wait for EHLO, and for TLS if it is required.
    fn may_be_said_here(&self, text: &str) -> Result<(), Failure> {
        let required = matches!(
            self.scene.config.tls,
            TlsPolicy::Required | TlsPolicy::Implicit
        );
        if required && self.books.tls.is_none() {
            return fail("in the clear where TLS is required", text);
        }
        if !self.books.has_hello {
            return fail("a command before EHLO", text);
        }
        let logs_in = self.scene.login != Login::No;
        if logs_in && !self.books.logged_in && !text.starts_with("AUTH") {
            return fail("a command before the login", text);
        }
        Ok(())
    }

    /// Credentials go to a verified server, or to one that the application has permitted.
    fn may_log_in(&self, text: &str) -> Result<(), Failure> {
        let permitted = match (self.books.tls, self.scene.login) {
            (_, Login::No) => false,
            (Some(true), _) => true,
            (Some(false), login) => login == Login::Unverified,
            (None, login) => login == Login::Clear,
        };
        match permitted {
            true => Ok(()),
            false => fail("credentials to somebody else", text),
        }
    }

    fn auth(&mut self, rest: &str, octets: usize) -> Result<(), Failure> {
        self.may_log_in(rest)?;
        let mechanism = rest.split(' ').next().unwrap_or_default();
        let is_offered = |line: &&&str| line.split(' ').skip(1).any(|name| name == mechanism);
        let auth = self
            .books
            .offer
            .iter()
            .filter(|line| line.starts_with("AUTH "));
        if self.books.logged_in || auth.filter(is_offered).count() == 0 {
            return fail("AUTH that is not offered", rest);
        }
        self.books.auth_lines += 1;
        self.owe(Kind::Auth, octets)
    }

    fn mail(&mut self, text: &str, octets: usize) -> Result<(), Failure> {
        let ends = self.books.owed.iter().any(|owed| owed.kind.is_end());
        if self.books.holds && !ends {
            return fail(
                "MAIL in a transaction",
                "RSET, or the end of the data, must come first",
            );
        }
        let Some((message, _)) = tag(text.as_bytes()) else {
            return fail("octets that are no command", text);
        };
        let last = self.books.transactions.last();
        if last.is_some_and(|last| last.message > message) {
            return fail("messages out of order", text);
        }
        let parameters = text.split('>').nth(1).unwrap_or_default();
        for parameter in parameters.split(' ').filter(|word| !word.is_empty()) {
            let keyword = parameter.split('=').next().unwrap_or_default();
            let extension = if keyword == "BODY" {
                "8BITMIME"
            } else {
                keyword
            };
            if !self.books.offers(extension) {
                return fail("a parameter that is not offered", text);
            }
        }
        let prdr = parameters.split(' ').any(|word| word == "PRDR");
        let overlaps = self.may_follow(Kind::Mail, octets)?;
        self.lexer.body.clear();
        self.books.transactions.push(Transaction {
            message,
            overlaps,
            prdr,
            ..Transaction::default()
        });
        self.push(Kind::Mail, octets, overlaps);
        Ok(())
    }

    fn rcpt(&mut self, text: &str, octets: usize) -> Result<(), Failure> {
        let Some((message, recipient)) = tag(text.as_bytes()) else {
            return fail("octets that are no command", text);
        };
        let most = match self.books.offer.contains(&"LIMITS RCPTMAX=1") {
            true => 1,
            false => usize::MAX,
        };
        let Some(last) = self.books.transactions.last() else {
            return fail("RCPT out of place", text);
        };
        let in_order = last
            .named
            .last()
            .is_none_or(|(before, _)| *before < recipient);
        let is_open = last.data.is_none() && !last.ended && last.message == message;
        if !in_order || !is_open || last.named.len() >= most {
            return fail("RCPT out of place", text);
        }
        self.owe(Kind::Rcpt(recipient), octets)?;
        if let Some(last) = self.books.current() {
            last.named.push((recipient, None));
        }
        Ok(())
    }

    fn chunk_begins(&mut self, last: bool) -> Result<(), Failure> {
        let config = &self.scene.config;
        let what = if last { "the last chunk" } else { "a chunk" };
        if config.chunking == Chunking::Never || !self.books.offers("CHUNKING") {
            return fail("BDAT that is not offered", what);
        }
        self.may_be_said_here("BDAT")?;
        if config.chunking != Chunking::Eager && !self.has_somebody() {
            return fail("a body for nobody", what);
        }
        let refused = self
            .books
            .transactions
            .last()
            .is_some_and(|last| last.refused_chunk.is_some());
        // Gathered octets were sent before.
        if refused && self.scene.writing == Writing::Direct {
            return fail("a chunk after one that was refused", what);
        }
        self.may_follow(Kind::Chunk, 0).map(|_| ())
    }
}
