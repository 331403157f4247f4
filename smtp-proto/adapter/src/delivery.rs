//! The bookkeeping of a delivery over several sessions: which messages wait, who may send them, and their results. No
//! I/O and no clock.
//!
//! A source [pushes](Delivery::push) messages, and [workers](Delivery::worker) take them. A worker never waits here
//! with a session. If it finds no message, or no room for its reports, it first gives its session back.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use smtp_proto::{Cause, Envelope, Outcome, Report, Stage};

use crate::Error;
use crate::again::Again;
use crate::locked::{Lock, Locked};

/// A session sends this many messages before it goes to another caller who waits for one.
pub const TURN: u64 = 10;

/// How many messages the source is asked for in advance.
const QUEUE: usize = 32;

/// While this many reports wait to be taken, further messages are not begun.
const ROOM: usize = 64;

/// A message, as long as it may have to be sent again.
#[derive(Debug)]
pub struct Item<F, T> {
    /// The sender and the recipients.
    pub envelope: Envelope,
    /// The caller's own.
    pub tag: T,
    /// The report of its first attempt, in a session that has ended.
    pub earlier: Option<Report>,
    /// A session that had been used could not take it, and another one might not either.
    needs_new: bool,
    content: Arc<Content<F>>,
}

#[derive(Debug)]
struct Content<F> {
    open: Mutex<F>,
    was_opened: AtomicBool,
}

impl<F, T> Item<F, T> {
    /// A message that was not begun.
    pub fn new(envelope: Envelope, open: F, tag: T) -> Self {
        let content = Content {
            open: Mutex::new(open),
            was_opened: AtomicBool::new(false),
        };
        Self {
            envelope,
            tag,
            earlier: None,
            needs_new: false,
            content: Arc::new(content),
        }
    }

    /// Opens the content, for one session.
    pub fn opener<O>(&self) -> impl FnMut() -> O + use<F, T, O>
    where
        F: FnMut() -> O,
    {
        let content = self.content.clone();
        move || {
            content.was_opened.store(true, Ordering::Relaxed);
            let open = content.open.lock();
            open.unwrap_or_else(PoisonError::into_inner)()
        }
    }

    /// Whether it goes into a session that nobody has used. So each session that is tried in vain is followed by one
    /// that settles it.
    pub fn needs_new_session(&self) -> bool {
        self.needs_new
    }

    /// Whether its content was opened, since the session that ended under it, if one did.
    fn was_opened(&self) -> bool {
        self.content.was_opened.load(Ordering::Relaxed)
    }

    /// Whether one that was begun may be begun once more.
    fn may_be_sent_again(&self) -> bool {
        self.envelope.is_reopenable() || !self.was_opened()
    }

    /// The envelope, the function that opens the content, and the tag. `None` while a session has the content.
    pub fn into_parts(self) -> Option<(Envelope, F, T)> {
        let open = Arc::into_inner(self.content)?.open.into_inner();
        let open = open.unwrap_or_else(PoisonError::into_inner);
        Some((self.envelope, open, self.tag))
    }
}

/// A message that a worker has. Whatever becomes of the worker, it is not lost: dropped, also by a panic or with a
/// runtime, it has a report or is given back.
#[derive(Debug)]
pub struct Taken<F, T> {
    /// It is there until it is settled.
    item: Option<Item<F, T>>,
    delivery: Arc<Delivery<F, T>>,
}

impl<F, T> Taken<F, T> {
    /// It is the caller's now.
    fn into_item(mut self) -> Item<F, T> {
        self.item.take().expect("a message that is not settled")
    }
}

impl<F, T> Deref for Taken<F, T> {
    type Target = Item<F, T>;

    fn deref(&self) -> &Item<F, T> {
        self.item.as_ref().expect("a message that is not settled")
    }
}

impl<F, T> Drop for Taken<F, T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            self.delivery.take_back(item);
        }
    }
}

/// A delivery.
#[derive(Debug)]
pub struct Delivery<F, T>(Lock<State<F, T>>);

#[derive(Debug)]
struct State<F, T> {
    /// Messages that were not taken.
    queue: VecDeque<Item<F, T>>,
    /// Messages of workers without a session, for the other workers.
    returned: VecDeque<Item<F, T>>,
    why_returned: Option<Error>,
    /// The source still runs.
    has_source: bool,
    workers: usize,
    /// How many workers have a message.
    busy: usize,
    /// How many of them have no session yet.
    opening: usize,
    finished: VecDeque<(T, Report)>,
    /// The caller does not want further reports.
    is_over: bool,
    /// The workers have ended before the messages have: no session could be opened, or they panic.
    has_failed: bool,
    waiting: Vec<Waker>,
}

impl<F, T> Delivery<F, T> {
    /// A delivery whose source runs, without workers.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Lock::new(State {
            queue: VecDeque::new(),
            returned: VecDeque::new(),
            why_returned: None,
            has_source: true,
            workers: 0,
            busy: 0,
            opening: 0,
            finished: VecDeque::new(),
            is_over: false,
            has_failed: false,
            waiting: Vec::new(),
        })))
    }

    fn state(&self) -> Locked<'_, State<F, T>> {
        self.0.lock()
    }

    /// For the source: waits until another message is wanted. False if no more messages are wanted.
    pub fn poll_wanted(&self, waker: &Waker) -> Poll<bool> {
        let mut state = self.state();
        match state.queue.len() < QUEUE {
            _ if state.is_over || state.has_failed => Poll::Ready(false),
            true => Poll::Ready(true),
            false => state.wait(waker),
        }
    }

    /// For the source: adds a message. Returns whether another worker would help, if at most `most` are allowed.
    pub fn push(&self, item: Item<F, T>, most: usize) -> bool {
        let mut state = self.state();
        state.queue.push_back(item);
        state.wake_all();
        let idle = state.workers - state.busy;
        // A worker that could not open a session shows that more sessions may be impossible.
        state.workers < most && state.queue.len() > idle && state.why_returned.is_none()
    }

    /// For the source: it has ended, because its messages are used up or not wanted any more.
    pub fn end_source(&self) {
        let mut state = self.state();
        state.has_source = false;
        state.wake_all();
    }

    /// A worker begins.
    pub fn worker(self: &Arc<Self>) -> Worker<F, T> {
        self.state().workers += 1;
        Worker {
            delivery: self.clone(),
            is_busy: false,
            is_opening: false,
        }
    }

    /// The caller does not want further reports: no other messages are begun.
    pub fn stop(&self) {
        self.state().end();
    }

    /// Waits until the caller does not want further reports.
    pub fn poll_over(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.state();
        match state.is_over {
            true => Poll::Ready(()),
            false => state.wait(waker),
        }
    }

    /// The next report, with the tag of its message. `None` after the last one.
    pub fn poll_finished(&self, waker: &Waker) -> Poll<Option<(T, Report)>> {
        let mut state = self.state();
        let has_ended = state.workers == 0 && (!state.has_source || state.has_failed);
        if has_ended {
            state.give_up();
        }
        match state.finished.pop_front() {
            Some(finished) => {
                state.wake_all();
                Poll::Ready(Some(finished))
            }
            None if has_ended => {
                // A worker that begins only now would send what nobody learns of.
                state.end();
                Poll::Ready(None)
            }
            None => state.wait(waker),
        }
    }

    /// Whether the source still runs. After the last report it may, where no session could be opened.
    pub fn has_source(&self) -> bool {
        self.state().has_source
    }

    /// Whoever had this message is gone, and nobody knows how far it has come.
    fn take_back(&self, mut item: Item<F, T>) {
        let report = match item.was_opened() {
            true => {
                let cause = Cause::Local("the thread or task that sent it has ended".into());
                let error = smtp_proto::Error::new(Stage::Local, Outcome::InDoubt, cause);
                let mut report = Report::not_attempted(item.envelope.clone(), &error);
                report.recipients.fill(Err(error));
                Some(report)
            }
            false => item.earlier.take(),
        };
        match report {
            Some(report) => self.finish(item.tag, report),
            None => {
                let mut state = self.state();
                state.returned.push_back(item);
                state.wake_all();
            }
        }
    }

    /// A message has its report.
    fn finish(&self, tag: T, report: Report) {
        let mut state = self.state();
        state.finished.push_back((tag, report));
        state.wake_all();
    }

    /// The messages that nobody has begun, once the workers have ended.
    pub fn take_unbegun(&self) -> VecDeque<Item<F, T>> {
        let mut state = self.state();
        let mut items = std::mem::take(&mut state.returned);
        items.append(&mut state.queue);
        items
    }
}

impl<F, T> Locked<'_, State<F, T>> {
    fn wait<R>(&mut self, waker: &Waker) -> Poll<R> {
        if !self.waiting.iter().any(|other| other.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
        Poll::Pending
    }

    fn end(&mut self) {
        self.is_over = true;
        self.wake_all();
    }

    fn wake_all(&mut self) {
        self.wake_all_in(|state| &mut state.waiting);
    }
}

impl<F, T> State<F, T> {
    /// Nobody is left who could send what was returned.
    fn give_up(&mut self) {
        if let Some(why) = &self.why_returned {
            for item in self.returned.drain(..) {
                let report = Report::not_attempted(item.envelope, why.error());
                self.finished.push_back((item.tag, report));
            }
        }
    }
}

/// Sends one message after the other. Dropping it, also by a panic, ends it.
#[derive(Debug)]
pub struct Worker<F, T> {
    delivery: Arc<Delivery<F, T>>,
    is_busy: bool,
    is_opening: bool,
}

impl<F, T> Worker<F, T> {
    /// The delivery that it works for.
    pub fn delivery(&self) -> &Delivery<F, T> {
        &self.delivery
    }

    /// The first message for a session, which is to be opened now; none when there will be no more. For a worker that has
    /// no session. It waits while another one may have to give its own message back.
    pub fn poll_first(&mut self, waker: &Waker) -> Poll<Option<Taken<F, T>>> {
        let delivery = self.delivery.clone();
        let mut state = delivery.state();
        state.busy -= usize::from(std::mem::take(&mut self.is_busy));
        if state.is_over {
            return Poll::Ready(None);
        }
        if state.finished.len() >= ROOM {
            return state.wait(waker);
        }
        if let Some(item) = state.next() {
            (self.is_busy, self.is_opening) = (true, true);
            state.busy += 1;
            state.opening += 1;
            state.wake_all();
            return Poll::Ready(Some(self.taken(item)));
        }
        match state.has_source || state.opening > 0 {
            true => state.wait(waker),
            false => Poll::Ready(None),
        }
    }

    /// Another message for the session that it has, if there is one now, and room for its report.
    pub fn next(&self) -> Option<Taken<F, T>> {
        let mut state = self.delivery.state();
        if state.is_over || state.finished.len() >= ROOM {
            return None;
        }
        let item = state.next()?;
        state.wake_all();
        Some(self.taken(item))
    }

    fn taken(&self, item: Item<F, T>) -> Taken<F, T> {
        Taken {
            item: Some(item),
            delivery: self.delivery.clone(),
        }
    }

    /// It opens a session for the messages that it already has.
    pub fn opening(&mut self) {
        if !std::mem::replace(&mut self.is_opening, true) {
            self.delivery.state().opening += 1;
        }
    }

    /// It has opened a session.
    pub fn opened(&mut self) {
        if std::mem::take(&mut self.is_opening) {
            let mut state = self.delivery.state();
            state.opening -= 1;
            state.wake_all();
        }
    }

    /// Decides about a message with this report. Either it is finished, or it waits in `again` for another session.
    /// `was_used` says whether the session had sent messages before. Returns whether this session is used up.
    pub fn settle(
        &self,
        item: Taken<F, T>,
        report: Report,
        was_used: bool,
        again: &mut VecDeque<Taken<F, T>>,
    ) -> bool {
        let mut item = item.into_item();
        let may_be_again = was_used && item.may_be_sent_again();
        let kind = Again::after(&report);
        item.earlier = match (kind, item.earlier.take()) {
            (Again::Freely, earlier) if may_be_again => earlier,
            (Again::Once, None) if may_be_again => Some(report),
            // The server was asked before.
            (Again::Freely, Some(earlier)) => {
                self.delivery.finish(item.tag, earlier);
                return false;
            }
            _ => {
                self.delivery.finish(item.tag, report);
                return false;
            }
        };
        item.needs_new = true;
        item.content.was_opened.store(false, Ordering::Relaxed);
        again.push_back(self.taken(item));
        kind == Again::Freely
    }

    /// It could open no session, and ends. The others may send what was not begun.
    pub fn give_back(self, items: VecDeque<Taken<F, T>>, error: Error) {
        // None of them is open in a session.
        drop(items);
        self.delivery.state().why_returned = Some(error);
    }
}

impl<F, T> State<F, T> {
    fn next(&mut self) -> Option<Item<F, T>> {
        self.returned.pop_front().or_else(|| self.queue.pop_front())
    }
}

impl<F, T> Drop for Worker<F, T> {
    fn drop(&mut self) {
        let mut state = self.delivery.state();
        state.workers -= 1;
        // What is left shows that it has ended before its time: no session could be opened, or it panics.
        let has_more = !state.returned.is_empty() || !state.queue.is_empty();
        state.has_failed |= state.workers == 0 && has_more;
        state.busy -= usize::from(self.is_busy);
        state.opening -= usize::from(self.is_opening);
        state.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use smtp_proto::Error as EngineError;

    use super::*;

    type Test = Delivery<fn(), u32>;

    fn push(delivery: &Test, tag: u32) {
        let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
        delivery.push(Item::new(envelope, || (), tag), 2);
    }

    fn begin(worker: &mut Worker<fn(), u32>) -> Option<Taken<fn(), u32>> {
        match worker.poll_first(Waker::noop()) {
            Poll::Ready(taken) => taken,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn finished(delivery: &Test) -> Option<(u32, Report)> {
        match delivery.poll_finished(Waker::noop()) {
            Poll::Ready(finished) => finished,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn unbegun(delivery: &Test) -> Vec<u32> {
        let items = delivery.take_unbegun().into_iter();
        items.map(|item| item.into_parts().unwrap().2).collect()
    }

    /// The source was about to start it.
    #[test]
    fn a_worker_that_comes_after_the_end_begins_nothing() {
        let delivery = Test::new();
        push(&delivery, 1);
        let mut first = delivery.worker();
        let taken = begin(&mut first).unwrap();
        push(&delivery, 2);
        first.give_back([taken].into(), crate::given_up());
        assert_eq!(finished(&delivery).unwrap().0, 1);
        assert!(finished(&delivery).is_none());
        let mut late = delivery.worker();
        assert!(begin(&mut late).is_none());
        drop(late);
        assert_eq!(unbegun(&delivery), [2]);
    }

    #[test]
    fn what_a_worker_leaves_behind_is_not_lost() {
        let delivery = Test::new();
        (1..=4).for_each(|tag| push(&delivery, tag));
        let mut worker = delivery.worker();
        let unopened = begin(&mut worker).unwrap();
        let opened = worker.next().unwrap();
        opened.opener()();
        let cut_off = worker.next().unwrap();
        cut_off.opener()();
        let lost = EngineError::new(Stage::Rcpt, Outcome::Transient, Cause::Disconnected);
        let bob = || smtp_proto::Mailbox::parse("bob@example.net").unwrap();
        let report = Report::new([(bob(), Err(lost))]);
        let mut again = VecDeque::new();
        assert!(!worker.settle(cut_off, report.clone(), true, &mut again));
        assert!(again.is_empty(), "its content can be opened once");
        assert_eq!(finished(&delivery), Some((3, report)));
        drop((unopened, opened, worker));
        let (tag, report) = finished(&delivery).unwrap();
        assert_eq!((tag, report.outcome()), (2, Some(Outcome::InDoubt)));
        assert!(finished(&delivery).is_none());
        assert_eq!(unbegun(&delivery), [1, 4]);
    }
}
