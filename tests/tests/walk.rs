//! Each state of the engine, and each step from it: see `smtp_tests::walk`.
//!
//! A sample goes some letters deep. All of it is walked by
//! `SMTP_TESTS_WALK=all cargo test --release -p smtp-tests --test walk -- --nocapture`.

use std::sync::Mutex;
use std::thread;

use smtp_tests::walk::{self, Counts, Scene, Violation};

/// What the walk must have met, by its name in [`Counts`].
const VERDICTS: [&str; 7] = [
    "all or nothing",
    "delivered",
    "given up",
    "in doubt",
    "lost",
    "not attempted",
    "refused",
];

#[test]
fn each_state_keeps_the_rules() {
    let asked = std::env::var("SMTP_TESTS_WALK").ok();
    let only = std::env::var("SMTP_TESTS_WALK_ONLY").ok();
    let depth = |scene: &Scene| match asked.as_deref() {
        None => scene.sample(),
        Some("all") => usize::MAX,
        Some(number) => number
            .parse()
            .expect("SMTP_TESTS_WALK is a number, or `all`"),
    };
    let scenes: Vec<_> = walk::scenes()
        .into_iter()
        .filter(|scene| only.as_deref().is_none_or(|only| scene.name() == only))
        .collect();
    let next = Mutex::new(scenes.iter());
    let counts = Mutex::new(Counts::default());
    let violations: Mutex<Vec<Violation>> = Mutex::default();
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(scene) = { next.lock().unwrap().next() } {
                    match walk::walk(scene, depth(scene)) {
                        Ok(found) => {
                            println!("{found}");
                            counts.lock().unwrap().merge(&found.counts);
                        }
                        Err(violation) => violations.lock().unwrap().push(violation),
                    }
                }
            });
        }
    });
    let violations = violations.into_inner().unwrap();
    violations
        .iter()
        .for_each(|violation| println!("{violation}"));
    assert!(violations.is_empty(), "{} violations", violations.len());
    let counts = counts.into_inner().unwrap();
    println!("{counts:?}");
    // Nothing is vacuous.
    for verdict in VERDICTS {
        let met = counts.0.get(verdict).copied().unwrap_or_default();
        assert!(met > 0 || only.is_some(), "never met: {verdict}");
    }
}
