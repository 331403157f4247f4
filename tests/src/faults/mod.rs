//! Faults of the transport, under both adapters: a server in memory plays its part of a transcript, and the stream
//! between the two cuts, delays, interrupts and fails.
//!
//! | what befalls the stream | what must come |
//! |---|---|
//! | [`Faults::gentle`]: short reads and writes, `Interrupted`, `WouldBlock` | what the transcript expects, octet for octet |
//! | [`Faults::fatal`]: an error, a write of zero or an end of file at one octet | what the books of the server allow |
//!
//! The books are [`ledger`]'s: it reads the transcript, and knows for each recipient after which octet of the client's
//! the server has the message, and with which octet of its own it has said what became of it. The engine is not asked.
//!
//! Pools open their connections themselves. For them there is a [`proxy`].
//!
//! With tokio the time is virtual. The blocking adapter reads the clock of the system, so that the few pauses of the
//! corpus are real there.

pub mod ledger;
mod play;
pub mod proxy;
mod stream;
mod wire;

pub use play::{Adapter, Played, play};
pub use wire::{Fatal, Faults, How, Other, Side};
