//! Whole sessions as programs of operations.

use std::time::Duration;

use smtp_proto::auth::Nonce;
use smtp_proto::envelope::BodyType;
use smtp_proto::error::Misuse;
use smtp_proto::event::RequestId;
use smtp_proto::parameter::{ByMode, MailParameter, Notify, RcptParameter, Ret};
use smtp_proto::reply::ReplyClass;
use smtp_proto::request::{XClient, XForward};
use smtp_proto::*;

use super::body::assert_no_bare_line_ends;
use super::peer::Peer;
use super::settings::{SECRET, configuration, configure_chunks, reveals_secret};
use super::{Input, assert_printable};
use crate::watchdog::Turns;

/// More events than a program of some thousand octets leads to.
const MOST_EVENTS: usize = 20_000;

/// Replies of a server, by the letters from `A` on, and then the characters after `Z` in ASCII.
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

/// One connection, and everything that can be observed of it.
struct Session {
    connection: Connection,
    config: Config,
    /// Give input octet by octet.
    cut: bool,
    now: Instant,
    peer: Peer,
    /// The rest of the body, and whether that is all of it.
    body: Vec<u8>,
    says_last: bool,
    /// The last offer that was not advanced, and whether it belongs to a body.
    offered: Vec<u8>,
    offered_body: bool,
    /// All octets that were advanced.
    wire: Vec<u8>,
    messages: Vec<Message>,
    requests: Vec<RequestId>,
    events: Vec<Event>,
    finished: usize,
    answered: usize,
}

/// The facts about a message that are known without the engine.
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
                // An octet of what was the last part is held back now.
                if std::mem::take(&mut self.says_last) {
                    self.forget_offered_body();
                }
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
                // The body bounds it. The engine's own octets all come at once.
                let mut turns = Turns::default();
                while self.transmit(self.body.len(), usize::MAX) {
                    turns.take().expect("an offer without end");
                }
            }
        }
    }

    /// The connection is cut. Everything is reported, and nothing happens after it.
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

        // With chunks, their headers may cut line ends in two.
        match self.peer.heard_chunk {
            false => assert_no_bare_line_ends(&self.wire),
            true => self.peer.assert_chunks(),
        }
        self.assert_secret_kept(&format!("{:?} {:?}", self.connection, self.config));
    }

    fn submit(&mut self, flags: u8, more: u8, exact: u8) {
        let message = self.messages.len();
        let (recipients, all_or_nothing) = (usize::from(flags % 4) + 1, flags & 8 != 0);
        // The names tell which message and which recipient a command belongs to.
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

    /// The last event tells whose body is wanted. Before it is polled, no body is wanted. If the engine waits only for
    /// that, it has no timeout.
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
        // Between two chunks, an offer without a body is the engine's own.
        let is_body = wants_body
            && (self.peer.behind_data
                || (self.peer.is_in_chunk() && !self.peer.chunk_ends)
                || look(&mut self.connection, BodyPart::Next(b"")).is_none());
        let body = match self.says_last && offer == self.body.len() {
            true => BodyPart::Last(&self.body),
            false => BodyPart::Next(&self.body[..offer]),
        };
        let parts = look(&mut self.connection, body);
        // A body that must not be sent has ended after this poll.
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
        // A session that only reads withdraws octets that were not given.
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
        // The last octet of a promised size is taken, and held back.
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
                // A session that drains since the caller's call starts its clock here.
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
        assert!(self.events.len() < MOST_EVENTS, "events without end");
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

    /// That a report is true is what [`model`](crate::fuzzing::model) judges, which knows what the server has taken.
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
