//! Messages and requests, as a transcript has them.

use smtp_proto::envelope::BodyType;
use smtp_proto::parameter::{Need, Parameter};
use smtp_proto::{Envelope, Extension, Mailbox, Request};

use super::text::{value, words};

/// The line of a message, after its first word.
pub(super) fn message_line(envelope: &Envelope) -> String {
    let recipients: Vec<_> = envelope
        .forward_paths()
        .iter()
        .enumerate()
        .map(|(index, mailbox)| {
            let parameters = envelope.recipient_parameters(index);
            let parameters = parameters.map(|one| format!(";{}", parameter(one)));
            format!("{}{}", path(mailbox), parameters.collect::<String>())
        })
        .collect();
    let mut line = format!(
        "from={} to={}",
        path(envelope.reverse_path()),
        recipients.join(",")
    );
    let mut add = |attribute: &str| {
        line.push(' ');
        line.push_str(attribute);
    };
    match envelope.body_type() {
        BodyType::SevenBit => add("body=7bit"),
        BodyType::EightBit => add("body=8bit"),
        BodyType::EightBitAnyway => add("body=8bit-anyway"),
        BodyType::Binary => add("body=binary"),
        _ => {}
    }
    match (envelope.exact_size_octets(), envelope.declared_size()) {
        (Some(octets), _) => add(&format!("exact-size={octets}")),
        (None, Some(octets)) => add(&format!("size={octets}")),
        (None, None) => {}
    }
    if envelope.is_all_or_nothing() {
        add("all-or-nothing");
    }
    if envelope.needs_smtputf8() {
        add("smtputf8");
    }
    if envelope.is_reopenable() {
        add("reopenable");
    }
    for one in envelope.mail_parameters() {
        add(&parameter(one));
    }
    line
}

fn path(mailbox: &Mailbox) -> String {
    format!("<{}>", value(mailbox.as_str().as_bytes()))
}

/// A parameter as it is sent, whether it is required, and the EHLO keyword where that is another word.
fn parameter<K>(parameter: &Parameter<K>) -> String {
    let need = match parameter.need() {
        Need::Required => '!',
        Need::IfOffered => '?',
    };
    let keyword = parameter.keyword().unwrap_or_default();
    let text = value(parameter.to_string().as_bytes());
    format!("wire{need}={}:{text}", value(keyword.as_bytes()))
}

/// A request, after its first word.
pub(super) fn request_line(request: &Request) -> String {
    let line = request.to_string();
    let (_, argument) = line.split_once(' ').unwrap_or((&line, ""));
    match request.extension() {
        Some(Extension::Etrn) => words(&format!("etrn {argument}")),
        Some(Extension::XClient) => words(&format!("xclient-as {argument}")),
        Some(Extension::XForward) => words(&format!("xforward-as {argument}")),
        // Two requests with the same line are the same.
        _ => words(&format!("raw {line}")),
    }
}
