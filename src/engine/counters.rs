//! The counters behind [`Stats`].
//!
//! Any thread may read the counters. Only the socket thread writes most of the counters, with
//! [`add_owned`](Counter::add_owned). Any thread may write the other counters, with
//! [`add`](Counter::add). Takes no lock.

use super::map::ConnectionMap;
use crate::{
    stats::Stats,
    sys::sync::atomic::{AtomicU64, Ordering},
};

/// The counters of one `SockMan`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) passes: Counter,
    pub(crate) sweeps: Counter,
    pub(crate) events: Counter,
    pub(crate) turns: Counter,
    pub(crate) accepted: Counter,
    /// The number of connections that the I2P-accept thread accepted.
    pub(crate) accepted_elsewhere: Counter,
    pub(crate) connected: Counter,
    pub(crate) accept_pauses: Counter,
    pub(crate) panics: Counter,
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
            panics: self.panics.value(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter. Any thread may call this method.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds to a counter that only the socket thread writes. The addition needs no locked
    /// instruction.
    pub(crate) fn add_owned(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
