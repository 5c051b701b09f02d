//! The time up to which timers may end in `event_io_loop_completed_for_all`.
//!
//! Everything that had arrived by this time has been delivered. Data that arrived later may still
//! wait, so a timer that ends later has to wait for the next pass. The limit belongs to the socket
//! thread, and takes no lock.

use std::{cell::Cell, time::Instant};

#[cfg(not(shuttle))]
thread_local! {
    static LIMIT: Cell<Option<Instant>> = const { Cell::new(None) };
}

#[cfg(shuttle)]
shuttle::thread_local! {
    static LIMIT: Cell<Option<Instant>> = Cell::new(None);
}

/// Keeps the limit set for code on this thread until this value is dropped.
pub(crate) struct TimerLimit {
    before: Option<Instant>,
}

impl TimerLimit {
    pub(crate) fn set(at: Instant) -> TimerLimit {
        TimerLimit { before: LIMIT.with(|limit| limit.replace(Some(at))) }
    }
}

impl Drop for TimerLimit {
    fn drop(&mut self) {
        LIMIT.with(|limit| limit.set(self.before));
    }
}

/// Returns `now`, or the limit if the limit is earlier. Outside of the callback there is no limit.
pub(crate) fn limited(now: Instant) -> Instant {
    LIMIT.with(Cell::get).map_or(now, |limit| limit.min(now))
}
