//! Octets on their way to the stream: what the engine says, the body in chunks, and its end.

use bytes::BufMut;
use smtp_proto::{BodyPart, Instant};

use super::Driver;
use crate::record::Record;

/// Octets that are gathered before they are written. So an envelope, or the end of a body with its dot, can be one
/// packet and one system call.
const GATHER: usize = 32 * 1024;

impl Driver {
    /// Gathers the engine's octets, and as much of `body` as is wanted and fits. If the number of chunks is unknown,
    /// it first collects octets for a whole one. So the sizes of chunks do not depend on how the body is cut. Returns
    /// how many octets of `body` were used.
    pub fn gather(&mut self, now: Instant, body: &[u8]) -> usize {
        let Some(size) = self
            .engine
            .chunk_size()
            .filter(|_| !body.is_empty() || !self.chunk.is_empty())
        else {
            return self.take(now, body);
        };
        let mut used = 0;
        loop {
            if self.chunk_at == 0 {
                let more = size.saturating_sub(self.chunk.len()).min(body.len() - used);
                self.chunk.extend_from_slice(&body[used..used + more]);
                used += more;
                // A full chunk waits for the octets after it: if none come, it is the last.
                if used == body.len() && !self.chunk_due {
                    self.take(now, &[]);
                    return used;
                }
            }
            if !self.send_chunk(now, false) {
                return used;
            }
            self.chunk_due = false;
        }
    }

    /// Gathers the rest of the chunk, which may be the last of the body. Returns whether all of it is gathered.
    fn send_chunk(&mut self, now: Instant, is_last: bool) -> bool {
        let chunk = std::mem::take(&mut self.chunk);
        self.note(|record| record.offered_chunk(&chunk));
        let rest = &chunk[self.chunk_at..];
        let part = match is_last {
            true => BodyPart::Last(rest),
            false => BodyPart::Next(rest),
        };
        self.chunk_at += self.take(now, part);
        self.chunk = chunk;
        let sent = self.chunk_at == self.chunk.len();
        if sent {
            // One that was flushed had no need to be full.
            let is_full = !self.chunk_due && self.engine.chunk_size() == Some(self.chunk.len());
            self.note(|record| match is_full || is_last {
                true => record.full_chunk(),
                false => record.short_chunk(),
            });
            self.chunk.clear();
            self.chunk_at = 0;
        }
        sent
    }

    /// Sends the octets that wait for a full chunk, when octets are gathered next.
    pub fn flush_chunk(&mut self) {
        self.chunk_due = !self.chunk.is_empty();
    }

    /// Whether no octets wait for a full chunk.
    pub fn has_no_chunk(&self) -> bool {
        self.chunk.is_empty() || !self.engine.wants_body()
    }

    /// Ends the body as far as possible now. Returns whether it has ended. If not, something must be written first,
    /// or a reply must come.
    pub fn end_body(&mut self, now: Instant) -> bool {
        if self.is_recorded(now) && self.engine.wants_body() {
            self.note(Record::ended_body);
        }
        if !self.has_no_chunk() && !self.send_chunk(now, true) && self.engine.wants_body() {
            return false;
        }
        let _ = self.engine.finish_body();
        true
    }

    fn take<'a>(&mut self, now: Instant, body: impl Into<BodyPart<'a>>) -> usize {
        let body = body.into();
        let is_recorded = self.is_recorded(now);
        let wants_body = self.engine.wants_body();
        let before = self.out.len();
        let room = GATHER.saturating_sub(self.out.len());
        if self.may_hold_secret
            && let Some(transmit) = self.engine.poll_transmit(now, &[][..])
        {
            // A buffer that grows is copied, and the old copy keeps the secret. So make it large enough first.
            let octets = transmit.parts()[0].len();
            self.out.reserve(octets.min(room));
        }
        // A record has no word for a part of a chunk, so a recorded session gathers it whole.
        let room = match is_recorded && room > 0 && self.engine.chunk_size().is_some() {
            true => usize::MAX,
            false => room,
        };
        let used = self
            .engine
            .poll_transmit_onto(now, body, &mut (&mut self.out).limit(room));
        if is_recorded {
            let (taken, left) = body.bytes().split_at(used);
            let is_refused = wants_body && !left.is_empty() && !self.engine.wants_body();
            let gathered = self.out.len() - before;
            self.note(|record| {
                record.gathered(gathered);
                record.took(taken);
                if is_refused {
                    record.left(left);
                }
            });
        }
        used
    }

    pub(super) fn forget_chunk(&mut self) {
        self.chunk.clear();
        (self.chunk_at, self.chunk_due) = (0, false);
    }

    /// Whether something must be written before more can be gathered.
    pub fn is_full(&self) -> bool {
        self.out.len() >= GATHER
    }

    /// All gathered octets were written.
    pub fn written(&mut self) {
        self.forget_output();
    }

    /// Drops the gathered octets, and wipes them if they may be credentials.
    pub fn forget_output(&mut self) {
        if self.may_hold_secret {
            zeroize::Zeroize::zeroize(&mut self.out);
        }
        self.out.clear();
    }
}
