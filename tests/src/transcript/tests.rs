use smtp_proto::{Mailbox, Reply, Report};

use super::parse::{text, text_line};
use super::{Action, Observed, Transcript};

#[test]
fn escapes() {
    let line = |source| text_line(source).unwrap();
    assert_eq!(line("a"), b"a\r\n");
    assert_eq!(line("a\\"), b"a");
    assert_eq!(line("a\\\\"), b"a\\\r\n");
    assert_eq!(line("\\r\\n\\0\\xfF\\s\\"), b"\r\n\0\xff ");
    assert_eq!(line("x\\{3*ab\\r}y"), b"xab\rab\rab\ry\r\n");
    for bad in ["\\q", "\\x1", "\\{3*a", "\\{a}"] {
        assert!(text(bad).is_err(), "{bad}");
    }
}

const WHOLE: &str = "# x\nrule a.b\nconfig user=u password=p tls=never\n\
    message from=<a@b> to=<c@d>,<e@f>\n| x\n\nS: 250-x\nS: 250 y\nsplit\nS: 334 x\n\
    C: AUTH PLAIN abc\nC: QUIT\nexpect 1 * ok 250\nexpect closed ok\n";

#[test]
fn lines_that_follow_each_other_are_one_step() {
    let transcript = Transcript::parse("x", WHOLE).unwrap();
    let actions: Vec<_> = transcript
        .steps
        .iter()
        .map(|step| step.action.clone())
        .collect();
    let expected = [
        Action::Server(b"250-x\r\n250 y\r\n".to_vec()),
        Action::Split,
        Action::Server(b"334 x\r\n".to_vec()),
        Action::Client(b"AUTH PLAIN abc\r\nQUIT\r\n".to_vec()),
    ];
    assert_eq!(actions, expected);
    assert_eq!(transcript.secrets(), ["abc"]);
    assert_eq!(transcript.messages[0].body, b"x\r\n");
}

#[test]
fn what_is_no_transcript_is_refused() {
    for (good, bad) in [
        ("# x\n", ""),
        ("rule a.b\n", ""),
        ("tls=never", "tls=sometimes"),
        ("tls=never", "timeout.lunch=1ms"),
        ("password=p", ""),
        ("to=<c@d>,<e@f>", "to=<c@d>,<>"),
        ("split\n", "splits\n"),
        ("C: QUIT\n", "config lmtp\n"),
        ("1 *", "1 1"),
        ("1 *", "2 *"),
        ("1 *", "1 3"),
        ("expect closed ok\n", ""),
    ] {
        let text = WHOLE.replacen(good, bad, 1);
        assert!(Transcript::parse("x", &text).is_err(), "{text}");
    }
}

#[test]
fn a_difference_is_seen() {
    let transcript = Transcript::parse("x", WHOLE).unwrap();
    let reply = |code| Reply::new(smtp_proto::reply::ReplyCode::new(code).unwrap(), b"x");
    let report = |codes: [u16; 2]| {
        let mailbox = Mailbox::parse("c@d").unwrap();
        Some(Report::new(
            codes.map(|code| (mailbox.clone(), Ok(reply(code)))),
        ))
    };
    let mut observed = Observed {
        reports: vec![report([250, 250])],
        closed: Some(Ok(())),
        ..Observed::default()
    };
    assert!(transcript.check(&observed).is_ok());
    observed.ready = true;
    observed.reports = vec![report([250, 251])];
    observed.closed = None;
    let failure = transcript.check(&observed).unwrap_err();
    assert_eq!(failure.message.lines().count(), 4, "{failure}");
    observed.reports.clear();
    assert!(transcript.check(&observed).is_err());
}
