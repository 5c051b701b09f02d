//! Outbound connections: `connect`, `start_connect`, and the connection that is not polled yet.
//!
//! The functions run on the caller's thread. `connect` blocks, so it refuses to run on the socket
//! thread. Takes the connection map's mutex for a moment.

use std::{fmt, sync::Arc};

use super::{
    attempt::Attempt,
    connection::{Connection, ConnectionId, Direction},
    inbox::Mark,
    shared::Shared,
    threads,
};
#[cfg(feature = "testing")]
use crate::sys::Sock;
use crate::{
    address::{Destination, Service},
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

/// A connection that the library does not poll yet. [`SockMan::connect`] returns it.
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
    /// Returns the connection's id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.connection.id
    }

    /// Returns the local address.
    #[must_use]
    pub fn me(&self) -> &Service {
        self.connection.me()
    }

    /// Returns the destination that was dialled, also if a proxy was used.
    #[must_use]
    pub fn them(&self) -> &Destination {
        self.connection.them()
    }

    /// Hands the connection to the socket thread and returns its id. After this call, callbacks may
    /// name the id. If no socket thread runs, the connection waits until one is started. A
    /// connection that was closed meanwhile stays closed.
    pub fn activate(mut self) -> ConnectionId {
        self.activated = true;
        if !self.connection.is_closed() {
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
    let mut dial = Dial::new(to, options, shared.i2p.as_ref(), factory.now())?;
    let place = shared.reserve().ok_or_else(|| too_many(shared, to))?;

    let sock = connect_blocking(factory, &mut dial, &watches)?;
    let me = match dial.me() {
        Some(me) => me.clone(),
        None => sock.local_address().map_err(|error| dial.failed("getsockname", error))?,
    };
    let connection = place.fill(Direction::Outbound, sock, me, to.clone(), factory.now());
    shared.counters.connected.add(1);
    Ok(NewConnection { shared: Arc::clone(shared), connection, activated: false })
}

/// Makes a connection from a socket that is already connected.
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
    Ok(NewConnection { shared: Arc::clone(shared), connection, activated: false })
}

/// Begins a connect that the socket thread completes.
pub(crate) fn start_connect(
    sockman: &SockMan,
    to: &Destination,
    options: &ConnectOptions,
) -> Result<ConnectionId, ConnectError> {
    let shared = sockman.shared();
    match Attempt::start(shared, to, options) {
        Ok(attempt) => {
            let id = attempt.connection.id;
            shared.drive(Box::new(attempt));
            Ok(id)
        }
        Err(error) => {
            log_outcome(to, &LogOptions::of(options), Err(&error));
            Err(error)
        }
    }
}

/// Returns the error for a connect that finds no place among the `max_connections`.
pub(crate) fn too_many(shared: &Shared, to: &Destination) -> ConnectError {
    let limit = shared.connections.limit();
    ConnectError::new(to, ConnectErrorKind::TooManyConnections { limit })
}

/// Logs the outcome of a connect, in one line. The peer's name is escaped, and errors contain no
/// credentials.
pub(crate) fn log_outcome(
    to: &Destination,
    options: &LogOptions,
    outcome: Result<ConnectionId, &ConnectError>,
) {
    let target = if options.proxy.is_some() { "sockman::proxy" } else { "sockman::net" };
    match (outcome, &options.proxy) {
        (Ok(id), None) => log::debug!(target: target, "connected to {to} as connection {id}"),
        (Ok(id), Some(proxy)) => {
            log::debug!(target: target, "connected to {to} through {proxy} as connection {id}");
        }
        (Err(error), _) if options.is_important => log::info!(target: target, "{error:#}"),
        (Err(error), _) => log::debug!(target: target, "{error:#}"),
    }
}
