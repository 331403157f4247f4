//! Servers that are slow, fall silent, stop reading, or go: each deadline is kept, and what may have been taken is in
//! doubt.

use smtp_proto::TlsPolicy;

use crate::case::{At, Case, WAITS, everywhere};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(slow());
    cases.extend(everywhere(
        "silence",
        &WAITS,
        |talk, _| talk.fall_silent(),
        |case, at| case.short(at).tells("timed out after 0.3 s"),
    ));
    cases.extend(everywhere(
        "a server that stops reading",
        &[At::Body],
        |talk, _| talk.stop_reading(),
        |case, at| case.short(at),
    ));
    cases.extend(everywhere(
        "reset",
        &At::ALL,
        |talk, _| talk.reset(),
        in_handshake,
    ));
    cases.extend(everywhere(
        "half-close",
        &At::ALL,
        |talk, _| talk.half_close(),
        in_handshake,
    ));
    cases.extend(everywhere(
        "half a reply, and the end",
        &WAITS,
        |talk, at| {
            talk.act();
            talk.say(if at == At::Data { "354 go" } else { "250 o" })?;
            talk.half_close()
        },
        in_handshake,
    ));
    cases.extend(after_the_reply());
    cases
}

/// An octet now and then, of a line, of lines, and of a record.
fn slow() -> Vec<Case> {
    let mut cases = everywhere(
        "slow drip",
        &WAITS,
        |talk, at| {
            talk.drip(if at == At::Greeting {
                b"220-x"
            } else {
                b"250-x"
            })
        },
        |case, at| case.short(at).tells("timed out after 0.3 s"),
    );
    cases.extend(everywhere(
        "slow drip of lines",
        &WAITS,
        |talk, at| {
            let code = if at == At::Greeting { "220" } else { "250" };
            talk.drip(format!("{code}-\r\n").repeat(1_000).as_bytes())
        },
        |case, at| case.short(at).tells("timed out after 0.3 s"),
    ));
    let in_record = everywhere(
        "slow drip of a record",
        &WAITS,
        |talk, _| {
            let record = talk.sealed("250-text\r\n".repeat(1_000).as_bytes())?;
            talk.drip_raw(&record)
        },
        |case, at| case.short(at).tells("timed out after 0.3 s"),
    );
    cases.extend(
        in_record
            .into_iter()
            .filter(|case| case.policy == TlsPolicy::Implicit),
    );
    cases
}

/// TLS fails, for the client, as long as nothing was said inside it.
fn in_handshake(case: Case, at: At) -> Case {
    match at {
        At::Greeting if case.credentials.is_some() => case.comes("unopened: connect transient"),
        _ => case,
    }
}

/// The connection goes with a whole reply, or after it.
fn after_the_reply() -> Vec<Case> {
    let mut cases = Vec::new();
    for is_reset in [false, true] {
        let name = if is_reset { "reset" } else { "TLS cut" };
        let case = Case::new(format!("{name} after the final reply"), move |talk| {
            talk.reach(At::Dot)?;
            talk.act();
            talk.take()?;
            match is_reset {
                // The reply would go with the connection.
                true => {
                    talk.reach(At::Quit)?;
                    talk.reset()
                }
                false => talk.half_close(),
            }
        });
        cases.extend([case.clone().in_tls(), case]);
    }
    let case = Case::new("silence at QUIT", |talk| {
        talk.reach(At::Quit)?;
        talk.fall_silent()
    });
    cases.extend([case.clone().in_tls(), case]);
    let case = Case::new("the end between two messages", |talk| {
        talk.reach(At::Dot)?;
        talk.act();
        talk.take()?;
        talk.half_close()
    })
    .messages(2)
    .comes("sent; mail transient");
    cases.extend([case.clone().in_tls(), case]);
    cases
}
