//! The settings of a session, as a transcript has them.

use std::time::Duration;

use smtp_proto::body::{BodyPolicy, LineEndings};
use smtp_proto::{Channel, Chunking, Config, Limits, Protocol, Timeouts, TlsFacts, TlsPolicy};

use super::text::value;

/// A nonce that is known to everybody: the real one is not written down.
const NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAAAA";

/// Each setting that is not the default, and some that are.
pub(super) fn settings(config: &Config, has_nonce: bool) -> Vec<String> {
    let mut all = vec![
        format!("name={}", value(config.client_name.as_str().as_bytes())),
        format!("tls={}", policy(config.tls)),
    ];
    let mut add = |is_set: bool, setting: &str| {
        if is_set {
            all.push(setting.to_owned());
        }
    };
    add(config.protocol == Protocol::Lmtp, "lmtp");
    add(!config.pipelining, "pipelining=off");
    add(config.overlap, "overlap");
    add(config.learn_limits, "learn-limits");
    add(config.channel == Channel::Local, "channel=local");
    add(config.chunking == Chunking::Never, "chunking=never");
    add(config.chunking == Chunking::Always, "chunking=always");
    add(config.chunking == Chunking::Eager, "chunking=eager");
    let BodyPolicy {
        line_endings,
        allow_nul,
        refuse_long_lines,
        ..
    } = config.body;
    add(line_endings == LineEndings::Refuse, "body.refuse-bare");
    add(allow_nul, "body.allow-nul");
    add(refuse_long_lines, "body.refuse-long-lines");
    if let Channel::Tls(known) = &config.channel {
        all.push("channel=tls".into());
        all.extend(
            facts(known)
                .split_whitespace()
                .map(|fact| format!("channel.{fact}")),
        );
    }
    all.push(format!("chunk-size={}", config.chunk_size));
    all.extend(timeouts(&config.timeouts));
    all.extend(limits(&config.limits));
    all.extend(login(config));
    if has_nonce {
        all.push(format!("nonce={NONCE}"));
    }
    all
}

fn policy(policy: TlsPolicy) -> &'static str {
    match policy {
        TlsPolicy::Never => "never",
        TlsPolicy::Opportunistic => "opportunistic",
        TlsPolicy::Required => "required",
        TlsPolicy::Implicit => "implicit",
    }
}

/// What is known of an encrypted channel, each fact after a space. Bindings are there or not: nobody needs their octets.
pub(super) fn facts(facts: &TlsFacts) -> String {
    let mut words = String::new();
    if facts.verified {
        words.push_str(" verified");
    }
    if let Some(problem) = &facts.problem {
        words.push_str(" problem=");
        words.push_str(&value(problem.as_bytes()));
    }
    if facts.exporter.is_some() {
        words.push_str(" exporter");
    }
    if facts.server_end_point.is_some() {
        words.push_str(" end-point");
    }
    words
}

/// How to log in, with a name and a secret that are nobody's.
fn login(config: &Config) -> Vec<String> {
    let Some(credentials) = &config.credentials else {
        return Vec::new();
    };
    let outline = credentials.outline();
    let mut all: Vec<String> = match outline.kind {
        "password" => vec!["user=user".into(), "password=secret".into()],
        "token" => vec!["user=user".into(), "token=secret".into()],
        "anonymous" => vec!["anonymous=trace".into()],
        kind => vec![kind.into()],
    };
    if let Some(names) = outline.mechanisms {
        let names: Vec<_> = names.iter().map(|name| value(name.as_bytes())).collect();
        all.push(format!("auth={}", names.join(",")));
    }
    if outline.has_authorization_id {
        all.push("authzid=identity".into());
    }
    if credentials.permits_clear() {
        all.push("in-clear".into());
    }
    if credentials.permits_unverified() {
        all.push("to-unverified".into());
    }
    all
}

fn timeouts(timeouts: &Timeouts) -> impl Iterator<Item = String> {
    let pairs = |timeouts: &Timeouts| {
        [
            ("greeting", timeouts.greeting),
            ("ehlo", timeouts.ehlo),
            ("starttls", timeouts.starttls),
            ("handshake", timeouts.handshake),
            ("auth", timeouts.auth),
            ("mail", timeouts.mail),
            ("rcpt", timeouts.rcpt),
            ("data", timeouts.data),
            ("block", timeouts.block),
            ("eom", timeouts.end_of_message),
            ("overlap", timeouts.overlap),
            ("request", timeouts.request),
            ("quit", timeouts.quit),
        ]
    };
    let defaults = pairs(&Timeouts::default());
    let changed = pairs(timeouts).into_iter().zip(defaults);
    changed
        .filter(|(ours, default)| ours != default)
        .map(|((kind, time), _)| format!("timeout.{kind}={}", duration(time)))
}

fn duration(time: Duration) -> String {
    match time.subsec_nanos() {
        nanos if nanos % 1_000_000 == 0 => format!("{}ms", time.as_millis()),
        nanos if nanos % 1_000 == 0 => format!("{}us", time.as_micros()),
        _ => format!("{}ns", time.as_nanos()),
    }
}

fn limits(limits: &Limits) -> impl Iterator<Item = String> {
    let pairs = |limits: &Limits| {
        [
            ("reply.line", limits.reply.line),
            ("reply.lines", limits.reply.lines),
            ("reply.octets", limits.reply.octets),
            ("in-flight", limits.in_flight),
            ("messages", limits.messages),
            ("recipients", limits.recipients),
            ("reply-kept", limits.reply_kept),
            ("report", limits.report),
            ("chunks", limits.chunks),
            ("challenges", limits.challenges as usize),
            ("scram-iterations", limits.scram_iterations as usize),
        ]
    };
    let defaults = pairs(&Limits::default());
    let changed = pairs(limits).into_iter().zip(defaults);
    changed
        .filter(|(ours, default)| ours != default)
        .map(|((name, limit), _)| format!("limit.{name}={limit}"))
}
