//! The messages in their order, over one or more sessions, with a line for each.

use smtp_proto::{Cause, Error, Outcome, Report, Stage};

use super::items::Item;
use super::printer::Printer;
use super::verdict::{Ending, SessionFacts};

/// A delivery of all messages. Each is reported once, in its turn, whatever happens to the others.
#[derive(Debug)]
pub struct Run<'a> {
    printer: Printer<'a>,
    items: &'a [Result<Item, Error>],
    /// The number of messages, including `--repeat`.
    count: usize,
    /// How many are reported.
    reported: usize,
    /// The facts of the earlier sessions.
    before: SessionFacts,
    /// The facts of all sessions.
    facts: SessionFacts,
    /// This session has reported a message.
    has_progress: bool,
    /// The messages that are left go over another session.
    again: bool,
}

impl<'a> Run<'a> {
    /// A run over the result of [`Options::prepare`](super::Options::prepare).
    pub fn new(printer: Printer<'a>, items: &'a [Result<Item, Error>]) -> Self {
        Self {
            count: items.len() * printer.repeat(),
            printer,
            items,
            reported: 0,
            before: SessionFacts::default(),
            facts: SessionFacts::default(),
            has_progress: false,
            again: false,
        }
    }

    /// Whether a message is left that can be sent. The bad ones before it are reported.
    pub fn has_more(&mut self) -> bool {
        while self.reported < self.count {
            match &self.items[self.reported % self.items.len()] {
                Ok(_) => return true,
                Err(error) => self.print(&error.clone().into()),
            }
        }
        false
    }

    /// The messages that are left and can be sent.
    pub fn rest(&self) -> impl Iterator<Item = &'a Item> + use<'a> {
        let (items, count) = (self.items, self.count);
        (self.reported..count).filter_map(|n| items[n % items.len()].as_ref().ok())
    }

    /// The next one of [`rest`](Self::rest) has ended. Returns false if an earlier message has ended the session.
    /// This one is then left for another session.
    pub fn finished(&mut self, report: Report, facts: &SessionFacts) -> bool {
        let Some(item) = self.rest().next() else {
            return false;
        };
        self.note(facts);
        let mut results = report.recipients.iter();
        let is_left = results.all(|result| {
            result.as_ref().is_err_and(|error| {
                error.outcome == Outcome::NotAttempted && is_of_a_message(error)
            })
        });
        self.again = is_left && self.has_progress && !item.is_spent();
        if self.again {
            return false;
        }
        self.has_progress = true;
        self.print(&item.ending(report));
        self.has_more();
        true
    }

    /// The session has ended. Reports the messages that are left, unless another session will send them.
    pub fn session_over(&mut self, end: Option<Error>, facts: &SessionFacts) {
        self.note(facts);
        self.again |= self.has_progress && end.as_ref().is_some_and(is_of_a_message);
        if !self.again {
            self.report_rest(|item| item.not_attempted(end.clone()));
        }
        self.before = self.facts.clone();
        (self.again, self.has_progress) = (false, false);
    }

    /// A session could not be opened.
    pub fn failed(&mut self, error: &smtp_adapter::Error) {
        self.note(&SessionFacts::failed(error));
        self.report_rest(|_| error.into());
    }

    /// The settings do not allow a session.
    pub fn refuse(&mut self, error: &Error) {
        self.report_rest(|_| error.clone().into());
    }

    /// Prints the summary, and returns the exit code.
    pub fn conclude(self) -> std::process::ExitCode {
        self.printer.conclude(&self.facts)
    }

    fn report_rest(&mut self, ending: impl Fn(&Item) -> Ending) {
        while self.has_more()
            && let Some(item) = self.rest().next()
        {
            self.print(&ending(item));
        }
    }

    fn print(&mut self, ending: &Ending) {
        self.reported += 1;
        self.printer.message(ending, &self.facts);
    }

    fn note(&mut self, facts: &SessionFacts) {
        self.facts = SessionFacts {
            tls: facts.tls.clone(),
            round_trips: self.before.round_trips + facts.round_trips,
            overlap_broken: self.before.overlap_broken || facts.overlap_broken,
        };
    }
}

/// Whether one of our messages could not be sent to its end, which ended the session.
fn is_of_a_message(error: &Error) -> bool {
    error.stage == Stage::Body && matches!(error.cause, Cause::Local(_) | Cause::Body(_))
}
