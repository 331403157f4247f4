//! Sends a message to the domain of its recipient, as a mail server does.
//!
//! ```console
//! $ cargo run -p smtp-mx
//! mx1.example.net. at 127.0.0.2: connect: no connection to 127.0.0.2:60325: Connection refused (os error 111) (temporary, try again later)
//! bob@example.net has it: 250 2.0.0 Ok: stored as 0001
//! carol@example.com: example.com takes no mail (permanent)
//! ```
//!
//! `MX_TO=bob@example.net` in the environment sends to that address, with the system's resolver. Without it, the name
//! server and the receiving server are inside this program.

use std::error::Error;
use std::process::ExitCode;

use hickory_resolver::TokioResolver;
use smtp_mx::{deliver, zone};
use smtp_tests::receiver::Receiver;
use smtp_tokio::Envelope;

async fn send(resolver: &TokioResolver, to: &str, port: u16) -> Result<(), Box<dyn Error>> {
    let (_, domain) = to.rsplit_once('@').ok_or("an address has an @")?;
    let envelope = Envelope::new("alice@example.org", [to])?;
    let message = b"From: alice@example.org\r\nSubject: hello\r\n\r\nHello.\r\n";
    let report = deliver(resolver, domain, port, envelope, message).await?;
    for (mailbox, result) in &report {
        match result {
            Ok(reply) => println!("{mailbox} has it: {reply}"),
            Err(error) => println!("{mailbox} did not get it: {error}"),
        }
    }
    Ok(())
}

/// By default, the first host of the domain is down, and the second one takes the mail.
async fn run() -> Result<(), Box<dyn Error>> {
    if let Ok(to) = std::env::var("MX_TO") {
        let resolver = TokioResolver::builder_tokio()?.build()?;
        return send(&resolver, &to, 25).await;
    }
    let resolver = zone::resolver(vec![
        zone::mx("example.net", 20, "mx2.example.net"),
        zone::mx("example.net", 10, "mx1.example.net"),
        zone::a("mx1.example.net", [127, 0, 0, 2]),
        zone::a("mx2.example.net", [127, 0, 0, 1]),
        zone::mx("example.com", 0, "."),
    ])?;
    let receiver = Receiver::new();
    let port = receiver.local_addr().port();
    send(&resolver, "bob@example.net", port).await?;
    if let Err(error) = send(&resolver, "carol@example.com", port).await {
        println!("carol@example.com: {error}");
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Err(error) = run().await {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
