//! SMTP and LMTP over blocking sockets: the engine of [`smtp_proto`] with connections, TLS and timeouts.
//!
//! [`send_mail`] forwards one message. [`Server`] says how to reach a server, and [`Session::connect`] opens a session with it;
//! [`Session::send`] sends a message that lies in memory, or any reader in constant memory ([`Content`]), and
//! [`Session::transaction`] gives a [`Transaction`] to write it into. A [`Pool`] keeps sessions open, and shares them.
//!
//! # Who is trusted
//!
//! The server is always verified: it must sign the handshake with the key of its certificate, the certificate must
//! be trusted and valid now, and it must be for the name that was connected to, or for [`Server::server_name`].
//! The policy decides what a failure means.
//!
//! | policy | a server that is not verified |
//! |---|---|
//! | [`TlsPolicy::Opportunistic`] | ends nothing, as between mail servers; with [`Server::server_name`], ends the session |
//! | [`TlsPolicy::Required`], [`TlsPolicy::Implicit`] | ends the session |
//! | any, with [`Server::verify`]`(false)` | ends nothing |
//!
//! Where no policy is chosen, it is *implicit* on port 465, *opportunistic* for credentials that may go in the clear
//! and over a Unix socket, *required* for other credentials, and else *opportunistic*.
//!
//! Credentials go to a verified server or nowhere, unless they permit more:
//!
//! | credentials over | PLAIN, LOGIN, tokens | CRAM-MD5, SCRAM, own mechanisms | SCRAM-PLUS, EXTERNAL | ANONYMOUS |
//! |---|---|---|---|---|
//! | verified TLS, a Unix socket | yes | yes | yes | yes |
//! | TLS that is not verified | [`permit_unverified`] | [`permit_unverified`] | yes | yes |
//! | clear text, by [`TlsPolicy::Never`] | [`permit_in_clear`] | yes | [`permit_in_clear`] | yes |
//! | clear text, because TLS was not offered | [`permit_in_clear`] | [`permit_in_clear`] | [`permit_in_clear`] | yes |
//!
//! The trust anchors are the system's, and those of [`Server::trust_pem`]. A certificate that was given so is also
//! trusted as a server's own. [`TlsInfo`] says whether the server was verified, and why not.
//!
//! [`permit_unverified`]: Credentials::permit_unverified
//! [`permit_in_clear`]: Credentials::permit_in_clear
//!
//! # Profiles
//!
//! What to set for the servers that people have. The first five are what the real-server suite of this
//! project runs against Postfix, Exim and Dovecot. The providers' rows are from their documentation, and an
//! account is needed to try them.
//!
//! | server | settings | to know |
//! |---|---|---|
//! | submission, port 587 (RFC 6409) | `"host:587"`, credentials | TLS is required then, and the server verified |
//! | submission, port 465 (RFC 8314) | `"host:465"`, credentials | TLS from the first octet; the better one of the two where both are open |
//! | a mail exchanger, port 25 | `"host"`, the default [`TlsPolicy::Opportunistic`], [`Server::retry_in_clear`] | a server that is not verified ends nothing, as between mail servers; `bind` where an address of ours is the right one |
//! | LMTP over a Unix socket (Dovecot's `lmtp`) | [`Server::unix`], [`Server::lmtp`], [`TlsPolicy::Never`] | one result for each recipient after the body |
//! | LMTP over TCP | `"host:24"`, [`Server::lmtp`] | port 25 is refused (RFC 2033 section 5) |
//! | Gmail, Google Workspace | `smtp.gmail.com` on 587 or 465; [`Credentials::token`] with the scope `https://mail.google.com/`, or an app password | the account's own password is not accepted; `smtp-relay.gmail.com` is the relay for a Workspace domain |
//! | Microsoft 365, Outlook.com | `smtp.office365.com`, or `smtp-mail.outlook.com` for personal accounts, on 587 alone; [`Credentials::token`] | passwords are being retired; SMTP AUTH must be switched on for the mailbox; the reverse-path must be the mailbox or one that it may send as |
//! | Amazon SES | `email-smtp.REGION.amazonaws.com` on 587 or 2587, 465 or 2465 for implicit TLS; SMTP credentials, which are not the account's keys | 50 recipients a message: send more by [`Session::send_all`] with [`Server::learn_limits`]; sessions are ended from time to time, so open a new one when [`Session::is_usable`] says no |
//! | SendGrid, Postmark, Mailgun and their like | 587; the user name that they prescribe (`apikey`, a server token) | they do their own queueing: a 2yz is theirs, not the recipient's server's |
//!
//! ```no_run
//! use smtp_blocking::{Server, Credentials, TlsPolicy};
//!
//! // Submission: the password goes to smtp.example.org, inside TLS, or nowhere.
//! let submission = Server::new("smtp.example.org:465").credentials(Credentials::password("alice", "s3cret"));
//!
//! // A mail exchanger: encrypted where it can be, and delivered where it cannot.
//! let exchanger = Server::new("mx.example.net").retry_in_clear(true);
//!
//! // A local mail store.
//! # #[cfg(unix)]
//! let store = Server::unix("/run/dovecot/lmtp").lmtp().tls(TlsPolicy::Never);
//! ```
//!
//! # What a server offers
//!
//! The engine uses what the current EHLO reply offers and nothing else; the table is in
//! [`smtp_proto`]. What a message asks for beyond that is said in its envelope:
//!
//! ```no_run
//! use smtp_blocking::{Envelope, Recipient, Server, Session, parameter::{MailParameter, Notify, RcptParameter, Ret}};
//!
//! let bob = Recipient::new("bob@example.net")?
//!     .parameter(RcptParameter::notify(Notify::SUCCESS | Notify::FAILURE).required());
//! let envelope = Envelope::new("alice@example.org", [bob])?
//!     .parameter(MailParameter::ret(Ret::Headers))
//!     .parameter(MailParameter::envelope_id("QQ314159")?);
//! Session::connect(&Server::new("mx.example.net"))?.send_last(envelope, "Subject: x\r\n\r\n")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A server from a URL
//!
//! [`Server::from_url`] reads a server from one line of a configuration. So do [`FromStr`](std::str::FromStr) and
//! `TryFrom<&str>`, and [`Server::from_env`] reads the line from an environment variable.
//!
//! ```text
//! smtps://alice:s3cret@smtp.example.org
//! smtp://alice%40example.org:s3cret@smtp.example.org:587?ehlo=shop.example.org
//! smtp://mx.example.net?tls=required&timeout=60
//! lmtp+unix:/run/dovecot/lmtp?tls=never
//! ```
//!
//! | scheme | what it is | port, where there is none |
//! |---|---|---|
//! | `smtp://` | SMTP; with a user TLS is required, else it is opportunistic; on port 465 it begins with TLS | 25; with a user 587 (RFC 6409) |
//! | `smtps://` | SMTP that begins with TLS (RFC 8314) | 465 |
//! | `lmtp://` | LMTP, with TLS as `smtp://` | 24 |
//! | `lmtps://` | LMTP that begins with TLS | 24 |
//! | `smtp+unix:/PATH`, `lmtp+unix:/PATH` | SMTP or LMTP over a Unix socket; with a user, `lmtp+unix://USER:PASSWORD@/PATH` | |
//!
//! `USER:PASSWORD@` before the host is who logs in. The password goes to a verified server or nowhere, as credentials
//! everywhere do ([Who is trusted](#who-is-trusted)). In a user and a password, letters, digits and `-._~!$&'()*+,;=` stand as
//! they are. Write `%40` for `@`, `%3A` for `:`, `%2F` for `/`, `%3F` for `?`, `%23` for `#` and `%25` for `%`. An IPv6 address
//! stands in brackets.
//!
//! After a `?` stand parameters, with `&` between two of them. One that is not in this table is an error, and so is one that
//! stands there twice:
//!
//! | parameter | value | what it sets |
//! |---|---|---|
//! | `tls` | `required`, `opportunistic`, `never`, `implicit` | [`Server::tls`] |
//! | `server-name` | a host name | [`Server::server_name`] |
//! | `verify` | `yes`, `no` | [`Server::verify`] |
//! | `ehlo` | a domain or an address literal | [`Server::client_name`] |
//! | `auth` | mechanisms with commas between them | [`Credentials::mechanisms`] |
//! | `permit-in-clear` | `yes`, `no` | [`Credentials::permit_in_clear`] |
//! | `permit-unverified` | `yes`, `no` | [`Credentials::permit_unverified`] |
//! | `retry-in-clear` | `yes`, `no` | [`Server::retry_in_clear`] |
//! | `timeout` | whole seconds | [`Server::timeouts`], the same for each reply |
//! | `connect-timeout` | whole seconds | [`Server::connect_timeout`] |
//! | `local-address` | an IP address | [`Server::bind`] |
//!
//! With `auth=XOAUTH2`, `auth=OAUTHBEARER` or both, a token stands in the place of the password. With `auth=EXTERNAL` there
//! is no password, and the user, if there is one, is whom to act as.
//!
//! No error shows a password. It names a parameter that is not known, and else shows nothing of the URL.
//!
//! A URL that was written for lettre is read as follows:
//!
//! | URL | lettre 0.11 | here |
//! |---|---|---|
//! | `smtp://USER:PASSWORD@HOST` | no TLS, and the password in the clear; port 25 | TLS is required, and the server verified; port 587 |
//! | `smtp://HOST` | no TLS | opportunistic TLS; `tls=never` is without |
//! | `smtp://HOST?tls=required`, `?tls=opportunistic` | port 587 | port 25, or 587 with a user |
//! | `smtps://HOST?tls=required` | `tls` is not looked at | an error: the scheme says it |
//! | `smtp://HOST/NAME` | the path is the name for EHLO | an error: write `?ehlo=NAME` |
//! | `smtp://USER@HOST` | the user is not looked at | an error: the password is missing |
//! | a password with `@` | the last `@` ends it | an error: write `%40` |
//! | another parameter | is not looked at | an error |
//! | `lmtp://` and the rest of the schemes | an error | as above |
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
//! | feature | default | what it is |
//! |---|---|---|
//! | `ring` | yes | TLS 1.2 and 1.3 by rustls, with ring: it builds everywhere with nothing but a C compiler |
//! | `aws-lc-rs` | | the same with aws-lc-rs |
//! | `rustls` | with these two | TLS with the provider that the process has installed as its default |
//! | `scram` | yes | the SCRAM mechanisms of AUTH, inside TLS also bound to it (-PLUS) |
//! | `url` | yes | a server from [a URL](#a-server-from-a-url) |
//! | `idna` | | domains and server names beyond ASCII, as A-labels |
//! | `lettre` | | a [`Pool`] in the place of lettre's transport |
//! | `serde` | | envelopes, replies, reports and errors can be written by serde, and most of them read ([the table](smtp_proto#serialization)) |
//! | `tracing` | | a span for each session, and events in it: see [below](#watching-a-session) |
//!
//! A default provider of the process counts before the two features, and ring before aws-lc-rs. Without `rustls`,
//! [`TlsPolicy::Opportunistic`] stays in the clear and the stricter policies are errors, whatever `smtp-tokio` in the
//! same program is built with.
//!
//! The nonce of SCRAM comes from the operating system's random numbers, for each session. The binding is
//! `tls-exporter` under TLS 1.3 and `tls-server-end-point` under 1.2.
//!
//! # Watching a session
//!
//! [`Server::observe`] calls a function for each command and each reply, with the number of the session and where its other
//! end is.
//!
//! With the feature `tracing`, the collector of the crate [`tracing`](https://docs.rs/tracing) is told as well. Each session
//! has a span, which is called `smtp` and is a child of the span in which the session is opened. A session of a [`Pool`]
//! is used by many callers, so its span is a root, and has no parent:
//!
//! | field | what it is |
//! |---|---|
//! | `session` | the number of the session ([`Session::number`]) |
//! | `peer` | where the other end is ([`Peer`]) |
//! | `ehlo` | the name that we give in EHLO or LHLO |
//! | `tls` | the version of TLS, `none`, or `by the application` ([`Session::connect_over_tls`]) |
//! | `verified` | whether the server is verified, where there is TLS |
//!
//! The target of the span and of its events is `smtp`, so that `smtp=info` is a filter for them:
//!
//! | level | event | fields |
//! |---|---|---|
//! | `warn` | `not delivered` | `message_number`; `recipient`, the position in the envelope, from 1; `count` recipients in a row that failed with this `error` |
//! | `warn` | `session failed` | `error`, and `io`, where the system said something |
//! | `warn` | `no session`, in the span of the caller | `error` |
//! | `info` | `message finished` | `message_number`, counted in the session; `recipients`; `accepted`, how many of them |
//! | `debug` | `sent`, `received` | `command`, `reply` |
//! | `debug` | `sent a body`, `sent a chunk` | `octets`; `last` |
//! | `debug` | `TLS established`, `session ready`, `session ended` | |
//!
//! No event has a password, a token or a body in it. What a server echoes of a login is redacted. Addresses of senders and
//! recipients do stand there. Whether somebody wants commands and replies is looked up when the session begins. The span
//! is entered for one event at a time, and never while the session waits.
//!
//! # TLS settings
//!
//! They are made once for each [`Server`], and shared by its clones: keep it, and open all sessions with it. The
//! system's trust store is read once in the life of the process. Sessions with a server that must be verified resume
//! ([`TlsInfo::is_resumed`]). [`Server::rustls_config`] takes the application's own settings instead.

mod bulk;
mod connect;
mod content;
#[cfg(feature = "rustls")]
mod handshake;
#[cfg(feature = "lettre")]
mod lettre;
mod pool;
mod pool_bulk;
mod pump;
mod session;
mod stream;

pub use bulk::{Bulk, Message};
pub use content::Content;
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
pub use stream::Transport;

/// Sends one message: connects to `server` (port 25 where none is given), encrypts where the server
/// offers it, logs in where credentials are given, sends, and says QUIT.
///
/// With credentials TLS is required, and the server is verified by the name in `server`. Without, a server that is
/// not verified ends nothing, as between mail servers. A [`Server`] is taken as it is; these credentials replace its own.
///
/// ```no_run
/// let message = "Subject: hello\r\n\r\nHello, Bob.\r\n";
/// let report = smtp_blocking::send_mail("mx.example.net", "alice@example.org", &["bob@example.net"], message, None)?;
/// for failure in report.failures() {
///     eprintln!("{failure}");
/// }
/// # Ok::<(), smtp_blocking::Error>(())
/// ```
///
/// # Errors
/// The message reached nobody. [`Error::report`] says what became of each recipient, once the
/// transaction had begun. Where no session came about, the outcome is [`Outcome::NotAttempted`], even if
/// the server refused us for good: that says nothing about the message.
pub fn send_mail<A, R>(
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
        .map_err(Error::not_attempted)?
        .send_last(envelope, message)
}
