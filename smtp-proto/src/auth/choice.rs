//! Which mechanisms of some credentials are tried, in which order: what the caller allows, the server offers, and the
//! connection permits.

use alloc::boxed::Box;
use alloc::vec::Vec;

#[cfg(feature = "scram")]
use super::scram;
use super::{Credentials, Mechanism, Nonce, Source, external, password, token};
use crate::capability::Capabilities;
use crate::tls::TlsFacts;

/// What a wrong server, or an eavesdropper, learns from a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// The secret itself.
    Secret,
    /// An answer that lets an attacker guess a weak password, or use it elsewhere.
    Proof,
    /// Nothing of use: the answer is valid in this TLS connection only, or the connection itself is the proof.
    Bound,
    /// Neither a secret nor an identity.
    Nothing,
}

/// How far the connection can be trusted with credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The right server, and no eavesdropper: verified TLS, or a Unix socket.
    Verified,
    /// TLS with a server that is not verified.
    Unverified,
    /// Clear text: by choice, or because TLS was not established.
    Clear { by_choice: bool },
}

/// What the choice of a mechanism depends on, besides the credentials.
#[cfg_attr(
    not(feature = "scram"),
    expect(dead_code, reason = "only SCRAM needs the nonce and the limit")
)]
pub(crate) struct Surroundings<'a> {
    pub(crate) offered: &'a Capabilities,
    pub(crate) trust: Trust,
    /// `None` outside TLS.
    pub(crate) tls: Option<&'a TlsFacts>,
    pub(crate) nonce: Option<&'a Nonce>,
    /// How often this session has logged in before. Two exchanges must not share a nonce.
    pub(crate) logins: u32,
    /// [`Limits::scram_iterations`](crate::Limits::scram_iterations).
    pub(crate) iterations: u32,
}

/// What [`Credentials::candidates`] found.
#[derive(Default)]
pub(crate) struct Choice {
    /// The mechanisms to try, the strongest last.
    pub(crate) mechanisms: Vec<Box<dyn Mechanism>>,
    /// A mechanism was left out only because the connection is not trusted.
    pub(crate) withheld: bool,
}

impl Credentials {
    /// Whether a mechanism may show this much to this server: the table in [Mechanisms of
    /// AUTH](crate#mechanisms-of-auth).
    fn permits(&self, exposure: Exposure, trust: Trust) -> bool {
        // rule: auth.trust
        match (trust, exposure) {
            (Trust::Verified, _) | (_, Exposure::Nothing) => true,
            (Trust::Unverified, Exposure::Bound) => true,
            (Trust::Unverified, Exposure::Secret | Exposure::Proof) => self.unverified,
            (Trust::Clear { by_choice: true }, Exposure::Proof) => true,
            // rule: auth.no-password-in-clear
            // rule: auth.in-clear-permitted
            (Trust::Clear { .. }, _) => self.in_clear,
        }
    }

    /// Whether any mechanism of these credentials may run here, whatever the server offers.
    pub(crate) fn may_use(&self, trust: Trust) -> bool {
        match (&self.source, trust) {
            // SCRAM-PLUS may be among them.
            (Source::Password(_), Trust::Unverified) => true,
            (Source::Password(_), _) => self.permits(Exposure::Proof, trust),
            (Source::Token(_) | Source::TokenFrom(..) | Source::NoToken(_), _) => {
                self.permits(Exposure::Secret, trust)
            }
            (Source::External, _) => self.permits(Exposure::Bound, trust),
            (Source::Anonymous(_), _) => true,
            (Source::Custom(_), _) => self.permits(Exposure::Proof, trust),
        }
    }

    fn allows(&self, name: &str) -> bool {
        self.allowed
            .as_ref()
            .is_none_or(|list| list.iter().any(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The mechanisms to try, strongest first: those that the caller allows, the server offers, and the
    /// connection permits.
    pub(crate) fn candidates(&self, around: &Surroundings<'_>) -> Choice {
        let mut choice = Choice::default();
        let mut hidden = false;
        let in_clear = matches!(around.trust, Trust::Clear { .. });
        for (mechanism, exposure) in self.all(around) {
            let name = mechanism.name();
            // rule: auth.mechanism-restricted
            if !is_mechanism_name(name)
                || !around.offered.offers_mechanism(name)
                || !self.allows(name)
            {
                continue;
            }
            // In the clear, a mechanism that shows the secret never follows one that hides it, even where it is
            // permitted. Otherwise an attacker could refuse the one that hides it, to get the password.
            let shows = exposure == Exposure::Secret;
            // rule: auth.no-clear-behind-hashed
            if !self.permits(exposure, around.trust) || (shows && in_clear && hidden) {
                choice.withheld = true;
                continue;
            }
            hidden |= !shows;
            choice.mechanisms.push(mechanism);
        }
        // The engine takes the last one first.
        // rule: auth.strongest-first
        choice.mechanisms.reverse();
        choice
    }

    /// The mechanisms that these credentials fit, strongest first.
    fn all(
        &self,
        #[cfg_attr(
            not(feature = "scram"),
            expect(unused_variables, reason = "only SCRAM depends on it")
        )]
        around: &Surroundings<'_>,
    ) -> Vec<(Box<dyn Mechanism>, Exposure)> {
        let mut all = Vec::<(Box<dyn Mechanism>, Exposure)>::new();
        let identity = self.authorization_id.clone();
        match &self.source {
            Source::Password(login) => {
                #[cfg(feature = "scram")]
                for mechanism in
                    scram::variants(login, identity.as_deref(), around, |name| self.allows(name))
                {
                    let exposure = if mechanism.is_bound() {
                        Exposure::Bound
                    } else {
                        Exposure::Proof
                    };
                    all.push((Box::new(mechanism), exposure));
                }
                let named = identity.is_some();
                // rule: auth.authorization-id
                if !named {
                    all.push((Box::new(password::CramMd5(login.clone())), Exposure::Proof));
                }
                all.push((
                    Box::new(password::Plain {
                        login: login.clone(),
                        identity,
                    }),
                    Exposure::Secret,
                ));
                if !named {
                    all.push((
                        Box::new(password::Login::new(login.clone())),
                        Exposure::Secret,
                    ));
                }
            }
            Source::Token(login) => {
                let named = identity.is_some();
                all.push((
                    Box::new(token::OAuthBearer::new(login.clone(), identity)),
                    Exposure::Secret,
                ));
                if !named {
                    all.push((
                        Box::new(token::XOAuth2::new(login.clone())),
                        Exposure::Secret,
                    ));
                }
            }
            // The engine has fetched it.
            Source::TokenFrom(..) | Source::NoToken(_) => {}
            Source::External => all.push((Box::new(external::External(identity)), Exposure::Bound)),
            Source::Anonymous(trace) => {
                all.push((
                    Box::new(external::Anonymous(trace.clone())),
                    Exposure::Nothing,
                ));
            }
            Source::Custom(make) => {
                let mechanism = make();
                let exposure = if mechanism.exposes_secret() {
                    Exposure::Secret
                } else {
                    Exposure::Proof
                };
                all.push((mechanism, exposure));
            }
        }
        all
    }
}

/// Whether this is a `sasl-mech` (RFC 4422 section 3.1), in any case. So a name with a control character never gets
/// into the AUTH line.
fn is_mechanism_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    (1..=20).contains(&name.len()) && name.bytes().all(fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mechanism_name_is_a_word_of_20_octets_at_most() {
        let longest = "A".repeat(20);
        for name in ["PLAIN", "SCRAM-SHA-256-PLUS", "x_y", "9", &longest] {
            assert!(is_mechanism_name(name), "{name}");
        }
        let too_long = longest.clone() + "A";
        for name in [
            "", "A B", "A\0", "A\rB", "A\nB", "A\tB", "\u{10d}", "A=", &too_long,
        ] {
            assert!(!is_mechanism_name(name), "{name:?}");
        }
    }

    /// The table has the exposure of our own mechanisms; what they say of themselves is the same.
    #[cfg(feature = "scram")]
    #[test]
    fn a_mechanism_says_what_the_table_says() {
        let ehlo = crate::reply::ReplyCode::new(250).unwrap();
        let offered = Capabilities::parse(crate::Reply::new(
            ehlo,
            b"mx\nAUTH SCRAM-SHA-256 SCRAM-SHA-1",
        ));
        let nonce = Nonce::from_octets([0; 18]);
        let around = Surroundings {
            offered: &offered,
            trust: Trust::Verified,
            tls: None,
            nonce: Some(&nonce),
            logins: 0,
            iterations: 4_096,
        };
        let mut names = Vec::new();
        for credentials in [
            Credentials::password("alice", "s3cret"),
            Credentials::token("alice", "t0ken"),
            Credentials::external(),
            Credentials::anonymous("alice"),
        ] {
            for (mechanism, exposure) in credentials.all(&around) {
                let name = alloc::string::String::from(mechanism.name());
                assert_eq!(
                    mechanism.exposes_secret(),
                    exposure == Exposure::Secret,
                    "{name}"
                );
                names.push(name);
            }
        }
        let expected =
            "SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN OAUTHBEARER XOAUTH2 EXTERNAL ANONYMOUS";
        assert_eq!(names.join(" "), expected);
    }
}
