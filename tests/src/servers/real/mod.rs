//! The shared part of the harnesses of real servers, and the tests of each server.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use smtp_proto::Envelope;

pub mod aiosmtpd;
mod bodies;
mod cells;
mod client;
pub mod dovecot;
pub mod exim;
mod install;
mod many;
mod pool;
pub mod postfix;
mod reports;
mod stored;
mod suite;

pub use bodies::{
    a_single_message, an_address_in_utf8, awkward, every_way_of_a_body, no_utf8,
    refused_after_the_data,
};
pub use cells::{
    Login, a_record, in_the_clear, logins, no_chunking, no_login, refused_and_greylisted,
};
pub use client::{Adapter, Manner, Session, commands, failures, far_away, offers};
use install::certificates;
pub(crate) use install::{install, sh};
pub use many::bulk;
pub use pool::pool;
pub use reports::{delivery_report, delivery_reports, no_delivery_reports};
pub use stored::Stored;

pub(crate) type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The name in each server's certificate, which also holds for `localhost` and 127.0.0.1.
pub const NAME: &str = "mail.example.test";

/// The one user who can authenticate, and a password with a space in it.
pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "s3cret pass";

/// A domain beyond ASCII for which Postfix and Exim take mail.
pub(crate) const UTF8_DOMAIN: &str = "\u{3b4}\u{3bf}\u{3ba}\u{3b9}\u{3bc}\u{3ae}.example.test";

/// The sender of the messages.
const SENDER: &str = "sender@example.org";

/// Waits for the greeting on port `$2`, goes over to TLS (after STARTTLS where `$3` names a protocol), and
/// leaves with a 221. It checks our certificates too. openssl is there: Debian's postfix and dovecot-core depend
/// on it, and the harness of Exim installs it.
const GREETING: &str = r#"
echo QUIT | timeout 10 openssl s_client -quiet -connect "127.0.0.1:$2" ${3:+-starttls "$3"} \
  -CAfile "$1/ca.pem" -verify_return_error -verify_hostname mail.example.test | grep '^221 '"#;

/// The facts about a kind of server.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// A script that is given the server's folder, runs beside the server, and is to end it when its standard
    /// input closes, which it does however the test process ends: after `kill -9` too, or with a server in a
    /// static, which is never dropped. Then it removes the folder.
    pub(crate) stop: &'static str,
    /// Like all paths here, relative to the server's folder.
    pub(crate) logs: &'static [&'static str],
    /// The text before the Message-ID in the log line of an accepted message.
    pub(crate) taken: &'static str,
    /// All mail is stored in this folder, and appears there when it is complete.
    pub(crate) mail: &'static str,
    /// The headers that the server puts on top, one of each name at most and in this order.
    pub(crate) headers: &'static [&'static str],
    /// The one among them that has the recipients. Without it, the folder has a Maildir for each recipient,
    /// whose name is the address.
    pub(crate) recipients: Option<&'static str>,
    /// The reply to `greylisted@example.test`.
    pub(crate) greylisted: (u16, &'static str),
    /// The Unix socket of an LMTP server, which takes the same mail as the first port.
    pub(crate) lmtp_socket: Option<&'static str>,
    /// PIPELINING and CHUNKING are offered on the first port.
    pub(crate) pipelining: bool,
    pub(crate) chunking: bool,
    /// It stores CRLF as it came, and not LF.
    pub(crate) stores_crlf: bool,
}

impl Kind {
    /// Whether envelopes go out with the message before, where that is asked for.
    fn may_overlap(&self) -> bool {
        self.pipelining && self.lmtp_socket.is_none()
    }
}

/// A running server with mail for every user of `example.test`, which answers `refused@example.test`
/// 550 5.1.1 and `greylisted@example.test` with a 4yz. Dropping it stops it and removes all its files.
#[derive(Debug)]
pub struct Server {
    kind: &'static Kind,
    dir: PathBuf,
    pub(crate) ports: Vec<u16>,
    guard: Child,
    /// The recipients of each file of mail, so that the others need not be read again and again.
    seen: Mutex<HashMap<PathBuf, Vec<String>>>,
}

impl Server {
    /// The one user who can log in, where the server offers AUTH.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The password of [`Self::user`]. It has a space in it.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Finds a folder and `N` ports for the server. `launch` must configure and start it. An error tells what went
    /// wrong, with the end of the log.
    pub(crate) fn start<const N: usize>(
        kind: &'static Kind,
        launch: impl Fn(&Self) -> Result<()>,
    ) -> Result<Self, String> {
        let start = || {
            let server = Self::new::<N>(kind).map_err(|error| error.to_string())?;
            match launch(&server) {
                Ok(()) => Ok(server),
                Err(error) => Err(server.with_log(&error.to_string())),
            }
        };
        match start() {
            // Another process may have taken the port between our search and the server's start.
            Err(error) if error.contains("Address already in use") => start(),
            result => result,
        }
    }

    fn new<const N: usize>(kind: &'static Kind) -> Result<Self> {
        // Not in TMPDIR: the servers' users must get in, and the name of a Unix socket has at most 107 octets.
        let dir = PathBuf::from(sh("mktemp -d \"/tmp/$1-XXXXXX\"", &[kind.name])?.trim());
        let guard = Command::new("sh")
            .args(["-c", kind.stop, &format!("guard-{}", kind.name)])
            .arg(&dir)
            .stdin(Stdio::piped())
            .process_group(0) // out of reach of the terminal's ^C
            .spawn()?;
        // All are held until all are known, so that no two are the same.
        let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let ports = held
            .into_iter()
            .map(|listener| Ok(listener?.local_addr()?.port()));
        let ports = ports.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            kind,
            dir,
            ports,
            guard,
            seen: Mutex::default(),
        })
    }

    /// Writes files into the folder and into folders below it: these, `ca.pem`, and `server_pem` with the
    /// server's key and certificate. In their text, `@DIR@` stands for the folder, and `@PORT0@` for the first
    /// port.
    pub(crate) fn write(&self, server_pem: &str, files: &[(&str, &str)]) -> Result<()> {
        for (name, text) in files {
            let mut text = text.replace("@DIR@", self.dir()?);
            for (index, port) in self.ports.iter().enumerate() {
                text = text.replace(&format!("@PORT{index}@"), &port.to_string());
            }
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            fs::write(path, text)?;
        }
        let (ca, server) = certificates(NAME)?;
        fs::write(self.ca_pem_path(), ca)?;
        fs::write(self.path(server_pem), server)?;
        Ok(())
    }

    /// Waits for the greeting on this port and checks TLS there, as long as `alive` finds nothing wrong.
    pub(crate) fn greets(
        &self,
        port: u16,
        starttls: bool,
        alive: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let starttls = match (starttls, self.kind.lmtp_socket) {
            (false, _) => "",
            (true, None) => "smtp",
            (true, Some(_)) => "lmtp",
        };
        while let Err(error) = sh(GREETING, &[self.dir()?, &port.to_string(), starttls]) {
            alive()?;
            if Instant::now() > deadline {
                return Err(format!("no greeting on port {port}: {error}").into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn dir(&self) -> Result<&str> {
        self.dir
            .to_str()
            .ok_or_else(|| "the folder's name is not UTF-8".into())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// STARTTLS is offered on this port, and nothing is demanded.
    pub fn smtp_port(&self) -> u16 {
        self.ports[0]
    }

    /// The Unix socket of an LMTP server, which takes the same mail as the first port.
    pub(crate) fn lmtp_socket(&self) -> PathBuf {
        self.path(self.kind.lmtp_socket.unwrap_or_default())
    }

    /// The PEM file of the authority that signed the server's certificate.
    pub fn ca_pem_path(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The whole log.
    pub fn log(&self) -> String {
        let files = self
            .kind
            .logs
            .iter()
            .map(|name| fs::read(self.path(name)).unwrap_or_default());
        String::from_utf8_lossy(&files.collect::<Vec<_>>().concat()).into_owned()
    }

    fn with_log(&self, error: &str) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("{error}; the log ends:\n{}", tail.join("\n"))
    }

    /// The files of all mail.
    fn mail(&self) -> Vec<PathBuf> {
        let mail = entries(&self.path(self.kind.mail));
        match self.kind.recipients {
            Some(_) => mail.collect(),
            None => mail.flat_map(|user| entries(&user.join("new"))).collect(),
        }
    }

    /// Waits for `count` deliveries to `wanted` addresses. Returns all there are by then, in the order in which the
    /// server took them from one session. After `timeout`, the error has their number, and the end of the log.
    pub fn wait_for_mail(
        &self,
        wanted: impl Fn(&str) -> bool,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<Stored>, String> {
        let deadline = Instant::now() + timeout;
        let of = |recipients: &[String]| recipients.iter().filter(|to| wanted(to)).count();
        loop {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for path in self.mail() {
                if let Entry::Vacant(unseen) = seen.entry(path) {
                    let stored = Stored::parse(self.kind, unseen.key(), &read(unseen.key())?);
                    unseen.insert(stored.recipients);
                }
            }
            let found = seen
                .values()
                .map(|recipients| of(recipients))
                .sum::<usize>();
            if found >= count {
                let paths = seen
                    .iter()
                    .filter(|(_, recipients)| of(recipients) > 0)
                    .map(|(path, _)| path);
                let mail = paths.map(|path| Ok(Stored::parse(self.kind, path, &read(path)?)));
                let mut mail = mail.collect::<Result<Vec<_>, String>>()?;
                mail.sort_by(|a, b| arrival(&a.id).cmp(&arrival(&b.id)));
                return Ok(mail);
            }
            drop(seen);
            if Instant::now() > deadline {
                return Err(self.with_log(&format!("{found} of {count} deliveries")));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits for exactly `count` messages to this address.
    #[track_caller]
    pub fn mail_to(&self, address: &str, count: usize) -> Vec<Stored> {
        let stored = self.wait_for_mail(|to| to == address, count, Duration::from_secs(60));
        let stored = stored.unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(stored.len(), count, "messages to {address}");
        stored
    }
}

/// The content of a folder, which appears with the first message.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// The transactions of a session with Dovecot have one name, with `:T2`, `:T3` and so on after the first.
fn arrival(id: &str) -> (&str, u32) {
    id.split_once(":T").map_or((id, 1), |(session, n)| {
        (session, n.parse().unwrap_or_default())
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path:?}: {error}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("stopping the server in {}: {error}", self.dir.display());
        }
    }
}

/// A user of the domain for which all servers here take mail.
pub fn address(user: &str) -> String {
    format!("{user}@example.test")
}

fn envelope(users: &[&str]) -> Envelope {
    Envelope::new(SENDER, users.iter().map(|user| address(user))).unwrap()
}

/// Waits for the mail of `user`, and compares it.
#[track_caller]
pub fn arrives(server: &Server, user: &str, messages: &[&[u8]]) {
    let stored = server.mail_to(&address(user), messages.len());
    for (stored, message) in stored.iter().zip(messages) {
        same(user, &stored.body, message);
    }
}

#[track_caller]
fn same(of: &str, arrived: &[u8], sent: &[u8]) {
    let differ = arrived.iter().zip(sent).position(|(a, b)| a != b);
    let around = |bytes: &[u8]| {
        let start = differ.unwrap_or(0).saturating_sub(20);
        bytes
            .iter()
            .skip(start)
            .take(60)
            .copied()
            .collect::<Vec<_>>()
            .escape_ascii()
            .to_string()
    };
    assert!(
        arrived == sent,
        "{of}: {} octets arrived of {}, they differ from {differ:?}: {} and {}",
        arrived.len(),
        sent.len(),
        around(arrived),
        around(sent)
    );
}
