//! SMTP and LMTP for tokio, around the engine of [`smtp_proto`].
//!
//! **This crate is a beginning.** The names of `smtp-blocking`, with `async`, are still to come: a
//! connector with TLS, sessions and transactions that are safe to cancel, and bulk delivery. What there
//! is already is the engine itself, whose pump over any of tokio's streams is this:
//!
//! ```
//! use smtp_tokio::smtp_proto::*;
//! use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
//!
//! /// Sends what is submitted, each message with this body, until the session is over.
//! async fn run<S>(engine: &mut Connection, stream: &mut S, message: &[u8]) -> std::io::Result<Vec<Report>>
//! where
//!     S: AsyncRead + AsyncWrite + Unpin,
//! {
//!     let start = tokio::time::Instant::now();
//!     let (mut reports, mut rest) = (Vec::new(), message);
//!     loop {
//!         let now = Instant::from_origin(start.elapsed());
//!         while let Some(transmit) = engine.poll_transmit(now, rest) {
//!             let octets = transmit.parts().concat();
//!             stream.write_all(&octets).await?;
//!             rest = &rest[transmit.advance(octets.len())..];
//!         }
//!         while let Some(event) = engine.poll_event() {
//!             match event {
//!                 Event::BodyWanted(_) => rest = message,
//!                 Event::Finished(_, report) => reports.push(report),
//!                 Event::Closed(_) => return Ok(reports),
//!                 _ => {}
//!             }
//!         }
//!         if engine.wants_body() {
//!             if rest.is_empty() {
//!                 let _ = engine.finish_body();
//!             }
//!             continue;
//!         }
//!         let mut buffer = [0; 1024];
//!         let deadline = engine.poll_timeout().map(|at| start + at.since_origin());
//!         let read = stream.read(&mut buffer);
//!         let read = match deadline {
//!             Some(deadline) => tokio::time::timeout_at(deadline, read).await,
//!             None => Ok(read.await),
//!         };
//!         let now = Instant::from_origin(start.elapsed());
//!         match read {
//!             Ok(Ok(0)) => engine.handle_eof(now),
//!             Ok(Ok(n)) => engine.handle_input(now, &buffer[..n]),
//!             Ok(Err(error)) => return Err(error),
//!             Err(_elapsed) => engine.handle_timeout(now),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (mut client, mut server) = tokio::io::duplex(1024);
//! # tokio::spawn(async move {
//! #     for reply in ["220 hi", "250 hi", "250 ok", "250 ok", "354 go", "250 done"] {
//! #         server.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
//! #         let _ = server.read(&mut [0; 1024]).await;
//! #     }
//! # });
//! let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), Instant::default());
//! engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
//! engine.quit()?;
//! let reports = run(&mut engine, &mut client, b"Subject: hello\r\n\r\nHello.\r\n").await?;
//! assert!(reports[0].is_success());
//! # Ok(())
//! # }
//! ```

pub use smtp_proto;
