//! Connects to the address of a host that answers first (RFC 8305 section 5).

use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use smtp_adapter::Failures;
use tokio::time::{Instant, sleep, timeout};

/// How long an attempt runs alone before the next one begins: the Connection Attempt Delay of RFC 8305 section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// An attempt that has begun.
enum Attempt<F> {
    Trying(Pin<Box<F>>),
    Failed(io::Error),
}

/// Connects to the first of these addresses that answers. It begins with the first one. The next one follows after
/// [`ATTEMPT_DELAY`], or at once after a failure. When the race ends or is dropped, all attempts are dropped.
pub(crate) async fn race<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    connect_timeout: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, Failures> {
    let mut waiting = addresses.iter().copied();
    let mut begun: Vec<(SocketAddr, Attempt<F>)> = Vec::new();
    let mut delay = pin!(sleep(ATTEMPT_DELAY));
    let mut is_due = true;
    let first = poll_fn(|cx| {
        loop {
            if mem::take(&mut is_due)
                && let Some(address) = waiting.next()
            {
                begun.push((address, Attempt::Trying(Box::pin(connect(address)))));
                delay.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
            }
            for (_, attempt) in &mut begun {
                if let Attempt::Trying(future) = attempt {
                    match future.as_mut().poll(cx) {
                        Poll::Ready(Ok(connected)) => return Poll::Ready(Some(connected)),
                        Poll::Ready(Err(error)) => {
                            *attempt = Attempt::Failed(error);
                            is_due = true;
                        }
                        Poll::Pending => {}
                    }
                }
            }
            if waiting.len() == 0 {
                let have_failed = begun
                    .iter()
                    .all(|(_, attempt)| matches!(attempt, Attempt::Failed(_)));
                return if have_failed {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            }
            is_due |= delay.as_mut().poll(cx).is_ready();
            if !is_due {
                return Poll::Pending;
            }
        }
    });
    if let Ok(Some(connected)) = timeout(connect_timeout, first).await {
        return Ok(connected);
    }
    let failures = begun.into_iter().map(|(address, attempt)| match attempt {
        Attempt::Failed(error) => (address, Some(error)),
        Attempt::Trying(_) => (address, Some(io::ErrorKind::TimedOut.into())),
    });
    Err(failures
        .chain(waiting.map(|address| (address, None)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const ALWAYS: u64 = 1_000_000;

    /// The fate of one address, this many milliseconds after its attempt began.
    #[derive(Clone, Copy)]
    enum Fate {
        Answers(u64),
        Refuses(u64),
        IsDead,
    }
    use Fate::{Answers, IsDead, Refuses};

    struct Outcome {
        /// The address that answered, from 0, or the error of each address.
        result: Result<usize, Vec<Option<io::ErrorKind>>>,
        /// When each attempt began, and when the race ended, in milliseconds.
        begun: Vec<u64>,
        ended: u64,
    }

    /// Runs a race in paused time.
    async fn run(fates: &[Fate], connect_timeout: u64) -> Outcome {
        let addresses: Vec<SocketAddr> = (0..fates.len())
            .map(|n| SocketAddr::from(([192, 0, 2, n as u8], 25)))
            .collect();
        let index = |address: SocketAddr| {
            addresses
                .iter()
                .position(|&known| known == address)
                .unwrap()
        };
        let start = Instant::now();
        let begun = Mutex::new(Vec::new());
        let open = Arc::new(());
        let raced = race(
            &addresses,
            Duration::from_millis(connect_timeout),
            |address| {
                begun
                    .lock()
                    .unwrap()
                    .push(start.elapsed().as_millis() as u64);
                let (index, socket) = (index(address), open.clone());
                let (delay, result) = match fates[index] {
                    Answers(after) => (after, Ok(index)),
                    Refuses(after) => (after, Err(io::ErrorKind::ConnectionRefused.into())),
                    IsDead => (ALWAYS, Ok(index)),
                };
                async move {
                    let _socket = socket;
                    if delay > 0 {
                        sleep(Duration::from_millis(delay)).await;
                    }
                    result
                }
            },
        );
        let raced = raced.await;
        let ended = start.elapsed().as_millis() as u64;
        assert_eq!(Arc::strong_count(&open), 1, "an attempt is still open");
        let result = raced.map_err(|failures| {
            assert!(failures.iter().map(|(address, _)| address).eq(&addresses));
            failures
                .iter()
                .map(|(_, error)| error.as_ref().map(io::Error::kind))
                .collect()
        });
        Outcome {
            result,
            begun: begun.into_inner().unwrap(),
            ended,
        }
    }

    /// The timer may round a time up to the next millisecond.
    #[track_caller]
    fn assert_times(actual: &[u64], expected: &[u64]) {
        let near = |(&actual, &expected): (&u64, &u64)| (expected..expected + 5).contains(&actual);
        let same = actual.len() == expected.len() && actual.iter().zip(expected).all(near);
        assert!(same, "{actual:?}, not {expected:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_begin_after_a_delay_or_a_failure() {
        for (fates, winner, begun, ended) in [
            (&[Answers(0), Answers(0)][..], 0, &[0][..], 0),
            (&[Answers(200), Answers(0)], 0, &[0], 200),
            // Dead addresses cost a delay each.
            (&[IsDead, Answers(10)], 1, &[0, 250], 260),
            (
                &[IsDead, IsDead, IsDead, Answers(10)],
                3,
                &[0, 250, 500, 750],
                760,
            ),
            // A slow one may still win.
            (&[Answers(300), Answers(100)], 0, &[0, 250], 300),
            (&[Answers(300), Answers(10)], 1, &[0, 250], 260),
            // A failure leads to the next one at once, and the delay begins again.
            (&[Refuses(0), Refuses(0), Answers(0)], 2, &[0, 0, 0], 0),
            (&[Refuses(100), IsDead, Answers(0)], 2, &[0, 100, 350], 350),
            (&[Refuses(300), IsDead, Answers(0)], 2, &[0, 250, 300], 300),
            (&[IsDead, Refuses(50), Answers(0)], 2, &[0, 250, 300], 300),
        ] {
            let outcome = run(fates, 30_000).await;
            assert_eq!(outcome.result, Ok(winner));
            assert_times(&outcome.begun, begun);
            assert_times(&[outcome.ended], &[ended]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_end() {
        let (refused, timed_out) = (
            Some(io::ErrorKind::ConnectionRefused),
            Some(io::ErrorKind::TimedOut),
        );
        for (fates, failures, ended) in [
            (&[][..], &[][..], 0),
            (&[Refuses(0), Refuses(20)], &[refused, refused], 20),
            (&[Refuses(400), Refuses(20)], &[refused, refused], 400),
            (
                &[IsDead, IsDead, IsDead],
                &[timed_out, timed_out, None],
                300,
            ),
            (
                &[Refuses(100), IsDead, IsDead],
                &[refused, timed_out, None],
                300,
            ),
            (
                &[IsDead, Refuses(10), IsDead],
                &[timed_out, refused, timed_out],
                300,
            ),
        ] {
            let limit = if failures.contains(&timed_out) {
                300
            } else {
                30_000
            };
            let outcome = run(fates, limit).await;
            assert_eq!(outcome.result, Err(failures.to_vec()));
            assert_times(&[outcome.ended], &[ended]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_race_that_is_dropped_closes_everything() {
        let open = Arc::new(());
        let addresses = [1, 2, 3].map(|n| SocketAddr::from(([192, 0, 2, n], 25)));
        let raced = race(&addresses, Duration::from_secs(30), |_| {
            let socket = open.clone();
            async move {
                let _socket = socket;
                std::future::pending::<io::Result<()>>().await
            }
        });
        let mut raced = Box::pin(raced);
        assert!(
            timeout(Duration::from_millis(600), &mut raced)
                .await
                .is_err()
        );
        assert_eq!(Arc::strong_count(&open), 4);
        drop(raced);
        assert_eq!(Arc::strong_count(&open), 1);
    }
}
