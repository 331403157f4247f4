//! Forwards messages, and says exactly what became of them. `--help` tells the rest.

use std::process::ExitCode;
use std::sync::Arc;

use smtp_blocking::{Message, Session};
use smtp_tests::send::{Ending, Options, Printer, SessionFacts, server_for};

fn main() -> ExitCode {
    let options = match Options::parse_args() {
        Ok(options) => Arc::new(options),
        Err(code) => return code,
    };
    let mut printer = Printer::new(&options);
    let facts = forward(&options, &mut printer).unwrap_or_else(|error| {
        let facts = SessionFacts::default();
        printer.message(&error.into(), &facts);
        facts
    });
    printer.conclude(&facts)
}

/// Errors are those before there was a connection.
fn forward(
    options: &Arc<Options>,
    printer: &mut Printer<'_>,
) -> Result<SessionFacts, smtp_proto::Error> {
    let items = options.prepare()?;
    let server = options.start_server()?;
    let terms = server_for(options, &server.address, server.own_pem())?;
    let mut session = match Session::connect(&terms) {
        Ok(session) => session,
        Err(error) => {
            let (ending, facts) = (Ending::from(&error), SessionFacts::failed(&error));
            (0..options.repeat as usize * items.len())
                .for_each(|_| printer.message(&ending, &facts));
            return Ok(facts);
        }
    };
    let all = || (0..options.repeat).flat_map(|_| &items);
    let messages = all().map(|item| Message {
        envelope: item.envelope.clone(),
        open: || item.open(),
    });
    let mut reports = session.send_all(messages).and_quit();
    let mut sent = all();
    while let Some(report) = reports.next() {
        let Some(item) = sent.next() else { break };
        printer.message(&item.ending(report), &facts(reports.session()));
    }
    drop(reports);
    // Those that the session did not live to see.
    sent.for_each(|item| printer.message(&item.not_attempted(session.end()), &facts(&session)));
    server.say_where(options);
    Ok(facts(&session))
}

fn facts(session: &Session) -> SessionFacts {
    SessionFacts {
        tls: session.tls_info().cloned(),
        round_trips: session.round_trips(),
        overlap_broken: session.overlap_is_broken(),
    }
}
