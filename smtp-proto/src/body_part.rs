//! A part of a message body, as the caller offers it.

use alloc::vec::Vec;

use bytes::Bytes;

/// Octets of a message body that a caller offers to
/// [`poll_transmit`](crate::Connection::poll_transmit).
///
/// A slice, an array or a vector becomes [`Next`](Self::Next). Use [`Last`](Self::Last) where you can. Under BDAT
/// (RFC 3030) the last chunk then carries octets, and an empty one need not follow.
///
/// ```
/// use smtp_proto::*;
///
/// let now = Instant::default();
/// let mut engine = Connection::new(Config::new(ClientName::parse("client.example.org")?), now);
/// engine.submit(Envelope::new("alice@example.org", ["bob@example.net"])?)?;
/// let mut out = [0; 1024];
/// for reply in [
///     &b"220 mx.example.net\r\n"[..],
///     b"250-mx.example.net\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
///     b"250 ok\r\n250 ok\r\n",
/// ] {
///     let (gathered, _) = engine.poll_transmit_into(now, b"", &mut out);
///     engine.handle_written(now, gathered);
///     engine.handle_input(now, reply);
/// }
/// // CHUNKING is offered, and a recipient is accepted.
/// assert_eq!(engine.poll_event(), Some(Event::Ready));
/// assert!(matches!(engine.poll_event(), Some(Event::BodyWanted(_))));
/// let body = b"Subject: hello\r\n\r\n.\r\n";
/// let (gathered, used) = engine.poll_transmit_into(now, BodyPart::Last(body), &mut out);
/// assert_eq!(&out[..gathered], b"BDAT 21 LAST\r\nSubject: hello\r\n\r\n.\r\n");
/// assert_eq!(used, body.len());
/// engine.finish_body()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPart<'a> {
    /// The next octets of the body. More may follow.
    Next(&'a [u8]),
    /// The rest of the body. Call [`finish_body`](crate::Connection::finish_body) when it is used up.
    ///
    /// The engine announces its size in the last chunk. If the caller later offers other octets, the message fails
    /// with [`BodyError::WrongSize`](crate::body::BodyError::WrongSize), and nothing is delivered.
    Last(&'a [u8]),
}

impl<'a> BodyPart<'a> {
    /// The octets.
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            BodyPart::Next(bytes) | BodyPart::Last(bytes) => bytes,
        }
    }

    /// Whether no octet follows these.
    pub const fn is_last(self) -> bool {
        matches!(self, BodyPart::Last(_))
    }

    /// The first `most` octets.
    pub(crate) fn front(self, most: usize) -> Self {
        match self.bytes().get(..most) {
            Some(front) if front.len() < self.bytes().len() => BodyPart::Next(front),
            _ => self,
        }
    }

    /// What follows the first `used` octets. The part must have that many.
    pub(crate) fn after(self, used: usize) -> Self {
        match self {
            BodyPart::Next(bytes) => BodyPart::Next(&bytes[used..]),
            BodyPart::Last(bytes) => BodyPart::Last(&bytes[used..]),
        }
    }
}

impl<'a> From<&'a [u8]> for BodyPart<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        BodyPart::Next(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for BodyPart<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        BodyPart::Next(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for BodyPart<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        BodyPart::Next(bytes)
    }
}

impl<'a> From<&'a Bytes> for BodyPart<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        BodyPart::Next(bytes)
    }
}
