//! The client: one session by an adapter, and all that it lets others see.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use smtp_adapter::{Error, Server, Terms};
use smtp_proto::{ClientName, Envelope, Report};
use smtp_tests::play::bulk::runtime;

use crate::case::Case;
use crate::identities::Identities;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapter {
    Blocking,
    Tokio,
}

impl Adapter {
    pub(crate) const ALL: [Self; 2] = [Self::Blocking, Self::Tokio];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Tokio => "tokio",
        }
    }
}

/// What an application sees.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The error with which no session was opened, or what became of each message.
    pub(crate) unopened: Option<Error>,
    pub(crate) reports: Vec<Result<Report, Error>>,
    /// The `Debug` output of the session.
    session: String,
    /// The conversation, as an observer has it.
    trace: String,
}

impl Seen {
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Error> {
        let of_reports = self
            .reports
            .iter()
            .filter_map(|report| report.as_ref().err());
        self.unopened.iter().chain(of_reports)
    }

    /// The lines that a user reads.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.errors().map(Error::to_string).collect();
        let reports = self
            .reports
            .iter()
            .filter_map(|report| report.as_ref().ok());
        for report in reports {
            lines.extend(report.recipients.iter().map(|result| match result {
                Ok(reply) => reply.to_string(),
                Err(error) => error.to_string(),
            }));
        }
        lines
    }

    /// All that may end up in a log.
    pub(crate) fn outputs(&self) -> String {
        format!("{self:?} {}", self.lines().join("\n"))
    }
}

/// The settings that all cases share, so that the trust store is read once. Without a name, the server must be
/// 127.0.0.1.
fn base(is_named: bool) -> &'static Server {
    static BASES: [OnceLock<Server>; 2] = [OnceLock::new(), OnceLock::new()];
    BASES[usize::from(is_named)].get_or_init(|| {
        let server = Server::new("127.0.0.1")
            .client_name(ClientName::parse("client.example").expect("it is a name"))
            .trust_pem(Identities::get().authority.pem.as_bytes())
            .expect("it is a certificate");
        let server = match is_named {
            true => server.server_name(Identities::NAME),
            false => server,
        };
        if let Some(prepare) = Terms::new(&server, true).preparation() {
            prepare();
        }
        server
    })
}

/// The settings of a case. What is observed is not counted as memory of the session.
fn server_of(case: &Case, trace: &Arc<Mutex<String>>) -> Server {
    let trace = Arc::clone(trace);
    base(case.is_named)
        .clone()
        .tls(case.policy)
        .credentials(case.credentials.clone())
        .timeouts(case.timeouts())
        .observe(move |step| {
            allocation_counter::opt_out(|| {
                let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = writeln!(trace, "{:?}", step.trace());
            });
        })
}

/// A body of 24 MiB, in lines.
const LARGE: usize = 24 << 20;
const LINE: &str = "A line of a body, and neither a long one nor a short one.\r\n";

fn body(case: &Case) -> &'static str {
    static BODY: OnceLock<String> = OnceLock::new();
    let body = BODY.get_or_init(|| LINE.repeat(LARGE / LINE.len()));
    match case.is_large {
        true => body,
        false => &body[..10 * LINE.len()],
    }
}

pub(crate) const RECIPIENTS: [&str; 2] = ["bob@example.net", "carol@example.net"];

fn envelope() -> Envelope {
    Envelope::new("alice@example.org", RECIPIENTS).expect("these are addresses")
}

/// What the client came to.
pub(crate) struct Run {
    pub(crate) seen: Seen,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// The most octets of heap that its thread had at a time.
    pub(crate) peak: u64,
}

/// Plays the client of a case at this address.
pub(crate) fn run(adapter: Adapter, case: &Case, address: SocketAddr) -> io::Result<Run> {
    let trace = Arc::new(Mutex::new(String::new()));
    let (server, body) = (server_of(case, &trace), body(case));
    let began = Instant::now();
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut seen = Seen::default();
    let peak = match adapter {
        Adapter::Blocking => allocation_counter::measure(|| {
            blocking(case.messages, &server, socket, body, &mut seen)
        }),
        Adapter::Tokio => {
            socket.set_nonblocking(true)?;
            let runtime = runtime();
            let _guard = runtime.enter();
            let socket = tokio::net::TcpStream::from_std(socket)?;
            allocation_counter::measure(|| {
                runtime.block_on(tokio(case.messages, &server, socket, body, &mut seen));
            })
        }
    };
    let ended = Instant::now();
    seen.trace = std::mem::take(&mut *trace.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Run {
        seen,
        began,
        ended,
        peak: peak.bytes_max,
    })
}

fn blocking(messages: usize, server: &Server, socket: TcpStream, body: &str, seen: &mut Seen) {
    match smtp_blocking::Session::connect_over(server, socket) {
        Err(error) => seen.unopened = Some(error),
        Ok(mut session) => {
            for _ in 0..messages {
                seen.reports.push(session.send(envelope(), body));
            }
            allocation_counter::opt_out(|| seen.session = format!("{session:?}"));
            session.quit();
        }
    }
}

async fn tokio(
    messages: usize,
    server: &Server,
    socket: tokio::net::TcpStream,
    body: &str,
    seen: &mut Seen,
) {
    match smtp_tokio::Session::connect_over(server, socket).await {
        Err(error) => seen.unopened = Some(error),
        Ok(mut session) => {
            for _ in 0..messages {
                seen.reports.push(session.send(envelope(), body).await);
            }
            allocation_counter::opt_out(|| seen.session = format!("{session:?}"));
            session.quit().await;
        }
    }
}
