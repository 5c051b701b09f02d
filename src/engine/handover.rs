//! Connected streams that come from other code, and connections that leave the `SockMan`.
//!
//! The functions run on the caller's thread. They take the locks of the map, the inbox and `run`
//! for a moment each. No lock is held while a caller waits for the end of a turn.

use std::{io, sync::Arc};

use super::{
    connect::NewConnection,
    connection::{ConnectionId, Direction},
    inbox::Mark,
    map::Stays,
    shared::Shared,
    threads,
};
use crate::{
    address::Destination,
    error::{AddConnectionError, AddConnectionErrorKind, IntoStreamError},
    sockman::SockMan,
    sys::{
        OwnedSocket,
        sync::{Condvar, Mutex},
    },
};
#[cfg(feature = "testing")]
use crate::{address::Service, engine::connect::too_many, error::ConnectError, sys::Sock};

/// Makes a connection from a stream that is already connected.
pub(crate) fn add(
    sockman: &SockMan,
    stream: OwnedSocket,
) -> Result<NewConnection, AddConnectionError> {
    let shared = sockman.shared();
    let Some(place) = shared.reserve() else {
        let kind = AddConnectionErrorKind::TooManyConnections { limit: shared.connections.limit() };
        return Err(AddConnectionError::new(stream, kind));
    };
    let factory = &*shared.options.sock_factory;
    let adopted = factory.adopt_connection(stream).map_err(|(stream, source)| {
        AddConnectionError::new(stream, AddConnectionErrorKind::NotAConnection { source })
    })?;
    let (sock, me, them) = adopted;
    let connection =
        place.fill(Direction::Outbound, sock, me, Destination::from(them), factory.now());
    log::debug!(target: "sockman::net", "took over a stream as connection {}", connection.id);
    Ok(NewConnection::new(shared, connection))
}

/// Makes a connection from a socket of a test double.
#[cfg(feature = "testing")]
pub(crate) fn add_existing(
    sockman: &SockMan,
    sock: Box<dyn Sock>,
    me: &Service,
    them: &Service,
) -> Result<NewConnection, ConnectError> {
    let (shared, to) = (sockman.shared(), them.into());
    let place = shared.reserve().ok_or_else(|| too_many(shared, &to))?;
    let now = shared.options.sock_factory.now();
    let connection = place.fill(Direction::Outbound, sock, me.clone(), to, now);
    Ok(NewConnection::new(shared, connection))
}

/// Takes a connection out, and returns its stream.
pub(crate) fn take_out(
    sockman: &SockMan,
    id: ConnectionId,
) -> Result<OwnedSocket, IntoStreamError> {
    let shared = sockman.shared();
    let unknown = IntoStreamError::UnknownConnection(id);
    let Some(connection) = shared.connections.find(id) else { return Err(unknown) };
    // When the threads end, the socket thread waits for the I2P-accept thread.
    if threads::is_i2p_accept_thread_of(shared) {
        return Err(IntoStreamError::OnI2pAcceptThread(id));
    }
    // The original closes with the last reference, as after a close.
    let stream = connection.sock().duplicate().map_err(|source| match source.kind() {
        io::ErrorKind::Unsupported => IntoStreamError::Unsupported(id),
        _ => IntoStreamError::Duplicate { id, source },
    })?;
    drop(connection);
    match shared.take_out(id) {
        Ok(()) => Ok(stream),
        Err(Stays::IsUnknown) => Err(unknown),
        Err(Stays::Finishes) => Err(IntoStreamError::Finishing(id)),
    }
}

impl Shared {
    /// Ends a connection as a close does, but leaves its stream connected. Waits until the socket
    /// thread has ended the turns that it had begun.
    ///
    /// # Errors
    ///
    /// Says whether the connection finishes, or was closed meanwhile.
    fn take_out(&self, id: ConnectionId) -> Result<(), Stays> {
        let closed = self.connections.take_out(id)?;
        closed.connection.wait_for_send();
        let is_socket_thread = threads::is_socket_thread_of(self);
        self.ended(closed);
        if !is_socket_thread {
            self.wait_for_turns();
        }
        Ok(())
    }

    /// Waits until the socket thread takes the marks that are in the inbox now, which is between
    /// two turns, or until it has ended. Does not wait if the calling thread would wait for itself,
    /// because it acts as another thread in the middle of a pass by hand.
    fn wait_for_turns(&self) {
        #[cfg(feature = "testing")]
        if threads::is_halted_socket_thread_of(self) {
            return;
        }
        let passed = Arc::new(Passed::default());
        if let threads::Run::Running { rests: false } = &*self.run.lock() {
            // The mark is pushed under the lock, as in `close`.
            self.inbox.push(Mark::Fence(Fence(Arc::clone(&passed))));
        } else {
            return;
        }
        passed.wait();
    }
}

/// A mark that tells a waiting thread when the socket thread has taken it, or has dropped it at its
/// end.
#[derive(Debug)]
pub(crate) struct Fence(Arc<Passed>);

#[derive(Debug, Default)]
struct Passed {
    has_passed: Mutex<bool>,
    changed: Condvar,
}

impl Passed {
    fn wait(&self) {
        let mut has_passed = self.has_passed.lock();
        while !*has_passed {
            self.changed.wait(&mut has_passed);
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        *self.0.has_passed.lock() = true;
        self.0.changed.notify_all();
    }
}
