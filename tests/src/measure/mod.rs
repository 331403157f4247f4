//! What the benchmarks measure: loads of mail, each way to deliver them, and the least that it can cost.

pub mod floor;
pub mod load;
