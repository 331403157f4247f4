//! The wire as a stream of each adapter.

use std::future::Future;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::{MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use smtp_blocking::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::wire::{SharedWire, Taken, Wire};

fn lock(wire: &SharedWire) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the blocking adapter.
pub(super) struct Blocking {
    pub(super) wire: SharedWire,
    /// When the server goes on.
    pub(super) until: Option<Instant>,
}

impl Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let taken = lock(&self.wire).take(out)?;
            let (timeout, is_nonblocking) = {
                let wire = lock(&self.wire);
                (wire.timeout, wire.is_nonblocking)
            };
            let left = match taken {
                Taken::Octets(n) => return Ok(n),
                Taken::Nothing => None,
                Taken::Pause(time) => {
                    let until = *self.until.get_or_insert_with(|| Instant::now() + time);
                    Some(until.saturating_duration_since(Instant::now()))
                }
            };
            match left {
                Some(left) if left.is_zero() || (left <= timeout && !is_nonblocking) => {
                    thread::sleep(left);
                    self.until = None;
                    lock(&self.wire).resume();
                }
                _ => {
                    if !is_nonblocking {
                        thread::sleep(timeout.min(Duration::from_secs(60)));
                    }
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            }
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        lock(&self.wire).put(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        lock(&self.wire).flush()
    }
}

impl Transport for Blocking {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        lock(&self.wire).timeout = timeout;
        Ok(())
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        lock(&self.wire).is_nonblocking = nonblocking;
        Ok(true)
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        lock(&self.wire).hang_up();
    }
}

/// For the tokio adapter.
pub(super) struct Async {
    pub(super) wire: SharedWire,
    /// Until the server goes on.
    pub(super) sleep: Option<Pin<Box<Sleep>>>,
}

/// What keeps a call waiting is told by `Pending`, and the task is woken at once. `Interrupted` means the same here.
fn ready_unless_held<T>(cx: &mut Context<'_>, result: io::Result<T>) -> Poll<io::Result<T>> {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    match result {
        Err(error) if matches!(error.kind(), Interrupted | WouldBlock | TimedOut) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        result => Poll::Ready(result),
    }
}

impl AsyncRead for Async {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        loop {
            let mut out = vec![0; buffer.remaining()];
            let taken = lock(&stream.wire).take(&mut out);
            match ready!(ready_unless_held(cx, taken))? {
                Taken::Octets(n) => {
                    buffer.put_slice(&out[..n]);
                    return Poll::Ready(Ok(()));
                }
                Taken::Nothing => {
                    lock(&stream.wire).waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Taken::Pause(time) => {
                    let sleep = stream.sleep.get_or_insert_with(|| Box::pin(sleep(time)));
                    ready!(sleep.as_mut().poll(cx));
                    stream.sleep = None;
                    lock(&stream.wire).resume();
                }
            }
        }
    }
}

impl AsyncWrite for Async {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let put = lock(&self.wire).put(octets);
        ready_unless_held(cx, put)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = lock(&self.wire).flush();
        ready_unless_held(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl Drop for Async {
    fn drop(&mut self) {
        lock(&self.wire).hang_up();
    }
}
