//! The pools of both adapters behind a proxy that cuts octets apart and ends connections. The server's books judge.
//! What was *sent* is there once. What failed is not there. What is in doubt is there once at most.

use std::sync::{Arc, Mutex};
use std::thread;

use smtp_adapter::{Error, Server};
use smtp_proto::{Envelope, Outcome, Report, TlsPolicy};
use smtp_tests::faults::proxy::Proxy;
use smtp_tests::receiver::Receiver;
use smtp_tests::watchdog::{LIMIT, within_limit};

/// Messages of a run, and threads or tasks that send them.
const MESSAGES: usize = 24;
const SENDERS: usize = 3;

type Reports = Vec<(usize, Outcomes)>;

/// What became of the one recipient of a message.
type Outcomes = Result<(), Outcome>;

fn envelope(number: usize) -> Envelope {
    let recipient = format!("n{number}@example.net");
    Envelope::new("alice@example.org", [recipient.as_str()]).unwrap()
}

/// Short ones and long ones.
fn message(number: usize) -> String {
    "This is a line of a message.\r\n".repeat(1 + number % 5 * 20)
}

fn outcome(result: &Result<Report, Error>) -> Outcomes {
    match result {
        Ok(report) => of_report(report),
        Err(error) => error.report().map_or(Err(error.outcome()), of_report),
    }
}

fn of_report(report: &Report) -> Outcomes {
    match &report.recipients[0] {
        Ok(_) => Ok(()),
        Err(error) => Err(error.outcome),
    }
}

fn by_blocking(server: Server) -> Reports {
    let pool = smtp_blocking::Pool::new(server).max_sessions(SENDERS - 1);
    let reports = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (pool, reports) = (&pool, &reports);
            scope.spawn(move || {
                for number in (sender..MESSAGES).step_by(SENDERS) {
                    let result = pool.send(envelope(number), message(number));
                    reports.lock().unwrap().push((number, outcome(&result)));
                }
            });
        }
    });
    pool.close();
    reports.into_inner().unwrap()
}

fn by_blocking_in_bulk(server: Server) -> Reports {
    let pool = smtp_blocking::Pool::new(server).max_sessions(SENDERS);
    let messages = (0..MESSAGES).map(|number| {
        let text = bytes::Bytes::from(message(number));
        smtp_blocking::Message::from_bytes(envelope(number), text).tag(number)
    });
    let mut bulk = pool.send_all(messages);
    let mut reports: Reports = Vec::new();
    for (number, report) in bulk.by_ref() {
        reports.push((number, of_report(&report)));
    }
    let rest = bulk.into_messages();
    reports.extend(rest.map(|message| (message.tag, Err(Outcome::NotAttempted))));
    pool.close();
    reports
}

async fn by_tokio(server: Server) -> Reports {
    let pool = smtp_tokio::Pool::new(server).max_sessions(SENDERS - 1);
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut reports = Vec::new();
            for number in (sender..MESSAGES).step_by(SENDERS) {
                let result = pool.send(envelope(number), message(number)).await;
                reports.push((number, outcome(&result)));
            }
            reports
        });
    }
    tasks.join_all().await.concat()
}

async fn by_tokio_in_bulk(server: Server) -> Reports {
    let pool = smtp_tokio::Pool::new(server).max_sessions(SENDERS);
    let messages = (0..MESSAGES).map(|number| {
        let text = bytes::Bytes::from(message(number));
        smtp_tokio::Message::from_bytes(envelope(number), text).tag(number)
    });
    let mut bulk = pool.send_all(smtp_tokio::iter(messages));
    let mut reports = Vec::new();
    while let Some((number, report)) = bulk.next().await {
        reports.push((number, of_report(&report)));
    }
    // Those that nobody has tried.
    let told: Vec<_> = reports.iter().map(|(number, _)| *number).collect();
    let rest = (0..MESSAGES).filter(|number| !told.contains(number));
    reports.extend(rest.map(|number| (number, Err(Outcome::NotAttempted))));
    reports
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Blocking,
    BlockingInBulk,
    Tokio,
    TokioInBulk,
}

fn run(way: Way, server: Server) -> Reports {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    match way {
        Way::Blocking => by_blocking(server),
        Way::BlockingInBulk => by_blocking_in_bulk(server),
        Way::Tokio => runtime().block_on(by_tokio(server)),
        Way::TokioInBulk => runtime().block_on(by_tokio_in_bulk(server)),
    }
}

/// What is wrong, and how many were sent, in doubt, and cut off.
fn judge(way: Way, seed: u64) -> Result<[u64; 3], String> {
    let receiver = Arc::new(Receiver::new());
    let proxy = Proxy::start(receiver.local_addr(), seed).unwrap();
    let server = Server::new(proxy.address().to_string()).tls(TlsPolicy::Never);
    let reports = within_limit(move || run(way, server)).ok_or("it hangs")?;
    if !receiver.wait_until(LIMIT, |counts| counts.ended == counts.sessions) {
        return Err("a connection stays open".into());
    }
    let taken = receiver.messages();
    let (mut sent, mut in_doubt) = (0, 0);
    for number in 0..MESSAGES {
        let told: Vec<_> = reports
            .iter()
            .filter(|(about, _)| *about == number)
            .collect();
        let [(_, outcome)] = told[..] else {
            return Err(format!("message {number} has {} reports", told.len()));
        };
        let address = format!("n{number}@example.net");
        let copies = taken
            .iter()
            .filter(|taken| taken.forward_paths == [&*address]);
        let copies: Vec<_> = copies.map(|taken| taken.content()).collect();
        let holds = match outcome {
            Ok(()) => copies.len() == 1,
            Err(Outcome::InDoubt) => copies.len() <= 1,
            Err(_) => copies.is_empty(),
        };
        if !holds {
            return Err(format!(
                "message {number}: {outcome:?}, and it is there {} times",
                copies.len()
            ));
        }
        if copies
            .iter()
            .any(|copy| *copy != message(number).as_bytes())
        {
            return Err(format!("message {number} is not what was sent"));
        }
        sent += u64::from(outcome.is_ok());
        in_doubt += u64::from(*outcome == Err(Outcome::InDoubt));
    }
    Ok([sent, in_doubt, proxy.cuts()])
}

fn seeds() -> u64 {
    match std::env::var_os("SMTP_TESTS_FAULTS").is_some_and(|which| which == "all") {
        true => 500,
        false => 30,
    }
}

fn check_behind_a_faulty_proxy(way: Way) {
    let mut sums = [0; 3];
    for seed in 0..seeds() {
        let counts =
            judge(way, seed).unwrap_or_else(|fault| panic!("{way:?}, seed {seed}: {fault}"));
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    let [sent, in_doubt, cuts] = sums;
    println!("{way:?}: {sent} sent, {in_doubt} in doubt, {cuts} cuts");
    assert!(sent > 0 && cuts > 0);
}

#[test]
fn the_blocking_pool_reports_truly_behind_a_faulty_proxy() {
    check_behind_a_faulty_proxy(Way::Blocking);
    check_behind_a_faulty_proxy(Way::BlockingInBulk);
}

#[test]
fn the_tokio_pool_reports_truly_behind_a_faulty_proxy() {
    check_behind_a_faulty_proxy(Way::Tokio);
    check_behind_a_faulty_proxy(Way::TokioInBulk);
}
