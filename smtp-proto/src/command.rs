//! Commands → bytes: the only place that writes a line end into the command stream.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::capability::Capabilities;
use crate::envelope::Envelope;
use crate::mailbox::{ClientName, Mailbox};

/// The longest AUTH line that carries an initial response, in octets with its CRLF (RFC 4954 section 4
/// keeps the command limit of RFC 5321 section 4.5.3.1.4).
const MAX_COMMAND_LINE: usize = 512;

/// What follows the reverse-path in MAIL.
#[derive(Clone, Copy, Default)]
pub(crate) struct MailParameters<'a> {
    /// SIZE (RFC 1870).
    pub(crate) size: Option<u64>,
    /// BODY (RFC 6152, RFC 3030).
    pub(crate) body: Option<&'static str>,
    /// SMTPUTF8 (RFC 6531).
    pub(crate) utf8: bool,
    /// The caller's own parameters, if they are offered.
    pub(crate) others: Option<(&'a Envelope, &'a Capabilities)>,
}

/// What follows the forward-path at this position in RCPT: the caller's parameters, if they are offered.
pub(crate) type RcptParameters<'a> = Option<(&'a Envelope, usize, &'a Capabilities)>;

/// One line from the client.
#[derive(Clone, Copy)]
pub(crate) enum Command<'a> {
    Ehlo(&'a ClientName),
    Helo(&'a ClientName),
    Lhlo(&'a ClientName),
    StartTls,
    /// The mechanism, and an initial response in base64.
    Auth(&'a str, Option<&'a str>),
    /// A response in base64, to a challenge.
    AuthResponse(&'a str),
    AuthCancel,
    Mail(&'a Mailbox, MailParameters<'a>),
    Rcpt(&'a Mailbox, RcptParameters<'a>),
    Data,
    /// RFC 3030. The octets follow it.
    Bdat {
        octets: u64,
        last: bool,
    },
    /// The dot that ends an empty body, which the server wants although nobody was accepted.
    LoneDot,
    Rset,
    Quit,
    /// A command outside a transaction, verbatim.
    Request(&'a str),
}

impl Command<'_> {
    /// Appends the line with its CRLF, and returns its length in octets.
    pub(crate) fn write(self, out: &mut Vec<u8>) -> usize {
        /// Formatting straight into the buffer.
        struct Sink<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Sink<'_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                self.0.extend_from_slice(s.as_bytes());
                Ok(())
            }
        }
        let before = out.len();
        if self.is_secret() {
            // A buffer that grows leaves a copy of the secret in memory. So make it large enough first.
            out.reserve(self.secret_len() + 64);
        }
        self.write_to(&mut Sink(out));
        out.len() - before
    }

    /// Writes the line with its CRLF. This is the only place that writes one into the command stream.
    pub(crate) fn write_to(self, out: &mut dyn fmt::Write) {
        // Neither of the two sinks can fail.
        let _ = self.format(out, false);
        let _ = out.write_str("\r\n");
    }

    /// The line for people: credentials redacted, no line end.
    pub(crate) fn redacted(self) -> String {
        let mut text = String::new();
        let _ = self.format(&mut text, true);
        text
    }

    /// Whether the line holds credentials.
    pub(crate) fn is_secret(self) -> bool {
        matches!(self, Command::Auth(_, Some(_)) | Command::AuthResponse(_))
    }

    fn secret_len(self) -> usize {
        match self {
            Command::Auth(_, Some(response)) | Command::AuthResponse(response) => response.len(),
            _ => 0,
        }
    }

    fn format(self, f: &mut dyn fmt::Write, redact: bool) -> fmt::Result {
        match self {
            Command::Ehlo(name) => write!(f, "EHLO {}", name.as_str()),
            Command::Helo(name) => write!(f, "HELO {}", name.as_str()),
            Command::Lhlo(name) => write!(f, "LHLO {}", name.as_str()),
            Command::StartTls => f.write_str("STARTTLS"),
            Command::Auth(mechanism, None) => write!(f, "AUTH {mechanism}"),
            Command::Auth(mechanism, Some(_)) if redact => write!(f, "AUTH {mechanism} ****"),
            Command::Auth(mechanism, Some(response)) => write!(f, "AUTH {mechanism} {response}"),
            Command::AuthResponse(_) if redact => f.write_str("****"),
            Command::AuthResponse(response) => f.write_str(response),
            Command::AuthCancel => f.write_str("*"),
            Command::Mail(path, parameters) => {
                f.write_str("MAIL FROM:<")?;
                f.write_str(path.as_str())?;
                f.write_str(">")?;
                if let Some(size) = parameters.size {
                    write!(f, " SIZE={size}")?;
                }
                if let Some(body) = parameters.body {
                    write!(f, " BODY={body}")?;
                }
                if parameters.utf8 {
                    f.write_str(" SMTPUTF8")?;
                }
                if let Some((envelope, offered)) = parameters.others {
                    for parameter in envelope.mail_parameters() {
                        // rule: parameters.auth
                        // rule: parameters.deliverby-offered
                        // rule: parameters.dsn-not-offered
                        // rule: parameters.futurerelease-offered
                        // rule: parameters.mt-priority
                        // rule: parameters.requiretls-offered
                        if parameter.offered_in(offered) {
                            write!(f, " {}", parameter.text())?;
                        }
                    }
                }
                Ok(())
            }
            Command::Rcpt(path, parameters) => {
                f.write_str("RCPT TO:<")?;
                f.write_str(path.as_str())?;
                f.write_str(">")?;
                if let Some((envelope, index, offered)) = parameters {
                    for parameter in envelope.recipient_parameters(index) {
                        // rule: parameters.dsn-offered
                        if parameter.offered_in(offered) {
                            write!(f, " {}", parameter.text())?;
                        }
                    }
                }
                Ok(())
            }
            Command::Data => f.write_str("DATA"),
            Command::Bdat { octets, last } => {
                write!(f, "BDAT {octets}{}", if last { " LAST" } else { "" })
            }
            Command::LoneDot => f.write_str("."),
            Command::Rset => f.write_str("RSET"),
            Command::Quit => f.write_str("QUIT"),
            Command::Request(line) => f.write_str(line),
        }
    }
}

/// Whether an initial response of `octets` in base64 still fits the command line.
pub(crate) fn fits_auth_line(mechanism: &str, octets: usize) -> bool {
    "AUTH ".len() + mechanism.len() + " ".len() + octets + "\r\n".len() <= MAX_COMMAND_LINE
}
