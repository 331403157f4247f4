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
    /// The octets, in order: first the engine's, then a run of the caller's body. Either may be empty.
    ///
    /// Both are empty only if [`advance`](Self::advance) uses up one octet without a write. It is the last octet of a
    /// body of [exact size](crate::Envelope::exact_size), held back until
    /// [`finish_body`](crate::Connection::finish_body) declares the end.
    pub fn parts(&self) -> [&[u8]; 2] {
        match &self.offer {
            Offer::Engine => [self.conversation.peer.pipeline.pending(), &[]],
            Offer::Body { insertion, run, .. } => [insertion, &self.body[..*run]],
        }
    }

    /// When the transport must have taken some of these octets.
    pub fn deadline(&self) -> Option<Instant> {
        self.conversation
            .next_deadline()
            .map(|deadline| deadline.at)
    }

    /// Reports that the first `n` octets of the parts were written. Returns how many octets of `body` they used up. A
    /// larger number than was offered counts as all.
    pub fn advance(self, n: usize) -> usize {
        self.take(n, Fate::Written)
    }

    /// Reports that a write of the first `n` octets of the parts has begun: they may reach the server now. Returns
    /// how many octets of `body` they used up. Keep these until the write is done. Then call
    /// [`Connection::handle_written`](crate::Connection::handle_written). Octets of a begun write are not offered
    /// again.
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
