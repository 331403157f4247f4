//! SMTP and LMTP for tokio: the engine of [`smtp_proto`] with connections, TLS and timeouts.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), smtp_tokio::Error> {
//! # let receiver = smtp_tests::receiver::Receiver::start(Default::default()).unwrap();
//! # let server = receiver.local_addr().to_string();
//! let message = "Subject: hello\r\n\r\nHello, Bob.\r\n";
//! let (sender, recipients) = ("alice@example.org", ["bob@example.net"]);
//! let report = smtp_tokio::send_mail(&server, sender, recipients, message, None).await?;
//! for failure in report.failures() {
//!     eprintln!("{failure}"); // a recipient that did not get it, and why
//! }
//! # assert!(report.is_success());
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | send one message | [`send_mail`] |
//! | set TLS, a login, timeouts | [`Server`], [`Credentials`] |
//! | send several messages to one server | [`Session::connect`], [`Session::send`] |
//! | send a file, or any reader | [`Session::send`], [`Content`] |
//! | write a message piece by piece | [`Session::transaction`] |
//! | send many messages in a row | [`Session::send_all`] |
//! | share sessions among tasks | [`Pool`] |
//!
//! The names are those of `smtp-blocking`.
//!
//! # Runtimes and streams
//!
//! The crate spawns a task only in [`Pool::send_all`]. Everything is `Send`. It runs on a current-thread runtime too,
//! with the timer enabled, and for TCP the I/O driver. The system's trust store is read once in the life of the
//! process, on a thread for blocking work. [`Session::connect_over`] takes any `AsyncRead + AsyncWrite`: a Unix
//! socket for LMTP, a proxy's stream, `tokio::io::duplex`.
//!
//! A session reads while it writes, so a refusal in the middle of a large body stops the body.
//!
//! # What happens when a future is dropped
//!
//! | dropped before it is done | what remains |
//! |---|---|
//! | [`Session::connect`] | nothing; the connection is closed |
//! | [`Session::begin`], [`Session::transaction`], [`Session::send`], a [`Transaction`] | a closed session, because the server has received only a part of something; [`Session::is_usable`] tells |
//! | a write into a [`Transaction`], its flush | the transaction, without these octets |
//! | [`Session::request`] | the session; its reply is read and dropped later |
//! | [`Bulk::next`] | the delivery, which goes on with the next call |
//! | a [`Bulk`] with a message under way | a closed session |
//! | [`Session::quit`] | nothing; the connection is closed |
//!
//! A connection is never left in an unknown state.
//!
//! # Trust, deadlines, features
//!
//! These are as in `smtp-blocking`. Credentials go to a verified server or nowhere. Every reply has a deadline. TLS
//! settings, errors, features, URLs, and the spans and events for `tracing` are the same.
//!
//! The computation for a SCRAM server blocks the thread for some milliseconds, and at most as long as
//! [`Limits::scram_iterations`] allows.

// In the order of the methods on the page of `Session`.
mod connect;
mod session;

mod bulk;
mod content;
mod in_memory;
#[cfg(feature = "lettre")]
mod lettre;
mod pool;
mod pool_bulk;
mod pump;
mod race;
mod stream;
mod turn;

pub use bulk::{Bulk, Iter, Message, iter};
pub use content::Content;
pub use in_memory::InMemory;
#[cfg(feature = "lettre")]
pub use lettre::LettreTransport;
pub use pool::{Pool, PooledSession};
pub use pool_bulk::PoolBulk;
pub use session::{Session, Transaction};
#[cfg(feature = "rustls")]
#[doc(inline)]
pub use smtp_adapter::TlsInfo;
#[doc(inline)]
pub use smtp_adapter::{Error, Observation, Peer, Server, ToServer};
pub use smtp_proto;
pub use smtp_proto::{
    Capabilities, Cause, Chunking, ClientName, Credentials, Envelope, Extension, Limits, Mailbox,
    Outcome, Recipient, Reply, Report, Request, Stage, Timeouts, TlsFacts, TlsPolicy, auth, body,
    envelope, error, event, parameter, reply, request,
};

/// Sends one message. It connects to `server` (port 25 by default), encrypts if the server offers it, logs in if
/// credentials are given, sends the message, and sends QUIT.
///
/// With credentials, TLS is required, and the server is verified by the name in `server`. Without them, a server that
/// is not verified is accepted, as mail servers do. A [`Server`] keeps its settings, but these credentials replace its
/// own.
///
/// # Errors
/// The message reached nobody. [`Error::report`] has the result of each recipient, if the transaction had begun. If a
/// session could not be opened, the outcome is [`Outcome::NotAttempted`], even after a permanent refusal: it is not
/// about the message.
pub async fn send_mail<A, R>(
    server: impl ToServer,
    sender: A,
    recipients: R,
    message: impl Content,
    credentials: Option<Credentials>,
) -> Result<Report, Error>
where
    A: envelope::ToMailbox,
    R: IntoIterator<Item: envelope::ToRecipient>,
{
    let envelope = Envelope::new(sender, recipients)?;
    let mut server = Server::new(server);
    if credentials.is_some() {
        server = server.credentials(credentials);
    }
    Session::connect(&server)
        .await
        .map_err(Error::not_attempted)?
        .send_last(envelope, message)
        .await
}
