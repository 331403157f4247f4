//! The floor: the least cost of many messages over one session, without decisions, checks or errors. It is
//! hand-written calls of `write` and `read`, with the same octets.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A session with a peer that accepts everything.
#[derive(Debug)]
pub struct Floor {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Floor {
    /// Connects, and sends EHLO.
    ///
    /// # Errors
    /// An error of the socket.
    pub fn connect(server: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let mut floor = Self {
            stream,
            input: vec![0; 4096],
        };
        floor.read_lines(1)?;
        floor.stream.write_all(b"EHLO [127.0.0.1]\r\n")?;
        floor.read_lines(4)?;
        Ok(floor)
    }

    /// Sends the same message `messages` times: its envelope in one write and its body in another. `body` is in the
    /// form of the wire, with its dot.
    ///
    /// # Errors
    /// An error of the socket.
    pub fn deliver(&mut self, messages: usize, recipients: usize, body: &[u8]) -> io::Result<()> {
        let envelope = envelope(recipients);
        for _ in 0..messages {
            self.stream.write_all(envelope.as_bytes())?;
            self.read_lines(1 + recipients + 1)?;
            self.stream.write_all(body)?;
            self.read_lines(1)?;
        }
        Ok(())
    }

    /// The same with each body and the next envelope in one write.
    ///
    /// # Errors
    /// An error of the socket.
    pub fn deliver_overlapping(
        &mut self,
        messages: usize,
        recipients: usize,
        body: &[u8],
    ) -> io::Result<()> {
        let envelope = envelope(recipients);
        let both = [body, envelope.as_bytes()].concat();
        self.stream.write_all(envelope.as_bytes())?;
        self.read_lines(1 + recipients + 1)?;
        for _ in 1..messages {
            self.stream.write_all(&both)?;
            self.read_lines(1 + 1 + recipients + 1)?;
        }
        self.stream.write_all(body)?;
        self.read_lines(1)
    }

    /// Reads replies of one line each, and nothing after them.
    fn read_lines(&mut self, count: usize) -> io::Result<()> {
        let mut lines = 0;
        while lines < count {
            let received = match self.stream.read(&mut self.input)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => &self.input[..n],
            };
            lines += memchr::memchr_iter(b'\n', received).count();
        }
        Ok(())
    }
}

fn envelope(recipients: usize) -> String {
    let rcpt = |n| format!("RCPT TO:<{}>\r\n", crate::measure::load::recipient(n));
    let rcpts: String = (0..recipients).map(rcpt).collect();
    format!(
        "MAIL FROM:<{}> BODY=8BITMIME\r\n{rcpts}DATA\r\n",
        crate::measure::load::SENDER
    )
}
