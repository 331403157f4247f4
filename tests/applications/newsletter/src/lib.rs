//! A small application: a newsletter. Its web server confirms each subscription by `smtp-tokio`. A nightly job sends
//! its issues by `smtp-blocking`.
//!
//! Its tests, in `tests/`, use the stub and the receiving server, as any application can:
//!
//! ```console
//! $ cargo test -p smtp-newsletter
//! ```

use smtp_blocking::smtp_proto::error::Retry;

/// The sender of all messages.
pub const SENDER: &str = "newsletter@example.org";

/// The result of a confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// It is on its way.
    Sent,
    /// The mailbox does not exist: tell the person who has typed the address.
    NoSuchMailbox,
    /// Try again in a minute.
    Later,
}

/// Asks the subscriber to confirm, over an open session.
pub async fn confirm(
    session: &mut smtp_tokio::Session,
    subscriber: &str,
    token: &str,
) -> Confirmation {
    let Ok(envelope) = smtp_tokio::Envelope::new(SENDER, [subscriber]) else {
        return Confirmation::NoSuchMailbox;
    };
    let message = format!(
        "From: {SENDER}\r\nTo: {subscriber}\r\nSubject: Please confirm\r\n\r\n\
         https://newsletter.example.org/confirm/{token}\r\n"
    );
    match session.send(envelope, message.as_bytes()).await {
        Ok(_) => Confirmation::Sent,
        Err(error) if error.retry() == Retry::Never => Confirmation::NoSuchMailbox,
        Err(_) => Confirmation::Later,
    }
}

/// The result of an issue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Issue {
    /// They get it.
    pub sent: Vec<String>,
    /// They are removed from the list.
    pub gone: Vec<String>,
    /// They get it with the next run.
    pub later: Vec<String>,
    /// They may have it. Nobody gets it twice.
    pub in_doubt: Vec<String>,
}

/// Sends an issue to all subscribers, each in its own message.
///
/// # Errors
/// The server cannot be reached, or refuses the session.
pub fn send_issue(
    server: &smtp_blocking::Server,
    subscribers: &[&str],
    text: &str,
) -> Result<Issue, smtp_blocking::Error> {
    let mut session = smtp_blocking::Session::connect(server)?;
    let mut issue = Issue::default();
    for subscriber in subscribers {
        let Ok(envelope) = smtp_blocking::Envelope::new(SENDER, [*subscriber]) else {
            issue.gone.push((*subscriber).to_owned());
            continue;
        };
        if !session.is_usable() {
            session = smtp_blocking::Session::connect(server)?;
        }
        let message = format!("From: {SENDER}\r\nSubject: News\r\n\r\n{text}\r\n");
        let list = match session.send(envelope, message.as_bytes()) {
            Ok(_) => &mut issue.sent,
            // Not `is_permanent`: a wrong setting of ours strikes nobody off.
            Err(error) if error.retry() == Retry::Never => &mut issue.gone,
            Err(error) if error.is_in_doubt() => &mut issue.in_doubt,
            Err(_) => &mut issue.later,
        };
        list.push((*subscriber).to_owned());
    }
    session.quit();
    Ok(issue)
}
