//! Sends a message with an attachment, and shows its progress.
//!
//! ```console
//! $ cargo run -p smtp-tokio --example tokio_attachment_with_progress
//! sent: 14349632 octets
//! ```
//!
//! A terminal shows a bar as well. `SMTP_URL=smtp://mx.example.net` in the environment names another server.

use std::error::Error;
use std::process::ExitCode;

use indicatif::ProgressBar;
use mail_builder::MessageBuilder;
use smtp_tests::receiver::Receiver;
use smtp_tokio::{Envelope, Server, Session};
use tokio::io::BufReader;

async fn send(server: &Server) -> Result<(), Box<dyn Error>> {
    let message = MessageBuilder::new()
        .from("alice@example.org")
        .to("bob@example.net")
        .subject("The measurements")
        .text_body("They are attached.")
        .attachment(
            "application/octet-stream",
            "measured.bin",
            vec![42; 10 << 20],
        )
        .write_to_vec()?;

    let envelope = Envelope::new("alice@example.org", ["bob@example.net"])?;
    let bar = ProgressBar::new(message.len() as u64);
    // The envelope declares the size, so that the server may refuse the message before it is sent.
    let envelope = envelope.size_of(&message);
    let reader = BufReader::new(bar.wrap_async_read(message.as_slice()));
    let report = Session::connect(server)
        .await?
        .send_last(envelope, reader)
        .await?;
    bar.finish();
    for failure in report.failures() {
        println!("{failure}");
    }
    println!("sent: {} octets", message.len());
    Ok(())
}

/// By default, a server inside this program takes the mail.
async fn run() -> Result<(), Box<dyn Error>> {
    match std::env::var("SMTP_URL") {
        Ok(url) => send(&Server::from_url(url)?).await,
        Err(_) => send(&Receiver::new().server()).await,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Err(error) = run().await {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
