//! How serde writes errors and facts about TLS (feature `serde`). They are not read, because their words are for
//! people.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::error::Error;

/// The fields of the engine's error: `stage`, `outcome`, `retry`, `concerns_session`, `recipient`, `command`,
/// `cause`, and the whole line as `text`. Then `report`, `round_trips`, and `tls` if TLS is built in.
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let error = self.error();
        let count = if cfg!(feature = "rustls") { 11 } else { 10 };
        let mut fields = serializer.serialize_struct("Error", count)?;
        fields.serialize_field("stage", &error.stage)?;
        fields.serialize_field("outcome", &error.outcome)?;
        fields.serialize_field("retry", &self.retry())?;
        fields.serialize_field("concerns_session", &self.concerns_session())?;
        fields.serialize_field("recipient", &error.recipient)?;
        fields.serialize_field("command", &error.command.as_deref())?;
        fields.serialize_field("cause", &error.cause)?;
        fields.serialize_field("text", &self.to_string())?;
        fields.serialize_field("report", &self.report())?;
        fields.serialize_field("round_trips", &self.round_trips())?;
        #[cfg(feature = "rustls")]
        fields.serialize_field("tls", &self.tls_info())?;
        fields.end()
    }
}

/// `version`, `cipher_suite`, `verified_name`, `unverified` and `is_resumed`, without the certificates.
#[cfg(feature = "rustls")]
impl Serialize for crate::tls::TlsInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("TlsInfo", 5)?;
        fields.serialize_field("version", &self.version)?;
        fields.serialize_field("cipher_suite", &self.cipher_suite)?;
        fields.serialize_field("verified_name", &self.verified_name)?;
        fields.serialize_field("unverified", &self.unverified.as_deref())?;
        fields.serialize_field("is_resumed", &self.is_resumed)?;
        fields.end()
    }
}
