//! How it is written: steps, the time between them, bodies, and lines.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Body, Record, Writer};

impl Record {
    /// The server says something. All that came at once is one step.
    pub(super) fn begin_heard(&mut self) {
        if self
            .hearing
            .as_ref()
            .is_some_and(|hearing| hearing.has_begun)
        {
            return;
        }
        self.begin_step();
        if let Some(hearing) = &mut self.hearing {
            hearing.has_begun = true;
        }
    }

    /// Something happens that the client does not say. Its line follows.
    pub(super) fn begin_step(&mut self) {
        self.pass_time();
        self.hold();
    }

    /// Time has passed.
    pub(super) fn pass_time(&mut self) {
        self.say_body();
        let passed = self.now.as_micros() - self.noted.as_micros();
        if passed > 0 {
            self.hold();
            self.line(format_args!("pause {passed}us"));
        }
        self.noted = self.now;
    }

    /// The client has no more of the body before the next step, and not all that it has said has gone out.
    pub(super) fn hold(&mut self) {
        self.hold_body();
        self.say_ungiven();
    }

    /// What has not gone out of all that the client has said.
    pub(super) fn say_ungiven(&mut self) {
        let octets = self.queued + self.gathered.saturating_sub(self.given);
        // Also if none are left: what the server says then is another step than what it said before.
        if octets > 0 || self.told > 0 {
            self.line(format_args!("ungiven {octets}"));
        }
        self.told = octets;
    }

    /// Of a body that has ended, octets may wait for their chunk.
    fn hold_body(&mut self) {
        if let Some(body) = &self.body
            && (body.is_chunked || !body.has_ended)
        {
            let at = match body.is_chunked {
                true if body.taken > body.border => body.offered,
                true => body.border,
                false => body.taken,
            };
            let number = body.number;
            self.flush_content();
            self.line(format_args!("hold {number} {at}"));
        }
    }

    /// What is said of the body by now and is not a whole chunk.
    pub(super) fn say_body(&mut self) {
        let Some(body) = &mut self.body else {
            return;
        };
        if body.is_chunked || body.taken == body.said {
            return;
        }
        let (number, from, to) = (body.number, body.said, body.taken);
        body.said = to;
        let word = if self.is_data { "data" } else { "bdat" };
        self.flush_content();
        self.line(format_args!("{word} {number} {from}..{to}"));
    }

    /// The rest of the body, with its end.
    pub(super) fn say_end(&mut self, word: &str) {
        self.flush_content();
        if let Some(body) = &self.body {
            let (number, from, to) = (body.number, body.said, body.taken);
            self.line(format_args!("{word} {number} {from}..{to} end"));
            self.end_body();
        }
        self.is_data = false;
    }

    pub(super) fn end_body(&mut self) {
        self.keep_known();
        self.body = None;
    }

    /// How much of the body stands here, in case that it is wanted again.
    pub(super) fn keep_known(&mut self) {
        if let Some(body) = &self.body
            && let Some((_, known)) = self.unfinished.get_mut(&body.id)
        {
            *known = body.taken.max(body.known);
        }
    }

    /// These octets of the body come next, if they do not stand here already.
    pub(super) fn content(&mut self, octets: &[u8]) {
        self.content_at(|body| body.taken, octets);
    }

    /// The same from another place of the body.
    pub(super) fn content_at(&mut self, place: fn(&Body) -> u64, octets: &[u8]) {
        let Some(body) = &mut self.body else {
            return;
        };
        let place = place(body);
        let known = usize::try_from(body.known.saturating_sub(place)).unwrap_or(usize::MAX);
        let new = octets.get(known..).unwrap_or_default();
        body.known = body.known.max(place + octets.len() as u64);
        let mut lines = String::new();
        body.content.push(new, &mut lines);
        self.content_lines(&lines);
    }

    pub(super) fn flush_content(&mut self) {
        let mut lines = String::new();
        if let Some(body) = &mut self.body {
            body.content.flush(&mut lines);
        }
        self.content_lines(&lines);
    }

    pub(super) fn content_lines(&mut self, lines: &str) {
        if let Some(body) = &self.body
            && !lines.is_empty()
        {
            let number = body.number;
            if std::mem::replace(&mut self.of, number) != number {
                self.line(format_args!("of {number}"));
            }
            self.write(format_args!("{lines}"));
        }
    }

    /// What has no result, and will get none.
    pub(super) fn expect_nothing(&mut self) {
        let messages: Vec<_> = self
            .unfinished
            .values()
            .map(|(number, _)| *number)
            .collect();
        for number in messages {
            self.line(format_args!("expect {number} * nothing"));
        }
        let requests: Vec<_> = self.asked.values().copied().collect();
        for number in requests {
            self.line(format_args!("expect request {number} nothing"));
        }
    }

    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) {
        self.write(format_args!("{line}\n"));
    }

    pub(super) fn write(&mut self, text: fmt::Arguments<'_>) {
        self.with_writer(|out| out.write_all(text.to_string().as_bytes()));
    }

    /// A writer that fails ends the record, even if it panics. It must not end the session.
    pub(super) fn with_writer(&mut self, write: impl FnOnce(&mut Writer) -> io::Result<()>) {
        let Some(mut out) = self.out.take() else {
            return;
        };
        let written = catch_unwind(AssertUnwindSafe(move || write(&mut out).map(|()| out)));
        self.out = written.ok().and_then(Result::ok);
    }
}
