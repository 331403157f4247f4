//! The reports against the records: each verdict needs its reply, and each reply goes to its recipient.

use smtp_proto::{Cause, Error, Outcome, Protocol, Reply};

use super::books::{Books, Ending, Kind, ReplyIndex, Transaction};
use super::scene::{Scene, Writing};
use super::{Failure, fail};

/// The required result of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// This reply took it.
    Taken(ReplyIndex),
    /// This reply refused it.
    Refused(ReplyIndex),
    /// The application could not give the body.
    GivenUp,
    /// Another one was refused, and all had to be accepted.
    AllOrNothing,
    NotAttempted,
    InDoubt,
    /// The session ended before the end of its data.
    Lost,
    /// The same, before it was named.
    LostOrNotAttempted,
    /// The sender was refused. The recipient may have had no place in that transaction.
    RefusedOrNotAttempted(ReplyIndex),
}

/// Compares the report of one recipient.
pub(crate) fn check(
    scene: &Scene,
    books: &Books,
    message: usize,
    recipient: usize,
    result: &Result<Reply, Error>,
) -> Result<&'static str, Failure> {
    let verdict = expected(scene, books, message, recipient);
    let (is_right, name) = match (verdict, result) {
        (Verdict::Taken(index), Ok(reply)) => (is_reply(books, index, reply), "delivered"),
        (Verdict::Refused(index), Err(error)) => (is_refusal(books, index, error), "refused"),
        (Verdict::GivenUp, Err(error)) => {
            let is_own = matches!(error.cause, Cause::Local(_));
            (is_own && error.outcome == Outcome::Permanent, "given up")
        }
        (Verdict::AllOrNothing, Err(error)) => {
            let is_own = error.cause == Cause::AllOrNothing;
            (
                is_own && error.outcome == Outcome::NotAttempted,
                "all or nothing",
            )
        }
        (Verdict::NotAttempted, Err(error)) => {
            (error.outcome == Outcome::NotAttempted, "not attempted")
        }
        (Verdict::InDoubt, Err(error)) => (error.outcome == Outcome::InDoubt, "in doubt"),
        (Verdict::Lost, Err(error)) => (is_loss(books, error), "lost"),
        (Verdict::LostOrNotAttempted, Err(error)) => {
            let is_right = error.outcome == Outcome::NotAttempted || is_loss(books, error);
            (is_right, "lost or not attempted")
        }
        (Verdict::RefusedOrNotAttempted(_), Err(error))
            if error.outcome == Outcome::NotAttempted =>
        {
            (true, "not attempted")
        }
        (Verdict::RefusedOrNotAttempted(index), Err(error)) => {
            (is_refusal(books, index, error), "refused")
        }
        (_, _) => (false, ""),
    };
    match is_right {
        true => Ok(name),
        false => fail(
            "a verdict that no reply gave",
            format!("m{message}r{recipient} is {verdict:?}, and reported {result:?}"),
        ),
    }
}

fn is_reply(books: &Books, index: ReplyIndex, reply: &Reply) -> bool {
    let said = &books.said[index];
    said.code == reply.code().get() && said.text.as_bytes() == reply.text()
}

fn is_refusal(books: &Books, index: ReplyIndex, error: &Error) -> bool {
    let is_own = |reply| is_reply(books, index, reply);
    error.reply().is_some_and(is_own) && error.outcome == outcome_of(books, index)
}

fn outcome_of(books: &Books, index: ReplyIndex) -> Outcome {
    match books.code(index) {
        500.. => Outcome::Permanent,
        _ => Outcome::Transient,
    }
}

/// A temporary error without a reply, or one by the reply that ended the session, with its class.
fn is_loss(books: &Books, error: &Error) -> bool {
    let Cause::Rejected(reply) = &error.cause else {
        return error.outcome == Outcome::Transient;
    };
    let last = match books.ending {
        Some(Ending::Said(index, _)) => Some(index),
        _ => None,
    };
    let by = |index: ReplyIndex| {
        is_reply(books, index, reply) && error.outcome == outcome_of(books, index)
    };
    last.into_iter().chain(books.goodbye).any(by)
}

fn expected(scene: &Scene, books: &Books, message: usize, recipient: usize) -> Verdict {
    let of_message = |transaction: &&Transaction| transaction.message == message;
    let transactions = || books.transactions.iter().enumerate().rev();
    let named = transactions()
        .filter(|(_, transaction)| of_message(transaction))
        .find(|(_, transaction)| transaction.reply_to(recipient).is_some());
    let Some((number, transaction)) = named else {
        return match transactions().find(|(_, transaction)| of_message(transaction)) {
            None => Verdict::NotAttempted,
            Some((_, last)) => of_unnamed(scene, books, last),
        };
    };
    if let Some(refusal) = refusal_of_mail(books, transaction) {
        return refusal;
    }
    // It was sent before anybody knew whether the server takes overlapping commands.
    if transaction.overlaps && transaction.mail.is_none() {
        return Verdict::LostOrNotAttempted;
    }
    let own = transaction.reply_to(recipient).flatten();
    if let Some(index) = own.filter(|index| books.code(*index) >= 400) {
        return Verdict::Refused(index);
    }
    of_accepted(scene, books, number, recipient)
}

fn refusal_of_mail(books: &Books, transaction: &Transaction) -> Option<Verdict> {
    let mail = transaction.mail.filter(|index| books.code(*index) >= 400)?;
    // The server does not take overlapping commands, so this message was not begun.
    Some(match transaction.overlaps && books.code(mail) == 503 {
        true => Verdict::NotAttempted,
        false => Verdict::Refused(mail),
    })
}

fn of_unnamed(scene: &Scene, books: &Books, last: &Transaction) -> Verdict {
    let has_limit = scene.says_full || scene.offers[0].contains(&"LIMITS RCPTMAX=1");
    match refusal_of_mail(books, last) {
        // Some had no place in that transaction.
        Some(Verdict::Refused(index)) if has_limit => Verdict::RefusedOrNotAttempted(index),
        Some(refusal) => refusal,
        // Its RCPT may have been sent, but not written.
        None if last.given_up && scene.writing != Writing::Direct => Verdict::GivenUp,
        None => Verdict::LostOrNotAttempted,
    }
}

/// A recipient that was accepted, or has no answer of its own.
fn of_accepted(scene: &Scene, books: &Books, number: usize, recipient: usize) -> Verdict {
    let transaction = &books.transactions[number];
    let is_refused = |index: &ReplyIndex| books.code(*index) >= 400;
    if let Some(index) = transaction.data.filter(is_refused) {
        return Verdict::Refused(index);
    }
    if let Some(index) = transaction.refused_chunk {
        return Verdict::Refused(index);
    }
    if transaction.given_up {
        return Verdict::GivenUp;
    }
    let refused =
        |(_, reply): &(usize, Option<ReplyIndex>)| reply.is_some_and(|reply| is_refused(&reply));
    let all_or_nothing = scene.messages[transaction.message].is_all_or_nothing();
    if all_or_nothing && transaction.named.iter().any(refused) {
        let all = transaction.named.iter().all(|(_, reply)| reply.is_some());
        return match all && transaction.named.len() == recipients(scene, transaction) {
            true => Verdict::AllOrNothing,
            false => Verdict::Lost,
        };
    }
    let of_each = transaction.of_each.iter().find(|(of, _)| *of == recipient);
    let of_each = of_each.map(|(_, reply)| *reply);
    let is_lmtp = scene.config.protocol == Protocol::Lmtp;
    let deciding = if is_lmtp { of_each } else { transaction.of_all };
    if let Some(index) = of_each.filter(is_refused) {
        return Verdict::Refused(index);
    }
    if let Some(index) = deciding.filter(is_refused) {
        return Verdict::Refused(index);
    }
    if let Some(index) = deciding {
        return Verdict::Taken(of_each.unwrap_or(index));
    }
    match (transaction.ended, books.ending) {
        // An overlapping message does not go on if the session ends before its turn.
        (false, _) if transaction.overlaps => Verdict::LostOrNotAttempted,
        (false, _) => Verdict::Lost,
        (true, Some(Ending::Said(index, Some((kind, of))))) if books.code(index) == 421 => {
            // A 421 instead of the reply means that it was not accepted.
            let is_own = of == Some(number)
                && (!is_lmtp || !kind.is_end() || kind == Kind::EndFor(recipient));
            if is_own {
                Verdict::Lost
            } else {
                Verdict::InDoubt
            }
        }
        _ => Verdict::InDoubt,
    }
}

fn recipients(scene: &Scene, transaction: &Transaction) -> usize {
    scene.messages[transaction.message].forward_paths().len()
}
