//! What the tests, the benchmarks and the examples of this workspace share.
//!
//! # Which server is for what
//!
//! | for | take | it talks over |
//! |---|---|---|
//! | the tests of an application | [`receiver::Receiver::new`]: it keeps what it takes, refuses, delays and cuts as it is told | TCP, TLS, a Unix socket |
//! | the same without any socket: unit tests | [`receiver::Receiver::stub`]: `connect_over` with its [`stream`](receiver::Receiver::stream) | memory |
//! | one rule of the protocol, octet for octet | a transcript in `tests/corpus` ([`transcript`]); [`scripted`] plays the server's part to both adapters | virtual time, TCP, TLS |
//! | each rule of the engine, in conversations at random | [`model`], a judge that keeps its own books | virtual time |
//! | each state of the engine, and each step from it | [`walk`], which is exhaustive within its alphabet | virtual time |
//! | input that nobody has thought of | [`fuzzing`], the bodies of the fuzz targets | virtual time |
//! | speed, round trips, and failures at a chosen moment | [`peer`]: it takes everything at once, and holds replies back | TCP, in a process of its own |
//! | how many messages a second each way of sending makes | [`load`], against [`peer`]; [`floor`] is the least that it can cost | TCP |
//! | who is trusted: certificates with flaws, logins | [`tls_peer`] | TCP with TLS |
//! | a host that is down, a closed port | [`jammed`] | nothing |
//! | what servers in the world do | [`postfix`], [`exim`], [`dovecot`], which [`real`] installs and puts to the same tests | TCP, TLS, Unix sockets |
//!
//! `tests/applications/newsletter` shows the first two in use. What may hang goes into [`watchdog`].

pub mod blocking_player;
mod cli;
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
pub mod tls_peer;
pub mod tokio_player;
pub mod transcript;
pub mod walk;
pub mod watchdog;

/// The `send` tool, for the examples of both adapters.
pub mod send {
    pub use crate::cli::*;
}

/// The README's examples, which compile as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
