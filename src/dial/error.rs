//! Why a connect failed, and which party is at fault. (`fault` has the meaning of each `errno`.)
//!
//! The errors are plain values, usable on any thread, without a lock. Every message names the
//! destination first. A message says what went wrong and what to do. A message does not repeat the
//! source, which `{:#}` appends.

use std::{convert::Infallible, error::Error, fmt, io, net::SocketAddr, time::Duration};

#[cfg(feature = "i2p")]
use super::i2p::{KeyFileError, SamError, SamResult};
#[cfg(feature = "socks5")]
use super::socks5::{ProxyError, Socks5Reply};
use super::{ConnectFault, ZONE_HINT, fault};
use crate::{
    address::{Destination, ParseAddrError, Service},
    sys::{errors, sources::write_sources},
};

/// The error returned by [`SockMan::connect`](crate::SockMan::connect) and
/// [`SockMan::start_connect`](crate::SockMan::start_connect), and reported by
/// [`event_connect_completed`](crate::EventHandler::event_connect_completed). After one of the two
/// methods returned it, no callback names an id of that connect.
///
/// [`fault`](ConnectError::fault) returns which party is at fault, and thus what to try next.
/// [`kind`](ConnectError::kind) returns the reason. The error converts into an [`io::Error`] of
/// the nearest kind. The message names the destination; `{:#}` appends the messages of the sources.
///
/// # Examples
///
/// ```
/// # fn f(sockman: sockman::SockMan) {
/// use sockman::{ConnectOptions, error::ConnectFault};
///
/// if let Err(error) = sockman.connect("192.0.2.1:8333", &ConnectOptions::default()) {
///     eprintln!("{error:#}");
///     match error.fault() {
///         ConnectFault::Destination => println!("try another address, and this one later"),
///         ConnectFault::Host => println!("try any address later"),
///         ConnectFault::Proxy => println!("check the proxy"),
///         _ => println!("do not try this address again"),
///     }
/// }
/// # }
/// ```
pub struct ConnectError {
    inner: Box<Inner>,
}

struct Inner {
    to: Option<Destination>,
    kind: ConnectErrorKind,
}

/// Why a connect failed. Returned by [`ConnectError::kind`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The destination requires a proxy or a SAM bridge, and none is set. A host name and an onion
    /// address require a SOCKS5 proxy (feature `socks5`). An I2P address requires a SAM bridge, or
    /// a SOCKS5 proxy that reaches I2P. The library never resolves names.
    NeedsProxy,
    /// [`Options::max_connections`](crate::Options::max_connections) is reached.
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// [`SockMan::connect`](crate::SockMan::connect) was called from a callback and would have
    /// blocked the socket thread. Callbacks can call
    /// [`SockMan::start_connect`](crate::SockMan::start_connect).
    OnSocketThread,
    /// The connect did not complete within
    /// [`ConnectOptions::timeout`](crate::ConnectOptions::timeout).
    TimedOut {
        /// The proxy or SAM bridge, if the connect went through one.
        proxy: Option<Service>,
        /// What the connect was waiting for.
        phase: ConnectPhase,
        /// How long the connect took until it timed out.
        after: Duration,
    },
    /// An interrupt was set: the `SockMan`'s own, the shared one, or the connect's own. An
    /// interrupt of the `SockMan` does not end a connect that `start_connect` began. Such an
    /// interrupt only prevents a new connect from beginning.
    Interrupted,
    /// The destination refused the connection: probably no program listens there.
    Refused {
        /// The error of the operating system.
        source: io::Error,
    },
    /// There is no way to the destination: no route, the network or the host is unreachable, or
    /// the kernel gave up before the deadline because no answer came.
    Unreachable {
        /// The error of the operating system.
        source: io::Error,
    },
    /// This host has no address or no free port from which to reach the destination
    /// (`EADDRNOTAVAIL`). For an IPv6 destination, IPv6 is probably off. Otherwise, connections to
    /// the same address probably use every port of the ephemeral range.
    AddressNotAvailable {
        /// The error of the operating system.
        source: io::Error,
    },
    /// This host does not support the family of the destination, such as IPv6 (`EAFNOSUPPORT`).
    FamilyNotSupported {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The destination is a link-local IPv6 address without a zone. The zone is the index of the
    /// interface to use, as in `[fe80::1%2]:8333`.
    NeedsZone {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The process may not connect to the destination (`EACCES`, `EPERM`): a firewall rule of this
    /// host, a broadcast address, or the permissions of a unix-domain path forbid the connect.
    PermissionDenied {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The network interface of this host is down (`ENETDOWN`).
    NetworkDown {
        /// The error of the operating system.
        source: io::Error,
    },
    /// The unix-domain address cannot be dialled. The address is unnamed, is an abstract name on a
    /// platform without abstract names, or is a path that leaves no room for its terminator. The
    /// address also cannot be dialled through a proxy, because the path would name a socket on the
    /// proxy's machine.
    InvalidDestination,
    /// The text given as the destination is neither an address nor a host name with a port.
    InvalidText(ParseAddrError),
    /// All attempts of a connect to several addresses
    /// ([`ConnectOptions::alternatives`](crate::ConnectOptions::alternatives)) have failed. Each
    /// error names its address. An attempt that had not begun at the deadline has no error. The
    /// fault of the whole is [`Host`](ConnectFault::Host) if an attempt has this fault, else
    /// [`Proxy`](ConnectFault::Proxy), else [`Destination`](ConnectFault::Destination), else
    /// [`Caller`](ConnectFault::Caller).
    AllFailed {
        /// The errors, in the order of the addresses.
        errors: Vec<ConnectError>,
    },
    /// An option of [`ConnectOptions::socket_options`](crate::ConnectOptions::socket_options) could
    /// not be set. The source is [`io::ErrorKind::InvalidInput`] if the value is out of its range,
    /// and [`io::ErrorKind::Unsupported`] if the system does not have the option.
    SocketOption {
        /// The name of the option, such as `TCP_USER_TIMEOUT`, or `SocketOptions::custom`.
        option: &'static str,
        /// The error of the operating system, of the range, or of the function.
        source: io::Error,
    },
    /// The source address of [`ConnectOptions::bind`](crate::ConnectOptions::bind) could not be
    /// bound: the address is not an address of this machine, the port is in use, or the destination
    /// has another family.
    SourceAddress {
        /// The source address.
        from: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A SOCKS5 proxy cannot be asked for the host name. The name is empty, is longer than 255
    /// bytes, or contains a NUL byte. Many proxies cut a name off at a NUL byte.
    InvalidName,
    /// The proxy is at fault. The proxy was not asked for the destination, or gave no valid reply.
    #[cfg(feature = "socks5")]
    ProxyFailed {
        /// The proxy.
        proxy: Service,
        /// The fault.
        error: ProxyError,
    },
    /// The proxy works and could not connect to the destination.
    #[cfg(feature = "socks5")]
    ProxyReplied {
        /// The proxy.
        proxy: Service,
        /// The reply of the proxy.
        reply: Socks5Reply,
    },
    /// The I2P address has a port other than 0. SAM 3.1 has no ports.
    #[cfg(feature = "i2p")]
    I2pPort,
    /// The SAM bridge or the I2P router behind it is at fault. The router did not ask the peer for
    /// a connection.
    #[cfg(feature = "i2p")]
    SamFailed {
        /// The bridge.
        sam: Service,
        /// The fault.
        error: SamError,
    },
    /// The I2P router works and could not connect to the peer.
    #[cfg(feature = "i2p")]
    I2pPeer {
        /// The bridge.
        sam: Service,
        /// The router's result.
        result: SamResult,
    },
    /// The file with the private key of the I2P session cannot be used.
    #[cfg(feature = "i2p")]
    I2pKeyFile {
        /// The fault.
        error: KeyFileError,
    },
    /// The system call named `step` failed for a reason that no other kind names.
    Os {
        /// The system call that failed: `socket`, `connect`, …
        step: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

use ConnectErrorKind as Kind;

impl ConnectError {
    /// Returns why the connect failed. [`ConnectError`] has an example.
    #[must_use]
    pub fn kind(&self) -> &ConnectErrorKind {
        &self.inner.kind
    }

    /// Returns why the connect failed, by value.
    #[must_use]
    pub fn into_kind(self) -> ConnectErrorKind {
        self.inner.kind
    }

    /// Returns the destination, or `None` if its text could not be parsed.
    #[must_use]
    pub fn to(&self) -> Option<&Destination> {
        self.inner.to.as_ref()
    }

    /// Returns which party is at fault: the destination, this host for now, the proxy, or the
    /// call. A program that dials many addresses decides by this value whether it tries the next
    /// address, waits, or stops. [`ConnectError`] has an example.
    #[must_use]
    pub fn fault(&self) -> ConnectFault {
        match self.kind() {
            Kind::Refused { .. }
            | Kind::Unreachable { .. }
            | Kind::AddressNotAvailable { .. }
            | Kind::FamilyNotSupported { .. }
            | Kind::PermissionDenied { .. } => ConnectFault::Destination,
            Kind::Os { step, source } => fault::of_system_call(step, source),
            Kind::AllFailed { errors } => {
                let faults = || errors.iter().map(ConnectError::fault);
                let of_all = [ConnectFault::Host, ConnectFault::Proxy, ConnectFault::Destination];
                let first = of_all.into_iter().find(|fault| faults().any(|f| f == *fault));
                first.unwrap_or(ConnectFault::Caller)
            }
            Kind::SocketOption { source, .. } | Kind::SourceAddress { source, .. } => {
                fault::of_socket_option(source)
            }
            Kind::NetworkDown { .. } | Kind::TooManyConnections { .. } => ConnectFault::Host,
            Kind::TimedOut { phase, .. } => match phase {
                ConnectPhase::ReachProxy
                | ConnectPhase::NegotiateWithProxy
                | ConnectPhase::I2pSession => ConnectFault::Proxy,
                ConnectPhase::Connect | ConnectPhase::ProxyConnect | ConnectPhase::I2pConnect => {
                    ConnectFault::Destination
                }
            },
            Kind::NeedsProxy
            | Kind::NeedsZone { .. }
            | Kind::OnSocketThread
            | Kind::Interrupted
            | Kind::InvalidDestination
            | Kind::InvalidText(_)
            | Kind::InvalidName => ConnectFault::Caller,
            #[cfg(feature = "socks5")]
            Kind::ProxyFailed { .. } => ConnectFault::Proxy,
            #[cfg(feature = "socks5")]
            Kind::ProxyReplied { .. } => ConnectFault::Destination,
            #[cfg(feature = "i2p")]
            Kind::I2pPort => ConnectFault::Caller,
            #[cfg(feature = "i2p")]
            Kind::SamFailed { .. } => ConnectFault::Proxy,
            #[cfg(feature = "i2p")]
            Kind::I2pPeer { .. } => ConnectFault::Destination,
            #[cfg(feature = "i2p")]
            Kind::I2pKeyFile { .. } => ConnectFault::Host,
        }
    }

    /// Returns whether the proxy or the SAM bridge is at fault: it cannot be reached, breaks its
    /// protocol, refuses the credentials, or did not begin to connect to the destination in time.
    /// Connects to other destinations will fail through it, too. Core's `proxy_connection_failed`.
    ///
    /// The same as a [`fault`](ConnectError::fault) of [`ConnectFault::Proxy`].
    #[doc(alias = "proxy_connection_failed")]
    #[must_use]
    pub fn is_proxy_fault(&self) -> bool {
        self.fault() == ConnectFault::Proxy
    }

    pub(crate) fn new(to: &Destination, kind: ConnectErrorKind) -> ConnectError {
        ConnectError { inner: Box::new(Inner { to: Some(to.clone()), kind }) }
    }

    /// Returns the error for a system call other than `connect(2)` that failed on this machine. The
    /// argument `step` names the call.
    pub(crate) fn os(to: &Destination, step: &'static str, source: io::Error) -> ConnectError {
        let kind = if step == "socket" && fault::is_of_family(&source) {
            Kind::FamilyNotSupported { source }
        } else {
            Kind::Os { step, source }
        };
        ConnectError::new(to, kind)
    }

    /// Returns the error for a `connect(2)` to the destination that failed.
    pub(crate) fn of_connect(to: &Destination, source: io::Error) -> ConnectError {
        let kind = match (source.kind(), source.raw_os_error()) {
            _ if to.service().is_some_and(|to| fault::lacks_zone(to, &source)) => {
                Kind::NeedsZone { source }
            }
            _ if fault::is_of_family(&source) => Kind::FamilyNotSupported { source },
            (io::ErrorKind::ConnectionRefused, _) => Kind::Refused { source },
            (
                io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::TimedOut,
                _,
            )
            | (_, Some(errors::EHOSTDOWN)) => Kind::Unreachable { source },
            #[cfg(any(target_os = "linux", target_os = "android"))]
            (_, Some(errors::ENONET)) => Kind::Unreachable { source },
            (io::ErrorKind::AddrNotAvailable, _) => Kind::AddressNotAvailable { source },
            (io::ErrorKind::PermissionDenied, _) => Kind::PermissionDenied { source },
            (io::ErrorKind::NetworkDown, _) => Kind::NetworkDown { source },
            _ => Kind::Os { step: "connect", source },
        };
        ConnectError::new(to, kind)
    }

    /// Returns the nearest kind of [`io::Error`].
    fn io_kind(&self) -> io::ErrorKind {
        match self.kind() {
            Kind::TimedOut { .. } => io::ErrorKind::TimedOut,
            // The kind is never `Interrupted`, because by convention a caller repeats an
            // interrupted call at once.
            Kind::Interrupted => io::ErrorKind::ConnectionAborted,
            Kind::OnSocketThread => io::ErrorKind::Deadlock,
            Kind::AllFailed { errors } => {
                errors.first().map_or(io::ErrorKind::Other, ConnectError::io_kind)
            }
            Kind::Refused { source }
            | Kind::Unreachable { source }
            | Kind::AddressNotAvailable { source }
            | Kind::FamilyNotSupported { source }
            | Kind::NeedsZone { source }
            | Kind::PermissionDenied { source }
            | Kind::NetworkDown { source }
            | Kind::SocketOption { source, .. }
            | Kind::SourceAddress { source, .. }
            | Kind::Os { source, .. } => source.kind(),
            Kind::NeedsProxy
            | Kind::InvalidDestination
            | Kind::InvalidText(_)
            | Kind::InvalidName => io::ErrorKind::InvalidInput,
            #[cfg(feature = "i2p")]
            Kind::I2pPort => io::ErrorKind::InvalidInput,
            #[cfg(feature = "socks5")]
            Kind::ProxyReplied { reply, .. } => reply.io_kind(),
            _ => io::ErrorKind::Other,
        }
    }

    fn write_message(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nowhere = String::new();
        let to: &dyn fmt::Display = match self.to() {
            Some(to) => to,
            None => &nowhere,
        };
        match self.kind() {
            Kind::NeedsProxy => write!(f, "cannot connect to {to}: {}", requirement_of(self.to())),
            Kind::TooManyConnections { limit } => write!(
                f,
                "cannot connect to {to}: the limit of {limit} connections is reached; close one \
                 first, or raise Options::max_connections"
            ),
            Kind::OnSocketThread => write!(
                f,
                "cannot connect to {to} in a callback: connect would block the socket thread; call \
                 start_connect there, or connect on another thread"
            ),
            Kind::TimedOut { proxy, phase, after } => {
                write!(f, "cannot connect to {to}")?;
                match (proxy, phase) {
                    (Some(sam), ConnectPhase::I2pSession | ConnectPhase::I2pConnect) => {
                        write!(f, " through the SAM bridge {sam}")?;
                    }
                    (Some(proxy), _) => write!(f, " through the proxy {proxy}")?,
                    (None, _) => {}
                }
                write!(f, ": {phase} within {after:.1?}")
            }
            Kind::Interrupted => write!(f, "cannot connect to {to}: the connect was interrupted"),
            Kind::Refused { .. } => write!(
                f,
                "cannot connect to {to}: the connection was refused; check that a program listens \
                 there"
            ),
            Kind::Unreachable { .. } => write!(
                f,
                "cannot connect to {to}: the host or its network is unreachable; check the route \
                 to it"
            ),
            Kind::AddressNotAvailable { .. } => write!(
                f,
                "cannot connect to {to}: this host has no address or no free port to reach it from; \
                 check that its network is set up"
            ),
            Kind::FamilyNotSupported { .. } => write!(
                f,
                "cannot connect to {to}: this host does not support addresses of this family"
            ),
            Kind::NeedsZone { .. } => write!(f, "cannot connect to {to}: {ZONE_HINT}"),
            Kind::PermissionDenied { .. } => write!(
                f,
                "cannot connect to {to}: the process may not connect there; check the firewall of \
                 this host, or the permissions of the path"
            ),
            Kind::NetworkDown { .. } => {
                write!(f, "cannot connect to {to}: the network of this host is down")
            }
            Kind::InvalidDestination => write!(
                f,
                "cannot connect to {to}: a unix-domain address must have a name that this platform \
                 supports, and must be dialled without a proxy"
            ),
            Kind::AllFailed { errors } => {
                write!(f, "cannot connect to {to}, nor to its other addresses: ")?;
                for (n, error) in errors.iter().enumerate() {
                    f.write_str(if n == 0 { "" } else { "; " })?;
                    fmt::Display::fmt(error, f)?;
                }
                Ok(())
            }
            Kind::SocketOption { option, .. } => write!(
                f,
                "cannot connect to {to}: the socket option {option} cannot be set; change it in \
                 ConnectOptions::socket_options"
            ),
            Kind::SourceAddress { from, .. } => write!(
                f,
                "cannot connect to {to} from {from}: the source address must be a free address of \
                 this machine, of the destination's family; change it in ConnectOptions::bind"
            ),
            Kind::InvalidText(error) => write!(f, "cannot connect: {error}"),
            Kind::InvalidName => write!(
                f,
                "cannot connect to {to}: a host name must have 1 to 255 bytes, and no NUL byte"
            ),
            #[cfg(feature = "socks5")]
            Kind::ProxyFailed { proxy, .. } => {
                write!(f, "cannot connect to {to}: the proxy {proxy} failed")
            }
            #[cfg(feature = "socks5")]
            Kind::ProxyReplied { proxy, .. } => {
                write!(f, "cannot connect to {to}: the proxy {proxy} could not connect to it")
            }
            #[cfg(feature = "i2p")]
            Kind::I2pPort => write!(
                f,
                "cannot connect to {to}: an I2P address must have port 0, because SAM 3.1 has no \
                 ports"
            ),
            #[cfg(feature = "i2p")]
            Kind::SamFailed { sam, .. } => {
                write!(f, "cannot connect to {to}: the SAM bridge {sam} failed")
            }
            #[cfg(feature = "i2p")]
            Kind::I2pPeer { sam, result } => write!(
                f,
                "cannot connect to {to}: the I2P router at {sam} could not connect to it: {result}"
            ),
            #[cfg(feature = "i2p")]
            Kind::I2pKeyFile { .. } => {
                write!(f, "cannot connect to {to}: there is no usable I2P private key")
            }
            Kind::Os { step, .. } => write!(f, "cannot connect to {to}: {step} failed"),
        }
    }
}

/// Returns what a destination that cannot be dialled directly requires, for the message of
/// [`ConnectErrorKind::NeedsProxy`].
fn requirement_of(to: Option<&Destination>) -> &'static str {
    match to.and_then(Destination::service).map(Service::addr) {
        #[cfg(all(feature = "socks5", feature = "i2p"))]
        Some(crate::address::NetAddr::I2p(_)) => {
            "an I2P address requires a SAM bridge, or a SOCKS5 proxy that reaches I2P; set \
             Options::i2p or ConnectOptions::proxy"
        }
        #[cfg(all(feature = "i2p", not(feature = "socks5")))]
        Some(crate::address::NetAddr::I2p(_)) => {
            "an I2P address requires a SAM bridge; set Options::i2p"
        }
        #[cfg(feature = "socks5")]
        Some(crate::address::NetAddr::TorV3(_)) => {
            "an onion address requires a SOCKS5 proxy such as Tor; set ConnectOptions::proxy"
        }
        _ if cfg!(feature = "socks5") => {
            "a host name requires a SOCKS5 proxy, which resolves it; set ConnectOptions::proxy"
        }
        _ => {
            "a host name requires the feature `socks5` of sockman and a SOCKS5 proxy; connect to \
             an address"
        }
    }
}

impl From<ParseAddrError> for ConnectError {
    fn from(error: ParseAddrError) -> ConnectError {
        ConnectError { inner: Box::new(Inner { to: None, kind: Kind::InvalidText(error) }) }
    }
}

/// A destination that needs no conversion has this error type.
impl From<Infallible> for ConnectError {
    fn from(never: Infallible) -> ConnectError {
        match never {}
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> io::Error {
        io::Error::new(error.io_kind(), error)
    }
}

impl fmt::Debug for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectError")
            .field("to", &self.inner.to)
            .field("kind", &self.inner.kind)
            .finish()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_message(f)?;
        write_sources(f, self)
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.kind() {
            Kind::Refused { source }
            | Kind::Unreachable { source }
            | Kind::AddressNotAvailable { source }
            | Kind::FamilyNotSupported { source }
            | Kind::NeedsZone { source }
            | Kind::PermissionDenied { source }
            | Kind::NetworkDown { source }
            | Kind::SocketOption { source, .. }
            | Kind::SourceAddress { source, .. }
            | Kind::Os { source, .. } => Some(source),
            #[cfg(feature = "socks5")]
            Kind::ProxyFailed { error, .. } => Some(error),
            #[cfg(feature = "socks5")]
            Kind::ProxyReplied { reply, .. } => Some(reply),
            #[cfg(feature = "i2p")]
            Kind::SamFailed { error, .. } => Some(error),
            #[cfg(feature = "i2p")]
            Kind::I2pKeyFile { error } => Some(error),
            _ => None,
        }
    }
}

/// What a connect is waiting for. Part of [`ConnectErrorKind::TimedOut`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectPhase {
    /// The destination has to accept the connection. This phase occurs only without a proxy.
    Connect,
    /// The proxy has to accept the connection.
    ReachProxy,
    /// The proxy has to agree on a method and accept the credentials.
    NegotiateWithProxy,
    /// The proxy was asked for the destination and has to connect to it.
    ProxyConnect,
    /// The I2P router has to create a session, which takes up to half a minute.
    I2pSession,
    /// The I2P router has to connect to the peer.
    I2pConnect,
}

/// Prints what did not happen, such as "the destination did not answer".
impl fmt::Display for ConnectPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConnectPhase::Connect => "the destination did not answer",
            ConnectPhase::ReachProxy => "the proxy did not accept the connection",
            ConnectPhase::NegotiateWithProxy => "the proxy did not finish the SOCKS5 negotiation",
            ConnectPhase::ProxyConnect => "the proxy did not connect to the destination",
            ConnectPhase::I2pSession => "the I2P router did not create a session",
            ConnectPhase::I2pConnect => "the I2P router did not connect to the destination",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message of a time-out has the time in tenths, as a person reads it.
    #[test]
    fn the_message_of_a_time_out_rounds_the_time() {
        let to = SocketAddr::from(([192, 0, 2, 1], 9735)).into();
        let message = |after| {
            let kind = Kind::TimedOut { proxy: None, phase: ConnectPhase::Connect, after };
            ConnectError::new(&to, kind).to_string()
        };
        let expected = "cannot connect to 192.0.2.1:9735: the destination did not answer within";
        assert_eq!(message(Duration::from_micros(30_030_393)), format!("{expected} 30.0s"));
        assert_eq!(message(Duration::from_micros(250_049)), format!("{expected} 250.0ms"));
    }

    /// The message of `NeedsProxy` names only options that this build has.
    #[test]
    fn the_message_of_a_missing_proxy_fits_the_features() {
        let needs_proxy = |to: Destination, expected: &str| {
            let message = ConnectError::new(&to, Kind::NeedsProxy).to_string();
            assert_eq!(message, format!("cannot connect to {to}: {expected}"));
        };
        needs_proxy(
            Destination::Name { host: "name.test".to_owned(), port: 1 },
            if cfg!(feature = "socks5") {
                "a host name requires a SOCKS5 proxy, which resolves it; set ConnectOptions::proxy"
            } else {
                "a host name requires the feature `socks5` of sockman and a SOCKS5 proxy; connect \
                 to an address"
            },
        );
        #[cfg(feature = "socks5")]
        needs_proxy(
            Service::new(crate::address::NetAddr::tor_v3([1; 32]), 1).into(),
            "an onion address requires a SOCKS5 proxy such as Tor; set ConnectOptions::proxy",
        );
        #[cfg(feature = "i2p")]
        needs_proxy(
            Service::new(crate::address::NetAddr::i2p([1; 32]), 0).into(),
            if cfg!(feature = "socks5") {
                "an I2P address requires a SAM bridge, or a SOCKS5 proxy that reaches I2P; set \
                 Options::i2p or ConnectOptions::proxy"
            } else {
                "an I2P address requires a SAM bridge; set Options::i2p"
            },
        );
    }
}
