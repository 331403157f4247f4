//! The engine itself. One file has one subject. `use` points down this list only:
//!
//! - [`replies`]: which command each reply answers, and where it goes;
//! - [`output`]: when the body may be sent, and what leaves;
//! - [`queue`]: the messages and requests in their order, what is sent next, and RSET;
//! - [`ending`]: how a session drains, QUIT, and the end of the connection;
//! - [`conversation`]: the state of a session, which the four above act on;
//! - [`opening`]: greeting, EHLO, STARTTLS, EHLO;
//! - [`exchange`]: one AUTH exchange, and which mechanism is next;
//! - [`transaction`]: what each reply to a message leads to, and the end of a mail transaction;
//! - [`message`]: a message and its current mail transaction, and what is sent of it;
//! - [`plan`]: what this server is given of this message, and how;
//! - [`recipients`]: where each recipient stands, and [`kept`]: how much of the replies is kept;
//! - [`peer`]: what is known of the server;
//! - [`usage`]: what this session has used of the server's limits;
//! - [`pipeline`]: the output, the replies that are owed for it, and the deadline;
//! - [`awaited`]: what the next reply answers, with one table of rules;
//! - [`events`]: what the caller is told.

mod awaited;
pub(crate) mod conversation;
mod ending;
mod events;
mod exchange;
mod kept;
mod message;
mod opening;
pub(crate) mod output;
mod peer;
mod pipeline;
mod plan;
mod queue;
mod recipients;
mod replies;
mod transaction;
mod usage;
