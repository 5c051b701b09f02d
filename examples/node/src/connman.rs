//! What Bitcoin Core's `CConnman` is on top of `SockMan`: the table of peers, the limits, the
//! time-outs, and the bytes in between.
//!
//! Everything in the [`EventHandler`] runs on the socket thread, and does as little as possible
//! there: bytes are framed and handed to the message handler, queued bytes are sent on. The other
//! methods are called from every thread. No lock is held while the observer is called; sockman,
//! which calls nobody back from within its methods, may be called under one.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bitcoin::{
    consensus::encode::serialize,
    p2p::message::{NetworkMessage, RawNetworkMessage},
};
use parking_lot::Mutex;
use sockman::{
    ConnectionId, EventHandler, NextRecv, Service, SockMan, address::Destination,
    helpers::ConnectionTable, i2p::I2pStatus, stats::Direction,
};

use crate::{
    Config, Event,
    addresses::AddressBook,
    chain::Chain,
    node::Observer,
    peer::Peer,
    targets::{Ended, TargetNumber, Targets},
    transport::{Message, Start},
    work::WorkList,
};

pub(crate) struct Connman {
    pub(crate) config: Config,
    pub(crate) chain: Mutex<Chain>,
    pub(crate) addresses: Mutex<AddressBook>,
    /// Where this node listens, with the ports that it really got.
    pub(crate) listening: Mutex<Vec<Service>>,
    /// Whose messages wait for the message handler.
    pub(crate) work: WorkList,
    /// Whom the dialer keeps connected.
    pub(crate) targets: Targets,
    network_active: AtomicBool,
    /// By RPC: every peer is to be pinged now.
    pub(crate) ping_requested: AtomicBool,
    /// Received from, and sent to, peers that are gone. Held across a close, so that whoever adds
    /// up finds each peer either here or in the table.
    closed_totals: Mutex<(u64, u64)>,
    peers: ConnectionTable<Peer>,
    observer: Observer,
}

impl Connman {
    pub(crate) fn new(config: Config, chain: Chain, observer: Observer) -> Connman {
        let targets = Targets::new(config.redial);
        for to in &config.connect {
            targets.add(to, config.v2_transport);
        }
        Connman {
            config,
            targets,
            network_active: AtomicBool::new(true),
            ping_requested: AtomicBool::new(false),
            closed_totals: Mutex::default(),
            chain: Mutex::new(chain),
            addresses: Mutex::default(),
            listening: Mutex::default(),
            work: WorkList::default(),
            peers: ConnectionTable::new(),
            observer,
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.observer)(event);
    }

    pub(crate) fn peer(&self, id: ConnectionId) -> Option<Arc<Peer>> {
        self.peers.find(id)
    }

    /// All of them, in the order in which they came.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.all().into_iter().map(|(_, peer)| peer).collect()
    }

    /// Enters a connection into the table. From here on its callbacks find it: so this comes
    /// before `activate`, or in `event_new_connection_accepted`.
    pub(crate) fn add_peer(
        &self,
        id: ConnectionId,
        direction: Direction,
        them: &Destination,
        dialled: Option<TargetNumber>,
        start: Start,
    ) -> Arc<Peer> {
        // Told before it can be found, and so before anybody can tell of its end.
        self.tell(Event::Connected { id, direction, them: them.clone() });
        self.peers.insert(id, Peer::new(&self.config, id, direction, them, dialled, start))
    }

    /// Sends, or queues, messages to a peer that go out together. A peer that does not take them
    /// is disconnected.
    pub(crate) fn push_messages(
        &self,
        sockman: &SockMan,
        peer: &Peer,
        messages: impl IntoIterator<Item = NetworkMessage>,
    ) {
        let magic = self.config.network.magic();
        let mut messages = messages.into_iter().peekable();
        let mut outgoing = peer.outgoing.lock();
        let queued = peer.send.queued();
        while let Some(message) = messages.next() {
            log::trace!("peer {}: sending {}", peer.id, message.cmd());
            let bytes = serialize(&RawNetworkMessage::new(magic, message));
            let will_send_more = messages.peek().is_some();
            if let Err(error) = outgoing.push(sockman, &peer.send, bytes, will_send_more.into()) {
                drop(outgoing);
                self.give_up(sockman, peer.id, &format!("{error:#}"));
                return;
            }
        }
        // Otherwise something is before them in the queue, or they wait for a handshake.
        if queued == 0 && !outgoing.is_waiting() {
            peer.activity.lock().last_sent = Some(Instant::now());
        }
    }

    /// Closes a connection because this side wants it so, and strikes the peer off the table.
    /// Whoever comes second does nothing.
    pub(crate) fn disconnect(&self, sockman: &SockMan, id: ConnectionId, reason: &str) {
        self.close(sockman, id, reason, |_| Ended::ForNow);
    }

    /// The same, because of what the peer did, or did not do. One that knows only version 1 of the
    /// transport takes the key of version 2 for nonsense: it hangs up, says nothing, or has
    /// answered in version 1.
    pub(crate) fn give_up(&self, sockman: &SockMan, id: ConnectionId, reason: &str) {
        self.close(sockman, id, reason, |peer| {
            let falls_back = peer.incoming.lock().is_without_key();
            if falls_back { Ended::ForVersion1 } else { Ended::ForNow }
        });
    }

    fn close(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        reason: &str,
        how: impl FnOnce(&Peer) -> Ended,
    ) {
        let peer = {
            let mut totals = self.closed_totals.lock();
            let last = sockman.connection_info(id);
            if !sockman.close_connection(id) {
                return;
            }
            if let Some(last) = last {
                totals.0 += last.bytes_received;
                totals.1 += last.bytes_sent;
            }
            self.peers.remove(id)
        };
        if let Some((peer, target)) = peer.and_then(|peer| peer.dialled.map(|to| (peer, to))) {
            self.targets.ended(target, how(&peer));
        }
        self.tell(Event::Disconnected { id, reason: reason.to_owned() });
    }

    /// Received and sent, since the start.
    pub(crate) fn totals(&self, sockman: &SockMan) -> (u64, u64) {
        let of_closed = self.closed_totals.lock();
        self.peers()
            .iter()
            .filter_map(|peer| sockman.connection_info(peer.id))
            .fold(*of_closed, |(received, sent), peer| {
                (received + peer.bytes_received, sent + peer.bytes_sent)
            })
    }

    pub(crate) fn is_network_active(&self) -> bool {
        self.network_active.load(Ordering::SeqCst)
    }

    /// Inactive, it has no peers, dials nobody and turns away who dials.
    pub(crate) fn set_network_active(&self, sockman: &SockMan, is_active: bool) {
        // Before the look at the table: whoever enters a peer there looks the other way round.
        self.network_active.store(is_active, Ordering::SeqCst);
        self.targets.look_again();
        if !is_active {
            self.targets.forget_tries();
            for peer in self.peers() {
                self.disconnect(sockman, peer.id, "the network is switched off");
            }
        }
    }

    fn inbound_count(&self) -> usize {
        let peers = self.peers();
        peers.iter().filter(|peer| peer.direction == Direction::Inbound).count()
    }

    /// Why this peer has to go, if it has. Bitcoin Core's `InactivityCheck`.
    fn overdue(&self, peer: &Peer, now: Instant) -> Option<&'static str> {
        let limits = &self.config;
        let activity = *peer.activity.lock();
        let (is_established, ping) = {
            let conversation = peer.conversation.lock();
            (conversation.is_established, conversation.ping.under_way)
        };
        let longer = |since: Instant, limit| now.saturating_duration_since(since) > limit;
        if !is_established && longer(peer.since, limits.handshake_timeout) {
            Some("it did not complete the handshake in time")
        } else if longer(activity.sent, limits.inactivity_timeout) {
            Some("it does not take what it is sent")
        } else if longer(activity.received, limits.inactivity_timeout) {
            Some("it has been silent for too long")
        } else if ping.is_some_and(|(_, sent)| longer(sent, limits.inactivity_timeout)) {
            Some("it did not answer a ping in time")
        } else {
            None
        }
    }
}

impl EventHandler for Connman {
    fn event_new_connection_accepted(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _me: &Service,
        them: &Service,
    ) -> bool {
        if !self.is_network_active() {
            return false;
        }
        // The rest of the connections is kept for those that this node dials.
        let limit = self.config.max_inbound();
        if self.inbound_count() >= limit {
            self.tell(Event::Refused { them: them.clone(), limit });
            return false;
        }
        let start = Start::Detect { with_v2: self.config.v2_transport };
        self.add_peer(id, Direction::Inbound, &them.into(), None, start);
        // Once more, now that it can be found: it may have been switched off in between.
        if !self.is_network_active() {
            self.disconnect(sockman, id, "the network is switched off");
            return false;
        }
        true
    }

    fn should_try_to_send(&self, id: ConnectionId) -> bool {
        self.peer(id).is_some_and(|peer| peer.send.has_queued())
    }

    fn event_ready_to_send(&self, sockman: &SockMan, id: ConnectionId) -> NextRecv {
        let Some(peer) = self.peer(id) else { return NextRecv::Skip };
        let queued = peer.send.queued();
        if let Err(error) = peer.send.drain(sockman) {
            self.give_up(sockman, id, &format!("{error:#}"));
            return NextRecv::Skip;
        }
        if peer.send.queued() < queued {
            let mut activity = peer.activity.lock();
            activity.sent = Instant::now();
            activity.last_sent = Some(activity.sent);
        }
        if !peer.send.is_above_high_mark() && peer.inbox.resume() {
            // It took its replies: the message handler goes on with its requests. Reading goes on
            // by itself: the queue wakes the connection when it falls to its low mark.
            self.work.add(id);
        }
        NextRecv::Proceed
    }

    fn should_try_to_recv(&self, id: ConnectionId) -> bool {
        self.peer(id).is_some_and(|peer| may_read(&peer))
    }

    fn event_got_data(&self, sockman: &SockMan, id: ConnectionId, data: &[u8]) {
        let Some(peer) = self.peer(id) else { return };
        let now = Instant::now();
        {
            let mut activity = peer.activity.lock();
            activity.received = now;
            activity.last_received = Some(now);
        }
        let mut messages: Vec<Message> = Vec::new();
        let received = peer.incoming.lock().receive(data, |message| messages.push(message));
        // How to answer is settled before there is anything to answer.
        let advanced = received.map_err(|error| format!("{error:#}")).and_then(|progress| {
            let mut outgoing = peer.outgoing.lock();
            outgoing.advance(sockman, &peer.send, progress).map_err(|error| format!("{error:#}"))
        });
        if let Err(reason) = advanced {
            return self.give_up(sockman, id, &reason);
        }
        for message in messages {
            if peer.inbox.push(message) {
                self.work.add(id);
            }
        }
    }

    fn event_got_eof(&self, sockman: &SockMan, id: ConnectionId) {
        self.give_up(sockman, id, "it closed the connection");
    }

    fn event_got_permanent_read_error(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        error: &io::Error,
    ) {
        self.give_up(sockman, id, &format!("{error:#}"));
    }

    fn event_i2p_status(&self, _: &SockMan, address: Option<&Service>, status: I2pStatus) {
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

    fn event_io_loop_completed_for_one(&self, sockman: &SockMan, id: ConnectionId) {
        let Some(peer) = self.peer(id) else { return };
        let now = Instant::now();
        {
            let mut activity = peer.activity.lock();
            if !peer.send.has_queued() {
                activity.sent = now;
            }
            // Nothing is heard from a peer that is not listened to.
            if !may_read(&peer) {
                activity.received = now;
            }
        }
        if let Some(reason) = self.overdue(&peer, now) {
            self.give_up(sockman, id, reason);
        }
    }
}

/// Not while a peer's requests wait, nor while it leaves the replies lying: what it wants to say
/// stays with the kernel, and then with the peer.
fn may_read(peer: &Peer) -> bool {
    !peer.inbox.is_full() && !peer.send.is_above_high_mark()
}
