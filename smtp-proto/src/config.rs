//! What the caller decides before a session begins.

use core::time::Duration;

use crate::auth::Credentials;
use crate::body::BodyPolicy;
use crate::mailbox::{ClientName, MAX_DOMAIN};
use crate::reply::ReplyLimits;
use crate::tls::Channel;

/// The longest command that [`Config::max_heap`] counts, if [`Limits::in_flight`] is smaller.
const LONG_COMMAND: usize = 4_096;

/// If a server allows more domains than this, the engine does not count them: the list would be too long.
pub(crate) const MAX_DOMAINS: usize = 256;

/// The protocol of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO for EHLO, and after the body one reply for each accepted recipient.
    Lmtp,
}

/// When a session is encrypted. The adapters also verify the server, and report it in
/// [`TlsFacts::verified`](crate::TlsFacts::verified).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// Never, even where it is offered.
    Never,
    /// By STARTTLS if the server offers and grants it, else in the clear. Credentials are not sent in the clear
    /// unless [`Credentials::permit_in_clear`] was called.
    #[default]
    Opportunistic,
    /// By STARTTLS, or not at all: AUTH and MAIL are never sent in the clear.
    Required,
    /// From the first octet (RFC 8314, port 465).
    Implicit,
}

/// When a body goes out by BDAT (RFC 3030, CHUNKING) instead of DATA.
///
/// A body with a declared [exact size](crate::Envelope::exact_size) is one chunk, `BDAT n LAST`. Any other body is
/// cut into chunks of what the caller offers at a time, at most [`Config::chunk_size`].
///
/// ```
/// use smtp_proto::{Chunking, ClientName, Config};
///
/// let mut config = Config::new(ClientName::parse("client.example.org")?);
/// config.chunking = Chunking::Never; // a server whose BDAT is known to be broken
/// # Ok::<(), smtp_proto::envelope::AddressError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Chunking {
    /// If the server offers it.
    #[default]
    Auto,
    /// Never. A BINARYMIME body then cannot be sent.
    Never,
    /// Always. A server that does not offer it does not get the message.
    Always,
    /// If offered, in the same batch as the envelope, before any recipient is accepted. A message then costs one
    /// round trip, and with [`Config::overlap`] almost none.
    ///
    /// Use it only for a server that reads the chunks that it refuses. Another server would take the body for
    /// commands. Without PIPELINING, under LMTP, and for [all-or-nothing](crate::Envelope::all_or_nothing) envelopes
    /// it works as `Auto`.
    ///
    /// On a local network it may be slower without overlap. By Nagle's algorithm, Postfix holds its second reply
    /// until the client acknowledges the first, 40 ms later.
    Eager,
}

/// How long to wait for each reply. Each is a deadline: a server that drips octets gains nothing. The defaults are
/// those of RFC 5321 section 4.5.3.2, if it names one. [`replies`](Self::replies) sets most of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The greeting; 5 minutes.
    pub greeting: Duration,
    /// EHLO, HELO, LHLO; 5 minutes.
    pub ehlo: Duration,
    /// The reply to STARTTLS; 5 minutes.
    pub starttls: Duration,
    /// The whole TLS handshake; 2 minutes.
    pub handshake: Duration,
    /// Each step of AUTH; 5 minutes.
    pub auth: Duration,
    /// MAIL and RSET; 5 minutes.
    pub mail: Duration,
    /// Each RCPT; 5 minutes.
    pub rcpt: Duration,
    /// DATA until its 354; 2 minutes.
    pub data: Duration,
    /// Each block of the body, until the transport takes some of what it was offered. Also the reply to each chunk
    /// but the last; 3 minutes.
    pub block: Duration,
    /// The reply to the end of the data; 10 minutes, because servers do their filtering there.
    pub end_of_message: Duration,
    /// The reply to an overlapping envelope ([`Config::overlap`]), after the end of the data before it was answered;
    /// 20 seconds. A server that has lost those commands never answers.
    pub overlap: Duration,
    /// A command outside a transaction; 5 minutes.
    pub request: Duration,
    /// Sending QUIT; 5 seconds. The engine does not wait for its reply.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        let minutes = |n| Duration::from_secs(n * MINUTE);
        Self {
            greeting: minutes(5),
            ehlo: minutes(5),
            starttls: minutes(5),
            handshake: minutes(2),
            auth: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end_of_message: minutes(10),
            overlap: Duration::from_secs(20),
            request: minutes(5),
            quit: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// The same timeout for every reply and the handshake; the block and QUIT timeouts stay.
    ///
    /// ```
    /// use core::time::Duration;
    /// use smtp_proto::Timeouts;
    ///
    /// let timeouts = Timeouts::default().replies(Duration::from_secs(30));
    /// assert_eq!(timeouts.end_of_message, Duration::from_secs(30));
    /// assert_eq!(timeouts.block, Duration::from_secs(180));
    /// ```
    #[must_use]
    pub fn replies(self, reply: Duration) -> Self {
        Self {
            greeting: reply,
            ehlo: reply,
            starttls: reply,
            handshake: reply,
            auth: reply,
            mail: reply,
            rcpt: reply,
            data: reply,
            end_of_message: reply,
            request: reply,
            ..self
        }
    }
}

/// What bounds the memory of one session, whatever the server does and however seldom the caller polls.
/// [`Config::max_heap`] computes the bound in octets. [Memory](crate#memory) explains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Recipients of one message; 100,000.
    pub recipients: usize,
    /// Messages and requests that wait, including those whose result was not polled; 64.
    pub messages: usize,
    /// Octets of all replies that one report keeps; 65,536. Beyond them, it keeps 128 octets of each reply.
    pub report: usize,
    /// Octets of a reply that a report keeps; 2,048. It is cut at a line end, and marked.
    pub reply_kept: usize,
    /// Bounds of one reply; 4,096 octets a line, 256 lines, 16,384 octets of text.
    pub reply: ReplyLimits,
    /// Octets of commands that may be unanswered at a time; 4,096. The limit prevents a deadlock with a server that
    /// does not read while it writes. One command is always allowed.
    pub in_flight: usize,
    /// Chunks that may be unanswered at a time; 48. Every server that was measured takes that many at once.
    pub chunks: usize,
    /// Iterations that a server may ask for in SCRAM; 1,000,000. The server chooses the number. The client does the
    /// work before it knows the server, about a second for the default. Servers ask for 4,096 to some 600,000. Fewer
    /// than 4,096 are refused (RFC 7677 section 4).
    pub scram_iterations: u32,
    /// Challenges in one AUTH exchange; 8.
    pub challenges: u32,
    /// Steps of the conversation that are kept for [`Event::Trace`](crate::Event::Trace) until somebody polls; 256.
    /// The oldest are dropped and counted.
    pub traces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recipients: 100_000,
            messages: 64,
            report: 65_536,
            reply_kept: 2_048,
            reply: ReplyLimits::default(),
            in_flight: 4_096,
            chunks: 48,
            scram_iterations: 1_000_000,
            challenges: 8,
            traces: 256,
        }
    }
}

/// All settings of a session.
///
/// ```
/// use smtp_proto::{ClientName, Config, TlsPolicy};
///
/// let mut config = Config::new(ClientName::parse("client.example.org")?);
/// config.tls = TlsPolicy::Required;
/// # Ok::<(), smtp_proto::envelope::AddressError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The name that the client gives in EHLO (RFC 5321 section 4.1.1.1).
    pub client_name: ClientName,
    /// When to encrypt; opportunistic by default.
    pub tls: TlsPolicy,
    /// How to log in. `None` by default: the session does not log in.
    pub credentials: Option<Credentials>,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How much to keep.
    pub limits: Limits,
    /// SMTP or LMTP; SMTP by default.
    pub protocol: Protocol,
    /// What the connection runs over; a network by default.
    pub channel: Channel,
    /// Uses PIPELINING (RFC 2920) if it is offered; true by default.
    pub pipelining: bool,
    /// Sends the next envelope in one batch with the end of the data before it (RFC 2920 section 3.1), where
    /// PIPELINING is offered. A message then costs one round trip instead of two. False by default.
    ///
    /// Use it only for a server that is known to take it. Of ten servers that advertise PIPELINING, three do not. One
    /// answers 503, and one loses the commands: [`Event::OverlapBroken`](crate::Event::OverlapBroken) reports both.
    /// One dies between the delivery and its reply, which leaves that message in doubt.
    ///
    /// It has no effect under LMTP. If a server there gave one reply too few after the data, the next reply would be
    /// taken for it.
    pub overlap: bool,
    /// When to send a body by BDAT instead of DATA; automatic by default.
    pub chunking: Chunking,
    /// The most octets of one chunk, if the size of the body is not known in advance; 65,536 by default, at most
    /// 2,147,483,647. The adapters gather that many before they send a chunk.
    pub chunk_size: usize,
    /// Learns the number of recipients that one transaction takes, for a server that does not state it. A 452 or
    /// 4.5.3 to a RCPT, after others were accepted, shows it (RFC 5321 section 4.5.3.1.10). The next transaction then
    /// has the rest. It only applies to messages that can be sent twice
    /// ([`Envelope::reopenable`](crate::Envelope::reopenable)). False by default.
    pub learn_limits: bool,
    /// What may stand in a body.
    pub body: BodyPolicy,
    /// Reports the conversation as [`Event::Trace`](crate::Event::Trace); false by default.
    pub trace: bool,
}

impl Config {
    /// The default settings, with this client name.
    pub fn new(client_name: ClientName) -> Self {
        Self {
            client_name,
            protocol: Protocol::Smtp,
            channel: Channel::Network,
            tls: TlsPolicy::Opportunistic,
            credentials: None,
            pipelining: true,
            overlap: false,
            chunking: Chunking::Auto,
            chunk_size: 64 * 1024,
            learn_limits: false,
            body: BodyPolicy::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            trace: false,
        }
    }

    /// The most octets of heap that one session takes, whatever the server and the caller do. [Memory](crate#memory)
    /// has the table. `messages` counts the messages and requests that are queued, or whose results were not polled:
    /// at most [`Limits::messages`]. `recipients` counts all their recipients.
    ///
    /// ```
    /// use smtp_proto::{ClientName, Config};
    ///
    /// let mut config = Config::new(ClientName::parse("client.example.org")?);
    /// assert_eq!(config.max_heap(0, 0), 681_472);
    /// assert_eq!(config.max_heap(1, 5), 681_472 + 71_680 + 5 * 1_400);
    /// config.trace = true;
    /// assert_eq!(config.max_heap(0, 0), 681_472 + 4_309_376);
    /// # Ok::<(), smtp_proto::envelope::AddressError>(())
    /// ```
    pub fn max_heap(&self, messages: usize, recipients: usize) -> usize {
        let limits = &self.limits;
        let (line, reply) = (limits.reply.line, limits.reply.octets);
        let commands = limits.in_flight.max(LONG_COMMAND);
        let traces = match self.trace {
            true => limits.traces.saturating_add(1),
            false => 0,
        };
        // In the order of the table, for a machine of 64 bits. A buffer that grows counts three times: it may double,
        // and the smaller one is there until its octets are moved.
        let terms = [
            (3, line.saturating_add(reply)),
            // The reply to EHLO and three in errors; and the names of mechanisms, four octets for each of theirs, in
            // a text that grows, and then once more as they are kept.
            (20, reply),
            // The output, of which as much may be taken as is pending; and 40 octets for a reply that is awaited,
            // where three commands have 35 octets at least (RSET, MAIL and RCPT).
            (24, commands),
            // An awaited reply.
            (128, limits.chunks),
            // A copy tests whether all recipients would fit.
            (2 * MAX_DOMAINS, MAX_DOMAIN + 96),
            (1, 8_192),
            // The message and its events; four replies and their commands that are no recipient's own.
            (messages, limits.report.max(reply).saturating_add(6_144)),
            // A standing (96), its error while it is deferred (96), the line of RCPT in it (524), 128 octets of a
            // reply (144), and the address as A-labels (514) beside the one that was given (16).
            (recipients, 1_400),
            // An event, and a reply or a command.
            (traces, reply.max(commands).saturating_add(384)),
        ];
        let octets = terms.map(|(count, octets)| count.saturating_mul(octets));
        octets.into_iter().fold(0, usize::saturating_add)
    }
}
