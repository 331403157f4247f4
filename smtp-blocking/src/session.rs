//! An open session, and the transaction in it.

use std::io::{self, BufRead, Write};

use bytes::Buf;
use smtp_adapter::Error;
use smtp_proto::{
    Capabilities, Envelope, MessageId, Reply, Report, Request,
    envelope::{ToMailbox, ToRecipient},
    event,
};

use crate::content::{Content, OfBuf};
use crate::pump::Pump;

/// A session that can send mail: greeting, EHLO, TLS and AUTH are done.
///
/// A failed transaction does not end the session. A lost connection does, and then every later call returns an error.
#[derive(Debug)]
pub struct Session {
    pub(crate) pump: Pump,
}

impl Session {
    pub(crate) fn open(mut pump: Pump) -> Result<Self, Error> {
        pump.run_until(|pump| pump.driver.ready);
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
    pub fn transaction<A, R>(&mut self, sender: A, recipients: R) -> Result<Transaction<'_>, Error>
    where
        A: ToMailbox,
        R: IntoIterator<Item: ToRecipient>,
    {
        self.begin(Envelope::new(sender, recipients)?)
    }

    /// The same for an envelope with more declarations, such as a size, 8-bit content, or all recipients or none.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    pub fn begin(&mut self, envelope: Envelope) -> Result<Transaction<'_>, Error> {
        // Nobody here gives the body a second time.
        self.begin_as_it_is(envelope.reopenable(false))
    }

    fn begin_as_it_is(&mut self, envelope: Envelope) -> Result<Transaction<'_>, Error> {
        self.pump.start();
        if self.pump.driver.is_closed() {
            return Err(self.pump.driver.ended().not_attempted());
        }
        let id = self
            .pump
            .submit(envelope)
            .map_err(|(misuse, _)| Error::local(misuse.into()))?;
        self.pump.run_until(|pump| pump.driver.wants_caller());
        match self.pump.driver.take_report(id) {
            Some(report) => Err(self.pump.driver.explain(Error::from_report(report))),
            None => Ok(Transaction {
                session: self,
                id,
                done: false,
            }),
        }
    }

    /// Sends a whole message. [`Content`] lists the types that it may have.
    ///
    /// The size of octets or text in memory is declared, unless the envelope declares one:
    ///
    /// A message in memory to more recipients than the server takes in one transaction is sent in several, as by
    /// [`send_all`](Self::send_all). A reader can be read once, so that it is refused then.
    ///
    /// ```no_run
    /// use smtp_blocking::{Envelope, Session};
    ///
    /// let mut session = Session::connect("mx.example.net")?;
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// let report = session.send(envelope, "Subject: hello\r\n\r\nHello, Bob.\r\n")?;
    /// for failure in report.failures() {
    ///     eprintln!("{failure}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A file is sent in constant memory, and so is any other reader. `&mut reader` lends one:
    ///
    /// ```no_run
    /// # use smtp_blocking::{Envelope, Session};
    /// # let mut session = Session::connect("mx.example.net")?;
    /// # let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// use std::{fs::File, io::BufReader};
    ///
    /// let report = session.send(envelope, BufReader::new(File::open("message.eml")?))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A builder such as [mail-builder](https://docs.rs/mail-builder) composes a message in memory:
    ///
    /// ```no_run
    /// # use smtp_blocking::{Envelope, Session};
    /// # let mut session = Session::connect("mx.example.net")?;
    /// # let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// use mail_builder::MessageBuilder;
    ///
    /// let message = MessageBuilder::new()
    ///     .from("alice@example.org")
    ///     .to("bob@example.net")
    ///     .subject("hello")
    ///     .text_body("Hello, Bob.")
    ///     .write_to_vec()?;
    /// let report = session.send(envelope, message)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The message reached nobody. [`Error::report`] has the result of each recipient. A message that reached at least
    /// one is a [`Report`], which holds the errors of the others.
    pub fn send(&mut self, envelope: Envelope, message: impl Content) -> Result<Report, Error> {
        self.send_then(envelope, message, false)
    }

    /// Sends a whole message that is any [`Buf`], such as a chain of header and body. If it is in one piece, its size
    /// is declared.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_bytes(&mut self, envelope: Envelope, message: impl Buf) -> Result<Report, Error> {
        self.send(envelope, OfBuf(message))
    }

    fn send_then(
        &mut self,
        envelope: Envelope,
        message: impl Content,
        quit: bool,
    ) -> Result<Report, Error> {
        let (envelope, again) = match message.in_memory() {
            Some(octets) => (envelope.size_of(octets), true),
            None => (envelope, false),
        };
        let mut transaction = self.begin_as_it_is(envelope.reopenable(again))?;
        if quit {
            transaction.session.pump.quit();
        }
        if let Some(octets) = message.in_memory() {
            // Where the server takes fewer recipients in one transaction, there are several.
            while transaction.session.pump.driver.engine().wants_body() {
                // A slice can always be read.
                let _ = transaction.session.pump.send_body(&mut &octets[..]);
                transaction.end_part();
            }
            return transaction.finish();
        }
        match transaction
            .session
            .pump
            .send_body(&mut message.into_reader())
        {
            Ok(()) => transaction.finish(),
            Err(error) => Err(transaction.give_up(&error)),
        }
    }

    /// Sends the last message, and ends the session with QUIT. It does not wait for the reply to QUIT.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_last(
        &mut self,
        envelope: Envelope,
        message: impl Content,
    ) -> Result<Report, Error> {
        let result = self.send_then(envelope, message, true);
        self.say_quit();
        result
    }

    /// Sends a command outside a transaction, and returns its reply. A refusal is a reply too, for example to VRFY
    /// for an unknown mailbox.
    ///
    /// ```no_run
    /// use smtp_blocking::{Request, Server, Session};
    ///
    /// let mut session = Session::connect(&Server::new("mx.example.net"))?;
    /// println!("{}", session.request(Request::verify("postmaster")?)?);
    /// session.request(Request::noop())?; // keeps an idle session alive
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// The server does not offer what the request needs, or the session is lost. If it was lost before, the request
    /// is *not attempted*.
    pub fn request(&mut self, request: Request) -> Result<Reply, Error> {
        self.pump.start();
        if self.pump.driver.is_closed() {
            return Err(self.pump.driver.ended().not_attempted());
        }
        self.pump
            .request(request)
            .map_err(|misuse| Error::local(misuse.into()))?;
        self.pump.run_until(|pump| pump.driver.has_answer());
        self.pump.driver.take_answer()
    }

    /// Ends the session: sends QUIT and closes, without waiting for the reply, which decides nothing. Dropping a
    /// session closes it without QUIT.
    pub fn quit(mut self) {
        self.say_quit();
    }

    fn say_quit(&mut self) {
        self.pump.end_leaked();
        if self.pump.quit() {
            self.pump.run_until(|_| false);
        }
    }

    /// Whether another message can be sent. Input from the server is read first, without waiting.
    pub fn is_usable(&mut self) -> bool {
        self.pump.start();
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

impl Pump {
    /// Sends `message` as long as the body is wanted.
    pub(crate) fn send_body(&mut self, message: &mut impl BufRead) -> io::Result<()> {
        while self.driver.engine().wants_body() {
            let used = match message.fill_buf() {
                Ok([]) => break,
                Ok(octets) => self.transmit(octets),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            message.consume(used);
        }
        Ok(())
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
    fn end_part(&mut self) {
        let pump = &mut self.session.pump;
        pump.end_body();
        pump.run_until(|pump| pump.driver.wants_caller());
    }

    /// Ends the message and waits for the reply that decides.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub fn finish(mut self) -> Result<Report, Error> {
        self.done = true;
        let id = self.id;
        let pump = &mut self.session.pump;
        // If the body is not wanted any more, the report is already there and has the reason.
        pump.end_body();
        pump.run_until(|pump| pump.driver.has_report());
        let report = pump.driver.take_report(id);
        pump.driver.judge(report)
    }

    /// The message cannot be read to its end.
    fn give_up(mut self, error: &io::Error) -> Error {
        self.done = true;
        let pump = &mut self.session.pump;
        pump.fail_body(error);
        pump.run_until(|pump| pump.driver.has_report());
        match pump.driver.take_report(self.id) {
            Some(report) => pump.driver.explain(Error::from_report(report)),
            None => pump.driver.ended(),
        }
    }
}

impl Write for Transaction<'_> {
    /// Fails if the server has ended the transaction. The error contains an [`Error`] with the reason.
    /// [`finish`](Transaction::finish) still has the report.
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if octets.is_empty() {
            return Ok(0);
        }
        let pump = &mut self.session.pump;
        match pump.transmit(octets) {
            0 => {
                pump.run_until(|pump| pump.driver.has_report());
                Err(pump.driver.body_refused(self.id))
            }
            used => Ok(used),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.session.pump.flush_body();
        Ok(())
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
