//! Options: errors and their words.

use std::net::Shutdown;
use std::path::{Path, PathBuf};

use super::run::{finish, message_file, output, run, send};
use super::server::server;
use super::{Adapter, MESSAGE, ONE};

for_both!(
    usage_and_bad_input,
    a_bad_option_is_an_object_too,
    json_with_a_value_alone_is_a_bad_option,
    what_to_set_is_an_option,
    bad_values_are_named,
    every_option_refuses_in_an_object,
);

fn usage_and_bad_input(adapter: Adapter) {
    for arguments in [&["--nonsense"][..], &["--from", "a@b"]] {
        let output = output(send(adapter).args(arguments), b"");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    for flags in [
        ["--auth-user", "u"],
        ["--auth-mechanism", "XOAUTH2"],
        ["--auth-authzid", "u"],
        ["--timeout-reply", "0"],
        ["--helo", "a b"],
    ] {
        let message = ["--from", "a@b", "--to", "c@d", "--data", "x"];
        let output = output(send(adapter).args(message).args(flags), b"");
        assert_eq!(output.status.code(), Some(64), "{flags:?}");
    }
    run(adapter, "address", None, &["bob@"], &[]).is(65, "refused", Some("local"));
    run(adapter, "pem", None, &["bob@b"], &["--ca-file", "/nowhere"]).is(
        65,
        "refused",
        Some("local"),
    );
    let output = output(
        send(adapter).args(["--from", "<>", "--to", "c@d", "--data", "/nowhere"]),
        b"",
    );
    assert_eq!(output.status.code(), Some(65));
}

/// With `--json`, every invalid command line gives an object.
fn a_bad_option_is_an_object_too(adapter: Adapter) {
    for (flags, words) in [
        (&["--timeout-reply", "soon"][..], "not a number of seconds"),
        (&["--tls", "perhaps"], "invalid value 'perhaps'"),
        (&["--local-address", "here"], "invalid value 'here'"),
        (&["--helo", "a b"], "invalid value 'a b'"),
        (&["--repeat", "0"], "invalid value '0'"),
        (&["--no-such-flag"], "unexpected argument '--no-such-flag'"),
        (&["--auth-user", "alice"], "--auth-password"),
        (&["--json=true"], "unexpected value 'true' for '--json'"),
    ] {
        let server = Some("127.0.0.1:1".to_owned());
        let run = run(adapter, "usage", server, &["bob@example.net"], flags);
        run.is(64, "refused", Some("local")).maybe_delivered(false);
        let error = run.json["error"].as_str().unwrap();
        assert!(error.contains(words), "{error}");
    }
}

fn json_with_a_value_alone_is_a_bad_option(adapter: Adapter) {
    let run = finish(send(adapter).arg("--json=true"), b"");
    run.is(64, "refused", Some("local"));
    run.says("unexpected value 'true' for '--json'");
}

/// The advice uses options, and the server's words stay unchanged.
fn what_to_set_is_an_option(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "CHUNKING"]);
        for command in ["MAIL", "RCPT"] {
            peer.hear(command);
            peer.say("250 ok\r\n");
        }
        // Up to the last line of the message, so that the whole chunk is written.
        peer.hear("..dots");
        peer.say("500 what? set Chunking::Never\r\n");
        let _ = peer.0.get_ref().shutdown(Shutdown::Write);
        peer.hear_the_end();
    });
    let run = run(adapter, "chunking", Some(address), &ONE, &[]);
    run.is(69, "permanent", Some("eom"));
    run.says(
        "server said 500 what? set Chunking::Never; it offers CHUNKING and may not know it: set --chunking never (",
    );
}

fn bad_values_are_named(adapter: Adapter) {
    for (flag, value) in [
        ("--dsn-envid", ""),
        ("--dsn-envid", "\u{e4}"),
        ("--dsn-notify", "never,delay"),
        ("--dsn-notify", "sometimes"),
        ("--param", "a b"),
        ("--param", "X-A="),
        ("--param", "SIZE=1"),
        ("--param", "BY=soon"),
        ("--rcpt-param", "X=\n"),
        ("--rcpt-param", "ORCPT=bob"),
    ] {
        let run = run(adapter, "bad", None, &ONE, &[flag, value]);
        run.is(65, "refused", Some("local"));
        let error = run.json["error"].as_str().unwrap();
        assert!(
            error.contains(flag) && error.lines().count() == 1,
            "{error}"
        );
        assert_eq!(run.stderr, format!("send: {error}\n"));
    }
    for flags in [["--chunking", "sometimes"], ["--dsn-ret", "half"]] {
        let arguments = ["--from", "a@b", "--to", "c@d", "--data", "x"];
        let output = output(send(adapter).args(arguments).args(flags), b"");
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8(output.stderr).unwrap().contains(flags[0]));
    }
}

/// Every option of `--help` has a bad value here, or takes none. Nobody listens at the address, so a value that is
/// not refused gives a temporary failure.
fn every_option_refuses_in_an_object(adapter: Adapter) {
    let text = message_file("text", b"no certificate, and no key");
    let empty = message_file("empty", b"");
    let latin = message_file("latin", b"p\xe4ss");
    let (certificate, key) = smtp_tests::receiver::make_client_certificate().unwrap();
    let (_, other) = smtp_tests::receiver::make_client_certificate().unwrap();
    let pem = [("certificate", certificate), ("key", key), ("other", other)];
    let pem = pem.map(|(name, pem)| message_file(name, pem.as_bytes()));
    let [certificate, key, other] = pem.each_ref().map(|path| path.to_str().unwrap());
    let [text, empty, latin] = [&text, &empty, &latin].map(|path| path.to_str().unwrap());
    let (missing, folder) = ("/does/not/exist", "/");
    let long = format!("/{}", "x".repeat(300));
    let user = ["--auth-user", "alice"];
    let bad: &[(&str, i32, &[&[&str]])] = &[
        (
            "--server",
            65,
            &[
                &["a:99999"],
                &["a:0"],
                &["a:x"],
                &[":25"],
                &["a b"],
                &[""],
                &["[::1"],
                &["alice:s3cret@a"],
            ],
        ),
        ("--unix", 65, &[&[&long]]),
        (
            "--unix",
            64,
            &[
                &[""],
                &["/x", "--server", "a"],
                &["/x", "--local-address", "::1"],
            ],
        ),
        ("--from", 65, &[&["bob"], &["bob@"], &["a b@c"]]),
        ("--to", 65, &[&["bob"], &["<>"], &["bob@a\nb"]]),
        ("--data", 65, &[&[missing], &[folder]]),
        ("--data", 64, &[&[""]]),
        ("--repeat", 64, &[&["0"], &["-1"], &["x"], &["4294967296"]]),
        ("--chunking", 64, &[&["sometimes"]]),
        ("--dsn-ret", 64, &[&["half"]]),
        ("--dsn-envid", 65, &[&[""], &["\u{e4}"]]),
        ("--dsn-notify", 65, &[&["sometimes"], &["never,delay"]]),
        ("--param", 65, &[&["a b"], &["SIZE=1"]]),
        ("--rcpt-param", 65, &[&["a b"], &["ORCPT=bob"]]),
        ("--helo", 64, &[&["a b"], &[""]]),
        ("--local-address", 64, &[&["here"], &["127.0.0.1:25"]]),
        ("--tls", 64, &[&["perhaps"]]),
        ("--tls-name", 65, &[&["a:587"], &["a b"], &[""]]),
        ("--ca-file", 65, &[&[missing], &[folder], &[text], &[empty]]),
        (
            "--client-cert",
            65,
            &[
                &[missing, "--client-key", key],
                &[folder, "--client-key", key],
                &[text, "--client-key", key],
                &[certificate, "--client-key", missing],
                &[certificate, "--client-key", folder],
                &[certificate, "--client-key", text],
                &[certificate, "--client-key", other],
            ],
        ),
        ("--client-cert", 64, &[&[certificate]]),
        ("--client-key", 64, &[&[key]]),
        (
            "--auth-user",
            64,
            &[&["alice"], &["alice", "--auth-mechanism", "PLAIN"]],
        ),
        ("--auth-password", 64, &[&["s3cret"]]),
        (
            "--auth-password-file",
            64,
            &[
                &[missing, user[0], user[1]],
                &[folder, user[0], user[1]],
                &[empty, user[0], user[1]],
                &[latin, user[0], user[1]],
                &[text, user[0], user[1], "--auth-password", "s3cret"],
                &[text],
            ],
        ),
        ("--auth-mechanism", 64, &[&["MAGIC"], &["PLAIN"]]),
        ("--auth-authzid", 64, &[&["bob"]]),
        (
            "--timeout-connect",
            64,
            &[&["soon"], &["0"], &["-1"], &["NaN"], &["1e400"]],
        ),
        (
            "--timeout-reply",
            64,
            &[&["soon"], &["0"], &["-1"], &["inf"], &[""]],
        ),
        (
            "--timeout-data",
            64,
            &[&["soon"], &["0"], &["-1"], &["1e40"]],
        ),
        ("--record", 65, &[&["/nowhere/at/all"], &["/"], &["."]]),
        ("--no-such-option", 64, &[&[], &["x"]]),
        ("a word", 64, &[&[]]),
    ];
    let refuses = |option: &str, rest: &[&str], code: i32| {
        let file = message_file("every", MESSAGE);
        let mut command = send(adapter);
        command.env_remove("SMTP_PASSWORD").arg("--json");
        for (name, value) in [
            ("--server", "127.0.0.1:1"),
            ("--from", "a@b"),
            ("--to", "c@d"),
            ("--data", file.to_str().unwrap()),
        ] {
            let is_other = name == "--server" && option == "--unix";
            if name != option && !is_other {
                command.args([name, value]);
            }
        }
        command.arg(option).args(rest);
        let run = finish(&mut command, b"");
        assert_eq!(
            (run.code, &run.json["outcome"], &run.json["stage"]),
            (code, &"refused".into(), &"local".into()),
            "{option} {rest:?}: {} {}",
            run.json,
            run.stderr
        );
        let error = run.json["error"].as_str().unwrap();
        assert!(!error.is_empty() && error.lines().count() == 1, "{error}");
        let functions = ["server_name", "trust_pem", "client_certificate_pem"];
        assert!(
            !functions.iter().any(|name| error.contains(name)),
            "{error}"
        );
        assert!(
            !run.stderr.is_empty() && !error.contains("s3cret"),
            "{error}"
        );
        let _ = std::fs::remove_file(file);
    };
    for (option, code, values) in bad {
        values.iter().for_each(|rest| refuses(option, rest, *code));
    }
    let help = output(send(adapter).arg("--help"), b"");
    let help = String::from_utf8(help.stdout).unwrap();
    let mut count = 0;
    for line in help.lines().map(str::trim_start) {
        let Some(name) = line
            .strip_prefix("--")
            .and_then(|name| name.split(' ').next())
        else {
            continue;
        };
        let option = format!("--{name}");
        count += 1;
        match line.contains('<') {
            true => {
                assert!(bad.iter().any(|(name, ..)| *name == option), "{option}");
                // Its value is missing.
                refuses(&option, &[], 64);
            }
            false => refuses(&format!("{option}=yes"), &[], 64),
        }
    }
    assert!(count > 35, "{count}: {help}");
    // The error names what is missing.
    let run = finish(send(adapter).args(["--json", "--from", "a@b"]), b"");
    run.is(64, "refused", Some("local"))
        .says("--to <ADDR>")
        .says("--data <FILE|->");
    for path in pem
        .iter()
        .map(PathBuf::as_path)
        .chain([text, empty, latin].map(Path::new))
    {
        let _ = std::fs::remove_file(path);
    }
}
