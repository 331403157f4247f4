//! A proxy that cuts what it passes on in pieces, and ends connections in the middle: for pools, which open their
//! connections themselves.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::play::engine::random::Random;

/// A running proxy. It ends when it is dropped; connections that are open then go on.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
}

/// What befalls one connection.
struct Fate {
    random: Random,
    /// The octets in either direction after which it ends.
    ends_at: [Option<u64>; 2],
    /// It ends by a reset.
    is_reset: bool,
}

impl Fate {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // A conversation with a message has some hundred octets each way.
        let mut end = |n, most| random.one_in(n).then(|| random.below(most) as u64);
        let ends_at = [end(2, 3_000), end(3, 900)];
        let is_reset = random.one_in(2);
        Self {
            random,
            ends_at,
            is_reset,
        }
    }
}

impl Proxy {
    /// Starts one on a free port of 127.0.0.1, before the server at this address. The seed repeats what befalls the
    /// connections.
    ///
    /// # Errors
    /// No socket.
    pub fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self {
            address: listener.local_addr()?,
            is_over: Arc::default(),
            cuts: Arc::default(),
        };
        let (is_over, cuts) = (Arc::clone(&proxy.is_over), Arc::clone(&proxy.cuts));
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let fate = Fate::new(seed.wrapping_mul(1_000).wrapping_add(number as u64));
                if let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) {
                    // One that cannot be passed on is dropped, which is a fault like others.
                    let _ = pass(client, server, fate, &cuts);
                }
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has ended by now.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // So that it looks.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

/// Passes octets on in both directions, each on a thread.
fn pass(client: TcpStream, server: TcpStream, fate: Fate, cuts: &Arc<AtomicU64>) -> io::Result<()> {
    for socket in [&client, &server] {
        socket.set_nodelay(true)?;
        if fate.is_reset && fate.ends_at != [None; 2] {
            SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
        }
    }
    let ways = [(client.try_clone()?, server.try_clone()?), (server, client)];
    for ((from, to), ends_at) in ways.into_iter().zip(fate.ends_at) {
        let (mut random, cuts) = (fate.random.clone(), Arc::clone(cuts));
        thread::spawn(move || {
            if copy(&from, &to, &mut random, ends_at).is_err() {
                cuts.fetch_add(1, Ordering::SeqCst);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            }
        });
    }
    Ok(())
}

/// Copies to the end of the file. An error ends the connection.
fn copy(
    mut from: &TcpStream,
    mut to: &TcpStream,
    random: &mut Random,
    ends_at: Option<u64>,
) -> io::Result<()> {
    let mut left = ends_at.unwrap_or(u64::MAX);
    let mut buffer = [0; 4_096];
    loop {
        let most = random.pick(&[1, 7, 64, 4_096]).min(left.max(1) as usize);
        let n = from.read(&mut buffer[..most])?;
        if n == 0 {
            let _ = to.shutdown(Shutdown::Write);
            return Ok(());
        }
        if left == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        to.write_all(&buffer[..n])?;
        left -= n as u64;
    }
}
