//! The client's octets in the server's view: lines, chunks, and the data after DATA.

/// One thing that the server acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A command line without its CRLF. BDAT is not one of them.
    Line(Vec<u8>),
    /// The line of BDAT was read, and this many octets follow.
    ChunkBegins { octets: u64, last: bool },
    /// The whole chunk was read.
    ChunkEnds { last: bool },
    /// The line with only a dot.
    DataEnds,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Command,
    Data,
    Chunk { left: u64, last: bool },
}

/// Reads octet by octet, and keeps the body.
#[derive(Clone, Debug)]
pub(crate) struct Lexer {
    mode: Mode,
    line: Vec<u8>,
    /// The body of the transaction so far, without the dots of RFC 5321 section 4.5.2.
    pub(crate) body: Vec<u8>,
}

impl Lexer {
    pub(crate) fn new() -> Self {
        Self {
            mode: Mode::Command,
            line: Vec::new(),
            body: Vec::new(),
        }
    }

    /// The server has sent 354.
    pub(crate) fn begin_data(&mut self) {
        self.mode = Mode::Data;
        self.body.clear();
    }

    /// Whether the next octet begins a command.
    pub(crate) fn is_between(&self) -> bool {
        self.mode == Mode::Command && self.line.is_empty()
    }

    pub(crate) fn is_in_data(&self) -> bool {
        self.mode == Mode::Data
    }

    pub(crate) fn is_in_chunk(&self) -> bool {
        matches!(self.mode, Mode::Chunk { .. })
    }

    /// Whether the end of a body was read in part.
    pub(crate) fn has_begun_end(&self) -> bool {
        match self.mode {
            Mode::Command => self.line.starts_with(b"BDAT ") && self.line.ends_with(b"LAST\r"),
            Mode::Data => self.line.first() == Some(&b'.') && self.line.len() < 3,
            Mode::Chunk { last, .. } => last,
        }
    }

    /// Whether MAIL was read in part.
    pub(crate) fn has_begun_mail(&self) -> bool {
        self.mode == Mode::Command && self.line.first() == Some(&b'M')
    }

    /// An empty chunk ends where it begins.
    pub(crate) fn empty_chunk(&mut self) -> Option<Token> {
        match self.mode {
            Mode::Chunk { left: 0, last } => {
                self.mode = Mode::Command;
                Some(Token::ChunkEnds { last })
            }
            _ => None,
        }
    }

    pub(crate) fn feed(&mut self, octet: u8) -> Option<Token> {
        if let Mode::Chunk { left, last } = &mut self.mode {
            self.body.push(octet);
            *left -= 1;
            let last = *last;
            if *left > 0 {
                return None;
            }
            self.mode = Mode::Command;
            return Some(Token::ChunkEnds { last });
        }
        self.line.push(octet);
        if !self.line.ends_with(b"\r\n") {
            return None;
        }
        let mut line = std::mem::take(&mut self.line);
        if self.mode == Mode::Data {
            if line == b".\r\n" {
                self.mode = Mode::Command;
                return Some(Token::DataEnds);
            }
            let dots = usize::from(line.first() == Some(&b'.'));
            self.body.extend_from_slice(&line[dots..]);
            return None;
        }
        line.truncate(line.len() - 2);
        if let Some((octets, last)) = parse_bdat(&line) {
            self.mode = Mode::Chunk { left: octets, last };
            return Some(Token::ChunkBegins { octets, last });
        }
        Some(Token::Line(line))
    }
}

fn parse_bdat(line: &[u8]) -> Option<(u64, bool)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("BDAT ")?.split(' ');
    let octets = words.next()?.parse().ok()?;
    Some((octets, words.next() == Some("LAST")))
}

/// The message that an address `m3@...` or `m3r1@...` names, and the recipient.
pub(crate) fn tag(line: &[u8]) -> Option<(usize, usize)> {
    let start = line.windows(2).position(|w| w == b"<m")? + 2;
    let end = start + line[start..].iter().position(|&b| b == b'@')?;
    let word = std::str::from_utf8(&line[start..end]).ok()?;
    match word.split_once('r') {
        Some((message, recipient)) => Some((message.parse().ok()?, recipient.parse().ok()?)),
        None => Some((word.parse().ok()?, usize::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lexer: &mut Lexer, octets: &[u8]) -> Vec<Token> {
        let mut tokens = Vec::new();
        for &octet in octets {
            tokens.extend(lexer.feed(octet));
            tokens.extend(lexer.empty_chunk());
        }
        tokens
    }

    #[test]
    fn chunks_and_dots() {
        let mut lexer = Lexer::new();
        let tokens = read(&mut lexer, b"BDAT 3\r\nab\rBDAT 0 LAST\r\nNOOP\r\n");
        assert_eq!(
            tokens,
            [
                Token::ChunkBegins {
                    octets: 3,
                    last: false
                },
                Token::ChunkEnds { last: false },
                Token::ChunkBegins {
                    octets: 0,
                    last: true
                },
                Token::ChunkEnds { last: true },
                Token::Line(b"NOOP".to_vec()),
            ]
        );
        assert_eq!(lexer.body, b"ab\r");
        lexer.begin_data();
        assert_eq!(read(&mut lexer, b"..x\r\ny\r\n"), []);
        assert!(!lexer.has_begun_end());
        assert_eq!(read(&mut lexer, b"."), []);
        assert!(lexer.has_begun_end());
        assert_eq!(read(&mut lexer, b"\r\n"), [Token::DataEnds]);
        assert_eq!(lexer.body, b".x\r\ny\r\n");
    }

    #[test]
    fn tags() {
        assert_eq!(tag(b"RCPT TO:<m12r3@example.net>"), Some((12, 3)));
        assert_eq!(
            tag(b"MAIL FROM:<m2@example.org> PRDR"),
            Some((2, usize::MAX))
        );
    }
}
