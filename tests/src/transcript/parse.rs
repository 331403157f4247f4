//! Reads a transcript line by line.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_proto::envelope::BodyType;
use smtp_proto::{Credentials, Envelope, Recipient, Request, TlsFacts};

use super::parameters::{parse_mail_parameter, parse_rcpt_parameter, parse_request};
use super::recorded::{
    self, Happening, Recorded, Run, parse_mail_wire, parse_message_number, parse_rcpt_wire,
    parse_recorded, parse_said,
};
use super::settings::config;
use super::{Action, Expected, Job, Message, Step, Transcript};

/// Reads line by line. Everything is assembled at the end, because settings may come in any order.
#[derive(Default)]
pub(super) struct Parser {
    commented: bool,
    rules: Vec<String>,
    engine_only: Option<String>,
    settings: BTreeMap<String, String>,
    messages: Vec<Message>,
    requests: Vec<Request>,
    jobs: Vec<Job>,
    steps: Vec<Step>,
    expected: Expected,
    /// A session that was written down.
    recorded: bool,
    /// The message whose body follows, and that the server's next line is a step of its own.
    of: Option<usize>,
    parted: bool,
    /// Credentials that stand for a mechanism of the application.
    own_mechanism: Option<Credentials>,
}

impl Parser {
    pub(super) fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            _ if word.starts_with('#') => self.commented = true,
            "S:" => self.say(number, Action::Server(text_line(rest)?)),
            "C:" => self.say(number, Action::Client(text_line(rest)?)),
            "expect" => self.expect(number, rest)?,
            "rule" | "engine-only:" | "config" | "message" | "request" | "|" | "hold"
                if !self.steps.is_empty() && !self.recorded =>
            {
                return Err(format!("`{word}` belongs in the head"));
            }
            "recorded" if rest.is_empty() => self.recorded = true,
            "of" | "hold" | "border" | "body-ends" | "data" | "bdat" | "chunk" if self.recorded => {
                self.body_line(number, word, rest)?;
            }
            "rule" => self.rules.push(rest.to_owned()),
            "engine-only:" => self.engine_only = Some(rest.to_owned()),
            "config" => {
                for setting in rest.split_whitespace() {
                    let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
                    let value = as_string(text(value)?)?;
                    if self.settings.insert(key.to_owned(), value).is_some() {
                        return Err(format!("`{key}` is set twice"));
                    }
                }
            }
            "message" => {
                self.jobs.push(Job::Message(self.messages.len()));
                self.messages.push(parse_message(rest)?);
            }
            "request" => {
                self.jobs.push(Job::Request(self.requests.len()));
                self.requests.push(parse_request(rest)?);
            }
            "|" => {
                let message = match self.of {
                    Some(index) => self.messages.get_mut(index),
                    None => self.messages.last_mut(),
                };
                let message = message.ok_or("a body without a message")?;
                message.body.extend(text_line(rest)?);
            }
            "hold" => {
                let message = self.messages.last_mut().ok_or("a hold without a message")?;
                message.holds.push(message.body.len());
            }
            _ => match parse_action(word, rest) {
                // In a record, a handshake has its own facts.
                Ok(action) if !(self.recorded && word == "tls") => self.say(number, action),
                Err(error) if !self.recorded => return Err(error),
                _ => self.say(number, Action::Recorded(parse_recorded(word, rest)?)),
            },
        }
        Ok(())
    }

    /// What a record says of a body.
    fn body_line(&mut self, number: usize, word: &str, rest: &str) -> Result<(), String> {
        let (index, rest) = parse_message_number(rest, &self.messages)?;
        let message = &mut self.messages[index];
        if word == "of" {
            self.of = Some(index);
            return Ok(());
        }
        let run = message.runs.last_mut().ok_or("no body is wanted")?;
        match word {
            "hold" => {
                run.holds.push(parse_number(&rest)?);
                self.parted = true;
            }
            "border" => run.borders.push(parse_number(&rest)?),
            "body-ends" => {
                run.ends = true;
                self.parted = true;
            }
            _ => {
                let said = parse_said(word, &rest, message)?;
                self.say(number, Action::Client(said));
            }
        }
        Ok(())
    }

    /// What the engine tells its caller now.
    fn happens(&mut self, happening: Happening) {
        let is_step = |step: &&Step| match &step.action {
            Action::Client(_) => false,
            Action::Recorded(what) => !matches!(what, Recorded::Ungiven(_)),
            _ => true,
        };
        let steps = self.steps.iter().filter(is_step).count();
        self.expected.happenings.push((steps, happening));
    }

    fn say(&mut self, line: usize, action: Action) {
        match (self.steps.last_mut().map(|step| &mut step.action), action) {
            (Some(Action::Client(all)), Action::Client(more)) => all.extend(more),
            (Some(Action::Server(all)), Action::Server(more)) if !self.parted => all.extend(more),
            (_, action) => self.steps.push(Step { line, action }),
        }
        self.parted = false;
    }

    fn expect(&mut self, line: usize, rest: &str) -> Result<(), String> {
        match rest.split_once(' ').unwrap_or((rest, "")) {
            ("ready", "") => {
                self.expected.ready = true;
                self.happens(Happening::Ready);
            }
            ("overlap-broken", "") => {
                self.expected.overlap_broken = true;
                self.happens(Happening::OverlapBroken);
            }
            ("body", rest) if self.recorded => {
                let (index, _) = parse_message_number(rest, &self.messages)?;
                self.messages[index].runs.push(Run::default());
                self.happens(Happening::Body(index));
            }
            ("open", "") => self.expected.end = Some(line),
            ("closed", result) => {
                self.expected.end = Some(line);
                self.expected.closed = Some((line, result.to_owned()));
                self.happens(Happening::Closed);
            }
            ("request", rest) => {
                let (number, result) = rest.split_once(' ').ok_or("a result is missing")?;
                self.expected.requests.resize(self.requests.len(), None);
                let index = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let slot = index.and_then(|n| self.expected.requests.get_mut(n));
                *slot.ok_or("unknown request number")? = Some((line, result.to_owned()));
                if let Some(index) = index.filter(|_| result != "nothing") {
                    self.happens(Happening::Request(index));
                }
            }
            (message, rest) => {
                let messages = &mut self.expected.messages;
                messages.resize_with(self.messages.len(), Vec::new);
                let index = message.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
                let index = index
                    .filter(|&n| n < messages.len())
                    .ok_or("unknown message number")?;
                let count = self.messages[index].envelope.forward_paths().len();
                let recipients = &mut messages[index];
                recipients.resize(count, None);
                let (recipient, result) = rest.split_once(' ').ok_or("a result is missing")?;
                let is_first = recipients.iter().all(Option::is_none) && result != "nothing";
                let result = Some((line, result.to_owned()));
                match recipient
                    .parse::<usize>()
                    .ok()
                    .and_then(|n| n.checked_sub(1))
                {
                    Some(position) if position < count => recipients[position] = result,
                    None if recipient == "*" => recipients.fill(result),
                    _ => return Err("unknown recipient number".into()),
                }
                if is_first {
                    self.happens(Happening::Message(index));
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self, name: &str) -> Result<Transcript, String> {
        if !self.commented {
            return Err("a comment must say what this shows, and why".into());
        }
        if self.rules.is_empty() && !self.recorded {
            return Err("no `rule` is named".into());
        }
        if self.expected.end.is_none() {
            return Err("neither `expect closed` nor `expect open` is there".into());
        }
        self.expected
            .messages
            .resize_with(self.messages.len(), Vec::new);
        for (expected, message) in self.expected.messages.iter().zip(&self.messages) {
            if expected.len() != message.envelope.forward_paths().len() || expected.contains(&None)
            {
                return Err("every recipient needs an expectation".into());
            }
        }
        if self.expected.requests.len() != self.requests.len()
            || self.expected.requests.contains(&None)
        {
            return Err("every request needs an expectation".into());
        }
        for message in &mut self.messages {
            if message.exact {
                let size = message.body.len() as u64;
                message.envelope = message.envelope.clone().exact_size(size);
            }
        }
        let closed = self.expected.closed.as_ref();
        let closed = closed.map_or("", |(_, result)| result);
        if self.recorded {
            recorded::log_in(&mut self.settings, &self.steps, self.expected.ready, closed);
        }
        if self.settings.remove("custom").is_some() {
            self.own_mechanism = Some(recorded::custom(&self.steps, self.expected.ready, closed));
        }
        let server_name = self.settings.remove("server-name");
        let mut tls_facts = TlsFacts::default();
        tls_facts.verified = self.settings.remove("verified").is_some();
        if let Some(octets) = self.settings.remove("exporter") {
            let octets = octets.into_bytes().try_into();
            tls_facts.exporter = Some(octets.map_err(|_| "`exporter` has 32 octets")?);
        }
        tls_facts.server_end_point = self
            .settings
            .remove("end-point")
            .map(|hash| hash.into_bytes().into());
        let nonce = match self.settings.remove("nonce") {
            None => None,
            Some(nonce) => {
                let octets = STANDARD
                    .decode(nonce)
                    .ok()
                    .and_then(|octets| octets.try_into().ok());
                Some(octets.ok_or("`nonce` is 18 octets in base64")?)
            }
        };
        let config = config(self.settings, self.own_mechanism)?;
        Ok(Transcript {
            name: name.to_owned(),
            recorded: self.recorded,
            rules: self.rules,
            engine_only: self.engine_only,
            config,
            nonce,
            server_name,
            tls_facts,
            messages: self.messages,
            requests: self.requests,
            jobs: self.jobs,
            steps: self.steps,
            expected: self.expected,
        })
    }
}

fn parse_action(word: &str, rest: &str) -> Result<Action, String> {
    Ok(match (word, rest) {
        ("pause", duration) => Action::Pause(parse_duration(duration)?),
        ("split", "") => Action::Split,
        ("eof", "") => Action::Eof,
        ("tls", "") => Action::Tls,
        ("tls-failed", "") => Action::TlsFailed,
        ("tls-untrusted", "") => Action::TlsUntrusted,
        ("submit", "") => Action::Submit,
        ("quit", "") => Action::Quit,
        ("jam", "") => Action::Jam,
        _ => return Err(format!("`{word} {rest}` means nothing")),
    })
}

fn parse_message(attributes: &str) -> Result<Message, String> {
    let (mut from, mut to, mut exact) = (None, Vec::new(), false);
    let mut declared: Vec<Box<dyn FnOnce(Envelope) -> Envelope>> = Vec::new();
    for attribute in attributes.split_whitespace() {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let body = |body| Box::new(move |envelope: Envelope| envelope.body(body));
        match (key, value) {
            ("from", address) => from = Some(as_string(text(address)?)?),
            ("to", recipients) => {
                for recipient in recipients.split(',') {
                    to.push(parse_recipient(recipient)?);
                }
            }
            ("each", parameters) => {
                for parameter in parameters.split(';') {
                    let parameter = parse_rcpt_parameter(parameter)?;
                    declared.push(Box::new(|envelope| envelope.recipient_parameter(parameter)));
                }
            }
            ("body", "7bit") => declared.push(body(BodyType::SevenBit)),
            ("body", "8bit") => declared.push(body(BodyType::EightBit)),
            ("body", "8bit-anyway") => declared.push(body(BodyType::EightBitAnyway)),
            ("body", "binary") => declared.push(body(BodyType::Binary)),
            ("size", octets) => {
                let octets = parse_number(octets)?;
                declared.push(Box::new(move |envelope| envelope.size(octets)));
            }
            ("exact-size", octets) => {
                let octets = parse_number(octets)?;
                declared.push(Box::new(move |envelope| envelope.exact_size(octets)));
            }
            ("exact", "") => exact = true,
            ("all-or-nothing", "") => {
                declared.push(Box::new(|envelope| envelope.all_or_nothing(true)))
            }
            ("smtputf8", "") => declared.push(Box::new(|envelope| envelope.smtputf8(true))),
            ("reopenable", "") => declared.push(Box::new(|envelope| envelope.reopenable(true))),
            _ => {
                let parameter = match parse_mail_wire(attribute)? {
                    Some(parameter) => parameter,
                    None => parse_mail_parameter(attribute)?,
                };
                declared.push(Box::new(|envelope| envelope.parameter(parameter)));
            }
        }
    }
    let from = from.ok_or("a message needs `from`")?;
    let envelope = Envelope::new(&from, &to).map_err(|error| error.to_string())?;
    let envelope = declared
        .into_iter()
        .fold(envelope, |envelope, declare| declare(envelope));
    Ok(Message {
        envelope,
        body: Vec::new(),
        holds: Vec::new(),
        runs: Vec::new(),
        exact,
    })
}

fn parse_recipient(source: &str) -> Result<Recipient, String> {
    let mut parts = source.split(';');
    let address = as_string(text(parts.next().unwrap_or_default())?)?;
    let recipient = Recipient::new(&address).map_err(|error| error.to_string())?;
    parts.try_fold(recipient, |recipient, part| {
        Ok(recipient.parameter(match parse_rcpt_wire(part)? {
            Some(parameter) => parameter,
            None => parse_rcpt_parameter(part)?,
        }))
    })
}

/// A value that is known, if one stands there.
pub(super) fn known<T: std::str::FromStr>(value: &str) -> Result<Option<T>, String> {
    let known = Some(value).filter(|value| !value.is_empty());
    known
        .map(|value| {
            value
                .parse()
                .map_err(|_| format!("`{value}` is not a valid value"))
        })
        .transpose()
}

pub(super) fn parse_number<N: std::str::FromStr>(digits: &str) -> Result<N, String> {
    digits
        .parse()
        .map_err(|_| format!("`{digits}` is not a number"))
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let units: [(_, u128); 3] = [("ns", 1_000_000_000), ("us", 1_000_000), ("ms", 1_000)];
    let unit = units
        .iter()
        .find_map(|(unit, parts)| Some((text.strip_suffix(unit)?, parts)));
    let (count, parts) = unit.ok_or_else(|| format!("`{text}` is not a duration such as 200ms"))?;
    let count: u128 = parse_number(count)?;
    let seconds = u64::try_from(count / parts).map_err(|_| format!("`{text}` is too long"))?;
    let nanos = count % parts * (1_000_000_000 / parts);
    Ok(Duration::new(seconds, u32::try_from(nanos).unwrap_or(0)))
}

pub(super) fn as_string(octets: Vec<u8>) -> Result<String, String> {
    String::from_utf8(octets).map_err(|_| "this must be UTF-8".into())
}

/// A line with its CRLF, unless a `\` at its end leaves it out.
pub(super) fn text_line(line: &str) -> Result<Vec<u8>, String> {
    // An even number of backslashes is a series of escaped ones.
    let backslashes = line.bytes().rev().take_while(|&b| b == b'\\').count();
    if backslashes % 2 == 1 {
        return text(&line[..line.len() - 1]);
    }
    let mut octets = text(line)?;
    octets.extend(b"\r\n");
    Ok(octets)
}

/// Resolves the escapes.
pub(super) fn text(source: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = source;
    while let Some((plain, escape)) = rest.split_once('\\') {
        octets.extend(plain.as_bytes());
        let kind = escape.chars().next().ok_or("a lone backslash")?;
        rest = &escape[kind.len_utf8()..];
        match kind {
            '\\' => octets.push(b'\\'),
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            's' => octets.push(b' '),
            '0' => octets.push(0),
            'x' => {
                let (digits, tail) = rest.split_at_checked(2).ok_or("\\x needs two digits")?;
                octets.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                rest = tail;
            }
            '{' => {
                let (inner, tail) = rest.split_once('}').ok_or("\\{ needs a }")?;
                let (count, unit) = inner.split_once('*').ok_or("\\{N*TEXT} needs a *")?;
                octets.extend(text(unit)?.repeat(parse_number(count)?));
                rest = tail;
            }
            other => return Err(format!("unknown escape \\{other}")),
        }
    }
    octets.extend(rest.as_bytes());
    Ok(octets)
}
