//! Hostile servers over real sockets. Each case goes through both adapters. The judge reads the books of the server,
//! the octets of the socket, the clock and the allocator.
//!
//! ```console
//! $ cargo test -p smtp-tests --test hostile             # all of them
//! $ cargo test -p smtp-tests --test hostile -- silence  # those with this in their names
//! ```

mod case;
mod certificates;
mod client;
mod endings;
mod endless;
mod identities;
mod judge;
mod replies;
mod sasl;
mod server;
mod starttls;

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use smtp_tests::watchdog::within_limit;

use crate::case::Case;
use crate::client::Adapter;
use crate::server::{SharedBooks, Talk};

/// Cases that run at a time. Most of them wait.
const AT_A_TIME: usize = 16;

/// How a case came out.
struct Verdict {
    came: String,
    faults: Vec<String>,
    peak: u64,
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let cases = [
        endless::cases(),
        endings::cases(),
        replies::cases(),
        starttls::cases(),
        certificates::cases(),
        sasl::cases(),
    ];
    let is_wanted =
        |case: &Case| wanted.is_empty() || wanted.iter().any(|word| case.name.contains(&**word));
    let runs: VecDeque<_> = cases
        .into_iter()
        .flatten()
        .filter(is_wanted)
        .flat_map(|case| Adapter::ALL.map(|adapter| (adapter, case.clone())))
        .collect();
    let (passed, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let most = AtomicUsize::new(0);
    let runs = Mutex::new(runs);
    let next = || {
        runs.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some((adapter, case)) = next() {
                    let name = format!("{:<54} {:<9}", case.name, adapter.as_str());
                    let verdict = play(adapter, case);
                    most.fetch_max(verdict.peak as usize, Ordering::Relaxed);
                    match verdict.faults.is_empty() {
                        true => passed.fetch_add(1, Ordering::Relaxed),
                        false => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    let is_ok = if verdict.faults.is_empty() {
                        "ok    "
                    } else {
                        "FAILED"
                    };
                    let faults: String = verdict
                        .faults
                        .iter()
                        .map(|fault| format!("\n    {fault}"))
                        .collect();
                    println!("{is_ok} {name} {}{faults}", verdict.came);
                }
            });
        }
    });
    println!("the most heap of one session: {} octets", most.into_inner());
    println!("skipped: nothing");
    let (passed, failed) = (passed.into_inner(), failed.into_inner());
    println!("{passed} passed, {failed} failed");
    match failed == 0 && passed > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Plays a case. One that hangs or panics has failed.
fn play(adapter: Adapter, case: Case) -> Verdict {
    let failed = |fault: String| Verdict {
        came: "nothing".into(),
        faults: vec![fault],
        peak: 0,
    };
    let played = catch_unwind(AssertUnwindSafe(|| {
        within_limit(move || attempt(adapter, &case))
    }));
    match played {
        Ok(Some(Ok(verdict))) => verdict,
        Ok(Some(Err(error))) => failed(format!("no socket: {error}")),
        Ok(None) => failed("it hangs".into()),
        Err(panic) => failed(format!("it panics: {}", text(&*panic))),
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of an unknown kind")
}

fn attempt(adapter: Adapter, case: &Case) -> io::Result<Verdict> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let books = SharedBooks::default();
    let (script, identity, shared) = (
        Arc::clone(&case.script),
        case.identity.clone(),
        Arc::clone(&books),
    );
    let server = thread::spawn(move || -> io::Result<TcpListener> {
        let (socket, _) = listener.accept()?;
        let mut talk = Talk::new(socket, shared, identity)?;
        // Where it fails, the client has gone; the judge knows how far it came.
        let _ = script(&mut talk);
        talk.part();
        Ok(listener)
    });
    let run = client::run(adapter, case, address)?;
    books.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
    let listener = server
        .join()
        .map_err(|panic| io::Error::other(text(&*panic).to_owned()))??;
    let books = books.lock().unwrap_or_else(PoisonError::into_inner);
    let mut faults = judge::judge(case, &run, &books);
    // Nothing is tried again by itself.
    listener.set_nonblocking(true)?;
    if listener.accept().is_ok() {
        faults.push("the client has connected again".into());
    }
    Ok(Verdict {
        came: judge::words(&run.seen),
        faults,
        peak: run.peak,
    })
}
