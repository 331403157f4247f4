//! What a list of capabilities is worth: nothing goes out that it does not offer, and nothing is withheld that it does.
//!
//! The list is that of the EHLO reply which holds for a transaction: inside TLS, another one than before.

use smtp_proto::envelope::BodyType;
use smtp_proto::parameter::Need;
use smtp_proto::{Cause, Chunking, Envelope, Extension, Outcome, TlsPolicy};

use super::Failure;
use super::books::Transaction;
use super::driver::{Finished, World};
use super::server::Offers;

pub(crate) fn check(world: &World<'_>) -> Result<(), Failure> {
    let traits = &world.scene.traits;
    if world.excused || traits.swallows || traits.surplus {
        return Ok(());
    }
    if let Some(fault) = &world.batches.fault {
        return Err(Failure::new("in a batch that has ended", fault.clone()));
    }
    for transaction in &world.server.books.transactions {
        let offers = traits.offers(transaction.encrypted);
        let fault = spoken(world, transaction, offers);
        if let Err(what) = fault {
            let kind = "not as it is offered";
            let line = transaction.mail.escape_ascii();
            return Err(Failure::new(kind, format!("{what}: {line}; {offers:?}")));
        }
    }
    let offers = traits.offers(world.server.encrypted);
    for finished in &world.finished {
        withheld(world, finished, offers)?;
    }
    Ok(())
}

/// What was said of this message is what the server offers and the message demands.
fn spoken(world: &World<'_>, t: &Transaction, offers: Offers) -> Result<(), String> {
    let config = &world.scene.config;
    let envelope = &world.scene.messages[t.message].envelope;
    if !t.encrypted && config.tls == TlsPolicy::Required {
        return Err("in the clear".into());
    }
    if let Some(reason) = reasons(envelope, offers, config.chunking).first() {
        return Err(format!("begun in spite of {reason:?}"));
    }
    let mut expected = Vec::new();
    if let (Some(size), true) = (envelope.declared_size(), offers.size.is_some()) {
        expected.push(format!("SIZE={size}"));
    }
    match envelope.body_type() {
        BodyType::Binary => expected.push("BODY=BINARYMIME".into()),
        BodyType::SevenBit => {}
        _ if offers.eight_bit => expected.push("BODY=8BITMIME".into()),
        _ => {}
    }
    if envelope.needs_smtputf8() && offers.utf8 {
        expected.push("SMTPUTF8".into());
    }
    for parameter in envelope.mail_parameters() {
        let offered = if parameter.name() == "PRDR" {
            offers.prdr
        } else {
            offers.dsn
        };
        if offered {
            expected.push(parameter.to_string());
        }
    }
    same_words(&t.mail, expected)?;
    for line in &t.rcpt {
        let parameters = envelope.recipient_parameters(0).filter(|_| offers.dsn);
        same_words(line, parameters.map(ToString::to_string).collect())?;
    }
    if offers.stated.is_some_and(|most| t.named.len() > most) {
        return Err(format!("{} recipients", t.named.len()));
    }
    let chunked = offers.chunking && config.chunking != Chunking::Never;
    if (t.by_chunks && !chunked) || (t.by_data && chunked) {
        return Err("the other way of sending a body".into());
    }
    let may_be_eight_bit = match envelope.body_type() {
        BodyType::SevenBit => false,
        BodyType::EightBitAnyway | BodyType::Binary => true,
        _ => offers.eight_bit,
    };
    match t.has_eight_bit && !may_be_eight_bit {
        true => Err("octets above 127".into()),
        false => Ok(()),
    }
}

/// The words after the path are these, in any order.
fn same_words(line: &[u8], mut expected: Vec<String>) -> Result<(), String> {
    let line = String::from_utf8_lossy(line);
    let behind = line.split_once('>').map_or("", |(_, behind)| behind);
    let mut words: Vec<_> = behind.split_whitespace().map(str::to_owned).collect();
    words.sort();
    expected.sort();
    match words == expected {
        true => Ok(()),
        false => Err(format!("{expected:?} is due in {line}")),
    }
}

/// Why the server cannot be given a message.
#[derive(Debug, PartialEq, Eq)]
enum Reason {
    TooLarge {
        size: u64,
        limit: u64,
    },
    Lacks(Extension),
    TooMany {
        limit: u64,
    },
    /// A body of octets needs chunks, and the caller wants none.
    NeverInChunks,
}

fn reasons(envelope: &Envelope, offers: Offers, chunking: Chunking) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let (Some(size), Some(limit @ 1..)) = (envelope.declared_size(), offers.size)
        && size > limit
    {
        reasons.push(Reason::TooLarge { size, limit });
    }
    let body = envelope.body_type();
    let required = envelope
        .mail_parameters()
        .iter()
        .any(|parameter| parameter.name() == "RET" && parameter.need() == Need::Required);
    for (needed, offered, extension) in [
        (
            body == BodyType::EightBit,
            offers.eight_bit,
            Extension::EightBitMime,
        ),
        (
            body == BodyType::Binary,
            offers.binary,
            Extension::BinaryMime,
        ),
        (
            body == BodyType::Binary,
            offers.chunking,
            Extension::Chunking,
        ),
        (envelope.needs_smtputf8(), offers.utf8, Extension::SmtpUtf8),
        (required, offers.dsn, Extension::Dsn),
    ] {
        if needed && !offered {
            reasons.push(Reason::Lacks(extension));
        }
    }
    if body == BodyType::Binary && chunking == Chunking::Never {
        reasons.push(Reason::NeverInChunks);
    }
    let may_split = envelope.is_reopenable() && !envelope.is_all_or_nothing();
    if let Some(most) = offers.stated
        && envelope.forward_paths().len() > most
        && !may_split
    {
        reasons.push(Reason::TooMany { limit: most as u64 });
    }
    reasons
}

/// What a message is withheld for is so; and where it is so, that is what is reported.
fn withheld(world: &World<'_>, finished: &Finished, offers: Offers) -> Result<(), Failure> {
    let envelope = &world.scene.messages[finished.message].envelope;
    let reasons = reasons(envelope, offers, world.scene.config.chunking);
    for (recipient, result) in finished.report.recipients.iter().enumerate() {
        let Err(error) = result else { continue };
        let reported = match &error.cause {
            Cause::TooLarge { size, limit } => Some(Reason::TooLarge {
                size: *size,
                limit: *limit,
            }),
            Cause::Unsupported(extension) => Some(Reason::Lacks(*extension)),
            Cause::LimitExceeded { limit, .. } => Some(Reason::TooMany { limit: *limit }),
            Cause::Local(_) if error.outcome == Outcome::Permanent => {
                Some(Reason::NeverInChunks).filter(|reason| reasons.contains(reason))
            }
            _ => None,
        };
        let context = || {
            let (message, error) = (finished.message, error.to_string());
            format!("m{message}r{recipient}: {error}; {reasons:?} of {offers:?}")
        };
        match &reported {
            Some(reported) if !reasons.contains(reported) => {
                return Err(Failure::new("withheld without a reason", context()));
            }
            Some(_) if error.outcome != Outcome::Permanent => {
                return Err(Failure::new("withheld, and not permanent", context()));
            }
            None if !reasons.is_empty() && error.outcome != Outcome::NotAttempted => {
                return Err(Failure::new("not withheld", context()));
            }
            _ => {}
        }
    }
    Ok(())
}
