//! The engine itself. Arrows point down this list only:
//!
//! - [`conversation`]: where each reply goes, the queue of jobs, RSET, QUIT and the end of the connection;
//! - [`opening`]: greeting, EHLO, STARTTLS, EHLO, and [`exchange`]: one login;
//! - [`transaction`]: a message and its current mail transaction;
//! - [`plan`]: what this server is given of this message, and how;
//! - [`recipients`]: where each recipient stands;
//! - [`peer`]: what is known of the server, with what it was told ([`pipeline`]) and what it has used up
//!   ([`usage`]), and what the caller is told ([`events`]).

pub(crate) mod conversation;
mod events;
mod exchange;
mod opening;
mod peer;
mod pipeline;
mod plan;
mod recipients;
mod transaction;
mod usage;
