//! Sessions that pause, with both adapters and real sockets. Input that arrives meanwhile is read before anything is
//! written, and no clock runs while no reply is owed.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smtp_proto::{Envelope, Outcome, Report, Timeouts, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::watchdog::in_time;

const MESSAGE: &[u8] = b"Subject: x\r\n\r\nx\r\n";

/// Longer than the adapters' pause before they check for input.
const PAUSE: Duration = Duration::from_millis(50);

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

fn timeouts() -> Timeouts {
    Timeouts::default().replies(Duration::from_secs(2))
}

/// A server that takes one message, does this, and returns what it receives then.
struct Server {
    address: String,
    /// Tells it to act, and reports that it has.
    go: mpsc::Sender<()>,
    done: mpsc::Receiver<()>,
    heard: JoinHandle<String>,
}

/// The time at which the server acts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    AfterData,
    AfterMessage,
}

impl Server {
    fn start(when: When, act: impl FnOnce(&mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (go, wait) = mpsc::channel();
        let (say_done, done) = mpsc::channel();
        let heard = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut say = |text: &str| stream.write_all(text.as_bytes()).unwrap();
            say("220 mx.example.net\r\n");
            loop {
                let line = lines.next().unwrap().unwrap();
                match line.split(' ').next().unwrap() {
                    "EHLO" => say("250-mx.example.net\r\n250 PIPELINING\r\n"),
                    "DATA" => {
                        say("354 go\r\n");
                        if when == When::AfterData {
                            break;
                        }
                    }
                    "." => {
                        say("250 taken\r\n");
                        break;
                    }
                    "MAIL" | "RCPT" => say("250 ok\r\n"),
                    _ => {}
                }
            }
            if wait.recv().is_ok() {
                act(&mut stream);
                say_done.send(()).unwrap();
            }
            drop(stream);
            let mut heard = String::new();
            while let Some(Ok(line)) = lines.next() {
                heard += &line;
                heard += "\n";
            }
            heard
        });
        Self {
            address,
            go,
            done,
            heard,
        }
    }

    /// Lets it act, and returns when it has.
    fn act(&self) {
        self.go.send(()).unwrap();
        self.done.recv().unwrap();
    }

    fn blocking(&self) -> smtp_blocking::Session {
        let server = smtp_blocking::Server::new(&self.address).tls(TlsPolicy::Never);
        smtp_blocking::Session::connect(server.timeouts(timeouts())).unwrap()
    }

    async fn tokio(&self) -> smtp_tokio::Session {
        let server = smtp_tokio::Server::new(&self.address).tls(TlsPolicy::Never);
        smtp_tokio::Session::connect(&server.timeouts(timeouts()))
            .await
            .unwrap()
    }
}

fn outcome(report: Result<Report, smtp_adapter::Error>) -> Outcome {
    report.unwrap_err().outcome()
}

/// The second message of a session, after the server has sent something unasked, with both adapters.
fn what_was_said_meanwhile_is_read_first(words: &'static str) {
    in_time(move || {
        let speak = move |stream: &mut TcpStream| {
            stream.write_all(words.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        };
        let server = Server::start(When::AfterMessage, speak);
        let mut session = server.blocking();
        assert!(session.send(envelope(), MESSAGE).unwrap().is_success());
        server.act();
        thread::sleep(PAUSE);
        let second = outcome(session.send(envelope(), MESSAGE));
        assert_eq!(second, Outcome::NotAttempted, "{words}");
        assert!(!session.is_usable());
        drop(session);
        assert_eq!(server.heard.join().unwrap(), "", "{words}");

        let server = Server::start(When::AfterMessage, speak);
        runtime().block_on(async {
            let mut session = server.tokio().await;
            assert!(
                session
                    .send(envelope(), MESSAGE)
                    .await
                    .unwrap()
                    .is_success()
            );
            server.act();
            thread::sleep(PAUSE);
            let second = outcome(session.send(envelope(), MESSAGE).await);
            assert_eq!(second, Outcome::NotAttempted, "{words}");
        });
        assert_eq!(server.heard.join().unwrap(), "", "{words}");
    });
}

#[test]
fn a_reply_too_many_answers_nothing() {
    what_was_said_meanwhile_is_read_first("250 stray\r\n");
}

#[test]
fn a_421_between_messages_is_heard() {
    what_was_said_meanwhile_is_read_first("421 too idle\r\n");
}

#[test]
fn a_server_that_has_gone_is_noticed() {
    what_was_said_meanwhile_is_read_first("");
}

/// The timeout of a reply does not run while the application makes the body.
#[test]
fn an_application_may_take_its_time() {
    in_time(|| {
        let pause = timeouts().rcpt + Duration::from_millis(500);
        let server = Server::start(When::AfterMessage, |_| {});
        let mut session = server.blocking();
        let mut transaction = session.begin(envelope()).unwrap();
        thread::sleep(pause);
        transaction.write_all(MESSAGE).unwrap();
        assert!(transaction.finish().unwrap().is_success());

        let server = Server::start(When::AfterMessage, |_| {});
        runtime().block_on(async {
            use tokio::io::AsyncWriteExt;
            let mut session = server.tokio().await;
            let mut transaction = session.begin(envelope()).await.unwrap();
            tokio::time::sleep(pause).await;
            transaction.write_all(MESSAGE).await.unwrap();
            assert!(transaction.finish().await.unwrap().is_success());
        });
    });
}

/// After 354 the connection is reset, before any octet of the body leaves.
#[test]
fn a_body_that_was_not_written_is_not_in_doubt() {
    in_time(|| {
        let reset = |stream: &mut TcpStream| {
            // Without linger, closing resets the connection. Without a reader, nothing keeps the socket open.
            let socket = socket2::SockRef::from(&*stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        };
        let server = Server::start(When::AfterData, reset);
        let mut session = server.blocking();
        let mut transaction = session.begin(envelope()).unwrap();
        server.act();
        server.heard.join().unwrap();
        let _ = transaction.write_all(MESSAGE);
        assert_eq!(outcome(transaction.finish()), Outcome::Transient);

        let server = Server::start(When::AfterData, reset);
        runtime().block_on(async {
            use tokio::io::AsyncWriteExt;
            let mut session = server.tokio().await;
            let mut transaction = session.begin(envelope()).await.unwrap();
            server.act();
            server.heard.join().unwrap();
            let _ = transaction.write_all(MESSAGE).await;
            assert_eq!(outcome(transaction.finish().await), Outcome::Transient);
        });
    });
}

/// A 250 in the middle of a body, which waits for its end: still in the adapter, or partly at the server.
#[test]
fn a_reply_before_the_end_of_the_body_does_not_answer_it() {
    in_time(|| {
        let too_early = |stream: &mut TcpStream| stream.write_all(b"250 taken\r\n").unwrap();
        for size in [1, 100_000] {
            let body = b"x\r\n".repeat(size);
            let server = Server::start(When::AfterData, too_early);
            let mut session = server.blocking();
            let mut transaction = session.begin(envelope()).unwrap();
            transaction.write_all(&body).unwrap();
            server.act();
            thread::sleep(PAUSE);
            assert_eq!(outcome(transaction.finish()), Outcome::Transient);
            drop(session);
            let heard = server.heard.join().unwrap();
            assert!(!heard.contains("\n.\n"), "the body was ended");

            let server = Server::start(When::AfterData, too_early);
            runtime().block_on(async {
                use tokio::io::AsyncWriteExt;
                let mut session = server.tokio().await;
                let mut transaction = session.begin(envelope()).await.unwrap();
                transaction.write_all(&body).await.unwrap();
                server.act();
                thread::sleep(PAUSE);
                assert_eq!(outcome(transaction.finish().await), Outcome::Transient);
            });
            let heard = server.heard.join().unwrap();
            assert!(!heard.contains("\n.\n"), "the body was ended");
        }
    });
}

/// A refusal in the middle of a body is heard before the rest of it goes out.
#[test]
fn a_refused_body_is_not_written_to_its_end() {
    in_time(|| {
        let refuse = |stream: &mut TcpStream| stream.write_all(b"552 too large\r\n").unwrap();
        let part = b"x\r\n".repeat(100_000);
        let server = Server::start(When::AfterData, refuse);
        let mut session = server.blocking();
        let mut transaction = session.begin(envelope()).unwrap();
        transaction.write_all(&part).unwrap();
        server.act();
        thread::sleep(PAUSE);
        let written = (0..100).take_while(|_| transaction.write_all(&part).is_ok());
        assert!(written.count() < 2, "it was not heard");
        assert_eq!(outcome(transaction.finish()), Outcome::Permanent);
        drop(session);
        assert!(server.heard.join().unwrap().len() < 4 * part.len());
    });
}

/// The tokio adapter writes small pieces, for longer than the timeout of a reply.
#[test]
fn a_body_that_is_written_slowly_is_not_late() {
    in_time(|| {
        let server = Server::start(When::AfterMessage, |_| {});
        runtime().block_on(async {
            use tokio::io::AsyncWriteExt;
            let mut session = server.tokio().await;
            let mut transaction = session.begin(envelope()).await.unwrap();
            for octet in MESSAGE {
                transaction.write_all(&[*octet]).await.unwrap();
                transaction.flush().await.unwrap();
                tokio::time::sleep(timeouts().rcpt / 10).await;
            }
            assert!(transaction.finish().await.unwrap().is_success());
        });
    });
}
