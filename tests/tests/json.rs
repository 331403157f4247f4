//! serde with envelopes, replies, reports and errors (feature `serde`): the JSON for programs, what can be read
//! again, and what can never be written.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use smtp_adapter::Server;
use smtp_proto::auth::{MechanismError, TokenError};
use smtp_proto::body::BodyError;
use smtp_proto::envelope::BodyType;
use smtp_proto::error::{Misuse, ProtocolError, Retry};
use smtp_proto::event::Event;
use smtp_proto::parameter::{ByMode, MailParameter, Need, Notify, RcptParameter, Ret, RrvsAction};
use smtp_proto::reply::{EnhancedCode, ReplyClass, ReplyCode};
use smtp_proto::{
    BodyPart, Cause, ClientName, Config, Connection, Credentials, Envelope, Error, Extension,
    Instant, Mailbox, Outcome, Recipient, Reply, Report, Stage, TlsFacts, TlsPolicy,
};
use smtp_tests::play::bulk::runtime;
use smtp_tests::receiver::Receiver;
use smtp_tests::servers::fast::{Act, Options, Peer};

fn reply(code: u16, text: &[u8]) -> Reply {
    Reply::new(ReplyCode::new(code).unwrap(), text)
}

fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// The value is the same after JSON, and after a format without names.
#[track_caller]
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let text = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
    let octets = postcard::to_allocvec(value).unwrap();
    assert_eq!(&postcard::from_bytes::<T>(&octets).unwrap(), value);
}

/// The value is written as this, and read from it.
#[track_caller]
fn is_written<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, expected: Value) {
    assert_eq!(to_value(value), expected);
    comes_back(value);
}

#[track_caller]
fn is_refused<T: DeserializeOwned + Debug>(value: Value, why: &str) {
    let error = serde_json::from_value::<T>(value).unwrap_err().to_string();
    assert!(error.contains(why), "{error}");
}

#[test]
fn enumerations_are_words() {
    for (stage, word) in [
        (Stage::Local, "local"),
        (Stage::Connect, "connect"),
        (Stage::Greeting, "greeting"),
        (Stage::Ehlo, "ehlo"),
        (Stage::StartTls, "starttls"),
        (Stage::Auth, "auth"),
        (Stage::Mail, "mail"),
        (Stage::Rcpt, "rcpt"),
        (Stage::Data, "data"),
        (Stage::Body, "body"),
        (Stage::EndOfMessage, "eom"),
        (Stage::Request, "request"),
        (Stage::Quit, "quit"),
    ] {
        assert_eq!(stage.as_str(), word);
        is_written(&stage, json!(word));
    }
    is_written(&Outcome::Transient, json!("transient"));
    is_written(&Outcome::Permanent, json!("permanent"));
    is_written(&Outcome::InDoubt, json!("in_doubt"));
    is_written(&Outcome::NotAttempted, json!("not_attempted"));
    is_written(&Retry::Now, json!("now"));
    is_written(&Retry::Later, json!("later"));
    is_written(&Retry::Never, json!("never"));
    is_written(&Retry::AskPerson, json!("ask_person"));
    is_written(&ReplyClass::Intermediate, json!("intermediate"));
    is_written(&BodyType::Undeclared, json!("undeclared"));
    is_written(&BodyType::EightBitAnyway, json!("eight_bit_anyway"));
    is_written(&Need::IfOffered, json!("if_offered"));
    is_written(&Extension::EightBitMime, json!("8BITMIME"));
    is_refused::<Stage>(json!("lunch"), "unknown variant");
    is_refused::<Extension>(json!("LUNCH\n"), r#"unknown extension "LUNCH\x0a""#);
}

#[test]
fn replies_are_as_the_server_sent_them() {
    is_written(
        &reply(550, b"5.1.1 no\n5.1.1 such user"),
        json!({"code": 550, "enhanced": "5.1.1", "text": "5.1.1 no\n5.1.1 such user"}),
    );
    is_written(
        &reply(250, b""),
        json!({"code": 250, "enhanced": null, "text": ""}),
    );
    // Latin-1.
    is_written(
        &reply(451, b"4.2.0 sp\xe4ter"),
        json!({
            "code": 451,
            "enhanced": "4.2.0",
            "text": [52, 46, 50, 46, 48, 32, 115, 112, 228, 116, 101, 114],
        }),
    );
    comes_back(&EnhancedCode::parse(b"4.999.0").unwrap());
    let least: Reply = serde_json::from_value(json!({"code": 250, "text": "ok"})).unwrap();
    assert_eq!(least, reply(250, b"ok"));
    is_refused::<Reply>(
        json!({"code": 199, "text": ""}),
        "invalid reply code 199: it lies between 200 and 599",
    );
    is_refused::<EnhancedCode>(json!("5.1.1 "), "write it as in 5.1.1");
}

#[test]
fn a_plain_envelope() {
    let envelope = Envelope::new("alice@example.org", ["bob@example.net"]).unwrap();
    let written = json!({
        "reverse_path": "alice@example.org",
        "forward_paths": ["bob@example.net"],
        "size": null,
        "size_is_exact": false,
        "body": "undeclared",
        "all_or_nothing": false,
        "smtputf8": false,
        "reopenable": false,
        "mail_parameters": [],
        "recipient_parameters": [],
    });
    is_written(&envelope, written);
    // Written by hand, the addresses are enough.
    let by_hand = json!({
        "reverse_path": "alice@example.org",
        "forward_paths": ["bob@example.net"],
    });
    assert_eq!(
        serde_json::from_value::<Envelope>(by_hand).unwrap(),
        envelope
    );
}

#[test]
fn an_envelope_with_everything() {
    let mailbox = Mailbox::parse("h\u{e4}ns+x=y@example.net").unwrap();
    let ascii = Mailbox::parse("\"a + b=c\"@example.net").unwrap();
    let own = Recipient::new("bob@example.net")
        .unwrap()
        .parameter(RcptParameter::notify(Notify::NEVER).required())
        .parameter(RcptParameter::original_recipient(&mailbox).unwrap());
    let envelope = Envelope::new(
        "",
        [Recipient::new("carol@example.net").unwrap(), own.clone()],
    )
    .unwrap()
    .exact_size(1_234)
    .body(BodyType::Binary)
    .all_or_nothing(true)
    .smtputf8(true)
    .reopenable(true)
    .parameter(MailParameter::ret(Ret::Headers))
    .parameter(
        MailParameter::envelope_id("a + b=\u{7e}")
            .unwrap()
            .required(),
    )
    .parameter(
        MailParameter::raw("X-TAG", Some("7"))
            .unwrap()
            .offered_by("X-TAGS"),
    )
    .recipient_parameter(RcptParameter::raw("CONPERM", None).unwrap().if_offered());
    comes_back(&envelope);
    comes_back(&own);
    let written = to_value(&envelope);
    assert_eq!(written["reverse_path"], "");
    assert_eq!(written["size_is_exact"], true);
    assert_eq!(
        written["mail_parameters"],
        json!([
            {"text": "RET=HDRS", "need": "if_offered", "offered_by": null},
            {"text": "ENVID=a+20+2B+20b+3D~", "need": "required", "offered_by": null},
            {"text": "X-TAG=7", "need": "required", "offered_by": "X-TAGS"},
        ])
    );
    assert_eq!(
        written["recipient_parameters"],
        json!([
            {"recipient": 1, "parameter": {
                "text": "NOTIFY=NEVER", "need": "required", "offered_by": null,
            }},
            {"recipient": 1, "parameter": {
                "text": r"ORCPT=utf-8;h\x{E4}ns\x{2B}x\x{3D}y@example.net",
                "need": "if_offered",
                "offered_by": null,
            }},
            {"recipient": null, "parameter": {
                "text": "CONPERM", "need": "if_offered", "offered_by": null,
            }},
        ])
    );
    // Every parameter that exists.
    for parameter in [
        MailParameter::ret(Ret::Full),
        MailParameter::deliver_by(120, ByMode::Return, false).unwrap(),
        MailParameter::deliver_by(1, ByMode::Return, true).unwrap(),
        MailParameter::deliver_by(-5, ByMode::Notify, false).unwrap(),
        MailParameter::deliver_by(0, ByMode::Notify, true).unwrap(),
        MailParameter::priority(-9).unwrap(),
        MailParameter::hold_for(60).unwrap().if_offered(),
        MailParameter::hold_until("2027-01-02T03:04:05Z").unwrap(),
        MailParameter::require_tls(),
        MailParameter::per_recipient_replies(),
        MailParameter::auth(None),
        MailParameter::auth(Some(&ascii)),
        MailParameter::auth(Some(&mailbox)),
        MailParameter::raw("X-LONELY", None).unwrap(),
    ] {
        comes_back(&parameter);
    }
    let notify = [Notify::SUCCESS, Notify::FAILURE, Notify::DELAY];
    for set in 0..8 {
        let chosen = (0..3).filter(|bit| set & (1 << bit) != 0);
        let chosen = chosen.fold(Notify::NEVER, |chosen, bit| chosen | notify[bit]);
        comes_back(&RcptParameter::notify(chosen));
    }
    let since = "2027-01-02T03:04:05Z";
    for parameter in [
        RcptParameter::original_recipient(&ascii).unwrap(),
        RcptParameter::original_recipient_of("x400", "c=de; a=\u{7e}").unwrap(),
        RcptParameter::original_recipient_of("utf-8", "plain+ascii").unwrap(),
        RcptParameter::valid_since(since, None).unwrap(),
        RcptParameter::valid_since(since, Some(RrvsAction::Continue)).unwrap(),
        RcptParameter::valid_since(since, Some(RrvsAction::Reject)).unwrap(),
        RcptParameter::raw("X-TAG", Some("7"))
            .unwrap()
            .offered_by("Y"),
    ] {
        comes_back(&parameter);
    }
}

/// A value that is read cannot end a command line, or be one that the calls would refuse.
#[test]
fn what_is_read_is_checked() {
    let with = |name: &str, value: Value| {
        let mut envelope = json!({"reverse_path": "a@b", "forward_paths": ["c@d", "e@f"]});
        envelope[name] = value;
        envelope
    };
    let refused = |name, value, why| is_refused::<Envelope>(with(name, value), why);
    refused(
        "reverse_path",
        json!("a@b>\r\nRCPT TO:<x@y"),
        "invalid address",
    );
    refused(
        "forward_paths",
        json!([]),
        "the envelope needs at least one recipient",
    );
    refused("forward_paths", json!([""]), "null path");
    refused("require_tls", json!(true), "unknown field `require_tls`");
    let notify = json!({"text": "NOTIFY=NEVER", "need": "required"});
    refused(
        "recipient_parameters",
        json!([{"recipient": 2, "parameter": notify}]),
        "recipient 2, counted from 0, and there are 2",
    );
    let text = |text: &str| json!({"text": text, "need": "if_offered"});
    for (mail, why) in [
        ("SIZE=1", "SIZE must not be written by hand"),
        ("NOTIFY=NEVER", "NOTIFY must not be written by hand"),
        ("X=1\r\nRSET", "invalid value of X"),
        ("X 1", "invalid parameter name"),
        ("RET=FULL RSET", "not as it is sent"),
        ("RET", "not as it is sent"),
        ("ret=FULL", "ret must not be written by hand"),
        ("ENVID=+0D+0A", "invalid value of ENVID"),
        ("ENVID=+0", "not as it is sent"),
        ("ENVID=+2b", "not as it is sent"),
        ("ENVID=+\u{20ac}x", "not as it is sent"),
        ("ENVID=a b", "not as it is sent"),
        ("BY=120", "not as it is sent"),
        ("BY=0;R", "BY cannot be 0"),
        ("BY=+5;N", "not as it is sent"),
        ("MT-PRIORITY=10", "MT-PRIORITY cannot be 10"),
        ("MT-PRIORITY=300", "not as it is sent"),
        ("HOLDUNTIL=2027-01-02T03:04:05Z\r\n", "HOLDUNTIL cannot be"),
        ("HOLDFOR=0", "HOLDFOR cannot be 0"),
        ("REQUIRETLS=1", "not as it is sent"),
        ("AUTH=+", "not as it is sent"),
        ("AUTH=nobody", "invalid address"),
        ("AUTH=", "not as it is sent"),
    ] {
        is_refused::<MailParameter>(text(mail), why);
    }
    for (rcpt, why) in [
        ("NOTIFY=NEVER,DELAY", "not as it is sent"),
        ("NOTIFY=DELAY,SUCCESS", "not as it is sent"),
        ("NOTIFY", "not as it is sent"),
        ("ORCPT=rfc822", "not as it is sent"),
        ("ORCPT=rfc822;a b", "not as it is sent"),
        ("ORCPT=r f;a", "invalid value of ORCPT"),
        (r"ORCPT=utf-8;a\x{D800}@b", "not as it is sent"),
        (r"ORCPT=utf-8;\x{0D}@b", "invalid address"),
        ("RRVS=2027-01-02T03:04:05Z;X", "not as it is sent"),
        ("RRVS=never", "RRVS cannot be"),
        ("RET=FULL", "RET must not be written by hand"),
    ] {
        is_refused::<RcptParameter>(text(rcpt), why);
    }
    // The keyword appears in an error line.
    for keyword in ["A\r\nforged", "A B", "", "-A", "A=1", "\u{c4}"] {
        for text in ["X-TAG=7", "RET=FULL"] {
            let offered = json!({"text": text, "need": "required", "offered_by": keyword});
            is_refused::<MailParameter>(offered, "invalid EHLO keyword");
        }
        let offered = json!({"text": "X-TAG=7", "need": "required", "offered_by": keyword});
        is_refused::<RcptParameter>(offered, "invalid EHLO keyword");
    }
    // RFC 8689: the parameter stays required.
    let tls: MailParameter = serde_json::from_value(text("REQUIRETLS")).unwrap();
    assert_eq!(tls, MailParameter::require_tls());
}

/// A server's text that is read stays data, and is shown on one line.
#[test]
fn what_is_read_makes_no_second_line() {
    let is_one_line = |text: &str| assert!(!text.contains(char::is_control), "{text:?}");
    for text in [json!("a\r\nforged\u{1b}[2J"), json!([97, 13, 10, 10, 155])] {
        let reply: Reply = serde_json::from_value(json!({"code": 550, "text": text})).unwrap();
        is_one_line(&reply.to_string());
        let error = Error::new(Stage::Rcpt, Outcome::Permanent, Cause::Rejected(reply));
        is_one_line(&error.to_string());
    }
    let refused = "A\r\nforged";
    let why = |error: serde_json::Error| is_one_line(&error.to_string());
    why(serde_json::from_value::<Mailbox>(json!(refused)).unwrap_err());
    why(serde_json::from_value::<Extension>(json!(refused)).unwrap_err());
    why(serde_json::from_value::<EnhancedCode>(json!(refused)).unwrap_err());
    for parameter in [
        json!({"text": refused, "need": "required"}),
        json!({"text": format!("X={refused}"), "need": "required"}),
        json!({"text": format!("ORCPT={refused}"), "need": "required"}),
        json!({"text": "X", "need": "required", "offered_by": refused}),
    ] {
        why(serde_json::from_value::<RcptParameter>(parameter).unwrap_err());
    }
}

/// A keyword from a call, not from JSON, does not make a second line either.
#[test]
fn a_keyword_of_the_caller_makes_no_second_line() {
    let receiver = Receiver::new();
    let parameter = MailParameter::raw("X-TAG", None).unwrap();
    let envelope = Envelope::new("a@b", ["c@d"]).unwrap();
    let envelope = envelope.parameter(parameter.offered_by("A\r\nforged"));
    let server = Server::new(receiver.local_addr()).tls(TlsPolicy::Never);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let error = session.send(envelope, b"x\r\n").unwrap_err().to_string();
    assert!(!error.contains(char::is_control), "{error:?}");
    assert!(receiver.messages().is_empty());
}

/// One recipient is refused, and the other one has the message. Both adapters use the same words.
#[test]
fn a_report_of_a_delivery() {
    let peer = Peer::start(Options {
        act: Arc::new(|moment| match moment.command {
            "RCPT TO:<carol@example.net>" => Act::Reply("550 5.1.1 no such user\r\n"),
            "." => Act::Reply("250 2.0.0 queued as 4711\r\n"),
            _ => Act::Accept,
        }),
        ..Options::default()
    })
    .unwrap();
    let server = Server::new(peer.server()).tls(TlsPolicy::Never);
    let envelope = || {
        let to = ["bob@example.net", "carol@example.net"];
        Envelope::new("alice@example.org", to).unwrap()
    };
    let body = "Subject: x\r\n\r\n";
    let blocking = smtp_blocking::Session::connect(&server)
        .unwrap()
        .send_last(envelope(), body)
        .unwrap();
    let tokio = runtime().block_on(async {
        let session = smtp_tokio::Session::connect(&server).await;
        session.unwrap().send_last(envelope(), body).await.unwrap()
    });
    let expected = json!({
        "outcome": "permanent",
        "recipients": [
            {
                "mailbox": "bob@example.net",
                "reply": {"code": 250, "enhanced": "2.0.0", "text": "2.0.0 queued as 4711"},
                "error": null,
            },
            {
                "mailbox": "carol@example.net",
                "reply": null,
                "error": {
                    "stage": "rcpt",
                    "outcome": "permanent",
                    "retry": "never",
                    "concerns_session": false,
                    "recipient": 1,
                    "command": "RCPT TO:<carol@example.net>",
                    "cause": {
                        "kind": "rejected",
                        "text": "server said 550 5.1.1 no such user",
                        "reply": {"code": 550, "enhanced": "5.1.1", "text": "5.1.1 no such user"},
                    },
                    "text": "rcpt: RCPT TO:<carol@example.net>: server said 550 5.1.1 no such user \
                             (permanent, do not send again unchanged)",
                },
            },
        ],
    });
    assert_eq!(to_value(&blocking), expected);
    assert_eq!(to_value(&tokio), expected);
    let failure = blocking.failures().next().unwrap();
    let written = to_value(&failure);
    assert_eq!(written["index"], 1);
    assert_eq!(written["mailbox"], "carol@example.net");
    assert_eq!(written["error"], expected["recipients"][1]["error"]);
}

#[test]
fn an_error_of_an_adapter() {
    let peer = Peer::start(Options {
        act: Arc::new(|moment| match moment.command {
            "." => Act::Cut,
            _ => Act::Accept,
        }),
        ..Options::default()
    })
    .unwrap();
    let server = Server::new(peer.server()).tls(TlsPolicy::Never);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let error = session.send(envelope, "Subject: x\r\n\r\n").unwrap_err();
    let mut written = to_value(&error);
    assert_eq!(written["round_trips"], error.round_trips());
    assert_eq!(written["text"], error.to_string());
    assert_eq!(written["report"]["outcome"], "in_doubt");
    let object = written.as_object_mut().unwrap();
    for name in ["round_trips", "text", "report", "command"] {
        assert!(object.remove(name).is_some(), "{name}");
    }
    let expected = json!({
        "stage": "eom",
        "outcome": "in_doubt",
        "retry": "ask_person",
        "concerns_session": true,
        "recipient": null,
        "cause": {"kind": "disconnected", "text": "the connection was lost"},
        "tls": null,
    });
    assert_eq!(written, expected);
}

#[test]
fn causes_have_what_is_known_of_them() {
    let helo = Cause::HelloRejected {
        ehlo: reply(500, b"what?"),
        helo: reply(550, b"no"),
    };
    let limit = Cause::LimitExceeded {
        name: "RCPTMAX",
        limit: 5,
        value: 6,
    };
    for (cause, expected) in [
        (
            helo,
            json!({
                "kind": "hello_rejected",
                "text": "server said 500 what? to EHLO and 550 no to HELO",
                "ehlo": {"code": 500, "enhanced": null, "text": "what?"},
                "reply": {"code": 550, "enhanced": null, "text": "no"},
            }),
        ),
        (
            Cause::TimedOut(Duration::from_millis(1_500)),
            json!({"kind": "timed_out", "text": "timed out after 1.5 s", "seconds": 1.5}),
        ),
        (
            Cause::Unsupported(Extension::SmtpUtf8),
            json!({
                "kind": "unsupported",
                "text": "the server does not offer SMTPUTF8, which this message needs",
                "extension": "SMTPUTF8",
            }),
        ),
        (
            limit,
            json!({
                "kind": "limit_exceeded",
                "text": "the server takes 5 at most (RCPTMAX of LIMITS), and this would make 6",
                "name": "RCPTMAX",
                "limit": 5,
                "value": 6,
            }),
        ),
        (
            Cause::TooLarge { size: 9, limit: 8 },
            json!({
                "kind": "too_large",
                "text": "the message has 9 octets, and the server takes 8 at most",
                "size": 9,
                "limit": 8,
            }),
        ),
        (
            Cause::TlsUnavailable(Some(reply(454, b"later"))),
            json!({
                "kind": "tls_unavailable",
                "text": "TLS is required, and the server said 454 later",
                "reply": {"code": 454, "enhanced": null, "text": "later"},
            }),
        ),
    ] {
        let written = to_value(&cause);
        assert_eq!(written, expected);
        // Such a format needs the number of fields in advance, and gets as many.
        let octets = postcard::to_allocvec(&cause).unwrap();
        let count = written.as_object().unwrap().len();
        assert_eq!(usize::from(octets[0]), count);
    }
}

/// Programs compare this word, so it never changes.
#[test]
fn each_cause_has_its_word() {
    let token = Cause::TokenRejected {
        reply: reply(535, b"no"),
        error: Box::new(TokenError::parse(b"{\"status\":\"invalid_token\"}").unwrap()),
    };
    let misuse = Misuse::NoBodyWanted;
    for (cause, word) in [
        (Cause::Disconnected, "disconnected"),
        (Cause::Transport("no".into()), "transport"),
        (
            Cause::Protocol(ProtocolError::Unexpected(reply(250, b"x"))),
            "protocol",
        ),
        (Cause::UnsupportedKeyword("X".into()), "unsupported_keyword"),
        (Cause::TlsUnverified, "tls_unverified"),
        (Cause::Excluded("no".into()), "excluded"),
        (Cause::TlsFailed("no".into()), "tls_failed"),
        (Cause::TlsMisconfigured("no".into()), "tls_misconfigured"),
        (Cause::TlsUntrusted("no".into()), "tls_untrusted"),
        (Cause::AuthUnavailable, "auth_unavailable"),
        (Cause::NoCommonMechanism("X".into()), "no_common_mechanism"),
        (Cause::CredentialsInClear, "credentials_in_clear"),
        (
            Cause::CredentialsUnverified("no".into()),
            "credentials_unverified",
        ),
        (token, "token_rejected"),
        (
            Cause::Mechanism(MechanismError::UnexpectedChallenge),
            "mechanism",
        ),
        (Cause::Body(BodyError::BareCr), "body"),
        (Cause::AllOrNothing, "all_or_nothing"),
        (Cause::Local("no".into()), "local"),
        (Cause::Settings("no".into()), "settings"),
        (Cause::Misuse(misuse), "misuse"),
    ] {
        let written = to_value(&cause);
        assert_eq!(written["kind"], word);
        assert_eq!(written["text"], cause.to_string());
    }
}

/// A server that echoes the password, as it is and as it was sent.
#[test]
fn no_secret_is_in_an_error() {
    use base64::Engine as _;
    let sent = base64::prelude::BASE64_STANDARD.encode("\0alice\0s3cr3t-Passw0rd");
    let mut config = Config::new(ClientName::parse("client.example").unwrap());
    config.tls = TlsPolicy::Never;
    config.credentials = Some(Credentials::password("alice", "s3cr3t-Passw0rd").permit_in_clear());
    let mut engine = Connection::new(config, Instant::default());
    let refusal = format!("535 5.7.8 s3cr3t-Passw0rd is wrong, of {sent}\r\n");
    for input in ["220 mx\r\n", "250-mx\r\n250 AUTH PLAIN\r\n", &refusal] {
        engine.handle_input(Instant::default(), input.as_bytes());
        let mut out = Vec::new();
        engine.poll_transmit_onto(Instant::default(), BodyPart::Next(b""), &mut out);
        engine.handle_written(Instant::default(), out.len());
    }
    let mut closed = None;
    while let Some(event) = engine.poll_event() {
        if let Event::Closed(result) = event {
            closed = result.err();
        }
    }
    let error = closed.expect("the login is refused");
    let envelope = Envelope::new("a@b", ["c@d"]).unwrap();
    let report = Report::not_attempted(envelope, &error);
    let adapter_error = to_value(&smtp_adapter::Error::new(error.clone())).to_string();
    for text in [
        to_value(&error).to_string(),
        to_value(&report).to_string(),
        adapter_error,
    ] {
        assert!(text.contains("5.7.8"), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
        assert!(!text.contains(&sent), "{text}");
    }
}

/// For a type that can be written, this finds the inherent method. Otherwise it finds the trait's.
struct Probe<T>(PhantomData<T>);

impl<T: Serialize> Probe<T> {
    fn is_written(&self) -> bool {
        true
    }
}

trait NotWritten {
    fn is_written(&self) -> bool {
        false
    }
}

impl<T> NotWritten for Probe<T> {}

#[test]
fn credentials_are_never_written() {
    assert!(Probe::<Envelope>(PhantomData).is_written());
    assert!(!Probe::<Credentials>(PhantomData).is_written());
    assert!(!Probe::<smtp_proto::auth::Secret>(PhantomData).is_written());
    // Types that may hold secrets, or bind a login to its connection.
    assert!(!Probe::<Config>(PhantomData).is_written());
    assert!(!Probe::<Server>(PhantomData).is_written());
    assert!(!Probe::<Connection>(PhantomData).is_written());
    assert!(!Probe::<TlsFacts>(PhantomData).is_written());
}
