//! SMTP and LMTP for tokio: the engine of [`smtp_proto`] with connections, TLS and timeouts.
//!
//! [`send_mail`] forwards one message. [`Server`] says how to reach a server, and [`Session::connect`] opens a session with it;
//! [`Session::send`] sends a message that lies in memory, or any reader in constant memory ([`Content`]), [`Session::transaction`]
//! gives a [`Transaction`] to write it into, and [`Session::send_all`] takes a stream of messages and
//! gives a stream of reports. A [`Pool`] keeps sessions open, and shares them. The names are those of `smtp-blocking`.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), smtp_tokio::Error> {
//! # let receiver = smtp_tests::receiver::Receiver::start(Default::default()).unwrap();
//! # let server = receiver.local_addr().to_string();
//! let message = "Subject: hello\r\n\r\nHello, Bob.\r\n";
//! let report = smtp_tokio::send_mail(&server, "alice@example.org", &["bob@example.net"], message, None).await?;
//! assert!(report.is_success());
//! # Ok(())
//! # }
//! ```
//!
//! # Runtimes and streams
//!
//! No task is spawned, and everything is `Send`. The system's trust store is read once in the life of the process, on a
//! thread for blocking work. A current-thread runtime will do, with its timer (and I/O
//! driver, for TCP) enabled. [`Session::connect_over`] takes any `AsyncRead + AsyncWrite`: a Unix socket
//! for LMTP, a proxy's stream, `tokio::io::duplex`.
//!
//! It reads while it writes, so that a refusal in the middle of a large body stops the body.
//!
//! # What happens when a future is dropped
//!
//! | dropped before it is done | what is left |
//! |---|---|
//! | [`Session::connect`] | nothing; the connection is closed |
//! | [`Session::begin`], [`Session::transaction`], [`Session::send`], a [`Transaction`] | a closed session: the server was told a part of something. [`Session::is_usable`] says so |
//! | a write into a [`Transaction`], its flush | the transaction, as if the octets had not been given |
//! | [`Session::request`] | the session; the reply is read later, and nobody sees it |
//! | [`Bulk::next`] | the delivery, which goes on with the next call |
//! | a [`Bulk`] with a message under way | a closed session |
//! | [`Session::quit`] | nothing; the connection is closed |
//!
//! A connection is never left in a state that nobody knows.
//!
//! # Trust, deadlines, features
//!
//! As in `smtp-blocking`, which has the same TLS settings and errors: credentials go to a verified server or nowhere;
//! every reply has a deadline; and the features are the same, with the same spans and events for `tracing`, and the same URLs. Computing what a SCRAM server asks for keeps the thread for that
//! long: some milliseconds, and at most what [`Limits::scram_iterations`] allows.

mod bulk;
mod connect;
mod content;
mod in_memory;
#[cfg(feature = "lettre")]
mod lettre;
mod pool;
mod pool_bulk;
mod pump;
mod race;
mod session;
mod stream;

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

/// Sends one message: connects to `server` (port 25 where none is given), encrypts where the server
/// offers it, logs in where credentials are given, sends, and says QUIT.
///
/// With credentials TLS is required, and the server is verified by the name in `server`. Without, a server that is
/// not verified ends nothing, as between mail servers. A [`Server`] is taken as it is; these credentials replace its own.
///
/// # Errors
/// The message reached nobody. [`Error::report`] says what became of each recipient, once the
/// transaction had begun. Where no session came about, the outcome is [`Outcome::NotAttempted`], even if
/// the server refused us for good: that says nothing about the message.
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
