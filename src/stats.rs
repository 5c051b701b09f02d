//! The numbers that a `SockMan` reports about itself and its connections, for monitoring and for
//! tests.
//!
//! Plain data, usable on any thread, without a lock.

pub use crate::engine::connection::{ConnectionInfo, Direction};

/// The numbers of a [`SockMan`](crate::SockMan): what exists now, and what happened so far.
/// Returned by [`SockMan::stats`](crate::SockMan::stats).
///
/// `connections` and `listeners` are current numbers. The other fields are counters, which only
/// grow. A restart of the threads does not reset a counter. The fields are read one after the other
/// without a lock. An event between two reads may appear in one field and not in the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that exist now, connects under way included.
    pub connections: usize,
    /// Listeners that exist now.
    pub listeners: usize,
    /// Passes of the loop.
    pub passes: u64,
    /// Sweeps over all connections.
    pub sweeps: u64,
    /// Events that the poller reported.
    pub events: u64,
    /// Turns of single connections.
    pub turns: u64,
    /// Connections that listeners and the I2P-accept thread accepted. The number includes
    /// connections that the handler refused.
    pub accepted: u64,
    /// Connects that succeeded.
    pub connected: u64,
    /// Connections closed. The number includes connects that were closed before their outcome. No
    /// field counts the connects that failed.
    pub closed: u64,
    /// How often a listener paused because a resource (descriptors, buffers) ran out.
    pub accept_pauses: u64,
    /// Callbacks that panicked.
    pub panics: u64,
}
