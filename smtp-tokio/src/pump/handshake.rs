//! The TLS handshake of a session.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use smtp_adapter::TlsSettings;
use tokio::time::Instant;

use super::Pump;
use crate::stream::{Counted, Stream};

/// A handshake under way. Boxed, because it exists only for a moment.
pub(super) struct Handshake {
    tls: tokio_rustls::Connect<Counted>,
    settings: TlsSettings,
}

impl Pump {
    /// It is due once, when the session opens or after XCLIENT.
    pub(super) fn begin_handshake(&mut self) {
        let (Some(settings), Some(stream)) = (self.driver.tls_settings.take(), self.stream.take())
        else {
            let now = self.now();
            let cause = smtp_proto::Cause::Settings("there are no TLS settings".into());
            self.driver.handle_tls_failed(now, cause);
            return;
        };
        // Its deadline holds for all of it.
        self.write_by = None;
        let connector = tokio_rustls::TlsConnector::from(settings.config.clone());
        let tls = connector.connect(settings.name.clone(), stream.into_plain());
        self.handshake = Some(Box::new(Handshake { tls, settings }));
    }

    /// Ready when it has ended.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut handshake) = self.handshake.take() else {
            return Poll::Pending;
        };
        let Poll::Ready(result) = Pin::new(&mut handshake.tls).poll(cx) else {
            self.handshake = Some(handshake);
            return Poll::Pending;
        };
        // The handshake has read.
        self.heard = Instant::now();
        let now = self.now();
        match result {
            Ok(stream) => {
                let (info, facts) = handshake.settings.established(stream.get_ref().1);
                self.driver.encrypted(info);
                self.stream = Some(Stream::encrypted(stream));
                self.driver.handle_tls_established(now, facts);
            }
            Err(error) => match error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            {
                Some(error) => {
                    self.driver
                        .handle_tls_failed(now, handshake.settings.cause(error));
                }
                None => self.driver.lose(now, error),
            },
        }
        Poll::Ready(())
    }
}
