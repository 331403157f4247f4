//! The parameters of MAIL.

use alloc::format;
use alloc::string::String;

use crate::capability::{Capabilities, Extension};
use crate::date_time::seconds_of;
use crate::mailbox::Mailbox;
use crate::text::push_xtext;

use super::{MailParameter, Need, ParameterError, check_date_time, check_range, check_reportable};

/// The longest envelope identifier, in octets before it is encoded (RFC 3461 section 4).
const MAX_ENVELOPE_ID: usize = 100;

/// The largest value of BY and HOLDFOR, in seconds: nine digits (RFC 2852, RFC 4865).
const MAX_SECONDS: u32 = 999_999_999;

/// How much of a message a report of failure returns (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// All of it.
    Full,
    /// Only its header.
    Headers,
}

/// What happens to a message that was not delivered in time (RFC 2852).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByMode {
    /// It is returned.
    Return,
    /// The sender is told, and the attempts go on.
    Notify,
}

impl MailParameter {
    /// RET: how much of the message a report of failure returns (RFC 3461 section 4.3). Sent if DSN is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, Ret};
    /// assert_eq!(MailParameter::ret(Ret::Headers).to_string(), "RET=HDRS");
    /// ```
    pub fn ret(ret: Ret) -> Self {
        let text = match ret {
            Ret::Full => "RET=FULL",
            Ret::Headers => "RET=HDRS",
        };
        Self::new(Extension::Dsn, Need::IfOffered, text)
    }

    /// ENVID: the sender's own name of this message, which reports repeat (RFC 3461 section 4.4). Sent if DSN is
    /// offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, ParameterError};
    /// let id = MailParameter::envelope_id("run 7")?;
    /// assert_eq!(id.to_string(), "ENVID=run+207");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The identifier is empty, longer than 100 octets, or not printable ASCII.
    pub fn envelope_id(id: &str) -> Result<Self, ParameterError> {
        check_reportable("ENVID", id)?;
        if id.len() > MAX_ENVELOPE_ID {
            return Err(ParameterError::TooLong {
                name: "ENVID",
                limit: MAX_ENVELOPE_ID,
            });
        }
        let mut text = String::from("ENVID=");
        push_xtext(&mut text, id);
        Ok(Self::new(Extension::Dsn, Need::IfOffered, &text))
    }

    /// BY: how many seconds from now the delivery may take (RFC 2852). Zero and less have passed already. `trace`
    /// asks each server on the way for a report. With [`ByMode::Return`] it is required by default. With
    /// [`ByMode::Notify`] it is sent if DELIVERBY is offered.
    ///
    /// With [`ByMode::Return`], a server with a longer minimum does not get the message.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{ByMode, MailParameter, ParameterError};
    /// let soon = MailParameter::deliver_by(120, ByMode::Notify, true)?;
    /// assert_eq!(soon.to_string(), "BY=120;NT");
    /// assert!(MailParameter::deliver_by(0, ByMode::Return, false).is_err());
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The seconds lie outside of −999,999,999 to 999,999,999, or below 1 with [`ByMode::Return`].
    pub fn deliver_by(seconds: i32, mode: ByMode, trace: bool) -> Result<Self, ParameterError> {
        let max = i64::from(MAX_SECONDS);
        let (min, need, letter) = match mode {
            ByMode::Return => (1, Need::Required, 'R'),
            ByMode::Notify => (-max, Need::IfOffered, 'N'),
        };
        check_range("BY", i64::from(seconds), min, max)?;
        let trace = if trace { "T" } else { "" };
        Ok(Self::new(
            Extension::DeliverBy,
            need,
            &format!("BY={seconds};{letter}{trace}"),
        ))
    }

    /// MT-PRIORITY: −9 (lowest) to 9. The default of a message is 0 (RFC 6710). Sent if it is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, ParameterError};
    /// assert_eq!(MailParameter::priority(-4)?.to_string(), "MT-PRIORITY=-4");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The number lies outside of −9 to 9.
    pub fn priority(priority: i8) -> Result<Self, ParameterError> {
        check_range("MT-PRIORITY", i64::from(priority), -9, 9)?;
        let text = format!("MT-PRIORITY={priority}");
        Ok(Self::new(Extension::MtPriority, Need::IfOffered, &text))
    }

    /// HOLDFOR: the server holds the message for this many seconds (RFC 4865). Required by default. A server with a
    /// shorter maximum does not get the message. It replaces [`hold_until`](Self::hold_until).
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, ParameterError};
    /// assert_eq!(MailParameter::hold_for(3_600)?.to_string(), "HOLDFOR=3600");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The seconds lie outside of 1 to 999,999,999.
    pub fn hold_for(seconds: u32) -> Result<Self, ParameterError> {
        check_range("HOLDFOR", i64::from(seconds), 1, i64::from(MAX_SECONDS))?;
        let text = format!("HOLDFOR={seconds}");
        Ok(Self::new(Extension::FutureRelease, Need::Required, &text))
    }

    /// HOLDUNTIL: the server holds the message until this date-time of RFC 3339, such as `2027-01-02T03:04:05Z` (RFC
    /// 4865). Required by default. A server with an earlier maximum does not get the message. It replaces
    /// [`hold_for`](Self::hold_for).
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, ParameterError};
    /// let new_year = MailParameter::hold_until("2027-01-01T00:00:00+01:00")?;
    /// assert_eq!(new_year.to_string(), "HOLDUNTIL=2027-01-01T00:00:00+01:00");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The text is not such a date-time.
    pub fn hold_until(date_time: &str) -> Result<Self, ParameterError> {
        check_date_time("HOLDUNTIL", date_time)?;
        let text = format!("HOLDUNTIL={date_time}");
        Ok(Self::new(Extension::FutureRelease, Need::Required, &text))
    }

    /// REQUIRETLS: the message goes only over TLS with a verified peer, on this hop and on all later ones (RFC 8689).
    /// Always required.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, Need};
    /// assert_eq!(MailParameter::require_tls().if_offered().need(), Need::Required);
    /// ```
    pub fn require_tls() -> Self {
        Self::new(Extension::RequireTls, Need::Required, "REQUIRETLS")
    }

    /// PRDR: after the body, the server may decide for each recipient separately, as in LMTP (draft-hall-prdr). Sent
    /// if it is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::MailParameter;
    /// assert_eq!(MailParameter::per_recipient_replies().to_string(), "PRDR");
    /// ```
    pub fn per_recipient_replies() -> Self {
        Self::new(Extension::Prdr, Need::IfOffered, "PRDR")
    }

    /// AUTH: who submitted the message first, or that this is unknown. One trusted server tells another (RFC 4954
    /// section 5). Sent if AUTH is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::MailParameter;
    /// let alice = Mailbox::parse("e=mc2@example.com").unwrap();
    /// assert_eq!(MailParameter::auth(Some(&alice)).to_string(), "AUTH=e+3Dmc2@example.com");
    /// assert_eq!(MailParameter::auth(None).to_string(), "AUTH=<>");
    /// ```
    pub fn auth(identity: Option<&Mailbox>) -> Self {
        let mut text = String::from("AUTH=");
        match identity.filter(|mailbox| !mailbox.is_null()) {
            Some(mailbox) => push_xtext(&mut text, mailbox.as_str()),
            None => text.push_str("<>"),
        }
        Self::new(Extension::Auth, Need::IfOffered, &text)
    }

    /// Whether this is REQUIRETLS, which needs a verified TLS session too.
    pub(crate) fn is_require_tls(&self) -> bool {
        self.is(Extension::RequireTls)
    }

    /// Whether this is PRDR, which changes the replies to the end of the body.
    pub(crate) fn is_per_recipient_replies(&self) -> bool {
        self.is(Extension::Prdr)
    }

    /// The limit in the EHLO reply that excludes this value, as words for an error. The message is then withheld even
    /// if the parameter is optional, because the server would refuse MAIL.
    pub(crate) fn excluded_by(&self, capabilities: &Capabilities) -> Option<String> {
        let value = self.value();
        let broken = match self.name() {
            "BY" => {
                let (seconds, mode) = value.split_once(';')?;
                let minimum = capabilities.deliver_by_minimum()?;
                let short = seconds
                    .parse::<i64>()
                    .is_ok_and(|seconds| seconds < i64::from(minimum));
                (mode.starts_with('R') && short).then(|| format!("at least {minimum} s"))?
            }
            "HOLDFOR" => {
                let (maximum, _) = capabilities.future_release_limits()?;
                let long = value.parse::<u32>().is_ok_and(|seconds| seconds > maximum);
                long.then(|| format!("at most {maximum} s"))?
            }
            "HOLDUNTIL" => {
                let (_, latest) = capabilities.future_release_limits()?;
                (seconds_of(value)? > seconds_of(latest)?)
                    .then(|| format!("{latest} at the latest"))?
            }
            _ => return None,
        };
        Some(format!(
            "{} is not possible: the server takes {broken}",
            self.text
        ))
    }
}
