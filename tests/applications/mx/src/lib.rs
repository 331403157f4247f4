//! Mail to a domain: its MX records in the order of preference, all addresses of each host, and TLS if it is offered.
//! If TLS fails, it tries again in the clear (RFC 5321 section 5.1, RFC 7505).
//!
//! `src/main.rs` uses it. The tests have their own name server ([`zone`]), and need no network:
//!
//! ```console
//! $ cargo test -p smtp-mx
//! ```

pub mod zone;

use std::fmt;
use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData};
use smtp_tokio::{Envelope, Report, Server, Session};

/// Why a message has reached nobody.
#[derive(Debug)]
pub enum Error {
    /// The domain takes no mail: it has a null MX (RFC 7505), or does not exist. Return the message.
    NoMail(String),
    /// The name servers do not answer. Try again later.
    Lookup(NetError),
    /// A host of the domain has refused the message, or no host could be reached.
    Smtp(smtp_tokio::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMail(domain) => write!(f, "{domain} takes no mail (permanent)"),
            Self::Lookup(error) => write!(f, "the name servers cannot say: {error} (temporary)"),
            Self::Smtp(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// The hosts that take mail for the domain, the preferred one first.
///
/// # Errors
/// It takes no mail, or the name servers do not answer.
pub async fn hosts(resolver: &TokioResolver, domain: &str) -> Result<Vec<Name>, Error> {
    // The final dot makes the name complete, so it is not searched for under our own domain.
    let name = Name::from_utf8(format!("{domain}."));
    let name = name.map_err(|_| Error::NoMail(domain.to_owned()))?;
    let answer = match resolver.mx_lookup(name.clone()).await {
        Ok(answer) => answer,
        Err(error) if error.is_nx_domain() => return Err(Error::NoMail(domain.to_owned())),
        // Without an MX, the domain is its own host (RFC 5321 section 5.1).
        Err(error) if error.is_no_records_found() => return Ok(vec![name]),
        Err(error) => return Err(Error::Lookup(error)),
    };
    let mut records = Vec::new();
    for record in answer.answers() {
        if let RData::MX(mx) = &record.data {
            records.push((mx.preference, mx.exchange.clone()));
        }
    }
    if records.iter().any(|(_, host)| host.is_root()) {
        return Err(Error::NoMail(domain.to_owned()));
    }
    // A stable sort: hosts of the same preference keep the order of the answer, which changes each time.
    records.sort_by_key(|&(preference, _)| preference);
    Ok(records.into_iter().map(|(_, host)| host).collect())
}

/// Sends the message to the first host of the domain that takes it. The port is 25, except in tests. All recipients
/// belong to this domain.
///
/// # Errors
/// See [`Error`].
pub async fn deliver(
    resolver: &TokioResolver,
    domain: &str,
    port: u16,
    envelope: Envelope,
    message: &[u8],
) -> Result<Report, Error> {
    let mut last = None;
    for host in hosts(resolver, domain).await? {
        let addresses = match resolver.lookup_ip(host.clone()).await {
            Ok(addresses) => addresses,
            Err(error) => {
                last = Some(Error::Lookup(error));
                continue;
            }
        };
        for address in addresses.iter() {
            match attempt(SocketAddr::new(address, port), envelope.clone(), message).await {
                Ok(report) => return Ok(report),
                // The error is not about the message, and nobody has it. Another host may take it.
                Err(error) if error.concerns_session() && !error.is_in_doubt() => {
                    println!("{host} at {address}: {error}");
                    last = Some(Error::Smtp(error));
                }
                Err(error) => return Err(Error::Smtp(error)),
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::NoMail(domain.to_owned())))
}

/// Sends it to this address, encrypted if possible. If the handshake fails, it sends again in the clear.
async fn attempt(
    address: SocketAddr,
    envelope: Envelope,
    message: &[u8],
) -> Result<Report, smtp_tokio::Error> {
    let server = Server::new(address).retry_in_clear(true);
    let mut session = Session::connect(&server).await?;
    session.send_last(envelope, message).await
}
