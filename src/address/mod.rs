//! The addresses that a socket is bound to or connected to, and their text forms.
//!
//! This module owns [`NetAddr`], an address without a port (Bitcoin Core's `CNetAddr`), and
//! [`Service`], an address with a port (Core's `CService`). The module also owns the text forms of
//! addresses and their conversion to the kernel's form. Addresses are plain values, usable on every
//! thread. The module takes no lock, does no input or output, and never looks a name up.
//!
//! Every value is valid by construction: an onion address has the right checksum, a CJDNS address
//! lies in `fc00::/8`, and a unix-domain path fits `sockaddr_un`. The code that uses the values
//! (connect, bind, SOCKS5, SAM) therefore has nothing left to check. The text forms are listed at
//! [`Service`].

#[cfg(any(feature = "socks5", feature = "i2p"))]
mod base32;
mod destination;
mod error;
mod hidden;
#[cfg(feature = "i2p")]
mod i2p;
mod ipv6;
#[cfg(feature = "socks5")]
mod onion;
mod parse;
mod unix;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::Path;

use socket2::SockAddr;

pub use self::destination::Destination;
pub use self::error::{InvalidAddrError, ParseAddrError, ParseAddrErrorKind};
#[cfg(feature = "i2p")]
pub use self::i2p::I2pHash;
pub use self::ipv6::{CjdnsAddr, ScopedIpv6};
#[cfg(feature = "socks5")]
pub use self::onion::OnionV3;
#[cfg(feature = "socks5")]
pub(crate) use self::parse::MAX_NAME_BYTES;
pub use self::unix::UnixAddr;

/// An address with a port, to listen on or to connect to. Bitcoin Core's `CService`.
///
/// A unix-domain address has no port; [`port`](Service::port) returns 0 for a unix-domain address.
/// A clone never allocates.
///
/// # Text
///
/// | Network | [`NetAddr`] | [`Service`] |
/// |---|---|---|
/// | IPv4 | `1.2.3.4` | `1.2.3.4:8333` |
/// | IPv6 | `::1`, `fe80::1%2` | `[::1]:8333`, `[fe80::1%2]:8333` |
/// | CJDNS | `cjdns:fc00::1` | `cjdns:[fc00::1]:8333` |
/// | Tor v3 | `<56 characters>.onion` | `<56 characters>.onion:8333` |
/// | I2P | `<52 characters>.b32.i2p` | `<52 characters>.b32.i2p:0` |
/// | unix-domain path | `unix:/run/node.sock` | the same: there is no port |
/// | unix-domain abstract name (Linux) | `unix:@name` | the same |
/// | unix-domain, unnamed | `unix:` | the same |
///
/// Printing and parsing are exact inverses: every value prints to one text, and that text parses
/// back to an equal value. Parsing also accepts other common forms: upper case, brackets around a
/// bare IPv6 address, and an IPv6 address that is not shortened. A value parsed from such text
/// prints in the canonical form.
///
/// # Examples
///
/// ```
/// use sockman::{Service, address::Network};
///
/// let service: Service = "[::1]:8333".parse()?;
/// assert_eq!(service.addr().network(), Network::Ipv6);
/// assert_eq!(service.port(), 8333);
/// assert_eq!(service.with_port(0).to_string(), "[::1]:0");
///
/// let missing = "1.2.3.4".parse::<Service>().unwrap_err();
/// assert!(missing.to_string().contains("port is missing"));
/// # Ok::<(), sockman::error::ParseAddrError>(())
/// ```
#[doc(alias = "CService")]
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    addr: NetAddr,
    /// Invariant: 0 if `addr` is a unix-domain address, because its text has no place for a port.
    port: u16,
}

impl Service {
    /// The unnamed unix-domain address, which is the address of a client that did not bind.
    pub const UNIX_UNNAMED: Service = Service { addr: NetAddr::unix_unnamed(), port: 0 };

    /// Returns the address with this port. For a unix-domain address, `port` is ignored and the
    /// port is 0.
    pub fn new(addr: NetAddr, port: u16) -> Service {
        let port = if addr.is_unix() { 0 } else { port };
        Service { addr, port }
    }

    /// Returns the address of a unix-domain socket in the file system, as [`NetAddr::unix`] does.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`UnixAddr::from_path`]: the path is empty, is too long, or contains a
    /// NUL.
    pub fn unix(path: impl AsRef<Path>) -> Result<Service, InvalidAddrError> {
        Ok(Service::new(NetAddr::unix(path)?, 0))
    }

    /// Returns the address without the port.
    pub fn addr(&self) -> &NetAddr {
        &self.addr
    }

    /// Returns the port. The port of a unix-domain address is 0. In a bind, port 0 means "any free
    /// port".
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the same address with another port. A unix-domain address stays unchanged.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Service {
        Service::new(self.addr.clone(), port)
    }

    /// Returns the `std` form of an IPv4, IPv6 or CJDNS address (CJDNS as IPv6). Returns `None` for
    /// other addresses, which have no `std` form.
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        let port = self.port;
        match &self.addr {
            NetAddr::Ipv4(addr) => Some(SocketAddrV4::new(*addr, port).into()),
            NetAddr::Ipv6(addr) => {
                Some(SocketAddrV6::new(addr.ip(), port, 0, addr.scope_id()).into())
            }
            NetAddr::Cjdns(addr) => Some(SocketAddrV6::new(addr.ip(), port, 0, 0).into()),
            _ => None,
        }
    }

    /// Returns whether this is a link-local IPv6 address without a zone (RFC 4007), which most
    /// kernels cannot bind or dial.
    pub(crate) fn lacks_zone(&self) -> bool {
        match &self.addr {
            NetAddr::Ipv6(addr) => addr.scope_id() == 0 && addr.ip().is_unicast_link_local(),
            _ => false,
        }
    }

    /// Returns the form that `bind(2)` and `connect(2)` take.
    ///
    /// # Errors
    ///
    /// The function fails if no socket on this machine can have the address, which is one of the
    /// following:
    ///
    /// * an onion or I2P address, which only a proxy or an I2P router reaches;
    /// * the unnamed unix-domain address;
    /// * an abstract name, on a platform without abstract names;
    /// * a path that fills `sun_path` to the last byte.
    pub(crate) fn to_sock_addr(&self) -> Result<SockAddr, NoSockAddr> {
        match &self.addr {
            #[cfg(feature = "socks5")]
            NetAddr::TorV3(_) => Err(NoSockAddr("an onion address is reached through Tor only")),
            #[cfg(feature = "i2p")]
            NetAddr::I2p(_) => Err(NoSockAddr("an I2P address is reached through I2P only")),
            NetAddr::Unix(addr) => addr.to_sock_addr(),
            NetAddr::Ipv4(_) | NetAddr::Ipv6(_) | NetAddr::Cjdns(_) => self
                .to_socket_addr()
                .map(SockAddr::from)
                .ok_or(NoSockAddr("this network has no socket address")),
        }
    }

    /// Converts an address that `accept(2)`, `getsockname(2)` or `getpeername(2)` returned. Returns
    /// `None` if the address is of another family.
    ///
    /// An IPv4-mapped IPv6 address becomes IPv4, see [`NetAddr::ipv6`].
    pub(crate) fn from_sock_addr(from: &SockAddr) -> Option<Service> {
        if let Some(addr) = from.as_socket() {
            return Some(addr.into());
        }
        let addr = UnixAddr::from_sock_addr(from)?;
        Some(Service::new(NetAddr::Unix(addr), 0))
    }

    fn write_text(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let port = self.port;
        match &self.addr {
            NetAddr::Ipv4(addr) => write!(out, "{addr}:{port}"),
            NetAddr::Ipv6(addr) => write!(out, "[{addr}]:{port}"),
            NetAddr::Cjdns(addr) => write!(out, "{}[{}]:{port}", parse::CJDNS_PREFIX, addr.ip()),
            #[cfg(feature = "socks5")]
            NetAddr::TorV3(addr) => write!(out, "{addr}:{port}"),
            #[cfg(feature = "i2p")]
            NetAddr::I2p(addr) => write!(out, "{addr}:{port}"),
            NetAddr::Unix(addr) => write!(out, "{addr}"),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        pad(f, |out| self.write_text(out))
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service({self})")
    }
}

impl From<&Service> for Service {
    fn from(service: &Service) -> Service {
        service.clone()
    }
}

impl From<&SocketAddr> for Service {
    fn from(from: &SocketAddr) -> Service {
        (*from).into()
    }
}

impl From<SocketAddr> for Service {
    /// Converts the address. An IPv4-mapped IPv6 address becomes IPv4, see [`NetAddr::ipv6`].
    fn from(from: SocketAddr) -> Service {
        match from {
            SocketAddr::V4(addr) => addr.into(),
            SocketAddr::V6(addr) => addr.into(),
        }
    }
}

impl From<SocketAddrV4> for Service {
    fn from(from: SocketAddrV4) -> Service {
        Service::new(NetAddr::Ipv4(*from.ip()), from.port())
    }
}

impl From<SocketAddrV6> for Service {
    /// Converts the address. Keeps the scope and drops the flow label. An IPv4-mapped IPv6 address
    /// becomes IPv4, see [`NetAddr::ipv6`].
    fn from(from: SocketAddrV6) -> Service {
        Service::new(NetAddr::ipv6(*from.ip(), from.scope_id()), from.port())
    }
}

/// An address without a port, on one of the networks that a node uses. Bitcoin Core's name for the
/// type is `CNetAddr`, which has no unix-domain sockets.
///
/// Onion, I2P and unix-domain addresses are shared behind a pointer, so that the addresses of a
/// connection stay small. A clone never allocates.
///
/// # Examples
///
/// ```
/// use sockman::address::NetAddr;
///
/// # #[cfg(feature = "socks5")] {
/// let addr: NetAddr = "PG6MMJIYJMCRSSLVYKFWNNTLARU7P5SVN6Y2YMMJU6NUBXNDF4PSCRYD.onion".parse()?;
/// assert_eq!(
///     addr.to_string(),
///     "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion"
/// );
/// if let NetAddr::TorV3(onion) = &addr {
///     assert_eq!(onion.public_key()[0], 0x79);
/// }
/// # }
/// assert!("127.0.0.1".parse::<NetAddr>()?.is_loopback());
/// # Ok::<(), sockman::error::ParseAddrError>(())
/// ```
#[doc(alias = "CNetAddr")]
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NetAddr {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address with its scope, which is never IPv4-mapped. Made by [`NetAddr::ipv6`].
    Ipv6(ScopedIpv6),
    /// A CJDNS address: an IPv6 address in `fc00::/8` that the program knows to belong to CJDNS.
    /// Made by [`NetAddr::cjdns`].
    Cjdns(CjdnsAddr),
    /// A version 3 onion service. Made by [`NetAddr::tor_v3`]. Feature `socks5`.
    #[cfg(feature = "socks5")]
    TorV3(OnionV3),
    /// An I2P destination, identified by its hash. Made by [`NetAddr::i2p`]. Feature `i2p`.
    #[cfg(feature = "i2p")]
    I2p(I2pHash),
    /// A unix-domain socket: a path, an abstract name, or unnamed. [`NetAddr::unix`],
    /// [`NetAddr::unix_abstract`] and [`NetAddr::unix_unnamed`] make these values.
    Unix(UnixAddr),
}

impl NetAddr {
    /// Returns an IPv6 address. `scope_id` is the interface index for a link-local address, and 0
    /// for all others.
    ///
    /// An IPv4-mapped address (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2) becomes the IPv4 address
    /// inside it, as in Bitcoin Core. A dual-stack listener reports its IPv4 peers as IPv4-mapped
    /// addresses, and one peer must not have two addresses.
    pub fn ipv6(addr: Ipv6Addr, scope_id: u32) -> NetAddr {
        match addr.to_ipv4_mapped() {
            Some(mapped) => NetAddr::Ipv4(mapped),
            None => NetAddr::Ipv6(ScopedIpv6::new(addr, scope_id)),
        }
    }

    /// Returns a CJDNS address. Whether `fc00::/8` means CJDNS or a private IPv6 network depends on
    /// the host. Therefore only this function, [`CjdnsAddr::new`] and the text `cjdns:` make a
    /// CJDNS address.
    ///
    /// # Errors
    ///
    /// [`InvalidAddrError::NotCjdns`] if the address is outside `fc00::/8`.
    pub fn cjdns(addr: Ipv6Addr) -> Result<NetAddr, InvalidAddrError> {
        Ok(NetAddr::Cjdns(CjdnsAddr::new(addr)?))
    }

    /// Returns the onion service with this ed25519 master public key (the address of network
    /// `TORV3` in BIP 155).
    #[cfg(feature = "socks5")]
    pub fn tor_v3(public_key: [u8; 32]) -> NetAddr {
        NetAddr::TorV3(OnionV3::from_public_key(public_key))
    }

    /// Returns the I2P destination with this SHA-256 hash (the address of network `I2P` in BIP
    /// 155).
    #[cfg(feature = "i2p")]
    pub fn i2p(hash: [u8; 32]) -> NetAddr {
        NetAddr::I2p(I2pHash::new(hash))
    }

    /// Returns the address of a unix-domain socket in the file system.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`UnixAddr::from_path`]: the path is empty, is too long, or contains a
    /// NUL.
    pub fn unix(path: impl AsRef<Path>) -> Result<NetAddr, InvalidAddrError> {
        Ok(NetAddr::Unix(UnixAddr::from_path(path)?))
    }

    /// Returns the address of a unix-domain socket with an abstract name (a Linux extension).
    ///
    /// # Errors
    ///
    /// Returns the error of [`UnixAddr::from_abstract_name`]: the name is too long.
    pub fn unix_abstract(name: impl AsRef<[u8]>) -> Result<NetAddr, InvalidAddrError> {
        Ok(NetAddr::Unix(UnixAddr::from_abstract_name(name)?))
    }

    /// Returns the unnamed unix-domain address, which is the address of a client that did not bind.
    pub const fn unix_unnamed() -> NetAddr {
        NetAddr::Unix(UnixAddr::unnamed())
    }

    /// Returns the network that this address belongs to.
    pub fn network(&self) -> Network {
        match self {
            NetAddr::Ipv4(_) => Network::Ipv4,
            NetAddr::Ipv6(_) => Network::Ipv6,
            NetAddr::Cjdns(_) => Network::Cjdns,
            #[cfg(feature = "socks5")]
            NetAddr::TorV3(_) => Network::Onion,
            #[cfg(feature = "i2p")]
            NetAddr::I2p(_) => Network::I2p,
            NetAddr::Unix(_) => Network::Unix,
        }
    }

    /// Returns the `std` form of an IPv4, IPv6 or CJDNS address (CJDNS as IPv6), without the scope.
    /// Returns `None` for other addresses.
    pub fn to_ip_addr(&self) -> Option<IpAddr> {
        match self {
            NetAddr::Ipv4(addr) => Some(IpAddr::V4(*addr)),
            NetAddr::Ipv6(addr) => Some(IpAddr::V6(addr.ip())),
            NetAddr::Cjdns(addr) => Some(IpAddr::V6(addr.ip())),
            _ => None,
        }
    }

    /// Returns whether the address is in `127.0.0.0/8` or is `::1`. Returns `false` for a
    /// unix-domain address, although that address is also local: see [`is_unix`](NetAddr::is_unix).
    pub fn is_loopback(&self) -> bool {
        self.to_ip_addr().is_some_and(|addr| addr.is_loopback())
    }

    /// Returns whether the address is the wildcard `0.0.0.0` or `::`, which stands for every local
    /// address when listening.
    pub fn is_unspecified(&self) -> bool {
        self.to_ip_addr().is_some_and(|addr| addr.is_unspecified())
    }

    /// Returns whether the address is a unix-domain address, the unnamed one included.
    pub fn is_unix(&self) -> bool {
        matches!(self, NetAddr::Unix(_))
    }

    fn write_text(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            NetAddr::Ipv4(addr) => write!(out, "{addr}"),
            NetAddr::Ipv6(addr) => write!(out, "{addr}"),
            NetAddr::Cjdns(addr) => write!(out, "{addr}"),
            #[cfg(feature = "socks5")]
            NetAddr::TorV3(addr) => write!(out, "{addr}"),
            #[cfg(feature = "i2p")]
            NetAddr::I2p(addr) => write!(out, "{addr}"),
            NetAddr::Unix(addr) => write!(out, "{addr}"),
        }
    }
}

impl fmt::Display for NetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        pad(f, |out| self.write_text(out))
    }
}

impl fmt::Debug for NetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetAddr({self})")
    }
}

impl From<IpAddr> for NetAddr {
    /// Converts the address. An IPv4-mapped IPv6 address becomes IPv4, see [`NetAddr::ipv6`].
    fn from(from: IpAddr) -> NetAddr {
        match from {
            IpAddr::V4(addr) => addr.into(),
            IpAddr::V6(addr) => addr.into(),
        }
    }
}

impl From<Ipv4Addr> for NetAddr {
    fn from(from: Ipv4Addr) -> NetAddr {
        NetAddr::Ipv4(from)
    }
}

impl From<Ipv6Addr> for NetAddr {
    /// Converts the address, with scope 0. An IPv4-mapped IPv6 address becomes IPv4, see
    /// [`NetAddr::ipv6`].
    fn from(from: Ipv6Addr) -> NetAddr {
        NetAddr::ipv6(from, 0)
    }
}

/// The network of an address. The names are those of Bitcoin Core (`-onlynet`, `getpeerinfo`).
///
/// # Examples
///
/// ```
/// use sockman::address::Network;
///
/// assert_eq!(Network::Onion.to_string(), "onion");
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// `ipv4`
    Ipv4,
    /// `ipv6`
    Ipv6,
    /// `cjdns`
    Cjdns,
    /// `onion`: Tor, version 3 addresses
    Onion,
    /// `i2p`
    I2p,
    /// `unix`: this machine, over unix-domain sockets
    Unix,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Network::Ipv4 => "ipv4",
            Network::Ipv6 => "ipv6",
            Network::Cjdns => "cjdns",
            Network::Onion => "onion",
            Network::I2p => "i2p",
            Network::Unix => "unix",
        })
    }
}

/// The reason why an address cannot be passed to the kernel. The reason does not name the address
/// or the operation, because the caller knows both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoSockAddr(&'static str);

impl fmt::Display for NoSockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for NoSockAddr {}

impl From<NoSockAddr> for io::Error {
    fn from(from: NoSockAddr) -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, from)
    }
}

/// Writes the text. The text needs a `String` only if the format has a width or a precision, as
/// `{:>20}` has.
fn pad(
    f: &mut fmt::Formatter<'_>,
    write_text: impl Fn(&mut dyn fmt::Write) -> fmt::Result,
) -> fmt::Result {
    if f.width().is_none() && f.precision().is_none() {
        return write_text(f);
    }
    let mut text = String::new();
    write_text(&mut text)?;
    f.pad(&text)
}
