//! The TLS handshake on a blocking stream, one step at a time. So one deadline holds for all of it.

use std::io::{self, Write};

use rustls::ClientConnection;

use crate::stream::Counted;

/// One step of a handshake: one write if octets are due, else a flush, else one read. `Ok(true)` when it is done.
pub(crate) fn step(
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

pub(crate) enum HandshakeError {
    Io(io::Error),
    Tls(rustls::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
