//! What a session tells its engine. All of it goes through here, so that a record misses nothing.

use std::io;

use smtp_proto::{Cause, Envelope, Instant, MessageId, Request, TlsFacts, error::Misuse};

use super::{Client, Driver};
use crate::error::outcome_of;
use crate::observe::Watch;
use crate::record::Record;

impl Driver {
    /// Submits a message, or returns the envelope for its report.
    pub fn submit(
        &mut self,
        now: Instant,
        envelope: Envelope,
    ) -> Result<MessageId, (Misuse, Envelope)> {
        let is_recorded = self.is_recorded(now);
        let line = is_recorded.then(|| Record::message_line(&envelope));
        let id = self.engine.try_submit(envelope)?;
        if let Some(line) = line {
            self.note(|record| record.submitted(id, &line));
        }
        self.submitted += 1;
        self.unfinished += 1;
        if self.client == Client::OtherForNextMessage {
            self.client = Client::Own;
        }
        Ok(id)
    }

    /// The stream has failed, or has ended ([`io::ErrorKind::UnexpectedEof`]).
    pub fn lose(&mut self, now: Instant, error: io::Error) {
        #[cfg(feature = "rustls")]
        let Some(error) = self.lose_tls(now, error) else {
            return;
        };
        // rustls reports that the server closed without the closing alert of TLS, as many servers do.
        if error.kind() != io::ErrorKind::UnexpectedEof {
            self.io.get_or_insert(error);
        }
        self.is_recorded(now);
        self.note(Record::ended);
        self.engine.handle_eof(now);
    }

    /// The server has said this.
    pub fn hear(&mut self, now: Instant, octets: &[u8]) {
        if self.is_recorded(now) {
            self.note(|record| record.heard(octets));
        }
        self.engine.handle_input(now, octets);
    }

    /// It may be time for something.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.is_recorded(now);
            self.note(Record::timed_out);
        }
        self.engine.handle_timeout(now);
    }

    /// So many octets of what was gathered are written.
    pub fn handle_written(&mut self, now: Instant, octets: usize) {
        self.note(|record| record.written(octets));
        self.engine.handle_written(now, octets);
    }

    /// So many octets of what was gathered may have gone out.
    pub fn handle_given(&mut self, now: Instant, octets: usize) {
        self.note(|record| record.given(octets));
        self.engine.handle_given(now, octets);
    }

    /// The TLS handshake is done, if the engine waits for one.
    pub fn handle_tls_established(&mut self, now: Instant, facts: TlsFacts) {
        self.is_recorded(now);
        let told = facts.clone();
        if self.engine.handle_tls_established_with(now, facts).is_ok() {
            self.note(|record| record.encrypted(&told));
        }
    }

    /// The TLS handshake has failed, or the server has refused us after it. Whether the engine has taken that.
    pub fn handle_tls_failed(&mut self, now: Instant, cause: Cause) -> bool {
        self.is_recorded(now);
        let told = cause.clone();
        let is_taken = self.engine.handle_tls_failed(cause).is_ok();
        if is_taken {
            self.note(|record| record.not_encrypted(&told));
        }
        is_taken
    }

    /// Asks for QUIT. Whether that is possible.
    pub fn quit(&mut self, now: Instant) -> bool {
        self.is_recorded(now);
        let is_possible = self.engine.quit().is_ok();
        if is_possible {
            self.note(Record::quit);
        }
        is_possible
    }

    /// Ends the session at once.
    pub fn abort(&mut self, now: Instant, reason: &str) {
        self.is_recorded(now);
        if self.engine.abort(reason).is_ok() {
            self.note(|record| record.aborted(reason));
        }
    }

    /// For the record, if there is one: it is this late, and all that was before is told. Whether there is one.
    pub(super) fn is_recorded(&mut self, now: Instant) -> bool {
        let has_record = |watch: &mut Box<Watch>| watch.record().is_some();
        if !self.watch.as_mut().is_some_and(has_record) {
            return false;
        }
        self.take_events();
        let queued = self.engine.poll_transmit(now, &[][..]);
        let queued = queued.map_or(0, |transmit| transmit.parts()[0].len());
        self.note(|record| record.at(now, queued));
        true
    }

    /// The session is dropped. For the record, what waits in the engine counts as gathered: a replay cannot leave it.
    pub(super) fn end_record(&mut self) {
        let now = Instant::default();
        if !self.is_recorded(now) || self.is_closed() {
            return;
        }
        // It may be a login, and a buffer that grows leaves a copy.
        let waits = self.engine.poll_transmit(now, &[][..]);
        let octets = waits.map_or(0, |transmit| transmit.parts()[0].len());
        let mut rest = zeroize::Zeroizing::new(Vec::with_capacity(octets));
        self.engine.poll_transmit_onto(now, &[][..], &mut *rest);
        self.note(|record| record.gathered(rest.len()));
        while let Some(event) = self.engine.poll_event() {
            self.note(|record| record.event(&event, false));
        }
    }

    /// Writes down what happens, and before what comes of it.
    pub(super) fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = self.watch.as_mut().and_then(|watch| watch.record()) {
            note(record);
        }
    }

    /// The same for an error about TLS. Any other error is returned.
    #[cfg(feature = "rustls")]
    fn lose_tls(&mut self, now: Instant, error: io::Error) -> Option<io::Error> {
        use crate::handshake::{tls_error, words};
        let tls = tls_error(&error);
        // The server may refuse the client's certificate after our handshake is over.
        if let Some(handshake) = self.handshake
            && self.tls_info.is_some()
        {
            let cause = match tls {
                Some(tls) => handshake.cause(tls),
                None => handshake.cut_off(),
            };
            if self.handle_tls_failed(now, cause) {
                match error.kind() {
                    // A later error of a write explains less.
                    _ if tls.is_some() => self.io = None,
                    io::ErrorKind::UnexpectedEof => {}
                    _ => {
                        self.io.get_or_insert(error);
                    }
                }
                return None;
            }
        }
        let words = match tls {
            Some(tls) => words(tls),
            None => return Some(error),
        };
        self.io = None;
        let cause = Cause::Transport(format!("the TLS connection failed: {words}").into());
        self.is_recorded(now);
        self.note(|record| record.lost(&cause));
        self.engine.handle_lost(now, cause);
        None
    }

    /// Sends a request. From now on, the caller waits for its answer only.
    pub fn request(&mut self, now: Instant, request: Request) -> Result<(), Misuse> {
        let client = Client::after(&request, self.client);
        let told = self.is_recorded(now).then(|| request.clone());
        let id = self.engine.request(request)?;
        if let Some(request) = told {
            self.note(|record| record.requested(id, &request));
        }
        self.client = client;
        self.may_hold_secret = true;
        (self.asked, self.answer) = (Some(id), None);
        Ok(())
    }

    /// The caller cannot give the rest of the body.
    pub fn fail_body(&mut self, now: Instant, error: &io::Error) {
        self.forget_chunk();
        let (outcome, reason) = (
            outcome_of(error),
            format!("the message cannot be read: {error}"),
        );
        self.is_recorded(now);
        if self.engine.fail_body(outcome, &reason).is_ok() {
            self.note(|record| record.body_failed(outcome, &reason));
        }
    }
}
