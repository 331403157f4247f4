//! A contact form with a pool: the visitor's view of each error. Standard error has the operator's view.
//!
//! ```console
//! $ cargo run -p smtp-web-handler
//! bob@example.net: 200 Thank you. A copy is on its way to you.
//! refused@example.net: 422 This address takes no mail. Please look whether it is right.
//! greylisted@example.net: 503 This mailbox takes no mail for the moment. Please try again later.
//! not-an-address: 422 This address takes no mail. Please look whether it is right.
//! unanswered@example.net: 500 We do not know whether your message has reached us. We look into it.
//! carol@example.net: 200 Thank you. A copy is on its way to you.
//! 3 messages in 2 sessions
//! ```
//!
//! With `LISTEN=127.0.0.1:8080` and `SMTP_URL=smtp://mx.example.net` in the environment, it is a web server.

use std::env::var;
use std::error::Error;
use std::process::ExitCode;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use smtp_tests::receiver::{Receiver, Step};
use smtp_tokio::{Pool, Server};
use smtp_web_handler::router;
use tower::ServiceExt;
use tracing_subscriber::filter::LevelFilter;

/// The answer to a visitor with this address.
async fn visit(router: &Router, email: &str) -> Result<(), Box<dyn Error>> {
    let request = Request::post("/contact")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("email={email}&text=Hello.")))?;
    let response = router.clone().oneshot(request).await?;
    let status = response.status().as_u16();
    let text = to_bytes(response.into_body(), 1024).await?;
    print!("{email}: {status} {}", String::from_utf8_lossy(&text));
    Ok(())
}

async fn run() -> Result<(), Box<dyn Error>> {
    if let Ok(address) = var("LISTEN") {
        let pool = Pool::new(Server::from_env("SMTP_URL")?).max_sessions(8);
        let listener = tokio::net::TcpListener::bind(address).await?;
        return Ok(axum::serve(listener, router(pool)).await?);
    }
    let receiver = Receiver::new();
    let unanswered = receiver.on(Step::EndOfData).with("unanswered@");
    unanswered.cut_unanswered();
    let router = router(Pool::new(receiver.server()));
    for email in [
        "bob@example.net",
        "refused@example.net",
        "greylisted@example.net",
        "not-an-address",
        "unanswered@example.net",
        "carol@example.net",
    ] {
        visit(&router, email).await?;
    }
    let counts = receiver.counts();
    println!(
        "{} messages in {} sessions",
        counts.messages, counts.sessions
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    if let Err(error) = run().await {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
