//! Sessions that are kept open and shared.

use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use smtp_adapter::{Entry, Error, LOOK_AGAIN, Place, Places, Server, Terms, Turn, given_up};
use smtp_proto::{Envelope, Report};
use tokio::runtime::{self, Handle};
use tokio::time::{Instant, timeout};

use crate::session::Session;

/// Sessions with one server that are kept open and shared by many tasks. Make it once. Its clones are the same pool.
///
/// ```no_run
/// use smtp_tokio::{Credentials, Envelope, Pool, Server};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::new("smtp.example.org:465").credentials(Credentials::password("alice", "s3cret"));
/// let pool = Pool::new(server).max_sessions(8);
///
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
/// let report = pool.send(envelope, "Subject: hello\r\n\r\nHello, Bob.\r\n").await?;
/// for failure in report.failures() {
///     eprintln!("{failure}");
/// }
/// # Ok(())
/// # }
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
/// - **Futures that are not polled.** Such a future keeps its turn, and its session if it has one. Other callers may
///   wait for it for ever. Run each future in its own task, or poll them all.
/// - **Dropped futures.** If a future of [`send`](Self::send) is dropped, its session is closed if the server was told
///   a part of the message. A future that waits for a session leaves the queue.
/// - **Without a task.** The next call, of any kind, closes sessions that were idle for too long.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    server: Server,
    places: Arc<Places<Kept>>,
    origin: Instant,
}

/// A session, and the runtime that moves its octets. It cannot be used in another runtime.
#[derive(Debug)]
pub(crate) struct Kept {
    session: Session,
    runtime: runtime::Id,
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
    pub async fn send(
        &self,
        envelope: Envelope,
        message: impl AsRef<[u8]>,
    ) -> Result<Report, Error> {
        let message = message.as_ref();
        let mut session = self.session().await?;
        if session.is_new {
            return session.send(envelope, message).await;
        }
        match session.send(envelope.clone(), message).await {
            Err(error) if error.was_cut_off() => {
                let session = session.into_new(never).await;
                let mut session = session.map_err(|why| error.without_another_session(why))?;
                session.send(envelope, message).await
            }
            result => result,
        }
    }

    /// A session for whatever is to be done with it: it goes back into the pool when it is dropped. After XCLIENT it is
    /// closed then, and after XFORWARD without a message: the server takes it for that of another client.
    ///
    /// ```no_run
    /// # async fn example(pool: smtp_tokio::Pool) -> Result<(), Box<dyn std::error::Error>> {
    /// use smtp_tokio::Request;
    ///
    /// let mut session = pool.session().await?;
    /// println!("{}", session.request(Request::verify("postmaster")?).await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A session could not be opened, or the pool is closed.
    pub async fn session(&self) -> Result<PooledSession, Error> {
        self.session_unless(never).await
    }

    /// The same, unless the caller gives up while it waits.
    pub(crate) async fn session_unless(
        &self,
        is_over: impl Fn(&Waker) -> Poll<()>,
    ) -> Result<PooledSession, Error> {
        self.end_expired();
        self.take(self.0.places.enter(), is_over).await
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

    async fn take(
        &self,
        mut entry: Entry<Kept>,
        is_over: impl Fn(&Waker) -> Poll<()>,
    ) -> Result<PooledSession, Error> {
        let here = Handle::current().id();
        loop {
            let turn = poll_fn(|cx| match is_over(cx.waker()) {
                Poll::Ready(()) => Poll::Ready(Err(given_up())),
                Poll::Pending => {
                    let is_here = |kept: &Kept| kept.runtime == here;
                    entry.poll_suited(self.now(), cx.waker(), is_here)
                }
            });
            let Ok(turn) = timeout(LOOK_AGAIN, turn).await else {
                continue;
            };
            match turn? {
                Turn::Use(kept, place) => {
                    let is_here = kept.runtime == here;
                    let mut session = self.held(kept, place, false);
                    if is_here && session.is_usable().await && !self.is_outdated(&session) {
                        return Ok(session);
                    }
                    if let Some(place) = session.close() {
                        entry = self.0.places.enter_again(place, !is_here);
                    }
                }
                Turn::Open(mut place) => {
                    let session = self.open(&mut place).await.map_err(Error::not_attempted)?;
                    let runtime = here;
                    return Ok(self.held(Kept { session, runtime }, place, true));
                }
            }
        }
    }

    /// The bookkeeping.
    pub(crate) fn places(&self) -> &Places<Kept> {
        &self.0.places
    }

    fn held(&self, kept: Kept, place: Place<Kept>, is_new: bool) -> PooledSession {
        PooledSession {
            held: Some((kept, place)),
            pool: self.clone(),
            is_new,
        }
    }

    async fn open(&self, place: &mut Place<Kept>) -> Result<Session, Error> {
        let result = match self.0.places.overlap_is_broken() {
            true => Session::connect_shared(&self.0.server.clone().overlap(false)).await,
            false => Session::connect_shared(&self.0.server).await,
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
    fn take_back(&self, kept: Kept, place: Place<Kept>) {
        let session = &kept.session;
        let driver = &session.pump.driver;
        if driver.overlap_broken {
            self.0.places.break_overlap();
        }
        if !driver.is_free() {
            // The next reply would be ambiguous.
            drop(kept);
            return drop(place);
        }
        let most = self.0.places.bounds().messages;
        if driver.is_used_up(most) || self.is_outdated(session) {
            return end(kept, place);
        }
        if let Some((kept, place)) = place.keep(kept, self.now()) {
            end(kept, place);
        }
    }
}

/// For callers that never give up.
fn never(_: &Waker) -> Poll<()> {
    Poll::Pending
}

/// Sends QUIT, if it can be written at once. The place becomes free when the connection is closed.
fn end(mut kept: Kept, place: Place<Kept>) {
    kept.session.pump.leave_at_once();
    drop(kept);
    drop(place);
}

/// A session of a [`Pool`], which goes back into it when it is dropped. If it has ended, or a message is under way,
/// it is closed instead.
pub struct PooledSession {
    /// `Some` until it is dropped.
    held: Option<(Kept, Place<Kept>)>,
    pool: Pool,
    is_new: bool,
}

impl PooledSession {
    /// Whether it has not been used before.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// A new session in the place of this one, which has ended.
    pub(crate) async fn into_new(
        mut self,
        is_over: impl Fn(&Waker) -> Poll<()>,
    ) -> Result<Self, Error> {
        let pool = self.pool.clone();
        match self.close() {
            Some(place) => {
                let entry = pool.0.places.enter_again(place, true);
                pool.take(entry, is_over).await
            }
            None => pool.session_unless(is_over).await,
        }
    }

    /// Closes it, and keeps its place.
    fn close(&mut self) -> Option<Place<Kept>> {
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
        &self
            .held
            .as_ref()
            .expect("a session that is not dropped")
            .0
            .session
    }
}

impl DerefMut for PooledSession {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self
            .held
            .as_mut()
            .expect("a session that is not dropped")
            .0
            .session
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
