//! How the engine's types are written and read by serde (feature `serde`). The words of plain enumerations are beside
//! them; what has a rule to keep is here, and is built anew by the calls that keep it when it is read.
//!
//! Errors and reports are written and not read: their words are for people, and may change. Credentials, and whatever
//! may hold them, are neither.

mod envelope;
mod error;
mod name;
mod parameter;
mod reply;
mod report;
