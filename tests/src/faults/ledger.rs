//! The books of a transcript's server: what it has received and replied after each octet. Only the transcript is read.

use std::collections::VecDeque;

use smtp_proto::{Outcome, Protocol, Report};

use crate::transcript::{Action, Transcript};

/// The reply of the server to the end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has taken it, and that is said with this octet.
    Taken(u64),
    /// It has not taken it, and that is said with this octet.
    Refused(u64),
    /// Nothing that decides.
    Silence,
}

/// The end of a message, for one of its recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The octet of the client's with which the server has all of it.
    pub with: u64,
    /// The reply to it.
    pub answer: Answer,
}

/// The books.
#[derive(Debug, Default)]
pub struct Ledger {
    /// For each message, for each recipient: one for each transaction that asks for it and whose data ends.
    pub ends: Vec<Vec<Vec<End>>>,
    /// The server sends what was not asked for, or not a reply. Then it matters when the client reads it.
    pub is_odd: bool,
}

/// A recipient: its message, and its place there.
type Who = (usize, usize);

#[derive(Debug, Default)]
struct Transaction {
    asked: Vec<Option<Who>>,
    accepted: Vec<Who>,
    /// The refused recipients, each with the octet of the server's that ends the refusal.
    refusals: Vec<(Who, u64)>,
    /// The octet of the client's with which the data ended.
    ended: Option<u64>,
    /// Replies to RCPT that are owed.
    owed: usize,
    /// The octet of the server's with which it has refused the sender or a part of the body, and so all of it.
    refused: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Greeting,
    /// Anything that decides nothing.
    Other,
    StartTls,
    Xclient,
    /// Before this transaction.
    Rset(usize),
    Mail(usize),
    Rcpt(usize, Option<Who>),
    Data,
    Chunk(usize),
    /// The end of the data at this octet.
    End(usize, u64),
    /// One reply of many to it.
    EndFor(usize, Who, u64),
    /// The last one, after 353 and those.
    EndOfAll(usize, u64),
    Quit,
}

enum Mode {
    Commands,
    Data,
    Chunk { left: usize, is_last: bool },
}

struct Reader<'t> {
    transcript: &'t Transcript,
    ledger: Ledger,
    mode: Mode,
    got: u64,
    said: u64,
    line: Vec<u8>,
    /// The lines of the server that are not a whole reply yet.
    reply: Vec<u8>,
    /// Where the current transaction is, and all of them.
    transactions: Vec<Transaction>,
    /// The transactions that were begun before an earlier one was answered.
    overlapping: Vec<usize>,
    awaited: VecDeque<Awaited>,
    /// The message that was spoken of last.
    message: Option<usize>,
    /// The recipients that a RCPT has named, and that the next one does not mean.
    asked: Vec<Vec<bool>>,
    /// The rest of the server's octets does not count.
    is_over: bool,
}

impl Ledger {
    /// Reads a transcript.
    pub fn read(transcript: &Transcript) -> Self {
        let each = |message: &crate::transcript::Message| {
            vec![Vec::new(); message.envelope.forward_paths().len()]
        };
        let ends: Vec<_> = transcript.messages.iter().map(each).collect();
        let asked = ends.iter().map(|ends| vec![false; ends.len()]).collect();
        let mut reader = Reader {
            transcript,
            ledger: Self {
                ends,
                is_odd: false,
            },
            mode: Mode::Commands,
            got: 0,
            said: 0,
            line: Vec::new(),
            reply: Vec::new(),
            transactions: Vec::new(),
            overlapping: Vec::new(),
            awaited: [Awaited::Greeting].into(),
            message: None,
            asked,
            is_over: false,
        };
        for step in &transcript.steps {
            match &step.action {
                Action::Client(octets) => octets.iter().for_each(|&octet| reader.hear(octet)),
                Action::Server(octets) => octets.iter().for_each(|&octet| reader.say(octet)),
                _ => {}
            }
        }
        reader.finish()
    }

    /// What is wrong about the report of this message, where the server has so many octets of the client's, and the
    /// client so many of the server's. Octets that were given count as such alone where nothing gathers them.
    pub fn judge(
        &self,
        message: usize,
        report: &Report,
        (got, heard): (u64, u64),
        is_exact: bool,
    ) -> Option<String> {
        let ends = &self.ends[message];
        report.recipients.iter().zip(ends).find_map(|(result, ends)| {
            let outcome = result.as_ref().map_err(|error| error.outcome);
            let end = ends.iter().rfind(|end| got >= end.with);
            let holds = match end.map(|end| end.answer) {
                Some(Answer::Taken(at)) if heard >= at => outcome.is_ok(),
                Some(Answer::Refused(at)) if heard >= at => {
                    outcome.is_err_and(|outcome| outcome != Outcome::InDoubt)
                }
                Some(_) => outcome == Err(Outcome::InDoubt),
                None => outcome.is_err_and(|outcome| !is_exact || outcome != Outcome::InDoubt),
            };
            (!holds).then(|| {
                format!(
                    "message {}: {outcome:?}, but the server has {got} octets and the client {heard}, of {ends:?}",
                    message + 1
                )
            })
        })
    }
}

/// Whether a command means this mailbox, whose domain may go out as A-labels.
fn is_of(mailbox: &str, address: &str) -> bool {
    let mailbox = mailbox.trim_matches(['<', '>']);
    let local = |address: &str| address.split('@').next().map(str::to_owned);
    mailbox == address
        || (!mailbox.is_ascii() && address.contains("xn--") && local(mailbox) == local(address))
}

impl Reader<'_> {
    /// An octet of the client's.
    fn hear(&mut self, octet: u8) {
        self.got += 1;
        match &mut self.mode {
            Mode::Chunk { left, is_last } => {
                *left -= 1;
                if *left == 0 {
                    let is_last = *is_last;
                    self.end_chunk(is_last);
                }
            }
            Mode::Data => {
                self.line.push(octet);
                if self.line.ends_with(b"\r\n.\r\n") {
                    self.end_data();
                }
            }
            Mode::Commands => {
                self.line.push(octet);
                if self.line.ends_with(b"\r\n") {
                    let line = std::mem::take(&mut self.line);
                    self.command(String::from_utf8_lossy(&line).trim_end());
                }
            }
        }
    }

    fn end_chunk(&mut self, is_last: bool) {
        self.mode = Mode::Commands;
        match is_last {
            true => self.end_data(),
            false => {
                let number = self.transactions.len() - 1;
                self.awaited.push_back(Awaited::Chunk(number));
            }
        }
    }

    fn end_data(&mut self) {
        self.mode = Mode::Commands;
        self.line.clear();
        let number = self.transactions.len() - 1;
        self.transactions[number].ended = Some(self.got);
        let accepted = &self.transactions[number].accepted;
        match self.transcript.config.protocol {
            Protocol::Lmtp if !accepted.is_empty() => {
                let ends = accepted
                    .iter()
                    .map(|&who| Awaited::EndFor(number, who, self.got));
                self.awaited.extend(ends);
            }
            _ => self.awaited.push_back(Awaited::End(number, self.got)),
        }
    }

    fn command(&mut self, line: &str) {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let is_end = |awaited: &Awaited| matches!(awaited, Awaited::End(..));
        let overlaps = self.awaited.iter().any(is_end);
        let awaited = match &*verb {
            "RSET" => {
                let next = self.transactions.len();
                self.overlapping.extend(overlaps.then_some(next));
                Awaited::Rset(next)
            }
            "MAIL" => {
                let number = self.transactions.len();
                self.overlapping.extend(overlaps.then_some(number));
                self.transactions.push(Transaction::default());
                Awaited::Mail(number)
            }
            "RCPT" if !self.transactions.is_empty() => {
                let who = self.who(line);
                let number = self.transactions.len() - 1;
                let transaction = &mut self.transactions[number];
                transaction.asked.push(who);
                transaction.owed += 1;
                Awaited::Rcpt(number, who)
            }
            "DATA" => Awaited::Data,
            "BDAT" => {
                let left = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
                let is_last = words.next() == Some("LAST");
                match left {
                    0 => self.end_chunk(is_last),
                    left => self.mode = Mode::Chunk { left, is_last },
                }
                return;
            }
            "STARTTLS" => Awaited::StartTls,
            "XCLIENT" => Awaited::Xclient,
            "QUIT" => Awaited::Quit,
            _ => Awaited::Other,
        };
        self.awaited.push_back(awaited);
    }

    /// The recipient of this RCPT: of the current message, or of the next one.
    fn who(&mut self, line: &str) -> Option<Who> {
        let address = line.split_once('<')?.1.split_once('>')?.0;
        let is_new = self.transactions.last()?.asked.is_empty();
        let first = self.message.unwrap_or_default();
        let transcript = self.transcript;
        let messages = transcript.messages.iter().enumerate().skip(first);
        for (message, content) in messages {
            if !is_new && message > first {
                break;
            }
            let paths = content.envelope.forward_paths();
            let places = paths.iter().enumerate().filter(|(place, path)| {
                is_of(path.as_str(), address) && !transcript.is_refused_here(message, *place)
            });
            for (place, _) in places {
                if !std::mem::replace(&mut self.asked[message][place], true) {
                    self.message = Some(message);
                    return Some((message, place));
                }
            }
        }
        None
    }

    /// An octet of the server's.
    fn say(&mut self, octet: u8) {
        self.said += 1;
        self.reply.push(octet);
        if octet != b'\n' {
            return;
        }
        let start = self.reply[..self.reply.len() - 1]
            .iter()
            .rposition(|&octet| octet == b'\n')
            .map_or(0, |at| at + 1);
        let line = &self.reply[start..];
        let code = std::str::from_utf8(&line[..line.len().min(3)]).ok();
        let code = code.and_then(|code| code.parse::<u16>().ok());
        let goes_on = line.get(3) == Some(&b'-');
        let first = self.reply[0];
        let is_reply =
            line[0] == first && line.get(3).is_some_and(|octet| b" -\r\n".contains(octet));
        match code.filter(|code| is_reply && (200..600).contains(code)) {
            None => self.stop(),
            Some(_) if goes_on => {}
            Some(code) => {
                self.reply.clear();
                if !self.is_over {
                    self.answer(code);
                }
            }
        }
    }

    /// What comes now is not understood.
    fn stop(&mut self) {
        (self.ledger.is_odd, self.is_over) = (true, true);
    }

    fn answer(&mut self, code: u16) {
        let front = self.awaited.front().copied();
        if code == 221 && front != Some(Awaited::Quit) {
            self.ledger.is_odd = true;
            // A reply may be missing before it. Then those after it answer something else.
            if let Some(Awaited::Rset(number) | Awaited::Mail(number)) = front
                && self.overlapping.contains(&number)
            {
                self.stop();
            }
            return;
        }
        // The server closes.
        if code == 421 {
            self.is_over = true;
            self.ledger.is_odd |= front.is_none();
        }
        let Some(front) = self.awaited.pop_front() else {
            return self.stop();
        };
        let is_success = code / 100 == 2;
        match front {
            Awaited::Mail(_) | Awaited::Rcpt(..) if code / 100 == 3 => self.stop(),
            Awaited::Mail(_) if is_success => {}
            Awaited::Mail(number) => {
                // After 503 the server has not looked at the sender, so the rest of the batch is open.
                self.transactions[number].refused = (code != 503).then_some(self.said);
                // It was about the next message, if nobody was asked.
                if self.transactions[number].asked.is_empty() {
                    let next = self.message.map_or(0, |message| message + 1);
                    if let Some(asked) = self.asked.get_mut(next) {
                        asked.fill(true);
                        self.message = Some(next);
                    }
                }
            }
            Awaited::Rcpt(number, who) => {
                self.transactions[number].owed -= 1;
                match (is_success, who) {
                    (true, Some(who)) => self.transactions[number].accepted.push(who),
                    (false, Some(who)) => self.transactions[number].refusals.push((who, self.said)),
                    (_, None) => {}
                }
                // It may be asked again in the next transaction.
                if let (452, Some((message, place))) = (code, who) {
                    self.asked[message][place] = !self.transcript.config.learn_limits
                        && !self.transcript.messages[message].envelope.is_reopenable();
                }
            }
            Awaited::Data if code == 354 => {
                self.mode = Mode::Data;
                self.line = b"\r\n".into();
            }
            Awaited::Data if is_success => self.stop(),
            Awaited::Chunk(number) if code >= 400 => {
                self.transactions[number].refused.get_or_insert(self.said);
            }
            Awaited::Data | Awaited::Chunk(_) => self.ledger.is_odd |= code / 100 == 3,
            Awaited::End(number, with) if code == 353 => {
                let accepted = self.transactions[number].accepted.clone();
                self.awaited.push_front(Awaited::EndOfAll(number, with));
                for who in accepted.into_iter().rev() {
                    self.awaited.push_front(Awaited::EndFor(number, who, with));
                }
            }
            Awaited::End(..) | Awaited::EndFor(..) | Awaited::EndOfAll(..) if code / 100 == 3 => {
                self.awaited.push_front(front);
                self.stop();
            }
            // It is for RCPT: a reply may be missing before it.
            Awaited::End(..) if matches!(code, 251 | 252) && !self.awaited.is_empty() => {
                self.awaited.push_front(front);
                self.stop();
            }
            Awaited::End(number, with) => {
                for who in self.transactions[number].accepted.clone() {
                    self.end(number, who, with, is_success);
                }
            }
            // It closes, and has taken the message of nobody.
            Awaited::EndFor(number, _, with) if code == 421 && self.ends_for_all(number) => {
                self.awaited.clear();
                for who in self.transactions[number].accepted.clone() {
                    self.end(number, who, with, false);
                }
            }
            Awaited::EndFor(number, who, with) => self.end(number, who, with, is_success),
            // The last reply may take back what the ones before have promised, and does not add to them.
            Awaited::EndOfAll(number, with) => {
                for who in self.transactions[number].accepted.clone() {
                    if !self.is_refused(who, with) {
                        self.end(number, who, with, is_success);
                    }
                }
            }
            Awaited::StartTls | Awaited::Greeting | Awaited::Xclient => {}
            Awaited::Other | Awaited::Rset(_) | Awaited::Quit => {}
        }
    }

    /// Whether a last reply is awaited after those for each recipient.
    fn ends_for_all(&self, number: usize) -> bool {
        let ends = |awaited: &Awaited| matches!(awaited, Awaited::EndOfAll(of, _) if *of == number);
        self.awaited.iter().any(ends)
    }

    fn end(&mut self, number: usize, (message, place): Who, with: u64, is_taken: bool) {
        let answer = match (self.transactions[number].refused, is_taken) {
            // What was refused before is refused.
            (Some(at), _) => Answer::Refused(at),
            (None, true) => Answer::Taken(self.said),
            (None, false) => Answer::Refused(self.said),
        };
        self.put((message, place), End { with, answer });
    }

    /// Replaces what was known of this end.
    fn put(&mut self, (message, place): Who, end: End) {
        let ends = &mut self.ledger.ends[message][place];
        ends.retain(|known| known.with != end.with);
        ends.push(end);
        ends.sort_by_key(|end| end.with);
    }

    /// Whether the server has refused the message of this recipient, which ended so.
    fn is_refused(&self, (message, place): Who, with: u64) -> bool {
        let mut ends = self.ledger.ends[message][place].iter();
        ends.any(|end| end.with == with && matches!(end.answer, Answer::Refused(_)))
    }

    /// What was never answered is not decided.
    fn finish(mut self) -> Ledger {
        for awaited in std::mem::take(&mut self.awaited) {
            let (who, with) = match awaited {
                Awaited::EndFor(_, who, with) => (vec![who], with),
                Awaited::End(number, with) => {
                    // A recipient without a reply may have been accepted.
                    let transaction = &self.transactions[number];
                    let unknown = transaction.asked.len() - transaction.owed..;
                    let unknown = transaction.asked.get(unknown).unwrap_or_default();
                    let unknown = unknown.iter().flatten().copied();
                    let who = transaction.accepted.iter().copied().chain(unknown);
                    (who.collect(), with)
                }
                // Until it is said, what was promised is not sure.
                Awaited::EndOfAll(number, with) => {
                    let accepted = self.transactions[number].accepted.iter().copied();
                    let open = accepted.filter(|&who| !self.is_refused(who, with));
                    (open.collect(), with)
                }
                _ => continue,
            };
            let refused = match awaited {
                Awaited::End(number, _) | Awaited::EndFor(number, ..) => {
                    self.transactions[number].refused
                }
                _ => None,
            };
            let answer = refused.map_or(Answer::Silence, Answer::Refused);
            for who in who {
                self.put(who, End { with, answer });
            }
        }
        // The data may have gone out before it was known who is refused.
        for transaction in std::mem::take(&mut self.transactions) {
            let Some(with) = transaction.ended else {
                continue;
            };
            for (who, at) in transaction.refusals {
                let at = transaction.refused.map_or(at, |refused| refused.min(at));
                let answer = Answer::Refused(at);
                self.put(who, End { with, answer });
            }
        }
        self.ledger.is_odd |= !self.reply.is_empty() && self.awaited.is_empty();
        self.ledger
    }
}
