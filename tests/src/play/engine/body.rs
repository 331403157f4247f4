//! Offers the body of a message, in pieces.

use std::collections::VecDeque;

use smtp_proto::BodyPart;

use crate::transcript::Message;

/// The current body, as the application offers it: pieces that grow, and whose front is used up.
#[derive(Default)]
pub(super) struct Body<'t> {
    pub(super) rest: &'t [u8],
    /// How much of `rest` has been offered. Only use reduces it, because offers are not withdrawn.
    offered: usize,
    /// How much of `rest` may be offered before the server's next reply. The next hold is first.
    holds: VecDeque<usize>,
    /// All of `rest` is offered, as the last part.
    pub(super) is_last: bool,
}

impl<'t> Body<'t> {
    pub(super) fn new(message: &'t Message) -> Self {
        Self {
            rest: &message.body,
            offered: 0,
            holds: message.holds.iter().copied().collect(),
            is_last: false,
        }
    }

    pub(super) fn piece(&self) -> BodyPart<'t> {
        match self.is_last {
            true => BodyPart::Last(self.rest),
            false => BodyPart::Next(&self.rest[..self.offered]),
        }
    }

    fn end(&self) -> usize {
        self.holds.front().copied().unwrap_or(self.rest.len())
    }

    /// Offers up to `more` further octets. False if there are none.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let before = self.offered;
        self.offered = self.offered.saturating_add(more).min(self.end());
        self.offered > before
    }

    pub(super) fn advance(&mut self, used: usize) {
        self.rest = &self.rest[used..];
        self.offered -= used;
        for hold in &mut self.holds {
            *hold -= used;
        }
    }

    pub(super) fn is_held(&self) -> bool {
        !self.holds.is_empty()
    }

    pub(super) fn release(&mut self) {
        if self.offered == self.end() {
            self.holds.pop_front();
        }
    }
}
