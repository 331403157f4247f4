//! Many messages over one session.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::iter;

use bytes::Buf;
use bytes::buf::Reader;
use smtp_proto::{Envelope, MessageId, Report, error::Misuse};

use crate::content::in_one_piece;
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
    /// The caller's own value, which comes back with the report ([`Bulk::tagged`]).
    pub tag: T,
}

impl<F, R> Message<F>
where
    F: FnMut() -> io::Result<R>,
    R: BufRead,
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
    /// with the report ([`Bulk::tagged`]).
    ///
    /// ```
    /// use smtp_blocking::{Envelope, Message};
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
    /// use bytes::Bytes;
    /// use smtp_blocking::{Envelope, Message, Server, Session};
    ///
    /// let newsletter = Bytes::from("Subject: news\r\n\r\nThere is news.\r\n");
    /// let messages = ["bob@example.net", "carol@example.net"].map(|reader| {
    ///     let envelope = Envelope::new("alice@example.org", [reader]).unwrap();
    ///     Message::from_bytes(envelope, newsletter.clone())
    /// });
    /// let mut session = Session::connect(&Server::new("mx.example.net"))?;
    /// for report in session.send_all(messages).and_quit() {
    ///     for (mailbox, result) in &report {
    ///         println!("{mailbox}: {}", if result.is_ok() { "sent" } else { "failed" });
    ///     }
    /// }
    /// # Ok::<(), smtp_blocking::Error>(())
    /// ```
    pub fn from_bytes<B: Buf + Clone>(
        envelope: Envelope,
        message: B,
    ) -> Message<impl FnMut() -> io::Result<Reader<B>> + Clone> {
        let envelope = match in_one_piece(&message) {
            Some(octets) => envelope.size_of(octets),
            None => envelope,
        };
        Message::new(envelope, move || Ok(message.clone().reader()))
    }
}

impl Session {
    /// Sends many messages, one after the other. Each costs two round trips, or one with
    /// [`Server::overlap`](crate::Server::overlap). Each has its own report, in order, and a failure does not affect
    /// the others.
    ///
    /// If the session is lost, the current message is in doubt or has failed, as its stage says. Messages that were
    /// submitted after it are *not attempted*, and safe to send elsewhere. Then the reports end.
    /// [`Bulk::into_messages`] gives back the iterator with the messages that were not submitted, and
    /// [`end`](Self::end) tells why. The same happens if a message cannot be read, because half a message can only be
    /// taken back by closing the session.
    ///
    /// The server may take fewer recipients in one transaction than a message has. It states that by LIMITS (RFC
    /// 9422), or [`Server::learn_limits`](crate::Server::learn_limits) finds out. The message is then sent in several
    /// transactions, with one report.
    ///
    /// The iterator may block. It is asked for the next message after the report of the one before. With overlap it
    /// is asked earlier, because the next envelope goes out with the end of that message.
    ///
    /// ```no_run
    /// use std::{fs::File, io::BufReader};
    /// use smtp_blocking::{Envelope, Message, Server, Session};
    ///
    /// let mut session = Session::connect(&Server::new("mx.example.net"))?;
    /// let messages = ["1.eml", "2.eml"].map(|path| {
    ///     let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
    ///     Message::new(envelope, move || File::open(path).map(BufReader::new))
    /// });
    /// for report in session.send_all(messages).and_quit() {
    ///     for failure in report.failures() {
    ///         eprintln!("{failure}");
    ///     }
    /// }
    /// # Ok::<(), smtp_blocking::Error>(())
    /// ```
    pub fn send_all<I, F, R, T>(&mut self, messages: I) -> Bulk<'_, I::IntoIter, F, T>
    where
        I: IntoIterator<Item = Message<F, T>>,
        F: FnMut() -> io::Result<R>,
        R: BufRead,
    {
        self.pump.start();
        self.pump.driver.keep_buffers(true);
        let messages = messages.into_iter();
        Bulk {
            under_way: UnderWay {
                session: self,
                submitted: VecDeque::new(),
            },
            messages,
            unsubmitted: None,
            exhausted: false,
            quit: false,
        }
    }
}

/// A bulk delivery: an iterator with one report for each submitted message, in their order. It only sends while it is
/// asked for reports.
///
/// If it is dropped before its end while a message is under way, it closes the session.
#[must_use = "nothing is sent before reports are asked for"]
#[derive(Debug)]
pub struct Bulk<'a, I, F, T = ()> {
    under_way: UnderWay<'a, F, T>,
    messages: I,
    /// A message that came too late to be submitted: the reason, its envelope and its tag.
    unsubmitted: Option<(Misuse, Envelope, T)>,
    /// The iterator is not asked any more.
    exhausted: bool,
    quit: bool,
}

impl<I, F, T> Bulk<'_, I, F, T> {
    /// Ends the session with QUIT after the last message. It does not wait for the reply to QUIT.
    pub fn and_quit(mut self) -> Self {
        self.quit = true;
        self
    }

    /// Gives back the messages that were not submitted. After the last report of a lost session, these are the
    /// messages for the next one. If reports are still to come, it closes the session, and drops the reports.
    pub fn into_messages(self) -> I {
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

impl<I: Iterator, F, T> Bulk<'_, I, F, T> {
    /// Whether to ask for the next message, which may take long to come: only after all gathered octets are written.
    /// Without overlap, the message before must also have its report.
    fn may_ask(&mut self) -> bool {
        let count = self.under_way.submitted.len();
        let driver = &self.under_way.session.pump.driver;
        if self.exhausted || self.unsubmitted.is_some() || driver.is_closed() {
            return false;
        }
        if count == 0 {
            return true;
        }
        if !driver.overlaps || count >= driver.window {
            return false;
        }
        let pump = self.pump();
        pump.run_until(|_| true);
        // An envelope that goes out with its body must wait for that body.
        pump.driver.out.is_empty() && !pump.driver.is_closed()
    }

    /// Whether there are certainly no more messages, or they would come too late.
    fn has_no_more(&self) -> bool {
        self.messages.size_hint().1 == Some(0)
            || matches!(self.unsubmitted, Some((Misuse::Closed, ..)))
    }

    /// Stops asking for messages.
    fn exhaust(&mut self) {
        self.exhausted = true;
        if self.quit {
            self.pump().quit();
        }
    }
}

impl<I, F, R, T> Bulk<'_, I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
    F: FnMut() -> io::Result<R>,
    R: BufRead,
{
    /// The reports, each with the [tag](Message::tag) of its message.
    ///
    /// ```no_run
    /// use std::{fs::File, io::BufReader};
    /// use smtp_blocking::{Envelope, Message, Server, Session};
    ///
    /// let mut session = Session::connect(&Server::new("mx.example.net"))?;
    /// let messages = ["1.eml", "2.eml"].map(|path| {
    ///     let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
    ///     Message::new(envelope, move || File::open(path).map(BufReader::new)).tag(path)
    /// });
    /// let mut bulk = session.send_all(messages).and_quit();
    /// for (path, report) in bulk.tagged() {
    ///     println!("{path}: {}", if report.is_success() { "sent" } else { "failed" });
    /// }
    /// for message in bulk.into_messages() {
    ///     println!("{}: not attempted", message.tag);
    /// }
    /// # Ok::<(), smtp_blocking::Error>(())
    /// ```
    pub fn tagged(&mut self) -> impl Iterator<Item = (T, Report)> {
        iter::from_fn(|| self.next_tagged())
    }

    /// The next report, with the [tag](Message::tag) of its message.
    pub fn next_tagged(&mut self) -> Option<(T, Report)> {
        loop {
            while self.may_ask() {
                let Some(message) = self.messages.next() else {
                    self.exhaust();
                    break;
                };
                if self.under_way.submitted.is_empty() {
                    // The message may have taken long to come.
                    self.pump().look();
                }
                let Message {
                    envelope,
                    open,
                    tag,
                } = message;
                match self.pump().submit(envelope) {
                    Ok(id) => self.under_way.submitted.push_back((id, open, tag)),
                    Err((misuse, envelope)) => self.unsubmitted = Some((misuse, envelope, tag)),
                }
                if self.has_no_more() {
                    self.exhaust();
                }
            }
            let Some(&(first, ..)) = self.under_way.submitted.front() else {
                // Submitted messages are reported before one that came too late.
                if let Some((misuse, envelope, tag)) = self.unsubmitted.take() {
                    return Some((tag, self.pump().driver.unsubmitted(misuse, envelope)));
                }
                // Sends QUIT, if it was not sent yet.
                if self.quit {
                    self.pump().run_until(|_| false);
                }
                return None;
            };
            let pump = &mut self.under_way.session.pump;
            pump.run_until(|pump| pump.driver.wants_caller());
            if let Some(report) = pump.driver.take_report(first) {
                let (_, _, tag) = self.under_way.submitted.pop_front()?;
                return Some((tag, report));
            }
            let wanted = pump.driver.body.map(|(id, _)| id);
            let Some((_, open, _)) = self
                .under_way
                .submitted
                .iter_mut()
                .find(|(id, ..)| Some(*id) == wanted)
            else {
                // The body that is wanted does not exist any more.
                pump.abort("a message that was given up before is wanted");
                continue;
            };
            match open().and_then(|mut source| pump.send_body(&mut source)) {
                Ok(()) => pump.end_body(),
                Err(error) => pump.fail_body(&error),
            }
        }
    }
}

impl<I, F, R, T> Iterator for Bulk<'_, I, F, T>
where
    I: Iterator<Item = Message<F, T>>,
    F: FnMut() -> io::Result<R>,
    R: BufRead,
{
    type Item = Report;

    fn next(&mut self) -> Option<Report> {
        self.next_tagged().map(|(_, report)| report)
    }
}

/// The session, and the messages that have no report yet.
#[derive(Debug)]
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
        self.session.pump.driver.keep_buffers(false);
    }
}
