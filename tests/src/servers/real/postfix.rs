//! A real Postfix, with Dovecot for SASL and as another server for submission, on its own loopback ports.
//!
//! Everything that an instance reads or writes lies in one temporary folder, so the system's own configuration,
//! queue and log stay untouched and several instances run side by side. It needs Debian (or a relative) and root,
//! and no DNS: nothing is looked up, and nothing can be delivered off the machine.
//!
//! Mail to any user of `example.test` is delivered by virtual(8). `refused@example.test` is answered 550 5.1.1,
//! `greylisted@example.test` 450 4.2.0, and any other domain 554 5.7.1, except `lmtp.example.test`, which is
//! handed on to the harness of Dovecot by [`Postfix::hand_on`]. What `bounced@example.test` gets is taken and then
//! found to be undeliverable. Reports of delivery go to the sender: one in `example.test` has a mailbox for them.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::symlink;

use crate::servers::real::dovecot::Dovecot;
use crate::servers::real::{Kind, PASSWORD, Result, Server, USER, UTF8_DOMAIN, install, sh};

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
# The second one is that of the harness beyond ASCII.
virtual_mailbox_domains = example.test, @UTF8@, xn--jxalpdlp.example.test
virtual_mailbox_maps = static:Maildir/
virtual_mailbox_base = @DIR@/mail
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
# Dovecot's socket, and what fails once it is in the queue: at RCPT nobody looks whether there is a mailbox.
smtpd_reject_unlisted_recipient = no
relay_domains = lmtp.example.test
transport_maps = inline:{
    { lmtp.example.test = lmtp:unix:@DIR@/lmtp },
    { bounced@example.test = error:5.2.1 this mailbox is closed } }
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
lmtp_line_length_limit = 0
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
  -o smtpd_data_restrictions=reject_unauth_pipelining -o smtpd_discard_ehlo_keywords=8bitmime,smtputf8
127.0.0.1:@PORT5@ inet n - n - - smtpd -o syslog_name=xclient
  -o smtpd_authorized_xclient_hosts=127.0.0.1 -o smtpd_authorized_xforward_hosts=127.0.0.1
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
flush unix n - n 1000? 0 flush
virtual unix - n n - 8 virtual
lmtp unix - - n - - lmtp
";

/// Dovecot as Postfix's authentication server, and as a server for submission of its own, which is a proxy: it
/// hands on to the port that takes its XCLIENT, and asks it for nothing before somebody has logged in. Failures
/// are neither delayed nor held against the address (mode 0 turns the penalty service off), or each wrong
/// password would cost the next test seconds.
const DOVECOT_CONF: &str = "\
base_dir = @DIR@/dovecot
state_dir = @DIR@/dovecot
log_path = @DIR@/dovecot.log
protocols = submission
hostname = mail.example.test
ssl_cert = <@DIR@/etc/server.pem
ssl_key = <@DIR@/etc/server.pem
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 oauthbearer xoauth2
auth_failure_delay = 0
passdb {
  driver = passwd-file
  mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
  args = @DIR@/users
}
passdb {
  driver = oauth2
  mechanisms = oauthbearer xoauth2
  args = @DIR@/oauth2.conf
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=@DIR@/mail/submission allow_all_users=yes
}
mail_location = maildir:~
submission_relay_host = 127.0.0.1
submission_relay_port = @PORT5@
submission_relay_trusted = yes
submission_backend_capabilities = 8BITMIME DSN
service submission-login {
  inet_listener submission {
    address = 127.0.0.1
    port = @PORT6@
  }
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

/// Tokens are checked with a key from a file, and nobody is asked.
const OAUTH2_CONF: &str = "\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix=@DIR@/keys/
username_attribute = sub
";

/// Makes the key, and a token for the user `$2` that is good until the year 2100 (RFC 7519).
const MAKE_TOKEN: &str = r#"
url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
cd "$1" && mkdir -p keys/default/HS256 && key="$(openssl rand -hex 32)" &&
printf %s "$key" | openssl base64 -A >keys/default/HS256/default &&
token="$(printf '{"typ":"JWT","alg":"HS256"}' | url).$(printf '{"sub":"%s","exp":4102444800}' "$2" | url)" &&
printf '%s.%s' "$token" "$(printf %s "$token" | openssl dgst -sha256 -hmac "$key" -binary | url)" >token"#;

/// Starts the servers on the files in the folder `$1`. `postfix start` makes all the other folders, with the
/// owners it wants. The output goes to a file because the daemons would keep a pipe open. The date because each
/// Postfix program waits for a main.cf that changed in the last second to settle: two seconds in all.
const START: &str = r#"
cd "$1" && mkdir queue mail && chmod -R a+rX . && chown nobody: mail && touch -d yesterday etc/* && {
  /usr/sbin/dovecot -c "$1/dovecot.conf" && /usr/sbin/postfix -c "$1/etc" start
} >start.out 2>&1 || { cat start.out; exit 1; }"#;

/// Dovecot is killed because its own stop takes seconds. The later rounds of `rm` are for daemons that were
/// still dying in the first.
const STOP_AT_EOF: &str = r#"
exec >/dev/null 2>&1
cat
/usr/sbin/postfix -c "$1/etc" stop
kill -9 "-$(cat "$1/dovecot/master.pid")"
for round in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 0.2; done"#;

const KIND: Kind = Kind {
    name: "postfix",
    stop: STOP_AT_EOF,
    logs: &["mail.log", "dovecot.log"],
    taken: ": message-id=<",
    mail: "mail/Maildir/new",
    headers: &[
        "Return-Path:",
        "X-Original-To:",
        "Delivered-To:",
        "Received:",
    ],
    recipients: Some("Delivered-To:"),
    greylisted: (450, "4.2.0"),
    lmtp_socket: None,
    pipelining: true,
    chunking: true,
    stores_crlf: false,
};

/// A running Postfix and Dovecot. As a [`Server`], it is for port 25: PIPELINING, STARTTLS and AUTH offered,
/// neither demanded, AUTH in the clear too.
#[derive(Debug)]
pub struct Postfix {
    /// Its ports are in the order of the services in [`MASTER_CF`].
    server: Server,
    token: String,
}

impl Postfix {
    /// Installs what is missing, then starts an instance and waits until each of its ports greets.
    /// An error says what went wrong, with the end of the log.
    pub fn start() -> Result<Self, String> {
        let server = Server::start::<7>(&KIND, |server| {
            install(&[
                ("/usr/sbin/postfix", "postfix"),
                ("/usr/sbin/dovecot", "dovecot-core"),
                ("/usr/lib/dovecot/submission", "dovecot-submissiond"),
            ])?;
            let users = format!("{USER}:{{PLAIN}}{PASSWORD}::::::\n");
            // Only what Postfix reads as root is in `etc`: it checks the owner of everything there.
            server.write(
                "etc/server.pem",
                &[
                    ("etc/main.cf", &MAIN_CF.replace("@UTF8@", UTF8_DOMAIN)),
                    ("etc/master.cf", MASTER_CF),
                    ("dovecot.conf", DOVECOT_CONF),
                    ("oauth2.conf", OAUTH2_CONF),
                    ("users", &users),
                ],
            )?;
            sh(MAKE_TOKEN, &[server.dir()?, USER])?;
            sh(START, &[server.dir()?])?;
            let wrapped = server.ports[2];
            server
                .ports
                .iter()
                .try_for_each(|&port| server.greets(port, port != wrapped, || Ok(())))
        })?;
        let token = fs::read_to_string(server.path("token")).map_err(|error| error.to_string())?;
        Ok(Self { server, token })
    }

    /// As a server for port 587: STARTTLS demanded, then AUTH before MAIL.
    pub fn submission_port(&self) -> u16 {
        self.server.ports[1]
    }

    /// As a server for port 465: TLS from the first byte, AUTH offered.
    pub fn smtps_port(&self) -> u16 {
        self.server.ports[2]
    }

    /// As [`Server::smtp_port`], but without PIPELINING and CHUNKING.
    pub fn no_pipelining_port(&self) -> u16 {
        self.server.ports[3]
    }

    /// Refuses DATA when bytes follow it before the 354, offers neither 8BITMIME nor SMTPUTF8, and gives up after three errors.
    pub fn strict_port(&self) -> u16 {
        self.server.ports[4]
    }

    /// As [`Server::smtp_port`], and takes XCLIENT and XFORWARD from anybody on this machine. What they said
    /// is in the log: `client=NAME[ADDR]` and `orig_client=NAME[ADDR]`.
    pub fn xclient_port(&self) -> u16 {
        self.server.ports[5]
    }

    /// Dovecot as a server for port 587: STARTTLS, then AUTH before MAIL. What it takes, it hands on to Postfix.
    pub fn dovecot_port(&self) -> u16 {
        self.server.ports[6]
    }

    /// From now on, mail to any user of `lmtp.example.test` is delivered by LMTP there.
    pub fn hand_on(&self, to: &Dovecot) -> Result<()> {
        Ok(symlink(to.socket(), self.server.path("lmtp"))?)
    }

    /// The access token of [`user`](Server::user).
    pub fn oauth_token(&self) -> &str {
        &self.token
    }
}

impl Deref for Postfix {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::KIND;
    use crate::servers::real::Stored;

    #[test]
    fn only_the_lines_of_the_server_are_taken_off() {
        let top = b"Return-Path: <a@b>\nX-Original-To: u@c\nDelivered-To: u@c\nReceived: by\n\tid x; then\n";
        let sent = b"Received: by\n\tus\nDelivered-To: x\n\nReceived: x\n.\nend";
        let expected = b"Received: by\r\n\tus\r\nDelivered-To: x\r\n\r\nReceived: x\r\n.\r\nend";
        let stored = Stored::parse(&KIND, Path::new("x"), &[&top[..], sent].concat());
        assert_eq!(stored.body, expected);
        assert_eq!(
            (&*stored.id, &*stored.recipients),
            ("x", &["u@c".to_string()][..])
        );
        assert_eq!(
            Stored::parse(&KIND, Path::new("x"), b"\nReceived: x\n").body,
            b"\r\nReceived: x\r\n"
        );
    }
}
