//! The numbers that a `SockMan` reports about itself and its connections, for monitoring and for
//! tests.
//!
//! The values are plain data, usable on any thread, without a lock.

pub use crate::engine::connection::{ConnectionInfo, Direction, HangUp};

/// The numbers of a [`SockMan`](crate::SockMan): what exists now, and what happened so far.
/// [`SockMan::stats`](crate::SockMan::stats) returns this struct.
///
/// `connections` and `listeners` are current numbers. The other fields are counters, which only
/// grow. A restart of the threads does not reset a counter. The fields are read one after the other
/// without a lock. An event between two reads may appear in one field and not in the other.
///
/// # Examples
///
/// ```
/// fn print(sockman: &sockman::SockMan) {
///     let stats = sockman.stats();
///     println!("{} connections, {} passes", stats.connections, stats.passes);
/// }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of connections that exist now, connects under way included.
    pub connections: usize,
    /// The number of listeners that exist now.
    pub listeners: usize,
    /// The number of passes of the loop.
    pub passes: u64,
    /// The number of sweeps over all connections.
    pub sweeps: u64,
    /// The number of events that the poller reported.
    pub events: u64,
    /// The number of turns of single connections.
    pub turns: u64,
    /// The number of connections that listeners and the I2P-accept thread accepted. The number
    /// includes connections that the handler refused.
    pub accepted: u64,
    /// The number of connects that succeeded.
    pub connected: u64,
    /// The number of connections that were closed. It includes connects that were closed before
    /// their outcome. No field counts the connects that failed.
    pub closed: u64,
    /// The number of times that a listener paused because a resource (descriptors, buffers) ran
    /// out, or because its accepts failed for another reason that persists.
    pub accept_pauses: u64,
    /// The number of callbacks that panicked.
    pub panics: u64,
}
