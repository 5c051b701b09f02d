//! Outbound connections: `connect`, `start_connect`, and the connection that is not polled yet.
//!
//! The functions run on the caller's thread. `connect` blocks, so it refuses to run on the socket
//! thread. Takes the connection map's mutex for a moment.

use std::{fmt, sync::Arc};

use super::{
    attempt::Begun,
    connection::{Connection, ConnectionId, Direction},
    inbox::Mark,
    map::Value,
    shared::Shared,
    state::State,
    threads,
};
use crate::{
    address::{Destination, Network, Service},
    dial::{ConnectError, ConnectErrorKind, ConnectOptions, Dial, connect_blocking},
    sockman::SockMan,
    sys::interrupt::Watches,
};

/// The options that decide how the outcome of a connect is logged.
#[derive(Debug)]
pub(crate) struct LogOptions {
    is_important: bool,
    proxy: Option<Service>,
}

impl LogOptions {
    pub(crate) fn of(options: &ConnectOptions) -> LogOptions {
        let proxy = options.proxy_endpoint().cloned();
        LogOptions { is_important: options.is_important, proxy }
    }
}

/// A connection that the library does not poll yet. [`SockMan::connect`] and
/// [`SockMan::add_connection`] return it.
///
/// No callback names the id before [`activate`](NewConnection::activate), so the embedder can
/// register the id first. The connection can already be sent to, woken and closed. The
/// `NewConnection` may move to another thread. Dropping the `NewConnection` without `activate`
/// closes the connection, and no callback ever names the id.
///
/// ```no_run
/// use std::{collections::HashSet, sync::Mutex};
///
/// use sockman::{ConnectOptions, ConnectionId, SockMan, error::ConnectError};
///
/// fn dial(sockman: &SockMan, ids: &Mutex<HashSet<ConnectionId>>) -> Result<(), ConnectError> {
///     let new = sockman.connect("192.0.2.1:8333", &ConnectOptions::default())?;
///     ids.lock().unwrap().insert(new.id());
///     new.activate();
///     Ok(())
/// }
/// ```
#[must_use = "the connection is closed when this is dropped without `activate`"]
pub struct NewConnection {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    activated: bool,
}

impl NewConnection {
    pub(crate) fn new(shared: &Arc<Shared>, connection: Arc<Connection>) -> NewConnection {
        NewConnection { shared: Arc::clone(shared), connection, activated: false }
    }

    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.connection.id
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Returns the local address.
    #[must_use]
    pub fn me(&self) -> &Service {
        self.connection.me()
    }

    /// Returns the destination that was dialled, also if a proxy was used. For a stream from
    /// [`SockMan::add_connection`], returns the peer's address.
    #[must_use]
    pub fn them(&self) -> &Destination {
        self.connection.them()
    }

    /// Hands the connection to the socket thread and returns its id. After this call, callbacks may
    /// name the id. If no socket thread runs, the connection waits until one is started. A
    /// connection that was closed meanwhile stays closed, and
    /// [`event_closed`](crate::EventHandler::event_closed) reports its end.
    pub fn activate(self) -> ConnectionId {
        self.activate_with_state(None)
    }

    /// Does what [`activate`](NewConnection::activate) does, for a connection with a state.
    pub(crate) fn activate_with_state(mut self, state: Option<State>) -> ConnectionId {
        self.activated = true;
        self.shared.keep_state(self.connection.id, state);
        if self.shared.announced(&self.connection) {
            self.shared.inbox.push(Mark::Activated(Arc::downgrade(&self.connection)));
        }
        self.connection.id
    }
}

impl Drop for NewConnection {
    fn drop(&mut self) {
        if !self.activated {
            self.shared.close(self.connection.id);
        }
    }
}

impl fmt::Debug for NewConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewConnection")
            .field("id", &self.id())
            .field("me", self.me())
            .field("them", self.them())
            .finish()
    }
}

/// Connects and gives the connection an id. Blocks the calling thread.
pub(crate) fn connect(
    sockman: &SockMan,
    to: &Destination,
    options: &ConnectOptions,
) -> Result<NewConnection, ConnectError> {
    let result = dial_and_fill(sockman.shared(), to, options);
    log_outcome(to, &LogOptions::of(options), result.as_ref().map(NewConnection::id));
    result
}

fn dial_and_fill(
    shared: &Arc<Shared>,
    to: &Destination,
    options: &ConnectOptions,
) -> Result<NewConnection, ConnectError> {
    if threads::is_socket_thread_of(shared) {
        return Err(ConnectError::new(to, ConnectErrorKind::OnSocketThread));
    }
    let watches = Watches::new(shared.interrupts().chain(&options.cancel));
    let factory = &*shared.options.sock_factory;
    let i2p = shared.i2p.as_ref();
    let mut dial = Dial::to_any(to, options, i2p, &shared.options.sock_factory, factory.now())?;
    let place = shared.reserve().ok_or_else(|| too_many(shared, to))?;

    let sock = connect_blocking(factory, &mut dial, &watches)?;
    let me = match dial.me() {
        Some(me) => me.clone(),
        None => sock.local_address().map_err(|error| dial.failed("getsockname", error))?,
    };
    let connection = place.fill(Direction::Outbound, sock, me, dial.to().clone(), factory.now());
    shared.counters.connected.add(1);
    Ok(NewConnection::new(shared, connection))
}

/// Begins a connect that the socket thread completes. The map keeps what `pack` makes of `value`
/// until the outcome. An error gives `value` back.
pub(crate) fn start_connect<V>(
    sockman: &SockMan,
    to: &Destination,
    options: &ConnectOptions,
    value: V,
    pack: impl FnOnce(V) -> Option<Value>,
) -> Result<ConnectionId, (ConnectError, V)> {
    let shared = sockman.shared();
    match Begun::begin(shared, to, options) {
        Ok(begun) => {
            let attempt = begun.fill(pack(value));
            let id = attempt.connection.id;
            shared.drive(Box::new(attempt));
            Ok(id)
        }
        Err(error) => {
            log_outcome(to, &LogOptions::of(options), Err(&error));
            Err((error, value))
        }
    }
}

/// Returns the error for a connect that finds no place among the `max_connections`.
pub(crate) fn too_many(shared: &Shared, to: &Destination) -> ConnectError {
    let limit = shared.connections.limit();
    ConnectError::new(to, ConnectErrorKind::TooManyConnections { limit })
}

/// Returns the target of the lines about a connect, which names the way that the connect takes.
fn target(to: &Destination, options: &LogOptions) -> &'static str {
    let is_i2p = to.service().is_some_and(|to| to.addr().network() == Network::I2p);
    match options.proxy {
        Some(_) => "sockman::proxy",
        None if is_i2p => "sockman::i2p",
        None => "sockman::net",
    }
}

/// Logs the outcome of a connect, in one line. The peer's name is escaped, and errors contain no
/// credentials.
pub(crate) fn log_outcome(
    to: &Destination,
    options: &LogOptions,
    outcome: Result<ConnectionId, &ConnectError>,
) {
    let target = target(to, options);
    match (outcome, &options.proxy) {
        (Ok(id), None) => log::debug!(target: target, "connected to {to} as connection {id}"),
        (Ok(id), Some(proxy)) => {
            log::debug!(target: target, "connected to {to} through {proxy} as connection {id}");
        }
        (Err(error), _) if options.is_important => log::info!(target: target, "{error:#}"),
        (Err(error), _) => log::debug!(target: target, "{error:#}"),
    }
}
