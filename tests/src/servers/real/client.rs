//! How the suite talks to a server: the adapter and the manner.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, thread};

use smtp_adapter::{Observation, TlsInfo};
use smtp_proto::event::{Failure, Trace};
use smtp_proto::{
    Capabilities, Chunking, Credentials, Envelope, Outcome, Reply, Report, Request, Stage,
    TlsPolicy,
};
use tokio::runtime::Runtime;

use super::{NAME, Result, Server};
use crate::play::bulk::{Delivery, runtime};

/// The settings for this server in this manner.
pub(super) fn terms(server: &Server, manner: &Manner, socket: bool) -> smtp_adapter::Server {
    let port = manner.port.unwrap_or(server.smtp_port());
    let terms = match socket {
        true => smtp_adapter::Server::unix(server.lmtp_socket()),
        false => smtp_adapter::Server::new(format!("127.0.0.1:{port}")),
    };
    let terms = match server.kind.lmtp_socket {
        Some(_) => terms.lmtp(),
        None => terms,
    };
    terms
        .server_name(NAME)
        .trust_pem(&fs::read(server.ca_pem_path()).unwrap())
        .unwrap()
        .tls(manner.tls)
        .credentials(manner.credentials.clone())
        .chunking(manner.chunking)
        .chunk_size(manner.chunk_size)
        .overlap(manner.overlap)
}

/// The settings of a session.
#[derive(Clone, Debug)]
pub struct Manner {
    /// [`Server::smtp_port`] by default.
    pub port: Option<u16>,
    /// Required by default.
    pub tls: TlsPolicy,
    /// None by default.
    pub credentials: Option<Credentials>,
    /// Automatic by default.
    pub chunking: Chunking,
    /// The engine's default.
    pub chunk_size: usize,
    /// False by default.
    pub overlap: bool,
}

impl Default for Manner {
    fn default() -> Self {
        let (port, tls, credentials) = (None, TlsPolicy::Required, None);
        Self {
            port,
            tls,
            credentials,
            chunking: Chunking::Auto,
            chunk_size: 64 * 1024,
            overlap: false,
        }
    }
}

impl Manner {
    /// The defaults, on this port.
    pub fn on(port: u16) -> Self {
        Self {
            port: Some(port),
            ..Self::default()
        }
    }
}

/// The adapters, over TCP and over an LMTP server's Unix socket.
#[derive(Clone, Copy, Debug)]
pub enum Adapter {
    /// smtp-blocking.
    Blocking,
    /// smtp-tokio, on a runtime of one thread.
    Tokio,
    /// smtp-blocking over the Unix socket.
    BlockingUnix,
    /// smtp-tokio over the Unix socket.
    TokioUnix,
}

impl Adapter {
    /// The adapters that can reach this server.
    pub fn all(server: &Server) -> &'static [Self] {
        match server.kind.lmtp_socket {
            None => &[Self::Blocking, Self::Tokio],
            Some(_) => &[
                Self::Blocking,
                Self::Tokio,
                Self::BlockingUnix,
                Self::TokioUnix,
            ],
        }
    }

    /// A name for the users and messages of a test.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Tokio => "tokio",
            Self::BlockingUnix => "blocking-unix",
            Self::TokioUnix => "tokio-unix",
        }
    }

    /// Opens a session, with the server's name checked where it is encrypted.
    pub fn connect(self, server: &Server, manner: &Manner) -> Result<Session, smtp_adapter::Error> {
        let trace = Arc::<Mutex<Vec<Trace>>>::default();
        let observed = trace.clone();
        let observer = move |step: &Observation<'_>| {
            observed.lock().unwrap().push(step.trace().clone());
        };
        let socket = matches!(self, Self::BlockingUnix | Self::TokioUnix);
        let terms = terms(server, manner, socket).observe(observer);
        let held = match self {
            Self::Blocking | Self::BlockingUnix => {
                Held::Blocking(smtp_blocking::Session::connect(&terms)?)
            }
            Self::Tokio | Self::TokioUnix => {
                let runtime = runtime();
                let session = runtime.block_on(smtp_tokio::Session::connect(&terms))?;
                Held::Tokio(runtime, session)
            }
        };
        Ok(Session { held, trace })
    }

    /// Opens a session that must succeed.
    #[track_caller]
    pub fn open(self, server: &Server, manner: &Manner) -> Session {
        self.connect(server, manner)
            .unwrap_or_else(|error| panic!("{self:?}, {manner:?}: {error}"))
    }
}

#[derive(Debug)]
enum Held {
    Blocking(smtp_blocking::Session),
    Tokio(Runtime, smtp_tokio::Session),
}

/// One call to the session of either adapter.
macro_rules! held {
    ($held:expr, $session:ident => $call:expr) => {
        match $held {
            Held::Blocking($session) => $call,
            Held::Tokio(runtime, $session) => runtime.block_on($call),
        }
    };
}

/// A session of either adapter, each call of which returns when it is done.
#[derive(Debug)]
pub struct Session {
    held: Held,
    pub(super) trace: Arc<Mutex<Vec<Trace>>>,
}

impl Session {
    /// One message.
    pub fn send(
        &mut self,
        envelope: Envelope,
        message: &[u8],
    ) -> Result<Report, smtp_adapter::Error> {
        held!(&mut self.held, session => session.send(envelope, message))
    }

    /// The last message.
    pub fn send_last(
        &mut self,
        envelope: Envelope,
        message: &[u8],
    ) -> Result<Report, smtp_adapter::Error> {
        held!(&mut self.held, session => session.send_last(envelope, message))
    }

    /// All messages, and the end of the session.
    pub fn send_all(self, messages: &[(Envelope, Vec<u8>)]) -> Delivery {
        match self.held {
            Held::Blocking(session) => Delivery::by_blocking(session, messages),
            Held::Tokio(runtime, session) => {
                runtime.block_on(Delivery::by_tokio(session, messages))
            }
        }
    }

    /// A command outside a transaction.
    pub fn request(&mut self, request: Request) -> Result<Reply, smtp_adapter::Error> {
        held!(&mut self.held, session => session.request(request))
    }

    /// The end.
    pub fn quit(self) {
        held!(self.held, session => session.quit());
    }

    /// The round trips since the beginning.
    pub fn round_trips(&self) -> u64 {
        match &self.held {
            Held::Blocking(session) => session.round_trips(),
            Held::Tokio(_, session) => session.round_trips(),
        }
    }

    pub(super) fn tls_info(&self) -> Option<&TlsInfo> {
        match &self.held {
            Held::Blocking(session) => session.tls_info(),
            Held::Tokio(_, session) => session.tls_info(),
        }
    }

    /// The steps since the last call.
    pub fn trace(&self) -> Vec<Trace> {
        std::mem::take(&mut self.trace.lock().unwrap())
    }
}

/// The commands of a conversation.
pub fn commands(trace: &[Trace]) -> Vec<&str> {
    let commands = trace.iter().filter_map(|step| match step {
        Trace::Sent(line) => Some(&**line),
        _ => None,
    });
    commands.collect()
}

/// A port where the server seems this far away: its octets arrive that much later.
pub fn far_away(server: &Server, latency: Duration) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (near, far) = (listener.local_addr().unwrap().port(), server.smtp_port());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, far)) else {
                return;
            };
            let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), server.try_clone())
            else {
                return;
            };
            thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                to_server.shutdown(Shutdown::Write)
            });
            let (travels, arrives) = mpsc::channel::<(Instant, Vec<u8>)>();
            thread::spawn(move || {
                let mut octets = [0; 16 * 1024];
                while let Ok(n @ 1..) = (&server).read(&mut octets) {
                    let _ = travels.send((Instant::now() + latency, octets[..n].to_vec()));
                }
            });
            thread::spawn(move || {
                let _ = client.set_nodelay(true);
                for (when, octets) in arrives {
                    sleep(when.saturating_duration_since(Instant::now()));
                    let _ = (&client).write_all(&octets);
                }
                client.shutdown(Shutdown::Both)
            });
        }
    });
    near
}

/// What the server offers, line by line.
pub fn offers(capabilities: &Capabilities) -> Vec<String> {
    let lines = capabilities.reply().unwrap().lines().skip(1);
    lines
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect()
}

/// The failed recipients, each with its reply.
pub fn failures(report: &Report) -> Vec<(usize, Stage, Outcome, u16, String)> {
    let failure = |failure: Failure<'_>| {
        let (index, error) = (failure.index, failure.error);
        let reply = error.reply().unwrap();
        (
            index,
            error.stage,
            error.outcome,
            reply.code().get(),
            reply.enhanced().unwrap().to_string(),
        )
    };
    report.failures().map(failure).collect()
}
