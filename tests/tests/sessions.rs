//! Thousands of sessions at the same time, in one tokio process.
//!
//! The peer runs in its own process, which is this test binary again. So each process needs one file descriptor for
//! each session, and the printed memory is the client's. `--nocapture` shows it. `SMTP_TESTS_SESSIONS` sets another
//! number than 10,000. `counts --sessions` does the same in a release build, and counts the heap.

use std::time::Duration;

use smtp_tests::measure::load;
use smtp_tests::servers::fast::{PeerProcess, Serving};

const MESSAGES: usize = 10;

/// Descriptors for other purposes.
const SPARE: u64 = 200;

/// The peer, if this binary runs as one. Otherwise it does nothing.
#[test]
fn peer_process() {
    PeerProcess::serve_if_asked();
}

#[test]
fn many_sessions_at_the_same_time() {
    let asked = std::env::var("SMTP_TESTS_SESSIONS")
        .ok()
        .and_then(|n| n.parse().ok());
    let wanted = asked.unwrap_or(10_000);
    let limit = rlimit::increase_nofile_limit(wanted + SPARE).unwrap();
    let sessions = wanted.min(limit.saturating_sub(SPARE));
    println!("the limit of file descriptors is {limit}");
    if sessions < wanted {
        println!("ATTENTION: {wanted} SESSIONS WERE ASKED FOR, AND ONLY {sessions} FIT THE LIMIT");
    }
    let arguments = ["--exact", "peer_process", "--nocapture", "--test-threads=1"];
    let peer = PeerProcess::start(&arguments, Duration::ZERO, Serving::Tasks).unwrap();
    let resident = || load::resident(std::process::id()).unwrap_or_default();
    let outcome =
        load::many_sessions(peer.server(), sessions as usize, MESSAGES, 2_048, resident).unwrap();
    let [before, open, done] = outcome.probes;
    let each = |after: u64| after.saturating_sub(before) / sessions;
    println!(
        "{sessions} sessions opened in {:?}, all open at the same time",
        outcome.opening
    );
    println!(
        "{} messages delivered in {:?}",
        sessions * MESSAGES as u64,
        outcome.delivery
    );
    println!(
        "resident memory for each session, the peer's not counted, buffers of the kernel neither:"
    );
    println!(
        "  {} octets when open, {} after its messages",
        each(open),
        each(done)
    );
}
