//! The octets of commands that are not answered yet, counted from outside.

use std::collections::VecDeque;

/// The commands that are not answered, counted from outside: more than one of them may have no more
/// octets than the limit, or two ends that do not read while they write can deadlock. Chunks are no
/// commands: they have a limit of their own.
pub(super) struct InFlight {
    limit: usize,
    commands: VecDeque<usize>,
    /// The line that the client has not ended yet, and the server's.
    said: Vec<u8>,
    heard: Vec<u8>,
    /// The last line was DATA; and so many octets of a chunk follow.
    data: bool,
    chunk: u64,
}

impl InFlight {
    pub(super) fn new(limit: usize) -> Self {
        let commands = VecDeque::new();
        Self {
            limit,
            commands,
            said: Vec::new(),
            heard: Vec::new(),
            data: false,
            chunk: 0,
        }
    }

    /// Whether what follows is a body, once it is wanted.
    pub(super) fn is_behind_data(&self) -> bool {
        self.data
    }

    pub(super) fn say(&mut self, octets: &[u8]) -> Result<(), String> {
        for &octet in octets {
            if self.chunk > 0 {
                self.chunk -= 1;
                continue;
            }
            self.said.push(octet);
            if octet == b'\n' {
                let line = std::mem::take(&mut self.said);
                self.data = line == b"DATA\r\n";
                let chunk = line.strip_prefix(b"BDAT ").map(String::from_utf8_lossy);
                self.chunk = match chunk
                    .as_ref()
                    .and_then(|chunk| chunk.split_whitespace().next())
                {
                    Some(octets) => octets.parse().map_err(|_| format!("BDAT {octets}"))?,
                    None => 0,
                };
                // An empty line is the end of a body's last line, or an empty response to a challenge.
                if line.len() > 2 {
                    self.commands
                        .push_back(if chunk.is_some() { 0 } else { line.len() });
                }
            }
        }
        let octets: usize = self.commands.iter().sum();
        match self.commands.len() > 1 && octets > self.limit {
            true => Err(format!(
                "{octets} octets of commands are in flight, over {}",
                self.limit
            )),
            false => Ok(()),
        }
    }

    pub(super) fn hear(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.heard.push(octet);
            if octet == b'\n' {
                if self.heard.get(3) != Some(&b'-') {
                    self.commands.pop_front();
                }
                self.heard.clear();
            }
        }
    }
}
