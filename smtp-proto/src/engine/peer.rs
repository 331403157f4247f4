//! What is known of the server, and the way to the server and to the caller.

use alloc::sync::Arc;

use crate::auth::{Redaction, Secret, Trust};
use crate::capability::{Capabilities, Extension};
use crate::command::Command;
use crate::config::{Config, Protocol, TlsPolicy};
use crate::event::Trace;
use crate::time::Instant;
use crate::tls::{Channel, TlsFacts};

use super::awaited::Awaited;
use super::events::Events;
use super::pipeline::Pipeline;
use super::usage::Usage;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) config: Arc<Config>,
    pub(crate) pipeline: Pipeline,
    pub(crate) events: Events,
    pub(crate) capabilities: Capabilities,
    /// `None` outside TLS.
    pub(crate) tls: Option<TlsFacts>,
    pub(crate) usage: Usage,
    /// The last transaction failed, and the server may still hold it. One server then adds new recipients to the old
    /// sender.
    pub(crate) may_hold_transaction: bool,
    /// [`Event::OverlapBroken`] was queued. It comes only once.
    pub(crate) overlap_is_broken: bool,
}

impl Peer {
    pub(crate) fn new(config: Arc<Config>, now: Instant) -> Self {
        Self {
            pipeline: Pipeline::new(config.clone(), now),
            events: Events::new(config.trace.then_some(config.limits.traces)),
            capabilities: Capabilities::default(),
            tls: None,
            usage: Usage::default(),
            may_hold_transaction: false,
            overlap_is_broken: false,
            config,
        }
    }

    /// Whether several commands may be unanswered on this connection.
    pub(crate) fn pipelines(&self) -> bool {
        // rule: transaction.lockstep
        // rule: lmtp.lockstep
        self.config.pipelining && self.capabilities.has(Extension::Pipelining)
    }

    /// The parts of the credentials, and of these responses, that must not be shown.
    pub(crate) fn redaction<'a>(&'a self, responses: &'a [Secret]) -> Option<Redaction<'a>> {
        Redaction::new(self.config.credentials.as_ref()?, responses)
    }

    pub(crate) fn is_lmtp(&self) -> bool {
        self.config.protocol == Protocol::Lmtp
    }

    /// The server's limit on MAILs in a session (RFC 9422 section 4.1), if it is reached.
    pub(crate) fn mails_exceeded(&self) -> Option<u64> {
        let limit = self.capabilities.mails_max()?;
        (self.usage.transactions >= limit).then_some(limit)
    }

    /// Whether the certificate proves that it is the right server.
    pub(crate) fn is_verified(&self) -> bool {
        // rule: opening.tls-verified
        self.tls.as_ref().is_some_and(|facts| facts.verified)
    }

    /// Whether anybody may listen on the way to the server.
    pub(crate) fn is_clear_network(&self) -> bool {
        self.tls.is_none() && self.config.channel == Channel::Network
    }

    /// Who would get credentials.
    pub(crate) fn trust(&self) -> Trust {
        match &self.tls {
            _ if self.config.channel == Channel::Local => Trust::Verified,
            Some(facts) if facts.verified => Trust::Verified,
            Some(_) => Trust::Unverified,
            None => Trust::Clear {
                by_choice: self.config.tls == TlsPolicy::Never,
            },
        }
    }

    /// Sends a command, and awaits its reply.
    pub(crate) fn push(&mut self, command: Command<'_>, what: Awaited) {
        self.show(command);
        self.pipeline.push(command, what);
    }

    /// Sends a command that depends on what the server offers, and awaits its reply.
    pub(crate) fn push_as_offered<'a>(
        &'a mut self,
        what: Awaited,
        command: impl FnOnce(&'a Capabilities) -> Command<'a>,
    ) {
        let command = command(&self.capabilities);
        self.events.trace(|| Trace::Sent(command.redacted().into()));
        self.pipeline.push(command, what);
    }

    /// Sends a command whose reply is not waited for.
    pub(crate) fn say(&mut self, command: Command<'_>) {
        self.show(command);
        self.pipeline.say(command);
    }

    fn show(&mut self, command: Command<'_>) {
        self.trace(|| Trace::Sent(command.redacted().into()));
    }

    pub(crate) fn trace(&mut self, trace: impl FnOnce() -> Trace) {
        self.events.trace(trace);
    }
}
