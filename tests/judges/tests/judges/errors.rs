//! What an error says: its stage, its command, and its words for a person.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::error::Misuse;
use smtp_proto::reply::ReplyCode;
use smtp_proto::{
    BodyPart, Cause, Channel, Chunking, Config, Connection, Credentials, Error, Event, Outcome,
    Reply, Request, Stage, TlsFacts, TlsPolicy,
};

use super::calls::{
    BODY, EHLO, GREETING, at, at_the_body, config, envelope, events, ready, reports, sent,
};

/// Plays this conversation: what the server says, and the command that we then send.
fn play(config: Config, conversation: &[(&str, &str)]) -> Connection {
    let mut engine = Connection::new(config, at(0));
    for (says, command) in conversation {
        engine.handle_input(at(0), says.as_bytes());
        let out = sent(&mut engine, at(0), BodyPart::Next(b""));
        assert!(
            out.starts_with(command),
            "{out:?} does not begin with {command:?}"
        );
    }
    engine
}

/// Why the session has ended.
fn closed(engine: &mut Connection) -> Error {
    let closed = events(engine).into_iter().find_map(|event| match event {
        Event::Closed(result) => Some(result),
        _ => None,
    });
    closed.expect("it is not closed").unwrap_err()
}

fn with_password(tls: TlsPolicy, channel: Channel) -> Config {
    let mut config = config();
    config.tls = tls;
    config.channel = channel;
    config.credentials = Some(Credentials::password("user", "secret"));
    config
}

/// A refused last chunk is told with its BDAT.
#[test]
fn the_last_chunk_is_named() {
    let mut config = config();
    config.chunking = Chunking::Auto;
    let mut engine = at_the_body(config, envelope(), b"250 ok\r\n250 ok\r\n");
    sent(&mut engine, at(0), BodyPart::Last(BODY));
    engine.handle_input(at(0), b"554 no\r\n");
    let report = reports(&mut engine).remove(0);
    let error = report.iter().next().unwrap().1.as_ref().unwrap_err();
    let command = format!("BDAT {} LAST", BODY.len());
    assert_eq!(error.command.as_deref(), Some(&command[..]));
}

/// A refused login is told with its mechanism, and without the password.
#[test]
fn the_mechanism_is_named() {
    let facts = || {
        let mut facts = TlsFacts::default();
        facts.verified = true;
        facts
    };
    for lost in [false, true] {
        let config = with_password(TlsPolicy::Never, Channel::Tls(facts()));
        let conversation = [
            (GREETING, "EHLO"),
            ("250-mx\r\n250 AUTH PLAIN\r\n", "AUTH PLAIN "),
        ];
        let mut engine = play(config, &conversation);
        match lost {
            true => engine.handle_eof(at(0)),
            false => engine.handle_input(at(0), b"535 no\r\n"),
        }
        sent(&mut engine, at(0), BodyPart::Next(b""));
        let error = closed(&mut engine);
        let told = (error.stage, error.command.as_deref());
        assert_eq!(told, (Stage::Auth, Some("AUTH PLAIN")));
    }
}

/// The reply to EHLO shows what the server lacks. EHLO itself was not refused.
#[test]
fn a_command_that_cannot_be_sent_is_not_told_as_another() {
    let verified = || {
        let mut facts = TlsFacts::default();
        facts.verified = true;
        Channel::Tls(facts)
    };
    let mut required = config();
    required.tls = TlsPolicy::Required;
    for (config, stage) in [
        (required, Stage::StartTls),
        (with_password(TlsPolicy::Never, verified()), Stage::Auth),
    ] {
        let mut engine = play(config, &[(GREETING, "EHLO"), (EHLO, "")]);
        let error = closed(&mut engine);
        assert_eq!((error.stage, error.command), (stage, None));
    }
}

/// A socket that does not leave the host needs no TLS for a password.
#[test]
fn a_local_socket_gets_the_password() {
    for (channel, expected) in [(Channel::Local, "AUTH PLAIN "), (Channel::Network, "")] {
        let config = with_password(TlsPolicy::Never, channel);
        let conversation = [
            (GREETING, "EHLO"),
            ("250-mx\r\n250 AUTH PLAIN\r\n", expected),
        ];
        let mut engine = play(config, &conversation);
        if expected.is_empty() {
            assert_eq!(closed(&mut engine).cause, Cause::CredentialsInClear);
        }
    }
}

/// Under TLS 1.3 the server refuses the client's certificate after our handshake. Until its first reply, the end of the
/// connection is told as a failure of the handshake, whichever way it comes.
#[test]
fn a_handshake_is_unconfirmed_until_the_first_reply() {
    for (policy, stage, later) in [
        (TlsPolicy::Required, Stage::StartTls, Stage::Quit),
        (TlsPolicy::Implicit, Stage::Connect, Stage::Ehlo),
    ] {
        for cause in [
            Cause::Transport("reset".into()),
            Cause::TlsFailed("alert".into()),
        ] {
            for (is_confirmed, is_failure) in [(false, false), (false, true), (true, false)] {
                let mut config = config();
                config.tls = policy;
                let before: &[_] = match policy {
                    TlsPolicy::Implicit => &[],
                    _ => &[
                        (GREETING, "EHLO"),
                        ("250-mx\r\n250 STARTTLS\r\n", "STARTTLS"),
                        ("220 go\r\n", ""),
                    ],
                };
                let mut engine = play(config, before);
                engine.handle_tls_established(at(0)).unwrap();
                sent(&mut engine, at(0), BodyPart::Next(b""));
                if is_confirmed {
                    let reply = match policy {
                        TlsPolicy::Implicit => GREETING,
                        _ => EHLO,
                    };
                    engine.handle_input(at(0), reply.as_bytes());
                    sent(&mut engine, at(0), BodyPart::Next(b""));
                    let refused = engine.handle_tls_failed(cause.clone());
                    assert_eq!(refused, Err(Misuse::NoHandshakeWanted));
                }
                match is_failure {
                    false => engine.handle_lost(at(0), cause.clone()),
                    true => engine.handle_tls_failed(cause.clone()).unwrap(),
                }
                let error = closed(&mut engine);
                let expected = if is_confirmed { later } else { stage };
                assert_eq!((error.stage, error.cause), (expected, cause.clone()));
            }
        }
    }
}

/// A server that wants TLS from the first octet says nothing without it. Where TLS is there already, or no network is,
/// that is not the reason.
#[test]
fn silence_is_explained_on_a_clear_network_only() {
    for (channel, is_explained) in [
        (Channel::Network, true),
        (Channel::Local, false),
        (Channel::Tls(TlsFacts::default()), false),
    ] {
        let mut config = config();
        config.channel = channel.clone();
        let mut engine = Connection::new(config, at(0));
        engine.handle_timeout(engine.poll_timeout().unwrap());
        let error = closed(&mut engine);
        assert_eq!(error.stage, Stage::Greeting);
        let words = error.to_string();
        assert_eq!(words.contains("TlsPolicy::Implicit"), is_explained);
    }
}

/// Only what ends in the handshake is told to have ended there.
#[test]
fn the_handshake_is_named_while_it_runs() {
    let mut required = config();
    required.tls = TlsPolicy::Required;
    let handshake: &[_] = &[
        (GREETING, "EHLO"),
        ("250-mx\r\n250 STARTTLS\r\n", "STARTTLS"),
        ("220 go\r\n", ""),
    ];
    for (config, conversation, is_handshake) in [
        (required, handshake, true),
        (config(), &[(GREETING, "EHLO")], false),
    ] {
        for late in [false, true] {
            let mut engine = play(config.clone(), conversation);
            match late {
                false => engine.handle_eof(at(0)),
                true => engine.handle_timeout(engine.poll_timeout().unwrap()),
            }
            let words = closed(&mut engine).to_string();
            assert_eq!(words.contains("handshake"), is_handshake, "{words}");
        }
    }
}

/// The application gives up. Everything is reported, for its reason, and nothing more goes out.
#[test]
fn an_aborted_session_reports_everything() {
    let mut engine = ready(config(), EHLO);
    engine.submit(envelope()).unwrap();
    engine.submit(envelope()).unwrap();
    engine.abort("shutting down").unwrap();
    assert!(engine.is_closed());
    assert_eq!(sent(&mut engine, at(0), BodyPart::Next(b"")), "");
    let reports = reports(&mut engine);
    assert_eq!(reports.len(), 2);
    for report in reports {
        let error = report.iter().next().unwrap().1.as_ref().unwrap_err();
        assert_eq!(error.cause, Cause::Local("shutting down".into()));
        assert_eq!(error.outcome, Outcome::NotAttempted);
    }
    assert_eq!(engine.abort("again"), Err(Misuse::Closed));
    assert_eq!(engine.poll_timeout(), None);
    engine.handle_timeout(at(0) + Duration::from_secs(3_600));
    assert_eq!(events(&mut engine), []);
}

/// Only a 421 that the server has sent takes the place of the reply to the data. What the transport says answers
/// nothing, even in the form of a reply.
#[test]
fn a_reply_of_the_transport_answers_nothing() {
    let refused = Reply::new(ReplyCode::new(554).unwrap(), b"proxy: no");
    for (is_of_server, expected) in [(true, Outcome::Transient), (false, Outcome::InDoubt)] {
        let replies = b"250 ok\r\n250 ok\r\n354 go\r\n";
        let mut engine = at_the_body(config(), envelope(), replies);
        sent(&mut engine, at(0), BodyPart::Last(BODY));
        engine.finish_body().unwrap();
        assert_eq!(sent(&mut engine, at(0), BodyPart::Next(b"")), ".\r\n");
        match is_of_server {
            true => engine.handle_input(at(0), b"421 closing\r\n"),
            false => engine.handle_lost(at(0), Cause::Rejected(refused.clone())),
        }
        let report = reports(&mut engine).remove(0);
        assert_eq!(report.outcome(), Some(expected));
    }
}

/// A mechanism of the caller's own, whose response is a secret.
struct Passcode;

const PASSCODE: &str = "passcode-654321";

impl Mechanism for Passcode {
    fn name(&self) -> &'static str {
        "PASSCODE"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Ok(Secret::new(PASSCODE.as_bytes().to_vec()))
    }
}

/// A server repeats the response, as it is or as it came.
#[test]
fn an_echo_of_an_own_response_is_not_shown() {
    for echo in [PASSCODE.to_owned(), STANDARD.encode(PASSCODE)] {
        let mut config = config();
        config.trace = true;
        config.channel = Channel::Local;
        config.credentials = Some(Credentials::custom(|| Box::new(Passcode)));
        let conversation = [
            (GREETING, "EHLO"),
            ("250-mx\r\n250 AUTH PASSCODE\r\n", "AUTH PASSCODE\r\n"),
            ("334 \r\n", &STANDARD.encode(PASSCODE)),
            (&format!("535 wrong: {echo}\r\n"), "QUIT"),
        ];
        let shown = format!("{:?}", events(&mut play(config, &conversation)));
        assert!(shown.contains("wrong: ****"), "{shown}");
        assert!(!shown.contains(&echo), "{shown}");
    }
}

/// The login is over, and a server still repeats the password of it in a refusal. Any other text stays as it is.
#[test]
fn an_echo_in_a_later_refusal_is_not_shown() {
    let config = with_password(TlsPolicy::Never, Channel::Local);
    let conversation = [
        (GREETING, "EHLO"),
        ("250-mx\r\n250 AUTH PLAIN\r\n", "AUTH PLAIN "),
        ("235 ok\r\n", ""),
    ];
    let mut engine = play(config, &conversation);
    engine.request(Request::noop()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 secret\r\n");
    let answered = format!("{:?}", events(&mut engine));
    assert!(answered.contains("secret"), "{answered}");
    engine.submit(envelope()).unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"550 not after secret\r\n");
    let report = reports(&mut engine).remove(0);
    let failure = report.failures().next().unwrap();
    assert!(failure.to_string().contains("not after ****"), "{failure}");
}

/// What a server offers is read as it is, even if it is somebody's password.
#[test]
fn a_password_may_be_a_keyword() {
    let mut config = with_password(TlsPolicy::Never, Channel::Local);
    config.credentials = Some(Credentials::password("alice", "PIPELINING"));
    let conversation = [
        (GREETING, "EHLO"),
        (
            "250-mx\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n",
            "AUTH PLAIN ",
        ),
        ("235 ok\r\n", ""),
    ];
    let mut engine = play(config, &conversation);
    engine.submit(envelope()).unwrap();
    let said = sent(&mut engine, at(0), BodyPart::Next(b""));
    assert!(said.contains("RCPT TO:"), "{said}");
}

/// A mechanism gets a challenge as it is, although the password stands in it.
#[test]
fn a_challenge_may_hold_the_password() {
    let config = with_password(TlsPolicy::Never, Channel::Local);
    let challenge = STANDARD.encode("<secret@mx>");
    // HMAC-MD5 of the challenge, with the password.
    let response = STANDARD.encode("user 719e3b8b9a398c6c35f01dd061c1b5d3");
    let conversation = [
        (GREETING, "EHLO"),
        ("250-mx\r\n250 AUTH CRAM-MD5\r\n", "AUTH CRAM-MD5\r\n"),
        (&format!("334 {challenge}\r\n"), &response),
    ];
    play(config, &conversation);
}

/// A mechanism whose first response is the password, and whose second one is a code.
struct Steps(u8);

impl Mechanism for Steps {
    fn name(&self) -> &str {
        "X-STEPS"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        self.0 += 1;
        Ok(Secret::new(match self.0 {
            1 => b"correct-horse".to_vec(),
            _ => b"654321".to_vec(),
        }))
    }
}

/// A refusal is shown without any response of the login, and not only without the last one.
#[test]
fn no_response_of_the_login_is_shown() {
    let mut config = with_password(TlsPolicy::Never, Channel::Local);
    config.trace = true;
    config.credentials = Some(Credentials::custom(|| Box::new(Steps(0))));
    let conversation = [
        (GREETING, "EHLO"),
        ("250-mx\r\n250 AUTH X-STEPS\r\n", "AUTH X-STEPS\r\n"),
        ("334 \r\n", "Y29ycmVjdC1ob3JzZQ==\r\n"),
        ("334 \r\n", "NjU0MzIx\r\n"),
        ("535 not correct-horse with 654321\r\n", "QUIT"),
    ];
    let mut engine = play(config, &conversation);
    let shown = format!("{:?}", events(&mut engine));
    for secret in ["correct-horse", "654321"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
