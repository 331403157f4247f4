//! Credentials are wiped from memory once they are sent. Safe code sees its own memory through a file of Linux. The
//! suite `wiped` of `smtp-tests` does the same for each mechanism and each adapter. This is what a mutation meets.

use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;

use smtp_proto::{Channel, Connection, Credentials};

use super::calls::{GREETING, at, config, events, sent};

const PASSWORD: &str = "read me nowhere 74";

/// The end of the initial response, which holds the password. An allocator overwrites only the front of what is freed.
/// It stands here backwards, so that the search does not find itself.
const ESNOPSER: &[u8] = b"0cDIlJXZod3buBSZtBCZhVmc";

/// A piece of the password, backwards too. Whoever searches a reply for the password makes such pieces of it.
const ECEIP: &[u8] = b" erehwon";

/// Whether the response is anywhere in the memory that this process can write to.
fn is_in_memory() -> bool {
    is_there(ESNOPSER)
}

/// Whether these octets are, read backwards.
fn is_there(sdrawkcab: &[u8]) -> bool {
    const PIECE: usize = 64 * 1_024;
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = read_to_string("/proc/self/maps").unwrap();
    let mut piece = vec![0; PIECE];
    for map in maps.lines().filter(|map| map.contains(" rw-p ")) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [mut from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        while from < to {
            let most = PIECE.min((to - from) as usize);
            // Another thread may free it meanwhile.
            let n = memory.read_at(&mut piece[..most], from).unwrap_or(0);
            if n < sdrawkcab.len() {
                break;
            }
            let mut places = piece[..n].windows(sdrawkcab.len());
            if places.any(|place| place.iter().eq(sdrawkcab.iter().rev())) {
                piece.fill(0);
                return true;
            }
            // The next piece overlaps this one, because the response may be in both.
            from += match most < PIECE {
                true => most,
                false => n - sdrawkcab.len(),
            } as u64;
        }
    }
    false
}

/// A session that has AUTH to send.
fn at_the_login() -> Connection {
    let mut config = config();
    config.channel = Channel::Local;
    config.credentials = Some(Credentials::password("user", PASSWORD));
    let mut engine = Connection::new(config, at(0));
    engine.handle_input(at(0), GREETING.as_bytes());
    sent(&mut engine, at(0), b"".into());
    engine.handle_input(at(0), b"250-mx\r\n250 AUTH PLAIN\r\n");
    engine
}

/// One test, because another one at the same time would have the response in memory.
#[test]
fn credentials_are_wiped_once_they_are_sent() {
    let ends: [fn(Connection) -> Option<Connection>; 3] = [
        |mut engine| {
            let transmit = engine.poll_transmit(at(0), b"").unwrap();
            assert!(transmit.parts()[0].starts_with(b"AUTH PLAIN "));
            transmit.advance(usize::MAX);
            Some(engine)
        },
        |mut engine| {
            engine.handle_eof(at(0));
            events(&mut engine);
            Some(engine)
        },
        |_| None,
    ];
    for end in ends {
        let engine = at_the_login();
        assert!(is_in_memory());
        let engine = end(engine);
        assert!(!is_in_memory());
        drop(engine);
    }

    // A refusal is searched for the password.
    let mut engine = at_the_login();
    sent(&mut engine, at(0), b"".into());
    engine.handle_input(at(0), b"535 no\r\n");
    assert!(engine.is_closed() || engine.poll_transmit(at(0), b"").is_some());
    drop(engine);
    assert!(!is_there(ECEIP));
}
