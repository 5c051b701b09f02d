//! A whole node: its configuration, its threads, and what it tells of itself.

use std::{
    collections::hash_map::RandomState,
    error::Error,
    fmt,
    hash::{BuildHasher, Hasher},
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use bitcoin::{BlockHash, Network, p2p::ServiceFlags};
use sockman::{
    ConnectionId, Interrupt, Options, Service, SockMan, SocketsThreads,
    address::{Destination, NetAddr},
    i2p::I2pOptions,
    proxy::Proxy,
    stats::Direction,
};

use crate::{
    chain::Chain,
    connman::Connman,
    control::Control,
    dialer::Dialer,
    peer::PeerVersion,
    processing::MessageHandler,
    transport::{SessionId, TransportType},
};

/// Bitcoin Core's `MAX_ADDNODE_CONNECTIONS`: inbound peers cannot take the places of those that
/// somebody asks for by RPC.
const MAX_ADDED: usize = 8;

/// What a node is to do. The defaults of the times and sizes are Bitcoin Core's.
#[derive(Debug, Clone)]
pub struct Config {
    /// The network that the node is part of.
    pub network: Network,
    /// The addresses to listen on.
    pub listen: Vec<Service>,
    /// The addresses to dial, and to keep connected.
    pub connect: Vec<Destination>,
    /// Whether version 2 of the transport (BIP 324) is spoken: tried first with whoever is
    /// dialled, recognised with whoever dials.
    pub v2_transport: bool,
    /// For everything that is dialled …
    pub proxy: Option<Proxy>,
    /// … but for onion services, if this is set.
    pub onion_proxy: Option<Proxy>,
    /// The SAM bridge of an I2P router, and whether it is listened through.
    pub i2p: Option<I2pOptions>,
    /// In both directions together. Eight more are kept for those that are added later.
    pub max_connections: usize,
    /// What the node claims to offer, besides the transport. It serves no blocks: nothing.
    pub services: ServiceFlags,
    /// Between two pings of the same peer.
    pub ping_interval: Duration,
    /// A peer that has not completed the handshake by then is disconnected.
    pub handshake_timeout: Duration,
    /// A peer that is silent for longer, or takes nothing for longer, is disconnected.
    pub inactivity_timeout: Duration,
    /// Between two attempts to connect to the same address.
    pub redial: Duration,
    /// From so many unsent bytes on, nothing is read from the peer.
    pub max_send_buffer: usize,
    /// From so many unprocessed bytes on, nothing is read from the peer.
    pub max_receive_buffer: usize,
    /// Sockman's sweep, which drives the time-outs.
    pub sweep: Option<Duration>,
    /// Ends the node. Set by whoever catches signals, too.
    pub interrupt: Interrupt,
}

impl Config {
    /// Returns the defaults for a network: the node listens nowhere and dials nobody.
    pub fn new(network: Network) -> Config {
        Config {
            network,
            listen: Vec::new(),
            connect: Vec::new(),
            v2_transport: true,
            proxy: None,
            onion_proxy: None,
            i2p: None,
            max_connections: 125,
            services: ServiceFlags::NONE,
            ping_interval: Duration::from_secs(2 * 60),
            handshake_timeout: Duration::from_secs(60),
            inactivity_timeout: Duration::from_secs(20 * 60),
            redial: Duration::from_secs(5),
            max_send_buffer: 1_000_000,
            max_receive_buffer: 5_000_000,
            sweep: Some(sockman::options::SELECT_TIMEOUT),
            interrupt: Interrupt::new(),
        }
    }

    /// Every address to dial keeps its place.
    pub(crate) fn max_inbound(&self) -> usize {
        self.max_connections.saturating_sub(self.connect.len())
    }

    /// What this node tells the others that it offers.
    pub(crate) fn advertised_services(&self) -> ServiceFlags {
        if self.v2_transport { self.services | ServiceFlags::P2P_V2 } else { self.services }
    }

    /// What is missing for dialling `to`, if anything is.
    pub fn what_it_needs(&self, to: &Destination) -> Option<&'static str> {
        let has_proxy = self.proxy.is_some();
        let (has_a_way, needs) = match to.service().map(Service::addr) {
            Some(NetAddr::TorV3(_)) => {
                (has_proxy || self.onion_proxy.is_some(), "Tor: say where it is with --onion")
            }
            Some(NetAddr::I2p(_)) => (
                has_proxy || self.i2p.is_some(),
                "an I2P router: say where its SAM bridge is with --i2p-sam",
            ),
            Some(_) => (true, ""),
            None => (has_proxy, "a proxy that resolves names: say where it is with --proxy"),
        };
        (!has_a_way).then_some(needs)
    }
}

/// What happened. Told on whatever thread it happened on, with no lock held; the observer must not
/// take long.
#[derive(Debug, Clone)]
pub enum Event {
    /// A peer is connected.
    Connected {
        /// The peer.
        id: ConnectionId,
        /// Who dialled.
        direction: Direction,
        /// The address of the peer.
        them: Destination,
    },
    /// A connection was not accepted: there are too many.
    Refused {
        /// The address of the peer.
        them: Service,
        /// The number of inbound connections that there may be.
        limit: usize,
    },
    /// A dial failed.
    ConnectFailed {
        /// The reason, with the address.
        error: String,
    },
    /// A peer has completed the handshake.
    Handshake {
        /// The peer.
        id: ConnectionId,
        /// The time since it is connected.
        took: Duration,
        /// What it said of itself.
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
    /// A peer has told addresses.
    Addresses {
        /// The peer.
        id: ConnectionId,
        /// How many of them were not known.
        new: usize,
        /// How many are known now.
        known: usize,
    },
    /// A peer has sent headers, and they are right.
    Headers {
        /// The peer.
        id: ConnectionId,
        /// How many of them were not known.
        new: usize,
        /// The height of the chain now.
        height: usize,
        /// The last header of the chain now.
        tip: BlockHash,
        /// The node has asked the peer for the headers that follow.
        more_to_come: bool,
    },
    /// A peer is disconnected.
    Disconnected {
        /// The peer.
        id: ConnectionId,
        /// The reason.
        reason: String,
    },
    /// By RPC.
    StopRequested,
    /// Peers can dial this address from now on, or no more.
    I2p {
        /// The address, once it is known.
        address: Option<Service>,
        /// Whether they can dial it.
        listening: bool,
    },
}

pub(crate) type Observer = Box<dyn Fn(Event) + Send + Sync>;

/// A running node. Dropping it stops it.
pub struct Node {
    connman: Arc<Connman>,
    sockman: SockMan,
    /// `None` once stopped.
    threads: Option<SocketsThreads>,
    dialer: Option<JoinHandle<()>>,
    message_handler: Option<JoinHandle<()>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node(..)")
    }
}

impl Node {
    /// Binds, and starts the threads. `chain` is what the node knows at first.
    ///
    /// # Errors
    ///
    /// [`NodeError`]; nothing is left running.
    pub fn start(
        config: Config,
        chain: Chain,
        observer: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Node, NodeError> {
        let mut options = Options::default()
            .max_connections(config.max_connections.saturating_add(MAX_ADDED))
            .sweep(config.sweep)
            .interrupt(config.interrupt.clone());
        if let Some(i2p) = &config.i2p {
            options = options.i2p(i2p.clone());
        }
        let listen = config.listen.clone();
        let connman = Arc::new(Connman::new(config, chain, Box::new(observer)));
        let sockman = SockMan::new(connman.clone(), options).map_err(NodeError::new)?;
        for address in &listen {
            let bound = sockman.bind_and_start_listening(address).map_err(NodeError::new)?;
            connman.listening.lock().push(bound);
        }

        let mut node =
            Node { connman, sockman, threads: None, dialer: None, message_handler: None };
        // From here on, an error drops the node, which stops what has been started.
        let handler =
            MessageHandler { connman: Arc::clone(&node.connman), sockman: node.sockman.clone() };
        node.message_handler = Some(node.spawn("msghand", move || handler.run())?);
        node.threads = Some(node.sockman.start_sockets_threads().map_err(NodeError::new)?);
        let dialer = Dialer { connman: Arc::clone(&node.connman), sockman: node.sockman.clone() };
        node.dialer = Some(node.spawn("opencon", move || dialer.run())?);
        Ok(node)
    }

    /// A thread whose panic ends the node instead of leaving half of one.
    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        struct InterruptOnPanic(Interrupt);
        impl Drop for InterruptOnPanic {
            fn drop(&mut self) {
                if thread::panicking() {
                    self.0.interrupt();
                }
            }
        }
        let guard = InterruptOnPanic(self.connman.config.interrupt.clone());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _guard = guard;
            run();
        })
    }

    /// Whether sockman's threads still do.
    pub fn is_running(&self) -> bool {
        self.threads.as_ref().is_some_and(|threads| !threads.is_finished())
    }

    /// Where it listens, with the ports that it really got.
    pub fn listening(&self) -> Vec<Service> {
        self.connman.listening.lock().clone()
    }

    /// Returns the height of the last header.
    pub fn height(&self) -> usize {
        self.connman.chain.lock().height()
    }

    /// Returns the last header.
    pub fn tip(&self) -> BlockHash {
        self.connman.chain.lock().tip()
    }

    /// The table of peers, as it is now.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.control().peers()
    }

    /// Returns a handle for other threads, and for as long as they like.
    pub fn control(&self) -> Control {
        Control { connman: Arc::clone(&self.connman), sockman: self.sockman.clone() }
    }

    /// Orderly: no new connections, no more callbacks, no more processing, then every peer sees
    /// the end.
    ///
    /// # Errors
    ///
    /// A thread of the node had panicked, or the poller failed.
    pub fn stop(mut self) -> Result<(), NodeError> {
        self.stop_threads()
    }

    fn stop_threads(&mut self) -> Result<(), NodeError> {
        self.connman.config.interrupt.interrupt();
        self.sockman.stop_listening();
        self.connman.targets.close();
        let dialer = self.dialer.take().map_or(Ok(()), JoinHandle::join);
        let sockets = self.threads.take().map_or(Ok(()), SocketsThreads::join);
        self.connman.work.close();
        let handler = self.message_handler.take().map_or(Ok(()), JoinHandle::join);
        for peer in self.connman.peers() {
            self.connman.disconnect(&self.sockman, peer.id, "this node ends");
        }
        sockets.map_err(NodeError::new)?;
        dialer.and(handler).map_err(|_| NodeError("a thread of the node panicked".to_owned()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.stop_threads() {
            log::error!("{error}");
        }
    }
}

/// One line of the table of peers.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The connection.
    pub id: ConnectionId,
    /// Who dialled.
    pub direction: Direction,
    /// The address of the peer.
    pub address: Destination,
    /// The address of this side.
    pub me: Service,
    /// The time when the connection was made.
    pub connected_at: SystemTime,
    /// The time when the last bytes came.
    pub last_received: Option<Instant>,
    /// The time when the last bytes left.
    pub last_sent: Option<Instant>,
    /// The transport of the connection.
    pub transport: TransportType,
    /// Of version 2 alone.
    pub session_id: Option<SessionId>,
    /// What the peer said of itself, once it did.
    pub version: Option<PeerVersion>,
    /// The time that the last ping took.
    pub round_trip: Option<Duration>,
    /// The shortest time that a ping took.
    pub min_round_trip: Option<Duration>,
    /// For how long a ping has been waiting for its pong.
    pub ping_wait: Option<Duration>,
    /// The bytes received.
    pub bytes_in: u64,
    /// The bytes sent.
    pub bytes_out: u64,
    /// The bytes of messages that are not processed yet.
    pub unprocessed: usize,
    /// The bytes of answers that are not sent yet.
    pub unsent: usize,
}

/// Why a node did not start, or did not end well.
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

/// Unpredictable enough for nonces: the keys of the standard library's hash maps are random.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
