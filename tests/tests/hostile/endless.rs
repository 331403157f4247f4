//! Replies that never end: what is kept of them has a bound, and so has the time.

use crate::case::{At, Case, WAITS, everywhere};

/// The code that is expected here.
fn code(at: At) -> &'static str {
    match at {
        At::Greeting => "220",
        At::Auth => "334",
        At::Data => "354",
        _ => "250",
    }
}

/// The beginning of the wanted reply, and what comes again and again.
fn flood(name: &str, first: &'static str, again: &'static str) -> Vec<Case> {
    everywhere(
        name,
        &WAITS,
        move |talk, at| {
            let code = code(at);
            talk.flood(&first.replace("250", code), &again.replace("250", code))
        },
        |case, _| case,
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(flood("endless line", "250-", "x"));
    cases.extend(flood("endless line of NUL", "250 ", "\0"));
    cases.extend(flood("endless line without a code", "x", "x"));
    cases.extend(flood("endless lines", "250-", "text\r\n250-"));
    cases.extend(flood("endless empty continuation", "250-\r\n", "250-\r\n"));
    cases.extend(flood("endless empty lines", "\r\n", "\r\n"));
    cases.extend(flood("endless LF", "250-", "\n250-"));
    cases.extend([
        Case::new("64 KiB of EHLO keywords", |talk| {
            talk.reach(At::Ehlo)?;
            talk.act();
            let keywords = "250-X0123456789ABCDEF 0123\r\n".repeat((64 << 10) / 27);
            talk.say(format!("250-mx\r\n{keywords}250 SIZE\r\n"))
        })
        .comes("unopened: ehlo transient")
        .tells("more than 256 lines"),
        Case::new("64 KiB of EHLO keywords in long lines", |talk| {
            talk.reach(At::Ehlo)?;
            talk.act();
            let keywords = format!("250-{}\r\n", "X234567 ".repeat(128)).repeat(64);
            talk.say(format!("250-mx\r\n{keywords}250 SIZE\r\n"))
        })
        .comes("unopened: ehlo transient")
        .tells("16384"),
        // Nothing of this is too much.
        Case::new("15 KiB of EHLO keywords", |talk| {
            talk.reach(At::Ehlo)?;
            talk.act();
            let keywords = format!("250-X{}\r\n", "7".repeat(58)).repeat(250);
            talk.say(format!("250-mx\r\n{keywords}250 PIPELINING\r\n"))?;
            talk.oblige()
        }),
    ]);
    cases
}
