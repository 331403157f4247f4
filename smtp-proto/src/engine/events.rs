//! What the caller is told, in order, and how much of it is kept for a caller that does not ask.

use alloc::collections::VecDeque;

use crate::event::{Event, Trace};

#[derive(Debug)]
pub(crate) struct Events {
    queue: VecDeque<Event>,
    /// Reports and answers among them.
    results: usize,
    traces: usize,
    most_traces: usize,
    /// Traces that were dropped since the last one was polled.
    missed: u64,
}

impl Events {
    pub(crate) fn new(most_traces: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            results: 0,
            traces: 0,
            most_traces,
            missed: 0,
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        match event {
            Event::Finished(..) | Event::Answered(..) => self.results += 1,
            Event::Trace(_) if self.most_traces == 0 => {
                self.missed += 1;
                return;
            }
            Event::Trace(_) => {
                self.traces += 1;
                if self.traces > self.most_traces {
                    self.drop_oldest_trace();
                }
            }
            // An earlier one is for a body that has ended since. A split message has many bodies.
            Event::BodyWanted(_) => self.queue.retain(|earlier| *earlier != event),
            _ => {}
        }
        self.queue.push_back(event);
    }

    fn drop_oldest_trace(&mut self) {
        if let Some(at) = self
            .queue
            .iter()
            .position(|event| matches!(event, Event::Trace(_)))
        {
            self.queue.remove(at);
            self.traces -= 1;
            self.missed += 1;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        if self.missed > 0 {
            let missed = core::mem::take(&mut self.missed);
            return Some(Event::Trace(Trace::Missed(missed)));
        }
        let event = self.queue.pop_front()?;
        match event {
            Event::Finished(..) | Event::Answered(..) => self.results -= 1,
            Event::Trace(_) => self.traces -= 1,
            _ => {}
        }
        Some(event)
    }

    /// Results that nobody has polled.
    pub(crate) fn results(&self) -> usize {
        self.results
    }

    /// A handshake that has not begun must not begin any more.
    pub(crate) fn withdraw_handshake(&mut self) {
        self.queue.retain(|event| *event != Event::StartTls);
    }

    /// Gives back the room of what is empty.
    pub(crate) fn release(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}
