//! The judge: a server that keeps its own books, against the engine's reports.
//!
//! [`conversation`] plays one random conversation in virtual time. The server reads the octets that arrive with its
//! own parser. Tags in the addresses and the body tell which message and which recipient it took, and which reply
//! confirms it. When the engine reports, the judge compares. It shares no code and no state with the engine.
//!
//! Two offsets of the client's octets decide what may be true (invariant 11 of the design).
//! *Given*: a write of them was begun, so they may arrive. *Written*: the transport has taken them.
//! Clocks run from *written*. Attribution and doubt run from *given*.
//!
//! For each recipient of each message:
//!
//! | the report | what must hold |
//! |---|---|
//! | `Ok(reply)` | the server took it, once, and this is the reply that says so |
//! | temporary, permanent | the server did not take it; a refusal is of its own transaction |
//! | not attempted | the server did not take it |
//! | in doubt | the end of data was given, and the deciding reply did not reach the engine |
//!
//! Each message has one report, in the order of `submit`. One `Closed` comes last. No body is stored changed.
//!
//! One thing is excused: a surplus reply that the engine gets after the next command was given. The same holds if a
//! server loses commands and then accepts a later one. No client can detect it.
//!
//! | file | subject |
//! |---|---|
//! | `scene.rs` | the parts of one conversation |
//! | `driver.rs`, `application.rs` | transport, network and application, in virtual time |
//! | `engine.rs` | all calls to the engine |
//! | `lexer.rs`, `server.rs`, `ending.rs`, `books.rs` | the server |
//! | `judge.rs`, `verdict.rs`, `clock.rs` | the comparison: reports, what they must say, timeouts |
//! | `batches.rs`, `worth.rs` | when commands may be sent, and what a list of capabilities is worth |

use std::collections::BTreeMap;
use std::fmt;

mod application;
mod batches;
mod books;
mod clock;
mod dice;
mod driver;
mod ending;
mod engine;
mod judge;
pub(crate) mod lexer;
mod scene;
mod server;
mod verdict;
mod worth;

use dice::Dice;
use driver::World;
use scene::{Scene, Writing};

/// The events that happened, by name, and how often.
#[derive(Clone, Debug, Default)]
pub struct Stats(BTreeMap<&'static str, u64>);

impl Stats {
    fn add(&mut self, name: &'static str, n: u64) {
        if n > 0 {
            *self.0.entry(name).or_default() += n;
        }
    }

    /// Adds those of another conversation.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, n)| self.add(name, *n));
    }

    /// How often this happened.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, n)| writeln!(f, "{n:>10}  {name}"))
    }
}

/// The violation in one conversation.
#[derive(Clone, Debug)]
struct Failure {
    kind: &'static str,
    what: String,
    cause: String,
}

impl Failure {
    fn new(kind: &'static str, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            cause: String::new(),
        }
    }
}

/// A false report, or a broken rule.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The conversation: `conversation(seed)` plays it again.
    pub seed: u64,
    /// The kind, in a few words.
    pub kind: &'static str,
    /// How the transport writes, and the cause that was reported: kinds of the same context are alike.
    pub context: String,
    /// The report, and the truth.
    pub what: String,
    /// The conversation, line by line.
    pub log: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.log)?;
        writeln!(f, "seed {}: {}: {}", self.seed, self.kind, self.what)
    }
}

impl std::error::Error for Violation {}

/// Plays the conversation of this seed.
///
/// # Errors
/// The first violation.
pub fn conversation(seed: u64) -> Result<Stats, Violation> {
    judged(seed, || Dice::new(seed))
}

/// Plays the conversation that these octets choose: whatever is random in [`conversation`] is theirs, in the order in
/// which it is asked for. Where they end, the first two of them are the seed of the rest.
///
/// # Errors
/// The first violation.
pub fn steered(octets: &[u8]) -> Result<Stats, Violation> {
    judged(0, || Dice::steered(octets))
}

fn judged(seed: u64, dice: impl Fn() -> Dice) -> Result<Stats, Violation> {
    match play(dice(), false).0 {
        Ok(stats) => Ok(stats),
        Err(failure) => {
            let (log, writing) = (play(dice(), true).1, Scene::new(&mut dice()).writing);
            let context = format!("{writing:?} {}", failure.cause);
            Err(Violation {
                seed,
                kind: failure.kind,
                context,
                what: failure.what,
                log,
            })
        }
    }
}

/// Plays it, and returns its log in any case.
pub fn log(seed: u64) -> String {
    play(Dice::new(seed), true).1
}

fn play(mut dice: Dice, verbose: bool) -> (Result<Stats, Failure>, String) {
    let scene = Scene::new(&mut dice);
    let mut world = World::new(&scene, &mut dice, verbose);
    world.note(|| format!("{:#?}", scene.traits));
    world.note(|| format!("{:#?}", scene.config));
    let mut stats = Stats::default();
    count_features(&scene, &mut stats);
    let result = world.run();
    let result = result
        .and_then(|()| judge::judge(&world, &mut stats))
        .and_then(|()| worth::check(&world))
        .and_then(|()| clock::check(&world));
    count_events(&world, &mut stats);
    (result.map(|()| stats), world.log.take().unwrap_or_default())
}

fn count_features(scene: &Scene, stats: &mut Stats) {
    let (config, traits) = (&scene.config, &scene.traits);
    let piped = config.pipelining && traits.pipelining;
    let exact = scene
        .messages
        .iter()
        .filter_map(|m| Some((m.envelope.exact_size_octets()?, m)));
    let source_fails = scene.messages.iter().any(|m| m.source_fails.is_some());
    for (name, yes) in [
        ("conversations", true),
        ("with LMTP", traits.lmtp),
        ("in lockstep", !piped),
        ("with overlap", piped && config.overlap),
        (
            "with CHUNKING",
            traits.chunking && config.chunking != smtp_proto::Chunking::Never,
        ),
        (
            "with eager chunks",
            traits.chunking && config.chunking == smtp_proto::Chunking::Eager && piped,
        ),
        ("with STARTTLS", traits.starttls),
        ("with SIZE", traits.size.is_some()),
        ("without 8BITMIME", !traits.eight_bit),
        ("with DSN", traits.dsn),
        ("with RCPTMAX stated", traits.stated.is_some()),
        (
            "with an unstated limit learnt",
            traits.unstated.is_some() && config.learn_limits,
        ),
        (
            "with a server that loses commands",
            traits.swallows && piped,
        ),
        ("with surplus replies", traits.surplus),
        ("with late completions", scene.writing == Writing::Late),
        ("with gathered writes", scene.writing == Writing::Gathers),
        ("with a slow body", scene.slow_body > 0),
        ("with a slow transport", scene.slow_transport > 0),
        ("with octets of the client lost", scene.cut_up != usize::MAX),
        (
            "with octets of the server lost",
            scene.cut_down != usize::MAX,
        ),
        ("with writes that fail", scene.writes_fail != usize::MAX),
        ("with a body whose source fails", source_fails),
        (
            "with a NUL in a body",
            scene.messages.iter().any(|m| m.body.contains(&0)),
        ),
        ("with an exact size", exact.clone().count() > 0),
        (
            "with an exact size that is wrong",
            exact.clone().any(|(size, m)| size != m.body.len() as u64),
        ),
        (
            "with all or nothing",
            scene
                .messages
                .iter()
                .any(|m| m.envelope.is_all_or_nothing()),
        ),
        (
            "with requests",
            scene
                .jobs
                .iter()
                .any(|(job, _)| matches!(job, scene::Job::Request(_))),
        ),
    ] {
        stats.add(name, u64::from(yes));
    }
}

fn count_events(world: &World<'_>, stats: &mut Stats) {
    use books::About;
    let books = &world.server.books;
    for said in &books.said {
        let name = match (said.about, said.code) {
            (About::Surplus { .. }, _) => "replies: surplus",
            (About::Leaving, 421) => "replies: 421",
            (About::Leaving, _) => "replies: 221 unasked",
            (About::Quit, _) => "replies: 221 to QUIT",
            (About::Start, _) => "replies: 353 (PRDR)",
            (About::Request(_), _) => "replies: to NOOP and VRFY",
            (About::Rcpt { .. }, 452) => "replies: 452 to RCPT",
            (About::Rcpt { .. }, 300..) => "replies: RCPT refused",
            (About::Mail(_), 300..) => "replies: MAIL refused",
            (About::Rset, 300..) => "replies: RSET refused",
            (About::Rset, _) => "replies: RSET taken",
            (About::Data(_), 400..) => "replies: DATA refused",
            (About::Chunk(_), 300..) => "replies: a chunk refused",
            (About::End(_) | About::EndFor { .. } | About::EndOfAll(_), 300..) => {
                "replies: the end refused"
            }
            (About::End(_) | About::EndFor { .. } | About::EndOfAll(_), _) => {
                "replies: the end taken"
            }
            _ => "replies: others",
        };
        stats.add(name, 1);
    }
    let several = books
        .transactions
        .windows(2)
        .filter(|pair| pair[0].message == pair[1].message)
        .count();
    stats.add(
        "messages split: transactions after the first",
        several as u64,
    );
    stats.add("recipients taken by the server", books.takings.len() as u64);
    let silent = books
        .takings
        .iter()
        .filter(|taking| taking.reply.is_none())
        .count();
    stats.add("recipients taken, and no reply was sent", silent as u64);
    stats.add("OverlapBroken", world.overlap_broken);
    stats.add(
        "closed with an error",
        u64::from(matches!(world.closed, Some(Err(_)))),
    );
}

/// Events that a run of some thousand conversations must contain, by their names in [`Stats`].
pub const FEATURES: &[&str] = &[
    "recipients in doubt",
    "recipients not attempted",
    "recipients permanent",
    "recipients temporary",
    "messages split: transactions after the first",
    "recipients taken, and no reply was sent",
    "replies: 221 unasked",
    "replies: 353 (PRDR)",
    "replies: 421",
    "replies: 452 to RCPT",
    "replies: DATA refused",
    "replies: MAIL refused",
    "replies: RSET refused",
    "replies: a chunk refused",
    "replies: surplus",
    "replies: the end refused",
    "replies: to NOOP and VRFY",
    "OverlapBroken",
    "with LMTP",
    "with STARTTLS",
    "with SIZE",
    "without 8BITMIME",
    "with DSN",
    "in lockstep",
    "with overlap",
    "with eager chunks",
    "with RCPTMAX stated",
    "with an unstated limit learnt",
    "with a server that loses commands",
    "with late completions",
    "with gathered writes",
    "with octets of the client lost",
    "with octets of the server lost",
    "with writes that fail",
    "with a body whose source fails",
    "with a NUL in a body",
    "with an exact size",
    "with an exact size that is wrong",
    "with all or nothing",
    "with requests",
];
