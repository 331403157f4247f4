//! Many messages over the sessions of a pool, with a task for each session.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures_core::Stream;
use smtp_adapter::{Caller, Delivery, Item, TURN, Taken, Worker};
use smtp_proto::Report;
use tokio::io::AsyncBufRead;
use tokio::task::JoinSet;

use crate::bulk::Message;
use crate::pool::{Pool, PooledSession};

impl Pool {
    /// Sends many messages over as many sessions as the pool may open. Each session in use has a task, and the stream
    /// has one. Each message has its own report, with the [tag](Message::tag) of the message. Reports come as soon as
    /// they are known, in any order.
    ///
    /// ```no_run
    /// use smtp_tokio::{Envelope, Message, Pool};
    ///
    /// # async fn example(pool: Pool) -> Result<(), Box<dyn std::error::Error>> {
    /// let readers = ["bob@example.net", "carol@example.net"];
    /// let messages = readers.map(|reader| {
    ///     let envelope = Envelope::new("news@example.org", [reader]).unwrap();
    ///     let text = format!("To: {reader}\r\nSubject: news\r\n\r\nThere is news.\r\n");
    ///     Message::from_bytes(envelope, bytes::Bytes::from(text)).tag(reader)
    /// });
    /// let mut reports = pool.send_all(smtp_tokio::iter(messages));
    /// while let Some((reader, report)) = reports.next().await {
    ///     match report.failures().next() {
    ///         None => println!("{reader}: sent"),
    ///         Some(failure) => println!("{failure}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// - The stream is asked for up to 32 messages in advance. No more are begun while 64 reports wait to be taken.
    /// - A session that ends costs the messages nothing that it had not begun: they are sent in another one. One that was
    ///   begun is sent once more, as [`send`](Self::send) does it, if its content can be opened again.
    /// - No message is lost. One that a task had which panics, or ends with its runtime, is reported as *in doubt* if its
    ///   content was opened, and else given back.
    /// - Where no session can be opened, the messages that wait for one are *not attempted*. When that holds for all
    ///   sessions, the reports end, and [`PoolBulk::into_messages`] gives back the other messages.
    /// - Other callers that wait for a session get one after 10 messages, and whenever the stream is slow. So the
    ///   pool can be used at the same time, also in the loop over the reports.
    pub fn send_all<S, F, O, R, T>(&self, messages: S) -> PoolBulk<S, F, T>
    where
        S: Stream<Item = Message<F, T>> + Send + 'static,
        F: FnMut() -> O + Send + 'static,
        O: Future<Output = io::Result<R>> + Send + 'static,
        R: AsyncBufRead + Send + 'static,
        T: Send + 'static,
    {
        let delivery = Delivery::new();
        let messages = Arc::new(Mutex::new(Box::pin(messages)));
        let tasks = Arc::<Tasks>::default();
        let workers = Workers {
            pool: self.clone(),
            delivery: delivery.clone(),
            caller: Caller::current(),
            tasks: tasks.clone(),
        };
        let source = messages.clone();
        PoolBulk {
            delivery,
            messages,
            start: Some(Box::new(move || {
                let tasks = workers.tasks.clone();
                lock(&tasks).spawn(feed(source, workers));
            })),
            tasks,
        }
    }
}

/// The tasks of a delivery.
type Tasks = Mutex<JoinSet<()>>;

/// A delivery over the sessions of a pool. It begins when it is first asked for a report. A future of
/// [`next`](Self::next) may be dropped at any time without harm.
///
/// If it is dropped before its end, it closes the sessions in which a message is under way.
#[must_use = "nothing is sent before reports are asked for"]
pub struct PoolBulk<S, F, T> {
    delivery: Arc<Delivery<F, T>>,
    messages: Arc<Mutex<Pin<Box<S>>>>,
    /// Begins the delivery.
    start: Option<Box<dyn FnOnce() + Send>>,
    tasks: Arc<Tasks>,
}

impl<S, F, T> PoolBulk<S, F, T> {
    /// The next report, with the tag of its message. `None` after the last one.
    ///
    /// # Panics
    /// The stream, or the code that opens a message, has panicked.
    pub async fn next(&mut self) -> Option<(T, Report)> {
        poll_fn(|cx| self.poll_report(cx)).await
    }

    fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Option<(T, Report)>> {
        if let Some(start) = self.start.take() {
            start();
        }
        let finished = ready!(self.delivery.poll_finished(cx.waker()));
        if finished.is_none() {
            ready!(self.poll_join(cx));
        }
        Poll::Ready(finished)
    }

    /// Waits for the tasks. A panic of one continues in this task.
    fn poll_join(&self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(ended) = ready!(lock(&self.tasks).poll_join_next(cx)) {
            if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
                std::panic::resume_unwind(panic);
            }
        }
        Poll::Ready(())
    }
}

impl<S, F, T> PoolBulk<S, F, T>
where
    S: Stream<Item = Message<F, T>>,
{
    /// Gives back the messages that were not begun. If reports are still to come, it waits for the messages under
    /// way, and their reports are lost.
    ///
    /// # Panics
    /// The stream, or the code that opens a message, has panicked.
    pub async fn into_messages(mut self) -> impl Stream<Item = Message<F, T>> {
        self.start = None;
        self.delivery.stop();
        poll_fn(|cx| self.poll_join(cx)).await;
        Unbegun {
            items: self.delivery.take_unbegun(),
            rest: self.messages.clone(),
        }
    }
}

impl<S, F, T> Stream for PoolBulk<S, F, T> {
    type Item = (T, Report);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<(T, Report)>> {
        self.get_mut().poll_report(cx)
    }
}

impl<S, F, T> Drop for PoolBulk<S, F, T> {
    fn drop(&mut self) {
        self.delivery.stop();
        lock(&self.tasks).abort_all();
    }
}

impl<S, F, T> std::fmt::Debug for PoolBulk<S, F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBulk")
            .field("tasks", &lock(&self.tasks).len())
            .finish_non_exhaustive()
    }
}

/// Messages that were not begun. Those already taken from the stream come first.
struct Unbegun<S, F, T> {
    items: VecDeque<Item<F, T>>,
    rest: Arc<Mutex<Pin<Box<S>>>>,
}

impl<S, F, T> Unpin for Unbegun<S, F, T> {}

impl<S, F, T> Stream for Unbegun<S, F, T>
where
    S: Stream<Item = Message<F, T>>,
{
    type Item = Message<F, T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message<F, T>>> {
        let unbegun = self.get_mut();
        while let Some(item) = unbegun.items.pop_front() {
            if let Some((envelope, open, tag)) = item.into_parts() {
                return Poll::Ready(Some(Message {
                    envelope,
                    open,
                    tag,
                }));
            }
        }
        lock(&unbegun.rest).as_mut().poll_next(cx)
    }
}

/// Only the caller's code can panic here, and its state is not used after that.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
async fn feed<S, F, O, R, T>(messages: Arc<Mutex<Pin<Box<S>>>>, workers: Workers<F, T>)
where
    S: Stream<Item = Message<F, T>> + Send,
    F: FnMut() -> O + Send + 'static,
    O: Future<Output = io::Result<R>> + Send + 'static,
    R: AsyncBufRead + Send + 'static,
    T: Send + 'static,
{
    let delivery = &*workers.delivery;
    let _source = Source(delivery);
    while poll_fn(|cx| delivery.poll_wanted(cx.waker())).await {
        let message = poll_fn(|cx| match delivery.poll_over(cx.waker()) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => lock(&messages).as_mut().poll_next(cx),
        });
        let Some(Message {
            envelope,
            open,
            tag,
        }) = message.await
        else {
            break;
        };
        let most = workers.pool.places().bounds().sessions;
        if delivery.push(Item::new(envelope, open, tag), most) {
            let worker = work(workers.pool.clone(), workers.delivery.worker());
            let worker = workers.caller.clone().poll_in_scope(worker);
            lock(&workers.tasks).spawn(worker);
        }
    }
}

/// The parts of a worker.
struct Workers<F, T> {
    pool: Pool,
    delivery: Arc<Delivery<F, T>>,
    caller: Caller,
    tasks: Arc<Tasks>,
}

/// Sends one message after the other, in one session after the other.
async fn work<F, O, R, T>(pool: Pool, mut worker: Worker<F, T>)
where
    F: FnMut() -> O + Send,
    O: Future<Output = io::Result<R>> + Send,
    R: AsyncBufRead + Send,
    T: Send,
{
    // The messages for another session, and the session that ended with them.
    let mut again = VecDeque::new();
    let mut ended = None;
    loop {
        if again.is_empty() {
            match poll_fn(|cx| worker.poll_first(cx.waker())).await {
                Some(item) => again.push_back(item),
                None => return,
            }
        }
        worker.opening();
        let must_be_new = again.iter().any(|item| item.needs_new_session());
        let is_over = |waker: &Waker| worker.delivery().poll_over(waker);
        let opened = match ended.take() {
            Some(session) => PooledSession::into_new(session, is_over).await,
            None => pool.session_unless(is_over).await,
        };
        let opened = match opened {
            Ok(session) if must_be_new && !session.is_new() => session.into_new(is_over).await,
            opened => opened,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return worker.give_back(again, error),
        };
        worker.opened();
        again = send_in(&pool, &mut session, again, &worker).await;
        if again.iter().any(|item| item.earlier.is_some()) {
            ended = Some(session);
        }
    }
}

/// Sends these messages in this session, and further ones while there are some. Returns the messages for another
/// session.
async fn send_in<F, O, R, T>(
    pool: &Pool,
    session: &mut PooledSession,
    mut own: VecDeque<Taken<F, T>>,
    worker: &Worker<F, T>,
) -> VecDeque<Taken<F, T>>
where
    F: FnMut() -> O + Send,
    O: Future<Output = io::Result<R>> + Send,
    R: AsyncBufRead + Send,
    T: Send,
{
    let mut was_used = !session.is_new();
    let mut left = pool.places().messages_left(session.pump.driver.submitted);
    let is_used_up = AtomicBool::new(false);
    let mut again = VecDeque::new();
    let mut given = 0;
    let feed = crate::iter(std::iter::from_fn(|| {
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
    }));
    let mut bulk = session.send_all(feed);
    while let Some((item, report)) = bulk.next_tagged().await {
        if worker.settle(item, report, was_used, &mut again) {
            is_used_up.store(true, Ordering::Relaxed);
        }
        was_used = true;
    }
    drop(bulk);
    again.append(&mut own);
    again
}
