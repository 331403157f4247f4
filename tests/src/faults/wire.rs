//! The server in memory, and what befalls the octets on their way.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use rustls::ServerConnection;

use crate::play::engine::random::Random;
use crate::play::scripted::{Cue, identity};
use crate::transcript::{Action, Transcript, difference};

/// One of the two directions, from the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the client reads.
    Read,
    /// What the client writes.
    Write,
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By this error, for ever.
    Error(io::ErrorKind),
    /// By zero octets: an end of file, or a write that takes nothing.
    Zero,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// The direction that fails.
    pub side: Side,
    /// After so many octets of it, as they are on the wire.
    pub at: u64,
    /// How it fails.
    pub how: How,
    /// What becomes of the other direction.
    pub other: Other,
}

/// What becomes of one direction when the other one has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// It fails too.
    Fails,
    /// What is on its way arrives, and then it ends.
    Ends,
    /// What is on its way arrives, and then nothing does.
    FallsSilent,
}

/// What befalls a stream.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    gentle: Option<Random>,
    fatal: Option<Fatal>,
}

impl Faults {
    /// Nothing at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// Short reads and writes, and calls that are interrupted or take too long. The seed repeats them.
    pub fn gentle(seed: u64) -> Self {
        Self {
            gentle: Some(Random::new(seed)),
            fatal: None,
        }
    }

    /// The end at one octet.
    pub fn fatal(fatal: Fatal) -> Self {
        Self {
            gentle: None,
            fatal: Some(fatal),
        }
    }
}

/// What a read comes to.
pub(super) enum Taken {
    /// So many octets; zero is the end of the file.
    Octets(usize),
    /// There is nothing yet.
    Nothing,
    /// The server is silent for this long.
    Pause(Duration),
}

/// The wire between a client and the server of a transcript.
pub(super) struct Wire {
    transcript: Arc<Transcript>,
    /// Steps that are done.
    step: usize,
    tls: Option<Box<ServerConnection>>,
    in_handshake: bool,
    /// Of the client's octets, decrypted, what no step has taken.
    heard: Vec<u8>,
    /// What is on its way to the client, encrypted where it is.
    to_client: VecDeque<u8>,
    /// For what the server has said: where it ends on the wire, and where it ends in clear.
    ends: Vec<(u64, u64)>,
    /// The server sends nothing more.
    has_ended: bool,
    /// The rest of the client's octets does not matter.
    is_deaf: bool,
    pub(super) pause: Option<Duration>,
    cues: Option<Sender<Cue>>,
    faults: Faults,
    is_dead: [bool; 2],
    /// A call was held up, and the next one is not.
    was_held: bool,
    /// Reads may be cut, and held up. They must not be where the server speaks unasked.
    pub(super) cuts_reads: bool,
    /// A read does not wait, as the client wants it.
    pub(super) is_nonblocking: bool,
    pub(super) timeout: Duration,
    pub(super) waker: Option<Waker>,
    /// Octets that each side had from the other one, on the wire.
    pub(super) read: u64,
    pub(super) written: u64,
    /// Octets that the server has said and heard, in clear.
    said: u64,
    pub(super) got: u64,
    /// What the client has sent against the transcript, with the line of the step.
    pub(super) failure: Option<(usize, String)>,
}

pub(super) type SharedWire = Arc<Mutex<Wire>>;

impl Wire {
    pub(super) fn new(transcript: Arc<Transcript>, faults: Faults, cues: Sender<Cue>) -> Self {
        let mut wire = Self {
            transcript,
            step: 0,
            tls: None,
            in_handshake: false,
            heard: Vec::new(),
            to_client: VecDeque::new(),
            ends: Vec::new(),
            has_ended: false,
            is_deaf: false,
            pause: None,
            cues: Some(cues),
            faults,
            is_dead: [false; 2],
            was_held: false,
            cuts_reads: true,
            is_nonblocking: false,
            timeout: Duration::ZERO,
            waker: None,
            read: 0,
            written: 0,
            said: 0,
            got: 0,
            failure: None,
        };
        wire.advance();
        wire
    }

    /// Octets in clear that have reached the client whole: under TLS, those of whole records.
    pub(super) fn delivered(&self) -> u64 {
        let whole = self.ends.iter().rev().find(|(end, _)| *end <= self.read);
        let whole = whole.map_or(0, |(_, clear)| *clear);
        match self.tls {
            Some(_) => whole,
            // Without TLS each octet counts by itself.
            None => self.read.min(self.said),
        }
    }

    /// The client has gone, or all is over.
    pub(super) fn hang_up(&mut self) {
        self.cues = None;
    }

    /// The pause is over.
    pub(super) fn resume(&mut self) {
        if self.pause.take().is_some() {
            self.step += 1;
            self.advance();
        }
    }

    /// The line of the step that is due, where the script has not come to its end.
    pub(super) fn unplayed(&self) -> Option<usize> {
        let steps = &self.transcript.steps;
        // A client that has gone misses what the server would have sent.
        let is_due = |action: &Action| matches!(action, Action::Client(_) | Action::Tls);
        let rest = steps[self.step..]
            .iter()
            .find(|step| is_due(&step.action))?;
        // Of a body that is given up, not everything is sent.
        let is_last = steps.last().is_some_and(|last| last.line == rest.line);
        let front = match &rest.action {
            Action::Client(expected) => expected.starts_with(&self.heard),
            _ => false,
        };
        match is_last && front && self.transcript.ends_in_body() {
            true => None,
            false => Some(rest.line),
        }
    }

    // What befalls the octets.

    /// One direction has failed, and this one ends with what was on its way.
    fn ends_now(&self) -> bool {
        let falls_silent = |fatal: Fatal| fatal.other == Other::FallsSilent;
        self.is_dead.contains(&true) && !self.faults.fatal.is_some_and(falls_silent)
    }

    /// The direction fails, unless so many octets of it are left.
    fn left(&mut self, side: Side, done: u64) -> io::Result<Option<u64>> {
        if let Some(fatal) = self.faults.fatal.filter(|fatal| fatal.side == side)
            && done >= fatal.at
        {
            if fatal.other == Other::Fails {
                self.is_dead = [true; 2];
            }
            self.is_dead[side as usize] = true;
            self.hang_up();
            return match fatal.how {
                How::Error(kind) => Err(kind.into()),
                How::Zero => Ok(Some(0)),
            };
        }
        if self.is_dead[side as usize] {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let fatal = self.faults.fatal.filter(|fatal| fatal.side == side);
        Ok(fatal.map(|fatal| fatal.at - done))
    }

    /// How many octets of these the call takes, or why it takes none now.
    fn gently(&mut self, octets: usize) -> io::Result<usize> {
        let Some(random) = &mut self.faults.gentle else {
            return Ok(octets);
        };
        if !std::mem::take(&mut self.was_held) && random.one_in(3) {
            self.was_held = true;
            let kind = random.pick(&[
                io::ErrorKind::Interrupted,
                io::ErrorKind::WouldBlock,
                io::ErrorKind::TimedOut,
            ]);
            return Err(kind.into());
        }
        let most = random.pick(&[1, 2, 5, 80, usize::MAX]);
        Ok(octets.min(most))
    }

    /// The client reads.
    pub(super) fn take(&mut self, out: &mut [u8]) -> io::Result<Taken> {
        let left = self.left(Side::Read, self.read)?;
        if left == Some(0) {
            return Ok(Taken::Octets(0));
        }
        if self.to_client.is_empty() {
            return Ok(match (self.pause, self.has_ended) {
                (_, true) => Taken::Octets(0),
                (Some(pause), false) => Taken::Pause(pause),
                (None, false) if self.ends_now() => Taken::Octets(0),
                (None, false) => Taken::Nothing,
            });
        }
        let most = self.to_client.len().min(out.len());
        let most = left.map_or(most, |left| most.min(left.try_into().unwrap_or(usize::MAX)));
        let most = match self.cuts_reads && !self.is_nonblocking {
            true => self.gently(most)?,
            false => most,
        };
        let n = self.to_client.read(&mut out[..most])?;
        self.read += n as u64;
        Ok(Taken::Octets(n))
    }

    /// The client writes.
    pub(super) fn put(&mut self, octets: &[u8]) -> io::Result<usize> {
        let left = self.left(Side::Write, self.written)?;
        let most = left.map_or(octets.len(), |left| {
            octets.len().min(left.try_into().unwrap_or(usize::MAX))
        });
        let n = match most {
            0 => 0,
            most => self.gently(most)?,
        };
        self.written += n as u64;
        self.hear(&octets[..n]);
        self.advance();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(n)
    }

    /// The client flushes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.gently(1).map(drop)
    }

    // The server.

    fn fail(&mut self, message: String) {
        // A client that reads only a part of an unasked reply may go on.
        if self.faults.fatal.is_some() && !self.cuts_reads {
            self.is_deaf = true;
            return;
        }
        let line = self.transcript.steps.get(self.step);
        let line = line.or(self.transcript.steps.last());
        let line = line.map_or(1, |step| step.line);
        self.failure.get_or_insert((line, message));
        self.is_deaf = true;
    }

    fn hear(&mut self, mut octets: &[u8]) {
        let Some(tls) = &mut self.tls else {
            self.got += octets.len() as u64;
            self.heard.extend(octets);
            return;
        };
        while !octets.is_empty() {
            let read = tls.read_tls(&mut octets);
            if read.is_err() || tls.process_new_packets().is_err() {
                // The client's alert, or what answers it.
                self.is_deaf = true;
                break;
            }
        }
        let before = self.heard.len();
        let _ = tls.reader().read_to_end(&mut self.heard);
        self.got += (self.heard.len() - before) as u64;
        self.send_tls();
    }

    fn send_tls(&mut self) {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() && tls.write_tls(&mut self.to_client).is_ok() {}
        }
    }

    fn say(&mut self, octets: &[u8]) {
        match &mut self.tls {
            Some(tls) => {
                let _ = tls.writer().write_all(octets);
                self.send_tls();
            }
            None => self.to_client.extend(octets),
        }
        self.said += octets.len() as u64;
        let end = self.read + self.to_client.len() as u64;
        self.ends.push((end, self.said));
    }

    fn cue(&mut self, cue: Cue) {
        if let Some(cues) = &self.cues {
            // If nobody listens, the client has ended.
            let _ = cues.send(cue);
        }
    }

    /// Plays on as far as that is possible now.
    fn advance(&mut self) {
        let transcript = Arc::clone(&self.transcript);
        while let Some(step) = transcript.steps.get(self.step) {
            if self.is_deaf {
                self.heard.clear();
            }
            match &step.action {
                Action::Client(_) if self.is_deaf => return,
                Action::Client(expected) => {
                    if self.heard.len() < expected.len() && expected.starts_with(&self.heard) {
                        return;
                    }
                    if !self.heard.starts_with(expected) {
                        return self.fail(difference(expected, &self.heard));
                    }
                    self.heard.drain(..expected.len());
                }
                Action::Server(octets) => {
                    if !self.heard.is_empty() && !self.is_deaf {
                        let heard = self.heard.clone();
                        return self.fail(difference(b"", &heard));
                    }
                    self.say(octets);
                }
                Action::Split => {}
                Action::Pause(time) => {
                    self.pause.get_or_insert(*time);
                    return;
                }
                Action::Eof => {
                    (self.has_ended, self.is_deaf) = (true, true);
                }
                Action::Tls | Action::TlsUntrusted => {
                    if !self.shake_hands() {
                        return;
                    }
                    self.is_deaf |= step.action == Action::TlsUntrusted;
                }
                Action::TlsFailed => {
                    // Before the handshake has begun, an alert would be something else: an injection.
                    if self.heard.is_empty() {
                        return;
                    }
                    self.is_deaf = true;
                    self.to_client.extend([21, 3, 3, 0, 2, 2, 80]);
                }
                Action::Submit => self.cue(Cue::Submit),
                Action::Quit => self.cue(Cue::Quit),
                Action::Jam => return self.fail("a jam cannot be played".into()),
                Action::Recorded(_) => return self.fail("a record cannot be played".into()),
            }
            self.step += 1;
        }
        // The client may have gone, or send what nobody reads.
        self.cues = None;
        if !self.heard.is_empty() && !self.is_deaf {
            let heard = self.heard.clone();
            self.fail(difference(b"", &heard));
        }
    }

    /// Whether the handshake is over.
    fn shake_hands(&mut self) -> bool {
        if !self.in_handshake {
            self.in_handshake = true;
            match ServerConnection::new(Arc::clone(&identity().1)) {
                Ok(tls) => self.tls = Some(Box::new(tls)),
                Err(error) => self.fail(error.to_string()),
            }
            let first = std::mem::take(&mut self.heard);
            self.got -= first.len() as u64;
            self.hear(&first);
        }
        let is_over = self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking());
        self.in_handshake = !is_over && !self.is_deaf;
        is_over || self.is_deaf
    }
}
