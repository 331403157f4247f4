//! Connections: a socket that accepts them, and a thread for each.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{SockAddr, Socket, Type};

use super::Shared;
use super::books::Connection;
use super::session::Session;
use super::wire::Wire;

/// Connections that may wait for an accept.
const BACKLOG: i32 = 128;

/// The thread that accepts connections.
#[derive(Debug)]
pub(super) struct Listener {
    address: SockAddr,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on a free port of 127.0.0.1, or on this Unix socket.
    pub(super) fn start(shared: &Arc<Shared>, path: Option<PathBuf>) -> io::Result<Self> {
        let address = match path {
            Some(path) => SockAddr::unix(path)?,
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into(),
        };
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        socket.bind(&address)?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        let shared = Arc::clone(shared);
        let thread = thread::Builder::new().spawn(move || accept(&socket, &shared))?;
        Ok(Self {
            address,
            thread: Some(thread),
        })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address.as_socket()
    }

    /// Ends the thread of a server that is stopping.
    pub(super) fn stop(&mut self) {
        // A connection wakes it. If that fails, joining could hang, so the thread is left alone.
        let woken = Socket::new(self.address.domain(), Type::STREAM, None)
            .and_then(|socket| socket.connect_timeout(&self.address, Duration::from_secs(1)));
        if let (Ok(()), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &Socket, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.lock().stopping {
            return;
        }
        let served = accepted.and_then(|(socket, _)| {
            // A Unix socket does not have this option.
            let _ = socket.set_tcp_nodelay(true);
            serve(shared, Box::new(socket))
        });
        if served.is_err() {
            thread::sleep(Duration::from_millis(10)); // out of descriptors, say
        }
    }
}

/// Starts a thread for this connection.
pub(super) fn serve(shared: &Arc<Shared>, wire: Box<dyn Wire>) -> io::Result<()> {
    let handle = wire.handle()?;
    let inner = Arc::clone(shared);
    // The lock makes the end of the session come after its record.
    let mut state = shared.lock();
    if state.stopping {
        return Ok(());
    }
    let number = state.counts.sessions + 1;
    let thread = thread::Builder::new().spawn(move || {
        Session::new(number, wire, &inner).run();
        inner.note(|state| state.connections.remove(&number));
    })?;
    state.enter(
        number,
        Connection {
            wire: handle,
            thread,
            is_ended: false,
        },
    );
    drop(state);
    shared.changed.notify_all();
    Ok(())
}
