//! Text made printable, and the text of parameters: keywords and xtext.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::fmt::{self, Write};

/// Octets from a server, made safe for an error line, a log or a terminal. Valid UTF-8 stays. Control characters,
/// invalid octets, and characters that reorder or hide text become escapes.
///
/// ```
/// use smtp_proto::reply::Printable;
///
/// assert_eq!(Printable(b"caf\xc3\xa9 \x1b[31m\xff").to_string(), "café \\x1b[31m\\xff");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // rule: replies.text-is-octets
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\0'..='\x1f' | '\x7f' => write!(f, "\\x{:02x}", u32::from(c))?,
                    // C1 controls, bidirectional overrides, invisible and line-separating characters.
                    '\u{80}'..='\u{9f}'
                    | '\u{ad}'
                    | '\u{61c}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{feff}' => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Text made safe for an error message.
pub(crate) fn printable(text: &str) -> Box<str> {
    Printable(text.as_bytes()).to_string().into()
}

/// Whether all characters are printable ASCII characters or spaces.
pub(crate) fn is_printable_ascii(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// RFC 5321 section 4.1.2, esmtp-keyword.
pub(crate) fn is_keyword(name: &str) -> bool {
    !name.starts_with('-')
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Appends `text` as xtext (RFC 3461 section 4).
pub(crate) fn push_xtext(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => push_hex(out, byte),
            b'!'..=b'~' => out.push(char::from(byte)),
            _ => push_hex(out, byte),
        }
    }
}

fn push_hex(out: &mut String, byte: u8) {
    // Formatting into a string cannot fail.
    let _ = write!(out, "+{byte:02X}");
}

/// Appends `text` as utf-8-addr-xtext (RFC 6533 section 3), which is ASCII.
pub(crate) fn push_unicode_xtext(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '+' | '=' | '\\' => push_unicode_hex(out, c),
            '!'..='~' => out.push(c),
            c => push_unicode_hex(out, c),
        }
    }
}

/// RFC 6533 section 3, EmbeddedUnicodeChar.
fn push_unicode_hex(out: &mut String, c: char) {
    let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_becomes_xtext() {
        for byte in 0..=u8::MAX {
            let mut out = String::new();
            let text = String::from(char::from(byte));
            push_xtext(&mut out, &text);
            let plain = out == text;
            assert_eq!(
                plain,
                matches!(byte, b'!'..=b'~') && byte != b'+' && byte != b'=',
                "{byte}"
            );
            assert!(
                out.bytes().all(|b| matches!(b, b'!'..=b'~')),
                "{byte}: {out}"
            );
        }
    }

    #[test]
    fn every_character_becomes_unicode_xtext() {
        for (c, text) in [
            ('a', "a"),
            ('!', "!"),
            ('~', "~"),
            ('+', r"\x{2B}"),
            ('=', r"\x{3D}"),
            ('\\', r"\x{5C}"),
            (' ', r"\x{20}"),
            ('\n', r"\x{0A}"),
            ('\u{7f}', r"\x{7F}"),
            ('\u{e4}', r"\x{E4}"),
            ('\u{10ffff}', r"\x{10FFFF}"),
        ] {
            let mut out = String::new();
            push_unicode_xtext(&mut out, &String::from(c));
            assert_eq!(out, text);
        }
    }

    #[test]
    fn keywords_and_printable_text() {
        for keyword in ["SIZE", "8BITMIME", "X-a-1", "a-"] {
            assert!(is_keyword(keyword), "{keyword:?}");
        }
        for other in ["", "-a", "a b", "a=b", "a_b", "\u{e4}", "a\r\n"] {
            assert!(!is_keyword(other), "{other:?}");
        }
        assert!(is_printable_ascii("") && is_printable_ascii(" a~"));
        for other in ["\t", "\u{7f}", "\u{e4}", "a\r\n", "\0"] {
            assert!(!is_printable_ascii(other), "{other:?}");
        }
        assert_eq!(&*printable("a\r\n"), "a\\x0d\\x0a");
    }
}
