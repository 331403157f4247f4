//! How much of the server's limits (RFC 9422) a session has used, and which limits it has learnt.

use alloc::collections::BTreeSet;
use alloc::string::String;

use crate::mailbox::Mailbox;

/// [`Config::max_heap`](crate::Config::max_heap) counts this list.
const MAX_DOMAINS: u64 = crate::config::MAX_DOMAINS as u64;

/// The domains of recipients, in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Domains(BTreeSet<String>);

impl Domains {
    fn has_room(&self, domain: &str, most: u64) -> bool {
        most > MAX_DOMAINS
            || (self.0.len() as u64) < most
            || self.0.contains(&domain.to_ascii_lowercase())
    }

    /// Whether these domains fit under the limit, together with those already named.
    pub(crate) fn has_room_for(mut self, paths: &[Mailbox], most: u64) -> bool {
        let mut domains = paths.iter().map(|path| path.domain().unwrap_or_default());
        domains.all(|domain| self.add(domain, most))
    }

    /// Adds this domain if at most `most` are then listed. Returns whether it is listed.
    pub(crate) fn add(&mut self, domain: &str, most: u64) -> bool {
        let has_room = self.has_room(domain, most);
        if has_room && most <= MAX_DOMAINS {
            self.0.insert(domain.to_ascii_lowercase());
        }
        has_room
    }
}

#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// How many MAILs were sent.
    pub(crate) transactions: u64,
    /// The most recipients that the server has accepted in one transaction.
    pub(crate) learnt: Option<u32>,
    /// Counted only while the server states a limit.
    domains: Domains,
}

impl Usage {
    /// Whether a recipient in this domain fits under the limit `most`.
    pub(crate) fn has_room(&self, domain: &str, most: u64) -> bool {
        self.domains.has_room(domain, most)
    }

    /// Counts the domain of a recipient that is named.
    pub(crate) fn name(&mut self, domain: &str, most: u64) {
        self.domains.add(domain, most);
    }

    /// A copy, to test what would fit.
    pub(crate) fn domains(&self) -> Domains {
        self.domains.clone()
    }

    /// The server takes no more than this many recipients in one transaction.
    pub(crate) fn learn(&mut self, recipients: usize) {
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        self.learnt = Some(
            self.learnt
                .map_or(recipients, |learnt| learnt.min(recipients)),
        );
    }
}
