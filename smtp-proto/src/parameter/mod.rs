//! Parameters of MAIL and RCPT (RFC 5321 section 4.1.2), each ready as the text that is sent. They have two types, so
//! that none can go on the wrong command. No value from here can end a command line or begin another parameter.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;

use crate::capability::{Capabilities, Extension};
use crate::date_time::seconds_of;
use crate::text::{is_keyword, is_printable_ascii, printable};

mod mail;
mod rcpt;

pub use mail::{ByMode, Ret};
pub use rcpt::{Notify, RrvsAction};

/// What happens to a message if the server does not offer the extension of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
pub enum Need {
    /// The server does not get the message.
    Required,
    /// The message goes out without the parameter.
    IfOffered,
}

/// The EHLO keyword of a server that understands a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Keyword {
    Known(Extension),
    Other(Arc<str>),
}

/// Marks a [`Parameter`] of MAIL. It has no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {}

/// Marks a [`Parameter`] of RCPT. It has no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcpt {}

/// A parameter of one command: `K` is [`Mail`] or [`Rcpt`]. Cloning it copies no text.
///
/// Its two names are [`MailParameter`] and [`RcptParameter`].
#[derive(Clone, PartialEq, Eq)]
pub struct Parameter<K> {
    keyword: Keyword,
    /// `NAME` or `NAME=VALUE`.
    text: Arc<str>,
    need: Need,
    command: PhantomData<K>,
}

/// A parameter of MAIL. Cloning it copies no text.
///
/// ```
/// use smtp_proto::{Envelope, parameter::{ByMode, MailParameter, Ret}};
///
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?
///     .parameter(MailParameter::ret(Ret::Headers))
///     .parameter(MailParameter::envelope_id("QQ314159")?.required())
///     .parameter(MailParameter::deliver_by(120, ByMode::Return, false)?);
/// let said: Vec<_> = envelope.mail_parameters().iter().map(|p| p.to_string()).collect();
/// assert_eq!(said, ["RET=HDRS", "ENVID=QQ314159", "BY=120;R"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type MailParameter = Parameter<Mail>;

/// A parameter of RCPT. Cloning it copies no text.
///
/// ```
/// use smtp_proto::{Envelope, Recipient, parameter::{Notify, RcptParameter}};
///
/// let bob = Recipient::new("bob@example.net")?
///     .parameter(RcptParameter::notify(Notify::SUCCESS | Notify::FAILURE));
/// let envelope = Envelope::new("alice@example.org", [bob])?;
/// let said: Vec<_> = envelope.recipient_parameters(0).map(|p| p.to_string()).collect();
/// assert_eq!(said, ["NOTIFY=SUCCESS,FAILURE"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type RcptParameter = Parameter<Rcpt>;

impl<K> Parameter<K> {
    /// Any other parameter, required by default. The server understands it if an EHLO keyword equals its name. Give
    /// another keyword by [`offered_by`](Self::offered_by).
    ///
    /// ```
    /// use smtp_proto::parameter::{MailParameter, RcptParameter};
    ///
    /// let conperm = MailParameter::raw("CONPERM", None)?;
    /// let tagged = RcptParameter::raw("X-TAG", Some("7"))?.offered_by("X-TAGS");
    /// assert!(MailParameter::raw("SIZE", Some("1")).is_err());
    /// # Ok::<(), smtp_proto::parameter::ParameterError>(())
    /// ```
    ///
    /// # Errors
    /// The name is not an `esmtp-keyword`, or the value is not an `esmtp-value` (RFC 5321 section 4.1.2). Names that
    /// have their own call, or that the engine sends by itself, are errors too.
    pub fn raw(name: &str, value: Option<&str>) -> Result<Self, ParameterError> {
        if !is_keyword(name) {
            return Err(ParameterError::Name {
                name: printable(name),
            });
        }
        if let Some(instead) = own_call(name) {
            return Err(ParameterError::HasOwnCall {
                name: printable(name),
                instead,
            });
        }
        let text = match value {
            None => name.into(),
            // RFC 5321 section 4.1.2, esmtp-value.
            Some(value)
                if value.is_empty()
                    || !value.bytes().all(|b| b.is_ascii_graphic() && b != b'=') =>
            {
                return Err(ParameterError::Value {
                    name: printable(name),
                    value: printable(value),
                });
            }
            Some(value) => format!("{name}={value}").into(),
        };
        Ok(Self {
            keyword: Keyword::Other(name.into()),
            text,
            need: Need::Required,
            command: PhantomData,
        })
    }

    fn new(extension: Extension, need: Need, text: &str) -> Self {
        Self {
            keyword: Keyword::Known(extension),
            text: text.into(),
            need,
            command: PhantomData,
        }
    }

    /// Names the EHLO keyword that offers a [`raw`](Self::raw) parameter, if it differs from its name. It does not
    /// change other parameters.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{ParameterError, RcptParameter};
    /// let tagged = RcptParameter::raw("X-TAG", Some("7"))?.offered_by("X-TAGS");
    /// assert_eq!(tagged.to_string(), "X-TAG=7");
    /// # Ok::<(), ParameterError>(())
    /// ```
    #[must_use]
    pub fn offered_by(mut self, keyword: &str) -> Self {
        if own_call(self.name()).is_none() {
            self.keyword = Keyword::Other(keyword.into());
        }
        self
    }

    /// Withholds the message from a server that does not offer the extension.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, Need, Ret};
    /// assert_eq!(MailParameter::ret(Ret::Full).required().need(), Need::Required);
    /// ```
    #[must_use]
    pub fn required(mut self) -> Self {
        self.need = Need::Required;
        self
    }

    /// Leaves the parameter out if the server does not offer the extension. REQUIRETLS stays required, because RFC
    /// 8689 demands it.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, Need, ParameterError};
    /// let hold = MailParameter::hold_for(60)?.if_offered();
    /// assert_eq!(hold.need(), Need::IfOffered);
    /// # Ok::<(), ParameterError>(())
    /// ```
    #[must_use]
    pub fn if_offered(mut self) -> Self {
        // RFC 8689: a client never passes the message on without it.
        if !self.is(Extension::RequireTls) {
            self.need = Need::IfOffered;
        }
        self
    }

    /// The name, as it is sent.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{MailParameter, Ret};
    /// assert_eq!(MailParameter::ret(Ret::Full).name(), "RET");
    /// ```
    pub fn name(&self) -> &str {
        self.text
            .split_once('=')
            .map_or(&self.text, |(name, _)| name)
    }

    /// What happens to the message if the extension is not offered.
    ///
    /// ```
    /// # use smtp_proto::*;
    /// # use smtp_proto::parameter::{Need, Notify, RcptParameter};
    /// assert_eq!(RcptParameter::notify(Notify::NEVER).need(), Need::IfOffered);
    /// ```
    pub fn need(&self) -> Need {
        self.need
    }

    /// The EHLO keyword that offers it, where the engine does not know it and it is not the name. For the record of a
    /// session.
    #[doc(hidden)]
    pub fn keyword(&self) -> Option<&str> {
        self.extension()
            .err()
            .filter(|keyword| *keyword != self.name())
    }

    /// `NAME` or `NAME=VALUE`, as it is sent.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn value(&self) -> &str {
        self.text.split_once('=').map_or("", |(_, value)| value)
    }

    fn is(&self, extension: Extension) -> bool {
        self.keyword == Keyword::Known(extension)
    }

    /// Whether the server offers its extension.
    pub(crate) fn offered_in(&self, capabilities: &Capabilities) -> bool {
        match &self.keyword {
            Keyword::Known(extension) => capabilities.has(*extension),
            Keyword::Other(keyword) => capabilities.offers(keyword),
        }
    }

    /// The extension, or its EHLO keyword if the engine does not know it.
    pub(crate) fn extension(&self) -> Result<Extension, &str> {
        match &self.keyword {
            Keyword::Known(extension) => Ok(*extension),
            Keyword::Other(keyword) => Err(keyword),
        }
    }

    /// Whether one command cannot carry both: two of the same name, or HOLDFOR and HOLDUNTIL (RFC 4865 section 3).
    pub(crate) fn displaces(&self, other: &Self) -> bool {
        let future = Extension::FutureRelease;
        self.name().eq_ignore_ascii_case(other.name()) || (self.is(future) && other.is(future))
    }
}

impl<K> fmt::Display for Parameter<K> {
    /// As it is sent, `NAME` or `NAME=VALUE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for MailParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MAIL {} ({:?})", self.text, self.need)
    }
}

impl fmt::Debug for RcptParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RCPT {} ({:?})", self.text, self.need)
    }
}

/// Why a parameter cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParameterError {
    /// The name is not letters, digits and inner hyphens (RFC 5321 section 4.1.2).
    #[error("invalid parameter name \"{name}\": write letters, digits and inner hyphens")]
    Name {
        /// The name, made printable.
        name: Box<str>,
    },
    /// The value is empty, or holds a character that this parameter cannot carry.
    #[error("invalid value of {name}: \"{value}\"")]
    Value {
        /// The parameter.
        name: Box<str>,
        /// The value, made printable.
        value: Box<str>,
    },
    /// The number is out of range.
    #[error("{name} cannot be {value}; it lies between {min} and {max}")]
    Range {
        /// The parameter.
        name: &'static str,
        /// The number.
        value: i64,
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// The text is not a date-time of RFC 3339.
    #[error("{name} cannot be \"{value}\"; it is a date-time such as 2027-01-02T03:04:05Z")]
    DateTime {
        /// The parameter.
        name: &'static str,
        /// The text, made printable.
        value: Box<str>,
    },
    /// The text has too many octets.
    #[error("{name} is longer than {limit} octets")]
    TooLong {
        /// The parameter.
        name: &'static str,
        /// The most octets.
        limit: usize,
    },
    /// The name has its own call, so [`MailParameter::raw`] and [`RcptParameter::raw`] refuse it.
    #[error("{name} must not be written by hand; use {instead}")]
    HasOwnCall {
        /// The name.
        name: Box<str>,
        /// What to call.
        instead: &'static str,
    },
}

/// The call for a parameter that must not be written by hand.
fn own_call(name: &str) -> Option<&'static str> {
    const CALLS: [(&str, &str); 15] = [
        ("SIZE", "Envelope::size"),
        ("BODY", "Envelope::body"),
        ("SMTPUTF8", "Envelope::smtputf8"),
        ("RET", "MailParameter::ret"),
        ("ENVID", "MailParameter::envelope_id"),
        ("BY", "MailParameter::deliver_by"),
        ("MT-PRIORITY", "MailParameter::priority"),
        ("HOLDFOR", "MailParameter::hold_for"),
        ("HOLDUNTIL", "MailParameter::hold_until"),
        ("REQUIRETLS", "MailParameter::require_tls"),
        ("PRDR", "MailParameter::per_recipient_replies"),
        ("AUTH", "MailParameter::auth"),
        ("NOTIFY", "RcptParameter::notify"),
        ("ORCPT", "RcptParameter::original_recipient"),
        ("RRVS", "RcptParameter::valid_since"),
    ];
    CALLS
        .iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, call)| *call)
}

fn check_range(name: &'static str, value: i64, min: i64, max: i64) -> Result<(), ParameterError> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(ParameterError::Range {
            name,
            value,
            min,
            max,
        }),
    }
}

/// RFC 3461 sections 4.2 and 4.4 only allow printable ASCII characters and spaces in a report.
fn check_reportable(name: &str, text: &str) -> Result<(), ParameterError> {
    match !text.is_empty() && is_printable_ascii(text) {
        true => Ok(()),
        false => Err(ParameterError::Value {
            name: name.into(),
            value: printable(text),
        }),
    }
}

fn check_date_time(name: &'static str, text: &str) -> Result<(), ParameterError> {
    match seconds_of(text) {
        Some(_) => Ok(()),
        None => Err(ParameterError::DateTime {
            name,
            value: printable(text),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::rcpt::MAX_ORCPT;
    use super::*;
    use crate::mailbox::MAX_MAILBOX;
    use crate::mailbox::Mailbox;
    use crate::reply::{Reply, ReplyCode};
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn offering(lines: &str) -> Capabilities {
        Capabilities::parse(Reply::new(
            ReplyCode::new(250).unwrap(),
            format!("mx\n{lines}").as_bytes(),
        ))
    }

    fn mailbox(address: &str) -> Mailbox {
        Mailbox::parse(address).unwrap()
    }

    #[test]
    fn texts() {
        use Need::{IfOffered, Required};
        type Mail = MailParameter;
        for (parameter, text, need) in [
            (Ok(Mail::ret(Ret::Full)), "RET=FULL", IfOffered),
            (Ok(Mail::ret(Ret::Headers)), "RET=HDRS", IfOffered),
            (Mail::envelope_id("QQ314159"), "ENVID=QQ314159", IfOffered),
            (
                Mail::envelope_id("a+b=c d~"),
                "ENVID=a+2Bb+3Dc+20d~",
                IfOffered,
            ),
            (
                Mail::deliver_by(1, ByMode::Return, false),
                "BY=1;R",
                Required,
            ),
            (
                Mail::deliver_by(-999_999_999, ByMode::Notify, true),
                "BY=-999999999;NT",
                IfOffered,
            ),
            (Mail::priority(-9), "MT-PRIORITY=-9", IfOffered),
            (Mail::hold_for(999_999_999), "HOLDFOR=999999999", Required),
            (
                Mail::hold_until("2027-01-02T03:04:05+02:00"),
                "HOLDUNTIL=2027-01-02T03:04:05+02:00",
                Required,
            ),
            (Ok(Mail::require_tls()), "REQUIRETLS", Required),
            (Ok(Mail::per_recipient_replies()), "PRDR", IfOffered),
            (Ok(Mail::auth(None)), "AUTH=<>", IfOffered),
            (Ok(Mail::auth(Some(&Mailbox::null()))), "AUTH=<>", IfOffered),
            (
                Ok(Mail::auth(Some(&mailbox("e=mc2@example.com")))),
                "AUTH=e+3Dmc2@example.com",
                IfOffered,
            ),
            (
                Ok(Mail::auth(Some(&mailbox("h\u{e4}@b")))),
                "AUTH=h+C3+A4@b",
                IfOffered,
            ),
            (Mail::raw("CONPERM", None), "CONPERM", Required),
            (Mail::raw("X-a", Some("<1>")), "X-a=<1>", Required),
        ] {
            let parameter = parameter.unwrap();
            assert_eq!((parameter.text(), parameter.need()), (text, need));
        }
        type Rcpt = RcptParameter;
        for (parameter, text, need) in [
            (Ok(Rcpt::notify(Notify::NEVER)), "NOTIFY=NEVER", IfOffered),
            (
                Ok(Rcpt::notify(
                    Notify::DELAY | Notify::FAILURE | Notify::SUCCESS,
                )),
                "NOTIFY=SUCCESS,FAILURE,DELAY",
                IfOffered,
            ),
            (
                Rcpt::original_recipient(&mailbox("\"a b\"@example.org")),
                "ORCPT=rfc822;\"a+20b\"@example.org",
                IfOffered,
            ),
            (
                Rcpt::original_recipient(&mailbox("\"\u{1f600} a\\\\+=\"@\u{fc}.example")),
                r#"ORCPT=utf-8;"\x{1F600}\x{20}a\x{5C}\x{5C}\x{2B}\x{3D}"@\x{FC}.example"#,
                IfOffered,
            ),
            (
                Rcpt::original_recipient_of("x400", "/C=de/"),
                "ORCPT=x400;/C+3Dde/",
                IfOffered,
            ),
            (
                Rcpt::valid_since("2027-01-02t03:04:05.5z", None),
                "RRVS=2027-01-02t03:04:05.5z",
                Required,
            ),
            (
                Rcpt::valid_since("2027-01-02T03:04:05Z", Some(RrvsAction::Continue)),
                "RRVS=2027-01-02T03:04:05Z;C",
                Required,
            ),
            (
                Rcpt::valid_since("2027-01-02T03:04:05Z", Some(RrvsAction::Reject)),
                "RRVS=2027-01-02T03:04:05Z;R",
                Required,
            ),
        ] {
            let parameter = parameter.unwrap();
            assert_eq!((parameter.text(), parameter.need()), (text, need));
        }
    }

    #[test]
    fn bounds() {
        assert!(MailParameter::envelope_id(&"+".repeat(100)).is_ok());
        let too_long = MailParameter::envelope_id(&"a".repeat(101)).unwrap_err();
        assert_eq!(too_long.to_string(), "ENVID is longer than 100 octets");
        for bad in ["", "a\r\nb", "\u{e4}", "\0", "\t"] {
            assert!(MailParameter::envelope_id(bad).is_err(), "{bad:?}");
            assert!(
                RcptParameter::original_recipient_of("x400", bad).is_err(),
                "{bad:?}"
            );
        }
        for bad in ["", "a b", "a;b", "a+b", "a=b", "\u{e4}", "a\r\n"] {
            assert!(
                RcptParameter::original_recipient_of(bad, "a").is_err(),
                "{bad:?}"
            );
        }
        let rest = MAX_ORCPT - "ORCPT=x400;".len();
        assert!(RcptParameter::original_recipient_of("x400", &"a".repeat(rest)).is_ok());
        assert!(RcptParameter::original_recipient_of("x400", &"a".repeat(rest + 1)).is_err());

        for seconds in [0, -1, i32::MIN, 1_000_000_000] {
            assert!(
                MailParameter::deliver_by(seconds, ByMode::Return, false).is_err(),
                "{seconds}"
            );
        }
        for (seconds, fine) in [
            (0, true),
            (-1, true),
            (-1_000_000_000, false),
            (1_000_000_000, false),
        ] {
            assert_eq!(
                MailParameter::deliver_by(seconds, ByMode::Notify, true).is_ok(),
                fine,
                "{seconds}"
            );
        }
        assert!(MailParameter::priority(9).is_ok());
        assert!(MailParameter::priority(-10).is_err());
        let error = MailParameter::priority(10).unwrap_err();
        assert_eq!(
            error.to_string(),
            "MT-PRIORITY cannot be 10; it lies between -9 and 9"
        );
        assert!(
            MailParameter::hold_for(0).is_err() && MailParameter::hold_for(1_000_000_000).is_err()
        );
        let error = MailParameter::hold_until("soon\r\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "HOLDUNTIL cannot be \"soon\\x0d\\x0a\"; it is a date-time such as 2027-01-02T03:04:05Z"
        );
        assert!(RcptParameter::valid_since("2027-01-02", None).is_err());
    }

    /// RFC 3461 section 4.2 counts the octets that are sent, so the encoded address.
    #[test]
    fn an_original_recipient_has_500_octets() {
        let of = |local: &str| RcptParameter::original_recipient(&mailbox(&format!("{local}@b")));
        let too_long = ParameterError::TooLong {
            name: "ORCPT",
            limit: 500,
        };
        for (prefix, one, octets) in [
            ("ORCPT=rfc822;@b", "a", 1),
            ("ORCPT=rfc822;@b", "+", 3),
            ("ORCPT=utf-8;@b", "\u{e4}", 6),
        ] {
            let (count, rest) = ((500 - prefix.len()) / octets, (500 - prefix.len()) % octets);
            let longest = one.repeat(count) + &"a".repeat(rest);
            assert_eq!(of(&longest).unwrap().text().len(), 500, "{one}");
            assert_eq!(of(&(longest + "a")), Err(too_long.clone()), "{one}");
        }
        // The longest mailbox is longer than that.
        let longest = "a".repeat(MAX_MAILBOX - "@b".len());
        assert_eq!(
            of(&longest).unwrap_err().to_string(),
            "ORCPT is longer than 500 octets"
        );
    }

    #[test]
    fn raw_parameters_are_keyword_and_value_and_nothing_else() {
        for name in ["", "-a", "a b", "a=b", "a_b", "\u{e4}", "a\r\n"] {
            assert!(
                matches!(
                    MailParameter::raw(name, None),
                    Err(ParameterError::Name { .. })
                ),
                "{name:?}"
            );
        }
        for value in ["", "a b", "a=b", "\u{e4}", "a\r\nb", "\0", "\u{7f}"] {
            let error = RcptParameter::raw("X", Some(value));
            assert!(
                matches!(error, Err(ParameterError::Value { .. })),
                "{value:?}"
            );
        }
        for name in [
            "size",
            "Body",
            "SMTPUTF8",
            "RET",
            "NOTIFY",
            "auth",
            "RequireTLS",
        ] {
            for error in [
                MailParameter::raw(name, None).err(),
                RcptParameter::raw(name, None).err(),
            ] {
                assert!(
                    matches!(error, Some(ParameterError::HasOwnCall { .. })),
                    "{name}"
                );
            }
        }
        let error = RcptParameter::raw("RET", Some("FULL")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "RET must not be written by hand; use MailParameter::ret"
        );
    }

    #[test]
    fn offers_and_needs() {
        let raw = MailParameter::raw("CONPERM", None).unwrap();
        assert!(raw.offered_in(&offering("conperm")) && !raw.offered_in(&offering("X")));
        assert_eq!(raw.extension(), Err("CONPERM"));
        let other = raw.offered_by("X-CON");
        assert!(other.offered_in(&offering("X-CON")) && !other.offered_in(&offering("CONPERM")));
        assert_eq!(other.if_offered().need(), Need::IfOffered);

        let dsn = RcptParameter::notify(Notify::NEVER)
            .required()
            .offered_by("X");
        assert_eq!(
            (dsn.extension(), dsn.need()),
            (Ok(Extension::Dsn), Need::Required)
        );
        assert!(dsn.offered_in(&offering("DSN")) && !dsn.offered_in(&offering("X")));

        let tls = MailParameter::require_tls().if_offered();
        assert_eq!(tls.need(), Need::Required);
        assert!(tls.is_require_tls() && !tls.is_per_recipient_replies());
        assert!(MailParameter::per_recipient_replies().is_per_recipient_replies());
        let hold = MailParameter::hold_for(1).unwrap().if_offered();
        assert_eq!(hold.need(), Need::IfOffered);
    }

    #[test]
    fn what_the_server_excludes_is_known_before() {
        let c = offering("DELIVERBY 60\nFUTURERELEASE 3600 2027-01-02T00:00:00Z");
        let excluded = |parameter: Result<MailParameter, _>| parameter.unwrap().excluded_by(&c);
        let fine = [
            MailParameter::deliver_by(60, ByMode::Return, true),
            MailParameter::deliver_by(-60, ByMode::Notify, false),
            MailParameter::hold_for(3600),
            MailParameter::hold_until("2027-01-02T02:00:00+02:00"),
            Ok(MailParameter::require_tls()),
        ];
        assert_eq!(
            fine.into_iter().filter_map(excluded).collect::<Vec<_>>(),
            [""; 0]
        );
        for (parameter, why) in [
            (
                MailParameter::deliver_by(59, ByMode::Return, true),
                "BY=59;RT is not possible: the server takes at least 60 s",
            ),
            (
                MailParameter::hold_for(3601),
                "HOLDFOR=3601 is not possible: the server takes at most 3600 s",
            ),
            (
                MailParameter::hold_until("2027-01-02T00:00:00-00:01"),
                "HOLDUNTIL=2027-01-02T00:00:00-00:01 is not possible: the server takes \
                 2027-01-02T00:00:00Z at the latest",
            ),
        ] {
            assert_eq!(
                parameter
                    .clone()
                    .unwrap()
                    .excluded_by(&offering("DELIVERBY\nFUTURERELEASE")),
                None
            );
            assert_eq!(excluded(parameter).as_deref(), Some(why));
        }
    }
}
