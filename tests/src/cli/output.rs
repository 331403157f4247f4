//! Lines on standard output.

use std::fmt;
use std::io::{self, Write};

/// Prints a line. That nobody reads any more (SIGPIPE) is no reason to stop sending mail.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}
