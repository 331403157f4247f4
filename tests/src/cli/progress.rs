//! How far a long message has come.

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Shows on a terminal how much of a long message has been sent.
#[derive(Debug)]
pub struct Progress {
    pub(super) sent: u64,
    /// The octets that there will be, and when their number was last shown.
    pub(super) shown: Option<(u64, Instant)>,
}

impl Progress {
    /// A message shorter than this shows none, in octets.
    pub(super) const LONG: u64 = 1024 * 1024;

    /// So many more octets are sent.
    pub fn advance(&mut self, octets: usize) {
        self.sent += octets as u64;
        if let Some((all, shown)) = &mut self.shown
            && (shown.elapsed() > Duration::from_millis(100) || self.sent >= *all)
        {
            *shown = Instant::now();
            let end = if self.sent >= *all { "\n" } else { "" };
            let mib = |octets: u64| octets as f64 / f64::from(1 << 20);
            let _ = write!(
                io::stderr(),
                "\r{:.1} of {:.1} MiB{end}",
                mib(self.sent),
                mib(*all)
            );
        }
    }
}
