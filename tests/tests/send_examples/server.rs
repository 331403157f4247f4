//! Servers for `send`: the receiver, and scripted ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use smtp_tests::receiver::{Options, Receiver};

pub(super) fn receiver(options: Options) -> (Receiver, String) {
    let receiver = Receiver::start(options).unwrap();
    let address = receiver.local_addr().to_string();
    (receiver, address)
}

/// A server for one connection, played by `script`.
pub(super) fn server(script: impl FnOnce(Peer) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        script(Peer(BufReader::new(stream)));
    });
    address
}

/// The script of a server for one connection.
pub(super) type Script = Box<dyn FnOnce(Peer) + Send>;

/// A server for this many connections, one after another.
pub(super) fn servers(scripts: Vec<Script>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for script in scripts {
            let (stream, _) = listener.accept().unwrap();
            script(Peer(BufReader::new(stream)));
        }
    });
    address
}

pub(super) struct Peer(pub(super) BufReader<TcpStream>);

impl Peer {
    pub(super) fn say(&mut self, octets: &str) {
        let _ = self.0.get_mut().write_all(octets.as_bytes());
    }

    /// Reads lines up to one that starts with `end`.
    pub(super) fn hear(&mut self, end: &str) {
        let mut line = String::new();
        while !line.starts_with(end) {
            line.clear();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
    }

    pub(super) fn hear_the_end(&mut self) {
        let _ = self.0.read_to_end(&mut Vec::new());
    }

    /// Greeting and EHLO, with these extensions.
    pub(super) fn open(&mut self, extensions: &[&str]) {
        self.say("220 fake\r\n");
        self.hear("EHLO");
        for extension in extensions {
            self.say(&format!("250-{extension}\r\n"));
        }
        self.say("250 HELP\r\n");
    }

    /// Up to the end of the data of a message to one recipient.
    pub(super) fn take_message(&mut self) {
        self.open(&["fake", "PIPELINING"]);
        self.hear("DATA");
        self.say("250 ok\r\n250 ok\r\n354 go\r\n");
        self.hear(".\r\n");
    }
}
