//! The connections that the socket thread watches, and which of them are due.
//!
//! This module owns the poller and the slots. It belongs to the socket thread, takes no lock and
//! makes no callback.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connection::Connection,
    due::Due,
    shared::Shared,
    slab::{Key, Slab, Token},
    slot::Slot,
    state::{State, States},
};
use crate::sys::{self, Poller, Readiness, Sock};

/// The poller, and a slot for each connection that the poller watches.
pub(crate) struct PollSet {
    poller: Box<dyn Poller>,
    slots: Slab<Slot>,
    pub(crate) states: States,
    pub(crate) due: Due,
    /// Whether listed slots hold answers of their hooks.
    holds_answers: bool,
    /// Registrations that failed. The turn of the connection reports the failure.
    failed: BTreeMap<Key, io::Error>,
}

impl PollSet {
    pub(crate) fn new(poller: Box<dyn Poller>) -> PollSet {
        PollSet {
            poller,
            slots: Slab::new(),
            states: States::default(),
            due: Due::new(),
            holds_answers: false,
            failed: BTreeMap::new(),
        }
    }

    pub(crate) fn poller(&self) -> &dyn Poller {
        &*self.poller
    }

    pub(crate) fn poll(
        &mut self,
        events: &mut Vec<Readiness>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        sys::poll(&mut *self.poller, events, timeout)
    }

    pub(crate) fn register_listener(&self, sock: &dyn Sock, key: Key) -> io::Result<()> {
        self.poller.register(sock, Token::Listener(key).encode())
    }

    pub(crate) fn deregister_listener(&self, sock: &dyn Sock) -> io::Result<()> {
        self.poller.deregister(sock)
    }

    #[inline]
    pub(crate) fn slot(&mut self, key: Key) -> Option<(&mut Slot, &mut Option<State>)> {
        self.slots.get_mut(key).map(|slot| (slot, self.states.at(key)))
    }

    /// Returns the slot of a key for its turn, its state, and the list of failed registrations.
    #[allow(clippy::type_complexity, reason = "a struct for the caller's three names is longer")]
    #[inline]
    pub(crate) fn begin_turn(
        &mut self,
        key: Key,
    ) -> Option<(&mut Slot, &mut Option<State>, &mut BTreeMap<Key, io::Error>)> {
        let slot = self.slots.get_mut(key)?;
        self.due.turn_begins(&mut slot.listed);
        Some((slot, self.states.at(key), &mut self.failed))
    }

    /// Puts an event into the latches of its slot, and lists the connection if the event gives it a
    /// turn. The event is dropped if the slot was freed, even if another connection has taken the slot.
    #[inline]
    pub(crate) fn latch(&mut self, key: Key, event: &Readiness) {
        if let Some(slot) = self.slots.get_mut(key) {
            if slot.latch(event) {
                self.due.list_as(slot.is_heavy(), key, &mut slot.listed);
            }
        }
    }

    /// Fills a slot and then registers the socket, which stays registered until it is closed. A
    /// connection that was closed meanwhile is skipped. The slot takes over the state, if there is
    /// one.
    pub(crate) fn add(&mut self, shared: &Shared, connection: &Arc<Connection>) {
        if connection.is_closed() {
            return;
        }
        // The first turn, which every new connection gets, answers an earlier wake.
        connection.clear_woken();
        let Some(key) = self.slots.insert(Slot::new(Arc::clone(connection))) else {
            log::error!(
                target: "sockman::net",
                "cannot poll connection {}: every slot is taken", connection.id
            );
            return;
        };
        if let Some(state) = shared.take_state(connection.id) {
            self.states.put(key, state);
        }
        let token = Token::Connection(key);
        connection.set_token(Some(token));
        let registered = self.poller.register(connection.sock(), token.encode());
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let Err(error) = registered {
            log::warn!(
                target: "sockman::net",
                "cannot watch connection {} for readiness: {error}", connection.id
            );
            slot.latch_failed_registration();
            self.failed.insert(key, error);
        }
        self.due.list(key, &mut slot.listed);
    }

    /// Makes the directions that lacked memory or buffers try again in the next turn.
    pub(crate) fn retry_lacking(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.retry_lacking();
            self.due.list(key, &mut slot.listed);
        }
    }

    /// Gives the connection a turn in which both hooks are asked.
    pub(crate) fn wake(&mut self, connection: &Connection) {
        // A connection without a slot is closed, or not yet activated. The first turn of a
        // connection that is activated later answers the wake.
        let Some(key) = connection.key() else { return };
        // The flag is cleared before the hooks are asked, so that a later wake makes a new mark.
        connection.clear_woken();
        if let Some(slot) = self.slots.get_mut(key) {
            slot.want_turn();
            self.due.list(key, &mut slot.listed);
        }
    }

    /// Begins the orderly end of a connection. One without a slot begins it when it gets a slot.
    pub(crate) fn finish(&mut self, connection: &Connection) {
        let Some(key) = connection.key() else { return };
        if let Some(slot) = self.slots.get_mut(key) {
            slot.begin_finish();
            self.due.list(key, &mut slot.listed);
        }
    }

    /// Begins the orderly end of all connections.
    pub(crate) fn finish_all(&mut self) {
        for (key, slot) in self.slots.iter_mut() {
            slot.begin_finish();
            self.due.list(key, &mut slot.listed);
        }
    }

    /// Removes the connection at this position from the list of those that are due.
    pub(crate) fn strike(&mut self, position: usize) {
        let slot = self.due.at(position).and_then(|key| self.slots.get_mut(key));
        self.due.strike(position, slot.map(|slot| &mut slot.listed));
    }

    /// Begins a slice of turns. Begins a round, too, and returns `true`, unless one is under way.
    pub(crate) fn begin_slice(&mut self, now: Instant) -> bool {
        let begins_round = self.due.begin_slice(now);
        self.holds_answers |= begins_round;
        begins_round
    }

    /// Makes the connections that are listed ask their hooks anew in their turns, because the
    /// embedder's answers are valid for one pass only.
    pub(crate) fn forget_answers(&mut self) {
        if mem::take(&mut self.holds_answers) {
            for key in self.due.listed() {
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.forget_answers();
                }
            }
        }
    }

    /// Returns an iterator over every connection, their states, and the lists of those that are
    /// due. The caller may ask the hooks.
    pub(crate) fn slots_and_due(
        &mut self,
    ) -> (impl Iterator<Item = (Key, &mut Slot)>, &mut States, &mut Due) {
        self.holds_answers = true;
        (self.slots.iter_mut(), &mut self.states, &mut self.due)
    }

    /// Frees the slot of a connection, and returns the state that it had.
    pub(crate) fn remove(&mut self, connection: &Connection) -> Option<State> {
        let key = connection.key()?;
        // A closed socket leaves the poller by itself. The stream of this one stays open.
        if connection.is_taken_out() {
            if let Err(error) = self.poller.deregister(connection.sock()) {
                log::debug!(
                    target: "sockman::net",
                    "cannot stop watching connection {}: {error}", connection.id
                );
            }
        }
        connection.set_token(None);
        self.slots.remove(key);
        self.failed.remove(&key);
        self.states.take(key)
    }

    /// Removes every connection that was closed. Their states wait for the report of the end. The
    /// caller ensures that no thread runs.
    pub(crate) fn remove_closed(&mut self, shared: &Shared) {
        let closed: Vec<Arc<Connection>> = self
            .slots
            .iter_mut()
            .filter(|(_, slot)| slot.connection.is_closed())
            .map(|(_, slot)| Arc::clone(&slot.connection))
            .collect();
        for connection in closed {
            shared.keep_state(connection.id, self.remove(&connection));
        }
    }
}
