//! TODO manual
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod auth;
mod body;
mod capability;
mod command;
mod config;
mod connection;
mod envelope;
mod error;
mod event;
mod opening;
mod pipeline;
mod reply;
mod time;
mod transaction;

pub use auth::{Credentials, Mechanism, MechanismError, Secret};
pub use body::{BodyEncoder, BodyError, BodyPolicy, LineEndings, MAX_TEXT_LINE};
pub use capability::{Capabilities, Extension};
pub use config::{Config, Limits, Protocol, Timeouts, TlsPolicy};
pub use connection::{Connection, Transmit};
pub use envelope::{
    AddressError, AddressProblem, BodyType, ClientName, Envelope, EnvelopeError, MAX_DOMAIN, MAX_LOCAL_PART,
    MAX_MAILBOX, Mailbox, ToMailbox,
};
pub use error::{Cause, Error, Misuse, Outcome, ProtocolError, Stage};
pub use event::{Event, MessageId, Report, Trace};
pub use reply::{
    Decoder, EnhancedCode, Printable, Reply, ReplyClass, ReplyCode, ReplyError, ReplyLimits, ReplyRef,
};
pub use time::Instant;
