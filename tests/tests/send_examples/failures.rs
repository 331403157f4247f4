//! Servers that misbehave.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::run::{run, run_with};
use super::server::server;
use super::{Adapter, ONE};

for_both!(
    a_reply_injected_behind_starttls,
    a_reply_that_never_ends,
    a_reply_that_drips,
    a_loss_after_the_final_dot_is_in_doubt,
    data_accepted_after_everybody_was_refused,
    a_421_at_any_time_is_temporary,
    a_silent_server_times_out,
    a_server_that_stops_reading_times_out,
    a_refusal_in_the_middle_of_the_body_is_what_is_reported,
    what_was_not_attempted_has_no_reply,
    what_is_in_doubt_has_no_reply_of_another_command,
);

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
    // Without a bound it would drip forever, and each octet would move the deadline.
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
        peer.hear_the_end();
    });
    run(
        adapter,
        "slow",
        Some(address),
        &ONE,
        &["--timeout-reply", "1.2"],
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
        // It reads nothing, and keeps the connection. Only a deadline ends the wait.
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

/// A server that refuses RSET does not get another message, and has not replied about the others.
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

/// The server may go on to the end of an eager message, whatever it replies to the RSET before it.
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
