//! The server's part of a login whose challenges were not written down.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::Credentials;

use crate::servers::scram::Exchange;
use crate::transcript::recorded::SECRET;

/// Knows the account of each record, and what SCRAM has come to.
pub(super) struct Challenger {
    /// The mechanism is the application's own, whatever it is called. Nobody reads its challenges.
    is_own: bool,
    exchange: Option<Exchange>,
}

impl Challenger {
    pub(super) fn new(credentials: Option<&Credentials>) -> Self {
        Self {
            is_own: credentials.is_some_and(|one| one.outline().kind == "custom"),
            exchange: None,
        }
    }

    /// What the server says to the last line of the client's.
    pub(super) fn challenge(&mut self, said: &[u8]) -> Result<String, String> {
        let said = String::from_utf8_lossy(said);
        let line = said.lines().next_back().unwrap_or_default();
        let challenge = match line.strip_prefix("AUTH ") {
            Some(auth) => {
                self.exchange = None;
                let (name, response) = auth.split_once(' ').unwrap_or((auth, ""));
                match name.strip_prefix("SCRAM-SHA-256") {
                    _ if self.is_own => "x".into(),
                    Some(plus) => self.begin(response, plus == "-PLUS")?,
                    None if name.starts_with("SCRAM-") => {
                        return Err(format!("{name} cannot be played again"));
                    }
                    // CRAM-MD5 takes any.
                    None => "x".into(),
                }
            }
            None => match &self.exchange {
                Some(exchange) => exchange
                    .finish(&decode(line)?)
                    .ok_or("the client's proof is wrong")?,
                None => "x".into(),
            },
        };
        Ok(format!("334 {}\r\n", STANDARD.encode(challenge)))
    }

    fn begin(&mut self, response: &str, is_plus: bool) -> Result<String, String> {
        let first = decode(response)?;
        // Whoever acts as somebody else acts as this one.
        let identity = first.windows(12).any(|part| part == b",a=identity,");
        let identity = if identity { "a=identity" } else { "" };
        let kinds = ["tls-exporter", "tls-server-end-point"];
        let kind = kinds
            .iter()
            .find(|kind| first.starts_with(format!("p={kind},").as_bytes()));
        let binding = kind.map(|kind| (*kind, vec![0; 32]));
        let account = (&b"user"[..], SECRET.as_bytes());
        let exchange = Exchange::begin(&first, account, identity, is_plus, binding.as_ref());
        let exchange = self
            .exchange
            .insert(exchange.ok_or("the client's first message is wrong")?);
        Ok(exchange.challenge.clone())
    }
}

fn decode(response: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(response).map_err(|error| error.to_string())
}
