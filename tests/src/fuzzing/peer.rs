//! The server's end of a session: the attribution of replies.

use std::collections::VecDeque;

use smtp_proto::reply::{ReplyClass, ReplyLimits};
use smtp_proto::*;

use super::body::{assert_no_bare_line_ends, unstuff};
use super::reply::decode;
use super::settings::reveals_secret;

/// The server's end. It reads commands as soon as they are offered, and chunks when they go out. It pairs each reply
/// with the oldest command without one, and knows what must never be sent.
pub(super) struct Peer {
    /// The commands without a reply, with their octets.
    owed: VecDeque<(Owed, usize)>,
    is_lmtp: bool,
    encrypted: bool,
    /// A handshake is due, and nothing else may be sent.
    handshaking: bool,
    greeted: bool,
    /// It has sent a reply that answers nothing, or ends the session. After it, only QUIT may come.
    poisoned: bool,
    heard_quit: bool,
    /// The part of a reply that is not complete.
    said: Vec<u8>,
    /// All commands so far, for credentials in them.
    commands: Vec<u8>,
    /// The server itself has sent the secret, so a text that shows it may quote the server.
    pub(super) knows_secret: bool,
    /// The caller permitted the secret in the clear.
    may_read_secret: bool,
    /// The message whose body was wanted last, and for each message, whether it is all or nothing.
    pub(super) message: usize,
    pub(super) all_or_nothing: Vec<bool>,
    transactions: Vec<PeerTransaction>,
    /// DATA or BDAT was refused, and the transaction may still exist.
    data_refused: bool,
    /// The last command was DATA: octets of its body on the wire, and whether its end comes next.
    pub(super) behind_data: bool,
    pub(super) body: Vec<u8>,
    pub(super) ending: bool,
    /// A chunk: its header until that is complete, then its missing octets, and whether it is the last.
    header: Vec<u8>,
    chunk: Option<(u64, bool)>,
    /// The body has ended, and the rest of the chunk is the engine's own.
    pub(super) chunk_ends: bool,
    pub(super) heard_chunk: bool,
}

/// The state after one MAIL.
struct PeerTransaction {
    message: usize,
    /// MAIL came with the end of the data before it.
    overlaps: bool,
    /// MAIL, or a chunk, was refused.
    refused: bool,
    /// The recipients, in order, and the reply to their RCPT.
    rcpts: Vec<(usize, Option<Reply>)>,
    /// PRDR was asked for, and 353 was sent.
    prdr: bool,
    prdr_begun: bool,
    binary: bool,
    chunks: Vec<u8>,
    is_chunked: bool,
    end: End,
    /// The replies to the end of the data.
    replies: Vec<Reply>,
}

/// The progress of the end of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    No,
    Offered,
    Sent,
}

impl PeerTransaction {
    fn accepted(&self) -> impl Iterator<Item = usize> {
        let accepted = |reply: &Option<Reply>| {
            reply
                .as_ref()
                .is_some_and(|reply| reply.class() == ReplyClass::Success)
        };
        self.rcpts
            .iter()
            .filter(move |(_, reply)| accepted(reply))
            .map(|(of, _)| *of)
    }
}

#[derive(Debug, PartialEq)]
enum Owed {
    Greeting,
    Command(String),
    /// The rest of these belong to a transaction.
    Mail(usize),
    Rcpt(usize, usize),
    Chunk(usize),
    EndOfData(usize),
}

impl Peer {
    pub(super) fn new(config: &Config, may_read_secret: bool) -> Self {
        let implicit = config.tls == TlsPolicy::Implicit;
        Self {
            owed: (!implicit)
                .then_some((Owed::Greeting, 0))
                .into_iter()
                .collect(),
            is_lmtp: config.protocol == Protocol::Lmtp,
            encrypted: false,
            handshaking: implicit,
            greeted: false,
            poisoned: false,
            heard_quit: false,
            said: vec![],
            commands: vec![],
            knows_secret: false,
            may_read_secret,
            message: 0,
            all_or_nothing: vec![],
            transactions: vec![],
            data_refused: false,
            behind_data: false,
            body: vec![],
            ending: false,
            header: vec![],
            chunk: None,
            chunk_ends: false,
            heard_chunk: false,
        }
    }

    pub(super) fn tls_established(&mut self, config: &Config) {
        assert!(
            self.handshaking && !self.poisoned,
            "a handshake that nobody asked for"
        );
        self.handshaking = false;
        self.encrypted = true;
        if config.tls == TlsPolicy::Implicit {
            self.owed.push_back((Owed::Greeting, 0));
        }
    }

    /// How many recipients of this message were accepted.
    pub(super) fn accepted(&self, message: usize) -> usize {
        let transactions = self
            .transactions
            .iter()
            .filter(|transaction| transaction.message == message);
        transactions
            .map(|transaction| transaction.accepted().count())
            .sum()
    }

    pub(super) fn is_in_chunk(&self) -> bool {
        self.chunk.is_some() || !self.header.is_empty()
    }

    /// The server sends these octets.
    pub(super) fn say(&mut self, bytes: &[u8], limits: ReplyLimits) {
        self.said.extend_from_slice(bytes);
        self.knows_secret |= reveals_secret(&self.said);
        self.poisoned |= self.handshaking && !bytes.is_empty();
        let said = std::mem::take(&mut self.said);
        let (replies, tail, error) = decode(&said, limits);
        for reply in replies {
            self.answer(reply);
        }
        self.poisoned |= error.is_some() || (self.handshaking && !tail.is_empty());
        self.said = tail.to_vec();
    }

    fn answer(&mut self, reply: Reply) {
        let expected = self.owed.pop_front();
        if self.poisoned || self.handshaking || reply.code().get() == 421 {
            self.poisoned = true;
            return;
        }
        let success = reply.class() == ReplyClass::Success;
        let intermediate = reply.class() == ReplyClass::Intermediate;
        match expected {
            Some((Owed::Greeting, _)) => self.greeted = true,
            Some((Owed::EndOfData(t), _)) if intermediate => self.begin_prdr(t),
            Some((Owed::EndOfData(t), _)) => {
                let transaction = &mut self.transactions[t];
                let for_all = !self.is_lmtp && !transaction.prdr_begun;
                self.data_refused |= transaction.is_chunked && !success && for_all;
                transaction.replies.push(reply);
            }
            Some((Owed::Command(line), _)) => {
                self.handshaking = line == "STARTTLS" && success;
                // A server that cannot even reset gets no other command.
                self.poisoned |= line == "RSET" && !success;
                match success {
                    true => self.data_refused &= line != "RSET",
                    false => self.data_refused |= line == "DATA" && !intermediate,
                }
            }
            Some((Owed::Mail(t), _)) => {
                self.transactions[t].refused |= !success;
                self.poisoned |= self.transactions[t].overlaps && reply.code().get() == 503;
            }
            Some((Owed::Rcpt(t, place), _)) if !intermediate => {
                self.transactions[t].rcpts[place].1 = Some(reply);
            }
            Some((Owed::Chunk(t), _)) if !intermediate => {
                self.transactions[t].refused |= !success;
                self.data_refused |= !success;
            }
            _ => self.poisoned = true,
        }
    }

    /// 353: a reply for each recipient, and one for all.
    fn begin_prdr(&mut self, t: usize) {
        let transaction = &mut self.transactions[t];
        let accepted = transaction.accepted().count();
        let fine =
            transaction.prdr && !transaction.prdr_begun && !transaction.refused && accepted > 0;
        transaction.prdr_begun |= fine;
        self.poisoned |= !fine;
        for _ in 0..=accepted {
            self.owed.push_front((Owed::EndOfData(t), 0));
        }
    }

    /// The server reads the engine's own octets: the end of a body, if one is due, and whole commands.
    pub(super) fn hear(&mut self, octets: &[u8], pipelines: bool, config: &Config) {
        assert!(
            self.greeted && !self.handshaking && !self.heard_quit,
            "{}",
            octets.escape_ascii()
        );
        let octets = if self.ending {
            self.hear_end_of_data(octets, config)
        } else {
            octets
        };
        self.hear_lines(octets, pipelines, config, true);
        assert!(!self.is_in_chunk(), "half a chunk");
        self.commands.extend_from_slice(octets);
        let may_know = self.encrypted || self.may_read_secret;
        assert!(
            may_know || !reveals_secret(&self.commands),
            "credentials in the clear"
        );
    }

    /// Commands, and chunks among them. `offered`: they have not gone out yet.
    pub(super) fn hear_lines(
        &mut self,
        octets: &[u8],
        pipelines: bool,
        config: &Config,
        offered: bool,
    ) {
        let mut rest = octets;
        while !rest.is_empty() {
            if let Some((left, last)) = self.chunk {
                let n = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let transaction = self.transactions.last_mut().unwrap();
                transaction.chunks.extend_from_slice(&rest[..n]);
                self.chunk = Some((left - n as u64, last));
                rest = &rest[n..];
                self.end_chunk(config, offered);
                continue;
            }
            let (line, behind) = match rest.iter().position(|&octet| octet == b'\n') {
                Some(at) => rest.split_at(at + 1),
                None => (rest, &b""[..]),
            };
            rest = behind;
            if self.header.is_empty()
                && b"BDAT ".starts_with(&line[..line.len().min(5)])
                && !self.behind_data
            {
                self.begin_chunk(pipelines, config, offered);
            } else if self.header.is_empty() {
                let line = str::from_utf8(line)
                    .unwrap()
                    .strip_suffix("\r\n")
                    .expect("half a line");
                assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
                self.hear_command(line, pipelines, config);
                continue;
            }
            self.header.extend_from_slice(line);
            if self.header.ends_with(b"\r\n") {
                let header = String::from_utf8(std::mem::take(&mut self.header)).unwrap();
                let words: Vec<_> = header.split_whitespace().collect();
                let size: u64 = words[1].parse().unwrap();
                assert!(
                    words[0] == "BDAT" && (size > 0 || words.len() == 3),
                    "{header:?}"
                );
                assert!(words.len() == 2 || words[2..] == ["LAST"], "{header:?}");
                self.chunk = Some((size, words.len() == 3));
                self.end_chunk(config, offered);
            }
        }
    }

    fn begin_chunk(&mut self, pipelines: bool, config: &Config, offered: bool) {
        self.heard_chunk = true;
        assert!(
            !self.poisoned && !self.heard_quit,
            "a chunk after what nothing expected"
        );
        let is_chunk = |owed: &(Owed, usize)| {
            let smtp = config.protocol == Protocol::Smtp;
            matches!(owed.0, Owed::Chunk(_)) || (smtp && matches!(owed.0, Owed::EndOfData(_)))
        };
        let in_flight = self.owed.iter().filter(|owed| is_chunk(owed)).count();
        assert!(
            in_flight < config.limits.chunks,
            "{in_flight} chunks in flight"
        );
        assert!(
            pipelines || self.owed.is_empty(),
            "a chunk in a batch: {:?}",
            self.owed
        );
        let t = self.transactions.len() - 1;
        let transaction = &mut self.transactions[t];
        // The engine's own octets end a body, and the next body may be wanted already.
        let fitting = offered || transaction.message == self.message;
        assert!(fitting, "a chunk in the transaction of another message");
        let all_or_nothing = self.all_or_nothing[transaction.message];
        assert_eq!(transaction.end, End::No, "a chunk behind the last");
        transaction.is_chunked = true;
        let answered = transaction.rcpts.iter().all(|(_, reply)| reply.is_some());
        let accepted = transaction.accepted().count();
        let eager = config.chunking == Chunking::Eager
            && config.protocol == Protocol::Smtp
            && pipelines
            && !all_or_nothing;
        assert!(accepted > 0 || eager, "a chunk for nobody");
        let waits = config.protocol == Protocol::Lmtp || all_or_nothing || !pipelines;
        assert!(answered || !waits, "a chunk before all are answered");
        let last = self.owed.back().map(|(owed, _)| owed);
        let fine = matches!(
            last,
            None | Some(Owed::Mail(_) | Owed::Rcpt(..) | Owed::Chunk(_))
        );
        assert!(fine, "a chunk behind {last:?}");
    }

    fn end_chunk(&mut self, config: &Config, offered: bool) {
        let Some((0, last)) = self.chunk else { return };
        (self.chunk, self.chunk_ends) = (None, false);
        let t = self.transactions.len() - 1;
        if !last {
            return self.owed.push_back((Owed::Chunk(t), 0));
        }
        self.expect_end_of_data(config);
        self.transactions[t].end = if offered { End::Offered } else { End::Sent };
    }

    fn expect_end_of_data(&mut self, config: &Config) {
        let t = self.transactions.len() - 1;
        let replies = match config.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => self.transactions[t].accepted().count(),
        };
        self.owed
            .extend((0..replies).map(|_| (Owed::EndOfData(t), 0)));
        self.transactions[t].end = End::Offered;
    }

    fn hear_command(&mut self, line: &str, pipelines: bool, config: &Config) {
        assert!(!self.heard_quit, "{line} behind QUIT");
        let last = self.owed.back().map(|(owed, _)| owed);
        if line == "QUIT" {
            // It may share a batch with the end of the last body. It may give up an overlapping command. Or it gives
            // up an LMTP server whose number of answers is unknown.
            let refused = self
                .transactions
                .last()
                .is_some_and(|transaction| transaction.refused);
            assert!(last.is_none() || pipelines || (refused && config.protocol == Protocol::Lmtp));
            self.heard_quit = true;
            return;
        }
        assert!(!self.poisoned, "{line} after what nothing expected");
        let overlaps = pipelines && config.overlap;
        let may_follow = match last {
            None => true,
            Some(Owed::EndOfData(t)) if self.transactions[*t].is_chunked => {
                overlaps && line == "RSET"
            }
            Some(Owed::EndOfData(_)) => overlaps && line.starts_with("MAIL FROM:<"),
            // The end of data before it may have been answered before these commands were on offer.
            Some(Owed::Command(rset)) if rset == "RSET" => {
                let chunked = self
                    .transactions
                    .last()
                    .is_some_and(|transaction| transaction.is_chunked);
                overlaps && chunked && line.starts_with("MAIL FROM:<")
            }
            // RFC 2920 section 3.1: other commands end a batch.
            Some(Owed::Mail(_) | Owed::Rcpt(..)) => pipelines,
            Some(_) => false,
        };
        assert!(may_follow, "{line} in a batch that has ended");
        if config.tls == TlsPolicy::Required && !self.encrypted {
            assert!(
                !line.starts_with("MAIL") && !line.starts_with("AUTH"),
                "{line} in the clear"
            );
        }
        if config.tls == TlsPolicy::Opportunistic && line.starts_with("AUTH") {
            // An attacker may have removed STARTTLS from the reply to get this.
            assert!(
                self.encrypted || self.may_read_secret,
                "{line} in the clear"
            );
        }
        self.behind_data = line == "DATA";
        let owed = if let Some(sender) = line.strip_prefix("MAIL FROM:<m") {
            let reset = self
                .owed
                .iter()
                .any(|(owed, _)| *owed == Owed::Command("RSET".into()));
            assert!(!self.data_refused || reset, "{line} without RSET");
            self.transactions.push(PeerTransaction {
                message: sender.split_once('.').unwrap().0.parse().unwrap(),
                overlaps: last.is_some(),
                refused: false,
                rcpts: vec![],
                prdr: line.contains(" PRDR") && config.protocol == Protocol::Smtp,
                prdr_begun: false,
                binary: line.contains(" BODY=BINARYMIME"),
                chunks: vec![],
                is_chunked: false,
                end: End::No,
                replies: vec![],
            });
            Owed::Mail(self.transactions.len() - 1)
        } else if let Some(path) = line.strip_prefix("RCPT TO:<m") {
            let (message, recipient) = path.split_once('@').unwrap().0.split_once('.').unwrap();
            let t = self.transactions.len() - 1;
            let transaction = &mut self.transactions[t];
            assert_eq!(
                message.parse(),
                Ok(transaction.message),
                "{line} for another sender"
            );
            transaction.rcpts.push((recipient.parse().unwrap(), None));
            Owed::Rcpt(t, transaction.rcpts.len() - 1)
        } else {
            Owed::Command(line.into())
        };
        self.owed.push_back((owed, line.len() + 2));
        let in_flight: usize = self.owed.iter().map(|(_, octets)| octets).sum();
        assert!(
            self.owed.len() == 1 || in_flight <= config.limits.in_flight,
            "{in_flight} octets in flight"
        );
    }

    /// Returns the octets after the end.
    fn hear_end_of_data<'a>(&mut self, octets: &'a [u8], config: &Config) -> &'a [u8] {
        let wire = [&std::mem::take(&mut self.body)[..], octets].concat();
        let behind = unstuff(&wire).map_or(usize::MAX, |(_, behind)| behind.len());
        assert!(
            behind < octets.len(),
            "the data does not end where it should: {}",
            wire.escape_ascii()
        );
        let transaction = self.transactions.last().unwrap();
        assert_eq!(
            transaction.message, self.message,
            "the body of another message"
        );
        self.expect_end_of_data(config);
        (self.ending, self.behind_data) = (false, false);
        &octets[octets.len() - behind..]
    }

    /// The transport has taken all of the engine's octets.
    pub(super) fn all_arrived(&mut self) {
        for transaction in &mut self.transactions {
            if transaction.end == End::Offered {
                transaction.end = End::Sent;
            }
        }
    }

    /// Text in chunks has complete line ends, and one at its end.
    pub(super) fn assert_chunks(&self) {
        for transaction in self
            .transactions
            .iter()
            .filter(|t| t.is_chunked && !t.binary)
        {
            assert_no_bare_line_ends(&transaction.chunks);
            let whole = transaction.chunks.is_empty() || transaction.chunks.ends_with(b"\r\n");
            assert!(
                whole || transaction.end == End::No,
                "{}",
                transaction.chunks.escape_ascii()
            );
        }
    }
}
