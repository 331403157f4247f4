//! STARTTLS: taken out of the offer, refused, injected into, stalled, cut, and what changes across it.

use std::io;
use std::thread;
use std::time::Duration;

use smtp_proto::TlsPolicy;

use crate::case::{At, Case};
use crate::server::Talk;

const BEFORE: &str =
    "250-mx.example.net\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n";

/// TLS is required, and there is a password.
fn required(
    name: &str,
    script: impl Fn(&mut Talk) -> io::Result<()> + Clone + Send + Sync + 'static,
) -> Case {
    Case::new(name, move |talk| {
        talk.offer = BEFORE.into();
        script(talk)
    })
    .policy(TlsPolicy::Required)
    .with_password()
}

/// The server takes STARTTLS, says this, and falls silent.
fn injected(name: &str, reply: &'static [u8], later: &'static [u8]) -> Case {
    required(name, move |talk| {
        talk.reach(At::StartTls)?;
        talk.act();
        talk.say(reply)?;
        if !later.is_empty() {
            thread::sleep(Duration::from_millis(50));
            talk.say(later)?;
        }
        talk.fall_silent()
    })
    .comes("unopened: starttls transient")
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(stripped());
    cases.extend([
        injected(
            "STARTTLS injected, in the same segment",
            b"220 go ahead\r\n250-mx\r\n250 AUTH PLAIN\r\n",
            b"",
        ),
        injected("STARTTLS injected, half a line", b"220 go ahead\r\n25", b""),
        injected("STARTTLS injected, one octet", b"220 go ahead\r\n\n", b""),
        injected(
            "STARTTLS injected, 50 ms later",
            b"220 go ahead\r\n",
            b"250-mx\r\n250 AUTH PLAIN\r\n",
        ),
        injected(
            "STARTTLS answered in plaintext",
            b"220 go ahead\r\n",
            b"220 welcome\r\n",
        ),
        injected(
            "STARTTLS answered with an alert",
            b"220 go ahead\r\n",
            b"\x15\x03\x03\0\x02\x02\x50",
        ),
    ]);
    cases.extend(unanswered());
    cases.extend(handshakes());
    cases.extend(inside());
    cases
}

/// Nothing but the refusal goes out in clear.
fn stripped() -> Vec<Case> {
    let mut cases = Vec::new();
    let opportunistic = |case: Case, name: &str| {
        let case = case.policy(TlsPolicy::Opportunistic);
        Case {
            name: format!("{name}, opportunistic with a password"),
            ..case
        }
    };
    let strip = |talk: &mut Talk| {
        talk.reach(At::Ehlo)?;
        talk.act();
        talk.say("250-mx.example.net\r\n250 AUTH PLAIN LOGIN\r\n")?;
        talk.oblige()
    };
    let case = required("STARTTLS stripped", strip).comes("unopened: starttls permanent");
    cases.extend([
        opportunistic(case.clone(), "STARTTLS stripped").comes("unopened: auth permanent"),
        case,
    ]);
    let by_helo = |talk: &mut Talk| {
        talk.reach(At::Ehlo)?;
        talk.act();
        talk.say("502 5.5.1 what?\r\n")?;
        talk.oblige()
    };
    let case = required("STARTTLS stripped by HELO", by_helo).comes("unopened: ehlo permanent");
    cases.extend([
        opportunistic(case.clone(), "STARTTLS stripped by HELO").comes("unopened: auth permanent"),
        case,
    ]);
    for (code, comes) in [
        ("454", "transient"),
        ("502", "permanent"),
        ("554", "permanent"),
    ] {
        let refuse = move |talk: &mut Talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.say(format!("{code} no\r\n"))?;
            talk.oblige()
        };
        let name = format!("STARTTLS refused by {code}");
        let case = required(&name, refuse).comes(format!("unopened: starttls {comes}"));
        cases.extend([
            opportunistic(case.clone(), &name).comes("unopened: auth permanent"),
            case,
        ]);
    }
    cases.push(
        required("STARTTLS answered with 250", |talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.say("250 ok\r\n")?;
            talk.fall_silent()
        })
        // 2yz is what it takes to begin the handshake.
        .short(At::Handshake)
        .comes("unopened: starttls transient"),
    );
    cases
}

/// STARTTLS has no reply, or one that does not end.
fn unanswered() -> Vec<Case> {
    type Act = fn(&mut Talk) -> io::Result<()>;
    let acts: [(&str, Act, bool); 6] = [
        ("silence", Talk::fall_silent, true),
        ("slow drip", |talk| talk.drip(b"220-x"), true),
        ("endless line", |talk| talk.flood("220-", "x"), false),
        (
            "endless lines",
            |talk| talk.flood("220-", "text\r\n220-"),
            false,
        ),
        ("reset", Talk::reset, false),
        ("half-close", Talk::half_close, false),
    ];
    let case = |(name, act, is_slow): (&str, Act, bool)| {
        let case = required(&format!("{name} at StartTls"), move |talk| {
            talk.reach(At::StartTls)?;
            act(talk)
        })
        .comes(At::StartTls.fails());
        match is_slow {
            true => case.short(At::StartTls).tells("timed out after 0.3 s"),
            false => case,
        }
    };
    acts.into_iter().map(case).collect()
}

/// Silence, drip and loss from the 220 to the last message of the handshake.
fn handshakes() -> Vec<Case> {
    type Act = fn(&mut Talk, Vec<u8>) -> io::Result<()>;
    let acts: [(&str, Act, bool); 6] = [
        ("stalled", |talk, _| talk.fall_silent(), true),
        (
            "stalled in the middle",
            |talk, hello| {
                talk.act();
                talk.say_raw(&hello[..hello.len() / 2])?;
                talk.fall_silent()
            },
            true,
        ),
        (
            "stalled before its end",
            |talk, hello| {
                talk.act();
                talk.say_raw(&hello[..hello.len() - 1])?;
                talk.fall_silent()
            },
            true,
        ),
        ("dripping", |talk, hello| talk.drip_raw(&hello), true),
        ("reset", |talk, _| talk.reset(), false),
        (
            "cut in the middle",
            |talk, hello| {
                talk.act();
                talk.say_raw(&hello[..hello.len() / 2])?;
                talk.half_close()
            },
            false,
        ),
    ];
    let mut cases = Vec::new();
    for (name, act, is_slow) in acts {
        let by_starttls = required(&format!("handshake {name}"), move |talk| {
            talk.reach(At::StartTls)?;
            talk.say("220 go ahead\r\n")?;
            let hello = talk.server_hello()?;
            act(talk, hello)
        })
        .comes(At::Handshake.fails());
        let implicit = Case::new(format!("handshake {name}, implicit"), move |talk| {
            let hello = talk.server_hello()?;
            act(talk, hello)
        })
        .policy(TlsPolicy::Implicit)
        .with_password()
        .comes("unopened: connect transient");
        for case in [by_starttls, implicit] {
            cases.push(match is_slow {
                true => case.short(At::Handshake).tells("timed out after 0.3 s"),
                false => case,
            });
        }
    }
    cases
}

/// After the handshake.
fn inside() -> Vec<Case> {
    vec![
        required("what was offered before TLS is forgotten", |talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.answer()?;
            // Neither PIPELINING nor AUTH.
            talk.offer = "250 mx.example.net\r\n".into();
            talk.oblige()
        })
        .comes("unopened: auth permanent"),
        required(
            "PIPELINING was offered before TLS, and is not inside",
            |talk| {
                talk.reach(At::StartTls)?;
                talk.act();
                talk.answer()?;
                talk.offer = "250-mx.example.net\r\n250 AUTH PLAIN\r\n".into();
                for at in [At::Mail, At::Rcpt, At::Rcpt, At::Data] {
                    talk.reach(at)?;
                    talk.must_be_alone()?;
                    talk.answer()?;
                }
                talk.oblige()
            },
        )
        .logs_in(true),
        required("AUTH is offered inside TLS alone", |talk| {
            talk.offer = "250-mx.example.net\r\n250 STARTTLS\r\n".into();
            talk.reach(At::StartTls)?;
            talk.act();
            talk.answer()?;
            talk.offer = "250-mx.example.net\r\n250 AUTH PLAIN\r\n".into();
            talk.oblige()
        })
        .logs_in(true),
        required("STARTTLS is offered again inside TLS", |talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.answer()?;
            talk.oblige()
        })
        .logs_in(true),
        required("a greeting inside TLS", |talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.answer()?;
            talk.say("220 mx.example.net ESMTP\r\n")?;
            talk.fall_silent()
        })
        // It is taken for the reply to EHLO, which offers nothing.
        .comes("unopened: auth permanent"),
        required("a reply inside TLS before its command", |talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.answer()?;
            talk.reach(At::Ehlo)?;
            talk.say("250-mx\r\n250 AUTH PLAIN\r\n235 welcome\r\n")?;
            talk.fall_silent()
        })
        .comes("unopened: auth transient"),
        required("plaintext inside TLS", |talk| {
            talk.reach(At::StartTls)?;
            talk.act();
            talk.answer()?;
            talk.reach(At::Ehlo)?;
            talk.say_raw(b"250-mx\r\n250 AUTH PLAIN\r\n")?;
            talk.fall_silent()
        })
        .comes("unopened: starttls transient"),
        required("TLS cut within the final reply", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.say("250 2.0.0 q")?;
            talk.half_close()
        })
        .logs_in(true)
        .comes("eom in-doubt"),
        required("TLS cut within the record of the final reply", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            let record = talk.sealed(b"250 2.0.0 queued\r\n")?;
            talk.say_raw(&record[..record.len() - 1])?;
            talk.half_close()
        })
        .logs_in(true)
        .comes("eom in-doubt"),
        required("a changed octet in the record of the final reply", |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            let mut record = talk.sealed(b"250 2.0.0 queued\r\n")?;
            let last = record.len() - 1;
            record[last] ^= 1;
            talk.say_raw(&record)?;
            talk.fall_silent()
        })
        .logs_in(true)
        .comes("eom in-doubt"),
    ]
}
