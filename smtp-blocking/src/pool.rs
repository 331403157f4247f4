//! Sessions that are kept open and shared.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use smtp_adapter::{Entry, Error, LOOK_AGAIN, Place, Places, Server, Terms, Turn, given_up};
use smtp_proto::{Envelope, Report};

use crate::session::Session;

/// Sessions with one server that are kept open and shared by many threads. Make it once. Its clones are the same
/// pool.
///
/// ```no_run
/// use smtp_blocking::{Credentials, Envelope, Pool, Server};
///
/// let server = Server::new("smtp.example.org:465").credentials(Credentials::password("alice", "s3cret"));
/// let pool = Pool::new(server).max_sessions(8);
///
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
/// let report = pool.send(envelope, "Subject: hello\r\n\r\nHello, Bob.\r\n")?;
/// for failure in report.failures() {
///     eprintln!("{failure}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// - **Bounds.** At most [`max_sessions`](Self::max_sessions) connections are open at one time. If all are in use,
///   callers wait, and are served in their order.
/// - **Stale sessions.** Waiting input of a session is read first, without a round trip. A session that has ended is
///   replaced.
/// - **Sent once more.** A message is sent again if a used session answered 421, or was lost, before the transport
///   was given the end of the message. It is sent once more, in a new session. It is not sent again if the server has
///   refused a recipient, or if the message is in doubt.
/// - **Refused logins.** A refused login or certificate fails all waiting callers, and the pool opens no session for
///   5 seconds. The pause doubles with each refusal in a row, to 5 minutes at most. It stays at 5 seconds if the server
///   answered 4yz. A server that hangs up on a login has refused it. Logins are tried one at a time, unless one has
///   succeeded in the last 5 seconds. A login without an answer for 5 seconds does not delay others any longer. So many
///   callers with a wrong password do not lock an account, even if they give up and try again.
/// - **Without a thread.** The next call, of any kind, closes sessions that were idle for too long.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    server: Server,
    places: Arc<Places<Session>>,
    origin: Instant,
}

impl Pool {
    /// A pool for this server. It opens a session when one is needed.
    pub fn new(server: Server) -> Self {
        Self(Arc::new(Shared {
            places: Places::new(Terms::new(&server, true).logs_in()),
            server,
            origin: Instant::now(),
        }))
    }

    /// The most connections that are open at one time, including idle ones; 5 by default, and at least 1. Servers
    /// limit them for each client: Microsoft 365 to 3, Exim and Postfix to some dozens by default.
    ///
    /// It holds for all clones of the pool, and may be changed at any time, like the other three.
    #[must_use]
    pub fn max_sessions(self, sessions: usize) -> Self {
        self.0.places.set(|bounds| bounds.sessions = sessions);
        self.end_expired();
        self
    }

    /// The most sessions that are kept open without use; 5 by default.
    #[must_use]
    pub fn max_idle(self, sessions: usize) -> Self {
        self.0.places.set(|bounds| bounds.idle = sessions);
        self.end_expired();
        self
    }

    /// How long a session is kept open without use; 60 seconds by default. Servers wait for 5 minutes (RFC 5321
    /// section 4.5.3.2.7), but many for less.
    #[must_use]
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.0.places.set(|bounds| bounds.idle_time = timeout);
        self
    }

    /// The most messages of one session; 100 by default. It then ends with QUIT, and another one is opened. A smaller
    /// limit of the server (MAILMAX of RFC 9422) counts as well.
    #[must_use]
    pub fn max_messages(self, messages: u64) -> Self {
        self.0.places.set(|bounds| bounds.messages = messages);
        self
    }

    /// The server of the sessions.
    pub fn server(&self) -> &Server {
        &self.0.server
    }

    /// How many connections are open or being opened, and how many of them are idle.
    pub fn count(&self) -> (usize, usize) {
        self.0.places.count()
    }

    /// Sends a message that lies in memory, and waits for a session if none is free. Its size is declared, unless the
    /// envelope declares one. Where the server takes fewer recipients in one transaction, it is sent in several.
    ///
    /// # Errors
    /// As [`Session::send`]. Where no session came about, the outcome is *not attempted*, whatever the server said: that
    /// says nothing about the message. One that was begun in a session that ended has the error of that session.
    pub fn send(&self, envelope: Envelope, message: impl AsRef<[u8]>) -> Result<Report, Error> {
        let message = message.as_ref();
        let mut session = self.session()?;
        if session.is_new {
            return session.send(envelope, message);
        }
        match session.send(envelope.clone(), message) {
            Err(error) if error.was_cut_off() => {
                let session = session.into_new(never);
                let mut session = session.map_err(|why| error.without_another_session(why))?;
                session.send(envelope, message)
            }
            result => result,
        }
    }

    /// A session for whatever is to be done with it: it goes back into the pool when it is dropped. After XCLIENT it is
    /// closed then, and after XFORWARD without a message: the server takes it for that of another client.
    ///
    /// ```no_run
    /// # let pool = smtp_blocking::Pool::new(smtp_blocking::Server::new("mx.example.net"));
    /// use smtp_blocking::Request;
    ///
    /// let mut session = pool.session()?;
    /// println!("{}", session.request(Request::verify("postmaster")?)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A session could not be opened, or the pool is closed.
    pub fn session(&self) -> Result<PooledSession, Error> {
        self.session_unless(never)
    }

    /// The same, unless the caller gives up while it waits.
    pub(crate) fn session_unless(
        &self,
        is_over: impl Fn(&Waker) -> Poll<()>,
    ) -> Result<PooledSession, Error> {
        self.end_expired();
        self.take(self.0.places.enter(), is_over)
    }

    fn end_expired(&self) {
        while let Some((session, place)) = self.0.places.take_expired(self.now()) {
            end(session, place);
        }
    }

    /// Ends the idle sessions with QUIT, and those in use when they come back. Waiting and later callers get an
    /// error.
    pub fn close(&self) {
        for (session, place) in self.0.places.close() {
            end(session, place);
        }
    }

    fn take(
        &self,
        mut entry: Entry<Session>,
        is_over: impl Fn(&Waker) -> Poll<()>,
    ) -> Result<PooledSession, Error> {
        loop {
            let turn = wait(|waker| match is_over(waker) {
                Poll::Ready(()) => Poll::Ready(Err(given_up())),
                Poll::Pending => entry.poll(self.now(), waker),
            });
            match turn? {
                Turn::Use(session, place) => {
                    let mut session = self.held(session, place, false);
                    if session.is_usable() && !self.is_outdated(&session) {
                        return Ok(session);
                    }
                    if let Some(place) = session.close() {
                        entry = self.0.places.enter_again(place, false);
                    }
                }
                Turn::Open(mut place) => {
                    let session = self.open(&mut place).map_err(Error::not_attempted)?;
                    return Ok(self.held(session, place, true));
                }
            }
        }
    }

    /// The bookkeeping.
    pub(crate) fn places(&self) -> &Places<Session> {
        &self.0.places
    }

    fn held(&self, session: Session, place: Place<Session>, is_new: bool) -> PooledSession {
        PooledSession {
            held: Some((session, place)),
            pool: self.clone(),
            is_new,
        }
    }

    fn open(&self, place: &mut Place<Session>) -> Result<Session, Error> {
        let result = match self.0.places.overlap_is_broken() {
            true => Session::connect_shared(&self.0.server.clone().overlap(false)),
            false => Session::connect_shared(&self.0.server),
        };
        match &result {
            Ok(_) => place.opened(self.now()),
            Err(error) => place.failed(self.now(), error),
        }
        result
    }

    /// Whether the session overlaps its envelopes, although the server does not take that.
    fn is_outdated(&self, session: &Session) -> bool {
        self.0.places.overlap_is_broken() && session.pump.driver.overlaps
    }

    fn now(&self) -> smtp_proto::Instant {
        smtp_proto::Instant::from_origin(self.0.origin.elapsed())
    }

    /// Decides what to do with a session that is not used any more.
    fn take_back(&self, session: Session, place: Place<Session>) {
        let driver = &session.pump.driver;
        if driver.overlap_broken {
            self.0.places.break_overlap();
        }
        if !driver.is_free() {
            // The next reply would be ambiguous.
            drop(session);
            return drop(place);
        }
        let most = self.0.places.bounds().messages;
        if driver.is_used_up(most) || self.is_outdated(&session) {
            return end(session, place);
        }
        if let Some((session, place)) = place.keep(session, self.now()) {
            end(session, place);
        }
    }
}

/// Sends QUIT. The place becomes free when the connection is closed.
fn end(session: Session, place: Place<Session>) {
    session.quit();
    drop(place);
}

/// A session of a [`Pool`], which goes back into it when it is dropped. If it has ended, or a message is under way,
/// it is closed instead.
pub struct PooledSession {
    /// `Some` until it is dropped.
    held: Option<(Session, Place<Session>)>,
    pool: Pool,
    is_new: bool,
}

impl PooledSession {
    /// Whether it has not been used before.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// A new session in the place of this one, which has ended.
    pub(crate) fn into_new(mut self, is_over: impl Fn(&Waker) -> Poll<()>) -> Result<Self, Error> {
        let pool = self.pool.clone();
        match self.close() {
            Some(place) => pool.take(pool.0.places.enter_again(place, true), is_over),
            None => pool.session_unless(is_over),
        }
    }

    /// Closes it, and keeps its place.
    fn close(&mut self) -> Option<Place<Session>> {
        let (session, place) = self.held.take()?;
        drop(session);
        Some(place)
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        if let Some((session, place)) = self.held.take() {
            self.pool.take_back(session, place);
        }
    }
}

impl Deref for PooledSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.held.as_ref().expect("a session that is not dropped").0
    }
}

impl DerefMut for PooledSession {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.held.as_mut().expect("a session that is not dropped").0
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("server", &self.0.server)
            .field("places", &self.0.places)
            .finish()
    }
}

impl fmt::Debug for PooledSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PooledSession").field(&**self).finish()
    }
}

/// For callers that never give up.
fn never(_: &Waker) -> Poll<()> {
    Poll::Pending
}

/// Waits on this thread until `poll` is ready.
pub(crate) fn wait<T>(mut poll: impl FnMut(&Waker) -> Poll<T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match poll(&waker) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park_timeout(LOOK_AGAIN),
        }
    }
}
