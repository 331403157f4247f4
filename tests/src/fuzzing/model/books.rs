//! What the server writes down: what was named, what it took, and what it said.

/// The number of a reply, which stands in its text.
pub(crate) type ReplyIndex = usize;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The greeting, EHLO, LHLO or HELO.
    Opening,
    Rset,
    /// MAIL, which begins this transaction.
    Mail(usize),
    Rcpt {
        transaction: usize,
        message: usize,
        recipient: usize,
    },
    Data(usize),
    /// A chunk that is not the last.
    Chunk(usize),
    /// The end of the data, for all.
    End(usize),
    /// The end of the data, for one recipient (LMTP, PRDR).
    EndFor {
        transaction: usize,
        recipient: usize,
    },
    /// PRDR: the end of the data, after the replies for each recipient.
    EndOfAll(usize),
    /// PRDR: 353, before those.
    Start,
    Request(usize),
    Quit,
    /// 421 or 221, which say that the server goes.
    Leaving,
    /// Nothing was owed, and so many of the client's octets were read.
    Surplus {
        read: usize,
    },
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) code: u16,
    /// Its lines, separated by LF.
    pub(crate) text: String,
    pub(crate) about: About,
    /// Where it ends in the server's octets.
    pub(crate) end: usize,
    /// It came after the server had lost commands, so it may answer another one in the client's view.
    pub(crate) after_loss: bool,
    /// The token that it answers, by its place in [`Books::tokens`].
    pub(crate) answers: Option<usize>,
}

/// Something that demands a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) kind: Kind,
    /// Where it ends in the client's octets.
    pub(crate) end: usize,
    /// How many replies it demands. Where nobody knows how many, all that there can be.
    pub(crate) replies: usize,
}

/// How long a client waits for the reply depends on this (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RSET and MAIL.
    First,
    Chunk,
    End,
    /// Whose timeouts are the same in all scenes.
    Other,
}

impl Said {
    /// No client goes on after such a reply, so it need not read what follows.
    pub(crate) fn ends_session(&self) -> bool {
        match self.about {
            About::Rset => self.code >= 300,
            About::Mail(_) => self.code == 503,
            About::Leaving => self.code == 421,
            About::Surplus { .. } => true,
            _ => self.code == 421 || self.after_loss,
        }
    }
}

/// A mail transaction as the client's octets have it, whatever the server thinks of it. That its MAIL,
/// its RCPTs and its end are here means that they were given to the network, not that they arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) message: usize,
    /// Each recipient that was named, and the reply to it.
    pub(crate) named: Vec<(usize, Option<ReplyIndex>)>,
    pub(crate) prdr: bool,
    /// The last octet of the end of data was given.
    pub(crate) ended: bool,
    /// Some octets of the end were.
    pub(crate) end_begun: bool,
}

impl Transaction {
    pub(crate) fn reply_to(&self, recipient: usize) -> Option<Option<ReplyIndex>> {
        self.named
            .iter()
            .rev()
            .find(|(named, _)| *named == recipient)
            .map(|(_, reply)| *reply)
    }
}

/// The server has taken the responsibility for this message to this recipient.
#[derive(Clone, Debug)]
pub(crate) struct Taking {
    pub(crate) message: usize,
    pub(crate) recipient: usize,
    /// The reply that says so; none if there was no time for it.
    pub(crate) reply: Option<ReplyIndex>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) said: Vec<Said>,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) takings: Vec<Taking>,
    /// What was stored, with the transaction it came in.
    pub(crate) stored: Vec<(usize, Vec<u8>)>,
    /// All that demands a reply, in order, whether it arrived or not.
    pub(crate) demands: Vec<Demand>,
    /// The last line that was given is MAIL, and not all of it was.
    pub(crate) mail_begun: bool,
    /// What must not happen whatever the reports say.
    pub(crate) faults: Vec<String>,
}

impl Books {
    pub(crate) fn takings_of(
        &self,
        message: usize,
        recipient: usize,
    ) -> impl Iterator<Item = &Taking> {
        self.takings
            .iter()
            .filter(move |t| (t.message, t.recipient) == (message, recipient))
    }

    /// Whether an octet of its MAIL was given.
    pub(crate) fn is_begun(&self, message: usize) -> bool {
        let last = self.transactions.iter().map(|t| t.message).max();
        last >= Some(message) || self.mail_begun
    }

    /// The transactions of this message, the last one first, with their numbers.
    pub(crate) fn of_message(&self, message: usize) -> impl Iterator<Item = (usize, &Transaction)> {
        self.transactions
            .iter()
            .enumerate()
            .rev()
            .filter(move |(_, t)| t.message == message)
    }

    /// The replies that decide about this recipient of this transaction after its data.
    pub(crate) fn deciding(&self, number: usize, who: usize, lmtp: bool) -> Option<&Said> {
        self.said.iter().find(|said| match said.about {
            About::End(transaction) => transaction == number && !lmtp,
            About::EndOfAll(transaction) => transaction == number,
            About::EndFor {
                transaction,
                recipient,
            } => lmtp && (transaction, recipient) == (number, who),
            _ => false,
        })
    }

    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }
}
