//! A connection in memory, between a session of the server and a client of either adapter.
//!
//! A write returns after the server's thread has read all of it and has answered. So a test needs no sleep, and may
//! stop tokio's clock. A reply that a rule delays is not waited for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Wire;

/// The client's end of a connection to a server without a socket. It is a [`smtp_blocking::Transport`], and tokio's
/// `AsyncRead` and `AsyncWrite`. [`Receiver::stream`](super::Receiver::stream) opens it.
#[derive(Debug)]
pub struct Stream(Arc<Pipe>);

/// The server's end.
#[derive(Debug)]
pub(super) struct ServerEnd {
    pipe: Arc<Pipe>,
    /// The end that its thread owns closes the connection when it is dropped.
    is_owner: bool,
}

#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    /// The client will not write any more.
    is_left: bool,
    /// The server will neither write nor read any more.
    is_ended: bool,
    is_closed: bool,
    /// The server has read everything, or waits for something else.
    rests: bool,
    server_timeout: Option<Duration>,
    client_timeout: Option<Duration>,
    nonblocking: bool,
    waker: Option<Waker>,
}

/// Both ends of a new connection.
pub(super) fn connection() -> (Stream, ServerEnd) {
    let pipe = Arc::new(Pipe::default());
    let server = ServerEnd {
        pipe: Arc::clone(&pipe),
        is_owner: true,
    };
    (Stream(pipe), server)
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `condition` holds, up to this time.
    fn wait(
        &self,
        timeout: Option<Duration>,
        condition: impl FnMut(&mut State) -> bool,
    ) -> MutexGuard<'_, State> {
        let state = self.lock();
        match timeout {
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(state, timeout, condition);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                let waited = self.changed.wait_while(state, condition);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    /// Makes a change, and wakes those who wait for it.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Stream {
    /// Waits until the server has sent everything that it sends without further input.
    pub(super) fn settle(&self) {
        drop(self.0.wait(None, |state| !state.rests && !state.is_closed));
    }

    fn push(&self, octets: &[u8]) -> io::Result<usize> {
        if octets.is_empty() {
            return Ok(0);
        }
        let mut state = self.0.lock();
        if state.is_closed || state.is_left {
            return Err(ErrorKind::BrokenPipe.into());
        }
        state.to_server.extend(octets);
        state.rests = false;
        drop(state);
        self.0.changed.notify_all();
        self.settle();
        Ok(octets.len())
    }

    fn leave(&self) {
        self.0.change(|state| state.is_left = true);
    }
}

impl State {
    /// The octets for the client. `None` if there are none yet.
    fn take(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.to_client.is_empty() {
            true => (self.is_ended || self.is_closed || buffer.is_empty()).then_some(0),
            false => self.to_client.read(buffer).ok(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (timeout, nonblocking) = {
            let state = self.0.lock();
            (state.client_timeout, state.nonblocking)
        };
        let nothing =
            |state: &mut State| state.to_client.is_empty() && !state.is_ended && !state.is_closed;
        let mut state = match nonblocking {
            true => self.0.lock(),
            false => self.0.wait(timeout, nothing),
        };
        state.take(buffer).ok_or(ErrorKind::WouldBlock.into())
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.push(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl smtp_blocking::Transport for Stream {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.lock().client_timeout = Some(timeout);
        Ok(())
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        self.0.lock().nonblocking = nonblocking;
        Ok(true)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        match state.take(buffer.initialize_unfilled()) {
            Some(octets) => {
                buffer.advance(octets);
                Poll::Ready(Ok(()))
            }
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.push(octets))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.leave();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Read for ServerEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let pipe = &self.pipe;
        let nothing =
            |state: &State| state.to_server.is_empty() && !state.is_left && !state.is_closed;
        let mut state = pipe.lock();
        state.rests = nothing(&state);
        let timeout = state.server_timeout;
        drop(state);
        pipe.changed.notify_all();
        let mut state = pipe.wait(timeout, |state| nothing(state));
        if nothing(&state) {
            return Err(ErrorKind::TimedOut.into());
        }
        if state.is_closed {
            return Ok(0);
        }
        state.to_server.read(buffer)
    }
}

impl Write for ServerEnd {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut result = Ok(octets.len());
        self.pipe.change(|state| match state.is_closed {
            true => result = Err(ErrorKind::BrokenPipe.into()),
            false => state.to_client.extend(octets),
        });
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for ServerEnd {
    fn handle(&self) -> io::Result<Box<dyn Wire>> {
        Ok(Box::new(Self {
            pipe: Arc::clone(&self.pipe),
            is_owner: false,
        }))
    }

    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.pipe.lock().server_timeout = Some(timeout);
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) {
        self.pipe.change(|state| match how {
            Shutdown::Write => state.is_ended = true,
            _ => state.is_closed = true,
        });
    }

    fn is_left(&self) -> bool {
        self.pipe.lock().is_left
    }

    fn rest(&self) {
        self.pipe.lock().rests = true;
        self.pipe.changed.notify_all();
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        if self.is_owner {
            self.shutdown(Shutdown::Both);
        }
    }
}
