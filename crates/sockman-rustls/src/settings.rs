//! The settings: plain values.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// Settings of a [`Tls`](crate::Tls).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use sockman_rustls::TlsSettings;
///
/// let settings =
///     TlsSettings::default().handshake_timeout(Duration::from_secs(3)).max_handshakes(1000);
/// # let _ = settings;
/// ```
#[derive(Clone)]
pub struct TlsSettings {
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_handshakes: usize,
    pub(crate) send_buffer: usize,
    pub(crate) linger: Duration,
    clock: Option<Arc<dyn Fn() -> Instant + Send + Sync>>,
}

impl Default for TlsSettings {
    fn default() -> TlsSettings {
        TlsSettings {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 256,
            send_buffer: 64 * 1024,
            linger: Duration::from_secs(3),
            clock: None,
        }
    }
}

impl TlsSettings {
    /// Sets how long a handshake may take, from the accept or the connect on, however the peer
    /// spreads its bytes. Then the connection is closed, and
    /// [`handshake_failed`](crate::TlsHandler::handshake_failed) gets
    /// [`HandshakeTimeout`](crate::TlsError::HandshakeTimeout). Default: 10 seconds.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> TlsSettings {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how many accepted connections may be in their handshake at a time. A client beyond it
    /// is closed when it is accepted, before it costs memory or a signature:
    /// [`Tls::refused`](crate::Tls::refused) counts these clients. Outbound handshakes do not
    /// count. With 0, every client is closed. Default: 256.
    ///
    /// [`Options::max_connections`](sockman::Options::max_connections) limits the connections
    /// altogether.
    #[must_use]
    pub fn max_handshakes(mut self, most: usize) -> TlsSettings {
        self.max_handshakes = most;
        self
    }

    /// Sets how many encrypted bytes may wait in a connection for the kernel. At this number,
    /// [`TlsLink::write`](crate::TlsLink::write) takes nothing more, and the connection is not
    /// read. A handshake's messages and alerts come on top: a few kilobytes, and the certificates.
    /// Values below 1 count as 1. Default: 64 KiB, about four records.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> TlsSettings {
        self.send_buffer = bytes.max(1);
        self
    }

    /// Sets how long a connection that has failed stays open, so that the peer receives the alert
    /// and not a reset that overtakes it. A connection that the handler refused in
    /// [`secured`](crate::TlsHandler::secured) stays open for the same time at most. The peer can
    /// end it earlier. Default: 3 seconds.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> TlsSettings {
        self.linger = linger;
        self
    }

    /// Sets the clock of the handshake time-out. Default: [`Instant::now`]. Tests over the doubles
    /// of sockman's feature `testing` pass the clock of their network.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> Instant + Send + Sync + 'static) -> TlsSettings {
        self.clock = Some(Arc::new(clock));
        self
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.as_ref().map_or_else(Instant::now, |clock| clock())
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("handshake_timeout", &self.handshake_timeout)
            .field("max_handshakes", &self.max_handshakes)
            .field("send_buffer", &self.send_buffer)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}
