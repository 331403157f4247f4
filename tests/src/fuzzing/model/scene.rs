//! The parts of one conversation: the server, the application, the transport and the network.

use std::time::Duration;

use smtp_proto::envelope::BodyType;
use smtp_proto::parameter::{MailParameter, Notify, RcptParameter, Ret};
use smtp_proto::{Chunking, ClientName, Config, Envelope, Protocol, TlsPolicy};

use super::dice::Dice;
use super::server::Traits;

/// How the transport writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// At once, as much as possible.
    Direct,
    /// A write is begun, and its completion is reported later.
    Late,
    /// Octets are taken into a buffer, and written from there.
    Gathers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Message(usize),
    Request(usize),
    Quit,
}

/// A message of the application.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) envelope: Envelope,
    pub(crate) body: Vec<u8>,
    /// The source of the body fails after this many octets.
    pub(crate) source_fails: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) config: Config,
    pub(crate) traits: Traits,
    pub(crate) messages: Vec<Planned>,
    /// Each job, and its delay after the one before. `None` means that it waits for an idle session.
    pub(crate) jobs: Vec<(Job, Option<Duration>)>,
    pub(crate) writing: Writing,
    /// The application pauses before and within a body, this many times in a thousand.
    pub(crate) slow_body: usize,
    /// The transport pauses, this many times in a thousand.
    pub(crate) slow_transport: usize,
    /// After this many octets of the client, and of the server, nothing arrives any more.
    pub(crate) cut_up: usize,
    pub(crate) cut_down: usize,
    /// When the transport notices that. `None` for never.
    pub(crate) notice: Option<Duration>,
    /// Writes fail after this many octets.
    pub(crate) writes_fail: usize,
}

impl Scene {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let lmtp = dice.chance(300);
        let overlap = dice.chance(450);
        let mut config = Config::new(ClientName::parse("client.example.org").expect("a name"));
        config.protocol = if lmtp { Protocol::Lmtp } else { Protocol::Smtp };
        config.pipelining = dice.chance(900);
        config.overlap = overlap;
        config.chunking = match dice.below(10) {
            0..=3 => Chunking::Auto,
            4..=6 => Chunking::Eager,
            _ => Chunking::Never,
        };
        config.chunk_size = if dice.chance(500) {
            dice.between(1, 90)
        } else {
            65_536
        };
        config.learn_limits = dice.chance(500);
        timeouts(&mut config, dice);
        let traits = traits(dice, lmtp, overlap);
        config.tls = match (traits.starttls, dice.below(8)) {
            (true, 0) | (false, _) => TlsPolicy::Never,
            (true, 1..=4) => TlsPolicy::Opportunistic,
            (true, _) => TlsPolicy::Required,
        };
        let count = dice.between(1, 6);
        let messages: Vec<_> = (0..count).map(|index| message(dice, index)).collect();
        let loss = dice.below(100);
        let some = |dice: &mut Dice, yes: bool| if yes { dice.below(3_000) } else { usize::MAX };
        Self {
            config,
            traits,
            jobs: jobs(dice, messages.len()),
            messages,
            writing: dice.pick(&[Writing::Direct, Writing::Late, Writing::Gathers]),
            slow_body: dice.pick(&[0, 0, 20, 300]),
            slow_transport: dice.pick(&[0, 0, 4, 100]),
            cut_up: some(dice, matches!(loss, 0..=6 | 13..=15)),
            cut_down: some(dice, matches!(loss, 7..=15)),
            notice: dice.chance(850).then(|| dice.pause(100)),
            writes_fail: some(dice, matches!(loss, 16..=24)),
        }
    }
}

fn timeouts(config: &mut Config, dice: &mut Dice) {
    let reply = Duration::from_secs(dice.pick(&[3, 8, 30]));
    let block = Duration::from_secs(dice.pick(&[2, 10]));
    // Each is another one, so that none is mistaken for another.
    let and = |tenths: u64| Duration::from_millis(tenths * 100);
    let timeouts = &mut config.timeouts;
    timeouts.greeting = reply + and(1);
    timeouts.ehlo = reply + and(2);
    timeouts.starttls = reply + and(3);
    timeouts.handshake = reply + and(4);
    timeouts.auth = reply + and(5);
    timeouts.mail = reply + and(6);
    timeouts.rcpt = reply + and(7);
    timeouts.data = reply + and(8);
    timeouts.request = reply + and(9);
    timeouts.end_of_message = reply * 2 + and(10);
    timeouts.block = block + and(11);
    timeouts.overlap = and(25);
}

fn traits(dice: &mut Dice, lmtp: bool, overlap: bool) -> Traits {
    let most = |dice: &mut Dice, per_mille| dice.chance(per_mille).then(|| dice.between(1, 4));
    let stated = most(dice, 250);
    Traits {
        lmtp,
        pipelining: dice.chance(800),
        chunking: dice.chance(700),
        prdr: !lmtp && dice.chance(400),
        stated,
        unstated: if stated.is_some() {
            None
        } else {
            most(dice, 400)
        },
        trouble: dice.pick(&[0, 0, 1, 1, 2, 4]),
        keeps: dice.chance(400),
        swallows: overlap && dice.chance(120),
        surplus: dice.chance(70),
        eight_bit: dice.chance(850),
        size: match dice.below(8) {
            0 => Some(0),
            1 => Some(60),
            2 | 3 => Some(100_000),
            _ => None,
        },
        dsn: dice.chance(500),
        utf8: dice.chance(500),
        binary: dice.chance(500),
        starttls: dice.chance(200),
    }
}

fn message(dice: &mut Dice, index: usize) -> Planned {
    let count = dice.between(1, 5);
    let path = |recipient| format!("m{index}r{recipient}@d{}.example", recipient % 2);
    let paths: Vec<_> = (0..count).map(path).collect();
    let envelope = Envelope::new(format!("m{index}@example.org"), &paths).expect("an envelope");
    let mut envelope = envelope
        .all_or_nothing(dice.chance(120))
        .reopenable(dice.chance(600));
    if dice.chance(400) {
        envelope = envelope.parameter(MailParameter::per_recipient_replies());
    }
    if dice.chance(200) {
        let (ret, notify) = (
            MailParameter::ret(Ret::Headers),
            RcptParameter::notify(Notify::NEVER),
        );
        let required = dice.chance(150);
        envelope = envelope
            .parameter(if required { ret.required() } else { ret })
            .recipient_parameter(notify);
    }
    envelope = envelope.smtputf8(dice.chance(60));
    let mut body = format!("Subject: m{index}\r\n\r\n").into_bytes();
    let text_is_eight_bit = dice.chance(150);
    for line in 0..dice.below(8) {
        let text = dice.pick(&[
            "",
            ".",
            "..",
            ".hidden",
            "some text",
            "QUIT",
            "more text with a dot.",
            if text_is_eight_bit {
                "gr\u{fc}n"
            } else {
                "green"
            },
        ]);
        body.extend_from_slice(format!("{text}{line}\r\n").as_bytes());
        if dice.chance(300) {
            body.extend_from_slice(b".\r\n");
        }
    }
    if dice.chance(250) {
        body.truncate(body.len() - 2);
    }
    if body.ends_with(b"\r\n") && dice.chance(300) {
        let error = usize::from(dice.chance(60));
        envelope = envelope.exact_size((body.len() + error) as u64);
    } else if dice.chance(200) {
        // An estimate, which binds nobody.
        envelope = envelope.size(body.len() as u64 + dice.below(20) as u64);
    }
    let kind = dice.pick(&[
        BodyType::Undeclared,
        BodyType::Undeclared,
        BodyType::Undeclared,
        BodyType::Undeclared,
        BodyType::EightBit,
        BodyType::EightBit,
        BodyType::SevenBit,
        BodyType::EightBitAnyway,
    ]);
    envelope = envelope.body(match body.ends_with(b"\r\n") && dice.chance(60) {
        true => BodyType::Binary,
        false => kind,
    });
    let mut source_fails = None;
    match dice.below(70) {
        0 => {
            let at = dice.below(body.len());
            body[at] = 0;
        }
        1 | 2 => source_fails = Some(dice.below(body.len())),
        _ => {}
    }
    Planned {
        envelope,
        body,
        source_fails,
    }
}

fn jobs(dice: &mut Dice, messages: usize) -> Vec<(Job, Option<Duration>)> {
    let all_at_start = dice.chance(600);
    let mut jobs = Vec::new();
    let when = |dice: &mut Dice| match all_at_start {
        true => Some(Duration::ZERO),
        false if dice.chance(400) => None,
        false => Some(dice.pause(10)),
    };
    let requests = dice.chance(300);
    for message in 0..messages {
        if requests && dice.chance(300) {
            jobs.push((Job::Request(jobs.len()), when(dice)));
        }
        jobs.push((Job::Message(message), when(dice)));
    }
    if dice.chance(800) {
        jobs.push((Job::Quit, when(dice)));
    }
    jobs
}
