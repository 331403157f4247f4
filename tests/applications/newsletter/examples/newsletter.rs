//! Sends an issue to all subscribers, each in its own message, and prints who has got it. After a lost session, it
//! goes on in another one, and nobody gets the issue twice.
//!
//! ```console
//! $ cargo run -p smtp-newsletter --example newsletter
//! ann@example.net has it
//! bob@example.net has it
//! carol@example.net is for somebody to look at: eom: BDAT 86 LAST: the connection was lost (in doubt, the message may have been delivered)
//! refused.dave@example.net is struck off: rcpt: RCPT TO:<refused.dave@example.net>: server said 550 5.1.1 <refused.dave@example.net> no such user here (permanent, do not send again unchanged)
//! greylisted.eve@example.net gets it with the next run: rcpt: RCPT TO:<greylisted.eve@example.net>: server said 450 4.2.0 <greylisted.eve@example.net> greylisted, try again later (temporary, try again later)
//! frank@example.net has it
//! ```
//!
//! `SMTP_URL=smtp://mx.example.net` in the environment names another server.

use std::error::Error;
use std::io::Cursor;
use std::process::ExitCode;

use smtp_blocking::smtp_proto::error::Retry;
use smtp_blocking::{Envelope, Message, Server, Session};
use smtp_newsletter::SENDER;
use smtp_tests::receiver::{Receiver, Step};

const SUBSCRIBERS: [&str; 6] = [
    "ann@example.net",
    "bob@example.net",
    "carol@example.net",
    "refused.dave@example.net",
    "greylisted.eve@example.net",
    "frank@example.net",
];

fn send(server: &Server) -> Result<(), Box<dyn Error>> {
    let mut messages = Vec::new();
    for subscriber in SUBSCRIBERS {
        let text = format!(
            "From: {SENDER}\r\nTo: {subscriber}\r\nSubject: News\r\n\r\nThere is news.\r\n"
        );
        let envelope = Envelope::new(SENDER, [subscriber])?;
        messages.push(Message::from_bytes(envelope, Cursor::new(text)).tag(subscriber));
    }
    while !messages.is_empty() {
        let waiting = messages.len();
        // If a session cannot be opened, the run ends. The next run sends the rest.
        let mut session = Session::connect(server)?;
        let mut reports = session.send_all(messages.clone()).and_quit();
        let mut again = Vec::new();
        for (subscriber, report) in reports.tagged() {
            let Some(failure) = report.failures().next() else {
                println!("{subscriber} has it");
                continue;
            };
            let error = failure.error;
            match error.retry() {
                Retry::Now => again.push(subscriber),
                Retry::Later => println!("{subscriber} gets it with the next run: {error}"),
                Retry::Never => println!("{subscriber} is struck off: {error}"),
                Retry::AskPerson => println!("{subscriber} is for somebody to look at: {error}"),
            }
        }
        again.extend(reports.into_messages().map(|message| message.tag));
        messages.retain(|message| again.contains(&message.tag));
        if messages.len() == waiting {
            return Err("the server ends each session before the first message".into());
        }
    }
    Ok(())
}

/// By default, a server inside this program takes the mail. It accepts the third message, and then loses the
/// connection before its reply.
fn run() -> Result<(), Box<dyn Error>> {
    if let Ok(url) = std::env::var("SMTP_URL") {
        return send(&Server::from_url(url)?);
    }
    let receiver = Receiver::new();
    receiver
        .on(Step::EndOfData)
        .after(2)
        .once()
        .cut_unanswered();
    send(&receiver.server())
}

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
