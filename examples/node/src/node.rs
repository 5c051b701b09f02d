//! A whole node: its configuration, its threads, and the events that it reports.
//!
//! [`Node::start`] and [`Node::stop`] run on the caller's thread. These methods start and join the
//! socket threads and the message handler.

use std::{
    collections::hash_map::RandomState,
    error::Error,
    fmt,
    hash::{BuildHasher, Hasher},
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use bitcoin::{BlockHash, Network, p2p::ServiceFlags};
use sockman::{
    ConnectionId, Options, Service, SockMan, SocketsThreads,
    address::{Destination, NetAddr},
    i2p::I2pOptions,
    proxy::Proxy,
    stats::Direction,
};

use crate::{
    blocks::BlockStore,
    chain::Chain,
    connman::Connman,
    control::Control,
    peer::PeerVersion,
    processing::Work,
    transport::{SessionId, TransportType},
};

/// The connections that are reserved for `addnode`, so that inbound peers cannot take their places.
/// Corresponds to Bitcoin Core's `MAX_ADDNODE_CONNECTIONS`.
const MAX_ADDED: usize = 8;

/// The factor by which the node waits longer for a key of version 2 if a proxy or an I2P router is
/// between it and the peer, where each way can take seconds.
const V2_WAIT_FACTOR: u32 = 5;

/// The configuration of a node. The default times and sizes are Bitcoin Core's, except for `redial`
/// and `v2_wait`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Bitcoin network that the node is part of.
    pub network: Network,
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// The addresses to dial and to keep connected.
    pub connect: Vec<Destination>,
    /// Whether the node speaks version 2 of the transport (BIP 324). If so, it tries version 2
    /// first when it dials, and recognises the version of an inbound peer. Default: `true`.
    pub v2_transport: bool,
    /// The time in which a peer that the node dials has to answer in version 2 of the transport. If
    /// the whole key has not arrived by then, the node disconnects and dials again at once in
    /// version 1. Bitcoin Core dials again only after the peer has closed the connection, and a peer
    /// that knows only version 1 may wait for the rest of what it takes for a message. The key needs
    /// one round trip. The node waits five times as long through a proxy or an I2P router. Default:
    /// 3 s.
    pub v2_wait: Duration,
    /// The proxy for every destination that no other option covers. Default: none.
    pub proxy: Option<Proxy>,
    /// The proxy for onion services. Default: the value of `proxy`.
    pub onion_proxy: Option<Proxy>,
    /// The SAM bridge of an I2P router, and whether the node listens through it. Default: none.
    pub i2p: Option<I2pOptions>,
    /// The most connections in both directions together. Eight more connections are reserved for
    /// addresses that are added later. Default: 125.
    pub max_connections: usize,
    /// The services that the node advertises besides the transport and those of `blocks`. Default:
    /// none.
    pub services: ServiceFlags,
    /// The blocks that the node serves, with their filters. The node then advertises the services
    /// `NETWORK`, `WITNESS` and `COMPACT_FILTERS`. Default: none.
    pub blocks: Option<Arc<BlockStore>>,
    /// The time between two pings of the same peer. Default: 2 minutes.
    pub ping_interval: Duration,
    /// The time in which a peer has to complete the handshake. After it the peer is disconnected.
    /// Default: 60 s.
    pub handshake_timeout: Duration,
    /// The time after which the node disconnects a peer that sends nothing, receives nothing, or
    /// does not answer a ping. Default: 20 minutes.
    pub inactivity_timeout: Duration,
    /// The time between the end of a connection or attempt and the next attempt to the same
    /// address. Default: 5 s.
    pub redial: Duration,
    /// The number of unsent bytes from which on the node does not read from the peer. Default:
    /// 1 MB.
    pub max_send_buffer: usize,
    /// The number of unprocessed bytes from which on the node does not read from the peer. Default:
    /// 5 MB.
    pub max_receive_buffer: usize,
    /// The period of the library's sweep, which drives the time-outs. Default: 50 ms.
    pub sweep: Option<Duration>,
}

impl Config {
    /// Returns the default configuration for a network. The node neither listens nor dials.
    pub fn new(network: Network) -> Config {
        Config {
            network,
            listen: Vec::new(),
            connect: Vec::new(),
            v2_transport: true,
            v2_wait: Duration::from_secs(3),
            proxy: None,
            onion_proxy: None,
            i2p: None,
            max_connections: 125,
            services: ServiceFlags::NONE,
            blocks: None,
            ping_interval: Duration::from_secs(2 * 60),
            handshake_timeout: Duration::from_secs(60),
            inactivity_timeout: Duration::from_secs(20 * 60),
            redial: Duration::from_secs(5),
            max_send_buffer: 1_000_000,
            max_receive_buffer: 5_000_000,
            sweep: Some(sockman::options::SELECT_TIMEOUT),
        }
    }

    /// Returns the most inbound connections. One place is reserved for each address to dial.
    pub(crate) fn max_inbound(&self) -> usize {
        self.max_connections.saturating_sub(self.connect.len())
    }

    /// Returns the services that this node advertises.
    pub(crate) fn advertised_services(&self) -> ServiceFlags {
        let of_blocks =
            ServiceFlags::NETWORK | ServiceFlags::WITNESS | ServiceFlags::COMPACT_FILTERS;
        let mut services = self.services;
        if self.v2_transport {
            services |= ServiceFlags::P2P_V2;
        }
        if self.blocks.is_some() {
            services |= of_blocks;
        }
        services
    }

    /// Returns the time in which `to` has to answer in version 2 of the transport.
    pub(crate) fn v2_wait_for(&self, to: &Destination) -> Duration {
        let is_i2p = matches!(to.service().map(Service::addr), Some(NetAddr::I2p(_)));
        let is_direct = !is_i2p && matches!(self.proxy_for(to), Ok(None));
        if is_direct { self.v2_wait } else { self.v2_wait.saturating_mul(V2_WAIT_FACTOR) }
    }

    /// Returns what the configuration lacks for dialling `to`, as the end of a sentence that begins
    /// with "it requires". Returns `None` if nothing is missing.
    pub fn what_it_needs(&self, to: &Destination) -> Option<&'static str> {
        self.proxy_for(to).err()
    }

    /// Returns the proxy that Bitcoin Core's `-proxy` and `-onion` would choose for dialling `to`,
    /// or `None` if `to` is dialled without a proxy. Unix-domain sockets need no proxy. I2P
    /// addresses use the SAM bridge and never a proxy, because a proxy would take them for names.
    ///
    /// # Errors
    ///
    /// Returns what the configuration lacks, as the end of a sentence that begins with "it
    /// requires".
    pub(crate) fn proxy_for(&self, to: &Destination) -> Result<Option<&Proxy>, &'static str> {
        let proxy = self.proxy.as_ref();
        let parsed = match to {
            Destination::Service(service) => Ok(service.clone().into()),
            // A name that was not made by parsing may be an address, or a name that is never
            // resolved. Parsing tells.
            name => name.to_string().parse::<Destination>(),
        };
        let Ok(parsed) = parsed else { return Err("an address in place of this name") };
        match parsed.service().map(Service::addr) {
            Some(NetAddr::TorV3(_)) => {
                let onion = self.onion_proxy.as_ref().or(proxy);
                onion.map(Some).ok_or("a Tor proxy; set it with --onion")
            }
            Some(NetAddr::I2p(_)) if self.i2p.is_some() => Ok(None),
            Some(NetAddr::I2p(_)) => {
                Err("an I2P router; set the address of its SAM bridge with --i2p-sam")
            }
            Some(NetAddr::Unix(_)) => Ok(None),
            Some(_) => Ok(proxy),
            None => proxy.map(Some).ok_or("a proxy that resolves host names; set it with --proxy"),
        }
    }
}

/// An event that the node reports to its observer. The observer runs on the thread on which the
/// event happened, with no lock held, and must return soon.
#[derive(Debug, Clone)]
pub enum Event {
    /// A peer is connected.
    Connected {
        /// The peer.
        id: ConnectionId,
        /// Which side dialled.
        direction: Direction,
        /// The address of the peer.
        them: Destination,
    },
    /// The node refused an inbound connection because it has too many.
    Refused {
        /// The address of the peer.
        them: Service,
        /// The most inbound connections.
        limit: usize,
    },
    /// An attempt to connect failed.
    ConnectFailed {
        /// The reason, with the address.
        error: String,
    },
    /// A peer has completed the handshake.
    Handshake {
        /// The peer.
        id: ConnectionId,
        /// The time since the peer connected.
        took: Duration,
        /// The contents of the peer's `version` message.
        version: PeerVersion,
    },
    /// A peer has answered a ping.
    Pong {
        /// The peer.
        id: ConnectionId,
        /// The time since the ping left.
        round_trip: Duration,
    },
    /// A peer has pinged the node, which has answered.
    Pinged {
        /// The peer.
        id: ConnectionId,
    },
    /// A peer has sent addresses of other nodes.
    Addresses {
        /// The peer.
        id: ConnectionId,
        /// The number of addresses that were new.
        new: usize,
        /// The number of addresses that are now known.
        known: usize,
    },
    /// A peer has sent valid headers.
    Headers {
        /// The peer.
        id: ConnectionId,
        /// The number of headers that were new.
        new: usize,
        /// The height of the chain now.
        height: usize,
        /// The last header of the chain now.
        tip: BlockHash,
        /// Whether the node has requested the headers that follow.
        more_to_come: bool,
    },
    /// A peer is disconnected.
    Disconnected {
        /// The peer.
        id: ConnectionId,
        /// Which side had dialled.
        direction: Direction,
        /// Whether the handshake was complete.
        was_established: bool,
        /// The reason.
        reason: String,
    },
    /// An RPC client requested the node to stop, which its owner does.
    StopRequested,
    /// The node has begun or ceased to listen on I2P.
    I2p {
        /// The address, once it is known.
        address: Option<Service>,
        /// Whether peers can dial the address.
        listening: bool,
    },
}

pub(crate) type Observer = Box<dyn Fn(Event) + Send + Sync>;

/// A running node. Dropping it stops it.
pub struct Node {
    connman: Arc<Connman>,
    sockman: SockMan,
    /// `None` before the start and after the stop.
    threads: Option<SocketsThreads>,
    message_handler: Option<JoinHandle<()>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node(..)")
    }
}

impl Node {
    /// Starts a node: binds its addresses and starts its threads. `chain` contains the headers that
    /// the node knows at first. [`BlockStore::chain`] returns those of the node's blocks.
    ///
    /// # Errors
    ///
    /// [`NodeError`], if an address cannot be bound or a thread cannot be started. Nothing is left
    /// running.
    pub fn start(
        config: Config,
        chain: Chain,
        observer: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Node, NodeError> {
        // Each address to dial has a place, so that none waits for another one's attempt.
        let places = config.max_connections.max(config.connect.len()).saturating_add(MAX_ADDED);
        let mut options = Options::default().max_connections(places).sweep(config.sweep);
        if let Some(i2p) = &config.i2p {
            options = options.i2p(i2p.clone());
        }
        let listen = config.listen.clone();
        let (work, to_do) = mpsc::channel();
        let connman = Arc::new(Connman::new(config, chain, work, Box::new(observer)));
        let sockman = SockMan::with_state(Arc::clone(&connman), options).map_err(NodeError::new)?;
        for address in &listen {
            let bound =
                sockman_programs::listening::listen(&sockman, address).map_err(NodeError::new)?;
            connman.listening.lock().push(bound);
        }

        let mut node = Node { connman, sockman, threads: None, message_handler: None };
        // From here on, an error drops the node, which stops the thread that already runs.
        node.message_handler = Some(node.start_message_handler(to_do)?);
        node.threads = Some(node.sockman.start_sockets_threads().map_err(NodeError::new)?);
        Ok(node)
    }

    /// Starts the message handler. Its panic stops the whole node, so that no part of it goes on
    /// alone.
    fn start_message_handler(&self, work: Receiver<Work>) -> io::Result<JoinHandle<()>> {
        struct StopOnPanic(Control);
        impl Drop for StopOnPanic {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.begin_stop();
                }
            }
        }
        let guard = StopOnPanic(self.control());
        thread::Builder::new().name("msghand".to_owned()).spawn(move || {
            let StopOnPanic(node) = &guard;
            node.connman.handle_messages(&work);
        })
    }

    /// Returns whether the socket threads still run.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Returns the addresses that the node listens on, with the ports that it was given.
    pub fn listening(&self) -> Vec<Service> {
        self.connman.listening.lock().clone()
    }

    /// Returns the height of the last header.
    pub fn height(&self) -> usize {
        self.connman.chain.lock().height()
    }

    /// Returns the hash of the last header.
    pub fn tip(&self) -> BlockHash {
        self.connman.chain.lock().tip()
    }

    /// Returns the current table of peers.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.control().peers()
    }

    /// Returns a handle for other threads. The handle stays valid after the node has stopped.
    pub fn control(&self) -> Control {
        Control { connman: Arc::clone(&self.connman), sockman: self.sockman.clone() }
    }

    /// Stops the node in order: it ends accepting and dialling, closes and reports every connection,
    /// and then ends the threads.
    ///
    /// # Errors
    ///
    /// [`NodeError`], if a thread of the node panicked or the poller failed.
    pub fn stop(mut self) -> Result<(), NodeError> {
        self.stop_threads()
    }

    fn stop_threads(&mut self) -> Result<(), NodeError> {
        self.control().begin_stop();
        let sockets = self.threads.take().map_or(Ok(()), SocketsThreads::join);
        if sockets.is_err() {
            // A panic in a callback has suspended the end of the connections.
            let _ = self.sockman.run_sockets_thread();
        }
        let _ = self.connman.work.send(None);
        let handler = self.message_handler.take().map_or(Ok(()), JoinHandle::join);
        sockets.map_err(NodeError::new)?;
        handler.map_err(|_| NodeError("a thread of the node panicked".to_owned()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.stop_threads() {
            log::error!("the node did not stop cleanly: {error}");
        }
    }
}

/// A row of the table of peers.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The connection.
    pub id: ConnectionId,
    /// Which side dialled.
    pub direction: Direction,
    /// The address of the peer.
    pub address: Destination,
    /// This node's address of the connection.
    pub me: Service,
    /// The time when the connection was made.
    pub connected_at: SystemTime,
    /// The time when the last bytes arrived.
    pub last_received: Option<Instant>,
    /// The time when the last bytes left.
    pub last_sent: Option<Instant>,
    /// The transport of the connection.
    pub transport: TransportType,
    /// The session id, which only version 2 of the transport has.
    pub session_id: Option<SessionId>,
    /// The contents of the peer's `version` message, once it has arrived.
    pub version: Option<PeerVersion>,
    /// The round-trip time of the last answered ping.
    pub round_trip: Option<Duration>,
    /// The shortest round-trip time of a ping.
    pub min_round_trip: Option<Duration>,
    /// The time that a ping has been waiting for its pong.
    pub ping_wait: Option<Duration>,
    /// The bytes received.
    pub bytes_in: u64,
    /// The bytes sent.
    pub bytes_out: u64,
    /// The bytes of messages that wait to be processed.
    pub unprocessed: usize,
    /// The bytes that wait to be sent.
    pub unsent: usize,
}

/// The error returned when a node cannot start or does not stop cleanly.
#[derive(Debug)]
pub struct NodeError(String);

impl NodeError {
    fn new(error: impl Error) -> NodeError {
        NodeError(format!("{error:#}"))
    }
}

impl From<io::Error> for NodeError {
    fn from(error: io::Error) -> NodeError {
        NodeError::new(error)
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NodeError {}

/// Returns a random number that is unpredictable enough for nonces: the keys of the standard
/// library's hash maps are random.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
