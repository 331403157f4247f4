//! Whether the engine's timeouts come at the right time.
//!
//! The clock of a reply starts at the later of two times: its command was written, and the reply before it came.

use std::time::Duration;

use smtp_proto::{Cause, Instant};

use super::Failure;
use super::books::{About, Kind, Said};
use super::driver::World;

/// Checks the timeout that ended the session, if one did.
pub(crate) fn check(world: &World<'_>) -> Result<(), Failure> {
    let Some(Err(error)) = &world.closed else {
        return Ok(());
    };
    let (Cause::TimedOut(after), Some((at, writes))) = (&error.cause, world.time_up) else {
        return Ok(());
    };
    let lmtp = world.scene.traits.lmtp;
    let said = &world.server.books.said;
    let leaves = said.iter().any(|said| said.about == About::Leaving);
    // In these cases, the client waits for something unknown.
    // A write that is under way has its own clock.
    if world.excused || leaves || writes || world.scene.traits.swallows {
        return Ok(());
    }
    let heard = world.hears.last().map_or(0, |(octets, _)| *octets);
    let when = |log: &[(usize, Instant)], octet: usize| {
        log.iter()
            .find(|(octets, _)| *octets >= octet)
            .map(|(_, time)| *time)
    };
    let whole: Vec<_> = said.iter().filter(|said| said.end <= heard).collect();
    let last_reply = whole.last().and_then(|said| when(&world.hears, said.end));
    let last_write = world.writes.last().map(|(_, time)| *time);
    // Replies come in order, so everything before the last answered command is answered.
    let last_answered = whole.iter().filter_map(|said| said.answers).max();
    let owed = world
        .server
        .books
        .demands
        .iter()
        .enumerate()
        .find(|(place, demand)| {
            let replies = whole.iter().filter(|said| said.answers == Some(*place));
            // A reply for all, or PRDR's last one of several.
            let is_last = |said: &Said| matches!(said.about, About::End(_) | About::EndOfAll(_));
            let is_done = replies.clone().any(|said| is_last(said) && !lmtp);
            Some(*place) >= last_answered && replies.count() < demand.replies && !is_done
        });
    // A reply proves that its command was written, even if the completion comes later.
    let is_answered = owed.is_some_and(|(place, _)| last_answered == Some(place));
    // LMTP does not define how many replies follow the end of refused data.
    if !(lmtp && is_answered) {
        check_duration(world, owed.map(|(_, demand)| demand.kind), *after)?;
    }
    // Before the greeting, only the greeting is owed.
    let start = match owed.and_then(|(_, demand)| when(&world.writes, demand.end)) {
        _ if whole.is_empty() => Some(world.writes[0].1),
        _ if is_answered => last_reply,
        Some(written) => last_reply.max(Some(written)),
        None if owed.is_none() => {
            return Err(Failure::new("timed out, nothing owed", format!("{error}")));
        }
        None => last_write,
    };
    match start.filter(|start| at.saturating_since(*start) < *after) {
        None => Ok(()),
        Some(start) => {
            let waited = at.saturating_since(start);
            let what = format!("{error}: after {waited:?}; owed: {owed:?}");
            Err(Failure {
                cause: error.stage.to_string(),
                ..Failure::new("timed out too early", what)
            })
        }
    }
}

/// The timeout belongs to the command whose reply is owed.
fn check_duration(world: &World<'_>, kind: Option<Kind>, after: Duration) -> Result<(), Failure> {
    let config = &world.scene.config;
    let timeouts = &config.timeouts;
    let own = match kind {
        Some(Kind::First) if config.overlap => [timeouts.mail, timeouts.overlap],
        Some(Kind::First) => [timeouts.mail; 2],
        Some(Kind::Chunk) => [timeouts.block; 2],
        Some(Kind::End) => [timeouts.end_of_message; 2],
        Some(Kind::Other) => [timeouts.rcpt; 2],
        // The greeting, or a session that only listens.
        None => return Ok(()),
    };
    // A session that only reads waits once, for all owed replies.
    match own.contains(&after) || after == timeouts.end_of_message {
        true => Ok(()),
        false => Err(Failure::new(
            "the time of another command",
            format!("{after:?} for {kind:?}"),
        )),
    }
}
