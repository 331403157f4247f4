//! The mechanisms for OAuth 2.0 access tokens, OAUTHBEARER and XOAUTH2, and the error with which a server refuses a
//! token.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::{Login, Mechanism, MechanismError, Secret, sasl_name, secret};
use crate::text::Printable;

/// OAUTHBEARER (RFC 7628).
pub(super) struct OAuthBearer {
    login: Arc<Login>,
    identity: Option<Arc<str>>,
    error: Option<TokenError>,
}

impl OAuthBearer {
    pub(super) fn new(login: Arc<Login>, identity: Option<Arc<str>>) -> Self {
        Self {
            login,
            identity,
            error: None,
        }
    }
}

impl Mechanism for OAuthBearer {
    fn name(&self) -> &str {
        "OAUTHBEARER"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        let identity = self.identity.as_deref().unwrap_or(&self.login.user);
        let token = &self.login.secret;
        // rule: auth.token-control
        if identity.contains(char::is_control) || token.contains(char::is_control) {
            return Err(MechanismError::Control);
        }
        let name = match identity {
            "" => String::new(),
            identity => alloc::format!("a={}", sasl_name(identity)),
        };
        // rule: auth.oauthbearer
        Ok(Some(secret(&[
            b"n,",
            name.as_bytes(),
            b",\x01auth=Bearer ",
            token.as_bytes(),
            b"\x01\x01",
        ])))
    }

    /// The only challenge is the server's error. The answer is that of RFC 7628 section 3.2.3. Then the server sends
    /// 535.
    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        self.error = TokenError::parse(challenge);
        // rule: auth.oauthbearer-refused
        Ok(secret(&[b"\x01"]))
    }

    fn token_error(&mut self) -> Option<TokenError> {
        self.error.take()
    }
}

/// XOAUTH2, as Google and Microsoft document it.
pub(super) struct XOAuth2 {
    login: Arc<Login>,
    error: Option<TokenError>,
}

impl XOAuth2 {
    pub(super) fn new(login: Arc<Login>) -> Self {
        Self { login, error: None }
    }
}

impl Mechanism for XOAuth2 {
    fn name(&self) -> &str {
        "XOAUTH2"
    }

    fn exposes_secret(&self) -> bool {
        true
    }

    fn initial_response(&mut self) -> Result<Option<Secret>, MechanismError> {
        let (user, token) = (&self.login.user, &self.login.secret);
        if user.contains(char::is_control) || token.contains(char::is_control) {
            return Err(MechanismError::Control);
        }
        // rule: auth.xoauth2
        Ok(Some(secret(&[
            b"user=",
            user.as_bytes(),
            b"\x01auth=Bearer ",
            token.as_bytes(),
            b"\x01\x01",
        ])))
    }

    /// The only challenge is the server's error, and the answer is empty. Then the server sends 535.
    fn respond(&mut self, challenge: &[u8]) -> Result<Secret, MechanismError> {
        self.error = TokenError::parse(challenge);
        // rule: auth.xoauth2-refused
        Ok(Secret::default())
    }

    fn token_error(&mut self) -> Option<TokenError> {
        self.error.take()
    }
}

/// Why a server has refused a token (RFC 7628 section 3.2.2), in its own words. `Display` writes them as one
/// printable line.
///
/// ```
/// use smtp_proto::auth::TokenError;
///
/// let error = TokenError::parse(br#"{"status":"invalid_token","scope":"mail"}"#).unwrap();
/// assert_eq!(error.to_string(), "invalid_token, scope mail");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenError {
    /// The error code, such as `invalid_token`. Some servers write an HTTP status.
    pub status: String,
    /// The scope that a token must have.
    pub scope: Option<String>,
    /// The token types that the server takes. Google adds them.
    pub schemes: Option<String>,
    /// Where the provider describes itself (`openid-configuration`).
    pub openid_configuration: Option<String>,
}

impl TokenError {
    /// Reads the JSON object of a challenge, decoded from base64. `None` if it is not a JSON object, or has no
    /// `status`. Other members are ignored.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let mut error = Self::default();
        let mut has_status = false;
        let mut reader = Json(json);
        reader.expect(b'{')?;
        while !reader.found(b'}') {
            let name = reader.string()?;
            reader.expect(b':')?;
            let value = reader.value()?;
            match (name.as_str(), value) {
                ("status", Some(value)) => {
                    error.status = value;
                    has_status = true;
                }
                ("scope", value) => error.scope = value,
                ("schemes", value) => error.schemes = value,
                ("openid-configuration", value) => error.openid_configuration = value,
                _ => {}
            }
            if !reader.found(b',') {
                reader.expect(b'}')?;
                break;
            }
        }
        (has_status && reader.peek().is_none()).then_some(error)
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printable(self.status.as_bytes()))?;
        for (name, value) in [
            ("scope", &self.scope),
            ("schemes", &self.schemes),
            ("see", &self.openid_configuration),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {}", Printable(value.as_bytes()))?;
            }
        }
        Ok(())
    }
}

/// A reader for one flat JSON object. It holds what is left to read. The limit of a reply bounds its length.
struct Json<'a>(&'a [u8]);

impl<'a> Json<'a> {
    /// The next octet that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let blank = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
        let blanks = self.0.iter().take_while(|octet| blank(octet)).count();
        self.0 = &self.0[blanks..];
        self.0.first().copied()
    }

    fn found(&mut self, octet: u8) -> bool {
        let found = self.peek() == Some(octet);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn expect(&mut self, octet: u8) -> Option<()> {
        self.found(octet).then_some(())
    }

    fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(taken)
    }

    /// A string, or a number or a word as it is written. The inner `None` is an array or an object.
    fn value(&mut self) -> Option<Option<String>> {
        match self.peek()? {
            b'"' => self.string().map(Some),
            b'{' | b'[' => self.skip_nested().map(|()| None),
            _ => {
                let plain = |octet: &u8| octet.is_ascii_alphanumeric() || b"+-.".contains(octet);
                let end = self.0.iter().take_while(|octet| plain(octet)).count();
                let word = self.take(end).filter(|word| !word.is_empty())?;
                Some(Some(String::from_utf8_lossy(word).to_string()))
            }
        }
    }

    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                octet => {
                    self.take(1)?;
                    match octet {
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        return Some(());
                    }
                }
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut octets = Vec::new();
        loop {
            match *self.take(1)?.first()? {
                b'"' => return Some(String::from_utf8_lossy(&octets).into_owned()),
                b'\\' => {
                    let escaped = match *self.take(1)?.first()? {
                        octet @ (b'"' | b'\\' | b'/') => char::from(octet),
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => self.utf16()?,
                        _ => return None,
                    };
                    octets.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
                }
                octet => octets.push(octet),
            }
        }
    }

    /// What follows `\u`: one unit, or two that form a pair. Half a pair becomes U+FFFD.
    fn utf16(&mut self) -> Option<char> {
        let first = self.unit()?;
        let mut rest = Json(self.0);
        let second = match (first, rest.take(2)) {
            (0xd800..=0xdbff, Some(b"\\u")) => {
                rest.unit().filter(|unit| matches!(unit, 0xdc00..=0xdfff))
            }
            _ => None,
        };
        if second.is_some() {
            self.0 = rest.0;
        }
        let units = [Some(first), second].into_iter().flatten();
        char::decode_utf16(units)
            .next()
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn unit(&mut self) -> Option<u16> {
        self.take(4)?.iter().try_fold(0, |unit, &digit| {
            char::from(digit)
                .to_digit(16)
                .and_then(|digit| Some(unit << 4 | u16::try_from(digit).ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7628 section 4.1, without host and port, which a bearer token does not need.
    #[test]
    fn oauthbearer_says_who_and_with_what() {
        let response = |user, identity: Option<&str>| {
            let login = Login::new(user, "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==");
            let response = OAuthBearer::new(login, identity.map(Into::into)).initial_response()?;
            Ok(String::from_utf8(response.unwrap().to_vec()).unwrap())
        };
        let tail = "\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
        assert_eq!(
            response("user@example.com", None),
            Ok(alloc::format!("n,a=user@example.com,{tail}"))
        );
        assert_eq!(response("", None), Ok(alloc::format!("n,,{tail}")));
        assert_eq!(
            response("u", Some("a,b=c")),
            Ok(alloc::format!("n,a=a=2Cb=3Dc,{tail}"))
        );
        assert_eq!(response("u\x01", None), Err(MechanismError::Control));
    }

    #[test]
    fn a_token_cannot_break_out_of_its_field() {
        let login = || Login::new("u", "t\x01auth=Bearer x");
        assert_eq!(
            XOAuth2::new(login()).initial_response(),
            Err(MechanismError::Control)
        );
        assert_eq!(
            OAuthBearer::new(login(), None).initial_response(),
            Err(MechanismError::Control)
        );
    }

    #[test]
    fn the_servers_error_is_kept_for_the_refusal() {
        let json = br#"{"status":"invalid_token"}"#;
        let mut bearer = OAuthBearer::new(Login::new("u", "t"), None);
        assert_eq!(bearer.token_error(), None);
        assert_eq!(bearer.respond(json).unwrap()[..], *b"\x01");
        assert_eq!(bearer.token_error().unwrap().status, "invalid_token");
        let mut xoauth2 = XOAuth2::new(Login::new("u", "t"));
        assert_eq!(xoauth2.respond(json).unwrap()[..], *b"");
        assert_eq!(xoauth2.token_error().unwrap().status, "invalid_token");
    }

    fn shown(json: &str) -> Option<String> {
        TokenError::parse(json.as_bytes()).map(|error| error.to_string())
    }

    #[test]
    fn errors_are_read() {
        for (json, expected) in [
            (
                r#"{"status":"401","schemes":"bearer","scope":"https://mail.example.com/"}"#,
                "401, scope https://mail.example.com/, schemes bearer",
            ),
            (
                " {\n \"status\" : 400 , \"x\":[1,{\"]\":\"}\"}],\"y\":null }\r\n",
                "400",
            ),
            (
                r#"{"openid-configuration":"https:\/\/a\/b","status":"x","scope":["no"],"status":"y"}"#,
                "y, see https://a/b",
            ),
            (
                r#"{"status":"\u00fc\ud83d\ude00\ud83dx\udc00\"\\\n"}"#,
                "ü😀\u{fffd}x\u{fffd}\"\\\\n",
            ),
            ("{\"status\":\"\u{1b}[2J\u{202e}\"}", "\\x1b[2J\\u{202e}"),
        ] {
            let shown = shown(json).unwrap_or_else(|| panic!("{json} cannot be read"));
            // Printable decides how it writes an escape. This only checks that it does.
            if expected.contains('\\') {
                assert!(
                    !shown.contains(char::is_control) && !shown.contains('\u{202e}'),
                    "{shown:?}"
                );
            } else {
                assert_eq!(shown, expected);
            }
        }
    }

    #[test]
    fn what_is_no_error_is_none() {
        let good = r#"{"status":"a\u0041","scope":[{"x":"]"}],"schemes":true}"#;
        assert_eq!(shown(good).as_deref(), Some("aA, schemes true"));
        for end in 0..good.len() {
            assert_eq!(shown(&good[..end]), None, "{}", &good[..end]);
        }
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            "{\"scope\":\"x\"}",
            "{\"status\":\"x\"}x",
            "{\"status\":}",
            "{\"status\"}",
            "{\"status\":\"x\" \"scope\":\"y\"}",
            "{\"status\":\"\\x\"}",
            "{\"status\":\"\\u00g0\"}",
            "{\"status\":\"\\u+123\"}",
            "{\"status\":[]}",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
        assert_eq!(
            TokenError::parse(b"{\"status\":\"\xff\"}").unwrap().status,
            "\u{fffd}"
        );
    }
}
