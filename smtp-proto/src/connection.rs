//! The public surface of the engine.

use alloc::sync::Arc;
use core::fmt;

use bytes::BufMut;

use crate::auth::{Credentials, Nonce};
use crate::body::BodyPart;
use crate::capability::Capabilities;
use crate::config::Config;
use crate::engine::conversation::Conversation;
use crate::engine::output::Fate;
use crate::envelope::Envelope;
use crate::error::{Cause, Misuse, Outcome};
use crate::event::{Event, Failure, MessageId, RequestId};
use crate::reply::Decoder;
use crate::request::Request;
use crate::time::Instant;
use crate::tls::TlsFacts;
use crate::transmit::Transmit;

/// One session with one server, as a state machine without I/O.
///
/// Its methods are of three kinds.
///
/// - **The application speaks**: [`submit`](Self::submit), [`finish_body`](Self::finish_body), [`fail_body`](Self::fail_body), [`request`](Self::request),
///   [`quit`](Self::quit), [`abort`](Self::abort). A call that does not fit is a [`Misuse`] and changes nothing.
/// - **The transport reports**: the `handle_…` methods. They do not fail; bad news becomes an event.
/// - **The engine answers**: the `poll_…` methods, which may be called at any time, in any order and again. After
///   any call of the first two kinds, poll for what to transmit, for events, and for the next timeout.
///
/// # Sent
///
/// An octet is *given* when a write of it was begun: it may reach the server. It is *written* when the transport has
/// taken it. A reply answers what was given, and what was given and not answered is in doubt; the clock of a reply
/// runs from when its command was written. [`Transmit::advance`] means both, so that a simple loop needs nothing
/// else.
///
/// # A pump
///
/// It reads first, because what has arrived does not answer what is only said then. It polls events before it gathers,
/// because no body is taken before [`Event::BodyWanted`] was polled. It gathers, so that many small offers are one write.
/// And it has a timer.
///
/// ```
/// # use std::io::{self, BufRead, BufReader, Read, Write};
/// # use std::net::{TcpListener, TcpStream};
/// # use std::time::Duration;
/// # use smtp_proto::*;
/// fn run(engine: &mut Connection, mut socket: TcpStream, message: &[u8]) -> io::Result<()> {
///     let start = std::time::Instant::now();
///     let now = || Instant::from_origin(start.elapsed());
///     let mut rest = message;
///     let mut out = [0; 16 * 1024];
///     loop {
///         socket.set_nonblocking(true)?;
///         hear(engine, &mut socket, now());
///         socket.set_nonblocking(false)?;
///
///         while let Some(event) = engine.poll_event() {
///             match event {
///                 Event::Finished(_, report) => println!("{report:?}"),
///                 Event::Closed(_) => return Ok(()),
///                 _ => {}
///             }
///         }
///
///         let (gathered, used) = engine.poll_transmit_into(now(), rest, &mut out);
///         rest = &rest[used..];
///         let mut written = 0;
///         while written < gathered {
///             match socket.write(&out[written..gathered]) {
///                 Ok(n) => {
///                     written += n;
///                     engine.handle_written(now(), n);
///                 }
///                 Err(error) => {
///                     engine.handle_lost(now(), Cause::Transport(error.to_string().into()));
///                     break;
///                 }
///             }
///         }
///         if engine.wants_body() && rest.is_empty() {
///             let _ = engine.finish_body();
///         } else if gathered == 0 {
///             // Nothing more to say: wait for the server, or for the deadline.
///             let wait = engine.poll_timeout().map(|at| (at - now()).max(Duration::from_millis(1)));
///             socket.set_read_timeout(wait)?;
///             hear(engine, &mut socket, now());
///             engine.handle_timeout(now());
///         }
///     }
/// }
///
/// fn hear(engine: &mut Connection, socket: &mut TcpStream, now: Instant) {
///     let mut input = [0; 2048];
///     match socket.read(&mut input) {
///         Ok(0) => engine.handle_eof(now),
///         Ok(n) => engine.handle_input(now, &input[..n]),
///         Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
///         Err(error) => engine.handle_lost(now, Cause::Transport(error.to_string().into())),
///     }
/// }
/// # // A server that takes one message, and returns it. It gives up after 10 seconds, so that nothing hangs.
/// # let listener = TcpListener::bind("127.0.0.1:0")?;
/// # let socket = TcpStream::connect(listener.local_addr()?)?;
/// # let server = std::thread::spawn(move || -> io::Result<String> {
/// #     let (mut stream, _) = listener.accept()?;
/// #     stream.set_read_timeout(Some(Duration::from_secs(10)))?;
/// #     stream.write_all(b"220 mx.example.net\r\n")?;
/// #     let (mut message, mut in_data) = (String::new(), false);
/// #     for line in BufReader::new(stream.try_clone()?).lines() {
/// #         let reply = match (in_data, &*line?) {
/// #             (true, ".") => "250 queued\r\n",
/// #             (true, line) => {
/// #                 message.push_str(line);
/// #                 continue;
/// #             }
/// #             (false, "DATA") => "354 go on\r\n",
/// #             (false, "QUIT") => break,
/// #             (false, _) => "250 ok\r\n",
/// #         };
/// #         in_data = reply.starts_with("354");
/// #         stream.write_all(reply.as_bytes())?;
/// #     }
/// #     Ok(message)
/// # });
/// # let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), Instant::default());
/// # engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
/// # engine.quit()?;
/// # run(&mut engine, socket, b"Subject: hello\r\n")?;
/// # assert_eq!(server.join().unwrap()?, "Subject: hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Buffers
///
/// The output buffer, the queues and the partial reply are released when the session is idle or closed, and
/// [`poll_event`](Self::poll_event) has returned nothing.
pub struct Connection {
    decoder: Decoder,
    conversation: Conversation,
}

impl Connection {
    /// A session on a transport that is connected now.
    pub fn new(config: impl Into<Arc<Config>>, now: Instant) -> Self {
        Self::with_nonce(config, now, None)
    }

    /// The same, with what SCRAM needs beside a password. Without a nonce SCRAM is not tried.
    pub fn with_nonce(
        config: impl Into<Arc<Config>>,
        now: Instant,
        nonce: impl Into<Option<Nonce>>,
    ) -> Self {
        let mut config: Arc<Config> = config.into();
        if let Some(fetched) = config.credentials.as_ref().and_then(Credentials::fetched) {
            Arc::make_mut(&mut config).credentials = Some(fetched);
        }
        Self {
            decoder: Decoder::new(config.limits.reply),
            conversation: Conversation::new(config, now, nonce.into()),
        }
    }

    /// Queues a message. Its body is asked for by [`Event::BodyWanted`], and its end is reported by
    /// [`Event::Finished`], exactly once.
    ///
    /// # Errors
    /// [`Misuse::Closed`] after [`quit`](Self::quit) or the end of the connection, [`Misuse::QueueFull`]
    /// when [`Limits::messages`](crate::Limits::messages) wait already, requests among them.
    pub fn submit(&mut self, envelope: Envelope) -> Result<MessageId, Misuse> {
        self.try_submit(envelope).map_err(|(misuse, _)| misuse)
    }

    /// The same, for a caller that wants the envelope back where it is not taken: for its report
    /// ([`Report::not_attempted`](crate::Report::not_attempted)), or for another session.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn try_submit(&mut self, envelope: Envelope) -> Result<MessageId, (Misuse, Envelope)> {
        self.conversation.submit(envelope)
    }

    /// Queues a command outside a transaction: VRFY, NOOP, XCLIENT, one of the caller's own. Requests and
    /// messages take their turns in the order in which they were given. The reply is reported by
    /// [`Event::Answered`], exactly once.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// ```
    /// use smtp_proto::*;
    ///
    /// let now = Instant::default();
    /// let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), now);
    /// let id = engine.request(Request::verify("bob")?)?;
    /// for (server_says, client_says) in [
    ///     (&b"220 mx.example.net\r\n"[..], &b"EHLO client.example.org\r\n"[..]),
    ///     (b"250 mx.example.net\r\n", b"VRFY bob\r\n"),
    ///     (b"252 cannot say\r\n", b""),
    /// ] {
    ///     engine.handle_input(now, server_says);
    ///     if let Some(transmit) = engine.poll_transmit(now, b"") {
    ///         assert_eq!(transmit.parts().concat(), client_says);
    ///         transmit.advance(client_says.len());
    ///     }
    /// }
    /// assert_eq!(engine.poll_event(), Some(Event::Ready));
    /// let Some(Event::Answered(answered, Ok(reply))) = engine.poll_event() else { unreachable!() };
    /// assert_eq!((answered, reply.code().get()), (id, 252));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request(&mut self, request: Request) -> Result<RequestId, Misuse> {
        self.conversation.request(request)
    }

    /// The most octets of the body that one chunk takes, while a body goes out by BDAT and its size is not
    /// known: a caller that gathers so many before it offers them, or all that is left, sends few chunks.
    /// None where any offer is as good as another.
    pub fn chunk_size(&self) -> Option<usize> {
        let wanted = self.conversation.wants_body();
        self.conversation
            .sending()
            .filter(|_| wanted)
            .and_then(|sending| sending.body.chunk_size())
    }

    /// Says that the body which is wanted now has no more octets than were offered and advanced.
    ///
    /// # Errors
    /// [`Misuse::NoBodyWanted`]. That is no mistake where the server has refused the message meanwhile, or has taken
    /// the [last part](BodyPart::Last) of it already.
    pub fn finish_body(&mut self) -> Result<(), Misuse> {
        self.conversation.finish_body()
    }

    /// Says that the rest of the body which is wanted now cannot be given, for the caller's own reason: its file is
    /// gone, or a read has failed. The message fails with this outcome, [`Outcome::Transient`] or
    /// [`Outcome::Permanent`], and is not delivered.
    ///
    /// Where the body goes out in chunks and none is open, it costs RSET and the session goes on. Else the server
    /// waits for octets that do not come: nothing more is said, the replies to the messages before are still
    /// listened to, and then the connection ends.
    ///
    /// # Errors
    /// [`Misuse::NoBodyWanted`].
    pub fn fail_body(&mut self, outcome: Outcome, reason: &str) -> Result<(), Misuse> {
        self.conversation.fail_body(outcome, reason)
    }

    /// Ends the session with QUIT once every submitted message is finished. It goes out when nothing is owed any
    /// more, and its reply is not waited for: it decides nothing (and Postfix does not wait either).
    ///
    /// # Errors
    /// [`Misuse::Closed`] when that was done before, or the connection has ended.
    pub fn quit(&mut self) -> Result<(), Misuse> {
        self.conversation.quit()
    }

    /// Ends the session at once, for the caller's own reason, which becomes the cause of what is still
    /// to be reported. A body that is under way is not ended, so that the server drops it.
    ///
    /// # Errors
    /// [`Misuse::Closed`] when the connection has ended.
    pub fn abort(&mut self, reason: &str) -> Result<(), Misuse> {
        self.conversation.abort(reason)
    }

    /// Takes octets that were received. How they are cut does not matter.
    pub fn handle_input(&mut self, now: Instant, bytes: &[u8]) {
        let mut input = bytes;
        self.conversation.at(now);
        while self.conversation.hears(!input.is_empty()) {
            match self.decoder.decode(&mut input) {
                Ok(Some(reply)) => self.conversation.on_reply(now, reply),
                // rule: ends.unfinished-reply
                Ok(None) => return,
                Err(error) => return self.conversation.on_malformed(error),
            }
        }
    }

    /// A write of the `n` octets after those that are written was begun, so that they may reach the server. More than
    /// there are counts as all. To say it again does no harm.
    ///
    /// It is for what was taken by [`poll_transmit_into`](Self::poll_transmit_into). A synchronous write that failed
    /// has begun nothing, and one that succeeded needs [`handle_written`](Self::handle_written) alone.
    pub fn handle_given(&mut self, now: Instant, n: usize) {
        self.conversation.at(now).peer.pipeline.give(n as u64);
    }

    /// The transport has taken the next `n` octets that were taken from the engine. More than there are counts as
    /// all. The clocks of replies run from here.
    ///
    /// It is for what was taken by [`poll_transmit_into`](Self::poll_transmit_into) or [`Transmit::begin`]. What was
    /// [advanced](Transmit::advance) is written.
    pub fn handle_written(&mut self, now: Instant, n: usize) {
        self.conversation.at(now).peer.pipeline.write(n as u64);
    }

    /// The connection is lost, for this cause: [`Cause::Disconnected`] at the end of the input, or
    /// [`Cause::Transport`] with the words of the operating system. After a failed write, read what there still is
    /// first: a 421 is often waiting.
    pub fn handle_lost(&mut self, now: Instant, cause: Cause) {
        self.conversation.at(now).lose(cause);
    }

    /// The server has closed the connection: [`handle_lost`](Self::handle_lost) by [`Cause::Disconnected`].
    pub fn handle_eof(&mut self, now: Instant) {
        self.handle_lost(now, Cause::Disconnected);
    }

    /// Looks whether a deadline has passed. Too early is no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let in_reply = !self.decoder.is_empty();
        self.conversation.handle_timeout(now, in_reply);
    }

    /// The handshake that [`Event::StartTls`] asked for is done, and nothing is known of it.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_established(&mut self, now: Instant) -> Result<(), Misuse> {
        self.handle_tls_established_with(now, TlsFacts::default())
    }

    /// The handshake that [`Event::StartTls`] asked for is done, and this is what it has established:
    /// whom we speak with, and what the TLS connection is known by at both ends.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_established_with(
        &mut self,
        now: Instant,
        facts: TlsFacts,
    ) -> Result<(), Misuse> {
        self.conversation.handle_tls_established(now, facts)
    }

    /// The handshake that [`Event::StartTls`] asked for has failed; `cause` says why, and is usually
    /// [`Cause::TlsFailed`], [`Cause::TlsMisconfigured`] or [`Cause::TlsUntrusted`]. The connection ends, whatever
    /// the policy.
    ///
    /// It may also fail after [`handle_tls_established`](Self::handle_tls_established), until the first reply inside
    /// TLS has come: under TLS 1.3 a server refuses the client's certificate that late.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_failed(&mut self, cause: Cause) -> Result<(), Misuse> {
        self.conversation.handle_tls_failed(cause)
    }

    /// What to write next, if anything. `body` is the next part of the body that is wanted, or its last one
    /// ([`BodyPart`]). It may be empty, and it is not looked at while no body is wanted. Until they are advanced,
    /// octets that were offered stay a prefix of every later offer, as long as the caller's stay the same. Their
    /// content is stable; their address is not.
    ///
    /// Where writes complete late, as with io_uring, say by [`Transmit::begin`] that one was begun: a reply may
    /// come before the completion does.
    pub fn poll_transmit<'a>(
        &'a mut self,
        now: Instant,
        body: impl Into<BodyPart<'a>>,
    ) -> Option<Transmit<'a>> {
        let part = body.into();
        let offer = self.conversation.offer(now, part)?;
        Some(Transmit {
            conversation: &mut self.conversation,
            now,
            body: part.bytes(),
            offer,
        })
    }

    /// Gathers what is to be written, as much as there is room for in `out`, so that many small offers are one
    /// write. Returns how many octets were written to `out`, and how many of `body` that has used up.
    ///
    /// What was gathered has left the engine, and has not reached the transport: say so by
    /// [`handle_written`](Self::handle_written).
    ///
    /// ```
    /// use smtp_proto::*;
    /// use smtp_proto::envelope::AddressError;
    ///
    /// let now = Instant::default();
    /// let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), now);
    /// engine.handle_input(now, b"220 mx.example.net\r\n");
    /// let mut out = [0; 1024];
    /// let (gathered, used) = engine.poll_transmit_into(now, b"", &mut out);
    /// assert_eq!((&out[..gathered], used), (&b"EHLO client.example.org\r\n"[..], 0));
    /// // The socket has taken all of it.
    /// engine.handle_written(now, gathered);
    /// # Ok::<(), AddressError>(())
    /// ```
    pub fn poll_transmit_into<'a>(
        &mut self,
        now: Instant,
        body: impl Into<BodyPart<'a>>,
        mut out: &mut [u8],
    ) -> (usize, usize) {
        let room = out.len();
        let used = self.poll_transmit_onto(now, body, &mut out);
        (room - out.len(), used)
    }

    /// The same for whatever octets can be put into, as long as it has room: a `Vec`, a `BytesMut`, or either of
    /// them with a [`limit`](BufMut::limit). Returns how many octets of `body` that has used up.
    ///
    /// ```
    /// use bytes::{BufMut, BytesMut};
    /// use smtp_proto::*;
    ///
    /// let now = Instant::default();
    /// let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), now);
    /// engine.handle_input(now, b"220 mx.example.net\r\n");
    /// let mut out = BytesMut::new();
    /// engine.poll_transmit_onto(now, b"", &mut (&mut out).limit(16 * 1024));
    /// assert_eq!(&out[..], b"EHLO client.example.org\r\n");
    /// // The socket has taken all of it.
    /// engine.handle_written(now, out.len());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll_transmit_onto<'a>(
        &mut self,
        now: Instant,
        body: impl Into<BodyPart<'a>>,
        out: &mut impl BufMut,
    ) -> usize {
        let mut left = body.into();
        let whole = left.bytes().len();
        while out.has_remaining_mut() {
            // More than there is room for would be looked at again; but what is to be a chunk is offered whole.
            let part = match self.conversation.sizes_next_chunk() {
                true => left,
                false => left.front(out.remaining_mut()),
            };
            let Some(transmit) = self.poll_transmit(now, part) else {
                break;
            };
            let mut gathered = 0;
            for octets in transmit.parts() {
                let fits = octets.len().min(out.remaining_mut());
                out.put_slice(&octets[..fits]);
                gathered += fits;
            }
            left = left.after(transmit.take(gathered, Fate::Gathered));
        }
        whole - left.bytes().len()
    }

    /// What has happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.conversation.poll_event();
        if event.is_none() && (self.is_idle() || self.is_closed()) {
            self.decoder.release();
        }
        event
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing happens before. It may
    /// change with every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.conversation
            .next_deadline()
            .map(|deadline| deadline.at)
    }

    /// Whether a body is being sent, and its [`Event::BodyWanted`] was polled: more of it may be offered, or
    /// [`finish_body`](Self::finish_body) called.
    pub fn wants_body(&self) -> bool {
        self.conversation.wants_body()
    }

    /// What the server's current EHLO or LHLO offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.conversation.peer.capabilities
    }

    /// The recipients of an unfinished message that the server has refused by now.
    pub fn refused(&self, message: MessageId) -> impl Iterator<Item = Failure<'_>> {
        self.conversation
            .unfinished(message)
            .into_iter()
            .flat_map(|message| message.refused())
    }

    /// Whether the session is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.conversation.peer.tls.is_some()
    }

    /// Whether the session is encrypted, and the server's certificate was checked with its name
    /// ([`TlsFacts::verified`]).
    pub fn is_tls_verified(&self) -> bool {
        self.conversation.peer.is_verified()
    }

    /// Whether a message could be begun at once.
    pub fn is_idle(&self) -> bool {
        self.conversation.is_idle()
    }

    /// Whether the server takes no more messages in this session: it has had as many as it states by MAILMAX (RFC 9422
    /// section 4.1).
    pub fn is_used_up(&self) -> bool {
        self.conversation.is_used_up()
    }

    /// Whether the transport has taken the QUIT of this session, which is worth sending even if the connection
    /// has ended since.
    pub fn has_quit(&self) -> bool {
        self.conversation.has_quit()
    }

    /// Whether the connection has ended, and nothing more will be transmitted.
    pub fn is_closed(&self) -> bool {
        self.conversation.is_closed()
    }

    /// How many replies so far had to be waited for one after the other, each to something that was said only
    /// when the one before had come; the greeting included, and the handshakes of TCP and TLS not.
    pub fn round_trips(&self) -> u64 {
        self.conversation.peer.pipeline.round_trips()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("phase", &self.conversation.phase())
            .field("jobs", &self.conversation.jobs())
            .field("capabilities", self.capabilities())
            .finish_non_exhaustive()
    }
}
