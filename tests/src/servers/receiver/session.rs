//! One connection: octets in, lines out, and the commands outside of messages.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::{mem, ops::Range, time::Duration};

use rustls::ServerConnection;

use super::Shared;
use super::books::HeardCommand;
use super::options::Options;
use super::rules::{Cut, Plan, Step};
use super::syntax::is_domain;
use super::transaction::Transaction;
use super::wire::Wire;

/// Longest command line, CRLF included: the 512 octets of RFC 5321 §4.5.3.1.4
/// and ample room for the parameters that extensions add.
const LINE_LIMIT: usize = 2048;
/// The size of a connection's input buffer, more than `LINE_LIMIT`.
const INPUT_SIZE: usize = 16 * 1024;

/// Why a command did not end with its normal reply.
pub(super) enum Fault {
    /// It is refused with this reply.
    Refused(String),
    /// The session is over.
    Over,
    /// The same, without the closing alert of TLS.
    Cut,
}

impl From<&str> for Fault {
    fn from(reply: &str) -> Self {
        Self::Refused(reply.to_owned())
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Over
    }
}

pub(super) fn refuse_if(condition: bool, reply: &str) -> Result<(), Fault> {
    if condition { Err(reply.into()) } else { Ok(()) }
}

/// The client's commands so far.
#[derive(Default)]
pub(super) struct Dialogue {
    pub(super) client_name: Option<String>,
    /// Whether EHLO or LHLO was used, so that extensions may be.
    pub(super) extended: bool,
    pub(super) authenticated: bool,
    /// MAIL commands so far.
    pub(super) mails: usize,
    /// The open mail transaction.
    pub(super) transaction: Option<Transaction>,
}

/// One connection.
pub(super) struct Session<'a> {
    pub(super) shared: &'a Shared,
    pub(super) options: &'a Options,
    /// From 1, in the order of the connections.
    pub(super) number: usize,
    pub(super) wire: Box<dyn Wire>,
    pub(super) tls: Option<ServerConnection>,
    pub(super) input: Vec<u8>,
    /// The part of `input` that was received and not yet used.
    pub(super) held: Range<usize>,
    pub(super) output: Vec<u8>,
    pub(super) dialogue: Dialogue,
    /// Messages that were accepted.
    pub(super) taken: usize,
}

impl<'a> Session<'a> {
    pub(super) fn new(number: usize, wire: Box<dyn Wire>, shared: &'a Shared) -> Self {
        Self {
            shared,
            options: &shared.options,
            number,
            wire,
            tls: None,
            input: vec![0; INPUT_SIZE],
            held: 0..0,
            output: Vec::new(),
            dialogue: Dialogue::default(),
            taken: 0,
        }
    }

    pub(super) fn run(&mut self) {
        let fault = self.converse();
        self.shared.note(|state| {
            state.counts.ended += 1;
            if let Some(connection) = state.connections.get_mut(&self.number) {
                connection.is_ended = true;
            }
        });
        self.close(matches!(fault, Fault::Cut));
    }

    /// Runs until the session is over, and returns how it ended.
    fn converse(&mut self) -> Fault {
        if let Err(fault) = self.open() {
            return fault;
        }
        loop {
            match self.command() {
                Ok(()) => {}
                Err(Fault::Refused(reply)) => self.reply(&reply),
                Err(fault) => return fault,
            }
        }
    }

    fn open(&mut self) -> Result<(), Fault> {
        self.wire.set_timeout(self.options.idle_timeout)?;
        if self.options.implicit_tls {
            self.shake_hands()?;
        }
        let greeting = format!("220 {} ESMTP ready", self.options.hostname);
        let plan = self.shared.plan(Step::Greeting, b"");
        let greeted = self.at(plan, 1, |session| {
            session.reply(&greeting);
            Ok(())
        })?;
        greeted.ok_or(Fault::Over)
    }

    /// Executes a command with this many replies, unless the test has a rule. `None` if it is refused.
    pub(super) fn at<T>(
        &mut self,
        plan: Plan,
        replies: usize,
        action: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        if plan.silence {
            self.be_silent()?;
        }
        if plan.cut == Some(Cut::Before) {
            return Err(Fault::Cut);
        }
        let start = self.output.len();
        let is_refusal = |reply: &&String| reply.starts_with(['4', '5']);
        let result = match plan.reply.as_ref().filter(is_refusal) {
            Some(reply) => Err(Fault::Refused(reply.clone())),
            None => action(self),
        };
        let mut over = false;
        let done = match result {
            Ok(done) => Some(done),
            Err(Fault::Refused(reply)) => {
                (0..replies).for_each(|_| self.reply(&reply));
                over = reply.starts_with("421");
                None
            }
            Err(Fault::Over) => {
                over = true;
                None
            }
            Err(Fault::Cut) => return Err(Fault::Cut),
        };
        if let (true, Some(reply)) = (done.is_some() || over, &plan.reply)
            && !reply.starts_with(['4', '5'])
        {
            self.output.truncate(start);
            (0..replies).for_each(|_| self.reply(reply));
        }
        if plan.cut == Some(Cut::Unanswered) {
            self.output.truncate(start);
            return Err(Fault::Cut);
        }
        if let Some(time) = plan.delay {
            let held = self.output.split_off(start.min(self.output.len()));
            self.flush()?;
            self.pause(time)?;
            self.output.extend(held);
        }
        match (plan.cut, over) {
            (Some(Cut::After), _) => Err(Fault::Cut),
            (_, true) => Err(Fault::Over),
            _ => Ok(done),
        }
    }

    /// Waits this long, unless the session must end.
    pub(super) fn pause(&mut self, time: Duration) -> Result<(), Fault> {
        self.wire.rest();
        let number = self.number;
        match self
            .shared
            .wait(time, |state| !state.connections.contains_key(&number))
        {
            true => Err(Fault::Over),
            false => Ok(()),
        }
    }

    /// Sends nothing until the client has gone.
    pub(super) fn be_silent(&mut self) -> Result<(), Fault> {
        self.flush()?;
        while self.wire.read(&mut self.input)? > 0 {}
        Err(Fault::Over)
    }

    pub(super) fn shake_hands(&mut self) -> io::Result<()> {
        let config = Arc::clone(&self.shared.tls);
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut self.wire)?;
        }
        self.tls = Some(tls);
        Ok(())
    }

    fn close(&mut self, abruptly: bool) {
        let _ = self.flush();
        if let Some(tls) = self.tls.as_mut().filter(|_| !abruptly) {
            tls.send_close_notify();
            while tls.wants_write() && tls.write_tls(&mut self.wire).is_ok_and(|n| n > 0) {}
        }
        self.wire.shutdown(Shutdown::Write);
        // Closing with unread input would reset the connection, and the client might lose the last reply. So give it
        // a moment to close first.
        let _ = self.wire.set_timeout(Duration::from_secs(1));
        for _ in 0..16 {
            if !matches!(self.wire.read(&mut self.input), Ok(1..)) {
                break;
            }
        }
        self.wire.shutdown(Shutdown::Both);
    }

    pub(super) fn reply(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    pub(super) fn quit(&mut self, line: &str) -> Result<(), Fault> {
        self.reply(line);
        Err(Fault::Over)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let output = mem::take(&mut self.output);
        let Some(tls) = &mut self.tls else {
            return self.wire.write_all(&output);
        };
        let mut stream = rustls::Stream::new(tls, &mut self.wire);
        stream.write_all(&output)?;
        stream.flush()
    }

    /// Receives more input. It first sends the gathered replies, so that a batch of commands gets one batch of
    /// replies (RFC 2920 §3.2).
    pub(super) fn fill(&mut self) -> Result<(), Fault> {
        self.flush()?;
        self.input.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        let space = &mut self.input[self.held.end..];
        let received = match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.wire).read(space),
            None => self.wire.read(space),
        };
        match received.map_err(|error| error.kind()) {
            Ok(0) => return Err(Fault::Over),
            Ok(count) => self.held.end += count,
            Err(ErrorKind::Interrupted) => {}
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return self.quit("421 4.4.2 Idle for too long, closing");
            }
            Err(_) => return Err(Fault::Over),
        }
        Ok(())
    }

    /// The next line. Only CRLF ends it (RFC 5321 §2.3.8).
    pub(super) fn line(&mut self) -> Result<String, Fault> {
        let mut too_long = false;
        loop {
            let held = &self.input[self.held.clone()];
            if let Some(length) = held.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&held[..length]);
                // White space at the end is tolerated (RFC 5321 §4.1.1).
                let line = line.trim_end_matches([' ', '\t']).to_owned();
                self.held.start += length + 2;
                too_long |= length + 2 > LINE_LIMIT;
                refuse_if(too_long, "500 5.5.2 Line too long")?;
                let wrong = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
                refuse_if(line.contains(wrong), "500 5.5.2 Not readable as UTF-8")?;
                return Ok(line);
            }
            if held.len() >= LINE_LIMIT {
                too_long = true;
                // Dropped, except a CR whose LF may still come.
                self.held.start = self.held.end - usize::from(held.ends_with(b"\r"));
            }
            self.fill()?;
        }
    }

    pub(super) fn command(&mut self) -> Result<(), Fault> {
        let line = self.line()?;
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let verb = verb.to_ascii_uppercase();
        let lone = matches!(verb.as_str(), "DATA" | "RSET" | "QUIT" | "STARTTLS");
        self.hear(&verb, &line);
        refuse_if(lone && !argument.is_empty(), "501 5.5.4 No parameters here")?;
        match (verb.as_str(), self.options.chunking) {
            ("DATA", _) => return self.data(&line),
            ("BDAT", true) => return self.bdat(&line, argument),
            // The mechanism's challenge is sent at once, so earlier replies must be too.
            ("AUTH", _) => self.flush()?,
            _ => {}
        }
        let step = Step::of(&verb);
        let plan = self.shared.plan(step, line.as_bytes());
        let carried_out = self.at(plan, 1, |session| session.carry_out(&verb, argument))?;
        match (carried_out, step) {
            (Some(()), Step::StartTls) => self.encrypt(),
            _ => Ok(()),
        }
    }

    /// Records the command.
    fn hear(&self, verb: &str, line: &str) {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let line = match (verb, words.as_slice()) {
            ("AUTH", [verb, mechanism, ..]) => format!("{verb} {mechanism}"),
            _ => line.to_owned(),
        };
        let session = self.number;
        self.shared.note(|state| {
            state.counts.quits += usize::from(verb == "QUIT");
            state.commands.push(HeardCommand { session, line });
        });
    }

    fn carry_out(&mut self, verb: &str, argument: &str) -> Result<(), Fault> {
        match (verb, self.options.lmtp) {
            ("EHLO", false) | ("LHLO", true) => self.hello(argument, true)?,
            ("HELO", false) => self.hello(argument, false)?,
            ("MAIL", _) => self.mail(argument)?,
            ("RCPT", _) => self.rcpt(argument)?,
            ("STARTTLS", _) => self.starttls()?,
            ("AUTH", _) => self.auth(argument)?,
            ("RSET", _) => {
                self.dialogue.transaction = None;
                self.reply("250 2.0.0 Ok");
            }
            ("NOOP", _) => self.reply("250 2.0.0 Ok"),
            ("VRFY", _) if argument.is_empty() => return Err("501 5.5.4 Whom?".into()),
            ("VRFY", _) => self.reply("252 2.0.0 Cannot verify, but will accept"),
            ("QUIT", _) => self.quit("221 2.0.0 Bye")?,
            _ => return Err("500 5.5.1 Command not recognized".into()),
        }
        Ok(())
    }

    pub(super) fn hello(&mut self, name: &str, extended: bool) -> Result<(), Fault> {
        // Replies to HELO and EHLO have no enhanced code (RFC 2034 §4).
        refuse_if(!is_domain(name), "501 Domain or address literal expected")?;
        // Any transaction ends, as after RSET (RFC 5321 §4.1.4).
        self.dialogue.transaction = None;
        self.dialogue.client_name = Some(name.to_owned());
        self.dialogue.extended = extended;
        let options = self.options;
        let limits = options.limits.map(|limits| {
            format!(
                "LIMITS RCPTMAX={} MAILMAX={}",
                limits.rcpt_max, limits.mail_max
            )
        });
        let starttls = options.starttls && self.tls.is_none();
        let by_token = options.auth_by_token;
        let auth = options.auth.is_some() && self.auth_is_safe();
        let extensions = [
            (options.pipelining, "PIPELINING"),
            (true, "8BITMIME"),
            (true, &format!("SIZE {}", options.max_size)),
            (true, "ENHANCEDSTATUSCODES"),
            (starttls, "STARTTLS"),
            (auth && by_token, "AUTH XOAUTH2 OAUTHBEARER"),
            (
                auth && !by_token && self.tls.is_none(),
                "AUTH PLAIN LOGIN SCRAM-SHA-256",
            ),
            (
                auth && !by_token && self.tls.is_some() && !self.knows_client(),
                "AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS",
            ),
            (auth && !by_token && self.knows_client(), "AUTH EXTERNAL"),
            (options.chunking, "CHUNKING"),
            (options.chunking, "BINARYMIME"),
            (options.dsn, "DSN"),
            (self.requires_tls(), "REQUIRETLS"),
            (self.gives_prdr(), "PRDR"),
            (limits.is_some(), limits.as_deref().unwrap_or_default()),
            (options.smtputf8, "SMTPUTF8"),
        ];
        let offered = extensions
            .iter()
            .filter(|(offered, _)| extended && *offered);
        let mut lines = offered.map(|&(_, extension)| extension);
        let mut line = options.hostname.as_str();
        for next in lines.by_ref() {
            self.reply(&format!("250-{line}"));
            line = next;
        }
        self.reply(&format!("250 {line}"));
        Ok(())
    }

    /// Whether the client has shown a certificate.
    pub(super) fn knows_client(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.peer_certificates().is_some())
    }

    /// Whether REQUIRETLS is offered: only where the session is in TLS
    /// (RFC 8689 §2).
    pub(super) fn requires_tls(&self) -> bool {
        self.options.require_tls && self.tls.is_some()
    }

    pub(super) fn gives_prdr(&self) -> bool {
        self.options.prdr && !self.options.lmtp
    }

    pub(super) fn auth_is_safe(&self) -> bool {
        self.tls.is_some() || self.options.auth_in_clear
    }

    pub(super) fn too_big(&self, size: u64) -> bool {
        self.options.max_size != 0 && size > self.options.max_size
    }
}
