//! What the server offers: the lines of its reply to EHLO or LHLO (RFC 5321 section 4.1.1.1).

use core::fmt;

use crate::date_time::seconds_of;
use crate::reply::{Reply, ReplyClass, ReplyRef};
use crate::text::Printable;

/// A service extension that the engine knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Extension {
    /// PIPELINING (RFC 2920): several commands in one round trip.
    Pipelining,
    /// SIZE (RFC 1870): the client announces the size of a message, and the server states its limit.
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
    /// CHUNKING (RFC 3030): the body in counted chunks, by BDAT.
    Chunking,
    /// BINARYMIME (RFC 3030): a body of any octets, without lines.
    BinaryMime,
    /// DSN (RFC 3461): which reports of delivery are wanted.
    Dsn,
    /// DELIVERBY (RFC 2852): a time by which to deliver.
    DeliverBy,
    /// MT-PRIORITY (RFC 6710): which message goes first.
    MtPriority,
    /// FUTURERELEASE (RFC 4865): a time until which to hold a message.
    FutureRelease,
    /// REQUIRETLS (RFC 8689): verified TLS on every hop.
    RequireTls,
    /// RRVS (RFC 7293): delivery only if the mailbox still has the same owner.
    Rrvs,
    /// LIMITS (RFC 9422): how much one session may ask for.
    Limits,
    /// PRDR (draft-hall-prdr): a reply for each recipient after the body.
    Prdr,
    /// XCLIENT, of Postfix: a proxy names the client that it speaks for.
    XClient,
    /// XFORWARD, of Postfix: a proxy says where a message came from.
    XForward,
    /// ETRN (RFC 1985): the client asks the server to process a queue.
    Etrn,
}

impl Extension {
    const ALL: [Self; 20] = [
        Self::Pipelining,
        Self::Size,
        Self::EightBitMime,
        Self::SmtpUtf8,
        Self::StartTls,
        Self::Auth,
        Self::EnhancedStatusCodes,
        Self::Chunking,
        Self::BinaryMime,
        Self::Dsn,
        Self::DeliverBy,
        Self::MtPriority,
        Self::FutureRelease,
        Self::RequireTls,
        Self::Rrvs,
        Self::Limits,
        Self::Prdr,
        Self::XClient,
        Self::XForward,
        Self::Etrn,
    ];

    /// The EHLO keyword.
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::Chunking => "CHUNKING",
            Self::BinaryMime => "BINARYMIME",
            Self::Dsn => "DSN",
            Self::DeliverBy => "DELIVERBY",
            Self::MtPriority => "MT-PRIORITY",
            Self::FutureRelease => "FUTURERELEASE",
            Self::RequireTls => "REQUIRETLS",
            Self::Rrvs => "RRVS",
            Self::Limits => "LIMITS",
            Self::Prdr => "PRDR",
            Self::XClient => "XCLIENT",
            Self::XForward => "XFORWARD",
            Self::Etrn => "ETRN",
        }
    }

    #[cfg(feature = "serde")]
    pub(crate) fn by_keyword(keyword: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|extension| extension.keyword().eq_ignore_ascii_case(keyword))
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

/// The extensions of the current EHLO or LHLO reply. It is empty before that reply, after HELO, and during STARTTLS.
/// Nothing learnt in the clear counts inside TLS (RFC 3207 section 4.2).
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
    /// use smtp_proto::{Capabilities, Extension, Reply, reply::ReplyCode};
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
                // rule: opening.capabilities-odd
                if keyword.eq_ignore_ascii_case(extension.keyword().as_bytes()) {
                    known |= extension.bit();
                    if extension == Extension::Size && size.is_none() {
                        size = words(parameters).next().and_then(parse_number);
                    }
                }
            }
        }
        Self {
            reply: Some(reply),
            known,
            // RFC 1870 section 4: zero means that the server has no fixed limit.
            // rule: opening.size-zero
            size: size.filter(|&size| size != 0),
        }
    }

    /// Whether the server offers this extension.
    pub fn has(&self, extension: Extension) -> bool {
        self.known & extension.bit() != 0
    }

    /// Whether the server offers this EHLO keyword, in any case. The engine need not know it.
    ///
    /// ```
    /// use smtp_proto::{Capabilities, Reply, reply::ReplyCode};
    ///
    /// let offered = Capabilities::parse(Reply::new(ReplyCode::new(250).unwrap(), b"mx\nCONPERM\n"));
    /// assert!(offered.offers("conperm") && !offered.offers("mx"));
    /// ```
    pub fn offers(&self, keyword: &str) -> bool {
        self.lines_of(keyword).next().is_some()
    }

    /// The largest message that the server takes, in octets, if it states a limit (RFC 1870).
    pub fn size_limit(&self) -> Option<u64> {
        self.size
    }

    /// The SASL mechanisms that the server offers, as it writes them. The old form `AUTH=PLAIN LOGIN` counts too. A
    /// mechanism that is offered twice appears twice.
    pub fn mechanisms(&self) -> impl Iterator<Item = &[u8]> {
        self.parameters("AUTH")
    }

    /// Whether the server offers this SASL mechanism, in any case.
    pub fn offers_mechanism(&self, name: &str) -> bool {
        self.mechanisms()
            .any(|offered| offered.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The words after an EHLO keyword. The engine need not know the extension.
    pub fn parameters<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines_of(keyword).flat_map(words)
    }

    fn lines_of<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self
            .reply
            .iter()
            .flat_map(|reply| extension_lines(reply.borrow()));
        lines.filter_map(move |(name, parameters)| {
            name.eq_ignore_ascii_case(keyword.as_bytes())
                .then_some(parameters)
        })
    }

    /// A limit that the server states under LIMITS (RFC 9422), by its name. A value of zero, or one that is not a
    /// number, is ignored. A number beyond 64 bits becomes [`u64::MAX`].
    ///
    /// ```
    /// use smtp_proto::{Capabilities, Reply, reply::ReplyCode};
    ///
    /// let text = b"mx.example.net\nLIMITS RCPTMAX=20 MAILMAX=0";
    /// let offered = Capabilities::parse(Reply::new(ReplyCode::new(250).unwrap(), text));
    /// assert_eq!((offered.limit("rcptmax"), offered.limit("MAILMAX")), (Some(20), None));
    /// ```
    pub fn limit(&self, name: &str) -> Option<u64> {
        if !self.has(Extension::Limits) {
            return None;
        }
        let mut stated = self.parameters("LIMITS").filter_map(|word| {
            let at = word.iter().position(|&b| b == b'=')?;
            word[..at]
                .eq_ignore_ascii_case(name.as_bytes())
                .then_some(&word[at + 1..])
        });
        stated
            .next()
            .and_then(parse_number)
            // rule: limits.nonsense
            .filter(|&limit| limit != 0)
    }

    /// How many RCPTs one transaction may have, including refused ones: RCPTMAX (RFC 9422 section 4.2).
    pub fn recipients_max(&self) -> Option<u64> {
        self.limit("RCPTMAX")
    }

    /// How many MAILs one session may have, including refused ones: MAILMAX (RFC 9422 section 4.1).
    pub fn mails_max(&self) -> Option<u64> {
        self.limit("MAILMAX")
    }

    /// How many different recipient domains one session may have, over all its transactions: RCPTDOMAINMAX (RFC 9422
    /// section 4.3).
    pub fn recipient_domains_max(&self) -> Option<u64> {
        self.limit("RCPTDOMAINMAX")
    }

    /// The shortest time, in seconds, that the server takes in [`MailParameter::deliver_by`] with [`ByMode::Return`]
    /// (RFC 2852). `None` if it states zero or nothing.
    ///
    /// ```
    /// use smtp_proto::{Capabilities, Reply, reply::ReplyCode};
    ///
    /// let text = b"mx.example.net\nDELIVERBY 240";
    /// let offered = Capabilities::parse(Reply::new(ReplyCode::new(250).unwrap(), text));
    /// assert_eq!(offered.deliver_by_minimum(), Some(240));
    /// ```
    ///
    /// [`MailParameter::deliver_by`]: crate::parameter::MailParameter::deliver_by
    /// [`ByMode::Return`]: crate::parameter::ByMode::Return
    pub fn deliver_by_minimum(&self) -> Option<u32> {
        let seconds = self.parameters("DELIVERBY").next().and_then(parse_number)?;
        Some(u32::try_from(seconds).unwrap_or(u32::MAX)).filter(|&seconds| seconds != 0)
    }

    /// How long the server holds a message at most (RFC 4865 section 3): an interval in seconds, and the date-time
    /// (RFC 3339) that ends it, as the server writes it. `None` if either is malformed.
    ///
    /// ```
    /// use smtp_proto::{Capabilities, Reply, reply::ReplyCode};
    ///
    /// let text = b"mx.example.net\nFUTURERELEASE 86400 2027-01-02T00:00:00Z";
    /// let offered = Capabilities::parse(Reply::new(ReplyCode::new(250).unwrap(), text));
    /// assert_eq!(offered.future_release_limits(), Some((86_400, "2027-01-02T00:00:00Z")));
    /// ```
    pub fn future_release_limits(&self) -> Option<(u32, &str)> {
        let mut words = self.parameters("FUTURERELEASE");
        let seconds = words.next().and_then(parse_number)?;
        let until = words
            .next()
            .and_then(|word| core::str::from_utf8(word).ok())?;
        seconds_of(until)?;
        Some((u32::try_from(seconds).unwrap_or(u32::MAX), until))
    }

    /// The whole reply that this was read from. `None` after HELO.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for line in self
            .reply
            .iter()
            .flat_map(|reply| reply.borrow().lines().skip(1))
        {
            list.entry(&format_args!("{}", Printable(line)));
        }
        list.finish()
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// Keyword and parameters of each extension line. The keyword ends at white space or at an `=`. Old servers still
/// send the pre-standard `AUTH=LOGIN` beside the right form.
fn extension_lines(reply: ReplyRef<'_>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let ok = reply.class() == ReplyClass::Success;
    reply
        .lines()
        // rule: opening.first-line-is-no-capability
        .skip(1)
        .filter(move |_| ok)
        .filter_map(|line| {
            let line = line.trim_ascii();
            let end = line
                .iter()
                // rule: auth.old-form
                .position(|b| b.is_ascii_whitespace() || *b == b'=')
                .unwrap_or(line.len());
            (end > 0).then(|| (&line[..end], line.get(end + 1..).unwrap_or_default()))
        })
}

/// Digits of any length. A number beyond 64 bits becomes the largest one, which is as good as unlimited.
fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |size, b| {
        b.is_ascii_digit()
            .then(|| size.saturating_mul(10).saturating_add(u64::from(b - b'0')))
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
        assert_eq!(
            parse("x\nSIZE 99999999999999999999999").size_limit(),
            Some(u64::MAX)
        );
    }

    #[test]
    fn every_keyword_stands_for_its_own_extension() {
        for extension in Extension::ALL {
            let offered = parse(&std::format!("mx\n{}", extension.keyword().to_lowercase()));
            let found: Vec<_> = Extension::ALL
                .into_iter()
                .filter(|&known| offered.has(known))
                .collect();
            assert_eq!(found, [extension]);
            assert!(
                offered.offers(extension.keyword()) && !offered.offers("mx") && !offered.offers("")
            );
        }
    }

    #[test]
    fn limits() {
        let c = parse(
            "x\nlimits RCPTMAX=50 rcptmax=7 MAILMAX=0 RCPTDOMAINMAX=99999999999999999999999 FLAG A= B=2x",
        );
        assert_eq!((c.recipients_max(), c.mails_max()), (Some(50), None));
        assert_eq!(c.recipient_domains_max(), Some(u64::MAX));
        for malformed in ["FLAG", "A", "B", "", "RCPT"] {
            assert_eq!(c.limit(malformed), None, "{malformed}");
        }
        assert_eq!(parse("x\nLIMITS").recipients_max(), None);
        assert_eq!(parse("x\nRCPTMAX=5").recipients_max(), None);
    }

    #[test]
    fn times() {
        for (line, minimum) in [
            ("DELIVERBY", None),
            ("DELIVERBY 0", None),
            ("DELIVERBY -5", None),
            ("DELIVERBY 240", Some(240)),
            ("DELIVERBY 99999999999", Some(u32::MAX)),
        ] {
            assert_eq!(
                parse(&std::format!("x\n{line}")).deliver_by_minimum(),
                minimum,
                "{line}"
            );
        }
        for malformed in [
            "",
            "60",
            "60 tomorrow",
            "x 2027-01-02T00:00:00Z",
            "2027-01-02T00:00:00Z 60",
        ] {
            let c = parse(&std::format!("x\nFUTURERELEASE {malformed}"));
            assert!(c.has(Extension::FutureRelease));
            assert_eq!(c.future_release_limits(), None, "{malformed}");
        }
    }
}
