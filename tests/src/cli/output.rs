//! Lines on standard output, and of errors.

use std::fmt;
use std::io::{self, Write};

use super::progress::without_bars;

/// Prints a line. That nobody reads any more (SIGPIPE) is no reason to stop sending mail.
pub fn say(line: fmt::Arguments<'_>) {
    without_bars(|| {
        let _ = writeln!(io::stdout(), "{line}");
    });
}

/// Prints the line of an error.
pub(super) fn complain(line: fmt::Arguments<'_>) {
    without_bars(|| {
        let _ = writeln!(io::stderr(), "send: {line}");
    });
}
