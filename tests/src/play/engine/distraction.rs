//! Calls that must make no difference.

use smtp_proto::BodyPart;
use smtp_proto::error::Misuse;

use super::Player;

impl Player<'_> {
    /// Makes a call that must not make a difference.
    pub(super) fn distract(&mut self) -> Result<(), String> {
        if !self.is_random() {
            return Ok(());
        }
        let refused = |result: Result<(), Misuse>, misuse| match result {
            Err(error) if error == misuse => Ok(()),
            result => Err(format!("{misuse:?} was due, and it was {result:?}")),
        };
        match self.random.below(8) {
            0 if self
                .engine
                .poll_timeout()
                .is_none_or(|deadline| deadline > self.now) =>
            {
                self.engine.handle_timeout(self.now);
                Ok(())
            }
            1 => {
                self.engine.handle_input(self.now, b"");
                Ok(())
            }
            2 if !self.engine.wants_body() => {
                refused(self.engine.finish_body(), Misuse::NoBodyWanted)
            }
            3 if !self.handshake_due => refused(
                self.engine.handle_tls_established(self.now),
                Misuse::NoHandshakeWanted,
            ),
            4 if self.engine.is_closed() => {
                self.engine.handle_eof(self.now);
                refused(self.engine.quit(), Misuse::Closed)
            }
            _ => Ok(()),
        }
    }

    /// Polls must not change the offer or the deadline.
    pub(super) fn poll_twice(&mut self, piece: BodyPart<'_>) -> Result<(), String> {
        let mut poll = || {
            let offer = self
                .engine
                .poll_transmit(self.now, piece)
                .map(|transmit| transmit.parts().concat());
            (offer, self.engine.poll_timeout())
        };
        let (first, second) = (poll(), poll());
        match first == second {
            true => Ok(()),
            false => Err(format!("polled twice: {first:?}, and then {second:?}")),
        }
    }
}
