//! Both adapters against aiosmtpd, which this suite installs and starts itself. What arrives is compared octet for
//! octet with what was sent: aiosmtpd changes nothing.
//!
//! It offers neither PIPELINING nor CHUNKING. So each command waits for its reply, nothing overlaps, and all bodies go out
//! by DATA.

use std::sync::LazyLock;

use smtp_blocking::Server;
use smtp_proto::{Credentials, TlsPolicy};
use smtp_tests::servers::real::aiosmtpd::Aiosmtpd;
use smtp_tests::servers::real::{self, Adapter, Login, Manner};

/// One for all tests; each has recipients of its own.
static AIOSMTPD: LazyLock<Aiosmtpd> =
    LazyLock::new(|| Aiosmtpd::start().unwrap_or_else(|error| panic!("{error}")));

smtp_tests::tests_of_every_server!(AIOSMTPD);

#[test]
fn what_it_offers() {
    let server = Server::new(format!("127.0.0.1:{}", AIOSMTPD.smtp_port()));
    let session = smtp_blocking::Session::connect(server.clone().tls(TlsPolicy::Never)).unwrap();
    let expected = "SIZE 67108864,8BITMIME,SMTPUTF8,STARTTLS,HELP";
    assert_eq!(real::offers(session.capabilities()).join(","), expected);
    session.quit();
    let session = smtp_blocking::Session::connect(server.verify(false)).unwrap();
    let expected = "SIZE 67108864,8BITMIME,SMTPUTF8,AUTH LOGIN PLAIN,HELP";
    assert_eq!(real::offers(session.capabilities()).join(","), expected);
    session.quit();
}

#[test]
fn logins() {
    let (plain, login) = (
        "login: mechanism=PLAIN, right",
        "login: mechanism=LOGIN, right",
    );
    let logins = [
        Login {
            mechanism: "PLAIN",
            logged: plain,
        },
        Login {
            mechanism: "LOGIN",
            logged: login,
        },
    ];
    real::logins(
        &AIOSMTPD,
        &Manner::default(),
        AIOSMTPD.user(),
        AIOSMTPD.password(),
        &logins,
    );
}

#[test]
fn no_login_in_the_clear() {
    let manner = Manner {
        tls: TlsPolicy::Never,
        ..Manner::default()
    };
    real::no_login(&AIOSMTPD, &manner);
}

#[test]
fn no_chunking() {
    real::no_chunking(&AIOSMTPD);
}

#[test]
fn a_record_with_a_login() {
    let manner = Manner {
        credentials: Some(Credentials::password(AIOSMTPD.user(), AIOSMTPD.password())),
        ..Manner::default()
    };
    real::a_record(&AIOSMTPD, &manner);
}

#[test]
fn an_address_in_utf8() {
    real::an_address_in_utf8(&AIOSMTPD);
}

#[test]
fn no_delivery_reports() {
    real::no_delivery_reports(&AIOSMTPD, &Manner::default());
}

/// Overlap is asked for, and there is none without PIPELINING.
#[test]
fn three_hundred_messages_blocking_overlapping() {
    let manner = Manner {
        tls: TlsPolicy::Never,
        overlap: true,
        ..Manner::default()
    };
    real::bulk(&AIOSMTPD, Adapter::Blocking, &manner, 300);
}

#[test]
fn three_hundred_messages_tokio() {
    real::bulk(&AIOSMTPD, Adapter::Tokio, &Manner::default(), 300);
}
