//! The envelope of a message (RFC 5321 section 2.3.1): a reverse-path, forward-paths, and what the
//! caller declares of the body. A CR, LF, NUL or control character cannot be represented in it, so no
//! value from here can end a command line.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use crate::parameter::{MailParameter, RcptParameter};
use crate::reply::Printable;

/// Longest domain, in octets (RFC 5321 section 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;
/// Longest mailbox, in octets. A command line has 512 octets (RFC 5321 section 4.5.3.1.4), and `MAIL FROM:<>`
/// with its CRLF takes 14 of them.
///
/// RFC 5321 sections 4.5.3.1.1 and 4.5.3.1.3 demand less of a server: 64 octets in a local part and 256 in a
/// path. A client may send more. Senders rewritten by SRS or VERP and addresses with reply tokens are longer,
/// and only the server knows whether it takes them.
pub const MAX_MAILBOX: usize = 498;

/// A mail address as the envelope uses it, or the null reverse-path. Cloning it copies no text.
///
/// The syntax is that of RFC 5321 section 4.1.2 with the UTF-8 of RFC 6531, one underscore wider:
/// `_` is allowed in domain labels, because such domains receive mail. The path form `<a@example.org>`
/// is read as `a@example.org`, and `postmaster` may stand alone. Nothing is repaired.
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

    /// Reads an address; the empty string and `<>` are the null reverse-path.
    ///
    /// # Errors
    /// [`AddressError`] says what is wrong with it.
    pub fn parse(address: &str) -> Result<Self, AddressError> {
        let inner = match address.strip_prefix('<') {
            Some(rest) => rest.strip_suffix('>').ok_or(AddressProblem::Brackets),
            None => Ok(address),
        };
        match inner.and_then(|inner| check(inner).map(|()| inner)) {
            Ok(inner) => Ok(Self(inner.into())),
            Err(problem) => Err(AddressError {
                address: Printable(address.as_bytes()).to_string().into(),
                problem,
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

    /// What stands before the `@`, quotes included.
    pub fn local_part(&self) -> &str {
        // A domain holds no '@', so the last one is the separator, whatever the quotes hold.
        self.0.rsplit_once('@').map_or(&self.0, |(local, _)| local)
    }

    /// What stands behind the `@`; none for the null reverse-path and a lone `postmaster`.
    pub fn domain(&self) -> Option<&str> {
        self.0.rsplit_once('@').map(|(_, domain)| domain)
    }

    /// Whether it can be written without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// The same address for a server without SMTPUTF8: its domain as A-labels (RFC 5890), where only the
    /// domain is beyond ASCII. The local part is never touched, because what it means is known to nobody
    /// but its own domain; where it is beyond ASCII there is no such address.
    ///
    /// Domains are converted only with the feature `idna`; without it, there is none for them either.
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
    pub fn to_ascii(&self) -> Option<Mailbox> {
        match self.is_ascii() {
            true => Some(self.clone()),
            false => self.with_ascii_domain(),
        }
    }

    #[cfg(not(feature = "idna"))]
    fn with_ascii_domain(&self) -> Option<Mailbox> {
        None
    }

    #[cfg(feature = "idna")]
    fn with_ascii_domain(&self) -> Option<Mailbox> {
        let (local, domain) = self
            .0
            .rsplit_once('@')
            .filter(|(local, _)| local.is_ascii())?;
        // What a domain may hold and how long it may be is checked below, as for any other.
        let domain =
            idna::domain_to_ascii_cow(domain.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?;
        let mailbox = Self::parse(&alloc::format!("{local}@{domain}")).ok()?;
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

/// What can stand where an address is wanted: text, which is parsed, or a [`Mailbox`].
pub trait ToMailbox {
    /// The address.
    ///
    /// # Errors
    /// Text that is no address.
    fn to_mailbox(&self) -> Result<Mailbox, AddressError>;
}

impl ToMailbox for str {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Mailbox::parse(self)
    }
}

impl ToMailbox for String {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Mailbox::parse(self)
    }
}

impl ToMailbox for Mailbox {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        Ok(self.clone())
    }
}

impl<T: ToMailbox + ?Sized> ToMailbox for &T {
    fn to_mailbox(&self) -> Result<Mailbox, AddressError> {
        (**self).to_mailbox()
    }
}

/// A recipient with parameters of its own. One that has none can be given as an address.
///
/// ```
/// use smtp_proto::{Envelope, Notify, RcptParameter, Recipient};
///
/// let carol = Recipient::new("carol@example.net")?.parameter(RcptParameter::notify(Notify::NEVER));
/// let envelope = Envelope::new("alice@example.org", [Recipient::new("bob@example.net")?, carol])?;
/// assert_eq!(envelope.recipient_parameters(0).count(), 0);
/// assert_eq!(envelope.recipient_parameters(1).next().unwrap().to_string(), "NOTIFY=NEVER");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    mailbox: Mailbox,
    parameters: Vec<RcptParameter>,
}

impl Recipient {
    /// A recipient without parameters.
    ///
    /// # Errors
    /// Text that is no address.
    pub fn new(address: impl ToMailbox) -> Result<Self, AddressError> {
        Ok(Self {
            mailbox: address.to_mailbox()?,
            parameters: Vec::new(),
        })
    }

    /// Adds a parameter to its RCPT. It takes the place of an earlier one of the same name.
    #[must_use]
    pub fn parameter(mut self, parameter: RcptParameter) -> Self {
        self.parameters
            .retain(|earlier| !parameter.displaces(earlier));
        self.parameters.push(parameter);
        self
    }

    /// The address.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Its parameters, in the order in which they were added.
    pub fn parameters(&self) -> &[RcptParameter] {
        &self.parameters
    }
}

/// What can stand where a recipient is wanted: whatever is an address ([`ToMailbox`]), or a
/// [`Recipient`].
pub trait ToRecipient {
    /// The recipient.
    ///
    /// # Errors
    /// Text that is no address.
    fn to_recipient(&self) -> Result<Recipient, AddressError>;
}

impl<T: ToMailbox + ?Sized> ToRecipient for T {
    fn to_recipient(&self) -> Result<Recipient, AddressError> {
        Recipient::new(self)
    }
}

impl ToRecipient for Recipient {
    fn to_recipient(&self) -> Result<Recipient, AddressError> {
        Ok(self.clone())
    }
}

impl ToRecipient for &Recipient {
    fn to_recipient(&self) -> Result<Recipient, AddressError> {
        Ok((*self).clone())
    }
}

/// Text that is no mail address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{address}\" is no mail address: {problem}")]
pub struct AddressError {
    /// The text, made printable.
    pub address: Box<str>,
    /// What is wrong with it.
    pub problem: AddressProblem,
}

/// What is wrong with an address or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressProblem {
    /// `<` without `>`.
    #[error("the angle brackets do not match")]
    Brackets,
    /// No `@`.
    #[error("it has no @ and no domain")]
    NoDomain,
    /// Nothing before the `@`.
    #[error("nothing stands before the @")]
    EmptyLocalPart,
    /// A character that must be quoted, or cannot be used at all.
    #[error(
        "{0:?} may not stand in the local part; a space or special character needs double quotes"
    )]
    LocalPart(char),
    /// A dot at the start, at the end, or beside another one.
    #[error("a dot of the local part has nothing on one side of it")]
    Dots,
    /// A quoted local part with a stray or missing quote or backslash.
    #[error("the quotes of the local part do not match")]
    Quotes,
    /// A domain with an empty, overlong or hyphen-edged label, or a character that no label has.
    #[error("the domain is no dotted list of labels of 1 to 63 letters, digits and inner hyphens")]
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
    if address.is_empty() || address.eq_ignore_ascii_case("postmaster") {
        return Ok(());
    }
    let (local, domain) = address.rsplit_once('@').ok_or(AddressProblem::NoDomain)?;
    check_local_part(local)?;
    check_domain_or_literal(domain)?;
    match address.len() > MAX_MAILBOX {
        true => Err(AddressProblem::TooLong),
        false => Ok(()),
    }
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
            if local.split('.').any(str::is_empty) {
                return Err(AddressProblem::Dots);
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

/// RFC 6531 section 3.3 allows every character beyond ASCII; controls and spaces gain nobody anything.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// The name by which the client introduces itself in EHLO, HELO and LHLO: a domain, or the address
/// literal of a host that has none (RFC 5321 section 4.1.4).
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
    /// Reads a domain, or an address literal in its brackets. It must be ASCII: what the server can do
    /// is not known yet when the name is said.
    ///
    /// # Errors
    /// What is neither.
    pub fn parse(name: &str) -> Result<Self, AddressError> {
        let ascii = name.is_ascii().then_some(()).ok_or(AddressProblem::Domain);
        match ascii.and_then(|()| check_domain_or_literal(name)) {
            Ok(()) => Ok(Self(name.into())),
            Err(problem) => Err(AddressError {
                address: Printable(name.as_bytes()).to_string().into(),
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
            IpAddr::V4(v4) => alloc::format!("[{v4}]").into(),
            IpAddr::V6(v6) => alloc::format!("[IPv6:{v6}]").into(),
        })
    }
}

/// What the caller knows of the octets of a message body (RFC 6152).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BodyType {
    /// Nothing is known. `BODY=8BITMIME` is said where it is offered, which allows everything; where it
    /// is not, the body is watched on its way, and one octet above 127 ends the transaction.
    #[default]
    Undeclared,
    /// Octets up to 127 only; one above ends the transaction.
    SevenBit,
    /// Some octets are above 127. A server without 8BITMIME is not given the message.
    EightBit,
    /// Some octets are above 127, and they are to be sent as they are, even to a server that does not
    /// offer 8BITMIME.
    EightBitAnyway,
    /// Any octets, without lines: they are sent as they are, by BDAT (RFC 3030). A server without
    /// BINARYMIME and CHUNKING is not given the message.
    Binary,
}

/// The envelope of one message: who sends, who receives, and what is declared of the body.
///
/// ```
/// use smtp_proto::{BodyType, Envelope};
///
/// let envelope = Envelope::new("alice@example.org", &["bob@example.net", "carol@example.net"])?
///     .size(1_234)
///     .body(BodyType::EightBit);
/// assert_eq!(envelope.forward_paths().len(), 2);
/// # Ok::<(), smtp_proto::EnvelopeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    reverse_path: Mailbox,
    forward_paths: Vec<Mailbox>,
    size: Option<u64>,
    body: BodyType,
    all_or_nothing: bool,
    size_is_exact: bool,
    smtputf8: bool,
    reopenable: bool,
    /// Few messages have parameters, and those without pay one pointer for it.
    parameters: Option<Box<Parameters>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parameters {
    mail: Vec<MailParameter>,
    /// For every recipient that has none of the same name.
    rcpt: Vec<RcptParameter>,
    /// Of single recipients, by their positions and in the order of these.
    own: Vec<(usize, RcptParameter)>,
}

impl Envelope {
    /// An envelope from `reverse_path` to each of `forward_paths`, in this order. These are addresses,
    /// or [`Recipient`]s where they have parameters of their own.
    ///
    /// # Errors
    /// An address that is none, a null forward-path, or no forward-path at all.
    pub fn new<A, R>(reverse_path: A, forward_paths: R) -> Result<Self, EnvelopeError>
    where
        A: ToMailbox,
        R: IntoIterator<Item: ToRecipient>,
    {
        let reverse_path = reverse_path.to_mailbox().map_err(EnvelopeError::Sender)?;
        let mut own = Vec::new();
        let mailboxes = forward_paths.into_iter().enumerate().map(|(index, path)| {
            let Recipient {
                mailbox,
                parameters,
            } = path
                .to_recipient()
                .map_err(|error| EnvelopeError::Recipient { index, error })?;
            own.extend(parameters.into_iter().map(|parameter| (index, parameter)));
            match mailbox.is_null() {
                true => Err(EnvelopeError::NullRecipient { index }),
                false => Ok(mailbox),
            }
        });
        let forward_paths = mailboxes.collect::<Result<Vec<_>, _>>()?;
        if forward_paths.is_empty() {
            return Err(EnvelopeError::NoRecipients);
        }
        Ok(Self {
            reverse_path,
            forward_paths,
            size: None,
            body: BodyType::Undeclared,
            all_or_nothing: false,
            size_is_exact: false,
            smtputf8: false,
            reopenable: false,
            parameters: match own.is_empty() {
                true => None,
                false => Some(Box::new(Parameters {
                    own,
                    ..Parameters::default()
                })),
            },
        })
    }

    /// Declares the size of the message in octets, its line ends as CRLF (RFC 1870). It is announced
    /// where SIZE is offered, and a message above the server's stated limit is not offered to it.
    #[must_use]
    pub fn size(mut self, octets: u64) -> Self {
        self.size = Some(octets);
        self.size_is_exact = false;
        self
    }

    /// Declares the size as [`size`](Self::size) does, and promises it: the body, with its line ends as
    /// CRLF and one at its end, has exactly so many octets; a [binary](BodyType::Binary) one has them as
    /// it is. Dots that are doubled under DATA do not count. The promise lets it go out as one chunk
    /// (`BDAT n LAST`, RFC 3030).
    ///
    /// A body that does not keep it is not delivered, by DATA or by BDAT: its end is not sent, and the message
    /// fails permanently with [`BodyError::WrongSize`](crate::BodyError::WrongSize).
    ///
    /// ```
    /// use smtp_proto::{BodyType, Envelope};
    ///
    /// let picture = [0u8, 10, 13, 255];
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?
    ///     .body(BodyType::Binary)
    ///     .exact_size(picture.len() as u64);
    /// assert_eq!(envelope.exact_size_octets(), Some(4));
    /// # Ok::<(), smtp_proto::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn exact_size(mut self, octets: u64) -> Self {
        self.size = Some(octets);
        self.size_is_exact = true;
        self
    }

    /// Declares what the body holds.
    #[must_use]
    pub fn body(mut self, body: BodyType) -> Self {
        self.body = body;
        self
    }

    /// Sends the message only if every recipient is accepted, instead of at least one. It costs a
    /// round trip where the server offers PIPELINING.
    #[must_use]
    pub fn all_or_nothing(mut self, yes: bool) -> Self {
        self.all_or_nothing = yes;
        self
    }

    /// Says that the header of the message needs SMTPUTF8 (RFC 6531), though the addresses may not. A
    /// server without it is not given the message.
    ///
    /// ```
    /// use smtp_proto::Envelope;
    ///
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?.smtputf8(true);
    /// assert!(envelope.needs_smtputf8());
    /// # Ok::<(), smtp_proto::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn smtputf8(mut self, yes: bool) -> Self {
        self.smtputf8 = yes;
        self
    }

    /// Says that the body can be given again from its beginning. Then a server that takes fewer
    /// recipients at a time (RFC 9422) is given the message in several transactions.
    ///
    /// ```
    /// use smtp_proto::Envelope;
    ///
    /// let staff = (0..500).map(|n| format!("user{n}@example.net"));
    /// let envelope = Envelope::new("alice@example.org", staff)?.reopenable(true);
    /// assert!(envelope.is_reopenable());
    /// # Ok::<(), smtp_proto::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn reopenable(mut self, yes: bool) -> Self {
        self.reopenable = yes;
        self
    }

    /// Adds a parameter to MAIL. It takes the place of an earlier one of the same name.
    #[must_use]
    pub fn parameter(mut self, parameter: MailParameter) -> Self {
        let mail = &mut self.parameters.get_or_insert_default().mail;
        mail.retain(|earlier| !parameter.displaces(earlier));
        mail.push(parameter);
        self
    }

    /// Adds a parameter to the RCPT of every recipient, except one that has a parameter of the same name
    /// of its own. It takes the place of an earlier one of the same name.
    ///
    /// ```
    /// use smtp_proto::{Envelope, Notify, RcptParameter};
    ///
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net", "carol@example.net"])?
    ///     .recipient_parameter(RcptParameter::notify(Notify::FAILURE).required());
    /// assert_eq!(envelope.recipient_parameters(1).next().unwrap().to_string(), "NOTIFY=FAILURE");
    /// # Ok::<(), smtp_proto::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn recipient_parameter(mut self, parameter: RcptParameter) -> Self {
        let rcpt = &mut self.parameters.get_or_insert_default().rcpt;
        rcpt.retain(|earlier| !parameter.displaces(earlier));
        rcpt.push(parameter);
        self
    }

    /// Writes domains beyond ASCII as A-labels. Whether all addresses are ASCII then.
    pub(crate) fn use_ascii_domains(&mut self) -> bool {
        let paths = self
            .forward_paths
            .iter_mut()
            .chain([&mut self.reverse_path]);
        paths
            .filter(|path| !path.is_ascii())
            .all(|path| path.to_ascii().map(|ascii| *path = ascii).is_some())
    }

    /// The sender, which may be null.
    pub fn reverse_path(&self) -> &Mailbox {
        &self.reverse_path
    }

    /// The recipients, in the order in which reports name them.
    pub fn forward_paths(&self) -> &[Mailbox] {
        &self.forward_paths
    }

    /// The declared size, in octets.
    pub fn declared_size(&self) -> Option<u64> {
        self.size
    }

    /// The declared size, where it is a promise, in octets.
    pub fn exact_size_octets(&self) -> Option<u64> {
        self.size.filter(|_| self.size_is_exact)
    }

    /// Whether the header needs SMTPUTF8.
    pub fn needs_smtputf8(&self) -> bool {
        self.smtputf8
    }

    /// Whether the body can be given again from its beginning.
    pub fn is_reopenable(&self) -> bool {
        self.reopenable
    }

    /// Whether any command has parameters of the caller's.
    pub(crate) fn has_parameters(&self) -> bool {
        self.parameters.is_some()
    }

    /// The parameters of MAIL, in the order in which they were added.
    pub fn mail_parameters(&self) -> &[MailParameter] {
        self.parameters
            .as_ref()
            .map_or(&[], |parameters| &parameters.mail)
    }

    /// The parameters of one recipient's RCPT, by its position from 0: its own first, then those for
    /// every recipient, of which it has none of the same name.
    pub fn recipient_parameters(&self, index: usize) -> impl Iterator<Item = &RcptParameter> {
        let (own, all): (&[(usize, RcptParameter)], &[RcptParameter]) = match &self.parameters {
            Some(parameters) if index < self.forward_paths.len() => {
                let start = parameters.own.partition_point(|&(of, _)| of < index);
                let own = &parameters.own[start..];
                (
                    &own[..own.partition_point(|&(of, _)| of == index)],
                    &parameters.rcpt,
                )
            }
            _ => (&[], &[]),
        };
        let missing =
            move |shared: &&RcptParameter| !own.iter().any(|(_, own)| own.displaces(shared));
        own.iter()
            .map(|(_, parameter)| parameter)
            .chain(all.iter().filter(missing))
    }

    /// The declared content.
    pub fn body_type(&self) -> BodyType {
        self.body
    }

    /// Whether all recipients must be accepted.
    pub fn is_all_or_nothing(&self) -> bool {
        self.all_or_nothing
    }
}

/// Why no envelope can be made of this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The reverse-path is no address.
    #[error("sender {0}")]
    Sender(#[source] AddressError),
    /// A forward-path is no address.
    #[error("recipient {} {error}", .index + 1)]
    Recipient {
        /// Its position, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        error: AddressError,
    },
    /// A forward-path is null, which only a reverse-path can be.
    #[error("recipient {} is the null path <>, which only a sender can be", .index + 1)]
    NullRecipient {
        /// Its position, from 0.
        index: usize,
    },
    /// There is nobody to send to.
    #[error("there is no recipient")]
    NoRecipients,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

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

    /// What counts is the room of a command line, wherever the `@` stands.
    #[test]
    fn the_longest_mailbox_fills_a_command_line() {
        assert_eq!("MAIL FROM:<>\r\n".len() + MAX_MAILBOX, 512);
        for domain in ["b", &("bbbbbbb.".repeat(31) + "bbbbbbb")] {
            let of = |octets: usize| format!("{}@{domain}", "a".repeat(octets - domain.len() - 1));
            assert_eq!(Mailbox::parse(&of(498)).unwrap().as_str().len(), 498);
            let error = Mailbox::parse(&of(499)).unwrap_err();
            assert_eq!(error.problem, AddressProblem::TooLong);
            let expected = "is no mail address: it is longer than the 498 octets that a command line has room for";
            assert!(error.to_string().ends_with(expected), "{error}");
        }
        // Octets count, not characters.
        assert!(Mailbox::parse(&format!("{}@b", "\u{e4}".repeat(248))).is_ok());
        assert!(Mailbox::parse(&format!("{}@b", "\u{e4}".repeat(249))).is_err());
    }

    #[test]
    fn envelopes_name_the_bad_recipient() {
        let error = Envelope::new("a@b", ["c@d", "no\r\ngood"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "recipient 2 \"no\\x0d\\x0agood\" is no mail address: it has no @ and no domain"
        );
        assert_eq!(
            Envelope::new("<>", ["<>"]),
            Err(EnvelopeError::NullRecipient { index: 0 })
        );
        assert_eq!(
            Envelope::new("<>", [""; 0]),
            Err(EnvelopeError::NoRecipients)
        );
    }

    #[test]
    fn of_two_parameters_of_one_name_the_later_one_counts() {
        use crate::parameter::Ret;
        let envelope = Envelope::new("a@b", ["c@d"]).unwrap();
        assert_eq!(
            (
                envelope.mail_parameters().len(),
                envelope.parameters.is_none()
            ),
            (0, true)
        );
        let envelope = envelope
            .parameter(MailParameter::ret(Ret::Full))
            .parameter(MailParameter::hold_for(5).unwrap())
            .parameter(MailParameter::raw("X-a", Some("1")).unwrap())
            .parameter(MailParameter::ret(Ret::Headers).required())
            .parameter(MailParameter::raw("x-A", None).unwrap())
            .parameter(MailParameter::hold_until("2027-01-02T03:04:05Z").unwrap());
        let said: Vec<_> = envelope
            .mail_parameters()
            .iter()
            .map(|parameter| parameter.text())
            .collect();
        assert_eq!(said, ["RET=HDRS", "x-A", "HOLDUNTIL=2027-01-02T03:04:05Z"]);
    }

    #[test]
    fn a_recipients_own_parameters_come_before_those_for_all() {
        use crate::parameter::Notify;
        let own = Recipient::new("b@b")
            .unwrap()
            .parameter(RcptParameter::notify(Notify::DELAY))
            .parameter(RcptParameter::raw("X", None).unwrap())
            .parameter(RcptParameter::notify(Notify::NEVER));
        assert_eq!((own.mailbox().as_str(), own.parameters().len()), ("b@b", 2));
        let plain = |address| Recipient::new(address).unwrap();
        let envelope = Envelope::new("a@b", &[plain("a@b"), own.clone(), plain("c@b"), own])
            .unwrap()
            .recipient_parameter(RcptParameter::raw("Y", None).unwrap())
            .recipient_parameter(RcptParameter::notify(Notify::FAILURE));
        let said = |index| -> Vec<_> {
            envelope
                .recipient_parameters(index)
                .map(|p| p.text())
                .collect()
        };
        assert_eq!(said(0), ["Y", "NOTIFY=FAILURE"]);
        assert_eq!(said(1), ["X", "NOTIFY=NEVER", "Y"]);
        assert_eq!(said(2), said(0));
        assert_eq!(said(3), said(1));
        assert_eq!(said(4), [""; 0]);
        assert_eq!(envelope.forward_paths()[1].as_str(), "b@b");
    }

    #[test]
    fn declarations() {
        let envelope = Envelope::new("a@b", ["c@d"]).unwrap();
        assert!(!envelope.needs_smtputf8() && !envelope.is_reopenable());
        let envelope = envelope.exact_size(7).smtputf8(true).reopenable(true);
        assert_eq!(
            (envelope.declared_size(), envelope.exact_size_octets()),
            (Some(7), Some(7))
        );
        assert!(envelope.needs_smtputf8() && envelope.is_reopenable());
        let envelope = envelope.size(9);
        assert_eq!(
            (envelope.declared_size(), envelope.exact_size_octets()),
            (Some(9), None)
        );
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
