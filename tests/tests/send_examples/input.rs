//! The sources of a message: files, pipes, standard input.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use smtp_tests::receiver::{Limits, Options};
use smtp_tests::watchdog;

use super::run::{
    fifo, finish, message_file, outcome, output, run, run_piped, send, send_data, wait,
};
use super::server::{receiver, server, servers};
use super::{Adapter, MESSAGE, ONE};

for_both!(
    standard_input_is_the_message,
    a_pipe_is_read_once,
    a_file_that_changes_is_an_error,
    a_file_that_vanishes_is_bad_input,
    a_file_that_cannot_be_read_is_temporary,
    chunks_where_the_flag_wants_them,
    standard_input_goes_out_in_chunks,
    pipes_are_opened_in_their_turn,
    standard_input_is_not_split,
    bcc_is_stripped,
    a_file_that_changes_is_an_error_without_its_bcc_too,
);

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

fn a_pipe_is_read_once(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let with = |data: &[&Path], flags: &[&str]| send_data(adapter, data, &address, &ONE, flags);
    let pipe = fifo("pipe", MESSAGE);
    finish(&mut with(&[&pipe], &[]), b"").is(0, "success", None);
    finish(&mut with(&[Path::new("/dev/stdin")], &[]), MESSAGE).is(0, "success", None);
    // Its size is known after it is read.
    let stored = receiver.wait_for_messages(2, Duration::from_secs(5));
    for stored in &stored {
        assert_eq!(stored.content(), MESSAGE);
        assert!(!stored.mail_parameters.contains("SIZE"), "{stored:?}");
    }
    // Other messages may come with it.
    let (one, two) = (fifo("one", MESSAGE), fifo("two", MESSAGE));
    finish(&mut with(&[&one, Path::new("-"), &two], &[]), MESSAGE).is_summary(3, 3);
    // A pipe cannot be read twice. If nobody writes, that is not waited for.
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
            // Between chunks the session goes on, here to its end.
            let said = if chunking { &b"QUIT\r\n"[..] } else { b"" };
            assert_eq!(rest.recv_timeout(watchdog::LIMIT).unwrap(), said);
            let _ = std::fs::remove_file(file);
        }
    }
    // It shrinks after a part of it has been sent. It is open, and its chunk stays incomplete.
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
        // DATA was answered, so only another session can send the third.
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
    // Standard input is only open for writing.
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
    // The beginning of a process's memory cannot be read.
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

/// A writer that fills two pipes in a row waits until the first one is read.
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

/// The stored messages, by DATA and in chunks, from files and from standard input.
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
            // The declared size of a file is the size that is sent.
            let is_file = n < count;
            let size = format!("SIZE={}", expected.len());
            assert_eq!(
                stored.mail_parameters.split(' ').any(|word| word == size),
                is_file
            );
        }
        // Octets of a removed field do not make a message an 8-bit one.
        assert!(!stored[5].mail_parameters.contains("8BITMIME"));
    }
    // Without the flag, nothing is changed.
    let (receiver, address) = receiver(Options::default());
    finish(&mut send_data(adapter, &files, &address, &ONE, &[]), b"")
        .is_summary(count as u64, count as u64);
    assert_eq!(receiver.stored(0), messages[0].0.as_bytes());
    for file in files {
        let _ = std::fs::remove_file(file);
    }
}

/// Between RCPT and the body. Only the Bcc changes, so the file keeps its length.
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
