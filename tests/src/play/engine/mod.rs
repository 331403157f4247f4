//! Plays a transcript against the engine, in virtual time.
//!
//! The transcript is played with the server's octets whole, one by one, and cut at random. The client's octets are
//! taken likewise. Three things must not show in the result: how octets are cut, when events are polled, and calls
//! without effect. The design calls these invariants.

use std::collections::BTreeMap;
use std::time::Duration;

use body::Body;
use challenger::Challenger;
use in_flight::InFlight;
use random::Random;
use smtp_proto::auth::Nonce;
use smtp_proto::error::Misuse;
use smtp_proto::event::RequestId;
use smtp_proto::{Cause, Connection, Instant, MessageId};

use crate::transcript::{
    Action, Failure, Job, Observed, Recorded, Transcript, difference, is_said,
};
use crate::watchdog::Turns;

mod body;
mod challenger;
mod distraction;
mod events;
mod in_flight;
pub(crate) mod random;
mod record;

/// How octets are cut, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All octets at once.
    Whole,
    /// One by one.
    Octets,
    /// At random, and with more polls and timeouts than needed. The number is the seed.
    Random(u64),
}

/// What was sent and what happened. It is the same for every [`Cut`].
#[derive(Debug, PartialEq, Eq)]
pub struct Conversation {
    /// All octets of the client.
    pub said: Vec<u8>,
    /// The events, without traces and [`Event::StartTls`](smtp_proto::Event::StartTls). The engine withdraws that event
    /// if the connection is lost before somebody polls it.
    pub events: Vec<String>,
}

/// Plays a transcript, and checks all that it expects.
///
/// # Errors
/// The first difference.
pub fn play(transcript: &Transcript, cut: Cut) -> Result<Conversation, Failure> {
    let mut player = Player::new(transcript, cut);
    let mut last_line = 0;
    for (index, step) in transcript.steps.iter().enumerate() {
        last_line = step.line;
        let next = transcript.steps.get(index + 1).map(|step| &step.action);
        let jams = next == Some(&Action::Jam);
        let before = index
            .checked_sub(1)
            .map(|index| &transcript.steps[index].action);
        let mut later = transcript.steps[index + 1..]
            .iter()
            .map(|step| &step.action)
            .skip_while(|action| is_of_application(action) || matches!(action, Action::Pause(_)));
        player.gathers = matches!(later.next(), Some(Action::Recorded(Recorded::Ungiven(_))));
        // A recorded application did both before the transport had its turn.
        player.at_once = transcript.recorded
            && is_of_application(&step.action)
            && before.is_some_and(is_of_application);
        player
            .step(&step.action, jams)
            .map_err(|message| transcript.failure(step.line, message))?;
    }
    player
        .end()
        .map_err(|message| transcript.failure(last_line, message))?;
    transcript.check(&player.observed)?;
    Ok(Conversation {
        said: player.said,
        events: player.events,
    })
}

/// Whether it is the application that does this.
fn is_of_application(action: &Action) -> bool {
    match action {
        Action::Submit | Action::Quit => true,
        Action::Recorded(what) => matches!(what, Recorded::Abort(_) | Recorded::FailBody(..)),
        _ => false,
    }
}

struct Player<'t> {
    transcript: &'t Transcript,
    cut: Cut,
    random: Random,
    secrets: Vec<String>,
    engine: Connection,
    now: Instant,
    /// How many of the transcript's messages and requests were submitted, and their identifiers.
    submitted: usize,
    messages: Vec<MessageId>,
    requests: Vec<RequestId>,
    /// The last body that was wanted, and its message.
    body: Body<'t>,
    body_of: Option<MessageId>,
    /// It has not ended.
    is_in_body: bool,
    /// The octets on offer that are not advanced. Every later offer must begin with them.
    promised: Vec<u8>,
    /// How many promised octets have gone out without a report to the engine. That happens if a completion comes
    /// late, as with io_uring: the server may answer before it.
    unreported: usize,
    jammed: bool,
    handshake_due: bool,
    in_flight: InFlight,
    /// The octets of the client in this step, and in all.
    batch: Vec<u8>,
    said: Vec<u8>,
    events: Vec<String>,
    observed: Observed,
    /// Steps so far that were not the client's. The next one follows at once.
    steps: usize,
    at_once: bool,
    /// What the client says now does not go out at once; so much of what it has said has not; and whether the engine is
    /// told what has.
    gathers: bool,
    gathered: usize,
    is_told: bool,
    /// How often each body was wanted.
    wanted: BTreeMap<usize, usize>,
    challenger: Challenger,
}

impl<'t> Player<'t> {
    fn new(transcript: &'t Transcript, cut: Cut) -> Self {
        let seed = match cut {
            Cut::Random(seed) => seed,
            _ => 0,
        };
        let mut config = transcript.config.clone();
        config.trace = seed % 2 == 1;
        // It is not zero, so that an origin is not taken for a time.
        let now = Instant::from_origin(Duration::from_secs(1_000));
        let mut player = Self {
            transcript,
            cut,
            random: Random::new(seed),
            secrets: transcript.secrets(),
            engine: Connection::with_nonce(config, now, transcript.nonce.map(Nonce::from_octets)),
            now,
            submitted: 0,
            messages: Vec::new(),
            requests: Vec::new(),
            body: Body::default(),
            body_of: None,
            is_in_body: false,
            promised: Vec::new(),
            unreported: 0,
            jammed: false,
            handshake_due: false,
            in_flight: InFlight::new(transcript.config.limits.in_flight),
            batch: Vec::new(),
            said: Vec::new(),
            events: Vec::new(),
            observed: Observed::default(),
            steps: 0,
            at_once: false,
            gathers: false,
            gathered: 0,
            is_told: false,
            wanted: BTreeMap::new(),
            challenger: Challenger::new(transcript.config.credentials.as_ref()),
        };
        if !transcript.is_cued() {
            for _ in &transcript.jobs {
                player.submit();
            }
            let _ = player.engine.quit();
        }
        player
    }

    fn submit(&mut self) {
        let job = self.transcript.jobs.get(self.submitted);
        self.submitted += 1;
        match job {
            Some(&Job::Message(index)) => {
                let envelope = self.transcript.messages[index].envelope.clone();
                if let Ok(id) = self.engine.submit(envelope) {
                    self.messages.push(id);
                    self.observed.reports.push(None);
                }
            }
            Some(&Job::Request(index)) => {
                if let Ok(id) = self.engine.request(self.transcript.requests[index].clone()) {
                    self.requests.push(id);
                    self.observed.answers.push(None);
                }
            }
            None => {}
        }
    }

    fn step(&mut self, action: &Action, jams: bool) -> Result<(), String> {
        if let Action::Recorded(Recorded::Ungiven(octets)) = action {
            self.give_all_but(*octets);
            return Ok(());
        }
        if let Action::Client(octets) = action {
            self.speak(if jams { octets.len() } else { usize::MAX })?;
            return self.end_of_batch(octets);
        }
        if *action == Action::Jam {
            self.jammed = true;
            return match self.promised.is_empty() {
                true => Err("the client has nothing to say that could be jammed".into()),
                false => Ok(()),
            };
        }
        let is_of_transport = !is_of_application(action) && !matches!(action, Action::Pause(_));
        let is_told = std::mem::take(&mut self.is_told);
        if is_of_transport && !is_told && self.gathered > 0 {
            self.give_all_but(0);
            self.is_told = false;
        }
        // Before any other step, the client must have sent all. Octets without a report may wait until the server has
        // answered, but not longer.
        let late = matches!(action, Action::Server(_) | Action::Eof) && self.unreported > 0;
        match late {
            _ if self.at_once => self.take_events()?,
            true => self.expect_nothing_new()?,
            false => self.speak(usize::MAX)?,
        }
        self.end_of_batch(b"")?;
        self.steps += 1;
        if self.transcript.recorded {
            self.body.release();
        }
        match action {
            Action::Recorded(what) => self.recorded(what)?,
            Action::Server(octets) => self.hear(octets)?,
            Action::Pause(duration) => self.pause(*duration)?,
            Action::Eof => self.engine.handle_eof(self.now),
            Action::Tls | Action::TlsFailed | Action::TlsUntrusted => {
                if !std::mem::take(&mut self.handshake_due) {
                    return Err("the engine asks for no handshake here".into());
                }
                let result = match action {
                    Action::TlsFailed => self
                        .engine
                        .handle_tls_failed(Cause::TlsFailed("as told".into())),
                    Action::TlsUntrusted => self
                        .engine
                        .handle_tls_failed(Cause::TlsUntrusted("as told".into())),
                    _ => {
                        let facts = self.transcript.tls_facts.clone();
                        self.engine.handle_tls_established_with(self.now, facts)
                    }
                };
                result.map_err(|misuse| misuse.to_string())?;
                if *action == Action::Tls {
                    if self.engine.capabilities().reply().is_some() {
                        return Err("what was learnt before the handshake is not forgotten".into());
                    }
                    if self.engine.is_tls_verified() != self.transcript.tls_facts.verified {
                        return Err(
                            "whether the certificate was verified is not what was said".into()
                        );
                    }
                }
            }
            Action::Submit => self.submit(),
            Action::Quit => self.engine.quit().map_err(|misuse| misuse.to_string())?,
            Action::Split | Action::Client(_) | Action::Jam => {}
        }
        Ok(())
    }

    fn end_of_batch(&mut self, expected: &[u8]) -> Result<(), String> {
        let batch = std::mem::take(&mut self.batch);
        let is_said = match self.transcript.recorded {
            true => is_said(expected, &batch),
            false => batch == expected,
        };
        match is_said {
            true => Ok(()),
            false => Err(difference(expected, &batch)),
        }
    }

    /// For a loop over what the engine offers or tells: a few turns for each octet of the bodies, and as many as long
    /// envelopes need.
    fn turns(&self) -> Turns {
        let bodies = self.transcript.messages.iter();
        let octets: usize = bodies.map(|message| message.body.len()).sum();
        Turns::new(20_000 + 8 * octets)
    }

    /// Takes the engine's octets, up to `limit`.
    fn speak(&mut self, limit: usize) -> Result<(), String> {
        let late = std::mem::take(&mut self.unreported);
        self.engine.handle_written(self.now, late);
        let mut turns = self.turns();
        loop {
            turns.take()?;
            self.take_events()?;
            self.distract()?;
            if self.gathers && self.gather()? {
                continue;
            }
            let wants_body = self.engine.wants_body();
            self.fill_chunk();
            let piece = self.body.piece();
            if self.is_random() && self.random.one_in(3) {
                self.poll_twice(piece)?;
            }
            let Some(transmit) = self.engine.poll_transmit(self.now, piece) else {
                self.take_events()?;
                if !self.promised.is_empty() && !self.engine.is_closed() {
                    return Err(format!("withdrawn: {}", self.promised.escape_ascii()));
                }
                self.promised.clear();
                if !self.engine.wants_body() {
                    return Ok(());
                }
                let more = self.how_many(usize::MAX);
                if !self.body.grow(more) {
                    // The limit of unanswered chunks is reached, or there is nothing more now.
                    if self.body.is_held() || !self.body.piece().bytes().is_empty() {
                        return Ok(());
                    }
                    self.engine
                        .finish_body()
                        .map_err(|misuse| misuse.to_string())?;
                    self.is_in_body = false;
                }
                continue;
            };
            let [_, theirs] = transmit.parts();
            let may_be_late = theirs.is_empty() && !wants_body && limit == usize::MAX;
            let offer = transmit.parts().concat();
            if !offer.starts_with(&self.promised) {
                let (was, is) = (self.promised.escape_ascii(), offer.escape_ascii());
                return Err(format!(
                    "it was `{was}` that was on offer, and now it is `{is}`"
                ));
            }
            let room = limit - self.batch.len();
            if self.jammed || room == 0 {
                self.promised = offer;
                return Ok(());
            }
            let n = match self.cut {
                // Nothing to write, but one octet is held back and counts as used.
                _ if offer.is_empty() => 0,
                Cut::Whole => offer.len(),
                Cut::Octets => 1,
                Cut::Random(_) => self.random.up_to(offer.len()),
            };
            let n = n.min(room);
            self.batch.extend(&offer[..n]);
            self.said.extend(&offer[..n]);
            // Octets that were on offer before the body was refused still go out, after it.
            if !(self.is_in_body && self.in_flight.is_behind_data()) {
                self.in_flight.say(&offer[..n])?;
            }
            if self.cut != Cut::Whole && may_be_late && n == offer.len() && self.random.one_in(3) {
                transmit.begin(n);
                self.unreported = n;
                self.promised.clear();
                return Ok(());
            }
            let used = transmit.advance(n);
            self.body.advance(used);
            self.promised = offer[n..].to_vec();
        }
    }

    /// Gathers the next chunk. It ends where it is full, or where the body is held, independent of other cuts. A body
    /// that fits into one chunk is offered as the last, unless it was flushed before its end was known.
    fn fill_chunk(&mut self) {
        if let Some(size) = self.engine.chunk_size() {
            self.body.grow(usize::MAX);
            self.body.is_last |= self.body.may_be_last() && self.body.rest.len() <= size;
        }
    }

    /// Checks that nothing is on offer but octets that have already gone out.
    fn expect_nothing_new(&mut self) -> Result<(), String> {
        if self.engine.is_closed() {
            return self.speak(usize::MAX);
        }
        let offer = self
            .engine
            .poll_transmit(self.now, b"")
            .map(|transmit| transmit.parts().concat());
        match offer.unwrap_or_default() == self.promised {
            true => Ok(()),
            false => Err(format!(
                "more is on offer than `{}`",
                self.promised.escape_ascii()
            )),
        }
    }

    /// Gives the server's octets to the engine. Nothing is sent between the pieces. Otherwise a reply could find its
    /// command gone out before it, which would be another conversation.
    fn hear(&mut self, octets: &[u8]) -> Result<(), String> {
        self.in_flight.hear(octets);
        let mut rest = octets;
        while !rest.is_empty() {
            let n = self.how_many(rest.len());
            let (piece, tail) = rest.split_at(n);
            self.engine.handle_input(self.now, piece);
            rest = tail;
            if self.cut != Cut::Whole {
                self.take_events()?;
                self.distract()?;
            }
        }
        if !self.transcript.recorded {
            self.body.release();
        }
        Ok(())
    }

    /// Lets time pass, and calls the engine at each of its deadlines. It also calls just before them, which must have
    /// no effect.
    fn pause(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.now + duration;
        if self.transcript.recorded {
            // A transport may be late, and may read once more before it says so.
            self.now = end;
            return Ok(());
        }
        let mut turns = self.turns();
        while let Some(deadline) = self
            .engine
            .poll_timeout()
            .filter(|&deadline| deadline <= end)
        {
            turns.take()?;
            let just_before = deadline
                .since_origin()
                .saturating_sub(Duration::from_nanos(1));
            self.now = self.now.max(Instant::from_origin(just_before));
            if self.now < deadline {
                let closed = self.engine.is_closed();
                self.engine.handle_timeout(self.now);
                if self.engine.is_closed() != closed {
                    return Err("a timeout came before its deadline".into());
                }
            }
            self.now = deadline;
            self.engine.handle_timeout(self.now);
            self.take_events()?;
            if self
                .engine
                .poll_timeout()
                .is_some_and(|next| next <= deadline)
            {
                return Err("a deadline has passed, and it is still there".into());
            }
        }
        self.now = end;
        Ok(())
    }

    fn is_random(&self) -> bool {
        matches!(self.cut, Cut::Random(_))
    }

    /// How many of `most` octets come in one piece.
    fn how_many(&mut self, most: usize) -> usize {
        match self.cut {
            Cut::Whole => most,
            Cut::Octets => 1,
            // The pieces are short. Otherwise most long lines would stay whole.
            Cut::Random(_) => self.random.up_to(most.min(40)),
        }
    }

    /// After the last step, nothing more is sent. After the end, nothing more may happen.
    fn end(&mut self) -> Result<(), String> {
        // Twice, because a late report may cause another one.
        for _ in 0..2 {
            self.speak(usize::MAX)?;
            self.end_of_batch(b"")?;
        }
        if self.observed.closed.is_none() {
            return Ok(());
        }
        if let Some(index) = self.observed.reports.iter().position(Option::is_none) {
            return Err(format!("message {} was never finished", index + 1));
        }
        if let Some(index) = self.observed.answers.iter().position(Option::is_none) {
            return Err(format!("request {} was never answered", index + 1));
        }
        let now = self.now + Duration::from_secs(86_400);
        self.engine.handle_input(now, b"250 late\r\n");
        self.engine.handle_timeout(now);
        self.engine.handle_eof(now);
        let message = self.transcript.messages.first();
        let submitted = message.map(|message| self.engine.submit(message.envelope.clone()));
        let silent = self.engine.poll_transmit(now, b"body").is_none()
            && self.engine.poll_event().is_none()
            && self.engine.poll_timeout().is_none()
            && submitted.is_none_or(|result| result == Err(Misuse::Closed));
        match silent {
            true => Ok(()),
            false => Err("the engine lives on after Closed".into()),
        }
    }
}
