//! The servers of the tests. The map in the [crate's root](crate) says which one is for what.

pub mod dead;
pub mod fast;
pub mod real;
pub mod receiver;
mod scram;
pub mod tls;
