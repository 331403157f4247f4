//! Sessions in which both ends do anything are recorded, and their records are judged.
//!
//! `SMTP_TESTS_RECORDED=100000` plays so many instead of a sample, from `SMTP_TESTS_FIRST`.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_blocking::{Chunking, Credentials, Envelope, Server, Session, TlsPolicy, Transport};
use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::{Limits, Request, Timeouts};
use smtp_tests::play::anything::{is_heard, list, play_blocking, play_tokio};
use smtp_tests::play::engine::{self, Cut};
use smtp_tests::play::replay::{Tape, replay};
use smtp_tests::receiver::{Options, Receiver};
use smtp_tests::transcript::Transcript;
use smtp_tests::watchdog::within_limit;

/// Conversations of a sample.
const SAMPLE: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn judge(play: impl Fn(u64) -> Result<(), String> + Send + 'static) {
    let first = number("SMTP_TESTS_FIRST").unwrap_or(0);
    let count = number("SMTP_TESTS_RECORDED").unwrap_or(SAMPLE);
    let play = move || {
        let mut failures = Vec::new();
        for seed in first..first + count {
            if std::env::var_os("SMTP_TESTS_VERBOSE").is_some() {
                eprintln!("seed {seed}");
            }
            if let Err(failure) = play(seed) {
                failures.push((seed, failure));
            }
        }
        failures
    };
    let failures = match count > SAMPLE {
        true => play(),
        false => within_limit(play).expect("a conversation hangs"),
    };
    let most = failures
        .len()
        .min(number("SMTP_TESTS_SHOWN").unwrap_or(3) as usize);
    assert!(
        failures.is_empty(),
        "{} fail: {}",
        failures.len(),
        list(&failures[..most])
    );
}

#[test]
fn whatever_happens_a_record_of_the_blocking_adapter_is_true() {
    judge(play_blocking);
}

#[test]
fn whatever_happens_a_record_of_the_tokio_adapter_is_true() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    judge(move |seed| play_tokio(seed, &runtime));
}

/// The server's part: a reply after each batch of the client.
struct Script {
    replies: VecDeque<Vec<u8>>,
    /// Each reply comes an octet at a time.
    drips: bool,
    /// It has closed before the batch that the last reply is for.
    breaks: bool,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Read for Script {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(reply) = self.replies.front_mut() else {
            return Ok(0);
        };
        let most = if self.drips { 1 } else { out.len() };
        let count = reply.len().min(most).min(out.len());
        for (to, octet) in out.iter_mut().zip(reply.drain(..count)) {
            *to = octet;
        }
        // Behind the last reply, it closes.
        match count {
            0 if self.replies.len() > 1 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Script {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.replies.pop_front();
        if self.breaks && self.replies.len() == 1 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.heard.lock().unwrap().extend(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Script {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

const HI: &str = "220 hi\r\n";

fn plain() -> Server {
    Server::new("mx.example.net").tls(TlsPolicy::Never)
}

fn login(mechanism: &str) -> Server {
    let credentials = Credentials::password("alice", "correct horse").mechanisms(&[mechanism]);
    plain().credentials(credentials.permit_in_clear())
}

/// Plays a session, with each reply at once and octet by octet. Both records replay. Returns them.
fn record(server: &Server, replies: &[&str], act: impl Fn(&mut Session)) -> [String; 2] {
    record_until(false, server, replies, act)
}

/// The same, where the write before the last reply may fail.
fn record_until(
    breaks: bool,
    server: &Server,
    replies: &[&str],
    act: impl Fn(&mut Session),
) -> [String; 2] {
    [false, true].map(|drips| {
        let tape = Tape::default();
        let server = server.clone().record(tape.recorder()).record_bodies(true);
        let replies = replies.iter().map(|reply| reply.as_bytes().to_vec());
        let heard = Arc::default();
        let script = Script {
            replies: replies.collect(),
            drips,
            breaks,
            heard: Arc::clone(&heard),
        };
        if let Ok(mut session) = Session::connect_over(&server, script) {
            act(&mut session);
        }
        let record = tape.records().remove(0);
        replay("it", &record).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
        let heard = heard.lock().unwrap();
        is_heard(&record, &heard).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
        record
    })
}

fn send(session: &mut Session, body: &str) {
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    // A reader, so that its size is not known.
    drop(session.send(envelope, BufReader::new(body.as_bytes())));
}

/// Also those of a login, of which nothing is to be seen.
#[test]
fn replies_in_pieces_are_replayed() {
    let plain: &[&str] = &["235 2.7.0 welcome\r\n"];
    let prompts = ["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n", plain[0]];
    for (mechanism, replies) in [("PLAIN", plain), ("LOGIN", &prompts)] {
        let ok = ["250 ok\r\n", "250 ok\r\n", "354 go\r\n", "250 queued\r\n"];
        let replies = [&[HI, "250-hi\r\n250 AUTH PLAIN LOGIN\r\n"], replies, &ok].concat();
        let [_, pieces] = record(&login(mechanism), &replies, |session| {
            send(session, "x\r\n")
        });
        assert!(pieces.contains("\nS: 2\\\n"), "{pieces}");
        assert!(
            pieces.contains("\nexpect 1 1 says ok 250 queued"),
            "{pieces}"
        );
    }
}

/// A request is its line, with all of its spaces. A verb may have no argument.
#[test]
fn requests_are_recorded_as_they_are() {
    let lines = [
        "VRFY",
        "HELP ",
        "NOOP  x ",
        "VRFY bob  ",
        "vrfy b\u{fc}",
        "EXPN a SMTPUTF8",
    ];
    let mut replies = vec![HI, "250-hi\r\n250 SMTPUTF8\r\n"];
    replies.extend([HI; 6]);
    record(&plain(), &replies, |session| {
        for line in lines {
            drop(session.request(Request::raw(line).unwrap()));
        }
    });
}

/// What is not a reply may hold a login. The record hides it, also in the words of the error.
#[test]
fn what_is_not_a_reply_is_hidden_and_replayed() {
    let secrets = [
        "correct horse",
        "AGFsaWNlAGNvcnJlY3QgaG9yc2U=",
        "hunter",
        "4711",
    ];
    for garbage in [
        "you said AGFsaWNlAGNvcnJlY3QgaG9yc2U=\r\n",
        "correct horse\r\n",
        "4711 is not a code: hunter\n",
        "250_hunter\r\n",
        "535-hunter\r\nhunter\r\n",
        "250 hunter\r\nhunter\r\n",
        "535 hunter\rhunter\r\n",
        "535 hunter",
    ] {
        let replies = [HI, "250-hi\r\n250 AUTH PLAIN\r\n", garbage];
        for record in record(&login("PLAIN"), &replies, |_| {}) {
            for secret in secrets {
                let is_whole_reply = garbage.starts_with("250 ");
                let is_hidden = !record.contains(secret) || (is_whole_reply && secret == "hunter");
                assert!(is_hidden, "{garbage:?}: {record}");
            }
        }
        // After the login as well.
        let replies = [HI, "250-hi\r\n250 AUTH PLAIN\r\n", "235 ok\r\n", garbage];
        let [whole, _] = record(&login("PLAIN"), &replies, |session| send(session, "x\r\n"));
        assert!(!whole.contains("correct horse"), "{whole}");
    }
}

/// The password of a replayed session is another one. It must not be found in what the server says.
#[test]
fn a_server_may_speak_of_secrets() {
    for text in ["secret", "c2VjcmV0", "user secret x eHh4", "~^~~^~~^~"] {
        let refusal = format!("550 5.7.1 {text}\r\n");
        let replies = [HI, "250-hi\r\n250 AUTH PLAIN\r\n", "235 ok\r\n", &refusal];
        let records = record(&login("PLAIN"), &replies, |session| send(session, "x\r\n"));
        assert!(records[0].contains(text), "{}", records[0]);
        let replies = [HI, "250-hi\r\n250 AUTH PLAIN\r\n", &refusal];
        record(&login("PLAIN"), &replies, |_| {});
    }
}

/// A challenge of CRAM-MD5 is left out: with the response, which a server may echo, it helps to guess the password. The text
/// of a 334 that is not base64 is hidden, and the replay refuses it too.
#[test]
fn challenges_are_left_out_unless_they_are_none() {
    let challenge = "334 PDE4cmVkNjk3MTcwOTUyQHBvc3RvZmZpY2U+\r\n";
    let replies = [
        HI,
        "250-hi\r\n250 AUTH CRAM-MD5\r\n",
        challenge,
        "235 ok\r\n",
    ];
    for record in record(&login("CRAM-MD5"), &replies, |_| {}) {
        assert!(
            record.contains("\nchallenge") && !record.contains("PDE4"),
            "{record}"
        );
        assert!(record.contains("expect ready"), "{record}");
    }
    for text in [
        "334",
        "334 ",
        "334 hunter!",
        "334 PDE4OT==",
        "334 PDE4OTY",
        "334-PDE4\r\n334 cmVk",
        "334 ====",
    ] {
        for mechanism in ["CRAM-MD5", "SCRAM-SHA-256"] {
            let challenge = format!("{text}\r\n");
            let offer = format!("250-hi\r\n250 AUTH {mechanism}\r\n");
            let replies = [HI, &offer, &challenge, "501 cancelled\r\n"];
            for record in record(&login(mechanism), &replies, |_| {}) {
                let is_hidden = ["hunter", "PDE4", "cmVk"]
                    .iter()
                    .all(|text| !record.contains(text));
                assert!(is_hidden, "{record}");
            }
        }
    }
}

#[test]
fn a_challenge_after_the_login_is_a_reply() {
    let offer = "250-hi\r\n250 AUTH CRAM-MD5\r\n";
    let replies = [HI, offer, "334 PDE4\r\n", "235 ok\r\n", "334 red\r\n"];
    for record in record(&login("CRAM-MD5"), &replies, |session| {
        send(session, "x\r\n")
    }) {
        assert!(record.contains("\nchallenge"), "{record}");
        assert!(record.contains("34 red\n"), "{record}");
    }
}

/// A mechanism of the application's own.
#[derive(Clone, Copy)]
struct Own {
    name: &'static str,
    has_initial: bool,
    shows: bool,
    fails: bool,
    doubts: bool,
}

impl Mechanism for Own {
    fn name(&self) -> &str {
        self.name
    }

    fn exposes_secret(&self) -> bool {
        self.shows
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(self
            .has_initial
            .then(|| Secret::new(b"correct horse".to_vec())))
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        match self.fails {
            true => Err(MechanismError::Other("no answer: (to this)".into())),
            false => Ok(Secret::new([b"correct horse", challenge].concat())),
        }
    }

    fn verify(&mut self, _: &[u8]) -> Result<(), MechanismError> {
        match self.doubts {
            true => Err(MechanismError::Unproven),
            false => Ok(()),
        }
    }
}

/// The record does not have the mechanism. Still it replays, whatever the mechanism does.
#[test]
fn a_mechanism_of_the_application_is_replayed() {
    let usual = Own {
        name: "X-OWN",
        has_initial: false,
        shows: true,
        fails: false,
        doubts: false,
    };
    let initial = Own {
        has_initial: true,
        ..usual
    };
    for (own, offer, permits) in [
        (usual, "250-hi\r\n250 AUTH X-OWN\r\n", true),
        (initial, "250-hi\r\n250 AUTH X-OWN\r\n", true),
        (
            Own {
                fails: true,
                ..usual
            },
            "250-hi\r\n250 AUTH X-OWN\r\n",
            true,
        ),
        (
            Own {
                doubts: true,
                ..initial
            },
            "250-hi\r\n250 AUTH X-OWN\r\n",
            true,
        ),
        (
            Own {
                doubts: true,
                ..usual
            },
            "250-hi\r\n250 AUTH X-OWN\r\n",
            true,
        ),
        (usual, "250-hi\r\n250 AUTH X-OWN\r\n", false),
        (
            Own {
                shows: false,
                ..usual
            },
            "250-hi\r\n250 AUTH X-OWN\r\n",
            false,
        ),
        (usual, "250-hi\r\n250 AUTH PLAIN\r\n", true),
        (usual, "250 hi\r\n", true),
        // It has the name of another, whose challenges would be shown.
        (
            Own {
                name: "PLAIN",
                ..usual
            },
            "250-hi\r\n250 AUTH PLAIN\r\n",
            true,
        ),
        (
            Own {
                name: "SCRAM-SHA-256",
                ..usual
            },
            "250-hi\r\n250 AUTH SCRAM-SHA-256\r\n",
            true,
        ),
    ] {
        let credentials = Credentials::custom(move || Box::new(own));
        let server = plain().credentials(match permits {
            true => credentials.permit_in_clear(),
            false => credentials,
        });
        for (challenge, end) in [
            ("334 aHVudGVy\r\n", "235 ok\r\n"),
            ("334 !\r\n", "535 no\r\n"),
        ] {
            let replies = match own.has_initial {
                true => vec![HI, offer, end],
                false => vec![HI, offer, challenge, end],
            };
            for record in record(&server, &replies, |_| {}) {
                assert!(!record.contains("aHVudGVy"), "{record}");
            }
        }
    }
}

/// A body in two pieces, each of which becomes a chunk.
fn send_flushed(session: &mut Session, pieces: [&str; 2]) {
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let mut transaction = session.begin(envelope).unwrap();
    for piece in pieces {
        let _ = transaction.write_all(piece.as_bytes());
        let _ = transaction.flush();
    }
    drop(transaction.finish());
}

/// The engine sends what stands before an octet that it refuses, and refuses the rest once more may go out. The record says
/// both.
#[test]
fn a_refused_chunk_is_replayed() {
    let mut replies = vec![HI, "250-hi\r\n250 CHUNKING\r\n"];
    replies.extend(["250 ok\r\n"; 8]);
    let mut one = Limits::default();
    one.chunks = 1;
    for server in [
        plain().chunking(Chunking::Always),
        plain().chunking(Chunking::Eager),
        plain().chunk_size(10).limits(one).pipelining(false),
    ] {
        for pieces in [
            ["Hello.\r\nCaf\u{e9}\r\n", ""],
            ["Hello.\r\n", "one\r\n\0 NUL\r\n"],
            ["a\n\r\n\n.\r\n\u{e9} and more\r\n", "\r\n"],
            ["\n\n\n\n\n\n\n\n\n\n\n", "\n\r\n"],
        ] {
            for record in record(&server, &replies, |session| send_flushed(session, pieces)) {
                assert!(record.contains("\nchunk 1 "), "{record}");
            }
        }
    }
}

/// A write fails, and 32 KiB were gathered: a part of a chunk.
#[test]
fn a_chunk_that_is_cut_off_is_replayed() {
    let chunk = [
        HI,
        "250-hi\r\n250 CHUNKING\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "421 bye\r\n",
    ];
    let server = plain().chunking(Chunking::Always);
    record_until(true, &server, &chunk, |session| {
        send_flushed(session, [&"x\r\n".repeat(11_000), ""]);
    });
}

/// The application has ended a body before its declared size. What the server says then changes nothing.
#[test]
fn a_body_that_is_too_short_is_replayed() {
    let server = plain();
    for end in ["421 bye\r\n", "250 ok\r\n", "what?\r\n", ""] {
        let replies = [
            HI,
            "250-hi\r\n250 CHUNKING\r\n",
            "250 ok\r\n",
            "250 ok\r\n",
            end,
            end,
        ];
        record(&server, &replies, |session| {
            let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
            let mut transaction = session.begin(envelope.exact_size(20)).unwrap();
            transaction.write_all(b"x\r\n").unwrap();
            transaction.flush().unwrap();
            drop(transaction.finish());
        });
    }
}

/// The limit counts octets with the line end. A bare LF is one less.
#[test]
fn a_reply_at_its_limit_is_replayed() {
    let longest = Limits::default().reply.line;
    let long = format!("250-{}\n250 ok\n", "x".repeat(longest - 5));
    record(&plain(), &[HI, "250 hi\r\n", &long], |session| {
        drop(session.request(Request::noop()));
    });
}

/// No timeout is too long, or too odd.
#[test]
fn odd_timeouts_are_replayed() {
    for timeout in [
        Duration::MAX,
        Duration::from_nanos(1_000_000_001),
        Duration::from_micros(1_500_001),
    ] {
        let server = plain().timeouts(Timeouts::default().replies(timeout));
        record(&server, &[HI, "250 hi\r\n", "250 ok\r\n"], |session| {
            drop(session.request(Request::noop()));
        });
    }
}

/// The words of an error stand on one line, whatever the application's reader says.
#[test]
fn the_words_of_a_reader_stay_on_their_line() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other(
                "no disk\nexpect closed says ok\r\nC: QUIT\u{2028}",
            ))
        }
    }
    let replies = [HI, "250 hi\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n"];
    record(&plain(), &replies, |session| {
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        drop(session.send(envelope, BufReader::new(Broken)));
    });
}

/// The path of a socket may have any octets.
#[cfg(unix)]
#[test]
fn a_path_stays_in_the_comment() {
    use std::os::unix::net::UnixListener;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a\nconfig overlap");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"554 no\r\n").unwrap();
    });
    let tape = Tape::default();
    let to = Server::unix(&path)
        .tls(TlsPolicy::Never)
        .record(tape.recorder());
    Session::connect(&to).unwrap_err();
    server.join().unwrap();
    let record = tape.records().remove(0);
    assert!(!record.contains("\nconfig overlap"), "{record}");
    replay("path", &record).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
}

/// A writer that panics ends the record, and not the session, at whatever call.
#[test]
fn a_writer_that_panics_ends_the_record_alone() {
    /// Panics once so much is written; when it is flushed; when it is dropped.
    struct Panics(usize, bool, bool);
    impl Write for Panics {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(octets.len()).expect("no room");
            Ok(octets.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            assert!(!self.1, "it does not flush");
            Ok(())
        }
    }
    impl Drop for Panics {
        fn drop(&mut self) {
            assert!(!self.2 || thread::panicking(), "it is not dropped");
        }
    }
    let receiver = Receiver::start(Options::default()).unwrap();
    let mut count = 0;
    for room in [0, 100, 400, 800, usize::MAX] {
        for flags in [(false, false), (true, false), (false, true)] {
            let open = move |_| Ok(Panics(room, flags.0, flags.1));
            let server = receiver.server().tls(TlsPolicy::Never).record(open);
            let report = smtp_blocking::send_mail(
                &server,
                "a@example.org",
                ["b@example.net"],
                "x\r\n",
                None,
            );
            assert!(report.unwrap().is_success());
            count += 1;
        }
    }
    assert_eq!(receiver.messages().len(), count);
}

/// Many recipients, each with a reply of its own: no step is missing.
#[test]
fn ten_thousand_recipients_are_replayed() {
    let count = 10_000;
    let receiver = Receiver::start(Options {
        lmtp: true,
        ..Options::default()
    })
    .unwrap();
    let tape = Tape::default();
    let server = receiver
        .server()
        .tls(TlsPolicy::Never)
        .record(tape.recorder());
    let mut session = Session::connect(&server).unwrap();
    let to: Vec<_> = (0..count).map(|n| format!("user{n}@example.net")).collect();
    let report = session
        .send(Envelope::new("a@example.org", to).unwrap(), "x\r\n")
        .unwrap();
    assert_eq!(report.recipients.len(), count);
    session.quit();
    let record = tape.records().remove(0);
    assert!(!record.contains("are missing here"));
    let transcript = Transcript::parse("many", &record).unwrap();
    engine::play(&transcript, Cut::Whole).unwrap_or_else(|failure| panic!("{failure}"));
}

/// A challenge that echoes the secret is shown without it. It stays base64, so the replay goes the same way.
#[test]
fn an_echo_in_a_challenge_is_replayed() {
    let response = STANDARD.encode("\0alice\0correct horse");
    let json = STANDARD.encode(r#"{"status":"401","scope":"correct horse"}"#);
    for (mechanism, echo) in [
        ("PLAIN", &response),
        ("OAUTHBEARER", &json),
        ("XOAUTH2", &json),
        ("PLAIN", &STANDARD.encode("correct horse")),
        ("CRAM-MD5", &response),
    ] {
        let offer = format!("250-hi\r\n250 AUTH {mechanism}\r\n");
        let challenge = format!("334 {echo}\r\n");
        let replies = [HI, &offer, &challenge, "535 no\r\n"];
        let credentials = match mechanism.ends_with('N') || mechanism.ends_with('5') {
            true => Credentials::password("alice", "correct horse"),
            false => Credentials::token("alice", "correct horse"),
        };
        let credentials = credentials.mechanisms(&[mechanism]).permit_in_clear();
        for record in record(&plain().credentials(credentials), &replies, |_| {}) {
            assert!(!record.contains(&**echo), "{record}");
        }
    }
}

/// The server's first message of SCRAM repeats a nonce of the client's.
struct Repeats(u8);

impl Mechanism for Repeats {
    fn name(&self) -> &str {
        "X-REPEATS"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(Some(Secret::new(b"n,,n=alice,r=0123456789abcdef".to_vec())))
    }

    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        self.0 += 1;
        Ok(Secret::new([b"c=biws,", challenge].concat()))
    }
}

#[test]
fn a_challenge_that_repeats_a_response_is_replayed() {
    let server = plain().credentials(Credentials::custom(|| Box::new(Repeats(0))));
    let challenge = format!(
        "334 {}\r\n",
        STANDARD.encode("r=0123456789abcdefXYZ,s=AAAA,i=4096")
    );
    let offer = "250-hi\r\n250 AUTH X-REPEATS\r\n";
    let replies = [HI, offer, &challenge, "235 ok\r\n"];
    for record in record(&server, &replies, |_| {}) {
        assert!(record.contains("\nexpect ready"), "{record}");
    }
}

/// The record does not have what the server's part of SCRAM was, nor long names, nor a token's function.
#[test]
fn what_a_login_needs_is_replayed() {
    let base64 = |text: &str| format!("334 {}\r\n", STANDARD.encode(text));
    let play = |credentials: Credentials, replies: &[&str]| {
        let server = plain().credentials(credentials.permit_in_clear());
        record(&server, replies, |_| {});
    };
    let long = "x".repeat(400);
    let named = |user: &str, mechanism| Credentials::password(user, "p").mechanisms(&[mechanism]);
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-1"] {
        let offer = format!("250-hi\r\n250 AUTH {mechanism}\r\n");
        for first in [
            "e=other-error",
            "r=abc,s=AAAA,i=4096",
            "r=,s=AAAA,i=1",
            "m=x",
            "x",
        ] {
            let first = base64(first);
            let replies = [HI, &offer, &first, "501 cancelled\r\n"];
            play(named("alice", mechanism), &replies);
            let replies = [HI, &offer, "334 \r\n", &first, "501 cancelled\r\n"];
            play(named(&long, mechanism), &replies);
        }
    }
    for (name, credentials) in [
        ("ANONYMOUS", Credentials::anonymous("\u{e9}".repeat(250))),
        ("EXTERNAL", Credentials::external().authorization_id(&long)),
        ("PLAIN", named(&long, "PLAIN")),
    ] {
        let offer = format!("250-hi\r\n250 AUTH {name}\r\n");
        play(credentials, &[HI, &offer, "334 \r\n", "235 ok\r\n"]);
    }
    let gone = || Err::<String, _>("it (is) gone");
    let offer = "250-hi\r\n250 AUTH XOAUTH2\r\n";
    play(Credentials::token_from("alice", gone), &[HI, offer]);
}

/// Nobody here has the server's part of this hash.
#[test]
fn a_login_by_the_other_hash_is_replayed() {
    let record = include_str!("../records/postfix-login-tokio.txt");
    let other = record
        .replace("AUTH SCRAM-SHA-256 ", "AUTH SCRAM-SHA-1 ")
        .replace("auth=SCRAM-SHA-256", "auth=SCRAM-SHA-1");
    assert!(other.contains("C: AUTH SCRAM-SHA-1 ****\n"));
    replay("other", &other).unwrap_or_else(|failure| panic!("{failure}"));
}

/// A caller that allows much in flight: one step of the session is many steps of the conversation.
#[test]
fn a_large_batch_is_replayed() {
    let count = 20_000;
    let mut limits = Limits::default();
    limits.in_flight = usize::MAX / 4;
    let server = plain().limits(limits);
    let ok = "250 ok\r\n".repeat(count + 1) + "354 go\r\n";
    let replies = [HI, "250-hi\r\n250 PIPELINING\r\n", &ok, "250 queued\r\n"];
    let tape = Tape::default();
    let server = server.record(tape.recorder());
    let script = Script {
        replies: replies.map(|reply| reply.as_bytes().to_vec()).into(),
        drips: false,
        breaks: false,
        heard: Arc::default(),
    };
    if let Ok(mut session) = Session::connect_over(&server, script) {
        let paths: Vec<_> = (0..count).map(|n| format!("b{n}@example.net")).collect();
        let envelope = Envelope::new("a@example.org", &paths).unwrap();
        drop(session.send(envelope, "x\r\n"));
    }
    let record = tape.records().remove(0);
    assert!(!record.contains("are missing"));
    let transcript = Transcript::parse("large", &record).unwrap();
    engine::play(&transcript, Cut::Whole).unwrap_or_else(|failure| panic!("{failure}"));
}
