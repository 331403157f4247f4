//! Reports of delivery (RFC 3461).

use smtp_proto::parameter::{MailParameter, Notify, RcptParameter, Ret};
use smtp_proto::{Cause, Envelope, Extension, Mailbox, Recipient};

use super::client::{Adapter, Manner, commands};
use super::{Server, address, arrives, envelope};

/// Sends one message, and waits for the report of its delivery (RFC 3464). The sender is a user of this server who
/// gets nothing else.
#[track_caller]
pub fn delivery_report(server: &Server, adapter: Adapter, envelope: Envelope) -> String {
    let sender = envelope.reverse_path().clone();
    let mut session = adapter.open(server, &Manner::default());
    let _ = session
        .send_last(envelope, b"Subject: to be reported\r\n\r\nHello.\r\n")
        .unwrap();
    String::from_utf8_lossy(&server.mail_to(sender.as_str(), 1)[0].body).into_owned()
}

/// Delivery reports (RFC 3461) with their parameters, by each adapter. `bounced@example.test` is found to be
/// undeliverable after the message was accepted.
pub fn delivery_reports(server: &Server) {
    // Postfix puts a space after the type of an address, and Exim repeats xtext unchanged.
    let has = |report: &str, field: &str, values: &[&str]| {
        let found = report
            .lines()
            .filter_map(|line| line.split_once(": "))
            .any(|(name, value)| {
                name.eq_ignore_ascii_case(field) && values.contains(&&*value.replacen("; ", ";", 1))
            });
        assert!(found, "no {field}: {values:?} in {report}");
    };
    for &adapter in Adapter::all(server) {
        let name = adapter.name();
        // Without parameters, the sender gets reports of failures.
        let from = |which: &str| address(&format!("{which}-{name}"));
        let bounced = |sender: &str| Envelope::new(sender, [address("bounced")]).unwrap();
        let report = delivery_report(server, adapter, bounced(&from("bounce")));
        has(&report, "Final-Recipient", &["rfc822;bounced@example.test"]);
        has(&report, "Action", &["failed"]);
        assert!(
            !report.to_lowercase().contains("\noriginal-envelope-id:"),
            "{report}"
        );

        let user = format!("reported-{name}");
        let original = Mailbox::parse("first+last=x@example.org").unwrap();
        let recipient = Recipient::new(address(&user))
            .unwrap()
            .parameter(RcptParameter::notify(Notify::SUCCESS | Notify::FAILURE))
            .parameter(RcptParameter::original_recipient(&original).unwrap());
        let envelope = Envelope::new(from("success"), [recipient])
            .unwrap()
            .parameter(MailParameter::ret(Ret::Headers))
            .parameter(MailParameter::envelope_id("run 7+x=y").unwrap());
        let report = delivery_report(server, adapter, envelope);
        has(
            &report,
            "Original-Envelope-Id",
            &["run 7+x=y", "run+207+2Bx+3Dy"],
        );
        has(
            &report,
            "Final-Recipient",
            &[&format!("rfc822;{}", address(&user))],
        );
        let original = [
            "rfc822;first+last=x@example.org",
            "rfc822;first+2Blast+3Dx@example.org",
        ];
        has(&report, "Original-Recipient", &original);
        has(&report, "Action", &["delivered"]);
        has(&report, "Subject", &["to be reported"]);
        assert!(!report.contains("Hello."), "{report}");
        arrives(
            server,
            &user,
            &[b"Subject: to be reported\r\n\r\nHello.\r\n"],
        );

        for (ret, which) in [(Ret::Full, "full"), (Ret::Headers, "headers")] {
            let envelope = bounced(&from(which))
                .parameter(MailParameter::ret(ret))
                .parameter(MailParameter::envelope_id(which).unwrap());
            let report = delivery_report(server, adapter, envelope);
            has(&report, "Action", &["failed"]);
            has(&report, "Original-Envelope-Id", &[which]);
            has(&report, "Subject", &["to be reported"]);
            assert_eq!(
                report.contains("\r\nHello.\r\n"),
                ret == Ret::Full,
                "{report}"
            );
        }

        // The first message causes no report, so the report of the second one is the only one.
        let silent =
            bounced(&from("never")).parameter(MailParameter::envelope_id("first").unwrap());
        let silent = silent.recipient_parameter(RcptParameter::notify(Notify::NEVER));
        let mut session = adapter.open(server, &Manner::default());
        let _ = session
            .send_last(silent, b"Subject: never\r\n\r\n")
            .unwrap();
        let second =
            bounced(&from("never")).parameter(MailParameter::envelope_id("second").unwrap());
        let report = delivery_report(server, adapter, second);
        has(&report, "Original-Envelope-Id", &["second"]);
    }
}

/// DSN on a server that does not offer it: left out if optional, otherwise nothing is sent.
pub fn no_delivery_reports(server: &Server, manner: &Manner) {
    for adapter in Adapter::all(server) {
        let user = format!("no-dsn-{}", adapter.name());
        let mut session = adapter.open(server, manner);
        session.trace();
        let ret = MailParameter::ret(Ret::Headers);
        let notify = RcptParameter::notify(Notify::SUCCESS);
        for required in [
            envelope(&[&user]).parameter(ret.clone().required()),
            envelope(&[&user]).recipient_parameter(notify.clone().required()),
        ] {
            let error = session.send(required, b"Subject: no\r\n\r\n").unwrap_err();
            assert_eq!(error.cause(), &Cause::Unsupported(Extension::Dsn));
        }
        assert_eq!(session.trace(), []);
        let message = b"Subject: without DSN\r\n\r\nHello.\r\n";
        let if_offered = envelope(&[&user])
            .parameter(ret.clone())
            .recipient_parameter(notify.clone());
        let _ = session.send_last(if_offered, message).unwrap();
        let trace = session.trace();
        let said = commands(&trace);
        assert!(
            said[0].starts_with("MAIL ") && said[1].starts_with("RCPT "),
            "{said:?}"
        );
        assert!(
            !said
                .iter()
                .any(|line| line.contains("RET=") || line.contains("NOTIFY=")),
            "{said:?}"
        );
        arrives(server, &user, &[message]);
    }
}
