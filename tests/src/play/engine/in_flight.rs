//! The octets of unanswered commands, counted from outside.

use std::collections::VecDeque;

/// The unanswered commands, counted from outside. If there are several, the limit bounds their octets. Otherwise two
/// ends that do not read while they write could deadlock. Chunks are not commands, and have their own limit.
pub(super) struct InFlight {
    limit: usize,
    commands: VecDeque<usize>,
    /// The unfinished line of the client, and that of the server.
    said: Vec<u8>,
    heard: Vec<u8>,
    /// The last line was DATA, and this many octets of a chunk follow.
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

    /// Whether a body follows, once it is wanted.
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
                // An empty line is the last line end of a body, or an empty response to a challenge.
                if line.len() > 2 {
                    self.commands
                        .push_back(if chunk.is_some() { 0 } else { line.len() });
                }
            }
        }
        let octets: usize = self.commands.iter().sum();
        let commands = self.commands.iter().filter(|&&octets| octets > 0);
        match commands.count() > 1 && octets > self.limit {
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
