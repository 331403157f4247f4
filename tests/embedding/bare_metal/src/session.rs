//! One session of an application on the device.

use alloc::boxed::Box;
use core::error::Error;

use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use smtp_proto::{BodyPart, ClientName, Config, Connection, Envelope, Event, TlsPolicy};

use crate::board::{self, Uart, now};

const MESSAGE: &[u8] = b"From: sensor@example.org\r\n\
    To: bob@example.net\r\n\
    Subject: measured\r\n\
    \r\n\
    It is 21.5 degrees.\r\n";

/// The limits for the device's heap. A server that sends more than it should ends the session, but does not exhaust
/// the heap.
fn config() -> Result<Config, Box<dyn Error>> {
    let mut config = Config::new(ClientName::parse("sensor.example.org")?);
    // A device with TLS would answer Event::StartTls by its handshake.
    config.tls = TlsPolicy::Never;
    config.limits.reply.line = 512;
    config.limits.reply.octets = 1024;
    config.limits.in_flight = 512;
    config.limits.messages = 1;
    Ok(config)
}

fn send(mut uart: Uart) -> Result<(), Box<dyn Error>> {
    let mut engine = Connection::new(config()?, now());
    let envelope = Envelope::new("sensor@example.org", ["bob@example.net"])?;
    engine.submit(envelope.size_of(MESSAGE)).map_err(Box::new)?;
    engine.quit()?; // once the message is reported

    let mut body = MESSAGE;
    loop {
        while let Some(event) = engine.poll_event() {
            match event {
                Event::Finished(_, report) => {
                    for (mailbox, result) in &report {
                        match result {
                            Ok(reply) => hprintln!("{} has it: {}", mailbox, reply),
                            Err(error) => hprintln!("{} did not get it: {}", mailbox, error),
                        }
                    }
                }
                Event::Closed(result) => return Ok(result?),
                _ => {}
            }
        }
        while let Some(transmit) = engine.poll_transmit(now(), BodyPart::Last(body)) {
            let mut written = 0;
            for part in transmit.parts() {
                uart.write(part);
                written += part.len();
            }
            body = &body[transmit.advance(written)..];
        }
        if engine.wants_body() && body.is_empty() {
            // An error means that the server has refused the message meanwhile. The report has the reason.
            let _ = engine.finish_body();
        }
        if let Some(octet) = uart.read() {
            engine.handle_input(now(), &[octet]);
        }
        engine.handle_timeout(now());
    }
}

#[entry]
fn main() -> ! {
    let uart = board::start();
    let result = send(uart);
    board::print_figures();
    match result {
        Ok(()) => debug::exit(debug::EXIT_SUCCESS),
        Err(error) => {
            hprintln!("{}", error);
            debug::exit(debug::EXIT_FAILURE);
        }
    }
    // The debugger has ended it.
    loop {}
}
