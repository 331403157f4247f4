//! The syntax of arguments and parameters.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::session::{Fault, refuse_if};

/// The longest address: what 512 octets leave after `MAIL FROM:<>` and CRLF. §4.5.3.1.3 asks for at least 254 octets.
pub(super) const ADDRESS_LIMIT: usize = 498;
/// Longest reply line, CRLF included (RFC 5321 §4.5.3.1.5).
pub(super) const REPLY_LIMIT: usize = 512;
/// The characters of an atom besides letters and digits (RFC 5322 §3.2.3).
const ATOM_MARKS: &str = "!#$%&'*+-/=?^_`{|}~";

/// The parameters of MAIL and RCPT, with names in upper case. Each may come once.
pub(super) fn parameters(text: &str) -> Result<Vec<(String, Option<&str>)>, Fault> {
    let mut names = HashSet::new();
    let parameter = |parameter| {
        let (name, value) = match str::split_once(parameter, '=') {
            Some((name, value)) => (name, Some(value)),
            None => (parameter, None),
        };
        let name = name.to_ascii_uppercase();
        refuse_if(
            !names.insert(name.clone()),
            "501 5.5.4 A parameter came twice",
        )?;
        Ok((name, value))
    };
    text.split_ascii_whitespace().map(parameter).collect()
}

/// RFC 3461 §4. Empty text is not xtext.
pub(super) fn is_xtext(text: &str) -> bool {
    let mut parts = text.split('+');
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
    let is_hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    let hex = |part: &str| part.len() >= 2 && part.bytes().take(2).all(is_hex);
    !text.is_empty()
        && parts.next().is_some_and(plain)
        && parts.all(|part| hex(part) && plain(part))
}

/// RFC 3461 §4.1: NEVER alone, or each of the others at most once.
pub(super) fn is_notify(when: &str) -> bool {
    let mut left = vec!["SUCCESS", "FAILURE", "DELAY"];
    let take = |word: &str| {
        let found = left
            .iter()
            .position(|known| known.eq_ignore_ascii_case(word));
        found.map(|at| left.remove(at)).is_some()
    };
    when.eq_ignore_ascii_case("NEVER") || when.split(',').all(take)
}

/// Splits `FROM:<address> parameters` into address and parameters. A space beside the colon is not allowed (RFC 5321
/// §3.3).
pub(super) fn split_path<'l>(
    argument: &'l str,
    keyword: &str,
) -> Result<(&'l str, &'l str), Fault> {
    let split = || {
        let (head, rest) = argument.split_at_checked(keyword.len())?;
        let rest = rest.strip_prefix('<')?;
        let (mut quoted, mut escaped) = (false, false);
        let close = rest.bytes().position(|byte| {
            quoted ^= byte == b'"' && !escaped;
            escaped = byte == b'\\' && quoted && !escaped;
            byte == b'>' && !quoted
        })?;
        let (mut path, tail) = (&rest[..close], &rest[close + 1..]);
        // A source route must be accepted and should be ignored (§4.1.1.3).
        if path.starts_with('@') {
            path = path.split_once(':')?.1;
        }
        let right = head.eq_ignore_ascii_case(keyword) && !tail.starts_with(|c| c != ' ');
        right.then_some((path, tail.trim_start()))
    };
    let syntax = || Fault::Refused(format!("501 5.5.2 Syntax: {keyword}<address>"));
    split().ok_or_else(syntax)
}

/// `Mailbox` of RFC 5321 §4.1.2, with the non-ASCII characters of RFC 6531.
pub(super) fn is_mailbox(path: &str) -> bool {
    let Some((local, domain)) = path.rsplit_once('@') else {
        return false;
    };
    let odd = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !ATOM_MARKS.contains(c);
    let is_atom = |atom: &str| !atom.is_empty() && !atom.contains(odd);
    let quoted = local.len() > 1 && local.starts_with('"') && local.ends_with('"');
    let local_is_right = quoted || local.split('.').all(is_atom);
    path.len() <= ADDRESS_LIMIT && local_is_right && is_domain(domain)
}

/// A reply about this address. It quotes the address if the line has room.
pub(super) fn about(path: &str, code: &str, text: &str) -> String {
    let line = format!("{code} <{path}> {text}");
    match line.len() + 2 <= REPLY_LIMIT {
        true => line,
        false => format!("{code} {text}"),
    }
}

/// `Domain` or `address-literal` of RFC 5321 §4.1.2.
pub(super) fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')) {
        return match literal.strip_prefix("IPv6:") {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => literal.parse::<Ipv4Addr>().is_ok(),
        };
    }
    let odd = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '-';
    let is_label = |l: &str| !(l.is_empty() || l.starts_with('-') || l.ends_with('-'));
    domain.split('.').all(is_label) && !domain.replace('.', "").contains(odd)
}
