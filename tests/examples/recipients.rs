//! The cost of a message for each recipient, for growing numbers of recipients. It must stay the same in every mode.
//!
//! ```console
//! $ cargo run --release -p smtp-tests --example recipients
//! $ cargo run --release -p smtp-tests --example recipients -- LMTP 1000    # one mode, to count its instructions
//! ```
//!
//! `.ci/linear` counts instructions, which do not depend on the load of the machine.

use std::time::{Duration, Instant as Clock};

use smtp_proto::{
    ClientName, Config, Connection, Envelope, Event, Instant, Outcome, Protocol, TlsPolicy,
};

/// The way in which a server takes recipients.
#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    lmtp: bool,
    /// RCPTMAX of LIMITS.
    stated: Option<usize>,
    /// After this many, further ones are answered 452.
    learnt: Option<usize>,
    refuses: bool,
    /// Each recipient has its own domain.
    domains: bool,
    /// SMTPUTF8 is offered.
    utf8: bool,
    /// All RCPTs are one batch, and answered 251.
    batch: bool,
    /// A message for each recipient, all in the queue.
    messages: bool,
}

const PLAIN: Mode = Mode {
    name: "SMTP",
    lmtp: false,
    stated: None,
    learnt: None,
    refuses: false,
    domains: false,
    utf8: false,
    batch: false,
    messages: false,
};

const MODES: [Mode; 12] = [
    PLAIN,
    Mode {
        name: "LMTP",
        lmtp: true,
        ..PLAIN
    },
    Mode {
        name: "all refused",
        refuses: true,
        ..PLAIN
    },
    Mode {
        name: "452 after 100",
        learnt: Some(100),
        ..PLAIN
    },
    Mode {
        name: "RCPTMAX=1",
        stated: Some(1),
        ..PLAIN
    },
    Mode {
        name: "RCPTMAX=10",
        stated: Some(10),
        ..PLAIN
    },
    Mode {
        name: "RCPTMAX=100",
        stated: Some(100),
        ..PLAIN
    },
    Mode {
        name: "RCPTMAX=100 by LMTP",
        lmtp: true,
        stated: Some(100),
        ..PLAIN
    },
    Mode {
        name: "many domains",
        domains: true,
        ..PLAIN
    },
    Mode {
        name: "SMTPUTF8, RCPTMAX=1",
        utf8: true,
        stated: Some(1),
        ..PLAIN
    },
    Mode {
        name: "one batch",
        batch: true,
        ..PLAIN
    },
    Mode {
        name: "many messages",
        messages: true,
        ..PLAIN
    },
];

const COUNTS: [usize; 3] = [1_000, 10_000, 100_000];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if let (Some(name), Some(count)) = (arguments.next(), arguments.next()) {
        let mode = MODES.into_iter().find(|mode| mode.name == name);
        let count = count.parse().expect("a number of recipients");
        deliver(mode.expect("a mode of the table"), count);
        return;
    }
    println!("nanoseconds for each recipient\n");
    println!(
        "{:>20} {:>9} {:>9} {:>9} {:>7}",
        "", COUNTS[0], COUNTS[1], COUNTS[2], "ratio"
    );
    for mode in MODES {
        let each = COUNTS.map(|count| {
            // The best of several runs, because small ones are short.
            let runs = (100_000 / count).min(20);
            let best = (0..runs.max(1))
                .map(|_| deliver(mode, count))
                .min()
                .unwrap_or_default();
            best.as_nanos() as f64 / count as f64
        });
        let ratio = each[2] / each[0];
        println!(
            "{:>20} {:>9.0} {:>9.0} {:>9.0} {ratio:>7.2}",
            mode.name, each[0], each[1], each[2]
        );
    }
}

fn deliver(mode: Mode, count: usize) -> Duration {
    let mut config = Config::new(ClientName::parse("client.example.org").expect("it is a name"));
    config.tls = TlsPolicy::Never;
    config.learn_limits = mode.learnt.is_some();
    if mode.lmtp {
        config.protocol = Protocol::Lmtp;
    }
    if mode.batch {
        config.limits.in_flight = usize::MAX;
    }
    if mode.messages {
        config.limits.messages = count;
    }
    let domain = |n: usize| if mode.domains { n } else { 0 };
    let to: Vec<_> = (0..count)
        .map(|n| format!("user{n}@d{}.example.net", domain(n)))
        .collect();
    let envelopes: Vec<_> = to
        .chunks(if mode.messages { 1 } else { count })
        .map(|to| Envelope::new("a@example.org", to).expect("they are addresses"))
        .map(|envelope| envelope.reopenable(true))
        .collect();
    let start = Clock::now();
    let report = converse(mode, config, envelopes);
    let time = start.elapsed();
    let delivered = report.iter().filter(|outcome| outcome.is_none()).count();
    assert_eq!(
        delivered,
        if mode.refuses { 0 } else { count },
        "{}",
        mode.name
    );
    time
}

fn converse(mode: Mode, config: Config, envelopes: Vec<Envelope>) -> Vec<Option<Outcome>> {
    let now = Instant::default();
    let mut engine = Connection::new(config, now);
    let (mut owed, mut results) = (envelopes.len(), Vec::new());
    for envelope in envelopes {
        engine.submit(envelope).expect("there is room");
    }
    engine.handle_input(now, b"220 hi\r\n");
    let mut server = Server {
        mode,
        taken: 0,
        accepted: 0,
        in_data: false,
    };
    let (mut out, mut replies, mut partial) = (vec![0; 32 * 1024], Vec::new(), Vec::new());
    loop {
        let body: &[u8] = if engine.wants_body() {
            b"Subject: x\r\n"
        } else {
            b""
        };
        let (gathered, used) = engine.poll_transmit_into(now, body, &mut out);
        if used > 0 && used == body.len() {
            engine.finish_body().expect("the body is wanted");
        }
        engine.handle_written(now, gathered);
        partial.extend_from_slice(&out[..gathered]);
        let mut lines = partial.split_inclusive(|&octet| octet == b'\n').peekable();
        let mut rest = 0;
        while let Some(line) = lines.next_if(|line| line.ends_with(b"\n")) {
            server.hear(line, &mut replies);
            rest += line.len();
        }
        partial.drain(..rest);
        engine.handle_input(now, &replies);
        replies.clear();
        while let Some(event) = engine.poll_event() {
            if let Event::Finished(_, report) = event {
                let outcome =
                    |result: Result<_, smtp_proto::Error>| result.err().map(|error| error.outcome);
                results.extend(report.recipients.into_iter().map(outcome));
                owed -= 1;
            }
        }
        if owed == 0 {
            return results;
        }
    }
}

struct Server {
    mode: Mode,
    taken: usize,
    accepted: usize,
    in_data: bool,
}

impl Server {
    fn hear(&mut self, line: &[u8], replies: &mut Vec<u8>) {
        let limit = self.mode.learnt.or(self.mode.stated).unwrap_or(usize::MAX);
        match line {
            b".\r\n" if self.in_data => {
                self.in_data = false;
                let times = if self.mode.lmtp { self.accepted } else { 1 };
                (0..times).for_each(|_| replies.extend_from_slice(b"250 2.0.0 taken\r\n"));
                self.taken += self.accepted;
            }
            _ if self.in_data => {}
            [b'E' | b'L', ..] => {
                replies.extend_from_slice(b"250-mx\r\n");
                if let Some(stated) = self.mode.stated {
                    replies
                        .extend_from_slice(format!("250-LIMITS RCPTMAX={stated}\r\n").as_bytes());
                }
                if self.mode.utf8 {
                    replies.extend_from_slice(b"250-SMTPUTF8\r\n");
                }
                replies.extend_from_slice(b"250 PIPELINING\r\n");
            }
            [b'M', ..] => {
                self.accepted = 0;
                replies.extend_from_slice(b"250 2.1.0 ok\r\n");
            }
            [b'R', b'C', ..] if self.mode.refuses => {
                replies.extend_from_slice(b"550 5.1.1 who\r\n")
            }
            [b'R', b'C', ..] if self.accepted == limit => {
                replies.extend_from_slice(b"452 4.5.3 too many\r\n");
            }
            [b'R', b'C', ..] if self.mode.batch => {
                self.accepted += 1;
                replies.extend_from_slice(b"251 2.1.5 ok\r\n");
            }
            [b'R', b'C', ..] => {
                self.accepted += 1;
                replies.extend_from_slice(b"250 2.1.5 ok\r\n");
            }
            [b'D', ..] if self.accepted == 0 => replies.extend_from_slice(b"554 5.5.1 nobody\r\n"),
            [b'D', ..] => {
                self.in_data = true;
                replies.extend_from_slice(b"354 go\r\n");
            }
            _ => replies.extend_from_slice(b"250 2.0.0 ok\r\n"),
        }
    }
}
