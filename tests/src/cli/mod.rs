//! The command line of the `send` examples: flags in, a conversation, a JSON object and an exit code out. The
//! examples of the two adapters only differ in how they send.
//!
//! `use` only points down the list in `ARCHITECTURE.md`.

mod bcc;
mod command_line;
mod content;
mod conversation;
mod envelope;
mod example;
mod items;
mod options;
mod output;
mod parameters;
mod printer;
mod progress;
mod refusal;
mod run;
mod server;
mod source;
mod target;
mod verdict;

pub use bcc::WithoutBcc;
pub use example::example;
pub use items::{Item, Message};
pub use options::{AuthMechanism, Chunking, DsnRet, Options, Tls};
pub use output::say;
pub(crate) use parameters::{mail_parameter, rcpt_parameter};
pub use printer::Printer;
pub use progress::Progress;
pub use run::Run;
pub use server::server_for;
pub use source::{Once, READ_SIZE, RegularFile, Source, Stream};
pub use target::Target;
pub use verdict::{Ending, SessionFacts};
