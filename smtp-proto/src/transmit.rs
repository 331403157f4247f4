//! An offer of octets to the transport.

use core::fmt;

use crate::engine::conversation::Conversation;
use crate::engine::output::{Fate, Offer};
use crate::time::Instant;

/// What to write next. Dropping it writes nothing and changes nothing.
#[must_use = "nothing counts as sent before `advance`"]
pub struct Transmit<'a> {
    pub(crate) conversation: &'a mut Conversation,
    pub(crate) now: Instant,
    pub(crate) body: &'a [u8],
    pub(crate) offer: Offer,
}

impl Transmit<'_> {
    /// The octets, in order: first the engine's, then a run of the caller's body. Either may be empty. Both are
    /// only where there is nothing to write and [`advance`](Self::advance) uses up one octet all the same: the
    /// last one of a body of [exact size](crate::Envelope::exact_size), which is kept back until
    /// [`finish_body`](crate::Connection::finish_body) says that no more follows.
    pub fn parts(&self) -> [&[u8]; 2] {
        match &self.offer {
            Offer::Engine => [self.conversation.peer.pipeline.pending(), &[]],
            Offer::Body { insertion, run, .. } => [insertion, &self.body[..*run]],
        }
    }

    /// When the transport must have taken some of it.
    pub fn deadline(&self) -> Option<Instant> {
        self.conversation
            .next_deadline()
            .map(|deadline| deadline.at)
    }

    /// Says that the first `n` octets of the parts were written, and returns how many octets of `body` that used
    /// up. More than there are counts as all.
    pub fn advance(self, n: usize) -> usize {
        self.take(n, Fate::Written)
    }

    /// Says that a write of the first `n` octets of the parts was begun, and is not done: they may reach the server
    /// from now on. Returns how many octets of `body` that used up; keep them until the write is done, and then
    /// call [`Connection::handle_written`](crate::Connection::handle_written). What was begun is not offered again.
    pub fn begin(self, n: usize) -> usize {
        self.take(n, Fate::Given)
    }

    pub(crate) fn take(self, n: usize, fate: Fate) -> usize {
        self.conversation
            .take(self.now, &self.offer, self.body, n, fate)
    }
}

impl fmt::Debug for Transmit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The octets may be credentials.
        let [ours, theirs] = self.parts();
        write!(f, "Transmit({} + {} octets)", ours.len(), theirs.len())
    }
}
