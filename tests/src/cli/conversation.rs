//! The conversation, a line at a time.

use smtp_proto::{event::Trace, reply::Printable};

use super::options::Options;
use super::output::say;

impl Options {
    /// Shows one line of the conversation.
    pub fn show(&self, trace: &Trace) {
        match trace {
            Trace::Sent(command) => say(format_args!("> {command}")),
            Trace::SentBody { octets } => {
                say(format_args!("> ({octets} octets of message, and the dot)"))
            }
            Trace::SentChunk { octets, last } => {
                say(format_args!(
                    "> BDAT {octets}{}",
                    if *last { " LAST" } else { "" }
                ));
                say(format_args!("> ({octets} octets of message)"));
            }
            Trace::Received(reply) => {
                let mut lines = reply.lines().peekable();
                while let Some(line) = lines.next() {
                    let hyphen = if lines.peek().is_some() { "-" } else { " " };
                    say(format_args!(
                        "< {}{hyphen}{}",
                        reply.code(),
                        Printable(line)
                    ));
                }
            }
            Trace::TlsEstablished => say(format_args!("= encrypted from here on")),
            _ => {}
        }
    }
}
