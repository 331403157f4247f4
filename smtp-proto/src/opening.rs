//! From the greeting to the first transaction: greeting → EHLO/HELO/LHLO → STARTTLS → EHLO → AUTH.

use alloc::boxed::Box;
use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::auth::{Mechanism, MechanismError, Secret, Surroundings, Trust};
use crate::capability::{Capabilities, Extension};
use crate::command::{Command, fits_auth_line};
use crate::config::{Config, Protocol, TlsPolicy};
use crate::error::{Cause, Error, ProtocolError, Stage};
use crate::pipeline::{Context, Expect};
use crate::reply::{Printable, Reply, ReplyClass, ReplyRef};
use crate::time::Instant;
use crate::tls::{Channel, TlsFacts};

/// What a reply has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A reply, or a handshake, is waited for.
    Wait,
    /// The transport must do a TLS handshake.
    StartTls,
    /// Mail may be sent.
    Ready,
}

/// Where the opening stands, beyond the one reply that the pipeline expects.
#[derive(Default)]
pub(crate) struct Opening {
    /// None outside TLS.
    tls: Option<TlsFacts>,
    /// The 500 or 502 that led to HELO.
    ehlo_refused: Option<Reply>,
    /// Boxed, because it is there for a moment and the session for long.
    exchange: Option<Box<Exchange>>,
    /// How often a login was begun: XCLIENT makes it necessary again.
    logins: usize,
}

/// One AUTH exchange, and the mechanisms left to try after it, the strongest last.
struct Exchange {
    mechanism: Box<dyn Mechanism>,
    rest: alloc::vec::Vec<Box<dyn Mechanism>>,
    /// A first response that did not fit the command line.
    pending: Option<Secret>,
    challenges: u32,
    /// Why `*` was sent.
    cancelled: Option<Cause>,
}

impl Opening {
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// What the handshake has established; none outside TLS.
    pub(crate) fn tls_facts(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    /// Whether it is the server that was named, as far as its certificate can say.
    pub(crate) fn is_verified(&self) -> bool {
        self.tls.as_ref().is_some_and(|facts| facts.verified)
    }

    /// Whom credentials would reach.
    fn trust(&self, config: &Config) -> Trust {
        match &self.tls {
            _ if config.channel == Channel::Local => Trust::Verified,
            Some(facts) if facts.verified => Trust::Verified,
            Some(_) => Trust::Unverified,
            None => Trust::Clear {
                by_choice: config.tls == TlsPolicy::Never,
            },
        }
    }

    pub(crate) fn start(&mut self, now: Instant, cx: &mut Context<'_>) -> Progress {
        if let Channel::Tls(facts) = &cx.config.channel {
            self.tls = Some(facts.clone());
        } else if cx.config.tls == TlsPolicy::Implicit {
            return Progress::StartTls;
        }
        cx.pipeline.expect_greeting(now);
        Progress::Wait
    }

    /// The handshake is done. What was learnt before it counts no more (RFC 3207 section 4.2).
    pub(crate) fn tls_established(&mut self, now: Instant, facts: TlsFacts, cx: &mut Context<'_>) {
        self.tls = Some(facts);
        *cx.capabilities = Capabilities::default();
        match cx.config.tls {
            TlsPolicy::Implicit => cx.pipeline.expect_greeting(now),
            _ => self.say_hello(cx),
        }
    }

    /// Begins anew with EHLO, on a connection that stays as it is.
    pub(crate) fn restart(&mut self, cx: &mut Context<'_>) {
        *cx.capabilities = Capabilities::default();
        self.say_hello(cx);
    }

    /// The next step, given the one that was answered and the answer. A 421 never comes here.
    pub(crate) fn on_reply(
        &mut self,
        what: Expect,
        reply: ReplyRef<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Progress, Error> {
        use ReplyClass::{Intermediate, Permanent, Success, Transient};
        let refused = || Err(Error::rejected(what.stage(), reply.to_reply()));
        match (what, reply.class()) {
            (Expect::Greeting, Success) => {
                self.say_hello(cx);
                Ok(Progress::Wait)
            }
            (Expect::Ehlo, Success) => {
                *cx.capabilities = Capabilities::parse(reply.to_reply());
                self.after_hello(cx)
            }
            (Expect::Helo, Success) => self.after_hello(cx),
            (Expect::Ehlo, Permanent) if self.may_say_helo(reply, cx.config) => {
                self.ehlo_refused = Some(reply.to_reply());
                let name = &cx.config.client_name;
                cx.pipeline.push(Command::Helo(name), Expect::Helo, None);
                Ok(Progress::Wait)
            }
            (Expect::Helo, Transient | Permanent) => {
                let mut error = Error::rejected(Stage::Ehlo, reply.to_reply());
                if let Some(ehlo) = self.ehlo_refused.take() {
                    let helo = reply.to_reply();
                    error.cause = Cause::HelloRejected { ehlo, helo };
                }
                Err(error)
            }
            (Expect::StartTls, Success) => Ok(Progress::StartTls),
            (Expect::StartTls, Transient | Permanent) => match cx.config.tls {
                TlsPolicy::Opportunistic => self.log_in(cx),
                _ => {
                    let mut error = Error::rejected(Stage::StartTls, reply.to_reply());
                    error.cause = Cause::TlsUnavailable(Some(reply.to_reply()));
                    Err(error)
                }
            },
            (Expect::Auth, _) => self.on_auth_reply(reply, cx),
            (Expect::AuthCancel, _) => {
                // 501, if the server keeps to RFC 4954 section 4; the exchange has failed in any case.
                let cause = self.exchange.take().and_then(|exchange| exchange.cancelled);
                Err(Error::permanent(
                    Stage::Auth,
                    cause.unwrap_or(Cause::Mechanism(MechanismError::UnexpectedChallenge)),
                ))
            }
            (Expect::Greeting | Expect::Ehlo, Transient | Permanent) => refused(),
            (_, Intermediate) => wrong_class(what, reply),
            // Transactions expect the rest, and they answer for it.
            _ => refused(),
        }
    }

    fn say_hello(&self, cx: &mut Context<'_>) {
        let name = &cx.config.client_name;
        let command = match cx.config.protocol {
            Protocol::Smtp => Command::Ehlo(name),
            Protocol::Lmtp => Command::Lhlo(name),
        };
        cx.pipeline.push(command, Expect::Ehlo, None);
    }

    /// HELO is for servers that do not know EHLO: never after a 4yz, which only asks to come back
    /// later; never where TLS is required, which HELO cannot lead to; never inside TLS, where the
    /// server has understood EHLO before.
    fn may_say_helo(&self, reply: ReplyRef<'_>, config: &Config) -> bool {
        matches!(reply.code().get(), 500 | 502)
            && config.protocol == Protocol::Smtp
            && config.tls != TlsPolicy::Required
            && !(self.is_encrypted() && self.was_started(config))
    }

    /// Whether TLS was begun by STARTTLS.
    fn was_started(&self, config: &Config) -> bool {
        config.tls != TlsPolicy::Implicit && !matches!(config.channel, Channel::Tls(_))
    }

    fn after_hello(&mut self, cx: &mut Context<'_>) -> Result<Progress, Error> {
        let offered = cx.capabilities.has(Extension::StartTls);
        match cx.config.tls {
            TlsPolicy::Opportunistic | TlsPolicy::Required if !self.is_encrypted() && offered => {
                cx.pipeline.push(Command::StartTls, Expect::StartTls, None);
                Ok(Progress::Wait)
            }
            TlsPolicy::Required if !self.is_encrypted() => Err(Error::permanent(
                Stage::StartTls,
                Cause::TlsUnavailable(None),
            )),
            _ => self.log_in(cx),
        }
    }

    fn log_in(&mut self, cx: &mut Context<'_>) -> Result<Progress, Error> {
        let Some(credentials) = &cx.config.credentials else {
            return Ok(Progress::Ready);
        };
        let fail = |cause| Err(Error::permanent(Stage::Auth, cause));
        let trust = self.trust(cx.config);
        let withheld = || match &self.tls {
            None => Cause::CredentialsInClear,
            Some(facts) => {
                let problem = facts.problem.clone();
                Cause::CredentialsUnverified(
                    problem.unwrap_or_else(|| "its certificate was not checked".into()),
                )
            }
        };
        // Opportunistic TLS that did not come about must not turn into credentials in the clear: it may be an
        // attacker who took STARTTLS out of the EHLO reply, and AUTH with it.
        if !credentials.may_use(trust) {
            return fail(withheld());
        }
        if !cx.capabilities.has(Extension::Auth) {
            return fail(Cause::AuthUnavailable);
        }
        let choice = credentials.candidates(&Surroundings {
            offered: cx.capabilities,
            trust,
            tls: self.tls_facts(),
            nonce: cx.config.nonce,
            logins: self.logins,
            iterations: cx.config.limits.scram_iterations,
        });
        if choice.mechanisms.is_empty() {
            if choice.withheld {
                return fail(withheld());
            }
            let mut offered = String::new();
            for name in cx.capabilities.mechanisms() {
                let space = if offered.is_empty() { "" } else { " " };
                offered += &alloc::format!("{space}{}", Printable(name));
            }
            return fail(Cause::NoCommonMechanism(offered.into()));
        }
        self.logins += 1;
        self.next_mechanism(choice.mechanisms, cx)
    }

    fn next_mechanism(
        &mut self,
        mut mechanisms: alloc::vec::Vec<Box<dyn Mechanism>>,
        cx: &mut Context<'_>,
    ) -> Result<Progress, Error> {
        let (mechanism, initial) = loop {
            let Some(mut mechanism) = mechanisms.pop() else {
                return Ok(Progress::Wait);
            };
            match mechanism.initial_response() {
                Ok(initial) => break (mechanism, initial),
                // What one mechanism has no form for, as SCRAM for a password that SASLprep prohibits,
                // another one may.
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
            .filter(|response| fits_auth_line(name, response.len()));
        let command = Command::Auth(name, fitting.map(|response| response.as_str()));
        cx.pipeline.push(command, Expect::Auth, None);
        let pending = if fitting.is_none() { initial } else { None };
        let exchange = Exchange {
            mechanism,
            rest: mechanisms,
            pending,
            challenges: 0,
            cancelled: None,
        };
        self.exchange = Some(Box::new(exchange));
        Ok(Progress::Wait)
    }

    fn on_auth_reply(
        &mut self,
        reply: ReplyRef<'_>,
        cx: &mut Context<'_>,
    ) -> Result<Progress, Error> {
        let Some(mut exchange) = self.exchange.take() else {
            return wrong_class(Expect::Auth, reply);
        };
        let command = Command::Auth(exchange.mechanism.name(), None).redacted();
        match reply.class() {
            ReplyClass::Intermediate => {
                match exchange.answer(reply, cx.config.limits.challenges) {
                    Ok(response) => {
                        let response = encode(&response);
                        let command = Command::AuthResponse(&response);
                        cx.pipeline.push(command, Expect::Auth, None);
                    }
                    Err(error) => {
                        exchange.cancelled = Some(error.into());
                        cx.pipeline
                            .push(Command::AuthCancel, Expect::AuthCancel, None);
                    }
                }
                self.exchange = Some(exchange);
                Ok(Progress::Wait)
            }
            // 235 is the only success (RFC 4954 section 6): any other 2yz says that the server and we
            // disagree about what was asked.
            ReplyClass::Success if reply.code().get() == 235 => {
                // RFC 4954 has no data with a success; what looks like some is for the mechanism to judge.
                let data = STANDARD.decode(reply.plain_text()).unwrap_or_default();
                match exchange.mechanism.verify(&data) {
                    Ok(()) => Ok(Progress::Ready),
                    Err(error) => Err(Error::permanent(Stage::Auth, error).with_command(&command)),
                }
            }
            ReplyClass::Success => wrong_class(Expect::Auth, reply),
            // The server offered the mechanism, but not for this user; another one may do.
            ReplyClass::Permanent
                if matches!(reply.code().get(), 504 | 534) && !exchange.rest.is_empty() =>
            {
                self.next_mechanism(exchange.rest, cx)
            }
            _ => {
                let mut error =
                    Error::rejected(Stage::Auth, reply.to_reply()).with_command(&command);
                if let Some(token) = exchange.mechanism.token_error() {
                    error.cause = Cause::TokenRejected {
                        reply: reply.to_reply(),
                        error: Box::new(token),
                    };
                }
                Err(error)
            }
        }
    }
}

impl Exchange {
    fn answer(&mut self, reply: ReplyRef<'_>, limit: u32) -> Result<Secret, MechanismError> {
        self.challenges += 1;
        if self.challenges > limit {
            return Err(MechanismError::UnexpectedChallenge);
        }
        if let Some(initial) = self.pending.take() {
            return Ok(initial);
        }
        // A multi-line challenge is undecodable by its LF, and rightly so.
        let challenge = STANDARD
            .decode(reply.text().trim_ascii())
            .map_err(|_| MechanismError::Undecodable)?;
        self.mechanism.respond(&challenge)
    }
}

fn encode(secret: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(secret))
}

fn wrong_class(what: Expect, reply: ReplyRef<'_>) -> Result<Progress, Error> {
    let error = ProtocolError::WrongClass(reply.to_reply());
    Err(Error::transient(what.stage(), error))
}
