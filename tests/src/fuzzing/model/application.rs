//! The application: its messages and their times, its bodies, and the events it gets.

use std::time::Duration;

use smtp_proto::{Event, Outcome, Request};

use super::Failure;
use super::driver::{Feed, Finished, World};
use super::scene::Job;
use crate::watchdog::Turns;

impl World<'_> {
    pub(super) fn grow_body(&mut self) {
        let Some(feed) = &mut self.feed else { return };
        let planned = &self.scene.messages[feed.message];
        feed.wake = self.now + self.dice.pause(self.scene.slow_body);
        let message = feed.message;
        if feed.visible < planned.body.len() {
            let left = planned.body.len() - feed.visible;
            feed.visible += if self.dice.chance(500) {
                left
            } else {
                self.dice.between(1, left)
            };
            if planned.source_fails.is_some_and(|at| feed.visible >= at) {
                feed.ended = true;
                self.note(|| format!("-- the source of the body of m{message} fails"));
                self.engine
                    .fail_body(Outcome::Permanent, "the source has failed");
                return;
            }
            feed.says_last = feed.visible == planned.body.len() && self.dice.chance(600);
        } else if feed.used == feed.visible {
            feed.ended = true;
            self.note(|| format!("-- the body of m{message} is finished"));
            let _ = self.engine.connection.finish_body();
        }
    }

    pub(super) fn plan_job(&mut self) {
        let pause = self
            .scene
            .jobs
            .get(self.next_job)
            .and_then(|(_, when)| *when);
        self.job_wake = self.now + pause.unwrap_or(Duration::ZERO);
    }

    pub(super) fn job_is_due(&self) -> bool {
        match self.scene.jobs.get(self.next_job) {
            Some((_, when)) => when.is_some() || self.engine.connection.is_idle(),
            None => false,
        }
    }

    pub(super) fn do_job(&mut self) {
        let Some(&(job, _)) = self.scene.jobs.get(self.next_job) else {
            return;
        };
        self.next_job += 1;
        self.plan_job();
        self.note(|| format!("-- the application: {job:?}"));
        let engine = &mut self.engine.connection;
        match job {
            Job::Message(index) => {
                let envelope = self.scene.messages[index].envelope.clone();
                self.messages
                    .extend(engine.submit(envelope).map(|id| (id, index)));
            }
            Job::Request(index) => {
                let line = if index % 2 == 0 {
                    format!("NOOP q{index}")
                } else {
                    format!("VRFY q{index}")
                };
                let request = Request::raw(&line).expect("a command line");
                self.requests
                    .extend(engine.request(request).map(|id| (id, index)));
            }
            Job::Quit => _ = engine.quit(),
        }
    }

    pub(super) fn take_events(&mut self) -> Result<(), Failure> {
        let mut turns = Turns::default();
        while let Some(event) = self.engine.event() {
            turns
                .take()
                .map_err(|error| Failure::new("endless events", error))?;
            self.note(|| format!("engine: {event:?}"));
            if self.closed.is_some() {
                return Err(Failure::new(
                    "after the end",
                    format!("{event:?} follows Closed"),
                ));
            }
            match event {
                Event::BodyWanted(id) => {
                    let Some(&(_, message)) = self.messages.iter().find(|(known, _)| *known == id)
                    else {
                        return Err(Failure::new("unknown message", format!("{id:?}")));
                    };
                    let wake = self.now + self.dice.pause(self.scene.slow_body);
                    self.feed = Some(Feed {
                        message,
                        used: 0,
                        visible: 0,
                        wake,
                        ended: false,
                        says_last: false,
                    });
                }
                Event::Finished(id, report) => {
                    let expected = self.messages.get(self.finished.len());
                    let Some(&(_, message)) = expected.filter(|(expected, _)| *expected == id)
                    else {
                        return Err(Failure::new(
                            "out of order",
                            format!("{id:?} was not to finish now"),
                        ));
                    };
                    let (heard, excused) = (self.heard, self.excused);
                    self.finished.push(Finished {
                        message,
                        report,
                        heard,
                        excused,
                    });
                }
                Event::Answered(id, answer) => {
                    let expected = self.requests.get(self.answered.len());
                    let Some(&(_, request)) = expected.filter(|(expected, _)| *expected == id)
                    else {
                        return Err(Failure::new(
                            "out of order",
                            format!("{id:?} was not asked now"),
                        ));
                    };
                    let answer = if self.excused { None } else { answer.ok() };
                    self.answered.push((request, answer));
                }
                Event::Closed(result) => {
                    if self.finished.len() < self.messages.len()
                        || self.answered.len() < self.requests.len()
                    {
                        return Err(Failure::new("a report is missing", "closed without it"));
                    }
                    self.closed = Some(result);
                }
                Event::OverlapBroken => self.overlap_broken += 1,
                Event::StartTls => self.handshake_at = Some(self.now + self.dice.pause(20)),
                _ => {}
            }
        }
        Ok(())
    }
}
