//! Parameters of MAIL and RCPT. A parameter that is read is made by its own call, which checks it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::mailbox::Mailbox;
use crate::parameter::{
    ByMode, MailParameter, Need, Notify, Parameter, RcptParameter, Ret, RrvsAction,
};
use crate::text::{is_keyword, printable};

#[derive(Serialize, Deserialize)]
#[serde(rename = "Parameter", deny_unknown_fields)]
struct Fields {
    /// `NAME` or `NAME=VALUE`.
    text: String,
    need: Need,
    /// The EHLO keyword, if the engine does not know the parameter and the keyword differs from its name.
    #[serde(default)]
    offered_by: Option<String>,
}

/// `text` as it is sent, `need`, and `offered_by` if it differs from the name.
impl<K> Serialize for Parameter<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let keyword = self.extension().err();
        let fields = Fields {
            text: self.text().into(),
            need: self.need(),
            offered_by: keyword
                .filter(|keyword| *keyword != self.name())
                .map(String::from),
        };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for MailParameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        fields.parameter(mail).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for RcptParameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        fields.parameter(rcpt).map_err(D::Error::custom)
    }
}

/// Makes a parameter from its name and value. `None` if the parameter never writes such a value.
type Make<K> = fn(&str, Option<&str>) -> Result<Option<Parameter<K>>, String>;

impl Fields {
    fn parameter<K>(self, make: Make<K>) -> Result<Parameter<K>, String> {
        let (name, value) = match self.text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&*self.text, None),
        };
        let made = make(name, value)?.filter(|made| made.text() == self.text);
        let parameter = made.ok_or_else(|| {
            format!(
                "invalid parameter \"{}\": not as it is sent",
                printable(&self.text)
            )
        })?;
        let parameter = match self.offered_by {
            // RFC 5321 section 4.1.1.1, ehlo-keyword: as for a name.
            Some(keyword) if !is_keyword(&keyword) => {
                return Err(format!(
                    "invalid EHLO keyword \"{}\": write letters, digits and inner hyphens",
                    printable(&keyword)
                ));
            }
            Some(keyword) => parameter.offered_by(&keyword),
            None => parameter,
        };
        Ok(match self.need {
            Need::Required => parameter.required(),
            Need::IfOffered => parameter.if_offered(),
        })
    }
}

fn text_of(error: impl ToString) -> String {
    error.to_string()
}

fn mail(name: &str, value: Option<&str>) -> Result<Option<MailParameter>, String> {
    let made = match (name, value) {
        ("RET", Some("FULL")) => Ok(MailParameter::ret(Ret::Full)),
        ("RET", Some("HDRS")) => Ok(MailParameter::ret(Ret::Headers)),
        ("ENVID", Some(value)) => match from_xtext(value) {
            Some(id) => MailParameter::envelope_id(&id),
            None => return Ok(None),
        },
        ("BY", Some(value)) => match by(value) {
            Some((seconds, mode, trace)) => MailParameter::deliver_by(seconds, mode, trace),
            None => return Ok(None),
        },
        ("MT-PRIORITY", Some(value)) => match value.parse() {
            Ok(priority) => MailParameter::priority(priority),
            Err(_) => return Ok(None),
        },
        ("HOLDFOR", Some(value)) => match value.parse() {
            Ok(seconds) => MailParameter::hold_for(seconds),
            Err(_) => return Ok(None),
        },
        ("HOLDUNTIL", Some(value)) => MailParameter::hold_until(value),
        ("REQUIRETLS", None) => Ok(MailParameter::require_tls()),
        ("PRDR", None) => Ok(MailParameter::per_recipient_replies()),
        ("AUTH", Some("<>")) => Ok(MailParameter::auth(None)),
        ("AUTH", Some(value)) => match from_xtext(value) {
            Some(identity) => {
                let identity = Mailbox::parse(&identity).map_err(text_of)?;
                Ok(MailParameter::auth(Some(&identity)))
            }
            None => return Ok(None),
        },
        ("RET" | "ENVID" | "BY" | "MT-PRIORITY" | "HOLDFOR" | "HOLDUNTIL", _)
        | ("REQUIRETLS" | "PRDR" | "AUTH", _) => return Ok(None),
        _ => MailParameter::raw(name, value),
    };
    made.map(Some).map_err(text_of)
}

fn rcpt(name: &str, value: Option<&str>) -> Result<Option<RcptParameter>, String> {
    let made = match (name, value) {
        ("NOTIFY", Some(value)) => return Ok(notify(value).map(RcptParameter::notify)),
        ("ORCPT", Some(value)) => return orcpt(value),
        ("RRVS", Some(value)) => match value.split_once(';') {
            None => RcptParameter::valid_since(value, None),
            Some((since, "C")) => RcptParameter::valid_since(since, Some(RrvsAction::Continue)),
            Some((since, "R")) => RcptParameter::valid_since(since, Some(RrvsAction::Reject)),
            Some(_) => return Ok(None),
        },
        ("NOTIFY" | "ORCPT" | "RRVS", None) => return Ok(None),
        _ => RcptParameter::raw(name, value),
    };
    made.map(Some).map_err(text_of)
}

fn by(value: &str) -> Option<(i32, ByMode, bool)> {
    let (seconds, letters) = value.split_once(';')?;
    let (mode, trace) = match letters {
        "R" => (ByMode::Return, false),
        "RT" => (ByMode::Return, true),
        "N" => (ByMode::Notify, false),
        "NT" => (ByMode::Notify, true),
        _ => return None,
    };
    Some((seconds.parse().ok()?, mode, trace))
}

fn notify(value: &str) -> Option<Notify> {
    if value == "NEVER" {
        return Some(Notify::NEVER);
    }
    value.split(',').try_fold(Notify::NEVER, |notify, one| {
        Some(
            notify
                | match one {
                    "SUCCESS" => Notify::SUCCESS,
                    "FAILURE" => Notify::FAILURE,
                    "DELAY" => Notify::DELAY,
                    _ => return None,
                },
        )
    })
}

fn orcpt(value: &str) -> Result<Option<RcptParameter>, String> {
    let Some((addr_type, address)) = value.split_once(';') else {
        return Ok(None);
    };
    // An address beyond ASCII has at least one escape.
    if addr_type == "utf-8" && address.contains('\\') {
        return match from_unicode_xtext(address) {
            Some(address) => {
                let mailbox = Mailbox::parse(&address).map_err(text_of)?;
                let made = RcptParameter::original_recipient(&mailbox);
                made.map(Some).map_err(text_of)
            }
            None => Ok(None),
        };
    }
    match from_xtext(address) {
        Some(address) => RcptParameter::original_recipient_of(addr_type, &address)
            .map(Some)
            .map_err(text_of),
        None => Ok(None),
    }
}

/// Reverses `push_xtext` (RFC 3461 section 4).
fn from_xtext(xtext: &str) -> Option<String> {
    let mut pieces = xtext.split('+');
    let mut text: Vec<u8> = pieces.next()?.into();
    for piece in pieces {
        text.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        text.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(text).ok()
}

/// Reverses `push_unicode_xtext` (RFC 6533 section 3).
fn from_unicode_xtext(xtext: &str) -> Option<String> {
    let mut pieces = xtext.split("\\x{");
    let mut text: String = pieces.next()?.into();
    for piece in pieces {
        let (hex, rest) = piece.split_once('}')?;
        text.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
        text.push_str(rest);
    }
    Some(text)
}
