//! Bulk delivery by each adapter: all messages over one session, which ends with them.

use smtp_proto::{Envelope, Report};

/// What a bulk delivery came to.
#[derive(Debug)]
pub struct Delivery {
    /// One for each message.
    pub reports: Vec<Report>,
    /// After the session was open.
    pub round_trips: u64,
    /// As the session said at its end.
    pub overlap_broken: bool,
}

impl Delivery {
    /// By smtp-blocking.
    pub fn by_blocking(
        mut session: smtp_blocking::Session,
        messages: &[(Envelope, Vec<u8>)],
    ) -> Self {
        let before = session.round_trips();
        let items = messages.iter().map(|(envelope, body)| {
            smtp_blocking::Message::new(envelope.clone(), move || Ok(&body[..]))
        });
        let reports = session.send_all(items).and_quit().collect();
        let round_trips = session.round_trips() - before;
        Self {
            reports,
            round_trips,
            overlap_broken: session.overlap_is_broken(),
        }
    }

    /// By smtp-tokio.
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
        drop(bulk);
        let round_trips = session.round_trips() - before;
        Self {
            reports,
            round_trips,
            overlap_broken: session.overlap_is_broken(),
        }
    }
}

/// A runtime of one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
