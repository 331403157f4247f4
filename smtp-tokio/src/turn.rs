//! The reactor's turn. A stream tells what has come only after the reactor has looked.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// Ready when the reactor has had a turn since it began. A task may be polled again before that, because of another
/// future in it.
pub(crate) struct Turn {
    bell: Arc<Bell>,
    began: Instant,
    is_second: bool,
}

#[derive(Default)]
struct Bell {
    is_rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.is_rung.store(true, Ordering::Release);
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Turn {
    /// Asks the runtime to ring after the reactor's turn. Without a runtime, it is rung at once.
    pub(crate) fn begin() -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        Self {
            bell,
            began: Instant::now(),
            is_second: false,
        }
    }

    /// A turn that began longer ago than this says little about now, so there is one more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, most: Duration) -> Poll<()> {
        if !self.is_second && self.began.elapsed() >= most {
            *self = Self {
                is_second: true,
                ..Self::begin()
            };
        }
        *lock(&self.bell.waker) = Some(cx.waker().clone());
        match self.bell.is_rung.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
