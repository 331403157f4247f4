//! The command line becomes options, or a refusal.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::options::Options;
use super::output::say;

impl Options {
    /// The options of the command line; without any, those of the sample.
    ///
    /// # Errors
    /// The exit code, when usage or help was printed.
    pub fn parse_args() -> Result<Self, ExitCode> {
        let mut args: Vec<std::ffi::OsString> = std::env::args_os().collect();
        // Without any, and with --json alone.
        if args[1..].iter().all(|arg| arg == "--json") {
            let sample = "--from alice@example.org --to bob@example.net --data (sample)";
            let transcript = (args.len() <= 1).then_some("--transcript");
            args.extend(sample.split(' ').chain(transcript).map(Into::into));
        }
        let wants_json = args.iter().any(|arg| arg == "--json");
        Self::try_parse_from(args)
            .and_then(Self::with_whole_login)
            .map_err(|error| {
                let _ = error.print();
                if !error.use_stderr() {
                    return ExitCode::SUCCESS;
                }
                if wants_json {
                    let text = error.to_string();
                    let line = text.lines().next().unwrap_or_default();
                    say(format_args!("{}", bad_usage(line)));
                }
                ExitCode::from(64)
            })
    }

    /// Refuses a user without a password, and settings of a login that is none; EXTERNAL and ANONYMOUS
    /// need neither.
    fn with_whole_login(mut self) -> Result<Self, clap::Error> {
        if let Some(path) = &self.auth_password_file {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let message = format!("--auth-password-file {}: {error}", path.display());
                Self::command().error(clap::error::ErrorKind::Io, message)
            })?;
            self.auth_password = text.lines().next().map(str::to_owned);
        } else if self.auth_user.is_some() && self.auth_password.is_none() {
            self.auth_password = std::env::var("SMTP_PASSWORD").ok();
        }
        let asked = self.auth_user.is_some()
            || self.auth_mechanism.is_some()
            || self.auth_authzid.is_some();
        match asked && self.credentials().is_none() {
            true => {
                let message =
                    "--auth-user and --auth-password are needed, but for EXTERNAL and ANONYMOUS";
                Err(Self::command().error(clap::error::ErrorKind::MissingRequiredArgument, message))
            }
            false => Ok(self),
        }
    }
}

/// The object for a command line that cannot be used: no message was attempted.
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
