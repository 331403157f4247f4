//! A name server on a port of 127.0.0.1 that answers from a list, for tests and for `src/main.rs`.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::{io, thread};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX};
use hickory_resolver::proto::rr::{Name, RData, Record};

/// A record: a domain and its data.
pub type Entry = (Name, RData);

/// An MX record. The host `.` makes a null MX.
///
/// # Panics
/// A name is too long.
#[must_use]
pub fn mx(domain: &str, preference: u16, host: &str) -> Entry {
    (name(domain), RData::MX(MX::new(preference, name(host))))
}

/// An address.
///
/// # Panics
/// The name is too long.
#[must_use]
pub fn a(host: &str, address: [u8; 4]) -> Entry {
    (name(host), RData::A(A(Ipv4Addr::from(address))))
}

fn name(name: &str) -> Name {
    let mut name = Name::from_utf8(name).expect("a domain name");
    name.set_fqdn(true);
    name
}

/// Starts a name server with these records, which lives as long as the process. Returns a resolver that only asks
/// this server.
///
/// # Errors
/// A socket or a thread is missing.
pub fn resolver(entries: Vec<Entry>) -> Result<TokioResolver, NetError> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = socket.local_addr()?.port();
    thread::Builder::new().spawn(move || serve(&socket, &entries))?;

    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    let server = NameServerConfig::new(IpAddr::from(Ipv4Addr::LOCALHOST), true, vec![connection]);
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build()
}

fn serve(socket: &UdpSocket, entries: &[Entry]) -> io::Result<()> {
    let mut buffer = [0; 512];
    loop {
        let (n, client) = socket.recv_from(&mut buffer)?;
        if let Some(answer) = answer(&buffer[..n], entries) {
            socket.send_to(&answer, client)?;
        }
    }
}

fn answer(query: &[u8], entries: &[Entry]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    let asked = query.queries.first()?.clone();
    let of_name = || entries.iter().filter(|(name, _)| name == asked.name());
    if of_name().next().is_none() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    for (name, data) in of_name().filter(|(_, data)| data.record_type() == asked.query_type()) {
        answer.add_answer(Record::from_rdata(name.clone(), 60, data.clone()));
    }
    answer.add_query(asked);
    answer.to_vec().ok()
}
