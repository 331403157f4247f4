//! Replies to EHLO: what they offer, against a slow reader of the same octets.

use smtp_proto::reply::{Decoder, ReplyLimits};
use smtp_proto::*;

use super::{Input, assert_printable};

const KNOWN: [Extension; 20] = [
    Extension::Pipelining,
    Extension::Size,
    Extension::EightBitMime,
    Extension::SmtpUtf8,
    Extension::StartTls,
    Extension::Auth,
    Extension::EnhancedStatusCodes,
    Extension::Chunking,
    Extension::BinaryMime,
    Extension::Dsn,
    Extension::DeliverBy,
    Extension::MtPriority,
    Extension::FutureRelease,
    Extension::RequireTls,
    Extension::Rrvs,
    Extension::Limits,
    Extension::Prdr,
    Extension::XClient,
    Extension::XForward,
    Extension::Etrn,
];

/// What stands in the reply, in capitals where case means nothing: a keyword and its words for each line.
struct Offer(Vec<(String, Vec<Vec<u8>>)>);

impl Offer {
    /// Reads the octets on the wire: those of whole lines, and all of one reply.
    fn read(wire: &[u8]) -> Self {
        let mut lines = vec![];
        for (number, line) in wire.split(|&octet| octet == b'\n').enumerate() {
            let is_success = line.first() == Some(&b'2');
            if number == 0 || !is_success || line.len() < 4 {
                continue;
            }
            // Octets of UTF-8 or of nothing: each is a character of its own here.
            let text: String = line[4..].iter().map(|&octet| char::from(octet)).collect();
            let text = text.replace(['\t', '\r', '\x0c'], " ");
            let text = text.trim_matches(' ');
            let keyword: String = text
                .chars()
                .take_while(|c| *c != ' ' && *c != '=')
                .collect();
            let words = text[keyword.len()..]
                .chars()
                .skip(1)
                .collect::<String>()
                .split(' ')
                .filter(|word| !word.is_empty())
                .map(|word| word.chars().map(|c| c as u32 as u8).collect())
                .collect();
            if !keyword.is_empty() {
                lines.push((capitals(&keyword), words));
            }
        }
        Self(lines)
    }

    fn has(&self, keyword: &str) -> bool {
        self.0
            .iter()
            .any(|(offered, _)| *offered == capitals(keyword))
    }

    fn words(&self, keyword: &str) -> Vec<&[u8]> {
        self.0
            .iter()
            .filter(|(offered, _)| *offered == capitals(keyword))
            .flat_map(|(_, words)| words.iter().map(|word| &word[..]))
            .collect()
    }

    /// SIZE of the first line that states a number. Zero says that no limit is fixed.
    fn size(&self) -> Option<u64> {
        let lines = self.0.iter().filter(|(keyword, _)| keyword == "SIZE");
        let mut numbers = lines.filter_map(|(_, words)| number(words.first()?));
        numbers.next().filter(|&size| size > 0)
    }

    fn limit(&self, name: &str) -> Option<u64> {
        for word in self.words("LIMITS") {
            let word: String = word.iter().map(|&octet| char::from(octet)).collect();
            if let Some((stated, value)) = word.split_once('=')
                && capitals(stated) == capitals(name)
            {
                return number(value.as_bytes()).filter(|&limit| limit > 0);
            }
        }
        None
    }
}

fn capitals(text: &str) -> String {
    text.to_ascii_uppercase()
}

/// Digits alone are a number, however many.
fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || text.contains(|c: char| !c.is_ascii_digit()) {
        return None;
    }
    let digits = text.trim_start_matches('0');
    match digits.len() {
        0 => Some(0),
        1..=20 => Some(
            digits
                .parse::<u128>()
                .unwrap()
                .try_into()
                .unwrap_or(u64::MAX),
        ),
        _ => Some(u64::MAX),
    }
}

/// The text of a reply to EHLO: its code (one octet, of which one value in four is a refusal), a keyword of the
/// caller's own to ask for (with its length before it), and the lines.
pub fn ehlo(data: &[u8]) {
    let mut input = Input(data);
    let code = [250, 220, 250, 550][usize::from(input.byte() % 4)];
    let own = String::from_utf8_lossy(input.string()).into_owned();
    let lines: Vec<_> = input.0.split(|&octet| octet == b'\n').collect();
    let mut wire = vec![];
    for (number, line) in lines.iter().enumerate() {
        let last = number + 1 == lines.len();
        wire.extend_from_slice(format!("{code}{}", if last { ' ' } else { '-' }).as_bytes());
        // A bare CR is refused before anybody looks for keywords.
        wire.extend(line.iter().filter(|&&octet| octet != b'\r'));
        wire.extend_from_slice(b"\r\n");
    }

    let mut decoder = Decoder::new(ReplyLimits::default());
    let Ok(Some(reply)) = decoder.decode(&mut &wire[..]) else {
        // Too long for the limits, which `reply` is about.
        return;
    };
    let reply = reply.to_reply();
    let (seen, offered) = (Offer::read(&wire), Capabilities::parse(reply.clone()));
    assert_eq!(offered.reply(), Some(&reply));
    compare(&seen, &offered, &own);
    assert_printable(&format!("{offered:?}"));

    // The order of lines and their case mean nothing, where no keyword comes twice.
    let mut keywords: Vec<_> = seen.0.iter().map(|(keyword, _)| keyword).collect();
    keywords.sort();
    keywords.dedup();
    if keywords.len() == seen.0.len() {
        let mut turned = vec![lines[0]];
        turned.extend(lines[1..].iter().rev());
        let text = turned.join(&b'\n').to_ascii_lowercase();
        let text: Vec<_> = text.into_iter().filter(|&octet| octet != b'\r').collect();
        let turned = Capabilities::parse(Reply::new(reply.code(), &text));
        for extension in KNOWN {
            assert_eq!(turned.has(extension), offered.has(extension), "{extension}");
        }
        assert_eq!(turned.size_limit(), offered.size_limit());
        assert_eq!(turned.recipients_max(), offered.recipients_max());
    }
}

fn compare(seen: &Offer, offered: &Capabilities, own: &str) {
    for extension in KNOWN {
        let keyword = extension.keyword();
        assert_eq!(offered.has(extension), seen.has(keyword), "{keyword}");
        assert_eq!(offered.offers(keyword), seen.has(keyword), "{keyword}");
        let words: Vec<_> = offered.parameters(keyword).collect();
        assert_eq!(words, seen.words(keyword), "{keyword}");
    }
    let is_keyword = own.is_ascii() && !own.contains([' ', '=', '\t', '\r', '\n', '\x0c']);
    if is_keyword {
        assert_eq!(offered.offers(own), seen.has(own), "{own}");
        assert_eq!(
            offered.parameters(own).collect::<Vec<_>>(),
            seen.words(own),
            "{own}"
        );
        assert_eq!(offered.limit(own), seen.limit(own), "{own}");
        let has = seen
            .words("AUTH")
            .iter()
            .any(|word| word.eq_ignore_ascii_case(own.as_bytes()));
        assert_eq!(offered.offers_mechanism(own), has, "{own}");
    }
    assert_eq!(
        offered.mechanisms().collect::<Vec<_>>(),
        seen.words("AUTH"),
        "mechanisms"
    );
    assert_eq!(offered.size_limit(), seen.size(), "SIZE");
    let limits = [
        (offered.recipients_max(), "RCPTMAX"),
        (offered.mails_max(), "MAILMAX"),
        (offered.recipient_domains_max(), "RCPTDOMAINMAX"),
    ];
    for (stated, name) in limits {
        assert_eq!(stated, seen.limit(name), "{name}");
    }
    let least = seen
        .words("DELIVERBY")
        .first()
        .and_then(|word| number(word))
        .map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
        .filter(|&seconds| seconds > 0);
    assert_eq!(offered.deliver_by_minimum(), least, "DELIVERBY");
    let words = seen.words("FUTURERELEASE");
    let hold = match words[..] {
        [seconds, until, ..] => number(seconds)
            .zip(std::str::from_utf8(until).ok())
            .filter(|(_, until)| super::address::is_date_time(until))
            .map(|(seconds, until)| (u32::try_from(seconds).unwrap_or(u32::MAX), until)),
        _ => None,
    };
    assert_eq!(offered.future_release_limits(), hold, "FUTURERELEASE");
}
