//! The addresses of other nodes that peers have sent, and their form on the wire.
//!
//! Plain data without a thread, behind a mutex. The node dials none of these addresses: it dials
//! only addresses that its operator gives it.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use bitcoin::p2p::{
    ServiceFlags,
    address::{AddrV2, AddrV2Message, Address},
    message::NetworkMessage,
};
use sockman::{
    Service,
    address::{Destination, NetAddr},
};

use crate::{chain::now, routable::is_routable};

/// The most addresses in one `addr` or `addrv2` message, and the most that the node keeps from
/// peers of one [`PeerNetwork`], so that peers cannot fill its memory. A peer that sends more in
/// one message is disconnected.
pub(crate) const MAX_ADDRESSES: usize = 1000;
/// The most addresses that the node keeps from one [`Source`], so that no peer fills the book
/// alone.
const MAX_PER_SOURCE: usize = MAX_ADDRESSES / 4;

/// The networks that must not learn of one another which addresses belong to the same node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PeerNetwork {
    /// IPv4, IPv6, CJDNS, and names.
    Clear,
    Onion,
    I2p,
    /// This machine and the local network. A peer that dialled an onion service of this node comes
    /// from here as well, because the Tor daemon runs here.
    Local,
}

impl PeerNetwork {
    fn of(addr: &NetAddr) -> PeerNetwork {
        match addr {
            NetAddr::TorV3(_) => PeerNetwork::Onion,
            NetAddr::I2p(_) => PeerNetwork::I2p,
            _ if is_routable(addr) => PeerNetwork::Clear,
            _ => PeerNetwork::Local,
        }
    }

    /// Returns the network through which a peer is connected.
    pub(crate) fn of_peer(them: &Destination) -> PeerNetwork {
        them.service().map_or(PeerNetwork::Clear, |them| PeerNetwork::of(them.addr()))
    }
}

/// The group of peers that an address is from. Peers with neighbouring addresses count as one,
/// because one operator can have them all. Corresponds to Bitcoin Core's network groups.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Ipv4([u8; 2]),
    Ipv6([u16; 2]),
    Cjdns(u8),
    /// Half a byte of the public key or hash.
    Hash(u8),
    /// This machine, the local network, and peers that a proxy found by name.
    Other,
}

impl Source {
    fn of_peer(them: &Destination) -> Source {
        let Some(addr) = them.service().map(Service::addr).filter(|addr| is_routable(addr)) else {
            return Source::Other;
        };
        match addr {
            NetAddr::TorV3(onion) => Source::Hash(onion.public_key()[0] >> 4),
            NetAddr::I2p(hash) => Source::Hash(hash.as_bytes()[0] >> 4),
            NetAddr::Cjdns(addr) => Source::Cjdns(addr.ip().octets()[1] >> 4),
            _ => match addr.to_ip_addr().map(|ip| ip.to_canonical()) {
                Some(IpAddr::V4(ip)) => Source::Ipv4([ip.octets()[0], ip.octets()[1]]),
                Some(IpAddr::V6(ip)) => Source::Ipv6([ip.segments()[0], ip.segments()[1]]),
                None => Source::Other,
            },
        }
    }
}

/// The addresses that peers have sent. What peers of one network sent is not told to peers of
/// another: by an address that it made up, a peer could find out that two addresses belong to this
/// node.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    books: HashMap<PeerNetwork, Book>,
}

/// The addresses from peers of one network.
#[derive(Debug, Default)]
struct Book {
    known: HashSet<Service>,
    /// The same addresses by source, the oldest first.
    by_source: HashMap<Source, VecDeque<Service>>,
}

impl AddressBook {
    /// Keeps the new routable addresses that the peer `them` has sent. Older addresses make room:
    /// those of the same source, or those of the source that has the most. Returns the number of
    /// addresses that it kept.
    pub(crate) fn learn(
        &mut self,
        them: &Destination,
        services: impl IntoIterator<Item = Service>,
    ) -> usize {
        let book = self.books.entry(PeerNetwork::of_peer(them)).or_default();
        let source = Source::of_peer(them);
        let mut learnt = HashSet::new();
        for service in services {
            // An I2P address has port 0 (BIP 155: of a network without ports), all others have one.
            let has_port = (service.port() != 0) != matches!(service.addr(), NetAddr::I2p(_));
            if has_port && is_routable(service.addr()) && !book.known.contains(&service) {
                if let Some(forgotten) = book.make_room(&source) {
                    learnt.remove(&forgotten);
                }
                book.known.insert(service.clone());
                book.by_source.entry(source.clone()).or_default().push_back(service.clone());
                learnt.insert(service);
            }
        }
        learnt.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.books.values().map(|book| book.known.len()).sum()
    }

    /// Returns the answer to the `getaddr` of the peer `them`: this node's own addresses with its
    /// services, and the known addresses, of the peer's network. Returns `None` if there are none.
    pub(crate) fn answer(
        &self,
        them: &Destination,
        listening: &[Service],
        offered: ServiceFlags,
        v2: bool,
    ) -> Option<NetworkMessage> {
        let book = self.books.get(&PeerNetwork::of_peer(them));
        // The services of other nodes are left out: a peer's claim about them is not verified.
        let known = book.into_iter().flat_map(|book| &book.known);
        let known = known
            .filter(|service| !listening.contains(service))
            .map(|service| (service, ServiceFlags::NONE));
        let told = listening
            .iter()
            .filter(|service| may_tell_own(service.addr(), them))
            .map(|service| (service, offered))
            .chain(known)
            .take(MAX_ADDRESSES);
        if v2 {
            let addresses: Vec<AddrV2Message> =
                told.filter_map(|(service, offers)| to_addr_v2(service, offers)).collect();
            (!addresses.is_empty()).then_some(NetworkMessage::AddrV2(addresses))
        } else {
            let addresses: Vec<(u32, Address)> = told
                .filter(|(service, _)| !matches!(service.addr(), NetAddr::Cjdns(_)))
                .filter_map(|(service, offers)| {
                    Some((now(), Address::new(&service.to_socket_addr()?, offers)))
                })
                .collect();
            (!addresses.is_empty()).then_some(NetworkMessage::Addr(addresses))
        }
    }
}

impl Book {
    /// Forgets an address if there is no room for another one of `source`. Returns the forgotten
    /// address.
    fn make_room(&mut self, source: &Source) -> Option<Service> {
        let own = self.by_source.get(source).map_or(0, VecDeque::len);
        let from = if own >= MAX_PER_SOURCE {
            source.clone()
        } else if self.known.len() >= MAX_ADDRESSES {
            self.by_source.iter().max_by_key(|(_, services)| services.len())?.0.clone()
        } else {
            return None;
        };
        let services = self.by_source.get_mut(&from)?;
        let forgotten = services.pop_front()?;
        if services.is_empty() {
            self.by_source.remove(&from);
        }
        self.known.remove(&forgotten);
        Some(forgotten)
    }
}

/// Returns whether the peer `them` may learn this own address. As in Bitcoin Core, a peer on a
/// privacy network learns only the addresses there, and other peers learn none of these.
fn may_tell_own(own: &NetAddr, them: &Destination) -> bool {
    PeerNetwork::of(own) == PeerNetwork::of_peer(them) && !own.is_unspecified()
}

/// Returns the address in an `addr` message, or `None` for an old onion address.
pub(crate) fn from_addr(address: &Address) -> Option<Service> {
    address.socket_addr().ok().map(Service::from)
}

/// Returns the address in an `addrv2` message (BIP 155), or `None` on a network that the library
/// does not know.
pub(crate) fn from_addr_v2(message: &AddrV2Message) -> Option<Service> {
    let addr = match &message.addr {
        AddrV2::Ipv4(addr) => NetAddr::Ipv4(*addr),
        AddrV2::Ipv6(addr) => NetAddr::ipv6(*addr, 0),
        AddrV2::TorV3(key) => NetAddr::tor_v3(*key),
        AddrV2::I2p(hash) => NetAddr::i2p(*hash),
        AddrV2::Cjdns(addr) => NetAddr::cjdns(*addr).ok()?,
        AddrV2::TorV2(_) | AddrV2::Unknown(..) => return None,
    };
    Some(Service::new(addr, message.port))
}

fn to_addr_v2(service: &Service, services: ServiceFlags) -> Option<AddrV2Message> {
    let addr = match service.addr() {
        NetAddr::Ipv4(addr) => AddrV2::Ipv4(*addr),
        NetAddr::Ipv6(addr) => AddrV2::Ipv6(addr.ip()),
        NetAddr::TorV3(onion) => AddrV2::TorV3(*onion.public_key()),
        NetAddr::I2p(hash) => AddrV2::I2p(*hash.as_bytes()),
        NetAddr::Cjdns(addr) => AddrV2::Cjdns(addr.ip()),
        _ => return None,
    };
    Some(AddrV2Message { time: now(), services, addr, port: service.port() })
}

/// Returns the form of an address in a `version` message. The message has room for IP addresses
/// only, so other addresses become zeros.
pub(crate) fn in_version(service: &Service) -> Address {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    Address::new(&service.to_socket_addr().unwrap_or(nowhere), ServiceFlags::NONE)
}

#[cfg(test)]
mod tests;
