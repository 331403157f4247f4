//! SMTP and LMTP over blocking sockets: the engine of [`smtp_proto`] with connections, TLS and timeouts.
//!
//! [`send_mail`] forwards one message. [`Connector`] says how to reach a server and opens a [`Session`];
//! [`Session::send`] sends a message from any [`BufRead`] in constant memory, and
//! [`Session::transaction`] gives a [`Transaction`] to write it into.
//!
//! # Who is trusted
//!
//! | policy | without a server name | with [`Connector::server_name`] |
//! |---|---|---|
//! | [`TlsPolicy::Opportunistic`] | encrypted where offered, nobody's identity checked | the same, and a wrong certificate ends the session |
//! | [`TlsPolicy::Required`] | encrypted or not at all, nobody's identity checked | encrypted by the named server or not at all |
//! | [`TlsPolicy::Implicit`] | the same, from the first octet | the same, from the first octet |
//!
//! Between mail servers the left column is usual. **With credentials, name the server**: otherwise an
//! active attacker can have them. The trust anchors are the system's, and those of
//! [`Connector::trust_pem`].
//!
//! # Deadlines
//!
//! Every reply has a deadline, [`Timeouts`]; a server that drips octets does not extend it. The name
//! look-up is the system's and has its own.
//!
//! # What a blocking adapter cannot do
//!
//! It does not read while it writes. A refusal that arrives in the middle of a body is seen when the
//! body is out, or when the server has closed the connection and a write fails; what the server said is
//! then still read and reported. And it cannot be cancelled but by its deadlines.
//!
//! # Features
//!
//! `rustls` (default): TLS 1.2 and 1.3 by rustls, with the ring provider (it builds everywhere with
//! nothing but a C compiler) and the system's trust store. Without it [`TlsPolicy::Opportunistic`] stays
//! in the clear and the stricter policies are errors.

mod bulk;
mod connector;
mod driver;
mod error;
#[cfg(feature = "rustls")]
mod handshake;
mod pump;
mod session;
mod stream;
mod terms;
#[cfg(feature = "rustls")]
mod tls;

/// What smtp-tokio shares with this crate; not for others, and without any promise.
#[doc(hidden)]
pub mod shared {
    pub use crate::driver::{Driver, FOREVER, LAST_WORDS};
    pub use crate::terms::{Observer, SessionTerms, Terms};
    #[cfg(feature = "rustls")]
    pub use crate::tls::{TlsSettings, cause, info};
}

use std::io::BufRead;

pub use bulk::{Bulk, Message};
pub use connector::Connector;
pub use error::Error;
pub use session::{Session, Transaction};
pub use smtp_proto;
pub use smtp_proto::{
    AddressError, BodyPolicy, BodyType, ByMode, Capabilities, Cause, Chunking, ClientName, Credentials,
    EnhancedCode, Envelope, EnvelopeError, Extension, Limits, LineEndings, MailParameter, Mailbox, Mechanism,
    MechanismError, Need, Notify, Outcome, ParameterError, RcptParameter, Recipient, Reply, Report, Request,
    RequestError, Ret, RrvsAction, Secret, Stage, Timeouts, TlsPolicy, ToMailbox, ToRecipient, Trace,
    XClient, XForward,
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
    R: IntoIterator<Item: ToRecipient>,
{
    let envelope = Envelope::new(sender, recipients)?;
    Connector::new(server).credentials(credentials).connect()?.send_last(envelope, message)
}
