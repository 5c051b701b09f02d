//! Reports new connections, and connections that a panic closed, to the embedder. All sources of
//! connections (listeners, connects, the I2P-accept thread) share these functions.
//!
//! The functions run on the socket thread or the I2P-accept thread. No lock is held while a
//! callback runs.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use super::{
    connection::{Connection, ConnectionId},
    shared::Shared,
    state::{Place, State},
};
use crate::{address::Service, error::panic_message, options::PanicPolicy, sockman::SockMan};

/// Runs the callback that reports the outcome of `id` to the embedder. Returns the connection if it
/// has to be polled.
///
/// `connection` is `None` for a connect that failed. The callback returns whether the embedder
/// keeps the connection, and may set its state. A connection that the embedder refuses is closed.
///
/// # Panics
///
/// Continues the callback's panic under [`PanicPolicy::Stop`], after closing the connection.
pub(crate) fn announce(
    sockman: &SockMan,
    id: ConnectionId,
    connection: Option<Arc<Connection>>,
    callback: impl FnOnce(&mut Option<State>) -> bool,
) -> Option<Arc<Connection>> {
    let shared = sockman.shared();
    // The closure is unwind-safe, because the connection is closed after a panic.
    let mut state = None;
    match catch_unwind(AssertUnwindSafe(|| callback(&mut state))) {
        Ok(true) => {
            shared.keep_state(id, state);
            connection.filter(|connection| shared.announced(connection))
        }
        Ok(false) => {
            shared.close(id);
            None
        }
        Err(payload) => {
            if shared.options.panic_policy == PanicPolicy::Stop {
                shared.close(id);
                resume_unwind(payload);
            }
            closed_after_panic(sockman, id, connection.as_deref(), &*payload);
            None
        }
    }
}

/// Announces a connection that a listener or the I2P-accept thread accepted. Returns the connection
/// if it has to be polled.
///
/// # Panics
///
/// As [`announce`].
pub(crate) fn announce_accepted(
    sockman: &SockMan,
    connection: &Arc<Connection>,
    them: &Service,
) -> Option<Arc<Connection>> {
    let (id, handler) = (connection.id, &sockman.shared().handler);
    announce(sockman, id, Some(Arc::clone(connection)), |state| {
        let place = Place { connection, state };
        handler.place_accepted(sockman, id, place, connection.me(), them)
    })
}

/// Closes a connection after one of its callbacks panicked, and reports the close. `connection` is
/// the connection that the callback was to announce.
pub(crate) fn closed_after_panic(
    sockman: &SockMan,
    id: ConnectionId,
    connection: Option<&Connection>,
    payload: &(dyn Any + Send),
) {
    let shared = sockman.shared();
    shared.counters.panics.add(1);
    log::error!(
        target: "sockman::net",
        "a callback panicked, so its connection {id} is closed: {}", panic_message(payload)
    );
    // If the callback closed the connection before it panicked, the id is not named again.
    if shared.close(id) {
        // The end is reported even if the callback panics.
        let _announced = connection.map(|connection| Announced { shared, connection });
        shared.handler.event_closed_after_panic(sockman, id);
    }
}

/// Announces the connection when this value is dropped.
struct Announced<'a> {
    shared: &'a Shared,
    connection: &'a Connection,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.shared.announced(self.connection);
    }
}
