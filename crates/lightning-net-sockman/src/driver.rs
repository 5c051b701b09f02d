//! [`Driver`], the face of this crate. Its methods run on the caller's thread, and leave marks for
//! the socket thread. Those that connect wait.

use std::{
    fmt,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Weak},
    time::Duration,
};

use lightning::{
    bitcoin::secp256k1::PublicKey,
    ln::{msgs::SocketAddress, peer_handler::APeerManager},
};
use sockman::{
    ConnectOptions, ConnectionId, NewConnection, Options, Service, SockMan, WeakSockMan,
    address::Destination,
    error::{AddConnectionError, ConnectError, CreateError},
    proxy::Proxy,
    sys::OwnedSocket,
};

use crate::{
    Connection, SocketDescriptor,
    handler::{Bridge, Dial, Peer, Register, Role},
    manager::{Ldk, Manager},
};

/// How much one `read_event` gets at most, as LDK's documentation advises.
pub(crate) const RECEIVE_BUFFER: usize = 4096;

/// The time-outs of `lightning-net-tokio`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TOR_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects a [`PeerManager`](lightning::ln::peer_handler::PeerManager) to its peers. A clone is a
/// handle to the same driver.
///
/// The driver creates a [`SockMan`], which [`sockman`](Driver::sockman) returns, for everything
/// that LDK has no word for: listening, the threads, limits, statistics, the end.
///
/// # The end
///
/// A program ends a driver in this order, as in the example:
///
/// 1. `disconnect_all_peers` of the peer manager. LDK discards what it has not handed over yet.
/// 2. [`SockMan::drain_and_stop`] sends what is queued, and stops the thread.
/// 3. [`SocketsThreads::join`](sockman::SocketsThreads::join). Without a stop before, it waits
///    without end.
/// 4. The drop of the last handle. It does not end a running thread.
///
/// When the last handle is dropped and no thread runs, the connections are closed without a report
/// to the peer manager. So keep a handle until no other thread uses the peer manager.
///
/// Before the start of the thread and after a `join`, connects succeed, but nothing is received or
/// sent. After a `join`, the thread may be started again.
///
/// # In message handlers
///
/// A message handler that keeps a driver stores a [`WeakDriver`]: the driver owns the pointer to
/// the peer manager, which owns its message handlers.
///
/// # Examples
///
/// ```
/// use std::error::Error;
///
/// use lightning::ln::peer_handler::APeerManager;
/// use lightning_net_sockman::{Driver, SocketDescriptor};
/// use sockman::Options;
///
/// fn run<PM>(peer_manager: PM) -> Result<(), Box<dyn Error>>
/// where
///     PM: std::ops::Deref + Clone + Send + Sync + 'static,
///     PM::Target: APeerManager<Descriptor = SocketDescriptor>,
/// {
///     let driver = Driver::new(peer_manager.clone(), Options::default().max_connections(200))?;
///     driver.sockman().bind_and_start_listening("0.0.0.0:9735")?;
///     let threads = driver.sockman().start_sockets_threads()?;
///     // Connect to peers here, and wait for the end of the program. Then:
///     peer_manager.as_ref().disconnect_all_peers();
///     driver.sockman().drain_and_stop(std::time::Duration::from_secs(5));
///     threads.join()?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Driver {
    sockman: SockMan,
    bridge: Arc<dyn Register>,
}

impl Driver {
    /// Creates a driver for `peer_manager`. No thread runs yet.
    ///
    /// The driver overrides two of the options. [`Options::receive_buffer`] becomes 4 KiB, as LDK
    /// advises. [`Options::sweep`] becomes `None`, because the driver wakes the socket thread where
    /// that is needed.
    ///
    /// # Errors
    ///
    /// [`CreateError`], as of [`SockMan::with_state`].
    pub fn new<PM>(peer_manager: PM, options: Options) -> Result<Driver, CreateError>
    where
        PM: Deref + Send + Sync + 'static,
        PM::Target: APeerManager<Descriptor = SocketDescriptor>,
    {
        Driver::over(Ldk(peer_manager), options)
    }

    pub(crate) fn over<M: Manager>(manager: M, options: Options) -> Result<Driver, CreateError> {
        let bridge = Arc::new(Bridge::new(manager));
        let options = options.receive_buffer(RECEIVE_BUFFER).sweep(None);
        let sockman = SockMan::with_state(Arc::clone(&bridge), options)?;
        Ok(Driver { sockman, bridge })
    }

    /// Returns the `SockMan` of this driver.
    ///
    /// Use it to listen, to start and end the threads, and to close. A connection that its
    /// `connect` methods make is closed at once, because the peer manager does not know whom to
    /// expect there. Use the methods of the driver to connect.
    #[must_use]
    pub fn sockman(&self) -> &SockMan {
        &self.sockman
    }

    /// Requests a call of the peer manager's `process_events` on the socket thread. Returns at
    /// once. Call this method after a message handler has got something to send.
    ///
    /// The driver calls `process_events` by itself after everything that happens on a connection.
    /// A program may also call `process_events` itself, on any thread.
    pub fn notify(&self) {
        self.bridge.request_events();
        self.sockman.notify();
    }

    /// Takes over a connected stream that the program has accepted. Returns at once. Most programs
    /// let [`sockman`](Driver::sockman) listen instead.
    ///
    /// # Errors
    ///
    /// [`AddConnectionError`], as of [`SockMan::add_connection`].
    pub fn setup_inbound(
        &self,
        stream: impl Into<OwnedSocket>,
    ) -> Result<Connection, AddConnectionError> {
        Ok(self.take_over(self.sockman.add_connection(stream)?, Role::Inbound))
    }

    /// Takes over a stream that the program has connected to the node `their_node_id`. Returns at
    /// once. If another node answers, the connection is closed.
    ///
    /// # Errors
    ///
    /// [`AddConnectionError`], as of [`SockMan::add_connection`].
    pub fn setup_outbound(
        &self,
        their_node_id: PublicKey,
        stream: impl Into<OwnedSocket>,
    ) -> Result<Connection, AddConnectionError> {
        let role = Role::Outbound { their_node_id };
        Ok(self.take_over(self.sockman.add_connection(stream)?, role))
    }

    /// Connects to the node `their_node_id`. Waits for the connect, for 10 seconds at most, but not
    /// for Lightning's handshake. If another node answers, the connection is closed.
    ///
    /// The handshake is over when the peer manager lists the peer, and `peer_connected` of its
    /// message handlers is called. If it fails, [`Connection::is_closed`] returns `true`. A peer
    /// that says nothing is given up by the peer manager at the second `timer_tick_occurred`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]. On the socket thread, and so in most message handlers, its kind is
    /// [`OnSocketThread`](sockman::error::ConnectErrorKind::OnSocketThread):
    /// [`start_connect_outbound`](Driver::start_connect_outbound) works there.
    pub fn connect_outbound(
        &self,
        their_node_id: PublicKey,
        addr: SocketAddr,
    ) -> Result<Connection, ConnectError> {
        let options = ConnectOptions::default().timeout(CONNECT_TIMEOUT);
        self.connect_outbound_with(their_node_id, addr, &options)
    }

    /// Connects through Tor: works as [`connect_outbound`](Driver::connect_outbound), for 30
    /// seconds at most, through the SOCKS5 proxy `tor_proxy`. Each connect has its own credentials,
    /// so Tor uses another circuit for each.
    ///
    /// The proxy gets host names and onion addresses as they are. No name is resolved here.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], also for an address of a kind that Tor has given up (version 2).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use lightning::bitcoin::secp256k1::PublicKey;
    /// # fn f(
    /// #     driver: lightning_net_sockman::Driver, their_node_id: PublicKey, address: &str,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use lightning::ln::msgs::SocketAddress;
    ///
    /// // "…d.onion:9735"
    /// let address: SocketAddress = address.parse().map_err(|_| "not an address")?;
    /// let tor = std::net::SocketAddr::from(([127, 0, 0, 1], 9050));
    /// let connection = driver.tor_connect_outbound(their_node_id, &address, tor)?;
    /// # drop(connection);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tor_connect_outbound(
        &self,
        their_node_id: PublicKey,
        addr: &SocketAddress,
        tor_proxy: impl Into<Service>,
    ) -> Result<Connection, ConnectError> {
        let proxy = Proxy::socks5(tor_proxy).tor_stream_isolation();
        let options = ConnectOptions::default().timeout(TOR_CONNECT_TIMEOUT).proxy(proxy);
        self.connect_outbound_with(their_node_id, addr.to_string().as_str(), &options)
    }

    /// Works as [`connect_outbound`](Driver::connect_outbound), to any destination and with any
    /// options: another time-out, a proxy, a source address. The time-out is that of the options: 5
    /// seconds by default, and 60 through a proxy.
    ///
    /// # Errors
    ///
    /// As [`SockMan::connect`].
    pub fn connect_outbound_with<E>(
        &self,
        their_node_id: PublicKey,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
    ) -> Result<Connection, ConnectError>
    where
        ConnectError: From<E>,
    {
        let new = self.sockman.connect(to, options)?;
        Ok(self.take_over(new, Role::Outbound { their_node_id }))
    }

    /// Begins a connect to the node `their_node_id`, and returns at once. The socket thread calls
    /// `outcome` with the result, with no lock held. This method works in message handlers, and for
    /// many connects at once. The time-out is that of the options: 5 seconds by default, and 60
    /// through a proxy.
    ///
    /// `outcome` is dropped without a call if the driver is dropped, or the id is closed before.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the connect fails at once. `outcome` is then dropped.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use lightning::bitcoin::secp256k1::PublicKey;
    /// # fn f(
    /// #     driver: lightning_net_sockman::Driver, their_node_id: PublicKey,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use sockman::ConnectOptions;
    ///
    /// let options = ConnectOptions::default();
    /// driver.start_connect_outbound(their_node_id, "192.0.2.1:9735", &options, |outcome| {
    ///     match outcome {
    ///         Ok(connection) => println!("connection {}", connection.id()),
    ///         Err(error) => println!("{error:#}"),
    ///     }
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start_connect_outbound<E>(
        &self,
        their_node_id: PublicKey,
        to: impl TryInto<Destination, Error = E>,
        options: &ConnectOptions,
        outcome: impl FnOnce(Result<Connection, ConnectError>) + Send + 'static,
    ) -> Result<ConnectionId, ConnectError>
    where
        ConnectError: From<E>,
    {
        let dial = Dial { their_node_id, outcome: Box::new(outcome) };
        self.sockman.start_connect_with(to, options, dial).map_err(|failed| failed.error)
    }

    /// Hands a connection to the socket thread, which tells the peer manager. Nothing is received
    /// before.
    fn take_over(&self, new: NewConnection, role: Role) -> Connection {
        let end = Arc::default();
        let connection = Connection::new(new.id(), Arc::clone(&end));
        // An error drops the connection and the value, so the handle reports the end. It does not
        // come: this is the type that the handler keeps.
        if let Ok(remote) = new.activate_with(Peer::new(role, end)) {
            let bridge = Arc::clone(&self.bridge);
            // An error means that the connection is closed already. Then its value goes back.
            let _ = remote.run(move |link, peer| bridge.register(link, peer));
        }
        connection
    }

    /// Returns a weak handle, which does not keep the driver alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakDriver {
        WeakDriver { sockman: self.sockman.downgrade(), bridge: Arc::downgrade(&self.bridge) }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// A weak handle to a [`Driver`], for message handlers. [`Driver::downgrade`] returns it.
///
/// # Examples
///
/// ```
/// use std::sync::OnceLock;
/// use lightning_net_sockman::WeakDriver;
///
/// /// A message handler. The driver is set once, right after `Driver::new`.
/// struct Handler {
///     driver: OnceLock<WeakDriver>,
/// }
///
/// impl Handler {
///     fn has_something_to_send(&self) {
///         if let Some(driver) = self.driver.get().and_then(WeakDriver::upgrade) {
///             driver.notify();
///         }
///     }
/// }
/// ```
#[derive(Clone)]
pub struct WeakDriver {
    sockman: WeakSockMan,
    bridge: Weak<dyn Register>,
}

impl WeakDriver {
    /// Returns a handle to the driver, or `None` if the driver no longer exists.
    #[must_use]
    pub fn upgrade(&self) -> Option<Driver> {
        Some(Driver { sockman: self.sockman.upgrade()?, bridge: self.bridge.upgrade()? })
    }
}

impl fmt::Debug for WeakDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakDriver").finish_non_exhaustive()
    }
}
