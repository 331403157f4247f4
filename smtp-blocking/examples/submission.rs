//! Submits a message to your own provider: over TLS, to a verified server, after a login.
//!
//! ```console
//! $ cargo run -p smtp-blocking --example submission
//! TLSv1.3, and the server is 127.0.0.1
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! ```
//!
//! The server and the login come from the environment: `SMTP_URL=smtps://alice:s3cret@smtp.example.org`, or else
//! `SMTP_HOST=smtp.example.org:465`, `SMTP_USER` and `SMTP_PASSWORD`.

use std::env::var;
use std::error::Error;
use std::process::ExitCode;

use smtp_blocking::{Credentials, Envelope, Server, Session};
use smtp_tests::receiver::{Options, Receiver};

fn submit(server: &Server) -> Result<(), Box<dyn Error>> {
    let mut session = Session::connect(server)?;
    if let Some(tls) = session.tls_info() {
        let name = tls.verified_name.as_deref().unwrap_or("nobody");
        println!("{}, and the server is {name}", tls.version);
    }
    let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    let message = "From: alice@example.org\r\nSubject: hello\r\n\r\nHello, Bob.\r\n";
    let report = session.send_last(envelope, message)?;
    for (mailbox, result) in &report {
        match result {
            Ok(reply) => println!("{mailbox} has it: {reply}"),
            Err(error) => println!("{mailbox} did not get it: {error}"),
        }
    }
    Ok(())
}

/// By default, a server inside this program takes the mail.
fn run() -> Result<(), Box<dyn Error>> {
    if let Ok(url) = var("SMTP_URL") {
        return submit(&Server::from_url(url)?);
    }
    if let Ok(host) = var("SMTP_HOST") {
        let login = Credentials::password(&var("SMTP_USER")?, &var("SMTP_PASSWORD")?);
        return submit(&Server::new(host).credentials(login));
    }
    let options = Options {
        auth: Some(("alice".to_owned(), "s3cret".to_owned())),
        ..Options::default()
    };
    submit(&Receiver::start(options)?.server())
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
