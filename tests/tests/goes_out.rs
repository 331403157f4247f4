//! No string in any place of the API can put a line end, a NUL or another command on the wire. No body can contain
//! what a server could take for its end.
//!
//! The judge reads the octets by itself. It knows the commands that are due, and their order. Anything else is an
//! error.

#[path = "goes_out/bodies.rs"]
mod bodies;
#[path = "goes_out/nasty.rs"]
mod nasty;
#[path = "goes_out/places.rs"]
mod places;
#[path = "goes_out/wire.rs"]
mod wire;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use places::{Case, Due};
use wire::Heard;

/// How many sequences of pieces each place gets. A debug build uses a sample.
const SEQUENCES: usize = if cfg!(debug_assertions) { 6 } else { 60 };

/// RFC 5321 section 4.5.3.1.4, with the CRLF.
const COMMAND: usize = 512;
/// What the extensions add to MAIL: SIZE 26, BODY 17, SMTPUTF8 10, DSN 8 and 107, AUTH 500, DELIVERBY 17, MT-PRIORITY 15,
/// FUTURERELEASE 34, REQUIRETLS 11.
const MAIL: usize = COMMAND + 26 + 17 + 10 + 115 + 500 + 17 + 15 + 34 + 11;
/// What they add to RCPT: DSN 500 and 28, RRVS 50.
const RCPT: usize = COMMAND + 500 + 28 + 50;
/// RFC 6531 section 3.7.4.2 adds 10 for SMTPUTF8 to VRFY and EXPN.
const REQUEST: usize = COMMAND + 10;

/// Checks that this line is the command that is due. The error says what is wrong.
fn check(line: &[u8], due: &Due, room: usize) -> Result<(), String> {
    if line.iter().any(|&octet| octet < b' ' || octet == 0x7f) {
        return Err("a control character".into());
    }
    let limit = match due.verb() {
        "MAIL" => MAIL,
        "RCPT" => RCPT,
        "VRFY" | "EXPN" => REQUEST,
        // RFC 4954 section 4: only the mechanism limits a response.
        "" => usize::MAX,
        _ => COMMAND,
    };
    if line.len() + 2 > limit.saturating_add(room) {
        return Err(format!(
            "{} octets, and {limit} are the limit",
            line.len() + 2
        ));
    }
    match due {
        Due::Line(whole) if line != whole.as_bytes() => Err(format!("{whole} is due")),
        Due::Begin(begin) if !line.starts_with(begin.as_bytes()) => Err(format!("{begin} is due")),
        Due::Response if !is_response(line) => Err("a response in base64 is due".into()),
        Due::Auth(name) => {
            let rest = line.strip_prefix(format!("AUTH {name}").as_bytes());
            match rest {
                Some(b"") => Ok(()),
                Some([b' ', response @ ..]) if is_response(response) => Ok(()),
                _ => Err(format!("AUTH {name} and a response in base64 are due")),
            }
        }
        Due::Line(_) | Due::Begin(_) | Due::Response => Ok(()),
    }
}

/// `=` is an empty initial response, `*` cancels.
fn is_response(octets: &[u8]) -> bool {
    matches!(octets, b"=" | b"*") || STANDARD.decode(octets).is_ok()
}

/// Every line is a due command, in the right order. Commands that the library refused are left out.
fn judge(heard: &Heard, case: &Case) -> Result<(), String> {
    let mut due = case.due.iter();
    for line in &heard.lines {
        let mut why = String::new();
        let found = due.by_ref().any(|due| match check(line, due, case.room) {
            Ok(()) => true,
            Err(error) => {
                why = error;
                false
            }
        });
        if !found {
            let line = line.escape_ascii();
            return Err(format!("\"{line}\" is not due: {why}"));
        }
    }
    if let Some(body) = heard.bodies.iter().find(|&body| body != case.session.body) {
        return Err(format!("a body: \"{}\"", body.escape_ascii()));
    }
    // Only an abandoned body may be cut off.
    match heard.rest.is_empty() || case.session.body.starts_with(&heard.rest) {
        true => Ok(()),
        false => Err(format!("no line: \"{}\"", heard.rest.escape_ascii())),
    }
}

/// The first octets and the last.
fn short(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => {
            let last = text.char_indices().rev().nth(60).map_or(0, |(at, _)| at);
            format!("{}…{}", &text[..end], &text[last..])
        }
        None => text.into(),
    }
}

/// No string in any place ends a line, or begins another command.
#[test]
fn each_line_is_a_command_that_is_due() {
    let all = nasty::strings(SEQUENCES);
    let few: Vec<String> = nasty::few().map(str::to_owned).collect();
    let mut failures = Vec::new();
    for place in places::all() {
        let strings = if place.is_costly { &few } else { &all };
        let (mut made, mut went_out) = (0, 0);
        for string in strings {
            for case in (place.make)(string) {
                made += 1;
                let heard = case.run();
                went_out += usize::from(heard.lines.len() == case.due.len());
                if let Err(why) = judge(&heard, &case) {
                    failures.push(format!(
                        "{} with {}: {}",
                        place.name,
                        short(&format!("{string:?}")),
                        short(&why)
                    ));
                }
            }
        }
        println!("{:48} {made:6} made, {went_out:6} sent", place.name);
        // A place that accepts no string at all would prove nothing.
        assert!(
            went_out > 0,
            "{}: {made} made, and none is sent",
            place.name
        );
    }
    let count = failures.len();
    failures.truncate(20);
    assert!(
        failures.is_empty(),
        "{count} failures:\n{}",
        failures.join("\n")
    );
}

/// The judge finds the mistakes that it should find.
#[test]
fn the_judge_is_no_friend() {
    let case = |lines: &[&[u8]]| Heard {
        lines: lines.iter().map(|line| line.to_vec()).collect(),
        ..Heard::default()
    };
    let of = places::all()
        .into_iter()
        .find(|place| place.name == "Envelope::new, reverse-path")
        .and_then(|place| (place.make)("a@example.org").into_iter().next())
        .unwrap();
    let [ehlo, mail, rcpt]: [&[u8]; 3] = [
        b"EHLO client.example",
        b"MAIL FROM:<a@example.org>",
        b"RCPT TO:<b@example.net>",
    ];
    assert_eq!(
        judge(&case(&[ehlo, mail, rcpt, b"DATA", b"QUIT"]), &of),
        Ok(())
    );
    let long = [b"MAIL FROM:<a".as_slice(), &[b'a'; 2_000], b">"].concat();
    for lines in [
        [ehlo, mail, rcpt, rcpt, b"DATA"],
        [ehlo, mail, rcpt, b"QUIT", b"QUIT"],
        [ehlo, b"MAIL FROM:<a\nRSET>", rcpt, b"DATA", b"QUIT"],
        [ehlo, b"MAIL FROM:<a\rb>", rcpt, b"DATA", b"QUIT"],
        [ehlo, b"MAIL FROM:<a\0b>", rcpt, b"DATA", b"QUIT"],
        [ehlo, &long, rcpt, b"DATA", b"QUIT"],
    ] {
        judge(&case(&lines), &of).unwrap_err();
    }
}
