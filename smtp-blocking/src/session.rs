//! An open session, and the transaction that runs in it.

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

/// A session in which mail can be sent: greeting, EHLO, TLS and AUTH are done.
///
/// A transaction that fails does not end it; a lost connection does, and every later call says so.
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

    /// Begins a message from `sender` to `recipients`, and returns when its body is wanted, which is as
    /// soon as one recipient is accepted.
    ///
    /// # Errors
    /// An address is none, nobody was accepted ([`Error::report`] says why for each), or the session is
    /// lost. In one that had ended before, the message is not attempted.
    pub fn transaction<A, R>(&mut self, sender: A, recipients: R) -> Result<Transaction<'_>, Error>
    where
        A: ToMailbox,
        R: IntoIterator<Item: ToRecipient>,
    {
        self.begin(Envelope::new(sender, recipients)?)
    }

    /// The same for an envelope that declares more: a size, 8-bit content, all recipients or none.
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
            .driver
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

    /// Sends a whole message: octets or text as `&message`, a file in a [`BufReader`](io::BufReader), any other reader
    /// as `&mut reader` ([`Content`] has the list). A reader is sent in constant memory. The size of what lies in memory
    /// is declared, unless the envelope declares one.
    ///
    /// A message in memory to more recipients than the server takes in one transaction is sent in several, as by
    /// [`send_all`](Self::send_all). A reader can be read once, so that it is refused then.
    ///
    /// ```no_run
    /// use smtp_blocking::{Envelope, Server, Session};
    ///
    /// let mut session = Session::connect(&Server::new("mx.example.net"))?;
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// let report = session.send(envelope, "Subject: hello\r\n\r\nHello, Bob.\r\n")?;
    /// for failure in report.failures() {
    ///     eprintln!("{failure}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The message reached nobody: [`Error::report`] says what became of each recipient. One that
    /// reached somebody is a [`Report`], with the errors of the others in it.
    pub fn send(&mut self, envelope: Envelope, message: impl Content) -> Result<Report, Error> {
        self.send_then(envelope, message, false)
    }

    /// Sends a whole message that is a [`Buf`] of any kind, such as a chain of header and body. Its size is declared
    /// where it lies in one piece.
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
            let _ = transaction.session.pump.driver.engine.quit();
        }
        if let Some(octets) = message.in_memory() {
            // Where the server takes fewer recipients in one transaction, there are several.
            while transaction.session.pump.driver.engine.wants_body() {
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

    /// Sends the last message, and ends the session with QUIT, whose reply is not waited for.
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

    /// Says a command outside a transaction, and returns the reply to it, whatever its class: a mailbox that
    /// VRFY does not find is an answer too.
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
    /// # Errors
    /// The server does not offer what the request needs, or the session is lost. In one that had ended before, the
    /// request is not attempted.
    pub fn request(&mut self, request: Request) -> Result<Reply, Error> {
        self.pump.start();
        if self.pump.driver.is_closed() {
            return Err(self.pump.driver.ended().not_attempted());
        }
        self.pump
            .driver
            .request(request)
            .map_err(|misuse| Error::local(misuse.into()))?;
        self.pump.run_until(|pump| pump.driver.has_answer());
        self.pump.driver.take_answer()
    }

    /// Ends the session: says QUIT and closes, without waiting for the reply, which decides nothing.
    /// Dropping a session closes it without QUIT.
    pub fn quit(mut self) {
        self.say_quit();
    }

    fn say_quit(&mut self) {
        self.pump.end_leaked();
        if self.pump.driver.engine.quit().is_ok() {
            self.pump.run_until(|_| false);
        }
    }

    /// Whether another message can be sent. What the server has said meanwhile is read first, without waiting.
    pub fn is_usable(&mut self) -> bool {
        self.pump.start();
        !self.pump.driver.is_closed()
    }

    /// Why the session has ended, if it has: the error that a message which comes now would have.
    pub fn end(&self) -> Option<smtp_proto::Error> {
        let driver = &self.pump.driver;
        driver.is_closed().then(|| driver.end())
    }

    /// The number of this session, as [`Server::observe`](crate::Server::observe) has it. Each session of this process
    /// has its own, from 1.
    pub fn number(&self) -> u64 {
        self.pump.driver.number
    }

    /// What the server offers.
    pub fn capabilities(&self) -> &Capabilities {
        self.pump.driver.engine.capabilities()
    }

    /// Whether the server has shown that it does not take overlapping envelopes
    /// ([`Server::overlap`](crate::Server::overlap)). The session has ended then, and the next one should go without.
    pub fn overlap_is_broken(&self) -> bool {
        self.pump.driver.overlap_broken
    }

    /// How many replies so far had to be waited for one after the other, each to something that was said
    /// only when the one before had come; the greeting counts, the handshakes of TCP and TLS do not.
    pub fn round_trips(&self) -> u64 {
        self.pump.driver.engine.round_trips()
    }

    /// How the session is encrypted, if it is.
    #[cfg(feature = "rustls")]
    pub fn tls_info(&self) -> Option<&crate::TlsInfo> {
        self.pump.driver.tls_info.as_ref()
    }
}

impl Pump {
    /// Sends `message` while the body is wanted.
    pub(crate) fn send_body(&mut self, message: &mut impl BufRead) -> io::Result<()> {
        while self.driver.engine.wants_body() {
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

/// A message whose body is wanted: write it, then [`finish`](Self::finish).
///
/// Line ends and dots are the engine's business: write the message as it is. Dropping a transaction
/// that is not finished closes the session, because that is the only way not to send half a message. After one that
/// was leaked ([`std::mem::forget`]), the next call on the session closes it.
#[derive(Debug)]
#[must_use = "a transaction that is dropped ends the session"]
pub struct Transaction<'a> {
    session: &'a mut Session,
    id: MessageId,
    done: bool,
}

impl Transaction<'_> {
    /// The recipients that were refused by now, and why.
    pub fn failures(&self) -> impl Iterator<Item = event::Failure<'_>> {
        self.session.pump.driver.engine.refused(self.id)
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
        // Where no body is wanted any more, the report is there already, and says why.
        pump.end_body();
        pump.run_until(|pump| pump.driver.has_report());
        let report = pump.driver.take_report(id);
        pump.driver.judge(report)
    }

    /// The message cannot be read to its end.
    fn give_up(mut self, error: &io::Error) -> Error {
        self.done = true;
        let pump = &mut self.session.pump;
        pump.driver.fail_body(error);
        pump.run_until(|pump| pump.driver.has_report());
        match pump.driver.take_report(self.id) {
            Some(report) => pump.driver.explain(Error::from_report(report)),
            None => pump.driver.ended(),
        }
    }
}

impl Write for Transaction<'_> {
    /// Fails when the server has ended the transaction. The error is an [`Error`], and says why;
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
