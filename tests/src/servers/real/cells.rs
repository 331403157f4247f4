//! What is left of the table of real servers: clear text, refusals, logins, what is not offered, and records.

use std::thread;
use std::time::{Duration, Instant};

use smtp_proto::event::Trace;
use smtp_proto::reply::ReplyClass;
use smtp_proto::{Cause, Chunking, Credentials, Extension, Outcome, Stage, TlsPolicy};

use super::client::{Adapter, Manner, commands, failures, terms};
use super::{Server, address, arrives, envelope};
use crate::play::bulk::runtime;
use crate::play::replay::{Tape, replay};

/// A message in the clear, by each adapter, although STARTTLS is offered.
pub fn in_the_clear(server: &Server) {
    for adapter in Adapter::all(server) {
        let user = format!("clear-{}", adapter.name());
        let manner = Manner {
            tls: TlsPolicy::Never,
            ..Manner::default()
        };
        let message = format!("Subject: {user}\r\n\r\nIn the clear.\r\n");
        let mut session = adapter.open(server, &manner);
        assert!(session.tls_info().is_none());
        let report = session.send_last(envelope(&[&user]), message.as_bytes());
        assert!(report.unwrap().is_success());
        let trace = session.trace();
        assert!(!commands(&trace).contains(&"STARTTLS"), "{trace:?}");
        arrives(server, &user, &[message.as_bytes()]);
    }
}

/// One of three recipients is refused and one greylisted, by each adapter: the one in between gets it. Of two of them,
/// nobody does, and the session goes on.
pub fn refused_and_greylisted(server: &Server) {
    let (later, why) = server.kind.greylisted;
    let refused = |index| {
        (
            index,
            Stage::Rcpt,
            Outcome::Permanent,
            550,
            "5.1.1".to_owned(),
        )
    };
    let greylisted = |index| {
        (
            index,
            Stage::Rcpt,
            Outcome::Transient,
            later,
            why.to_owned(),
        )
    };
    for adapter in Adapter::all(server) {
        let user = format!("between-{}", adapter.name());
        let message = b"Subject: between\r\n\r\nFor one of three.\r\n";
        let mut session = adapter.open(server, &Manner::default());
        let report = session.send(envelope(&["refused", &user, "greylisted"]), message);
        assert_eq!(failures(&report.unwrap()), [refused(0), greylisted(2)]);
        let error = session
            .send(envelope(&["greylisted", "refused"]), message)
            .unwrap_err();
        assert_eq!(
            failures(error.report().unwrap()),
            [greylisted(0), refused(1)]
        );
        assert_eq!(error.outcome(), Outcome::Transient);
        let report = session.send_last(envelope(&[&user]), message);
        assert!(report.unwrap().is_success());
        arrives(server, &user, &[message, message]);
    }
}

/// A login of this server: the mechanism, and what its log says of one that succeeds.
#[derive(Debug)]
pub struct Login<'a> {
    /// The only one that may be used.
    pub mechanism: &'a str,
    /// In the log, once for each login.
    pub logged: &'a str,
}

/// Each login by each adapter, and a message behind it; and with a wrong password, which the server refuses. Its log
/// is asked whether there was a login.
pub fn logins(server: &Server, manner: &Manner, user: &str, password: &str, logins: &[Login<'_>]) {
    let count = |what: &str| server.log().matches(what).count();
    for adapter in Adapter::all(server) {
        for Login { mechanism, logged } in logins {
            let before = count(logged);
            let with = |password: &str| Manner {
                credentials: Some(Credentials::password(user, password).mechanisms(&[mechanism])),
                ..manner.clone()
            };
            let to = format!("login-{}-{}", mechanism, adapter.name()).to_lowercase();
            let message = format!("Subject: {to}\r\n\r\nAfter a login.\r\n");
            let mut session = adapter.open(server, &with(password));
            let trace = session.trace();
            let auth = format!("AUTH {mechanism}");
            assert!(
                commands(&trace).iter().any(|line| line.starts_with(&auth)),
                "{trace:?}"
            );
            let report = session.send_last(envelope(&[&to]), message.as_bytes());
            assert!(report.unwrap().is_success());
            arrives(server, &to, &[message.as_bytes()]);
            // Another process may be writing the log.
            let deadline = Instant::now() + Duration::from_secs(10);
            while count(logged) == before && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            assert!(count(logged) > before, "no {logged:?} in the log");

            let error = adapter.connect(server, &with("wrong")).unwrap_err();
            assert_eq!(
                (error.stage(), error.outcome()),
                (Stage::Auth, Outcome::Permanent),
                "{error}"
            );
            let code = error.error().reply().map(|reply| reply.code().get());
            assert_eq!(code, Some(535), "{error}");
        }
    }
}

/// Where AUTH is not offered, a login ends the session, and neither AUTH nor MAIL is said.
pub fn no_login(server: &Server, manner: &Manner) {
    for adapter in Adapter::all(server) {
        let manner = Manner {
            credentials: Some(Credentials::password("tester", "s3cret").permit_in_clear()),
            ..manner.clone()
        };
        let error = adapter.connect(server, &manner).unwrap_err();
        assert_eq!(error.cause(), &Cause::AuthUnavailable, "{error}");
        assert_eq!(
            (error.stage(), error.outcome()),
            (Stage::Auth, Outcome::Permanent)
        );
    }
    assert!(!server.log().contains("s3cret"));
}

/// Where CHUNKING is not offered, a message goes out by DATA, and not at all where it must be in chunks.
pub fn no_chunking(server: &Server) {
    for adapter in Adapter::all(server) {
        let user = format!("no-chunks-{}", adapter.name());
        let message = b"Subject: by DATA\r\n\r\n.\r\nHello.\r\n";
        let manner = |chunking| Manner {
            chunking,
            ..Manner::default()
        };
        for chunking in [Chunking::Auto, Chunking::Eager] {
            let mut session = adapter.open(server, &manner(chunking));
            let report = session.send_last(envelope(&[&user]), message);
            assert!(report.unwrap().is_success());
            let trace = session.trace();
            assert!(commands(&trace).contains(&"DATA"), "{trace:?}");
            assert!(
                !trace
                    .iter()
                    .any(|step| matches!(step, Trace::SentChunk { .. })),
                "{trace:?}"
            );
        }
        let mut session = adapter.open(server, &manner(Chunking::Always));
        session.trace();
        let error = session.send(envelope(&[&user]), message).unwrap_err();
        assert_eq!(error.cause(), &Cause::Unsupported(Extension::Chunking));
        assert_eq!(session.trace(), []);
        arrives(server, &user, &[message, message]);
    }
}

/// A session of each adapter writes itself down: a login if there is one, refusals, a delivery that overlaps. It plays
/// again without the server.
pub fn a_record(server: &Server, manner: &Manner) {
    for adapter in Adapter::all(server) {
        let login = if manner.credentials.is_some() {
            "-login"
        } else {
            ""
        };
        let user = format!("recorded{login}-{}", adapter.name());
        let message = b"Subject: confidential\r\n\r\n.A secret plan.\r\nWith two lines\xe9\r\n";
        let tape = Tape::default();
        let manner = Manner {
            overlap: true,
            ..manner.clone()
        };
        let socket = matches!(adapter, Adapter::BlockingUnix | Adapter::TokioUnix);
        let terms = terms(server, &manner, socket).record(tape.recorder());
        let to: [&[&str]; 4] = [
            &["refused", &user, "greylisted"],
            &[&user],
            &["greylisted"],
            &[&user],
        ];
        let messages = to.map(|to| (envelope(to), message.to_vec()));
        let delivery = match adapter {
            Adapter::Blocking | Adapter::BlockingUnix => {
                let session = smtp_blocking::Session::connect(&terms).unwrap();
                crate::play::bulk::Delivery::by_blocking(session, &messages)
            }
            Adapter::Tokio | Adapter::TokioUnix => runtime().block_on(async {
                let session = smtp_tokio::Session::connect(&terms).await.unwrap();
                crate::play::bulk::Delivery::by_tokio(session, &messages).await
            }),
        };
        let sent: Vec<_> = delivery
            .reports
            .iter()
            .map(|report| report.is_success())
            .collect();
        assert_eq!(sent, [false, true, false, true]);
        arrives(server, &user, &[message, message, message]);
        let [record] = &tape.records()[..] else {
            panic!("one session has one record");
        };
        replay(&user, record).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
        for secret in ["confidential", "plan", "s3cret"] {
            assert!(!record.contains(secret), "{record}");
        }
        // It has what the server said.
        let class = |class| {
            delivery
                .reports
                .iter()
                .flat_map(|report| report.failures().map(|failure| failure.error.clone()))
                .filter(|error| error.reply().is_some_and(|reply| reply.class() == class))
                .count()
        };
        let said = |code: &str| record.lines().filter(|line| line.starts_with(code)).count();
        assert_eq!(
            said("S: 550 5.1.1"),
            class(ReplyClass::Permanent),
            "{record}"
        );
        let (later, why) = server.kind.greylisted;
        assert_eq!(
            said(&format!("S: {later} {why}")),
            class(ReplyClass::Transient),
            "{record}"
        );
        if let Some(folder) = std::env::var_os("SMTP_TESTS_RECORDS") {
            let path = std::path::Path::new(&folder).join(format!(
                "{}{login}-{}.txt",
                server.kind.name,
                adapter.name()
            ));
            std::fs::write(path, record).unwrap();
        }
        assert_eq!(server.mail_to(&address(&user), 3).len(), 3);
    }
}
