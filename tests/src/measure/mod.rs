//! The subject of the benchmarks: loads of mail, each way to deliver them, and the least cost.

pub mod floor;
pub mod load;
