//! The server and its session, from the options.

use std::fs::File;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use smtp_adapter::{Peer, Server, Terms};
use smtp_proto::{Cause, Channel, Credentials, Error, Timeouts, TlsPolicy};

use super::options::{AuthMechanism, Chunking, Options, Tls};
use super::refusal::{bad_file, refused};

/// The server at this address, with the settings of the options. `own_pem` is the certificate of our own receiving
/// server, if it is the target.
///
/// # Errors
/// A file of certificates cannot be used.
pub fn server_for(
    options: &Arc<Options>,
    address: &str,
    own_pem: Option<&str>,
) -> Result<Server, Error> {
    // The text before an @ may be a password, so it is not shown.
    if address.contains('@') {
        let message =
            "--server is HOST or HOST:PORT; the user and the password have options of their own";
        return Err(refused(Cause::Local(message.into())));
    }
    let server = match &options.unix {
        Some(path) => {
            // The path is not valid for a socket.
            SocketAddr::from_pathname(path).map_err(|error| bad_file(path, &error))?;
            Server::unix(path)
        }
        None => Server::new(address),
    };
    let mut server = server
        .verify(!options.tls_no_verify)
        .timeouts(options.timeouts())
        .credentials(options.credentials())
        .pipelining(!options.no_pipelining)
        .chunking(options.chunking())
        .overlap(options.overlap)
        .retry_in_clear(options.retry_in_clear);
    if let Some(policy) = options.tls_policy() {
        server = server.tls(policy);
    }
    if let Some(name) = &options.helo {
        server = server.client_name(name.clone());
    }
    if let Some(address) = options.local_address {
        server = server.bind(address);
    }
    if let Some(timeout) = options.timeout_connect {
        server = server.connect_timeout(timeout);
    }
    if options.lmtp {
        server = server.lmtp();
    }
    // The name of our own server is localhost, and its certificate is new.
    if let Some(name) = options.tls_name.as_deref().or(own_pem.map(|_| "localhost")) {
        server = server.server_name(name);
    }
    let own_pem = own_pem.map(|pem| pem.as_bytes().to_vec());
    for pem in own_pem.into_iter().chain(options.ca_pem()?) {
        server = server.trust_pem(&pem).map_err(|error| in_options(&error))?;
    }
    if let Some([chain, key]) = options.client_pem()? {
        server = server
            .client_certificate_pem(&chain, &key)
            .map_err(|error| in_options(&error))?;
    }
    if options.tls_name.is_some() || options.client_cert.is_some() {
        // Reports a bad file now, and not when a server offers TLS.
        let channel = match options.unix {
            Some(_) => Channel::Local,
            None => Channel::Network,
        };
        Terms::new(&server, true)
            .session(channel, None, || Peer::Unknown)
            .map_err(|error| in_options(&error))?;
    }
    if let Some(path) = &options.record {
        server = record(server, path)?.record_bodies(options.record_bodies);
    }
    if options.transcript {
        let options = options.clone();
        server = server.observe(move |step| options.show(step.trace()));
    }
    Ok(server)
}

/// Writes the first session into this file, and the others beside it.
fn record(server: Server, path: &Path) -> Result<Server, Error> {
    // One that cannot be written is found now, and not when the server is connected to.
    let first = File::create(path).map_err(|error| bad_file(path, &error))?;
    let (first, count, path) = (
        Mutex::new(Some(first)),
        AtomicUsize::new(0),
        path.to_owned(),
    );
    Ok(server.record(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        match first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(first) => Ok(first),
            None => {
                let mut name = path.clone().into_os_string();
                name.push(format!(".{number}"));
                File::create(name)
            }
        }
    }))
}

/// Replaces the adapter's functions by options.
fn in_options(error: &smtp_adapter::Error) -> Error {
    let error = error.error().clone();
    let Cause::Settings(text) = &error.cause else {
        return error;
    };
    let names = [
        ("server_name: ", "--tls-name"),
        ("trust_pem: ", "--ca-file"),
        ("client_certificate_pem: ", "--client-cert and --client-key"),
    ];
    let option = names
        .iter()
        .find_map(|(call, option)| Some((option, text.strip_prefix(call)?)));
    match option {
        Some((option, problem)) => refused(Cause::Settings(format!("{option}: {problem}").into())),
        None => error,
    }
}

impl Options {
    /// The engine's TLS policy, if one was chosen.
    pub fn tls_policy(&self) -> Option<TlsPolicy> {
        self.tls.map(|tls| match tls {
            Tls::None => TlsPolicy::Never,
            Tls::Opportunistic => TlsPolicy::Opportunistic,
            Tls::Required => TlsPolicy::Required,
            Tls::Implicit => TlsPolicy::Implicit,
        })
    }

    /// Whether a session needs TLS.
    pub(super) fn demands_tls(&self) -> bool {
        match self.tls {
            Some(tls) => matches!(tls, Tls::Required | Tls::Implicit),
            None => {
                let implicit = self
                    .server
                    .as_ref()
                    .is_some_and(|server| server.ends_with(":465"));
                implicit
                    || (self.credentials().is_some() && !self.auth_in_clear && self.unix.is_none())
            }
        }
    }

    /// The engine's setting for BDAT.
    pub fn chunking(&self) -> smtp_proto::Chunking {
        match self.chunking {
            Chunking::Auto => smtp_proto::Chunking::Auto,
            Chunking::Never => smtp_proto::Chunking::Never,
            Chunking::Always => smtp_proto::Chunking::Always,
            Chunking::Eager => smtp_proto::Chunking::Eager,
        }
    }

    /// The engine's timeouts.
    pub fn timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default();
        if let Some(reply) = self.timeout_reply {
            timeouts = timeouts.replies(reply);
            timeouts.overlap = timeouts.overlap.min(reply);
        }
        if let Some(block) = self.timeout_data {
            timeouts.block = block;
        }
        timeouts
    }

    /// How to log in. `None` without a login.
    pub fn credentials(&self) -> Option<Credentials> {
        let user = self.auth_user.as_deref();
        let login = user.zip(self.auth_password.as_deref());
        let mut credentials = match self.auth_mechanism {
            Some(AuthMechanism::External) => Credentials::external(),
            Some(AuthMechanism::Anonymous) => Credentials::anonymous(user.unwrap_or_default()),
            Some(AuthMechanism::XOauth2 | AuthMechanism::OAuthBearer) => {
                login.map(|(user, token)| Credentials::token(user, token))?
            }
            _ => login.map(|(user, password)| Credentials::password(user, password))?,
        };
        if let Some(identity) = &self.auth_authzid {
            credentials = credentials.authorization_id(identity);
        }
        if let Some(name) = self
            .auth_mechanism
            .and_then(|mechanism| mechanism.to_possible_value())
        {
            credentials = credentials.mechanisms(&[name.get_name()]);
        }
        if self.auth_in_clear {
            credentials = credentials.permit_in_clear();
        }
        if self.tls_no_verify {
            credentials = credentials.permit_unverified();
        }
        Some(credentials)
    }

    /// The certificates of `--ca-file`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn ca_pem(&self) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = &self.ca_file else {
            return Ok(None);
        };
        std::fs::read(path)
            .map(Some)
            .map_err(|error| bad_file(path, &error))
    }

    /// The certificate and the key of `--client-cert` and `--client-key`.
    fn client_pem(&self) -> Result<Option<[Vec<u8>; 2]>, Error> {
        let (Some(chain), Some(key)) = (&self.client_cert, &self.client_key) else {
            return Ok(None);
        };
        let read = |path: &Path| std::fs::read(path).map_err(|error| bad_file(path, &error));
        Ok(Some([read(chain)?, read(key)?]))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[test]
    fn the_reply_timeout_bounds_each_reply() {
        let timeouts = |seconds: &str| {
            let flags = [
                "--from",
                "a@b",
                "--to",
                "c@d",
                "--data",
                "-",
                "--timeout-reply",
            ];
            let flags = ["send"].into_iter().chain(flags).chain([seconds]);
            Options::try_parse_from(flags).unwrap().timeouts()
        };
        // A server may have lost the overlapping commands. The timeout for them is short already.
        for (seconds, overlap) in [("0.5", 0.5), ("19", 19.0), ("20", 20.0), ("300", 20.0)] {
            let (timeouts, reply) = (timeouts(seconds), seconds.parse().unwrap());
            assert_eq!(timeouts.mail, Duration::from_secs_f64(reply));
            assert_eq!(timeouts.end_of_message, timeouts.mail);
            assert_eq!(timeouts.overlap, Duration::from_secs_f64(overlap));
        }
    }
}
