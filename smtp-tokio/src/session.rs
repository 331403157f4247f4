//! An open session, and the transaction in it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use smtp_proto::{
    Capabilities, Envelope, MessageId, Reply, Report, Request,
    envelope::{ToMailbox, ToRecipient},
    event,
};
use tokio::io::{AsyncBufRead, AsyncWrite};

use crate::Error;
use crate::content::{Content, OfBuf};
use crate::pump::Pump;

/// A session that can send mail: greeting, EHLO, TLS and AUTH are done.
///
/// A failed transaction does not end the session. A lost connection does, and then every later call returns an error.
///
/// A dropped future of [`begin`](Self::begin), [`transaction`](Self::transaction) or [`send`](Self::send) closes the
/// session, because the server has received only a part of something. [`is_usable`](Self::is_usable) tells whether
/// the session still works.
#[derive(Debug)]
pub struct Session {
    pub(crate) pump: Pump,
}

impl Session {
    pub(crate) async fn open(mut pump: Pump) -> Result<Self, Error> {
        pump.open().await;
        match pump.driver.is_closed() {
            true => Err(pump.driver.ended()),
            false => Ok(Self { pump }),
        }
    }

    /// Begins a message from `sender` to `recipients`. It returns when the server wants the body, after at least one
    /// recipient is accepted.
    ///
    /// # Errors
    /// An address is invalid, nobody was accepted ([`Error::report`] has the reason for each), or the session is
    /// lost. If it was lost before, the message is *not attempted*.
    pub async fn transaction<A, R>(
        &mut self,
        sender: A,
        recipients: R,
    ) -> Result<Transaction<'_>, Error>
    where
        A: ToMailbox,
        R: IntoIterator<Item: ToRecipient>,
    {
        let envelope = Envelope::new(sender, recipients)?;
        self.begin(envelope).await
    }

    /// The same for an envelope with more declarations, such as a size, 8-bit content, or all recipients or none.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    pub async fn begin(&mut self, envelope: Envelope) -> Result<Transaction<'_>, Error> {
        // Nobody here gives the body a second time.
        self.begin_as_it_is(envelope.reopenable(false)).await
    }

    async fn begin_as_it_is(&mut self, envelope: Envelope) -> Result<Transaction<'_>, Error> {
        self.pump.start().await;
        if self.pump.driver.is_closed() {
            return Err(self.pump.driver.ended().not_attempted());
        }
        let id = self
            .pump
            .submit(envelope)
            .map_err(|(misuse, _)| Error::local(misuse.into()))?;
        // From here on, dropping it ends the session.
        let mut transaction = Transaction {
            session: self,
            id,
            done: false,
        };
        let pump = &mut transaction.session.pump;
        pump.run_until(|pump| pump.driver.wants_caller()).await;
        match pump.driver.take_report(id) {
            Some(report) => {
                let error = pump.driver.explain(Error::from_report(report));
                transaction.done = true;
                Err(error)
            }
            None => Ok(transaction),
        }
    }

    /// Sends a whole message. [`Content`] lists the types that it may have. It reads replies while it writes, so a
    /// refusal in the middle of a large body stops the body.
    ///
    /// The size of octets or text in memory is declared, unless the envelope declares one:
    ///
    /// A message in memory to more recipients than the server takes in one transaction is sent in several, as by
    /// [`send_all`](Self::send_all). A reader can be read once, so that it is refused then.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtp_tokio::{Envelope, Session};
    ///
    /// let mut session = Session::connect("mx.example.net").await?;
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// let report = session.send(envelope, "Subject: hello\r\n\r\nHello, Bob.\r\n").await?;
    /// for failure in report.failures() {
    ///     eprintln!("{failure}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A file is sent in constant memory, and so is any other reader. `&mut reader` lends one:
    ///
    /// ```no_run
    /// # use smtp_tokio::{Envelope, Session};
    /// # async fn example(mut session: Session, envelope: Envelope) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::{fs::File, io::BufReader};
    ///
    /// let report = session.send(envelope, BufReader::new(File::open("message.eml").await?)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A builder such as [mail-builder](https://docs.rs/mail-builder) composes a message in memory:
    ///
    /// ```no_run
    /// # use smtp_tokio::{Envelope, Session};
    /// # async fn example(mut session: Session, envelope: Envelope) -> Result<(), Box<dyn std::error::Error>> {
    /// use mail_builder::MessageBuilder;
    ///
    /// let message = MessageBuilder::new()
    ///     .from("alice@example.org")
    ///     .to("bob@example.net")
    ///     .subject("hello")
    ///     .text_body("Hello, Bob.")
    ///     .write_to_vec()?;
    /// let report = session.send(envelope, message).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The message reached nobody. [`Error::report`] has the result of each recipient. A message that reached at least
    /// one is a [`Report`], which holds the errors of the others.
    pub async fn send(
        &mut self,
        envelope: Envelope,
        message: impl Content,
    ) -> Result<Report, Error> {
        self.send_then(envelope, message, false).await
    }

    /// Sends a whole message that is any [`Buf`], such as a chain of header and body. If it is in one piece, its size
    /// is declared.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_bytes(
        &mut self,
        envelope: Envelope,
        message: impl Buf,
    ) -> Result<Report, Error> {
        self.send(envelope, OfBuf(message)).await
    }

    async fn send_then(
        &mut self,
        envelope: Envelope,
        message: impl Content,
        quit: bool,
    ) -> Result<Report, Error> {
        let (envelope, again) = match message.in_memory() {
            Some(octets) => (envelope.size_of(octets), true),
            None => (envelope, false),
        };
        let mut transaction = self.begin_as_it_is(envelope.reopenable(again)).await?;
        if quit {
            transaction.session.pump.quit();
        }
        if let Some(octets) = message.in_memory() {
            // Where the server takes fewer recipients in one transaction, there are several.
            while transaction.session.pump.driver.engine().wants_body() {
                let mut part = octets;
                let pump = &mut transaction.session.pump;
                // A slice can always be read.
                let _ = poll_fn(|cx| pump.poll_body(cx, Pin::new(&mut part))).await;
                transaction.end_part().await;
            }
            return transaction.finish().await;
        }
        let mut message = pin!(message.into_reader());
        match poll_fn(|cx| transaction.session.pump.poll_body(cx, message.as_mut())).await {
            Ok(()) => transaction.finish().await,
            Err(error) => Err(transaction.give_up(error).await),
        }
    }

    /// Sends the last message, and ends the session with QUIT. It does not wait for the reply to QUIT.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_last(
        &mut self,
        envelope: Envelope,
        message: impl Content,
    ) -> Result<Report, Error> {
        let result = self.send_then(envelope, message, true).await;
        self.say_quit().await;
        result
    }

    /// Sends a command outside a transaction, and returns its reply. A refusal is a reply too, for example to VRFY
    /// for an unknown mailbox.
    ///
    /// ```no_run
    /// use smtp_tokio::{Request, Server, Session};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut session = Session::connect(&Server::new("mx.example.net")).await?;
    /// println!("{}", session.request(Request::verify("postmaster")?).await?);
    /// session.request(Request::noop()).await?; // keeps an idle session alive
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The server does not offer what the request needs, or the session is lost. If it was lost before, the request
    /// is *not attempted*.
    pub async fn request(&mut self, request: Request) -> Result<Reply, Error> {
        self.pump.start().await;
        if self.pump.driver.is_closed() {
            return Err(self.pump.driver.ended().not_attempted());
        }
        self.pump
            .request(request)
            .map_err(|misuse| Error::local(misuse.into()))?;
        // If this future is dropped, nobody waits for the answer.
        let waiting = Waiting(&mut self.pump);
        waiting.0.run_until(|pump| pump.driver.has_answer()).await;
        waiting.0.driver.take_answer()
    }

    /// Ends the session: sends QUIT and closes, without waiting for the reply, which decides nothing. Dropping a
    /// session closes it without QUIT.
    pub async fn quit(mut self) {
        self.say_quit().await;
    }

    async fn say_quit(&mut self) {
        self.pump.end_leaked();
        if self.pump.quit() {
            self.pump.run_until(|_| false).await;
        }
    }

    /// Whether another message can be sent. Input from the server is read first, without waiting.
    pub async fn is_usable(&mut self) -> bool {
        self.pump.start().await;
        !self.pump.driver.is_closed()
    }

    /// Why the session has ended, if it has. The next message would have this error.
    pub fn end(&self) -> Option<smtp_proto::Error> {
        let driver = &self.pump.driver;
        driver.is_closed().then(|| driver.end())
    }

    /// The number of this session, which [`Server::observe`](crate::Server::observe) reports too. Each session of
    /// this process has its own, from 1.
    pub fn number(&self) -> u64 {
        self.pump.driver.number
    }

    /// What the server offers.
    pub fn capabilities(&self) -> &Capabilities {
        self.pump.driver.engine().capabilities()
    }

    /// Whether the server has shown that it does not take overlapping envelopes
    /// ([`Server::overlap`](crate::Server::overlap)). If so, the session has ended. Open the next one without
    /// overlap.
    pub fn overlap_is_broken(&self) -> bool {
        self.pump.driver.overlap_broken
    }

    /// How many round trips the session has cost so far: replies to a command that was only sent after the reply
    /// before. The greeting counts. The handshakes of TCP and TLS do not.
    pub fn round_trips(&self) -> u64 {
        self.pump.driver.engine().round_trips()
    }

    /// How the session is encrypted. `None` if it is not.
    #[cfg(feature = "rustls")]
    pub fn tls_info(&self) -> Option<&crate::TlsInfo> {
        self.pump.driver.tls_info.as_ref()
    }
}

/// Waits for the answer to a request.
struct Waiting<'a>(&'a mut Pump);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.driver.forget_answer();
    }
}

impl Pump {
    /// Sends `message` as long as the body is wanted. Ready when all of it is gathered, or it is not wanted any more.
    /// Meanwhile it reads the server's replies.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        mut message: Pin<&mut (impl AsyncBufRead + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        while self.driver.engine().wants_body() {
            let used = match message.as_mut().poll_fill_buf(cx)? {
                Poll::Ready([]) => return Poll::Ready(Ok(())),
                Poll::Ready(octets) => self.transmit(octets),
                Poll::Pending => 0,
            };
            message.as_mut().consume(used);
            if self.driver.is_full() || used == 0 {
                let progress = self.poll_progress(cx);
                if used == 0 {
                    ready!(progress);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A message whose body the server wants. Write it, then call [`finish`](Self::finish).
///
/// Write the message as it is: the engine converts line ends and dots. Dropping an unfinished transaction closes the
/// session, so that the server does not deliver half a message. After a leaked one ([`std::mem::forget`]), the next
/// call on the session closes it.
#[derive(Debug)]
#[must_use = "a transaction that is dropped ends the session"]
pub struct Transaction<'a> {
    session: &'a mut Session,
    id: MessageId,
    done: bool,
}

impl Transaction<'_> {
    /// The recipients that were refused so far, and why.
    pub fn failures(&self) -> impl Iterator<Item = event::Failure<'_>> {
        self.session.pump.driver.engine().refused(self.id)
    }

    /// Ends the body, and waits until it is wanted again or the message has ended.
    async fn end_part(&mut self) {
        let pump = &mut self.session.pump;
        poll_fn(|cx| pump.poll_end_body(cx)).await;
        pump.run_until(|pump| pump.driver.wants_caller()).await;
    }

    /// Ends the message and waits for the reply that decides. Dropped before it is done, it closes the
    /// session, and whether the message was delivered is not known.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn finish(mut self) -> Result<Report, Error> {
        let id = self.id;
        let pump = &mut self.session.pump;
        // If the body is not wanted any more, the report is already there and has the reason.
        poll_fn(|cx| pump.poll_end_body(cx)).await;
        pump.run_until(|pump| pump.driver.has_report()).await;
        let report = pump.driver.take_report(id);
        let result = pump.driver.judge(report);
        self.done = true;
        result
    }

    /// The message cannot be read to its end.
    async fn give_up(mut self, error: io::Error) -> Error {
        let pump = &mut self.session.pump;
        pump.fail_body(&error);
        pump.run_until(|pump| pump.driver.has_report()).await;
        self.done = true;
        match pump.driver.take_report(self.id) {
            Some(report) => pump.driver.explain(Error::from_report(report)),
            None => pump.driver.ended(),
        }
    }
}

impl AsyncWrite for Transaction<'_> {
    /// Fails if the server has ended the transaction. The error contains an [`Error`] with the reason.
    /// [`finish`](Transaction::finish) still has the report.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let transaction = self.get_mut();
        let pump = &mut transaction.session.pump;
        while pump.driver.engine().wants_body() {
            let used = pump.transmit(octets);
            if pump.driver.is_full() || used < octets.len() {
                let progress = pump.poll_progress(cx);
                if used == 0 && !octets.is_empty() {
                    ready!(progress);
                    continue;
                }
            }
            return Poll::Ready(Ok(used));
        }
        ready!(pump.poll_until(cx, &mut |pump| pump.driver.has_report()));
        Poll::Ready(Err(pump.driver.body_refused(transaction.id)))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pump = &mut self.get_mut().session.pump;
        pump.driver.flush_chunk();
        while !pump.is_flushed() {
            pump.transmit(&[]);
            if !pump.is_flushed() {
                ready!(pump.poll_progress(cx));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes. Only [`finish`](Transaction::finish) ends the message and returns its report.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.session
                .pump
                .abort("the transaction was dropped before it was finished");
        }
    }
}
