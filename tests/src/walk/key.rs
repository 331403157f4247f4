//! Which states count as one. The [manual](super) lists what this may merge.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::books::{Books, ReplyIndex, Transaction};
use super::letter::Letter;
use super::world::World;

/// How much is merged into one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merging {
    /// As the [manual](super) describes.
    Coarse,
    /// Less: states must also agree in the last letter, and in the code of each reply to any message so far.
    Fine,
}

/// The key of the state after this letter.
pub(crate) fn key(world: &mut World<'_>, letter: Letter, merging: Merging) -> u64 {
    let mut hasher = DefaultHasher::new();
    if merging == Merging::Fine {
        letter.hash(&mut hasher);
        let history = &world.books.transactions;
        history
            .iter()
            .for_each(|transaction| of_history(&world.books, transaction, &mut hasher));
    }
    let seen = world.see();
    seen.phase.hash(&mut hasher);
    (seen.timeout.is_some(), seen.wants_body, seen.is_idle).hash(&mut hasher);
    seen.offer.hash(&mut hasher);
    world.engine.chunk_size().hash(&mut hasher);
    of_application(world, &mut hasher);
    let books = &world.books;
    world.wire.state().hash(&mut hasher);
    world.gathered.hash(&mut hasher);
    (books.given - books.written).hash(&mut hasher);
    for owed in &books.owed {
        (owed.kind, owed.overlaps, owed.written.is_some()).hash(&mut hasher);
        owed.transaction
            .map(|number| books.transactions[number].message)
            .hash(&mut hasher);
    }
    of_session(books, &mut hasher);
    for transaction in &books.transactions {
        if transaction.message >= world.finished {
            of_transaction(books, transaction, &mut hasher);
        }
    }
    if let Some(last) = books.transactions.last() {
        let failed = [last.mail, last.data, last.refused_chunk, last.of_all];
        let failed = failed
            .into_iter()
            .flatten()
            .any(|index| books.code(index) >= 400);
        let accepted = books.accepted(books.transactions.len() - 1).count() > 0;
        (failed, accepted, last.given_up, last.ended).hash(&mut hasher);
    }
    hasher.finish()
}

fn of_application(world: &World<'_>, hasher: &mut impl Hasher) {
    (world.messages.len(), world.finished).hash(hasher);
    (world.requests.len(), world.answered).hash(hasher);
    (world.has_quit, world.is_ready).hash(hasher);
    if let Some(feed) = world
        .feed
        .as_ref()
        .filter(|feed| feed.message >= world.finished)
    {
        (feed.message, feed.used, feed.complete).hash(hasher);
    }
}

fn of_session(books: &Books, hasher: &mut impl Hasher) {
    books.offer.hash(hasher);
    (books.has_hello, books.ehlo_unknown, books.tls).hash(hasher);
    (books.handshake.is_some(), books.in_auth).hash(hasher);
    (books.auth_lines, books.logged_in, books.holds).hash(hasher);
    (books.quit, books.goodbye.is_some(), books.requests.len()).hash(hasher);
}

fn of_history(books: &Books, transaction: &Transaction, hasher: &mut impl Hasher) {
    let code = |index: Option<ReplyIndex>| index.map(|index| books.code(index));
    let replies = [
        transaction.mail,
        transaction.data,
        transaction.refused_chunk,
        transaction.of_all,
    ];
    replies.map(code).hash(hasher);
    let named = transaction.named.iter().map(|(_, reply)| code(*reply));
    let each = transaction
        .of_each
        .iter()
        .map(|(_, reply)| code(Some(*reply)));
    named.chain(each).for_each(|code| code.hash(hasher));
    transaction.given_up.hash(hasher);
}

fn of_transaction(books: &Books, transaction: &Transaction, hasher: &mut impl Hasher) {
    let class = |index: Option<ReplyIndex>| index.map(|index| books.code(index) / 100);
    (
        transaction.message,
        transaction.overlaps,
        transaction.decided,
    )
        .hash(hasher);
    (class(transaction.mail), class(transaction.data)).hash(hasher);
    (class(transaction.refused_chunk), class(transaction.of_all)).hash(hasher);
    for (recipient, reply) in &transaction.named {
        (recipient, class(*reply)).hash(hasher);
    }
    for (recipient, reply) in &transaction.of_each {
        (recipient, class(Some(*reply))).hash(hasher);
    }
    (
        transaction.ended,
        transaction.lone_dot,
        transaction.given_up,
    )
        .hash(hasher);
}
