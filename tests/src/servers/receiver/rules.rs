//! A test's rules for a step of the conversation: a reply, a delay, a cut, silence.

use std::sync::PoisonError;
use std::time::Duration;

use super::Shared;

/// A step of the conversation at which a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// The connection is open. With implicit TLS, the handshake is done. The reply is the greeting. After a refusal,
    /// the connection closes.
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
    /// DATA, whose reply is 354, or a BDAT that is not the last one.
    Data,
    /// The content of a message begins. This step has no reply.
    Body,
    /// The content has come, by DATA or BDAT. The reply accepts the message.
    EndOfData,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
    /// Any other command.
    Other,
}

impl Step {
    /// The step of this command, or of its end of line.
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

/// A rule for a step, made by [`Receiver::on`](super::Receiver::on). It applies each time, unless it is limited. A
/// later rule goes before an earlier one.
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

    /// Only if the command line contains this text. At [`Step::EndOfData`], only if the content does.
    pub fn with(mut self, text: impl AsRef<[u8]>) -> Self {
        self.stored.text = text.as_ref().to_vec();
        self
    }

    /// At most this many times.
    pub fn times(mut self, times: usize) -> Self {
        self.stored.left = times;
        self
    }

    /// Only the first time.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Not the first `times` times.
    pub fn after(mut self, times: usize) -> Self {
        self.stored.skip = times;
        self
    }

    /// Sends this reply instead of the server's own: lines with their code, without the last line end. With a 4yz or
    /// 5yz, the command is not executed. With any other code it is, and a refusal of the server's own stays. After
    /// 421 the connection closes.
    pub fn reply(self, reply: &str) {
        let lines: Vec<_> = reply.lines().collect();
        self.add(Action::Reply(lines.join("\r\n")));
    }

    /// Delays the reply. The command is executed before that.
    pub fn delay(self, time: Duration) {
        self.add(Action::Delay(time));
    }

    /// Closes the connection after the command has come. The command is not executed.
    pub fn cut_before(self) {
        self.add(Action::Cut(Cut::Before));
    }

    /// Executes the command, and closes the connection instead of the reply. At [`Step::EndOfData`] the message is
    /// accepted, and the client cannot know.
    pub fn cut_unanswered(self) {
        self.add(Action::Cut(Cut::Unanswered));
    }

    /// Closes the connection after the reply.
    pub fn cut_after(self) {
        self.add(Action::Cut(Cut::After));
    }

    /// Closes the connection after this many octets of the content. For [`Step::Body`].
    pub fn cut_after_octets(self, octets: u64) {
        self.add(Action::CutInBody(octets));
    }

    /// From here on, the server is silent, and the connection stays open.
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

/// The rule that applies at a step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) reply: Option<String>,
    pub(super) delay: Option<Duration>,
    pub(super) cut: Option<Cut>,
    pub(super) cut_in_body: Option<u64>,
    pub(super) silence: bool,
}

impl Shared {
    /// The rule for this step and this text. It counts as applied once.
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
