//! The two kinds of address that have sixteen bytes are IPv6 with its scope, and CJDNS. Plain
//! values, usable on any thread, without a lock.

use std::fmt;
use std::net::Ipv6Addr;

use super::error::InvalidAddrError;
use super::parse::CJDNS_PREFIX;

/// An IPv6 address with its scope (RFC 4007), which is never IPv4-mapped.
/// [`NetAddr::ipv6`](crate::address::NetAddr::ipv6) makes these values, and turns IPv4-mapped
/// addresses into IPv4.
///
/// Printed as `fe80::1%2`. A scope of 0 is not printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopedIpv6 {
    /// Invariant: the address is not in `::ffff:0:0/96`.
    addr: Ipv6Addr,
    scope_id: u32,
}

impl ScopedIpv6 {
    /// Returns the address. The caller has checked that `addr` is not IPv4-mapped.
    pub(super) fn new(addr: Ipv6Addr, scope_id: u32) -> ScopedIpv6 {
        debug_assert!(addr.to_ipv4_mapped().is_none());
        ScopedIpv6 { addr, scope_id }
    }

    /// Returns the address without the scope.
    pub fn ip(&self) -> Ipv6Addr {
        self.addr
    }

    /// Returns the index of the interface that a link-local address belongs to. Returns 0 for
    /// addresses that are not link-local.
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
/// Printed as `cjdns:fc00::1`. The prefix distinguishes it from plain IPv6 with the same sixteen
/// bytes (a unique local address, RFC 4193).
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
    /// The first byte of all CJDNS addresses (BIP 155).
    const PREFIX: u8 = 0xfc;

    /// Returns the CJDNS address with these bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidAddrError::NotCjdns`] if the address is outside `fc00::/8`.
    pub fn new(addr: Ipv6Addr) -> Result<CjdnsAddr, InvalidAddrError> {
        if addr.octets()[0] != CjdnsAddr::PREFIX {
            return Err(InvalidAddrError::NotCjdns { addr });
        }
        Ok(CjdnsAddr { addr })
    }

    /// Returns the same address as plain IPv6. The kernel routes it into the CJDNS interface.
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
