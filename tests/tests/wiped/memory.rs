//! Searches the memory of this process for a secret: in use, or freed and not overwritten.
//!
//! The needle is kept masked, so that the search does not find itself. It needs neither an allocator nor unsafe code:
//! Linux shows a process its own memory as a file.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use smtp_proto::auth::Secret;

/// The length of a piece that is searched for. `free` overwrites the first 16 or 32 octets of a block, and a line may
/// be cut, so there are several pieces.
const PIECE: usize = 12;
/// At most this many pieces are searched for, from all over a long text.
const MOST: usize = 5;
const MASK: u8 = 0x80;

/// Letters that occur nowhere else, the same for each seed.
fn octets(seed: u64, length: usize) -> impl Iterator<Item = u8> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length).map(move |_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let number = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 59;
        LETTERS[usize::try_from(number).unwrap()]
    })
}

/// A password or a token of this length. It is wiped when it is dropped.
pub(crate) fn secret(seed: u64, length: usize) -> Secret {
    let mut secret = Secret::new(Vec::with_capacity(length));
    secret.extend(octets(seed, length));
    secret
}

/// Masked pieces of a text that must not be found.
pub(crate) struct Needle(Vec<[u8; PIECE]>);

impl Needle {
    /// The secret itself.
    pub(crate) fn plain(seed: u64, length: usize) -> Self {
        Self::of(octets(seed, length).map(|octet| octet ^ MASK).collect(), 0)
    }

    /// The secret in base64, with these octets before it.
    pub(crate) fn base64(before: &[u8], seed: u64, length: usize) -> Self {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut masked = Vec::new();
        let (mut bits, mut count) = (0_u32, 0);
        for octet in before.iter().copied().chain(octets(seed, length)) {
            (bits, count) = (bits << 8 | u32::from(octet), count + 8);
            while count >= 6 {
                count -= 6;
                masked.push(ALPHABET[(bits >> count & 63) as usize] ^ MASK);
            }
        }
        Self::of(masked, before.len() * 4 / 3 + 2)
    }

    fn of(masked: Vec<u8>, start: usize) -> Self {
        let pieces: Vec<_> = masked[start..].chunks_exact(PIECE).collect();
        let step = pieces.len().div_ceil(MOST);
        let some = pieces.into_iter().step_by(step);
        Self(some.map(|piece| piece.try_into().unwrap()).collect())
    }
}

/// Reads all writable memory.
pub(crate) struct Search {
    buffer: Vec<u8>,
}

impl Search {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; 1 << 16],
        }
    }

    /// How many of its pieces are in memory.
    pub(crate) fn count(&mut self, needle: &Needle) -> usize {
        let memory = File::open("/proc/self/mem").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut count = 0;
        for region in maps.lines().filter_map(region) {
            count += self.count_in(&memory, region, needle);
        }
        // Wipes the copy, or the next search would find it.
        self.buffer.fill(0);
        count
    }

    fn count_in(&mut self, memory: &File, region: Range<usize>, needle: &Needle) -> usize {
        let own = self.buffer.as_ptr().addr();
        let own = own..own + self.buffer.len();
        let (mut at, mut count) = (region.start, 0);
        while at < region.end {
            let most = (region.end - at).min(self.buffer.len());
            // The region may be gone, or belongs to the kernel.
            let Ok(read) = memory.read_at(&mut self.buffer[..most], at as u64) else {
                return count;
            };
            for piece in &needle.0 {
                let is_here = |place: &usize| {
                    let octets = self.buffer[*place..read].iter().zip(piece);
                    read - place >= PIECE
                        && octets
                            .clone()
                            .all(|(octet, masked)| octet ^ MASK == *masked)
                        && !own.contains(&(at + place))
                };
                let places = memchr::memchr_iter(piece[0] ^ MASK, &self.buffer[..read]);
                count += places.filter(is_here).count();
            }
            if read < PIECE || at + read >= region.end {
                return count;
            }
            at += read - PIECE + 1;
        }
        count
    }
}

/// The addresses of a writable region in a line of `/proc/self/maps`.
fn region(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_ours = words.next()?.starts_with("rw");
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    is_ours.then_some(range)
}
