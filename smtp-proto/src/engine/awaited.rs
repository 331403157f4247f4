//! What the next reply answers. One table of rules says which classes can answer, and how long a reply may take.

use core::time::Duration;

use crate::config::Timeouts;
use crate::error::Stage;
use crate::event::MessageId;
use crate::reply::{ReplyClass, ReplyRef};

/// What the next reply answers. A reply to a message cannot lack its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Opening(OpeningReply),
    Message(MessageId, MessageReply),
    /// A command outside a transaction, or the RSET before it.
    Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpeningReply {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    AuthCancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageReply {
    /// `overlapping`: sent in one batch with the end of the data before it (RFC 2920 section 3.1).
    Rset {
        overlapping: bool,
    },
    Mail {
        overlapping: bool,
    },
    /// The recipient, by its position in the envelope.
    Rcpt(u32),
    Data,
    /// A chunk of this many octets that is not the last.
    Chunk(u32),
    EndOfData,
    /// LMTP and PRDR: the recipient whose fate this reply decides.
    EndOfDataFor(u32),
    /// PRDR: the reply that decides for all, after those for each recipient.
    EndOfAll,
}

/// Which replies are possible, and how long a reply may take.
pub(crate) struct Rule {
    pub(crate) stage: Stage,
    /// The classes that can answer. Any other class breaks the protocol.
    pub(super) classes: &'static [ReplyClass],
    pub(super) timeout: fn(&Timeouts) -> Duration,
}

impl Awaited {
    /// RFC 5321 section 4.3.2 and section 4.5.3.2 as one table.
    pub(crate) fn rule(self) -> Rule {
        use MessageReply as M;
        use OpeningReply as O;
        use ReplyClass::{Intermediate, Permanent, Success, Transient};
        use Stage::{
            Auth, Body, Data, Ehlo, EndOfMessage, Greeting, Mail, Rcpt, Request, StartTls,
        };
        const DONE: &[ReplyClass] = &[Success, Transient, Permanent];
        const GO_ON: &[ReplyClass] = &[Intermediate, Transient, Permanent];
        const ANY: &[ReplyClass] = &[Success, Intermediate, Transient, Permanent];
        let (stage, classes, timeout): (_, _, fn(&Timeouts) -> Duration) = match self {
            // rule: opening.greeting-timeout
            Self::Opening(O::Greeting) => (Greeting, DONE, |t| t.greeting),
            // rule: opening.wrong-class
            Self::Opening(O::Ehlo | O::Helo) => (Ehlo, DONE, |t| t.ehlo),
            Self::Opening(O::StartTls) => (StartTls, DONE, |t| t.starttls),
            Self::Opening(O::Auth | O::AuthCancel) => (Auth, ANY, |t| t.auth),
            Self::Message(_, M::Rset { overlapping: true } | M::Mail { overlapping: true }) => {
                (Mail, DONE, |t| t.overlap)
            }
            Self::Message(_, M::Rset { .. } | M::Mail { .. }) => (Mail, DONE, |t| t.mail),
            // rule: ends.timeout-in-the-envelope
            Self::Message(_, M::Rcpt(_)) => (Rcpt, DONE, |t| t.rcpt),
            Self::Message(_, M::Data) => (Data, GO_ON, |t| t.data),
            // rule: chunking.wrong-class
            // rule: chunking.timeout
            Self::Message(_, M::Chunk(_)) => (Body, DONE, |t| t.block),
            // Under PRDR, a 353 comes first.
            Self::Message(_, M::EndOfData) => (EndOfMessage, ANY, |t| t.end_of_message),
            // rule: prdr.timeout
            Self::Message(_, M::EndOfDataFor(_) | M::EndOfAll) => {
                (EndOfMessage, DONE, |t| t.end_of_message)
            }
            // rule: requests.dialogue
            // rule: requests.timeout
            Self::Request => (Request, DONE, |t| t.request),
        };
        Rule {
            stage,
            classes,
            timeout,
        }
    }

    pub(crate) fn stage(self) -> Stage {
        self.rule().stage
    }

    pub(crate) fn message(self) -> Option<MessageId> {
        match self {
            Self::Message(id, _) => Some(id),
            Self::Opening(_) | Self::Request => None,
        }
    }

    pub(super) fn reply(self) -> Option<MessageReply> {
        match self {
            Self::Message(_, reply) => Some(reply),
            Self::Opening(_) | Self::Request => None,
        }
    }

    pub(super) fn is_rset(self) -> bool {
        matches!(self.reply(), Some(MessageReply::Rset { .. }))
    }

    pub(super) fn is_mail(self) -> bool {
        matches!(self.reply(), Some(MessageReply::Mail { .. }))
    }

    pub(crate) fn is_end_of_data(self) -> bool {
        use MessageReply::{EndOfAll, EndOfData, EndOfDataFor};
        matches!(self.reply(), Some(EndOfData | EndOfDataFor(_) | EndOfAll))
    }

    /// Whether octets of a body come before it: those of a chunk, or the end of all.
    pub(crate) fn is_of_body(self) -> bool {
        matches!(self.reply(), Some(MessageReply::Chunk(_))) || self.is_end_of_data()
    }

    /// The same for a command that overlaps nothing.
    pub(super) fn alone(self) -> Self {
        match self {
            Self::Message(id, MessageReply::Rset { .. }) => {
                Self::Message(id, MessageReply::Rset { overlapping: false })
            }
            Self::Message(id, MessageReply::Mail { .. }) => {
                Self::Message(id, MessageReply::Mail { overlapping: false })
            }
            other => other,
        }
    }

    pub(crate) fn overlaps(self) -> bool {
        use MessageReply::{Mail, Rset};
        matches!(
            self.reply(),
            Some(Rset { overlapping: true } | Mail { overlapping: true })
        )
    }

    /// Whether this reply can answer. The first digit decides. `of_rcpt` is set if commands overlap and only RCPT has
    /// this code. For another command, such a code shows that the queue of replies has shifted.
    pub(crate) fn can_be(self, reply: ReplyRef<'_>, of_rcpt: bool) -> bool {
        // rule: transaction.overlap-codes
        let is_rcpt = matches!(self.reply(), Some(MessageReply::Rcpt(_)) | None);
        self.rule().classes.contains(&reply.class()) && (is_rcpt || !of_rcpt)
    }
}
