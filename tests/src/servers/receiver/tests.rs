//! The server against its own clients.

use super::syntax::{ADDRESS_LIMIT, REPLY_LIMIT};
use super::*;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;

use bytes::Bytes;

use std::os::unix::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(20);

struct Client<S>(BufReader<S>);

impl<S: Read + Write> Client<S> {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn expect(&mut self, start: &str) -> String {
        let (mut reply, mut line) = (String::new(), 0);
        while self.0.read_line(&mut reply).unwrap() > 0 && &reply[line + 3..=line + 3] == "-" {
            line = reply.len();
        }
        assert!(reply.starts_with(start), "{reply:?}, not {start:?}");
        reply
    }

    fn expect_end(&mut self) {
        assert!(self.0.fill_buf().unwrap().is_empty());
    }

    /// Sends the lines of the script marked `> `, and expects replies that begin like the others.
    fn talk(&mut self, script: &str) {
        for line in script.lines().map(str::trim_start) {
            match line.strip_prefix("> ") {
                Some(command) => self.send(&format!("{command}\r\n")),
                None => drop(self.expect(line)),
            }
        }
    }
}

fn start(change: impl FnOnce(&mut Options)) -> (Receiver, Client<TcpStream>) {
    let mut options = Options {
        files: true,
        ..Options::default()
    };
    change(&mut options);
    let receiver = Receiver::start(options).unwrap();
    let client = connect(&receiver);
    (receiver, client)
}

fn connect(receiver: &Receiver) -> Client<TcpStream> {
    let socket = TcpStream::connect(receiver.local_addr()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = Client(BufReader::new(socket));
    client.expect("220 receiver.localhost ESMTP ready\r\n");
    client
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn start_tls(receiver: &Receiver, mut client: Client<TcpStream>) -> Client<Tls> {
    client.talk("> STARTTLS\n220 2.0.0");
    let pem = receiver.certificate_pem().as_bytes();
    let certificate = CertificateDer::from_pem_slice(pem).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "receiver.localhost".try_into().unwrap();
    let tls = ClientConnection::new(config.into(), name).unwrap();
    Client(BufReader::new(Tls::new(tls, client.0.into_inner())))
}

/// Ends the server, which deletes its folder. Returns how many files it held.
fn files_left(receiver: Receiver) -> usize {
    let folder = receiver.folder().unwrap().to_owned();
    // An unfinished message is deleted with its session.
    receiver.cut_connections();
    let files = fs::read_dir(&folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    let count = names.filter(|name| name != "socket").count();
    drop(receiver);
    assert!(!folder.exists());
    count
}

const TO_DATA: &str = "> MAIL FROM:<a@client.example>\n250 2.1.0\n\
    > RCPT TO:<b@receiver.localhost>\n250 2.1.5\n> DATA\n354";

#[test]
fn pipelined_transaction_and_split_dots() {
    let (receiver, mut client) = start(|_| ());
    client.send("ehlo client.example\r\n");
    let offer = "250-receiver.localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n\
        250-SIZE 67108864\r\n250-ENHANCEDSTATUSCODES\r\n250-STARTTLS\r\n250-CHUNKING\r\n\
        250-BINARYMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n";
    assert_eq!(client.expect("250-"), offer);
    client.send(
        "mail from:<\"a>b\"@client.example> size=40 body=8bitmime\r\n\
         RCPT TO:<b@receiver.localhost>\r\nRCPT TO:<Postmaster> notify=NEVER\r\nDATA\r\n",
    );
    client.talk("250 2.1.0\n250 2.1.5\n250 2.1.5\n354");
    for part in ["Subject: x\r", "\n\r\n.", ".dot\r\n..\r\n.", ".", "\r\n.\r"] {
        client.send(part);
        thread::sleep(Duration::from_millis(20));
    }
    client.send("\nRSET\r\nQUIT\r\n");
    client.talk("250 2.0.0 Ok: stored as 0001\n250 2.0.0\n221 2.0.0");
    client.expect_end();
    let message = receiver
        .wait_for_messages(1, Duration::from_secs(5))
        .remove(0);
    let expected = StoredMessage {
        reverse_path: "\"a>b\"@client.example".to_owned(),
        mail_parameters: "size=40 body=8bitmime".to_owned(),
        forward_paths: vec!["b@receiver.localhost".to_owned(), "Postmaster".to_owned()],
        rcpt_parameters: vec![String::new(), "notify=NEVER".to_owned()],
        session: 1,
        path: Some(receiver.folder().unwrap().join("0001.eml")),
        content: Bytes::new(),
        octets: 26,
        tls: false,
        body_parameter: Some("8BITMIME".to_owned()),
        client_name: "client.example".to_owned(),
    };
    assert_eq!(message, expected);
    let stored = message.content();
    assert_eq!(stored, b"Subject: x\r\n\r\n.dot\r\n.\r\n.\r\n");
    assert_eq!(files_left(receiver), 1);
}

#[test]
fn refusals_and_sequence() {
    let (receiver, mut client) = start(|_| ());
    client.talk(
        "> MAIL FROM:<>\n503 5.5.1
        > EHLO [127.0.0.1]\n250-
        > RCPT TO:<b@x>\n503 5.5.1
        > MAIL FROM: <a@x>\n501 5.5.2
        > MAIL FROM:<a b@x>\n501 5.1.7
        > MAIL FROM:<é@x>\n553 5.6.7
        > MAIL FROM:<> FUTURE=1\n555 5.5.4
        > MAIL FROM:<> SIZE=99999999999999999999\n552 5.3.4
        > MAIL FROM:<é@x> SMTPUTF8\n250 2.1.0
        > RCPT TO:<refused.b@x>\n550 5.1.1 <refused.b@x> no such user here
        > RCPT TO:<greylisted@x>\n450 4.2.0 <greylisted@x> greylisted, try again later
        > RCPT TO:<full@x>\n452 4.2.2 <full@x> mailbox full
        > DATA\n554 5.5.1 no valid recipients
        > VRFY b\n252 2.0.0
        > LHLO x\n500 5.5.1
        > HELO x\n250 receiver.localhost
        > DATA\n503 5.5.1",
    );
    client.send(&"x".repeat(40_000));
    client.talk("> \n500 5.5.2 Line too long\n> NOOP\n250 2.0.0");
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn long_addresses() {
    let (receiver, mut client) = start(|_| ());
    let of =
        |start: &str, octets: usize| format!("{start}{}@x", "a".repeat(octets - start.len() - 2));
    let (longest, longer) = (of("", ADDRESS_LIMIT), of("", ADDRESS_LIMIT + 1));
    client.talk(&format!(
        "> EHLO x\n250-\n> MAIL FROM:<{longer}>\n501 5.1.7"
    ));
    client.talk(&format!(
        "> MAIL FROM:<{longest}>\n250 2.1.0\n> RCPT TO:<{longest}>\n250 2.1.5"
    ));
    // A reply quotes as much as a line of 512 octets can hold.
    let fits = of(
        "refused",
        REPLY_LIMIT - "550 5.1.1 <> no such user here\r\n".len(),
    );
    let refused = of("refused", fits.len() + 1);
    client.talk(&format!(
        "> RCPT TO:<{fits}>\n550 5.1.1 <{fits}> no such user here"
    ));
    client.talk(&format!(
        "> RCPT TO:<{refused}>\n550 5.1.1 no such user here"
    ));
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn starttls_forgets_and_encrypts() {
    let (receiver, mut client) = start(|_| ());
    client.talk("> EHLO x\n250-");
    let mut client = start_tls(&receiver, client);
    client.talk("> MAIL FROM:<>\n503 5.5.1\n> EHLO x");
    assert!(!client.expect("250-").contains("STARTTLS"));
    client.talk(TO_DATA);
    client.talk("> .\n250 2.0.0\n> QUIT\n221 2.0.0");
    client.expect_end();
    assert!(receiver.messages()[0].tls);
    assert_eq!(files_left(receiver), 1);
}

#[test]
fn injection_after_starttls_ends_the_session() {
    let (receiver, mut client) = start(|_| ());
    client.talk("> EHLO x\n250-");
    client.send("STARTTLS\r\nMAIL FROM:<a@x>\r\n");
    client.expect("501 5.5.1 ");
    client.expect_end();
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let (receiver, mut client) = start(|options| options.lmtp = true);
    client.talk("> EHLO x\n500 5.5.1\n> LHLO x\n250-");
    client.talk("> MAIL FROM:<>\n250 2.1.0\n> RCPT TO:<a@x>\n250 2.1.5");
    client.talk("> RCPT TO:<refused@x>\n550 5.1.1\n> RCPT TO:<b@x>\n250 2.1.5");
    client.talk("> DATA\n354\n> text\n> .\n250 2.0.0 Ok: stored as 0001");
    client.talk("250 2.0.0 Ok: stored as 0001\n> VRFY x\n252 2.0.0");
    assert_eq!(files_left(receiver), 1);
}

#[test]
fn auth_only_in_tls() {
    let account = Some(("user".to_owned(), "pass".to_owned()));
    let (receiver, mut client) = start(|options| options.auth = account);
    client.send("EHLO x\r\n");
    assert!(!client.expect("250-").contains("AUTH"));
    client.talk("> AUTH PLAIN\n538 5.7.11");
    let mut client = start_tls(&receiver, client);
    client.send("EHLO x\r\n");
    assert!(
        client
            .expect("250-")
            .contains("250-AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS\r\n")
    );
    client.talk(
        "> MAIL FROM:<>\n530 5.7.0
        > AUTH PLAIN AHVzZXIAd3Jvbmc=\n535 5.7.8
        > AUTH PLAIN AHVzZXIAcGFzc\n501 5.5.2
        > AUTH PLAIN\n334\n> *\n501 5.7.0
        > AUTH LOGIN\n334 VXNlcm5hbWU6\n> dXNlcg==\n334 UGFzc3dvcmQ6\n> cGFzcw==\n235 2.7.0
        > AUTH PLAIN AHVzZXIAcGFzcw==\n503 5.5.1
        > MAIL FROM:<>\n250 2.1.0",
    );
    let mut again = connect(&receiver);
    again.talk("> EHLO x\n250-");
    let mut again = start_tls(&receiver, again);
    again.talk("> EHLO x\n250-\n> AUTH PLAIN\n334\n> AHVzZXIAcGFzcw==\n235 2.7.0");
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn oversize_is_refused_after_the_dot() {
    let (receiver, mut client) = start(|options| options.max_size = 10);
    client.talk("> EHLO x\n250-\n> MAIL FROM:<> SIZE=11\n552 5.3.4");
    client.talk(TO_DATA);
    client.talk("> 123456789\n> .\n552 5.3.4");
    client.talk(TO_DATA);
    client.talk("> 12345678\n> .\n250 2.0.0");
    assert_eq!(receiver.messages()[0].octets, 10);
    assert_eq!(files_left(receiver), 1);
}

#[test]
fn bare_line_ends_are_refused() {
    let (receiver, mut client) = start(|_| ());
    client.talk("> EHLO x\n250-");
    for text in ["a\nb", "a\n.\r\nb", "a\r\n.\nb", "a\r.\r\nb", "a\r\n.\rb"] {
        client.talk(TO_DATA);
        client.send(text);
        client.talk("> \n> .\n550 5.6.0");
    }
    client.talk(TO_DATA);
    client.send("half a mess"); // and then nothing more: no file is left
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn chunks_are_put_together() {
    let (receiver, mut client) = start(|_| ());
    client.talk("> EHLO x\n250-\n> MAIL FROM:<> BODY=BINARYMIME\n250\n> RCPT TO:<b@x>\n250");
    client.talk("> DATA\n503 5.5.1");
    client.send("BDAT 6\r\nab\r\n.\rBDAT 4\r\n\ncd\0bdat 0 last\r\n");
    client.talk("250 2.0.0\n250 2.0.0\n250 2.0.0 Ok: stored as 0001\n> MAIL FROM:<>\n250");
    let message = &receiver.messages()[0];
    assert_eq!(message.octets, 10);
    assert_eq!(message.content(), b"ab\r\n.\r\ncd\0");
    assert_eq!(files_left(receiver), 1);
}

#[test]
fn a_refused_chunk_is_read() {
    let (receiver, mut client) = start(|options| options.max_size = 10);
    client.talk("> EHLO x\n250-\n> BDAT\n501\n> BDAT -1\n501\n> BDAT 1 FIRST\n501");
    client.send("BDAT 6 LAST\r\nQUIT\r\n");
    client.talk("503 5.5.1 MAIL first\n> MAIL FROM:<>\n250\n> RCPT TO:<refused@x>\n550");
    client.send("BDAT 6\r\nQUIT\r\n");
    client.talk("554 5.5.1 no valid\n> RCPT TO:<b@x>\n250");
    // Too large, the rest after it, and then only RSET.
    client.send("BDAT 6\r\n1234\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\n");
    client.talk("250 2.0.0 6 octets\n552 5.3.4\n503 5.5.1 RSET\n> MAIL FROM:<>\n503");
    client.talk("> RCPT TO:<c@x>\n503\n> DATA\n503\n> RSET\n250");
    for text in ["a\nb", "a\rb", "a\r"] {
        client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<b@x>\n250");
        client.send(&format!("BDAT {} LAST\r\n{text}", text.len()));
        client.talk("550 5.6.0\n> RSET\n250");
    }
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn lmtp_answers_the_last_chunk_for_each_recipient() {
    let (receiver, mut client) = start(|options| options.lmtp = true);
    client.talk("> LHLO x\n250-\n> MAIL FROM:<> RET=HDRS\n250\n> RCPT TO:<a@x> NOTIFY=DELAY\n250");
    client.talk("> RCPT TO:<filtered@x>\n250\n> RCPT TO:<b@x>\n250");
    client.send("BDAT 3\r\nabcBDAT 2 LAST\r\n\r\n");
    client.talk("250 2.0.0 3\n250 2.0.0 Ok\n550 5.7.1 <filtered@x>\n250 2.0.0 Ok\n> NOOP\n250");
    let message = &receiver.messages()[0];
    assert_eq!(message.forward_paths, ["a@x", "b@x"]);
    assert_eq!(
        (
            &message.mail_parameters[..],
            &message.rcpt_parameters[0][..]
        ),
        ("RET=HDRS", "NOTIFY=DELAY")
    );
    assert_eq!(
        (message.rcpt_parameters.len(), files_left(receiver)),
        (2, 1)
    );
}

#[test]
fn prdr_answers_for_each_recipient_and_for_all() {
    let (receiver, mut client) = start(|options| options.prdr = true);
    client.talk("> EHLO x\n250-\n> MAIL FROM:<> PRDR\n250\n> RCPT TO:<a@x>\n250");
    client.talk("> RCPT TO:<filtered@x>\n250\n> DATA\n354\n> .\n353 ");
    client.talk("250 2.0.0 Ok: stored\n550 5.7.1 <filtered@x>\n250 2.0.0 Ok: stored");
    client.talk(
        "> MAIL FROM:<> PRDR\n250\n> RCPT TO:<filtered@x>\n250\n> BDAT 0 LAST\n353 \n550\n550",
    );
    client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<filtered@x>\n250\n> BDAT 0 LAST\n250 2.0.0 Ok");
    assert_eq!(receiver.messages().len(), 2);
    assert_eq!(files_left(receiver), 2);
}

#[test]
fn parameters_are_strict() {
    let (receiver, mut client) = start(|_| ());
    client.talk("> EHLO x\n250-");
    for (parameters, reply) in [
        ("RET=FULL ENVID=a+20b SIZE=1", "250"),
        ("RET=SOME", "501"),
        ("RET", "555"),
        ("RET=FULL ret=HDRS", "501"),
        ("ENVID=a=b", "501"),
        ("ENVID=+2", "501"),
        ("REQUIRETLS", "555"),
        ("PRDR", "555"),
        ("SMTPUTF8=1", "555"),
    ] {
        client.talk(&format!(
            "> RSET\n250\n> MAIL FROM:<> {parameters}\n{reply}"
        ));
    }
    client.talk("> RSET\n250\n> MAIL FROM:<>\n250");
    for (parameters, reply) in [
        ("NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2Bb@x", "250"),
        ("NOTIFY=NEVER,DELAY", "501"),
        ("NOTIFY=DELAY,DELAY", "501"),
        ("NOTIFY=", "501"),
        ("ORCPT=a@x", "501"),
        ("RRVS=x", "555"),
    ] {
        client.talk(&format!("> RCPT TO:<b@x> {parameters}\n{reply}"));
    }
    assert_eq!(files_left(receiver), 0);
    let (plain, mut client) = start(|options| {
        (options.dsn, options.chunking, options.smtputf8) = (false, false, false);
    });
    client.send("EHLO x\r\n");
    let offer = client.expect("250-");
    assert!(
        offer.ends_with("250 STARTTLS\r\n") && !offer.contains("CHUNKING"),
        "{offer}"
    );
    client.talk("> MAIL FROM:<> RET=FULL\n555\n> MAIL FROM:<> SMTPUTF8\n555");
    client.talk("> MAIL FROM:<> BODY=BINARYMIME\n501\n> BDAT 0 LAST\n500");
    assert_eq!(files_left(plain), 0);
}

#[test]
fn limits_are_stated_and_kept() {
    let limits = Limits {
        rcpt_max: 2,
        mail_max: 1,
    };
    let (receiver, mut client) = start(|options| options.limits = Some(limits));
    client.send("EHLO x\r\n");
    assert!(
        client
            .expect("250-")
            .contains("250-LIMITS RCPTMAX=2 MAILMAX=1\r\n")
    );
    client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<a@x>\n250\n> RCPT TO:<refused@x>\n550");
    client.talk("> RCPT TO:<b@x>\n452 4.5.3\n> RSET\n250\n> MAIL FROM:<>\n452 4.5.3");
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn requiretls_is_offered_inside_tls() {
    let (receiver, mut client) = start(|options| options.require_tls = true);
    client.send("EHLO x\r\n");
    assert!(!client.expect("250-").contains("REQUIRETLS"));
    client.talk("> MAIL FROM:<> REQUIRETLS\n555");
    let mut client = start_tls(&receiver, client);
    client.send("EHLO x\r\n");
    assert!(client.expect("250-").contains("250-REQUIRETLS\r\n"));
    client.talk("> MAIL FROM:<> REQUIRETLS\n250");
    assert_eq!(files_left(receiver), 0);
}

#[test]
fn a_unix_socket_comes_and_goes() {
    let receiver = Receiver::start(Options {
        unix: true,
        files: true,
        ..Options::default()
    });
    let receiver = receiver.unwrap();
    let path = receiver.socket_path().unwrap();
    let mut client = Client(BufReader::new(UnixStream::connect(&path).unwrap()));
    client.talk("220 receiver.localhost\n> EHLO x\n250-");
    client.talk(TO_DATA);
    client.talk("> .\n250 2.0.0\n> QUIT\n221");
    client.expect_end();
    assert_eq!(files_left(receiver), 1);
    assert!(!path.exists());
}

#[test]
fn a_chunk_that_a_test_refuses_is_followed_by_rset() {
    let (receiver, mut client) = start(|_| ());
    receiver.on(Step::Data).once().reply("452 4.3.1 no room");
    client.talk("> EHLO x\n250-\n> MAIL FROM:<>\n250\n> RCPT TO:<b@x>\n250");
    client.send("BDAT 2\r\nabBDAT 2 LAST\r\ncd");
    client.talk("452 4.3.1 no room\n503 5.5.1 RSET\n> RSET\n250");
    // The test's reply replaces an acceptance, but never a refusal.
    receiver.on(Step::Data).reply("250 2.0.0 go on");
    receiver.on(Step::EndOfData).reply("250 2.0.0 is mine");
    client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<b@x>\n250");
    client.send("BDAT 2\r\nabBDAT 2 LAST\r\ncd");
    client.talk("250 2.0.0 go on\n250 2.0.0 is mine");
    client.talk("> MAIL FROM:<>\n250\n> RCPT TO:<b@x>\n250");
    client.send("BDAT 2\r\na\nBDAT 2 LAST\r\ncd");
    client.talk("550 5.6.0\n503 5.5.1 RSET");
    assert_eq!(receiver.stored(0), b"abcd");
    assert_eq!(files_left(receiver), 1);
}

#[test]
fn lmtp_is_refused_for_each_recipient() {
    let (receiver, mut client) = start(|options| options.lmtp = true);
    receiver.on(Step::EndOfData).reply("451 4.3.0 later");
    client.talk("> LHLO x\n250-\n> MAIL FROM:<>\n250\n> RCPT TO:<a@x>\n250");
    client.talk("> RCPT TO:<b@x>\n250\n> DATA\n354\n> .\n451 4.3.0\n451 4.3.0");
    client.talk("> NOOP\n250");
    assert_eq!(files_left(receiver), 0);
}
