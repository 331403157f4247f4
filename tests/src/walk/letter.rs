//! The alphabet: what an application, a transport or a server can do next.

use std::fmt;

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Letter {
    // The application.
    Submit,
    Request,
    Quit,
    Abort,
    /// Offers so many octets of the rest of the body; `last` says that these are all.
    Offer {
        octets: u8,
        last: bool,
    },
    FinishBody,
    FailBody,
    // The server.
    Reply(Answer),
    // The transport.
    TlsVerified,
    TlsUnverified,
    TlsFailed,
    Eof,
    /// The end of the input, where the half of a reply has come.
    EofInReply,
    /// A write or a read has failed.
    Lost,
    /// The deadline passes.
    Timeout,
    /// The same, where the half of a reply has come.
    TimeoutInReply,
    /// Of what is on offer, or gathered, a line is written.
    WriteLine,
    /// A line is, but for its last octet.
    WritePart,
    /// All of it is.
    WriteAll,
    /// A write of all that was gathered is begun.
    Give,
}

/// What the server says. What it answers is known by the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// The reply that the client hopes for; 250 where nothing is owed.
    Yes,
    /// The same, and a surplus 250 in the same segment.
    YesAndSurplus,
    /// 250 to EHLO without any extension.
    Bare,
    /// 500 to EHLO: then comes HELO.
    Unknown,
    /// 4yz.
    Later,
    /// 5yz.
    No,
    /// 452 to RCPT.
    Full,
    /// 503 to a MAIL that overlaps.
    BadSequence,
    /// 334 to AUTH, 353 to the end of the data (PRDR).
    GoOn,
    /// 504 to AUTH.
    OtherMechanism,
    /// Of a class that cannot answer.
    WrongClass,
    /// 421.
    Leaving,
    /// 221 that nobody asked for.
    Goodbye,
    /// A line that is no reply.
    Garbage,
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(answer) => write!(f, "{answer:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}
