//! [`ConnectionTable`] is an optional table of the embedder's connections, by id.
//!
//! The embedder owns a table and uses it from any thread. The table has one lock, which is held for
//! a look-up and never while other code is called.

use std::{collections::HashMap, fmt, hash::BuildHasherDefault, sync::Arc};

use parking_lot::RwLock;

use crate::engine::{connection::ConnectionId, map::IdHasher};

/// A table of the embedder's values, one for each connection, by the connection's id.
///
/// Nearly every handler needs a table like this one. The handler inserts a connection before its
/// first callback: in
/// [`event_new_connection_accepted`](crate::EventHandler::event_new_connection_accepted), between
/// [`connect`](crate::SockMan::connect) and [`activate`](crate::NewConnection::activate), or in
/// [`event_connect_completed`](crate::EventHandler::event_connect_completed). Every callback looks
/// the connection up in the table.
///
/// [`event_closed`](crate::EventHandler::event_closed) removes the connection from the table. It
/// comes after every close, also if the library closed the connection: at the end of a finish or a
/// drain, or after a panic. No callback reports the end of a connection that the handler refuses
/// after the insertion. The handler removes such a connection itself.
///
/// [`stateful::Handler`](crate::stateful::Handler) needs no table, because the library keeps the
/// values.
///
/// The table returns values as [`Arc`]s. No lock is held while the embedder works with a value. A
/// value that is removed meanwhile lives until its last `Arc` is dropped.
///
/// Ids are unique in the process, so several [`SockMan`](crate::SockMan)s may share one table. The
/// table does not limit the number of its entries.
/// [`Options::max_connections`](crate::Options::max_connections) limits it.
///
/// Ids come from the library, never from a peer. The table therefore needs no hash that resists
/// chosen keys, and a look-up costs a few nanoseconds.
///
/// # Examples
///
/// ```
/// use sockman::{ConnectionId, SockMan, helpers::ConnectionTable};
///
/// struct Peer {
///     name: String,
/// }
///
/// struct Handler {
///     peers: ConnectionTable<Peer>,
/// }
///
/// // The `EventHandler` calls this method, once for each connection.
/// impl Handler {
///     fn event_closed(&self, _: &SockMan, id: ConnectionId) {
///         if let Some(peer) = self.peers.remove(id) {
///             println!("disconnected from {}", peer.name);
///         }
///     }
/// }
/// ```
pub struct ConnectionTable<T> {
    connections: RwLock<HashMap<ConnectionId, Arc<T>, BuildHasherDefault<IdHasher>>>,
}

impl<T> ConnectionTable<T> {
    /// Returns an empty table.
    #[must_use]
    pub fn new() -> ConnectionTable<T> {
        ConnectionTable { connections: RwLock::default() }
    }

    /// Inserts a value for a connection and returns it. Replaces the value that the table has for
    /// this id. (Ids are never reused, so a replaced value means that the connection was inserted
    /// twice.)
    ///
    /// # Examples
    ///
    /// ```
    /// use sockman::{ConnectionId, helpers::ConnectionTable};
    ///
    /// let table = ConnectionTable::new();
    /// let id = ConnectionId::from_u64(7);
    /// table.insert(id, "peer");
    /// assert_eq!(table.find(id).as_deref(), Some(&"peer"));
    /// assert!(table.remove(id).is_some() && table.is_empty());
    /// ```
    pub fn insert(&self, id: ConnectionId, value: T) -> Arc<T> {
        let value = Arc::new(value);
        // The old value is dropped outside of the lock: its destructor is the embedder's code.
        let replaced = self.connections.write().insert(id, Arc::clone(&value));
        drop(replaced);
        value
    }

    /// Returns the value of this connection, or `None` if the connection is not in the table.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Arc<T>> {
        self.connections.read().get(&id).cloned()
    }

    /// Removes the entry and returns its value, or `None` if the connection is not in the table. If
    /// several threads race, exactly one receives the value.
    pub fn remove(&self, id: ConnectionId) -> Option<Arc<T>> {
        self.connections.write().remove(&id)
    }

    /// Returns all entries that exist now, in the order of their ids. The oldest connection comes
    /// first.
    #[must_use]
    pub fn all(&self) -> Vec<(ConnectionId, Arc<T>)> {
        let mut all: Vec<_> =
            self.connections.read().iter().map(|(id, value)| (*id, Arc::clone(value))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.read().len()
    }

    /// Returns whether the table has no entries.
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
