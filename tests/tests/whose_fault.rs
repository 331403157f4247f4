//! The cause of an error, and when to send again, for errors that servers provoke. Also the decisions of the
//! application's own TLS settings.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use smtp_adapter::{Error, Server};
use smtp_blocking::Session;
use smtp_proto::error::Retry;
use smtp_proto::parameter::MailParameter;
use smtp_proto::{Cause, Credentials, Envelope, Timeouts, TlsFacts, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::servers::tls::{Authority, Making, Setup, TlsPeer};

const MESSAGE: &[u8] = b"x\r\n";

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

fn to_two() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net", "c@example.net"]).unwrap()
}

/// A server without TLS, with these replies to commands that begin like this, and 250 to others. It also returns the
/// commands that it has received.
fn server(says: &'static [(&'static str, &'static str)]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Mutex::new(vec![]));
    let books = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let books = books.clone();
            std::thread::spawn(move || {
                let mut out = stream.try_clone().unwrap();
                let _ = out.write_all(b"220 hi\r\n");
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let said = says.iter().find(|(verb, _)| line.starts_with(verb));
                    let reply = said.map_or("250 ok\r\n", |(_, reply)| reply);
                    books.lock().unwrap().push(line);
                    let _ = out.write_all(reply.as_bytes());
                }
            });
        }
    });
    (address, heard)
}

fn in_clear(address: &str) -> Server {
    Server::new(address).tls(TlsPolicy::Never)
}

fn fails_with(server: &Server, envelope: Envelope) -> Error {
    let sent = Session::connect(server).and_then(|mut session| session.send(envelope, MESSAGE));
    sent.unwrap_err()
}

fn fails(server: &Server) -> Error {
    fails_with(server, envelope())
}

#[track_caller]
fn is(error: &Error, concerns_session: bool, retry: Retry, ending: &str) {
    assert_eq!(
        (error.concerns_session(), error.retry()),
        (concerns_session, retry),
        "{error}"
    );
    let line = error.to_string();
    assert!(line.ends_with(&format!(" ({ending})")), "{line}");
}

const MEND: &str = "not the message's fault, mend it before you send again";
const MEND_SETTING: &str = "mend it before you send again";

#[test]
fn what_concerns_the_session_is_not_returned_to_the_sender() {
    let (address, _) = server(&[]);
    let implicit = Server::new(&address).tls(TlsPolicy::Implicit);
    is(&fails(&implicit), true, Retry::AskPerson, MEND);
    for wrong in [
        Server::new("mx.example.net:smtp"),
        Server::new("a b"),
        Server::new(&address).server_name("mx.example.net:587"),
    ] {
        is(&fails(&wrong), true, Retry::AskPerson, MEND_SETTING);
    }
    let (address, _) = server(&[("MAIL", "530 5.7.0 Authentication required\r\n")]);
    is(&fails(&in_clear(&address)), true, Retry::AskPerson, MEND);
    let (address, _) = server(&[("EHLO", "250-hi\r\n250 REQUIRETLS\r\n")]);
    let needs_tls = envelope().parameter(MailParameter::require_tls());
    let error = fails_with(&in_clear(&address), needs_tls);
    is(&error, true, Retry::AskPerson, MEND);
}

#[test]
fn a_wrong_setting_is_not_tried_again_at_once() {
    for server in ["a b", "mx.example.net:smtp"] {
        let sent =
            smtp_blocking::send_mail(server, "a@example.org", ["b@example.net"], MESSAGE, None);
        let ending = "not attempted, mend it before you send again";
        is(&sent.unwrap_err(), true, Retry::AskPerson, ending);
    }
}

#[test]
fn what_is_transient_needs_no_person() {
    let (address, _) = server(&[
        ("EHLO", "250-hi\r\n250 STARTTLS\r\n"),
        (
            "STARTTLS",
            "454 4.7.0 TLS not available due to temporary reason\r\n",
        ),
    ]);
    let later = "temporary, try again later";
    let required = Server::new(&address).tls(TlsPolicy::Required);
    is(&fails(&required), true, Retry::Later, later);

    let (address, _) = server(&[
        ("EHLO", "250-hi\r\n250 AUTH OAUTHBEARER\r\n"),
        ("AUTH ", "334 eyJzdGF0dXMiOiJ0ZW1wIn0=\r\n"),
        ("AQ==", "454 4.7.0 later\r\n"),
    ]);
    let token = Credentials::token("alice", "t0ken").permit_in_clear();
    let error = fails(&in_clear(&address).credentials(token));
    is(&error, true, Retry::Later, later);
}

#[test]
fn the_words_and_retry_say_the_same_of_a_greeting() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"554 5.7.1 no\r\n");
        }
    });
    let ending = "not the message's fault, try again later";
    is(&fails(&in_clear(&address)), true, Retry::Later, ending);
}

#[test]
fn a_timeout_is_one_as_an_io_error_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = in_clear(&listener.local_addr().unwrap().to_string());
    let error = fails(&server.timeouts(Timeouts::default().replies(Duration::from_millis(200))));
    assert!(error.is_timeout());
    assert_eq!(
        std::io::Error::from(error).kind(),
        std::io::ErrorKind::TimedOut
    );
}

#[test]
fn a_message_to_several_is_sent_again_when_it_helps_one() {
    let send = |says, envelope: Envelope| fails_with(&in_clear(&server(says).0), envelope).retry();
    assert_eq!(
        send(
            &[("RCPT TO:<b", "550 5.1.1 no such user\r\n")],
            to_two().all_or_nothing(true)
        ),
        Retry::Never
    );
    assert_eq!(
        send(
            &[
                ("RCPT TO:<b", "550 5.1.1 no such user\r\n"),
                ("DATA", "421 bye\r\n")
            ],
            to_two()
        ),
        Retry::Later
    );
    assert_eq!(
        send(
            &[
                ("RCPT TO:<b", "450 4.2.1 later\r\n"),
                ("RCPT TO:<c", "550 5.1.1 no such user\r\n")
            ],
            to_two()
        ),
        Retry::Later
    );
    assert_eq!(
        send(&[("RCPT", "550 5.1.1 no\r\n")], to_two()),
        Retry::Never
    );
    // No session with this server can take two domains.
    let two_domains = Envelope::new("a@example.org", ["b@example.net", "c@example.com"]).unwrap();
    assert_eq!(
        send(
            &[("EHLO", "250-hi\r\n250 LIMITS RCPTDOMAINMAX=1\r\n")],
            two_domains.all_or_nothing(true)
        ),
        Retry::Never
    );
}

fn authority_and_peer() -> (Authority, TlsPeer) {
    let authority = Authority::new("The Authority");
    let making = Making {
        names: &["localhost"],
        until: 2999,
        is_authority: false,
    };
    let setup = Setup {
        identity: authority.sign(&making),
        implicit: false,
        starttls: true,
        tls12: false,
        mechanisms: "PLAIN",
    };
    (authority, TlsPeer::start(setup).unwrap())
}

/// Refuses each certificate, with its own words.
#[derive(Debug)]
struct Refusing(rustls::Error);

impl ServerCertVerifier for Refusing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Err(self.0.clone())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(self.0.clone())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(self.0.clone())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

const NO_PIN: &str = "the key is not the one that DANE names";

fn refusing(error: rustls::Error) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let verifier = Arc::new(Refusing(error));
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Arc::new(builder.with_no_client_auth())
}

#[test]
fn mail_does_not_follow_in_clear_where_the_applications_verifier_refuses() {
    for error in [
        rustls::CertificateError::ApplicationVerificationFailure.into(),
        rustls::Error::General(NO_PIN.into()),
        rustls::Error::Other(rustls::OtherError(Arc::new(std::io::Error::other(NO_PIN)))),
    ] {
        for tokio in [false, true] {
            let (_, peer) = authority_and_peer();
            let server = Server::new(format!("localhost:{}", peer.port()))
                .retry_in_clear(true)
                .rustls_config(refusing(error.clone()));
            let result = match tokio {
                false => {
                    Session::connect(&server).and_then(|mut one| one.send(envelope(), MESSAGE))
                }
                true => runtime().block_on(async {
                    let mut session = smtp_tokio::Session::connect(&server).await?;
                    session.send(envelope(), MESSAGE).await
                }),
            };
            let error = result.unwrap_err();
            assert!(matches!(error.cause(), Cause::TlsUntrusted(_)), "{error}");
            let commands = peer.books().commands;
            assert!(
                !commands.iter().any(|(line, _)| line.starts_with("MAIL")),
                "{commands:?}"
            );
        }
    }
}

#[test]
fn settings_that_rustls_config_replaces_are_not_dropped_in_silence() {
    let (authority, peer) = authority_and_peer();
    let own = || {
        Server::new(format!("localhost:{}", peer.port()))
            .rustls_config(refusing(rustls::Error::General("no".into())))
    };
    let pem = authority.pem.as_bytes();
    let identity = Making {
        names: &["client"],
        until: 2999,
        is_authority: false,
    };
    let identity = identity.self_signed();
    for (setter, server) in [
        ("verify(false)", own().verify(false)),
        ("trust_pem", own().trust_pem(pem).unwrap()),
        (
            "client_certificate_pem",
            own()
                .client_certificate_pem(identity.pem.as_bytes(), identity.key_pem.as_bytes())
                .unwrap(),
        ),
    ] {
        let error = fails(&server);
        let line = format!(
            "local: {setter} does not go with rustls_config; change the settings that are given there ({MEND_SETTING})"
        );
        assert_eq!(error.to_string(), line);
    }
}

#[test]
fn required_tls_is_required_of_a_stream_with_facts_too() {
    let (address, heard) = server(&[]);
    let connect = |server: &Server, facts| {
        let stream = TcpStream::connect(&address).unwrap();
        Session::connect_over_tls(server, stream, facts).map(Session::quit)
    };
    let required = Server::new(&address)
        .tls(TlsPolicy::Required)
        .server_name("mx.example.net");
    let error = connect(&required, TlsFacts::default()).unwrap_err();
    assert!(matches!(error.cause(), Cause::TlsUntrusted(_)), "{error}");
    assert_eq!(*heard.lock().unwrap(), [""; 0]);
    let mut verified = TlsFacts::default();
    verified.verified = true;
    connect(&required, verified).unwrap();
    connect(&required.verify(false), TlsFacts::default()).unwrap();
}

#[test]
fn the_advice_about_a_name_is_of_use() {
    let (address, _) = server(&[]);
    let line = |name: &str| {
        let server = Server::new(&address).tls(TlsPolicy::Implicit);
        fails(&server.server_name(name)).to_string()
    };
    for (name, advice) in [
        ("mx.example.net:587", "write mx.example.net alone"),
        ("[::1]:587", "write ::1 alone"),
        ("[::1]", "write ::1 alone"),
        ("fe80::1%eth0", "write HOST or an IP address"),
        ("https://mx.example.net", "write HOST or an IP address"),
    ] {
        let found = line(name);
        assert!(found.contains(advice), "{found}");
        if let Some(better) = advice
            .strip_prefix("write ")
            .and_then(|rest| rest.strip_suffix(" alone"))
        {
            assert!(!line(better).contains("is not the name"), "{better}");
        }
    }
}
