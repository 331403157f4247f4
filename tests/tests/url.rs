//! The server of a URL is the one that is connected to, and logged in at.

use smtp_blocking::{Cause, Server, Session};
use smtp_tests::play::bulk::runtime;
use smtp_tests::receiver::{Options, Receiver};

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n";
const PASSWORD: &str = "p@s:s/w?o#r%d s3cret";
const ENCODED: &str = "p%40s:s%2Fw%3Fo%23r%25d%20s3cret";

fn receiver(options: Options) -> Receiver {
    let auth = Some(("alice@example.org".into(), PASSWORD.into()));
    Receiver::start(Options { auth, ..options }).unwrap()
}

/// Sends a message to this server by both adapters.
fn send(server: &Server) -> [Result<(), smtp_adapter::Error>; 2] {
    let (from, to) = ("a@example.org", ["b@example.net"]);
    let blocking = smtp_blocking::send_mail(server, from, to, MESSAGE, None);
    let tokio = runtime().block_on(smtp_tokio::send_mail(server, from, to, MESSAGE, None));
    [blocking.map(drop), tokio.map(drop)]
}

fn trusting(receiver: &Receiver, url: &str) -> Server {
    let server = Server::from_url(url).unwrap();
    let pem = receiver.certificate_pem().as_bytes();
    server.trust_pem(pem).unwrap()
}

#[test]
fn whoever_the_url_names_logs_in() {
    for (scheme, implicit_tls) in [("smtp", false), ("smtps", true)] {
        let receiver = receiver(Options {
            implicit_tls,
            ..Options::default()
        });
        let port = receiver.local_addr().port();
        let url = format!(
            "{scheme}://alice%40example.org:{ENCODED}@127.0.0.1:{port}\
             ?server-name=receiver.localhost&ehlo=client.example&timeout=60"
        );
        for result in send(&trusting(&receiver, &url)) {
            result.unwrap();
        }
        assert_eq!(receiver.messages().len(), 2);
    }
}

/// A user makes TLS required, and the server verified. Here it is not trusted, or does not have TLS.
#[test]
fn the_password_goes_to_a_verified_server_or_nowhere() {
    for starttls in [true, false] {
        let receiver = receiver(Options {
            starttls,
            auth_in_clear: true,
            ..Options::default()
        });
        let port = receiver.local_addr().port();
        let login = format!("alice%40example.org:{ENCODED}@127.0.0.1:{port}");
        for query in ["", "?tls=required", "?tls=opportunistic&auth=PLAIN"] {
            let server = Server::from_url(format!("smtp://{login}{query}")).unwrap();
            for result in send(&server) {
                let error = result.expect_err(query);
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("s3cret"), "{query}: {shown}");
            }
        }
        assert_eq!(receiver.messages().len(), 0);
    }
    // What the URL permits by name is permitted.
    let receiver = receiver(Options {
        auth_in_clear: true,
        ..Options::default()
    });
    let port = receiver.local_addr().port();
    let login = format!("alice%40example.org:{ENCODED}@127.0.0.1:{port}");
    for query in [
        "?tls=required&verify=no&permit-unverified=yes",
        "?tls=never&permit-in-clear=yes",
    ] {
        let server = Server::from_url(format!("smtp://{login}{query}")).unwrap();
        for result in send(&server) {
            result.unwrap();
        }
    }
    assert_eq!(receiver.messages().len(), 4);
    let in_clear = Server::from_url(format!("smtp://{login}?tls=never&auth=PLAIN")).unwrap();
    let error = Session::connect(&in_clear).unwrap_err();
    assert_eq!(*error.cause(), Cause::CredentialsInClear);
}

#[cfg(unix)]
#[test]
fn a_unix_socket_is_connected_to() {
    let receiver = Receiver::start(Options {
        unix: true,
        lmtp: true,
        ..Options::default()
    })
    .unwrap();
    let directory = tempfile::Builder::new()
        .prefix("smtp url-")
        .tempdir()
        .unwrap();
    let path = directory.path().join("socket");
    std::os::unix::fs::symlink(receiver.socket_path().unwrap(), &path).unwrap();
    let path = path.display().to_string().replace(' ', "%20");
    let server = Server::from_url(format!("lmtp+unix:{path}?tls=never")).unwrap();
    for result in send(&server) {
        result.unwrap();
    }
    assert_eq!(receiver.messages().len(), 2);
}

/// The error that lists the parameters has the same ones as the manual.
#[test]
fn the_manual_has_each_parameter() {
    let manual = include_str!("../../smtp-blocking/src/lib.rs");
    let manual = manual.split("# A server from a URL").nth(1).unwrap();
    let manual = manual.split("//! # ").next().unwrap();
    let rows = manual.split("| parameter | value |").nth(1).unwrap();
    let rows = rows.split("//!\n").next().unwrap();
    let rows = rows.lines().filter_map(|row| row.strip_prefix("//! | `"));
    let in_manual: Vec<_> = rows.map(|row| row.split('`').next().unwrap()).collect();

    let error = Server::from_url("smtp://h.example?unknown=1").unwrap_err();
    let error = error.to_string();
    let known = error.split("known are ").nth(1).unwrap();
    let known = known.split(" (").next().unwrap().replace(" and ", ", ");
    assert_eq!(in_manual, known.split(", ").collect::<Vec<_>>());
    // All of them are known.
    for name in in_manual {
        let url = format!("smtp://alice:s3cret@h.example?{name}=%20");
        let error = Server::from_url(url).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}: write ")), "{error}");
    }
}
