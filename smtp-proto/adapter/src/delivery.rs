//! The bookkeeping of a delivery over several sessions: which messages wait, who may send them, and what became of
//! them. No I/O and no clock.
//!
//! A source [pushes](Delivery::push) messages, and [workers](Delivery::worker) take them. Nobody who has a session waits
//! here: a worker that finds no message, or no room for its reports, gives its session back first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use smtp_proto::{Envelope, Report};

use crate::Error;
use crate::again::Again;

/// So many messages are sent in a session before it is handed to somebody else who waits for one.
pub const TURN: u64 = 10;

/// Messages that the source is asked for in advance.
const QUEUE: usize = 32;

/// Reports that nobody has taken, after which no other messages are begun.
const ROOM: usize = 64;

/// A message, as long as it may have to be sent again.
#[derive(Debug)]
pub struct Item<F, T> {
    /// Who sends it to whom.
    pub envelope: Envelope,
    /// The caller's own.
    pub tag: T,
    /// It was begun in a session that ended, with this report.
    pub earlier: Option<Report>,
    content: Arc<Content<F>>,
}

#[derive(Debug)]
struct Content<F> {
    open: Mutex<F>,
    was_opened: AtomicBool,
}

impl<F, T> Item<F, T> {
    /// A message that nobody has begun.
    pub fn new(envelope: Envelope, open: F, tag: T) -> Self {
        let content = Content {
            open: Mutex::new(open),
            was_opened: AtomicBool::new(false),
        };
        Self {
            envelope,
            tag,
            earlier: None,
            content: Arc::new(content),
        }
    }

    /// What opens the content, for one session.
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

    /// Whether one that was begun may be begun once more.
    fn may_be_sent_again(&self) -> bool {
        let was_opened = self.content.was_opened.load(Ordering::Relaxed);
        self.earlier.is_none() && (self.envelope.is_reopenable() || !was_opened)
    }

    /// The envelope, what opens the content, and the tag. `None` while a session has the content.
    pub fn into_parts(self) -> Option<(Envelope, F, T)> {
        let open = Arc::into_inner(self.content)?.open.into_inner();
        let open = open.unwrap_or_else(PoisonError::into_inner);
        Some((self.envelope, open, self.tag))
    }
}

/// A delivery.
#[derive(Debug)]
pub struct Delivery<F, T>(Mutex<State<F, T>>);

#[derive(Debug)]
struct State<F, T> {
    /// Messages that nobody has taken.
    queue: VecDeque<Item<F, T>>,
    /// Messages of workers that could open no session, for the others.
    returned: VecDeque<Item<F, T>>,
    why_returned: Option<Error>,
    /// The source still runs.
    has_source: bool,
    workers: usize,
    /// Workers that have a message.
    busy: usize,
    /// Those of them that have no session yet.
    opening: usize,
    finished: VecDeque<(T, Report)>,
    /// Nobody wants to know any more.
    is_over: bool,
    /// The workers have ended because no session could be opened.
    has_failed: bool,
    waiting: Vec<Waker>,
}

impl<F, T> Delivery<F, T> {
    /// One whose source runs, and that has no workers yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
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

    fn state(&self) -> MutexGuard<'_, State<F, T>> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the source: whether another message is wanted, or none any more.
    pub fn poll_wanted(&self, waker: &Waker) -> Poll<bool> {
        let mut state = self.state();
        match state.queue.len() < QUEUE {
            _ if state.is_over || state.has_failed => Poll::Ready(false),
            true => Poll::Ready(true),
            false => state.wait(waker),
        }
    }

    /// For the source: adds a message. Returns whether another worker would help, of which there may be `most`.
    pub fn push(&self, item: Item<F, T>, most: usize) -> bool {
        let mut state = self.state();
        state.queue.push_back(item);
        state.wake();
        let idle = state.workers - state.busy;
        // Who has failed to open a session shows that there may be no more of them.
        state.workers < most && state.queue.len() > idle && state.why_returned.is_none()
    }

    /// For the source: it has ended. The messages are used up, or nobody wants more of them.
    pub fn end_source(&self) {
        let mut state = self.state();
        state.has_source = false;
        state.wake();
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

    /// Nobody wants to know any more: no other messages are begun.
    pub fn stop(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.wake();
    }

    /// Whether nobody wants to know any more.
    pub fn poll_over(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.state();
        match state.is_over {
            true => Poll::Ready(()),
            false => state.wait(waker),
        }
    }

    /// The next report, with the tag of its message; none after the last one.
    pub fn poll_finished(&self, waker: &Waker) -> Poll<Option<(T, Report)>> {
        let mut state = self.state();
        let has_ended = state.workers == 0 && (!state.has_source || state.has_failed);
        if has_ended {
            state.give_up();
        }
        match state.finished.pop_front() {
            Some(finished) => {
                state.wake();
                Poll::Ready(Some(finished))
            }
            None if has_ended => Poll::Ready(None),
            None => state.wait(waker),
        }
    }

    /// The messages that nobody has begun, once the workers have ended.
    pub fn take_unbegun(&self) -> VecDeque<Item<F, T>> {
        let mut state = self.state();
        let mut items = std::mem::take(&mut state.returned);
        items.append(&mut state.queue);
        items
    }
}

impl<F, T> State<F, T> {
    fn wait<R>(&mut self, waker: &Waker) -> Poll<R> {
        if !self.waiting.iter().any(|other| other.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

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

/// Who sends one message after the other. Dropped, also by a panic, it is gone.
#[derive(Debug)]
pub struct Worker<F, T> {
    delivery: Arc<Delivery<F, T>>,
    is_busy: bool,
    is_opening: bool,
}

impl<F, T> Worker<F, T> {
    /// Its delivery.
    pub fn delivery(&self) -> &Delivery<F, T> {
        &self.delivery
    }

    /// The first message for a session, which is to be opened now; none when there will be no more. For a worker that has
    /// no session. It waits while another one may have to give its own message back.
    pub fn poll_first(&mut self, waker: &Waker) -> Poll<Option<Item<F, T>>> {
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
            state.wake();
            return Poll::Ready(Some(item));
        }
        match state.has_source || state.opening > 0 {
            true => state.wait(waker),
            false => Poll::Ready(None),
        }
    }

    /// Another message for the session that it has, if there is one now, and room for its report.
    pub fn next(&self) -> Option<Item<F, T>> {
        let mut state = self.delivery.state();
        if state.is_over || state.finished.len() >= ROOM {
            return None;
        }
        let item = state.next()?;
        state.wake();
        Some(item)
    }

    /// It opens a session for messages that it has already.
    pub fn opening(&mut self) {
        if !std::mem::replace(&mut self.is_opening, true) {
            self.delivery.state().opening += 1;
        }
    }

    /// It has a session.
    pub fn opened(&mut self) {
        if std::mem::take(&mut self.is_opening) {
            let mut state = self.delivery.state();
            state.opening -= 1;
            state.wake();
        }
    }

    /// What becomes of a message with this report, in a session that was used before it, or not: it is finished, or it
    /// waits in `again` for another session. Returns whether this session is used up.
    pub fn settle(
        &self,
        mut item: Item<F, T>,
        report: Report,
        was_used: bool,
        again: &mut VecDeque<Item<F, T>>,
    ) -> bool {
        match Again::after(&report) {
            Again::Freely if was_used => {
                again.push_back(item);
                return true;
            }
            Again::Once if was_used && item.may_be_sent_again() => {
                item.earlier = Some(report);
                again.push_back(item);
            }
            _ => self.finish(item.tag, report),
        }
        false
    }

    /// A message has its report.
    fn finish(&self, tag: T, report: Report) {
        let mut state = self.delivery.state();
        state.finished.push_back((tag, report));
        state.wake();
    }

    /// It could open no session, and ends. The others may send what was not begun.
    pub fn give_back(self, items: VecDeque<Item<F, T>>, error: Error) {
        let mut state = self.delivery.state();
        for item in items {
            match item.earlier {
                Some(report) => state.finished.push_back((item.tag, report)),
                None => state.returned.push_back(item),
            }
        }
        state.why_returned = Some(error);
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
        state.has_failed |= state.workers == 0 && !state.returned.is_empty();
        state.busy -= usize::from(self.is_busy);
        state.opening -= usize::from(self.is_opening);
        state.wake();
    }
}
