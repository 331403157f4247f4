//! Each state of the engine, and each step from it: see `smtp_tests::walk`.
//!
//! A sample goes some letters deep. All of it is walked by
//! `SMTP_TESTS_WALK=all cargo test --release -p smtp-tests --test walk -- --nocapture`,
//! and more slowly, with fewer states taken for one, by `SMTP_TESTS_WALK=fine`.

use std::sync::Mutex;
use std::thread;

use smtp_tests::walk::{self, Counts, Merging, Scene, Violation};
use smtp_tests::watchdog;

/// What the walk must have met, by its name in [`Counts`].
const VERDICTS: [&str; 8] = [
    "all or nothing",
    "delivered",
    "given up",
    "in doubt",
    "lost",
    "lost or not attempted",
    "not attempted",
    "refused",
];

/// How much is walked.
#[derive(Clone, Copy)]
enum Asked {
    Sample,
    Depth(usize),
    All(Merging),
}

fn asked() -> Asked {
    match std::env::var("SMTP_TESTS_WALK").as_deref() {
        Err(_) => Asked::Sample,
        Ok("all") => Asked::All(Merging::Coarse),
        Ok("fine") => Asked::All(Merging::Fine),
        Ok(depth) => {
            let depth = depth.parse();
            Asked::Depth(depth.expect("SMTP_TESTS_WALK is `all`, `fine`, or how many letters deep"))
        }
    }
}

fn walk_all(scenes: &[Scene], asked: Asked) -> (Counts, Vec<Violation>) {
    let next = Mutex::new(scenes.iter());
    let found = Mutex::new((Counts::default(), Vec::new()));
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(scene) = { next.lock().unwrap().next() } {
                    let (depth, merging) = match asked {
                        Asked::Sample => (scene.sample(), Merging::Coarse),
                        Asked::Depth(depth) => (depth, Merging::Coarse),
                        Asked::All(merging) => (usize::MAX, merging),
                    };
                    let result = walk::walk(scene, depth, merging);
                    let mut all = found.lock().unwrap();
                    match result {
                        Ok(one) => {
                            println!("{one}");
                            all.0.merge(&one.counts);
                        }
                        Err(violation) => all.1.push(violation),
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn each_state_keeps_the_rules() {
    let asked = asked();
    let walk = move || walk_all(&walk::scenes(), asked);
    let (counts, violations) = match asked {
        Asked::Sample => watchdog::within_limit(walk).expect("the walk hangs"),
        Asked::Depth(_) | Asked::All(_) => walk(),
    };
    println!("{counts}");
    violations
        .iter()
        .for_each(|violation| println!("{violation}"));
    assert!(violations.is_empty(), "{} violations", violations.len());
    // Nothing is vacuous.
    if !matches!(asked, Asked::Depth(_)) {
        for verdict in VERDICTS {
            let met = counts.0.get(verdict).copied().unwrap_or_default();
            assert!(met > 0, "never met: {verdict}");
        }
    }
}
