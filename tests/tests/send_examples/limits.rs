//! A server's limits for a transaction, and for a session.

use smtp_tests::receiver::{Limits, Options, Receiver};

use super::run::run;
use super::server::receiver;
use super::{Adapter, MESSAGE, ONE};

for_both!(
    recipients_beyond_a_stated_limit,
    recipients_beyond_a_limit_that_is_not_stated,
    messages_beyond_a_stated_limit,
);

const MANY: usize = 2_500;

fn many() -> Vec<String> {
    (0..MANY).map(|n| format!("r{n}@example.net")).collect()
}

/// How many recipients each message on this server has. Together they are all recipients, in order.
#[track_caller]
fn transactions(receiver: &Receiver, to: &[&str]) -> Vec<usize> {
    let stored = receiver.messages();
    assert!(stored.iter().all(|stored| stored.content() == MESSAGE));
    let all: Vec<_> = stored
        .iter()
        .flat_map(|stored| &stored.forward_paths)
        .collect();
    assert_eq!(all, to);
    stored
        .iter()
        .map(|stored| stored.forward_paths.len())
        .collect()
}

fn recipients_beyond_a_stated_limit(adapter: Adapter) {
    let limits = Some(Limits {
        rcpt_max: 1_000,
        mail_max: 10,
    });
    let (receiver, address) = receiver(Options {
        limits,
        ..Options::default()
    });
    let to = many();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let run = run(adapter, "split", Some(address), &to, &[]);
    run.is(0, "success", None);
    assert_eq!(run.stdout.lines().count(), 1, "one report");
    let results = run.json["recipients"].as_array().unwrap();
    assert_eq!(results.len(), MANY);
    for (result, to) in results.iter().zip(&to) {
        assert_eq!(
            (&result["address"], &result["code"]),
            (&(*to).into(), &250.into())
        );
    }
    // Each has the reply to its own transaction.
    let text = |index: usize| results[index]["text"].as_str().unwrap();
    assert!(text(999).ends_with("0001") && text(1_000).ends_with("0002"));
    assert!(text(1_999).ends_with("0002") && text(2_000).ends_with("0003"));
    assert_eq!(transactions(&receiver, &to), [1_000, 1_000, 500]);
}

fn recipients_beyond_a_limit_that_is_not_stated(adapter: Adapter) {
    let (receiver, address) = receiver(Options::default());
    let to = many();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    let run = run(adapter, "limit", Some(address), &to, &[]);
    run.is(75, "partial", Some("rcpt"));
    let results = run.json["recipients"].as_array().unwrap();
    let is = |outcome: &str| {
        results
            .iter()
            .filter(|result| result["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        (is("success"), is("temporary"), results.len()),
        (1_000, 1_500, MANY)
    );
    let late = &results[1_000];
    assert_eq!(
        (&late["code"], &late["enhanced"]),
        (&452.into(), &"4.5.3".into())
    );
    assert_eq!(transactions(&receiver, &to[..1_000]), [1_000]);
}

fn messages_beyond_a_stated_limit(adapter: Adapter) {
    let limits = Some(Limits {
        rcpt_max: 10,
        mail_max: 2,
    });
    let (receiver, address) = receiver(Options {
        limits,
        ..Options::default()
    });
    let run = run(adapter, "mailmax", Some(address), &ONE, &["--repeat", "3"]);
    assert_eq!((run.code, &run.json["outcome"]), (75, &"partial".into()));
    run.is_summary(3, 2);
    assert_eq!(receiver.messages().len(), 2);
}
