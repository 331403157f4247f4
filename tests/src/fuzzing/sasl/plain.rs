//! The mechanisms other than SCRAM: what each line of the client must be.

use super::proof::{Digest, hmac};
use super::{Account, Right};

const CHALLENGE: &[u8] = b"<1896.697170952@mx.example.net>";

pub(super) struct Exchange {
    name: String,
    /// Lines of the client after AUTH that were right.
    step: u8,
}

impl Exchange {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            step: 0,
        }
    }

    /// Checks a response, and says what an honest server does next. Whatever the server did before, the client never
    /// says anything but this.
    pub(super) fn right(&mut self, response: Option<&[u8]>, account: &Account) -> Right {
        let (user, secret) = (account.user.0, account.secret.0);
        let identity = account.identity.unwrap_or_default();
        let step = self.step;
        self.step += 1;
        let expected = match (&*self.name, step) {
            ("LOGIN", 0) => return Right::Challenge(b"User Name\0".to_vec()),
            ("LOGIN", 1) => {
                assert_eq!(response, Some(user.as_bytes()));
                return Right::Challenge(b"Password:".to_vec());
            }
            ("LOGIN", 2) => secret.to_owned(),
            ("CRAM-MD5", 0) => {
                assert_eq!(response, None, "CRAM-MD5 has no initial response");
                return Right::Challenge(CHALLENGE.to_vec());
            }
            // To another challenge the answer is another one, as often as the server asks.
            ("CRAM-MD5", _) => {
                let response = String::from_utf8(response.unwrap_or_default().to_vec());
                let response = response.expect("UTF-8");
                let (name, digest) = response.rsplit_once(' ').expect("a name and a digest");
                assert_eq!(name, user);
                let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                assert!(digest.len() == 32 && digest.chars().all(is_hex));
                let right = hmac(Digest::Md5, secret.as_bytes(), CHALLENGE);
                let right: String = right.iter().map(|octet| format!("{octet:02x}")).collect();
                return match right == digest {
                    true => Right::Accept,
                    false => Right::Refuse,
                };
            }
            ("PLAIN", 0) => format!("{identity}\0{user}\0{secret}"),
            ("OAUTHBEARER", 0) => {
                let identity = account.identity.unwrap_or(user);
                let identity = identity.replace('=', "=3D").replace(',', "=2C");
                format!("n,a={identity},\x01auth=Bearer {secret}\x01\x01")
            }
            ("XOAUTH2", 0) => format!("user={user}\x01auth=Bearer {secret}\x01\x01"),
            // An error that the server reports, which is answered and then refused.
            ("OAUTHBEARER", 1) => {
                assert_eq!(response, Some(&b"\x01"[..]));
                return Right::Refuse;
            }
            ("XOAUTH2", 1) => {
                assert_eq!(response, Some(&b""[..]));
                return Right::Refuse;
            }
            ("EXTERNAL", 0) => identity.to_owned(),
            ("ANONYMOUS", 0) => user.to_owned(),
            // The server keeps asking, and these two answer as often as they may.
            ("OAUTHBEARER" | "XOAUTH2", _) => return Right::Refuse,
            (name, step) => panic!("{name} has no line {step}"),
        };
        assert_eq!(response, Some(expected.as_bytes()), "{}", self.name);
        Right::Accept
    }
}
