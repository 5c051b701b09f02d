//! What a `SockMan` reports of itself and of its connections, for monitoring and for tests.

pub use crate::engine::connection::{ConnectionInfo, Direction};

/// What a [`SockMan`](crate::SockMan) has done so far. From [`SockMan::stats`](crate::SockMan::stats).
///
/// The counters only grow, over restarts too, and are read one after the other: they may be one
/// event apart from each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections now, the connects under way included.
    pub connections: usize,
    /// Listeners now.
    pub listeners: usize,
    /// Passes of the loop.
    pub passes: u64,
    /// Sweeps over all connections.
    pub sweeps: u64,
    /// Events that the poller told of.
    pub events: u64,
    /// Turns of single connections.
    pub turns: u64,
    /// Connections that listeners, and the I2P-accept thread, accepted, the refused ones included.
    pub accepted: u64,
    /// Connects that succeeded.
    pub connected: u64,
    /// Connections closed, connects that were closed before their outcome included. (Connects that
    /// failed are counted nowhere.)
    pub closed: u64,
    /// Times that a listener paused because a resource ran out (descriptors, buffers).
    pub accept_pauses: u64,
    /// Callbacks that panicked.
    pub panics: u64,
}
