//! The time for 4,000 messages of 10 KiB over 4 sessions: by a pool of this project, by lettre's pool, and by four
//! clients of mail-send, which does not have a pool.
//!
//! ```console
//! $ cargo run --release -p smtp-peers --bin pool
//! ```
//!
//! An argument selects the ways whose name contains it. All send to the same server, in its own process. It accepts
//! everything, and delays each of its replies by the round trip time.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lettre::address::Envelope as LettreEnvelope;
use lettre::transport::smtp::PoolConfig;
use lettre::{Address, SmtpTransport, Transport};
use mail_send::SmtpClientBuilder;
use mail_send::smtp::message::Message as MailSendMessage;
use smtp_blocking::{Envelope, Server, TlsPolicy};
use smtp_tests::servers::fast::{PeerProcess, Serving};

const MESSAGES: usize = 4_000;
const SESSIONS: usize = 4;
const FROM: &str = "alice@example.org";
const TO: &str = "bob@example.net";

/// Its name, and a function that sends to a server at this address.
type Way = (&'static str, fn(&str));

fn main() {
    PeerProcess::serve_if_asked();
    println!("seconds for {MESSAGES} messages of 10 KiB over {SESSIONS} sessions, the best of 3\n");
    let delays = [Duration::ZERO, Duration::from_millis(1)];
    println!("{:>32} {:>12} {:>12}", "round trip of", "0 ms", "1 ms");
    let ways: [Way; 8] = [
        ("lettre, pool", lettre),
        ("mail-send, four clients", mail_send),
        ("smtp-blocking, send", blocking_send),
        ("smtp-blocking, send_all", |server| blocking(server, false)),
        ("smtp-blocking, with overlap", |server| {
            blocking(server, true)
        }),
        ("smtp-tokio, send", tokio_send),
        ("smtp-tokio, send_all", |server| tokio_all(server, false)),
        ("smtp-tokio, with overlap", |server| tokio_all(server, true)),
    ];
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, send) in ways {
        if !name.contains(&wanted) {
            continue;
        }
        let times = delays.map(|delay| {
            let time = |_| {
                let peer = PeerProcess::start(&[], delay, Serving::Threads);
                let peer = peer.expect("a process for the server");
                let start = Instant::now();
                send(peer.server());
                start.elapsed()
            };
            (0..3).map(time).min().unwrap_or_default().as_secs_f64()
        });
        println!("{name:>32} {:>12.2} {:>12.2}", times[0], times[1]);
    }
}

fn message() -> Bytes {
    let line = "A line of text, as long as lines of text are in most of the mails there are.\r\n";
    let text = line.repeat(10 * 1024 / line.len());
    Bytes::from(format!("Subject: hello\r\n\r\n{text}"))
}

fn port(server: &str) -> u16 {
    let port = server
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    port.expect("an address")
}

/// Calls it for each message, on as many threads as there are sessions.
fn by_threads(send: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| (0..MESSAGES / SESSIONS).for_each(|_| send()));
        }
    });
}

fn lettre(server: &str) {
    let transport = SmtpTransport::builder_dangerous("127.0.0.1")
        .port(port(server))
        .pool_config(PoolConfig::new().max_size(SESSIONS as u32))
        .build();
    let address = |text: &str| text.parse::<Address>().expect("an address");
    let envelope = LettreEnvelope::new(Some(address(FROM)), vec![address(TO)]);
    let (envelope, message) = (envelope.expect("an envelope"), message());
    by_threads(|| {
        let sent = transport.send_raw(&envelope, &message);
        assert!(sent.expect("a reply").is_positive());
    });
}

fn mail_send(server: &str) {
    let (port, message) = (port(server), message());
    runtime().block_on(async {
        let client = || {
            let message = message.clone();
            async move {
                let client = SmtpClientBuilder::new("127.0.0.1", port).implicit_tls(false);
                let mut client = client.connect_plain().await.expect("a session");
                for _ in 0..MESSAGES / SESSIONS {
                    let message = MailSendMessage::new(FROM, [TO], &message[..]);
                    client.send(message).await.expect("a reply");
                }
                client.quit().await.expect("a goodbye");
            }
        };
        tokio::join!(client(), client(), client(), client())
    });
}

fn server(address: &str, overlap: bool) -> Server {
    Server::new(address).tls(TlsPolicy::Never).overlap(overlap)
}

fn envelope() -> Envelope {
    Envelope::new(FROM, [TO]).expect("an envelope")
}

fn blocking_pool(server: Server) -> smtp_blocking::Pool {
    let pool = smtp_blocking::Pool::new(server).max_messages(u64::MAX);
    pool.max_sessions(SESSIONS)
}

fn tokio_pool(server: Server) -> smtp_tokio::Pool {
    let pool = smtp_tokio::Pool::new(server).max_messages(u64::MAX);
    pool.max_sessions(SESSIONS)
}

fn blocking_send(address: &str) {
    let (pool, message) = (blocking_pool(server(address, false)), message());
    by_threads(|| {
        let report = pool.send(envelope(), &message);
        assert!(report.expect("a report").is_success());
    });
}

fn blocking(address: &str, overlap: bool) {
    let (pool, message) = (blocking_pool(server(address, overlap)), message());
    let messages =
        (0..MESSAGES).map(move |_| smtp_blocking::Message::from_bytes(envelope(), message.clone()));
    let sent = pool
        .send_all(messages)
        .filter(|(_, report)| report.is_success());
    assert_eq!(sent.count(), MESSAGES);
}

fn tokio_send(address: &str) {
    let (pool, message) = (tokio_pool(server(address, false)), message());
    runtime().block_on(async {
        let sender = || async {
            for _ in 0..MESSAGES / SESSIONS {
                let report = pool.send(envelope(), &message).await;
                assert!(report.expect("a report").is_success());
            }
        };
        tokio::join!(sender(), sender(), sender(), sender())
    });
}

fn tokio_all(address: &str, overlap: bool) {
    let (pool, message) = (tokio_pool(server(address, overlap)), message());
    let messages =
        (0..MESSAGES).map(move |_| smtp_tokio::Message::from_bytes(envelope(), message.clone()));
    runtime().block_on(async {
        let (mut reports, mut sent) = (pool.send_all(smtp_tokio::iter(messages)), 0);
        while let Some((_, report)) = reports.next().await {
            sent += usize::from(report.is_success());
        }
        assert_eq!(sent, MESSAGES);
    });
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}
