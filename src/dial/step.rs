//! The outcomes of a step of a connect. The outcomes are plain values.

use std::time::Instant;

use crate::sys::Readiness;

/// What the caller does after a step.
#[derive(Debug)]
pub(crate) enum Step {
    Connected,
    /// The caller steps again when an event comes that the connect awaits, or at the deadline.
    WaitForSocket(Awaits),
    /// The caller steps again at this time.
    WaitUntil(Instant),
}

/// The events that a connect awaits. Other events must not bring its next step. The poller of Windows
/// reports both directions again after each call that would block, so a connect that waits for an
/// answer, and has room to send, would be stepped without end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaits {
    #[default]
    Any,
    /// Data, the end of the stream, or an error.
    #[cfg(any(feature = "i2p", feature = "socks5"))]
    Data,
    /// Room for a send, or an error.
    #[cfg(any(feature = "i2p", feature = "socks5"))]
    Room,
}

impl Awaits {
    /// Returns whether the event is one of those.
    pub(crate) fn heeds(self, event: &Readiness) -> bool {
        match self {
            _ if event.broken || event.write_closed => true,
            Awaits::Any => true,
            #[cfg(any(feature = "i2p", feature = "socks5"))]
            Awaits::Data => event.readable || event.read_closed || event.priority,
            #[cfg(any(feature = "i2p", feature = "socks5"))]
            Awaits::Room => event.writable,
        }
    }
}

/// The socket of a connect to wait on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsOn {
    /// The socket that the connection will use.
    Stream,
    /// The control socket of an I2P session. The number differs for each socket of a connect.
    #[cfg(feature = "i2p")]
    Control(u32),
}
