//! The engine alone.

use smtp_proto::{BodyPart, Connection, Error, Event, Instant, MessageId, Report};

use super::super::MOST_OFFERS;
use super::{Cut, Run, Scene, Server};
use crate::play::bulk::not_attempted;
use crate::watchdog::Turns;

struct Client<'s> {
    scene: &'s Scene,
    cut: Cut,
    connection: Connection,
    server: Server,
    ids: Vec<MessageId>,
    reports: Vec<Report>,
    /// The message whose body is wanted, and how much of it is used.
    body: Option<(usize, usize)>,
    left: bool,
    /// Why the session has ended.
    end: Option<Error>,
}

pub(super) fn run(scene: &Scene, cut: Cut) -> Run {
    let now = Instant::default();
    let mut client = Client {
        scene,
        cut,
        connection: Connection::new(scene.config.clone(), now),
        server: Server::new(scene),
        ids: vec![],
        reports: vec![],
        body: None,
        left: false,
        end: None,
    };
    client.run(now);
    client.server.settle();
    let ended = client.reports.len();
    let mut reports = client.reports;
    // What could not be submitted any more.
    for (envelope, _) in &scene.messages[ended..] {
        reports.push(not_attempted(envelope, client.end.clone()));
    }
    Run::new(&client.server, reports)
}

impl Client<'_> {
    fn run(&mut self, now: Instant) {
        for _ in 0..MOST_OFFERS {
            self.take_events();
            if self.connection.is_closed() {
                return;
            }
            self.submit();
            // A message that the server cannot be given ends by a look at what is on offer.
            if self.say(now) || self.take_events() {
                continue;
            }
            if self.left {
                // The reply to QUIT is not waited for.
                return;
            }
            if !self.server.has_more() && !self.server.settle() {
                self.connection.handle_eof(now);
                continue;
            }
            let octets = self.server.take(Cut::of(self.cut.input, usize::MAX));
            self.connection.handle_input(now, &octets);
        }
        panic!("a session without end: {:?}", self.connection);
    }

    /// What an application does now: one message after the other, or all at once.
    fn submit(&mut self) {
        let messages = &self.scene.messages;
        while self.ids.len() < messages.len()
            && (self.scene.bulk || self.ids.len() == self.reports.len())
        {
            let envelope = messages[self.ids.len()].0.clone();
            match self.connection.submit(envelope) {
                Ok(id) => self.ids.push(id),
                Err(_) => return,
            }
        }
        let quits = self.scene.bulk || self.reports.len() == messages.len();
        if quits && !self.connection.has_quit() {
            let _ = self.connection.quit();
        }
        self.left |= self.connection.has_quit() && self.reports.len() == messages.len();
    }

    /// Whether there were any.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        let mut turns = Turns::default();
        while let Some(event) = self.connection.poll_event() {
            turns.take().expect("events without end");
            match event {
                Event::BodyWanted(id) => {
                    let index = self.ids.iter().position(|known| *known == id);
                    self.body = Some((index.expect("submitted"), 0));
                }
                Event::Finished(_, report) => self.reports.push(report),
                Event::Closed(Err(error)) => self.end = Some(error),
                _ => {}
            }
            any = true;
        }
        any
    }

    /// Takes an offer. Whether there was one, or the body was ended.
    fn say(&mut self, now: Instant) -> bool {
        let rest = match self.body {
            Some((index, used)) if self.connection.wants_body() => {
                &self.scene.messages[index].1[used..]
            }
            _ => &[],
        };
        let part = match self.connection.chunk_size() {
            // As the adapters do: a chunk is offered when there is enough for it, or no more.
            Some(size) if rest.len() > size => BodyPart::Next(&rest[..size]),
            Some(_) => BodyPart::Last(rest),
            None => BodyPart::Next(rest),
        };
        let had_body = self.connection.wants_body();
        let Some(transmit) = self.connection.poll_transmit(now, part) else {
            let ends = self.connection.wants_body() && rest.is_empty();
            return ends && self.connection.finish_body().is_ok()
                || had_body && !self.connection.wants_body();
        };
        let octets = transmit.parts().concat();
        let taken = Cut::of(self.cut.output, octets.len());
        self.server.write(&octets[..taken]);
        let used = transmit.advance(taken);
        if let Some((_, at)) = &mut self.body {
            *at += used;
        }
        true
    }
}
