//! The bodies of the fuzz targets in `fuzz/`. Each takes any octets, and panics if a rule of the engine does not
//! hold. They are ordinary code, so that `cargo check` breaks before the fuzzer does. `tests/fuzz_smoke.rs` runs them
//! on every change.
//!
//! They do slowly and obviously what the engine does fast and in place: `decode` for replies, `stuff` for bodies,
//! `Peer` for the attribution of replies.

mod body;
pub mod model;
mod peer;
mod reply;
mod session;
mod settings;

pub use body::body;
pub use reply::reply;
pub use session::session;

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
