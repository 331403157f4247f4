//! Strings that would end a line or begin another command if they got through.

/// Pieces that are harmful alone, or after decoding, folding or narrowing.
const PIECES: &[&str] = &[
    "",
    "\r",
    "\n",
    "\r\n",
    "\n\r",
    "\0",
    "\t",
    "\u{b}",
    "\u{c}",
    "\u{1b}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\r\nQUIT",
    "\nRSET\n",
    "\r\n.\r\n",
    "\r\n.\r\nMAIL FROM:<eve@example.org>",
    "\r\nRCPT TO:<eve@example.org>\r\n",
    ">\r\nRCPT TO:<eve@example.org",
    "> SIZE=1",
    "> X=\r\nDATA",
    // Their low octets are CR, LF, NUL, space and `>`.
    "\u{10d}\u{10a}",
    "\u{10d}\u{10a}QUIT",
    "\u{10d}",
    "\u{10a}",
    "\u{100}",
    "\u{120}",
    "\u{13e}",
    "\u{560d}\u{560a}QUIT",
    "\u{1f60d}\u{1f60a}",
    // Full-width forms that a mapping turns into ASCII.
    "\u{ff0e}",
    "\u{ff20}",
    "\u{ff1c}",
    "\u{ff1e}",
    "\u{ff3b}",
    "\u{ff3d}",
    "\u{ff1d}",
    "\u{3000}",
    "\u{2100}",
    "\u{240d}\u{240a}",
    "%0d%0a",
    "%0D%0AQUIT",
    "%250d%250a",
    "%00",
    "%C4%8D%C4%8A",
    "%E5%98%8D%E5%98%8A",
    "+0D+0A",
    "+",
    "=0D=0A",
    "=",
    "==",
    "a=",
    "DQo=",
    "\\r\\n",
    "\\",
    "\\\r\n",
    "\"",
    "\"\r\n\"",
    "<",
    ">",
    "<>",
    "@",
    ",",
    ";",
    ":",
    " ",
    "  ",
    "*",
    ".",
    "..",
    "[",
    "]",
    "(\r\n)",
    "\r\n ",
    "\x01",
    "\x01\r\n\x01",
    "a",
    "bob",
    "example.org",
    "2027-01-02T03:04:05Z",
    "h\u{e4}ns",
    "b\u{fc}cher.example",
    "X-A",
    "rfc822",
    "IPv6:::1",
];

/// Lengths around the limits of lines, addresses, parameters and responses.
const LENGTHS: &[usize] = &[
    63, 64, 100, 101, 255, 256, 374, 375, 484, 498, 499, 502, 506, 510, 511, 512, 513, 998, 1_000,
    4_096, 12_288, 20_000,
];

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(number).unwrap() % end
    }
}

/// Each piece alone and at each place of a word, long ones, and random `sequences` of pieces.
pub(crate) fn strings(sequences: usize) -> Vec<String> {
    let mut strings = Vec::new();
    for piece in PIECES {
        strings.push((*piece).to_owned());
        strings.push(format!("a{piece}"));
        strings.push(format!("{piece}a"));
        strings.push(format!("a{piece}b"));
    }
    for &length in LENGTHS {
        for unit in ["a", "+"] {
            let mut string = unit.repeat(length / unit.len());
            string.push_str(&"a".repeat(length - string.len()));
            strings.push(string.clone());
            strings.push(string + "\r\nQUIT");
        }
    }
    let mut random = Random(0x5eed);
    for _ in 0..sequences {
        let count = 2 + random.below(4);
        strings.push(
            (0..count)
                .map(|_| PIECES[random.below(PIECES.len())])
                .collect(),
        );
    }
    strings
}

/// The pieces alone, for expensive places.
pub(crate) fn few() -> impl Iterator<Item = &'static str> {
    PIECES.iter().copied()
}
