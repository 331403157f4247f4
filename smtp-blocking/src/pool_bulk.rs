//! Many messages over the sessions of a pool, with a thread for each session.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};

use smtp_adapter::{Caller, Delivery, Error, Item, TURN, Taken, Worker};
use smtp_proto::{Cause, Report};

use crate::bulk::Message;
use crate::pool::{Pool, PooledSession, wait};

impl Pool {
    /// Sends many messages over as many sessions as the pool may open. Each session in use has a thread, and the
    /// iterator has one. Each message has its own report, with the [tag](Message::tag) of the message. Reports come
    /// as soon as they are known, in any order.
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
    /// - The threads begin at once. The iterator is asked for up to 32 messages in advance. No more are begun while 64
    ///   reports wait to be taken.
    /// - A session that ends costs the messages nothing that it had not begun: they are sent in another one. One that was
    ///   begun is sent once more, as [`send`](Self::send) does it, if its content can be opened again.
    /// - No message is lost. One that a thread had which panics is reported as *in doubt* if its content was opened, and
    ///   else sent by another one or given back.
    /// - Where no session can be opened, the messages that wait for one are *not attempted*. When that holds for all
    ///   sessions, the reports end, and [`PoolBulk::into_messages`] gives back the other messages.
    /// - Other callers that wait for a session get one after 10 messages, and whenever the iterator is slow. So the
    ///   pool can be used at the same time, also in the loop over the reports.
    pub fn send_all<I, F, R, T>(&self, messages: I) -> PoolBulk<I::IntoIter, F, T>
    where
        I: IntoIterator<Item = Message<F, T>>,
        I::IntoIter: Send + 'static,
        F: FnMut() -> io::Result<R> + Send + 'static,
        R: BufRead,
        T: Send + 'static,
    {
        let delivery = Delivery::new();
        let messages = Arc::new(Mutex::new(messages.into_iter()));
        let workers = Workers {
            pool: self.clone(),
            delivery: delivery.clone(),
            caller: Caller::current(),
            threads: Arc::default(),
        };
        let threads = workers.threads.clone();
        let source = thread::Builder::new().name("smtp-source".into()).spawn({
            let messages = messages.clone();
            move || feed(&messages, &workers)
        });
        let no_thread = source.as_ref().err().map(no_thread);
        if no_thread.is_some() {
            delivery.end_source();
        }
        PoolBulk {
            delivery,
            messages,
            source: source.ok(),
            threads,
            no_thread,
        }
    }
}

fn no_thread(error: &io::Error) -> Error {
    let why = format!("no thread can be started: {error}");
    Error::local(Cause::Local(why.into())).not_attempted()
}

/// The threads of a delivery.
type Threads = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// A delivery over the sessions of a pool: an iterator of reports, each with the tag of its message.
///
/// If it is dropped before its end, it begins no other messages. Messages under way are finished, but their reports
/// are lost.
#[must_use = "it is over when it is dropped"]
pub struct PoolBulk<I, F, T> {
    delivery: Arc<Delivery<F, T>>,
    messages: Arc<Mutex<I>>,
    source: Option<JoinHandle<()>>,
    threads: Threads,
    /// The thread for the source could not be started.
    no_thread: Option<Error>,
}

impl<I, F, T> PoolBulk<I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
{
    /// Gives back the messages that were not begun. If reports are still to come, it waits for the messages under
    /// way, and their reports are lost. It also waits for the iterator if a thread is asking it.
    ///
    /// # Panics
    /// The iterator, or the code that opens a message, has panicked.
    pub fn into_messages(mut self) -> impl Iterator<Item = Message<F, T>> {
        self.delivery.stop();
        let source = self.source.take();
        self.join(source);
        let unbegun = self.delivery.take_unbegun();
        let unbegun = unbegun.into_iter().filter_map(Item::into_parts);
        let unbegun = unbegun.map(|(envelope, open, tag)| Message {
            envelope,
            open,
            tag,
        });
        let messages = self.messages.clone();
        let rest = iter::from_fn(move || lock(&messages).next());
        unbegun.chain(rest)
    }
}

impl<I, F, T> PoolBulk<I, F, T> {
    /// Waits for these threads. A panic of one goes on in this thread.
    fn join(&mut self, source: Option<JoinHandle<()>>) {
        let panics = source.map(JoinHandle::join);
        let threads = std::mem::take(&mut *lock(&self.threads));
        let panics = panics
            .into_iter()
            .chain(threads.into_iter().map(JoinHandle::join));
        // It waits for all of them first.
        let panics: Vec<_> = panics.filter_map(Result::err).collect();
        if let Some(panic) = panics.into_iter().next() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl<I, F, T> Iterator for PoolBulk<I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
{
    type Item = (T, Report);

    fn next(&mut self) -> Option<(T, Report)> {
        if let Some(why) = &self.no_thread {
            let message = lock(&self.messages).next()?;
            let report = Report::not_attempted(message.envelope, why.error());
            return Some((message.tag, report));
        }
        let finished = wait(|waker| self.delivery.poll_finished(waker));
        if finished.is_none() {
            // One that still runs may wait for this thread, and has nothing to say any more.
            let source = match self.delivery.has_source() {
                true => None,
                false => self.source.take(),
            };
            self.join(source);
        }
        finished
    }
}

impl<I, F, T> Drop for PoolBulk<I, F, T> {
    fn drop(&mut self) {
        self.delivery.stop();
    }
}

impl<I, F, T> std::fmt::Debug for PoolBulk<I, F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBulk")
            .field("threads", &lock(&self.threads).len())
            .finish_non_exhaustive()
    }
}

/// Only the caller's code can panic here, and its state is not used after that.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the source, also after a panic.
struct Source<'a, F, T>(&'a Delivery<F, T>);

impl<F, T> Drop for Source<'_, F, T> {
    fn drop(&mut self) {
        self.0.end_source();
    }
}

/// Asks for messages, and starts a worker if one would help.
fn feed<I, F, R, T>(messages: &Mutex<I>, workers: &Workers<F, T>)
where
    I: Iterator<Item = Message<F, T>>,
    F: FnMut() -> io::Result<R> + Send + 'static,
    R: BufRead,
    T: Send + 'static,
{
    let delivery = &*workers.delivery;
    let _source = Source(delivery);
    let mut messages = lock(messages);
    while wait(|waker| delivery.poll_wanted(waker)) {
        let Some(Message {
            envelope,
            open,
            tag,
        }) = messages.next()
        else {
            break;
        };
        let most = workers.pool.places().bounds().sessions;
        if delivery.push(Item::new(envelope, open, tag), most) {
            workers.start();
        }
    }
}

/// The parts of a worker.
struct Workers<F, T> {
    pool: Pool,
    delivery: Arc<Delivery<F, T>>,
    caller: Caller,
    threads: Threads,
}

impl<F, R, T> Workers<F, T>
where
    F: FnMut() -> io::Result<R> + Send + 'static,
    R: BufRead,
    T: Send + 'static,
{
    fn start(&self) {
        // Whoever waits for the threads finds this one, however soon it ends.
        let mut threads = lock(&self.threads);
        let (pool, worker) = (self.pool.clone(), self.delivery.worker());
        let caller = self.caller.clone();
        let thread = thread::Builder::new().name("smtp-pool".into());
        match thread.spawn(move || caller.in_scope(|| work(&pool, worker))) {
            Ok(thread) => threads.push(thread),
            // It does not begin, and its message waits for another one.
            Err(error) => {
                let mut worker = self.delivery.worker();
                if let Poll::Ready(Some(item)) = worker.poll_first(Waker::noop()) {
                    worker.give_back([item].into(), no_thread(&error));
                }
            }
        }
    }
}

/// Sends one message after the other, in one session after the other.
fn work<F, R, T>(pool: &Pool, mut worker: Worker<F, T>)
where
    F: FnMut() -> io::Result<R>,
    R: BufRead,
{
    // The messages for another session, and the session that ended with them.
    let mut again = VecDeque::new();
    let mut ended = None;
    loop {
        if again.is_empty() {
            match wait(|waker| worker.poll_first(waker)) {
                Some(item) => again.push_back(item),
                None => return,
            }
        }
        worker.opening();
        let must_be_new = again.iter().any(|item| item.needs_new_session());
        let is_over = |waker: &Waker| worker.delivery().poll_over(waker);
        let opened = match ended.take() {
            Some(session) => PooledSession::into_new(session, is_over),
            None => pool.session_unless(is_over),
        };
        let opened = match opened {
            Ok(session) if must_be_new && !session.is_new() => session.into_new(is_over),
            opened => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return worker.give_back(again, error),
        };
        worker.opened();
        again = send_in(pool, &mut session, again, &worker);
        if again.iter().any(|item| item.earlier.is_some()) {
            ended = Some(session);
        }
    }
}

/// Sends these messages in this session, and further ones while there are some. Returns the messages for another
/// session.
fn send_in<F, R, T>(
    pool: &Pool,
    session: &mut PooledSession,
    mut own: VecDeque<Taken<F, T>>,
    worker: &Worker<F, T>,
) -> VecDeque<Taken<F, T>>
where
    F: FnMut() -> io::Result<R>,
    R: BufRead,
{
    let mut was_used = !session.is_new();
    let mut left = pool.places().messages_left(session.pump.driver.submitted);
    let is_used_up = AtomicBool::new(false);
    let mut again = VecDeque::new();
    let mut given = 0;
    let feed = iter::from_fn(|| {
        let must_end = pool.places().is_closed() || (given >= TURN && pool.places().is_wanted());
        if left == 0 || must_end || is_used_up.load(Ordering::Relaxed) {
            return None;
        }
        let item = own.pop_front().or_else(|| worker.next())?;
        (left, given) = (left - 1, given + 1);
        Some(Message {
            envelope: item.envelope.clone(),
            open: item.opener(),
            tag: item,
        })
    });
    let mut bulk = session.send_all(feed);
    while let Some((item, report)) = bulk.next_tagged() {
        if worker.settle(item, report, was_used, &mut again) {
            is_used_up.store(true, Ordering::Relaxed);
        }
        was_used = true;
    }
    drop(bulk);
    again.append(&mut own);
    again
}
