//! Plays a [`transcript`](crate::transcript): on the engine in virtual time, and on both adapters against a
//! [`scripted`] server.

pub mod anything;
pub mod blocking;
pub mod bulk;
pub mod engine;
pub mod replay;
pub mod scripted;
pub mod tokio;
