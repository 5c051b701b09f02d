//! The [`Handler`]: the peers, the limits, the time-outs, the dialling, and the flow of bytes.
//! Corresponds to Bitcoin Core's `CConnman` on top of `SockMan`.
//!
//! The methods of the [`Handler`] run on the socket thread and do as little as possible there: they
//! frame received bytes for the message handler, send queued bytes, and begin connects. Other
//! methods are called from every thread. The observer is called with no lock held. Methods of a
//! peer's connection may be called under a lock, because they do not call back.

use std::{
    any::Any,
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::Instant,
};

use bitcoin::{
    consensus::encode::serialize,
    p2p::message::{NetworkMessage, RawNetworkMessage},
};
use parking_lot::Mutex;
use sockman::{
    ConnectOptions, ConnectionId, NextRecv, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectFault, NotStarted},
    helpers::SendQueueLimits,
    i2p::I2pStatus,
    stateful::{Handler, Link},
    stats::Direction,
};

use crate::{
    Config, Event,
    addresses::AddressBook,
    chain::Chain,
    node::Observer,
    peer::{Bytes, Connection, Peer},
    processing::{Work, version_message},
    targets::{Attempt, Ended, Targets},
    transport::Message,
};

/// The most bytes that may wait for a peer: four of Bitcoin's largest messages.
const SEND_LIMIT: usize = 16_000_000;

pub(crate) struct Connman {
    pub(crate) config: Config,
    pub(crate) chain: Mutex<Chain>,
    pub(crate) addresses: Mutex<AddressBook>,
    /// The addresses that this node listens on, with the ports that it was given.
    pub(crate) listening: Mutex<Vec<Service>>,
    /// To the message handler.
    pub(crate) work: Sender<Work>,
    /// The addresses to dial.
    pub(crate) targets: Targets,
    /// A block could not be read.
    pub(crate) has_lost_blocks: AtomicBool,
    network_active: AtomicBool,
    peers: Mutex<Peers>,
    observer: Observer,
}

/// The peers, for threads that need all of them. Callbacks get the one that they are for.
#[derive(Default)]
struct Peers {
    /// In the order in which they connected.
    connected: BTreeMap<ConnectionId, Arc<Peer>>,
    /// The bytes received from and sent to peers that are disconnected.
    bytes_of_others: Bytes,
}

impl Connman {
    pub(crate) fn new(
        config: Config,
        chain: Chain,
        work: Sender<Work>,
        observer: Observer,
    ) -> Connman {
        let targets = Targets::new(config.redial);
        for to in &config.connect {
            targets.add(to, config.v2_transport);
        }
        Connman {
            config,
            targets,
            has_lost_blocks: AtomicBool::new(false),
            network_active: AtomicBool::new(true),
            chain: Mutex::new(chain),
            addresses: Mutex::default(),
            listening: Mutex::default(),
            work,
            peers: Mutex::default(),
            observer,
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.observer)(event);
    }

    /// Lets the message handler process the messages of a peer.
    pub(crate) fn add_work(&self, peer: &Arc<Peer>) {
        // Fails if the message handler has ended, when the node is about to end.
        let _ = self.work.send(Some(Arc::clone(peer)));
    }

    /// Returns the connected peers in the order in which they connected.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.lock();
        peers.connected.values().filter(|peer| !peer.remote.is_closed()).cloned().collect()
    }

    /// Returns the bytes received and sent since the start. Corresponds to Bitcoin Core's
    /// `GetTotalBytesRecv` and `GetTotalBytesSent`.
    pub(crate) fn totals(&self) -> Bytes {
        let peers = self.peers.lock();
        peers.connected.values().map(|peer| peer.bytes()).fold(peers.bytes_of_others, sum)
    }

    /// Adds a peer. An outbound connection has an attempt.
    fn add_peer(&self, link: Link<'_, Connection>, attempt: Option<&Attempt>) -> Connection {
        let direction = attempt.map_or(Direction::Inbound, |_| Direction::Outbound);
        // The event is reported before another thread can find the peer, and so before the end of
        // the connection is reported.
        self.tell(Event::Connected { id: link.id(), direction, them: link.them().clone() });
        let (connection, greeting) = Connection::new(&self.config, link, attempt);
        let peer = &connection.peer;
        self.peers.lock().connected.insert(link.id(), Arc::clone(peer));
        // If the network was switched off meanwhile, `set_network_active` may not have found this
        // peer.
        if !self.is_network_active() {
            peer.disconnect("the network is switched off");
        } else if !greeting.is_empty() {
            // If this fails, the first callback fails too and reports the error.
            let _ = link.push(&greeting);
        }
        connection
    }

    /// Records and reports an attempt to connect that failed.
    fn connect_failed(&self, attempt: &Attempt, error: &ConnectError) {
        let ended = match error.fault() {
            ConnectFault::Host => Ended::ByThisHost,
            ConnectFault::Caller => Ended::ForGood,
            _ => Ended::ForNow,
        };
        self.targets.ended(attempt.number, ended);
        self.tell(Event::ConnectFailed { error: format!("{error:#}") });
    }

    /// Returns the options for dialling `to`. If the configuration lacks a way to `to`, the options
    /// have no proxy, and the connect fails.
    fn connect_options(&self, to: &Destination) -> ConnectOptions {
        // The operator gave this address, so a failure is worth a line in the log.
        let options = ConnectOptions::default().is_important(true);
        match self.config.proxy_for(to) {
            Ok(Some(proxy)) => options.proxy(proxy.clone()),
            Ok(None) | Err(_) => options,
        }
    }

    /// Sends messages to a peer together, or queues them. Disconnects the peer if they can be
    /// neither sent nor queued. Corresponds to Bitcoin Core's `PushMessage`.
    pub(crate) fn push_messages(
        &self,
        peer: &Peer,
        messages: impl IntoIterator<Item = NetworkMessage>,
    ) {
        let magic = self.config.network.magic();
        let mut messages = messages.into_iter().peekable();
        let mut outgoing = peer.outgoing.lock();
        let has_queued = peer.remote.queue().has_queued();
        while let Some(message) = messages.next() {
            log::trace!("peer {}: sending {}", peer.id(), message.cmd());
            let bytes = serialize(&RawNetworkMessage::new(magic, message));
            let will_send_more = messages.peek().is_some();
            if let Err(error) = outgoing.push(&peer.remote, bytes, will_send_more.into()) {
                return peer.give_up(format!("{error:#}"));
            }
        }
        // If the condition is false, older bytes are in the queue, or the messages wait for a
        // handshake.
        if !has_queued && !outgoing.is_waiting() {
            peer.activity.lock().last_sent = Some(Instant::now());
        }
    }

    pub(crate) fn is_network_active(&self) -> bool {
        self.network_active.load(Ordering::SeqCst)
    }

    /// Switches the network on or off. While it is off, the node has no peers, does not dial, and
    /// refuses inbound connections. The caller notifies the socket thread.
    pub(crate) fn set_network_active(&self, is_active: bool) {
        // The flag is set before the list of peers is read. A thread that adds a peer does the
        // reverse, so one of the two disconnects the peer.
        self.network_active.store(is_active, Ordering::SeqCst);
        if !is_active {
            self.targets.forget_tries();
            for peer in self.peers() {
                peer.disconnect("the network is switched off");
            }
        }
    }
}

impl Handler for Connman {
    type Connection = Connection;

    fn accepted(
        &self,
        link: Link<'_, Connection>,
        _me: &Service,
        them: &Service,
    ) -> Option<Connection> {
        if !self.is_network_active() {
            return None;
        }
        // The other places are reserved for outbound connections.
        let limit = self.config.max_inbound();
        let is_inbound = |peer: &&Arc<Peer>| peer.direction == Direction::Inbound;
        if self.peers().iter().filter(is_inbound).count() >= limit {
            self.tell(Event::Refused { them: them.clone(), limit });
            return None;
        }
        Some(self.add_peer(link, None))
    }

    /// Adds an outbound connection, and sends `version` before its first callback.
    fn connected_with(
        &self,
        link: Link<'_, Connection>,
        _to: &Destination,
        _me: &Service,
        attempt: Box<dyn Any + Send>,
    ) -> Option<Connection> {
        let connection = self.add_peer(link, Some(&*attempt.downcast().ok()?));
        self.push_messages(&connection.peer, [version_message(self, &connection.peer)]);
        Some(connection)
    }

    fn connect_failed_with(
        &self,
        _: &SockMan,
        _: ConnectionId,
        _to: &Destination,
        error: ConnectError,
        attempt: Box<dyn Any + Send>,
    ) {
        if let Some(attempt) = attempt.downcast_ref() {
            self.connect_failed(attempt, &error);
        }
    }

    fn got_data(&self, _: Link<'_, Connection>, connection: &mut Connection, data: &[u8]) {
        let Connection { peer, incoming, received, .. } = connection;
        *received = Instant::now();
        peer.activity.lock().last_received = Some(*received);
        let mut messages: Vec<Message> = Vec::new();
        let framed = incoming.receive(data, |message| messages.push(message));
        if let Some(transport) = incoming.transport() {
            peer.transport.get_or_init(|| transport);
        }
        // The sending side is advanced before the messages are processed, because their answers
        // need it.
        let advanced = framed.map_err(|error| format!("{error:#}")).and_then(|progress| {
            let advanced = peer.outgoing.lock().advance(&peer.remote, progress);
            advanced.map_err(|error| format!("{error:#}"))
        });
        if let Err(reason) = advanced {
            return peer.give_up(reason);
        }
        for message in messages {
            if peer.inbox.push(message) {
                self.add_work(peer);
            }
        }
    }

    fn got_eof(&self, _: Link<'_, Connection>, connection: &mut Connection) {
        connection.peer.give_up("the peer closed the connection");
    }

    fn read_error(&self, _: Link<'_, Connection>, connection: &mut Connection, error: &io::Error) {
        connection.peer.give_up(format!("{error:#}"));
    }

    fn should_try_to_recv(&self, _: Link<'_, Connection>, connection: &mut Connection) -> bool {
        connection.may_read()
    }

    fn ready_to_send(&self, link: Link<'_, Connection>, connection: &mut Connection) -> NextRecv {
        let Connection { peer, sent, .. } = connection;
        match link.queue().drain(link.sockman()) {
            Ok(drained) if drained.sent > 0 => {
                *sent = Instant::now();
                peer.activity.lock().last_sent = Some(*sent);
            }
            Ok(_) => {}
            Err(error) => {
                peer.give_up(format!("{error:#}"));
                return NextRecv::Skip;
            }
        }
        if !link.queue().is_above_high_mark() && peer.inbox.resume() {
            // The peer has received its replies, so the message handler resumes its requests.
            // Reading needs no call here: the queue wakes the connection at its low mark.
            self.add_work(peer);
        }
        NextRecv::Proceed
    }

    fn turn_completed(&self, link: Link<'_, Connection>, connection: &mut Connection) {
        let now = Instant::now();
        if !link.queue().has_queued() {
            connection.sent = now;
        }
        // A peer whose connection is not read must not count as silent.
        if !connection.may_read() {
            connection.received = now;
            connection.unread = now;
        }
        if let Some(reason) = connection.overdue(&self.config, now) {
            connection.peer.give_up(reason);
        }
    }

    /// Forgets a peer and reports its end, also if the library closed the connection. Corresponds to
    /// Bitcoin Core's `FinalizeNode`.
    ///
    /// A peer that knows only version 1 of the transport cannot decode the key of version 2. Such a
    /// peer closes the connection, stays silent, or greets in version 1. The node dials it again in
    /// version 1.
    fn closed(&self, _: &SockMan, id: ConnectionId, connection: Connection) {
        let Connection { peer, dialled, incoming, .. } = connection;
        {
            let mut peers = self.peers.lock();
            peers.connected.remove(&id);
            peers.bytes_of_others = sum(peers.bytes_of_others, peer.bytes());
        }
        let end = peer.end();
        if let Some(target) = dialled {
            let falls_back = end.is_some_and(|end| end.is_of_peer) && incoming.is_without_key();
            self.targets.ended(target, if falls_back { Ended::ForVersion1 } else { Ended::ForNow });
        }
        let was_established = peer.conversation.lock().is_established;
        let reason = end.map_or("this node is stopping", |end| &end.reason).to_owned();
        self.tell(Event::Disconnected { id, direction: peer.direction, was_established, reason });
    }

    /// Begins a connect to each address that is due. Bitcoin Core has a thread for it,
    /// `ThreadOpenAddedConnections`.
    fn loop_completed(&self, sockman: &SockMan) {
        while self.is_network_active() {
            let Some(attempt) = self.targets.begin_due() else { return };
            let to = attempt.to.clone();
            let started = sockman.start_connect_with(&to, &self.connect_options(&to), attempt);
            if let Err(NotStarted { error, value, .. }) = started {
                self.connect_failed(&value, &error);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        if self.is_network_active() { self.targets.next_due() } else { None }
    }

    fn i2p_status(&self, _: &SockMan, address: Option<&Service>, status: I2pStatus) {
        let is_listening = status == I2pStatus::StartListening;
        if let Some(address) = address {
            let mut listening = self.listening.lock();
            listening.retain(|known| known != address);
            if is_listening {
                listening.push(address.clone());
            }
        }
        self.tell(Event::I2p { address: address.cloned(), listening: is_listening });
    }

    fn queue_limits(&self) -> SendQueueLimits {
        let high_mark = self.config.max_send_buffer.max(1);
        SendQueueLimits::new(self.config.max_send_buffer / 2, high_mark, SEND_LIMIT.max(high_mark))
            // The default is never used: the low mark is always below the high mark.
            .unwrap_or_default()
    }
}

fn sum(one: Bytes, other: Bytes) -> Bytes {
    (one.0 + other.0, one.1 + other.1)
}
