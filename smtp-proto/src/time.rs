//! Time in the engine: a number that the caller gives.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// A point on the caller's monotonic clock: the time since an origin of the caller's choice.
///
/// The engine reads no clock, so that it runs without `std` and in virtual time. All instants given to one
/// [`Connection`](crate::Connection) must count from the same origin, and must not go backwards. If they do, a
/// deadline comes late, and nothing else happens.
///
/// ```
/// use core::time::Duration;
/// use smtp_proto::Instant;
///
/// let now = Instant::from_origin(Duration::from_millis(1_500));
/// assert_eq!(now + Duration::from_millis(500), Instant::from_origin(Duration::from_secs(2)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The instant that lies `elapsed` after the caller's origin.
    pub const fn from_origin(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// The time between the caller's origin and this instant.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The time from `earlier` to this instant. Zero if `earlier` is later than this.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// A sum that would overflow is the end of time: a deadline that never comes.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

/// A duration in seconds, as a decimal number. It is printed without floating point, which would cost a small device
/// 13 KB of flash.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs())?;
        let (mut fraction, mut digits) = (self.0.subsec_nanos(), 9);
        if fraction == 0 {
            return Ok(());
        }
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            digits -= 1;
        }
        write!(f, ".{fraction:0digits$}")
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn seconds_are_decimal_numbers() {
        for (duration, text) in [
            (Duration::ZERO, "0"),
            (Duration::from_secs(300), "300"),
            (Duration::from_millis(300), "0.3"),
            (Duration::from_millis(1_050), "1.05"),
            (Duration::from_nanos(1), "0.000000001"),
            (Duration::MAX, "18446744073709551615.999999999"),
        ] {
            assert_eq!(Seconds(duration).to_string(), text);
        }
    }
}
