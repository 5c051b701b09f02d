//! The attempts that the socket thread drives: the queue of those to step, their timers, and the
//! report of their outcomes.
//!
//! This module belongs to the socket thread. It takes the connection map's mutex for a moment. No
//! lock is held while the handler is called. An attempt without an event or an expired timer costs
//! no time in a pass.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::{
    announce::announce,
    attempt::Attempt,
    connection::Connection,
    context::Context,
    map::Over,
    slab::{Key, Slab, Token},
    state::Place,
};
use crate::{
    dial::{ConnectError, Step},
    sys::{
        Poller, Readiness,
        passing::{PAUSE, passes},
    },
};

/// The attempts that the socket thread drives.
#[derive(Debug)]
pub(crate) struct Connecting {
    slots: Slab<AttemptSlot>,
    /// The attempts to step: new, cancelled, with an event, or with an expired timer. Each is in
    /// the queue at most once.
    due: VecDeque<Key>,
    timers: BTreeSet<(Instant, Key)>,
}

#[derive(Debug)]
struct AttemptSlot {
    attempt: Box<Attempt>,
    is_due: bool,
    /// The time of the attempt's entry in `timers`.
    timer: Option<Instant>,
}

/// The result of stepping the next attempt.
pub(crate) enum Stepped {
    /// The queue is empty.
    NoneIsDue,
    /// The attempt waits for something, or was closed.
    GoesOn,
    IsOver(Completed),
}

/// An attempt that is over, and its outcome.
pub(crate) struct Completed {
    pub(crate) attempt: Box<Attempt>,
    pub(crate) outcome: Result<(), ConnectError>,
}

impl Connecting {
    pub(crate) fn new() -> Connecting {
        Connecting { slots: Slab::new(), due: VecDeque::new(), timers: BTreeSet::new() }
    }

    /// Adds an attempt that another thread began, and lists it. The attempt's next step returns
    /// what the attempt waits for.
    pub(crate) fn add(&mut self, attempt: Box<Attempt>) {
        if attempt.connection.is_closed() {
            return;
        }
        let connection = Arc::clone(&attempt.connection);
        let slot = AttemptSlot { attempt, is_due: false, timer: None };
        let Some(key) = self.slots.insert(slot) else {
            log::error!(
                target: "sockman::net",
                "cannot drive the connect {}: every slot is taken", connection.id
            );
            return;
        };
        connection.set_token(Some(Token::Attempt(key)));
        self.list(key);
    }

    /// Puts an attempt into the queue. The attempt is stepped in this pass, or in a later pass if
    /// the queue is longer than a batch.
    pub(crate) fn list(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(key) {
            if !slot.is_due {
                slot.is_due = true;
                self.due.push_back(key);
            }
        }
    }

    /// Puts an attempt that an event reported into the queue, if the attempt awaits the event.
    pub(crate) fn heed(&mut self, key: Key, event: &Readiness) {
        if self.slots.get_mut(key).is_some_and(|slot| slot.attempt.heeds(event)) {
            self.list(key);
        }
    }

    /// Puts an attempt whose interrupt was set into the queue. An attempt that has not been added
    /// yet checks its interrupt in its first step.
    pub(crate) fn cancel(&mut self, connection: &Connection) {
        if let Some(Token::Attempt(key)) = connection.token() {
            self.list(key);
        }
    }

    /// Puts the attempts whose timers have expired into the queue.
    pub(crate) fn list_expired(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            if let Some(slot) = self.slots.get_mut(key) {
                slot.timer = None;
            }
            self.list(key);
        }
    }

    /// Returns the length of the list of those to step.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn listed(&self) -> usize {
        self.due.len()
    }

    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Returns when the next timer expires.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Steps the next attempt of the queue.
    pub(crate) fn step_next(&mut self, poller: &dyn Poller, now: Instant) -> Stepped {
        let Some(key) = self.due.pop_front() else { return Stepped::NoneIsDue };
        let Some(slot) = self.slots.get_mut(key) else { return Stepped::GoesOn };
        slot.is_due = false;
        // The attempt was closed, and the mark of the close comes later. A step could retry the
        // connect, and the peer would see the retry.
        if slot.attempt.connection.is_closed() {
            return Stepped::GoesOn;
        }
        let outcome = match slot.step(key, poller, now) {
            Ok(Waiting::Until(at)) => {
                self.set_timer(key, at);
                return Stepped::GoesOn;
            }
            Ok(Waiting::IsOver) => Ok(()),
            Err(error) => Err(error),
        };
        match self.remove(key) {
            Some(attempt) => Stepped::IsOver(Completed { attempt, outcome }),
            None => Stepped::GoesOn,
        }
    }

    fn set_timer(&mut self, key: Key, at: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let Some(before) = std::mem::replace(&mut slot.timer, at) {
            self.timers.remove(&(before, key));
        }
        if let Some(at) = at {
            self.timers.insert((at, key));
        }
    }

    /// Removes an attempt that is over or was closed.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Box<Attempt>> {
        self.set_timer(key, None);
        let slot = self.slots.remove(key)?;
        slot.attempt.connection.set_token(None);
        // The list may name attempts that are gone. While no thread runs, nothing else shortens it.
        if self.due.len() / 2 > self.slots.len() {
            self.due.retain(|key| self.slots.get_mut(*key).is_some());
        }
        Some(slot.attempt)
    }

    /// Removes every attempt that was closed. The caller ensures that no thread runs.
    pub(crate) fn remove_closed(&mut self) {
        let closed: Vec<Key> = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| slot.attempt.connection.is_closed())
            .map(|(key, _)| key)
            .collect();
        for key in closed {
            self.remove(key);
        }
    }
}

enum Waiting {
    IsOver,
    /// The attempt waits for the socket, until this time at the latest.
    Until(Option<Instant>),
}

impl AttemptSlot {
    fn step(
        &mut self,
        key: Key,
        poller: &dyn Poller,
        now: Instant,
    ) -> Result<Waiting, ConnectError> {
        let step = self.attempt.step(now)?;
        let deadline = self.attempt.deadline();
        match step {
            Step::WaitUntil(at) => {
                Ok(Waiting::Until(Some(deadline.map_or(at, |deadline| deadline.min(at)))))
            }
            Step::WaitForSocket(_) => {
                match self.attempt.watch(poller, Token::Attempt(key).encode()) {
                    Err(error) if passes(&error) => {
                        let at = now + PAUSE;
                        Ok(Waiting::Until(Some(deadline.map_or(at, |d| d.min(at)))))
                    }
                    Err(error) => Err(self.attempt.failed("poll", error)),
                    Ok(()) => Ok(Waiting::Until(deadline)),
                }
            }
            Step::Connected => {
                // The connection is registered anew, with a token of its own. The new registration
                // reports everything that has happened on the socket up to then.
                match self.attempt.unwatch(poller) {
                    Ok(()) => Ok(Waiting::IsOver),
                    Err(error) => Err(self.attempt.failed("poll", error)),
                }
            }
        }
    }
}

impl Completed {
    /// Reports the outcome to the handler. Returns the connection if it has to be polled.
    pub(crate) fn announce(self, context: &Context<'_>, now: Instant) -> Option<Arc<Connection>> {
        let Completed { attempt, outcome } = self;
        let (sockman, shared) = (context.sockman, context.shared());
        let id = attempt.connection.id;
        let Over { value } = match &outcome {
            Ok(()) => shared.connected(id, now),
            Err(_) => shared.failed_to_connect(id),
        }?;
        attempt.log(outcome.as_ref().copied());
        let to = attempt.to().clone();
        let Attempt { connection, .. } = *attempt;
        // A failed attempt closes its descriptor before the callback, which may need the descriptor
        // for the next connect.
        let outcome = outcome.map(|()| connection);
        let connection = outcome.as_ref().ok().map(Arc::clone);
        if let Some(connection) = &connection {
            shared.counters.connected.add(1);
            // The outcome is reported in any case, even if the callback panics.
            shared.announced(connection);
        }
        let handler = context.handler();
        announce(sockman, id, connection, |state| match outcome {
            Ok(connection) => {
                let place = Place { connection: &connection, state };
                handler.place_connected(sockman, id, place, &to, connection.me(), value)
            }
            Err(error) => {
                match value {
                    None => handler.event_connect_completed(sockman, id, &to, Err(error)),
                    Some(value) => {
                        handler.event_connect_completed_with(sockman, id, &to, Err(error), value);
                    }
                }
                true
            }
        })
    }
}
