//! The output buffer, the queue of expected replies, and the deadline of the oldest of them.
//!
//! A reply is attributed by position: each command that is pushed says what it expects, and a reply
//! takes the front of the queue. Batches (RFC 2920) come from one rule: [`has_room`](Pipeline::has_room)
//! asks for an empty queue in lockstep, and for free octets in flight under PIPELINING.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use zeroize::Zeroize;

use crate::capability::{Capabilities, Extension};
use crate::command::Command;
use crate::config::{Config, Timeouts};
use crate::error::Stage;
use crate::event::{Event, MessageId, Trace};
use crate::spent::Spent;
use crate::time::Instant;

use core::time::Duration;

/// What the next reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    AuthCancel,
    Rset,
    Mail,
    /// MAIL in one batch with the end of the data before it.
    OverlappedMail,
    /// RSET in front of such a MAIL.
    OverlappedRset,
    /// The recipient, by its position.
    Rcpt(u32),
    Data,
    /// A chunk that is not the last.
    Chunk,
    EndOfData,
    /// LMTP and PRDR: the recipient that this reply decides about.
    EndOfDataFor(u32),
    /// PRDR: behind the replies for each recipient, the one that decides about all.
    EndOfAll,
    /// A command outside a transaction.
    Request,
}

impl Expect {
    pub(crate) fn stage(self) -> Stage {
        match self {
            Expect::Greeting => Stage::Greeting,
            Expect::Ehlo | Expect::Helo => Stage::Ehlo,
            Expect::StartTls => Stage::StartTls,
            Expect::Auth | Expect::AuthCancel => Stage::Auth,
            Expect::Rset | Expect::OverlappedRset | Expect::Mail | Expect::OverlappedMail => {
                Stage::Mail
            }
            Expect::Rcpt(_) => Stage::Rcpt,
            Expect::Data => Stage::Data,
            Expect::Chunk => Stage::Body,
            Expect::EndOfData | Expect::EndOfDataFor(_) | Expect::EndOfAll => Stage::EndOfMessage,
            Expect::Request => Stage::Request,
        }
    }

    /// Whether it answers the first command of a message, with which what was before is over.
    pub(crate) fn begins_message(self) -> bool {
        matches!(
            self,
            Expect::Rset | Expect::OverlappedRset | Expect::Mail | Expect::OverlappedMail
        )
    }

    pub(crate) fn is_end_of_data(self) -> bool {
        matches!(
            self,
            Expect::EndOfData | Expect::EndOfDataFor(_) | Expect::EndOfAll
        )
    }

    fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            Expect::Greeting => timeouts.greeting,
            Expect::Ehlo | Expect::Helo => timeouts.ehlo,
            Expect::StartTls => timeouts.starttls,
            Expect::Auth | Expect::AuthCancel => timeouts.auth,
            Expect::Rset | Expect::Mail => timeouts.mail,
            Expect::OverlappedRset | Expect::OverlappedMail => timeouts.overlap,
            Expect::Rcpt(_) => timeouts.rcpt,
            Expect::Data => timeouts.data,
            Expect::Chunk => timeouts.block,
            Expect::EndOfData | Expect::EndOfDataFor(_) | Expect::EndOfAll => {
                timeouts.end_of_message
            }
            Expect::Request => timeouts.request,
        }
    }
}

/// One reply that is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) what: Expect,
    /// The message it belongs to; none outside transactions.
    pub(crate) message: Option<MessageId>,
    /// Octets of the command that it answers.
    octets: usize,
    /// The round trips that were done when that command was said.
    trip: u64,
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

/// What the opening and a transaction work with.
pub(crate) struct Context<'a> {
    pub(crate) config: &'a Config,
    pub(crate) pipeline: &'a mut Pipeline,
    pub(crate) capabilities: &'a mut Capabilities,
    pub(crate) spent: &'a mut Spent,
    /// The session is encrypted, and the server's certificate and name were checked.
    pub(crate) verified: bool,
}

impl Context<'_> {
    /// Whether several commands may be unanswered on this connection.
    pub(crate) fn pipelines(&self) -> bool {
        self.config.pipelining && self.capabilities.has(Extension::Pipelining)
    }
}

/// What the engine has to say: bytes to the server, events to the caller.
#[derive(Debug)]
pub(crate) struct Pipeline {
    config: Arc<Config>,
    out: Vec<u8>,
    /// How much of `out` has gone out.
    sent: usize,
    /// How many of the expected replies, from the back, answer what the transport was never offered.
    unoffered: usize,
    /// `out` holds credentials, and is wiped when it has gone out.
    secret: bool,
    expected: VecDeque<Expected>,
    in_flight: usize,
    /// For the front of `expected`; none until its command has been offered to the transport, because
    /// the clock of a reply does not start before.
    deadline: Option<Deadline>,
    pub(crate) events: VecDeque<Event>,
    /// How many replies, at the least, were waited for one after the other: each to something that was said only
    /// when the one before had come.
    round_trips: u64,
}

impl Pipeline {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            out: Vec::new(),
            sent: 0,
            unoffered: 0,
            secret: false,
            expected: VecDeque::new(),
            in_flight: 0,
            deadline: None,
            events: VecDeque::new(),
            round_trips: 0,
        }
    }

    /// Whether a command of about `octets` may go out now.
    pub(crate) fn has_room(&self, pipelining: bool, octets: usize) -> bool {
        self.expected.is_empty()
            || (pipelining && self.in_flight + octets <= self.config.limits.in_flight)
    }

    /// Queues a command, and what it expects.
    pub(crate) fn push(&mut self, command: Command<'_>, what: Expect, message: Option<MessageId>) {
        let octets = self.say(command);
        self.expect(what, message, octets);
    }

    /// Queues a command whose reply is not waited for.
    pub(crate) fn say(&mut self, command: Command<'_>) -> usize {
        self.secret |= command.is_secret();
        if self.config.trace {
            let text = command.redacted().into();
            self.events.push_back(Event::Trace(Trace::Sent(text)));
        }
        command.write(&mut self.out)
    }

    /// Queues octets that are no command line (the end of a body), of which `write` says how many.
    pub(crate) fn write<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<usize, E>,
    ) -> Result<usize, E> {
        write(&mut self.out)
    }

    /// The server speaks first.
    pub(crate) fn expect_greeting(&mut self, now: Instant) {
        self.expect(Expect::Greeting, None, 0);
        self.offer(now);
    }

    /// One more reply is owed.
    pub(crate) fn expect(&mut self, what: Expect, message: Option<MessageId>, octets: usize) {
        self.in_flight += octets;
        self.unoffered += 1;
        self.expected.push_back(Expected {
            what,
            message,
            octets,
            trip: self.round_trips,
        });
    }

    /// More replies are owed before the one that would be the next (PRDR).
    pub(crate) fn expect_first(
        &mut self,
        replies: impl DoubleEndedIterator<Item = Expect>,
        message: MessageId,
    ) {
        // Nothing is said in between.
        let trip = self.round_trips.saturating_sub(1);
        for what in replies.rev() {
            self.expected.push_front(Expected {
                what,
                message: Some(message),
                octets: 0,
                trip,
            });
        }
    }

    /// Chunks whose replies are owed.
    pub(crate) fn chunks(&self) -> usize {
        let chunk =
            |expected: &&Expected| matches!(expected.what, Expect::Chunk | Expect::EndOfData);
        self.expected.iter().filter(chunk).count()
    }

    /// Whether a reply about this message is owed.
    pub(crate) fn owes(&self, message: MessageId) -> bool {
        self.expected
            .iter()
            .any(|expected| expected.message == Some(message))
    }

    /// The reply that is owed next.
    pub(crate) fn front(&self) -> Option<Expected> {
        self.expected.front().copied()
    }

    /// Whether no reply is owed.
    pub(crate) fn is_settled(&self) -> bool {
        self.expected.is_empty()
    }

    /// A reply has come.
    pub(crate) fn take_expected(&mut self, now: Instant) -> Option<Expected> {
        let expected = self.expected.pop_front()?;
        self.round_trips = self.round_trips.max(expected.trip + 1);
        self.in_flight -= expected.octets;
        self.deadline = None;
        // What is owed next was in the same batch, unless it is still in the buffer.
        if self.sent == self.out.len() {
            self.arm(now);
        }
        Some(expected)
    }

    /// Starts the clock of a reply that is owed only since the one before it has come.
    pub(crate) fn arm_next(&mut self, now: Instant) {
        if self.front_offered() {
            self.arm(now);
        }
    }

    /// Starts the clock of the oldest reply, if it is not running.
    fn arm(&mut self, now: Instant) {
        if self.deadline.is_none()
            && let Some(front) = self.front()
        {
            self.deadline = Some(Deadline::new(
                now,
                front.what.timeout(&self.config.timeouts),
            ));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// The octets to send.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// All of the pending octets are about to be offered.
    pub(crate) fn offer(&mut self, now: Instant) {
        self.unoffered = 0;
        self.arm(now);
    }

    /// A chunk has gone out, which was begun when so many round trips were done.
    pub(crate) fn offer_chunk(&mut self, trip: u64, now: Instant) {
        for expected in self.expected.iter_mut().rev().take(self.unoffered) {
            expected.trip = trip;
        }
        self.offer(now);
    }

    /// What is expected for octets that were never offered, so that the server cannot know of them.
    fn unoffered(&self) -> impl Iterator<Item = &Expected> {
        self.expected
            .iter()
            .skip(self.expected.len() - self.unoffered)
    }

    /// Whether there are commands in the buffer that were never offered.
    pub(crate) fn has_unoffered(&self) -> bool {
        self.unoffered > 0
    }

    /// The message whose first command was never offered.
    pub(crate) fn unbegun(&self) -> Option<MessageId> {
        self.unoffered()
            .find(|expected| expected.what.begins_message())?
            .message
    }

    /// Whether the end of this message's data was never offered.
    pub(crate) fn end_unoffered(&self, message: MessageId) -> bool {
        let of_message = |expected: &&Expected| expected.message == Some(message);
        self.unoffered()
            .filter(of_message)
            .any(|expected| expected.what.is_end_of_data())
    }

    /// Whether the reply that is owed next answers something that may have reached the server. One
    /// that comes before that answers nothing.
    pub(crate) fn front_offered(&self) -> bool {
        self.expected.len() > self.unoffered
    }

    /// `n` of the pending octets have gone out.
    pub(crate) fn sent(&mut self, n: usize) {
        self.sent += n.min(self.out.len() - self.sent);
        if self.sent == self.out.len() {
            self.clear_output();
        }
    }

    fn clear_output(&mut self) {
        if core::mem::take(&mut self.secret) {
            self.out.zeroize();
        }
        self.out.clear();
        self.sent = 0;
    }

    /// Nothing more is said or expected, and what has not gone out never will.
    pub(crate) fn shut(&mut self) {
        self.clear_output();
        self.forget_expected();
    }

    /// Gives back the room of what is empty.
    pub(crate) fn release(&mut self) {
        if self.out.is_empty() && self.expected.is_empty() {
            (self.out, self.expected) = (Vec::new(), VecDeque::new());
        }
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
    }

    /// No reply is waited for any more.
    pub(crate) fn forget_expected(&mut self) {
        self.expected.clear();
        self.unoffered = 0;
        self.in_flight = 0;
        self.deadline = None;
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.round_trips
    }

    pub(crate) fn traces(&self) -> bool {
        self.config.trace
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.clear_output();
    }
}
