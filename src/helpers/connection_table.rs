//! An optional helper: what the embedder knows of each connection, by id.
//!
//! Owned by the embedder, used from any thread. Its one lock is held for a look-up, never while
//! anything is called.

use std::{collections::HashMap, fmt, hash::BuildHasherDefault, sync::Arc};

use parking_lot::RwLock;

use crate::engine::{connection::ConnectionId, map::IdHasher};

/// What you keep for each connection, by its id.
///
/// Nearly every handler has such a table. The connection is entered before its first callback: in
/// [`event_new_connection_accepted`](crate::EventHandler::event_new_connection_accepted), between
/// [`connect`](crate::SockMan::connect) and [`activate`](crate::NewConnection::activate), or in
/// [`event_connect_completed`](crate::EventHandler::event_connect_completed). Every callback looks
/// it up. Whoever closes the connection removes it, and so does who enters one and then refuses it.
/// Values are handed out as [`Arc`]s: no lock is held while you work with one, and one that is
/// removed meanwhile lives until you let go of it.
///
/// Several [`SockMan`](crate::SockMan)s of one process may share a table: no two of them have the
/// same id. A table has no limit of its own;
/// [`Options::max_connections`](crate::Options::max_connections) is one.
///
/// Ids come from the library, never from a peer, so the table does without a hash that resists
/// chosen keys: a look-up costs a few nanoseconds.
///
/// ```
/// use sockman::{ConnectionId, SockMan, helpers::ConnectionTable};
///
/// struct Peer {
///     name: String,
/// }
///
/// /// Only one of several threads that find the connection broken tells of its end.
/// fn disconnect(sockman: &SockMan, peers: &ConnectionTable<Peer>, id: ConnectionId) {
///     sockman.close_connection(id);
///     if let Some(peer) = peers.remove(id) {
///         println!("{} is gone", peer.name);
///     }
/// }
/// ```
pub struct ConnectionTable<T> {
    connections: RwLock<HashMap<ConnectionId, Arc<T>, BuildHasherDefault<IdHasher>>>,
}

impl<T> ConnectionTable<T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> ConnectionTable<T> {
        ConnectionTable { connections: RwLock::default() }
    }

    /// Enters a connection. One that was there under this id (ids are never reused, so it was
    /// entered twice) is replaced.
    pub fn insert(&self, id: ConnectionId, value: T) -> Arc<T> {
        let value = Arc::new(value);
        // Dropped outside of the lock: a destructor is the embedder's code.
        let replaced = self.connections.write().insert(id, Arc::clone(&value));
        drop(replaced);
        value
    }

    /// The connection of this id, if it is in the table.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<T>> {
        self.connections.read().get(&id).cloned()
    }

    /// Strikes a connection off. Of several callers, one gets it.
    pub fn remove(&self, id: ConnectionId) -> Option<Arc<T>> {
        self.connections.write().remove(&id)
    }

    /// All of them, as they are now, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<(ConnectionId, Arc<T>)> {
        let mut all: Vec<_> =
            self.connections.read().iter().map(|(id, value)| (*id, Arc::clone(value))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.read().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.read().is_empty()
    }
}

impl<T> Default for ConnectionTable<T> {
    fn default() -> ConnectionTable<T> {
        ConnectionTable::new()
    }
}

impl<T> fmt::Debug for ConnectionTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTable").field("len", &self.len()).finish_non_exhaustive()
    }
}
