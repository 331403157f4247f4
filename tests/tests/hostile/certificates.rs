//! Certificates that are not the server's, or not any more. The password stays here.

use smtp_proto::TlsPolicy;
use smtp_tests::servers::tls::Identity;

use crate::case::{At, Case};
use crate::identities::Identities;

/// How the handshake comes about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    StartTls,
    Implicit,
}

fn case(name: &str, way: Way, identity: &Identity, is_named: bool) -> Case {
    let (policy, how) = match way {
        Way::StartTls => (TlsPolicy::Required, "by STARTTLS"),
        Way::Implicit => (TlsPolicy::Implicit, "implicit"),
    };
    let mut case = Case::new(format!("certificate {name}, {how}"), move |talk| {
        match way {
            Way::Implicit => {
                talk.act();
                talk.encrypt()?;
            }
            Way::StartTls => {
                talk.offer = "250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n".into();
                talk.reach(At::StartTls)?;
                talk.act();
                talk.answer()?;
            }
        }
        talk.oblige()
    });
    (case.identity, case.is_named) = (identity.clone(), is_named);
    case.policy(policy).with_password()
}

pub(crate) fn cases() -> Vec<Case> {
    let identities = Identities::get();
    let mut cases = Vec::new();
    for way in [Way::StartTls, Way::Implicit] {
        let good = [
            ("for the name", &identities.good, true),
            ("for the address", &identities.address, false),
        ];
        for (name, identity, is_named) in good {
            cases.push(case(name, way, identity, is_named).logs_in(true));
        }
        let bad = [
            (
                "expired",
                &identities.expired,
                true,
                "expired on 2021-12-31",
            ),
            ("untrusted", &identities.untrusted, true, "not trusted"),
            (
                "for another name",
                &identities.another_name,
                true,
                "for mx.example.org, not for mx.example.net",
            ),
            (
                "for another address",
                &identities.another_address,
                false,
                "not for 127.0.0.1",
            ),
            (
                "for the name, not the address",
                &identities.good,
                false,
                "not for 127.0.0.1",
            ),
            (
                "for the address, not the name",
                &identities.address,
                true,
                "not for mx.example.net",
            ),
            (
                "right, with the wrong key",
                &identities.another_key,
                true,
                "the key of its certificate",
            ),
        ];
        for (name, identity, is_named, tells) in bad {
            let comes = match way {
                Way::StartTls => "unopened: starttls permanent",
                Way::Implicit => "unopened: connect permanent",
            };
            cases.push(
                case(name, way, identity, is_named)
                    .comes(comes)
                    .tells(tells),
            );
        }
    }
    cases
}
