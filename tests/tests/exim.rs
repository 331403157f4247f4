//! Both adapters against Exim, which this suite unpacks and starts. It compares what arrives with what was sent,
//! octet for octet.
//!
//! Exim does not change these messages. It stores LF for CRLF, ends an unfinished last line, and puts Return-path,
//! Envelope-to and Received on top. The messages avoid what Exim would change. Without a header, it adds an empty
//! line first. Without a body, it adds an empty line last. A NUL in a header becomes `?`, and a bare CR becomes CRLF,
//! but we never send one.

use std::sync::LazyLock;

use smtp_blocking::Server;
use smtp_proto::{
    Chunking, Credentials, Envelope, TlsPolicy, event::Trace, parameter::MailParameter,
};
use smtp_tests::servers::real::exim::Exim;
use smtp_tests::servers::real::{self, Adapter, Login, Manner, address};

/// One server for all tests. Each test has its own recipients.
static EXIM: LazyLock<Exim> =
    LazyLock::new(|| Exim::start().unwrap_or_else(|error| panic!("{error}")));

smtp_tests::tests_of_every_server!(EXIM);
smtp_tests::tests_of_every_smtp_server!(EXIM);

#[test]
fn what_it_offers() {
    let server = Server::new(format!("127.0.0.1:{}", EXIM.smtp_port())).tls(TlsPolicy::Never);
    let session = smtp_blocking::Session::connect(&server).unwrap();
    let expected = "SIZE 67108864,8BITMIME,DSN,PIPELINING,PIPECONNECT,AUTH PLAIN LOGIN CRAM-MD5,CHUNKING,STARTTLS,PRDR,SMTPUTF8,HELP";
    assert_eq!(real::offers(session.capabilities()).join(","), expected);
    session.quit();
}

#[test]
fn logins() {
    let logged = ["A=plain:", "A=login:", "A=cram:"].map(|name| format!(" {name}{} ", EXIM.user()));
    let logins: Vec<_> = ["PLAIN", "LOGIN", "CRAM-MD5"]
        .into_iter()
        .zip(&logged)
        .map(|(mechanism, logged)| Login { mechanism, logged })
        .collect();
    real::logins(
        &EXIM,
        &Manner::default(),
        EXIM.user(),
        EXIM.password(),
        &logins,
    );
}

#[test]
fn a_record_with_a_login() {
    let manner = Manner {
        credentials: Some(Credentials::password(EXIM.user(), EXIM.password())),
        ..Manner::default()
    };
    real::a_record(&EXIM, &manner);
}

#[test]
fn two_hundred_messages_tokio_eager() {
    real::bulk(
        &EXIM,
        Adapter::Tokio,
        &Manner {
            chunking: Chunking::Eager,
            ..Manner::default()
        },
        200,
    );
}

#[test]
fn one_of_three_refused_after_the_data() {
    real::refused_after_the_data(
        &EXIM,
        Some(MailParameter::per_recipient_replies()),
        "prdr-refused",
        550,
        "5.7.1",
    );
}

/// Without PRDR, and with PRDR for a single recipient, the message has one reply for all.
#[test]
fn one_reply_for_all() {
    let message = b"Subject: one reply\r\n\r\nHello.\r\n";
    for adapter in Adapter::all(&EXIM) {
        let one = format!("prdr-{}", adapter.name());
        let two = format!("no-prdr-{}", adapter.name());
        let mut session = adapter.open(&EXIM, &Manner::default());
        let mut send =
            |to: &[String], prdr: bool| {
                let envelope = Envelope::new("sender@example.org", to).unwrap();
                session.trace();
                let report = match prdr {
                    true => session.send(
                        envelope.parameter(MailParameter::per_recipient_replies()),
                        message,
                    ),
                    false => session.send(envelope, message),
                };
                let report = report.unwrap();
                assert!(report.is_success(), "{report:?}");
                let trace = session.trace();
                assert_eq!(real::commands(&trace)[0].contains(" PRDR"), prdr);
                assert!(!trace.iter().any(
                    |step| matches!(step, Trace::Received(reply) if reply.code().get() == 353)
                ));
            };
        send(&[address(&one)], true);
        send(&[address("prdr-refused"), address(&two)], false);
        real::arrives(&EXIM, &one, &[message]);
        real::arrives(&EXIM, &two, &[message]);
    }
}
