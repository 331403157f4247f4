//! Both adapters against Exim, which this suite unpacks and starts itself. What arrives is compared octet for
//! octet with what was sent.
//!
//! Exim changes nothing in these messages: it stores LF for CRLF, ends an unfinished last line, and puts
//! Return-path, Envelope-to and Received on top. What it would change is not in them: a message that does not
//! begin with a header gets an empty line first, one without a body an empty line last, a NUL in a header
//! becomes `?`, and a bare CR CRLF (which never leaves us).

use std::sync::LazyLock;
use std::time::Duration;

use smtp_blocking::Connector;
use smtp_proto::{Chunking, TlsPolicy};
use smtp_tests::exim::Exim;
use smtp_tests::real::{self, Adapter, Manner};

/// One for all tests; each has recipients of its own.
static EXIM: LazyLock<Exim> = LazyLock::new(|| Exim::start().unwrap_or_else(|error| panic!("{error}")));

#[test]
fn what_it_offers() {
    let connector = Connector::new(&format!("127.0.0.1:{}", EXIM.smtp_port())).tls(TlsPolicy::Never);
    let session = connector.connect().unwrap();
    let expected = "SIZE 67108864,8BITMIME,DSN,PIPELINING,PIPECONNECT,CHUNKING,STARTTLS,PRDR,SMTPUTF8,HELP";
    assert_eq!(real::offers(session.capabilities()).join(","), expected);
    session.quit();
}

#[test]
fn a_single_message() {
    real::a_single_message(&EXIM);
}

#[test]
fn every_way_of_a_body() {
    real::every_way_of_a_body(&EXIM);
}

#[test]
fn an_address_in_utf8() {
    real::an_address_in_utf8(&EXIM);
}

#[test]
fn a_failure_is_reported_to_the_sender() {
    real::a_failure_is_reported_to_the_sender(&EXIM);
}

#[test]
fn a_thousand_messages_blocking() {
    real::bulk(&EXIM, Adapter::Blocking, &Manner { tls: TlsPolicy::Never, ..Manner::default() }, 1000);
}

#[test]
fn a_thousand_messages_tokio_overlapping() {
    real::bulk(
        &EXIM,
        Adapter::Tokio,
        &Manner { tls: TlsPolicy::Never, overlap: true, ..Manner::default() },
        1000,
    );
}

#[test]
fn two_hundred_messages_by_data_blocking_overlapping() {
    real::bulk(
        &EXIM,
        Adapter::Blocking,
        &Manner { chunking: Chunking::Never, overlap: true, ..Manner::default() },
        200,
    );
}

#[test]
fn two_hundred_messages_by_data_tokio() {
    real::bulk(&EXIM, Adapter::Tokio, &Manner { chunking: Chunking::Never, ..Manner::default() }, 200);
}

#[test]
fn two_hundred_messages_blocking_eager() {
    real::bulk(&EXIM, Adapter::Blocking, &Manner { chunking: Chunking::Eager, ..Manner::default() }, 200);
}

#[test]
fn two_hundred_messages_blocking_eager_and_overlapping() {
    let far = Some(real::far_away(&EXIM, Duration::from_millis(50)));
    let manner = Manner { port: far, chunking: Chunking::Eager, overlap: true, ..Manner::default() };
    real::bulk(&EXIM, Adapter::Blocking, &manner, 200);
}

#[test]
fn two_hundred_messages_tokio_eager() {
    real::bulk(&EXIM, Adapter::Tokio, &Manner { chunking: Chunking::Eager, ..Manner::default() }, 200);
}

#[test]
fn two_hundred_messages_tokio_eager_and_overlapping() {
    let far = Some(real::far_away(&EXIM, Duration::from_millis(50)));
    let manner = Manner { port: far, chunking: Chunking::Eager, overlap: true, ..Manner::default() };
    real::bulk(&EXIM, Adapter::Tokio, &manner, 200);
}
