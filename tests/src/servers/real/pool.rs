//! Many messages over a pool of sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use smtp_proto::{Envelope, Report};

use super::client::{Adapter, Manner, terms};
use super::many::numbered;
use super::{Server, same};
use crate::play::bulk::runtime;

/// Callers at a time, and sessions that they share.
const CALLERS: usize = 8;
const SESSIONS: usize = 3;

/// So many messages by each adapter: half of them by callers of `Pool::send`, half by one `Pool::send_all`. Each arrives
/// once for each of its recipients, octet for octet, and the server's log has each once.
pub fn pool(server: &Server, manner: &Manner, count: usize) {
    for &adapter in Adapter::all(server) {
        for by_callers in [true, false] {
            let way = if by_callers { "callers" } else { "all" };
            let name = format!("pool-{way}-{}", adapter.name());
            let messages: Vec<_> = (0..count / 2).map(|n| numbered(&name, n)).collect();
            let reports = send(server, adapter, manner, by_callers, &messages);
            assert_eq!(reports.len(), messages.len(), "{name}");
            for report in &reports {
                assert!(report.is_success(), "{name}: {report:?}");
            }
            arrives_once(server, &name, &messages);
        }
    }
}

fn send(
    server: &Server,
    adapter: Adapter,
    manner: &Manner,
    by_callers: bool,
    messages: &[(Envelope, Vec<u8>)],
) -> Vec<Report> {
    let socket = matches!(adapter, Adapter::BlockingUnix | Adapter::TokioUnix);
    let terms = terms(server, manner, socket);
    match adapter {
        Adapter::Blocking | Adapter::BlockingUnix => {
            let pool = smtp_blocking::Pool::new(terms).max_sessions(SESSIONS);
            match by_callers {
                true => by_threads(&pool, messages),
                false => {
                    let items = messages.iter().cloned().map(|(envelope, body)| {
                        smtp_blocking::Message::new(envelope, move || {
                            Ok(std::io::Cursor::new(body.clone()))
                        })
                    });
                    let items: Vec<_> = items.collect();
                    pool.send_all(items).map(|(_, report)| report).collect()
                }
            }
        }
        Adapter::Tokio | Adapter::TokioUnix => {
            let pool = smtp_tokio::Pool::new(terms).max_sessions(SESSIONS);
            runtime().block_on(by_tasks(pool, by_callers, messages))
        }
    }
}

fn by_threads(pool: &smtp_blocking::Pool, messages: &[(Envelope, Vec<u8>)]) -> Vec<Report> {
    thread::scope(|scope| {
        let callers: Vec<_> = messages
            .chunks(messages.len().div_ceil(CALLERS))
            .map(|mine| {
                scope.spawn(move || {
                    let sent = mine
                        .iter()
                        .map(|(envelope, body)| pool.send(envelope.clone(), body).unwrap());
                    sent.collect::<Vec<_>>()
                })
            })
            .collect();
        let reports = callers.into_iter().map(|caller| caller.join().unwrap());
        reports.flatten().collect()
    })
}

async fn by_tasks(
    pool: smtp_tokio::Pool,
    by_callers: bool,
    messages: &[(Envelope, Vec<u8>)],
) -> Vec<Report> {
    let mut reports = Vec::new();
    if by_callers {
        let pool = Arc::new(pool);
        let mut callers = tokio::task::JoinSet::new();
        for mine in messages.chunks(messages.len().div_ceil(CALLERS)) {
            let (pool, mine) = (pool.clone(), mine.to_vec());
            callers.spawn(async move {
                let mut reports = Vec::new();
                for (envelope, body) in mine {
                    reports.push(pool.send(envelope, body).await.unwrap());
                }
                reports
            });
        }
        while let Some(mine) = callers.join_next().await {
            reports.extend(mine.unwrap());
        }
        return reports;
    }
    let items: Vec<_> = messages
        .iter()
        .cloned()
        .map(|(envelope, body)| {
            smtp_tokio::Message::new(envelope, move || {
                let body = body.clone();
                async move { Ok(std::io::Cursor::new(body)) }
            })
        })
        .collect();
    let mut all = pool.send_all(smtp_tokio::iter(items));
    while let Some((_, report)) = all.next().await {
        reports.push(report);
    }
    reports
}

/// Each message arrives once for each of its recipients.
#[track_caller]
fn arrives_once(server: &Server, name: &str, messages: &[(Envelope, Vec<u8>)]) {
    let suffix = format!(".{name}@example.test");
    let count = messages
        .iter()
        .map(|(envelope, _)| envelope.forward_paths().len())
        .sum();
    let stored = server.wait_for_mail(|to| to.ends_with(&suffix), count, Duration::from_secs(120));
    let stored = stored.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut arrived = BTreeMap::<String, Vec<&[u8]>>::new();
    for one in &stored {
        for to in &one.recipients {
            arrived.entry(to.clone()).or_default().push(&one.body);
        }
    }
    for (envelope, body) in messages {
        for to in envelope.forward_paths() {
            let bodies = arrived.remove(to.as_str()).unwrap_or_default();
            assert_eq!(bodies.len(), 1, "{name}: {to} has it so often");
            same(to.as_str(), bodies[0], body);
        }
    }
    assert!(
        arrived.is_empty(),
        "{name}: {:?} had no mail",
        arrived.keys()
    );
    let mark = format!("@{name}.example.org");
    let taken = || -> Vec<String> {
        let log = server.log();
        let id = |line: &str| {
            let (_, id) = line.split_once(server.kind.taken)?;
            Some(id.split_once(&mark)?.0.to_owned())
        };
        log.lines().filter_map(id).collect()
    };
    // Another process may be writing the log, and have some lines still to write.
    let deadline = Instant::now() + Duration::from_secs(10);
    while taken().len() < messages.len() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let mut taken = taken();
    taken.sort_unstable();
    // Dovecot names it for each recipient.
    if server.kind.recipients.is_none() {
        taken.dedup();
    }
    assert_eq!(taken.len(), messages.len(), "{name}: in the log");
    taken.dedup();
    assert_eq!(taken.len(), messages.len(), "{name}: each once");
}
