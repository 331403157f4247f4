//! How serde writes and reads the engine's types (feature `serde`). Plain enumerations have their words beside them.
//! Types with rules are here: when they are read, they are built by the calls that check these rules.
//!
//! Errors and reports are written but not read, because their words are for people and may change. Credentials, and
//! types that may hold them, are not written either.

mod envelope;
mod error;
mod name;
mod parameter;
mod reply;
mod report;
