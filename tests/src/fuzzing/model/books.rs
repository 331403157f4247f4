//! The server's records: the named recipients, the accepted messages, and the replies.

/// The number of a reply, which its text contains.
pub(crate) type ReplyIndex = usize;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// The greeting.
    Opening,
    /// EHLO or LHLO.
    Hello,
    StartTls,
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
    /// PRDR: 353, before those replies.
    Start,
    Request(usize),
    Quit,
    /// 421 or 221: the server closes.
    Leaving,
    /// No reply was owed. This many of the client's octets were read.
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
    /// It came after the server had lost commands, so the client may attribute it to another one.
    pub(crate) after_loss: bool,
    /// The token that it answers, by its index in [`Books::tokens`].
    pub(crate) answers: Option<usize>,
}

/// A command that demands a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) kind: Kind,
    /// Where it ends in the client's octets.
    pub(crate) end: usize,
    /// How many replies it demands, or the largest possible number if nobody knows.
    pub(crate) replies: usize,
}

/// The kind decides how long a client waits for the reply (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// EHLO, HELO and LHLO.
    Hello,
    StartTls,
    Rset,
    Mail,
    Rcpt,
    Data,
    Chunk,
    End,
    Request,
    Quit,
}

impl Kind {
    /// Of a line other than BDAT.
    pub(crate) fn of(line: &[u8]) -> Self {
        match line.split(|&b| b == b' ').next().unwrap_or_default() {
            b"EHLO" | b"HELO" | b"LHLO" => Self::Hello,
            b"STARTTLS" => Self::StartTls,
            b"RSET" => Self::Rset,
            b"MAIL" => Self::Mail,
            b"RCPT" => Self::Rcpt,
            b"DATA" => Self::Data,
            b"QUIT" => Self::Quit,
            _ => Self::Request,
        }
    }
}

impl Said {
    /// A client does not go on after such a reply, so it need not read what follows.
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

/// A mail transaction in the client's octets, independent of the server's view. Its MAIL, its RCPTs and its end are
/// recorded when they are given to the network, and may not have arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) message: usize,
    /// Each named recipient, and the reply to it.
    pub(crate) named: Vec<(usize, Option<ReplyIndex>)>,
    pub(crate) prdr: bool,
    /// The last octet of the end of data was given.
    pub(crate) ended: bool,
    /// Some octets of the end were given.
    pub(crate) end_begun: bool,
    /// MAIL, and RCPT for each recipient, as they were read.
    pub(crate) mail: Vec<u8>,
    pub(crate) rcpt: Vec<Vec<u8>>,
    /// It came after the handshake.
    pub(crate) encrypted: bool,
    pub(crate) by_data: bool,
    pub(crate) by_chunks: bool,
    /// Octets above 127 were in its body.
    pub(crate) has_eight_bit: bool,
}

impl Transaction {
    pub(crate) fn reply_to(&self, recipient: usize) -> Option<Option<ReplyIndex>> {
        self.named
            .iter()
            .rev()
            .find(|(named, _)| *named == recipient)
            .map(|(_, reply)| *reply)
    }

    /// LMTP answers the end once for each accepted recipient (RFC 2033 section 4.2): the largest possible number if
    /// some are not answered yet.
    pub(crate) fn due_by_lmtp(&self, said: &[Said]) -> usize {
        let is_accepted = |reply: ReplyIndex| said[reply].code < 300;
        let mut due = 0;
        for (_, reply) in &self.named {
            match reply {
                Some(reply) => due += usize::from(is_accepted(*reply)),
                None => return usize::MAX,
            }
        }
        due.max(1)
    }
}

/// The server has taken responsibility for this message and this recipient.
#[derive(Clone, Debug)]
pub(crate) struct Taking {
    pub(crate) message: usize,
    pub(crate) recipient: usize,
    /// The reply that says so. `None` if it was not sent in time.
    pub(crate) reply: Option<ReplyIndex>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) said: Vec<Said>,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) takings: Vec<Taking>,
    /// The stored messages, each with its transaction.
    pub(crate) stored: Vec<(usize, Vec<u8>)>,
    /// Everything that demands a reply, in order, even if it did not arrive.
    pub(crate) demands: Vec<Demand>,
    /// The last given line is an incomplete MAIL.
    pub(crate) mail_begun: bool,
    /// Violations that are independent of the reports.
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

    /// The transactions of this message with their numbers, the last one first.
    pub(crate) fn of_message(&self, message: usize) -> impl Iterator<Item = (usize, &Transaction)> {
        self.transactions
            .iter()
            .enumerate()
            .rev()
            .filter(move |(_, t)| t.message == message)
    }

    /// The replies after the data that decide about this recipient in this transaction.
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
