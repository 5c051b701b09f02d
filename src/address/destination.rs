//! The destination of a connect. [`Destination`] is a plain value, usable on any thread, without a
//! lock.

use std::{
    fmt,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
};

use super::{Service, hidden::is_hidden};

/// The destination of a connect: an address, or a host name and a port. The library never resolves
/// a host name. A SOCKS5 proxy resolves it.
///
/// # Examples
///
/// ```
/// use sockman::address::Destination;
///
/// let address: Destination = "[2001:db8::1]:8333".parse()?;
/// assert!(address.service().is_some());
///
/// let name: Destination = "node.example.org:8333".parse()?;
/// assert_eq!(name.service(), None);
/// assert!("node.example.org".parse::<Destination>().is_err(), "the port is missing");
/// # Ok::<(), sockman::error::ParseAddrError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// An address.
    Service(Service),
    /// A host name. Requires a proxy. Parsing makes no name of a text that ends in `onion` or `i2p`,
    /// in any spelling: the text is an address or an error (RFC 7686).
    #[doc(alias = "StringHostIntPort")]
    Name {
        /// The host name, as typed.
        host: String,
        /// The TCP port.
        port: u16,
    },
}

impl Destination {
    /// Returns the address, or `None` for a host name.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        match self {
            Destination::Service(service) => Some(service),
            Destination::Name { .. } => None,
        }
    }
}

/// Compares with an address. A host name is equal to no address.
impl PartialEq<Service> for Destination {
    fn eq(&self, other: &Service) -> bool {
        self.service() == Some(other)
    }
}

impl From<Service> for Destination {
    fn from(service: Service) -> Destination {
        Destination::Service(service)
    }
}

impl From<&Service> for Destination {
    fn from(service: &Service) -> Destination {
        Destination::Service(service.clone())
    }
}

impl From<&Destination> for Destination {
    fn from(destination: &Destination) -> Destination {
        destination.clone()
    }
}

impl From<SocketAddrV4> for Destination {
    fn from(address: SocketAddrV4) -> Destination {
        Destination::Service(address.into())
    }
}

impl From<SocketAddrV6> for Destination {
    fn from(address: SocketAddrV6) -> Destination {
        Destination::Service(address.into())
    }
}

impl From<&SocketAddr> for Destination {
    fn from(address: &SocketAddr) -> Destination {
        Destination::Service((*address).into())
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Destination {
        Destination::Service(address.into())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Service(service) => service.fmt(f),
            Destination::Name { host, port } => {
                for c in host.chars() {
                    if is_hidden(c) && !c.is_ascii() {
                        c.escape_unicode().fmt(f)?;
                    } else {
                        c.escape_debug().fmt(f)?;
                    }
                }
                write!(f, ":{port}")
            }
        }
    }
}
