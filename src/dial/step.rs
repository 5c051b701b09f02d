//! The outcomes of a step of a connect. The outcomes are plain values.

use std::time::Instant;

/// What the caller does after a step.
#[derive(Debug)]
pub(crate) enum Step {
    Connected,
    /// The caller steps again when something happens on the socket, or at the deadline.
    WaitForSocket,
    /// The caller steps again at this time.
    WaitUntil(Instant),
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
