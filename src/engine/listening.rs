//! The listeners on the socket thread's side, and those of them that are due.
//!
//! This module belongs to the socket thread and takes no lock. No pass looks at a listener that is
//! not due, so 10,000 listeners without clients cost a pass as much as none.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{
    accepting::Accepting,
    connection::Connection,
    context::Context,
    listener::Listener,
    poll_set::PollSet,
    slab::{Key, Slab},
};

/// The listeners of the poll set.
#[derive(Debug)]
pub(crate) struct Listening {
    slots: Slab<ListenerSlot>,
    /// The listeners that are due, each once: those that are latched, even if they are paused, and
    /// those that the poller does not watch yet. The first one accepts first.
    due: VecDeque<Key>,
    /// How many listeners the passes have looked at.
    #[cfg(test)]
    looked_at: usize,
}

#[derive(Debug)]
struct ListenerSlot {
    accepting: Accepting,
    is_listed: bool,
}

impl Listening {
    pub(crate) fn new() -> Listening {
        Listening {
            slots: Slab::new(),
            due: VecDeque::new(),
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// Adds a listener, unless it is stopped. Lists it if the poller refuses it. Returns `false` if
    /// every slot is taken.
    pub(crate) fn add(
        &mut self,
        poll_set: &PollSet,
        listener: &Arc<Listener>,
        now: Instant,
    ) -> bool {
        if listener.is_stopped() {
            return true;
        }
        let accepting = Accepting::new(Arc::clone(listener));
        let Some(key) = self.slots.insert(ListenerSlot { accepting, is_listed: false }) else {
            return false;
        };
        if let Some(slot) = self.slots.get_mut(key) {
            slot.accepting.register(poll_set, key, now);
            if slot.accepting.is_due() {
                self.list(key);
            }
        }
        true
    }

    /// Latches a listener that an event reported.
    pub(crate) fn latch(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.accepting.latch();
            self.list(key);
        }
    }

    fn list(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(key).filter(|slot| !slot.is_listed) {
            slot.is_listed = true;
            self.due.push_back(key);
        }
    }

    /// Returns the earliest time at which a listener that is due may go on. Returns `None` if none
    /// is due.
    pub(crate) fn next_accept(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut earlier = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for key in &self.due {
            let Some(ListenerSlot { accepting, .. }) = self.slots.get_mut(*key) else { continue };
            if accepting.is_due() {
                earlier(accepting.paused_until(now).unwrap_or(now));
            }
        }
        next
    }

    /// Accepts at most one batch for each listener that is due. A listener that took a place goes
    /// behind the others, so that at the connection limit a flooded listener does not take every
    /// place that becomes free, however many passes come between.
    pub(crate) fn accept(&mut self, context: &Context<'_>, poll_set: &mut PollSet, now: Instant) {
        // The list is: those to come, those that took no place, those that took one.
        let mut without_place = 0;
        for to_come in (0..self.due.len()).rev() {
            // A listener stays listed until its batch is over, also if a callback panics.
            let Some(key) = self.due.front().copied() else { return };
            let mut took_place = false;
            let is_due = self.slots.get_mut(key).is_some_and(|slot| {
                slot.accepting.register(poll_set, key, now);
                slot.accepting.accept_batch(context, now, |connection: Arc<Connection>| {
                    took_place = true;
                    poll_set.add(context.shared(), &connection);
                });
                slot.is_listed = slot.accepting.is_due();
                slot.is_listed
            });
            #[cfg(test)]
            (self.looked_at += 1);
            self.due.pop_front();
            if is_due && took_place {
                self.due.push_back(key);
            } else if is_due {
                self.due.insert(to_come + without_place, key);
                without_place += 1;
            }
        }
    }

    /// Removes the listeners that were stopped.
    pub(crate) fn remove_stopped(&mut self, poll_set: &PollSet) {
        self.slots.retain(|slot| {
            let listener = slot.accepting.listener();
            // The flag is read once: a listener that leaves the list is also deregistered.
            let is_stopped = listener.is_stopped();
            if is_stopped {
                // An adopted listener may stay open in another process. The poller would then
                // continue to report the listener's clients.
                if let Err(error) = poll_set.deregister_listener(listener.sock()) {
                    log::debug!(
                        target: "sockman::net",
                        "cannot stop watching the listener on {}: {error}", listener.address()
                    );
                }
            }
            !is_stopped
        });
        self.due.retain(|key| self.slots.get_mut(*key).is_some());
    }

    /// Leaves no slot for further listeners.
    #[cfg(all(test, feature = "testing"))]
    pub(crate) fn fill(&mut self) {
        self.slots.limit_to_current();
    }

    #[cfg(test)]
    pub(crate) fn looked_at(&self) -> usize {
        self.looked_at
    }
}
