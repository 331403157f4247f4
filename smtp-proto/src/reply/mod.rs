//! Replies (RFC 5321 section 4.2): octets in, [`Reply`] out. Decoding can stop at any octet, and is bounded.
//!
//! The text of a reply is octets, because servers send Latin-1, UTF-8 and worse. It becomes printable where a person
//! reads it ([`Printable`]).

use alloc::sync::Arc;
use core::fmt;

use bytes::Bytes;

mod decoder;

pub use crate::enhanced::EnhancedCode;
pub use crate::text::Printable;
pub use decoder::{Decoder, ReplyError, ReplyLimits};

/// The first digit of a reply code (RFC 5321 section 4.2.1). It alone tells a client what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum ReplyClass {
    /// 2yz: the command was done.
    Success,
    /// 3yz: the server waits for more, such as the body or the answer to a challenge.
    Intermediate,
    /// 4yz: refused for now. The same may succeed later.
    Transient,
    /// 5yz: refused. The same will be refused again.
    Permanent,
}

/// A three-digit reply code whose first digit is 2 to 5.
///
/// ```
/// use smtp_proto::reply::{ReplyClass, ReplyCode};
///
/// let code = ReplyCode::new(451).unwrap();
/// assert_eq!(code.class(), ReplyClass::Transient);
/// assert_eq!(code.to_string(), "451");
/// assert_eq!(ReplyCode::new(199), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyCode(u16);

impl ReplyCode {
    /// The code with this number, if it lies from 200 to 599.
    pub const fn new(code: u16) -> Option<Self> {
        match code {
            200..=599 => Some(Self(code)),
            _ => None,
        }
    }

    /// The number, 200 to 599.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The class of the first digit.
    pub const fn class(self) -> ReplyClass {
        match self.0 / 100 {
            2 => ReplyClass::Success,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            _ => ReplyClass::Permanent,
        }
    }

    /// Parses the code at the start of a line: exactly three digits, the first 2 to 5. The grammar allows 0 to 5 for
    /// the second digit. The code allows others too, since that digit decides nothing.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        match *line {
            // rule: replies.not-a-code
            [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
                let digit = |byte: u8| u16::from(byte - b'0');
                Some(Self(digit(a) * 100 + digit(b) * 10 + digit(c)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A whole reply, borrowed from the decoder: the result of [`Decoder::decode`]. [`to_reply`] makes a copy to keep.
///
/// [`to_reply`]: ReplyRef::to_reply
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReplyRef<'a> {
    pub(crate) code: ReplyCode,
    pub(crate) text: &'a [u8],
}

impl<'a> ReplyRef<'a> {
    /// The same with another text.
    pub(crate) fn with_text<'b>(self, text: &'b [u8]) -> ReplyRef<'b> {
        ReplyRef {
            code: self.code,
            text,
        }
    }

    /// The reply code. If the lines differ, it is that of the last line.
    pub fn code(&self) -> ReplyCode {
        self.code
    }

    /// The class of the first digit.
    pub fn class(&self) -> ReplyClass {
        self.code.class()
    }

    /// The text of all lines, without codes and line ends, separated by single LFs.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The text line by line. A reply has at least one line, which may be empty.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.text.split(|&b| b == b'\n')
    }

    /// The enhanced status code (RFC 2034) of the first line, if its class agrees with the reply code. Servers send
    /// them even without offering ENHANCEDSTATUSCODES.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        // rule: replies.enhanced-doubled
        // rule: replies.enhanced-disagrees
        EnhancedCode::parse(self.text).filter(|e| u16::from(e.class) == self.code.0 / 100)
    }

    /// The text after the enhanced status code, if it begins with one.
    pub(crate) fn plain_text(&self) -> &'a [u8] {
        EnhancedCode::split(self.text)
            .map_or(self.text, |(_, rest)| rest)
            .trim_ascii()
    }

    /// An owned copy of at most `most` octets, cut at a line end if possible, and marked.
    pub(crate) fn cut(&self, most: usize) -> Reply {
        const MARK: &[u8] = b"\n[cut]";
        if self.text.len() <= most {
            return self.to_reply();
        }
        let front = &self.text[..most.saturating_sub(MARK.len())];
        let end = front
            .iter()
            .rposition(|&octet| octet == b'\n')
            .unwrap_or(front.len());
        Reply {
            code: self.code,
            text: [&front[..end], MARK].concat().into(),
        }
    }

    /// An owned copy: one allocation.
    pub fn to_reply(&self) -> Reply {
        Reply {
            code: self.code,
            text: self.text.into(),
        }
    }
}

impl fmt::Display for ReplyRef<'_> {
    /// One line, such as `550 5.1.1 no such user`. Spaces separate the lines of the reply. An enhanced code that each
    /// line repeats appears once. Unprintable characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        let first = EnhancedCode::parse(self.text);
        for (index, line) in self.lines().enumerate() {
            let line = match EnhancedCode::split(line) {
                Some((code, rest)) if index > 0 && Some(code) == first => rest.trim_ascii_start(),
                _ => line,
            };
            if !line.is_empty() {
                write!(f, " {}", Printable(line))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ReplyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({self})")
    }
}

/// A server's whole reply. Cloning it does not copy the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    code: ReplyCode,
    text: Arc<[u8]>,
}

impl Reply {
    /// A reply with this code and this text, whose lines are separated by LF.
    pub fn new(code: ReplyCode, text: &[u8]) -> Self {
        ReplyRef { code, text }.to_reply()
    }

    /// The same, borrowed.
    pub fn borrow(&self) -> ReplyRef<'_> {
        ReplyRef {
            code: self.code,
            text: &self.text,
        }
    }

    /// The reply code. If the lines differ, it is that of the last line.
    pub fn code(&self) -> ReplyCode {
        self.code
    }

    /// The class of the first digit.
    pub fn class(&self) -> ReplyClass {
        self.code.class()
    }

    /// The text of all lines as the server sent it, separated by single LFs. It may be any octets.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The text as [`Bytes`], which share its memory.
    ///
    /// ```
    /// use smtp_proto::{Reply, reply::ReplyCode};
    ///
    /// let reply = Reply::new(ReplyCode::new(250).unwrap(), b"2.0.0 queued as 4711");
    /// let id = reply.text_bytes().slice(16..);
    /// drop(reply);
    /// assert_eq!(id, "4711");
    /// ```
    pub fn text_bytes(&self) -> Bytes {
        Bytes::from_owner(self.text.clone())
    }

    /// The text line by line.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.borrow().lines()
    }

    /// The enhanced status code, if its class agrees with the reply code.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.borrow().enhanced()
    }
}

impl fmt::Display for Reply {
    /// One printable line, as [`ReplyRef`] writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrow().fmt(f)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.borrow(), f)
    }
}
