//! The map from ids to connections, and the count of places for
//! [`Options::max_connections`](crate::Options::max_connections).
//!
//! Any thread may use the map. One mutex is held for one look-up, insert or remove. The mutex is
//! never taken while a connection's send lock is held, and no callback runs under the mutex.

use std::{
    any::Any,
    borrow::Borrow,
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    connection::{Addresses, Connection, ConnectionId, Direction},
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

/// Every connection and attempt that an id can name, and the count of the places that they take.
#[derive(Debug)]
pub(crate) struct ConnectionMap {
    maps: Mutex<Maps>,
    /// The number of places that are taken by connections, attempts and reservations.
    count: AtomicUsize,
    limit: usize,
    /// The number of closes. A close is counted when the `closed` flag is set, under the map's
    /// lock.
    closes: AtomicU64,
    /// The number of closes that were passed on. A close is counted when its mark is in the inbox,
    /// or, while no thread runs, when its slot is freed.
    told_closes: AtomicU64,
}

/// What a connect is for: the embedder's value, which comes back with the outcome.
pub(crate) type Value = Box<dyn Any + Send>;

#[derive(Default)]
struct Maps {
    open: Connections,
    /// The connects that the socket thread drives. The ids of these connects can only be closed.
    connecting: Connections,
    /// The values of the connects under way that have one. The drop of a value runs the embedder's
    /// code, so no value is dropped under the lock.
    values: HashMap<ConnectionId, Value, BuildHasherDefault<IdHasher>>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps")
            .field("open", &self.open)
            .field("connecting", &self.connecting)
            .finish_non_exhaustive()
    }
}

/// A connection or connect that a close has just removed from the map.
pub(crate) struct Left {
    pub(crate) closed: Closed,
    /// The value of a connect that had no outcome yet. The caller drops it at last, and without a
    /// lock.
    pub(crate) value: Option<Value>,
}

/// Why a connection cannot be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stays {
    IsUnknown,
    Finishes,
}

/// A connect that is over, and its value.
pub(crate) struct Over {
    pub(crate) value: Option<Value>,
}

/// How a close ends the connection for the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    InOrder,
    Reset,
}

/// A connection that was just closed.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) connection: Arc<Connection>,
    /// Whether the end must be reported to the embedder.
    pub(crate) is_announced: bool,
}

/// A map whose keys are inside the values. A copy of each id next to its pointer would make the
/// table larger by half.
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

    /// Returns the number of closes if all of them were passed on, so that the marks of all counted
    /// closes can be taken. Returns `None` while a close is under way.
    pub(crate) fn told_closes(&self) -> Option<u64> {
        let told = self.told_closes.load(Ordering::Acquire);
        // `closes` is read second, so it is never the smaller count. If both are equal, no close
        // was under way.
        (self.closes() == told).then_some(told)
    }

    /// Counts a close as passed on. Sequentially consistent, so that the caller can ask afterwards
    /// whether a drain waits for the close.
    pub(crate) fn close_told(&self) {
        self.told_closes.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count.load(Ordering::Acquire) >= self.limit
    }

    /// Returns the number of places that are taken by connections, attempts and reservations.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Takes a place. Returns `false` if no place is left.
    fn reserve(&self) -> bool {
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.limit).then_some(count + 1)
            })
            .is_ok()
    }

    /// Gives back a place that `reserve` took. Returns `true` if all places were taken before,
    /// because listeners may then wait for a place. Sequentially consistent, so that the caller can
    /// ask afterwards whether a drain waits for the place.
    pub(crate) fn release(&self) -> bool {
        self.count.fetch_sub(1, Ordering::SeqCst) >= self.limit
    }

    /// Adds a connection, for which `reserve` has taken a place.
    pub(crate) fn insert(&self, connection: &Arc<Connection>) {
        self.maps.lock().open.insert(ById(Arc::clone(connection)));
    }

    /// Adds a connect under way, for which `reserve` has taken a place.
    pub(crate) fn insert_connecting(&self, connection: &Arc<Connection>, value: Option<Value>) {
        let mut maps = self.maps.lock();
        maps.connecting.insert(ById(Arc::clone(connection)));
        if let Some(value) = value {
            maps.values.insert(connection.id, value);
        }
    }

    /// Moves a connect that succeeded to the open connections. The id can then be sent to. Returns
    /// `None` if the connect was closed meanwhile.
    pub(crate) fn connected(&self, id: ConnectionId, since: Duration) -> Option<Over> {
        let mut maps = self.maps.lock();
        let ById(connection) = maps.connecting.take(&id)?;
        connection.set_since(since);
        maps.open.insert(ById(connection));
        Some(Over { value: maps.values.remove(&id) })
    }

    /// Removes a connect that failed. The caller must `release` the connect's place. Returns `None`
    /// if the connect was closed meanwhile.
    pub(crate) fn failed_to_connect(&self, id: ConnectionId) -> Option<Over> {
        let mut maps = self.maps.lock();
        maps.connecting.remove(&id).then(|| Over { value: maps.values.remove(&id) })
    }

    #[inline]
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.maps.lock().open.get(&id).map(|ById(connection)| Arc::clone(connection))
    }

    /// Marks all connections as finishing. Those that are added later are not marked.
    pub(crate) fn finish_all(&self) {
        for ById(connection) in &self.maps.lock().open {
            connection.set_finishing();
        }
    }

    /// Returns whether there is a connection. Connects under way do not count.
    pub(crate) fn has_open(&self) -> bool {
        !self.maps.lock().open.is_empty()
    }

    /// Returns the ids of all connections and connects under way.
    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        let maps = self.maps.lock();
        maps.open.iter().chain(&maps.connecting).map(|ById(connection)| connection.id).collect()
    }

    /// Removes the connection and closes it. If several threads race, exactly one receives the
    /// connection.
    pub(crate) fn close(&self, id: ConnectionId, how: How) -> Option<Left> {
        let left = {
            let mut maps = self.maps.lock();
            let open = maps.open.take(&id);
            let ById(connection) = open.or_else(|| maps.connecting.take(&id))?;
            // The flag is set under the lock, so that a thread that finds the id gone also finds
            // the connection closed. A callback that lost the race to close the connection relies
            // on this order, because no further callback may name the id.
            let is_announced = connection.set_closed();
            self.closes.fetch_add(1, Ordering::AcqRel);
            let closed = Closed { connection, is_announced };
            Left { closed, value: maps.values.remove(&id) }
        };
        let connection = &left.closed.connection;
        match how {
            How::InOrder => connection.shutdown(),
            How::Reset => connection.reset(),
        }
        self.count.fetch_sub(1, Ordering::AcqRel);
        Some(left)
    }

    /// Removes an open connection whose stream goes on elsewhere. If several threads race, exactly
    /// one receives the connection.
    ///
    /// # Errors
    ///
    /// Says whether the connection stays because it finishes, or is not in the map.
    pub(crate) fn take_out(&self, id: ConnectionId) -> Result<Closed, Stays> {
        let closed = {
            let mut maps = self.maps.lock();
            let ById(connection) = maps.open.get(&id).ok_or(Stays::IsUnknown)?;
            // Under the lock, as in `close`.
            let is_announced = connection.set_taken_out().ok_or(Stays::Finishes)?;
            let ById(connection) = maps.open.take(&id).ok_or(Stays::IsUnknown)?;
            self.closes.fetch_add(1, Ordering::AcqRel);
            Closed { connection, is_announced }
        };
        self.count.fetch_sub(1, Ordering::AcqRel);
        Ok(closed)
    }
}

/// The hasher of ids. A multiplication that spreads the ids over the table's high and low bits is
/// enough, because no peer can choose colliding ids. The library creates ids in sequence, and an
/// embedder creates ids only for its own tests.
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
        // The factor is 2^64 divided by the golden ratio. The high half of the product is mixed
        // into the low half.
        let product = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

impl Shared {
    /// Takes a place of the `max_connections`. Returns `None` if no place is left.
    pub(crate) fn reserve(&self) -> Option<Reservation<'_>> {
        self.connections.reserve().then(|| Reservation { shared: self })
    }
}

/// A reserved place of the `max_connections`. Dropping the reservation gives the place back, unless
/// a connection fills it.
#[must_use]
pub(crate) struct Reservation<'a> {
    shared: &'a Shared,
}

impl Reservation<'_> {
    /// Makes the connection and fills the place. The id can then be sent to and closed.
    pub(crate) fn fill(
        self,
        direction: Direction,
        sock: Box<dyn Sock>,
        me: impl Into<Arc<Service>>,
        them: Destination,
        now: Instant,
    ) -> Arc<Connection> {
        let addresses = Addresses { me: me.into(), them };
        let connection = self.make(direction, sock, Some(addresses), now);
        self.shared.connections.insert(&connection);
        self.filled();
        connection
    }

    /// Makes the connection of a connect under way and fills the place. The id can only be closed.
    pub(crate) fn fill_connecting(
        self,
        sock: Box<dyn Sock>,
        now: Instant,
        value: Option<Value>,
    ) -> Arc<Connection> {
        let connection = self.make(Direction::Outbound, sock, None, now);
        self.shared.connections.insert_connecting(&connection, value);
        self.filled();
        connection
    }

    fn make(
        &self,
        direction: Direction,
        sock: Box<dyn Sock>,
        addresses: Option<Addresses>,
        now: Instant,
    ) -> Arc<Connection> {
        let (id, age) = (ConnectionId::next(), self.shared.age(now));
        Arc::new(Connection::new(id, direction, sock, addresses, age))
    }

    /// Hands the place to the connection. Closing the connection gives the place back.
    fn filled(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.shared.release_place();
    }
}
