//! What came of it: commands, replies, and what the engine tells.

use std::sync::Arc;

use smtp_proto::reply::{Printable, ReplyError};
use smtp_proto::{Cause, Event, MessageId, Reply, Report, error::ProtocolError, event::Trace};

use super::content::Content;
use super::{Body, Record, text};

impl Record {
    /// What the engine tells. `is_chunked` holds for the body that is wanted.
    pub(crate) fn event(&mut self, event: &Event, is_chunked: bool) {
        if !matches!(event, Event::Trace(_)) {
            self.end_refused();
        }
        match event {
            Event::Trace(trace) => self.step(trace),
            Event::Ready => self.line(format_args!("expect ready")),
            Event::OverlapBroken => self.line(format_args!("expect overlap-broken")),
            Event::BodyWanted(id) => self.body_wanted(*id, is_chunked),
            Event::Answered(id, answer) => {
                if let Err(error) = answer {
                    self.explain(error);
                }
                self.say_cause();
                if let Some(number) = self.asked.remove(id) {
                    let result = self.words_of(answer);
                    self.line(format_args!("expect request {number} says {result}"));
                }
            }
            Event::Finished(id, report) => self.finished(*id, report),
            Event::Closed(result) => {
                if let Err(error) = result {
                    self.explain(error);
                }
                self.say_cause();
                // Whatever else was heard has no effect any more. It may still be what has ended the session.
                if self.hearing.is_some() {
                    self.say_unread();
                }
                // What the client would have said is not said any more.
                self.hearing = None;
                self.say_body();
                self.expect_nothing();
                match result {
                    Ok(()) => self.line(format_args!("expect closed says ok")),
                    Err(error) => {
                        let words = self.words_of_error(error);
                        self.line(format_args!("expect closed says {words}"));
                    }
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
        self.say_cause();
        self.say_body();
        if self.body.as_ref().is_some_and(|body| body.id == id) {
            self.flush_content();
            self.body = None;
        }
        let Some((number, _)) = self.unfinished.remove(&id) else {
            return;
        };
        for (index, result) in report.recipients.iter().enumerate() {
            let (recipient, result) = (index + 1, self.words_of(result));
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
            offered: 0,
            at: self.now,
            has_ended: false,
            left: None,
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
                    // Of a mechanism that is unknown here, nothing is known of its challenges. The challenge of CRAM-MD5 helps to
                    // guess the password, once a server echoes the response to it.
                    let known = [
                        "PLAIN",
                        "LOGIN",
                        "XOAUTH2",
                        "OAUTHBEARER",
                        "EXTERNAL",
                        "ANONYMOUS",
                    ];
                    self.hides_challenges = self.is_own_mechanism || !known.contains(&name);
                } else if !line.starts_with('*') {
                    // The exchange is over, so a 334 from now on is an ordinary reply.
                    self.hides_challenges = false;
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
        let mut is_bare = self.forget_reply().into_iter();
        self.begin_heard();
        let code = reply.code();
        let has_begun = std::mem::take(&mut self.has_begun);
        let is_challenge = self.hides_challenges && code.get() == 334;
        if is_challenge && is_base64(reply.text().trim_ascii()) {
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
            let mut line = line.to_vec();
            // It is not base64, and must not become that.
            if is_challenge {
                let hidden = line.iter_mut().filter(|octet| octet.is_ascii_graphic());
                hidden.for_each(|octet| *octet = b'*');
            }
            let (hyphen, line) = match lines.peek() {
                Some(_) => ("-", text::line(&line)),
                None if line.is_empty() => ("", String::new()),
                None => (" ", text::line(&line)),
            };
            // A line that ends in a bare LF is an octet shorter, which counts at a limit.
            let end = if is_bare.next() == Some(true) {
                "\\n\\"
            } else {
                ""
            };
            self.line(format_args!("S: {shown}{hyphen}{line}{end}"));
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

    /// These octets are a reply. The text of its event may be shorter: the engine has redacted it. Returns which of its
    /// lines end in a bare LF.
    fn forget_reply(&mut self) -> Vec<bool> {
        let (mut end, mut is_bare) = (0, Vec::new());
        for line in self.unread.split_inclusive(|&octet| octet == b'\n') {
            end += line.len();
            is_bare.push(!line.ends_with(b"\r\n"));
            if line.get(3) != Some(&b'-') {
                break;
            }
        }
        self.unread.drain(..end);
        is_bare
    }

    /// These octets are not a reply, and have broken the session.
    pub(super) fn explain(&mut self, error: &smtp_proto::Error) {
        match &error.cause {
            Cause::Protocol(ProtocolError::Malformed(ReplyError::NotAReply(line))) => {
                self.blame(line);
            }
            Cause::Protocol(ProtocolError::Malformed(_) | ProtocolError::OctetsBehindStartTls) => {}
            _ => return,
        }
        self.say_unread();
    }

    /// This line, without what the engine has redacted, is not a reply. It may still have a part of a login.
    fn blame(&mut self, line: &[u8]) {
        if !self.hides_unread || self.unread.is_empty() {
            return;
        }
        let mut shown = line.to_vec();
        hide(&mut shown);
        let mut before = 0;
        for line in self.unread.split_inclusive(|&octet| octet == b'\n') {
            if !is_of_reply(line) {
                break;
            }
            before += line.len();
        }
        // The first digit stands there already.
        if let (Some(shown), Some(first)) = (shown.first_mut(), self.unread.get(before))
            && first.is_ascii_digit()
        {
            *shown = *first;
        }
        let bad = self.unread.split_off(before);
        let end = bad.iter().position(|&octet| octet == b'\n');
        let (_, rest) = bad.split_at(end.unwrap_or(bad.len()));
        self.unread.extend_from_slice(&shown);
        if !rest.is_empty() {
            self.unread.push(b'\r');
        }
        self.unread.extend_from_slice(rest);
        self.blamed = Some(shown.into());
    }

    /// If the octets that were heard have an effect and are not a reply, they have broken the session. Write them down.
    fn say_cause(&mut self) {
        if self
            .hearing
            .as_ref()
            .is_some_and(|hearing| !hearing.has_begun)
        {
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

/// Leaves what decides whether octets are a reply: the first digits of lines, and what cannot be printed.
fn hide(octets: &mut [u8]) {
    for line in octets.split_mut(|&octet| octet == b'\n') {
        let shown = match is_of_reply(line) {
            true => 4,
            false => usize::from(line.first().is_some_and(u8::is_ascii_digit)),
        };
        let hidden = line.iter_mut().skip(shown);
        hidden
            .filter(|octet| octet.is_ascii_graphic())
            .for_each(|octet| *octet = b'x');
    }
}

/// Whether the text is base64 of at least one octet, with its padding (RFC 4648 section 4).
fn is_base64(text: &[u8]) -> bool {
    let padding = text
        .iter()
        .rev()
        .take_while(|&&octet| octet == b'=')
        .count();
    let digits = &text[..text.len() - padding];
    // The bits of the last digit that belong to no octet are zero.
    let may_end: &[u8] = match padding {
        0 => return !text.is_empty() && text.len().is_multiple_of(4) && is_all_base64(digits),
        1 => b"AEIMQUYcgkosw048",
        2 => b"AQgw",
        _ => return false,
    };
    let ends_well = digits.last().is_some_and(|last| may_end.contains(last));
    text.len().is_multiple_of(4) && ends_well && is_all_base64(digits)
}

fn is_all_base64(digits: &[u8]) -> bool {
    let is_digit = |octet: &u8| octet.is_ascii_alphanumeric() || b"+/".contains(octet);
    digits.iter().all(is_digit)
}

/// Whether it begins as a line of a reply does.
fn is_of_reply(line: &[u8]) -> bool {
    let is_code = matches!(line, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9', ..]);
    is_code && matches!(line.get(3), None | Some(b' ' | b'-' | b'\r' | b'\n'))
}

impl Record {
    fn words_of(&self, result: &Result<Reply, smtp_proto::Error>) -> String {
        match result {
            Ok(reply) => format!("ok {reply}"),
            Err(error) => self.words_of_error(error),
        }
    }

    /// One line, without what is hidden.
    fn words_of_error(&self, error: &smtp_proto::Error) -> String {
        let mut error = error.clone();
        if let Cause::Protocol(ProtocolError::Malformed(ReplyError::NotAReply(line))) =
            &mut error.cause
            && let Some(blamed) = &self.blamed
        {
            *line = Arc::clone(blamed);
        }
        format!("error {}", Printable(error.to_string().as_bytes()))
    }
}
