//! What came of it: commands, replies, and what the engine tells.

use smtp_proto::{Cause, Event, MessageId, Reply, Report, error::ProtocolError, event::Trace};

use super::content::Content;
use super::{Body, Record, text};

impl Record {
    /// What the engine tells. `is_chunked` holds for the body that is wanted.
    pub(crate) fn event(&mut self, event: &Event, is_chunked: bool) {
        match event {
            Event::Trace(trace) => self.step(trace),
            Event::Ready => self.line(format_args!("expect ready")),
            Event::OverlapBroken => self.line(format_args!("expect overlap-broken")),
            Event::BodyWanted(id) => self.body_wanted(*id, is_chunked),
            Event::Answered(id, answer) => {
                if let Err(error) = answer {
                    self.explain(error);
                }
                if let Some(number) = self.asked.remove(id) {
                    let result = words_of(answer);
                    self.line(format_args!("expect request {number} says {result}"));
                }
            }
            Event::Finished(id, report) => self.finished(*id, report),
            Event::Closed(result) => {
                if let Err(error) = result {
                    self.explain(error);
                }
                // What the client would have said is not said any more.
                self.hearing = None;
                self.say_body();
                self.expect_nothing();
                match result {
                    Ok(()) => self.line(format_args!("expect closed says ok")),
                    Err(error) => self.line(format_args!("expect closed says error {error}")),
                }
                self.is_over = true;
            }
            _ => {}
        }
    }

    pub(super) fn finished(&mut self, id: MessageId, report: &Report) {
        for error in report
            .recipients
            .iter()
            .filter_map(|one| one.as_ref().err())
        {
            self.explain(error);
        }
        self.say_body();
        if self.body.as_ref().is_some_and(|body| body.id == id) {
            self.flush_content();
            self.body = None;
        }
        let Some((number, _)) = self.unfinished.remove(&id) else {
            return;
        };
        for (index, result) in report.recipients.iter().enumerate() {
            let (recipient, result) = (index + 1, words_of(result));
            self.line(format_args!("expect {number} {recipient} says {result}"));
        }
    }

    pub(super) fn body_wanted(&mut self, id: MessageId, is_chunked: bool) {
        self.keep_known();
        let Some(&(number, known)) = self.unfinished.get(&id) else {
            return;
        };
        self.line(format_args!("expect body {number}"));
        self.body = Some(Body {
            id,
            number,
            is_chunked,
            taken: 0,
            said: 0,
            border: 0,
            known,
            at: self.now,
            content: Content::new(self.shows_bodies),
        });
    }

    pub(super) fn step(&mut self, trace: &Trace) {
        match trace {
            Trace::Sent(line) => {
                self.say_body();
                self.is_data = match &**line {
                    "DATA" => true,
                    line => self.is_data && !line.starts_with("MAIL "),
                };
                if let Some(mechanism) = line.strip_prefix("AUTH ") {
                    let name = mechanism.split(' ').next().unwrap_or_default();
                    // Of a mechanism that is unknown here, nothing is known of its challenges.
                    let known = [
                        "PLAIN",
                        "LOGIN",
                        "CRAM-MD5",
                        "XOAUTH2",
                        "OAUTHBEARER",
                        "EXTERNAL",
                        "ANONYMOUS",
                    ];
                    self.hides_challenges = !known.contains(&name);
                }
                let line = text::line(line.as_bytes());
                match &mut self.hearing {
                    Some(hearing) if hearing.has_begun => hearing.said.push(line),
                    _ => self.line(format_args!("C: {line}")),
                }
            }
            Trace::SentBody { .. } => self.say_end("data"),
            Trace::SentChunk { octets, last } => match &self.body {
                Some(body) if body.is_chunked => {
                    let number = body.number;
                    let last_word = if *last { " last" } else { "" };
                    self.flush_content();
                    self.line(format_args!("chunk {number} {octets}{last_word}"));
                    if *last {
                        self.end_body();
                    }
                }
                _ => self.say_end("bdat"),
            },
            Trace::Received(reply) => self.replied(reply),
            Trace::Missed(steps) => self.line(format_args!("# {steps} steps are missing here.")),
            _ => {}
        }
    }

    pub(super) fn replied(&mut self, reply: &Reply) {
        self.forget_lines(reply.lines().count());
        self.begin_heard();
        let code = reply.code();
        let has_begun = std::mem::take(&mut self.has_begun);
        if self.hides_challenges && code.get() == 334 {
            let begun = if has_begun { " begun" } else { "" };
            return self.line(format_args!("challenge{begun}"));
        }
        let code = code.to_string();
        let mut shown = &code[usize::from(has_begun)..];
        // Data with the success, where RFC 4954 has none: it is a proof as well.
        if self.hides_challenges && code == "235" && !reply.text().contains(&b' ') {
            return self.line(format_args!("S: {shown}"));
        }
        let mut lines = reply.lines().peekable();
        while let Some(line) = lines.next() {
            let (hyphen, line) = match lines.peek() {
                Some(_) => ("-", text::line(line)),
                None if line.is_empty() => ("", String::new()),
                None => (" ", text::line(line)),
            };
            self.line(format_args!("S: {shown}{hyphen}{line}"));
            shown = &code;
        }
    }

    /// What the client says from here on is not what this reply answers: it has begun before.
    pub(super) fn begin_reply(&mut self) {
        let is_heard = self.hearing.is_some() && !self.has_begun;
        let Some(&first) = self.unread.first().filter(|_| is_heard) else {
            return;
        };
        self.begin_heard();
        // The first digit of a code hides nothing, and decides.
        let mut first = [first];
        if self.hides_unread && !first[0].is_ascii_digit() {
            hide(&mut first);
        }
        self.line(format_args!("S: {}\\", text::line(&first)));
        self.has_begun = true;
    }

    /// These lines stand in a reply.
    pub(super) fn forget_lines(&mut self, count: usize) {
        let ends = self
            .unread
            .iter()
            .enumerate()
            .filter(|(_, octet)| **octet == b'\n');
        if let Some((end, _)) = ends.take(count).last() {
            self.unread.drain(..=end);
        }
    }

    /// These octets are not a reply, and have broken the session.
    pub(super) fn explain(&mut self, error: &smtp_proto::Error) {
        let is_malformed = |error: &ProtocolError| {
            matches!(
                error,
                ProtocolError::Malformed(_) | ProtocolError::OctetsBehindStartTls
            )
        };
        if matches!(&error.cause, Cause::Protocol(error) if is_malformed(error)) {
            self.say_unread();
        }
    }

    /// The beginning of a reply. Its end will not come.
    pub(super) fn say_unread(&mut self) {
        let mut unread = std::mem::take(&mut self.unread);
        if unread.is_empty() {
            return;
        }
        if self.hides_unread {
            hide(&mut unread);
        }
        if std::mem::take(&mut self.has_begun) {
            unread.remove(0);
        }
        self.begin_heard();
        for line in unread.split_inclusive(|&octet| octet == b'\n') {
            let (line, end) = match line.strip_suffix(b"\r\n") {
                Some(line) => (line, ""),
                None => (line, "\\"),
            };
            self.line(format_args!("S: {}{end}", text::line(line)));
        }
    }
}

/// Leaves what decides whether octets are a reply: the beginnings of lines, and what cannot be printed.
fn hide(octets: &mut [u8]) {
    for line in octets.split_mut(|&octet| octet == b'\n') {
        let is_code = line
            .iter()
            .take_while(|octet| octet.is_ascii_digit())
            .count()
            >= 3;
        let shown = if is_code { 4 } else { 0 };
        let hidden = line.iter_mut().skip(shown);
        hidden
            .filter(|octet| octet.is_ascii_graphic())
            .for_each(|octet| *octet = b'x');
    }
}

fn words_of(result: &Result<Reply, smtp_proto::Error>) -> String {
    match result {
        Ok(reply) => format!("ok {reply}"),
        Err(error) => format!("error {error}"),
    }
}
