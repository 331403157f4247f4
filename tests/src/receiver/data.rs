//! DATA and BDAT, and the answer to the end of the data.

use super::incoming::{BARE, Incoming, Unstuffer};
use super::session::{Fault, Session, refuse_if};
use super::syntax::about;
use super::transaction::Transaction;

impl Session<'_> {
    /// The transaction, if data may come now.
    pub(super) fn transaction(&mut self) -> Result<&mut Transaction, Fault> {
        let transaction = self
            .dialogue
            .transaction
            .as_mut()
            .ok_or("503 5.5.1 MAIL first")?;
        let nobody = transaction.message.forward_paths.is_empty();
        // In LMTP the code must be 503 (RFC 2033 §4.2).
        refuse_if(nobody && self.options.lmtp, "503 5.5.1 no valid recipients")?;
        refuse_if(nobody, "554 5.5.1 no valid recipients")?;
        Ok(transaction)
    }

    pub(super) fn data(&mut self) -> Result<(), Fault> {
        let transaction = self.transaction()?;
        let binary = transaction.message.body_parameter.as_deref() == Some("BINARYMIME");
        // RFC 3030 §2 and §3.
        refuse_if(
            binary || transaction.chunks.is_some(),
            "503 5.5.1 Only BDAT can follow",
        )?;
        let mut incoming = Incoming::new(self.shared)?;
        self.reply("354 End data with <CR><LF>.<CR><LF>");
        self.receive(&mut incoming)?;
        // Whatever the outcome, the transaction is over (RFC 5321 §4.1.1.4).
        if let Some(transaction) = self.dialogue.transaction.take() {
            self.store(transaction, incoming);
        }
        Ok(())
    }

    /// Receives the message data to its very end.
    pub(super) fn receive(&mut self, incoming: &mut Incoming) -> Result<(), Fault> {
        let mut unstuffer = Unstuffer::default();
        let mut text = Vec::new();
        loop {
            let (used, ended) = unstuffer.feed(&self.input[self.held.clone()], &mut text);
            self.held.start += used;
            incoming.write(&text, self.options.max_size);
            if unstuffer.bare {
                incoming.refusal = Some(BARE);
            }
            text.clear();
            if ended {
                return Ok(());
            }
            self.fill()?;
        }
    }

    pub(super) fn bdat(&mut self, argument: &str) -> Result<(), Fault> {
        let (size, last) = match argument.split_once(' ') {
            Some((size, last)) if last.eq_ignore_ascii_case("LAST") => (size, true),
            _ => (argument, false),
        };
        let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
        let size = size.parse().ok().filter(|_| digits);
        let mut left: u64 = size.ok_or("501 5.5.4 Syntax: BDAT size [LAST]")?;
        // The chunk is read whatever becomes of it, or it would pass for
        // commands (RFC 3030 §2).
        let mut incoming = self.chunks();
        while left > 0 {
            if self.held.is_empty() {
                self.fill()?;
            }
            let held = self.held.len();
            let used = usize::try_from(left).map_or(held, |left| left.min(held));
            let octets = &self.input[self.held.start..self.held.start + used];
            if let Ok(incoming) = &mut incoming {
                incoming.take_chunk(octets, self.options.max_size);
            }
            self.held.start += used;
            left -= used as u64;
        }
        let mut incoming = incoming?;
        if last {
            incoming.end_chunks();
        }
        let Some(mut transaction) = self.dialogue.transaction.take() else {
            return Ok(());
        };
        if let (true, None) = (last, incoming.refusal) {
            self.store(transaction, incoming);
            return Ok(());
        }
        let reply = incoming.refusal.map_or(
            format!("250 2.0.0 {} octets received", incoming.octets),
            Into::into,
        );
        let lmtp = self.options.lmtp && last;
        let replies = if lmtp {
            transaction.message.forward_paths.len()
        } else {
            1
        };
        (0..replies).for_each(|_| self.reply(&reply));
        // After a refusal nothing but RSET leads on (RFC 3030 §2).
        incoming.refusal = incoming.refusal.map(|_| "503 5.5.1 RSET first");
        transaction.chunks = Some(incoming);
        self.dialogue.transaction = Some(transaction);
        Ok(())
    }

    /// Where the next chunk goes.
    pub(super) fn chunks(&mut self) -> Result<Incoming, Fault> {
        let shared = self.shared;
        let transaction = self.transaction()?;
        let is_text = transaction.message.body_parameter.as_deref() != Some("BINARYMIME");
        match transaction.chunks.take() {
            Some(chunks) => Ok(chunks),
            None => Ok(Incoming {
                is_text,
                ..Incoming::new(shared)?
            }),
        }
    }

    /// Stores the message, and answers for it.
    pub(super) fn store(&mut self, transaction: Transaction, incoming: Incoming) {
        let Transaction {
            mut message, prdr, ..
        } = transaction;
        let recipients = message.forward_paths.clone();
        if let Some(refusal) = incoming.refusal {
            drop(incoming); // the file is gone before the client knows
            // LMTP answers for every accepted recipient (RFC 2033 §4.2).
            let replies = if self.options.lmtp {
                recipients.len()
            } else {
                1
            };
            (0..replies).for_each(|_| self.reply(refusal));
            return;
        }
        let each = prdr || self.options.lmtp;
        let filtered = |path: &String| each && path.starts_with("filtered");
        let mut kept = recipients.iter().map(|path| !filtered(path));
        message
            .rcpt_parameters
            .retain(|_| kept.next().unwrap_or_default());
        message.forward_paths.retain(|path| !filtered(path));
        let delivered = !message.forward_paths.is_empty();
        let mut all = "550 5.7.1 nobody takes this message".to_owned();
        if delivered {
            (message.octets, message.path) = (incoming.octets, incoming.spool.keep());
            let name = message.path.file_name().unwrap_or_default().display();
            all = format!("250 2.0.0 Ok: stored as {name}");
            self.shared.lock().messages.push(message);
            self.shared.arrived.notify_all();
        } else {
            drop(incoming);
        }
        if prdr {
            self.reply("353 each recipient is answered for, and then the message");
        }
        for path in recipients.iter().filter(|_| each) {
            match filtered(path) {
                true => self.reply(&about(path, "550 5.7.1", "does not take this message")),
                false => self.reply(&all),
            }
        }
        if !self.options.lmtp {
            self.reply(&all);
        }
    }
}
