//! The parameters and requests of a transcript.

use smtp_proto::parameter::{ByMode, MailParameter, Notify, RcptParameter, Ret, RrvsAction};
use smtp_proto::request::{ClientProtocol, MessageSource, XClient, XForward};
use smtp_proto::{Mailbox, Request};

use super::parse::{as_string, known, parse_number, text};
use super::recorded::from_xtext;

/// The name, the mark for required or if offered, and the value.
fn parse_parameter(source: &str) -> Result<(&str, Option<char>, String), String> {
    let (name, value) = source.split_once('=').unwrap_or((source, ""));
    let need = name
        .chars()
        .next_back()
        .filter(|need| ['!', '?'].contains(need));
    Ok((
        name.trim_end_matches(['!', '?']),
        need,
        as_string(text(value)?)?,
    ))
}

/// `NAME` or `NAME=VALUE`, and the EHLO keyword that offers it, if it differs.
fn parse_raw(source: &str) -> (&str, Option<&str>, Option<&str>) {
    let (source, keyword) = match source.rsplit_once('@') {
        Some((source, keyword)) => (source, Some(keyword)),
        None => (source, None),
    };
    match source.split_once('=') {
        Some((name, value)) => (name, Some(value), keyword),
        None => (source, None, keyword),
    }
}

pub(super) fn parse_mail_parameter(source: &str) -> Result<MailParameter, String> {
    let (name, need, value) = parse_parameter(source)?;
    let mailbox = || Mailbox::parse(&value).map_err(|error| error.to_string());
    let parameter = match (name, value.as_str()) {
        ("ret", "full") => Ok(MailParameter::ret(Ret::Full)),
        ("ret", "hdrs") => Ok(MailParameter::ret(Ret::Headers)),
        ("envid", id) => MailParameter::envelope_id(id),
        ("by", by) => {
            let (seconds, mode) = by.split_once(';').ok_or("`by` is SECONDS;MODE")?;
            let (mode, trace) = match mode {
                "R" => (ByMode::Return, false),
                "RT" => (ByMode::Return, true),
                "N" => (ByMode::Notify, false),
                "NT" => (ByMode::Notify, true),
                _ => return Err(format!("`{mode}` is not a mode of `by`")),
            };
            MailParameter::deliver_by(parse_number(seconds)?, mode, trace)
        }
        ("mt-priority", n) => MailParameter::priority(parse_number(n)?),
        ("holdfor", seconds) => MailParameter::hold_for(parse_number(seconds)?),
        ("holduntil", date) => MailParameter::hold_until(date),
        ("requiretls", "") => Ok(MailParameter::require_tls()),
        ("prdr", "") => Ok(MailParameter::per_recipient_replies()),
        ("auth", _) => Ok(MailParameter::auth(Some(&mailbox()?))),
        ("param", raw) => {
            let (name, value, keyword) = parse_raw(raw);
            let parameter = MailParameter::raw(name, value);
            parameter.map(|parameter| {
                keyword
                    .into_iter()
                    .fold(parameter, MailParameter::offered_by)
            })
        }
        _ => return Err(format!("a message has no `{source}`")),
    };
    let parameter = parameter.map_err(|error| error.to_string())?;
    Ok(match need {
        Some('!') => parameter.required(),
        Some(_) => parameter.if_offered(),
        None => parameter,
    })
}

pub(super) fn parse_rcpt_parameter(source: &str) -> Result<RcptParameter, String> {
    let (name, need, value) = parse_parameter(source)?;
    let parameter = match (name, value.as_str()) {
        ("notify", conditions) => {
            let condition = |name| match name {
                "never" => Ok(Notify::NEVER),
                "success" => Ok(Notify::SUCCESS),
                "failure" => Ok(Notify::FAILURE),
                "delay" => Ok(Notify::DELAY),
                _ => Err(format!("nothing is notified of `{name}`")),
            };
            let mut all = Notify::NEVER;
            for name in conditions.split('+') {
                all = all | condition(name)?;
            }
            Ok(RcptParameter::notify(all))
        }
        ("orcpt", address) if address.starts_with('<') => {
            let mailbox = Mailbox::parse(address).map_err(|error| error.to_string())?;
            RcptParameter::original_recipient(&mailbox)
        }
        ("orcpt", address) => {
            let (kind, address) = address
                .split_once(':')
                .ok_or("`orcpt` is <ADDRESS> or TYPE:ADDRESS")?;
            RcptParameter::original_recipient_of(kind, address)
        }
        ("rrvs", since) => match since.split_once('/') {
            None => RcptParameter::valid_since(since, None),
            Some((since, "C")) => RcptParameter::valid_since(since, Some(RrvsAction::Continue)),
            Some((since, "R")) => RcptParameter::valid_since(since, Some(RrvsAction::Reject)),
            Some(_) => return Err("`rrvs` takes C or R after the date".into()),
        },
        ("param", raw) => {
            let (name, value, keyword) = parse_raw(raw);
            let parameter = RcptParameter::raw(name, value);
            parameter.map(|parameter| {
                keyword
                    .into_iter()
                    .fold(parameter, RcptParameter::offered_by)
            })
        }
        _ => return Err(format!("a recipient has no `{source}`")),
    };
    let parameter = parameter.map_err(|error| error.to_string())?;
    Ok(match need {
        Some('!') => parameter.required(),
        Some(_) => parameter.if_offered(),
        None => parameter,
    })
}

pub(super) fn parse_request(source: &str) -> Result<Request, String> {
    let source = as_string(text(source)?)?;
    let (verb, argument) = source.split_once(' ').unwrap_or((&source, ""));
    let attributes = || {
        argument
            .split_whitespace()
            .map(|word| word.split_once('=').unwrap_or((word, "")))
    };
    let request = match verb {
        "noop" if argument.is_empty() => Ok(Request::noop()),
        "help" => Request::help(Some(argument).filter(|topic| !topic.is_empty())),
        "vrfy" => Request::verify(argument),
        "expn" => Request::expand(argument),
        "etrn" => Request::etrn(argument),
        "raw" => Request::raw(argument),
        "xclient-as" | "xforward-as" => return parse_wire_request(verb, argument),
        "xclient" => Request::xclient(
            attributes()
                .map(parse_xclient)
                .collect::<Result<Vec<_>, _>>()?,
        ),
        "xforward" => Request::xforward(
            attributes()
                .map(parse_xforward)
                .collect::<Result<Vec<_>, _>>()?,
        ),
        _ => return Err(format!("unknown request `{source}`")),
    };
    request.map_err(|error| error.to_string())
}

fn parse_xclient((name, value): (&str, &str)) -> Result<XClient, String> {
    Ok(match (name, value) {
        ("name", "tempunavail") => XClient::NameUnknownForNow,
        ("name", name) => XClient::Name(known(name)?),
        ("addr", address) => XClient::Addr(known(address)?),
        ("port", port) => XClient::Port(known(port)?),
        ("proto", "smtp") => XClient::Proto(ClientProtocol::Smtp),
        ("proto", "esmtp") => XClient::Proto(ClientProtocol::Esmtp),
        ("helo", name) => XClient::Helo(known(name)?),
        ("login", name) => XClient::Login(known(name)?),
        ("destaddr", address) => XClient::DestAddr(known(address)?),
        ("destport", port) => XClient::DestPort(known(port)?),
        _ => return Err(format!("XCLIENT has no `{name}`")),
    })
}

fn parse_xforward((name, value): (&str, &str)) -> Result<XForward, String> {
    Ok(match (name, value) {
        ("name", name) => XForward::Name(known(name)?),
        ("addr", address) => XForward::Addr(known(address)?),
        ("port", port) => XForward::Port(known(port)?),
        ("proto", name) => XForward::Proto(known(name)?),
        ("helo", name) => XForward::Helo(known(name)?),
        ("ident", name) => XForward::Ident(known(name)?),
        ("source", "local") => XForward::Source(Some(MessageSource::Local)),
        ("source", "remote") => XForward::Source(Some(MessageSource::Remote)),
        ("source", "") => XForward::Source(None),
        _ => return Err(format!("XFORWARD has no `{name}`")),
    })
}

/// `xclient-as` and `xforward-as`, with the attributes as they were sent.
fn parse_wire_request(verb: &str, argument: &str) -> Result<Request, String> {
    let attribute = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let value = match value {
            "[UNAVAILABLE]" => String::new(),
            value => from_xtext(value)?,
        };
        Ok::<_, String>((name.to_ascii_lowercase(), value))
    };
    let words: Vec<_> = argument.split_whitespace().map(attribute).collect();
    let words = words.into_iter().collect::<Result<Vec<_>, _>>()?;
    let request = match verb {
        "xclient-as" => Request::xclient(
            words
                .iter()
                .map(|(name, value)| xclient(name, value))
                .collect::<Result<Vec<_>, _>>()?,
        ),
        _ => Request::xforward(
            words
                .iter()
                .map(|(name, value)| xforward(name, value))
                .collect::<Result<Vec<_>, _>>()?,
        ),
    };
    request.map_err(|error| error.to_string())
}

fn xclient(name: &str, value: &str) -> Result<XClient, String> {
    Ok(match (name, value) {
        ("name", "[TEMPUNAVAIL]") => XClient::NameUnknownForNow,
        ("name", name) => XClient::Name(known(name)?),
        ("addr", address) => {
            XClient::Addr(known(address.strip_prefix("IPV6:").unwrap_or(address))?)
        }
        ("port", port) => XClient::Port(known(port)?),
        ("proto", "SMTP") => XClient::Proto(ClientProtocol::Smtp),
        ("proto", "ESMTP") => XClient::Proto(ClientProtocol::Esmtp),
        ("helo", name) => XClient::Helo(known(name)?),
        ("login", name) => XClient::Login(known(name)?),
        ("destaddr", address) => {
            XClient::DestAddr(known(address.strip_prefix("IPV6:").unwrap_or(address))?)
        }
        ("destport", port) => XClient::DestPort(known(port)?),
        _ => return Err(format!("XCLIENT has no `{name}`")),
    })
}

fn xforward(name: &str, value: &str) -> Result<XForward, String> {
    Ok(match (name, value) {
        ("name", name) => XForward::Name(known(name)?),
        ("addr", address) => {
            XForward::Addr(known(address.strip_prefix("IPV6:").unwrap_or(address))?)
        }
        ("port", port) => XForward::Port(known(port)?),
        ("proto", name) => XForward::Proto(known(name)?),
        ("helo", name) => XForward::Helo(known(name)?),
        ("ident", name) => XForward::Ident(known(name)?),
        ("source", "LOCAL") => XForward::Source(Some(MessageSource::Local)),
        ("source", "REMOTE") => XForward::Source(Some(MessageSource::Remote)),
        ("source", "") => XForward::Source(None),
        _ => return Err(format!("XFORWARD has no `{name}`")),
    })
}
