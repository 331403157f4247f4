//! Forwards one message, and says exactly what became of it. `--help` tells the rest.

use std::process::ExitCode;
use std::sync::Arc;

use smtp_blocking::{Connector, Error, TlsInfo};
use smtp_tests::send::{Ending, Options, TlsFacts, say};

fn main() -> ExitCode {
    match Options::parse_args() {
        Ok(options) => {
            let options = Arc::new(options);
            forward(&options).unwrap_or_else(Ending::local).conclude(&options)
        }
        Err(code) => code,
    }
}

fn forward(options: &Arc<Options>) -> Result<Ending, smtp_proto::Error> {
    let (envelope, message) = options.prepare()?;
    let receiver = options.start_receiver()?;
    let ca_pem = options.ca_pem()?;
    let server = match (&receiver, &options.server) {
        (Some(receiver), _) => receiver.local_addr().to_string(),
        (None, server) => server.clone().unwrap_or_default(),
    };
    let mut connector = Connector::new(&server)
        .tls(options.tls_policy())
        .timeouts(options.timeouts())
        .credentials(options.credentials())
        .pipelining(!options.no_pipelining);
    if let Some(name) = &options.helo {
        connector = connector.client_name(name.clone());
    }
    if let Some(address) = options.local_address {
        connector = connector.bind(address);
    }
    if let Some(timeout) = options.timeout_connect {
        connector = connector.connect_timeout(timeout);
    }
    if options.lmtp {
        connector = connector.lmtp();
    }
    if let Some(name) = &options.tls_name {
        connector = connector.server_name(name);
    }
    if let Some(receiver) = &receiver {
        // We know this server: its name is localhost and its certificate was made a moment ago.
        let name = options.tls_name.as_deref().unwrap_or("localhost");
        connector =
            connector.server_name(name).trust_pem(receiver.certificate_pem().as_bytes()).map_err(local)?;
    }
    if let Some(pem) = ca_pem {
        connector = connector.trust_pem(&pem).map_err(local)?;
    }
    if options.transcript {
        let options = options.clone();
        connector = connector.observe(move |trace| options.show(trace));
    }
    if receiver.is_some() && !options.quiet {
        say(format_args!("a receiving server listens on {server}"));
    }

    let mut session = match connector.connect() {
        Ok(session) => session,
        Err(error) => return Ok(failure(error)),
    };
    let report = match session.send(envelope, message) {
        Ok(report) => report,
        Err(error) => {
            session.quit();
            return Ok(failure(error));
        }
    };
    let ending = Ending {
        result: Ok(report),
        line: None,
        tls: session.tls_info().map(facts),
        round_trips: session.round_trips(),
    };
    session.quit();
    if let Some(receiver) = &receiver
        && !options.quiet
    {
        for stored in receiver.messages() {
            say(format_args!("stored in {}", stored.path.display()));
        }
    }
    Ok(ending)
}

fn failure(error: Error) -> Ending {
    let (tls, round_trips) = (error.tls_info().map(facts), error.round_trips());
    match error.report() {
        Some(report) => Ending { result: Ok(report.clone()), line: None, tls, round_trips },
        None => {
            let line = Some(error.to_string());
            Ending { result: Err(error.error().clone()), line, tls, round_trips }
        }
    }
}

fn local(error: Error) -> smtp_proto::Error {
    error.error().clone()
}

fn facts(tls: &TlsInfo) -> TlsFacts {
    TlsFacts {
        version: tls.version.clone(),
        cipher: tls.cipher_suite.clone(),
        verified_name: tls.verified_name.clone(),
    }
}
