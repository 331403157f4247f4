//! The server's half of SCRAM (RFC 5802, RFC 7677), and the judge of the client's half.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::proof::{Digest, hmac, salted, xor};
use super::{Account, MOST_ITERATIONS, Right};

const SALT: &[u8] = b"as good as any";

pub(super) struct Scram<'a> {
    digest: Digest,
    is_plus: bool,
    account: &'a Account,
    /// The client's nonce, its `gs2-header`, and its first message without that.
    nonce: String,
    header: String,
    bare: String,
    /// What the server has said: challenges, decoded where they are base64, and what came with 235.
    challenges: Vec<Option<Vec<u8>>>,
    /// The client's last message without its proof, and the server's first one.
    messages: Option<(String, Vec<u8>)>,
    /// The right proof of the server was said.
    proven: bool,
}

impl<'a> Scram<'a> {
    pub(super) fn new(name: &str, account: &'a Account) -> Self {
        Self {
            digest: match name.contains("SHA-256") {
                true => Digest::Sha256,
                false => Digest::Sha1,
            },
            is_plus: name.ends_with("-PLUS"),
            account,
            nonce: String::new(),
            header: String::new(),
            bare: String::new(),
            challenges: vec![],
            messages: None,
            proven: false,
        }
    }

    /// Checks the client's first message, and returns its nonce.
    pub(super) fn nonce_of(&mut self, first: &[u8]) -> String {
        let first = String::from_utf8(first.to_vec()).expect("UTF-8");
        let account = self.account;
        let parts: Vec<_> = first.splitn(3, ',').collect();
        let [flag, identity, bare] = parts[..] else {
            panic!("{first}");
        };
        let plus = match self.digest {
            Digest::Sha256 => "SCRAM-SHA-256-PLUS",
            _ => "SCRAM-SHA-1-PLUS",
        };
        let expected = match &account.binding {
            Some((kind, _)) if self.is_plus => format!("p={kind}"),
            // We could, and this server does not take it.
            Some(_) if account.only.is_none_or(|only| only == plus) => "y".into(),
            _ => "n".into(),
        };
        assert_eq!(flag, expected, "{first}");
        let escaped = |name: &str| name.replace('=', "=3D").replace(',', "=2C");
        let named = account.identity.map(|name| format!("a={}", escaped(name)));
        assert_eq!(identity, named.unwrap_or_default(), "{first}");
        let (name, nonce) = bare.split_once(",r=").expect("a nonce");
        assert_eq!(name, format!("n={}", escaped(account.user.1)), "{first}");
        let printable = nonce
            .bytes()
            .all(|octet| (b'!'..=b'~').contains(&octet) && octet != b',');
        assert!(nonce.len() >= 24 && printable, "{first}");
        self.nonce = nonce.into();
        self.header = format!("{flag},{identity},");
        self.bare = bare.into();
        self.nonce.clone()
    }

    /// The first message of an honest server, or with what these choices change.
    pub(super) fn first(&self, choice: u8, n: u8) -> Vec<u8> {
        let iterations = match choice {
            11 => 4_090 + u32::from(n),
            _ => 4_096,
        };
        let nonce = match choice {
            12 => self.nonce.clone(),
            13 => format!("x{}y", &self.nonce[1..]),
            _ => format!("{}by-the-server", self.nonce),
        };
        format!("r={nonce},s={},i={iterations}", STANDARD.encode(SALT)).into_bytes()
    }

    /// Checks a response, and says what an honest server does next.
    pub(super) fn right(&mut self, response: Option<&[u8]>, account: &Account) -> Right {
        match (self.challenges.len(), &self.messages) {
            (0, _) => {
                assert!(response.is_some(), "SCRAM speaks first");
                Right::First(self.first(0, 0))
            }
            (_, None) => {
                let last = String::from_utf8(response.unwrap_or_default().to_vec());
                self.check_last(&last.expect("UTF-8"));
                Right::Proof(self.proof_for(account.secret.1))
            }
            // The client has nothing more to say, and says so only to the right proof.
            (_, Some(_)) => {
                assert_eq!(response, Some(&b""[..]));
                assert!(self.proven, "a wrong proof is answered");
                Right::Accept
            }
        }
    }

    /// The client's last message is for a first one that it may take, and proves what it has to.
    fn check_last(&mut self, last: &str) {
        let first = self.challenges.last().cloned().flatten();
        let first = first.expect("a response to what is no base64");
        let (nonce, salt, iterations) = acceptable(&first, &self.nonce)
            .unwrap_or_else(|| panic!("a response to {}", first.escape_ascii()));
        let (without_proof, proof) = last.rsplit_once(",p=").expect("a proof");
        let binding = match (&self.account.binding, self.is_plus) {
            (Some((_, data)), true) => data.clone(),
            _ => vec![],
        };
        let channel = STANDARD.encode([self.header.as_bytes(), &binding].concat());
        assert_eq!(without_proof, format!("c={channel},r={nonce}"));
        self.messages = Some((without_proof.into(), first));
        let salted = salted(self.digest, self.account.secret.1, &salt, iterations);
        let client_key = hmac(self.digest, &salted, b"Client Key");
        let signature = hmac(
            self.digest,
            &self.digest.of(&client_key),
            &self.auth_message(),
        );
        assert_eq!(
            proof,
            STANDARD.encode(xor(&client_key, &signature)),
            "the client's proof"
        );
    }

    fn auth_message(&self) -> Vec<u8> {
        let (without_proof, first) = self
            .messages
            .as_ref()
            .expect("the client has proved itself");
        [
            self.bare.as_bytes(),
            b",",
            first,
            b",",
            without_proof.as_bytes(),
        ]
        .concat()
    }

    /// The last message of a server that believes this to be the password.
    pub(super) fn proof_for(&self, password: &str) -> Vec<u8> {
        let Some((_, first)) = &self.messages else {
            return vec![];
        };
        let (_, salt, iterations) = acceptable(first, &self.nonce).expect("it was checked");
        let salted = salted(self.digest, password, &salt, iterations);
        let server_key = hmac(self.digest, &salted, b"Server Key");
        let signature = hmac(self.digest, &server_key, &self.auth_message());
        format!("v={}", STANDARD.encode(signature)).into_bytes()
    }

    /// The server has said this.
    pub(super) fn said(&mut self, reply: &[u8]) {
        let reply = String::from_utf8_lossy(reply).into_owned();
        let line = reply.lines().next().unwrap_or_default();
        let (code, text) = (
            line.get(..3).unwrap_or_default(),
            line.get(4..).unwrap_or_default(),
        );
        let decode = |text: &str| STANDARD.decode(text.trim_matches([' ', '\t', '\x0c'])).ok();
        // Before the data of 235 an enhanced status code may stand.
        let behind = text.split_once(' ').map(|(_, behind)| behind);
        for message in [decode(text), behind.and_then(decode)]
            .into_iter()
            .flatten()
        {
            let is_heard = code == "235" || code.starts_with('3');
            self.proven |= is_heard && self.messages.is_some() && self.proves(&message);
        }
        if code.starts_with('3') {
            self.challenges.push(decode(text));
        }
    }

    /// `v=` and the right signature; attributes that nobody knows may follow.
    fn proves(&self, message: &[u8]) -> bool {
        let own = self.proof_for(self.account.secret.1);
        let first = message
            .split(|&octet| octet == b',')
            .next()
            .unwrap_or_default();
        first == own
    }

    /// The client gives up: it must not where the server has kept to the RFC so far.
    pub(super) fn cancelled(&self) {
        if let (Some(Some(first)), None) = (self.challenges.first(), &self.messages) {
            let honest = self.first(0, 0);
            assert!(*first != honest, "a right message is turned down");
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }
}

/// Nonce, salt and iterations of a server's first message, where a client may go on with it.
fn acceptable(message: &[u8], client: &str) -> Option<(String, Vec<u8>, u32)> {
    let text = String::from_utf8(message.to_vec()).ok()?;
    let mut names = vec![];
    let mut values = vec![];
    for attribute in text.split(',') {
        let mut chars = attribute.chars();
        let name = chars.next().filter(char::is_ascii_alphabetic)?;
        let is_new = !names.contains(&name) && name != 'm';
        if !is_new || chars.next() != Some('=') || chars.as_str().is_empty() {
            return None;
        }
        names.push(name);
        values.push(chars.as_str().to_owned());
    }
    if !names.starts_with(&['r', 's', 'i']) {
        return None;
    }
    let nonce = values[0].clone();
    let graphic = nonce.bytes().all(|octet| (b'!'..=b'~').contains(&octet));
    if !nonce.starts_with(client) || nonce.len() <= client.len() || nonce.len() > 512 || !graphic {
        return None;
    }
    let salt = STANDARD.decode(&values[1]).ok()?;
    let iterations = (4_096..=MOST_ITERATIONS).find(|count| count.to_string() == values[2])?;
    Some((nonce, salt, iterations))
}
