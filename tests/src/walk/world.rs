//! One conversation: the engine, the transport, the application, and the judge.

use std::fmt::Write as _;
use std::time::Duration;

use smtp_proto::{
    Cause, Connection, Error, Instant, MessageId, Outcome, Request, TlsFacts, TlsPolicy,
    event::RequestId,
};

use super::books::{Books, Ending, Kind, Owed};
use super::letter::{Answer, Letter};
use super::scene::{Scene, Writing};
use super::server::{self, Effect};
use super::transport::WRITES;
use super::wire::{Feed, Wire};
use super::{Counts, Failure, fail};

/// Far more offers than one letter causes.
pub(super) const MOST_OFFERS: usize = 1_000;

pub(crate) struct World<'s> {
    pub(crate) scene: &'s Scene,
    pub(crate) engine: Connection,
    pub(super) now: Instant,
    pub(crate) books: Books,
    pub(crate) wire: Wire,
    pub(crate) feed: Option<Feed>,
    /// Octets that left the engine, and are not written. The front of them may be given.
    pub(crate) gathered: Vec<u8>,
    pub(crate) messages: Vec<MessageId>,
    pub(crate) requests: Vec<RequestId>,
    pub(crate) finished: usize,
    pub(crate) answered: usize,
    pub(crate) is_ready: bool,
    pub(crate) has_quit: bool,
    pub(crate) closed: Option<Result<(), Error>>,
    pub(crate) counts: Counts,
    /// Every rule is checked. A path that was judged is only walked again.
    pub(crate) is_judged: bool,
    pub(super) log: Option<String>,
}

impl<'s> World<'s> {
    pub(crate) fn new(scene: &'s Scene) -> Result<Self, Failure> {
        let now = Instant::from_origin(Duration::from_secs(1));
        let mut books = Books {
            last_reply: now,
            ..Books::default()
        };
        match scene.config.tls {
            TlsPolicy::Implicit => books.handshake = Some(now),
            _ => books.owed.push_back(greeting(0, now)),
        }
        let mut world = Self {
            scene,
            engine: Connection::new(scene.config.clone(), now),
            now,
            books,
            wire: Wire::new(),
            feed: None,
            gathered: Vec::new(),
            messages: Vec::new(),
            requests: Vec::new(),
            finished: 0,
            answered: 0,
            is_ready: false,
            has_quit: false,
            closed: None,
            counts: Counts::default(),
            is_judged: true,
            log: None,
        };
        world.settle()?;
        Ok(world)
    }

    /// Records everything that happens from now on.
    pub(crate) fn write_log(&mut self) {
        self.log = Some(String::new());
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{}", line());
        }
    }

    pub(crate) fn log(self) -> String {
        self.log.unwrap_or_default()
    }

    /// All letters that can have an effect here.
    pub(crate) fn letters(&self) -> Vec<Letter> {
        let mut letters = Vec::new();
        if self.closed.is_some() {
            return letters;
        }
        let phase = self.phase();
        let may_submit = !self.has_quit && !matches!(phase.as_str(), "draining" | "leaving");
        if may_submit && self.messages.len() < self.scene.messages.len() {
            letters.push(Letter::Submit);
        }
        if may_submit && self.requests.len() < self.scene.requests {
            letters.push(Letter::Request);
        }
        if may_submit {
            letters.push(Letter::Quit);
        }
        letters.push(Letter::Abort);
        if let Some(feed) = self.feed.as_ref().filter(|_| self.engine.wants_body()) {
            let left = self.scene.body.len() - feed.used;
            let octets = |octets| u8::try_from(octets).unwrap_or(u8::MAX);
            letters.extend((1..=left).map(|n| Letter::Offer {
                octets: octets(n),
                last: false,
            }));
            letters.push(Letter::Offer {
                octets: octets(left),
                last: true,
            });
            letters.extend([Letter::FinishBody, Letter::FailBody]);
        }
        let answers = match self.is_leaving() {
            true => vec![Answer::Yes],
            false => server::answers(&self.books, self.scene),
        };
        letters.extend(answers.into_iter().map(Letter::Reply));
        if self.books.handshake.is_some() {
            letters.extend([
                Letter::TlsVerified,
                Letter::TlsUnverified,
                Letter::TlsFailed,
            ]);
        } else if self.is_unconfirmed() {
            letters.push(Letter::TlsFailed);
        }
        letters.extend([Letter::Eof, Letter::EofInReply, Letter::Lost]);
        if self.engine.poll_timeout().is_some() {
            letters.extend([Letter::Timeout, Letter::TimeoutInReply]);
        }
        match self.scene.writing {
            Writing::Direct => {}
            Writing::Slow => letters.extend(WRITES),
            Writing::Gathers => {
                if self.books.given < self.books.written + self.gathered.len() {
                    letters.push(Letter::Give);
                }
                if !self.gathered.is_empty() {
                    letters.extend(WRITES);
                }
            }
        }
        letters
    }

    /// QUIT must go out, and nothing else matters.
    pub(super) fn is_leaving(&self) -> bool {
        self.phase() == "leaving"
    }

    /// TLS is established, and the server has not replied inside it.
    fn is_unconfirmed(&self) -> bool {
        let first = match self.scene.config.tls {
            TlsPolicy::Implicit => Kind::Greeting,
            _ => Kind::Hello,
        };
        let owes_first = self.books.front().is_some_and(|owed| owed.kind == first);
        self.books.tls.is_some() && owes_first && !self.books.has_hello
    }

    /// Applies this letter, and checks all rules after it.
    pub(crate) fn apply(&mut self, letter: Letter) -> Result<(), Failure> {
        self.note(|| format!("-- {letter}"));
        self.now = self.now + Duration::from_secs(1);
        let effect = self.act(letter)?;
        self.settle()?;
        if !self.is_judged {
            return Ok(());
        }
        // If QUIT is sent after the first of two replies, the second is not read.
        let leaves = letter == Letter::Reply(Answer::YesAndSurplus) && self.is_leaving();
        if effect == Effect::Ends && self.closed.is_none() && !leaves {
            return fail(
                "a session that goes on",
                format!("after {letter}, in {}", self.phase()),
            );
        }
        self.check()
    }

    fn act(&mut self, letter: Letter) -> Result<Effect, Failure> {
        match letter {
            Letter::Submit => {
                let envelope = self.scene.messages[self.messages.len()].clone();
                match self.engine.submit(envelope) {
                    Ok(id) => self.messages.push(id),
                    Err(misuse) => return fail("a message that is not taken", misuse.to_string()),
                }
            }
            Letter::Request => match self.engine.request(Request::noop()) {
                Ok(id) => self.requests.push(id),
                Err(misuse) => return fail("a request that is not taken", misuse.to_string()),
            },
            Letter::Quit => {
                self.has_quit = true;
                if let Err(misuse) = self.engine.quit() {
                    return fail("quit is not taken", misuse.to_string());
                }
            }
            Letter::Abort => {
                self.books.ending.get_or_insert(Ending::Other);
                if let Err(misuse) = self.engine.abort("enough") {
                    return fail("abort is not taken", misuse.to_string());
                }
                return Ok(Effect::Ends);
            }
            Letter::Offer { octets, last } => self.offer(usize::from(octets), last)?,
            Letter::FinishBody => match self.engine.finish_body() {
                Ok(()) => self.end_feed(),
                Err(misuse) => return fail("finish_body is not taken", misuse.to_string()),
            },
            Letter::FailBody => {
                if let Err(misuse) = self.engine.fail_body(Outcome::Permanent, "no more") {
                    return fail("fail_body is not taken", misuse.to_string());
                }
                if let Some(transaction) = self.books.current().filter(|last| !last.ended) {
                    transaction.given_up = true;
                }
                self.feed = None;
            }
            Letter::Reply(answer) => return self.reply(answer),
            Letter::TlsVerified | Letter::TlsUnverified => {
                self.establish(letter == Letter::TlsVerified)?;
            }
            Letter::TlsFailed => {
                self.books.ending = Some(Ending::Other);
                if let Err(misuse) = self.engine.handle_tls_failed(Cause::TlsFailed("no".into())) {
                    return fail("handle_tls_failed is not taken", misuse.to_string());
                }
                return Ok(Effect::Ends);
            }
            Letter::Eof | Letter::EofInReply | Letter::Lost => {
                self.books.ending.get_or_insert(Ending::Other);
                // Octets before a handshake are an attack, and end it by themselves.
                if letter == Letter::EofInReply {
                    self.engine.handle_input(self.now, b"250-no");
                }
                match letter {
                    Letter::Lost => {
                        let cause = Cause::Transport("the wire is cut".into());
                        self.engine.handle_lost(self.now, cause);
                    }
                    _ => self.engine.handle_eof(self.now),
                }
                return Ok(Effect::Ends);
            }
            Letter::Timeout | Letter::TimeoutInReply => return self.time_out(letter),
            Letter::WriteLine | Letter::WritePart | Letter::WriteAll => self.write(letter)?,
            Letter::Give => {
                let from = self.books.given - self.books.written;
                self.engine.handle_given(self.now, self.gathered.len());
                let octets = self.gathered[from..].to_vec();
                self.read(&octets)?;
            }
        }
        Ok(Effect::Open)
    }

    pub(super) fn end_feed(&mut self) {
        if let Some(feed) = &mut self.feed {
            feed.complete = true;
        }
    }

    fn reply(&mut self, answer: Answer) -> Result<Effect, Failure> {
        if self.is_leaving() {
            // Further replies do not matter.
            self.engine.handle_input(self.now, b"250 late\r\n");
            return Ok(Effect::Open);
        }
        self.books.last_reply = self.now;
        let is_handshake = self.books.handshake.is_some();
        let (octets, effect) = server::say(answer, &mut self.books, self.scene);
        self.note(|| format!("S: {}", octets.escape_ascii()));
        let mut rest = &octets[..];
        // Input that does not complete a reply changes nothing. In a handshake any octet is an attack.
        if self.is_judged && answer != Answer::YesAndSurplus && !is_handshake {
            let half = octets.len() / 2;
            let before = self.see();
            self.engine.handle_input(self.now, &octets[..half]);
            let after = self.see();
            if before != after || self.engine.is_closed() {
                return fail(
                    "half a reply counts",
                    format!("{before:?}, and then {after:?}"),
                );
            }
            rest = &octets[half..];
        }
        self.engine.handle_input(self.now, rest);
        if effect == Effect::BeginsData {
            self.wire.begin_data();
        }
        Ok(effect)
    }

    fn establish(&mut self, verified: bool) -> Result<(), Failure> {
        let mut facts = TlsFacts::default();
        facts.verified = verified;
        self.books.tls = Some(verified);
        self.books.handshake = None;
        if self.scene.config.tls == TlsPolicy::Implicit {
            self.books
                .owed
                .push_back(greeting(self.books.given, self.now));
        }
        match self.engine.handle_tls_established_with(self.now, facts) {
            Ok(()) => Ok(()),
            Err(misuse) => fail("a handshake that is not taken", misuse.to_string()),
        }
    }

    fn time_out(&mut self, letter: Letter) -> Result<Effect, Failure> {
        let Some(at) = self.engine.poll_timeout() else {
            return Ok(Effect::Open);
        };
        self.books.ending.get_or_insert(Ending::Other);
        if letter == Letter::TimeoutInReply {
            self.engine.handle_input(self.now, b"2");
        }
        let before = self.see();
        let early = Instant::from_origin(at.since_origin() - Duration::from_nanos(1));
        self.engine.handle_timeout(early);
        if self.see() != before {
            return fail(
                "a deadline that passes early",
                format!("at {early:?}, and not {at:?}"),
            );
        }
        self.now = at;
        self.engine.handle_timeout(at);
        Ok(Effect::Ends)
    }
}

fn greeting(end: usize, now: Instant) -> Owed {
    Owed {
        kind: Kind::Greeting,
        transaction: None,
        end,
        octets: 0,
        written: Some(now),
        overlaps: false,
    }
}
