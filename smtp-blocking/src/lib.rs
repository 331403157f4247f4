//! TODO
mod connector;
mod error;
mod pump;
mod session;
mod stream;
#[cfg(feature = "rustls")]
mod tls;

use std::io::BufRead;

pub use connector::Connector;
pub use error::Error;
pub use session::{Session, Transaction};
pub use smtp_proto;
pub use smtp_proto::{
    AddressError, BodyPolicy, BodyType, Capabilities, Cause, ClientName, Credentials, Envelope,
    EnvelopeError, Extension, Limits, LineEndings, Mailbox, Mechanism, MechanismError, Outcome, Reply,
    Report, Secret, Stage, Timeouts, TlsPolicy, ToMailbox, Trace,
};
pub use stream::Transport;
#[cfg(feature = "rustls")]
pub use tls::TlsInfo;

/// Sends one message: connects to `server` (port 25 where none is given), encrypts where the server
/// offers it, logs in where credentials are given, sends, and says QUIT.
///
/// The certificate of the server is not checked, as is usual between mail servers; with credentials, use
/// [`Connector`] and name the server whose certificate is to be checked.
///
/// ```no_run
/// let message = &b"Subject: hello\r\n\r\nHello, Bob.\r\n"[..];
/// let report = smtp_blocking::send_mail("mx.example.net", "alice@example.org", &["bob@example.net"], message, None)?;
/// for (index, error) in report.failures() {
///     eprintln!("recipient {}: {error}", index + 1);
/// }
/// # Ok::<(), smtp_blocking::Error>(())
/// ```
///
/// # Errors
/// The message reached nobody. [`Error::report`] says what became of each recipient, once the
/// transaction had begun.
pub fn send_mail<A, R>(
    server: &str,
    sender: A,
    recipients: R,
    message: impl BufRead,
    credentials: Option<Credentials>,
) -> Result<Report, Error>
where
    A: ToMailbox,
    R: IntoIterator<Item: ToMailbox>,
{
    let envelope = Envelope::new(sender, recipients)?;
    let mut session = Connector::new(server).credentials(credentials).connect()?;
    let report = session.send(envelope, message)?;
    session.quit();
    Ok(report)
}
