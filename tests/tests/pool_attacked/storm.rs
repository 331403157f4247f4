//! Everything at once, at random: callers, deliveries, callers that lose patience, and a server that cuts, refuses and
//! takes its time. `POOL_STORMS` is how many storms there are, and `POOL_STORM` the number of the first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smtp_proto::{Chunking, Report, Timeouts};

use crate::both::*;

struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

fn number_in(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().unwrap())
}

#[test]
fn reports_are_true_in_a_storm() {
    for_both(|adapter| {
        let first = number_in("POOL_STORM", 0);
        for seed in first..first + number_in("POOL_STORMS", 3) {
            println!("{adapter:?}: storm {seed}");
            storm(adapter, seed);
        }
    });
}

fn storm(adapter: Adapter, seed: u64) {
    let mut dice = Dice::new(seed);
    let receiver = receiver(Options {
        pipelining: dice.below(4) > 0,
        chunking: dice.below(2) == 0,
        lmtp: dice.below(4) == 0,
        max_messages: dice.one_of(&[None, None, Some(1), Some(4)]),
        limits: dice.one_of(&[
            None,
            Some(Limits {
                rcpt_max: 2,
                mail_max: 5,
            }),
        ]),
        ..Options::default()
    });
    for _ in 0..dice.below(12) {
        misbehave(&receiver, &mut dice);
    }
    let chunking = dice.one_of(&[Chunking::Auto, Chunking::Never, Chunking::Eager]);
    let mut timeouts = Timeouts::default().replies(Duration::from_millis(400));
    timeouts.overlap = Duration::from_millis(400);
    let server = receiver.server().timeouts(timeouts);
    let server = server.overlap(dice.below(2) == 0).chunking(chunking);
    let sessions = 1 + dice.below(4);
    let pool = Pool::new(adapter, server, sessions);
    let (reports, has_ended) = (Mutex::new(Vec::<Report>::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (pool, reports) = (&pool, &reports);
        let mut working = vec![];
        for caller in 0..1 + dice.below(5) {
            let count = 1 + dice.below(4);
            working.push(scope.spawn(move || {
                for number in 0..12 {
                    let name = |n| format!("c{caller}-{number}-{n}@example.net");
                    let envelope = to(&(0..count).map(name).collect::<Vec<_>>());
                    let paths = envelope.forward_paths().to_vec();
                    let report = pool.send(envelope, &message(number));
                    let report = report.unwrap_or_else(|error| match error.report() {
                        Some(report) => report.clone(),
                        // It was not in any transaction.
                        None => Report::new(
                            paths
                                .into_iter()
                                .map(|path| (path, Err(error.error().clone()))),
                        ),
                    });
                    reports.lock().unwrap().push(report);
                }
            }));
        }
        for delivery in 0..dice.below(3) {
            working.push(scope.spawn(move || {
                let messages = (0..60).map(|number| {
                    let name = |n| format!("d{delivery}-{number}-{n}@example.net");
                    let envelope = to(&(0..1 + number % 3).map(name).collect::<Vec<_>>());
                    (envelope, message(number))
                });
                let sent = pool.send_all(messages.collect());
                assert_eq!(sent.reports.len() + sent.left.len(), 60);
                for (tag, report) in &sent.reports {
                    let own = format!("d{delivery}-{tag}-0@example.net");
                    assert_eq!(report.mailboxes()[0].to_string(), own);
                }
                reports
                    .lock()
                    .unwrap()
                    .extend(sent.reports.into_iter().map(|one| one.1));
            }));
        }
        let has_ended = &has_ended;
        if let Pool::Tokio(pool, runtime) = pool {
            // Each loses patience after a few polls.
            scope.spawn(move || {
                for number in 0.. {
                    if has_ended.load(Ordering::SeqCst) {
                        break;
                    }
                    let to = to(&[format!("gone-{number}@example.net")]);
                    let patience = Duration::from_micros(number % 40 * 100);
                    runtime.block_on(async {
                        let send = pool.send(to, message(0));
                        let _ = tokio::time::timeout(patience, send).await;
                    });
                }
            });
        }
        let cuts = dice.below(3);
        let receiver = &receiver;
        scope.spawn(move || {
            for _ in 0..cuts {
                let before = receiver.counts().messages;
                while receiver.counts().messages < before + 30 && !has_ended.load(Ordering::SeqCst)
                {
                    std::thread::yield_now();
                }
                receiver.cut_connections();
            }
        });
        let is_moody = dice.below(3) == 0;
        scope.spawn(move || {
            while is_moody && !has_ended.load(Ordering::SeqCst) {
                pool.bound(
                    1 + dice.below(sessions),
                    dice.below(3),
                    1 + dice.below(20) as u64,
                );
                let before = receiver.counts();
                while receiver.counts() == before && !has_ended.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            pool.bound(sessions, sessions, 100);
        });
        let results: Vec<_> = working.into_iter().map(|one| one.join()).collect();
        has_ended.store(true, Ordering::SeqCst);
        for result in results {
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        }
    });
    are_true(&receiver, reports.lock().unwrap().iter());
    let counts = receiver.counts();
    assert!(counts.peak <= sessions, "storm {seed}: {counts:?}");
    let (open, idle) = pool.count();
    assert!(
        open == idle && open <= sessions,
        "storm {seed}: {open} {idle}"
    );
    // And it still works. A session that the server has just cut may cost one message each.
    receiver.forget_rules();
    let works = (0..=sessions).any(|number| {
        let last = to(&[format!("last-{number}@example.net")]);
        pool.send(last, &message(0))
            .is_ok_and(|report| report.is_success())
    });
    assert!(works, "storm {seed}");
}

/// Something goes wrong, after a while.
fn misbehave(receiver: &Receiver, dice: &mut Dice) {
    let step = dice.one_of(&[
        Step::Greeting,
        Step::Hello,
        Step::Mail,
        Step::Rcpt,
        Step::Data,
        Step::Body,
        Step::EndOfData,
        Step::EndOfData,
        Step::Reset,
    ]);
    let rule = receiver
        .on(step)
        .after(dice.below(60))
        .times(1 + dice.below(3));
    if step == Step::Body {
        return rule.cut_after_octets(dice.below(40) as u64);
    }
    match dice.below(8) {
        0 => rule.cut_before(),
        1 => rule.cut_unanswered(),
        2 => rule.cut_after(),
        3 => rule.reply("421 4.3.2 going down"),
        4 => rule.reply("450 4.3.0 not now"),
        5 => rule.reply("550 5.7.1 never"),
        6 => rule.delay(Duration::from_millis(dice.below(20) as u64)),
        _ => rule.silence(),
    }
}
