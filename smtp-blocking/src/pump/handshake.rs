//! The TLS handshake of a session, one step at a time. So one deadline holds for all of it.

use std::io::{self, Write};
use std::time::Instant;

use rustls::ClientConnection;
use smtp_proto::Cause;

use super::{Pump, is_passing};
use crate::stream::Counted;

impl Pump {
    fn fail_handshake(&mut self, cause: Cause) {
        let now = self.now();
        self.driver.handle_tls_failed(now, cause);
    }

    pub(super) fn handshake(&mut self) {
        let Some(settings) = self.driver.tls_settings.take() else {
            return self.fail_handshake(Cause::Settings("there are no TLS settings".into()));
        };
        let mut tls = match ClientConnection::new(settings.config.clone(), settings.name.clone()) {
            Ok(tls) => tls,
            Err(error) => return self.fail_handshake(settings.cause(&error)),
        };
        let mut is_flushed = true;
        loop {
            if !self.arm() {
                return;
            }
            self.stream.socket.in_handshake = true;
            let step = step(&mut tls, &mut self.stream.socket, &mut is_flushed);
            self.stream.socket.in_handshake = false;
            match step {
                Ok(true) => break,
                Ok(false) => {}
                Err(HandshakeError::Tls(error)) => {
                    return self.fail_handshake(settings.cause(&error));
                }
                Err(HandshakeError::Io(error)) if is_passing(error.kind()) => {}
                Err(HandshakeError::Io(error)) => return self.lose(error),
            }
            let now = self.now();
            self.driver.handle_timeout(now);
            if self.driver.engine().is_closed() {
                return;
            }
        }
        // The handshake has read.
        self.heard = Instant::now();
        let (info, facts) = settings.established(&tls);
        self.driver.encrypted(info);
        self.stream.tls = Some(Box::new(tls));
        let now = self.now();
        self.driver.handle_tls_established(now, facts);
    }
}

/// One step of a handshake: one write if octets are due, else a flush, else one read. `Ok(true)` when it is done.
fn step(
    tls: &mut ClientConnection,
    stream: &mut Counted,
    is_flushed: &mut bool,
) -> Result<bool, HandshakeError> {
    if tls.wants_write() {
        *is_flushed = false;
        tls.write_tls(stream)?;
    }
    if !tls.wants_write() && !*is_flushed {
        stream.flush()?;
        *is_flushed = true;
        return Ok(!tls.is_handshaking());
    }
    if tls.wants_write() {
        return Ok(false);
    }
    if !tls.is_handshaking() {
        return Ok(true);
    }
    if tls.read_tls(stream)? == 0 {
        return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    if let Err(error) = tls.process_new_packets() {
        // The alert tells the server why.
        stream.say(tls);
        return Err(HandshakeError::Tls(error));
    }
    Ok(false)
}

enum HandshakeError {
    Io(io::Error),
    Tls(rustls::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
