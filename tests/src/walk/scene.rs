//! The configurations that are walked: the protocol, the server's offer, and the amount of mail.

use std::time::Duration;

use smtp_proto::{
    Chunking, ClientName, Config, Credentials, Envelope, Protocol, TlsPolicy,
    parameter::MailParameter,
};

/// How the transport writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// All offered octets, at once, after each letter.
    Direct,
    /// A part of a line, a line, or all offered octets: each is a letter.
    Slow,
    /// Octets are gathered after each letter. Giving and writing them are letters.
    Gathers,
}

/// The server's offer: keywords with their parameters.
pub(crate) type Offer = &'static [&'static str];

/// Who may get the login of a configuration, besides a verified server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    No,
    VerifiedOnly,
    Unverified,
    Clear,
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Scene {
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) login: Login,
    /// The reply to EHLO outside TLS, and inside it.
    pub(crate) offers: [Offer; 2],
    pub(crate) messages: Vec<Envelope>,
    /// Each message has this body, or the front of it.
    pub(crate) body: &'static [u8],
    pub(crate) requests: usize,
    pub(crate) writing: Writing,
    /// The server may also answer 452 to RCPT.
    pub(crate) says_full: bool,
    /// How deep the sample goes.
    pub(crate) sample: usize,
}

/// The password, which must only be seen where it is wanted.
pub(crate) const PASSWORD: &str = "s3cret";
/// The base64 of `\0alice\0s3cret`: the user and the password in PLAIN.
pub(crate) const PLAIN: &str = "AGFsaWNlAHMzY3JldA==";
/// The password in LOGIN.
pub(crate) const LOGIN: &str = "czNjcmV0";

const NOTHING: Offer = &[];
const SIMPLE: Offer = &["SIZE 1000", "8BITMIME"];
const PIPED: Offer = &["PIPELINING", "SIZE 1000", "8BITMIME"];
const CHUNKED: Offer = &["PIPELINING", "CHUNKING", "8BITMIME"];
const LOCKSTEP_CHUNKS: Offer = &["CHUNKING"];
const STARTTLS: Offer = &["STARTTLS", "PIPELINING", "CHUNKING", "SIZE 1000"];
const LOGIN_ONLY: Offer = &["AUTH PLAIN LOGIN"];
const LOGIN_AND_TLS: Offer = &["STARTTLS", "AUTH PLAIN LOGIN", "PIPELINING"];
const PER_RECIPIENT: Offer = &["PIPELINING", "PRDR"];
const LIMITED: Offer = &["PIPELINING", "LIMITS RCPTMAX=1"];

/// All timeouts differ, so that each deadline shows its command.
fn set_timeouts(config: &mut Config) {
    let timeouts = &mut config.timeouts;
    let all = [
        &mut timeouts.greeting,
        &mut timeouts.ehlo,
        &mut timeouts.starttls,
        &mut timeouts.handshake,
        &mut timeouts.auth,
        &mut timeouts.mail,
        &mut timeouts.rcpt,
        &mut timeouts.data,
        &mut timeouts.block,
        &mut timeouts.end_of_message,
        &mut timeouts.overlap,
        &mut timeouts.request,
        &mut timeouts.quit,
    ];
    for (place, timeout) in all.into_iter().enumerate() {
        *timeout = Duration::from_secs(1_000 + 10 * place as u64);
    }
}

fn envelope(message: usize, recipients: usize) -> Envelope {
    let path = |recipient| format!("m{message}r{recipient}@d.example");
    let paths: Vec<_> = (0..recipients).map(path).collect();
    let envelope = Envelope::new(format!("m{message}@example.org"), &paths);
    envelope.expect("an envelope").size(10)
}

impl Scene {
    /// Two messages, the first one to two recipients. Everything else is the default.
    fn new(name: &str, offer: Offer) -> Self {
        let mut config = Config::new(ClientName::parse("client.example.org").expect("a name"));
        config.tls = TlsPolicy::Never;
        config.limits.challenges = 2;
        set_timeouts(&mut config);
        Self {
            name: name.into(),
            config,
            login: Login::No,
            offers: [offer, offer],
            messages: vec![envelope(0, 2), envelope(1, 1)],
            body: b".\r\nb",
            requests: 0,
            writing: Writing::Direct,
            says_full: false,
            sample: 7,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The sample goes one letter deeper.
    fn deeper(self) -> Self {
        self.with(|scene| scene.sample += 1)
    }

    fn lmtp(self) -> Self {
        self.with(|scene| scene.config.protocol = Protocol::Lmtp)
    }

    fn tls(self, policy: TlsPolicy, inside: Offer) -> Self {
        self.with(|scene| {
            scene.sample += 1;
            scene.config.tls = policy;
            scene.offers[1] = inside;
        })
    }

    fn login(self, login: Login) -> Self {
        self.with(|scene| {
            scene.sample += 1;
            let credentials = Credentials::password("alice", PASSWORD);
            scene.login = login;
            scene.config.credentials = Some(match login {
                Login::Clear => credentials.permit_in_clear(),
                Login::Unverified => credentials.permit_unverified(),
                Login::No | Login::VerifiedOnly => credentials,
            });
        })
    }

    fn one_message(self) -> Self {
        self.with(|scene| scene.messages.truncate(1))
    }

    fn one_recipient(self) -> Self {
        self.with(|scene| scene.messages = vec![envelope(0, 1), envelope(1, 1)])
    }

    fn request(self) -> Self {
        self.with(|scene| scene.requests = 1)
    }

    fn writing(self, writing: Writing) -> Self {
        self.with(|scene| scene.writing = writing)
    }

    fn short_body(self) -> Self {
        self.with(|scene| scene.body = b".")
    }

    fn envelopes(self, change: impl Fn(Envelope) -> Envelope) -> Self {
        self.with(|scene| {
            let envelopes = std::mem::take(&mut scene.messages);
            scene.messages = envelopes.into_iter().map(change).collect();
        })
    }
}

/// All of them.
pub fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (protocol, is_lmtp) in [("smtp", false), ("lmtp", true)] {
        let new = |name: &str, offer| {
            let scene = Scene::new(&format!("{protocol} {name}"), offer);
            if is_lmtp { scene.lmtp() } else { scene }
        };
        scenes.extend([
            new("plain", SIMPLE).deeper(),
            new("pipelining", PIPED).deeper(),
            new("pipelining, 60 octets in flight", PIPED)
                .with(|scene| scene.config.limits.in_flight = 60)
                .one_message(),
            new("pipelining, all or nothing", PIPED)
                .envelopes(|envelope| envelope.all_or_nothing(true))
                .short_body(),
            new("chunking", LOCKSTEP_CHUNKS).deeper(),
            new("pipelining chunking", CHUNKED).deeper(),
            new("pipelining chunking, one chunk at a time", CHUNKED)
                .with(|scene| scene.config.limits.chunks = 1)
                .one_message(),
            new("pipelining requests", PIPED)
                .one_recipient()
                .request()
                .short_body(),
            new("starttls opportunistic", STARTTLS)
                .tls(TlsPolicy::Opportunistic, NOTHING)
                .one_recipient()
                .short_body(),
            new("starttls required", STARTTLS)
                .tls(TlsPolicy::Required, PIPED)
                .one_recipient()
                .short_body(),
            new("tls implicit", STARTTLS)
                .tls(TlsPolicy::Implicit, CHUNKED)
                .one_recipient()
                .short_body(),
            new("auth in clear, permitted", LOGIN_ONLY)
                .login(Login::Clear)
                .one_message()
                .short_body(),
            new("starttls opportunistic, auth", LOGIN_AND_TLS)
                .tls(TlsPolicy::Opportunistic, LOGIN_ONLY)
                .login(Login::VerifiedOnly)
                .one_message()
                .short_body(),
            new("starttls required, auth", LOGIN_AND_TLS)
                .tls(TlsPolicy::Required, LOGIN_ONLY)
                .login(Login::VerifiedOnly)
                .one_message()
                .short_body(),
            new("starttls required, auth unverified, permitted", STARTTLS)
                .tls(TlsPolicy::Required, LOGIN_ONLY)
                .login(Login::Unverified)
                .one_message()
                .short_body(),
            new("tls implicit, auth, requests", NOTHING)
                .tls(TlsPolicy::Implicit, LOGIN_ONLY)
                .login(Login::VerifiedOnly)
                .one_message()
                .request()
                .short_body(),
            new("pipelining, slow writes", PIPED)
                .writing(Writing::Slow)
                .one_message()
                .short_body(),
            new("pipelining chunking, slow writes", CHUNKED)
                .writing(Writing::Slow)
                .one_message()
                .short_body(),
            new("pipelining, gathered writes", PIPED)
                .writing(Writing::Gathers)
                .one_recipient()
                .short_body(),
            new("pipelining chunking, gathered writes", CHUNKED)
                .writing(Writing::Gathers)
                .one_message()
                .short_body(),
            new("starttls required, gathered writes", STARTTLS)
                .tls(TlsPolicy::Required, PIPED)
                .writing(Writing::Gathers)
                .one_message()
                .short_body(),
            new("pipelining, limits of recipients", LIMITED)
                .envelopes(|envelope| envelope.reopenable(true))
                .short_body(),
            new("pipelining, limits learnt", PIPED)
                .with(|scene| {
                    scene.config.learn_limits = true;
                    scene.says_full = true;
                })
                .envelopes(|envelope| envelope.reopenable(true))
                .short_body(),
        ]);
    }
    scenes.extend([
        Scene::new("smtp prdr", PER_RECIPIENT)
            .envelopes(|envelope| envelope.parameter(MailParameter::per_recipient_replies()))
            .short_body(),
        Scene::new("smtp pipelining chunking, eager", CHUNKED)
            .with(|scene| scene.config.chunking = Chunking::Eager)
            .short_body(),
        Scene::new("smtp pipelining, overlap", PIPED)
            .with(|scene| scene.config.overlap = true)
            .one_recipient()
            .short_body(),
    ]);
    scenes
}
