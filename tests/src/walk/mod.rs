//! The state machine of the engine, walked to its end.
//!
//! [`walk`] does a breadth-first search: from each state it tries each letter of an alphabet. The letters are the
//! next actions of an application, a server or a transport.
//!
//! | who | the letters |
//! |---|---|
//! | the application | submit, a request, quit, abort; each cut of an offer of the body, finish_body, fail_body |
//! | the server | yes, 4yz, 5yz, a wrong class, 421, 221, garbage, a surplus reply (alone, or in one segment); for EHLO: no extensions, and 500; for AUTH: 334 and 504; 452, 503 and 353 where they mean something |
//! | the transport | TLS with a verified server, an unverified one, or a handshake that fails; end of file, an error, a timeout; the first and the last with half a reply; writes that are slow, or gathered |
//!
//! After each letter the judge compares. It keeps its own records: it reads the client's octets with its own parser,
//! and knows the replies that it gave. These rules must hold at each edge:
//!
//! - Each message has one report, in order. Then one `Closed` comes, and nothing after it.
//! - Each verdict is the reply that gave it, or follows from the end of the session.
//! - No octet follows QUIT, precedes the greeting, or follows STARTTLS in the clear.
//! - If TLS is required, only EHLO, STARTTLS and QUIT go in the clear. Credentials go to a verified server, or to one
//!   that the configuration permits.
//! - A body follows its 354, or an accepted recipient. It arrives unchanged.
//! - No extension and no parameter is used that the current EHLO does not offer. `capabilities` says the same.
//! - Batches end where RFC 2920 says, and the octets in flight stay within the limit.
//! - A deadline is set whenever a reply is owed. It is exact to the nanosecond.
//! - Half a reply changes nothing, and neither does a deadline before its time.
//! - Polls are idempotent. A call that does not fit is a `Misuse`, and changes nothing.
//! - A broken protocol ends the session: garbage, a surplus, a wrong class, octets before a handshake.
//!
//! # What counts as one state
//!
//! The engine can be neither copied nor hashed. A state is reached again by its letters, from the start. Two states
//! are one if they agree in these:
//!
//! - of the engine: its phase, what it offers, and whether a deadline is armed;
//! - the replies that are owed, for which message, and whether the command is written;
//! - the capabilities, TLS, and the progress of the login;
//! - of each message that is not reported: the classes of all replies to it;
//! - of the last transaction: whether it failed, ended, and had a recipient;
//! - how many messages and octets were submitted, asked, reported and offered.
//!
//! So these are merged:
//!
//! - how much time has passed;
//! - the text of a reply, and its code beyond the first digit;
//! - how a body was cut before it was taken;
//! - the results of messages that are reported, except the last transaction.
//!
//! The engine could depend on one of these by mistake. Then only the first path is followed. But all edges to a
//! merged state are judged. [`Merging::Fine`] merges less: the last letter counts, and each code.
//! [`model`](crate::fuzzing::model) plays random conversations, and merges nothing.
//!
//! A walk is complete when no letter leads to a new state. Its depth is then the longest of the shortest paths.
//!
//! | file | subject |
//! |---|---|
//! | `scene.rs` | the configurations |
//! | `letter.rs` | the alphabet |
//! | `search.rs`, `key.rs` | the search; which states are one |
//! | `world.rs`, `transport.rs`, `events.rs` | one conversation: the letters, what leaves, what the engine tells |
//! | `wire.rs`, `server.rs`, `books.rs` | the client's octets, the server's replies, and what is written down of both |
//! | `verdict.rs`, `clock.rs`, `check.rs` | the comparison: reports, deadlines, and what holds in each state |

use std::collections::BTreeMap;
use std::fmt;

mod books;
mod check;
mod clock;
mod events;
mod key;
mod letter;
mod scene;
mod search;
mod server;
mod transport;
mod verdict;
mod wire;
mod world;

pub use key::Merging;
pub use scene::{Scene, scenes};
pub use search::walk;

/// How often each verdict was met.
#[derive(Clone, Debug, Default)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    fn add(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// Adds those of another configuration.
    pub fn merge(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name).or_default() += n;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, n)| writeln!(f, "{n:>10}  {name}"))
    }
}

/// The result of a walk.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The configuration.
    pub name: String,
    /// Different states, without those whose session has ended.
    pub states: u64,
    /// Steps that were judged.
    pub edges: u64,
    /// How many of them ended the session.
    pub ends: u64,
    /// The longest path, in letters.
    pub depth: usize,
    /// Whether all states were reached.
    pub is_exhausted: bool,
    /// The verdicts.
    pub counts: Counts,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_exhausted { "all" } else { "cut" };
        write!(
            f,
            "{:>9} states {:>10} edges {:>10} ends {:>4} deep ({end})  {}",
            self.states, self.edges, self.ends, self.depth, self.name
        )
    }
}

/// A rule that is broken.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    kind: &'static str,
    what: String,
}

fn fail<T>(kind: &'static str, what: impl Into<String>) -> Result<T, Failure> {
    let what = what.into();
    Err(Failure { kind, what })
}

/// A broken rule, with the path that leads to it.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The configuration.
    pub scene: String,
    /// The letters.
    pub path: String,
    /// The rule, in a few words.
    pub kind: &'static str,
    /// The observation.
    pub what: String,
    /// The conversation, line by line.
    pub log: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.log)?;
        writeln!(f, "{}:{}", self.scene, self.path)?;
        writeln!(f, "{}: {}", self.kind, self.what)
    }
}

impl std::error::Error for Violation {}

impl Scene {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many letters deep the sample goes.
    pub fn sample(&self) -> usize {
        self.sample
    }
}
