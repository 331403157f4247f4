//! The result of a message and of each recipient, in the words of the JSON object.

use smtp_adapter::TlsInfo;
use smtp_proto::error::Retry;
use smtp_proto::{Cause, Error, Outcome, Reply, Report, Stage};

use super::options::Options;
use super::refusal::for_users;

/// The facts about a session, at its end.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    /// How it was encrypted. `None` if it was not.
    pub tls: Option<TlsInfo>,
    /// Its round trips.
    pub round_trips: u64,
    /// Overlap was chosen, but the server does not take it.
    pub overlap_broken: bool,
}

impl SessionFacts {
    /// The facts about a session that could not be opened.
    pub fn failed(error: &smtp_adapter::Error) -> Self {
        Self {
            tls: error.tls_info().cloned(),
            round_trips: error.round_trips(),
            overlap_broken: false,
        }
    }
}

/// The ending of a message: its report, or an error. The error may have a whole line that tells more than its
/// `Display`.
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

/// The result of one recipient, in the words of the JSON object.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) outcome: &'static str,
    pub(super) stage: Option<Stage>,
    pub(super) reply: Option<Reply>,
    pub(super) maybe_delivered: bool,
    /// The server was not asked.
    not_attempted: bool,
    /// The message or the command line is the reason, and not a policy.
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
            // The reason that it was not attempted is not about this message.
            (_, Outcome::NotAttempted) => "temporary",
            (Cause::Protocol(_), _) => "protocol",
            (_, Outcome::InDoubt) => "temporary",
            (Cause::TlsFailed(_) | Cause::TlsMisconfigured(_), _) if tls_demanded => "refused",
            // The message could not be read to its end.
            (Cause::Local(_), Outcome::Transient) => "temporary",
            // A server that takes no mail now. It does not judge the message.
            (_, Outcome::Permanent) if error.retry() == Retry::Later => "temporary",
            (cause, _) if cause.is_refusal() => "refused",
            (_, Outcome::Permanent) => "permanent",
            _ => "temporary",
        };
        // If the server has replied at all, it was not to this message.
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

    /// Its rank among failures, for the exit code. Failures in doubt come first, then those that may still change,
    /// and bad input last.
    pub(super) fn kind(&self) -> (bool, usize, bool) {
        let order = ["protocol", "temporary", "permanent", "refused"];
        let rank = order
            .iter()
            .position(|outcome| *outcome == self.outcome)
            .unwrap_or(order.len());
        (!self.maybe_delivered, rank, self.bad_input)
    }

    /// The failure that decides for all.
    pub(super) fn decisive<'a>(failures: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        failures.into_iter().min_by_key(|failure| failure.kind())
    }

    /// The exit code of sysexits.h, if this failure decides and some recipients may have the message.
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

/// One word for all, if this failure decides.
pub(super) fn overall(decisive: Option<&Verdict>, is_partial: bool) -> &'static str {
    match decisive {
        None => "success",
        Some(_) if is_partial => "partial",
        Some(failure) => failure.outcome,
    }
}

/// The fate of a whole message: its word, and its place in the summary.
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
            // A doubt decides first.
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
