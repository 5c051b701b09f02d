//! What can be asked of a running node, and done to it, from any thread.

use std::sync::{Arc, atomic::Ordering};

use bitcoin::p2p::ServiceFlags;
use sockman::{Destination, Service, SockMan};

use super::{PeerInfo, connman::Connman, peer};

/// An address that is kept connected.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) to: Destination,
    /// Tried once; and once more if the peer hangs up on version 2 of the transport.
    pub(crate) is_once: bool,
    pub(crate) attempts: u32,
    /// Its place stays, since peers remember it.
    pub(crate) is_removed: bool,
}

impl Target {
    pub(crate) fn new(to: Destination, is_once: bool) -> Target {
        Target { to, is_once, attempts: 0, is_removed: false }
    }
}

/// A handle on a node. It keeps the node's state, but not its threads.
#[derive(Clone)]
pub(crate) struct Control {
    pub(super) connman: Arc<Connman>,
    pub(super) sockman: SockMan,
}

impl Control {
    /// The table of peers, as it is now.
    pub(crate) fn peers(&self) -> Vec<PeerInfo> {
        let peers = self.connman.peers();
        peers.iter().filter_map(|peer| PeerInfo::of(&self.sockman, peer)).collect()
    }

    pub(crate) fn height(&self) -> usize {
        self.connman.chain.lock().height()
    }

    pub(crate) fn listening(&self) -> Vec<Service> {
        self.connman.listening.lock().clone()
    }

    pub(crate) fn services(&self) -> ServiceFlags {
        self.connman.config.services
    }

    /// Received and sent, since the start.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let of_closed = *self.connman.closed_totals.lock();
        self.peers().iter().fold(of_closed, |(received, sent), peer| {
            (received + peer.bytes_in, sent + peer.bytes_out)
        })
    }

    /// `false`: there is no such peer.
    pub(crate) fn disconnect(&self, which: impl Fn(&PeerInfo) -> bool) -> bool {
        let found = self.peers().into_iter().find(which);
        if let Some(peer) = &found {
            self.connman.disconnect(&self.sockman, peer.id, "asked to by RPC");
        }
        found.is_some()
    }

    /// `false`: it is there already.
    pub(crate) fn add_target(&self, to: &Destination) -> bool {
        let mut targets = self.connman.targets.lock();
        if targets.iter().any(|known| !known.is_removed && !known.is_once && known.to == *to) {
            return false;
        }
        targets.push(Target::new(to.clone(), false));
        true
    }

    pub(crate) fn try_once(&self, to: &Destination) {
        self.connman.targets.lock().push(Target::new(to.clone(), true));
    }

    /// Is connected to no more; a connection that is there stays. `false`: it was not there.
    pub(crate) fn remove_target(&self, to: &Destination) -> bool {
        let mut targets = self.connman.targets.lock();
        let found = targets.iter_mut().find(|known| !known.is_removed && known.to == *to);
        found.map(|target| target.is_removed = true).is_some()
    }

    pub(crate) fn ping_all(&self) {
        self.connman.ping_requested.store(true, Ordering::Release);
        self.connman.work.run_timer();
    }

    pub(crate) fn is_network_active(&self) -> bool {
        self.connman.network_active.load(Ordering::Acquire)
    }

    /// Inactive, it has no peers, dials nobody and turns away who dials.
    pub(crate) fn set_network_active(&self, is_active: bool) {
        self.connman.network_active.store(is_active, Ordering::Release);
        if !is_active {
            for peer in self.connman.peers() {
                self.connman.disconnect(&self.sockman, peer.id, "the network is switched off");
            }
        }
    }

    /// Ends the node, as a signal does.
    pub(crate) fn stop(&self) {
        self.connman.config.interrupt.interrupt();
    }
}

impl PeerInfo {
    pub(super) fn of(sockman: &SockMan, peer: &peer::Peer) -> Option<PeerInfo> {
        let connection = sockman.connection_info(peer.id)?;
        let conversation = peer.conversation.lock().clone();
        let activity = *peer.activity.lock();
        Some(PeerInfo {
            id: peer.id,
            direction: peer.direction,
            address: connection.them,
            me: connection.me,
            since: peer.since,
            last_received: activity.last_received,
            last_sent: activity.last_sent,
            transport: peer.transport_type(),
            version: conversation.version,
            round_trip: conversation.ping.round_trip,
            min_round_trip: conversation.ping.min_round_trip,
            ping_wait: conversation.ping.under_way.map(|(_, sent)| sent.elapsed()),
            bytes_in: connection.bytes_received,
            bytes_out: connection.bytes_sent,
            unprocessed: peer.inbox.bytes(),
            unsent: peer.send.queued(),
        })
    }
}
