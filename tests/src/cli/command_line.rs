//! The command line becomes options, or an error.

use std::env::VarError;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use serde_json::{Value, json};

use super::options::Options;
use super::output::say;

impl Options {
    /// The options of the command line. Without arguments, those of the sample.
    ///
    /// # Errors
    /// The exit code, if usage or help was printed.
    pub fn parse_args() -> Result<Self, ExitCode> {
        let mut args: Vec<OsString> = std::env::args_os().collect();
        let given = args.get(1..).unwrap_or_default();
        // Without arguments, or with --json alone.
        if given.iter().all(|arg| arg == "--json") {
            let sample = "--from alice@example.org --to bob@example.net --data (sample)";
            let transcript = given.is_empty().then_some("--transcript");
            args.extend(sample.split(' ').chain(transcript).map(Into::into));
        }
        // `--json=VALUE` is a bad option, but its user waits for an object nevertheless.
        let wants_json = args.iter().any(|arg| name_of(arg) == b"--json");
        Self::try_parse_from(&args)
            .map_err(|error| without_password(error, &args))
            .and_then(Self::with_whole_login)
            .map_err(|error| {
                let _ = error.print();
                if !error.use_stderr() {
                    return ExitCode::SUCCESS;
                }
                if wants_json {
                    say(format_args!("{}", bad_usage(&in_one_line(&error))));
                }
                ExitCode::from(64)
            })
    }

    /// Refuses a user without a password, and settings without a login. EXTERNAL and ANONYMOUS need neither.
    fn with_whole_login(mut self) -> Result<Self, clap::Error> {
        if let Some(path) = &self.auth_password_file {
            let bad = |problem: &dyn fmt::Display| {
                let message = format!("--auth-password-file {}: {problem}", path.display());
                usage(ErrorKind::Io, message)
            };
            let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
            let line = text.lines().next().unwrap_or_default();
            if line.is_empty() {
                return Err(bad(&"the first line is empty"));
            }
            self.auth_password = Some(line.to_owned());
        } else if self.auth_user.is_some() && self.auth_password.is_none() {
            self.auth_password = match std::env::var("SMTP_PASSWORD") {
                Err(VarError::NotUnicode(_)) => {
                    let message = "the environment's SMTP_PASSWORD is not UTF-8";
                    return Err(usage(ErrorKind::InvalidUtf8, message));
                }
                password => password.ok().filter(|password| !password.is_empty()),
            };
        }
        let asked = self.auth_user.is_some()
            || self.auth_mechanism.is_some()
            || self.auth_authzid.is_some();
        match asked && self.credentials().is_none() {
            true => {
                let message = "--auth-user is needed, and a password, but for EXTERNAL and ANONYMOUS; give it by \
                               --auth-password-file, SMTP_PASSWORD or --auth-password";
                Err(usage(ErrorKind::MissingRequiredArgument, message))
            }
            false => Ok(self),
        }
    }
}

fn usage(kind: ErrorKind, message: impl fmt::Display) -> clap::Error {
    Options::command().error(kind, message)
}

/// The name of an option, without its value.
fn name_of(arg: &OsString) -> &[u8] {
    let mut parts = arg.as_encoded_bytes().split(|&octet| octet == b'=');
    parts.next().unwrap_or_default()
}

/// The shell splits a password at a space. The second half is then an unknown argument, and must not be shown.
fn without_password(error: clap::Error, args: &[OsString]) -> clap::Error {
    let has_password = args.iter().any(|arg| name_of(arg) == b"--auth-password");
    match error.kind() {
        ErrorKind::UnknownArgument if has_password => usage(
            ErrorKind::UnknownArgument,
            "unexpected argument; it is not shown, because it may be part of the password. Write \
             --auth-password='...'",
        ),
        _ => error,
    }
}

/// The error, without the usage after it.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim);
    let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// The object for an invalid command line: no message was attempted.
fn bad_usage(error: &str) -> Value {
    json!({
        "outcome": "refused",
        "stage": "local",
        "error": error.trim_start_matches("error: "),
        "maybe_delivered": false,
        "recipients": [],
        "round_trips": 0,
        "tls": null,
    })
}
