//! What is refused before anything is sent.

use std::fmt;
use std::io;
use std::path::Path;

use smtp_proto::{Cause, Error, Outcome, Stage, reply::Printable};

pub(super) fn refused(cause: Cause) -> Error {
    Error::new(Stage::Local, Outcome::Permanent, cause)
}

pub(super) fn bad_flag(flag: &str, value: &str, error: &dyn fmt::Display) -> Error {
    refused(Cause::Local(
        format!("{flag} {}: {error}", Printable(value.as_bytes())).into(),
    ))
}

pub(super) fn bad_file(path: &Path, error: &io::Error) -> Error {
    refused(Cause::Local(format!("{}: {error}", path.display()).into()))
}
