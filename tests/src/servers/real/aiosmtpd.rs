//! A real aiosmtpd, the server in Python, on a loopback port of its own.
//!
//! It is installed from PyPI into a folder of this harness, and the system's Python stays as it is. Everything that an
//! instance reads or writes lies in one temporary folder, and several instances run side by side. It needs Debian (or a
//! relative) and root, and no DNS.
//!
//! It is the one that does without PIPELINING and CHUNKING. What it takes is stored octet for octet.

use std::fs;
use std::ops::Deref;

use crate::servers::real::{Kind, PASSWORD, Result, Server, USER, sh};

const SERVER_PY: &str = include_str!("aiosmtpd.py");

/// Where the package is kept.
const PACKAGE: &str = "/var/cache/smtp-tests/aiosmtpd";

/// Installs the package into `$1`, unless it is there and runs, and prints the name of its Python.
const INSTALL: &str = r#"
set -e
mkdir -p "$1"
exec 9>"$1/lock"
flock 9
python="$1/venv/bin/python"
printf '%s\n' "$python"
"$python" -c 'import aiosmtpd.smtp' >/dev/null 2>&1 && exit
exec >&2
echo 'installing aiosmtpd'
export DEBIAN_FRONTEND=noninteractive
if ! /usr/bin/python3 -c 'import ensurepip' || ! command -v openssl; then
  root="$1"
  set -- install -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 python3-venv openssl
  apt-get "$@" || { apt-get update && apt-get "$@"; }
  set -- "$root"
fi
rm -rf "$1/venv"
/usr/bin/python3 -m venv "$1/venv"
"$python" -m pip install --quiet --disable-pip-version-check aiosmtpd==1.4.6
"$python" -c 'import aiosmtpd.smtp'
chmod -R a+rX "$1""#;

/// Starts the script in the folder `$1` with the Python `$2` on the port `$3`. It leads a process group, so that
/// what it starts ends with it.
const START: &str = r#"
cd "$1" && mkdir -p mail/tmp mail/new && : >server.log && chown -R nobody: mail server.log && chmod -R a+rX .
setsid "$2" server.py "$1" "$3" "$4" "$5" >start.out 2>&1 </dev/null &
echo $! >"$1/pid""#;

/// The later rounds of `rm` are for a process that was still dying in the first.
const STOP_AT_EOF: &str = r#"
exec >/dev/null 2>&1
cat
kill -9 "-$(cat "$1/pid")"
for round in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 0.2; done"#;

const KIND: Kind = Kind {
    name: "aiosmtpd",
    stop: STOP_AT_EOF,
    logs: &["start.out", "server.log"],
    taken: ": message-id=<",
    mail: "mail/new",
    headers: &["Return-path:", "Envelope-to:", "Received:"],
    recipients: Some("Envelope-to:"),
    greylisted: (450, "4.2.0"),
    lmtp_socket: None,
    pipelining: false,
    chunking: false,
    stores_crlf: true,
};

/// A running aiosmtpd. As a [`Server`], it offers STARTTLS, and AUTH inside TLS, and demands nothing.
#[derive(Debug)]
pub struct Aiosmtpd {
    server: Server,
}

impl Aiosmtpd {
    /// Installs the package where that was not done yet, then starts an instance and waits until it greets.
    /// An error says what went wrong, with the end of the log.
    pub fn start() -> Result<Self, String> {
        let server = Server::start::<1>(&KIND, |server| {
            let python = sh(INSTALL, &[PACKAGE])?;
            server.write("server.pem", &[("server.py", SERVER_PY)])?;
            let port = server.smtp_port().to_string();
            let folder = server.dir()?;
            sh(START, &[folder, python.trim(), &port, USER, PASSWORD])?;
            // Its last words go to the standard error output, where it warns of logins as well.
            server.greets(server.smtp_port(), true, || {
                let words = fs::read_to_string(server.path("start.out"))?;
                match words.contains("Traceback") {
                    false => Ok(()),
                    true => Err(words.into()),
                }
            })
        })?;
        Ok(Self { server })
    }
}

impl Deref for Aiosmtpd {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
