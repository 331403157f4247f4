//! The judge's own records: the client's commands, the replies that are owed, and the replies that were given.

use std::collections::VecDeque;

use smtp_proto::Instant;

use super::scene::Offer;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Greeting,
    Hello,
    Helo,
    StartTls,
    Auth,
    AuthCancel,
    Rset,
    Mail,
    /// The recipient, by its place in the envelope.
    Rcpt(usize),
    Data,
    Chunk,
    End,
    /// LMTP and PRDR: the end of the data, for this recipient.
    EndFor(usize),
    /// PRDR: the last reply.
    EndOfAll,
    Request(usize),
}

impl Kind {
    /// Whether it decides about a message whose data have ended.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::End | Self::EndFor(_) | Self::EndOfAll)
    }
}

/// A reply that is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    pub(crate) kind: Kind,
    /// Its transaction, by its place in [`Books::transactions`].
    pub(crate) transaction: Option<usize>,
    /// Where it ends in the octets of the client.
    pub(crate) end: usize,
    /// The octets of its command line.
    pub(crate) octets: usize,
    /// The time when it was written. `None` before that.
    pub(crate) written: Option<Instant>,
    /// It was sent in one batch with the end of the data before it.
    pub(crate) overlaps: bool,
}

/// The place of a reply in [`Books::said`].
pub(crate) type ReplyIndex = usize;

/// A reply that the server gave.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) code: u16,
    pub(crate) text: String,
}

/// A mail transaction, as the client's octets show it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transaction {
    pub(crate) message: usize,
    pub(crate) overlaps: bool,
    pub(crate) mail: Option<ReplyIndex>,
    pub(crate) named: Vec<(usize, Option<ReplyIndex>)>,
    pub(crate) data: Option<ReplyIndex>,
    /// The first chunk that was refused.
    pub(crate) refused_chunk: Option<ReplyIndex>,
    /// MAIL asked for a reply for each recipient.
    pub(crate) prdr: bool,
    /// The end of the data was given.
    pub(crate) ended: bool,
    /// A lone dot was sent, for nobody.
    pub(crate) lone_dot: bool,
    /// The reply to the end of the data, for all recipients.
    pub(crate) of_all: Option<ReplyIndex>,
    /// The same for one recipient.
    pub(crate) of_each: Vec<(usize, ReplyIndex)>,
    /// All replies to the end have come.
    pub(crate) decided: bool,
    /// The application could not give the body.
    pub(crate) given_up: bool,
}

impl Transaction {
    pub(crate) fn reply_to(&self, recipient: usize) -> Option<Option<ReplyIndex>> {
        let named = self.named.iter().find(|(named, _)| *named == recipient);
        named.map(|(_, reply)| *reply)
    }
}

/// How the connection ended, in the judge's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// This reply ended it. It answers the command that was owed first, if any.
    Said(ReplyIndex, Option<(Kind, Option<usize>)>),
    /// Another cause.
    Other,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) owed: VecDeque<Owed>,
    /// How many octets were given, and written.
    pub(crate) given: usize,
    pub(crate) written: usize,
    pub(crate) last_reply: Instant,
    pub(crate) said: Vec<Said>,
    /// The offer of the current EHLO. Empty before it, and after a handshake.
    pub(crate) offer: Offer,
    /// EHLO or HELO was accepted, in the clear or inside TLS as it is now.
    pub(crate) has_hello: bool,
    pub(crate) ehlo_unknown: bool,
    /// Whether the server was verified. `None` outside TLS.
    pub(crate) tls: Option<bool>,
    /// The time since which a handshake is due.
    pub(crate) handshake: Option<Instant>,
    /// 334 was sent, and the client's response is next.
    pub(crate) in_auth: bool,
    /// The number of AUTH commands and responses since EHLO.
    pub(crate) auth_lines: usize,
    pub(crate) logged_in: bool,
    pub(crate) transactions: Vec<Transaction>,
    /// The server may hold a transaction: MAIL was accepted, and neither RSET nor the end of the data since.
    pub(crate) holds: bool,
    pub(crate) quit: bool,
    /// Each request that was given, and its reply.
    pub(crate) requests: Vec<(usize, Option<ReplyIndex>)>,
    /// The reply that ended the session early, and a 221.
    pub(crate) goodbye: Option<ReplyIndex>,
    pub(crate) ending: Option<Ending>,
}

impl Books {
    pub(crate) fn offers(&self, keyword: &str) -> bool {
        let is = |line: &&str| line.split(' ').next() == Some(keyword);
        self.offer.iter().any(is)
    }

    pub(crate) fn code(&self, reply: ReplyIndex) -> u16 {
        self.said[reply].code
    }

    /// The recipients of this transaction that were accepted so far.
    pub(crate) fn accepted(&self, transaction: usize) -> impl Iterator<Item = usize> {
        let named = self.transactions[transaction].named.iter();
        named
            .filter(|(_, reply)| reply.is_some_and(|reply| self.code(reply) < 300))
            .map(|(recipient, _)| *recipient)
    }

    /// The reply that is owed next, if its command may have arrived.
    pub(crate) fn front(&self) -> Option<&Owed> {
        self.owed.front()
    }

    pub(crate) fn current(&mut self) -> Option<&mut Transaction> {
        self.transactions.last_mut()
    }
}
