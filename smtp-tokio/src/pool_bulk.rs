//! Many messages over the sessions of a pool.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use smtp_adapter::{Again, Error};
use smtp_proto::{Envelope, Report};
use tokio::io::AsyncBufRead;

use crate::bulk::Message;
use crate::pool::{Pool, PooledSession};

/// So many messages are sent in a session before it is handed to somebody else who waits for one.
const TURN: u64 = 10;

impl Pool {
    /// Sends many messages over as many sessions as there may be. Each has its own report, which comes as soon as it is
    /// known, with the [tag](Message::tag) of the message. They come in no order.
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
    /// - A session that ends costs the messages nothing that it had not begun: they are sent in another one. One that was
    ///   begun is sent once more, as [`send`](Self::send) does it, if its content can be opened again.
    /// - Where no session can be opened, the messages that wait for one are *not attempted*. When that holds for all
    ///   sessions, the reports end. The messages that nobody has asked for are still in the stream, which
    ///   [`PoolBulk::into_messages`] gives back.
    /// - Others that wait for a session get one after 10 messages.
    pub fn send_all<'a, S, F, O, R, T>(&self, messages: S) -> PoolBulk<'a, S, F, T>
    where
        S: Stream<Item = Message<F, T>> + Send + 'a,
        F: FnMut() -> O + Send + 'a,
        O: Future<Output = io::Result<R>> + Send + 'a,
        R: AsyncBufRead + Send + 'a,
        T: Send + 'a,
    {
        let shared = Arc::new(Shared {
            source: Mutex::new(Source {
                messages: Box::pin(messages),
                is_exhausted: false,
            }),
            state: Mutex::new(State {
                returned: VecDeque::new(),
                opening: 0,
                why_returned: None,
                finished: VecDeque::new(),
                has_changed: false,
            }),
        });
        let worker = |_| Box::pin(work(self.clone(), shared.clone())) as Worker<'a>;
        PoolBulk {
            workers: (0..self.places().bounds().sessions).map(worker).collect(),
            shared,
        }
    }
}

/// A delivery over the sessions of a pool. It sends as it is asked for reports, so that whoever is slow to take them
/// slows it down. A future of [`next`](Self::next) may be dropped at any time without harm.
///
/// Dropped before its end, it closes the sessions in which a message is under way.
#[must_use = "nothing is sent before reports are asked for"]
pub struct PoolBulk<'a, S, F, T> {
    workers: Vec<Worker<'a>>,
    shared: Arc<Shared<S, F, T>>,
}

/// Sends one message after the other, in one session after the other.
type Worker<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

impl<S, F, T> PoolBulk<'_, S, F, T> {
    /// The next report, with the tag of its message; none after the last one.
    pub async fn next(&mut self) -> Option<(T, Report)> {
        poll_fn(|cx| self.poll_report(cx)).await
    }

    /// Gives back the messages that nobody has asked for. Where reports are still to come, it closes the sessions, and
    /// their messages have none.
    ///
    /// # Panics
    /// Never: nobody else holds the messages then.
    pub fn into_messages(self) -> Pin<Box<S>> {
        drop(self.workers);
        let shared = Arc::into_inner(self.shared).expect("the workers are gone");
        let source = shared.source.into_inner();
        source.unwrap_or_else(PoisonError::into_inner).messages
    }

    fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Option<(T, Report)>> {
        loop {
            self.workers
                .retain_mut(|worker| worker.as_mut().poll(cx).is_pending());
            let mut state = self.shared.state();
            if self.workers.is_empty() {
                state.give_up();
            }
            if let Some(finished) = state.finished.pop_front() {
                return Poll::Ready(Some(finished));
            }
            if self.workers.is_empty() {
                return Poll::Ready(None);
            }
            if !std::mem::take(&mut state.has_changed) {
                return Poll::Pending;
            }
        }
    }
}

impl<S, F, T> Stream for PoolBulk<'_, S, F, T> {
    type Item = (T, Report);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<(T, Report)>> {
        self.get_mut().poll_report(cx)
    }
}

impl<S, F, T> std::fmt::Debug for PoolBulk<'_, S, F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBulk")
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

/// What the workers share. All are polled in one task, so that nobody waits for a lock.
struct Shared<S, F, T> {
    source: Mutex<Source<S>>,
    state: Mutex<State<F, T>>,
}

struct Source<S> {
    messages: Pin<Box<S>>,
    is_exhausted: bool,
}

struct State<F, T> {
    /// Messages of workers that could open no session, for the others.
    returned: VecDeque<Item<F, T>>,
    /// Workers that have a message, and no session yet.
    opening: usize,
    why_returned: Option<Error>,
    finished: VecDeque<(T, Report)>,
    /// Workers that wait are to look again.
    has_changed: bool,
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

impl<F, T> State<F, T> {
    /// Nobody is left who could send what was returned.
    fn give_up(&mut self) {
        let Some(why) = &self.why_returned else {
            return;
        };
        for item in self.returned.drain(..) {
            let report = Report::not_attempted(item.envelope, why.error());
            self.finished.push_back((item.tag, report));
        }
    }
}

impl<F, T> Item<F, T> {
    fn may_be_sent_again(&self) -> bool {
        let was_opened = self.content.was_opened.load(Ordering::Relaxed);
        self.earlier.is_none() && (self.envelope.is_reopenable() || !was_opened)
    }
}

impl<S, F, T> Shared<S, F, T> {
    fn state(&self) -> MutexGuard<'_, State<F, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, tag: T, report: Report) {
        self.state().finished.push_back((tag, report));
    }

    /// The worker has no session yet, or has one now, or could open none.
    fn count_opening(&self, change: isize) {
        let mut state = self.state();
        state.opening = state.opening.saturating_add_signed(change);
        state.has_changed = true;
    }
}

impl<S, F, T> Shared<S, F, T>
where
    S: Stream<Item = Message<F, T>>,
{
    /// The next message. Where there are no more, but another worker may have to give its own back, one that `waits`
    /// waits for that.
    fn poll_item(&self, cx: &mut Context<'_>, waits: bool) -> Poll<Option<Item<F, T>>> {
        if let Some(item) = self.state().returned.pop_front() {
            return Poll::Ready(Some(item));
        }
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if !source.is_exhausted {
            match source.messages.as_mut().poll_next(cx) {
                Poll::Ready(Some(message)) => return Poll::Ready(Some(message.into())),
                Poll::Ready(None) => source.is_exhausted = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        match waits && self.state().opening > 0 {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
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

async fn work<S, F, O, R, T>(pool: Pool, shared: Arc<Shared<S, F, T>>)
where
    S: Stream<Item = Message<F, T>> + Send,
    F: FnMut() -> O + Send,
    O: Future<Output = io::Result<R>> + Send,
    R: AsyncBufRead + Send,
    T: Send,
{
    // What is to be sent in another session, and the one that has ended under it.
    let mut again = VecDeque::new();
    let mut ended = None;
    loop {
        if again.is_empty() {
            match poll_fn(|cx| shared.poll_item(cx, true)).await {
                Some(item) => again.push_back(item),
                None => return,
            }
        }
        shared.count_opening(1);
        let opened = match ended.take() {
            Some(session) => PooledSession::into_new(session).await,
            None => pool.session().await,
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return give_back(&shared, again, error),
        };
        shared.count_opening(-1);
        again = send_in(&pool, &mut session, again, &shared).await;
        if again.iter().any(|item| item.earlier.is_some()) {
            ended = Some(session);
        }
    }
}

/// Sends these messages in this session, and others as long as there are some. Returns those that are to be sent in
/// another one.
async fn send_in<S, F, O, R, T>(
    pool: &Pool,
    session: &mut PooledSession,
    mut own: VecDeque<Item<F, T>>,
    shared: &Arc<Shared<S, F, T>>,
) -> VecDeque<Item<F, T>>
where
    S: Stream<Item = Message<F, T>> + Send,
    F: FnMut() -> O + Send,
    O: Future<Output = io::Result<R>> + Send,
    R: AsyncBufRead + Send,
    T: Send,
{
    let mut was_used = !session.is_new();
    let mut left = pool.messages_left(session);
    let is_over = Arc::new(AtomicBool::new(false));
    let mut again = VecDeque::new();
    let (stop, mut given) = (is_over.clone(), 0);
    let feed = Feed(|cx: &mut Context<'_>| {
        if left == 0 || stop.load(Ordering::Relaxed) || (given >= TURN && pool.places().is_wanted())
        {
            return Poll::Ready(None);
        }
        let next = match own.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None => shared.poll_item(cx, false),
        };
        next.map(|item| {
            (left, given) = (left - 1, given + 1);
            item.map(submitted)
        })
    });
    let mut bulk = session.send_all(feed);
    while let Some((mut item, report)) = bulk.next_tagged().await {
        match Again::after(&report) {
            Again::Freely if was_used => {
                is_over.store(true, Ordering::Relaxed);
                again.push_back(item);
            }
            Again::Once if was_used && item.may_be_sent_again() => {
                item.earlier = Some(report);
                again.push_back(item);
            }
            _ => shared.finish(item.tag, report),
        }
        was_used = true;
    }
    drop(bulk);
    again.append(&mut own);
    again
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

/// No session could be opened: the other workers may send what was not begun.
fn give_back<S, F, T>(shared: &Shared<S, F, T>, items: VecDeque<Item<F, T>>, error: Error) {
    shared.count_opening(-1);
    for item in items {
        match item.earlier {
            Some(report) => shared.finish(item.tag, report),
            None => shared.state().returned.push_back(item),
        }
    }
    shared.state().why_returned = Some(error);
}

/// A stream of what a function gives.
struct Feed<N>(N);

impl<N: Unpin, M> Stream for Feed<N>
where
    N: FnMut(&mut Context<'_>) -> Poll<Option<M>>,
{
    type Item = M;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<M>> {
        self.get_mut().0(cx)
    }
}
