//! Replies that are not what was asked for: too many, too few, too early, of the wrong form or the wrong class.

use crate::case::{At, Case, WAITS, everywhere};

/// The replies to MAIL, RCPT, RCPT and DATA.
const BATCH: &[u8] =
    b"250 2.1.0 ok\r\n250-2.1.5 ok\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n";

/// At the first command of the batch, this is said instead of its four replies.
fn batch(name: &str, replies: &'static str) -> Case {
    Case::new(name, move |talk| {
        talk.reach(At::Mail)?;
        talk.act();
        talk.say(replies)?;
        talk.fall_silent()
    })
}

fn both(case: Case) -> [Case; 2] {
    [case.clone().in_tls(), case]
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(cut());
    cases.extend(counts());
    cases.extend(early());
    cases.extend(forms());
    cases
}

/// The octets of good replies, glued and cut.
fn cut() -> Vec<Case> {
    let split = Case::new("good replies, cut at each byte", |talk| {
        talk.act();
        for at in 1..BATCH.len() {
            talk.reach(At::Mail)?;
            talk.say(&BATCH[..at])?;
            // So that most of them do arrive in two pieces.
            std::thread::yield_now();
            talk.say(&BATCH[at..])?;
            for _ in 0..2 {
                talk.reach(At::Rcpt)?;
            }
            talk.reach(At::Data)?;
            talk.expect_body();
        }
        talk.oblige()
    })
    .messages(BATCH.len() - 1);
    let octets = Case::new("good replies, an octet at a time", |talk| {
        talk.act();
        talk.reach(At::Mail)?;
        for octet in BATCH {
            talk.say([*octet])?;
        }
        for _ in 0..2 {
            talk.reach(At::Rcpt)?;
        }
        talk.reach(At::Data)?;
        talk.expect_body();
        talk.oblige()
    });
    [both(split), both(octets)].into_iter().flatten().collect()
}

/// Too many, and too few.
fn counts() -> Vec<Case> {
    let cases = [
        batch("one reply too few", "250 ok\r\n250 ok\r\n354 go ahead\r\n").comes("rcpt transient"),
        batch("three replies too few", "354 go ahead\r\n").comes("mail transient"),
        batch(
            "two replies too few, and then silence",
            "250 ok\r\n250 ok\r\n",
        )
        .short(At::Rcpt)
        .comes("rcpt transient")
        .tells("timed out after 0.3 s"),
        batch(
            "one reply too many",
            "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n",
        )
        .comes("data transient"),
        batch(
            "one reply too many, behind the 354",
            "250 ok\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n354 go ahead\r\n",
        )
        .comes("body transient"),
        Case::new("a thousand replies too many", |talk| {
            talk.reach(At::Mail)?;
            talk.act();
            talk.say("250 ok\r\n".repeat(1_000))?;
            talk.fall_silent()
        })
        .comes("data transient"),
    ];
    cases.into_iter().flat_map(both).collect()
}

/// Before they are due.
fn early() -> Vec<Case> {
    let cases = [
        Case::new("the reply to EHLO with the greeting", |talk| {
            talk.act();
            talk.say("220 mx\r\n250 mx\r\n")?;
            talk.fall_silent()
        })
        .before_login()
        .comes("unopened: ehlo transient"),
        batch(
            "250 behind the 354",
            "250 ok\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n250 queued\r\n",
        )
        .comes("body transient"),
        Case::new("250 in the middle of the body", |talk| {
            talk.reach(At::Body)?;
            talk.act();
            talk.say("250 2.0.0 queued\r\n")?;
            talk.expect_body();
            talk.reach(At::Dot)?;
            talk.taken();
            talk.fall_silent()
        })
        .large()
        .comes("body transient"),
        Case::new("250 to DATA", |talk| {
            talk.reach(At::Data)?;
            talk.act();
            talk.say("250 2.0.0 ok\r\n")?;
            talk.fall_silent()
        })
        .comes("data transient"),
        Case::new("a second 250 with the final one", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.taken();
            talk.say("250 2.0.0 queued\r\n250 2.0.0 and the next one\r\n")?;
            talk.fall_silent()
        })
        .messages(2)
        .comes("sent; quit not-attempted"),
        Case::new("junk with the final 250", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.taken();
            talk.say(b"250 2.0.0 queued\r\n\x00\xff\x1b[2J junk\r\n")?;
            talk.fall_silent()
        })
        .messages(2)
        .comes("sent; quit not-attempted"),
        Case::new("half a line of junk with the final 250", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.taken();
            talk.say("250 2.0.0 queued\r\nju")?;
            talk.reach(At::Mail)?;
            talk.say("nk\r\n")?;
            talk.fall_silent()
        })
        .messages(2)
        .comes("sent; mail transient")
        .tells("not an SMTP reply"),
        Case::new("half a reply with the final 250", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.taken();
            talk.say("250 2.0.0 queued\r\n25")?;
            talk.reach(At::Mail)?;
            talk.say("0 2.0.0 and the next one\r\n")?;
            talk.fall_silent()
        })
        .messages(2)
        .comes("sent; mail transient")
        .tells("unexpected reply"),
    ];
    cases.into_iter().flat_map(both).collect()
}

/// Octets that are no reply, and texts that are no text.
fn forms() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, reply) in [
        ("a code of two digits", "25 ok\r\n"),
        ("a code of four digits", "2500 ok\r\n"),
        ("a code of letters", "abc ok\r\n"),
        ("a code of the first class", "150 ok\r\n"),
        ("a code of the sixth class", "650 ok\r\n"),
        ("a code of other digits", "\u{662}\u{665}\u{660} ok\r\n"),
        ("NUL for a reply", "\0\0\0\0\r\n"),
        ("TLS for a reply", "\x16\x03\x01\x02\r\n"),
    ] {
        cases.extend(everywhere(
            name,
            &WAITS,
            move |talk, _| {
                talk.act();
                talk.say(reply)?;
                talk.fall_silent()
            },
            |case, _| case,
        ));
    }
    // They are data, and made printable where they are shown.
    const EVIL: &str = "\0\x1b]0;evil\x07\x1b[31m\u{9b}2J\u{202e}\x7f";
    cases.extend(everywhere(
        "NUL and escapes in a refusal",
        &WAITS,
        |talk, _| {
            talk.act();
            talk.refuse(&format!("554 5.7.1 {EVIL} not you\r\n"))
        },
        |case, at| {
            let comes = at.fails().replace("transient", "permanent");
            case.comes(comes.replace("in-doubt", "permanent"))
                .tells("not you")
        },
    ));
    cases.extend(both(
        Case::new("NUL and escapes in a success", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.taken();
            talk.say(format!("250 2.0.0 {EVIL} queued\r\n"))?;
            talk.oblige()
        })
        .tells("queued"),
    ));
    cases
}
