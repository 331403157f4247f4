//! What the player of a record does beyond that of a transcript.

use smtp_proto::Instant;

use super::Player;
use crate::transcript::{Happening, Recorded};

impl Player<'_> {
    pub(super) fn happens(&mut self, happening: Happening) {
        self.observed.happenings.push((self.steps, happening));
    }

    /// What stands only in a record.
    pub(super) fn recorded(&mut self, what: &Recorded) -> Result<(), String> {
        let result = match what {
            Recorded::Tls(facts) => {
                self.handshake_due = false;
                self.engine
                    .handle_tls_established_with(self.now, facts.clone())
            }
            Recorded::NoTls(cause) => {
                self.handshake_due = false;
                self.engine.handle_tls_failed(cause.clone())
            }
            Recorded::Timeout => {
                let is_due = |deadline: Instant| deadline <= self.now;
                if !self.engine.poll_timeout().is_some_and(is_due) {
                    return Err("no deadline has passed".into());
                }
                self.engine.handle_timeout(self.now);
                Ok(())
            }
            Recorded::Lost(cause) => {
                self.engine.handle_lost(self.now, cause.clone());
                Ok(())
            }
            Recorded::Abort(reason) => self.engine.abort(reason),
            Recorded::FailBody(outcome, reason) => self.engine.fail_body(*outcome, reason),
            Recorded::Challenge(has_begun) => {
                let line = self.challenger.challenge(&self.said)?;
                return self.hear(&line.as_bytes()[usize::from(*has_begun)..]);
            }
        };
        result.map_err(|misuse| misuse.to_string())
    }
}
