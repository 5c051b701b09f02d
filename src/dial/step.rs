//! What a step of a connect comes to. Plain values.

use std::time::Instant;

/// What to do after a step.
#[derive(Debug)]
pub(crate) enum Step {
    Connected,
    /// Step again when something happens on the socket, or at the deadline.
    WaitForSocket,
    /// Step again at this time.
    WaitUntil(Instant),
}

/// Which of the sockets of a connect to wait on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsOn {
    /// The one that becomes the connection's.
    Stream,
    /// An I2P session's.
    #[cfg(feature = "i2p")]
    Control,
}
