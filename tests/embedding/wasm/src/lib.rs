//! The engine as a module for any WebAssembly host. It has no imports: the host owns the socket and the clock.
//!
//! Octets go both ways through one buffer. Times are milliseconds since an origin that the host chooses. `drive.mjs`
//! is a host with a socket of node.

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

/// The module has one thread, so the lock is always free.
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
    // A cast of a float saturates, and turns NaN into zero.
    Instant::from_origin(Duration::from_millis(milliseconds as u64))
}

/// The address of the buffer in the memory of the module. It does not move.
#[unsafe(no_mangle)]
pub extern "C" fn buffer() -> *mut u8 {
    lock(&BUFFER).as_mut_ptr()
}

/// The size of the buffer.
#[unsafe(no_mangle)]
pub extern "C" fn size() -> usize {
    SIZE
}

/// Begins a session on a socket that is connected now. The buffer holds the name of this host, the sender, the
/// recipient and the message, one after the other, with these lengths. Returns whether they are valid. If not, the
/// report has the reason.
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

/// Writes a text into the buffer, with a zero at its end.
fn show(buffer: &mut [u8], text: &str) {
    let length = text.len().min(SIZE - 1);
    buffer[..length].copy_from_slice(&text.as_bytes()[..length]);
    buffer[length] = 0;
}

/// Takes this many octets of input from the buffer. Zero is the end of the input.
#[unsafe(no_mangle)]
pub extern "C" fn received(now: f64, length: usize) {
    with((), |session, buffer| match length {
        0 => session.engine.handle_eof(at(now)),
        _ => session
            .engine
            .handle_input(at(now), &buffer[..length.min(SIZE)]),
    });
}

/// Writes octets for the socket into the buffer, and returns their number. Send them, call [`written`], and repeat
/// until it is zero.
#[unsafe(no_mangle)]
pub extern "C" fn transmit(now: f64) -> usize {
    with(0, |session, buffer| {
        session.take_events();
        let part = BodyPart::Last(&session.message[session.used..]);
        let (gathered, used) = session.engine.poll_transmit_into(at(now), part, buffer);
        session.used += used;
        if session.engine.wants_body() && session.used == session.message.len() {
            // An error means that the server has refused the message meanwhile. The report has the reason.
            let _ = session.engine.finish_body();
        }
        gathered
    })
}

/// Reports that the socket has taken this many octets.
#[unsafe(no_mangle)]
pub extern "C" fn written(now: f64, length: usize) {
    with((), |session, _| {
        session.engine.handle_written(at(now), length)
    });
}

/// When to call [`timed_out`], if nothing happens before. Negative for never.
#[unsafe(no_mangle)]
pub extern "C" fn deadline() -> f64 {
    with(-1.0, |session, _| {
        let at = session.engine.poll_timeout();
        at.map_or(-1.0, |at| at.since_origin().as_millis() as f64)
    })
}

/// Checks whether a deadline has passed. Calling it too early does no harm.
#[unsafe(no_mangle)]
pub extern "C" fn timed_out(now: f64) {
    with((), |session, _| session.engine.handle_timeout(at(now)));
}

/// Whether the session is over. The buffer then holds the report, with a zero at its end.
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
                    Err(error) => format!("{mailbox} did not get it: {error}"),
                };
            }
        }
    }
}
