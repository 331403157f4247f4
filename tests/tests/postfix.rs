//! The engine, the blocking adapter and the `send` example against Postfix and Dovecot, which this suite installs and
//! starts. It compares what arrives with what was sent, octet for octet.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use smtp_blocking::{
    Cause, Credentials, Envelope, Extension, Outcome, Request, Server, Stage, TlsPolicy,
    envelope::BodyType,
    event::Trace,
    parameter::{Notify, RcptParameter},
    request::{XClient, XForward},
};
use smtp_proto::request::{ClientProtocol, MessageSource};
use smtp_tests::servers::real::dovecot::Dovecot;
use smtp_tests::servers::real::postfix::Postfix;
use smtp_tests::servers::real::{self, Adapter, Login, Manner, NAME, address, awkward};

/// One server for all tests. Each test has its own recipients.
static POSTFIX: LazyLock<Postfix> =
    LazyLock::new(|| Postfix::start().unwrap_or_else(|error| panic!("{error}")));

const SENDER: &str = "sender@example.org";

const BOTH: [Adapter; 2] = [Adapter::Blocking, Adapter::Tokio];

struct Run {
    code: Option<i32>,
    json: Value,
    /// The most memory the process ever had resident, in KiB.
    peak: u64,
}

/// Runs `send` with STARTTLS, a check of the server's name, AUTH and `--json`.
fn send(port: u16, to: &[String], message: &Path, flags: &[&str]) -> Run {
    let mut command = Command::new(smtp_tests::send::example("smtp-blocking"));
    command.args([
        "--server",
        &format!("127.0.0.1:{port}"),
        "--from",
        SENDER,
        "--json",
    ]);
    command
        .args(["--tls-name", NAME, "--ca-file"])
        .arg(POSTFIX.ca_pem_path());
    command.args([
        "--auth-user",
        POSTFIX.user(),
        "--auth-password",
        POSTFIX.password(),
    ]);
    command.args(flags).arg("--data").arg(message);
    for to in to {
        command.args(["--to", to]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = peak.max(
            line.and_then(|line| line.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    let _ = std::fs::remove_file(message);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let json = serde_json::from_str(stdout.lines().last().unwrap_or_default()).unwrap();
    Run {
        code: output.status.code(),
        json,
        peak,
    }
}

fn message(name: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!("From: <{SENDER}>\r\nSubject: {name}\r\n\r\n").into_bytes();
    message.extend_from_slice(body);
    message
}

/// The same from a file, which is removed afterwards.
fn file(name: &str, body: &[u8]) -> (Vec<u8>, PathBuf) {
    let message = message(name, body);
    let path = std::env::temp_dir().join(format!("postfix-{}-{name}.eml", std::process::id()));
    std::fs::write(&path, &message).unwrap();
    (message, path)
}

/// Waits for what `user` gets, and compares.
#[track_caller]
fn arrives(user: &str, messages: &[&[u8]]) {
    real::arrives(&POSTFIX, user, messages);
}

fn server(port: u16) -> Server {
    let pem = std::fs::read(POSTFIX.ca_pem_path()).unwrap();
    Server::new(format!("127.0.0.1:{port}"))
        .server_name(NAME)
        .trust_pem(&pem)
        .unwrap()
}

fn credentials() -> Credentials {
    Credentials::password(POSTFIX.user(), POSTFIX.password())
}

#[test]
fn one_recipient() {
    let (message, path) = file("one", b"Hello.\r\n");
    let run = send(
        POSTFIX.submission_port(),
        &[address("one")],
        &path,
        &["--tls", "required"],
    );
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (Some(0), &"success".into()),
        "{}",
        run.json
    );
    assert_eq!(run.json["tls"]["verified"], true);
    // Greeting, EHLO, STARTTLS, EHLO, three for SCRAM; then two for the message.
    assert_eq!(run.json["round_trips"], 7 + 2, "{}", run.json);
    arrives("one", &[&message]);
}

#[test]
fn fifty_recipients() {
    let (message, path) = file("fifty", b"Hello, all.\r\n");
    let users: Vec<String> = (1..=50).map(|n| format!("user{n}")).collect();
    let to: Vec<String> = users.iter().map(|user| address(user)).collect();
    let run = send(
        POSTFIX.submission_port(),
        &to,
        &path,
        &["--tls", "required"],
    );
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (Some(0), &"success".into()),
        "{}",
        run.json
    );
    assert_eq!(run.json["round_trips"], 7 + 2, "{}", run.json);
    for user in users {
        arrives(&user, &[&message]);
    }
}

#[test]
fn twenty_five_mebibytes_in_constant_memory() {
    let mut body = String::new();
    for line in 0.. {
        if body.len() >= 25 << 20 {
            break;
        }
        let dot = if line % 7 == 0 { "." } else { "" };
        let _ = write!(
            body,
            "{dot}line {line} of a message that is larger than what may be kept of it\r\n"
        );
    }
    let (large, path) = file("large", body.as_bytes());
    let run = send(
        POSTFIX.submission_port(),
        &[address("large")],
        &path,
        &["--tls", "required"],
    );
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (Some(0), &"success".into()),
        "{}",
        run.json
    );
    // The size of a file is known: one chunk.
    assert_eq!(run.json["round_trips"], 7 + 2, "{}", run.json);
    let (_, quarter) = file("quarter", &body.as_bytes()[..body.len() / 4]);
    let less = send(
        POSTFIX.submission_port(),
        &[address("quarter")],
        &quarter,
        &["--tls", "required"],
    );
    println!(
        "peak memory: {} KiB for 25 MiB, {} KiB for a quarter of it",
        run.peak, less.peak
    );
    assert!(
        run.peak > 0 && run.peak < less.peak + 1024,
        "{} and {} KiB",
        run.peak,
        less.peak
    );
    arrives("large", &[&large]);
}

#[test]
fn one_refused_one_greylisted_one_accepted() {
    let (message, path) = file("partial", b"For one of three.\r\n");
    let to = ["refused", "partial", "greylisted"].map(address);
    let run = send(
        POSTFIX.submission_port(),
        &to,
        &path,
        &["--tls", "required"],
    );
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (Some(75), &"partial".into()),
        "{}",
        run.json
    );
    let result = |index: usize| {
        let recipient = &run.json["recipients"][index];
        ["outcome", "stage", "code", "enhanced"].map(|key| recipient[key].to_string())
    };
    assert_eq!(result(0), ["\"permanent\"", "\"rcpt\"", "550", "\"5.1.1\""]);
    assert_eq!(result(1), ["\"success\"", "null", "250", "\"2.0.0\""]);
    assert_eq!(result(2), ["\"temporary\"", "\"rcpt\"", "450", "\"4.2.0\""]);
    arrives("partial", &[&message]);
}

#[test]
fn dots_long_lines_and_eight_bits() {
    let (mut dots, path) = file("dots", &awkward());
    let run = send(POSTFIX.smtp_port(), &[address("dots")], &path, &[]);
    assert_eq!(run.code, Some(0), "{}", run.json);
    dots.extend_from_slice(b"\r\n");
    arrives("dots", &[&dots]);
}

#[test]
fn unix_line_ends_become_crlf() {
    let (_, path) = file("unix", b"");
    std::fs::write(&path, "Subject: unix\n\n.\none\n\n..\ntwo").unwrap();
    let run = send(POSTFIX.smtp_port(), &[address("unix")], &path, &[]);
    assert_eq!(run.code, Some(0), "{}", run.json);
    arrives(
        "unix",
        &[b"Subject: unix\r\n\r\n.\r\none\r\n\r\n..\r\ntwo\r\n"],
    );
}

#[test]
fn what_it_offers() {
    let offers = |port| {
        let session = smtp_blocking::Session::connect(server(port).tls(TlsPolicy::Never)).unwrap();
        let offers = real::offers(session.capabilities());
        session.quit();
        offers
    };
    let all = offers(POSTFIX.smtp_port());
    let auth = "AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256 OAUTHBEARER XOAUTH2";
    let expected = "PIPELINING,SIZE 67108864,VRFY,ETRN,STARTTLS,AUTH,ENHANCEDSTATUSCODES,8BITMIME,DSN,SMTPUTF8,CHUNKING";
    assert_eq!(all.join(","), expected.replace("AUTH", auth));

    let mut lockstep = all.clone();
    lockstep.retain(|line| line != "PIPELINING" && line != "CHUNKING");
    assert_eq!(offers(POSTFIX.no_pipelining_port()), lockstep);

    let mut proxied = offers(POSTFIX.xclient_port());
    let more = proxied
        .extract_if(.., |line| !all.contains(line))
        .collect::<Vec<_>>();
    assert_eq!(proxied, all);
    let expected = [
        "XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT",
        "XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT",
    ];
    assert_eq!(more, expected);

    let expected =
        "8BITMIME,AUTH,BURL imap,CHUNKING,DSN,ENHANCEDSTATUSCODES,SIZE,STARTTLS,PIPELINING";
    assert_eq!(
        offers(POSTFIX.dovecot_port()).join(","),
        expected.replace("AUTH", auth)
    );
}

/// With Postfix as the server, and with Dovecot.
#[test]
fn every_mechanism() {
    let right = [
        (credentials(), "PLAIN"),
        (credentials(), "LOGIN"),
        (credentials(), "CRAM-MD5"),
        (credentials(), "SCRAM-SHA-1"),
        (credentials(), "SCRAM-SHA-256"),
        (
            Credentials::token(POSTFIX.user(), POSTFIX.oauth_token()),
            "OAUTHBEARER",
        ),
        (
            Credentials::token(POSTFIX.user(), POSTFIX.oauth_token()),
            "XOAUTH2",
        ),
    ];
    for port in [POSTFIX.submission_port(), POSTFIX.dovecot_port()] {
        let terms = server(port).tls(TlsPolicy::Required);
        for (credentials, mechanism) in right.clone() {
            let session = smtp_blocking::Session::connect(
                terms
                    .clone()
                    .credentials(credentials.mechanisms(&[mechanism])),
            );
            session
                .unwrap_or_else(|error| panic!("{mechanism} on port {port}: {error}"))
                .quit();
            let wrong = match mechanism {
                "XOAUTH2" | "OAUTHBEARER" => Credentials::token(POSTFIX.user(), "wrong"),
                _ => Credentials::password(POSTFIX.user(), "wrong"),
            };
            let error = smtp_blocking::Session::connect(
                terms.clone().credentials(wrong.mechanisms(&[mechanism])),
            )
            .unwrap_err();
            assert_eq!(
                (error.stage(), error.outcome()),
                (Stage::Auth, Outcome::Permanent),
                "{error}"
            );
            assert_eq!(
                error.error().reply().map(|reply| reply.code().get()),
                Some(535),
                "{error}"
            );
        }
    }
}

#[test]
fn the_mechanism_that_is_chosen() {
    for (port, adapter) in [POSTFIX.submission_port(), POSTFIX.dovecot_port()]
        .into_iter()
        .zip(BOTH)
    {
        let chosen = |credentials| {
            let manner = Manner {
                credentials: Some(credentials),
                ..Manner::on(port)
            };
            let session = adapter.open(&POSTFIX, &manner);
            let trace = session.trace();
            let auth = real::commands(&trace)
                .into_iter()
                .find_map(|line| line.strip_prefix("AUTH "));
            auth.unwrap().split(' ').next().unwrap().to_string()
        };
        assert_eq!(chosen(credentials()), "SCRAM-SHA-256");
        assert_eq!(
            chosen(Credentials::token(POSTFIX.user(), POSTFIX.oauth_token())),
            "OAUTHBEARER"
        );
    }
}

/// If choosing or sending them is forbidden, the error is ours, and nothing was sent.
#[test]
fn mechanisms_in_the_clear() {
    let clear = |credentials| Manner {
        tls: TlsPolicy::Never,
        credentials: Some(credentials),
        ..Manner::on(POSTFIX.smtp_port())
    };
    for adapter in BOTH {
        adapter.open(&POSTFIX, &clear(credentials())).quit();
        for mechanism in ["CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"] {
            adapter
                .open(&POSTFIX, &clear(credentials().mechanisms(&[mechanism])))
                .quit();
        }
        let token = Credentials::token(POSTFIX.user(), POSTFIX.oauth_token());
        for (credentials, mechanism) in [
            (credentials(), "PLAIN"),
            (credentials(), "LOGIN"),
            (token.clone(), "OAUTHBEARER"),
            (token.clone(), "XOAUTH2"),
        ] {
            let credentials = credentials.mechanisms(&[mechanism]);
            let error = adapter
                .connect(&POSTFIX, &clear(credentials.clone()))
                .unwrap_err();
            assert_eq!(error.cause(), &Cause::CredentialsInClear, "{mechanism}");
            adapter
                .open(&POSTFIX, &clear(credentials.permit_in_clear()))
                .quit();
        }
    }
}

#[test]
fn what_is_wrong_with_a_token() {
    for (port, adapter) in [POSTFIX.submission_port(), POSTFIX.dovecot_port()]
        .into_iter()
        .zip(BOTH)
    {
        for (mechanism, status) in [("OAUTHBEARER", "invalid_token"), ("XOAUTH2", "401")] {
            let wrong = Credentials::token(POSTFIX.user(), "wrong").mechanisms(&[mechanism]);
            let manner = Manner {
                credentials: Some(wrong),
                ..Manner::on(port)
            };
            let error = adapter.connect(&POSTFIX, &manner).unwrap_err();
            let Cause::TokenRejected {
                reply,
                error: token,
            } = error.cause()
            else {
                panic!("{mechanism} on port {port}: {error}");
            };
            assert_eq!(
                (reply.code().get(), &*token.status),
                (535, status),
                "{error}"
            );
        }
    }
}

#[test]
fn tls_in_every_policy() {
    let implicit =
        smtp_blocking::Session::connect(server(POSTFIX.smtps_port()).tls(TlsPolicy::Implicit))
            .unwrap();
    assert_eq!(
        implicit.tls_info().unwrap().verified_name.as_deref(),
        Some(NAME)
    );
    implicit.quit();
    for wrong in ["other.example.test", "127.0.0.2"] {
        let error = smtp_blocking::Session::connect(server(POSTFIX.smtp_port()).server_name(wrong))
            .unwrap_err();
        assert!(matches!(error.cause(), Cause::TlsUntrusted(_)), "{error}");
        assert_eq!(error.stage(), Stage::StartTls);
    }
    let untrusted =
        Server::new(format!("127.0.0.1:{}", POSTFIX.smtps_port())).tls(TlsPolicy::Implicit);
    let error = smtp_blocking::Session::connect(untrusted.clone().server_name(NAME)).unwrap_err();
    assert!(
        matches!(
            (error.stage(), error.cause()),
            (Stage::Connect, Cause::TlsUntrusted(_))
        ),
        "{error}"
    );
    let error = smtp_blocking::Session::connect(&untrusted).unwrap_err();
    assert!(
        matches!(
            (error.stage(), error.cause()),
            (Stage::Connect, Cause::TlsUntrusted(_))
        ),
        "{error}"
    );
    // A caller that does not want verification must declare that.
    smtp_blocking::Session::connect(untrusted.verify(false))
        .unwrap()
        .quit();
    let clear =
        smtp_blocking::Session::connect(server(POSTFIX.smtp_port()).tls(TlsPolicy::Never)).unwrap();
    assert!(clear.tls_info().is_none());
    clear.quit();
}

#[test]
fn lockstep_and_an_eight_bit_message_that_is_not_taken() {
    let lockstep = message("lockstep", b"One by one.\r\n");
    let mut session =
        smtp_blocking::Session::connect(server(POSTFIX.no_pipelining_port())).unwrap();
    assert!(!session.capabilities().has(Extension::Pipelining));
    let before = session.round_trips();
    let to = ["lockstep", "refused", "lockstep2"].map(address);
    let report = session
        .send(Envelope::new(SENDER, &to).unwrap(), &lockstep[..])
        .unwrap();
    assert_eq!(
        report
            .failures()
            .map(|failure| failure.index)
            .collect::<Vec<_>>(),
        [1]
    );
    // MAIL, three RCPT, DATA, the body.
    assert_eq!(session.round_trips() - before, 6);
    session.quit();
    arrives("lockstep", &[&lockstep]);
    arrives("lockstep2", &[&lockstep]);

    let strict = message("strict", b"Seven bits.\r\n");
    let mut session = smtp_blocking::Session::connect(server(POSTFIX.strict_port())).unwrap();
    let envelope = || Envelope::new(SENDER, [address("strict")]).unwrap();
    let eight = session
        .send(envelope().body(BodyType::EightBit), &b"\xe9\r\n"[..])
        .unwrap_err();
    assert_eq!(eight.cause(), &Cause::Unsupported(Extension::EightBitMime));
    let _ = session.send(envelope(), &strict[..]).unwrap();
    session.quit();
    arrives("strict", &[&strict]);
}

#[test]
fn many_messages_in_one_session_two_round_trips_each() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sent = lines.clone();
    let terms = server(POSTFIX.submission_port())
        .credentials(credentials())
        .observe(move |step| {
            if let Trace::Sent(line) = step.trace() {
                sent.lock().unwrap().push(line.to_string());
            }
        });
    let mut session = smtp_blocking::Session::connect(&terms).unwrap();
    let mut messages = Vec::new();
    for n in 0..10 {
        if n == 5 {
            // After a failure, the next message begins with RSET and its reply.
            let nobody =
                Envelope::new(SENDER, [address("refused"), address("greylisted")]).unwrap();
            let error = session
                .send(nobody, &b"Subject: no\r\n\r\n"[..])
                .unwrap_err();
            assert_eq!(error.report().unwrap().failures().count(), 2);
        }
        let message = message(&format!("many{n}"), format!("Number {n}.\r\n").as_bytes());
        let before = session.round_trips();
        let _ = session
            .send(
                Envelope::new(SENDER, [address("many")]).unwrap(),
                &message[..],
            )
            .unwrap();
        assert_eq!(session.round_trips() - before, if n == 5 { 3 } else { 2 });
        messages.push(message);
    }
    session.quit();
    assert_eq!(
        lines
            .lock()
            .unwrap()
            .iter()
            .filter(|line| *line == "RSET")
            .count(),
        1
    );
    arrives(
        "many",
        &messages.iter().map(Vec::as_slice).collect::<Vec<_>>(),
    );
}

#[test]
fn all_or_nothing() {
    let mut session = smtp_blocking::Session::connect(server(POSTFIX.smtp_port())).unwrap();
    let to = [address("all"), address("greylisted")];
    let envelope = Envelope::new(SENDER, &to).unwrap().all_or_nothing(true);
    let error = session
        .send(envelope, &b"Subject: all\r\n\r\n"[..])
        .unwrap_err();
    let report = error.report().unwrap();
    let outcomes: Vec<_> = report
        .failures()
        .map(|failure| failure.error.outcome)
        .collect();
    assert_eq!(outcomes, [Outcome::NotAttempted, Outcome::Transient]);
    let message = message("all", b"To all.\r\n");
    let envelope = Envelope::new(SENDER, &to[..1])
        .unwrap()
        .all_or_nothing(true);
    let _ = session.send(envelope, &message[..]).unwrap();
    session.quit();
    arrives("all", &[&message]);
}

#[test]
fn requests_between_messages() {
    for adapter in BOTH {
        let user = format!("requests-{}", adapter.name());
        let message = message("requests", b"Between requests.\r\n");
        let envelope = || Envelope::new(SENDER, [address(&user)]).unwrap();
        let mut session = adapter.open(&POSTFIX, &Manner::default());
        let _ = session.send(envelope(), &message).unwrap();
        for (request, code, enhanced) in [
            (Request::verify(&address(&user)), 252, Some("2.0.0")),
            (Request::verify(&address("refused")), 550, Some("5.1.1")),
            (
                Request::verify(&format!("\u{3b4}-{user}@example.test")),
                252,
                Some("2.0.0"),
            ),
            (Ok(Request::noop()), 250, Some("2.0.0")),
            (Request::help(None), 500, Some("5.5.2")),
            (Request::expand("staff"), 500, Some("5.5.2")),
            (Request::etrn("lmtp.example.test"), 250, None),
            (Request::etrn("example.test"), 459, None),
            (Request::raw("X-UNHEARD-OF now"), 500, Some("5.5.2")),
        ] {
            let request = request.unwrap();
            let before = session.round_trips();
            let reply = session.request(request.clone()).unwrap();
            assert_eq!(session.round_trips() - before, 1);
            let said = (
                reply.code().get(),
                reply.enhanced().map(|code| code.to_string()),
            );
            assert_eq!(
                said,
                (code, enhanced.map(String::from)),
                "{request}: {reply}"
            );
        }
        let _ = session.send_last(envelope(), &message).unwrap();
        arrives(&user, &[&message, &message]);
    }
    // A parameter that is not offered is not sent.
    let mut session = Adapter::Tokio.open(&POSTFIX, &Manner::on(POSTFIX.dovecot_port()));
    session.trace();
    let error = session
        .request(Request::etrn("example.test").unwrap())
        .unwrap_err();
    assert_eq!(
        (error.stage(), error.cause()),
        (Stage::Request, &Cause::Unsupported(Extension::Etrn))
    );
    assert_eq!(session.trace(), []);
}

/// Waits for `count` lines of the log that contain this.
#[track_caller]
fn logged(what: &str, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let log = POSTFIX.log();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(what))
            .map(String::from)
            .collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(
            Instant::now() < deadline,
            "{} of {count} lines with {what:?}",
            lines.len()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Each in the clear and inside TLS. After XCLIENT the session begins again, and TLS stays if it was there.
#[test]
fn whom_a_proxy_speaks_for() {
    for (adapter, tls) in BOTH
        .into_iter()
        .flat_map(|adapter| [(adapter, TlsPolicy::Never), (adapter, TlsPolicy::Required)])
    {
        let user = format!("proxied-{}-{tls:?}", adapter.name()).to_lowercase();
        let message = message("proxied", b"For somebody else.\r\n");
        let envelope = || Envelope::new(SENDER, [address(&user)]).unwrap();
        let manner = Manner {
            tls,
            ..Manner::on(POSTFIX.xclient_port())
        };
        let mut session = adapter.open(&POSTFIX, &manner);
        let client = [
            XClient::Name(Some(format!("{user}.example.net"))),
            XClient::Addr(Some("198.51.100.17".parse().unwrap())),
            XClient::Port(Some(4711)),
            XClient::Helo(Some("helo.example.net".into())),
            XClient::Proto(ClientProtocol::Smtp),
            XClient::Login(Some("somebody else".into())),
        ];
        // This Postfix runs without IPv6, so it refuses the request. The session stays as it is.
        let refused =
            Request::xclient([XClient::Addr(Some("2001:db8::17".parse().unwrap()))]).unwrap();
        assert_eq!(session.request(refused).unwrap().code().get(), 501);
        session.trace();
        let reply = session.request(Request::xclient(client).unwrap()).unwrap();
        assert_eq!(reply.code().get(), 220, "{reply}");
        let _ = session.send(envelope(), &message).unwrap();
        let trace = session.trace();
        let said = real::commands(&trace);
        assert!(
            said[0].starts_with("XCLIENT ") && said[1].starts_with("EHLO "),
            "{said:?}"
        );

        let origin = [
            XForward::Name(Some("origin.example.net".into())),
            XForward::Addr(Some("192.0.2.17".parse().unwrap())),
            XForward::Helo(Some("a b".into())),
            XForward::Ident(Some(format!("ident-{user}"))),
            XForward::Source(Some(MessageSource::Remote)),
        ];
        let reply = session.request(Request::xforward(origin).unwrap()).unwrap();
        assert_eq!(reply.code().get(), 250, "{reply}");
        let _ = session.send_last(envelope(), &message).unwrap();
        arrives(&user, &[&message, &message]);

        let client = format!("{user}.example.net[198.51.100.17]");
        let lines = logged(&format!(": client={client}"), 2);
        let (first, second) = (&lines[0], &lines[1]);
        for stored in POSTFIX.mail_to(&address(&user), 2) {
            let received = format!("({})", client.replace('[', " ["));
            assert!(stored.trace.contains(&received), "{}", stored.trace);
        }
        assert!(
            first.contains(", sasl_method=XCLIENT, sasl_username=somebody else"),
            "{first}"
        );
        assert!(
            second.contains(&format!("orig_queue_id=ident-{user}")),
            "{second}"
        );
        assert!(
            second.contains("orig_client=origin.example.net[192.0.2.17]"),
            "{second}"
        );
    }
    let mut session = Adapter::Blocking.open(&POSTFIX, &Manner::default());
    session.trace();
    let xclient = Request::xclient([XClient::Name(None)]).unwrap();
    let xforward = Request::xforward([XForward::Name(None)]).unwrap();
    for (request, extension) in [
        (xclient, Extension::XClient),
        (xforward, Extension::XForward),
    ] {
        let error = session.request(request).unwrap_err();
        assert_eq!(
            (error.stage(), error.cause()),
            (Stage::Request, &Cause::Unsupported(extension))
        );
    }
    assert_eq!(session.trace(), []);
}

#[test]
fn submission_through_dovecot() {
    let terms = server(POSTFIX.dovecot_port()).credentials(credentials());
    let mut session = smtp_blocking::Session::connect(&terms).unwrap();
    let to = ["through-dovecot", "refused", "greylisted"].map(address);
    let message = message("through", &[&awkward()[..], b"\r\n"].concat());
    let report = session
        .send_last(Envelope::new(SENDER, &to).unwrap(), &message[..])
        .unwrap();
    let expected = [
        (1, Stage::Rcpt, Outcome::Permanent, 550, "5.1.1".to_string()),
        (2, Stage::Rcpt, Outcome::Transient, 450, "4.2.0".to_string()),
    ];
    assert_eq!(real::failures(&report), expected);
    relayed(&POSTFIX, &to[0], &message);
}

/// Waits for the one message that `to` gets, and compares it below the other server's Received line.
#[track_caller]
fn relayed(server: &real::Server, to: &str, message: &[u8]) {
    let stored = server.mail_to(to, 1).remove(0).body;
    assert!(
        stored.starts_with(b"Received: ") && stored.ends_with(message),
        "{}",
        stored.escape_ascii()
    );
}

/// Postfix forwards by LMTP, and reports about the user who is over quota.
#[test]
fn handed_on_to_dovecot_by_lmtp() {
    let dovecot = Dovecot::start().unwrap_or_else(|error| panic!("{error}"));
    POSTFIX.hand_on(&dovecot).unwrap();
    let message = message("handed on", &[&awkward()[..], b"\r\n"].concat());
    let mut session = smtp_blocking::Session::connect(server(POSTFIX.smtp_port())).unwrap();
    let to = "handed-on@lmtp.example.test";
    let _ = session
        .send_last(Envelope::new(SENDER, [to]).unwrap(), &message[..])
        .unwrap();
    relayed(&dovecot, to, &message);

    // Dovecot does not offer DSN, so Postfix sends the report.
    let to = "reported@lmtp.example.test";
    let envelope = Envelope::new("handed-on@example.test", [to]).unwrap();
    let envelope = envelope.recipient_parameter(RcptParameter::notify(Notify::SUCCESS));
    let report = real::delivery_report(&POSTFIX, Adapter::Blocking, envelope);
    assert!(
        report.contains(&format!("; {to}\r\n"))
            && report.contains("\r\nAction: relayed\r\nStatus: 2.0.0\r\n"),
        "{report}"
    );
    relayed(&dovecot, to, b"Subject: to be reported\r\n\r\nHello.\r\n");

    let envelope = Envelope::new("full@example.test", ["full@lmtp.example.test"]).unwrap();
    let report = real::delivery_report(&POSTFIX, Adapter::Tokio, envelope);
    assert!(
        report.contains("\r\nAction: failed\r\nStatus: 5.2.2\r\n"),
        "{report}"
    );
}

smtp_tests::tests_of_every_server!(POSTFIX);
smtp_tests::tests_of_every_smtp_server!(POSTFIX);

/// What Postfix itself says of a login.
#[test]
fn logins_in_the_log() {
    let names = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"];
    let logged = names.map(|name| format!("sasl_method={name}, sasl_username={}", POSTFIX.user()));
    let logins: Vec<_> = names
        .into_iter()
        .zip(&logged)
        .map(|(mechanism, logged)| Login { mechanism, logged })
        .collect();
    let manner = Manner::on(POSTFIX.submission_port());
    real::logins(
        &POSTFIX,
        &manner,
        POSTFIX.user(),
        POSTFIX.password(),
        &logins,
    );
}

#[test]
fn a_record_with_a_login() {
    let manner = Manner {
        credentials: Some(credentials().mechanisms(&["SCRAM-SHA-256"])),
        ..Manner::on(POSTFIX.submission_port())
    };
    real::a_record(&POSTFIX, &manner);
}

#[test]
fn no_utf8() {
    real::no_utf8(&POSTFIX, &Manner::on(POSTFIX.strict_port()));
}
