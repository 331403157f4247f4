//! The `send` examples of both adapters as scripts call them: flags in, JSON and an exit code out, against
//! the embedded receiving server and against servers that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use smtp_tests::receiver::{Options, Receiver};

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n.\r\n..dots\r\n";

type Adapter = &'static str;

/// Each test, with the example of each adapter.
macro_rules! for_both {
    ($($test:ident),* $(,)?) => {
        mod blocking {
            $(#[test] fn $test() { super::$test("smtp-blocking"); })*
        }
        mod tokio {
            $(#[test] fn $test() { super::$test("smtp-tokio"); })*
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
    mechanisms_without_a_password,
    certificates,
    lmtp,
    a_reader_that_goes_away_is_no_panic,
    standard_input_is_the_message,
    nobody_listens,
    a_reply_injected_behind_starttls,
    a_reply_that_never_ends,
    a_reply_that_drips,
    a_loss_after_the_final_dot_is_in_doubt,
    data_accepted_after_everybody_was_refused,
    a_421_at_any_time_is_temporary,
    a_silent_server_times_out,
    a_server_that_stops_reading_times_out,
    a_refusal_in_the_middle_of_the_body_is_what_is_reported,
    bulk_prints_a_line_for_each_message_and_a_summary,
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
    json: Value,
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
    command.args(["--from", "alice@example.org", "--json", "--data"]).arg(&file).args(flags);
    if let Some(server) = server {
        command.args(["--server", &server]);
    }
    for to in to {
        command.args(["--to", to]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let _ = std::fs::remove_file(file);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    let last = stdout.lines().last().unwrap_or_default();
    let json = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {stdout} {stderr}"));
    Run { code: output.status.code().unwrap(), json, stderr }
}

impl Run {
    #[track_caller]
    fn is(&self, code: i32, outcome: &str, stage: Option<&str>) -> &Self {
        assert_eq!(self.json["outcome"], outcome, "{} {}", self.json, self.stderr);
        assert_eq!(self.json["stage"].as_str(), stage, "{}", self.json);
        assert_eq!(self.code, code, "{}", self.json);
        assert_eq!(self.json["error"].is_null(), outcome == "success", "{}", self.json);
        self
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
    let output = send(adapter).output().unwrap();
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    for line in ["< 220 ", "> STARTTLS", "> MAIL FROM:<alice@example.org>", "> QUIT", "stored in "] {
        assert!(stdout.lines().any(|l| l.starts_with(line)), "{line}: {stdout}");
    }
    let stored = stdout.lines().find_map(|line| line.strip_prefix("stored in ")).unwrap();
    let message = std::fs::read_to_string(stored).unwrap();
    assert!(message.contains("Grüße, Bob.\r\n.\r\nThe line above"), "{message}");
    let _ = std::fs::remove_dir_all(PathBuf::from(stored).parent().unwrap());
}

fn success_is_delivered_byte_for_byte(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let run = run(adapter, "success", Some(address), &["bob@example.net", "carol@example.net"], &[]);
    run.is(0, "success", None).maybe_delivered(false);
    assert_eq!(run.json["tls"]["verified"], false);
    // Greeting, EHLO, STARTTLS, EHLO, envelope, body.
    assert_eq!(run.json["round_trips"], 6);
    assert_eq!(run.json["recipients"][1]["address"], "carol@example.net");
    assert_eq!(run.json["recipients"][1]["code"], 250);
    let stored = receiver.wait_for_messages(1, Duration::from_secs(5));
    assert_eq!(std::fs::read(&stored[0].path).unwrap(), MESSAGE);
    assert_eq!(stored[0].forward_paths, ["bob@example.net", "carol@example.net"]);
}

fn each_recipient_has_its_own_result(adapter: Adapter) {
    let to = ["bob@example.net", "refused@example.net", "greylisted@example.net"];
    let run = run(adapter, "partial", None, &to, &["--tls", "none"]);
    run.is(75, "partial", Some("rcpt"));
    let recipient = |index: usize, key: &str| run.json["recipients"][index][key].clone();
    assert_eq!(recipient(0, "outcome"), "success");
    assert_eq!(
        [recipient(1, "outcome"), recipient(1, "stage"), recipient(1, "enhanced")],
        ["permanent", "rcpt", "5.1.1"]
    );
    assert_eq!((recipient(1, "code"), recipient(2, "code")), (550.into(), 450.into()));
    assert_eq!(recipient(2, "outcome"), "temporary");
}

fn only_permanent_refusals_give_69(adapter: Adapter) {
    run(adapter, "perm", None, &["bob@example.net", "refused@example.net"], &[]).is(
        69,
        "partial",
        Some("rcpt"),
    );
    run(adapter, "all", None, &["refused@example.net"], &[]).is(69, "permanent", Some("rcpt"));
    run(adapter, "grey", None, &["greylisted@example.net"], &[]).is(75, "temporary", Some("rcpt"));
}

fn usage_and_bad_input(adapter: Adapter) {
    for arguments in [
        &["--nonsense"][..],
        &["--from", "a@b"],
        &["--from", "a@b", "--to", "c@d", "--data", "x", "--auth-user", "u"],
        &["--from", "a@b", "--to", "c@d", "--data", "x", "--auth-mechanism", "XOAUTH2"],
        &["--from", "a@b", "--to", "c@d", "--data", "x", "--auth-authzid", "u"],
        &["--from", "a@b", "--to", "c@d", "--data", "x", "--timeout-reply", "0"],
        &["--from", "a@b", "--to", "c@d", "--data", "x", "--helo", "a b"],
    ] {
        assert_eq!(send(adapter).args(arguments).output().unwrap().status.code(), Some(64), "{arguments:?}");
    }
    run(adapter, "address", None, &["bob@"], &[]).is(65, "refused", Some("local"));
    run(adapter, "pem", None, &["bob@b"], &["--ca-file", "/nowhere"]).is(65, "refused", Some("local"));
    let output = send(adapter).args(["--from", "<>", "--to", "c@d", "--data", "/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
}

fn credentials(adapter: Adapter) {
    let auth = Options { auth: Some(("alice".into(), "s3cret".into())), ..Options::default() };
    let (_receiver, address) = receiver(auth);
    let user = ["--auth-user", "alice", "--auth-password"];
    let to = ["bob@example.net"];
    let with =
        |flags: &[&str]| run(adapter, "auth", Some(address.clone()), &to, &[&user[..], flags].concat());
    with(&["s3cret"]).is(0, "success", None);
    for mechanism in ["login", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
        with(&["s3cret", "--auth-mechanism", mechanism]).is(0, "success", None);
    }
    for mechanism in ["XOAUTH2", "OAUTHBEARER", "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"] {
        with(&["s3cret", "--auth-mechanism", mechanism]).is(77, "refused", Some("auth"));
    }
    with(&["s3cret", "--auth-mechanism", "PLAIN", "--auth-authzid", "alice"]).is(0, "success", None);
    with(&["s3cret", "--auth-mechanism", "PLAIN", "--auth-authzid", "bob"]).is(69, "permanent", Some("auth"));
    let wrong = with(&["wrong"]);
    wrong.is(69, "permanent", Some("auth"));
    assert_eq!(wrong.json["recipients"][0]["code"], 535);
    assert!(wrong.json["tls"].is_object());
    with(&["s3cret", "--auth-mechanism", "CRAM-MD5"]).is(77, "refused", Some("auth"));
    // Without TLS the server does not offer AUTH, and we would not use it.
    with(&["s3cret", "--tls", "none"]).is(77, "refused", Some("auth"));
    let (_other, address) = receiver(Options::default());
    run(adapter, "no-auth", Some(address), &to, &[&user[..], &["x"]].concat()).is(
        77,
        "refused",
        Some("auth"),
    );
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
        let flags = [&["--tls", "none", "--auth-mechanism", mechanism], flags].concat();
        run(adapter, "no-password", Some(address), &ONE, &flags).is(69, "permanent", Some("auth"));
    }
}

fn certificates(adapter: Adapter) {
    let to = ["bob@example.net"];
    let (receiver, address) = receiver(Options::default());
    let pem = message_file("pem", receiver.certificate_pem().as_bytes());
    let pem = pem.to_str().unwrap();
    let with = |flags: &[&str]| run(adapter, "tls", Some(address.clone()), &to, flags);
    with(&["--tls-name", "localhost"]).is(77, "refused", Some("starttls"));
    with(&["--tls", "required", "--tls-name", "wrong.example", "--ca-file", pem]).is(
        77,
        "refused",
        Some("starttls"),
    );
    let good = with(&["--tls", "required", "--tls-name", "localhost", "--ca-file", pem]);
    good.is(0, "success", None);
    assert_eq!(good.json["tls"]["verified"], true);
    with(&["--tls", "required", "--ca-file", pem]).is(0, "success", None);

    let (receiver, address) = self::receiver(Options { implicit_tls: true, ..Options::default() });
    let with = |flags: &[&str]| run(adapter, "tls", Some(address.clone()), &to, flags);
    with(&["--tls", "implicit", "--tls-name", "localhost"]).is(77, "refused", Some("connect"));
    with(&["--tls", "implicit"]).is(0, "success", None);
    drop(receiver);

    let (_receiver, address) = self::receiver(Options { starttls: false, ..Options::default() });
    run(adapter, "tls", Some(address), &to, &["--tls", "required"]).is(77, "refused", Some("starttls"));
    let _ = std::fs::remove_file(pem);
}

fn lmtp(adapter: Adapter) {
    let to = ["bob@example.net", "refused@example.net", "carol@example.net"];
    run(adapter, "lmtp", None, &to, &["--lmtp"]).is(69, "partial", Some("rcpt"));
    run(adapter, "lmtp25", Some("127.0.0.1:25".into()), &to, &["--lmtp"]).is(65, "refused", Some("local"));
}

fn a_reader_that_goes_away_is_no_panic(adapter: Adapter) {
    let file = message_file("pipe", MESSAGE);
    let mut child = send(adapter)
        .args(["--from", "a@b", "--to", "bob@b", "--transcript", "--json", "--data"])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !stderr.contains("panicked"), "{stderr}");
    let _ = std::fs::remove_file(file);
}

fn standard_input_is_the_message(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let mut child = send(adapter)
        .args(["--server", &address, "--from", "<>", "--to", "bob@b", "--quiet", "--data", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("Subject: ü\n\nunix\n".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty());
    let stored = receiver.wait_for_messages(1, Duration::from_secs(5));
    assert_eq!(std::fs::read(&stored[0].path).unwrap(), "Subject: ü\r\n\r\nunix\r\n".as_bytes());
    assert_eq!(stored[0].reverse_path, "");
}

const ONE: [&str; 1] = ["bob@example.net"];

fn nobody_listens(adapter: Adapter) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
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
    let start = Instant::now();
    run(adapter, "drip", Some(address), &ONE, &["--timeout-reply", "1.2"]).is(75, "temporary", Some("mail"));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

fn a_loss_after_the_final_dot_is_in_doubt(adapter: Adapter) {
    let address = server(|mut peer| peer.take_message());
    run(adapter, "doubt", Some(address), &ONE, &[]).is(75, "temporary", Some("eom")).maybe_delivered(true);
    let address = server(|mut peer| {
        peer.take_message();
        thread::sleep(Duration::from_secs(2));
    });
    run(adapter, "slow", Some(address), &ONE, &["--timeout-reply", "0.5"])
        .is(75, "temporary", Some("eom"))
        .maybe_delivered(true);
    let address = server(|mut peer| {
        peer.take_message();
        peer.say("what?\r\n");
        peer.hear_the_end();
    });
    run(adapter, "garbage", Some(address), &ONE, &[]).is(76, "protocol", Some("eom")).maybe_delivered(true);
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
    run(adapter, "554", Some(address), &ONE, &[]).is(69, "permanent", Some("greeting"));
}

fn a_silent_server_times_out(adapter: Adapter) {
    let address = server(|mut peer| peer.hear_the_end());
    run(adapter, "silent", Some(address), &ONE, &["--timeout-reply", "0.3"]).is(
        75,
        "temporary",
        Some("greeting"),
    );
}

fn a_server_that_stops_reading_times_out(adapter: Adapter) {
    let address = server(|mut peer| {
        peer.open(&["fake", "PIPELINING"]);
        peer.hear("DATA");
        peer.say("250 ok\r\n250 ok\r\n354 go\r\n");
        thread::sleep(Duration::from_secs(4));
    });
    let message = b"x\r\n".repeat(8 << 20);
    let start = Instant::now();
    let run = run_with(adapter, &message, "stuck", Some(address), &ONE, &["--timeout-data", "0.5"]);
    run.is(75, "temporary", Some("body")).maybe_delivered(false);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
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
    let (one, two) = (message_file("one", b"Subject: 1\r\n\r\n"), message_file("two", b"Subject: 2\r\n\r\n"));
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
    command.args(["--json", "--overlap", "--repeat", "3", "--data"]).arg(&one).arg("--data").arg(&two);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, messages) = lines.split_last().unwrap();
    assert_eq!(messages.len(), 6);
    for (index, message) in messages.iter().enumerate() {
        assert_eq!((&message["message"], &message["outcome"]), (&(index + 1).into(), &"partial".into()));
        assert_eq!(message["recipients"][1]["code"], 550);
    }
    assert_eq!((&summary["messages"], &summary["outcome"]), (&6.into(), &"partial".into()), "{summary}");
    // Greeting, EHLO, the first envelope, and one for each message.
    assert_eq!(
        (&summary["round_trips"], &summary["overlap_broken"]),
        (&9.into(), &false.into()),
        "{summary}"
    );
    assert!(summary["seconds"].as_f64().unwrap() > 0.0);
    let stored = receiver.wait_for_messages(6, Duration::from_secs(5));
    let subjects: Vec<_> = stored.iter().map(|stored| std::fs::read(&stored.path).unwrap()[9]).collect();
    assert_eq!(subjects, *b"121212");
    let _ = (std::fs::remove_file(one), std::fs::remove_file(two));
}
