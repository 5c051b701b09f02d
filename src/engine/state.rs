//! The state that an embedder keeps for each connection: where it waits, where it lies while the
//! connection is polled, and how a callback reaches it.
//!
//! A state has one owner at a time. Before the connection has its slot, and after a slot was freed
//! without a report, the state is in [`Arriving`], which any thread may use. Its mutex is held for
//! one insert or remove. While the connection has a slot, the state is in [`States`], which belongs
//! to the socket thread and takes no lock. The report of the end takes the state from one of the
//! two, so it comes back once. Only handlers of the layer `stateful` have states.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    hash::BuildHasherDefault,
    sync::{Arc, Weak},
};

use super::{
    connection::{Connection, ConnectionId},
    growth,
    map::IdHasher,
    slab::Key,
};
use crate::{sockman::SockMan, sys::sync::Mutex};

/// The state of one connection.
pub(crate) type State = Box<dyn Any + Send>;

/// A connection and its state, as a callback gets them. Two words are passed in registers, so that
/// a handler without states does not pay for them.
pub struct Place<'a> {
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) state: &'a mut Option<State>,
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("id", &self.connection.id).finish_non_exhaustive()
    }
}

/// The state of a connection that was closed, on its way back to the embedder.
pub struct Ended(pub(crate) Option<State>);

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("has_state", &self.0.is_some()).finish()
    }
}

/// The states of connections without a slot.
#[derive(Default)]
pub(crate) struct Arriving {
    states: Mutex<HashMap<ConnectionId, State, BuildHasherDefault<IdHasher>>>,
}

impl Arriving {
    /// Adds the state of a connection. The caller does this before it announces the connection, so
    /// that whoever reports the end finds the state.
    pub(crate) fn insert(&self, id: ConnectionId, state: State) {
        self.states.lock().insert(id, state);
    }

    pub(crate) fn take(&self, id: ConnectionId) -> Option<State> {
        self.states.lock().remove(&id)
    }
}

/// The states of connections with a slot, by the index of the slot. The list is empty if the
/// handler keeps no states. A slot with a state of its own would cost each connection 16 bytes.
#[derive(Default)]
pub(crate) struct States {
    states: Vec<Option<State>>,
    /// The state of each connection without a state. It stays `None`.
    none: Option<State>,
}

/// The list keeps memory for this many states even if it is empty.
const KEPT_STATES: usize = 1024;

impl States {
    #[inline]
    pub(crate) fn at(&mut self, key: Key) -> &mut Option<State> {
        match self.states.get_mut(key.index()) {
            Some(state) => state,
            None => &mut self.none,
        }
    }

    pub(crate) fn put(&mut self, key: Key, state: State) {
        if let Some(more @ 1..) = (key.index() + 1).checked_sub(self.states.len()) {
            growth::make_room(&mut self.states, more);
            self.states.resize_with(key.index() + 1, || None);
        }
        *self.at(key) = Some(state);
    }

    /// Takes a state. Gives memory at the end of the list back after a peak.
    pub(crate) fn take(&mut self, key: Key) -> Option<State> {
        let state = self.at(key).take();
        while let Some(None) = self.states.last() {
            self.states.pop();
        }
        if self.states.capacity() / 4 > self.states.len().max(KEPT_STATES) {
            self.states.shrink_to(self.states.len() * 2);
        }
        state
    }
}

/// A closure for the state of one connection.
pub(crate) type Run = Box<dyn FnOnce(&SockMan, Place<'_>) + Send>;

/// A closure for the state of one connection, which another thread sent.
pub(crate) struct Visit {
    pub(crate) id: ConnectionId,
    pub(crate) connection: Weak<Connection>,
    pub(crate) run: Run,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit").field("id", &self.id).finish_non_exhaustive()
    }
}
