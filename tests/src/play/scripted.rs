//! The scripted server of the adapters' players. It plays the server's part of a transcript on a loopback socket,
//! with real pauses and real TLS handshakes. It checks the client's part.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use smtp_adapter::Observation;
use smtp_proto::event::Trace;
use smtp_proto::{Envelope, Error, Reply, Report};

use crate::play::replay::{Tape, replay};
use crate::transcript::{Action, Failure, Message, Observed, Step, Transcript, difference};

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "mx.example.net";

/// How long the server waits at most, so that a broken client cannot hang the tests. It is longer than any timeout in
/// a transcript.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the application sends its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each after the one before is decided, by `Session::send` and `send_last`.
    OneByOne,
    /// All by `Session::send_all`.
    Bulk,
}

impl Way {
    /// Whether this transcript can be played this way. Overlap and messages that are opened again need bulk. Cues,
    /// requests and messages that cannot be opened again need one by one.
    pub fn suits(self, transcript: &Transcript) -> bool {
        match self {
            Self::OneByOne => {
                let reopenable = |message: &Message| message.envelope.is_reopenable();
                !transcript.config.overlap && !transcript.messages.iter().any(reopenable)
            }
            Self::Bulk => {
                !transcript.is_cued()
                    && transcript.requests.is_empty()
                    && !transcript.must_not_split()
            }
        }
    }
}

/// Plays a transcript with this client, and checks all that it expects.
///
/// # Errors
/// The first difference, in the client's octets or in its reports.
pub(crate) fn play(
    transcript: &Transcript,
    end: End,
    client: impl FnOnce(TcpStream, &Receiver<Cue>) -> Result<Observed, Failure>,
) -> Result<(), Failure> {
    let unusable =
        |error: &dyn std::fmt::Display| transcript.failure(1, format!("no socket: {error}"));
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| unusable(&error))?;
    let address = listener.local_addr().map_err(|error| unusable(&error))?;
    let (sender, cues) = mpsc::channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (socket, _) = listener
                .accept()
                .map_err(|error| transcript.failure(1, error.to_string()))?;
            // The client's connection is the only one.
            drop(listener);
            serve(transcript, end, socket, sender)
        });
        let observed = TcpStream::connect(address)
            .and_then(|socket| socket.set_nodelay(true).map(|()| socket))
            .map_err(|error| unusable(&error))
            .and_then(|socket| client(socket, &cues));
        let served = server
            .join()
            .unwrap_or_else(|_| Err(transcript.failure(1, "the server panicked".into())));
        let checked = observed.and_then(|observed| match end {
            End::Whole => transcript.check(&observed),
            End::Anywhere => Ok(()),
        });
        match (served, checked) {
            (Err(mut failure), Err(also)) => {
                // The client's result often explains the failure.
                failure.message += &format!("\n  and then {also}");
                Err(failure)
            }
            (served, checked) => served.and(checked),
        }
    })
}

/// How far a server must get with a client that may be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The conversation must be played to its end.
    Whole,
    /// The client may go at any point. Its octets until then must be the beginning of its part.
    Anywhere,
}

/// The application's next step.
pub(crate) enum Cue {
    Submit,
    Quit,
}

/// The server in the words of the adapters, with the settings of a transcript.
pub(crate) fn server_of(transcript: &Transcript) -> Result<smtp_adapter::Server, Failure> {
    let config = transcript.config.clone();
    let mut server = smtp_adapter::Server::new(SERVER_NAME)
        .client_name(config.client_name)
        .tls(config.tls)
        .credentials(config.credentials)
        .fixed_nonce(transcript.nonce)
        .pipelining(config.pipelining)
        .overlap(config.overlap)
        .chunking(config.chunking)
        .chunk_size(config.chunk_size)
        .learn_limits(config.learn_limits)
        .body_policy(config.body)
        .timeouts(config.timeouts)
        .limits(config.limits);
    if config.protocol == smtp_proto::Protocol::Lmtp {
        server = server.lmtp();
    }
    if let Some(name) = &transcript.server_name {
        server = server.server_name(name);
    }
    // The server's certificate is trusted if the transcript expects it to be verified, or to be refused only for its
    // name.
    match transcript.server_name.is_some() || transcript.tls_facts.verified {
        true => server
            .trust_pem(certificate().as_bytes())
            .map_err(|error| transcript.failure(1, error.to_string())),
        false => Ok(server.verify(false)),
    }
}

/// Collects the conversation that the client shows. It must not contain secrets.
#[derive(Clone, Default)]
pub(crate) struct Traces {
    steps: Arc<Mutex<Vec<Trace>>>,
    /// The session is written down as well, and played again when it is over.
    tape: Option<Tape>,
}

impl Traces {
    /// With a record.
    pub(crate) fn recorded() -> Self {
        Self {
            tape: Some(Tape::default()),
            ..Self::default()
        }
    }

    /// The server whose sessions are seen.
    pub(crate) fn watch(&self, server: smtp_adapter::Server) -> smtp_adapter::Server {
        let server = server.observe(self.observer());
        match &self.tape {
            Some(tape) => server.record(tape.recorder()),
            None => server,
        }
    }

    fn observer(&self) -> impl Fn(&Observation<'_>) + Send + Sync + use<> {
        let traces = Arc::clone(&self.steps);
        move |step| {
            traces
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(step.trace().clone())
        }
    }

    pub(crate) fn check(
        &self,
        transcript: &Transcript,
        observed: Observed,
    ) -> Result<Observed, Failure> {
        let records = self.tape.as_ref().map(Tape::records).unwrap_or_default();
        let text = format!(
            "{:?} {observed:?} {records:?}",
            self.steps.lock().unwrap_or_else(PoisonError::into_inner)
        );
        match transcript
            .secrets()
            .iter()
            .find(|secret| text.contains(secret.as_str()))
        {
            Some(secret) => {
                Err(transcript.failure(1, format!("the secret {secret} is shown: {text}")))
            }
            None => self.replay(transcript, &records).map(|()| observed),
        }
    }

    fn replay(&self, transcript: &Transcript, records: &[String]) -> Result<(), Failure> {
        for record in records {
            // What a server of SCRAM sends helps to guess the password.
            if let Some(proof) = challenges(transcript).find(|proof| record.contains(proof)) {
                let message = format!("the challenge {proof} is in the record:\n{record}");
                return Err(transcript.failure(1, message));
            }
            replay(&transcript.name, record).map_err(|failure| {
                let lines = record.lines().enumerate();
                let lines = lines.map(|(n, line)| format!("\n    {:3} {line}", n + 1));
                let record: String = lines.collect();
                transcript.failure(1, format!("its record: {failure}{record}"))
            })?;
        }
        // A client that is cut off early has none.
        match self.tape.is_none() || records.len() <= 1 {
            true => Ok(()),
            false => Err(transcript.failure(1, format!("{} records", records.len()))),
        }
    }
}

/// The challenges of SCRAM in this transcript.
fn challenges(transcript: &Transcript) -> impl Iterator<Item = &str> {
    fn text(octets: &[u8]) -> &str {
        str::from_utf8(octets).unwrap_or_default()
    }
    let is_scram = move |step: &&Step| match &step.action {
        Action::Client(octets) => text(octets).contains("AUTH SCRAM-"),
        _ => false,
    };
    let steps = transcript.steps.iter();
    let steps = steps.skip_while(move |step| !is_scram(step));
    let lines = steps.flat_map(move |step| match &step.action {
        Action::Server(octets) => text(octets).lines(),
        _ => "".lines(),
    });
    // Nonce and salt, or a proof. The challenge of CRAM-MD5 alone tells nothing, and begins with `<`.
    let challenges = lines.filter_map(|line| line.strip_prefix("334 "));
    challenges.filter(|text| text.len() > 16 && !text.starts_with("PD"))
}

/// The report of a message, even if its sender got an error.
pub(crate) fn report(message: &Message, result: Result<Report, smtp_adapter::Error>) -> Report {
    match result {
        Ok(report) => report,
        Err(error) => error
            .report()
            .cloned()
            .unwrap_or_else(|| not_attempted(message, error.error())),
    }
}

impl Observed {
    /// The observation if no session was opened, for this reason.
    pub(crate) fn unopened(transcript: &Transcript, error: &Error) -> Self {
        let messages = transcript.messages.iter();
        Self {
            reports: messages.map(|m| Some(not_attempted(m, error))).collect(),
            answers: transcript
                .requests
                .iter()
                .map(|_| not_asked(error))
                .collect(),
            closed: Some(Err(error.clone())),
            ..Self::default()
        }
    }
}

/// The report of a message that did not get one.
fn not_attempted(message: &Message, error: &Error) -> Report {
    Report::not_attempted(message.envelope.clone(), error)
}

/// The answer to a request that was not made, because the session had ended with this error.
pub(crate) fn not_asked(error: &Error) -> Option<Result<Reply, Error>> {
    let envelope = Envelope::new("<>", ["postmaster"]).expect("these are addresses");
    Report::not_attempted(envelope, error).recipients.pop()
}

/// The certificate in PEM, and the server's settings with it. Made once.
pub(crate) fn identity() -> &'static (String, Arc<ServerConfig>) {
    static IDENTITY: OnceLock<(String, Arc<ServerConfig>)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let key = KeyPair::generate().expect("ring makes keys");
        let parameters = CertificateParams::new([SERVER_NAME.to_owned()]).expect("it is a name");
        let certificate = parameters.self_signed(&key).expect("the key signs");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has all versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("the key is that of the certificate");
        (certificate.pem(), Arc::new(config))
    })
}

/// The server's certificate, in PEM.
pub(crate) fn certificate() -> &'static str {
    &identity().0
}

/// Plays the server's part, and checks the client's.
fn serve(
    transcript: &Transcript,
    end: End,
    socket: TcpStream,
    cues: Sender<Cue>,
) -> Result<(), Failure> {
    let usable = socket
        .set_nodelay(true)
        .and_then(|()| socket.set_read_timeout(Some(PATIENCE)));
    let mut server = usable
        .and_then(|()| Server::new(socket))
        .map_err(|error| transcript.failure(1, format!("no socket: {error}")))?;
    let anywhere = end == End::Anywhere;
    for (index, step) in transcript.steps.iter().enumerate() {
        let is_last = index + 1 == transcript.steps.len();
        let cue = |cue| {
            // If nobody listens, the client has failed, and reports that itself.
            let _ = cues.send(cue);
            Ok(())
        };
        let result = match &step.action {
            // Only the front of an abandoned body is sent.
            Action::Client(expected) => {
                let front_is_enough = anywhere || (transcript.ends_in_body() && is_last);
                server.read(expected, front_is_enough)
            }
            Action::Server(octets) => server.expect_silence().map(|()| server.write(octets)),
            Action::Split => {
                thread::sleep(Duration::from_millis(10));
                Ok(())
            }
            Action::Pause(duration) => {
                thread::sleep(*duration);
                Ok(())
            }
            Action::Eof => {
                server.shut();
                Ok(())
            }
            Action::Tls => match server.shake_hands() {
                Err(_) if anywhere => return Ok(()),
                result => result,
            },
            Action::TlsFailed => {
                // A server without working TLS sends the alert internal_error. Before the handshake has begun, that
                // would be an injection.
                server.deaf = true;
                let begun = server.receive().or_else(|error| {
                    if anywhere {
                        Ok(false)
                    } else {
                        Err(error.to_string())
                    }
                });
                server.write(&[21, 3, 3, 0, 2, 2, 80]);
                begun.and_then(|begun| {
                    (begun || anywhere)
                        .then_some(())
                        .ok_or("the client begins no handshake".into())
                })
            }
            Action::TlsUntrusted => {
                server.deaf = true;
                match server.shake_hands() {
                    Ok(()) => Err("the handshake succeeds, and it must not".into()),
                    Err(_) => Ok(()),
                }
            }
            Action::Recorded(what) => Err(format!("no adapter plays a record: {what:?}")),
            Action::Submit => cue(Cue::Submit),
            Action::Quit => cue(Cue::Quit),
            Action::Jam => {
                Err("a jam cannot be played over a socket: mark the file engine-only".into())
            }
        };
        result.map_err(|message| transcript.failure(step.line, message))?;
        if anywhere && server.gone {
            return Ok(());
        }
    }
    drop(cues);
    let last = transcript.steps.last().map_or(1, |step| step.line);
    server
        .expect_end()
        .map_err(|message| transcript.failure(last, message))
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

struct Server {
    socket: TcpStream,
    /// The socket, and inside TLS after the handshake.
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// The client has closed.
    gone: bool,
    /// The rest of the client's octets does not matter.
    deaf: bool,
}

impl Server {
    fn new(socket: TcpStream) -> io::Result<Self> {
        let stream = Box::new(socket.try_clone()?);
        Ok(Self {
            socket,
            stream,
            received: Vec::new(),
            gone: false,
            deaf: false,
        })
    }

    /// Reads more. False at the end.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let result = self.stream.read(&mut buffer);
        let lost = |kind| !matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        self.gone |= match &result {
            Ok(n) => *n == 0,
            Err(error) => lost(error.kind()),
        };
        let n = result?;
        self.received.extend(&buffer[..n]);
        Ok(n > 0)
    }

    /// Reads exactly these octets, or only their front before the end, if that is enough.
    fn read(&mut self, expected: &[u8], front_is_enough: bool) -> Result<(), String> {
        while self.received.len() < expected.len()
            && self.received == expected[..self.received.len()]
        {
            match self.receive() {
                Ok(true) => {}
                Ok(false) | Err(_) if front_is_enough && self.gone => {
                    self.received.clear();
                    return Ok(());
                }
                Ok(false) => break,
                Err(error) => {
                    let difference = difference(expected, &self.received);
                    return Err(format!("{difference}\n  and then: {error}"));
                }
            }
        }
        match self.received == expected {
            true => {
                self.received.clear();
                Ok(())
            }
            false => Err(difference(expected, &self.received)),
        }
    }

    /// Checks that no further octets have come. Octets that are still on their way are not seen here. The engine's
    /// player compares batches exactly.
    fn expect_silence(&mut self) -> Result<(), String> {
        let blocking = |yes: bool| {
            self.socket
                .set_nonblocking(!yes)
                .map_err(|error| error.to_string())
        };
        blocking(false)?;
        let mut buffer = [0; 4096];
        let extra = self.stream.read(&mut buffer).unwrap_or(0);
        blocking(true)?;
        match extra {
            0 => Ok(()),
            n => Err(difference(b"", &buffer[..n])),
        }
    }

    /// The client may be gone. Its octets and its reports tell whether it should be.
    fn write(&mut self, octets: &[u8]) {
        let _ = self
            .stream
            .write_all(octets)
            .and_then(|()| self.stream.flush());
    }

    fn shake_hands(&mut self) -> Result<(), String> {
        let mut tls =
            ServerConnection::new(Arc::clone(&identity().1)).map_err(|error| error.to_string())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)
                .map_err(|error| format!("the handshake failed: {error}"))?;
        }
        let socket = self.socket.try_clone().map_err(|error| error.to_string())?;
        self.stream = Box::new(StreamOwned::new(tls, socket));
        Ok(())
    }

    /// Ends our side. It reads the client's octets until it closes too. Closing with unread octets would reset the
    /// connection, and the client might lose the last reply.
    fn shut(&mut self) {
        self.deaf = true;
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    fn expect_end(&mut self) -> Result<(), String> {
        loop {
            match self.receive() {
                Ok(true) if self.deaf => self.received.clear(),
                Ok(true) => return Err(difference(b"", &self.received)),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Err("the client does not close the connection".into());
                }
                // It does not matter how it closed: with or without close_notify, or by a reset.
                Ok(false) | Err(_) => return Ok(()),
            }
        }
    }
}
