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
/// - **The application speaks**: [`submit`](Self::submit), [`finish_body`](Self::finish_body),
///   [`fail_body`](Self::fail_body), [`request`](Self::request),
///   [`quit`](Self::quit), [`abort`](Self::abort). A call that does not fit is a [`Misuse`] and changes nothing.
/// - **The transport reports**: the `handle_…` methods. They do not fail; bad news becomes an event.
/// - **The engine answers**: the `poll_…` methods, which may be called at any time, in any order and again. After
///   any call of the first two kinds, poll for what to transmit, for events, and for the next timeout.
///
/// # Given and written
///
/// An octet is *given* once a write of it was begun: it may reach the server. It is *written* once the transport has
/// taken it. A reply can only answer what was given. What was given and not answered is in doubt. The clock of a
/// reply starts when its command is written. [`Transmit::advance`] means both, so a simple loop needs nothing else.
///
/// # A pump
///
/// It reads first, because input that is already there cannot answer a command that is sent later. It polls events
/// before it gathers, because the engine takes no body before [`Event::BodyWanted`] was polled. It gathers, so that
/// many small offers become one write. It also has a timer.
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
///             // Nothing more to send: wait for the server, or for the deadline.
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
/// The output buffer, the queues and the partial reply are released once the session is idle or closed and
/// [`poll_event`](Self::poll_event) has returned `None`.
pub struct Connection {
    decoder: Decoder,
    conversation: Conversation,
}

impl Connection {
    /// A session on a transport that is connected now.
    pub fn new(config: impl Into<Arc<Config>>, now: Instant) -> Self {
        Self::with_nonce(config, now, None)
    }

    /// The same, with the nonce that SCRAM needs. Without one, SCRAM is not tried.
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
    /// [`Misuse::Closed`] after [`quit`](Self::quit) or the end of the connection. [`Misuse::QueueFull`] if
    /// [`Limits::messages`](crate::Limits::messages) messages and requests wait already.
    pub fn submit(&mut self, envelope: Envelope) -> Result<MessageId, Misuse> {
        self.try_submit(envelope).map_err(|(misuse, _)| misuse)
    }

    /// Like [`submit`](Self::submit), but returns an envelope that is not taken. Use it for the message's report
    /// ([`Report::not_attempted`](crate::Report::not_attempted)), or in another session.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn try_submit(&mut self, envelope: Envelope) -> Result<MessageId, (Misuse, Envelope)> {
        self.conversation.submit(envelope)
    }

    /// Queues a command outside a transaction: VRFY, NOOP, XCLIENT, or one of your own. Requests and messages are
    /// sent in the order in which they were submitted. [`Event::Answered`] reports the reply, exactly once.
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

    /// The most octets that one chunk takes, while a body of unknown size goes out by BDAT. Gather this many octets,
    /// or all that is left, before you offer them. Then few chunks are sent. `None` if the size of an offer does not
    /// matter.
    pub fn chunk_size(&self) -> Option<usize> {
        let wanted = self.conversation.wants_body();
        self.conversation
            .sending()
            .filter(|_| wanted)
            .and_then(|sending| sending.body.chunk_size())
    }

    /// Declares that the wanted body has no more octets than were offered and advanced.
    ///
    /// A reply that you [hear](Self::handle_input) after the end has gone out counts as the answer to it, also if the
    /// server sent it too early. So if some of a long body has gone out before, read first what has come, without waiting.
    ///
    /// # Errors
    /// [`Misuse::NoBodyWanted`]. It is not a mistake if the server has refused the message meanwhile, or has already
    /// taken the [last part](BodyPart::Last) of it.
    pub fn finish_body(&mut self) -> Result<(), Misuse> {
        self.conversation.finish_body()
    }

    /// Declares that the caller cannot give the rest of the wanted body: its file is gone, or a read has failed. The
    /// message fails with this outcome, [`Outcome::Transient`] or [`Outcome::Permanent`], and is not delivered.
    ///
    /// If the body goes out in chunks and none is open, the engine sends RSET and the session goes on. Otherwise the
    /// server waits for octets that do not come. The engine then sends nothing more, waits for the replies to earlier
    /// messages, and ends the connection.
    ///
    /// # Errors
    /// [`Misuse::NoBodyWanted`].
    pub fn fail_body(&mut self, outcome: Outcome, reason: &str) -> Result<(), Misuse> {
        self.conversation.fail_body(outcome, reason)
    }

    /// Ends the session with QUIT once every submitted message is finished. QUIT goes out when all replies have come.
    /// The engine does not wait for its reply, which decides nothing. (Postfix does not wait for it either.)
    ///
    /// # Errors
    /// [`Misuse::Closed`] if it was called before, or the connection has ended.
    pub fn quit(&mut self) -> Result<(), Misuse> {
        self.conversation.quit()
    }

    /// Ends the session at once. `reason` becomes the cause of every result that is still to be reported. A body that
    /// is under way is not ended, so the server drops it.
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
                Ok(None) => break,
                Err(error) => return self.conversation.on_malformed(error),
            }
        }
        if !self.decoder.is_empty() {
            self.conversation.begin_reply();
        }
    }

    /// Reports that a write of the next `n` octets has begun, counted from those that are written. They may reach the
    /// server now. A larger number than was taken counts as all. Calling it twice does no harm.
    ///
    /// Use it for octets from [`poll_transmit_into`](Self::poll_transmit_into). A synchronous write that failed has
    /// begun nothing. After one that succeeded, [`handle_written`](Self::handle_written) alone is enough.
    pub fn handle_given(&mut self, now: Instant, n: usize) {
        self.conversation.at(now).peer.pipeline.give(n as u64);
    }

    /// Reports that the transport has taken the next `n` octets that left the engine. A larger number than was taken
    /// counts as all. The clocks of replies start here.
    ///
    /// Use it for octets from [`poll_transmit_into`](Self::poll_transmit_into) or [`Transmit::begin`]. Octets that
    /// were [advanced](Transmit::advance) are written already.
    pub fn handle_written(&mut self, now: Instant, n: usize) {
        self.conversation.at(now).peer.pipeline.write(n as u64);
    }

    /// Reports that the connection is lost. The cause is [`Cause::Disconnected`] at the end of the input, or
    /// [`Cause::Transport`] with the words of the operating system. After a failed write, first read the input that
    /// is left: a 421 is often waiting.
    pub fn handle_lost(&mut self, now: Instant, cause: Cause) {
        self.conversation.at(now).lose(cause);
    }

    /// Reports that the server has closed the connection: [`handle_lost`](Self::handle_lost) with
    /// [`Cause::Disconnected`].
    pub fn handle_eof(&mut self, now: Instant) {
        self.handle_lost(now, Cause::Disconnected);
    }

    /// Checks whether a deadline has passed. Calling it too early does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let in_reply = !self.decoder.is_empty();
        self.conversation.handle_timeout(now, in_reply);
    }

    /// Reports that the handshake of [`Event::StartTls`] is done, without any facts about it.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_established(&mut self, now: Instant) -> Result<(), Misuse> {
        self.handle_tls_established_with(now, TlsFacts::default())
    }

    /// Reports that the handshake of [`Event::StartTls`] is done. The facts say who the server is, and what
    /// identifies the TLS connection at both ends.
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

    /// Reports that the handshake of [`Event::StartTls`] has failed. The cause is usually [`Cause::TlsFailed`],
    /// [`Cause::TlsMisconfigured`] or [`Cause::TlsUntrusted`]. The connection ends, whatever the policy.
    ///
    /// It may also fail after [`handle_tls_established`](Self::handle_tls_established), until the first reply inside
    /// TLS has come. Under TLS 1.3 a server refuses the client's certificate that late.
    ///
    /// # Errors
    /// [`Misuse::NoHandshakeWanted`].
    pub fn handle_tls_failed(&mut self, cause: Cause) -> Result<(), Misuse> {
        self.conversation.handle_tls_failed(cause)
    }

    /// What to write next, if anything. `body` is the next part of the wanted body, or its last one ([`BodyPart`]).
    /// It may be empty, and it is not read while no body is wanted.
    ///
    /// Octets that were offered stay a prefix of every later offer until they are advanced, as long as the caller's
    /// stay the same. Their content is stable, but their address is not.
    ///
    /// If writes complete late, as with io_uring, call [`Transmit::begin`] when you begin one. A reply may come
    /// before its completion.
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

    /// Gathers what is to be written into `out`, as much as fits, so that many small offers become one write. Returns
    /// how many octets were written to `out`, and how many of `body` they used up.
    ///
    /// These octets have left the engine, and have not reached the transport. Report that by
    /// [`handle_written`](Self::handle_written). If the connection ends first, drop them, unless
    /// [`has_quit`](Self::has_quit): the reports count on it that they do not go out any more.
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

    /// The same for any buffer that has room: a `Vec`, a `BytesMut`, or either with a [`limit`](BufMut::limit).
    /// Returns how many octets of `body` were used up.
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
            // Octets that do not fit would be scanned again. But an offer that becomes a chunk must be whole.
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
            let used = transmit.take(gathered, Fate::Gathered);
            if gathered == 0 && used == 0 {
                // An offer of nothing would come again for ever.
                break;
            }
            left = left.after(used);
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

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing happens before. Any other call may change
    /// it.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.conversation
            .next_deadline()
            .map(|deadline| deadline.at)
    }

    /// Whether a body is being sent, and its [`Event::BodyWanted`] was polled. Then offer more of it, or call
    /// [`finish_body`](Self::finish_body).
    pub fn wants_body(&self) -> bool {
        self.conversation.wants_body()
    }

    /// What the server's current EHLO or LHLO offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.conversation.peer.capabilities
    }

    /// The recipients of an unfinished message that the server has refused so far.
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

    /// Whether a message could begin at once.
    pub fn is_idle(&self) -> bool {
        self.conversation.is_idle()
    }

    /// Whether the server takes no more messages in this session, because MAILMAX is reached (RFC 9422 section 4.1).
    pub fn is_used_up(&self) -> bool {
        self.conversation.is_used_up()
    }

    /// Whether the transport has taken the QUIT of this session. Flush it even if the connection has ended since.
    pub fn has_quit(&self) -> bool {
        self.conversation.has_quit()
    }

    /// Whether the connection has ended, and nothing more will be transmitted.
    pub fn is_closed(&self) -> bool {
        self.conversation.is_closed()
    }

    /// How many round trips the session has cost so far: replies to a command that was only sent after the reply
    /// before. The greeting counts. The handshakes of TCP and TLS do not.
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
