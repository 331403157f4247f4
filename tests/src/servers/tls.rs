//! A server for tests of trust: any certificate, a real handshake, and its own records. It accepts every login and
//! every message.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

/// A certificate, and the key with which the server signs its handshakes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate in PEM.
    pub pem: String,
    /// Its private key in PEM.
    pub key_pem: String,
    certified: Arc<CertifiedKey>,
}

/// How a certificate is made.
#[derive(Clone, Debug)]
pub struct Making<'a> {
    /// The names that it is for: domain names and IP addresses.
    pub names: &'a [&'a str],
    /// The last year in which it is valid.
    pub until: i32,
    /// It is an authority's, as `openssl req -x509` makes it.
    pub is_authority: bool,
}

impl Making<'_> {
    fn parameters(&self) -> CertificateParams {
        let names: Vec<String> = self.names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("they are names");
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(self.until, 12, 31);
        if self.is_authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        parameters
    }

    /// A self-signed certificate.
    pub fn self_signed(&self) -> Identity {
        let key = KeyPair::generate().expect("ring makes keys");
        let certificate = self.parameters().self_signed(&key).expect("the key signs");
        Identity::new(&certificate, &key)
    }
}

impl Making<'_> {
    /// A self-signed certificate, and another one that it has signed without being an authority.
    pub fn self_signed_and_signing(&self, other: &Making<'_>) -> (Identity, Identity) {
        let key = KeyPair::generate().expect("ring makes keys");
        let parameters = self.parameters();
        let own = Identity::new(&parameters.self_signed(&key).expect("the key signs"), &key);
        let issuer = Issuer::new(parameters, key);
        let key = KeyPair::generate().expect("ring makes keys");
        let signed = other
            .parameters()
            .signed_by(&key, &issuer)
            .expect("the key signs");
        (own, Identity::new(&signed, &key))
    }
}

impl Identity {
    fn new(certificate: &Certificate, key: &KeyPair) -> Self {
        let key_pem = key.serialize_pem();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = any_supported_type(&der).expect("ring made it");
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key));
        Self {
            pem: certificate.pem(),
            key_pem,
            certified,
        }
    }

    /// The same, sent with this authority's certificate after it.
    #[must_use]
    pub fn followed_by(mut self, authority: &Authority) -> Self {
        let mut certified = CertifiedKey::clone(&self.certified);
        certified.cert.push(authority.certificate.clone());
        self.certified = Arc::new(certified);
        self
    }

    /// The resolver for a server's settings.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Always(Arc::clone(&self.certified)))
    }

    /// The same certificate with another key: an impostor has the certificate, but not its key.
    pub fn with_another_key(&self) -> Self {
        let key = KeyPair::generate().expect("ring makes keys");
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key_pem = key.serialize_pem();
        let key = any_supported_type(&der).expect("ring made it");
        Self {
            pem: self.pem.clone(),
            key_pem,
            certified: Arc::new(CertifiedKey::new(self.certified.cert.clone(), key)),
        }
    }
}

/// An authority that signs certificates.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate in PEM.
    pub pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// An authority with this name.
    pub fn new(name: &str) -> Self {
        let (parameters, key) = Self::parameters(name);
        let certificate = parameters.self_signed(&key).expect("the key signs");
        Self::with(&certificate, parameters, key)
    }

    /// An intermediate authority with this name, whose certificate is valid to the end of this year.
    pub fn intermediate(&self, name: &str, until: i32) -> Self {
        let (mut parameters, key) = Self::parameters(name);
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(until, 12, 31);
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("the key signs");
        Self::with(&certificate, parameters, key)
    }

    fn parameters(name: &str) -> (CertificateParams, KeyPair) {
        let mut parameters = CertificateParams::new([]).expect("no name is none too many");
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, name);
        parameters.distinguished_name = subject;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (parameters, KeyPair::generate().expect("ring makes keys"))
    }

    fn with(certificate: &Certificate, parameters: CertificateParams, key: KeyPair) -> Self {
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(parameters, key),
        }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs a certificate.
    pub fn sign(&self, making: &Making<'_>) -> Identity {
        self.sign_with(making, |_| {})
    }

    /// The same with other parameters.
    pub fn sign_with(
        &self,
        making: &Making<'_>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().expect("ring makes keys");
        let mut parameters = making.parameters();
        change(&mut parameters);
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("the key signs");
        Identity::new(&certificate, &key)
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// The server's records.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Each command line, and whether it came inside TLS.
    pub commands: Vec<(String, bool)>,
}

impl Books {
    /// The commands that begin with this verb.
    pub fn said(&self, verb: &str) -> Vec<&str> {
        let lines = self.commands.iter().map(|(line, _)| line.as_str());
        lines.filter(|line| line.starts_with(verb)).collect()
    }
}

/// The settings of the server.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its certificate and key.
    pub identity: Identity,
    /// TLS from the first octet.
    pub implicit: bool,
    /// Offers STARTTLS, if TLS is not implicit.
    pub starttls: bool,
    /// Only TLS 1.2.
    pub tls12: bool,
    /// The mechanisms that it offers, with and without TLS.
    pub mechanisms: &'static str,
}

/// A running server. It runs until the process ends.
#[derive(Debug)]
pub struct TlsPeer {
    address: SocketAddr,
    books: Arc<Mutex<Books>>,
}

impl TlsPeer {
    /// Starts one on a free port of 127.0.0.1.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let versions: &[&SupportedProtocolVersion] = if setup.tls12 {
            &[&rustls::version::TLS12]
        } else {
            rustls::ALL_VERSIONS
        };
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(setup.identity.resolver());
        Self::start_with(setup, Arc::new(config))
    }

    /// The same with these TLS settings, which replace those of the setup.
    pub fn start_with(setup: Setup, config: Arc<ServerConfig>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let books = Arc::new(Mutex::new(Books::default()));
        let shared = Arc::clone(&books);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (setup, config, books) =
                    (setup.clone(), Arc::clone(&config), Arc::clone(&shared));
                thread::spawn(move || {
                    if serve(&setup, &config, &books, &stream).is_err() {
                        // A reset must not overtake the alert.
                        let _ = stream.shutdown(Shutdown::Write);
                        let _ = io::copy(&mut &stream, &mut io::sink());
                    }
                });
            }
        });
        Ok(Self { address, books })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The records so far.
    pub fn books(&self) -> Books {
        self.books
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The server's end of TLS with this certificate, before the handshake.
///
/// # Errors
/// rustls rejects the certificate.
pub fn acceptor(
    identity: &Identity,
    socket: TcpStream,
) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(Arc::clone(&identity.certified))));
    let tls = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
    Ok(StreamOwned::new(tls, socket))
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn serve(
    setup: &Setup,
    config: &Arc<ServerConfig>,
    books: &Mutex<Books>,
    socket: &TcpStream,
) -> io::Result<()> {
    // A client that hangs does not block the thread forever.
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    socket.set_nodelay(true)?;
    let encrypt = |socket: TcpStream| -> io::Result<Box<dyn Stream>> {
        let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(tls, socket)))
    };
    let mut encrypted = setup.implicit;
    let mut stream: Box<dyn Stream> = match encrypted {
        true => encrypt(socket.try_clone()?)?,
        false => Box::new(socket.try_clone()?),
    };
    stream.write_all(b"220 peer ESMTP\r\n")?;
    let mut in_data = false;
    loop {
        let line = read_line(&mut stream)?;
        if in_data {
            in_data = line != ".";
            if !in_data {
                stream.write_all(b"250 2.0.0 taken\r\n")?;
            }
            continue;
        }
        books
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .commands
            .push((line.clone(), encrypted));
        let verb = line.split(' ').next().unwrap_or_default();
        let reply = match verb {
            "EHLO" => {
                let starttls = if setup.starttls && !encrypted {
                    "250-STARTTLS\r\n"
                } else {
                    ""
                };
                format!("250-peer\r\n{starttls}250 AUTH {}\r\n", setup.mechanisms)
            }
            "STARTTLS" => {
                stream.write_all(b"220 2.0.0 go ahead\r\n")?;
                stream = encrypt(socket.try_clone()?)?;
                encrypted = true;
                continue;
            }
            "AUTH" if !line.starts_with("AUTH PLAIN") => "535 5.7.8 no more than that\r\n".into(),
            "AUTH" => "235 2.7.0 welcome\r\n".into(),
            "DATA" => {
                in_data = true;
                "354 go ahead\r\n".into()
            }
            "QUIT" => return stream.write_all(b"221 2.0.0 bye\r\n"),
            _ => "250 2.0.0 ok\r\n".into(),
        };
        stream.write_all(reply.as_bytes())?;
    }
}

fn read_line(stream: &mut dyn Stream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet)?;
        line.extend(octet);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8_lossy(&line).into_owned())
}
