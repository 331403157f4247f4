//! The pages under `docs/`. Each snippet is compiled unchanged, and run if possible.

/// `docs/extensions.md`.
#[doc = include_str!("../../../docs/extensions.md")]
pub mod extensions {}

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

/// `docs/profiles.md`.
#[doc = include_str!("../../../docs/profiles.md")]
pub mod profiles {}

/// `docs/ways.md`.
#[doc = include_str!("../../../docs/ways.md")]
pub mod ways {}
