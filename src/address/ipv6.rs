//! The two kinds of address that are sixteen bytes: IPv6 with its scope, and CJDNS.

use std::fmt;
use std::net::Ipv6Addr;

use super::error::InvalidAddrError;
use super::parse::CJDNS_PREFIX;

/// An IPv6 address and the scope that it is meant in (RFC 4007), never IPv4-mapped. Made by
/// [`NetAddr::ipv6`](crate::address::NetAddr::ipv6), which turns the mapped ones into IPv4.
///
/// Printed as `fe80::1%2`; a scope of 0 is not printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopedIpv6 {
    /// Invariant: not in `::ffff:0:0/96`.
    addr: Ipv6Addr,
    scope_id: u32,
}

impl ScopedIpv6 {
    /// The caller has made sure that `addr` is not IPv4-mapped.
    pub(super) fn new(addr: Ipv6Addr, scope_id: u32) -> ScopedIpv6 {
        debug_assert!(addr.to_ipv4_mapped().is_none());
        ScopedIpv6 { addr, scope_id }
    }

    /// The address without the scope.
    pub fn ip(&self) -> Ipv6Addr {
        self.addr
    }

    /// The index of the interface that a link-local address belongs to; 0 for all others.
    pub fn scope_id(&self) -> u32 {
        self.scope_id
    }
}

impl fmt::Display for ScopedIpv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope_id {
            0 => write!(f, "{}", self.addr),
            scope_id => write!(f, "{}%{scope_id}", self.addr),
        }
    }
}

impl fmt::Debug for ScopedIpv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopedIpv6({self})")
    }
}

/// A [CJDNS](https://github.com/cjdelisle/cjdns) address: IPv6 in `fc00::/8`.
///
/// Printed as `cjdns:fc00::1`, so that it is told from the same sixteen bytes as plain IPv6 (a
/// unique local address, RFC 4193).
///
/// # Examples
///
/// ```
/// use sockman::address::CjdnsAddr;
///
/// let addr = CjdnsAddr::new("fc00:1:2:3:4:5:6:7".parse()?)?;
/// assert_eq!(addr.to_string(), "cjdns:fc00:1:2:3:4:5:6:7");
/// assert!(CjdnsAddr::new("fd00::1".parse()?).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CjdnsAddr {
    /// Invariant: the first byte is [`CjdnsAddr::PREFIX`].
    addr: Ipv6Addr,
}

impl CjdnsAddr {
    /// The first byte of all addresses of that network, BIP 155.
    const PREFIX: u8 = 0xfc;

    /// Takes an address of that network.
    ///
    /// # Errors
    ///
    /// [`InvalidAddrError::NotCjdns`]: the address is outside `fc00::/8`.
    pub fn new(addr: Ipv6Addr) -> Result<CjdnsAddr, InvalidAddrError> {
        if addr.octets()[0] != CjdnsAddr::PREFIX {
            return Err(InvalidAddrError::NotCjdns { addr });
        }
        Ok(CjdnsAddr { addr })
    }

    /// The same address as plain IPv6: what the kernel routes into the CJDNS interface.
    pub fn ip(&self) -> Ipv6Addr {
        self.addr
    }
}

impl fmt::Display for CjdnsAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CJDNS_PREFIX}{}", self.addr)
    }
}

impl fmt::Debug for CjdnsAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CjdnsAddr({self})")
    }
}
