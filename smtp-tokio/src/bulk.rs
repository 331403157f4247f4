//! Many messages over one session.

use std::collections::VecDeque;
use std::future::{Future, Ready, poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use futures_core::Stream;
use smtp_proto::{Envelope, MessageId, Report, error::Misuse};
use tokio::io::AsyncBufRead;

use crate::content::in_one_piece;
use crate::in_memory::InMemory;
use crate::pump::Pump;
use crate::session::Session;

/// A message of a bulk delivery: its envelope, a function that opens its content, and a [tag](Self::tag).
#[derive(Clone, Debug)]
pub struct Message<F, T = ()> {
    /// The sender and the recipients.
    pub envelope: Envelope,
    /// Opens the content. It is called after a recipient has been accepted, or under
    /// [`Chunking::Eager`](crate::Chunking::Eager) before. If the server takes fewer recipients in one transaction,
    /// it is called again for each further transaction, and must open the content from its beginning.
    pub open: F,
    /// The caller's own value, which comes back with the report ([`Bulk::next_tagged`]).
    pub tag: T,
}

impl<F, O, R> Message<F>
where
    F: FnMut() -> O,
    O: Future<Output = io::Result<R>>,
    R: AsyncBufRead,
{
    /// A message whose content can be opened repeatedly.
    pub fn new(envelope: Envelope, open: F) -> Self {
        Self {
            envelope: envelope.reopenable(true),
            open,
            tag: (),
        }
    }

    /// A message whose content can be opened only once, such as a pipe. A server that takes fewer recipients in one
    /// transaction does not get it.
    pub fn once(envelope: Envelope, open: F) -> Self {
        Self {
            envelope: envelope.reopenable(false),
            open,
            tag: (),
        }
    }
}

impl<F, T> Message<F, T> {
    /// Adds a tag, by which the caller knows the message: a row of a database, or the name of a file. It comes back
    /// with the report ([`Bulk::next_tagged`]).
    ///
    /// ```
    /// use smtp_tokio::{Envelope, Message};
    ///
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// let message = Message::from_bytes(envelope, &b"Subject: news\r\n\r\n"[..]).tag("row 4711");
    /// assert_eq!(message.tag, "row 4711");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tag<U>(self, tag: U) -> Message<F, U> {
        Message {
            envelope: self.envelope,
            open: self.open,
            tag,
        }
    }
}

impl Message<()> {
    /// A message in memory: a slice, [`Bytes`](bytes::Bytes), or another [`Buf`] that can be cloned. If it is in one
    /// piece, its size is declared, unless the envelope declares one ([`Envelope::size_of`]).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), smtp_tokio::Error> {
    /// use bytes::Bytes;
    /// use smtp_tokio::{Envelope, Message, Server, Session};
    ///
    /// let newsletter = Bytes::from("Subject: news\r\n\r\nThere is news.\r\n");
    /// let messages = ["bob@example.net", "carol@example.net"].map(|reader| {
    ///     let envelope = Envelope::new("alice@example.org", [reader]).unwrap();
    ///     Message::from_bytes(envelope, newsletter.clone())
    /// });
    /// let mut session = Session::connect(&Server::new("mx.example.net")).await?;
    /// let mut reports = session.send_all(smtp_tokio::iter(messages)).and_quit();
    /// while let Some(report) = reports.next().await {
    ///     for (mailbox, result) in &report {
    ///         println!("{mailbox}: {}", if result.is_ok() { "sent" } else { "failed" });
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_bytes<B: Buf + Clone>(
        envelope: Envelope,
        message: B,
    ) -> Message<impl FnMut() -> Ready<io::Result<InMemory<B>>> + Clone> {
        let envelope = match in_one_piece(&message) {
            Some(octets) => envelope.size_of(octets),
            None => envelope,
        };
        Message::new(envelope, move || ready(Ok(InMemory::new(message.clone()))))
    }
}

impl Session {
    /// Sends many messages, one after the other. Each costs two round trips, or one with
    /// [`Server::overlap`](crate::Server::overlap). Each has its own report, in order, and a failure does not affect
    /// the others.
    ///
    /// If the session is lost, the current message is in doubt or has failed, as its stage says. Messages that were
    /// submitted after it are *not attempted*, and safe to send elsewhere. Then the reports end.
    /// [`Bulk::into_messages`] gives back the stream with the messages that were not submitted, and
    /// [`end`](Self::end) tells why. The same happens if a message cannot be read, because half a message can only be
    /// taken back by closing the session.
    ///
    /// The server may take fewer recipients in one transaction than a message has. It states that by LIMITS (RFC
    /// 9422), or [`Server::learn_limits`](crate::Server::learn_limits) finds out. The message is then sent in several
    /// transactions, with one report.
    ///
    /// Messages are taken from the stream when they can be sent. A message that is under way does not wait for the
    /// next one.
    ///
    /// ```no_run
    /// use smtp_tokio::{Envelope, Message, Server, Session};
    /// use tokio::{fs::File, io::BufReader};
    ///
    /// # async fn example() -> Result<(), smtp_tokio::Error> {
    /// let mut session = Session::connect(&Server::new("mx.example.net")).await?;
    /// let messages = ["1.eml", "2.eml"].map(|path| {
    ///     let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
    ///     Message::new(envelope, move || async move { File::open(path).await.map(BufReader::new) })
    /// });
    /// let mut reports = session.send_all(smtp_tokio::iter(messages)).and_quit();
    /// while let Some(report) = reports.next().await {
    ///     for failure in report.failures() {
    ///         eprintln!("{failure}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_all<S, F, O, R, T>(&mut self, messages: S) -> Bulk<'_, S, F, O, R, T>
    where
        S: Stream<Item = Message<F, T>>,
        F: FnMut() -> O,
        O: Future<Output = io::Result<R>>,
        R: AsyncBufRead,
    {
        self.pump.end_leaked();
        Bulk {
            has_begun: false,
            under_way: UnderWay {
                session: self,
                submitted: VecDeque::new(),
            },
            messages: Box::pin(messages),
            unsubmitted: None,
            exhausted: false,
            content: None,
            quit: false,
        }
    }
}

/// A bulk delivery: a stream with one report for each submitted message, in their order. It only sends while it is
/// asked for reports, so a slow reader slows it down. A future of [`next`](Self::next) may be dropped at any time
/// without harm.
///
/// If it is dropped before its end while a message is under way, it closes the session.
#[must_use = "nothing is sent before reports are asked for"]
pub struct Bulk<'a, S, F, O, R, T = ()> {
    under_way: UnderWay<'a, F, T>,
    /// Input that came before has been read.
    has_begun: bool,
    messages: Pin<Box<S>>,
    /// A message that came too late to be submitted: the reason, its envelope and its tag.
    unsubmitted: Option<(Misuse, Envelope, T)>,
    /// The stream is not asked any more.
    exhausted: bool,
    /// The content that is being sent, and the number of the wanted body that it is for.
    content: Option<(u64, Content<O, R>)>,
    quit: bool,
}

enum Content<O, R> {
    Opening(Pin<Box<O>>),
    Open(Pin<Box<R>>),
    /// Read to its end, or not wanted any more. Not every reader can be asked again then.
    Ended,
}

impl<S, F, O, R, T> Bulk<'_, S, F, O, R, T> {
    /// Ends the session with QUIT after the last message. It does not wait for the reply to QUIT.
    pub fn and_quit(mut self) -> Self {
        self.quit = true;
        self
    }

    /// Gives back the messages that were not submitted. After the last report of a lost session, these are the
    /// messages for the next one. If reports are still to come, it closes the session, and drops the reports.
    pub fn into_messages(self) -> Pin<Box<S>> {
        self.messages
    }

    /// The session and its state.
    pub fn session(&self) -> &Session {
        self.under_way.session
    }

    fn pump(&mut self) -> &mut Pump {
        &mut self.under_way.session.pump
    }
}

impl<S, F, O, R, T> Bulk<'_, S, F, O, R, T>
where
    S: Stream<Item = Message<F, T>>,
    F: FnMut() -> O,
    O: Future<Output = io::Result<R>>,
    R: AsyncBufRead,
{
    /// The next report. `None` after the last message.
    pub async fn next(&mut self) -> Option<Report> {
        let tagged = self.next_tagged().await;
        tagged.map(|(_, report)| report)
    }

    /// The next report, with the [tag](Message::tag) of its message. `None` after the last message. The future may be
    /// dropped at any time without harm.
    ///
    /// ```no_run
    /// use smtp_tokio::{Envelope, Message, Server, Session};
    /// use tokio::{fs::File, io::BufReader};
    ///
    /// # async fn example() -> Result<(), smtp_tokio::Error> {
    /// let mut session = Session::connect(&Server::new("mx.example.net")).await?;
    /// let messages = ["1.eml", "2.eml"].map(|path| {
    ///     let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
    ///     let open = move || async move { File::open(path).await.map(BufReader::new) };
    ///     Message::new(envelope, open).tag(path)
    /// });
    /// let mut bulk = session.send_all(smtp_tokio::iter(messages)).and_quit();
    /// while let Some((path, report)) = bulk.next_tagged().await {
    ///     println!("{path}: {}", if report.is_success() { "sent" } else { "failed" });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_tagged(&mut self) -> Option<(T, Report)> {
        poll_fn(|cx| self.poll_tagged(cx)).await
    }

    /// The reports as a stream, each with the [tag](Message::tag) of its message.
    pub fn tagged(&mut self) -> impl Stream<Item = (T, Report)> + Unpin {
        Tagged(|cx: &mut Context<'_>| self.poll_tagged(cx))
    }

    fn poll_tagged(&mut self, cx: &mut Context<'_>) -> Poll<Option<(T, Report)>> {
        if !self.has_begun {
            ready!(self.pump().poll_pause(cx));
            self.has_begun = true;
        }
        loop {
            let waits_for_messages = self.poll_submit(cx).is_pending();
            let Some(&(id, ..)) = self.under_way.submitted.front() else {
                // Submitted messages are reported before one that came too late.
                if let Some((misuse, envelope, tag)) = self.unsubmitted.take() {
                    let report = self.pump().driver.unsubmitted(misuse, envelope);
                    return Poll::Ready(Some((tag, report)));
                }
                if waits_for_messages {
                    // Meanwhile the server may send something, or close.
                    ready!(self.pump().poll_progress(cx));
                    continue;
                }
                if self.quit {
                    // Sends QUIT, if it was not sent yet.
                    ready!(self.pump().poll_until(cx, &mut |_| false));
                }
                return Poll::Ready(None);
            };
            ready!(
                self.pump()
                    .poll_until(cx, &mut |pump| pump.driver.wants_caller())
            );
            if let Some(report) = self.pump().driver.take_report(id) {
                let tag = self.under_way.submitted.pop_front().map(|(_, _, tag)| tag);
                return Poll::Ready(tag.map(|tag| (tag, report)));
            }
            match ready!(self.poll_content(cx)) {
                Ok(()) => {
                    ready!(self.pump().poll_end_body(cx));
                    self.content = None;
                }
                Err(error) => self.pump().fail_body(&error),
            }
        }
    }

    /// Submits messages while there is room and the stream has some. Ready when no more can be submitted now.
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.exhausted
            && self.unsubmitted.is_none()
            && self.under_way.submitted.len() < self.under_way.session.pump.driver.window
            && !self.under_way.session.pump.driver.is_closed()
        {
            let Some(message) = ready!(self.messages.as_mut().poll_next(cx)) else {
                self.exhausted = true;
                if self.quit {
                    self.pump().quit();
                }
                break;
            };
            let Message {
                envelope,
                open,
                tag,
            } = message;
            match self.pump().submit(envelope) {
                Ok(id) => self.under_way.submitted.push_back((id, open, tag)),
                Err((misuse, envelope)) => {
                    self.exhausted = misuse == Misuse::Closed;
                    self.unsubmitted = Some((misuse, envelope, tag));
                }
            }
        }
        Poll::Ready(())
    }

    /// Opens and sends the content of the wanted body.
    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some((wanted, number)) = self.under_way.session.pump.driver.body else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let opened = self.content.as_mut().filter(|(of, _)| *of == number);
            match opened.map(|(_, content)| content) {
                None => match self
                    .under_way
                    .submitted
                    .iter_mut()
                    .find(|(id, ..)| *id == wanted)
                {
                    Some((_, open, _)) => {
                        self.content = Some((number, Content::Opening(Box::pin(open()))));
                    }
                    // The body that is wanted does not exist any more.
                    None => return Poll::Ready(Err(io::ErrorKind::NotFound.into())),
                },
                Some(Content::Opening(opening)) => match opening.as_mut().poll(cx)? {
                    Poll::Ready(content) => {
                        self.content = Some((number, Content::Open(Box::pin(content))))
                    }
                    Poll::Pending => {
                        ready!(self.under_way.session.pump.poll_progress(cx));
                        if !self.under_way.session.pump.driver.engine().wants_body() {
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
                Some(Content::Open(content)) => {
                    let pump = &mut self.under_way.session.pump;
                    ready!(pump.poll_body(cx, content.as_mut()))?;
                    self.content = Some((number, Content::Ended));
                }
                Some(Content::Ended) => {
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S, F, O, R, T> Stream for Bulk<'_, S, F, O, R, T>
where
    S: Stream<Item = Message<F, T>>,
    F: FnMut() -> O + Unpin,
    O: Future<Output = io::Result<R>>,
    R: AsyncBufRead,
    T: Unpin,
{
    type Item = Report;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Report>> {
        let tagged = ready!(self.get_mut().poll_tagged(cx));
        Poll::Ready(tagged.map(|(_, report)| report))
    }
}

/// A stream from a function that polls it.
struct Tagged<P>(P);

impl<P, T> Stream for Tagged<P>
where
    P: FnMut(&mut Context<'_>) -> Poll<Option<(T, Report)>> + Unpin,
{
    type Item = (T, Report);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<(T, Report)>> {
        (self.get_mut().0)(cx)
    }
}

impl<S, F, O, R, T> std::fmt::Debug for Bulk<'_, S, F, O, R, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bulk")
            .field("session", &self.under_way.session)
            .finish_non_exhaustive()
    }
}

/// The session, and the messages that have no report yet.
struct UnderWay<'a, F, T> {
    session: &'a mut Session,
    submitted: VecDeque<(MessageId, F, T)>,
}

impl<F, T> Drop for UnderWay<'_, F, T> {
    fn drop(&mut self) {
        if !self.submitted.is_empty() {
            self.session
                .pump
                .abort("the bulk delivery was dropped before its end");
        }
    }
}

/// An iterator as a stream that is always ready, for [`Session::send_all`].
#[derive(Clone, Debug)]
pub struct Iter<I>(I);

/// Makes a stream from an iterator.
pub fn iter<I: IntoIterator>(items: I) -> Iter<I::IntoIter> {
    Iter(items.into_iter())
}

impl<I> Iter<I> {
    /// The iterator, with its remaining items. For the result of [`Bulk::into_messages`], call
    /// `std::pin::Pin::into_inner(rest).into_inner()`.
    ///
    /// ```
    /// assert_eq!(smtp_tokio::iter(0..3).into_inner(), 0..3);
    /// ```
    pub fn into_inner(self) -> I {
        self.0
    }
}

impl<I: Iterator + Unpin> Stream for Iter<I> {
    type Item = I::Item;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.get_mut().0.next())
    }
}
