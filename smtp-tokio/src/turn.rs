//! The reactor's turn. A stream tells what has come only after the reactor has looked.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// Ready when the reactor has had a turn since the first poll. A task may be polled again before that, because of
/// another future in it.
pub(crate) struct Turn {
    yielding: Pin<Box<dyn Future<Output = ()> + Send>>,
    bell: Arc<Bell>,
    began: Option<Instant>,
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

impl Default for Turn {
    fn default() -> Self {
        Self {
            yielding: Box::pin(tokio::task::yield_now()),
            bell: Arc::default(),
            began: None,
            is_second: false,
        }
    }
}

impl Turn {
    /// A turn that began longer ago than this says little about now, so there is one more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, most: Duration) -> Poll<()> {
        let is_old = |began: Instant| began.elapsed() >= most;
        if !self.is_second && self.began.is_some_and(is_old) {
            *self = Self {
                is_second: true,
                ..Self::default()
            };
        }
        *lock(&self.bell.waker) = Some(cx.waker().clone());
        if self.began.is_none() {
            self.began = Some(Instant::now());
            // Without a runtime, it is rung at once.
            let waker = Waker::from(self.bell.clone());
            let _ = self
                .yielding
                .as_mut()
                .poll(&mut Context::from_waker(&waker));
        }
        match self.bell.is_rung.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
