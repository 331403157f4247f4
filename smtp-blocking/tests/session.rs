//! Connecting, and the level of session and transaction, against the receiving server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Buf;
use smtp_blocking::{
    Cause, Credentials, Envelope, Message, Outcome, Request, Server, Session, Stage, TlsFacts,
    TlsPolicy, body::LineEndings,
};
use smtp_tests::receiver::{Options, Receiver, make_client_certificate};

/// The settings for a receiver whose certificate is trusted, so that it gets credentials.
fn trusting(receiver: &Receiver) -> Server {
    let server = Server::new(receiver.local_addr().to_string());
    server
        .trust_pem(receiver.certificate_pem().as_bytes())
        .unwrap()
}

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n.\r\n";

fn receiver() -> (Receiver, Server) {
    let receiver = Receiver::start(Options::default()).unwrap();
    let server = Server::new(receiver.local_addr().to_string());
    (receiver, server)
}

#[test]
fn one_call_forwards_one_message() {
    let (receiver, _) = receiver();
    let server = receiver.local_addr().to_string();
    let report = smtp_blocking::send_mail(
        &server,
        "a@example.org",
        &["b@example.net", "refused@example.net"],
        MESSAGE,
        None,
    );
    let report = report.unwrap();
    assert_eq!(
        report
            .failures()
            .map(|failure| (failure.index, failure.mailbox.as_str(), failure.error.stage))
            .collect::<Vec<_>>(),
        [(1, "refused@example.net", Stage::Rcpt)]
    );
    assert_eq!(receiver.stored(0), MESSAGE);
    assert!(receiver.messages()[0].tls);

    let error =
        smtp_blocking::send_mail(&server, "", &["refused@example.net"], MESSAGE, None).unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Rcpt, Outcome::Permanent)
    );
    assert_eq!(error.report().unwrap().recipients.len(), 1);
}

/// Two slices in a row: a message in memory may have several pieces.
#[test]
fn messages_in_memory_arrive() {
    let (receiver, server) = receiver();
    let envelope = || Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let message = || Buf::chain(&MESSAGE[..9], &MESSAGE[9..]);
    let mut session = Session::connect(&server).unwrap();
    let report = session.send_bytes(envelope(), message()).unwrap();
    assert!(report.is_success());
    let messages = [(); 2].map(|()| Message::from_bytes(envelope(), MESSAGE));
    assert!(session.send_all(messages).all(|report| report.is_success()));
    assert_eq!([0, 1, 2].map(|n| receiver.stored(n)), [MESSAGE; 3]);
}

#[test]
fn a_transaction_is_written_into() {
    let (receiver, server) = receiver();
    let mut session = Session::connect(&server).unwrap();
    let mut transaction = session
        .transaction("a@example.org", ["b@example.net", "full@example.net"])
        .unwrap();
    assert_eq!(
        transaction
            .failures()
            .map(|failure| failure.mailbox.as_str())
            .collect::<Vec<_>>(),
        ["full@example.net"]
    );
    std::io::copy(&mut &MESSAGE[..], &mut transaction).unwrap();
    transaction.flush().unwrap();
    let report = transaction.finish().unwrap();
    assert!(report.recipients[0].is_ok() && report.recipients[1].is_err());
    assert_eq!(receiver.stored(0), MESSAGE);

    // Nobody was accepted, so the session goes on after RSET.
    let error = session
        .transaction("a@example.org", ["refused@example.net"])
        .unwrap_err();
    assert_eq!(error.report().unwrap().failures().count(), 1);
    assert!(session.is_usable());
    let transaction = session
        .transaction("a@example.org", ["c@example.net"])
        .unwrap();
    let _ = transaction.finish().unwrap();
    assert_eq!(receiver.stored(1), b"");
    session.quit();
}

/// The server refuses the first chunk that is too large.
#[test]
fn a_body_that_is_refused_says_why_to_its_writer() {
    let options = Options {
        max_size: 100_000,
        ..Options::default()
    };
    let receiver = Receiver::start(options).unwrap();
    let mut session = Session::connect(Server::new(receiver.local_addr().to_string())).unwrap();
    let mut transaction = session
        .transaction("a@example.org", ["b@example.net"])
        .unwrap();
    let mut body = std::io::repeat(b'x').take(50_000_000);
    let error = std::io::copy(&mut body, &mut transaction).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(error.to_string().contains("552 5.3.4"), "{error}");
    let inner = error.get_ref().unwrap().downcast_ref();
    let inner: &smtp_blocking::Error = inner.unwrap();
    assert_eq!(inner.outcome(), Outcome::Permanent);
    // Each later write fails too.
    assert!(transaction.write_all(b"more").is_err());
    let report = transaction.finish().unwrap_err();
    assert_eq!(report.report(), inner.report());
    assert_eq!(report.to_string(), error.to_string());
}

/// A local part as long as those of SRS, VERP and reply tokens. Only the server knows whether it takes one.
#[test]
fn long_local_parts_are_sent() {
    let (receiver, server) = receiver();
    let address = format!("{}@example.org", "a".repeat(100));
    let mut session = Session::connect(&server).unwrap();
    let report = session
        .send(Envelope::new(&address, [&address]).unwrap(), MESSAGE)
        .unwrap();
    assert!(report.is_success());
    session.quit();
    let message = receiver.messages().remove(0);
    assert_eq!(
        (message.reverse_path, message.forward_paths),
        (address.clone(), vec![address])
    );
}

/// The receiver's mailbox name decides between a permanent and a temporary refusal.
#[test]
fn an_error_says_no_more_than_holds_for_all_recipients() {
    let (_receiver, server) = receiver();
    let mut session = Session::connect(&server).unwrap();
    for (to, outcome, code) in [
        (["refused@b", "refused@c"], Outcome::Permanent, 550),
        (["refused@b", "greylisted@b"], Outcome::Transient, 450),
        (["greylisted@b", "refused@b"], Outcome::Transient, 450),
    ] {
        let error = session
            .send(Envelope::new("a@b", to).unwrap(), MESSAGE)
            .unwrap_err();
        assert_eq!(
            (error.stage(), error.outcome()),
            (Stage::Rcpt, outcome),
            "{error}"
        );
        assert_eq!(error.error().reply().unwrap().code().get(), code);
    }
    for (to, outcome) in [
        ("refused@b", Outcome::Permanent),
        ("greylisted@b", Outcome::Transient),
    ] {
        let envelope = Envelope::new("a@b", ["c@d", to, "e@f"])
            .unwrap()
            .all_or_nothing(true);
        let error = session.send(envelope, MESSAGE).unwrap_err();
        assert_eq!(error.outcome(), outcome);
        assert!(matches!(error.cause(), Cause::Rejected(_)), "{error}");
    }
}

#[test]
fn a_message_without_a_session_is_not_attempted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            stream.unwrap().write_all(b"554 5.7.1 not you\r\n").unwrap();
        }
    });
    // The server refuses the session permanently, and not the message.
    let error = Session::connect(Server::new(&server)).unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Greeting, Outcome::Permanent)
    );
    let error = smtp_blocking::send_mail(&server, "a@b", &["c@d"], MESSAGE, None).unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Greeting, Outcome::NotAttempted)
    );
    assert_eq!(error.error().reply().unwrap().code().get(), 554);
}

#[test]
fn a_dropped_transaction_delivers_nothing_and_ends_the_session() {
    let (receiver, server) = receiver();
    let mut session = Session::connect(&server).unwrap();
    let mut transaction = session
        .transaction("a@example.org", ["b@example.net"])
        .unwrap();
    transaction.write_all(MESSAGE).unwrap();
    drop(transaction);
    assert!(!session.is_usable());
    let error = session
        .transaction("a@example.org", ["b@example.net"])
        .unwrap_err();
    assert!(error.to_string().contains("dropped"), "{error}");
    assert_eq!(error.outcome(), Outcome::NotAttempted);
    drop(session);
    assert!(
        receiver
            .wait_for_messages(1, Duration::from_millis(300))
            .is_empty()
    );
}

/// Its body is still open, and would take the next message.
#[test]
fn a_leaked_transaction_does_not_take_the_next_message() {
    fn other() -> Envelope {
        Envelope::new("a@example.org", ["c@example.net"]).unwrap()
    }
    let send = |session: &mut Session| session.send(other(), MESSAGE).map(drop);
    let ask = |session: &mut Session| session.request(Request::noop()).map(drop);
    let send_all = |session: &mut Session| {
        let mut bulk = session.send_all([Message::from_bytes(other(), MESSAGE)]);
        assert!(bulk.next().is_none());
        assert_eq!(bulk.into_messages().count(), 1);
        session.begin(other()).map(drop)
    };
    type Call = fn(&mut Session) -> Result<(), smtp_blocking::Error>;
    for call in [send as Call, ask, send_all] {
        let (receiver, server) = receiver();
        let mut session = Session::connect(&server).unwrap();
        let mut leaked = session
            .transaction("a@example.org", ["b@example.net"])
            .unwrap();
        leaked.write_all(MESSAGE).unwrap();
        std::mem::forget(leaked);
        let error = call(&mut session).unwrap_err();
        assert!(error.to_string().contains("leaked"), "{error}");
        assert_eq!(error.outcome(), Outcome::NotAttempted);
        session.quit();
        assert!(
            receiver
                .wait_for_messages(1, Duration::from_millis(300))
                .is_empty()
        );
    }
}

#[test]
fn a_message_that_cannot_be_read_is_not_delivered() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is on fire"))
        }
    }
    let (receiver, server) = receiver();
    let mut session = Session::connect(&server).unwrap();
    let message = BufReader::new(Read::chain(MESSAGE, Broken));
    let error = session
        .send(Envelope::new("a@b", ["c@d"]).unwrap(), message)
        .unwrap_err();
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
    assert_eq!(error.outcome(), Outcome::Transient);
    assert!(
        receiver
            .wait_for_messages(1, Duration::from_millis(300))
            .is_empty()
    );
    // No chunk was open, so the session goes on.
    assert!(session.is_usable());
    assert!(
        session
            .send(Envelope::new("a@b", ["c@d"]).unwrap(), MESSAGE)
            .unwrap()
            .is_success()
    );
    assert_eq!(receiver.messages().len(), 1);
}

#[test]
fn a_bare_lf_is_refused_where_the_policy_says_so() {
    let (receiver, server) = receiver();
    let mut policy = smtp_blocking::body::BodyPolicy::default();
    policy.line_endings = LineEndings::Refuse;
    let mut session = Session::connect(server.body_policy(policy)).unwrap();
    let error = session
        .send(Envelope::new("a@b", ["c@d"]).unwrap(), &b"a\n.\r\n"[..])
        .unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Body, Outcome::Permanent),
        "{error}"
    );
    assert!(
        receiver
            .wait_for_messages(1, Duration::from_millis(300))
            .is_empty()
    );
}

#[test]
fn the_client_says_who_and_where_it_is() {
    let (receiver, server) = receiver();
    let name = smtp_blocking::ClientName::parse("client.example.org").unwrap();
    for server in [server.clone(), server.client_name(name)] {
        let mut session = Session::connect(server.bind(IpAddr::from([127, 0, 0, 1]))).unwrap();
        let _ = session
            .send(Envelope::new("a@b", ["c@d"]).unwrap(), MESSAGE)
            .unwrap();
        session.quit();
    }
    let names: Vec<_> = receiver
        .messages()
        .into_iter()
        .map(|message| message.client_name)
        .collect();
    assert_eq!(names[1], "client.example.org");
    // The host's full name, or the address that it comes from.
    assert!(
        names[0] == "[127.0.0.1]" || names[0].contains('.'),
        "{}",
        names[0]
    );
    // An address of the wrong family, and one that is not ours.
    let server = receiver.local_addr().to_string();
    for local in ["::1", "192.0.2.1"] {
        let error =
            Session::connect(Server::new(&server).bind(local.parse().unwrap())).unwrap_err();
        assert_eq!(error.stage(), Stage::Connect, "{error}");
    }
}

#[test]
fn every_address_of_a_name_is_tried() {
    // "localhost" is ::1 first on most systems, and the receiver listens on 127.0.0.1 only.
    let (receiver, _) = receiver();
    let server = format!("localhost:{}", receiver.local_addr().port());
    Session::connect(Server::new(&server)).unwrap().quit();
}

/// Two connections: on the first the handshake fails, and the second one shows how the client goes on.
fn breaks_tls() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let commands = Arc::new(Mutex::new(Vec::new()));
    let heard = commands.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream, &heard);
        }
    });
    fn serve(stream: TcpStream, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
        (&stream).write_all(b"220 hi\r\n")?;
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            heard.lock().unwrap().push(line.clone());
            match line.trim_end() {
                "STARTTLS" => {
                    (&stream).write_all(b"220 go\r\n")?;
                    reader.read_exact(&mut [0; 5])?;
                    return (&stream).write_all(b"this is no TLS record\r\n");
                }
                line if line.starts_with("EHLO") => {
                    (&stream).write_all(b"250-hi\r\n250 STARTTLS\r\n")?
                }
                _ => return Ok(()),
            }
            line.clear();
        }
        Ok(())
    }
    (address, commands)
}

#[test]
fn a_failed_handshake_ends_the_session_unless_told_otherwise() {
    let (server, commands) = breaks_tls();
    let error = Session::connect(Server::new(&server)).unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::StartTls, Outcome::Transient),
        "{error}"
    );

    let session = Session::connect(Server::new(&server).retry_in_clear(true)).unwrap();
    assert!(session.tls_info().is_none());
    session.quit();

    // Not with required TLS, and not with credentials.
    let credentials = Credentials::password("u", "p").permit_in_clear();
    for server in [
        Server::new(&server).tls(TlsPolicy::Required),
        Server::new(&server).credentials(credentials),
    ] {
        let error = Session::connect(server.retry_in_clear(true)).unwrap_err();
        assert_eq!(error.stage(), Stage::StartTls, "{error}");
    }
    assert_eq!(
        commands
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.starts_with("AUTH"))
            .count(),
        0
    );
}

#[test]
fn the_conversation_is_shown_without_secrets() {
    let auth = Options {
        auth: Some(("alice".into(), "s3cret".into())),
        ..Options::default()
    };
    let receiver = Receiver::start(auth).unwrap();
    let lines = Arc::new(Mutex::new(String::new()));
    let seen = lines.clone();
    let session = Session::connect(
        trusting(&receiver)
            .credentials(Credentials::password("alice", "s3cret").mechanisms(&["PLAIN"]))
            .observe(move |step| *seen.lock().unwrap() += &format!("{:?}\n", step.trace())),
    );
    session.unwrap().quit();
    let lines = lines.lock().unwrap();
    assert!(
        lines.contains("AUTH PLAIN ****") && lines.contains("Sent(\"QUIT\")"),
        "{lines}"
    );
    assert!(!lines.contains("AGFsaWNlAHMzY3JldA=="), "{lines}");
}

/// The receiver refuses any binding but its own. It refuses "y" from a client that has seen its offer.
#[test]
fn scram_is_bound_to_the_tls_connection() {
    for (tls12, version) in [(false, "TLSv1.3"), (true, "TLSv1.2")] {
        let auth = Some(("alice".into(), "s3cret".into()));
        let receiver = Receiver::start(Options {
            auth,
            tls12,
            ..Options::default()
        })
        .unwrap();
        let with = |credentials| {
            let lines = Arc::new(Mutex::new(Vec::new()));
            let seen = lines.clone();
            let session = Session::connect(
                trusting(&receiver)
                    .credentials(credentials)
                    .observe(move |step| seen.lock().unwrap().push(format!("{:?}", step.trace()))),
            );
            let lines: Vec<_> = std::mem::take(&mut *lines.lock().unwrap());
            (session, lines)
        };
        let challenges: Vec<_> = (0..2)
            .map(|_| {
                let (session, lines) = with(Credentials::password("alice", "s3cret"));
                let session = session.unwrap();
                assert_eq!(session.tls_info().unwrap().version, version);
                session.quit();
                assert!(
                    lines.contains(&"Sent(\"AUTH SCRAM-SHA-256-PLUS ****\")".into()),
                    "{lines:?}"
                );
                lines.into_iter().find(|line| line.contains("334")).unwrap()
            })
            .collect();
        // They contain our nonce, which is new each time.
        assert_ne!(challenges[0], challenges[1]);

        let (session, _) = with(Credentials::password("alice", "wrong"));
        let error = session.unwrap_err();
        assert_eq!(error.error().reply().unwrap().code().get(), 535, "{error}");
        let (session, _) =
            with(Credentials::password("alice", "s3cret").mechanisms(&["SCRAM-SHA-256"]));
        session.unwrap().quit();
    }
}

#[test]
fn a_client_certificate_logs_in_by_external() {
    let (certificate, key) = make_client_certificate().unwrap();
    let auth = Some(("alice".into(), "s3cret".into()));
    let client_ca = Some(certificate.clone());
    let receiver = Receiver::start(Options {
        auth,
        client_ca,
        ..Options::default()
    })
    .unwrap();
    let server = trusting(&receiver).credentials(Credentials::external());
    let known = server
        .clone()
        .client_certificate_pem(certificate.as_bytes(), key.as_bytes())
        .unwrap();
    Session::connect(&known).unwrap().quit();
    let error = Session::connect(server.clone()).unwrap_err();
    assert!(
        matches!(error.cause(), Cause::NoCommonMechanism(_)),
        "{error}"
    );
    let error = server
        .client_certificate_pem(certificate.as_bytes(), b"no key")
        .unwrap_err();
    assert!(
        error.to_string().contains("the private key cannot be read"),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn any_connected_stream_will_do() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(&theirs).lines();
        (&theirs).write_all(b"220 hi\r\n").unwrap();
        assert!(lines.next().unwrap().unwrap().starts_with("LHLO "));
        (&theirs).write_all(b"250 hi\r\n").unwrap();
        lines.next();
    });
    let server = Server::new("lmtp").lmtp();
    Session::connect_over(&server, ours).unwrap().quit();
}

#[test]
fn timeouts_without_end_are_no_panic() {
    let (receiver, server) = receiver();
    let mut timeouts = smtp_blocking::Timeouts::default().replies(Duration::MAX);
    (timeouts.block, timeouts.quit) = (Duration::MAX, Duration::MAX);
    let mut session =
        Session::connect(server.timeouts(timeouts).connect_timeout(Duration::MAX)).unwrap();
    let _ = session
        .send(Envelope::new("a@b", ["c@d"]).unwrap(), MESSAGE)
        .unwrap();
    session.quit();
    assert_eq!(receiver.stored(0), MESSAGE);
}

/// The facts of the stream decide: a password, and a message that needs TLS, only go to a verified server.
#[test]
fn a_stream_that_is_encrypted_already_says_so() {
    use smtp_blocking::parameter::MailParameter;
    for verified in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let heard = std::thread::spawn(move || {
            let mut heard = String::new();
            let mut lines = BufReader::new(peer.try_clone().unwrap()).lines();
            peer.write_all(b"220 mx\r\n").unwrap();
            while let Some(Ok(line)) = lines.next() {
                let reply = match line.split(' ').next().unwrap() {
                    "EHLO" => "250-mx\r\n250-STARTTLS\r\n250-REQUIRETLS\r\n250 AUTH PLAIN\r\n",
                    "AUTH" => "235 welcome\r\n",
                    "DATA" => "354 go\r\n",
                    _ => "250 ok\r\n",
                };
                heard += &line;
                heard += "\n";
                let _ = peer.write_all(reply.as_bytes());
            }
            heard
        });
        let mut facts = TlsFacts::default();
        facts.verified = verified;
        let server = Server::new("mx.example.net").credentials(Credentials::password("u", "p"));
        let session = Session::connect_over_tls(&server, stream, facts);
        if verified {
            let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
            let envelope = envelope.parameter(MailParameter::require_tls());
            let report = session.unwrap().send_last(envelope, MESSAGE);
            assert!(report.unwrap().is_success());
        } else {
            let cause = session.unwrap_err().cause().clone();
            assert!(matches!(cause, Cause::CredentialsUnverified(_)), "{cause}");
        }
        let heard = heard.join().unwrap();
        assert!(!heard.contains("STARTTLS"), "{heard}");
        assert_eq!(heard.contains("AUTH PLAIN"), verified, "{heard}");
        assert_eq!(heard.contains(" REQUIRETLS"), verified, "{heard}");
    }
}

/// Half a message is not sent: the server sees the end of the connection, even while the session is still held.
#[test]
fn a_dropped_transaction_closes_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::new(listener.local_addr().unwrap().to_string()).tls(TlsPolicy::Never);
    let (say_end, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut peer = listener.accept().unwrap().0;
        let mut lines = BufReader::new(peer.try_clone().unwrap()).lines();
        peer.write_all(b"220 mx\r\n").unwrap();
        while let Some(Ok(line)) = lines.next() {
            let reply = match line.as_str() {
                "DATA" => "354 go\r\n",
                _ => "250 ok\r\n",
            };
            let _ = peer.write_all(reply.as_bytes());
        }
        say_end.send(()).unwrap();
    });
    let mut session = Session::connect(&server).unwrap();
    let mut transaction = session.transaction("a@b.c", ["d@e.f"]).unwrap();
    transaction.write_all(b"half a message").unwrap();
    drop(transaction);
    end.recv_timeout(smtp_tests::watchdog::LIMIT).unwrap();
    assert!(!session.is_usable());
}
