//! A test that would hang fails instead: by the clock, or by the turns of a loop.

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

/// [`within_limit`], for a test that must not hang.
///
/// # Panics
/// `test` panics, or hangs.
pub fn in_time<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    within_limit(test).expect("it hangs")
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

/// The turns of a loop whose end depends on what is tested. So a loop that would turn for ever fails, and says where.
#[derive(Debug)]
pub struct Turns(usize);

impl Turns {
    /// Far more turns than a loop takes that goes from offer to offer, or from event to event, of one session.
    pub const MOST: usize = 300_000;

    /// A loop of so many turns at most.
    pub fn new(most: usize) -> Self {
        Self(most)
    }

    /// One more turn.
    ///
    /// # Errors
    /// There were too many.
    pub fn take(&mut self) -> Result<(), String> {
        self.0 = self.0.checked_sub(1).ok_or("it turns in a loop")?;
        Ok(())
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new(Self::MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_has_an_end() {
        let mut turns = Turns::new(2);
        assert!(turns.take().is_ok() && turns.take().is_ok());
        assert_eq!(turns.take(), Err("it turns in a loop".into()));
    }
}
