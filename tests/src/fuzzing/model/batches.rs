//! When commands may be given: RFC 2920 section 3.1, and lockstep where PIPELINING is not offered.

use super::books::{Books, Kind};
use super::lexer::{Lexer, Token};

/// The client's octets as they are given, read a second time.
#[derive(Debug)]
pub(crate) struct Batches {
    lexer: Lexer,
    /// What was given whole and demands a reply, in the order of [`Books::demands`].
    ended: Vec<Kind>,
    pub(crate) fault: Option<String>,
}

/// What the engine has been handed.
#[derive(Clone, Copy)]
pub(crate) struct Heard<'b> {
    pub(crate) books: &'b Books,
    pub(crate) octets: usize,
}

impl Heard<'_> {
    /// The code of the first reply to this demand, if all the replies to it were heard.
    fn answer(&self, demand: usize) -> Option<u16> {
        let whole = || {
            let said = self.books.said.iter();
            said.filter(|said| said.end <= self.octets)
        };
        let mut replies = whole().filter(|said| said.answers == Some(demand));
        let first = replies.next()?;
        let due = self.books.demands.get(demand).map_or(1, |d| d.replies);
        let refused = first.code >= 400;
        let later = whole().any(|said| said.answers > Some(demand));
        (refused || later || replies.count() + 1 >= due || due == usize::MAX).then_some(first.code)
    }
}

impl Batches {
    pub(crate) fn new() -> Self {
        Self {
            lexer: Lexer::new(),
            ended: Vec::new(),
            fault: None,
        }
    }

    /// These octets are given now.
    pub(crate) fn give(
        &mut self,
        octets: &[u8],
        heard: Heard<'_>,
        pipelines: bool,
        overlaps: bool,
    ) {
        for &octet in octets {
            if self.lexer.is_between() {
                self.begin(octet, heard, pipelines, overlaps);
            }
            let token = self.lexer.feed(octet);
            for token in [token, self.lexer.empty_chunk()].into_iter().flatten() {
                match token {
                    Token::ChunkBegins { .. } => {}
                    Token::ChunkEnds { last: false } => self.ended.push(Kind::Chunk),
                    Token::ChunkEnds { last: true } | Token::DataEnds => self.ended.push(Kind::End),
                    Token::Line(line) => self.ended.push(Kind::of(&line)),
                }
            }
        }
    }

    /// A command begins with this octet.
    fn begin(&mut self, octet: u8, heard: Heard<'_>, pipelines: bool, overlaps: bool) {
        let Some((last, before)) = self.ended.split_last() else {
            // Nothing is said before the greeting.
            if heard.octets == 0 {
                self.fault
                    .get_or_insert("a command before the greeting".into());
            }
            return;
        };
        let answer = heard.answer(before.len());
        if *last == Kind::Data && answer == Some(354) {
            return self.lexer.begin_data();
        }
        // QUIT may give up what nobody waits for any more.
        if answer.is_some() || octet == b'Q' {
            return;
        }
        let ends = match last {
            Kind::Hello | Kind::StartTls | Kind::Data | Kind::Request | Kind::Quit => true,
            Kind::End => !overlaps,
            Kind::Rset | Kind::Mail | Kind::Rcpt | Kind::Chunk => false,
        };
        if ends || !pipelines {
            let octet = char::from(octet);
            self.fault
                .get_or_insert(format!("{octet}... before the reply to {last:?}"));
        }
    }
}
