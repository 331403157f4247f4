//! The names of the server and of this host: how they are written, and which are acceptable.

use std::borrow::Cow;
use std::net::IpAddr;

use smtp_proto::ClientName;

/// `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
pub(crate) fn split_server(server: &str) -> Result<(&str, Option<u16>), String> {
    // The error does not show the text: a URL may hold a password.
    if server.contains(['/', '@']) {
        return Err(
            "invalid server: it looks like a URL, which Server::from_url reads; write HOST, HOST:PORT or [IPV6]:PORT"
                .into(),
        );
    }
    let invalid = || format!("invalid server: \"{server}\"; write HOST, HOST:PORT or [IPV6]:PORT");
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(invalid)?),
            };
            (host, port)
        }
        None if server.matches(':').count() > 1 => (server, None),
        None => server
            .split_once(':')
            .map_or((server, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(invalid());
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0)) | Some(Err(_)) => Err(invalid()),
        Some(Ok(port)) => Ok((host, Some(port))),
        None => Ok((host, None)),
    }
}

/// The name of a host as DNS and certificates have it. IDNA maps full-width forms to ASCII, so a name may become one
/// with `/` or `@`. Such a result is refused. An underscore is accepted, because hosts use it.
pub(crate) fn to_ascii(name: &str) -> Result<Cow<'_, str>, String> {
    match name.is_ascii() {
        true => Ok(Cow::Borrowed(name)),
        #[cfg(feature = "idna")]
        false => match idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::URL) {
            Ok(ascii) if !ascii.is_empty() => Ok(ascii),
            _ => Err(format!("\"{name}\" is not a domain name")),
        },
        #[cfg(not(feature = "idna"))]
        false => Err(format!(
            "\"{name}\" is not ASCII; build with the feature idna, or write it as xn--..."
        )),
    }
}

/// The name of this host, if servers accept it in EHLO. Otherwise the address literal.
pub(crate) fn default_client_name(host: &str, local: Option<IpAddr>) -> ClientName {
    // `ClientName` accepts an underscore too, for callers that choose one. Exim refuses it by default.
    let is_plain = host
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    // A name that ends in a number is not accepted either: it would be read as an address.
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|octet| octet.is_ascii_digit());
    match ClientName::parse(host) {
        Ok(name) if is_plain && host.contains('.') && !is_number => name,
        _ => local.unwrap_or(IpAddr::from([127, 0, 0, 1])).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for (server, expected) in [
            ("mx.example.net", Some(("mx.example.net", None))),
            ("mx.example.net:587", Some(("mx.example.net", Some(587)))),
            ("192.0.2.1:25", Some(("192.0.2.1", Some(25)))),
            ("[2001:db8::1]:25", Some(("2001:db8::1", Some(25)))),
            ("[2001:db8::1]", Some(("2001:db8::1", None))),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("", None),
            (":25", None),
            ("a:", None),
            ("a:0", None),
            ("a:65536", None),
            ("a:x", None),
            ("[::1", None),
            ("[::1]25", None),
            ("a b", None),
        ] {
            assert_eq!(split_server(server).ok(), expected, "{server}");
        }
    }

    #[test]
    fn the_password_of_a_url_is_not_shown() {
        for server in [
            "smtp://alice:s3cret@smtp.example.org",
            "alice:s3cret@smtp.example.org:25",
            "smtps:alice:s3cret@smtp.example.org",
            "smtp://smtp.example.org/?password=s3cret",
        ] {
            let error = split_server(server).unwrap_err();
            assert!(error.contains("looks like a URL"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
            let server = format!("{:?}", crate::Server::new(server));
            assert!(!server.contains("s3cret"), "{server}");
        }
    }

    #[test]
    fn names_beyond_ascii() {
        assert_eq!(to_ascii("mx.example.net").as_deref(), Ok("mx.example.net"));
        #[cfg(feature = "idna")]
        assert_eq!(
            to_ascii("b\u{fc}cher.example").as_deref(),
            Ok("xn--bcher-kva.example")
        );
        #[cfg(not(feature = "idna"))]
        assert_eq!(
            to_ascii("b\u{fc}cher.example").unwrap_err(),
            "\"b\u{fc}cher.example\" is not ASCII; build with the feature idna, or write it as xn--..."
        );
    }

    #[cfg(feature = "idna")]
    #[test]
    fn no_mapping_makes_what_no_host_has() {
        for c in [
            '/', '@', ':', '?', '#', '%', '\\', '[', ']', '<', '>', '^', '|',
        ] {
            // The full-width form.
            let wide = char::from_u32(u32::from(c) + 0xfee0).unwrap();
            let name = format!("good.example{wide}evil.example");
            let expected = format!("\"{name}\" is not a domain name");
            assert_eq!(to_ascii(&name), Err(expected), "{c}");
        }
        // They map to "a/c", to a space with an accent, to nothing, and to brackets.
        for name in [
            "\u{2100}.example",
            "good.example\u{a8}x",
            "\u{ad}",
            "\u{ff3b}127.0.0.1\u{ff3d}",
        ] {
            assert!(to_ascii(name).is_err(), "{name}");
        }
        for (name, ascii) in [
            ("mx\u{ff3f}1.example", "mx_1.example"),
            ("mx_1.b\u{fc}cher.example", "mx_1.xn--bcher-kva.example"),
            ("mx\u{3002}example", "mx.example"),
            ("\u{ff11}92.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(to_ascii(name).as_deref(), Ok(ascii));
        }
    }

    #[test]
    fn default_client_names() {
        let local = Some(IpAddr::from([192, 0, 2, 1]));
        for host in [
            "mx.example.net",
            "mx-1.example.net",
            "1.example.net",
            "MX.Example",
            "a.b",
        ] {
            assert_eq!(default_client_name(host, local).as_str(), host);
        }
        let long = format!("{}.example", "a".repeat(64));
        for host in [
            "",
            "mx",
            "localhost",
            "shop_1.shop_internal",
            "mx_1.example.net",
            "-mx.example.net",
            "mx-.example.net",
            "mx.example.net-",
            "mx.example.net.",
            ".example.net",
            "mx..example",
            "m x.example",
            "[192.0.2.7]",
            "192.0.2.7",
            "b\u{fc}cher.example",
            "mx\u{fffd}.example",
            &long,
        ] {
            assert_eq!(
                default_client_name(host, local).as_str(),
                "[192.0.2.1]",
                "{host:?}"
            );
        }
        let v6 = Some("2001:db8::1".parse().unwrap());
        assert_eq!(default_client_name("mx", v6).as_str(), "[IPv6:2001:db8::1]");
        assert_eq!(default_client_name("mx", None).as_str(), "[127.0.0.1]");
    }
}
