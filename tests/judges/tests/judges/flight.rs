//! What was given to the transport, what was written, and how long each may take.

use std::time::Duration;

use smtp_proto::{
    BodyPart, Cause, Chunking, Connection, Envelope, Error, Event, Outcome, Report, Stage,
};

use super::calls::{
    BODY, EHLO, at, at_the_body, config, envelope, events, gathered, ready, reports, sent,
};

/// A session with overlap where the end of a first body was gathered, and the next envelope with it. Returns what was
/// gathered.
fn overlapping(chunking: Chunking, block: u64) -> (Connection, Vec<u8>) {
    let mut config = config();
    config.overlap = true;
    config.chunking = chunking;
    config.timeouts.overlap = Duration::from_secs(7);
    config.timeouts.block = Duration::from_secs(block);
    let mut engine = ready(config, EHLO);
    engine.submit(envelope()).unwrap();
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n");
    if chunking == Chunking::Never {
        engine.handle_input(at(0), b"354 go\r\n");
    }
    events(&mut engine);
    let mut out = gathered(&mut engine, at(0), BodyPart::Last(BODY));
    if engine.wants_body() {
        engine.finish_body().unwrap();
    }
    out.extend(gathered(&mut engine, at(0), BodyPart::Next(b"")));
    (engine, out)
}

/// Where this command begins in what was gathered.
fn place(out: &[u8], command: &str) -> usize {
    String::from_utf8_lossy(out).find(command).unwrap()
}

fn only_error(report: &Report) -> Error {
    report.iter().next().unwrap().1.clone().unwrap_err()
}

/// RSET is given after the reply to the chunk before it, so it overlaps nothing. It is refused, which is not about the
/// message that follows.
#[test]
fn a_refused_rset_is_not_about_the_message_behind_it() {
    for (chunking, late) in [
        (Chunking::Auto, false),
        (Chunking::Auto, true),
        (Chunking::Eager, false),
        (Chunking::Eager, true),
    ] {
        let (mut engine, mut out) = overlapping(chunking, 300);
        events(&mut engine);
        out.extend(gathered(&mut engine, at(0), BodyPart::Last(BODY)));
        assert_eq!(
            out.ends_with(b"x\r\n"),
            chunking == Chunking::Eager,
            "the second body is out"
        );
        let end = place(&out, "RSET");
        engine.handle_written(at(0), if late { end } else { out.len() });
        engine.handle_input(at(0), b"250 taken\r\n");
        if late {
            engine.handle_written(at(0), out.len() - end);
        }
        // RSET, MAIL, RCPT, and the chunk if it has gone out.
        for reply in ["502 unknown\r\n", "503 no\r\n", "503 no\r\n", "503 no\r\n"] {
            engine.handle_input(at(0), reply.as_bytes());
        }
        let (mut reports, mut broken) = (Vec::new(), false);
        for event in events(&mut engine) {
            match event {
                Event::Finished(_, report) => reports.push(report),
                Event::OverlapBroken => broken = true,
                _ => {}
            }
        }
        assert_second_is_not_attempted(&reports, &format!("{chunking:?}, late: {late}"));
        assert_eq!(broken, !late);
        assert!(engine.is_closed());
    }
}

/// The first message was taken, and the one behind it was not attempted.
fn assert_second_is_not_attempted(reports: &[Report], what: &str) {
    assert!(reports[0].is_success());
    let error = only_error(&reports[1]);
    assert_eq!(error.outcome, Outcome::NotAttempted, "{what}");
}

/// RSET goes out after the reply to the chunk before it, and the session ends there. The next message was not
/// attempted. Its MAIL was not given, or the server did not read it.
#[test]
fn an_end_at_a_late_rset_is_not_about_the_message_behind_it() {
    for (reply, is_mail_given) in [
        ("", false),
        ("421 closing\r\n", false),
        ("354 what\r\n", false),
        ("421 closing\r\n", true),
        ("354 what\r\n", true),
    ] {
        let (mut engine, out) = overlapping(Chunking::Auto, 300);
        let (rset, mail) = (place(&out, "RSET"), place(&out, "MAIL"));
        engine.handle_written(at(0), rset);
        engine.handle_input(at(0), b"250 taken\r\n");
        let end = if is_mail_given { out.len() } else { mail };
        engine.handle_written(at(0), end - rset);
        engine.handle_input(at(0), reply.as_bytes());
        engine.handle_eof(at(0));
        let reports = reports(&mut engine);
        assert_second_is_not_attempted(&reports, &format!("{reply:?}, {is_mail_given}"));
    }
}

/// One octet of MAIL before the reply is enough: the server may have read it before it answered.
#[test]
fn a_mail_of_which_a_part_was_given_overlaps() {
    let (_, out) = overlapping(Chunking::Never, 300);
    let mail = place(&out, "MAIL");
    let rcpt = place(&out, "RCPT");
    for given in mail..=rcpt {
        let (mut engine, _) = overlapping(Chunking::Never, 300);
        engine.handle_written(at(0), given);
        engine.handle_input(at(0), b"250 taken\r\n");
        engine.handle_written(at(0), out.len() - given);
        let expected = if given == mail { 300 } else { 7 };
        assert_eq!(engine.poll_timeout(), Some(at(expected)), "{given}");
    }
}

/// The transport takes nothing of MAIL's end. The server is not late, so nothing shows that it minds the overlap.
#[test]
fn only_a_late_reply_breaks_the_overlap() {
    for written in [false, true] {
        let (mut engine, out) = overlapping(Chunking::Never, 5);
        let mail = place(&out, "MAIL");
        engine.handle_written(at(0), mail);
        let rest = if written { out.len() - mail } else { 4 };
        engine.handle_given(at(0), rest);
        engine.handle_input(at(0), b"250 taken\r\n");
        if written {
            engine.handle_written(at(0), rest);
        }
        let deadline = engine.poll_timeout().unwrap();
        assert_eq!(deadline, at(if written { 7 } else { 5 }));
        engine.handle_timeout(deadline);
        let broken = events(&mut engine).contains(&Event::OverlapBroken);
        assert_eq!(broken, written);
        assert!(engine.is_closed());
    }
}

/// An offer was looked at, and nothing of it was taken. That does not prove that what was gathered before is written.
#[test]
fn a_command_of_which_nothing_is_taken_proves_nothing() {
    let mut config = config();
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = ready(config, EHLO);
    engine.submit(envelope()).unwrap();
    let mut out = [0; 5];
    engine.poll_transmit_into(at(0), b"", &mut out);
    let transmit = engine.poll_transmit(at(1), b"").unwrap();
    assert_eq!(transmit.advance(0), 0);
    assert_eq!(engine.poll_timeout(), Some(at(11)));
}

/// A transport that takes nothing of a body is jammed, however often it is asked.
#[test]
fn a_body_of_which_nothing_is_taken_keeps_its_deadline() {
    let mut config = config();
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = at_the_body(config, envelope(), b"250 ok\r\n250 ok\r\n354 go\r\n");
    for now in 0..5 {
        let transmit = engine.poll_transmit(at(now), BODY).unwrap();
        assert_eq!(transmit.advance(0), 0);
        assert_eq!(engine.poll_timeout(), Some(at(10)));
    }
}

/// A body of exact size, of which the last octet is taken without a write. Returns what was gathered before.
fn held_back(block: u64, write: impl Fn(&mut Connection, usize)) -> Connection {
    let mut config = config();
    config.chunking = Chunking::Auto;
    config.timeouts.block = Duration::from_secs(block);
    let mut engine = ready(config, EHLO);
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    engine
        .submit(envelope.exact_size(BODY.len() as u64))
        .unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n");
    events(&mut engine);
    let (front, last) = BODY.split_at(BODY.len() - 1);
    let out = gathered(&mut engine, at(0), front);
    write(&mut engine, out.len());
    let transmit = engine.poll_transmit(at(1), last).unwrap();
    assert_eq!(transmit.parts(), [b"", b""]);
    assert_eq!(transmit.advance(0), 1);
    engine
}

#[test]
fn an_octet_that_is_held_back_has_no_deadline() {
    let engine = held_back(10, |engine, n| engine.handle_written(at(0), n));
    assert_eq!(engine.poll_timeout(), None);
}

/// No octet was written for the one that is held back, so nothing before it was.
#[test]
fn an_octet_that_is_held_back_proves_nothing() {
    let mut engine = held_back(10, |engine, n| engine.handle_given(at(0), n));
    assert_eq!(engine.poll_timeout(), Some(at(10)));
    engine.handle_timeout(at(10));
    let error = only_error(&reports(&mut engine)[0]);
    assert_eq!(error.cause, Cause::TimedOut(Duration::from_secs(10)));
}

/// A refusal of a chunk begins before the chunk has gone out, and ends after the whole body has. The reply to the end
/// of the body decides.
#[test]
fn a_refusal_that_begins_within_a_chunk_answers_it() {
    let mut config = config();
    config.chunking = Chunking::Auto;
    let mut engine = ready(config, EHLO);
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    engine.submit(envelope).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n");
    events(&mut engine);
    let transmit = engine.poll_transmit(at(0), BodyPart::Next(BODY)).unwrap();
    let used = transmit.advance("BDAT 17\r\nSubject".len());
    assert_eq!(used, "Subject".len());
    engine.handle_input(at(0), b"55");
    let rest = sent(&mut engine, at(0), BodyPart::Next(&BODY[used..]));
    assert_eq!(rest.as_bytes(), &BODY[used..]);
    assert_eq!(
        sent(&mut engine, at(0), BodyPart::Last(b"y\r\n")),
        "BDAT 3 LAST\r\ny\r\n"
    );
    engine.handle_input(at(0), b"4 no\r\n503 no\r\n");
    let error = only_error(&reports(&mut engine)[0]);
    assert_eq!(
        (error.stage, error.outcome),
        (Stage::Body, Outcome::Permanent)
    );
    assert_eq!(error.command.as_deref(), Some("BDAT 17"));
}

/// The server repeats its refusal of the second recipient. It begins before it has the header of a chunk. So this reply
/// does not answer the chunk, even if the whole body has gone out when the reply ends. Then the server takes the message.
#[test]
fn a_refusal_that_begins_before_a_chunk_does_not_answer_it() {
    const HEADER: usize = "BDAT 17 LAST\r\n".len();
    for given in [None, Some(0), Some(1), Some(HEADER - 1), Some(HEADER)] {
        let mut config = config();
        config.chunking = Chunking::Auto;
        let paths = ["b@example.net", "c@example.net"];
        let envelope = Envelope::new("a@example.org", paths).unwrap();
        let mut engine = at_the_body(config, envelope, b"250 ok\r\n250 ok\r\n550 no\r\n");
        if let Some(given) = given {
            let out = gathered(&mut engine, at(0), BodyPart::Last(BODY));
            engine.finish_body().unwrap();
            engine.handle_given(at(0), given);
            engine.handle_input(at(0), b"55");
            engine.handle_written(at(0), out.len());
            engine.handle_input(at(0), b"0 no\r\n250 taken\r\n");
        } else {
            engine.handle_input(at(0), b"550 no\r\n");
        }
        let expected = match given {
            None => Outcome::Transient,
            Some(HEADER) => Outcome::Permanent,
            _ => Outcome::InDoubt,
        };
        let error = only_error(&reports(&mut engine)[0]);
        assert_eq!(error.outcome, expected, "{given:?}");
        let is_protocol = matches!(error.cause, Cause::Protocol(_));
        assert_eq!(is_protocol, given != Some(HEADER), "{given:?}");
    }
}

/// The same within a chunk that is not the last. All of it waits in a buffer, or the engine still has its end.
#[test]
fn a_chunk_is_begun_with_its_header() {
    const HEADER: usize = "BDAT 17\r\n".len();
    let begun = || {
        let mut config = config();
        config.chunking = Chunking::Auto;
        at_the_body(config, envelope(), b"250 ok\r\n250 ok\r\n")
    };
    for given in 1..HEADER + 7 {
        for taken in [7, BODY.len()] {
            let mut engine = begun();
            let mut out = vec![0; HEADER + taken];
            let (gathered, used) = engine.poll_transmit_into(at(0), BODY, &mut out);
            assert_eq!((gathered, used), (HEADER + taken, taken));
            engine.handle_given(at(0), given);
            assert_eq!(is_refused(&mut engine, given), given >= HEADER);
        }
        let mut engine = begun();
        engine.poll_transmit(at(0), BODY).unwrap().advance(given);
        assert_eq!(is_refused(&mut engine, given), given >= HEADER);
    }
}

/// Whether an unasked refusal counts as one of this body, of which so much was given.
fn is_refused(engine: &mut Connection, given: usize) -> bool {
    engine.handle_input(at(0), b"554 no\r\n");
    let error = only_error(&reports(engine)[0]);
    let is_refusal = matches!(error.cause, Cause::Rejected(_));
    let expected = match is_refusal {
        true => Outcome::Permanent,
        false => Outcome::Transient,
    };
    assert_eq!(
        (error.stage, error.outcome),
        (Stage::Body, expected),
        "{given}"
    );
    is_refusal
}

/// After 354, a refusal is one of the data, also while the dot waits in a buffer.
#[test]
fn a_refusal_that_begins_within_the_data_answers_it() {
    for given in 0..BODY.len() {
        let mut engine = at_the_body(config(), envelope(), b"250 ok\r\n250 ok\r\n354 go\r\n");
        let mut out = gathered(&mut engine, at(0), BodyPart::Next(BODY));
        engine.finish_body().unwrap();
        out.extend(gathered(&mut engine, at(0), BodyPart::Next(b"")));
        engine.handle_given(at(0), given);
        engine.handle_input(at(0), b"55");
        engine.handle_written(at(0), out.len());
        engine.handle_input(at(0), b"4 no\r\n");
        assert!(!engine.is_closed());
        let error = only_error(&reports(&mut engine)[0]);
        let expected = (Stage::EndOfMessage, Outcome::Permanent);
        assert_eq!((error.stage, error.outcome), expected, "{given}");
    }
}

/// A reply comes before the completion of the write that it answers.
#[test]
fn a_reply_proves_that_its_command_is_written() {
    let mut config = config();
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = ready(config, "250 mx\r\n");
    engine.submit(envelope()).unwrap();
    let out = gathered(&mut engine, at(0), b"");
    engine.handle_given(at(0), out.len());
    assert_eq!(engine.poll_timeout(), Some(at(10)));
    engine.handle_input(at(1), b"250 ok\r\n");
    assert_eq!(engine.poll_timeout(), None);
}

/// A server may refuse a chunk, or the data, that it does not read. The transport may be jammed then, so its deadline
/// stays. A success proves that all of it was read.
#[test]
fn a_refused_body_need_not_be_written() {
    for (chunking, dialogue) in [
        (Chunking::Never, &b"250 ok\r\n250 ok\r\n354 go\r\n"[..]),
        (Chunking::Auto, b"250 ok\r\n250 ok\r\n"),
    ] {
        for (reply, deadline) in [("552 too much\r\n", Some(at(10))), ("250 taken\r\n", None)] {
            let mut config = config();
            config.chunking = chunking;
            config.timeouts.block = Duration::from_secs(10);
            let mut engine = at_the_body(config, envelope(), dialogue);
            let mut out = gathered(&mut engine, at(0), BodyPart::Last(BODY));
            engine.finish_body().unwrap();
            out.extend(gathered(&mut engine, at(0), BodyPart::Next(b"")));
            engine.handle_given(at(0), out.len());
            engine.handle_input(at(1), reply.as_bytes());
            assert_eq!(reports(&mut engine).len(), 1);
            assert_eq!(engine.poll_timeout(), deadline, "{chunking:?}, {reply:?}");
        }
    }
}

/// A reply and a block are due at the same time. The server is late, and its time is told.
#[test]
fn at_the_same_deadline_the_reply_is_late() {
    let mut config = config();
    config.timeouts.mail = Duration::from_secs(20);
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = ready(config, EHLO);
    engine.submit(envelope()).unwrap();
    let mut out = [0; "MAIL FROM:<a@example.org>\r\n".len()];
    engine.poll_transmit_into(at(0), b"", &mut out);
    engine.handle_written(at(0), out.len());
    assert!(engine.poll_transmit(at(10), b"").is_some());
    assert_eq!(engine.poll_timeout(), Some(at(20)));
    engine.handle_timeout(at(20));
    let error = only_error(&reports(&mut engine)[0]);
    let late = Cause::TimedOut(Duration::from_secs(20));
    assert_eq!((error.stage, error.cause), (Stage::Mail, late));
}

/// A chunk costs the round trip of its own reply.
#[test]
fn round_trips_are_counted() {
    let mut config = config();
    config.chunking = Chunking::Auto;
    let mut engine = ready(config, EHLO);
    // The greeting and EHLO.
    assert_eq!(engine.round_trips(), 2);
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n");
    assert_eq!(engine.round_trips(), 3);
    events(&mut engine);
    sent(&mut engine, at(0), BodyPart::Last(BODY));
    engine.handle_input(at(0), b"250 taken\r\n");
    assert_eq!(engine.round_trips(), 4);
}

/// RSET is refused when a part of MAIL is out. A QUIT would become a part of that line.
#[test]
fn nothing_follows_a_part_of_a_command() {
    let mut config = config();
    config.overlap = true;
    config.chunking = Chunking::Auto;
    let mut engine = ready(config, EHLO);
    engine.submit(envelope()).unwrap();
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n");
    events(&mut engine);
    sent(&mut engine, at(0), BodyPart::Last(BODY));
    engine.finish_body().unwrap();
    let transmit = engine.poll_transmit(at(0), BodyPart::Next(b"")).unwrap();
    assert!(transmit.parts()[0].starts_with(b"RSET\r\nMAIL FROM:"));
    transmit.advance("RSET\r\nMAIL".len());
    engine.handle_input(at(0), b"250 taken\r\n502 unknown\r\n");
    assert_eq!(sent(&mut engine, at(0), BodyPart::Next(b"")), "");
    assert!(engine.is_closed() && !engine.has_quit());
}

/// The reply to MAIL does not help the transport to take RCPT.
#[test]
fn a_reply_to_what_is_written_leaves_the_deadline_of_the_rest() {
    let mut config = config();
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = ready(config, EHLO);
    engine.submit(envelope()).unwrap();
    let transmit = engine.poll_transmit(at(0), b"").unwrap();
    transmit.advance("MAIL FROM:<a@example.org>\r\n".len());
    assert!(engine.poll_transmit(at(1), b"").is_some());
    engine.handle_input(at(2), b"250 ok\r\n");
    assert_eq!(engine.poll_timeout(), Some(at(11)));
}

/// A write of no octets gives nothing of what was gathered before it.
#[test]
fn a_write_of_nothing_gives_nothing() {
    for given in [0, 1] {
        let mut engine = ready(config(), EHLO);
        engine.submit(envelope()).unwrap();
        let mut out = [0; "MAIL FROM:<a@example.org>\r\n".len()];
        engine.poll_transmit_into(at(0), b"", &mut out);
        engine.poll_transmit(at(0), b"").unwrap().begin(given);
        engine.handle_eof(at(0));
        let expected = match given {
            0 => Outcome::NotAttempted,
            _ => Outcome::Transient,
        };
        assert_eq!(only_error(&reports(&mut engine)[0]).outcome, expected);
    }
}

/// The caller's own call has no time with it. If a reply is still owed after it, the wait begins with the next call
/// that has one, and is as long as that for the end of a body.
#[test]
fn a_session_drains_from_the_next_time_on() {
    let ends: [fn(&mut Connection); 2] = [
        |engine| engine.fail_body(Outcome::Permanent, "unreadable").unwrap(),
        // The chunk lacks octets.
        |engine| engine.finish_body().unwrap(),
    ];
    for end in ends {
        let mut config = config();
        config.chunking = Chunking::Auto;
        config.timeouts.end_of_message = Duration::from_secs(600);
        let mut engine = at_the_body(config, envelope(), b"250 ok\r\n250 ok\r\n");
        sent(&mut engine, at(0), BodyPart::Next(BODY));
        let transmit = engine.poll_transmit(at(0), BodyPart::Next(BODY)).unwrap();
        transmit.advance("BDAT 17\r\nSub".len());
        end(&mut engine);
        assert_eq!(engine.poll_timeout(), None);
        engine.handle_timeout(at(3_600));
        assert!(!engine.is_closed());
        assert_eq!(engine.poll_timeout(), Some(at(4_200)));
        engine.handle_timeout(at(4_200));
        assert!(engine.is_closed());
    }
}

/// The clock of a reply starts when its command is written. Until then, the transport has its own time.
#[test]
fn a_command_that_is_not_written_has_the_time_of_the_transport() {
    let mut config = config();
    config.timeouts.mail = Duration::from_secs(3);
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = ready(config, "250 mx\r\n");
    engine.submit(envelope()).unwrap();
    let out = gathered(&mut engine, at(0), b"");
    engine.handle_given(at(0), out.len());
    assert_eq!(engine.poll_timeout(), Some(at(10)));
    engine.handle_written(at(1), out.len());
    assert_eq!(engine.poll_timeout(), Some(at(4)));
}
