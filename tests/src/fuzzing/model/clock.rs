//! Whether the engine's timeouts come at the right time.
//!
//! The clock of a reply starts at the later of two times: its command was written, and the reply before it came.

use std::cmp::Ordering;
use std::time::Duration;

use smtp_proto::{Cause, Chunking, Instant};

use super::Failure;
use super::books::{About, Kind, Said};
use super::driver::World;
use super::scene::Planned;

/// Checks the replies, and the timeout by which the session ended, if it did.
pub(crate) fn check(world: &World<'_>) -> Result<(), Failure> {
    if world.excused {
        return Ok(());
    }
    check_replies(world)?;
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
    if world.handshake_at.is_some() {
        // Nothing else is owed then.
        return match *after == world.scene.config.timeouts.handshake {
            true => Ok(()),
            false => Err(Failure::new("the time of another command", "a handshake")),
        };
    }
    let heard = world.hears.last().map_or(0, |(octets, _)| *octets);
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
    let Some(start) = start else { return Ok(()) };
    let waited = at.saturating_since(start);
    let kind = match waited.cmp(after) {
        Ordering::Less => "timed out too early",
        Ordering::Greater if !may_only_listen(world) => "timed out too late",
        _ => return Ok(()),
    };
    let what = format!("{error}: after {waited:?}; owed: {owed:?}");
    Err(Failure {
        cause: error.stage.to_string(),
        ..Failure::new(kind, what)
    })
}

/// The timeout belongs to the command whose reply is owed.
fn check_duration(world: &World<'_>, kind: Option<Kind>, after: Duration) -> Result<(), Failure> {
    let timeouts = &world.scene.config.timeouts;
    // A session that only listens waits once, for all that is owed.
    let listens = may_only_listen(world) && after == timeouts.end_of_message;
    match listens || may_take(world, kind).contains(&after) {
        true => Ok(()),
        false => Err(Failure::new(
            "the time of another command",
            format!("{after:?} for {kind:?}"),
        )),
    }
}

/// How long the reply to this may take; to nothing, the greeting.
fn may_take(world: &World<'_>, kind: Option<Kind>) -> Vec<Duration> {
    let config = &world.scene.config;
    let timeouts = &config.timeouts;
    let overlap = config.overlap.then_some(timeouts.overlap);
    let mut durations = match kind {
        None => vec![timeouts.greeting],
        Some(Kind::Hello) => vec![timeouts.ehlo],
        Some(Kind::StartTls) => vec![timeouts.starttls],
        // Before a request too.
        Some(Kind::Rset) => vec![timeouts.mail, timeouts.request],
        Some(Kind::Mail) => vec![timeouts.mail],
        Some(Kind::Rcpt) => vec![timeouts.rcpt],
        Some(Kind::Data) => vec![timeouts.data],
        Some(Kind::Chunk) => vec![timeouts.block],
        Some(Kind::End) => vec![timeouts.end_of_message],
        Some(Kind::Request) => vec![timeouts.request],
        Some(Kind::Quit) => vec![timeouts.quit],
    };
    if matches!(kind, Some(Kind::Rset | Kind::Mail)) {
        durations.extend(overlap);
    }
    durations
}

/// Whether there is a reason to end a session in which replies are still owed: a body that stops, or a server that says
/// that it goes.
fn may_only_listen(world: &World<'_>) -> bool {
    let said = &world.server.books.said;
    let stops = |message: &Planned| {
        let wrong_size = message
            .envelope
            .exact_size_octets()
            .is_some_and(|size| size != message.body.len() as u64);
        message.source_fails.is_some()
            || wrong_size
            || message.body.iter().any(|b| *b == 0 || *b > 127)
    };
    let leaves = |said: &Said| said.about == About::Leaving;
    let refuses = |said: &Said| said.code >= 400;
    world.scene.messages.iter().any(stops)
        || said.iter().any(leaves)
        || (world.scene.config.chunking == Chunking::Eager && said.iter().any(refuses))
}

/// Each reply that the engine went on after came in time, however slowly its octets did.
fn check_replies(world: &World<'_>) -> Result<(), Failure> {
    if world.scene.traits.swallows || may_only_listen(world) {
        return Ok(());
    }
    let heard = world.hears.last().map_or(0, |(octets, _)| *octets);
    let books = &world.server.books;
    let mut before = Some(world.writes[0].1);
    for said in books.said.iter().take_while(|said| said.end <= heard) {
        let came = when(&world.hears, said.end);
        let demand = said.answers.and_then(|place| books.demands.get(place));
        let written = demand.and_then(|demand| when(&world.writes, demand.end));
        let is_greeting = said.answers.is_none() && said.about == About::Opening;
        if let (Some(came), true) = (came, is_greeting || written.is_some()) {
            let start = before.max(written);
            let waited = start.map_or(Duration::ZERO, |start| came.saturating_since(start));
            let most = may_take(world, demand.map(|demand| demand.kind))
                .into_iter()
                .max();
            if most.is_some_and(|most| waited > most) {
                let what = format!("{said:?} after {waited:?}, and not {most:?}");
                return Err(Failure::new("a reply after its time", what));
            }
        }
        before = before.max(came);
    }
    Ok(())
}

/// When so many octets were there.
fn when(log: &[(usize, Instant)], octet: usize) -> Option<Instant> {
    log.iter()
        .find(|(octets, _)| *octets >= octet)
        .map(|(_, time)| *time)
}
