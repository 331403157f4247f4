//! What the tests, the benchmarks and the examples of this workspace share.
//!
//! # Map
//!
//! | folder | content |
//! |---|---|
//! | [`transcript`] | conversations as text: the format, its parser, results in words |
//! | [`play`] | plays a transcript on the engine and on both adapters |
//! | [`servers`] | every server that a test talks to |
//! | [`faults`] | plays a transcript over a stream that cuts, delays, interrupts and fails |
//! | [`fuzzing`] | the bodies of the fuzz targets, and the judge of random conversations |
//! | [`walk`] | the exhaustive search through the engine's states |
//! | [`measure`] | loads of mail for the benchmarks, and their least cost |
//! | [`send`] | the `send` tool, in the folder `cli` |
//! | [`watchdog`] | for tests that may hang |
//!
//! # Which server to use
//!
//! | for | use | it talks over |
//! |---|---|---|
//! | the tests of an application | [`receiver::Receiver::new`]: it keeps its messages, and refuses, delays and cuts as a test tells it | TCP, TLS, a Unix socket |
//! | unit tests, without a socket | [`receiver::Receiver::stub`]: `connect_over` with its [`stream`](receiver::Receiver::stream) | memory |
//! | one rule of the protocol, octet for octet | a transcript in `tests/corpus`; [`play::scripted`] plays the server's part to both adapters | virtual time, TCP, TLS |
//! | each rule of the engine, in conversations at random | [`fuzzing::model`], a judge that keeps its own books | virtual time |
//! | each state of the engine, and each step from it | [`walk`], which is exhaustive within its alphabet | virtual time |
//! | input that nobody has thought of | [`fuzzing`] | virtual time |
//! | speed, round trips, and failures at a chosen moment | [`servers::fast`]: it takes everything at once, and can hold replies back | TCP, in a process of its own |
//! | trust: certificates with flaws, logins | [`servers::tls`] | TCP with TLS |
//! | a host that is down, a closed port | [`servers::dead`] | nothing |
//! | the behaviour of real servers | [`servers::real`], which installs Postfix, Exim, Dovecot and aiosmtpd and runs the same tests on them | TCP, TLS, Unix sockets |
//!
//! `tests/applications/newsletter` uses the first two.

mod cli;
pub mod faults;
pub mod fuzzing;
pub mod measure;
pub mod play;
pub mod servers;
pub mod transcript;
pub mod walk;
pub mod watchdog;

pub use servers::receiver;

/// The `send` tool, for the examples of both adapters.
pub mod send {
    pub use crate::cli::*;
}

/// The README's examples, which compile as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
