//! Replies that come before the command that they would answer, with both adapters and real sockets. No report may
//! count them as answers.

use std::future::Future;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::{Chunking, Credentials, Envelope, Outcome, Report, Timeouts, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::play::replay::{Tape, replay};
use smtp_tests::watchdog::in_time;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWriteExt, ReadBuf};

const MESSAGE: &[u8] = b"Subject: x\r\n\r\nx\r\n";

/// Longer than the adapters' pause before they check for input.
const PAUSE: Duration = Duration::from_millis(50);

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

fn timeouts() -> Timeouts {
    Timeouts::default().replies(Duration::from_secs(2))
}

/// A server whose replies a test scripts, command by command. It stops when the client has gone.
struct Server {
    address: String,
    go: mpsc::Sender<()>,
    done: mpsc::Receiver<()>,
    heard: JoinHandle<Vec<String>>,
}

/// The server's side of the connection.
struct Side {
    stream: TcpStream,
    input: BufReader<TcpStream>,
    go: mpsc::Receiver<()>,
    done: mpsc::Sender<()>,
}

impl Side {
    fn say(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes());
    }

    /// Waits for the test, says this unasked, and tells the test.
    fn say_when_told(&mut self, text: &str) {
        if self.go.recv().is_ok() {
            self.say(text);
            self.done.send(()).unwrap();
        }
    }
}

impl Server {
    /// `act` gets each command. A chunk is read with its command, and the body of DATA is a command of its own.
    fn start(
        keywords: &'static str,
        mut act: impl FnMut(&str, &mut Side) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (go, told) = mpsc::channel();
        let (say_done, done) = mpsc::channel();
        let heard = thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            stream.set_nodelay(true).unwrap();
            let input = BufReader::new(stream.try_clone().unwrap());
            let mut side = Side {
                stream,
                input,
                go: told,
                done: say_done,
            };
            side.say("220 mx.example.net\r\n");
            let mut heard = Vec::new();
            loop {
                let mut line = String::new();
                if !matches!(side.input.read_line(&mut line), Ok(1..)) {
                    return heard;
                }
                let line = line.trim_end().to_owned();
                if let Some(rest) = line.strip_prefix("BDAT ") {
                    let octets = rest.split(' ').next().unwrap().parse::<usize>().unwrap();
                    if side.input.read_exact(&mut vec![0; octets]).is_err() {
                        return heard;
                    }
                }
                match line.split(' ').next().unwrap() {
                    "EHLO" => side.say(keywords),
                    _ => act(&line, &mut side),
                }
                heard.push(line);
            }
        });
        Self {
            address,
            go,
            done,
            heard,
        }
    }

    fn act(&self) {
        self.go.send(()).unwrap();
        self.done.recv().unwrap();
        thread::sleep(PAUSE);
    }

    /// Ends when the client has gone.
    fn has_heard_one_message(self) {
        let heard = self.heard.join().unwrap();
        let mails = heard.iter().filter(|line| line.starts_with("MAIL"));
        assert_eq!(mails.count(), 1, "{heard:?}");
    }

    fn blocking(&self) -> smtp_blocking::Server {
        let server = smtp_blocking::Server::new(&self.address).tls(TlsPolicy::Never);
        server.timeouts(timeouts())
    }

    fn tokio(&self) -> smtp_tokio::Server {
        let server = smtp_tokio::Server::new(&self.address).tls(TlsPolicy::Never);
        server.timeouts(timeouts())
    }
}

/// A 250 comes before the first chunk. It must not answer it: the reply to the first chunk would answer the last.
fn shifted_chunks() -> Server {
    Server::start(
        "250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n",
        |command, side| match command.split(' ').next().unwrap() {
            "MAIL" => side.say("250 ok\r\n"),
            "RCPT" => {
                side.say("250 ok\r\n");
                side.say_when_told("250 early\r\n");
            }
            "BDAT" if command.ends_with("LAST") => side.say("552 too large\r\n"),
            "BDAT" => {
                thread::sleep(PAUSE);
                side.say("250 chunk\r\n");
            }
            _ => {}
        },
    )
}

fn replays(tape: &Tape) {
    for record in tape.records() {
        replay("early", &record).unwrap_or_else(|failure| panic!("{failure}\n{record}"));
    }
}

#[test]
fn a_reply_before_a_chunk_does_not_answer_it_blocking() {
    in_time(|| {
        let server = shifted_chunks();
        let tape = Tape::default();
        let settings = server.blocking().record(tape.recorder());
        let mut session = smtp_blocking::Session::connect(settings).unwrap();
        let mut transaction = session.begin(envelope()).unwrap();
        server.act();
        let _ = transaction.write_all(MESSAGE);
        let _ = transaction.flush();
        let result = transaction.finish();
        drop(session);
        replays(&tape);
        let heard = server.heard.join().unwrap();
        result.expect_err(&format!("no server took it: {heard:?}"));
    });
}

#[test]
fn a_reply_before_a_chunk_does_not_answer_it_tokio() {
    in_time(|| {
        let server = shifted_chunks();
        let tape = Tape::default();
        let settings = server.tokio().record(tape.recorder());
        let result = runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&settings).await.unwrap();
            let mut transaction = session.begin(envelope()).await.unwrap();
            server.act();
            let _ = transaction.write_all(MESSAGE).await;
            let _ = transaction.flush().await;
            transaction.finish().await
        });
        replays(&tape);
        let heard = server.heard.join().unwrap();
        result.expect_err(&format!("no server took it: {heard:?}"));
    });
}

/// It says 250 in the middle of a body under DATA, and never answers its end.
fn early_in_data() -> Server {
    Server::start(
        "250-mx\r\n250 PIPELINING\r\n",
        |command, side| match command.split(' ').next().unwrap() {
            "MAIL" | "RCPT" => side.say("250 ok\r\n"),
            "DATA" => {
                side.say("354 go\r\n");
                side.say_when_told("250 early\r\n");
            }
            _ => {}
        },
    )
}

/// A transaction whose end is polled in this way does not take the 250 for its answer.
fn hears_what_came_before_the_end_of_a_body<P>(poll: impl FnOnce() -> P + Send + 'static)
where
    P: FnMut(Finish<'_>, &mut Context<'_>) -> Poll<Finished>,
{
    in_time(|| {
        let server = early_in_data();
        let result = runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&server.tokio()).await.unwrap();
            let mut transaction = session.begin(envelope()).await.unwrap();
            transaction.write_all(MESSAGE).await.unwrap();
            server.act();
            let mut finish = pin!(transaction.finish());
            let mut poll = poll();
            std::future::poll_fn(|cx| poll(finish.as_mut(), cx)).await
        });
        let heard = server.heard.join().unwrap();
        let outcome = result.map(|_| ()).map_err(|error| error.outcome());
        assert_eq!(outcome, Err(Outcome::Transient), "{heard:?}");
        assert!(!heard.contains(&".".to_owned()), "the body was ended");
    });
}

type Finished = Result<Report, smtp_tokio::Error>;
type Finish<'a> = Pin<&'a mut dyn Future<Output = Finished>>;

/// The task has other work, which uses up its budget. So a read finds nothing, although something has come.
#[test]
fn a_busy_task_hears_what_came_before_the_end_of_a_body() {
    hears_what_came_before_the_end_of_a_body(|| {
        let (say, mut work) = tokio::sync::mpsc::unbounded_channel();
        (0..300).for_each(|n| say.send(n).unwrap());
        move |finish: Finish<'_>, cx: &mut Context<'_>| {
            while work.poll_recv(cx).is_ready() {}
            finish.poll(cx)
        }
    });
}

/// The task is polled again before the reactor has had its turn, as a join of several futures does when another one is
/// ready.
#[test]
fn a_task_that_wakes_itself_hears_what_came_before_the_end_of_a_body() {
    hears_what_came_before_the_end_of_a_body(|| {
        |mut finish: Finish<'_>, cx: &mut Context<'_>| match finish.as_mut().poll(cx) {
            Poll::Pending => finish.poll(cx),
            ready => ready,
        }
    });
}

/// The future of a bulk delivery is dropped while it waits for the reactor. The reply comes after that.
#[test]
fn a_turn_of_the_reactor_does_not_count_for_a_later_call() {
    in_time(|| {
        let server = early_in_data();
        let body = b"x\r\n".repeat(20_000);
        let report = runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&server.tokio()).await.unwrap();
            let body = Once::new(body);
            let has_ended = body.has_ended.clone();
            let mut body = Some(body);
            let open = move || {
                let body = body.take().expect("it is opened once");
                async move { Ok(body) }
            };
            let messages = [smtp_tokio::Message::once(envelope(), open)];
            let mut bulk = session.send_all(smtp_tokio::iter(messages));
            {
                let mut next = pin!(bulk.next());
                std::future::poll_fn(|cx| {
                    assert!(next.as_mut().poll(cx).is_pending());
                    match has_ended.load(Ordering::Relaxed) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
            }
            // The reactor has its turn. Then the thread does something else.
            tokio::task::yield_now().await;
            server.act();
            bulk.next().await.unwrap()
        });
        let heard = server.heard.join().unwrap();
        assert!(!report.is_success(), "{:?}", heard.last());
        assert!(!heard.contains(&".".to_owned()), "the body was ended");
    });
}

/// A reader that must not be asked again after its end, like one of a stream. It tells when its end was seen.
struct Once {
    left: io::Cursor<Vec<u8>>,
    has_ended: Arc<AtomicBool>,
}

impl Once {
    fn new(octets: Vec<u8>) -> Self {
        Self {
            left: io::Cursor::new(octets),
            has_ended: Arc::default(),
        }
    }
}

impl AsyncBufRead for Once {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let octets = BufRead::fill_buf(&mut this.left)?;
        if octets.is_empty() {
            let again = this.has_ended.swap(true, Ordering::Relaxed);
            assert!(!again, "it is asked again after its end");
        }
        Poll::Ready(Ok(octets))
    }

    fn consume(self: Pin<&mut Self>, octets: usize) {
        BufRead::consume(&mut self.get_mut().left, octets);
    }
}

impl AsyncRead for Once {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        unreachable!("it is read by its buffer")
    }
}

#[test]
fn a_reader_is_not_asked_again_after_its_end() {
    in_time(|| {
        for (keywords, size) in [
            ("250 mx\r\n", 20_000),
            ("250-mx\r\n250 CHUNKING\r\n", 20_000),
            ("250-mx\r\n250 CHUNKING\r\n", 2_000_000),
        ] {
            let server = Server::start(keywords, |command, side| {
                match command.split(' ').next().unwrap() {
                    "MAIL" | "RCPT" | "BDAT" | "." => side.say("250 ok\r\n"),
                    "DATA" => side.say("354 go\r\n"),
                    _ => {}
                }
            });
            runtime().block_on(async {
                let mut session = smtp_tokio::Session::connect(&server.tokio()).await.unwrap();
                let body = || async { Ok(Once::new(b"x\r\n".repeat(size))) };
                let messages = [smtp_tokio::Message::new(envelope(), body)];
                let mut bulk = session.send_all(smtp_tokio::iter(messages));
                assert!(bulk.next().await.unwrap().is_success());
            });
            server.heard.join().unwrap();
        }
    });
}

/// It takes a message, says something unasked, and answers what follows.
fn stray_after_message() -> Server {
    let mut taken = 0;
    Server::start(
        "250-mx\r\n250 PIPELINING\r\n",
        move |command, side| match command.split(' ').next().unwrap() {
            "MAIL" | "RCPT" => side.say("250 ok\r\n"),
            "DATA" => side.say("354 go\r\n"),
            "." => {
                side.say("250 taken\r\n");
                taken += 1;
                if taken == 1 {
                    side.say_when_told("250 stray\r\n");
                }
            }
            _ => {}
        },
    )
}

#[test]
fn a_bulk_that_begins_late_hears_what_was_said_before_tokio() {
    in_time(|| {
        let server = stray_after_message();
        runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&server.tokio()).await.unwrap();
            let _ = session.send(envelope(), MESSAGE).await.unwrap();
            let messages = [smtp_tokio::Message::from_bytes(envelope(), MESSAGE)];
            let mut bulk = session.send_all(smtp_tokio::iter(messages));
            server.act();
            let _ = bulk.next().await;
        });
        server.has_heard_one_message();
    });
}

/// The caller takes its time between two reports.
#[test]
fn a_bulk_that_pauses_hears_what_was_said_meanwhile_tokio() {
    in_time(|| {
        let server = stray_after_message();
        runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&server.tokio()).await.unwrap();
            let messages = (0..3).map(|_| smtp_tokio::Message::from_bytes(envelope(), MESSAGE));
            let mut bulk = session.send_all(smtp_tokio::iter(messages));
            assert!(bulk.next().await.unwrap().is_success());
            server.act();
            let _ = bulk.next().await;
        });
        server.has_heard_one_message();
    });
}

#[test]
fn a_bulk_that_pauses_hears_what_was_said_meanwhile_blocking() {
    in_time(|| {
        let server = stray_after_message();
        let mut session = smtp_blocking::Session::connect(server.blocking()).unwrap();
        let messages = (0..3).map(|_| smtp_blocking::Message::from_bytes(envelope(), MESSAGE));
        let mut bulk = session.send_all(messages);
        assert!(bulk.next().unwrap().is_success());
        server.act();
        let _ = bulk.next();
        drop(bulk);
        drop(session);
        server.has_heard_one_message();
    });
}

/// A mechanism that thinks for a while.
struct Slow;

impl Mechanism for Slow {
    fn name(&self) -> &str {
        "X-SLOW"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn respond(&mut self, _: &[u8]) -> Result<Secret, MechanismError> {
        thread::sleep(2 * PAUSE);
        Ok(b"proof".to_vec().into())
    }
}

fn accepts_too_early() -> Server {
    Server::start("250-mx\r\n250 AUTH X-SLOW\r\n", |command, side| {
        if command.starts_with("AUTH") {
            side.say("334 \r\n");
            thread::sleep(PAUSE);
            side.say("235 welcome\r\n");
        }
    })
}

#[test]
fn a_login_is_not_accepted_before_the_response_blocking() {
    in_time(|| {
        let server = accepts_too_early();
        let credentials = Credentials::custom(|| Box::new(Slow));
        let session = smtp_blocking::Session::connect(server.blocking().credentials(credentials));
        let is_open = session.is_ok();
        drop(session);
        let heard = server.heard.join().unwrap();
        assert!(!is_open, "{heard:?}");
    });
}

#[test]
fn a_login_is_not_accepted_before_the_response_tokio() {
    in_time(|| {
        let server = accepts_too_early();
        let credentials = Credentials::custom(|| Box::new(Slow));
        let is_open = runtime().block_on(async {
            let server = server.tokio().credentials(credentials);
            smtp_tokio::Session::connect(&server).await.is_ok()
        });
        let heard = server.heard.join().unwrap();
        assert!(!is_open, "{heard:?}");
    });
}

/// Eager chunks: the envelope waits for its body. What comes meanwhile answers neither.
fn refuses_unasked() -> Server {
    Server::start(
        "250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n",
        |command, side| match command.split(' ').next().unwrap() {
            "NOOP" => {
                side.say("250 ok\r\n");
                side.say_when_told("250 early\r\n550 early\r\n");
            }
            "MAIL" | "RCPT" | "BDAT" => {
                thread::sleep(PAUSE);
                side.say("250 real\r\n");
            }
            _ => {}
        },
    )
}

#[test]
fn an_envelope_that_waits_for_its_body_is_not_answered_before_blocking() {
    in_time(|| {
        let server = refuses_unasked();
        let settings = server.blocking().chunking(Chunking::Eager);
        let mut session = smtp_blocking::Session::connect(settings).unwrap();
        session.request(smtp_proto::Request::noop()).unwrap();
        let mut transaction = session.begin(envelope()).unwrap();
        server.act();
        let _ = transaction.write_all(&b"x\r\n".repeat(30_000));
        let _ = transaction.flush();
        let error = transaction.finish().unwrap_err();
        drop(session);
        let heard = server.heard.join().unwrap();
        assert_ne!(error.outcome(), Outcome::Permanent, "{error}: {heard:?}");
    });
}

#[test]
fn an_envelope_that_waits_for_its_body_is_not_answered_before_tokio() {
    in_time(|| {
        let server = refuses_unasked();
        let settings = server.tokio().chunking(Chunking::Eager);
        let error = runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&settings).await.unwrap();
            session.request(smtp_proto::Request::noop()).await.unwrap();
            let mut transaction = session.begin(envelope()).await.unwrap();
            server.act();
            let _ = transaction.write_all(&b"x\r\n".repeat(30_000)).await;
            let _ = transaction.flush().await;
            transaction.finish().await.unwrap_err()
        });
        let heard = server.heard.join().unwrap();
        assert_ne!(error.outcome(), Outcome::Permanent, "{error}: {heard:?}");
    });
}

/// A transport whose answer to STARTTLS comes with the deadline, and which has nothing for the handshake.
struct AtTheDeadline {
    reads: std::collections::VecDeque<&'static str>,
    is_nonblocking: Arc<AtomicBool>,
    nonblocking_reads: Arc<AtomicUsize>,
}

impl Read for AtTheDeadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let is_nonblocking = self.is_nonblocking.load(Ordering::Relaxed);
        if is_nonblocking {
            self.nonblocking_reads.fetch_add(1, Ordering::Relaxed);
        }
        if !is_nonblocking && self.reads.len() < 2 {
            thread::sleep(STARTTLS);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let octets = self.reads.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..octets.len()].copy_from_slice(octets.as_bytes());
        Ok(octets.len())
    }
}

impl Write for AtTheDeadline {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl smtp_blocking::Transport for AtTheDeadline {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        self.is_nonblocking.store(nonblocking, Ordering::Relaxed);
        Ok(true)
    }
}

const STARTTLS: Duration = Duration::from_millis(100);

#[test]
fn a_handshake_waits_although_its_go_ahead_came_with_the_deadline() {
    in_time(|| {
        let reads = Arc::new(AtomicUsize::new(0));
        let transport = AtTheDeadline {
            reads: ["220 mx\r\n", "250-mx\r\n250 STARTTLS\r\n", "220 go\r\n"].into(),
            is_nonblocking: Arc::default(),
            nonblocking_reads: reads.clone(),
        };
        let mut timeouts = timeouts();
        timeouts.starttls = STARTTLS;
        timeouts.handshake = 3 * STARTTLS;
        let server = smtp_blocking::Server::new("mx.example.net")
            .tls(TlsPolicy::Required)
            .timeouts(timeouts);
        let error = smtp_blocking::Session::connect_over(&server, transport).unwrap_err();
        let reads = reads.load(Ordering::Relaxed);
        assert!(reads < 20, "{reads} reads that did not wait: {error}");
    });
}

/// The caller keeps the thread for longer than a reply may take. The reply has come meanwhile.
#[test]
fn a_reply_that_came_while_the_thread_was_kept_is_not_late() {
    in_time(|| {
        let server = Server::start(
            "250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n",
            |command, side| match command.split(' ').next().unwrap() {
                "MAIL" | "RCPT" | "BDAT" => side.say("250 ok\r\n"),
                _ => {}
            },
        );
        runtime().block_on(async {
            let mut timeouts = timeouts();
            timeouts.block = Duration::from_millis(500);
            let server = server.tokio().timeouts(timeouts);
            let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
            let mut transaction = session.begin(envelope()).await.unwrap();
            transaction.write_all(MESSAGE).await.unwrap();
            transaction.flush().await.unwrap();
            thread::sleep(timeouts.block + PAUSE);
            let _ = transaction.write_all(MESSAGE).await;
            let _ = transaction.flush().await;
            let report = transaction.finish().await;
            assert!(report.is_ok(), "{report:?}");
        });
    });
}

/// A stream whose flush is never over, although the octets have left.
struct NeverFlushed(tokio::net::TcpStream);

impl AsyncRead for NeverFlushed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for NeverFlushed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The deadline of a write ends where a handshake begins, which has its own.
#[test]
fn a_handshake_is_not_ended_by_the_write_before_it() {
    in_time(|| {
        let server = Server::start("250-mx\r\n250 STARTTLS\r\n", |_, side| {
            side.say("220 go\r\n");
            thread::sleep(Duration::from_secs(1));
        });
        let mut timeouts = timeouts();
        timeouts.block = Duration::from_millis(300);
        timeouts.handshake = Duration::from_millis(700);
        let error = runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(&server.address).await;
            let settings = smtp_tokio::Server::new("mx.example.net")
                .tls(TlsPolicy::Required)
                .timeouts(timeouts);
            let stream = NeverFlushed(stream.unwrap());
            let opened = smtp_tokio::Session::connect_over(&settings, stream).await;
            opened.unwrap_err().to_string()
        });
        assert!(
            error.contains("timed out after 0.7 s in the TLS handshake"),
            "{error}"
        );
    });
}
