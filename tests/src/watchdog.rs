//! A test that would hang fails instead.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How long a task may take before it counts as hanging. It is ample on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Runs `task` on its own thread. `None` if it takes longer than [`LIMIT`]. The thread is then left alone, because a
/// broken adapter may loop without an end.
///
/// # Panics
/// `task` panics.
pub fn within_limit<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    within(LIMIT, task)
}

/// [`within_limit`], with another limit.
///
/// # Panics
/// `task` panics.
pub fn within<T: Send + 'static>(
    limit: Duration,
    task: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (ended, end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let _ended = ended;
        task()
    });
    match end.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => None,
        _ => Some(
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        ),
    }
}
