//! What the tests, the benchmarks and the examples of this workspace share.

pub mod receiver;
pub mod send;
