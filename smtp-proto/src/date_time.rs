//! Date-times (RFC 3339).

/// Seconds of a date-time (RFC 3339 section 5.6) since the year 0, in UTC, without fractions. `None` if the text is
/// not a date-time.
pub(crate) fn seconds_of(text: &str) -> Option<i64> {
    let text = text.as_bytes();
    let number = |at: usize, digits: usize| {
        let digits = text.get(at..at + digits)?;
        digits.iter().try_fold(0i64, |n, b| {
            b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0'))
        })
    };
    let sign = |at: usize, signs: &[u8]| {
        text.get(at)
            .is_some_and(|b| signs.contains(b))
            .then_some(())
    };
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    for (at, signs) in [(4, "-"), (7, "-"), (10, "Tt"), (13, ":"), (16, ":")] {
        sign(at, signs.as_bytes())?;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let length = *lengths.get(usize::try_from(month - 1).ok()?)?;
    // A leap second is a second (RFC 3339 section 5.7).
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    if sign(at, b".").is_some() {
        let digits = text[at + 1..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        at += 1 + digits;
        (digits > 0).then_some(())?;
    }
    let offset = match text.get(at)? {
        b'Z' | b'z' if text.len() == at + 1 => 0,
        east_or_west @ (b'+' | b'-') if text.len() == at + 6 => {
            sign(at + 3, b":")?;
            let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
            (hours <= 23 && minutes <= 59).then_some(())?;
            (hours * 60 + minutes) * if *east_or_west == b'+' { 60 } else { -60 }
        }
        _ => return None,
    };
    // In the years before this one, including the year 0.
    let leap_days = (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let months: i64 = lengths.iter().take(usize::try_from(month - 1).ok()?).sum();
    let days = year * 365 + leap_days + months + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times() {
        let epoch = seconds_of("1970-01-01T00:00:00Z").unwrap();
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2000-03-01T00:00:00.999z", 951_868_800),
            ("2038-01-19t03:14:08+00:00", 1 << 31),
            ("1985-04-12T23:20:50.52Z", 482_196_050),
            ("1996-12-19T16:39:57-08:00", 851_042_397),
            ("1990-12-31T15:59:60-08:00", 662_688_000),
        ] {
            assert_eq!(
                seconds_of(text).map(|seconds| seconds - epoch),
                Some(unix),
                "{text}"
            );
        }
        assert_eq!(seconds_of("0000-01-01T00:00:00Z"), Some(0));
        for bad in [
            "",
            "2027-01-02",
            "2027-01-02T03:04:05",
            "2027-01-02 03:04:05Z",
            "2027-00-02T03:04:05Z",
            "2027-13-02T03:04:05Z",
            "2027-01-00T03:04:05Z",
            "2027-01-32T03:04:05Z",
            "2027-02-29T03:04:05Z",
            "2100-02-29T03:04:05Z",
            "2027-01-02T24:04:05Z",
            "2027-01-02T03:60:05Z",
            "2027-01-02T03:04:61Z",
            "2027-01-02T03:04:05.Z",
            "2027-01-02T03:04:05.5",
            "2027-01-02T03:04:05Zx",
            "2027-01-02T03:04:05+0200",
            "2027-01-02T03:04:05+24:00",
            "2027-01-02T03:04:05+02:60",
            "2027-01-02T03:04:05+02:0",
            "-027-01-02T03:04:05Z",
            "2027-01-02T03:04:0\u{661}Z",
        ] {
            assert_eq!(seconds_of(bad), None, "{bad}");
        }
    }
}
