//! Enhanced status codes (RFC 3463), and what the registered ones mean (RFC 5248).

use core::fmt;

/// An enhanced status code (RFC 3463), `class.subject.detail`, as in `5.1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    /// 2 (success), 4 (transient) or 5 (permanent).
    pub class: u8,
    /// 0 to 999: where the trouble lies (1 address, 2 mailbox, 3 system, 4 network, 5 protocol,
    /// 6 content, 7 policy).
    pub subject: u16,
    /// 0 to 999.
    pub detail: u16,
}

impl EnhancedCode {
    /// Reads a code at the start of `text`, ended by a space, a line end or the end of the text.
    ///
    /// ```
    /// use smtp_proto::reply::EnhancedCode;
    ///
    /// let code = EnhancedCode::parse(b"4.2.2 mailbox full").unwrap();
    /// assert_eq!((code.class, code.subject, code.detail), (4, 2, 2));
    /// assert_eq!(EnhancedCode::parse(b"3.2.2 no such class"), None);
    /// ```
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::split(text).map(|(code, _)| code)
    }

    /// The meaning of subject and detail in a few words: the codes of RFC 3463 and of the registry of RFC 5248. The
    /// class is not part of it, because it only says how lasting the trouble is.
    ///
    /// ```
    /// use smtp_proto::reply::EnhancedCode;
    ///
    /// let code = EnhancedCode::parse(b"4.5.3 later").unwrap();
    /// assert_eq!(code.name(), Some("too many recipients"));
    /// assert_eq!(code.subject_name(), Some("protocol"));
    /// assert_eq!(EnhancedCode::parse(b"5.99.1").unwrap().name(), None);
    /// ```
    pub const fn name(&self) -> Option<&'static str> {
        Some(match (self.subject, self.detail) {
            (0, 0) => "something that the server does not specify",
            (1, 0) => "something about an address",
            (1, 1) => "the mailbox does not exist",
            (1, 2) => "the recipient domain does not exist",
            (1, 3) => "the recipient address is malformed",
            (1, 4) => "the recipient address is ambiguous",
            (1, 5) => "the recipient address is valid",
            (1, 6) => "the mailbox has moved and left no new address",
            (1, 7) => "the sender address is malformed",
            (1, 8) => "the sender domain is bad",
            (1, 9) => "passed on to a system that does not keep to the protocol",
            (1, 10) => "the recipient domain takes no mail (null MX)",
            (2, 0) => "something about the mailbox",
            (2, 1) => "the mailbox is disabled",
            (2, 2) => "the mailbox is full",
            (2, 3) => "the message is too long for this mailbox",
            (2, 4) => "the mailing list cannot be expanded",
            (3, 0) => "something about the mail system",
            (3, 1) => "the mail system is full",
            (3, 2) => "the system takes no messages from the network now",
            (3, 3) => "the system lacks a feature that was asked for",
            (3, 4) => "the message is too big for the system",
            (3, 5) => "the system is configured wrongly",
            (3, 6) => "the priority of the message was changed",
            (4, 0) => "something about the network",
            (4, 1) => "the host does not answer",
            (4, 2) => "the connection broke",
            (4, 3) => "the directory service failed",
            (4, 4) => "the recipient cannot be routed to",
            (4, 5) => "the mail system is congested",
            (4, 6) => "the message is in a routing loop",
            (4, 7) => "the time for delivery ran out",
            (5, 0) => "something about the protocol",
            (5, 1) => "the command is not possible here",
            (5, 2) => "the command is malformed",
            (5, 3) => "too many recipients",
            (5, 4) => "an argument of the command is not possible",
            (5, 5) => "the protocol versions do not fit",
            (5, 6) => "a line of the authentication exchange is too long",
            (6, 0) => "something about the content",
            (6, 1) => "the kind of content is not supported",
            (6, 2) => "the content needs a conversion that is forbidden",
            (6, 3) => "the content needs a conversion that is not supported",
            (6, 4) => "the content was converted with losses",
            (6, 5) => "the conversion of the content failed",
            (6, 6) => "the content is not available",
            (6, 7) => "addresses beyond ASCII are not permitted for this sender or recipient",
            (6, 8) => "the reply needs UTF-8, which the client has not allowed",
            (6, 9) => "a header in UTF-8 cannot be passed on to a recipient",
            (6, 10) => "the reply needs UTF-8, which the client has not allowed",
            (7, 0) => "something about security or policy",
            (7, 1) => "delivery is not authorized",
            (7, 2) => "expanding the mailing list is prohibited",
            (7, 3) => "the message needs a security conversion that is not possible",
            (7, 4) => "a security feature is not supported",
            (7, 5) => "cryptography failed",
            (7, 6) => "the cryptographic algorithm is not supported",
            (7, 7) => "the message was altered on its way",
            (7, 8) => "the credentials are invalid",
            (7, 9) => "the authentication mechanism is too weak",
            (7, 10) => "encryption is needed",
            (7, 11) => "this authentication mechanism needs encryption",
            (7, 12) => "the password must be set anew for this mechanism",
            (7, 13) => "the account is disabled",
            (7, 14) => "the server needs a trust relationship",
            (7, 15) => "the priority of the message is too low",
            (7, 16) => "the message is too big for its priority",
            (7, 17) => "the mailbox has changed hands",
            (7, 18) => "the domain has changed hands",
            (7, 19) => "whether the mailbox has changed hands cannot be tested",
            (7, 20) => "no DKIM signature passed",
            (7, 21) => "no DKIM signature is acceptable",
            (7, 22) => "no DKIM signature matches the author",
            (7, 23) => "SPF says that the sender may not send from here",
            (7, 24) => "SPF could not be evaluated",
            (7, 25) => "the reverse DNS of the client does not fit",
            (7, 26) => "several authentication checks failed",
            (7, 27) => "the sender domain takes no mail (null MX)",
            (7, 28) => "the sender sends too much",
            (7, 29) => "ARC validation failed",
            (7, 30) => "the next system cannot keep to REQUIRETLS",
            _ => return None,
        })
    }

    /// The meaning of the subject alone, in one word (RFC 3463 section 3.1). It also exists for details that
    /// [`name`](Self::name) does not know.
    pub const fn subject_name(&self) -> Option<&'static str> {
        Some(match self.subject {
            0 => "other",
            1 => "address",
            2 => "mailbox",
            3 => "system",
            4 => "network",
            5 => "protocol",
            6 => "content",
            7 => "policy",
            _ => return None,
        })
    }

    /// The code at the start of `text`, and what follows it.
    pub(crate) fn split(text: &[u8]) -> Option<(Self, &[u8])> {
        let (class, rest) = match text {
            [class @ (b'2' | b'4' | b'5'), b'.', rest @ ..] => (class - b'0', rest),
            _ => return None,
        };
        let (subject, rest) = number(rest)?;
        let (detail, rest) = number(rest.strip_prefix(b".")?)?;
        match rest {
            [] | [b' ' | b'\t' | b'\n', ..] => Some((
                Self {
                    class,
                    subject,
                    detail,
                },
                rest,
            )),
            _ => None,
        }
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// One to three digits.
fn number(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text
        .iter()
        .take(4)
        .take_while(|b| b.is_ascii_digit())
        .count();
    if !(1..=3).contains(&digits) {
        return None;
    }
    let (digits, rest) = text.split_at(digits);
    Some((
        digits.iter().fold(0, |n, b| n * 10 + u16::from(b - b'0')),
        rest,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_lies_within_a_subject_that_has_one() {
        for subject in 0..=9 {
            for detail in 0..=40 {
                let code = EnhancedCode {
                    class: 5,
                    subject,
                    detail,
                };
                assert!(
                    code.name().is_none() || code.subject_name().is_some(),
                    "{code}"
                );
            }
            // Every named subject has the detail 0.
            let other = EnhancedCode {
                class: 5,
                subject,
                detail: 0,
            };
            assert_eq!(
                other.name().is_some(),
                other.subject_name().is_some(),
                "{other}"
            );
        }
    }
}
