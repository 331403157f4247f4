//! One login (RFC 4954): an AUTH exchange, and which mechanism is next.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::auth::{Credentials, Mechanism, MechanismError, Nonce, Secret, Surroundings};
use crate::capability::Extension;
use crate::command::{Command, fits_auth_line};
use crate::error::{Cause, Error, ProtocolError, Stage};
use crate::reply::{ReplyClass, ReplyRef};
use crate::text::Printable;

use super::awaited::{Awaited, OpeningReply};
use super::peer::Peer;

/// What a reply has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// A reply is waited for.
    Wait,
    Done,
}

/// The exchange under way, and the mechanisms left to try after it, the strongest last.
pub(crate) struct Exchange {
    mechanism: Box<dyn Mechanism>,
    rest: Vec<Box<dyn Mechanism>>,
    /// A first response that did not fit into the command line.
    pending: Option<Secret>,
    challenges: u32,
    /// Why `*` was sent.
    cancelled: Option<Cause>,
    /// The responses of the caller's own mechanism. An error must not echo them.
    sent: Vec<Secret>,
}

/// Begins to log in. `logins` counts the earlier logins on this connection.
pub(crate) fn log_in(
    nonce: Option<&Nonce>,
    logins: u32,
    peer: &mut Peer,
) -> Result<Option<Box<Exchange>>, Error> {
    let config = peer.config.clone();
    let Some(credentials) = &config.credentials else {
        return Ok(None);
    };
    let fail = |cause| Err(Error::permanent(Stage::Auth, cause));
    let trust = peer.trust();
    let withheld = || match &peer.tls {
        None => Cause::CredentialsInClear,
        Some(facts) => {
            let problem = facts.problem.clone();
            Cause::CredentialsUnverified(
                problem.unwrap_or_else(|| "its certificate was not checked".into()),
            )
        }
    };
    // Without TLS under an opportunistic policy, credentials must not go out in the clear. An attacker may have
    // removed STARTTLS and AUTH from the EHLO reply.
    // rule: opening.opportunistic-not-with-credentials
    if !credentials.may_use(trust) {
        return fail(withheld());
    }
    // rule: auth.token-fetched
    if let Some(error) = credentials.missing() {
        return Err(Error::transient(Stage::Auth, error));
    }
    // rule: auth.not-offered
    if !peer.capabilities.has(Extension::Auth) {
        return fail(Cause::AuthUnavailable);
    }
    let choice = credentials.candidates(&Surroundings {
        offered: &peer.capabilities,
        trust,
        tls: peer.tls.as_ref(),
        nonce,
        logins,
        iterations: config.limits.scram_iterations,
    });
    if choice.mechanisms.is_empty() {
        if choice.withheld {
            return fail(withheld());
        }
        let mut offered = String::new();
        for name in peer.capabilities.mechanisms() {
            let space = if offered.is_empty() { "" } else { " " };
            offered += &alloc::format!("{space}{}", Printable(name));
        }
        return fail(Cause::NoCommonMechanism(offered.into()));
    }
    next_mechanism(choice.mechanisms, peer).map(Some)
}

/// Tries the strongest of the mechanisms that are left.
fn next_mechanism(
    mut mechanisms: Vec<Box<dyn Mechanism>>,
    peer: &mut Peer,
) -> Result<Box<Exchange>, Error> {
    let (mechanism, initial) = loop {
        let Some(mut mechanism) = mechanisms.pop() else {
            return Err(Error::permanent(Stage::Auth, Cause::AuthUnavailable));
        };
        match mechanism.initial_response() {
            Ok(initial) => break (mechanism, initial),
            // Another mechanism may carry what this one cannot: SCRAM rejects a password that SASLprep prohibits.
            Err(_) if !mechanisms.is_empty() => {}
            Err(error) => return Err(Error::permanent(Stage::Auth, error)),
        }
    };
    let name = mechanism.name();
    let encoded = initial.as_ref().map(|response| match response.is_empty() {
        // RFC 4954 section 4: an empty initial response is written as one "=".
        true => Zeroizing::new("=".into()),
        false => encode(response),
    });
    let fitting = encoded
        .as_ref()
        // rule: auth.initial-response-fits
        .filter(|response| fits_auth_line(name, response.len()));
    let command = Command::Auth(name, fitting.map(|response| response.as_str()));
    peer.push(command, Awaited::Opening(OpeningReply::Auth));
    let is_fitting = fitting.is_some();
    // rule: auth.initial-response-too-long
    let (sent, pending) = match is_fitting {
        true => (initial.filter(|_| is_custom(peer)), None),
        false => (None, initial),
    };
    Ok(Box::new(Exchange {
        mechanism,
        rest: mechanisms,
        pending,
        challenges: 0,
        cancelled: None,
        sent: sent.into_iter().collect(),
    }))
}

impl Exchange {
    /// A reply to AUTH, or to a response.
    pub(crate) fn on_reply(
        mut self: Box<Self>,
        reply: ReplyRef<'_>,
        peer: &mut Peer,
    ) -> Result<(Login, Option<Box<Self>>), Error> {
        let command = self.command();
        match reply.class() {
            ReplyClass::Intermediate => {
                match self.answer(reply, peer.config.limits.challenges) {
                    Ok(response) => {
                        let encoded = encode(&response);
                        if is_custom(peer) {
                            self.sent.push(response);
                        }
                        let awaited = Awaited::Opening(OpeningReply::Auth);
                        peer.push(Command::AuthResponse(&encoded), awaited);
                    }
                    Err(error) => {
                        self.cancelled = Some(error);
                        peer.push(
                            Command::AuthCancel,
                            Awaited::Opening(OpeningReply::AuthCancel),
                        );
                    }
                }
                Ok((Login::Wait, Some(self)))
            }
            // 235 is the only success (RFC 4954 section 6). Any other 2yz means that client and server disagree about
            // the command.
            // rule: auth.success-is-235
            ReplyClass::Success if reply.code().get() == 235 => {
                // RFC 4954 does not allow data with a success. The mechanism judges text that looks like data.
                let data = STANDARD.decode(reply.plain_text()).unwrap_or_default();
                match self.mechanism.verify(&data) {
                    Ok(()) => Ok((Login::Done, None)),
                    Err(error) => Err(Error::permanent(Stage::Auth, error).with_command(&command)),
                }
            }
            ReplyClass::Success => {
                let error = ProtocolError::WrongClass(reply.to_reply());
                Err(Error::transient(Stage::Auth, error).with_command(&command))
            }
            // The server offers the mechanism, but not for this user. Another one may work.
            ReplyClass::Permanent
                // rule: auth.next-mechanism
                // rule: auth.scram-next-mechanism
                if matches!(reply.code().get(), 504 | 534) && !self.rest.is_empty() =>
            {
                next_mechanism(self.rest, peer).map(|next| (Login::Wait, Some(next)))
            }
            _ => {
                // rule: auth.refused-535
                // rule: auth.refused-454
                // rule: auth.scram-refused
                // rule: auth.external-refused
                // rule: auth.anonymous-refused
                let mut error =
                    Error::rejected(Stage::Auth, reply.to_reply()).with_command(&command);
                if let Some(mut token) = self.mechanism.token_error() {
                    if let Some(redaction) = peer.redaction(self.responses()) {
                        redaction.apply_to(&mut token);
                    }
                    error.cause = Cause::TokenRejected {
                        reply: reply.to_reply(),
                        error: Box::new(token),
                    };
                }
                Err(error)
            }
        }
    }

    /// The reply to `*`: 501, if the server follows RFC 4954 section 4. The exchange has failed in any case.
    pub(crate) fn cancelled(self) -> Error {
        let command = self.command();
        let error = match self.cancelled {
            Some(cause @ Cause::Protocol(_)) => Error::transient(Stage::Auth, cause),
            Some(cause) => Error::permanent(Stage::Auth, cause),
            None => Error::permanent(Stage::Auth, MechanismError::UnexpectedChallenge),
        };
        error.with_command(&command)
    }

    /// The responses of the caller's own mechanism.
    pub(crate) fn responses(&self) -> &[Secret] {
        &self.sent
    }

    /// The AUTH command, for an error.
    pub(crate) fn command(&self) -> String {
        Command::Auth(self.mechanism.name(), None).redacted()
    }

    fn answer(&mut self, reply: ReplyRef<'_>, limit: u32) -> Result<Secret, Cause> {
        self.challenges += 1;
        // rule: auth.challenge-flood
        if self.challenges > limit {
            return Err(ProtocolError::TooManyChallenges { limit }.into());
        }
        if let Some(initial) = self.pending.take() {
            return Ok(initial);
        }
        // rule: auth.prompts-are-not-read
        if !self.mechanism.reads_challenges() {
            return Ok(self.mechanism.respond(&[])?);
        }
        // A challenge of several lines cannot be decoded, because of its LF. RFC 4954 does not allow it either.
        // rule: auth.undecodable-challenge
        let challenge = STANDARD
            .decode(reply.text().trim_ascii())
            .map_err(|_| MechanismError::Undecodable)?;
        Ok(self.mechanism.respond(&challenge)?)
    }
}

fn is_custom(peer: &Peer) -> bool {
    let credentials = peer.config.credentials.as_ref();
    credentials.is_some_and(Credentials::is_custom)
}

fn encode(secret: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(secret))
}
