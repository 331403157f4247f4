//! Nothing that is shown holds a secret: steps for an observer or for `tracing`, errors, reports and settings, for
//! people and for programs. Each transcript with credentials is played, and everything shown is collected.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use smtp_blocking::{Server, Session, Transport};
use smtp_proto::auth::Nonce;
use smtp_proto::{Connection, Envelope, Event, Instant, Report};
use smtp_tests::play::replay::Tape;
use smtp_tests::transcript::{Action, Transcript, corpus_folder, read_corpus};

const NOW: Instant = Instant::from_origin(Duration::ZERO);
/// A shorter secret might occur in any text.
const SHORTEST: usize = 4;

/// Everything that is shown, for people and for programs.
#[derive(Default)]
struct Shown(String);

impl Shown {
    fn add(&mut self, value: &(impl std::fmt::Debug + ?Sized)) {
        writeln!(self.0, "{value:?}\n{value:#?}").unwrap();
    }

    fn words(&mut self, value: &(impl std::fmt::Display + ?Sized)) {
        writeln!(self.0, "{value}").unwrap();
    }

    fn json(&mut self, value: &impl Serialize) {
        self.0.push_str(&serde_json::to_string(value).unwrap());
    }

    fn error(&mut self, error: &smtp_proto::Error) {
        self.add(error);
        self.words(error);
        self.json(error);
        self.add(&error.cause);
        self.words(&error.cause);
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            self.add(error);
            self.words(error);
            source = error.source();
        }
    }

    fn report(&mut self, report: &Report) {
        self.add(report);
        self.json(report);
        for result in &report.recipients {
            match result {
                Ok(reply) => self.words(reply),
                Err(error) => self.error(error),
            }
        }
    }
}

/// The password or the token in the head of this transcript.
fn secret(transcript: &Transcript) -> Option<String> {
    let text = fs::read_to_string(corpus_folder().join(&transcript.name)).unwrap();
    let heads = text.lines().filter_map(|line| line.strip_prefix("config "));
    let mut words = heads.flat_map(str::split_whitespace);
    let value = words.find_map(|word| {
        let (key, value) = word.split_once('=')?;
        matches!(key, "password" | "token" | "token-from").then_some(value)
    })?;
    // The text between escapes is enough.
    let parts = value.split(['\\', '{', '}', '*']);
    parts.max_by_key(|part| part.len()).map(str::to_owned)
}

/// The secret itself, and its base64 at each place in a response, without the characters that depend on its
/// neighbours.
fn needles(secret: &str) -> Vec<String> {
    let mut needles = vec![secret.to_owned()];
    for before in 0..3 {
        let text = [&b"\0\0"[..before], secret.as_bytes()].concat();
        let encoded = STANDARD.encode(&text);
        let (start, end) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        needles.push(encoded[start..end].to_owned());
    }
    needles.retain(|needle| needle.len() >= SHORTEST);
    needles
}

/// The server's replies after each batch of the client.
fn replies(transcript: &Transcript) -> VecDeque<Vec<u8>> {
    let mut replies = VecDeque::from([Vec::new()]);
    for step in &transcript.steps {
        match &step.action {
            Action::Client(_) => replies.push_back(Vec::new()),
            Action::Server(text) => replies.back_mut().unwrap().extend(text),
            _ => {}
        }
    }
    replies
}

fn by_the_engine(transcript: &Transcript, shown: &mut Shown) {
    let mut config = transcript.config.clone();
    config.trace = true;
    shown.add(&config);
    shown.add(&config.credentials);
    let mut engine = Connection::with_nonce(config, NOW, transcript.nonce.map(Nonce::from_octets));
    for message in &transcript.messages {
        engine.submit(message.envelope.clone()).unwrap();
    }
    engine.quit().unwrap();
    for reply in replies(transcript) {
        engine.handle_input(NOW, &reply);
        while let Some(event) = engine.poll_event() {
            shown.add(&event);
            shown.add(&engine);
            match event {
                Event::StartTls => {
                    let facts = transcript.tls_facts.clone();
                    engine.handle_tls_established_with(NOW, facts).unwrap();
                }
                Event::Finished(_, report) => shown.report(&report),
                Event::Closed(Err(error)) => shown.error(&error),
                _ => {}
            }
        }
        while let Some(transmit) = engine.poll_transmit(NOW, b"") {
            let octets = transmit.parts()[0].len();
            transmit.advance(octets);
        }
    }
    engine.handle_eof(NOW);
    while let Some(event) = engine.poll_event() {
        shown.add(&event);
        if let Event::Closed(Err(error)) = event {
            shown.error(&error);
        }
    }
}

/// The server's part, a batch at a time.
struct Script(VecDeque<Vec<u8>>);

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(said) = self.0.front_mut() else {
            return Ok(0);
        };
        let octets = said.len().min(buffer.len());
        buffer[..octets].copy_from_slice(&said[..octets]);
        said.drain(..octets);
        Ok(octets)
    }
}

impl Write for Script {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.pop_front();
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Script {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

fn by_the_adapter(transcript: &Transcript, shown: &mut Shown) {
    let seen = Arc::new(Mutex::new(Shown::default()));
    let tape = Tape::default();
    let observed = Arc::clone(&seen);
    let server = Server::new("mx.example.net")
        .tls(transcript.config.tls)
        .credentials(transcript.config.credentials.clone())
        .fixed_nonce(transcript.nonce)
        .observe(move |step| observed.lock().unwrap().add(step.trace()))
        .record(tape.recorder());
    shown.add(&server);
    let result = Session::connect_over(&server, Script(replies(transcript)));
    let mut tell = |error: &smtp_blocking::Error| {
        shown.add(error);
        shown.words(error);
        shown.json(error);
        shown.error(error.error());
    };
    match result {
        Ok(mut session) => {
            let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
            match session.send(envelope, &b"Subject: x\r\n"[..]) {
                Ok(report) => shown.report(&report),
                Err(error) => tell(&error),
            }
            shown.add(&session);
        }
        Err(error) => tell(&error),
    }
    shown.0.push_str(&seen.lock().unwrap().0);
    let records = tape.records();
    assert!(!records.is_empty(), "the session is recorded");
    records.iter().for_each(|record| shown.words(record));
}

/// Everything that `tracing` gets from the code in `f`.
#[cfg(feature = "tracing")]
fn with_tracing(shown: &mut Shown, f: impl FnOnce(&mut Shown)) {
    use tracing::field::{Field, Visit};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<Shown>>);
    impl Visit for Collector {
        fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
            self.0.lock().unwrap().add(value);
        }
        fn record_str(&mut self, _: &Field, value: &str) {
            self.0.lock().unwrap().words(value);
        }
    }
    impl<S: tracing::Subscriber> Layer<S> for Collector {
        fn on_new_span(
            &self,
            span: &tracing::span::Attributes<'_>,
            _: &tracing::Id,
            _: Context<'_, S>,
        ) {
            span.record(&mut self.clone());
        }
        fn on_record(
            &self,
            _: &tracing::Id,
            values: &tracing::span::Record<'_>,
            _: Context<'_, S>,
        ) {
            values.record(&mut self.clone());
        }
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }
    let collector = Collector::default();
    let subscriber = tracing_subscriber::registry().with(collector.clone());
    tracing::subscriber::with_default(subscriber, || f(shown));
    let told = &collector.0.lock().unwrap().0;
    assert!(!told.is_empty(), "tracing was told nothing");
    shown.0.push_str(told);
}

#[cfg(not(feature = "tracing"))]
fn with_tracing(shown: &mut Shown, f: impl FnOnce(&mut Shown)) {
    f(shown);
}

#[test]
fn no_secret_is_shown() {
    let (mut played, mut searched, mut leaks) = (0, 0, Vec::new());
    for transcript in read_corpus().unwrap() {
        let Some(secret) = secret(&transcript) else {
            continue;
        };
        played += 1;
        let mut shown = Shown::default();
        by_the_engine(&transcript, &mut shown);
        // TLS is not possible in memory. The settings and the error are shown nevertheless.
        with_tracing(&mut shown, |shown| by_the_adapter(&transcript, shown));
        assert!(
            shown.0.contains("EHLO"),
            "{}: a conversation is shown",
            transcript.name
        );
        for needle in needles(&secret).into_iter().chain(transcript.secrets()) {
            searched += 1;
            if let Some(at) = shown.0.find(&needle) {
                let start = shown.0[..at].rfind('\n').map_or(0, |start| start + 1);
                let line = shown.0[start..].lines().next().unwrap();
                leaks.push(format!("{}: {needle}: {line}", transcript.name));
            }
        }
    }
    println!("{played} transcripts, {searched} forms of their secrets");
    assert!(played > 50 && searched > 3 * played, "{played}, {searched}");
    assert!(leaks.is_empty(), "{}:\n{}", leaks.len(), leaks.join("\n"));
}

/// The forms of a secret are found at each place in a response.
#[test]
fn the_needles_are_sharp() {
    let secret = "s3cret words";
    for before in 0..7 {
        let response =
            STANDARD.encode([&b"\0alice\0"[..before], secret.as_bytes(), b"\x01\x01"].concat());
        let found = needles(secret)
            .into_iter()
            .filter(|needle| response.contains(needle));
        assert_eq!(found.count(), 1, "{response}");
    }
}
