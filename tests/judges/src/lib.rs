//! What judges the engine, and nothing else: the transcripts and their player, the model, and the walk. Each file is
//! that of `smtp-tests`. Without the adapters it builds in seconds, which counts where it is built once for each of
//! a thousand mutations: `.ci/mutants`.

#![allow(dead_code, reason = "what only the tests of the adapters call")]

mod cli;
pub mod fuzzing;
pub mod play;
mod servers;
#[path = "../../src/transcript/mod.rs"]
pub mod transcript;
#[path = "../../src/walk/mod.rs"]
pub mod walk;
#[path = "../../src/watchdog.rs"]
pub mod watchdog;
