//! The server's records, for the test to read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{fs, mem};

use bytes::Bytes;

use super::Shared;
use super::wire::Wire;

/// A message that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// The session of the message, from 1 in the order of the connections.
    pub session: usize,
    /// The address of MAIL FROM without brackets. Empty for the null path.
    pub reverse_path: String,
    /// The parameters of MAIL, as they came.
    pub mail_parameters: String,
    /// The addresses of the accepted RCPT TO without brackets, in order.
    pub forward_paths: Vec<String>,
    /// The parameters of each of these RCPT TO, as they came.
    pub rcpt_parameters: Vec<String>,
    /// The file with the message, if the server stores files.
    pub path: Option<PathBuf>,
    /// The size of the content.
    pub octets: u64,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The BODY parameter of MAIL in upper case, if any.
    pub body_parameter: Option<String>,
    /// The client's name in HELO, EHLO or LHLO.
    pub client_name: String,
    /// The message, if it is not in a file.
    pub(super) content: Bytes,
}

impl StoredMessage {
    /// The message exactly as it was received, dots unstuffed.
    ///
    /// # Panics
    /// Its file was deleted with its server.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        match &self.path {
            Some(path) => fs::read(path).expect("the server that stores it is there"),
            None => self.content.to_vec(),
        }
    }
}

/// A command that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeardCommand {
    /// The session of the command, from 1 in the order of the connections.
    pub session: usize,
    /// The line, without its end. For AUTH, only the mechanism.
    pub line: String,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Connections since the start.
    pub sessions: usize,
    /// Connections that neither end has closed. When a client has closed one, the server may still be reading it.
    pub open: usize,
    /// Connections that the server has read to their end. All that their clients sent is in the books.
    pub ended: usize,
    /// The most connections open at one time.
    pub peak: usize,
    /// Messages that were accepted.
    pub messages: usize,
    /// AUTH commands without those refused for their place or their syntax.
    pub logins: usize,
    /// Successful AUTH commands.
    pub logged_in: usize,
    /// QUIT commands.
    pub quits: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) stopping: bool,
    pub(super) messages: Vec<StoredMessage>,
    pub(super) commands: Vec<HeardCommand>,
    pub(super) connections: HashMap<usize, Connection>,
    pub(super) counts: Counts,
    /// The valid password, if it was changed.
    pub(super) password: Option<String>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) wire: Box<dyn Wire>,
    pub(super) thread: JoinHandle<()>,
    /// The server has closed it, or is about to.
    pub(super) is_ended: bool,
}

impl State {
    /// The current counts.
    pub(super) fn counts(&self) -> Counts {
        let connections = self.connections.values();
        let is_open = |connection: &&Connection| !connection.is_ended && !connection.wire.is_left();
        Counts {
            open: connections.filter(is_open).count(),
            messages: self.messages.len(),
            ..self.counts
        }
    }

    /// Counts a new connection.
    pub(super) fn enter(&mut self, number: usize, connection: Connection) {
        self.counts.sessions = number;
        self.connections.insert(number, connection);
        self.counts.peak = self.counts.peak.max(self.counts().open);
    }
}

impl Shared {
    /// Changes the records, and wakes those who wait for a change.
    pub(super) fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `condition` holds, or the time is over. Returns whether it holds.
    pub(super) fn wait(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(&mut State) -> bool,
    ) -> bool {
        let state = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(state, timeout, |state| !condition(state));
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        condition(&mut state)
    }

    /// Closes all connections, and ends their threads.
    pub(super) fn cut_all(&self) {
        let connections = self.note(|state| mem::take(&mut state.connections));
        for connection in connections.values() {
            // Wakes the connection's thread from any read or write.
            connection.wire.shutdown(std::net::Shutdown::Both);
        }
        for connection in connections.into_values() {
            let _ = connection.thread.join();
        }
    }
}
