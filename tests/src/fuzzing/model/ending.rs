//! The end of the data: who is accepted, who learns it, and where it breaks off.

use super::books::{About, ReplyIndex, Taking};
use super::server::{Open, Server};

/// How the replies to the end of the data break off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Break {
    /// 421. Unanswered recipients are not accepted.
    Refuses,
    /// It closes without a reply.
    Dies,
    /// 221, and it closes.
    Quits,
    /// 221, then the replies, and it closes.
    QuitsFirst,
}

impl Server {
    /// The end of the data was read. Returns whether it was refused.
    pub(super) fn on_end(&mut self) -> bool {
        let Some(open) = self.open.take() else {
            self.say(503, About::Unknown);
            return true;
        };
        let accepted = open.accepted.clone();
        let number = open.number;
        if accepted.is_empty() {
            let code = self.dice.pick(&[554, 250, 503]);
            self.say(code, About::End(number));
            return true;
        }
        let plan = self.plan_replies(&open);
        if let Some(demand) = self.books.demands.last_mut() {
            demand.replies = plan.len();
        }
        self.open = Some(open);
        let broken = match () {
            () if self.trouble(10) => Some(Break::Refuses),
            () if self.trouble(10) => Some(Break::Dies),
            () if self.trouble(8) => Some(Break::Quits),
            () if self.trouble(8) => Some(Break::QuitsFirst),
            () => None,
        };
        let at = broken.map_or(usize::MAX, |_| self.dice.below(plan.len()));
        let mut replies: Vec<Option<ReplyIndex>> = Vec::new();
        for (place, &(code, about)) in plan.iter().enumerate() {
            if place == at {
                match broken {
                    Some(Break::Refuses) => self.leave(421),
                    Some(Break::Dies) => self.closed = true,
                    Some(Break::Quits) => self.leave(221),
                    Some(Break::QuitsFirst) => self.leave(221),
                    None => {}
                }
            }
            let silent = place >= at && broken != Some(Break::QuitsFirst);
            replies.push(if silent {
                None
            } else {
                Some(self.say(code, about))
            });
        }
        let whole = plan.last().map_or(0, |(code, _)| *code);
        let stays = self.dice.chance(500);
        let mut taken = false;
        for (place, &(message, recipient)) in accepted.iter().enumerate() {
            // Each recipient has its own reply, or all share one.
            let own = match plan.len() {
                1 => 0,
                _ if self.traits.lmtp => place,
                _ => place + 1,
            };
            let own_code = plan[own].0;
            let decided_by_all = !self.traits.lmtp;
            let mut takes = own_code < 300 && (!decided_by_all || whole < 300);
            let deciding = if decided_by_all { plan.len() - 1 } else { own };
            if takes && replies[deciding].is_none() {
                takes = match broken {
                    Some(Break::Refuses) => self.traits.lmtp && deciding > at && stays,
                    _ => stays,
                };
            }
            if takes {
                taken = true;
                let reply = replies[own];
                self.books.takings.push(Taking {
                    message,
                    recipient,
                    reply,
                });
            }
        }
        if taken {
            self.books.stored.push((number, self.lexer.body.clone()));
        }
        match self.traits.lmtp {
            true => plan.iter().all(|(code, _)| *code >= 300),
            false => whole >= 300,
        }
    }

    /// The replies to the end of the data, in their order.
    fn plan_replies(&mut self, open: &Open) -> Vec<(u16, About)> {
        let transaction = open.number;
        let mut plan = Vec::new();
        if self.traits.lmtp || (open.prdr && self.dice.chance(800)) {
            if !self.traits.lmtp {
                plan.push((353, About::Start));
            }
            for &(_, recipient) in &open.accepted {
                let code = self.refusal(60).unwrap_or(250);
                plan.push((
                    code,
                    About::EndFor {
                        transaction,
                        recipient,
                    },
                ));
            }
            if !self.traits.lmtp {
                let code = self.refusal(30).unwrap_or(250);
                plan.push((code, About::EndOfAll(transaction)));
            }
        } else {
            let code = self.refusal(40).unwrap_or(250);
            plan.push((code, About::End(transaction)));
        }
        plan
    }
}
