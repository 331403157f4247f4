//! The envelope that all messages share.

use smtp_proto::parameter::{MailParameter, RcptParameter, Ret};
use smtp_proto::{Envelope, Error};

use super::options::{DsnRet, Options};
use super::parameters::{mail_parameter, notify, rcpt_parameter};
use super::refusal::{bad_flag, refused};

impl Options {
    /// The envelope that all messages share.
    pub(super) fn envelope(&self) -> Result<Envelope, Error> {
        let from = self.from.as_deref().unwrap_or_default();
        let envelope = Envelope::new(from, &self.to).map_err(|error| refused(error.into()))?;
        let mut envelope = envelope
            .smtputf8(self.smtputf8)
            .all_or_nothing(self.all_or_nothing);
        if let Some(ret) = self.dsn_ret {
            envelope = envelope.parameter(MailParameter::ret(match ret {
                DsnRet::Full => Ret::Full,
                DsnRet::Hdrs => Ret::Headers,
            }));
        }
        if let Some(id) = &self.dsn_envid {
            let id = MailParameter::envelope_id(id)
                .map_err(|error| bad_flag("--dsn-envid", id, &error))?;
            envelope = envelope.parameter(id);
        }
        if let Some(list) = &self.dsn_notify {
            let when = notify(list).map_err(|error| bad_flag("--dsn-notify", list, &error))?;
            envelope = envelope.recipient_parameter(RcptParameter::notify(when));
        }
        if self.require_tls {
            envelope = envelope.parameter(MailParameter::require_tls());
        }
        for text in &self.param {
            let parameter =
                mail_parameter(text).map_err(|error| bad_flag("--param", text, &error))?;
            envelope = envelope.parameter(parameter.required());
        }
        for text in &self.rcpt_param {
            let parameter =
                rcpt_parameter(text).map_err(|error| bad_flag("--rcpt-param", text, &error))?;
            envelope = envelope.recipient_parameter(parameter.required());
        }
        Ok(envelope)
    }
}
