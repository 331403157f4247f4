//! What the engine tells, as the player notes it.

use smtp_proto::{Event, MessageId};

use super::Player;
use super::body::Body;
use crate::transcript::Happening;

impl Player<'_> {
    pub(super) fn take_events(&mut self) -> Result<(), String> {
        let mut turns = self.turns();
        while let Some(event) = self.engine.poll_event() {
            turns.take()?;
            let text = format!("{event:?}");
            if self.observed.closed.is_some() {
                return Err(format!("an event behind Closed: {text}"));
            }
            if let Some(secret) = self
                .secrets
                .iter()
                .find(|secret| text.contains(secret.as_str()))
            {
                return Err(format!("the secret {secret} is in an event: {text}"));
            }
            match event {
                Event::StartTls if self.engine.is_closed() => {
                    return Err("a handshake is asked for on a connection that has ended".into());
                }
                Event::StartTls => {
                    self.handshake_due = true;
                    continue;
                }
                Event::Trace(_) => continue,
                Event::Ready => {
                    self.observed.ready = true;
                    self.happens(Happening::Ready);
                }
                Event::OverlapBroken => {
                    self.observed.overlap_broken = true;
                    self.happens(Happening::OverlapBroken);
                }
                Event::BodyWanted(id) => {
                    let index = self.index(id)?;
                    let message = &self.transcript.messages[index];
                    let count = self.wanted.entry(index).or_default();
                    self.body = match self.transcript.recorded {
                        true => Body::recorded(message, *count),
                        false => Body::new(message),
                    };
                    *count += 1;
                    self.happens(Happening::Body(index));
                    self.body_of = Some(id);
                    self.is_in_body = true;
                }
                Event::Answered(id, answer) => {
                    let index = self.requests.iter().position(|&known| known == id);
                    let index = index.ok_or_else(|| format!("{id:?} was never made"))?;
                    if self.observed.answers[index].replace(answer).is_some() {
                        return Err(format!("request {} is answered twice", index + 1));
                    }
                    self.happens(Happening::Request(index));
                }
                Event::Finished(id, report) => {
                    let index = self.index(id)?;
                    if self.observed.reports[index].replace(report).is_some() {
                        return Err(format!("message {} is finished twice", index + 1));
                    }
                    if self.body_of == Some(id) {
                        self.body = Body::default();
                    }
                    self.happens(Happening::Message(index));
                }
                Event::Closed(result) => {
                    self.observed.closed = Some(result);
                    self.happens(Happening::Closed);
                }
                other => return Err(format!("an event that the player does not know: {other:?}")),
            }
            self.events.push(text);
        }
        Ok(())
    }

    pub(super) fn index(&self, id: MessageId) -> Result<usize, String> {
        let index = self.messages.iter().position(|&known| known == id);
        index.ok_or_else(|| format!("{id:?} was never submitted"))
    }
}
