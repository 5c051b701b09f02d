//! How the embedder learns of a new connection, and of one that a panic closed: one function each,
//! for every way in (a listener, a connect, the I2P-accept thread).
//!
//! Runs on the thread that made the connection. No lock is held while a callback runs.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use super::connection::{Connection, ConnectionId};
use crate::{address::Service, error::panic_message, options::PanicPolicy, sockman::SockMan};

/// Runs the callback that tells the embedder what became of `id`, and returns the connection if it
/// is to be polled.
///
/// `connection` is `None` for a connect that failed. The callback returns whether the embedder
/// keeps the connection; one that it refuses is closed.
///
/// # Panics
///
/// With the callback's panic, under [`PanicPolicy::Stop`]. The connection is closed then.
pub(crate) fn announce(
    sockman: &SockMan,
    id: ConnectionId,
    connection: Option<Arc<Connection>>,
    callback: impl FnOnce() -> bool,
) -> Option<Arc<Connection>> {
    let shared = sockman.shared();
    // Unwind-safe: the connection is closed after a panic.
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(true) => connection.filter(|connection| !connection.is_closed()),
        Ok(false) => {
            shared.close(id);
            None
        }
        Err(payload) => {
            if shared.options.panic_policy == PanicPolicy::Stop {
                shared.close(id);
                resume_unwind(payload);
            }
            closed_after_panic(sockman, id, &*payload);
            None
        }
    }
}

/// Announces a connection that a listener or the I2P-accept thread accepted, and returns it if it is
/// to be polled.
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
    announce(sockman, id, Some(Arc::clone(connection)), || {
        handler.event_new_connection_accepted(sockman, id, connection.me(), them)
    })
}

/// Closes the connection in whose callback the embedder panicked, and reports the close.
pub(crate) fn closed_after_panic(sockman: &SockMan, id: ConnectionId, payload: &(dyn Any + Send)) {
    let shared = sockman.shared();
    shared.counters.panics.add(1);
    log::error!(
        target: "sockman::net",
        "a callback for connection {id} panicked, which closes it: {}", panic_message(payload)
    );
    // If the callback closed it before it panicked, the id is not named again.
    if shared.close(id) {
        shared.handler.event_closed_after_panic(sockman, id);
    }
}
