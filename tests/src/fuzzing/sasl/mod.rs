//! Logins: every mechanism against a server half of our own, whose messages the input bends.
//!
//! The server knows the account, and reads each line of the client by the RFC of its mechanism. It keeps what SCRAM has
//! said on both sides, and computes the proofs a second time.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::auth::Nonce;
use smtp_proto::*;

use super::settings::{SECRET, reveals};
use super::{Input, MOST_OFFERS, assert_printable, contains, take_all};
use crate::watchdog::Turns;

mod plain;
mod proof;
mod scram;

use scram::Scram;

/// The most work that the client does for SCRAM.
const MOST_ITERATIONS: u32 = 4_100;

/// The mechanisms that a server may offer, by the bits of two octets.
const MECHANISMS: [&str; 11] = [
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "PLAIN",
    "LOGIN",
    "OAUTHBEARER",
    "XOAUTH2",
    "EXTERNAL",
    "ANONYMOUS",
];

/// A user as it is typed, and as RFC 4013 prepares it.
const USERS: [(&str, &str); 4] = [
    ("user", "user"),
    ("us=er,x", "us=er,x"),
    ("us\u{ad}er", "user"),
    ("\u{aa}\u{2168}", "aIX"),
];

/// A secret likewise. Each shows where it gets out.
const SECRETS: [(&str, &str); 4] = [
    (SECRET, SECRET),
    ("s3cr3t\u{a0}marker", "s3cr3t marker"),
    ("s3cr3t-\u{200d}marker", "s3cr3t-marker"),
    ("s3cr3t-mark\u{e9}r", "s3cr3t-mark\u{e9}r"),
];

/// Who logs in, and on what way.
struct Account {
    kind: Kind,
    user: (&'static str, &'static str),
    secret: (&'static str, &'static str),
    identity: Option<&'static str>,
    /// What the caller restricts the mechanisms to.
    only: Option<&'static str>,
    /// Another form of the secret stands in the input: a server may send it, although no client has.
    is_told: bool,
    verified: bool,
    /// The channel binding: its kind and data.
    binding: Option<(&'static str, Vec<u8>)>,
    offered: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Token,
    External,
    Anonymous,
}

impl Account {
    fn read(input: &mut Input<'_>) -> Self {
        let [flags, names, low, high] = [(); 4].map(|()| input.byte());
        let offered = u16::from_le_bytes([low, high]);
        let offers = |(bit, _): &(usize, &&str)| offered & 1 << bit != 0;
        let names_of = |list: [(&'static str, &'static str); 4], at: u8| list[usize::from(at & 3)];
        Self {
            kind: match flags & 7 {
                0..=4 => Kind::Password,
                5 => Kind::Token,
                6 => Kind::External,
                _ => Kind::Anonymous,
            },
            user: names_of(USERS, names),
            secret: names_of(SECRETS, names >> 2),
            identity: (names & 16 != 0).then_some("boss=1,2"),
            only: (names & 32 != 0).then(|| MECHANISMS[usize::from(names >> 6)]),
            is_told: false,
            verified: flags & 8 == 0,
            binding: match flags >> 4 & 3 {
                0 => None,
                1 => Some(("tls-exporter", vec![7; 32])),
                2 => Some(("tls-server-end-point", vec![9; 20])),
                // Both, of which the first one is preferred.
                _ => Some(("tls-exporter", vec![b','; 32])),
            },
            offered: MECHANISMS
                .iter()
                .enumerate()
                .filter(offers)
                .map(|(_, name)| *name)
                .collect(),
        }
    }

    fn credentials(&self) -> Credentials {
        let (user, secret) = (self.user.0, self.secret.0);
        let credentials = match self.kind {
            Kind::Password => Credentials::password(user, secret),
            Kind::Token => Credentials::token(user, secret),
            Kind::External => Credentials::external(),
            Kind::Anonymous => Credentials::anonymous(user),
        };
        let credentials = match self.identity {
            Some(identity) => credentials.authorization_id(identity),
            None => credentials,
        };
        match self.only {
            Some(only) => credentials.mechanisms(&[only]),
            None => credentials,
        }
    }

    fn config(&self) -> Config {
        let mut facts = TlsFacts::default();
        facts.verified = self.verified;
        match &self.binding {
            Some(("tls-exporter", data)) => {
                facts.exporter = data[..].try_into().ok();
                // The one that is not preferred.
                facts.server_end_point = (data[0] == b',').then(|| vec![3; 20].into());
            }
            Some((_, data)) => facts.server_end_point = Some(data[..].into()),
            None => {}
        }
        let mut config = Config::new(ClientName::parse("client.example.org").expect("a name"));
        config.tls = TlsPolicy::Never;
        config.channel = Channel::Tls(facts);
        config.credentials = Some(self.credentials());
        config.limits.scram_iterations = MOST_ITERATIONS;
        config.trace = true;
        config
    }

    /// Whether this mechanism may be used at all: it is offered, allowed, and exposes no more than the way is trusted
    /// with.
    fn may_use(&self, name: &str) -> bool {
        let bound = name.ends_with("-PLUS");
        let harmless = bound || matches!(name, "EXTERNAL" | "ANONYMOUS");
        let kind = match name {
            "OAUTHBEARER" | "XOAUTH2" => Kind::Token,
            "EXTERNAL" => Kind::External,
            "ANONYMOUS" => Kind::Anonymous,
            _ => Kind::Password,
        };
        let says_identity = !matches!(name, "CRAM-MD5" | "LOGIN" | "XOAUTH2");
        self.offered.contains(&name)
            && self.only.is_none_or(|only| only == name)
            && kind == self.kind
            && (self.verified || harmless)
            && (self.binding.is_some() || !bound)
            && (self.identity.is_none() || says_identity)
    }
}

/// An account (four octets: see `Account::read`), then an octet and what it needs for each line of the client:
///
/// | | the server |
/// |---|---|
/// | 0 | does as the RFC says |
/// | 1 n x | does, with x in the place of octet n of its message |
/// | 2 n x… | sends a challenge of these n octets |
/// | 3 n x… | sends a line of these n octets |
/// | 4 | accepts at once |
/// | 5 | refuses with 535, 6: with 504 |
/// | 7 | sends back what the client has said, in a challenge, 8: in a refusal |
/// | 9 | does as the RFC says, but its proof comes with 235 |
/// | 10 n x | the same with x in the place of octet n |
/// | 11 n | asks for 4,090 + n iterations |
/// | 12 | leaves the nonce of the client as it is, 13: takes another one |
/// | 14 | knows another password |
/// | 15 | goes away |
pub fn sasl(data: &[u8]) {
    let mut input = Input(data);
    let mut account = Account::read(&mut input);
    let (typed, prepared) = account.secret;
    let escaped = typed.escape_debug().to_string();
    account.is_told = [prepared, &escaped]
        .iter()
        .any(|form| contains(input.0, form.as_bytes()));
    let now = Instant::default();
    let nonce = Nonce::from_octets(*b"0123456789abcdefgh");
    let mut connection = Connection::with_nonce(account.config(), now, nonce);
    let mut server = Server::new(&account);
    connection.handle_input(now, b"220 mx\r\n");
    take_all(&mut connection, now);
    let mut hello = "250-mx\r\n".to_owned();
    if !account.offered.is_empty() {
        hello += &format!("250-AUTH {}\r\n", account.offered.join(" "));
    }
    connection.handle_input(now, format!("{hello}250 X\r\n").as_bytes());

    let (mut ready, mut closed) = (false, None);
    for _ in 0..MOST_OFFERS {
        let mut turns = Turns::default();
        while let Some(event) = connection.poll_event() {
            turns.take().expect("events without end");
            assert_kept(&account, &format!("{event:?}"));
            match event {
                Event::Ready => ready = true,
                Event::Closed(result) => closed = Some(result),
                _ => {}
            }
        }
        let said = take_all(&mut connection, now);
        if ready || closed.is_some() {
            assert!(!ready || said.is_empty(), "{}", said.escape_ascii());
            break;
        }
        if said.is_empty() {
            // It waits for the next line of a reply, or it has said all that it had to.
            assert!(connection.poll_timeout().is_some(), "{connection:?}");
            connection.handle_eof(now);
            continue;
        }
        let said = String::from_utf8(said).expect("ASCII");
        let line = said.strip_suffix("\r\n").expect("a whole line");
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
        if line == "QUIT" {
            break;
        }
        match server.answer(line, &mut input) {
            Some(answer) => connection.handle_input(now, &answer),
            None => connection.handle_eof(now),
        }
    }
    server.judge(ready);
    if let Some(Err(error)) = closed {
        assert_printable(&error.to_string());
        assert_kept(&account, &error.to_string());
    }
    assert_kept(&account, &format!("{connection:?}"));
}

fn assert_kept(account: &Account, text: &str) {
    if account.kind == Kind::External || account.kind == Kind::Anonymous {
        return;
    }
    let (typed, prepared) = account.secret;
    assert!(!reveals(text.as_bytes(), typed), "the secret in {text}");
    let escaped = typed.escape_debug().to_string();
    let other_form = reveals(text.as_bytes(), prepared) || text.contains(&escaped);
    assert!(account.is_told || !other_form, "the secret in {text}");
}

/// The server's half, and what it has seen.
struct Server<'a> {
    account: &'a Account,
    exchange: Option<Exchange<'a>>,
    /// The mechanisms in their order.
    tried: Vec<String>,
    /// The nonces of SCRAM.
    nonces: Vec<String>,
    /// All was said as the RFC says so far.
    honest: bool,
    /// 235 was said.
    accepted: bool,
    /// 504 was said to what was tried last.
    turned_down: bool,
}

enum Exchange<'a> {
    Plain(plain::Exchange),
    Scram(Box<Scram<'a>>),
}

impl<'a> Server<'a> {
    fn new(account: &'a Account) -> Self {
        Self {
            account,
            exchange: None,
            tried: vec![],
            nonces: vec![],
            honest: true,
            accepted: false,
            turned_down: false,
        }
    }

    /// Reads a line of the client, and answers it as the input demands; not at all where the server goes.
    fn answer(&mut self, line: &str, input: &mut Input<'_>) -> Option<Vec<u8>> {
        assert!(!self.accepted, "{line} after 235");
        let response = match line.strip_prefix("AUTH ") {
            Some(auth) => self.begin(auth),
            None if line == "*" => {
                if let Some(Exchange::Scram(scram)) = &mut self.exchange {
                    scram.cancelled();
                }
                assert!(!self.honest, "an honest server is cancelled");
                return Some(b"501 5.7.0 cancelled\r\n".to_vec());
            }
            None => Some(STANDARD.decode(line).expect("base64")),
        };
        self.turned_down = false;
        let exchange = self.exchange.as_mut().expect("AUTH came first");
        let right = match exchange {
            Exchange::Plain(plain) => plain.right(response.as_deref(), self.account),
            Exchange::Scram(scram) => scram.right(response.as_deref(), self.account),
        };
        let choice = input.byte() % 16;
        self.honest &= choice == 0;
        let challenge = |octets: &[u8]| format!("334 {}\r\n", STANDARD.encode(octets)).into_bytes();
        let reply = match (choice, &right) {
            (2, _) => challenge(input.string()),
            (3, _) => {
                let line = input.string().split(|octet| *octet == b'\n').next();
                [line.unwrap_or_default(), b"\r\n"].concat()
            }
            (4, _) => b"235 2.7.0 welcome\r\n".to_vec(),
            (5, _) => b"535 5.7.8 no\r\n".to_vec(),
            (6, _) => b"504 5.5.4 not for you\r\n".to_vec(),
            (7, _) => format!("334 {line}\r\n").into_bytes(),
            (8, _) => format!("535 5.7.8 what is {line}?\r\n").into_bytes(),
            (15, _) => return None,
            (_, Right::Accept) => b"235 2.7.0 welcome\r\n".to_vec(),
            (9 | 10, Right::Proof(proof)) => {
                let proof = bent(proof, choice == 10, input);
                format!("235 {}\r\n", STANDARD.encode(proof)).into_bytes()
            }
            (14, Right::Proof(_)) => match exchange {
                Exchange::Scram(scram) => challenge(&scram.proof_for("another")),
                Exchange::Plain(_) => challenge(b""),
            },
            (11..=13, Right::First(_)) => match exchange {
                Exchange::Scram(scram) => challenge(&scram.first(choice, input.byte())),
                Exchange::Plain(_) => challenge(b""),
            },
            (_, Right::Challenge(octets) | Right::First(octets) | Right::Proof(octets)) => {
                challenge(&bent(octets, choice == 1, input))
            }
            (_, Right::Refuse) => b"535 5.7.8 no\r\n".to_vec(),
        };
        self.accepted |= reply.starts_with(b"235");
        self.turned_down = reply.starts_with(b"504") || reply.starts_with(b"534");
        if let Exchange::Scram(scram) = exchange {
            scram.said(&reply);
        }
        Some(reply)
    }

    /// AUTH: the mechanism, and its initial response if there is one.
    fn begin(&mut self, auth: &str) -> Option<Vec<u8>> {
        let (name, initial) = match auth.split_once(' ') {
            Some((name, initial)) => (name, Some(initial)),
            None => (auth, None),
        };
        let account = self.account;
        assert!(auth.len() + 7 <= 512, "AUTH of {} octets", auth.len() + 7);
        assert!(account.may_use(name), "{name} must not be used");
        assert!(
            !self.tried.iter().any(|tried| tried == name),
            "{name} again"
        );
        assert!(
            self.tried.is_empty() || self.turned_down,
            "{name} after {:?}",
            self.tried
        );
        // The strongest first.
        let mut left = MECHANISMS.iter().filter(|name| {
            account.may_use(name) && !self.tried.iter().any(|tried| tried == **name)
        });
        assert_eq!(left.next(), Some(&name));
        self.tried.push(name.into());
        self.exchange = Some(match name.starts_with("SCRAM-") {
            true => Exchange::Scram(Box::new(Scram::new(name, account))),
            false => Exchange::Plain(plain::Exchange::new(name)),
        });
        let initial = match initial {
            Some("=") => Some(vec![]),
            Some(initial) => Some(STANDARD.decode(initial).expect("base64")),
            None => None,
        };
        if let (Some(Exchange::Scram(scram)), Some(first)) = (&mut self.exchange, &initial) {
            let nonce = scram.nonce_of(first);
            assert!(!self.nonces.contains(&nonce), "a nonce is used twice");
            self.nonces.push(nonce);
        }
        initial
    }

    fn judge(&self, ready: bool) {
        let can = MECHANISMS.iter().any(|name| self.account.may_use(name));
        if self.honest {
            assert_eq!(ready, can, "an honest server and the right password");
        }
        if !ready {
            return;
        }
        assert!(can && self.accepted, "ready, and not accepted");
        if let Some(Exchange::Scram(scram)) = &self.exchange {
            assert!(scram.is_proven(), "the server has not proved itself");
        }
    }
}

/// What the server does where it keeps to the RFC.
enum Right {
    Challenge(Vec<u8>),
    /// The first message of SCRAM.
    First(Vec<u8>),
    /// The last one.
    Proof(Vec<u8>),
    Accept,
    Refuse,
}

/// A message as it is, or with one octet changed.
fn bent(octets: &[u8], yes: bool, input: &mut Input<'_>) -> Vec<u8> {
    let mut octets = octets.to_vec();
    if yes {
        let (at, octet) = (usize::from(input.byte()), input.byte());
        match octets.get_mut(at) {
            Some(place) => *place = octet,
            None => octets.push(octet),
        }
    }
    octets
}
