//! Calls in any order and at any time, clocks that stop or go back, and partial completions.

use std::time::Duration;

use smtp_proto::error::Misuse;
use smtp_proto::event::Trace;
use smtp_proto::parameter::MailParameter;
use smtp_proto::{BodyPart, Chunking, Credentials, Event, Instant, Outcome, Request, TlsPolicy};

use crate::script::{Script, config, eager_overlap, envelope};
use crate::{CHUNKED, PIPELINED};

const SECOND: Duration = Duration::from_secs(1);

fn overlapping() -> smtp_proto::Config {
    let mut config = config();
    (config.overlap, config.chunking) = (true, Chunking::Never);
    config
}

/// Gives the body of the current message by DATA.
fn give_data(script: &mut Script) {
    script.up_to_354(1);
    script.body("x\r\n");
    script.written.clear();
}

#[test]
fn the_end_of_one_body_is_not_taken_for_the_next() {
    let mut config = config();
    config.chunking = Chunking::Eager;
    let mut script = Script::open(config, CHUNKED);
    script.submit(&["b"]);
    let second = script.submit(&["c"]);
    script.pump(b"");
    let part = BodyPart::Last(b"x\r\n");
    assert_eq!(
        script
            .engine
            .poll_transmit_onto(script.now, part, &mut script.written),
        3
    );
    let written = script.written.len();
    script.engine.handle_written(script.now, written);
    // The first message is over before the caller has declared the end of its body.
    let replies = b"250 sender\r\n250 recipient\r\n250 taken\r\n";
    script.engine.handle_input(script.now, replies);
    assert_eq!(script.engine.finish_body(), Err(Misuse::NoBodyWanted));
    script.written.clear();
    script.client("MAIL FROM:<a@example.org>\r\nRCPT TO:<c@example.net>\r\n");
    assert_eq!(script.events.last(), Some(&Event::BodyWanted(second)));
    script.body("y\r\n");
    script.client("BDAT 3 LAST\r\ny\r\n");
}

#[test]
fn prdr_has_the_time_of_the_end_of_the_data_for_each_reply() {
    let mut script = Script::open(overlapping(), "250-mx\r\n250-PIPELINING\r\n250 PRDR\r\n");
    let prdr = MailParameter::per_recipient_replies();
    let first = envelope(&["b", "c"]).parameter(prdr);
    let first = script.engine.submit(first).unwrap();
    script.submit(&["d"]);
    script.up_to_354(2);
    script.body("x\r\n");
    script.server("353 each\r\n");
    script.pass(599 * SECOND);
    script.server("250 b\r\n");
    script.pass(599 * SECOND);
    script.server("250 c\r\n250 all\r\n");
    assert_eq!(script.report(first), ["ok 250", "ok 250"]);
}

#[test]
fn more_octets_than_there_are_count_as_all() {
    let mut script = Script::new(config());
    script.server("220 mx\r\n");
    script.gather(b"");
    script.engine.handle_given(script.now, usize::MAX);
    script.engine.handle_written(script.now, usize::MAX);
    script.engine.handle_written(script.now, usize::MAX);
    script.server("250 mx\r\n");
    assert!(script.engine.is_idle());
}

#[test]
fn a_clock_that_goes_back_ends_nothing_early() {
    let mut script = Script::new(config());
    script.server("220 mx\r\n");
    let transmit = script.engine.poll_transmit(Instant::default(), b"");
    transmit.unwrap().advance(usize::MAX);
    script.pass(299 * SECOND);
    assert!(!script.engine.is_closed());
    script.pass(SECOND);
    assert!(script.engine.is_closed());
}

#[test]
fn a_completion_in_part_leaves_a_deadline() {
    let mut script = Script::new(config());
    script.server("220 mx\r\n");
    script.begin(b"");
    script.pass(170 * SECOND);
    script.engine.handle_written(script.now, 5);
    // Three minutes for each part that the transport takes.
    script.pass(179 * SECOND);
    assert!(!script.engine.is_closed());
    script.pass(SECOND);
    assert!(script.engine.is_closed());
}

#[test]
fn what_was_given_and_not_written_has_a_deadline() {
    let mut script = Script::new(config());
    script.server("220 mx\r\n");
    script.gather(b"");
    script.pass(600 * SECOND);
    script.engine.handle_given(script.now, usize::MAX);
    script.pass(179 * SECOND);
    assert!(!script.engine.is_closed());
    script.pass(SECOND);
    assert!(script.engine.is_closed());
}

#[test]
fn a_reply_shows_that_its_command_is_written() {
    let mut script = Script::new(config());
    script.server("220 mx\r\n");
    script.begin(b"");
    script.submit(&["b"]);
    script.pass(170 * SECOND);
    script.server("250 mx\r\n");
    script.begin(b"");
    script.pass(10 * SECOND);
    assert!(!script.engine.is_closed());
}

#[test]
fn what_is_given_after_the_reply_before_it_overlaps_nothing() {
    let mut script = Script::open(overlapping(), PIPELINED);
    script.submit(&["b"]);
    give_data(&mut script);
    // It is queued while the end of the data is unanswered, and written after the answer.
    let second = script.submit(&["c"]);
    script.server("250 taken\r\n");
    script.pump(b"");
    script.pass(299 * SECOND);
    assert!(!script.engine.is_closed());
    script.server("503 authenticate first\r\n503 no\r\n503 no\r\n");
    assert!(!script.says_overlap_broken());
    assert_eq!(script.report(second), ["permanent 503"]);
    assert!(script.engine.is_idle());
}

#[test]
fn overlap_is_broken_once() {
    let mut script = Script::open(eager_overlap(), CHUNKED);
    script.submit(&["b"]);
    script.submit(&["c"]);
    script.pump(b"");
    script.body("x\r\n");
    script.body("y\r\n");
    script.server("250 sender\r\n250 b\r\n250 taken\r\n503 no\r\n503 no\r\n503 no\r\n503 no\r\n");
    let broken = |event: &&Event| **event == Event::OverlapBroken;
    assert_eq!(script.events.iter().filter(broken).count(), 1);
}

#[test]
fn a_request_that_was_not_given_is_not_attempted() {
    for last_words in ["421 idle too long\r\n", ""] {
        let mut script = Script::open(config(), "250-mx\r\n250 ETRN\r\n");
        script
            .engine
            .request(Request::etrn("example.org").unwrap())
            .unwrap();
        script.server(last_words);
        script.lost();
        let outcome = script.events.iter().find_map(|event| match event {
            Event::Answered(_, answer) => Some(answer.as_ref().unwrap_err().outcome),
            _ => None,
        });
        assert_eq!(outcome, Some(Outcome::NotAttempted), "{last_words}");
    }
}

#[test]
fn no_body_is_wanted_by_a_session_that_only_listens() {
    let mut script = Script::open(overlapping(), PIPELINED);
    script.submit(&["b"]);
    let second = script.submit(&["c"]);
    give_data(&mut script);
    script.server("221 bye\r\n250 taken\r\n250 sender\r\n250 c\r\n354 go\r\n");
    assert!(!script.events.contains(&Event::BodyWanted(second)));
    assert_eq!(script.report(second), ["not attempted"]);
}

#[test]
fn a_session_that_only_listens_does_so_from_the_time_that_is_told_next() {
    let mut script = Script::open(eager_overlap(), CHUNKED);
    let first = script.submit(&["b"]);
    let second = envelope(&["c"]).exact_size(10);
    script.engine.submit(second).unwrap();
    script.pump(b"");
    script.body("x\r\n");
    script.pump(b"half");
    // The caller waits an hour for its file, and gives no time.
    script.fail_body();
    script.now = script.now + 3_600 * SECOND;
    script.pump(b"");
    script.pass(SECOND);
    script.server("250 sender\r\n250 b\r\n250 taken\r\n");
    assert_eq!(script.report(first), ["ok 250"]);
}

#[test]
fn nothing_that_was_said_in_the_clear_is_shown_while_tls_is_on_its_way() {
    let mut config = config();
    config.tls = TlsPolicy::Opportunistic;
    let mut script = Script::open(config, "250-mx\r\n250-STARTTLS\r\n250 X-FORGED\r\n");
    script.client("STARTTLS\r\n");
    assert!(script.engine.capabilities().offers("X-FORGED"));
    script.server("220 go\r\n");
    assert!(!script.engine.capabilities().offers("X-FORGED"));
}

#[test]
fn a_transaction_that_could_name_nobody_is_not_begun() {
    let limits = "250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1 RCPTDOMAINMAX=1\r\n";
    let mut script = Script::open(config(), limits);
    let to = ["b@example.net", "c@example.com", "d@example.com"];
    let envelope = smtp_proto::Envelope::new("a@example.org", to).unwrap();
    let id = script.engine.submit(envelope.reopenable(true)).unwrap();
    give_data(&mut script);
    script.server("250 taken\r\n");
    script.client("");
    assert_eq!(
        script.report(id),
        ["ok 250", "not attempted", "not attempted"]
    );
    assert!(script.engine.is_idle());
}

#[test]
fn no_trace_is_kept_where_none_may_be() {
    let mut config = config();
    (config.trace, config.limits.traces) = (true, 0);
    let script = Script::open(config, PIPELINED);
    let kept =
        |event: &Event| matches!(event, Event::Trace(trace) if !matches!(trace, Trace::Missed(_)));
    assert!(!script.events.iter().any(kept), "{:?}", script.events);
}

/// Up to the dot of a message. The next one has begun and overlaps.
fn up_to_the_dot() -> Script {
    let mut script = Script::open(overlapping(), PIPELINED);
    script.submit(&["b"]);
    script.submit(&["c"]);
    script.up_to_354(1);
    script.pump(b"x\r\n");
    script.engine.finish_body().unwrap();
    script
}

#[test]
fn a_transport_that_is_stuck_says_nothing_of_overlap() {
    let mut script = up_to_the_dot();
    script.begin(b"");
    script.server("250 taken\r\n");
    // The dot, and five octets of the next MAIL.
    script.engine.handle_written(script.now, ".\r\nMAIL ".len());
    script.pass(181 * SECOND);
    assert!(script.engine.is_closed());
    assert!(!script.says_overlap_broken());
}

#[test]
fn a_server_that_goes_says_nothing_of_overlap() {
    for words in ["221 bye\r\n250 taken\r\n", "250 taken\r\n221 bye\r\n"] {
        let mut script = up_to_the_dot();
        script.pump(b"");
        script.server(words);
        script.pass(601 * SECOND);
        assert!(script.engine.is_closed());
        assert!(!script.says_overlap_broken(), "{words}");
    }
}

#[test]
fn a_reply_gives_the_transport_its_time_anew() {
    let mut script = Script::open(config(), PIPELINED);
    script.submit(&["b"]);
    script.begin(b"");
    script.pass(179 * SECOND);
    script.server("250 sender\r\n");
    script.pass(179 * SECOND);
    assert!(!script.engine.is_closed());
    script.pass(SECOND);
    assert!(script.engine.is_closed());
}

#[test]
fn the_time_of_half_a_reply_counts() {
    let mut script = Script::open(config(), PIPELINED);
    script.submit(&["b"]);
    script.pump(b"");
    script.pass(100 * SECOND);
    let late = script.now;
    script.server("250 sender o");
    let earlier = Instant::from_origin(late.since_origin() - 50 * SECOND);
    script.engine.handle_input(earlier, b"k\r\n");
    assert_eq!(script.engine.poll_timeout(), Some(late + 300 * SECOND));
}

/// Everything that is shown of a session with this login.
fn shown(mechanisms: &str, credentials: Credentials, replies: &[&str]) -> String {
    let mut config = config();
    config.trace = true;
    config.credentials = Some(credentials.permit_in_clear());
    let mut script = Script::new(config);
    script.server("220 mx\r\n");
    script.pump(b"");
    script.server(&format!("250-mx\r\n250 AUTH {mechanisms}\r\n"));
    for reply in replies {
        script.pump(b"");
        script.server(reply);
    }
    let lines = script.events.iter().map(|event| match event {
        Event::Closed(Err(error)) => format!("{error} {error:?}\n"),
        event => format!("{event:?}\n"),
    });
    lines.collect()
}

#[test]
fn no_echo_of_a_login_is_shown() {
    const ECHO: &str = "AGFsaWNlAGNvcnJlY3QtaG9yc2U=";
    // Its status says: 401 token ya29-secret is bad.
    const TOKEN: &str =
        "eyJzdGF0dXMiOiI0MDEgdG9rZW4geWEyOS1zZWNyZXQgaXMgYmFkIiwic2NvcGUiOiJtYWlsIn0=";
    let alice = Credentials::password("alice", "correct-horse");
    let token = Credentials::token("alice", "ya29-secret");
    let (login, password) = ("334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n");
    let echo = |before: &str, after: &str| format!("{before}{ECHO}{after}\r\n");
    let (other, pair, line) = (
        echo("250 AUTH PLAIN ", ""),
        echo("535 data=", ""),
        echo("x=", ""),
    );
    let (bye, again, refusal) = (
        echo("421 bye ", ""),
        echo("535 ", ""),
        format!("334 {TOKEN}\r\n"),
    );
    let clear = "535 password correct-horse\r\n";
    let joined = "535 YWxpY2U=Y29ycmVjdC1ob3JzZQ==\r\n";
    for (mechanisms, credentials, replies) in [
        ("PLAIN", &alice, &[&*other][..]),
        ("PLAIN", &alice, &[&pair]),
        ("PLAIN", &alice, &[&line]),
        ("PLAIN", &alice, &[clear]),
        ("PLAIN", &alice, &["235 ok\r\n", &bye]),
        ("LOGIN", &alice, &[login, password, joined]),
        ("PLAIN LOGIN", &alice, &["504 no\r\n", login, &again]),
        ("XOAUTH2", &token, &[&refusal, "535 no\r\n"]),
    ] {
        let shown = shown(mechanisms, credentials.clone(), replies);
        for secret in [
            "vcnJlY3QtaG9yc2",
            "Y29ycmVjdC1ob3JzZ",
            "correct-horse",
            "ya29-secret",
        ] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}
