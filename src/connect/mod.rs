//! Outbound connections: where to, how, and the connection that is not polled yet.
//!
//! Runs on the caller's thread; what blocks never runs on the socket thread. Takes the connection
//! map's mutex for a moment.

mod attempt;
mod blocking;
mod dial;
mod direct;
mod error;
mod proxy;
mod socks5;

use std::{fmt, sync::Arc, time::Duration};

pub(crate) use self::{
    attempt::Attempt,
    dial::{Dial, Step, WaitsOn},
    direct::DirectConnect,
};
pub use self::{
    error::{ConnectError, ConnectPhase, ProxyError, Socks5Reply},
    proxy::{Credentials, InvalidCredentials, Proxy},
};
use crate::{
    ConnectionId, Direction, Interrupt, Service, SockMan, connection::Connection, inbox::Mark,
    interrupt::Watches, sockman::Shared, threads,
};

/// Where to connect: an address, or a host name and a port, which the proxy resolves. Names are
/// never resolved here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// An address.
    Service(Service),
    /// A host name. Needs a proxy.
    Name {
        /// As typed.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl Destination {
    /// The address, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        match self {
            Destination::Service(service) => Some(service),
            Destination::Name { .. } => None,
        }
    }
}

/// Whether it is this address.
impl PartialEq<Service> for Destination {
    fn eq(&self, other: &Service) -> bool {
        self.service() == Some(other)
    }
}

impl From<Service> for Destination {
    fn from(service: Service) -> Destination {
        Destination::Service(service)
    }
}

impl From<&Service> for Destination {
    fn from(service: &Service) -> Destination {
        Destination::Service(service.clone())
    }
}

impl From<std::net::SocketAddr> for Destination {
    fn from(address: std::net::SocketAddr) -> Destination {
        Destination::Service(address.into())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Service(service) => service.fmt(f),
            Destination::Name { host, port } => write!(f, "{}:{port}", host.escape_debug()),
        }
    }
}

/// What [`SockMan::connect`] and [`SockMan::start_connect`] are to heed.
///
/// ```
/// use std::time::Duration;
/// let options = sockman::ConnectOptions::default().timeout(Duration::from_secs(20));
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ConnectOptions {
    proxy: Option<Proxy>,
    /// `None`: the default, which depends on whether there is a proxy.
    timeout: Option<Duration>,
    is_important: bool,
    cancel: Option<Interrupt>,
}

impl ConnectOptions {
    /// The SOCKS5 proxy to go through. Default: none, the address is dialled directly.
    ///
    /// With a proxy, every destination is given to it as text, and it resolves the names: nothing is
    /// looked up here. [`NewConnection::me`] is then this side's end of the socket to the proxy.
    /// The proxy's own time for its connect counts against [`timeout`](ConnectOptions::timeout).
    pub fn proxy(mut self, proxy: Proxy) -> ConnectOptions {
        self.proxy = Some(proxy);
        self
    }

    /// How long the whole attempt may take: one deadline over the connect to the proxy, the
    /// negotiation with it and its own connect. Default: 5 seconds, and 60 through a proxy (a
    /// circuit to an onion service takes Tor 5 to 20). At the limit it fails with
    /// [`ConnectError::TimedOut`], which says what was being waited for. Zero: only what succeeds at
    /// once does.
    pub fn timeout(mut self, timeout: Duration) -> ConnectOptions {
        self.timeout = Some(timeout);
        self
    }

    /// Whether a failure is worth the operator's attention, as with a peer that was configured by
    /// hand: logged at `info` instead of `debug`. Default: no. Core's `manual_connection`.
    pub fn is_important(mut self, is_important: bool) -> ConnectOptions {
        self.is_important = is_important;
        self
    }

    /// An interrupt that ends this attempt alone, signalled from another thread. Default: none.
    /// The `SockMan`'s own interrupts end a blocking `connect` too; an attempt begun with
    /// `start_connect` outlives them.
    pub fn cancel(mut self, interrupt: Interrupt) -> ConnectOptions {
        self.cancel = Some(interrupt);
        self
    }
}

/// What of the options the log needs.
#[derive(Debug)]
struct LogOptions {
    is_important: bool,
    proxy: Option<Service>,
}

impl LogOptions {
    fn of(options: &ConnectOptions) -> LogOptions {
        let proxy = options.proxy.as_ref().map(|proxy| proxy.endpoint().clone());
        LogOptions { is_important: options.is_important, proxy }
    }
}

/// A connection that exists but is not polled yet: no callback names its id before
/// [`activate`](NewConnection::activate). It can be sent to, woken and closed already.
///
/// Dropped without `activate`, the socket is closed and the id is never named.
#[must_use = "the connection is closed when this is dropped without `activate`"]
pub struct NewConnection {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    activated: bool,
}

impl NewConnection {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.connection.id
    }

    /// This side's address.
    #[must_use]
    pub fn me(&self) -> &Service {
        self.connection.me()
    }

    /// The peer, as it was dialled: also through a proxy, of which this says nothing.
    #[must_use]
    pub fn them(&self) -> &Destination {
        self.connection.them()
    }

    /// Hands the connection to the socket thread: from here on the callbacks name its id. With no
    /// thread running it waits for one. Returns the id. If it was closed meanwhile, nothing
    /// happens.
    pub fn activate(mut self) -> ConnectionId {
        self.activated = true;
        if !self.connection.is_closed() {
            self.shared.inbox.push(Mark::Activated(Arc::clone(&self.connection)));
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

/// Connects, and makes the id.
pub(crate) fn connect(
    sockman: &SockMan,
    to: &Destination,
    options: &ConnectOptions,
) -> Result<NewConnection, ConnectError> {
    let result = connect_blocking(sockman.shared(), to, options);
    log_outcome(to, &LogOptions::of(options), result.as_ref().map(NewConnection::id));
    result
}

fn connect_blocking(
    shared: &Arc<Shared>,
    to: &Destination,
    options: &ConnectOptions,
) -> Result<NewConnection, ConnectError> {
    if threads::is_socket_thread_of(shared) {
        return Err(ConnectError::OnSocketThread);
    }
    let watches = Watches::new(shared.interrupts().chain(&options.cancel));
    let factory = &*shared.options.sock_factory;
    let mut dial = Dial::new(to, options, shared.i2p.as_ref(), factory.now())?;
    let limit = shared.connections.limit();
    let place = shared.reserve().ok_or(ConnectError::TooManyConnections { limit })?;

    let sock = blocking::connect(factory, &mut dial, &watches)?;
    let me = match dial.me() {
        Some(me) => me.clone(),
        None => sock.local_address().map_err(|error| dial.failed("getsockname", error))?,
    };
    let connection = place.fill(Direction::Outbound, sock, me, to.clone(), factory.now());
    shared.counters.connected.add(1);
    Ok(NewConnection { shared: Arc::clone(shared), connection, activated: false })
}

/// Makes the id of a socket that is connected already.
#[cfg(feature = "testing")]
pub(crate) fn add_existing(
    sockman: &SockMan,
    sock: Box<dyn crate::Sock>,
    me: &Service,
    them: &Service,
) -> Result<NewConnection, ConnectError> {
    let shared = sockman.shared();
    let limit = shared.connections.limit();
    let place = shared.reserve().ok_or(ConnectError::TooManyConnections { limit })?;
    let now = shared.options.sock_factory.now();
    let connection = place.fill(Direction::Outbound, sock, me.clone(), them.into(), now);
    Ok(NewConnection { shared: Arc::clone(shared), connection, activated: false })
}

/// Begins to connect, and leaves the rest to the socket thread.
pub(crate) fn start_connect(
    sockman: &SockMan,
    to: &Destination,
    options: &ConnectOptions,
) -> Result<ConnectionId, ConnectError> {
    let shared = sockman.shared();
    match Attempt::start(shared, to, options) {
        Ok(attempt) => {
            let id = attempt.connection.id;
            shared.inbox.push(Mark::Connecting(Box::new(attempt)));
            Ok(id)
        }
        Err(error) => {
            log_outcome(to, &LogOptions::of(options), Err(&error));
            Err(error)
        }
    }
}

/// A connect is over: one line. The peer's name is escaped, and credentials are in no error.
fn log_outcome(
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
        (Err(error), _) if options.is_important => log::info!(target: target, "{error}"),
        (Err(error), _) => log::debug!(target: target, "{error}"),
    }
}
