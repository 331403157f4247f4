//! The record of a session, which can be replayed. It has all calls to the engine, in order and with their times, and
//! all events. The format is that of the transcripts in `tests/corpus`, with a few more words.
//!
//! A record leaves secrets out, and keeps only the shape of a body. The engine looks at line ends, dots, NUL and octets
//! above 127. It does not look at the other octets.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::reply::Printable;
use smtp_proto::{
    Cause, Config, Envelope, Instant, MessageId, Outcome, Request, TlsFacts, event::RequestId,
};

use self::content::Content;
use crate::observe::Peer;

mod content;
mod envelope;
mod events;
mod lines;
mod settings;
mod text;

/// After so long without an octet, a body counts as held back by the application.
const STALL: Duration = Duration::from_secs(1);

/// The most octets of a body that are kept of what the engine did not take.
const MOST_LEFT: usize = 128 * 1024;

/// Opens the record of the session with this number.
type Open = dyn Fn(u64) -> io::Result<Writer> + Send + Sync;

/// Where a record goes.
type Writer = Box<dyn Write + Send>;

/// Makes the records of a server's sessions.
#[derive(Clone)]
pub(crate) struct Recorder {
    open: Arc<Open>,
}

impl Recorder {
    pub(crate) fn new<W: Write + Send + 'static>(
        open: impl Fn(u64) -> io::Result<W> + Send + Sync + 'static,
    ) -> Self {
        let open = move |session| open(session).map(|out| Box::new(out) as Writer);
        Self {
            open: Arc::new(open),
        }
    }

    /// Begins the record of a session.
    pub(crate) fn begin(
        &self,
        session: u64,
        peer: &Peer,
        config: &Config,
        has_nonce: bool,
        shows_bodies: bool,
    ) -> io::Result<Box<Record>> {
        let mut record = Box::new(Record {
            out: Some((self.open)(session)?),
            shows_bodies,
            now: Duration::ZERO,
            noted: Duration::ZERO,
            messages: 0,
            requests: 0,
            unfinished: BTreeMap::new(),
            asked: BTreeMap::new(),
            body: None,
            of: 0,
            is_data: false,
            hides_challenges: false,
            is_over: false,
            unread: Vec::new(),
            has_begun: false,
            gathered: 0,
            given: 0,
            written: 0,
            queued: 0,
            told: 0,
            unread_at: Duration::ZERO,
            hearing: None,
            hides_unread: config.credentials.is_some(),
            blamed: None,
            is_own_mechanism: config
                .credentials
                .as_ref()
                .is_some_and(|credentials| credentials.outline().kind == "custom"),
        });
        record.line(format_args!(
            "# Session {session} with {}, by smtp-adapter {}.",
            Printable(peer.to_string().as_bytes()),
            env!("CARGO_PKG_VERSION")
        ));
        record.line(format_args!("recorded"));
        for setting in settings::settings(config, has_nonce) {
            record.line(format_args!("config {setting}"));
        }
        record.line(format_args!(""));
        Ok(record)
    }
}

/// The record of one session.
pub(crate) struct Record {
    /// `None` after a write has failed. The session goes on.
    out: Option<Writer>,
    shows_bodies: bool,
    /// The time of the session, and the time of the last line in the record.
    now: Duration,
    noted: Duration,
    /// How many there were by now.
    messages: u64,
    requests: u64,
    /// By their identifiers: the number in the record, and how much of the body it has.
    unfinished: BTreeMap<MessageId, (u64, u64)>,
    asked: BTreeMap<RequestId, u64>,
    body: Option<Body>,
    /// The message whose octets stand there last.
    of: u64,
    /// DATA was the last that began a body.
    is_data: bool,
    /// The mechanism is the application's own, whatever it is called.
    is_own_mechanism: bool,
    /// The challenges of this mechanism help to guess a password.
    hides_challenges: bool,
    is_over: bool,
    /// Octets of the server that are not a whole reply yet.
    unread: Vec<u8>,
    /// The first octet of that stands in the record already.
    has_begun: bool,
    /// Octets of the client's that wait in the engine, that were gathered, that may have gone out, and that are written.
    queued: u64,
    gathered: u64,
    given: u64,
    written: u64,
    /// How many had not gone out, as it stands in the record.
    told: u64,
    unread_at: Duration,
    /// What came at once is being told.
    hearing: Option<Hearing>,
    /// It may be what a server echoes of a login.
    hides_unread: bool,
    /// The line that is not a reply, as it stands there.
    blamed: Option<Arc<[u8]>>,
}

/// What comes of octets of the server's that came at once.
#[derive(Default)]
struct Hearing {
    has_begun: bool,
    /// Lines of the client's.
    said: Vec<String>,
}

/// The body under way.
struct Body {
    id: MessageId,
    number: u64,
    /// In chunks of unknown number.
    is_chunked: bool,
    /// Octets of the caller's that the engine has taken; how many of them stand in what the client says; and where the
    /// last chunk ended.
    taken: u64,
    said: u64,
    border: u64,
    /// Where the chunk ends that was offered last. The engine may have taken a part of it.
    offered: u64,
    /// Of an earlier run, which has these octets already.
    known: u64,
    /// When the engine took some.
    at: Duration,
    /// The application has ended it.
    has_ended: bool,
    /// What the engine has not taken of a body that it has refused.
    left: Option<Box<[u8]>>,
    content: Content,
}

impl Record {
    /// It is this late, and so many octets wait in the engine.
    pub(crate) fn at(&mut self, now: Instant, queued: usize) {
        self.end_hearing();
        self.end_refused();
        self.queued = queued as u64;
        self.now = self.now.max(now.since_origin());
    }

    // What the application does.

    /// The line of a message that is about to be submitted.
    pub(crate) fn message_line(envelope: &Envelope) -> String {
        envelope::message_line(envelope)
    }

    /// This message was submitted.
    pub(crate) fn submitted(&mut self, id: MessageId, line: &str) {
        self.begin_step();
        self.messages += 1;
        self.unfinished.insert(id, (self.messages, 0));
        self.line(format_args!("message {line}"));
        self.line(format_args!("submit"));
    }

    /// This request was made.
    pub(crate) fn requested(&mut self, id: RequestId, request: &Request) {
        self.begin_step();
        self.requests += 1;
        self.asked.insert(id, self.requests);
        self.line(format_args!("request {}", envelope::request_line(request)));
        self.line(format_args!("submit"));
    }

    /// The application has quit.
    pub(crate) fn quit(&mut self) {
        self.begin_step();
        self.line(format_args!("quit"));
    }

    /// The application has ended the session.
    pub(crate) fn aborted(&mut self, reason: &str) {
        self.begin_step();
        self.line(format_args!("abort {}", text::words(reason)));
    }

    /// The application cannot give the rest of a body.
    pub(crate) fn body_failed(&mut self, outcome: Outcome, reason: &str) {
        let outcome = match outcome {
            Outcome::Permanent => "permanent",
            _ => "transient",
        };
        self.begin_step();
        self.line(format_args!("fail-body {outcome} {}", text::words(reason)));
    }

    /// The engine has taken these octets of the body that is wanted.
    pub(crate) fn took(&mut self, octets: &[u8]) {
        let now = self.now;
        let Some(body) = &self.body else {
            return;
        };
        if now.saturating_sub(body.at.max(self.noted)) >= STALL {
            self.pass_time();
        }
        self.content(octets);
        if let Some(body) = &mut self.body {
            body.taken += octets.len() as u64;
            body.at = now;
        }
    }

    /// The engine has refused a body because of these octets, and wants no more of it. A chunk of the octets before them
    /// may not be told yet.
    pub(crate) fn left(&mut self, octets: &[u8]) {
        if let Some(body) = &mut self.body {
            body.left = Some(octets[..octets.len().min(MOST_LEFT)].into());
        }
    }

    /// All that was sent of a refused body is told.
    fn end_refused(&mut self) {
        let Some(left) = self.body.as_mut().and_then(|body| body.left.take()) else {
            return;
        };
        self.content(&left);
        if let Some(body) = &mut self.body {
            body.known = u64::MAX;
        }
        self.say_body();
        self.flush_content();
        self.end_body();
    }

    /// These octets are the next chunk, and the engine may take a part of it: as much as stands before an octet that it
    /// refuses.
    pub(crate) fn offered_chunk(&mut self, octets: &[u8]) {
        if let Some(body) = &mut self.body {
            body.offered = body.border + octets.len() as u64;
        }
        self.content_at(|body| body.border, octets);
    }

    /// A chunk has ended here, although there was room in it.
    pub(crate) fn short_chunk(&mut self) {
        self.flush_content();
        if let Some(body) = &mut self.body {
            body.border = body.taken;
            let (number, taken) = (body.number, body.taken);
            self.line(format_args!("border {number} {taken}"));
        }
    }

    /// A full chunk has ended here.
    pub(crate) fn full_chunk(&mut self) {
        if let Some(body) = &mut self.body {
            body.border = body.taken;
        }
    }

    /// The application has ended the body.
    pub(crate) fn ended_body(&mut self) {
        self.flush_content();
        if let Some(body) = &mut self.body
            && !std::mem::replace(&mut body.has_ended, true)
        {
            let number = body.number;
            self.line(format_args!("body-ends {number}"));
        }
    }

    // What the transport reports.

    /// The server has sent these octets, at once. What the client says to the first reply among them, it says after the
    /// last one.
    pub(crate) fn heard(&mut self, octets: &[u8]) {
        self.unread.extend_from_slice(octets);
        self.unread_at = self.now;
        self.hearing = Some(Hearing::default());
    }

    /// All that came of it is told.
    fn end_hearing(&mut self) {
        self.begin_reply();
        for line in self.hearing.take().into_iter().flat_map(|one| one.said) {
            self.line(format_args!("C: {line}"));
        }
    }

    /// So many octets were gathered. Those that waited in the engine come first.
    pub(crate) fn gathered(&mut self, octets: usize) {
        self.gathered += octets as u64;
        self.queued = self.queued.saturating_sub(octets as u64);
    }

    /// So many of them may have gone out, after those that are written.
    pub(crate) fn given(&mut self, octets: usize) {
        self.given = self.given.max(self.written + octets as u64);
    }

    /// So many of them are written.
    pub(crate) fn written(&mut self, octets: usize) {
        self.written += octets as u64;
        self.given = self.given.max(self.written);
    }

    /// A deadline has passed.
    pub(crate) fn timed_out(&mut self) {
        let now = std::mem::replace(&mut self.now, self.unread_at.max(self.noted));
        self.say_unread();
        self.now = now;
        self.begin_step();
        self.line(format_args!("timeout"));
    }

    /// The server sends no more.
    pub(crate) fn ended(&mut self) {
        self.say_unread();
        self.begin_step();
        self.line(format_args!("eof"));
    }

    /// The connection is lost for this reason.
    #[cfg(feature = "rustls")]
    pub(crate) fn lost(&mut self, cause: &Cause) {
        self.say_unread();
        self.begin_step();
        match cause {
            Cause::Transport(words) => self.line(format_args!("lost {}", text::words(words))),
            other => self.line(format_args!("lost {}", text::words(&other.to_string()))),
        }
    }

    /// The handshake has succeeded.
    pub(crate) fn encrypted(&mut self, facts: &TlsFacts) {
        self.begin_step();
        self.line(format_args!("tls{}", settings::facts(facts)));
    }

    /// The handshake has failed, or the server has refused us after it.
    pub(crate) fn not_encrypted(&mut self, cause: &Cause) {
        self.begin_step();
        let (word, words) = match cause {
            Cause::TlsUntrusted(words) => ("tls-untrusted", words.to_string()),
            Cause::TlsFailed(words) => ("tls-failed", words.to_string()),
            Cause::TlsMisconfigured(words) => ("tls-misconfigured", words.to_string()),
            Cause::Settings(words) => ("tls-settings", words.to_string()),
            other => ("tls-failed", other.to_string()),
        };
        self.line(format_args!("{word} {}", text::words(&words)));
    }
}

/// A session that is dropped stays open, as far as its record knows.
impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_over {
            self.end_hearing();
            self.end_refused();
            self.say_body();
            self.flush_content();
            self.say_ungiven();
            self.expect_nothing();
            self.line(format_args!("expect open"));
        }
        self.with_writer(|out| out.flush());
        // It may panic here as well.
        self.with_writer(|_| Err(io::ErrorKind::Other.into()));
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}
