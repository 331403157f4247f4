//! The bodies of the fuzz targets in `fuzz/`. Each takes any octets, and panics if a rule of the engine does not
//! hold. They are ordinary code, so that `cargo check` breaks before the fuzzer does. `tests/fuzz_smoke.rs` runs them
//! on every change.
//!
//! They do slowly and obviously what the engine does fast and in place: `decode` for replies, `stuff` for bodies,
//! `Peer` for the attribution of replies.

mod address;
mod body;
mod chunks;
mod conversation;
mod differential;
mod ehlo;
pub mod model;
mod peer;
mod reply;
mod sasl;
mod session;
mod settings;
mod url;

use smtp_proto::{Connection, Instant};

use crate::watchdog::Turns;

pub use address::address;
pub use body::body;
pub use chunks::chunks;
pub use conversation::conversation;
pub use differential::differential;
pub use ehlo::ehlo;
pub use reply::reply;
pub use sasl::sasl;
pub use session::session;
pub use url::url;

/// The octets of an input, taken from the front. After the end come zeros.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// A string with its length before it.
    fn string(&mut self) -> &'a [u8] {
        let n = usize::from(self.byte() % 64);
        self.take(n)
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// One line that neither moves the cursor of a terminal nor hides or reorders its text.
fn assert_printable(text: &str) {
    let bad = |c: char| {
        c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || "\u{2028}\u{2029}".contains(c)
    };
    assert!(!text.contains(bad), "not printable: {text:?}");
}

/// More offers than any of the sessions here makes at a time.
const MOST_OFFERS: usize = Turns::MOST;

/// All that the engine has to say without a body. Whoever offers without end fails.
fn take_all(connection: &mut Connection, now: Instant) -> Vec<u8> {
    let mut wire = vec![];
    for _ in 0..MOST_OFFERS {
        let Some(transmit) = connection.poll_transmit(now, b"") else {
            return wire;
        };
        let octets = transmit.parts().concat();
        assert!(!octets.is_empty(), "an offer of nothing");
        wire.extend_from_slice(&octets);
        transmit.advance(octets.len());
    }
    panic!("offers without end: {}", wire.escape_ascii());
}
