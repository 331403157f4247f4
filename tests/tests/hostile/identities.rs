//! The certificates of the servers. They are made once.

use std::sync::OnceLock;

use smtp_tests::servers::tls::{Authority, Identity, Making};

pub(crate) struct Identities {
    /// Whom the client trusts.
    pub(crate) authority: Authority,
    /// For [`Self::NAME`].
    pub(crate) good: Identity,
    pub(crate) expired: Identity,
    pub(crate) untrusted: Identity,
    pub(crate) another_name: Identity,
    /// For 127.0.0.1.
    pub(crate) address: Identity,
    pub(crate) another_address: Identity,
    pub(crate) another_key: Identity,
}

impl Identities {
    pub(crate) const NAME: &str = "mx.example.net";

    pub(crate) fn get() -> &'static Self {
        static IDENTITIES: OnceLock<Identities> = OnceLock::new();
        IDENTITIES.get_or_init(Self::make)
    }

    fn make() -> Self {
        let authority = Authority::new("The Authority");
        let making = Making {
            names: &[Self::NAME],
            until: 2999,
            is_authority: false,
        };
        let for_names = |names| {
            authority.sign(&Making {
                names,
                ..making.clone()
            })
        };
        let good = authority.sign(&making);
        Self {
            expired: authority.sign(&Making {
                until: 2021,
                ..making.clone()
            }),
            untrusted: Authority::new("Another One").sign(&making),
            another_name: for_names(&["mx.example.org"]),
            address: for_names(&["127.0.0.1"]),
            another_address: for_names(&["127.0.0.2"]),
            another_key: good.with_another_key(),
            good,
            authority,
        }
    }
}
