//! What the tests, the benchmarks and the examples of this workspace share.

pub mod fuzzing;
pub mod peer;
pub mod postfix;
pub mod receiver;
pub mod send;

/// The README's examples, which compile as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
