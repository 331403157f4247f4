//! The output on a terminal.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use smtp_tests::receiver::Options;

use super::run::{message_file, output, send, wait};
use super::server::{receiver, server};
use super::{Adapter, MESSAGE};

for_both!(
    a_reader_that_goes_away_is_no_panic,
    // `script` gives it a terminal. Its flags differ on other systems.
    #[cfg(target_os = "linux")]
    long_bodies_show_their_progress_on_a_terminal,
);

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

/// The output on a terminal of 100 columns, and the output elsewhere. `streams` names the streams that are the
/// terminal.
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

/// The lines that stay on the screen after these octets.
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
                    // Colours, and hiding the cursor.
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
    // Standard error is not a terminal, or the user does not want a bar.
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
    // The conversation is complete, including lines that come while the bar is shown. The message is larger than the
    // sockets' buffers, so that the server's reply comes in the middle of it.
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
