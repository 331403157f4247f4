//! A real Exim on its own loopback port.
//!
//! Debian's package conflicts with Postfix, so it is unpacked into a folder of this harness and not installed. Only
//! the shared libraries that it needs are installed, and the user `Debian-exim`, whose name is compiled into it. All
//! files of an instance are in one temporary folder, and several instances run side by side. It needs Debian (or a
//! relative) and root, but not DNS: nothing is looked up, and nothing can be delivered off the machine.

use std::fs;
use std::ops::Deref;

use crate::servers::real::{Kind, PASSWORD, Result, Server, USER, UTF8_DOMAIN, sh};

/// Exim gives up root once it listens, and never asks for it again. So it need not run the whole program again for
/// each delivery.
const EXIM_CONF: &str = "\
exim_path = @EXIM@
spool_directory = @DIR@/spool
log_file_path = @DIR@/log/%slog
primary_hostname = mail.example.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = @PORT0@
daemon_startup_retries = 0
deliver_drop_privilege
keep_environment =

# Messages are to arrive as they were sent: these headers are dropped by default.
return_path_remove = false
envelope_to_remove = false
delivery_date_remove = false

# On top of what it offers by itself: PIPELINING, PIPECONNECT, CHUNKING, 8BITMIME, SMTPUTF8.
dsn_advertise_hosts = *
prdr_enable
auth_advertise_hosts = *
message_size_limit = 64M
tls_certificate = @DIR@/server.pem
tls_privatekey = @DIR@/server.pem

# No lookups, no limits, no waiting.
host_lookup =
rfc1413_hosts =
dns_ipv4_lookup =
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_accept_max_nonmail_hosts =
recipients_max = 0
check_spool_space = 0
check_spool_inodes = 0
check_log_space = 0
check_log_inodes = 0
message_logs = false

acl_smtp_rcpt = rcpt
acl_smtp_data = accept
acl_smtp_data_prdr = prdr

begin acl
rcpt:
  deny    domains = !example.test : !@UTF8@
          message = 550 5.7.1 relay access denied
  deny    local_parts = refused
          message = 550 5.1.1 no such user here
  defer   local_parts = greylisted
          message = 450 4.2.0 Greylisted, try again later
  accept
# Asked for each recipient, and only where MAIL came with PRDR.
prdr:
  deny    local_parts = prdr-refused
          message = 550 5.7.1 not this message
  accept

begin routers
bounced:
  driver = redirect
  local_parts = bounced
  allow_fail
  data = :fail: this mailbox is closed
all:
  driver = accept
  transport = maildir

# Messages are stored as they were sent, below one line with the sender, one with all recipients, and Received:
# one file for each message.
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = @DIR@/mail
  batch_max = 10000
  return_path_add
  envelope_to_add

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{@USER@}}{eq{$auth3}{@PASSWORD@}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${if and{{eq{$auth1}{@USER@}}{eq{$auth2}{@PASSWORD@}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${if eq{$auth1}{@USER@}{@PASSWORD@}fail}
  server_set_id = $auth1
";

/// Where the unpacked package is kept.
const PACKAGE: &str = "/var/cache/smtp-tests/exim";

/// Unpacks the package into `$1`, unless it is there and runs, and prints the program's name. `--no-remove` and
/// `--no-upgrade`, because only missing libraries are wanted. The program must not be setuid root.
const INSTALL: &str = r#"
set -e
mkdir -p "$1"
exec 9>"$1/lock"
flock 9
exim="$1/usr/sbin/exim4"
printf '%s\n' "$exim"
"$exim" -C /dev/null -bV >/dev/null 2>&1 && exit
exec >&2
echo 'unpacking exim4-daemon-heavy'
export DEBIAN_FRONTEND=noninteractive
new="$(mktemp -d)"
trap 'rm -rf "$new"' EXIT
cd "$new"
apt-get download exim4-daemon-heavy || { apt-get update && apt-get download exim4-daemon-heavy; }
libraries="$(dpkg -f *.deb Depends | tr , '\n' | sed -n 's/^ *\(lib[^ ]*\).*/\1/p')"
set -- "$1" install -y --no-install-recommends --no-remove --no-upgrade -o DPkg::Lock::Timeout=300 \
  openssl $libraries
root="$1"
shift
apt-get "$@" || { apt-get update && apt-get "$@"; }
getent passwd Debian-exim || useradd --system --user-group --home-dir /nonexistent \
  --shell /usr/sbin/nologin --badname Debian-exim
rm -rf "$root/usr"
dpkg -x *.deb "$root"
chmod u-s "$exim"
"$exim" -C /dev/null -bV >/dev/null"#;

/// Starts the program `$2` on the configuration in the folder `$1`, after checking the configuration. The daemon
/// leads a process group, so that its children end with it.
const START: &str = r#"
cd "$1" && mkdir spool log mail && chown Debian-exim: spool log mail && chmod -R a+rX . && {
  "$2" -C "$1/exim.conf" -bV >start.out 2>&1 || { cat start.out; exit 1; }
}
setsid "$2" -C "$1/exim.conf" -bdf >start.out 2>&1 </dev/null &
echo $! >pid"#;

/// The later rounds of `rm` are for processes that were still dying in the first.
const STOP_AT_EOF: &str = r#"
exec >/dev/null 2>&1
cat
kill -9 "-$(cat "$1/pid")"
for round in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 0.2; done"#;

const KIND: Kind = Kind {
    name: "exim",
    stop: STOP_AT_EOF,
    logs: &["start.out", "log/mainlog"],
    taken: " id=",
    mail: "mail/new",
    headers: &["Return-path:", "Envelope-to:", "Received:"],
    recipients: Some("Envelope-to:"),
    greylisted: (450, "4.2.0"),
    lmtp_socket: None,
    pipelining: true,
    chunking: true,
    stores_crlf: false,
};

/// A running Exim. As a [`Server`], it offers all its extensions, and demands nothing.
///
/// With PRDR, `prdr-refused@example.test` is answered 550 5.7.1 after the data. If that is the only recipient, Exim
/// accepts PRDR in MAIL and then ignores it: one reply, and the message accepted. Mail to `bounced@example.test` is
/// accepted and then found to be undeliverable.
#[derive(Debug)]
pub struct Exim {
    server: Server,
}

impl Exim {
    /// Unpacks the package where that was not done yet, then starts an instance and waits until it greets.
    /// An error says what went wrong, with the end of the log.
    pub fn start() -> Result<Self, String> {
        let server = Server::start::<1>(&KIND, |server| {
            let exim = sh(INSTALL, &[PACKAGE])?;
            let exim = exim.trim();
            server.write(
                "server.pem",
                &[(
                    "exim.conf",
                    &EXIM_CONF
                        .replace("@EXIM@", exim)
                        .replace("@UTF8@", UTF8_DOMAIN)
                        .replace("@USER@", USER)
                        .replace("@PASSWORD@", PASSWORD),
                )],
            )?;
            sh(START, &[server.dir()?, exim])?;
            // Its last output goes to standard error, which is empty otherwise.
            server.greets(server.smtp_port(), true, || {
                match fs::read_to_string(server.path("start.out"))?.trim() {
                    "" => Ok(()),
                    words => Err(words.into()),
                }
            })
        })?;
        Ok(Self { server })
    }
}

impl Deref for Exim {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
