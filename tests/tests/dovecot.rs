//! Both adapters send by LMTP to Dovecot, over TCP and over a Unix socket. This suite installs and starts it, and
//! compares what arrives with what was sent, octet for octet.
//!
//! Dovecot does not change these messages. It stores LF for CRLF, ends an unfinished last line, and puts Return-Path
//! and Received on top.

use std::sync::LazyLock;

use smtp_blocking::Server;
use smtp_proto::{Chunking, TlsPolicy};
use smtp_tests::servers::real::dovecot::Dovecot;
use smtp_tests::servers::real::{self, Adapter, Manner};

/// One server for all tests. Each test has its own recipients.
static DOVECOT: LazyLock<Dovecot> =
    LazyLock::new(|| Dovecot::start().unwrap_or_else(|error| panic!("{error}")));

#[test]
fn what_it_offers() {
    let server = Server::new(format!("127.0.0.1:{}", DOVECOT.smtp_port())).lmtp();
    let session = smtp_blocking::Session::connect(server.tls(TlsPolicy::Never)).unwrap();
    let expected = [
        "8BITMIME",
        "CHUNKING",
        "ENHANCEDSTATUSCODES",
        "PIPELINING",
        "STARTTLS",
    ];
    assert_eq!(real::offers(session.capabilities()), expected);
    session.quit();
}

smtp_tests::tests_of_every_server!(DOVECOT);

/// Nobody logs in by LMTP.
#[test]
fn no_login() {
    real::no_login(&DOVECOT, &Manner::default());
}

/// Overlap is asked for, and under LMTP there is none.
#[test]
fn fifty_messages_tokio_overlapping() {
    let manner = Manner {
        overlap: true,
        ..Manner::default()
    };
    real::bulk(&DOVECOT, Adapter::Tokio, &manner, 50);
}

#[test]
fn one_of_three_refused_after_the_data() {
    real::refused_after_the_data(&DOVECOT, None, "full", 552, "5.2.2");
}

#[test]
fn a_thousand_messages_blocking() {
    real::bulk(
        &DOVECOT,
        Adapter::Blocking,
        &Manner {
            tls: TlsPolicy::Never,
            ..Manner::default()
        },
        1000,
    );
}

#[test]
fn a_thousand_messages_tokio_over_a_unix_socket() {
    real::bulk(
        &DOVECOT,
        Adapter::TokioUnix,
        &Manner {
            tls: TlsPolicy::Never,
            ..Manner::default()
        },
        1000,
    );
}

#[test]
fn two_hundred_messages_by_data_blocking_over_a_unix_socket() {
    real::bulk(
        &DOVECOT,
        Adapter::BlockingUnix,
        &Manner {
            chunking: Chunking::Never,
            ..Manner::default()
        },
        200,
    );
}

#[test]
fn two_hundred_messages_by_data_tokio() {
    real::bulk(
        &DOVECOT,
        Adapter::Tokio,
        &Manner {
            chunking: Chunking::Never,
            ..Manner::default()
        },
        200,
    );
}

#[test]
fn no_utf8() {
    real::no_utf8(&DOVECOT, &Manner::default());
}

#[test]
fn no_delivery_reports() {
    real::no_delivery_reports(&DOVECOT, &Manner::default());
}
