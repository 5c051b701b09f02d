//! The ids of connections. Ids are plain numbers from one counter of the process.
//!
//! Any thread may create one. Takes no lock.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Identifies one connection. Bitcoin Core's `SockMan::Id`.
///
/// Ids are unique in the process and never reused. One counter, which starts at 0, serves all
/// [`SockMan`](crate::SockMan)s. An id is therefore unknown to every `SockMan` except the one that
/// created it. An id converts to and from a number, and tests can create ids of their own:
///
/// ```
/// use sockman::ConnectionId;
///
/// let id = ConnectionId::from_u64(7);
/// assert_eq!(id.as_u64(), 7);
/// assert_eq!(id.to_string(), "7");
/// ```
#[doc(alias = "Id")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// The next id. The counter is no atomic of `sys::sync`, because no thread waits for the counter.
/// So no interleaving has to be modelled.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl ConnectionId {
    /// Returns the id with this number. The id names a connection only if the number came from
    /// [`as_u64`](ConnectionId::as_u64) of that connection's id.
    #[must_use]
    pub const fn from_u64(number: u64) -> ConnectionId {
        ConnectionId(number)
    }

    /// Returns the number, for logs, tables and messages.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns a new id. 2^64 ids last for 584 years at one connection per nanosecond.
    pub(super) fn next() -> ConnectionId {
        ConnectionId(NEXT_ID.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
