//! Compose with another library, and send with this one. [mail-builder](https://docs.rs/mail-builder) and
//! [lettre](https://docs.rs/lettre) compose the messages. Each function here sends one, octet for octet.
//!
//! The size of a message in memory is declared. A message that is written into a transaction needs no more memory
//! than its builder.

use mail_builder::MessageBuilder;
use smtp_blocking::{Envelope, Error, Report, Session};

/// Sends a message that mail-builder has composed. The envelope is your own, so the recipients of blind copies are in
/// it, and not in the message.
///
/// # Errors
/// It cannot be composed, or reaches nobody.
pub fn send_built(
    session: &mut Session,
    envelope: Envelope,
    message: MessageBuilder<'_>,
) -> Result<Report, Box<dyn std::error::Error>> {
    let octets = message.write_to_vec()?;
    Ok(session.send(envelope, octets)?)
}

/// The same without the whole message in memory: the builder writes it into the transaction, part by part.
///
/// # Errors
/// It cannot be composed, or reaches nobody.
pub fn stream_built(
    session: &mut Session,
    envelope: Envelope,
    message: MessageBuilder<'_>,
) -> Result<Report, Box<dyn std::error::Error>> {
    let mut transaction = session.begin(envelope)?;
    message.write_to(&mut transaction)?;
    Ok(transaction.finish()?)
}

/// The envelope that lettre has derived from the header, with the recipients of blind copies.
///
/// # Errors
/// lettre accepts an address that this library does not.
pub fn envelope_of(message: &lettre::Message) -> Result<Envelope, Error> {
    let envelope = message.envelope();
    let sender = envelope.from().map_or("", AsRef::as_ref);
    Ok(Envelope::new(sender, envelope.to())?)
}

/// Sends a message of lettre.
///
/// # Errors
/// It reaches nobody.
pub fn send_lettre(session: &mut Session, message: &lettre::Message) -> Result<Report, Error> {
    session.send(envelope_of(message)?, message.formatted())
}

/// The same with tokio.
///
/// # Errors
/// It reaches nobody.
pub async fn send_lettre_async(
    session: &mut smtp_tokio::Session,
    message: &lettre::Message,
) -> Result<Report, Error> {
    session
        .send(envelope_of(message)?, message.formatted())
        .await
}
