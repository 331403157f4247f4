//! Text with the escapes of a transcript.

use std::fmt::Write;

/// A line, in which a space at its end would get lost.
pub(super) fn line(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len());
    escape(octets, |_| false, &mut out);
    let bare = out.trim_end_matches(' ').len();
    let spaces = out.len() - bare;
    out.truncate(bare);
    (0..spaces).for_each(|_| out.push_str("\\s"));
    out
}

/// Words up to the end of a line.
pub(super) fn words(words: &str) -> String {
    line(words.as_bytes())
}

/// A value among others, which ends at a space.
pub(super) fn value(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len());
    escape(
        octets,
        |octet| matches!(octet, b' ' | b',' | b';'),
        &mut out,
    );
    out
}

/// Escapes each octet that is not printable ASCII, and those with a meaning here.
pub(super) fn escape(octets: &[u8], is_special: impl Fn(u8) -> bool, out: &mut String) {
    for &octet in octets {
        match octet {
            b'\\' => out.push_str("\\\\"),
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            0 => out.push_str("\\0"),
            b' '..=b'~' if !is_special(octet) => out.push(char::from(octet)),
            _ => {
                let _ = write!(out, "\\x{octet:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_get_lost_is_escaped() {
        assert_eq!(
            line(b"a \\ \xe9\t\r\n\0  "),
            "a \\\\ \\xe9\\x09\\r\\n\\0\\s\\s"
        );
        assert_eq!(value(b"<\"a b\"@c;d,e>"), "<\"a\\x20b\"@c\\x3bd\\x2ce>");
    }
}
