//! Error lines for people: each one that a server on loopback can provoke, by a real handshake if it is about TLS.
//! Both adapters must print the same line. Read from top to bottom: the mistake of the server or of the settings, and
//! the line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};
use smtp_adapter::Server;
use smtp_proto::{Timeouts, TlsPolicy};
use smtp_tests::servers::tls::{Authority, Identity, Making, Setup, TlsPeer};
use smtp_tests::watchdog::within_limit;

// The wrong port.

#[test]
fn tls_on_a_port_that_wants_starttls() {
    let port = server(|mut stream| {
        let _ = stream.write_all(b"220 mx.example.net ESMTP\r\n");
        until_the_client_has_gone(&stream);
    });
    assert_eq!(
        line(&Server::new(at(port)).tls(TlsPolicy::Implicit)),
        "connect: the TLS handshake failed: the server speaks clear text on this port; use TlsPolicy::Required for \
         STARTTLS (usually port 587), or the port for TLS from the first octet (usually 465) (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn clear_text_on_a_port_that_wants_tls() {
    let port = server(|stream| until_the_client_has_gone(&stream));
    for policy in [
        TlsPolicy::Never,
        TlsPolicy::Opportunistic,
        TlsPolicy::Required,
    ] {
        assert_eq!(
            line(
                &Server::new(at(port))
                    .tls(policy)
                    .timeouts(impatient(|timeouts| &mut timeouts.greeting))
            ),
            "greeting: timed out after 0.3 s without a word from the server; it may want TLS from the first octet \
             (TlsPolicy::Implicit, usually on port 465) (temporary, try again later)"
        );
    }
}

/// A server that has begun its greeting does not wait for TLS.
#[test]
fn a_greeting_that_does_not_end() {
    let port = server(|mut stream| {
        let _ = stream.write_all(b"220-mx.example.net ESMTP\r\n");
        until_the_client_has_gone(&stream);
    });
    let connect = move || {
        let stream = TcpStream::connect(at(port)).unwrap();
        // The first line has arrived before the clock starts.
        stream.peek(&mut [0]).unwrap();
        stream
    };
    let server = Server::new("localhost")
        .tls(TlsPolicy::Never)
        .timeouts(impatient(|timeouts| &mut timeouts.greeting));
    assert_eq!(
        line_over(&server, connect),
        "greeting: timed out after 0.3 s (temporary, try again later)"
    );
}

/// A server that already has TLS does not wait for it either.
#[test]
fn no_greeting_inside_tls() {
    let ca = Authority::new("The Authority");
    let config = config(&[&TLS13], &ca.sign(&good()));
    let port = server(move |stream| {
        let mut stream = tls(&config, stream);
        let _ = stream.conn.complete_io(&mut stream.sock);
        until_the_client_has_gone(&stream.sock);
    });
    let server = Server::new(at(port))
        .tls(TlsPolicy::Implicit)
        .timeouts(impatient(|timeouts| &mut timeouts.greeting));
    assert_eq!(
        line(&trusting(server, &ca)),
        "greeting: timed out after 0.3 s (temporary, try again later)"
    );
}

#[test]
fn clear_text_after_starttls() {
    let port = server(|mut stream| {
        let _ = until_starttls(&mut stream);
        // Before the client has begun, it would be an injection.
        let _ = read_record(&stream);
        let _ = stream.write_all(b"454 4.7.0 no TLS after all\r\n");
        until_the_client_has_gone(&stream);
    });
    assert_eq!(
        line(&Server::new(at(port)).tls(TlsPolicy::Required)),
        "starttls: the TLS handshake failed: the server went on in clear text after STARTTLS; its log may say why \
         (temporary, try again later)"
    );
}

#[test]
fn the_end_of_the_connection_in_the_handshake() {
    let port = server(|mut stream| {
        let _ = until_starttls(&mut stream);
        // All octets are read, or the system would reset the connection.
        let _ = read_record(&stream);
    });
    assert_eq!(
        line(&Server::new(at(port)).tls(TlsPolicy::Required)),
        "starttls: the connection was lost in the TLS handshake; the server's log may say why (temporary, try again \
         later)"
    );
    let port = server(|stream| {
        let _ = read_record(&stream);
    });
    assert_eq!(
        line(&Server::new(at(port)).tls(TlsPolicy::Implicit)),
        "connect: the connection was lost in the TLS handshake; the server's log may say why (temporary, try again \
         later)"
    );
}

#[test]
fn a_handshake_that_does_not_go_on() {
    let port = server(|mut stream| {
        let _ = until_starttls(&mut stream);
        until_the_client_has_gone(&stream);
    });
    let server = Server::new(at(port)).tls(TlsPolicy::Required);
    assert_eq!(
        line(&server.timeouts(impatient(|timeouts| &mut timeouts.handshake))),
        "starttls: timed out after 0.3 s in the TLS handshake; the server's log may say why (temporary, try again later)"
    );
}

// Nothing in common.

#[test]
fn no_common_version() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign(&good());
    for (theirs, ours) in [(&TLS12, &TLS13), (&TLS13, &TLS12)] {
        let peer = peer(&identity, config(&[theirs], &identity), false);
        let server = Server::new(at(peer.port()))
            .tls(TlsPolicy::Required)
            .rustls_config(client(&[ours], ring::default_provider(), &ca));
        assert_eq!(
            line(&server),
            "starttls: the TLS handshake failed: the server has no TLS version in common with us (alert \
             protocol_version); it must allow TLS 1.2 or 1.3 (temporary, try again later)"
        );
    }
}

#[test]
fn tls_1_0_and_no_more() {
    let port = server(|mut stream| {
        let _ = read_record(&stream);
        // A ServerHello of TLS 1.0.
        let body = [&[3, 1][..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
        let handshake = [&[2, 0, 0, 38][..], &body].concat();
        let record = [&[22, 3, 1, 0, 42][..], &handshake].concat();
        let _ = stream.write_all(&record);
        until_the_client_has_gone(&stream);
    });
    assert_eq!(
        line(&Server::new(at(port)).tls(TlsPolicy::Implicit)),
        "connect: the TLS handshake failed: the server has no TLS version in common with us; it must allow TLS 1.2 or \
         1.3 (temporary, try again later)"
    );
}

#[test]
fn no_common_cipher_suite() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign(&good());
    for version in [&TLS12, &TLS13] {
        let only = |name: &str| {
            let mut provider = ring::default_provider();
            provider
                .cipher_suites
                .retain(|suite| format!("{:?}", suite.suite()).contains(name));
            provider
        };
        let theirs = server_config(&[version], only("AES_256"), &identity);
        let peer = peer(&identity, theirs, false);
        let server = Server::new(at(peer.port()))
            .tls(TlsPolicy::Required)
            .rustls_config(client(&[version], only("CHACHA20"), &ca));
        assert_eq!(line(&server), NOTHING_IN_COMMON);
    }
}

#[test]
fn no_common_key_exchange() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign(&good());
    for version in [&TLS12, &TLS13] {
        let only = |group| {
            let mut provider = ring::default_provider();
            provider.kx_groups = vec![group];
            provider
        };
        let theirs = only(ring::kx_group::SECP384R1);
        let peer = peer(
            &identity,
            server_config(&[version], theirs, &identity),
            false,
        );
        let ours = only(ring::kx_group::X25519);
        let server = Server::new(at(peer.port()))
            .tls(TlsPolicy::Required)
            .rustls_config(client(&[version], ours, &ca));
        assert_eq!(line(&server), NOTHING_IN_COMMON);
    }
}

const NOTHING_IN_COMMON: &str = "starttls: the TLS handshake failed: the server finds no cipher suite, key exchange or \
                                 signature algorithm in common with us, or it wants a client certificate (alert \
                                 handshake_failure); its log may say why (temporary, try again later)";

// The server's certificate.

#[test]
fn an_expired_certificate() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign(&Making {
        until: 2021,
        ..good()
    });
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: its certificate for localhost, 127.0.0.1 expired on 2021-12-31; the \
         server must renew it, or accept any server (verify(false), and for a password Credentials::permit_unverified) \
         (not the message's fault, mend it before you \
         send again)"
    );
    assert_eq!(
        own_verifier_line(&identity, &ca),
        "starttls: the server is not verified: its certificate expired on 2021-12-31; change the settings given to \
         rustls_config, or the server's certificate (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn an_expired_intermediate_certificate() {
    let ca = Authority::new("The Authority");
    let between = ca.intermediate("The Intermediate", 2022);
    let identity = between.sign(&good()).followed_by(&between);
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: the certificate of CN=The Intermediate, which it sent with its own, \
         expired on 2022-12-31; the server must renew it, or accept any server (verify(false), and for a password \
         Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn a_certificate_of_the_future() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign_with(&good(), |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2990, 7, 1);
    });
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: its certificate for localhost, 127.0.0.1 is valid only from 2990-07-01; \
         look at the clock of this host, or accept any server (verify(false), and for a password \
         Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn a_certificate_for_another_name() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign(&Making {
        names: &["mx.example.net", "*.example.org", "192.0.2.1"],
        ..good()
    });
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: its certificate is for mx.example.net, *.example.org, 192.0.2.1, not \
         for localhost; give the name that it is for (server_name), or accept any server (verify(false), and for a \
         password Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
    assert_eq!(
        own_verifier_line(&identity, &ca),
        "starttls: the server is not verified: its certificate is for mx.example.net, *.example.org, 192.0.2.1, not \
         for localhost; change the settings given to rustls_config, or the server's certificate (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn a_missing_intermediate_certificate() {
    let ca = Authority::new("The Authority");
    let identity = ca.intermediate("The Intermediate", 2999).sign(&good());
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: its certificate for localhost, 127.0.0.1 is signed by CN=The \
         Intermediate, which is not trusted, and whose own certificate the server did not send; have the server send \
         it, trust it (trust_pem), or accept any server (verify(false), and for a password \
         Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
    assert_eq!(
        own_verifier_line(&identity, &ca),
        "starttls: the server is not verified: the issuer of its certificate is not trusted, or the server did not \
         send an intermediate certificate; change the settings given to rustls_config, or the server's certificate \
         (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn an_authority_that_is_not_trusted() {
    let (ca, other) = (
        Authority::new("The Authority"),
        Authority::new("Another One"),
    );
    let between = other.intermediate("The Intermediate", 2999);
    let identity = between.sign(&good()).followed_by(&between);
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: the chain of its certificate for localhost, 127.0.0.1 leads to \
         CN=Another One, which is not trusted; trust that issuer (trust_pem), or accept any server (verify(false), and \
         for a password Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn a_certificate_that_has_signed_itself() {
    let ca = Authority::new("The Authority");
    assert_eq!(
        certificate_line(&good().self_signed(), &ca),
        "starttls: the server is not verified: its certificate for localhost, 127.0.0.1 has signed itself and is not \
         among the trusted ones; trust it (trust_pem), or accept any server (verify(false), and for a password \
         Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn a_certificate_that_is_not_for_servers() {
    let ca = Authority::new("The Authority");
    let identity = ca.sign_with(&good(), |parameters| {
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: its certificate for localhost, 127.0.0.1 is not usable: it is not one \
         for a server; the server needs another certificate, or accept any server (verify(false), and for a password \
         Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
    let identity = ca.sign_with(&good(), |parameters| {
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert_eq!(
        certificate_line(&identity, &ca),
        "starttls: the server is not verified: its certificate for localhost, 127.0.0.1 is not usable: it is that of \
         an authority, not of a server; the server needs another certificate, or accept any server (verify(false), and \
         for a password Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
}

#[test]
fn a_server_without_the_key_of_its_certificate() {
    let ca = Authority::new("The Authority");
    assert_eq!(
        certificate_line(&ca.sign(&good()).with_another_key(), &ca),
        "starttls: the server is not verified: it did not show that it has the key of its certificate; accept any \
         server (verify(false), and for a password Credentials::permit_unverified) (not the message's fault, mend it before you \
         send again)"
    );
}

// The client's certificate. Under TLS 1.2 the server refuses it in the handshake, under TLS 1.3 after it.

#[test]
fn a_client_certificate_is_wanted() {
    for (stage, version, implicit) in ways() {
        let ca = Authority::new("The Authority");
        let peer = demanding(&ca, version, implicit);
        let server = Server::new(at(peer.port())).tls(policy(implicit));
        assert_eq!(
            line(&trusting(server, &ca)),
            format!(
                "{stage}: the TLS handshake failed: the server wants a client certificate (alert \
                 certificate_required); give one (client_certificate_pem) (not the message's fault, mend it before you \
         send again)"
            )
        );
    }
}

#[test]
fn a_client_certificate_is_refused() {
    let stranger = Authority::new("Another One").sign(&good());
    for (stage, version, implicit) in ways() {
        let ca = Authority::new("The Authority");
        let peer = demanding(&ca, version, implicit);
        let server = Server::new(at(peer.port())).tls(policy(implicit));
        assert_eq!(
            line(&showing(trusting(server, &ca), &stranger)),
            format!(
                "{stage}: the TLS handshake failed: the server refused the client certificate (alert unknown_ca); give \
                 one that it accepts (client_certificate_pem) (not the message's fault, mend it before you \
         send again)"
            )
        );
    }
}

/// A server that closes at once resets the connection while the client writes. The client still reads its alert.
/// Linux keeps octets that arrived before the reset.
#[cfg(target_os = "linux")]
#[test]
fn a_client_certificate_is_refused_by_a_server_that_closes_at_once() {
    let stranger = Authority::new("Another One").sign(&good());
    for (stage, version, implicit) in ways() {
        let ca = Authority::new("The Authority");
        let config = demanding_config(&ca, version, &ca.sign(&good()));
        let port = server(move |mut stream| {
            if !implicit {
                let _ = until_starttls(&mut stream);
            }
            let _ = tls(&config, stream).read(&mut [0]);
        });
        let server = trusting(Server::new(at(port)).tls(policy(implicit)), &ca);
        assert_eq!(
            line(&showing(server, &stranger)),
            format!(
                "{stage}: the TLS handshake failed: the server refused the client certificate (alert unknown_ca); give \
                 one that it accepts (client_certificate_pem) (not the message's fault, mend it before you \
         send again)"
            )
        );
    }
}

/// Some servers close without an alert.
#[test]
fn the_end_of_the_connection_after_the_handshake() {
    for (stage, version, implicit) in ways() {
        let ca = Authority::new("The Authority");
        let config = config(&[version], &ca.sign(&good()));
        let port = server(move |mut stream| {
            if !implicit {
                let _ = until_starttls(&mut stream);
            }
            let mut stream = tls(&config, stream);
            let _ = match implicit {
                true => stream.conn.complete_io(&mut stream.sock).map(drop),
                false => read_line(&mut stream),
            };
        });
        let server = trusting(Server::new(at(port)).tls(policy(implicit)), &ca);
        assert_eq!(
            line(&server),
            format!(
                "{stage}: the TLS handshake failed: the server closed the connection before its first reply; it may \
                 want a client certificate (client_certificate_pem) (temporary, try again later)"
            )
        );
        assert_eq!(
            line(&showing(server, &ca.sign(&good()))),
            format!(
                "{stage}: the TLS handshake failed: the server closed the connection before its first reply; it may \
                 have refused the client certificate, and its log may say why (temporary, try again later)"
            )
        );
    }
}

#[test]
fn a_client_certificate_without_its_key() {
    let ca = Authority::new("The Authority");
    let (one, other) = (ca.sign(&good()), ca.sign(&good()));
    let identity = ca.sign(&good());
    let peer = peer(&identity, config(&[&TLS13], &identity), false);
    let server = Server::new(at(peer.port()))
        .tls(TlsPolicy::Required)
        .client_certificate_pem(one.pem.as_bytes(), other.key_pem.as_bytes());
    assert_eq!(
        line(&server.unwrap()),
        "local: client_certificate_pem: not usable: the private key does not belong to the certificate (mend it before you \
         send again)"
    );
}

// The settings, before the server is asked.

#[test]
fn the_name_of_a_server() {
    for name in ["", "mx.example.net:smtp", "mx.example.net:0", "[::1", "a b"] {
        assert_eq!(
            line(&Server::new(name)),
            format!(
                "local: invalid server: \"{name}\"; write HOST, HOST:PORT or [IPV6]:PORT (mend it before you \
         send again)"
            )
        );
    }
}

#[test]
fn a_port_in_the_name_to_verify() {
    let port = server(|stream| until_the_client_has_gone(&stream));
    let server = Server::new(at(port));
    assert_eq!(
        line(&server.clone().server_name("mx.example.net:587")),
        "local: server_name: \"mx.example.net:587\" is not the name of a server; write mx.example.net alone \
         (mend it before you \
         send again)"
    );
    assert_eq!(
        line(&server.server_name("mx example net")),
        "local: server_name: \"mx example net\" is not the name of a server; write HOST or an IP address (mend it before you \
         send again)"
    );
}

#[cfg(not(feature = "idna"))]
#[test]
fn a_name_beyond_ascii() {
    let port = server(|stream| until_the_client_has_gone(&stream));
    assert_eq!(
        line(&Server::new(at(port)).server_name("b\u{fc}cher.example")),
        "local: server_name: \"b\u{fc}cher.example\" is not ASCII; build with the feature idna, or write it as xn--... \
         (mend it before you \
         send again)"
    );
    assert_eq!(
        line(&Server::new("b\u{fc}cher.example:587")),
        "local: invalid server: \"b\u{fc}cher.example\" is not ASCII; build with the feature idna, or write it as \
         xn--... (mend it before you \
         send again)"
    );
}

#[test]
fn certificates_in_pem() {
    let good = Authority::new("The Authority").pem;
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let garbled = "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n";
    let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    for (pem, why) in [
        (String::new(), "the PEM text holds no certificate"),
        (
            format!("{good}{damaged}{good}"),
            "certificate 2 of the PEM text is damaged",
        ),
        (
            format!("{good}{good}{garbled}"),
            "certificate 3 of the PEM text cannot be read: it is not base64",
        ),
        (
            format!("{good}{cut}"),
            "certificate 2 of the PEM text cannot be read: its END line is missing",
        ),
    ] {
        assert_eq!(
            Server::new("mx.example.net")
                .trust_pem(pem.as_bytes())
                .unwrap_err()
                .to_string(),
            format!(
                "local: trust_pem: {why} (mend it before you \
         send again)"
            )
        );
    }
    let error = Server::new("mx.example.net")
        .client_certificate_pem(good.as_bytes(), good.as_bytes())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "local: client_certificate_pem: the private key cannot be read: it is missing or encrypted (mend it before you \
         send again)"
    );
}

// The servers and clients of these tests.

/// The error line of a session that cannot be opened. It is the same for both adapters.
fn line(server: &Server) -> String {
    let server = server.clone();
    let lines = within_limit(move || {
        let blocking = smtp_blocking::Session::connect(&server).map(drop);
        let tokio = runtime().block_on(smtp_tokio::Session::connect(&server));
        [blocking, tokio.map(drop)].map(|result| result.unwrap_err().to_string())
    });
    same(lines)
}

/// The same over streams that are already connected.
fn line_over(server: &Server, connect: impl Fn() -> TcpStream + Send + 'static) -> String {
    let server = server.clone();
    let lines = within_limit(move || {
        let blocking = smtp_blocking::Session::connect_over(&server, connect()).map(drop);
        let tokio = runtime().block_on(async {
            let stream = connect();
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            smtp_tokio::Session::connect_over(&server, stream).await
        });
        [blocking, tokio.map(drop)].map(|result| result.unwrap_err().to_string())
    });
    same(lines)
}

fn same(lines: Option<[String; 2]>) -> String {
    let [blocking, tokio] = lines.expect("the session is opened or fails");
    assert_eq!(blocking, tokio);
    blocking
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The line for a server with this certificate, if this authority is trusted. It is the same for each version of TLS.
fn certificate_line(identity: &Identity, ca: &Authority) -> String {
    of_each_version(identity, |port, _| {
        trusting(Server::new(at(port)).tls(TlsPolicy::Required), ca)
    })
}

/// The same with the application's own rustls settings.
fn own_verifier_line(identity: &Identity, ca: &Authority) -> String {
    of_each_version(identity, |port, version| {
        Server::new(at(port))
            .tls(TlsPolicy::Required)
            .rustls_config(client(&[version], ring::default_provider(), ca))
    })
}

fn of_each_version(
    identity: &Identity,
    server: impl Fn(u16, &'static SupportedProtocolVersion) -> Server,
) -> String {
    let [one, other] = [&TLS12, &TLS13].map(|version| {
        let peer = peer(identity, config(&[version], identity), false);
        line(&server(peer.port(), version))
    });
    assert_eq!(one, other);
    one
}

/// The stage of a handshake, the version of TLS, and whether it begins with the first octet.
fn ways() -> [(&'static str, &'static SupportedProtocolVersion, bool); 4] {
    [
        ("starttls", &TLS12, false),
        ("starttls", &TLS13, false),
        ("connect", &TLS12, true),
        ("connect", &TLS13, true),
    ]
}

fn policy(implicit: bool) -> TlsPolicy {
    match implicit {
        true => TlsPolicy::Implicit,
        false => TlsPolicy::Required,
    }
}

fn at(port: u16) -> String {
    format!("localhost:{port}")
}

fn good() -> Making<'static> {
    Making {
        names: &["localhost", "127.0.0.1"],
        until: 2999,
        is_authority: false,
    }
}

fn trusting(server: Server, ca: &Authority) -> Server {
    server.trust_pem(ca.pem.as_bytes()).unwrap()
}

fn showing(server: Server, identity: &Identity) -> Server {
    server
        .client_certificate_pem(identity.pem.as_bytes(), identity.key_pem.as_bytes())
        .unwrap()
}

/// A short timeout for this step. The servers do nothing at it, so a fast clock does not matter.
fn impatient(at: impl Fn(&mut Timeouts) -> &mut Duration) -> Timeouts {
    let mut timeouts = Timeouts::default();
    *at(&mut timeouts) = Duration::from_millis(300);
    timeouts
}

fn client(
    versions: &[&'static SupportedProtocolVersion],
    provider: CryptoProvider,
    ca: &Authority,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn config(
    versions: &[&'static SupportedProtocolVersion],
    identity: &Identity,
) -> Arc<ServerConfig> {
    server_config(versions, ring::default_provider(), identity)
}

fn server_config(
    versions: &[&'static SupportedProtocolVersion],
    provider: CryptoProvider,
    identity: &Identity,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(versions).unwrap();
    Arc::new(
        builder
            .with_no_client_auth()
            .with_cert_resolver(identity.resolver()),
    )
}

/// A server that demands a client certificate of this authority.
fn demanding(
    ca: &Authority,
    version: &'static SupportedProtocolVersion,
    implicit: bool,
) -> TlsPeer {
    let identity = ca.sign(&good());
    peer(
        &identity,
        demanding_config(ca, version, &identity),
        implicit,
    )
}

fn demanding_config(
    ca: &Authority,
    version: &'static SupportedProtocolVersion,
    identity: &Identity,
) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    Arc::new(
        builder
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_cert_resolver(identity.resolver()),
    )
}

fn peer(identity: &Identity, config: Arc<ServerConfig>, implicit: bool) -> TlsPeer {
    let setup = Setup {
        identity: identity.clone(),
        implicit,
        starttls: true,
        tls12: false,
        mechanisms: "PLAIN",
    };
    TlsPeer::start_with(setup, config).unwrap()
}

/// A server that does this on each connection. Returns its port.
fn server(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream);
        }
    });
    port
}

fn tls(config: &Arc<ServerConfig>, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
}

fn until_the_client_has_gone(mut stream: &TcpStream) {
    let _ = io::copy(&mut stream, &mut io::sink());
}

/// The conversation up to the 220 to STARTTLS.
fn until_starttls(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"220 mx.example.net ESMTP\r\n")?;
    read_line(stream)?;
    stream.write_all(b"250-mx.example.net\r\n250 STARTTLS\r\n")?;
    read_line(stream)?;
    stream.write_all(b"220 2.0.0 go ahead\r\n")
}

/// The client waits for a reply after each line, so that only this line is read.
fn read_line(stream: &mut impl Read) -> io::Result<()> {
    BufReader::new(stream)
        .read_line(&mut String::new())
        .map(drop)
}

/// One record of TLS, whole.
fn read_record(mut stream: &TcpStream) -> io::Result<()> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let octets = usize::from(u16::from_be_bytes([header[3], header[4]]));
    stream.read_exact(&mut vec![0; octets])
}
