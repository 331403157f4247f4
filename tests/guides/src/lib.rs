//! The pages under `docs/`, so that every snippet is compiled as it stands there, and run where it can be.

/// `docs/from-lettre.md`.
#[doc = include_str!("../../../docs/from-lettre.md")]
pub mod from_lettre {}

/// `docs/fuzzing.md`.
#[doc = include_str!("../../../docs/fuzzing.md")]
pub mod fuzzing {}
