//! The ends of connections: those to report to the embedder, and the timers of those that finish.
//!
//! This module belongs to the socket thread. No lock is held while the handler is called.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{connection::ConnectionId, context::Context};

/// How long a pass reports ends, at most. The next pass, which follows without a wait, reports the
/// rest.
const LONGEST_REPORT: Duration = Duration::from_millis(1);

/// The ends of connections.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// The connections that are closed and whose end is not reported yet, in the order of the
    /// closes. Interrupts and restarts keep the list.
    unreported: VecDeque<ConnectionId>,
    /// When the connections that finish are closed at the latest.
    timers: BTreeSet<(Instant, ConnectionId)>,
    /// The time of each connection in `timers`.
    until: BTreeMap<ConnectionId, Instant>,
}

impl Ending {
    /// Adds a connection whose end is to be reported.
    pub(crate) fn add(&mut self, id: ConnectionId) {
        self.clear_timer(id);
        self.unreported.push_back(id);
    }

    /// Returns whether an end is not reported yet.
    pub(crate) fn has_unreported(&self) -> bool {
        !self.unreported.is_empty()
    }

    /// Reports the ends to the embedder. Stops after about a millisecond, and at an interrupt.
    ///
    /// # Panics
    ///
    /// Continues the callback's panic under
    /// [`PanicPolicy::Stop`](crate::options::PanicPolicy::Stop). The end counts as reported.
    pub(crate) fn report(&mut self, context: &Context<'_>) {
        if self.unreported.is_empty() {
            return;
        }
        let factory = &context.shared().options.sock_factory;
        let began = factory.now();
        while !context.interrupts.is_interrupted() {
            let Some(id) = self.unreported.pop_front() else { return };
            context.guard(id, || context.handler().event_closed(context.sockman, id));
            if factory.now().saturating_duration_since(began) >= LONGEST_REPORT {
                return;
            }
        }
    }

    /// Sets the time at which a connection that finishes is closed at the latest.
    pub(crate) fn set_timer(&mut self, id: ConnectionId, at: Instant) {
        self.until.insert(id, at);
        self.timers.insert((at, id));
    }

    /// Removes the timer of a connection, if it has one.
    pub(crate) fn clear_timer(&mut self, id: ConnectionId) {
        if let Some(at) = self.until.remove(&id) {
            self.timers.remove(&(at, id));
        }
    }

    /// Returns when the next timer expires.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes a connection whose timer has expired. The caller repeats the call until it returns
    /// `None`.
    pub(crate) fn take_late(&mut self, now: Instant) -> Option<ConnectionId> {
        let (at, id) = self.timers.first().copied()?;
        if at > now {
            return None;
        }
        self.clear_timer(id);
        Some(id)
    }
}
