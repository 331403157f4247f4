//! The state of each recipient of a message. They are asked in the order of the envelope, in one or several
//! transactions. A result belongs to one recipient, and is never a default for all.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::Error;
use crate::reply::Reply;

/// The state of one recipient.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// Not asked in any transaction yet.
    Waiting,
    /// The server takes no more recipients in this transaction, so the next transaction asks again. If none follows,
    /// this error is the result. It is boxed, so that a standing is as large as a result, and the list of standings
    /// becomes the report in place.
    Deferred(Box<Error>),
    /// RCPT was sent.
    Asked,
    /// 2yz to RCPT.
    Accepted,
    /// PRDR's own 2yz, which the last reply may still revoke.
    Promised(Reply),
    Decided(Result<Reply, Error>),
}

impl Standing {
    fn may_be_asked(&self) -> bool {
        matches!(self, Self::Waiting | Self::Deferred(_))
    }

    fn is_undecided_here(&self) -> bool {
        matches!(self, Self::Asked | Self::Accepted | Self::Promised(_))
    }
}

#[derive(Debug)]
pub(crate) struct Recipients {
    list: Vec<Standing>,
    /// Where this transaction begins, or the last one began. All before this one are decided.
    first: usize,
    /// The next one to ask. All before it were asked or passed over in this transaction.
    next: usize,
    /// How many recipients this transaction may name.
    room: usize,
    /// Counts of this transaction: RCPTs sent, accepted, and refused. Those that are left to the next transaction count
    /// as sent only.
    asked: usize,
    accepted: usize,
    refused: usize,
    /// For how many of this transaction the server has taken the message.
    taken: usize,
    /// How many are not asked yet, or will be asked again.
    left: usize,
    /// The first one that this transaction deferred.
    deferred: Option<usize>,
}

impl Recipients {
    pub(crate) fn new(count: usize) -> Self {
        let mut list = Vec::new();
        list.resize_with(count, || Standing::Waiting);
        let (first, next, room) = (0, 0, count);
        let (asked, accepted, refused, taken) = (0, 0, 0, 0);
        Self {
            list,
            first,
            next,
            room,
            asked,
            accepted,
            refused,
            taken,
            left: count,
            deferred: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// How many will be asked, in this transaction or another one.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// The positions of those that will be asked.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = usize> {
        let from = self.list.iter().enumerate().skip(self.first);
        from.filter(|(_, standing)| standing.may_be_asked())
            .map(|(index, _)| index)
    }

    /// Those that have their own error so far.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (usize, &Error)> {
        self.list
            .iter()
            .enumerate()
            .filter_map(|(index, standing)| match standing {
                Standing::Decided(Err(error)) => Some((index, error)),
                _ => None,
            })
    }

    // One transaction.

    /// Begins a transaction that may name `room` recipients, at the first one that the transaction before has left.
    pub(crate) fn begin(&mut self, room: usize) {
        self.first = self.deferred.take().unwrap_or(self.next);
        (self.next, self.room) = (self.first, room);
        (self.asked, self.accepted, self.refused, self.taken) = (0, 0, 0, 0);
    }

    /// The next one to name in this transaction.
    pub(crate) fn peek(&mut self) -> Option<u32> {
        if self.asked >= self.room {
            return None;
        }
        self.skip();
        (self.next < self.list.len()).then_some(self.next as u32)
    }

    fn skip(&mut self) {
        while self
            .list
            .get(self.next)
            .is_some_and(|standing| !standing.may_be_asked())
        {
            self.next += 1;
        }
    }

    /// The recipient of [`peek`](Self::peek) was named.
    pub(crate) fn ask(&mut self) {
        if let Some(standing) = self.list.get_mut(self.next) {
            *standing = Standing::Asked;
            self.next += 1;
            self.asked += 1;
            self.left -= 1;
        }
    }

    /// The recipient of [`peek`](Self::peek) cannot be named.
    pub(crate) fn exclude(&mut self, error: Error) {
        if let Some(standing) = self.list.get_mut(self.next) {
            *standing = Standing::Decided(Err(error));
            self.left -= 1;
        }
    }

    /// Whether all recipients of this transaction were named and refused.
    pub(crate) fn none_accepted(&self) -> bool {
        let all_asked = self.asked >= self.room || self.left == 0;
        all_asked && self.refused == self.asked
    }

    /// Whether the server has taken the message for nobody in this transaction.
    pub(crate) fn none_taken(&self) -> bool {
        self.taken == 0
    }

    /// How many recipients of this transaction were accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked
    }

    /// Whether recipients are left for another transaction.
    pub(crate) fn may_have_another(&self, may_defer: bool) -> bool {
        let unanswered = self.accepted + self.refused < self.asked;
        self.deferred.is_some() || self.left > 0 || (may_defer && unanswered)
    }

    pub(crate) fn accept(&mut self, index: u32) {
        self.accepted += 1;
        self.set(index, Standing::Accepted);
    }

    pub(crate) fn refuse(&mut self, index: u32, error: Error) {
        self.refused += 1;
        self.set(index, Standing::Decided(Err(error)));
    }

    /// RCPT was answered after the transaction had failed. The answer says nothing about the recipient.
    pub(crate) fn pass(&mut self) {
        self.refused += 1;
    }

    /// Leaves this one to the next transaction.
    pub(crate) fn defer(&mut self, index: u32, error: Error) {
        self.left += 1;
        self.deferred.get_or_insert(index as usize);
        self.set(index, Standing::Deferred(Box::new(error)));
    }

    pub(crate) fn decide(&mut self, index: u32, result: Result<Reply, Error>) {
        self.taken += usize::from(result.is_ok());
        self.set(index, Standing::Decided(result));
    }

    pub(crate) fn promise(&mut self, index: u32, reply: Reply) {
        self.set(index, Standing::Promised(reply));
    }

    fn set(&mut self, index: u32, standing: Standing) {
        if let Some(slot) = self.list.get_mut(index as usize) {
            *slot = standing;
        }
    }

    /// The first undecided one from `from` on that was accepted in this transaction.
    pub(crate) fn next_accepted(&self, from: u32) -> Option<u32> {
        let from = (from as usize).max(self.first).min(self.next);
        let of_transaction = &self.list[from..self.next];
        let found = of_transaction
            .iter()
            .position(|standing| matches!(standing, Standing::Accepted));
        found.map(|at| (from + at) as u32)
    }

    /// The server took the message. This decides all undecided recipients of the transaction.
    pub(crate) fn succeed(&mut self, reply: &Reply) {
        self.settle(|_, standing| match standing {
            Standing::Promised(own) => Ok(own.clone()),
            _ => Ok(reply.clone()),
        });
    }

    /// The transaction has failed. This decides all its undecided recipients, and those that it would still have
    /// named. A deferred one keeps its own answer.
    pub(crate) fn fail(&mut self, mut error: impl FnMut(usize) -> Error) {
        self.settle(|index, _| Err(error(index)));
        // Only a refused sender or a lost connection fails it before all are named. No transaction follows then, so
        // nobody counts them any more.
        let others = self.list.iter_mut().enumerate().skip(self.next);
        let others = others.filter(|(_, standing)| standing.may_be_asked());
        for (index, standing) in others.take(self.room.saturating_sub(self.asked)) {
            if matches!(standing, Standing::Waiting) {
                *standing = Standing::Decided(Err(error(index)));
            }
        }
    }

    fn settle(&mut self, mut result: impl FnMut(usize, &Standing) -> Result<Reply, Error>) {
        let first = self.first;
        for (at, standing) in self.list[first..self.next].iter_mut().enumerate() {
            if standing.is_undecided_here() {
                let result = result(first + at, standing);
                self.taken += usize::from(result.is_ok());
                *standing = Standing::Decided(result);
            }
        }
    }

    // The result.

    /// The results, in the order of the envelope. Recipients that were never named get `unnamed`.
    pub(crate) fn into_results(self, unnamed: impl Fn() -> Error) -> Vec<Result<Reply, Error>> {
        let result = |standing| match standing {
            Standing::Decided(result) => result,
            Standing::Deferred(error) => Err(*error),
            Standing::Promised(_) | Standing::Waiting | Standing::Asked | Standing::Accepted => {
                Err(unnamed())
            }
        };
        self.list.into_iter().map(result).collect()
    }
}
