//! Errors before anything is sent, and errors in the words of the options.

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

/// Names in the adapter's errors, and the options that replace them here.
const OPTIONS: [(&str, &str); 7] = [
    (
        "(client_certificate_pem)",
        "(--client-cert and --client-key)",
    ),
    ("(trust_pem)", "(--ca-file)"),
    ("(server_name)", "(--tls-name)"),
    (
        "(verify(false), and for a password Credentials::permit_unverified)",
        "(--tls-no-verify)",
    ),
    ("(Credentials::permit_unverified)", "(--tls-no-verify)"),
    ("(Credentials::permit_in_clear)", "(--auth-in-clear)"),
    ("(TlsPolicy::Implicit,", "(--tls implicit,"),
];

/// The text after the reply to a BDAT that the server may not know.
const UNKNOWN_CHUNKS: &str = "; it offers CHUNKING and may not know it: set ";

/// The line of an error, with options instead of functions. The server's own words stay as they are.
pub(super) fn for_users(error: &Error, line: &str) -> String {
    if error.reply().is_some() {
        let cause = error.cause.to_string();
        let ours = format!("{cause}{UNKNOWN_CHUNKS}Chunking::Never");
        return line.replacen(
            &ours,
            &format!("{cause}{UNKNOWN_CHUNKS}--chunking never"),
            1,
        );
    }
    OPTIONS
        .iter()
        .fold(line.to_owned(), |line, (call, option)| {
            line.replace(call, option)
        })
}
