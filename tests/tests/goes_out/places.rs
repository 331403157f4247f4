//! Every place of the public API that takes a string, and the lines that it must cause.

use std::borrow::Cow;

use serde_json::json;
use smtp_adapter::{Server, Terms};
use smtp_proto::auth::{Mechanism, MechanismError, Secret};
use smtp_proto::envelope::MAX_MAILBOX;
use smtp_proto::parameter::{MailParameter, RcptParameter, RrvsAction};
use smtp_proto::request::{XClient, XForward};
use smtp_proto::{
    Channel, ClientName, Config, Credentials, Envelope, Mailbox, Recipient, Request, TlsFacts,
    TlsPolicy,
};

use super::wire::{Heard, Job, Session};

const BODY: &[u8] = b"Subject: x\r\n\r\nHello.\r\n";

/// A line that is due.
#[derive(Debug)]
pub(crate) enum Due {
    Line(String),
    Begin(&'static str),
    Auth(String),
    Response,
}

impl Due {
    pub(crate) fn verb(&self) -> &str {
        match self {
            Self::Line(line) => line.split(' ').next().unwrap(),
            Self::Begin(line) => line.split(' ').next().unwrap(),
            Self::Auth(_) => "AUTH",
            Self::Response => "",
        }
    }
}

/// One session, and its due lines.
pub(crate) struct Case {
    pub(crate) session: Session,
    pub(crate) due: Vec<Due>,
    /// How much longer a line may be, because the caller wrote an extension of his own.
    pub(crate) room: usize,
}

impl Case {
    pub(crate) fn run(&self) -> Heard {
        self.session.run()
    }

    fn new(config: Config, jobs: Vec<Job>, between: Vec<Due>) -> Self {
        let name = config.client_name.as_str();
        let mut due = vec![Due::Line(format!("EHLO {name}"))];
        due.extend(between);
        due.push(Due::Line("QUIT".into()));
        let session = Session {
            config,
            jobs,
            challenges: Vec::new(),
            extra: String::new(),
            body: BODY,
        };
        Self {
            session,
            due,
            room: 0,
        }
    }

    fn message(envelope: Envelope) -> Self {
        let mut due = vec![Due::Begin("MAIL FROM:<")];
        due.extend(
            envelope
                .forward_paths()
                .iter()
                .map(|_| Due::Begin("RCPT TO:<")),
        );
        due.push(Due::Line("DATA".into()));
        Self::new(config(), vec![Job::Message(envelope)], due)
    }

    fn request(request: Request, verb: &'static str) -> Self {
        let mut due = vec![Due::Begin(verb)];
        if verb.starts_with("XCLIENT") {
            due.push(Due::Begin("EHLO client.example"));
        }
        Self::new(config(), vec![Job::Request(request)], due)
    }

    fn login(credentials: Credentials, mechanism: &str, challenges: &[&str]) -> Self {
        let mut config = config();
        config.credentials = Some(credentials.mechanisms(&[mechanism]));
        // A first response that is too long answers an empty challenge.
        let mut due = vec![Due::Auth(mechanism.into())];
        due.extend(challenges.iter().map(|_| Due::Response));
        let mut case = Self::new(config, Vec::new(), due);
        case.session.challenges = challenges
            .iter()
            .map(|&challenge| challenge.into())
            .collect();
        case
    }

    fn offering(mut self, extra: &str) -> Self {
        self.session.extra = extra.into();
        self
    }

    fn room(mut self, octets: usize) -> Self {
        self.room = octets;
        self
    }
}

pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) make: fn(&str) -> Vec<Case>,
    /// Each run computes thousands of hashes.
    pub(crate) is_costly: bool,
}

/// The server is verified, so that everything may go out.
fn config() -> Config {
    let mut config = Config::new(ClientName::parse("client.example").unwrap());
    let mut facts = TlsFacts::default();
    facts.verified = true;
    config.channel = Channel::Tls(facts);
    config.tls = TlsPolicy::Never;
    config
}

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

/// The string in each part of an address.
fn addresses(string: &str) -> [String; 7] {
    [
        string.into(),
        format!("{string}@example.org"),
        format!("\"{string}\"@example.org"),
        format!("a@{string}"),
        format!("a@[{string}]"),
        format!("<{string}@example.org>"),
        format!("a@example.org{string}"),
    ]
}

fn messages(envelopes: impl IntoIterator<Item = Option<Envelope>>) -> Vec<Case> {
    envelopes.into_iter().flatten().map(Case::message).collect()
}

fn mailboxes(string: &str) -> impl Iterator<Item = Mailbox> {
    addresses(string)
        .into_iter()
        .filter_map(|address| Mailbox::parse(&address).ok())
}

fn mail(parameters: impl IntoIterator<Item = MailParameter>) -> Vec<Case> {
    let with = |parameter: MailParameter| Some(envelope().parameter(parameter.required()));
    messages(parameters.into_iter().map(with))
}

fn rcpt(parameters: impl IntoIterator<Item = RcptParameter>) -> Vec<Case> {
    let mut cases = Vec::new();
    for parameter in parameters {
        let bob = Recipient::new("b@example.net")
            .unwrap()
            .parameter(parameter.clone());
        cases.push(Case::message(Envelope::new("", [bob]).unwrap()));
        cases.push(Case::message(envelope().recipient_parameter(parameter)));
    }
    cases
}

fn requests(verb: &'static str, requests: impl IntoIterator<Item = Option<Request>>) -> Vec<Case> {
    let requests = requests.into_iter().flatten();
    requests
        .map(|request| Case::request(request, verb))
        .collect()
}

/// Logins by each password mechanism, with a first response at once and after an empty challenge.
fn passwords(credentials: &Credentials) -> Vec<Case> {
    let login =
        |mechanism, challenges: &[&str]| Case::login(credentials.clone(), mechanism, challenges);
    vec![
        login("PLAIN", &[]),
        login("PLAIN", &[""]),
        login("LOGIN", &["VXNlcm5hbWU6", "UGFzc3dvcmQ6"]),
        login(
            "CRAM-MD5",
            &["PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UuZXhhbXBsZS5uZXQ+"],
        ),
    ]
}

/// The same for a token. The server may refuse it in a challenge.
fn tokens(credentials: &Credentials) -> Vec<Case> {
    let login =
        |mechanism, challenges: &[&str]| Case::login(credentials.clone(), mechanism, challenges);
    let refusal = "eyJzdGF0dXMiOiI0MDEifQ==";
    vec![
        login("OAUTHBEARER", &[]),
        login("OAUTHBEARER", &["", refusal]),
        login("XOAUTH2", &[refusal]),
        login("XOAUTH2", &["", refusal]),
    ]
}

/// SCRAM with a challenge that extends the nonce of the session.
fn scram(credentials: &Credentials) -> Vec<Case> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let nonce = STANDARD.encode([7; 18]);
    let challenge = STANDARD.encode(format!("r={nonce}0server,s=c2FsdA==,i=4096"));
    let login = |challenges: &[&str]| Case::login(credentials.clone(), "SCRAM-SHA-256", challenges);
    vec![login(&[&challenge]), login(&["", &challenge])]
}

/// The caller's own mechanism.
struct Own {
    name: String,
    response: String,
}

impl Mechanism for Own {
    fn name(&self) -> &str {
        &self.name
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        Ok(Some(Secret::new(self.response.clone().into_bytes())))
    }

    fn respond(&mut self, _challenge: &[u8]) -> Result<Secret, MechanismError> {
        match self.response.len() % 2 {
            0 => Ok(Secret::new(self.response.clone().into_bytes())),
            _ => Err(MechanismError::Other(Cow::Owned(self.response.clone()))),
        }
    }
}

fn own(name: &str, response: &str) -> Credentials {
    let (name, response) = (name.to_owned(), response.to_owned());
    Credentials::custom(move || {
        let (name, response) = (name.clone(), response.clone());
        Box::new(Own { name, response })
    })
}

/// A session with the server of this URL.
fn url(url: String) -> Vec<Case> {
    let Ok(server) = Server::from_url(url) else {
        return Vec::new();
    };
    at(&server)
}

/// A session over an encrypted and verified stream, which every server may have.
fn at(server: &Server) -> Vec<Case> {
    let channel = config().channel;
    let Ok(terms) = Terms::new(server, true).session(channel, None, || unreachable!()) else {
        return Vec::new();
    };
    let mut cases = Vec::new();
    for mechanism in ["PLAIN", "XOAUTH2", "EXTERNAL"] {
        let mut config = terms.config.clone();
        let is_login = config.credentials.is_some();
        config.credentials = config.credentials.map(|all| all.mechanisms(&[mechanism]));
        let login = is_login.then(|| Due::Auth(mechanism.into()));
        let message = [
            Due::Begin("MAIL FROM:<"),
            Due::Begin("RCPT TO:<"),
            Due::Line("DATA".into()),
        ];
        let due = login.into_iter().chain(message).collect();
        cases.push(Case::new(config, vec![Job::Message(envelope())], due));
    }
    cases
}

fn from_json(value: serde_json::Value) -> Option<Envelope> {
    serde_json::from_value(value).ok()
}

const fn place(name: &'static str, make: fn(&str) -> Vec<Case>) -> Place {
    Place {
        name,
        make,
        is_costly: false,
    }
}

const fn costly(name: &'static str, make: fn(&str) -> Vec<Case>) -> Place {
    Place {
        name,
        make,
        is_costly: true,
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Place> {
    let mut all = addresses_and_names();
    all.extend(parameters());
    all.extend(commands());
    all.extend(credentials());
    all.extend(servers());
    all
}

fn addresses_and_names() -> Vec<Place> {
    vec![
        place("Envelope::new, reverse-path", |s| {
            messages(addresses(s).map(|a| Envelope::new(a, ["b@example.net"]).ok()))
        }),
        place("Envelope::new, forward-path", |s| {
            messages(addresses(s).map(|a| Envelope::new("", [a.as_str(), "c@example.net"]).ok()))
        }),
        place("Recipient::new", |s| {
            let recipients = addresses(s).map(|address| Recipient::new(address).ok());
            messages(recipients.map(|recipient| Envelope::new("", [recipient?]).ok()))
        }),
        place("Mailbox::to_ascii", |s| {
            let ascii = mailboxes(s).filter_map(|mailbox| mailbox.to_ascii());
            messages(ascii.map(|mailbox| Envelope::new(&mailbox, [&mailbox]).ok()))
        }),
        place("Envelope from JSON, paths", |s| {
            let envelopes =
                addresses(s).map(|a| from_json(json!({"reverse_path": &a, "forward_paths": [&a]})));
            messages(envelopes)
        }),
        place("ClientName::parse", |s| {
            let names = [
                s.into(),
                format!("a{s}"),
                format!("a.{s}.b"),
                format!("[{s}]"),
            ];
            let names = names
                .into_iter()
                .filter_map(|name| ClientName::parse(&name).ok());
            let case = |name: ClientName| {
                let mut config = config();
                config.client_name = name;
                Case::new(config, Vec::new(), Vec::new())
            };
            names.map(case).collect()
        }),
    ]
}

fn parameters() -> Vec<Place> {
    vec![
        place("MailParameter::envelope_id", |s| {
            mail(MailParameter::envelope_id(s).ok())
        }),
        place("MailParameter::hold_until", |s| {
            let dates = [
                s.into(),
                format!("2027-01-02T03:04:05{s}"),
                format!("{s}2027-01-02T03:04:05Z"),
            ];
            mail(
                dates
                    .iter()
                    .filter_map(|date| MailParameter::hold_until(date).ok()),
            )
        }),
        place("MailParameter::auth", |s| {
            // The xtext of a long mailbox may exceed the 500 octets of RFC 4954 section 5: up to three times 498.
            let cases = mail(mailboxes(s).map(|mailbox| MailParameter::auth(Some(&mailbox))));
            cases
                .into_iter()
                .map(|case| case.room(3 * MAX_MAILBOX))
                .collect()
        }),
        place("MailParameter::raw, name", |s| {
            let raw = [
                MailParameter::raw(s, None),
                MailParameter::raw(s, Some("1")),
            ];
            let cases = mail(raw.into_iter().flatten());
            cases
                .into_iter()
                .map(|case| case.offering(s).room(s.len()))
                .collect()
        }),
        place("MailParameter::raw, value", |s| {
            let cases = mail(MailParameter::raw("X", Some(s)).ok());
            cases.into_iter().map(|case| case.room(s.len())).collect()
        }),
        place("MailParameter::offered_by", |s| {
            let parameter = MailParameter::raw("X-B", Some("1")).unwrap().offered_by(s);
            mail([parameter])
                .into_iter()
                .map(|case| case.offering(s))
                .collect()
        }),
        place("RcptParameter::raw, name", |s| {
            let raw = [
                RcptParameter::raw(s, None),
                RcptParameter::raw(s, Some("1")),
            ];
            let cases = rcpt(raw.into_iter().flatten());
            cases
                .into_iter()
                .map(|case| case.offering(s).room(s.len()))
                .collect()
        }),
        place("RcptParameter::raw, value", |s| {
            let cases = rcpt(RcptParameter::raw("X", Some(s)).ok());
            cases.into_iter().map(|case| case.room(s.len())).collect()
        }),
        place("RcptParameter::original_recipient", |s| {
            rcpt(
                mailboxes(s).filter_map(|mailbox| RcptParameter::original_recipient(&mailbox).ok()),
            )
        }),
        place("RcptParameter::original_recipient_of, type", |s| {
            rcpt(RcptParameter::original_recipient_of(s, "a").ok())
        }),
        place("RcptParameter::original_recipient_of, address", |s| {
            rcpt(RcptParameter::original_recipient_of("x400", s).ok())
        }),
        place("RcptParameter::valid_since", |s| {
            let dates = [
                s.into(),
                format!("2027-01-02T03:04:05{s}"),
                format!("2027-01-02T03:04:05Z{s}"),
            ];
            let since =
                |date: &String| RcptParameter::valid_since(date, Some(RrvsAction::Reject)).ok();
            rcpt(dates.iter().filter_map(since))
        }),
        place("Envelope from JSON, parameters", |s| {
            let texts = [
                s.into(),
                format!("X={s}"),
                format!("ENVID={s}"),
                format!("AUTH={s}"),
                format!("{s}=1"),
            ];
            let envelope = |text: &String| {
                from_json(json!({
                    "reverse_path": "a@example.org", "forward_paths": ["b@example.net"],
                    "mail_parameters": [{"text": text, "need": "required"}],
                }))
            };
            let cases = messages(texts.iter().map(envelope));
            cases
                .into_iter()
                .map(|case| case.offering(s).room(s.len()))
                .collect()
        }),
        place("Envelope from JSON, parameters of a recipient", |s| {
            let texts = [
                s.into(),
                format!("X={s}"),
                format!("ORCPT=rfc822;{s}"),
                format!("RRVS={s}"),
            ];
            let envelope = |text: &String| {
                let parameter = json!({"text": text, "need": "required"});
                from_json(json!({
                    "reverse_path": "a@example.org", "forward_paths": ["b@example.net"],
                    "recipient_parameters": [{"recipient": 0, "parameter": parameter}],
                }))
            };
            let cases = messages(texts.iter().map(envelope));
            cases
                .into_iter()
                .map(|case| case.offering(s).room(s.len()))
                .collect()
        }),
    ]
}

fn commands() -> Vec<Place> {
    vec![
        place("Request::help", |s| {
            requests("HELP ", [Request::help(Some(s)).ok()])
        }),
        place("Request::verify", |s| {
            requests("VRFY ", [Request::verify(s).ok()])
        }),
        place("Request::expand", |s| {
            requests("EXPN ", [Request::expand(s).ok()])
        }),
        place("Request::etrn", |s| {
            requests("ETRN ", [Request::etrn(s).ok()])
        }),
        place("Request::raw, argument", |s| {
            requests("NOOP ", [Request::raw(&format!("NOOP {s}")).ok()])
        }),
        place("Request::raw, VRFY", |s| {
            requests("VRFY ", [Request::raw(&format!("VRFY {s}")).ok()])
        }),
        place("Request::raw, verb", |s| {
            let lines = [
                s.into(),
                format!("{s} x"),
                format!("X-{s}"),
                format!("X{s}"),
            ];
            let lines = lines
                .iter()
                .filter_map(|line| Some((line, Request::raw(line).ok()?)));
            let case = |(line, request): (&String, _)| {
                Case::new(
                    config(),
                    vec![Job::Request(request)],
                    vec![Due::Line(line.clone())],
                )
            };
            lines.map(case).collect()
        }),
        place("Request::xclient", |s| {
            let values = [XClient::Name, XClient::Helo, XClient::Login];
            requests(
                "XCLIENT ",
                values.map(|value| Request::xclient([value(Some(s.into()))]).ok()),
            )
        }),
        place("Request::xforward", |s| {
            let values = [
                XForward::Name,
                XForward::Proto,
                XForward::Helo,
                XForward::Ident,
            ];
            requests(
                "XFORWARD ",
                values.map(|value| Request::xforward([value(Some(s.into()))]).ok()),
            )
        }),
        place("Connection::fail_body", |s| {
            let mut case = Case::message(envelope());
            case.session.jobs = vec![Job::Failing(s.into())];
            case.due.pop();
            vec![case]
        }),
        place("Connection::abort", |s| {
            let mut case = Case::new(config(), vec![Job::Abort(s.into())], Vec::new());
            case.due.pop();
            vec![case]
        }),
    ]
}

fn credentials() -> Vec<Place> {
    vec![
        place("Credentials::password, user", |s| {
            passwords(&Credentials::password(s, "s3cret"))
        }),
        place("Credentials::password, password", |s| {
            passwords(&Credentials::password("alice", s))
        }),
        costly("Credentials::password, user, SCRAM", |s| {
            scram(&Credentials::password(s, "s3cret"))
        }),
        costly("Credentials::password, password, SCRAM", |s| {
            scram(&Credentials::password("alice", s))
        }),
        place("Credentials::token, user", |s| {
            tokens(&Credentials::token(s, "ya29.token"))
        }),
        place("Credentials::token, token", |s| {
            tokens(&Credentials::token("alice", s))
        }),
        place("Credentials::token_from, user", |s| {
            tokens(&Credentials::token_from(s, || {
                Ok::<_, String>("ya29.token".into())
            }))
        }),
        place("Credentials::token_from, token", |s| {
            let token = s.to_owned();
            tokens(&Credentials::token_from("alice", move || {
                Ok::<_, String>(token.clone())
            }))
        }),
        place("Credentials::anonymous", |s| {
            let login = |challenges: &[&str]| {
                Case::login(Credentials::anonymous(s), "ANONYMOUS", challenges)
            };
            vec![login(&[]), login(&[""])]
        }),
        place("Credentials::authorization_id, PLAIN", |s| {
            let credentials = Credentials::password("alice", "s3cret").authorization_id(s);
            vec![Case::login(credentials, "PLAIN", &[])]
        }),
        place("Credentials::authorization_id, OAUTHBEARER", |s| {
            let credentials = Credentials::token("alice", "ya29.token").authorization_id(s);
            vec![Case::login(credentials, "OAUTHBEARER", &[])]
        }),
        place("Credentials::authorization_id, EXTERNAL", |s| {
            let credentials = Credentials::external().authorization_id(s);
            vec![Case::login(credentials, "EXTERNAL", &[])]
        }),
        costly("Credentials::authorization_id, SCRAM", |s| {
            scram(&Credentials::password("alice", "s3cret").authorization_id(s))
        }),
        place("Credentials::mechanisms", |s| {
            let mut config = config();
            let credentials = Credentials::password("alice", "s3cret");
            config.credentials = Some(credentials.mechanisms(&[s, "PLAIN"]));
            let case = Case::new(config, Vec::new(), vec![Due::Auth("PLAIN".into())]);
            vec![case.offering(s)]
        }),
        place("Mechanism::name", |s| {
            vec![Case::login(own(s, "x"), s, &[]).offering(s)]
        }),
        place("Mechanism, responses", |s| {
            let login =
                |challenges: &[&str]| Case::login(own("X", s), "X", challenges).offering("X");
            vec![login(&[]), login(&["YQ=="]), login(&["", "YQ=="])]
        }),
    ]
}

fn servers() -> Vec<Place> {
    vec![
        place("Server::from_url, user", |s| {
            url(format!("smtp://{s}:s3cret@mx.example.net"))
        }),
        place("Server::from_url, user alone", |s| {
            url(format!("smtp://{s}@mx.example.net?auth=EXTERNAL"))
        }),
        place("Server::from_url, password", |s| {
            url(format!("smtp://alice:{s}@mx.example.net"))
        }),
        place("Server::from_url, token", |s| {
            url(format!("smtp://alice:{s}@mx.example.net?auth=XOAUTH2"))
        }),
        place("Server::from_url, host", |s| url(format!("smtp://mx{s}"))),
        place("Server::from_url, ehlo", |s| {
            url(format!("smtp://mx.example.net?ehlo={s}"))
        }),
        place("Server::from_url, server-name", |s| {
            url(format!("smtp://mx.example.net?server-name={s}"))
        }),
        place("Server::from_url, the end", |s| {
            url(format!("smtp://alice:s3cret@mx.example.net{s}"))
        }),
        place("Server::new", |s| at(&Server::new(format!("mx{s}")))),
        place("Server::server_name", |s| {
            at(&Server::new("mx.example.net").server_name(s))
        }),
    ]
}
