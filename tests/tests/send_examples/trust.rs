//! Logins and TLS.

use std::io::{BufReader, Read};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use smtp_tests::receiver::Options;

use super::run::{finish, message_file, outcome, output, run, send};
use super::server::{Peer, receiver, server};
use super::{Adapter, MESSAGE, ONE};

for_both!(
    credentials,
    passwords_that_nobody_sees,
    a_client_certificate_logs_in,
    mail_goes_in_clear_where_tls_is_broken,
    mechanisms_without_a_password,
    certificates,
    require_tls,
    passwords_are_in_no_error,
);

fn credentials(adapter: Adapter) {
    let auth = Options {
        auth: Some(("alice".into(), "s3cret".into())),
        ..Options::default()
    };
    let (receiver, address) = receiver(auth);
    let pem = message_file("pem", receiver.certificate_pem().as_bytes());
    let user = ["--auth-user", "alice", "--auth-password"];
    let to = ["bob@example.net"];
    let unknown = |flags: &[&str]| {
        run(
            adapter,
            "auth",
            Some(address.clone()),
            &to,
            &[&user[..], flags].concat(),
        )
    };
    let with = |flags: &[&str]| unknown(&[flags, &["--ca-file", pem.to_str().unwrap()]].concat());
    // A server that is not verified does not get the password, unless an option permits it.
    unknown(&["s3cret"]).is(77, "refused", Some("starttls"));
    let plain = [
        "s3cret",
        "--tls",
        "opportunistic",
        "--auth-mechanism",
        "PLAIN",
    ];
    unknown(&plain).is(77, "refused", Some("auth"));
    // A response that is bound to this TLS connection is useless to an attacker in between.
    unknown(&["s3cret", "--tls", "opportunistic"]).is(0, "success", None);
    unknown(&["s3cret", "--tls-no-verify"]).is(0, "success", None);
    unknown(&["s3cret", "--tls", "required", "--tls-no-verify"]).is(0, "success", None);
    with(&["s3cret"]).is(0, "success", None);
    for mechanism in ["login", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        with(&["s3cret", "--auth-mechanism", mechanism]).is(0, "success", None);
    }
    for mechanism in ["XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"] {
        with(&["s3cret", "--auth-mechanism", mechanism]).is(77, "refused", Some("auth"));
    }
    with(&[
        "s3cret",
        "--auth-mechanism",
        "PLAIN",
        "--auth-authzid",
        "alice",
    ])
    .is(0, "success", None);
    with(&[
        "s3cret",
        "--auth-mechanism",
        "PLAIN",
        "--auth-authzid",
        "bob",
    ])
    .is(69, "permanent", Some("auth"));
    let wrong = with(&["wrong"]);
    wrong.is(69, "permanent", Some("auth"));
    assert_eq!(wrong.json["recipients"][0]["code"], 535);
    assert!(wrong.json["tls"].is_object());
    with(&["s3cret", "--auth-mechanism", "CRAM-MD5"]).is(77, "refused", Some("auth"));
    // Without TLS the server does not offer AUTH, and we would not use it.
    with(&["s3cret", "--tls", "none"]).is(77, "refused", Some("auth"));
    let (_other, address) = self::receiver(Options::default());
    let flags = [&user[..], &["x", "--tls-no-verify"]].concat();
    run(adapter, "no-auth", Some(address), &to, &flags).is(77, "refused", Some("auth"));
    let _ = std::fs::remove_file(pem);
}

fn passwords_that_nobody_sees(adapter: Adapter) {
    let options = Options {
        auth: Some(("alice".into(), "s3cret".into())),
        ..Options::default()
    };
    let (receiver, address) = receiver(options);
    let ca = message_file("ca", receiver.certificate_pem().as_bytes());
    let secret = message_file("password", b"s3cret\nanother line\n");
    let run = |name: &str, flags: &[&str], password: Option<&str>| {
        let file = message_file(name, MESSAGE);
        let mut command = send(adapter);
        command.args(["--from", "alice@example.org", "--to", "bob@example.net"]);
        command.args(["--json", "--auth-user", "alice", "--tls-name", "localhost"]);
        command.args(["--server", &address, "--ca-file"]).arg(&ca);
        command.arg("--data").arg(&file).args(flags);
        command.env_remove("SMTP_PASSWORD");
        if let Some(password) = password {
            command.env("SMTP_PASSWORD", password);
        }
        let output = output(&mut command, b"");
        let _ = std::fs::remove_file(file);
        output
    };
    let file = ["--auth-password-file", secret.to_str().unwrap()];
    outcome(run("file", &file, None)).is(0, "success", None);
    outcome(run("environment", &[], Some("s3cret"))).is(0, "success", None);
    outcome(run("wrong", &[], Some("wrong"))).is(69, "permanent", Some("auth"));
    // The file comes before the environment. Without both, it does not log in.
    outcome(run("both", &file, Some("wrong"))).is(0, "success", None);
    for password in [None, Some("")] {
        let run = outcome(run("neither", &[], password));
        run.is(64, "refused", Some("local")).says("SMTP_PASSWORD");
    }
    let missing = ["--auth-password-file", "/does/not/exist"];
    assert_eq!(run("missing", &missing, None).status.code(), Some(64));
    for path in [ca, secret] {
        let _ = std::fs::remove_file(path);
    }
}

fn a_client_certificate_logs_in(adapter: Adapter) {
    let (certificate, key) = smtp_tests::receiver::make_client_certificate().unwrap();
    let (receiver, address) = receiver(Options {
        auth: Some(("alice".into(), "s3cret".into())),
        client_ca: Some(certificate.clone()),
        ..Options::default()
    });
    let files = [
        ("ca", receiver.certificate_pem()),
        ("certificate", &certificate),
        ("key", &key),
    ]
    .map(|(name, pem)| message_file(name, pem.as_bytes()));
    let [ca, certificate, key] = files.each_ref().map(|path| path.to_str().unwrap());
    let external = [
        "--ca-file",
        ca,
        "--tls-name",
        "localhost",
        "--auth-mechanism",
        "EXTERNAL",
    ];
    let with = |flags: &[&str]| {
        let flags = [&external[..], flags].concat();
        run(
            adapter,
            "external",
            Some(address.clone()),
            &["bob@example.net"],
            &flags,
        )
    };
    with(&["--client-cert", certificate, "--client-key", key]).is(0, "success", None);
    with(&[]).is(77, "refused", Some("auth"));
    with(&["--client-cert", "/does/not/exist", "--client-key", key]).is(
        65,
        "refused",
        Some("local"),
    );
    for path in &files {
        let _ = std::fs::remove_file(path);
    }
}

/// A server with broken TLS, like some mail exchangers.
fn mail_goes_in_clear_where_tls_is_broken(adapter: Adapter) {
    for retry in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let accept = || Peer(BufReader::new(listener.accept().unwrap().0));
            let mut first = accept();
            first.open(&["fake", "STARTTLS"]);
            first.hear("STARTTLS");
            first.say("220 go\r\n");
            let mut hello = [0; 64];
            let _ = first.0.read(&mut hello);
            // An alert: handshake failure.
            first.say("\x15\x03\x03\x00\x02\x02\x28");
            first.hear_the_end();
            let mut second = accept();
            second.take_message();
            second.say("250 taken\r\n");
            second.hear_the_end();
        });
        let flags: &[&str] = if retry { &["--retry-in-clear"] } else { &[] };
        let run = run(adapter, "clear", Some(address), &["bob@example.net"], flags);
        match retry {
            true => run.is(0, "success", None),
            false => run.is(75, "temporary", Some("starttls")),
        };
    }
}

fn mechanisms_without_a_password(adapter: Adapter) {
    for (mechanism, flags, response) in [
        ("EXTERNAL", &[][..], "="),
        ("EXTERNAL", &["--auth-authzid", "fred"], "ZnJlZA=="),
        ("ANONYMOUS", &["--auth-user", "sirhc"], "c2lyaGM="),
    ] {
        let address = server(move |mut peer| {
            peer.open(&["fake", &format!("AUTH {mechanism}")]);
            peer.hear(&format!("AUTH {mechanism} {response}\r\n"));
            peer.say("535 5.7.8 no\r\n");
            peer.hear("QUIT");
        });
        let flags = [
            &[
                "--tls",
                "none",
                "--auth-in-clear",
                "--auth-mechanism",
                mechanism,
            ],
            flags,
        ]
        .concat();
        run(adapter, "no-password", Some(address), &ONE, &flags).is(69, "permanent", Some("auth"));
    }
}

fn certificates(adapter: Adapter) {
    let to = ["bob@example.net"];
    let (receiver, address) = receiver(Options::default());
    let pem = message_file("pem", receiver.certificate_pem().as_bytes());
    let pem = pem.to_str().unwrap();
    let with = |flags: &[&str]| run(adapter, "tls", Some(address.clone()), &to, flags);
    let names_the_option = |options: &[&str], option: &str| {
        with(options)
            .is(77, "refused", Some("starttls"))
            .says(option)
            .says("--tls-no-verify");
    };
    names_the_option(&["--tls", "required"], "(--ca-file)");
    names_the_option(
        &["--tls", "required", "--ca-file", pem, "--tls-name", "a.b"],
        "(--tls-name)",
    );
    with(&["--tls-name", "localhost"]).is(77, "refused", Some("starttls"));
    with(&[
        "--tls",
        "required",
        "--tls-name",
        "wrong.example",
        "--ca-file",
        pem,
    ])
    .is(77, "refused", Some("starttls"));
    let good = with(&[
        "--tls",
        "required",
        "--tls-name",
        "localhost",
        "--ca-file",
        pem,
    ]);
    good.is(0, "success", None);
    assert_eq!(good.json["tls"]["verified"], true);
    with(&["--tls", "required", "--ca-file", pem]).is(0, "success", None);

    let (receiver, address) = self::receiver(Options {
        implicit_tls: true,
        ..Options::default()
    });
    let with = |flags: &[&str]| run(adapter, "tls", Some(address.clone()), &to, flags);
    with(&["--tls", "implicit", "--tls-name", "localhost"]).is(77, "refused", Some("connect"));
    with(&["--tls", "implicit"]).is(77, "refused", Some("connect"));
    with(&["--tls", "implicit", "--tls-no-verify"]).is(0, "success", None);
    drop(receiver);

    let (_receiver, address) = self::receiver(Options {
        starttls: false,
        ..Options::default()
    });
    run(adapter, "tls", Some(address), &to, &["--tls", "required"]).is(
        77,
        "refused",
        Some("starttls"),
    );
    let _ = std::fs::remove_file(pem);
}

fn require_tls(adapter: Adapter) {
    let (receiver, address) = receiver(Options {
        require_tls: true,
        ..Options::default()
    });
    let pem = message_file("pem", receiver.certificate_pem().as_bytes());
    let trust = [
        "--tls-name",
        "localhost",
        "--ca-file",
        pem.to_str().unwrap(),
    ];
    let with = |address: &str, flags: &[&str]| {
        let flags = [&["--require-tls"], flags].concat();
        run(
            adapter,
            "requiretls",
            Some(address.to_owned()),
            &ONE,
            &flags,
        )
    };
    with(&address, &trust).is(0, "success", None);
    assert!(
        receiver.messages()[0]
            .mail_parameters
            .ends_with(" REQUIRETLS")
    );
    // Encrypted, but not verified, and then in the clear.
    with(&address, &[]).is(77, "refused", Some("mail"));
    with(&address, &["--tls", "none"]).is(77, "refused", Some("mail"));
    assert_eq!(receiver.messages().len(), 1);
    // The program's own server offers it, and is verified.
    run(adapter, "requiretls", None, &ONE, &["--require-tls"]).is(0, "success", None);
    let (other, address) = self::receiver(Options::default());
    std::fs::write(&pem, other.certificate_pem()).unwrap();
    with(&address, &trust).is(77, "refused", Some("mail"));
    assert!(other.messages().is_empty());
    let _ = std::fs::remove_file(pem);
}

/// A part of a password that the shell has cut off is not shown either.
fn passwords_are_in_no_error(adapter: Adapter) {
    let login = ["--auth-user", "alice"];
    for rest in [
        &["--auth-password", "two", "s3cret"][..],
        &["--auth-password", "two", "-s3cret"],
        &["--auth-password", "two", "--s3cret"],
        &["--auth-password", "-s3cret"],
        &["--auth-password", "--s3cret"],
        &["--auth-password=two", "s3cret"],
        &["--auth-pasword", "s3cret"],
        &["--auth-pasword=s3cret"],
        &["--auth-password", "s3cret", "--auth-password", "s3cret"],
        &["--auth-password", "s3cret", "--auth-password-file", "/x"],
        &["--auth-password", "s3cret", "--tls", "perhaps"],
        &["--auth-password", "s3cret", "--no-such-option"],
        &["--auth-password", "s3cret", "--server", "alice:s3cret@b"],
        &[
            "--auth-password",
            "s3cret",
            "--server",
            "smtp://alice:s3cret@b:99999",
        ],
        &["--auth-password", "s3cret", "--server", "a:99999"],
        &["--auth-password", "s3cret", "--client-cert", "/x"],
        &["--auth-password", "s3cret", "--ca-file", "/x"],
        &["--auth-password", "s3cret", "--auth-mechanism", "MAGIC"],
    ] {
        for json in [true, false] {
            let mut command = send(adapter);
            command.args(["--from", "a@b", "--to", "c@d", "--data", "/dev/null"]);
            command
                .args(json.then_some("--json"))
                .args(login)
                .args(rest);
            let output = output(&mut command, b"");
            assert!(matches!(output.status.code(), Some(64 | 65)), "{rest:?}");
            for text in [output.stdout, output.stderr] {
                let text = String::from_utf8(text).unwrap();
                // The parser takes a single letter after a hyphen for an option.
                assert!(
                    !text.contains("3cret") && !text.contains("'-s'"),
                    "{rest:?}: {text}"
                );
            }
        }
    }
    // A password from the environment that is not UTF-8.
    let mut command = send(adapter);
    command.args([
        "--json",
        "--from",
        "a@b",
        "--to",
        "c@d",
        "--data",
        "/dev/null",
    ]);
    command
        .args(login)
        .env("SMTP_PASSWORD", std::ffi::OsStr::from_bytes(b"s3cret\xff"));
    let run = finish(&mut command, b"");
    run.is(64, "refused", Some("local"))
        .says("SMTP_PASSWORD is not UTF-8");
    assert!(!run.stderr.contains("3cret"), "{}", run.stderr);
}
