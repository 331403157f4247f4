//! SMTP and LMTP over blocking sockets: the engine of [`smtp_proto`] with connections, TLS and timeouts.
//!
//! ```no_run
//! let message = "Subject: hello\r\n\r\nHello, Bob.\r\n";
//! let (sender, recipients) = ("alice@example.org", ["bob@example.net"]);
//! let report = smtp_blocking::send_mail("mx.example.net", sender, recipients, message, None)?;
//! for failure in report.failures() {
//!     eprintln!("{failure}"); // a recipient that did not get it, and why
//! }
//! # Ok::<(), smtp_blocking::Error>(())
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
//! | share sessions among threads | [`Pool`] |
//!
//! # Who is trusted
//!
//! The server is always verified. It must sign the handshake with the key of its certificate. The certificate must be
//! trusted, valid now, and for the name that was connected to, or for [`Server::server_name`]. The policy decides
//! what a failure means.
//!
//! | policy | if the server is not verified |
//! |---|---|
//! | [`TlsPolicy::Opportunistic`] | the session goes on, as between mail servers; with [`Server::server_name`] it ends |
//! | [`TlsPolicy::Required`], [`TlsPolicy::Implicit`] | the session ends |
//! | any, with [`Server::verify`]`(false)` | the session goes on |
//!
//! [`Server::tls`] chooses the policy, and has a table of its defaults. Credentials go to a verified server or
//! nowhere, unless they permit more:
//!
//! | credentials over | PLAIN, LOGIN, tokens | CRAM-MD5, SCRAM, your own mechanisms | SCRAM-PLUS, EXTERNAL | ANONYMOUS |
//! |---|---|---|---|---|
//! | verified TLS, a Unix socket | yes | yes | yes | yes |
//! | TLS that is not verified | [`permit_unverified`] | [`permit_unverified`] | yes | yes |
//! | clear text, by [`TlsPolicy::Never`] | [`permit_in_clear`] | yes | [`permit_in_clear`] | yes |
//! | clear text, because TLS was not offered | [`permit_in_clear`] | [`permit_in_clear`] | [`permit_in_clear`] | yes |
//!
//! The trust anchors are the system's, and those of [`Server::trust_pem`]. A certificate of [`Server::trust_pem`] is
//! also trusted as a server's own. [`TlsInfo`] says whether the server was verified, and why not.
//!
//! [`permit_unverified`]: Credentials::permit_unverified
//! [`permit_in_clear`]: Credentials::permit_in_clear
//!
//! # Profiles
//!
//! What to set for common servers. The real-server suite of this project runs the first five rows against Postfix,
//! Exim and Dovecot. The providers' rows follow their documentation, and trying them needs an account.
//!
//! | server | settings | remarks |
//! |---|---|---|
//! | submission, port 587 (RFC 6409) | `"host:587"`, credentials | TLS is required, and the server verified |
//! | submission, port 465 (RFC 8314) | `"host:465"`, credentials | TLS from the first octet; prefer it to 587 if both are open |
//! | a mail exchanger, port 25 | `"host"`, the default [`TlsPolicy::Opportunistic`], [`Server::retry_in_clear`] | a server that is not verified is accepted; call [`Server::bind`] if the local address matters |
//! | LMTP over a Unix socket (Dovecot's `lmtp`) | [`Server::unix`], [`Server::lmtp`], [`TlsPolicy::Never`] | one result for each recipient after the body |
//! | LMTP over TCP | `"host:24"`, [`Server::lmtp`] | port 25 is refused (RFC 2033 section 5) |
//! | Gmail, Google Workspace | `smtp.gmail.com` on 587 or 465; [`Credentials::token`] with the scope `https://mail.google.com/`, or an app password | the account's own password is not accepted; `smtp-relay.gmail.com` is the relay for a Workspace domain |
//! | Microsoft 365, Outlook.com | `smtp.office365.com`, or `smtp-mail.outlook.com` for personal accounts, only on 587; [`Credentials::token`] | passwords are being retired; SMTP AUTH must be switched on for the mailbox; the reverse-path must be the mailbox or one that it may send as |
//! | Amazon SES | `email-smtp.REGION.amazonaws.com` on 587 or 2587, 465 or 2465 for implicit TLS; SMTP credentials, which are not the account's keys | 50 recipients per message: send to more by [`Session::send_all`] with [`Server::learn_limits`]; sessions are ended from time to time, so open a new one when [`Session::is_usable`] says no |
//! | SendGrid, Postmark, Mailgun and others | 587; the user name that they prescribe (`apikey`, a server token) | they queue the message: a 2yz is theirs, and not that of the recipient's server |
//!
//! ```no_run
//! use smtp_blocking::{Server, Credentials, TlsPolicy};
//!
//! // Submission: the password goes to smtp.example.org, inside TLS, or nowhere.
//! let submission = Server::new("smtp.example.org:465")
//!     .credentials(Credentials::password("alice", "s3cret"));
//!
//! // A mail exchanger: encrypted if possible, else delivered in the clear.
//! let exchanger = Server::new("mx.example.net").retry_in_clear(true);
//!
//! // A local mail store.
//! # #[cfg(unix)]
//! let store = Server::unix("/run/dovecot/lmtp").lmtp().tls(TlsPolicy::Never);
//! ```
//!
//! # What a server offers
//!
//! The engine uses what the current EHLO reply offers, and nothing else: [`smtp_proto`] has the table. The envelope
//! declares what a message needs beyond that:
//!
//! ```no_run
//! use smtp_blocking::parameter::{MailParameter, Notify, RcptParameter, Ret};
//! use smtp_blocking::{Envelope, Recipient, Session};
//!
//! let bob = Recipient::new("bob@example.net")?
//!     .parameter(RcptParameter::notify(Notify::SUCCESS | Notify::FAILURE).required());
//! let envelope = Envelope::new("alice@example.org", [bob])?
//!     .parameter(MailParameter::ret(Ret::Headers))
//!     .parameter(MailParameter::envelope_id("QQ314159")?);
//! Session::connect("mx.example.net")?.send_last(envelope, "Subject: x\r\n\r\n")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A server from a URL
//!
//! [`Server::from_url`] reads a server from one line of a configuration, as do [`FromStr`](std::str::FromStr) and
//! `TryFrom<&str>`. [`Server::from_env`] reads it from an environment variable.
//!
//! ```text
//! smtps://alice:s3cret@smtp.example.org
//! smtp://alice%40example.org:s3cret@smtp.example.org:587?ehlo=shop.example.org
//! smtp://mx.example.net?tls=required&timeout=60
//! lmtp+unix:/run/dovecot/lmtp?tls=never
//! ```
//!
//! | scheme | meaning | default port |
//! |---|---|---|
//! | `smtp://` | SMTP; with a user TLS is required, else it is opportunistic; on port 465 it begins with TLS | 25; with a user 587 (RFC 6409) |
//! | `smtps://` | SMTP that begins with TLS (RFC 8314) | 465 |
//! | `lmtp://` | LMTP, with TLS as for `smtp://` | 24 |
//! | `lmtps://` | LMTP that begins with TLS | 24 |
//! | `smtp+unix:/PATH`, `lmtp+unix:/PATH` | SMTP or LMTP over a Unix socket; with a user, `lmtp+unix://USER:PASSWORD@/PATH` | |
//!
//! To log in, write `USER:PASSWORD@` before the host. The password goes to a verified server or nowhere, like all
//! credentials ([Who is trusted](#who-is-trusted)). In a user and a password, letters, digits and `-._~!$&'()*+,;=`
//! need no encoding. Write `%40` for `@`, `%3A` for `:`, `%2F` for `/`, `%3F` for `?`, `%23` for `#` and `%25` for
//! `%`. Write an IPv6 address in brackets.
//!
//! Parameters follow a `?`, with `&` between them. A parameter that is not in this table is an error, and so is one
//! that is given twice:
//!
//! | parameter | value | it sets |
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
//! With `auth=XOAUTH2`, `auth=OAUTHBEARER` or both, write a token instead of the password. With `auth=EXTERNAL`,
//! leave the password out. A user then names the identity to act as.
//!
//! No error shows a password. An error shows the name of an unknown parameter, and nothing else of the URL.
//!
//! URLs written for lettre differ as follows:
//!
//! | URL | lettre 0.11 | here |
//! |---|---|---|
//! | `smtp://USER:PASSWORD@HOST` | no TLS, and the password in the clear; port 25 | TLS is required, and the server verified; port 587 |
//! | `smtp://HOST` | no TLS | opportunistic TLS; `tls=never` turns it off |
//! | `smtp://HOST?tls=required`, `?tls=opportunistic` | port 587 | port 25, or 587 with a user |
//! | `smtps://HOST?tls=required` | `tls` is ignored | an error: the scheme decides |
//! | `smtp://HOST/NAME` | the path is the name for EHLO | an error: write `?ehlo=NAME` |
//! | `smtp://USER@HOST` | the user is ignored | an error: the password is missing |
//! | a password with `@` | the last `@` ends it | an error: write `%40` |
//! | another parameter | is ignored | an error |
//! | `lmtp://` and the other schemes | an error | as above |
//!
//! # Deadlines
//!
//! Every reply has a deadline ([`Timeouts`]). A server that drips octets does not extend it. The name look-up has the
//! system's own timeout.
//!
//! # Limits of a blocking adapter
//!
//! It does not read while it writes. In a long body it looks every 5 ms for what the server says, and once before the end
//! goes out. So it sees a refusal there some octets later than `smtp-tokio`, and stops. A transport of your own must
//! support that ([`Transport::set_nonblocking`]); else the refusal is seen after the body, or when a write fails. Only the
//! deadlines can cancel a call.
//!
//! # Features
//!
//! | feature | default | meaning |
//! |---|---|---|
//! | `ring` | yes | TLS 1.2 and 1.3 by rustls, with ring, which only needs a C compiler to build |
//! | `aws-lc-rs` | | the same with aws-lc-rs |
//! | `rustls` | by `ring`, `aws-lc-rs` | TLS with the provider that the process has installed as its default |
//! | `scram` | yes | the SCRAM mechanisms of AUTH, and inside TLS their -PLUS forms |
//! | `url` | yes | a server from [a URL](#a-server-from-a-url) |
//! | `idna` | | domains and server names beyond ASCII, as A-labels |
//! | `lettre` | | a [`Pool`] as lettre's transport |
//! | `serde` | | envelopes, replies, reports and errors can be written by serde, and most can be read ([the table](smtp_proto#serialization)) |
//! | `tracing` | | a span for each session, and events in it: see [below](#watching-a-session) |
//!
//! If the process has installed a default provider, it is used. Otherwise ring comes before aws-lc-rs. Without
//! `rustls`, [`TlsPolicy::Opportunistic`] stays in the clear, and the stricter policies are errors. The features of
//! `smtp-tokio` in the same program do not change that.
//!
//! The nonce of SCRAM comes from the operating system's random numbers, once for each session. The binding is
//! `tls-exporter` under TLS 1.3, and `tls-server-end-point` under 1.2.
//!
//! # Watching a session
//!
//! [`Server::observe`] calls a function for each command and each reply, with the number and the other end of the
//! session.
//!
//! [`Server::record`] writes each session to a file that can be replayed through the engine, without the server. Attach it
//! to a bug report.
//!
//! With the feature `tracing`, a session also reports to the subscriber of [`tracing`](https://docs.rs/tracing). Each
//! session has a span named `smtp`. It is a child of the span in which the session was opened. Many callers share a
//! session of a [`Pool`], so its span is a root:
//!
//! | field | meaning |
//! |---|---|
//! | `session` | the number of the session ([`Session::number`]) |
//! | `peer` | the other end ([`Peer`]) |
//! | `ehlo` | our name in EHLO or LHLO |
//! | `tls` | the version of TLS, `none`, or `by the application` ([`Session::connect_over_tls`]) |
//! | `verified` | whether the server is verified, if TLS is used |
//!
//! The target of the span and its events is `smtp`, so `smtp=info` is a filter for them:
//!
//! | level | event | fields |
//! |---|---|---|
//! | `warn` | `not delivered` | `message_number`; `recipient`, the position in the envelope, from 1; `count` recipients in a row that failed with this `error` |
//! | `warn` | `session failed` | `error`, and `io` if the system reported an error |
//! | `warn` | `no session`, in the span of the caller | `error` |
//! | `info` | `message finished` | `message_number`, counted in the session; `recipients`; `accepted`, how many of them |
//! | `debug` | `sent`, `received` | `command`, `reply` |
//! | `debug` | `sent a body`, `sent a chunk` | `octets`; `last` |
//! | `debug` | `TLS established`, `session ready`, `session ended` | |
//!
//! Events contain no passwords, tokens or bodies. What a server echoes of a login is redacted. They do contain the
//! addresses of senders and recipients. The session checks once, at its beginning, whether the subscriber wants
//! commands and replies. It enters the span for one event at a time, and never while it waits.
//!
//! # TLS settings
//!
//! Each [`Server`] builds its TLS settings once, and its clones share them. So keep it, and open all sessions with
//! it. The process reads the system's trust store once. Sessions resume if the server must be verified
//! ([`TlsInfo::is_resumed`]). [`Server::rustls_config`] replaces these settings by the application's own.

// In the order of the methods on the page of `Session`.
mod connect;
mod session;

mod bulk;
mod content;
#[cfg(feature = "lettre")]
mod lettre;
mod pool;
mod pool_bulk;
mod pump;
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

/// Sends one message. It connects to `server` (port 25 by default), encrypts if the server offers it, logs in if
/// credentials are given, sends the message, and sends QUIT.
///
/// With credentials, TLS is required, and the server is verified by the name in `server`. Without them, a server that
/// is not verified is accepted, as mail servers do. A [`Server`] keeps its settings, but these credentials replace its
/// own.
///
/// ```no_run
/// let message = "Subject: hello\r\n\r\nHello, Bob.\r\n";
/// let (sender, recipients) = ("alice@example.org", ["bob@example.net"]);
/// let report = smtp_blocking::send_mail("mx.example.net", sender, recipients, message, None)?;
/// for failure in report.failures() {
///     eprintln!("{failure}");
/// }
/// # Ok::<(), smtp_blocking::Error>(())
/// ```
///
/// # Errors
/// The message reached nobody. [`Error::report`] has the result of each recipient, if the transaction had begun. If a
/// session could not be opened, the outcome is [`Outcome::NotAttempted`], even after a permanent refusal: it is not
/// about the message.
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
