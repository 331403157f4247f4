//! A contact form. The handler of a web server sends each message over a [`Pool`], and translates errors into answers
//! for the visitor.
//!
//! `src/main.rs` uses it.

use axum::Form;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Deserialize;
use smtp_tokio::smtp_proto::error::Retry;
use smtp_tokio::{Envelope, Error, Pool};

/// The fields of the form.
#[derive(Debug, Deserialize)]
pub struct Contact {
    /// The address for a copy.
    pub email: String,
    /// The visitor's text.
    pub text: String,
}

/// The routes of the web server. All handlers share the pool.
pub fn router(pool: Pool) -> Router {
    Router::new()
        .route("/contact", post(contact))
        .with_state(pool)
}

async fn contact(
    State(pool): State<Pool>,
    Form(contact): Form<Contact>,
) -> Result<&'static str, Failure> {
    // An invalid address is refused here, so that no text of the form can become a header or a command.
    let envelope = Envelope::new("form@example.org", [&*contact.email]).map_err(Error::from)?;
    let to = &envelope.forward_paths()[0];
    let message = format!(
        "From: form@example.org\r\nTo: {to}\r\nSubject: your message\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n{}\r\n",
        contact.text
    );
    // With one recipient, success means that it has the message.
    let _ = pool.send(envelope, message).await?;
    Ok("Thank you. A copy is on its way to you.\n")
}

/// A message that has reached nobody.
#[derive(Debug)]
pub struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    /// The visitor learns only what to do next. The operator learns the reason, from the events of the feature
    /// `tracing`.
    fn into_response(self) -> Response {
        let error = self.0;
        match error.retry() {
            Retry::Now | Retry::Later if error.concerns_session() => {
                let text = "Our mail is down for the moment. Please try again in a minute.\n";
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [("retry-after", "60")],
                    text,
                )
                    .into_response()
            }
            Retry::Now | Retry::Later => {
                let text = "This mailbox takes no mail for the moment. Please try again later.\n";
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [("retry-after", "3600")],
                    text,
                )
                    .into_response()
            }
            Retry::Never => {
                let text = "This address takes no mail. Please look whether it is right.\n";
                (StatusCode::UNPROCESSABLE_ENTITY, text).into_response()
            }
            // It may have been sent, or the login is wrong. The visitor cannot solve either.
            Retry::AskPerson => {
                let text = "We do not know whether your message has reached us. We look into it.\n";
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
        }
    }
}
