//! The cost of opening a session over TLS, compared with a hand-written loop over one `ClientConfig` of rustls, and
//! with lettre.
//!
//! ```console
//! $ cargo run --release -p smtp-peers --bin connects
//! ```
//!
//! All connect to the same server, verify it, read its greeting and its reply to EHLO, and close.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lettre::transport::smtp::client::{
    Certificate, CertificateStore, SmtpConnection, TlsParameters,
};
use lettre::transport::smtp::extension::ClientId;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use smtp_blocking::{Server, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::servers::tls::{Authority, Making, Setup, TlsPeer};

const NAME: &str = "mx.example.net";
const SESSIONS: u32 = 200;
const ROUNDS: usize = 5;

fn main() {
    let authority = Authority::new("an authority");
    let making = Making {
        names: &[NAME],
        until: 2090,
        is_authority: false,
    };
    let peer = TlsPeer::start(Setup {
        identity: authority.sign(&making),
        implicit: true,
        starttls: false,
        tls12: false,
        mechanisms: "PLAIN",
    });
    let address = format!("127.0.0.1:{}", peer.expect("a server").port());
    let server = Server::new(&address)
        .tls(TlsPolicy::Implicit)
        .server_name(NAME)
        .trust_pem(authority.pem.as_bytes())
        .expect("a certificate");
    let resuming = by_hand_config(&authority);
    let mut full = by_hand_config(&authority);
    full.resumption = Resumption::disabled();
    let (resuming, full) = (Arc::new(resuming), Arc::new(full));
    let runtime = runtime();

    println!(
        "milliseconds to open a session over TLS 1.3, {SESSIONS} in a row, the best of {ROUNDS} rounds\n"
    );
    println!("{:>20} {:>9} {:>9}", "", "full", "resumed");
    let row = |name, [full, resumed]: [Duration; 2]| {
        let each = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(SESSIONS);
        println!("{name:>20} {:>9.3} {:>9.3}", each(full), each(resumed));
    };
    row(
        "by hand",
        [
            time(|| by_hand(&address, &full)),
            time(|| by_hand(&address, &resuming)),
        ],
    );
    let lettre_tls = lettre_tls(&authority);
    row(
        "lettre",
        [
            time(|| lettre(&address, lettre_tls())),
            time({
                let tls = lettre_tls();
                let address = &address;
                move || lettre(address, tls.clone())
            }),
        ],
    );
    // A setter drops the built settings, so the next session needs a full handshake.
    let fresh = || server.clone().server_name(NAME);
    let blocking = |server: &Server| {
        let session = smtp_blocking::Session::connect(server).expect("a session");
        drop(session);
    };
    row(
        "smtp-blocking",
        [time(|| blocking(&fresh())), time(|| blocking(&server))],
    );
    let tokio = |server: &Server| {
        runtime.block_on(async {
            drop(
                smtp_tokio::Session::connect(server)
                    .await
                    .expect("a session"),
            );
        });
    };
    row(
        "smtp-tokio",
        [time(|| tokio(&fresh())), time(|| tokio(&server))],
    );
}

fn time(mut connect: impl FnMut()) -> Duration {
    let round = |_| {
        let start = Instant::now();
        (0..SESSIONS).for_each(|_| connect());
        start.elapsed()
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

fn by_hand_config(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let pem = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a certificate");
    roots.add(pem).expect("an authority");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn by_hand(address: &str, config: &Arc<ClientConfig>) {
    let name = ServerName::try_from(NAME).expect("a name");
    let tls = ClientConnection::new(Arc::clone(config), name).expect("settings");
    let socket = TcpStream::connect(address).expect("a connection");
    socket.set_nodelay(true).expect("an option");
    let mut stream = BufReader::new(StreamOwned::new(tls, socket));
    let mut line = String::new();
    stream.read_line(&mut line).expect("a greeting");
    let hello = b"EHLO client.example.org\r\n";
    stream.get_mut().write_all(hello).expect("a write");
    while !line.starts_with("250 ") {
        line.clear();
        stream.read_line(&mut line).expect("a reply");
    }
}

/// Makes lettre's settings.
fn lettre_tls(authority: &Authority) -> impl Fn() -> TlsParameters {
    let pem = authority.pem.clone();
    move || {
        TlsParameters::builder(NAME.into())
            .certificate_store(CertificateStore::None)
            .add_root_certificate(Certificate::from_pem(pem.as_bytes()).expect("a certificate"))
            .build_rustls()
            .expect("settings")
    }
}

fn lettre(address: &str, tls: TlsParameters) {
    let name = ClientId::Domain("client.example.org".into());
    let address: std::net::SocketAddr = address.parse().expect("an address");
    SmtpConnection::connect(address, None, &name, Some(&tls), None).expect("a session");
}
