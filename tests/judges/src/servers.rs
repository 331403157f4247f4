//! Of the servers, the part of SCRAM that answers for one in a record.

#[path = "../../src/servers/scram.rs"]
pub(crate) mod scram;
