//! What the tests, the benchmarks and the examples of this workspace share.

pub mod blocking_player;
pub mod delivery;
pub mod dovecot;
pub mod exim;
pub mod floor;
pub mod fuzzing;
pub mod jammed;
pub mod load;
pub mod model;
pub mod peer;
pub mod player;
pub mod postfix;
pub mod real;
pub mod receiver;
mod scram;
pub mod scripted;
pub mod send;
pub mod tls_peer;
pub mod tokio_player;
pub mod transcript;
pub mod watchdog;

/// The README's examples, which compile as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
