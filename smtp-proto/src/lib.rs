//! The client side of SMTP (RFC 5321) and LMTP (RFC 2033) as a pure state machine.
//!
//! ```
//! use smtp_proto::*;
//!
//! let now = Instant::default(); // from your own clock
//! let config = Config::new(ClientName::parse("client.example.org")?);
//! let mut engine = Connection::new(config, now);
//! engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
//!
//! engine.handle_input(now, b"220 mx.example.net\r\n"); // octets from your socket
//! let mut out = [0; 4_096]; // octets for your socket
//! let (len, _) = engine.poll_transmit_into(now, b"", &mut out);
//! assert_eq!(&out[..len], b"EHLO client.example.org\r\n");
//! engine.handle_written(now, len);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Connection`] takes the octets of a server, and gives you octets to send and events. It does not own a socket, read
//! a clock, start a thread or draw random numbers. So it runs in any event loop, on bare metal and under a fuzzer, and
//! behaves the same in all of them. The crates `smtp-blocking` and `smtp-tokio` add connections and TLS.
//!
//! | to | see |
//! |---|---|
//! | send a message | [`Connection::submit`], and [a session](#a-session-step-by-step) below |
//! | drive it from a socket | [`Connection`], which has a whole pump |
//! | set TLS, a login, timeouts | [`Config`], [`Credentials`], [`Timeouts`] |
//! | read the result | [`Event`], [`Report`], [`Error`] |
//!
//! # A session, step by step
//!
//! ```text
//!  application ──submit / finish_body / quit──▶ ┌────────────┐ ──poll_transmit──▶ socket
//!              ◀─────────poll_event──────────── │ Connection │ ◀──handle_input─── socket
//!    clock ──────handle_timeout(now)──────────▶ │            │ ──poll_timeout───▶ timer
//!                                               └────────────┘
//! ```
//!
//! ```
//! use smtp_proto::*;
//!
//! let now = Instant::default(); // from the caller's own clock
//! let mut config = Config::new(ClientName::parse("client.example.org")?);
//! config.tls = TlsPolicy::Never;
//! let mut engine = Connection::new(config, now);
//! engine.submit(Envelope::new("alice@example.org", ["bob@example.net", "carol@example.net"])?)?;
//!
//! // Nothing is sent before the server's greeting.
//! assert!(engine.poll_transmit(now, b"").is_none());
//! engine.handle_input(now, b"220 mx.example.net\r\n");
//! assert_eq!(sent(&mut engine, b""), b"EHLO client.example.org\r\n");
//! engine.handle_input(now, b"250-mx.example.net\r\n250 PIPELINING\r\n");
//! assert_eq!(engine.poll_event(), Some(Event::Ready));
//!
//! // The envelope is one batch, and one recipient is enough to go on.
//! assert_eq!(
//!     sent(&mut engine, b""),
//!     b"MAIL FROM:<alice@example.org>\r\n\
//!       RCPT TO:<bob@example.net>\r\n\
//!       RCPT TO:<carol@example.net>\r\n\
//!       DATA\r\n"
//! );
//! engine.handle_input(now, b"250 ok\r\n250 ok\r\n550 5.1.1 who?\r\n354 go on\r\n");
//! assert!(matches!(engine.poll_event(), Some(Event::BodyWanted(_))));
//!
//! // The body goes out without a copy; the engine adds only what the protocol needs.
//! assert_eq!(sent(&mut engine, b".hidden\r\n"), b"..hidden\r\n");
//! engine.finish_body()?;
//! assert_eq!(sent(&mut engine, b""), b".\r\n");
//! engine.handle_input(now, b"250 2.0.0 queued\r\n");
//!
//! let Some(Event::Finished(_, report)) = engine.poll_event() else { unreachable!() };
//! assert!(report.recipients[0].is_ok());
//! let failure = report.failures().next().unwrap();
//! assert_eq!(failure.mailbox.as_str(), "carol@example.net");
//! assert_eq!((failure.error.stage, failure.error.outcome), (Stage::Rcpt, Outcome::Permanent));
//!
//! fn sent(engine: &mut Connection, mut body: &[u8]) -> Vec<u8> {
//!     let mut wire = Vec::new();
//!     while let Some(transmit) = engine.poll_transmit(Instant::default(), body) {
//!         let octets = transmit.parts().concat();
//!         body = &body[transmit.advance(octets.len())..];
//!         wire.extend_from_slice(&octets);
//!     }
//!     wire
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What can be relied on
//!
//! 1. Each submitted message ends in exactly one [`Event::Finished`]. The connection ends in exactly one
//!    [`Event::Closed`], and nothing follows it. That holds whatever the server or the network does.
//! 2. Any call is legal at any time. Polls may be repeated, in any order. A call that does not fit returns a
//!    [`Misuse`] and changes nothing. Nothing panics.
//! 3. Octets that were offered stay a prefix of every later offer until they are advanced. So completion-based I/O
//!    may hold them.
//! 4. How the input is cut never matters.
//! 5. [`Limits`] bound the memory, and [`Config::max_heap`] is the formula.
//! 6. A reply is attributed by position. A reply that answers nothing ends the connection. Only a 421 may come
//!    unasked (RFC 5321 section 3.8).
//! 7. The first digit of a reply code decides. A digit that cannot answer the command is a protocol error.
//! 8. STARTTLS is a hard edge. Nothing in the clear follows it. Octets that arrive after its 220 are not believed,
//!    and nothing learnt before it is kept.
//! 9. A batch ends where RFC 2920 says. Nothing follows the end of the data before its reply, because servers that
//!    advertise PIPELINING break on that. [`Config::overlap`] permits it for a server that does not break.
//! 10. A result belongs to one recipient, and is never a default for all. If a write of the end of the data has begun,
//!     and the connection is lost before its reply, the result is [`Outcome::InDoubt`]. A recipient that was never named
//!     is [`Outcome::NotAttempted`]. A session that stops sending still reads the replies that it is owed. One thing no
//!     client can tell: an unasked reply that arrives after the next command looks like its answer.
//! 11. Credentials do not appear in `Debug`, in errors or in [`Trace`], and are wiped when dropped. They go to a
//!     verified server ([`TlsFacts::verified`]) or nowhere, unless [`Credentials::permit_unverified`] or
//!     [`Credentials::permit_in_clear`] permits more.
//!
//! # What a server offers
//!
//! Nothing is sent that the current EHLO reply does not offer. A [*required*](parameter::MailParameter::required)
//! parameter withholds the message from a server that does not offer its extension. An [*if
//! offered*](parameter::MailParameter::if_offered) parameter is left out then. A message that is withheld fails
//! before MAIL, permanently, with [`Cause::Unsupported`] or [`Cause::UnsupportedKeyword`].
//!
//! | extension | RFC | set by | if not offered |
//! |---|---|---|---|
//! | PIPELINING | 2920 | the engine | one command at a time |
//! | SIZE | 1870 | [`Envelope::size`] | left out; a message above the stated limit is withheld |
//! | 8BITMIME | 6152 | [`Envelope::body`] | [`BodyType::EightBit`]: withheld; undeclared: ends at the first octet above 127 |
//! | BINARYMIME | 3030 | [`BodyType::Binary`] | withheld |
//! | CHUNKING | 3030 | [`Chunking`] | DATA; withheld under [`Chunking::Always`] |
//! | SMTPUTF8 | 6531 | an address beyond ASCII, [`Envelope::smtputf8`] | domains become A-labels (feature `idna`); withheld where that is not enough |
//! | DSN | 3461 | [`MailParameter::ret`], [`MailParameter::envelope_id`], [`RcptParameter::notify`], [`RcptParameter::original_recipient`] | left out, unless required |
//! | ENHANCEDSTATUSCODES | 2034 | the server: [`Reply::enhanced`], [`EnhancedCode`] | read anyway |
//! | DELIVERBY | 2852 | [`MailParameter::deliver_by`] | to be returned: withheld; to be notified: left out |
//! | MT-PRIORITY | 6710 | [`MailParameter::priority`] | left out, unless required |
//! | FUTURERELEASE | 4865 | [`MailParameter::hold_for`], [`MailParameter::hold_until`] | withheld, unless set to *if offered* |
//! | REQUIRETLS | 8689 | [`MailParameter::require_tls`] | withheld, and outside verified TLS in any case |
//! | RRVS | 7293 | [`RcptParameter::valid_since`] | withheld, unless set to *if offered* |
//! | AUTH= | 4954 | [`MailParameter::auth`] | left out, unless required |
//! | any other, such as CONPERM | | [`MailParameter::raw`], [`RcptParameter::raw`] | withheld, unless set to *if offered* |
//! | LIMITS | 9422 | the server: [`Capabilities::recipients_max`] and others | [`Config::learn_limits`] |
//! | PRDR | as in Exim | [`MailParameter::per_recipient_replies`] | left out: one reply for all |
//! | ETRN | 1985 | [`Request::etrn`] | [`Cause::Unsupported`] |
//! | XCLIENT, XFORWARD | as in Postfix | [`Request::xclient`], [`Request::xforward`] | [`Cause::Unsupported`] |
//! | VRFY, EXPN, NOOP, HELP | 5321 | [`Request`] | sent anyway: they need not be offered |
//!
//! # Many recipients
//!
//! A server may state how many recipients it takes in one transaction, or answer 452 to those beyond that number. If
//! the body can be given again ([`Envelope::reopenable`]), the message is sent in several transactions.
//! [`Event::BodyWanted`] comes for each, and one [`Report`] at the end. If the body cannot be given again, the
//! message is withheld, and [`Cause::LimitExceeded`] names the limit.
//!
//! # Limits
//!
//! | what | default | where |
//! |---|---:|---|
//! | octets per reply line | 4,096 | [`ReplyLimits::line`] |
//! | lines per reply | 256 | [`ReplyLimits::lines`] |
//! | octets of text per reply | 16,384 | [`ReplyLimits::octets`] |
//! | octets of unanswered commands | 4,096 | [`Limits::in_flight`] |
//! | messages and requests queued | 64 | [`Limits::messages`] |
//! | recipients of a message | 100,000 | [`Limits::recipients`] |
//! | octets of a reply that a report keeps | 2,048 | [`Limits::reply_kept`] |
//! | octets of all replies that a report keeps | 65,536, then 128 of each | [`Limits::report`] |
//! | steps kept for [`Event::Trace`] | 256 | [`Limits::traces`] |
//! | unanswered chunks | 48 | [`Limits::chunks`] |
//! | octets of a chunk of a body of unknown size | 65,536 | [`Config::chunk_size`] |
//! | challenges per AUTH | 8 | [`Limits::challenges`] |
//! | iterations of SCRAM | 4,096 to 1,000,000 | [`Limits::scram_iterations`] |
//! | octets in a domain | 255 | [`MAX_DOMAIN`] |
//! | octets in a mailbox | 498 | [`MAX_MAILBOX`] |
//! | AUTH line with an initial response | 512 octets | RFC 4954 section 4 |
//!
//! # Memory
//!
//! The heap of a session is bounded, whatever the server does and however seldom the caller polls.
//! [`Config::max_heap`] computes this table. A test checks it with the worst servers and the worst callers.
//!
//! | for | octets at most | default |
//! |---|---|---:|
//! | the reply that is being read | 3 × ([`ReplyLimits::line`] + [`ReplyLimits::octets`]) | 61,440 |
//! | the reply to EHLO, replies in errors, a login | 20 × [`ReplyLimits::octets`] | 327,680 |
//! | unanswered commands | 24 × [`Limits::in_flight`] (4,096 if that is more) | 98,304 |
//! | unanswered chunks | 128 × [`Limits::chunks`] | 6,144 |
//! | domains, only where the server states RCPTDOMAINMAX | 2 × 256 × 351 | 179,712 |
//! | everything else | 8,192 | 8,192 |
//! | **one session** | the sum of these | **681,472** |
//! | each message or request that is queued, or whose result was not polled | [`Limits::report`] ([`ReplyLimits::octets`] if that is more) + 6,144 | 71,680 |
//! | each recipient of these messages | 1,400 | 1,400 |
//! | all traces, only with [`Config::trace`] | ([`Limits::traces`] + 1) × ([`ReplyLimits::octets`] or commands in flight, the larger, + 384) | 4,309,376 |
//!
//! A factor of 2 or 3 stands for a buffer that doubles when it grows, and for the move to the larger one. The table
//! does not contain the caller's envelopes and configuration. An envelope stays until its result is polled, and its
//! list of recipients becomes the report. A single command may exceed [`Limits::in_flight`] and 4,096 octets, by raw
//! parameters or a token. It then counts instead of them.
//!
//! Few sessions come near it. An idle session keeps the reply to EHLO and no buffer: some 700 octets with the
//! [`Connection`] itself. A message to five recipients takes 2,500 octets more while it is sent.
//!
//! # Mechanisms of AUTH
//!
//! [`Credentials`] take the first of these mechanisms that the caller allows and the server offers, from the top. If
//! the server then rejects it (504, 534), the next one is tried. A plain refusal ends the session. Which mechanism
//! may run depends on the trust in the connection:
//!
//! | over | PLAIN, LOGIN, tokens | CRAM-MD5, SCRAM, your own mechanisms | -PLUS, EXTERNAL | ANONYMOUS |
//! |---|---|---|---|---|
//! | verified TLS, [`Channel::Local`] | yes | yes | yes | yes |
//! | TLS that is not verified | [`permit_unverified`] | [`permit_unverified`] | yes | yes |
//! | clear text, by [`TlsPolicy::Never`] | [`permit_in_clear`] | yes | [`permit_in_clear`] | yes |
//! | clear text, because TLS was not offered | [`permit_in_clear`] | [`permit_in_clear`] | [`permit_in_clear`] | yes |
//!
//! Your own mechanism counts as PLAIN if it [exposes its secret](auth::Mechanism::exposes_secret). In the clear, a
//! mechanism that exposes its secret never follows one that does not.
//!
//! [`permit_unverified`]: Credentials::permit_unverified
//! [`permit_in_clear`]: Credentials::permit_in_clear
//!
//! | mechanism | RFC | shows its secret | needs |
//! |---|---|---|---|
//! | SCRAM-SHA-256-PLUS, SCRAM-SHA-1-PLUS | 5802, 7677, 9266, 5929 | no | feature `scram`, [`Connection::with_nonce`], [`TlsFacts`] |
//! | SCRAM-SHA-256, SCRAM-SHA-1 | 5802, 7677 | no | feature `scram`, [`Connection::with_nonce`] |
//! | CRAM-MD5 | 2195 | no | |
//! | PLAIN | 4616 | password | |
//! | LOGIN | | password | |
//! | OAUTHBEARER | 7628 | token | [`Credentials::token`] |
//! | XOAUTH2 | | token | [`Credentials::token`] |
//! | EXTERNAL | 4422 | it has no secret | [`Credentials::external`] |
//! | ANONYMOUS | 4505 | it has no secret | [`Credentials::anonymous`] |
//!
//! SCRAM proves to the client that the server knows the password, or what was derived from it. A server that accepts
//! without this proof is not believed. With -PLUS, SCRAM also proves that nobody sits in the middle of the TLS
//! connection.
//!
//! SCRAM prepares user name and password by SASLprep (RFC 4013). Two checks are left to the server: that of writing
//! directions, and that of characters newer than Unicode 3.2. PLAIN, LOGIN and CRAM-MD5 send user name and password
//! as they are.
//!
//! # What is not here
//!
//! Message composition, MX look-up, queues and retries are left to the application. The engine never sends a message
//! again by itself.
//!
//! # Serialization
//!
//! With the feature `serde`, [serde](https://serde.rs) writes these types. Fields keep their names. Variants are
//! words in snake case, and a [`Stage`] is written as [`Stage::as_str`].
//!
//! | what | in JSON | read again |
//! |---|---|---|
//! | [`Stage`], [`Outcome`], [`Retry`], [`ReplyClass`], [`BodyType`], [`Need`] | a word: `"rcpt"`, `"in_doubt"` | yes |
//! | [`Extension`] | its EHLO keyword | yes |
//! | [`ReplyCode`], [`EnhancedCode`] | `550`, `"5.1.1"` | yes |
//! | [`Reply`] | `code`, `enhanced`, and `text` as the server sent it: a list of octets if it is not UTF-8 | yes |
//! | [`Mailbox`] | the address; `""` is the null reverse-path | yes |
//! | [`Recipient`], [`Envelope`] | all that was given; only the addresses are required | yes |
//! | [`MailParameter`], [`RcptParameter`] | `text` as it is sent, `need`, `offered_by` | yes |
//! | [`Cause`] | `kind`, `text`, and what it has: `reply`, `extension`, `limit`, `seconds` | no |
//! | [`Error`] | `stage`, `outcome`, `retry`, `concerns_session`, `recipient`, `command`, `cause`, `text` | no |
//! | [`Report`] | `outcome`, and `recipients` with `mailbox`, `reply` and `error` each | no |
//! | [`Failure`] | `index`, `mailbox`, `error` | no |
//!
//! The `kind` of a cause is the name of its variant: `"rejected"`, `"timed_out"`. Its `text` is the line of
//! `Display`, where the server's words are made printable. The `text` of a reply is not: make it [`Printable`] before
//! a terminal shows it.
//!
//! What is read is checked as if it were given by hand. Credentials, and types that may hold them, cannot be written.
//! Errors hold none, because commands and replies are redacted.
//!
//! # Features
//!
//! `std` (default) changes no behaviour. It lets dependencies use the standard library, which makes the search for
//! line ends faster. `idna` lets [`Mailbox::to_ascii`] convert domains beyond ASCII. `scram` adds the SCRAM
//! mechanisms and their hash functions. `serde` is [above](#serialization).
//!
//! [`Failure`]: event::Failure
//! [`Need`]: parameter::Need
//! [`Printable`]: reply::Printable
//! [`ReplyClass`]: reply::ReplyClass
//! [`ReplyCode`]: reply::ReplyCode
//! [`Retry`]: error::Retry
//! [`MailParameter`]: parameter::MailParameter
//! [`RcptParameter`]: parameter::RcptParameter
//! [`BodyType`]: envelope::BodyType
//! [`BodyType::Binary`]: envelope::BodyType::Binary
//! [`BodyType::EightBit`]: envelope::BodyType::EightBit
//! [`EnhancedCode`]: reply::EnhancedCode
//! [`MAX_DOMAIN`]: envelope::MAX_DOMAIN
//! [`MAX_MAILBOX`]: envelope::MAX_MAILBOX
//! [`MailParameter::auth`]: parameter::MailParameter::auth
//! [`MailParameter::deliver_by`]: parameter::MailParameter::deliver_by
//! [`MailParameter::envelope_id`]: parameter::MailParameter::envelope_id
//! [`MailParameter::hold_for`]: parameter::MailParameter::hold_for
//! [`MailParameter::hold_until`]: parameter::MailParameter::hold_until
//! [`MailParameter::per_recipient_replies`]: parameter::MailParameter::per_recipient_replies
//! [`MailParameter::priority`]: parameter::MailParameter::priority
//! [`MailParameter::raw`]: parameter::MailParameter::raw
//! [`MailParameter::require_tls`]: parameter::MailParameter::require_tls
//! [`MailParameter::ret`]: parameter::MailParameter::ret
//! [`Misuse`]: error::Misuse
//! [`RcptParameter::notify`]: parameter::RcptParameter::notify
//! [`RcptParameter::original_recipient`]: parameter::RcptParameter::original_recipient
//! [`RcptParameter::raw`]: parameter::RcptParameter::raw
//! [`RcptParameter::valid_since`]: parameter::RcptParameter::valid_since
//! [`ReplyLimits::line`]: reply::ReplyLimits::line
//! [`ReplyLimits::lines`]: reply::ReplyLimits::lines
//! [`ReplyLimits::octets`]: reply::ReplyLimits::octets
//! [`Trace`]: event::Trace
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod auth;
pub mod body;
mod body_part;
mod capability;
mod chunk;
mod command;
mod config;
mod connection;
mod date_time;
mod engine;
mod enhanced;
pub mod envelope;
pub mod error;
pub mod event;
mod mailbox;
pub mod parameter;
pub mod reply;
pub mod request;
#[cfg(feature = "serde")]
mod serialized;
mod text;
mod time;
mod tls;
mod transmit;
mod wire_size;

#[doc(inline)]
pub use auth::Credentials;
#[doc(inline)]
pub use body::BodyPart;
pub use capability::{Capabilities, Extension};
pub use config::{Chunking, Config, Limits, Protocol, Timeouts, TlsPolicy};
pub use connection::Connection;
#[doc(inline)]
pub use envelope::{Envelope, Recipient};
#[doc(inline)]
pub use error::{Cause, Error, Outcome, Stage};
#[doc(inline)]
pub use event::{Event, MessageId, Report};
pub use mailbox::{ClientName, Mailbox};
#[doc(inline)]
pub use reply::Reply;
#[doc(inline)]
pub use request::Request;
pub use time::Instant;
pub use tls::{Channel, TlsFacts};
pub use transmit::Transmit;
