//! How both adapters reach a server, and connections that misbehave. Each ends in an error, within its deadline.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use smtp_adapter::{Error, Server};
use smtp_proto::{Cause, Envelope, Report, Stage, Timeouts, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::servers::fast::greeter;
use smtp_tests::servers::tls::{Making, acceptor};
use smtp_tests::watchdog::{in_time, within_limit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A server with implicit TLS on a port of 127.0.0.1, for one connection. It accepts everything. The reply to
/// commands that begin with `slow` drips, one octet at a time, and BDAT gets none.
fn tls_server(slow: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || -> io::Result<()> {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut raw = socket.try_clone()?;
        let making = Making {
            names: &["localhost"],
            until: 2099,
            is_authority: false,
        };
        let mut tls = BufReader::new(acceptor(&making.self_signed(), socket)?);
        tls.get_mut().write_all(b"220 hi\r\n")?;
        let mut line = String::new();
        while tls.read_line(&mut line)? > 0 {
            if let Some(size) = line.strip_prefix("BDAT ") {
                let size = size.split_whitespace().next().unwrap().parse().unwrap();
                tls.read_exact(&mut vec![0; size])?;
            } else if line.starts_with(slow) {
                let connection = &mut tls.get_mut().conn;
                connection.writer().write_all(&[b'2'; 10_000])?;
                let mut record = Vec::new();
                connection.write_tls(&mut record)?;
                for octet in record {
                    raw.write_all(&[octet])?;
                    thread::sleep(Duration::from_millis(50));
                }
            } else {
                tls.get_mut()
                    .write_all(b"250-hi\r\n250-PIPELINING\r\n250 CHUNKING\r\n")?;
            }
            line.clear();
        }
        Ok(())
    };
    thread::spawn(serve);
    address
}

/// The settings for a server at this address, without verification, and with half a second for each reply.
fn impatient(address: SocketAddr) -> Server {
    let mut timeouts = Timeouts::default().replies(Duration::from_millis(500));
    timeouts.block = Duration::from_millis(500);
    Server::new(address.to_string())
        .tls(TlsPolicy::Implicit)
        .verify(false)
        .timeouts(timeouts)
}

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

const MESSAGE: &[u8] = b"Subject: test\r\n\r\nHello.\r\n";

#[track_caller]
fn has_timed_out(sent: Option<Result<Report, Error>>) {
    let error = sent.expect("the deadline works").unwrap_err();
    assert!(matches!(error.cause(), Cause::TimedOut(_)), "{error}");
}

#[test]
fn a_record_that_drips_does_not_move_the_deadline_blocking() {
    let server = impatient(tls_server("MAIL"));
    has_timed_out(within_limit(move || {
        smtp_blocking::Session::connect(&server)?.send(envelope(), MESSAGE)
    }));
}

#[test]
fn a_record_that_drips_does_not_move_the_deadline_tokio() {
    let server = impatient(tls_server("MAIL"));
    has_timed_out(within_limit(move || {
        runtime().block_on(async {
            let mut session = smtp_tokio::Session::connect(&server).await?;
            session.send(envelope(), MESSAGE).await
        })
    }));
}

/// A socket that takes one octet at a time, with pauses, once it is told to be slow.
struct Dripping {
    socket: TcpStream,
    slow: Arc<AtomicBool>,
}

impl Read for Dripping {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Dripping {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if !self.slow.load(Ordering::Relaxed) {
            return self.socket.write(octets);
        }
        thread::sleep(Duration::from_secs(1));
        self.socket.write(&octets[..octets.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl smtp_blocking::Transport for Dripping {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(timeout))
    }
}

#[test]
fn a_handshake_that_drips_does_not_move_the_deadline() {
    has_timed_out(within_limit(|| {
        let address = tls_server("MAIL");
        let stream = Dripping {
            socket: TcpStream::connect(address).unwrap(),
            slow: Arc::new(AtomicBool::new(true)),
        };
        smtp_blocking::Session::connect_over(&impatient(address), stream)?.send(envelope(), MESSAGE)
    }));
}

/// The next chunks are written while the reply to the first one is waited for.
#[test]
fn a_body_that_drips_does_not_move_the_deadline() {
    /// A body of this many octets. The last of them come after the socket has become slow.
    struct Body(usize, Arc<AtomicBool>);
    impl Read for Body {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let fits = buffer.len().min(self.0);
            buffer[..fits].fill(b'x');
            self.0 -= fits;
            self.1.store(self.0 < 32_768, Ordering::Relaxed);
            Ok(fits)
        }
    }
    has_timed_out(within_limit(|| {
        let address = tls_server("NOTHING");
        let slow = Arc::new(AtomicBool::new(false));
        let stream = Dripping {
            socket: TcpStream::connect(address).unwrap(),
            slow: slow.clone(),
        };
        let server = impatient(address).chunk_size(16_384);
        let mut session = smtp_blocking::Session::connect_over(&server, stream)?;
        session.send(envelope(), BufReader::new(Body(131_072, slow)))
    }));
}

/// A stream whose writes take nothing, without an error.
struct TakesNothing(TcpStream);

impl Read for TakesNothing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for TakesNothing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl smtp_blocking::Transport for TakesNothing {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(timeout))
    }
}

/// The same for tokio.
struct AlsoTakesNothing(tokio::net::TcpStream);

impl AsyncRead for AlsoTakesNothing {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AlsoTakesNothing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[track_caller]
fn has_taken_nothing(opened: Option<Result<(), Error>>) {
    let error = opened.expect("it loops").unwrap_err();
    let kind = error.io_error().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::WriteZero), "{error}");
}

#[test]
fn a_transport_that_takes_nothing_ends_the_session_blocking() {
    for policy in [TlsPolicy::Implicit, TlsPolicy::Never] {
        has_taken_nothing(within_limit(move || {
            let address = match policy {
                TlsPolicy::Implicit => tls_server("NOTHING"),
                _ => greeter("220 hi\r\n", "").unwrap(),
            };
            let stream = TakesNothing(TcpStream::connect(address).unwrap());
            let server = impatient(address).tls(policy);
            smtp_blocking::Session::connect_over(&server, stream).map(drop)
        }));
    }
}

#[test]
fn a_transport_that_takes_nothing_ends_the_session_tokio() {
    for policy in [TlsPolicy::Implicit, TlsPolicy::Never] {
        has_taken_nothing(within_limit(move || {
            let address = match policy {
                TlsPolicy::Implicit => tls_server("NOTHING"),
                _ => greeter("220 hi\r\n", "").unwrap(),
            };
            let server = impatient(address).tls(policy);
            runtime().block_on(async {
                let stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let stream = AlsoTakesNothing(stream);
                smtp_tokio::Session::connect_over(&server, stream)
                    .await
                    .map(drop)
            })
        }));
    }
}

#[cfg(target_os = "linux")]
mod unix {
    use super::*;
    use smtp_tests::servers::dead::JammedUnix;

    fn server(jammed: &JammedUnix) -> Server {
        let server = Server::unix(jammed.path()).lmtp();
        server.connect_timeout(Duration::from_millis(300))
    }

    #[test]
    fn a_socket_that_is_not_accepted_ends_at_the_deadline_blocking() {
        let jammed = JammedUnix::start("blocking").unwrap();
        let server = server(&jammed);
        let connect = move || smtp_blocking::Session::connect(&server).map(drop);
        let error = in_time(connect).unwrap_err();
        assert_eq!(error.stage(), Stage::Connect);
        assert!(error.to_string().contains("timed out"), "{error}");
    }

    #[test]
    fn a_socket_that_is_not_accepted_ends_at_the_deadline_tokio() {
        let jammed = JammedUnix::start("tokio").unwrap();
        let server = server(&jammed);
        let connect = move || {
            let connect = smtp_tokio::Session::connect(&server);
            runtime().block_on(connect).map(drop)
        };
        let error = in_time(connect).unwrap_err();
        assert_eq!(error.stage(), Stage::Connect);
    }
}
