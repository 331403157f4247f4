//! Every short body of CR, LF, dot and a letter under DATA, with every cut. An independent reader reads it.

use smtp_proto::body::{BodyPolicy, LineEndings};
use smtp_proto::{Chunking, ClientName, Config, Connection, Envelope, Event, Instant, TlsPolicy};

const NOW: Instant = Instant::from_origin(std::time::Duration::ZERO);
const ALPHABET: [u8; 4] = *b"\r\n.x";
/// Bodies up to this length have every possible cut. A debug build uses a sample.
const EVERY_CUT: usize = if cfg!(debug_assertions) { 4 } else { 5 };
/// Longer bodies have one cut, at each place, and are also cut into single octets.
const LONGEST: usize = if cfg!(debug_assertions) { 5 } else { 7 };

/// The side that cuts.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// The caller offers a piece at a time.
    Offers,
    /// The transport takes a piece at a time.
    Takes,
}

fn policies() -> impl Iterator<Item = BodyPolicy> {
    let endings = [LineEndings::Normalise, LineEndings::Refuse];
    endings.into_iter().flat_map(|line_endings| {
        [false, true].map(|yes| {
            let mut policy = BodyPolicy::default();
            policy.line_endings = line_endings;
            (policy.allow_nul, policy.refuse_long_lines) = (yes, yes);
            policy
        })
    })
}

/// A session in which one message follows another.
struct Session {
    config: Config,
    engine: Connection,
}

impl Session {
    fn new(policy: BodyPolicy) -> Self {
        let mut config = Config::new(ClientName::parse("c.example").unwrap());
        (config.tls, config.chunking, config.body) = (TlsPolicy::Never, Chunking::Never, policy);
        let engine = Self::open(&config);
        Self { config, engine }
    }

    fn open(config: &Config) -> Connection {
        let mut engine = Connection::new(config.clone(), NOW);
        engine.handle_input(NOW, b"220 mx\r\n");
        assert_eq!(take_all(&mut engine), b"EHLO c.example\r\n");
        engine.handle_input(NOW, b"250-mx\r\n250 PIPELINING\r\n");
        engine
    }

    /// The octets on the wire after 354, for a body with these cuts.
    fn send(&mut self, body: &[u8], ends: &[usize], side: Side) -> Vec<u8> {
        let envelope = Envelope::new("a@b", ["c@d"]).unwrap();
        let engine = &mut self.engine;
        engine.submit(envelope).unwrap();
        assert_eq!(
            take_all(engine),
            b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
        );
        engine.handle_input(NOW, b"250 ok\r\n250 ok\r\n354 go on\r\n");
        while engine.poll_event().is_some() {}
        let (mut wire, mut used) = (Vec::new(), 0);
        for (index, &end) in ends.iter().enumerate() {
            let offered = match side {
                Side::Offers => end,
                Side::Takes => body.len(),
            };
            let most = match side {
                Side::Offers => usize::MAX,
                Side::Takes => end - index.checked_sub(1).map_or(0, |before| ends[before]),
            };
            while let Some(transmit) = engine.poll_transmit(NOW, &body[used..offered]) {
                let mut octets = transmit.parts().concat();
                octets.truncate(most);
                used += transmit.advance(octets.len());
                wire.extend(octets);
                if matches!(side, Side::Takes) && index + 1 < ends.len() {
                    break;
                }
            }
        }
        let is_refused = !engine.wants_body();
        if !is_refused {
            assert_eq!(used, body.len(), "some of the body is left");
            engine.finish_body().unwrap();
            wire.extend(take_all(engine));
            engine.handle_input(NOW, b"250 taken\r\n");
        }
        let mut is_sent = false;
        while let Some(event) = engine.poll_event() {
            if let Event::Finished(_, report) = event {
                is_sent = report.is_success();
            }
        }
        // A server that continues to read gets nothing more.
        if !is_sent {
            wire.extend(take_all(engine));
            engine.handle_eof(NOW);
            wire.extend(take_all(engine));
            self.engine = Self::open(&self.config);
        }
        wire
    }
}

fn take_all(engine: &mut Connection) -> Vec<u8> {
    let mut octets = Vec::new();
    while let Some(transmit) = engine.poll_transmit(NOW, b"") {
        let some = transmit.parts().concat();
        transmit.advance(some.len());
        octets.extend(some);
    }
    octets
}

/// A server's view (RFC 5321 sections 2.3.8 and 4.5.2): the lines, and whether the end has come.
fn read(wire: &[u8]) -> Result<(Vec<Vec<u8>>, bool), String> {
    let (mut lines, mut line) = (Vec::new(), Vec::new());
    let mut octets = wire.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => match octets.next() {
                // A CR at the cut is not a bare CR yet.
                None if octets.peek().is_none() => return Ok((lines, false)),
                Some(b'\n') if line == b"." => {
                    return match octets.next() {
                        None => Ok((lines, true)),
                        Some(_) => Err("something follows the end".into()),
                    };
                }
                Some(b'\n') => {
                    let ended: Vec<u8> = std::mem::take(&mut line);
                    lines.push(match ended.strip_prefix(b".") {
                        Some(rest) if rest.starts_with(b".") => rest.to_vec(),
                        Some(_) => return Err("a line begins with one dot".into()),
                        None => ended,
                    });
                }
                _ => return Err("a CR without LF".into()),
            },
            b'\n' => return Err("an LF without CR".into()),
            octet => line.push(octet),
        }
    }
    Ok((lines, false))
}

/// The lines of this body: CRLF, CR and LF each end one. Also whether all of them are CRLF.
fn lines_of(body: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let (mut lines, mut line, mut is_clean) = (Vec::new(), Vec::new(), true);
    let mut rest = body;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\r', [b'\n', after @ ..]) => rest = after,
            (b'\r' | b'\n', _) => is_clean = false,
            (octet, _) => {
                line.push(*octet);
                continue;
            }
        }
        lines.push(std::mem::take(&mut line));
    }
    if !line.is_empty() {
        lines.push(line);
    }
    (lines, is_clean)
}

fn check(wire: &[u8], body: &[u8], policy: BodyPolicy) -> Result<(), String> {
    let (expected, is_clean) = lines_of(body);
    let (lines, has_ended) = read(wire)?;
    let is_taken = is_clean || policy.line_endings == LineEndings::Normalise;
    if has_ended != is_taken {
        return Err(format!("it has ended: {has_ended}"));
    }
    match is_taken {
        true if lines != expected => Err(format!("the server reads {lines:?}")),
        // What has left of a refused body must be its front.
        false if !expected.starts_with(&lines) => Err(format!("the server reads {lines:?}")),
        _ => Ok(()),
    }
}

/// The ends of the pieces: all combinations, or single cuts.
fn cuts(length: usize) -> Vec<Vec<usize>> {
    if length <= EVERY_CUT {
        let places = length.saturating_sub(1);
        let cut = |set: usize| {
            let inner = (1..length).filter(move |end| set & (1 << (end - 1)) != 0);
            inner.chain([length]).collect()
        };
        return (0..1 << places).map(cut).collect();
    }
    let once = (1..length).map(|end| vec![end, length]);
    once.chain([vec![length], (1..=length).collect()]).collect()
}

fn play(policy: BodyPolicy) {
    let mut session = Session::new(policy);
    let mut count = 0;
    for length in 0..=LONGEST {
        let cuts = cuts(length);
        for number in 0..ALPHABET.len().pow(u32::try_from(length).unwrap()) {
            let octet = |place: usize| ALPHABET[number >> (2 * place) & 3];
            let body: Vec<u8> = (0..length).map(octet).collect();
            for ends in &cuts {
                for side in [Side::Offers, Side::Takes] {
                    let wire = session.send(&body, ends, side);
                    count += 1;
                    if let Err(why) = check(&wire, &body, policy) {
                        panic!(
                            "{policy:?}, \"{}\" cut at {ends:?} ({side:?}): {why}: \"{}\"",
                            body.escape_ascii(),
                            wire.escape_ascii()
                        );
                    }
                }
            }
        }
    }
    println!("{policy:?}: {count} bodies");
}

#[test]
fn no_body_under_data_holds_what_could_end_it() {
    std::thread::scope(|scope| {
        for policy in policies() {
            scope.spawn(move || play(policy));
        }
    });
}

#[test]
fn the_reader_is_no_friend() {
    assert_eq!(read(b".\r\n"), Ok((vec![], true)));
    assert_eq!(
        read(b"x\r\n...\r\n.\r\n"),
        Ok((vec![b"x".to_vec(), b"..".to_vec()], true))
    );
    for wire in [
        "x\n.\r\n",
        "x\r.\r\n",
        ".x\r\n.\r\n",
        ".\r\n.\r\n",
        "x\r\n\r\r\n",
        "\n",
    ] {
        read(wire.as_bytes()).unwrap_err();
    }
}
