//! Resumed sessions: each is verified exactly if the first one was, under the same name and the same trust. Each cell
//! is two real handshakes in a row, with each adapter.

use std::sync::Arc;

use smtp_adapter::{Server, TlsInfo};
use smtp_proto::{Credentials, Envelope, Stage, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::servers::tls::{Authority, Making, Setup, TlsPeer};

const NAME: &str = "mx.example.net";

fn peer(authority: &Authority, tls12: bool) -> (TlsPeer, Server) {
    let making = Making {
        names: &[NAME],
        until: 2090,
        is_authority: false,
    };
    let setup = Setup {
        identity: authority.sign(&making),
        implicit: false,
        starttls: true,
        tls12,
        mechanisms: "PLAIN",
    };
    let peer = TlsPeer::start(setup).unwrap();
    let server = Server::new(format!("127.0.0.1:{}", peer.port())).tls(TlsPolicy::Required);
    (peer, server)
}

type Result = std::result::Result<TlsInfo, smtp_adapter::Error>;

/// It sends a message, so that the server's octets after the handshake are read.
fn by_blocking(server: &Server) -> Result {
    let mut session = smtp_blocking::Session::connect(server)?;
    let _ = session.send(envelope(), &b"x\r\n"[..])?;
    Ok(session.tls_info().unwrap().clone())
}

fn by_tokio(server: &Server) -> Result {
    runtime().block_on(async {
        let mut session = smtp_tokio::Session::connect(server).await?;
        let _ = session.send(envelope(), &b"x\r\n"[..]).await?;
        Ok(session.tls_info().unwrap().clone())
    })
}

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

const ADAPTERS: [fn(&Server) -> Result; 2] = [by_blocking, by_tokio];

#[test]
fn a_verified_session_resumes_and_stays_verified() {
    let authority = Authority::new("an authority");
    for tls12 in [false, true] {
        for connect in ADAPTERS {
            let (_peer, server) = peer(&authority, tls12);
            let server = server
                .server_name(NAME)
                .trust_pem(authority.pem.as_bytes())
                .unwrap()
                .credentials(Credentials::password("alice", "s3cret"));
            let (first, second) = (connect(&server).unwrap(), connect(&server).unwrap());
            assert_eq!((first.is_resumed, second.is_resumed), (false, true));
            for info in [first, second] {
                assert_eq!(info.verified_name.as_deref(), Some(NAME));
                assert_eq!(info.unverified, None);
                assert_eq!(info.peer_certificates.len(), 1);
            }
        }
    }
}

#[test]
fn a_session_that_was_not_verified_is_not_resumed() {
    let authority = Authority::new("an authority");
    for tls12 in [false, true] {
        for connect in ADAPTERS {
            let (_peer, server) = peer(&authority, tls12);
            let lenient = server.clone().verify(false);
            let opportunistic = server.tls(TlsPolicy::Opportunistic);
            for server in [lenient, opportunistic] {
                for _ in 0..2 {
                    let info = connect(&server).unwrap();
                    assert!(!info.is_resumed);
                    assert_eq!(info.verified_name, None);
                    assert!(info.unverified.is_some());
                }
            }
        }
    }
}

/// Each change that affects TLS, after a session that would resume.
#[test]
fn other_terms_borrow_nothing() {
    let authority = Authority::new("an authority");
    for tls12 in [false, true] {
        for connect in ADAPTERS {
            let (_peer, server) = peer(&authority, tls12);
            let named = server.clone().server_name(NAME);
            let trusting = named.clone().trust_pem(authority.pem.as_bytes()).unwrap();
            connect(&trusting).unwrap();
            assert!(connect(&trusting).unwrap().is_resumed);

            // Another name, and no trust.
            for other in [trusting.clone().server_name("other.example.net"), named] {
                let error = connect(&other).unwrap_err();
                assert_eq!(error.stage(), Stage::StartTls, "{error}");
            }
            // A clone shares the built settings until it is changed.
            assert!(connect(&trusting.clone()).unwrap().is_resumed);
            let more = Authority::new("another authority");
            let more = trusting.clone().trust_pem(more.pem.as_bytes()).unwrap();
            let info = connect(&more).unwrap();
            assert_eq!(
                (info.is_resumed, info.verified_name.as_deref()),
                (false, Some(NAME))
            );
            // A caller that accepts any server still learns what was found.
            let any = trusting.clone().verify(false);
            let info = connect(&any).unwrap();
            assert_eq!(
                (info.is_resumed, info.verified_name.as_deref()),
                (false, Some(NAME))
            );
        }
    }
}

#[test]
fn the_applications_own_settings_are_used_and_count_as_verified() {
    let authority = Authority::new("an authority");
    for connect in ADAPTERS {
        let (_peer, server) = peer(&authority, false);
        let mut roots = rustls::RootCertStore::empty();
        let pem = rustls::pki_types::pem::PemObject::from_pem_slice(authority.pem.as_bytes());
        roots.add(pem.unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let own = server.server_name(NAME).rustls_config(Arc::new(config));
        let (first, second) = (connect(&own).unwrap(), connect(&own).unwrap());
        assert_eq!((first.is_resumed, second.is_resumed), (false, true));
        assert_eq!(second.verified_name.as_deref(), Some(NAME));
        // The application's verifier refuses the server.
        let error = connect(&own.server_name("other.example.net")).unwrap_err();
        assert_eq!(error.stage(), Stage::StartTls, "{error}");
    }
}
