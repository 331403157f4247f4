//! What an application may choose: settings, envelopes, bodies, requests.

use std::io::{self, Read};
use std::time::Duration;

use smtp_adapter::Server;
use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::body::{BodyPolicy, LineEndings};
use smtp_proto::envelope::BodyType;
use smtp_proto::parameter::{ByMode, MailParameter, Notify, RcptParameter, Ret};
use smtp_proto::request::{MessageSource, XClient, XForward};
use smtp_proto::{
    Chunking, ClientName, Credentials, Envelope, Limits, Mailbox, Recipient, Request, Timeouts,
    TlsPolicy,
};

use crate::play::engine::random::Random;

pub(super) const PASSWORD: &str = "Tr0ub4dor&3-correct";
pub(super) const USER: &str = "alice-the-user";

/// A mechanism of the application.
#[derive(Clone, Copy)]
struct Own {
    has_initial: bool,
    reads_challenges: bool,
    /// It gives so many responses.
    most: usize,
    believes: bool,
}

impl Mechanism for Own {
    fn name(&self) -> &str {
        "X-OWN"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(self.has_initial.then(|| Secret::new(PASSWORD.into())))
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        let words = "I do not like: this (challenge)";
        let most = self.most.checked_sub(1);
        self.most = most.ok_or(MechanismError::Other(words.into()))?;
        Ok(Secret::new(PASSWORD.into()))
    }

    fn verify(&mut self, _data: &[u8]) -> Result<(), MechanismError> {
        match self.believes {
            true => Ok(()),
            false => Err(MechanismError::Unproven),
        }
    }

    fn reads_challenges(&self) -> bool {
        self.reads_challenges
    }
}

pub(super) fn server(random: &mut Random, is_lmtp: bool) -> (Server, &'static str) {
    let mut server = Server::new("mx.example.net");
    if is_lmtp {
        server = server.lmtp();
    }
    let reply = Duration::from_millis(random.pick(&[20, 25, 40]));
    // The reply to a chunk too: the blocking adapter waits in real time.
    let mut timeouts = Timeouts::default().replies(reply);
    timeouts.block = reply;
    let mut limits = Limits::default();
    if random.one_in(6) {
        limits.messages = random.up_to(3);
        limits.chunks = random.up_to(3);
        limits.in_flight = random.pick(&[1, 100, 4096]);
        limits.reply_kept = random.pick(&[50, 1_000]);
    }
    let mut policy = BodyPolicy::default();
    if random.one_in(4) {
        policy.line_endings = random.pick(&[LineEndings::Refuse, LineEndings::Normalise]);
        policy.allow_nul = random.one_in(2);
        policy.refuse_long_lines = random.one_in(2);
    }
    server = server
        .tls(random.pick(&[TlsPolicy::Never, TlsPolicy::Never, TlsPolicy::Opportunistic]))
        .client_name(
            ClientName::parse("client.example.org").unwrap_or_else(|error| panic!("{error}")),
        )
        .timeouts(timeouts)
        .overlap(random.one_in(2))
        .pipelining(!random.one_in(5))
        .learn_limits(random.one_in(4))
        .chunking(random.pick(&[
            Chunking::Auto,
            Chunking::Never,
            Chunking::Eager,
            Chunking::Always,
        ]))
        .chunk_size(random.pick(&[1, 10, 100, 65_536]))
        .limits(limits)
        .body_policy(policy);
    let (credentials, mechanisms) = match random.below(10) {
        0 => (Credentials::password(USER, PASSWORD), "PLAIN LOGIN"),
        1 => (Credentials::password(USER, PASSWORD), "LOGIN"),
        2 => (Credentials::password(USER, PASSWORD), "CRAM-MD5"),
        3 => (Credentials::token(USER, PASSWORD), "XOAUTH2 OAUTHBEARER"),
        4 => {
            let own = Own {
                has_initial: random.one_in(2),
                reads_challenges: random.one_in(2),
                most: random.pick(&[0, 1, 2, 9]),
                believes: !random.one_in(4),
            };
            (Credentials::custom(move || Box::new(own)), "X-OWN")
        }
        _ => return (server, "PLAIN"),
    };
    (
        server.credentials(credentials.permit_in_clear()),
        mechanisms,
    )
}

pub(super) fn body(random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 14] = [
        b"Subject: test\r\n\r\n",
        b"Hello.\r\n",
        b".\r\n",
        b"..dots\n",
        b"\n",
        b"\r",
        b"} \\ { |# \r\n",
        b"\xc3\xa9\r\n",
        b"no end",
        b"0123456789012345678901234567890123456789\r\n",
        b" ",
        b"\r\n",
        b"aaaaaaaaaaaaaaaaaaaaaa",
        b"\0",
    ];
    let mut body = Vec::new();
    let most = random.pick(&[0, 3, 10, 30]);
    for _ in 0..random.below(most + 1) {
        let last = PIECES.len() - usize::from(!random.one_in(6));
        let piece = PIECES[random.below(last)];
        let count = if random.one_in(40) { 3_000 } else { 1 };
        (0..count).for_each(|_| body.extend(piece));
    }
    body
}

/// Gives a body in pieces, and may fail.
pub(super) struct Reader {
    random: Random,
    body: Vec<u8>,
    at: usize,
    fails: bool,
}

impl Reader {
    pub(super) fn new(random: &mut Random, body: Vec<u8>) -> Self {
        let random = Random::new(random.below(1_000_000) as u64);
        let mut reader = Self {
            random,
            body,
            at: 0,
            fails: false,
        };
        reader.fails = reader.random.one_in(8);
        reader
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.body.len() - self.at;
        if self.fails && (left == 0 || self.random.one_in(4)) {
            return Err(io::Error::other("the disk\nis | full \\{3*é}\u{2028}"));
        }
        let most = if self.random.one_in(2) { 9 } else { 40_000 };
        let count = left.min(out.len()).min(self.random.up_to(most));
        out[..count].copy_from_slice(&self.body[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

impl tokio::io::AsyncRead for Reader {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let reader = self.get_mut();
        if reader.random.one_in(4) {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        let mut out = vec![0; buffer.remaining()];
        let count = reader.read(&mut out)?;
        buffer.put_slice(&out[..count]);
        std::task::Poll::Ready(Ok(()))
    }
}

fn good<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn envelope(random: &mut Random, body: &[u8]) -> Envelope {
    const TO: [&str; 9] = [
        "bob@example.net",
        "carol@example.net",
        "\"a b, c; {3*x}\"@example.com",
        "\"a\\\\b\"@example.com",
        "postmaster",
        "d|e#f@example.org",
        "ü@example.net",
        "x@[192.0.2.1]",
        "\">\"@example.org",
    ];
    let count = if random.one_in(30) {
        60
    } else {
        random.up_to(5)
    };
    let to: Vec<Recipient> = (0..count)
        .map(|_| {
            let mut recipient = good(Recipient::new(random.pick(&TO)));
            if random.one_in(4) {
                recipient = recipient.parameter(rcpt_parameter(random));
            }
            recipient
        })
        .collect();
    let from = random.pick(&["a@example.org", "", "\"q \\\" s\"@example.org"]);
    let mut envelope = good(Envelope::new(from, to));
    let size = body.len() as u64;
    match random.below(8) {
        0 | 1 => envelope = envelope.exact_size(size),
        2 => envelope = envelope.exact_size(size + random.pick(&[1, 5, 10_000])),
        3 => envelope = envelope.exact_size(size.saturating_sub(random.pick(&[1, 3, 40]))),
        4 => envelope = envelope.size(size),
        5 => envelope = envelope.size_of(body),
        _ => {}
    }
    envelope = match random.below(8) {
        0 => envelope.body(BodyType::SevenBit),
        1 => envelope.body(BodyType::EightBit),
        2 => envelope.body(BodyType::EightBitAnyway),
        3 => envelope.body(BodyType::Binary),
        _ => envelope,
    };
    if random.one_in(8) {
        envelope = envelope.all_or_nothing(true);
    }
    if random.one_in(3) {
        envelope = envelope.reopenable(true);
    }
    if random.one_in(8) {
        envelope = envelope.smtputf8(true);
    }
    if random.one_in(3) {
        envelope = envelope.parameter(mail_parameter(random));
    }
    if random.one_in(6) {
        envelope = envelope.recipient_parameter(rcpt_parameter(random));
    }
    envelope
}

fn mail_parameter(random: &mut Random) -> MailParameter {
    let parameter = match random.below(12) {
        0 => MailParameter::ret(Ret::Headers),
        1 => good(MailParameter::envelope_id("a b+c=\\d;,")),
        2 => good(MailParameter::deliver_by(120, ByMode::Notify, true)),
        3 => good(MailParameter::priority(-3)),
        4 => good(MailParameter::hold_for(100)),
        5 => good(MailParameter::hold_until("2029-12-31T23:59:59Z")),
        6 => MailParameter::require_tls(),
        7 => MailParameter::per_recipient_replies(),
        8 => MailParameter::auth(None),
        9 => MailParameter::auth(Some(&good(Mailbox::parse("\"a =+b\"@example.org")))),
        10 => good(MailParameter::raw("X-A", None)),
        _ => good(MailParameter::raw("X-B", Some("\\{3*x}:,;|#"))).offered_by("X-ODD"),
    };
    match random.below(3) {
        0 => parameter.required(),
        1 => parameter.if_offered(),
        _ => parameter,
    }
}

fn rcpt_parameter(random: &mut Random) -> RcptParameter {
    let parameter = match random.below(7) {
        0 => RcptParameter::notify(Notify::NEVER),
        1 => RcptParameter::notify(Notify::SUCCESS | Notify::DELAY),
        2 => good(RcptParameter::original_recipient(&good(Mailbox::parse(
            "\"a =+b;,\"@example.org",
        )))),
        3 => good(RcptParameter::original_recipient_of("x400", "a b;c,d\\e+")),
        4 => good(RcptParameter::valid_since("2014-04-03T23:01:00Z", None)),
        5 => good(RcptParameter::original_recipient(&good(Mailbox::parse(
            "ü+@example.org",
        )))),
        _ => good(RcptParameter::raw("X-C", Some("a:b@c"))).offered_by("X-A"),
    };
    match random.below(3) {
        0 => parameter.required(),
        1 => parameter.if_offered(),
        _ => parameter,
    }
}

pub(super) fn request(random: &mut Random) -> Request {
    good(match random.below(16) {
        0 => Ok(Request::noop()),
        1 => Request::help(None),
        2 => Request::help(Some("a  b ")),
        3 => Request::verify("bob \\{3*x}"),
        4 => Request::verify("jürgen"),
        5 => Request::expand("staff  "),
        6 => Request::etrn("@example.org"),
        7 => Request::raw("X-DEBUG  a \\ # | "),
        8 => Request::raw("VRFY"),
        9 => Request::raw("vrfy bob"),
        10 => Request::raw("NOOP  x"),
        11 => Request::raw("EXPN a SMTPUTF8"),
        12 => Request::raw("HELP "),
        13 => Request::xclient([
            XClient::Name(Some("a+b c=d".into())),
            XClient::Login(Some("so me".into())),
            XClient::Addr(None),
        ]),
        14 => Request::xforward([
            XForward::Name(None),
            XForward::Addr(Some(std::net::Ipv6Addr::LOCALHOST.into())),
            XForward::Source(Some(MessageSource::Local)),
        ]),
        _ => Request::xclient([XClient::NameUnknownForNow]),
    })
}
