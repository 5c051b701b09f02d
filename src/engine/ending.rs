//! The ends of connections: those to report to the embedder, the timers of those that finish, and
//! the end of all of them before the threads end.
//!
//! This module belongs to the socket thread. No lock is held while the handler is called.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    connection::ConnectionId,
    context::Context,
    slot::OpenSince,
    state::{Ended, State},
};

/// How long a pass reports ends, at most. The next pass, which follows without a wait, reports the
/// rest.
const LONGEST_REPORT: Duration = Duration::from_millis(1);

/// The ends of connections.
#[derive(Default)]
pub(crate) struct Ending {
    /// The connections that are closed and whose end is not reported yet, in the order of the
    /// closes. Interrupts and restarts keep the list.
    unreported: VecDeque<(ConnectionId, Option<State>)>,
    /// When the connections that finish are closed at the latest.
    timers: BTreeSet<(Instant, ConnectionId)>,
    /// The time of each connection in `timers`.
    until: BTreeMap<ConnectionId, Instant>,
    drain: Option<Drain>,
}

/// The end of all connections, after which the threads end.
#[derive(Debug, Clone, Copy)]
struct Drain {
    /// When all connections are closed at the latest.
    until: Option<Instant>,
    /// Whether that time has passed.
    is_late: bool,
}

impl Ending {
    /// Adds a connection whose end is to be reported, with its state.
    pub(crate) fn add(&mut self, id: ConnectionId, state: Option<State>) {
        self.clear_timer(id);
        self.unreported.push_back((id, state));
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
            let Some((id, state)) = self.unreported.pop_front() else { return };
            let ended = Ended(state);
            context.guard(id, || context.handler().place_closed(context.sockman, id, ended));
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
        let drain = self.drain.filter(|drain| !drain.is_late).and_then(|drain| drain.until);
        self.timers.first().map(|(at, _)| *at).into_iter().chain(drain).min()
    }

    /// Closes the connections whose timers have expired, or all if the time of the drain is over.
    pub(crate) fn close_late(&mut self, context: &Context<'_>, now: Instant) {
        if let Some(drain) = &mut self.drain {
            drain.is_late |= drain.until.is_some_and(|until| until <= now);
            if drain.is_late {
                for id in context.shared().connections.ids() {
                    context.shared().close(id);
                }
            }
        }
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.clear_timer(id);
            log::debug!(
                target: "sockman::net",
                "closing connection {id}, which finishes: its time is over"
            );
            context.shared().close(id);
        }
    }

    /// Begins to end all connections. A second call can only bring the end forward.
    pub(crate) fn drain(&mut self, until: Option<Instant>) {
        let before = self.drain.and_then(|drain| drain.until);
        let until = before.into_iter().chain(until).min();
        self.drain = Some(Drain { until, is_late: false });
    }

    /// Ends the drain, and with it the threads, when all connections are closed and their ends are
    /// reported. `open` tells whether the marks of all closes were taken.
    pub(crate) fn end_drain(&mut self, context: &Context<'_>, open: OpenSince) {
        let Some(drain) = self.drain else { return };
        let shared = context.shared();
        // At the deadline, a place that a blocking connect holds may be left.
        let is_empty = drain.is_late || shared.connections.count() == 0;
        if !is_empty || self.has_unreported() {
            return;
        }
        if open.is_current(context) {
            if shared.drained() {
                self.drain = None;
            } else {
                // The next pass closes the connection that was added, if the time is over.
                shared.inbox.notify();
            }
        } else if shared.connections.told_closes().is_some() {
            // The last close was counted while the marks were taken, so its request for a pass may
            // be taken too.
            shared.inbox.notify();
        }
    }
}
