//! Lines on standard output, and error lines.

use std::fmt;
use std::io::{self, Write};

use super::progress::without_bars;

/// Prints a line. If nobody reads any more (SIGPIPE), it still sends the mail.
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
