//! Envelopes, for queues. What is read is checked as if it were given by hand.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::envelope::{BodyType, Envelope, Recipient};
use crate::mailbox::Mailbox;
use crate::parameter::{MailParameter, RcptParameter};

/// Only the addresses are required. Unknown fields are refused, because they may be demands.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Envelope", deny_unknown_fields)]
struct EnvelopeFields {
    reverse_path: Mailbox,
    forward_paths: Vec<Mailbox>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    size_is_exact: bool,
    #[serde(default)]
    body: BodyType,
    #[serde(default)]
    all_or_nothing: bool,
    #[serde(default)]
    smtputf8: bool,
    #[serde(default)]
    reopenable: bool,
    #[serde(default)]
    mail_parameters: Vec<MailParameter>,
    #[serde(default)]
    recipient_parameters: Vec<OfRecipient>,
}

/// A parameter of RCPT: for one recipient, by its position from 0, or for all.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfRecipient {
    recipient: Option<usize>,
    parameter: RcptParameter,
}

impl EnvelopeFields {
    fn of(envelope: &Envelope) -> Self {
        let (own, all) = envelope.listed_recipient_parameters();
        let own = own.iter().map(|(index, parameter)| OfRecipient {
            recipient: Some(*index),
            parameter: parameter.clone(),
        });
        let all = all.iter().map(|parameter| OfRecipient {
            recipient: None,
            parameter: parameter.clone(),
        });
        Self {
            reverse_path: envelope.reverse_path().clone(),
            forward_paths: envelope.mailboxes().to_vec(),
            size: envelope.declared_size(),
            size_is_exact: envelope.exact_size_octets().is_some(),
            body: envelope.body_type(),
            all_or_nothing: envelope.is_all_or_nothing(),
            smtputf8: envelope.needs_smtputf8(),
            reopenable: envelope.is_reopenable(),
            mail_parameters: envelope.mail_parameters().to_vec(),
            recipient_parameters: own.chain(all).collect(),
        }
    }

    fn envelope(self) -> Result<Envelope, String> {
        let count = self.forward_paths.len();
        let recipients: Result<Vec<_>, _> = self.forward_paths.iter().map(Recipient::new).collect();
        let mut recipients = recipients.map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for OfRecipient {
            recipient,
            parameter,
        } in self.recipient_parameters
        {
            let Some(index) = recipient else {
                all.push(parameter);
                continue;
            };
            let one = recipients.get_mut(index).ok_or_else(|| {
                format!(
                    "a parameter is for recipient {index}, counted from 0, and there are {count}"
                )
            })?;
            *one = one.clone().parameter(parameter);
        }
        let envelope = Envelope::new(&self.reverse_path, &recipients)
            .map_err(|error| error.to_string())?
            .body(self.body)
            .all_or_nothing(self.all_or_nothing)
            .smtputf8(self.smtputf8)
            .reopenable(self.reopenable);
        let envelope = match (self.size, self.size_is_exact) {
            (None, _) => envelope,
            (Some(octets), true) => envelope.exact_size(octets),
            (Some(octets), false) => envelope.size(octets),
        };
        let envelope = self
            .mail_parameters
            .into_iter()
            .fold(envelope, Envelope::parameter);
        Ok(all
            .into_iter()
            .fold(envelope, Envelope::recipient_parameter))
    }
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        EnvelopeFields::of(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = EnvelopeFields::deserialize(deserializer)?;
        fields.envelope().map_err(D::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Recipient", deny_unknown_fields)]
struct RecipientFields {
    mailbox: Mailbox,
    #[serde(default)]
    parameters: Vec<RcptParameter>,
}

/// `mailbox` and `parameters`.
impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = RecipientFields {
            mailbox: self.mailbox().clone(),
            parameters: self.parameters().to_vec(),
        };
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = RecipientFields::deserialize(deserializer)?;
        let recipient = Self::new(&fields.mailbox).map_err(D::Error::custom)?;
        Ok(fields
            .parameters
            .into_iter()
            .fold(recipient, Self::parameter))
    }
}
