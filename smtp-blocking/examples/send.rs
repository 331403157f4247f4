//! Forwards messages, and reports exactly what became of them. `--help` has the details.

use std::process::ExitCode;
use std::sync::Arc;

use smtp_blocking::{Message, Session};
use smtp_tests::send::{Options, Printer, Run, SessionFacts, server_for};

fn main() -> ExitCode {
    let options = match Options::parse_args() {
        Ok(options) => Arc::new(options),
        Err(code) => return code,
    };
    let printer = Printer::new(&options);
    let items = options.prepare();
    let mut run = Run::new(printer, &items);
    if let Err(error) = forward(&options, &mut run) {
        run.refuse(&error);
    }
    run.conclude()
}

/// An error is one before the connection.
fn forward(options: &Arc<Options>, run: &mut Run<'_>) -> Result<(), smtp_proto::Error> {
    if !run.has_more() {
        return Ok(());
    }
    let server = options.start_server()?;
    let terms = server_for(options, &server.address, server.own_pem())?;
    while run.has_more() {
        let mut session = match Session::connect(&terms) {
            Ok(session) => session,
            Err(error) => {
                run.failed(&error);
                break;
            }
        };
        let messages = run.rest().map(|item| Message {
            envelope: item.envelope.clone(),
            open: || item.open(),
            tag: (),
        });
        let mut reports = session.send_all(messages).and_quit();
        while let Some(report) = reports.next() {
            let facts = facts(reports.session());
            if !run.finished(report, &facts) {
                break;
            }
        }
        drop(reports);
        run.session_over(session.end(), &facts(&session));
    }
    server.say_where(options);
    Ok(())
}

fn facts(session: &Session) -> SessionFacts {
    SessionFacts {
        tls: session.tls_info().cloned(),
        round_trips: session.round_trips(),
        overlap_broken: session.overlap_is_broken(),
    }
}
