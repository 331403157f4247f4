//! The player of transcripts.

#[path = "../../src/play/engine/mod.rs"]
pub mod engine;
