//! The bookkeeping of a pool: which sessions are idle, who may open another one, and who waits. No I/O and no clock.
//!
//! Each open connection takes a [`Place`], and the number of places is bounded. A caller that wants a session
//! [enters](Places::enter). It gets an idle session or a place for a new one, in the order of entering.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use smtp_proto::error::Retry;
use smtp_proto::{Cause, Instant, Stage};

use crate::Error;
use crate::locked::{Lock, Locked};

/// After a refused login or certificate, sessions are not opened for this long. After a successful login, several may
/// be tried at once for this long. A login whose end is not reported delays the others for this long.
const PAUSE: Duration = Duration::from_secs(5);

/// The pause after refusals doubles, up to this. A queue that sends all night tries a wrong password 12 times an hour,
/// and not 12 times a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A waiting caller checks again after this time, because time alone may have let it in.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The limits of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most connections open at one time.
    pub sessions: usize,
    /// The most sessions kept open without use.
    pub idle: usize,
    /// How long a session is kept without use.
    pub idle_time: Duration,
    /// The most messages of one session.
    pub messages: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions: 5,
            idle: 5,
            idle_time: Duration::from_secs(60),
            messages: 100,
        }
    }
}

/// The places of a pool.
pub struct Places<S> {
    /// Whether opening a session includes a login.
    logs_in: bool,
    state: Lock<State<S>>,
}

struct State<S> {
    bounds: Bounds,
    /// The most recently used session is last.
    idle: Vec<Idle<S>>,
    /// Places that are taken, also by idle sessions.
    taken: usize,
    /// A login is under way, and its success is unknown. It counts until this time, or until its end is reported. A
    /// caller that gives up meanwhile cannot take it back, because the server has it.
    login_until: Option<Instant>,
    /// Callers that wait for a place or an idle session, by number, the first one first.
    queue: VecDeque<(u64, Waker)>,
    /// Callers with a place that wait for another one's login.
    behind_login: Vec<(u64, Waker)>,
    entries: u64,
    logged_in: Option<Instant>,
    refused: Option<(Instant, Error)>,
    /// The next pause after a refusal.
    pause: Duration,
    overlap_is_broken: bool,
    is_closed: bool,
}

struct Idle<S> {
    session: S,
    since: Instant,
}

/// The result of an entry.
#[derive(Debug)]
pub enum Turn<S> {
    /// An idle session, which may be stale.
    Use(S, Place<S>),
    /// Room for a new session. The caller opens one now, and reports the result to the place.
    Open(Place<S>),
}

impl<S> Places<S> {
    /// The places of a new pool. Logins are tried one at a time until one has succeeded.
    pub fn new(logs_in: bool) -> Arc<Self> {
        Arc::new(Self {
            logs_in,
            state: Lock::new(State {
                bounds: Bounds::default(),
                idle: Vec::new(),
                taken: 0,
                login_until: None,
                queue: VecDeque::new(),
                behind_login: Vec::new(),
                entries: 0,
                logged_in: None,
                refused: None,
                pause: PAUSE,
                overlap_is_broken: false,
                is_closed: false,
            }),
        })
    }

    fn state(&self) -> Locked<'_, State<S>> {
        self.state.lock()
    }

    /// Changes the bounds.
    pub fn set(&self, change: impl FnOnce(&mut Bounds)) {
        let mut state = self.state();
        change(&mut state.bounds);
        state.bounds.sessions = state.bounds.sessions.max(1);
        state.wake_first();
    }

    /// The bounds.
    pub fn bounds(&self) -> Bounds {
        self.state().bounds
    }

    /// Takes the last place in the queue. Check the entry at once: nobody can overtake it.
    pub fn enter(self: &Arc<Self>) -> Entry<S> {
        let mut state = self.state();
        state.entries += 1;
        let number = state.entries;
        state.queue.push_back((number, Waker::noop().clone()));
        Entry {
            places: self.clone(),
            number,
            is_queued: true,
            place: None,
            must_open: false,
        }
    }

    /// Asks for another session in the place of a stale one, before all others. `must_open` demands a new one.
    pub fn enter_again(self: &Arc<Self>, place: Place<S>, must_open: bool) -> Entry<S> {
        let mut state = self.state();
        state.entries += 1;
        Entry {
            places: self.clone(),
            number: state.entries,
            is_queued: false,
            place: Some(place),
            must_open,
        }
    }

    /// Takes out a session that has been idle for too long, or exceeds the limit.
    pub fn take_expired(self: &Arc<Self>, now: Instant) -> Option<(S, Place<S>)> {
        let mut state = self.state();
        let Bounds {
            idle, idle_time, ..
        } = state.bounds;
        let oldest = state.idle.first()?;
        let is_one_too_many = state.idle.len() > idle || state.taken > state.bounds.sessions;
        (is_one_too_many || now - oldest.since >= idle_time).then(|| {
            let session = state.idle.remove(0).session;
            (session, Place::taken(self))
        })
    }

    /// Closes the pool to all callers. Returns the idle sessions.
    pub fn close(self: &Arc<Self>) -> Vec<(S, Place<S>)> {
        let mut state = self.state();
        state.is_closed = true;
        state.wake_all();
        let idle = std::mem::take(&mut state.idle);
        idle.into_iter()
            .map(|idle| (idle.session, Place::taken(self)))
            .collect()
    }

    /// The server has shown that it does not take overlapping envelopes.
    pub fn break_overlap(&self) {
        self.state().overlap_is_broken = true;
    }

    /// Whether the server has shown that.
    pub fn overlap_is_broken(&self) -> bool {
        self.state().overlap_is_broken
    }

    /// How many more messages a session may send after this many, apart from the server's limit.
    pub fn messages_left(&self, submitted: u64) -> u64 {
        self.bounds().messages.saturating_sub(submitted).max(1)
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// Whether somebody waits in the queue.
    pub fn is_wanted(&self) -> bool {
        !self.state().queue.is_empty()
    }

    /// Connections that are open, or being opened, and how many of them are idle.
    pub fn count(&self) -> (usize, usize) {
        let state = self.state();
        (state.taken, state.idle.len())
    }
}

impl<S> Locked<'_, State<S>> {
    fn wake_first(&mut self) {
        let first = self.queue.front().map(|(_, waker)| waker.clone());
        first.into_iter().for_each(|waker| self.wake(waker));
    }

    fn wake_openers(&mut self) {
        for (_, waker) in std::mem::take(&mut self.behind_login) {
            self.wake(waker);
        }
    }

    fn end_login(&mut self) {
        self.login_until = None;
        self.wake_openers();
    }

    fn wake_all(&mut self) {
        let all: Vec<_> = self.queue.iter().map(|one| one.1.clone()).collect();
        all.into_iter().for_each(|waker| self.wake(waker));
        self.wake_openers();
    }

    /// The one with this number waits for the login of another one, or not any more.
    fn wait_behind_login(&mut self, number: u64, waker: Option<&Waker>) {
        if let Some(index) = self.behind_login.iter().position(|(of, _)| *of == number) {
            let (_, before) = self.behind_login.swap_remove(index);
            self.forget(before);
        }
        if let Some(waker) = waker {
            self.behind_login.push((number, waker.clone()));
        }
    }
}

impl<S> State<S> {
    /// Where the one with this number stands in the queue, which is in the order of the numbers.
    fn position(&self, number: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&number, |(of, _)| *of).ok()
    }

    /// How many idle sessions are kept: for whoever comes, and for those who wait.
    fn wanted_idle(&self) -> usize {
        self.bounds.idle.saturating_add(self.queue.len())
    }

    /// Why nobody is let in.
    fn refusal(&self, now: Instant) -> Option<Error> {
        let (until, error) = self.refused.as_ref()?;
        (now < *until).then(|| error.copy())
    }
}

/// A caller that wants a session. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Entry<S> {
    places: Arc<Places<S>>,
    number: u64,
    is_queued: bool,
    place: Option<Place<S>>,
    must_open: bool,
}

impl<S> Entry<S> {
    /// Whether it is this caller's turn. `waker` is woken when that may have changed. Do not use the entry after it
    /// is ready.
    ///
    /// # Errors
    /// The pool is closed, or the server has just refused the login.
    pub fn poll(&mut self, now: Instant, waker: &Waker) -> Poll<Result<Turn<S>, Error>> {
        self.poll_suited(now, waker, |_| true)
    }

    /// The same for a caller that cannot use every session. If the pool is full, it gets a session that does not suit,
    /// so that it can replace that session.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_suited(
        &mut self,
        now: Instant,
        waker: &Waker,
        suits: impl Fn(&S) -> bool,
    ) -> Poll<Result<Turn<S>, Error>> {
        self.give_way();
        let places = self.places.clone();
        let mut state = places.state();
        if state.is_closed {
            return Poll::Ready(Err(closed()));
        }
        let first = state.queue.front().map(|(first, _)| *first);
        let is_first = self.is_queued && Some(self.number) == first;
        let in_use = state.taken - state.idle.len() - usize::from(self.place.is_some());
        // The limit may be lower than the number of sessions in use.
        let has_room = in_use < state.bounds.sessions;
        let may_use = !self.must_open && has_room && (is_first || self.place.is_some());
        let suited = state.idle.iter().rposition(|idle| suits(&idle.session));
        let must_make_room = self.place.is_none() && state.taken >= state.bounds.sessions;
        let last = state.idle.len().checked_sub(1).filter(|_| must_make_room);
        if may_use && let Some(index) = suited.or(last) {
            let idle = state.idle.remove(index);
            drop(state);
            // Its own place becomes free for the next caller.
            drop(self.place.take());
            self.leave();
            return Poll::Ready(Ok(Turn::Use(idle.session, Place::taken(&places))));
        }
        if let Some(error) = state.refusal(now) {
            return Poll::Ready(Err(error));
        }
        if self.place.is_none() {
            if !is_first || state.taken >= state.bounds.sessions {
                if let Some(index) = state.position(self.number) {
                    let before = std::mem::replace(&mut state.queue[index].1, waker.clone());
                    state.forget(before);
                }
                return Poll::Pending;
            }
            state.taken += 1;
            self.place = Some(Place::taken(&places));
            drop(state);
            self.leave();
            state = places.state();
        }
        let is_proven = state.logged_in.is_some_and(|at| now - at < PAUSE);
        let is_held_up = state.login_until.is_some_and(|until| now < until);
        if places.logs_in && is_held_up && !is_proven {
            state.wait_behind_login(self.number, Some(waker));
            return Poll::Pending;
        }
        let Some(place) = self.place.take() else {
            return Poll::Pending;
        };
        if !is_proven {
            state.login_until = Some(now + PAUSE);
        }
        Poll::Ready(Ok(Turn::Open(place)))
    }

    /// Gives its place back, and stands in the queue again, where the bound was lowered before it has opened anything.
    fn give_way(&mut self) {
        if self.must_open || self.place.is_none() {
            return;
        }
        let mut state = self.places.state();
        if state.taken <= state.bounds.sessions {
            return;
        }
        let index = state.queue.partition_point(|(of, _)| *of < self.number);
        let waker = Waker::noop().clone();
        state.queue.insert(index, (self.number, waker));
        state.wait_behind_login(self.number, None);
        self.is_queued = true;
        drop(state);
        drop(self.place.take());
    }

    /// Leaves the queue. There may be something for the next one as well.
    fn leave(&mut self) {
        if std::mem::take(&mut self.is_queued) {
            let mut state = self.places.state();
            if let Some((_, waker)) = state
                .position(self.number)
                .and_then(|index| state.queue.remove(index))
            {
                state.forget(waker);
            }
            state.wake_first();
        }
    }
}

impl<S> Drop for Entry<S> {
    fn drop(&mut self) {
        self.leave();
        let mut state = self.places.state();
        state.wait_behind_login(self.number, None);
        // What was kept for it, and was not wanted.
        while state.idle.len() > state.wanted_idle() {
            let session = state.idle.remove(0).session;
            drop(state);
            let place = Place::taken(&self.places);
            drop(session);
            drop(place);
            state = self.places.state();
        }
    }
}

/// The caller does not want the session any more.
pub fn given_up() -> Error {
    Error::local(Cause::Local("the delivery was given up".into())).not_attempted()
}

fn closed() -> Error {
    Error::local(Cause::Local("the pool is closed".into())).not_attempted()
}

/// The place of one connection. Dropping it frees the place, so drop the connection first.
pub struct Place<S> {
    places: Arc<Places<S>>,
    is_kept: bool,
}

impl<S> Place<S> {
    fn taken(places: &Arc<Places<S>>) -> Self {
        Self {
            places: places.clone(),
            is_kept: false,
        }
    }

    /// A session was opened in it, and is logged in.
    pub fn opened(&mut self, now: Instant) {
        let mut state = self.places.state();
        state.logged_in = Some(now);
        state.refused = None;
        state.pause = PAUSE;
        state.end_login();
    }

    /// A session could not be opened. If the login or the certificate was refused, nobody tries again for a while.
    pub fn failed(&mut self, now: Instant, error: &Error) {
        let mut state = self.places.state();
        if is_refusal(error) {
            let mut pause = PAUSE;
            if !error.is_transient() {
                pause = state.pause;
                state.pause = (pause * 2).min(LONGEST_PAUSE);
            }
            // The others learn it when this place is free.
            state.refused = Some((now + pause, error.copy().not_attempted().paused(pause)));
        }
        state.end_login();
    }

    /// Gives the session to the next caller, or keeps it. If there are enough, it is returned to be closed.
    pub fn keep(mut self, session: S, now: Instant) -> Option<(S, Self)> {
        let mut state = self.places.state();
        let enough = state.idle.len() >= state.wanted_idle();
        let too_many = state.taken > state.bounds.sessions;
        if state.is_closed || too_many || enough {
            drop(state);
            return Some((session, self));
        }
        state.idle.push(Idle {
            session,
            since: now,
        });
        state.wake_first();
        // Callers with a place may use it as well.
        state.wake_openers();
        drop(state);
        self.is_kept = true;
        None
    }
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        if !self.is_kept {
            let mut state = self.places.state();
            state.taken -= 1;
            state.wake_first();
        }
    }
}

/// Whether it would only be worse to try again at once: a login may be locked after a few. Some servers refuse one by
/// hanging up, so a connection that is lost in it counts as well.
fn is_refusal(error: &Error) -> bool {
    error.stage() == Stage::Auth || matches!(error.error().retry(), Retry::AskPerson | Retry::Never)
}

impl<S> fmt::Debug for Places<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Places")
            .field("bounds", &state.bounds)
            .field("taken", &state.taken)
            .field("idle", &state.idle.len())
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Place<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use smtp_proto::{Outcome, Reply, reply::ReplyCode};

    use super::*;

    /// Records whether it was woken.
    #[derive(Default)]
    struct Bell(AtomicBool);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A caller, and the test's knowledge of it.
    enum Caller {
        Waits(Entry<u32>, Arc<Bell>, u64),
        Opens(Place<u32>),
        Has(u32, Place<u32>),
    }

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % n as u64).unwrap()
        }
    }

    fn refused(code: u16) -> Error {
        let reply = Reply::new(ReplyCode::new(code).unwrap(), b"no");
        let outcome = match code {
            ..500 => Outcome::Transient,
            _ => Outcome::Permanent,
        };
        let cause = Cause::Rejected(reply);
        Error::new(smtp_proto::Error::new(Stage::Auth, outcome, cause))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn poll(entry: &mut Entry<u32>, now: Instant) -> Poll<Result<Turn<u32>, Error>> {
        entry.poll(now, Waker::noop())
    }

    fn place_to_open(turn: Poll<Result<Turn<u32>, Error>>) -> Place<u32> {
        match turn {
            Poll::Ready(Ok(Turn::Open(place))) => place,
            other => panic!("{other:?}"),
        }
    }

    /// Callers enter, open, use, return, close and give up at random. The test counts connections by itself. A caller
    /// that could go on is never left sleeping, and a later caller is never served before it.
    #[test]
    fn nobody_is_forgotten_and_the_bound_holds() {
        for seed in 1..=600 {
            let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
            let most = 1 + dice.below(4);
            let logs_in = dice.below(2) == 0;
            let places = Places::new(logs_in);
            let most_idle = dice.below(most + 1);
            places.set(|bounds| {
                bounds.sessions = most;
                bounds.idle = most_idle;
            });
            let (mut callers, mut idle) = (Vec::<Caller>::new(), Vec::<u32>::new());
            let (mut now, mut sessions, mut arrivals) = (0, 0, 0);
            let (mut logged_in, mut login_until) = (None, 0);
            for _ in 0..200 {
                match dice.below(8) {
                    0..3 => {
                        arrivals += 1;
                        let bell = Arc::new(Bell(true.into()));
                        callers.push(Caller::Waits(places.enter(), bell, arrivals));
                    }
                    3 => {
                        now += dice.below(9) as u64;
                        // Waiting callers check again after a second.
                        for caller in &callers {
                            if let Caller::Waits(_, bell, _) = caller {
                                bell.0.store(true, Ordering::Relaxed);
                            }
                        }
                    }
                    _ if callers.is_empty() => {}
                    _ => {
                        let caller = callers.remove(dice.below(callers.len()));
                        match (caller, dice.below(4)) {
                            // The caller gives up.
                            (caller, 0) => drop(caller),
                            (Caller::Opens(mut place), 1) => {
                                (logged_in, login_until) = (None, 0);
                                place.failed(at(now), &refused([454, 535][dice.below(2)]));
                            }
                            (Caller::Opens(mut place), _) => {
                                place.opened(at(now));
                                (logged_in, login_until) = (Some(now), 0);
                                sessions += 1;
                                callers.push(Caller::Has(sessions, place));
                            }
                            (Caller::Has(session, place), 1) => {
                                let entry = places.enter_again(place, session % 2 == 0);
                                let bell = Arc::new(Bell(true.into()));
                                // It was served at once.
                                callers.push(Caller::Waits(entry, bell, 0));
                            }
                            (Caller::Has(session, place), _) => {
                                match place.keep(session, at(now)) {
                                    None => idle.push(session),
                                    Some((_, place)) => drop(place),
                                }
                            }
                            (waits, _) => callers.push(waits),
                        }
                    }
                }
                let forget_surplus = |callers: &[Caller], idle: &mut Vec<u32>| {
                    let waiting = callers.iter().filter(|caller| match caller {
                        Caller::Waits(entry, ..) => entry.place.is_none(),
                        _ => false,
                    });
                    let surplus = idle.len().saturating_sub(most_idle + waiting.count());
                    idle.drain(..surplus);
                };
                forget_surplus(&callers, &mut idle);
                // Whoever was woken looks again, in any order. Some are slow, and may have given up by then.
                if dice.below(3) == 0 {
                    continue;
                }
                let mut order = Vec::new();
                loop {
                    forget_surplus(&callers, &mut idle);
                    let woken =
                        callers
                            .iter()
                            .enumerate()
                            .filter_map(|(index, caller)| match caller {
                                Caller::Waits(_, bell, _) => {
                                    bell.0.load(Ordering::Relaxed).then_some(index)
                                }
                                _ => None,
                            });
                    let woken: Vec<_> = woken.collect();
                    if woken.is_empty() {
                        break;
                    }
                    let index = woken[dice.below(woken.len())];
                    let Caller::Waits(mut entry, bell, arrival) = callers.remove(index) else {
                        unreachable!()
                    };
                    bell.0.store(false, Ordering::Relaxed);
                    match entry.poll(at(now), &Waker::from(bell.clone())) {
                        Poll::Pending => callers.push(Caller::Waits(entry, bell, arrival)),
                        Poll::Ready(Ok(turn)) => {
                            order.push(arrival);
                            callers.push(match turn {
                                Turn::Open(place) => {
                                    let is_proven = logged_in.is_some_and(|then| now < then + 5);
                                    let may_log_in = is_proven || now >= login_until;
                                    assert!(!logs_in || may_log_in, "seed {seed}");
                                    if !is_proven {
                                        login_until = now + 5;
                                    }
                                    Caller::Opens(place)
                                }
                                Turn::Use(session, place) => {
                                    let found = idle.iter().position(|one| *one == session);
                                    idle.remove(found.expect("a session that is idle"));
                                    Caller::Has(session, place)
                                }
                            });
                        }
                        Poll::Ready(Err(_)) => {}
                    }
                }
                let served = order.iter().copied().filter(|arrival| *arrival > 0).max();
                let waiting = callers.iter().filter_map(|caller| match caller {
                    // A caller that holds a place waits for a login, and not in the queue.
                    Caller::Waits(entry, _, arrival) if entry.place.is_none() => Some(*arrival),
                    _ => None,
                });
                assert!(
                    served.is_none_or(|served| waiting.min().is_none_or(|first| served < first)),
                    "seed {seed}: somebody was overtaken"
                );
                // A caller that was not woken could not go on.
                for caller in &mut callers {
                    if let Caller::Waits(entry, bell, _) = caller {
                        let waker = Waker::from(bell.clone());
                        assert!(
                            entry.poll(at(now), &waker).is_pending(),
                            "seed {seed}: forgotten"
                        );
                    }
                }
                let open = callers.iter().filter(|caller| match caller {
                    Caller::Opens(_) | Caller::Has(..) => true,
                    Caller::Waits(entry, ..) => entry.place.is_some(),
                });
                let open = open.count() + idle.len();
                assert_eq!(places.count(), (open, idle.len()), "seed {seed}");
                assert!(open <= most, "seed {seed}: {open} of {most}");
            }
        }
    }

    #[test]
    fn a_refused_login_fails_everybody_for_five_seconds() {
        let places = Places::new(true);
        let (mut first, mut second) = (places.enter(), places.enter());
        let mut place = place_to_open(poll(&mut first, at(0)));
        assert!(poll(&mut second, at(0)).is_pending());
        place.failed(at(1), &refused(535));
        drop(place);
        let mut third = places.enter();
        for (entry, now) in [(&mut second, at(1)), (&mut third, at(5))] {
            let Poll::Ready(Err(error)) = poll(entry, now) else {
                panic!("let in")
            };
            assert_eq!(
                error.to_string(),
                "auth: server said 535 no (not attempted, mend it before you send again); \
                 the pool opens no session for 5 s after this"
            );
        }
        drop((second, third));
        drop(place_to_open(poll(&mut places.enter(), at(6))));
    }

    #[test]
    fn the_pause_grows_with_each_refusal_in_a_row() {
        let places = Places::new(true);
        let mut now = 0;
        let mut place = place_to_open(poll(&mut places.enter(), at(now)));
        let mut pause_after = |error: Option<&Error>| {
            let began = now;
            match error {
                Some(error) => place.failed(at(now), error),
                None => place.opened(at(now)),
            }
            loop {
                if let Poll::Ready(Ok(Turn::Open(next))) = poll(&mut places.enter(), at(now)) {
                    place = next;
                    return now - began;
                }
                now += 1;
            }
        };
        let (for_good, later) = (refused(535), refused(454));
        for expected in [5, 10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(pause_after(Some(&for_good)), expected);
        }
        assert_eq!(pause_after(Some(&later)), 5);
        assert_eq!(pause_after(Some(&for_good)), 300);
        assert_eq!(pause_after(None), 0);
        assert_eq!(pause_after(Some(&for_good)), 5);
    }

    /// The server has the password, even if nobody waits for its answer any more.
    #[test]
    fn a_login_that_was_given_up_holds_up_the_others_for_five_seconds() {
        let places = Places::new(true);
        drop(place_to_open(poll(&mut places.enter(), at(0))));
        let mut second = places.enter();
        assert!(poll(&mut second, at(4)).is_pending());
        let silent = place_to_open(poll(&mut second, at(5)));
        // A login without an answer does not delay others for longer.
        let mut third = places.enter();
        assert!(poll(&mut third, at(9)).is_pending());
        let mut place = place_to_open(poll(&mut third, at(10)));
        place.opened(at(11));
        drop(place_to_open(poll(&mut places.enter(), at(11))));
        drop((silent, place));
    }

    #[test]
    fn a_bound_that_is_lowered_holds_at_once() {
        let places = Places::new(false);
        let open = || {
            let mut place = place_to_open(poll(&mut places.enter(), at(0)));
            place.opened(at(0));
            place
        };
        let (one, two, three) = (open(), open(), open());
        assert!(two.keep(2, at(0)).is_none() && three.keep(3, at(0)).is_none());
        places.set(|bounds| bounds.sessions = 1);
        let mut entry = places.enter();
        assert!(poll(&mut entry, at(0)).is_pending());
        for _ in 0..2 {
            assert!(places.take_expired(at(0)).is_some());
        }
        assert!(places.take_expired(at(0)).is_none());
        assert!(poll(&mut entry, at(0)).is_pending());
        drop(one);
        drop(place_to_open(poll(&mut entry, at(0))));
        assert_eq!(places.count(), (0, 0));
    }

    /// It had a place, and waited for the login of another one.
    #[test]
    fn a_bound_that_is_lowered_holds_for_who_has_opened_nothing() {
        let places = Places::new(true);
        let (mut first, mut second, mut third) = (places.enter(), places.enter(), places.enter());
        let mut place = place_to_open(poll(&mut first, at(0)));
        assert!(poll(&mut second, at(0)).is_pending() && poll(&mut third, at(0)).is_pending());
        assert_eq!(places.count(), (3, 0));
        places.set(|bounds| bounds.sessions = 2);
        place.opened(at(1));
        // The second may keep its place once the third has given its own back.
        assert!(poll(&mut third, at(1)).is_pending());
        let other = place_to_open(poll(&mut second, at(1)));
        assert!(poll(&mut third, at(1)).is_pending());
        assert_eq!(places.count(), (2, 0));
        drop(place);
        drop(place_to_open(poll(&mut third, at(1))));
        drop(other);
        assert_eq!(places.count(), (0, 0));
    }

    #[test]
    fn what_does_not_suit_is_left_alone_or_makes_room() {
        let places = Places::new(false);
        let open = |session| {
            let mut place =
                place_to_open(places.enter().poll_suited(at(0), Waker::noop(), |_| false));
            place.opened(at(0));
            assert!(place.keep(session, at(0)).is_none());
        };
        (0..4).for_each(open);
        let take =
            |suits: fn(&u32) -> bool| match places.enter().poll_suited(at(0), Waker::noop(), suits)
            {
                Poll::Ready(Ok(Turn::Use(session, _place))) => Some(session),
                Poll::Ready(Ok(Turn::Open(_place))) => None,
                other => panic!("{other:?}"),
            };
        assert_eq!(take(|session| *session < 2), Some(1));
        assert_eq!(take(|_| false), None);
        places.set(|bounds| bounds.sessions = 3);
        assert_eq!(take(|_| false), Some(3));
    }

    #[test]
    fn a_caller_that_is_gone_is_forgotten() {
        let places = Places::new(true);
        let _place = place_to_open(poll(&mut places.enter(), at(0)));
        let bell = Arc::new(Bell::default());
        let mut entry = places.enter();
        assert!(entry.poll(at(0), &Waker::from(bell.clone())).is_pending());
        drop(entry);
        assert_eq!(Arc::strong_count(&bell), 1);
    }

    #[test]
    fn sessions_that_are_idle_for_too_long_are_taken_out() {
        let places = Places::new(false);
        let open = |now| {
            let mut place = place_to_open(poll(&mut places.enter(), at(now)));
            place.opened(at(now));
            place
        };
        let (one, two) = (open(0), open(0));
        assert!(one.keep(1, at(0)).is_none());
        assert!(two.keep(2, at(30)).is_none());
        assert!(places.take_expired(at(59)).is_none());
        let (session, place) = places.take_expired(at(60)).expect("an old one");
        assert_eq!((session, places.count()), (1, (2, 1)));
        drop(place);
        assert!(places.take_expired(at(60)).is_none());
        // A session above the limit counts as expired.
        places.set(|bounds| bounds.idle = 0);
        let (session, place) = places.take_expired(at(60)).expect("one too many");
        assert_eq!(session, 2);
        drop(place);
        assert_eq!(places.count(), (0, 0));
    }

    #[test]
    fn a_closed_pool_lets_nobody_in() {
        let places = Places::new(false);
        places.set(|bounds| bounds.sessions = 1);
        let mut place = place_to_open(poll(&mut places.enter(), at(0)));
        place.opened(at(0));
        let (mut first, mut second) = (places.enter(), places.enter());
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        assert!(first.poll(at(0), &waker).is_pending() && second.poll(at(0), &waker).is_pending());
        // A higher limit wakes waiting callers.
        places.set(|bounds| bounds.sessions = 2);
        assert!(bell.0.swap(false, Ordering::Relaxed));
        let other = place_to_open(first.poll(at(0), &waker));
        bell.0.store(false, Ordering::Relaxed);
        assert_eq!(places.close().len(), 0);
        assert!(bell.0.load(Ordering::Relaxed));
        assert!(matches!(poll(&mut second, at(0)), Poll::Ready(Err(_))));
        drop(other);
        // A session in use is returned to be closed.
        assert!(place.keep(1, at(0)).is_some());
    }
}
