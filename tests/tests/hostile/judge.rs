//! Whether what came is what had to come. The judge believes the server, the wire and the clock.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use smtp_adapter::Error;
use smtp_proto::{ClientName, Config, Outcome, Report};

use crate::case::{Case, PASSWORD, SHORT};
use crate::client::{RECIPIENTS, Run, Seen};
use crate::server::Books;

/// More than a deadline needs on a machine that is busy, and less than any other deadline.
const GENEROUS: Duration = Duration::from_secs(60);
/// What an adapter has beside its engine, in octets, by docs/limits.md: a gathered write and a chunk. A buffer that
/// grows counts three times.
const OF_THE_ADAPTER: usize = 3 * (32_768 + 65_536);
/// What rustls holds back of input, of plain text and of output, in the same way.
const OF_TLS: usize = 3 * (65_536 + 18_432 + 65_536);

/// The most octets of heap that a session may take.
fn bound(case: &Case) -> usize {
    let config = Config::new(ClientName::parse("client.example").expect("it is a name"));
    let engine = config.max_heap(case.messages, case.messages * RECIPIENTS.len());
    engine + OF_THE_ADAPTER + OF_TLS
}

/// What came, in the words of the table.
pub(crate) fn words(seen: &Seen) -> String {
    match &seen.unopened {
        Some(error) => format!("unopened: {}", failure(error)),
        None => {
            let mut messages: Vec<_> = seen.reports.iter().map(message).collect();
            // Many that fare alike are one.
            messages.dedup();
            messages.join("; ")
        }
    }
}

fn message(report: &Result<Report, Error>) -> String {
    let report = match report {
        Ok(report) => report,
        Err(error) => match error.report() {
            Some(report) => report,
            None => return failure(error),
        },
    };
    let mut results: Vec<_> = report
        .recipients
        .iter()
        .map(|result| match result {
            Ok(_) => "sent".to_owned(),
            Err(error) => format!("{} {}", error.stage, outcome(error.outcome)),
        })
        .collect();
    results.dedup();
    results.join(" + ")
}

fn failure(error: &Error) -> String {
    format!("{} {}", error.stage(), outcome(error.outcome()))
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Transient => "transient",
        Outcome::Permanent => "permanent",
        Outcome::InDoubt => "in-doubt",
        Outcome::NotAttempted => "not-attempted",
    }
}

/// All that is wrong.
pub(crate) fn judge(case: &Case, run: &Run, books: &Books) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |holds: bool, fault: &dyn Fn() -> String| {
        if !holds {
            faults.push(fault());
        }
    };
    let (seen, came) = (&run.seen, words(&run.seen));
    let expected = &case.comes;
    let lines = seen.lines().join("\n");

    demand(came == *expected, &|| format!("not {expected}: {lines}"));
    demand(lines.contains(case.tells), &|| {
        format!("{:?} is not told: {lines}", case.tells)
    });
    demand(books.acted.is_some(), &|| {
        "the server never came to its hostile part".into()
    });

    let took = run.ended - run.began;
    demand(took < GENEROUS, &|| format!("it took {took:?}"));
    // The clock of a reply begins after what the server said before.
    let waited = run.ended - books.spoke.unwrap_or(run.began);
    demand(case.short.is_none() || waited >= SHORT, &|| {
        format!("given up after {waited:?}")
    });

    for (index, report) in seen.reports.iter().enumerate() {
        let read = books.messages.get(index).copied();
        demand(is_true(report, read), &|| {
            format!(
                "message {index}: {}, but the server: {read:?}",
                message(report)
            )
        });
    }

    let bound = bound(case);
    demand(run.peak <= bound as u64, &|| {
        format!("{} octets of heap, and {bound} at most", run.peak)
    });

    demand(!is_secret_in(&books.wire), &|| {
        "the password is on the wire in clear".into()
    });
    demand(is_secret_in(&books.inside) == case.logs_in, &|| {
        format!("password inside TLS: {}", !case.logs_in)
    });
    let outputs = seen.outputs();
    demand(!is_secret_in(outputs.as_bytes()), &|| {
        format!("the password is shown: {outputs}")
    });
    let is_printable = |line: &str| !line.contains(char::is_control);
    demand(seen.lines().iter().all(|line| is_printable(line)), &|| {
        format!("an error line is not printable: {lines:?}")
    });
    if !faults.is_empty() {
        faults.push(format!("the server heard {:?}", books.commands));
    }
    faults
}

/// Whether a report is true of a message that the server has read to its dot, and then taken or not.
fn is_true(report: &Result<Report, Error>, read: Option<bool>) -> bool {
    let report = match report {
        Ok(report) => report,
        Err(error) => match error.report() {
            Some(report) => report,
            // It was not even begun.
            None => return read.is_none(),
        },
    };
    report.recipients.iter().all(|result| match result {
        Ok(_) => read == Some(true),
        Err(error) => match error.outcome {
            Outcome::InDoubt => true,
            Outcome::NotAttempted => read.is_none(),
            Outcome::Transient | Outcome::Permanent => read != Some(true),
        },
    })
}

/// Whether the password is among these octets, as it is or in base64, wherever it begins in that.
pub(crate) fn is_secret_in(octets: &[u8]) -> bool {
    let encoded = (0..3).map(|before| {
        let text = STANDARD.encode(["x".repeat(before).as_bytes(), PASSWORD.as_bytes()].concat());
        let text = text.trim_end_matches('=');
        // Characters at both ends depend on what stands beside them.
        let front = if before == 0 { 0 } else { before + 1 };
        text[front..text.len() - 1].to_owned()
    });
    let mut forms = std::iter::once(PASSWORD.to_owned()).chain(encoded);
    forms.any(|form| memchr::memmem::find(octets, form.as_bytes()).is_some())
}
