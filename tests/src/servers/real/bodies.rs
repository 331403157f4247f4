//! One message at a time: every way of a body, addresses, delivery reports.

use smtp_proto::event::Trace;
use smtp_proto::parameter::MailParameter;
use smtp_proto::{Cause, Chunking, Envelope, Extension, Outcome, Stage};

use super::client::{Adapter, Manner, failures, terms};
use super::{NAME, SENDER, Server, UTF8_DOMAIN, address, arrives, envelope, same};

/// Dots, lines up to 20,000 octets, and octets that are not UTF-8, without a line end at the end.
pub fn awkward() -> Vec<u8> {
    let mut body =
        b".\r\n..\r\n.. \r\n.a\r\na.\r\n\r\n.\r\n\xc3\xa9t\xc3\xa9 \xff\x80\r\n".to_vec();
    for length in [997, 998, 999, 2_000, 20_000] {
        body.extend_from_slice(&vec![b'x'; length]);
        body.extend_from_slice(b"\r\n.");
        body.extend_from_slice(&vec![b'.'; length]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b".no line end");
    body
}

/// One message through each adapter, by STARTTLS with the certificate's issuer and name checked.
pub fn a_single_message(server: &Server) {
    for adapter in Adapter::all(server) {
        let user = format!("single-{}", adapter.name());
        let message = format!("From: <sender@example.org>\r\nSubject: {user}\r\n\r\nHello.\r\n");
        let mut session = adapter.open(server, &Manner::default());
        assert_eq!(
            session.tls_info().unwrap().verified_name.as_deref(),
            Some(NAME)
        );
        let report = session
            .send_last(envelope(&[&user]), message.as_bytes())
            .unwrap();
        assert!(report.is_success(), "{report:?}");
        // Greeting, EHLO, STARTTLS, EHLO; the envelope; the message, with QUIT after it. MAIL, RCPT and DATA are one by
        // one without PIPELINING.
        let envelope = if server.kind.pipelining { 1 } else { 3 };
        assert_eq!(session.round_trips(), 4 + envelope + 1);
        arrives(server, &user, &[message.as_bytes()]);
    }
    let wrong = terms(server, &Manner::default(), false).server_name("other.example.test");
    let error = smtp_blocking::Session::connect(&wrong).unwrap_err();
    assert!(
        matches!(
            (error.stage(), error.cause()),
            (Stage::StartTls, Cause::TlsUntrusted(_))
        ),
        "{error}"
    );
}

/// Each way of a body, with a name for its users, and whether its size is declared.
fn ways() -> [(&'static str, Manner, bool); 9] {
    let way = |chunking, overlap| Manner {
        chunking,
        overlap,
        ..Manner::default()
    };
    let kib = Manner {
        chunk_size: 1024,
        ..way(Chunking::Always, false)
    };
    [
        ("data", way(Chunking::Never, false), false),
        ("data-overlapping", way(Chunking::Never, true), false),
        ("streamed", way(Chunking::Auto, false), false),
        ("streamed-overlapping", way(Chunking::Auto, true), false),
        ("kib", kib, false),
        ("exact", way(Chunking::Auto, false), true),
        ("eager", way(Chunking::Eager, false), false),
        ("eager-overlapping", way(Chunking::Eager, true), false),
        ("eager-exact", way(Chunking::Eager, true), true),
    ]
}

/// Over one session, by each adapter and in each way: [`awkward`], 5 MiB, a message for one of three recipients, one
/// that nobody takes, and one after them.
pub fn every_way_of_a_body(server: &Server) {
    let line = |n: usize| {
        format!(
            "{}line {n} of five mebibytes\r\n",
            if n.is_multiple_of(7) { "." } else { "" }
        )
    };
    let mut large = String::from("Subject: large\r\n\r\n");
    (0..)
        .map(line)
        .take_while(|line| {
            large.push_str(line);
            large.len() < 5 << 20
        })
        .for_each(drop);
    let bodies = [
        [b"Subject: awkward\r\n\r\n", &awkward()[..]].concat(),
        large.into_bytes(),
        b"Subject: partial\r\n\r\nFor one of three.\r\n".to_vec(),
        b"Subject: nobody\r\n\r\nFor nobody.\r\n".to_vec(),
        b"Subject: last\r\n\r\nAll is well.\r\n".to_vec(),
    ];
    for (adapter, (way, manner, exact)) in Adapter::all(server)
        .iter()
        .flat_map(|adapter| ways().map(|way| (adapter, way)))
    {
        // They go out by DATA, one way or the other.
        if !server.kind.chunking && !["data-overlapping", "streamed", "exact"].contains(&way) {
            continue;
        }
        let user = format!("{way}-{}", adapter.name());
        let to: [&[&str]; 5] = [
            &[&user],
            &[&user],
            &["refused", &user, "greylisted"],
            &["refused", "greylisted"],
            &[&user],
        ];
        let whole = bodies.clone().map(|body| {
            if body.ends_with(b"\n") {
                body
            } else {
                [&body[..], b"\r\n"].concat()
            }
        });
        let messages: Vec<_> = (0..bodies.len())
            .map(|n| match exact {
                true => (
                    envelope(to[n]).exact_size(whole[n].len() as u64),
                    bodies[n].clone(),
                ),
                false => (envelope(to[n]), bodies[n].clone()),
            })
            .collect();
        let session = adapter.open(server, &manner);
        let trace = session.trace.clone();
        let delivery = session.send_all(&messages);
        assert!(!delivery.overlap_broken, "{user}");
        let (later, why) = server.kind.greylisted;
        let refused = |index| {
            (
                index,
                Stage::Rcpt,
                Outcome::Permanent,
                550,
                "5.1.1".to_string(),
            )
        };
        let greylisted = |index| {
            (
                index,
                Stage::Rcpt,
                Outcome::Transient,
                later,
                why.to_string(),
            )
        };
        let expected = [
            vec![],
            vec![],
            vec![refused(0), greylisted(2)],
            vec![refused(0), greylisted(1)],
            vec![],
        ];
        assert_eq!(
            delivery.reports.iter().map(failures).collect::<Vec<_>>(),
            expected,
            "{user}"
        );
        let mut arrived: Vec<_> = whole.iter().map(Vec::as_slice).collect();
        let nobody = arrived.remove(3);
        arrives(server, &user, &arrived);

        // An eager chunk goes out even if nobody is accepted. Under LMTP, chunks are never eager.
        if manner.chunking == Chunking::Eager && server.kind.lmtp_socket.is_none() {
            arrived.insert(3, nobody);
        }
        let trace = trace.lock().unwrap();
        let mut chunks = trace.iter().filter_map(|step| match step {
            Trace::SentChunk { octets, last } => Some((*octets as usize, *last)),
            _ => None,
        });
        if manner.chunking == Chunking::Never || !server.kind.chunking {
            let bodies = trace
                .iter()
                .filter(|step| matches!(step, Trace::SentBody { .. }))
                .count();
            assert_eq!((bodies, chunks.next()), (arrived.len(), None), "{user}");
            continue;
        }
        for body in arrived {
            let most = if exact { body.len() } else { manner.chunk_size };
            let mut left = body.len();
            while left > 0 {
                let (octets, last) = chunks.next().unwrap();
                // One more, if a CR at the end of a chunk has waited for the next octet.
                assert!(
                    (most..=most + 1).contains(&octets) || octets == left,
                    "{user}: {octets} of {left}"
                );
                assert_eq!(last, octets == left, "{user}: {octets} of {left}");
                left -= octets;
            }
        }
        assert_eq!(chunks.next(), None, "{user}");
    }
}

/// A recipient whose address is not ASCII (RFC 6531), by each adapter: in the local part, and in the domain as well.
/// The server's Received line shows it (RFC 6531 section 3.7.3).
pub fn an_address_in_utf8(server: &Server) {
    for adapter in Adapter::all(server) {
        let user = format!(
            "\u{3b4}\u{3bf}\u{3ba}\u{3b9}\u{3bc}\u{3ae}-{}",
            adapter.name()
        );
        let message = "Subject: \u{e9}t\u{e9}\r\n\r\nHello.\r\n".as_bytes();
        for to in [address(&user), format!("{user}@{UTF8_DOMAIN}")] {
            let mut session = adapter.open(server, &Manner::default());
            let report = session
                .send_last(Envelope::new(SENDER, [&to]).unwrap(), message)
                .unwrap();
            assert!(report.is_success(), "{report:?}");
            let stored = server.mail_to(&to, 1);
            same(&to, &stored[0].body, message);
            assert!(
                stored[0].trace.to_ascii_uppercase().contains(" WITH UTF8"),
                "{}",
                stored[0].trace
            );
        }
    }
}

/// A message that needs SMTPUTF8 does not go to a server that does not offer it on this port. Nothing is sent before
/// the next message.
pub fn no_utf8(server: &Server, manner: &Manner) {
    for adapter in Adapter::all(server) {
        let user = format!("no-utf8-{}", adapter.name());
        let mut session = adapter.open(server, manner);
        session.trace();
        let from = |from: &str| Envelope::new(from, [address(&user)]).unwrap();
        for envelope in [
            envelope(&["\u{3b4}"]),
            from("\u{3b4}@example.org"),
            from(SENDER).smtputf8(true),
        ] {
            let error = session.send(envelope, b"Subject: no\r\n\r\n").unwrap_err();
            assert_eq!(error.cause(), &Cause::Unsupported(Extension::SmtpUtf8));
            assert_eq!(
                (error.stage(), error.outcome()),
                (Stage::Mail, Outcome::Permanent)
            );
        }
        assert_eq!(session.trace(), []);
        let message = b"Subject: ascii\r\n\r\nHello.\r\n";
        let _ = session.send_last(from(SENDER), message).unwrap();
        arrives(server, &user, &[message]);
    }
}

/// One recipient of three is refused after the message was read, by each adapter.
pub fn refused_after_the_data(
    server: &Server,
    parameter: Option<MailParameter>,
    refused: &str,
    code: u16,
    enhanced: &str,
) {
    for adapter in Adapter::all(server) {
        let users = ["first", "last"].map(|which| format!("{which}-{}", adapter.name()));
        let message = b"Subject: after the data\r\n\r\nFor two of three.\r\n";
        let mut session = adapter.open(server, &Manner::default());
        let (mut all, mut nobody) = (
            envelope(&[&users[0], refused, &users[1]]),
            envelope(&[refused, refused]),
        );
        if let Some(parameter) = &parameter {
            (all, nobody) = (
                all.parameter(parameter.clone()),
                nobody.parameter(parameter.clone()),
            );
        }
        let failure = |index| {
            (
                index,
                Stage::EndOfMessage,
                Outcome::Permanent,
                code,
                enhanced.to_string(),
            )
        };
        let report = session.send(all, message).unwrap();
        assert_eq!(failures(&report), [failure(1)]);
        let error = session.send(nobody, message).unwrap_err();
        assert_eq!(failures(error.report().unwrap()), [failure(0), failure(1)]);
        // The session goes on.
        let _ = session.send_last(envelope(&[&users[1]]), message).unwrap();
        arrives(server, &users[0], &[message]);
        arrives(server, &users[1], &[message, message]);
    }
}
