//! The heap of one session against the formula of `Config::max_heap`, with the worst servers and callers that we
//! know, under three sets of limits. The allocator counts, and is read after every call. Memory that lives only
//! within a call is not seen. The formula's factors account for it.
//!
//! ```console
//! $ cargo test -p smtp-tests --test memory -- --nocapture   # shows the table
//! ```

#[path = "memory/trial.rs"]
mod trial;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::{
    Chunking, ClientName, Config, Connection, Credentials, Envelope, Limits, Protocol, Request,
    TlsPolicy,
    parameter::{MailParameter, RcptParameter},
};
use trial::{CHUNKING, Heard, Line, PIPELINING, Row, Trial, longest, oblige};

const SENDER: &str = "alice@example.org";

fn config(limits: Limits) -> Config {
    let mut config = Config::new(ClientName::parse("client.example.org").unwrap());
    config.tls = TlsPolicy::Never;
    config.limits = limits;
    config
}

fn small() -> Limits {
    let mut limits = Limits::default();
    (limits.reply.line, limits.reply.lines, limits.reply.octets) = (64, 8, 256);
    (limits.in_flight, limits.messages, limits.chunks) = (0, 3, 0);
    (limits.reply_kept, limits.report, limits.traces) = (0, 0, 0);
    limits
}

fn large() -> Limits {
    let mut limits = Limits::default();
    (limits.reply.line, limits.reply.lines, limits.reply.octets) = (1 << 14, 1_024, 1 << 16);
    (limits.in_flight, limits.messages, limits.chunks) = (1 << 16, 100, 500);
    (limits.reply_kept, limits.report, limits.traces) = (1 << 14, 1 << 17, 400);
    limits
}

/// The longest address with this number.
fn longest_address(n: usize) -> String {
    format!("{n:0242}@{}d.net", "d23456789.".repeat(25))
}

fn to(recipients: usize) -> Envelope {
    Envelope::new(SENDER, (0..recipients).map(|n| format!("u{n}@d"))).unwrap()
}

fn to_longest(recipients: usize) -> Envelope {
    Envelope::new(SENDER, (0..recipients).map(longest_address)).unwrap()
}

/// How many of the longest replies have this many octets together.
fn count(limits: &Limits, octets: usize) -> usize {
    (octets / limits.reply.octets).min(2_000)
}

fn rcpt_answered(code: u16, ehlo: &'static [u8]) -> impl FnMut(Heard<'_>, &mut Line) {
    move |heard, line| match heard {
        Heard::Line(said) if said.starts_with(b"RCPT") => line.say_longest(code),
        _ => oblige(heard, ehlo, line),
    }
}

/// After the body, a reply for each recipient. Under PRDR, a 353 comes before them and one reply for all after.
fn each_answered(code: u16, recipients: usize, prdr: bool) -> impl FnMut(Heard<'_>, &mut Line) {
    move |heard, line| match heard {
        Heard::EndOfData => {
            if prdr {
                line.say(b"353 each\r\n");
            }
            (0..recipients).for_each(|_| line.say_longest(code));
            if prdr {
                line.say_longest(code);
            }
        }
        _ => oblige(heard, b"250-mx\r\n250-PIPELINING\r\n250 PRDR\r\n", line),
    }
}

/// From the greeting to EHLO, inside TLS and outside.
fn opening(limits: Limits) -> Vec<Row> {
    let mut rows = Vec::new();
    let whole = longest(&limits, usize::MAX);
    let in_lines = longest(&limits, limits.reply.octets / limits.reply.lines - 1);
    for (name, mut ehlo) in [
        ("EHLO, longest lines", whole),
        ("EHLO, most lines", in_lines),
    ] {
        let second = memchr::memchr(b'\n', &ehlo).unwrap() + "\n250-".len();
        ehlo[second..second + 9].copy_from_slice(b"STARTTLS ");
        let mut config = config(limits);
        config.tls = TlsPolicy::Opportunistic;
        let mut trial = Trial::new(name, config);
        trial.line.cut = 1;
        trial.polls = true;
        trial.run(&mut |heard, line| match heard {
            Heard::Line(b"STARTTLS") => line.say(b"220 go on\r\n"),
            Heard::Line(_) => line.say(&ehlo),
            _ => oblige(heard, b"", line),
        });
        assert!(trial.line.engine.is_idle());
        // Only the server's offer is kept.
        assert!(
            trial.heap() <= limits.reply.octets + 24,
            "{name}: {}",
            trial.heap()
        );
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new("EHLO refused at length, HELO", config(limits));
        trial.polls = true;
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if said.starts_with(b"EHLO") => line.say_longest(500),
            Heard::Line(said) if said.starts_with(b"HELO") => line.say_longest(250),
            _ => oblige(heard, b"", line),
        });
        assert!(trial.line.engine.is_idle());
        assert_eq!(trial.heap(), 0);
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new("EHLO and HELO refused at length", config(limits));
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if said.starts_with(b"EHLO") => line.say_longest(500),
            Heard::Line(_) => line.say_longest(550),
            _ => oblige(heard, b"", line),
        });
        rows.push(trial.row());
    }
    let line = "x".repeat(limits.reply.octets / limits.reply.lines) + "\r\n220-";
    for (name, octets) in [("endless line", "x"), ("endless reply", &line)] {
        let drip = "220-".to_owned() + &octets.repeat((2 << 20) / octets.len());
        let mut trial = Trial::new(name, config(limits));
        trial.line.cut = 1;
        trial.line.say(drip.as_bytes());
        assert!(trial.line.engine.is_closed());
        rows.push(trial.row());
    }
    rows
}

/// Long challenges, and mechanisms with long names.
fn authentication(limits: Limits) -> Vec<Row> {
    let mut rows = Vec::new();
    let room = limits.reply.line - "334 \r\n".len();
    let challenge = |text: &[u8]| {
        let text = &text[..text.len().min(room / 4 * 3)];
        format!("334 {}\r\n", STANDARD.encode(text)).into_bytes()
    };
    let long = "x".repeat(1 << 18);
    let json = format!(r#"{{"status":"{}","#, "\u{fffd}".repeat(room / 8)) + r#""scope":"y"}"#;
    let password = Credentials::password("alice", "s3cret");
    let token = Credentials::token("alice", &long[..4_000]).permit_in_clear();
    for (mechanism, credentials, text) in [
        ("CRAM-MD5", &password, long.as_bytes()),
        (
            "SCRAM-SHA-256",
            &password,
            &b"e=\x01\x01".repeat(1 << 16)[..],
        ),
        ("SCRAM-SHA-1", &password, b""),
        ("OAUTHBEARER", &token, json.as_bytes()),
    ] {
        let mut config = config(limits);
        config.credentials = Some(credentials.clone());
        let ehlo = format!("250-mx\r\n250 AUTH {mechanism}\r\n").into_bytes();
        let text = challenge(text);
        let tail = "z".repeat(room);
        let mut trial = Trial::new(mechanism, config);
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if said.starts_with(b"AUTH SCRAM-SHA-1 ") => {
                // The longest valid first message: it has a long salt.
                let first = STANDARD.decode(&said["AUTH SCRAM-SHA-1 ".len()..]).unwrap();
                let first = String::from_utf8(first).unwrap();
                let nonce = first.rsplit_once("r=").unwrap().1;
                let salt = STANDARD.encode(&tail.as_bytes()[..room / 4]);
                let message = format!("r={nonce}q,s={salt},i=4096");
                let message = format!("334 {}\r\n", STANDARD.encode(message));
                line.say(message.as_bytes());
            }
            Heard::Line(b"AQ==") => line.say_longest(535),
            Heard::Line(b"*") => line.say_longest(501),
            Heard::Line(said) if !said.starts_with(b"EHLO") && !said.starts_with(b"QUIT") => {
                line.say(&text)
            }
            _ => oblige(heard, &ehlo, line),
        });
        rows.push(trial.row());
    }
    {
        let mut config = config(limits);
        config.credentials = Some(password);
        // The longest text, of an octet that is written as four.
        let mut ehlo = longest(&limits, usize::MAX);
        for line in ehlo.split_mut(|&octet| octet == b'\n').skip(1) {
            let end = line.len().saturating_sub(1);
            if end > 9 {
                line[4..9].copy_from_slice(b"AUTH ");
                line[9..end].fill(0x01);
            }
        }
        let mut trial = Trial::new("mechanisms that nobody can print", config);
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if said.starts_with(b"EHLO") => line.say(&ehlo),
            _ => oblige(heard, b"", line),
        });
        assert!(trial.line.engine.is_closed());
        rows.push(trial.row());
    }
    rows
}

/// Replies to many recipients. `many` is their number with the shortest replies.
fn recipients(limits: Limits, many: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let few = count(&limits, 32 << 20);
    let to = to as fn(usize) -> Envelope;
    for (code, recipients, to) in [
        (550, many, to),
        (250, many, to),
        (550, few, to_longest),
        (250, few, to_longest),
    ] {
        let name = format!("{recipients} x RCPT answered {code} at length");
        let mut trial = Trial::new(&name, config(limits));
        trial.submit(|| to(recipients));
        trial.run(&mut rcpt_answered(code, PIPELINING));
        rows.push(trial.row());
    }
    for (name, code, prdr) in [
        ("LMTP, each 250 after the body", 250, false),
        ("LMTP, each 550 after the body", 550, false),
        ("PRDR, each 250 after the body", 250, true),
    ] {
        let mut config = config(limits);
        if !prdr {
            config.protocol = Protocol::Lmtp;
        }
        let mut trial = Trial::new(name, config);
        trial.submit(|| to_longest(few).parameter(MailParameter::per_recipient_replies()));
        trial.run(&mut each_answered(code, few, prdr));
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new("RCPTMAX=1", config(limits));
        trial.submit(|| to(few).reopenable(true));
        let ehlo = b"250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1\r\n";
        trial.run(&mut |heard, line| match heard {
            Heard::EndOfData => line.say_longest(250),
            _ => oblige(heard, ehlo, line),
        });
        rows.push(trial.row());
    }
    {
        let mut config = config(limits);
        config.learn_limits = true;
        let mut trial = Trial::new("452 to all but one, again and again", config);
        trial.submit(|| to_longest(few).reopenable(true));
        let (mut asked, mut transactions) = (0, 0);
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if said.starts_with(b"MAIL") => {
                asked = 0;
                transactions += 1;
                line.say_longest(250);
            }
            Heard::Line(said) if said.starts_with(b"RCPT") => {
                asked += 1;
                line.say_longest(if asked == 1 { 250 } else { 452 });
            }
            _ => oblige(heard, PIPELINING, line),
        });
        assert_eq!(transactions, few);
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new("domains that become A-labels", config(limits));
        let domain = "\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}.".repeat(12);
        trial.submit(|| {
            let to = (0..few).map(|n| format!("{n}@{domain}net"));
            Envelope::new(SENDER, to).unwrap()
        });
        trial.run(&mut rcpt_answered(550, PIPELINING));
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new("RCPTDOMAINMAX, a domain for each recipient", config(limits));
        let ehlo = b"250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTDOMAINMAX=1024\r\n";
        for (from, all_or_nothing) in [(0, false), (1, true)] {
            trial.submit(|| {
                let filler = "d23456789.".repeat(24);
                let to = (from..1_023).map(|n| format!("{n}@{n:08}.{filler}net"));
                Envelope::new(SENDER, to)
                    .unwrap()
                    .all_or_nothing(all_or_nothing)
            });
        }
        trial.domains = true;
        trial.run(&mut |heard, line| oblige(heard, ehlo, line));
        rows.push(trial.row());
    }
    rows
}

/// A full queue.
fn queue(limits: Limits) -> Vec<Row> {
    let mut rows = Vec::new();
    // Enough replies that a report is full.
    let many = limits.report / limits.reply_kept.max(1) + 8;
    {
        let mut trial = Trial::new("requests answered at length, nobody polls", config(limits));
        for round in 0..3 {
            while trial.request(|| Request::verify(&"x".repeat(500)).unwrap()) {}
            assert_eq!(
                (round, trial.line.engine.request(Request::noop()).is_err()),
                (round, true)
            );
            trial.run(&mut |heard, line| match heard {
                Heard::Line(said) if said.starts_with(b"VRFY") => line.say_longest(252),
                _ => oblige(heard, PIPELINING, line),
            });
        }
        let row = trial.row();
        // Later all is polled, and long replies leave nothing in an idle session.
        trial.polls = true;
        trial.run(&mut |_, _| {});
        assert!(trial.line.engine.is_idle());
        assert_eq!(trial.heap(), 32 + row.0.len(), "what the server offers");
        rows.push(row);
    }
    for (name, ehlo, overlap, chunking) in [
        (
            "reports as long as can be, nobody polls",
            PIPELINING,
            false,
            Chunking::Auto,
        ),
        ("the same, overlapping", PIPELINING, true, Chunking::Auto),
        ("the same, by eager chunks", CHUNKING, true, Chunking::Eager),
    ] {
        let mut config = config(limits);
        (config.overlap, config.chunking) = (overlap, chunking);
        let mut trial = Trial::new(name, config);
        for _ in 0..3 {
            while trial.submit(|| to_longest(many)) {}
            let mut asked = 0;
            trial.run(&mut |heard, line| match heard {
                Heard::Line(said) if said.starts_with(b"RCPT") => {
                    asked += 1;
                    let accepts = overlap && asked % many == 1;
                    line.say_longest(if accepts { 250 } else { 550 });
                }
                Heard::EndOfData | Heard::Chunk => line.say_longest(250),
                _ => oblige(heard, ehlo, line),
            });
        }
        rows.push(trial.row());
    }
    for (name, code) in [
        ("421 to a full queue", 421),
        ("354 to RCPT, and a full queue", 354),
    ] {
        let mut trial = Trial::new(name, config(limits));
        while trial.submit(|| to_longest(many)) {}
        trial.run(&mut rcpt_answered(code, PIPELINING));
        assert!(trial.line.engine.is_closed());
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new(
            "221 to the dot, and 421 then, and a full queue",
            config(limits),
        );
        while trial.submit(|| to_longest(many)) {}
        trial.run(&mut |heard, line| match heard {
            Heard::EndOfData => [221, 421]
                .into_iter()
                .for_each(|code| line.say_longest(code)),
            _ => oblige(heard, PIPELINING, line),
        });
        assert!(trial.line.engine.is_closed());
        rows.push(trial.row());
    }
    {
        let mut config = config(limits);
        (config.trace, config.protocol) = (true, Protocol::Lmtp);
        let mut trial = Trial::new("traces of long replies, nobody polls", config);
        let recipients = 2 * limits.traces + 10;
        trial.submit(|| to(recipients));
        trial.run(&mut each_answered(250, recipients, false));
        rows.push(trial.row());
    }
    {
        let mut trial = Trial::new("parameters as long as can be", config(limits));
        let octets = limits.in_flight.max(4_096) - 2_000;
        let raw = |octets: usize| "v".repeat(octets);
        while trial.submit(|| {
            let mail = MailParameter::raw("X-M", Some(&raw(octets))).unwrap();
            let rcpt = RcptParameter::raw("X-R", Some(&raw(octets))).unwrap();
            to_longest(many).parameter(mail).recipient_parameter(rcpt)
        }) {}
        trial.run(&mut rcpt_answered(
            550,
            b"250-mx\r\n250-PIPELINING\r\n250-X-M\r\n250 X-R\r\n",
        ));
        rows.push(trial.row());
    }
    rows
}

/// Unanswered output, and bodies.
fn transport(limits: Limits) -> Vec<Row> {
    let mut rows = Vec::new();
    {
        let mut trial = Trial::new("short commands up to the limit in flight", config(limits));
        trial.take = 1;
        trial.submit(|| to(limits.in_flight / 8 + 1));
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if !said.starts_with(b"EHLO") => {}
            _ => oblige(heard, PIPELINING, line),
        });
        rows.push(trial.row());
    }
    for take in [1, usize::MAX] {
        let mut config = config(limits);
        (config.overlap, config.chunking, config.chunk_size) = (true, Chunking::Eager, 1);
        let mut trial = Trial::new("overlapping chunks of one octet, no answer", config);
        trial.take = take;
        while trial.submit(|| Envelope::new("", ["a@b"]).unwrap()) {}
        trial.run(&mut |heard, line| match heard {
            Heard::Line(said) if !said.starts_with(b"EHLO") => {}
            Heard::Chunk => {}
            _ => oblige(heard, CHUNKING, line),
        });
        rows.push(trial.row());
    }
    {
        let dots: &[u8] = b".\n..\r\n\r".repeat(2_000).leak();
        let mut trial = Trial::new("dots, an octet at a time", config(limits));
        (trial.take, trial.line.cut) = (1, 1);
        (trial.body, trial.rest) = (dots, dots);
        trial.submit(|| to(1));
        trial.run(&mut |heard, line| oblige(heard, PIPELINING, line));
        rows.push(trial.row());
    }
    rows
}

/// An idle session, after opening and after a message: the figure of the README.
fn idle() {
    let mut trial = Trial::new("idle", config(Limits::default()));
    trial.polls = true;
    trial.run(&mut |heard, line| oblige(heard, PIPELINING, line));
    let open = trial.heap();
    trial.line.peak = 0;
    trial.submit(|| to(5));
    trial.run(&mut |heard, line| oblige(heard, PIPELINING, line));
    assert!(trial.line.engine.is_idle());
    assert_eq!(trial.heap(), open);
    let octets = size_of::<Connection>() + open;
    println!("an idle session: {octets} octets, with its heap of {open}");
    println!(
        "a message to 5 recipients: {} octets of heap",
        trial.line.peak
    );
    assert!(octets <= 752, "{octets}");
}

/// It runs without the test harness, which has a thread that allocates too.
fn main() {
    idle();
    let mut too_much = Vec::new();
    println!("{:60} {:>12} {:>12}", "case", "peak", "bound");
    let limits = [
        ("default", Limits::default()),
        ("small", small()),
        ("large", large()),
    ];
    for (which, limits) in limits {
        let many = if which == "default" { 100_000 } else { 1_000 };
        let opening = opening(limits).into_iter().chain(authentication(limits));
        let messages = recipients(limits, many).into_iter().chain(queue(limits));
        for Row(case, peak, bound) in opening.chain(messages).chain(transport(limits)) {
            let case = format!("{which}: {case}");
            println!("{case:60} {peak:12} {bound:12}");
            if peak > bound {
                too_much.push(case);
            }
        }
    }
    assert!(too_much.is_empty(), "{too_much:#?}");
}
