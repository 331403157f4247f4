//! Sends one message, and prints the result of each recipient.
//!
//! ```console
//! $ cargo run -p smtp-blocking --example one_message
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! refused.carol@example.net did not get it: rcpt: RCPT TO:<refused.carol@example.net>: server said 550 5.1.1 <refused.carol@example.net> no such user here (permanent, do not send again unchanged)
//! ```
//!
//! `SMTP_URL=smtp://mx.example.net` in the environment names another server.

use std::error::Error;
use std::process::ExitCode;

use smtp_blocking::Server;
use smtp_tests::receiver::Receiver;

fn send(server: &Server) -> Result<(), Box<dyn Error>> {
    let recipients = ["bob@example.net", "refused.carol@example.net"];
    let message = "Subject: hello\r\n\r\nHello, Bob and Carol.\r\n";
    let report = smtp_blocking::send_mail(server, "alice@example.org", recipients, message, None)?;
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
    match std::env::var("SMTP_URL") {
        Ok(url) => send(&Server::from_url(url)?),
        Err(_) => send(&Receiver::new().server()),
    }
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
