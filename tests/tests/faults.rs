//! Faults of the transport under both adapters: every transcript, by streams that cut, delay, interrupt and fail.
//!
//! ```console
//! $ cargo test -p smtp-tests --test faults                                   # a sample of the fatal ones
//! $ SMTP_TESTS_FAULTS=all cargo test --release -p smtp-tests --test faults   # an end at every octet of each
//! ```

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use smtp_tests::faults::ledger::Ledger;
use smtp_tests::faults::{Adapter, Fatal, Faults, How, Other, Side, play};
use smtp_tests::play::scripted::Way;
use smtp_tests::transcript::{Action, Transcript, read_corpus};
use smtp_tests::watchdog::within_limit;
use tokio::runtime::Runtime;

const WAYS: [Way; 2] = [Way::OneByOne, Way::Bulk];
/// Most of the time is virtual, and the rest is waited for.
const THREADS: usize = 16;

/// A transcript, and how it is played.
#[derive(Clone)]
struct Case {
    transcript: Arc<Transcript>,
    ledger: Arc<Ledger>,
    is_tokio: bool,
    way: Way,
}

impl Case {
    /// Plays it once.
    fn play(
        &self,
        runtime: &Runtime,
        faults: Faults,
    ) -> Result<smtp_tests::faults::Played, String> {
        let adapter = match self.is_tokio {
            true => Adapter::Tokio(runtime),
            false => Adapter::Blocking,
        };
        let played = play(&self.transcript, &self.ledger, adapter, self.way, faults);
        played.map_err(|failure| failure.to_string())
    }

    fn has(&self, is_it: impl Fn(&Action) -> bool) -> bool {
        self.transcript.steps.iter().any(|step| is_it(&step.action))
    }

    fn name(&self) -> String {
        let adapter = if self.is_tokio { "tokio" } else { "blocking" };
        format!("{adapter} {:?} {}", self.way, self.transcript.name)
    }
}

/// The transcripts that an adapter can play, in each way. Where the application speaks on a cue, time passes while
/// nobody reads: those are for sockets.
fn corpus() -> Vec<Case> {
    let mut cases = Vec::new();
    for transcript in read_corpus().unwrap() {
        if transcript.engine_only.is_some() || transcript.is_cued() {
            continue;
        }
        let ledger = Arc::new(Ledger::read(&transcript));
        let transcript = Arc::new(transcript);
        for way in WAYS.into_iter().filter(|way| way.suits(&transcript)) {
            cases.extend([false, true].map(|is_tokio| Case {
                transcript: Arc::clone(&transcript),
                ledger: Arc::clone(&ledger),
                is_tokio,
                way,
            }));
        }
    }
    cases
}

/// Does this for each case, on a few threads, and tells all that is wrong.
fn for_each(
    cases: &[Case],
    run: impl Fn(&Case, &Runtime) -> Result<usize, String> + Copy + Send + Sync + 'static,
) {
    let (next, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let faults = Mutex::new(Vec::new());
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = case.name();
            let case = case.clone();
            let result = within_limit(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_time()
                    .start_paused(true)
                    .build()
                    .unwrap();
                run(&case, &runtime)
            });
            match result {
                Some(Ok(count)) => drop(runs.fetch_add(count, Ordering::Relaxed)),
                Some(Err(fault)) => faults.lock().unwrap().push(format!("{name}: {fault}")),
                None => faults.lock().unwrap().push(format!("{name}: it hangs")),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let (faults, runs) = (faults.into_inner().unwrap(), runs.into_inner());
    println!("{} cases, {runs} conversations", cases.len());
    assert!(
        faults.is_empty(),
        "{} failed:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(runs >= cases.len() && runs > 0);
}

/// Whether all is to be played, and not a sample.
fn is_all() -> bool {
    std::env::var_os("SMTP_TESTS_FAULTS").is_some_and(|which| which == "all")
}

/// The transcript comes to what it expects.
fn comes_to_its_end(case: &Case, runtime: &Runtime, faults: Faults) -> Result<(), String> {
    let played = case.play(runtime, faults)?;
    let checked = case.transcript.check(&played.observed);
    checked.map_err(|failure| failure.to_string())?;
    if let Some(line) = played.unplayed {
        return Err(format!("the client does not say line {line}"));
    }
    played.untrue(&case.ledger, true).map_or(Ok(()), Err)
}

/// Without any fault the ledger agrees with what each transcript expects. So it may judge.
#[test]
fn the_ledger_knows_what_each_transcript_expects() {
    for_each(&corpus(), |case, runtime| {
        comes_to_its_end(case, runtime, Faults::none()).map(|()| 1)
    });
}

/// Short reads and writes, and calls that are interrupted or take too long, are not seen at all.
#[test]
fn nothing_is_seen_of_gentle_faults() {
    for_each(&corpus(), |case, runtime| {
        let seeds = if is_all() { 20 } else { 3 };
        for seed in 0..seeds {
            comes_to_its_end(case, runtime, Faults::gentle(seed))
                .map_err(|fault| format!("seed {seed}: {fault}"))?;
        }
        Ok(seeds as usize)
    });
}

/// Every octet of all transcripts is too much for each run of the tests. All of these can be sent in bulk.
const SAMPLE: [&str; 10] = [
    "chunking/eager-lost.txt",
    "chunking/overlap.txt",
    "chunking/streamed.txt",
    "ends/lost-after-the-dot.txt",
    "limits/rcptmax-split.txt",
    "lmtp/two-recipients.txt",
    "opening/starttls.txt",
    "prdr/offered.txt",
    "transaction/overlap.txt",
    "transaction/some-refused.txt",
];

/// How a direction ends at this octet, and what becomes of the other one: all take turns.
fn end(side: Side, at: u64, may_fall_silent: bool) -> Fatal {
    let how = match at / 3 % 4 {
        0 => How::Zero,
        1 => How::Error(ErrorKind::ConnectionReset),
        2 => How::Error(ErrorKind::BrokenPipe),
        _ => How::Error(ErrorKind::Other),
    };
    let other = match at % 3 {
        0 => Other::Fails,
        // The blocking adapter would wait in real time, and a handshake waits for its own deadline.
        1 if may_fall_silent => Other::FallsSilent,
        _ => Other::Ends,
    };
    Fatal {
        side,
        at,
        how,
        other,
    }
}

/// How long an adapter may listen to a server that has gone.
const LAST_WORDS: Duration = Duration::from_millis(501);

/// An end at each octet: the report is what the server's books allow, and comes at once.
#[test]
fn an_end_at_any_octet_is_reported_truly() {
    let is_wanted = |case: &Case| {
        let in_sample = SAMPLE.contains(&&*case.transcript.name.replace("tests/corpus/", ""));
        // A pause is real where the adapter is the blocking one.
        let has_pause = case.has(|action| matches!(action, Action::Pause(_)));
        let is_slow = has_pause && !case.is_tokio;
        (is_all() && !is_slow) || (in_sample && case.way == Way::Bulk)
    };
    let cases: Vec<_> = corpus().into_iter().filter(is_wanted).collect();
    assert!(
        cases.len() >= 2 * SAMPLE.len(),
        "{} of the sample",
        cases.len()
    );
    for_each(&cases, |case, runtime| {
        let is_encrypted = case.has(|action| {
            matches!(
                action,
                Action::Tls | Action::TlsFailed | Action::TlsUntrusted
            )
        });
        let is_slow = is_encrypted || case.transcript.name.contains("scram");
        let has_pause = case.has(|action| matches!(action, Action::Pause(_)));
        let whole = case.play(runtime, Faults::none())?.wire;
        let mut runs = 0;
        for (side, octets) in [(Side::Read, whole.0), (Side::Write, whole.1)] {
            // A handshake for each octet of another one takes its time, and so does a login by SCRAM.
            let step = match (is_slow, is_all()) {
                (false, _) => 1,
                (true, true) => 13,
                (true, false) => 31,
            };
            for at in (0..octets).step_by(step) {
                let fatal = end(side, at, case.is_tokio && !is_slow);
                let played = case.play(runtime, Faults::fatal(fatal));
                let fault = played.map(|played| {
                    let took = played.took.filter(|took| *took > LAST_WORDS && !has_pause);
                    let is_late = took.map(|took| format!("it took {took:?}"));
                    is_late.or_else(|| played.untrue(&case.ledger, !is_encrypted))
                });
                match fault {
                    Ok(None) => runs += 1,
                    Ok(Some(fault)) | Err(fault) => return Err(format!("{fatal:?}: {fault}")),
                }
            }
        }
        Ok(runs)
    });
}
