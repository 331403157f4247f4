//! An observer learns which session it is, and its other end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use smtp_blocking::{Observation, Peer, Server, TlsPolicy, event::Trace};
use smtp_tests::play::bulk::runtime;
use smtp_tests::receiver::{Options, Receiver};

/// The observed session, its peer, and the command.
type Seen = Arc<Mutex<Vec<(u64, Peer, String)>>>;

fn observer(seen: &Seen) -> impl Fn(&Observation<'_>) + Send + Sync + use<> {
    let seen = Arc::clone(seen);
    move |step| {
        if let Trace::Sent(command) = step.trace() {
            let command = command.to_string();
            let peer = step.peer().clone();
            seen.lock().unwrap().push((step.session(), peer, command));
        }
    }
}

#[test]
fn each_session_has_a_number_and_a_peer() {
    let receiver = Receiver::start(Options::default()).unwrap();
    let seen = Seen::default();
    // A socket address can be given as a server.
    let address = receiver.local_addr();
    let server = Server::new(address)
        .tls(TlsPolicy::Never)
        .observe(observer(&seen));
    let runtime = runtime();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let session = smtp_blocking::Session::connect(&server).unwrap();
        numbers.push(session.number());
        session.quit();
        let session = runtime.block_on(smtp_tokio::Session::connect(&server));
        let session = session.unwrap();
        numbers.push(session.number());
        runtime.block_on(session.quit());
    }
    let seen = seen.lock().unwrap();
    let distinct: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "{numbers:?}");
    assert!(!distinct.contains(&0), "{numbers:?}");
    for number in numbers {
        let commands: Vec<_> = seen.iter().filter(|(of, ..)| *of == number).collect();
        let [(_, first, ehlo), (_, second, quit)] = &commands[..] else {
            panic!("{commands:?}");
        };
        assert!(ehlo.starts_with("EHLO ") && quit == "QUIT", "{commands:?}");
        for peer in [first, second] {
            assert_eq!(*peer, Peer::Address(address));
            assert_eq!(peer.address(), Some(address));
            assert_eq!(peer.to_string(), address.to_string());
        }
    }
}

#[cfg(unix)]
#[test]
fn the_peer_at_a_unix_socket_is_its_path() {
    let receiver = Receiver::start(Options {
        unix: true,
        ..Options::default()
    })
    .unwrap();
    let path = receiver.socket_path().unwrap();
    let seen = Seen::default();
    let server = Server::unix(&path)
        .tls(TlsPolicy::Never)
        .observe(observer(&seen));
    smtp_blocking::Session::connect(&server).unwrap().quit();
    let runtime = runtime();
    let session = runtime.block_on(smtp_tokio::Session::connect(&server));
    runtime.block_on(session.unwrap().quit());
    drop(receiver);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 4, "{seen:?}");
    for (_, peer, _) in seen.iter() {
        assert_eq!(*peer, Peer::Unix(path.clone()));
        assert_eq!(peer.address(), None);
        assert_eq!(peer.to_string(), path.display().to_string());
    }
}

/// The address of the application's own stream is unknown.
#[test]
fn the_peer_of_another_stream_is_unknown() {
    let seen = Seen::default();
    let server = Server::new("mx.example.net")
        .tls(TlsPolicy::Never)
        .observe(observer(&seen));
    runtime().block_on(async {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let (near, far) = tokio::io::duplex(4096);
        let mut far = BufReader::new(far);
        let serve = async {
            far.write_all(b"220 hi\r\n").await.unwrap();
            far.read_line(&mut String::new()).await.unwrap();
            far.write_all(b"250 hi\r\n").await.unwrap();
        };
        let connect = smtp_tokio::Session::connect_over(&server, near);
        let (session, ()) = tokio::join!(connect, serve);
        session.unwrap().quit().await;
    });
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].1, Peer::Unknown, "{seen:?}");
}

#[cfg(unix)]
#[test]
fn the_peer_of_a_socket_without_a_name_is_unknown() {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    let seen = Seen::default();
    let server = Server::new("mx.example.net")
        .tls(TlsPolicy::Never)
        .observe(observer(&seen));
    let (near, far) = UnixStream::pair().unwrap();
    let far = std::thread::spawn(move || {
        let mut far = BufReader::new(far);
        far.get_mut().write_all(b"220 hi\r\n").unwrap();
        far.read_line(&mut String::new()).unwrap();
        far.get_mut().write_all(b"250 hi\r\n").unwrap();
        far.read_line(&mut String::new()).unwrap();
    });
    let session = smtp_blocking::Session::connect_over(&server, near);
    session.unwrap().quit();
    far.join().unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|step| step.1 == Peer::Unknown), "{seen:?}");
}

/// Each type that can be given as a server reaches it.
#[test]
fn whatever_is_a_server_is_connected_to() {
    let receiver = Receiver::start(Options::default()).unwrap();
    let address = receiver.local_addr();
    let text = address.to_string();
    let host_and_port = ("127.0.0.1", address.port());
    let message = || &b"Subject: test\r\n\r\n"[..];
    let (from, to) = ("a@example.org", ["b@example.net"]);
    let server = Server::new(&text);

    let reports = [
        smtp_blocking::send_mail(address, from, to, message(), None),
        smtp_blocking::send_mail(host_and_port, from, to, message(), None),
        smtp_blocking::send_mail(&text, from, to, message(), None),
        smtp_blocking::send_mail(&server, from, to, message(), None),
    ];
    assert!(
        reports
            .into_iter()
            .all(|report| report.unwrap().is_success())
    );
    smtp_blocking::Session::connect(address).unwrap().quit();

    let reports = runtime().block_on(async {
        smtp_tokio::Session::connect(host_and_port)
            .await
            .unwrap()
            .quit()
            .await;
        [
            smtp_tokio::send_mail(address, from, to, message(), None).await,
            smtp_tokio::send_mail(host_and_port, from, to, message(), None).await,
            smtp_tokio::send_mail(&text, from, to, message(), None).await,
            smtp_tokio::send_mail(&server, from, to, message(), None).await,
        ]
    });
    assert!(
        reports
            .into_iter()
            .all(|report| report.unwrap().is_success())
    );
    assert_eq!(receiver.messages().len(), 8);
}
