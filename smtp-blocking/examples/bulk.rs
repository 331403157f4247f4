//! Sends many messages over one session, each with its own text, and matches the reports by a tag.
//!
//! ```console
//! $ cargo run -p smtp-blocking --example bulk
//! order 7: refused.7@example.net: rcpt: RCPT TO:<refused.7@example.net>: server said 550 5.1.1 <refused.7@example.net> no such user here (permanent, do not send again unchanged)
//! 99 of 100 sent
//! ```
//!
//! `SMTP_URL=smtp://mx.example.net` in the environment names another server.

use std::error::Error;
use std::io::Cursor;
use std::process::ExitCode;

use smtp_blocking::{Envelope, Message, Server, Session};
use smtp_tests::receiver::Receiver;

fn send(server: &Server) -> Result<(), Box<dyn Error>> {
    // The number of an order, and its customer.
    let customer = |order| match order {
        7 => (order, "refused.7@example.net".to_owned()),
        _ => (order, format!("customer.{order}@example.net")),
    };
    let orders: Vec<(u32, String)> = (1..=100).map(customer).collect();
    // An invalid address is an error before anything is sent.
    let mut messages = Vec::new();
    for (order, customer) in &orders {
        let text = format!("Subject: your order {order}\r\n\r\nIt is on its way.\r\n");
        let envelope = Envelope::new("shop@example.org", [customer])?;
        messages.push(Message::from_bytes(envelope, Cursor::new(text)).tag(order));
    }

    let mut session = Session::connect(server)?;
    let mut sent = 0;
    let mut reports = session.send_all(messages).and_quit();
    for (order, report) in reports.tagged() {
        sent += u32::from(report.is_success());
        for failure in report.failures() {
            println!("order {order}: {failure}");
        }
    }
    // The session was lost before these were begun. Another session may send them.
    for message in reports.into_messages() {
        println!("order {}: not attempted", message.tag);
    }
    println!("{sent} of {} sent", orders.len());
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
