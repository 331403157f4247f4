//! The output for a subscriber of `tracing`: a span for each session, and its events.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use base64::prelude::{BASE64_STANDARD, Engine};
use smtp_blocking::{ClientName, Credentials, Envelope, Server, TlsFacts, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::receiver::{Options, Receiver};
use smtp_tests::watchdog::within_limit;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Level, Metadata, Span, Subscriber, info_span};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n";

/// Names and values, as a subscriber that writes text gets them.
#[derive(Clone, Debug, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }
}

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// An opened span.
#[derive(Clone, Debug)]
struct Opened {
    metadata: &'static Metadata<'static>,
    parent: Option<u64>,
    fields: Fields,
    is_closed: bool,
}

/// An event, and its span.
#[derive(Clone, Debug)]
struct Told {
    metadata: &'static Metadata<'static>,
    span: Option<u64>,
    fields: Fields,
}

impl Told {
    fn is(&self, level: Level, message: &str) -> bool {
        *self.metadata.level() == level && self.fields.get("message") == message
    }
}

/// Everything that was collected.
#[derive(Clone, Debug, Default)]
struct Books {
    spans: BTreeMap<u64, Opened>,
    events: Vec<Told>,
    /// Spans that were entered and not left.
    entered: Vec<u64>,
}

impl Books {
    /// The spans of sessions, in their order.
    fn sessions(&self) -> Vec<(u64, &Opened)> {
        let mut sessions: Vec<_> = self
            .spans
            .iter()
            .filter(|(_, span)| span.metadata.name() == "smtp")
            .map(|(id, span)| (*id, span))
            .collect();
        sessions.sort_by_key(|(_, span)| span.fields.get("session").parse::<u64>().unwrap());
        sessions
    }

    fn within(&self, span: u64) -> impl Iterator<Item = &Told> {
        self.events
            .iter()
            .filter(move |event| event.span == Some(span))
    }

    fn values(&self, span: u64, field: &str) -> Vec<&str> {
        let values = self.within(span).map(|event| event.fields.get(field));
        values.filter(|value| !value.is_empty()).collect()
    }

    fn count(&self, level: Level, message: &str) -> usize {
        let events = self.events.iter();
        events.filter(|event| event.is(level, message)).count()
    }
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Books>>);

impl Collector {
    fn books(&self) -> Books {
        self.0.lock().unwrap().clone()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = context.span(id).and_then(|span| span.parent());
        let span = Opened {
            metadata: attributes.metadata(),
            parent: parent.map(|parent| parent.id().into_u64()),
            fields,
            is_closed: false,
        };
        self.0.lock().unwrap().spans.insert(id.into_u64(), span);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut books = self.0.lock().unwrap();
        let fields = &mut books.spans.get_mut(&id.into_u64()).unwrap().fields;
        let mut new = Fields::default();
        values.record(&mut new);
        for (name, value) in new.0 {
            let before = fields.0.insert(name, value);
            assert_eq!(before, None, "{name} was recorded twice");
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let span = context.event_span(event).map(|span| span.id().into_u64());
        let metadata = event.metadata();
        self.0.lock().unwrap().events.push(Told {
            metadata,
            span,
            fields,
        });
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        self.0.lock().unwrap().entered.push(id.into_u64());
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        let last = self.0.lock().unwrap().entered.pop();
        assert_eq!(last, Some(id.into_u64()), "left out of order");
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        let mut books = self.0.lock().unwrap();
        books.spans.get_mut(&id.into_u64()).unwrap().is_closed = true;
    }
}

/// Runs `f` with a subscriber of this level, and returns what it has collected.
fn collect(level: LevelFilter, f: impl FnOnce() + Send + 'static) -> Books {
    let collector = Collector::default();
    let subscriber = tracing_subscriber::registry()
        .with(collector.clone())
        .with(level);
    let ran = within_limit(move || tracing::subscriber::with_default(subscriber, f));
    ran.expect("it hangs");
    let books = collector.books();
    assert!(books.entered.is_empty(), "a span was not left");
    books
}

/// The two adapters.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Adapter {
    Blocking,
    Tokio,
}

const BOTH: [Adapter; 2] = [Adapter::Blocking, Adapter::Tokio];

impl Adapter {
    /// Sends a message to these recipients.
    fn send(self, server: &Server, to: &[&str]) -> Result<(), smtp_adapter::Error> {
        let envelope = Envelope::new("a@example.org", to).unwrap();
        match self {
            Self::Blocking => {
                let mut session = smtp_blocking::Session::connect(server)?;
                let result = session.send(envelope, MESSAGE);
                session.quit();
                result.map(drop)
            }
            Self::Tokio => runtime().block_on(async {
                let mut session = smtp_tokio::Session::connect(server).await?;
                let result = session.send(envelope, MESSAGE).await;
                session.quit().await;
                result.map(drop)
            }),
        }
    }
}

impl Adapter {
    /// Sends two messages over one session of a pool, each in the span of its request. After each, `look` gets the
    /// name of the request.
    fn send_by_pool(self, receiver: &Receiver, look: impl Fn(&str)) {
        let server = named(Server::new(receiver.local_addr()).tls(TlsPolicy::Never));
        let envelope = || Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        match self {
            Self::Blocking => {
                let pool = smtp_blocking::Pool::new(server);
                let send = || assert!(pool.send(envelope(), MESSAGE).unwrap().is_success());
                info_span!("alice").in_scope(send);
                look("alice");
                info_span!("bob").in_scope(send);
                look("bob");
            }
            Self::Tokio => runtime().block_on(async {
                let pool = smtp_tokio::Pool::new(server);
                let send = async || pool.send(envelope(), MESSAGE).await.unwrap();
                assert!(send().instrument(info_span!("alice")).await.is_success());
                look("alice");
                assert!(send().instrument(info_span!("bob")).await.is_success());
                look("bob");
            }),
        }
    }
}

fn named(server: Server) -> Server {
    server.client_name(ClientName::parse("client.example").unwrap())
}

fn trusting(receiver: &Receiver) -> Server {
    let server = Server::new(receiver.local_addr()).server_name("receiver.localhost");
    let trusted = server.trust_pem(receiver.certificate_pem().as_bytes());
    named(trusted.unwrap())
}

/// A server that sends these lines: the greeting, and one answer to each line of the client. `{}` stands for that
/// line.
fn scripted(lines: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut said = String::new();
            for line in lines {
                let line = line.replace("{}", said.trim_end());
                // A client that has gone is not a failure.
                let _ = write!(stream.get_mut(), "{line}\r\n");
                said.clear();
                let _ = stream.read_line(&mut said);
            }
        }
    });
    address
}

#[test]
fn each_session_has_a_span() {
    for adapter in BOTH {
        let books = collect(LevelFilter::TRACE, move || {
            let outer = info_span!("outer");
            let receiver = Receiver::start(Options {
                auth: Some(("alice".into(), "s3cret".into())),
                ..Options::default()
            })
            .unwrap();
            let credentials = Credentials::password("alice", "s3cret");
            let server = trusting(&receiver).credentials(credentials);
            outer.in_scope(|| {
                adapter.send(&server, &["b@example.net"]).unwrap();
                assert_eq!(Span::current(), outer, "a span is left open");
                adapter.send(&server, &["c@example.net"]).unwrap();
            });
            assert_eq!(receiver.messages().len(), 2);
        });
        let sessions = books.sessions();
        let [(first, one), (second, other)] = sessions[..] else {
            panic!("{sessions:?}");
        };
        assert_ne!(one.fields.get("session"), other.fields.get("session"));
        for (id, span) in [(first, one), (second, other)] {
            assert!(span.is_closed);
            assert_eq!(span.metadata.target(), "smtp");
            assert_eq!(*span.metadata.level(), Level::WARN);
            let parent = &books.spans[&span.parent.unwrap()];
            assert_eq!(parent.metadata.name(), "outer");
            let peer: SocketAddr = span.fields.get("peer").parse().unwrap();
            assert!(peer.ip().is_loopback());
            assert_eq!(span.fields.get("ehlo"), "client.example");
            assert_eq!(span.fields.get("tls"), "TLSv1.3");
            assert_eq!(span.fields.get("verified"), "true");
            // Every event is in the span of its session.
            let commands = books.values(id, "command");
            assert_eq!(
                commands[..3],
                ["EHLO client.example", "STARTTLS", "EHLO client.example"]
            );
            assert!(commands[3].starts_with("AUTH "), "{commands:?}");
            assert_eq!(commands.last(), Some(&"QUIT"));
            let replies = books.values(id, "reply");
            assert!(replies[0].starts_with("220 "), "{replies:?}");
            assert_eq!(books.values(id, "message_number"), ["1"]);
            assert_eq!(books.values(id, "accepted"), ["1"]);
        }
        let to = |id| books.values(id, "command").concat();
        assert!(to(first).contains("RCPT TO:<b@example.net>"));
        assert!(to(second).contains("RCPT TO:<c@example.net>"));
        for event in &books.events {
            assert_eq!(event.metadata.target(), "smtp", "{event:?}");
            let is_step = !event.fields.get("command").is_empty();
            assert!(!is_step || *event.metadata.level() == Level::DEBUG);
            assert_ne!(*event.metadata.level(), Level::WARN, "{event:?}");
            assert!(event.span == Some(first) || event.span == Some(second));
        }
        assert_eq!(books.count(Level::INFO, "message finished"), 2);
        assert_eq!(books.count(Level::DEBUG, "session ready"), 2);
        assert_eq!(books.count(Level::DEBUG, "TLS established"), 2);
        assert_eq!(books.count(Level::DEBUG, "session ended"), 2);
    }
}

/// Many requests share a session of a pool. What one of them sends must not be in the span of another, which ends
/// while the session is kept.
#[test]
fn a_session_of_a_pool_is_in_nobodys_span() {
    for adapter in BOTH {
        let collector = Collector::default();
        let subscriber = tracing_subscriber::registry().with(collector.clone());
        let kept = collector.clone();
        let requests = move || {
            let receiver = Receiver::start(Options::default()).unwrap();
            adapter.send_by_pool(&receiver, |name| {
                let books = kept.books();
                let mut requests = books.spans.values();
                let request = requests.find(|span| span.metadata.name() == name).unwrap();
                assert!(request.is_closed, "{name} is kept open");
                assert!(!books.sessions()[0].1.is_closed, "the session has ended");
            });
            assert_eq!(receiver.messages().len(), 2);
        };
        let ran = within_limit(|| tracing::subscriber::with_default(subscriber, requests));
        ran.expect("it hangs");
        let books = collector.books();
        let sessions = books.sessions();
        let [(id, session)] = sessions[..] else {
            panic!("{sessions:?}");
        };
        assert_eq!(session.parent, None, "{adapter:?}");
        assert!(books.events.iter().all(|event| event.span == Some(id)));
        assert_eq!(books.count(Level::INFO, "message finished"), 2);
    }
}

/// The work of a thread or task for a caller is reported in the caller's span.
#[test]
fn whoever_works_for_a_caller_tells_it_there() {
    let books = collect(LevelFilter::TRACE, || {
        let caller = info_span!("outer").in_scope(smtp_adapter::Caller::current);
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let in_thread = caller.clone();
        let thread = std::thread::spawn(move || {
            tracing::dispatcher::with_default(&dispatch, || {
                tracing::info!("in no span");
                in_thread.in_scope(|| tracing::info!("in a thread"));
            });
        });
        thread.join().unwrap();
        runtime().block_on(caller.poll_in_scope(async {
            tracing::info!("before a wait");
            tokio::task::yield_now().await;
            tracing::info!("after a wait");
        }));
    });
    let told = |event: &Told| (event.fields.get("message").to_owned(), event.span.is_some());
    let told: Vec<_> = books.events.iter().map(told).collect();
    let expected = [
        ("in no span", false),
        ("in a thread", true),
        ("before a wait", true),
        ("after a wait", true),
    ];
    assert_eq!(
        told,
        expected.map(|(text, is_within)| (text.into(), is_within))
    );
    assert!(books.spans.values().all(|span| span.is_closed));
}

/// Two sessions take turns on one thread, each in the span of its caller.
#[test]
fn sessions_that_take_turns_are_told_apart() {
    let books = collect(LevelFilter::TRACE, || {
        let receiver = Receiver::start(Options::default()).unwrap();
        let server = named(Server::new(receiver.local_addr()).tls(TlsPolicy::Never));
        let send = |name: &'static str| {
            let server = server.clone();
            async move {
                let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
                let from = format!("{name}@example.org");
                for _ in 0..3 {
                    let envelope = Envelope::new(from.as_str(), ["b@example.net"]).unwrap();
                    let sent = session.send(envelope, MESSAGE).await;
                    assert!(sent.unwrap().is_success());
                    assert_eq!(Span::current().metadata().unwrap().name(), name);
                    tokio::task::yield_now().await;
                }
                let content = move || std::future::ready(Ok(MESSAGE));
                let messages = (0..3).map(|_| {
                    let envelope = Envelope::new(from.as_str(), ["b@example.net"]).unwrap();
                    smtp_tokio::Message::new(envelope, content)
                });
                let mut reports = session.send_all(smtp_tokio::iter(messages)).and_quit();
                while let Some(report) = reports.next().await {
                    assert!(report.is_success());
                    assert_eq!(Span::current().metadata().unwrap().name(), name);
                }
            }
        };
        runtime().block_on(async {
            tokio::join!(
                InSpan(info_span!("one"), Box::pin(send("one"))),
                InSpan(info_span!("two"), Box::pin(send("two")))
            );
        });
        assert_eq!(receiver.messages().len(), 12);
    });
    let sessions = books.sessions();
    assert_eq!(sessions.len(), 2);
    for (id, span) in sessions {
        let name = books.spans[&span.parent.unwrap()].metadata.name();
        assert_eq!(span.fields.get("tls"), "none");
        assert_eq!(span.fields.get("verified"), "");
        let commands = books.values(id, "command");
        let from: Vec<_> = commands
            .iter()
            .filter(|line| line.starts_with("MAIL "))
            .collect();
        assert_eq!(from.len(), 6, "{commands:?}");
        let own = format!("MAIL FROM:<{name}@example.org>");
        assert!(from.iter().all(|line| line.starts_with(&own)), "{from:?}");
        assert_eq!(
            books.values(id, "message_number"),
            ["1", "2", "3", "4", "5", "6"]
        );
    }
    // They did take turns.
    let turns = books
        .events
        .windows(2)
        .filter(|pair| pair[0].span != pair[1].span);
    assert!(turns.count() > 2);
}

/// A future with a span that is entered while it is polled.
struct InSpan<F>(Span, std::pin::Pin<Box<F>>);

impl<F: Future> Future for InSpan<F> {
    type Output = F::Output;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        let Self(span, future) = &mut *self;
        span.in_scope(|| future.as_mut().poll(cx))
    }
}

/// They can be spawned on any runtime, as without the feature.
#[test]
fn futures_can_be_sent() {
    fn is_send<F: Future + Send>(_: F) {}
    let server = Server::new("mx.example.net");
    is_send(smtp_tokio::Session::connect(&server));
    is_send(async {
        let mut session = smtp_tokio::Session::connect(&server).await?;
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        session.send(envelope, MESSAGE).await
    });
}

const PASSWORD: &str = "Zq7xVk9wJt2yGh5K";

/// The base64 of the password, for each place where it may begin in a group of three octets.
fn encoded() -> [String; 3] {
    [0, 1, 2].map(|before| {
        let mut octets = vec![0; before];
        octets.extend_from_slice(PASSWORD.as_bytes());
        let text = BASE64_STANDARD.encode(&octets);
        // Without the ends, which depend on the neighbours.
        text[4..text.len() - 4].to_owned()
    })
}

fn check_no_secret(books: &Books, what: &str) {
    assert!(!books.events.is_empty());
    let text = format!("{books:?}");
    assert!(!text.contains(PASSWORD), "{what}: {text}");
    let lower = text.to_lowercase();
    assert!(!lower.contains(&PASSWORD.to_lowercase()), "{what}: {text}");
    for code in encoded() {
        assert!(!text.contains(&code), "{what}: {code} is in {text}");
    }
}

#[test]
fn what_is_looked_for_is_what_a_client_sends() {
    for user in ["alice", "bob", "al"] {
        let sent = BASE64_STANDARD.encode(format!("\0{user}\0{PASSWORD}"));
        assert!(encoded().iter().any(|code| sent.contains(code)), "{sent}");
    }
    let alone = BASE64_STANDARD.encode(PASSWORD);
    assert!(encoded().iter().any(|code| alone.contains(code)), "{alone}");
}

#[test]
fn no_secret_is_told() {
    const MECHANISMS: [&str; 5] = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"];
    for adapter in BOTH {
        for name in MECHANISMS {
            let credentials = move || match name {
                "XOAUTH2" => Credentials::token("alice", PASSWORD),
                _ => Credentials::password("alice", PASSWORD).mechanisms(&[name]),
            };
            // The login succeeds, if the server knows the mechanism.
            let books = collect(LevelFilter::TRACE, move || {
                let receiver = Receiver::start(Options {
                    auth: Some(("alice".into(), PASSWORD.into())),
                    ..Options::default()
                })
                .unwrap();
                let server = trusting(&receiver).credentials(credentials());
                let sent = adapter.send(&server, &["b@example.net"]);
                assert_eq!(receiver.messages().len(), usize::from(sent.is_ok()));
                // If the login failed, the test would prove nothing.
                assert!(sent.is_ok() || !["PLAIN", "LOGIN"].contains(&name));
            });
            check_no_secret(&books, name);
            // The login is refused, and echoed.
            let books = collect(LevelFilter::TRACE, move || {
                let address = scripted(&[
                    "220 hi",
                    "250-hi\r\n250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2",
                    "334 {}",
                    "334 {}",
                    "535 5.7.8 not {}",
                    "221 {}",
                ]);
                let server = named(Server::new(address))
                    .tls(TlsPolicy::Never)
                    .credentials(credentials().permit_in_clear());
                adapter.send(&server, &["b@example.net"]).unwrap_err();
            });
            check_no_secret(&books, name);
            let auth = books.events.iter().find(|event| {
                event.fields.get("command").starts_with("AUTH ")
                    && *event.metadata.level() == Level::DEBUG
            });
            assert!(auth.is_some(), "{name}: {books:?}");
            assert_eq!(books.count(Level::WARN, "session failed"), 1, "{name}");
            assert_eq!(books.count(Level::WARN, "no session"), 0, "{name}");
            // The echo is in the reply to the login.
            let books = collect(LevelFilter::TRACE, move || {
                let address = scripted(&[
                    "220 hi",
                    "250-hi\r\n250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2",
                    "535-5.7.8 you said\r\n535 5.7.8 {} and Zq7xVk9wJt2yGh5K",
                ]);
                let server = named(Server::new(address))
                    .tls(TlsPolicy::Never)
                    .credentials(credentials().permit_in_clear());
                adapter.send(&server, &["b@example.net"]).unwrap_err();
            });
            check_no_secret(&books, name);
        }
    }
}

#[test]
fn whoever_wants_results_is_told_no_commands() {
    for adapter in BOTH {
        let books = collect(LevelFilter::INFO, move || {
            let receiver = Receiver::start(Options::default()).unwrap();
            let server = named(Server::new(receiver.local_addr()).tls(TlsPolicy::Never));
            adapter.send(&server, &["b@example.net"]).unwrap();
        });
        assert_eq!(books.events.len(), 1, "{books:?}");
        assert!(books.events[0].is(Level::INFO, "message finished"));
        assert_eq!(books.sessions().len(), 1);
    }
}

#[test]
fn failures_are_warnings() {
    for adapter in BOTH {
        let books = collect(LevelFilter::WARN, move || {
            let receiver = Receiver::start(Options::default()).unwrap();
            let server = named(Server::new(receiver.local_addr()).tls(TlsPolicy::Never));
            let to = [
                "b@example.net",
                "refused@example.net",
                "greylisted@example.net",
            ];
            adapter.send(&server, &to).unwrap();
            assert_eq!(receiver.messages().len(), 1);
        });
        let [(id, span)] = books.sessions()[..] else {
            panic!("{books:?}");
        };
        assert_eq!(span.fields.get("ehlo"), "client.example");
        let [refused, greylisted] = &books.events[..] else {
            panic!("{books:?}");
        };
        for (event, recipient, words) in
            [(refused, "2", "permanent"), (greylisted, "3", "temporary")]
        {
            assert!(event.is(Level::WARN, "not delivered"), "{event:?}");
            assert_eq!(event.span, Some(id));
            assert_eq!(event.fields.get("message_number"), "1");
            assert_eq!(event.fields.get("recipient"), recipient);
            assert_eq!(event.fields.get("count"), "1");
            assert!(event.fields.get("error").contains(words), "{event:?}");
        }
    }
}

#[test]
fn a_session_that_is_lost_is_a_warning_in_its_span() {
    for adapter in BOTH {
        let books = collect(LevelFilter::WARN, move || {
            let server = named(Server::new(scripted(&["421 4.3.2 closing"])));
            adapter.send(&server, &["b@example.net"]).unwrap_err();
        });
        let [(id, span)] = books.sessions()[..] else {
            panic!("{books:?}");
        };
        assert!(span.is_closed);
        let told: Vec<_> = books.events.iter().collect();
        let [failed] = told[..] else {
            panic!("{told:?}");
        };
        assert!(failed.is(Level::WARN, "session failed"), "{failed:?}");
        assert_eq!(failed.span, Some(id));
        assert!(failed.fields.get("error").contains("421 4.3.2 closing"));
    }
}

/// Without a session there is no span, so the caller's span gets the event.
#[test]
fn whoever_cannot_be_connected_to_is_a_warning() {
    for adapter in BOTH {
        let books = collect(LevelFilter::TRACE, move || {
            let (_socket, closed) = smtp_tests::servers::dead::closed().unwrap();
            let outer = info_span!("outer");
            outer.in_scope(|| {
                let error = adapter.send(&Server::new(closed), &["b@example.net"]);
                assert_eq!(
                    error.unwrap_err().io_error().unwrap().kind(),
                    std::io::ErrorKind::ConnectionRefused
                );
                let not_a_name = Server::new("smtp://alice:Zq7xVk9wJt2yGh5K@smtp.example.org");
                adapter.send(&not_a_name, &["b@example.net"]).unwrap_err();
            });
        });
        check_no_secret(&books, "a URL");
        assert!(books.sessions().is_empty());
        assert_eq!(books.count(Level::WARN, "no session"), 2);
        for event in &books.events {
            let outer = &books.spans[&event.span.unwrap()];
            assert_eq!(outer.metadata.name(), "outer");
        }
    }
}

/// The application has encrypted the stream.
#[test]
fn tls_of_the_application_is_named() {
    for (adapter, verified) in [(Adapter::Blocking, true), (Adapter::Tokio, false)] {
        let books = collect(LevelFilter::TRACE, move || {
            let receiver = Receiver::start(Options::default()).unwrap();
            let server = named(Server::new("mx.example.net"));
            let mut facts = TlsFacts::default();
            facts.verified = verified;
            let stream = std::net::TcpStream::connect(receiver.local_addr()).unwrap();
            match adapter {
                Adapter::Blocking => {
                    let session = smtp_blocking::Session::connect_over_tls(&server, stream, facts);
                    session.unwrap().quit();
                }
                Adapter::Tokio => runtime().block_on(async {
                    stream.set_nonblocking(true).unwrap();
                    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                    let session = smtp_tokio::Session::connect_over_tls(&server, stream, facts);
                    session.await.unwrap().quit().await;
                }),
            }
        });
        let (_, span) = books.sessions()[0];
        assert_eq!(span.fields.get("tls"), "by the application");
        assert_eq!(span.fields.get("verified"), verified.to_string());
    }
}
