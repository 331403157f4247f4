//! Choices: random ones that a seed repeats, or those of a fuzzer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A generator (splitmix64) that gives the same numbers on every machine. Before it, the octets of an input choose, if
/// there is one.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
    input: Option<Rc<Input>>,
}

/// The octets that choose. All dice of a conversation take from the same ones.
#[derive(Debug)]
struct Input {
    octets: Vec<u8>,
    at: Cell<usize>,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995_8b34_06d7,
            input: None,
        }
    }

    /// The first two octets are the seed of all choices after the last octet.
    pub(crate) fn steered(octets: &[u8]) -> Self {
        let seed = octets
            .iter()
            .take(2)
            .fold(0, |seed, octet| seed << 8 | u64::from(*octet));
        Self {
            input: Some(Rc::new(Input {
                octets: octets.iter().skip(2).copied().collect(),
                at: Cell::new(0),
            })),
            ..Self::new(seed)
        }
    }

    /// Dice of their own for somebody else.
    pub(crate) fn fork(&mut self) -> Self {
        Self {
            input: self.input.clone(),
            ..Self::new(self.next())
        }
    }

    fn octet(&self) -> Option<u8> {
        let input = self.input.as_ref()?;
        let at = input.at.get();
        input.at.set(at + 1);
        input.octets.get(at).copied()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end - 1`, or 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = end.max(1);
        match self.octet() {
            Some(low) if end <= 256 => usize::from(low) % end,
            Some(low) => usize::from(u16::from_le_bytes([low, self.octet().unwrap_or(0)])) % end,
            None => (self.next() >> 16) as usize % end,
        }
    }

    /// From `least` to `most`.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// True so many times in a thousand. An octet that chooses makes what is rare less so.
    pub(crate) fn chance(&mut self, per_mille: usize) -> bool {
        match self.octet() {
            Some(octet) => (255 - usize::from(octet)) * 1_000 < per_mille * 256,
            None => (self.next() >> 16) as usize % 1_000 < per_mille,
        }
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Mostly zero, sometimes milliseconds, rarely more than any timeout.
    pub(crate) fn pause(&mut self, rarely: usize) -> Duration {
        let n = match self.octet() {
            Some(octet) => (255 - usize::from(octet)) * 1_000 / 256,
            None => (self.next() >> 16) as usize % 1_000,
        };
        match n {
            n if n < rarely => Duration::from_millis(self.between(1_000, 40_000) as u64),
            n if n < 200 => Duration::from_millis(self.between(1, 400) as u64),
            _ => Duration::ZERO,
        }
    }
}
