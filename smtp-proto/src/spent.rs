//! What a session has used up of what the server allows (RFC 9422), and what it has shown to allow.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// A server that allows more domains than this is left to count them itself: the list would be too long.
const MAX_DOMAINS: u64 = 1_024;

#[derive(Debug, Default)]
pub(crate) struct Spent {
    /// MAILs said.
    pub(crate) transactions: u64,
    /// The most recipients that the server was found to take in one transaction.
    pub(crate) learnt: Option<u32>,
    /// The domains of recipients, while the server states how many there may be.
    domains: Vec<Box<str>>,
}

impl Spent {
    /// Whether a recipient in this domain may be named where the session may have `most` of them. If so, it
    /// counts.
    pub(crate) fn spend_domain(&mut self, domain: &str, most: u64) -> bool {
        if most > MAX_DOMAINS
            || self
                .domains
                .iter()
                .any(|known| known.eq_ignore_ascii_case(domain))
        {
            return true;
        }
        let free = (self.domains.len() as u64) < most;
        if free {
            self.domains.push(domain.into());
        }
        free
    }
}
