//! Addresses (RFC 5321 section 4.1.2), and the name that the client gives in EHLO. They cannot hold a CR, LF, NUL or
//! other control character. So no value from here can end a command line.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::text::printable;

/// Longest domain, in octets (RFC 5321 section 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;
/// Longest mailbox, in octets. A command line has 512 octets (RFC 5321 section 4.5.3.1.4), and `MAIL FROM:<>`
/// with its CRLF takes 14 of them.
///
/// RFC 5321 sections 4.5.3.1.1 and 4.5.3.1.3 demand less of a server: 64 octets in a local part and 256 in a path. A
/// client may send more. Senders rewritten by SRS or VERP are longer, and so are addresses with reply tokens. Only
/// the server knows whether it takes them.
pub const MAX_MAILBOX: usize = 498;

/// A mail address as the envelope uses it, or the null reverse-path. Cloning it copies no text.
///
/// The syntax is that of RFC 5321 section 4.1.2 with the UTF-8 of RFC 6531. In addition, `_` is allowed in domain
/// labels, because such domains receive mail. The path form `<a@example.org>` is read as `a@example.org`, and
/// `postmaster` may stand alone. Nothing is repaired.
///
/// ```
/// use smtp_proto::Mailbox;
///
/// let mailbox: Mailbox = "\"Joe Q. Public\"@[IPv6:2001:db8::1]".parse().unwrap();
/// assert_eq!(mailbox.local_part(), "\"Joe Q. Public\"");
/// assert_eq!(mailbox.domain(), Some("[IPv6:2001:db8::1]"));
/// assert!("<>".parse::<Mailbox>().unwrap().is_null());
/// assert!("a@example.org\r\nRCPT TO:<b@example.org>".parse::<Mailbox>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox(Arc<str>);

impl Mailbox {
    /// The null reverse-path `<>`, the sender of delivery reports (RFC 5321 section 4.5.5).
    pub fn null() -> Self {
        Self("".into())
    }

    /// Reads an address. The empty string and `<>` are the null reverse-path.
    ///
    /// # Errors
    /// [`AddressError`] says what is wrong with the address.
    pub fn parse(address: &str) -> Result<Self, AddressError> {
        let inner = match address.strip_prefix('<') {
            Some(rest) => rest.strip_suffix('>').ok_or(AddressProblem::Brackets),
            None => Ok(address),
        };
        match inner.and_then(|inner| check(inner).map(|()| inner)) {
            Ok(inner) => Ok(Self(inner.into())),
            Err(problem) => Err(AddressError {
                address: printable(address),
                problem: match without_display_name(address) {
                    Some(alone) => AddressProblem::DisplayName(printable(alone)),
                    None => problem,
                },
            }),
        }
    }

    /// Whether this is the null reverse-path.
    pub fn is_null(&self) -> bool {
        self.0.is_empty()
    }

    /// The address without angle brackets; empty for the null reverse-path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`, with its quotes.
    pub fn local_part(&self) -> &str {
        // A domain holds no '@', so the last one is the separator, even if the quotes hold others.
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }

    /// The part after the `@`. `None` for the null reverse-path and a lone `postmaster`.
    pub fn domain(&self) -> Option<&str> {
        self.0.rsplit_once('@').map(|(_, domain)| domain)
    }

    /// Whether it can be written without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// The same address for a server without SMTPUTF8, with its domain as A-labels (RFC 5890). `None` if the local
    /// part is beyond ASCII: only its own domain knows what it means, so it is never changed.
    ///
    /// Domains are only converted with the feature `idna`. Without it, the result is `None` for a domain beyond ASCII
    /// too.
    ///
    /// ```
    /// use smtp_proto::Mailbox;
    ///
    /// let ascii = |address| Mailbox::parse(address).unwrap().to_ascii();
    /// assert_eq!(ascii("a@example.org").unwrap().as_str(), "a@example.org");
    /// assert_eq!(ascii("h\u{e4}ns@example.org"), None);
    /// # #[cfg(feature = "idna")]
    /// assert_eq!(ascii("a@b\u{fc}cher.example").unwrap().as_str(), "a@xn--bcher-kva.example");
    /// ```
    pub fn to_ascii(&self) -> Option<Self> {
        match self.is_ascii() {
            true => Some(self.clone()),
            false => self.with_ascii_domain(),
        }
    }

    #[cfg(not(feature = "idna"))]
    fn with_ascii_domain(&self) -> Option<Self> {
        None
    }

    #[cfg(feature = "idna")]
    fn with_ascii_domain(&self) -> Option<Self> {
        let (local, domain) = self
            .0
            .rsplit_once('@')
            .filter(|(local, _)| local.is_ascii())?;
        // The checks below cover the characters and the length of the domain, as for any other. But full-width
        // brackets would pass them, and turn a domain into an address literal.
        let domain = idna::domain_to_ascii_cow(domain.as_bytes(), idna::AsciiDenyList::URL).ok()?;
        let mailbox = Self::parse(&format!("{local}@{domain}")).ok()?;
        mailbox.is_ascii().then_some(mailbox)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        Self::parse(address)
    }
}

/// A type that can be given as an address: any text ([`AsRef<str>`]), which is parsed, or a [`Mailbox`], which was
/// parsed before. A `Mailbox` is neither parsed nor copied again.
///
/// So the address type of another library fits directly, and so does any kind of text:
///
/// ```
/// use std::{borrow::Cow, sync::Arc};
/// use smtp_proto::{Envelope, Mailbox};
///
/// let shared: Arc<str> = "alice@example.org".into();
/// let owned = String::from("bob@example.net");
/// let carol = Mailbox::parse("carol@example.net")?;
/// Envelope::new(&shared, [&owned])?;
/// Envelope::new(shared, [Cow::Borrowed("bob@example.net")])?;
/// Envelope::new(&carol, [owned])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an address",
    note = "give text (`AsRef<str>`) or a `Mailbox`"
)]
pub trait ToMailbox {
    /// The address.
    ///
    /// # Errors
    /// The text is not an address.
    fn to_mailbox(&self) -> Result<Mailbox, AddressError>;
}

impl<T: AsRef<str> + ?Sized> ToMailbox for T {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Mailbox::parse(self.as_ref())
    }
}

// A mailbox is not `AsRef<str>`, so that these can exist beside the blanket implementation. They neither parse nor
// allocate.

impl ToMailbox for Mailbox {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Ok(self.clone())
    }
}

impl ToMailbox for &Mailbox {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Ok((*self).clone())
    }
}

impl ToMailbox for &&Mailbox {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Ok((**self).clone())
    }
}

/// An invalid mail address.
///
/// ```
/// use smtp_proto::Mailbox;
///
/// let error = Mailbox::parse("Bob <bob@example.net>").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "invalid address \"Bob <bob@example.net>\": give the address alone: bob@example.net"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid address \"{address}\": {problem}")]
pub struct AddressError {
    /// The text, made printable.
    pub address: Box<str>,
    /// What is wrong with it.
    pub problem: AddressProblem,
}

/// What is wrong with an address or a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressProblem {
    /// A name before the address, as in the header of a message: `Bob <bob@example.net>`. It holds the address to
    /// give instead, made printable.
    #[error("give the address alone: {0}")]
    DisplayName(Box<str>),
    /// `<` without `>`.
    #[error("the angle brackets do not match")]
    Brackets,
    /// No `@`.
    #[error("it has no @ and no domain")]
    NoDomain,
    /// Nothing before the `@`.
    #[error("nothing stands before the @")]
    EmptyLocalPart,
    /// A character that must be quoted, or cannot be used.
    #[error(
        "{0:?} may not stand in the local part; a space or special character needs double quotes"
    )]
    LocalPart(char),
    /// A dot at the start, at the end, or beside another dot. It holds the address with its local part in quotes,
    /// made printable.
    #[error("a dot of the local part has nothing on one side of it; write {0}")]
    Dots(Box<str>),
    /// A quoted local part with a stray or missing quote or backslash.
    #[error("the quotes of the local part do not match")]
    Quotes,
    /// A domain with an empty, overlong or hyphen-edged label, or with a character that a label cannot hold.
    #[error(
        "the domain must be a dotted list of labels of 1 to 63 letters, digits and inner hyphens"
    )]
    Domain,
    /// Brackets around something other than `1.2.3.4` or `IPv6:2001:db8::1`.
    #[error("the address literal is neither [1.2.3.4] nor [IPv6:2001:db8::1]")]
    Literal,
    /// Over 255 octets.
    #[error("the domain is longer than 255 octets")]
    DomainTooLong,
    /// Over 498 octets ([`MAX_MAILBOX`]).
    #[error("it is longer than the 498 octets that a command line has room for")]
    TooLong,
}

fn check(address: &str) -> Result<(), AddressProblem> {
    // rule: transaction.addresses
    if address.is_empty() || address.eq_ignore_ascii_case("postmaster") {
        return Ok(());
    }
    let (local, domain) = address.rsplit_once('@').ok_or(AddressProblem::NoDomain)?;
    check_local_part(local)?;
    check_domain_or_literal(domain)?;
    if !local.starts_with('"') && local.split('.').any(str::is_empty) {
        let quoted = format!("\"{local}\"@{domain}");
        return Err(AddressProblem::Dots(printable(&quoted)));
    }
    match address.len() > MAX_MAILBOX {
        true => Err(AddressProblem::TooLong),
        false => Ok(()),
    }
}

/// The address of `Bob <bob@example.net>`, if it is one.
fn without_display_name(address: &str) -> Option<&str> {
    let (name, inner) = address.trim_end().strip_suffix('>')?.rsplit_once('<')?;
    (!name.is_empty() && !inner.is_empty() && check(inner).is_ok()).then_some(inner)
}

fn check_local_part(local: &str) -> Result<(), AddressProblem> {
    if local.is_empty() {
        return Err(AddressProblem::EmptyLocalPart);
    }
    match local.strip_prefix('"') {
        Some(rest) => {
            let inner = rest.strip_suffix('"').ok_or(AddressProblem::Quotes)?;
            let mut chars = inner.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\\' => match chars.next() {
                        Some(' '..='~') => {}
                        Some(c) => return Err(AddressProblem::LocalPart(c)),
                        None => return Err(AddressProblem::Quotes),
                    },
                    '"' => return Err(AddressProblem::Quotes),
                    ' '..='~' => {}
                    c if is_utf8_text(c) => {}
                    c => return Err(AddressProblem::LocalPart(c)),
                }
            }
        }
        None => {
            for c in local.chars() {
                let fine = c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
                if !fine && !is_utf8_text(c) {
                    return Err(AddressProblem::LocalPart(c));
                }
            }
        }
    }
    Ok(())
}

fn check_domain_or_literal(domain: &str) -> Result<(), AddressProblem> {
    if domain.len() > MAX_DOMAIN {
        return Err(AddressProblem::DomainTooLong);
    }
    match domain.strip_prefix('[') {
        Some(rest) => {
            let literal = rest.strip_suffix(']').ok_or(AddressProblem::Literal)?;
            let valid = match literal
                .get(..5)
                .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"))
            {
                Some(_) => literal[5..].parse::<Ipv6Addr>().is_ok(),
                None => literal.parse::<Ipv4Addr>().is_ok(),
            };
            valid.then_some(()).ok_or(AddressProblem::Literal)
        }
        None => {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.chars().all(|c| {
                        c.is_ascii_alphanumeric() || c == '-' || c == '_' || is_utf8_text(c)
                    })
            };
            domain
                .split('.')
                .all(label)
                .then_some(())
                .ok_or(AddressProblem::Domain)
        }
    }
}

/// RFC 6531 section 3.3 allows every character beyond ASCII. Control characters and spaces are of no use in an
/// address.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// The name of the client in EHLO, HELO and LHLO: a domain, or an address literal for a host without a domain (RFC
/// 5321 section 4.1.4).
///
/// ```
/// use smtp_proto::ClientName;
///
/// assert_eq!(ClientName::parse("mail.example.org").unwrap().as_str(), "mail.example.org");
/// assert_eq!(ClientName::from("127.0.0.1".parse::<core::net::IpAddr>().unwrap()).as_str(), "[127.0.0.1]");
/// assert!(ClientName::parse("a b").is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(Arc<str>);

impl ClientName {
    /// Reads a domain, or an address literal in brackets. It must be ASCII, because the client sends it before it
    /// knows what the server can do.
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(name: &str) -> Result<Self, AddressError> {
        let ascii = name.is_ascii().then_some(()).ok_or(AddressProblem::Domain);
        match ascii.and_then(|()| check_domain_or_literal(name)) {
            Ok(()) => Ok(Self(name.into())),
            Err(problem) => Err(AddressError {
                address: printable(name),
                problem,
            }),
        }
    }

    /// The name as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<IpAddr> for ClientName {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(v4) => format!("[{v4}]").into(),
            IpAddr::V6(v6) => format!("[IPv6:{v6}]").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    #[test]
    fn addresses_that_are() {
        let long = format!("{}@{}.example", "a".repeat(100), "b".repeat(63));
        let longest_domain = format!("a@{}", "bbbbbbb.".repeat(31) + "bbbbbbb");
        assert_eq!(longest_domain.len(), "a@".len() + MAX_DOMAIN);
        for address in [
            "a@b",
            "a.b+c=d/e@example.org",
            "\"a b\"@example.org",
            "\"a@b\\\"<>\"@example.org",
            "\"\"@b",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "Postmaster",
            "",
            "<>",
            "<a@b>",
            "häns@example.org",
            "a@bücher.example",
            "a@x_y.example",
            "a@1.2",
            &long,
            &longest_domain,
        ] {
            assert!(
                Mailbox::parse(address).is_ok(),
                "{address}: {:?}",
                Mailbox::parse(address)
            );
        }
        assert_eq!(Mailbox::parse("\"a@b\"@c").unwrap().local_part(), "\"a@b\"");
    }

    #[test]
    fn addresses_that_are_not() {
        let label = format!("a@{}", "b".repeat(64));
        let long = format!("a@{}", "bbbbbbb.".repeat(32) + "bb");
        for address in [
            "a",
            "@b",
            "a@",
            "a b@c",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a@b..c",
            "a@.b",
            "a@b.",
            "a@-b",
            "a@b-",
            "\"a@b",
            "a\"@b",
            "\"a\"b\"@c",
            "\"a\\\"@b",
            "a@[1.2.3]",
            "a@[::1]",
            "a@[IPv6:zz]",
            "a@[x",
            "a@b\r\n",
            "\"a\r\n\"@b",
            "\"a\0\"@b",
            "a\0@b",
            "<a@b",
            "a@b>",
            "a<@b",
            "a@b c",
            "a@\u{a0}b",
            "\u{85}@b",
            "@x,@y:a@b",
            "a@b@",
            "<<a@b>>",
            " a@b",
            "a@b ",
            &label,
            &long,
        ] {
            assert!(Mailbox::parse(address).is_err(), "{address:?} was accepted");
        }
    }

    #[test]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "that references are taken is what it shows"
    )]
    fn whatever_is_text_is_an_address() {
        use crate::envelope::{Envelope, Recipient, ToRecipient};
        use alloc::borrow::Cow;
        use alloc::rc::Rc;
        use alloc::vec::Vec;

        struct Foreign;
        impl AsRef<str> for Foreign {
            fn as_ref(&self) -> &str {
                "a@b"
            }
        }
        struct Own(Mailbox);
        impl ToMailbox for Own {
            fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
                Ok(self.0.clone())
            }
        }

        fn take(sender: impl ToMailbox, recipient: impl ToRecipient) {
            let envelope = Envelope::new(sender, [recipient]).unwrap();
            assert_eq!(envelope.reverse_path(), &envelope.forward_paths()[0]);
        }
        let (text, mailbox) = (String::from("a@b"), Mailbox::parse("a@b").unwrap());
        let recipient = Recipient::new(&mailbox).unwrap();
        take("a@b", "a@b");
        take(&"a@b", &"a@b");
        take(&text, &text);
        take(text.clone(), &&text);
        take(Arc::<str>::from("a@b"), Box::<str>::from("a@b"));
        take(&Arc::<str>::from("a@b"), &Rc::<str>::from("a@b"));
        take(Cow::Borrowed("a@b"), Cow::<str>::Owned(text));
        take(Foreign, &Foreign);
        take(Own(mailbox.clone()), Own(mailbox.clone()));
        take(&mailbox, &recipient);
        take(&&mailbox, &mailbox);
        take(mailbox.clone(), recipient);
        let list = alloc::vec![mailbox];
        let borrowed: Vec<&Mailbox> = list.iter().collect();
        Envelope::new(borrowed[0], &borrowed).unwrap();
        let envelope = Envelope::new(&list[0], &list).unwrap();
        // The text is shared, and not copied.
        assert_eq!(
            envelope.forward_paths()[0].as_str().as_ptr(),
            list[0].as_str().as_ptr()
        );
    }

    #[test]
    fn errors_say_what_to_write() {
        let problem = |address: &str| Mailbox::parse(address).unwrap_err().problem.to_string();
        for address in [
            "Bob <bob@example.net>",
            "Bob<bob@example.net>",
            "\"Bob, a <b>\" <bob@example.net>",
            "Bob <bob@example.net> \r\n",
            "H\u{e4}ns @ home <bob@example.net>",
            " <bob@example.net>",
        ] {
            let expected = "give the address alone: bob@example.net";
            assert_eq!(problem(address), expected, "{address:?}");
            assert!(Mailbox::parse(&problem(address)["give the address alone: ".len()..]).is_ok());
        }
        // An invalid or null address in the brackets is not given as advice.
        for address in [
            "Bob <bob>",
            "Bob <a b@c>",
            "Bob <>",
            "<<a@b>>",
            "Bob bob@example.net>",
        ] {
            let error = Mailbox::parse(address).unwrap_err();
            assert!(
                !matches!(error.problem, AddressProblem::DisplayName(_)),
                "{address:?}"
            );
        }
        for (address, quoted) in [
            ("a..b@example.net", "\"a..b\"@example.net"),
            (".a@[127.0.0.1]", "\".a\"@[127.0.0.1]"),
            ("<a.@b>", "\"a.\"@b"),
        ] {
            let expected =
                format!("a dot of the local part has nothing on one side of it; write {quoted}");
            assert_eq!(problem(address), expected);
            assert_eq!(Mailbox::parse(quoted).unwrap().as_str(), quoted);
        }
        // Quotes do not help an invalid domain.
        let error = Mailbox::parse("a..b@-c").unwrap_err();
        assert_eq!(error.problem, AddressProblem::Domain);
    }

    /// Only the room of a command line counts, wherever the `@` stands.
    #[test]
    fn the_longest_mailbox_fills_a_command_line() {
        assert_eq!("MAIL FROM:<>\r\n".len() + MAX_MAILBOX, 512);
        for domain in ["b", &("bbbbbbb.".repeat(31) + "bbbbbbb")] {
            let of = |octets: usize| format!("{}@{domain}", "a".repeat(octets - domain.len() - 1));
            assert_eq!(Mailbox::parse(&of(498)).unwrap().as_str().len(), 498);
            let error = Mailbox::parse(&of(499)).unwrap_err();
            assert_eq!(error.problem, AddressProblem::TooLong);
            let expected = "\": it is longer than the 498 octets that a command line has room for";
            assert!(error.to_string().ends_with(expected), "{error}");
        }
        // Octets count, not characters.
        assert!(Mailbox::parse(&format!("{}@b", "\u{e4}".repeat(248))).is_ok());
        assert!(Mailbox::parse(&format!("{}@b", "\u{e4}".repeat(249))).is_err());
    }

    /// The domain is after the last `@` outside quotes, for us as for the server.
    #[test]
    fn quotes_hide_no_domain() {
        for (address, domain) in [
            ("\"eve@evil.example x\"@good.example", "good.example"),
            ("\"eve@evil.example>\"@good.example", "good.example"),
            ("\"a\\\"@evil.example, b\"@good.example", "good.example"),
            ("\"@\"@[127.0.0.1]", "[127.0.0.1]"),
        ] {
            let mailbox = Mailbox::parse(address).unwrap();
            assert_eq!(mailbox.as_str(), address);
            assert_eq!(mailbox.domain(), Some(domain));
        }
        for bad in [
            "eve@evil.example x@good.example",
            "\"eve\"@evil.example@good.example",
            "\"eve\"x@good.example",
            "eve@evil.example,bob@good.example",
            "Eve <eve@evil.example>@good.example",
            "eve(comment)@good.example",
        ] {
            assert!(Mailbox::parse(bad).is_err(), "{bad}");
        }
    }

    /// IDNA maps full-width forms to ASCII.
    #[cfg(feature = "idna")]
    #[test]
    fn a_domain_that_is_made_ascii_stays_a_domain() {
        let wide = |c: char| char::from_u32(u32::from(c) + 0xfee0).unwrap();
        let wide = |text: &str| text.chars().map(wide).collect::<String>();
        let converted = |address: &str| Mailbox::parse(address).unwrap().to_ascii();
        for c in (' '..='~').filter(|c| !c.is_ascii_alphanumeric() && !"-._".contains(*c)) {
            let c = match c {
                ' ' => "\u{a8}".into(),
                c => wide(&String::from(c)),
            };
            for local in ["a", "\"a b\"", "\"a\\\"\""] {
                for domain in ["b.example", "", "127.0.0.1"] {
                    let address = format!("{local}@{domain}{c}evil.example");
                    assert_eq!(converted(&address), None, "{address}");
                }
            }
        }
        for domain in [
            wide("[127.0.0.1]"),
            wide("[IPv6:::1]"),
            "\u{ff3b}127.0.0.1\u{ff3d}".into(),
            format!("{}b.example", wide("\"@")),
            format!("b.example{}", wide(">")),
        ] {
            for local in ["a", "\"a\""] {
                assert_eq!(converted(&format!("{local}@{domain}")), None, "{domain}");
            }
        }
        let wide_name = format!("a@{}.example", wide("b_c"));
        assert_eq!(converted(&wide_name).unwrap().as_str(), "a@b_c.example");
    }

    #[test]
    fn only_a_domain_is_made_ascii() {
        let ascii = |address: &str| {
            Mailbox::parse(address)
                .unwrap()
                .to_ascii()
                .map(|m| m.to_string())
        };
        for same in ["a@b", "<>", "postmaster", "a@[127.0.0.1]"] {
            assert_eq!(ascii(same), Some(Mailbox::parse(same).unwrap().to_string()));
        }
        assert_eq!(ascii("h\u{e4}ns@b"), None);
        assert_eq!(ascii("h\u{e4}ns@b\u{fc}cher.example"), None);
        let converted = |domain: &str| ascii(&format!("\"A b\"@{domain}"));
        if cfg!(feature = "idna") {
            let bucher = Some("\"A b\"@xn--bcher-kva.example".into());
            assert_eq!(converted("b\u{fc}cher.example"), bucher);
            assert_eq!(converted("B\u{dc}CHER.example"), bucher);
            assert_eq!(
                converted("x_y.b\u{fc}"),
                Some("\"A b\"@x_y.xn--b-eha".into())
            );
            // A label of 63 octets, and of more as an A-label.
            let long: String = (0..21)
                .filter_map(|n| char::from_u32(0xac00 + 532 * n))
                .collect::<String>()
                + ".example";
            assert!(Mailbox::parse(&format!("a@{long}")).is_ok());
            assert_eq!(converted(&long), None);
        } else {
            assert_eq!(converted("b\u{fc}cher.example"), None);
        }
    }
}
