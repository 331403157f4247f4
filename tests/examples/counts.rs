//! Counts the cost of a delivery: round trips, heap allocations, octets of memory. It also measures the adapters
//! beside a hand-written loop. `cargo bench -p smtp-tests` has the speed of the parts.
//!
//! ```console
//! $ cargo run --release -p smtp-tests --example counts                  # round trips, allocations, sizes
//! $ cargo run --release -p smtp-tests --example counts -- --delay-ms 20 # against a server 20 ms away
//! $ cargo run --release -p smtp-tests --example counts -- --floor       # beside calls of write and read
//! $ cargo run --release -p smtp-tests --example counts -- --sessions 10000
//! ```
//!
//! `--run` makes one delivery without output, for tools that count from outside. The peer is another process, so
//! those tools only see the client. (callgrind counts a copy by `rep movsb` as one instruction for each octet, unlike
//! any processor. The tunable turns that copy off.)
//!
//! ```console
//! $ cargo build --release -p smtp-tests --example counts
//! $ strace -c target/release/examples/counts --run blocking --messages 1000
//! $ export GLIBC_TUNABLES=glibc.cpu.x86_rep_movsb_threshold=100000000
//! $ valgrind --tool=callgrind target/release/examples/counts --run blocking --messages 1000
//! ```

use std::alloc::System;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use smtp_proto::TlsPolicy;
use smtp_tests::measure::floor::Floor;
use smtp_tests::measure::load::{self, Load, Way};
use smtp_tests::servers::fast::{PeerProcess, Serving};
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts the cost of a delivery.
#[derive(Parser)]
struct Options {
    /// Deliver to a server that answers this many milliseconds late, and measure the time.
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// Measure both adapters beside calls of write and read.
    #[arg(long)]
    floor: bool,
    /// Open this many sessions at the same time, and deliver 10 messages in each.
    #[arg(long, value_name = "N")]
    sessions: Option<u64>,
    /// Deliver once, and print nothing.
    #[arg(long)]
    run: Option<Face>,
    /// How messages share sessions, with --run.
    #[arg(long, value_enum, default_value = "bulk")]
    way: Way,
    /// Messages, with --run, --delay-ms and --floor.
    #[arg(long, default_value_t = 1_000)]
    messages: usize,
    /// Recipients, the same.
    #[arg(long, default_value_t = 5)]
    recipients: usize,
    /// Octets of a message, the same.
    #[arg(long, default_value_t = 10 * 1024)]
    octets: usize,
}

/// The code that delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Face {
    Engine,
    Blocking,
    Tokio,
    Floor,
}

const FACES: [Face; 3] = [Face::Engine, Face::Blocking, Face::Tokio];

fn main() -> ExitCode {
    PeerProcess::serve_if_asked();
    let options = Options::parse();
    match (options.run, options.delay_ms, options.sessions) {
        (Some(face), _, _) => {
            deliver(
                face,
                &peer(Duration::ZERO),
                options.load(options.way),
                || (),
            );
        }
        (_, Some(delay), _) => options.at_a_distance(Duration::from_millis(delay)),
        (_, _, Some(sessions)) => many_sessions(sessions),
        _ if options.floor => return options.beside_the_floor(),
        _ => {
            sizes();
            allocations();
            round_trips();
        }
    }
    ExitCode::SUCCESS
}

impl Options {
    fn load(&self, way: Way) -> Load {
        Load::new(self.messages, self.recipients, self.octets, way)
    }

    fn at_a_distance(&self, delay: Duration) {
        let peer = peer(delay);
        println!(
            "{} messages of {} octets to {} recipients, one session, a server {delay:?} away",
            self.messages, self.octets, self.recipients
        );
        println!(
            "{:10} {:8} {:>22} {:>10} {:>17}",
            "", "", "round trips / message", "seconds", "seconds / delay"
        );
        for way in &Way::ALL[1..] {
            let way = *way;
            for face in [Face::Floor, Face::Blocking, Face::Tokio] {
                // The floor only implements DATA.
                if face == Face::Floor && !matches!(way, Way::Bulk | Way::Overlap) {
                    continue;
                }
                let start = Instant::now();
                let round_trips = deliver(face, &peer, self.load(way), || ());
                let seconds = start.elapsed().as_secs_f64();
                let each = round_trips as f64 / self.messages as f64;
                let by_clock = seconds / delay.as_secs_f64() / self.messages as f64;
                println!(
                    "{:10} {way:8} {each:22.3} {seconds:10.2} {by_clock:17.3}",
                    format!("{face:?}")
                );
            }
        }
        println!("Round trips count the greeting and EHLO; seconds / delay is for each message.");
    }

    fn beside_the_floor(&self) -> ExitCode {
        const RUNS: usize = 21;
        const FACES: [Face; 3] = [Face::Floor, Face::Blocking, Face::Tokio];
        let peer = peer(Duration::ZERO);
        println!(
            "{} messages of {} octets to {} recipients, one session, no delay: {RUNS} interleaved runs",
            self.messages, self.octets, self.recipients
        );
        println!(
            "{:28} {:^29}   {:^29}",
            "", "elapsed", "on a processor, client alone"
        );
        print!("{:19}", "");
        for _ in 0..2 {
            print!(
                " {:>9} {:>11} {:>10}",
                "median ms", "us/message", "of floor's"
            );
        }
        println!();
        let mut within = true;
        for way in [Way::Bulk, Way::Overlap] {
            let mut times = FACES.map(|_| [Vec::new(), Vec::new()]);
            for _ in 0..RUNS {
                for (face, [elapsed, processor]) in FACES.into_iter().zip(&mut times) {
                    let load = self.load(way);
                    let (start, before) = (Instant::now(), load::processor_time());
                    deliver(face, &peer, load, || ());
                    elapsed.push(start.elapsed());
                    let ran = load::processor_time()
                        .zip(before)
                        .map(|(after, before)| after - before);
                    processor.push(ran.unwrap_or_default());
                }
            }
            let medians = times.map(|times| {
                times.map(|mut times| {
                    times.sort();
                    times[RUNS / 2].as_secs_f64() * 1e3
                })
            });
            for (face, ms) in FACES.into_iter().zip(medians) {
                print!("{:10} {way:8}", format!("{face:?}"));
                for (ms, floor) in ms.into_iter().zip(medians[0]) {
                    print!(
                        " {ms:9.2} {:11.2} {:10.2}",
                        ms * 1e3 / self.messages as f64,
                        ms / floor
                    );
                }
                println!();
                within &= ms[0] <= 2.0 * medians[0][0];
            }
        }
        println!(
            "The peer takes part in what is elapsed; `taskset -c 0` keeps the waking of a second processor out of it."
        );
        match within {
            true => ExitCode::SUCCESS,
            false => {
                println!("MORE THAN TWICE THE TIME OF THE FLOOR");
                ExitCode::FAILURE
            }
        }
    }
}

fn peer(delay: Duration) -> PeerProcess {
    PeerProcess::start(&[], delay, Serving::Threads).expect("a process for the peer")
}

/// Delivers, and returns the number of round trips.
fn deliver(face: Face, peer: &PeerProcess, load: Load, on_report: impl FnMut()) -> u64 {
    match face {
        Face::Engine => load::by_engine(load, on_report),
        Face::Blocking => load::by_blocking(peer.server(), load, on_report),
        Face::Tokio => load::by_tokio(peer.server(), load, on_report),
        Face::Floor => {
            let (messages, recipients) = (
                load.envelopes.len(),
                load.envelopes
                    .first()
                    .map_or(1, |one| one.forward_paths().len()),
            );
            let body = [&load.body, load::END].concat();
            let mut floor = Floor::connect(peer.server()).expect("a session");
            match load.way {
                Way::Overlap => floor.deliver_overlapping(messages, recipients, &body),
                _ => floor.deliver(messages, recipients, &body),
            }
            .expect("a delivery");
            // The greeting, EHLO, and the writes above.
            2 + match load.way {
                Way::Overlap => 1 + messages as u64,
                _ => 2 * messages as u64,
            }
        }
    }
}

fn round_trips() {
    println!("\nround trips for each message, the greeting and EHLO of its session included");
    println!("(single: a session for each; else 50 messages, or 10 of 1 MB, in one session)\n");
    print!("{:>10} {:>9} {:10}", "recipients", "octets", "");
    for way in Way::ALL {
        print!(" {way:>8}");
    }
    println!();
    let peer = peer(Duration::ZERO);
    for recipients in [1, 5, 50] {
        for octets in [1_000, 10_000, 1_000_000] {
            for face in FACES {
                print!("{recipients:>10} {octets:>9} {:10}", format!("{face:?}"));
                for way in Way::ALL {
                    let messages = if octets > 100_000 { 10 } else { 50 };
                    let load = Load::new(messages, recipients, octets, way);
                    let round_trips = deliver(face, &peer, load, || ());
                    print!(" {:8.2}", round_trips as f64 / messages as f64);
                }
                println!();
            }
        }
    }
}

fn allocations() {
    const MESSAGES: usize = 1_100;
    const WARM: usize = 100;
    println!("\nheap allocations for each message of 10 KiB to 5 recipients, steady state");
    println!("(allocated and reallocated; the envelope was made before)\n");
    println!(
        "{:10} {:8} {:>12} {:>12} {:>10}",
        "", "", "allocations", "enlargements", "octets"
    );
    let peer = peer(Duration::ZERO);
    for face in FACES {
        for &way in &Way::ALL[1..] {
            let (mut reports, mut warm, mut end) = (0, Stats::default(), Stats::default());
            deliver(face, &peer, Load::new(MESSAGES, 5, 10 * 1024, way), || {
                reports += 1;
                match reports {
                    WARM => warm = ALLOCATOR.stats(),
                    MESSAGES => end = ALLOCATOR.stats(),
                    _ => {}
                }
            });
            let each =
                |after: usize, before: usize| (after - before) as f64 / (MESSAGES - WARM) as f64;
            println!(
                "{:10} {way:8} {:12.2} {:12.2} {:10.0}",
                format!("{face:?}"),
                each(end.allocations, warm.allocations),
                each(end.reallocations, warm.reallocations),
                each(end.bytes_allocated, warm.bytes_allocated),
            );
        }
    }
    let before = ALLOCATOR.stats();
    let envelope = load::envelope(5);
    let after = ALLOCATOR.stats();
    drop(envelope);
    // Each address is text first. That allocation is not the envelope's.
    println!(
        "{:19} {:12.2} {:12.2}",
        "making an envelope",
        (after.allocations - before.allocations - 5) as f64,
        (after.reallocations - before.reallocations) as f64,
    );
}

fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated)
}

fn sizes() {
    macro_rules! print_sizes {
        ($($type:ty),* $(,)?) => {
            $(println!("{:>6}  {}", size_of::<$type>(), stringify!($type));)*
        };
    }
    println!("octets of types\n");
    print_sizes!(
        smtp_proto::Connection,
        smtp_proto::Config,
        smtp_proto::Envelope,
        smtp_proto::Mailbox,
        smtp_proto::Reply,
        smtp_proto::Report,
        smtp_proto::Error,
        smtp_proto::Cause,
        smtp_proto::Event,
        smtp_blocking::Session,
        smtp_tokio::Session,
    );
    println!(
        "\noctets of an idle session: the type, and its heap when open and after 10 messages of 10 KiB\n"
    );
    println!(
        "{:10} {:>6} {:>10} {:>18} {:>12}",
        "", "type", "heap, open", "heap, 10 messages", "type + heap"
    );
    let line = |face: &str, size: usize, open: usize, used: usize| {
        println!("{face:10} {size:6} {open:10} {used:18} {:12}", size + used);
    };
    let body = load::body(10 * 1024);
    let peer = peer(Duration::ZERO);
    {
        let (open, used) = idle_engine(&body);
        line("Engine", size_of::<smtp_proto::Connection>(), open, used);
    }
    {
        let server = smtp_blocking::Server::new(peer.server()).tls(TlsPolicy::Never);
        let before = heap();
        let mut session = smtp_blocking::Session::connect(&server).expect("a session");
        let open = heap() - before;
        for _ in 0..10 {
            drop(
                session
                    .send(load::envelope(5), &body[..])
                    .expect("a report"),
            );
        }
        line("Blocking", size_of_val(&session), open, heap() - before);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let server = smtp_tokio::Server::new(peer.server()).tls(TlsPolicy::Never);
        // The first session of a runtime is not typical.
        drop(smtp_tokio::Session::connect(&server).await);
        let before = heap();
        let mut session = smtp_tokio::Session::connect(&server)
            .await
            .expect("a session");
        let open = heap() - before;
        for _ in 0..10 {
            drop(
                session
                    .send(load::envelope(5), &body[..])
                    .await
                    .expect("a report"),
            );
        }
        line("Tokio", size_of_val(&session), open, heap() - before);
    });
    println!("The tokio session shares its runtime's timers and the registration of its socket.");
}

/// The heap of an engine alone: after the session is open, and after 10 messages.
fn idle_engine(body: &[u8]) -> (usize, usize) {
    use smtp_proto::{ClientName, Config, Connection, Instant};
    let now = Instant::default();
    let mut config = Config::new(ClientName::parse("client.example").expect("this is a name"));
    config.tls = TlsPolicy::Never;
    let config = std::sync::Arc::new(config);
    let transmit = |engine: &mut Connection, body: &[u8]| {
        let mut rest = body;
        while let Some(transmit) = engine.poll_transmit(now, rest) {
            rest = &rest[transmit.advance(usize::MAX)..];
        }
    };
    let before = heap();
    let mut engine = Connection::new(config, now);
    let say = |engine: &mut Connection, reply: &[u8]| {
        engine.handle_input(now, reply);
        while let Some(event) = engine.poll_event() {
            drop(event);
        }
    };
    say(&mut engine, b"220 peer\r\n");
    transmit(&mut engine, &[]);
    say(
        &mut engine,
        b"250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n",
    );
    let open = heap() - before;
    for _ in 0..10 {
        engine.submit(load::envelope(5)).expect("a place");
        transmit(&mut engine, &[]);
        for _ in 0..6 {
            say(&mut engine, b"250 2.1.0 Ok\r\n");
        }
        say(&mut engine, b"354 go on\r\n");
        transmit(&mut engine, body);
        engine.finish_body().expect("the body is wanted");
        transmit(&mut engine, &[]);
        say(&mut engine, b"250 2.0.0 Ok: queued\r\n");
    }
    assert!(engine.is_idle());
    (open, heap() - before)
}

fn many_sessions(wanted: u64) {
    const MESSAGES: usize = 10;
    const SPARE: u64 = 200;
    let limit = rlimit::increase_nofile_limit(wanted + SPARE).expect("a limit of descriptors");
    let sessions = wanted.min(limit.saturating_sub(SPARE));
    println!("the limit of file descriptors is {limit}, for this process and for the peer's");
    if sessions < wanted {
        println!("ATTENTION: {wanted} SESSIONS WERE ASKED FOR, AND ONLY {sessions} FIT THE LIMIT");
    }
    let peer =
        PeerProcess::start(&[], Duration::ZERO, Serving::Tasks).expect("a process for the peer");
    let peer_memory = || load::resident(peer.id()).unwrap_or_default();
    let peer_before = peer_memory();
    let probe = || {
        (
            load::resident(std::process::id()).unwrap_or_default(),
            heap() as u64,
        )
    };
    let outcome = load::many_sessions(peer.server(), sessions as usize, MESSAGES, 10 * 1024, probe)
        .expect("every session works");
    let peer_each = peer_memory().saturating_sub(peer_before) / sessions;
    println!(
        "{sessions} sessions opened in {:?}, all open at the same time",
        outcome.opening
    );
    println!(
        "{} messages of 10 KiB delivered in {:?}",
        sessions * MESSAGES as u64,
        outcome.delivery
    );
    println!("octets for each session, its task included, the buffers of the kernel not:");
    let [before, open, done] = outcome.probes;
    for (when, probe) in [("all open", open), ("all delivered", done)] {
        let each = |after: u64, before: u64| after.saturating_sub(before) / sessions;
        println!(
            "  {when:14} {:6} resident, {:6} heap",
            each(probe.0, before.0),
            each(probe.1, before.1)
        );
    }
    println!("  the peer's, in its own process: {peer_each} resident");
}
