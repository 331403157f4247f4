//! Plays random conversations against the judge, and prints its findings and what was met.
//!
//! ```console
//! $ cargo run --release -p smtp-tests --example model -- --seeds 1000000
//! $ cargo run --release -p smtp-tests --example model -- --seed 4711    # one of them, with its log
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;

use smtp_tests::fuzzing::model::{self, Stats, Violation};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if let Some(seed) = value("--seed") {
        return match model::conversation(seed) {
            Ok(_) => {
                println!("{}seed {seed}: no violation", model::log(seed));
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("{violation}");
                ExitCode::FAILURE
            }
        };
    }
    let (first, count) = (
        value("--from").unwrap_or(0),
        value("--seeds").unwrap_or(100_000),
    );
    let mut stats = Stats::default();
    let mut kinds: BTreeMap<(&'static str, String), (u64, Violation)> = BTreeMap::new();
    for seed in first..first + count {
        match model::conversation(seed) {
            Ok(one) => stats.merge(&one),
            Err(violation) => {
                let entry = kinds
                    .entry((violation.kind, violation.context.clone()))
                    .or_insert_with(|| (0, violation.clone()));
                entry.0 += 1;
                // The shortest is the easiest to read.
                if violation.log.len() < entry.1.log.len() {
                    entry.1 = violation;
                }
            }
        }
    }
    print!("{stats}");
    for ((kind, context), (count, violation)) in &kinds {
        println!(
            "VIOLATION {count:>7} x {kind} [{context}], seed {}: {}",
            violation.seed, violation.what
        );
    }
    match kinds.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
