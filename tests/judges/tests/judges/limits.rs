//! Limits of the server and of ours, at the limit.

use smtp_proto::parameter::MailParameter;
use smtp_proto::{BodyPart, Cause, Envelope};

use super::calls::{BODY, at, config, envelope, events, ready, reports, sent};

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
