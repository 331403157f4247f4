//! The output, the replies that are owed for it, and the deadline of the oldest reply.
//!
//! A reply is attributed by position. Each command names the reply that it awaits, and a reply takes the front of the
//! queue. [`Awaited::rule`] in [`awaited`](super::awaited) says what that reply may be, and how long it may take.
//! Batches (RFC 2920) come from one rule, [`Pipeline::may_send`].
//!
//! # Taken, given and written
//!
//! Every octet of the output has its place in one stream. Three offsets in it matter. *Taken*: it has left the
//! engine. *Given*: a write of it was begun, so it may reach the server. *Written*: the transport has it. A reply can
//! only answer what was given when the reply began, and proves that it is written. The refusal of a body is an
//! exception to both: it may begin within that body, and the server need not have read all of it. The clock of a reply
//! starts when its command is written, or at the reply before it, whichever is later.
//!
//! `now` is the latest time that the caller has given. It is kept here, so that no clock starts at an earlier time.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use zeroize::Zeroize;

use crate::command::Command;
use crate::config::Config;
use crate::event::MessageId;
use crate::time::Instant;

use super::awaited::{Awaited, MessageReply, OpeningReply};

/// One reply that is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    pub(crate) what: Awaited,
    /// Octets of the command that it answers.
    octets: usize,
    /// The place in the stream where that command ends.
    end: u64,
    /// The number of round trips when that command was sent.
    trip: u64,
}

impl Owed {
    /// The place in the stream where that command begins.
    fn start(&self) -> u64 {
        self.end - self.octets as u64
    }
}

/// When a reply began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Began {
    /// After all that it answers was given.
    InTime,
    /// In the body that it answers, which the server may refuse before the end.
    InBody,
    /// Before the command that it would answer.
    Early,
}

/// A point in time, and the duration that led to it, for the error line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

impl Deadline {
    pub(crate) fn new(now: Instant, after: Duration) -> Self {
        let at = now + after;
        Self { at, after }
    }
}

/// The output to the server, and the replies that are owed for it.
#[derive(Debug)]
pub(crate) struct Pipeline {
    config: Arc<Config>,
    out: Vec<u8>,
    /// How much of `out` was taken.
    start: usize,
    /// `out` holds credentials, and is wiped once it is taken.
    secret: bool,
    /// A part of a reply has come.
    began: Option<Began>,
    owed: VecDeque<Owed>,
    in_flight: usize,
    taken: u64,
    given: u64,
    /// `written` is what the caller reports. `answered` is what a reply has proved before that.
    written: u64,
    answered: u64,
    /// The latest time that the caller has given.
    now: Instant,
    /// The deadline for the front of `owed`, once its command is written.
    deadline: Option<Deadline>,
    /// The deadline for the transport to take some of what it was offered or given.
    write: Option<Deadline>,
    /// The fewest round trips that explain the replies so far: each command was sent only after the reply before it.
    round_trips: u64,
}

impl Pipeline {
    pub(crate) fn new(config: Arc<Config>, now: Instant) -> Self {
        Self {
            config,
            out: Vec::new(),
            start: 0,
            secret: false,
            began: None,
            owed: VecDeque::new(),
            in_flight: 0,
            taken: 0,
            given: 0,
            written: 0,
            answered: 0,
            now,
            deadline: None,
            write: None,
            round_trips: 0,
        }
    }

    /// The caller gives the time.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// The latest time that the caller has given.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    // What may be sent.

    /// Whether a command of about `len` octets may be sent now. This is the only place where a batch ends.
    pub(crate) fn may_send(&self, pipelining: bool, len: usize) -> bool {
        // rule: transaction.in-flight-limit
        self.owed.is_empty() || (pipelining && self.in_flight + len <= self.config.limits.in_flight)
    }

    /// Sends a command, and awaits its reply.
    pub(crate) fn push(&mut self, command: Command<'_>, what: Awaited) {
        let octets = self.say(command);
        self.in_flight += octets;
        let (end, trip) = (self.end(), self.round_trips);
        self.owed.push_back(Owed {
            what,
            octets,
            end,
            trip,
        });
    }

    /// Sends a command whose reply is not waited for.
    pub(crate) fn say(&mut self, command: Command<'_>) -> usize {
        self.secret |= command.is_secret();
        // Octets that were taken are dropped, even while others wait.
        if self.start >= self.out.len() / 2 {
            self.out.drain(..self.start);
            self.start = 0;
        }
        command.write(&mut self.out)
    }

    /// The output, for octets that are not a command: the end of a body.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Awaits a reply to the octets so far: a greeting, a complete chunk or a complete body.
    pub(crate) fn await_reply(&mut self, what: Awaited, trip: u64) {
        let end = self.end();
        self.owed.push_back(Owed {
            what,
            octets: 0,
            end,
            trip,
        });
    }

    /// Awaits another reply to the same octets, before all others. They end a body, so they do not count in flight.
    pub(crate) fn await_next(&mut self, what: Awaited, after: Owed) {
        self.owed.push_front(Owed { what, ..after });
    }

    /// Awaits the greeting.
    pub(crate) fn await_greeting(&mut self) {
        self.await_reply(Awaited::Opening(OpeningReply::Greeting), self.round_trips);
        self.arm();
    }

    /// The place in the stream where the output ends.
    fn end(&self) -> u64 {
        self.taken + self.pending().len() as u64
    }

    // What is owed.

    /// Chunks whose replies are owed.
    pub(crate) fn chunks(&self) -> usize {
        let is_chunk = |owed: &&Owed| {
            matches!(
                owed.what.reply(),
                Some(MessageReply::Chunk(_) | MessageReply::EndOfData)
            )
        };
        self.owed.iter().filter(is_chunk).count()
    }

    /// Whether a reply about this message is owed.
    pub(crate) fn owes(&self, message: MessageId) -> bool {
        self.owed
            .iter()
            .any(|owed| owed.what.message() == Some(message))
    }

    /// The reply that is owed next.
    pub(crate) fn front(&self) -> Option<Awaited> {
        self.owed.front().map(|owed| owed.what)
    }

    /// Whether no reply is owed.
    pub(crate) fn is_settled(&self) -> bool {
        self.owed.is_empty()
    }

    /// A part of a reply has come, and the rest has not. Its first part decides when it began.
    pub(crate) fn begin_reply(&mut self, began: Began) {
        self.began.get_or_insert(began);
    }

    /// A reply has come to its end. When it began, if not only now.
    pub(crate) fn end_reply(&mut self) -> Option<Began> {
        self.began.take()
    }

    /// Whether the next reply answers something that may have reached the server.
    pub(crate) fn front_is_given(&self) -> bool {
        self.front_is_given_but(0)
    }

    /// The same for all but the last `n` octets of it.
    pub(crate) fn front_is_given_but(&self, n: u64) -> bool {
        let given = self.given + n;
        self.owed.front().is_some_and(|owed| given >= owed.end)
    }

    /// Whether all that was taken but its last `n` octets may have reached the server.
    pub(crate) fn is_given_but(&self, n: u64) -> bool {
        self.given + n >= self.taken
    }

    /// Whether replies for more than one message are owed.
    pub(crate) fn is_overlapping(&self) -> bool {
        // Replies come in the order of messages, so comparing both ends is enough.
        let [first, last] = [self.owed.front(), self.owed.back()]
            .map(|owed| owed.and_then(|owed| owed.what.message()));
        first != last || self.owed.front().is_some_and(|owed| owed.what.overlaps())
    }

    /// Whether a reply is owed that decides about a message, for octets that may reach the server.
    pub(crate) fn awaits_decision(&self) -> bool {
        self.owed
            .iter()
            .any(|owed| owed.what.is_end_of_data() && self.taken >= owed.end)
    }

    /// Whether the MAIL of this message may have reached the server.
    pub(crate) fn has_begun(&self, message: MessageId) -> bool {
        let mut of_message = self
            .owed
            .iter()
            .filter(|owed| owed.what.message() == Some(message));
        let mail = of_message.find(|owed| owed.what.is_mail());
        mail.is_none_or(|mail| self.given >= mail.end)
    }

    /// Whether the RSET before this message, or its MAIL that overlaps, is not answered yet.
    pub(crate) fn has_unanswered_start(&self, message: MessageId) -> bool {
        let of_message = |owed: &&Owed| owed.what.message() == Some(message);
        let first = self.owed.iter().find(of_message);
        first.is_some_and(|owed| owed.what.overlaps() || owed.what.is_rset())
    }

    /// Whether the end of this message's data may have reached the server.
    pub(crate) fn end_is_given(&self, message: MessageId) -> bool {
        let ends =
            |owed: &&Owed| owed.what.message() == Some(message) && owed.what.is_end_of_data();
        self.owed
            .iter()
            .find(ends)
            .is_some_and(|owed| self.given >= owed.end)
    }

    /// A reply has come. After it is processed, [`arm`](Self::arm) the next one.
    pub(crate) fn take_owed(&mut self, is_refusal: bool) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        self.round_trips = self.round_trips.max(owed.trip + 1);
        self.in_flight -= owed.octets;
        self.deadline = None;
        // A server may refuse a body that it has not read. A reply for one recipient comes after all of it.
        let of_whole_body = matches!(
            owed.what.reply(),
            Some(MessageReply::Chunk(_) | MessageReply::EndOfData)
        );
        let was_read = !(is_refusal && of_whole_body);
        if was_read && owed.end > self.written.max(self.answered) {
            // The reply proves that the transport has taken this much, even if no completion says so yet.
            self.answered = owed.end;
            self.write = None;
            self.expect_progress();
        }
        Some(owed)
    }

    /// The reply was not an answer, and the session ends. The real one is still owed, and nothing more goes out.
    pub(crate) fn put_back(&mut self, owed: Owed) {
        self.owed.push_front(owed);
    }

    /// Starts the clock of the oldest reply, if its command is written and the clock is not running.
    pub(crate) fn arm(&mut self) {
        // A command does not overlap if none of it was given before all other replies came.
        let given = self.given;
        let alone = |owed: &&mut Owed| owed.what.overlaps() && owed.start() >= given;
        for owed in self.owed.iter_mut().take_while(alone) {
            owed.what = owed.what.alone();
        }
        // rule: ends.dripping-server
        if self.deadline.is_none()
            && let Some(front) = self.owed.front()
            && self.written.max(self.answered) >= front.end
        {
            let timeout = front.what.rule().timeout;
            self.deadline = Some(Deadline::new(self.now, timeout(&self.config.timeouts)));
        }
    }

    /// Whether the time for the reply that is owed next has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| self.now >= deadline.at)
    }

    /// Whether the transport has taken all that it was given.
    fn is_written_as_given(&self) -> bool {
        self.written.max(self.answered) >= self.given
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        match (self.deadline, self.write) {
            (Some(reply), Some(write)) if write.at < reply.at => Some(write),
            (Some(reply), _) => Some(reply),
            (None, write) => write,
        }
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips
    }

    // What leaves.

    /// The octets to send.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.out[self.start..]
    }

    /// The transport is offered something. It has this long to take some of it, or as long as the reply to it may
    /// take.
    pub(crate) fn offer(&mut self, timeout: Duration) {
        let reply = self.owed.front().filter(|front| front.end > self.taken);
        let reply = reply.map(|front| (front.what.rule().timeout)(&self.config.timeouts));
        // rule: ends.block-timeout
        let timeout = reply.map_or(timeout, |reply| reply.min(timeout));
        let now = self.now;
        self.write
            .get_or_insert_with(|| Deadline::new(now, timeout));
    }

    /// Nothing is on offer.
    pub(crate) fn offer_nothing(&mut self) {
        if self.is_written_as_given() {
            self.write = None;
        }
    }

    /// `n` of the pending octets were taken.
    pub(crate) fn take(&mut self, n: usize) {
        let n = n.min(self.pending().len());
        self.start += n;
        self.taken += n as u64;
        if self.start == self.out.len() {
            self.clear_output();
        }
    }

    /// `n` octets of a body were taken.
    pub(crate) fn take_body(&mut self, n: usize) {
        self.taken += n as u64;
    }

    /// A write of the `n` octets after those that are written was begun. More than there are counts as all.
    pub(crate) fn give(&mut self, n: u64) {
        self.given = self
            .given
            .max(self.written.saturating_add(n).min(self.taken));
        self.expect_progress();
    }

    /// All that was taken was given.
    pub(crate) fn give_all(&mut self) {
        self.give(u64::MAX);
    }

    /// The transport has taken the next `n` octets. More than there are counts as all.
    pub(crate) fn write(&mut self, n: u64) {
        self.written = self.written.saturating_add(n).min(self.taken);
        self.given = self.given.max(self.written);
        if n > 0 {
            self.write = None;
            self.expect_progress();
        }
        self.arm();
    }

    /// All that was taken is written. It replaces [`write`](Self::write) if nothing is gathered.
    pub(crate) fn write_all(&mut self) {
        self.write(u64::MAX);
    }

    /// The transport has this long to take some of what it was given.
    fn expect_progress(&mut self) {
        if !self.is_written_as_given() {
            self.offer(self.config.timeouts.block);
        }
    }

    /// Whether the output is empty.
    pub(crate) fn is_taken(&self) -> bool {
        self.pending().is_empty()
    }

    fn clear_output(&mut self) {
        if core::mem::take(&mut self.secret) {
            self.out.zeroize();
        }
        self.out.clear();
        self.start = 0;
    }

    /// Whether a reply is owed for octets that were taken.
    pub(crate) fn awaits_reply(&self) -> bool {
        self.owed.front().is_some_and(|owed| owed.end <= self.taken)
    }

    /// Drops the output and all replies that are owed.
    pub(crate) fn shut(&mut self) {
        self.clear_output();
        self.owed.clear();
        self.in_flight = 0;
        self.deadline = None;
        self.write = None;
    }

    /// Frees the buffers, as far as they are empty.
    pub(crate) fn release(&mut self) {
        self.out.shrink_to_fit();
        self.owed.shrink_to_fit();
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.clear_output();
    }
}
