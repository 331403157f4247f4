//! The `config` lines of a transcript.

use std::collections::BTreeMap;
use std::time::Duration;

use smtp_proto::body::LineEndings;
use smtp_proto::{
    Channel, Chunking, ClientName, Config, Credentials, Protocol, Timeouts, TlsPolicy,
};

use super::parse::{parse_duration, parse_number};
use super::recorded::parse_facts;

/// The settings, with credentials that they cannot name.
pub(super) fn config(
    mut settings: BTreeMap<String, String>,
    custom: Option<Credentials>,
) -> Result<Config, String> {
    let mut take = |key: &str| settings.remove(key);
    let name = take("name").unwrap_or_else(|| "client.example".into());
    let mut config = Config::new(ClientName::parse(&name).map_err(|error| error.to_string())?);
    let token_from = match (take("token-from"), take("no-token")) {
        (None, None) => None,
        (Some(token), None) => Some(Ok(token)),
        (_, Some(words)) => Some(Err(words)),
    };
    config.credentials = match (take("user"), take("password"), take("token")) {
        (Some(user), None, None) if token_from.is_some() => {
            token_from.map(|token| Credentials::token_from(&user, move || token.clone()))
        }
        (Some(user), Some(password), None) => Some(Credentials::password(&user, &password)),
        (Some(user), None, Some(token)) => Some(Credentials::token(&user, &token)),
        (None, None, None) => match (take("external"), take("anonymous")) {
            (Some(_), None) => Some(Credentials::external()),
            (None, Some(trace)) => Some(Credentials::anonymous(&trace)),
            _ => custom,
        },
        _ => return Err("credentials are a user and a password, or a user and a token".into()),
    };
    if let Some(identity) = take("authzid") {
        config.credentials = config
            .credentials
            .map(|credentials| credentials.authorization_id(&identity));
    }
    if let Some(names) = take("auth") {
        let names: Vec<&str> = names.split(',').collect();
        config.credentials = config
            .credentials
            .map(|credentials| credentials.mechanisms(&names));
    }
    if take("in-clear").is_some() {
        config.credentials = config.credentials.map(Credentials::permit_in_clear);
    }
    if take("to-unverified").is_some() {
        config.credentials = config.credentials.map(Credentials::permit_unverified);
    }
    if let Some(reply) = take("timeout.reply") {
        config.timeouts = Timeouts::default().replies(parse_duration(&reply)?);
    }
    let (facts, settings): (Vec<_>, Vec<_>) = settings
        .into_iter()
        .partition(|(key, _)| key.starts_with("channel."));
    for (key, value) in settings {
        match (key.as_str(), value.as_str()) {
            ("tls", "never") => config.tls = TlsPolicy::Never,
            ("tls", "opportunistic") => config.tls = TlsPolicy::Opportunistic,
            ("tls", "required") => config.tls = TlsPolicy::Required,
            ("tls", "implicit") => config.tls = TlsPolicy::Implicit,
            ("channel", "local") => config.channel = Channel::Local,
            ("channel", "tls") => {
                let words: Vec<_> = facts
                    .iter()
                    .map(|(key, value)| match value.as_str() {
                        "" => key["channel.".len()..].to_owned(),
                        value => format!(
                            "problem={}",
                            value.replace('\\', "\\\\").replace(' ', "\\s")
                        ),
                    })
                    .collect();
                let facts = parse_facts(words.iter().map(String::as_str))?;
                config.channel = Channel::Tls(facts);
            }
            ("lmtp", "") => config.protocol = Protocol::Lmtp,
            ("pipelining", "off") => config.pipelining = false,
            ("overlap", "") => config.overlap = true,
            ("chunking", "never") => config.chunking = Chunking::Never,
            ("chunking", "always") => config.chunking = Chunking::Always,
            ("chunking", "eager") => config.chunking = Chunking::Eager,
            ("chunk-size", n) => config.chunk_size = parse_number(n)?,
            ("learn-limits", "") => config.learn_limits = true,
            ("body.refuse-bare", "") => config.body.line_endings = LineEndings::Refuse,
            ("body.allow-nul", "") => config.body.allow_nul = true,
            ("body.refuse-long-lines", "") => config.body.refuse_long_lines = true,
            ("limit.reply.line", n) => config.limits.reply.line = parse_number(n)?,
            ("limit.reply.lines", n) => config.limits.reply.lines = parse_number(n)?,
            ("limit.reply.octets", n) => config.limits.reply.octets = parse_number(n)?,
            ("limit.recipients", n) => config.limits.recipients = parse_number(n)?,
            ("limit.reply-kept", n) => config.limits.reply_kept = parse_number(n)?,
            ("limit.report", n) => config.limits.report = parse_number(n)?,
            ("limit.in-flight", n) => config.limits.in_flight = parse_number(n)?,
            ("limit.messages", n) => config.limits.messages = parse_number(n)?,
            ("limit.challenges", n) => config.limits.challenges = parse_number(n)?,
            ("limit.scram-iterations", n) => config.limits.scram_iterations = parse_number(n)?,
            ("limit.chunks", n) => config.limits.chunks = parse_number(n)?,
            (key, value) => {
                let kind = key
                    .strip_prefix("timeout.")
                    .and_then(|kind| timeout(&mut config.timeouts, kind));
                *kind.ok_or_else(|| format!("unknown setting `{key}={value}`"))? =
                    parse_duration(value)?;
            }
        }
    }
    Ok(config)
}

pub(super) fn timeout<'t>(timeouts: &'t mut Timeouts, kind: &str) -> Option<&'t mut Duration> {
    Some(match kind {
        "greeting" => &mut timeouts.greeting,
        "ehlo" => &mut timeouts.ehlo,
        "starttls" => &mut timeouts.starttls,
        "handshake" => &mut timeouts.handshake,
        "auth" => &mut timeouts.auth,
        "mail" => &mut timeouts.mail,
        "rcpt" => &mut timeouts.rcpt,
        "data" => &mut timeouts.data,
        "block" => &mut timeouts.block,
        "eom" => &mut timeouts.end_of_message,
        "overlap" => &mut timeouts.overlap,
        "request" => &mut timeouts.request,
        "quit" => &mut timeouts.quit,
        _ => return None,
    })
}
