//! MAIL and RCPT.

use bytes::Bytes;

use super::books::StoredMessage;
use super::incoming::Incoming;
use super::session::{Fault, Session, refuse_if};
use super::syntax::{about, is_mailbox, is_notify, is_xtext, parameters, split_path};

/// RCPT commands in a transaction, by default. RFC 5321 §4.5.3.1.8 demands at least 100.
const RECIPIENT_LIMIT: usize = 1000;
/// RFC 3461 §4.4 and §4.2, in octets as they are sent.
const ENVID_LIMIT: usize = 100;
const ORCPT_LIMIT: usize = 500;

/// From MAIL to the end of the data.
pub(super) struct Transaction {
    pub(super) message: StoredMessage,
    smtputf8: bool,
    pub(super) prdr: bool,
    /// RCPT commands so far.
    pub(super) rcpts: usize,
    /// What has come by BDAT.
    pub(super) chunks: Option<Incoming>,
}

impl Session<'_> {
    pub(super) fn mail(&mut self, argument: &str) -> Result<(), Fault> {
        let name = self.dialogue.client_name.clone();
        let client_name = name.ok_or("503 5.5.1 Say hello first")?;
        let locked = self.options.auth.is_some() && !self.dialogue.authenticated;
        refuse_if(locked, "530 5.7.0 Authentication required")?;
        let nested = self.dialogue.transaction.is_some();
        refuse_if(nested, "503 5.5.1 Nested MAIL command")?;
        if self
            .options
            .max_messages
            .is_some_and(|most| self.taken >= most)
        {
            return self.quit("421 4.7.0 Too many messages in one session, closing");
        }
        self.dialogue.mails += 1;
        let many = self
            .options
            .limits
            .is_some_and(|limits| self.dialogue.mails > limits.mail_max);
        refuse_if(many, "452 4.5.3 Too many messages in one session")?;
        let (path, text) = split_path(argument, "FROM:")?;
        let valid = path.is_empty() || is_mailbox(path);
        refuse_if(!valid, "501 5.1.7 Bad sender address")?;
        // Parameters belong to extensions (RFC 5321 §4.1.1.11).
        let early = !self.dialogue.extended && !text.is_empty();
        refuse_if(early, "555 5.5.4 No parameters after HELO")?;
        let (mut body_parameter, mut smtputf8, mut prdr) = (None, false, false);
        let options = self.options;
        for (name, value) in parameters(text)? {
            match (name.as_str(), value) {
                ("SIZE", Some(size)) => {
                    let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
                    refuse_if(!digits, "501 5.5.4 Bad SIZE")?;
                    // A number that does not fit into 64 bits is too large.
                    let fits = size.parse().is_ok_and(|size| !self.too_big(size));
                    refuse_if(!fits, "552 5.3.4 Message too big")?;
                }
                ("BODY", Some(body)) => {
                    let body = body.to_ascii_uppercase();
                    let known = matches!(body.as_str(), "7BIT" | "8BITMIME")
                        || (body == "BINARYMIME" && options.chunking);
                    refuse_if(!known, "501 5.5.4 Bad BODY")?;
                    body_parameter = Some(body);
                }
                ("SMTPUTF8", None) if options.smtputf8 => smtputf8 = true,
                ("RET", Some(ret)) if options.dsn => {
                    let known = ["FULL", "HDRS"]
                        .iter()
                        .any(|known| ret.eq_ignore_ascii_case(known));
                    refuse_if(!known, "501 5.5.4 Bad RET")?;
                }
                ("ENVID", Some(id)) if options.dsn => {
                    refuse_if(
                        !is_xtext(id) || id.len() > ENVID_LIMIT,
                        "501 5.5.4 Bad ENVID",
                    )?;
                }
                ("REQUIRETLS", None) if self.requires_tls() => {}
                ("PRDR", None) if self.gives_prdr() => prdr = true,
                // Part of the AUTH extension, and ignored (RFC 4954 §5).
                ("AUTH", Some(_)) if options.auth.is_some() => {}
                _ => return Err("555 5.5.4 Parameter not recognized".into()),
            }
        }
        // The codes are those of RFC 6531 §3.5.
        let plain = path.is_ascii() || smtputf8;
        refuse_if(!plain, "553 5.6.7 Address needs SMTPUTF8")?;
        let message = StoredMessage {
            session: self.number,
            reverse_path: path.to_owned(),
            mail_parameters: text.to_owned(),
            forward_paths: Vec::new(),
            rcpt_parameters: Vec::new(),
            path: None,
            content: Bytes::new(),
            octets: 0,
            tls: self.tls.is_some(),
            body_parameter,
            client_name,
        };
        self.dialogue.transaction = Some(Transaction {
            message,
            smtputf8,
            prdr,
            rcpts: 0,
            chunks: None,
        });
        self.reply("250 2.1.0 Ok");
        Ok(())
    }

    pub(super) fn rcpt(&mut self, argument: &str) -> Result<(), Fault> {
        let transaction = self
            .dialogue
            .transaction
            .as_mut()
            .ok_or("503 5.5.1 MAIL first")?;
        refuse_if(transaction.chunks.is_some(), "503 5.5.1 The data has begun")?;
        transaction.rcpts += 1;
        let most = self
            .options
            .limits
            .map_or(RECIPIENT_LIMIT, |limits| limits.rcpt_max);
        refuse_if(transaction.rcpts > most, "452 4.5.3 Too many recipients")?;
        let (path, text) = split_path(argument, "TO:")?;
        // Postmaster alone needs no domain (RFC 5321 §4.1.1.3).
        let valid = is_mailbox(path) || path.eq_ignore_ascii_case("postmaster");
        refuse_if(!valid, "501 5.1.3 Bad recipient address")?;
        for (name, value) in parameters(text)? {
            match (name.as_str(), value) {
                ("NOTIFY", Some(when)) if self.options.dsn => {
                    refuse_if(!is_notify(when), "501 5.5.4 Bad NOTIFY")?;
                }
                ("ORCPT", Some(original)) if self.options.dsn => {
                    let (kind, address) = original.split_once(';').unwrap_or_default();
                    let right =
                        !kind.is_empty() && is_xtext(address) && original.len() <= ORCPT_LIMIT;
                    refuse_if(!right, "501 5.5.4 Bad ORCPT")?;
                }
                _ => return Err("555 5.5.4 Parameter not recognized".into()),
            }
        }
        let plain = path.is_ascii() || transaction.smtputf8;
        refuse_if(!plain, "553 5.6.7 Address needs SMTPUTF8")?;
        for (prefix, code, text) in [
            ("refused", "550 5.1.1", "no such user here"),
            ("greylisted", "450 4.2.0", "greylisted, try again later"),
            ("full", "452 4.2.2", "mailbox full"),
        ] {
            refuse_if(path.starts_with(prefix), &about(path, code, text))?;
        }
        transaction.message.forward_paths.push(path.to_owned());
        transaction.message.rcpt_parameters.push(text.to_owned());
        self.reply("250 2.1.5 Ok");
        Ok(())
    }
}
