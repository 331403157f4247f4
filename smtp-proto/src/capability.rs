//! What the server offers: the lines of its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1).

use core::fmt;

use crate::reply::{Printable, Reply, ReplyClass, ReplyRef};

/// A service extension that the engine knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Extension {
    /// PIPELINING (RFC 2920): several commands in one round trip.
    Pipelining,
    /// SIZE (RFC 1870): the size of a message announced, and its limit known.
    Size,
    /// 8BITMIME (RFC 6152): octets above 127 in the body.
    EightBitMime,
    /// SMTPUTF8 (RFC 6531): addresses beyond ASCII.
    SmtpUtf8,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    EnhancedStatusCodes,
}

impl Extension {
    const ALL: [Extension; 7] = [
        Extension::Pipelining,
        Extension::Size,
        Extension::EightBitMime,
        Extension::SmtpUtf8,
        Extension::StartTls,
        Extension::Auth,
        Extension::EnhancedStatusCodes,
    ];

    /// The EHLO keyword.
    pub const fn keyword(self) -> &'static str {
        match self {
            Extension::Pipelining => "PIPELINING",
            Extension::Size => "SIZE",
            Extension::EightBitMime => "8BITMIME",
            Extension::SmtpUtf8 => "SMTPUTF8",
            Extension::StartTls => "STARTTLS",
            Extension::Auth => "AUTH",
            Extension::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// The extensions of the current EHLO or LHLO reply; empty before it, after HELO, and while STARTTLS
/// is on its way, because nothing learnt in the clear counts inside TLS (RFC 3207 section 4.2).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    reply: Option<Reply>,
    known: u32,
    size: Option<u64>,
}

impl Capabilities {
    /// Reads the reply to EHLO. Its first line is a greeting and names no extension.
    ///
    /// ```
    /// use smtp_proto::{Capabilities, Extension, Reply, ReplyCode};
    ///
    /// let text = b"mx.example.net\npipelining\nSIZE 0\nAUTH=LOGIN\nAUTH PLAIN LOGIN\n";
    /// let offered = Capabilities::parse(Reply::new(ReplyCode::new(250).unwrap(), text));
    /// assert!(offered.has(Extension::Pipelining));
    /// assert_eq!(offered.size_limit(), None);
    /// assert!(offered.offers_mechanism("plain"));
    /// ```
    pub fn parse(reply: Reply) -> Self {
        let mut known = 0;
        let mut size = None;
        for (keyword, parameters) in extension_lines(reply.borrow()) {
            for extension in Extension::ALL {
                if keyword.eq_ignore_ascii_case(extension.keyword().as_bytes()) {
                    known |= extension.bit();
                    if extension == Extension::Size && size.is_none() {
                        size = words(parameters).next().and_then(parse_size);
                    }
                }
            }
        }
        Self {
            reply: Some(reply),
            known,
            // RFC 1870 section 4: zero says that there is no fixed limit.
            size: size.filter(|&size| size != 0),
        }
    }

    /// Whether the server offers this extension.
    pub fn has(&self, extension: Extension) -> bool {
        self.known & extension.bit() != 0
    }

    /// The largest message that the server takes, in octets, where it states one (RFC 1870).
    pub fn size_limit(&self) -> Option<u64> {
        self.size
    }

    /// The SASL mechanisms that the server offers, as it writes them; also those of the old form
    /// `AUTH=PLAIN LOGIN`. One that is offered twice comes twice.
    pub fn mechanisms(&self) -> impl Iterator<Item = &[u8]> {
        self.parameters("AUTH")
    }

    /// Whether the server offers this SASL mechanism, in any case.
    pub fn offers_mechanism(&self, name: &str) -> bool {
        self.mechanisms().any(|offered| offered.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The words behind an EHLO keyword, for any extension, known to the engine or not.
    pub fn parameters<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.reply
            .iter()
            .flat_map(|reply| extension_lines(reply.borrow()))
            .filter(move |(name, _)| name.eq_ignore_ascii_case(keyword.as_bytes()))
            .flat_map(|(_, parameters)| words(parameters))
    }

    /// The whole reply that this was read from; none after HELO.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for line in self.reply.iter().flat_map(|reply| reply.borrow().lines().skip(1)) {
            list.entry(&format_args!("{}", Printable(line)));
        }
        list.finish()
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// Keyword and parameters of each extension line. The keyword ends at white space, or at the `=` of
/// the pre-standard `AUTH=LOGIN` that old servers still send beside the right one.
fn extension_lines(reply: ReplyRef<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let ok = reply.class() == ReplyClass::Success;
    reply.lines().skip(1).filter(move |_| ok).filter_map(|line| {
        let line = line.trim_ascii();
        let end = line.iter().position(|b| b.is_ascii_whitespace() || *b == b'=').unwrap_or(line.len());
        (end > 0).then(|| (&line[..end], line.get(end + 1..).unwrap_or_default()))
    })
}

/// No number is too large: one beyond 64 bits is as good as no limit, but it is still a number.
fn parse_size(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |size, b| {
        b.is_ascii_digit().then(|| size.saturating_mul(10).saturating_add(u64::from(b - b'0')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ReplyCode;
    use alloc::vec::Vec;

    fn parse(text: &str) -> Capabilities {
        Capabilities::parse(Reply::new(ReplyCode::new(250).unwrap(), text.as_bytes()))
    }

    #[test]
    fn odd_lines_survive() {
        let c = parse(
            "PIPELINING is a name here\n\n  \nsize\t 1000 \nSIZE 5\nAUTH=\nAUTH\nauth cram-md5\n=x\n8bitmime",
        );
        assert!(!c.has(Extension::Pipelining));
        assert!(c.has(Extension::EightBitMime) && c.has(Extension::Auth));
        assert_eq!(c.size_limit(), Some(1000));
        assert_eq!(c.mechanisms().collect::<Vec<_>>(), [&b"cram-md5"[..]]);
    }

    #[test]
    fn sizes() {
        assert_eq!(parse("x\nSIZE").size_limit(), None);
        assert!(parse("x\nSIZE").has(Extension::Size));
        assert_eq!(parse("x\nSIZE 0").size_limit(), None);
        assert_eq!(parse("x\nSIZE 12a").size_limit(), None);
        assert_eq!(parse("x\nSIZE 99999999999999999999999").size_limit(), Some(u64::MAX));
    }
}
