//! The types that can be given as a server: text, addresses, and a [`Server`].

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::rc::Rc;
use std::sync::Arc;

use crate::server::Server;

/// A type that can be given as a server.
///
/// | type | example |
/// |---|---|
/// | text in any of its types | `"mx.example.net"`, `"192.0.2.1:2525"`, `"[2001:db8::1]:25"` |
/// | a host and a port | `("smtp.example.org", 587)` |
/// | a socket address, an IP address | `SocketAddr::from(([192, 0, 2, 1], 25))` |
/// | a [`Server`] | `Server::new("mx.example.net").retry_in_clear(true)` |
///
/// Text is not read as a URL. For a URL, call `Server::from_url`.
///
/// Implement it for a type of your own, such as the settings of your application:
///
/// ```
/// use std::borrow::Cow;
/// use smtp_adapter::{Server, ToServer};
///
/// struct Settings {
///     relay: String,
/// }
///
/// impl ToServer for Settings {
///     fn to_server(&self) -> Cow<'_, Server> {
///         self.relay.to_server()
///     }
/// }
/// ```
pub trait ToServer {
    /// The server. If the text is not a server's name, opening a session is an error.
    fn to_server(&self) -> Cow<'_, Server>;
}

impl ToServer for Server {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Borrowed(self)
    }
}

impl ToServer for str {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.into()))
    }
}

impl ToServer for String {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<T: ToServer + ToOwned + ?Sized> ToServer for Cow<'_, T> {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<T: ToServer + ?Sized> ToServer for &T {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<T: ToServer + ?Sized> ToServer for &mut T {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<T: ToServer + ?Sized> ToServer for Box<T> {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<T: ToServer + ?Sized> ToServer for Rc<T> {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<T: ToServer + ?Sized> ToServer for Arc<T> {
    fn to_server(&self) -> Cow<'_, Server> {
        (**self).to_server()
    }
}

impl<H: AsRef<str>> ToServer for (H, u16) {
    fn to_server(&self) -> Cow<'_, Server> {
        let (host, port) = (self.0.as_ref(), self.1);
        // An IPv6 address, with or without brackets.
        let name = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Cow::Owned(Server::named(name))
    }
}

impl ToServer for SocketAddr {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.to_string()))
    }
}

impl ToServer for SocketAddrV4 {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.to_string()))
    }
}

impl ToServer for SocketAddrV6 {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.to_string()))
    }
}

impl ToServer for IpAddr {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.to_string()))
    }
}

impl ToServer for Ipv4Addr {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.to_string()))
    }
}

impl ToServer for Ipv6Addr {
    fn to_server(&self) -> Cow<'_, Server> {
        Cow::Owned(Server::named(self.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Terms;

    fn host_and_port(server: impl ToServer) -> (String, u16) {
        let server = Server::new(server);
        let (host, port) = Terms::new(&server, true).host_and_port().unwrap();
        (host.into_owned(), port)
    }

    #[test]
    fn text_of_every_type_is_a_server() {
        let text = String::from("mx.example.net:2525");
        let expected = ("mx.example.net".to_owned(), 2525);
        assert_eq!(host_and_port(&*text), expected);
        assert_eq!(host_and_port(&text), expected);
        assert_eq!(host_and_port(&text), expected);
        assert_eq!(host_and_port(Cow::from(&text)), expected);
        assert_eq!(host_and_port(Arc::<str>::from(&*text)), expected);
        assert_eq!(host_and_port(Rc::<str>::from(&*text)), expected);
        assert_eq!(host_and_port(text.clone().into_boxed_str()), expected);
        assert_eq!(host_and_port(text), expected);
    }

    #[test]
    fn addresses_are_servers() {
        let v6 = Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        for (found, host, port) in [
            (
                host_and_port(SocketAddr::from(([192, 0, 2, 1], 26))),
                "192.0.2.1",
                26,
            ),
            (
                host_and_port(SocketAddrV4::new([192, 0, 2, 1].into(), 26)),
                "192.0.2.1",
                26,
            ),
            (host_and_port(SocketAddr::from((v6, 26))), "2001:db8::1", 26),
            (
                host_and_port(SocketAddrV6::new(v6, 26, 0, 0)),
                "2001:db8::1",
                26,
            ),
            (host_and_port(IpAddr::from(v6)), "2001:db8::1", 25),
            (host_and_port(v6), "2001:db8::1", 25),
            (
                host_and_port(Ipv4Addr::from([192, 0, 2, 1])),
                "192.0.2.1",
                25,
            ),
            (host_and_port(("mx.example.net", 26)), "mx.example.net", 26),
            (
                host_and_port((String::from("2001:db8::1"), 26)),
                "2001:db8::1",
                26,
            ),
            (host_and_port(("[2001:db8::1]", 26)), "2001:db8::1", 26),
        ] {
            assert_eq!(found, (host.to_owned(), port));
        }
    }

    #[test]
    fn a_server_is_not_copied() {
        let server = Server::new("mx.example.net");
        let shared = Arc::new(server.clone());
        for same in [
            server.to_server(),
            (&&server).to_server(),
            shared.to_server(),
        ] {
            assert!(matches!(same, Cow::Borrowed(_)));
        }
    }
}
