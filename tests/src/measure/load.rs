//! Loads of mail for the benchmarks, and ways to deliver them: by the engine alone, by the blocking adapter, and by
//! the tokio adapter.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use smtp_proto::{
    BodyPart, Chunking, ClientName, Config, Connection, Envelope, Event, Report, TlsPolicy,
};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::servers::fast::{Dialogue, Options};

/// The sender of every message.
pub const SENDER: &str = "sender@example.org";

/// The recipient with this number.
pub fn recipient(number: usize) -> String {
    format!("recipient{number}@example.net")
}

/// An envelope to this many recipients.
pub fn envelope(recipients: usize) -> Envelope {
    Envelope::new(SENDER, (0..recipients).map(recipient)).expect("these are addresses")
}

/// A message of about this many octets: lines of 76 columns that end in CRLF. No line begins with a dot, so the wire
/// adds only [`END`].
pub fn body(octets: usize) -> Vec<u8> {
    let mut body = b"Subject: load\r\n\r\n".to_vec();
    let alphabet: Vec<u8> = (b'a'..=b'z')
        .chain(b'A'..=b'Z')
        .chain(b'0'..=b'9')
        .chain(*b" ,.")
        .collect();
    let mut letters = alphabet.iter().cycle();
    while body.len() < octets {
        body.push(b'>');
        body.extend(letters.by_ref().take(75));
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// The end of such a message on the wire.
pub const END: &[u8] = b".\r\n";

/// How messages share sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// A session for each message, with QUIT at its end.
    Single,
    /// All in one session.
    Bulk,
    /// All in one session, each envelope after the end of the message before it.
    Overlap,
    /// All in one session, by BDAT instead of DATA.
    Chunks,
    /// The same, each body in one batch with its envelope.
    Eager,
    /// The same, with each envelope after the message before it.
    EagerOverlap,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Single,
        Self::Bulk,
        Self::Overlap,
        Self::Chunks,
        Self::Eager,
        Self::EagerOverlap,
    ];

    fn overlaps(self) -> bool {
        matches!(self, Self::Overlap | Self::EagerOverlap)
    }

    fn chunking(self) -> Chunking {
        match self {
            Self::Single | Self::Bulk | Self::Overlap => Chunking::Never,
            Self::Chunks => Chunking::Always,
            Self::Eager | Self::EagerOverlap => Chunking::Eager,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Single => "single",
            Self::Bulk => "bulk",
            Self::Overlap => "overlap",
            Self::Chunks => "chunks",
            Self::Eager => "eager",
            Self::EagerOverlap => "eager+o.",
        })
    }
}

/// The same message, sent this many times.
#[derive(Debug)]
pub struct Load {
    /// One for each message, made in advance.
    pub envelopes: Vec<Envelope>,
    /// The body of each.
    pub body: Vec<u8>,
    /// How they share sessions.
    pub way: Way,
}

impl Load {
    /// `messages` of about `octets`, to this many recipients.
    pub fn new(messages: usize, recipients: usize, octets: usize, way: Way) -> Self {
        Self {
            envelopes: vec![envelope(recipients); messages],
            body: body(octets),
            way,
        }
    }
}

/// Called for each report. It panics if the message was not delivered.
fn delivered(report: &Report) {
    assert!(report.is_success(), "{:?}", report.recipients);
}

/// Delivers by the blocking adapter. Calls `on_report` for each report, and returns the number of round trips.
///
/// # Panics
/// A message was not delivered.
pub fn by_blocking(server: &str, load: Load, mut on_report: impl FnMut()) -> u64 {
    let Load {
        envelopes,
        body,
        way,
    } = load;
    let server = smtp_blocking::Server::new(server)
        .tls(TlsPolicy::Never)
        .overlap(way.overlaps())
        .chunking(way.chunking());
    let connect = || smtp_blocking::Session::connect(&server).expect("a session");
    if way == Way::Single {
        let deliver = |envelope| {
            let mut session = connect();
            delivered(&session.send_last(envelope, &body[..]).expect("a report"));
            on_report();
            session.round_trips()
        };
        return envelopes.into_iter().map(deliver).sum();
    }
    let mut session = connect();
    let messages = envelopes
        .into_iter()
        .map(|envelope| smtp_blocking::Message::new(envelope, || Ok(&body[..])));
    for report in session.send_all(messages).and_quit() {
        delivered(&report);
        on_report();
    }
    session.round_trips()
}

/// Delivers by the tokio adapter, in a runtime of one thread, otherwise like [`by_blocking`].
///
/// # Panics
/// A message was not delivered.
pub fn by_tokio(server: &str, load: Load, mut on_report: impl FnMut()) -> u64 {
    let Load {
        envelopes,
        body,
        way,
    } = load;
    let server = smtp_tokio::Server::new(server)
        .tls(TlsPolicy::Never)
        .overlap(way.overlaps())
        .chunking(way.chunking());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        if way == Way::Single {
            let mut round_trips = 0;
            for envelope in envelopes {
                let mut session = smtp_tokio::Session::connect(&server)
                    .await
                    .expect("a session");
                delivered(
                    &session
                        .send_last(envelope, &body[..])
                        .await
                        .expect("a report"),
                );
                on_report();
                round_trips += session.round_trips();
            }
            return round_trips;
        }
        let mut session = smtp_tokio::Session::connect(&server)
            .await
            .expect("a session");
        let body = &body[..];
        let messages = envelopes
            .into_iter()
            .map(|envelope| smtp_tokio::Message::new(envelope, move || async move { Ok(body) }));
        let mut reports = session.send_all(smtp_tokio::iter(messages)).and_quit();
        while let Some(report) = reports.next().await {
            delivered(&report);
            on_report();
        }
        drop(reports);
        session.round_trips()
    })
}

/// Delivers by the engine alone, to a peer in memory, otherwise like [`by_blocking`].
///
/// # Panics
/// A message was not delivered, or the engine counts its round trips wrong.
pub fn by_engine(load: Load, mut on_report: impl FnMut()) -> u64 {
    let Load {
        envelopes,
        body,
        way,
    } = load;
    let mut config = Config::new(ClientName::parse("client.example").expect("this is a name"));
    config.tls = TlsPolicy::Never;
    config.overlap = way.overlaps();
    config.chunking = way.chunking();
    let config = Arc::new(config);
    match way {
        Way::Single => {
            let single =
                |envelope| in_memory(config.clone(), vec![envelope], &body, &mut on_report);
            envelopes.into_iter().map(single).sum()
        }
        _ => in_memory(config, envelopes, &body, &mut on_report),
    }
}

fn in_memory(
    config: Arc<Config>,
    messages: Vec<Envelope>,
    body: &[u8],
    on_report: &mut dyn FnMut(),
) -> u64 {
    let window = if config.overlap && config.chunking == Chunking::Eager {
        16
    } else {
        2
    };
    let now = smtp_proto::Instant::default();
    let mut engine = Connection::new(config, now);
    let mut peer = Dialogue::new(Options {
        chunking: true,
        keep: false,
        ..Options::default()
    });
    let (mut messages, mut submitted) = (messages.into_iter(), 0);
    let (mut wire, mut replies) = (Vec::new(), Vec::new());
    let (mut round_trips, mut events) = (0, VecDeque::new());
    peer.greet(&mut replies);
    loop {
        // All replies to one batch are one round trip. The reply to QUIT is not waited for.
        if !replies.is_empty() && !engine.is_closed() {
            round_trips += 1;
            engine.handle_input(now, &replies);
            replies.clear();
        }
        take_events(&mut engine, &mut events);
        while let Some(event) = events.pop_front() {
            match event {
                Event::Finished(_, report) => {
                    delivered(&report);
                    on_report();
                    submitted -= 1;
                }
                Event::Closed(result) => {
                    result.expect("the session ends well");
                    assert_eq!(round_trips, engine.round_trips());
                    return round_trips;
                }
                _ => {}
            }
        }
        while submitted < window
            && let Some(envelope) = messages.next()
        {
            engine.submit(envelope).expect("a place");
            submitted += 1;
        }
        if messages.as_slice().is_empty() {
            let _ = engine.quit();
        }
        transmit(&mut engine, now, &[], &mut wire);
        take_events(&mut engine, &mut events);
        while engine.wants_body() {
            transmit(&mut engine, now, body, &mut wire);
            engine.finish_body().expect("the body is wanted");
            transmit(&mut engine, now, &[], &mut wire);
            // The next body is wanted after its event was polled.
            take_events(&mut engine, &mut events);
        }
        peer.take(&wire, &mut replies);
        wire.clear();
    }
}

fn take_events(engine: &mut Connection, events: &mut VecDeque<Event>) {
    events.extend(std::iter::from_fn(|| engine.poll_event()));
}

/// Takes the engine's octets, and as much of `body` as it wants.
fn transmit(
    engine: &mut Connection,
    now: smtp_proto::Instant,
    mut body: &[u8],
    wire: &mut Vec<u8>,
) {
    while let Some(transmit) = engine.poll_transmit(now, BodyPart::Last(body)) {
        let before = wire.len();
        for part in transmit.parts() {
            wire.extend_from_slice(part);
        }
        body = &body[transmit.advance(wire.len() - before)..];
    }
}

/// The result of many sessions at the same time. A probe is a measurement of the caller's.
#[derive(Debug)]
pub struct Sessions<P> {
    /// Three probes: before the first session, with all open, and with all messages delivered and all still open.
    pub probes: [P; 3],
    /// The time to open them all.
    pub opening: Duration,
    /// The time to deliver all messages.
    pub delivery: Duration,
}

/// Connections that are opened at the same time. More would overflow the queue of a listener.
const OPENING: usize = 512;

/// Opens this many sessions in one runtime. When all are open, it delivers this many messages in each.
///
/// # Errors
/// The first failure.
pub fn many_sessions<P>(
    server: &str,
    sessions: usize,
    messages: usize,
    octets: usize,
    probe: impl Fn() -> P,
) -> Result<Sessions<P>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let (step, mut steps) = mpsc::channel::<Result<(), String>>(1024);
    let (go, started) = watch::channel(0);
    let client = Arc::new(Client {
        server: smtp_tokio::Server::new(server).tls(TlsPolicy::Never),
        opening: Semaphore::new(OPENING),
        envelope: envelope(1),
        body: body(octets),
        messages,
    });
    runtime
        .map_err(|error| error.to_string())?
        .block_on(async move {
            let before = probe();
            let start = Instant::now();
            for _ in 0..sessions {
                let (client, step, started) = (client.clone(), step.clone(), started.clone());
                tokio::spawn(async move {
                    if let Err(error) = client.run(&step, started).await {
                        let _ = step.send(Err(error)).await;
                    }
                });
            }
            let mut all = async || -> Result<(), String> {
                for _ in 0..sessions {
                    steps
                        .recv()
                        .await
                        .unwrap_or_else(|| Err("there are no sessions".into()))?;
                }
                Ok(())
            };
            all().await?;
            let (opening, open) = (start.elapsed(), probe());
            let start = Instant::now();
            let _ = go.send(1);
            all().await?;
            let (delivery, done) = (start.elapsed(), probe());
            let _ = go.send(2);
            all().await?;
            Ok(Sessions {
                probes: [before, open, done],
                opening,
                delivery,
            })
        })
}

struct Client {
    server: smtp_tokio::Server,
    opening: Semaphore,
    envelope: Envelope,
    body: Vec<u8>,
    messages: usize,
}

impl Client {
    /// One session: it opens, reports that, and waits for all. Then it sends its messages, reports that, and waits
    /// again.
    async fn run(
        &self,
        step: &mpsc::Sender<Result<(), String>>,
        mut go: watch::Receiver<u32>,
    ) -> Result<(), String> {
        let permit = self
            .opening
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        // Boxes are gone afterwards, so that only the session is measured.
        let mut session = Box::pin(smtp_tokio::Session::connect(&self.server))
            .await
            .map_err(|error| error.to_string())?;
        drop(permit);
        let _ = step.send(Ok(())).await;
        let _ = go.wait_for(|&go| go >= 1).await;
        Box::pin(self.deliver(&mut session)).await?;
        let _ = step.send(Ok(())).await;
        let _ = go.wait_for(|&go| go >= 2).await;
        session.quit().await;
        let _ = step.send(Ok(())).await;
        Ok(())
    }

    async fn deliver(&self, session: &mut smtp_tokio::Session) -> Result<(), String> {
        let envelopes = std::iter::repeat_n(self.envelope.clone(), self.messages);
        let messages = envelopes.map(|envelope| {
            smtp_tokio::Message::new(envelope, || async { Ok(self.body.as_slice()) })
        });
        let mut reports = session.send_all(smtp_tokio::iter(messages));
        let mut delivered = 0;
        while let Some(report) = reports.next().await {
            if !report.is_success() {
                return Err(format!("{:?}", report.recipients));
            }
            delivered += 1;
        }
        match delivered == self.messages {
            true => Ok(()),
            false => Err(format!("{delivered} reports of {}", self.messages)),
        }
    }
}

/// The processor time of the calling thread, which must be the first of its process, from Linux's `/proc`. Waiting
/// does not count. `None` on other systems.
pub fn processor_time() -> Option<Duration> {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    schedstat
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
        .map(Duration::from_nanos)
}

/// The resident memory of a process in octets, from Linux's `/proc`. `None` on other systems.
pub fn resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(
        line.trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            * 1024,
    )
}
