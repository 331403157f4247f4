//! A real Postfix, with Dovecot for SASL, on loopback ports of its own.
//!
//! Everything that an instance reads or writes lies in one temporary folder, so the system's own configuration,
//! queue and log stay untouched and several instances run side by side. It needs Debian (or a relative) and root,
//! and no DNS: nothing is looked up, and nothing can be delivered off the machine.
//!
//! Mail to any user of `example.test` is delivered by virtual(8). `refused@example.test` is answered 550 5.1.1,
//! `greylisted@example.test` 450 4.2.0, and any other domain 554 5.7.1.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const MAIN_CF: &str = "\
compatibility_level = 3.6
queue_directory = @DIR@/queue
data_directory = @DIR@/data
maillog_file_prefixes = @DIR@
maillog_file = @DIR@/mail.log
myhostname = mail.example.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
# No lookups of any kind, and no way out: there is no smtp(8) client in master.cf, and what an authenticated
# client may send elsewhere is discarded.
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
default_transport = discard:

# Every user of the one domain, into one Maildir. A map that gives each user a folder would need $1,
# which virtual(8) forbids, so the harness tells users apart by the Delivered-To line.
mydestination =
# Its default would need proxymap(8).
local_recipient_maps =
virtual_mailbox_domains = example.test
virtual_mailbox_maps = static:Maildir/
virtual_mailbox_base = @DIR@/mail
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
# Queue file names that sort by time of arrival.
enable_long_queue_ids = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{
    { refused@example.test = 550 5.1.1 no such user here },
    { greylisted@example.test = 450 4.2.0 Greylisted, try again later } }

# Messages are to arrive as they were sent: no header dropped, added or rewritten.
local_header_rewrite_clients =
message_drop_headers =
header_size_limit = 1048576
line_length_limit = 65536
message_size_limit = 67108864
virtual_mailbox_limit = 0
smtpd_recipient_limit = 10000
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 10000
smtpd_junk_command_limit = 10000
smtpd_client_connection_count_limit = 0
in_flow_delay = 0
smtpd_tls_security_level = may
smtpd_tls_chain_files = @DIR@/etc/server.pem
smtpd_tls_auth_only = no
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = @DIR@/auth
";

/// Our smtpd services, and all that smtpd(8) and virtual(8) need, none of it in a chroot. Without
/// `smtpd_delay_reject=no` Postfix would complain about a missing AUTH at RCPT, not at MAIL.
const MASTER_CF: &str = "\
127.0.0.1:@PORT0@ inet n - n - - smtpd -o syslog_name=smtp
127.0.0.1:@PORT1@ inet n - n - - smtpd -o syslog_name=submission
  -o smtpd_tls_security_level=encrypt -o smtpd_delay_reject=no
  -o smtpd_sender_restrictions=permit_sasl_authenticated,reject
127.0.0.1:@PORT2@ inet n - n - - smtpd -o syslog_name=smtps -o smtpd_tls_wrappermode=yes
127.0.0.1:@PORT3@ inet n - n - - smtpd -o syslog_name=no-pipelining
  -o smtpd_discard_ehlo_keywords=pipelining,chunking
127.0.0.1:@PORT4@ inet n - n - - smtpd -o syslog_name=strict -o smtpd_hard_error_limit=3
  -o smtpd_data_restrictions=reject_unauth_pipelining -o smtpd_discard_ehlo_keywords=8bitmime
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - 8 virtual
";

/// Dovecot as nothing but an authentication server. Failures are neither delayed nor held against the address
/// (mode 0 turns the penalty service off), or each wrong password would cost the next test seconds.
const DOVECOT_CONF: &str = "\
base_dir = @DIR@/dovecot
state_dir = @DIR@/dovecot
log_path = @DIR@/dovecot.log
protocols =
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
auth_failure_delay = 0
passdb {
  driver = passwd-file
  args = @DIR@/users
}
service auth {
  unix_listener @DIR@/auth {
    mode = 0666
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
";

/// Installs the package `$1`. `--no-remove` because postfix and exim4 conflict as packages: better an error
/// than a lost mail server. Without a policy-rc.d the package of Dovecot may start its service.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
set -- install -y --no-install-recommends --no-remove -o DPkg::Lock::Timeout=300 "$1"
apt-get "$@" || { apt-get update && apt-get "$@"; }"#;

/// Starts the servers on the files in the folder `$1`. `postfix start` makes all the other folders, with the
/// owners it wants. The output goes to a file because the daemons would keep a pipe open. The date because each
/// Postfix program waits for a main.cf that changed in the last second to settle: two seconds in all.
const START: &str = r#"
cd "$1" && mkdir queue mail && chmod -R a+rX . && chown nobody: mail && touch -d yesterday etc/* && {
  /usr/sbin/dovecot -c "$1/dovecot.conf" && /usr/sbin/postfix -c "$1/etc" start
} >start.out 2>&1 || { cat start.out; exit 1; }"#;

/// Waits for the greeting on port `$2`, goes over to TLS (after STARTTLS where `$3` is `smtp`), and leaves with
/// a 221. openssl is there, because Debian's postfix depends on it, and it checks our certificates too.
const GREETING: &str = r#"
echo QUIT | timeout 10 openssl s_client -quiet -connect "127.0.0.1:$2" ${3:+-starttls "$3"} \
  -CAfile "$1/ca.pem" -verify_return_error -verify_hostname mail.example.test | grep '^221 '"#;

/// Runs beside the servers until its standard input closes, which it does however the test process ends: after
/// `kill -9` too, or with a `Postfix` in a static, which is never dropped. Dovecot is killed because its own
/// stop takes seconds. The later rounds of `rm` are for daemons that were still dying in the first.
const STOP_AT_EOF: &str = r#"
exec >/dev/null 2>&1
cat
/usr/sbin/postfix -c "$1/etc" stop
kill -9 "-$(cat "$1/dovecot/master.pid")"
for round in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 0.2; done"#;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// A running Postfix and Dovecot. Dropping it stops both and removes all their files.
#[derive(Debug)]
pub struct Postfix {
    dir: PathBuf,
    /// In the order of the services in [`MASTER_CF`].
    ports: [u16; 5],
    guard: Child,
}

impl Postfix {
    /// Installs what is missing, then starts an instance and waits until each of its ports greets.
    /// An error says what went wrong, with the end of the log.
    pub fn start() -> Result<Self, String> {
        let launch = || Self::launch().map_err(|error| error.to_string());
        match launch() {
            // Between our finding a port free and Postfix's taking it, another process may have had it.
            Err(error) if error.contains("Address already in use") => launch(),
            result => result,
        }
    }

    fn launch() -> Result<Self> {
        install()?;
        // Not in TMPDIR: Postfix's users must get in, and the name of a Unix socket has at most 107 octets.
        let dir = PathBuf::from(sh("mktemp -d /tmp/postfix-XXXXXX", &[])?.trim());
        let guard = Command::new("sh")
            .args(["-c", STOP_AT_EOF, "guard-postfix"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .process_group(0) // out of reach of the terminal's ^C
            .spawn()?;
        // All are held until all are known, so that no two are the same.
        let held = [(); 5].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let mut ports = [0; 5];
        for (port, listener) in ports.iter_mut().zip(held) {
            *port = listener?.local_addr()?.port();
        }
        let postfix = Self { dir, ports, guard };
        match postfix.start_servers() {
            Ok(()) => Ok(postfix),
            Err(error) => Err(postfix.with_log(&error.to_string()).into()),
        }
    }

    fn start_servers(&self) -> Result<()> {
        let dir = self.dir.to_str().ok_or("the folder's name is not UTF-8")?;
        let mut master_cf = String::from(MASTER_CF);
        for (index, port) in self.ports.iter().enumerate() {
            master_cf = master_cf.replace(&format!("@PORT{index}@"), &port.to_string());
        }
        let users = format!("{}:{{PLAIN}}{}::::::\n", self.user(), self.password());
        let (ca, server) = certificates(self.certificate_name())?;
        // Only what Postfix reads as root is in `etc`: it checks the owner of everything there.
        fs::create_dir(self.path("etc"))?;
        for (name, text) in [
            ("etc/main.cf", MAIN_CF.replace("@DIR@", dir)),
            ("etc/master.cf", master_cf),
            ("etc/server.pem", server),
            ("ca.pem", ca),
            ("dovecot.conf", DOVECOT_CONF.replace("@DIR@", dir)),
            ("users", users),
        ] {
            fs::write(self.path(name), text)?;
        }
        sh(START, &[dir])?;

        let smtps = self.smtps_port();
        let deadline = Instant::now() + Duration::from_secs(30);
        for port in self.ports {
            let starttls = if port == smtps { "" } else { "smtp" };
            while let Err(error) = sh(GREETING, &[dir, &port.to_string(), starttls]) {
                if Instant::now() > deadline {
                    return Err(format!("no greeting on port {port}: {error}").into());
                }
                sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// As a server for port 25: PIPELINING, STARTTLS and AUTH offered, neither demanded, AUTH in the clear too.
    pub fn smtp_port(&self) -> u16 {
        self.ports[0]
    }

    /// As a server for port 587: STARTTLS demanded, then AUTH before MAIL.
    pub fn submission_port(&self) -> u16 {
        self.ports[1]
    }

    /// As a server for port 465: TLS from the first byte, AUTH offered.
    pub fn smtps_port(&self) -> u16 {
        self.ports[2]
    }

    /// As [`Self::smtp_port`], but without PIPELINING and CHUNKING.
    pub fn no_pipelining_port(&self) -> u16 {
        self.ports[3]
    }

    /// Refuses DATA when bytes follow it before the 354, offers no 8BITMIME, and gives up after three errors.
    pub fn strict_port(&self) -> u16 {
        self.ports[4]
    }

    /// The PEM file of the authority that signed the server's certificate.
    pub fn ca_pem_path(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The name in the server's certificate, which also holds for `localhost` and 127.0.0.1.
    pub fn certificate_name(&self) -> &'static str {
        "mail.example.test"
    }

    /// The one user who can authenticate: PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-1, SCRAM-SHA-256.
    pub fn user(&self) -> &'static str {
        "tester"
    }

    /// The password of [`Self::user`]; there is a space in it.
    pub fn password(&self) -> &'static str {
        "s3cret pass"
    }

    /// Waits for `count` messages to `user@example.test` and returns all there are by then, as they were stored,
    /// in the order in which the server took them. An error says how many there were at the end of `timeout`.
    pub fn wait_for_mail(&self, user: &str, count: usize, timeout: Duration) -> Result<Vec<Vec<u8>>, String> {
        let deadline = Instant::now() + timeout;
        let maildir = self.path("mail/Maildir/new");
        let wanted = format!("\ndelivered-to: {user}@example.test\n").to_ascii_lowercase();
        // A file appears in `new` when it is complete, so each needs to be read only once.
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        loop {
            // The folder appears with the first message.
            let files = fs::read_dir(&maildir).into_iter().flatten();
            for path in files.flatten().map(|entry| entry.path()) {
                if !seen.insert(path.clone()) {
                    continue;
                }
                let stored = fs::read(&path).map_err(|error| format!("{path:?}: {error}"))?;
                let trace = String::from_utf8_lossy(split_trace(&stored).0).into_owned();
                if trace.to_ascii_lowercase().contains(&wanted) {
                    // From the queue file's name on, which sorts by time: `... with ESMTP id 4XYZ`.
                    found.push((trace.rsplit(" id ").next().map(String::from), stored));
                }
            }
            if found.len() >= count {
                found.sort();
                return Ok(found.into_iter().map(|(_, stored)| stored).collect());
            }
            if Instant::now() > deadline {
                let error = format!("{} of {count} messages for {user}", found.len());
                return Err(self.with_log(&error));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The whole mail log, then Dovecot's.
    pub fn log(&self) -> String {
        let files = ["mail.log", "dovecot.log"].map(|name| fs::read(self.path(name)));
        String::from_utf8_lossy(&files.map(Result::unwrap_or_default).concat()).into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn with_log(&self, error: &str) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        format!("{error}; the log ends:\n{}", tail.join("\n"))
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("stopping Postfix in {}: {error}", self.dir.display());
        }
    }
}

/// What was sent, recovered from a stored file: without the lines that Postfix put on top, and with CRLF for LF.
///
/// Postfix puts an empty line before a message that does not begin with a header. It stays, because the same
/// file comes of a message that began with it.
pub fn delivered_body(stored: &[u8]) -> Vec<u8> {
    let (_, sent) = split_trace(stored);
    let mut body = Vec::with_capacity(sent.len() + sent.len() / 32);
    for &byte in sent {
        if byte == b'\n' {
            body.push(b'\r');
        }
        body.push(byte);
    }
    body
}

/// Splits what virtual(8) and smtpd(8) put on top from the rest. One header of each name, and in this order:
/// the next Received line, if there is one, came with the message.
fn split_trace(stored: &[u8]) -> (&[u8], &[u8]) {
    let mut names = "Return-Path: X-Original-To: Delivered-To: Received:".split(' ');
    let mut length = 0;
    for line in stored.split_inclusive(|&byte| byte == b'\n') {
        let folded = length > 0 && (line.starts_with(b" ") || line.starts_with(b"\t"));
        if !folded && !names.any(|name| line.starts_with(name.as_bytes())) {
            break;
        }
        length += line.len();
    }
    stored.split_at(length)
}

/// The CA's certificate, and the server's key with its certificate, in PEM.
fn certificates(name: &str) -> Result<(String, String)> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "test CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_pem = ca.self_signed(&ca_key)?.pem();

    let mut server = CertificateParams::new([name, "localhost", "127.0.0.1"].map(String::from))?;
    server.distinguished_name.push(DnType::CommonName, name);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key))?;
    Ok((ca_pem, server_key.serialize_pem() + &server.pem()))
}

fn install() -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    for (program, package) in [("postfix", "postfix"), ("dovecot", "dovecot-core")] {
        if !fs::exists(format!("/usr/sbin/{program}"))? {
            println!("installing {package} with apt-get");
            sh(INSTALL, &[package])?;
        }
    }
    Ok(())
}

/// Runs a script and returns its output, or what both its outputs said when it fails.
fn sh(script: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    let output = command.stdin(Stdio::null()).output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {stdout}{stderr} of {script}", output.status).into())
}

#[cfg(test)]
mod tests {
    use super::delivered_body;

    #[test]
    fn only_the_lines_of_the_server_are_taken_off() {
        let top = b"Return-Path: <a@b>\nX-Original-To: u@c\nDelivered-To: u@c\nReceived: by\n\tid x\n";
        let sent = b"Received: by\n\tus\nDelivered-To: x\n\nReceived: x\n.\nend";
        let expected = b"Received: by\r\n\tus\r\nDelivered-To: x\r\n\r\nReceived: x\r\n.\r\nend";
        assert_eq!(delivered_body(&[&top[..], sent].concat()), expected);
        assert_eq!(delivered_body(b"\nReceived: x\n"), b"\r\nReceived: x\r\n");
    }
}
