//! Heap: what a session keeps, and when it is freed.

use allocation_counter::measure;
use smtp_proto::{BodyPart, Channel, Connection, Credentials, Envelope, Request};

use super::calls::{GREETING, at, config, envelope, events, ready, sent};

/// The transport always leaves one octet, so the output is never empty. The octets that it took are dropped even so.
#[test]
fn octets_that_were_taken_are_dropped() {
    const RECIPIENTS: usize = 4_000;
    let to = (0..RECIPIENTS).map(|n| format!("b{n:04}@example.net"));
    let envelope = Envelope::new("a@example.org", to).unwrap();
    let mut engine = ready(config(), "250-mx\r\n250 PIPELINING\r\n");
    engine.submit(envelope).unwrap();
    let mut named = 0;
    let heap = measure(|| {
        for _ in 0..RECIPIENTS {
            if named > RECIPIENTS {
                break;
            }
            let transmit = engine.poll_transmit(at(0), b"").unwrap();
            let commands = transmit.parts()[0];
            let lines = commands.iter().filter(|octet| **octet == b'\n').count();
            let n = commands.len();
            transmit.advance(n - 1);
            // The last line lacks its LF. It goes out with the next offer.
            for _ in 0..lines - 1 {
                engine.handle_input(at(0), b"250 ok\r\n");
            }
            named += lines - 1;
            if lines == 1 {
                break;
            }
        }
    });
    // All but DATA.
    assert_eq!(named, RECIPIENTS + 1);
    assert!(heap.bytes_max < 24 * 1_024, "{} octets", heap.bytes_max);
}

/// A session that has ended in the middle of a login keeps no more of it than one that has ended after it.
#[test]
fn a_closed_session_keeps_no_login() {
    let ended = |logged_in: bool| {
        let mut config = config();
        config.channel = Channel::Local;
        config.credentials = Some(Credentials::password("user", "secret"));
        let config = std::sync::Arc::new(config);
        let mut engine = Connection::new(config.clone(), at(0));
        for reply in [GREETING, "250-mx\r\n250 AUTH PLAIN\r\n"] {
            engine.handle_input(at(0), reply.as_bytes());
            sent(&mut engine, at(0), BodyPart::Next(b""));
        }
        if logged_in {
            engine.handle_input(at(0), b"235 ok\r\n");
        }
        engine.handle_eof(at(0));
        events(&mut engine);
        measure(|| drop(engine)).bytes_current
    };
    assert_eq!(ended(false), ended(true));
}

/// `Debug` tells how many messages and requests are left.
#[test]
fn debug_counts_what_is_left() {
    let mut engine = ready(config(), "250 mx\r\n");
    for count in [0, 1, 2] {
        assert!(format!("{engine:?}").contains(&format!("jobs: {count},")));
        engine.submit(envelope()).unwrap();
    }
}

/// A message is large, and most sessions have one at a time. So the first one takes no room for others.
#[test]
fn a_queue_has_room_for_what_is_in_it() {
    let mut engine = ready(config(), "250 mx\r\n");
    let submits: Vec<_> = (0..4)
        .map(|_| {
            let envelope = envelope();
            let mut submit = || engine.submit(envelope.clone()).map(drop).unwrap();
            measure(&mut submit).bytes_current
        })
        .collect();
    // The first one also begins, so its command is in the output.
    assert!(submits[0] < 2 * submits[1], "{submits:?}");
    assert_eq!(submits[1..3], submits[2..4]);
}

/// It makes no difference to the heap whether events and traces are polled late or at once.
#[test]
fn an_idle_session_keeps_no_queue_of_events() {
    let kept = |late: bool| {
        let mut config = config();
        config.trace = true;
        let mut engine = ready(config, "250 mx\r\n");
        for _ in 0..20 {
            engine.request(Request::noop()).unwrap();
            sent(&mut engine, at(0), BodyPart::Next(b""));
            engine.handle_input(at(0), b"250 ok\r\n");
            if !late {
                events(&mut engine);
            }
        }
        assert_eq!(events(&mut engine).is_empty(), !late);
        measure(|| drop(engine)).bytes_current
    };
    assert_eq!(kept(false), kept(true));
}

/// A server may allow so many domains that the engine does not count them. Then it keeps none.
#[test]
fn domains_that_nobody_counts_are_not_kept() {
    let kept = ["X", "LIMITS RCPTDOMAINMAX=1000"].map(|offer| {
        let mut config = config();
        config.limits.in_flight = 100_000;
        let ehlo = format!("250-mx\r\n250-PIPELINING\r\n250 {offer}\r\n");
        let mut engine = ready(config, &ehlo);
        let to = (0..500).map(|n| format!("b@{n}.example"));
        let envelope = Envelope::new("a@example.org", to).unwrap();
        let heap = measure(|| assert!(engine.submit(envelope).is_ok()));
        heap.bytes_current
    });
    assert_eq!(kept[0], kept[1]);
}
