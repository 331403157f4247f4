//! What the caller decides before a session begins.

use core::time::Duration;

use crate::auth::Credentials;
use crate::body::BodyPolicy;
use crate::mailbox::{ClientName, MAX_DOMAIN};
use crate::reply::ReplyLimits;
use crate::tls::Channel;

/// One command may have so many octets, whatever [`Limits::in_flight`] is: [`Config::max_heap`] counts them.
const LONG_COMMAND: usize = 4_096;

/// A server that allows more domains than this is left to count them itself: the list would be too long.
pub(crate) const MAX_DOMAINS: usize = 256;

/// Which of the two sisters is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO for EHLO, and after the body one reply for each accepted recipient.
    Lmtp,
}

/// When a session is encrypted. The adapters verify the server too, and tell the engine by
/// [`TlsFacts::verified`](crate::TlsFacts::verified).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// Never, even where it is offered.
    Never,
    /// By STARTTLS where it is offered and granted, else in the clear; but credentials do not follow
    /// into the clear unless [`Credentials::permit_in_clear`] says so.
    #[default]
    Opportunistic,
    /// By STARTTLS, or not at all: neither AUTH nor MAIL is ever said in the clear.
    Required,
    /// From the first octet (RFC 8314, port 465).
    Implicit,
}

/// When a body goes out by BDAT (RFC 3030, CHUNKING) instead of DATA.
///
/// A body whose size is declared as exact ([`Envelope::exact_size`](crate::Envelope::exact_size)) is one
/// chunk, `BDAT n LAST`; another one is cut in chunks of what the caller offers at a time,
/// [`Config::chunk_size`] at most.
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
    /// Where it is offered.
    #[default]
    Auto,
    /// Never, so that a BINARYMIME body cannot be sent.
    Never,
    /// Always: a server that does not offer it is not given the message.
    Always,
    /// Where it is offered, in the same batch as the envelope, before any recipient is accepted: one round
    /// trip for each message, and with [`Config::overlap`] as good as none. Only for a server that is
    /// trusted to read the chunks that it refuses: one that does not takes the body for commands. Where
    /// PIPELINING is not offered, under LMTP, and where all recipients are to be accepted, it is as `Auto`.
    /// On a loopback or a local network it may be slower without overlap: Postfix then holds its second
    /// reply back, by Nagle's algorithm, until the client's delayed acknowledgement of the first, 40 ms.
    Eager,
}

/// How long to wait for each reply. Each is a deadline: a server that drips octets gains nothing. The
/// defaults are those of RFC 5321 section 4.5.3.2 where it names one.
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
    /// Each block of the body, until the transport takes some of what it was offered, and the reply to each
    /// chunk but the last; 3 minutes.
    pub block: Duration,
    /// The reply to the end of the data; 10 minutes, because servers do their filtering there.
    pub end_of_message: Duration,
    /// The reply to what overlaps ([`Config::overlap`]), once the end of the data before it has been
    /// answered; 20 seconds, because a server that has lost those commands never answers.
    pub overlap: Duration,
    /// A command outside a transaction; 5 minutes.
    pub request: Duration,
    /// Getting QUIT out; 5 seconds. Its reply is not waited for.
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
/// [`Config::max_heap`] says in octets what these limits come to, and [Memory](crate#memory) shows how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bounds of one reply; 4,096 octets a line, 256 lines, 16,384 octets of text.
    pub reply: ReplyLimits,
    /// Octets of commands that may be unanswered at a time; 4,096. It is what keeps a server that does
    /// not read while it writes from deadlocking a client that does not either. One command is always
    /// allowed.
    pub in_flight: usize,
    /// Messages and requests that may be submitted, with the results that nobody has polled for; 64.
    pub messages: usize,
    /// Recipients of one message; 100,000.
    pub recipients: usize,
    /// Octets of a reply that a report keeps; 2,048. It is cut at a line end, and marked.
    pub reply_kept: usize,
    /// Octets of all replies that one report keeps; 65,536. Of further ones it keeps 128 each.
    pub report: usize,
    /// Steps of the conversation that are kept for [`Event::Trace`](crate::Event::Trace) while nobody polls; 256.
    /// Of more, the oldest are dropped and counted.
    pub traces: usize,
    /// Chunks that may be unanswered at a time; 48, which every server that was measured takes in one go.
    pub chunks: usize,
    /// Challenges in one AUTH exchange; 8.
    pub challenges: u32,
    /// Iterations that a server may ask for in SCRAM; 1,000,000. It is the server that chooses this number,
    /// and the client that does the work, a second or so for the default, before it knows with whom it
    /// speaks. Servers ask for 4,096 to some 600,000; fewer than 4,096 (RFC 7677 section 4) are refused.
    pub scram_iterations: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reply: ReplyLimits::default(),
            in_flight: 4_096,
            messages: 64,
            recipients: 100_000,
            reply_kept: 2_048,
            report: 65_536,
            traces: 256,
            chunks: 48,
            challenges: 8,
            scram_iterations: 1_000_000,
        }
    }
}

/// Everything that a session needs to know in advance.
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
    /// Who we say we are.
    pub client_name: ClientName,
    /// SMTP by default.
    pub protocol: Protocol,
    /// A network by default.
    pub channel: Channel,
    /// Opportunistic by default.
    pub tls: TlsPolicy,
    /// None by default.
    pub credentials: Option<Credentials>,
    /// Uses PIPELINING where it is offered; true by default.
    pub pipelining: bool,
    /// Sends the next envelope in one batch with the end of the data before it (RFC 2920 section 3.1),
    /// where PIPELINING is offered: one round trip for each message instead of two. False by default, and
    /// only for a server that is known to take it: of ten that advertise PIPELINING, three do not. One
    /// answers 503, one loses the commands ([`Event::OverlapBroken`](crate::Event::OverlapBroken) says
    /// so in both cases), and one dies between the delivery and its reply, which leaves that message in
    /// doubt. Under LMTP it has no effect: a server that gives one reply too few after the data would have the reply
    /// to the next command taken for it.
    pub overlap: bool,
    /// Automatic by default.
    pub chunking: Chunking,
    /// The most octets of one chunk, where the size of the body is not known in advance; 65,536, and 2,147,483,647 at
    /// most. The adapters gather so much before they send it.
    pub chunk_size: usize,
    /// Takes a 452 or 4.5.3 to a RCPT, behind others that were accepted, for the number of recipients that
    /// the server takes in one transaction, where it states none (RFC 5321 section 4.5.3.1.10), and tries the
    /// rest in the next one. Only for messages that can be sent twice ([`Envelope::reopenable`](crate::Envelope::reopenable)).
    /// False by default.
    pub learn_limits: bool,
    /// What may stand in a body.
    pub body: BodyPolicy,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How much to keep.
    pub limits: Limits,
    /// Reports the conversation as [`Event::Trace`](crate::Event::Trace); false by default.
    pub trace: bool,
}

impl Config {
    /// The defaults, under this name.
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

    /// The most octets of heap that one session takes, whatever the server and the caller do, by the table of
    /// [Memory](crate#memory). `messages` is how many messages and requests are queued, or have results that were not
    /// polled: [`Limits::messages`] at most. `recipients` is how many recipients these have together.
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
            // A copy tries out whether all recipients would fit.
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
