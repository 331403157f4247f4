//! STARTTLS and AUTH.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ProtocolVersion;

use super::session::{Dialogue, Fault, Session, refuse_if};
use crate::servers::scram;

impl Session<'_> {
    pub(super) fn starttls(&mut self) -> Result<(), Fault> {
        refuse_if(self.tls.is_some(), "503 5.5.1 Already in TLS")?;
        refuse_if(!self.options.starttls, "502 5.5.1 STARTTLS not offered")?;
        refuse_if(!self.dialogue.extended, "503 5.5.1 EHLO first")?;
        // Further input may be an attacker's. It must not count as part of the TLS session (CVE-2011-0411). Later
        // plaintext fails the handshake.
        if !self.held.is_empty() {
            return self.quit("501 5.5.1 Data after STARTTLS");
        }
        self.reply("220 2.0.0 Ready to start TLS");
        Ok(())
    }

    /// The handshake, after the 220.
    pub(super) fn encrypt(&mut self) -> Result<(), Fault> {
        self.flush()?;
        self.shake_hands()?;
        // What was learnt in the clear does not count any more (RFC 3207 §4.2).
        self.dialogue = Dialogue::default();
        Ok(())
    }

    pub(super) fn auth(&mut self, argument: &str) -> Result<(), Fault> {
        let account = self.options.auth.as_ref();
        let (user, password) = account.ok_or("502 5.5.1 AUTH not offered")?;
        let changed = self.shared.lock().password.clone();
        let password = changed.as_ref().unwrap_or(password);
        let user_password = (user.as_bytes(), password.as_bytes());
        refuse_if(!self.dialogue.extended, "503 5.5.1 EHLO first")?;
        // Neither twice nor within a transaction (RFC 4954 §4).
        let late = self.dialogue.authenticated || self.dialogue.transaction.is_some();
        refuse_if(late, "503 5.5.1 AUTH not allowed now")?;
        refuse_if(!self.auth_is_safe(), "538 5.7.11 AUTH needs TLS")?;
        let (mechanism, initial) = match argument.split_once(' ') {
            Some((mechanism, initial)) => (mechanism, Some(initial)),
            None => (argument, None),
        };
        self.shared.note(|state| state.counts.logins += 1);
        let by_token = self.options.auth_by_token;
        let right = match mechanism.to_ascii_uppercase().as_str() {
            "XOAUTH2" | "OAUTHBEARER" if by_token => {
                let response = self.auth_response(initial, "")?;
                let bearer = format!("auth=Bearer {password}");
                let mut parts = response.split(|&octet| octet == 1);
                let right = parts.any(|part| part == bearer.as_bytes());
                if !right {
                    // The client answers with an empty response, or with one octet (RFC 7628 §3.2.3).
                    self.auth_response(None, &encode_base64(r#"{"status":"invalid_token"}"#))?;
                }
                right
            }
            _ if by_token => return Err("504 5.5.4 Mechanism not offered".into()),
            "PLAIN" => {
                let response = self.auth_response(initial, "")?;
                // Authorization identity, user, password (RFC 4616 §2).
                let parts: Vec<&[u8]> = response.split(|&byte| byte == 0).collect();
                let &[identity, name, secret] = parts.as_slice() else {
                    return Err("501 5.5.2 Malformed response".into());
                };
                (identity.is_empty() || identity == name) && (name, secret) == user_password
            }
            "LOGIN" => {
                let name = self.auth_response(initial, "VXNlcm5hbWU6")?; // Username:
                let secret = self.auth_response(None, "UGFzc3dvcmQ6")?; // Password:
                (name.as_slice(), secret.as_slice()) == user_password
            }
            "EXTERNAL" if self.knows_client() => {
                let identity = self.auth_response(initial, "")?;
                identity.is_empty() || identity == user_password.0
            }
            name @ ("SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS") => {
                let first = self.auth_response(initial, "")?;
                let (plus, binding) = (name.ends_with("-PLUS"), self.binding());
                let exchange =
                    scram::Exchange::begin(&first, user_password, "", plus, binding.as_ref());
                let exchange = exchange.ok_or("535 5.7.8 Authentication credentials invalid")?;
                let last = self.auth_response(None, &encode_base64(&exchange.challenge))?;
                match exchange.finish(&last) {
                    Some(proof) => self.auth_response(None, &encode_base64(&proof))?.is_empty(),
                    None => false,
                }
            }
            _ => return Err("504 5.5.4 Mechanism not offered".into()),
        };
        refuse_if(!right, "535 5.7.8 Authentication credentials invalid")?;
        self.dialogue.authenticated = true;
        self.shared.note(|state| state.counts.logged_in += 1);
        self.reply("235 2.7.0 Authentication successful");
        Ok(())
    }

    /// What identifies the TLS connection, inside TLS.
    pub(super) fn binding(&self) -> Option<scram::Binding> {
        let tls = self.tls.as_ref()?;
        if tls.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Some((
                "tls-server-end-point",
                self.shared.certificate_hash.to_vec(),
            ));
        }
        let exported = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        Some(("tls-exporter", exported.ok()?.to_vec()))
    }

    /// The initial response, or the response to `challenge` if the initial one is missing.
    pub(super) fn auth_response(
        &mut self,
        initial: Option<&str>,
        challenge: &str,
    ) -> Result<Vec<u8>, Fault> {
        let response = match initial {
            Some("=") => String::new(), // empty, as RFC 4954 §4 spells it
            Some(initial) => initial.to_owned(),
            None => {
                self.reply(&format!("334 {challenge}"));
                self.line()?
            }
        };
        refuse_if(response == "*", "501 5.7.0 Authentication cancelled")?;
        decode_base64(&response).ok_or("501 5.5.2 Not base64".into())
    }
}

pub(super) fn encode_base64(text: &str) -> String {
    STANDARD.encode(text)
}

pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}
