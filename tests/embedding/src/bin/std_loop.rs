//! The engine over a socket of the standard library: STARTTLS with rustls by hand, deadlines, and a file as body.
//!
//! ```console
//! $ cargo run -p smtp-embedding --bin std_loop
//! encrypted with TLSv1_3
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! ```
//!
//! `SMTP_HOST=mx.example.net` in the environment names another server.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use smtp_proto::{
    Cause, ClientName, Config, Connection, Envelope, Event, Instant, TlsFacts, TlsPolicy,
};
use smtp_tests::receiver::Receiver;

/// The socket, and TLS over it after STARTTLS.
struct Wire {
    socket: TcpStream,
    tls: Option<ClientConnection>,
}

impl Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => Stream::new(tls, &mut self.socket).read(into),
            None => self.socket.read(into),
        }
    }

    fn write_all(&mut self, octets: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => {
                let mut stream = Stream::new(tls, &mut self.socket);
                stream.write_all(octets).and_then(|()| stream.flush())
            }
            None => self.socket.write_all(octets),
        }
    }

    /// The handshake, which the engine's deadline bounds too. A server that rustls accepts here is verified.
    fn encrypt(&mut self, host: &str, roots: RootCertStore) -> Result<TlsFacts, Box<dyn Error>> {
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned())?;
        let mut tls = ClientConnection::new(Arc::new(config), name)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        if let Some(version) = tls.protocol_version() {
            println!("encrypted with {}", version.as_str().unwrap_or("TLS"));
        }
        self.tls = Some(tls);
        let mut facts = TlsFacts::default();
        facts.verified = true;
        Ok(facts)
    }
}

fn send(
    host: &str,
    port: u16,
    roots: RootCertStore,
    mut body: impl BufRead,
) -> Result<(), Box<dyn Error>> {
    let socket = TcpStream::connect((host, port))?;
    socket.set_nodelay(true)?;
    let mut wire = Wire { socket, tls: None };
    let start = std::time::Instant::now();
    let now = || Instant::from_origin(start.elapsed());

    let mut config = Config::new(ClientName::from(wire.socket.local_addr()?.ip()));
    config.tls = TlsPolicy::Required;
    let mut engine = Connection::new(config, now());
    engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
    engine.quit()?; // once everything is reported

    let mut buffer = [0; 16 * 1024];
    loop {
        // Events that have happened.
        while let Some(event) = engine.poll_event() {
            match event {
                Event::StartTls => match wire.encrypt(host, roots.clone()) {
                    Ok(facts) => engine.handle_tls_established_with(now(), facts)?,
                    Err(error) => {
                        engine.handle_tls_failed(Cause::TlsFailed(error.to_string().into()))?
                    }
                },
                Event::Finished(_, report) => {
                    for (mailbox, result) in &report {
                        match result {
                            Ok(reply) => println!("{mailbox} has it: {reply}"),
                            Err(error) => println!("{mailbox} did not get it: {error}"),
                        }
                    }
                }
                Event::Closed(result) => return Ok(result?),
                _ => {}
            }
        }
        // Octets to send: commands, and as much of the body as there is room for.
        let is_wanted = engine.wants_body();
        let piece = if is_wanted { body.fill_buf()? } else { &[] };
        let is_last = is_wanted && piece.is_empty();
        let (gathered, used) = engine.poll_transmit_into(now(), piece, &mut buffer);
        body.consume(used);
        match wire.write_all(&buffer[..gathered]) {
            Ok(()) => engine.handle_written(now(), gathered),
            Err(error) => engine.handle_lost(now(), Cause::Transport(error.to_string().into())),
        }
        if is_last {
            // An error means that the server has refused the message meanwhile. The report has the reason.
            let _ = engine.finish_body();
        } else if gathered == 0 && used == 0 {
            // Wait for the server, or for the deadline.
            let wait = engine
                .poll_timeout()
                .map(|at| (at - now()).max(Duration::from_millis(1)));
            wire.socket.set_read_timeout(wait)?;
            match wire.read(&mut buffer) {
                Ok(0) => engine.handle_eof(now()),
                Ok(n) => engine.handle_input(now(), &buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => engine.handle_lost(now(), Cause::Transport(error.to_string().into())),
            }
            engine.handle_timeout(now());
        }
    }
}

/// By default, a server inside this program takes the mail.
fn run() -> Result<(), Box<dyn Error>> {
    let message = concat!(env!("CARGO_MANIFEST_DIR"), "/message.eml");
    let body = BufReader::new(File::open(message)?);
    let mut roots = RootCertStore::empty();
    if let Ok(host) = std::env::var("SMTP_HOST") {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return send(&host, 25, roots, body);
    }
    let receiver = Receiver::new();
    roots.add(CertificateDer::from_pem_slice(
        receiver.certificate_pem().as_bytes(),
    )?)?;
    send("127.0.0.1", receiver.local_addr().port(), roots, body)
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
