//! What became of a message and of each recipient, in the words of the JSON object.

use smtp_adapter::TlsInfo;
use smtp_proto::error::Retry;
use smtp_proto::{Cause, Error, Outcome, Reply, Report, Stage};

use super::options::Options;
use super::refusal::for_users;

/// What is known of the session, at its end.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    /// How it was encrypted, if it was.
    pub tls: Option<TlsInfo>,
    /// Its round trips.
    pub round_trips: u64,
    /// Overlap was chosen, and the server does not take it.
    pub overlap_broken: bool,
}

impl SessionFacts {
    /// Of a session that did not come about.
    pub fn failed(error: &smtp_adapter::Error) -> Self {
        Self {
            tls: error.tls_info().cloned(),
            round_trips: error.round_trips(),
            overlap_broken: false,
        }
    }
}

/// How a message ended: its report, or the error that left none, with the whole line about it where more
/// is known than its `Display` says.
#[derive(Clone, Debug)]
pub struct Ending(pub Result<Report, (Error, Option<String>)>);

impl From<&smtp_adapter::Error> for Ending {
    fn from(error: &smtp_adapter::Error) -> Self {
        Self(Err((error.error().clone(), Some(error.to_string()))))
    }
}

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        Self(Err((error, None)))
    }
}

impl Ending {
    /// One for each recipient.
    pub(super) fn verdicts(&self, options: &Options) -> Vec<Verdict> {
        match &self.0 {
            Ok(report) => {
                let verdict = |result: &Result<Reply, Error>| match result {
                    Ok(reply) => Verdict::success(reply),
                    Err(error) => Verdict::failure(error, options),
                };
                report.recipients.iter().map(verdict).collect()
            }
            Err((error, line)) => {
                let mut verdict = Verdict::failure(error, options);
                if let Some(line) = line {
                    verdict.line = for_users(error, line);
                }
                vec![verdict; options.to.len()]
            }
        }
    }
}

/// What became of one recipient, in the words of the JSON object.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) outcome: &'static str,
    pub(super) stage: Option<Stage>,
    pub(super) reply: Option<Reply>,
    pub(super) maybe_delivered: bool,
    /// The server was not asked.
    not_attempted: bool,
    /// It was the message or the command line that could not be sent, not a policy that forbade it.
    bad_input: bool,
    pub(super) line: String,
}

impl Verdict {
    fn success(reply: &Reply) -> Self {
        Self {
            outcome: "success",
            stage: None,
            reply: Some(reply.clone()),
            maybe_delivered: false,
            not_attempted: false,
            bad_input: false,
            line: reply.to_string(),
        }
    }

    fn failure(error: &Error, options: &Options) -> Self {
        let tls_demanded = options.demands_tls();
        let outcome = match (&error.cause, error.outcome) {
            (Cause::AllOrNothing, _) => "refused",
            // What kept it from being attempted was about something else.
            (_, Outcome::NotAttempted) => "temporary",
            (Cause::Protocol(_), _) => "protocol",
            (_, Outcome::InDoubt) => "temporary",
            (Cause::TlsFailed(_) | Cause::TlsMisconfigured(_), _) if tls_demanded => "refused",
            // The message could not be read to its end.
            (Cause::Local(_), Outcome::Transient) => "temporary",
            // A server that takes no mail now. It says nothing about the message.
            (_, Outcome::Permanent) if error.retry() == Retry::Later => "temporary",
            (cause, _) if cause.is_refusal() => "refused",
            (_, Outcome::Permanent) => "permanent",
            _ => "temporary",
        };
        // The server answered something else, if anything, and not this message.
        let is_unanswered = match error.outcome {
            Outcome::NotAttempted => true,
            Outcome::InDoubt => matches!(error.cause, Cause::Rejected(_)),
            _ => false,
        };
        Self {
            outcome,
            stage: Some(error.stage),
            reply: error.reply().filter(|_| !is_unanswered).cloned(),
            maybe_delivered: error.is_in_doubt(),
            not_attempted: error.outcome == Outcome::NotAttempted,
            bad_input: error.stage == Stage::Local
                || matches!(error.cause, Cause::Body(_) | Cause::Local(_)),
            line: for_users(error, &error.to_string()),
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.outcome != "success"
    }

    /// What it is as far as the exit code goes, in the order in which failures speak for others: first what is
    /// in doubt, then what could still change, and bad input last.
    pub(super) fn kind(&self) -> (bool, usize, bool) {
        let order = ["protocol", "temporary", "permanent", "refused"];
        let rank = order
            .iter()
            .position(|outcome| *outcome == self.outcome)
            .unwrap_or(order.len());
        (!self.maybe_delivered, rank, self.bad_input)
    }

    /// The failure that speaks for all.
    pub(super) fn decisive<'a>(failures: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        failures.into_iter().min_by_key(|failure| failure.kind())
    }

    /// The exit code of sysexits.h, where this failure speaks for all, and whether somebody got a message.
    pub(super) fn exit_code(&self, is_partial: bool) -> u8 {
        match self.outcome {
            "temporary" => 75,
            "protocol" if is_partial => 75,
            "protocol" => 76,
            "permanent" => 69,
            _ if is_partial => 69,
            _ if self.bad_input => 65,
            _ => 77,
        }
    }
}

/// One word for all, where this failure speaks for those that failed.
pub(super) fn overall(decisive: Option<&Verdict>, is_partial: bool) -> &'static str {
    match decisive {
        None => "success",
        Some(_) if is_partial => "partial",
        Some(failure) => failure.outcome,
    }
}

/// What became of a message as a whole: the word for it, and what the summary counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered,
    PartlyDelivered,
    Refused,
    Deferred,
    InDoubt,
    NotAttempted,
}

impl Fate {
    /// In the order of the summary.
    pub(super) const ALL: [Self; 6] = [
        Self::Delivered,
        Self::PartlyDelivered,
        Self::Refused,
        Self::Deferred,
        Self::InDoubt,
        Self::NotAttempted,
    ];

    pub(super) fn of(verdicts: &[Verdict]) -> Self {
        let failures = || verdicts.iter().filter(|verdict| verdict.failed());
        let Some(decisive) = Verdict::decisive(failures()) else {
            return Self::Delivered;
        };
        match decisive.outcome {
            _ if failures().count() < verdicts.len() => Self::PartlyDelivered,
            // What is in doubt decides before all else.
            _ if decisive.maybe_delivered => Self::InDoubt,
            _ if failures().all(|failure| failure.not_attempted) => Self::NotAttempted,
            "temporary" | "protocol" => Self::Deferred,
            _ => Self::Refused,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::PartlyDelivered => "partly delivered",
            Self::Refused => "refused",
            Self::Deferred => "deferred",
            Self::InDoubt => "in doubt",
            Self::NotAttempted => "not attempted",
        }
    }

    /// In JSON.
    pub(super) fn key(self) -> String {
        self.words().replace(' ', "_")
    }
}
