//! What can be asked of a session at any time.

use smtp_proto::{BodyPart, Chunking, Connection, Envelope, Event, Outcome, TlsPolicy};

use super::calls::{BODY, EHLO, at, at_the_body, config, envelope, events, ready, send, sent};

/// Before it sends the body, an application can see who will not get it.
#[test]
fn the_refused_can_be_read_before_the_body() {
    let mut engine = ready(config(), EHLO);
    let to = ["b@example.net", "c@example.net", "d@example.net"];
    let id = engine
        .submit(Envelope::new("a@example.org", to).unwrap())
        .unwrap();
    assert_eq!(engine.refused(id).count(), 0);
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(
        at(0),
        b"250 ok\r\n250 ok\r\n550 no\r\n451 later\r\n354 go\r\n",
    );
    assert!(events(&mut engine).contains(&Event::BodyWanted(id)));
    let refused: Vec<_> = engine
        .refused(id)
        .map(|failure| {
            let mailbox = failure.mailbox.as_str();
            (failure.index, mailbox, failure.error.outcome)
        })
        .collect();
    assert_eq!(
        refused,
        [
            (1, "c@example.net", Outcome::Permanent),
            (2, "d@example.net", Outcome::Transient)
        ]
    );
}

/// A pool keeps a session only while the server takes another message in it.
#[test]
fn a_session_is_used_up_after_the_last_mail() {
    for (ehlo, most) in [
        ("250-mx\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=2\r\n", 2),
        (EHLO, usize::MAX),
    ] {
        let mut engine = ready(config(), ehlo);
        for count in 1..=2 {
            assert!(!engine.is_used_up());
            send(&mut engine);
            assert_eq!(engine.is_used_up(), count >= most);
        }
    }
}

/// A log line tells where a session stands.
#[test]
fn debug_names_the_phase() {
    fn is_in(engine: &Connection, phase: &str) {
        let debug = format!("{engine:?}");
        assert!(debug.contains(&format!("phase: \"{phase}\"")), "{debug}");
    }
    let mut implicit = config();
    implicit.tls = TlsPolicy::Implicit;
    is_in(&Connection::new(implicit, at(0)), "handshake");
    is_in(&Connection::new(config(), at(0)), "opening");
    let mut engine = ready(config(), EHLO);
    is_in(&engine, "ready");
    engine.quit().unwrap();
    is_in(&engine, "leaving");
    assert_eq!(sent(&mut engine, at(0), BodyPart::Next(b"")), "QUIT\r\n");
    is_in(&engine, "closed");
    // One chunk is owed its reply, and the next one cannot be completed.
    let mut chunked = config();
    chunked.chunking = Chunking::Auto;
    let mut engine = at_the_body(chunked, envelope(), b"250 ok\r\n250 ok\r\n");
    sent(&mut engine, at(0), BodyPart::Next(BODY));
    let transmit = engine.poll_transmit(at(0), BodyPart::Next(BODY)).unwrap();
    transmit.advance(1);
    engine.fail_body(Outcome::Permanent, "unreadable").unwrap();
    is_in(&engine, "draining");
}

/// QUIT is flushed even if the connection has ended since. So somebody must know whether there is one.
#[test]
fn a_quit_is_told_once_it_is_out() {
    let mut engine = ready(config(), EHLO);
    assert!(!engine.has_quit());
    engine.quit().unwrap();
    assert!(!engine.has_quit());
    let quit = engine.poll_transmit(at(0), b"").unwrap();
    assert_eq!(quit.advance("QUIT\r".len()), 0);
    assert!(!engine.has_quit() && !engine.is_closed());
    assert_eq!(sent(&mut engine, at(0), BodyPart::Next(b"")), "\n");
    assert!(engine.has_quit() && engine.is_closed());
}
