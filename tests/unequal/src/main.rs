//! Both adapters in one program: `smtp-blocking` with TLS, and `smtp-tokio` without. With a server that offers
//! STARTTLS, each does what its features allow.
//!
//! ```console
//! $ cargo run -p smtp-unequal
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use smtp_blocking::{Cause, Credentials, Envelope, Server, TlsPolicy};

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\nHello.\r\n";

fn main() {
    let server = Server::new(start_server());
    let envelope = || Envelope::new("alice@example.org", ["bob@example.net"]).expect("addresses");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");

    let mut session = smtp_blocking::Session::connect(&server).expect("a session inside TLS");
    let version = session.tls_info().map(|tls| tls.version.clone());
    let report = session.send_last(envelope(), MESSAGE);
    assert!(report.expect("a report").is_success());
    println!(
        "smtp-blocking, with TLS: {}",
        version.expect("it is encrypted")
    );

    runtime.block_on(async {
        let session = smtp_tokio::Session::connect(&server).await;
        let mut session = session.expect("a session in the clear");
        let report = session.send_last(envelope(), MESSAGE).await;
        assert!(report.expect("a report").is_success());
        println!("smtp-tokio, without TLS: in the clear");

        let required = server.clone().tls(TlsPolicy::Required);
        let error = smtp_tokio::Session::connect(&required).await;
        let error = error.expect_err("TLS is required");
        println!("smtp-tokio, TLS required: {error}");
        assert!(matches!(error.cause(), Cause::Settings(_)));

        let login = Credentials::password("alice", "s3cret");
        let opportunistic = server.credentials(login).tls(TlsPolicy::Opportunistic);
        let error = smtp_tokio::Session::connect(&opportunistic).await;
        let error = error.expect_err("a password does not go in the clear");
        println!("smtp-tokio, with a password: {error}");
        assert_eq!(error.cause(), &Cause::CredentialsInClear);
    });
}

/// Starts a server that offers STARTTLS, and returns its address.
fn start_server() -> String {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.into())
        .expect("a certificate and its key");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            thread::spawn(move || serve(socket, config));
        }
    });
    address
}

fn serve(socket: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    let mut clear = BufReader::new(socket.try_clone().ok()?);
    clear.get_mut().write_all(b"220 mx.example.net\r\n").ok()?;
    if converse(&mut clear, "250-mx.example.net\r\n250 STARTTLS\r\n")? {
        let tls = ServerConnection::new(config).ok()?;
        let mut encrypted = BufReader::new(StreamOwned::new(tls, socket));
        converse(&mut encrypted, "250 mx.example.net\r\n")?;
    }
    Some(())
}

/// Returns whether the client has sent STARTTLS. Otherwise it has gone.
fn converse<S: Read + Write>(stream: &mut BufReader<S>, offer: &str) -> Option<bool> {
    let mut in_data = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return Some(false);
        }
        let reply = match line.trim_end() {
            "." => "250 taken\r\n",
            _ if in_data => continue,
            "STARTTLS" => "220 go on\r\n",
            "DATA" => "354 go on\r\n",
            "QUIT" => "221 bye\r\n",
            line if line.starts_with("EHLO") => offer,
            _ => "250 ok\r\n",
        };
        in_data = reply.starts_with("354");
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
        if line.starts_with("STARTTLS") {
            return Some(true);
        }
    }
}
