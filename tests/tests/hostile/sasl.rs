//! Servers that play with a login.

use std::io;

use smtp_proto::{Credentials, TlsPolicy};

use crate::case::{At, Case, PASSWORD};
use crate::server::Talk;

/// Inside TLS, with these mechanisms.
fn login(
    name: &str,
    mechanisms: &'static str,
    script: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
) -> Case {
    Case::new(name, move |talk| {
        talk.offer = format!("250-mx\r\n250 AUTH {mechanisms}\r\n");
        talk.reach(At::Auth)?;
        talk.act();
        script(talk)
    })
    .comes("unopened: auth transient")
    .in_tls()
}

/// Says this challenge, whatever comes.
fn challenge_for_ever(talk: &mut Talk, challenge: &str) -> io::Result<()> {
    loop {
        talk.say(format!("334 {challenge}\r\n"))?;
        talk.command()?;
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        login("250 for 235", "PLAIN", |talk| {
            talk.say("250 2.0.0 welcome\r\n")?;
            talk.fall_silent()
        }),
        login("220 for 235", "PLAIN", |talk| {
            talk.say("220 2.0.0 welcome\r\n")?;
            talk.fall_silent()
        }),
        login(
            "235 before SCRAM has proved the server",
            "SCRAM-SHA-256",
            |talk| {
                talk.say("235 2.7.0 welcome\r\n")?;
                talk.fall_silent()
            },
        )
        .comes("unopened: auth permanent")
        .logs_in(false),
        login("a challenge of 1 MiB", "CRAM-MD5", |talk| {
            let _ = talk.say(format!("334 {}\r\n", "QUFB".repeat((1 << 20) / 4)));
            talk.fall_silent()
        })
        .logs_in(false),
        login("endless 334 to XOAUTH2", "XOAUTH2", |talk| {
            challenge_for_ever(talk, "e30=")
        }),
        login("endless 334 to PLAIN", "PLAIN", |talk| {
            challenge_for_ever(talk, "")
        })
        .comes("unopened: auth permanent"),
        login("endless 334 to LOGIN", "LOGIN", |talk| {
            challenge_for_ever(talk, "VXNlcm5hbWU6")
        })
        .comes("unopened: auth permanent"),
        login("endless 334 to SCRAM", "SCRAM-SHA-256", |talk| {
            challenge_for_ever(talk, "cj1hYmM=")
        })
        .comes("unopened: auth permanent")
        .logs_in(false),
        login("a challenge that is not base64", "CRAM-MD5", |talk| {
            talk.say("334 <not base64>\r\n")?;
            talk.command()?;
            talk.say("501 5.7.0 cancelled\r\n")?;
            talk.oblige()
        })
        .comes("unopened: auth permanent")
        .logs_in(false),
        login("the password echoed in a refusal", "PLAIN", |talk| {
            let said = talk.line.clone();
            talk.say(format!("535 5.7.8 {said} {PASSWORD}\r\n"))?;
            talk.oblige()
        })
        .comes("unopened: auth permanent"),
    ];
    if let Some(case) = cases.iter_mut().find(|case| case.name.contains("XOAUTH2")) {
        case.credentials = Some(Credentials::token("alice", PASSWORD));
    }
    cases.extend(downgraded());
    cases
}

/// In clear, a mechanism that shows the password is offered alone, or remains when the others are refused.
fn downgraded() -> Vec<Case> {
    let offer = |mechanisms: &str| format!("250-mx\r\n250 AUTH {mechanisms}\r\n");
    let alone = offer("PLAIN LOGIN");
    let weaker = offer("CRAM-MD5 PLAIN LOGIN");
    vec![
        Case::new("mechanisms downgraded to PLAIN in clear", move |talk| {
            talk.offer = alone.clone();
            talk.act();
            talk.oblige()
        })
        .with_password()
        .comes("unopened: auth permanent"),
        Case::new("CRAM-MD5 refused in clear, PLAIN remains", move |talk| {
            talk.offer = weaker.clone();
            talk.reach(At::Auth)?;
            talk.act();
            talk.say("504 5.5.4 not that one\r\n")?;
            talk.oblige()
        })
        .with_password()
        .comes("unopened: auth permanent"),
        Case::new("no mechanisms inside TLS", |talk| {
            talk.offer = "250-mx\r\n250 AUTH\r\n".into();
            talk.act();
            talk.oblige()
        })
        .in_tls()
        .logs_in(false)
        .comes("unopened: auth permanent"),
        Case::new(
            "a password for AUTH in clear after an opportunistic offer",
            |talk| {
                talk.offer = "250-mx\r\n250 AUTH SCRAM-SHA-256 CRAM-MD5\r\n".into();
                talk.act();
                talk.oblige()
            },
        )
        .with_password()
        .policy(TlsPolicy::Opportunistic)
        .comes("unopened: auth permanent"),
    ]
}
