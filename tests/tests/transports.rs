//! The application's own transports: gathered octets are flushed, and an interrupted flush is tried again.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use smtp_adapter::Server;
use smtp_blocking::Transport;
use smtp_proto::{Envelope, TlsPolicy};
use smtp_tests::play::bulk::runtime;
use smtp_tests::servers::tls::{Making, Setup, TlsPeer};

const POLICIES: [TlsPolicy; 3] = [TlsPolicy::Never, TlsPolicy::Implicit, TlsPolicy::Required];

/// Gathers until it is flushed, like the streams of many proxies. Every other flush fails with this error.
struct Gathering {
    stream: TcpStream,
    out: BufWriter<TcpStream>,
    fails_by: Option<io::ErrorKind>,
    flushes: u32,
}

impl Read for Gathering {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Gathering {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.out.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        match self.fails_by {
            Some(kind) if self.flushes % 2 == 1 => Err(kind.into()),
            _ => self.out.flush(),
        }
    }
}

impl Transport for Gathering {
    fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))?;
        self.stream.set_write_timeout(Some(timeout))
    }
}

fn peer(policy: TlsPolicy) -> (TlsPeer, Server) {
    let making = Making {
        names: &["localhost"],
        until: 2999,
        is_authority: false,
    };
    let setup = Setup {
        identity: making.self_signed(),
        implicit: policy == TlsPolicy::Implicit,
        starttls: true,
        tls12: false,
        mechanisms: "PLAIN",
    };
    let server = Server::new("localhost").tls(policy).verify(false);
    (TlsPeer::start(setup).unwrap(), server)
}

fn envelope() -> Envelope {
    Envelope::new("a@example.org", ["b@example.net"]).unwrap()
}

#[track_caller]
fn has_mail(peer: &TlsPeer) {
    let commands = peer.books().commands;
    assert!(
        commands.iter().any(|(line, _)| line.starts_with("RCPT")),
        "{commands:?}"
    );
}

#[test]
fn blocking_flushes_what_a_transport_gathers() {
    for policy in POLICIES {
        for fails_by in [
            None,
            Some(io::ErrorKind::Interrupted),
            Some(io::ErrorKind::WouldBlock),
        ] {
            let (peer, server) = peer(policy);
            let stream = TcpStream::connect(("127.0.0.1", peer.port())).unwrap();
            let transport = Gathering {
                out: BufWriter::new(stream.try_clone().unwrap()),
                stream,
                fails_by,
                flushes: 0,
            };
            let mut session = smtp_blocking::Session::connect_over(&server, transport).unwrap();
            let report = session.send(envelope(), &b"x\r\n"[..]).unwrap();
            assert!(report.is_success(), "{policy:?} {fails_by:?}");
            has_mail(&peer);
        }
    }
}

#[test]
fn tokio_flushes_what_a_transport_gathers() {
    for policy in POLICIES {
        let (peer, server) = peer(policy);
        runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", peer.port()))
                .await
                .unwrap();
            let stream = tokio::io::BufStream::new(stream);
            let mut session = smtp_tokio::Session::connect_over(&server, stream)
                .await
                .unwrap();
            let report = session.send(envelope(), &b"x\r\n"[..]).await.unwrap();
            assert!(report.is_success(), "{policy:?}");
        });
        has_mail(&peer);
    }
}

/// Says this, one piece for each read, and takes so many writes.
struct Scripted {
    reads: VecDeque<io::Result<&'static [u8]>>,
    writes: usize,
}

impl Read for Scripted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.reads.pop_front().unwrap_or(Ok(b""))?;
        piece.read(buffer)
    }
}

impl Write for Scripted {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self.writes {
            0 => Err(io::ErrorKind::BrokenPipe.into()),
            _ => {
                self.writes -= 1;
                Ok(octets.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Scripted {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// Why the server has gone is there to be read, after a signal as well.
#[test]
fn a_signal_does_not_cut_off_the_last_words_of_a_server() {
    let transport = Scripted {
        reads: VecDeque::from([
            Ok(&b"220 hi\r\n"[..]),
            Ok(b"250 hi\r\n"),
            Err(io::ErrorKind::Interrupted.into()),
            Ok(b"421 4.3.2 closing\r\n"),
        ]),
        writes: 1,
    };
    let server = Server::new("mx.example.net").tls(TlsPolicy::Never);
    let mut session = smtp_blocking::Session::connect_over(&server, transport).unwrap();
    let error = session.send(envelope(), &b"x\r\n"[..]).unwrap_err();
    let reply = error.error().reply().map(|reply| reply.code().get());
    assert_eq!(reply, Some(421), "{error}");
}
