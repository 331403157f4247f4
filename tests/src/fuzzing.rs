//! The bodies of the fuzz targets in `fuzz/`: each takes any octets and panics where a rule of the
//! engine does not hold. They are ordinary code, so that `cargo check` breaks before the fuzzer does,
//! and `tests/fuzz_smoke.rs` runs them on every change.
//!
//! What the engine does fast and in place is done here a second time, slowly and in the most obvious
//! way: `decode` for replies, `stuff` for bodies, `Peer` for who is answered by what.

use std::collections::VecDeque;
use std::time::Duration;

use smtp_proto::*;
use smtp_proto::{
    auth::{Mechanism, MechanismError, Nonce, Secret},
    body::{BodyEncoder, BodyError, BodyPolicy, LineEndings, MAX_TEXT_LINE},
    envelope::BodyType,
    error::Misuse,
    event::RequestId,
    parameter::{ByMode, MailParameter, Notify, RcptParameter, Ret},
    reply::{Decoder, ReplyClass, ReplyCode, ReplyError, ReplyLimits},
    request::{XClient, XForward},
};

/// The octets of an input, taken from the front; zeros where there are no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// A string whose length stands before it.
    fn string(&mut self) -> &'a [u8] {
        let n = usize::from(self.byte() % 64);
        self.take(n)
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

/// One line, which neither moves the cursor of a terminal nor hides or reorders what it shows.
fn assert_printable(text: &str) {
    let bad = |c: char| {
        c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || "\u{2028}\u{2029}".contains(c)
    };
    assert!(!text.contains(bad), "not printable: {text:?}");
}

/// Every CR has its LF and every LF its CR, except that the LF behind a CR at the end may still come.
fn assert_no_bare_line_ends(wire: &[u8]) {
    for (at, octet) in wire.iter().enumerate() {
        match octet {
            b'\r' => assert!(
                matches!(wire.get(at + 1), None | Some(b'\n')),
                "bare CR at {at}: {}",
                wire.escape_ascii()
            ),
            b'\n' => assert!(
                at > 0 && wire[at - 1] == b'\r',
                "bare LF at {at}: {}",
                wire.escape_ascii()
            ),
            _ => {}
        }
    }
}

// ---------------------------------------------------------------------------------------------------
// Replies
// ---------------------------------------------------------------------------------------------------

/// What the decoder must do, for a whole stream at once: the replies, the octets that belong to no
/// whole reply yet, and the error that ends it.
fn decode(stream: &[u8], limits: ReplyLimits) -> (Vec<Reply>, &[u8], Option<ReplyError>) {
    let mut replies = vec![];
    // The code and the text of each line of the reply under way.
    let mut lines: Vec<(ReplyCode, &[u8])> = vec![];
    let (mut rest, mut tail) = (stream, stream);
    let error = loop {
        let end = rest
            .iter()
            .position(|&octet| octet == b'\n')
            .map(|at| at + 1);
        if end.unwrap_or(rest.len()) > limits.line {
            break Some(ReplyError::LineTooLong { limit: limits.line });
        }
        let Some(end) = end else { break None };
        let line = rest[..end].strip_suffix(b"\n").unwrap();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        rest = &rest[end..];

        if line.contains(&b'\r') {
            break Some(ReplyError::BareCr);
        }
        let digits = line
            .get(..3)
            .filter(|code| code.iter().all(u8::is_ascii_digit));
        let code = digits
            .and_then(|code| str::from_utf8(code).unwrap().parse().ok())
            .and_then(ReplyCode::new);
        let (Some(code), None | Some(b' ' | b'-')) = (code, line.get(3)) else {
            break Some(ReplyError::NotAReply(line[..line.len().min(80)].into()));
        };
        if let Some(&(first, _)) = lines.last()
            && first.class() != code.class()
        {
            break Some(ReplyError::CodesDisagree { first, then: code });
        }
        lines.push((code, line.get(4..).unwrap_or_default()));
        if lines.len() > limits.lines {
            break Some(ReplyError::TooManyLines {
                limit: limits.lines,
            });
        }
        let text = lines
            .iter()
            .map(|(_, text)| *text)
            .collect::<Vec<_>>()
            .join(&b'\n');
        if text.len() > limits.octets {
            break Some(ReplyError::TooLong {
                limit: limits.octets,
            });
        }
        if line.get(3) != Some(&b'-') {
            replies.push(Reply::new(code, &text));
            lines.clear();
            tail = rest;
        }
    };
    (replies, tail, error)
}

/// What the decoder does, given the stream in these pieces.
fn decode_pieces<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    limits: ReplyLimits,
) -> (Vec<Reply>, bool, Option<ReplyError>) {
    let mut decoder = Decoder::new(limits);
    let mut replies = vec![];
    for mut piece in pieces {
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(reply)) => replies.push(reply.to_reply()),
                Ok(None) => break assert!(piece.is_empty()),
                Err(error) => return (replies, false, Some(error)),
            }
        }
    }
    (replies, decoder.is_empty(), None)
}

/// A stream of replies: its limits (three octets; the defaults where the first is `D`), how it is cut
/// (one octet), the stream.
pub fn reply(data: &[u8]) {
    let mut input = Input(data);
    let [line, lines, octets, cut] = [(); 4].map(|()| input.byte());
    let limits = match line {
        b'D' => ReplyLimits::default(),
        _ => ReplyLimits {
            line: line.into(),
            lines: usize::from(lines % 8),
            octets: octets.into(),
        },
    };
    let stream = input.0;

    let (replies, tail, error) = decode(stream, limits);
    let expected = (replies, tail.is_empty() && error.is_none(), error);
    assert_eq!(
        decode_pieces([stream].into_iter(), limits),
        expected,
        "whole"
    );
    assert_eq!(
        decode_pieces(stream.chunks(1), limits),
        expected,
        "octet by octet"
    );
    let (one, other) = stream.split_at(stream.len().min(cut.into()));
    assert_eq!(
        decode_pieces([one, other].into_iter(), limits),
        expected,
        "in two"
    );
    let size = usize::from(cut % 16) + 2;
    assert_eq!(
        decode_pieces(stream.chunks(size), limits),
        expected,
        "in pieces of {size}"
    );

    for reply in expected.0 {
        assert_printable(&reply.to_string());
        assert_printable(&format!("{reply:?}"));
        assert!(reply.text().len() <= limits.octets && reply.lines().count() <= limits.lines);
        if let Some(enhanced) = reply.enhanced() {
            assert_eq!(u16::from(enhanced.class), reply.code().get() / 100);
            assert!(enhanced.subject < 1_000 && enhanced.detail < 1_000);
        }
        capabilities(reply);
    }
    if let Some(error) = expected.2 {
        assert_printable(&error.to_string());
    }
}

/// Any reply may answer EHLO.
fn capabilities(reply: Reply) {
    let success = reply.class() == ReplyClass::Success;
    let offered = Capabilities::parse(reply);
    assert_printable(&format!("{offered:?}"));
    assert!(offered.size_limit().is_none() || offered.has(Extension::Size));
    for mechanism in offered.mechanisms() {
        assert!(offered.has(Extension::Auth) && !mechanism.is_empty());
        let name = str::from_utf8(mechanism);
        assert!(
            name.is_err()
                || name.is_ok_and(|name| offered.offers_mechanism(&name.to_ascii_lowercase()))
        );
    }
    assert!(success || !offered.has(Extension::StartTls));
}

// ---------------------------------------------------------------------------------------------------
// Bodies
// ---------------------------------------------------------------------------------------------------

/// A body as it must be under DATA, octet by octet, without its end; with an error, what precedes it.
fn stuff(policy: BodyPolicy, eight_bit: bool, body: &[u8]) -> (Vec<u8>, Option<BodyError>) {
    let refuse = policy.line_endings == LineEndings::Refuse;
    let mut wire = vec![];
    let mut column = 0;
    let mut octets = body.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' if octets.next_if_eq(&b'\n').is_some() => {}
            b'\r' if refuse => {
                // It went out before anybody could know that no LF follows.
                wire.push(b'\r');
                return (wire, Some(BodyError::BareCr));
            }
            b'\n' if refuse => return (wire, Some(BodyError::BareLf)),
            b'\r' | b'\n' => {}
            0 if !policy.allow_nul => return (wire, Some(BodyError::Nul)),
            128.. if !eight_bit => return (wire, Some(BodyError::EightBit)),
            _ if policy.refuse_long_lines && column == MAX_TEXT_LINE => {
                return (wire, Some(BodyError::LineTooLong));
            }
            _ => {
                if column == 0 && octet == b'.' {
                    wire.push(b'.');
                }
                wire.push(octet);
                column += 1;
                continue;
            }
        }
        wire.extend_from_slice(b"\r\n");
        column = 0;
    }
    (wire, None)
}

/// Every line end as CRLF, and one at the end.
fn normalise(body: &[u8]) -> Vec<u8> {
    let mut normal = vec![];
    let mut octets = body.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if_eq(&b'\n');
                normal.extend_from_slice(b"\r\n");
            }
            b'\n' => normal.extend_from_slice(b"\r\n"),
            octet => normal.push(octet),
        }
    }
    if !normal.is_empty() && !normal.ends_with(b"\n") {
        normal.extend_from_slice(b"\r\n");
    }
    normal
}

/// A server's view of DATA: the body, and what stands behind the dot that ends it.
fn unstuff(wire: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut body, mut rest) = (vec![], wire);
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let (line, behind) = rest.split_at(end);
        rest = behind;
        match line {
            b".\r\n" => return Some((body, rest)),
            [b'.', line @ ..] => body.extend_from_slice(line),
            line => body.extend_from_slice(line),
        }
    }
}

/// A body in run-length code, so that a short input holds a long line, and one beyond 64 KiB: 0xfe and n
/// repeat the octet before them.
fn expand(coded: &[u8]) -> Vec<u8> {
    let mut body = vec![];
    let mut coded = Input(coded);
    while !coded.0.is_empty() {
        match (coded.byte(), body.last()) {
            (0xfe, Some(&last)) if body.len() < 70_000 => {
                let times = match coded.byte() {
                    255 => 35_000,
                    n => usize::from(n % 8) * 166,
                };
                body.resize(body.len() + times, last);
            }
            (octet, _) => body.push(octet),
        }
    }
    body
}

/// A body: its policy (one octet of flags), the sizes of offers and of what the transport takes of them
/// (one octet each), the body in run-length code.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    let [flags, offer, take] = [(); 3].map(|()| input.byte());
    let mut policy = BodyPolicy::default();
    if flags & 1 != 0 {
        policy.line_endings = LineEndings::Refuse;
    }
    policy.allow_nul = flags & 2 != 0;
    policy.refuse_long_lines = flags & 4 != 0;
    let eight_bit = flags & 8 != 0;
    let body = expand(input.0);
    let (expected, expected_error) = stuff(policy, eight_bit, &body);

    // 0 stands for all there is. A long body in short pieces takes too long, and finds no more.
    let least = body.len() / 32;
    let size = |octet: u8| {
        if octet == 0 {
            usize::MAX
        } else {
            least.max(octet.into())
        }
    };
    for (offer, take) in [(0, 0), (1, 0), (0, 1), (offer, take)] {
        let (wire, error) = encode(policy, eight_bit, &body, size(offer), size(take));
        assert_eq!(error, expected_error, "offers of {offer}, {take} taken");
        if error.is_some() {
            // The LF that completes a bare CR goes out with the octet behind it, so not before a bad one.
            let unsent = expected.strip_prefix(&wire[..]);
            assert!(
                matches!(unsent, Some(b"" | b"\n")),
                "{} is not {}",
                wire.escape_ascii(),
                expected.escape_ascii()
            );
            continue;
        }
        let mut complete = expected.clone();
        if !complete.is_empty() && !complete.ends_with(b"\n") {
            complete.extend_from_slice(b"\r\n");
        }
        complete.extend_from_slice(b".\r\n");
        assert!(
            wire == complete,
            "{} is not {}",
            wire.escape_ascii(),
            complete.escape_ascii()
        );
        assert_no_bare_line_ends(&wire);
        assert!(
            unstuff(&wire) == Some((normalise(&body), &[])),
            "{}",
            wire.escape_ascii()
        );
    }
    fickle(policy, eight_bit, &body, take);
}

/// The body as the encoder sends it, offered and taken in pieces of these sizes.
fn encode(
    policy: BodyPolicy,
    eight_bit: bool,
    body: &[u8],
    offer: usize,
    take: usize,
) -> (Vec<u8>, Option<BodyError>) {
    let mut encoder = BodyEncoder::new(policy, eight_bit);
    let (mut wire, mut rest) = (vec![], body);
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(offer)];
        let (inserted, run) = match encoder.next(piece) {
            Ok(next) => next,
            Err(error) => return (wire, Some(error)),
        };
        assert!(!inserted.is_empty() || run > 0, "nothing is offered");
        let octets = [inserted, &piece[..run]].concat();
        wire.extend_from_slice(&octets[..octets.len().min(take)]);
        let used = encoder.advance(piece, take);
        assert_eq!(used, take.min(octets.len()).saturating_sub(inserted.len()));
        rest = &rest[used..];
    }
    let end = encoder.finish();
    wire.extend_from_slice(end.unwrap_or_default());
    (wire, end.err())
}

/// A caller that offers something else than before, whenever it was not all taken: what goes out is no
/// body of anybody's, but the data must not end in the middle of it.
fn fickle(policy: BodyPolicy, eight_bit: bool, body: &[u8], take: u8) {
    let mut encoder = BodyEncoder::new(policy, eight_bit);
    let mut wire = vec![];
    for piece in body.chunks(usize::from(take % 8) + 1).take(1_000) {
        let Ok((inserted, run)) = encoder.next(piece) else {
            continue;
        };
        let octets = [inserted, &piece[..run]].concat();
        let sent = octets.len().min(usize::from(take / 8 % 4) + 1);
        wire.extend_from_slice(&octets[..sent]);
        encoder.advance(piece, sent);
    }
    if let Ok(end) = encoder.finish() {
        wire.extend_from_slice(end);
        assert_no_bare_line_ends(&wire);
        assert!(
            unstuff(&wire).is_some_and(|(_, rest)| rest.is_empty()),
            "{}",
            wire.escape_ascii()
        );
    }
}

// ---------------------------------------------------------------------------------------------------
// Sessions
// ---------------------------------------------------------------------------------------------------

/// What no one but a server inside TLS may read.
const SECRET: &str = "s3cr3t-marker";

/// What a server might say, by the letters from `A` on, and what follows `Z` in ASCII.
const REPLIES: [&str; 32] = [
    "220 mx.example.net ESMTP\r\n",
    "250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 1000\r\n250-SMTPUTF8\r\n250-STARTTLS\r\n\
     250 AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN XOAUTH2\r\n",
    "250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n",
    "250 ok\r\n",
    "250-mx\r\n250-SIZE 1000\r\n250 AUTH=LOGIN\r\n",
    "354 go on\r\n",
    "550 5.1.1 no such user\r\n",
    "451 4.3.0 later\r\n",
    "421 4.3.2 closing\r\n",
    "502 what?\r\n",
    "503 5.5.1 bad sequence\r\n",
    "235 2.7.0 welcome\r\n",
    "334 \r\n",
    "334 UGFzc3dvcmQ6\r\n",
    "334 !\r\n",
    "535 5.7.8 no\r\n",
    "504 5.5.4 no such mechanism\r\n",
    "250-2.0.0 one\r\n250 2.0.0 two\r\n",
    "554 5.7.1 \u{1b}[2J\u{202e}\r\n",
    "354",
    "250 2.0.0 queued as 1\r\n",
    "250 2.0.0 queued as 2\r\n",
    "250-",
    "no reply\r\n",
    "\r\n",
    "252 \u{e9}\r\n",
    "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250-DSN\r\n250-PRDR\r\n\
     250-SIZE 1000\r\n250-ETRN\r\n250 XCLIENT ADDR\r\n",
    "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250-PRDR\r\n250 LIMITS RCPTMAX=2\r\n",
    "250-mx\r\n250-CHUNKING\r\n250-DELIVERBY\r\n250-PRDR\r\n250 LIMITS RCPTMAX=1 MAILMAX=3\r\n",
    "452 4.5.3 too many\r\n",
    "353 wait\r\n",
    "552 5.3.4 too much\r\n",
];

/// A program for a connection. Two octets of configuration, a third one if it is above 127, then
/// operations, an octet each modulo 32, so that programs can be written in letters:
///
/// | | |
/// |---|---|
/// | `p` | `quit` |
/// | `a` | `abort` |
/// | `b` n x… | n octets more of the body |
/// | `c` x | input: one of `REPLIES`, a lower-case letter three times |
/// | `d` n x… | input: n octets |
/// | `e` | `handle_eof` |
/// | `f` | `finish_body` |
/// | `g` n x… | the rest of the body is suddenly these n octets |
/// | `h` | `handle_tls_established` |
/// | `i` | `handle_tls_failed` |
/// | `j` n | transmit, only n octets of the body offered |
/// | `k` | `poll_event` |
/// | `l` n | transmit, and take n octets; 255 says more than there are |
/// | `m` x | `submit` with x as flags |
/// | `n` x | time passes, then `handle_timeout` |
/// | `o` | transmit everything |
/// | `q` | all the body that there is is offered as the last part of it, until more comes |
/// | `r` x | `request`, of kind x |
/// | `s` x y z | `submit` with x as flags, y as more of them, and z as exact size less 1, if it is not 0 |
///
/// At its end, the connection is cut.
pub fn session(data: &[u8]) {
    let whole = Session::run(data, false);
    let cut = Session::run(data, true);
    assert_eq!(
        whole.events, cut.events,
        "the input cut into octets gives other events"
    );
    assert!(
        whole.wire == cut.wire,
        "the input cut into octets gives another output"
    );
}

/// One connection, and everything that can be seen of it.
struct Session {
    connection: Connection,
    config: Config,
    /// Hand input over octet by octet.
    cut: bool,
    now: Instant,
    peer: Peer,
    /// What is left of the body, and whether that is all of it.
    body: Vec<u8>,
    says_last: bool,
    /// What was offered last and not advanced, and whether it is of a body.
    offered: Vec<u8>,
    offered_body: bool,
    /// Everything that was advanced.
    wire: Vec<u8>,
    messages: Vec<Message>,
    requests: Vec<RequestId>,
    events: Vec<Event>,
    finished: usize,
    answered: usize,
}

/// What is known of a message without the engine.
struct Message {
    id: MessageId,
    recipients: usize,
    all_or_nothing: bool,
}

impl Session {
    fn run(data: &[u8], cut: bool) -> Self {
        let mut input = Input(data);
        let (kind, limits) = (input.byte(), input.byte());
        let (mut config, permitted) = configuration(kind, limits);
        let nonce = (limits & 128 != 0).then(|| Nonce::from_octets([0; 18]));
        if input.0.first().is_some_and(|octet| *octet > 127) {
            configure_chunks(&mut config, input.byte());
        }
        let now = Instant::default();
        let mut session = Self {
            connection: Connection::with_nonce(config.clone(), now, nonce),
            peer: Peer::new(&config, permitted),
            config,
            cut,
            now,
            body: vec![],
            says_last: false,
            offered: vec![],
            offered_body: false,
            wire: vec![],
            messages: vec![],
            requests: vec![],
            events: vec![],
            finished: 0,
            answered: 0,
        };
        while !input.0.is_empty() {
            session.step(&mut input);
        }
        session.end();
        session
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 32 {
            0 | 16 => _ = self.connection.quit(),
            1 => _ = self.connection.abort("enough"),
            2 => {
                self.body.extend_from_slice(input.string());
                self.says_last = false;
            }
            3 => {
                let letter = input.byte();
                let reply = REPLIES[usize::from(letter.wrapping_sub(b'A') % 32) % REPLIES.len()];
                let times = if letter.is_ascii_lowercase() { 3 } else { 1 };
                self.receive(reply.repeat(times).as_bytes());
            }
            4 => self.receive(input.string()),
            5 => self.connection.handle_eof(self.now),
            6 => self.finish_body(),
            7 => {
                self.body = input.string().to_vec();
                self.says_last = false;
                self.forget_offered_body();
            }
            8 => {
                if self.connection.handle_tls_established(self.now).is_ok() {
                    self.peer.tls_established(&self.config);
                }
            }
            9 => {
                let cause = Cause::TlsFailed("bad certificate".into());
                let _ = self.connection.handle_tls_failed(cause);
            }
            10 => {
                self.forget_offered_body();
                let n = usize::from(input.byte());
                self.transmit(self.body.len().min(n), usize::MAX);
                self.forget_offered_body();
            }
            11 => _ = self.poll_event(),
            12 => {
                let n = input.byte();
                self.transmit(
                    self.body.len(),
                    if n == 255 { usize::MAX } else { n.into() },
                );
            }
            13 => self.submit(input.byte(), 0, 0),
            14 => self.pass_time(input.byte()),
            17 => self.says_last = true,
            18 => self.request(input.byte()),
            19 => self.submit(input.byte(), input.byte(), input.byte()),
            _ => {
                // Bounded by the body; the engine's own octets all come at once.
                while self.transmit(self.body.len(), usize::MAX) {}
            }
        }
    }

    /// The connection is cut, everything is reported, and nothing happens after it.
    fn end(&mut self) {
        self.connection.handle_eof(self.now);
        assert!(self.connection.is_closed());
        while self.poll_event() {}
        assert_eq!(
            self.finished,
            self.messages.len(),
            "a message without its Finished"
        );
        assert_eq!(
            self.answered,
            self.requests.len(),
            "a request without its Answered"
        );
        assert!(
            matches!(self.events.last(), Some(Event::Closed(_))),
            "no Closed at the end"
        );

        let connection = &mut self.connection;
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        assert_eq!(connection.submit(envelope), Err(Misuse::Closed));
        assert_eq!(connection.request(Request::noop()), Err(Misuse::Closed));
        assert_eq!(connection.quit(), Err(Misuse::Closed));
        assert_eq!(connection.abort("again"), Err(Misuse::Closed));
        assert_eq!(connection.finish_body(), Err(Misuse::NoBodyWanted));
        assert_eq!(
            connection.handle_tls_established(self.now),
            Err(Misuse::NoHandshakeWanted)
        );
        connection.handle_input(self.now, b"250 ok\r\n");
        connection.handle_timeout(self.now + Duration::MAX);
        connection.handle_eof(self.now);
        assert!(connection.poll_transmit(self.now, b"x").is_none());
        assert_eq!(
            (connection.poll_event(), connection.poll_timeout()),
            (None, None)
        );
        assert!(!connection.wants_body() && !connection.is_idle());

        // Where there are chunks, line ends may be cut in two by their headers.
        match self.peer.heard_chunk {
            false => assert_no_bare_line_ends(&self.wire),
            true => self.peer.assert_chunks(),
        }
        self.assert_secret_kept(&format!("{:?} {:?}", self.connection, self.config));
    }

    fn submit(&mut self, flags: u8, more: u8, exact: u8) {
        let message = self.messages.len();
        let (recipients, all_or_nothing) = (usize::from(flags % 4) + 1, flags & 8 != 0);
        // The names say which message and which recipient a command on the wire belongs to.
        let accent = if flags & 4 != 0 { "\u{e9}" } else { "" };
        let sender = format!("m{message}.s{accent}@example.org");
        let paths = (0..recipients).map(|index| {
            let path = Recipient::new(format!("m{message}.{index}@example.net")).unwrap();
            let original = "x".repeat(usize::from(more & 32) * 10 + 1);
            match more & 4 {
                0 => path,
                _ => path.parameter(RcptParameter::original_recipient_of("x", &original).unwrap()),
            }
        });
        let mut envelope = Envelope::new(sender, paths)
            .unwrap()
            .all_or_nothing(all_or_nothing);
        envelope = envelope.body(match flags >> 4 & 3 {
            _ if more & 16 != 0 => BodyType::Binary,
            0 => BodyType::Undeclared,
            1 => BodyType::SevenBit,
            2 => BodyType::EightBit,
            _ => BodyType::EightBitAnyway,
        });
        envelope = match flags >> 6 {
            _ if exact > 0 => envelope.exact_size(u64::from(exact) - 1),
            2 => envelope.size(900),
            3 => envelope.size(1_100),
            _ => envelope,
        };
        envelope = envelope.reopenable(more & 1 != 0).smtputf8(more & 64 != 0);
        if more & 2 != 0 {
            envelope = envelope.parameter(MailParameter::per_recipient_replies());
        }
        if more & 8 != 0 {
            let notify = MailParameter::deliver_by(9, ByMode::Notify, false).unwrap();
            envelope = envelope
                .parameter(MailParameter::ret(Ret::Full))
                .parameter(notify);
        }
        if more & 128 != 0 {
            envelope =
                envelope.recipient_parameter(RcptParameter::notify(Notify::NEVER).required());
        }
        if let Ok(id) = self.connection.submit(envelope) {
            self.messages.push(Message {
                id,
                recipients,
                all_or_nothing,
            });
            self.peer.all_or_nothing.push(all_or_nothing);
        }
    }

    fn request(&mut self, kind: u8) {
        let request = match kind % 8 {
            0 => Ok(Request::noop()),
            1 => Request::help(None),
            2 => Request::verify("b"),
            3 => Request::expand("\u{e9}"),
            4 => Request::etrn("@b"),
            5 => Request::xclient([XClient::Addr(None)]),
            6 => Request::xforward([XForward::Port(None)]),
            _ => Request::raw("XCHECK"),
        };
        if let Ok(id) = self.connection.request(request.unwrap()) {
            self.requests.push(id);
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let open = !self.connection.is_closed();
        match self.cut {
            true => bytes
                .chunks(1)
                .for_each(|byte| self.connection.handle_input(self.now, byte)),
            false => self.connection.handle_input(self.now, bytes),
        }
        if open {
            self.peer.say(bytes, self.config.limits.reply);
        }
    }

    fn finish_body(&mut self) {
        self.learn_whose_body();
        let wanted = self.connection.wants_body();
        assert_eq!(self.connection.finish_body().is_ok(), wanted);
        if wanted {
            self.peer.ending = self.peer.behind_data;
            self.peer.chunk_ends = self.peer.is_in_chunk();
            self.body.clear();
            self.says_last = false;
            self.forget_offered_body();
        }
    }

    /// Whose body is wanted, is said by the last event that says so. Until then none is, and where that is what the
    /// engine waits for, there is no timeout.
    fn learn_whose_body(&mut self) {
        if self.connection.wants_body() || self.connection.poll_timeout().is_none() {
            while self.poll_event() {}
        }
    }

    fn forget_offered_body(&mut self) {
        if self.offered_body {
            self.offered.clear();
        }
    }

    /// Polls for output, with the first octets of the body on offer, and takes `n` octets of it.
    fn transmit(&mut self, offer: usize, n: usize) -> bool {
        self.learn_whose_body();
        let wants_body = self.connection.wants_body();
        let look = |connection: &mut Connection, body: BodyPart<'_>| {
            let transmit = connection.poll_transmit(self.now, body)?;
            assert!(!format!("{transmit:?}").contains(SECRET));
            Some(transmit.parts().map(<[u8]>::to_vec))
        };
        // Between two chunks, what is on offer without a body is the engine's own.
        let is_body = wants_body
            && (self.peer.behind_data
                || (self.peer.is_in_chunk() && !self.peer.chunk_ends)
                || look(&mut self.connection, BodyPart::Next(b"")).is_none());
        let body = match self.says_last && offer == self.body.len() {
            true => BodyPart::Last(&self.body),
            false => BodyPart::Next(&self.body[..offer]),
        };
        let parts = look(&mut self.connection, body);
        // A body that must not be sent has ended by this look.
        let is_body = is_body && self.connection.wants_body();
        let timeout = self.connection.poll_timeout();
        assert_eq!(
            look(&mut self.connection, body),
            parts,
            "a poll changes what is offered"
        );
        assert_eq!(
            self.connection.poll_timeout(),
            timeout,
            "a poll changes the timeout"
        );

        if self.connection.is_closed() {
            assert_eq!(parts, None);
            return false;
        }
        let waits_for_caller =
            self.connection.is_idle() || (self.connection.wants_body() && parts.is_none());
        assert!(
            timeout.is_some() || waits_for_caller,
            "waits for ever: {:?}",
            self.connection
        );

        let on_offer = parts.is_some();
        let [ours, theirs] = parts.unwrap_or_default();
        let octets = [&ours[..], &theirs].concat();
        // A session that only listens takes back what it had not given.
        let withdrawn = !on_offer && format!("{:?}", self.connection).contains("draining");
        if withdrawn {
            self.offered.clear();
        }
        assert!(
            octets.starts_with(&self.offered),
            "{} was on offer, and now it is {}: {:?}",
            self.offered.escape_ascii(),
            octets.escape_ascii(),
            self.connection
        );
        let new = &octets[self.offered.len()..];
        let pipelines =
            self.config.pipelining && self.connection.capabilities().has(Extension::Pipelining);
        if !is_body && !new.is_empty() {
            assert!(theirs.is_empty());
            self.peer.hear(new, pipelines, &self.config);
        }
        if !on_offer {
            return false;
        }

        let sent = n.min(octets.len());
        let transmit = self.connection.poll_transmit(self.now, body).unwrap();
        let used = transmit.advance(n);
        let of_body = if is_body {
            sent.saturating_sub(ours.len())
        } else {
            0
        };
        // The last octet of a promised size is taken, and kept back.
        let held = used == of_body + 1 && is_body && sent == octets.len() && !self.peer.behind_data;
        assert!(
            used == of_body || held,
            "{used} octets used up, and {of_body} sent"
        );
        assert!(held || !octets.is_empty(), "an offer of nothing");
        self.body.drain(..used);
        self.wire.extend_from_slice(&octets[..sent]);
        if is_body && self.peer.behind_data {
            self.peer.body.extend_from_slice(&octets[..sent]);
        } else if is_body {
            self.peer
                .hear_lines(&octets[..sent], pipelines, &self.config, false);
        }
        self.offered = octets[sent..].to_vec();
        self.offered_body = is_body;
        if !is_body && self.offered.is_empty() {
            self.peer.all_arrived();
        }
        true
    }

    fn pass_time(&mut self, how: u8) {
        let deadline = self.connection.poll_timeout();
        match (how % 4, deadline) {
            (0, _) => {}
            (1, Some(at)) => {
                self.now = self.now.max(Instant::from_origin(
                    at.since_origin() - Duration::from_nanos(1),
                ))
            }
            (2, Some(at)) => self.now = self.now.max(at),
            _ => self.now = self.now + Duration::from_secs(u64::from(how) * 4),
        }
        let closed = self.connection.is_closed();
        self.connection.handle_timeout(self.now);
        match deadline.is_some_and(|at| at <= self.now) {
            true => assert!(
                self.connection.is_closed(),
                "time is up, and nothing happens"
            ),
            false => {
                // The clock of a session that listens since the caller spoke starts here.
                let starts =
                    deadline.is_none() && format!("{:?}", self.connection).contains("draining");
                assert!(starts || self.connection.poll_timeout() == deadline);
                assert_eq!(
                    self.connection.is_closed(),
                    closed,
                    "closed before its time"
                );
            }
        }
    }

    fn poll_event(&mut self) -> bool {
        let Some(event) = self.connection.poll_event() else {
            return false;
        };
        assert!(
            !matches!(self.events.last(), Some(Event::Closed(_))),
            "{event:?} after Closed"
        );
        self.assert_secret_kept(&format!("{event:?}"));
        match &event {
            Event::BodyWanted(id) => {
                let index = self
                    .messages
                    .iter()
                    .position(|message| message.id == *id)
                    .unwrap();
                assert!(index >= self.finished);
                let message = &self.messages[index];
                let accepted = self.peer.accepted(index);
                let eager = self.config.chunking == Chunking::Eager && !message.all_or_nothing;
                let least = if message.all_or_nothing {
                    message.recipients
                } else {
                    usize::from(!eager)
                };
                assert!(accepted >= least, "a body for {accepted}");
                self.peer.message = index;
            }
            Event::Answered(id, answer) => {
                assert_eq!(
                    self.requests[self.answered], *id,
                    "answered out of turn, or twice"
                );
                self.answered += 1;
                match answer {
                    Ok(reply) => assert!(reply.class() != ReplyClass::Intermediate),
                    Err(error) => self.check_error(error),
                }
            }
            Event::Finished(id, report) => {
                assert_eq!(
                    self.messages[self.finished].id, *id,
                    "finished out of turn, or twice"
                );
                self.check_report(self.finished, report);
                self.finished += 1;
            }
            Event::Closed(Err(error)) => self.check_error(error),
            Event::Trace(_) => assert!(self.config.trace),
            _ => {}
        }
        self.events.push(event);
        true
    }

    fn check_error(&self, error: &Error) {
        assert_printable(&error.to_string());
        self.assert_secret_kept(&error.to_string());
    }

    /// That a report is true is what [`model`](crate::model) judges, which knows what the server has taken.
    fn check_report(&self, index: usize, report: &Report) {
        assert_eq!(report.recipients.len(), self.messages[index].recipients);
        for (recipient, (mailbox, result)) in report.iter().enumerate() {
            assert!(
                mailbox
                    .as_str()
                    .starts_with(&format!("m{index}.{recipient}@"))
            );
            if let Err(error) = result {
                self.check_error(error);
                assert!(error.recipient.is_none_or(|about| about == recipient));
            }
        }
    }

    fn assert_secret_kept(&self, text: &str) {
        assert!(
            self.peer.knows_secret || !reveals_secret(text.as_bytes()),
            "credentials in {text}"
        );
    }
}

/// From two octets of flags; and whether the secret may be sent in the clear.
fn configuration(kind: u8, limits: u8) -> (Config, bool) {
    let mut config = Config::new(ClientName::parse("client.example.org").unwrap());
    config.tls = [
        TlsPolicy::Opportunistic,
        TlsPolicy::Never,
        TlsPolicy::Required,
        TlsPolicy::Implicit,
    ][usize::from(kind & 3)];
    config.protocol = if kind & 4 == 0 {
        Protocol::Smtp
    } else {
        Protocol::Lmtp
    };
    config.pipelining = kind & 8 == 0;
    let long = SECRET.repeat(40);
    config.credentials = match kind >> 4 & 7 {
        0 | 4 => None,
        1 => Some(Credentials::password("user", SECRET)),
        2 => Some(Credentials::password("user", SECRET).permit_in_clear()),
        3 => Some(Credentials::token("user", SECRET)),
        // Too long for an initial response.
        5 => Some(
            Credentials::password("user", &long)
                .mechanisms(&["plain", "login"])
                .permit_in_clear(),
        ),
        6 => Some(Credentials::password("us\0er", SECRET)),
        _ => Some(Credentials::custom(|| Box::new(Distrustful))),
    };
    // No more work for SCRAM than must be.
    config.limits.scram_iterations = 4_096;
    config.trace = kind & 128 == 0;
    config.limits.in_flight = [4_096, 0, 64, 100][usize::from(limits & 3)];
    config.limits.messages = if limits & 4 == 0 { 64 } else { 1 };
    if limits & 8 != 0 {
        config.limits.reply = ReplyLimits {
            line: 40,
            lines: 3,
            octets: 60,
        };
        config.limits.challenges = 1;
    }
    if limits & 16 != 0 {
        config.body.line_endings = LineEndings::Refuse;
    }
    config.body.allow_nul = limits & 32 != 0;
    config.overlap = limits & 64 != 0;
    (config, matches!(kind >> 4 & 7, 2 | 5))
}

/// From one more octet of flags.
fn configure_chunks(config: &mut Config, flags: u8) {
    config.chunking = [
        Chunking::Auto,
        Chunking::Never,
        Chunking::Always,
        Chunking::Eager,
    ][usize::from(flags & 3)];
    config.chunk_size = [65_536, 1, 3, 10][usize::from(flags >> 2 & 3)];
    config.limits.chunks = if flags & 16 == 0 { 16 } else { 1 };
    config.learn_limits = flags & 32 != 0;
}

/// A mechanism that answers every challenge with the secret, and never believes the server.
struct Distrustful;

impl Mechanism for Distrustful {
    fn name(&self) -> &str {
        "XOAUTH2"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Ok(Secret::new(SECRET.into()))
    }

    fn verify(&mut self, _data: &[u8]) -> Result<(), MechanismError> {
        Err(MechanismError::Other("no proof".into()))
    }
}

/// Whether the secret stands in a text, as it is or in base64.
fn reveals_secret(text: &[u8]) -> bool {
    let base64 = |octet: &u8| octet.is_ascii_alphanumeric() || b"+/".contains(octet);
    contains(text, SECRET.as_bytes())
        || text
            .split(|octet| !base64(octet))
            .filter(|word| word.len() > SECRET.len())
            .any(|word| contains(&base64_decode(word), SECRET.as_bytes()))
}

fn base64_decode(word: &[u8]) -> Vec<u8> {
    let (mut octets, mut bits, mut value) = (vec![], 0, 0u32);
    for letter in word {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        value = value << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            octets.push((value >> bits) as u8);
        }
    }
    octets
}

/// The server's end: it hears commands as soon as they are offered, and chunks as they go out, pairs each
/// reply with the oldest command that has none, and knows what it must never hear.
struct Peer {
    /// The commands without a reply, with their octets.
    owed: VecDeque<(Owed, usize)>,
    is_lmtp: bool,
    encrypted: bool,
    /// A handshake is due, and nothing else may be said.
    handshaking: bool,
    greeted: bool,
    /// It said something that answers nothing, or ends the session; it may hear QUIT, and no more.
    poisoned: bool,
    heard_quit: bool,
    /// What it said and is no whole reply yet.
    said: Vec<u8>,
    /// All commands so far, for credentials in them.
    commands: Vec<u8>,
    /// The server said the secret itself; whatever shows it then may quote the server.
    knows_secret: bool,
    /// The caller permitted the secret in the clear.
    may_read_secret: bool,
    /// The message whose body was wanted last; and of each message, whether it is for all or nobody.
    message: usize,
    all_or_nothing: Vec<bool>,
    transactions: Vec<PeerTransaction>,
    /// DATA or BDAT was refused, and the transaction may still be there.
    data_refused: bool,
    /// The last command was DATA: octets of its body on the wire; whether its end is what comes next.
    behind_data: bool,
    body: Vec<u8>,
    ending: bool,
    /// Of a chunk: its header, until that is whole, and then what it lacks, and whether it is the last.
    header: Vec<u8>,
    chunk: Option<(u64, bool)>,
    /// The body has ended, and what the chunk lacks is the engine's own.
    chunk_ends: bool,
    heard_chunk: bool,
}

/// What follows one MAIL.
struct PeerTransaction {
    message: usize,
    /// MAIL rode behind the end of the data before it.
    overlaps: bool,
    /// MAIL, or a chunk, was refused.
    refused: bool,
    /// The recipients, in order, and what was said to their RCPT.
    rcpts: Vec<(usize, Option<Reply>)>,
    /// PRDR was asked for, and 353 was said.
    prdr: bool,
    prdr_begun: bool,
    binary: bool,
    chunks: Vec<u8>,
    is_chunked: bool,
    end: End,
    /// The replies to the end of the data.
    replies: Vec<Reply>,
}

/// How far the end of the data has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    No,
    Offered,
    Sent,
}

impl PeerTransaction {
    fn accepted(&self) -> impl Iterator<Item = usize> {
        let accepted = |reply: &Option<Reply>| {
            reply
                .as_ref()
                .is_some_and(|reply| reply.class() == ReplyClass::Success)
        };
        self.rcpts
            .iter()
            .filter(move |(_, reply)| accepted(reply))
            .map(|(of, _)| *of)
    }
}

#[derive(Debug, PartialEq)]
enum Owed {
    Greeting,
    Command(String),
    /// The rest of these belong to a transaction.
    Mail(usize),
    Rcpt(usize, usize),
    Chunk(usize),
    EndOfData(usize),
}

impl Peer {
    fn new(config: &Config, may_read_secret: bool) -> Self {
        let implicit = config.tls == TlsPolicy::Implicit;
        Self {
            owed: (!implicit)
                .then_some((Owed::Greeting, 0))
                .into_iter()
                .collect(),
            is_lmtp: config.protocol == Protocol::Lmtp,
            encrypted: false,
            handshaking: implicit,
            greeted: false,
            poisoned: false,
            heard_quit: false,
            said: vec![],
            commands: vec![],
            knows_secret: false,
            may_read_secret,
            message: 0,
            all_or_nothing: vec![],
            transactions: vec![],
            data_refused: false,
            behind_data: false,
            body: vec![],
            ending: false,
            header: vec![],
            chunk: None,
            chunk_ends: false,
            heard_chunk: false,
        }
    }

    fn tls_established(&mut self, config: &Config) {
        assert!(
            self.handshaking && !self.poisoned,
            "a handshake that nobody asked for"
        );
        self.handshaking = false;
        self.encrypted = true;
        if config.tls == TlsPolicy::Implicit {
            self.owed.push_back((Owed::Greeting, 0));
        }
    }

    /// How often a recipient of this message was accepted.
    fn accepted(&self, message: usize) -> usize {
        let transactions = self
            .transactions
            .iter()
            .filter(|transaction| transaction.message == message);
        transactions
            .map(|transaction| transaction.accepted().count())
            .sum()
    }

    fn is_in_chunk(&self) -> bool {
        self.chunk.is_some() || !self.header.is_empty()
    }

    /// The server says something.
    fn say(&mut self, bytes: &[u8], limits: ReplyLimits) {
        self.said.extend_from_slice(bytes);
        self.knows_secret |= reveals_secret(&self.said);
        self.poisoned |= self.handshaking && !bytes.is_empty();
        let said = std::mem::take(&mut self.said);
        let (replies, tail, error) = decode(&said, limits);
        for reply in replies {
            self.answer(reply);
        }
        self.poisoned |= error.is_some() || (self.handshaking && !tail.is_empty());
        self.said = tail.to_vec();
    }

    fn answer(&mut self, reply: Reply) {
        let expected = self.owed.pop_front();
        if self.poisoned || self.handshaking || reply.code().get() == 421 {
            self.poisoned = true;
            return;
        }
        let success = reply.class() == ReplyClass::Success;
        let intermediate = reply.class() == ReplyClass::Intermediate;
        match expected {
            Some((Owed::Greeting, _)) => self.greeted = true,
            Some((Owed::EndOfData(t), _)) if intermediate => self.begin_prdr(t),
            Some((Owed::EndOfData(t), _)) => {
                let transaction = &mut self.transactions[t];
                let for_all = !self.is_lmtp && !transaction.prdr_begun;
                self.data_refused |= transaction.is_chunked && !success && for_all;
                transaction.replies.push(reply);
            }
            Some((Owed::Command(line), _)) => {
                self.handshaking = line == "STARTTLS" && success;
                // Who cannot even reset is told no more.
                self.poisoned |= line == "RSET" && !success;
                match success {
                    true => self.data_refused &= line != "RSET",
                    false => self.data_refused |= line == "DATA" && !intermediate,
                }
            }
            Some((Owed::Mail(t), _)) => {
                self.transactions[t].refused |= !success;
                self.poisoned |= self.transactions[t].overlaps && reply.code().get() == 503;
            }
            Some((Owed::Rcpt(t, place), _)) if !intermediate => {
                self.transactions[t].rcpts[place].1 = Some(reply);
            }
            Some((Owed::Chunk(t), _)) if !intermediate => {
                self.transactions[t].refused |= !success;
                self.data_refused |= !success;
            }
            _ => self.poisoned = true,
        }
    }

    /// 353: a reply for each recipient, and one for all.
    fn begin_prdr(&mut self, t: usize) {
        let transaction = &mut self.transactions[t];
        let accepted = transaction.accepted().count();
        let fine =
            transaction.prdr && !transaction.prdr_begun && !transaction.refused && accepted > 0;
        transaction.prdr_begun |= fine;
        self.poisoned |= !fine;
        for _ in 0..=accepted {
            self.owed.push_front((Owed::EndOfData(t), 0));
        }
    }

    /// The server hears octets of the engine's own: the end of a body, if one is due, and whole commands.
    fn hear(&mut self, octets: &[u8], pipelines: bool, config: &Config) {
        assert!(
            self.greeted && !self.handshaking && !self.heard_quit,
            "{}",
            octets.escape_ascii()
        );
        let octets = if self.ending {
            self.hear_end_of_data(octets, config)
        } else {
            octets
        };
        self.hear_lines(octets, pipelines, config, true);
        assert!(!self.is_in_chunk(), "half a chunk");
        self.commands.extend_from_slice(octets);
        let may_know = self.encrypted || self.may_read_secret;
        assert!(
            may_know || !reveals_secret(&self.commands),
            "credentials in the clear"
        );
    }

    /// Commands, and chunks among them. `offered` says that they have not gone out yet.
    fn hear_lines(&mut self, octets: &[u8], pipelines: bool, config: &Config, offered: bool) {
        let mut rest = octets;
        while !rest.is_empty() {
            if let Some((left, last)) = self.chunk {
                let n = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let transaction = self.transactions.last_mut().unwrap();
                transaction.chunks.extend_from_slice(&rest[..n]);
                self.chunk = Some((left - n as u64, last));
                rest = &rest[n..];
                self.end_chunk(config, offered);
                continue;
            }
            let (line, behind) = match rest.iter().position(|&octet| octet == b'\n') {
                Some(at) => rest.split_at(at + 1),
                None => (rest, &b""[..]),
            };
            rest = behind;
            if self.header.is_empty()
                && b"BDAT ".starts_with(&line[..line.len().min(5)])
                && !self.behind_data
            {
                self.begin_chunk(pipelines, config, offered);
            } else if self.header.is_empty() {
                let line = str::from_utf8(line)
                    .unwrap()
                    .strip_suffix("\r\n")
                    .expect("half a line");
                assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
                self.hear_command(line, pipelines, config);
                continue;
            }
            self.header.extend_from_slice(line);
            if self.header.ends_with(b"\r\n") {
                let header = String::from_utf8(std::mem::take(&mut self.header)).unwrap();
                let words: Vec<_> = header.split_whitespace().collect();
                let size: u64 = words[1].parse().unwrap();
                assert!(
                    words[0] == "BDAT" && (size > 0 || words.len() == 3),
                    "{header:?}"
                );
                assert!(words.len() == 2 || words[2..] == ["LAST"], "{header:?}");
                self.chunk = Some((size, words.len() == 3));
                self.end_chunk(config, offered);
            }
        }
    }

    fn begin_chunk(&mut self, pipelines: bool, config: &Config, offered: bool) {
        self.heard_chunk = true;
        assert!(
            !self.poisoned && !self.heard_quit,
            "a chunk after what nothing expected"
        );
        let is_chunk = |owed: &(Owed, usize)| {
            let smtp = config.protocol == Protocol::Smtp;
            matches!(owed.0, Owed::Chunk(_)) || (smtp && matches!(owed.0, Owed::EndOfData(_)))
        };
        let in_flight = self.owed.iter().filter(|owed| is_chunk(owed)).count();
        assert!(
            in_flight < config.limits.chunks,
            "{in_flight} chunks in flight"
        );
        assert!(
            pipelines || self.owed.is_empty(),
            "a chunk in a batch: {:?}",
            self.owed
        );
        let t = self.transactions.len() - 1;
        let transaction = &mut self.transactions[t];
        // What the engine says itself ends a body, and the next one may be wanted already.
        let fitting = offered || transaction.message == self.message;
        assert!(fitting, "a chunk in the transaction of another message");
        let all_or_nothing = self.all_or_nothing[transaction.message];
        assert_eq!(transaction.end, End::No, "a chunk behind the last");
        transaction.is_chunked = true;
        let answered = transaction.rcpts.iter().all(|(_, reply)| reply.is_some());
        let accepted = transaction.accepted().count();
        let eager = config.chunking == Chunking::Eager
            && config.protocol == Protocol::Smtp
            && pipelines
            && !all_or_nothing;
        assert!(accepted > 0 || eager, "a chunk for nobody");
        let waits = config.protocol == Protocol::Lmtp || all_or_nothing || !pipelines;
        assert!(answered || !waits, "a chunk before all are answered");
        let last = self.owed.back().map(|(owed, _)| owed);
        let fine = matches!(
            last,
            None | Some(Owed::Mail(_) | Owed::Rcpt(..) | Owed::Chunk(_))
        );
        assert!(fine, "a chunk behind {last:?}");
    }

    fn end_chunk(&mut self, config: &Config, offered: bool) {
        let Some((0, last)) = self.chunk else { return };
        (self.chunk, self.chunk_ends) = (None, false);
        let t = self.transactions.len() - 1;
        if !last {
            return self.owed.push_back((Owed::Chunk(t), 0));
        }
        self.expect_end_of_data(config);
        self.transactions[t].end = if offered { End::Offered } else { End::Sent };
    }

    fn expect_end_of_data(&mut self, config: &Config) {
        let t = self.transactions.len() - 1;
        let replies = match config.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => self.transactions[t].accepted().count(),
        };
        self.owed
            .extend((0..replies).map(|_| (Owed::EndOfData(t), 0)));
        self.transactions[t].end = End::Offered;
    }

    fn hear_command(&mut self, line: &str, pipelines: bool, config: &Config) {
        assert!(!self.heard_quit, "{line} behind QUIT");
        let last = self.owed.back().map(|(owed, _)| owed);
        if line == "QUIT" {
            // It may share a batch with the end of the last body, or give up what overlaps it, or an LMTP
            // server of which nobody knows how often it will answer.
            let refused = self
                .transactions
                .last()
                .is_some_and(|transaction| transaction.refused);
            assert!(last.is_none() || pipelines || (refused && config.protocol == Protocol::Lmtp));
            self.heard_quit = true;
            return;
        }
        assert!(!self.poisoned, "{line} after what nothing expected");
        let overlaps = pipelines && config.overlap;
        let may_follow = match last {
            None => true,
            Some(Owed::EndOfData(t)) if self.transactions[*t].is_chunked => {
                overlaps && line == "RSET"
            }
            Some(Owed::EndOfData(_)) => overlaps && line.starts_with("MAIL FROM:<"),
            // The end of data before it may have been answered before they were on offer.
            Some(Owed::Command(rset)) if rset == "RSET" => {
                let chunked = self
                    .transactions
                    .last()
                    .is_some_and(|transaction| transaction.is_chunked);
                overlaps && chunked && line.starts_with("MAIL FROM:<")
            }
            // RFC 2920 section 3.1: other commands end a batch.
            Some(Owed::Mail(_) | Owed::Rcpt(..)) => pipelines,
            Some(_) => false,
        };
        assert!(may_follow, "{line} in a batch that has ended");
        if config.tls == TlsPolicy::Required && !self.encrypted {
            assert!(
                !line.starts_with("MAIL") && !line.starts_with("AUTH"),
                "{line} in the clear"
            );
        }
        if config.tls == TlsPolicy::Opportunistic && line.starts_with("AUTH") {
            // STARTTLS may have been taken out of the reply by somebody who waits for this.
            assert!(
                self.encrypted || self.may_read_secret,
                "{line} in the clear"
            );
        }
        self.behind_data = line == "DATA";
        let owed = if let Some(sender) = line.strip_prefix("MAIL FROM:<m") {
            let reset = self
                .owed
                .iter()
                .any(|(owed, _)| *owed == Owed::Command("RSET".into()));
            assert!(!self.data_refused || reset, "{line} without RSET");
            self.transactions.push(PeerTransaction {
                message: sender.split_once('.').unwrap().0.parse().unwrap(),
                overlaps: last.is_some(),
                refused: false,
                rcpts: vec![],
                prdr: line.contains(" PRDR") && config.protocol == Protocol::Smtp,
                prdr_begun: false,
                binary: line.contains(" BODY=BINARYMIME"),
                chunks: vec![],
                is_chunked: false,
                end: End::No,
                replies: vec![],
            });
            Owed::Mail(self.transactions.len() - 1)
        } else if let Some(path) = line.strip_prefix("RCPT TO:<m") {
            let (message, recipient) = path.split_once('@').unwrap().0.split_once('.').unwrap();
            let t = self.transactions.len() - 1;
            let transaction = &mut self.transactions[t];
            assert_eq!(
                message.parse(),
                Ok(transaction.message),
                "{line} for another sender"
            );
            transaction.rcpts.push((recipient.parse().unwrap(), None));
            Owed::Rcpt(t, transaction.rcpts.len() - 1)
        } else {
            Owed::Command(line.into())
        };
        self.owed.push_back((owed, line.len() + 2));
        let in_flight: usize = self.owed.iter().map(|(_, octets)| octets).sum();
        assert!(
            self.owed.len() == 1 || in_flight <= config.limits.in_flight,
            "{in_flight} octets in flight"
        );
    }

    /// Returns what follows the end.
    fn hear_end_of_data<'a>(&mut self, octets: &'a [u8], config: &Config) -> &'a [u8] {
        let wire = [&std::mem::take(&mut self.body)[..], octets].concat();
        let behind = unstuff(&wire).map_or(usize::MAX, |(_, behind)| behind.len());
        assert!(
            behind < octets.len(),
            "the data does not end where it should: {}",
            wire.escape_ascii()
        );
        let transaction = self.transactions.last().unwrap();
        assert_eq!(
            transaction.message, self.message,
            "the body of another message"
        );
        self.expect_end_of_data(config);
        (self.ending, self.behind_data) = (false, false);
        &octets[octets.len() - behind..]
    }

    /// The transport took all that the engine had to say.
    fn all_arrived(&mut self) {
        for transaction in &mut self.transactions {
            if transaction.end == End::Offered {
                transaction.end = End::Sent;
            }
        }
    }

    /// Text in chunks has whole line ends, and one at its end.
    fn assert_chunks(&self) {
        for transaction in self
            .transactions
            .iter()
            .filter(|t| t.is_chunked && !t.binary)
        {
            assert_no_bare_line_ends(&transaction.chunks);
            let whole = transaction.chunks.is_empty() || transaction.chunks.ends_with(b"\r\n");
            assert!(
                whole || transaction.end == End::No,
                "{}",
                transaction.chunks.escape_ascii()
            );
        }
    }
}
