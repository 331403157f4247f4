//! The transcript corpus: every file against the engine, whole and cut at every octet, and against both adapters over
//! real sockets. [`smtp_tests::transcript`] describes the format.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use smtp_tests::play::blocking;
use smtp_tests::play::engine::{self, Cut};
use smtp_tests::play::scripted::Way;
use smtp_tests::play::tokio;
use smtp_tests::transcript::{Failure, Transcript, read_corpus};
use smtp_tests::watchdog::within_limit;

/// How many random cuts each transcript gets.
const SEEDS: u64 = 20;
/// How many transcripts are played at a time over sockets. They mostly wait for their own pauses.
const THREADS: usize = 8;

fn corpus() -> Vec<Transcript> {
    read_corpus().unwrap_or_else(|failure| panic!("{failure}"))
}

/// Fails with all failures together, because they often have one reason.
fn report(failures: Vec<Failure>, how: &str) {
    let list: String = failures
        .iter()
        .map(|failure| format!("\n{failure}\n"))
        .collect();
    assert!(
        failures.is_empty(),
        "{} transcripts failed {how}:\n{list}",
        failures.len()
    );
}

fn play_on_the_engine(how: &str, play: impl Fn(&Transcript) -> Result<(), Failure>) {
    report(
        corpus()
            .iter()
            .filter_map(|transcript| play(transcript).err())
            .collect(),
        how,
    );
}

/// Plays with this cut, and expects the same conversation as without cuts.
fn play_cut(transcript: &Transcript, cut: Cut) -> Result<(), Failure> {
    let explain = |message: String| Failure {
        place: format!("tests/corpus/{} ({cut:?})", transcript.name),
        message,
    };
    let whole = engine::play(transcript, Cut::Whole)?;
    let pieces = engine::play(transcript, cut).map_err(|failure| explain(failure.to_string()))?;
    match pieces == whole {
        true => Ok(()),
        false => Err(explain(format!(
            "the cut makes a difference:\n  whole: {whole:?}\n  cut:   {pieces:?}"
        ))),
    }
}

#[test]
fn every_transcript_on_the_engine_whole() {
    play_on_the_engine("whole", |transcript| {
        engine::play(transcript, Cut::Whole).map(drop)
    });
}

#[test]
fn every_transcript_on_the_engine_byte_by_byte() {
    play_on_the_engine("byte by byte", |transcript| {
        play_cut(transcript, Cut::Octets)
    });
}

#[test]
fn every_transcript_on_the_engine_at_random_cuts() {
    play_on_the_engine("at random cuts", |transcript| {
        (1..=SEEDS).try_for_each(|seed| play_cut(transcript, Cut::Random(seed)))
    });
}

#[test]
fn every_transcript_on_the_blocking_adapter() {
    play_over_sockets(Way::OneByOne, |transcript| {
        blocking::play(transcript, Way::OneByOne)
    });
}

#[test]
fn every_transcript_on_the_blocking_adapter_in_bulk() {
    play_over_sockets(Way::Bulk, |transcript| {
        blocking::play(transcript, Way::Bulk)
    });
}

#[test]
fn every_transcript_on_the_tokio_adapter() {
    play_over_sockets(Way::OneByOne, |transcript| {
        tokio::play(transcript, Way::OneByOne)
    });
}

#[test]
fn every_transcript_on_the_tokio_adapter_in_bulk() {
    play_over_sockets(Way::Bulk, |transcript| tokio::play(transcript, Way::Bulk));
}

#[test]
fn every_transcript_on_the_tokio_adapter_with_every_future_of_a_report_dropped() {
    play_over_sockets(Way::Bulk, tokio::play_with_dropped_futures);
}

#[test]
fn every_transcript_on_the_tokio_adapter_with_each_await_cancelled_once() {
    let awaits = Arc::new(AtomicUsize::new(0));
    let counted = awaits.clone();
    play_over_sockets(Way::OneByOne, move |transcript| {
        let cancelled = tokio::play_with_each_await_cancelled(transcript)?;
        counted.fetch_add(cancelled, Ordering::Relaxed);
        Ok(())
    });
    let awaits = awaits.load(Ordering::Relaxed);
    println!("{awaits} awaits were cancelled");
    assert!(awaits > 500, "only {awaits} awaits were cancelled");
}

/// A transcript that hangs is a failure with its name.
fn play_over_sockets(
    way: Way,
    play: impl Fn(&Transcript) -> Result<(), Failure> + Send + Sync + 'static,
) {
    let play = Arc::new(play);
    // A player that hangs keeps a reference to it.
    let corpus: &'static [Transcript] = corpus().leak();
    let (for_engine, playable): (Vec<_>, Vec<_>) = corpus
        .iter()
        .partition(|transcript| transcript.engine_only.is_some());
    let (playable, other): (Vec<_>, Vec<_>) = playable.into_iter().partition(|t| way.suits(t));
    for transcript in &for_engine {
        println!(
            "engine only: {}: {}",
            transcript.name,
            transcript.engine_only.as_deref().unwrap_or_default()
        );
    }
    println!(
        "{way:?}: {} played, {} the other way, {} engine only",
        playable.len(),
        other.len(),
        for_engine.len()
    );
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(&transcript) = playable.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let play = play.clone();
                    let result = within_limit(move || play(transcript));
                    if result.is_none() {
                        // The others would hang as well, each for as long.
                        next.store(playable.len(), Ordering::Relaxed);
                    }
                    let hangs = || Err(transcript.failure(1, "the player hangs".into()));
                    if let Err(failure) = result.unwrap_or_else(hangs) {
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(failure);
                    }
                }
            });
        }
    });
    report(
        failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
        &format!("{way:?}"),
    );
}

#[test]
fn no_transcript_is_engine_only_but_these() {
    let names: Vec<_> = corpus()
        .into_iter()
        .filter(|t| t.engine_only.is_some())
        .map(|transcript| transcript.name)
        .collect();
    assert_eq!(names, ENGINE_ONLY);
}

#[test]
fn every_rule_has_a_transcript_and_every_transcript_a_rule() {
    let corpus = corpus();
    let shown: BTreeSet<&str> = corpus
        .iter()
        .flat_map(|t| &t.rules)
        .map(String::as_str)
        .collect();
    let required: BTreeSet<&str> = RULES.iter().copied().collect();
    assert_eq!(required.len(), RULES.len(), "a rule is listed twice");
    let missing: Vec<_> = required.difference(&shown).collect();
    let unknown: Vec<_> = shown.difference(&required).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "without transcript: {missing:?}; unknown: {unknown:?}"
    );
}

/// The anchors `// rule: NAME` of the engine's source, each with its file.
fn anchors(directory: &Path, found: &mut Vec<(String, PathBuf)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            anchors(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let names = source
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("// rule: "));
            found.extend(names.map(|name| (name.to_owned(), path.clone())));
        }
    }
}

/// The source, the corpus and the list of rules have the same names. So a search finds the line that decides a rule.
#[test]
fn every_rule_stands_once_in_the_source_and_no_other_does() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../smtp-proto/src");
    let mut found = Vec::new();
    anchors(&source, &mut found);
    let mut files: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    for (name, path) in &found {
        files.entry(name).or_default().push(path);
    }
    let rules: BTreeSet<&str> = RULES.iter().copied().collect();
    let missing: Vec<_> = RULES
        .iter()
        .filter(|rule| !files.contains_key(*rule))
        .collect();
    let unknown: Vec<_> = files
        .iter()
        .filter(|(name, _)| !rules.contains(*name))
        .collect();
    let repeated: Vec<_> = files.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(
        missing.is_empty() && unknown.is_empty() && repeated.is_empty(),
        "without an anchor: {missing:?}; anchors of no rule: {unknown:?}; more than once: {repeated:?}"
    );
}

#[test]
fn every_transcript_that_the_table_of_extensions_names_is_there() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/extensions.md");
    let page = std::fs::read_to_string(path).unwrap();
    let known: BTreeSet<_> = corpus()
        .into_iter()
        .map(|transcript| transcript.name)
        .collect();
    let links = page
        .split("(../tests/corpus/")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    let names: Vec<_> = links.map(|(name, _)| name.to_owned()).collect();
    let lost: Vec<_> = names.iter().filter(|name| !known.contains(*name)).collect();
    assert!(
        lost.is_empty() && names.len() > 50,
        "{} links, and these lead nowhere: {lost:?}",
        names.len()
    );
}

/// Transcripts that only the engine can play. Each file gives the reason.
const ENGINE_ONLY: &[&str] = &[
    "auth/scram-plus-end-point.txt",
    "auth/scram-plus-turned-down.txt",
    "auth/scram-plus-without-facts.txt",
    "auth/scram-plus.txt",
    "auth/scram-without-nonce.txt",
    "chunking/421-in-a-chunk.txt",
    "chunking/accepted-early.txt",
    "chunking/eager-large-chunk-given-up.txt",
    "chunking/eager-overlap-broken-in-a-chunk.txt",
    "chunking/eager-small-chunk-completed.txt",
    "chunking/lockstep-ends-late.txt",
    "chunking/refused-early.txt",
    "chunking/refused-where-the-last-waits.txt",
    "chunking/window-ends-late.txt",
    "ends/jammed-body.txt",
    "ends/jammed-command.txt",
    "ends/jammed-dot.txt",
    "ends/jammed-quit.txt",
    "ends/lost-in-the-body.txt",
    "requests/no-overlap.txt",
    "transaction/421-early-in-the-body.txt",
    "transaction/421-with-the-final-reply.txt",
    "transaction/accepted-early-in-the-body.txt",
    "transaction/refused-early-in-the-body.txt",
];

/// The protocol's rules and our own, which the corpus must show.
const RULES: &[&str] = &[
    "opening.greeting-in-lines",
    "opening.nothing-before-greeting",
    "opening.greeting-421",
    "opening.greeting-554",
    "opening.greeting-bare-lf",
    "opening.greeting-garbage",
    "opening.wrong-class",
    "opening.greeting-timeout",
    "opening.reply-before-command",
    "opening.ehlo-4yz-no-helo",
    "opening.ehlo-500-helo",
    "opening.ehlo-502-helo",
    "opening.ehlo-550-no-helo",
    "opening.helo-refused-keeps-both",
    "opening.no-helo-with-required-tls",
    "opening.no-helo-inside-tls",
    "opening.capabilities-odd",
    "opening.first-line-is-no-capability",
    "opening.size-zero",
    "opening.size-limit",
    "opening.starttls",
    "opening.capabilities-forgotten-after-tls",
    "opening.starttls-injection",
    "opening.never",
    "opening.opportunistic-not-offered",
    "opening.opportunistic-refused",
    "opening.opportunistic-not-with-credentials",
    "opening.required-not-offered",
    "opening.required-refused",
    "opening.tls-failed",
    "opening.tls-untrusted",
    "opening.tls-verified",
    "opening.tls-lost",
    "opening.tls-lost-after-handshake",
    "opening.implicit",
    "auth.plain",
    "auth.prompts-are-not-read",
    "auth.initial-response-fits",
    "auth.initial-response-too-long",
    "auth.login",
    "auth.cram-md5",
    "auth.echo-redacted",
    "auth.strongest-first",
    "auth.xoauth2",
    "auth.xoauth2-refused",
    "auth.undecodable-challenge",
    "auth.challenge-flood",
    "auth.no-password-in-clear",
    "auth.in-clear-permitted",
    "auth.mechanism-restricted",
    "auth.not-offered",
    "auth.refused-535",
    "auth.refused-454",
    "auth.next-mechanism",
    "auth.success-is-235",
    "auth.old-form",
    "auth.nul-in-password",
    "auth.scram-sha-1",
    "auth.scram-sha-256",
    "auth.scram-plus",
    "auth.scram-plus-not-offered",
    "auth.scram-plus-not-allowed",
    "auth.scram-plus-turned-down",
    "auth.scram-proof-with-235",
    "auth.scram-unproven",
    "auth.scram-wrong-proof",
    "auth.scram-nonce",
    "auth.scram-nonce-used-once",
    "auth.scram-iterations",
    "auth.scram-malformed",
    "auth.scram-server-error",
    "auth.scram-refused",
    "auth.scram-next-mechanism",
    "auth.scram-without-nonce",
    "auth.scram-names",
    "auth.no-clear-behind-hashed",
    "auth.oauthbearer",
    "auth.oauthbearer-refused",
    "auth.token-control",
    "auth.token-fetched",
    "auth.external",
    "auth.external-refused",
    "auth.anonymous",
    "auth.anonymous-refused",
    "auth.authorization-id",
    "auth.trust",
    "transaction.pipelined",
    "transaction.quit-after-the-last-dot",
    "transaction.lockstep",
    "transaction.all-refused",
    "transaction.mail-refused",
    "transaction.addresses",
    "transaction.some-refused",
    "transaction.251-252",
    "transaction.mail-refused-354",
    "transaction.all-refused-354",
    "transaction.all-or-nothing",
    "transaction.rset-after-failure",
    "transaction.in-flight-limit",
    "transaction.data-refused",
    "transaction.rset-refused",
    "transaction.next-waits",
    "transaction.overlap",
    "transaction.overlap-broken",
    "transaction.overlap-codes",
    "transaction.wrong-class",
    "transaction.421-between-messages",
    "transaction.421-to-rcpt",
    "transaction.421-to-the-dot",
    "transaction.early-refusal",
    "transaction.reply-surplus",
    "transaction.refused-after-the-body",
    "transaction.session-stays-open",
    "body.dots",
    "body.line-ends-normalised",
    "body.no-smuggling",
    "body.bare-refused",
    "body.final-line-end",
    "body.empty",
    "body.nul",
    "body.long-lines",
    "body.8bit-not-offered",
    "body.8bit-offered",
    "body.8bit-undeclared",
    "body.7bit-declared",
    "body.8bit-anyway",
    "body.smtputf8-not-offered",
    "body.smtputf8-offered",
    "ends.lost-before-mail",
    "ends.unfinished-reply",
    "ends.lost-in-the-envelope",
    "ends.lost-before-the-dot",
    "ends.lost-after-the-dot",
    "ends.final-reply-decides",
    "ends.timeout-at-the-dot",
    "ends.garbage-at-the-dot",
    "ends.timeout-in-the-envelope",
    "ends.dripping-server",
    "ends.endless-reply",
    "ends.longest-reply",
    "ends.quit-is-not-waited-for",
    "ends.block-timeout",
    "lmtp.replies-per-recipient",
    "lmtp.refused-after-the-data",
    "lmtp.lost-between-replies",
    "lmtp.data-for-nobody",
    "lmtp.no-helo",
    "lmtp.lockstep",
    "lmtp.bdat-chunk-refused",
    "lmtp.bdat",
    "lmtp.no-overlap",
    "replies.enhanced-doubled",
    "replies.enhanced-disagrees",
    "replies.code-only",
    "replies.text-is-octets",
    "replies.codes-differ",
    "replies.codes-disagree",
    "replies.bare-cr",
    "replies.not-a-code",
    "replies.221-unasked",
    "chunking.wrong-class",
    "chunking.421",
    "chunking.body-refused",
    "chunking.early-reply",
    "chunking.all-or-nothing",
    "chunking.all-refused",
    "chunking.always",
    "chunking.binary-not-offered",
    "chunking.binary",
    "chunking.eager-not-possible",
    "chunking.eager-refused",
    "chunking.eager-lost",
    "chunking.eager-overlap",
    "chunking.eager",
    "chunking.empty",
    "chunking.exact-size",
    "chunking.wrong-size",
    "chunking.final-line-end",
    "chunking.first-accepted-is-enough",
    "chunking.last-refused",
    "chunking.line-ends",
    "chunking.dots",
    "chunking.lockstep",
    "chunking.lost",
    "chunking.never",
    "chunking.not-offered",
    "chunking.offered",
    "chunking.quit-after-the-last-chunk",
    "chunking.overlap",
    "chunking.refused-in-the-middle",
    "chunking.streamed",
    "chunking.timeout",
    "chunking.502",
    "chunking.window",
    "parameters.auth",
    "parameters.deliverby-not-offered",
    "parameters.deliverby-offered",
    "parameters.deliverby-minimum",
    "parameters.dsn-not-offered",
    "parameters.dsn-offered",
    "parameters.refused-555",
    "parameters.forgotten-after-tls",
    "parameters.futurerelease-not-offered",
    "parameters.futurerelease-offered",
    "parameters.futurerelease-limits",
    "parameters.in-flight-limit",
    "parameters.mt-priority",
    "parameters.raw",
    "parameters.requiretls-not-offered",
    "parameters.requiretls-offered",
    "parameters.requiretls-unverified",
    "parameters.rrvs",
    "parameters.size",
    "smtputf8.domain-not-offered",
    "smtputf8.domain-offered",
    "smtputf8.flag",
    "smtputf8.not-needed",
    "limits.452-of-another-meaning",
    "limits.failure-in-a-part",
    "limits.learnt",
    "limits.lost-in-a-part",
    "limits.mailmax",
    "limits.no-overlap-behind-a-part",
    "limits.nonsense",
    "limits.not-learnt",
    "limits.rcptdomainmax",
    "limits.rcptmax-refused",
    "limits.rcptmax-split",
    "prdr.unasked",
    "prdr.lost-in-the-block",
    "prdr.replies-per-recipient",
    "prdr.final-refusal",
    "prdr.not-offered",
    "prdr.one-reply-for-all",
    "requests.421",
    "requests.answered",
    "requests.refusal-is-an-answer",
    "requests.behind-a-failure",
    "requests.between-messages",
    "requests.dialogue",
    "requests.etrn",
    "requests.lost",
    "requests.timeout",
    "requests.utf8",
    "requests.xclient",
    "requests.xclient-not-offered",
    "requests.xforward-not-offered",
    "requests.xclient-refused",
    "requests.xforward",
    "prdr.timeout",
];
