//! The engine as a module for any host of WebAssembly. It imports nothing: the host owns the socket and the clock.
//!
//! Octets go both ways through one buffer. Times are milliseconds since an origin of the host's choice. `drive.mjs` is
//! a host over a socket of node.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smtp_proto::{BodyPart, ClientName, Config, Connection, Envelope, Event, Instant, TlsPolicy};

/// The size of the buffer.
const SIZE: usize = 64 * 1024;

static SESSION: Mutex<Option<Session>> = Mutex::new(None);
static BUFFER: Mutex<[u8; SIZE]> = Mutex::new([0; SIZE]);

struct Session {
    engine: Connection,
    /// The message, and how much of it is used.
    message: Vec<u8>,
    used: usize,
    report: String,
}

/// There is one thread, so that nobody else has it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<T>(otherwise: T, act: impl FnOnce(&mut Session, &mut [u8]) -> T) -> T {
    let (mut session, mut buffer) = (lock(&SESSION), lock(&BUFFER));
    session
        .as_mut()
        .map_or(otherwise, |session| act(session, &mut *buffer))
}

fn at(milliseconds: f64) -> Instant {
    // A cast of a float saturates, and makes zero of what is no number.
    Instant::from_origin(Duration::from_millis(milliseconds as u64))
}

/// Where the buffer is, in the memory of the module. It does not move.
#[unsafe(no_mangle)]
pub extern "C" fn buffer() -> *mut u8 {
    lock(&BUFFER).as_mut_ptr()
}

/// How large the buffer is.
#[unsafe(no_mangle)]
pub extern "C" fn size() -> usize {
    SIZE
}

/// Begins a session on a socket that is connected now. In the buffer are the name of this host, the sender, the
/// recipient and the message, one after the other, with these lengths. Whether they can be used: else the report says
/// why not.
#[unsafe(no_mangle)]
pub extern "C" fn begin(
    now: f64,
    name: usize,
    sender: usize,
    recipient: usize,
    message: usize,
) -> bool {
    let octets = lock(&BUFFER).to_vec();
    let mut rest = &octets[..];
    let mut take = |n: usize| {
        let (front, back) = rest.split_at(n.min(rest.len()));
        rest = back;
        front.to_vec()
    };
    let texts = [name, sender, recipient].map(|n| String::from_utf8_lossy(&take(n)).into_owned());
    let message = take(message);
    let [name, sender, recipient] = &texts;
    let engine = || -> Result<Connection, Box<dyn std::error::Error>> {
        let mut config = Config::new(ClientName::parse(name)?);
        // A host with TLS would answer Event::StartTls by its handshake.
        config.tls = TlsPolicy::Never;
        let mut engine = Connection::new(config, at(now));
        engine.submit(Envelope::new(&**sender, [&**recipient])?.size_of(&message))?;
        engine.quit()?; // once the message is reported
        Ok(engine)
    };
    match engine() {
        Ok(engine) => {
            let (used, report) = (0, String::new());
            *lock(&SESSION) = Some(Session {
                engine,
                message,
                used,
                report,
            });
            true
        }
        Err(error) => {
            show(&mut lock(&BUFFER)[..], &error.to_string());
            false
        }
    }
}

/// Puts a text into the buffer, with a zero at its end.
fn show(buffer: &mut [u8], text: &str) {
    let length = text.len().min(SIZE - 1);
    buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
    buffer[length] = 0;
}

/// So many octets have come, and are in the buffer. None is the end of the input.
#[unsafe(no_mangle)]
pub extern "C" fn received(now: f64, length: usize) {
    with((), |session, buffer| match length {
        0 => session.engine.handle_eof(at(now)),
        _ => session
            .engine
            .handle_input(at(now), &buffer[..length.min(SIZE)]),
    });
}

/// Puts what is to be written into the buffer, and returns how many octets that is. Write them, say
/// [`written`], and ask again until there are none.
#[unsafe(no_mangle)]
pub extern "C" fn transmit(now: f64) -> usize {
    with(0, |session, buffer| {
        session.take_events();
        let part = BodyPart::Last(&session.message[session.used..]);
        let (gathered, used) = session.engine.poll_transmit_into(at(now), part, buffer);
        session.used += used;
        if session.engine.wants_body() && session.used == session.message.len() {
            // An error says that the server has refused the message meanwhile. The report tells.
            let _ = session.engine.finish_body();
        }
        gathered
    })
}

/// The socket has taken so many octets.
#[unsafe(no_mangle)]
pub extern "C" fn written(now: f64, length: usize) {
    with((), |session, _| {
        session.engine.handle_written(at(now), length)
    });
}

/// When to call [`timed_out`], if nothing happens before; negative for never.
#[unsafe(no_mangle)]
pub extern "C" fn deadline() -> f64 {
    with(-1.0, |session, _| {
        let at = session.engine.poll_timeout();
        at.map_or(-1.0, |at| at.since_origin().as_millis() as f64)
    })
}

/// Looks whether a deadline has passed. Too early is no harm.
#[unsafe(no_mangle)]
pub extern "C" fn timed_out(now: f64) {
    with((), |session, _| session.engine.handle_timeout(at(now)));
}

/// Whether the session is over. Then the report is in the buffer, with a zero at its end.
#[unsafe(no_mangle)]
pub extern "C" fn is_over() -> bool {
    with(true, |session, buffer| {
        session.take_events();
        show(buffer, &session.report);
        session.engine.is_closed()
    })
}

impl Session {
    fn take_events(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            let Event::Finished(_, report) = event else {
                continue;
            };
            for (mailbox, result) in &report {
                self.report += &match result {
                    Ok(reply) => format!("{mailbox} has it: {reply}"),
                    Err(error) => format!("{mailbox} has it not: {error}"),
                };
            }
        }
    }
}
