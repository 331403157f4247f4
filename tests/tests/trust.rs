//! Trust as one table: policy, credentials and certificate, and what was sent. Each cell is a real handshake with a
//! server that keeps its own records, by each adapter.

use std::net::{IpAddr, Ipv4Addr};

use smtp_proto::{
    Cause, Channel, ClientName, Config, Connection, Credentials, Envelope, Event, Instant, Stage,
    TlsFacts, TlsPolicy,
};
use smtp_tests::servers::tls::{Authority, Books, Identity, Making, Setup, TlsPeer};

/// `AUTH PLAIN` of alice with s3cret.
const PLAIN: &str = "AUTH PLAIN AGFsaWNlAHMzY3JldA==";
const MESSAGE: &[u8] = b"Subject: trust\r\n\r\nHello.\r\n";

/// The result of a session.
struct Run {
    /// `None`, or the error with which the session could not be opened.
    error: Option<(Stage, Cause, String)>,
    verified: bool,
}

/// The settings of the client.
#[derive(Clone, Debug)]
struct Client<'a> {
    server: String,
    policy: Option<TlsPolicy>,
    credentials: Option<Credentials>,
    server_name: Option<&'a str>,
    trusted: &'a [&'a str],
    verify: bool,
}

macro_rules! server {
    ($adapter:ident, $client:expr) => {{
        let client: &Client<'_> = $client;
        let mut server = $adapter::Server::new(&client.server)
            .credentials(client.credentials.clone())
            .client_name(ClientName::parse("client.example").unwrap())
            .verify(client.verify);
        if let Some(policy) = client.policy {
            server = server.tls(policy);
        }
        if let Some(name) = client.server_name {
            server = server.server_name(name);
        }
        for pem in client.trusted {
            server = server.trust_pem(pem.as_bytes()).unwrap();
        }
        server
    }};
}

fn run(error: Option<smtp_adapter::Error>, verified: bool) -> Run {
    let error = error.map(|error| (error.stage(), error.cause().clone(), error.to_string()));
    Run { error, verified }
}

fn blocking(client: &Client<'_>) -> Run {
    match smtp_blocking::Session::connect(&server!(smtp_blocking, client)) {
        Ok(mut session) => {
            let verified = session
                .tls_info()
                .is_some_and(|tls| tls.verified_name.is_some());
            let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
            assert!(session.send_last(envelope, MESSAGE).unwrap().is_success());
            run(None, verified)
        }
        Err(error) => run(Some(error), false),
    }
}

fn tokio(client: &Client<'_>) -> Run {
    let runtime = ::tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match smtp_tokio::Session::connect(&server!(smtp_tokio, client)).await {
            Ok(mut session) => {
                let verified = session
                    .tls_info()
                    .is_some_and(|tls| tls.verified_name.is_some());
                let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
                assert!(
                    session
                        .send_last(envelope, MESSAGE)
                        .await
                        .unwrap()
                        .is_success()
                );
                run(None, verified)
            }
            Err(error) => run(Some(error), false),
        }
    })
}

type Adapter = fn(&Client<'_>) -> Run;
const ADAPTERS: [(&str, Adapter); 2] = [("blocking", blocking), ("tokio", tokio)];

/// A certificate, the client's way to the server, and whether it is the right server.
struct Case {
    what: &'static str,
    identity: Identity,
    /// The client connects to this name or address of the server.
    host: &'static str,
    server_name: Option<&'static str>,
    /// The certificates that the client trusts.
    trusted: Vec<String>,
    right: bool,
    /// A part that the error line must contain.
    tells: &'static str,
}

fn cases() -> Vec<Case> {
    let ca = Authority::new("The Authority");
    let other = Authority::new("Another One");
    let good = Making {
        names: &["localhost", "127.0.0.1"],
        until: 2999,
        is_authority: false,
    };
    let by_name = Making {
        names: &["localhost"],
        ..good.clone()
    };
    let by_address = Making {
        names: &["127.0.0.1"],
        ..good.clone()
    };
    let exchanger = Making {
        names: &["mx.example.net"],
        ..good.clone()
    };
    let expired = Making {
        until: 2021,
        ..good.clone()
    };
    let authority = Making {
        is_authority: true,
        ..by_name.clone()
    };
    let case = |what, identity, host, right, tells| Case {
        what,
        identity,
        host,
        server_name: None,
        trusted: vec![ca.pem.clone()],
        right,
        tells,
    };
    let pinned = |what, identity: Identity, host, right, tells| Case {
        trusted: vec![identity.pem.clone()],
        ..case(what, identity, host, right, tells)
    };
    let named = |name, case: Case| Case {
        server_name: Some(name),
        ..case
    };
    let stranger = "signed by CN=Another One, which is not trusted";
    let own = "signed itself";
    let alone = "the key of its certificate";
    vec![
        case("good", ca.sign(&by_name), "localhost", true, ""),
        case(
            "good, and connected to by its address",
            ca.sign(&by_address),
            "127.0.0.1",
            true,
            "",
        ),
        named(
            "mx.example.net",
            case(
                "good for the name given",
                ca.sign(&exchanger),
                "127.0.0.1",
                true,
                "",
            ),
        ),
        case(
            "for another name",
            ca.sign(&exchanger),
            "localhost",
            false,
            "for mx.example.net, not for localhost",
        ),
        case(
            "for the name, not the address",
            ca.sign(&by_name),
            "127.0.0.1",
            false,
            "not for 127.0.0.1",
        ),
        named(
            "mx.example.net",
            case(
                "not for the name given",
                ca.sign(&good),
                "localhost",
                false,
                "mx.example.net",
            ),
        ),
        case("untrusted", other.sign(&good), "localhost", false, stranger),
        named(
            "localhost",
            case(
                "untrusted, and named",
                other.sign(&good),
                "127.0.0.1",
                false,
                stranger,
            ),
        ),
        case(
            "expired",
            ca.sign(&expired),
            "localhost",
            false,
            "expired on 2021-12-31",
        ),
        case("self-signed", good.self_signed(), "localhost", false, own),
        pinned(
            "self-signed and pinned",
            by_name.self_signed(),
            "localhost",
            true,
            "",
        ),
        case(
            "an authority's own",
            authority.self_signed(),
            "localhost",
            false,
            own,
        ),
        pinned(
            "an authority's own, and pinned",
            authority.self_signed(),
            "localhost",
            true,
            "",
        ),
        pinned(
            "pinned, and for another name",
            authority.self_signed(),
            "127.0.0.1",
            false,
            "not for 127.0.0.1",
        ),
        pinned(
            "pinned, and expired",
            expired.self_signed(),
            "localhost",
            false,
            "expired on 2021-12-31",
        ),
        case(
            "with another key",
            ca.sign(&good).with_another_key(),
            "localhost",
            false,
            alone,
        ),
        pinned(
            "pinned, with another key",
            good.self_signed().with_another_key(),
            "localhost",
            false,
            alone,
        ),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Password {
    None,
    Given,
    InClear,
    Unverified,
}

impl Password {
    fn credentials(self) -> Option<Credentials> {
        let password = Credentials::password("alice", "s3cret");
        match self {
            Self::None => None,
            Self::Given => Some(password),
            Self::InClear => Some(password.permit_in_clear()),
            Self::Unverified => Some(password.permit_unverified()),
        }
    }
}

/// The effective policy if none was chosen.
fn effective(policy: Option<TlsPolicy>, password: Password) -> TlsPolicy {
    policy.unwrap_or(match password {
        Password::None | Password::InClear => TlsPolicy::Opportunistic,
        Password::Given | Password::Unverified => TlsPolicy::Required,
    })
}

fn every_cell((name, adapter): (&str, Adapter)) {
    let policies = [
        (None, true),
        (Some(TlsPolicy::Opportunistic), true),
        (Some(TlsPolicy::Required), true),
        (Some(TlsPolicy::Required), false),
        (Some(TlsPolicy::Implicit), true),
    ];
    let mut cells = 0;
    for case in cases() {
        for (policy, verify) in policies {
            for password in [
                Password::None,
                Password::Given,
                Password::InClear,
                Password::Unverified,
            ] {
                // Protocol versions alternate, so that every certificate and policy meets both.
                cell(
                    name,
                    adapter,
                    &case,
                    cells % 2 == 1,
                    policy,
                    password,
                    verify,
                );
                cells += 1;
            }
        }
        cells += 1;
    }
    println!("{cells} handshakes");
}

#[test]
fn a_password_goes_to_a_verified_server_or_nowhere_blocking() {
    every_cell(ADAPTERS[0]);
}

#[test]
fn a_password_goes_to_a_verified_server_or_nowhere_tokio() {
    every_cell(ADAPTERS[1]);
}

fn cell(
    name: &str,
    adapter: Adapter,
    case: &Case,
    tls12: bool,
    policy: Option<TlsPolicy>,
    password: Password,
    verify: bool,
) {
    let implicit = policy == Some(TlsPolicy::Implicit);
    let identity = case.identity.clone();
    let setup = Setup {
        identity,
        implicit,
        starttls: true,
        tls12,
        mechanisms: "PLAIN",
    };
    let peer = TlsPeer::start(setup).unwrap();
    let trusted: Vec<&str> = case.trusted.iter().map(String::as_str).collect();
    let client = Client {
        server: format!("{}:{}", case.host, peer.port()),
        policy,
        credentials: password.credentials(),
        server_name: case.server_name,
        trusted: &trusted,
        verify,
    };
    let outcome = adapter(&client);
    let books = peer.books();
    let what = format!(
        "{name}: {}, 1.2: {tls12}, {policy:?}, {password:?}, verify: {verify}",
        case.what
    );

    let ends = verify
        && !case.right
        && (effective(policy, password) != TlsPolicy::Opportunistic || case.server_name.is_some())
        && (policy.is_some() || case.server_name.is_some() || password != Password::Unverified);
    let logs_in =
        password != Password::None && !ends && (case.right || password == Password::Unverified);
    let sends = !ends && (password == Password::None || logs_in);
    let told: Vec<_> = books
        .commands
        .iter()
        .filter(|(line, _)| line.starts_with("AUTH"))
        .cloned()
        .collect();
    let expected: &[(String, bool)] = if logs_in {
        &[(PLAIN.into(), true)]
    } else {
        &[]
    };
    assert_eq!(told, expected, "{what}");
    assert_eq!(books.said("MAIL").len(), usize::from(sends), "{what}");
    assert!(
        !format!("{:?}", books.commands)
            .replace(PLAIN, "")
            .contains("AGFsaWNl"),
        "{what}"
    );
    match outcome.error {
        None => {
            assert!(sends, "{what}");
            assert_eq!(outcome.verified, case.right, "{what}");
        }
        Some((stage, cause, line)) if ends => {
            let expected = if implicit {
                Stage::Connect
            } else {
                Stage::StartTls
            };
            assert_eq!(stage, expected, "{what}: {line}");
            assert!(!line.contains("s3cret"), "{line}");
            assert!(matches!(cause, Cause::TlsUntrusted(_)), "{what}: {line}");
            assert!(
                line.contains(case.tells) && line.contains("verify(false)"),
                "{what}: {line}"
            );
        }
        Some((stage, cause, line)) => {
            assert_eq!(stage, Stage::Auth, "{what}: {line}");
            assert!(
                matches!(cause, Cause::CredentialsUnverified(_)),
                "{what}: {line}"
            );
            assert!(
                line.contains(case.tells) && line.contains("permit_unverified"),
                "{what}: {line}"
            );
        }
    }
}

/// Under TLS 1.2 the binding is a hash of the certificate, which is public. Only the signature of the handshake
/// proves that the server has its key. An impostor without the key must not get a response that the real server
/// accepts.
#[test]
fn a_channel_binding_needs_a_signed_handshake() {
    let ca = Authority::new("The Authority");
    let real = ca.sign(&Making {
        names: &["localhost"],
        until: 2999,
        is_authority: false,
    });
    for (identity, is_bound) in [(real.clone(), true), (real.with_another_key(), false)] {
        for tls12 in [true, false] {
            for trusted in [&[ca.pem.as_str()][..], &[]] {
                for policy in [TlsPolicy::Opportunistic, TlsPolicy::Required] {
                    for (name, adapter) in ADAPTERS {
                        let mechanisms = "SCRAM-SHA-256-PLUS";
                        let identity = identity.clone();
                        let setup = Setup {
                            identity,
                            implicit: false,
                            starttls: true,
                            tls12,
                            mechanisms,
                        };
                        let peer = TlsPeer::start(setup).unwrap();
                        let outcome = adapter(&Client {
                            server: format!("localhost:{}", peer.port()),
                            policy: Some(policy),
                            credentials: Some(Credentials::password("alice", "s3cret")),
                            server_name: None,
                            trusted,
                            verify: false,
                        });
                        let what = format!("{name} 1.2: {tls12} {policy:?} {is_bound}");
                        let line = outcome.error.expect("the peer takes PLAIN alone").2;
                        let auth = peer.books().said("AUTH").len();
                        assert_eq!(auth, usize::from(is_bound), "{what}: {line}");
                    }
                }
            }
        }
    }
}

/// By default, `send_mail` with a password only reaches a verified server.
#[test]
fn send_mail_with_a_password_is_safe_by_default() {
    let making = Making {
        names: &["localhost"],
        until: 2999,
        is_authority: false,
    };
    for starttls in [true, false] {
        let identity = making.self_signed();
        let peer = TlsPeer::start(Setup {
            identity,
            implicit: false,
            starttls,
            tls12: false,
            mechanisms: "PLAIN",
        });
        let peer = peer.unwrap();
        let server = format!("localhost:{}", peer.port());
        let login = || Some(Credentials::password("alice", "s3cret"));
        let (from, to) = ("a@example.org", ["b@example.net"]);
        let error = smtp_blocking::send_mail(&server, from, &to, MESSAGE, login()).unwrap_err();
        assert_eq!(error.stage(), Stage::StartTls, "{error}");
        let runtime = ::tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let error = runtime
            .block_on(smtp_tokio::send_mail(&server, from, &to, MESSAGE, login()))
            .unwrap_err();
        assert_eq!(error.stage(), Stage::StartTls, "{error}");
        assert_eq!(
            (
                peer.books().said("AUTH").len(),
                peer.books().said("MAIL").len()
            ),
            (0, 0)
        );
        // Without a password, it works as between mail servers.
        assert!(
            smtp_blocking::send_mail(&server, from, &to, MESSAGE, None)
                .unwrap()
                .is_success()
        );
        assert_eq!(peer.books().said("MAIL").len(), 1);
    }
}

/// The table of the design, on the engine alone, which protects embedders too. Each row is a channel, and each column
/// is a kind of credentials with its permissions. Each cell is what the server gets.
#[test]
fn the_engine_keeps_the_table() {
    #[derive(Clone, Copy, Debug)]
    enum Way {
        Verified,
        Unverified,
        Socket,
        Tunnel,
        Clear,
        ClearAfterOpportunistic,
    }
    let kinds = [
        ("PLAIN", Credentials::password("alice", "s3cret")),
        ("CRAM-MD5", Credentials::password("alice", "s3cret")),
        ("XOAUTH2", Credentials::token("alice", "t0ken")),
        ("EXTERNAL", Credentials::external()),
        ("ANONYMOUS", Credentials::anonymous("alice")),
    ];
    for way in [
        Way::Verified,
        Way::Unverified,
        Way::Socket,
        Way::Tunnel,
        Way::Clear,
        Way::ClearAfterOpportunistic,
    ] {
        for (mechanism, credentials) in &kinds {
            for (in_clear, unverified) in [(false, false), (true, false), (false, true)] {
                let mut credentials = credentials.clone();
                if in_clear {
                    credentials = credentials.permit_in_clear();
                }
                if unverified {
                    credentials = credentials.permit_unverified();
                }
                let told = match (way, *mechanism) {
                    (Way::Verified | Way::Socket | Way::Tunnel, _) | (_, "ANONYMOUS") => true,
                    (Way::Unverified, "EXTERNAL") => true,
                    (Way::Unverified, _) => unverified,
                    (Way::Clear, "CRAM-MD5") => true,
                    (Way::Clear | Way::ClearAfterOpportunistic, _) => in_clear,
                };
                let mut facts = TlsFacts::default();
                facts.verified = true;
                let mut config = Config::new(ClientName::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
                config.credentials = Some(credentials);
                config.tls = TlsPolicy::Never;
                let mut handshake = None;
                match way {
                    Way::Verified => (config.tls, handshake) = (TlsPolicy::Implicit, Some(facts)),
                    Way::Unverified => {
                        (config.tls, handshake) = (TlsPolicy::Implicit, Some(TlsFacts::default()))
                    }
                    Way::Socket => config.channel = Channel::Local,
                    Way::Tunnel => config.channel = Channel::Tls(facts),
                    Way::Clear => {}
                    Way::ClearAfterOpportunistic => config.tls = TlsPolicy::Opportunistic,
                }
                let (said, closed) = converse(config, handshake, mechanism);
                let what = format!(
                    "{way:?} {mechanism} in_clear: {in_clear} unverified: {unverified}: {said}"
                );
                assert_eq!(said.contains(&format!("AUTH {mechanism}")), told, "{what}");
                assert_eq!(closed.is_some(), !told, "{what}");
                if let Some(error) = closed {
                    assert_eq!(error.stage, Stage::Auth, "{what}");
                    match way {
                        Way::Unverified => {
                            assert!(matches!(error.cause, Cause::CredentialsUnverified(_)))
                        }
                        _ => assert_eq!(error.cause, Cause::CredentialsInClear),
                    }
                }
            }
        }
    }
}

/// Opens a session with a server that only offers this mechanism, up to the command that uses it. Returns what was
/// sent, and the error that closed the session.
fn converse(
    config: Config,
    handshake: Option<TlsFacts>,
    mechanism: &str,
) -> (String, Option<smtp_proto::Error>) {
    let now = Instant::default();
    let mut engine = Connection::new(config, now);
    if let Some(facts) = handshake {
        assert_eq!(engine.poll_event(), Some(Event::StartTls));
        engine.handle_tls_established_with(now, facts).unwrap();
    }
    let (mut said, mut closed) = (String::new(), None);
    for reply in [
        "220 hi\r\n".to_owned(),
        format!("250-hi\r\n250 AUTH {mechanism}\r\n"),
        String::new(),
    ] {
        while let Some(transmit) = engine.poll_transmit(now, b"") {
            said += &String::from_utf8(transmit.parts().concat()).unwrap();
            transmit.advance(usize::MAX);
        }
        while let Some(event) = engine.poll_event() {
            if let Event::Closed(result) = event {
                closed = result.err();
            }
        }
        engine.handle_input(now, reply.as_bytes());
    }
    (said, closed)
}

/// A trusted certificate of a server only vouches for that server.
#[test]
fn a_pinned_certificate_is_no_authority() {
    let making = Making {
        names: &["other.example"],
        until: 2999,
        is_authority: false,
    };
    let (pinned, signed) = making.self_signed_and_signing(&Making {
        names: &["localhost"],
        ..making.clone()
    });
    let setup = Setup {
        identity: signed,
        implicit: false,
        starttls: true,
        tls12: false,
        mechanisms: "PLAIN",
    };
    let peer = TlsPeer::start(setup).unwrap();
    for (name, adapter) in ADAPTERS {
        let outcome = adapter(&Client {
            server: format!("localhost:{}", peer.port()),
            policy: Some(TlsPolicy::Opportunistic),
            credentials: Some(Credentials::password("alice", "s3cret")),
            server_name: None,
            trusted: &[&pinned.pem],
            verify: true,
        });
        assert!(outcome.error.is_some(), "{name}");
    }
    assert!(peer.books().said("AUTH").is_empty());
}

/// The stream decides whether it is local, and not the server.
#[cfg(unix)]
#[test]
fn a_network_is_no_unix_socket() {
    let identity = Making {
        names: &["localhost"],
        until: 2999,
        is_authority: false,
    }
    .self_signed();
    let setup = Setup {
        identity,
        implicit: false,
        starttls: false,
        tls12: false,
        mechanisms: "PLAIN",
    };
    let peer = TlsPeer::start(setup).unwrap();
    let login = || Credentials::password("alice", "s3cret");
    let address = ("127.0.0.1", peer.port());
    let server = smtp_adapter::Server::unix("/nowhere").credentials(login());
    let stream = std::net::TcpStream::connect(address).unwrap();
    smtp_blocking::Session::connect_over(&server, stream).unwrap_err();
    let runtime = ::tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = ::tokio::net::TcpStream::connect(address).await.unwrap();
        let session = smtp_tokio::Session::connect_over(&server, stream).await;
        session.unwrap_err();
    });
    assert!(peer.books().said("AUTH").is_empty(), "{:?}", peer.books());
}

/// The records are not empty by mistake.
#[test]
fn the_peer_keeps_books() {
    let identity = Making {
        names: &["localhost"],
        until: 2999,
        is_authority: false,
    }
    .self_signed();
    let trusted = identity.pem.clone();
    let setup = Setup {
        identity,
        implicit: false,
        starttls: true,
        tls12: false,
        mechanisms: "PLAIN",
    };
    let peer = TlsPeer::start(setup).unwrap();
    let client = Client {
        server: format!("localhost:{}", peer.port()),
        policy: None,
        credentials: Some(Credentials::password("alice", "s3cret")),
        server_name: None,
        trusted: &[&trusted],
        verify: true,
    };
    assert!(blocking(&client).verified);
    let Books { commands } = peer.books();
    let verbs: Vec<_> = commands
        .iter()
        .map(|(line, tls)| (line.split(' ').next().unwrap(), *tls))
        .collect();
    let outside = [("EHLO", false), ("STARTTLS", false)];
    let inside = ["EHLO", "AUTH", "MAIL", "RCPT", "DATA"].map(|verb| (verb, true));
    assert_eq!(verbs[..7], [&outside[..], &inside[..]].concat());
}
