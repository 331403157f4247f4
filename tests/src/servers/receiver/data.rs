//! DATA and BDAT, and the answer to the end of the data.

use super::incoming::{BARE, Incoming, Unstuffer};
use super::rules::{Plan, Step};
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

    pub(super) fn data(&mut self, line: &str) -> Result<(), Fault> {
        let plan = self.shared.plan(Step::Data, line.as_bytes());
        let begun = self.at(plan, 1, |session| {
            let transaction = session.transaction()?;
            let binary = transaction.message.body_parameter.as_deref() == Some("BINARYMIME");
            // RFC 3030 §2 and §3.
            refuse_if(
                binary || transaction.chunks.is_some(),
                "503 5.5.1 Only BDAT can follow",
            )?;
            let incoming = Incoming::new(session.shared)?;
            session.reply("354 End data with <CR><LF>.<CR><LF>");
            Ok(incoming)
        })?;
        let Some(mut incoming) = begun else {
            return Ok(());
        };
        self.begin_body(&mut incoming)?;
        self.receive(&mut incoming)?;
        // The transaction is over with any outcome (RFC 5321 §4.1.1.4).
        match self.dialogue.transaction.take() {
            Some(transaction) => self.finish(transaction, incoming),
            None => Ok(()),
        }
    }

    /// Applies the test's rules before the first octet of a body.
    fn begin_body(&mut self, incoming: &mut Incoming) -> Result<(), Fault> {
        let plan = self.shared.plan(Step::Body, b"");
        if plan.silence {
            return self.be_silent();
        }
        if let Some(time) = plan.delay {
            self.flush()?;
            self.pause(time)?;
        }
        incoming.cut = plan.cut.map(|_| 0).or(plan.cut_in_body);
        incoming.may_go_on()
    }

    /// Accepts or refuses the message, unless the test has another rule.
    fn finish(&mut self, transaction: Transaction, incoming: Incoming) -> Result<(), Fault> {
        let (plan, replies) = self.plan_for_end(&transaction, &incoming);
        let done = self.at(plan, replies, |session| {
            if let Some(refusal) = incoming.refusal {
                drop(incoming); // a file is gone before the client knows
                return Err(refusal.into());
            }
            session.store(transaction, incoming);
            Ok(())
        });
        done.map(drop)
    }

    /// The test's rule at the end of the data, and the number of replies in a refusal. LMTP answers for every
    /// accepted recipient (RFC 2033 §4.2).
    fn plan_for_end(&self, transaction: &Transaction, incoming: &Incoming) -> (Plan, usize) {
        let content = incoming.spool.content();
        let replies = match self.options.lmtp {
            true => transaction.message.forward_paths.len(),
            false => 1,
        };
        (self.shared.plan(Step::EndOfData, &content), replies)
    }

    /// Receives the message data to its very end.
    pub(super) fn receive(&mut self, incoming: &mut Incoming) -> Result<(), Fault> {
        let mut unstuffer = Unstuffer::default();
        let mut text = Vec::new();
        loop {
            let (used, ended) = unstuffer.feed(&self.input[self.held.clone()], &mut text);
            self.held.start += used;
            incoming.write(&text, self.options.max_size);
            incoming.may_go_on()?;
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

    pub(super) fn bdat(&mut self, line: &str, argument: &str) -> Result<(), Fault> {
        let (size, last) = match argument.split_once(' ') {
            Some((size, last)) if last.eq_ignore_ascii_case("LAST") => (size, true),
            _ => (argument, false),
        };
        let digits = !size.is_empty() && size.bytes().all(|b| b.is_ascii_digit());
        let size = size.parse().ok().filter(|_| digits);
        let mut left: u64 = size.ok_or("501 5.5.4 Syntax: BDAT size [LAST]")?;
        // The chunk is always read. Otherwise it would be taken for commands (RFC 3030 §2).
        let mut incoming = match self.chunks() {
            Err(Fault::Cut) => return Err(Fault::Cut),
            Err(Fault::Over) => return Err(Fault::Over),
            incoming => incoming,
        };
        while left > 0 {
            if self.held.is_empty() {
                self.fill()?;
            }
            let held = self.held.len();
            let used = usize::try_from(left).map_or(held, |left| left.min(held));
            let octets = &self.input[self.held.start..self.held.start + used];
            if let Ok(incoming) = &mut incoming {
                incoming.take_chunk(octets, self.options.max_size);
                incoming.may_go_on()?;
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
            return self.finish(transaction, incoming);
        }
        let (plan, replies) = match last {
            true => self.plan_for_end(&transaction, &incoming),
            false => (self.shared.plan(Step::Data, line.as_bytes()), 1),
        };
        let taken = self.at(plan, replies, |session| match incoming.refusal {
            Some(refusal) => Err(refusal.into()),
            None => {
                session.reply(&format!("250 2.0.0 {} octets received", incoming.octets));
                Ok(())
            }
        })?;
        if taken.is_none() {
            // Only RSET helps now (RFC 3030 §2).
            incoming.refusal = Some("503 5.5.1 RSET first");
        }
        transaction.chunks = Some(incoming);
        self.dialogue.transaction = Some(transaction);
        Ok(())
    }

    /// The target of the next chunk.
    pub(super) fn chunks(&mut self) -> Result<Incoming, Fault> {
        let shared = self.shared;
        let transaction = self.transaction()?;
        let is_text = transaction.message.body_parameter.as_deref() != Some("BINARYMIME");
        match transaction.chunks.take() {
            Some(chunks) => Ok(chunks),
            None => {
                let mut incoming = Incoming::new(shared)?;
                incoming.is_text = is_text;
                self.begin_body(&mut incoming)?;
                Ok(incoming)
            }
        }
    }

    /// Stores the message, and sends the replies for it.
    pub(super) fn store(&mut self, transaction: Transaction, incoming: Incoming) {
        let Transaction {
            mut message, prdr, ..
        } = transaction;
        let recipients = message.forward_paths.clone();
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
            message.octets = incoming.octets;
            all = format!("250 2.0.0 Ok: stored as {:04}", incoming.number);
            (message.content, message.path) = incoming.spool.keep();
            self.taken += 1;
            self.shared.note(|state| state.messages.push(message));
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
