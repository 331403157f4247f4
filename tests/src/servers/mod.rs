//! The servers of the tests. The map in the [crate's root](crate) tells which one to use.

pub mod dead;
pub mod fast;
pub mod real;
pub mod receiver;
pub(crate) mod scram;
pub mod tls;
