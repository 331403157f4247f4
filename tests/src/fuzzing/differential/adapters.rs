//! Both adapters, over streams in memory.

use std::future::Future;
use std::io::{self, BufReader, Read, Write};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use smtp_adapter::Error;
use smtp_proto::{Envelope, Protocol, Report};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::MOST_OFFERS;
use super::{Cut, Run, Scene, Server};
use crate::play::bulk::not_attempted;

/// The client's end of a connection to the server.
#[derive(Clone)]
struct Stream {
    server: Arc<Mutex<Server>>,
    cut: Cut,
    /// The server reads only when somebody else says that the client waits.
    waits: bool,
}

impl Stream {
    fn new(scene: &Scene, cut: Cut, waits: bool) -> Self {
        Self {
            server: Arc::new(Mutex::new(Server::new(scene))),
            cut,
            waits,
        }
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().expect("no panic")
    }

    /// What has come; `None` where nothing has.
    fn next(&self, room: usize) -> Option<Vec<u8>> {
        let mut server = self.server();
        (server.has_more() || (!self.waits && server.settle()))
            .then(|| server.take(Cut::of(self.cut.input, room)))
    }

    fn run(&self, reports: Vec<Report>) -> Run {
        let mut server = self.server();
        server.settle();
        Run::new(&server, reports)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = self.next(buffer.len()).unwrap_or_default();
        buffer[..octets.len()].copy_from_slice(&octets);
        Ok(octets.len())
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let taken = Cut::of(self.cut.output, octets.len());
        self.server().write(&octets[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl smtp_blocking::Transport for Stream {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.next(buffer.remaining()) {
            Some(octets) => buffer.put_slice(&octets),
            None if self.server().has_ended() => {}
            None => {
                self.server().client_waits();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().write(octets))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn settings(scene: &Scene) -> smtp_adapter::Server {
    let config = scene.config.clone();
    let server = smtp_adapter::Server::new("mx.example.net")
        .client_name(config.client_name)
        .tls(config.tls)
        .pipelining(config.pipelining)
        .overlap(config.overlap)
        .chunking(config.chunking)
        .chunk_size(config.chunk_size)
        .learn_limits(config.learn_limits)
        .limits(config.limits);
    match config.protocol {
        Protocol::Lmtp => server.lmtp(),
        Protocol::Smtp => server,
    }
}

/// A reader of pieces, so that the adapter does not know the size of the whole.
fn content(body: &[u8]) -> BufReader<&[u8]> {
    BufReader::with_capacity(piece(body), body)
}

fn piece(body: &[u8]) -> usize {
    7.max(body.len() / 64)
}

fn report(envelope: &Envelope, result: Result<Report, Error>) -> Report {
    result.unwrap_or_else(|error| match error.report() {
        Some(report) => report.clone(),
        None => Report::not_attempted(envelope.clone(), error.error()),
    })
}

/// Those that were never submitted.
fn complete(scene: &Scene, reports: &mut Vec<Report>, end: Option<smtp_proto::Error>) {
    for (envelope, _) in scene.messages.iter().skip(reports.len()) {
        reports.push(not_attempted(envelope, end.clone()));
    }
}

pub(super) fn blocking(scene: &Scene, cut: Cut) -> Run {
    let stream = Stream::new(scene, cut, false);
    let mut reports = vec![];
    match smtp_blocking::Session::connect_over(&settings(scene), stream.clone()) {
        Err(error) => complete(scene, &mut reports, Some(error.error().clone())),
        Ok(mut session) if scene.bulk => {
            let messages = scene.messages.iter().map(|(envelope, body)| {
                smtp_blocking::Message::new(envelope.clone(), || Ok(content(body)))
            });
            reports.extend(session.send_all(messages).and_quit());
            complete(scene, &mut reports, session.end());
        }
        Ok(mut session) => {
            for (envelope, body) in &scene.messages {
                let result = session.send(envelope.clone(), content(body));
                reports.push(report(envelope, result));
            }
            session.quit();
        }
    }
    stream.run(reports)
}

pub(super) fn tokio(scene: &Scene, cut: Cut) -> Run {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = crate::play::bulk::runtime();
    }
    let stream = Stream::new(scene, cut, true);
    let client = client(scene, stream.clone());
    let reports = RUNTIME.with(|runtime| runtime.block_on(settling(client, &stream)));
    stream.run(reports)
}

/// Polls the client, and lets the server read whenever the client waits. A client that only gives the others a turn is
/// woken in that turn.
async fn settling<T>(client: impl Future<Output = T>, stream: &Stream) -> T {
    let mut client = pin!(client);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..MOST_OFFERS {
        let polled = client.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(output) = polled {
            return output;
        }
        tokio::task::yield_now().await;
        if !woken.0.swap(false, Ordering::Relaxed) {
            stream.server().settle_if_waited_for();
        }
    }
    panic!("a session without end");
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn client(scene: &Scene, stream: Stream) -> Vec<Report> {
    let mut reports = vec![];
    let mut session = match smtp_tokio::Session::connect_over(&settings(scene), stream).await {
        Ok(session) => session,
        Err(error) => {
            complete(scene, &mut reports, Some(error.error().clone()));
            return reports;
        }
    };
    if scene.bulk {
        let messages = scene.messages.iter().map(|(envelope, body)| {
            smtp_tokio::Message::new(envelope.clone(), move || async move { Ok(reader(body)) })
        });
        let mut bulk = session.send_all(smtp_tokio::iter(messages)).and_quit();
        while let Some(report) = bulk.next().await {
            reports.push(report);
        }
        drop(bulk);
        complete(scene, &mut reports, session.end());
        return reports;
    }
    for (envelope, body) in &scene.messages {
        let result = session.send(envelope.clone(), reader(body)).await;
        reports.push(report(envelope, result));
    }
    session.quit().await;
    reports
}

fn reader(body: &[u8]) -> tokio::io::BufReader<&[u8]> {
    tokio::io::BufReader::with_capacity(piece(body), body)
}
