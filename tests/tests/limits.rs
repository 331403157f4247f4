//! More recipients than a server takes in one transaction, in the bulk delivery of both adapters. Each message has
//! one report, and every recipient gets it once.

use std::cell::Cell;
use std::time::Duration;

use smtp_proto::{Cause, Chunking, Envelope, Report, TlsPolicy};
use smtp_tests::receiver::{Limits, Options, Receiver};

const BODY: &[u8] = b"Subject: to many\r\n\r\n.\r\n";

/// Ways to deliver that must give the same result.
#[derive(Clone, Copy, Debug)]
struct Way {
    learn_limits: bool,
    overlap: bool,
    chunking: Chunking,
}

/// The reports, and how often a body was opened.
type Deliver = fn(&Receiver, Way, &[Envelope]) -> (Vec<Report>, usize);

/// A server of either adapter.
macro_rules! server {
    ($server:ty, $receiver:expr, $way:expr) => {
        <$server>::new(&$receiver.local_addr().to_string())
            .tls(TlsPolicy::Never)
            .learn_limits($way.learn_limits)
            .overlap($way.overlap)
            .chunking($way.chunking)
    };
}

fn by_blocking(receiver: &Receiver, way: Way, envelopes: &[Envelope]) -> (Vec<Report>, usize) {
    let mut session =
        smtp_blocking::Session::connect(server!(smtp_blocking::Server, receiver, way)).unwrap();
    let opened = Cell::new(0);
    let messages = envelopes.iter().map(|envelope| {
        smtp_blocking::Message::new(envelope.clone(), || {
            opened.set(opened.get() + 1);
            Ok(BODY)
        })
    });
    let reports = session.send_all(messages).and_quit().collect();
    (reports, opened.get())
}

fn by_tokio(receiver: &Receiver, way: Way, envelopes: &[Envelope]) -> (Vec<Report>, usize) {
    let runtime = ::tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut session = smtp_tokio::Session::connect(&server!(smtp_tokio::Server, receiver, way))
            .await
            .unwrap();
        let opened = Cell::new(0);
        let messages = envelopes.iter().map(|envelope| {
            smtp_tokio::Message::new(envelope.clone(), || {
                opened.set(opened.get() + 1);
                async { Ok(BODY) }
            })
        });
        let mut bulk = session.send_all(smtp_tokio::iter(messages)).and_quit();
        let mut reports = Vec::new();
        while let Some(report) = bulk.next().await {
            reports.push(report);
        }
        (reports, opened.get())
    })
}

const ADAPTERS: [Deliver; 2] = [by_blocking, by_tokio];

/// Every way, with or without learning limits.
fn ways(learn_limits: bool) -> impl Iterator<Item = Way> {
    let chunkings = [Chunking::Auto, Chunking::Never, Chunking::Eager];
    let both = chunkings.map(|chunking| {
        [false, true].map(|overlap| Way {
            learn_limits,
            overlap,
            chunking,
        })
    });
    both.into_iter().flatten()
}

/// An envelope to this many recipients whose names begin with this.
fn envelope(name: &str, recipients: usize) -> Envelope {
    Envelope::new(
        "alice@example.org",
        (0..recipients).map(|n| format!("{name}{n}@example.net")),
    )
    .unwrap()
}

/// The number of recipients of each stored message. It also checks that nobody was left out or served twice.
#[track_caller]
fn transactions(receiver: &Receiver, envelopes: &[Envelope]) -> Vec<usize> {
    let stored = receiver.messages();
    for stored in &stored {
        assert_eq!(stored.content(), BODY);
    }
    let served = stored.iter().flat_map(|stored| &stored.forward_paths);
    let wanted = envelopes
        .iter()
        .flat_map(Envelope::forward_paths)
        .map(|path| path.as_str());
    assert!(served.map(String::as_str).eq(wanted));
    stored
        .iter()
        .map(|stored| stored.forward_paths.len())
        .collect()
}

#[test]
fn a_limit_is_learnt() {
    for deliver in ADAPTERS {
        for way in ways(true) {
            let receiver = Receiver::start(Options::default()).unwrap();
            let envelopes = [envelope("r", 2_500)];
            let (reports, opened) = deliver(&receiver, way, &envelopes);
            assert_eq!(reports.len(), 1);
            assert_eq!(reports[0].recipients.len(), 2_500);
            assert!(
                reports[0].is_success(),
                "{way:?}: {:?}",
                reports[0].failures().next()
            );
            assert_eq!(
                transactions(&receiver, &envelopes),
                [1_000, 1_000, 500],
                "{way:?}"
            );
            assert_eq!(opened, 3, "{way:?}");
        }
    }
}

#[test]
fn a_limit_is_not_learnt_unasked() {
    for deliver in ADAPTERS {
        for way in ways(false) {
            let receiver = Receiver::start(Options::default()).unwrap();
            let (reports, opened) = deliver(&receiver, way, &[envelope("r", 2_500)]);
            let failures: Vec<_> = reports[0].failures().collect();
            assert_eq!((failures.len(), opened), (1_500, 1));
            for (n, failure) in failures.into_iter().enumerate() {
                let code = failure.error.reply().map(|reply| reply.code().get());
                assert_eq!((failure.index, code), (1_000 + n, Some(452)));
            }
        }
    }
}

#[test]
fn a_stated_limit_is_kept_among_other_messages() {
    for deliver in ADAPTERS {
        for way in ways(false).chain(ways(true)) {
            let limits = Some(Limits {
                rcpt_max: 2,
                mail_max: 100,
            });
            let receiver = Receiver::start(Options {
                limits,
                ..Options::default()
            })
            .unwrap();
            let envelopes = [("a", 5), ("b", 1), ("c", 2), ("d", 4), ("e", 3)]
                .map(|(name, n)| envelope(name, n));
            let (reports, opened) = deliver(&receiver, way, &envelopes);
            let counts: Vec<_> = reports
                .iter()
                .map(|report| report.recipients.len())
                .collect();
            assert_eq!(counts, [5, 1, 2, 4, 3]);
            assert!(
                reports.iter().all(Report::is_success),
                "{way:?}: {reports:?}"
            );
            assert_eq!(
                transactions(&receiver, &envelopes),
                [2, 2, 1, 1, 2, 2, 2, 2, 1],
                "{way:?}"
            );
            assert_eq!(opened, 9, "{way:?}");
        }
    }
}

#[test]
fn refusals_stay_with_their_recipients() {
    for deliver in ADAPTERS {
        for way in ways(true) {
            let limits = Some(Limits {
                rcpt_max: 2,
                mail_max: 100,
            });
            let receiver = Receiver::start(Options {
                limits,
                ..Options::default()
            })
            .unwrap();
            // The second transaction has nobody, and the fourth is not full.
            let to = ["a", "b", "refused1", "refused2", "c", "refused3", "d"];
            let to = to.map(|user| format!("{user}@example.net"));
            let (reports, _) = deliver(&receiver, way, &[Envelope::new("", to).unwrap()]);
            let failed: Vec<_> = reports[0]
                .failures()
                .map(|failure| (failure.index, failure.error.recipient))
                .collect();
            assert_eq!(
                failed,
                [(2, Some(2)), (3, Some(3)), (5, Some(5))],
                "{way:?}"
            );
            let stored: Vec<_> = receiver
                .messages()
                .into_iter()
                .map(|stored| stored.forward_paths)
                .collect();
            let expected = [
                vec!["a@example.net", "b@example.net"],
                vec!["c@example.net"],
                vec!["d@example.net"],
            ];
            assert_eq!(stored, expected, "{way:?}");
        }
    }
}

/// Whoever sends a message from one reader cannot give it twice, whatever the envelope says. One in memory is sent as
/// often as it takes.
#[test]
fn a_message_that_is_sent_alone_is_split_if_it_lies_in_memory() {
    let limits = Some(Limits {
        rcpt_max: 2,
        mail_max: 100,
    });
    let receiver = Receiver::start(Options {
        limits,
        ..Options::default()
    })
    .unwrap();
    let way = Way {
        learn_limits: true,
        overlap: false,
        chunking: Chunking::Auto,
    };
    let exceeded = Cause::LimitExceeded {
        name: "RCPTMAX",
        limit: 2,
        value: 3,
    };
    let envelope = envelope("r", 3).reopenable(true);

    let mut session =
        smtp_blocking::Session::connect(server!(smtp_blocking::Server, receiver, way)).unwrap();
    assert_eq!(
        session
            .send(envelope.clone(), std::io::BufReader::new(BODY))
            .unwrap_err()
            .cause(),
        &exceeded
    );
    assert!(receiver.messages().is_empty());
    let once = envelope.clone().reopenable(false);
    let report = session.send_last(once.clone(), BODY).unwrap();
    assert!(report.is_success());
    assert_eq!(transactions(&receiver, std::slice::from_ref(&once)), [2, 1]);

    let runtime = ::tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut session = smtp_tokio::Session::connect(&server!(smtp_tokio::Server, receiver, way))
            .await
            .unwrap();
        let reader = ::tokio::io::BufReader::new(BODY);
        let refused = session.send(envelope, reader).await.unwrap_err();
        assert_eq!(refused.cause(), &exceeded);
        let report = session.send_last(once.clone(), BODY).await.unwrap();
        assert!(report.is_success());
    });
    assert_eq!(transactions(&receiver, &[once.clone(), once]), [2, 1, 2, 1]);
    assert!(receiver.wait_until(Duration::from_secs(60), |counts| counts.quits == 2));
}
