//! Limits of the server and of ours, at the limit.

use smtp_proto::parameter::{MailParameter, Notify, RcptParameter};
use smtp_proto::{BodyPart, Cause, Chunking, Envelope, Outcome, Stage};

use super::calls::{BODY, EHLO, at, config, envelope, events, ready, reports, sent};

/// The list of domains has a bound. A server's limit is kept up to that bound, and ignored beyond it.
#[test]
fn a_limit_of_domains_is_kept_up_to_the_bound() {
    for (limit, named) in [(255, 255), (256, 256), (257, 258)] {
        let mut config = config();
        config.limits.in_flight = 100_000;
        let ehlo = format!("250-mx\r\n250-PIPELINING\r\n250 LIMITS RCPTDOMAINMAX={limit}\r\n");
        let mut engine = ready(config, &ehlo);
        let to = (0..=limit).map(|n| format!("b@{n}.example"));
        engine
            .submit(Envelope::new("a@example.org", to).unwrap())
            .unwrap();
        let out = sent(&mut engine, at(0), BodyPart::Next(b""));
        assert_eq!(out.matches("RCPT TO:").count(), named, "{limit}");
        engine.handle_eof(at(0));
        let report = reports(&mut engine).remove(0);
        let excluded = report
            .failures()
            .filter(|failure| matches!(failure.error.cause, Cause::LimitExceeded { .. }));
        assert_eq!(excluded.count(), limit + 1 - named);
    }
}

/// MAIL has many short parameters, and each has a space before it. An overlapping one stays within the limit.
#[test]
fn the_spaces_of_parameters_count_in_flight() {
    let mut overlapped = 0;
    for limit in 300..600 {
        let mut config = config();
        config.overlap = true;
        config.limits.in_flight = limit;
        let mut engine = ready(config, "250-mx\r\n250-PIPELINING\r\n250 X\r\n");
        engine.submit(envelope()).unwrap();
        let parameters = (10..100).map(|n| {
            let parameter = MailParameter::raw(&format!("X{n}"), None).unwrap();
            parameter.offered_by("X")
        });
        engine
            .submit(parameters.fold(envelope(), Envelope::parameter))
            .unwrap();
        sent(&mut engine, at(0), BodyPart::Next(b""));
        engine.handle_input(at(0), b"250 ok\r\n250 ok\r\n354 go\r\n");
        events(&mut engine);
        sent(&mut engine, at(0), BodyPart::Last(BODY));
        engine.finish_body().unwrap();
        let out = sent(&mut engine, at(0), BodyPart::Next(b""));
        let commands = out.strip_prefix(".\r\n").unwrap();
        assert!(commands.len() <= limit, "{} of {limit}", commands.len());
        overlapped += usize::from(commands.starts_with("MAIL FROM:"));
    }
    assert!((1..300).contains(&overlapped), "{overlapped}");
}

/// As many commands go out at once as the limit allows, and no octet more. RCPT counts with its parameters.
#[test]
fn the_parameters_of_recipients_count_in_flight() {
    let commands = |in_flight: usize| {
        let mut config = config();
        config.limits.in_flight = in_flight;
        let mut engine = ready(config, EHLO);
        let to = ["b@example.net", "c@example.net", "d@example.net"];
        let envelope = Envelope::new("a@example.org", to).unwrap();
        let notify = RcptParameter::notify(Notify::FAILURE);
        engine.submit(envelope.recipient_parameter(notify)).unwrap();
        sent(&mut engine, at(0), BodyPart::Next(b""))
    };
    let all = commands(1_000);
    assert!(all.ends_with("RCPT TO:<d@example.net> NOTIFY=FAILURE\r\nDATA\r\n"));
    for limit in 0..=all.len() {
        // One command is always allowed.
        let mut most = 0;
        for line in all.split_inclusive('\n') {
            if most > 0 && most + line.len() > limit {
                break;
            }
            most += line.len();
        }
        assert_eq!(commands(limit), all[..most], "{limit}");
    }
}

/// The only recipient that may be named is refused, and the other one is left out. Nobody is left to wait for.
#[test]
fn a_message_ends_if_only_excluded_recipients_are_left() {
    for chunking in [Chunking::Auto, Chunking::Eager] {
        let mut config = config();
        config.chunking = chunking;
        let ehlo = "250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 LIMITS RCPTDOMAINMAX=1\r\n";
        let mut engine = ready(config, ehlo);
        let to = ["b@1.example", "c@2.example"];
        engine
            .submit(Envelope::new("a@example.org", to).unwrap())
            .unwrap();
        let out = sent(&mut engine, at(0), BodyPart::Next(b""));
        assert!(out.ends_with("RCPT TO:<b@1.example>\r\n"), "{out:?}");
        engine.handle_input(at(0), b"250 ok\r\n550 no\r\n");
        let report = reports(&mut engine).remove(0);
        let told: Vec<_> = report
            .failures()
            .map(|failure| (failure.error.stage, failure.error.outcome))
            .collect();
        let expected = [
            (Stage::Rcpt, Outcome::Permanent),
            (Stage::Mail, Outcome::NotAttempted),
        ];
        assert_eq!(told, expected);
    }
}

/// A server cannot fill the memory with refusals. Beyond the limit of a report, little is kept of each.
#[test]
fn a_report_keeps_no_more_of_all_replies_than_its_limit() {
    const RECIPIENTS: usize = 20;
    const LEAST: usize = 128;
    let mut config = config();
    config.limits.report = 1_000;
    let mut engine = ready(config, EHLO);
    let to = (0..RECIPIENTS).map(|n| format!("b{n}@example.net"));
    engine
        .submit(Envelope::new("a@example.org", to).unwrap())
        .unwrap();
    sent(&mut engine, at(0), BodyPart::Next(b""));
    engine.handle_input(at(0), b"250 ok\r\n");
    for n in 0..RECIPIENTS {
        let reply = format!("550 {n} {}\r\n", "no ".repeat(100));
        engine.handle_input(at(0), reply.as_bytes());
    }
    engine.handle_eof(at(0));
    let report = reports(&mut engine).remove(0);
    let kept = report.failures().map(|failure| match &failure.error.cause {
        Cause::Rejected(reply) => reply.text().len(),
        other => panic!("{other:?}"),
    });
    let kept: Vec<_> = kept.collect();
    assert_eq!(kept.len(), RECIPIENTS);
    assert!(kept[0] > 300, "{kept:?}");
    assert!(
        kept.iter().sum::<usize>() <= 1_000 + RECIPIENTS * LEAST,
        "{kept:?}"
    );
}
