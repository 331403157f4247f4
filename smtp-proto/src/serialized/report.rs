//! Reports. They are written, but not read.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::event::{Failure, Report, Results};
use crate::mailbox::Mailbox;
use crate::reply::Reply;

/// `outcome`, which is null if everybody got the message, and `recipients` in the order of the envelope.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Report", 2)?;
        fields.serialize_field("outcome", &self.outcome())?;
        fields.serialize_field("recipients", &self.iter())?;
        fields.end()
    }
}

/// A list of `mailbox`, `reply` and `error`. Either `reply` or `error` is null.
impl Serialize for Results<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Recipient<'a> {
            mailbox: &'a Mailbox,
            reply: Option<&'a Reply>,
            error: Option<&'a Error>,
        }
        serializer.collect_seq(self.clone().map(|(mailbox, result)| Recipient {
            mailbox,
            reply: result.as_ref().ok(),
            error: result.as_ref().err(),
        }))
    }
}

/// `index`, `mailbox` and `error`.
impl Serialize for Failure<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Failure", 3)?;
        fields.serialize_field("index", &self.index)?;
        fields.serialize_field("mailbox", self.mailbox)?;
        fields.serialize_field("error", self.error)?;
        fields.end()
    }
}
