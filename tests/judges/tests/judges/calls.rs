//! Limits, bounds and rare calls: what an application sees of them, and what goes out.

use std::time::Duration;

use smtp_proto::error::Misuse;
use smtp_proto::event::Trace;
use smtp_proto::parameter::{MailParameter, Ret};
use smtp_proto::{
    BodyPart, Cause, Chunking, ClientName, Config, Connection, Envelope, Event, Instant, Outcome,
    Report, Request, Stage, TlsPolicy,
};

pub(super) const GREETING: &str = "220 mx.example.net\r\n";
pub(super) const EHLO: &str = "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 DSN\r\n";
/// More turns than any loop takes here.
pub(super) const MOST: usize = 1_000;
pub(super) const BODY: &[u8] = b"Subject: x\r\n\r\nx\r\n";

pub(super) fn at(seconds: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(seconds))
}

pub(super) fn config() -> Config {
    super::watch();
    let mut config = Config::new(ClientName::parse("client.example").unwrap());
    config.tls = TlsPolicy::Never;
    config.chunking = Chunking::Never;
    config
}

pub(super) fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

/// All that the engine has to send now. It is not given yet. An offer that comes again for ever fills the buffer, and
/// no more.
pub(super) fn gathered<'a>(
    engine: &mut Connection,
    now: Instant,
    body: impl Into<BodyPart<'a>>,
) -> Vec<u8> {
    let mut out = [0; 64 * 1_024];
    let (gathered, _) = engine.poll_transmit_into(now, body, &mut out);
    out[..gathered].to_vec()
}

/// The same, given and written at once.
pub(super) fn sent(engine: &mut Connection, now: Instant, body: BodyPart<'_>) -> String {
    let out = gathered(engine, now, body);
    engine.handle_written(now, out.len());
    String::from_utf8(out).unwrap()
}

/// A session in which the body of this message is due: the server answers its envelope with this.
pub(super) fn at_the_body(config: Config, envelope: Envelope, replies: &[u8]) -> Connection {
    let mut engine = ready(config, EHLO);
    engine.submit(envelope).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), replies);
    events(&mut engine);
    engine
}

/// What the engine has to tell.
pub(super) fn events(engine: &mut Connection) -> Vec<Event> {
    let events: Vec<_> = std::iter::from_fn(|| engine.poll_event())
        .take(MOST)
        .collect();
    assert!(events.len() < MOST, "an event comes again for ever");
    events
}

/// A session that is ready, with this reply to EHLO.
pub(super) fn ready(config: Config, ehlo: &str) -> Connection {
    let mut engine = Connection::new(config, at(0));
    engine.handle_input(at(0), GREETING.as_bytes());
    assert_eq!(
        sent(&mut engine, at(0), BodyPart::Next(b"")),
        "EHLO client.example\r\n"
    );
    engine.handle_input(at(0), ehlo.as_bytes());
    let events = events(&mut engine);
    assert!(
        !events.iter().any(|event| matches!(event, Event::Closed(_))),
        "{events:?}"
    );
    engine
}

pub(super) fn reports(engine: &mut Connection) -> Vec<Report> {
    let reports = events(engine).into_iter().filter_map(|event| match event {
        Event::Finished(_, report) => Some(report),
        _ => None,
    });
    reports.collect()
}

/// One message, from MAIL to the last reply.
pub(super) fn send(engine: &mut Connection) {
    engine.submit(envelope()).unwrap();
    sent(engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n354 go\r\n");
    events(engine);
    assert!(engine.wants_body());
    sent(engine, at(0), BodyPart::Last(BODY));
    engine.finish_body().unwrap();
    sent(engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 taken\r\n");
    let report = reports(engine).remove(0);
    assert!(report.is_success(), "{report:?}");
}

#[test]
pub(super) fn the_limit_of_recipients_is_exact() {
    let mut config = config();
    config.limits.recipients = 2;
    let mut engine = ready(config, EHLO);
    for count in [1, 2, 3, 4] {
        let to: Vec<_> = (0..count).map(|n| format!("b{n}@example.net")).collect();
        let submitted = engine.submit(Envelope::new("a@example.org", to).unwrap());
        match count {
            1 | 2 => assert!(submitted.is_ok(), "{count}"),
            _ => assert_eq!(
                submitted,
                Err(Misuse::TooManyRecipients { limit: 2 }),
                "{count}"
            ),
        }
    }
}

/// Messages, requests and results that nobody has polled count alike.
#[test]
fn the_limit_of_messages_counts_results_too() {
    let mut config = config();
    config.limits.messages = 3;
    let mut engine = ready(config, EHLO);
    engine.request(Request::noop()).unwrap();
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n");
    // One is answered, and that result waits.
    engine.request(Request::noop()).unwrap();
    let full = Err(Misuse::QueueFull { limit: 3 });
    assert_eq!(engine.submit(envelope()), full);
    assert!(matches!(engine.poll_event(), Some(Event::Answered(..))));
    engine.submit(envelope()).unwrap();
    assert_eq!(engine.submit(envelope()), full);
}

#[test]
fn the_count_of_missed_traces_is_exact() {
    for most in [0, 2] {
        let mut config = config();
        config.trace = true;
        config.limits.traces = most;
        let mut engine = ready(config, EHLO);
        engine.submit(envelope()).unwrap();
        sent(&mut engine, at(0), BodyPart::Next(b""));
        // MAIL, RCPT, DATA and three replies are six steps.
        engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n354 go\r\n");
        let traces = traces(&mut engine);
        assert_eq!(traces[0], Trace::Missed(6 - most as u64), "{traces:?}");
        assert_eq!(traces.len(), 1 + most, "{traces:?}");
    }
}

/// The steps of the conversation since they were last asked for.
fn traces(engine: &mut Connection) -> Vec<Trace> {
    let traces = events(engine).into_iter().filter_map(|event| match event {
        Event::Trace(trace) => Some(trace),
        _ => None,
    });
    traces.collect()
}

/// Events and traces come in the order in which they happened, however late somebody polls.
#[test]
fn events_and_traces_have_one_order() {
    let mut config = config();
    config.trace = true;
    let mut engine = Connection::new(config, at(0));
    engine.handle_input(at(0), GREETING.as_bytes());
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 mx\r\n");
    engine.request(Request::noop()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n");
    let order = events(&mut engine).into_iter().map(|event| match event {
        Event::Trace(Trace::Sent(command)) => command.split(' ').next().unwrap().to_owned(),
        Event::Trace(Trace::Received(reply)) => reply.code().to_string(),
        Event::Ready => "ready".to_owned(),
        Event::Answered(..) => "answered".to_owned(),
        other => panic!("{other:?}"),
    });
    let order: Vec<_> = order.collect();
    let expected = ["220", "EHLO", "250", "ready", "NOOP", "250", "answered"];
    assert_eq!(order, expected);
}

/// A body that went out in chunks is told by its chunks, and any other one as a whole.
#[test]
fn a_body_is_traced_once() {
    for (chunking, replies, expected) in [
        (
            Chunking::Never,
            "250 ok\r\n250 ok\r\n354 go\r\n",
            Trace::SentBody { octets: 17 },
        ),
        (
            Chunking::Auto,
            "250 ok\r\n250 ok\r\n",
            Trace::SentChunk {
                octets: 17,
                last: true,
            },
        ),
    ] {
        let mut config = config();
        config.trace = true;
        config.chunking = chunking;
        let mut engine = at_the_body(config, envelope(), replies.as_bytes());
        sent(&mut engine, at(0), BodyPart::Last(BODY));
        engine.finish_body().unwrap();
        assert_eq!(traces(&mut engine), [expected]);
    }
}

/// A session between messages has no more heap than before the first one.
#[test]
fn an_idle_session_keeps_no_buffer() {
    let mut engine = ready(config(), EHLO);
    let heap = allocation_counter::measure(|| {
        for _ in 0..3 {
            send(&mut engine);
        }
    });
    assert!(heap.count_total > 0);
    assert!(heap.bytes_current <= 0, "{} octets", heap.bytes_current);
}

#[test]
fn a_closed_session_keeps_no_buffer() {
    let mut heap = 0;
    for _ in 0..2 {
        let mut engine = ready(config(), EHLO);
        engine.submit(envelope()).unwrap();
        let measured = allocation_counter::measure(|| {
            sent(&mut engine, at(0), BodyPart::Next(b""));
            engine.handle_eof(at(0));
            reports(&mut engine);
        });
        heap = measured.bytes_current;
    }
    assert!(heap <= 0, "{heap} octets");
}

/// What the transport says is told with the stage at which it came.
#[test]
fn a_lost_connection_is_told_with_its_stage() {
    for cause in [
        Cause::Transport("reset".into()),
        Cause::TlsFailed("alert".into()),
        Cause::Disconnected,
    ] {
        let mut engine = ready(config(), EHLO);
        engine.submit(envelope()).unwrap();
        sent(&mut engine, at(0), BodyPart::Next(b""));
        engine.handle_lost(at(0), cause.clone());
        let report = reports(&mut engine).remove(0);
        let error = report.iter().next().unwrap().1.as_ref().unwrap_err();
        assert_eq!((error.stage, &error.cause), (Stage::Mail, &cause));
    }
}

/// Octets of commands without an answer stay within the limit, however long the parameters of MAIL are.
#[test]
fn an_overlapping_mail_stays_within_the_octets_in_flight() {
    let mut overlapped = 0;
    for limit in 20..200 {
        let mut config = config();
        config.overlap = true;
        config.limits.in_flight = limit;
        let mut engine = ready(config, EHLO);
        for _ in 0..2 {
            let parameters = [
                MailParameter::ret(Ret::Full),
                MailParameter::envelope_id("id").unwrap(),
            ];
            let envelope = parameters.into_iter().fold(envelope(), Envelope::parameter);
            engine.submit(envelope).unwrap();
        }
        let mut commands = Vec::new();
        for _ in 0..MOST {
            if engine.wants_body() {
                break;
            }
            let out = sent(&mut engine, at(0), BodyPart::Next(b""));
            commands.extend(out.lines().map(str::to_owned));
            let reply = match commands.remove(0).as_str() {
                "DATA" => "354 go\r\n",
                _ => "250 ok\r\n",
            };
            engine.handle_input(at(0), reply.as_bytes());
            events(&mut engine);
        }
        sent(&mut engine, at(0), BodyPart::Last(BODY));
        engine.finish_body().unwrap();
        let end = sent(&mut engine, at(0), BodyPart::Next(b""));
        if end != ".\r\n" {
            assert!(end.len() <= limit, "{} of {limit}: {end:?}", end.len());
            overlapped += 1;
        }
    }
    assert!((20..180).contains(&overlapped), "{overlapped}");
}

/// A chunk has the size of what was offered, and not of the room for it.
#[test]
fn a_small_buffer_makes_no_small_chunks() {
    let mut config = config();
    config.chunking = Chunking::Auto;
    let mut engine = at_the_body(config, envelope(), b"250 ok\r\n250 ok\r\n");
    let body = [b'x'; 600];
    let (mut used, mut wire) = (0, Vec::new());
    while used < body.len() {
        let mut out = [0; 100];
        let (gathered, of_body) = engine.poll_transmit_into(at(0), &body[used..], &mut out);
        engine.handle_written(at(0), gathered);
        wire.extend_from_slice(&out[..gathered]);
        used += of_body;
        assert!(gathered > 0 && wire.len() < MOST);
    }
    let header = wire.split(|octet| *octet == b'\r').next().unwrap();
    assert_eq!(String::from_utf8_lossy(header), "BDAT 600");
}

/// The caller's own call has no time with it. The wait begins with the next call that has.
#[test]
fn a_body_that_is_given_up_late_is_waited_for_from_then_on() {
    let mut engine = ready(config(), EHLO);
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n354 go\r\n");
    events(&mut engine);
    sent(&mut engine, at(0), BodyPart::Next(BODY));
    // An hour later, which is longer than any timeout.
    engine.fail_body(Outcome::Permanent, "unreadable").unwrap();
    let now = at(3_600);
    engine
        .poll_transmit(now, BodyPart::Next(b""))
        .map(drop)
        .unwrap_or_default();
    if let Some(deadline) = engine.poll_timeout() {
        assert!(deadline > now, "{deadline:?}");
    }
}

/// Of two deadlines the earlier one counts: the transport takes nothing, and a reply is owed.
#[test]
fn the_earlier_deadline_counts() {
    for (block, expected) in [(10, 10), (1_000, 300)] {
        let mut config = config();
        config.timeouts.block = Duration::from_secs(block);
        let mut engine = ready(config, EHLO);
        engine.submit(envelope()).unwrap();
        let transmit = engine.poll_transmit(at(0), BodyPart::Next(b"")).unwrap();
        transmit.advance("MAIL FROM:<a@example.org>\r\n".len());
        assert!(engine.poll_transmit(at(0), BodyPart::Next(b"")).is_some());
        assert_eq!(engine.poll_timeout(), Some(at(expected)));
    }
}

/// The application may be slow. Its pause is not the transport's.
#[test]
fn nothing_on_offer_has_no_deadline() {
    let mut engine = ready(config(), EHLO);
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n354 go\r\n");
    events(&mut engine);
    assert!(engine.poll_transmit(at(0), BodyPart::Next(BODY)).is_some());
    assert!(engine.poll_timeout().is_some());
    assert!(engine.poll_transmit(at(0), BodyPart::Next(b"")).is_none());
    assert_eq!(engine.poll_timeout(), None);
}

/// MAIL was gathered with the end of the data, and given after its reply. So it overlaps nothing, and has its usual
/// time.
#[test]
fn a_mail_that_is_given_late_does_not_overlap() {
    for late in [false, true] {
        let mut config = config();
        config.overlap = true;
        config.timeouts.overlap = Duration::from_secs(7);
        let mut engine = ready(config, EHLO);
        engine.submit(envelope()).unwrap();
        engine.submit(envelope()).unwrap();
        sent(&mut engine, at(0), BodyPart::Next(b""));
        engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n354 go\r\n");
        events(&mut engine);
        sent(&mut engine, at(0), BodyPart::Last(BODY));
        engine.finish_body().unwrap();
        let out = gathered(&mut engine, at(0), BodyPart::Next(b""));
        assert!(out.starts_with(b".\r\nMAIL FROM:"));
        engine.handle_written(at(0), if late { 3 } else { out.len() });
        engine.handle_input(at(0), b"250 taken\r\n");
        if late {
            engine.handle_written(at(0), out.len() - 3);
        }
        assert_eq!(engine.poll_timeout(), Some(at(if late { 300 } else { 7 })));
    }
}

/// Nobody gets it in another session either, so the message is refused for good.
#[test]
fn all_or_nothing_with_more_domains_than_a_session_may_have_is_refused() {
    for (domains, expected) in [(2, Outcome::Permanent), (1, Outcome::NotAttempted)] {
        let ehlo = "250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTDOMAINMAX=1\r\n";
        let mut engine = ready(config(), ehlo);
        // One domain is used up in this session.
        send(&mut engine);
        let to = (0..domains).map(|n| format!("b@{n}.example"));
        let envelope = Envelope::new("a@example.org", to).unwrap();
        engine.submit(envelope.all_or_nothing(true)).unwrap();
        assert_eq!(sent(&mut engine, at(0), BodyPart::Next(b"")), "");
        let report = reports(&mut engine).remove(0);
        for (_, result) in &report {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.outcome, expected, "{report:?}");
            let cause = Cause::LimitExceeded {
                name: "RCPTDOMAINMAX",
                limit: 1,
                value: 2,
            };
            assert_eq!(error.cause, cause);
        }
    }
}

/// Of what was given, nothing more is written because a later offer was looked at.
#[test]
fn an_offer_of_which_nothing_is_taken_proves_nothing() {
    let mut config = config();
    config.timeouts.block = Duration::from_secs(10);
    let mut engine = at_the_body(config, envelope(), b"250 ok\r\n250 ok\r\n354 go\r\n");
    let out = gathered(&mut engine, at(0), BodyPart::Next(BODY));
    engine.handle_given(at(0), out.len());
    let transmit = engine.poll_transmit(at(1), BodyPart::Next(BODY)).unwrap();
    assert_eq!(transmit.advance(0), 0);
    assert!(engine.poll_transmit(at(1), BodyPart::Next(b"")).is_none());
    assert!(engine.poll_timeout().is_some());
    engine.handle_written(at(1), out.len());
    assert_eq!(engine.poll_timeout(), None);
}

/// What a message was told of a recipient is not told to the next message.
#[test]
fn a_message_that_was_not_begun_has_no_command_of_another() {
    let mut engine = ready(config(), EHLO);
    engine.submit(envelope()).unwrap();
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n");
    engine.handle_eof(at(0));
    let errors: Vec<_> = reports(&mut engine)
        .iter()
        .map(|report| report.iter().next().unwrap().1.clone().unwrap_err())
        .collect();
    assert!(errors[0].command.as_ref().unwrap().starts_with("RCPT"));
    assert!(errors[0].recipient.is_some());
    assert_eq!((&errors[1].command, &errors[1].recipient), (&None, &None));
    assert_eq!(errors[1].outcome, Outcome::NotAttempted);
}
