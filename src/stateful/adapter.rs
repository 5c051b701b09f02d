//! The adapter from [`EventHandler`], which the engine calls, to [`Handler`]. It owns the handler.
//!
//! The engine calls the `place_…` methods, which get the state of the connection. The public
//! methods of [`EventHandler`] have no state, so those for one connection close it.

use std::{
    any::{Any, TypeId},
    io,
    sync::Arc,
    time::Instant,
};

use super::{Handler, Link, remote::Out};
#[cfg(feature = "i2p")]
use crate::dial::i2p::I2pStatus;
use crate::{
    address::{Destination, Service},
    dial::ConnectError,
    engine::{
        connection::{Connection, ConnectionId},
        state::{Ended, Place, State},
    },
    error::CreateError,
    event_handler::{EventHandler, NextRecv},
    options::Options,
    sockman::SockMan,
};

/// The state of a connection, as the engine keeps it.
pub(super) struct Entry<C> {
    pub(super) value: C,
    pub(super) out: Arc<Out>,
}

#[inline]
pub(super) fn entry_of<C: Send + 'static>(state: &mut Option<State>) -> Option<&mut Entry<C>> {
    let state: &mut (dyn Any + Send) = &mut **state.as_mut()?;
    state.downcast_mut()
}

impl SockMan {
    /// Creates a `SockMan` whose handler keeps a value for each connection. The call starts no
    /// thread and binds nothing.
    ///
    /// A connection made with [`connect`](SockMan::connect) gets its value from
    /// [`NewConnection::activate_with`](crate::NewConnection::activate_with). Without a value, the
    /// library closes it in its first turn.
    ///
    /// # Errors
    ///
    /// As [`SockMan::new`].
    ///
    /// # Examples
    ///
    /// See [`Handler`].
    pub fn with_state<H: Handler>(
        handler: Arc<H>,
        options: Options,
    ) -> Result<SockMan, CreateError> {
        SockMan::new(Arc::new(Adapter { handler }), options)
    }
}

struct Adapter<H> {
    handler: Arc<H>,
}

impl<H: Handler> Adapter<H> {
    fn new_out(&self, sockman: &SockMan, connection: &Arc<Connection>) -> Arc<Out> {
        Out::new(&*self.handler, sockman.downgrade(), connection)
    }

    /// Asks the embedder for the value of a new connection. Returns `false` if the embedder refuses
    /// the connection.
    fn begin<'a>(
        &self,
        sockman: &'a SockMan,
        place: Place<'a>,
        value: impl FnOnce(Link<'_, H::Connection>) -> Option<H::Connection>,
    ) -> bool {
        let Place { connection, state } = place;
        let out = self.new_out(sockman, connection);
        let Some(value) = value(Link::new(sockman, connection, &out)) else { return false };
        *state = Some(Box::new(Entry { value, out }));
        true
    }

    /// Runs a callback. A connection without a value is closed instead.
    #[inline]
    fn with<'a, R>(
        &self,
        sockman: &'a SockMan,
        id: ConnectionId,
        place: Place<'a>,
        without: R,
        callback: impl FnOnce(&H, Link<'_, H::Connection>, &mut H::Connection) -> R,
    ) -> R {
        let Place { connection, state } = place;
        let Some(entry) = entry_of::<H::Connection>(state) else {
            close_without_value(sockman, id);
            return without;
        };
        callback(&self.handler, Link::new(sockman, connection, &entry.out), &mut entry.value)
    }
}

#[cold]
fn close_without_value(sockman: &SockMan, id: ConnectionId) {
    if sockman.close_connection(id) {
        log::error!(
            target: "sockman::net",
            "connection {id} was closed, because it has no value: activate it with `activate_with`"
        );
    }
}

impl<H: Handler> EventHandler for Adapter<H> {
    fn event_new_connection_accepted(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _: &Service,
        _: &Service,
    ) -> bool {
        false
    }
    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, _: &[u8]) {
        close_without_value(sockman, id);
    }
    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        close_without_value(sockman, id);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: ConnectionId, _: &io::Error) {
        close_without_value(sockman, id);
    }
    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        match outcome {
            Ok(_) => close_without_value(sockman, id),
            Err(error) => self.handler.connect_failed(sockman, id, to, error),
        }
    }
    fn event_connect_completed_with(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        to: &Destination,
        outcome: Result<&Service, ConnectError>,
        value: Box<dyn Any + Send>,
    ) {
        match outcome {
            Ok(_) => close_without_value(sockman, id),
            Err(error) => self.handler.connect_failed_with(sockman, id, to, error, value),
        }
    }
    fn event_io_loop_completed_for_all(&self, sockman: &SockMan) {
        self.handler.loop_completed(sockman);
    }
    #[cfg(feature = "i2p")]
    fn event_i2p_status(&self, sockman: &SockMan, addr: Option<&Service>, status: I2pStatus) {
        self.handler.i2p_status(sockman, addr, status);
    }
    fn event_closed_after_panic(&self, sockman: &SockMan, id: ConnectionId) {
        self.handler.closed_after_panic(sockman, id);
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.handler.next_deadline()
    }

    fn state_type(&self) -> Option<TypeId> {
        Some(TypeId::of::<H::Connection>())
    }
    /// Leaves the `Out` in place of the state, for `activate_with`.
    fn place_dialled(&self, sockman: &SockMan, _: ConnectionId, place: Place<'_>) {
        *place.state = Some(Box::new(self.new_out(sockman, place.connection)));
    }
    fn place_accepted(
        &self,
        sockman: &SockMan,
        _: ConnectionId,
        place: Place<'_>,
        me: &Service,
        them: &Service,
    ) -> bool {
        self.begin(sockman, place, |link| self.handler.accepted(link, me, them))
    }
    fn place_connected(
        &self,
        sockman: &SockMan,
        _: ConnectionId,
        place: Place<'_>,
        to: &Destination,
        me: &Service,
        value: Option<Box<dyn Any + Send>>,
    ) -> bool {
        self.begin(sockman, place, |link| match value {
            None => self.handler.connected(link, to, me),
            Some(value) => self.handler.connected_with(link, to, me, value),
        })
    }
    fn place_ready_to_send(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
    ) -> NextRecv {
        self.with(sockman, id, place, NextRecv::Skip, |handler, link, value| {
            handler.ready_to_send(link, value)
        })
    }
    fn place_got_data(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>, data: &[u8]) {
        self.with(sockman, id, place, (), |handler, link, value| {
            handler.got_data(link, value, data);
        });
    }
    fn place_got_eof(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>) {
        self.with(sockman, id, place, (), |handler, link, value| handler.got_eof(link, value));
    }
    fn place_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
        error: &io::Error,
    ) {
        self.with(sockman, id, place, (), |handler, link, value| {
            handler.read_error(link, value, error);
        });
    }
    fn place_should_try_to_send(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
    ) -> bool {
        self.with(sockman, id, place, false, |handler, link, value| {
            handler.should_try_to_send(link, value)
        })
    }
    fn place_has_queued(&self, place: Place<'_>) -> bool {
        entry_of::<H::Connection>(place.state).is_some_and(|entry| entry.out.queue.has_queued())
    }
    fn place_should_try_to_recv(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        place: Place<'_>,
    ) -> bool {
        self.with(sockman, id, place, false, |handler, link, value| {
            handler.should_try_to_recv(link, value)
        })
    }
    fn place_turn_completed(&self, sockman: &SockMan, id: ConnectionId, place: Place<'_>) {
        self.with(sockman, id, place, (), |handler, link, value| {
            handler.turn_completed(link, value);
        });
    }
    fn place_closed(&self, sockman: &SockMan, id: ConnectionId, ended: Ended) {
        let state: Option<Box<dyn Any>> = ended.0.map(|state| state as Box<dyn Any>);
        let entry = state.and_then(|state| state.downcast::<Entry<H::Connection>>().ok());
        let Some(entry) = entry else { return };
        let Entry { value, out } = *entry;
        // Remotes may keep the queue. Its bytes would count in the budget.
        drop(out.queue.take());
        self.handler.closed(sockman, id, value);
    }
}
