//! The shared half of the adapters `smtp-blocking` and `smtp-tokio`, around the engine of [`smtp_proto`]. It has the
//! server and its settings, TLS settings, errors, and the part of a session without I/O.
//!
//! ```
//! use smtp_adapter::{Server, smtp_proto::Credentials};
//!
//! let server = Server::new("smtp.example.org:587")
//!     .credentials(Credentials::password("alice", "s3cret"));
//! // `Session::connect(&server)` of smtp-blocking or smtp-tokio opens a session with it.
//! ```
//!
//! Use one of the adapters. They export the types that their users see, [`Error`] and `TlsInfo`, under the same
//! names. Everything else here is only for the adapters, and may change with any release. So each adapter depends on
//! exactly one version of this crate.
//!
//! Nothing here opens a socket or reads a clock. It takes the host's name, the trust store and random numbers from
//! the system.
//!
//! # Features
//!
//! `rustls`, `ring`, `scram`, `url` (all four default), `aws-lc-rs`, `idna`, `serde` and `tracing`. The adapters
//! document them.

mod addresses;
mod again;
mod caller;
#[cfg(feature = "rustls")]
mod certificate;
mod delivery;
mod driver;
#[cfg(all(feature = "rustls", feature = "scram"))]
mod end_point;
mod error;
#[cfg(feature = "rustls")]
mod handshake;
mod locked;
mod names;
mod observe;
mod places;
mod record;
#[cfg(feature = "serde")]
mod serialized;
mod server;
#[cfg(feature = "tracing")]
mod span;
mod terms;
#[cfg(feature = "rustls")]
mod tls;
mod to_server;
#[cfg(feature = "url")]
mod url;
#[cfg(feature = "rustls")]
mod verifier;

pub use addresses::{Failures, interleave, others, share, unreachable};
#[doc(hidden)]
pub use caller::Caller;
pub use delivery::{Delivery, Item, TURN, Taken, Worker};
pub use driver::{Driver, FOREVER, LAST_WORDS};
pub use error::Error;
#[cfg(feature = "rustls")]
pub use handshake::is_gone;
pub use observe::{Observation, Peer, Watch, tell_unopened};
pub use places::{Bounds, Entry, LOOK_AGAIN, Place, Places, Turn, given_up};
pub use server::Server;
pub use smtp_proto;
pub use terms::{SessionTerms, Terms};
#[cfg(feature = "rustls")]
pub use tls::{SharedTls, TlsInfo, TlsSettings};
pub use to_server::ToServer;
