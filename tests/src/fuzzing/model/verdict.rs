//! What a report must say, where the conversation leaves no choice: the reply that was for this recipient.
//!
//! `judge.rs` says which reports cannot be true. Here it is the other way round: a reply that the engine has heard is
//! what the recipient is told, with the stage, the command and the outcome that go with it.

use smtp_proto::{Cause, Error, Outcome, Reply, Stage};

use super::Failure;
use super::books::{About, Said};
use super::driver::Finished;
use super::judge::Judge;

/// Checks one recipient of a report in which nothing is excused.
pub(super) fn check(
    judge: &Judge<'_>,
    finished: &Finished,
    who: usize,
    result: &Result<Reply, Error>,
) -> Result<(), Failure> {
    if let Err(error) = result {
        consistent(judge, finished, who, error)?;
    }
    let Some(due) = due(judge, finished, who) else {
        return Ok(());
    };
    // The body may have stopped for a reason of our own before.
    let is_of_body = matches!(
        due.about,
        About::Chunk(_) | About::End(_) | About::EndOfAll(_)
    );
    let stopped = |error: &Error| matches!(error.cause, Cause::Body(_) | Cause::Local(_));
    if is_of_body && result.as_ref().is_err_and(stopped) {
        return Ok(());
    }
    let told = match result {
        Err(error) => match &error.cause {
            Cause::Rejected(reply) => judge.said(reply),
            _ => None,
        },
        Ok(_) => None,
    };
    let is_own = told.is_some_and(|told| told.end == due.end);
    let outcome = result.as_ref().err().map(|error| error.outcome);
    match is_own && outcome == Some(outcome_of(due.code)) {
        true => Ok(()),
        false => Err(Failure::new("another verdict", format!("due: {due:?}"))),
    }
}

/// The refusal that decides about this recipient, where there is one and the engine must have taken it so.
fn due<'j>(judge: &Judge<'j>, finished: &Finished, who: usize) -> Option<&'j Said> {
    let books = judge.books;
    let heard = |said: &&Said| said.end <= finished.heard && !judge.session_ended_before(said);
    let envelope = &judge.scene.messages[finished.message].envelope;
    let named = books
        .of_message(finished.message)
        .find(|(_, transaction)| transaction.reply_to(who).is_some());
    let (number, transaction) = named?;
    let first = |about: About| books.said.iter().find(|said| said.about == about);
    let mail = first(About::Mail(number)).filter(heard)?;
    if mail.code >= 400 {
        // An envelope that overlaps may have been sent to a server that does not take it.
        return Some(mail).filter(|mail| mail.code != 503);
    }
    let own = &books.said[transaction.reply_to(who)??];
    let own = Some(own).filter(heard)?;
    if own.code >= 400 {
        // Somebody who is left to the next transaction shares its fate, once it has begun.
        let may_be_left = own.code == 452 && judge.scene.config.learn_limits;
        return Some(own).filter(|_| !may_be_left || !envelope.is_reopenable());
    }
    if envelope.is_all_or_nothing() {
        return None;
    }
    let refused = |said: &&Said| heard(said) && said.code >= 400;
    let of_body = first(About::Data(number)).filter(refused).or_else(|| {
        let chunks = books.said.iter();
        chunks
            .filter(|said| said.about == About::Chunk(number))
            .find(refused)
    });
    if of_body.is_some() {
        return of_body;
    }
    let own_end = first(About::EndFor {
        transaction: number,
        recipient: who,
    });
    let all = books.deciding(number, who, judge.scene.traits.lmtp)?;
    if !heard(&all) {
        return None;
    }
    own_end
        .filter(refused)
        .or(Some(all))
        .filter(|said| said.code >= 400)
}

/// What a refusal with this code means (RFC 5321 section 4.2.1).
fn outcome_of(code: u16) -> Outcome {
    match code {
        500.. => Outcome::Permanent,
        _ => Outcome::Transient,
    }
}

/// Outcome, stage, command and recipient go with the reply.
fn consistent(
    judge: &Judge<'_>,
    finished: &Finished,
    who: usize,
    error: &Error,
) -> Result<(), Failure> {
    let fail = |what: &str| Err(Failure::new("inconsistent", format!("{what}: {error:?}")));
    if error.recipient.is_some_and(|about| about != who) {
        return fail("about another recipient");
    }
    if let Some(command) = error.command.as_deref().filter(|c| c.starts_with("RCPT ")) {
        let path = &judge.scene.messages[finished.message]
            .envelope
            .forward_paths()[who];
        if *command != format!("RCPT TO:<{path}>") {
            return fail("the command of another recipient");
        }
    }
    let Cause::Rejected(reply) = &error.cause else {
        return Ok(());
    };
    let Some(said) = judge.said(reply) else {
        return Ok(());
    };
    if error.outcome != outcome_of(said.code)
        && !matches!(error.outcome, Outcome::InDoubt | Outcome::NotAttempted)
    {
        return fail("another outcome");
    }
    let stages: &[Stage] = match said.about {
        About::Rset | About::Mail(_) => &[Stage::Mail],
        About::Rcpt { .. } => &[Stage::Rcpt],
        About::Data(_) => &[Stage::Data],
        // Also in the middle of the data.
        About::Chunk(_) => &[Stage::Body, Stage::EndOfMessage],
        About::End(_) | About::EndFor { .. } | About::EndOfAll(_) => {
            &[Stage::EndOfMessage, Stage::Body]
        }
        _ => return Ok(()),
    };
    match stages.contains(&error.stage) || error.outcome == Outcome::NotAttempted {
        true => Ok(()),
        false => fail("another stage"),
    }
}
