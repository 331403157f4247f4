//! The caller's randomness.

use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The client's nonce for SCRAM. The caller draws it, because the engine draws no random numbers.
///
/// It cannot be copied, so that each connection needs its own. An attacker who has seen one exchange could play the
/// server in another exchange with the same nonce.
///
/// ```
/// use smtp_proto::{ClientName, Config, Connection, Instant, auth::Nonce};
///
/// # fn random() -> [u8; 18] { [7; 18] }
/// let config = Config::new(ClientName::parse("client.example.org")?);
/// let nonce = Nonce::from_octets(random()); // from a cryptographic generator
/// let engine = Connection::with_nonce(config, Instant::default(), nonce);
/// # Ok::<(), smtp_proto::envelope::AddressError>(())
/// ```
#[derive(PartialEq, Eq)]
pub struct Nonce([u8; 18]);

impl Nonce {
    /// 18 random octets: 24 letters of base64, which has no comma.
    pub const fn from_octets(octets: [u8; 18]) -> Self {
        Self(octets)
    }

    /// The nonce of one exchange among several on a connection.
    #[cfg_attr(
        not(feature = "scram"),
        expect(dead_code, reason = "only SCRAM has a nonce")
    )]
    pub(super) fn text(&self, exchange: usize) -> String {
        let mut text = STANDARD.encode(self.0);
        if exchange > 0 {
            text += &alloc::format!("{exchange}");
        }
        text
    }
}

impl core::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Nonce(..)")
    }
}
