//! All calls of the driver to the engine.
//!
//! It plays three transports: one that writes at once, one whose completions come late (io_uring), and one that
//! gathers octets before it writes.

use smtp_proto::{BodyPart, Cause, Connection, Event, Instant, Outcome};

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) connection: Connection,
    /// A write of this many octets has begun, and is not complete.
    begun: usize,
}

impl Engine {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            begun: 0,
        }
    }

    /// How many octets are on offer. An empty offer must be taken too.
    pub(crate) fn offer(&mut self, now: Instant, body: BodyPart<'_>) -> Option<usize> {
        let transmit = self.connection.poll_transmit(now, body)?;
        Some(transmit.parts().iter().map(|part| part.len()).sum())
    }

    /// The first `n` octets of the offer are given and written. Returns how many of the body they used up.
    pub(crate) fn write(
        &mut self,
        now: Instant,
        body: BodyPart<'_>,
        n: usize,
        wire: &mut Vec<u8>,
    ) -> usize {
        let Some(transmit) = self.connection.poll_transmit(now, body) else {
            return 0;
        };
        let octets = transmit.parts().concat();
        let n = n.min(octets.len());
        wire.extend_from_slice(&octets[..n]);
        transmit.advance(n)
    }

    /// The first `n` octets of the offer are given, and the write completes later.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        body: BodyPart<'_>,
        n: usize,
        wire: &mut Vec<u8>,
    ) -> usize {
        let Some(transmit) = self.connection.poll_transmit(now, body) else {
            return 0;
        };
        let octets = transmit.parts().concat();
        if octets.is_empty() {
            return transmit.advance(0);
        }
        let n = n.min(octets.len());
        wire.extend_from_slice(&octets[..n]);
        self.begun = n;
        transmit.begin(n)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun > 0
    }

    /// The write that was begun has completed.
    pub(crate) fn complete(&mut self, now: Instant) {
        self.connection
            .handle_written(now, std::mem::take(&mut self.begun));
    }

    /// Takes up to `room` octets without giving them. Returns how many of the body they used up, or `None` if nothing
    /// is on offer.
    pub(crate) fn gather(
        &mut self,
        now: Instant,
        body: BodyPart<'_>,
        room: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<usize> {
        let mut out = vec![0; room];
        let (gathered, used) = self.connection.poll_transmit_into(now, body, &mut out);
        buffer.extend_from_slice(&out[..gathered]);
        (gathered > 0 || used > 0).then_some(used)
    }

    /// A write of the next `n` gathered octets has begun.
    pub(crate) fn given(&mut self, now: Instant, n: usize) {
        self.connection.handle_given(now, n);
    }

    /// The transport has taken the next `n` gathered octets.
    pub(crate) fn written(&mut self, now: Instant, n: usize) {
        self.connection.handle_written(now, n);
    }

    /// The connection is gone.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.connection.handle_lost(now, Cause::Disconnected);
    }

    pub(crate) fn establish_tls(&mut self, now: Instant) {
        let _ = self.connection.handle_tls_established(now);
    }

    pub(crate) fn fail_tls(&mut self) {
        let cause = Cause::TlsFailed("as it was drawn".into());
        let _ = self.connection.handle_tls_failed(cause);
    }

    /// The application cannot give the rest of the body.
    pub(crate) fn fail_body(&mut self, outcome: Outcome, reason: &str) {
        let _ = self.connection.fail_body(outcome, reason);
    }

    pub(crate) fn hear(&mut self, now: Instant, octets: &[u8]) {
        self.connection.handle_input(now, octets);
    }

    pub(crate) fn event(&mut self) -> Option<Event> {
        self.connection.poll_event()
    }
}
