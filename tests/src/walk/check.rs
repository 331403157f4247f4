//! Rules that hold in each state, independent of its path.

use std::fmt::{self, Write as _};

use smtp_proto::{Extension, Instant, Outcome, Request, error::Misuse};

use super::world::World;
use super::{Failure, clock, fail};

/// What can be observed of the engine without changing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) timeout: Option<Instant>,
    pub(crate) phase: String,
    pub(crate) wants_body: bool,
    pub(crate) is_idle: bool,
    pub(crate) offer: Option<Vec<u8>>,
}

/// The engine's `Debug`, up to the reply to EHLO.
struct Front(String);

impl fmt::Write for Front {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        match self.0.contains("capabilities") {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

const EXTENSIONS: [Extension; 9] = [
    Extension::Pipelining,
    Extension::Size,
    Extension::EightBitMime,
    Extension::StartTls,
    Extension::Auth,
    Extension::Chunking,
    Extension::Limits,
    Extension::Prdr,
    Extension::SmtpUtf8,
];

impl World<'_> {
    pub(crate) fn phase(&self) -> String {
        let mut front = Front(String::new());
        let _ = write!(front, "{:?}", self.engine);
        let phase = front.0.split('"').nth(1).unwrap_or_default();
        phase.to_owned()
    }

    pub(crate) fn see(&mut self) -> Seen {
        let offer = self.on_offer();
        Seen {
            timeout: self.engine.poll_timeout(),
            phase: self.phase(),
            wants_body: self.engine.wants_body(),
            is_idle: self.engine.is_idle(),
            offer,
        }
    }

    pub(super) fn check(&mut self) -> Result<(), Failure> {
        let seen = self.see();
        let is_on_offer = seen.offer.is_some();
        clock::check(
            self.scene,
            &self.books,
            &seen.phase,
            is_on_offer,
            seen.timeout,
        )?;
        if self.closed.is_none() {
            for extension in EXTENSIONS {
                let offered = self.books.offers(extension.keyword());
                if self.engine.capabilities().has(extension) != offered {
                    return fail("capabilities of another EHLO", format!("{extension:?}"));
                }
            }
        }
        self.probe()?;
        let after = self.see();
        if seen != after {
            return fail(
                "a call that changes something",
                format!("{seen:?}, and then {after:?}"),
            );
        }
        match self.engine.poll_event() {
            None => Ok(()),
            Some(event) => fail("an event out of nothing", format!("{event:?}")),
        }
    }

    /// Calls that do not fit return an error, and change nothing.
    fn probe(&mut self) -> Result<(), Failure> {
        self.engine.handle_timeout(self.now);
        let mut misused = Vec::new();
        if !self.engine.wants_body() {
            misused.push(self.engine.finish_body() == Err(Misuse::NoBodyWanted));
            let failed = self.engine.fail_body(Outcome::Transient, "why");
            misused.push(failed == Err(Misuse::NoBodyWanted));
        }
        if self.books.handshake.is_none() || self.closed.is_some() {
            let established = self.engine.handle_tls_established(self.now);
            misused.push(established == Err(Misuse::NoHandshakeWanted));
        }
        if self.has_quit || self.closed.is_some() {
            misused.push(self.engine.quit() == Err(Misuse::Closed));
            let envelope = self.scene.messages[0].clone();
            misused.push(self.engine.submit(envelope) == Err(Misuse::Closed));
            misused.push(self.engine.request(Request::noop()) == Err(Misuse::Closed));
        }
        if self.closed.is_some() {
            misused.push(self.engine.abort("again") == Err(Misuse::Closed));
            misused.push(self.engine.is_closed());
            self.engine.handle_input(self.now, b"250 again\r\n");
            self.engine.handle_eof(self.now);
        }
        match misused.iter().all(|told| *told) {
            true => Ok(()),
            false => fail("a mistake that is not told", format!("{misused:?}")),
        }
    }
}
