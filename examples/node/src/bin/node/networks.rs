//! The names of networks in Bitcoin Core's RPC, and the networks that this node can reach.

use serde_json::{Value, json};
use sockman::{
    address::{NetAddr, Network},
    proxy::Proxy,
};
use sockman_node::{Config, is_routable};

/// The name for addresses that are not publicly routable: this machine and the local network.
pub(crate) const UNROUTABLE: &str = "not_publicly_routable";

/// Returns the network of an address.
pub(crate) fn name(addr: &NetAddr) -> &'static str {
    match addr.network() {
        Network::Ipv4 | Network::Ipv6 if !is_routable(addr) => UNROUTABLE,
        Network::Ipv4 => "ipv4",
        Network::Ipv6 => "ipv6",
        Network::Cjdns => "cjdns",
        Network::Onion => "onion",
        Network::I2p => "i2p",
        _ => UNROUTABLE,
    }
}

/// Returns whether nodes elsewhere could dial the address.
pub(crate) fn is_public(addr: &NetAddr) -> bool {
    name(addr) != UNROUTABLE
}

/// Returns the networks with their proxies, as in the answer to `getnetworkinfo`.
pub(crate) fn reachable(config: &Config) -> Value {
    let proxy = config.proxy.as_ref();
    let onion = config.onion_proxy.as_ref().or(proxy);
    let networks = [
        ("ipv4", true, proxy),
        ("ipv6", true, proxy),
        ("onion", onion.is_some(), onion),
        // A SAM bridge is no SOCKS5 proxy and is not listed.
        ("i2p", config.i2p.is_some(), None),
        ("cjdns", true, proxy),
    ];
    networks
        .iter()
        .map(|(name, is_reachable, proxy)| network(name, *is_reachable, *proxy))
        .collect()
}

fn network(name: &str, is_reachable: bool, proxy: Option<&Proxy>) -> Value {
    json!({
        "name": name,
        "limited": !is_reachable,
        "reachable": is_reachable,
        "proxy": proxy.map(|proxy| proxy.endpoint().to_string()).unwrap_or_default(),
        "proxy_randomize_credentials":
            proxy.is_some_and(|proxy| *proxy == proxy.clone().tor_stream_isolation()),
    })
}

#[cfg(test)]
mod tests {
    use sockman::Service;

    use super::*;

    #[test]
    fn only_public_addresses_have_a_public_network() {
        let cases = [
            ("8.8.8.8:1", "ipv4"),
            ("127.0.0.1:1", UNROUTABLE),
            ("192.168.1.1:1", UNROUTABLE),
            ("169.254.1.1:1", UNROUTABLE),
            ("0.0.0.0:1", UNROUTABLE),
            ("[2600::1]:1", "ipv6"),
            ("[::1]:1", UNROUTABLE),
            ("[fe80::1]:1", UNROUTABLE),
            ("[fd00::1]:1", UNROUTABLE),
            ("cjdns:[fc00::1]:1", "cjdns"),
            ("unix:/run/x", UNROUTABLE),
        ];
        for (address, expected) in cases {
            let address: Service = address.parse().unwrap();
            assert_eq!(name(address.addr()), expected, "{address}");
        }
    }
}
