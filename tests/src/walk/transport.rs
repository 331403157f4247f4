//! The transport: octets that are taken, given and written.

use smtp_proto::BodyPart;

use super::letter::Letter;
use super::scene::Writing;
use super::world::{MOST_OFFERS, World};
use super::{Failure, fail};

pub(super) const WRITES: [Letter; 3] = [Letter::WriteLine, Letter::WritePart, Letter::WriteAll];

/// How many octets this letter writes: at least one, if there is one.
fn part_of(octets: &[u8], letter: Letter) -> usize {
    let line = octets.iter().position(|octet| *octet == b'\n');
    let line = line.map_or(octets.len(), |end| end + 1);
    match letter {
        Letter::WriteLine => line,
        Letter::WritePart if line > 1 => line - 1,
        Letter::WritePart => line,
        _ => octets.len(),
    }
}

impl<'s> World<'s> {
    fn body(&self, octets: usize) -> &'s [u8] {
        let used = self.feed.as_ref().map_or(0, |feed| feed.used);
        &self.scene.body[used..used + octets]
    }

    /// Offers a part of the body. The transport may not take all of it.
    pub(super) fn offer(&mut self, octets: usize, last: bool) -> Result<(), Failure> {
        let mut octets = self.body(octets);
        for _ in 0..MOST_OFFERS {
            let part = match last {
                true => BodyPart::Last(octets),
                false => BodyPart::Next(octets),
            };
            let is_engine = self.scene.writing == Writing::Slow && self.on_offer().is_some();
            if is_engine || !self.engine.wants_body() {
                return Ok(());
            }
            let Some(used) = self.take(part, usize::MAX)? else {
                return Ok(());
            };
            octets = &octets[used..];
            if self.engine.wants_body() && octets.is_empty() && !last {
                return Ok(());
            }
        }
        fail("endless", "the same octets are offered again and again")
    }

    pub(super) fn on_offer(&mut self) -> Option<Vec<u8>> {
        let transmit = self.engine.poll_transmit(self.now, BodyPart::Next(&[]))?;
        Some(transmit.parts().concat())
    }

    /// Takes octets on offer, with this part of the body. Returns how much of it was used.
    fn take(&mut self, part: BodyPart<'_>, most: usize) -> Result<Option<usize>, Failure> {
        let before = self.feed.as_ref().map_or(0, |feed| feed.used);
        let (octets, used) = if self.scene.writing == Writing::Gathers {
            let mut out = [0; 1024];
            let (n, used) = self.engine.poll_transmit_into(self.now, part, &mut out);
            if n == 0 && used == 0 {
                return Ok(None);
            }
            (out[..n].to_vec(), used)
        } else {
            let first = match self.engine.poll_transmit(self.now, part) {
                Some(transmit) => transmit.parts().concat(),
                None => return Ok(None),
            };
            let Some(transmit) = self.engine.poll_transmit(self.now, part) else {
                return fail("an offer that is gone", first.escape_ascii().to_string());
            };
            let octets = transmit.parts().concat();
            if octets != first {
                return fail("an offer that changes", octets.escape_ascii().to_string());
            }
            let n = octets.len().min(most);
            (octets[..n].to_vec(), transmit.advance(n))
        };
        if let Some(feed) = &mut self.feed {
            feed.used = before + used;
            feed.complete |= part.is_last() && used == part.bytes().len();
        }
        match self.scene.writing {
            Writing::Gathers => self.gathered.extend_from_slice(&octets),
            _ => {
                self.read(&octets)?;
                self.written(octets.len());
            }
        }
        Ok(Some(used))
    }

    /// The server reads the given octets.
    pub(super) fn read(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.note(|| format!("C: {}", octets.escape_ascii()));
        if self.closed.is_some() {
            return fail("octets after the end", octets.escape_ascii().to_string());
        }
        let feed = self.feed.as_ref();
        self.wire.read(octets, self.scene, &mut self.books, feed)
    }

    pub(super) fn written(&mut self, n: usize) {
        self.books.written += n;
        let (written, now) = (self.books.written, self.now);
        for owed in self
            .books
            .owed
            .iter_mut()
            .filter(|owed| owed.end <= written)
        {
            owed.written.get_or_insert(now);
        }
    }

    /// A letter of a transport that is slow, or gathers.
    pub(super) fn write(&mut self, letter: Letter) -> Result<(), Failure> {
        if self.scene.writing == Writing::Slow {
            for _ in 0..MOST_OFFERS {
                let offer = self.on_offer().unwrap_or_default();
                let part = BodyPart::Next(&[]);
                let is_over = self.take(part, part_of(&offer, letter))?.is_none();
                if is_over || letter != Letter::WriteAll {
                    return Ok(());
                }
            }
            return fail("endless", "the same octets are offered again and again");
        }
        let n = part_of(&self.gathered, letter);
        let given = self.books.given - self.books.written;
        let octets: Vec<u8> = self.gathered.drain(..n).collect();
        self.read(&octets[given.min(n)..])?;
        self.engine.handle_written(self.now, n);
        self.written(n);
        Ok(())
    }

    /// Runs until nothing more happens by itself.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        for _ in 0..MOST_OFFERS {
            let any = self.take_events()?;
            let flushes = self.scene.writing != Writing::Slow && self.closed.is_none();
            let flushed = flushes && self.take(BodyPart::Next(&[]), usize::MAX)?.is_some();
            if !flushed && !any {
                return Ok(());
            }
        }
        fail("endless", "events and offers have no end")
    }
}
