//! Plays a transcript against the tokio adapter, and again with each of its awaits cancelled.
//!
//! What looks different from here than from the engine is translated as in
//! [`blocking_player`](crate::play::blocking).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::TcpStream;
use std::pin::pin;
use std::sync::mpsc::Receiver;
use std::task::Poll;

use smtp_proto::error::Misuse;
use smtp_proto::{Cause, Error, Outcome};
use smtp_tokio::Session;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};

use crate::play::bulk::not_attempted;
use crate::play::scripted::{self, Cue, End, Traces, Way, not_asked, report, server_of};
use crate::transcript::{Failure, Job, Message, Observed, Transcript};

/// Plays a transcript, and checks all that it expects.
///
/// # Errors
/// The first difference, in the client's octets or in its reports.
pub fn play(transcript: &Transcript, way: Way) -> Result<(), Failure> {
    scripted::play(transcript, End::Whole, |socket, cues| {
        run_client(transcript, socket, way, cues, &Extra::default())
    })
}

/// The same, with a record that is played again when the session is over.
///
/// # Errors
/// As [`play`], and what the two differ in.
pub fn play_recorded(transcript: &Transcript, way: Way) -> Result<(), Failure> {
    let extra = Extra {
        traces: Traces::recorded(),
        ..Extra::default()
    };
    scripted::play(transcript, End::Whole, |socket, cues| {
        run_client(transcript, socket, way, cues, &extra)
    })
}

/// Plays a transcript in bulk, and drops the future of each report whenever it waits. That must not change anything.
///
/// # Errors
/// As [`play`].
pub fn play_with_dropped_futures(transcript: &Transcript) -> Result<(), Failure> {
    let extra = Extra {
        drop_futures: true,
        ..Extra::default()
    };
    scripted::play(transcript, End::Whole, |socket, cues| {
        run_client(transcript, socket, Way::Bulk, cues, &extra)
    })
}

/// Plays a transcript repeatedly, and cancels another one of its awaits each time. The session must then be closed,
/// and say so. The server must have received the beginning of the expected octets. Returns the number of awaits.
///
/// # Errors
/// Any other observation.
pub fn play_with_each_await_cancelled(transcript: &Transcript) -> Result<usize, Failure> {
    for awaits in 0.. {
        // Every second session is recorded and replayed, unless it depends on a secret.
        let traces = match transcript.config.credentials {
            None if awaits % 2 == 1 => Traces::recorded(),
            _ => Traces::default(),
        };
        let extra = Extra {
            fuse: Fuse::after(awaits),
            traces,
            drop_futures: false,
        };
        scripted::play(transcript, End::Anywhere, |socket, cues| {
            run_client(transcript, socket, Way::OneByOne, cues, &extra)
        })?;
        if !extra.fuse.is_blown() {
            return Ok(awaits);
        }
    }
    Ok(0)
}

/// What is special in one play.
#[derive(Default)]
struct Extra {
    fuse: Fuse,
    drop_futures: bool,
    traces: Traces,
}

/// Cancels one await of many.
#[derive(Default)]
struct Fuse {
    /// How many awaits come before the cancelled one.
    left: Cell<Option<usize>>,
    blown: Cell<bool>,
}

impl Fuse {
    fn after(awaits: usize) -> Self {
        Self {
            left: Cell::new(Some(awaits)),
            blown: Cell::new(false),
        }
    }

    fn is_blown(&self) -> bool {
        self.blown.get()
    }

    /// The future's output, or `None` if it was dropped while it waited.
    async fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|cx| match (future.as_mut().poll(cx), self.left.get()) {
            (Poll::Ready(output), _) => Poll::Ready(Some(output)),
            (Poll::Pending, Some(0)) => {
                self.left.set(None);
                self.blown.set(true);
                Poll::Ready(None)
            }
            (Poll::Pending, left) => {
                self.left.set(left.map(|left| left - 1));
                Poll::Pending
            }
        })
        .await
    }
}

fn run_client(
    transcript: &Transcript,
    socket: TcpStream,
    way: Way,
    cues: &Receiver<Cue>,
    extra: &Extra,
) -> Result<Observed, Failure> {
    let unusable = |error: std::io::Error| transcript.failure(1, format!("no runtime: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(unusable)?;
    runtime.block_on(async {
        socket.set_nonblocking(true).map_err(unusable)?;
        let stream = tokio::net::TcpStream::from_std(socket).map_err(unusable)?;
        run_over(transcript, stream, way, cues, extra).await
    })
}

/// The client, over this stream.
pub(crate) async fn converse<S>(
    transcript: &Transcript,
    stream: S,
    way: Way,
    cues: &Receiver<Cue>,
    traces: Traces,
) -> Result<Observed, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let extra = Extra {
        traces,
        ..Extra::default()
    };
    run_over(transcript, stream, way, cues, &extra).await
}

async fn run_over<S>(
    transcript: &Transcript,
    stream: S,
    way: Way,
    cues: &Receiver<Cue>,
    extra: &Extra,
) -> Result<Observed, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Extra {
        fuse,
        drop_futures,
        traces,
    } = extra;
    let server = traces.watch(server_of(transcript)?);
    let mut observed = Observed::default();
    match fuse.run(Session::connect_over(&server, stream)).await {
        None => {}
        Some(Err(error)) => {
            observed = Observed::unopened(transcript, error.error());
        }
        Some(Ok(session)) => {
            observed.ready = true;
            let to = &mut observed;
            let session = match (transcript.is_cued(), way) {
                (true, _) => send_when_told(transcript, session, cues, to, fuse).await?,
                (false, Way::OneByOne) => send_one_by_one(transcript, session, to, fuse).await?,
                (false, Way::Bulk) => Some(send_bulk(transcript, session, to, *drop_futures).await),
            };
            observed.overlap_broken = session.as_ref().is_some_and(Session::overlap_is_broken);
            observed.closed = match session {
                Some(session) => end(session).await,
                None => Some(Ok(())),
            };
        }
    }
    traces.check(transcript, observed)
}

/// Sends each message after the one before is decided, and quits with the last. Returns the session, unless quit has
/// consumed it.
async fn send_one_by_one(
    transcript: &Transcript,
    mut session: Session,
    observed: &mut Observed,
    fuse: &Fuse,
) -> Result<Option<Session>, Failure> {
    for (index, job) in transcript.jobs.iter().enumerate() {
        match *job {
            Job::Message(message) if index + 1 == transcript.jobs.len() => {
                let message = &transcript.messages[message];
                loop {
                    match fuse
                        .run(session.send_last(message.envelope.clone(), content(message)))
                        .await
                    {
                        Some(result) => observed.reports.push(Some(report(message, result))),
                        None if session.is_usable().await => continue,
                        None => must_be_closed(transcript, &mut session).await?,
                    }
                    return Ok(Some(session));
                }
            }
            job => submit(transcript, &mut session, job, observed, fuse).await?,
        }
    }
    if session.is_usable().await {
        fuse.run(session.quit()).await;
        return Ok(None);
    }
    Ok(Some(session))
}

async fn submit(
    transcript: &Transcript,
    session: &mut Session,
    job: Job,
    observed: &mut Observed,
    fuse: &Fuse,
) -> Result<(), Failure> {
    match job {
        Job::Message(index) => {
            let message = &transcript.messages[index];
            loop {
                match fuse
                    .run(session.send(message.envelope.clone(), content(message)))
                    .await
                {
                    Some(result) => observed.reports.push(Some(report(message, result))),
                    // Nothing of it was sent. The future was dropped while it read earlier input.
                    None if session.is_usable().await => continue,
                    None => must_be_closed(transcript, session).await?,
                }
                break;
            }
        }
        Job::Request(index) => {
            let usable = session.is_usable().await;
            match fuse
                .run(session.request(transcript.requests[index].clone()))
                .await
            {
                Some(Err(error)) if !usable => observed.answers.push(not_asked(error.error())),
                Some(result) => observed
                    .answers
                    .push(Some(result.map_err(|error| error.error().clone()))),
                // It may be sent again. Half a wait for an answer does no harm, unlike half a message.
                None => observed.answers.push(None),
            }
        }
    }
    Ok(())
}

/// After a dropped future that had begun to send, the session must be closed, and give the reason.
async fn must_be_closed(transcript: &Transcript, session: &mut Session) -> Result<(), Failure> {
    match session
        .transaction("a@example.org", ["b@example.net"])
        .await
        .map(drop)
    {
        Err(error) if error.outcome() == Outcome::NotAttempted => Ok(()),
        Err(error) => {
            Err(transcript.failure(1, format!("a closed session attempts a message: {error}")))
        }
        Ok(()) => Err(transcript.failure(1, "a closed session begins a transaction".into())),
    }
}

async fn send_bulk(
    transcript: &Transcript,
    mut session: Session,
    observed: &mut Observed,
    drop_futures: bool,
) -> Session {
    let messages = transcript.messages.iter().map(|message| {
        smtp_tokio::Message::new(message.envelope.clone(), move || async move {
            Ok(content(message))
        })
    });
    let mut bulk = session.send_all(smtp_tokio::iter(messages)).and_quit();
    loop {
        let next = match drop_futures {
            false => bulk.next().await,
            // Each poll has a new future.
            true => poll_fn(|cx| pin!(bulk.next()).poll(cx)).await,
        };
        match next {
            Some(report) => observed.reports.push(Some(report)),
            None => break,
        }
    }
    drop(bulk);
    let rest = transcript.messages.iter().skip(observed.reports.len());
    let rest = rest.map(|message| Some(not_attempted(&message.envelope, session.end())));
    observed.reports.extend(rest);
    session
}

/// Sends when the conversation demands it. Returns the session, unless quit has consumed it.
async fn send_when_told(
    transcript: &Transcript,
    mut session: Session,
    cues: &Receiver<Cue>,
    observed: &mut Observed,
    fuse: &Fuse,
) -> Result<Option<Session>, Failure> {
    let mut jobs = transcript.jobs.iter();
    for cue in cues {
        match cue {
            Cue::Submit => {
                let Some(&job) = jobs.next() else { continue };
                submit(transcript, &mut session, job, observed, fuse).await?;
            }
            Cue::Quit if session.is_usable().await => {
                fuse.run(session.quit()).await;
                return Ok(None);
            }
            Cue::Quit => {}
        }
    }
    Ok(Some(session))
}

/// A reader of small pieces, so that dots and line ends of the body are cut apart.
fn content(message: &Message) -> BufReader<&[u8]> {
    BufReader::with_capacity(7, &message.body)
}

/// How the session has ended. `None` if it has not.
async fn end(mut session: Session) -> Option<Result<(), Error>> {
    if session.is_usable().await {
        return None;
    }
    match session.end()? {
        // The client has ended it.
        error if error.cause == Cause::Misuse(Misuse::Closed) => Some(Ok(())),
        error => Some(Err(error)),
    }
}
