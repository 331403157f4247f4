//! From the greeting to the first transaction: greeting → EHLO/HELO/LHLO → STARTTLS → EHLO → AUTH.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::auth::Nonce;
use crate::capability::{Capabilities, Extension};
use crate::command::Command;
use crate::config::{Config, Protocol, TlsPolicy};
use crate::error::{Cause, Error, ProtocolError, Stage};
use crate::reply::{Reply, ReplyClass, ReplyRef};
use crate::tls::{Channel, TlsFacts};

use super::awaited::{Awaited, OpeningReply};
use super::exchange::{self, Exchange, Login};
use super::peer::Peer;

/// What a reply has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits for a reply or a handshake.
    Wait,
    /// The transport must do a TLS handshake.
    StartTls,
    /// Mail may be sent.
    Ready,
}

/// The state of the opening, besides the one reply that the pipeline awaits.
pub(crate) struct Opening {
    /// The reply 500 or 502 that led to HELO.
    ehlo_refused: Option<Reply>,
    /// Boxed, because it exists only during the opening.
    exchange: Option<Box<Exchange>>,
    /// Only SCRAM needs it.
    nonce: Option<Nonce>,
    /// How many logins were begun. After XCLIENT, the client must log in again.
    logins: u32,
}

impl Opening {
    pub(crate) fn new(nonce: Option<Nonce>) -> Self {
        Self {
            ehlo_refused: None,
            exchange: None,
            nonce,
            logins: 0,
        }
    }

    pub(crate) fn start(&mut self, peer: &mut Peer) -> Progress {
        if let Channel::Tls(facts) = &peer.config.channel {
            peer.tls = Some(facts.clone());
        } else if peer.config.tls == TlsPolicy::Implicit {
            // rule: opening.implicit
            return Progress::StartTls;
        }
        peer.pipeline.await_greeting();
        Progress::Wait
    }

    /// The handshake is done.
    pub(crate) fn tls_established(&mut self, facts: TlsFacts, peer: &mut Peer) {
        peer.tls = Some(facts);
        match peer.config.tls {
            TlsPolicy::Implicit => peer.pipeline.await_greeting(),
            _ => say_hello(peer),
        }
    }

    /// Begins again with EHLO, on the same connection.
    pub(crate) fn restart(&mut self, peer: &mut Peer) {
        peer.capabilities = Capabilities::default();
        say_hello(peer);
    }

    /// The next step, after this reply to `what`. Its class can answer. A 421 or a 221 never comes here.
    pub(crate) fn on_reply(
        &mut self,
        what: OpeningReply,
        reply: ReplyRef<'_>,
        peer: &mut Peer,
    ) -> Result<Progress, Error> {
        use OpeningReply::{Auth, AuthCancel, Ehlo, Greeting, Helo, StartTls};
        use ReplyClass::Success;
        match (what, reply.class()) {
            // rule: opening.nothing-before-greeting
            (Greeting, Success) => {
                say_hello(peer);
                Ok(Progress::Wait)
            }
            (Ehlo, Success) => {
                peer.capabilities = Capabilities::parse(reply.to_reply());
                self.after_hello(peer)
            }
            (Helo, Success) => {
                self.ehlo_refused = None;
                self.after_hello(peer)
            }
            (Ehlo, _) if may_say_helo(reply, peer) => {
                self.ehlo_refused = Some(reply.to_reply());
                let config = peer.config.clone();
                peer.push(Command::Helo(&config.client_name), Awaited::Opening(Helo));
                Ok(Progress::Wait)
            }
            (Helo, _) => {
                let mut error = Error::rejected(Stage::Ehlo, reply.to_reply());
                if let Some(ehlo) = self.ehlo_refused.take() {
                    let helo = reply.to_reply();
                    // rule: opening.helo-refused-keeps-both
                    error.cause = Cause::HelloRejected { ehlo, helo };
                }
                Err(error)
            }
            (StartTls, Success) => Ok(Progress::StartTls),
            (StartTls, _) => match peer.config.tls {
                // rule: opening.opportunistic-refused
                TlsPolicy::Opportunistic => self.log_in(peer),
                _ => {
                    let mut error = Error::rejected(Stage::StartTls, reply.to_reply());
                    // rule: opening.required-refused
                    error.cause = Cause::TlsUnavailable(Some(reply.to_reply()));
                    Err(error)
                }
            },
            (Auth, _) => match self.exchange.take() {
                Some(exchange) => {
                    let (login, exchange) = exchange.on_reply(reply, peer)?;
                    self.exchange = exchange;
                    Ok(match login {
                        Login::Wait => Progress::Wait,
                        Login::Done => Progress::Ready,
                    })
                }
                None => {
                    let error = ProtocolError::WrongClass(reply.to_reply());
                    Err(Error::transient(Stage::Auth, error))
                }
            },
            (AuthCancel, _) => Err(match self.exchange.take() {
                Some(exchange) => exchange.cancelled(),
                None => Error::rejected(Stage::Auth, reply.to_reply()),
            }),
            // rule: opening.greeting-554
            (Greeting | Ehlo, _) => {
                let stage = Awaited::Opening(what).stage();
                Err(Error::rejected(stage, reply.to_reply()))
            }
        }
    }

    /// The text of a reply without the secrets that a server echoes. Some servers repeat what they do not understand.
    /// A reply other than a refusal is searched during a login only.
    // rule: auth.echo-redacted
    pub(crate) fn redact(&self, text: &[u8], class: ReplyClass, peer: &Peer) -> Option<Vec<u8>> {
        use ReplyClass::{Intermediate, Success};
        match &self.exchange {
            Some(exchange) => {
                let redaction = peer.redaction(exchange.responses())?;
                match class {
                    Intermediate => redaction.apply_to_challenge(text),
                    _ => redaction.apply(text),
                }
            }
            None if matches!(class, Intermediate | Success) => None,
            None => peer.redaction(&[])?.apply(text),
        }
    }

    /// Keeps nothing of an unfinished login.
    pub(crate) fn close(&mut self) {
        (self.exchange, self.ehlo_refused) = (None, None);
    }

    /// The error about this reply, with the command that it answers.
    pub(crate) fn about(&self, what: OpeningReply, error: Error, config: &Config) -> Error {
        use OpeningReply::{Auth, AuthCancel, Ehlo, Greeting, Helo, StartTls};
        // A command that was not sent after this reply has its own error.
        if error.command.is_some() || error.stage != Awaited::Opening(what).stage() {
            return error;
        }
        let command = match what {
            Greeting => return error,
            Ehlo => hello(config).redacted(),
            Helo => Command::Helo(&config.client_name).redacted(),
            StartTls => Command::StartTls.redacted(),
            Auth | AuthCancel => match &self.exchange {
                Some(exchange) => exchange.command(),
                None => return error,
            },
        };
        error.with_command(&command)
    }

    fn after_hello(&mut self, peer: &mut Peer) -> Result<Progress, Error> {
        let offered = peer.capabilities.has(Extension::StartTls);
        match peer.config.tls {
            // rule: opening.starttls
            TlsPolicy::Opportunistic | TlsPolicy::Required if peer.tls.is_none() && offered => {
                peer.push(Command::StartTls, Awaited::Opening(OpeningReply::StartTls));
                Ok(Progress::Wait)
            }
            // rule: opening.required-not-offered
            TlsPolicy::Required if peer.tls.is_none() => Err(Error::permanent(
                Stage::StartTls,
                Cause::TlsUnavailable(None),
            )),
            // rule: opening.never
            // rule: opening.opportunistic-not-offered
            _ => self.log_in(peer),
        }
    }

    fn log_in(&mut self, peer: &mut Peer) -> Result<Progress, Error> {
        self.exchange = exchange::log_in(self.nonce.as_ref(), self.logins, peer)?;
        match self.exchange {
            None => Ok(Progress::Ready),
            Some(_) => {
                self.logins += 1;
                Ok(Progress::Wait)
            }
        }
    }
}

fn say_hello(peer: &mut Peer) {
    let config = peer.config.clone();
    peer.push(hello(&config), Awaited::Opening(OpeningReply::Ehlo));
}

fn hello(config: &Config) -> Command<'_> {
    match config.protocol {
        Protocol::Smtp => Command::Ehlo(&config.client_name),
        Protocol::Lmtp => Command::Lhlo(&config.client_name),
    }
}

/// HELO is for servers that do not know EHLO. It never follows a 4yz, which only asks to come back later. It is not
/// used where TLS is required, because HELO does not offer STARTTLS. Inside TLS after STARTTLS it is not used either,
/// because the server has understood EHLO before.
fn may_say_helo(reply: ReplyRef<'_>, peer: &Peer) -> bool {
    let config = &peer.config;
    let was_started =
        config.tls != TlsPolicy::Implicit && !matches!(config.channel, Channel::Tls(_));
    // rule: opening.ehlo-500-helo
    // rule: opening.ehlo-502-helo
    // rule: opening.ehlo-4yz-no-helo
    // rule: opening.ehlo-550-no-helo
    matches!(reply.code().get(), 500 | 502)
        // rule: lmtp.no-helo
        && config.protocol == Protocol::Smtp
        // rule: opening.no-helo-with-required-tls
        && config.tls != TlsPolicy::Required
        // rule: opening.no-helo-inside-tls
        && !(peer.tls.is_some() && was_started)
}
