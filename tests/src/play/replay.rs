//! Plays a record again: the session that [`Server::record`](smtp_adapter::Server::record) has written down.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::engine::{self, Cut};
use crate::transcript::{Action, Failure, Recorded, Step, Transcript};

/// How often a record is cut at random.
const SEEDS: u64 = 2;

/// Plays a record on the engine, without a server and in virtual time: whole, octet by octet, and cut at random. The client
/// must say what it said, and the engine must tell what it told, each after the same step.
///
/// # Errors
/// The first difference.
pub fn replay(name: &str, record: &str) -> Result<(), Failure> {
    let transcript = Transcript::parse(name, record)?;
    if !transcript.recorded {
        return Err(transcript.failure(1, "this is no record; `recorded` is missing".into()));
    }
    let whole = engine::play(&transcript, Cut::Whole)?;
    let is_challenge =
        |step: &Step| matches!(step.action, Action::Recorded(Recorded::Challenge(_)));
    // SCRAM takes long, by intent.
    let seeds = match transcript.steps.iter().any(is_challenge) {
        true => 0,
        false => SEEDS,
    };
    let cuts = (0..seeds).map(Cut::Random);
    for cut in cuts.chain([Cut::Octets]) {
        let pieces = engine::play(&transcript, cut)?;
        if pieces != whole {
            let message = format!("{cut:?} makes a difference:\n  {whole:?}\n  {pieces:?}");
            return Err(transcript.failure(1, message));
        }
    }
    Ok(())
}

/// Where sessions are written down in memory.
#[derive(Clone, Debug, Default)]
pub struct Tape(Arc<Mutex<BTreeMap<u64, Vec<u8>>>>);

/// The record of one session.
#[derive(Debug)]
struct Track(Tape, u64);

impl Tape {
    /// For [`Server::record`](smtp_adapter::Server::record).
    pub fn recorder(
        &self,
    ) -> impl Fn(u64) -> io::Result<Box<dyn Write + Send>> + Send + Sync + use<> {
        let tape = self.clone();
        move |session| Ok(Box::new(Track(tape.clone(), session)))
    }

    /// The records of all sessions, in the order of their numbers.
    pub fn records(&self) -> Vec<String> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |record: &Vec<u8>| String::from_utf8_lossy(record).into_owned();
        records.values().map(text).collect()
    }
}

impl Write for Track {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let Self(tape, session) = self;
        let mut records = tape.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.entry(*session).or_default().extend(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
