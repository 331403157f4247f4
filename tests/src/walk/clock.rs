//! Deadlines: one is armed whenever a reply is owed, and it is the one of RFC 5321 section 4.5.3.2.

use std::time::Duration;

use smtp_proto::{Instant, Timeouts};

use super::books::{Books, Kind};
use super::scene::{Scene, Writing};
use super::{Failure, fail};

fn timeout(kind: Kind, timeouts: &Timeouts) -> Duration {
    match kind {
        Kind::Greeting => timeouts.greeting,
        Kind::Hello | Kind::Helo => timeouts.ehlo,
        Kind::StartTls => timeouts.starttls,
        Kind::Auth | Kind::AuthCancel => timeouts.auth,
        Kind::Rset | Kind::Mail => timeouts.mail,
        Kind::Rcpt(_) => timeouts.rcpt,
        Kind::Data => timeouts.data,
        Kind::Chunk => timeouts.block,
        Kind::End | Kind::EndFor(_) | Kind::EndOfAll => timeouts.end_of_message,
        Kind::Request(_) => timeouts.request,
    }
}

/// Compares the engine's deadline with the later of two times: the command was written, and the reply before it came.
/// `phase` comes from the engine. It only decides that a session that drains has one deadline.
pub(crate) fn check(
    scene: &Scene,
    books: &Books,
    phase: &str,
    is_on_offer: bool,
    armed: Option<Instant>,
) -> Result<(), Failure> {
    let timeouts = &scene.config.timeouts;
    let wrong = |what: String| fail("a deadline that is not as it should be", what);
    if phase == "closed" {
        return match armed {
            None => Ok(()),
            Some(_) => wrong(format!("closed, and {armed:?}")),
        };
    }
    if let Some(since) = books.handshake {
        let expected = Some(since + timeouts.handshake);
        return match armed == expected {
            true => Ok(()),
            false => wrong(format!("handshake: {armed:?}, and not {expected:?}")),
        };
    }
    if phase == "draining" {
        return match armed {
            Some(_) => Ok(()),
            None => wrong("none while the session drains".into()),
        };
    }
    let front = books.front();
    // The RSET of a request has the request's timeout, and the records do not tell the two apart.
    let is_rset = front.is_some_and(|owed| owed.kind == Kind::Rset && scene.requests > 0);
    let expected = front.and_then(|owed| {
        let written = owed.written?.max(books.last_reply);
        let own = match (owed.overlaps, owed.kind) {
            (true, _) => timeouts.overlap,
            (false, kind) => timeout(kind, timeouts),
        };
        Some((owed.kind, written + own))
    });
    match (expected, armed) {
        (Some((kind, _)), None) => wrong(format!("none while {kind:?} is owed")),
        (Some(_), Some(_)) if is_rset => Ok(()),
        (Some((kind, at)), Some(armed)) => {
            let is_right = match scene.writing {
                Writing::Direct => armed == at,
                // Octets on offer that are not taken have their own timeout.
                Writing::Slow | Writing::Gathers => armed <= at,
            };
            match is_right {
                true => Ok(()),
                false => wrong(format!("{armed:?} for {kind:?}, and not {at:?}")),
            }
        }
        (None, None) if is_on_offer && scene.writing == Writing::Slow => {
            wrong("none while octets are on offer".into())
        }
        (None, Some(_)) if front.is_none() && scene.writing == Writing::Direct => {
            wrong(format!("{armed:?} while nothing is owed"))
        }
        _ => Ok(()),
    }
}
