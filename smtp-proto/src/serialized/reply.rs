//! Replies and their codes.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::reply::{EnhancedCode, Reply, ReplyCode};
use crate::text::printable;

/// A number, 200 to 599.
impl Serialize for ReplyCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.get())
    }
}

impl<'de> Deserialize<'de> for ReplyCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u16::deserialize(deserializer)?;
        Self::new(code).ok_or_else(|| {
            D::Error::custom(format_args!(
                "invalid reply code {code}: it lies between 200 and 599"
            ))
        })
    }
}

/// Text such as `5.1.1`.
impl Serialize for EnhancedCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EnhancedCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match Self::split(text.as_bytes()) {
            Some((code, [])) => Ok(code),
            _ => Err(D::Error::custom(format_args!(
                "invalid enhanced status code \"{}\": write it as in 5.1.1",
                printable(&text)
            ))),
        }
    }
}

/// `code`, `enhanced` and `text`. The text is what the server sent: a string if it is UTF-8, else a list of octets.
/// `enhanced` follows from the text, and is not read.
impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Reply", 3)?;
        fields.serialize_field("code", &self.code())?;
        fields.serialize_field("enhanced", &self.enhanced())?;
        fields.serialize_field("text", &Text(self.text()))?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Reply")]
        struct Fields {
            code: ReplyCode,
            #[serde(default, rename = "enhanced")]
            _enhanced: Option<EnhancedCode>,
            text: OwnedText,
        }
        let fields = Fields::deserialize(deserializer)?;
        Ok(Self::new(fields.code, &fields.text.0))
    }
}

struct Text<'a>(&'a [u8]);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(self.0);
        }
        match core::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(self.0),
        }
    }
}

struct OwnedText(Vec<u8>);

impl<'de> Deserialize<'de> for OwnedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(OfText),
            false => deserializer.deserialize_byte_buf(OfText),
        }
    }
}

struct OfText;

impl<'de> Visitor<'de> for OfText {
    type Value = OwnedText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text of a reply, or its octets")
    }

    fn visit_str<E>(self, text: &str) -> Result<OwnedText, E> {
        Ok(OwnedText(text.into()))
    }

    fn visit_bytes<E>(self, octets: &[u8]) -> Result<OwnedText, E> {
        Ok(OwnedText(octets.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut octets: A) -> Result<OwnedText, A::Error> {
        let mut text = Vec::new();
        while let Some(octet) = octets.next_element()? {
            text.push(octet);
        }
        Ok(OwnedText(text))
    }
}
