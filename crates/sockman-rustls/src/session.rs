//! [`Session`], the value that the library keeps for each connection. The socket thread owns it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::wire::Wire;

/// The value that the layer [`stateful`](sockman::stateful) keeps for a TLS connection. It holds
/// the rustls connection and the handler's own value `C`, and has no methods: a
/// [`TlsLink`](crate::TlsLink) and a [`TlsRemote`](crate::TlsRemote) give access.
pub struct Session<C> {
    pub(crate) wire: Wire,
    pub(crate) stage: Stage<C>,
}

pub(crate) enum Stage<C> {
    /// The handler does not know the connection.
    Handshaking(Handshake),
    /// The handler's methods are called.
    Open(C),
    /// The handler has heard of an error after which nothing is sent or received.
    Failed(C),
    /// The handler does not know the connection, or has refused it.
    Over,
}

/// A handshake under way.
pub(crate) struct Handshake {
    /// When it has to be complete.
    pub(crate) until: Instant,
    /// Counts an inbound one.
    pub(crate) _place: Option<Place>,
}

/// A place among the handshakes under way. It is given back on drop.
pub(crate) struct Place {
    taken: Arc<AtomicUsize>,
}

impl Place {
    /// Takes one of `most` places. Any thread may call this function.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Place> {
        let more = |taken: usize| (taken < most).then_some(taken + 1);
        let before = taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        before.is_ok().then(|| Place { taken: Arc::clone(taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C> fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
