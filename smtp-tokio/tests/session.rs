//! Features of the tokio adapter: streams of any kind, paused time, and futures that move between threads.

use std::time::Duration;

use bytes::Buf;
use smtp_tests::receiver::{Options, Receiver, make_client_certificate};
use smtp_tests::watchdog::within_limit;
use smtp_tokio::{
    Cause, Credentials, Envelope, Message, Outcome, Request, Server, Session, Stage, Timeouts,
    TlsPolicy,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

#[tokio::test(flavor = "multi_thread")]
async fn sessions_move_between_threads() {
    let (receiver, server) = receiver();
    let session = tokio::spawn(async move { Session::connect(&server).await })
        .await
        .unwrap();
    let mut session = session.unwrap();
    let session = tokio::spawn(async move {
        let mut transaction = session
            .transaction("a@example.org", ["b@example.net"])
            .await?;
        transaction.write_all(MESSAGE).await.unwrap();
        transaction.flush().await.unwrap();
        let _ = transaction.finish().await?;
        let _ = session
            .send(Envelope::new("", ["c@example.net"])?, MESSAGE)
            .await?;
        Ok::<_, smtp_tokio::Error>(session)
    });
    session.await.unwrap().unwrap().quit().await;
    assert_eq!([receiver.stored(0), receiver.stored(1)], [MESSAGE, MESSAGE]);
    assert!(receiver.messages()[0].tls);
}

/// Two slices in a row: a message in memory may have several pieces.
#[tokio::test]
async fn messages_in_memory_arrive() {
    let (receiver, server) = receiver();
    let envelope = || Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let message = || Buf::chain(&MESSAGE[..9], &MESSAGE[9..]);
    let mut session = Session::connect(&server).await.unwrap();
    let report = session.send_bytes(envelope(), message()).await.unwrap();
    assert!(report.is_success());
    let messages = [(); 2].map(|()| Message::from_bytes(envelope(), MESSAGE));
    let mut reports = session.send_all(smtp_tokio::iter(messages));
    while let Some(report) = reports.next().await {
        assert!(report.is_success());
    }
    assert_eq!([0, 1, 2].map(|n| receiver.stored(n)), [MESSAGE; 3]);
}

/// The server refuses the first chunk that is too large.
#[tokio::test]
async fn a_body_that_is_refused_says_why_to_its_writer() {
    let options = Options {
        max_size: 100_000,
        ..Options::default()
    };
    let receiver = Receiver::start(options).unwrap();
    let server = Server::new(receiver.local_addr().to_string());
    let mut session = Session::connect(&server).await.unwrap();
    let mut transaction = session
        .transaction("a@example.org", ["b@example.net"])
        .await
        .unwrap();
    let mut body = tokio::io::repeat(b'x').take(50_000_000);
    let copied = tokio::io::copy(&mut body, &mut transaction).await;
    let error = copied.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(error.to_string().contains("552 5.3.4"), "{error}");
    let inner = error.get_ref().unwrap().downcast_ref();
    let inner: &smtp_tokio::Error = inner.unwrap();
    assert_eq!(inner.outcome(), Outcome::Permanent);
    let report = transaction.finish().await.unwrap_err();
    assert_eq!(report.report(), inner.report());
    assert_eq!(report.to_string(), error.to_string());
}

/// A local part as long as those of SRS, VERP and reply tokens. Only the server knows whether it takes one.
#[tokio::test]
async fn long_local_parts_are_sent() {
    let (receiver, server) = receiver();
    let address = format!("{}@example.org", "a".repeat(100));
    let mut session = Session::connect(&server).await.unwrap();
    let report = session
        .send(Envelope::new(&address, [&address]).unwrap(), MESSAGE)
        .await
        .unwrap();
    assert!(report.is_success());
    session.quit().await;
    let message = receiver.messages().remove(0);
    assert_eq!(
        (message.reverse_path, message.forward_paths),
        (address.clone(), vec![address])
    );
}

/// The receiver's mailbox name decides between a permanent and a temporary refusal.
#[tokio::test]
async fn an_error_says_no_more_than_holds_for_all_recipients() {
    let (_receiver, server) = receiver();
    let mut session = Session::connect(&server).await.unwrap();
    for (to, outcome, code) in [
        (["refused@b", "refused@c"], Outcome::Permanent, 550),
        (["refused@b", "greylisted@b"], Outcome::Transient, 450),
        (["greylisted@b", "refused@b"], Outcome::Transient, 450),
    ] {
        let error = session
            .send(Envelope::new("a@b", to).unwrap(), MESSAGE)
            .await
            .unwrap_err();
        assert_eq!(
            (error.stage(), error.outcome()),
            (Stage::Rcpt, outcome),
            "{error}"
        );
        assert_eq!(error.error().reply().unwrap().code().get(), code);
    }
}

#[tokio::test]
async fn a_message_without_a_session_is_not_attempted() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"554 5.7.1 not you\r\n").await.unwrap();
        }
    });
    // The server refuses the session permanently, and not the message.
    let error = Session::connect(&Server::new(&server)).await.unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Greeting, Outcome::Permanent)
    );
    let error = smtp_tokio::send_mail(&server, "a@b", &["c@d"], MESSAGE, None)
        .await
        .unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Greeting, Outcome::NotAttempted)
    );
    assert_eq!(error.error().reply().unwrap().code().get(), 554);
}

#[tokio::test]
async fn a_session_that_has_ended_attempts_nothing() {
    let (_receiver, server) = receiver();
    let mut session = Session::connect(&server).await.unwrap();
    drop(session.transaction("a@b", ["c@d"]).await.unwrap());
    let error = session.transaction("a@b", ["c@d"]).await.unwrap_err();
    assert!(error.to_string().contains("dropped"), "{error}");
    assert_eq!(error.outcome(), Outcome::NotAttempted);
}

/// Its body is still open, and would take the next message.
#[tokio::test]
async fn a_leaked_transaction_does_not_take_the_next_message() {
    let other = || Envelope::new("a@example.org", ["c@example.net"]).unwrap();
    for call in 0..3 {
        let (receiver, server) = receiver();
        let mut session = Session::connect(&server).await.unwrap();
        let mut leaked = session
            .transaction("a@example.org", ["b@example.net"])
            .await
            .unwrap();
        leaked.write_all(MESSAGE).await.unwrap();
        std::mem::forget(leaked);
        let result = match call {
            0 => session.send(other(), MESSAGE).await.map(drop),
            1 => session.request(Request::noop()).await.map(drop),
            _ => {
                let messages = [Message::from_bytes(other(), MESSAGE)];
                let mut bulk = session.send_all(smtp_tokio::iter(messages));
                assert!(bulk.next().await.is_none());
                drop(bulk);
                session.begin(other()).await.map(drop)
            }
        };
        let error = result.unwrap_err();
        assert!(error.to_string().contains("leaked"), "{error}");
        assert_eq!(error.outcome(), Outcome::NotAttempted);
        session.quit().await;
        assert!(
            receiver
                .wait_for_messages(1, Duration::from_millis(300))
                .is_empty()
        );
    }
}

/// In paused time, the five minutes of RFC 5321 pass at once.
#[test]
fn deadlines_are_the_runtimes_own() {
    let test = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(a_drip_every_minute());
    };
    within_limit(test).expect("the deadline works");
}

async fn a_drip_every_minute() {
    let (client, mut server) = tokio::io::duplex(64);
    tokio::spawn(async move {
        // One octet a minute does not move the deadline.
        while server.write_all(b"2").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
    let start = tokio::time::Instant::now();
    let error = Session::connect_over(&Server::new("x"), client)
        .await
        .unwrap_err();
    assert_eq!(
        (error.stage(), error.outcome()),
        (Stage::Greeting, Outcome::Transient)
    );
    assert_eq!(error.cause(), &Cause::TimedOut(Duration::from_secs(300)));
    assert_eq!(start.elapsed().as_secs(), 300);
}

/// A stream of 16 octets, which is full at every turn.
#[tokio::test]
async fn any_stream_will_do() {
    let (client, mut server) = tokio::io::duplex(16);
    let peer = tokio::spawn(async move {
        let mut heard = Vec::new();
        for (reply, until) in [
            ("220 hi\r\n", "\r\n"),
            ("250-hi\r\n250 PIPELINING\r\n", "DATA\r\n"),
            ("250 ok\r\n250 ok\r\n354 go\r\n", "\r\n.\r\n"),
            ("250 done\r\n", "QUIT\r\n"),
        ] {
            server.write_all(reply.as_bytes()).await.unwrap();
            while !heard.ends_with(until.as_bytes()) {
                server.read_buf(&mut heard).await.unwrap();
            }
        }
        heard
    });
    let server = Server::new("lmtp").lmtp().tls(TlsPolicy::Never);
    let mut session = Session::connect_over(&server, client).await.unwrap();
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    assert!(
        session
            .send_last(envelope, MESSAGE)
            .await
            .unwrap()
            .is_success()
    );
    let heard = String::from_utf8(peer.await.unwrap()).unwrap();
    assert!(
        heard.contains("LHLO ") && heard.contains("\r\nHello.\r\n..\r\n.\r\nQUIT\r\n"),
        "{heard}"
    );
}

#[tokio::test]
async fn a_source_that_waits_does_not_time_the_body_out() {
    let (receiver, server) = receiver();
    let mut timeouts = Timeouts::default();
    timeouts.block = Duration::from_millis(100);
    let mut session = Session::connect(&server.timeouts(timeouts)).await.unwrap();
    let (mut writer, reader) = tokio::io::duplex(64);
    tokio::spawn(async move {
        for part in MESSAGE.chunks(10) {
            tokio::time::sleep(Duration::from_millis(150)).await;
            writer.write_all(part).await.unwrap();
        }
    });
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let report = session
        .send(envelope, tokio::io::BufReader::new(reader))
        .await
        .unwrap();
    assert!(report.is_success());
    assert_eq!(receiver.stored(0), MESSAGE);
}

#[tokio::test]
async fn a_dropped_bulk_closes_the_session_and_an_idle_one_does_not() {
    let (receiver, server) = receiver();
    let mut session = Session::connect(&server).await.unwrap();
    let message = |to: &str| {
        let envelope = Envelope::new("", [to]).unwrap();
        Message::new(envelope, || async { Ok(MESSAGE) })
    };
    let mut bulk = session.send_all(smtp_tokio::iter([message("a@b")]));
    assert!(bulk.next().await.unwrap().is_success());
    drop(bulk);
    assert!(session.is_usable().await);
    let mut bulk = session.send_all(smtp_tokio::iter([message("c@d"), message("e@f")]));
    assert!(bulk.next().await.unwrap().is_success());
    drop(bulk);
    assert!(!session.is_usable().await);
    assert_eq!(receiver.messages().len(), 2);
}

#[tokio::test]
async fn scram_is_bound_to_the_tls_connection() {
    for (tls12, version) in [(false, "TLSv1.3"), (true, "TLSv1.2")] {
        let auth = Some(("alice".into(), "s3cret".into()));
        let receiver = Receiver::start(Options {
            auth,
            tls12,
            ..Options::default()
        })
        .unwrap();
        let with = |password| {
            let credentials =
                Credentials::password("alice", password).mechanisms(&["SCRAM-SHA-256-PLUS"]);
            trusting(&receiver).credentials(credentials)
        };
        let session = Session::connect(&with("s3cret")).await.unwrap();
        assert_eq!(session.tls_info().unwrap().version, version);
        session.quit().await;
        let error = Session::connect(&with("wrong")).await.unwrap_err();
        assert_eq!(
            (error.stage(), error.outcome()),
            (Stage::Auth, Outcome::Permanent),
            "{error}"
        );
        // Without TLS, a binding is not possible.
        let error = Session::connect(&with("s3cret").tls(TlsPolicy::Never))
            .await
            .unwrap_err();
        assert_eq!(error.cause(), &Cause::AuthUnavailable);
    }
}

#[tokio::test]
async fn a_client_certificate_logs_in_by_external() {
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
    Session::connect(&known).await.unwrap().quit().await;
    let error = Session::connect(&server).await.unwrap_err();
    assert!(
        matches!(error.cause(), Cause::NoCommonMechanism(_)),
        "{error}"
    );
}

#[tokio::test]
async fn timeouts_without_end_are_no_panic() {
    let (receiver, server) = receiver();
    let mut timeouts = Timeouts::default().replies(Duration::MAX);
    (timeouts.block, timeouts.quit) = (Duration::MAX, Duration::MAX);
    let server = server.timeouts(timeouts).connect_timeout(Duration::MAX);
    let mut session = Session::connect(&server).await.unwrap();
    let _ = session
        .send(Envelope::new("a@b", ["c@d"]).unwrap(), MESSAGE)
        .await
        .unwrap();
    session.quit().await;
    assert_eq!(receiver.stored(0), MESSAGE);
}

/// In paused time, a reply that is waited for comes too late.
#[tokio::test(start_paused = true)]
async fn a_stub_answers_while_the_clock_stands_still() {
    let (stub, start) = (Receiver::stub(), tokio::time::Instant::now());
    let server = stub.server();
    let session = Session::connect_over(&server, stub.stream()).await;
    let mut session = session.unwrap();
    for number in 1..=100 {
        let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
        let report = session.send(envelope, MESSAGE).await.unwrap();
        assert!(report.is_success());
        assert_eq!(stub.messages().len(), number);
    }
    assert_eq!(stub.stored(99), MESSAGE);
    drop(session);
    assert_eq!(stub.counts().open, 0);
    assert_eq!(start.elapsed(), Duration::ZERO);
}
