//! Many messages over the sessions of a pool, with a thread for each session.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};

use smtp_adapter::{Again, Error};
use smtp_proto::{Cause, Envelope, Report};

use crate::bulk::Message;
use crate::pool::{Pool, PooledSession};

/// So many messages are sent in a session before it is handed to somebody else who waits for one.
const TURN: u64 = 10;

impl Pool {
    /// Sends many messages over as many sessions as there may be, with a thread for each. Each message has its own
    /// report, which comes as soon as it is known, with the [tag](Message::tag) of the message. They come in no order.
    ///
    /// ```no_run
    /// use smtp_blocking::{Envelope, Message, Pool, Server};
    ///
    /// let pool = Pool::new(Server::new("mx.example.net")).max_sessions(4);
    /// let readers = ["bob@example.net", "carol@example.net"];
    /// let messages = readers.map(|reader| {
    ///     let envelope = Envelope::new("news@example.org", [reader]).unwrap();
    ///     let text = format!("To: {reader}\r\nSubject: news\r\n\r\nThere is news.\r\n");
    ///     Message::from_bytes(envelope, bytes::Bytes::from(text)).tag(reader)
    /// });
    /// for (reader, report) in pool.send_all(messages) {
    ///     match report.failures().next() {
    ///         None => println!("{reader}: sent"),
    ///         Some(failure) => println!("{failure}"),
    ///     }
    /// }
    /// ```
    ///
    /// - The threads begin at once. One that has a report waits until it is taken, if there is one already that nobody
    ///   has taken.
    /// - A session that ends costs the messages nothing that it had not begun: they are sent in another one. One that was
    ///   begun is sent once more, as [`send`](Self::send) does it, if its content can be opened again.
    /// - Where no session can be opened, the messages that wait for one are *not attempted*. When that holds for all
    ///   sessions, the reports end. The messages that nobody has asked for are still in the iterator, which
    ///   [`PoolBulk::into_messages`] gives back.
    /// - Others that wait for a session get one after 10 messages.
    pub fn send_all<I, F, R, T>(&self, messages: I) -> PoolBulk<I::IntoIter, F, T>
    where
        I: IntoIterator<Item = Message<F, T>>,
        I::IntoIter: Send + 'static,
        F: FnMut() -> io::Result<R> + Send + 'static,
        R: BufRead,
        T: Send + 'static,
    {
        let most = self.places().bounds().sessions;
        let shared = Arc::new(Shared {
            source: Mutex::new(Source {
                messages: messages.into_iter(),
                is_exhausted: false,
            }),
            state: Mutex::new(State {
                returned: VecDeque::new(),
                opening: 0,
                workers: most,
                why_returned: None,
            }),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
        });
        let (results, reports) = mpsc::sync_channel(1);
        let start = |_| {
            let worker = Worker {
                pool: self.clone(),
                shared: shared.clone(),
                results: results.clone(),
            };
            let thread = thread::Builder::new().name("smtp-pool".into());
            let started = thread.spawn(move || worker.work());
            started.inspect_err(|_| shared.state().workers -= 1)
        };
        let (threads, failures): (Vec<_>, Vec<_>) = (0..most).map(start).partition(Result::is_ok);
        PoolBulk {
            no_thread: failures.into_iter().find_map(Result::err),
            threads: threads.into_iter().flatten().collect(),
            reports: Some(reports),
            shared,
        }
    }
}

/// A delivery over the sessions of a pool: an iterator of reports, each with the tag of its message.
///
/// Dropped before its end, it begins no other messages. Those under way are finished, and nobody learns of it.
#[must_use = "it is over when it is dropped"]
pub struct PoolBulk<I, F, T> {
    shared: Arc<Shared<I, F, T>>,
    threads: Vec<JoinHandle<()>>,
    /// It is there until the drop.
    reports: Option<Receiver<(T, Report)>>,
    /// Why there are fewer threads than there should be.
    no_thread: Option<io::Error>,
}

impl<I, F, T> PoolBulk<I, F, T> {
    /// Gives back the messages that nobody has asked for. Where reports are still to come, it waits for the messages
    /// that are under way, and their reports are lost.
    ///
    /// # Panics
    /// Where the iterator, or what opens a message, has panicked.
    pub fn into_messages(mut self) -> I {
        self.end();
        self.join();
        let shared = self.shared.clone();
        drop(self);
        let shared = Arc::into_inner(shared).expect("the threads have ended");
        let source = shared.source.into_inner();
        source.unwrap_or_else(PoisonError::into_inner).messages
    }

    /// No more messages are begun.
    fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        self.reports = None;
    }

    /// A panic of a thread goes on in this one.
    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl<I, F, T> Iterator for PoolBulk<I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
{
    type Item = (T, Report);

    fn next(&mut self) -> Option<(T, Report)> {
        if self.threads.is_empty()
            && let Some(error) = &self.no_thread
        {
            let item = self.shared.next_item(false)?;
            let why = Cause::Local(format!("no thread can be started: {error}").into());
            let report = Report::not_attempted(item.envelope, Error::local(why).error());
            return Some((item.tag, report));
        }
        let report = self.reports.as_ref()?.recv();
        if report.is_err() {
            self.join();
        }
        report.ok()
    }
}

impl<I, F, T> Drop for PoolBulk<I, F, T> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<I, F, T> std::fmt::Debug for PoolBulk<I, F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBulk")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

/// What the threads share.
struct Shared<I, F, T> {
    source: Mutex<Source<I>>,
    state: Mutex<State<F, T>>,
    /// Threads that wait are to look again.
    changed: Condvar,
    is_over: AtomicBool,
}

struct Source<I> {
    messages: I,
    is_exhausted: bool,
}

struct State<F, T> {
    /// Messages of threads that could open no session, for the others.
    returned: VecDeque<Item<F, T>>,
    /// Threads that have a message, and no session yet.
    opening: usize,
    /// Threads that have not ended.
    workers: usize,
    why_returned: Option<Error>,
}

/// A message, as long as it may have to be sent again.
struct Item<F, T> {
    envelope: Envelope,
    content: Arc<Content<F>>,
    tag: T,
    /// It was begun in a session that ended.
    earlier: Option<Report>,
}

struct Content<F> {
    open: Mutex<F>,
    was_opened: AtomicBool,
}

impl<F, T> Item<F, T> {
    fn may_be_sent_again(&self) -> bool {
        let was_opened = self.content.was_opened.load(Ordering::Relaxed);
        self.earlier.is_none() && (self.envelope.is_reopenable() || !was_opened)
    }
}

impl<F, T> From<Message<F, T>> for Item<F, T> {
    fn from(message: Message<F, T>) -> Self {
        Self {
            envelope: message.envelope,
            content: Arc::new(Content {
                open: Mutex::new(message.open),
                was_opened: AtomicBool::new(false),
            }),
            tag: message.tag,
            earlier: None,
        }
    }
}

impl<I, F, T> Shared<I, F, T> {
    fn state(&self) -> MutexGuard<'_, State<F, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

impl<I, F, T> Shared<I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
{
    /// The next message. One that does not wait gets none while another thread asks for one. One that waits opens a
    /// session for it.
    fn next_item(&self, waits: bool) -> Option<Item<F, T>> {
        loop {
            if self.is_over() {
                return None;
            }
            let mut state = self.state();
            if let Some(item) = state.returned.pop_front() {
                state.opening += usize::from(waits);
                return Some(item);
            }
            drop(state);
            let mut source = match waits {
                true => self.source.lock().unwrap_or_else(PoisonError::into_inner),
                false => match self.source.try_lock() {
                    Ok(source) => source,
                    Err(TryLockError::Poisoned(source)) => source.into_inner(),
                    Err(TryLockError::WouldBlock) => return None,
                },
            };
            if !source.is_exhausted {
                if let Some(message) = source.messages.next() {
                    self.state().opening += usize::from(waits);
                    return Some(message.into());
                }
                source.is_exhausted = true;
            }
            drop(source);
            let state = self.state();
            let may_come = !state.returned.is_empty() || (waits && state.opening > 0);
            if !may_come {
                return None;
            }
            if state.returned.is_empty() {
                drop(self.changed.wait(state));
            }
        }
    }
}

/// Sends one message after the other, in one session after the other.
struct Worker<I, F, T> {
    pool: Pool,
    shared: Arc<Shared<I, F, T>>,
    results: SyncSender<(T, Report)>,
}

impl<I, F, R, T> Worker<I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
    F: FnMut() -> io::Result<R>,
    R: BufRead,
{
    fn work(self) {
        // What is to be sent in another session, and the one that has ended under it.
        let mut again = VecDeque::new();
        let mut ended = None;
        loop {
            match again.is_empty() {
                true => match self.shared.next_item(true) {
                    Some(item) => again.push_back(item),
                    None => break,
                },
                false => self.shared.state().opening += 1,
            }
            let opened = match ended.take() {
                Some(session) => PooledSession::into_new(session),
                None => self.pool.session(),
            };
            let mut session = match opened {
                Ok(session) => session,
                Err(error) => {
                    self.give_back(again, error);
                    break;
                }
            };
            self.shared.state().opening -= 1;
            self.shared.changed.notify_all();
            again = self.send_in(&mut session, again);
            if again.iter().any(|item| item.earlier.is_some()) {
                ended = Some(session);
            }
        }
        self.leave();
    }

    /// Sends these messages in this session, and others as long as there are some. Returns those that are to be sent in
    /// another one.
    fn send_in(
        &self,
        session: &mut PooledSession,
        mut own: VecDeque<Item<F, T>>,
    ) -> VecDeque<Item<F, T>> {
        let mut was_used = !session.is_new();
        let mut left = self.pool.messages_left(session);
        let is_used_up = AtomicBool::new(false);
        let mut again = VecDeque::new();
        let mut given = 0;
        let feed = iter::from_fn(|| {
            let is_wanted = given >= TURN && self.pool.places().is_wanted();
            if left == 0 || is_wanted || is_used_up.load(Ordering::Relaxed) {
                return None;
            }
            let own = own.pop_front();
            let item = own.or_else(|| self.shared.next_item(false))?;
            (left, given) = (left - 1, given + 1);
            Some(submitted(item))
        });
        let mut bulk = session.send_all(feed);
        while let Some((mut item, report)) = bulk.next_tagged() {
            match Again::after(&report) {
                Again::Freely if was_used => {
                    is_used_up.store(true, Ordering::Relaxed);
                    again.push_back(item);
                }
                Again::Once if was_used && item.may_be_sent_again() => {
                    item.earlier = Some(report);
                    again.push_back(item);
                }
                _ => self.finish(item.tag, report),
            }
            was_used = true;
        }
        drop(bulk);
        again.append(&mut own);
        again
    }

    /// Hands the report over, and waits until there is room for it.
    fn finish(&self, tag: T, report: Report) {
        if self.results.send((tag, report)).is_err() {
            self.shared.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// No session could be opened: the other threads may send what was not begun.
    fn give_back(&self, items: VecDeque<Item<F, T>>, error: Error) {
        let (begun, unbegun) = items
            .into_iter()
            .partition::<Vec<_>, _>(|item| item.earlier.is_some());
        let mut state = self.shared.state();
        state.opening -= 1;
        state.returned.extend(unbegun);
        state.why_returned = Some(error);
        drop(state);
        self.shared.changed.notify_all();
        for item in begun {
            if let Some(report) = item.earlier {
                self.finish(item.tag, report);
            }
        }
    }

    /// The last one reports what was returned: nobody is left who could send it.
    fn leave(self) {
        let mut state = self.shared.state();
        state.workers -= 1;
        if state.workers > 0 || self.shared.is_over() {
            return;
        }
        let items = std::mem::take(&mut state.returned);
        let why = state.why_returned.take();
        drop(state);
        for item in items {
            if let Some(why) = &why {
                let report = Report::not_attempted(item.envelope, why.error());
                self.finish(item.tag, report);
            }
        }
    }
}

/// The message as it is submitted: its tag is what it takes to submit it again.
fn submitted<F, O, T>(item: Item<F, T>) -> Message<impl FnMut() -> O, Item<F, T>>
where
    F: FnMut() -> O,
{
    let content = item.content.clone();
    let open = move || {
        content.was_opened.store(true, Ordering::Relaxed);
        let open = content.open.lock();
        open.unwrap_or_else(PoisonError::into_inner)()
    };
    Message {
        envelope: item.envelope.clone(),
        open,
        tag: item,
    }
}
