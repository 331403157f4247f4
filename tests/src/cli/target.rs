//! The target of the messages: the named server, or our own.

use smtp_proto::{Cause, Error};

use super::options::{Options, Tls};
use super::output::say;
use super::refusal::refused;
use crate::servers::receiver;

impl Options {
    /// The server to send to. Without a named one, it starts the example's own receiving server.
    ///
    /// # Errors
    /// The server cannot be started.
    pub fn start_server(&self) -> Result<Target, Error> {
        if self.server.is_some() || self.unix.is_some() {
            return Ok(Target {
                address: self.server.clone().unwrap_or_default(),
                receiver: None,
            });
        }
        let options = receiver::Options {
            lmtp: self.lmtp,
            implicit_tls: self.tls == Some(Tls::Implicit),
            auth: self.auth_user.clone().zip(self.auth_password.clone()),
            auth_in_clear: self.auth_in_clear,
            require_tls: self.require_tls,
            ..receiver::Options::default()
        };
        let local = |error| {
            refused(Cause::Local(
                format!("the receiving server: {error}").into(),
            ))
        };
        let receiver = receiver::Receiver::start(options).map_err(local)?;
        let address = receiver.local_addr().to_string();
        if !self.quiet {
            say(format_args!("a receiving server listens on {address}"));
        }
        Ok(Target {
            address,
            receiver: Some(receiver),
        })
    }
}

/// The target of the messages.
#[derive(Debug)]
pub struct Target {
    /// The value of `--server`. Empty with `--unix`.
    pub address: String,
    receiver: Option<receiver::Receiver>,
}

impl Target {
    /// The certificate of our own receiving server.
    pub fn own_pem(&self) -> Option<&str> {
        self.receiver
            .as_ref()
            .map(receiver::Receiver::certificate_pem)
    }

    /// Prints what our own receiving server has taken.
    pub fn say_where(&self, options: &Options) {
        let messages = self
            .receiver
            .iter()
            .filter(|_| !options.quiet)
            .flat_map(receiver::Receiver::messages);
        for stored in messages {
            let (octets, to) = (stored.octets, stored.forward_paths.join(", "));
            say(format_args!("taken: {octets} octets for {to}"));
        }
    }
}
