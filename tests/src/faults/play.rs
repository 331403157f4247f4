//! Plays a transcript over the wire, by each adapter.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp_proto::Report;
use tokio::runtime::Runtime;

use super::ledger::Ledger;
use super::stream::{Async, Blocking};
use super::wire::{Faults, SharedWire, Wire};
use crate::play::scripted::{Traces, Way};
use crate::play::{blocking, tokio as over_tokio};
use crate::transcript::{Failure, Observed, Transcript};

/// The adapter that plays the client.
#[derive(Clone, Copy, Debug)]
pub enum Adapter<'r> {
    /// `smtp-blocking`.
    Blocking,
    /// `smtp-tokio`, in a runtime whose time is paused.
    Tokio(&'r Runtime),
}

/// How a transcript was played.
#[derive(Debug)]
pub struct Played {
    /// What the application saw.
    pub observed: Observed,
    /// Octets on the wire that the client has read and written.
    pub wire: (u64, u64),
    /// Octets in clear that the server has, and that have reached the client.
    pub clear: (u64, u64),
    /// How long it took, where the time is virtual.
    pub took: Option<Duration>,
    /// The server was not played to its end: it waited at this line.
    pub unplayed: Option<usize>,
}

/// Plays a transcript with these faults.
///
/// # Errors
/// The client sends what the transcript does not have, or shows a secret.
pub fn play(
    transcript: &Arc<Transcript>,
    ledger: &Ledger,
    adapter: Adapter<'_>,
    way: Way,
    faults: Faults,
) -> Result<Played, Failure> {
    let (sender, cues) = mpsc::channel();
    let mut wire = Wire::new(Arc::clone(transcript), faults, sender);
    wire.cuts_reads = !ledger.is_odd && !transcript.is_cued();
    let wire: SharedWire = Arc::new(Mutex::new(wire));
    let shared = Arc::clone(&wire);
    let mut took = None;
    // About half of all sessions are recorded. A session that depended on a secret cannot be replayed.
    let is_recorded = (transcript.name.len() + way as usize).is_multiple_of(2);
    let traces = match transcript.config.credentials {
        None if is_recorded => Traces::recorded(),
        _ => Traces::default(),
    };
    let observed = match adapter {
        Adapter::Blocking => {
            let stream = Blocking {
                wire: shared,
                until: None,
            };
            blocking::run_client(transcript, stream, way, &cues, &traces)?
        }
        Adapter::Tokio(runtime) => {
            let stream = Async {
                wire: shared,
                sleep: None,
            };
            runtime.block_on(async {
                let began = tokio::time::Instant::now();
                let observed = over_tokio::converse(transcript, stream, way, &cues, traces).await;
                took = Some(began.elapsed());
                observed
            })?
        }
    };
    let wire = wire.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((line, message)) = &wire.failure {
        return Err(transcript.failure(*line, message.clone()));
    }
    Ok(Played {
        observed,
        wire: (wire.read, wire.written),
        clear: (wire.got, wire.delivered()),
        took,
        unplayed: wire.unplayed(),
    })
}

impl Played {
    /// What the books of the server do not allow.
    pub fn untrue(&self, ledger: &Ledger, is_exact: bool) -> Option<String> {
        let reports = self.observed.reports.iter().enumerate();
        let mut reports = reports.filter_map(|(message, report)| Some((message, report.as_ref()?)));
        reports.find_map(|(message, report): (usize, &Report)| {
            ledger.judge(message, report, self.clear, is_exact)
        })
    }
}
