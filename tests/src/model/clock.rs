//! Whether time was up when the engine said so.
//!
//! The clock of a reply runs from the later of two moments: its command was written, and the reply before it
//! came.

use smtp_proto::{Cause, Instant};

use super::Failure;
use super::books::About;
use super::driver::World;

/// Checks the timeout by which the session ended, if it did.
pub(crate) fn check(world: &World<'_>) -> Result<(), Failure> {
    let Some(Err(error)) = &world.closed else {
        return Ok(());
    };
    let (Cause::TimedOut(after), Some((at, writes))) = (&error.cause, world.time_up) else {
        return Ok(());
    };
    let said = &world.server.books.said;
    let leaves = said.iter().any(|said| said.about == About::Leaving);
    // There the client waits for what nobody knows.
    // A write that is under way has a clock of its own.
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
    // Replies come in order, so what is before the last one that was answered is answered.
    let last_answered = whole.iter().filter_map(|said| said.answers).max();
    let owed = world
        .server
        .books
        .demands
        .iter()
        .enumerate()
        .find(|(place, demand)| {
            let replies = whole
                .iter()
                .filter(|said| said.answers == Some(*place))
                .count();
            Some(*place) >= last_answered && replies < demand.replies
        });
    // Before the greeting nothing is owed but that.
    let start = match owed.and_then(|(_, demand)| when(&world.writes, demand.end)) {
        _ if whole.is_empty() => Some(world.writes[0].1),
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
