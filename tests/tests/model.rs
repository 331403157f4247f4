//! The judge in a few seconds: see `smtp_tests::fuzzing::model`. `cargo run --release -p smtp-tests --example model
//! -- --seeds 1000000` plays a million conversations.

use smtp_tests::fuzzing::model::{self, Stats};

/// `SMTP_TESTS_CONVERSATIONS` sets another number.
const CONVERSATIONS: u64 = 4_000;

#[test]
fn reports_are_true() {
    let asked = std::env::var("SMTP_TESTS_CONVERSATIONS")
        .ok()
        .and_then(|n| n.parse().ok());
    let count = asked.unwrap_or(CONVERSATIONS);
    let mut stats = Stats::default();
    for seed in 0..count {
        match model::conversation(seed) {
            Ok(one) => stats.merge(&one),
            Err(violation) => panic!("{violation}"),
        }
    }
    print!("{stats}");
    // Every feature was met.
    if count >= CONVERSATIONS {
        let all = stats.count("recipients ok")
            + stats.count("recipients temporary")
            + stats.count("recipients permanent")
            + stats.count("recipients in doubt")
            + stats.count("recipients not attempted");
        assert!(stats.count("recipients ok") > all / 4, "{stats}");
        for met in model::FEATURES {
            assert!(stats.count(met) > 0, "never met: {met}\n{stats}");
        }
    }
}
