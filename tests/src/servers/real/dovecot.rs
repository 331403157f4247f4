//! A real Dovecot that takes mail by LMTP, on its own loopback port and on a Unix socket.
//!
//! All files of an instance are in one temporary folder. So the system's own configuration, mail and log stay
//! untouched, and several instances run side by side. It needs Debian (or a relative) and root, but not DNS.
//!
//! Each user of any domain has a Maildir. The user `refused` is answered 550 5.1.1, `greylisted` 451 4.3.0, and
//! `full`, who is over quota, 552 5.2.2 after the data.

use std::ops::Deref;
use std::path::PathBuf;

use crate::servers::real::{Kind, Result, Server, install, sh};

/// One folder for each user, because a message does not name its recipient. With several recipients, Delivered-To is
/// missing, Received has no name, and all have the same file. Without the quota plugin, nobody is ever refused after
/// the data.
const DOVECOT_CONF: &str = "\
base_dir = @DIR@/dovecot
state_dir = @DIR@/dovecot
log_path = @DIR@/dovecot.log
protocols = lmtp
hostname = mail.example.test
postmaster_address = postmaster@example.test
ssl_cert = <@DIR@/server.pem
ssl_key = <@DIR@/server.pem
# Without one its auth process does not start. Nobody logs in by LMTP.
passdb {
  driver = static
  args = nopassword
}
userdb {
  driver = passwd-file
  args = username_format=%Ln @DIR@/refused
  result_success = return-fail
}
userdb {
  driver = passwd-file
  args = username_format=%Ln @DIR@/exceptions
  default_fields = uid=nobody gid=nogroup home=@DIR@/mail
}
userdb {
  driver = static
  args = uid=nobody gid=nogroup home=@DIR@/mail allow_all_users=yes
}
mail_location = maildir:@DIR@/mail/%u:INDEX=MEMORY
mail_fsync = never
mail_plugins = quota
plugin {
  quota = maildir
}
lmtp_hdr_delivery_address = none
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = @PORT0@
  }
  unix_listener @DIR@/lmtp {
    mode = 0666
  }
}
";

const REFUSED: &str = "refused:::::::\n";

const EXCEPTIONS: &str = "\
greylisted:::::::userdb_tempfail=yes
full:::::::userdb_quota_rule=*:bytes=1
";

/// Starts the server on the files in the folder `$1`. The output goes to a file because the server would keep a
/// pipe open.
const START: &str = r#"
cd "$1" && mkdir mail && chmod -R a+rX . && chown nobody: mail && {
  /usr/sbin/dovecot -c "$1/dovecot.conf" >start.out 2>&1 || { cat start.out; exit 1; }
}"#;

/// Killed, because its own stop takes seconds. The later rounds of `rm` are for processes that were still dying in
/// the first.
const STOP_AT_EOF: &str = r#"
exec >/dev/null 2>&1
cat
kill -9 "-$(cat "$1/dovecot/master.pid")"
for round in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 0.2; done"#;

const KIND: Kind = Kind {
    name: "dovecot",
    stop: STOP_AT_EOF,
    logs: &["dovecot.log"],
    taken: ": msgid=<",
    mail: "mail",
    headers: &["Return-Path:", "Received:"],
    recipients: None,
    greylisted: (451, "4.3.0"),
    lmtp_socket: Some("lmtp"),
    pipelining: true,
    chunking: true,
    stores_crlf: false,
};

/// A running Dovecot. As a [`Server`], it offers all its extensions by LMTP, and demands nothing.
#[derive(Debug)]
pub struct Dovecot {
    server: Server,
}

impl Dovecot {
    /// Installs what is missing, then starts an instance and waits until it greets. An error says what went
    /// wrong, with the end of the log.
    pub fn start() -> Result<Self, String> {
        let server = Server::start::<1>(&KIND, |server| {
            install(&[
                ("/usr/sbin/dovecot", "dovecot-core"),
                ("/usr/lib/dovecot/lmtp", "dovecot-lmtpd"),
            ])?;
            let files = [
                ("dovecot.conf", DOVECOT_CONF),
                ("refused", REFUSED),
                ("exceptions", EXCEPTIONS),
            ];
            server.write("server.pem", &files)?;
            sh(START, &[server.dir()?])?;
            server.greets(server.smtp_port(), true, || Ok(()))
        })?;
        Ok(Self { server })
    }

    /// Takes the same mail as the port.
    pub fn socket(&self) -> PathBuf {
        self.server.lmtp_socket()
    }
}

impl Deref for Dovecot {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
