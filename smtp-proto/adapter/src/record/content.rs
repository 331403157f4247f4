//! The lines of a body: its shape, or all of it.

use super::text::escape;

/// A line that is longer is cut. So the memory of a record is bounded.
const LONGEST: usize = 2_048;

/// So many equal octets in a row, or equal lines, are written once, with their number.
const RUN: usize = 8;

/// Takes a body piece by piece, and writes its lines.
pub(super) struct Content {
    shows_all: bool,
    /// What precedes the next octet.
    last: u8,
    /// What is not written yet of a line; the line before it, and how often it came in a row.
    line: Vec<u8>,
    whole: Vec<u8>,
    count: usize,
}

impl Content {
    pub(super) fn new(shows_all: bool) -> Self {
        Self {
            shows_all,
            last: b'\n',
            line: Vec::new(),
            whole: Vec::new(),
            count: 0,
        }
    }

    /// Takes the next octets.
    pub(super) fn push(&mut self, octets: &[u8], out: &mut String) {
        for &octet in octets {
            let shown = if self.shows_all {
                octet
            } else {
                self.shape(octet)
            };
            self.last = octet;
            self.line.push(shown);
            if octet == b'\n' || self.line.len() >= LONGEST {
                self.end_line(out);
            }
        }
    }

    /// The octet as far as the engine looks at it: line ends, a dot at the start of a line, NUL, and above 127.
    fn shape(&self, octet: u8) -> u8 {
        match octet {
            b'\r' | b'\n' | 0 => octet,
            b'.' if matches!(self.last, b'\r' | b'\n') => octet,
            0x80.. => 0xe9,
            _ => b'x',
        }
    }

    fn end_line(&mut self, out: &mut String) {
        if self.line == self.whole {
            self.count += 1;
        } else {
            self.write_whole(out);
            std::mem::swap(&mut self.line, &mut self.whole);
            self.count = 1;
        }
        self.line.clear();
    }

    /// Writes all that there is.
    pub(super) fn flush(&mut self, out: &mut String) {
        if !self.line.is_empty() {
            self.end_line(out);
        }
        self.write_whole(out);
        self.whole.clear();
    }

    fn write_whole(&mut self, out: &mut String) {
        let count = std::mem::take(&mut self.count);
        if count >= RUN {
            out.push_str(&format!("| \\{{{count}*"));
            escape(&self.whole, |octet| octet == b'}', out);
            out.push_str("}\\\n");
            return;
        }
        let mut text = String::new();
        let (line, end) = match self.whole.strip_suffix(b"\r\n") {
            Some(line) => (line, ""),
            None => (&self.whole[..], "\\"),
        };
        runs(line, &mut text);
        // An editor would remove a space there.
        if text.ends_with(' ') {
            text.pop();
            text.push_str("\\s");
        }
        (0..count).for_each(|_| out.push_str(&format!("| {text}{end}\n")));
    }
}

/// Octets with their runs.
fn runs(octets: &[u8], out: &mut String) {
    for run in octets.chunk_by(|one, next| one == next) {
        let most = if run.len() >= RUN { 1 } else { run.len() };
        if most == 1 && run.len() > 1 {
            out.push_str(&format!("\\{{{}*", run.len()));
        }
        escape(&run[..most], |octet| octet == b'}', out);
        if most == 1 && run.len() > 1 {
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(octets: &[u8], shows_all: bool) -> String {
        let mut out = String::new();
        let mut content = Content::new(shows_all);
        for octet in octets {
            content.push(&[*octet], &mut out);
        }
        content.flush(&mut out);
        out
    }

    #[test]
    fn the_shape_is_all_that_is_left() {
        let body = b"Subject: secret plans\r\n\r\n.one. dot\nbare \xc3\xa9\r.\0\r\n";
        let shape = "| \\{21*x}\r\n| \r\n| .\\{8*x}\\n\\\n| xxxxx\\xe9\\xe9\\r.\\0\n";
        assert_eq!(lines(body, false), shape.replace("\r\n", "\n"));
    }

    #[test]
    fn all_of_it_is_there_where_that_is_wanted() {
        assert_eq!(
            lines(b"a b \r\n}\\\r\nend", true),
            "| a b\\s\n| \\x7d\\\\\n| end\\\n"
        );
    }

    #[test]
    fn lines_that_come_again_are_counted() {
        let body = b"Subject\r\n".repeat(1_000);
        assert_eq!(lines(&body, false), "| \\{1000*xxxxxxx\\r\\n}\\\n");
        assert_eq!(lines(&[b'a'; 5_000], false).matches("2048*x").count(), 2);
    }
}
