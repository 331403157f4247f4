//! Compares the engine's reports with the server's records.

use smtp_proto::envelope::BodyType;
use smtp_proto::{Cause, Error, Outcome, Reply};

use super::books::{About, Books, Said, Taking};
use super::driver::{Finished, World};
use super::scene::Scene;
use super::{Failure, Stats, verdict};

/// Compares all reports, and counts.
pub(crate) fn judge(world: &World<'_>, stats: &mut Stats) -> Result<(), Failure> {
    let judge = Judge {
        scene: world.scene,
        books: &world.server.books,
    };
    for finished in &world.finished {
        judge.count(finished, stats);
        if finished.excused {
            stats.add("messages excused after a surplus reply or lost commands", 1);
            continue;
        }
        for (recipient, (mailbox, result)) in finished.report.iter().enumerate() {
            let name = format!("m{}r{recipient}@", finished.message);
            if !mailbox.as_str().starts_with(&name) {
                let what = format!("{name} is called {mailbox}");
                return Err(Failure::new("another's name", what));
            }
            judge
                .recipient(finished, recipient, result)
                .and_then(|()| verdict::check(&judge, finished, recipient, result))
                .map_err(|failure| {
                    let what = format!(
                        "m{}r{recipient}: {result:?}: {}",
                        finished.message, failure.what
                    );
                    let cause = result
                        .as_ref()
                        .map_or_else(cause_name, |reply| reply.code().to_string());
                    Failure {
                        what,
                        cause,
                        ..failure
                    }
                })?;
        }
        judge.bodies(finished.message)?;
    }
    for (request, answer) in &world.answered {
        if let Some(reply) = answer
            && judge
                .said(reply)
                .is_none_or(|said| said.about != About::Request(*request))
        {
            return Err(Failure::new(
                "answer of another command",
                format!("q{request}: {reply:?}"),
            ));
        }
    }
    let excused = world.finished.iter().any(|finished| finished.excused);
    match judge.books.faults.first() {
        Some(fault) if !excused => Err(Failure::new("transactions mixed", fault.clone())),
        _ => Ok(()),
    }
}

pub(super) struct Judge<'w> {
    pub(super) scene: &'w Scene,
    pub(super) books: &'w Books,
}

impl Judge<'_> {
    fn count(&self, finished: &Finished, stats: &mut Stats) {
        stats.add("messages", 1);
        for result in &finished.report.recipients {
            let name = match result {
                Ok(_) => "recipients ok",
                Err(error) => match error.outcome {
                    Outcome::Transient => "recipients temporary",
                    Outcome::Permanent => "recipients permanent",
                    Outcome::InDoubt => "recipients in doubt",
                    Outcome::NotAttempted => "recipients not attempted",
                },
            };
            stats.add(name, 1);
        }
    }

    /// The reply of the server with this code and this text.
    pub(super) fn said(&self, reply: &Reply) -> Option<&Said> {
        let is =
            |said: &&Said| said.text.as_bytes() == reply.text() && reply.code().get() == said.code;
        self.books.said.iter().find(is)
    }

    fn recipient(
        &self,
        finished: &Finished,
        recipient: usize,
        result: &Result<Reply, Error>,
    ) -> Result<(), Failure> {
        let takings: Vec<&Taking> = self.books.takings_of(finished.message, recipient).collect();
        if takings.len() > 1 {
            return fail("taken twice", "the server has taken it in two transactions");
        }
        match (result, takings.first()) {
            (Ok(_), None) => fail("ok, not taken", "the server did not take it"),
            (Ok(reply), Some(taking)) => {
                let own = taking.reply.map(|index| &self.books.said[index]);
                match own
                    .is_some_and(|own| self.said(reply).is_some_and(|said| said.end == own.end))
                {
                    true => Ok(()),
                    false => fail(
                        "ok, another reply",
                        format!("the server's own reply is {own:?}"),
                    ),
                }
            }
            (Err(error), taken) => {
                let kind = match error.outcome {
                    Outcome::InDoubt => return self.in_doubt(finished, recipient),
                    Outcome::NotAttempted => "not attempted, taken",
                    Outcome::Transient => "temporary, taken",
                    Outcome::Permanent => "permanent, taken",
                };
                if let Some(taking) = taken {
                    return fail(kind, format!("{taking:?}"));
                }
                match error.outcome {
                    Outcome::NotAttempted => Ok(()),
                    _ => self.refused(finished, recipient, error),
                }
            }
        }
    }

    /// A refusal may only be reported to a recipient of its own transaction.
    fn refused(&self, finished: &Finished, who: usize, error: &Error) -> Result<(), Failure> {
        let message = finished.message;
        let begun = self.books.is_begun(message);
        let Cause::Rejected(reply) = &error.cause else {
            if error.outcome == Outcome::Transient && !begun {
                return fail("temporary, never begun", "MAIL was not given");
            }
            return Ok(());
        };
        let Some(said) = self.said(reply) else {
            return fail("a reply never sent", "the server has not said so");
        };
        let code_is_of = |class| said.code / 100 == class;
        if error.outcome == Outcome::Permanent && !code_is_of(5) {
            return fail("permanent without 5yz", format!("{said:?}"));
        }
        if !begun {
            return fail(
                "refused, never begun",
                format!("MAIL was not given; {said:?}"),
            );
        }
        if said.code == 421 || said.code == 221 {
            return Ok(());
        }
        let named_in = |number: usize| self.books.transactions[number].reply_to(who);
        let accepted_in = |number: usize| {
            let reply = named_in(number).flatten();
            reply.is_some_and(|index| self.books.said[index].code < 300)
        };
        let right = match said.about {
            About::Rset => true,
            About::Mail(number) => {
                self.books.transactions[number].message == message
                    && self.would_be_named(number, who)
            }
            About::Rcpt {
                message: about,
                recipient,
                ..
            } => (about, recipient) == (message, who),
            About::Data(number)
            | About::Chunk(number)
            | About::End(number)
            | About::EndOfAll(number) => {
                self.books.transactions[number].message == message && accepted_in(number)
            }
            About::EndFor {
                transaction,
                recipient,
            } => self.books.transactions[transaction].message == message && recipient == who,
            _ => false,
        };
        if right {
            return Ok(());
        }
        let never = self
            .books
            .of_message(message)
            .all(|(_, transaction)| transaction.reply_to(who).is_none());
        match never {
            true => fail(
                "refused, never named",
                format!("no RCPT named it; {said:?}"),
            ),
            false => fail("refused by another's reply", format!("{said:?}")),
        }
    }

    /// Whether it was named in this transaction, or had a place in it.
    fn would_be_named(&self, number: usize, who: usize) -> bool {
        if self.books.transactions[number].reply_to(who).is_some() {
            return true;
        }
        let transaction = &self.books.transactions[number];
        let Some(most) = self.scene.traits.offers(transaction.encrypted).stated else {
            return true;
        };
        let before = |recipient: usize| {
            let earlier = self.books.transactions[..number].iter();
            earlier
                .filter(|t| t.message == self.books.transactions[number].message)
                .any(|t| t.reply_to(recipient).is_some())
        };
        !before(who) && (0..who).filter(|&recipient| !before(recipient)).count() < most
    }

    fn in_doubt(&self, finished: &Finished, who: usize) -> Result<(), Failure> {
        let named = |(_, t): &(usize, &super::books::Transaction)| t.reply_to(who).is_some();
        let Some((number, transaction)) = self.books.of_message(finished.message).find(named)
        else {
            return fail("in doubt, never named", "no RCPT of it was given");
        };
        if !transaction.ended {
            return match transaction.end_begun {
                true => fail(
                    "in doubt, end not all given",
                    "the last octet of the data was not given",
                ),
                false => fail(
                    "in doubt, end not given",
                    "no octet of the end of the data was given",
                ),
            };
        }
        let heard = |said: &&Said| said.end <= finished.heard;
        let own = transaction
            .reply_to(who)
            .flatten()
            .map(|index| &self.books.said[index]);
        let refused = own.filter(heard).filter(|said| said.code >= 400);
        if let Some(said) = refused.filter(|said| !self.session_ended_before(said)) {
            return fail("in doubt, refused by name", format!("{said:?}"));
        }
        let deciding = self.books.deciding(number, who, self.scene.traits.lmtp);
        match deciding.filter(heard) {
            Some(said) if !self.session_ended_before(said) => {
                fail("in doubt, decided", format!("the engine had {said:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a reply before this one lets no client read on.
    pub(super) fn session_ended_before(&self, said: &Said) -> bool {
        let before = |earlier: &&Said| {
            earlier.end < said.end || (earlier.end == said.end && said.after_loss)
        };
        self.books
            .said
            .iter()
            .filter(before)
            .any(Said::ends_session)
    }

    /// The stored body equals the application's.
    fn bodies(&self, message: usize) -> Result<(), Failure> {
        let planned = &self.scene.messages[message];
        let mut expected = planned.body.clone();
        if planned.envelope.body_type() != BodyType::Binary && !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        for (number, stored) in &self.books.stored {
            if self.books.transactions[*number].message == message && *stored != expected {
                return fail("body changed", format!("stored: {}", stored.escape_ascii()));
            }
        }
        Ok(())
    }
}

fn cause_name(error: &Error) -> String {
    let cause = match &error.cause {
        Cause::Rejected(reply) if matches!(reply.code().get(), 221 | 421) => "421 or 221",
        Cause::Rejected(_) => "refused",
        Cause::TimedOut(_) => "timed out",
        Cause::Disconnected => "disconnected",
        Cause::Protocol(_) => "protocol",
        Cause::Body(_) | Cause::Local(_) => "body",
        _ => "other",
    };
    format!("{} {cause}", error.stage)
}

fn fail(kind: &'static str, what: impl Into<String>) -> Result<(), Failure> {
    Err(Failure::new(kind, what))
}
