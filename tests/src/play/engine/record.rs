//! What the player of a record does beyond that of a transcript.

use smtp_proto::{BodyPart, Instant};

use super::Player;
use crate::transcript::{Happening, Recorded};

impl Player<'_> {
    /// Tells the engine what has gone out of the octets that were gathered: all but so many.
    pub(super) fn give_all_but(&mut self, ungiven: usize) {
        let octets = self.gathered.saturating_sub(ungiven);
        self.engine.handle_written(self.now, octets);
        self.gathered -= octets;
        self.is_told = true;
    }

    /// Takes what the engine has to say, although it does not go out at once. Whether that was anything.
    pub(super) fn gather(&mut self) -> Result<bool, String> {
        self.fill_chunk();
        let mut out = Vec::new();
        // A chunk at a time: the last one is not known before.
        let piece = match (self.engine.chunk_size(), self.body.piece()) {
            (Some(size), BodyPart::Next(octets)) => {
                BodyPart::Next(&octets[..octets.len().min(size)])
            }
            (_, piece) => piece,
        };
        let used = self.engine.poll_transmit_onto(self.now, piece, &mut out);
        self.body.advance(used);
        self.batch.extend(&out);
        self.said.extend(&out);
        self.gathered += out.len();
        if !(self.is_in_body && self.in_flight.is_behind_data()) {
            self.in_flight.say(&out)?;
        }
        Ok(used > 0 || !out.is_empty())
    }

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
            // It is told before the step that it is about.
            Recorded::Ungiven(_) => Ok(()),
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
