//! The speed of the parts: bodies on the wire beside a plain copy of the same octets, replies, addresses, and a whole
//! transaction. Run `cargo bench -p smtp-tests --bench speed`, with a filter if you like. `examples/counts.rs` has
//! the figures that are counted instead of timed.

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use smtp_proto::{
    ClientName, Config, Connection, Envelope, Event, Instant, Mailbox, TlsPolicy,
    reply::{Decoder, ReplyLimits},
};
use smtp_tests::measure::load;

fn main() {
    divan::main();
}

/// A session whose greeting and EHLO are done.
fn open_session() -> Connection {
    let mut config = Config::new(ClientName::parse("client.example").unwrap());
    config.tls = TlsPolicy::Never;
    let mut engine = Connection::new(Arc::new(config), Instant::default());
    say(&mut engine, b"220 peer\r\n");
    transmit(&mut engine, &[], |_| ());
    say(
        &mut engine,
        b"250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n",
    );
    engine
}

fn say(engine: &mut Connection, reply: &[u8]) {
    engine.handle_input(Instant::default(), reply);
    while let Some(event) = engine.poll_event() {
        if let Event::Finished(_, report) = &event {
            assert!(report.is_success());
        }
        black_box(event);
    }
}

/// Gives all octets of the engine, and all of `body`, to `write`.
fn transmit(engine: &mut Connection, body: &[u8], mut write: impl FnMut(&[u8])) {
    let mut rest = body;
    while let Some(transmit) = engine.poll_transmit(Instant::default(), rest) {
        transmit.parts().into_iter().for_each(&mut write);
        rest = &rest[transmit.advance(usize::MAX)..];
    }
}

const ENVELOPE_REPLIES: &[u8] =
    b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n354 go on\r\n";

/// Brings the session to the point where the body is wanted.
fn begin(engine: &mut Connection, envelope: Envelope) {
    engine.submit(envelope).unwrap();
    transmit(engine, &[], |octets| _ = black_box(octets));
    say(engine, ENVELOPE_REPLIES);
}

/// Bodies on their way to the socket. `copied` fills a buffer, as the adapters do; compare it with `memcpy`.
/// `scanned` only finds the octets that go out.
mod body {
    use super::*;

    /// In octets. A larger body would not fit into the fast caches, and would measure the memory.
    const SIZE: usize = 64 * 1024;

    #[derive(Debug)]
    enum Text {
        /// 76 columns and CRLF.
        Crlf,
        /// The same with LF alone.
        Lf,
        /// Each line begins with a dot.
        Dots,
        /// One line of octets above 127, as 8BITMIME allows it.
        Binary,
    }

    const TEXTS: [Text; 4] = [Text::Crlf, Text::Lf, Text::Dots, Text::Binary];

    impl Text {
        fn octets(&self) -> Vec<u8> {
            let mut octets = load::body(SIZE);
            match self {
                Self::Crlf => {}
                Self::Lf => octets.retain(|&octet| octet != b'\r'),
                Self::Dots => octets
                    .iter_mut()
                    .filter(|octet| **octet == b'>')
                    .for_each(|octet| *octet = b'.'),
                Self::Binary => {
                    octets = (0..SIZE).map(|n| (n * 31 % 251) as u8 | 0x80).collect();
                }
            }
            octets
        }
    }

    #[divan::bench(args = TEXTS)]
    fn memcpy(bencher: Bencher<'_, '_>, text: &Text) {
        let body = text.octets();
        let mut wire = Vec::with_capacity(2 * body.len());
        bencher
            .counter(BytesCount::of_slice(&body))
            .bench_local(|| {
                wire.clear();
                wire.extend_from_slice(black_box(&body));
                black_box(&mut wire);
            });
    }

    #[divan::bench(args = TEXTS)]
    fn copied(bencher: Bencher<'_, '_>, text: &Text) {
        let body = text.octets();
        let mut engine = open_session();
        begin(&mut engine, load::envelope(5));
        let mut wire = Vec::with_capacity(2 * body.len());
        bencher
            .counter(BytesCount::of_slice(&body))
            .bench_local(|| {
                wire.clear();
                transmit(&mut engine, black_box(&body), |octets| {
                    wire.extend_from_slice(octets)
                });
                black_box(&mut wire);
            });
    }

    #[divan::bench(args = TEXTS)]
    fn scanned(bencher: Bencher<'_, '_>, text: &Text) {
        let body = text.octets();
        let mut engine = open_session();
        begin(&mut engine, load::envelope(5));
        bencher
            .counter(BytesCount::of_slice(&body))
            .bench_local(|| {
                transmit(&mut engine, black_box(&body), |octets| {
                    _ = black_box(octets)
                })
            });
    }

    /// Declaring 7-bit text does not save time: each octet is then examined.
    #[divan::bench]
    fn scanned_seven_bit(bencher: Bencher<'_, '_>) {
        let body = load::body(SIZE);
        let mut engine = open_session();
        begin(
            &mut engine,
            load::envelope(5).body(smtp_proto::envelope::BodyType::SevenBit),
        );
        bencher
            .counter(BytesCount::of_slice(&body))
            .bench_local(|| {
                transmit(&mut engine, black_box(&body), |octets| {
                    _ = black_box(octets)
                })
            });
    }
}

mod reply {
    use super::*;

    const EHLO: &[u8] = b"250-mx.example.net at your service\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n\
        250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250 DSN\r\n";

    /// Decodes one reply in pieces of at most this many octets.
    fn decode(bencher: Bencher<'_, '_>, reply: &[u8], piece: usize) {
        let mut decoder = Decoder::new(ReplyLimits::default());
        bencher
            .counter(BytesCount::of_slice(reply))
            .bench_local(|| {
                for mut input in black_box(reply).chunks(piece) {
                    black_box(decoder.decode(&mut input).unwrap());
                }
            });
    }

    #[divan::bench]
    fn one_line(bencher: Bencher<'_, '_>) {
        decode(bencher, b"250 2.1.5 Ok\r\n", usize::MAX);
    }

    #[divan::bench]
    fn one_line_cut_in_two(bencher: Bencher<'_, '_>) {
        decode(bencher, b"250 2.1.5 Ok\r\n", 7);
    }

    #[divan::bench]
    fn seven_in_one_piece(bencher: Bencher<'_, '_>) {
        let mut decoder = Decoder::new(ReplyLimits::default());
        bencher.counter(ItemsCount::new(7usize)).bench_local(|| {
            let mut input = black_box(ENVELOPE_REPLIES);
            while let Some(reply) = decoder.decode(&mut input).unwrap() {
                black_box(reply);
            }
        });
    }

    #[divan::bench]
    fn ehlo_of_ten_lines(bencher: Bencher<'_, '_>) {
        decode(bencher, EHLO, usize::MAX);
    }

    #[divan::bench]
    fn ehlo_of_ten_lines_octet_by_octet(bencher: Bencher<'_, '_>) {
        decode(bencher, EHLO, 1);
    }

    #[divan::bench]
    fn kept(bencher: Bencher<'_, '_>) {
        let mut decoder = Decoder::new(ReplyLimits::default());
        bencher.bench_local(|| {
            let mut input = black_box(&b"250 2.1.5 Ok\r\n"[..]);
            decoder
                .decode(&mut input)
                .unwrap()
                .map(|reply| reply.to_reply())
        });
    }
}

mod envelope {
    use super::*;

    const ADDRESSES: [&str; 4] = [
        "alice@example.org",
        "first.last+detail@mail.department.example.co.uk",
        "\"Joe Q. Public\"@[IPv6:2001:db8::1]",
        "usuária@exemplo.example",
    ];

    #[divan::bench(args = ADDRESSES)]
    fn address(bencher: Bencher<'_, '_>, address: &str) {
        bencher.bench_local(|| Mailbox::parse(black_box(address)).unwrap());
    }

    #[divan::bench(args = [1, 5, 50])]
    fn with_recipients(bencher: Bencher<'_, '_>, recipients: usize) {
        let to: Vec<String> = (0..recipients).map(load::recipient).collect();
        bencher.bench_local(|| Envelope::new(load::SENDER, black_box(&to)).unwrap());
    }
}

/// The engine's whole work for a message, without a socket: 10 KiB to 5 recipients.
mod transaction {
    use super::*;

    fn run(bencher: Bencher<'_, '_>, body: Vec<u8>, mut write: impl FnMut(&[u8])) {
        let mut engine = open_session();
        let envelope = load::envelope(5);
        bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
            begin(&mut engine, envelope.clone());
            transmit(&mut engine, black_box(&body), &mut write);
            engine.finish_body().unwrap();
            transmit(&mut engine, &[], &mut write);
            say(&mut engine, b"250 2.0.0 Ok: queued as 4Xyz\r\n");
        });
    }

    #[divan::bench]
    fn of_10_kib(bencher: Bencher<'_, '_>) {
        run(bencher, load::body(10 * 1024), |octets| {
            _ = black_box(octets)
        });
    }

    #[divan::bench]
    fn of_10_kib_copied(bencher: Bencher<'_, '_>) {
        let mut wire = Vec::with_capacity(64 * 1024);
        run(bencher, load::body(10 * 1024), move |octets| {
            if wire.len() > 32 * 1024 {
                wire.clear();
            }
            wire.extend_from_slice(octets);
            black_box(&mut wire);
        });
    }

    #[divan::bench]
    fn without_a_body(bencher: Bencher<'_, '_>) {
        run(bencher, Vec::new(), |octets| _ = black_box(octets));
    }
}
