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
    /// Where a chunk ends that is not full; the next one is first.
    borders: VecDeque<usize>,
    /// The application never says that there is no more.
    is_endless: bool,
}

impl<'t> Body<'t> {
    pub(super) fn new(message: &'t Message) -> Self {
        Self {
            rest: &message.body,
            offered: 0,
            holds: message.holds.iter().copied().collect(),
            is_last: false,
            borders: VecDeque::new(),
            is_endless: false,
        }
    }

    /// As a recorded application gave it when it was wanted for the time of this number.
    pub(super) fn recorded(message: &'t Message, run: usize) -> Self {
        let Some(run) = message.runs.get(run) else {
            return Self::default();
        };
        Self {
            rest: &message.body,
            offered: 0,
            holds: run.holds.iter().copied().collect(),
            is_last: false,
            borders: run.borders.iter().copied().collect(),
            is_endless: !run.ends,
        }
    }

    pub(super) fn piece(&self) -> BodyPart<'t> {
        match self.is_last {
            true => BodyPart::Last(self.rest),
            false => BodyPart::Next(&self.rest[..self.offered]),
        }
    }

    fn end(&self) -> usize {
        let hold = self.holds.front().copied().unwrap_or(self.rest.len());
        let border = self.borders.front().copied().unwrap_or(hold);
        hold.min(border)
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
            *hold = hold.checked_sub(used).expect("holds are in order");
        }
        for border in &mut self.borders {
            *border = border.saturating_sub(used);
        }
        while self.borders.front() == Some(&0) {
            self.borders.pop_front();
        }
    }

    pub(super) fn is_held(&self) -> bool {
        !self.holds.is_empty() || self.is_endless
    }

    /// Whether all that is left may be the last chunk.
    pub(super) fn may_be_last(&self) -> bool {
        !self.is_held() && self.borders.is_empty()
    }

    pub(super) fn release(&mut self) {
        if self.offered == self.end() {
            self.holds.pop_front();
        }
    }
}
