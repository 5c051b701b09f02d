//! The [`EventHandler`]: the table of peers, the limits, the time-outs, and the flow of bytes.
//! Corresponds to Bitcoin Core's `CConnman` on top of `SockMan`.
//!
//! The methods of the [`EventHandler`] run on the socket thread and do as little as possible there:
//! they frame received bytes for the message handler, and send queued bytes. Other methods are
//! called from every thread. The observer is called with no lock held. Methods of `SockMan` may be
//! called under a lock, because they do not call back.

use std::{
    collections::HashMap,
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
    ConnectionId, EventHandler, NextRecv, Service, SockMan,
    address::Destination,
    error::{ConnectError, ConnectErrorKind, ConnectFault},
    helpers::ConnectionTable,
    i2p::I2pStatus,
    stats::Direction,
};

use crate::{
    Config, Event,
    addresses::AddressBook,
    chain::Chain,
    node::Observer,
    peer::Peer,
    processing::version_message,
    targets::{Attempt, Ended, TargetNumber, Targets},
    transport::{Message, Start},
    work::WorkList,
};

pub(crate) struct Connman {
    pub(crate) config: Config,
    pub(crate) chain: Mutex<Chain>,
    pub(crate) addresses: Mutex<AddressBook>,
    /// The addresses that this node listens on, with the ports that it was given.
    pub(crate) listening: Mutex<Vec<Service>>,
    /// The peers whose messages wait for the message handler.
    pub(crate) work: WorkList,
    /// The addresses that the dialer dials.
    pub(crate) targets: Targets,
    /// The attempts to connect that have no outcome yet.
    pub(crate) dialling: Mutex<HashMap<ConnectionId, Attempt>>,
    network_active: AtomicBool,
    /// An RPC client requested a ping of every peer.
    pub(crate) ping_requested: AtomicBool,
    /// The bytes received from and sent to peers that are disconnected. The lock is held across a
    /// close, so that [`totals`](Self::totals) counts each peer once: here or in the table.
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
            dialling: Mutex::default(),
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

    /// Returns all peers in the order in which they connected.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        self.peers.all().into_iter().map(|(_, peer)| peer).collect()
    }

    /// Adds a connection to the table, where its callbacks look for it. So the caller calls this
    /// before `activate`, or in `event_new_connection_accepted`.
    pub(crate) fn add_peer(
        &self,
        id: ConnectionId,
        direction: Direction,
        them: &Destination,
        dialled: Option<TargetNumber>,
        start: Start,
    ) -> Arc<Peer> {
        // The event is reported before another thread can find the peer, and so before the end of
        // the connection is reported.
        self.tell(Event::Connected { id, direction, them: them.clone() });
        self.peers.insert(id, Peer::new(&self.config, id, direction, them, dialled, start))
    }

    /// Adds an outbound connection, and sends `version` before its first callback.
    fn connected(&self, sockman: &SockMan, id: ConnectionId, attempt: &Attempt) {
        let start = if attempt.with_v2 { Start::DialV2 } else { Start::DialV1 };
        let (direction, number) = (Direction::Outbound, Some(attempt.number));
        let peer = self.add_peer(id, direction, &attempt.to, number, start);
        // If the network was switched off during the connect, `set_network_active` did not find
        // this peer in the table.
        if !self.is_network_active() {
            self.disconnect(sockman, id, "the network is switched off");
            return;
        }
        if !peer.greeting.is_empty() {
            // If this fails, the first callback fails too and reports the error.
            let _ = peer.send.push(sockman, &peer.greeting);
        }
        self.push_messages(sockman, &peer, [version_message(self, &peer)]);
    }

    /// Records and reports an attempt to connect that failed.
    pub(crate) fn connect_failed(&self, attempt: &Attempt, error: &ConnectError) {
        let ended = match error.fault() {
            ConnectFault::Host => Ended::ByThisHost,
            ConnectFault::Caller => Ended::ForGood,
            _ => Ended::ForNow,
        };
        self.targets.ended(attempt.number, ended);
        self.tell(Event::ConnectFailed { error: format!("{error:#}") });
    }

    /// Ends the attempts to connect that have no outcome yet.
    pub(crate) fn cancel_dialling(&self, sockman: &SockMan) {
        let mut dialling = self.dialling.lock();
        for (id, attempt) in dialling.drain() {
            sockman.close_connection(id);
            self.targets.ended(attempt.number, Ended::ForNow);
        }
    }

    /// Sends messages to a peer together, or queues them. Disconnects the peer if they can be
    /// neither sent nor queued.
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
        // If the condition is false, older bytes are in the queue, or the messages wait for a
        // handshake.
        if queued == 0 && !outgoing.is_waiting() {
            peer.activity.lock().last_sent = Some(Instant::now());
        }
    }

    /// Closes a connection for a reason of this side, and removes the peer from the table. If
    /// several threads race, exactly one closes the connection and reports it.
    pub(crate) fn disconnect(&self, sockman: &SockMan, id: ConnectionId, reason: &str) {
        self.close(sockman, id, reason, |_| Ended::ForNow);
    }

    /// Closes a connection for a reason of the peer, and removes the peer from the table. A peer
    /// that knows only version 1 of the transport cannot decode the key of version 2. Such a peer
    /// closes the connection, stays silent, or greets in version 1. The node dials it again in
    /// version 1.
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
        // Without a peer, the connection was not in the table, and its begin was not reported.
        let Some(peer) = peer else { return };
        if let Some(target) = peer.dialled {
            self.targets.ended(target, how(&peer));
        }
        self.tell(Event::Disconnected {
            id,
            direction: peer.direction,
            was_established: peer.conversation.lock().is_established,
            reason: reason.to_owned(),
        });
    }

    /// Returns the bytes received and sent since the start.
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

    /// Switches the network on or off. While it is off, the node has no peers, does not dial, and
    /// refuses inbound connections.
    pub(crate) fn set_network_active(&self, sockman: &SockMan, is_active: bool) {
        // The flag is set before the table is read. A thread that adds a peer does the reverse, so
        // one of the two disconnects the peer.
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

    /// Returns the reason to disconnect a peer that exceeded a time-out, if it did. Corresponds to
    /// Bitcoin Core's `InactivityCheck`.
    fn overdue(&self, peer: &Peer, now: Instant) -> Option<&'static str> {
        let limits = &self.config;
        let activity = *peer.activity.lock();
        let (is_established, ping) = {
            let conversation = peer.conversation.lock();
            (conversation.is_established, conversation.ping.under_way)
        };
        let longer = |since: Instant, limit| now.saturating_duration_since(since) > limit;
        let handshake_is_late = || {
            longer(peer.since, limits.handshake_timeout)
                && peer.inbox.has_processed(peer.since)
                && !peer.was_held_up(limits.handshake_timeout, now)
        };
        let is_unanswered = |sent: Instant| {
            // A pong cannot arrive while this side does not read.
            longer(sent.max(activity.unread), limits.inactivity_timeout)
                && peer.inbox.has_processed(sent)
        };
        if !is_established && handshake_is_late() {
            Some("the peer did not complete the handshake in time")
        } else if longer(activity.sent, limits.inactivity_timeout) {
            Some("the peer does not receive the bytes sent to it")
        } else if longer(activity.received, limits.inactivity_timeout) {
            Some("the peer has been silent for too long")
        } else if ping.is_some_and(|(_, sent)| is_unanswered(sent)) {
            Some("the peer did not answer a ping in time")
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
        // The other places are reserved for outbound connections.
        let limit = self.config.max_inbound();
        if self.inbound_count() >= limit {
            self.tell(Event::Refused { them: them.clone(), limit });
            return false;
        }
        let start = Start::Detect { with_v2: self.config.v2_transport };
        self.add_peer(id, Direction::Inbound, &them.into(), None, start);
        // The network is checked again after the peer was added, because it may have been switched
        // off meanwhile.
        if !self.is_network_active() {
            self.disconnect(sockman, id, "the network is switched off");
            return false;
        }
        true
    }

    fn event_connect_completed(
        &self,
        sockman: &SockMan,
        id: ConnectionId,
        _to: &Destination,
        outcome: Result<&Service, ConnectError>,
    ) {
        let attempt = self.dialling.lock().remove(&id);
        match (attempt, outcome) {
            (Some(attempt), Ok(_me)) => self.connected(sockman, id, &attempt),
            // The node is stopping, so the failure is no news.
            (Some(attempt), Err(error))
                if matches!(error.kind(), ConnectErrorKind::Interrupted) =>
            {
                self.targets.ended(attempt.number, Ended::ForNow);
            }
            (Some(attempt), Err(error)) => self.connect_failed(&attempt, &error),
            // The attempt was cancelled meanwhile.
            (None, _) => drop(sockman.close_connection(id)),
        }
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
            // The peer has received its replies, so the message handler resumes its requests.
            // Reading needs no call here: the queue wakes the connection at its low mark.
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
        // The sending side is advanced before the messages are processed, because their answers
        // need it.
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
        self.give_up(sockman, id, "the peer closed the connection");
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
            // A peer whose connection is not read must not count as silent.
            if !may_read(&peer) {
                activity.received = now;
                activity.unread = now;
            }
        }
        if let Some(reason) = self.overdue(&peer, now) {
            self.give_up(sockman, id, reason);
        }
    }
}

/// Returns whether the library may read from the peer. The library must not read while the peer's
/// inbox is full or its send queue is above the high mark. Further bytes then stay in the kernel
/// and at the peer.
fn may_read(peer: &Peer) -> bool {
    !peer.inbox.is_full() && !peer.send.is_above_high_mark()
}
