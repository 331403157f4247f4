//! Addresses, names and parameters: a slow reader of their grammar says which are valid, and reads them back from the
//! commands on the wire.

use std::net::{IpAddr, Ipv6Addr};

use smtp_proto::envelope::{MAX_DOMAIN, MAX_MAILBOX};
use smtp_proto::parameter::{ByMode, MailParameter, RcptParameter};
use smtp_proto::request::{XClient, XForward};
use smtp_proto::*;

use super::{assert_printable, take_all};

/// The longest command line with its CRLF (RFC 5321 section 4.5.3.1.4), before what parameters add to it.
const MAX_COMMAND: usize = 512;

/// Fields, with an octet 255 between them: sender, recipient, name of the client, name and value of a parameter,
/// identifier of the envelope, date-time, number, argument of a request, a whole request.
pub fn address(data: &[u8]) {
    let fields: Vec<_> = data
        .split(|&octet| octet == 255)
        .map(String::from_utf8_lossy)
        .collect();
    let field = |at: usize| fields.get(at).map_or("", |field| &**field);

    let sender = mailbox(field(0));
    let recipient = mailbox(field(1));
    let name = client_name(field(2));
    let parameters = parameters(field(3), field(4), field(5), field(6), field(7));
    requests(field(8), field(9), field(7));
    if let (Some(sender), Some(recipient)) = (sender, recipient)
        && !recipient.is_null()
    {
        on_the_wire(&sender, &recipient, name, parameters);
    }
}

fn mailbox(text: &str) -> Option<Mailbox> {
    let parsed = Mailbox::parse(text);
    let valid = is_mailbox(text);
    assert_eq!(parsed.is_ok(), valid, "{text:?}: {parsed:?}");
    let mailbox = parsed
        .inspect_err(|error| assert_printable(&error.to_string()))
        .ok()?;
    let printed = mailbox.to_string();
    assert_one_line(&printed);
    for again in [printed.clone(), format!("<{printed}>")] {
        assert_eq!(Mailbox::parse(&again).as_ref(), Ok(&mailbox), "{again:?}");
    }
    assert!(printed == text || format!("<{printed}>") == text);
    match mailbox.domain() {
        Some(domain) => assert_eq!(format!("{}@{domain}", mailbox.local_part()), printed),
        None => assert_eq!(mailbox.local_part(), printed),
    }
    if let Some(ascii) = mailbox.to_ascii() {
        assert!(
            ascii.is_ascii() && is_mailbox(ascii.as_str()),
            "{mailbox} as {ascii}"
        );
        assert_eq!(ascii.local_part(), mailbox.local_part());
        assert_eq!(ascii.to_ascii().as_ref(), Some(&ascii));
    }
    Some(mailbox)
}

fn client_name(text: &str) -> ClientName {
    let parsed = ClientName::parse(text);
    let valid = text.is_ascii() && is_domain_or_literal(text);
    assert_eq!(parsed.is_ok(), valid, "{text:?}");
    match parsed {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            name
        }
        Err(error) => {
            assert_printable(&error.to_string());
            ClientName::from(IpAddr::from([127, 0, 0, 1]))
        }
    }
}

/// What to read from MAIL and RCPT: a name, and the text that the value stands for.
#[derive(Default)]
struct Parameters {
    mail: Vec<(MailParameter, String)>,
    rcpt: Vec<(RcptParameter, String)>,
}

fn parameters(name: &str, value: &str, id: &str, date_time: &str, number: &str) -> Parameters {
    let mut parameters = Parameters::default();
    let with_value = (!value.is_empty()).then_some(value);
    let raw = MailParameter::raw(name, with_value);
    let grammar = is_keyword(name) && !has_own_call(name) && value.chars().all(is_value_character);
    assert_eq!(raw.is_ok(), grammar, "{name:?} {value:?}: {raw:?}");
    assert_eq!(RcptParameter::raw(name, with_value).is_ok(), grammar);
    assert!(MailParameter::raw(name, Some("")).is_err());
    match raw {
        Ok(raw) => {
            assert_eq!(raw.name(), name);
            parameters
                .mail
                .push((raw.offered_by("X-ANY"), value.into()));
        }
        Err(error) => assert_printable(&error.to_string()),
    }

    let reportable = !id.is_empty() && id.chars().all(|c| (' '..='~').contains(&c));
    let envelope_id = MailParameter::envelope_id(id);
    assert_eq!(envelope_id.is_ok(), reportable && id.len() <= 100, "{id:?}");
    parameters
        .mail
        .extend(envelope_id.ok().map(|parameter| (parameter, id.into())));
    let x400 = RcptParameter::original_recipient_of("x400", id);
    let octets: usize = id.bytes().map(|octet| xtext(octet).len()).sum();
    let fits = "ORCPT=x400;".len() + octets <= 500;
    assert_eq!(x400.is_ok(), reportable && fits, "{id:?}");
    parameters
        .rcpt
        .extend(x400.ok().map(|parameter| (parameter, format!("x400;{id}"))));
    let kind = RcptParameter::original_recipient_of(name, "x");
    let is_atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*-/?^_`{|}~".contains(c);
    let right = (1..=500 - "ORCPT=;x".len()).contains(&name.len()) && name.chars().all(is_atom);
    assert_eq!(kind.is_ok(), right, "{name:?}");

    let valid = is_date_time(date_time);
    assert_eq!(
        MailParameter::hold_until(date_time).is_ok(),
        valid,
        "{date_time:?}"
    );
    let since = RcptParameter::valid_since(date_time, None);
    assert_eq!(since.is_ok(), valid, "{date_time:?}");
    parameters
        .rcpt
        .extend(since.ok().map(|parameter| (parameter, date_time.into())));
    if let Ok(number) = number.parse::<i64>() {
        numbers(number, &mut parameters);
    }
    parameters
}

fn numbers(number: i64, parameters: &mut Parameters) {
    const NINES: i64 = 999_999_999;
    if let Ok(seconds) = u32::try_from(number) {
        let hold = MailParameter::hold_for(seconds);
        assert_eq!(hold.is_ok(), (1..=NINES).contains(&number));
    }
    if let Ok(seconds) = i32::try_from(number) {
        let notify = MailParameter::deliver_by(seconds, ByMode::Notify, true);
        assert_eq!(notify.is_ok(), (-NINES..=NINES).contains(&number));
        let bounce = MailParameter::deliver_by(seconds, ByMode::Return, false);
        assert_eq!(bounce.is_ok(), (1..=NINES).contains(&number));
        let text = format!("{number};NT");
        parameters
            .mail
            .extend(notify.ok().map(|parameter| (parameter, text)));
    }
    if let Ok(priority) = i8::try_from(number) {
        let priority = MailParameter::priority(priority);
        assert_eq!(priority.is_ok(), (-9..=9).contains(&number));
        parameters
            .mail
            .extend(priority.ok().map(|p| (p, number.to_string())));
    }
}

fn requests(argument: &str, raw: &str, number: &str) {
    let mut lines = vec![];
    for (request, head) in [
        (Request::verify(argument), "VRFY "),
        (Request::expand(argument), "EXPN "),
        (Request::help(Some(argument)), "HELP "),
        (Request::etrn(argument), "ETRN "),
    ] {
        match request {
            Ok(request) => {
                let line = request.to_string();
                let rest = line.strip_prefix(head).expect("the verb");
                let rest = match argument.is_ascii() {
                    true => rest,
                    false => rest.strip_suffix(" SMTPUTF8").expect("RFC 6531"),
                };
                assert_eq!(rest, argument);
                assert!(argument.is_ascii() || head == "VRFY " || head == "EXPN ");
                lines.push(line);
            }
            Err(error) => assert_printable(&error.to_string()),
        }
    }
    match Request::raw(raw) {
        Ok(request) => {
            assert_eq!(request.to_string(), raw);
            let verb = raw.split(' ').next().unwrap_or_default();
            assert!(is_keyword(verb) || verb.starts_with('-'), "{raw:?}");
            let session = [
                "EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "BURL",
                "SEND", "SOML", "SAML", "RSET", "QUIT", "XCLIENT", "TURN", "ATRN",
            ];
            assert!(
                !session.contains(&&*verb.to_ascii_uppercase()),
                "{raw:?} changes the session"
            );
            lines.push(raw.into());
        }
        Err(error) => assert_printable(&error.to_string()),
    }
    let text = || Some(argument.to_owned());
    let port = number.parse().ok();
    if let Ok(request) = Request::xclient([
        XClient::Name(text()),
        XClient::Port(port),
        XClient::Helo(text()),
    ]) {
        let expected = [
            ("NAME", text()),
            ("PORT", port.map(|port| port.to_string())),
            ("HELO", text()),
        ];
        check_attributes(&request, "XCLIENT", &expected);
        lines.push(request.to_string());
    }
    if let Ok(request) = Request::xforward([XForward::Ident(text()), XForward::Proto(None)]) {
        check_attributes(&request, "XFORWARD", &[("IDENT", text()), ("PROTO", None)]);
        lines.push(request.to_string());
    }
    for line in lines {
        assert_one_line(&line);
        assert!(line.len() + 2 <= MAX_COMMAND, "{} octets", line.len());
    }
}

/// Each attribute is one word, and says what it was made of.
fn check_attributes(request: &Request, verb: &str, expected: &[(&str, Option<String>)]) {
    let line = request.to_string();
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some(verb));
    for (name, value) in expected {
        let (said, text) = words
            .next()
            .and_then(|word| word.split_once('='))
            .expect("NAME=value");
        assert_eq!(said, *name);
        let value = value.as_deref().unwrap_or("[UNAVAILABLE]");
        assert_eq!(
            from_xtext(text).as_deref(),
            Some(value.as_bytes()),
            "{line:?}"
        );
    }
    assert_eq!(words.next(), None, "{line:?}");
}

/// Sends the envelope, and reads the commands back.
fn on_the_wire(sender: &Mailbox, recipient: &Mailbox, name: ClientName, parameters: Parameters) {
    let mut config = Config::new(name.clone());
    config.tls = TlsPolicy::Never;
    let now = Instant::default();
    let mut connection = Connection::new(config, now);
    let mut envelope = Envelope::new(sender, [recipient]).expect("both are valid");
    let auth = MailParameter::auth(Some(sender));
    envelope = envelope.parameter(auth);
    let mut mail = vec![("AUTH".to_owned(), sender.to_string())];
    let mut rcpt = vec![];
    for (parameter, value) in parameters.mail {
        mail.push((parameter.name().to_owned(), value));
        envelope = envelope.parameter(parameter);
    }
    if let Ok(original) = RcptParameter::original_recipient(recipient) {
        let kind = if recipient.is_ascii() {
            "rfc822"
        } else {
            "utf-8"
        };
        rcpt.push(("ORCPT".to_owned(), format!("{kind};{recipient}")));
        envelope = envelope.recipient_parameter(original);
    }
    for (parameter, value) in parameters.rcpt {
        // The last one of a name is said.
        rcpt.retain(|(name, _)| name != parameter.name());
        rcpt.push((parameter.name().to_owned(), value));
        envelope = envelope.recipient_parameter(parameter);
    }
    connection.submit(envelope).expect("a new session");
    connection.handle_input(now, b"220 mx\r\n");
    let hello = take_all(&mut connection, now);
    assert_eq!(hello, format!("EHLO {}\r\n", name.as_str()).as_bytes());
    connection.handle_input(
        now,
        b"250-mx\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250-DSN\r\n250-AUTH X\r\n250-X-ANY\r\n\
          250-DELIVERBY\r\n250-MT-PRIORITY\r\n250-RRVS\r\n250 8BITMIME\r\n",
    );
    let wire = String::from_utf8(take_all(&mut connection, now)).expect("UTF-8");
    let lines: Vec<_> = wire.split_inclusive("\r\n").collect();
    let [mail_line, rcpt_line, "DATA\r\n"] = lines[..] else {
        panic!("not three lines: {wire:?}");
    };
    check_line(mail_line, "MAIL FROM:<", sender, &mail);
    check_line(rcpt_line, "RCPT TO:<", recipient, &rcpt);
}

fn check_line(line: &str, head: &str, mailbox: &Mailbox, expected: &[(String, String)]) {
    let line = line.strip_suffix("\r\n").expect("a whole line");
    assert_one_line(line);
    let rest = line.strip_prefix(head).expect("the command");
    // A path may hold spaces and angle brackets in its quotes, so its own length says where it ends.
    let rest = rest.strip_prefix(mailbox.as_str()).expect("the path");
    let rest = rest.strip_prefix('>').expect("the end of the path");
    assert!(line.len() + 2 - rest.len() <= MAX_COMMAND, "{line:?}");
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    for word in rest.split(' ').skip(1) {
        let (name, text) = word.split_once('=').unwrap_or((word, ""));
        if matches!(name, "SMTPUTF8" | "BODY") {
            continue;
        }
        let at = expected
            .iter()
            .position(|(due, _)| *due == name)
            .unwrap_or_else(|| panic!("{name} in {line:?}"));
        let (_, value) = expected.remove(at);
        let read = match text {
            "<>" if name == "AUTH" => Some(vec![]),
            text if text.starts_with("utf-8;") => from_unicode_xtext(text),
            text if matches!(name, "ENVID" | "AUTH" | "ORCPT") => from_xtext(text),
            text => Some(text.into()),
        };
        assert_eq!(
            read.as_deref(),
            Some(value.as_bytes()),
            "{name} in {line:?}"
        );
    }
    assert!(expected.is_empty(), "not in {line:?}: {expected:?}");
}

fn assert_one_line(text: &str) {
    assert!(
        !text.contains(char::is_control),
        "more than one line: {text:?}"
    );
}

/// RFC 3461 section 4.
fn xtext(octet: u8) -> String {
    match octet {
        b'!'..=b'~' if octet != b'+' && octet != b'=' => char::from(octet).into(),
        _ => format!("+{octet:02X}"),
    }
}

fn from_xtext(text: &str) -> Option<Vec<u8>> {
    let (mut octets, mut rest) = (vec![], text.as_bytes());
    while let [first, others @ ..] = rest {
        rest = others;
        match first {
            b'+' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                if digits.contains(|c: char| c.is_ascii_lowercase()) {
                    return None;
                }
                octets.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            b'!'..=b'~' if *first != b'=' => octets.push(*first),
            _ => return None,
        }
    }
    Some(octets)
}

/// RFC 6533 section 3.
fn from_unicode_xtext(text: &str) -> Option<Vec<u8>> {
    let mut octets = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(coded) = rest.strip_prefix("\\x{") {
            let (digits, after) = coded.split_once('}')?;
            octets.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
            rest = after;
        } else if ('!'..='~').contains(&c) && c != '+' && c != '=' {
            octets.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(octets.into_bytes())
}

/// RFC 5321 section 4.1.2, read from the left, with RFC 6531 and underscores in labels.
fn is_mailbox(text: &str) -> bool {
    let text = match (text.starts_with('<'), text.ends_with('>')) {
        (true, true) if text.len() > 1 => &text[1..text.len() - 1],
        (true, _) => return false,
        (false, _) => text,
    };
    if text.is_empty() || text.eq_ignore_ascii_case("postmaster") {
        return true;
    }
    let chars: Vec<char> = text.chars().collect();
    let local_end = match chars[0] {
        '"' => quoted_end(&chars),
        _ => chars.iter().position(|c| *c == '@'),
    };
    let Some(at) = local_end.filter(|&at| chars.get(at) == Some(&'@')) else {
        return false;
    };
    let is_atom = |atom: &[char]| {
        !atom.is_empty()
            && atom.iter().all(|&c| {
                c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_beyond_ascii(c)
            })
    };
    let quoted = chars[0] == '"';
    if !quoted && !chars[..at].split(|c| *c == '.').all(is_atom) {
        return false;
    }
    let domain: String = chars[at + 1..].iter().collect();
    is_domain_or_literal(&domain) && text.len() <= MAX_MAILBOX
}

/// Where a quoted string that begins here ends, if it does.
fn quoted_end(chars: &[char]) -> Option<usize> {
    let mut at = 1;
    loop {
        match chars.get(at)? {
            '"' => return Some(at + 1),
            '\\' if chars.get(at + 1).is_some_and(|c| (' '..='~').contains(c)) => at += 2,
            '\\' => return None,
            &c if (' '..='~').contains(&c) || is_beyond_ascii(c) => at += 1,
            _ => return None,
        }
    }
}

fn is_domain_or_literal(domain: &str) -> bool {
    if domain.len() > MAX_DOMAIN {
        return false;
    }
    if let Some(literal) = domain.strip_prefix('[') {
        let Some(literal) = literal.strip_suffix(']') else {
            return false;
        };
        let tagged = literal
            .get(..5)
            .is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
        return match tagged {
            true => literal[5..].parse::<Ipv6Addr>().is_ok(),
            false => is_ipv4(literal),
        };
    }
    domain.split('.').all(|label| {
        let chars: Vec<char> = label.chars().collect();
        let fine = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c) || is_beyond_ascii(*c);
        !label.is_empty()
            && label.len() <= 63
            && chars.first() != Some(&'-')
            && chars.last() != Some(&'-')
            && chars.iter().all(fine)
    })
}

fn is_ipv4(text: &str) -> bool {
    let numbers: Vec<_> = text.split('.').collect();
    let fine = |digits: &&str| (0..=255).any(|number: u32| number.to_string() == **digits);
    numbers.len() == 4 && numbers.iter().all(fine)
}

fn is_beyond_ascii(c: char) -> bool {
    c >= '\u{a0}' && !c.is_whitespace()
}

fn is_keyword(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_value_character(c: char) -> bool {
    ('!'..='~').contains(&c) && c != '='
}

fn has_own_call(name: &str) -> bool {
    [
        "SIZE",
        "BODY",
        "SMTPUTF8",
        "RET",
        "ENVID",
        "BY",
        "MT-PRIORITY",
        "HOLDFOR",
        "HOLDUNTIL",
        "REQUIRETLS",
        "PRDR",
        "AUTH",
        "NOTIFY",
        "ORCPT",
        "RRVS",
    ]
    .contains(&&*name.to_ascii_uppercase())
}

/// RFC 3339 section 5.6, part by part.
pub(super) fn is_date_time(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_digit() {
                '0'
            } else {
                c.to_ascii_uppercase()
            }
        })
        .collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else {
        return false;
    };
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches('0');
            if offset.len() == fraction.len() {
                return false;
            }
            offset
        }
        None => rest,
    };
    let number =
        |from: usize, len: usize| text[from..from + len].parse::<u32>().unwrap_or(u32::MAX);
    let (year, month, day) = (number(0, 4), number(5, 2), number(8, 2));
    let days = match month {
        2 if year % 400 == 0 || (year % 4 == 0 && year % 100 != 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    let in_a_day = number(11, 2) < 24 && number(14, 2) < 60 && number(17, 2) <= 60;
    let end = text.len();
    let in_an_offset = match offset {
        "Z" => true,
        "+00:00" | "-00:00" => number(end - 5, 2) < 24 && number(end - 2, 2) < 60,
        _ => false,
    };
    (1..=days).contains(&day) && in_a_day && in_an_offset
}
