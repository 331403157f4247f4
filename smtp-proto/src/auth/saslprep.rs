//! SASLprep (RFC 4013) brings the many ways to write a user name or a password into one form.
//!
//! Two of its steps are left to the server, which prepares its stored copy by the same rules. They check mixed
//! writing directions, and code points that Unicode 3.2 did not know.

use alloc::string::String;

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::MechanismError;

/// The prepared form; that of printable ASCII is the text itself.
pub(super) fn prepare(text: &str) -> Result<Zeroizing<String>, MechanismError> {
    let mapped = text.chars().filter_map(|c| match c {
        c if is_space(c) => Some(' '),
        c if maps_to_nothing(c) => None,
        c => Some(c),
    });
    // NFKC makes at most 11 times as many octets. Growing would leave copies in memory.
    let room = if text.is_ascii() {
        text.len()
    } else {
        text.len().saturating_mul(11)
    };
    let mut prepared = Zeroizing::new(String::with_capacity(room));
    prepared.extend(mapped.nfkc());
    match prepared.contains(is_prohibited) {
        true => Err(MechanismError::Prohibited),
        false => Ok(prepared),
    }
}

/// RFC 3454 table C.1.2.
fn is_space(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200b}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

/// RFC 3454 table B.1.
fn maps_to_nothing(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{1806}' | '\u{180b}'..='\u{180d}' | '\u{200c}' | '\u{200d}' | '\u{2060}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
    )
}

/// RFC 3454 tables C.2.1, C.2.2, C.3, C.4, C.6, C.7, C.8 and C.9; C.5 has no characters in Rust.
fn is_prohibited(c: char) -> bool {
    c.is_control()
        || is_space(c)
        || matches!(
            c,
            '\u{6dd}' | '\u{70f}' | '\u{180e}' | '\u{200c}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2063}' | '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}'
                | '\u{fdd0}'..='\u{fdef}'
                | '\u{2ff0}'..='\u{2ffb}' | '\u{340}' | '\u{341}'
                | '\u{e0001}' | '\u{e0020}'..='\u{e007f}'
        )
        || u32::from(c) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4013 section 3, and our own.
    #[test]
    fn text_is_prepared() {
        let prepared = |text| prepare(text).map(|prepared| String::from(prepared.as_str()));
        for (text, expected) in [
            ("I\u{ad}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("a b=c,d", "a b=c,d"),
            ("u\u{308}\u{a0}\u{3000}x", "ü  x"),
            ("\u{1f468}\u{200d}\u{1f4bb}", "\u{1f468}\u{1f4bb}"),
            ("", ""),
        ] {
            assert_eq!(prepared(text).as_deref(), Ok(expected), "{text:?}");
        }
        for bad in [
            "\u{7}",
            "a\0",
            "\u{7f}",
            "\u{85}",
            "\u{202e}",
            "\u{e000}",
            "\u{ffff}",
            "\u{10fffe}",
            "\u{e0041}",
        ] {
            assert_eq!(prepared(bad), Err(MechanismError::Prohibited), "{bad:?}");
        }
        // The longest that one character becomes.
        assert_eq!(prepare("\u{fdfa}").unwrap().capacity(), 33);
        assert_eq!(prepare("\u{fdfa}").unwrap().len(), 33);
    }
}
