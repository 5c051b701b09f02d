//! Addresses between LDK and `sockman`: plain values, on any thread.

use lightning::ln::msgs::SocketAddress;
use sockman::address::{Destination, NetAddr};

/// Returns the address that LDK gets for a peer. `None` if LDK has no such kind of address.
pub(crate) fn of(peer: &Destination) -> Option<SocketAddress> {
    match peer {
        Destination::Service(service) => match service.addr() {
            // LDK reads the text of an onion address, and computes its checksum.
            NetAddr::TorV3(_) => service.to_string().parse().ok(),
            _ => service.to_socket_addr().map(SocketAddress::from),
        },
        Destination::Name { host, port } => {
            let hostname = host.clone().try_into().ok()?;
            Some(SocketAddress::Hostname { hostname, port: *port })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each kind of address that both sides have comes back the same.
    #[test]
    fn addresses_of_both_sides_are_the_same() {
        let onion = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd.onion:9735";
        for text in ["192.0.2.1:9735", "[2001:db8::1]:9735", "node.example.org:9735", onion] {
            let address: SocketAddress = text.parse().unwrap();
            let destination: Destination = address.to_string().parse().unwrap();
            assert_eq!(destination, text.parse::<Destination>().unwrap());
            assert_eq!(of(&destination), Some(address));
        }
    }

    /// LDK has no unix-domain addresses.
    #[test]
    fn a_path_is_no_address_for_ldk() {
        let path = sockman::Service::unix("/run/lightning").unwrap();
        assert_eq!(of(&path.into()), None);
    }
}
