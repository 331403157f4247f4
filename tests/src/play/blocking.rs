//! Plays a transcript against the blocking adapter.
//!
//! Three things differ here, and are translated:
//!
//! - A message or a request that begins after the end of the session has no report, only the session's error. It must
//!   be the error of a message that was not attempted.
//! - The end of a session is found by one more request. A message would only be *not attempted*.
//! - Gathered octets of a forbidden body are not sent at all.

use std::io::BufReader;
use std::sync::mpsc::Receiver;

use smtp_blocking::{Session, Transport};
use smtp_proto::error::Misuse;
use smtp_proto::{Cause, Error, Request};

use crate::play::bulk::not_attempted;
use crate::play::scripted::{self, Cue, End, Traces, Way, not_asked, report, server_of};
use crate::transcript::{Failure, Job, Message, Observed, Transcript};

/// Plays a transcript, and checks all that it expects.
///
/// # Errors
/// The first difference, in the client's octets or in its reports.
pub fn play(transcript: &Transcript, way: Way) -> Result<(), Failure> {
    scripted::play(transcript, End::Whole, |socket, cues| {
        run_client(transcript, socket, way, cues, &Traces::default())
    })
}

/// The same, with a record that is played again when the session is over.
///
/// # Errors
/// As [`play`], and what the two differ in.
pub fn play_recorded(transcript: &Transcript, way: Way) -> Result<(), Failure> {
    scripted::play(transcript, End::Whole, |socket, cues| {
        run_client(transcript, socket, way, cues, &Traces::recorded())
    })
}

/// The client, over this stream.
pub(crate) fn run_client(
    transcript: &Transcript,
    stream: impl Transport + 'static,
    way: Way,
    cues: &Receiver<Cue>,
    traces: &Traces,
) -> Result<Observed, Failure> {
    let server = traces.watch(server_of(transcript)?);
    let mut observed = Observed::default();
    match Session::connect_over(&server, stream) {
        Err(error) => {
            observed = Observed::unopened(transcript, error.error());
        }
        Ok(session) => {
            observed.ready = true;
            let session = match (transcript.is_cued(), way) {
                (true, _) => send_when_told(transcript, session, cues, &mut observed),
                (false, Way::OneByOne) => send_one_by_one(transcript, session, &mut observed),
                (false, Way::Bulk) => Some(send_bulk(transcript, session, &mut observed)),
            };
            observed.overlap_broken = session.as_ref().is_some_and(Session::overlap_is_broken);
            observed.closed = session.map_or(Some(Ok(())), end);
        }
    }
    traces.check(transcript, observed)
}

/// Sends each message after the one before is decided, and quits with the last. Returns the session, unless quit has
/// consumed it.
fn send_one_by_one(
    transcript: &Transcript,
    mut session: Session,
    observed: &mut Observed,
) -> Option<Session> {
    for (index, job) in transcript.jobs.iter().enumerate() {
        match *job {
            Job::Message(message) if index + 1 == transcript.jobs.len() => {
                let message = &transcript.messages[message];
                let result = session.send_last(message.envelope.clone(), content(message));
                observed.reports.push(Some(report(message, result)));
                return Some(session);
            }
            job => submit(transcript, &mut session, job, observed),
        }
    }
    quit(session)
}

fn submit(transcript: &Transcript, session: &mut Session, job: Job, observed: &mut Observed) {
    match job {
        Job::Message(index) => {
            let message = &transcript.messages[index];
            let result = session.send(message.envelope.clone(), content(message));
            observed.reports.push(Some(report(message, result)));
        }
        Job::Request(index) => {
            let answer = ask(session, transcript.requests[index].clone());
            observed.answers.push(answer);
        }
    }
}

fn ask(session: &mut Session, request: Request) -> Option<Result<smtp_proto::Reply, Error>> {
    let usable = session.is_usable();
    match session.request(request) {
        Err(error) if !usable => not_asked(error.error()),
        result => Some(result.map_err(|error| error.error().clone())),
    }
}

/// Returns the session if it had ended before.
fn quit(mut session: Session) -> Option<Session> {
    if session.is_usable() {
        session.quit();
        return None;
    }
    Some(session)
}

fn send_bulk(transcript: &Transcript, mut session: Session, observed: &mut Observed) -> Session {
    let messages = transcript.messages.iter().map(|message| {
        smtp_blocking::Message::new(message.envelope.clone(), || Ok(content(message)))
    });
    let reports: Vec<_> = session.send_all(messages).and_quit().collect();
    observed.reports.extend(reports.into_iter().map(Some));
    let rest = transcript.messages.iter().skip(observed.reports.len());
    let rest = rest.map(|message| Some(not_attempted(&message.envelope, session.end())));
    observed.reports.extend(rest);
    session
}

/// Sends when the conversation demands it. Returns the session, unless quit has consumed it.
fn send_when_told(
    transcript: &Transcript,
    mut session: Session,
    cues: &Receiver<Cue>,
    observed: &mut Observed,
) -> Option<Session> {
    let mut jobs = transcript.jobs.iter();
    for cue in cues {
        match cue {
            Cue::Submit => {
                let Some(&job) = jobs.next() else { continue };
                submit(transcript, &mut session, job, observed);
            }
            Cue::Quit if session.is_usable() => {
                session.quit();
                return None;
            }
            Cue::Quit => {}
        }
    }
    Some(session)
}

/// A reader of small pieces, so that dots and line ends of the body are cut apart.
fn content(message: &Message) -> BufReader<&[u8]> {
    BufReader::with_capacity(7, &message.body)
}

/// How the session has ended. `None` if it has not.
fn end(mut session: Session) -> Option<Result<(), Error>> {
    if session.is_usable() {
        return None;
    }
    match session.end()? {
        // The client has ended it.
        error if error.cause == Cause::Misuse(Misuse::Closed) => Some(Ok(())),
        error => Some(Err(error)),
    }
}
