//! An application that does anything, against a server that does anything. Each session is recorded. The record must
//! replay, must have what the server has heard, and must not have the password.

use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::io::{self, BufReader, Read, Write};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_blocking::Transport;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::engine::random::Random;
use super::replay::{Tape, replay};
use crate::transcript::{Action, Transcript};
use server::Server;
use settings::{PASSWORD, Reader, USER, body, envelope, request};

mod server;
mod settings;

/// Plays the conversation of this number with the blocking adapter.
///
/// # Errors
/// The record is not true, with all of it.
pub fn play_blocking(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let play = Play::new(&mut random, seed);
    let server = play.tape_server();
    if let Ok(session) = smtp_blocking::Session::connect_over(&server, Wire::new(&play.server)) {
        act(session, &mut random);
    }
    drop(server);
    play.judge(seed)
}

/// The same with the tokio adapter, whose futures may be dropped at any await. The time of the runtime is paused.
///
/// # Errors
/// As [`play_blocking`].
pub fn play_tokio(seed: u64, runtime: &tokio::runtime::Runtime) -> Result<(), String> {
    let mut random = Random::new(seed);
    let play = Play::new(&mut random, seed);
    let server = play.tape_server();
    let wire = Wire::new(&play.server);
    runtime.block_on(async {
        let fuse = Fuse::new(&mut random);
        let session = fuse
            .run(smtp_tokio::Session::connect_over(&server, wire))
            .await;
        if let Some(Ok(session)) = session {
            act_async(session, &mut random).await;
        }
    });
    drop(server);
    play.judge(seed)
}

struct Play {
    server: Arc<Mutex<Server>>,
    settings: smtp_adapter::Server,
    tape: Tape,
    shows_bodies: bool,
}

impl Play {
    fn new(random: &mut Random, seed: u64) -> Self {
        let is_lmtp = random.one_in(4);
        let (settings, mechanisms) = settings::server(random, is_lmtp);
        Self {
            server: Arc::new(Mutex::new(Server::new(seed ^ 0xabcd, is_lmtp, mechanisms))),
            settings,
            tape: Tape::default(),
            shows_bodies: random.one_in(2),
        }
    }

    fn tape_server(&self) -> smtp_adapter::Server {
        let server = self.settings.clone().record(self.tape.recorder());
        server.record_bodies(self.shows_bodies)
    }

    fn judge(self, seed: u64) -> Result<(), String> {
        let records = self.tape.records();
        let record = match &records[..] {
            [record] => record,
            // It was given up before it began.
            [] if lock(&self.server).heard.is_empty() => return Ok(()),
            _ => return Err(format!("{} records", records.len())),
        };
        let failure = |message: String| format!("{message}\n{record}");
        replay(&format!("seed-{seed}"), record).map_err(|error| failure(error.to_string()))?;
        for secret in needles() {
            if record.contains(&secret) {
                return Err(failure(format!("{secret} is in the record")));
            }
        }
        if self.shows_bodies {
            is_heard(record, &lock(&self.server).heard).map_err(failure)?;
        }
        Ok(())
    }
}

/// What the server has heard is the beginning of what the client has said, by its record with bodies.
///
/// # Errors
/// The first line that is not the same.
pub fn is_heard(record: &str, heard: &[u8]) -> Result<(), String> {
    let transcript = Transcript::parse("it", record).map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    for step in &transcript.steps {
        if let Action::Client(octets) = &step.action {
            said.extend(octets);
        }
    }
    let lines = |octets: &[u8]| -> Vec<Vec<u8>> {
        octets
            .split_inclusive(|&octet| octet == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mut said = lines(&said).into_iter();
    for line in lines(heard) {
        let recorded = said.next().unwrap_or_default();
        let is_same = match recorded.strip_suffix(b"****\r\n") {
            Some(start) => line.starts_with(start) || start.starts_with(&line),
            None if line.ends_with(b"\n") => line == recorded,
            None => recorded.starts_with(&line),
        };
        if !is_same {
            let (line, recorded) = (line.escape_ascii(), recorded.escape_ascii());
            return Err(format!(
                "the server has heard `{line}`, and the record has `{recorded}`"
            ));
        }
    }
    Ok(())
}

fn needles() -> Vec<String> {
    let mut needles = vec![PASSWORD.to_owned(), PASSWORD[4..12].to_owned()];
    for before in 0..3 {
        let text = [&b"\0\0"[..before], PASSWORD.as_bytes()].concat();
        let encoded = STANDARD.encode(&text);
        let (start, end) = ((before * 8).div_ceil(6), text.len() * 8 / 6);
        needles.push(encoded[start..end].to_owned());
    }
    needles.push(STANDARD.encode(format!("\0{USER}\0{PASSWORD}")));
    needles
}

fn act(mut session: smtp_blocking::Session, random: &mut Random) {
    for _ in 0..random.up_to(5) {
        let body = body(random);
        let envelope = envelope(random, &body);
        match random.below(9) {
            0 | 1 => drop(session.send(envelope, &body)),
            2 => {
                let reader = Reader::new(random, body);
                drop(session.send(envelope, BufReader::with_capacity(random.up_to(50), reader)));
            }
            3 => drop(session.send_last(envelope, &body)),
            4 => bulk(&mut session, random),
            5 | 6 => {
                let Ok(mut transaction) = session.begin(envelope) else {
                    continue;
                };
                let mut rest = &body[..];
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at(random.up_to(rest.len()));
                    if transaction.write_all(piece).is_err() {
                        break;
                    }
                    rest = tail;
                    if random.one_in(4) {
                        drop(transaction.flush());
                    }
                }
                match random.below(6) {
                    0 => drop(transaction),
                    1 => std::mem::forget(transaction),
                    _ => drop(transaction.finish()),
                }
            }
            7 => drop(session.request(request(random))),
            _ if random.one_in(3) => return session.quit(),
            _ => drop(session.is_usable()),
        }
    }
    if random.one_in(2) {
        session.quit();
    }
}

fn bulk(session: &mut smtp_blocking::Session, random: &mut Random) {
    let messages: Vec<_> = (0..random.below(5))
        .map(|_| {
            let body = body(random);
            let envelope = envelope(random, &body);
            let mut seeds = random.clone();
            random.below(2);
            let fails = random.one_in(10);
            smtp_blocking::Message::new(envelope, move || match fails {
                true => Err(io::Error::other("no such\nfile")),
                false => {
                    let reader = Reader::new(&mut seeds.clone(), body.clone());
                    Ok(BufReader::with_capacity(seeds.up_to(50), reader))
                }
            })
        })
        .collect();
    let mut bulk = session.send_all(messages);
    if random.one_in(3) {
        bulk = bulk.and_quit();
    }
    let most = if random.one_in(3) {
        random.below(3)
    } else {
        99
    };
    let _ = bulk.by_ref().take(most).count();
    if random.one_in(10) {
        std::mem::forget(bulk);
    }
}

async fn act_async(mut session: smtp_tokio::Session, random: &mut Random) {
    for _ in 0..random.up_to(5) {
        let fuse = Fuse::new(random);
        let body = body(random);
        let envelope = envelope(random, &body);
        match random.below(9) {
            0 | 1 => drop(fuse.run(session.send(envelope, &body)).await),
            2 => {
                let reader = Reader::new(random, body);
                let reader = tokio::io::BufReader::with_capacity(random.up_to(50), reader);
                drop(fuse.run(session.send(envelope, reader)).await);
            }
            3 => drop(fuse.run(session.send_last(envelope, &body)).await),
            4 => bulk_async(&mut session, random).await,
            5 | 6 => {
                let Some(Ok(mut transaction)) = fuse.run(session.begin(envelope)).await else {
                    continue;
                };
                let mut rest = &body[..];
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at(random.up_to(rest.len()));
                    let fuse = Fuse::new(random);
                    match fuse.run(transaction.write(piece)).await {
                        Some(Ok(used)) => rest = &rest[used..],
                        Some(Err(_)) => break,
                        None => rest = tail,
                    }
                    if random.one_in(4) {
                        drop(fuse.run(transaction.flush()).await);
                    }
                }
                match random.below(6) {
                    0 => drop(transaction),
                    1 => std::mem::forget(transaction),
                    _ => drop(Fuse::new(random).run(transaction.finish()).await),
                }
            }
            7 => drop(fuse.run(session.request(request(random))).await),
            _ if random.one_in(3) => {
                fuse.run(session.quit()).await;
                return;
            }
            _ => drop(fuse.run(session.is_usable()).await),
        }
    }
    if random.one_in(2) {
        session.quit().await;
    }
}

async fn bulk_async(session: &mut smtp_tokio::Session, random: &mut Random) {
    let messages: Vec<_> = (0..random.below(5))
        .map(|_| {
            let body = body(random);
            let envelope = envelope(random, &body);
            let seeds = random.clone();
            random.below(2);
            let fails = random.one_in(10);
            smtp_tokio::Message::new(envelope, move || {
                let (body, mut seeds) = (body.clone(), seeds.clone());
                async move {
                    match fails {
                        true => Err(io::Error::other("no such\nfile")),
                        false => {
                            let reader = Reader::new(&mut seeds, body);
                            let capacity = seeds.up_to(50);
                            Ok(tokio::io::BufReader::with_capacity(capacity, reader))
                        }
                    }
                }
            })
        })
        .collect();
    let mut bulk = session.send_all(smtp_tokio::iter(messages));
    if random.one_in(3) {
        bulk = bulk.and_quit();
    }
    let most = if random.one_in(3) {
        random.below(3)
    } else {
        99
    };
    for _ in 0..most {
        let fuse = Fuse::new(random);
        if let Some(None) = fuse.run(bulk.next()).await {
            break;
        }
    }
    if random.one_in(10) {
        std::mem::forget(bulk);
    }
}

/// Drops a future after so many waits.
struct Fuse(usize);

impl Fuse {
    fn new(random: &mut Random) -> Self {
        Self(if random.one_in(5) {
            random.below(12)
        } else {
            usize::MAX
        })
    }

    async fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut left = self.0;
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        })
        .await
    }
}

/// The way to the server, for both adapters.
struct Wire {
    server: Arc<Mutex<Server>>,
    timeout: Mutex<(Duration, bool)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    fn new(server: &Arc<Mutex<Server>>) -> Self {
        Self {
            server: Arc::clone(server),
            timeout: Mutex::new((Duration::MAX, false)),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match lock(&self.server).take(out)? {
            Some(count) => Ok(count),
            None => {
                let (timeout, is_nonblocking) = *lock(&self.timeout);
                if !is_nonblocking {
                    thread::sleep(timeout.min(Duration::from_millis(50)));
                }
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        lock(&self.server).put(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Wire {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        lock(&self.timeout).0 = timeout;
        Ok(())
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<bool> {
        lock(&self.timeout).1 = nonblocking;
        Ok(true)
    }
}

fn woken<T>(cx: &Context<'_>, result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        result => Poll::Ready(result),
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut server = lock(&self.server);
        let mut out = vec![0; buffer.remaining()];
        match server.take(&mut out) {
            Ok(None) => {
                server.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            taken => woken(cx, taken).map_ok(|count| {
                buffer.put_slice(&out[..count.unwrap_or_default()]);
            }),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let put = lock(&self.server).put(octets);
        woken(cx, put)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The failures of many conversations, for people.
pub fn list(failures: &[(u64, String)]) -> String {
    let mut out = String::new();
    for (seed, failure) in failures {
        let _ = writeln!(out, "\nseed {seed}: {failure}");
    }
    out
}
