//! How far a long message has come: a bar on standard error, where that is a terminal.

use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// One for each message that is being sent. They are the last lines of the terminal, below what is printed.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints, while no bar stands where the lines go.
pub(super) fn without_bars(print: impl FnOnce()) {
    BARS.suspend(print);
}

/// Shows how much of a message has been sent. The bar goes with it.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A message shorter than this shows none, in octets.
    pub(super) const LONG: u64 = 1024 * 1024;

    /// Of so many octets, where they are to be shown.
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

    /// So many more octets are sent.
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
