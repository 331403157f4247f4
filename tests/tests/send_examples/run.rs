//! Runs `send`, and reads its output.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::sync::mpsc::Sender;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;
use smtp_tests::watchdog;

use super::{Adapter, MESSAGE};

pub(super) fn send(adapter: Adapter) -> Command {
    Command::new(smtp_tests::send::example(adapter))
}

pub(super) fn message_file(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!(
        "send-{}-{:?}-{name}.eml",
        std::process::id(),
        thread::current().id()
    ));
    std::fs::write(&path, content).unwrap();
    path
}

pub(super) struct Run {
    pub(super) code: i32,
    /// The last line.
    pub(super) json: Value,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `send` with `--json` from one sender to the recipients, and returns its last line.
pub(super) fn run(
    adapter: Adapter,
    name: &str,
    server: Option<String>,
    to: &[&str],
    flags: &[&str],
) -> Run {
    run_with(adapter, MESSAGE, name, server, to, flags)
}

pub(super) fn run_with(
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

/// Runs it with this standard input.
pub(super) fn output(command: &mut Command, input: &[u8]) -> Output {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // A program that does not read all of it closes it.
    thread::spawn(move || stdin.write_all(&input));
    wait(child)
}

/// Waits for its end, or kills it after a long time.
#[track_caller]
pub(super) fn wait(mut child: Child) -> Output {
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

/// Runs it with this standard input, and takes its last line.
pub(super) fn finish(command: &mut Command, input: &[u8]) -> Run {
    outcome(output(command, input))
}

pub(super) fn outcome(output: Output) -> Run {
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
    pub(super) fn is(&self, code: i32, outcome: &str, stage: Option<&str>) -> &Self {
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

    /// For a bulk delivery: the number of messages, and of those delivered.
    #[track_caller]
    pub(super) fn is_summary(&self, messages: u64, delivered: u64) {
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
    pub(super) fn lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// For a bulk delivery: the number of messages for each fate, and that these are all. An omitted fate has none.
    #[track_caller]
    pub(super) fn counts(&self, expected: &[(&str, u64)]) -> &Self {
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

    /// This field of each recipient.
    pub(super) fn recipients(&self, key: &str) -> Vec<Value> {
        let recipients = self.json["recipients"].as_array().unwrap();
        recipients
            .iter()
            .map(|recipient| recipient[key].clone())
            .collect()
    }

    /// Its output for people.
    #[track_caller]
    pub(super) fn says(&self, words: &str) -> &Self {
        assert!(
            self.json["error"]
                .as_str()
                .is_some_and(|error| error.contains(words)),
            "{}",
            self.json
        );
        self
    }

    /// The index of this line in the conversation.
    #[track_caller]
    pub(super) fn line(&self, line: &str) -> usize {
        let found = self.stdout.lines().position(|l| l == line);
        found.unwrap_or_else(|| panic!("{line}: {} {}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(super) fn maybe_delivered(&self, yes: bool) -> &Self {
        assert_eq!(self.json["maybe_delivered"], yes, "{}", self.json);
        self
    }
}

/// A FIFO and its content.
pub(super) fn fifo(name: &str, content: &'static [u8]) -> PathBuf {
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
    // It waits for a reader. A missing reader is not a failure.
    thread::spawn(move || std::fs::write(writer, content));
    path
}

/// Runs it with the message on standard input.
pub(super) fn run_piped(
    adapter: Adapter,
    message: &[u8],
    server: &str,
    to: &[&str],
    flags: &[&str],
) -> Run {
    finish(&mut send_data(adapter, &["-"], server, to, flags), message)
}

/// Sends these messages to a server without TLS.
pub(super) fn send_data<D: AsRef<Path>>(
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

/// Runs it without JSON, and compares the beginning of each line.
#[track_caller]
pub(super) fn says_lines(mut command: Command, code: i32, expected: &[&str]) {
    // `send_data` adds --json.
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
