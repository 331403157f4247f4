//! One conversation: the engine, the transport, the application, and the judge beside them.

use std::fmt::{self, Write as _};
use std::time::Duration;

use smtp_proto::{
    BodyPart, Cause, Chunking, Connection, Error, Event, Extension, Instant, MessageId, Outcome,
    Request, TlsFacts, TlsPolicy, error::Misuse, event::RequestId,
};

use super::books::{Books, Ending, Kind, Owed};
use super::letter::{Answer, Letter};
use super::scene::{Scene, Writing};
use super::server::{self, Effect};
use super::wire::{Feed, Wire};
use super::{Counts, Failure, clock, fail, verdict};

/// Far more offers than one letter leads to.
const MOST_OFFERS: usize = 1_000;

pub(crate) struct World<'s> {
    pub(crate) scene: &'s Scene,
    pub(crate) engine: Connection,
    now: Instant,
    pub(crate) books: Books,
    pub(crate) wire: Wire,
    pub(crate) feed: Option<Feed>,
    /// Taken out of the engine, and not given. Then given, and not written.
    pub(crate) gathered: Vec<u8>,
    pub(crate) messages: Vec<MessageId>,
    pub(crate) requests: Vec<RequestId>,
    pub(crate) finished: usize,
    pub(crate) answered: usize,
    pub(crate) is_ready: bool,
    pub(crate) has_quit: bool,
    pub(crate) closed: Option<Result<(), Error>>,
    pub(crate) counts: Counts,
    /// Every rule is looked at. A path that was judged is only walked again.
    pub(crate) is_judged: bool,
    log: Option<String>,
}

/// What can be seen of the engine without changing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) timeout: Option<Instant>,
    pub(crate) phase: String,
    pub(crate) wants_body: bool,
    pub(crate) is_idle: bool,
    pub(crate) offer: Option<Vec<u8>>,
}

/// The engine's `Debug`, up to what it says of the reply to EHLO.
struct Front(String);

impl fmt::Write for Front {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        match self.0.contains("capabilities") {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

const EXTENSIONS: [Extension; 9] = [
    Extension::Pipelining,
    Extension::Size,
    Extension::EightBitMime,
    Extension::StartTls,
    Extension::Auth,
    Extension::Chunking,
    Extension::Limits,
    Extension::Prdr,
    Extension::SmtpUtf8,
];

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

    /// Writes down what happens from now on.
    pub(crate) fn write_log(&mut self) {
        self.log = Some(String::new());
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{}", line());
        }
    }

    pub(crate) fn log(self) -> String {
        self.log.unwrap_or_default()
    }

    /// All letters that make a difference here.
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

    /// QUIT is to go out, and nothing else counts.
    fn is_leaving(&self) -> bool {
        self.phase() == "leaving"
    }

    /// TLS is there, and the server has not replied inside it.
    fn is_unconfirmed(&self) -> bool {
        let first = match self.scene.config.tls {
            TlsPolicy::Implicit => Kind::Greeting,
            _ => Kind::Hello,
        };
        let owes_first = self.books.front().is_some_and(|owed| owed.kind == first);
        self.books.tls.is_some() && owes_first && !self.books.has_hello
    }

    /// What follows this letter, with all that must hold then.
    pub(crate) fn apply(&mut self, letter: Letter) -> Result<(), Failure> {
        self.note(|| format!("-- {letter}"));
        self.now = self.now + Duration::from_secs(1);
        let effect = self.act(letter)?;
        self.settle()?;
        if !self.is_judged {
            return Ok(());
        }
        // Where QUIT is said after the first of two replies, the second is not read.
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

    fn end_feed(&mut self) {
        if let Some(feed) = &mut self.feed {
            feed.complete = true;
        }
    }

    fn reply(&mut self, answer: Answer) -> Result<Effect, Failure> {
        if self.is_leaving() {
            // Nothing that the server says counts any more.
            self.engine.handle_input(self.now, b"250 late\r\n");
            return Ok(Effect::Open);
        }
        self.books.last_reply = self.now;
        let is_handshake = self.books.handshake.is_some();
        let (octets, effect) = server::say(answer, &mut self.books, self.scene);
        self.note(|| format!("S: {}", octets.escape_ascii()));
        let mut rest = &octets[..];
        // Input that completes no reply changes nothing. In a handshake any octet is an attack.
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

    // What leaves.

    fn body(&self, octets: usize) -> &'s [u8] {
        let used = self.feed.as_ref().map_or(0, |feed| feed.used);
        &self.scene.body[used..used + octets]
    }

    /// Offers a part of the body. The transport takes it as it does: not all, perhaps.
    fn offer(&mut self, octets: usize, last: bool) -> Result<(), Failure> {
        let mut octets = self.body(octets);
        for _ in 0..MOST_OFFERS {
            let part = match last {
                true => BodyPart::Last(octets),
                false => BodyPart::Next(octets),
            };
            let is_engine = self.scene.writing == Writing::Slow && self.on_offer().is_some();
            if is_engine || !self.engine.wants_body() {
                return Ok(());
            }
            let Some(used) = self.take(part, usize::MAX)? else {
                return Ok(());
            };
            octets = &octets[used..];
            if self.engine.wants_body() && octets.is_empty() && !last {
                return Ok(());
            }
        }
        fail("endless", "the same octets are offered again and again")
    }

    fn on_offer(&mut self) -> Option<Vec<u8>> {
        let transmit = self.engine.poll_transmit(self.now, BodyPart::Next(&[]))?;
        Some(transmit.parts().concat())
    }

    /// Takes what is on offer, given this part of the body. Returns how much of it that uses up.
    fn take(&mut self, part: BodyPart<'_>, most: usize) -> Result<Option<usize>, Failure> {
        let before = self.feed.as_ref().map_or(0, |feed| feed.used);
        let (octets, used) = if self.scene.writing == Writing::Gathers {
            let mut out = [0; 1024];
            let (n, used) = self.engine.poll_transmit_into(self.now, part, &mut out);
            if n == 0 && used == 0 {
                return Ok(None);
            }
            (out[..n].to_vec(), used)
        } else {
            let first = match self.engine.poll_transmit(self.now, part) {
                Some(transmit) => transmit.parts().concat(),
                None => return Ok(None),
            };
            let Some(transmit) = self.engine.poll_transmit(self.now, part) else {
                return fail("an offer that is gone", first.escape_ascii().to_string());
            };
            let octets = transmit.parts().concat();
            if octets != first {
                return fail("an offer that changes", octets.escape_ascii().to_string());
            }
            let n = octets.len().min(most);
            (octets[..n].to_vec(), transmit.advance(n))
        };
        if let Some(feed) = &mut self.feed {
            feed.used = before + used;
            feed.complete |= part.is_last() && used == part.bytes().len();
        }
        match self.scene.writing {
            Writing::Gathers => self.gathered.extend_from_slice(&octets),
            _ => {
                self.read(&octets)?;
                self.written(octets.len());
            }
        }
        Ok(Some(used))
    }

    /// The server reads what was given.
    fn read(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.note(|| format!("C: {}", octets.escape_ascii()));
        if self.closed.is_some() {
            return fail("octets after the end", octets.escape_ascii().to_string());
        }
        let feed = self.feed.as_ref();
        self.wire.read(octets, self.scene, &mut self.books, feed)
    }

    fn written(&mut self, n: usize) {
        self.books.written += n;
        let (written, now) = (self.books.written, self.now);
        for owed in self
            .books
            .owed
            .iter_mut()
            .filter(|owed| owed.end <= written)
        {
            owed.written.get_or_insert(now);
        }
    }

    /// A letter of a transport that is slow, or gathers.
    fn write(&mut self, letter: Letter) -> Result<(), Failure> {
        if self.scene.writing == Writing::Slow {
            for _ in 0..MOST_OFFERS {
                let offer = self.on_offer().unwrap_or_default();
                let part = BodyPart::Next(&[]);
                let is_over = self.take(part, part_of(&offer, letter))?.is_none();
                if is_over || letter != Letter::WriteAll {
                    return Ok(());
                }
            }
            return fail("endless", "the same octets are offered again and again");
        }
        let n = part_of(&self.gathered, letter);
        let given = self.books.given - self.books.written;
        let octets: Vec<u8> = self.gathered.drain(..n).collect();
        self.read(&octets[given.min(n)..])?;
        self.engine.handle_written(self.now, n);
        self.written(n);
        Ok(())
    }

    /// Until nothing happens by itself any more.
    fn settle(&mut self) -> Result<(), Failure> {
        for _ in 0..MOST_OFFERS {
            let any = self.take_events()?;
            let flushes = self.scene.writing != Writing::Slow && self.closed.is_none();
            if !(flushes && self.take(BodyPart::Next(&[]), usize::MAX)?.is_some()) && !any {
                return Ok(());
            }
        }
        fail("endless", "events and offers have no end")
    }

    fn take_events(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        while let Some(event) = self.engine.poll_event() {
            any = true;
            self.note(|| format!("engine: {event:?}"));
            if self.closed.is_some() {
                return fail("an event after the end", format!("{event:?}"));
            }
            match event {
                Event::StartTls if self.books.handshake.is_some() => {}
                Event::Ready if !self.is_ready && self.may_be_ready() => self.is_ready = true,
                Event::BodyWanted(id) => self.want_body(id)?,
                Event::Finished(id, report) => {
                    if self.messages.get(self.finished) != Some(&id) {
                        return fail("a report out of order, or two", format!("{id:?}"));
                    }
                    let message = self.finished;
                    let count = self.scene.messages[message].forward_paths().len();
                    if report.recipients.len() != count {
                        return fail("a report without a recipient", format!("{report:?}"));
                    }
                    for (recipient, result) in report.recipients.iter().enumerate() {
                        let name =
                            verdict::check(self.scene, &self.books, message, recipient, result)?;
                        self.counts.add(name);
                    }
                    self.finished += 1;
                }
                Event::Answered(id, answer) => {
                    if self.requests.get(self.answered) != Some(&id) {
                        return fail("an answer out of order, or two", format!("{id:?}"));
                    }
                    let own = self
                        .books
                        .requests
                        .get(self.answered)
                        .and_then(|(_, own)| *own);
                    let own = own.map(|index| self.books.said[index].text.as_bytes());
                    let answer = answer.as_ref().ok().map(|reply| reply.text());
                    if own != answer {
                        return fail(
                            "the answer of another command",
                            format!("{answer:?}, {own:?}"),
                        );
                    }
                    self.answered += 1;
                }
                Event::OverlapBroken if self.scene.config.overlap => {}
                Event::Closed(result) => {
                    if self.finished < self.messages.len() || self.answered < self.requests.len() {
                        return fail("a report is missing", "closed without it");
                    }
                    // Whatever happens to QUIT is no matter.
                    let is_clean = self.has_quit && self.books.owed.is_empty();
                    if result.is_ok() && !is_clean {
                        return fail("a good end without QUIT", "");
                    }
                    self.closed = Some(result);
                }
                other => return fail("an event out of place", format!("{other:?}")),
            }
        }
        Ok(any)
    }

    fn may_be_ready(&self) -> bool {
        let logs_in = self.scene.login != super::scene::Login::No;
        self.books.has_hello && (!logs_in || self.books.logged_in)
    }

    fn want_body(&mut self, id: MessageId) -> Result<(), Failure> {
        let message = self.messages.iter().position(|known| *known == id);
        let last = self.books.transactions.last();
        // A body may be asked for before MAIL is out, where chunks are eager.
        let is_eager = self.scene.config.chunking == Chunking::Eager;
        match message {
            Some(message) if is_eager || last.is_some_and(|last| last.message == message) => {
                self.feed = Some(Feed {
                    message,
                    ..Feed::default()
                });
                Ok(())
            }
            _ => fail("a body out of place", format!("{id:?}")),
        }
    }

    // What must hold.

    pub(crate) fn phase(&self) -> String {
        let mut front = Front(String::new());
        let _ = write!(front, "{:?}", self.engine);
        let phase = front.0.split('"').nth(1).unwrap_or_default();
        phase.to_owned()
    }

    pub(crate) fn see(&mut self) -> Seen {
        let offer = self.on_offer();
        Seen {
            timeout: self.engine.poll_timeout(),
            phase: self.phase(),
            wants_body: self.engine.wants_body(),
            is_idle: self.engine.is_idle(),
            offer,
        }
    }

    fn check(&mut self) -> Result<(), Failure> {
        let seen = self.see();
        let is_on_offer = seen.offer.is_some();
        clock::check(
            self.scene,
            &self.books,
            &seen.phase,
            is_on_offer,
            seen.timeout,
        )?;
        if self.closed.is_none() {
            for extension in EXTENSIONS {
                let offered = self.books.offers(extension.keyword());
                if self.engine.capabilities().has(extension) != offered {
                    return fail("capabilities of another EHLO", format!("{extension:?}"));
                }
            }
        }
        self.probe()?;
        let after = self.see();
        if seen != after {
            return fail(
                "a call that changes something",
                format!("{seen:?}, and then {after:?}"),
            );
        }
        match self.engine.poll_event() {
            None => Ok(()),
            Some(event) => fail("an event out of nothing", format!("{event:?}")),
        }
    }

    /// Calls that do not fit are told so, and change nothing.
    fn probe(&mut self) -> Result<(), Failure> {
        self.engine.handle_timeout(self.now);
        let mut misused = Vec::new();
        if !self.engine.wants_body() {
            misused.push(self.engine.finish_body() == Err(Misuse::NoBodyWanted));
            let failed = self.engine.fail_body(Outcome::Transient, "why");
            misused.push(failed == Err(Misuse::NoBodyWanted));
        }
        if self.books.handshake.is_none() || self.closed.is_some() {
            let established = self.engine.handle_tls_established(self.now);
            misused.push(established == Err(Misuse::NoHandshakeWanted));
        }
        if self.has_quit || self.closed.is_some() {
            misused.push(self.engine.quit() == Err(Misuse::Closed));
            let envelope = self.scene.messages[0].clone();
            misused.push(self.engine.submit(envelope) == Err(Misuse::Closed));
            misused.push(self.engine.request(Request::noop()) == Err(Misuse::Closed));
        }
        if self.closed.is_some() {
            misused.push(self.engine.abort("again") == Err(Misuse::Closed));
            misused.push(self.engine.is_closed());
            self.engine.handle_input(self.now, b"250 again\r\n");
            self.engine.handle_eof(self.now);
        }
        match misused.iter().all(|told| *told) {
            true => Ok(()),
            false => fail("a mistake that is not told", format!("{misused:?}")),
        }
    }
}

const WRITES: [Letter; 3] = [Letter::WriteLine, Letter::WritePart, Letter::WriteAll];

/// How many octets this letter writes. One at the least, where there is one.
fn part_of(octets: &[u8], letter: Letter) -> usize {
    let line = octets.iter().position(|octet| *octet == b'\n');
    let line = line.map_or(octets.len(), |end| end + 1);
    match letter {
        Letter::WriteLine => line,
        Letter::WritePart if line > 1 => line - 1,
        Letter::WritePart => line,
        _ => octets.len(),
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
