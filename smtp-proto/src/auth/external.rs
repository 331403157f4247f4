//! The mechanisms without a secret: EXTERNAL and ANONYMOUS.

use alloc::sync::Arc;

use super::{Mechanism, MechanismError, Secret, secret};

/// EXTERNAL (RFC 4422 appendix A): the identity to act as, or an empty response.
pub(super) struct External(pub(super) Option<Arc<str>>);

impl Mechanism for External {
    fn name(&self) -> &str {
        "EXTERNAL"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        let identity = self.0.as_deref().unwrap_or_default();
        match identity.contains('\0') {
            true => Err(MechanismError::Nul),
            // rule: auth.external
            false => Ok(Some(secret(&[identity.as_bytes()]))),
        }
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Err(MechanismError::UnexpectedChallenge)
    }
}

/// ANONYMOUS (RFC 4505).
pub(super) struct Anonymous(pub(super) Arc<str>);

impl Anonymous {
    /// RFC 4505 section 2, in characters.
    const MAX_TRACE: usize = 255;
}

impl Mechanism for Anonymous {
    fn name(&self) -> &str {
        "ANONYMOUS"
    }

    fn exposes_secret(&self) -> bool {
        false
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        if self.0.contains(char::is_control) {
            return Err(MechanismError::Control);
        }
        if self.0.chars().count() > Self::MAX_TRACE {
            return Err(MechanismError::Other(
                "the trace has more than 255 characters (RFC 4505)".into(),
            ));
        }
        // rule: auth.anonymous
        Ok(Some(secret(&[self.0.as_bytes()])))
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        Err(MechanismError::UnexpectedChallenge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_said_at_once_and_once() {
        let mut external = External(Some("fred@example.com".into()));
        assert_eq!(
            external.initial_response().unwrap().unwrap()[..],
            *b"fred@example.com"
        );
        assert_eq!(
            external.respond(b""),
            Err(MechanismError::UnexpectedChallenge)
        );
        assert_eq!(
            External(None).initial_response().unwrap().unwrap()[..],
            *b""
        );
        assert_eq!(
            External(Some("\0".into())).initial_response(),
            Err(MechanismError::Nul)
        );

        // RFC 4505 section 4.
        assert_eq!(
            Anonymous("sirhc".into())
                .initial_response()
                .unwrap()
                .unwrap()[..],
            *b"sirhc"
        );
        assert_eq!(
            Anonymous("sirhc".into()).respond(b""),
            Err(MechanismError::UnexpectedChallenge)
        );
        assert_eq!(
            Anonymous("a\nb".into()).initial_response(),
            Err(MechanismError::Control)
        );
        let letters = |n| Anonymous("ü".repeat(n).into()).initial_response();
        assert!(letters(255).is_ok() && letters(256).is_err());
    }
}
