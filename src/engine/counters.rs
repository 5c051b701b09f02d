//! The counters behind [`Stats`].
//!
//! Each counter is written by one kind of thread and read by any; no lock.

use super::map::ConnectionMap;
use crate::{
    stats::Stats,
    sys::sync::atomic::{AtomicU64, Ordering},
};

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
