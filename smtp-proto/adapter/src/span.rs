//! A session for `tracing`: its span, and the events in it. The span is entered for one event at a time, and never
//! during a wait.

use std::io;

use smtp_proto::{Channel, Config, Error, MessageId, Report, event::Trace};
use tracing::{Level, Span, debug, enabled, field, info, warn};

use crate::observe::Peer;

/// The target of all events, the same for both adapters.
const TARGET: &str = "smtp";

/// The span of a session.
pub(crate) struct SessionSpan {
    span: Span,
    /// The application has encrypted the stream.
    is_tls_outside: bool,
}

impl SessionSpan {
    /// The span is a child of the current one. For a session that many callers share, it is a root instead. A child
    /// would keep the first caller's span open, and report there what the others send.
    pub(crate) fn new(session: u64, config: &Config, is_shared: bool) -> Self {
        // It has the level of its failures. So a subscriber for failures alone also gets the session.
        macro_rules! span {
            ($($parent:tt)*) => {
                tracing::span!(
                    target: TARGET,
                    $($parent)*
                    Level::WARN,
                    "smtp",
                    session,
                    peer = field::Empty,
                    ehlo = config.client_name.as_str(),
                    tls = field::Empty,
                    verified = field::Empty,
                )
            };
        }
        let span = match is_shared {
            true => span!(parent: None,),
            false => span!(),
        };
        if let Channel::Tls(facts) = &config.channel {
            span.record("tls", "by the application");
            span.record("verified", facts.verified);
        }
        Self {
            span,
            is_tls_outside: matches!(config.channel, Channel::Tls(_)),
        }
    }

    /// Whether a subscriber collects it.
    pub(crate) fn is_collected(&self) -> bool {
        !self.span.is_disabled()
    }

    /// Records the other end.
    pub(crate) fn set_peer(&self, peer: &Peer) {
        self.span.record("peer", field::display(peer));
    }

    /// Calls `f` in the span.
    pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        self.span.in_scope(f)
    }

    /// Whether a subscriber collects commands and replies.
    pub(crate) fn wants_steps(&self) -> bool {
        self.within(|| enabled!(target: TARGET, Level::DEBUG))
    }

    /// Mail can be sent, with or without TLS.
    pub(crate) fn ready(&self, is_encrypted: bool) {
        if !is_encrypted && !self.is_tls_outside {
            self.span.record("tls", "none");
        }
        self.within(|| debug!(target: TARGET, "session ready"));
    }

    /// The TLS handshake is done.
    #[cfg(feature = "rustls")]
    pub(crate) fn encrypted(&self, info: &crate::tls::TlsInfo) {
        self.span.record("tls", &*info.version);
        self.span.record("verified", info.verified_name.is_some());
    }

    /// Reports the result of a message.
    pub(crate) fn finished(&self, id: Option<MessageId>, report: &Report) {
        let message_number = id.map(MessageId::get);
        let accepted = report.recipients.iter().filter(|r| r.is_ok()).count();
        self.within(|| {
            info!(
                target: TARGET,
                message_number,
                recipients = report.recipients.len(),
                accepted,
                "message finished"
            );
            for (recipient, count, error) in runs(report) {
                warn!(target: TARGET, message_number, recipient, count, %error, "not delivered");
            }
        });
    }

    /// The session has ended.
    pub(crate) fn closed(&self, result: &Result<(), Error>, io: Option<&io::Error>) {
        self.within(|| match result {
            Ok(()) => debug!(target: TARGET, "session ended"),
            Err(error) => {
                warn!(target: TARGET, %error, io = io.map(field::display), "session failed");
            }
        });
    }
}

/// The failures of a report: the first recipient, counted from 1, how many in a row failed alike, and why. A lost
/// session with a thousand recipients is one entry.
fn runs(report: &Report) -> impl Iterator<Item = (usize, usize, &Error)> {
    let mut first = 0;
    report
        .recipients
        .chunk_by(|one, next| one.is_err() && one == next)
        .filter_map(move |run| {
            let recipient = first + 1;
            first += run.len();
            let error = run[0].as_ref().err()?;
            Some((recipient, run.len(), error))
        })
}

/// Reports a step of the conversation, in the current span.
pub(crate) fn step(trace: &Trace) {
    match trace {
        Trace::Sent(command) => debug!(target: TARGET, %command, "sent"),
        Trace::SentBody { octets } => debug!(target: TARGET, octets, "sent a body"),
        Trace::SentChunk { octets, last } => debug!(target: TARGET, octets, last, "sent a chunk"),
        Trace::Received(reply) => debug!(target: TARGET, %reply, "received"),
        Trace::TlsEstablished => debug!(target: TARGET, "TLS established"),
        Trace::Missed(steps) => debug!(target: TARGET, steps, "steps were dropped"),
        _ => {}
    }
}

/// Reports a connection that failed before a session began. It has only the caller's span.
pub(crate) fn unopened(error: &crate::Error) {
    warn!(target: TARGET, %error, "no session");
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_proto::Mailbox;
    use smtp_proto::{Cause, Outcome, Reply, Stage, reply::ReplyCode};

    #[test]
    fn failures_in_a_row_are_told_once() {
        let error = |cause| Err(Error::new(Stage::Rcpt, Outcome::Permanent, cause));
        let (lost, other) = (
            || error(Cause::Disconnected),
            || error(Cause::CredentialsInClear),
        );
        let taken = || Ok(Reply::new(ReplyCode::new(250).unwrap(), b"ok"));
        let told = |recipients: Vec<_>| {
            let mailbox = || Mailbox::parse("bob@example.net").unwrap();
            let report = Report::new(recipients.into_iter().map(|one| (mailbox(), one)));
            let runs = runs(&report).map(|(recipient, count, _)| (recipient, count));
            runs.collect::<Vec<_>>()
        };
        assert_eq!(told(vec![]), []);
        assert_eq!(told(vec![taken(), taken()]), []);
        assert_eq!(told(vec![lost(), lost(), lost()]), [(1, 3)]);
        assert_eq!(
            told(vec![
                taken(),
                taken(),
                lost(),
                lost(),
                other(),
                taken(),
                lost()
            ]),
            [(3, 2), (5, 1), (7, 1)]
        );
    }
}
