//! Of the `send` tool, how it reads parameters: records have them as they are sent.

#[path = "../../src/cli/parameters.rs"]
mod parameters;

pub(crate) use parameters::{mail_parameter, rcpt_parameter};
