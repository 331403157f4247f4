//! Many messages over one session.

use std::thread::sleep;
use std::time::{Duration, Instant};

use smtp_proto::{Chunking, Envelope, Mailbox};

use super::client::{Adapter, Manner};
use super::{SENDER, Server, address, same};

/// A message to five recipients, with 10 KiB of lines that no other message has.
pub(super) fn numbered(bulk: &str, n: usize) -> (Envelope, Vec<u8>) {
    let mut body = format!("Subject: number {n}\r\nMessage-ID: <{n}@{bulk}.example.org>\r\n\r\n");
    for line in 0.. {
        if body.len() >= 10 * 1024 {
            break;
        }
        body += &format!(
            ".line {line} of message {n} of {bulk} begins with a dot, and \u{e9} is not ASCII\r\n"
        );
    }
    let to = (0..5).map(|r| address(&format!("r{r}.m{n}.{bulk}")));
    (Envelope::new(SENDER, to).unwrap(), body.into_bytes())
}

/// `count` messages of 10 KiB to five recipients each, over one session. Each arrives once for each recipient, octet
/// for octet, in order. A message costs two round trips, or one if it overlaps or is eager, or almost none if both. That
/// needs a server [`far_away`](super::far_away): a near one answers before there is more to send.
pub fn bulk(server: &Server, adapter: Adapter, manner: &Manner, count: usize) {
    let eager = manner.chunking == Chunking::Eager && server.kind.lmtp_socket.is_none();
    let overlapping = if manner.overlap { "-overlapping" } else { "" };
    let name = format!("{}-{:?}{overlapping}", adapter.name(), manner.chunking).to_lowercase();
    let messages: Vec<_> = (0..count).map(|n| numbered(&name, n)).collect();
    let start = Instant::now();
    let bulk = adapter.open(server, manner).send_all(&messages);
    let sent = start.elapsed();
    let failures: Vec<_> = bulk
        .reports
        .iter()
        .enumerate()
        .filter(|(_, report)| !report.is_success())
        .collect();
    assert!(
        failures.is_empty(),
        "{} failed, first {:?}",
        failures.len(),
        failures[0]
    );
    assert_eq!(bulk.reports.len(), count);
    assert!(!bulk.overlap_broken);
    let expected = match (eager, manner.overlap && server.kind.may_overlap()) {
        // MAIL, five times RCPT, DATA, the body.
        (..) if !server.kind.pipelining => 8 * count..=8 * count,
        (false, false) => 2 * count..=2 * count,
        (false, true) => count + 1..=count + 1,
        (true, false) => count..=count,
        (true, true) => 1..=count / 8,
    };
    assert!(
        expected.contains(&(bulk.round_trips as usize)),
        "{} round trips",
        bulk.round_trips
    );

    let suffix = format!(".{name}@example.test");
    let stored = server.wait_for_mail(
        |to| to.ends_with(&suffix),
        5 * count,
        Duration::from_secs(120),
    );
    let stored = stored.unwrap_or_else(|error| panic!("{name}: {error}"));
    println!(
        "{name}: {count} messages, {:.3} round trips each, {sent:.1?} to send, {:.1?} until all were stored",
        bulk.round_trips as f64 / count as f64,
        start.elapsed()
    );
    // Nothing was taken twice, or in another order: each message is named in the log as it is taken. Another
    // process may be writing the log, and have some lines still to write.
    let taken = || -> Vec<usize> {
        let id = |line: &str| {
            let (_, id) = line.split_once(server.kind.taken)?;
            id.split_once(&format!("@{name}.example.org"))?
                .0
                .parse()
                .ok()
        };
        server.log().lines().filter_map(id).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while taken().last().is_none_or(|&last| last + 1 < count) && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
    }
    let mut taken = taken();
    taken.dedup(); // Dovecot names it for each recipient.
    assert!(
        taken.into_iter().eq(0..count),
        "not each once and in order in the log"
    );
    // Sorted by their names in the queue, messages are in order too.
    let mut groups = stored.chunk_by(|a, b| a.id == b.id);
    for (n, (envelope, body)) in messages.iter().enumerate() {
        let group = groups.next().unwrap_or_default();
        let mut recipients: Vec<_> = group.iter().flat_map(|stored| &stored.recipients).collect();
        recipients.sort();
        let expected = envelope.forward_paths().iter().map(Mailbox::as_str);
        assert!(
            recipients.iter().copied().eq(expected),
            "message {n} of {name}: {recipients:?}"
        );
        for stored in group {
            same(&format!("message {n} of {name}"), &stored.body, body);
        }
    }
    assert!(groups.next().is_none());
}
