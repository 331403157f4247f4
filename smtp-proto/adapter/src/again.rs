//! Which messages of a delivery over several sessions may be sent again, in another session.

use smtp_proto::error::Retry;
use smtp_proto::{Cause, Error, Outcome, Report, Stage};

/// Whether a message may be sent in another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It has its result.
    No,
    /// The server was not asked, because the session had ended or its limit was reached.
    Freely,
    /// The server was asked, but the session ended before the transport was given the end of the message. It is sent
    /// once more only, because a server may count each attempt.
    Once,
}

impl Again {
    /// What this report permits.
    pub(crate) fn after(report: &Report) -> Self {
        let all = |holds: fn(&Error) -> bool| {
            let mut recipients = report.recipients.iter();
            recipients.all(|one| one.as_ref().is_err_and(holds))
        };
        match () {
            () if report.recipients.is_empty() => Self::No,
            () if all(not_asked) => Self::Freely,
            () if all(was_cut_off) => Self::Once,
            () => Self::No,
        }
    }
}

pub(crate) fn not_asked(error: &Error) -> bool {
    error.outcome == Outcome::NotAttempted && error.retry() == Retry::Now
}

/// Whether the session had ended, or ended with a 421, before the transport was given the end of the message. Nobody
/// was refused by name, and nobody has the message.
pub(crate) fn was_cut_off(error: &Error) -> bool {
    match &error.cause {
        Cause::Disconnected | Cause::Transport(_) => error.outcome != Outcome::InDoubt,
        // A reply to the end of the data is about this message.
        Cause::Rejected(reply) => {
            matches!(reply.code().get(), 221 | 421)
                && error.stage != Stage::EndOfMessage
                && error.outcome != Outcome::InDoubt
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use smtp_proto::{Mailbox, Reply, reply::ReplyCode};

    use super::*;

    #[test]
    fn what_may_be_sent_again() {
        use Outcome::{InDoubt, NotAttempted, Permanent, Transient};
        let reply = |code| Reply::new(ReplyCode::new(code).unwrap(), b"no");
        let report = |results: Vec<_>| {
            let bob = || Mailbox::parse("bob@example.net").unwrap();
            Report::new(results.into_iter().map(|one| (bob(), one)))
        };
        let failed = |stage, outcome, cause| Err(Error::new(stage, outcome, cause));
        let lost = |stage, outcome| failed(stage, outcome, Cause::Disconnected);
        let refused = |stage, code| failed(stage, Transient, Cause::Rejected(reply(code)));
        for (results, again) in [
            (vec![], Again::No),
            (vec![Ok(reply(250))], Again::No),
            (vec![lost(Stage::Mail, NotAttempted)], Again::Freely),
            (vec![lost(Stage::Body, Transient)], Again::Once),
            (vec![lost(Stage::EndOfMessage, InDoubt)], Again::No),
            (vec![refused(Stage::Mail, 421)], Again::Once),
            (vec![refused(Stage::EndOfMessage, 421)], Again::No),
            (vec![refused(Stage::Rcpt, 450)], Again::No),
            (
                vec![refused(Stage::Rcpt, 421), lost(Stage::Body, Transient)],
                Again::Once,
            ),
            // At least one recipient has it, or was refused by name.
            (
                vec![Ok(reply(250)), lost(Stage::Mail, NotAttempted)],
                Again::No,
            ),
            (
                vec![
                    failed(Stage::Rcpt, Permanent, Cause::Rejected(reply(550))),
                    lost(Stage::Body, Transient),
                ],
                Again::No,
            ),
            // Another session would not help.
            (
                vec![failed(Stage::Rcpt, NotAttempted, Cause::AllOrNothing)],
                Again::No,
            ),
            (
                vec![failed(Stage::Auth, NotAttempted, Cause::AuthUnavailable)],
                Again::No,
            ),
        ] {
            let report = report(results);
            assert_eq!(Again::after(&report), again, "{report:?}");
        }
    }
}
