//! Bodies: the encoder against a slow one, and the rules of what goes out.

use smtp_proto::body::{BodyEncoder, BodyError, BodyPolicy, LineEndings, MAX_TEXT_LINE};

use super::Input;
use crate::watchdog::Turns;

/// Every CR has its LF and every LF its CR. Only the LF after a CR at the end may still come.
pub(super) fn assert_no_bare_line_ends(wire: &[u8]) {
    for (at, octet) in wire.iter().enumerate() {
        match octet {
            b'\r' => assert!(
                matches!(wire.get(at + 1), None | Some(b'\n')),
                "bare CR at {at}: {}",
                wire.escape_ascii()
            ),
            b'\n' => assert!(
                at > 0 && wire[at - 1] == b'\r',
                "bare LF at {at}: {}",
                wire.escape_ascii()
            ),
            _ => {}
        }
    }
}

/// A body as it must be under DATA, octet by octet, without its end; with an error, what precedes it.
pub(super) fn stuff(
    policy: BodyPolicy,
    eight_bit: bool,
    body: &[u8],
) -> (Vec<u8>, Option<BodyError>) {
    let refuse = policy.line_endings == LineEndings::Refuse;
    let mut wire = vec![];
    let mut column = 0;
    let mut octets = body.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' if octets.next_if_eq(&b'\n').is_some() => {}
            b'\r' if refuse => {
                // It went out before it was known that no LF follows.
                wire.push(b'\r');
                return (wire, Some(BodyError::BareCr));
            }
            b'\n' if refuse => return (wire, Some(BodyError::BareLf)),
            b'\r' | b'\n' => {}
            0 if !policy.allow_nul => return (wire, Some(BodyError::Nul)),
            128.. if !eight_bit => return (wire, Some(BodyError::EightBit)),
            _ if policy.refuse_long_lines && column == MAX_TEXT_LINE => {
                return (wire, Some(BodyError::LineTooLong));
            }
            _ => {
                if column == 0 && octet == b'.' {
                    wire.push(b'.');
                }
                wire.push(octet);
                column += 1;
                continue;
            }
        }
        wire.extend_from_slice(b"\r\n");
        column = 0;
    }
    (wire, None)
}

/// Every line end as CRLF, and one at the end.
pub(super) fn normalise(body: &[u8]) -> Vec<u8> {
    let mut normal = vec![];
    let mut octets = body.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if_eq(&b'\n');
                normal.extend_from_slice(b"\r\n");
            }
            b'\n' => normal.extend_from_slice(b"\r\n"),
            octet => normal.push(octet),
        }
    }
    if !normal.is_empty() && !normal.ends_with(b"\n") {
        normal.extend_from_slice(b"\r\n");
    }
    normal
}

/// A server's view of DATA: the body, and the octets after the dot that ends it.
pub(super) fn unstuff(wire: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut body, mut rest) = (vec![], wire);
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")? + 2;
        let (line, behind) = rest.split_at(end);
        rest = behind;
        match line {
            b".\r\n" => return Some((body, rest)),
            [b'.', line @ ..] => body.extend_from_slice(line),
            line => body.extend_from_slice(line),
        }
    }
}

/// A body in run-length code, so that a short input holds a long line, and one beyond 64 KiB: 0xfe and n
/// repeat the octet before them.
pub(super) fn expand(coded: &[u8]) -> Vec<u8> {
    let mut body = vec![];
    let mut coded = Input(coded);
    while !coded.0.is_empty() {
        match (coded.byte(), body.last()) {
            (0xfe, Some(&last)) if body.len() < 70_000 => {
                let times = match coded.byte() {
                    255 => 35_000,
                    n => usize::from(n % 8) * 166,
                };
                body.resize(body.len() + times, last);
            }
            (octet, _) => body.push(octet),
        }
    }
    body
}

/// A body: its policy (one octet of flags), the sizes of offers and of what the transport takes of them
/// (one octet each), the body in run-length code.
pub fn body(data: &[u8]) {
    let mut input = Input(data);
    let [flags, offer, take] = [(); 3].map(|()| input.byte());
    let mut policy = BodyPolicy::default();
    if flags & 1 != 0 {
        policy.line_endings = LineEndings::Refuse;
    }
    policy.allow_nul = flags & 2 != 0;
    policy.refuse_long_lines = flags & 4 != 0;
    let eight_bit = flags & 8 != 0;
    let body = expand(input.0);
    let (expected, expected_error) = stuff(policy, eight_bit, &body);

    // 0 means all octets. A long body in short pieces takes too long, and finds nothing more.
    let least = body.len() / 32;
    let size = |octet: u8| {
        if octet == 0 {
            usize::MAX
        } else {
            least.max(octet.into())
        }
    };
    for (offer, take) in [(0, 0), (1, 0), (0, 1), (offer, take)] {
        let (wire, error) = encode(policy, eight_bit, &body, size(offer), size(take));
        assert_eq!(error, expected_error, "offers of {offer}, {take} taken");
        if error.is_some() {
            // The LF that completes a bare CR goes out with the octet after it, so not before a bad one.
            let unsent = expected.strip_prefix(&wire[..]);
            assert!(
                matches!(unsent, Some(b"" | b"\n")),
                "{} is not {}",
                wire.escape_ascii(),
                expected.escape_ascii()
            );
            continue;
        }
        let mut complete = expected.clone();
        if !complete.is_empty() && !complete.ends_with(b"\n") {
            complete.extend_from_slice(b"\r\n");
        }
        complete.extend_from_slice(b".\r\n");
        assert!(
            wire == complete,
            "{} is not {}",
            wire.escape_ascii(),
            complete.escape_ascii()
        );
        assert_no_bare_line_ends(&wire);
        assert!(
            unstuff(&wire) == Some((normalise(&body), &[])),
            "{}",
            wire.escape_ascii()
        );
    }
    fickle(policy, eight_bit, &body, take);
}

/// The body as the encoder sends it, offered and taken in pieces of these sizes.
fn encode(
    policy: BodyPolicy,
    eight_bit: bool,
    body: &[u8],
    offer: usize,
    take: usize,
) -> (Vec<u8>, Option<BodyError>) {
    let mut encoder = BodyEncoder::new(policy, eight_bit);
    let (mut wire, mut rest) = (vec![], body);
    let mut turns = Turns::default();
    while !rest.is_empty() {
        turns.take().expect("an encoder that uses nothing up");
        let piece = &rest[..rest.len().min(offer)];
        let (inserted, run) = match encoder.next(piece) {
            Ok(next) => next,
            Err(error) => return (wire, Some(error)),
        };
        assert!(!inserted.is_empty() || run > 0, "nothing is offered");
        let octets = [inserted, &piece[..run]].concat();
        wire.extend_from_slice(&octets[..octets.len().min(take)]);
        let used = encoder.advance(piece, take);
        assert_eq!(used, take.min(octets.len()).saturating_sub(inserted.len()));
        rest = &rest[used..];
    }
    let end = encoder.finish();
    wire.extend_from_slice(end.unwrap_or_default());
    (wire, end.err())
}

/// A caller that offers other octets than before, whenever not all were taken. What goes out is nobody's body, but
/// the data must not end in the middle of it.
fn fickle(policy: BodyPolicy, eight_bit: bool, body: &[u8], take: u8) {
    let mut encoder = BodyEncoder::new(policy, eight_bit);
    let mut wire = vec![];
    for piece in body.chunks(usize::from(take % 8) + 1).take(1_000) {
        let Ok((inserted, run)) = encoder.next(piece) else {
            continue;
        };
        let octets = [inserted, &piece[..run]].concat();
        let sent = octets.len().min(usize::from(take / 8 % 4) + 1);
        wire.extend_from_slice(&octets[..sent]);
        encoder.advance(piece, sent);
    }
    if let Ok(end) = encoder.finish() {
        wire.extend_from_slice(end);
        assert_no_bare_line_ends(&wire);
        assert!(
            unstuff(&wire).is_some_and(|(_, rest)| rest.is_empty()),
            "{}",
            wire.escape_ascii()
        );
    }
}
