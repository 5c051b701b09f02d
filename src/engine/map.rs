//! The map from ids to connections, and the places among the
//! [`Options::max_connections`](crate::Options::max_connections).
//!
//! Any thread. One mutex, held for a look-up; it is never taken while a connection's send lock is
//! held, and no callback runs under it.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connection::{Connection, ConnectionId, Direction},
    shared::Shared,
};
use crate::{
    address::{Destination, Service},
    sys::{
        Sock,
        sync::{
            Mutex,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        },
    },
};

/// Every connection that an id can name, and the count against
/// [`Options::max_connections`](crate::Options::max_connections).
#[derive(Debug)]
pub(crate) struct ConnectionMap {
    maps: Mutex<Maps>,
    /// Connections in the map, and those being made.
    count: AtomicUsize,
    limit: usize,
    /// How many were closed, each counted when its flag is set, under the map's lock …
    closes: AtomicU64,
    /// … and again when the socket thread has been told.
    told_closes: AtomicU64,
}

#[derive(Debug, Default)]
struct Maps {
    open: Connections,
    /// Connects that the socket thread drives: they can be closed, and nothing else.
    connecting: Connections,
}

/// A map whose keys are where its values point to: a copy of each id beside its pointer would add
/// half to what the table takes.
type Connections = HashSet<ById, BuildHasherDefault<IdHasher>>;

#[derive(Debug)]
struct ById(Arc<Connection>);

impl Borrow<ConnectionId> for ById {
    fn borrow(&self) -> &ConnectionId {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &ById) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl ConnectionMap {
    pub(crate) fn new(limit: usize) -> ConnectionMap {
        ConnectionMap {
            maps: Mutex::default(),
            count: AtomicUsize::new(0),
            limit,
            closes: AtomicU64::new(0),
            told_closes: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn closes(&self) -> u64 {
        self.closes.load(Ordering::Acquire)
    }

    /// The count of closes, if the socket thread has been told of all of them: then their marks are
    /// there to be taken.
    pub(crate) fn told_closes(&self) -> Option<u64> {
        let told = self.told_closes.load(Ordering::Acquire);
        // Read second, so it cannot be the smaller one; if equal, none was under way.
        (self.closes() == told).then_some(told)
    }

    /// The socket thread has been told of a close.
    pub(crate) fn close_told(&self) {
        self.told_closes.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count.load(Ordering::Acquire) >= self.limit
    }

    /// Connections and attempts.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Takes one of the `max_connections`, if there is one.
    fn reserve(&self) -> bool {
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.limit).then_some(count + 1)
            })
            .is_ok()
    }

    /// Gives back what `reserve` took. `true` if the map was full until now: listeners may wait
    /// for that.
    pub(crate) fn release(&self) -> bool {
        self.count.fetch_sub(1, Ordering::AcqRel) >= self.limit
    }

    /// Adds a connection, for which `reserve` has taken a place.
    pub(crate) fn insert(&self, connection: &Arc<Connection>) {
        self.maps.lock().open.insert(ById(Arc::clone(connection)));
    }

    /// Adds a connect under way, for which `reserve` has taken a place.
    pub(crate) fn insert_connecting(&self, connection: &Arc<Connection>) {
        self.maps.lock().connecting.insert(ById(Arc::clone(connection)));
    }

    /// A connect under way succeeded: from here on its id can be sent to. `false` if it was closed
    /// meanwhile.
    pub(crate) fn connected(&self, id: ConnectionId, since: Duration) -> bool {
        let mut maps = self.maps.lock();
        let Some(ById(connection)) = maps.connecting.take(&id) else { return false };
        connection.set_since(since);
        maps.open.insert(ById(connection));
        true
    }

    /// A connect under way failed. `false` if it was closed meanwhile; otherwise its place is the
    /// caller's to `release`.
    pub(crate) fn failed_to_connect(&self, id: ConnectionId) -> bool {
        self.maps.lock().connecting.remove(&id)
    }

    #[inline]
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.maps.lock().open.get(&id).map(|ById(connection)| Arc::clone(connection))
    }

    /// Takes the connection out and closes it. `Some` for exactly one caller.
    pub(crate) fn close(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        let connection = {
            let mut maps = self.maps.lock();
            let open = maps.open.take(&id);
            let ById(connection) = open.or_else(|| maps.connecting.take(&id))?;
            // Under the lock: whoever finds the id gone finds it closed, too. A callback that
            // lost the race to close it relies on hearing no more of it.
            connection.set_closed();
            self.closes.fetch_add(1, Ordering::AcqRel);
            connection
        };
        connection.shutdown();
        self.count.fetch_sub(1, Ordering::AcqRel);
        Some(connection)
    }
}

/// The library hands out ids one by one, and embedders make others only for themselves: no peer can
/// choose them to collide, so a multiplication that spreads them over the table's high and low bits is
/// all the hashing they need.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // 2^64 divided by the golden ratio, and the high half folded onto the low one.
        let product = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

impl Shared {
    /// Takes one of the `max_connections`.
    pub(crate) fn reserve(&self) -> Option<Reservation<'_>> {
        self.connections.reserve().then(|| Reservation { shared: self })
    }
}

/// A place among the `max_connections`, given back unless it is filled.
#[must_use]
pub(crate) struct Reservation<'a> {
    shared: &'a Shared,
}

impl Reservation<'_> {
    /// Makes the connection: from here on its id can be sent to and closed.
    pub(crate) fn fill(
        self,
        direction: Direction,
        sock: Box<dyn Sock>,
        me: Service,
        them: Destination,
        now: Instant,
    ) -> Arc<Connection> {
        let connection = self.make(direction, sock, me, them, now);
        self.shared.connections.insert(&connection);
        self.filled();
        connection
    }

    /// Makes the connection of a connect under way: its id can be closed, and no more than that.
    pub(crate) fn fill_connecting(
        self,
        sock: Box<dyn Sock>,
        me: Service,
        them: Destination,
        now: Instant,
    ) -> Arc<Connection> {
        let connection = self.make(Direction::Outbound, sock, me, them, now);
        self.shared.connections.insert_connecting(&connection);
        self.filled();
        connection
    }

    fn make(
        &self,
        direction: Direction,
        sock: Box<dyn Sock>,
        me: Service,
        them: Destination,
        now: Instant,
    ) -> Arc<Connection> {
        let (id, age) = (ConnectionId::next(), self.shared.age(now));
        Arc::new(Connection::new(id, direction, sock, me, them, age))
    }

    /// The place is the connection's now, which gives it back when it is closed.
    fn filled(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.shared.release_place();
    }
}
