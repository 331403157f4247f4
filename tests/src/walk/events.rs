//! The engine's events: each report once, in order, and in its place.

use smtp_proto::{Chunking, Event, MessageId};

use super::scene::Login;
use super::wire::Feed;
use super::world::World;
use super::{Failure, fail, verdict};
use crate::watchdog::Turns;

impl World<'_> {
    pub(super) fn take_events(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        let mut turns = Turns::default();
        while let Some(event) = self.engine.poll_event() {
            any = true;
            if let Err(error) = turns.take() {
                return fail("events without end", error);
            }
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
                    // The fate of QUIT does not matter.
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
        let logs_in = self.scene.login != Login::No;
        self.books.has_hello && (!logs_in || self.books.logged_in)
    }

    fn want_body(&mut self, id: MessageId) -> Result<(), Failure> {
        let message = self.messages.iter().position(|known| *known == id);
        let last = self.books.transactions.last();
        // With eager chunks, a body may be asked for before MAIL is out.
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
}
