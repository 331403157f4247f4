//! Calls in any order and at any time, clocks that stand or go back, and completions in parts.

use std::time::Duration;

use smtp_proto::error::Misuse;
use smtp_proto::event::Trace;
use smtp_proto::parameter::MailParameter;
use smtp_proto::{BodyPart, Chunking, Event, Instant, Outcome, Request, TlsPolicy};

use crate::script::{Script, config, eager_overlap, envelope};
use crate::{CHUNKED, PIPELINED};

const SECOND: Duration = Duration::from_secs(1);

fn overlapping() -> smtp_proto::Config {
    let mut config = config();
    (config.overlap, config.chunking) = (true, Chunking::Never);
    config
}

/// Gives the body of the message under way by DATA.
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
    // The first message is over before the caller has said that its body is.
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
    // It is queued while the end of the data is unanswered, and written when that is answered.
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
    // The caller waits for its file for an hour, and tells no time.
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
