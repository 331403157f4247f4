//! The fuzz targets without a fuzzer, on stable Rust: over the committed seeds, mutations of them, and noise. It
//! seldom finds anything new, but shows at once if a target breaks.

use std::fs;
use std::path::Path;

use smtp_tests::fuzzing;
use smtp_tests::watchdog::in_time;

/// Marsaglia's xorshift: the same inputs every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn octets(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.below(256) as u8).collect()
    }
}

fn smoke(target: &'static str, body: fn(&[u8]), rounds: usize) {
    in_time(move || play(target, body, rounds));
}

fn play(target: &str, body: fn(&[u8]), rounds: usize) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty());
    for (path, seed) in paths.iter().zip(&seeds) {
        println!("{}", path.display()); // Shown when it fails.
        body(seed);
    }

    let mut random = Random(0x5eed);
    for _ in 0..rounds {
        let length = random.below(64);
        let noise = random.octets(length);
        run(body, &noise);

        // The front of one seed and the end of another, with a few octets changed.
        let [one, other] = [(); 2].map(|()| &seeds[random.below(seeds.len())]);
        let (front, back) = (random.below(one.len() + 1), random.below(other.len() + 1));
        let mut mutant = [&one[..front], &other[back..]].concat();
        for _ in 0..random.below(4) {
            if !mutant.is_empty() {
                let at = random.below(mutant.len());
                mutant[at] = random.below(256) as u8;
            }
        }
        run(body, &mutant);
    }
}

/// Names the input, as a fuzzer would.
fn run(body: fn(&[u8]), data: &[u8]) {
    if let Err(panic) = std::panic::catch_unwind(|| body(data)) {
        println!("input: b\"{}\"", data.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn reply() {
    smoke("reply", fuzzing::reply, 10_000);
}

#[test]
fn ehlo() {
    smoke("ehlo", fuzzing::ehlo, 2_000);
}

#[test]
fn address() {
    smoke("address", fuzzing::address, 2_000);
}

#[test]
fn body() {
    smoke("body", fuzzing::body, 2_000);
}

#[test]
fn chunks() {
    smoke("chunks", fuzzing::chunks, 250);
}

#[test]
fn sasl() {
    smoke("sasl", fuzzing::sasl, 100);
}

#[test]
fn url() {
    smoke("url", fuzzing::url, 2_000);
}

#[test]
fn conversation() {
    smoke("conversation", fuzzing::conversation, 500);
}

#[test]
fn differential() {
    smoke("differential", fuzzing::differential, 150);
}

#[test]
fn session() {
    smoke("session", fuzzing::session, 5_000);
}
