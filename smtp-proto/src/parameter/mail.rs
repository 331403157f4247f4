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

/// The farthest BY and HOLDFOR reach, in seconds: nine digits (RFC 2852, RFC 4865).
const MAX_SECONDS: u32 = 999_999_999;

/// How much of a message a report of failure returns (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its header.
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
    /// RET: how much of the message a report of failure returns (RFC 3461 section 4.3). Said if DSN is
    /// offered.
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

    /// ENVID: the sender's own name of this message, which reports repeat (RFC 3461 section 4.4). Said
    /// if DSN is offered.
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
    /// None, more than 100 octets, or one that is no printable ASCII character or space.
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

    /// BY: how many seconds from now the message may take (RFC 2852); zero and less have passed already.
    /// `trace` asks for a report from each server on the way that passes it on. Required by default with
    /// [`ByMode::Return`], said if DELIVERBY is offered with [`ByMode::Notify`].
    ///
    /// With [`ByMode::Return`], a server that states a longer minimum is not given the message.
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
    /// Seconds outside of −999,999,999 to 999,999,999, or below 1 with [`ByMode::Return`].
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

    /// MT-PRIORITY: −9 (lowest) to 9; without it a message has 0 (RFC 6710). Said if it is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, ParameterError};
    /// assert_eq!(MailParameter::priority(-4)?.to_string(), "MT-PRIORITY=-4");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// Any other number.
    pub fn priority(priority: i8) -> Result<Self, ParameterError> {
        check_range("MT-PRIORITY", i64::from(priority), -9, 9)?;
        let text = format!("MT-PRIORITY={priority}");
        Ok(Self::new(Extension::MtPriority, Need::IfOffered, &text))
    }

    /// HOLDFOR: the server keeps the message for so many seconds before it goes on (RFC 4865). Required
    /// by default; a server that states a shorter maximum is not given the message. It takes the place of
    /// [`hold_until`](Self::hold_until).
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, ParameterError};
    /// assert_eq!(MailParameter::hold_for(3_600)?.to_string(), "HOLDFOR=3600");
    /// # Ok::<(), ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// Seconds outside of 1 to 999,999,999.
    pub fn hold_for(seconds: u32) -> Result<Self, ParameterError> {
        check_range("HOLDFOR", i64::from(seconds), 1, i64::from(MAX_SECONDS))?;
        let text = format!("HOLDFOR={seconds}");
        Ok(Self::new(Extension::FutureRelease, Need::Required, &text))
    }

    /// HOLDUNTIL: the server keeps the message until this date-time of RFC 3339, such as
    /// `2027-01-02T03:04:05Z` (RFC 4865). Required by default; a server that states an earlier maximum is
    /// not given the message. It takes the place of [`hold_for`](Self::hold_for).
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
    /// What is no such date-time.
    pub fn hold_until(date_time: &str) -> Result<Self, ParameterError> {
        check_date_time("HOLDUNTIL", date_time)?;
        let text = format!("HOLDUNTIL={date_time}");
        Ok(Self::new(Extension::FutureRelease, Need::Required, &text))
    }

    /// REQUIRETLS: the message goes only over TLS with a verified peer, on this hop and on all behind it
    /// (RFC 8689). Always required.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, Need};
    /// assert_eq!(MailParameter::require_tls().if_offered().need(), Need::Required);
    /// ```
    pub fn require_tls() -> Self {
        Self::new(Extension::RequireTls, Need::Required, "REQUIRETLS")
    }

    /// PRDR: after the body, the server may decide for each recipient on its own, as LMTP does
    /// (draft-hall-prdr). Said if it is offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::MailParameter;
    /// assert_eq!(MailParameter::per_recipient_replies().to_string(), "PRDR");
    /// ```
    pub fn per_recipient_replies() -> Self {
        Self::new(Extension::Prdr, Need::IfOffered, "PRDR")
    }

    /// AUTH: who submitted the message first, or that it is not known, in the words of one trusted server
    /// to another (RFC 4954 section 5). Said if AUTH is offered.
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

    /// Whether this is REQUIRETLS, which wants a verified TLS session besides.
    pub(crate) fn is_require_tls(&self) -> bool {
        self.is(Extension::RequireTls)
    }

    /// Whether this is PRDR, which changes the replies to the end of the body.
    pub(crate) fn is_per_recipient_replies(&self) -> bool {
        self.is(Extension::Prdr)
    }

    /// What the server has stated in its EHLO reply that excludes this value, in words for an error:
    /// `Some` only where the extension is offered and its stated limit is broken. Then the message is
    /// withheld whatever the need, since the server would refuse MAIL.
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
