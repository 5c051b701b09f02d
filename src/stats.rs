//! Counters of one `SockMan`, for monitoring and for tests that prove that nothing spins.
//!
//! Each counter is written by one kind of thread and read by any; no lock.

use crate::{
    connection::ConnectionMap,
    sync::atomic::{AtomicU64, Ordering},
};

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

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) passes: Counter,
    pub(crate) sweeps: Counter,
    pub(crate) events: Counter,
    pub(crate) turns: Counter,
    pub(crate) accepted: Counter,
    /// By the I2P-accept thread.
    pub(crate) accepted_elsewhere: Counter,
    pub(crate) connected: Counter,
    pub(crate) accept_pauses: Counter,
    pub(crate) panics: Counter,
    pub(crate) panics_elsewhere: Counter,
}

impl Counters {
    pub(crate) fn snapshot(&self, connections: &ConnectionMap, listeners: usize) -> Stats {
        Stats {
            connections: connections.count(),
            listeners,
            passes: self.passes.value(),
            sweeps: self.sweeps.value(),
            events: self.events.value(),
            turns: self.turns.value(),
            accepted: self.accepted.value() + self.accepted_elsewhere.value(),
            connected: self.connected.value(),
            closed: connections.closes(),
            accept_pauses: self.accept_pauses.value(),
            panics: self.panics.value() + self.panics_elsewhere.value(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// From any thread.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// From the socket thread, for counters that no other thread adds to: no locked instruction.
    pub(crate) fn add_owned(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
