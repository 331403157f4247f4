//! The alphabet: the next actions of an application, a transport or a server.

use std::fmt;

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Letter {
    // The application.
    Submit,
    Request,
    Quit,
    Abort,
    /// Offers this many octets of the rest of the body. `last`: these are all.
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
    /// The end of the input, after half a reply.
    EofInReply,
    /// A write or a read has failed.
    Lost,
    /// The deadline passes.
    Timeout,
    /// The same, after half a reply.
    TimeoutInReply,
    /// One line of the offered or gathered octets is written.
    WriteLine,
    /// One line is written, except its last octet.
    WritePart,
    /// All of them are written.
    WriteAll,
    /// A write of all gathered octets begins.
    Give,
}

/// The server's reply. Its meaning depends on the command that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// The reply that the client hopes for, or 250 if none is owed.
    Yes,
    /// The same, and a surplus 250 in the same segment.
    YesAndSurplus,
    /// 250 to EHLO without any extension.
    Bare,
    /// 500 to EHLO, which HELO follows.
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
    /// A reply of a class that cannot answer.
    WrongClass,
    /// 421.
    Leaving,
    /// 221 that nobody asked for.
    Goodbye,
    /// A line that is not a reply.
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
