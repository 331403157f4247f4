//! A login does not leave its secret in memory. While a session lives, only the credentials hold it. After them, it
//! is gone, also from freed memory.
//!
//! Only on Linux, which shows a process its own memory. The judge searches that memory.
#![cfg(target_os = "linux")]

#[path = "wiped/memory.rs"]
mod memory;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memory::{Needle, Search, secret};
use smtp_blocking::{Server, Session, Transport};
use smtp_proto::auth::Nonce;
use smtp_proto::request::XClient;
use smtp_proto::{
    ClientName, Config, Connection, Credentials, Event, Instant, Request, TlsFacts, TlsPolicy,
};

const NOW: Instant = Instant::from_origin(Duration::ZERO);

/// The steps of a login.
#[derive(Clone, Copy)]
struct Login {
    name: &'static str,
    mechanism: &'static str,
    /// The octets before the secret in a response.
    before: &'static [u8],
    length: usize,
    /// The replies to AUTH and to what follows it.
    replies: &'static [&'static str],
}

const fn login(
    name: &'static str,
    mechanism: &'static str,
    before: &'static [u8],
    length: usize,
    replies: &'static [&'static str],
) -> Login {
    Login {
        name,
        mechanism,
        before,
        length,
        replies,
    }
}

const WELCOME: &str = "235 welcome\r\n";
const MORE: &str = "334 \r\n";
const LOGINS: [Login; 12] = [
    login("PLAIN", "PLAIN", b"\0alice\0", 60, &[WELCOME]),
    login("PLAIN, long", "PLAIN", b"\0alice\0", 300, &[WELCOME]),
    login(
        "PLAIN, in answer to 334",
        "PLAIN",
        b"\0alice\0",
        3_000,
        &[MORE, WELCOME],
    ),
    login("PLAIN, refused", "PLAIN", b"\0alice\0", 60, &["535 no\r\n"]),
    login(
        "CRAM-MD5",
        "CRAM-MD5",
        b"",
        60,
        &["334 PDE4OT4=\r\n", WELCOME],
    ),
    login(
        "CRAM-MD5, refused",
        "CRAM-MD5",
        b"",
        100,
        &["334 PDE4OT4=\r\n", "535 no\r\n"],
    ),
    login(
        "SCRAM, long",
        "SCRAM-SHA-256",
        b"",
        100,
        &[
            "334 cj1Cd2NIQndjSEJ3Y0hCd2NIQndjSEJ3Y0h4eXoscz1BQUFBLGk9NDA5Ng==\r\n",
            "535 no\r\n",
        ],
    ),
    login(
        "SCRAM, refused",
        "SCRAM-SHA-256",
        b"",
        60,
        &["334 ZT1vdGhlci1lcnJvcg==\r\n", "535 no\r\n"],
    ),
    login(
        "LOGIN",
        "LOGIN",
        b"",
        60,
        &["334 VXNlcm5hbWU6\r\n", "334 UGFzc3dvcmQ6\r\n", WELCOME],
    ),
    login(
        "XOAUTH2",
        "XOAUTH2",
        b"user=alice\x01auth=Bearer ",
        200,
        &[WELCOME],
    ),
    login(
        "XOAUTH2, long",
        "XOAUTH2",
        b"user=alice\x01auth=Bearer ",
        2_000,
        &[MORE, WELCOME],
    ),
    login(
        "OAUTHBEARER, refused",
        "OAUTHBEARER",
        b"n,a=alice,\x01auth=Bearer ",
        200,
        &["334 eyJzdGF0dXMiOiI0MDEifQ==\r\n", "535 no\r\n"],
    ),
];

impl Login {
    fn credentials(&self, seed: u64) -> Credentials {
        let secret = secret(seed, self.length);
        let secret = std::str::from_utf8(&secret).unwrap();
        let credentials = match self.before.starts_with(b"\0") || self.before.is_empty() {
            true => Credentials::password("alice", secret),
            false => Credentials::token("alice", secret),
        };
        credentials.mechanisms(&[self.mechanism]).permit_in_clear()
    }

    fn on_the_wire(&self, seed: u64) -> Needle {
        Needle::base64(self.before, seed, self.length)
    }
}

/// One test at a time: a search copies the memory that it reads, and another search would find the copy.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Each session has its own seed, so that no search finds the secret of another one.
fn seed() -> u64 {
    static LAST: AtomicUsize = AtomicUsize::new(1);
    LAST.fetch_add(1, Ordering::Relaxed) as u64
}

/// The time of the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    AtOnce,
    AfterStartTls,
    /// The login happens twice.
    AfterXClient,
    /// The connection is lost after one octet of it was taken.
    Lost,
}

/// Answers a line. It only sees the first octets of the line.
fn answer(line: &[u8], offers_tls: bool, replies: &mut VecDeque<&'static str>) -> &'static str {
    match line {
        [b'E', b'H', ..] if offers_tls => "250-mx\r\n250 STARTTLS\r\n",
        [b'E', b'H', ..] => {
            "250-mx\r\n250-XCLIENT NAME\r\n250 AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER CRAM-MD5 SCRAM-SHA-256\r\n"
        }
        [b'S', b'T', b'A', b'R', ..] => "220 go on\r\n",
        [b'X', b'C', b'L', ..] => "220 again\r\n",
        [b'Q', b'U', b'I', ..] => "221 bye\r\n",
        [b'N', b'O', b'O', ..] => "250 ok\r\n",
        _ => replies.pop_front().expect("a reply that was planned"),
    }
}

fn no_trace(search: &mut Search, needle: &Needle, what: &str) {
    assert_eq!(
        search.count(needle),
        0,
        "{what}: pieces of the secret lie in memory"
    );
}

/// One session of the engine. At most this many octets are taken at a time.
fn engine(login: Login, when: When, most: usize, search: &mut Search) {
    let what = format!("engine, {}, {when:?}, {most} at a time", login.name);
    let seed = seed();
    let (wire, plain) = (login.on_the_wire(seed), Needle::plain(seed, login.length));
    let mut config = Config::new(ClientName::parse("c.example").unwrap());
    config.tls = match when {
        When::AfterStartTls => TlsPolicy::Required,
        _ => TlsPolicy::Never,
    };
    config.credentials = Some(login.credentials(seed));
    let mut replies: VecDeque<_> = login.replies.iter().copied().collect();
    let mut engine = Connection::with_nonce(config, NOW, Nonce::from_octets([7; 18]));
    engine.handle_input(NOW, b"220 mx\r\n");
    let (mut encrypted, mut again, mut logins) = (when != When::AfterStartTls, 0, 0);
    loop {
        let mut begin = [0; 4];
        let mut at = 0;
        while let Some(transmit) = engine.poll_transmit(NOW, b"") {
            let octets = transmit.parts()[0];
            let taken = octets.len().min(most);
            for &octet in &octets[..taken.min(4 - at.min(4))] {
                begin[at] = octet;
                at += 1;
            }
            transmit.advance(taken);
            if when == When::Lost && &begin == b"AUTH" {
                break;
            }
        }
        if when == When::Lost && &begin == b"AUTH" {
            logins += 1;
            engine.handle_eof(NOW);
        } else {
            no_trace(search, &wire, &what);
        }
        logins += usize::from(&begin == b"AUTH" && when != When::Lost);
        if at > 0 && when != When::Lost || logins == 0 {
            let reply = answer(&begin, !encrypted, &mut replies);
            engine.handle_input(NOW, reply.as_bytes());
        }
        while let Some(event) = engine.poll_event() {
            if event == Event::StartTls {
                encrypted = true;
                let mut facts = TlsFacts::default();
                facts.verified = true;
                engine.handle_tls_established_with(NOW, facts).unwrap();
            }
        }
        if engine.is_closed() {
            break;
        }
        if engine.is_idle() {
            if when != When::AfterXClient || again == 1 {
                break;
            }
            again += 1;
            replies = login.replies.iter().copied().collect();
            let name = XClient::Name(Some("mx".into()));
            engine.request(Request::xclient([name]).unwrap()).unwrap();
        }
    }
    let expected =
        1 + usize::from(when == When::AfterXClient && login.replies.last() == Some(&WELCOME));
    assert_eq!(logins, expected, "{what}");
    no_trace(search, &wire, &what);
    assert!(
        search.count(&plain) > 0,
        "{what}: the credentials are there"
    );
    drop(engine);
    no_trace(search, &wire, &what);
    no_trace(search, &plain, &what);
}

/// A stream that is a server, and keeps nothing that it gets.
#[derive(Clone)]
struct Stream(Arc<Mutex<Script>>);

struct Script {
    replies: VecDeque<&'static str>,
    said: VecDeque<u8>,
    logins: usize,
    /// The write of AUTH fails.
    fails: bool,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap().said.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut script = self.0.lock().unwrap();
        if octets.starts_with(b"AUTH") {
            script.logins += 1;
            if script.fails {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        assert!(octets.ends_with(b"\r\n"), "a batch is one write here");
        let reply = answer(octets, false, &mut script.replies);
        script.said.extend(reply.as_bytes());
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Stream {
    fn set_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

/// The same with the blocking adapter, and the buffers that both adapters share.
fn adapter(login: Login, when: When, search: &mut Search) {
    let what = format!("adapter, {}, {when:?}", login.name);
    let seed = seed();
    let (wire, plain) = (login.on_the_wire(seed), Needle::plain(seed, login.length));
    let stream = Stream(Arc::new(Mutex::new(Script {
        replies: login.replies.iter().chain(login.replies).copied().collect(),
        said: b"220 mx\r\n".iter().copied().collect(),
        logins: 0,
        fails: when == When::Lost,
    })));
    let server = Server::new("mx")
        .tls(TlsPolicy::Never)
        .credentials(login.credentials(seed));
    let session = Session::connect_over(&server, stream.clone());
    no_trace(search, &wire, &what);
    let mut logins = 1;
    if let Ok(mut session) = session {
        if when == When::AfterXClient {
            let name = XClient::Name(Some("mx".into()));
            session.request(Request::xclient([name]).unwrap()).unwrap();
            // The answer to the next request comes after the login.
            session.request(Request::noop()).unwrap();
            logins += 1;
            no_trace(search, &wire, &what);
        }
        session.quit();
    }
    assert_eq!(stream.0.lock().unwrap().logins, logins, "{what}");
    no_trace(search, &wire, &what);
    drop(server);
    no_trace(search, &plain, &what);
}

#[test]
fn a_login_leaves_nothing_in_the_engine() {
    let _alone = alone();
    let mut search = Search::new();
    for login in LOGINS {
        for when in [
            When::AtOnce,
            When::AfterStartTls,
            When::AfterXClient,
            When::Lost,
        ] {
            for most in [usize::MAX, 7] {
                engine(login, when, most, &mut search);
            }
        }
    }
}

#[test]
fn a_login_leaves_nothing_in_an_adapter() {
    let _alone = alone();
    let mut search = Search::new();
    for login in LOGINS {
        for when in [When::AtOnce, When::AfterXClient, When::Lost] {
            adapter(login, when, &mut search);
        }
    }
}

/// The search finds freed memory that was not wiped, and does not find wiped memory.
#[test]
fn the_search_is_no_friend() {
    let _alone = alone();
    let mut search = Search::new();
    let (wiped, left) = (seed(), seed());
    drop(secret(wiped, 200));
    assert_eq!(search.count(&Needle::plain(wiped, 200)), 0);
    drop(secret(left, 200).to_vec());
    assert!(search.count(&Needle::plain(left, 200)) > 0);
}
