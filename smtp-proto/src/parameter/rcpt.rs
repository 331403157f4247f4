//! The parameters of RCPT.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::ops::BitOr;

use crate::capability::Extension;
use crate::mailbox::Mailbox;
use crate::text::{printable, push_unicode_xtext, push_xtext};

use super::{Need, ParameterError, RcptParameter, check_date_time, check_reportable};

/// The longest ORCPT parameter, in octets (RFC 3461 section 4).
pub(super) const MAX_ORCPT: usize = 500;

/// Which events of a delivery are reported (RFC 3461 section 4.1): [`NEVER`](Notify::NEVER), or any of the other
/// three, joined by `|`. Joined with another one, `NEVER` has no effect.
///
/// ```
/// use smtp_proto::parameter::Notify;
///
/// assert_eq!((Notify::DELAY | Notify::SUCCESS).to_string(), "SUCCESS,DELAY");
/// assert_eq!(Notify::NEVER | Notify::FAILURE, Notify::FAILURE);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notify(u8);

impl Notify {
    /// Nothing.
    pub const NEVER: Self = Self(0);
    /// The message was delivered.
    pub const SUCCESS: Self = Self(1);
    /// The message could not be delivered.
    pub const FAILURE: Self = Self(2);
    /// The delivery takes long.
    pub const DELAY: Self = Self(4);
}

impl BitOr for Notify {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Notify {
    /// As NOTIFY writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "NEVER",
            1 => "SUCCESS",
            2 => "FAILURE",
            3 => "SUCCESS,FAILURE",
            4 => "DELAY",
            5 => "SUCCESS,DELAY",
            6 => "FAILURE,DELAY",
            _ => "SUCCESS,FAILURE,DELAY",
        })
    }
}

/// What a server does with a message whose mailbox may have a new owner, if it cannot pass the question on (RFC
/// 7293).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RrvsAction {
    /// It passes the message on without the question.
    Continue,
    /// It refuses the message.
    Reject,
}

impl RcptParameter {
    /// NOTIFY: which events are reported (RFC 3461 section 4.1). Sent if DSN is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{Notify, RcptParameter};
    /// let notify = RcptParameter::notify(Notify::SUCCESS | Notify::DELAY);
    /// assert_eq!(notify.to_string(), "NOTIFY=SUCCESS,DELAY");
    /// ```
    pub fn notify(notify: Notify) -> Self {
        Self::new(Extension::Dsn, Need::IfOffered, &format!("NOTIFY={notify}"))
    }

    /// ORCPT: the address that the sender wrote, which reports name (RFC 3461 section 4.2). Sent if DSN is offered.
    /// An address beyond ASCII is written in the form of RFC 6533 section 3, which every server accepts.
    ///
    /// ```
    /// use smtp_proto::{Mailbox, parameter::RcptParameter};
    ///
    /// let plus = RcptParameter::original_recipient(&Mailbox::parse("bob+x@example.net")?)?;
    /// assert_eq!(plus.to_string(), "ORCPT=rfc822;bob+2Bx@example.net");
    /// let umlaut = RcptParameter::original_recipient(&Mailbox::parse("häns@example.net")?)?;
    /// assert_eq!(umlaut.to_string(), r"ORCPT=utf-8;h\x{E4}ns@example.net");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The parameter has more than 500 octets. An encoded character counts with all its octets.
    pub fn original_recipient(mailbox: &Mailbox) -> Result<Self, ParameterError> {
        let mut text;
        if mailbox.is_ascii() {
            text = String::from("ORCPT=rfc822;");
            push_xtext(&mut text, mailbox.as_str());
        } else {
            text = String::from("ORCPT=utf-8;");
            push_unicode_xtext(&mut text, mailbox.as_str());
        }
        Self::orcpt(&text)
    }

    /// ORCPT with an address of another kind than `rfc822`, such as `x400` (RFC 3461 section 4.2).
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{ParameterError, RcptParameter};
    /// let x400 = RcptParameter::original_recipient_of("x400", "/C=de/")?;
    /// assert_eq!(x400.to_string(), "ORCPT=x400;/C+3Dde/");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The kind is not an atom. The address is empty, or not printable ASCII. The parameter has more than 500 octets.
    pub fn original_recipient_of(addr_type: &str, address: &str) -> Result<Self, ParameterError> {
        let atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*-/?^_`{|}~".contains(&b);
        if addr_type.is_empty() || !addr_type.bytes().all(atom) {
            return Err(ParameterError::Value {
                name: "ORCPT".into(),
                value: printable(addr_type),
            });
        }
        check_reportable("ORCPT", address)?;
        let mut text = format!("ORCPT={addr_type};");
        push_xtext(&mut text, address);
        Self::orcpt(&text)
    }

    fn orcpt(text: &str) -> Result<Self, ParameterError> {
        match text.len() > MAX_ORCPT {
            true => Err(ParameterError::TooLong {
                name: "ORCPT",
                limit: MAX_ORCPT,
            }),
            false => Ok(Self::new(Extension::Dsn, Need::IfOffered, text)),
        }
    }

    /// RRVS: delivery only if the mailbox has had the same owner since this date-time of RFC 3339 (RFC 7293).
    /// Required by default.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{ParameterError, RcptParameter, RrvsAction};
    /// let same_owner = RcptParameter::valid_since("2014-04-03T23:01:00Z", Some(RrvsAction::Reject))?;
    /// assert_eq!(same_owner.to_string(), "RRVS=2014-04-03T23:01:00Z;R");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The text is not such a date-time.
    pub fn valid_since(
        date_time: &str,
        action: Option<RrvsAction>,
    ) -> Result<Self, ParameterError> {
        check_date_time("RRVS", date_time)?;
        let action = match action {
            None => "",
            Some(RrvsAction::Continue) => ";C",
            Some(RrvsAction::Reject) => ";R",
        };
        let text = format!("RRVS={date_time}{action}");
        Ok(Self::new(Extension::Rrvs, Need::Required, &text))
    }
}
