//! The progress of a long message: a bar on standard error, if that is a terminal.

use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// One bar for each message that is being sent. The bars are the last lines of the terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints, while the bars are hidden.
pub(super) fn without_bars(print: impl FnOnce()) {
    BARS.suspend(print);
}

/// Shows how much of a message has been sent. Dropping it removes the bar.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A shorter message has no bar. In octets.
    pub(super) const LONG: u64 = 1024 * 1024;

    /// A bar for this many octets, if one is to be shown.
    pub(super) fn new(octets: Option<u64>) -> Self {
        let octets = octets.filter(|&octets| octets >= Self::LONG);
        Self {
            bar: octets.map(|octets| {
                let bar = BARS.add(ProgressBar::new(octets));
                let style = "{bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left";
                if let Ok(style) = ProgressStyle::with_template(style) {
                    bar.set_style(style);
                }
                bar
            }),
        }
    }

    /// This many more octets were sent.
    pub fn advance(&mut self, octets: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(octets as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }
}
