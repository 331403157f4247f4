//! The pages under `docs/`, so that every snippet is compiled as it stands there, and run where it can be.

/// `docs/from-emailfabric.md`.
#[doc = include_str!("../../../docs/from-emailfabric.md")]
pub mod from_emailfabric {}

/// `docs/from-lettre.md`.
#[doc = include_str!("../../../docs/from-lettre.md")]
pub mod from_lettre {}

/// `docs/from-mail-send.md`.
#[doc = include_str!("../../../docs/from-mail-send.md")]
pub mod from_mail_send {}

/// `docs/fuzzing.md`.
#[doc = include_str!("../../../docs/fuzzing.md")]
pub mod fuzzing {}
