//! Random conversations, and a server that keeps its own books.

#[path = "../../src/fuzzing/model/mod.rs"]
pub mod model;
