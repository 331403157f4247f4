//! A pool as a transport of lettre.

use lettre::Transport;
use lettre::address::Envelope;
use smtp_adapter::Error;
use smtp_proto::Report;

use crate::Pool;

/// A [`Pool`] as lettre's [`Transport`]. An application only changes the line that makes its transport.
///
/// As with lettre, a message is sent only if all its recipients are accepted. So `Ok` means that everybody has it,
/// and a caller need not read the report.
///
/// # Errors
/// As [`Pool::send`]. An LMTP server answers for each recipient after the data, and may refuse some of them there.
/// The others then have the message nevertheless. The error says so, and its [report](Error::report) names them.
///
/// ```no_run
/// use lettre::{Message, Transport};
/// use smtp_blocking::{Credentials, Pool, Server};
///
/// # fn example(message: Message) -> Result<(), smtp_blocking::Error> {
/// let server = Server::new("smtp.example.org:465")
///     .credentials(Credentials::password("alice", "s3cret"));
/// let mailer = Pool::new(server).for_lettre();
/// mailer.send(&message)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LettreTransport(Pool);

impl Pool {
    /// This pool as lettre's transport. A [`Pool`] implements the trait too, but [`Pool::send`] hides the trait's
    /// method of the same name.
    pub fn for_lettre(&self) -> LettreTransport {
        LettreTransport(self.clone())
    }
}

impl Transport for Pool {
    type Ok = Report;
    type Error = Error;

    fn send_raw(&self, envelope: &Envelope, email: &[u8]) -> Result<Report, Error> {
        let report = Self::send(self, translate(envelope)?, email)?;
        match report.is_success() {
            true => Ok(report),
            false => Err(Error::from_report(report)),
        }
    }

    fn shutdown(&self) {
        self.close();
    }
}

impl Transport for LettreTransport {
    type Ok = Report;
    type Error = Error;

    fn send_raw(&self, envelope: &Envelope, email: &[u8]) -> Result<Report, Error> {
        self.0.send_raw(envelope, email)
    }

    fn shutdown(&self) {
        self.0.close();
    }
}

/// lettre's envelope as ours. It has no parameters, and its sender may be null.
fn translate(envelope: &Envelope) -> Result<smtp_proto::Envelope, Error> {
    let sender = envelope.from().map_or("", |address| address.as_ref());
    let recipients = envelope.to().iter().map(AsRef::<str>::as_ref);
    Ok(smtp_proto::Envelope::new(sender, recipients)?.all_or_nothing(true))
}
