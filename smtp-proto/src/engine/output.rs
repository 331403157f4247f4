//! The output: when the body may be sent, when it ends, and what leaves the engine.

use crate::body::BodyPart;
use crate::chunk::{Insertion, Next};
use crate::error::{Cause, Error, Stage};
use crate::event::{Event, MessageId, Trace};
use crate::time::Instant;

use super::conversation::{Conversation, Job, Phase, Quit};
use super::ending::leaving;

/// What is on offer.
pub(crate) enum Offer {
    Engine,
    Body {
        insertion: Insertion,
        run: usize,
        held: Option<u8>,
    },
}

/// What happened to octets that were taken from an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They wait in the caller's buffer.
    Gathered,
    /// Their write was begun.
    Given,
    Written,
}

impl Conversation {
    // The body.

    pub(super) fn want_body(&mut self, id: MessageId) {
        if !self.is_listening() {
            return;
        }
        self.peer.events.push(Event::BodyWanted(id));
    }

    /// Sends no more chunks of a hopeless message. A chunk that was begun is completed, unless that would take too
    /// long: the server reads it even if it refuses it.
    pub(super) fn stop_hopeless(&mut self, index: usize) {
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        let Some(sending) = message.sending() else {
            return;
        };
        if !message.is_hopeless() {
            return;
        }
        match sending.body.left() {
            None => message.stop(),
            // rule: chunking.eager-refused
            Some(left) if left > self.peer.config.chunk_size as u64 => {
                let why = message.why_hopeless();
                self.drain(
                    why.unwrap_or_else(|| Error::transient(Stage::Body, Cause::Disconnected)),
                );
            }
            Some(_) => {}
        }
    }

    /// The rest of the body cannot be given, or must not be sent. If no chunk is open and DATA was not answered, RSET
    /// ends it and the session goes on. Otherwise the server waits for octets that do not come.
    pub(super) fn give_up(&mut self, error: Error) {
        let Some(index) = self.position_of_body() else {
            return;
        };
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        // A chunk that was offered counts as open, because offers are not withdrawn.
        let is_between = message.sending().is_some_and(|sending| {
            sending.body.is_between_chunks() && sending.body.left().is_none()
        });
        message.give_up(error.clone());
        self.peer.pipeline.offer_nothing();
        match is_between {
            true => self.proceed(),
            false => self.drain(error),
        }
    }

    /// Ends the body if the caller has declared its end, and the end may go out now.
    pub(super) fn end_body(&mut self) {
        if !self.is_listening() {
            return;
        }
        let Some(index) = self.position_of_body() else {
            return;
        };
        let may_go_on = self.may_go_on();
        let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
            return;
        };
        let Some(sending) = message
            .sending()
            .filter(|sending| sending.complete && may_go_on)
        else {
            return;
        };
        let octets = sending.body.octets;
        let is_chunked = sending.body.is_chunked();
        if sending.body.is_between_chunks() && message.is_hopeless() {
            return message.stop();
        }
        match message.end_body(&mut self.peer) {
            Ok(Some(sent)) => {
                self.peer.trace(|| Trace::SentChunk {
                    octets: sent.octets,
                    last: sent.last,
                });
            }
            Ok(None) if is_chunked => {}
            Ok(None) => self.peer.trace(|| Trace::SentBody { octets }),
            Err(error) => self.give_up(error),
        }
    }

    /// Whether more of the body may go out now. Several unanswered chunks are pipelining (RFC 3030 section 2).
    fn may_go_on(&self) -> bool {
        if !self
            .sending()
            .is_some_and(|sending| sending.body.is_between_chunks())
        {
            return true;
        }
        match self.peer.pipelines() {
            // rule: chunking.window
            true => self.peer.pipeline.chunks() < self.peer.config.limits.chunks.max(1),
            // rule: chunking.lockstep
            false => self.peer.pipeline.is_settled(),
        }
    }

    // What leaves.

    /// What to write next, given this part of the body.
    pub(crate) fn offer(&mut self, now: Instant, body: BodyPart<'_>) -> Option<Offer> {
        self.at(now);
        if matches!(self.phase, Phase::Draining(..) | Phase::Closed) {
            return None;
        }
        let timeouts = self.peer.config.timeouts;
        if !self.peer.pipeline.is_taken() {
            let timeout = match self.phase {
                Phase::Leaving(_) => timeouts.quit,
                _ => timeouts.block,
            };
            self.peer.pipeline.offer(timeout);
            return Some(Offer::Engine);
        }
        let wanted = self.wants_body() && self.may_go_on();
        let Some(sending) = self.sending_mut().filter(|_| wanted) else {
            self.peer.pipeline.offer_nothing();
            return None;
        };
        match sending.body.next(body) {
            // The caller offers nothing, so no deadline runs.
            Ok(Next {
                insertion,
                run: 0,
                held: None,
            }) if insertion.is_empty() => {
                self.peer.pipeline.offer_nothing();
                None
            }
            Ok(Next {
                insertion,
                run,
                held,
            }) => {
                self.peer.pipeline.offer(timeouts.block);
                Some(Offer::Body {
                    insertion,
                    run,
                    held,
                })
            }
            Err(error) => {
                self.give_up(Error::permanent(Stage::Body, error));
                // The engine may have something else to send now, but nothing of this body.
                self.offer(now, BodyPart::Next(&[]))
            }
        }
    }

    /// The transport has taken the first `n` octets of the offer. Returns how many octets of the body they used up.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        offer: &Offer,
        body: &[u8],
        n: usize,
        fate: Fate,
    ) -> usize {
        self.at(now);
        match offer {
            Offer::Engine => {
                self.peer.pipeline.take(n);
                self.settle(fate, n > 0);
                self.on_engine_output_taken();
                0
            }
            Offer::Body {
                insertion,
                run,
                held,
            } => {
                let run = &body[..*run];
                let n = n.min(insertion.len() + run.len());
                let Some(index) = self.position_of_body() else {
                    return 0;
                };
                self.peer.pipeline.take_body(n);
                let trips = self.peer.pipeline.round_trips();
                let Some(Job::Message(message)) = self.jobs.get_mut(index) else {
                    return 0;
                };
                let Some(sending) = message.sending_mut() else {
                    return 0;
                };
                // It counts anew until the first octet of the chunk is taken.
                if sending.body.is_between_chunks() {
                    sending.began_at = trips;
                }
                let (used, completed) = sending.body.record(insertion, run, *held, n);
                let began_at = sending.began_at;
                if let Some(sent) = completed {
                    self.peer.trace(|| Trace::SentChunk {
                        octets: sent.octets,
                        last: sent.last,
                    });
                    message.chunk_sent(sent, began_at, &mut self.peer);
                }
                match n {
                    // One octet is held back, and nothing is on offer until the end.
                    0 if used > 0 => self.peer.pipeline.offer_nothing(),
                    _ => self.settle(fate, n > 0),
                }
                if completed.is_some() {
                    self.stop_hopeless(index);
                    self.proceed();
                }
                used
            }
        }
    }

    fn settle(&mut self, fate: Fate, any: bool) {
        match fate {
            Fate::Gathered => self.peer.pipeline.offer_nothing(),
            Fate::Written if any => self.peer.pipeline.write_all(),
            Fate::Given if any => self.peer.pipeline.give_all(),
            _ => {}
        }
    }

    fn on_engine_output_taken(&mut self) {
        if !self.peer.pipeline.is_taken() {
            return;
        }
        if self.quit == Quit::Said {
            self.quit = Quit::Taken;
        }
        if let Phase::Leaving(error) = &mut self.phase {
            // rule: ends.quit-is-not-waited-for
            let result = leaving(error.take());
            self.end(result);
        }
    }
}
