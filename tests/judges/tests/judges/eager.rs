//! Bodies that go out before the envelope is answered.

use smtp_proto::{BodyPart, Chunking, Config, Connection, Envelope, Event, Outcome, Report, Stage};

use super::calls::{BODY, EHLO, at, config, envelope, events, ready, reports, sent};

fn eager() -> Config {
    let mut config = config();
    config.chunking = Chunking::Eager;
    config
}

fn says(engine: &mut Connection, replies: &str) {
    engine.handle_input(at(0), replies.as_bytes());
}

/// All commands that may go out now.
fn commands(engine: &mut Connection) -> String {
    sent(engine, at(0), BodyPart::Next(b""))
}

/// The whole body, in one chunk.
fn send_body(engine: &mut Connection) {
    events(engine);
    assert!(engine.wants_body());
    let chunk = sent(engine, at(0), BodyPart::Last(BODY));
    assert!(chunk.starts_with("BDAT 17 LAST\r\n"), "{chunk:?}");
    engine.finish_body().unwrap();
}

/// A chunk that was begun before the envelope was answered costs no round trip more, even if its end goes out later.
#[test]
fn a_chunk_counts_from_its_first_octet() {
    let mut engine = ready(eager(), EHLO);
    engine.submit(envelope()).unwrap();
    commands(&mut engine);
    events(&mut engine);
    assert_eq!(engine.round_trips(), 2);
    let transmit = engine.poll_transmit(at(0), BodyPart::Next(BODY)).unwrap();
    let used = transmit.advance("BDAT 17\r\nSub".len());
    says(&mut engine, "250 ok\r\n250 ok\r\n");
    assert_eq!(engine.round_trips(), 3);
    sent(&mut engine, at(0), BodyPart::Next(&BODY[used..]));
    says(&mut engine, "250 ok\r\n");
    assert_eq!(engine.round_trips(), 3);
    // This one was begun after all of these replies.
    let last = sent(&mut engine, at(0), BodyPart::Last(b"y\r\n"));
    assert_eq!(last, "BDAT 3 LAST\r\ny\r\n");
    says(&mut engine, "250 taken\r\n");
    assert_eq!(engine.round_trips(), 4);
}

/// The first part of a message is refused before the application has looked. Then only the body of the second part is
/// asked for.
#[test]
fn a_body_that_is_not_wanted_any_more_is_not_asked_for() {
    let ehlo = "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 LIMITS RCPTMAX=1\r\n";
    let mut engine = ready(eager(), ehlo);
    let envelope = Envelope::new("a@example.org", ["b@example.net", "c@example.net"]).unwrap();
    let id = engine.submit(envelope.reopenable(true)).unwrap();
    commands(&mut engine);
    says(&mut engine, "250 ok\r\n550 no\r\n");
    assert_eq!(commands(&mut engine), "RSET\r\n");
    says(&mut engine, "250 ok\r\n");
    assert!(commands(&mut engine).ends_with("RCPT TO:<c@example.net>\r\n"));
    assert_eq!(events(&mut engine), [Event::BodyWanted(id)]);
    assert!(engine.wants_body());
}

/// A chunk was begun, and all recipients are refused. Its rest is sent if it is not larger than a whole chunk may be.
#[test]
fn a_chunk_for_nobody_is_completed_up_to_the_size_of_a_chunk() {
    const LEFT: usize = 10;
    for left in [LEFT - 1, LEFT, LEFT + 1] {
        let mut config = eager();
        config.chunk_size = LEFT;
        let mut engine = ready(config, EHLO);
        let envelope = envelope().exact_size(BODY.len() as u64);
        engine.submit(envelope).unwrap();
        commands(&mut engine);
        events(&mut engine);
        let (front, rest) = BODY.split_at(BODY.len() - left);
        let transmit = engine.poll_transmit(at(0), BodyPart::Last(BODY)).unwrap();
        let used = transmit.advance("BDAT 17 LAST\r\n".len() + front.len());
        assert_eq!(used, front.len());
        says(&mut engine, "250 ok\r\n550 no\r\n");
        assert_eq!(engine.is_closed(), left > LEFT, "{left} are left");
        let out = sent(&mut engine, at(0), BodyPart::Last(rest));
        assert_eq!(out.as_bytes(), if left > LEFT { b"" } else { rest });
        if left <= LEFT {
            says(&mut engine, "503 need RCPT\r\n");
        }
        let errors: Vec<_> = failures(&reports(&mut engine));
        assert_eq!(errors, [(Stage::Rcpt, Outcome::Permanent)]);
    }
}

fn failures(reports: &[Report]) -> Vec<(Stage, Outcome)> {
    let failures = reports.iter().flat_map(Report::failures);
    failures
        .map(|failure| (failure.error.stage, failure.error.outcome))
        .collect()
}

/// A message whose sender is refused has no other part. Once its RCPT is answered too, the next message need not wait
/// for the reply to its chunk.
#[test]
fn nothing_waits_for_another_part_of_a_refused_message() {
    let mut config = eager();
    config.overlap = true;
    config.learn_limits = true;
    let mut engine = ready(config, EHLO);
    engine.submit(envelope().reopenable(true)).unwrap();
    engine.submit(envelope().reopenable(true)).unwrap();
    commands(&mut engine);
    send_body(&mut engine);
    for (reply, command) in [("550 no\r\n", ""), ("503 no\r\n", "RSET\r\nMAIL FROM:")] {
        says(&mut engine, reply);
        let out = commands(&mut engine);
        assert_eq!(out.is_empty(), command.is_empty(), "{out:?}");
        assert!(out.starts_with(command), "{out:?}");
    }
}

/// A session with overlap in which two messages have gone out, and nothing is answered.
fn two_bodies_out() -> Connection {
    let mut config = eager();
    config.overlap = true;
    let mut engine = ready(config, EHLO);
    for _ in 0..2 {
        engine.submit(envelope()).unwrap();
    }
    for _ in 0..2 {
        commands(&mut engine);
        send_body(&mut engine);
    }
    engine
}

/// Two bodies are out when the connection is lost. Both are in doubt, and the second one was told nothing of the RCPT
/// of the first.
#[test]
fn a_message_in_doubt_has_no_command_of_another() {
    let mut engine = two_bodies_out();
    says(&mut engine, "250 ok\r\n");
    engine.handle_eof(at(0));
    let reports = reports(&mut engine);
    let told: Vec<_> = reports.iter().flat_map(Report::failures).collect();
    let about: Vec<_> = told
        .iter()
        .map(|failure| (failure.error.command.as_deref(), failure.error.recipient))
        .collect();
    let first = (Some("RCPT TO:<b@example.net>"), Some(0));
    assert_eq!(about, [first, (None, None)]);
    assert!(reports.iter().all(Report::maybe_delivered));
}

/// The server refuses MAIL, and then says that it has taken the whole body. Nobody knows what it did for those whom it
/// accepted. After a refused chunk, it does not have the message.
#[test]
fn a_body_that_is_taken_without_a_sender_is_in_doubt() {
    let (ok, no) = ("250 ok\r\n", "550 no\r\n");
    let (refused, doubt) = (Outcome::Permanent, Outcome::InDoubt);
    for (mail, last_rcpt, chunk, end, expected) in [
        (no, ok, ok, ok, [doubt, doubt]),
        (no, no, ok, ok, [doubt, refused]),
        (ok, ok, no, ok, [refused, refused]),
        (no, ok, ok, no, [refused, refused]),
        (ok, ok, no, no, [refused, refused]),
    ] {
        let mut engine = ready(eager(), EHLO);
        let paths = ["b@example.net", "c@example.net"];
        engine
            .submit(Envelope::new("a@example.org", paths).unwrap())
            .unwrap();
        commands(&mut engine);
        events(&mut engine);
        sent(&mut engine, at(0), BodyPart::Next(BODY));
        sent(&mut engine, at(0), BodyPart::Last(BODY));
        engine.finish_body().unwrap();
        for reply in [mail, ok, last_rcpt, chunk, end] {
            says(&mut engine, reply);
        }
        let reports = reports(&mut engine);
        let outcomes: Vec<_> = failures(&reports)
            .iter()
            .map(|(_, outcome)| *outcome)
            .collect();
        assert_eq!(
            outcomes, expected,
            "{mail:?} {last_rcpt:?} {chunk:?} {end:?}"
        );
    }
}

/// A 421 answers the RSET or the MAIL of the second message, whose body is out already. So that message was not
/// attempted. A later 421 refuses it.
#[test]
fn a_421_to_an_overlapping_envelope_is_not_about_its_body() {
    for (replies, expected) in [
        ("421 closing\r\n", Outcome::NotAttempted),
        ("250 ok\r\n421 closing\r\n", Outcome::NotAttempted),
        ("250 ok\r\n250 ok\r\n421 closing\r\n", Outcome::Transient),
        ("", Outcome::InDoubt),
    ] {
        let mut engine = two_bodies_out();
        says(&mut engine, "250 ok\r\n250 ok\r\n250 taken\r\n");
        says(&mut engine, replies);
        engine.handle_eof(at(0));
        let reports = reports(&mut engine);
        assert!(reports[0].is_success());
        assert_eq!(reports[1].outcome(), Some(expected), "after {replies:?}");
    }
}

/// RCPT is not answered yet, and 452 would leave the recipient to another part. The next message waits for that only
/// if the message may have another part.
#[test]
fn only_a_message_that_may_be_split_is_waited_for() {
    for (learn_limits, is_reopenable) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        let mut config = eager();
        config.overlap = true;
        config.learn_limits = learn_limits;
        let mut engine = ready(config, EHLO);
        for _ in 0..2 {
            let envelope = envelope().reopenable(is_reopenable);
            engine.submit(envelope).unwrap();
        }
        commands(&mut engine);
        send_body(&mut engine);
        let out = commands(&mut engine);
        let waits = learn_limits && is_reopenable;
        let expected = if waits { "" } else { "RSET\r\nMAIL FROM:" };
        assert!(out.starts_with(expected), "{out:?}");
        assert_eq!(out.is_empty(), waits, "{learn_limits}, {is_reopenable}");
    }
}
