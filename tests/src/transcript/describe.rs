//! Results in the words of an expectation.

use smtp_proto::auth::MechanismError;
use smtp_proto::body::BodyError;
use smtp_proto::error::ProtocolError;
use smtp_proto::reply::{Printable, ReplyError};
use smtp_proto::{Cause, Error, Outcome, Reply};

/// A result in the words of an expectation.
pub fn describe(result: &Result<Reply, Error>) -> String {
    match result {
        Ok(reply) => format!("ok {}", describe_reply(reply)),
        Err(error) => describe_error(error),
    }
}

/// The result in short, or as a record has it.
pub(super) fn in_words_of(
    expected: &str,
    short: impl FnOnce() -> String,
    result: &Result<Reply, Error>,
) -> String {
    match result {
        _ if !expected.starts_with("says ") => short(),
        Ok(reply) => format!("says ok {reply}"),
        Err(error) => format!("says error {}", Printable(error.to_string().as_bytes())),
    }
}

pub(super) fn describe_reply(reply: &Reply) -> String {
    match reply.enhanced() {
        Some(enhanced) => format!("{} {enhanced}", reply.code()),
        None => reply.code().to_string(),
    }
}

pub(super) fn describe_error(error: &Error) -> String {
    let outcome = match error.outcome {
        Outcome::Transient => "transient",
        Outcome::Permanent => "permanent",
        Outcome::InDoubt => "in-doubt",
        Outcome::NotAttempted => "not-attempted",
    };
    format!("{outcome} {} {}", error.stage, describe_cause(&error.cause))
}

fn describe_cause(cause: &Cause) -> String {
    match cause {
        Cause::Rejected(reply) => describe_reply(reply),
        Cause::HelloRejected { ehlo, helo } => format!("hello {} {}", ehlo.code(), helo.code()),
        Cause::TimedOut(_) => "timeout".into(),
        Cause::Disconnected => "disconnected".into(),
        Cause::Protocol(error) => format!("protocol {}", describe_protocol_error(error)),
        Cause::Unsupported(extension) => format!("unsupported {extension}"),
        Cause::Local(_) => "local".into(),
        Cause::UnsupportedKeyword(keyword) => format!("unsupported {keyword}"),
        Cause::TlsUnverified => "tls-unverified".into(),
        Cause::CredentialsUnverified(_) => "credentials-unverified".into(),
        Cause::Excluded(_) => "excluded".into(),
        Cause::LimitExceeded { name, limit, value } => format!("limit {name} {limit} {value}"),
        Cause::TooLarge { size, limit } => format!("too-large {size} {limit}"),
        Cause::TlsUnavailable(None) => "tls-unavailable".into(),
        Cause::TlsUnavailable(Some(reply)) => format!("tls-unavailable {}", describe_reply(reply)),
        Cause::TlsFailed(_) => "tls-failed".into(),
        Cause::TlsMisconfigured(_) => "tls-misconfigured".into(),
        Cause::TlsUntrusted(_) => "tls-untrusted".into(),
        Cause::AuthUnavailable => "auth-unavailable".into(),
        Cause::NoCommonMechanism(offered) => format!("no-common-mechanism {offered}")
            .trim_end()
            .to_owned(),
        Cause::CredentialsInClear => "credentials-in-clear".into(),
        Cause::TokenRejected { reply, error } => {
            format!("token-rejected {} ({error})", describe_reply(reply))
        }
        Cause::Mechanism(error) => describe_mechanism_error(error),
        Cause::Body(BodyError::BareCr) => "body bare-cr".into(),
        Cause::Body(BodyError::BareLf) => "body bare-lf".into(),
        Cause::Body(BodyError::Nul) => "body nul".into(),
        Cause::Body(BodyError::LineTooLong) => "body line-too-long".into(),
        Cause::Body(BodyError::WrongSize) => "body wrong-size".into(),
        Cause::Body(BodyError::EightBit) => "body eight-bit".into(),
        Cause::AllOrNothing => "all-or-nothing".into(),
        other => format!("({other})"),
    }
}

fn describe_mechanism_error(error: &MechanismError) -> String {
    match error {
        MechanismError::Undecodable => "mechanism undecodable".into(),
        MechanismError::UnexpectedChallenge => "mechanism unexpected-challenge".into(),
        MechanismError::Token(words) => format!("mechanism token {words}"),
        MechanismError::Nul => "mechanism nul".into(),
        MechanismError::Control => "mechanism control".into(),
        MechanismError::Prohibited => "mechanism prohibited".into(),
        MechanismError::Malformed(_) => "mechanism malformed".into(),
        MechanismError::Nonce => "mechanism nonce".into(),
        MechanismError::Iterations { asked, .. } => format!("mechanism iterations {asked}"),
        MechanismError::Server(error) => format!("mechanism server {error}"),
        MechanismError::Unproven => "mechanism unproven".into(),
        MechanismError::WrongProof => "mechanism wrong-proof".into(),
        other => format!("({other})"),
    }
}

fn describe_protocol_error(error: &ProtocolError) -> String {
    match error {
        ProtocolError::Malformed(ReplyError::LineTooLong { .. }) => "line-too-long".into(),
        ProtocolError::Malformed(ReplyError::TooManyLines { .. }) => "too-many-lines".into(),
        ProtocolError::Malformed(ReplyError::TooLong { .. }) => "too-long".into(),
        ProtocolError::Malformed(ReplyError::BareCr) => "bare-cr".into(),
        ProtocolError::Malformed(ReplyError::NotAReply(_)) => "not-a-reply".into(),
        ProtocolError::Malformed(ReplyError::CodesDisagree { .. }) => "codes-disagree".into(),
        ProtocolError::Unexpected(reply) => format!("unexpected {}", reply.code()),
        ProtocolError::WrongClass(reply) => format!("wrong-class {}", reply.code()),
        ProtocolError::TooManyChallenges { limit } => format!("too-many-challenges {limit}"),
        ProtocolError::OctetsBehindStartTls => "octets-behind-starttls".into(),
        other => format!("({other})"),
    }
}

/// The differences of two parts of the conversation, line by line.
pub fn difference(expected: &[u8], actual: &[u8]) -> String {
    let list = |octets: &[u8]| {
        let lines = octets.split_inclusive(|&octet| octet == b'\n');
        lines
            .map(|line| format!("\n    {}", line.escape_ascii()))
            .collect::<String>()
    };
    let common = expected
        .iter()
        .zip(actual)
        .take_while(|(a, b)| a == b)
        .count();
    format!(
        "the client does not send what it must (the first {common} octets agree)\n  expected:{}\n  actual:{}",
        list(expected),
        list(actual)
    )
}
