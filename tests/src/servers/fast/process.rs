//! The same server in its own process, for measurements.

use std::io::BufRead;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{io, process, thread};

use super::dialogue::Dialogue;
use super::{BACKLOG, Options, Shared, accept};

/// A server in its own process. So time, memory and system calls that are measured here are the client's, and the two
/// do not share file descriptors.
#[derive(Debug)]
pub struct PeerProcess {
    server: String,
    child: Child,
}

/// The environment variable that turns a process into a server, and names its kind.
const KIND: &str = "SMTP_TESTS_PEER";

/// The text before the address in that process's output.
const ANNOUNCEMENT: &str = "the peer listens on ";

impl PeerProcess {
    /// Runs this program again with these arguments, with which it must call
    /// [`serve_if_asked`](Self::serve_if_asked). The server accepts everything and keeps nothing.
    ///
    /// # Errors
    /// The process cannot be started, or is not a server.
    pub fn start(arguments: &[&str], delay: Duration, serving: Serving) -> io::Result<Self> {
        let mut child = process::Command::new(std::env::current_exe()?)
            .args(arguments)
            .env(KIND, format!("{serving:?} {}", delay.as_micros()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output =
            io::BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).lines();
        let server =
            output.find_map(|line| Some(line.ok()?.split_once(ANNOUNCEMENT)?.1.to_owned()));
        // Further output must not block it.
        thread::spawn(move || output.count());
        match server {
            Some(server) => Ok(Self { server, child }),
            None => Err(io::Error::other("the peer's process said no address")),
        }
    }

    /// If the parent has started this process as a server, serves until the parent is gone. Call it first in `main`.
    pub fn serve_if_asked() {
        let Ok(kind) = std::env::var(KIND) else {
            return;
        };
        thread::spawn(|| {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            process::exit(0);
        });
        serve(&kind).expect("a peer can be run");
        process::exit(0);
    }

    /// Its address, in the form for `connect`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a [`PeerProcess`] serves its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// A thread for each, and blocking reads and writes: the fastest for a few.
    Threads,
    /// Tasks of a runtime, for many.
    Tasks,
}

pub(super) fn serve(kind: &str) -> io::Result<()> {
    let (serving, delay) = kind.split_once(' ').ok_or(io::ErrorKind::InvalidInput)?;
    let delay = Duration::from_micros(delay.parse().map_err(io::Error::other)?);
    let shared = Shared::new(Options {
        delay,
        chunking: true,
        keep: false,
        ..Options::default()
    });
    let announce = |address: SocketAddr| println!("{ANNOUNCEMENT}{address}");
    if serving == format!("{:?}", Serving::Threads) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        announce(listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept()?;
            let dialogue = Dialogue::with(shared.clone());
            thread::spawn(move || dialogue.serve_blocking(stream));
        }
    }
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            let listener = socket.listen(BACKLOG)?;
            announce(listener.local_addr()?);
            accept(listener, shared).await;
            Ok(())
        })
}
