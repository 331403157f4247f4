//! The transport and the network, in virtual time.
//!
//! Several actors take turns at random. If none can act, the clock jumps to the next time when one can.

use std::time::Duration;

use smtp_proto::{
    BodyPart, Connection, Error, Instant, MessageId, Reply, Report, event::RequestId,
};

use super::Failure;
use super::batches::{Batches, Heard};
use super::books::About;
use super::dice::Dice;
use super::engine::Engine;
use super::scene::{Scene, Writing};
use super::server::Server;

/// Far more steps than any conversation takes.
const MOST_STEPS: usize = 20_000;

/// The engine's report of a message, and what it could know by then.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) message: usize,
    pub(crate) report: Report,
    /// How many of the server's octets it had received.
    pub(crate) heard: usize,
    /// A surplus reply had shifted the attribution, which no client can detect.
    pub(crate) excused: bool,
}

/// The body that is wanted now.
pub(super) struct Feed {
    pub(super) message: usize,
    pub(super) used: usize,
    pub(super) visible: usize,
    pub(super) wake: Instant,
    pub(super) ended: bool,
    /// All of it is there, and the engine knows that.
    pub(super) says_last: bool,
}

#[derive(Clone, Copy, Debug)]
enum Actor {
    Application,
    Body,
    Complete,
    Gather,
    Write,
    Up,
    Server,
    Down,
    End,
    Timeout,
    Handshake,
}

pub(crate) struct World<'s> {
    pub(crate) scene: &'s Scene,
    pub(crate) server: Server,
    pub(super) engine: Engine,
    pub(super) dice: Dice,
    pub(super) now: Instant,
    /// All of the client's octets that were given to the network.
    pub(crate) given: Vec<u8>,
    /// How many of them have arrived.
    arrived: usize,
    /// How many of the server's octets the engine has received.
    pub(super) heard: usize,
    /// Taken out of the engine, but not given.
    gathered: Vec<u8>,
    wakes: [Instant; 4],
    complete_at: Instant,
    end_at: Option<Instant>,
    nothing_to_write: bool,
    /// When the handshake ends that the engine has asked for.
    pub(crate) handshake_at: Option<Instant>,
    pub(crate) batches: Batches,
    pub(super) feed: Option<Feed>,
    pub(super) next_job: usize,
    pub(super) job_wake: Instant,
    pub(super) messages: Vec<(MessageId, usize)>,
    pub(super) requests: Vec<(RequestId, usize)>,
    pub(crate) finished: Vec<Finished>,
    /// The reply to each request. `None` if it has none, or it is excused.
    pub(crate) answered: Vec<(usize, Option<Reply>)>,
    pub(crate) closed: Option<Result<(), Error>>,
    pub(crate) excused: bool,
    /// The times of writes, each with the offset up to which octets were written.
    pub(crate) writes: Vec<(usize, Instant)>,
    pub(crate) hears: Vec<(usize, Instant)>,
    /// The last timeout, and whether there was something to write.
    pub(crate) time_up: Option<(Instant, bool)>,
    pub(crate) overlap_broken: u64,
    pub(crate) log: Option<String>,
}

const UP: usize = 0;
const DOWN: usize = 1;
const WRITE: usize = 2;
const GATHER: usize = 3;

impl<'s> World<'s> {
    pub(crate) fn new(scene: &'s Scene, dice: &mut Dice, verbose: bool) -> Self {
        let now = Instant::from_origin(Duration::from_secs(1_000));
        Self {
            server: Server::new(scene.traits.clone(), dice.fork(), now),
            engine: Engine::new(Connection::new(scene.config.clone(), now)),
            dice: dice.clone(),
            scene,
            now,
            given: Vec::new(),
            arrived: 0,
            heard: 0,
            gathered: Vec::new(),
            wakes: [now; 4],
            complete_at: now,
            end_at: None,
            nothing_to_write: false,
            handshake_at: None,
            batches: Batches::new(),
            feed: None,
            next_job: 0,
            job_wake: now,
            messages: Vec::new(),
            requests: Vec::new(),
            finished: Vec::new(),
            answered: Vec::new(),
            closed: None,
            excused: false,
            writes: vec![(0, now)],
            hears: vec![(0, now)],
            time_up: None,
            overlap_broken: 0,
            log: verbose.then(String::new),
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let time = self.now.since_origin() - Duration::from_secs(1_000);
            *log += &format!("{:>9.3}  {}\n", time.as_secs_f64(), line());
        }
    }

    /// Runs until the engine has closed, and the server has read what arrives.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        let mut steps = 0;
        self.plan_job();
        while self.closed.is_none() {
            steps += 1;
            if steps > MOST_STEPS {
                return Err(Failure::new("endless", "the conversation does not end"));
            }
            self.watch_network();
            let ready = self.ready();
            match ready.is_empty() {
                true => self.wait()?,
                false => {
                    let actor = self.dice.pick(&ready);
                    self.act(actor)?;
                }
            }
            self.take_events()?;
        }
        if self.engine.event().is_some()
            || self.engine.offer(self.now, BodyPart::Next(b"x")).is_some()
        {
            return Err(Failure::new("after the end", "something follows Closed"));
        }
        if self.closed == Some(Ok(())) {
            // Taken octets are flushed. They are only QUIT, unless something is wrong.
            self.give_gathered(usize::MAX);
        }
        let given = self.given.len();
        self.note(|| format!("-- closed; {given} octets were given"));
        self.arrived = self.given.len().min(self.scene.cut_up).max(self.arrived);
        for _ in 0..self.given.len() + 1 {
            let (read, sent) = (self.server.read, self.server.sent.len());
            self.serve();
            if (self.server.read, self.server.sent.len()) == (read, sent) {
                break;
            }
        }
        self.server.finish(&self.given);
        Ok(())
    }

    fn down_limit(&self) -> usize {
        self.server.sent.len().min(self.scene.cut_down)
    }

    /// The time when the transport notices that the connection is gone.
    fn watch_network(&mut self) {
        if self.end_at.is_some() {
            return;
        }
        let cut =
            self.given.len() > self.scene.cut_up || self.server.sent.len() > self.scene.cut_down;
        if cut {
            self.end_at = self.scene.notice.map(|notice| self.now + notice);
        } else if self.server.closed {
            self.end_at = Some(self.now + self.dice.pause(20));
        }
    }

    fn ready(&mut self) -> Vec<Actor> {
        let mut ready = Vec::new();
        let now = self.now;
        let mut add = |actor, yes: bool, at: Instant| {
            if yes && at <= now {
                ready.push(actor);
            }
        };
        let wants = self.engine.connection.wants_body();
        let begun = self.engine.has_begun();
        let gathers = self.scene.writing == Writing::Gathers;
        let down = self.heard < self.down_limit();
        add(Actor::Application, self.job_is_due(), self.job_wake);
        if let Some(feed) = self.feed.as_ref().filter(|feed| wants && !feed.ended) {
            let total = self.scene.messages[feed.message].body.len();
            add(
                Actor::Body,
                feed.visible < total || feed.used == total,
                feed.wake,
            );
        }
        add(Actor::Complete, begun, self.complete_at);
        add(
            Actor::Gather,
            gathers && !self.nothing_to_write && self.gathered.len() < 600,
            self.wakes[GATHER],
        );
        let may_write = match gathers {
            true => !self.gathered.is_empty(),
            false => !self.nothing_to_write && !begun,
        };
        add(Actor::Write, may_write, self.wakes[WRITE]);
        let arrives = self.arrived < self.given.len().min(self.scene.cut_up) && !self.server.closed;
        add(Actor::Up, arrives, self.wakes[UP]);
        let reads = self.server.read < self.arrived && !self.server.closed;
        add(Actor::Server, reads, self.server.busy_until);
        add(Actor::Down, down, self.wakes[DOWN]);
        if let Some(at) = self.end_at {
            add(Actor::End, !down, at);
        }
        if let Some(at) = self.handshake_at {
            add(Actor::Handshake, true, at);
        }
        // The timer has fired, and one more read found nothing.
        if !(down && self.wakes[DOWN] <= now)
            && let Some(at) = self.engine.connection.poll_timeout()
        {
            add(Actor::Timeout, true, at);
        }
        ready
    }

    /// Nobody can act now.
    fn wait(&mut self) -> Result<(), Failure> {
        let mut wakes = self.wakes.to_vec();
        wakes.extend([self.complete_at, self.job_wake, self.server.busy_until]);
        wakes.extend(self.end_at);
        wakes.extend(self.handshake_at);
        wakes.extend(self.feed.as_ref().map(|feed| feed.wake));
        wakes.extend(self.engine.connection.poll_timeout());
        match wakes.into_iter().filter(|&at| at > self.now).min() {
            Some(at) if at < self.now + Duration::from_secs(1_000_000) => self.now = at,
            _ if self.engine.connection.is_idle() => {
                self.note(|| "-- idle, and the network goes".into());
                self.engine.lost(self.now);
            }
            _ => {
                return Err(Failure::new(
                    "stuck",
                    "nothing can happen, and no timeout is set",
                ));
            }
        }
        Ok(())
    }

    fn act(&mut self, actor: Actor) -> Result<(), Failure> {
        match actor {
            Actor::Gather | Actor::Write | Actor::Up | Actor::Server => {}
            _ => self.nothing_to_write = false,
        }
        match actor {
            Actor::Application => self.do_job(),
            Actor::Body => self.grow_body(),
            Actor::Complete => self.complete(),
            Actor::Gather => self.gather(),
            Actor::Write => return self.write(),
            Actor::Up => {
                let most = self.given.len().min(self.scene.cut_up) - self.arrived;
                self.arrived += self.some_of(most);
                self.wakes[UP] = self.now + self.dice.pause(1);
            }
            Actor::Server => self.serve(),
            Actor::Down => {
                let most = self.down_limit() - self.heard;
                let n = self.some_of(most);
                self.hear(n);
                self.wakes[DOWN] = self.now + self.dice.pause(1);
            }
            Actor::Handshake => {
                self.handshake_at = None;
                if self.dice.chance(30) {
                    self.note(|| "-- the handshake fails".into());
                    self.engine.fail_tls();
                } else {
                    self.note(|| "-- the handshake is done".into());
                    self.engine.establish_tls(self.now);
                }
            }
            Actor::End => {
                self.note(|| "-- the connection is lost".into());
                self.engine.lost(self.now);
            }
            Actor::Timeout => {
                self.note(|| "-- time is up".into());
                let body = self.body();
                let writes = self.engine.has_begun() || !self.gathered.is_empty();
                let writes = writes || self.engine.offer(self.now, body).is_some();
                self.time_up = Some((self.now, writes));
                self.engine.connection.handle_timeout(self.now);
            }
        }
        Ok(())
    }

    fn some_of(&mut self, most: usize) -> usize {
        if self.dice.chance(500) {
            most
        } else {
            self.dice.between(1, most)
        }
    }

    fn serve(&mut self) {
        let before = self.server.books.said.len();
        self.server.act(&self.given, self.arrived, self.now);
        for index in before..self.server.books.said.len() {
            self.note(String::new);
            let said = &self.server.books.said[index];
            let (code, text, about) = (said.code, said.text.clone(), said.about);
            self.note(|| format!("server says {code} {} ({about:?})", text.escape_debug()));
        }
        if self.server.closed && self.server.books.said.len() > before {
            self.note(|| "server closes".into());
        }
    }

    fn hear(&mut self, n: usize) {
        let (from, to) = (self.heard, self.heard + n);
        let mut start = 0;
        for said in &self.server.books.said {
            let begins = start >= from && start < to;
            let ends = said.end > from && said.end <= to;
            self.excused |= match said.about {
                // It answers nothing that is given after it has begun.
                About::Surplus { read } => {
                    (begins && self.given.len() > read) || (ends && self.scene.traits.swallows)
                }
                _ => ends && said.after_loss && said.code < 400,
            };
            start = said.end;
        }
        self.heard = to;
        self.hears.push((to, self.now));
        let octets = self.server.sent[from..to].to_vec();
        self.note(|| format!("S: {}", octets.escape_ascii()));
        self.engine.hear(self.now, &octets);
    }

    fn body(&self) -> BodyPart<'s> {
        match &self.feed {
            Some(feed) if !feed.ended && self.engine.connection.wants_body() => {
                let octets = &self.scene.messages[feed.message].body[feed.used..feed.visible];
                match feed.says_last {
                    true => BodyPart::Last(octets),
                    false => BodyPart::Next(octets),
                }
            }
            _ => BodyPart::Next(&[]),
        }
    }

    fn use_body(&mut self, used: usize) {
        if let Some(feed) = &mut self.feed {
            feed.used += used;
        }
    }

    fn record_written(&mut self) {
        self.writes.push((self.given.len(), self.now));
    }

    fn record_given(&mut self, from: usize) {
        let octets = self.given[from..].to_vec();
        let pipelines = self.scene.config.pipelining
            && self.scene.traits.offers(self.server.encrypted).pipelining;
        let overlaps = self.scene.config.overlap;
        let heard = Heard {
            books: &self.server.books,
            octets: self.heard,
        };
        self.batches.give(&octets, heard, pipelines, overlaps);
        self.note(|| format!("C: {}", octets.escape_ascii()));
    }

    fn write(&mut self) -> Result<(), Failure> {
        self.wakes[WRITE] = self.now + self.dice.pause(self.scene.slow_transport);
        let left = self.scene.writes_fail.saturating_sub(self.given.len());
        if self.scene.writing == Writing::Gathers {
            if left == 0 {
                self.write_failed();
            } else {
                let n = self.some_of(self.gathered.len()).min(left);
                self.give_gathered(n);
            }
            return Ok(());
        }
        let (body, from) = (self.body(), self.given.len());
        let Some(offer) = self.engine.offer(self.now, body) else {
            self.nothing_to_write = true;
            return Ok(());
        };
        let late = self.scene.writing == Writing::Late;
        if left == 0 && offer > 0 && !late {
            self.write_failed();
            return Ok(());
        }
        let n = self.some_of(offer.max(1)).min(offer);
        let used = match late {
            true => self.engine.begin(self.now, body, n, &mut self.given),
            false => self
                .engine
                .write(self.now, body, n.min(left), &mut self.given),
        };
        self.use_body(used);
        self.complete_at = self.now + self.dice.pause(self.scene.slow_transport);
        if self.given.len() > from {
            self.record_given(from);
            if !late {
                self.record_written();
            }
        }
        Ok(())
    }

    /// None of it is given. The rest of the input is read, as the engine's documentation demands.
    fn write_failed(&mut self) {
        self.note(|| "-- a write fails".into());
        while self.heard < self.down_limit() && self.dice.chance(800) {
            let most = self.down_limit() - self.heard;
            let n = self.some_of(most);
            self.hear(n);
        }
        self.engine.lost(self.now);
    }

    fn complete(&mut self) {
        self.engine.complete(self.now);
        self.note(|| "-- the write has completed".into());
        self.record_written();
    }

    fn gather(&mut self) {
        self.wakes[GATHER] = self.now + self.dice.pause(0);
        let body = self.body();
        let room = if self.dice.chance(500) {
            4_096
        } else {
            self.dice.between(1, 300)
        };
        match self.engine.gather(self.now, body, room, &mut self.gathered) {
            Some(used) => self.use_body(used),
            None => self.nothing_to_write = true,
        }
    }

    fn give_gathered(&mut self, n: usize) {
        let (n, from) = (n.min(self.gathered.len()), self.given.len());
        if n > 0 {
            self.engine.given(self.now, n);
            self.given.extend(self.gathered.drain(..n));
            self.record_given(from);
            self.record_written();
            self.engine.written(self.now, n);
            self.nothing_to_write = false;
        }
    }
}
