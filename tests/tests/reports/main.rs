//! Every report is true: constructed situations, one test for each.
//!
//! Each test drives the engine alone, line by line, in virtual time.

use std::time::Duration;

use script::{Script, config, eager_overlap, envelope};
use smtp_proto::{BodyPart, Cause, Envelope, Event, MessageId, Protocol};

mod calls;
mod script;
mod words;

const PIPELINED: &str = "250-mx.example.net\r\n250 PIPELINING\r\n";
const CHUNKED: &str = "250-mx.example.net\r\n250-PIPELINING\r\n250 CHUNKING\r\n";

const MAIL: &str = "MAIL FROM:<a@example.org>\r\n";

// A result is attributed, and never a default.

#[test]
fn a_refusal_holds_for_its_own_transaction() {
    let mut script = Script::open(
        config(),
        "250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1\r\n",
    );
    let id = script.submit(&["b", "c", "d"]);
    for (name, end) in [("b", "250 ok"), ("c", "552 too big"), ("d", "250 ok")] {
        script.pump(b"");
        // After a refusal RSET may come first.
        if script.written == b"RSET\r\n" {
            script.client("RSET\r\n");
            script.server("250 reset\r\n");
        }
        script.client(&format!("{MAIL}RCPT TO:<{name}@example.net>\r\nDATA\r\n"));
        script.server("250 sender\r\n250 recipient\r\n354 go\r\n");
        script.body("x\r\n");
        script.client("x\r\n.\r\n");
        script.server(&format!("{end}\r\n"));
    }
    assert_eq!(script.report(id), ["ok 250", "permanent 552", "ok 250"]);
}

#[test]
fn whoever_was_never_named_is_not_attempted_when_mail_is_refused() {
    let mut script = Script::open(
        config(),
        "250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTMAX=1\r\n",
    );
    let id = script.submit(&["b", "c"]);
    script.client(&format!("{MAIL}RCPT TO:<b@example.net>\r\nDATA\r\n"));
    script.server("550 no\r\n503 no\r\n503 no\r\n");
    script.pump(b"");
    assert_eq!(script.report(id), ["permanent 550", "not attempted"]);
}

#[test]
fn whoever_was_told_452_keeps_it() {
    let mut config = config();
    config.learn_limits = true;
    let mut script = Script::open(config, PIPELINED);
    let id = script.submit(&["b", "c"]);
    script.pump(b"");
    script.server("250 sender\r\n250 b\r\n452 4.5.3 too many\r\n354 go\r\n");
    script.body("x\r\n");
    script.server("552 too big\r\n");
    script.lost();
    assert_eq!(script.report(id), ["permanent 552", "temporary 452"]);
}

#[test]
fn lmtp_whoever_has_no_reply_is_in_doubt() {
    let mut config = config();
    config.protocol = Protocol::Lmtp;
    let mut script = Script::open(config, PIPELINED);
    let id = script.submit(&["b", "c", "d"]);
    script.up_to_354(3);
    script.body("x\r\n");
    script.server("250 b\r\n421 going\r\n");
    script.lost();
    assert_eq!(script.report(id), ["ok 250", "temporary 421", "in doubt"]);
}

#[test]
fn a_chunk_that_was_gathered_is_refused_while_it_is_on_its_way() {
    let mut script = Script::open(config(), CHUNKED);
    let id = script.submit(&["b"]);
    script.client(&format!("{MAIL}RCPT TO:<b@example.net>\r\n"));
    script.server("250 sender\r\n250 recipient\r\n");
    script.gather(b"Subject: x\r\n");
    // The size is known to the server, and the octets are not all there.
    script.engine.handle_given(script.now, 9);
    script.server("552 too big\r\n");
    assert_eq!(script.report(id), ["permanent 552"]);
}

// A reply answers what it can answer, in the order of the wire.

#[test]
fn a_221_does_not_answer_the_end_of_data() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.up_to_354(1);
    script.body("x\r\n");
    script.server("221 bye\r\n");
    script.lost();
    assert_eq!(script.report(id), ["in doubt"]);
}

#[test]
fn a_250_after_a_221_is_the_answer() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.up_to_354(1);
    script.body("x\r\n");
    script.server("221 bye\r\n");
    assert!(!script.is_finished(id));
    script.server("250 taken\r\n");
    script.lost();
    assert_eq!(script.report(id), ["ok 250"]);
}

#[test]
fn quit_is_said_when_nothing_is_owed() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.engine.quit().unwrap();
    script.up_to_354(1);
    script.body("x\r\n");
    script.client("x\r\n.\r\n");
    script.server("250 taken\r\n");
    script.client("QUIT\r\n");
    assert_eq!(script.report(id), ["ok 250"]);
    // Its reply is not waited for.
    assert_eq!(script.events.last(), Some(&Event::Closed(Ok(()))));
}

#[test]
fn a_221_does_not_answer_mail() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.pump(b"");
    script.server("221 bye\r\n");
    // None of the expected replies can come any more.
    assert_eq!(script.report(id), ["temporary 221"]);
}

#[test]
fn a_surplus_reply_to_an_idle_session_answers_nothing() {
    let mut script = Script::open(config(), PIPELINED);
    script.pump(b"");
    let id = script.submit(&["b"]);
    // Input is taken before anything is written.
    script.server("250 stray\r\n");
    script.client("");
    assert_eq!(script.report(id), ["not attempted"]);
    let Some(Event::Closed(Err(error))) = script.events.last() else {
        panic!("not closed")
    };
    assert!(matches!(error.cause, Cause::Protocol(_)), "{error}");
}

#[test]
fn codes_that_cannot_answer_an_overlapping_command_show_the_shift() {
    for code in ["251", "252", "221"] {
        let mut script = Script::open(eager_overlap(), CHUNKED);
        let first = script.submit(&["b"]);
        let second = script.submit(&["c"]);
        script.pump(b"");
        script.body("x\r\n");
        script.pump(b"");
        script.body("y\r\n");
        script.server("250 sender\r\n250 b\r\n250 taken\r\n");
        assert_eq!(script.report(first), ["ok 250"]);
        // RSET was lost. This is the reply to MAIL, that to RCPT, and one that refuses the data.
        script.server(&format!("250 sender\r\n{code} c\r\n554 refused\r\n"));
        script.lost();
        assert_ne!(script.report(second), ["ok 250"], "{code}");
        assert_ne!(
            script.report(second),
            ["permanent 554"],
            "{code}: it is not the reply to RCPT"
        );
        let closed = script.events.iter().any(|event| match event {
            Event::Closed(Err(error)) => {
                matches!(error.cause, Cause::Protocol(_) | Cause::Rejected(_))
            }
            _ => false,
        });
        assert!(closed, "{code}: {:?}", script.events);
    }
}

// "Sent" has one meaning.

#[test]
fn a_write_of_the_body_that_fails_is_temporary() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.up_to_354(1);
    assert_eq!(script.gather(b"x\r\n"), 3);
    script.engine.finish_body().unwrap();
    script.gather(b"");
    script.lost();
    assert_eq!(script.report(id), ["temporary"]);
}

#[test]
fn what_was_offered_and_not_written_is_not_in_doubt() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.up_to_354(1);
    assert_eq!(script.pump(b"x\r\n"), 3);
    script.engine.finish_body().unwrap();
    // The dot is on offer, but its write fails.
    assert!(script.engine.poll_transmit(script.now, b"").is_some());
    script.lost();
    assert_eq!(script.report(id), ["temporary"]);
}

#[test]
fn a_message_that_was_offered_and_not_written_is_not_attempted() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    assert!(script.engine.poll_transmit(script.now, b"").is_some());
    script.lost();
    assert_eq!(script.report(id), ["not attempted"]);
}

#[test]
fn the_clock_of_a_reply_starts_when_its_command_is_written() {
    let mut config = eager_overlap();
    config.timeouts = config.timeouts.replies(Duration::from_millis(300));
    let mut script = Script::open(config, CHUNKED);
    let id = script.submit(&["b"]);
    script.pump(b"");
    script.server("250 sender\r\n250 b\r\n");
    // The chunk goes out octet by octet, for longer than the timeout of a reply.
    let mut body = &[b'x'; 50][..];
    while let Some(transmit) = script
        .engine
        .poll_transmit(script.now, BodyPart::Last(body))
    {
        body = &body[transmit.advance(1)..];
        script.pass(Duration::from_millis(20));
    }
    script.engine.finish_body().unwrap();
    script.pump(b"");
    script.pass(Duration::from_millis(290));
    assert!(!script.is_finished(id), "{:?}", script.events);
    script.server("250 taken\r\n");
    assert_eq!(script.report(id), ["ok 250"]);
}

#[test]
fn the_clock_of_the_end_starts_when_its_last_octet_is_written() {
    let mut script = Script::open(config(), PIPELINED);
    let id = script.submit(&["b"]);
    script.up_to_354(1);
    script.pump(b"x\r\n");
    script.engine.finish_body().unwrap();
    let transmit = script.engine.poll_transmit(script.now, b"").unwrap();
    let rest = transmit.parts()[0].len() - 1;
    transmit.advance(1);
    script.pass(Duration::from_secs(170));
    let transmit = script.engine.poll_transmit(script.now, b"").unwrap();
    transmit.advance(rest);
    // Ten minutes from here, and not from the offer.
    script.pass(Duration::from_secs(595));
    assert!(!script.is_finished(id), "{:?}", script.events);
    script.server("250 taken\r\n");
    assert_eq!(script.report(id), ["ok 250"]);
}

/// The last chunk is given, but its completion has not come.
fn up_to_the_last_chunk() -> (Script, MessageId) {
    let mut script = Script::open(config(), CHUNKED);
    let envelope = envelope(&["b"]).exact_size(3);
    let id = script.engine.submit(envelope).unwrap();
    script.pump(b"");
    script.server("250 sender\r\n250 b\r\n");
    assert!(script.engine.wants_body());
    script.begin(b"x\r\n");
    (script, id)
}

#[test]
fn a_completion_that_is_outstanding_when_the_connection_ends_is_in_doubt() {
    let (mut script, id) = up_to_the_last_chunk();
    script.lost();
    assert_eq!(script.report(id), ["in doubt"]);
}

#[test]
fn a_reply_that_comes_before_the_completion_is_the_answer() {
    let (mut script, id) = up_to_the_last_chunk();
    script.server("250 taken\r\n");
    assert_eq!(script.report(id), ["ok 250"]);
}

// A session that stops sending still reads.

/// Three messages whose ends are given, and a fourth one whose body is wanted.
fn up_to_the_fourth() -> (Script, [MessageId; 4]) {
    let mut script = Script::open(eager_overlap(), CHUNKED);
    let ids = [["b"], ["c"], ["d"], ["e"]].map(|recipients| script.submit(&recipients));
    for _ in 0..3 {
        script.pump(b"");
        script.body("x\r\n");
    }
    script.pump(b"");
    assert!(script.engine.wants_body());
    script.written.clear();
    (script, ids)
}

/// The replies to everything that was given, 20 ms later, and the expected results.
#[track_caller]
fn three_are_delivered_and_the_fourth_is_not(mut script: Script, ids: [MessageId; 4]) {
    script.pump(b"");
    script.pass(Duration::from_millis(20));
    let reset = "250 reset\r\n250 sender\r\n250 recipient\r\n250 taken\r\n";
    script.server("250 sender\r\n250 recipient\r\n250 taken\r\n");
    script.server(&reset.repeat(2));
    script.server("250 reset\r\n250 sender\r\n250 recipient\r\n");
    for id in &ids[..3] {
        assert_eq!(script.report(*id), ["ok 250"]);
    }
    assert_eq!(script.report(ids[3]), ["permanent"]);
    // RSET follows, and the session is usable.
    let next = script
        .engine
        .submit(envelope(&["f"]))
        .expect("the session goes on");
    script.client("RSET\r\n");
    script.server("250 reset\r\n");
    script.client(&format!("{MAIL}RCPT TO:<f@example.net>\r\n"));
    script.body("z\r\n");
    script.server("250 sender\r\n250 recipient\r\n250 taken\r\n");
    assert_eq!(script.report(next), ["ok 250"]);
}

#[test]
fn a_file_that_is_gone_costs_the_others_nothing() {
    let (mut script, ids) = up_to_the_fourth();
    script.fail_body();
    three_are_delivered_and_the_fourth_is_not(script, ids);
}

#[test]
fn a_nul_in_a_body_costs_the_others_nothing() {
    let (mut script, ids) = up_to_the_fourth();
    script.pump(b"\0x\r\n");
    three_are_delivered_and_the_fourth_is_not(script, ids);
}

#[test]
fn with_a_chunk_open_the_session_listens_on() {
    let mut script = Script::open(
        eager_overlap(),
        "250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
    );
    let first = script.submit(&["b"]);
    let second = script
        .engine
        .submit(envelope(&["c"]).exact_size(100))
        .unwrap();
    let third = script.submit(&["d"]);
    script.pump(b"");
    script.body("x\r\n");
    script.pump(b"part of it\r\n");
    script.fail_body();
    assert!(!script.is_finished(first), "{:?}", script.events);
    script.server("250 sender\r\n250 recipient\r\n250 taken\r\n");
    script.lost();
    assert_eq!(script.report(first), ["ok 250"]);
    assert_eq!(script.report(second), ["permanent"]);
    assert_eq!(script.report(third), ["not attempted"]);
}

// Planning does not change any state.

#[test]
fn a_message_that_is_withheld_spends_no_domain() {
    let capabilities = "250-mx\r\n250-PIPELINING\r\n250-SIZE 100\r\n250 LIMITS RCPTDOMAINMAX=1\r\n";
    let mut script = Script::open(config(), capabilities);
    let withheld = Envelope::new("a@example.org", ["b@one.example"])
        .unwrap()
        .size(1_000);
    let withheld = script.engine.submit(withheld).unwrap();
    let sent = Envelope::new("a@example.org", ["c@two.example"])
        .unwrap()
        .size(10);
    let sent = script.engine.submit(sent).unwrap();
    script.up_to_354(1);
    assert_eq!(script.report(withheld), ["permanent"]);
    script.body("x\r\n");
    script.server("250 taken\r\n");
    assert_eq!(script.report(sent), ["ok 250"]);
}

#[test]
fn overlap_is_broken_where_rset_comes_first() {
    let overlapping = || {
        let mut script = Script::open(eager_overlap(), CHUNKED);
        script.submit(&["b"]);
        let second = script.submit(&["c"]);
        script.pump(b"");
        script.body("x\r\n");
        script.pump(b"");
        assert!(
            String::from_utf8_lossy(&script.written).contains("RSET"),
            "it does not overlap"
        );
        script.server("250 sender\r\n250 recipient\r\n250 taken\r\n");
        (script, second)
    };
    let (mut script, second) = overlapping();
    script.server("503 not now\r\n");
    script.pump(b"");
    assert!(script.says_overlap_broken(), "503: {:?}", script.events);
    assert_eq!(script.report(second), ["not attempted"]);

    let (mut script, second) = overlapping();
    script.pass(Duration::from_secs(21));
    assert!(script.says_overlap_broken(), "silence: {:?}", script.events);
    assert_eq!(script.report(second), ["not attempted"]);
}
