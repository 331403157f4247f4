//! The addresses of one host, for both adapters: their order, the time for each, and the error if all fail. Nothing
//! here does I/O.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::error::Error;

/// The least time for one address, if that much is left. One lost SYN is sent again after a second.
const LEAST_SHARE: Duration = Duration::from_secs(2);

/// The addresses that could not be connected to, in the order of the attempts. An address without an error was not
/// tried, because the time to connect was over.
pub type Failures = Vec<(SocketAddr, Option<io::Error>)>;

/// Alternates the address families, beginning with that of the first address (RFC 8305 section 4). Within a family,
/// the resolver's order stays. So a family that leads nowhere hardly delays the other.
pub fn interleave(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses = addresses.peekable();
    let is_v4 = addresses.peek().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.partition(|address| address.is_ipv4() == is_v4);
    let mut mixed = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    while first.len() + second.len() > 0 {
        mixed.extend(first.next());
        mixed.extend(second.next());
    }
    mixed
}

/// How long the next address may take, if `count` addresses share the time that is left. Addresses that fail at once
/// leave their time to the others. `None` if less than a millisecond is left: the system waits in milliseconds.
pub fn share(left: Duration, count: usize) -> Option<Duration> {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    (left >= Duration::from_millis(1)).then(|| (left / count).max(LEAST_SHARE).min(left))
}

/// The addresses to try after a session at this one has failed. Those before it come last: they may have been slow,
/// and not dead.
pub fn others(addresses: &[SocketAddr], failed: SocketAddr) -> Vec<SocketAddr> {
    let position = addresses.iter().position(|&address| address == failed);
    let (before, after) = addresses.split_at(position.unwrap_or(addresses.len()));
    let rest = after.iter().chain(before);
    rest.filter(|&&address| address != failed)
        .copied()
        .collect()
}

/// The error if no address of the host could be connected to.
pub fn unreachable(host: &str, failures: Failures) -> Error {
    let line = |(address, error): &(SocketAddr, Option<io::Error>)| match error {
        Some(error) => format!("{address}: {error}"),
        None => format!("{address}: not tried"),
    };
    let why = match &failures[..] {
        [] => format!("{host}: it has no address of the same family as the local address"),
        // The host is given as an address, so name it once.
        [one] if one.0.ip().to_string() == host => line(one),
        failures => {
            let lines: Vec<_> = failures.iter().map(line).collect();
            format!("{host}: {}", lines.join("; "))
        }
    };
    let last = failures.into_iter().rev().find_map(|(_, error)| error);
    Error::connect(format!("no connection to {why}"), last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use io::ErrorKind::{ConnectionRefused, TimedOut};

    /// Addresses by their last number: up to 9 they are IPv4, above IPv6.
    fn addresses(numbers: &[u16]) -> Vec<SocketAddr> {
        let address = |&n| match n {
            0..10 => SocketAddr::from(([192, 0, 2, n as u8], 25)),
            n => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 25)),
        };
        numbers.iter().map(address).collect()
    }

    #[test]
    fn families_take_turns() {
        for (resolved, order) in [
            (&[][..], &[][..]),
            (&[1], &[1]),
            (&[3, 1, 2], &[3, 1, 2]),
            (&[12, 11, 1, 2], &[12, 1, 11, 2]),
            (&[2, 1, 11, 12], &[2, 11, 1, 12]),
            (&[11, 12, 13, 14, 1], &[11, 1, 12, 13, 14]),
            (&[1, 11, 12, 13], &[1, 11, 12, 13]),
            (&[11, 1, 12, 2], &[11, 1, 12, 2]),
        ] {
            assert_eq!(
                interleave(addresses(resolved).into_iter()),
                addresses(order),
                "{resolved:?}"
            );
        }
    }

    #[test]
    fn the_other_addresses_are_left() {
        for (all, failed, left) in [
            (&[1, 2, 3][..], 1, &[2, 3][..]),
            (&[1, 2, 3], 2, &[3, 1]),
            (&[1, 2, 3], 3, &[1, 2]),
            (&[1, 2, 1, 3], 1, &[2, 3]),
            (&[1], 1, &[]),
        ] {
            let failed = addresses(&[failed])[0];
            assert_eq!(others(&addresses(all), failed), addresses(left), "{all:?}");
        }
    }

    #[test]
    fn the_time_that_is_left_is_shared() {
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        for over in [Duration::ZERO, Duration::from_micros(999)] {
            assert_eq!(share(over, 2), None);
        }
        for (left, count, expected) in [
            (seconds(30), 1, seconds(30)),
            (seconds(30), 3, seconds(10)),
            (seconds(30), 15, seconds(2)),
            (seconds(30), 40, seconds(2)),
            (seconds(3), 2, seconds(2)),
            (seconds(1), 2, seconds(1)),
            (millis(1), 2, millis(1)),
            (seconds(30), 0, seconds(30)),
            (Duration::MAX, 1, Duration::MAX),
            (millis(4_500), 2, millis(2_250)),
        ] {
            assert_eq!(share(left, count), Some(expected), "{left:?} for {count}");
        }
    }

    #[test]
    fn each_address_stands_in_the_error() {
        let errors =
            [Some(ConnectionRefused), Some(TimedOut), None].map(|kind| kind.map(io::Error::from));
        let failures = addresses(&[11, 1, 12]).into_iter().zip(errors).collect();
        let error = unreachable("mx.example.net", failures);
        let expected = "no connection to mx.example.net: [2001:db8::b]:25: connection refused; \
                        192.0.2.1:25: timed out; [2001:db8::c]:25: not tried";
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.io_error().map(io::Error::kind), Some(TimedOut));

        let refused = vec![(addresses(&[1])[0], Some(ConnectionRefused.into()))];
        let error = unreachable("192.0.2.1", refused).to_string();
        let expected = "no connection to 192.0.2.1:25: connection refused";
        assert!(error.contains(expected), "{error}");

        let error = unreachable("mx.example.net", Vec::new());
        assert!(
            error
                .to_string()
                .contains("no address of the same family as the local address"),
            "{error}"
        );
    }
}
