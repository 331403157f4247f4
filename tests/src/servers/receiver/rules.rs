//! What a test wants done at a step of the conversation: a reply of its choice, a delay, a cut, silence.

use std::sync::PoisonError;
use std::time::Duration;

use super::Shared;

/// Where in the conversation something is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// The connection is open, inside TLS where it begins with that. The reply is the greeting. After one that
    /// refuses, the connection is closed.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS. The handshake comes after its reply.
    StartTls,
    /// AUTH. The reply is the last one of the exchange.
    Login,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, whose reply is 354; or a BDAT that is not the last one.
    Data,
    /// The content of a message begins. Nothing is replied here.
    Body,
    /// The content has come, by DATA or BDAT. The reply takes the message.
    EndOfData,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
    /// Any other command.
    Other,
}

impl Step {
    /// The step that this command is, if its end of line is.
    pub(super) fn of(verb: &str) -> Self {
        match verb {
            "EHLO" | "HELO" | "LHLO" => Self::Hello,
            "STARTTLS" => Self::StartTls,
            "AUTH" => Self::Login,
            "MAIL" => Self::Mail,
            "RCPT" => Self::Rcpt,
            "DATA" | "BDAT" => Self::Data,
            "RSET" => Self::Reset,
            "QUIT" => Self::Quit,
            _ => Self::Other,
        }
    }
}

/// Something to happen at a step, made by [`Receiver::on`](super::Receiver::on). It happens each time, if nothing else
/// is said. A rule that was made later goes before an earlier one.
#[derive(Debug)]
#[must_use = "it does nothing until it is told what to do"]
pub struct Rule<'a> {
    shared: &'a Shared,
    stored: StoredRule,
}

#[derive(Clone, Debug)]
pub(super) struct StoredRule {
    step: Step,
    text: Vec<u8>,
    skip: usize,
    left: usize,
    action: Action,
}

#[derive(Clone, Debug)]
enum Action {
    Reply(String),
    Delay(Duration),
    Cut(Cut),
    CutInBody(u64),
    Silence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Before,
    Unanswered,
    After,
}

impl<'a> Rule<'a> {
    pub(super) fn new(shared: &'a Shared, step: Step) -> Self {
        let stored = StoredRule {
            step,
            text: Vec::new(),
            skip: 0,
            left: usize::MAX,
            action: Action::Silence,
        };
        Self { shared, stored }
    }

    /// Only where the command line has this text in it; at [`Step::EndOfData`], only where the content has.
    pub fn with(mut self, text: impl AsRef<[u8]>) -> Self {
        self.stored.text = text.as_ref().to_vec();
        self
    }

    /// So many times at most.
    pub fn times(mut self, times: usize) -> Self {
        self.stored.left = times;
        self
    }

    /// The first time only.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Not the first so many times.
    pub fn after(mut self, times: usize) -> Self {
        self.stored.skip = times;
        self
    }

    /// Gives this reply instead of the server's own: lines with their code, without the last line end. For a 4yz or
    /// 5yz the command is not carried out. For any other one it is, and where the server refuses it, that stands.
    /// After 421 the connection is closed.
    pub fn reply(self, reply: &str) {
        let lines: Vec<_> = reply.lines().collect();
        self.add(Action::Reply(lines.join("\r\n")));
    }

    /// Holds the reply back for so long. The command is carried out before that.
    pub fn delay(self, time: Duration) {
        self.add(Action::Delay(time));
    }

    /// Closes the connection when the command has come. It is not carried out.
    pub fn cut_before(self) {
        self.add(Action::Cut(Cut::Before));
    }

    /// Carries the command out, and closes the connection instead of the reply. At [`Step::EndOfData`] the message is
    /// taken, and the client cannot know.
    pub fn cut_unanswered(self) {
        self.add(Action::Cut(Cut::Unanswered));
    }

    /// Closes the connection after the reply.
    pub fn cut_after(self) {
        self.add(Action::Cut(Cut::After));
    }

    /// Closes the connection when so many octets of the content have come. For [`Step::Body`].
    pub fn cut_after_octets(self, octets: u64) {
        self.add(Action::CutInBody(octets));
    }

    /// From here on nothing is answered, and the connection stays open.
    pub fn silence(self) {
        self.add(Action::Silence);
    }

    fn add(mut self, action: Action) {
        self.stored.action = action;
        let rules = self.shared.rules.lock();
        let mut rules = rules.unwrap_or_else(PoisonError::into_inner);
        rules.push(self.stored);
    }
}

/// What is to be done at a step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) reply: Option<String>,
    pub(super) delay: Option<Duration>,
    pub(super) cut: Option<Cut>,
    pub(super) cut_in_body: Option<u64>,
    pub(super) silence: bool,
}

impl Shared {
    /// What the rules want at this step, with this text. It counts as one time.
    pub(super) fn plan(&self, step: Step, text: &[u8]) -> Plan {
        let mut plan = Plan::default();
        let rules = self.rules.lock();
        let mut rules = rules.unwrap_or_else(PoisonError::into_inner);
        for rule in rules.iter_mut().filter(|rule| rule.fits(step, text)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.left -= 1;
            match &rule.action {
                Action::Reply(reply) => plan.reply = Some(reply.clone()),
                Action::Delay(time) => plan.delay = Some(*time),
                Action::Cut(cut) => plan.cut = Some(*cut),
                Action::CutInBody(octets) => plan.cut_in_body = Some(*octets),
                Action::Silence => plan.silence = true,
            }
        }
        rules.retain(|rule| rule.left > 0);
        plan
    }
}

impl StoredRule {
    fn fits(&self, step: Step, text: &[u8]) -> bool {
        self.left > 0
            && self.step == step
            && (self.text.is_empty() || memchr::memmem::find(text, &self.text).is_some())
    }
}
