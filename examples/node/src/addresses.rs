//! The addresses of other nodes that peers have sent, and their form on the wire.
//!
//! Plain data without a thread, behind a mutex. The node dials none of these addresses: it dials
//! only addresses that its operator gives it.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
};

use bitcoin::p2p::{
    ServiceFlags,
    address::{AddrV2, AddrV2Message, Address},
    message::NetworkMessage,
};
use sockman::{Service, address::NetAddr};

use crate::chain::now;

/// The most addresses in one `addr` or `addrv2` message, and the most that the node keeps, so that
/// peers cannot fill its memory. A peer that sends more in one message is disconnected.
pub(crate) const MAX_ADDRESSES: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    known: HashSet<Service>,
}

impl AddressBook {
    /// Keeps the new addresses while there is room. Returns the number of addresses that it kept.
    pub(crate) fn learn(&mut self, services: impl IntoIterator<Item = Service>) -> usize {
        let before = self.known.len();
        for service in services {
            if self.known.len() < MAX_ADDRESSES && !service.addr().is_unspecified() {
                self.known.insert(service);
            }
        }
        self.known.len() - before
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns the answer to `getaddr`: this node's own addresses with its services, and the known
    /// addresses. Returns `None` if there are none.
    pub(crate) fn answer(
        &self,
        listening: &[Service],
        offered: ServiceFlags,
        v2: bool,
    ) -> Option<NetworkMessage> {
        // The services of other nodes are left out: a peer's claim about them is not verified.
        let known = self.known.iter().map(|service| (service, ServiceFlags::NONE));
        let told = listening
            .iter()
            .filter(|service| !service.addr().is_unspecified())
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
