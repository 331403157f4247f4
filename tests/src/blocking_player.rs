//! Plays a transcript against the blocking adapter.
//!
//! Three things look different from here, and are translated:
//!
//! - A message that is begun when the session is over has no report, only the session's error: that must
//!   be one of a message that was not attempted.
//! - The end of a session is seen by trying one more message.
//! - What the adapter has gathered of a body that turns out to be forbidden is not sent at all.

use std::io::BufReader;
use std::net::TcpStream;
use std::sync::mpsc::Receiver;

use smtp_blocking::{Connector, Session};
use smtp_proto::{Cause, Error, Misuse, Report};

use crate::scripted::{self, Cue, End, Traces, Way, connector_of, not_attempted, report};
use crate::transcript::{Failure, Message, Observed, Transcript};

/// Plays a transcript, and checks all that it expects.
///
/// # Errors
/// The first difference: in what the client says to the server, or in what it reports.
pub fn play(transcript: &Transcript, way: Way) -> Result<(), Failure> {
    scripted::play(transcript, End::Whole, |socket, cues| run_client(transcript, socket, way, cues))
}

fn run_client(
    transcript: &Transcript,
    socket: TcpStream,
    way: Way,
    cues: &Receiver<Cue>,
) -> Result<Observed, Failure> {
    let traces = Traces::default();
    let connector = connector_of!(Connector, transcript).observe(traces.observer());
    let mut observed = Observed::default();
    match connector.connect_over(socket) {
        Err(error) => {
            let error = error.error();
            observed.reports = transcript.messages.iter().map(|m| Some(not_attempted(m, error))).collect();
            observed.closed = Some(Err(error.clone()));
        }
        Ok(session) => {
            observed.ready = true;
            let reports = &mut observed.reports;
            let session = match (transcript.is_cued(), way) {
                (true, _) => send_when_told(transcript, session, cues, reports),
                (false, Way::OneByOne) => send_one_by_one(transcript, session, reports),
                (false, Way::Bulk) => Some(send_bulk(transcript, session, reports)),
            };
            observed.overlap_broken = session.as_ref().is_some_and(Session::overlap_is_broken);
            observed.closed = session.map_or(Some(Ok(())), end);
        }
    }
    traces.check(transcript, observed)
}

type Reports = Vec<Option<Report>>;

/// Sends each message when the one before is decided, and quits with the last. Returns the session,
/// unless there was no message, and it went with its quit.
fn send_one_by_one(transcript: &Transcript, mut session: Session, reports: &mut Reports) -> Option<Session> {
    let Some((last, rest)) = transcript.messages.split_last() else {
        session.quit();
        return None;
    };
    for message in rest {
        let result = session.send(message.envelope.clone(), content(message));
        reports.push(Some(report(message, result)));
    }
    let result = session.send_last(last.envelope.clone(), content(last));
    reports.push(Some(report(last, result)));
    Some(session)
}

fn send_bulk(transcript: &Transcript, mut session: Session, reports: &mut Reports) -> Session {
    let messages = transcript
        .messages
        .iter()
        .map(|message| smtp_blocking::Message::new(message.envelope.clone(), || Ok(content(message))));
    reports.extend(session.send_all(messages).and_quit().map(Some));
    session
}

/// Sends when the conversation comes to it. Returns the session, unless it went with its quit.
fn send_when_told(
    transcript: &Transcript,
    mut session: Session,
    cues: &Receiver<Cue>,
    reports: &mut Reports,
) -> Option<Session> {
    let mut messages = transcript.messages.iter();
    for cue in cues {
        match cue {
            Cue::Submit => {
                let Some(message) = messages.next() else { continue };
                let result = session.send(message.envelope.clone(), content(message));
                reports.push(Some(report(message, result)));
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

/// A reader of pieces so small that the dots and line ends of the body are cut apart.
fn content(message: &Message) -> BufReader<&[u8]> {
    BufReader::with_capacity(7, &message.body)
}

/// How the session has ended, if it has.
fn end(mut session: Session) -> Option<Result<(), Error>> {
    if session.is_usable() {
        return None;
    }
    match session.transaction("a@example.org", ["b@example.net"]).map(drop) {
        // It was we who ended it.
        Err(error) if *error.cause() == Cause::Misuse(Misuse::Closed) => Some(Ok(())),
        Err(error) => Some(Err(error.error().clone())),
        Ok(()) => None,
    }
}
