//! The envelope of a message (RFC 5321 section 2.3.1): a reverse-path, forward-paths, and what the caller declares of
//! the body. It cannot hold a CR, LF, NUL or other control character. So no value from here can end a command line.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::body::wire_size;
use crate::mailbox::Mailbox;
use crate::parameter::{MailParameter, RcptParameter};

pub use crate::mailbox::{AddressError, AddressProblem, MAX_DOMAIN, MAX_MAILBOX, ToMailbox};

/// A recipient with its own parameters. A recipient without parameters can be given as an address.
///
/// ```
/// use smtp_proto::{Envelope, Recipient, parameter::{Notify, RcptParameter}};
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
    /// The text is not an address.
    pub fn new(address: impl ToMailbox) -> Result<Self, AddressError> {
        Ok(Self {
            mailbox: address.to_mailbox()?,
            parameters: Vec::new(),
        })
    }

    /// Adds a parameter to its RCPT. It replaces an earlier one of the same name.
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

/// A type that can be given as a recipient: anything that is an address ([`ToMailbox`]), or a [`Recipient`].
pub trait ToRecipient {
    /// The recipient.
    ///
    /// # Errors
    /// The text is not an address.
    fn to_recipient(&self) -> Result<Recipient, AddressError>;
}

impl<T: ToMailbox + ?Sized> ToRecipient for T {
    fn to_recipient(&self) -> Result<Recipient, AddressError> {
        Ok(Recipient {
            mailbox: self.to_mailbox()?,
            parameters: Vec::new(),
        })
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

/// What the caller declares about the octets of a message body (RFC 6152).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum BodyType {
    /// Nothing is declared. If 8BITMIME is offered, `BODY=8BITMIME` is sent, which allows every octet. Otherwise the
    /// engine checks the body, and an octet above 127 ends the transaction.
    #[default]
    Undeclared,
    /// Only octets up to 127. One above ends the transaction.
    SevenBit,
    /// Some octets are above 127. A server without 8BITMIME does not get the message.
    EightBit,
    /// Some octets are above 127. They are sent as they are, even to a server without 8BITMIME.
    EightBitAnyway,
    /// Any octets, without lines. They are sent as they are, by BDAT (RFC 3030). A server without BINARYMIME and
    /// CHUNKING does not get the message.
    Binary,
}

/// The envelope of one message: the sender, the recipients, and what is declared of the body.
///
/// ```
/// use smtp_proto::{Envelope, envelope::BodyType};
///
/// let envelope = Envelope::new("alice@example.org", &["bob@example.net", "carol@example.net"])?
///     .size(1_234)
///     .body(BodyType::EightBit);
/// assert_eq!(envelope.forward_paths().len(), 2);
/// # Ok::<(), smtp_proto::envelope::EnvelopeError>(())
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
    /// All addresses are ASCII. It is computed once, because there may be many addresses and transactions.
    is_ascii: bool,
    reopenable: bool,
    /// Boxed, because few messages have parameters.
    parameters: Option<Box<Parameters>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parameters {
    mail: Vec<MailParameter>,
    /// For every recipient without its own parameter of the same name.
    rcpt: Vec<RcptParameter>,
    /// Of single recipients, with their positions, in order.
    own: Vec<(usize, RcptParameter)>,
    /// The recipients as given, if they go out with A-labels.
    given: Vec<Mailbox>,
}

impl Envelope {
    /// An envelope from `reverse_path` to each of `forward_paths`, in this order. Give addresses, or [`Recipient`]s
    /// that have their own parameters.
    ///
    /// # Errors
    /// An address is invalid, a forward-path is null, or the list of forward-paths is empty.
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
        let is_ascii = forward_paths
            .iter()
            .chain([&reverse_path])
            .all(Mailbox::is_ascii);
        Ok(Self {
            reverse_path,
            forward_paths,
            is_ascii,
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

    /// Declares the size of the message in octets, with line ends as CRLF (RFC 1870). It is announced if SIZE is
    /// offered. A server with a lower limit does not get the message.
    #[must_use]
    pub fn size(mut self, octets: u64) -> Self {
        self.size = Some(octets);
        self.size_is_exact = false;
        self
    }

    /// Declares the size as [`size`](Self::size) does, and promises it: the body has exactly this many octets, with
    /// line ends as CRLF and one at its end. A [binary](BodyType::Binary) body has them as it is. Doubled dots do not
    /// count. The promise lets it go out as one chunk (`BDAT n LAST`, RFC 3030).
    ///
    /// A body that breaks the promise is not delivered, by DATA or by BDAT. Its end is not sent, and the message
    /// fails permanently with [`BodyError::WrongSize`](crate::body::BodyError::WrongSize).
    ///
    /// ```
    /// use smtp_proto::{Envelope, envelope::BodyType};
    ///
    /// let picture = [0u8, 10, 13, 255];
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?
    ///     .body(BodyType::Binary)
    ///     .exact_size(picture.len() as u64);
    /// assert_eq!(envelope.exact_size_octets(), Some(4));
    /// # Ok::<(), smtp_proto::envelope::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn exact_size(mut self, octets: u64) -> Self {
        self.size = Some(octets);
        self.size_is_exact = true;
        self
    }

    /// Declares the [exact size](Self::exact_size) of this message, its [size on the wire](wire_size), unless a size
    /// is declared already. For a [binary](BodyType::Binary) body it is the length, so declare the body type first.
    /// The adapters call it for a message in memory.
    ///
    /// ```
    /// use smtp_proto::Envelope;
    ///
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    /// assert_eq!(envelope.clone().size_of(b"Hello.\n").exact_size_octets(), Some(8));
    /// assert_eq!(envelope.size(7).size_of(b"Hello.\n").declared_size(), Some(7));
    /// # Ok::<(), smtp_proto::envelope::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn size_of(self, message: &[u8]) -> Self {
        match (self.size, self.body) {
            (Some(_), _) => self,
            (None, BodyType::Binary) => self.exact_size(message.len() as u64),
            (None, _) => self.exact_size(wire_size(message)),
        }
    }

    /// Declares what the body holds.
    #[must_use]
    pub fn body(mut self, body: BodyType) -> Self {
        self.body = body;
        self
    }

    /// Sends the message only if every recipient is accepted. By default, one is enough. It costs a round trip if the
    /// server offers PIPELINING.
    #[must_use]
    pub fn all_or_nothing(mut self, yes: bool) -> Self {
        self.all_or_nothing = yes;
        self
    }

    /// Declares that the header of the message needs SMTPUTF8 (RFC 6531), even if the addresses do not. A server
    /// without it does not get the message.
    ///
    /// ```
    /// use smtp_proto::Envelope;
    ///
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?.smtputf8(true);
    /// assert!(envelope.needs_smtputf8());
    /// # Ok::<(), smtp_proto::envelope::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn smtputf8(mut self, yes: bool) -> Self {
        self.smtputf8 = yes;
        self
    }

    /// Declares that the body can be given again from its beginning. A server that takes fewer recipients at a time
    /// (RFC 9422) then gets the message in several transactions.
    ///
    /// ```
    /// use smtp_proto::Envelope;
    ///
    /// let staff = (0..500).map(|n| format!("user{n}@example.net"));
    /// let envelope = Envelope::new("alice@example.org", staff)?.reopenable(true);
    /// assert!(envelope.is_reopenable());
    /// # Ok::<(), smtp_proto::envelope::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn reopenable(mut self, yes: bool) -> Self {
        self.reopenable = yes;
        self
    }

    /// Adds a parameter to MAIL. It replaces an earlier one of the same name.
    #[must_use]
    pub fn parameter(mut self, parameter: MailParameter) -> Self {
        let mail = &mut self.parameters.get_or_insert_default().mail;
        mail.retain(|earlier| !parameter.displaces(earlier));
        mail.push(parameter);
        self
    }

    /// Adds a parameter to the RCPT of every recipient that does not have its own of that name. It replaces an
    /// earlier one of the same name.
    ///
    /// ```
    /// use smtp_proto::{Envelope, parameter::{Notify, RcptParameter}};
    ///
    /// let envelope = Envelope::new("alice@example.org", ["bob@example.net", "carol@example.net"])?
    ///     .recipient_parameter(RcptParameter::notify(Notify::FAILURE).required());
    /// assert_eq!(envelope.recipient_parameters(1).next().unwrap().to_string(), "NOTIFY=FAILURE");
    /// # Ok::<(), smtp_proto::envelope::EnvelopeError>(())
    /// ```
    #[must_use]
    pub fn recipient_parameter(mut self, parameter: RcptParameter) -> Self {
        let rcpt = &mut self.parameters.get_or_insert_default().rcpt;
        rcpt.retain(|earlier| !parameter.displaces(earlier));
        rcpt.push(parameter);
        self
    }

    /// Writes domains beyond ASCII as A-labels. Returns whether all addresses are ASCII then.
    pub(crate) fn use_ascii_domains(&mut self) -> bool {
        if self.is_ascii {
            return true;
        }
        let is_ascii = |paths: &[Mailbox]| paths.iter().all(Mailbox::is_ascii);
        if cfg!(feature = "idna") && !is_ascii(&self.forward_paths) {
            let given = &mut self.parameters.get_or_insert_default().given;
            if given.is_empty() {
                given.clone_from(&self.forward_paths);
            }
        }
        self.is_ascii = self
            .forward_paths
            .iter_mut()
            .chain([&mut self.reverse_path])
            .filter(|path| !path.is_ascii())
            .all(|path| path.to_ascii().map(|ascii| *path = ascii).is_some());
        self.is_ascii
    }

    /// The recipients as given, even if they go out with A-labels.
    pub(crate) fn mailboxes(&self) -> &[Mailbox] {
        match &self.parameters {
            Some(parameters) if !parameters.given.is_empty() => &parameters.given,
            _ => &self.forward_paths,
        }
    }

    /// The same list, without a copy.
    pub(crate) fn into_mailboxes(self) -> Vec<Mailbox> {
        match self.parameters {
            Some(parameters) if !parameters.given.is_empty() => parameters.given,
            _ => self.forward_paths,
        }
    }

    /// Whether all addresses are ASCII.
    pub(crate) fn is_ascii(&self) -> bool {
        self.is_ascii
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

    /// The declared size in octets, if it is a promise.
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

    /// The parameters of RCPT as stored: of single recipients with their positions, and for every recipient.
    #[cfg(feature = "serde")]
    pub(crate) fn listed_recipient_parameters(
        &self,
    ) -> (&[(usize, RcptParameter)], &[RcptParameter]) {
        self.parameters
            .as_ref()
            .map_or((&[], &[]), |parameters| (&parameters.own, &parameters.rcpt))
    }

    /// Whether the caller has set parameters for any command.
    pub(crate) fn has_parameters(&self) -> bool {
        self.parameters.is_some()
    }

    /// The parameters of MAIL, in the order in which they were added.
    pub fn mail_parameters(&self) -> &[MailParameter] {
        self.parameters
            .as_ref()
            .map_or(&[], |parameters| &parameters.mail)
    }

    /// The parameters of one recipient's RCPT, by its position from 0. Its own come first. Those for every recipient
    /// follow, unless it has its own of the same name.
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

/// Why an envelope cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The reverse-path is not an address.
    #[error("sender: {0}")]
    Sender(#[source] AddressError),
    /// A forward-path is not an address.
    #[error("recipient {}: {error}", .index + 1)]
    Recipient {
        /// Its position, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        error: AddressError,
    },
    /// A forward-path is null. Only a reverse-path can be null.
    #[error("recipient {} is the null path <>, which only a sender can be", .index + 1)]
    NullRecipient {
        /// Its position, from 0.
        index: usize,
    },
    /// The list of recipients is empty.
    #[error("the envelope needs at least one recipient")]
    NoRecipients,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn envelopes_name_the_bad_recipient() {
        let error = Envelope::new("a@b", ["c@d", "no\r\ngood"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "recipient 2: invalid address \"no\\x0d\\x0agood\": it has no @ and no domain"
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

    #[cfg(feature = "idna")]
    #[test]
    fn reports_name_domains_as_they_were_given() {
        let addresses = ["a@b\u{fc}cher.example", "c@d"];
        let mut envelope = Envelope::new("a@b", addresses).unwrap();
        for _ in 0..2 {
            assert!(envelope.use_ascii_domains());
            let sent: Vec<_> = envelope
                .forward_paths()
                .iter()
                .map(Mailbox::as_str)
                .collect();
            assert_eq!(sent, ["a@xn--bcher-kva.example", "c@d"]);
            let given: Vec<_> = envelope.mailboxes().iter().map(Mailbox::as_str).collect();
            assert_eq!(given, addresses);
        }
        let given = envelope.into_mailboxes();
        assert_eq!(
            given.iter().map(Mailbox::as_str).collect::<Vec<_>>(),
            addresses
        );
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
}
