//! Bulk delivery by each adapter: all messages over one session, which ends with them.

use std::future::poll_fn;

use futures_core::Stream;
use smtp_proto::{Cause, Envelope, Error, Outcome, Report, Stage};

/// The result of a bulk delivery.
#[derive(Debug)]
pub struct Delivery {
    /// One for each message. Messages that were not submitted are not attempted.
    pub reports: Vec<Report>,
    /// Counted after the session was open.
    pub round_trips: u64,
    /// The session's answer at its end.
    pub overlap_broken: bool,
}

impl Delivery {
    /// Delivers by smtp-blocking.
    pub fn by_blocking(
        mut session: smtp_blocking::Session,
        messages: &[(Envelope, Vec<u8>)],
    ) -> Self {
        let before = session.round_trips();
        let items = messages.iter().map(|(envelope, body)| {
            smtp_blocking::Message::new(envelope.clone(), move || Ok(&body[..]))
        });
        let mut bulk = session.send_all(items).and_quit();
        let mut reports: Vec<_> = bulk.by_ref().collect();
        let rest: Vec<_> = bulk.into_messages().collect();
        let rest = rest.into_iter().map(|message| message.envelope);
        reports.extend(rest.map(|envelope| not_attempted(&envelope, session.end())));
        let round_trips = session.round_trips() - before;
        Self {
            reports,
            round_trips,
            overlap_broken: session.overlap_is_broken(),
        }
    }

    /// Delivers by smtp-tokio.
    pub async fn by_tokio(
        mut session: smtp_tokio::Session,
        messages: &[(Envelope, Vec<u8>)],
    ) -> Self {
        let before = session.round_trips();
        let items = messages.iter().map(|(envelope, body)| {
            smtp_tokio::Message::new(envelope.clone(), move || async move { Ok(&body[..]) })
        });
        let mut bulk = session.send_all(smtp_tokio::iter(items)).and_quit();
        let mut reports = Vec::new();
        while let Some(report) = bulk.next().await {
            reports.push(report);
        }
        let mut rest = bulk.into_messages();
        while let Some(message) = poll_fn(|cx| rest.as_mut().poll_next(cx)).await {
            reports.push(not_attempted(&message.envelope, session.end()));
        }
        drop(rest);
        let round_trips = session.round_trips() - before;
        Self {
            reports,
            round_trips,
            overlap_broken: session.overlap_is_broken(),
        }
    }
}

/// The report of a message that was not submitted, because the session had ended with this error.
pub fn not_attempted(envelope: &Envelope, end: Option<Error>) -> Report {
    let unknown = || Error::new(Stage::Local, Outcome::NotAttempted, Cause::Disconnected);
    let error = end.unwrap_or_else(unknown);
    Report::not_attempted(envelope.clone(), &error)
}

/// A runtime of one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
