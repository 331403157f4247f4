//! What a session writes down is played again through the engine, without a server: the client says the same, and the
//! engine tells the same.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use smtp_blocking::{Chunking, Envelope, Pool, Session, TlsPolicy};
use smtp_tests::play::engine::{self, Cut};
use smtp_tests::play::replay::{Tape, replay};
use smtp_tests::play::scripted::Way;
use smtp_tests::play::{blocking, tokio};
use smtp_tests::receiver::{Options, Receiver, Step};
use smtp_tests::transcript::{Failure, Transcript, read_corpus};
use smtp_tests::watchdog::within_limit;

/// Transcripts played at a time over sockets; they mostly wait for their own pauses.
const THREADS: usize = 8;

/// What depends on a secret, or on what a server says to one, cannot be played again: neither is written down.
const SECRET: [&str; 5] = [
    "auth/nul-in-password.txt",
    "auth/scram-next-mechanism.txt",
    "auth/scram-password-prohibited.txt",
    "auth/scram-prohibited.txt",
    "auth/token-with-control.txt",
];

/// Plays each transcript of the corpus over a socket, and its record on the engine.
fn record_the_corpus(way: Way, play: fn(&Transcript, Way) -> Result<(), Failure>) {
    // A player that hangs keeps it.
    let corpus: &'static [Transcript] = read_corpus().unwrap().leak();
    let playable: Vec<_> = corpus
        .iter()
        .filter(|transcript| transcript.engine_only.is_none() && way.suits(transcript))
        .filter(|transcript| !SECRET.contains(&transcript.name.as_str()))
        .collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new((0, String::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(&transcript) = playable.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = within_limit(move || play(transcript, way));
                    let hangs = || Err(transcript.failure(1, "the player hangs".into()));
                    if let Err(failure) = result.unwrap_or_else(hangs) {
                        let mut failures = failures.lock().unwrap();
                        failures.0 += 1;
                        writeln!(failures.1, "\n{failure}").unwrap();
                    }
                }
            });
        }
    });
    let (count, list) = failures.into_inner().unwrap();
    assert_eq!(count, 0, "of {}: {list}", playable.len());
    assert!(playable.len() > 150, "only {} are played", playable.len());
}

/// A session with refusals, a body, and a second message.
fn a_record() -> String {
    let receiver = Receiver::start(Options::default()).unwrap();
    receiver
        .on(Step::Rcpt)
        .with("<no@")
        .reply("550 5.1.1 unknown");
    let tape = Tape::default();
    let server = receiver
        .server()
        .tls(TlsPolicy::Never)
        .record(tape.recorder());
    let mut session = Session::connect(&server).unwrap();
    for to in [
        ["bob@example.net", "no@example.net"],
        ["carol@example.net", "dave@example.net"],
    ] {
        let envelope = Envelope::new("alice@example.org", to).unwrap();
        let report = session.send(envelope, "Subject: test\r\n\r\n.Hello.\n");
        assert!(report.unwrap().recipients[0].is_ok());
    }
    session.quit();
    let mut records = tape.records();
    assert_eq!(records.len(), 1);
    records.remove(0)
}

/// The judge is not blind: a record in which one line is left out, or told otherwise, is found out.
#[test]
fn a_record_that_is_not_true_is_found_out() {
    let record = a_record();
    replay("whole", &record).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
    let lines: Vec<_> = record.lines().collect();
    let with = |index: usize, line: Option<&str>| {
        let mut lines = lines.clone();
        match line {
            Some(line) => lines[index] = line,
            None => drop(lines.remove(index)),
        }
        lines.join("\n")
    };
    let mut judged = 0;
    for (index, line) in lines.iter().enumerate() {
        let word = line.split(' ').next().unwrap_or_default();
        // Without these it is as good: times, the defaults, what need not be said, and
        // keywords that nobody uses.
        let is_keyword = line.starts_with("S: 250-");
        if line.is_empty() || word == "pause" || word == "config" || word == "of" || is_keyword {
            continue;
        }
        judged += 1;
        let without = replay("a line less", &with(index, None));
        assert!(
            without.is_err(),
            "without line {}: {line}\n{record}",
            index + 1
        );
        let other = match word {
            "S:" => line.replacen("250 ", "251 ", 1),
            "C:" => line.to_lowercase(),
            "expect" => line.replacen("says ok", "says ok and more", 1),
            "bdat" => line.replacen("0..", "1..", 1),
            _ => continue,
        };
        let told = replay("another line", &with(index, Some(&other)));
        // A reply of the same class to MAIL, RCPT or EHLO changes nothing.
        let is_same = other == *line || word == "S:";
        assert!(is_same || told.is_err(), "{other}\n{record}");
    }
    assert!(judged > 25, "{judged} lines: {record}");
    // A reply of another class is another session.
    let accepted = record.replacen("S: 550 5.1.1 unknown", "S: 250 2.1.5 welcome", 1);
    assert_ne!(accepted, record);
    assert!(replay("accepted", &accepted).is_err());
}

/// The records in `tests/records` are sessions as they were: reports of bugs, and servers in the world.
#[test]
fn each_record_that_was_kept_is_played() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/records");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let record = std::fs::read_to_string(&path).unwrap();
        replay(&path.display().to_string(), &record).unwrap_or_else(|failure| panic!("{failure}"));
        count += 1;
    }
    assert!(count >= 2, "only {count} in {folder}");
}

/// Mail goes on where its record cannot.
#[test]
fn a_writer_that_fails_ends_the_record_alone() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(octets.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let receiver = Receiver::start(Options::default()).unwrap();
    for room in [0, 100, 300, 500] {
        let server = receiver
            .server()
            .tls(TlsPolicy::Never)
            .record(move |_| Ok(Full(room)));
        let report =
            smtp_blocking::send_mail(&server, "a@example.org", ["b@example.net"], "x\r\n", None);
        assert!(report.unwrap().is_success());
    }
    assert_eq!(receiver.messages().len(), 4);
    // But a record that cannot be begun is told.
    let refused = |_| Err::<Full, _>(io::Error::other("no room for it"));
    let error = Session::connect(receiver.server().record(refused)).unwrap_err();
    assert!(error.to_string().contains("no room for it"), "{error}");
}

/// A second session has a record of its own, and each has its number.
#[test]
fn each_session_of_a_pool_has_its_record() {
    let receiver = Receiver::start(Options::default()).unwrap();
    let tape = Tape::default();
    let server = receiver
        .server()
        .tls(TlsPolicy::Never)
        .record(tape.recorder());
    let pool = Pool::new(server).max_sessions(3);
    thread::scope(|scope| {
        for n in 0..12 {
            let pool = &pool;
            scope.spawn(move || {
                let to = format!("user{n}@example.net");
                let envelope = Envelope::new("a@example.org", [to]).unwrap();
                pool.send(envelope, "Subject: x\r\n\r\nHello.\r\n").unwrap()
            });
        }
    });
    drop(pool);
    let records = tape.records();
    assert_eq!(records.len(), receiver.counts().sessions);
    let mut sent = 0;
    for record in &records {
        replay("pool", record).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
        sent += record
            .lines()
            .filter(|line| line.contains(" 1 says ok 250"))
            .count();
    }
    assert_eq!((sent, receiver.messages().len()), (12, 12));
}

/// A body as large as this is written in a few lines, and played again.
#[test]
fn a_large_body_makes_a_small_record() {
    let receiver = Receiver::start(Options::default()).unwrap();
    let body = format!("{}\r\n", "a line of seventy-six octets ".repeat(3)).repeat(20_000);
    for chunking in [Chunking::Never, Chunking::Auto] {
        let tape = Tape::default();
        let server = receiver
            .server()
            .tls(TlsPolicy::Never)
            .chunking(chunking)
            .record(tape.recorder());
        let mut session = Session::connect(&server).unwrap();
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        // A reader, so that its size is not known.
        let report = session.send(envelope, io::BufReader::new(body.as_bytes()));
        assert!(report.unwrap().is_success());
        session.quit();
        let [record] = &tape.records()[..] else {
            panic!("one record")
        };
        assert!(record.len() < 20_000, "{} octets", record.len());
        let whole = Transcript::parse("large", record).unwrap();
        assert_eq!(whole.messages[0].body.len(), body.len());
        engine::play(&whole, Cut::Whole).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn a_record_of_each_transcript_by_the_blocking_adapter() {
    record_the_corpus(Way::OneByOne, blocking::play_recorded);
}

#[test]
fn a_record_of_each_transcript_by_the_tokio_adapter_in_bulk() {
    record_the_corpus(Way::Bulk, tokio::play_recorded);
}
