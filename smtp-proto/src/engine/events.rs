//! What the caller is told, in order, and how much is kept for a caller that does not poll.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use crate::event::{Event, Trace};

#[derive(Debug)]
pub(crate) struct Events {
    /// Each event with its number.
    queue: VecDeque<(u64, Event)>,
    /// The number of the last event.
    last: u64,
    /// Reports and answers in the queue.
    results: usize,
    /// `None` if the caller does not want traces.
    traces: Option<Box<Traces>>,
}

/// The steps of the conversation. They have their own queue, because the oldest are dropped.
#[derive(Debug)]
struct Traces {
    /// Each trace with the number of the event before it.
    queue: VecDeque<(u64, Trace)>,
    most: usize,
    /// How many were dropped since the last poll.
    missed: u64,
}

impl Events {
    /// Keeps this many traces, if the caller wants them.
    pub(crate) fn new(traces: Option<usize>) -> Self {
        let traces = traces.map(|most| Traces {
            queue: VecDeque::new(),
            most,
            missed: 0,
        });
        Self {
            queue: VecDeque::new(),
            last: 0,
            results: 0,
            traces: traces.map(Box::new),
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        match event {
            Event::Finished(..) | Event::Answered(..) => self.results += 1,
            // An earlier event is for a body that has ended. A split message has several bodies.
            Event::BodyWanted(_) => self.queue.retain(|(_, earlier)| *earlier != event),
            _ => {}
        }
        self.last += 1;
        self.queue.push_back((self.last, event));
    }

    pub(crate) fn trace(&mut self, trace: impl FnOnce() -> Trace) {
        let Some(traces) = &mut self.traces else {
            return;
        };
        if traces.queue.len() >= traces.most {
            traces.missed += 1;
            traces.queue.pop_front();
        }
        if traces.most > 0 {
            traces.queue.push_back((self.last, trace()));
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.queue.front().map(|(number, _)| *number);
        if let Some(traces) = &mut self.traces {
            if traces.missed > 0 {
                let missed = core::mem::take(&mut traces.missed);
                return Some(Event::Trace(Trace::Missed(missed)));
            }
            let is_first = |number: u64| event.is_none_or(|event| number < event);
            if traces
                .queue
                .front()
                .is_some_and(|(number, _)| is_first(*number))
            {
                let trace = traces.queue.pop_front();
                return trace.map(|(_, trace)| Event::Trace(trace));
            }
        }
        let (_, event) = self.queue.pop_front()?;
        if matches!(event, Event::Finished(..) | Event::Answered(..)) {
            self.results -= 1;
        }
        Some(event)
    }

    /// How many results were not polled.
    pub(crate) fn results(&self) -> usize {
        self.results
    }

    /// A handshake that has not begun must not begin any more.
    pub(crate) fn withdraw_handshake(&mut self) {
        self.queue.retain(|(_, event)| *event != Event::StartTls);
    }

    /// Frees the buffers that are empty.
    pub(crate) fn release(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        if let Some(traces) = &mut self.traces
            && traces.queue.is_empty()
        {
            traces.queue = VecDeque::new();
        }
    }
}
