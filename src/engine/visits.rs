//! The closures that other threads sent to the states of connections.
//!
//! This module belongs to the socket thread. No lock is held while a closure runs or is dropped.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    connection::Connection,
    context::Context,
    poll_set::PollSet,
    state::{Place, Visit},
};

/// How long a pass runs closures, at most. The next pass, which follows without a wait, runs the
/// rest.
const LONGEST_VISITS: Duration = Duration::from_millis(1);

/// The closures that are not run yet. Interrupts and restarts keep them.
#[derive(Debug, Default)]
pub(crate) struct Visits {
    due: VecDeque<Visit>,
    /// The closures whose connection has no slot yet. The mark that brings the slot also brings a
    /// pass, which runs them.
    waiting: Vec<Visit>,
}

impl Visits {
    pub(crate) fn add(&mut self, visit: Visit) {
        self.due.push_back(visit);
    }

    /// Returns whether the next pass must not wait.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Runs the closures, each on the state of its connection, and gives each connection a turn.
    /// Drops those whose connection is closed. Stops after about a millisecond, and at an
    /// interrupt.
    ///
    /// # Panics
    ///
    /// Continues the panic of a closure under
    /// [`PanicPolicy::Stop`](crate::options::PanicPolicy::Stop).
    pub(crate) fn run(&mut self, context: &Context<'_>, connected: &mut PollSet) {
        // A closure that waits was sent before those that are due.
        while let Some(visit) = self.waiting.pop() {
            self.due.push_front(visit);
        }
        if self.due.is_empty() {
            return;
        }
        let factory = &context.shared().options.sock_factory;
        let began = factory.now();
        while !context.interrupts.is_interrupted() {
            let Some(visit) = self.due.pop_front() else { return };
            let connection = visit.connection.upgrade().filter(|found| !found.is_closed());
            match connection {
                Some(connection) if connection.key().is_none() => self.waiting.push(visit),
                Some(connection) => visit_now(context, connected, &connection, visit),
                // The closure may own values whose destructor is the embedder's code.
                None => drop(context.guard(visit.id, || drop(visit.run))),
            }
            if factory.now().saturating_duration_since(began) >= LONGEST_VISITS {
                return;
            }
        }
    }
}

fn visit_now(
    context: &Context<'_>,
    connected: &mut PollSet,
    connection: &Arc<Connection>,
    visit: Visit,
) {
    let Some(key) = connection.key() else { return };
    let id = visit.id;
    context.guard(id, || {
        let state = connected.states.at(key);
        (visit.run)(context.sockman, Place { connection, state });
    });
    // The closure may have changed the answers of the hooks.
    connected.wake(connection);
}
