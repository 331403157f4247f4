//! A lock whose state knows who waits. Nobody is woken, and no waker is dropped, before it is unlocked: both run code of
//! an executor, which may want the lock.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// State that is shared.
#[derive(Debug)]
pub(crate) struct Lock<S>(Mutex<S>);

impl<S> Lock<S> {
    pub(crate) fn new(state: S) -> Self {
        Self(Mutex::new(state))
    }

    pub(crate) fn lock(&self) -> Locked<'_, S> {
        Locked {
            // Nothing panics half way while it is locked.
            state: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            after: After::default(),
        }
    }
}

/// The state, while it is locked. The order of the fields is the order in which they are dropped.
#[derive(Debug)]
pub(crate) struct Locked<'a, S> {
    state: MutexGuard<'a, S>,
    after: After,
}

impl<S> Locked<'_, S> {
    /// Wakes it when the lock is free.
    pub(crate) fn wake(&mut self, waker: Waker) {
        self.after.woken.push(waker);
    }

    /// Wakes all in this list of the state when the lock is free.
    pub(crate) fn wake_all_in(&mut self, list: impl FnOnce(&mut S) -> &mut Vec<Waker>) {
        self.after.woken.append(list(&mut self.state));
    }

    /// Drops it when the lock is free.
    pub(crate) fn forget(&mut self, waker: Waker) {
        self.after.dropped.push(waker);
    }
}

impl<S> Deref for Locked<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

#[derive(Debug, Default)]
struct After {
    woken: Vec<Waker>,
    dropped: Vec<Waker>,
}

impl Drop for After {
    fn drop(&mut self) {
        self.woken.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// Takes the lock when it is woken, and when it is dropped.
    struct Wants(Arc<Lock<()>>, Arc<AtomicUsize>);

    impl Wants {
        fn look(&self) {
            let is_free = self.0.0.try_lock().is_ok();
            self.1.fetch_add(usize::from(is_free), Ordering::Relaxed);
        }
    }

    impl Wake for Wants {
        fn wake(self: Arc<Self>) {
            self.look();
        }
    }

    impl Drop for Wants {
        fn drop(&mut self) {
            self.look();
        }
    }

    #[test]
    fn wakers_find_the_lock_free() {
        let (lock, seen) = (Arc::new(Lock::new(())), Arc::default());
        let waker = || Waker::from(Arc::new(Wants(lock.clone(), Arc::clone(&seen))));
        let (woken, forgotten) = (waker(), waker());
        let mut state = lock.lock();
        state.wake(woken);
        state.forget(forgotten);
        assert_eq!(seen.load(Ordering::Relaxed), 0);
        drop(state);
        // Woken and dropped the one, dropped the other.
        assert_eq!(seen.load(Ordering::Relaxed), 3);
    }
}
