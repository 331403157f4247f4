//! The queue of messages and requests: what is sent next. Only this file sends RSET before a message.

use crate::command::Command;
use crate::error::{Cause, Error, Stage};
use crate::event::Event;
use crate::reply::Reply;

use super::awaited::{Awaited, MessageReply};
use super::conversation::{AskedStep, Conversation, Job, Phase, Quit};
use super::message::Flow;

impl Conversation {
    /// Sends all that may be sent now. Every change of the state ends here.
    pub(super) fn proceed(&mut self) {
        self.end_body();
        loop {
            match self.jobs.front_mut() {
                // A message that is over is reported first, in its turn.
                Some(Job::Message(message)) if message.is_over() => self.finish_first(),
                _ if !matches!(self.phase, Phase::Ready) => return,
                Some(Job::Message(message)) if message.is_under_way() => {
                    let id = message.id;
                    match message.proceed(&mut self.peer) {
                        Flow::Ended => message.conclude(&mut self.peer),
                        Flow::BodyWanted => return self.want_body(id),
                        Flow::Wait => return self.overlap(),
                    }
                }
                Some(Job::Message(_)) => {
                    if !self.begin_first() {
                        return;
                    }
                }
                Some(Job::Request(_)) => {
                    if !self.ask() {
                        return;
                    }
                }
                // rule: transaction.quit-after-the-last-dot
                // rule: chunking.quit-after-the-last-chunk
                None if self.quit == Quit::Wanted => self.leave(Ok(())),
                // rule: transaction.session-stays-open
                None => return,
            }
        }
    }

    /// Begins the first message, or sends RSET before it. Returns whether there is more to send.
    fn begin_first(&mut self) -> bool {
        let Some(Job::Message(message)) = self.jobs.front_mut() else {
            return false;
        };
        // rule: transaction.next-waits
        if !self.peer.pipeline.is_settled() {
            return false;
        }
        match message.plan(&self.peer) {
            // rule: transaction.rset-after-failure
            Ok(_) if self.peer.may_hold_transaction => {
                let awaited =
                    Awaited::Message(message.id, MessageReply::Rset { overlapping: false });
                self.peer.push(Command::Rset, awaited);
                false
            }
            Ok(plan) => {
                message.begin(plan, &mut self.peer);
                true
            }
            Err(error) => {
                message.withhold(error);
                self.finish_first();
                true
            }
        }
    }

    /// Nothing follows the end of the data before its reply. If the caller trusts the server with it, the next
    /// envelope does.
    fn overlap(&mut self) {
        // If a server gave one reply too few after the data, the next message's reply would be taken for it.
        // rule: transaction.overlap
        // rule: lmtp.no-overlap
        if !self.peer.config.overlap || self.peer.is_lmtp() || self.sending().is_some() {
            return;
        }
        let learns = self.peer.config.learn_limits;
        let next = self.jobs.iter_mut().position(|job| match job {
            // rule: limits.no-overlap-behind-a-part
            Job::Message(message) => !message.has_ended_for_all(learns),
            Job::Request(_) => true,
        });
        let Some(next) = next.filter(|&next| next > 0) else {
            return;
        };
        if let Some(Job::Message(message)) = self.jobs.get_mut(next) {
            if !message.is_under_way() && !message.begin_overlapping(&mut self.peer) {
                return;
            }
            // A message that ends here is reported in its turn, because its replies come after those of the first.
            if message.proceed(&mut self.peer) == Flow::BodyWanted {
                let id = message.id;
                self.want_body(id);
            }
        }
    }

    /// Advances the request at the front. Returns whether it is done.
    fn ask(&mut self) -> bool {
        let Some(Job::Request(asked)) = self.jobs.front_mut() else {
            return false;
        };
        // Its own reply is owed, or that to a message before it.
        // rule: requests.between-messages
        if !self.peer.pipeline.is_settled() {
            return false;
        }
        let unsupported = asked.request.unsupported(&self.peer.capabilities);
        let unsupported = unsupported.map(|(extension, attribute)| match attribute {
            None => Cause::Unsupported(extension),
            Some(attribute) => {
                Cause::UnsupportedKeyword(alloc::format!("{extension} {attribute}").into())
            }
        });
        if let Some(cause) = unsupported {
            self.answer(Err(Error::permanent(Stage::Request, cause)));
            return true;
        }
        // rule: requests.behind-a-failure
        let (command, step) = match self.peer.may_hold_transaction {
            true => (Command::Rset, AskedStep::Reset),
            false => (Command::Request(asked.request.line()), AskedStep::Said),
        };
        self.peer.push(command, Awaited::Request);
        asked.step = step;
        false
    }

    pub(super) fn answer(&mut self, answer: Result<Reply, Error>) {
        if let Some(Job::Request(asked)) = self.jobs.pop_front() {
            let answer = answer.map_err(|error| match &error.command {
                Some(_) => error,
                None => error.with_command(asked.request.line()),
            });
            self.peer.events.push(Event::Answered(asked.id, answer));
        }
    }

    pub(super) fn finish_first(&mut self) {
        if let Some(Job::Message(message)) = self.jobs.pop_front() {
            let id = message.id;
            self.peer
                .events
                .push(Event::Finished(id, message.into_report()));
        }
    }
}
