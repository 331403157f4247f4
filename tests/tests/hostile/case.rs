//! What a case is: what the server does, how the client is set up, and what must come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::{Credentials, Timeouts, TlsPolicy};
use smtp_tests::servers::tls::Identity;

use crate::identities::Identities;
use crate::server::Talk;

/// The deadline that a case is about. All others are [`PATIENT`].
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// Longer than any case may take.
const PATIENT: Duration = Duration::from_secs(600);

/// Where the client waits for a reply.
pub(crate) const WAITS: [At; 7] = [
    At::Greeting,
    At::Ehlo,
    At::Auth,
    At::Mail,
    At::Rcpt,
    At::Data,
    At::Dot,
];

/// A point in the conversation: the greeting is due, a command was read, a MiB of the body was read, or its dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    Dot,
    Quit,
}

impl At {
    /// The points of a session that is not encrypted on the way.
    pub(crate) const ALL: [Self; 8] = [
        Self::Greeting,
        Self::Ehlo,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
    ];

    pub(crate) fn is_begun_by(self, line: &str) -> bool {
        let verb = match self {
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL",
            Self::Rcpt => "RCPT",
            Self::Data => "DATA",
            Self::Quit => "QUIT",
            Self::Greeting | Self::Handshake | Self::Body | Self::Dot => return false,
        };
        line.starts_with(verb)
    }

    /// What comes where this step fails, and why is no matter: the message may have been taken after the dot alone.
    pub(crate) fn fails(self) -> &'static str {
        match self {
            Self::Greeting => "unopened: greeting transient",
            Self::Ehlo => "unopened: ehlo transient",
            Self::StartTls | Self::Handshake => "unopened: starttls transient",
            Self::Auth => "unopened: auth transient",
            Self::Mail => "mail transient",
            Self::Rcpt => "rcpt transient",
            Self::Data => "data transient",
            Self::Body => "body transient",
            Self::Dot => "eom in-doubt",
            Self::Quit => "sent",
        }
    }

    fn shorten(self, timeouts: &mut Timeouts) {
        let timeout = match self {
            Self::Greeting => &mut timeouts.greeting,
            Self::Ehlo => &mut timeouts.ehlo,
            Self::StartTls => &mut timeouts.starttls,
            Self::Handshake => &mut timeouts.handshake,
            Self::Auth => &mut timeouts.auth,
            Self::Mail => &mut timeouts.mail,
            Self::Rcpt => &mut timeouts.rcpt,
            Self::Data => &mut timeouts.data,
            Self::Body => &mut timeouts.block,
            Self::Dot => &mut timeouts.end_of_message,
            Self::Quit => &mut timeouts.quit,
        };
        *timeout = SHORT;
    }
}

type Script = Arc<dyn Fn(&mut Talk) -> io::Result<()> + Send + Sync>;

/// What one adapter is put to.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What the server does. Where it fails, the client has gone.
    pub(crate) script: Script,
    /// The server's certificate and key.
    pub(crate) identity: Identity,
    pub(crate) policy: TlsPolicy,
    pub(crate) credentials: Option<Credentials>,
    /// The server must be mx.example.net, and else 127.0.0.1.
    pub(crate) is_named: bool,
    /// The deadline that must be kept.
    pub(crate) short: Option<At>,
    /// The body has 24 MiB.
    pub(crate) is_large: bool,
    pub(crate) messages: usize,
    /// What must come, in both adapters.
    pub(crate) comes: String,
    /// What the error line must tell.
    pub(crate) tells: &'static str,
    pub(crate) is_before_login: bool,
    /// The password reaches the server inside TLS.
    pub(crate) logs_in: bool,
}

impl Case {
    /// In clear, and without a password.
    pub(crate) fn new(
        name: impl Into<String>,
        script: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            script: Arc::new(script),
            identity: Identities::get().good.clone(),
            policy: TlsPolicy::Never,
            credentials: None,
            is_named: true,
            short: None,
            is_large: false,
            messages: 1,
            comes: "sent".into(),
            tells: "",
            is_before_login: false,
            logs_in: false,
        }
    }

    /// Inside TLS from the first octet, with a login.
    pub(crate) fn in_tls(mut self) -> Self {
        self.name += ", in TLS";
        let script = Arc::clone(&self.script);
        self.script = Arc::new(move |talk| {
            talk.encrypt()?;
            script(talk)
        });
        self.policy = TlsPolicy::Implicit;
        self.logs_in = !self.is_before_login;
        self.with_password()
    }

    pub(crate) fn with_password(mut self) -> Self {
        self.credentials = Some(password());
        self
    }

    pub(crate) fn policy(mut self, policy: TlsPolicy) -> Self {
        self.policy = policy;
        self
    }

    pub(crate) fn comes(mut self, what: impl Into<String>) -> Self {
        self.comes = what.into();
        self
    }

    pub(crate) fn tells(mut self, what: &'static str) -> Self {
        self.tells = what;
        self
    }

    pub(crate) fn short(mut self, at: At) -> Self {
        self.short = Some(at);
        self
    }

    pub(crate) fn large(mut self) -> Self {
        self.is_large = true;
        self
    }

    pub(crate) fn messages(mut self, count: usize) -> Self {
        self.messages = count;
        self
    }

    /// It ends before a login.
    pub(crate) fn before_login(mut self) -> Self {
        self.is_before_login = true;
        self
    }

    pub(crate) fn logs_in(mut self, yes: bool) -> Self {
        self.logs_in = yes;
        self
    }

    /// The deadlines of this case.
    pub(crate) fn timeouts(&self) -> Timeouts {
        let mut timeouts = Timeouts::default().replies(PATIENT);
        (timeouts.block, timeouts.quit) = (PATIENT, PATIENT);
        if let Some(at) = self.short {
            at.shorten(&mut timeouts);
        }
        timeouts
    }
}

/// What no one may see.
pub(crate) const PASSWORD: &str = "correct-horse-s3cret";

/// As alice.
pub(crate) fn password() -> Credentials {
    Credentials::password("alice", PASSWORD)
}

/// The same at each of these points, in clear and inside TLS. In clear there is no login.
pub(crate) fn everywhere(
    name: &str,
    points: &[At],
    script: impl Fn(&mut Talk, At) -> io::Result<()> + Clone + Send + Sync + 'static,
    change: impl Fn(Case, At) -> Case,
) -> Vec<Case> {
    let mut cases = Vec::new();
    for &at in points {
        let script = script.clone();
        let run = move |talk: &mut Talk| {
            talk.reach(at)?;
            script(talk, at)
        };
        let case = Case::new(format!("{name} at {at:?}"), run).comes(at.fails());
        let case = match at {
            At::Body => case.large(),
            _ => case,
        };
        // The password is out when AUTH was read.
        let in_tls = case.clone().in_tls().logs_in(at >= At::Auth);
        cases.push(change(in_tls, at));
        if at != At::Auth {
            cases.push(change(case, at));
        }
    }
    cases
}
