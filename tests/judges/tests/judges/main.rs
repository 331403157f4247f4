//! All transcripts on the engine, two thousand conversations of the model, and the calls that neither of them makes.

use std::sync::Once;
use std::time::Duration;
use std::{process, thread};

use smtp_judges::fuzzing::model;
use smtp_judges::play::engine::{self, Cut};
use smtp_judges::transcript::{Failure, read_corpus};
use smtp_judges::watchdog::within;

mod asked;
mod buffers;
mod calls;
mod eager;
mod errors;
mod flight;
mod limits;
#[cfg(target_os = "linux")]
mod wiped;

/// What a judge takes is a second or two. A mutation that never ends fails after this time.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends all judges if they take longer. A call that never returns would otherwise be noticed by nobody.
fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        thread::spawn(|| {
            thread::sleep(LIMIT);
            eprintln!("the judges never end");
            process::exit(1);
        });
    });
}

/// Plays each transcript with these cuts.
fn transcripts(cuts: impl Iterator<Item = Cut> + Clone + Send + 'static) {
    let play = move || -> Result<(), Failure> {
        for transcript in read_corpus()? {
            for cut in cuts.clone() {
                engine::play(&transcript, cut)?;
            }
        }
        Ok(())
    };
    let played = within(LIMIT, play).expect("a transcript never ends");
    played.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn transcripts_whole() {
    transcripts([Cut::Whole].into_iter());
}

#[test]
fn transcripts_octet_by_octet() {
    transcripts([Cut::Octets].into_iter());
}

#[test]
fn transcripts_at_random_cuts() {
    transcripts((1..=4).map(Cut::Random));
}

#[test]
fn conversations() {
    let play = || (0..2_000).try_for_each(|seed| model::conversation(seed).map(drop));
    let judged = within(LIMIT, play).expect("a conversation never ends");
    judged.unwrap_or_else(|violation| panic!("{violation}"));
}
