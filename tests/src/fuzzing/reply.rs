//! Replies: the decoder against a slow one, and capabilities.

use smtp_proto::reply::{Decoder, ReplyClass, ReplyCode, ReplyError, ReplyLimits};
use smtp_proto::*;

use super::{Input, assert_printable};
use crate::watchdog::Turns;

/// The expected result of the decoder for a whole stream: the replies, the octets of an incomplete reply, and the
/// error that ends it.
pub(super) fn decode(
    stream: &[u8],
    limits: ReplyLimits,
) -> (Vec<Reply>, &[u8], Option<ReplyError>) {
    let mut replies = vec![];
    // The code and the text of each line of the current reply.
    let mut lines: Vec<(ReplyCode, &[u8])> = vec![];
    let (mut rest, mut tail) = (stream, stream);
    let error = loop {
        let end = rest
            .iter()
            .position(|&octet| octet == b'\n')
            .map(|at| at + 1);
        if end.unwrap_or(rest.len()) > limits.line {
            break Some(ReplyError::LineTooLong { limit: limits.line });
        }
        let Some(end) = end else { break None };
        let line = rest[..end].strip_suffix(b"\n").unwrap();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        rest = &rest[end..];

        if line.contains(&b'\r') {
            break Some(ReplyError::BareCr);
        }
        let digits = line
            .get(..3)
            .filter(|code| code.iter().all(u8::is_ascii_digit));
        let code = digits
            .and_then(|code| str::from_utf8(code).unwrap().parse().ok())
            .and_then(ReplyCode::new);
        let (Some(code), None | Some(b' ' | b'-')) = (code, line.get(3)) else {
            break Some(ReplyError::NotAReply(line[..line.len().min(80)].into()));
        };
        if let Some(&(first, _)) = lines.last()
            && first.class() != code.class()
        {
            break Some(ReplyError::CodesDisagree { first, then: code });
        }
        lines.push((code, line.get(4..).unwrap_or_default()));
        if lines.len() > limits.lines {
            break Some(ReplyError::TooManyLines {
                limit: limits.lines,
            });
        }
        let text = lines
            .iter()
            .map(|(_, text)| *text)
            .collect::<Vec<_>>()
            .join(&b'\n');
        if text.len() > limits.octets {
            break Some(ReplyError::TooLong {
                limit: limits.octets,
            });
        }
        if line.get(3) != Some(&b'-') {
            replies.push(Reply::new(code, &text));
            lines.clear();
            tail = rest;
        }
    };
    (replies, tail, error)
}

/// The decoder's result for the stream in these pieces.
fn decode_pieces<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    limits: ReplyLimits,
) -> (Vec<Reply>, bool, Option<ReplyError>) {
    let mut decoder = Decoder::new(limits);
    let mut replies = vec![];
    let mut turns = Turns::default();
    for mut piece in pieces {
        loop {
            turns.take().expect("a decoder that uses nothing up");
            match decoder.decode(&mut piece) {
                Ok(Some(reply)) => replies.push(reply.to_reply()),
                Ok(None) => break assert!(piece.is_empty()),
                Err(error) => return (replies, false, Some(error)),
            }
        }
    }
    (replies, decoder.is_empty(), None)
}

/// A stream of replies: its limits (three octets; the defaults if the first is `D`), its cuts (one octet), the
/// stream.
pub fn reply(data: &[u8]) {
    let mut input = Input(data);
    let [line, lines, octets, cut] = [(); 4].map(|()| input.byte());
    let limits = match line {
        b'D' => ReplyLimits::default(),
        _ => ReplyLimits {
            line: line.into(),
            lines: usize::from(lines % 8),
            octets: octets.into(),
        },
    };
    let stream = input.0;

    let (replies, tail, error) = decode(stream, limits);
    let expected = (replies, tail.is_empty() && error.is_none(), error);
    assert_eq!(
        decode_pieces([stream].into_iter(), limits),
        expected,
        "whole"
    );
    assert_eq!(
        decode_pieces(stream.chunks(1), limits),
        expected,
        "octet by octet"
    );
    let (one, other) = stream.split_at(stream.len().min(cut.into()));
    assert_eq!(
        decode_pieces([one, other].into_iter(), limits),
        expected,
        "in two"
    );
    let size = usize::from(cut % 16) + 2;
    assert_eq!(
        decode_pieces(stream.chunks(size), limits),
        expected,
        "in pieces of {size}"
    );

    for reply in expected.0 {
        assert_printable(&reply.to_string());
        assert_printable(&format!("{reply:?}"));
        assert!(reply.text().len() <= limits.octets && reply.lines().count() <= limits.lines);
        if let Some(enhanced) = reply.enhanced() {
            assert_eq!(u16::from(enhanced.class), reply.code().get() / 100);
            assert!(enhanced.subject < 1_000 && enhanced.detail < 1_000);
        }
        capabilities(reply);
    }
    if let Some(error) = expected.2 {
        assert_printable(&error.to_string());
    }
}

/// Any reply may answer EHLO.
fn capabilities(reply: Reply) {
    let success = reply.class() == ReplyClass::Success;
    let offered = Capabilities::parse(reply);
    assert_printable(&format!("{offered:?}"));
    assert!(offered.size_limit().is_none() || offered.has(Extension::Size));
    for mechanism in offered.mechanisms() {
        assert!(offered.has(Extension::Auth) && !mechanism.is_empty());
        let name = str::from_utf8(mechanism);
        assert!(
            name.is_err()
                || name.is_ok_and(|name| offered.offers_mechanism(&name.to_ascii_lowercase()))
        );
    }
    assert!(success || !offered.has(Extension::StartTls));
}
