//! Queries and commands to a running node, from any thread. Takes the node's locks briefly.

use std::{fmt, sync::Arc, time::Duration};

use bitcoin::{block::Header, p2p::ServiceFlags};
use sockman::{Service, SockMan, address::Destination};

use crate::{Config, Event, PeerInfo, connman::Connman, peer::Peer};

/// A handle to a node. The handle keeps the node's state alive, but not its threads.
#[derive(Clone)]
pub struct Control {
    pub(crate) connman: Arc<Connman>,
    pub(crate) sockman: SockMan,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control(..)")
    }
}

impl Control {
    /// Returns the current table of peers.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.connman.peers().iter().filter_map(|peer| PeerInfo::of(peer)).collect()
    }

    /// Returns the height of the last header.
    pub fn height(&self) -> usize {
        self.connman.chain.lock().height()
    }

    /// Returns the height of the last header, and the header.
    pub fn tip(&self) -> (usize, Header) {
        let chain = self.connman.chain.lock();
        (chain.height(), chain.tip_header())
    }

    /// Returns the addresses that the node listens on, with the ports that it was given.
    pub fn listening(&self) -> Vec<Service> {
        self.connman.listening.lock().clone()
    }

    /// Returns the services that the node advertises to its peers.
    pub fn services(&self) -> ServiceFlags {
        self.config().advertised_services()
    }

    /// Returns the configuration that the node was started with.
    pub fn config(&self) -> &Config {
        &self.connman.config
    }

    /// Returns the bytes received and sent since the start.
    pub fn totals(&self) -> (u64, u64) {
        self.connman.totals()
    }

    /// Disconnects the first peer for which `which` returns `true`. Returns whether there is one.
    pub fn disconnect(&self, which: impl Fn(&PeerInfo) -> bool) -> bool {
        let peers = self.connman.peers();
        let found = peers.iter().find(|peer| PeerInfo::of(peer).is_some_and(|info| which(&info)));
        found.inspect(|peer| peer.disconnect("requested by RPC")).is_some()
    }

    /// Adds an address that the node dials and keeps connected. Returns `false` if it is known
    /// already.
    pub fn add_target(&self, to: &Destination, with_v2: bool) -> bool {
        let is_new = self.connman.targets.add(to, with_v2);
        self.sockman.notify();
        is_new
    }

    /// Dials an address once. Does nothing while the network is switched off.
    pub fn try_once(&self, to: &Destination, with_v2: bool) {
        if self.is_network_active() {
            self.connman.targets.try_once(to, with_v2);
            self.sockman.notify();
        }
    }

    /// Removes an added address. The node no longer dials it, but keeps an existing connection.
    /// Returns `false` if the address was not added.
    pub fn remove_target(&self, to: &Destination) -> bool {
        self.connman.targets.remove(to)
    }

    /// Pings every peer now.
    pub fn ping_all(&self) {
        self.connman.send_pings(true);
    }

    /// Returns whether the network is switched on.
    pub fn is_network_active(&self) -> bool {
        self.connman.is_network_active()
    }

    /// Switches the network on or off. While it is off, the node has no peers, does not dial, and
    /// refuses inbound connections.
    pub fn set_network_active(&self, is_active: bool) {
        self.connman.set_network_active(is_active);
        self.sockman.notify();
    }

    /// Ends accepting and dialling, closes every connection, and then ends the socket threads.
    pub(crate) fn begin_stop(&self) {
        self.connman.targets.close();
        self.sockman.drain_and_stop(Duration::ZERO);
    }

    /// Asks the owner of the node to stop it, with [`Event::StopRequested`].
    pub fn stop(&self) {
        self.connman.tell(Event::StopRequested);
    }
}

impl PeerInfo {
    fn of(peer: &Peer) -> Option<PeerInfo> {
        let connection = peer.remote.info()?;
        let conversation = peer.conversation.lock().clone();
        let activity = *peer.activity.lock();
        let (transport, session_id) = peer.transport.get().copied().unwrap_or_default();
        Some(PeerInfo {
            id: peer.id(),
            direction: peer.direction,
            address: connection.them,
            me: connection.me,
            connected_at: peer.connected_at,
            last_received: activity.last_received,
            last_sent: activity.last_sent,
            transport,
            session_id,
            version: conversation.version,
            round_trip: conversation.ping.round_trip,
            min_round_trip: conversation.ping.min_round_trip,
            ping_wait: conversation.ping.under_way.map(|(_, sent)| sent.elapsed()),
            bytes_in: connection.bytes_received,
            bytes_out: connection.bytes_sent,
            unprocessed: peer.inbox.bytes(),
            unsent: peer.remote.queue().queued(),
        })
    }
}
