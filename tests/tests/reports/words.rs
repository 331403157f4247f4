//! The words of an error line for an operator: the stage, the command, the cause and the advice.

use std::time::Duration;

use smtp_proto::{Cause, Chunking, Config, Credentials, Event, Instant, Protocol, TlsPolicy};

use crate::script::{Script, config};

/// The server sends these replies, one for each command, and then this happens. Returns the line of the error that
/// ends the session.
fn opening(config: Config, replies: &[&str], then: impl FnOnce(&mut Script)) -> String {
    let mut script = Script::new(config);
    for reply in replies {
        script.server(reply);
        script.pump(b"");
    }
    then(&mut script);
    script.pump(b"");
    script
        .events
        .iter()
        .find_map(|event| match event {
            Event::Closed(Err(error)) => Some(error.to_string()),
            _ => None,
        })
        .unwrap_or_else(|| panic!("not closed: {:?}", script.events))
}

fn with(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = config();
    change(&mut config);
    config
}

fn password(config: &mut Config) {
    config.credentials = Some(Credentials::password("alice", "s3cret").permit_in_clear());
}

#[test]
fn errors_of_the_opening_name_the_command() {
    const GREETING: &str = "220 mx.example.net\r\n";
    let nothing = |_: &mut Script| {};
    let lost = |script: &mut Script| script.lost();
    let late = |script: &mut Script| script.pass(Duration::from_secs(301));
    let auth = ["250-mx\r\n250 AUTH PLAIN LOGIN\r\n", "334 \r\n"];
    for (line, said) in [
        (
            opening(config(), &["554 no mail here\r\n"], nothing),
            "greeting: server said 554 no mail here (not the message's fault, try again later)",
        ),
        (
            opening(config(), &[GREETING, "550 who are you?\r\n"], nothing),
            "ehlo: EHLO client.example.org: server said 550 who are you? (not the message's fault, try again later)",
        ),
        (
            opening(config(), &[GREETING], late),
            "ehlo: EHLO client.example.org: timed out after 300 s (temporary, try again later)",
        ),
        (
            opening(config(), &[GREETING, "354 what?\r\n"], nothing),
            "ehlo: EHLO client.example.org: protocol error: 354 what? does not answer this command \
             (temporary, try again later)",
        ),
        (
            opening(config(), &[GREETING, "502 what?\r\n"], lost),
            "ehlo: HELO client.example.org: the connection was lost (temporary, try again later)",
        ),
        (
            opening(with(|c| c.protocol = Protocol::Lmtp), &[GREETING], lost),
            "ehlo: LHLO client.example.org: the connection was lost (temporary, try again later)",
        ),
        (
            opening(
                with(|c| c.tls = TlsPolicy::Required),
                &[GREETING, "250-mx\r\n250 STARTTLS\r\n"],
                lost,
            ),
            "starttls: STARTTLS: the connection was lost (temporary, try again later)",
        ),
        (
            opening(
                with(|c| c.tls = TlsPolicy::Required),
                &[GREETING, "250 mx\r\n"],
                nothing,
            ),
            "starttls: TLS is required, and the server does not offer STARTTLS \
             (not the message's fault, mend it before you send again)",
        ),
        (
            opening(with(password), &[GREETING, auth[0]], lost),
            "auth: AUTH PLAIN: the connection was lost (temporary, try again later)",
        ),
        (
            opening(
                with(password),
                &[GREETING, auth[0], auth[1]],
                nothing_but("501 no\r\n"),
            ),
            "auth: AUTH PLAIN: the server sent an unexpected challenge \
             (not the message's fault, mend it before you send again)",
        ),
        (
            opening(with(password), &[GREETING, "250 mx\r\n"], nothing),
            "auth: credentials were given, but the server does not offer AUTH (not the message's fault, mend it before you send again)",
        ),
    ] {
        assert_eq!(line, said);
    }
}

fn nothing_but(reply: &'static str) -> impl Fn(&mut Script) {
    move |script| script.server(reply)
}

#[test]
fn errors_of_a_chunked_body_name_the_chunk() {
    const CHUNKED: &str = "250-mx.example.net\r\n250-PIPELINING\r\n250 CHUNKING\r\n";
    let begin = |chunk_size| {
        let mut script = Script::open(
            with(|c| (c.chunking, c.chunk_size) = (Chunking::Auto, chunk_size)),
            CHUNKED,
        );
        let id = script.submit(&["b"]);
        script.pump(b"");
        script.server("250 sender\r\n250 b\r\n");
        (script, id)
    };
    let error = |script: &Script, id| script.error(id, 0).to_string();

    let (mut script, id) = begin(64);
    script.body("Subject: x\r\n\r\n");
    script.lost();
    assert_eq!(
        error(&script, id),
        "eom: BDAT 14 LAST: the connection was lost (in doubt, the message may have been delivered)"
    );

    let (mut script, id) = begin(8);
    script.pump(b"Subject: x\r\n\r\n");
    script.server("502 5.5.1 what?\r\n");
    script.server("502 5.5.1 what?\r\n");
    script.pump(b"");
    script.server("250 reset\r\n");
    assert_eq!(
        error(&script, id),
        "body: BDAT 8: server said 502 5.5.1 what?; it offers CHUNKING and may not know it: set Chunking::Never \
         (not the message's fault, mend it before you send again)"
    );

    // Half of a chunk is out.
    let (mut script, id) = begin(64);
    let transmit = script
        .engine
        .poll_transmit(Instant::default(), b"Subject: x");
    transmit.unwrap().advance("BDAT 10\r\nSubj".len());
    script
        .engine
        .handle_lost(script.now, Cause::Transport("reset by the peer".into()));
    script.take_events();
    assert_eq!(
        error(&script, id),
        "body: BDAT 10: reset by the peer (temporary, try again later)"
    );
}
