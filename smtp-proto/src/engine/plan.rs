//! What this server gets of this message, and how, or why it gets nothing. It is computed before MAIL of each
//! transaction, and does not change any state.

use alloc::sync::Arc;

use crate::body::BodyEncoder;
use crate::capability::{Capabilities, Extension};
use crate::chunk::Body;
use crate::command::MailParameters;
use crate::config::Chunking;
use crate::envelope::{BodyType, Envelope};
use crate::error::{Cause, Error, Outcome, Stage};
use crate::parameter::Need;
use crate::text::printable;

use super::peer::Peer;
use super::recipients::Recipients;
use super::usage::Domains;

/// How one transaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) travel: Travel,
    /// How many recipients it may name.
    pub(crate) room: usize,
    /// How many recipient domains the session may have.
    pub(crate) domains: Option<u64>,
    /// A reply for each recipient is asked for (PRDR).
    pub(crate) prdr: bool,
    pub(crate) proceed_on: ProceedOn,
}

/// How the body is transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Travel {
    Data,
    Chunks,
}

/// What must happen before the body, or DATA, is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProceedOn {
    /// Nothing: DATA awaits its own reply, and an eager chunk awaits none.
    Nothing,
    OneAccepted,
    AllAnswered,
    AllAccepted,
}

impl Plan {
    /// `left` recipients are not named yet, in this or a later transaction.
    pub(crate) fn new(
        envelope: &mut Envelope,
        recipients: &Recipients,
        peer: &Peer,
    ) -> Result<Self, Error> {
        let first = recipients.left() == recipients.len();
        let room = room(envelope, recipients.left(), peer)?;
        let withheld = |cause| Error::permanent(Stage::Mail, cause);
        let travel = travel(envelope, peer).map_err(withheld)?;
        if first {
            check(envelope, peer).map_err(withheld)?;
        }
        let domains = peer.capabilities.recipient_domains_max();
        if let Some(limit) = domains {
            check_domains(envelope, recipients, limit, peer)?;
        }
        let asks = envelope
            .mail_parameters()
            .iter()
            .any(|p| p.is_per_recipient_replies());
        // rule: prdr.not-offered
        let prdr = asks && peer.capabilities.has(Extension::Prdr) && !peer.is_lmtp();
        let proceed_on = match travel {
            _ if envelope.is_all_or_nothing() => ProceedOn::AllAccepted,
            Travel::Data => ProceedOn::Nothing,
            // Under LMTP the last chunk has a reply for each recipient accepted so far.
            // rule: lmtp.bdat
            // rule: chunking.eager-not-possible
            Travel::Chunks if !peer.pipelines() || peer.is_lmtp() => ProceedOn::AllAnswered,
            // rule: chunking.eager
            Travel::Chunks if peer.config.chunking == Chunking::Eager => ProceedOn::Nothing,
            Travel::Chunks => ProceedOn::OneAccepted,
        };
        Ok(Self {
            travel,
            room,
            domains,
            prdr,
            proceed_on,
        })
    }

    /// The parameters of MAIL.
    pub(crate) fn mail_parameters<'a>(
        envelope: &'a Envelope,
        capabilities: &'a Capabilities,
    ) -> MailParameters<'a> {
        let offered = |extension| capabilities.has(extension);
        let body = match envelope.body_type() {
            BodyType::Binary => Some("BINARYMIME"),
            BodyType::SevenBit => None,
            // rule: body.8bit-offered
            _ => Some("8BITMIME").filter(|_| offered(Extension::EightBitMime)),
        };
        // rule: body.smtputf8-offered
        // rule: smtputf8.domain-offered
        let utf8 = offered(Extension::SmtpUtf8)
            // rule: smtputf8.not-needed
            && (envelope.needs_smtputf8() || !envelope.is_ascii());
        MailParameters {
            size: envelope
                .declared_size()
                // rule: parameters.size
                .filter(|_| offered(Extension::Size)),
            body,
            utf8,
            others: Some((envelope, capabilities)),
        }
    }

    /// The encoder of the body for this connection.
    pub(crate) fn body(&self, envelope: &Envelope, peer: &Peer) -> Body {
        let allow_eight_bit = match envelope.body_type() {
            // rule: body.7bit-declared
            BodyType::SevenBit => false,
            // rule: body.8bit-anyway
            BodyType::EightBitAnyway | BodyType::Binary => true,
            // rule: body.8bit-undeclared
            BodyType::Undeclared | BodyType::EightBit => {
                peer.capabilities.has(Extension::EightBitMime)
            }
        };
        let exact = envelope.exact_size_octets();
        match (self.travel, envelope.body_type()) {
            (Travel::Data, _) => {
                Body::new(BodyEncoder::new(peer.config.body, allow_eight_bit), exact)
            }
            (Travel::Chunks, BodyType::Binary) => {
                Body::chunked(BodyEncoder::binary(), peer.config.chunk_size, exact)
            }
            (Travel::Chunks, _) => {
                let encoder = BodyEncoder::chunked(peer.config.body, allow_eight_bit);
                Body::chunked(encoder, peer.config.chunk_size, exact)
            }
        }
    }
}

/// Whether the recipients of this message may be named in several transactions.
pub(crate) fn may_split(envelope: &Envelope) -> bool {
    envelope.is_reopenable() && !envelope.is_all_or_nothing()
}

fn exceeded(name: &'static str, limit: u64, value: u64) -> Cause {
    Cause::LimitExceeded { name, limit, value }
}

/// The error for a recipient whose domain would be one more than the session may have.
pub(crate) fn one_domain_more(limit: u64) -> Error {
    let cause = exceeded("RCPTDOMAINMAX", limit, limit + 1);
    Error::new(Stage::Mail, Outcome::NotAttempted, cause)
}

/// How many recipients this transaction can have (RFC 9422 section 4.2).
fn room(envelope: &Envelope, left: usize, peer: &Peer) -> Result<usize, Error> {
    // rule: limits.mailmax
    if let Some(limit) = peer.mails_exceeded() {
        let cause = exceeded("MAILMAX", limit, peer.usage.transactions + 1);
        return Err(Error::new(Stage::Mail, Outcome::NotAttempted, cause));
    }
    let may_split = may_split(envelope);
    let stated = peer.capabilities.recipients_max();
    let learnt = peer.usage.learnt.map(u64::from).filter(|_| may_split);
    match stated.into_iter().chain(learnt).min() {
        // rule: limits.rcptmax-refused
        Some(limit) if left as u64 > limit && !may_split => Err(Error::permanent(
            Stage::Mail,
            exceeded("RCPTMAX", limit, left as u64),
        )),
        // rule: limits.rcptmax-split
        Some(limit) => Ok(usize::try_from(limit).map_or(left, |limit| limit.min(left))),
        None => Ok(left),
    }
}

/// By DATA or by BDAT.
fn travel(envelope: &Envelope, peer: &Peer) -> Result<Travel, Cause> {
    let offered = peer.capabilities.has(Extension::Chunking);
    let travel = match peer.config.chunking {
        // rule: chunking.always
        Chunking::Always if !offered => return Err(Cause::Unsupported(Extension::Chunking)),
        // rule: chunking.never
        Chunking::Never => Travel::Data,
        // rule: chunking.offered
        _ if offered => Travel::Chunks,
        // rule: chunking.not-offered
        _ => Travel::Data,
    };
    // rule: chunking.binary-not-offered
    if envelope.body_type() == BodyType::Binary && travel == Travel::Data {
        if !peer.capabilities.has(Extension::BinaryMime) {
            return Err(Cause::Unsupported(Extension::BinaryMime));
        }
        return Err(match peer.config.chunking {
            Chunking::Never => {
                Cause::Local("a BINARYMIME body needs BDAT, which is set to never".into())
            }
            _ => Cause::Unsupported(Extension::Chunking),
        });
    }
    Ok(travel)
}

/// Checks that the EHLO reply offers all that the message needs.
fn check(envelope: &mut Envelope, peer: &Peer) -> Result<(), Cause> {
    let offered = |extension| peer.capabilities.has(extension);
    if let (Some(size), Some(limit)) = (envelope.declared_size(), peer.capabilities.size_limit())
        && size > limit
    {
        // rule: opening.size-limit
        return Err(Cause::TooLarge { size, limit });
    }
    let needed = match envelope.body_type() {
        BodyType::EightBit => Some(Extension::EightBitMime),
        BodyType::Binary => Some(Extension::BinaryMime),
        _ => None,
    };
    // rule: body.8bit-not-offered
    if let Some(extension) = needed.filter(|&extension| !offered(extension)) {
        return Err(Cause::Unsupported(extension));
    }
    // rule: smtputf8.domain-not-offered
    if !offered(Extension::SmtpUtf8) && (envelope.needs_smtputf8() || !envelope.use_ascii_domains())
    {
        // rule: body.smtputf8-not-offered
        // rule: smtputf8.flag
        return Err(Cause::Unsupported(Extension::SmtpUtf8));
    }
    if !envelope.has_parameters() {
        return Ok(());
    }
    let unsupported = |extension: Result<Extension, &str>| match extension {
        Ok(extension) => Cause::Unsupported(extension),
        // The name is the caller's, so it is made printable.
        Err(keyword) => Cause::UnsupportedKeyword(printable(keyword).into()),
    };
    for parameter in envelope.mail_parameters() {
        // rule: parameters.requiretls-unverified
        if parameter.is_require_tls() && !peer.is_verified() {
            return Err(Cause::TlsUnverified);
        }
        // rule: parameters.deliverby-not-offered
        // rule: parameters.futurerelease-not-offered
        // rule: parameters.requiretls-not-offered
        // rule: parameters.raw
        if parameter.need() == Need::Required && !parameter.offered_in(&peer.capabilities) {
            return Err(unsupported(parameter.extension()));
        }
        // rule: parameters.deliverby-minimum
        // rule: parameters.futurerelease-limits
        if let Some(excluded) = parameter.excluded_by(&peer.capabilities) {
            return Err(Cause::Excluded(Arc::from(excluded)));
        }
    }
    for index in 0..envelope.forward_paths().len() {
        for parameter in envelope.recipient_parameters(index) {
            // rule: parameters.rrvs
            if parameter.need() == Need::Required && !parameter.offered_in(&peer.capabilities) {
                return Err(unsupported(parameter.extension()));
            }
        }
    }
    Ok(())
}

/// Whether at least one recipient may be named under the server's limit of domains (RFC 9422 section 4.3), or every
/// one if all must be accepted.
fn check_domains(
    envelope: &Envelope,
    recipients: &Recipients,
    limit: u64,
    peer: &Peer,
) -> Result<(), Error> {
    let paths = envelope.forward_paths();
    let mut domains = recipients
        .waiting()
        .map(|index| paths[index].domain().unwrap_or_default());
    let may_begin = match envelope.is_all_or_nothing() {
        false => domains.any(|domain| peer.usage.has_room(domain, limit)),
        true => {
            let mut usage = peer.usage.domains();
            domains.all(|domain| usage.add(domain, limit))
        }
    };
    match may_begin {
        true => Ok(()),
        // A new session would not help either.
        false if envelope.is_all_or_nothing() && !Domains::default().has_room_for(paths, limit) => {
            Err(Error {
                outcome: Outcome::Permanent,
                ..one_domain_more(limit)
            })
        }
        false => Err(one_domain_more(limit)),
    }
}
