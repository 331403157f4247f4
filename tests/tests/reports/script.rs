//! A session that is played line by line, in virtual time.

use std::time::Duration;

use smtp_proto::{
    BodyPart, Cause, Chunking, ClientName, Config, Connection, Envelope, Error, Event, Instant,
    MessageId, Outcome, Protocol, Report, TlsPolicy,
};

pub(crate) fn config() -> Config {
    let mut config = Config::new(ClientName::parse("client.example.org").unwrap());
    config.tls = TlsPolicy::Never;
    config
}

pub(crate) fn eager_overlap() -> Config {
    let mut config = config();
    (config.overlap, config.chunking) = (true, Chunking::Eager);
    config
}

pub(crate) fn envelope(recipients: &[&str]) -> Envelope {
    let paths = recipients.iter().map(|name| format!("{name}@example.net"));
    Envelope::new("a@example.org", paths)
        .unwrap()
        .reopenable(true)
}

/// One session, played up to here.
pub(crate) struct Script {
    pub(crate) engine: Connection,
    pub(crate) now: Instant,
    pub(crate) events: Vec<Event>,
    /// Written and not yet compared.
    pub(crate) written: Vec<u8>,
}

impl Script {
    /// A session that has not received anything.
    pub(crate) fn new(config: Config) -> Self {
        let now = Instant::from_origin(Duration::from_secs(1_000));
        Self {
            engine: Connection::new(config, now),
            now,
            events: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Opens a session with a server that answers EHLO with these capabilities.
    pub(crate) fn open(config: Config, capabilities: &str) -> Self {
        let lmtp = config.protocol == Protocol::Lmtp;
        let mut script = Self::new(config);
        script.server("220 mx.example.net\r\n");
        script.client(if lmtp {
            "LHLO client.example.org\r\n"
        } else {
            "EHLO client.example.org\r\n"
        });
        script.server(capabilities);
        script
    }

    pub(crate) fn submit(&mut self, recipients: &[&str]) -> MessageId {
        self.engine.submit(envelope(recipients)).unwrap()
    }

    pub(crate) fn server(&mut self, octets: &str) {
        self.engine.handle_input(self.now, octets.as_bytes());
        self.take_events();
    }

    pub(crate) fn take_events(&mut self) {
        self.events
            .extend(std::iter::from_fn(|| self.engine.poll_event()));
    }

    /// Writes everything on offer, and offers this part of a body. Returns how much of it was used.
    pub(crate) fn pump(&mut self, body: &[u8]) -> usize {
        self.pump_part(BodyPart::Next(body))
    }

    fn pump_part(&mut self, body: BodyPart<'_>) -> usize {
        let from = self.written.len();
        let used = self
            .engine
            .poll_transmit_onto(self.now, body, &mut self.written);
        self.engine
            .handle_written(self.now, self.written.len() - from);
        self.take_events();
        used
    }

    /// The client has sent exactly this.
    #[track_caller]
    pub(crate) fn client(&mut self, expected: &str) {
        self.pump(b"");
        let written = std::mem::take(&mut self.written);
        assert_eq!(String::from_utf8_lossy(&written), expected);
    }

    /// Gathers everything on offer, without writing it.
    pub(crate) fn gather(&mut self, body: &[u8]) -> usize {
        let (_, used) = self
            .engine
            .poll_transmit_into(self.now, body, &mut [0; 1024]);
        self.take_events();
        used
    }

    /// Begins to write everything on offer, and the rest of the body. No write completes.
    pub(crate) fn begin(&mut self, mut body: &[u8]) {
        while let Some(transmit) = self.engine.poll_transmit(self.now, BodyPart::Last(body)) {
            let octets = transmit.parts().concat();
            body = &body[transmit.begin(octets.len())..];
        }
        self.take_events();
    }

    /// Gives a whole body and declares its end.
    #[track_caller]
    pub(crate) fn body(&mut self, body: &str) {
        assert!(self.engine.wants_body(), "no body is wanted");
        assert_eq!(self.pump_part(BodyPart::Last(body.as_bytes())), body.len());
        self.engine.finish_body().unwrap();
        self.pump(b"");
    }

    /// The application cannot give the rest of the body.
    pub(crate) fn fail_body(&mut self) {
        self.engine
            .fail_body(Outcome::Permanent, "the file is gone")
            .unwrap();
        self.take_events();
    }

    pub(crate) fn lost(&mut self) {
        self.engine.handle_lost(self.now, Cause::Disconnected);
        self.take_events();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.engine.handle_timeout(self.now);
        self.take_events();
    }

    #[track_caller]
    pub(crate) fn report(&self, id: MessageId) -> Vec<String> {
        words(self.whole_report(id))
    }

    /// Why this recipient did not get the message.
    #[track_caller]
    pub(crate) fn error(&self, id: MessageId, recipient: usize) -> &Error {
        self.whole_report(id).recipients[recipient]
            .as_ref()
            .unwrap_err()
    }

    #[track_caller]
    fn whole_report(&self, id: MessageId) -> &Report {
        let report = self.events.iter().find_map(|event| match event {
            Event::Finished(finished, report) if *finished == id => Some(report),
            _ => None,
        });
        report.unwrap_or_else(|| panic!("no report; {:?}", self.events))
    }

    pub(crate) fn is_finished(&self, id: MessageId) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, Event::Finished(finished, _) if *finished == id))
    }

    pub(crate) fn says_overlap_broken(&self) -> bool {
        self.events.contains(&Event::OverlapBroken)
    }

    /// MAIL, RCPTs and DATA of one message, answered with 354.
    pub(crate) fn up_to_354(&mut self, recipients: usize) {
        self.pump(b"");
        self.written.clear();
        self.server("250 sender\r\n");
        for _ in 0..recipients {
            self.server("250 recipient\r\n");
        }
        self.server("354 go\r\n");
    }
}

/// Each result as "ok 250", "permanent 552", "temporary", "in doubt" or "not attempted".
pub(crate) fn words(report: &Report) -> Vec<String> {
    let word = |result: &Result<smtp_proto::Reply, Error>| match result {
        Ok(reply) => format!("ok {}", reply.code()),
        Err(error) => {
            let outcome = match error.outcome {
                Outcome::Permanent => "permanent",
                Outcome::Transient => "temporary",
                Outcome::InDoubt => return "in doubt".into(),
                Outcome::NotAttempted => return "not attempted".into(),
            };
            match &error.cause {
                Cause::Rejected(reply) => format!("{outcome} {}", reply.code()),
                _ => outcome.into(),
            }
        }
    };
    report.recipients.iter().map(word).collect()
}
