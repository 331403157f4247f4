//! The `send` examples of both adapters as scripts call them: flags in, JSON and an exit code out, against
//! the embedded receiving server and against servers that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use smtp_tests::receiver::{Limits, Options, Receiver};
use smtp_tests::watchdog;

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n.\r\n..dots\r\n";

type Adapter = &'static str;

/// Each test, with the example of each adapter.
macro_rules! for_both {
    ($($(#[$where:meta])* $test:ident),* $(,)?) => {
        mod blocking {
            $($(#[$where])* #[test] fn $test() { super::$test("smtp-blocking"); })*
        }
        mod tokio {
            $($(#[$where])* #[test] fn $test() { super::$test("smtp-tokio"); })*
        }
    };
}

for_both!(
    without_arguments_it_shows_a_conversation,
    success_is_delivered_byte_for_byte,
    each_recipient_has_its_own_result,
    only_permanent_refusals_give_69,
    usage_and_bad_input,
    credentials,
    passwords_that_nobody_sees,
    a_client_certificate_logs_in,
    mail_goes_in_clear_where_tls_is_broken,
    a_bad_option_is_an_object_too,
    json_alone_forwards_the_sample,
    json_with_a_value_alone_is_a_bad_option,
    mechanisms_without_a_password,
    certificates,
    lmtp,
    a_reader_that_goes_away_is_no_panic,
    standard_input_is_the_message,
    a_pipe_is_read_once,
    a_file_that_changes_is_an_error,
    a_file_that_vanishes_is_bad_input,
    a_file_that_cannot_be_read_is_temporary,
    nobody_listens,
    a_reply_injected_behind_starttls,
    a_reply_that_never_ends,
    a_reply_that_drips,
    a_loss_after_the_final_dot_is_in_doubt,
    data_accepted_after_everybody_was_refused,
    a_421_at_any_time_is_temporary,
    what_to_set_is_an_option,
    a_silent_server_times_out,
    a_server_that_stops_reading_times_out,
    a_refusal_in_the_middle_of_the_body_is_what_is_reported,
    bulk_prints_a_line_for_each_message_and_a_summary,
    chunks_where_the_flag_wants_them,
    standard_input_goes_out_in_chunks,
    reports_are_asked_for,
    require_tls,
    smtputf8,
    raw_parameters,
    bad_values_are_named,
    all_or_nothing,
    unix_sockets,
    recipients_beyond_a_stated_limit,
    recipients_beyond_a_limit_that_is_not_stated,
    pipes_are_opened_in_their_turn,
    standard_input_is_not_split,
    messages_beyond_a_stated_limit,
    a_summary_says_no_more_than_holds_for_all,
    what_was_not_attempted_has_no_reply,
    what_is_in_doubt_has_no_reply_of_another_command,
    bcc_is_stripped,
    a_file_that_changes_is_an_error_without_its_bcc_too,
    the_wait_for_replies_is_bounded_in_overlap_too,
    // `script` gives it a terminal, and has other flags elsewhere.
    #[cfg(target_os = "linux")]
    long_bodies_show_their_progress_on_a_terminal,
    every_option_refuses_in_an_object,
    passwords_are_in_no_error,
    one_bad_message_does_not_stop_the_others,
    a_message_that_the_server_refuses_is_one_line,
    what_is_wrong_for_all_has_a_line_for_each,
    partly_delivered_is_counted_apart,
    doubt_and_what_comes_after_it_are_counted,
    a_message_that_ends_the_session_does_not_stop_the_others,
);

fn send(adapter: Adapter) -> Command {
    Command::new(smtp_tests::send::example(adapter))
}

fn message_file(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!(
        "send-{}-{:?}-{name}.eml",
        std::process::id(),
        thread::current().id()
    ));
    std::fs::write(&path, content).unwrap();
    path
}

struct Run {
    code: i32,
    /// The last line.
    json: Value,
    stdout: String,
    stderr: String,
}

/// Runs `send` with `--json` from one sender to the recipients, and returns its last line.
fn run(adapter: Adapter, name: &str, server: Option<String>, to: &[&str], flags: &[&str]) -> Run {
    run_with(adapter, MESSAGE, name, server, to, flags)
}

fn run_with(
    adapter: Adapter,
    message: &[u8],
    name: &str,
    server: Option<String>,
    to: &[&str],
    flags: &[&str],
) -> Run {
    let file = message_file(name, message);
    let mut command = send(adapter);
    command
        .args(["--from", "alice@example.org", "--json", "--data"])
        .arg(&file)
        .args(flags);
    if let Some(server) = server {
        command.args(["--server", &server]);
    }
    for to in to {
        command.args(["--to", to]);
    }
    let run = finish(&mut command, b"");
    let _ = std::fs::remove_file(file);
    run
}

/// Runs it with this on its standard input.
fn output(command: &mut Command, input: &[u8]) -> Output {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // One that wants no more of it closes it.
    thread::spawn(move || stdin.write_all(&input));
    wait(child)
}

/// Waits for its end, or kills it when it takes too long.
#[track_caller]
fn wait(mut child: Child) -> Output {
    fn read(stream: Option<impl Read + Send + 'static>, ended: Sender<()>) -> JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut octets = Vec::new();
            let _ = stream.map(|mut stream| stream.read_to_end(&mut octets));
            let _ = ended.send(());
            octets
        })
    }
    let (ended, end) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = (read(stdout, ended.clone()), read(stderr, ended));
    let deadline = Instant::now() + watchdog::LIMIT;
    let left = || deadline.saturating_duration_since(Instant::now());
    let hangs = (0..2).any(|_| end.recv_timeout(left()).is_err());
    if hangs {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let output = Output {
        status,
        stdout: stdout.join().unwrap(),
        stderr: stderr.join().unwrap(),
    };
    assert!(!hangs, "killed after {:?}: {output:?}", watchdog::LIMIT);
    output
}

/// Runs it with this on its standard input, and takes its last line.
fn finish(command: &mut Command, input: &[u8]) -> Run {
    outcome(output(command, input))
}

fn outcome(output: Output) -> Run {
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let last = stdout.lines().last().unwrap_or_default();
    let json =
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}"));
    Run {
        code: output.status.code().unwrap(),
        json,
        stdout,
        stderr,
    }
}

impl Run {
    #[track_caller]
    fn is(&self, code: i32, outcome: &str, stage: Option<&str>) -> &Self {
        assert_eq!(
            self.json["outcome"], outcome,
            "{} {}",
            self.json, self.stderr
        );
        assert_eq!(self.json["stage"].as_str(), stage, "{}", self.json);
        assert_eq!(self.code, code, "{}", self.json);
        assert_eq!(
            self.json["error"].is_null(),
            outcome == "success",
            "{}",
            self.json
        );
        self
    }

    /// Of a bulk delivery: how many messages there were, and how many of them were delivered.
    #[track_caller]
    fn is_summary(&self, messages: u64, delivered: u64) {
        let counts = (&self.json["messages"], &self.json["delivered"]);
        assert_eq!(
            counts,
            (&messages.into(), &delivered.into()),
            "{} {}",
            self.json,
            self.stderr
        );
    }

    /// All lines of a bulk delivery: one for each message, and the summary.
    fn lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Of a bulk delivery: how many messages came to each end, and that this is all of them. What is not named
    /// is none.
    #[track_caller]
    fn counts(&self, expected: &[(&str, u64)]) -> &Self {
        let words = [
            "delivered",
            "partly_delivered",
            "refused",
            "deferred",
            "in_doubt",
            "not_attempted",
        ];
        for word in words {
            let count = expected.iter().find(|(name, _)| *name == word);
            let count = count.map_or(0, |(_, count)| *count);
            assert_eq!(self.json[word], count, "{word}: {}", self.json);
        }
        let all: u64 = expected.iter().map(|(_, count)| count).sum();
        assert_eq!(self.json["messages"], all, "{}", self.json);
        let lines = self.lines();
        let numbers: Vec<_> = lines.iter().map(|line| &line["message"]).collect();
        let (_, numbers) = numbers.split_last().unwrap();
        assert!(
            (1..=all)
                .map(Value::from)
                .eq(numbers.iter().copied().cloned()),
            "{}",
            self.stdout
        );
        self
    }

    /// What became of the recipients, in this respect.
    fn recipients(&self, key: &str) -> Vec<Value> {
        let recipients = self.json["recipients"].as_array().unwrap();
        recipients
            .iter()
            .map(|recipient| recipient[key].clone())
            .collect()
    }

    /// What it says in words.
    #[track_caller]
    fn says(&self, words: &str) -> &Self {
        assert!(
            self.json["error"]
                .as_str()
                .is_some_and(|error| error.contains(words)),
            "{}",
            self.json
        );
        self
    }

    /// Where this line stands in the conversation.
    #[track_caller]
    fn line(&self, line: &str) -> usize {
        let found = self.stdout.lines().position(|l| l == line);
        found.unwrap_or_else(|| panic!("{line}: {} {}", self.stdout, self.stderr))
    }

    #[track_caller]
    fn maybe_delivered(&self, yes: bool) -> &Self {
        assert_eq!(self.json["maybe_delivered"], yes, "{}", self.json);
        self
    }
}

fn receiver(options: Options) -> (Receiver, String) {
    let receiver = Receiver::start(options).unwrap();
    let address = receiver.local_addr().to_string();
    (receiver, address)
}

/// A server for one connection, played by `script`.
fn server(script: impl FnOnce(Peer) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        script(Peer(BufReader::new(stream)));
    });
    address
}

/// What a server does with one connection.
type Script = Box<dyn FnOnce(Peer) + Send>;

/// A server for as many connections, one after another.
fn servers(scripts: Vec<Script>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for script in scripts {
            let (stream, _) = listener.accept().unwrap();
            script(Peer(BufReader::new(stream)));
        }
    });
    address
}

struct Peer(BufReader<TcpStream>);

impl Peer {
    fn say(&mut self, octets: &str) {
        let _ = self.0.get_mut().write_all(octets.as_bytes());
    }

    /// Reads lines up to one that starts with `end`.
    fn hear(&mut self, end: &str) {
        let mut line = String::new();
        while !line.starts_with(end) {
            line.clear();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
    }

    fn hear_the_end(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }

    /// Greeting and EHLO, with these extensions.
    fn open(&mut self, extensions: &[&str]) {
        self.say("220 fake\r\n");
        self.hear("EHLO");
        for extension in extensions {
            self.say(&format!("250-{extension}\r\n"));
        }
        self.say("250 HELP\r\n");
    }

    /// Up to the end of the data of a message to one recipient.
    fn take_message(&mut self) {
        self.open(&["fake", "PIPELINING"]);
        self.hear("DATA");
        self.say("250 ok\r\n250 ok\r\n354 go\r\n");
        self.hear(".\r\n");
    }
}

fn without_arguments_it_shows_a_conversation(adapter: Adapter) {
    let output = output(&mut send(adapter), b"");
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    for line in [
        "< 220 ",
        "> STARTTLS",
        "> MAIL FROM:<alice@example.org>",
        "> BDAT ",
        "> QUIT",
        "taken: 362 octets for bob@example.net",
    ] {
        assert!(
            stdout.lines().any(|l| l.starts_with(line)),
            "{line}: {stdout}"
        );
    }
}

fn success_is_delivered_byte_for_byte(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let run = run(
        adapter,
        "success",
        Some(address),
        &["bob@example.net", "carol@example.net"],
        &[],
    );
    run.is(0, "success", None).maybe_delivered(false);
    assert_eq!(run.json["tls"]["verified"], false);
    // Greeting, EHLO, STARTTLS, EHLO, envelope, body.
    assert_eq!(run.json["round_trips"], 6);
    assert_eq!(run.json["recipients"][1]["address"], "carol@example.net");
    assert_eq!(run.json["recipients"][1]["code"], 250);
    let stored = receiver.wait_for_messages(1, Duration::from_secs(5));
    assert_eq!(stored[0].content(), MESSAGE);
    assert_eq!(
        stored[0].forward_paths,
        ["bob@example.net", "carol@example.net"]
    );
}

fn each_recipient_has_its_own_result(adapter: Adapter) {
    let to = [
        "bob@example.net",
        "refused@example.net",
        "greylisted@example.net",
    ];
    let run = run(adapter, "partial", None, &to, &["--tls", "none"]);
    run.is(75, "partial", Some("rcpt"));
    let recipient = |index: usize, key: &str| run.json["recipients"][index][key].clone();
    assert_eq!(recipient(0, "outcome"), "success");
    assert_eq!(
        [
            recipient(1, "outcome"),
            recipient(1, "stage"),
            recipient(1, "enhanced")
        ],
        ["permanent", "rcpt", "5.1.1"]
    );
    assert_eq!(
        (recipient(1, "code"), recipient(2, "code")),
        (550.into(), 450.into())
    );
    assert_eq!(recipient(2, "outcome"), "temporary");
    // The exit code is that of the words.
    run.says("2 of 3 recipients failed")
        .says("said 450 ")
        .says("(temporary, try again later)");
}

fn only_permanent_refusals_give_69(adapter: Adapter) {
    run(
        adapter,
        "perm",
        None,
        &["bob@example.net", "refused@example.net"],
        &[],
    )
    .is(69, "partial", Some("rcpt"));
    run(adapter, "all", None, &["refused@example.net"], &[]).is(69, "permanent", Some("rcpt"));
    run(adapter, "grey", None, &["greylisted@example.net"], &[]).is(75, "temporary", Some("rcpt"));
}

fn usage_and_bad_input(adapter: Adapter) {
    for arguments in [
        &["--nonsense"][..],
        &["--from", "a@b"],
        &[
            "--from",
            "a@b",
            "--to",
            "c@d",
            "--data",
            "x",
            "--auth-user",
            "u",
        ],
        &[
            "--from",
            "a@b",
            "--to",
            "c@d",
            "--data",
            "x",
            "--auth-mechanism",
            "XOAUTH2",
        ],
        &[
            "--from",
            "a@b",
            "--to",
            "c@d",
            "--data",
            "x",
            "--auth-authzid",
            "u",
        ],
        &[
            "--from",
            "a@b",
            "--to",
            "c@d",
            "--data",
            "x",
            "--timeout-reply",
            "0",
        ],
        &[
            "--from", "a@b", "--to", "c@d", "--data", "x", "--helo", "a b",
        ],
    ] {
        let output = output(send(adapter).args(arguments), b"");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
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
    // A server that is not verified is not given the password, unless that is said by name.
    unknown(&["s3cret"]).is(77, "refused", Some("starttls"));
    let plain = [
        "s3cret",
        "--tls",
        "opportunistic",
        "--auth-mechanism",
        "PLAIN",
    ];
    unknown(&plain).is(77, "refused", Some("auth"));
    // What is bound to this TLS connection is of no use to somebody in between.
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
    // The file comes before the environment, and without either there is no login.
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

/// A server whose TLS is broken, as some mail exchangers have it.
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

/// Whoever reads JSON gets some, whatever is wrong with the command line.
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

fn json_alone_forwards_the_sample(adapter: Adapter) {
    let run = finish(send(adapter).arg("--json"), b"");
    run.is(0, "success", None);
    assert!(!run.stdout.contains("MAIL FROM"), "{}", run.stdout);
}

fn json_with_a_value_alone_is_a_bad_option(adapter: Adapter) {
    let run = finish(send(adapter).arg("--json=true"), b"");
    run.is(64, "refused", Some("local"));
    run.says("unexpected value 'true' for '--json'");
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

fn lmtp(adapter: Adapter) {
    let to = [
        "bob@example.net",
        "refused@example.net",
        "carol@example.net",
    ];
    run(adapter, "lmtp", None, &to, &["--lmtp"]).is(69, "partial", Some("rcpt"));
    run(
        adapter,
        "lmtp25",
        Some("127.0.0.1:25".into()),
        &to,
        &["--lmtp"],
    )
    .is(65, "refused", Some("local"));
}

fn a_reader_that_goes_away_is_no_panic(adapter: Adapter) {
    let file = message_file("pipe", MESSAGE);
    let mut child = send(adapter)
        .args([
            "--from",
            "a@b",
            "--to",
            "bob@b",
            "--transcript",
            "--json",
            "--data",
        ])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = wait(child);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && !stderr.contains("panicked"),
        "{stderr}"
    );
    let _ = std::fs::remove_file(file);
}

fn standard_input_is_the_message(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let mut command = send(adapter);
    command.args([
        "--server", &address, "--from", "<>", "--to", "bob@b", "--quiet", "--data", "-",
    ]);
    let output = output(&mut command, "Subject: ü\n\nunix\n".as_bytes());
    assert!(output.status.success() && output.stdout.is_empty());
    let stored = receiver.wait_for_messages(1, Duration::from_secs(5));
    assert_eq!(stored[0].content(), "Subject: ü\r\n\r\nunix\r\n".as_bytes());
    assert_eq!(stored[0].reverse_path, "");
}

/// A FIFO, and what is written into it.
fn fifo(name: &str, content: &'static [u8]) -> PathBuf {
    let path = message_file(name, b"");
    std::fs::remove_file(&path).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    let writer = path.clone();
    // It waits for a reader, and one that does not come is no failure.
    thread::spawn(move || std::fs::write(writer, content));
    path
}

fn a_pipe_is_read_once(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let with = |data: &[&Path], flags: &[&str]| send_data(adapter, data, &address, &ONE, flags);
    let pipe = fifo("pipe", MESSAGE);
    finish(&mut with(&[&pipe], &[]), b"").is(0, "success", None);
    finish(&mut with(&[Path::new("/dev/stdin")], &[]), MESSAGE).is(0, "success", None);
    // Its size is known when it has been read.
    let stored = receiver.wait_for_messages(2, Duration::from_secs(5));
    for stored in &stored {
        assert_eq!(stored.content(), MESSAGE);
        assert!(!stored.mail_parameters.contains("SIZE"), "{stored:?}");
    }
    // Others may stand beside it.
    let (one, two) = (fifo("one", MESSAGE), fifo("two", MESSAGE));
    finish(&mut with(&[&one, Path::new("-"), &two], &[]), MESSAGE).is_summary(3, 3);
    // There is no second time. Where nobody writes, that is not waited for.
    let refuses = |mut command: Command, words: &str| {
        let run = finish(&mut command, MESSAGE);
        assert_eq!(
            (run.code, &run.json["outcome"]),
            (65, &"refused".into()),
            "{}",
            run.json
        );
        assert_eq!(run.lines()[0]["stage"], "local");
        assert!(run.stderr.contains(words), "{}", run.stderr);
    };
    let words = "can be read only once, and --repeat would read it again";
    refuses(with(&[&pipe], &["--repeat", "2"]), words);
    refuses(with(&[Path::new("-")], &["--repeat", "2"]), words);
    let _ = std::fs::remove_file(pipe);
    let (pipe, stdin) = (fifo("twice", MESSAGE), Path::new("-"));
    for data in [
        [&*pipe, &*pipe],
        [stdin, stdin],
        [stdin, Path::new("/dev/stdin")],
    ] {
        refuses(
            with(&data, &[]),
            "can be read only once, and --data names it twice",
        );
    }
    finish(&mut with(&[&std::env::temp_dir()], &[]), b"")
        .is(65, "refused", Some("local"))
        .says("is a directory");
    assert_eq!(receiver.messages().len(), 5);
    // A server's limit would split the recipients.
    let limits = Some(Limits {
        rcpt_max: 1,
        mail_max: 10,
    });
    let (receiver, address) = self::receiver(Options {
        limits,
        ..Options::default()
    });
    let split = fifo("split", MESSAGE);
    let to = ["bob@example.net", "carol@example.net", "dave@example.net"];
    let run = finish(&mut send_data(adapter, &[&split], &address, &to, &[]), b"");
    run.is(77, "refused", Some("mail")).says("RCPTMAX");
    assert!(receiver.messages().is_empty());
    for path in [one, two, pipe, split] {
        let _ = std::fs::remove_file(path);
    }
}

/// Between RCPT and the body.
fn a_file_that_changes_is_an_error(adapter: Adapter) {
    let shrink = |path: &Path| std::fs::write(path, &MESSAGE[..MESSAGE.len() - 5]).unwrap();
    let grow = |path: &Path| std::fs::write(path, [MESSAGE, MESSAGE].concat()).unwrap();
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        std::fs::write(&other, MESSAGE.to_ascii_uppercase()).unwrap();
        std::fs::rename(other, path).unwrap();
    };
    for chunking in [true, false] {
        for change in [shrink as fn(&Path), grow, replace] {
            let file = message_file("changes", MESSAGE);
            let (path, (sent, rest)) = (file.clone(), mpsc::channel());
            let address = server(move |mut peer| {
                peer.open(&[
                    "fake",
                    "PIPELINING",
                    if chunking { "CHUNKING" } else { "HELP" },
                ]);
                peer.hear(if chunking { "RCPT" } else { "DATA" });
                change(&path);
                peer.say("250 ok\r\n250 ok\r\n");
                peer.say(if chunking { "" } else { "354 go\r\n" });
                let mut octets = Vec::new();
                let _ = peer.0.read_to_end(&mut octets);
                sent.send(octets).unwrap();
            });
            let run = finish(&mut send_data(adapter, &[&file], &address, &ONE, &[]), b"");
            run.is(65, "refused", Some("body"))
                .maybe_delivered(false)
                .says("has changed");
            // Between chunks the session goes on, and here to its end.
            let said = if chunking { &b"QUIT\r\n"[..] } else { b"" };
            assert_eq!(rest.recv_timeout(watchdog::LIMIT).unwrap(), said);
            let _ = std::fs::remove_file(file);
        }
    }
    // It shrinks when a part of it is on its way already: it is open, and its chunk stays incomplete.
    let file = message_file("shrinks", &b"x\r\n".repeat(8 << 20));
    let (path, (sent, rest)) = (file.clone(), mpsc::channel());
    let address = server(move |mut peer| {
        peer.open(&["fake", "PIPELINING", "CHUNKING"]);
        peer.hear("RCPT");
        peer.say("250 ok\r\n250 ok\r\n");
        peer.hear("BDAT");
        std::fs::write(&path, MESSAGE).unwrap();
        let mut octets = Vec::new();
        let _ = peer.0.read_to_end(&mut octets);
        sent.send(octets.len()).unwrap();
    });
    let run = finish(&mut send_data(adapter, &[&file], &address, &ONE, &[]), b"");
    run.is(65, "refused", Some("body")).maybe_delivered(false);
    assert!(rest.recv_timeout(watchdog::LIMIT).unwrap() < 3 * (8 << 20));
    let _ = std::fs::remove_file(file);
}

fn a_file_that_vanishes_is_bad_input(adapter: Adapter) {
    let files = ["1", "2", "3"].map(|name| message_file(name, MESSAGE));
    let second = files[1].clone();
    let address = servers(vec![
        Box::new(|mut peer| {
            peer.take_message();
            std::fs::remove_file(second).unwrap();
            peer.say("250 ok\r\n");
            peer.hear("DATA");
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
            peer.hear_the_end();
        }),
        // DATA was answered, so that only another session can have the third.
        Box::new(|mut peer| {
            peer.take_message();
            peer.say("250 ok\r\n");
            peer.hear_the_end();
        }),
    ]);
    let run = finish(&mut send_data(adapter, &files, &address, &ONE, &[]), b"");
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (69, &"partial".into()),
        "{}",
        run.json
    );
    run.is_summary(3, 2);
    let lines = run.lines();
    assert_eq!(
        [0, 1, 2].map(|n| &lines[n]["outcome"]),
        ["success", "refused", "success"]
    );
    assert_eq!(lines[1]["stage"], "body");
    assert!(
        lines[1]["error"]
            .as_str()
            .unwrap()
            .ends_with("(permanent, do not send again unchanged)")
    );
    for file in files {
        let _ = std::fs::remove_file(file);
    }
}

fn a_file_that_cannot_be_read_is_temporary(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    // Standard input is open for writing alone.
    let file = message_file("unread", MESSAGE);
    let mut command = send_data(adapter, &["-"], &address, &ONE, &[]);
    command.stdin(std::fs::OpenOptions::new().write(true).open(&file).unwrap());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    outcome(wait(child))
        .is(75, "temporary", Some("body"))
        .maybe_delivered(false)
        .says("(temporary");
    // Nothing lies at the beginning of a process's memory.
    #[cfg(target_os = "linux")]
    finish(
        &mut send_data(adapter, &["/proc/self/mem"], &address, &ONE, &[]),
        b"",
    )
    .is(75, "temporary", Some("local"))
    .says("cannot be read");
    assert!(receiver.messages().is_empty());
    let _ = std::fs::remove_file(file);
}

const ONE: [&str; 1] = ["bob@example.net"];

fn nobody_listens(adapter: Adapter) {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    run(adapter, "nobody", Some(address), &ONE, &[]).is(75, "temporary", Some("connect"));
}

fn a_reply_injected_behind_starttls(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "STARTTLS"]);
        peer.hear("STARTTLS");
        peer.say("220 go\r\n250 injected\r\n");
        peer.hear_the_end();
    });
    run(adapter, "inject", Some(address), &ONE, &[])
        .is(76, "protocol", Some("starttls"))
        .maybe_delivered(false);
}

fn a_reply_that_never_ends(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.say("220 fake\r\n");
        peer.hear("EHLO");
        while peer.0.get_mut().write_all(b"250-and so on\r\n").is_ok() {}
    });
    run(adapter, "endless", Some(address), &ONE, &[]).is(76, "protocol", Some("ehlo"));
    let address = server(|mut peer| while peer.0.get_mut().write_all(b"220 x").is_ok() {});
    run(adapter, "long", Some(address), &ONE, &[]).is(76, "protocol", Some("greeting"));
}

fn a_reply_that_drips(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        while peer.0.get_mut().write_all(b"2").is_ok() {
            thread::sleep(Duration::from_millis(500));
        }
    });
    // Without an end it would drip for ever, and each octet would move the deadline.
    let run = run(
        adapter,
        "drip",
        Some(address),
        &ONE,
        &["--timeout-reply", "1.2"],
    );
    run.is(75, "temporary", Some("mail"))
        .says("timed out after 1.2 s");
}

fn a_loss_after_the_final_dot_is_in_doubt(adapter: Adapter) {
    let address = server(|mut peer| peer.take_message());
    run(adapter, "doubt", Some(address), &ONE, &[])
        .is(75, "temporary", Some("eom"))
        .maybe_delivered(true);
    let address = server(|mut peer| {
        peer.take_message();
        thread::sleep(Duration::from_secs(2));
    });
    run(
        adapter,
        "slow",
        Some(address),
        &ONE,
        &["--timeout-reply", "0.5"],
    )
    .is(75, "temporary", Some("eom"))
    .maybe_delivered(true);
    let address = server(|mut peer| {
        peer.take_message();
        peer.say("what?\r\n");
        peer.hear_the_end();
    });
    run(adapter, "garbage", Some(address), &ONE, &[])
        .is(76, "protocol", Some("eom"))
        .maybe_delivered(true);
}

fn data_accepted_after_everybody_was_refused(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n550 5.1.1 no\r\n354 go\r\n");
        peer.hear(".\r\n");
        peer.say("250 delivered to nobody\r\n");
        peer.hear("QUIT");
    });
    let run = run(adapter, "useless", Some(address), &ONE, &[]);
    run.is(69, "permanent", Some("rcpt")).maybe_delivered(false);
    assert_eq!(run.json["recipients"][0]["code"], 550);
}

fn a_421_at_any_time_is_temporary(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake"]);
        peer.hear("MAIL");
        peer.say("421 4.3.2 going down\r\n");
    });
    run(adapter, "421", Some(address), &ONE, &[]).is(75, "temporary", Some("mail"));
    let address = server(|mut peer| peer.say("554 5.7.1 not you\r\n"));
    let run = run(adapter, "554", Some(address), &ONE, &[]);
    run.is(75, "temporary", Some("greeting"));
    run.says("554 5.7.1 not you (not the message's fault, try again later)");
}

/// What to do is said in the words of the options, and what the server said is left as it is.
fn what_to_set_is_an_option(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "CHUNKING"]);
        for command in ["MAIL", "RCPT"] {
            peer.hear(command);
            peer.say("250 ok\r\n");
        }
        // To the last line of the message, so that all of the chunk is written.
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

fn a_silent_server_times_out(adapter: Adapter) {
    let address = server(|mut peer| peer.hear_the_end());
    run(
        adapter,
        "silent",
        Some(address),
        &ONE,
        &["--timeout-reply", "0.3"],
    )
    .is(75, "temporary", Some("greeting"));
}

fn a_server_that_stops_reading_times_out(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        // It reads nothing, and keeps the connection: without a deadline nobody would ever go on.
        loop {
            thread::park();
        }
    });
    let message = b"x\r\n".repeat(8 << 20);
    let run = run_with(
        adapter,
        &message,
        "stuck",
        Some(address),
        &ONE,
        &["--timeout-data", "0.5"],
    );
    run.is(75, "temporary", Some("body")).maybe_delivered(false);
}

fn a_refusal_in_the_middle_of_the_body_is_what_is_reported(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        peer.hear("x");
        peer.say("552 5.3.4 too large\r\n");
    });
    let message = b"x\r\n".repeat(8 << 20);
    let run = run_with(adapter, &message, "early", Some(address), &ONE, &[]);
    run.is(69, "permanent", Some("body")).maybe_delivered(false);
    assert_eq!(run.json["recipients"][0]["code"], 552);
}

fn bulk_prints_a_line_for_each_message_and_a_summary(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let (one, two) = (
        message_file("one", b"Subject: 1\r\n\r\n"),
        message_file("two", b"Subject: 2\r\n\r\n"),
    );
    let mut command = send(adapter);
    command.args([
        "--server",
        &address,
        "--tls",
        "none",
        "--from",
        "a@b",
        "--to",
        "bob@b",
        "--to",
        "refused@b",
    ]);
    command
        .args(["--json", "--overlap", "--repeat", "3", "--data"])
        .arg(&one)
        .arg("--data")
        .arg(&two);
    let run = finish(&mut command, b"");
    assert_eq!(run.code, 69);
    let lines = run.lines();
    let (summary, messages) = lines.split_last().unwrap();
    assert_eq!(messages.len(), 6);
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(
            (&message["message"], &message["outcome"]),
            (&(index + 1).into(), &"partial".into())
        );
        assert_eq!(message["recipients"][1]["code"], 550);
    }
    assert_eq!(
        (&summary["messages"], &summary["outcome"]),
        (&6.into(), &"partial".into()),
        "{summary}"
    );
    // Greeting, EHLO, the first envelope, and one for each message.
    assert_eq!(
        (&summary["round_trips"], &summary["overlap_broken"]),
        (&9.into(), &false.into()),
        "{summary}"
    );
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
    let stored = receiver.wait_for_messages(6, Duration::from_secs(5));
    let subjects: Vec<_> = stored.iter().map(|stored| stored.content()[9]).collect();
    assert_eq!(subjects, *b"121212");
    let _ = (std::fs::remove_file(one), std::fs::remove_file(two));
}

fn chunks_where_the_flag_wants_them(adapter: Adapter) {
    let with = |chunking: bool, flag: &str| {
        let (receiver, address) = receiver(Options {
            chunking,
            ..Options::default()
        });
        let flags = ["--chunking", flag, "--transcript", "--tls", "none"];
        let run = run(adapter, "chunking", Some(address), &ONE, &flags);
        let stored = receiver.messages();
        for stored in &stored {
            assert_eq!(stored.content(), MESSAGE);
        }
        (run, stored.len())
    };
    let octets = MESSAGE.len();
    for (chunking, flag, bdat) in [
        (true, "auto", true),
        (true, "never", false),
        (true, "always", true),
        (true, "eager", true),
        (false, "auto", false),
        (false, "never", false),
        (false, "eager", false),
    ] {
        let (run, stored) = with(chunking, flag);
        run.is(0, "success", None);
        assert_eq!(stored, 1);
        match bdat {
            true => {
                let chunk = run.line(&format!("> BDAT {octets} LAST"));
                assert_eq!(
                    run.line(&format!("> ({octets} octets of message)")),
                    chunk + 1
                );
                assert!(flag == "eager" || run.line("< 250 2.1.5 Ok") < chunk);
            }
            false => {
                assert!(
                    run.line("> DATA")
                        < run.line(&format!("> ({octets} octets of message, and the dot)"))
                );
            }
        }
    }
    let (run, stored) = with(false, "always");
    run.is(77, "refused", Some("mail"));
    assert_eq!(stored, 0);
    // An eager chunk waits for no reply.
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING", "CHUNKING"]);
        peer.hear("..dots");
        peer.say("250 ok\r\n250 ok\r\n250 2.0.0 taken\r\n");
        peer.hear_the_end();
    });
    let run = self::run(
        adapter,
        "eager",
        Some(address),
        &ONE,
        &["--chunking", "eager", "--timeout-reply", "5"],
    );
    run.is(0, "success", None);
    assert_eq!(run.json["round_trips"], 3);
}

/// With the message on standard input.
fn run_piped(adapter: Adapter, message: &[u8], server: &str, to: &[&str], flags: &[&str]) -> Run {
    finish(&mut send_data(adapter, &["-"], server, to, flags), message)
}

/// Sends these to a server without TLS.
fn send_data<D: AsRef<Path>>(
    adapter: Adapter,
    data: &[D],
    server: &str,
    to: &[&str],
    flags: &[&str],
) -> Command {
    let mut command = send(adapter);
    command
        .args([
            "--server", server, "--tls", "none", "--from", "a@b", "--json",
        ])
        .args(flags);
    for to in to {
        command.args(["--to", to]);
    }
    for data in data {
        command.arg("--data").arg(data.as_ref());
    }
    command
}

fn standard_input_goes_out_in_chunks(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let message = b"Subject: long\r\n\r\n.\r\n".repeat(8_000);
    let run = run_piped(adapter, &message, &address, &ONE, &["--transcript"]);
    run.is(0, "success", None);
    let chunks: Vec<_> = run
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("> BDAT "))
        .collect();
    assert_eq!(chunks, ["65536", "65536", "28928 LAST"]);
    let stored = receiver.wait_for_messages(1, Duration::from_secs(5));
    assert_eq!(stored[0].content(), message);
}

fn reports_are_asked_for(adapter: Adapter) {
    let to = ["bob@example.net", "carol@example.net"];
    let flags = [
        "--dsn-ret",
        "hdrs",
        "--dsn-envid",
        "QQ 3+4",
        "--dsn-notify",
        "success,failure",
        "--transcript",
    ];
    let with = |dsn| {
        let (receiver, address) = receiver(Options {
            dsn,
            ..Options::default()
        });
        let run = run(adapter, "dsn", Some(address), &to, &flags);
        run.is(0, "success", None);
        (
            run,
            receiver
                .wait_for_messages(1, Duration::from_secs(5))
                .remove(0),
        )
    };
    let (run, stored) = with(true);
    let parameters = format!("SIZE={} RET=HDRS ENVID=QQ+203+2B4", MESSAGE.len());
    run.line(&format!("> MAIL FROM:<alice@example.org> {parameters}"));
    run.line("> RCPT TO:<bob@example.net> NOTIFY=SUCCESS,FAILURE");
    run.line("> RCPT TO:<carol@example.net> NOTIFY=SUCCESS,FAILURE");
    assert_eq!(stored.mail_parameters, parameters);
    assert_eq!(stored.rcpt_parameters, ["NOTIFY=SUCCESS,FAILURE"; 2]);
    // What is not offered is left out, and the message goes all the same.
    let (run, stored) = with(false);
    run.line("> RCPT TO:<bob@example.net>");
    assert_eq!(stored.mail_parameters, format!("SIZE={}", MESSAGE.len()));
    assert_eq!(stored.rcpt_parameters, ["", ""]);
    for (flags, mail, rcpt) in [
        (["--dsn-ret", "full"], " RET=FULL", ""),
        (["--dsn-notify", "NEVER"], "", "NOTIFY=NEVER"),
    ] {
        let (receiver, address) = receiver(Options::default());
        self::run(adapter, "dsn", Some(address), &ONE, &flags).is(0, "success", None);
        let stored = &receiver.messages()[0];
        assert_eq!(
            stored.mail_parameters,
            format!("SIZE={}{mail}", MESSAGE.len())
        );
        assert_eq!(stored.rcpt_parameters, [rcpt]);
    }
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
    // Encrypted, and nobody's identity checked; and in the clear.
    with(&address, &[]).is(77, "refused", Some("mail"));
    with(&address, &["--tls", "none"]).is(77, "refused", Some("mail"));
    assert_eq!(receiver.messages().len(), 1);
    // The server of the program's own offers it, and is known.
    run(adapter, "requiretls", None, &ONE, &["--require-tls"]).is(0, "success", None);
    let (other, address) = self::receiver(Options::default());
    std::fs::write(&pem, other.certificate_pem()).unwrap();
    with(&address, &trust).is(77, "refused", Some("mail"));
    assert!(other.messages().is_empty());
    let _ = std::fs::remove_file(pem);
}

fn smtputf8(adapter: Adapter) {
    let with = |smtputf8, to: &str, flags: &[&str]| {
        let (receiver, address) = receiver(Options {
            smtputf8,
            ..Options::default()
        });
        let run = run(adapter, "utf8", Some(address), &[to], flags);
        (run, receiver.messages())
    };
    let (run, stored) = with(true, ONE[0], &["--smtputf8"]);
    run.is(0, "success", None);
    assert!(
        stored[0].mail_parameters.ends_with(" SMTPUTF8"),
        "{stored:?}"
    );
    let (run, stored) = with(true, "h\u{e4}ns@example.net", &[]);
    run.is(0, "success", None);
    assert!(
        stored[0].mail_parameters.ends_with(" SMTPUTF8"),
        "{stored:?}"
    );
    for (to, flags) in [
        (ONE[0], &["--smtputf8"][..]),
        ("h\u{e4}ns@example.net", &[]),
    ] {
        with(false, to, flags).0.is(77, "refused", Some("mail"));
    }
}

fn raw_parameters(adapter: Adapter) {
    // Of an extension that nobody knows.
    let flags = [
        "--tls",
        "none",
        "--transcript",
        "--param",
        "X-ONE",
        "--param",
        "X-TWO=a;b",
    ];
    let flags = [&flags[..], &["--rcpt-param", "X-TWO=c"]].concat();
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING", "X-ONE", "X-TWO"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        peer.hear(".\r\n");
        peer.say("250 ok\r\n");
        peer.hear_the_end();
    });
    let run = run(adapter, "raw", Some(address), &ONE, &flags);
    run.is(0, "success", None);
    run.line("> MAIL FROM:<alice@example.org> X-ONE X-TWO=a;b");
    run.line("> RCPT TO:<bob@example.net> X-TWO=c");
    // What is asked for by name is not left out silently.
    for flags in [
        ["--param", "X-ONE"],
        ["--rcpt-param", "X-ONE=1"],
        ["--param", "MT-PRIORITY=3"],
    ] {
        let run = self::run(adapter, "raw", None, &ONE, &flags);
        run.is(77, "refused", Some("mail"));
    }
    for flags in [["--param", "ret=full"], ["--rcpt-param", "NOTIFY=NEVER"]] {
        for (dsn, code) in [(true, 0), (false, 77)] {
            let (_receiver, address) = receiver(Options {
                dsn,
                ..Options::default()
            });
            assert_eq!(
                self::run(adapter, "raw", Some(address), &ONE, &flags).code,
                code,
                "{flags:?}"
            );
        }
    }
    // One recipient's own filter refuses after the data.
    let (receiver, address) = receiver(Options {
        prdr: true,
        ..Options::default()
    });
    let to = ["bob@example.net", "filtered@example.net"];
    let run = self::run(adapter, "prdr", Some(address), &to, &["--param", "PRDR"]);
    run.is(69, "partial", Some("eom"));
    assert_eq!(run.json["recipients"][1]["code"], 550);
    assert_eq!(receiver.messages()[0].forward_paths, ["bob@example.net"]);
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

fn all_or_nothing(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let with = |to: &[&str]| {
        run(
            adapter,
            "all",
            Some(address.clone()),
            to,
            &["--all-or-nothing"],
        )
    };
    let refused = with(&["bob@example.net", "refused@example.net"]);
    refused.is(69, "permanent", Some("rcpt"));
    let outcomes = [0, 1].map(|index| refused.json["recipients"][index]["outcome"].clone());
    assert_eq!(outcomes, ["refused", "permanent"]);
    assert!(
        refused.json["error"]
            .as_str()
            .unwrap()
            .contains("no such user here"),
        "{}",
        refused.json
    );
    with(&["greylisted@example.net", "bob@example.net"]).is(75, "temporary", Some("rcpt"));
    assert!(receiver.messages().is_empty());
    let both = ["bob@example.net", "carol@example.net"];
    with(&both).is(0, "success", None);
    assert_eq!(receiver.messages().len(), 1);
    // Nor can they be split then.
    let limits = Some(Limits {
        rcpt_max: 1,
        mail_max: 10,
    });
    let (receiver, address) = self::receiver(Options {
        limits,
        ..Options::default()
    });
    run(adapter, "all", Some(address), &both, &["--all-or-nothing"]).is(
        77,
        "refused",
        Some("mail"),
    );
    assert!(receiver.messages().is_empty());
}

fn unix_sockets(adapter: Adapter) {
    let listen = |lmtp| {
        let receiver = Receiver::start(Options {
            lmtp,
            unix: true,
            ..Options::default()
        });
        let receiver = receiver.unwrap();
        let path = receiver.socket_path().unwrap();
        (receiver, path)
    };
    let to = [
        "bob@example.net",
        "filtered@example.net",
        "refused@example.net",
        "carol@example.net",
    ];
    let (receiver, path) = listen(true);
    let socket = path.to_str().unwrap();
    for chunking in ["auto", "never"] {
        let flags = ["--unix", socket, "--lmtp", "--chunking", chunking];
        let run = run(adapter, "unix", None, &to, &flags);
        run.is(69, "partial", Some("eom"));
        let of = |key: &str| [0, 1, 2, 3].map(|index| run.json["recipients"][index][key].clone());
        assert_eq!(
            of("outcome"),
            ["success", "permanent", "permanent", "success"]
        );
        assert_eq!(
            of("stage"),
            [Value::Null, "eom".into(), "rcpt".into(), Value::Null]
        );
        let stored = receiver.messages().pop().unwrap();
        assert_eq!(
            stored.forward_paths,
            ["bob@example.net", "carol@example.net"]
        );
        assert_eq!(stored.content(), MESSAGE);
    }
    assert_eq!(receiver.messages().len(), 2);
    drop(receiver);
    // Nobody is there any more.
    run(adapter, "unix", None, &ONE, &["--unix", socket, "--lmtp"]).is(
        75,
        "temporary",
        Some("connect"),
    );
    // It is LMTP only where that is said.
    let (receiver, path) = listen(false);
    let socket = path.to_str().unwrap();
    let run = run(
        adapter,
        "unix",
        None,
        &ONE,
        &["--unix", socket, "--repeat", "2"],
    );
    run.is_summary(2, 2);
    assert_eq!(receiver.messages().len(), 2);
    let arguments = [
        "--from", "a@b", "--to", "c@d", "--data", "x", "--server", "b", "--unix", socket,
    ];
    assert_eq!(
        output(send(adapter).args(arguments), b"").status.code(),
        Some(64)
    );
}

const MANY: usize = 2_500;

fn many() -> Vec<String> {
    (0..MANY).map(|n| format!("r{n}@example.net")).collect()
}

/// How many recipients each message on this server has, all of them together in the given order.
#[track_caller]
fn transactions(receiver: &Receiver, to: &[&str]) -> Vec<usize> {
    let stored = receiver.messages();
    assert!(stored.iter().all(|stored| stored.content() == MESSAGE));
    let all: Vec<_> = stored
        .iter()
        .flat_map(|stored| &stored.forward_paths)
        .collect();
    assert_eq!(all, to);
    stored
        .iter()
        .map(|stored| stored.forward_paths.len())
        .collect()
}

fn recipients_beyond_a_stated_limit(adapter: Adapter) {
    let limits = Some(Limits {
        rcpt_max: 1_000,
        mail_max: 10,
    });
    let (receiver, address) = receiver(Options {
        limits,
        ..Options::default()
    });
    let to = many();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let run = run(adapter, "split", Some(address), &to, &[]);
    run.is(0, "success", None);
    assert_eq!(run.stdout.lines().count(), 1, "one report");
    let results = run.json["recipients"].as_array().unwrap();
    assert_eq!(results.len(), MANY);
    for (result, to) in results.iter().zip(&to) {
        assert_eq!(
            (&result["address"], &result["code"]),
            (&(*to).into(), &250.into())
        );
    }
    // Each has the reply to its own transaction.
    let text = |index: usize| results[index]["text"].as_str().unwrap();
    assert!(text(999).ends_with("0001") && text(1_000).ends_with("0002"));
    assert!(text(1_999).ends_with("0002") && text(2_000).ends_with("0003"));
    assert_eq!(transactions(&receiver, &to), [1_000, 1_000, 500]);
}

fn recipients_beyond_a_limit_that_is_not_stated(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let to = many();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let run = run(adapter, "limit", Some(address), &to, &[]);
    run.is(75, "partial", Some("rcpt"));
    let results = run.json["recipients"].as_array().unwrap();
    let is = |outcome: &str| {
        results
            .iter()
            .filter(|result| result["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        (is("success"), is("temporary"), results.len()),
        (1_000, 1_500, MANY)
    );
    let late = &results[1_000];
    assert_eq!(
        (&late["code"], &late["enhanced"]),
        (&452.into(), &"4.5.3".into())
    );
    assert_eq!(transactions(&receiver, &to[..1_000]), [1_000]);
}

/// Whoever fills two pipes one after the other waits for the first to be read.
fn pipes_are_opened_in_their_turn(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let message = b"Subject: long\r\n\r\nline\r\n".repeat(10_000);
    let pipes = ["one", "two"].map(|name| {
        let path = message_file(&format!("pipe-{name}"), b"");
        std::fs::remove_file(&path).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        path
    });
    let (writer, content) = (pipes.clone(), message.clone());
    thread::spawn(move || {
        writer
            .iter()
            .for_each(|path| std::fs::write(path, &content).unwrap())
    });
    let mut command = send(adapter);
    command.args([
        "--server", &address, "--tls", "none", "--from", "a@b", "--to", "c@d", "--json",
    ]);
    for path in &pipes {
        command.arg("--data").arg(path);
    }
    finish(&mut command, b"").is_summary(2, 2);
    assert_eq!(
        [receiver.stored(0), receiver.stored(1)],
        [message.clone(), message]
    );
    pipes
        .iter()
        .for_each(|path| std::fs::remove_file(path).unwrap());
}

fn standard_input_is_not_split(adapter: Adapter) {
    let limits = Some(Limits {
        rcpt_max: 1,
        mail_max: 10,
    });
    let (receiver, address) = receiver(Options {
        limits,
        ..Options::default()
    });
    let run = run_piped(
        adapter,
        MESSAGE,
        &address,
        &["bob@example.net", "carol@example.net"],
        &[],
    );
    run.is(77, "refused", Some("mail"));
    let error = run.json["error"].as_str().unwrap();
    assert!(error.contains("RCPTMAX"), "{error}");
    assert!(receiver.messages().is_empty());
}

fn messages_beyond_a_stated_limit(adapter: Adapter) {
    let limits = Some(Limits {
        rcpt_max: 10,
        mail_max: 2,
    });
    let (receiver, address) = receiver(Options {
        limits,
        ..Options::default()
    });
    let run = run(adapter, "mailmax", Some(address), &ONE, &["--repeat", "3"]);
    assert_eq!((run.code, &run.json["outcome"]), (75, &"partial".into()));
    run.is_summary(3, 2);
    assert_eq!(receiver.messages().len(), 2);
}

fn a_summary_says_no_more_than_holds_for_all(adapter: Adapter) {
    // Permanent and temporary.
    for to in [["refused@b", "greylisted@b"], ["greylisted@b", "refused@b"]] {
        let run = run(adapter, "mixed", None, &to, &["--tls", "none"]);
        run.is(75, "temporary", Some("rcpt"))
            .says("said 450 ")
            .says("(temporary, try again later)");
    }
    // Permanent and not attempted: another session may have the second domain.
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING", "LIMITS RCPTDOMAINMAX=1"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n550 5.1.1 no\r\n554 nobody\r\n");
        peer.hear_the_end();
    });
    let run = self::run(
        adapter,
        "domains",
        Some(address),
        &["bob@one.example", "carol@two.example"],
        &[],
    );
    run.is(75, "temporary", Some("mail"))
        .says("(not attempted, safe to send again)");
    assert_eq!(run.recipients("outcome"), ["permanent", "temporary"]);
    assert_eq!(run.recipients("code"), [550.into(), Value::Null]);
    // Permanent and in doubt.
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n");
        peer.hear(".\r\n");
    });
    let run = self::run(
        adapter,
        "doubt",
        Some(address),
        &["bob@example.net", "carol@example.net"],
        &[],
    );
    run.is(75, "temporary", Some("eom"))
        .maybe_delivered(true)
        .says("(in doubt, ");
    assert_eq!(run.recipients("outcome"), ["permanent", "temporary"]);
}

/// A server that refuses RSET is not given another message, and has said nothing about the rest of them.
fn what_was_not_attempted_has_no_reply(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n550 5.1.1 no\r\n554 nobody\r\n");
        peer.hear("RSET");
        peer.say("502 5.5.1 no RSET\r\n");
        peer.hear_the_end();
    });
    let run = run(adapter, "rset", Some(address), &ONE, &["--repeat", "3"]);
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (75, &"temporary".into()),
        "{}",
        run.json
    );
    run.is_summary(3, 0);
    let lines = run.lines();
    assert_eq!(
        (&lines[0]["outcome"], &lines[0]["recipients"][0]["code"]),
        (&"permanent".into(), &550.into())
    );
    for line in &lines[1..3] {
        assert_eq!(
            (&line["outcome"], &line["stage"]),
            (&"temporary".into(), &"mail".into()),
            "{line}"
        );
        let error = line["error"].as_str().unwrap();
        assert!(
            error.contains("502") && error.ends_with("(not attempted, safe to send again)"),
            "{error}"
        );
        let recipient = &line["recipients"][0];
        assert_eq!(recipient["outcome"], "temporary");
        assert!(
            ["code", "enhanced", "text"]
                .iter()
                .all(|key| recipient[key].is_null()),
            "{line}"
        );
    }
}

/// The server may go on to the end of an eager message, whatever it says of the RSET before it.
fn what_is_in_doubt_has_no_reply_of_another_command(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING", "CHUNKING"]);
        peer.hear("RSET");
        peer.hear("..dots");
        peer.say("250 ok\r\n250 ok\r\n250 taken\r\n502 5.5.1 no RSET\r\n");
    });
    let run = run(
        adapter,
        "eager",
        Some(address),
        &ONE,
        &["--repeat", "2", "--overlap", "--chunking", "eager"],
    );
    assert_eq!(
        (run.code, &run.json["outcome"]),
        (75, &"partial".into()),
        "{}",
        run.json
    );
    let line = &run.lines()[1];
    assert_eq!(
        (&line["outcome"], &line["maybe_delivered"]),
        (&"temporary".into(), &true.into()),
        "{line}"
    );
    assert!(line["recipients"][0]["code"].is_null(), "{line}");
}

/// Runs it for a person, and compares what it says of each message and of all of them with these beginnings.
#[track_caller]
fn says_lines(mut command: Command, code: i32, expected: &[&str]) {
    // `send_data` asks for JSON.
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut human = Command::new(command.get_program());
    human.args(
        arguments
            .into_iter()
            .filter(|argument| argument != "--json"),
    );
    command = human;
    let output = output(&mut command, b"");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stdout}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{stdout}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{expected}: {stdout}");
    }
}

fn one_bad_message_does_not_stop_the_others(adapter: Adapter) {
    let start = || {
        receiver(Options {
            max_size: 1_000,
            ..Options::default()
        })
    };
    let good = [1, 2, 3].map(|n| format!("Subject: {n}\r\n\r\n").into_bytes());
    let files = [0, 1, 2].map(|n| message_file(&format!("good-{n}"), &good[n]));
    let nul = message_file("nul", b"Subject: \0\r\n\r\n");
    let big = message_file("big", &b"Subject: long\r\n".repeat(100));
    let data = [
        Path::new("/does/not/exist"),
        &files[0],
        &nul,
        &big,
        &files[1],
        &std::env::temp_dir(),
        &files[2],
        Path::new("/does/not/exist"),
    ];
    let (receiver, address) = start();
    let run = finish(&mut send_data(adapter, &data, &address, &ONE, &[]), b"");
    run.counts(&[("delivered", 3), ("refused", 5)]);
    assert_eq!((run.code, &run.json["outcome"]), (69, &"partial".into()));
    let lines = run.lines();
    let of = |key: &str| -> Vec<_> { lines[..8].iter().map(|line| line[key].clone()).collect() };
    let (bad, good_one) = ("refused", "success");
    assert_eq!(
        of("outcome"),
        [bad, good_one, bad, bad, good_one, bad, good_one, bad]
    );
    assert_eq!(
        [0, 2, 3, 5, 7].map(|n| of("stage")[n].clone()),
        ["local", "local", "mail", "local", "local"]
    );
    // The server's own books.
    let stored = receiver.wait_for_messages(3, Duration::from_secs(5));
    assert_eq!(stored.len(), 3);
    for (stored, good) in stored.iter().zip(&good) {
        assert_eq!(stored.content(), *good);
    }
    assert!(run.stderr.contains("send: message 1: "), "{}", run.stderr);
    // The same in words.
    let (_receiver, address) = start();
    says_lines(
        send_data(adapter, &data, &address, &ONE, &[]),
        69,
        &[
            "message 1: refused: local: /does/not/exist: ",
            "message 2: delivered: 250 2.0.0 Ok",
            "message 3: refused: local: ",
            "message 4: refused: mail: ",
            "message 5: delivered: 250 2.0.0 Ok",
            "message 6: refused: local: ",
            "message 7: delivered: 250 2.0.0 Ok",
            "message 8: refused: local: /does/not/exist: ",
            "3 of 8 delivered, 5 refused, ",
        ],
    );
    for file in files.iter().chain([&nul, &big]) {
        let _ = std::fs::remove_file(file);
    }
}

fn a_message_that_the_server_refuses_is_one_line(adapter: Adapter) {
    let serve = || {
        server(|mut peer| {
            peer.take_message();
            for reply in ["250 ok", "554 5.6.0 not this one", "451 4.3.0 later"] {
                peer.say(&format!("{reply}\r\n"));
                if !reply.starts_with("250") {
                    peer.hear("RSET");
                    peer.say("250 ok\r\n");
                }
                peer.hear("DATA");
                peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
                peer.hear(".\r\n");
            }
            peer.say("250 ok\r\n");
            peer.hear_the_end();
        })
    };
    let file = message_file("refused", MESSAGE);
    let command = || send_data(adapter, &[&file], &serve(), &ONE, &["--repeat", "4"]);
    let run = finish(&mut command(), b"");
    run.counts(&[("delivered", 2), ("refused", 1), ("deferred", 1)]);
    assert_eq!((run.code, &run.json["outcome"]), (75, &"partial".into()));
    let outcomes: Vec<_> = run.lines()[..4]
        .iter()
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["success", "permanent", "temporary", "success"]);
    says_lines(
        command(),
        75,
        &[
            "message 1: delivered: 250 ok",
            "message 2: refused: eom: server said 554 5.6.0 not this one",
            "message 3: deferred: eom: server said 451 4.3.0 later",
            "message 4: delivered: 250 ok",
            "2 of 4 delivered, 1 refused, 1 deferred, ",
        ],
    );
    let _ = std::fs::remove_file(file);
}

fn what_is_wrong_for_all_has_a_line_for_each(adapter: Adapter) {
    let file = message_file("all", MESSAGE);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let nobody = nobody.unwrap().to_string();
    let bad = Path::new("/does/not/exist");
    for (to, server, flags, outcomes, code) in [
        (&["bob@"][..], "127.0.0.1:1", &[][..], ["refused"; 4], 65),
        (&ONE, "127.0.0.1:1", &["--param", "a b"], ["refused"; 4], 65),
        (&ONE, "127.0.0.1:1", &["--ca-file", "/"], ["refused"; 4], 65),
        (
            &ONE,
            &nobody,
            &[],
            ["temporary", "refused", "temporary", "refused"],
            75,
        ),
    ] {
        let flags = [flags, &["--repeat", "2"]].concat();
        let run = finish(
            &mut send_data(adapter, &[&file, bad], server, to, &flags),
            b"",
        );
        let lines = run.lines();
        assert_eq!(lines.len(), 5, "{}", run.stdout);
        assert!(
            lines[..4]
                .iter()
                .map(|line| &line["outcome"])
                .eq(outcomes.iter()),
            "{}",
            run.stdout
        );
        assert_eq!(run.code, code);
        let refused = outcomes.iter().filter(|outcome| **outcome == "refused");
        let refused = refused.count() as u64;
        run.counts(&[("refused", refused), ("deferred", 4 - refused)]);
    }
    let _ = std::fs::remove_file(file);
}

fn partly_delivered_is_counted_apart(adapter: Adapter) {
    let file = message_file("partly", MESSAGE);
    let to = ["bob@example.net", "refused@example.net", "refused@b"];
    let (_receiver, address) = receiver(Options::default());
    let command = || send_data(adapter, &[&file, &file], &address, &to, &[]);
    let run = finish(&mut command(), b"");
    run.counts(&[("partly_delivered", 2)]);
    assert_eq!((run.code, &run.json["outcome"]), (69, &"partial".into()));
    let line = "partly delivered: bob@example.net: 250 2.0.0 Ok: stored as";
    says_lines(
        command(),
        69,
        &[
            &format!("message 1: {line} 0003; refused@example.net: rcpt: "),
            &format!("message 2: {line} 0004; refused@example.net: rcpt: "),
            "0 of 2 delivered, 2 partly delivered, ",
        ],
    );
    let _ = std::fs::remove_file(file);
}

fn doubt_and_what_comes_after_it_are_counted(adapter: Adapter) {
    let serve = || {
        server(|mut peer| {
            peer.take_message();
            peer.say("250 ok\r\n");
            peer.hear("DATA");
            peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
            peer.hear(".\r\n");
        })
    };
    let file = message_file("doubt", MESSAGE);
    let command = || send_data(adapter, &[&file], &serve(), &ONE, &["--repeat", "4"]);
    let run = finish(&mut command(), b"");
    run.counts(&[("delivered", 1), ("in_doubt", 1), ("not_attempted", 2)]);
    assert_eq!((run.code, &run.json["outcome"]), (75, &"partial".into()));
    let lines = run.lines();
    assert_eq!(
        [0, 1, 2, 3].map(|n| &lines[n]["maybe_delivered"]),
        [false, true, false, false]
    );
    says_lines(
        command(),
        75,
        &[
            "message 1: delivered: 250 ok",
            "message 2: in doubt: eom: ",
            "message 3: not attempted: ",
            "message 4: not attempted: ",
            "1 of 4 delivered, 1 in doubt, 2 not attempted, ",
        ],
    );
    let _ = std::fs::remove_file(file);
}

/// By DATA a body that was begun can only be ended or cut off. Here it must be cut off.
fn a_message_that_ends_the_session_does_not_stop_the_others(adapter: Adapter) {
    let take = |last: bool| -> Script {
        Box::new(move |mut peer: Peer| {
            peer.take_message();
            peer.say("250 ok\r\n");
            if !last {
                peer.hear("DATA");
                peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
            }
            peer.hear_the_end();
        })
    };
    let address = servers(vec![take(false), take(false), take(true)]);
    // Their octets are seen when they are sent: the server takes no 8-bit message.
    let bad = ["one", "two"].map(|name| fifo(name, "Subject: \u{e4}\r\n\r\n".as_bytes()));
    let good = message_file("good", MESSAGE);
    let data = [&good, &bad[0], &good, &bad[1], &good];
    let run = finish(&mut send_data(adapter, &data, &address, &ONE, &[]), b"");
    run.counts(&[("delivered", 3), ("refused", 2)]);
    let outcomes: Vec<_> = run.lines()[..5]
        .iter()
        .map(|line| line["outcome"].clone())
        .collect();
    assert_eq!(
        outcomes,
        ["success", "refused", "success", "refused", "success"],
        "{}",
        run.stdout
    );
    assert_eq!(run.code, 69);
    for file in bad.iter().chain([&good]) {
        let _ = std::fs::remove_file(file);
    }
}

/// Every option that `--help` names has a bad value here, or takes none. Nobody listens there: what is not refused
/// is temporary.
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
    // What is missing is named.
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

/// Nor is a part of one that the shell has cut off.
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
                // A single letter after a hyphen is an option to the parser.
                assert!(
                    !text.contains("3cret") && !text.contains("'-s'"),
                    "{rest:?}: {text}"
                );
            }
        }
    }
    // One from the environment that is no text.
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

/// What the server stores, by DATA and in chunks, of files and of standard input.
fn bcc_is_stripped(adapter: Adapter) {
    let to = "To: bob@example.net\r\n";
    let body = "\r\nBcc: in the body\r\n.\r\n\r\nResent-Bcc: too\r\n".repeat(50_000);
    let long = format!("Bcc: a@b,\r\n{}", " c@d,\r\n".repeat(50_000));
    let messages = [
        (
            format!("Bcc: a@b\r\n{to}BCC:\r\n\tc@d,\r\n e@f\r\n\r\nBcc: g\r\n"),
            format!("{to}\r\nBcc: g\r\n"),
        ),
        (
            "To: x\nbcc: a\n b\nResent-Bcc: c\nX: y\n\nBcc: z\n".into(),
            "To: x\r\nX: y\r\n\r\nBcc: z\r\n".into(),
        ),
        ("\r\nBcc: a\r\n".into(), "\r\nBcc: a\r\n".into()),
        ("To: x\r\nBcc: a".into(), "To: x\r\n".into()),
        ("Bcc: a\r\n".into(), String::new()),
        ("Bcc: \u{e4}\r\nTo: x\r\n".into(), "To: x\r\n".into()),
        (
            format!("{to}{long}X: y\r\n{body}"),
            format!("{to}X: y\r\n{body}"),
        ),
    ];
    let files: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(n, (message, _))| message_file(&format!("bcc-{n}"), message.as_bytes()))
        .collect();
    let count = files.len();
    for chunking in ["auto", "never"] {
        let (receiver, address) = receiver(Options::default());
        let flags = ["--strip-bcc", "--chunking", chunking];
        let run = finish(&mut send_data(adapter, &files, &address, &ONE, &flags), b"");
        run.is_summary(count as u64, count as u64);
        for (message, _) in &messages {
            run_piped(adapter, message.as_bytes(), &address, &ONE, &flags).is(0, "success", None);
        }
        let stored = receiver.wait_for_messages(2 * count, Duration::from_secs(5));
        assert_eq!(stored.len(), 2 * count);
        for (n, stored) in stored.iter().enumerate() {
            let (message, expected) = &messages[n % count];
            let octets = stored.content();
            assert!(
                octets == expected.as_bytes(),
                "{n}: {}",
                &message[..message.len().min(80)]
            );
            // The size of a file is declared, and is that of what is sent.
            let is_file = n < count;
            let size = format!("SIZE={}", expected.len());
            assert_eq!(
                stored.mail_parameters.split(' ').any(|word| word == size),
                is_file
            );
        }
        // What was taken out makes no message an 8-bit one.
        assert!(!stored[5].mail_parameters.contains("8BITMIME"));
    }
    // Without the flag nothing is changed.
    let (receiver, address) = receiver(Options::default());
    finish(&mut send_data(adapter, &files, &address, &ONE, &[]), b"")
        .is_summary(count as u64, count as u64);
    assert_eq!(receiver.stored(0), messages[0].0.as_bytes());
    for file in files {
        let _ = std::fs::remove_file(file);
    }
}

/// Between RCPT and the body. As long as before, it is only the Bcc that makes another size of it.
fn a_file_that_changes_is_an_error_without_its_bcc_too(adapter: Adapter) {
    const BEFORE: &[u8] = b"To: bob@example.net\r\nBcc: a@b\r\n\r\nHello.\r\n";
    let less = BEFORE.to_ascii_lowercase();
    let (grows, shrinks) = ([BEFORE, b"x\r\n"].concat(), BEFORE[..40].to_vec());
    let more = String::from_utf8_lossy(BEFORE)
        .replace("Bcc:", "Xcc:")
        .into_bytes();
    let fewer = String::from_utf8_lossy(BEFORE)
        .replace("To: bob", "Bcc:bob")
        .into_bytes();
    for chunking in [true, false] {
        for (after, is_error) in [
            (&less, false),
            (&grows, true),
            (&shrinks, true),
            (&more, true),
            (&fewer, true),
        ] {
            let file = message_file("bcc-changes", BEFORE);
            let (path, after) = (file.clone(), after.clone());
            let address = server(move |mut peer| {
                peer.open(&[
                    "fake",
                    "PIPELINING",
                    if chunking { "CHUNKING" } else { "HELP" },
                ]);
                peer.hear(if chunking { "RCPT" } else { "DATA" });
                std::fs::write(path, after).unwrap();
                peer.say("250 ok\r\n250 ok\r\n");
                peer.say(if chunking { "" } else { "354 go\r\n" });
                if !is_error {
                    peer.hear("hello.");
                    peer.hear(if chunking { "" } else { ".\r\n" });
                    peer.say("250 ok\r\n");
                }
                peer.hear_the_end();
            });
            let mut command = send_data(adapter, &[&file], &address, &ONE, &["--strip-bcc"]);
            let run = finish(&mut command, b"");
            match is_error {
                true => run.is(65, "refused", Some("body")).maybe_delivered(false),
                false => run.is(0, "success", None),
            };
            let _ = std::fs::remove_file(file);
        }
    }
}

/// A server that answers the end of the data and has lost what overlaps it, and one that answers neither.
fn the_wait_for_replies_is_bounded_in_overlap_too(adapter: Adapter) {
    let file = message_file("overlap", MESSAGE);
    for (answers, counts) in [
        (true, [("delivered", 1), ("not_attempted", 2)]),
        (false, [("in_doubt", 1), ("not_attempted", 2)]),
    ] {
        let address = server(move |mut peer| {
            peer.take_message();
            // The next envelope has come with the end of this one.
            peer.hear("DATA");
            peer.say(if answers { "250 ok\r\n" } else { "" });
            peer.hear_the_end();
        });
        let flags = ["--overlap", "--repeat", "3", "--timeout-reply", "0.5"];
        let run = finish(
            &mut send_data(adapter, &[&file], &address, &ONE, &flags),
            b"",
        );
        // By itself, the wait is 20 seconds for what overlaps, and 10 minutes for the end of the data.
        assert!(
            run.stderr.contains("timed out after 0.5 s"),
            "{}",
            run.stderr
        );
        assert_eq!(run.code, 75, "{}", run.json);
        run.counts(&counts);
        assert_eq!(run.json["overlap_broken"], answers, "{}", run.json);
    }
    let _ = std::fs::remove_file(file);
}

/// What a terminal of 100 columns gets, where `streams` says which of the two are the terminal, and what went to the
/// others.
#[cfg(target_os = "linux")]
fn on_a_terminal(command: &Command, streams: &str) -> (String, String) {
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let words: Vec<_> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(quoted)
        .collect();
    let other = message_file("other", b"");
    let line = format!("stty rows 24 cols 100; {} {streams}", words.join(" "));
    let line = line.replace("OTHER", &quoted(other.as_os_str()));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let output = output(script.env("TERM", "xterm"), b"");
    let seen = (
        String::from_utf8(output.stdout).unwrap(),
        std::fs::read_to_string(&other).unwrap(),
    );
    let _ = std::fs::remove_file(other);
    seen
}

/// The lines that are left on the screen after these octets.
#[cfg(target_os = "linux")]
fn screen(octets: &str) -> Vec<String> {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0_usize, 0);
    let mut rest = octets.chars().peekable();
    while let Some(octet) = rest.next() {
        match octet {
            '\r' => column = 0,
            '\n' => row += 1,
            '\x1b' => {
                assert_eq!(rest.next(), Some('['));
                let mut number = String::new();
                let end = loop {
                    match rest.next().unwrap() {
                        digit if digit.is_ascii_digit() || "?;".contains(digit) => {
                            number.push(digit)
                        }
                        end => break end,
                    }
                };
                let count = number.parse().unwrap_or(1);
                match end {
                    'A' => row = row.saturating_sub(count),
                    'B' => row += count,
                    'K' => lines[row].clear(),
                    'J' => lines.truncate(row + 1),
                    // Colours, and the cursor that hides.
                    'm' | 'h' | 'l' => {}
                    end => panic!("{end}: {octets:?}"),
                }
            }
            octet => {
                let line: &mut Vec<char> = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = octet;
                column += 1;
            }
        }
        lines.resize(lines.len().max(row + 1), Vec::new());
    }
    let lines = lines
        .into_iter()
        .map(|line| line.into_iter().collect::<String>());
    let lines: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
    lines.into_iter().filter(|line| !line.is_empty()).collect()
}

#[cfg(target_os = "linux")]
fn long_bodies_show_their_progress_on_a_terminal(adapter: Adapter) {
    let (_receiver, address) = receiver(Options::default());
    let file = message_file("progress", &b"Subject: long\r\n".repeat(1 << 19));
    let short = message_file("short", MESSAGE);
    let with = |file: &Path, flags: &[&str]| {
        let mut command = send(adapter);
        command.args(["--server", &address, "--tls", "none", "--from", "a@b"]);
        command
            .args(["--to", "bob@b", "--data"])
            .arg(file)
            .args(flags);
        command
    };
    let (terminal, stdout) = on_a_terminal(&with(&file, &[]), ">OTHER");
    assert!(terminal.contains(" of 7.50 MiB, "), "{terminal}");
    assert_eq!(screen(&terminal), [""; 0], "{terminal}");
    assert!(stdout.starts_with("bob@b: 250 2.0.0 Ok"), "{stdout}");
    // Nobody looks, or wants to see it.
    for (file, flags) in [
        (&file, &["--json"][..]),
        (&file, &["--quiet"]),
        (&short, &[]),
    ] {
        let (terminal, _) = on_a_terminal(&with(file, flags), ">OTHER");
        assert_eq!(terminal, "", "{flags:?}");
    }
    let (_, stderr) = on_a_terminal(&with(&file, &[]), "2>OTHER");
    assert_eq!(stderr, "");
    // The conversation stands there as if there were no bar: also what comes while it is shown. More than the two
    // sockets hold, so that the server's reply comes in the middle of it.
    let large = message_file("large", &b"Subject: long\r\n".repeat(1 << 21));
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        let mut some = vec![0; 4 << 20];
        peer.0.read_exact(&mut some).unwrap();
        peer.say("552 5.3.4 too large\r\n");
    });
    let mut command = send(adapter);
    command.args(["--server", &address, "--tls", "none", "--from", "a@b"]);
    command.args([
        "--helo",
        "me.example",
        "--to",
        "bob@b",
        "--transcript",
        "--data",
    ]);
    let (terminal, _) = on_a_terminal(command.arg(&large), "");
    assert!(terminal.contains(" of 30.00 MiB, "), "{terminal}");
    let screen = screen(&terminal);
    let (verdict, conversation) = screen.split_last().unwrap();
    assert_eq!(
        conversation,
        [
            "< 220 fake",
            "> EHLO me.example",
            "< 250-fake",
            "< 250-PIPELINING",
            "< 250 HELP",
            "> MAIL FROM:<a@b>",
            "> RCPT TO:<bob@b>",
            "> DATA",
            "< 250 ok",
            "< 250 ok",
            "< 354 go",
            "< 552 5.3.4 too large",
        ],
        "{terminal:?}"
    );
    assert!(verdict.starts_with("bob@b: body: "), "{verdict}");
    assert!(verdict.contains("552 5.3.4 too large"), "{verdict}");
    for file in [file, short, large] {
        let _ = std::fs::remove_file(file);
    }
}
