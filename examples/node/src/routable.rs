//! Which addresses nodes elsewhere can dial. Plain functions, on any thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sockman::address::NetAddr;

/// Returns whether nodes elsewhere can dial the address. Corresponds to Bitcoin Core's
/// `IsRoutable`, and also leaves out multicast and reserved addresses.
pub fn is_routable(addr: &NetAddr) -> bool {
    match addr {
        NetAddr::TorV3(_) | NetAddr::I2p(_) | NetAddr::Cjdns(_) => true,
        _ => match addr.to_ip_addr().map(|ip| ip.to_canonical()) {
            Some(IpAddr::V4(ip)) => is_routable_v4(ip),
            Some(IpAddr::V6(ip)) => is_routable_v6(ip),
            None => false,
        },
    }
}

fn is_routable_v4(ip: Ipv4Addr) -> bool {
    let reserved = match ip.octets() {
        // "This network"; multicast, future use and broadcast.
        [0 | 224.., ..] => true,
        // The networks of providers (RFC 6598), of protocols (RFC 6890), and of benchmarks (RFC
        // 2544).
        [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => true,
        _ => false,
    };
    let local = ip.is_loopback() || ip.is_private() || ip.is_link_local();
    !(reserved || local || ip.is_documentation())
}

fn is_routable_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b) {
        // Unspecified, loopback, and the old form of IPv4 addresses.
        (0, 0) if (c, d, e, f) == (0, 0, 0, 0) => false,
        // Discarded (RFC 6666).
        (0x0100, 0) if (c, d) == (0, 0) => false,
        // ORCHID (RFC 4843, RFC 7343), and documentation (RFC 3849, RFC 9637).
        (0x2001, 0x0010..=0x002f | 0x0db8) | (0x3fff, 0..=0x0fff) => false,
        // Unique local addresses, link-local and site-local ones, and multicast.
        (0xfc00..=0xfdff | 0xfe80..=0xfeff | 0xff00.., _) => false,
        // Translated IPv4 addresses (RFC 6052, RFC 3964).
        (0x0064, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => is_routable_v4(v4(g, h)),
        (0x2002, high) => is_routable_v4(v4(high, c)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_nodes_elsewhere_can_dial_are_routable() {
        let unroutable = "0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 127.255.1.2 \
                          169.254.1.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.168.1.1 \
                          198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 \
                          255.255.255.255 :: ::1 ::8.8.8.8 ::ffff:127.0.0.1 100::1 2001:10::1 \
                          2001:2f::1 2001:db8::1 3fff::1 fc00::1 fd00::1 fe80::1 fec0::1 ff02::1 \
                          64:ff9b::10.0.0.1 2002:7f00:1::";
        for ip in unroutable.split_whitespace() {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(!is_routable(&NetAddr::from(ip)), "{ip}");
        }
        let routable = "1.1.1.1 8.8.8.8 100.63.0.1 100.128.0.1 172.32.0.1 192.0.1.1 198.20.0.1 \
                        223.255.255.255 ::ffff:8.8.8.8 2001:4860::1 2001:30::1 2600::1 \
                        64:ff9b::8.8.8.8 2002:808:808::";
        for ip in routable.split_whitespace() {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(is_routable(&NetAddr::from(ip)), "{ip}");
        }
        assert!(is_routable(&NetAddr::i2p([7; 32])) && is_routable(&NetAddr::tor_v3([7; 32])));
        assert!(is_routable(&NetAddr::cjdns("fc00::1".parse().unwrap()).unwrap()));
        assert!(!is_routable(&NetAddr::unix("/run/x").unwrap()));
    }
}
